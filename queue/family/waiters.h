/* A queue's own list of waiting threads, a condition variable each, so that a change wakes exactly the thread that is
 * chosen.
 *
 * Whoever wakes a waiter takes it off the list first, so two changes wake two threads. Whoever finds on waking that
 * another thread was faster puts itself back at the end where it is next. This keeps the invariant that makes one
 * wake-up per item enough: while somebody is on the list, there are no more items than threads that were woken and
 * have not looked yet.
 *
 * Everything is called under the queue's lock.
 * Source: gRPC, src/core/lib/iomgr/executor/mpmcqueue.{h,cc}.
 */
#ifndef ORDINAL_QUEUE_FAMILY_WAITERS_H
#define ORDINAL_QUEUE_FAMILY_WAITERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct waiter {
	struct waiter *next, *prev;
	bool listed;
	pthread_cond_t *cond; /* &own, or one that lives elsewhere */
	pthread_cond_t own;
};

struct waiters {
	struct waiter head; /* of a ring; next: the oldest */
	bool newest_first;
};

static inline void waiters_init(struct waiters *w, bool newest_first)
{
	w->head.next = w->head.prev = &w->head;
	w->newest_first = newest_first;
}

static inline bool waiters_any(const struct waiters *w)
{
	return w->head.next != &w->head;
}

static inline void waiters_unlist(struct waiter *me)
{
	me->prev->next = me->next;
	me->next->prev = me->prev;
	me->listed = false;
}

/* Sleeps until taken off the list. `again`: it has been woken for nothing before in this call. */
static inline void waiters_wait(struct waiters *w, struct waiter *me, bool again, pthread_mutex_t *lock)
{
	struct waiter *after = again && !w->newest_first ? &w->head : w->head.prev;

	me->prev = after;
	me->next = after->next;
	after->next->prev = me;
	after->next = me;
	me->listed = true;
	while (me->listed)
		pthread_cond_wait(me->cond, lock);
}

/* Takes the next waiter off the list; its condition is to be signalled, or NULL when nobody waits. */
static inline pthread_cond_t *waiters_pick(struct waiters *w)
{
	struct waiter *next = w->newest_first ? w->head.prev : w->head.next;

	if (next == &w->head)
		return NULL;
	waiters_unlist(next);
	return next->cond;
}

/* At close: everybody. */
static inline void waiters_wake_all(struct waiters *w)
{
	pthread_cond_t *cond;

	while ((cond = waiters_pick(w)) != NULL)
		pthread_cond_signal(cond);
}

/* Conditions picked under the lock to be signalled after it; more than fit are signalled at once. */
#define WAITERS_WAKE_MAX 16
struct waiters_wake {
	unsigned n;
	pthread_cond_t *cond[WAITERS_WAKE_MAX];
};

static inline void waiters_wake(struct waiters *w, unsigned n, bool outside, struct waiters_wake *later)
{
	pthread_cond_t *cond;

	while (n-- > 0 && (cond = waiters_pick(w)) != NULL) {
		if (outside && later->n < WAITERS_WAKE_MAX)
			later->cond[later->n++] = cond;
		else
			pthread_cond_signal(cond);
	}
}
/* Without the lock: the conditions must outlive the wait. */
static inline void waiters_wake_later(struct waiters_wake *later)
{
	for (unsigned i = 0; i < later->n; i++)
		pthread_cond_signal(later->cond[i]);
	later->n = 0;
}

#endif
