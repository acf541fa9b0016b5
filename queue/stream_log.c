/* A stream's frames in memory, on their way to disk, and out of memory again. Runs on the stream's
 * owner, but for chunk_get.
 *
 *   stream_append    encodes a frame into the open chunk, once          (open -> sealed when the next frame does not fit)
 *   stream_submit    one journal record a turn, of what was appended: the very bytes of the chunk, with a head of RECORD_HEAD bytes
 *   stream_advance   what has become durable: places on disk are noted, then the edge is published
 *   evict            the oldest chunk, once all of it is durable, when memory is full
 *
 * A record's head: position u64 | first offset u64 | running maximum before it: seq_no u64,
 * timestamp i64 | frames u32 | version u32 | greatest timestamp that the server has given i64 (from
 * version 2 on), little-endian. Its mark is the last offset. Invariants: an index block never
 * crosses a chunk or, once it is durable, a segment; what a reader may see (before the edge) never
 * changes again; a chunk leaves memory only when it is durable. */
#include "queue/stream_impl.h"
#include "core/base/clock.h"

#include <stdlib.h>

/* ---- chunks ---- */

struct chunk *chunk_get(const struct stream *s, uint64_t pos)
{
	struct chunk_dir *dir = atomic_load_explicit(&s->dir, memory_order_acquire); /* pairs with dir_grow */
	uint64_t unit = pos / STREAM_UNIT;
	struct chunk *c = NULL;
	uint64_t state;

	if (dir != NULL)
		c = atomic_load_explicit(&dir->slot[unit & dir->mask], memory_order_acquire); /* pairs with dir_set */
	if (c == NULL)
		return NULL;
	state = atomic_load_explicit(&c->state, memory_order_acquire); /* pairs with chunk_put */
	do {
		if ((state & CHUNK_REFS) == 0 || (state >> 24) - 1 > unit)
			return NULL;
	} while (!atomic_compare_exchange_weak_explicit(&c->state, &state, state + 1,
							memory_order_acquire, /* chunk_new */
							memory_order_acquire));
	if (unit < c->pos / STREAM_UNIT + c->units)
		return c;
	chunk_put(c);
	return NULL;
}

static void dir_set(struct chunk_dir *dir, uint64_t unit, uint32_t units, struct chunk *c)
{
	for (uint32_t i = 0; i < units; i++)
		atomic_store_explicit(&dir->slot[(unit + i) & dir->mask], c,
				      memory_order_release); /* pairs with chunk_get */
}

/* Makes sure that no two chunks share a slot when there is one of these units, too. Readers of the smaller directory see what was in it; what comes later
 * they look for in the larger one, as they have seen a position beyond. 0 or -ENOMEM. */
static int dir_grow(struct stream *s, uint64_t unit, uint32_t units)
{
	struct stream_own *o = &s->own;
	struct chunk_dir *dir = atomic_load_explicit(&s->dir, memory_order_relaxed), *larger;
	uint64_t span = unit + units - (o->oldest != NULL ? o->oldest->pos / STREAM_UNIT : unit);
	uint32_t slots = dir != NULL ? dir->mask + 1 : 0, n = slots != 0 ? slots : DIR_FIRST;

	if (span <= slots)
		return 0;
	while (n < span)
		n *= 2;
	larger = calloc(1, sizeof *larger + n * sizeof larger->slot[0]);
	if (larger == NULL)
		return -ENOMEM;
	larger->mask = n - 1;
	larger->smaller = dir;
	for (struct chunk *c = o->oldest; c != NULL; c = c->newer)
		dir_set(larger, c->pos / STREAM_UNIT, c->units, c);
	atomic_store_explicit(&s->dir, larger, memory_order_release); /* pairs with chunk_get */
	return 0;
}

static struct chunk_dir *dir_of(const struct stream *s)
{
	return atomic_load_explicit(&s->dir, memory_order_relaxed);
}

/* A header that nobody uses, with `cap` bytes if there is such a one. The memory of others like it is given back. */
static struct chunk *chunk_recycle(struct stream_own *o, uint32_t cap)
{
	struct chunk *best = NULL, *bare = NULL;

	for (struct chunk *c = o->pool; c != NULL; c = c->pool_next) {
		if ((atomic_load_explicit(&c->state, memory_order_acquire) & CHUNK_REFS) !=
		    0) /* pairs with chunk_put */
			continue;
		if (best == NULL && c->cap == cap) {
			best = c;
			continue;
		}
		free(c->data);
		c->data = NULL;
		c->cap = 0;
		bare = c;
	}
	return best ? best : bare;
}

static struct chunk *chunk_alloc(struct stream_own *o, uint32_t cap)
{
	struct chunk *c = chunk_recycle(o, cap);

	if (c == NULL) {
		c = aligned_alloc(CACHE_LINE, sizeof *c);
		if (c == NULL)
			return NULL;
		memset(c, 0, sizeof *c);
		c->pool_next = o->pool;
		o->pool = c;
	}
	if (c->cap == cap)
		return c;
	free(c->data);
	c->cap = 0;
	c->data = malloc(cap); /* its pages come as they are touched */
	if (c->data == NULL)
		return NULL;
	c->cap = cap;
	return c;
}

/* Opens a chunk with room for `size` bytes. 0 or -ENOMEM. */
static int chunk_new(struct stream *s, size_t size)
{
	struct stream_own *o = &s->own;
	uint64_t begin = (o->end_pos + STREAM_UNIT - 1) / STREAM_UNIT,
		 unit = begin > o->next_unit ? begin : o->next_unit;
	uint32_t cap = size <= STREAM_UNIT ? STREAM_UNIT : (uint32_t)size;
	uint32_t units = (cap + STREAM_UNIT - 1) / STREAM_UNIT;
	struct chunk *c;

	if (o->reserve == NULL)
		o->reserve = malloc(sizeof *o->reserve);
	if (o->reserve == NULL || dir_grow(s, unit, units) != 0)
		return -ENOMEM;
	c = chunk_alloc(o, cap);
	if (c == NULL)
		return -ENOMEM;
	c->pos = unit * STREAM_UNIT;
	c->units = units;
	c->fill = 0;
	c->newer = NULL;
	o->next_unit = unit + c->units;
	atomic_store_explicit(&c->end, UINT64_MAX, memory_order_relaxed);
	atomic_store_explicit(&c->nblocks, 0, memory_order_relaxed);
	atomic_store_explicit(&c->state, (unit + 1) << 24 | 1, memory_order_release); /* pairs with chunk_get */
	dir_set(dir_of(s), unit, units, c);
	*(o->newest ? &o->newest->newer : &o->oldest) = c;
	o->newest = o->open = c;
	if (o->sub_chunk == NULL) {
		o->sub_chunk = c;
		o->sub_at = 0;
	}
	o->memory += cap;
	return 0;
}

static void chunk_seal(struct stream_own *o)
{
	struct chunk *c = o->open;

	c->end_offset = o->next_offset;
	c->end_max_seq = o->max_seq;
	c->end_max_ts = o->max_ts;
	atomic_store_explicit(&c->end, c->pos + c->fill, memory_order_release); /* pairs with readers */
	o->open = NULL;
}

static bool evict(struct stream *s)
{
	struct stream_own *o = &s->own;
	struct chunk *c = o->oldest;

	if (c == NULL || c == o->open || c->pos + c->fill > edge_pos(&s->durable))
		return false;
	if (o->sub_chunk == c) {
		o->sub_chunk = c->newer;
		o->sub_at = 0;
	}
	o->oldest = c->newer;
	if (o->oldest == NULL)
		o->newest = NULL;
	o->memory -= c->cap;
	if (s->durability == STREAM_MEMORY)
		stream_trim(s, c->end_offset); /* before it is gone: who does not find it looks there */
	dir_set(dir_of(s), c->pos / STREAM_UNIT, c->units, NULL);
	chunk_put(c);
	return true;
}

static enum stream_error make_room(struct stream *s, size_t size)
{
	struct stream_own *o = &s->own;
	uint64_t want = size <= STREAM_UNIT ? STREAM_UNIT : size;

	if (o->open != NULL) {
		if (o->open->cap - o->open->fill >= size)
			return STREAM_E_OK;
		chunk_seal(o);
	}
	while (o->memory + want > s->memory_max)
		if (!evict(s))
			return STREAM_E_BUSY;
	return chunk_new(s, size) == 0 ? STREAM_E_OK : STREAM_E_BUSY;
}

/* ---- appending ---- */

/* Begins an index block at the end of the open chunk. */
static void index_begin(struct stream *s)
{
	struct stream_own *o = &s->own;

	*index_put(&o->index,
		   o->index.end) = (struct stream_block){.pos = o->open->pos + o->open->fill,
							 .where = s->durability == STREAM_MEMORY ? WHERE_NONE : 0,
							 .first_offset = o->next_offset,
							 .max_seq = o->max_seq,
							 .max_ts = o->max_ts};
}

/* Begins a block of the chunk, and of the index, when one is due. index_reserve was called, and late
 * frames were told from others. */
static void block_begin(struct stream *s, uint64_t seq_no)
{
	struct stream_own *o = &s->own;
	struct chunk *c = o->open;
	uint32_t n = atomic_load_explicit(&c->nblocks, memory_order_relaxed);
	struct chunk_block *b = &c->block[n];

	if (c->fill > 0 && c->pos + c->fill - c->block[n - 1].pos < BLOCK_BYTES) {
		b = &c->block[n - 1];
		if (seq_no < atomic_load_explicit(&b->min_seq, memory_order_relaxed))
			atomic_store_explicit(&b->min_seq, seq_no, memory_order_relaxed);
		if (o->index.begin == o->index.end) /* retention has dropped all of the frames */
			index_begin(s);
		return;
	}
	CHECK(n < CHUNK_BLOCKS);
	index_begin(s);
	b->pos = c->pos + c->fill;
	b->first_offset = o->next_offset;
	atomic_store_explicit(&b->where, s->durability == STREAM_MEMORY ? WHERE_NONE : 0, memory_order_relaxed);
	atomic_store_explicit(&b->min_seq, seq_no, memory_order_relaxed);
	atomic_store_explicit(&c->nblocks, n + 1, memory_order_release); /* pairs with readers */
}

/* Everything has room. */
static void put(struct stream *s, const struct frame *f, size_t size, bool late)
{
	struct stream_own *o = &s->own;
	struct chunk *c = o->open;
	struct stream_block *b;

	block_begin(s, f->seq_no);
	frame_put(c->data + c->fill, f);
	c->fill += (uint32_t)size;
	b = index_at(&o->index, o->index.end - 1);
	b->bytes += (uint32_t)size;
	if (late) {
		b->has_late = true;
	} else {
		b->has_run = true;
		o->max_seq = f->seq_no;
		o->max_ts = f->timestamp;
	}
	o->next_offset++;
	o->end_pos = c->pos + c->fill;
	count_add(&s->published, 1);
	count_add(&s->published_bytes, size);
	count_add(&s->ss->ports[s->owner].published, 1);
}

void stream_count(struct stream *s)
{
	const struct stream_own *o = &s->own;

	__atomic_store_n(&s->stat_next, o->next_offset, __ATOMIC_RELAXED);
	__atomic_store_n(&s->stat_memory, o->memory, __ATOMIC_RELAXED);
	__atomic_store_n(&s->stat_late, o->late.count, __ATOMIC_RELAXED);
	__atomic_store_n(&s->stat_index, index_bytes(&o->index) + o->late.bytes + o->publishers.bytes,
			 __ATOMIC_RELAXED);
}

static enum stream_error append_new(struct stream *s, struct frame *f, uint64_t hash)
{
	struct stream_own *o = &s->own;
	bool late = stream_is_late(o, f->seq_no, f->timestamp);
	bool numbered = f->publisher.n > 0 && f->publisher_seq > 0;
	size_t size = frame_size(f);
	enum stream_error e;

	if (index_reserve(&o->index) != 0)
		return STREAM_E_BUSY;
	e = make_room(s, size);
	if (e != STREAM_E_OK)
		return e;
	if (numbered &&
	    publishers_reserve(&o->publishers, hash, f->publisher) != 0) /* after what may fail often: it stays */
		return STREAM_E_BUSY;
	if (late) {
		struct late l = {{f->seq_no, f->timestamp, o->open->pos + o->open->fill}, (uint32_t)size};

		if (late_add(&o->late, &l) != 0)
			return STREAM_E_BUSY;
	}
	put(s, f, size, late);
	if (numbered)
		publishers_add(&o->publishers, hash, f->publisher, f->publisher_seq, f->offset, f->timestamp);
	return STREAM_E_OK;
}

/* The server's clock, but never below a timestamp that it has given in this stream: the clock may
 * have been set back. */
static int64_t server_time(const struct stream_own *o)
{
	int64_t now = clock_wall_ns();

	return now > o->server_ts ? now : o->server_ts;
}

enum stream_error stream_append(struct stream *s, const struct stream_request *r, struct stream_answer *ret)
{
	struct stream_own *o = &s->own;
	struct frame f = {
		.seq_no = r->seq_no,
		.timestamp = r->timestamp ? r->timestamp : server_time(o),
		.offset = o->next_offset,
		.payload = r->payload,
		.publisher = r->publisher,
		.publisher_seq = r->publisher_seq,
	};
	struct stream_answer answer = {.offset = f.offset,
				       .timestamp = f.timestamp,
				       .durability = s->durability,
				       .incarnation = s->incarnation};
	uint64_t hash = 0;
	enum stream_error e;

	if (r->publisher.n > 0 && r->publisher_seq > 0) {
		struct names key = {.key = {s->ss->hash_key[0], s->ss->hash_key[1]}};

		hash = names_hash(&key, r->publisher);
		switch (publishers_find(&o->publishers, hash, r->publisher, r->publisher_seq, &answer.offset,
					&answer.timestamp)) {
		case PUBLISHER_SEEN:
			answer.duplicate = true;
			count_add(&s->duplicates, 1);
			*ret = answer;
			return STREAM_E_OK;
		case PUBLISHER_STALE:
			count_add(&s->stale, 1);
			return STREAM_E_STALE;
		case PUBLISHER_NEW:
			break;
		}
	}
	e = append_new(s, &f, hash);
	if (e != STREAM_E_OK)
		return e;
	if (r->timestamp == 0)
		o->server_ts = f.timestamp;
	*ret = answer;
	return STREAM_E_OK;
}

/* ---- to the journal ---- */

/* How much of [p, p + n) whole frames make up at most `limit` bytes; and what the record after it has to know. */
static uint32_t cut(const uint8_t *p, uint32_t n, uint32_t limit, struct stream_own *o, uint64_t *ret_offset,
		    uint64_t *ret_seq, int64_t *ret_ts)
{
	uint32_t at = 0;

	*ret_offset = o->sub_offset;
	*ret_seq = o->sub_max_seq;
	*ret_ts = o->sub_max_ts;
	while (at < n) {
		uint64_t seq;
		int64_t ts;
		size_t size;

		CHECK(frame_key((struct span){p + at, n - at}, &seq, &ts, &size));
		if (at + size > limit)
			break;
		at += (uint32_t)size;
		++*ret_offset;
		if (seq > *ret_seq || (seq == *ret_seq && ts > *ret_ts)) {
			*ret_seq = seq;
			*ret_ts = ts;
		}
	}
	CHECK(at > 0);
	return at;
}

/* ---- records under way ---- */

static struct pending *pending_get(struct stream *s)
{
	struct pending **spare = &s->ss->ports[s->owner].spare, *p = *spare;

	if (p != NULL)
		*spare = p->next;
	else
		p = malloc(sizeof *p);
	return p == NULL && s->own.pending_count == 0 ? s->own.reserve : p;
}

static void pending_put(struct stream *s, struct pending *p)
{
	struct pending **spare = &s->ss->ports[s->owner].spare;

	if (p == s->own.reserve)
		return;
	p->next = *spare;
	*spare = p;
}

void pendings_free(struct pending *list)
{
	while (list != NULL) {
		struct pending *next = list->next;

		free(list);
		list = next;
	}
}

static void pending_add(struct stream_own *o, struct pending *p)
{
	p->next = NULL;
	*(o->pending_count > 0 ? &o->pending_last->next : &o->pending) = p;
	o->pending_last = p;
	o->pending_count++;
}

static struct pending *pending_take(struct stream_own *o)
{
	struct pending *p = o->pending;

	o->pending = p->next;
	o->pending_count--;
	return p;
}

static bool submit_record(struct stream *s, struct journal_port *port, struct chunk *c)
{
	struct stream_own *o = &s->own;
	struct pending *p = pending_get(s);
	bool sealed = c != o->open;
	uint64_t next = sealed ? c->end_offset : o->next_offset, max_seq = sealed ? c->end_max_seq : o->max_seq;
	int64_t max_ts = sealed ? c->end_max_ts : o->max_ts;
	uint32_t n = c->fill - o->sub_at;

	if (p == NULL)
		return false;
	if (n > s->record_max)
		n = cut(c->data + o->sub_at, n, s->record_max, o, &next, &max_seq, &max_ts);
	p->where = 0;
	p->pos = c->pos + o->sub_at;
	p->end = p->pos + n;
	p->first_offset = o->sub_offset;
	p->last_offset = next - 1;
	store_le64(p->head, p->pos);
	store_le64(p->head + 8, p->first_offset);
	store_le64(p->head + 16, o->sub_max_seq);
	store_le64(p->head + 24, (uint64_t)o->sub_max_ts);
	store_le32(p->head + 32, (uint32_t)(next - o->sub_offset));
	store_le32(p->head + 36, 2);
	/* of all that was appended: a later one does no harm */
	store_le64(p->head + 40, (uint64_t)o->server_ts);
	if (!journal_appendv(port, &(struct jappend){.log = s->log,
						     .type = RECORD_FRAMES,
						     .mark = p->last_offset,
						     .head = {p->head, RECORD_HEAD},
						     .body = {c->data + o->sub_at, n},
						     .where = &p->where})) {
		pending_put(s, p);
		return false;
	}
	pending_add(o, p);
	o->sub_pos = p->end;
	o->sub_at += n;
	o->sub_offset = next;
	o->sub_max_seq = max_seq;
	o->sub_max_ts = max_ts;
	return true;
}

/* In order, as far as there is room. */
static void submit_log(struct stream *s, struct journal_port *port)
{
	struct stream_own *o = &s->own;

	while (o->sub_chunk != NULL) {
		struct chunk *c = o->sub_chunk;

		if (o->sub_at == c->fill) {
			if (c->newer == NULL)
				return;
			o->sub_chunk = c->newer;
			o->sub_at = 0;
		} else if (o->pending_count == PENDING_MAX || !submit_record(s, port, c)) {
			return;
		}
	}
}

void stream_submit(struct stream *s, struct journal_port *port)
{
	if (s->durability != STREAM_MEMORY)
		submit_log(s, port);
	if (s->log != NULL)
		stream_state_turn(s, port);
}

/* ---- durable ---- */

/* A record began a segment inside of a block: the block is parted there, so that retention can drop one half. */
static void split(struct stream *s, const struct pending *p)
{
	struct stream_own *o = &s->own;
	struct stream_block *b, *half;

	if (o->where_block == o->index.begin)
		return;
	b = index_at(&o->index, o->where_block - 1);
	if (b->pos + b->bytes <= p->pos || index_reserve(&o->index) != 0)
		return;
	half = index_put(&o->index, o->where_block);
	b = half - 1;
	*half = *b;
	half->pos = p->pos;
	half->bytes = (uint32_t)(b->pos + b->bytes - p->pos);
	half->first_offset = p->first_offset;
	half->max_seq = load_le64(p->head + 16);
	half->max_ts = (int64_t)load_le64(p->head + 24);
	b->bytes -= half->bytes;
}

static void note_where(struct stream *s, const struct pending *p)
{
	struct stream_own *o = &s->own;
	const struct chunk_dir *dir = dir_of(s);
	struct chunk *c = atomic_load_explicit(&dir->slot[p->pos / STREAM_UNIT & dir->mask], memory_order_relaxed);
	uint32_t n = atomic_load_explicit(&c->nblocks, memory_order_relaxed);

	if (p->where >> 32 != o->last_segment)
		split(s, p);
	o->last_segment = p->where >> 32;
	while (o->where_block < o->index.end && index_at(&o->index, o->where_block)->pos < p->end)
		index_at(&o->index, o->where_block++)->where = p->where;
	for (uint32_t i = 0; i < n; i++)
		if (c->block[i].pos >= p->pos && c->block[i].pos < p->end)
			atomic_store_explicit(&c->block[i].where, p->where, memory_order_relaxed); /* before edge_set */
}

bool stream_advance(struct stream *s)
{
	struct stream_own *o = &s->own;
	uint64_t pos = edge_pos(&s->durable), was = pos, offset = 0, durable;

	if (s->durability == STREAM_MEMORY) {
		pos = o->end_pos;
		offset = o->next_offset - 1;
	} else if (o->pending_count > 0) {
		durable = jlog_durable(s->log);
		while (o->pending_count > 0 && o->pending->last_offset <= durable) {
			struct pending *p = pending_take(o);

			note_where(s, p);
			pos = p->end;
			offset = p->last_offset;
			pending_put(s, p);
		}
	}
	if (pos == was)
		return false;
	edge_set(&s->durable, pos, offset);
	stream_count(s);
	return true;
}

/* ---- retention ---- */

void stream_trim(struct stream *s, uint64_t offset)
{
	struct stream_own *o = &s->own;

	if (offset <= o->trim_offset)
		return;
	o->trim_offset = offset;
	index_trim(o, offset);
	if (o->index.begin < o->index.end)
		edge_set(&s->first, index_at(&o->index, o->index.begin)->pos,
			 index_at(&o->index, o->index.begin)->first_offset);
	else
		edge_set(&s->first, o->end_pos, o->next_offset);
	o->sweeping = o->late.count > 0;
	stream_count(s);
}

void stream_log_done(struct stream *s)
{
	struct chunk_dir *dir = dir_of(s);

	while (s->own.pending_count > 0)
		pending_put(s, pending_take(&s->own));
	free(s->own.reserve);
	while (dir != NULL) {
		struct chunk_dir *smaller = dir->smaller;

		free(dir);
		dir = smaller;
	}
	while (s->own.pool != NULL) {
		struct chunk *c = s->own.pool;

		s->own.pool = c->pool_next;
		free(c->data);
		free(c);
	}
}
