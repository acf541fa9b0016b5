/* The late frames of a stream, in the order of replay: a B+ tree of {seq_no, timestamp, position}.
 *
 * A frame is late when its key is below that of a frame appended before it. Finding a key is logarithmic, going on from there is not even that. Frames that
 * retention has dropped stay in the tree until a sweep passes them: readers skip what is below the first position kept. One thread.
 */
#ifndef ORDINAL_QUEUE_STREAM_LATE_H
#define ORDINAL_QUEUE_STREAM_LATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The order of replay. Positions rise with offsets, so they stand for them. */
struct stream_key {
	uint64_t seq_no;
	int64_t timestamp;
	uint64_t pos;
};

static inline bool key_below(const struct stream_key *a, const struct stream_key *b)
{
	if (a->seq_no != b->seq_no)
		return a->seq_no < b->seq_no;
	if (a->timestamp != b->timestamp)
		return a->timestamp < b->timestamp;
	return a->pos < b->pos;
}

struct late {
	struct stream_key key;
	uint32_t size; /* of the frame's bytes */
};

struct late_leaf;

struct late_tree {
	void *root; /* a leaf when depth is 0; NULL: empty */
	unsigned depth;
	uint64_t count;
	uint64_t bytes;          /* of memory */
	struct stream_key swept; /* the sweep goes on from here */
};

struct late_iter {
	const struct late_leaf *leaf;
	unsigned i;
};

/* A zero-filled tree is an empty one. */
void late_done(struct late_tree *t);
/* 0 or -ENOMEM (nothing has changed then). The key must not be there yet. */
int late_add(struct late_tree *t, const struct late *e);
/* The iterator is valid until the tree changes. It gives the first key at or above `from`, and those after it; NULL at the end. */
struct late_iter late_seek(const struct late_tree *t, const struct stream_key *from);
const struct late *late_next(struct late_iter *it);

/* Drops what is below `pos`, in up to `leaves` leaves. True: the whole tree has been passed since it last said so. */
bool late_sweep(struct late_tree *t, uint64_t pos, unsigned leaves);

#endif
