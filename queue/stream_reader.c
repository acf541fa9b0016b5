/* The reader thread: frames that are not in memory any more, from the segment files.
 *
 * A fetch says where the record begins that holds (or comes before) its position; from there on records are parsed one after the other, each
 * checked by the journal's CRC, and the frames that are handed out by their own. Files are read in windows; the latest windows are kept, since subscribers who
 * are behind often ask for the same, and late frames lie close to each other. What is handed out is part of a window (held by a
 * reference), or, when records are small, frames of several records copied together.
 * Invariant: nothing is handed out that failed a check; the answer then names file and byte.
 */
#include "queue/stream_impl.h"
#include "core/base/log.h"

#include <stdio.h>
#include <stdlib.h>

#define WINDOWS 32u
#define WINDOW_BYTES (512u << 10)
#define SHARE_MIN (16u << 10)     /* a piece of a window is handed out as it is from so many bytes on */
#define GATHER_BYTES (128u << 10) /* else so many are copied together */

struct window {
	struct jlog *log; /* NULL: free */
	uint64_t segment, used;
	uint32_t at; /* byte in the file */
	struct stream_buf *buf;
};

/* A record that was parsed. */
struct place {
	struct jlog *log;
	uint64_t where, next_where;
	uint64_t pos, end, first_offset;
	const uint8_t *frames;
	struct stream_buf *buf; /* held */
};

struct reader {
	struct window window[WINDOWS];
	uint64_t uses;
	/* Of the fetch that is under way. */
	struct stream_source source;
	struct fetch *f;
	struct place place[2];  /* by slot */
	struct chunk *chunk[2]; /* held */
};

int reader_new(struct streams *ss)
{
	ss->reading = calloc(1, sizeof *ss->reading);
	return ss->reading ? 0 : -ENOMEM;
}

void reader_free(struct streams *ss)
{
	if (ss->reading == NULL)
		return;
	for (unsigned i = 0; i < WINDOWS; i++)
		buf_put(ss->reading->window[i].buf);
	free(ss->reading);
	ss->reading = NULL;
}

/* ---- records ---- */

static int say(struct fetch *f, int err, const char *why)
{
	snprintf(f->why, sizeof f->why, "%s", why);
	return err;
}

/* The record's own reader says what is wrong with it, in the journal's words. */
static int say_damage(struct fetch *f, struct jlog *log, uint64_t where)
{
	const char *why = "damaged";
	struct jrecord rec;
	uint8_t *buf = malloc(JOURNAL_RECORD_MAX);

	if (buf != NULL && jlog_read(log, where, buf, JOURNAL_RECORD_MAX, &rec, NULL, &why) == 0)
		why = "a record changed while it was read";
	free(buf);
	return say(f, -EBADMSG, why);
}

static struct window *window_find(struct reader *r, struct jlog *log, const struct jlog_file *file, uint32_t at)
{
	for (unsigned i = 0; i < WINDOWS; i++) {
		struct window *w = &r->window[i];

		if (w->log == log && w->segment == file->segment && w->at <= at && at < w->at + w->buf->n)
			return w;
	}
	return NULL;
}

/* Reads `n` bytes (fewer at the end of what is durable) at `at` into the window that was used longest ago. */
static int window_read(struct reader *r, struct fetch *f, struct jlog *log, const struct jlog_file *file, uint32_t at,
		       uint32_t n, struct window **ret)
{
	struct window *w = &r->window[0];
	const char *why = "";
	ssize_t got;

	for (unsigned i = 1; i < WINDOWS; i++)
		if (r->window[i].used < w->used)
			w = &r->window[i];
	buf_put(w->buf);
	*w = (struct window){.log = NULL};
	if (n > file->end - at)
		n = file->end - at;
	w->buf = buf_new(n);
	if (w->buf == NULL)
		return -ENOMEM;
	got = jlog_file_read(log, file, w->buf->data, n, at, &why);
	if (got < 0)
		return say(f, (int)got, why);
	w->buf->n = (uint32_t)got;
	w->log = log;
	w->segment = file->segment;
	w->at = at;
	*ret = w;
	return 0;
}

static bool place_set(struct place *p, struct jlog *log, const struct jrecord *rec, uint64_t next,
		      struct stream_buf *buf)
{
	struct span pay = rec->payload;

	if (rec->type != RECORD_FRAMES || pay.n < RECORD_HEAD || load_le32(pay.p + 36) != 1)
		return false;
	*p = (struct place){
		.log = log,
		.where = rec->where,
		.next_where = next,
		.pos = load_le64(pay.p),
		.end = load_le64(pay.p) + pay.n - RECORD_HEAD,
		.first_offset = load_le64(pay.p + 8),
		.frames = pay.p + RECORD_HEAD,
		.buf = buf_get(buf),
	};
	return true;
}

/* The record at `where` or the next one, in a held file that it begins in. 0; JLOG_E_SKIP: *ret_next is where to look on; -errno. */
static int record_in(struct reader *r, struct fetch *f, struct jlog *log, const struct jlog_file *file, uint32_t at,
		     struct place *ret, uint64_t *ret_next)
{
	struct window *w = window_find(r, log, file, at);
	uint32_t n = WINDOW_BYTES;
	uint64_t where = file->segment << 32 | at;

	for (int tries = 0; tries < 3; tries++) {
		struct jrecord rec;
		size_t size = 0;
		int err = 0;

		if (w == NULL)
			err = window_read(r, f, log, file, at, n, &w);
		if (err != 0)
			return err;
		w->used = ++r->uses;
		err = jlog_parse(log, where, (struct span){w->buf->data + (at - w->at), w->buf->n - (at - w->at)}, &rec,
				 &size);
		*ret_next = where + size;
		if (err == 0)
			return place_set(ret, log, &rec, where + size, w->buf) ? 0 : say_damage(f, log, where);
		if (err == JLOG_E_SKIP)
			return err;
		if (err != -ENODATA)
			break;
		if (size > n)
			n = (uint32_t)size;
		w = NULL; /* it goes on beyond the window */
	}
	return say_damage(f, log, where);
}

/* The first record at or after `where`. 0; -ENOENT: trimmed; -ENODATA: none yet; other -errno. */
static int record_at(struct reader *r, struct fetch *f, struct jlog *log, uint64_t where, struct place *ret)
{
	int err;

	buf_put(ret->buf);
	*ret = (struct place){.log = NULL};
	do {
		const char *why = "";
		struct jlog_file file;
		uint64_t next = where;
		uint32_t at;

		err = jlog_file_get(log, where, &file, &why);
		if (err != 0)
			return say(f, err, why);
		at = where != 0 && file.segment == where >> 32 ? (uint32_t)where : file.begin;
		err = record_in(r, f, log, &file, at, ret, &next);
		jlog_file_put(log, &file);
		where = next;
	} while (err == JLOG_E_SKIP);
	return err;
}

/* Moves a slot's place to the first record that ends above pos. */
static int seek(struct reader *r, struct fetch *f, struct place *p, uint64_t pos, uint64_t where)
{
	struct jlog *log = f->stream->log;
	int err = 0;

	if (log == NULL || where == WHERE_NONE)
		return -ENOENT;
	if (p->log != log || p->pos > pos || (p->end <= pos && where > p->where))
		err = record_at(r, f, log, where, p);
	while (err == 0 && p->end <= pos)
		err = record_at(r, f, log, p->next_where, p);
	return err;
}

/* ---- merges ---- */

static int disk_bytes(struct stream_source *src, unsigned slot, uint64_t pos, uint64_t where, struct span *ret)
{
	struct reader *r = container_of(src, struct reader, source);
	struct fetch *f = r->f;
	struct place *p = &r->place[slot];
	struct chunk *c = chunk_get(f->stream, pos);
	int err;

	if (r->chunk[slot] != NULL)
		chunk_put(r->chunk[slot]);
	r->chunk[slot] = c;
	if (c != NULL) {
		uint64_t end = atomic_load_explicit(&c->end, memory_order_acquire),
			 durable = edge_pos(&f->stream->durable);

		*ret = (struct span){c->data + (pos - c->pos), (end < durable ? end : durable) - pos};
		return 0;
	}
	err = seek(r, f, p, pos, where);
	if (err != 0)
		return err;
	if (p->pos > pos)
		return -ENOENT;
	*ret = (struct span){p->frames + (pos - p->pos), (size_t)(p->end - pos)};
	return 0;
}

static void check_frames(struct fetch *f)
{
	struct span rest = f->bytes;

	f->frames = 0;
	f->min_seq = UINT64_MAX;
	while (rest.n > 0) {
		size_t size = frame_length(rest);
		uint64_t seq;
		int64_t ts;

		if (size == 0 || !frame_is_whole((struct span){rest.p, size}) || !frame_key(rest, &seq, &ts, &size)) {
			f->err = say(f, -EBADMSG, "a frame on disk is not what was published, although its record is");
			return;
		}
		if (seq < f->min_seq)
			f->min_seq = seq;
		f->last = (struct stream_key){seq, ts, 0};
		f->frames++;
		rest = (struct span){rest.p + size, rest.n - size};
	}
}

static void fetch_merge(struct reader *r, struct fetch *f)
{
	f->err = step_merge(f->step, f->late, &r->source, &f->buf, &f->frames);
	if (f->err != 0)
		return;
	f->bytes = (struct span){f->buf->data, f->buf->n};
	check_frames(f);
}

/* ---- ranges ---- */

/* Copies the rest of this record, and of those after it, into one buffer. */
static int gather(struct reader *r, struct fetch *f, struct place *p, uint64_t pos)
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
			err = record_at(r, f, f->stream->log, p->next_where, p);
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
static int offset_at(const struct place *p, uint64_t pos, uint64_t *ret)
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
	struct place *p = &r->place[0];
	uint64_t pos = f->pos, end;
	int err = seek(r, f, p, pos, f->where);

	if (err == -ENOENT && f->min_offset > 0 && f->stream->log != NULL && f->where != WHERE_NONE)
		err = seek(r, f, p, pos, 0); /* what is left begins later */
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
		return say_damage(f, f->stream->log, p->where);
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
	r->source.bytes = disk_bytes;
	r->f = f;
	f->buf = NULL;
	f->why[0] = '\0';
	if (f->kind == STEP_MERGE) {
		fetch_merge(r, f);
	} else {
		f->err = fetch_range(r, f);
		if (f->err == 0)
			check_frames(f);
	}
	if (f->err != 0) {
		buf_put(f->buf);
		f->buf = NULL;
	}
	for (unsigned i = 0; i < 2; i++) {
		buf_put(r->place[i].buf);
		r->place[i] = (struct place){.log = NULL};
		if (r->chunk[i] != NULL)
			chunk_put(r->chunk[i]);
		r->chunk[i] = NULL;
	}
	if (f->err == -EBADMSG || f->err == -EIO)
		log_error("stream \"%s\": %s", f->stream->name, f->why);
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
