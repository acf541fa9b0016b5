/* What comes next in a sorted history: a plan of steps, each greater than the ones before. Runs on
 * the stream's owner.
 *
 * A history is two sorted sequences to be merged: the run (frames that are not late, in the order
 * of the log) and the late tree. Where no late frame falls into a block, and the block has none of
 * its own, it is given as it is (RANGE, many blocks at once); else its frames are merged by whoever
 * carries the step out (MERGE), so that no frame is looked at here. Going on costs one search in
 * each sequence a call, nothing else is kept: the state is the key below which everything has been
 * planned, and the block to go on with.
 *
 * Invariants: a step's keys are below `history.from` after it, and at or above it before. A frame
 * that is not late in block b has a key at or above the running maximum before b and at or below
 * the one after it; a late frame's key is below the running maximum of when it came. No frame is
 * planned again after it was given: a MERGE is given whole or not at all, and of a RANGE that
 * retention has overtaken only the part that was not given is planned again (history.part_*). */
#include "queue/stream_impl.h"

static struct stream_key key_after(struct stream_key k)
{
	k.pos++;
	return k;
}

void history_begin(const struct stream *s, struct history *h, uint64_t seq_no)
{
	const struct block_index *x = &s->own.index;
	uint64_t number;

	*h = (struct history){.seq_no = seq_no, .from = {seq_no, INT64_MIN, 0}};
	edge_get(&s->durable, &h->end_pos, &h->end_offset);
	if (h->end_pos > 0) {
		number = index_find_pos(x, h->end_pos - 1);
		h->end_where = number < x->end ? index_at(x, number)->where : 0;
	}
}

/* ---- gaps ---- */

static void plan_gap(struct plan *p, uint64_t from, uint64_t to, const struct history *h)
{
	if (to > h->end_offset)
		to = h->end_offset;
	if (from <= to)
		p->step[p->n++] = (struct step){.kind = STEP_GAP, .pos = from, .end = to, .before = *h};
}

/* Positions the run on block `number`, or at its end. */
static void run_at(const struct stream_own *o, struct history *h, uint64_t number)
{
	const struct stream_block *b = number < o->index.end ? index_at(&o->index, number) : NULL;

	if (b != NULL && b->pos < h->end_pos) {
		h->run_pos = b->pos;
		h->run_offset = b->first_offset;
	} else {
		h->run_pos = h->end_pos;
		h->run_offset = h->end_offset + 1;
	}
}

/* Retention has dropped the front of what is left of a RANGE, or all of it. */
static void part_trim(struct history *h, uint64_t first_pos, uint64_t first)
{
	if (h->part_frames == 0 || first <= h->part_offset)
		return;
	if (first - h->part_offset >= h->part_frames) {
		h->part_frames = 0;
		return;
	}
	h->part_frames -= (uint32_t)(first - h->part_offset);
	h->part_offset = first;
	h->part_pos = first_pos;
}

/* Begins, or finds out what retention has taken since the last time. */
static void catch_up(const struct stream *s, struct history *h, struct plan *p)
{
	const struct stream_own *o = &s->own;
	uint64_t first_pos, first, next;

	edge_get(&s->first, &first_pos, &first);
	if (!h->begun) {
		uint64_t max_seq = o->index.begin < o->index.end ? index_at(&o->index, o->index.begin)->max_seq
								 : o->max_seq;

		if (first > 1 && h->from.seq_no <= max_seq)
			plan_gap(p, 1, first - 1, h);
		h->begun = true;
		h->first_offset = first;
		run_at(o, h, index_find_seq(o, h->from.seq_no));
		return;
	}
	if (first <= h->first_offset)
		return;
	/* Every frame in front of `next` has been given, the late ones too: their keys are at or
	 * below the running maximum there. Of the frames from `next` on a few can have been given:
	 * late ones, and those of a block that more late frames fall into than one step holds. */
	next = h->part_frames > 0 ? h->part_offset : h->run_offset;
	if (next < first)
		plan_gap(p, next, first - 1, h);
	h->first_offset = first;
	part_trim(h, first_pos, first);
	if (h->run_offset < first)
		run_at(o, h, o->index.begin);
}

/* ---- steps ---- */

/* What planning needs while it runs. */
struct planner {
	const struct stream *s;
	const struct stream_own *o;
	struct history *h;
	struct plan *p;
	struct late_iter it;
	const struct late *late; /* the next one that counts, or NULL */
	uint64_t first_pos;
};

static void late_skip(struct planner *pl)
{
	do {
		pl->late = late_next(&pl->it);
	} while (pl->late != NULL && (pl->late->key.pos < pl->first_pos || pl->late->key.pos >= pl->h->end_pos));
}

void plan_free(struct plan *p)
{
	if (p != NULL)
		free(p->late);
	free(p);
}

/* Room for one more late frame. False: no memory. */
static bool late_room(struct plan *p)
{
	uint32_t cap = p->late_cap ? 2 * p->late_cap : PLAN_LATE_FIRST;
	struct late_ref *grown;

	if (p->lates < p->late_cap)
		return true;
	grown = realloc(p->late, cap * sizeof *grown);
	if (grown == NULL)
		return false;
	p->late = grown;
	p->late_cap = cap;
	return true;
}

/* Moves late frames up to `bound` to the plan. False: there are more of them than fit, and *bound is the last one moved. */
static bool take_late(struct planner *pl, struct step *st, struct stream_key *bound)
{
	struct plan *p = pl->p;
	uint64_t bytes = 0;

	st->late = p->lates;
	for (; pl->late != NULL && !key_below(bound, &pl->late->key); late_skip(pl)) {
		uint64_t number;

		if (p->lates == PLAN_LATE || (bytes > 0 && bytes + pl->late->size > MERGE_LATE_BYTES)) {
			*bound = p->late[p->lates - 1].key;
			return false;
		}
		if (!late_room(p)) {
			p->failed = true;
			return false;
		}
		number = index_find_pos(&pl->o->index, pl->late->key.pos);
		p->late[p->lates] = (struct late_ref){pl->late->key, index_at(&pl->o->index, number)->where,
						      pl->late->size};
		bytes += pl->late->size;
		p->lates++;
		st->lates++;
	}
	return true;
}

static bool plan_is_full(const struct plan *p)
{
	return p->n == PLAN_STEPS || p->lates == PLAN_LATE || p->failed;
}

/* A block as it is: behind the step before it, if they are neighbours. */
static void plan_range(struct planner *pl, const struct stream_block *b, uint64_t end, uint64_t end_offset)
{
	struct plan *p = pl->p;
	struct step *last = p->n > 0 ? &p->step[p->n - 1] : NULL;
	uint32_t frames = (uint32_t)(end_offset - b->first_offset);

	if (last != NULL && last->kind == STEP_RANGE && last->end == b->pos &&
	    last->pos / STREAM_UNIT == b->pos / STREAM_UNIT) {
		last->end = end;
		last->frames += frames;
		return;
	}
	p->step[p->n++] = (struct step){.kind = STEP_RANGE,
					.pos = b->pos,
					.end = end,
					.where = b->where,
					.offset = b->first_offset,
					.frames = frames,
					.before = *pl->h};
}

/* What was not given of a RANGE. Its frames stay a RANGE: late frames that came since do not belong
 * to this history. */
static void plan_part(const struct stream_own *o, struct history *h, struct plan *p)
{
	uint64_t number = index_find_pos(&o->index, h->part_pos);

	p->step[p->n++] = (struct step){.kind = STEP_RANGE,
					.pos = h->part_pos,
					.end = h->part_end,
					.where = index_at(&o->index, number)->where,
					.offset = h->part_offset,
					.frames = h->part_frames,
					.before = *h};
	h->part_frames = 0;
}

/* One block of the run, with the late frames that fall into it. */
static void plan_block(struct planner *pl, uint64_t number)
{
	const struct stream_block *b = index_at(&pl->o->index, number);
	uint64_t end = b->pos + b->bytes, end_offset = block_end_offset(pl->o, number);
	struct history *h = pl->h;
	struct stream_key least = {b->max_seq, b->max_ts, b->pos}, bound;
	struct step *st;
	bool all, late;

	if (end > h->end_pos) {
		end = h->end_pos;
		end_offset = h->end_offset + 1;
	}
	block_end_max(pl->o, number, &bound.seq_no, &bound.timestamp);
	bound.pos = end - 1;
	late = pl->late != NULL && !key_below(&bound, &pl->late->key);
	if (!b->has_run && !late) {
		run_at(pl->o, h, number + 1);
		return;
	}
	if (!b->has_late && !key_below(&least, &h->from) && !late) {
		plan_range(pl, b, end, end_offset);
		h->from = key_after(bound);
		run_at(pl->o, h, number + 1);
		return;
	}
	st = &pl->p->step[pl->p->n++];
	*st = (struct step){.kind = STEP_MERGE,
			    .pos = b->has_run ? b->pos : end, /* else late frames alone */
			    .end = end,
			    .where = b->where,
			    .max_seq = b->max_seq,
			    .max_ts = b->max_ts,
			    .from = h->from,
			    .before = *h};
	all = take_late(pl, st, &bound);
	if (pl->p->failed) {
		pl->p->n--;
		return;
	}
	st->bound = bound;
	if (key_below(&h->from, &bound) || !key_below(&bound, &h->from))
		h->from = key_after(bound);
	if (all)
		run_at(pl->o, h, number + 1);
}

/* After the run: late frames alone. */
static void plan_rest(struct planner *pl)
{
	struct stream_key bound = {UINT64_MAX, INT64_MAX, UINT64_MAX - 1};
	struct history *h = pl->h;
	struct step *st = &pl->p->step[pl->p->n++];

	*st = (struct step){.kind = STEP_MERGE, .pos = h->end_pos, .end = h->end_pos, .from = h->from, .before = *h};
	take_late(pl, st, &bound);
	if (pl->p->failed) {
		pl->p->n--;
		return;
	}
	st->bound = bound;
	h->from = key_after(bound);
}

void history_plan(const struct stream *s, struct history *h, struct plan *ret)
{
	struct planner pl = {.s = s, .o = &s->own, .h = h, .p = ret};
	uint64_t first;

	ret->n = 0;
	ret->lates = 0;
	catch_up(s, h, ret);
	if (h->part_frames > 0)
		plan_part(pl.o, h, ret);
	edge_get(&s->first, &pl.first_pos, &first);
	pl.it = late_seek(&s->own.late, &h->from);
	late_skip(&pl);
	while (!plan_is_full(ret)) {
		if (h->run_pos < h->end_pos) {
			plan_block(&pl, index_find_pos(&s->own.index, h->run_pos));
		} else if (pl.late != NULL) {
			plan_rest(&pl);
		} else {
			h->done = true;
			break;
		}
	}
}
