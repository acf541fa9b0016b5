/* What can still be read of a log that does not open: every record of a user's whose checksums are good, for itself, in
 * the folder and in those that were set aside. A record is valid only in the place where it was written
 * (journal_format.h), so nothing else is taken for one. Nothing is written. Any thread.
 */
#include "core/journal_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER_MAX (2u * JPATH_MAX)

struct salvage {
	struct journal *j;
	struct jio *io;
	const char *name;
	uint32_t salt;
	int (*each)(void *ctx, const struct jrecord *rec);
	void *ctx;
	char folder[FOLDER_MAX];
	int err;
};

static int salvage_bytes(struct salvage *s, uint64_t number, const uint8_t *p, size_t n)
{
	struct jf_place at = {.segment = number, .salt = s->salt};
	struct jf_record rec;
	int err = 0;

	for (size_t pos = JF_HEADER; pos + JF_RECORD_HEADER <= n && err == 0; pos += 8) {
		struct jrecord user = {.where = number << 32 | pos};

		at.offset = (uint32_t)pos;
		if (!jf_record_decode(p + pos, &at, &rec) || rec.kind != JF_USER ||
		    rec.len > n - pos - JF_RECORD_HEADER)
			continue;
		user.type = rec.type;
		user.mark = rec.mark;
		user.payload = (struct span){p + pos + JF_RECORD_HEADER, rec.len};
		if (jf_payload_is_good(p + pos, &at, user.payload))
			err = s->each(s->ctx, &user);
	}
	return err;
}

/* Where the disk gives an error instead of bytes, there are zeros. */
static void read_what_can_be(struct jio *io, int fd, const char *path, uint8_t *p, size_t n)
{
	for (size_t at = 0; at < n; at += JF_BLOCK) {
		size_t want = n - at < JF_BLOCK ? n - at : JF_BLOCK;

		if (jio_read(io, fd, path, p + at, want, at) < 0)
			memset(p + at, 0, want);
	}
}

static int salvage_file(struct salvage *s, const char *path, uint64_t number)
{
	int fd = jio_open(s->io, path, JD_READ);
	int64_t size;
	uint8_t *p;
	int err;

	if (fd < 0)
		return fd;
	size = jio_size(s->io, fd, path);
	p = size > 0 && size <= (int64_t)JOURNAL_SEGMENT_MAX + JF_HEADER ? calloc(1, (size_t)size) : NULL;
	if (p != NULL && jio_read(s->io, fd, path, p, (size_t)size, 0) < 0)
		read_what_can_be(s->io, fd, path, p, (size_t)size);
	jio_close(s->io, &fd);
	err = p != NULL ? salvage_bytes(s, number, p, (size_t)size) : 0;
	free(p);
	return err;
}

static void see_file(void *arg, const char *name, bool is_dir)
{
	struct salvage *s = arg;
	char path[FOLDER_MAX + JPATH_MAX];
	uint64_t number;

	if (s->err != 0 || is_dir || !jlog_parse_number(name, &number))
		return;
	snprintf(path, sizeof path, "%s/%s", s->folder, name);
	s->err = salvage_file(s, path, number);
}

/* 0 as well if the folder is not there. */
static int salvage_folder(struct salvage *s)
{
	int err = jio_list(s->io, s->folder, see_file, s);

	return err == -ENOENT ? 0 : err != 0 ? err : s->err;
}

static void see_aside(void *arg, const char *name, bool is_dir)
{
	struct salvage *s = arg;
	size_t n = strlen(s->name);

	if (s->err != 0 || !is_dir || strncmp(name, s->name, n) != 0 || name[n] != '-' || strlen(name) >= JPATH_MAX)
		return;
	snprintf(s->folder, sizeof s->folder, "%s/%s", QUARANTINE_DIR, name);
	s->err = salvage_folder(s);
}

int journal_log_salvage(struct journal *j, const char *name, int (*each)(void *ctx, const struct jrecord *rec),
			void *ctx, const char **ret_why)
{
	struct jio io = {.d = &j->disk, .why = "not read whole"};
	struct salvage s = {
		.j = j, .io = &io, .name = name, .salt = jf_salt(j->super.id, name), .each = each, .ctx = ctx};
	int err;

	snprintf(s.folder, sizeof s.folder, "%s", name);
	err = salvage_folder(&s);
	if (err == 0) {
		err = jio_list(&io, QUARANTINE_DIR, see_aside, &s);
		err = err == -ENOENT ? 0 : err != 0 ? err : s.err;
	}
	if (err != 0 && ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}
