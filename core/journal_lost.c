/* Logs whose files are not where they were: somebody has deleted or moved away a log's folder or its active file, or has
 * cut that file short, while the journal has it open.
 *
 * What is written to such a file is synced without an error, and is gone with the descriptor. So a group's marks are
 * published only after a look at the path: it has to name the file that was written, in all its length; and the length is
 * looked at before the write as well, which could make a file that was cut as long as it was. Both cost about a
 * microsecond a log and group, much less than a sync. A log that fails the look is lost, alone: it stays as it is until the
 * journal is closed, what is appended to it is dropped, and its owner finds that out by jlog_state.
 *
 * Runs in the journal thread (or whoever stands in for it, see journal_turn), but for the two getters at the end.
 */
#include "core/journal_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char cut[] = "the file has become shorter, somebody has cut it";

static int lose(struct jlog *log, struct jio *io, const char *path, const char *what)
{
	struct journal *j = log->j;

	jio_fail(io, -ENOENT, path, "%s; nothing more is kept in this log", what);
	log->why = strdup(io->why);
	atomic_store_explicit(&log->state, JLOG_LOST, memory_order_release); /* pairs with jlog_state */
	jfiles_close_log(log, io);
	if (j->opts.log_lost != NULL)
		j->opts.log_lost(j->opts.ctx, log->name, jlog_why(log));
	return JLOG_E_LOST;
}

int jlog_verify_length(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	struct jd_id id;
	int err;

	jlog_segment_path(log, log->number, path);
	err = jio_id(io, log->wfd, path, &id);
	if (err != 0 || id.size >= log->filled)
		return err;
	return lose(log, io, path, cut);
}

int jlog_verify(struct jlog *log, struct jio *io)
{
	char path[JPATH_MAX];
	struct jd_id id;
	int err;

	if (jlog_is_lost(log))
		return JLOG_E_LOST;
	jlog_segment_path(log, log->number, path);
	err = jio_id_at(io, path, &id);
	if (err == -ENOENT || err == -ENOTDIR)
		return lose(log, io, path, "the file is not there any more, it was deleted or moved away");
	if (err != 0)
		return err;
	if (id.dev != log->file.dev || id.ino != log->file.ino)
		return lose(log, io, path, "there is another file in this place, it was deleted or moved away");
	if (id.size < log->filled)
		return lose(log, io, path, cut);
	return 0;
}

int jlog_blame(struct jlog *log, struct jio *io, int err)
{
	struct jio own = {.d = io->d};

	if (err >= 0 || io->sync_failed || jio_is_shortage(io, err))
		return err;
	return jlog_verify(log, &own) == JLOG_E_LOST ? JLOG_E_LOST : err;
}

enum jlog_state jlog_state(const struct jlog *log)
{
	return (enum jlog_state)atomic_load_explicit(&log->state, memory_order_acquire); /* pairs with lose */
}

const char *jlog_why(const struct jlog *log)
{
	if (jlog_state(log) == JLOG_WELL)
		return "";
	return log->why != NULL ? log->why : "its files are not where they were";
}
