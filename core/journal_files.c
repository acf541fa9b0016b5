/* The files that a journal keeps open, within a bound, however many logs it has.
 *
 *   writers   the active segments that were written last; of the journal thread alone
 *   readers   the segments that were read last; of any thread, under a lock
 *
 * Invariants: 1. A log with records that are written and not synced has its file open: the kernel tells of a failed write-back only those who had the
 * file open before, so a file is closed after its sync has succeeded and never before. The sector with the note is the exception: a note that is lost
 * costs what it would have told, and nothing else; jlog_end syncs it again at the clean end. 2. A segment that somebody reads stays open. 3. No file stays
 * open for a segment that has left its log's list, unless it is held.
 *
 * What is only open for a moment (the file that is being prepared, a directory being synced, what recovery reads) is not counted here: JFILES_MOMENTS.
 */
#include "core/journal_internal.h"

#include <errno.h>
#include <stdlib.h>

_Static_assert(JFILES_MIN >= 6, "a log that is written with O_DIRECT takes two, and two readers are at work at most");

int jfiles_init(struct jfiles *f, uint32_t max)
{
	uint32_t readers;

	if (max == 0)
		max = JFILES_DEFAULT;
	if (max < JFILES_MIN)
		max = JFILES_MIN;
	readers = max / 3;
	f->written_max = max - readers;
	TAILQ_INIT(&f->written);
	TAILQ_INIT(&f->idle);
	f->read = calloc(readers, sizeof *f->read);
	if (f->read == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < readers; i++) {
		f->read[i].fd = -1;
		TAILQ_INSERT_TAIL(&f->idle, &f->read[i], lru);
	}
	pthread_mutex_init(&f->lock, NULL);
	return 0;
}

void jfiles_done(struct jfiles *f)
{
	if (f->read == NULL)
		return;
	pthread_mutex_destroy(&f->lock);
	free(f->read);
}

/* ---- writers ---- */

static uint32_t descriptors_of(const struct jlog *log)
{
	return log->direct ? 2 : 1;
}

static void forget(struct jfiles *f, struct jlog *log)
{
	TAILQ_REMOVE(&f->written, log, written);
	f->written_now -= descriptors_of(log);
}

void jfiles_close_log(struct jlog *log, struct jio *io)
{
	if (log->wfd >= 0)
		forget(&log->j->files, log);
	jio_close(io, &log->wfd);
	jio_close(io, &log->dfd);
	free(log->tail_block);
	log->tail_block = NULL;
}

/* Invariant 1. 0 or -errno. */
static int close_oldest(struct journal *j, struct jio *io)
{
	struct jlog *log = TAILQ_LAST(&j->files.written, jfiles_written);
	int err = jlog_sync(log, io);

	if (err == 0)
		err = jlog_note(log, io);
	if (err != 0)
		return err;
	jfiles_close_log(log, io);
	journal_count(&j->stats.files_closed, 1);
	return 0;
}

/* After an attempt that found no descriptor: whether to try again, now that another file was closed. *err is why not. Only the journal's own thread knows
 * the writers' files. */
static bool make_room(struct journal *j, struct jio *io, int *err)
{
	if ((*err != -EMFILE && *err != -ENFILE) || io != &j->io || TAILQ_EMPTY(&j->files.written))
		return false;
	*err = close_oldest(j, io);
	return *err == 0;
}

int jfiles_open(struct journal *j, struct jio *io, const char *path, unsigned flags)
{
	int fd;

	do {
		fd = jio_open(io, path, flags);
	} while (fd < 0 && make_room(j, io, &fd));
	return fd;
}

int jfiles_sync_dir(struct journal *j, struct jio *io, const char *path)
{
	int err;

	do {
		err = jio_sync_dir(io, path);
	} while (err != 0 && !io->sync_failed && make_room(j, io, &err));
	return err;
}

/* With O_DIRECT: the bytes around the tail, as they are on disk. */
static int read_tail_block(struct jlog *log, struct jio *io, const char *path)
{
	ssize_t got;

	log->tail_block = aligned_alloc(JF_BLOCK, JF_BLOCK);
	if (log->tail_block == NULL)
		return jio_fail(io, -ENOMEM, path, "out of memory");
	memset(log->tail_block, 0, JF_BLOCK);
	got = jio_read(io, log->dfd, path, log->tail_block, JF_BLOCK, log->tail & ~(JF_BLOCK - 1));
	return got < 0 ? (int)got : 0;
}

static int open_log(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	struct jd_id id;
	int err;

	jlog_segment_path(log, log->number, path);
	log->wfd = jfiles_open(log->j, io, path, 0);
	if (log->wfd < 0)
		return log->wfd;
	err = jio_id(io, log->wfd, path, &id);
	if (err == 0 && (id.dev != log->file.dev || id.ino != log->file.ino))
		err = jio_fail(io, -ENOENT, path, "there is another file in this place");
	if (err != 0) {
		jio_close(io, &log->wfd);
		return err;
	}
	if (log->direct) {
		log->dfd = jfiles_open(log->j, io, path, JD_DIRECT);
		err = log->dfd < 0 ? log->dfd : read_tail_block(log, io, path);
	}
	TAILQ_INSERT_HEAD(&log->j->files.written, log, written); /* only now: it cannot give way to itself */
	log->j->files.written_now += descriptors_of(log);
	if (err != 0)
		jfiles_close_log(log, io);
	return err;
}

int jfiles_open_log(struct jlog *log, struct jio *io)
{
	struct jfiles *f = &log->j->files;
	int err = 0;

	if (log->wfd >= 0) {
		if (TAILQ_FIRST(&f->written) != log) {
			TAILQ_REMOVE(&f->written, log, written);
			TAILQ_INSERT_HEAD(&f->written, log, written);
		}
		return 0;
	}
	while (err == 0 && f->written_now + descriptors_of(log) > f->written_max)
		err = close_oldest(log->j, io);
	return err != 0 ? err : open_log(log, io);
}

/* ---- readers ---- */

/* Under the lock. */
static void close_read(struct journal *j, struct jfile *file)
{
	j->disk.close(j->disk.ctx, file->fd);
	file->fd = -1;
	file->seg->file = NULL;
	file->seg = NULL;
}

/* Under the lock. Where no descriptor is left, idle files give way. */
static int open_read(struct journal *j, struct jio *io, const char *path)
{
	struct jfile *file = TAILQ_FIRST(&j->files.idle);
	int fd = jio_open(io, path, JD_READ);

	while ((fd == -EMFILE || fd == -ENFILE) && file != NULL) {
		if (file->fd >= 0) {
			close_read(j, file);
			fd = jio_open(io, path, JD_READ);
		}
		file = TAILQ_NEXT(file, lru);
	}
	return fd;
}

int jfiles_get(struct jlog *log, struct jseg *seg, struct jio *io)
{
	struct journal *j = log->j;
	struct jfiles *f = &j->files;
	struct jfile *file;
	char path[JPATH_MAX];
	int fd;

	pthread_mutex_lock(&f->lock);
	file = seg->file != NULL ? seg->file : TAILQ_FIRST(&f->idle);
	if (file == NULL) {
		fd = jio_fail(io, -EMFILE, log->name, "too many of its files are being read at once");
		goto out;
	}
	if (seg->file == NULL) {
		if (file->fd >= 0)
			close_read(j, file);
		jlog_segment_path(log, seg->number, path);
		fd = open_read(j, io, path);
		if (fd < 0)
			goto out;
		file->fd = fd;
		file->seg = seg;
		seg->file = file;
	}
	if (file->users++ == 0)
		TAILQ_REMOVE(&f->idle, file, lru);
	fd = file->fd;
out:
	pthread_mutex_unlock(&f->lock);
	return fd;
}

void jfiles_put(struct jlog *log, struct jseg *seg)
{
	struct jfiles *f = &log->j->files;

	pthread_mutex_lock(&f->lock);
	CHECK(seg->file != NULL && seg->file->users > 0);
	if (--seg->file->users == 0)
		TAILQ_INSERT_TAIL(&f->idle, seg->file, lru);
	pthread_mutex_unlock(&f->lock);
}

void jfiles_forget(struct jlog *log, struct jseg *seg)
{
	struct jfiles *f = &log->j->files;
	struct jfile *file;

	pthread_mutex_lock(&f->lock);
	file = seg->file;
	if (file != NULL) {
		CHECK(file->users == 0);
		close_read(log->j, file);
		TAILQ_REMOVE(&f->idle, file, lru); /* a free one is the first to be taken */
		TAILQ_INSERT_HEAD(&f->idle, file, lru);
	}
	pthread_mutex_unlock(&f->lock);
}
