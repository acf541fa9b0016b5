/* Where the frames of a stream are: one block for about 32 KiB of them. Runs on the stream's owner.
 *
 * Invariant: running maxima, positions and offsets rise from block to block, so each is found by halving.
 */
#include "queue/stream_impl.h"

#include <stdlib.h>

void index_done(struct block_index *x)
{
	free(x->v);
	*x = (struct block_index){.v = NULL};
}

int index_reserve(struct block_index *x)
{
	uint64_t used = x->end - x->begin, cap = x->cap;
	struct stream_block *v;

	if (x->end - x->base + 2 <= cap)
		return 0;
	if (x->begin > x->base && used <= cap / 2) {
		memmove(x->v, index_at(x, x->begin), used * sizeof *x->v);
		x->base = x->begin;
		if (used + 2 <= cap)
			return 0;
	}
	cap = cap ? 2 * cap : 4;
	v = reallocarray(x->v, cap, sizeof *v);
	if (v == NULL)
		return -ENOMEM;
	x->v = v;
	x->cap = cap;
	return 0;
}

struct stream_block *index_put(struct block_index *x, uint64_t number)
{
	struct stream_block *b;

	CHECK(number >= x->begin && number <= x->end && x->end - x->base < x->cap);
	b = index_at(x, number);
	memmove(b + 1, b, (x->end - number) * sizeof *b);
	x->end++;
	return b;
}

uint64_t index_find_pos(const struct block_index *x, uint64_t pos)
{
	uint64_t lo = x->begin, hi = x->end;

	while (lo < hi) { /* the first that begins above pos */
		uint64_t mid = lo + (hi - lo) / 2;

		if (index_at(x, mid)->pos <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > x->begin ? lo - 1 : x->end;
}

uint64_t index_find_offset(const struct block_index *x, uint64_t offset)
{
	uint64_t lo = x->begin, hi = x->end;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (index_at(x, mid)->first_offset <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > x->begin ? lo - 1 : x->end;
}

uint64_t block_end_offset(const struct stream_own *o, uint64_t number)
{
	return number + 1 < o->index.end ? index_at(&o->index, number + 1)->first_offset : o->next_offset;
}

void block_end_max(const struct stream_own *o, uint64_t number, uint64_t *ret_seq, int64_t *ret_ts)
{
	if (number + 1 < o->index.end) {
		*ret_seq = index_at(&o->index, number + 1)->max_seq;
		*ret_ts = index_at(&o->index, number + 1)->max_ts;
	} else {
		*ret_seq = o->max_seq;
		*ret_ts = o->max_ts;
	}
}

uint64_t index_find_seq(const struct stream_own *o, uint64_t seq_no)
{
	uint64_t lo = o->index.begin, hi = o->index.end;

	while (lo < hi) { /* the first whose running maximum after it has come to seq_no */
		uint64_t mid = lo + (hi - lo) / 2, max_seq;
		int64_t max_ts;

		block_end_max(o, mid, &max_seq, &max_ts);
		if (max_seq < seq_no)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void index_trim(struct stream_own *o, uint64_t offset)
{
	struct block_index *x = &o->index;

	while (x->begin < x->end && block_end_offset(o, x->begin) <= offset)
		x->begin++;
	if (o->where_block < x->begin)
		o->where_block = x->begin;
	if (x->begin == x->end)
		x->base = x->begin;
}
