/* The readers' side of a log: its list of segments, and reading records back by position.
 *
 * Everything here is under the log's own lock, taken for moments: by readers to find and hold a file, by the journal
 * thread once a group to say how far the newest segment is durable. Reading itself happens outside of it. Invariants:
 * the numbers in the list have no gaps; a file that somebody holds is neither recycled nor closed (a trimmed one moves
 * to the list `gone`, and its file is unlinked instead).
 */
#include "core/journal_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int jlog_seg_add(struct jlog *log, const struct jseg *seg)
{
	struct jseg *copy = malloc(sizeof *copy);
	int err = 0;

	if (copy == NULL)
		return -ENOMEM;
	*copy = *seg;
	pthread_mutex_lock(&log->lock);
	CHECK(log->nsegs == 0 || log->segs[log->nsegs - 1]->number + 1 == seg->number);
	if (log->nsegs == log->segs_cap) {
		uint32_t cap = log->segs_cap == 0 ? 8 : log->segs_cap * 2;
		struct jseg **grown = realloc(log->segs, cap * sizeof *grown);

		if (grown == NULL) {
			err = -ENOMEM;
			goto out_unlock;
		}
		log->segs = grown;
		log->segs_cap = cap;
	}
	log->segs[log->nsegs++] = copy;
	atomic_fetch_add_explicit(&log->bytes, seg->end, memory_order_relaxed);
	journal_count(&log->j->stats.segments, 1);
out_unlock:
	pthread_mutex_unlock(&log->lock);
	if (err != 0)
		free(copy);
	return err;
}

void jlog_seg_update(struct jlog *log, uint64_t first_mark, uint64_t last_mark, int64_t created_ns, uint32_t end)
{
	struct jseg *seg;

	pthread_mutex_lock(&log->lock);
	seg = log->segs[log->nsegs - 1];
	atomic_fetch_add_explicit(&log->bytes, end - seg->end, memory_order_relaxed);
	seg->first_mark = first_mark;
	seg->last_mark = last_mark;
	seg->created_ns = created_ns;
	seg->end = end;
	pthread_mutex_unlock(&log->lock);
}

static void seg_free(struct jlog *log, struct jseg *seg)
{
	jfiles_forget(log, seg);
	free(seg);
}

bool jlog_seg_drop(struct jlog *log, uint64_t first_live, uint64_t *ret_number, bool *ret_held)
{
	struct jseg *seg;

	pthread_mutex_lock(&log->lock);
	seg = log->segs[0];
	if (seg->number >= first_live) {
		pthread_mutex_unlock(&log->lock);
		return false;
	}
	CHECK(log->nsegs > 1);
	log->nsegs--;
	memmove(log->segs, log->segs + 1, log->nsegs * sizeof *log->segs);
	atomic_fetch_sub_explicit(&log->bytes, seg->end, memory_order_relaxed);
	*ret_number = seg->number;
	*ret_held = seg->refs > 0;
	if (seg->refs > 0) {
		seg->gone_next = log->gone;
		log->gone = seg;
	} else {
		seg_free(log, seg);
	}
	pthread_mutex_unlock(&log->lock);
	return true;
}

uint64_t jlog_seg_first_above(struct jlog *log, uint64_t mark)
{
	uint64_t number;
	uint32_t i = 0;

	pthread_mutex_lock(&log->lock);
	while (i + 1 < log->nsegs && log->segs[i]->last_mark < mark)
		i++;
	number = log->segs[i]->number;
	pthread_mutex_unlock(&log->lock);
	return number;
}

void jlog_seg_free_all(struct jlog *log)
{
	while (log->gone != NULL) {
		struct jseg *seg = log->gone;

		log->gone = seg->gone_next;
		seg_free(log, seg);
	}
	for (uint32_t i = 0; i < log->nsegs; i++)
		seg_free(log, log->segs[i]);
	free(log->segs);
	log->segs = NULL;
	log->nsegs = 0;
}

uint32_t jlog_segments(struct jlog *log, struct jsegment *ret, uint32_t cap)
{
	uint32_t n;

	pthread_mutex_lock(&log->lock);
	n = log->nsegs;
	for (uint32_t i = 0; i < n && i < cap; i++) {
		const struct jseg *seg = log->segs[i];

		ret[i] = (struct jsegment){
			.first_mark = seg->first_mark,
			.last_mark = seg->last_mark,
			.begin = seg->number << 32 | JF_HEADER,
			.end = seg->number << 32 | seg->end,
			.created_ns = seg->created_ns,
			.active = i + 1 == n,
		};
	}
	pthread_mutex_unlock(&log->lock);
	return n;
}

/* The live segment that holds `where`, or the one after it when `where` is at its end; sets *offset. Under the lock. */
static int find(struct jlog *log, uint64_t where, struct jseg **ret, uint32_t *ret_offset)
{
	uint64_t number = where >> 32;
	uint32_t offset = (uint32_t)where;
	uint64_t i;

	if (where == 0) {
		number = log->segs[0]->number;
		offset = JF_HEADER;
	}
	if (number < log->segs[0]->number)
		return -ENOENT;
	i = number - log->segs[0]->number;
	if (i < log->nsegs && offset >= log->segs[i]->end && i + 1 < log->nsegs) {
		i++;
		offset = JF_HEADER;
	}
	if (i >= log->nsegs || offset >= log->segs[i]->end)
		return -ENODATA;
	*ret = log->segs[i];
	*ret_offset = offset;
	return 0;
}

/* Lets a segment go. Under the lock. */
static void let_go(struct jlog *log, uint64_t number)
{
	struct jseg **link = &log->gone;
	struct jseg *seg;

	if (number >= log->segs[0]->number) {
		seg = log->segs[number - log->segs[0]->number];
		CHECK(seg->refs > 0);
		seg->refs--;
		return;
	}
	while (*link != NULL && (*link)->number != number)
		link = &(*link)->gone_next;
	seg = *link;
	CHECK(seg != NULL && seg->refs > 0);
	if (--seg->refs == 0) {
		*link = seg->gone_next;
		seg_free(log, seg);
	}
}

static void say_missing(const struct jlog *log, struct jio *io, uint64_t segment)
{
	char path[JPATH_MAX];

	jlog_segment_path(log, segment, path);
	jio_fail(io, -EBADMSG, path, "the file is not there any more, it was deleted or moved away");
}

/* As jlog_file_get; *ret_offset is where to read in the file. */
static int hold(struct jlog *log, uint64_t where, struct jlog_file *ret, uint32_t *ret_offset, struct jio *io)
{
	struct jlog_file file = {.begin = JF_HEADER};
	struct jseg *seg;
	uint32_t offset;
	int err;

	pthread_mutex_lock(&log->lock);
	err = find(log, where, &seg, &offset);
	if (err == 0) {
		seg->refs++;
		file.segment = seg->number;
		file.end = seg->end;
	}
	pthread_mutex_unlock(&log->lock);
	if (err != 0)
		return err;
	file.handle = seg;
	file.fd = jfiles_get(log, seg, io);
	if (file.fd < 0) {
		err = file.fd;
		pthread_mutex_lock(&log->lock);
		/* the file of one that was trimmed in this very moment need not be there */
		if (err == -ENOENT && file.segment >= log->segs[0]->number) {
			err = -EBADMSG;
			say_missing(log, io, file.segment);
		}
		let_go(log, file.segment);
		pthread_mutex_unlock(&log->lock);
		return err;
	}
	*ret = file;
	*ret_offset = offset;
	return 0;
}

int jlog_file_get(struct jlog *log, uint64_t where, struct jlog_file *ret, const char **ret_why)
{
	struct jio io = {.d = &log->j->disk};
	uint32_t offset;
	int err = hold(log, where, ret, &offset, &io);

	if (err != 0 && ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}

void jlog_file_put(struct jlog *log, const struct jlog_file *f)
{
	jfiles_put(log, f->handle);
	pthread_mutex_lock(&log->lock);
	let_go(log, f->segment);
	pthread_mutex_unlock(&log->lock);
}

ssize_t jlog_file_read(struct jlog *log, const struct jlog_file *f, void *buf, size_t n, uint32_t offset,
		       const char **ret_why)
{
	struct jio io = {.d = &log->j->disk};
	char path[JPATH_MAX];
	ssize_t got;

	jlog_segment_path(log, f->segment, path);
	got = jio_read(&io, f->fd, path, buf, n, offset);
	if (got < 0 && ret_why != NULL)
		*ret_why = journal_say(&io);
	return got;
}

static int damaged(struct jlog *log, struct jio *io, uint64_t segment, uint32_t offset)
{
	char path[JPATH_MAX];

	jlog_segment_path(log, segment, path);
	return jio_fail(io, -EBADMSG, path, "damaged at byte %u", offset);
}

/* Reads the record at `offset` of a held file. 0, JLOG_E_SKIP, or as jlog_read; *ret_size once the header is good. */
static int read_at(struct jlog *log, const struct jlog_file *f, uint32_t offset, void *buf, size_t cap,
		   struct jrecord *ret, uint32_t *ret_size, struct jio *io)
{
	struct jf_place at = {.segment = f->segment, .offset = offset, .salt = log->salt};
	uint8_t header[JF_RECORD_HEADER];
	char path[JPATH_MAX];
	struct jf_record rec;
	ssize_t got;

	if (offset < JF_HEADER || offset % 8 != 0)
		return jio_fail(io, -EINVAL, log->name, "byte %u is not where a record begins", offset);
	jlog_segment_path(log, f->segment, path);
	got = jio_read(io, f->fd, path, header, sizeof header, offset);
	if (got < 0)
		return (int)got;
	if (got != sizeof header || !jf_record_decode(header, &at, &rec))
		return damaged(log, io, f->segment, offset);
	*ret_size = jf_record_size(rec.len);
	if (rec.kind != JF_USER)
		return JLOG_E_SKIP;
	*ret = (struct jrecord){
		.type = rec.type,
		.mark = rec.mark,
		.payload = {buf, rec.len},
		.where = f->segment << 32 | offset,
	};
	if (rec.len > cap)
		return jio_fail(io, -EMSGSIZE, path, "the record at byte %u has %u bytes", offset, rec.len);
	got = jio_read(io, f->fd, path, buf, rec.len, offset + JF_RECORD_HEADER);
	if (got < 0)
		return (int)got;
	if ((uint32_t)got != rec.len || !jf_payload_is_good(header, &at, ret->payload))
		return damaged(log, io, f->segment, offset);
	return 0;
}

int jlog_read(struct jlog *log, uint64_t where, void *buf, size_t cap, struct jrecord *ret, uint64_t *ret_next,
	      const char **ret_why)
{
	struct jio io = {.d = &log->j->disk};
	struct jlog_file f;
	uint32_t offset, size = 0;
	int err;

	do {
		err = hold(log, where, &f, &offset, &io);
		if (err != 0)
			break;
		err = read_at(log, &f, offset, buf, cap, ret, &size, &io);
		jlog_file_put(log, &f);
		if (err >= 0)
			where = f.segment << 32 | (offset + size);
	} while (err == JLOG_E_SKIP);
	if (err == 0 && ret_next != NULL)
		*ret_next = where;
	if (err != 0 && ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}

_Static_assert(JLOG_HEADER == JF_RECORD_HEADER, "a payload is where jlog_parse_header says");

int jlog_parse_header(struct jlog *log, uint64_t where, struct span bytes, struct jrecord *ret, size_t *ret_size)
{
	struct jf_place at = {.segment = where >> 32, .offset = (uint32_t)where, .salt = log->salt};
	struct jf_record rec;

	if (bytes.n < JF_RECORD_HEADER) {
		*ret_size = JF_RECORD_HEADER;
		return -ENODATA;
	}
	if (!jf_record_decode(bytes.p, &at, &rec))
		return -EBADMSG;
	*ret_size = jf_record_size(rec.len);
	*ret = (struct jrecord){.type = rec.type, .mark = rec.mark, .payload = {NULL, rec.len}, .where = where};
	return rec.kind == JF_USER ? 0 : JLOG_E_SKIP;
}

int jlog_parse(struct jlog *log, uint64_t where, struct span bytes, struct jrecord *ret, size_t *ret_size)
{
	struct jf_place at = {.segment = where >> 32, .offset = (uint32_t)where, .salt = log->salt};
	struct jf_record rec;
	struct span payload;

	if (bytes.n < JF_RECORD_HEADER) {
		*ret_size = JF_RECORD_HEADER;
		return -ENODATA;
	}
	if (!jf_record_decode(bytes.p, &at, &rec))
		return -EBADMSG;
	*ret_size = jf_record_size(rec.len);
	if (bytes.n < *ret_size)
		return -ENODATA;
	payload = (struct span){bytes.p + JF_RECORD_HEADER, rec.len};
	if (!jf_payload_is_good(bytes.p, &at, payload))
		return -EBADMSG;
	*ret = (struct jrecord){.type = rec.type, .mark = rec.mark, .payload = payload, .where = where};
	return rec.kind == JF_USER ? 0 : JLOG_E_SKIP;
}

uint64_t jlog_durable(const struct jlog *log)
{
	return atomic_load_explicit(&log->durable, memory_order_acquire); /* pairs with publish in journal_group.c */
}

uint64_t jlog_bytes(const struct jlog *log)
{
	return atomic_load_explicit(&log->bytes, memory_order_relaxed);
}

uint32_t jlog_record_max(const struct jlog *log)
{
	uint32_t room = log->segment_bytes - JF_HEADER - JLOG_BEGIN_BYTES - JF_RECORD_HEADER;

	return room < JOURNAL_RECORD_MAX ? room : JOURNAL_RECORD_MAX;
}

const char *jlog_name(const struct jlog *log)
{
	return log->name;
}
