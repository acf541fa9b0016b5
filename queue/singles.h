/* The comparison mode: IDs of the default sequence that go from the producer to the shards one by one, through queues
 * of the family (queue/family), in place of ranges.
 *
 * A member for many consumers is one queue that all shards take from; a member for one consumer is a queue for each
 * shard. Strict order needs a queue that is first in, first out for all shards together, or one shard: a member that
 * cannot keep the promise is refused at start, not served more weakly.
 * Members that carry ranges get ranges of up to SINGLES_RANGE IDs, and still give IDs out one by one.
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

/* Main thread. 0; -EINVAL with a sentence in *ret_why, which stays until the calling thread's next call; -ENOMEM. */
int singles_new(const struct singles_opts *o, struct singles **ret, const char **ret_why);
void singles_free(struct singles *s);

/* Producer thread. Puts the IDs first … first+count-1 in, in order, as many as there is room for, and returns how many
 * that were. */
uint64_t singles_put(struct singles *s, uint64_t first, uint64_t count);
/* Consumer `who`'s thread. Takes the next ID out; false: there was none. */
bool singles_take(struct singles *s, unsigned who, uint64_t *ret_id);
/* How many IDs a consumer takes between two demands for more. */
uint32_t singles_refill(const struct singles *s);
/* Producer thread, when no consumer takes any more: empties the queues. If what was inside was all of [x, end), returns
 * x: nobody has had those IDs. Else `end`. */
uint64_t singles_take_back(struct singles *s, uint64_t end);

#endif
