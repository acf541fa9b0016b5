/* Opening a log: reads every live record, tells an unfinished tail from damage, cuts the one and
 * refuses the other.
 *
 *   list files -> find the first live segment -> scan the chain of records, replaying
 *     -> look beyond its end -> damage? refuse; otherwise: write again, cut, tidy
 *     -> append what `opened` asks for
 *
 * The first live segment: the newest segment with a valid first record says it, in that record and
 * in the trims behind it. Everything before that record was synced before it was written, so the
 * chain either reaches it or is damaged. Files of segments before the first live one may still be
 * there, if the process ended between a trim and the renames: they are not read at all.
 *
 * The chain: records with rising numbers, one after another, from the first record of the first
 * live segment; where no valid record follows, it goes on at the start of the next segment if the
 * record there has the next number, and ends otherwise. "Known" is the highest record number that
 * anything on disk says was synced: each record says it of its predecessors, and a segment's note
 * of its own records.
 *
 * Invariants: 1. The chain ending at or before `known` is damage: the place is named and nothing is
 * changed. Otherwise what is missing was never acknowledged. 2. What was read past `known` is
 * written again before it is synced, because a sync that failed before may have left pages that
 * look clean and are not on disk. 3. Whatever looks like a record beyond the end has its header
 * zeroed, durably, before anything new is written; and each opening has a higher epoch, below which
 * nothing is accepted after a record of that epoch. So what was cut never comes back. 4. A crash
 * anywhere in here leaves a directory for which the same holds.
 *
 * Runs in the opener's thread, under the journal's open_lock, before anybody else sees the log. */
#include "core/journal_internal.h"

#include "core/base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_STEP (1u << 20)

struct numbers {
	uint64_t *v;
	uint32_t n, cap;
	bool oom;
};

struct point {
	uint32_t index; /* in scan.segs */
	uint32_t at;    /* byte */
};

struct scan {
	struct jlog *log;
	struct jio *io;
	const struct jlog_opts *opts;
	struct numbers files, spares;
	/* the highest files whose numbers have no gap, lowest first; only live ones after drop_dead */
	struct jseg *segs;
	uint32_t nsegs;

	int fd; /* the file that the window shows */
	uint32_t index;
	uint64_t size, win_at, win_len, win_cap;
	uint8_t *win;
	char path[JPATH_MAX];

	uint64_t seq; /* the chain so far: 0 while it is empty */
	uint64_t mark, known, first_live;
	uint32_t epoch, epoch_max;
	struct point end, redo, bad; /* bad: the place to name if the chain ended too early */
	uint64_t note;               /* of the open segment; 0: none */
	bool sealed;                 /* it is one of jlog_seal's */
	/* Of the segment with the chain's end: its first record; whether it, and the segment before
	 * it, are sealed. */
	uint64_t first_seq;
	bool end_sealed, last_sealed;
	uint32_t seen; /* first record header found beyond the end in it, or UINT32_MAX */
	uint64_t seen_seq;
	uint32_t cut;        /* headers zeroed in it */
	bool known_by_super; /* the superblock says so */
	bool opened;         /* open_segment has looked at it */
	bool litter;         /* there is something beyond the chain's end that has to be cut */
};

bool jlog_parse_number(const char *s, uint64_t *ret)
{
	uint64_t v = 0;

	for (int i = 0; i < 16; i++) {
		char c = s[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*ret = v;
	return s[16] == '\0' && v != 0;
}

static void add_number(struct numbers *l, uint64_t v)
{
	if (l->n == l->cap) {
		uint32_t cap = l->cap == 0 ? 16 : l->cap * 2;
		uint64_t *grown = realloc(l->v, cap * sizeof *grown);

		if (grown == NULL) {
			l->oom = true;
			return;
		}
		l->v = grown;
		l->cap = cap;
	}
	l->v[l->n++] = v;
}

static void see_name(void *arg, const char *name, bool is_dir)
{
	struct scan *s = arg;
	uint64_t v;

	if (is_dir)
		return;
	if (jlog_parse_number(name, &v))
		add_number(&s->files, v);
	else if (strncmp(name, "spare-", 6) == 0 && jlog_parse_number(name + 6, &v))
		add_number(&s->spares, v);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Lists the directory and finds the run of segments that ends with the highest number. */
static int list_files(struct scan *s)
{
	uint32_t first;
	int err = jio_list(s->io, s->log->name, see_name, s);

	if (err != 0)
		return err;
	if (s->files.oom || s->spares.oom)
		return jio_fail(s->io, -ENOMEM, s->log->name, "out of memory");
	if (s->files.n == 0)
		return 0;
	qsort(s->files.v, s->files.n, sizeof *s->files.v, by_value);
	first = s->files.n - 1;
	while (first > 0 && s->files.v[first - 1] + 1 == s->files.v[first])
		first--;
	s->nsegs = s->files.n - first;
	s->segs = calloc(s->nsegs, sizeof *s->segs);
	if (s->segs == NULL)
		return jio_fail(s->io, -ENOMEM, s->log->name, "out of memory");
	for (uint32_t i = 0; i < s->nsegs; i++)
		s->segs[i] = (struct jseg){
			.number = s->files.v[first + i],
			.first_mark = UINT64_MAX,
			.end = JF_HEADER,
		};
	return 0;
}

/* Shows n bytes at `at`. *ret is NULL when the file ends before. */
static int need(struct scan *s, uint64_t at, size_t n, const uint8_t **ret)
{
	ssize_t got;
	size_t want;

	*ret = NULL;
	if (at + n > s->size)
		return 0;
	if (at < s->win_at || at + n > s->win_at + s->win_len) {
		want = n > WINDOW_STEP ? n : WINDOW_STEP;
		if (want > s->size - at)
			want = s->size - at;
		s->win_len = 0;
		if (want > s->win_cap) {
			free(s->win);
			s->win = malloc(want);
			s->win_cap = s->win != NULL ? want : 0;
		}
		if (s->win == NULL)
			return jio_fail(s->io, -ENOMEM, s->path, "out of memory");
		got = jio_read(s->io, s->fd, s->path, s->win, want, at);
		if (got < 0)
			return (int)got;
		if ((size_t)got < n)
			return jio_fail(s->io, -EIO, s->path, "ended while being read, at byte %" PRIu64,
					at + (uint64_t)got);
		s->win_at = at;
		s->win_len = (uint64_t)got;
	}
	*ret = s->win + (at - s->win_at);
	return 0;
}

static int damaged(struct scan *s, uint32_t index, uint32_t at, const char *what)
{
	jlog_segment_path(s->log, s->segs[index].number, s->path);
	return jio_fail(s->io, -EBADMSG, s->path, "damaged at byte %u: %s", at, what);
}

#define STRANGERS_MAX 64u /* headers whose log is looked for, which takes a look at every log */

struct search {
	const struct journal *j;
	const uint8_t *header;
	char name[JLOG_NAME_MAX + 1];
	bool foreign;
};

static int is_its_header(void *ctx, const char *name)
{
	struct search *s = ctx;
	const uint8_t *id;

	if (!jf_segment_is_of(s->header, s->j->super.id, name, &id))
		return 0;
	memcpy(s->name, name, strlen(name) + 1);
	s->foreign = memcmp(id, s->j->super.id, JF_ID_BYTES) != 0;
	return 1;
}

/* A header that is not this log's: whose it is, where that can be told. */
static int strange_header(struct scan *s, uint32_t index, const uint8_t *p)
{
	struct search find = {.j = s->log->j, .header = p};
	char what[JLOG_NAME_MAX + 96];

	if (is_its_header(&find, s->log->name) == 0 &&
	    (s->log->j->strangers++ >= STRANGERS_MAX || manifest_each(s->log->j, is_its_header, &find) == 0))
		return damaged(s, index, 0, "the segment's header is not valid for this log in this data directory");
	snprintf(what, sizeof what, "the file is a segment of the log \"%s\"%s", find.name,
		 find.foreign ? " of another data directory" : "");
	return damaged(s, index, 0, what);
}

/* Opens a segment of the run, checks its header, and heeds its note. */
static int open_segment(struct scan *s, uint32_t index)
{
	unsigned how = s->log->j->opts.mode == JOURNAL_CHECK ? JD_READ : 0;
	struct jf_segment seg;
	struct jf_note note;
	const uint8_t *p;
	int64_t size;
	int err;

	if (s->opened && s->index == index)
		return 0;
	s->opened = false;
	jio_close(s->io, &s->fd);
	jlog_segment_path(s->log, s->segs[index].number, s->path);
	s->fd = jio_open(s->io, s->path, how);
	if (s->fd < 0)
		return s->fd;
	size = jio_size(s->io, s->fd, s->path);
	if (size < 0)
		return (int)size;
	s->index = index;
	s->size = (uint64_t)size;
	s->win_len = 0;
	err = need(s, 0, JF_HEADER, &p);
	if (err != 0)
		return err;
	if (p == NULL)
		return damaged(s, index, (uint32_t)size, "the segment's header is cut short");
	err = jf_segment_decode(p, s->log->salt, &seg);
	if (err == -ENOTSUP)
		return jio_fail(s->io, -ENOTSUP, s->path, "it was written by a newer version");
	if (err != 0)
		return strange_header(s, index, p);
	if (seg.number != s->segs[index].number)
		return damaged(s, index, 0, "the segment has another segment's header");
	if (s->log->must_exist && seg.epoch < s->log->birth)
		return damaged(s, index, 0, "the file is from an earlier log of this name");
	if (!s->log->must_exist && index == 0)
		s->log->birth = seg.epoch;
	if (seg.epoch > s->epoch_max)
		s->epoch_max = seg.epoch;
	s->note = jf_note_decode(p + JF_NOTE_AT, s->log->salt, &note) && note.number == seg.number ? note.seq : 0;
	s->sealed = s->note != 0 && (note.flags & JF_NOTE_SEALED);
	if (s->note > s->known)
		s->known = s->note;
	s->opened = true;
	return 0;
}

/* The record at `at` of the open segment: *ret_payload is NULL when there is no valid one. */
static int read_record(struct scan *s, uint32_t at, struct jf_record *ret, const uint8_t **ret_payload)
{
	struct jf_place place = {.segment = s->segs[s->index].number, .offset = at, .salt = s->log->salt};
	const uint8_t *p;
	int err = need(s, at, JF_RECORD_HEADER, &p);

	*ret_payload = NULL;
	if (err != 0 || p == NULL || !jf_record_decode(p, &place, ret))
		return err;
	err = need(s, at, JF_RECORD_HEADER + (size_t)ret->len, &p);
	if (err != 0 || p == NULL)
		return err;
	if (jf_payload_is_good(p, &place, (struct span){p + JF_RECORD_HEADER, ret->len}))
		*ret_payload = p + JF_RECORD_HEADER;
	return 0;
}

/* What a record of the journal's own says of the first live segment; 0: nothing. */
static uint64_t live_of(const struct jf_record *rec, const uint8_t *payload)
{
	if (rec->kind == JF_BEGIN)
		return load_le64(payload + 8);
	return rec->kind == JF_TRIM ? load_le64(payload) : 0;
}

/* Reads the records of one segment, as far as they follow each other, for the first live segment.
 * *ret_used: there is a valid first record. */
static int look_for_live(struct scan *s, uint32_t index, bool *ret_used)
{
	struct jf_record rec, last = {.seq = 0};
	uint32_t at = JF_HEADER;
	int err = open_segment(s, index);

	*ret_used = false;
	while (err == 0) {
		const uint8_t *payload;

		err = read_record(s, at, &rec, &payload);
		if (err != 0 || payload == NULL || (at == JF_HEADER) != (rec.kind == JF_BEGIN))
			break;
		if (*ret_used && (rec.seq != last.seq + 1 || rec.epoch < last.epoch || rec.mark < last.mark))
			break;
		if (live_of(&rec, payload) > s->first_live)
			s->first_live = live_of(&rec, payload);
		*ret_used = true;
		last = rec;
		at += jf_record_size(rec.len);
	}
	return err;
}

/* Finds the first live segment, and leaves the ones before it out of the scan. */
static int drop_dead(struct scan *s)
{
	bool used = false;
	uint32_t dead = 0;
	int err = 0;

	s->first_live = 1;
	if (s->nsegs == 1)
		return 0; /* it is live, whatever its records say; judge compares them */
	for (uint32_t i = s->nsegs; i-- > 0 && !used && err == 0;)
		err = look_for_live(s, i, &used);
	while (dead + 1 < s->nsegs && s->segs[dead].number < s->first_live)
		dead++;
	s->opened = s->opened && dead == 0;
	s->nsegs -= dead;
	memmove(s->segs, s->segs + dead, s->nsegs * sizeof *s->segs);
	return err;
}

/* Whether a valid record is the chain's next. */
static bool continues(const struct scan *s, uint32_t at, const struct jf_record *rec)
{
	if ((at == JF_HEADER) != (rec->kind == JF_BEGIN) || rec->epoch < s->epoch || rec->mark < s->mark)
		return false;
	if (s->seq > 0)
		return rec->seq == s->seq + 1;
	return rec->seq == 1 || s->segs[0].number > 1;
}

/* Adds the record to the chain. 0 or what replay returned. */
static int take(struct scan *s, uint32_t at, const struct jf_record *rec, const uint8_t *payload)
{
	struct jseg *seg = &s->segs[s->index];
	struct jrecord user = {
		.type = rec->type,
		.mark = rec->mark,
		.payload = {payload, rec->len},
		.where = seg->number << 32 | at,
	};
	int err;

	s->seq = rec->seq;
	s->epoch = rec->epoch;
	s->mark = rec->mark;
	if (rec->durable > s->known)
		s->known = rec->durable;
	if (rec->durable + 1 == rec->seq)
		s->redo = (struct point){s->index, at};
	seg->last_mark = rec->mark;
	seg->end = at + jf_record_size(rec->len);
	if (rec->kind == JF_BEGIN)
		seg->created_ns = (int64_t)load_le64(payload);
	if (live_of(rec, payload) > s->first_live)
		s->first_live = live_of(rec, payload);
	if (rec->kind != JF_USER)
		return 0;
	if (seg->first_mark == UINT64_MAX)
		seg->first_mark = rec->mark;
	err = s->opts->replay != NULL ? s->opts->replay(s->opts->ctx, &user) : 0;
	return err != 0 ? jio_fail(s->io, err, s->path, "the record at byte %u was refused", at) : 0;
}

static int scan_chain(struct scan *s)
{
	for (uint32_t i = 0; i < s->nsegs; i++) {
		uint32_t at = JF_HEADER;
		bool before = i > 0 && s->sealed;
		int err = open_segment(s, i);

		while (err == 0) {
			const uint8_t *payload;
			struct jf_record rec;

			err = read_record(s, at, &rec, &payload);
			if (err != 0 || payload == NULL || !continues(s, at, &rec))
				break;
			err = take(s, at, &rec, payload);
			at = s->segs[i].end;
			s->end = (struct point){i, at};
			if (rec.kind == JF_BEGIN) {
				s->first_seq = rec.seq;
				s->last_sealed = before;
				s->end_sealed = s->sealed;
			}
		}
		if (err != 0)
			return err;
		if (at == JF_HEADER)
			break; /* the chain ended in the segment before, or is empty */
	}
	if (s->epoch > s->epoch_max)
		s->epoch_max = s->epoch;
	return 0;
}

static int zero_header(struct scan *s, uint32_t at)
{
	static const uint8_t zeros[JF_RECORD_HEADER];

	s->cut++;
	return jio_write(s->io, s->fd, s->path, zeros, sizeof zeros, at, 0);
}

/* Looks for record headers of this log in the open segment from `at` on. */
static int look_beyond(struct scan *s, uint32_t at, bool cut)
{
	struct jf_place place = {.segment = s->segs[s->index].number, .salt = s->log->salt};
	uint64_t pos = at;

	while (pos + JF_RECORD_HEADER <= s->size) {
		const uint8_t *p;
		uint64_t n;
		int err = need(s, pos, JF_RECORD_HEADER, &p);

		if (err != 0)
			return err;
		n = s->win_at + s->win_len - pos; /* bytes shown from here on */
		for (; n >= JF_RECORD_HEADER; n -= 8, p += 8, pos += 8) {
			struct jf_record rec;

			place.offset = (uint32_t)pos;
			if (!jf_record_decode(p, &place, &rec))
				continue;
			s->litter = true;
			if (rec.epoch > s->epoch_max)
				s->epoch_max = rec.epoch;
			if (rec.epoch >= s->epoch && rec.seq > s->seq && place.offset < s->seen) {
				s->seen = place.offset;
				s->seen_seq = rec.seq;
			}
			if (rec.epoch >= s->epoch && rec.seq > s->seq && rec.durable > s->known)
				s->known = rec.durable;
			err = cut ? zero_header(s, place.offset) : 0;
			if (err != 0)
				return err;
		}
	}
	return 0;
}

/* Whether the open segment, the one after the chain's end, shows that its own first record should have gone on with
 * the chain. */
static bool first_is_bad(const struct scan *s)
{
	if (s->seen == JF_HEADER)
		return s->seen_seq == s->seq + 1;         /* its payload is damaged */
	return s->seen != UINT32_MAX || s->note > s->seq; /* the segment was in use, so there was one */
}

static bool is_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 0)
			return false;
	return true;
}

/* Everything after the chain's end, in all segments. With `cut`: zeroes what it finds, and syncs
 * it. */
static int beyond(struct scan *s, bool cut)
{
	for (uint32_t i = s->end.index; i < s->nsegs; i++) {
		uint32_t at = i == s->end.index ? s->end.at : JF_HEADER;
		const uint8_t *p = NULL;
		int err = open_segment(s, i);

		s->cut = 0;
		s->seen = UINT32_MAX;
		if (err == 0)
			err = need(s, at, JF_RECORD_HEADER, &p);
		if (err == 0 && p != NULL && !is_zero(p, JF_RECORD_HEADER)) {
			s->litter = true;
			err = cut ? zero_header(s, at) : 0;
		}
		if (err == 0)
			err = look_beyond(s, at, cut);
		if (i == s->end.index + 1 && first_is_bad(s))
			s->bad = (struct point){i, JF_HEADER};
		if (err == 0 && s->cut > 0)
			err = jio_sync(s->io, s->fd, s->path);
		if (err != 0)
			return err;
	}
	return 0;
}

static int judge(struct scan *s)
{
	const struct jseg *last = &s->segs[s->end.index];

	if (s->end_sealed && s->known == s->seq + 1 && s->end.index + 1 == s->nsegs) {
		jlog_segment_path(s->log, last->number + 1, s->path);
		return jio_fail(s->io, -EBADMSG, s->path, "damaged at byte 0: the newest file is missing");
	}
	if (s->known > s->seq && s->known_by_super)
		return damaged(
			s, s->bad.index, s->bad.at,
			"no valid record here, and it had been synced: the log is damaged here, or is an older copy");
	if (s->known > s->seq)
		return damaged(s, s->bad.index, s->bad.at, "no valid record here, and it had been synced");
	if (s->first_live > last->number)
		return damaged(s, s->end.index, s->end.at, "the log was trimmed beyond its end");
	if (s->seq > 0 && s->first_live < s->segs[0].number) {
		jlog_segment_path(s->log, s->segs[0].number - 1, s->path);
		return jio_fail(s->io, -EBADMSG, s->path, "damaged at byte 0: the file is missing");
	}
	if (s->seq == 0 && s->segs[0].number > 1)
		return damaged(s, 0, JF_HEADER, "no valid record at the start of the oldest segment");
	return 0;
}

/* Writes the records that are not known to be synced once more, as they were read, and syncs
 * them. */
static int write_again(struct scan *s)
{
	if (s->known == s->seq)
		return 0;
	for (uint32_t i = s->redo.index; i <= s->end.index; i++) {
		uint32_t at = i == s->redo.index ? s->redo.at : JF_HEADER;
		uint32_t end = s->segs[i].end;
		int err = open_segment(s, i);

		while (err == 0 && at < end) {
			uint32_t n = end - at < WINDOW_STEP ? end - at : WINDOW_STEP;
			const uint8_t *p;

			err = need(s, at, n, &p);
			if (err == 0)
				err = jio_write(s->io, s->fd, s->path, p, n, at, 0);
			at += n;
		}
		if (err == 0)
			err = jio_sync(s->io, s->fd, s->path);
		if (err != 0)
			return err;
	}
	return 0;
}

/* Files that hold nothing of the log: segments beyond the end, trimmed ones, spares over the number. The names that count were synced
 * before they did: a segment's before its first record, the first one's before the manifest's entry. */
static int tidy(struct scan *s)
{
	struct jlog *log = s->log;
	char path[JPATH_MAX];
	int err = 0;

	for (uint32_t i = 0; i < s->spares.n && err == 0; i++) {
		jlog_spare_path(log, s->spares.v[i], path);
		if (log->nspares < JLOG_SPARES)
			log->spares[log->nspares++] = s->spares.v[i];
		else
			err = jio_unlink(s->io, path);
	}
	for (uint32_t i = 0; i < s->files.n && err == 0; i++) {
		uint64_t number = s->files.v[i];

		if (number < log->first_live || number > log->number)
			err = jlog_retire(log, s->io, number, true);
	}
	if (log->nspares > 0)
		log->spares_unsynced = true; /* whoever takes one syncs first */
	return err == 0 && !log->must_exist ? jio_sync_dir(s->io, log->name) : err;
}

static int settle(struct scan *s)
{
	struct jlog *log = s->log;
	struct jseg *last = &s->segs[s->end.index];

	log->number = last->number;
	log->tail = last->end;
	log->seq = log->synced_seq = s->seq;
	log->noted_seq = s->known;
	log->last_mark = s->mark;
	log->first_mark = last->first_mark;
	log->begin_ns = last->created_ns != 0 ? last->created_ns : clock_wall_ns();
	log->first_live = log->dropped = s->first_live;
	/* the process ended before it could seal the segment, or was an older version */
	if (s->end.index > 0 && !s->last_sealed) {
		log->unsealed = last->number - 1;
		log->unsealed_seq = s->first_seq;
	}
	atomic_store_explicit(&log->durable, s->mark, memory_order_release);
	for (uint32_t i = 0; i <= s->end.index; i++) {
		if (jlog_seg_add(log, &s->segs[i]) != 0)
			return jio_fail(s->io, -ENOMEM, log->name, "out of memory");
	}
	return 0;
}

static int make_first(struct scan *s)
{
	struct jlog *log = s->log;
	struct jseg seg = {.number = 1, .first_mark = UINT64_MAX, .end = JF_HEADER};
	int err;

	log->number = 1;
	log->birth = log->epoch;
	log->tail = JF_HEADER;
	log->first_live = log->dropped = 1;
	log->first_mark = UINT64_MAX;
	log->begin_ns = seg.created_ns = clock_wall_ns();
	err = tidy(s);
	if (err == 0)
		err = jlog_prepare(log, s->io, 1);
	if (err == 0 && jlog_seg_add(log, &seg) != 0)
		err = jio_fail(s->io, -ENOMEM, log->name, "out of memory");
	return err;
}

static int recover(struct scan *s)
{
	struct jlog *log = s->log;
	bool checking = log->j->opts.mode == JOURNAL_CHECK;
	int err = list_files(s);

	if (log->must_exist && (err == -ENOENT || (err == 0 && s->nsegs == 0)))
		return jio_fail(s->io, -ENOENT, log->name, "%s, and the manifest says that this log must be there",
				err != 0 ? "the folder is gone" : "the folder has no segment left");
	if (err != 0)
		return err;
	if (s->nsegs == 0)
		return checking ? 0 : make_first(s);
	err = drop_dead(s);
	if (err != 0)
		return err;
	s->end = s->redo = (struct point){0, JF_HEADER};
	err = scan_chain(s);
	s->bad = s->end;
	if (err == 0)
		err = beyond(s, false);
	if (jlog_is_first(log) && log->j->super.first_seq > s->known) {
		s->known = log->j->super.first_seq;
		s->known_by_super = true;
	}
	if (err == 0)
		err = judge(s);
	if (err != 0 || checking)
		return err != 0 ? err : settle(s);
	if (s->epoch_max >= log->epoch) {
		err = journal_raise_epoch(log->j, s->io, s->epoch_max);
		log->epoch = log->j->super.epoch;
	}
	if (err == 0)
		err = write_again(s);
	if (err == 0 && s->litter)
		err = beyond(s, true);
	if (err == 0)
		err = settle(s);
	return err == 0 ? tidy(s) : err;
}

/* Opens the active file, and finds how far it is filled. It is not left open: whoever runs the
 * journal opens it when there is something to write. */
static int open_active(struct scan *s)
{
	struct jlog *log = s->log;
	int64_t size = (int64_t)s->size;
	int err;

	jlog_segment_path(log, log->number, s->path);
	if (!s->opened || s->segs[s->index].number != log->number) {
		s->opened = false;
		jio_close(s->io, &s->fd);
		s->fd = jio_open(s->io, s->path, 0);
		if (s->fd < 0)
			return s->fd;
		size = jio_size(s->io, s->fd, s->path);
	}
	if (size < 0)
		return (int)size;
	err = jio_id(s->io, s->fd, s->path, &log->file);
	if (err != 0)
		return err;
	log->filled = (uint32_t)size & ~(JF_BLOCK - 1);
	if (log->filled < log->tail) /* a file that somebody cut: never fill over records */
		log->filled = log->tail;
	return 0;
}

/* Goes on to a segment that has room for a record of `size` bytes. */
static int make_room(struct scan *s, uint32_t size)
{
	struct jlog *log = s->log;
	int err;

	if (log->tail + size <= log->segment_bytes)
		return 0;
	err = jlog_seal(log, s->io);
	if (err == 0)
		err = jlog_prepare(log, s->io, log->number + 1);
	if (err == 0)
		err = jlog_next(log, s->io);
	return err != 0 ? err : open_active(s);
}

/* Appends what the log's user wants to be there from the beginning on, and makes it durable. */
static int append_opened(struct scan *s, const struct jappend *a)
{
	struct jlog *log = s->log;
	struct jf_record rec = {
		.kind = JF_USER, .len = (uint32_t)(a->head.n + a->body.n), .type = a->type, .mark = a->mark};
	uint32_t size = jf_record_size(rec.len), at;
	uint8_t *buf;
	int err;

	CHECK(a->head.n + a->body.n <= jlog_record_max(log) && a->mark >= log->last_mark);
	err = make_room(s, size);
	if (err != 0)
		return err;
	buf = malloc(JLOG_BEGIN_BYTES + size);
	if (buf == NULL)
		return jio_fail(s->io, -ENOMEM, log->name, "out of memory");
	at = log->tail;
	if (at == JF_HEADER)
		jlog_encode_begin(log, buf);
	jlog_encode(log, buf + (log->tail - at), &rec, a->head, a->body);
	err = jlog_fill(log, s->io, s->fd, log->tail);
	if (err == 0)
		err = jio_write(s->io, s->fd, s->path, buf, log->tail - at, at, 0);
	if (err == 0)
		err = jio_sync(s->io, s->fd, s->path);
	free(buf);
	if (err != 0)
		return err;
	log->synced_seq = log->seq;
	log->last_mark = a->mark;
	if (log->first_mark == UINT64_MAX)
		log->first_mark = a->mark;
	jlog_seg_update(log, log->first_mark, log->last_mark, log->begin_ns, log->tail);
	atomic_store_explicit(&log->durable, log->last_mark, memory_order_release);
	return 0;
}

static int call_opened(struct scan *s)
{
	int asked, err = 0;

	do {
		struct jappend a = {.log = s->log};

		asked = s->opts->opened != NULL ? s->opts->opened(s->opts->ctx, s->log->last_mark, &a) : 0;
		if (asked < 0)
			return jio_fail(s->io, asked, s->log->name, "refused after it was read");
		if (asked > 0)
			err = append_opened(s, &a);
	} while (asked > 0 && err == 0);
	return err;
}

/* What follows when the log has been read: its user's record, and the notes of what was recovered. */
static int finish(struct scan *s)
{
	struct jlog *log = s->log;
	int err = open_active(s);

	if (err == 0)
		err = call_opened(s);
	if (err == 0)
		err = jlog_seal(log, s->io);
	if (err != 0 || log->noted_seq == log->synced_seq)
		return err;
	return jlog_put_note(log, s->io, s->fd);
}

static int open_found(struct jlog *log, struct jio *io, const struct jlog_opts *opts)
{
	struct scan s = {.log = log, .io = io, .opts = opts, .fd = -1};
	bool checking = log->j->opts.mode == JOURNAL_CHECK;
	int err = recover(&s);

	if (err == 0 && !checking)
		err = finish(&s);
	jio_close(io, &s.fd);
	free(s.win);
	free(s.segs);
	free(s.files.v);
	free(s.spares.v);
	return err;
}

/* Removes what is there of a log that could not be made. Nothing has been acknowledged of it. */
static void unmake(const struct jlog *log, struct jio *io)
{
	struct jio own = {.d = io->d};
	size_t n = strlen(io->why);
	char path[JPATH_MAX];
	int err;

	jlog_segment_path(log, 1, path);
	err = jio_unlink(&own, path);
	jlog_spare_path(log, 1, path);
	if (err == 0)
		err = jio_unlink(&own, path);
	if (err == 0)
		err = jio_rmdir(&own, log->name);
	if (err == 0)
		err = jio_sync_dir(&own, "");
	io->sync_failed = own.sync_failed;
	if (err != 0)
		snprintf(io->why + n, sizeof io->why - n, "; and then %s", own.why);
}

int jlog_recover(struct jlog *log, struct jio *io, const struct jlog_opts *opts)
{
	bool checking = log->j->opts.mode == JOURNAL_CHECK;
	bool made = false;
	int err = 0;

	if (log->must_exist && log->birth == JLOG_BIRTH_NONE)
		return jio_fail(io, -ENOENT, log->name, "it was lost, and replacing it was begun and not finished");
	if (!log->must_exist && !checking) {
		err = jio_mkdir(io, log->name, &made);
		if (err == 0)
			err = jio_sync_dir(io, "");
	}
	if (err == 0)
		err = open_found(log, io, opts);
	if (err == 0 && !checking)
		err = manifest_add(log->j, io, log->name, log->birth);
	if (err != 0 && made && !io->sync_failed)
		unmake(log, io);
	return err;
}
