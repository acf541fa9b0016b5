/* The reader thread: frames that are not in memory any more, for cursors that ask.
 *
 * A fetch says where the record begins that holds (or comes before) its position; stream_disk.c reads from there. What is handed out is part of
 * what was read (held by a reference), or, when records are small, frames of several records copied together, or a merge.
 * Invariant: nothing is handed out that failed a check; the answer then names file and byte.
 */
#include "core/base/log_limit.h"
#include "queue/stream_disk.h"

#include <stdio.h>
#include <stdlib.h>

#define SHARE_MIN (16u << 10)     /* a piece of a record is handed out as it is from so many bytes on */
#define GATHER_BYTES (128u << 10) /* else so many are copied together */

struct reader {
	struct disk disk;
	/* Of the fetch that is under way. */
	struct stream_source source;
	struct fetch *f;
	struct chunk *chunk[2]; /* held: of the run, of the late frame */
	struct stream_buf *run; /* held */
};

int reader_new(struct streams *ss)
{
	ss->reading = calloc(1, sizeof *ss->reading);
	return ss->reading ? 0 : -ENOMEM;
}

void reader_free(struct streams *ss)
{
	if (ss->reading != NULL)
		disk_done(&ss->reading->disk);
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
static int check_frames(struct fetch *f)
{
	struct span rest = f->bytes;

	f->frames = 0;
	f->min_seq = UINT64_MAX;
	while (rest.n > 0) {
		size_t size = frame_length(rest);
		uint64_t seq;
		int64_t ts;

		if (size == 0 || !frame_is_whole((struct span){rest.p, size}) || !frame_key(rest, &seq, &ts, &size)) {
			snprintf(f->why, sizeof f->why,
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

/* Copies the rest of this record, and of those after it, into one buffer. */
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
	} while (err == 0 && f->next_pos < f->end && p->pos < f->end && out->n < GATHER_BYTES);
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
	end = p->end < f->end ? p->end : f->end;
	if (end - pos < SHARE_MIN && end < f->end)
		return gather(r, f, p, pos);
	f->buf = buf_get(p->buf);
	f->bytes = (struct span){p->frames + (pos - p->pos), (size_t)(end - pos)};
	f->next_pos = end;
	f->next_where = end < p->end ? p->where : p->next_where;
	return 0;
}

static void fetch(struct reader *r, struct fetch *f)
{
	r->source = (struct stream_source){source_run, source_late};
	r->f = f;
	f->buf = NULL;
	f->why[0] = r->disk.why[0] = '\0';
	if (f->kind == STEP_MERGE)
		f->err = fetch_merge(r, f);
	else
		f->err = fetch_range(r, f);
	/* what was asked for is durable, so it was there: retention has dropped every frame */
	if (f->err == -ENODATA)
		f->err = -ENOENT;
	if (f->err == 0)
		f->err = check_frames(f);
	if (f->err != 0) {
		buf_put(f->buf);
		f->buf = NULL;
		if (f->why[0] == '\0')
			snprintf(f->why, sizeof f->why, "%s",
				 r->disk.why[0] != '\0' ? r->disk.why : "it could not be read");
	}
	for (unsigned i = 0; i < 2; i++) {
		if (r->chunk[i] != NULL)
			chunk_put(r->chunk[i]);
		r->chunk[i] = NULL;
	}
	buf_put(r->run);
	r->run = NULL;
	if (f->err == -EBADMSG || f->err == -EIO)
		log_limited(LOG_LEVEL_ERROR, "stream \"%s\": %s", f->stream->name, f->why);
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
