/* The comparison mode: IDs of the default sequence that go from the producer to the shards one by one, through queues
 * of the family (queue/family), in place of ranges.
 *
 * A member for many consumers is one queue that all shards take from; a member for one consumer is a queue for each
 * shard. Strict order needs a queue that is first in, first out for all shards together, or one shard: a member that
 * cannot keep the promise is refused at start, not served more weakly.
 * Members that carry ranges get ranges of up to SINGLES_RANGE IDs, and still give IDs out one by one.
 *
 * A request for several IDs needs consecutive ones. With one consumer what comes out of any queue is consecutive, so
 * they are collected, in batches; with more, another consumer may get an ID in between, and such a request is refused.
 */
#ifndef ORDINAL_QUEUE_SINGLES_H
#define ORDINAL_QUEUE_SINGLES_H

#include <stdbool.h>
#include <stdint.h>

#define SINGLES_RANGE 64

struct singles;

struct singles_opts {
	const char *queue;  /* a member's name */
	unsigned consumers; /* shards' views */
	bool strict;
	uint32_t depth; /* IDs (with ranges: ranges) in each queue */
};

/* Whether singles_new could make them, memory aside. As it says. */
int singles_check(const struct singles_opts *o, const char **ret_why);
/* Main thread. 0; -EINVAL with a sentence in *ret_why, which stays until the calling thread's next call; -ENOMEM. */
int singles_new(const struct singles_opts *o, struct singles **ret, const char **ret_why);
void singles_free(struct singles *s);

/* Producer thread. Puts the IDs first … first+count-1 in, in order, as many as there is room for, and returns how many
 * that were. */
uint64_t singles_put(struct singles *s, uint64_t first, uint64_t count);
/* Whether singles_take takes more than one ID: there is one consumer. */
bool singles_takes_many(const struct singles *s);
/* Consumer `who`'s thread. Takes the next `count` IDs out, *ret_first and those after it; false: there were not as many.
 * What there was is kept for the next call. */
bool singles_take(struct singles *s, unsigned who, uint32_t count, uint64_t *ret_first);
/* How many IDs a consumer takes between two demands for more. */
uint32_t singles_refill(const struct singles *s);
/* Producer thread, when no consumer takes any more: empties the queues. If what was inside was all of [x, end), returns
 * x: nobody has had those IDs. Else `end`. */
uint64_t singles_take_back(struct singles *s, uint64_t end);

#endif
