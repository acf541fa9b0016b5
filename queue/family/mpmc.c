/* One lock and a ring, where each waiting thread has a condition variable of its own in a list: gRPC's MPMC queue, in
 * sixteen variants.
 *
 * mpmc-{new,old}-{emb,ptr}-{in,out}-{grow,bound}:
 *   new, old     which waiter is woken first: the newest, whose cache is warm, or the oldest, whose turn it is
 *   emb, ptr     the condition is in the waiter's own record (one for each peer, as long as the queue lives); or the
 *                record is on the waiter's stack and points to a condition that the queue keeps for that peer
 *   in, out      woken while the lock is held, or after it. Waking outside is safe only because conditions live as
 *                long as the queue: one on the waiter's stack, as in gRPC, may be gone by then
 *   grow, bound  a ring that doubles when full, as in gRPC, so that producers never wait (under SCHED_FIFO they may keep
 *                consumers from running until memory ends); or one where they do, listed like the consumers
 *
 * Invariants, under lock: items[head … head+count-1] (modulo size) are inside; count <= size; waiters.h for the
 * lists.
 * Source: gRPC, src/core/lib/iomgr/executor/mpmcqueue.cc (InfLenFIFOQueue).
 */
#include "queue/family/members.h"
#include "queue/family/waiters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MPMC_OLD = 1, MPMC_PTR = 2, MPMC_OUT = 4, MPMC_BOUND = 8 };

struct mpmc_peer {
	_Alignas(CACHE_LINE) struct waiter waiter;
};

struct mpmc {
	struct family_queue base;
	bool ptr, out, bound;
	unsigned producers, peers;
	struct mpmc_peer *peer; /* producers, then consumers */
	_Alignas(CACHE_LINE) pthread_mutex_t lock;
	uint64_t *items;
	uint32_t head, count, size;
	bool closed;
	struct waiters space, ready;
};

static void mpmc_done(struct family_queue *q)
{
	struct mpmc *m = container_of(q, struct mpmc, base);

	for (unsigned i = 0; i < m->peers; i++)
		pthread_cond_destroy(&m->peer[i].waiter.own);
	pthread_mutex_destroy(&m->lock);
	free(m->peer);
	free(m->items);
	free(m);
}

static int mpmc_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct mpmc *m = family_alloc(sizeof *m);

	if (m == NULL)
		return -ENOMEM;
	m->base.ops = ops;
	m->ptr = ops->variant & MPMC_PTR;
	m->out = ops->variant & MPMC_OUT;
	m->bound = ops->variant & MPMC_BOUND;
	m->producers = opts->producers;
	m->peers = opts->producers + opts->consumers;
	m->size = opts->capacity;
	m->items = family_alloc((size_t)m->size * sizeof *m->items);
	m->peer = family_alloc(m->peers * sizeof *m->peer);
	if (m->items == NULL || m->peer == NULL) {
		free(m->items);
		free(m->peer);
		free(m);
		return -ENOMEM;
	}
	pthread_mutex_init(&m->lock, NULL);
	for (unsigned i = 0; i < m->peers; i++) {
		pthread_cond_init(&m->peer[i].waiter.own, NULL);
		m->peer[i].waiter.cond = &m->peer[i].waiter.own;
	}
	waiters_init(&m->space, !(ops->variant & MPMC_OLD));
	waiters_init(&m->ready, !(ops->variant & MPMC_OLD));
	*ret = &m->base;
	return 0;
}

static void mpmc_wait(struct mpmc *m, struct waiters *list, unsigned peer, bool again)
{
	struct waiter *mine = &m->peer[peer].waiter;

	if (m->ptr) {
		struct waiter on_stack = {.cond = mine->cond};

		waiters_wait(list, &on_stack, again, &m->lock);
	} else {
		waiters_wait(list, mine, again, &m->lock);
	}
}

static int mpmc_grow(struct mpmc *m)
{
	uint32_t size = m->size * 2, first = m->size - m->head;
	uint64_t *items;

	if (m->size > FAMILY_CAPACITY_MAX)
		return -ENOMEM;
	items = family_alloc((size_t)size * sizeof *items);
	if (items == NULL)
		return -ENOMEM;
	memcpy(items, m->items + m->head, first * sizeof *items);
	memcpy(items + first, m->items, m->head * sizeof *items);
	free(m->items);
	m->items = items;
	m->head = 0;
	m->size = size;
	return 0;
}

/* Puts what fits; a growing ring makes room. The number put, or -ENOMEM when it is none. */
static int mpmc_put(struct mpmc *m, const uint64_t *items, unsigned n)
{
	unsigned put;

	for (put = 0; put < n; put++) {
		uint32_t at;

		if (m->count == m->size && (m->bound || mpmc_grow(m) != 0))
			return put > 0 || m->bound ? (int)put : -ENOMEM;
		at = m->head + m->count++;
		m->items[at >= m->size ? at - m->size : at] = items[put];
	}
	return (int)put;
}

static int mpmc_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct mpmc *m = container_of(q, struct mpmc, base);
	struct waiters_wake later = {0};
	unsigned put = 0;
	bool again = false;
	int r;

	pthread_mutex_lock(&m->lock);
	for (;;) {
		r = m->closed ? -EPIPE : mpmc_put(m, items + put, n - put);
		if (r > 0) {
			put += (unsigned)r;
			waiters_wake(&m->ready, (unsigned)r, m->out, &later);
			again = false;
		}
		if (r < 0 || put == n || !wait)
			break;
		waiters_wake_later(&later); /* before sleeping, so inside the lock whatever the variant */
		mpmc_wait(m, &m->space, who, again);
		again = true;
	}
	pthread_mutex_unlock(&m->lock);
	waiters_wake_later(&later);
	return put > 0 ? (int)put : r < 0 ? r : -EAGAIN;
}

static int mpmc_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct mpmc *m = container_of(q, struct mpmc, base);
	struct waiters_wake later = {0};
	unsigned got = 0;
	bool closed;

	pthread_mutex_lock(&m->lock);
	for (bool again = false; wait && m->count == 0 && !m->closed; again = true)
		mpmc_wait(m, &m->ready, m->producers + who, again);
	for (; got < n && m->count > 0; got++, m->count--) {
		items[got] = m->items[m->head];
		if (++m->head == m->size)
			m->head = 0;
	}
	closed = m->closed;
	waiters_wake(&m->space, got, m->out, &later);
	pthread_mutex_unlock(&m->lock);
	waiters_wake_later(&later);
	return got > 0 ? (int)got : closed ? -EPIPE : -EAGAIN;
}

static void mpmc_close(struct family_queue *q)
{
	struct mpmc *m = container_of(q, struct mpmc, base);

	pthread_mutex_lock(&m->lock);
	m->closed = true;
	waiters_wake_all(&m->ready);
	waiters_wake_all(&m->space);
	pthread_mutex_unlock(&m->lock);
}

#define MPMC_OPS(order_name, order_about, cond_name, cond_about, wake_name, wake_about, room_name, room_about, bits)   \
	{                                                                                                              \
		.name = "mpmc-" order_name "-" cond_name "-" wake_name "-" room_name,                                  \
		.about = "own waiters, " order_about " first, condition " cond_about ", waking " wake_about            \
			 " the lock, " room_about,                                                                     \
		.order = FAMILY_FIFO, .peer = FAMILY_PEER_STOPS, .bounded = (bits)&MPMC_BOUND, .variant = (bits),      \
		.init = mpmc_init, .done = mpmc_done, .enqueue = mpmc_enqueue, .dequeue = mpmc_dequeue,                \
		.close = mpmc_close,                                                                                   \
	}
#define MPMC_ROOMS(on, oa, cn, ca, wn, wa, bits)                                                                       \
	MPMC_OPS(on, oa, cn, ca, wn, wa, "grow", "growing", bits),                                                     \
		MPMC_OPS(on, oa, cn, ca, wn, wa, "bound", "bounded", (bits) | MPMC_BOUND)
#define MPMC_WAKES(on, oa, cn, ca, bits)                                                                               \
	MPMC_ROOMS(on, oa, cn, ca, "in", "inside", bits),                                                              \
		MPMC_ROOMS(on, oa, cn, ca, "out", "outside", (bits) | MPMC_OUT)
#define MPMC_CONDS(on, oa, bits)                                                                                       \
	MPMC_WAKES(on, oa, "emb", "embedded", bits), MPMC_WAKES(on, oa, "ptr", "by pointer", (bits) | MPMC_PTR)

const struct family_ops family_mpmc[FAMILY_MPMC_VARIANTS] = {
	MPMC_CONDS("new", "newest", 0),
	MPMC_CONDS("old", "oldest", MPMC_OLD),
};
