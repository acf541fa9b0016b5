/* A subscriber's place in a stream. Runs on the subscriber's shard, but for cursor_serve (the owner's).
 *
 *   OPENING --cursor_created/served--> HISTORY --plan done--> LIVE        any --> ENDED (an error)
 *      |  keeper, owner                  |  owner: plan; reader: what is not in memory
 *      +---- resume at an offset ------------------------------> LIVE
 *      +---- what is to be resumed is not there ----------------------------> ENDED
 *
 * While it is lent (in_flight) nobody here touches what the other side works on; a cursor that is closed meanwhile is freed when it comes back.
 * What is given comes straight from a chunk of memory, or from a piece: bytes that were read from disk, or merged. Whole pieces are given before anything
 * else is looked at. The live part is in stream_live.c.
 */
#include "queue/stream_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- queues ---- */

void cursor_unqueue(struct stream_cursor *c)
{
	struct streams_view *v = c->view;

	if (c->queue == QUEUE_READY) {
		*(c->prev ? &c->prev->next : &v->ready.first) = c->next;
		*(c->next ? &c->next->prev : &v->ready.last) = c->prev;
		v->ready.n--;
	} else if (c->queue == QUEUE_WAITING) {
		DCHECK(c->vs != NULL); /* only a cursor whose stream is known waits for its frames */
		*(c->prev ? &c->prev->next : &c->vs->waiting) = c->next;
		if (c->next != NULL)
			c->next->prev = c->prev;
	}
	c->queue = QUEUE_NONE;
}

void cursor_set_ready(struct stream_cursor *c)
{
	struct streams_view *v = c->view;

	cursor_unqueue(c);
	c->queue = QUEUE_READY;
	c->next = NULL;
	c->prev = v->ready.last;
	*(c->prev ? &c->prev->next : &v->ready.first) = c;
	v->ready.last = c;
	v->ready.n++;
}

/* ---- coming and going ---- */

static void set_phase(struct stream_cursor *c, enum cursor_phase phase)
{
	struct stream_local *l = c->vs ? c->vs->local : NULL;

	if (l != NULL && (phase == PHASE_LIVE) != (c->phase == PHASE_LIVE))
		count_add(&l->live_cursors, phase == PHASE_LIVE ? 1 : -(uint64_t)1);
	c->phase = phase;
}

void cursor_end(struct stream_cursor *c, enum stream_error e, const char *why)
{
	set_phase(c, PHASE_ENDED);
	c->error = e;
	snprintf(c->why, sizeof c->why, "%s", why);
	if (e == STREAM_E_DAMAGED)
		count_add(&c->vs->local->damaged, 1);
}

void cursor_piece_drop(struct stream_cursor *c)
{
	if (c->piece.hold != NULL)
		hold_put(c->piece.hold);
	c->piece = (struct piece){.hold = NULL};
}

void cursor_free(struct stream_cursor *c)
{
	struct streams_view *v = c->view;

	cursor_unqueue(c);
	cursor_piece_drop(c);
	*(c->prev_all ? &c->prev_all->next_all : &v->all_cursors) = c->next_all;
	if (c->next_all != NULL)
		c->next_all->prev_all = c->prev_all;
	buf_put(c->fetch.buf);
	free(c->plan);
	free(c);
}

void stream_cursor_close(struct stream_cursor *c)
{
	c->closed = true;
	c->wants = false;
	count_add(&c->view->cursors, -1u);
	if (c->vs != NULL) {
		set_phase(c, PHASE_ENDED);
		count_add(&c->vs->local->cursors, -(uint64_t)1);
	}
	cursor_unqueue(c);
	if (!c->in_flight)
		cursor_free(c);
}

/* Asks the owner; CURSOR_AGAIN when it has answered already. */
static void ask_owner(struct stream_cursor *c)
{
	struct stream *s = c->vs->s;

	if (s->owner == c->view->shard) {
		cursor_serve(c);
		return;
	}
	c->in_flight = true;
	inbox_push(&s->ss->ports[s->owner].inbox, &c->note, NOTE_PLAN);
}

static bool attach(struct stream_cursor *c, struct stream *s)
{
	c->vs = view_stream(c->view, s);
	if (c->vs == NULL)
		return false;
	count_add(&c->vs->local->cursors, 1);
	return true;
}

enum stream_error stream_cursor_open(struct streams_view *v, const struct stream_start *start, void *user,
				     struct stream_cursor **ret)
{
	struct creation *creation;
	struct stream_cursor *c;
	struct stream *s;
	enum stream_error e = v->failed ? STREAM_E_FAILED
					: view_find(v, start->stream, !start->only_existing, &s, &creation);

	if (e != STREAM_E_OK)
		return e;
	if (s != NULL && s->closed) {
		v->refused = s;
		return STREAM_E_DAMAGED;
	}
	c = calloc(1, sizeof *c);
	if (c == NULL)
		return STREAM_E_BUSY;
	c->view = v;
	c->user = user;
	c->seq_no = start->seq_no;
	c->asked = c->resume = start->offset;
	c->incarnation = start->incarnation;
	c->tell_begin = start->tell_begin || start->offset != 0;
	c->fetch.reply = v->inbox;
	if (s != NULL && !attach(c, s)) {
		free(c);
		return STREAM_E_BUSY;
	}
	if (s == NULL) {
		c->in_flight = true;
		c->wait_next = creation->cursors;
		creation->cursors = c;
	}
	c->next_all = v->all_cursors;
	if (c->next_all != NULL)
		c->next_all->prev_all = c;
	v->all_cursors = c;
	count_add(&v->cursors, 1);
	*ret = c;
	return STREAM_E_OK;
}

/* Something has come back. False: the cursor is gone. */
static bool landed(struct stream_cursor *c)
{
	c->in_flight = false;
	if (c->closed) {
		cursor_free(c);
		return false;
	}
	if (c->wants)
		cursor_set_ready(c);
	return true;
}

void cursor_created(struct stream_cursor *c, struct stream *s, enum stream_error e)
{
	if (!landed(c))
		return;
	if (e == STREAM_E_OK && !attach(c, s))
		e = STREAM_E_BUSY;
	if (e != STREAM_E_OK)
		cursor_end(c, e, "");
}

void cursor_planned(struct stream_cursor *c)
{
	landed(c);
}

/* ---- the owner's answer ---- */

/* Whether the stream is what the cursor wants to go on with, and has what comes before. The owner's
 * words go into c->why, which the shard looks at when the cursor is its own again. */
static enum stream_error check_start(const struct stream *s, struct stream_cursor *c)
{
	if (c->incarnation != 0 && c->incarnation != s->incarnation) {
		snprintf(
			c->why, sizeof c->why,
			"the stream is in incarnation %" PRIu64 ", and the request is to go on in incarnation %" PRIu64
			": the frames of that one are gone. Begin again: with replay_seq_no_start, without resume_offset and incarnation",
			s->incarnation, c->incarnation);
		return STREAM_E_INCARNATION;
	}
	if (c->resume > c->h.end_offset + 1) {
		snprintf(
			c->why, sizeof c->why,
			"resume_offset is %" PRIu64 ", and the stream ends with offset %" PRIu64
			": it can be resumed with %" PRIu64
			" at most. It has lost frames, or is another one: begin again, with replay_seq_no_start and without resume_offset",
			c->resume, c->h.end_offset, c->h.end_offset + 1);
		return STREAM_E_BEYOND;
	}
	return STREAM_E_OK;
}

/* Where offset `c->resume` is, which is not beyond the one after the last. */
static void locate(const struct stream *s, struct stream_cursor *c)
{
	const struct block_index *x = &s->own.index;
	uint64_t first_pos, first, want = c->resume, number;

	edge_get(&s->first, &first_pos, &first);
	if (want < first) {
		c->gap_from = want;
		c->gap_to = first - 1;
		want = c->resume = first;
	}
	if (want > c->h.end_offset) { /* nothing yet, or nothing any more */
		c->pos = c->h.end_pos;
		c->where = c->h.end_where;
		c->offset = c->resume = c->h.end_offset + 1;
		return;
	}
	number = index_find_offset(x, want);
	c->pos = index_at(x, number)->pos;
	c->where = index_at(x, number)->where;
	c->offset = index_at(x, number)->first_offset;
}

void cursor_serve(struct stream_cursor *c)
{
	const struct stream *s = c->vs->s;

	if (!c->begun) {
		history_begin(s, &c->h, c->seq_no);
		c->end_pos = c->h.end_pos;
		c->begun = true;
		c->refusal = check_start(s, c);
		if (c->resume > 0 && c->refusal == STREAM_E_OK)
			locate(s, c);
	}
	if (c->resume == 0 && c->refusal == STREAM_E_OK)
		history_plan(s, &c->h, c->plan);
	c->step = 0;
}

/* ---- giving ---- */

/* Bytes of the whole frames, from the beginning of `s`, that make up at most `max` (one frame at least). */
static size_t cut(struct span s, size_t max, uint32_t *ret_frames)
{
	size_t at = 0, n;

	*ret_frames = 0;
	while (at < s.n) {
		n = frame_length((struct span){s.p + at, s.n - at});
		if (n == 0 || (at > 0 && at + n > max))
			break;
		at += n;
		++*ret_frames;
	}
	return at;
}

enum cursor_state cursor_slice(struct stream_slice *ret, struct hold *h, const uint8_t *p, size_t n, uint32_t frames,
			       uint64_t next_offset)
{
	*ret = (struct stream_slice){.p = p, .n = n, .frames = frames, .next_offset = next_offset, .hold = h};
	return CURSOR_SLICE;
}

static void piece_eat(struct stream_cursor *c, size_t n, uint32_t frames)
{
	c->piece.rest = (struct span){c->piece.rest.p + n, c->piece.rest.n - n};
	c->piece.frames -= frames;
	if (c->phase == PHASE_LIVE) {
		c->offset += frames;
		c->pos += n;
		if (c->piece.rest.n == 0)
			c->pos = c->piece.next_pos;
	}
}

static int give_piece(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	struct piece *p = &c->piece;
	uint32_t frames = p->frames;
	size_t n = p->rest.n;
	const uint8_t *from;

	if (c->phase == PHASE_LIVE && (p->min_seq < c->seq_no || c->offset < c->resume)) {
		n = cursor_unwanted(c, p->rest, &frames);
		piece_eat(c, n, frames);
		n = cursor_wanted(c, p->rest, max, &frames);
	} else if (n > max) {
		n = cut(p->rest, max, &frames);
	}
	from = p->rest.p;
	piece_eat(c, n, frames);
	if (n > 0) {
		p->hold->refs++;
		cursor_slice(ret, p->hold, from, n, frames, c->phase == PHASE_LIVE ? c->offset : 0);
	}
	if (p->rest.n == 0)
		cursor_piece_drop(c);
	return n > 0 ? (int)CURSOR_SLICE : CURSOR_AGAIN;
}

/* ---- what is not in memory ---- */

int cursor_fetch(struct stream_cursor *c)
{
	c->fetch.stream = c->vs->s;
	c->in_flight = true;
	inbox_push(&c->vs->s->ss->reader.inbox, &c->fetch.note, NOTE_FETCH);
	return CURSOR_AGAIN;
}

/* Retention has dropped the step, or its front: the owner plans again from where the cursor really
 * is. A MERGE is given whole, so it begins anew. Of a RANGE what was given is left out, also where
 * retention has kept it. */
static void step_gone(struct stream_cursor *c)
{
	const struct step *st = &c->plan->step[c->step];

	if (st->kind == STEP_RANGE) {
		if (c->step + 1 < c->plan->n)
			c->h = st[1].before;
		c->h.part_pos = c->step_pos ? c->step_pos : st->pos;
		c->h.part_end = st->end;
		c->h.part_offset = st->offset + c->step_frames;
		c->h.part_frames = st->frames - c->step_frames;
	} else {
		c->h = st->before;
	}
	c->h.done = false;
	c->step_pos = 0;
	c->step_frames = 0;
	c->plan->n = c->step = 0;
	if (++c->gone > CURSOR_GONE_MAX)
		cursor_end(c, STREAM_E_BUSY, "");
}

static void step_done(struct stream_cursor *c)
{
	c->step++;
	c->step_pos = 0;
	c->step_frames = 0;
	c->gone = 0;
}

static bool take_piece(struct stream_cursor *c, struct stream_buf *b, struct span bytes, uint32_t frames)
{
	c->piece = (struct piece){.rest = bytes, .frames = frames};
	c->piece.hold = hold_buf(b);
	if (c->piece.hold == NULL) {
		c->piece.rest.n = 0;
		cursor_end(c, STREAM_E_BUSY, "");
		return false;
	}
	if (bytes.n == 0)
		cursor_piece_drop(c);
	return true;
}

static void fetched_history(struct stream_cursor *c)
{
	struct fetch *f = &c->fetch;
	const struct step *st = &c->plan->step[c->step];

	if (!take_piece(c, f->buf, f->bytes, f->frames))
		return;
	if (st->kind == STEP_MERGE || f->next_pos >= st->end) {
		step_done(c);
	} else {
		c->step_pos = f->next_pos;
		c->step_frames += f->frames;
		c->gone = 0;
	}
}

static void fetched_live(struct stream_cursor *c)
{
	struct fetch *f = &c->fetch;

	if (f->first_offset > c->offset && f->first_offset > c->resume) {
		c->gap_from = c->offset > c->resume ? c->offset : c->resume;
		c->gap_to = f->first_offset - 1;
	}
	c->offset = f->first_offset;
	c->pos = f->next_pos - f->bytes.n; /* piece_eat goes on from here; its end is exact */
	c->where = f->next_where;
	if (take_piece(c, f->buf, f->bytes, f->frames)) {
		c->piece.min_seq = f->min_seq;
		c->piece.next_pos = f->next_pos;
	}
}

void cursor_fetched(struct stream_cursor *c)
{
	struct fetch *f = &c->fetch;

	if (!landed(c))
		return;
	count_add(&c->vs->local->reads_disk, 1);
	if (f->err == -ENOMEM || f->err == -EMFILE || f->err == -ENFILE) {
		cursor_end(c, STREAM_E_BUSY, "");
	} else if (f->err == -ENOENT && c->phase == PHASE_HISTORY) {
		step_gone(c);
	} else if (f->err == -ENOENT) {
		c->where = WHERE_NONE; /* live: what is left is in memory */
	} else if (f->err != 0) {
		cursor_end(c, STREAM_E_DAMAGED, f->why);
	} else if (c->phase == PHASE_HISTORY) {
		fetched_history(c);
	} else {
		fetched_live(c);
	}
	f->buf = NULL;
}

/* ---- history ---- */

/* Bytes of memory alone. */
struct memory_source {
	struct stream_source source;
	struct view_stream *vs;
	struct hold *hold[2];
};

static int memory_bytes(struct memory_source *m, unsigned slot, uint64_t pos, struct span *ret)
{
	struct hold *h = hold_chunk(m->vs, pos);
	uint64_t chunk_end, durable;

	if (h == NULL)
		return -ENOENT;
	if (m->hold[slot] != NULL)
		hold_put(m->hold[slot]);
	m->hold[slot] = h;
	chunk_end = atomic_load_explicit(&h->chunk->end, memory_order_acquire);
	durable = edge_pos(&m->vs->s->durable);
	*ret = (struct span){h->chunk->data + (pos - h->chunk->pos),
			     (size_t)((chunk_end < durable ? chunk_end : durable) - pos)};
	return 0;
}

static int memory_run(struct stream_source *src, uint64_t pos, uint64_t where, struct span *ret)
{
	(void)where;
	return memory_bytes(container_of(src, struct memory_source, source), 0, pos, ret);
}

static int memory_late(struct stream_source *src, const struct late_ref *ref, struct span *ret)
{
	return memory_bytes(container_of(src, struct memory_source, source), 1, ref->key.pos, ret);
}

static int step_merge_here(struct stream_cursor *c, const struct step *st)
{
	struct memory_source m = {.source = {memory_run, memory_late}, .vs = c->vs};
	struct stream_buf *buf;
	uint32_t frames;
	int err = step_merge(st, c->plan->late + st->late, &m.source, &buf, &frames);

	for (unsigned i = 0; i < 2; i++)
		if (m.hold[i] != NULL)
			hold_put(m.hold[i]);
	if (err == -ENOENT) {
		c->fetch.kind = STEP_MERGE;
		c->fetch.step = st;
		c->fetch.late = c->plan->late + st->late;
		return cursor_fetch(c);
	}
	if (err != 0) {
		cursor_end(c, err == -ENOMEM ? STREAM_E_BUSY : STREAM_E_DAMAGED,
			   "memory does not hold what was published");
		return CURSOR_AGAIN;
	}
	count_add(&c->vs->local->reads_memory, 1);
	if (take_piece(c, buf, (struct span){buf->data, buf->n}, frames))
		step_done(c);
	return CURSOR_AGAIN;
}

static int step_range_here(struct stream_cursor *c, const struct step *st, size_t max, struct stream_slice *ret)
{
	uint64_t pos = c->step_pos ? c->step_pos : st->pos;
	struct hold *h = hold_chunk(c->vs, pos);
	uint32_t frames = st->frames - c->step_frames;
	size_t n = (size_t)(st->end - pos);
	const uint8_t *p;

	if (h == NULL) {
		c->fetch.kind = STEP_RANGE;
		c->fetch.pos = pos;
		c->fetch.end = st->end;
		c->fetch.where = st->where;
		c->fetch.min_offset = 0;
		return cursor_fetch(c);
	}
	p = h->chunk->data + (pos - h->chunk->pos);
	if (n > max)
		n = cut((struct span){p, n}, max, &frames);
	c->step_frames += frames;
	c->step_pos = pos + n;
	c->gone = 0;
	if (c->step_pos == st->end)
		step_done(c);
	count_add(&c->vs->local->reads_memory, 1);
	return (int)cursor_slice(ret, h, p, n, frames, 0);
}

static int begin_live(struct stream_cursor *c)
{
	free(c->plan);
	c->plan = NULL;
	c->pos = c->h.end_pos;
	c->where = c->h.end_where;
	c->offset = c->h.end_offset + 1;
	c->caught_up = true;
	set_phase(c, PHASE_LIVE);
	return (int)CURSOR_CAUGHT_UP;
}

static int next_history(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	const struct step *st = &c->plan->step[c->step];

	if (c->step == c->plan->n) {
		if (c->h.done)
			return begin_live(c);
		ask_owner(c);
		return CURSOR_AGAIN;
	}
	switch (st->kind) {
	case STEP_GAP:
		c->gap_from = st->pos;
		c->gap_to = st->end;
		step_done(c);
		return CURSOR_AGAIN;
	case STEP_MERGE:
		return step_merge_here(c, st);
	case STEP_RANGE:
		return step_range_here(c, st, max, ret);
	}
	return CURSOR_AGAIN;
}

/* ---- the calls ---- */

static int next_opening(struct stream_cursor *c, struct stream_slice *ret)
{
	if (!c->begun) {
		if (c->resume == 0 && c->plan == NULL) {
			c->plan = malloc(sizeof *c->plan);
			if (c->plan == NULL) {
				cursor_end(c, STREAM_E_BUSY, "");
				return CURSOR_AGAIN;
			}
			c->plan->n = c->plan->lates = 0;
		}
		ask_owner(c);
		return CURSOR_AGAIN;
	}
	if (c->refusal != STREAM_E_OK) {
		set_phase(c, PHASE_ENDED);
		c->error = c->refusal;
		return CURSOR_AGAIN;
	}
	set_phase(c, c->resume > 0 ? PHASE_LIVE : PHASE_HISTORY);
	if (!c->tell_begin)
		return CURSOR_AGAIN;
	*ret = (struct stream_slice){.next_offset = c->resume};
	return (int)CURSOR_BEGUN;
}

static int next_once(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	if (c->in_flight) {
		c->wants = true;
		return (int)CURSOR_WAIT;
	}
	if (c->gap_from != 0 && (c->phase == PHASE_HISTORY || c->phase == PHASE_LIVE)) {
		*ret = (struct stream_slice){.gap_from = c->gap_from, .gap_to = c->gap_to};
		c->gap_from = 0;
		count_add(&c->vs->local->gaps, 1);
		return (int)CURSOR_GAP;
	}
	if (c->piece.rest.n > 0)
		return give_piece(c, max, ret);
	switch (c->phase) {
	case PHASE_OPENING:
		return next_opening(c, ret);
	case PHASE_HISTORY:
		return next_history(c, max, ret);
	case PHASE_LIVE:
		return cursor_next_live(c, max, ret);
	case PHASE_ENDED:
		break;
	}
	return (int)CURSOR_ENDED;
}

enum cursor_state stream_cursor_next(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	int state;

	cursor_unqueue(c);
	do {
		state = next_once(c, max, ret);
	} while (state == CURSOR_AGAIN);
	return (enum cursor_state)state;
}

enum stream_error stream_cursor_error(const struct stream_cursor *c)
{
	return c->error;
}

const char *stream_cursor_why(const struct stream_cursor *c)
{
	return c->why;
}

const struct stream *stream_cursor_stream(const struct stream_cursor *c)
{
	return c->vs ? c->vs->s : NULL;
}
