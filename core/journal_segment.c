/* A log's files: making them ready, filling ahead, going on to the next, dropping what was trimmed.
 *
 *   (new file) ----------------+
 *                              v  jlog_prepare: filled, header, synced, renamed, directory synced
 *   spare-NNNN --------------> NNNN (next) --jlog_roll--> NNNN (active) --jlog_roll--> NNNN (sealed)
 *        ^                                                                                |
 *        +------ jlog_retire: renamed, or unlinked when there are enough spares <---------+  trimmed
 *
 * Invariants: 1. A file has a number for a name only with a synced header that says so, and its name is synced before
 * the first record goes in. 2. The header of a spare is written over only after the directory's sync covers its having
 * become one. 3. A trimmed file is renamed or unlinked only after the record that says it is trimmed is synced. 4.
 * Bytes below `filled` are written and in the file's synced size, so that a group's sync has no metadata to commit.
 * 5. After every step, failed ones included, log->spares lists exactly the spare files that are in the folder, each
 * once.
 *
 * Runs in the journal thread; while a log is being opened, in the opener's; at the end, in the closer's.
 */
#include "core/journal_internal.h"

#include "core/base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const uint8_t zeros[256 << 10] __attribute__((aligned(4096)));

void jlog_segment_path(const struct jlog *log, uint64_t number, char path[JPATH_MAX])
{
	snprintf(path, JPATH_MAX, "%s/%016" PRIx64, log->name, number);
}

void jlog_spare_path(const struct jlog *log, uint64_t number, char path[JPATH_MAX])
{
	snprintf(path, JPATH_MAX, "%s/spare-%016" PRIx64, log->name, number);
}

static uint32_t clamp(uint32_t v, uint32_t low, uint32_t high)
{
	return v < low ? low : v > high ? high : v;
}

static uint32_t fill_min(const struct jlog *log, uint64_t number)
{
	return log->small && number == 1 ? JLOG_FILL_SMALL : JLOG_FILL_MIN;
}

static int write_zeros(struct jio *io, int fd, const char *path, uint32_t from, uint32_t to)
{
	while (from < to) {
		uint32_t n = to - from < sizeof zeros ? to - from : (uint32_t)sizeof zeros;
		int err = jio_write(io, fd, path, zeros, n, from, 0);

		if (err != 0)
			return err;
		from += n;
	}
	return 0;
}

int jlog_fill(struct jlog *log, struct jio *io, int fd, uint32_t to)
{
	char path[JPATH_MAX];
	uint32_t step = clamp(log->filled, fill_min(log, log->number), JLOG_FILL_MAX);
	uint32_t end;
	int err;

	if (to <= log->filled)
		return 0;
	end = log->filled < log->segment_bytes ? clamp(log->filled + step, log->filled, log->segment_bytes) : to;
	if (end < to)
		end = to;
	end = (end + JF_BLOCK - 1) & ~(JF_BLOCK - 1);
	jlog_segment_path(log, log->number, path);
	err = write_zeros(io, fd, path, log->filled, end);
	if (err == 0)
		err = jio_sync(io, fd, path);
	if (err != 0)
		return err;
	log->note_unsynced = false;
	log->filled = end;
	return 0;
}

int jlog_fill_to(struct jlog *log, struct jio *io, uint32_t to)
{
	int err = to > log->filled ? jfiles_open_log(log, io) : 0;

	return err != 0 ? err : jlog_fill(log, io, log->wfd, to);
}

/* Fills the file as far as its first records need, and writes its header. Its size, or -errno. */
static int64_t write_header(struct jlog *log, struct jio *io, int fd, const char *path, uint64_t number)
{
	uint8_t block[JF_HEADER] __attribute__((aligned(4096)));
	struct jf_segment seg = {.number = number, .bytes = log->segment_bytes, .epoch = log->epoch};
	uint32_t want = clamp(log->segment_bytes, JF_BLOCK, fill_min(log, number));
	int64_t size = jio_size(io, fd, path);
	int err = 0;

	if (size < 0)
		return size;
	if (size < want) {
		err = write_zeros(io, fd, path, (uint32_t)size & ~(JF_BLOCK - 1), want);
		size = want;
	}
	if (err != 0)
		return err;
	memcpy(seg.id, log->j->super.id, sizeof seg.id);
	jf_segment_encode(block, &seg, log->salt);
	err = jio_write(io, fd, path, block, sizeof block, 0, 0);
	if (err == 0)
		err = jio_sync(io, fd, path);
	return err != 0 ? err : size;
}

/* Opens the spare that is to become a segment: the newest of the list or, where the list is empty, a new file under the
 * spare name of segment `number`, which the list then holds. *ret_old: the file was in use before. A handle or -errno. */
static int open_spare(struct jlog *log, struct jio *io, uint64_t number, char path[JPATH_MAX], bool *ret_old)
{
	int fd;

	while (log->nspares > 0) {
		jlog_spare_path(log, log->spares[log->nspares - 1], path);
		fd = jfiles_open(log->j, io, path, 0);
		if (fd != -ENOENT) {
			*ret_old = true;
			return fd;
		}
		log->nspares--; /* somebody has removed the file by hand */
	}
	jlog_spare_path(log, number, path);
	fd = jfiles_open(log->j, io, path, JD_CREATE);
	if (fd >= 0)
		log->spares[log->nspares++] = number;
	*ret_old = false;
	return fd;
}

/* Gives a filled file with a synced header the name of segment `number`. */
static int name_segment(struct jlog *log, struct jio *io, uint64_t number)
{
	char path[JPATH_MAX], spare[JPATH_MAX];
	bool recycled;
	int64_t size;
	int fd, err;

	if (log->nspares > 0 && log->spares_unsynced) {
		err = jfiles_sync_dir(log->j, io, log->name);
		if (err != 0)
			return err;
		log->spares_unsynced = false;
	}
	fd = open_spare(log, io, number, spare, &recycled);
	if (fd < 0)
		return fd;
	jlog_segment_path(log, number, path);
	size = write_header(log, io, fd, spare, number);
	if (size >= 0) {
		err = jio_id(io, fd, spare, &log->next_file);
		size = err != 0 ? err : size;
	}
	jio_close(io, &fd);
	err = size < 0 ? (int)size : jio_rename(io, spare, path);
	if (err != 0)
		return err;
	log->nspares--;
	log->next_filled = (uint32_t)size & ~(JF_BLOCK - 1);
	log->next_named = true;
	journal_count(&log->j->stats.prepared, 1);
	journal_count(&log->j->stats.recycled, recycled);
	return 0;
}

int jlog_prepare(struct jlog *log, struct jio *io, uint64_t number)
{
	int err = log->next_named ? 0 : name_segment(log, io, number);

	if (err == 0)
		err = jfiles_sync_dir(log->j, io, log->name);
	if (err == 0)
		log->next_named = false;
	return err;
}

int jlog_next(struct jlog *log, struct jio *io)
{
	struct jseg seg = {.number = log->number + 1, .first_mark = UINT64_MAX, .end = JF_HEADER};
	int err;

	log->next_ready = false;
	log->try_now = true;
	log->note_unsynced = false;
	log->unsealed = log->number;
	log->unsealed_seq = log->seq + 1;
	log->number++;
	log->tail = JF_HEADER;
	log->filled = log->next_filled;
	log->file = log->next_file;
	log->first_mark = UINT64_MAX;
	log->begin_ns = clock_wall_ns();
	seg.last_mark = log->last_mark;
	seg.created_ns = log->begin_ns;
	err = jlog_seg_add(log, &seg);
	return err != 0 ? jio_fail(io, err, log->name, "out of memory") : 0;
}

/* Makes sure that the next segment is there. One that was prepared may have been removed by hand since. */
static int have_next(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	struct jd_id id;
	int err = 0;

	if (log->next_ready) {
		jlog_segment_path(log, log->number + 1, path);
		err = jio_id_at(io, path, &id);
		if (err == 0 && id.dev == log->next_file.dev && id.ino == log->next_file.ino)
			return 0;
		if (err != 0 && err != -ENOENT)
			return err;
		log->next_ready = false;
	}
	return jlog_prepare(log, io, log->number + 1);
}

int jlog_roll(struct jlog *log, struct jio *io)
{
	int err;

	CHECK(log->synced_seq == log->seq);
	err = jlog_seal(log, io);
	if (err != 0 && jio_is_shortage(io, err)) /* the note of the segment after it will do */
		err = 0;
	if (err == 0)
		err = have_next(log, io);
	if (err != 0)
		return err;
	jfiles_close_log(log, io);
	err = jlog_next(log, io);
	return err != 0 ? err : jfiles_open_log(log, io);
}

static bool has_spare(const struct jlog *log, uint64_t number)
{
	for (unsigned i = 0; i < log->nspares; i++)
		if (log->spares[i] == number)
			return true;
	return false;
}

int jlog_retire(struct jlog *log, struct jio *io, uint64_t number, bool recycle)
{
	char path[JPATH_MAX], spare[JPATH_MAX];
	int err;

	jlog_segment_path(log, number, path);
	/* A number is used again after recovery has made a spare of a file beyond the log's end: the rename would then
	 * replace that spare. */
	if (!recycle || log->nspares == JLOG_SPARES || has_spare(log, number))
		return jio_unlink(io, path);
	jlog_spare_path(log, number, spare);
	err = jio_rename(io, path, spare);
	if (err == -ENOENT)
		return 0; /* somebody has removed the file by hand */
	if (err != 0)
		return err;
	log->spares[log->nspares++] = number;
	log->spares_unsynced = true;
	return 0;
}

int jlog_sync(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	uint64_t begin = clock_mono_ns();
	int err;

	if (log->synced_seq == log->seq)
		return 0;
	CHECK(log->wfd >= 0);
	jlog_segment_path(log, log->number, path);
	err = jio_sync(io, log->wfd, path);
	if (err != 0)
		return err;
	log->synced_seq = log->seq;
	log->note_unsynced = false;
	journal_count(&log->j->stats.syncs, 1);
	hist_add(&log->j->stats.sync_ns, clock_mono_ns() - begin, 1);
	return 0;
}

int jlog_put_note(struct jlog *log, struct jio *io, int fd)
{
	char path[JPATH_MAX];
	uint8_t sector[JF_SECTOR];
	struct jf_note note = {.number = log->number, .seq = log->synced_seq, .epoch = log->epoch};
	int err;

	jlog_segment_path(log, log->number, path);
	jf_note_encode(sector, &note, log->salt);
	err = jio_write(io, fd, path, sector, sizeof sector, JF_NOTE_AT, 0);
	if (err != 0)
		return err;
	log->noted_seq = note.seq;
	log->note_unsynced = true;
	return 0;
}

int jlog_note(struct jlog *log, struct jio *io)
{
	int err;

	if (log->noted_seq == log->synced_seq || jlog_is_lost(log))
		return 0;
	err = jfiles_open_log(log, io);
	return err != 0 ? err : jlog_put_note(log, io, log->wfd);
}

int jlog_end(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	int err;

	if (jlog_is_lost(log))
		return 0;
	err = jlog_sync(log, io);
	if (err == 0)
		err = jlog_note(log, io);
	/* The kernel writes the note of a file that was closed for others by itself; a stop does not open thousands of them again. */
	if (err != 0 || !log->note_unsynced || log->wfd < 0)
		return err;
	jlog_segment_path(log, log->number, path);
	err = jio_sync(io, log->wfd, path);
	if (err == 0)
		log->note_unsynced = false;
	return err;
}

int jlog_seal(struct jlog *log, struct jio *io)
{
	struct jf_note note = {
		.number = log->unsealed, .seq = log->unsealed_seq, .epoch = log->epoch, .flags = JF_NOTE_SEALED};
	char path[JPATH_MAX];
	uint8_t sector[JF_SECTOR];
	int fd, err;

	if (log->unsealed != 0 && log->unsealed < log->first_live)
		log->unsealed = 0; /* it has been trimmed since */
	if (log->unsealed == 0 || log->synced_seq < log->unsealed_seq)
		return 0;
	jlog_segment_path(log, log->unsealed, path);
	fd = jfiles_open(log->j, io, path, 0);
	if (fd < 0)
		return fd;
	jf_note_encode(sector, &note, log->salt);
	err = jio_write(io, fd, path, sector, sizeof sector, JF_NOTE_AT, 0);
	if (err == 0)
		err = jio_sync(io, fd, path);
	jio_close(io, &fd);
	if (err == 0)
		log->unsealed = 0;
	return err;
}

/* Takes the oldest trimmed segment out of the log. Its file goes next. */
static int drop_oldest(struct jlog *log, struct jio *io)
{
	int err = jlog_sync(log, io); /* JLOG_WRITE: invariant 3 */

	if (err != 0)
		return err;
	if (!jlog_seg_drop(log, log->first_live, &log->retiring, &log->retiring_held)) {
		log->dropped = log->first_live;
		return 0;
	}
	log->try_now = true;
	journal_count(&log->j->stats.segments, -1);
	return 0;
}

int jlog_maintain(struct jlog *log, struct jio *io, bool *ret_worked)
{
	uint32_t step = clamp(log->filled, fill_min(log, log->number), JLOG_FILL_MAX);
	bool waits = log->in_later && !log->try_now;
	int err = 0;

	*ret_worked = false;
	if (jlog_is_lost(log))
		return 0;
	*ret_worked = true;
	if (log->retiring == 0 && log->dropped < log->first_live)
		return drop_oldest(log, io);
	log->try_now = false;
	if (!waits && log->retiring != 0) {
		err = jlog_retire(log, io, log->retiring, !log->retiring_held);
		if (err == 0)
			log->retiring = 0;
	} else if (!waits && log->unsealed != 0 && log->synced_seq >= log->unsealed_seq) {
		err = jlog_seal(log, io);
	} else if (!waits && log->filled < log->segment_bytes && log->filled < log->tail + step / 2) {
		err = jlog_fill_to(log, io, log->filled + 1);
	} else if (!waits && !log->next_ready && log->tail > log->segment_bytes / 2) {
		err = jlog_prepare(log, io, log->number + 1);
		log->next_ready = err == 0;
	} else {
		*ret_worked = false;
	}
	*ret_worked = *ret_worked && err == 0;
	return err;
}
