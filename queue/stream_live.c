/* The live part of a cursor: by offset, from memory as it comes. Runs on the subscriber's shard.
 *
 * A slice ends where an index block does, or at the durable edge, so that many frames go at once and none is looked at; frames are walked only where they must
 * be told apart: in blocks that have some below the start, and where a block is larger than `max`. A cursor that falls out of memory remembers where
 * the record of its last block is on disk, and the reader goes on from there.
 */
#include "queue/stream_view.h"

/* Waits for the edge to move beyond c->pos. False: it has. */
static bool watch(struct stream_cursor *c)
{
	struct view_stream *vs = c->vs;

	if (!vs->armed) {
		vs->armed = true;
		atomic_store_explicit(&vs->local->wanted, true,
				      memory_order_release); /* the note is the owner's again */
		atomic_thread_fence(
			memory_order_seq_cst); /* pairs with the one in wake(): `wanted` is stored before the edge is read */
		if (edge_pos(&vs->s->durable) > c->pos || stream_damage(vs->s) != NULL)
			return false;
	}
	c->queue = QUEUE_WAITING;
	c->prev = NULL;
	c->next = vs->waiting;
	if (c->next != NULL)
		c->next->prev = c;
	vs->waiting = c;
	return true;
}

size_t cursor_unwanted(const struct stream_cursor *c, struct span s, uint32_t *ret_frames)
{
	size_t at = 0, size;
	uint64_t seq, offset = c->offset;
	int64_t ts;

	*ret_frames = 0;
	while (at < s.n && frame_key((struct span){s.p + at, s.n - at}, &seq, &ts, &size)) {
		if (seq >= c->seq_no && offset >= c->resume)
			break;
		at += size;
		offset++;
		++*ret_frames;
	}
	return at;
}

size_t cursor_wanted(const struct stream_cursor *c, struct span s, size_t max, uint32_t *ret_frames)
{
	size_t at = 0, size;
	uint64_t seq;
	int64_t ts;

	*ret_frames = 0;
	while (at < s.n && frame_key((struct span){s.p + at, s.n - at}, &seq, &ts, &size)) {
		if (seq < c->seq_no || (at > 0 && at + size > max))
			break;
		at += size;
		++*ret_frames;
	}
	return at;
}

/* What a look into a chunk knows. */
struct sight {
	const struct chunk *c;
	uint64_t limit, limit_offset; /* what may be seen of it, and the first offset beyond */
	unsigned nblocks, block;      /* the block that holds the cursor's position */
};

static uint64_t sight_end(const struct sight *g, unsigned block)
{
	uint64_t next = block + 1 < g->nblocks ? g->c->block[block + 1].pos : g->limit;

	return next < g->limit ? next : g->limit;
}

static uint64_t sight_end_offset(const struct sight *g, unsigned block)
{
	return sight_end(g, block) == g->limit ? g->limit_offset : g->c->block[block + 1].first_offset;
}

static bool sight_is_clean(const struct stream_cursor *c, const struct sight *g, unsigned block)
{
	return c->offset >= c->resume &&
	       atomic_load_explicit(&g->c->block[block].min_seq, memory_order_relaxed) >= c->seq_no;
}

static void sight_at(struct sight *g, const struct chunk *c, uint64_t pos, uint64_t durable, uint64_t durable_offset)
{
	uint64_t chunk_end = atomic_load_explicit(&c->end, memory_order_acquire); /* pairs with chunk_seal */

	g->c = c;
	g->limit = chunk_end < durable ? chunk_end : durable;
	g->limit_offset = chunk_end <= durable ? c->end_offset : durable_offset + 1;
	g->nblocks = atomic_load_explicit(&c->nblocks, memory_order_acquire); /* pairs with block_begin */
	for (g->block = g->nblocks ? g->nblocks - 1 : 0; g->block > 0 && c->block[g->block].pos > pos;)
		g->block--;
}

/* The frames are told apart one by one, within one block. */
static int live_walk(struct stream_cursor *c, const struct sight *g, struct hold *h, size_t max,
		     struct stream_slice *ret)
{
	uint64_t where = atomic_load_explicit(&g->c->block[g->block].where, memory_order_relaxed);
	uint64_t end_pos = sight_end(g, g->block);
	const uint8_t *data = g->c->data;
	struct span s = {data + (c->pos - g->c->pos), (size_t)(end_pos - c->pos)};
	uint32_t frames;
	size_t n = cursor_unwanted(c, s, &frames);

	c->pos += n;
	c->offset += frames;
	s = (struct span){s.p + n, s.n - n};
	n = cursor_wanted(c, s, max, &frames);
	if (n == 0) {
		CHECK(s.n == 0); /* everything was unwanted */
		hold_put(h);
		return CURSOR_AGAIN;
	}
	c->given = (struct given){.kind = GIVEN_LIVE, .pos = c->pos, .offset = c->offset, .where = where};
	c->pos += n;
	c->offset += frames;
	return cursor_slice(c, ret, h,
			    &(struct stream_slice){.p = s.p, .n = n, .frames = frames, .next_offset = c->offset});
}

/* From a chunk; takes the hold over. */
static int live_memory(struct stream_cursor *c, struct hold *h, uint64_t durable, uint64_t durable_offset, size_t max,
		       struct stream_slice *ret)
{
	const struct chunk *ch = h->chunk;
	uint64_t pos = c->pos, end_pos = pos, offset = c->offset;
	struct stream_slice slice;
	struct sight g;
	unsigned last;

	sight_at(&g, ch, pos, durable, durable_offset);
	if (pos >= g.limit) { /* it is sealed, and all of it has been given */
		c->pos = ch->pos + (uint64_t)ch->units * STREAM_UNIT;
		hold_put(h);
		return CURSOR_AGAIN;
	}
	last = g.block;
	for (unsigned i = g.block; i < g.nblocks && sight_is_clean(c, &g, i); i++) {
		if (sight_end(&g, i) - pos > max || end_pos == g.limit)
			break;
		end_pos = sight_end(&g, i);
		offset = sight_end_offset(&g, i);
		last = i;
	}
	c->where = atomic_load_explicit(&ch->block[last].where, memory_order_relaxed);
	count_add(&c->vs->local->reads_memory, 1);
	if (end_pos == pos)
		return live_walk(c, &g, h, max, ret);
	slice = (struct stream_slice){.p = ch->data + (pos - ch->pos),
				      .n = (size_t)(end_pos - pos),
				      .frames = (uint32_t)(offset - c->offset),
				      .next_offset = offset};
	c->given = (struct given){
		.kind = GIVEN_LIVE,
		.pos = pos,
		.offset = c->offset,
		.where = atomic_load_explicit(&ch->block[g.block].where, memory_order_relaxed),
	};
	c->pos = end_pos;
	c->offset = offset;
	return cursor_slice(c, ret, h, &slice);
}

/* Nothing more comes of a damaged stream. Its edge does not move after the damage was told. */
static bool end_if_damaged(struct stream_cursor *c)
{
	const char *why = stream_damage(c->vs->s);

	if (why == NULL || edge_pos(&c->vs->s->durable) > c->pos)
		return false;
	cursor_end(c, STREAM_E_DAMAGED, why);
	return true;
}

/* The cursor's place is not in memory. */
static int live_elsewhere(struct stream_cursor *c, uint64_t durable)
{
	const struct stream *s = c->vs->s;
	uint64_t first_pos, first;

	if (c->pos == s->recovered_pos && c->pos % STREAM_UNIT != 0) {
		c->pos += STREAM_UNIT - c->pos % STREAM_UNIT; /* nothing is in between */
		return CURSOR_AGAIN;
	}
	if (s->log != NULL && c->where != WHERE_NONE) {
		int state = cursor_need_turn(c);

		if (state != 0)
			return state;
		c->fetch.kind = STEP_RANGE;
		c->fetch.pos = c->pos;
		c->fetch.end = durable;
		c->fetch.where = c->where;
		c->fetch.min_offset = c->offset;
		c->fetch.max = STREAM_UNIT;
		return cursor_fetch(c);
	}
	edge_get(&s->first, &first_pos, &first);
	if (first > c->offset && first > c->resume) {
		c->gap_from = c->offset > c->resume ? c->offset : c->resume;
		c->gap_to = first - 1;
	}
	if (first_pos > c->pos) {
		c->pos = first_pos;
		c->offset = first;
		c->gone = 0;
	} else if (++c->gone > CURSOR_GONE_MAX) {
		cursor_end(c, STREAM_E_BUSY, "");
	}
	/* if it leaves memory before it is given: the oldest record on disk holds it, or comes
	 * before it */
	c->where = 0;
	return CURSOR_AGAIN;
}

int cursor_next_live(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	uint64_t durable, durable_offset;
	struct hold *h;

	edge_get(&c->vs->s->durable, &durable, &durable_offset);
	if (!c->caught_up && c->pos >= c->end_pos && c->torn == 0) {
		c->caught_up = true;
		return (int)CURSOR_CAUGHT_UP;
	}
	if (c->pos >= durable) {
		if (end_if_damaged(c) || !watch(c))
			return CURSOR_AGAIN;
		c->wants = true;
		return (int)CURSOR_WAIT;
	}
	h = hold_chunk(c->view, c->vs, c->pos);
	return h != NULL ? live_memory(c, h, durable, durable_offset, max, ret) : live_elsewhere(c, durable);
}

bool stream_cursor_is_live(const struct stream_cursor *c)
{
	return c->caught_up && c->phase == PHASE_LIVE;
}

/* The place that lag is counted from. */
static bool place(const struct stream_cursor *c, uint64_t *ret_pos, uint64_t *ret_offset)
{
	if (c->vs == NULL || (c->in_flight && c->phase != PHASE_LIVE))
		return false;
	*ret_pos = c->phase == PHASE_LIVE ? c->pos : c->h.end_pos;
	*ret_offset = c->phase == PHASE_LIVE ? c->offset : c->h.end_offset + 1;
	return c->begun;
}

uint64_t stream_cursor_lag_bytes(const struct stream_cursor *c)
{
	uint64_t pos, offset, durable;

	if (!place(c, &pos, &offset))
		return 0;
	durable = edge_pos(&c->vs->s->durable);
	return durable > pos ? durable - pos : 0;
}

uint64_t stream_cursor_lag_frames(const struct stream_cursor *c)
{
	uint64_t pos, offset, durable, durable_offset;

	if (!place(c, &pos, &offset))
		return 0;
	edge_get(&c->vs->s->durable, &durable, &durable_offset);
	return durable_offset >= offset ? durable_offset - offset + 1 : 0;
}

uint64_t stream_cursor_offset(const struct stream_cursor *c)
{
	if (c->phase != PHASE_LIVE)
		return c->asked;
	return c->offset > c->resume ? c->offset : c->resume;
}

bool stream_cursor_drop(struct stream_cursor *c, uint64_t keep)
{
	uint64_t durable, target;
	struct hold *h;
	struct sight g;
	uint64_t durable_offset;

	if (c->in_flight || c->phase != PHASE_LIVE || !c->caught_up || c->torn > 0)
		return false;
	edge_get(&c->vs->s->durable, &durable, &durable_offset);
	if (durable <= c->pos || durable - c->pos <= keep)
		return false;
	target = durable - keep;
	h = hold_chunk(c->view, c->vs, target < durable ? target : durable - 1);
	if (h == NULL)
		return false;
	sight_at(&g, h->chunk, target, durable, durable_offset);
	target = sight_end(&g, g.block);
	if (target > c->pos && sight_end_offset(&g, g.block) > c->offset) {
		cursor_piece_drop(c);
		if (c->gap_from == 0)
			c->gap_from = c->offset > c->resume ? c->offset : c->resume;
		c->pos = target;
		c->offset = sight_end_offset(&g, g.block);
		c->gap_to = c->offset - 1;
		c->where = atomic_load_explicit(&h->chunk->block[g.block].where, memory_order_relaxed);
		hold_put(h);
		return true;
	}
	hold_put(h);
	return false;
}
