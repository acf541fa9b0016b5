/* One mutex and one condition variable: the queue that everybody writes first.
 *
 * Full and empty are waited for on the same condition, so a change must wake everybody: pthread_cond_signal could
 * pick a producer when only a consumer can go on, and the item would stay while consumers sleep. `waiting` saves the
 * call when nobody waits. basic wakes while it holds the lock, basic-out after it has given it back, so that those
 * woken do not run into it.
 *
 * The mutex is not fair, here as in every member that has one: under SCHED_FIFO a thread that waits for it can be woken
 * and find it taken for as long as the others go on (README.md).
 *
 * Invariants, under lock: count <= capacity; items[head … head+count-1] (modulo capacity) are inside; waiting =
 * threads in cond_wait.
 * Source: Hoare, "Monitors", 1974; pthread_cond_broadcast(3).
 */
#include "queue/family/members.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { BASIC_OUT = 1 };

struct basic {
	struct family_queue base;
	bool out;
	uint32_t capacity;
	uint64_t *items;
	_Alignas(CACHE_LINE) pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t head, count;
	unsigned waiting;
	bool closed;
};

static int basic_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct basic *b = family_alloc(sizeof *b);

	if (b == NULL)
		return -ENOMEM;
	b->base.ops = ops;
	b->out = ops->variant & BASIC_OUT;
	b->capacity = opts->capacity;
	b->items = family_alloc((size_t)b->capacity * sizeof *b->items);
	if (b->items == NULL) {
		free(b);
		return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	*ret = &b->base;
	return 0;
}

static void basic_done(struct family_queue *q)
{
	struct basic *b = container_of(q, struct basic, base);

	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b->items);
	free(b);
}

/* Gives the lock back; wakes everybody who waits if something has changed. */
static void basic_unlock(struct basic *b, bool changed)
{
	bool wake = changed && b->waiting > 0;

	if (wake && !b->out)
		pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
	if (wake && b->out)
		pthread_cond_broadcast(&b->changed);
}

static void basic_wait(struct basic *b)
{
	b->waiting++;
	pthread_cond_wait(&b->changed, &b->lock);
	b->waiting--;
}

static int basic_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct basic *b = container_of(q, struct basic, base);
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&b->lock);
	for (;;) {
		unsigned before = put;
		uint32_t at = b->head + b->count;

		for (; put < n && b->count < b->capacity && !b->closed; put++, b->count++, at++)
			b->items[at >= b->capacity ? at - b->capacity : at] = items[put];
		if (put == n || b->closed || !wait)
			break;
		if (put > before &&
		    b->waiting > 0) /* about to wait: those who could make room must know of the items */
			pthread_cond_broadcast(&b->changed);
		basic_wait(b);
	}
	closed = b->closed;
	basic_unlock(b, put > 0);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

static int basic_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct basic *b = container_of(q, struct basic, base);
	unsigned got = 0;
	bool closed;

	pthread_mutex_lock(&b->lock);
	while (wait && b->count == 0 && !b->closed)
		basic_wait(b);
	for (; got < n && b->count > 0; got++, b->count--) {
		items[got] = b->items[b->head];
		if (++b->head == b->capacity)
			b->head = 0;
	}
	closed = b->closed;
	basic_unlock(b, got > 0);
	return got > 0 ? (int)got : closed ? -EPIPE : -EAGAIN;
}

static void basic_close(struct family_queue *q)
{
	struct basic *b = container_of(q, struct basic, base);

	pthread_mutex_lock(&b->lock);
	b->closed = true;
	basic_unlock(b, true);
}

#define BASIC_OPS                                                                                                      \
	.order = FAMILY_FIFO, .peer = FAMILY_PEER_STOPS, .bounded = true, .init = basic_init, .done = basic_done,      \
	.enqueue = basic_enqueue, .dequeue = basic_dequeue, .close = basic_close

const struct family_ops family_basic = {
	.name = "basic",
	.about = "one mutex, one condition variable, waking inside the lock",
	BASIC_OPS,
};
const struct family_ops family_basic_out = {
	.name = "basic-out",
	.about = "one mutex, one condition variable, waking outside the lock",
	.variant = BASIC_OUT,
	BASIC_OPS,
};
