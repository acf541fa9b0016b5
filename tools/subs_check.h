/* What one subscriber of the load generator received: once each, in order, nothing left out? Pure; one owner.
 *
 * Order is judged by what the server promises: history rises in (seq_no, timestamp, offset), what follows CAUGHT_UP rises in offset. Whether anything is
 * missing or came twice is judged by the numbers that publishers of this run have put into their payloads: each publisher's must come as 0, 1, 2 …
 * A number that is skipped is a hole; if it comes later, it came out of order; if a number comes that is no hole, it came twice. */
#ifndef ORDINAL_TOOLS_SUBS_CHECK_H
#define ORDINAL_TOOLS_SUBS_CHECK_H

#include "core/base/check.h"
#include "tools/load_stamp.h"

#define SUBS_HOLES_MAX                                                                                                 \
	1024 /* of each subscriber; beyond, the oldest is forgotten, and what fills it later counts as unchecked */

struct subs_hole {
	uint32_t publisher;
	uint64_t from, to; /* numbers that did not come: from … to - 1 */
};

struct subs_check {
	bool live; /* CAUGHT_UP has come */
	bool any;
	uint64_t seq_no, offset; /* of the last frame in order; live: the highest offset */
	int64_t timestamp;
	uint64_t received; /* frames */
	uint64_t repeated, disordered;
	uint64_t
		flagged; /* `received` when a frame was last counted as one of these for its offset: it is not counted again for its number */
	uint64_t own;       /* frames of this run, repeats not counted */
	uint64_t unchecked; /* frames of this run of which it is not known whether they are repeats */
	uint64_t lowest;    /* offset; UINT64_MAX: none yet */
	uint64_t highest;   /* of history */
	uint32_t publishers;
	uint64_t *next; /* of each publisher of this run: the number to come */
	struct subs_hole *hole;
	uint32_t holes, holes_cap;
};

/* 0 or -ENOMEM. publishers: of this run; 0: only order is judged. */
int subs_check_init(struct subs_check *c, uint32_t publishers);
void subs_check_done(struct subs_check *c);

/* Slow paths of the inline functions below. */
void subs_check_wrong_place(struct subs_check *c, bool same);
void subs_check_jump(struct subs_check *c, const struct load_stamp *s);

/* A frame of history. */
static inline void subs_check_history(struct subs_check *c, uint64_t seq_no, int64_t timestamp, uint64_t offset)
{
	c->received++;
	if (offset < c->lowest)
		c->lowest = offset;
	if (offset > c->highest)
		c->highest = offset;
	if (c->any && unlikely(seq_no < c->seq_no ||
			       (seq_no == c->seq_no &&
				(timestamp < c->timestamp || (timestamp == c->timestamp && offset <= c->offset))))) {
		subs_check_wrong_place(c, seq_no == c->seq_no && timestamp == c->timestamp && offset == c->offset);
		return;
	}
	c->any = true;
	c->seq_no = seq_no;
	c->timestamp = timestamp;
	c->offset = offset;
}

/* CAUGHT_UP has come. */
static inline void subs_check_caught_up(struct subs_check *c)
{
	c->live = true;
	c->offset = c->highest;
}

/* A frame after CAUGHT_UP. */
static inline void subs_check_live(struct subs_check *c, uint64_t offset)
{
	c->received++;
	if (unlikely(c->lowest == UINT64_MAX))
		c->lowest = offset;
	if (unlikely(offset <= c->offset)) {
		subs_check_wrong_place(c, offset == c->offset);
		return;
	}
	c->offset = offset;
}

/* The stamp of a frame of this run. */
static inline void subs_check_stamp(struct subs_check *c, const struct load_stamp *s)
{
	if (likely(s->publisher < c->publishers && s->number == c->next[s->publisher])) {
		c->next[s->publisher]++;
		c->own++;
		return;
	}
	subs_check_jump(c, s);
}

/* Frames of this publisher that came, repeats not counted. */
uint64_t subs_check_came(const struct subs_check *c, uint32_t publisher);

#endif
