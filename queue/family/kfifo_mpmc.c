/* The kfifo ring for many producers and consumers: both indices are moved by compare-and-swap, and each slot says
 * itself whose turn it is.
 *
 *   slot.turn == p      free for the producer that claims index p
 *   slot.turn == p + 1  holds the item with index p, for the consumer that claims p
 * and a consumer leaves p + size, which makes it free for the producer of the next round.
 *
 * A claim takes up to n slots at once: those that were seen ready stay ready until claimed, and the claim fails if
 * somebody else was faster. No lock, but not lock-free either: a thread suspended between its claim and its `turn`
 * stops the others when they get to that slot. Items may become ready out of order; a consumer sees "empty" at a gap
 * and may go to sleep, using up the wake-up of a later item. So whoever moved something looks whether more can move
 * while somebody sleeps, and passes the wake-up on (kfifo_mpmc_chain).
 *
 * Invariant: in - out <= capacity. `out` is read before the claim, and only grows, so the difference is never too
 * small.
 * Source: Vyukov, bounded MPMC queue (1024cores.net, 2010); the articles' compare-and-swap extension of kfifo.
 */
#include "queue/family/blocking.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct kfifo_slot {
	atomic_uint turn;
	uint64_t item;
};

struct kfifo_mpmc {
	struct family_queue base;
	uint32_t capacity, size, mask;
	struct kfifo_slot *slots;
	struct blocking blocking;
	_Alignas(CACHE_LINE) atomic_uint in;
	_Alignas(CACHE_LINE) atomic_uint out;
};

static int kfifo_mpmc_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct kfifo_mpmc *k = family_alloc(sizeof *k);
	uint32_t size = family_pow2_up(
		opts->capacity < 2 ? 2 : opts->capacity); /* with one slot p + 1 and p + size are the same */

	if (k == NULL)
		return -ENOMEM;
	k->base.ops = ops;
	k->capacity = opts->capacity;
	k->size = size;
	k->mask = size - 1;
	k->slots = family_alloc((size_t)size * sizeof *k->slots);
	if (k->slots == NULL || blocking_init(&k->blocking, opts->producers) != 0) {
		free(k->slots);
		free(k);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < size; i++)
		atomic_init(&k->slots[i].turn, i);
	*ret = &k->base;
	return 0;
}

static void kfifo_mpmc_done(struct family_queue *q)
{
	struct kfifo_mpmc *k = container_of(q, struct kfifo_mpmc, base);

	blocking_done(&k->blocking);
	free(k->slots);
	free(k);
}

/* How many of the n slots from index p on have the turn p + i + ahead. The acquire pairs with the releases in push
 * and pop. */
static unsigned kfifo_mpmc_run(struct kfifo_mpmc *k, uint32_t p, unsigned n, uint32_t ahead)
{
	unsigned i;

	for (i = 0; i < n; i++)
		if (atomic_load_explicit(&k->slots[(p + i) & k->mask].turn, memory_order_acquire) != p + i + ahead)
			break;
	return i;
}

/* Claims up to n slots at *index that are ready. The number, with the first in *ret_at; 0 when none is. */
static unsigned kfifo_mpmc_claim(struct kfifo_mpmc *k, atomic_uint *index, unsigned n, uint32_t ahead, uint32_t *ret_at)
{
	uint32_t p = atomic_load_explicit(index, memory_order_relaxed);

	if (n > k->size)
		n = k->size;
	for (;;) {
		unsigned run = n;

		if (ahead == 0 && k->capacity < k->size) { /* the slots alone do not keep the bound */
			uint32_t used = p - atomic_load_explicit(&k->out, memory_order_relaxed);
			uint32_t room = used < k->capacity ? k->capacity - used : 0;

			run = n < room ? n : room;
		}
		run = kfifo_mpmc_run(k, p, run, ahead);
		if (run == 0) {
			uint32_t now = atomic_load_explicit(index, memory_order_relaxed);

			if (now == p)
				return 0;
			p = now;
		} else if (atomic_compare_exchange_weak_explicit(index, &p, p + run, memory_order_relaxed,
								 memory_order_relaxed)) {
			*ret_at = p;
			return run;
		}
	}
}

static int kfifo_mpmc_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct kfifo_mpmc *k = container_of(q, struct kfifo_mpmc, base);
	uint32_t at;
	unsigned run = kfifo_mpmc_claim(k, &k->in, n, 0, &at);

	for (unsigned i = 0; i < run; i++) {
		struct kfifo_slot *slot = &k->slots[(at + i) & k->mask];

		slot->item = items[i];
		atomic_store_explicit(&slot->turn, at + i + 1, memory_order_release); /* pairs with kfifo_mpmc_run */
	}
	return (int)run;
}

static int kfifo_mpmc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct kfifo_mpmc *k = container_of(q, struct kfifo_mpmc, base);
	uint32_t at;
	unsigned run = kfifo_mpmc_claim(k, &k->out, n, 1, &at);

	for (unsigned i = 0; i < run; i++) {
		struct kfifo_slot *slot = &k->slots[(at + i) & k->mask];

		items[i] = slot->item;
		atomic_store_explicit(&slot->turn, at + i + k->size,
				      memory_order_release); /* pairs with kfifo_mpmc_run */
	}
	return (int)run;
}

/* Passes a wake-up on: somebody sleeps on e although the slot at *index is ready for him. */
static void kfifo_mpmc_chain(struct kfifo_mpmc *k, struct eventcount *e, atomic_uint *index, uint32_t ahead)
{
	if (likely(!eventcount_has_waiters(e)))
		return;
	if (kfifo_mpmc_run(k, atomic_load_explicit(index, memory_order_relaxed), 1, ahead) == 1)
		eventcount_notify(e, 1);
}

static int kfifo_mpmc_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct kfifo_mpmc *k = container_of(q, struct kfifo_mpmc, base);
	int r = blocking_enqueue(&k->blocking, q, who, items, n, wait, kfifo_mpmc_push);

	if (r > 0)
		kfifo_mpmc_chain(k, &k->blocking.space, &k->in, 0);
	return r;
}
static int kfifo_mpmc_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct kfifo_mpmc *k = container_of(q, struct kfifo_mpmc, base);
	int r = blocking_dequeue(&k->blocking, q, who, items, n, wait, kfifo_mpmc_pop);

	if (r > 0)
		kfifo_mpmc_chain(k, &k->blocking.items, &k->out, 1);
	return r;
}
static void kfifo_mpmc_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct kfifo_mpmc, base)->blocking);
}

const struct family_ops family_kfifo_mpmc = {
	.name = "kfifo-mpmc",
	.about = "the kfifo ring with compare-and-swap, many producers and consumers",
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_STOPS,
	.bounded = true,
	.init = kfifo_mpmc_init,
	.done = kfifo_mpmc_done,
	.enqueue = kfifo_mpmc_enqueue,
	.dequeue = kfifo_mpmc_dequeue,
	.close = kfifo_mpmc_close,
};
