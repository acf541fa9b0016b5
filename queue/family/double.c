/* Two lists: producers fill one, consumers drain the other, and a consumer that finds its list empty swaps them
 * (Sogou workflow's msgqueue). A consumer meets the producers once per swap instead of once per item.
 *
 * A consumer that finds both lists empty waits for the producers while it keeps take_lock, so the other consumers
 * queue up on that mutex and only one thread ever waits on `ready`. That is why a dequeue without `wait` only tries
 * take_lock. It also means that the mutex chooses who is next, and it is not fair: the consumer that has just given
 * take_lock back may have it again before one that was woken for it has begun to run.
 *
 * The original bounds the producers' list alone and so holds up to twice its maximum; double_lists.h has the lists,
 * their locks and what keeps them within the bound.
 * Source: Sogou workflow, src/kernel/msgqueue.c.
 */
#include "queue/family/double_lists.h"

struct double_queue {
	struct family_queue base;
	struct double_lists lists;
	pthread_cond_t ready; /* with put_lock */
};

static int double_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct double_queue *d = family_alloc(sizeof *d);

	if (d == NULL)
		return -ENOMEM;
	d->base.ops = ops;
	if (double_lists_init(&d->lists, opts->capacity) != 0) {
		free(d);
		return -ENOMEM;
	}
	pthread_cond_init(&d->ready, NULL);
	*ret = &d->base;
	return 0;
}

static void double_done(struct family_queue *q)
{
	struct double_queue *d = container_of(q, struct double_queue, base);

	pthread_cond_destroy(&d->ready);
	double_lists_done(&d->lists);
	free(d);
}

static int double_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct double_queue *d = container_of(q, struct double_queue, base);
	struct double_lists *l = &d->lists;
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&l->put_lock);
	for (;;) {
		put += double_lists_put(l, items + put, n - put);
		if (put == n || l->closed || !wait)
			break;
		pthread_cond_signal(&d->ready);
		pthread_cond_wait(&l->space, &l->put_lock);
	}
	closed = l->closed;
	pthread_mutex_unlock(&l->put_lock);
	if (put > 0)
		pthread_cond_signal(&d->ready);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

/* Under take_lock, with an empty take list: makes the producers' list ours. 0, -EPIPE or -EAGAIN. */
static int double_fetch(struct double_queue *d, bool wait)
{
	struct double_lists *l = &d->lists;
	bool closed;

	pthread_mutex_lock(&l->put_lock);
	while (wait && l->put_len == 0 && !l->closed)
		pthread_cond_wait(&d->ready, &l->put_lock);
	closed = l->closed;
	double_lists_swap(l);
	if (l->take_len > 0)
		return 0;
	return closed ? -EPIPE : -EAGAIN;
}

static int double_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct double_queue *d = container_of(q, struct double_queue, base);
	int r = 0;

	if (wait)
		pthread_mutex_lock(&d->lists.take_lock);
	else if (pthread_mutex_trylock(&d->lists.take_lock) != 0)
		return -EAGAIN;
	if (double_lists_has_taken_all(&d->lists))
		r = double_fetch(d, wait);
	if (r == 0)
		r = (int)double_lists_take(&d->lists, items, n);
	pthread_mutex_unlock(&d->lists.take_lock);
	return r;
}

static void double_close(struct family_queue *q)
{
	struct double_queue *d = container_of(q, struct double_queue, base);

	pthread_mutex_lock(&d->lists.put_lock);
	d->lists.closed = true;
	pthread_cond_broadcast(&d->ready);
	pthread_cond_broadcast(&d->lists.space);
	pthread_mutex_unlock(&d->lists.put_lock);
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
