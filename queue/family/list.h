/* What the lock-free linked lists of many threads share, whatever way they reclaim their nodes: a home of nodes for
 * each producer, credits that keep the bound, waiting and closing, and the loops around linking and unlinking one
 * node.
 *
 * The list itself, and when an unlinked node may go back to its home, are the member's: `link` puts one node at the
 * end, `unlink` takes one item out. Both are inlined into the loops.
 */
#ifndef ORDINAL_QUEUE_FAMILY_LIST_H
#define ORDINAL_QUEUE_FAMILY_LIST_H

#include "queue/family/blocking.h"
#include "queue/family/members.h"
#include "queue/family/nodes.h"

#include <stdlib.h>

struct list {
	unsigned producers;
	struct node_home *homes;    /* one for each producer */
	struct node_home stub_home; /* of the first stub */
	struct blocking blocking;
	struct credits credits;
};

typedef void list_link(struct family_queue *q, unsigned who, struct node *node, uint64_t item);
typedef bool list_unlink(struct family_queue *q, unsigned who, uint64_t *ret_item); /* false: empty */

static inline void list_done(struct list *l)
{
	for (unsigned i = 0; l->homes != NULL && i < l->producers; i++)
		node_home_done(&l->homes[i]);
	node_home_done(&l->stub_home);
	blocking_done(&l->blocking);
	free(l->homes);
}

/* 0, with the first stub, of node_size bytes as all nodes; or -ENOMEM, with nothing held. *l is zero-filled. */
static inline int list_init(struct list *l, const struct family_opts *opts, size_t node_size, struct node **ret_stub)
{
	struct node *stub = node_get(&l->stub_home, node_size);

	l->producers = opts->producers;
	l->credits.capacity = opts->capacity;
	l->homes = family_alloc(opts->producers * sizeof *l->homes);
	if (stub == NULL || l->homes == NULL || blocking_init(&l->blocking, opts->producers) != 0) {
		list_done(l);
		return -ENOMEM;
	}
	*ret_stub = stub;
	return 0;
}

/* A blocking_push. */
static inline __attribute__((always_inline)) int list_push(struct list *l, struct family_queue *q, unsigned who,
							   const uint64_t *items, unsigned n, size_t node_size,
							   list_link *put_one)
{
	unsigned credits = credits_take(&l->credits, n), put;

	if (credits == 0)
		return 0;
	for (put = 0; put < credits; put++) {
		struct node *node = node_get(&l->homes[who], node_size);

		if (node == NULL)
			break;
		put_one(q, who, node, items[put]);
	}
	if (put < credits)
		credits_give(&l->credits, credits - put);
	return put > 0 ? (int)put : -ENOMEM;
}

/* A blocking_pop. */
static inline __attribute__((always_inline)) int list_pop(struct list *l, struct family_queue *q, unsigned who,
							  uint64_t *items, unsigned n, list_unlink *take_one)
{
	unsigned got = 0;

	while (got < n && take_one(q, who, &items[got]))
		got++;
	if (got > 0)
		credits_give(&l->credits, got);
	return (int)got;
}

#endif
