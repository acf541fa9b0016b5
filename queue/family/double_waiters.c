/* The double list of double.c, where a consumer that finds nothing joins a list of waiters, with a condition of its
 * own, instead of waiting in line for the mutex; a producer wakes the newest (double-waiters-new) or the oldest
 * (double-waiters-old).
 *
 * A consumer waits only after it has found, holding both locks, that both lists are empty, and it gives take_lock
 * back for the wait. One waiter is woken for each item, in the sense of waiters.h with the items of both lists
 * counted; those woken find take_lock free or soon free, and an item in either list.
 *
 * Invariants: put_lock guards put (list, length), closed and both lists of waiters; take_lock guards take. Order:
 * take_lock, then put_lock. Each list has half the capacity, as in double.c. Producers are woken, all of them, when a
 * full list has been swapped away.
 */
#include "queue/family/members.h"
#include "queue/family/waiters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DOUBLE_OLD = 1 };

struct double_peer {
	_Alignas(CACHE_LINE) struct waiter waiter;
};

struct double_waiters {
	struct family_queue base;
	uint32_t half;
	unsigned consumers;
	struct double_peer *peer; /* one for each consumer */
	_Alignas(CACHE_LINE) pthread_mutex_t put_lock;
	pthread_cond_t space;
	struct waiters ready;
	uint64_t *put;
	uint32_t put_len;
	bool closed;
	_Alignas(CACHE_LINE) pthread_mutex_t take_lock;
	uint64_t *take;
	uint32_t take_pos, take_len;
};

static void double_waiters_done(struct family_queue *q)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);

	for (unsigned i = 0; i < d->consumers; i++)
		pthread_cond_destroy(&d->peer[i].waiter.own);
	pthread_cond_destroy(&d->space);
	pthread_mutex_destroy(&d->take_lock);
	pthread_mutex_destroy(&d->put_lock);
	free(d->peer);
	free(d->put);
	free(d->take);
	free(d);
}

static int double_waiters_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct double_waiters *d = family_alloc(sizeof *d);

	if (d == NULL)
		return -ENOMEM;
	d->base.ops = ops;
	d->half = (opts->capacity + 1) / 2;
	d->consumers = opts->consumers;
	d->put = family_alloc((size_t)d->half * sizeof *d->put);
	d->take = family_alloc((size_t)d->half * sizeof *d->take);
	d->peer = family_alloc(d->consumers * sizeof *d->peer);
	if (d->put == NULL || d->take == NULL || d->peer == NULL) {
		free(d->put);
		free(d->take);
		free(d->peer);
		free(d);
		return -ENOMEM;
	}
	pthread_mutex_init(&d->put_lock, NULL);
	pthread_mutex_init(&d->take_lock, NULL);
	pthread_cond_init(&d->space, NULL);
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
	struct waiters_wake later = {0};
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&d->put_lock);
	for (;;) {
		uint32_t room = d->closed ? 0 : d->half - d->put_len;
		unsigned k = n - put < room ? n - put : room;

		memcpy(d->put + d->put_len, items + put, k * sizeof *items);
		d->put_len += k;
		put += k;
		waiters_wake(&d->ready, k, true, &later);
		if (put == n || d->closed || !wait)
			break;
		waiters_wake_later(&later);
		pthread_cond_wait(&d->space, &d->put_lock);
	}
	closed = d->closed;
	pthread_mutex_unlock(&d->put_lock);
	waiters_wake_later(&later);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

/* Under take_lock, with an empty take list: makes the producers' list ours. 1; or, with take_lock given back, -EPIPE,
 * -EAGAIN, or 0 after a wait. */
static int double_waiters_swap(struct double_waiters *d, unsigned who, bool wait, bool again)
{
	uint64_t *list = d->take;
	bool was_full;
	int r;

	pthread_mutex_lock(&d->put_lock);
	if (d->put_len == 0) {
		r = d->closed ? -EPIPE : wait ? 0 : -EAGAIN;
		pthread_mutex_unlock(&d->take_lock);
		if (r == 0)
			waiters_wait(&d->ready, &d->peer[who].waiter, again, &d->put_lock);
		pthread_mutex_unlock(&d->put_lock);
		return r;
	}
	was_full = d->put_len == d->half;
	d->take = d->put;
	d->take_len = d->put_len;
	d->take_pos = 0;
	d->put = list;
	d->put_len = 0;
	pthread_mutex_unlock(&d->put_lock);
	if (was_full)
		pthread_cond_broadcast(&d->space);
	return 1;
}

static int double_waiters_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);
	uint32_t k;

	for (bool again = false;; again = true) {
		int r;

		pthread_mutex_lock(&d->take_lock);
		if (d->take_pos < d->take_len)
			break;
		r = double_waiters_swap(d, who, wait, again);
		if (r < 0)
			return r;
		if (r > 0)
			break;
	}
	k = d->take_len - d->take_pos;
	if (k > n)
		k = n;
	memcpy(items, d->take + d->take_pos, k * sizeof *items);
	d->take_pos += k;
	pthread_mutex_unlock(&d->take_lock);
	return (int)k;
}

static void double_waiters_close(struct family_queue *q)
{
	struct double_waiters *d = container_of(q, struct double_waiters, base);

	pthread_mutex_lock(&d->put_lock);
	d->closed = true;
	waiters_wake_all(&d->ready);
	pthread_cond_broadcast(&d->space);
	pthread_mutex_unlock(&d->put_lock);
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
