/* Gives a lock-free queue what it lacks: waiting, and closing without losing an item that is on its way in.
 *
 * Waiting: look a few times (if there is another CPU that could change anything), give up the CPU twice, then sleep
 * on an eventcount. So nothing burns and nothing hangs when threads outnumber CPUs.
 *
 * Closing: a producer marks itself `busy` before it looks at `closing` and unmarks itself when its item is in. The
 * closer sets `closing`, makes every other thread pass a full barrier (membarrier(2); where there is none, producers
 * pay for a fence each time), then sets `closed`. From then on no producer can become busy without seeing `closing`,
 * so a consumer that sees `closed`, then nobody busy, then an empty queue, has seen the end.
 *
 * The queue itself comes as two functions that never wait: push puts up to n items in and returns how many, or a
 * negative error; pop likewise takes out. They are inlined into the caller on the fast path.
 */
#ifndef ORDINAL_QUEUE_FAMILY_BLOCKING_H
#define ORDINAL_QUEUE_FAMILY_BLOCKING_H

#include "queue/family/eventcount.h"
#include "queue/family/family.h"

#include <errno.h>

struct blocking_flight {
	_Alignas(CACHE_LINE) atomic_bool busy; /* written by one producer */
};

struct blocking {
	_Alignas(CACHE_LINE) atomic_bool closing;
	atomic_bool closed;
	bool fence; /* no membarrier(2) here */
	unsigned producers;
	struct blocking_flight *flight; /* one for each producer */
	struct eventcount items, space;
};

typedef int blocking_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n);
typedef int blocking_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n);

/* 0 or -ENOMEM. */
int blocking_init(struct blocking *b, unsigned producers);
void blocking_done(struct blocking *b);
/* Wakes those who wait on items and space; a member with eventcounts of its own wakes theirs afterwards. */
void blocking_close(struct blocking *b);

/* Whether the queue is open for producer `who`, who must call blocking_leave in either case. */
static inline bool blocking_enter(struct blocking *b, unsigned who)
{
	atomic_store_explicit(&b->flight[who].busy, true, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst); /* with membarrier in blocking_close this orders the two */
	if (unlikely(b->fence))
		atomic_thread_fence(memory_order_seq_cst); /* pairs with blocking_close */
	return !atomic_load_explicit(&b->closing, memory_order_relaxed);
}
static inline void blocking_leave(struct blocking *b, unsigned who)
{
	atomic_store_explicit(&b->flight[who].busy, false, memory_order_release); /* pairs with blocking_is_sealed */
}

static inline bool blocking_is_closed(struct blocking *b)
{
	return atomic_load_explicit(&b->closed, memory_order_acquire); /* pairs with blocking_close */
}
/* Whether nothing can come in any more: what a pop misses after this is not there. */
bool blocking_is_sealed(struct blocking *b);

/* How often to look before sleeping. Steps *tries on; false: it is time to sleep. */
bool blocking_pause(unsigned *tries);
/* A short sleep, for waiting until a producer that is under way has finished. */
void blocking_nap(void);

int blocking_enqueue_slow(struct blocking *b, struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
			  unsigned put, bool wait, blocking_push *push);
int blocking_dequeue_slow(struct blocking *b, struct eventcount *ready, struct family_queue *q, unsigned who,
			  uint64_t *items, unsigned n, bool wait, blocking_pop *pop);

static inline __attribute__((always_inline)) int blocking_enqueue(struct blocking *b, struct family_queue *q,
								  unsigned who, const uint64_t *items, unsigned n,
								  bool wait, blocking_push *push)
{
	int put = 0;
	bool open = blocking_enter(b, who);

	if (likely(open))
		put = push(q, who, items, n);
	blocking_leave(b, who);
	if (unlikely(!open))
		return -EPIPE;
	if (likely(put > 0))
		eventcount_notify(&b->items, put);
	if (likely(put == (int)n) || put < 0)
		return put;
	return blocking_enqueue_slow(b, q, who, items, n, (unsigned)put, wait, push);
}

/* `ready`: what those who push notify, in place of b->items. */
static inline __attribute__((always_inline)) int blocking_dequeue_on(struct blocking *b, struct eventcount *ready,
								     struct family_queue *q, unsigned who,
								     uint64_t *items, unsigned n, bool wait,
								     blocking_pop *pop)
{
	int got = pop(q, who, items, n);

	if (unlikely(got == 0))
		got = blocking_dequeue_slow(b, ready, q, who, items, n, wait, pop);
	if (likely(got > 0))
		eventcount_notify(&b->space, got);
	return got;
}
static inline __attribute__((always_inline)) int blocking_dequeue(struct blocking *b, struct family_queue *q,
								  unsigned who, uint64_t *items, unsigned n, bool wait,
								  blocking_pop *pop)
{
	return blocking_dequeue_on(b, &b->items, q, who, items, n, wait, pop);
}

#endif
