/* Lets a thread sleep until a condition over lock-free data may have become true, at the price of one fence for those
 * who make it true.
 *
 * Waiter: Notifier:
 *   key = eventcount_prepare(e)             make the condition true (push an item)
 *   look at the condition again             eventcount_notify(e, 1)
 *   true:  eventcount_cancel(e)
 *   false: eventcount_wait(e, key)
 *
 * No wake-up is lost: both sides put a sequentially consistent fence between their store (the count of waiters; the
 * item) and their load (the item; the count of waiters), so at least one sees the other (Dekker); and a notifier
 * changes the key before it wakes, so a waiter that has not reached the kernel yet does not sleep. A sleeper is
 * uncounted by the one who wakes it, so nobody pays for waking it twice.
 *
 * Any thread may call anything.
 * Source: futex(2); Vyukov's eventcount (2008); folly/experimental/EventCount.h.
 */
#ifndef ORDINAL_QUEUE_FAMILY_EVENTCOUNT_H
#define ORDINAL_QUEUE_FAMILY_EVENTCOUNT_H

#include "core/base/check.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct eventcount {
	_Alignas(CACHE_LINE) atomic_uint key; /* the futex */
	atomic_uint waiters;                  /* prepared or asleep; may be too high for a moment, never too low */
};

#define EVENTCOUNT_ALL INT_MAX

static inline uint32_t eventcount_prepare(struct eventcount *e)
{
	uint32_t key;

	atomic_fetch_add_explicit(&e->waiters, 1, memory_order_seq_cst);
	key = atomic_load_explicit(&e->key, memory_order_acquire); /* pairs with eventcount_wake */
	atomic_thread_fence(memory_order_seq_cst);                 /* pairs with eventcount_notify */
	return key;
}

static inline void eventcount_cancel(struct eventcount *e)
{
	atomic_fetch_sub_explicit(&e->waiters, 1, memory_order_relaxed);
}

/* Sleeps until notified after the prepare that gave `key`; may also return for no reason. */
void eventcount_wait(struct eventcount *e, uint32_t key);
/* Slow half of eventcount_notify. */
void eventcount_wake(struct eventcount *e, int n);

static inline bool eventcount_has_waiters(struct eventcount *e)
{
	return atomic_load_explicit(&e->waiters, memory_order_relaxed) != 0;
}

/* Wakes up to n sleepers; the condition has been made true before. */
static inline void eventcount_notify(struct eventcount *e, int n)
{
	atomic_thread_fence(memory_order_seq_cst); /* pairs with eventcount_prepare */
	if (unlikely(eventcount_has_waiters(e)))
		eventcount_wake(e, n);
}

#endif
