/* Linux's kfifo: a ring of one producer and one consumer, each with an index of its own that only it writes and that
 * runs freely.
 *
 * Each side keeps a copy of the other's index and reads the real one only when the copy says full or empty, so in the
 * steady state the two share no cache line but the items'.
 *
 * Invariants: in - out <= capacity (as 32-bit differences); slots out … in-1 (modulo size, a power of two) are
 * inside. Storing `in` (release) publishes slots to the consumer, storing `out` (release) gives them back. Source:
 * Linux, lib/kfifo.c; Lamport, "Specifying concurrent program modules", 1983.
 */
#include "queue/family/blocking.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct kfifo_spsc {
	struct family_queue base;
	uint32_t capacity, mask;
	uint64_t *items;
	struct blocking blocking;
	_Alignas(CACHE_LINE) atomic_uint in; /* the producer's */
	uint32_t out_seen;
	_Alignas(CACHE_LINE) atomic_uint out; /* the consumer's */
	uint32_t in_seen;
};

static int kfifo_spsc_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct kfifo_spsc *k = family_alloc(sizeof *k);
	uint32_t size = family_pow2_up(opts->capacity);

	if (k == NULL)
		return -ENOMEM;
	k->base.ops = ops;
	k->capacity = opts->capacity;
	k->mask = size - 1;
	k->items = family_alloc((size_t)size * sizeof *k->items);
	if (k->items == NULL || blocking_init(&k->blocking, opts->producers) != 0) {
		free(k->items);
		free(k);
		return -ENOMEM;
	}
	*ret = &k->base;
	return 0;
}

static void kfifo_spsc_done(struct family_queue *q)
{
	struct kfifo_spsc *k = container_of(q, struct kfifo_spsc, base);

	blocking_done(&k->blocking);
	free(k->items);
	free(k);
}

static int kfifo_spsc_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct kfifo_spsc *k = container_of(q, struct kfifo_spsc, base);
	uint32_t in = atomic_load_explicit(&k->in, memory_order_relaxed);
	uint32_t room = k->capacity - (in - k->out_seen);

	if (room < n) {
		k->out_seen = atomic_load_explicit(&k->out, memory_order_acquire); /* pairs with kfifo_spsc_pop */
		room = k->capacity - (in - k->out_seen);
		if (room < n)
			n = room;
	}
	for (unsigned i = 0; i < n; i++)
		k->items[(in + i) & k->mask] = items[i];
	atomic_store_explicit(&k->in, in + n, memory_order_release); /* pairs with kfifo_spsc_pop */
	return (int)n;
}

static int kfifo_spsc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct kfifo_spsc *k = container_of(q, struct kfifo_spsc, base);
	uint32_t out = atomic_load_explicit(&k->out, memory_order_relaxed);
	uint32_t left = k->in_seen - out;

	if (left < n) {
		k->in_seen = atomic_load_explicit(&k->in, memory_order_acquire); /* pairs with kfifo_spsc_push */
		left = k->in_seen - out;
		if (left < n)
			n = left;
	}
	for (unsigned i = 0; i < n; i++)
		items[i] = k->items[(out + i) & k->mask];
	atomic_store_explicit(&k->out, out + n, memory_order_release); /* pairs with kfifo_spsc_push */
	return (int)n;
}

static int kfifo_spsc_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	return blocking_enqueue(&container_of(q, struct kfifo_spsc, base)->blocking, q, who, items, n, wait,
				kfifo_spsc_push);
}
static int kfifo_spsc_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct kfifo_spsc, base)->blocking, q, who, items, n, wait,
				kfifo_spsc_pop);
}
static void kfifo_spsc_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct kfifo_spsc, base)->blocking);
}

const struct family_ops family_kfifo_spsc = {
	.name = "kfifo-spsc",
	.about = "kfifo: a ring of one producer and one consumer",
	.producers_max = 1,
	.consumers_max = 1,
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_STOPS,
	.bounded = true,
	.init = kfifo_spsc_init,
	.done = kfifo_spsc_done,
	.enqueue = kfifo_spsc_enqueue,
	.dequeue = kfifo_spsc_dequeue,
	.close = kfifo_spsc_close,
};
