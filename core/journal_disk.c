/* The real file system under the journal, and the wrappers that say in words what failed.
 *
 * No sync is tried again: a failed sync has already let the kernel forget what it could not write. The rest of a short
 * write is written once, because that call says why the first one stopped. Any thread; the table itself never changes
 * after journal_disk_open.
 */
#include "core/journal_disk.h"

#include "core/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LOCK_PAUSE_NS (20 * NS_PER_MS)
#define DIRECT_UNIT 4096u /* of offsets and sizes of direct writes: JF_BLOCK */

struct real {
	int dir;
	char root[];
};

static const char *at_or_dot(const char *path)
{
	return *path != '\0' ? path : ".";
}

static int real_open(void *ctx, const char *path, unsigned flags)
{
	struct real *r = ctx;
	int how = (flags & JD_READ ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW;
	int fd;

	if (flags & JD_CREATE)
		how |= O_CREAT;
	if (flags & JD_DIRECT)
		how |= O_DIRECT | O_DSYNC;
	fd = openat(r->dir, path, how, 0600);
	return fd >= 0 ? fd : -errno;
}

static void real_close(void *ctx, int fd)
{
	(void)ctx;
	close(fd);
}

static int64_t real_size(void *ctx, int fd)
{
	struct stat st;

	(void)ctx;
	return fstat(fd, &st) == 0 ? (int64_t)st.st_size : -errno;
}

static void id_of(const struct stat *st, struct jd_id *ret)
{
	*ret = (struct jd_id){.dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size};
}

static int real_id(void *ctx, int fd, struct jd_id *ret)
{
	struct stat st;

	(void)ctx;
	if (fstat(fd, &st) != 0)
		return -errno;
	id_of(&st, ret);
	return 0;
}

static int real_id_at(void *ctx, const char *path, struct jd_id *ret)
{
	struct real *r = ctx;
	struct stat st;

	if (fstatat(r->dir, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return -errno;
	id_of(&st, ret);
	return 0;
}

static ssize_t real_pread(void *ctx, int fd, void *p, size_t n, uint64_t offset)
{
	ssize_t got = pread(fd, p, n, (off_t)offset);

	(void)ctx;
	return got >= 0 ? got : -errno;
}

static ssize_t real_pwrite(void *ctx, int fd, const void *p, size_t n, uint64_t offset, unsigned flags)
{
	struct iovec v = {.iov_base = (void *)p, .iov_len = n};
	ssize_t put;

	(void)ctx;
	if (flags & JD_DSYNC)
		put = pwritev2(fd, &v, 1, (off_t)offset, RWF_DSYNC);
	else
		put = pwrite(fd, p, n, (off_t)offset);
	return put >= 0 ? put : -errno;
}

static int real_sync(void *ctx, int fd)
{
	(void)ctx;
	return fdatasync(fd) == 0 ? 0 : -errno;
}

static int real_sync_dir(void *ctx, const char *path, bool *ret_tried)
{
	struct real *r = ctx;
	int fd = openat(r->dir, at_or_dot(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int err;

	*ret_tried = fd >= 0;
	if (fd < 0)
		return -errno;
	err = fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	return err;
}

static int real_mkdir(void *ctx, const char *path)
{
	struct real *r = ctx;

	return mkdirat(r->dir, path, 0700) == 0 ? 0 : -errno;
}

static int real_rename(void *ctx, const char *from, const char *to)
{
	struct real *r = ctx;

	return renameat(r->dir, from, r->dir, to) == 0 ? 0 : -errno;
}

static int real_unlink(void *ctx, const char *path)
{
	struct real *r = ctx;

	return unlinkat(r->dir, path, 0) == 0 ? 0 : -errno;
}

static int real_rmdir(void *ctx, const char *path)
{
	struct real *r = ctx;

	return unlinkat(r->dir, path, AT_REMOVEDIR) == 0 ? 0 : -errno;
}

static int real_list(void *ctx, const char *path, void (*each)(void *arg, const char *name, bool is_dir), void *arg)
{
	struct real *r = ctx;
	int fd = openat(r->dir, at_or_dot(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	DIR *d;
	int err;

	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	if (d == NULL) {
		err = -errno;
		close(fd);
		return err;
	}
	for (errno = 0; (e = readdir(d)) != NULL; errno = 0) {
		struct stat st;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (e->d_type == DT_DIR || e->d_type == DT_REG)
			each(arg, e->d_name, e->d_type == DT_DIR);
		else if (fstatat(dirfd(d), e->d_name, &st, 0) == 0) /* a log's folder may be a link to another disk */
			each(arg, e->d_name, S_ISDIR(st.st_mode));
	}
	err = -errno;
	closedir(d);
	return err;
}

static int real_lock(void *ctx, const char *path, uint64_t timeout_ns, bool shared)
{
	uint64_t end = clock_mono_ns() + timeout_ns;
	int fd = real_open(ctx, path, shared ? JD_READ : JD_CREATE);
	struct stat st;

	if (fd < 0)
		return fd;
	/* Whoever can open the file can lock it, and a copy of the directory may have made it
	 * readable to all. */
	if (!shared && fstat(fd, &st) == 0 && (st.st_mode & 077) != 0 && fchmod(fd, 0600) != 0 && errno != EPERM) {
		int err = -errno;

		close(fd);
		return err;
	}
	while (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
		struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
		int err = -errno;

		if (err != -EWOULDBLOCK || clock_mono_ns() >= end) {
			close(fd);
			return err == -EWOULDBLOCK ? -EBUSY : err;
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

/* Where the kernel does not tell, each call is another run: nothing that was not synced is relied
 * on. */
static uint64_t real_boot(void *ctx)
{
	uint64_t boot = 0;
	char text[64];
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : 0;

	(void)ctx;
	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i < n; i++) /* as FNV-1a */
		boot = (boot ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
	while (boot == 0 && getrandom(&boot, sizeof boot, 0) == (ssize_t)sizeof boot && boot == 0)
		;
	return boot != 0 ? boot : 1;
}

static int real_random(void *ctx, void *p, size_t n)
{
	ssize_t got = getrandom(p, n, 0);

	(void)ctx;
	return got == (ssize_t)n ? 0 : got < 0 ? -errno : -EIO;
}

/* Makes one directory of a path, and makes its name durable in its parent; with `last` also where it was there already,
 * because an earlier start may have failed between the two. */
static int make_dir(const char *path, mode_t mode, bool last)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	bool made = mkdir(path, mode) == 0;
	int fd, err;

	if (!made && (errno != EEXIST || !last))
		return errno == EEXIST ? 0 : -errno;
	if (slash == NULL)
		snprintf(parent, sizeof parent, ".");
	else
		snprintf(parent, sizeof parent, "%.*s", slash == path ? 1 : (int)(slash - path), path);
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return made ? -errno : 0; /* somebody else's directory, made by somebody else */
	err = fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	return err;
}

static int make_path(const char *dir)
{
	char path[PATH_MAX];
	size_t n = strlen(dir);
	int err;

	if (n == 0 || n >= sizeof path)
		return n == 0 ? -ENOENT : -ENAMETOOLONG;
	memcpy(path, dir, n + 1);
	while (n > 1 && path[n - 1] == '/')
		path[--n] = '\0';
	for (size_t i = 1; i < n; i++) {
		if (path[i] != '/' || path[i - 1] == '/')
			continue;
		path[i] = '\0';
		err = make_dir(path, 0755, false);
		if (err != 0)
			return err;
		path[i] = '/';
	}
	return make_dir(path, 0700, true);
}

int journal_disk_open(const char *dir, bool make, struct journal_disk *ret)
{
	size_t n = strlen(dir) + 1;
	struct real *r;
	int err = make ? make_path(dir) : 0;

	if (err != 0)
		return err;
	r = malloc(sizeof *r + n);
	if (r == NULL)
		return -ENOMEM;
	memcpy(r->root, dir, n);
	r->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->dir < 0) {
		err = -errno;
		free(r);
		return err;
	}
	*ret = (struct journal_disk){
		.ctx = r,
		.root = r->root,
		.open = real_open,
		.close = real_close,
		.size = real_size,
		.id = real_id,
		.id_at = real_id_at,
		.pread = real_pread,
		.pwrite = real_pwrite,
		.sync = real_sync,
		.sync_dir = real_sync_dir,
		.mkdir = real_mkdir,
		.rename = real_rename,
		.unlink = real_unlink,
		.rmdir = real_rmdir,
		.list = real_list,
		.random = real_random,
		.boot = real_boot,
		.lock = real_lock,
	};
	return 0;
}

void journal_disk_close(struct journal_disk *d)
{
	struct real *r = d->ctx;

	close(r->dir);
	free(r);
	d->ctx = NULL;
}

static const char *error_text(int err)
{
	const char *s = strerrordesc_np(err < 0 ? -err : err);

	return s != NULL ? s : "unknown error";
}

static int failed(struct jio *io, int err, const char *what, const char *path)
{
	snprintf(io->why, sizeof io->why, "%s %s%s%s: %s", what, io->d->root, *path != '\0' ? "/" : "", path,
		 error_text(err));
	io->cut_short = false;
	return err;
}

int jio_fail(struct jio *io, int err, const char *path, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	snprintf(io->why, sizeof io->why, "%s%s%s: %s", io->d->root, *path != '\0' ? "/" : "", path, text);
	io->cut_short = false;
	return err;
}

bool jio_is_shortage(const struct jio *io, int err)
{
	if (io->sync_failed)
		return false;
	return io->cut_short || err == -ENOSPC || err == -EDQUOT || err == -EMFILE || err == -ENFILE || err == -ENOMEM;
}

int jio_open(struct jio *io, const char *path, unsigned flags)
{
	int fd = io->d->open(io->d->ctx, path, flags);

	return fd >= 0 ? fd : failed(io, fd, "open", path);
}

void jio_close(struct jio *io, int *fd)
{
	if (*fd >= 0)
		io->d->close(io->d->ctx, *fd);
	*fd = -1;
}

int64_t jio_size(struct jio *io, int fd, const char *path)
{
	int64_t n = io->d->size(io->d->ctx, fd);

	return n >= 0 ? n : failed(io, (int)n, "stat", path);
}

int jio_id(struct jio *io, int fd, const char *path, struct jd_id *ret)
{
	int err = io->d->id(io->d->ctx, fd, ret);

	return err == 0 ? 0 : failed(io, err, "stat", path);
}

int jio_id_at(struct jio *io, const char *path, struct jd_id *ret)
{
	int err = io->d->id_at(io->d->ctx, path, ret);

	return err == 0 ? 0 : failed(io, err, "stat", path);
}

int jio_write(struct jio *io, int fd, const char *path, const void *p, size_t n, uint64_t offset, unsigned flags)
{
	ssize_t put = io->d->pwrite(io->d->ctx, fd, p, n, offset, flags);
	size_t have;

	if (put == (ssize_t)n)
		return 0;
	if (put < 0)
		return failed(io, (int)put, "write", path);
	have = (size_t)put;
	if (((offset | n) & (DIRECT_UNIT - 1)) == 0)
		have &= ~(size_t)(DIRECT_UNIT - 1); /* a direct write goes on at a block's edge */
	put = io->d->pwrite(io->d->ctx, fd, (const char *)p + have, n - have, offset + have, flags);
	if (put == (ssize_t)(n - have))
		return 0;
	if (put < 0)
		return failed(io, (int)put, "write", path);
	have += (size_t)put;
	jio_fail(io, -EIO, path, "short write: %zu of %zu bytes at byte %llu", have, n, (unsigned long long)offset);
	io->cut_short = true;
	return -EIO;
}

ssize_t jio_read(struct jio *io, int fd, const char *path, void *p, size_t n, uint64_t offset)
{
	size_t have = 0;

	while (have < n) {
		ssize_t got = io->d->pread(io->d->ctx, fd, (char *)p + have, n - have, offset + have);

		if (got < 0)
			return failed(io, (int)got, "read", path);
		if (got == 0)
			break;
		have += (size_t)got;
	}
	return (ssize_t)have;
}

int jio_sync(struct jio *io, int fd, const char *path)
{
	int err = io->d->sync(io->d->ctx, fd);

	if (err != 0) {
		io->sync_failed = true;
		return failed(io, err, "fdatasync", path);
	}
	return 0;
}

int jio_sync_dir(struct jio *io, const char *path)
{
	bool tried = false;
	int err = io->d->sync_dir(io->d->ctx, path, &tried);

	if (err == 0)
		return 0;
	io->sync_failed = io->sync_failed || tried;
	return failed(io, err, tried ? "fsync" : "open", path);
}

int jio_mkdir(struct jio *io, const char *path, bool *ret_made)
{
	int err = io->d->mkdir(io->d->ctx, path);

	*ret_made = err == 0;
	return err == 0 || err == -EEXIST ? 0 : failed(io, err, "mkdir", path);
}

int jio_rename(struct jio *io, const char *from, const char *to)
{
	int err = io->d->rename(io->d->ctx, from, to);

	return err == 0 ? 0 : failed(io, err, "rename", from);
}

int jio_unlink(struct jio *io, const char *path)
{
	int err = io->d->unlink(io->d->ctx, path);

	return err == 0 || err == -ENOENT ? 0 : failed(io, err, "unlink", path);
}

int jio_rmdir(struct jio *io, const char *path)
{
	int err = io->d->rmdir(io->d->ctx, path);

	return err == 0 ? 0 : failed(io, err, "rmdir", path);
}

int jio_list(struct jio *io, const char *path, void (*each)(void *arg, const char *name, bool is_dir), void *arg)
{
	int err = io->d->list(io->d->ctx, path, each, arg);

	return err == 0 ? 0 : failed(io, err, "list", path);
}
