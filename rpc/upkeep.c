/* ordinald --quarantine NAME and --accept-loss NAME; see the header. Main thread.
 *
 * The journal is opened with its exclusive lock, so no daemon runs on it meanwhile, and is never created. What root does to another user's data directory
 * is done as that user, or the daemon could not use the files that are made.
 */
#include "rpc/upkeep.h"

#include "core/base/log.h"
#include "core/journal.h"
#include "core/witness.h"
#include "queue/ids.h"
#include "queue/stream.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DONE = 0, FAILED = 1, USAGE = 2 };

__attribute__((format(printf, 2, 3))) static int complain(int code, const char *fmt, ...)
{
	va_list ap;

	fputs("ordinald: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return code;
}

static int become_owner(const char *dir)
{
	struct stat st;

	if (geteuid() != 0 || stat(dir, &st) != 0 || st.st_uid == 0)
		return 0; /* what is wrong with the directory, the journal will say */
	if (setgroups(0, NULL) != 0 || setegid(st.st_gid) != 0 || seteuid(st.st_uid) != 0)
		return -errno;
	return 0;
}

static char why_text[1024];

/* The journal that the witness knows, or what is in the data directory where it knows none. 0, or -errno with a sentence in why_text. */
static int open_journal(const struct config *c, bool new_manifest, struct journal **ret)
{
	struct journal_opts o = {.dir = c->data_dir,
				 .mode = JOURNAL_REPAIR,
				 .method = JOURNAL_FDATASYNC,
				 .first_log = IDS_LOG,
				 .new_manifest = new_manifest};
	struct witness w;
	const char *why;
	int err = witness_read(c->data_witness, c->data_dir, &w, &why);

	if (err == 0) {
		o.expected = w.knows ? w.id : NULL;
		err = become_owner(c->data_dir);
		why = "cannot become the user who owns the data directory";
	}
	if (err == 0)
		err = journal_open(&o, ret, &why);
	if (err == -ESTALE)
		why = witness_refusal(&w, c->data_dir, why);
	if (err != 0)
		snprintf(why_text, sizeof why_text, "%s%s", why, err == -EBUSY ? "; stop the daemon first" : "");
	return err;
}

/* A failure to close is told as well: then it is not known whether the change is on disk. */
static int end(struct journal *j, int code)
{
	int err = journal_close(j);

	return err != 0 && code == DONE ? complain(FAILED, "the data directory cannot be closed: %s", strerror(-err))
					: code;
}

struct search {
	const char *log;
	bool found;
};

static int match(void *ctx, const char *name)
{
	struct search *s = ctx;

	s->found = s->found || strcmp(name, s->log) == 0;
	return 0;
}

static bool has_folder(struct journal *j, const char *log)
{
	struct search s = {.log = log};

	return journal_each_log(j, match, &s) == 0 && s.found;
}

static bool lacks_folder(struct journal *j, const char *log)
{
	struct search s = {.log = log};

	return journal_each_missing(j, match, &s) == 0 && s.found;
}

static void stamp(char ret[32])
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(ret, 32, "%Y%m%dT%H%M%SZ", &tm);
}

/* ---- setting a stream aside ---- */

static int set_aside(struct journal *j, const struct config *c, const char *log)
{
	char when[32], path[1024];
	const char *why;

	stamp(when);
	if (journal_log_set_aside(j, log, when, path, sizeof path, &why) != 0)
		return complain(FAILED, "the stream could not be set aside: %s", why);
	printf("The stream %s was set aside: its files are in %s.\n"
	       "The next use of its name begins a new stream, in another incarnation. To take it back, run this command once more if\n"
	       "there is a new one, and rename the folder to %s/%s while no daemon runs.\n",
	       stream_operand(log), path, c->data_dir, log);
	return DONE;
}

int upkeep_quarantine(const struct config *c, const char *name)
{
	char log[208];
	struct journal *j;
	int code;

	if (!stream_log_of(name, log))
		return complain(USAGE, "\"%.100s\" is not the name of a stream", name);
	log_set_level(LOG_LEVEL_WARN);
	if (open_journal(c, false, &j) != 0)
		return complain(FAILED, "%s", why_text);
	if (has_folder(j, log))
		return end(j, set_aside(j, c, log));
	if (lacks_folder(j, log))
		code = complain(USAGE, "the log of the stream %s is missing; `ordinald --accept-loss %s` accepts that",
				stream_operand(log), stream_operand(log));
	else if (strcmp(name, IDS_LOG) == 0)
		code = complain(USAGE,
				"only a stream's log can be set aside; for the IDs' see `ordinald --accept-loss ids`");
	else
		code = complain(USAGE, "there is no stream \"%.100s\" in %s", name, c->data_dir);
	return end(j, code);
}
