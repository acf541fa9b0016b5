/* Two lists: producers fill one, consumers drain the other, and a consumer that finds its list empty swaps them
 * (Sogou workflow's msgqueue). A consumer meets the producers once per swap instead of once per item.
 *
 * A consumer that finds both lists empty waits for the producers while it keeps take_lock, so the other consumers
 * queue up on that mutex and only one thread ever waits on `ready`. That is why a dequeue without `wait` only tries
 * take_lock. The original bounds the producers' list alone and so holds up to twice its maximum; here each list has
 * half, so that both together respect the bound: a swap is followed at once, under take_lock, by a take, so the total
 * is at most 2 * half - 1 <= capacity.
 *
 * Invariants: put_lock guards put (list, length), closed; take_lock guards take (list, position, length). Order:
 * take_lock, then put_lock.
 * Source: Sogou workflow, src/kernel/msgqueue.c.
 */
#include "queue/family/members.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct double_queue {
	struct family_queue base;
	uint32_t half; /* room in each list */
	_Alignas(CACHE_LINE) pthread_mutex_t put_lock;
	pthread_cond_t ready, space;
	uint64_t *put;
	uint32_t put_len;
	bool closed;
	_Alignas(CACHE_LINE) pthread_mutex_t take_lock;
	uint64_t *take;
	uint32_t take_pos, take_len;
};

static int double_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct double_queue *d = family_alloc(sizeof *d);

	if (d == NULL)
		return -ENOMEM;
	d->base.ops = ops;
	d->half = (opts->capacity + 1) / 2;
	d->put = family_alloc((size_t)d->half * sizeof *d->put);
	d->take = family_alloc((size_t)d->half * sizeof *d->take);
	if (d->put == NULL || d->take == NULL) {
		free(d->put);
		free(d->take);
		free(d);
		return -ENOMEM;
	}
	pthread_mutex_init(&d->put_lock, NULL);
	pthread_mutex_init(&d->take_lock, NULL);
	pthread_cond_init(&d->ready, NULL);
	pthread_cond_init(&d->space, NULL);
	*ret = &d->base;
	return 0;
}

static void double_done(struct family_queue *q)
{
	struct double_queue *d = container_of(q, struct double_queue, base);

	pthread_cond_destroy(&d->space);
	pthread_cond_destroy(&d->ready);
	pthread_mutex_destroy(&d->take_lock);
	pthread_mutex_destroy(&d->put_lock);
	free(d->put);
	free(d->take);
	free(d);
}

static int double_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct double_queue *d = container_of(q, struct double_queue, base);
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&d->put_lock);
	for (;;) {
		uint32_t room = d->closed ? 0 : d->half - d->put_len;
		unsigned k = n - put < room ? n - put : room;

		memcpy(d->put + d->put_len, items + put, k * sizeof *items);
		d->put_len += k;
		put += k;
		if (put == n || d->closed || !wait)
			break;
		pthread_cond_signal(&d->ready);
		pthread_cond_wait(&d->space, &d->put_lock);
	}
	closed = d->closed;
	pthread_mutex_unlock(&d->put_lock);
	if (put > 0)
		pthread_cond_signal(&d->ready);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

/* Under take_lock, with an empty take list: makes the producers' list ours. 0, -EPIPE or -EAGAIN. */
static int double_swap(struct double_queue *d, bool wait)
{
	uint64_t *list = d->take;
	bool closed, was_full;

	pthread_mutex_lock(&d->put_lock);
	while (wait && d->put_len == 0 && !d->closed)
		pthread_cond_wait(&d->ready, &d->put_lock);
	closed = d->closed;
	was_full = d->put_len == d->half;
	d->take = d->put;
	d->take_len = d->put_len;
	d->take_pos = 0;
	d->put = list;
	d->put_len = 0;
	pthread_mutex_unlock(&d->put_lock);
	if (was_full)
		pthread_cond_broadcast(&d->space);
	if (d->take_len > 0)
		return 0;
	return closed ? -EPIPE : -EAGAIN;
}

static int double_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct double_queue *d = container_of(q, struct double_queue, base);
	int r = 0;

	if (wait)
		pthread_mutex_lock(&d->take_lock);
	else if (pthread_mutex_trylock(&d->take_lock) != 0)
		return -EAGAIN;
	if (d->take_pos == d->take_len)
		r = double_swap(d, wait);
	if (r == 0) {
		uint32_t left = d->take_len - d->take_pos;
		uint32_t k = n < left ? n : left;

		memcpy(items, d->take + d->take_pos, k * sizeof *items);
		d->take_pos += k;
		r = (int)k;
	}
	pthread_mutex_unlock(&d->take_lock);
	return r;
}

static void double_close(struct family_queue *q)
{
	struct double_queue *d = container_of(q, struct double_queue, base);

	pthread_mutex_lock(&d->put_lock);
	d->closed = true;
	pthread_cond_broadcast(&d->ready);
	pthread_cond_broadcast(&d->space);
	pthread_mutex_unlock(&d->put_lock);
}

const struct family_ops family_double = {
	.name = "double",
	.about = "double list, swapped when the consumers' side is empty",
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_STOPS,
	.bounded = true,
	.init = double_init,
	.done = double_done,
	.enqueue = double_enqueue,
	.dequeue = double_dequeue,
	.close = double_close,
};
