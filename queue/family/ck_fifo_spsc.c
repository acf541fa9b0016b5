/* Concurrency Kit's ck_fifo_spsc: a linked list of one producer and one consumer, whose nodes go back to the producer
 * through the list itself (ck_fifo_spsc_recycle: every node that the consumer's head has passed is the producer's
 * again).
 *
 * The list has no bound; `in` and `out`, counters of the producer and the consumer, give it one. Nodes are made when
 * there is none to recycle, so there are never more than capacity + 1.
 *
 * Source: ck_fifo.h of Concurrency Kit 0.7.1; Vyukov, unbounded SPSC queue.
 */
#include "queue/family/blocking.h"
#include "queue/family/ck.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct ck_fifo_spsc_queue {
	struct family_queue base;
	uint32_t capacity;
	struct blocking blocking;
	_Alignas(CACHE_LINE) struct ck_fifo_spsc fifo;
	_Alignas(CACHE_LINE) atomic_uint in;  /* the producer's */
	_Alignas(CACHE_LINE) atomic_uint out; /* the consumer's */
};

static int ck_fifo_spsc_queue_init(const struct family_ops *ops, const struct family_opts *opts,
				   struct family_queue **ret)
{
	struct ck_fifo_spsc_queue *c = family_alloc(sizeof *c);
	struct ck_fifo_spsc_entry *stub = malloc(sizeof *stub);

	if (c == NULL || stub == NULL || blocking_init(&c->blocking, opts->producers) != 0) {
		free(stub);
		free(c);
		return -ENOMEM;
	}
	c->base.ops = ops;
	c->capacity = opts->capacity;
	ck_fifo_spsc_init(&c->fifo, stub);
	*ret = &c->base;
	return 0;
}

static void ck_fifo_spsc_queue_done(struct family_queue *q)
{
	struct ck_fifo_spsc_queue *c = container_of(q, struct ck_fifo_spsc_queue, base);
	struct ck_fifo_spsc_entry *entry;

	ck_fifo_spsc_deinit(&c->fifo, &entry); /* all nodes hang on the garbage list, the live ones at its end */
	while (entry != NULL) {
		struct ck_fifo_spsc_entry *next = entry->next;

		free(entry);
		entry = next;
	}
	blocking_done(&c->blocking);
	free(c);
}

static int ck_fifo_spsc_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct ck_fifo_spsc_queue *c = container_of(q, struct ck_fifo_spsc_queue, base);
	uint32_t in = atomic_load_explicit(&c->in, memory_order_relaxed);
	uint32_t room = c->capacity -
			(in - atomic_load_explicit(&c->out, memory_order_acquire)); /* pairs with ck_fifo_spsc_pop */
	unsigned put;

	for (put = 0; put < n && put < room; put++) {
		struct ck_fifo_spsc_entry *entry = ck_fifo_spsc_recycle(&c->fifo);

		if (entry == NULL)
			entry = malloc(sizeof *entry);
		if (entry == NULL)
			break;
		ck_fifo_spsc_enqueue(&c->fifo, entry, (void *)(uintptr_t)items[put]);
	}
	if (put == 0 && room > 0)
		return -ENOMEM;
	atomic_store_explicit(&c->in, in + put, memory_order_relaxed);
	return (int)put;
}

static int ck_fifo_spsc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct ck_fifo_spsc_queue *c = container_of(q, struct ck_fifo_spsc_queue, base);
	unsigned got = 0;
	void *item;

	for (; got < n && ck_fifo_spsc_dequeue(&c->fifo, &item); got++)
		items[got] = (uintptr_t)item;
	if (got > 0)
		atomic_fetch_add_explicit(&c->out, got, memory_order_release); /* pairs with ck_fifo_spsc_push */
	return (int)got;
}

static int ck_fifo_spsc_enqueue_items(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
				      bool wait)
{
	return blocking_enqueue(&container_of(q, struct ck_fifo_spsc_queue, base)->blocking, q, who, items, n, wait,
				ck_fifo_spsc_push);
}
static int ck_fifo_spsc_dequeue_items(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct ck_fifo_spsc_queue, base)->blocking, q, who, items, n, wait,
				ck_fifo_spsc_pop);
}
static void ck_fifo_spsc_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct ck_fifo_spsc_queue, base)->blocking);
}

const struct family_ops family_ck_fifo_spsc = {
	.name = "ck-fifo-spsc",
	.about = "Concurrency Kit's linked list of one producer and one consumer, nodes recycled",
	.producers_max = 1,
	.consumers_max = 1,
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_STOPS,
	.bounded = true,
	.init = ck_fifo_spsc_queue_init,
	.done = ck_fifo_spsc_queue_done,
	.enqueue = ck_fifo_spsc_enqueue_items,
	.dequeue = ck_fifo_spsc_dequeue_items,
	.close = ck_fifo_spsc_close,
};
