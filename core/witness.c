/* The witness file: found, read, written in one piece (a new file, renamed over the old one). See the header. */
#include "core/witness.h"

#include "core/base/check.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INTRO "ordinal journal "
enum { HEX = 2 * JOURNAL_ID_BYTES, LINE = sizeof INTRO - 1 + HEX + 1 };

static char why[900];

__attribute__((format(printf, 2, 3))) static int explain(int err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	return err;
}

/* Whether `path` is the directory `dir` or lies in it, by their names. */
static bool is_within(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	while (n > 1 && dir[n - 1] == '/')
		n--;
	return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/' || n == 1);
}

/* The last that will do: for the unit it is the same one wherever the data is moved to, and so it notices. */
static void find_auto(const char *data_dir, char *ret)
{
	const char *dirs = getenv("STATE_DIRECTORY");
	char dir[PATH_MAX];
	ret[0] = 0;
	for (size_t n; dirs && *dirs; dirs += n + (dirs[n] == ':')) {
		n = strcspn(dirs, ":");
		if (n == 0 || n >= sizeof dir - sizeof "/journal")
			continue;
		memcpy(dir, dirs, n);
		dir[n] = 0;
		if (is_within(data_dir, dir) || is_within(dir, data_dir))
			continue;
		snprintf(ret, PATH_MAX, "%.*s/journal", (int)n, dir);
	}
}

static bool decode(const char *line, size_t n, uint8_t *ret_id)
{
	if (n != LINE || memcmp(line, INTRO, sizeof INTRO - 1) != 0 || line[n - 1] != '\n')
		return false;
	for (size_t i = 0; i < JOURNAL_ID_BYTES; i++) {
		char pair[3] = {line[sizeof INTRO - 1 + 2 * i], line[sizeof INTRO + 2 * i], 0}, *end;
		ret_id[i] = (uint8_t)strtoul(pair, &end, 16);
		if (*end || !isxdigit((unsigned char)pair[0]))
			return false;
	}
	return true;
}

int witness_read(const char *path, const char *data_dir, struct witness *ret, const char **ret_why)
{
	struct witness w = {0};
	char text[LINE + 1];
	*ret_why = why;
	if (strcmp(path, "auto") == 0)
		find_auto(data_dir, w.path);
	else if (strlen(path) >= sizeof w.path)
		return explain(-ENAMETOOLONG, "DATA_WITNESS is longer than a path can be");
	else
		memcpy(w.path, path, strlen(path) + 1);
	*ret = w;
	if (!w.path[0])
		return 0;
	int fd = open(w.path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return explain(-errno, "cannot read the witness of the data directory, %.300s (DATA_WITNESS): %s",
			       w.path, strerror(errno));
	ssize_t n = read(fd, text, sizeof text);
	int err = errno;
	close(fd);
	if (n < 0)
		return explain(-err, "cannot read the witness of the data directory, %.300s (DATA_WITNESS): %s", w.path,
			       strerror(err));
	if (!decode(text, (size_t)n, w.id))
		return explain(
			-EBADMSG,
			"%.300s (DATA_WITNESS) is no witness of a data directory: if %.200s is the right directory and its disk is "
			"mounted, remove that file",
			w.path, data_dir);
	w.knows = true;
	*ret = w;
	return 0;
}

static void id_text(const uint8_t *id, char *ret)
{
	for (size_t i = 0; i < JOURNAL_ID_BYTES; i++)
		snprintf(ret + 2 * i, 3, "%02x", id[i]);
}

static int sync_parent(const char *path, bool *ret_sync_failed)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
	memcpy(dir, n ? path : ".", n ? n : 1);
	dir[n ? n : 1] = 0;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fsync(fd) ? -errno : 0;
	*ret_sync_failed = rc != 0;
	close(fd);
	return rc;
}

int witness_write(const struct witness *w, bool *ret_sync_failed)
{
	*ret_sync_failed = false;
	char text[LINE + 1], fresh[PATH_MAX + 8];
	memcpy(text, INTRO, sizeof INTRO);
	id_text(w->id, text + sizeof INTRO - 1);
	text[LINE - 1] = '\n';
	snprintf(fresh, sizeof fresh, "%s.new", w->path);
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, LINE);
	int rc = n < 0 ? -errno : n != LINE ? -ENOSPC : 0;
	if (rc == 0 && fsync(fd)) {
		rc = -errno;
		*ret_sync_failed = true;
	}
	close(fd);
	if (rc == 0 && rename(fresh, w->path))
		rc = -errno;
	if (rc)
		unlink(fresh);
	if (rc == 0)
		rc = sync_parent(w->path, ret_sync_failed);
	if (*ret_sync_failed)
		unlink(w->path); /* the next start writes it again */
	return rc;
}

const char *witness_refusal(const struct witness *w, const char *data_dir, const char *found)
{
	char id[HEX + 1];
	id_text(w->id, id);
	explain(0,
		"the data directory %.200s holds %s, but this daemon's journal is %s (by %.300s): is its disk mounted, and DATA_DIR right? IDs "
		"could repeat. If it is meant to be so, remove %.300s",
		data_dir, found, id, w->path, w->path);
	return why;
}
