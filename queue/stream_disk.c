/* Reading records and frames from segment files. Runs in the reader thread.
 *
 * Files are read in windows, records parsed in them; the latest of both are kept, since subscribers who are behind often ask for the same. A late frame is mostly
 * alone in its part of the disk: it is read by itself, found by the heads of the records around it, and its own CRC and key say whether it is the one.
 * When they do not, the whole record is read, whose checks name the damage.
 */
#include "queue/stream_disk.h"

#include <stdio.h>
#include <stdlib.h>

#define WINDOW_BYTES (512u << 10)
/* as much of a record as says what it is and where its frames lie */
#define HEAD_BYTES (JLOG_HEADER + RECORD_HEAD_1)
#define HEADS_WALKED 4096u /* more than an index block can have records */

void disk_done(struct disk *d)
{
	for (unsigned i = 0; i < DISK_WINDOWS; i++)
		buf_put(d->window[i].buf);
	for (unsigned i = 0; i < DISK_PLACES; i++)
		buf_put(d->place[i].buf);
	free(d->frame);
}

static int say(struct disk *d, int err, const char *why)
{
	snprintf(d->why, sizeof d->why, "%s", why);
	return err;
}

/* The record's own reader says what is wrong with it, in the journal's words. */
static int say_damage(struct disk *d, struct jlog *log, uint64_t where)
{
	const char *why = "damaged";
	struct jrecord rec;
	uint8_t *buf = malloc(JOURNAL_RECORD_MAX);

	if (buf != NULL && jlog_read(log, where, buf, JOURNAL_RECORD_MAX, &rec, NULL, &why) == 0)
		why = "a record changed while it was read";
	free(buf);
	return say(d, -EBADMSG, why);
}

/* Holds the file that `where` is in (or that follows, at the end of one): *ret_at is the byte in it. */
static int hold_file(struct disk *d, struct jlog *log, uint64_t where, struct jlog_file *ret, uint32_t *ret_at)
{
	const char *why = "";
	int err = jlog_file_get(log, where, ret, &why);

	if (err != 0)
		return say(d, err, why);
	*ret_at = where != 0 && ret->segment == where >> 32 ? (uint32_t)where : ret->begin;
	return 0;
}

/* ---- windows ---- */

static struct disk_window *window_find(struct disk *d, struct jlog *log, const struct jlog_file *file, uint32_t at)
{
	for (unsigned i = 0; i < DISK_WINDOWS; i++) {
		struct disk_window *w = &d->window[i];

		if (w->log == log && w->segment == file->segment && w->at <= at && at < w->at + w->buf->n)
			return w;
	}
	return NULL;
}

/* The records in it are forgotten, too. */
static void window_drop(struct disk *d, struct disk_window *w)
{
	for (unsigned i = 0; i < DISK_PLACES && w->buf != NULL; i++) {
		struct disk_place *p = &d->place[i];

		if (p->buf == w->buf) {
			buf_put(p->buf);
			*p = (struct disk_place){.log = NULL};
		}
	}
	if (w->buf != NULL)
		d->window_bytes -= w->buf->cap;
	buf_put(w->buf);
	*w = (struct disk_window){.log = NULL};
}

/* The window that was used longest ago. */
static struct disk_window *window_oldest(struct disk *d, bool free_too)
{
	struct disk_window *oldest = NULL;

	for (unsigned i = 0; i < DISK_WINDOWS; i++) {
		struct disk_window *w = &d->window[i];

		if ((w->buf != NULL || free_too) && (oldest == NULL || w->used < oldest->used))
			oldest = w;
	}
	return oldest;
}

/* Reads `n` bytes (fewer at the end of what is durable) at `at` into the window that was used longest ago. */
static int window_read(struct disk *d, struct jlog *log, const struct jlog_file *file, uint32_t at, uint32_t n,
		       struct disk_window **ret)
{
	struct disk_window *w;
	const char *why = "";
	ssize_t got;

	if (n > file->end - at)
		n = file->end - at;
	window_drop(d, window_oldest(d, true));
	while (d->window_bytes + n > DISK_WINDOWS_BYTES && d->window_bytes > 0)
		window_drop(d, window_oldest(d, false));
	w = window_oldest(d, true);
	w->buf = buf_new(n);
	if (w->buf == NULL)
		return -ENOMEM;
	d->window_bytes += n;
	got = jlog_file_read(log, file, w->buf->data, n, at, &why);
	if (got < 0)
		return say(d, (int)got, why);
	w->buf->n = (uint32_t)got;
	w->log = log;
	w->segment = file->segment;
	w->at = at;
	*ret = w;
	return 0;
}

/* ---- records ---- */

static bool place_set(struct disk *d, struct jlog *log, const struct jrecord *rec, uint64_t next,
		      struct stream_buf *buf, const struct disk_place **ret)
{
	struct disk_place *p = &d->place[0];
	struct span pay = rec->payload;
	uint32_t head = record_head(pay);

	if (head == 0 || pay.n <= head)
		return false;
	for (unsigned i = 1; i < DISK_PLACES; i++)
		if (d->place[i].used < p->used)
			p = &d->place[i];
	buf_put(p->buf);
	*p = (struct disk_place){
		.log = log,
		.where = rec->where,
		.next_where = next,
		.used = ++d->uses,
		.pos = load_le64(pay.p),
		.end = load_le64(pay.p) + pay.n - head,
		.first_offset = load_le64(pay.p + 8),
		.frames = pay.p + head,
		.buf = buf_get(buf),
	};
	*ret = p;
	return true;
}

/* The record at byte `at` of a held file. 0; JLOG_E_SKIP: *ret_next is where to look on; -errno. */
static int record_in(struct disk *d, struct jlog *log, const struct jlog_file *file, uint32_t at,
		     const struct disk_place **ret, uint64_t *ret_next)
{
	struct disk_window *w = window_find(d, log, file, at);
	uint64_t where = file->segment << 32 | at;
	uint32_t n = WINDOW_BYTES;

	for (int tries = 0; tries < 3; tries++) {
		struct jrecord rec;
		size_t size = 0;
		int err = 0;

		if (w == NULL)
			err = window_read(d, log, file, at, n, &w);
		if (err != 0)
			return err;
		w->used = ++d->uses;
		err = jlog_parse(log, where, (struct span){w->buf->data + (at - w->at), w->buf->n - (at - w->at)}, &rec,
				 &size);
		*ret_next = where + size;
		if (err == 0 && rec.type != RECORD_FRAMES)
			return JLOG_E_SKIP; /* of the stream's state */
		if (err == 0)
			return place_set(d, log, &rec, where + size, w->buf, ret) ? 0 : say_damage(d, log, where);
		if (err == JLOG_E_SKIP)
			return err;
		if (err != -ENODATA)
			break;
		if (size > n)
			n = (uint32_t)size;
		w = NULL; /* it goes on beyond the window */
	}
	return say_damage(d, log, where);
}

static int record_at(struct disk *d, struct jlog *log, uint64_t where, const struct disk_place **ret)
{
	int err;

	for (unsigned i = 0; i < DISK_PLACES && where != 0; i++) {
		struct disk_place *p = &d->place[i];

		if (p->log == log && p->where == where) {
			p->used = ++d->uses;
			*ret = p;
			return 0;
		}
	}
	do {
		struct jlog_file file;
		uint64_t next = where;
		uint32_t at;

		err = hold_file(d, log, where, &file, &at);
		if (err != 0)
			return err;
		err = record_in(d, log, &file, at, ret, &next);
		jlog_file_put(log, &file);
		where = next;
	} while (err == JLOG_E_SKIP);
	return err;
}

int disk_next(struct disk *d, const struct disk_place *p, const struct disk_place **ret)
{
	return record_at(d, p->log, p->next_where, ret);
}

int disk_seek(struct disk *d, struct jlog *log, uint64_t pos, uint64_t where, const struct disk_place **ret)
{
	const struct disk_place *p;
	int err;

	for (unsigned i = 0; i < DISK_PLACES; i++) {
		if (d->place[i].log == log && d->place[i].pos <= pos && pos < d->place[i].end) {
			d->place[i].used = ++d->uses;
			*ret = &d->place[i];
			return 0;
		}
	}
	err = record_at(d, log, where, &p);
	while (err == 0 && p->end <= pos)
		err = disk_next(d, p, &p);
	if (err == 0)
		*ret = p;
	return err;
}

/* ---- single frames ---- */

static int head_read(struct disk *d, struct jlog *log, uint64_t where, struct disk_head *h)
{
	uint8_t bytes[HEAD_BYTES];
	const char *why = "";
	struct jlog_file file;
	struct jrecord rec;
	size_t size = 0;
	ssize_t got;
	uint32_t at, head;
	int err = hold_file(d, log, where, &file, &at);

	if (err != 0)
		return err;
	got = jlog_file_read(log, &file, bytes, sizeof bytes, at, &why);
	jlog_file_put(log, &file);
	if (got < 0)
		return say(d, (int)got, why);
	*h = (struct disk_head){.log = log, .where = where, .at = file.segment << 32 | at};
	err = jlog_parse_header(log, h->at, (struct span){bytes, (size_t)got}, &rec, &size);
	h->next_where = h->at + size;
	if (err == 0 && rec.type == RECORD_FRAMES) {
		head = got == (ssize_t)sizeof bytes ? frames_head(bytes + JLOG_HEADER) : 0;
		if (head == 0 || rec.payload.n <= head)
			err = -EBADMSG;
		h->frames = JLOG_HEADER + head;
		h->pos = load_le64(bytes + JLOG_HEADER);
		h->end = h->pos + rec.payload.n - head;
	}
	if (err < 0)
		h->log = NULL;
	return err < 0 ? -EBADMSG : 0;
}

/* The head of the record that holds pos. */
static int head_find(struct disk *d, struct jlog *log, uint64_t pos, uint64_t where, struct disk_head *ret)
{
	for (unsigned i = 0; i < HEADS_WALKED; i++) {
		struct disk_head *h =
			&d->head[(where ^ where >> 32) * UINT64_C(0x9e3779b97f4a7c15) >> 52 & (DISK_HEADS - 1)];
		int err = 0;

		if (h->log != log || h->where != where)
			err = head_read(d, log, where, h);
		if (err != 0)
			return err;
		if (pos < h->end) {
			*ret = *h;
			return pos >= h->pos ? 0 : -EBADMSG;
		}
		where = h->next_where;
	}
	return -EBADMSG;
}

static int frame_read(struct disk *d, struct jlog *log, const struct late_ref *ref, const struct disk_head *h)
{
	uint64_t at = (uint32_t)h->at + h->frames + (ref->key.pos - h->pos);
	const char *why = "";
	struct jlog_file file;
	ssize_t got;
	uint32_t ignored;
	int err;

	if (d->frame_cap < ref->size) {
		uint8_t *grown = realloc(d->frame, ref->size);

		if (grown == NULL)
			return -ENOMEM;
		d->frame = grown;
		d->frame_cap = ref->size;
	}
	err = hold_file(d, log, h->at, &file, &ignored);
	if (err != 0)
		return err;
	got = jlog_file_read(log, &file, d->frame, ref->size, (uint32_t)at, &why);
	jlog_file_put(log, &file);
	return got < 0 ? say(d, (int)got, why) : 0;
}

static bool frame_is_the_one(const struct disk *d, const struct late_ref *ref)
{
	struct span s = {d->frame, ref->size};
	uint64_t seq_no;
	int64_t timestamp;
	size_t size;

	return frame_is_whole(s) && frame_key(s, &seq_no, &timestamp, &size) && seq_no == ref->key.seq_no &&
	       timestamp == ref->key.timestamp;
}

int disk_frame(struct disk *d, struct jlog *log, const struct late_ref *ref, struct span *ret)
{
	const struct disk_place *p;
	struct disk_head h = {.log = NULL};
	int err = head_find(d, log, ref->key.pos, ref->where, &h);

	if (err == 0)
		err = frame_read(d, log, ref, &h);
	if (err == 0 && frame_is_the_one(d, ref)) {
		*ret = (struct span){d->frame, ref->size};
		return 0;
	}
	err = disk_seek(d, log, ref->key.pos, ref->where, &p);
	if (err != 0)
		return err;
	if (p->pos > ref->key.pos || p->end - ref->key.pos < ref->size)
		return -ENOENT;
	*ret = (struct span){p->frames + (ref->key.pos - p->pos), ref->size};
	return 0;
}
