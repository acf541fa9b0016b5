/* Single IDs through queues of the family; see the header. Putting runs on the producer's thread, taking on the
 * shards'; neither ever waits in a queue: a full one is looked at again when a shard asks for more, an empty one when
 * the producer answers.
 *
 * Invariant: each queue's IDs rise, because one thread puts them, in order. With one queue that is first in, first out,
 * an ID that is taken after another was taken is higher: strict order, as requests take only after they have arrived.
 * With more queues, or more lanes, each shard's IDs rise.
 * IDs `held` have left the queue for a request that wants more; they are above all that were given out, and nobody else
 * takes, so they are the next to be given out, whoever asks then.
 */
#include "queue/singles.h"

#include "core/base/check.h"
#include "queue/family/family.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SINGLES_RUN 8    /* IDs put into one queue before the next has its turn: a cache line */
#define SINGLES_BATCH 64 /* IDs taken by one call for a request that wants several */

/* What a consumer has taken: where a queue has no bound of its own, so that it gets one. */
struct taken {
	_Alignas(CACHE_LINE) _Atomic uint64_t ids; /* stored by the consumer, read by the producer */
};

struct singles {
	unsigned consumers, queues; /* one queue, or one for each consumer */
	bool ranges;
	uint32_t depth;
	struct taken *taken; /* NULL: the queue is bounded */
	uint64_t put;        /* producer: in all */
	uint32_t refill;
	unsigned next, run; /* producer: the queue whose turn it is, and how many it has had of it */
	_Alignas(CACHE_LINE) uint64_t held_first; /* the one consumer's, as is the next */
	uint32_t held;
	struct family_queue *queue[];
};

static _Thread_local char why[768];

static const char *why_unknown(const char *name)
{
	size_t n = (size_t)snprintf(why, sizeof why,
				    "ID_QUEUE=\"%.64s\" is neither \"ranges\" nor a queue of queue/family:", name);

	for (unsigned i = 0; i < family_count && n < sizeof why; i++)
		n += (size_t)snprintf(why + n, sizeof why - n, " %s", family_members[i]->name);
	return why;
}

/* Why this member cannot do what is asked for; NULL: it can. */
static const char *why_not(const struct family_ops *ops, const struct singles_opts *o)
{
	if (o->consumers == 1)
		return NULL; /* with one producer and one consumer every member keeps the order */
	if (ops->order == FAMILY_UNORDERED) {
		snprintf(
			why, sizeof why,
			"ID_QUEUE=\"%s\" keeps no order when %u threads take from it: it takes SHARDS=1 and HANDLER_THREADS=0",
			ops->name, o->consumers);
		return why;
	}
	if (o->strict && (ops->order != FAMILY_FIFO || ops->consumers_max == 1)) {
		snprintf(
			why, sizeof why,
			"ID_QUEUE=\"%s\" gives each of %u threads IDs of its own, so the order is not strict: it takes "
			"ID_ORDER=sharded, or SHARDS=1 and HANDLER_THREADS=0",
			ops->name, o->consumers);
		return why;
	}
	return NULL;
}

/* The member that these options ask for; NULL with a sentence in *ret_why if there is none that can. */
static const struct family_ops *member(const struct singles_opts *o, const char **ret_why)
{
	const struct family_ops *ops = family_find(o->queue);

	*ret_why = ops != NULL ? why_not(ops, o) : why_unknown(o->queue);
	return *ret_why == NULL ? ops : NULL;
}

int singles_check(const struct singles_opts *o, const char **ret_why)
{
	return member(o, ret_why) != NULL ? 0 : -EINVAL;
}

int singles_new(const struct singles_opts *o, struct singles **ret, const char **ret_why)
{
	const struct family_ops *ops = member(o, ret_why);
	bool each = ops != NULL && ops->consumers_max != 0 && ops->consumers_max < o->consumers;
	unsigned queues = each ? o->consumers : 1;
	struct family_opts fo = {.capacity = o->depth, .producers = 1, .consumers = each ? 1 : o->consumers};
	struct singles *s;
	size_t size;
	int rc;

	if (ops == NULL)
		return -EINVAL;
	size = (sizeof *s + queues * sizeof *s->queue + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	s = aligned_alloc(CACHE_LINE, size);
	if (s == NULL)
		return -ENOMEM;
	memset(s, 0, size);
	s->consumers = o->consumers;
	s->ranges = ops->enqueue_range != NULL;
	s->depth = o->depth;
	s->refill = each ? o->depth / 2 : o->depth / 2 / o->consumers;
	if (s->refill == 0)
		s->refill = 1;
	if (!ops->bounded) {
		s->taken = aligned_alloc(CACHE_LINE, o->consumers * sizeof *s->taken);
		if (s->taken == NULL) {
			singles_free(s);
			return -ENOMEM;
		}
		memset(s->taken, 0, o->consumers * sizeof *s->taken);
	}
	for (; s->queues < queues; s->queues++) {
		rc = family_init(ops, &fo, &s->queue[s->queues]);
		if (rc == 0)
			continue;
		singles_free(s);
		snprintf(why, sizeof why, "ID_QUEUE=\"%s\" cannot be made with QUEUE_DEPTH=%u for %u threads: %s",
			 ops->name, o->depth, o->consumers, strerror(-rc));
		*ret_why = why;
		return rc;
	}
	*ret = s;
	return 0;
}

void singles_free(struct singles *s)
{
	if (s == NULL)
		return;
	for (unsigned i = 0; i < s->queues; i++)
		family_done(s->queue[i]);
	free(s->taken);
	free(s);
}

static uint64_t put_ranges(struct singles *s, uint64_t first, uint64_t count)
{
	uint64_t put = 0;

	while (put < count) {
		uint32_t n = count - put < SINGLES_RANGE ? (uint32_t)(count - put) : SINGLES_RANGE;

		if (family_enqueue_range(s->queue[0], 0, first + put, n, false) != 0)
			break;
		put += n;
	}
	return put;
}

/* A queue that grows: no more than `depth` inside. */
static uint64_t put_growing(struct singles *s, uint64_t first, uint64_t count)
{
	uint64_t taken = 0, put = 0;

	for (unsigned i = 0; i < s->consumers; i++)
		taken += atomic_load_explicit(&s->taken[i].ids, memory_order_relaxed);
	while (put < count && s->put - taken < s->depth && family_enqueue(s->queue[0], 0, first + put, false) == 0) {
		put++;
		s->put++;
	}
	return put;
}

uint64_t singles_put(struct singles *s, uint64_t first, uint64_t count)
{
	uint64_t put = 0;
	unsigned full = 0; /* in a row */

	if (s->ranges)
		return put_ranges(s, first, count);
	if (s->taken != NULL)
		return put_growing(s, first, count);
	while (put < count && full < s->queues) {
		if (family_enqueue(s->queue[s->next], 0, first + put, false) == 0) {
			put++;
			full = 0;
			if (++s->run < SINGLES_RUN)
				continue;
		} else {
			full++;
		}
		s->run = 0;
		s->next = s->next + 1 < s->queues ? s->next + 1 : 0;
	}
	return put;
}

static inline void note_taken(struct singles *s, unsigned who, unsigned n)
{
	if (s->taken != NULL)
		atomic_store_explicit(&s->taken[who].ids,
				      atomic_load_explicit(&s->taken[who].ids, memory_order_relaxed) + n,
				      memory_order_relaxed);
}

/* Collects until `count` are held; false: the queue is empty before that. */
static bool hold(struct singles *s, uint32_t count)
{
	uint64_t ids[SINGLES_BATCH];

	while (s->held < count) {
		uint32_t n = count - s->held < SINGLES_BATCH ? count - s->held : SINGLES_BATCH;
		int got = family_dequeue_batch(s->queue[0], 0, ids, n, false);

		if (got <= 0)
			return false;
		if (s->held == 0)
			s->held_first = ids[0];
		for (int i = 0; i < got; i++)
			CHECK(ids[i] == s->held_first + s->held + (unsigned)i);
		s->held += (unsigned)got;
		note_taken(s, 0, (unsigned)got);
	}
	return true;
}

bool singles_takes_many(const struct singles *s)
{
	return s->consumers == 1;
}

bool singles_take(struct singles *s, unsigned who, uint32_t count, uint64_t *ret_first)
{
	bool each = s->queues > 1;

	if (count > 1 || s->held > 0) {
		DCHECK(singles_takes_many(s));
		if (!hold(s, count))
			return false;
		*ret_first = s->held_first;
		s->held_first += count;
		s->held -= count;
		return true;
	}
	if (family_dequeue(s->queue[each ? who : 0], each ? 0 : who, ret_first, false) != 0)
		return false;
	note_taken(s, who, 1);
	return true;
}

uint32_t singles_refill(const struct singles *s)
{
	return s->refill;
}

uint64_t singles_take_back(struct singles *s, uint64_t end)
{
	uint64_t lowest = end, count = 0, id;

	for (unsigned who = 0; who < s->consumers; who++) {
		while (singles_take(s, who, 1, &id)) {
			count++;
			if (id < lowest)
				lowest = id;
		}
	}
	return end - lowest == count ? lowest : end;
}
