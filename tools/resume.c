/* The bookkeeping of resume.h. Invariants: bands rise in both numbers; in HISTORY the last band is the piece being read, and what it has at or
 * below the last key was delivered exactly if its offset is at or below the band's `seen` (before the first break: `highest`) or among the
 * extras; in CATCH_UP everything at or below `edge` was delivered exactly if its band says so. Pure. */
#include "tools/resume.h"

#include <errno.h>
#include <stdlib.h>

void resume_init(struct resume *r, uint64_t since)
{
	*r = (struct resume){.since = since};
}

void resume_done(struct resume *r)
{
	free(r->band);
	free(r->extra);
	*r = (struct resume){0};
}

void resume_told(struct resume *r, uint64_t incarnation)
{
	if (incarnation != 0)
		r->incarnation = incarnation;
}

bool resume_goes_on(const struct resume *r)
{
	return r->incarnation != 0 || r->phase != RESUME_HISTORY;
}

void resume_restart(struct resume *r)
{
	uint64_t since = r->since;
	bool late = r->late;

	resume_done(r);
	resume_init(r, since);
	r->late = late;
}

void resume_begin(struct resume *r, uint64_t *ret_since, uint64_t *ret_offset)
{
	r->last_any = false;
	r->reached = !r->any;
	*ret_since = r->phase == RESUME_HISTORY && r->any ? r->seq_no : r->since;
	*ret_offset = r->phase == RESUME_HISTORY ? 0 : r->next;
	r->begin_next = r->next;
	if (r->phase == RESUME_LIVE) {
		uint64_t back = r->late ? RESUME_WINDOW - 1 : RESUME_BACK;
		uint64_t at = r->next > back ? r->next - back : 1;
		if (r->told)
			at = r->told < r->next ? r->told : r->next;
		*ret_offset = at > r->live_from ? at : r->live_from;
	}
	r->told = 0;
}

static int key_cmp(uint64_t as, int64_t at, uint64_t ao, uint64_t bs, int64_t bt, uint64_t bo)
{
	if (as != bs)
		return as < bs ? -1 : 1;
	if (at != bt)
		return at < bt ? -1 : 1;
	return ao < bo ? -1 : ao > bo;
}

static int grow(void **p, size_t size, size_t need, size_t *cap)
{
	if (need <= *cap)
		return 0;
	size_t n = *cap ? *cap * 2 : 8;
	void *grown = realloc(*p, n * size);
	if (!grown)
		return -ENOMEM;
	*p = grown;
	*cap = n;
	return 0;
}

/* The piece of history up to the last key is closed: its frames, but for those of its last seq_no, will not be asked for again. */
int resume_break(struct resume *r)
{
	if (r->phase != RESUME_HISTORY || !r->any || !r->reached)
		return 0;
	if (grow((void **)&r->band, sizeof *r->band, r->bands + 2, &r->bands_cap))
		return -ENOMEM;
	if (r->bands == 0)
		r->band[r->bands++] = (struct resume_band){r->since, 0};
	r->band[r->bands - 1].seen = r->highest;
	if (r->seq_no != r->band[r->bands - 1].from)
		r->band[r->bands++] = (struct resume_band){r->seq_no, r->highest};
	r->extras = 0;
	return 0;
}

/* Where `offset` stands among the extras, or should. */
static size_t extra_place(const struct resume *r, uint64_t offset)
{
	size_t lo = 0, hi = r->extras;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (r->extra[mid] < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A frame below the last key: RESUME_SEEN; or RESUME_NEW, remembered; or -ENOMEM. */
static int behind(struct resume *r, uint64_t offset)
{
	size_t at = extra_place(r, offset);
	if (offset <= r->band[r->bands - 1].seen || (at < r->extras && r->extra[at] == offset))
		return RESUME_SEEN;
	if (grow((void **)&r->extra, sizeof *r->extra, r->extras + 1, &r->extras_cap))
		return -ENOMEM;
	memmove(&r->extra[at + 1], &r->extra[at], (r->extras - at) * sizeof *r->extra);
	r->extra[at] = offset;
	r->extras++;
	return RESUME_NEW;
}

/* Whether history has brought it. */
static bool band_has(const struct resume *r, uint64_t seq_no, uint64_t offset)
{
	size_t lo = 0, hi = r->bands;
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;
		if (r->band[mid].from <= seq_no)
			lo = mid;
		else
			hi = mid;
	}
	return r->bands > 0 && offset <= r->band[lo].seen;
}

static int history_frame(struct resume *r, uint64_t seq_no, int64_t timestamp, uint64_t offset)
{
	int verdict = RESUME_NEW;
	if (r->last_any) {
		int c = key_cmp(seq_no, timestamp, offset, r->last_seq_no, r->last_timestamp, r->last_offset);
		if (c <= 0)
			return c == 0 ? RESUME_REPEATED : RESUME_DISORDERED;
	}
	r->last_any = true;
	r->last_seq_no = seq_no;
	r->last_timestamp = timestamp;
	r->last_offset = offset;
	int c = r->any ? key_cmp(seq_no, timestamp, offset, r->seq_no, r->timestamp, r->offset) : 1;
	if (c >= 0)
		r->reached = true;
	if (c == 0)
		return RESUME_SEEN;
	if (c < 0) {
		verdict = behind(r, offset);
	} else {
		r->any = true;
		r->seq_no = seq_no;
		r->timestamp = timestamp;
		r->offset = offset;
	}
	if (verdict == RESUME_NEW && offset > r->highest)
		r->highest = offset;
	return verdict;
}

static void set_live(struct resume *r, uint64_t from)
{
	r->phase = RESUME_LIVE;
	r->live_from = r->next = from;
	r->begin_next = r->begin_next > from ? r->begin_next : from;
	memset(r->came, 0, sizeof r->came);
}

/* Moves `next`, with clear bits for what is passed. */
static void move_next(struct resume *r, uint64_t to)
{
	if (to - r->next >= RESUME_WINDOW)
		memset(r->came, 0, sizeof r->came);
	else
		for (uint64_t o = r->next; o < to; o++)
			r->came[o % RESUME_WINDOW / 64] &= ~(UINT64_C(1) << o % 64);
	r->next = to;
}

static int live_frame(struct resume *r, uint64_t offset)
{
	if (offset >= r->next)
		move_next(r, offset + 1);
	else if (offset < r->live_from || r->next - offset > RESUME_WINDOW)
		return RESUME_DISORDERED;
	uint64_t *word = &r->came[offset % RESUME_WINDOW / 64], bit = UINT64_C(1) << offset % 64;
	if (*word & bit)
		return offset < r->begin_next ? RESUME_SEEN : RESUME_REPEATED;
	*word |= bit;
	if (offset + 1 < r->next)
		r->late = true;
	return RESUME_NEW;
}

int resume_frame(struct resume *r, uint64_t seq_no, int64_t timestamp, uint64_t offset)
{
	if (r->phase == RESUME_HISTORY)
		return history_frame(r, seq_no, timestamp, offset);
	if (r->phase == RESUME_CATCH_UP && offset > r->edge)
		set_live(r, r->edge + 1);
	if (r->phase == RESUME_LIVE)
		return live_frame(r, offset);
	if (offset < r->next)
		return r->last_any && offset == r->last_offset ? RESUME_REPEATED : RESUME_DISORDERED;
	r->last_any = true;
	r->last_offset = offset;
	r->next = offset + 1;
	return band_has(r, seq_no, offset) ? RESUME_SEEN : RESUME_NEW;
}

bool resume_caught_up(struct resume *r)
{
	if (r->phase == RESUME_CATCH_UP)
		set_live(r, r->edge + 1);
	if (r->phase == RESUME_LIVE)
		return true;
	if (r->bands <= 1) {
		set_live(r, r->highest + 1);
		return true;
	}
	/* All of this history was delivered, and its offsets are at or below `highest`; below the last band's beginning, only what the bands say.
	 * A connection that was asked for less than everything brings less of what comes live, too, and has to go. */
	r->edge = r->highest;
	r->band[r->bands - 1].seen = r->highest;
	r->phase = RESUME_CATCH_UP;
	r->next = r->band[0].seen + 1;
	return false;
}

bool resume_gap(struct resume *r, uint64_t *from, uint64_t to)
{
	if (r->phase == RESUME_HISTORY)
		return true;
	if (to < r->next)
		return false;
	if (*from < r->next)
		*from = r->next;
	if (r->phase == RESUME_CATCH_UP && to <= r->edge)
		r->next = to + 1;
	else if (r->phase == RESUME_CATCH_UP)
		set_live(r, r->edge + 1);
	if (r->phase == RESUME_LIVE)
		move_next(r, to + 1);
	return true;
}

void resume_going_away(struct resume *r, uint64_t offset)
{
	if (r->phase == RESUME_LIVE)
		r->told = offset;
}
