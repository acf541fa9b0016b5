/* ordinald --check-data DIR: reads everything in a data directory, by the code that the daemon opens it with, and says what is damaged and what would
 * help. Nothing is written, not even a lock file: the journal is opened with JOURNAL_CHECK. Main thread. */
#include "rpc/upkeep.h"

#include "core/base/log.h"
#include "core/journal.h"
#include "queue/ids.h"
#include "queue/stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SOUND = 0, DAMAGED = 1, UNKNOWN = 2 };

static const char damaged[] = "DAMAGED", missing[] = "MISSING";

struct check {
	const char *dir;
	uint32_t logs, wrong; /* looked at; things that are not as they have to be */
	bool unreadable;
	bool has_ids, lost_ids;
};

/* What is wrong with one thing, and what the operator can do about it. */
static void found(struct check *k, const char *what, const char *state, const char *why, const char *help)
{
	k->wrong++;
	printf("%s: %s: %s\n    %s\n", what, state, why, help);
}

static void unreadable(struct check *k, const char *what, const char *why)
{
	k->unreadable = true;
	fprintf(stderr, "ordinald: %s cannot be checked: %s\n", what, why);
}

static struct journal_opts check_opts(const char *dir, bool new_manifest)
{
	return (struct journal_opts){
		.dir = dir, .mode = JOURNAL_CHECK, .first_log = IDS_LOG, .new_manifest = new_manifest};
}

/* The superblock and the manifest. With a damaged manifest the logs are looked at all the same. */
static int open_journal(struct check *k, struct journal **ret)
{
	struct journal_opts o = check_opts(k->dir, false);
	const char *why;
	int err = journal_open(&o, ret, &why);

	if (err == 0)
		return 0;
	if (err != -EBADMSG) {
		unreadable(k, k->dir, err == -EBUSY ? "a daemon runs on it, or another tool; stop it first" : why);
		return err;
	}
	char first[640];
	snprintf(first, sizeof first, "%s", why);
	o = check_opts(k->dir, true);
	err = journal_open(&o, ret, NULL);
	if (err == 0)
		found(k, "manifest", damaged, first,
		      "Put a copy of the file back; or run `ordinald --accept-loss .manifest`, which makes it anew from the logs that are there");
	else
		found(k, "superblock", damaged, first,
		      "Put a copy of the file back; any copy of this data directory's own will do");
	return err;
}

static int see_log(void *ctx, const char *name)
{
	struct check *k = ctx;

	k->has_ids = k->has_ids || strcmp(name, IDS_LOG) == 0;
	return 0;
}

static int see_missing(void *ctx, const char *name)
{
	struct check *k = ctx;

	k->lost_ids = k->lost_ids || strcmp(name, IDS_LOG) == 0;
	return 0;
}

static void check_ids(struct check *k, struct journal *j)
{
	uint32_t sequences = 0;
	const char *why;

	if (!k->has_ids && !k->lost_ids) {
		printf("ids: there is no log yet, no ID was ever handed out\n");
		return;
	}
	k->logs++;
	int err = ids_look(j, &sequences, &why);
	if (err == 0) {
		printf("ids: sound, %" PRIu32 " sequences\n", sequences);
	} else if (err == -EBADMSG) {
		found(k, "ids", damaged, why,
		      "Put a whole copy of the folder back, if it is from after the last ID; or run `ordinald --accept-loss ids`");
	} else if (err == -ENOENT) {
		found(k, "ids", missing, why, "Until then the daemon does not start");
	} else {
		unreadable(k, "ids", why);
	}
}

static void check_stream(void *ctx, const struct stream_check *c)
{
	struct check *k = ctx;
	char what[128], help[512];

	k->logs++;
	snprintf(what, sizeof what, "stream \"%s\"", c->name);
	if (c->err == 0) {
		printf("%s: sound, %" PRIu64 " frames, offsets %" PRIu64 " to %" PRIu64 ", %" PRIu64 " bytes\n", what,
		       c->frames, c->first_offset, c->last_offset, c->bytes);
	} else if (c->err == -EBADMSG) {
		snprintf(
			help, sizeof help,
			"Put a whole copy of the folder %s back; or run `ordinald --quarantine %s`, which sets it aside. Until then the stream is not "
			"served, and the others are",
			c->log, stream_operand(c->log));
		found(k, what, damaged, c->why, help);
	} else if (c->err == -ENOENT) {
		snprintf(
			help, sizeof help,
			"Put the folder %s back; or run `ordinald --accept-loss %s`. Until then the daemon does not start",
			c->log, stream_operand(c->log));
		found(k, what, missing, c->why, help);
	} else if (c->err == -EINVAL) {
		found(k, c->log, "STRANGE", c->why,
		      "Move it out of the data directory. Until then the daemon does not start");
	} else {
		unreadable(k, what, c->why);
	}
}

static void check_logs(struct check *k, struct journal *j)
{
	const char *why;

	if (journal_each_log(j, see_log, k) != 0 || journal_each_missing(j, see_missing, k) != 0) {
		unreadable(k, k->dir, "it cannot be listed");
		return;
	}
	check_ids(k, j);
	if (streams_check(j, check_stream, k, &why) != 0)
		unreadable(k, k->dir, why);
}

int upkeep_check_data(const char *dir)
{
	struct check k = {.dir = dir};
	struct journal *j;

	log_set_level(LOG_LEVEL_WARN);
	if (open_journal(&k, &j) == 0) {
		if (!journal_was_clean(j))
			printf("%s: not stopped cleanly; the next start cuts what was not finished\n", dir);
		check_logs(&k, j);
		journal_close(j);
	}
	if (k.unreadable && k.wrong == 0)
		return UNKNOWN;
	if (k.wrong == 0)
		printf("%s: sound, %" PRIu32 " logs\n", dir, k.logs);
	else
		printf("%s: not sound: %" PRIu32 " things are wrong; what helps stands below each\n", dir, k.wrong);
	return k.wrong > 0 ? DAMAGED : SOUND;
}
