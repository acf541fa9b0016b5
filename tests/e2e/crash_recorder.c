/* A library to be loaded before the C library (LD_PRELOAD): records every change of the files and
 * names under $ORDINAL_RECORD_ROOT in the file $ORDINAL_RECORD_TO, in the order in which the kernel
 * took them. For tests/e2e/crash_states.py, which builds from it what a power cut could have left.
 *
 * A change and its record are made under one lock, so their orders are the same. A sync is recorded
 * twice, when it begins and when it has succeeded: what was written before it began is durable once
 * it has ended, and what was written meanwhile need not be. Times are CLOCK_MONOTONIC, taken before
 * a change is made.
 *
 * A record: u8 kind | u8 flags | u16 bytes of path | u32 zero | u64 time | u64 inode | u64 offset |
 * u64 bytes of data | path | data, in the machine's byte order. What changes files in a way that is
 * not known here is not recorded; crash_states.py compares what it made of the records with the
 * files. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

enum kind { CREATE = 1, WRITE, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, MKDIR, RMDIR, TRUNCATE };
enum { DURABLE = 1 };

struct head {
	uint8_t kind, flags;
	uint16_t path_len;
	uint32_t zero;
	uint64_t time, inode, offset, bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int to = -1;
static char root[PATH_MAX];
static size_t root_len;
static char end_path[PATH_MAX];

/* Takes the lock before a change. Here the process can end without a change that is not recorded:
 * when the file of the records has one called the same with ".end" beside it. */
static void take_lock(void)
{
	pthread_mutex_lock(&lock);
	if (syscall(SYS_faccessat, AT_FDCWD, end_path, F_OK) == 0)
		kill(getpid(), SIGKILL);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void begin(void)
{
	const char *path = getenv("ORDINAL_RECORD_TO"), *top = getenv("ORDINAL_RECORD_ROOT");

	if (path == NULL || top == NULL)
		return;
	snprintf(end_path, sizeof end_path, "%s.end", path);
	root_len = (size_t)snprintf(root, sizeof root, "%s/", top);
	to = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (to < 0)
		abort();
}

static bool recording(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, begin);
	return to >= 0;
}

/* Under the lock. */
static void record(enum kind kind, unsigned flags, uint64_t time, uint64_t inode, uint64_t offset, const char *path,
		   size_t path_len, const void *data, size_t bytes)
{
	struct head h = {(uint8_t)kind, (uint8_t)flags, (uint16_t)path_len, 0, time, inode, offset, bytes};
	struct iovec v[3] = {{&h, sizeof h}, {(void *)path, path_len}, {(void *)data, bytes}};
	ssize_t want = (ssize_t)(sizeof h + path_len + bytes);

	if (syscall(SYS_writev, to, v, 3) != want)
		abort();
}

/* The path of `name` at `dir`, below the root. False: it is elsewhere. */
static bool below(int dir, const char *name, char out[PATH_MAX])
{
	char link[64], path[2 * PATH_MAX] = "";
	ssize_t n = 0;

	if (name[0] != '/') {
		snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
		n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX);
		if (n <= 0)
			return false;
		path[n++] = '/';
	}
	snprintf(path + n, PATH_MAX, "%s", name);
	if (strncmp(path, root, root_len) != 0)
		return false;
	snprintf(out, PATH_MAX, "%s", path + root_len);
	return true;
}

/* The file that a descriptor is of. False: it is not one below the root. */
static bool file_of(int fd, uint64_t *ret_inode)
{
	char link[64], path[PATH_MAX + 1];
	struct stat st;
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX);
	if (n <= 0)
		return false;
	path[n++] = '/'; /* the root itself is one too */
	if ((size_t)n < root_len || strncmp(path, root, root_len) != 0 || fstat(fd, &st) != 0)
		return false;
	*ret_inode = st.st_ino;
	return true;
}

static bool is_durable(int fd)
{
	return (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
}

/* ---- files ---- */

static int open_at(int (*next)(int, const char *, int, ...), int dir, const char *name, int flags, mode_t mode)
{
	char path[PATH_MAX];
	struct stat st;
	bool missing;
	uint64_t t;
	int fd;

	if (!recording() || (flags & (O_CREAT | O_TRUNC)) == 0 || !below(dir, name, path))
		return next(dir, name, flags, mode);
	take_lock();
	t = now();
	missing = fstatat(dir, name, &st, 0) != 0;
	fd = next(dir, name, flags, mode);
	if (fd >= 0 && fstat(fd, &st) == 0 && missing)
		record(CREATE, 0, t, st.st_ino, 0, path, strlen(path), NULL, 0);
	else if (fd >= 0 && (flags & O_TRUNC))
		record(TRUNCATE, 0, t, st.st_ino, 0, NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return fd;
}

#define MODE_OF(flags, mode)                                                                                           \
	do {                                                                                                           \
		va_list ap;                                                                                            \
		va_start(ap, flags);                                                                                   \
		mode = (flags) & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;                                       \
		va_end(ap);                                                                                            \
	} while (0)

int openat(int dir, const char *name, int flags, ...)
{
	mode_t mode;

	MODE_OF(flags, mode);
	return open_at(NEXT(openat), dir, name, flags, mode);
}

int openat64(int dir, const char *name, int flags, ...)
{
	mode_t mode;

	MODE_OF(flags, mode);
	return open_at(NEXT(openat64), dir, name, flags, mode);
}

int open(const char *name, int flags, ...)
{
	mode_t mode;

	MODE_OF(flags, mode);
	return open_at(NEXT(openat), AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
	mode_t mode;

	MODE_OF(flags, mode);
	return open_at(NEXT(openat64), AT_FDCWD, name, flags, mode);
}

static void wrote(int fd, uint64_t t, uint64_t inode, bool durable, const void *p, ssize_t n, off_t offset)
{
	if (n > 0)
		record(WRITE, durable || is_durable(fd) ? DURABLE : 0, t, inode, (uint64_t)offset, NULL, 0, p,
		       (size_t)n);
}

static ssize_t write_at(ssize_t (*next)(int, const void *, size_t, off_t), int fd, const void *p, size_t n,
			off_t offset)
{
	uint64_t t, inode;
	ssize_t put;

	if (!recording() || !file_of(fd, &inode))
		return next(fd, p, n, offset);
	take_lock();
	t = now();
	put = next(fd, p, n, offset);
	wrote(fd, t, inode, false, p, put, offset);
	pthread_mutex_unlock(&lock);
	return put;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t offset)
{
	return write_at(NEXT(pwrite), fd, p, n, offset);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t offset)
{
	return write_at((ssize_t(*)(int, const void *, size_t, off_t))NEXT(pwrite64), fd, p, n, offset);
}

/* Of one piece, as the journal's are. */
static ssize_t write_v(ssize_t (*next)(int, const struct iovec *, int, off_t, int), int fd, const struct iovec *v,
		       int n, off_t offset, int flags)
{
	uint64_t t, inode;
	ssize_t put;

	if (!recording() || !file_of(fd, &inode))
		return next(fd, v, n, offset, flags);
	if (n != 1)
		abort();
	take_lock();
	t = now();
	put = next(fd, v, n, offset, flags);
	wrote(fd, t, inode, (flags & (RWF_DSYNC | RWF_SYNC)) != 0, v->iov_base, put, offset);
	pthread_mutex_unlock(&lock);
	return put;
}

ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t offset, int flags)
{
	return write_v(NEXT(pwritev2), fd, v, n, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t offset, int flags)
{
	return write_v((ssize_t(*)(int, const struct iovec *, int, off_t, int))NEXT(pwritev64v2), fd, v, n, offset,
		       flags);
}

static int sync_file(int (*next)(int), int fd)
{
	uint64_t inode;
	int err;

	if (!recording() || !file_of(fd, &inode))
		return next(fd);
	take_lock();
	record(SYNC_BEGIN, 0, now(), inode, (uint64_t)gettid(), NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	err = next(fd);
	if (err != 0)
		return err;
	pthread_mutex_lock(&lock);
	record(SYNC_END, 0, now(), inode, (uint64_t)gettid(), NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return 0;
}

int fsync(int fd)
{
	return sync_file(NEXT(fsync), fd);
}

int fdatasync(int fd)
{
	return sync_file(NEXT(fdatasync), fd);
}

static int truncate_file(int (*next)(int, off_t), int fd, off_t size)
{
	uint64_t inode, t;
	int err;

	if (!recording() || !file_of(fd, &inode))
		return next(fd, size);
	take_lock();
	t = now();
	err = next(fd, size);
	if (err == 0)
		record(TRUNCATE, 0, t, inode, (uint64_t)size, NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return err;
}

int ftruncate(int fd, off_t size)
{
	return truncate_file(NEXT(ftruncate), fd, size);
}

int ftruncate64(int fd, off64_t size)
{
	return truncate_file((int (*)(int, off_t))NEXT(ftruncate64), fd, size);
}

/* ---- names ---- */

int renameat(int from_dir, const char *from, int to_dir, const char *name)
{
	char paths[2 * PATH_MAX], second[PATH_MAX];
	size_t n;
	uint64_t t;
	int err;

	if (!recording() || !below(from_dir, from, paths) || !below(to_dir, name, second))
		return NEXT(renameat)(from_dir, from, to_dir, name);
	n = strlen(paths) + 1;
	memcpy(paths + n, second, strlen(second) + 1);
	take_lock();
	t = now();
	err = NEXT(renameat)(from_dir, from, to_dir, name);
	if (err == 0)
		record(RENAME, 0, t, 0, 0, paths, n + strlen(second), NULL, 0);
	pthread_mutex_unlock(&lock);
	return err;
}

int rename(const char *from, const char *name)
{
	return renameat(AT_FDCWD, from, AT_FDCWD, name);
}

int unlinkat(int dir, const char *name, int flags)
{
	char path[PATH_MAX];
	uint64_t t;
	int err;

	if (!recording() || !below(dir, name, path))
		return NEXT(unlinkat)(dir, name, flags);
	take_lock();
	t = now();
	err = NEXT(unlinkat)(dir, name, flags);
	if (err == 0)
		record(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, t, 0, 0, path, strlen(path), NULL, 0);
	pthread_mutex_unlock(&lock);
	return err;
}

int unlink(const char *name)
{
	return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name)
{
	return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
	char path[PATH_MAX];
	struct stat st = {0};
	uint64_t t;
	int err;

	if (!recording() || !below(dir, name, path))
		return NEXT(mkdirat)(dir, name, mode);
	take_lock();
	t = now();
	err = NEXT(mkdirat)(dir, name, mode);
	if (err == 0 && fstatat(dir, name, &st, 0) == 0)
		record(MKDIR, 0, t, st.st_ino, 0, path, strlen(path), NULL, 0);
	pthread_mutex_unlock(&lock);
	return err;
}

int mkdir(const char *name, mode_t mode)
{
	return mkdirat(AT_FDCWD, name, mode);
}
