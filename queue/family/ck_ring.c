/* Concurrency Kit's ck_ring: one producer and one consumer (ck-ring-spsc), and many of both (ck-ring-mpmc).
 *
 * With many producers ck_ring_enqueue_mpmc waits for its turn by spinning. So its steps are taken apart here, by
 * ck_ring's own reserve and commit, and the waits are those of ck.h.
 * Consumers copy first and claim by compare-and-swap afterwards: a suspended consumer harms nobody, a suspended
 * producer stops everybody.
 *
 * Source: ck_ring(3), ck_ring.h of Concurrency Kit 0.7.1.
 */
#include "queue/family/blocking.h"
#include "queue/family/ck.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct ck_ring_queue {
	struct family_queue base;
	struct ck_ring_buffer *slots;
	struct blocking blocking;
	_Alignas(CACHE_LINE) struct ck_ring ring;
};

static int ck_ring_queue_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct ck_ring_queue *c = family_alloc(sizeof *c);
	unsigned size = ck_ring_size_for(opts->capacity);

	if (c == NULL)
		return -ENOMEM;
	c->base.ops = ops;
	c->slots = family_alloc((size_t)size * sizeof *c->slots);
	if (c->slots == NULL || blocking_init(&c->blocking, opts->producers) != 0) {
		free(c->slots);
		free(c);
		return -ENOMEM;
	}
	ck_ring_init(&c->ring, size);
	*ret = &c->base;
	return 0;
}

static void ck_ring_queue_done(struct family_queue *q)
{
	struct ck_ring_queue *c = container_of(q, struct ck_ring_queue, base);

	blocking_done(&c->blocking);
	free(c->slots);
	free(c);
}

static void ck_ring_queue_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct ck_ring_queue, base)->blocking);
}

static int ck_ring_spsc_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct ck_ring_queue *c = container_of(q, struct ck_ring_queue, base);
	unsigned put = 0;

	while (put < n && ck_ring_enqueue_spsc(&c->ring, c->slots, (void *)(uintptr_t)items[put]))
		put++;
	return (int)put;
}
static int ck_ring_spsc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct ck_ring_queue *c = container_of(q, struct ck_ring_queue, base);
	unsigned got = 0;
	void *item;

	for (; got < n && ck_ring_dequeue_spsc(&c->ring, c->slots, &item); got++)
		items[got] = (uintptr_t)item;
	return (int)got;
}

static int ck_ring_mpmc_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct ck_ring_queue *c = container_of(q, struct ck_ring_queue, base);
	unsigned put;

	for (put = 0; put < n; put++) {
		unsigned ticket;
		uint64_t *slot;

		ck_ring_await_peers(&c->ring);
		slot = ck_ring_enqueue_reserve_mpmc(&c->ring, c->slots, &ticket);
		if (slot == NULL)
			break;
		*slot = items[put];
		ck_ring_await_turn(&c->ring, ticket);
		ck_ring_enqueue_commit_mpmc(&c->ring, ticket);
	}
	return (int)put;
}
static int ck_ring_mpmc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct ck_ring_queue *c = container_of(q, struct ck_ring_queue, base);
	unsigned got = 0;
	void *item;

	for (; got < n && ck_ring_dequeue_mpmc(&c->ring, c->slots, &item); got++)
		items[got] = (uintptr_t)item;
	return (int)got;
}

static int ck_ring_spsc_enqueue_items(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
				      bool wait)
{
	return blocking_enqueue(&container_of(q, struct ck_ring_queue, base)->blocking, q, who, items, n, wait,
				ck_ring_spsc_push);
}
static int ck_ring_spsc_dequeue_items(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct ck_ring_queue, base)->blocking, q, who, items, n, wait,
				ck_ring_spsc_pop);
}
static int ck_ring_mpmc_enqueue_items(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
				      bool wait)
{
	return blocking_enqueue(&container_of(q, struct ck_ring_queue, base)->blocking, q, who, items, n, wait,
				ck_ring_mpmc_push);
}
static int ck_ring_mpmc_dequeue_items(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct ck_ring_queue, base)->blocking, q, who, items, n, wait,
				ck_ring_mpmc_pop);
}

#define CK_RING_OPS                                                                                                    \
	.capacity_min = CK_RING_CAPACITY_MIN, .order = FAMILY_FIFO, .bounded = true, .init = ck_ring_queue_init,       \
	.done = ck_ring_queue_done, .close = ck_ring_queue_close

const struct family_ops family_ck_ring_spsc = {
	.name = "ck-ring-spsc",
	.about = "Concurrency Kit's ring, one producer and one consumer",
	.producers_max = 1,
	.consumers_max = 1,
	.peer = FAMILY_PEER_STOPS,
	.enqueue = ck_ring_spsc_enqueue_items,
	.dequeue = ck_ring_spsc_dequeue_items,
	CK_RING_OPS,
};
const struct family_ops family_ck_ring_mpmc = {
	.name = "ck-ring-mpmc",
	.about = "Concurrency Kit's ring, many producers and consumers",
	.peer = FAMILY_PEER_CONSUMER,
	.enqueue = ck_ring_mpmc_enqueue_items,
	.dequeue = ck_ring_mpmc_dequeue_items,
	CK_RING_OPS,
};
