/* One stream, made from its log: everything that its owner keeps is rebuilt from the records. Runs
 * on the main thread, or on the keeper's.
 *
 * What does not follow from the frames that are kept is in records of the stream's state
 * (stream_state.c), which a trim never drops. A log that has none, a new one or one that an older
 * version wrote, gets one before anybody sees the stream.
 *
 * Invariants that the log must hold, or it is refused: positions rise, offsets are dense, each
 * frame decodes and carries its own offset, and a record's mark is its last offset. The journal has
 * checked the records' CRCs. Nothing is kept in memory but the index: readers of the past read from
 * disk until new frames come. */
#include "queue/stream_impl.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/incarnation.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No stream gets so far: sums of such positions and offsets cannot overflow. */
#define NUMBERS_MAX (UINT64_C(1) << 62)

static _Thread_local char why_text[256];

struct recovery {
	struct stream *s;
	struct names key;
	uint64_t bytes, frames, began_ns;
	int64_t wall_ns;      /* now */
	uint64_t incarnation; /* 0: no state was found */
	uint64_t boot;        /* of the latest state */
	struct publisher_number *numbers;
	bool lost;   /* frames that subscribers have seen may be gone */
	bool stated; /* the state that is true now has been appended */
	bool wrong;  /* why_text says what */
	uint8_t state[STATE_BYTES];
};

static int refuse(struct recovery *r, const struct jrecord *rec, const char *what)
{
	snprintf(why_text, sizeof why_text, "stream \"%s\": the record at byte %" PRIu32 " of segment %" PRIu64 " %s",
		 r->s->name, (uint32_t)rec->where, rec->where >> 32, what);
	r->wrong = true;
	return -EBADMSG;
}

static void progress(struct recovery *r)
{
	if (opening_is_long(&r->s->ss->opening))
		log_info("stream \"%s\": %" PRIu64 " frames, %" PRIu64 " MB read in %.1f s", r->s->name, r->frames,
			 r->bytes / 1000000, (double)(clock_mono_ns() - r->began_ns) / 1e9);
}

/* Before the frame at `pos` is taken in: begins a block if one is due. 0 or -ENOMEM. */
static int recover_block(struct stream_own *o, const struct jrecord *rec, uint64_t pos)
{
	struct stream_block *b = o->index.end > o->index.begin ? index_at(&o->index, o->index.end - 1) : NULL;

	if (b != NULL && b->bytes < BLOCK_BYTES && b->pos + b->bytes == pos && rec->where >> 32 == o->last_segment)
		return 0;
	if (index_reserve(&o->index) != 0)
		return -ENOMEM;
	*index_put(&o->index, o->index.end) = (struct stream_block){.pos = pos,
								    .where = rec->where,
								    .first_offset = o->next_offset,
								    .max_seq = o->max_seq,
								    .max_ts = o->max_ts};
	o->last_segment = rec->where >> 32;
	return 0;
}

static int recover_frame(struct recovery *r, const struct frame *f, uint64_t pos, size_t size)
{
	struct stream_own *o = &r->s->own;
	struct stream_block *b = index_at(&o->index, o->index.end - 1);

	if (stream_is_late(o, f->seq_no, f->timestamp)) {
		struct late l = {{f->seq_no, f->timestamp, pos}, (uint32_t)size};

		if (late_add(&o->late, &l) != 0)
			return -ENOMEM;
		b->has_late = true;
	} else {
		b->has_run = true;
		o->max_seq = f->seq_no;
		o->max_ts = f->timestamp;
	}
	if (f->publisher.n > 0 && f->publisher_seq > 0) {
		uint64_t hash = names_hash(&r->key, f->publisher);

		if (publishers_reserve(&o->publishers, hash, f->publisher) != 0)
			return -ENOMEM;
		publishers_add(&o->publishers, hash, f->publisher, f->publisher_seq, f->offset, f->timestamp);
	}
	b->bytes += (uint32_t)size;
	o->next_offset++;
	o->end_pos = pos + size;
	return 0;
}

static int unknown_kind(struct recovery *r, const struct jrecord *rec)
{
	refuse(r, rec, "is of an unknown kind: it was written by a newer version");
	return -ENOTSUP;
}

/* The head of a record of frames: checked against what came before it. */
static int recover_head(struct recovery *r, const struct jrecord *rec)
{
	struct stream_own *o = &r->s->own;
	const uint8_t *p = rec->payload.p;
	uint32_t head = record_head(rec->payload);
	uint64_t pos, first;

	if (head == 0)
		return unknown_kind(r, rec);
	pos = load_le64(p);
	first = load_le64(p + 8);
	if (r->frames == 0 && r->incarnation == 0) { /* what was before it is gone */
		o->next_offset = first;
		o->max_seq = load_le64(p + 16);
		o->max_ts = (int64_t)load_le64(p + 24);
	}
	if (first == 0 || first > NUMBERS_MAX || pos > NUMBERS_MAX || first != o->next_offset || pos < o->end_pos ||
	    rec->mark != first + load_le32(p + 32) - 1)
		return refuse(r, rec, "does not follow the one before it");
	if (head == RECORD_HEAD && (int64_t)load_le64(p + 40) > o->server_ts)
		o->server_ts = (int64_t)load_le64(p + 40);
	return 0;
}

/* A record of an older version does not say which timestamps the server gave. One that lies ahead
 * is a publisher's. */
static void recover_time(struct recovery *r, int64_t timestamp)
{
	struct stream_own *o = &r->s->own;

	if (timestamp > o->server_ts && timestamp <= r->wall_ns)
		o->server_ts = timestamp;
}

static int recover_frames(struct recovery *r, const struct jrecord *rec)
{
	struct stream_own *o = &r->s->own;
	uint32_t head = record_head(rec->payload);
	struct span rest = {rec->payload.p + head, rec->payload.n - head};
	uint64_t pos;
	int err = recover_head(r, rec);

	if (err != 0)
		return err;
	pos = load_le64(rec->payload.p);
	while (rest.n > 0) {
		struct frame f;
		size_t size;

		if (frame_get(rest, &f, &size) != 0 || f.offset != o->next_offset)
			return refuse(r, rec, "holds something that is not its frame");
		err = recover_block(o, rec, pos);
		if (err == 0)
			err = recover_frame(r, &f, pos, size);
		if (head == RECORD_HEAD_1)
			recover_time(r, f.timestamp);
		if (err != 0)
			return err;
		pos += size;
		rest = (struct span){rest.p + size, rest.n - size};
	}
	if (rec->mark != o->next_offset - 1)
		return refuse(r, rec, "does not hold as many frames as it says");
	r->frames += o->next_offset - load_le64(rec->payload.p + 8);
	r->bytes += rec->payload.n;
	progress(r);
	return 0;
}

static int recover_state(struct recovery *r, const struct jrecord *rec)
{
	struct stream_own *o = &r->s->own;
	struct stream_state st;
	int err = state_decode(rec->payload, &st);

	if (err == -ENOTSUP)
		return unknown_kind(r, rec);
	if (err != 0 || st.next_offset > NUMBERS_MAX || st.pos > NUMBERS_MAX || rec->mark != st.next_offset - 1)
		return refuse(r, rec, "is not a stream's state");
	if (r->frames == 0 && r->incarnation == 0) {
		o->next_offset = st.next_offset;
		o->end_pos = st.pos;
		o->max_seq = st.max_seq;
		o->max_ts = st.max_ts;
	}
	if (st.next_offset != o->next_offset || st.pos != o->end_pos || st.max_seq != o->max_seq ||
	    st.max_ts != o->max_ts)
		return refuse(r, rec, "does not follow the one before it");
	if (st.server_ts > o->server_ts)
		o->server_ts = st.server_ts;
	r->incarnation = st.incarnation;
	r->boot = st.boot;
	return 0;
}

static int recover_numbers(struct recovery *r, const struct jrecord *rec)
{
	struct span rest = rec->payload;
	uint32_t n_max = (uint32_t)(rest.n / sizeof *r->numbers);
	struct publisher_facts f;
	int err = state_numbers_open(&rest);

	if (err == -ENOTSUP)
		return unknown_kind(r, rec);
	free(r->numbers);
	r->numbers = malloc((n_max + 1) * sizeof *r->numbers);
	if (r->numbers == NULL)
		return -ENOMEM;
	while (err == 0 && rest.n > 0) {
		if (!publishers_take(&rest, &f, r->numbers, n_max) || (f.n > 0 && f.v[f.n - 1].offset > rec->mark))
			err = -EBADMSG;
		else if (publishers_restore(&r->s->own.publishers, names_hash(&r->key, f.name), &f) != 0)
			return -ENOMEM;
	}
	return err != 0 ? refuse(r, rec, "does not hold publishers' numbers") : 0;
}

static int replay(void *ctx, const struct jrecord *rec)
{
	struct recovery *r = ctx;

	switch (rec->type) {
	case RECORD_FRAMES:
		return recover_frames(r, rec);
	case RECORD_STATE:
		return recover_state(r, rec);
	case RECORD_NUMBERS:
		return recover_numbers(r, rec);
	default:
		return unknown_kind(r, rec);
	}
}

/* Everything has been read. A log without a state gets one, and so does one whose frames were
 * acknowledged before they were synced, or are to be: where the machine has gone down since, frames
 * that subscribers have seen may be lost and their offsets given again, in another incarnation. */
static int opened(void *ctx, uint64_t mark, struct jappend *ret)
{
	struct recovery *r = ctx;
	struct stream_own *o = &r->s->own;
	struct journal *j = r->s->ss->journal;
	uint64_t boot = r->s->durability == STREAM_WRITE ? journal_boot(j) : 0;
	struct stream_state st;

	if (r->stated)
		return 0;
	if (r->frames > 0 || r->incarnation != 0 ? mark != o->next_offset - 1 : mark >= NUMBERS_MAX) {
		snprintf(why_text, sizeof why_text,
			 "stream \"%s\": the last mark of its log is %" PRIu64 ", and its last offset %" PRIu64,
			 r->s->name, mark, o->next_offset - 1);
		r->wrong = true;
		return -EBADMSG;
	}
	r->lost = r->boot != 0 && r->boot != journal_boot(j) && !journal_was_clean(j);
	if (r->incarnation != 0 && !r->lost && r->boot == boot)
		return 0;
	if (r->frames == 0 && r->incarnation == 0) /* a new log; or all frames were dropped by an older version */
		o->next_offset = mark + 1;
	if (r->incarnation == 0 || r->lost)
		r->incarnation = incarnation_new();
	st = (struct stream_state){
		.incarnation = r->incarnation,
		.next_offset = o->next_offset,
		.pos = o->end_pos,
		.max_seq = o->max_seq,
		.max_ts = o->max_ts,
		.server_ts = o->server_ts,
		.boot = boot,
	};
	state_encode(r->state, &st);
	r->stated = true;
	ret->type = RECORD_STATE;
	ret->mark = o->next_offset - 1;
	ret->body = (struct span){r->state, sizeof r->state};
	return 1;
}

static int open_log(struct stream *s, const char **ret_why)
{
	struct stream_own *o = &s->own;
	struct recovery r = {
		.s = s, .key = {.key = {s->ss->hash_key[0], s->ss->hash_key[1]}}, .began_ns = clock_mono_ns()};
	char name[208];
	struct jlog_opts lo = {
		.name = name,
		.segment_bytes = s->ss->opts.segment_bytes,
		.replay = replay,
		.opened = opened,
		.ctx = &r,
		.durability = s->durability == STREAM_FSYNC ? JLOG_FSYNC : JLOG_WRITE,
		.small = true,
	};
	int err;

	r.wall_ns = clock_wall_ns();
	stream_log_name(name, stream_name(s));
	err = journal_log_open(s->ss->journal, &lo, &s->log, ret_why);
	free(r.numbers);
	if (err != 0) {
		if (r.wrong)
			*ret_why = why_text;
		return err;
	}
	s->log_incarnation = r.incarnation;
	if (r.lost && s->ss->opening.lost++ == 0)
		s->ss->opening.lost_first = s;
	if (jlog_record_max(s->log) - RECORD_HEAD < s->record_max)
		s->record_max = jlog_record_max(s->log) - RECORD_HEAD;
	s->ss->opening.frames += r.frames;
	s->ss->opening.late += o->late.count;
	if (clock_mono_ns() - r.began_ns >= NS_PER_S)
		log_info("stream \"%s\": %" PRIu64 " frames up to offset %" PRIu64 ", %" PRIu64
			 " of them out of order, in %.2f s",
			 s->name, r.frames, o->next_offset - 1, o->late.count,
			 (double)(clock_mono_ns() - r.began_ns) / 1e9);
	return 0;
}

/* What follows from the log, or from there being none. */
static void settle(struct stream *s)
{
	struct stream_own *o = &s->own;
	bool some = o->index.begin < o->index.end;

	s->recovered_pos = o->end_pos;
	o->where_block = o->index.end;
	o->publishers.walk = NULL;
	o->sub_pos = o->end_pos;
	o->sub_offset = o->next_offset;
	o->sub_max_seq = o->max_seq;
	o->sub_max_ts = o->max_ts;
	o->trim_offset = o->trimmed = some ? index_at(&o->index, o->index.begin)->first_offset : o->next_offset;
	edge_set(&s->first, some ? index_at(&o->index, o->index.begin)->pos : o->end_pos, o->trim_offset);
	edge_set(&s->durable, o->end_pos, o->next_offset - 1);
	stream_count(s);
}

static struct stream *alloc(struct streams *ss, struct span name)
{
	size_t size = (sizeof(struct stream) + ss->opts.shards * sizeof(struct stream_local *) + CACHE_LINE - 1) /
		      CACHE_LINE * CACHE_LINE;
	struct stream *s = aligned_alloc(CACHE_LINE, size);
	struct names key = {.key = {ss->hash_key[0], ss->hash_key[1]}};

	if (s == NULL)
		return NULL;
	memset(s, 0, size);
	s->ss = ss;
	s->name_len = (uint32_t)name.n;
	if (name.n > 0)
		memcpy(s->name, name.p, name.n);
	s->owner = (unsigned)((names_hash(&key, name) >> 8) % ss->opts.shards);
	s->durability = streams_durability_of(ss, name);
	s->record_max = JOURNAL_RECORD_MAX - RECORD_HEAD;
	s->memory_max = ss->opts.memory_bytes;
	if (s->memory_max < 2 * (uint64_t)ss->frame_max + 2 * STREAM_UNIT)
		s->memory_max = 2 * (uint64_t)ss->frame_max + 2 * STREAM_UNIT;
	s->own.next_offset = 1;
	s->own.max_ts = s->own.sub_max_ts = INT64_MIN;
	s->own.server_ts = INT64_MIN;
	s->own.late.swept.timestamp = INT64_MIN;
	s->own.publishers.max = ss->opts.publishers_max;
	s->own.publishers.numbers_max = ss->opts.numbers_max;
	s->own.acks.last = &s->own.acks.first;
	s->own.parked.last = &s->own.parked.first;
	return s;
}

static const char no_memory_to_say[] = "it is damaged on the server's disk";

void stream_set_damage(struct stream *s, const char *why)
{
	const char *copy = strdup(why);

	atomic_store_explicit(&s->damage, copy != NULL ? copy : no_memory_to_say,
			      memory_order_release); /* pairs with stream_damage */
}

void stream_free(struct stream *s)
{
	const char *why;

	if (s == NULL)
		return;
	why = stream_damage(s);
	if (why != no_memory_to_say)
		free((void *)(uintptr_t)why);
	stream_log_done(s);
	index_done(&s->own.index);
	late_done(&s->own.late);
	publishers_done(&s->own.publishers);
	for (unsigned i = 0; i < s->ss->opts.shards; i++)
		free(atomic_load_explicit(&s->local[i], memory_order_relaxed));
	free(s);
}

struct stream *stream_make_closed(struct streams *ss, struct span name, const char *why)
{
	struct stream *s = alloc(ss, name);

	if (s == NULL)
		return NULL;
	s->closed = true;
	settle(s);
	stream_set_damage(s, why);
	return s;
}

int stream_make(struct streams *ss, struct span name, bool exists, struct stream **ret, const char **ret_why)
{
	struct stream *s = alloc(ss, name);
	int err = 0;

	*ret_why = "out of memory";
	if (s == NULL)
		return -ENOMEM;
	if (exists || s->durability != STREAM_MEMORY)
		err = open_log(s, ret_why);
	s->incarnation = s->log_incarnation;
	if (s->durability == STREAM_MEMORY)
		s->incarnation = incarnation_new();
	if (err != 0) {
		stream_free(s);
		return err;
	}
	settle(s);
	*ret = s;
	return 0;
}
