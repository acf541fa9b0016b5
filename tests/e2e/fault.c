/* A library to be loaded before the C library (LD_PRELOAD): system calls on files fail as a file of rules says, while the
 * daemon runs. For tests/e2e/faults.py.
 *
 * $ORDINAL_FAULTS names the file of rules, which is read at each call; without it nothing fails. A rule is a line
 *
 *   CALL ERRNO PART BYTES
 *
 * The call fails with this errno (0, for a write: half of it is done) where the file's path has PART in it, and, for a
 * write, where it has BYTES bytes or more. CALL is fsync, fdatasync, write, open, rename or unlink. Each failure appends a
 * line to the file $ORDINAL_FAULTS with ".done" behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

/* The raw calls: this library's own must not come back here. */
static size_t slurp(const char *path, char *buf, size_t cap)
{
	long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read((int)fd, buf, cap - 1);

	if (fd >= 0)
		close((int)fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static void note(const char *rules, const char *call, const char *path)
{
	char done[PATH_MAX + 8], line[PATH_MAX + 32];
	long fd;
	int n = snprintf(line, sizeof line, "%s %s\n", call, path);

	snprintf(done, sizeof done, "%s.done", rules);
	fd = syscall(SYS_openat, AT_FDCWD, done, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write((int)fd, line, (size_t)n) != n)
		abort();
	close((int)fd);
}

/* -1: go on; else the errno to fail with. */
static int verdict(const char *call, const char *path, size_t bytes)
{
	const char *rules = getenv("ORDINAL_FAULTS");
	char text[4096], *save = NULL;

	if (rules == NULL || slurp(rules, text, sizeof text) == 0)
		return -1;
	for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
		char name[16], part[256];
		unsigned long least;
		int err;

		if (sscanf(line, "%15s %d %255s %lu", name, &err, part, &least) != 4)
			abort();
		if (strcmp(name, call) != 0 || strstr(path, part) == NULL || bytes < least)
			continue;
		note(rules, call, path);
		return err;
	}
	return -1;
}

static int verdict_fd(const char *call, int fd, size_t bytes)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = '\0';
	return verdict(call, path, bytes);
}

#define FAIL_IF(v)                                                                                                     \
	do {                                                                                                           \
		if ((v) > 0) {                                                                                         \
			errno = (v);                                                                                   \
			return -1;                                                                                     \
		}                                                                                                      \
	} while (0)

int fsync(int fd)
{
	int v = verdict_fd("fsync", fd, 0);

	FAIL_IF(v);
	return NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
	int v = verdict_fd("fdatasync", fd, 0);

	FAIL_IF(v);
	return NEXT(fdatasync)(fd);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	int v = verdict_fd("write", fd, n);

	FAIL_IF(v);
	return NEXT(pwrite)(fd, p, v == 0 ? n / 2 : n, at);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
	int v = verdict_fd("write", fd, iov->iov_len);
	struct iovec one = *iov;

	FAIL_IF(v);
	if (v == 0)
		one.iov_len /= 2;
	return count == 1 ? NEXT(pwritev2)(fd, &one, 1, at, flags) : NEXT(pwritev2)(fd, iov, count, at, flags);
}

int openat(int dir, const char *path, int flags, ...)
{
	int v = verdict("open", path, 0);
	mode_t mode;
	va_list ap;

	FAIL_IF(v);
	va_start(ap, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return NEXT(openat)(dir, path, flags, mode);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	int v = verdict("rename", from, 0);

	FAIL_IF(v);
	return NEXT(renameat)(from_dir, from, to_dir, to);
}

int unlinkat(int dir, const char *path, int flags)
{
	int v = verdict("unlink", path, 0);

	FAIL_IF(v);
	return NEXT(unlinkat)(dir, path, flags);
}
