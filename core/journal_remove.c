/* Taking a log out of a journal: for good, or aside, or with a new one in its place.
 *
 *   removed:    REMOVE in the manifest, synced --> NAME renamed to .removed/NAME-EPOCH, synced --> its files unlinked
 *   set aside:  REMOVE in the manifest, synced --> NAME renamed to .quarantine/NAME-STAMP, synced
 *   replaced:   ADD without a birth, synced --> the old folder set aside --> the new log made, with what it is to hold,
 *               synced --> ADD with its birth, synced
 *
 * Invariants: 1. A log without an entry that still has its folder is a log (see journal_manifest.c), so a crash before
 * the rename has changed nothing; after the rename, the log is gone. There is no state between in which the log is half
 * there, or in which the next opening misses it. 2. What is in .removed is nobody's: the next opening unlinks it. 3. A log
 * that is being replaced is refused until the new one is whole.
 *
 * Any thread, under open_lock; the main thread, while it opens the journal.
 */
#include "core/journal_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REMOVED_DIR ".removed"
#define NAMESAKES_MAX 100u
#define OUT_PATH_MAX (2u * JPATH_MAX)

struct names {
	char (*name)[JPATH_MAX];
	uint32_t n, cap;
	bool oom;
};

static void add_name(void *arg, const char *name, bool is_dir)
{
	struct names *l = arg;

	if (l->n == l->cap) {
		uint32_t cap = l->cap == 0 ? 16 : l->cap * 2;
		void *grown = reallocarray(l->name, cap, sizeof l->name[0]);

		l->oom = l->oom || grown == NULL;
		if (grown == NULL)
			return;
		l->name = grown;
		l->cap = cap;
	}
	snprintf(l->name[l->n++], sizeof l->name[0], "%s", name);
}

static int list_names(struct jio *io, const char *path, struct names *ret)
{
	int err = jio_list(io, path, add_name, ret);

	return err == 0 && ret->oom ? jio_fail(io, -ENOMEM, path, "out of memory") : err;
}

static int join(struct jio *io, char ret[OUT_PATH_MAX], const char *dir, const char *name)
{
	int n = snprintf(ret, OUT_PATH_MAX, "%s/%s", dir, name);

	return n > 0 && n < (int)OUT_PATH_MAX ? 0 : jio_fail(io, -ENAMETOOLONG, dir, "a name in it is too long");
}

/* Unlinks the files of a folder, and the folder, or the link to it. */
static int remove_folder(struct jio *io, const char *path)
{
	char file[OUT_PATH_MAX];
	struct names l = {.n = 0};
	int err = list_names(io, path, &l);

	for (uint32_t i = 0; i < l.n && err == 0; i++) {
		err = join(io, file, path, l.name[i]);
		if (err == 0)
			err = jio_unlink(io, file);
	}
	free(l.name);
	if (err == 0)
		err = jio_rmdir(io, path);
	return err == -ENOTDIR ? jio_unlink(io, path) : err;
}

/* What a removal that a crash or an error ended has left. What cannot be removed now stays until the next opening. */
void journal_sweep_removed(struct journal *j)
{
	struct jio io = {.d = &j->disk};
	char path[OUT_PATH_MAX];
	struct names l = {.n = 0};
	bool all = list_names(&io, REMOVED_DIR, &l) == 0;

	for (uint32_t i = 0; i < l.n; i++) {
		all = join(&io, path, REMOVED_DIR, l.name[i]) == 0 && remove_folder(&io, path) == 0 && all;
	}
	if (all)
		jio_rmdir(&io, REMOVED_DIR);
	free(l.name);
}

struct presence {
	const char *name;
	bool there;
};

static void see(void *arg, const char *name, bool is_dir)
{
	struct presence *p = arg;

	p->there = p->there || (is_dir && strcmp(name, p->name) == 0);
}

/* Renames the log's folder, if there is one, to DIR/NAME-SUFFIX, with a number behind it where that is taken.
 * *ret_path: "", or that. */
static int move_out(struct jio *io, const char *name, const char *dir, const char *suffix, char ret_path[OUT_PATH_MAX])
{
	struct presence p = {.name = name};
	bool made;
	int err = jio_list(io, "", see, &p);

	*ret_path = '\0';
	if (err != 0 || !p.there)
		return err;
	err = jio_mkdir(io, dir, &made);
	if (err != 0)
		return err;
	for (unsigned i = 1; i < NAMESAKES_MAX; i++) {
		char more[8] = "";

		if (i > 1)
			snprintf(more, sizeof more, "-%u", i);
		snprintf(ret_path, OUT_PATH_MAX, "%s/%s-%.64s%s", dir, name, suffix, more);
		err = jio_rename(io, name, ret_path);
		if (err != -ENOTEMPTY && err != -EEXIST)
			break;
	}
	if (err == 0)
		err = jio_sync_dir(io, dir);
	return err != 0 ? err : jio_sync_dir(io, "");
}

static int may_take_out(struct journal *j, struct jio *io, const char *name)
{
	if (j->opts.mode == JOURNAL_CHECK || !jlog_name_is_valid(name))
		return jio_fail(io, -EINVAL, "", "no log can be taken out: \"%.64s\"", name);
	for (const struct jlog *log = j->opened; log != NULL; log = log->opened_next)
		if (strcmp(log->name, name) == 0)
			return jio_fail(io, -EBUSY, name, "this log is open");
	return 0;
}

/* What the superblock knows of the log is not true of the next one of its name. */
static int forget_first(struct journal *j, struct jio *io, const char *name)
{
	if (j->opts.first_log == NULL || strcmp(name, j->opts.first_log) != 0 || j->super.first_seq == 0)
		return 0;
	j->super.first_seq = 0;
	return journal_write_super(j, io);
}

/* Under open_lock. */
static int take_out(struct journal *j, struct jio *io, const char *name, const char *dir, const char *suffix,
		    char ret_path[OUT_PATH_MAX])
{
	int err = may_take_out(j, io, name);

	if (err == 0)
		err = manifest_remove(j, io, name);
	if (err == 0)
		err = forget_first(j, io, name);
	return err != 0 ? err : move_out(io, name, dir, suffix, ret_path);
}

static void say_path(const struct journal *j, const char *path, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s%s%s", *path != '\0' ? j->disk.root : "", *path != '\0' ? "/" : "", path);
}

int journal_log_remove(struct journal *j, const char *name, const char **ret_why)
{
	struct jio io = {.d = &j->disk};
	char path[OUT_PATH_MAX] = "", suffix[16];
	int err;

	snprintf(suffix, sizeof suffix, "%u", j->super.epoch);
	pthread_mutex_lock(&j->open_lock);
	err = take_out(j, &io, name, REMOVED_DIR, suffix, path);
	if (io.sync_failed)
		journal_fail(j, err, io.why);
	pthread_mutex_unlock(&j->open_lock);
	if (err == 0)
		journal_sweep_removed(j);
	else if (ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}

int journal_log_set_aside(struct journal *j, const char *name, const char *stamp, char *ret_path, size_t cap,
			  const char **ret_why)
{
	struct jio io = {.d = &j->disk};
	char path[OUT_PATH_MAX] = "";
	int err;

	pthread_mutex_lock(&j->open_lock);
	err = take_out(j, &io, name, QUARANTINE_DIR, stamp, path);
	if (io.sync_failed)
		journal_fail(j, err, io.why);
	pthread_mutex_unlock(&j->open_lock);
	if (err == 0)
		say_path(j, path, ret_path, cap);
	else if (ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}

/* Under open_lock. */
static int replace(struct journal *j, struct jio *io, const struct jlog_opts *opts, const char *stamp,
		   char ret_path[OUT_PATH_MAX], struct jlog **ret)
{
	int err = may_take_out(j, io, opts->name);

	if (err == 0)
		err = manifest_add(j, io, opts->name, JLOG_BIRTH_NONE);
	if (err == 0)
		err = forget_first(j, io, opts->name);
	if (err == 0)
		err = move_out(io, opts->name, QUARANTINE_DIR, stamp, ret_path);
	if (err != 0)
		return err;
	j->replacing = true;
	err = journal_open_log(j, opts, ret, io);
	j->replacing = false;
	return err;
}

int journal_log_replace(struct journal *j, const struct jlog_opts *opts, const char *stamp, char *ret_path, size_t cap,
			struct jlog **ret, const char **ret_why)
{
	struct jio io = {.d = &j->disk};
	char path[OUT_PATH_MAX] = "";
	int err;

	pthread_mutex_lock(&j->open_lock);
	err = replace(j, &io, opts, stamp, path, ret);
	if (io.sync_failed)
		journal_fail(j, err, io.why);
	pthread_mutex_unlock(&j->open_lock);
	if (err == 0)
		say_path(j, path, ret_path, cap);
	else if (ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}
