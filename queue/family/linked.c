/* A linked list with a lock and a condition at each end, so that producers and consumers do not meet
 * (java.util.concurrent's LinkedBlockingQueue).
 *
 * The head is a dummy node whose item has been taken; a consumer makes the next node the dummy and frees the old one.
 * The ends meet only in `count`. To spare locks, a producer signals `space` to the next producer as long as there is
 * room, a consumer `ready` to the next consumer as long as there are items, and one crosses over to the other side's
 * lock only at the edge: a producer that made the queue not empty, a consumer that made it not full.
 *
 * Invariants: put_lock guards tail and the last node's next; take_lock guards head; a consumer follows head->next
 * only when it has seen count > 0 (acquire), which pairs with the producer's addition (release). `closed` is written
 * under both locks, so each side may read it under its own.
 * Sources: Michael and Scott, PODC 1996, section 3
 * (two-lock queue); OpenJDK, LinkedBlockingQueue.java.
 */
#include "queue/family/members.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct linked_node {
	struct linked_node *next;
	uint64_t item;
};

struct linked {
	struct family_queue base;
	uint32_t capacity;
	bool closed;
	_Alignas(CACHE_LINE) pthread_mutex_t put_lock;
	pthread_cond_t space;
	struct linked_node *tail;
	_Alignas(CACHE_LINE) pthread_mutex_t take_lock;
	pthread_cond_t ready;
	struct linked_node *head;
	_Alignas(CACHE_LINE) atomic_uint count;
};

static int linked_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct linked *l = family_alloc(sizeof *l);

	if (l == NULL)
		return -ENOMEM;
	l->head = l->tail = calloc(1, sizeof *l->head);
	if (l->head == NULL) {
		free(l);
		return -ENOMEM;
	}
	l->base.ops = ops;
	l->capacity = opts->capacity;
	pthread_mutex_init(&l->put_lock, NULL);
	pthread_mutex_init(&l->take_lock, NULL);
	pthread_cond_init(&l->space, NULL);
	pthread_cond_init(&l->ready, NULL);
	*ret = &l->base;
	return 0;
}

static void linked_free_nodes(struct linked_node *node, const struct linked_node *end)
{
	while (node != end) {
		struct linked_node *next = node->next;

		free(node);
		node = next;
	}
}

static void linked_done(struct family_queue *q)
{
	struct linked *l = container_of(q, struct linked, base);

	linked_free_nodes(l->head, NULL);
	pthread_cond_destroy(&l->ready);
	pthread_cond_destroy(&l->space);
	pthread_mutex_destroy(&l->take_lock);
	pthread_mutex_destroy(&l->put_lock);
	free(l);
}

static void linked_signal(pthread_mutex_t *lock, pthread_cond_t *cond)
{
	pthread_mutex_lock(lock);
	pthread_cond_signal(cond);
	pthread_mutex_unlock(lock);
}

/* Makes n nodes, outside the locks. NULL when memory is short. */
static struct linked_node *linked_chain(const uint64_t *items, unsigned n)
{
	struct linked_node *first = NULL, **at = &first;

	for (unsigned i = 0; i < n; i++) {
		struct linked_node *node = malloc(sizeof *node);

		*at = node;
		if (node == NULL) {
			linked_free_nodes(first, NULL);
			return NULL;
		}
		node->item = items[i];
		node->next = NULL;
		at = &node->next;
	}
	return first;
}

/* Moves up to n nodes from *chain to the tail as room allows, under put_lock; the tail's next is written before
 * count, which publishes it. Sets *was_empty if the consumers must hear of it. */
static unsigned linked_append(struct linked *l, struct linked_node **chain, unsigned n, bool *was_empty)
{
	unsigned room = l->capacity -
			atomic_load_explicit(&l->count, memory_order_acquire); /* consumers only make it more */
	unsigned k = n < room ? n : room;
	struct linked_node *last = *chain;
	unsigned before;

	if (k == 0)
		return 0;
	for (unsigned i = 1; i < k; i++)
		last = last->next;
	l->tail->next = *chain;
	*chain = last->next;
	last->next = NULL;
	l->tail = last;
	before = atomic_fetch_add_explicit(&l->count, k, memory_order_acq_rel); /* pairs with linked_dequeue */
	if (before + k < l->capacity)
		pthread_cond_signal(&l->space);
	if (before == 0)
		*was_empty = true;
	return k;
}

static int linked_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct linked *l = container_of(q, struct linked, base);
	struct linked_node *chain = linked_chain(items, n);
	bool was_empty = false, closed;
	unsigned put = 0;

	if (chain == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&l->put_lock);
	while (!l->closed) {
		put += linked_append(l, &chain, n - put, &was_empty);
		if (put == n || !wait)
			break;
		if (was_empty) { /* about to wait: those who could make room must know of the items */
			was_empty = false;
			linked_signal(&l->take_lock, &l->ready); /* lock order: put_lock, then take_lock */
		}
		if (atomic_load_explicit(&l->count, memory_order_acquire) == l->capacity)
			pthread_cond_wait(&l->space, &l->put_lock);
	}
	closed = l->closed;
	pthread_mutex_unlock(&l->put_lock);
	if (was_empty)
		linked_signal(&l->take_lock, &l->ready);
	linked_free_nodes(chain, NULL);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

static int linked_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct linked *l = container_of(q, struct linked, base);
	struct linked_node *old, *head;
	unsigned count, k;
	bool closed;

	pthread_mutex_lock(&l->take_lock);
	for (;;) {
		closed =
			l->closed; /* before count: whatever was put before the close is in the count read after this */
		count = atomic_load_explicit(&l->count, memory_order_acquire);
		if (count > 0 || closed || !wait)
			break;
		pthread_cond_wait(&l->ready, &l->take_lock);
	}
	if (count == 0) {
		pthread_mutex_unlock(&l->take_lock);
		return closed ? -EPIPE : -EAGAIN;
	}
	old = head = l->head;
	k = n < count ? n : count;
	for (unsigned i = 0; i < k; i++) {
		head = head->next;
		items[i] = head->item;
	}
	l->head = head;
	count = atomic_fetch_sub_explicit(&l->count, k, memory_order_acq_rel); /* pairs with linked_append */
	if (count > k)
		pthread_cond_signal(&l->ready);
	pthread_mutex_unlock(&l->take_lock);
	linked_free_nodes(old, head);
	if (count == l->capacity)
		linked_signal(&l->put_lock, &l->space);
	return (int)k;
}

static void linked_close(struct family_queue *q)
{
	struct linked *l = container_of(q, struct linked, base);

	pthread_mutex_lock(&l->put_lock);
	pthread_mutex_lock(&l->take_lock);
	l->closed = true;
	pthread_cond_broadcast(&l->ready);
	pthread_cond_broadcast(&l->space);
	pthread_mutex_unlock(&l->take_lock);
	pthread_mutex_unlock(&l->put_lock);
}

const struct family_ops family_linked = {
	.name = "linked",
	.about = "linked list, a lock and a condition at each end",
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_STOPS,
	.bounded = true,
	.init = linked_init,
	.done = linked_done,
	.enqueue = linked_enqueue,
	.dequeue = linked_dequeue,
	.close = linked_close,
};
