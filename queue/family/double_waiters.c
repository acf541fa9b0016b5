/* The double list of double_lists.h, where a consumer that finds nothing joins a list of waiters, with a condition of
 * its own, instead of waiting in line for the mutex; a producer wakes the newest (double-waiters-new) or the oldest
 * (double-waiters-old).
 *
 * A consumer waits only after it has found, holding both locks, that both lists are empty, and it gives take_lock
 * back for the wait. One waiter is woken for each item, in the sense of waiters.h with the items of both lists
 * counted; those woken find take_lock free or soon free, and an item in either list.
 *
 * Invariant beyond those of double_lists.h: put_lock guards the list of waiters too.
 */
#include "queue/family/double_lists.h"
#include "queue/family/waiters.h"

enum { DOUBLE_OLD = 1 };

struct double_peer {
	_Alignas(CACHE_LINE) struct waiter waiter;
};

struct double_waiters {
	struct family_queue base;
	unsigned consumers;
	struct double_peer *peer; /* one for each consumer */
	struct waiters ready;
	struct double_lists lists;
};

static void double_waiters_done(struct family_queue *q)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);

	for (unsigned i = 0; i < d->consumers; i++)
		pthread_cond_destroy(&d->peer[i].waiter.own);
	double_lists_done(&d->lists);
	free(d->peer);
	free(d);
}

static int double_waiters_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct double_waiters *d = family_alloc(sizeof *d);

	if (d == NULL)
		return -ENOMEM;
	d->base.ops = ops;
	d->consumers = opts->consumers;
	d->peer = family_alloc(d->consumers * sizeof *d->peer);
	if (d->peer == NULL || double_lists_init(&d->lists, opts->capacity) != 0) {
		free(d->peer);
		free(d);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < d->consumers; i++) {
		pthread_cond_init(&d->peer[i].waiter.own, NULL);
		d->peer[i].waiter.cond = &d->peer[i].waiter.own;
	}
	waiters_init(&d->ready, !(ops->variant & DOUBLE_OLD));
	*ret = &d->base;
	return 0;
}

static int double_waiters_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);
	struct double_lists *l = &d->lists;
	struct waiters_wake later = {0};
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&l->put_lock);
	for (;;) {
		unsigned k = double_lists_put(l, items + put, n - put);

		put += k;
		waiters_wake(&d->ready, k, true, &later);
		if (put == n || l->closed || !wait)
			break;
		waiters_wake_later(&later);
		pthread_cond_wait(&l->space, &l->put_lock);
	}
	closed = l->closed;
	pthread_mutex_unlock(&l->put_lock);
	waiters_wake_later(&later);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

/* Under take_lock, with an empty take list: makes the producers' list ours. 1; or, with take_lock given back, -EPIPE,
 * -EAGAIN, or 0 after a wait. */
static int double_waiters_fetch(struct double_waiters *d, unsigned who, bool wait, bool again)
{
	struct double_lists *l = &d->lists;
	int r;

	pthread_mutex_lock(&l->put_lock);
	if (l->put_len > 0) {
		double_lists_swap(l);
		return 1;
	}
	r = l->closed ? -EPIPE : wait ? 0 : -EAGAIN;
	pthread_mutex_unlock(&l->take_lock);
	if (r == 0)
		waiters_wait(&d->ready, &d->peer[who].waiter, again, &l->put_lock);
	pthread_mutex_unlock(&l->put_lock);
	return r;
}

static int double_waiters_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);

	for (bool again = false;; again = true) {
		int r;

		pthread_mutex_lock(&d->lists.take_lock);
		if (!double_lists_has_taken_all(&d->lists))
			break;
		r = double_waiters_fetch(d, who, wait, again);
		if (r < 0)
			return r;
		if (r > 0)
			break;
	}
	n = double_lists_take(&d->lists, items, n);
	pthread_mutex_unlock(&d->lists.take_lock);
	return (int)n;
}

static void double_waiters_close(struct family_queue *q)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);

	pthread_mutex_lock(&d->lists.put_lock);
	d->lists.closed = true;
	waiters_wake_all(&d->ready);
	pthread_cond_broadcast(&d->lists.space);
	pthread_mutex_unlock(&d->lists.put_lock);
}

#define DOUBLE_WAITERS_OPS                                                                                             \
	.order = FAMILY_FIFO, .peer = FAMILY_PEER_STOPS, .bounded = true, .init = double_waiters_init,                 \
	.done = double_waiters_done, .enqueue = double_waiters_enqueue, .dequeue = double_waiters_dequeue,             \
	.close = double_waiters_close

const struct family_ops family_double_waiters_new = {
	.name = "double-waiters-new",
	.about = "double list with its own waiters, newest first",
	DOUBLE_WAITERS_OPS,
};
const struct family_ops family_double_waiters_old = {
	.name = "double-waiters-old",
	.about = "double list with its own waiters, oldest first",
	.variant = DOUBLE_OLD,
	DOUBLE_WAITERS_OPS,
};
