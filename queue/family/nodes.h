/* For queues that are linked lists of many threads: a bound, and nodes that find their way back to those who make
 * them.
 *
 * The bound is a counter of credits: a producer takes credits before it links, a consumer gives them back after it
 * has unlinked. One contended atomic on each side, the price of bounding a list.
 *
 * Nodes: each producer makes its own, in chunks, and takes back those that a reclaimer has pushed onto its return
 * stack. It takes the whole stack by one exchange, so there is no ABA. Nodes are freed all together, with the queue.
 */
#ifndef ORDINAL_QUEUE_FAMILY_NODES_H
#define ORDINAL_QUEUE_FAMILY_NODES_H

#include "core/base/check.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct credits {
	_Alignas(CACHE_LINE) atomic_uint used;
	uint32_t capacity;
};

/* Takes up to n; returns how many. */
static inline unsigned credits_take(struct credits *c, unsigned n)
{
	uint32_t used = atomic_load_explicit(&c->used, memory_order_relaxed);

	for (;;) {
		uint32_t room = c->capacity - used;
		unsigned k = n < room ? n : room;

		if (k == 0)
			return 0;
		if (atomic_compare_exchange_weak_explicit(&c->used, &used, used + k, memory_order_acquire,
							  memory_order_relaxed))
			return k;
	}
}
static inline void credits_give(struct credits *c, unsigned n)
{
	atomic_fetch_sub_explicit(&c->used, n, memory_order_release);
}

/* First member of each node. */
struct node {
	struct node *next;
	struct node_home *home;
};

struct node_chunk {
	struct node_chunk *next;
};

/* One for each producer. */
struct node_home {
	_Alignas(CACHE_LINE) struct node *free; /* the producer's alone */
	struct node_chunk *chunks;
	_Alignas(CACHE_LINE) _Atomic(struct node *) returned;
};

#define NODE_CHUNK 64

/* A node of `size` bytes (a multiple of 16, aligned to 16); NULL when memory is short. The home's producer. */
static inline struct node *node_get(struct node_home *h, size_t size)
{
	struct node *node;

	if (h->free == NULL)
		h->free = atomic_exchange_explicit(&h->returned, NULL, memory_order_acquire); /* pairs with node_put */
	if (h->free == NULL) {
		struct node_chunk *chunk = aligned_alloc(CACHE_LINE, CACHE_LINE + NODE_CHUNK * size);

		if (chunk == NULL)
			return NULL;
		chunk->next = h->chunks;
		h->chunks = chunk;
		for (unsigned i = 0; i < NODE_CHUNK; i++) {
			node = (struct node *)((char *)chunk + CACHE_LINE + i * size);
			node->home = h;
			node->next = h->free;
			h->free = node;
		}
	}
	node = h->free;
	h->free = node->next;
	return node;
}

/* Any thread: nobody can reach the node any more. */
static inline void node_put(struct node *node)
{
	struct node_home *h = node->home;
	struct node *first = atomic_load_explicit(&h->returned, memory_order_relaxed);

	do
		node->next = first;
	while (!atomic_compare_exchange_weak_explicit(&h->returned, &first, node, memory_order_release,
						      memory_order_relaxed));
}

static inline void node_home_done(struct node_home *h)
{
	while (h->chunks != NULL) {
		struct node_chunk *chunk = h->chunks;

		h->chunks = chunk->next;
		free(chunk);
	}
}

#endif
