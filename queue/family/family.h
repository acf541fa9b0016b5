/* One interface over every queue of the family: bounded queues of uint64_t between producer and consumer threads.
 *
 * Who may call what
 *   init, done          one thread, while nobody else uses the queue.
 *   enqueue(who)        the thread that is producer `who` now: 0 <= who < opts.producers, each number used by one
 *                       thread at a time.
 *   dequeue(who)        likewise for consumers: 0 <= who < opts.consumers. A thread may be a producer and a consumer.
 *   close               any thread, also in the middle of the others' calls, as often as it likes.
 * How many producers and consumers a member takes, what order it keeps and what a suspended thread does to the others
 * stands in its struct family_ops, and the conformance suite (tests/unit/queue/family) holds each member to it.
 *
 * Close: an enqueue that begins after family_close has returned fails; one that was under way either succeeds, and
 * then the item will be delivered, or fails. Consumers drain what is left and then get -EPIPE. Every waiter is woken.
 *
 * Sources: README.md beside this file names the origin of each member.
 */
#ifndef ORDINAL_QUEUE_FAMILY_FAMILY_H
#define ORDINAL_QUEUE_FAMILY_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAMILY_CAPACITY_MAX (1u << 26)
#define FAMILY_PEERS_MAX 1024u

struct family_queue;

struct family_opts {
	uint32_t capacity; /* the most items inside at a time, 1 to FAMILY_CAPACITY_MAX; see family_ops.bounded */
	unsigned producers, consumers; /* how many numbers `who` there are on each side, 1 to FAMILY_PEERS_MAX */
};

/* What order a consumer may count on. */
enum family_order {
	FAMILY_UNORDERED,    /* none */
	FAMILY_PER_PRODUCER, /* each consumer gets each producer's items in the order in which they were put */
	FAMILY_FIFO, /* a dequeue that begins after another ended gets a later item; implies FAMILY_PER_PRODUCER */
};

/* What happens to the others while a thread is suspended at any point inside a call. */
enum family_peer {
	FAMILY_PEER_STOPS,    /* they may all wait for it */
	FAMILY_PEER_CONSUMER, /* a suspended consumer stops nobody; a suspended producer may */
	FAMILY_PEER_ANY,      /* nobody stops anybody (closing still waits for an enqueue that is under way) */
};

struct family_ops {
	const char *name;                      /* as `bench/queues --queue` takes it */
	const char *about;                     /* one sentence without a full stop */
	unsigned producers_max, consumers_max; /* 0: any number */
	uint32_t capacity_min; /* smallest opts.capacity; 0: 1. (sharded: at least one item for each producer.) */
	enum family_order order;
	enum family_peer peer;
	bool bounded;     /* false: capacity is only where it starts, it grows */
	bool lanes;       /* an item is for one consumer, which the queue chooses; the others cannot take it */
	unsigned variant; /* the member's own */

	/* Use the functions below instead of these. */
	int (*init)(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret);
	void (*done)(struct family_queue *q);
	int (*enqueue)(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait);
	int (*dequeue)(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait);
	void (*close)(struct family_queue *q);
	/* NULL unless the member carries ranges: then the bound counts ranges. */
	int (*enqueue_range)(struct family_queue *q, unsigned who, uint64_t first, uint32_t count, bool wait);
};

/* Every member's struct begins with this. */
struct family_queue {
	const struct family_ops *ops;
};

/* All members, in the order in which tables show them. */
extern const struct family_ops *const family_members[];
extern const unsigned family_count;
/* NULL when there is none of that name. */
const struct family_ops *family_find(const char *name);

/* 0; -EINVAL when opts is outside what the header or the member allows; -ENOMEM. */
int family_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret);
/* Items still inside are forgotten. */
static inline void family_done(struct family_queue *q)
{
	q->ops->done(q);
}

/* Puts up to n (>= 1) items in, in order. The number put; or -EPIPE when closed, -EAGAIN when full and wait is false,
 * -ENOMEM. With `wait` it returns n, or less when the queue was closed meanwhile. */
static inline int family_enqueue_batch(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n,
				       bool wait)
{
	return q->ops->enqueue(q, who, items, n, wait);
}
/* Takes 1 to n items out. The number taken; or -EPIPE when closed and drained, -EAGAIN when there was none for this
 * consumer and wait is false. With `wait` it waits for the first item only. -EAGAIN can also mean that another thread
 * is in the middle of a call. */
static inline int family_dequeue_batch(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return q->ops->dequeue(q, who, items, n, wait);
}
/* The same for one item: 0 or the error. */
static inline int family_enqueue(struct family_queue *q, unsigned who, uint64_t item, bool wait)
{
	int r = q->ops->enqueue(q, who, &item, 1, wait);

	return r > 0 ? 0 : r;
}
static inline int family_dequeue(struct family_queue *q, unsigned who, uint64_t *ret_item, bool wait)
{
	int r = q->ops->dequeue(q, who, ret_item, 1, wait);

	return r > 0 ? 0 : r;
}
/* first … first+count-1 (count >= 1) in one element; only where ops->enqueue_range is set. 0 or an error as above. */
static inline int family_enqueue_range(struct family_queue *q, unsigned who, uint64_t first, uint32_t count, bool wait)
{
	int r = q->ops->enqueue_range(q, who, first, count, wait);

	return r > 0 ? 0 : r;
}
static inline void family_close(struct family_queue *q)
{
	q->ops->close(q);
}

#endif
