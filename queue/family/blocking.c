/* The slow paths of blocking.h: waiting for items, waiting for space, and closing.
 *
 * Invariants: a thread sleeps only between eventcount_prepare and a look at the queue that found nothing to do; it
 * never sleeps once it has seen `closed`, because those who fail on a closed queue notify nobody. Runs in the threads
 * of the callers.
 */
#include "queue/family/blocking.h"

#include "queue/family/members.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCKING_SPINS 64
#define BLOCKING_YIELDS 2

int blocking_init(struct blocking *b, unsigned producers)
{
	b->flight = family_alloc(producers * sizeof *b->flight);
	if (b->flight == NULL)
		return -ENOMEM;
	b->producers = producers;
	b->fence = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0;
	return 0;
}

void blocking_done(struct blocking *b)
{
	free(b->flight);
}

void blocking_close(struct blocking *b)
{
	atomic_store_explicit(&b->closing, true, memory_order_seq_cst);
	if (!b->fence)
		CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
	atomic_thread_fence(memory_order_seq_cst);                     /* pairs with blocking_enter */
	atomic_store_explicit(&b->closed, true, memory_order_release); /* pairs with blocking_is_closed */
	eventcount_notify(&b->items, EVENTCOUNT_ALL);
	eventcount_notify(&b->space, EVENTCOUNT_ALL);
}

bool blocking_is_sealed(struct blocking *b)
{
	if (!blocking_is_closed(b))
		return false;
	for (unsigned i = 0; i < b->producers; i++)
		if (atomic_load_explicit(&b->flight[i].busy, memory_order_acquire)) /* pairs with blocking_leave */
			return false;
	return true;
}

static void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	atomic_signal_fence(memory_order_seq_cst);
#endif
}

bool blocking_pause(unsigned *tries)
{
	static atomic_int cpus;
	int n = atomic_load_explicit(&cpus, memory_order_relaxed);

	if (n == 0) {
		cpu_set_t set;

		n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
		atomic_store_explicit(&cpus, n, memory_order_relaxed);
	}
	if (n == 1 && *tries < BLOCKING_SPINS)
		*tries = BLOCKING_SPINS;
	if (*tries >= BLOCKING_SPINS + BLOCKING_YIELDS)
		return false;
	if ((*tries)++ < BLOCKING_SPINS)
		cpu_relax();
	else
		sched_yield();
	return true;
}

void blocking_nap(void)
{
	const struct timespec t = {.tv_nsec = 50 * 1000};

	nanosleep(&t, NULL);
}

/* One push inside an enter/leave pair, announced. Negative: -EPIPE or push's own error. */
static int push_once(struct blocking *b, struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
		     blocking_push *push)
{
	int r = -EPIPE;

	if (blocking_enter(b, who))
		r = push(q, who, items, n);
	blocking_leave(b, who);
	if (r > 0)
		eventcount_notify(&b->items, r);
	return r;
}

int blocking_enqueue_slow(struct blocking *b, struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
			  unsigned put, bool wait, blocking_push *push)
{
	unsigned tries = 0;
	int r = 0;

	if (!wait)
		return put > 0 ? (int)put : -EAGAIN;
	while (put < n) {
		if (!blocking_pause(&tries)) {
			uint32_t key = eventcount_prepare(&b->space);

			r = push_once(b, q, who, items + put, n - put, push);
			if (r == 0)
				eventcount_wait(&b->space, key);
			else
				eventcount_cancel(&b->space);
		} else {
			r = push_once(b, q, who, items + put, n - put, push);
		}
		if (r < 0)
			break;
		if (r > 0)
			tries = 0;
		put += (unsigned)r;
	}
	return put > 0 ? (int)put : r;
}

int blocking_dequeue_slow(struct blocking *b, struct eventcount *ready, struct family_queue *q, unsigned who,
			  uint64_t *items, unsigned n, bool wait, blocking_pop *pop)
{
	unsigned tries = 0;

	for (;;) {
		bool sealed = blocking_is_sealed(b);
		int got = pop(q, who, items, n);
		uint32_t key;

		if (got != 0)
			return got;
		if (sealed)
			return -EPIPE;
		if (!wait)
			return -EAGAIN;
		if (blocking_pause(&tries))
			continue;
		if (blocking_is_closed(b)) {
			blocking_nap();
			continue;
		}
		key = eventcount_prepare(ready);
		got = pop(q, who, items, n);
		if (got != 0 || blocking_is_closed(b)) {
			eventcount_cancel(ready);
			if (got != 0)
				return got;
			continue;
		}
		eventcount_wait(ready, key);
	}
}
