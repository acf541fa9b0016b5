/* A disk in memory that keeps what was synced and loses or tears the rest: the journal's seam, for tests.
 *
 * Every file has what a running system sees (`now`), what the platter holds (`safe`), and the writes in between; a
 * directory likewise has names now, safe names, and the changes in between. Each call that could touch the disk is an
 * operation with a number. A test can make operation N fail (once), or pull the plug at N: from then on nothing works,
 * until sim_crash decides what was on the platter:
 *
 *   SIM_KEEP_NONE    only what was synced          SIM_KEEP_ALL     as if all had been written just in time
 *   SIM_KEEP_CUT     the unsynced writes in order, cut at sector `cut`
 *   SIM_KEEP_RANDOM  any subset of unsynced sectors, and any subset of unsynced changes of names
 *
 * A failed sync forgets which writes were unsynced, yet shows them to readers, as file systems do ("fsyncgate").
 * Deliberate lies (sim.lie_*) stand for bugs of the journal or the drive, to see that a test would notice. One thread.
 */
#ifndef ORDINAL_TESTS_SIM_DISK_H
#define ORDINAL_TESTS_SIM_DISK_H

#include "core/base/check.h"
#include "core/journal_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIM_SECTOR 512u
#define SIM_FILES 512
#define SIM_NAMES 512
#define SIM_FDS 256
#define SIM_PATH 80

struct sim_write {
	uint64_t at;
	size_t n;
	uint8_t *p;
};

struct sim_file {
	uint8_t *now, *safe;
	size_t now_n, safe_n, now_cap, safe_cap;
	struct sim_write *w;
	size_t nw, w_cap;
};

struct sim_name {
	char path[SIM_PATH];
	int file; /* SIM_DIR: a directory */
};
#define SIM_DIR (-2)

struct sim_names {
	struct sim_name v[SIM_NAMES];
	int n;
};

/* A change of names: `from` (if any) goes, `to` (if any) comes. */
struct sim_change {
	char from[SIM_PATH], to[SIM_PATH];
	int file;
};

enum sim_keep { SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_CUT, SIM_KEEP_RANDOM };
enum sim_op { SIM_OP_OTHER, SIM_OP_WRITE, SIM_OP_SYNC, SIM_OP_SYNC_DIR, SIM_OP_NAME, SIM_OP_READ };

struct sim {
	struct sim_file files[SIM_FILES];
	int nfiles;
	struct sim_names now, safe;
	struct sim_change changes[SIM_NAMES];
	int nchanges;
	struct {
		int file;
		bool open, direct, writes;
	} fds[SIM_FDS];
	bool locked;
	uint64_t crashes;

	uint64_t ops;       /* done so far */
	uint64_t syncs;     /* of them, those of files and directories */
	uint64_t plug_at;   /* the plug is pulled at this operation; UINT64_MAX: never */
	uint64_t fail_at;   /* this operation fails; UINT64_MAX: none */
	uint64_t fail_more; /* so many operations after it fail likewise */
	int fail_err;       /* -EIO, -ENOSPC; 0: a short write (other operations: -EIO) */
	bool no_space;      /* every write beyond a file's size fails */
	uint64_t refused;   /* writes that failed for no_space */
	bool dead;          /* the plug is out */
	bool failed;        /* fail_at has happened */
	enum sim_op fail_op;
	uint64_t after_fail; /* operations that change something, since then */
	bool refuse_direct;  /* as tmpfs */
	int fds_max;         /* files open at a time, beyond which there is -EMFILE; 0: SIM_FDS */
	/* Files that were closed with unsynced bytes, but for a sector at 512 (the journal's note): the kernel would tell nobody that they could not be
	 * written. */
	unsigned closed_unsynced;

	bool lie_sync;     /* a sync does nothing: acknowledging before it would look the same */
	bool lie_dsync;    /* a durable write is not */
	bool lie_sync_dir; /* a directory's sync does nothing */
	bool lie_cut;      /* the zeroing of a header does nothing */
	bool lie_resync;   /* a sync that fails says that it did not: retrying it would look the same */

	uint64_t seed;
};

static inline uint64_t sim_random(struct sim *s)
{
	s->seed ^= s->seed << 13;
	s->seed ^= s->seed >> 7;
	s->seed ^= s->seed << 17;
	return s->seed;
}

static inline void sim_init(struct sim *s)
{
	memset(s, 0, sizeof *s);
	s->plug_at = s->fail_at = UINT64_MAX;
	s->seed = 88172645463325252u;
}

static inline void sim_forget_writes(struct sim_file *f)
{
	for (size_t i = 0; i < f->nw; i++)
		free(f->w[i].p);
	f->nw = 0;
}

static inline void sim_done(struct sim *s)
{
	for (int i = 0; i < s->nfiles; i++) {
		sim_forget_writes(&s->files[i]);
		free(s->files[i].w);
		free(s->files[i].now);
		free(s->files[i].safe);
	}
	s->nfiles = 0;
}

static inline void sim_put(uint8_t **p, size_t *n, size_t *cap, uint64_t at, const void *from, size_t k)
{
	if (at + k > *cap) {
		*cap = (at + k) * 2;
		*p = realloc(*p, *cap);
		CHECK(*p != NULL);
	}
	if (k == 0)
		return;
	if (at > *n)
		memset(*p + *n, 0, at - *n);
	memcpy(*p + at, from, k);
	if (at + k > *n)
		*n = at + k;
}

static inline struct sim_name *sim_find(struct sim_names *names, const char *path)
{
	for (int i = 0; i < names->n; i++)
		if (strcmp(names->v[i].path, path) == 0)
			return &names->v[i];
	return NULL;
}

/* What is in a directory goes where the directory goes. */
static inline void sim_move_content(struct sim_names *names, const char *from, const char *to)
{
	size_t n = strlen(from);

	for (int i = 0; i < names->n; i++) {
		char path[SIM_PATH];

		if (strncmp(names->v[i].path, from, n) != 0 || names->v[i].path[n] != '/')
			continue;
		CHECK(snprintf(path, sizeof path, "%s%s", to, names->v[i].path + n) < (int)sizeof path);
		memcpy(names->v[i].path, path, sizeof path);
	}
}

static inline void sim_apply(struct sim_names *names, const struct sim_change *c)
{
	struct sim_name *e = c->from[0] != '\0' ? sim_find(names, c->from) : NULL;

	if (c->file == SIM_DIR && c->from[0] != '\0' && e == NULL)
		return; /* the directory was never there, as far as the platter knows */
	if (e != NULL)
		*e = names->v[--names->n];
	if (c->file == SIM_DIR && c->from[0] != '\0' && c->to[0] != '\0')
		sim_move_content(names, c->from, c->to);
	if (c->to[0] == '\0')
		return;
	e = sim_find(names, c->to);
	if (e == NULL) {
		CHECK(names->n < SIM_NAMES);
		e = &names->v[names->n++];
	}
	snprintf(e->path, sizeof e->path, "%s", c->to);
	e->file = c->file;
}

/* Counts an operation. 0, or the error that it has to give; 1: a short write. */
static inline int sim_step(struct sim *s, enum sim_op op)
{
	uint64_t n = s->ops++;

	s->syncs += op == SIM_OP_SYNC || op == SIM_OP_SYNC_DIR;
	if (s->dead || n >= s->plug_at) {
		s->dead = true;
		return -EIO;
	}
	s->after_fail += s->failed && n - s->fail_at > s->fail_more && op != SIM_OP_OTHER && op != SIM_OP_READ;
	if (n < s->fail_at || n - s->fail_at > s->fail_more)
		return 0;
	s->failed = true;
	s->fail_op = op;
	if (s->fail_err != 0)
		return s->fail_err;
	return op == SIM_OP_WRITE ? 1 : -EIO;
}

static inline void sim_change(struct sim *s, const char *from, const char *to, int file)
{
	struct sim_change *c = &s->changes[s->nchanges];

	CHECK(s->nchanges < SIM_NAMES && strlen(from) < SIM_PATH && strlen(to) < SIM_PATH);
	memcpy(c->from, from, strlen(from) + 1);
	memcpy(c->to, to, strlen(to) + 1);
	c->file = file;
	s->nchanges++;
	sim_apply(&s->now, c);
}

static inline int sim_fds_open(const struct sim *s)
{
	int n = 0;

	for (int fd = 0; fd < SIM_FDS; fd++)
		n += s->fds[fd].open;
	return n;
}

static inline int sim_open(void *ctx, const char *path, unsigned flags)
{
	struct sim *s = ctx;
	struct sim_name *e = sim_find(&s->now, path);
	int err = sim_step(s, SIM_OP_OTHER);

	if (err < 0)
		return err;
	if (flags & JD_DIRECT && s->refuse_direct)
		return -EINVAL;
	if (s->fds_max > 0 && sim_fds_open(s) >= s->fds_max)
		return -EMFILE;
	if (e == NULL && !(flags & JD_CREATE))
		return -ENOENT;
	if (e == NULL) {
		CHECK(s->nfiles < SIM_FILES);
		sim_change(s, "", path, s->nfiles++);
		e = sim_find(&s->now, path);
	}
	for (int fd = 0; fd < SIM_FDS; fd++) {
		if (s->fds[fd].open)
			continue;
		s->fds[fd].open = true;
		s->fds[fd].direct = flags & JD_DIRECT;
		s->fds[fd].writes = !(flags & JD_READ);
		s->fds[fd].file = e->file;
		return fd;
	}
	return -EMFILE;
}

static inline struct sim_file *sim_file(struct sim *s, int fd)
{
	CHECK(fd >= 0 && fd < SIM_FDS && s->fds[fd].open);
	return &s->files[s->fds[fd].file];
}

/* Whether nobody has the file open for writing, and there are bytes that were not synced, but for the journal's note. */
static inline bool sim_is_unsynced(const struct sim *s, int file)
{
	const struct sim_file *f = &s->files[file];

	for (int fd = 0; fd < SIM_FDS; fd++)
		if (s->fds[fd].open && s->fds[fd].writes && s->fds[fd].file == file)
			return false;
	for (size_t i = 0; i < f->nw; i++)
		if (f->w[i].at != SIM_SECTOR || f->w[i].n != SIM_SECTOR)
			return true;
	return false;
}

static inline void sim_close(void *ctx, int fd)
{
	struct sim *s = ctx;

	if (fd == SIM_FDS) {
		s->locked = false;
		return;
	}
	CHECK(fd >= 0 && fd < SIM_FDS && s->fds[fd].open);
	s->fds[fd].open = false;
	s->closed_unsynced += s->fds[fd].writes && !s->dead && sim_is_unsynced(s, s->fds[fd].file);
}

static inline int64_t sim_size(void *ctx, int fd)
{
	return (int64_t)sim_file(ctx, fd)->now_n;
}

static inline int sim_id(void *ctx, int fd, struct jd_id *ret)
{
	struct sim *s = ctx;

	*ret = (struct jd_id){.ino = (uint64_t)s->fds[fd].file, .size = sim_file(s, fd)->now_n};
	return 0;
}

static inline int sim_id_at(void *ctx, const char *path, struct jd_id *ret)
{
	struct sim *s = ctx;
	struct sim_name *e = sim_find(&s->now, path);
	int err = sim_step(s, SIM_OP_OTHER);

	if (err < 0)
		return err;
	if (e == NULL || e->file == SIM_DIR)
		return -ENOENT;
	*ret = (struct jd_id){.ino = (uint64_t)e->file, .size = s->files[e->file].now_n};
	return 0;
}

static inline ssize_t sim_pread(void *ctx, int fd, void *p, size_t n, uint64_t at)
{
	struct sim *s = ctx;
	struct sim_file *f = sim_file(s, fd);
	int err = sim_step(s, SIM_OP_READ);

	if (err < 0)
		return err;
	if (at >= f->now_n)
		return 0;
	if (n > f->now_n - at)
		n = f->now_n - at;
	memcpy(p, f->now + at, n);
	return (ssize_t)n;
}

static inline ssize_t sim_pwrite(void *ctx, int fd, const void *p, size_t n, uint64_t at, unsigned flags)
{
	struct sim *s = ctx;
	struct sim_file *f = sim_file(s, fd);
	bool durable = (flags & JD_DSYNC) || s->fds[fd].direct;
	int err = sim_step(s, SIM_OP_WRITE);
	bool plugged = s->dead && s->ops == s->plug_at + 1;

	if (s->fds[fd].direct)
		CHECK(n % 4096 == 0 && at % 4096 == 0 && (uintptr_t)p % 4096 == 0);
	if (err < 0 && !plugged)
		return err;
	if (!plugged && s->no_space && at + n > f->now_n) {
		s->refused++;
		return -ENOSPC;
	}
	if (err == 1)
		n = n / 2;
	if (s->lie_cut && n == 48 && ((const uint8_t *)p)[44] == 0)
		return (ssize_t)n;
	sim_put(&f->now, &f->now_n, &f->now_cap, at, p, n);
	if (durable && !plugged && !s->lie_dsync) {
		/* as the kernel: what was written is synced, and nothing else of the file */
		sim_put(&f->safe, &f->safe_n, &f->safe_cap, at, p, n);
		return (ssize_t)n;
	}
	if (f->nw == f->w_cap) {
		f->w_cap = f->w_cap == 0 ? 16 : f->w_cap * 2;
		f->w = realloc(f->w, f->w_cap * sizeof *f->w);
		CHECK(f->w != NULL);
	}
	f->w[f->nw] = (struct sim_write){.at = at, .n = n, .p = malloc(n + 1)};
	CHECK(f->w[f->nw].p != NULL);
	memcpy(f->w[f->nw].p, p, n);
	f->nw++;
	return plugged ? err : (ssize_t)n;
}

static inline int sim_sync(void *ctx, int fd)
{
	struct sim *s = ctx;
	struct sim_file *f = sim_file(s, fd);
	int err = sim_step(s, SIM_OP_SYNC);

	if (err < 0 && s->dead)
		return err;
	if (s->lie_sync)
		return err;
	if (err == 0)
		for (size_t i = 0; i < f->nw; i++)
			sim_put(&f->safe, &f->safe_n, &f->safe_cap, f->w[i].at, f->w[i].p, f->w[i].n);
	sim_forget_writes(f); /* after an error as well */
	return s->lie_resync ? 0 : err;
}

static inline bool sim_is_in(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	const char *rest = path;

	if (path[0] == '\0')
		return false;
	if (n > 0) {
		if (strncmp(path, dir, n) != 0 || path[n] != '/')
			return false;
		rest = path + n + 1;
	}
	return strchr(rest, '/') == NULL;
}

static inline int sim_sync_dir(void *ctx, const char *path, bool *ret_tried)
{
	struct sim *s = ctx;
	int err = sim_step(s, SIM_OP_SYNC_DIR);
	int left = 0;

	*ret_tried = err != -EMFILE && err != -ENFILE;
	if (err < 0 || s->lie_sync_dir)
		return err;
	for (int i = 0; i < s->nchanges; i++) {
		if (sim_is_in(s->changes[i].from, path) || sim_is_in(s->changes[i].to, path))
			sim_apply(&s->safe, &s->changes[i]);
		else
			s->changes[left++] = s->changes[i];
	}
	s->nchanges = left;
	return 0;
}

static inline int sim_mkdir(void *ctx, const char *path)
{
	struct sim *s = ctx;
	int err = sim_step(s, SIM_OP_NAME);

	if (err < 0)
		return err;
	if (sim_find(&s->now, path) != NULL)
		return -EEXIST;
	sim_change(s, "", path, SIM_DIR);
	return 0;
}

static inline int sim_rename(void *ctx, const char *from, const char *to)
{
	struct sim *s = ctx;
	struct sim_name *e = sim_find(&s->now, from);
	int err = sim_step(s, SIM_OP_NAME);

	if (err < 0)
		return err;
	if (e == NULL)
		return -ENOENT;
	if (e->file == SIM_DIR && sim_find(&s->now, to) != NULL)
		return -ENOTEMPTY;
	sim_change(s, from, to, e->file);
	return 0;
}

static inline int sim_unlink(void *ctx, const char *path)
{
	struct sim *s = ctx;
	struct sim_name *e = sim_find(&s->now, path);
	int err = sim_step(s, SIM_OP_NAME);

	if (err < 0)
		return err;
	if (e == NULL)
		return -ENOENT;
	sim_change(s, path, "", e->file);
	return 0;
}

static inline int sim_rmdir(void *ctx, const char *path)
{
	struct sim *s = ctx;
	struct sim_name *e = sim_find(&s->now, path);
	int err = sim_step(s, SIM_OP_NAME);

	if (err < 0)
		return err;
	if (e == NULL)
		return -ENOENT;
	for (int i = 0; i < s->now.n; i++)
		if (sim_is_in(s->now.v[i].path, path))
			return -ENOTEMPTY;
	sim_change(s, path, "", SIM_DIR);
	return 0;
}

static inline int sim_list(void *ctx, const char *path, void (*each)(void *arg, const char *name, bool is_dir),
			   void *arg)
{
	struct sim *s = ctx;
	struct sim_name *dir = sim_find(&s->now, path);
	int err = sim_step(s, SIM_OP_READ);

	if (err < 0)
		return err;
	if (*path != '\0' && (dir == NULL || dir->file != SIM_DIR))
		return -ENOENT;
	for (int i = 0; i < s->now.n; i++) {
		const struct sim_name *e = &s->now.v[i];

		if (sim_is_in(e->path, path))
			each(arg, e->path + (*path != '\0' ? strlen(path) + 1 : 0), e->file == SIM_DIR);
	}
	return 0;
}

static inline int sim_random_bytes(void *ctx, void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)(sim_random(ctx) >> 24);
	return 0;
}

static inline uint64_t sim_boot(void *ctx)
{
	return 1 + ((struct sim *)ctx)->crashes;
}

static inline int sim_lock(void *ctx, const char *path, uint64_t timeout_ns, bool shared)
{
	struct sim *s = ctx;

	(void)path;
	(void)timeout_ns;
	(void)shared;
	if (s->locked)
		return -EBUSY;
	s->locked = true;
	return SIM_FDS;
}

static inline struct journal_disk sim_disk(struct sim *s)
{
	return (struct journal_disk){
		.ctx = s,
		.root = "sim",
		.open = sim_open,
		.close = sim_close,
		.size = sim_size,
		.id = sim_id,
		.id_at = sim_id_at,
		.pread = sim_pread,
		.pwrite = sim_pwrite,
		.sync = sim_sync,
		.sync_dir = sim_sync_dir,
		.mkdir = sim_mkdir,
		.rename = sim_rename,
		.unlink = sim_unlink,
		.rmdir = sim_rmdir,
		.list = sim_list,
		.random = sim_random_bytes,
		.boot = sim_boot,
		.lock = sim_lock,
	};
}

/* Unsynced sectors in all files: `cut` of sim_crash counts them in order of file and write. */
static inline uint64_t sim_sectors(const struct sim *s)
{
	uint64_t n = 0;

	for (int i = 0; i < s->nfiles; i++)
		for (size_t k = 0; k < s->files[i].nw; k++) {
			const struct sim_write *w = &s->files[i].w[k];

			if (w->n > 0)
				n += (w->at + w->n - 1) / SIM_SECTOR - w->at / SIM_SECTOR + 1;
		}
	return n;
}

static inline bool sim_survives(struct sim *s, enum sim_keep keep, uint64_t sector, uint64_t cut)
{
	switch (keep) {
	case SIM_KEEP_NONE:
		return false;
	case SIM_KEEP_ALL:
		return true;
	case SIM_KEEP_CUT:
		return sector < cut;
	case SIM_KEEP_RANDOM:
		return sim_random(s) & 1;
	}
	return false;
}

/* Decides what was on the platter, and plugs the machine in again. Nobody may have a file open any more. */
static inline void sim_crash(struct sim *s, enum sim_keep keep, uint64_t cut)
{
	uint64_t sector = 0;

	s->crashes++;
	for (int i = 0; i < s->nfiles; i++) {
		struct sim_file *f = &s->files[i];

		for (size_t k = 0; k < f->nw; k++) {
			struct sim_write *w = &f->w[k];

			for (uint64_t at = w->at; at < w->at + w->n;) {
				uint64_t end = (at / SIM_SECTOR + 1) * SIM_SECTOR;

				if (end > w->at + w->n)
					end = w->at + w->n;
				if (sim_survives(s, keep, sector++, cut))
					sim_put(&f->safe, &f->safe_n, &f->safe_cap, at, w->p + (at - w->at), end - at);
				at = end;
			}
		}
		sim_forget_writes(f);
		f->now_n = 0;
		sim_put(&f->now, &f->now_n, &f->now_cap, 0, f->safe != NULL ? f->safe : (uint8_t *)"", f->safe_n);
	}
	for (int i = 0; i < s->nchanges; i++)
		if (sim_survives(s, keep == SIM_KEEP_CUT ? SIM_KEEP_ALL : keep, 0, 0))
			sim_apply(&s->safe, &s->changes[i]);
	s->nchanges = 0;
	for (int i = s->safe.n; i-- > 0;) { /* a name in a directory that is not there */
		char dir[SIM_PATH];
		char *slash;

		memcpy(dir, s->safe.v[i].path, sizeof dir);
		slash = strrchr(dir, '/');
		if (slash == NULL)
			continue;
		*slash = '\0';
		if (sim_find(&s->safe, dir) != NULL)
			continue;
		s->safe.v[i] = s->safe.v[--s->safe.n];
		i = s->safe.n; /* it may have been a directory itself */
	}
	s->now = s->safe;
	for (int fd = 0; fd < SIM_FDS; fd++)
		CHECK(!s->fds[fd].open);
	s->locked = false;
	s->dead = s->failed = false;
	s->after_fail = 0;
	s->plug_at = s->fail_at = UINT64_MAX;
}

/* The content of a file, to look at or to damage (in both places). */
static inline struct sim_file *sim_content(struct sim *s, const char *path)
{
	struct sim_name *e = sim_find(&s->now, path);

	return e != NULL && e->file != SIM_DIR ? &s->files[e->file] : NULL;
}

static inline void sim_flip(struct sim *s, const char *path, uint64_t byte, uint8_t mask)
{
	struct sim_file *f = sim_content(s, path);

	CHECK(f != NULL && byte < f->now_n);
	f->now[byte] ^= mask;
	if (byte < f->safe_n)
		f->safe[byte] ^= mask;
}

/* A copy of the whole machine (nothing open), to crash it in many ways from one state. */
static inline struct sim *sim_copy(const struct sim *from)
{
	struct sim *s = malloc(sizeof *s);

	CHECK(s != NULL);
	memcpy(s, from, sizeof *s);
	for (int i = 0; i < s->nfiles; i++) {
		struct sim_file *f = &s->files[i];
		const struct sim_file *o = &from->files[i];

		f->now = malloc(o->now_n + 1);
		f->safe = malloc(o->safe_n + 1);
		f->w = malloc((o->nw + 1) * sizeof *f->w);
		CHECK(f->now != NULL && f->safe != NULL && f->w != NULL);
		f->now_cap = o->now_n + 1;
		f->safe_cap = o->safe_n + 1;
		f->w_cap = o->nw + 1;
		if (o->now_n > 0)
			memcpy(f->now, o->now, o->now_n);
		if (o->safe_n > 0)
			memcpy(f->safe, o->safe, o->safe_n);
		for (size_t k = 0; k < o->nw; k++) {
			f->w[k] = o->w[k];
			f->w[k].p = malloc(o->w[k].n + 1);
			CHECK(f->w[k].p != NULL);
			memcpy(f->w[k].p, o->w[k].p, o->w[k].n);
		}
	}
	return s;
}

static inline void sim_free(struct sim *s)
{
	sim_done(s);
	free(s);
}

#endif
