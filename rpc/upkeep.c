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

/* ---- accepting a loss ---- */

enum state { WHOLE, DAMAGED, MISSING, NEVER_WAS };

static int open_to_look(struct journal *j, const char *log, const char **ret_why)
{
	struct jlog_opts o = {.name = log, .segment_bytes = JOURNAL_SEGMENT_MIN};
	struct jlog *opened;
	uint32_t sequences;

	return strcmp(log, IDS_LOG) == 0 ? ids_look(j, &sequences, ret_why) : journal_log_open(j, &o, &opened, ret_why);
}

/* Nothing is changed by looking. 0, or -errno: it cannot be told. In both cases why_text says more. */
static int look_at(const struct config *c, const char *log, enum state *ret)
{
	struct journal_opts o = {.dir = c->data_dir, .mode = JOURNAL_CHECK, .first_log = IDS_LOG};
	const char *why;
	struct journal *j;
	int err = journal_open(&o, &j, &why);

	if (err == 0) {
		*ret = NEVER_WAS;
		if (has_folder(j, log) || lacks_folder(j, log)) {
			err = open_to_look(j, log, &why);
			*ret = err == 0 ? WHOLE : err == -ENOENT ? MISSING : DAMAGED;
			err = err == -ENOENT || err == -EBADMSG || err == -EIO ? 0 : err; /* EIO: a bad sector */
		}
		journal_close(j);
	}
	snprintf(why_text, sizeof why_text, "%s%s", *ret == WHOLE || *ret == NEVER_WAS ? "" : why,
		 err == -EBUSY ? "; stop the daemon first" : "");
	return err;
}

static int accept_stream(const struct config *c, const char *name, const char *log)
{
	const char *operand = stream_operand(log), *why;
	enum state state = DAMAGED;
	struct journal *j;

	if (look_at(c, log, &state) != 0)
		return complain(FAILED, "%s", why_text);
	if (state == WHOLE)
		return complain(USAGE, "the log of the stream %s is there and whole: nothing is lost", operand);
	if (state == DAMAGED)
		return complain(USAGE, "%s. The log is not missing: `ordinald --quarantine %s` sets it aside", why_text,
				operand);
	if (state == NEVER_WAS)
		return complain(USAGE, "there is no stream \"%.100s\" in %s", name, c->data_dir);
	if (open_journal(c, false, &j) != 0)
		return complain(FAILED, "%s", why_text);
	if (journal_log_remove(j, log, &why) != 0)
		return end(j, complain(FAILED, "%s", why));
	printf("The loss of the stream %s is accepted: every frame that was published to it is gone, acknowledged ones as well.\n"
	       "The daemon starts without it, and the next use of its name begins a new stream, in another incarnation.\n",
	       operand);
	return end(j, DONE);
}

static void print_sequence(void *ctx, struct span name, uint64_t next)
{
	uint32_t *count = ctx;

	if ((*count)++ == 0)
		puts("Known, from what can still be read of it:");
	printf("    the sequence \"%.*s\" goes on at %" PRIu64 "\n", (int)name.n, (const char *)name.p, next);
}

static void say_ids(uint64_t above, uint32_t known)
{
	if (above > 0)
		printf("Every sequence goes on above %" PRIu64
		       ". No ID is handed out again, if none above that was handed out before.\n",
		       above);
	else if (known > 0)
		puts("IDs above these may have been handed out, and may be handed out AGAIN; so may those of sequences that are not listed, "
		     "which begin at 1.");
	else
		puts("Nothing is known of the IDs that were handed out: every sequence begins at 1, and IDs are handed out AGAIN.");
	puts("All sequences begin another incarnation, which is a number in every reply: IDs are unique within one.");
}

static int accept_ids(const struct config *c, uint64_t above)
{
	char when[32], path[1024] = "";
	uint32_t known = 0;
	struct ids_replace_opts o = {.above = above,
				     .stamp = when,
				     .ret_path = path,
				     .path_cap = sizeof path,
				     .each = print_sequence,
				     .ctx = &known};
	enum state state = DAMAGED;
	const char *why;
	struct journal *j;

	if (look_at(c, IDS_LOG, &state) != 0)
		return complain(FAILED, "%s", why_text);
	if (state == WHOLE)
		return complain(USAGE, "the IDs' log is there and whole: nothing is lost");
	if (state == NEVER_WAS)
		return complain(USAGE, "no ID was ever handed out from %s: nothing is lost", c->data_dir);
	if (open_journal(c, false, &j) != 0)
		return complain(FAILED, "%s", why_text);
	stamp(when);
	if (ids_replace(j, &o, &why) != 0)
		return end(j, complain(FAILED, "%s", why));
	puts("The loss of the IDs' log is accepted.");
	if (*path)
		printf("What was left of it is in %s.\n", path);
	say_ids(above, known);
	return end(j, DONE);
}

static int print_log(void *ctx, const char *name)
{
	(void)ctx;
	printf("    %s\n", name);
	return 0;
}

/* The manifest is made anew from what is there. */
static int accept_manifest(const struct config *c)
{
	char damage[sizeof why_text];
	struct journal *j;
	int err = open_journal(c, false, &j);

	if (err == 0)
		return end(j, complain(USAGE, "the manifest of %s is whole: nothing is lost", c->data_dir));
	if (err != -EBADMSG)
		return complain(FAILED, "%s", why_text);
	memcpy(damage, why_text, sizeof damage);
	if (open_journal(c, true, &j) != 0)
		return complain(FAILED, "%s", damage); /* what is damaged is not the manifest */
	printf("%s.\nThe manifest was made anew. A log whose folder is not in this list is not missed any more:\n",
	       damage);
	journal_each_log(j, print_log, NULL);
	return end(j, DONE);
}

int upkeep_accept_loss(const struct config *c, const char *name, uint64_t above)
{
	char log[208];

	log_set_level(LOG_LEVEL_WARN);
	if (strcmp(name, IDS_LOG) == 0)
		return accept_ids(c, above);
	if (above > 0)
		return complain(USAGE, "--above is for `--accept-loss ids`");
	if (strcmp(name, ".manifest") == 0)
		return accept_manifest(c);
	if (!stream_log_of(name, log))
		return complain(USAGE, "\"%.100s\" is not the name of a stream", name);
	return accept_stream(c, name, log);
}
