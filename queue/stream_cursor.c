/* A subscriber's place in a stream. Runs on the subscriber's shard, but for cursor_serve (the owner's).
 *
 *   OPENING --cursor_created/served--> HISTORY --plan done--> LIVE        any --> ENDED (an error)
 *      |  keeper, owner                  |  owner: plan; reader: what is not in memory
 *      +---- resume at an offset ------------------------------> LIVE
 *      +---- what is to be resumed is not there ----------------------------> ENDED
 *
 * What has to be read from disk or merged takes a turn (stream_turns.c). A subscriber that takes nothing may have to give back what it was given:
 * stream_cursor_back puts the cursor behind the bytes that it took.
 * While it is lent (in_flight) nobody here touches what the other side works on; a cursor that is closed meanwhile is freed when it comes back.
 * What is given comes straight from a chunk of memory, or from a piece: bytes that were read from disk, or merged. Whole pieces are given before anything
 * else is looked at. The live part is in stream_live.c.
 */
#include "queue/stream_view.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	if (why != c->why) {
		free(c->why);
		c->why = *why ? strdup(why) : NULL; /* without memory the error is told without the reason */
	}
	turn_end(c);
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
	turn_forget(c);
	cursor_piece_drop(c);
	*(c->prev_all ? &c->prev_all->next_all : &v->all_cursors) = c->next_all;
	if (c->next_all != NULL)
		c->next_all->prev_all = c->prev_all;
	buf_put(c->fetch.buf);
	free(c->fetch.why);
	free(c->why);
	plan_free(c->plan);
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
	turn_stir(c);
	turn_stop_waiting(c);
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
	memcpy(c->reader, start->reader, sizeof c->reader);
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

/* Without memory the error is told without the reason. */
static void __attribute__((format(printf, 2, 3))) say(struct stream_cursor *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&c->why, fmt, ap) < 0)
		c->why = NULL;
	va_end(ap);
}

/* Whether the stream is what the cursor wants to go on with, and has what comes before. The owner's
 * words go into c->why, which the shard looks at when the cursor is its own again. */
static enum stream_error check_start(const struct stream *s, struct stream_cursor *c)
{
	if (c->incarnation != 0 && c->incarnation != s->incarnation) {
		say(c,
		    "the stream is in incarnation %" PRIu64 ", and the request is to go on in incarnation %" PRIu64
		    ": the frames of that one are gone. Begin again: with replay_seq_no_start, without resume_offset and incarnation",
		    s->incarnation, c->incarnation);
		return STREAM_E_INCARNATION;
	}
	if (c->resume > c->h.end_offset + 1) {
		say(c,
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

/* The rest of the torn frame is gone. A mark cannot stand in the middle of a frame, so this is the end. */
static void overtaken(struct stream_cursor *c)
{
	c->torn = 0;
	c->gap_from = 0;
	cursor_piece_drop(c);
	cursor_end(c, STREAM_E_OVERTAKEN, "");
}

/* Whether the bytes begin with the frame that the subscriber has a part of. */
static bool is_the_torn_one(const struct stream_cursor *c, const struct stream_slice *s)
{
	struct frame f;
	size_t size;

	return frame_get((struct span){s->p, s->n}, &f, &size) == 0 && f.offset == c->torn_offset && size > c->torn;
}

int cursor_slice(struct stream_cursor *c, struct stream_slice *ret, struct hold *h, const struct stream_slice *s)
{
	*ret = *s;
	ret->hold = h;
	ret->scarce = h->buf != NULL;
	if (likely(c->torn == 0))
		return (int)CURSOR_SLICE;
	if (!is_the_torn_one(c, s)) {
		hold_put(h);
		overtaken(c);
		return CURSOR_AGAIN;
	}
	ret->p += c->torn;
	ret->n -= c->torn;
	c->given.torn = c->torn;
	c->torn = 0;
	return (int)CURSOR_SLICE;
}

static void piece_eat(struct stream_cursor *c, size_t n, uint32_t frames)
{
	c->piece.rest = (struct span){c->piece.rest.p + n, c->piece.rest.n - n};
	c->piece.frames -= frames;
	c->piece.pos += n;
	c->piece.step_frames += frames;
	if (c->phase == PHASE_LIVE) {
		c->offset += frames;
		c->pos += n;
		if (c->piece.rest.n == 0)
			c->pos = c->piece.next_pos;
	}
}

/* Bytes at the beginning of `s` that were given before some of them were given back: frames with keys up to c->after. */
static size_t skip_given(struct stream_cursor *c, struct span s, uint32_t *ret_frames)
{
	size_t at = 0, size;
	struct frame f;

	*ret_frames = 0;
	while (at < s.n && frame_get((struct span){s.p + at, s.n - at}, &f, &size) == 0) {
		if (f.seq_no > c->after_seq ||
		    (f.seq_no == c->after_seq &&
		     (f.timestamp > c->after_ts || (f.timestamp == c->after_ts && f.offset > c->after_offset)))) {
			c->has_after = false;
			break;
		}
		at += size;
		++*ret_frames;
	}
	return at;
}

/* What the next slice of the piece begins with. */
static void note_given_piece(struct stream_cursor *c)
{
	const struct piece *p = &c->piece;

	if (c->phase == PHASE_LIVE)
		c->given = (struct given){.kind = GIVEN_LIVE, .pos = c->pos, .offset = c->offset, .where = p->where};
	else
		c->given = (struct given){.kind = p->merged ? GIVEN_MERGE : GIVEN_STEP,
					  .step = p->step,
					  .pos = p->pos,
					  .step_frames = p->step_frames};
}

static int give_piece(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	struct piece *p = &c->piece;
	uint32_t frames = p->frames;
	size_t n = p->rest.n;
	const uint8_t *from;
	int state = CURSOR_AGAIN;

	if (c->phase == PHASE_LIVE && (p->min_seq < c->seq_no || c->offset < c->resume)) {
		n = cursor_unwanted(c, p->rest, &frames);
		piece_eat(c, n, frames);
		n = cursor_wanted(c, p->rest, max, &frames);
	} else {
		if (unlikely(c->has_after)) {
			n = skip_given(c, p->rest, &frames);
			piece_eat(c, n, frames);
			n = p->rest.n;
			frames = p->frames;
		}
		if (n > max)
			n = cut(p->rest, max, &frames);
	}
	from = p->rest.p;
	note_given_piece(c);
	piece_eat(c, n, frames);
	if (n > 0) {
		p->hold->refs++;
		state = cursor_slice(c, ret, p->hold,
				     &(struct stream_slice){.p = from,
							    .n = n,
							    .frames = frames,
							    .next_offset = c->phase == PHASE_LIVE ? c->offset : 0});
	}
	if (p->rest.n == 0)
		cursor_piece_drop(c);
	return state;
}

/* ---- giving back ---- */

/* The last whole frame of a merged piece that ends at or before `to`: what is at or below its key will not be given again. */
static void note_after(struct stream_cursor *c, const struct stream_buf *b, const uint8_t *to)
{
	struct frame f;
	size_t size;

	for (const uint8_t *p = b->data; p < to; p += size) {
		if (frame_get((struct span){p, b->n - (size_t)(p - b->data)}, &f, &size) != 0 || p + size > to)
			return;
		c->has_after = true;
		c->after_seq = f.seq_no;
		c->after_ts = f.timestamp;
		c->after_offset = f.offset;
	}
}

uint32_t stream_cursor_back(struct stream_cursor *c, struct stream_slice *s, size_t taken)
{
	const struct given *g = &c->given;
	struct hold *h = s->hold;
	const uint8_t *begin = s->p - g->torn;
	size_t end = s->n + g->torn, whole = 0, size;
	uint32_t frames = 0;
	struct frame f;

	DCHECK(g->kind != GIVEN_NOTHING && h != NULL && taken < s->n && !c->in_flight);
	taken += g->torn;
	for (; (size = frame_length((struct span){begin + whole, end - whole})) > 0 && whole + size <= taken; frames++)
		whole += size;
	if (taken > whole && frame_get((struct span){begin + whole, end - whole}, &f, &size) == 0) {
		c->torn = (uint32_t)(taken - whole);
		c->torn_offset = f.offset;
	}
	switch (g->kind) {
	case GIVEN_LIVE:
		c->pos = g->pos + whole;
		c->where = g->where;
		c->offset = g->offset + frames;
		break;
	case GIVEN_MERGE:
		note_after(c, h->buf, begin + whole);
		c->step = g->step;
		c->step_pos = 0;
		c->step_frames = 0;
		break;
	case GIVEN_STEP:
		c->step = g->step;
		c->step_pos = g->pos + whole;
		c->step_frames = g->step_frames + frames;
		break;
	case GIVEN_NOTHING:
		break;
	}
	turn_stir(c);
	cursor_piece_drop(c);
	c->given.kind = GIVEN_NOTHING;
	frames = s->frames - frames;
	hold_put(h);
	s->hold = NULL;
	return frames;
}

bool stream_cursor_is_torn(const struct stream_cursor *c)
{
	return c->torn > 0;
}

void stream_cursor_rest(struct stream_cursor *c, const struct stream_slice *s, bool alone)
{
	const struct hold *h = s ? s->hold : NULL;

	turn_stir(c);
	if (alone)
		turn_leave_place(c);
	if (h != NULL && c->given.kind != GIVEN_NOTHING && !c->in_flight)
		turn_rest(c, h->buf != NULL ? TURNS_RESTING_PIECE : TURNS_RESTING_CHUNK);
}

void stream_cursor_stir(struct stream_cursor *c)
{
	turn_stir(c);
}

/* ---- what is not in memory ---- */

int cursor_need_turn(struct stream_cursor *c)
{
	switch (c->turn) {
	case TURN_HELD:
		return 0;
	case TURN_WAITS:
		c->wants = true;
		return (int)CURSOR_WAIT;
	case TURN_NONE:
		break;
	}
	return (int)CURSOR_COLD;
}

void stream_cursor_read(struct stream_cursor *c)
{
	if (c->phase != PHASE_ENDED)
		turn_ask(c);
}

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
	c->piece = (struct piece){.rest = bytes, .frames = frames, .step = c->step};
	turn_settle(c);
	c->piece.hold = hold_buf(c->view, b);
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
	c->piece.merged = st->kind == STEP_MERGE;
	c->piece.pos = f->pos;
	c->piece.step_frames = c->step_frames;
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
		c->piece.where = f->where;
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
		cursor_end(c, STREAM_E_DAMAGED, f->why ? f->why : "");
	} else if (c->phase == PHASE_HISTORY) {
		fetched_history(c);
	} else {
		fetched_live(c);
	}
	f->buf = NULL;
	free(f->why);
	f->why = NULL;
	if (c->piece.hold == NULL)
		turn_end(c);
}

/* ---- history ---- */

/* Bytes of memory alone. */
struct memory_source {
	struct stream_source source;
	struct streams_view *view;
	struct view_stream *vs;
	struct hold *hold[2];
};

static int memory_bytes(struct memory_source *m, unsigned slot, uint64_t pos, struct span *ret)
{
	struct hold *h = hold_chunk(m->view, m->vs, pos);
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
	struct memory_source m = {.source = {memory_run, memory_late}, .view = c->view, .vs = c->vs};
	struct stream_buf *buf;
	uint32_t frames;
	int err = cursor_need_turn(c);

	if (err != 0)
		return err;
	err = step_merge(st, c->plan->late + st->late, &m.source, &buf, &frames);

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
	if (take_piece(c, buf, (struct span){buf->data, buf->n}, frames)) {
		c->piece.merged = true;
		step_done(c);
	}
	return CURSOR_AGAIN;
}

static void range_advance(struct stream_cursor *c, const struct step *st, uint64_t pos, uint32_t frames)
{
	c->step_frames += frames;
	c->step_pos = pos;
	c->gone = 0;
	if (pos == st->end)
		step_done(c);
}

static int step_range_here(struct stream_cursor *c, const struct step *st, size_t max, struct stream_slice *ret)
{
	uint64_t pos = c->step_pos ? c->step_pos : st->pos;
	struct hold *h = hold_chunk(c->view, c->vs, pos);
	uint32_t frames = st->frames - c->step_frames;
	size_t n = (size_t)(st->end - pos);
	const uint8_t *p;

	if (h == NULL) {
		int state = cursor_need_turn(c);

		if (state != 0)
			return state;
		c->fetch.kind = STEP_RANGE;
		c->fetch.pos = pos;
		c->fetch.end = st->end;
		c->fetch.where = st->where;
		c->fetch.min_offset = 0;
		c->fetch.max = STREAM_UNIT;
		return cursor_fetch(c);
	}
	p = h->chunk->data + (pos - h->chunk->pos);
	if (unlikely(c->has_after)) {
		uint32_t skipped;
		size_t before = skip_given(c, (struct span){p, n}, &skipped);

		if (before > 0) {
			hold_put(h);
			range_advance(c, st, pos + before, skipped);
			return CURSOR_AGAIN;
		}
	}
	if (n > max)
		n = cut((struct span){p, n}, max, &frames);
	c->given = (struct given){.kind = GIVEN_STEP, .step = c->step, .pos = pos, .step_frames = c->step_frames};
	range_advance(c, st, pos + n, frames);
	count_add(&c->vs->local->reads_memory, 1);
	return cursor_slice(c, ret, h, &(struct stream_slice){.p = p, .n = n, .frames = frames});
}

static int begin_live(struct stream_cursor *c)
{
	plan_free(c->plan);
	c->plan = NULL;
	c->has_after = false;
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
		if (c->plan->failed) {
			cursor_end(c, STREAM_E_BUSY, "");
			return CURSOR_AGAIN;
		}
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
			c->plan->n = c->plan->lates = c->plan->late_cap = 0;
			c->plan->late = NULL;
			c->plan->failed = false;
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
	if (unlikely(c->gap_from != 0 && c->torn != 0))
		overtaken(c);
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

/* All of the slice that was given last has been taken. With the last one of a piece the cursor's place goes to another cursor of its connection. */
static void slice_was_taken(struct stream_cursor *c)
{
	turn_stir(c);
	if (c->given.kind != GIVEN_NOTHING && c->piece.hold == NULL && c->turn == TURN_NONE && !c->in_flight)
		turn_leave_place(c);
	c->given.kind = GIVEN_NOTHING;
}

/* A turn that was asked for and is not needed: what comes next can be had without it, or waits to be published. */
static void leave_turn(struct stream_cursor *c, enum cursor_state state)
{
	bool live = c->queue == QUEUE_WAITING;

	if (c->turn == TURN_HELD && !c->in_flight)
		turn_end(c);
	if (c->turn == TURN_WAITS && (state != CURSOR_WAIT || live))
		turn_stop_waiting(c);
	if (live)
		turn_leave_place(c);
}

enum cursor_state stream_cursor_next(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	int state;

	cursor_unqueue(c);
	slice_was_taken(c);
	do {
		state = next_once(c, max, ret);
	} while (state == CURSOR_AGAIN);
	if (unlikely(c->list != NULL))
		leave_turn(c, (enum cursor_state)state);
	return (enum cursor_state)state;
}

enum stream_error stream_cursor_error(const struct stream_cursor *c)
{
	return c->error;
}

const char *stream_cursor_why(const struct stream_cursor *c)
{
	return c->why ? c->why : "";
}

const struct stream *stream_cursor_stream(const struct stream_cursor *c)
{
	return c->vs ? c->vs->s : NULL;
}
