/* The reader thread: frames that are not in memory any more, for cursors that ask.
 *
 * A fetch says where the record begins that holds (or comes before) its position; stream_disk.c reads from there. What is handed out is part of
 * what was read (held by a reference), or, when records are small, frames of several records copied together, or a merge. A small part of a large record is
 * copied, so that what a subscriber holds is not much more than what it is given. Copies are kept for a while, for subscribers who ask for the same.
 * Invariants: nothing is handed out that failed a check; the answer then names file and byte. A piece takes at most reader_piece_max bytes of memory.
 */
#include "core/base/log_limit.h"
#include "queue/stream_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_MIN (16u << 10)     /* a piece of a record is handed out as it is from so many bytes on */
#define GATHER_BYTES (128u << 10) /* else so many are copied together */
#define SHARE_PARTS 4u            /* less than such a part of what was read is copied */
#define COPIES 16u
#define COPY_KEPT_MAX (512u << 10) /* larger ones are not kept */

/* Frames that were copied together. */
struct copy {
	const struct jlog *log; /* NULL: free */
	uint64_t used, pos, next_pos, next_where, first_offset, min_seq;
	uint32_t frames;
	struct stream_buf *buf; /* held */
};

struct reader {
	struct disk disk;
	struct copy copy[COPIES];
	uint64_t uses;
	uint64_t began; /* the position that the range at hand begins at */
	char why[320];
	/* Of the fetch that is under way. */
	struct stream_source source;
	struct fetch *f;
	struct chunk *chunk[2]; /* held: of the run, of the late frame */
	struct stream_buf *run; /* held */
};

uint32_t reader_piece_max(uint32_t frame_max)
{
	/* frames of up to STREAM_UNIT bytes, or a larger one, in a buffer that is not much larger */
	uint64_t range = SHARE_PARTS * (uint64_t)(frame_max > STREAM_UNIT ? frame_max : STREAM_UNIT);
	uint64_t merge = MERGE_LATE_BYTES + BLOCK_BYTES + 2 * (uint64_t)frame_max;

	if (range > DISK_READ_MAX)
		range = DISK_READ_MAX;
	return (uint32_t)(sizeof(struct stream_buf) + (range > merge ? range : merge));
}

int reader_new(struct streams *ss)
{
	ss->reading = calloc(1, sizeof *ss->reading);
	return ss->reading ? 0 : -ENOMEM;
}

void reader_free(struct streams *ss)
{
	if (ss->reading != NULL) {
		for (unsigned i = 0; i < COPIES; i++)
			buf_put(ss->reading->copy[i].buf);
		disk_done(&ss->reading->disk);
	}
	free(ss->reading);
	ss->reading = NULL;
}

static bool is_on_disk(const struct fetch *f, uint64_t where)
{
	return f->stream->log != NULL && where != WHERE_NONE;
}

/* ---- merges ---- */

/* Memory first. False: it is not there. */
static bool from_memory(struct reader *r, unsigned slot, uint64_t pos, struct span *ret)
{
	struct chunk *c = chunk_get(r->f->stream, pos);
	uint64_t end, durable;

	if (r->chunk[slot] != NULL)
		chunk_put(r->chunk[slot]);
	r->chunk[slot] = c;
	if (c == NULL)
		return false;
	end = atomic_load_explicit(&c->end, memory_order_acquire); /* pairs with chunk_seal */
	durable = edge_pos(&r->f->stream->durable);
	*ret = (struct span){c->data + (pos - c->pos), (size_t)((end < durable ? end : durable) - pos)};
	return true;
}

static int source_run(struct stream_source *src, uint64_t pos, uint64_t where, struct span *ret)
{
	struct reader *r = container_of(src, struct reader, source);
	const struct disk_place *p;
	int err;

	if (from_memory(r, 0, pos, ret))
		return 0;
	if (!is_on_disk(r->f, where))
		return -ENOENT;
	err = disk_seek(&r->disk, r->f->stream->log, pos, where, &p);
	if (err != 0)
		return err;
	if (p->pos > pos)
		return -ENOENT;
	buf_put(r->run);
	r->run = buf_get(p->buf); /* late frames may drive it out */
	*ret = (struct span){p->frames + (pos - p->pos), (size_t)(p->end - pos)};
	return 0;
}

static int source_late(struct stream_source *src, const struct late_ref *ref, struct span *ret)
{
	struct reader *r = container_of(src, struct reader, source);

	if (from_memory(r, 1, ref->key.pos, ret))
		return 0;
	if (!is_on_disk(r->f, ref->where))
		return -ENOENT;
	return disk_frame(&r->disk, r->f->stream->log, ref, ret);
}

/* Every frame by its own CRC, whatever way it came. */
static int check_frames(struct reader *r, struct fetch *f)
{
	struct span rest = f->bytes;

	f->frames = 0;
	f->min_seq = UINT64_MAX;
	while (rest.n > 0) {
		size_t size = frame_length(rest);
		uint64_t seq;
		int64_t ts;

		if (size == 0 || !frame_is_whole((struct span){rest.p, size}) || !frame_key(rest, &seq, &ts, &size)) {
			snprintf(r->why, sizeof r->why,
				 "a frame on disk is not what was published, although its record is");
			return -EBADMSG;
		}
		if (seq < f->min_seq)
			f->min_seq = seq;
		f->frames++;
		rest = (struct span){rest.p + size, rest.n - size};
	}
	return 0;
}

static int fetch_merge(struct reader *r, struct fetch *f)
{
	int err = step_merge(f->step, f->late, &r->source, &f->buf, &f->frames);

	if (err == 0)
		f->bytes = (struct span){f->buf->data, f->buf->n};
	return err;
}

/* ---- ranges ---- */

/* The copy that was made of the same place. */
static bool copy_find(struct reader *r, struct fetch *f)
{
	for (unsigned i = 0; i < COPIES; i++) {
		struct copy *c = &r->copy[i];

		if (c->log != f->stream->log || c->pos != f->pos || c->next_pos > f->end || c->buf->n > f->max)
			continue;
		c->used = ++r->uses;
		f->buf = buf_get(c->buf);
		f->bytes = (struct span){c->buf->data, c->buf->n};
		f->frames = c->frames;
		f->first_offset = c->first_offset;
		f->min_seq = c->min_seq;
		f->next_pos = c->next_pos;
		f->next_where = c->next_where;
		return true;
	}
	return false;
}

/* Keeps a copy that has been checked, in the place of the one that was used longest ago. */
static void copy_keep(struct reader *r, const struct fetch *f)
{
	struct copy *c = &r->copy[0];

	if (f->bytes.p != f->buf->data || f->buf->cap > COPY_KEPT_MAX || r->began != f->pos)
		return; /* no copy, or not of the place that was asked for */
	for (unsigned i = 1; i < COPIES; i++)
		if (r->copy[i].used < c->used)
			c = &r->copy[i];
	buf_put(c->buf);
	*c = (struct copy){.log = f->stream->log,
			   .used = ++r->uses,
			   .pos = f->pos,
			   .next_pos = f->next_pos,
			   .next_where = f->next_where,
			   .first_offset = f->first_offset,
			   .min_seq = f->min_seq,
			   .frames = f->frames,
			   .buf = buf_get(f->buf)};
}

/* The end of the whole frames from `pos` on that make up at most `max` bytes, one at least. */
static uint64_t cut(const struct disk_place *p, uint64_t pos, uint64_t end, size_t max)
{
	uint64_t at = pos;

	while (at < end) {
		size_t n = frame_length((struct span){p->frames + (at - p->pos), (size_t)(end - at)});

		if (n == 0 || (at > pos && at + n - pos > max))
			break;
		at += n;
	}
	return at > pos ? at : end; /* what is no frame is found by check_frames */
}

/* A part of a record: shared, or copied where it is a small part. */
static int take_part(struct fetch *f, const struct disk_place *p, uint64_t pos, uint64_t end)
{
	struct span part = {p->frames + (pos - p->pos), (size_t)(end - pos)};

	if (part.n >= p->buf->n / SHARE_PARTS) {
		f->buf = buf_get(p->buf);
		f->bytes = part;
		return 0;
	}
	f->buf = buf_new(part.n);
	if (f->buf == NULL)
		return -ENOMEM;
	memcpy(f->buf->data, part.p, part.n);
	f->buf->n = (uint32_t)part.n;
	f->bytes = (struct span){f->buf->data, part.n};
	return 0;
}

/* Copies the rest of this record, and of those that follow it without a hole, into one buffer. */
static int gather(struct reader *r, struct fetch *f, const struct disk_place *p, uint64_t pos)
{
	struct stream_buf *out = buf_new(GATHER_BYTES + SHARE_MIN);
	int err = 0;

	if (out == NULL)
		return -ENOMEM;
	do {
		uint64_t end = p->end < f->end ? p->end : f->end;
		size_t n = (size_t)(end - pos);

		if (out->n + n > GATHER_BYTES + SHARE_MIN)
			break;
		memcpy(out->data + out->n, p->frames + (pos - p->pos), n);
		out->n += (uint32_t)n;
		f->next_pos = pos + n;
		f->next_where = p->where;
		if (f->next_pos < f->end)
			err = disk_next(&r->disk, p, &p);
		if (err == 0)
			pos = p->pos;
	} while (err == 0 && f->next_pos < f->end && p->pos == f->next_pos && out->n < GATHER_BYTES);
	if (err == -ENODATA || err == -ENOENT)
		err = 0; /* the rest is another fetch's */
	if (err != 0) {
		buf_put(out);
		return err;
	}
	f->buf = out;
	f->bytes = (struct span){out->data, out->n};
	return 0;
}

/* The offset of the frame at `pos` of a record. */
static int offset_at(const struct disk_place *p, uint64_t pos, uint64_t *ret)
{
	struct frame frame;
	size_t size;

	if (frame_get((struct span){p->frames + (pos - p->pos), (size_t)(p->end - pos)}, &frame, &size) != 0)
		return -EBADMSG;
	*ret = frame.offset;
	return 0;
}

static int fetch_range(struct reader *r, struct fetch *f)
{
	struct jlog *log = f->stream->log;
	const struct disk_place *p;
	uint64_t pos = f->pos, end;
	int err;

	if (!is_on_disk(f, f->where))
		return -ENOENT;
	err = disk_seek(&r->disk, log, pos, f->where, &p);
	if (err == -ENOENT && f->min_offset > 0)
		err = disk_seek(&r->disk, log, pos, 0, &p); /* what is left begins later */
	if (err != 0)
		return err;
	if (p->pos > pos) {
		if (f->min_offset == 0)
			return -ENOENT;
		pos = p->pos;
	}
	if (pos >= f->end)
		return -ENOENT;
	err = offset_at(p, pos, &f->first_offset);
	if (err != 0)
		return err;
	r->began = pos;
	end = p->end < f->end ? p->end : f->end;
	if (end - pos < SHARE_MIN && end < f->end)
		return gather(r, f, p, pos);
	if (end - pos > f->max)
		end = cut(p, pos, end, f->max);
	f->next_pos = end;
	f->next_where = end < p->end ? p->where : p->next_where;
	return take_part(f, p, pos, end);
}

static int fetch_frames(struct reader *r, struct fetch *f)
{
	int err;

	if (f->kind == STEP_RANGE && copy_find(r, f))
		return 0;
	err = f->kind == STEP_MERGE ? fetch_merge(r, f) : fetch_range(r, f);
	if (err == -ENODATA) /* what was asked for is durable, so it was there: retention has dropped every frame */
		err = -ENOENT;
	if (err == 0)
		err = check_frames(r, f);
	if (err == 0 && f->kind == STEP_RANGE)
		copy_keep(r, f);
	return err;
}

static void fetch(struct reader *r, struct fetch *f)
{
	r->source = (struct stream_source){source_run, source_late};
	r->f = f;
	f->buf = NULL;
	r->why[0] = r->disk.why[0] = '\0';
	f->err = fetch_frames(r, f);
	if (f->err != 0) {
		buf_put(f->buf);
		f->buf = NULL;
		if (r->why[0] == '\0')
			snprintf(r->why, sizeof r->why, "%s",
				 r->disk.why[0] != '\0' ? r->disk.why : "it could not be read");
		f->why = strdup(r->why);
	}
	for (unsigned i = 0; i < 2; i++) {
		if (r->chunk[i] != NULL)
			chunk_put(r->chunk[i]);
		r->chunk[i] = NULL;
	}
	buf_put(r->run);
	r->run = NULL;
	if (f->err == -EBADMSG || f->err == -EIO)
		log_limited(LOG_LEVEL_ERROR, "stream \"%s\": %s", f->stream->name, r->why);
}

bool reader_turn(struct streams *ss)
{
	struct note *n = inbox_take(&ss->reader.inbox);
	bool worked = n != NULL;

	while (n != NULL) {
		struct fetch *f = container_of(n, struct fetch, note);

		n = n->next;
		fetch(ss->reading, f);
		inbox_push(f->reply, &f->note, NOTE_FETCHED);
	}
	return worked;
}

void *reader_main(void *arg)
{
	struct streams *ss = arg;
	struct worker *w = &ss->reader;

	log_thread_register("reader");
	while (!atomic_load_explicit(&w->stop, memory_order_acquire)) { /* pairs with streams_stop */
		if (reader_turn(ss))
			continue;
		doorbell_arm(&w->bell);
		if (inbox_is_empty(&w->inbox) && !atomic_load_explicit(&w->stop, memory_order_acquire))
			doorbell_wait(&w->bell, UINT64_MAX);
		else
			doorbell_disarm(&w->bell);
	}
	log_thread_unregister();
	return NULL;
}
