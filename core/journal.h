/* The durable append-only store, and the one thread that writes it.
 *
 * A journal is a directory of named logs; a log is a sequence of records in fixed-size segments. Other threads append through a
 * port (one CK SPSC ring each). While one sync is under way, all that arrives becomes the next group; a group is written
 * to every log it touches, each touched log is synced once, and then each log's durable mark is published and the ports' bells are rung.
 *
 * Invariants: a mark is published only after every record of its log up to it is written in full and synced, together with
 * the directory entry and size of its file. An error or a short write on the way ends the journal: no mark is published any
 * more, the sync is never retried, and opts.failed is called once. Recovery cuts an unfinished tail after the last durable record and
 * refuses damage before it.
 * Source: notes on group commit in README.md beside this file; fsyncgate (PostgreSQL wiki, "Fsync Errors").
 */
#ifndef ORDINAL_CORE_JOURNAL_H
#define ORDINAL_CORE_JOURNAL_H

#include "core/base/bytes.h"
#include "core/base/doorbell.h"
#include "core/base/hist.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct journal;
struct jlog;
struct journal_port;

#define JOURNAL_RECORD_MAX (8u << 20) /* bytes of one record's payload */

struct journal_opts {
	const char *dir;    /* created (0700) if missing; locked against a second daemon */
	uint32_t group_max; /* bytes of one group, about */
	/* Journal thread, once: what failed ("fdatasync /var/lib/ordinal/x/0001: No space left on device"). May be NULL. */
	void (*failed)(void *ctx, int err, const char *what);
	void *ctx;
};

/* Opens the directory, takes its lock (with a bounded retry of 2 s: a killed process may hold it a moment longer), reads the superblock.
 * 0; -EBUSY another process has it; -EBADMSG damaged or of a newer format; other -errno. `*ret_why` (if not NULL) is set to a
 * sentence for people, valid until the next call, for any failure of this and of journal_log_open. Main thread. */
int journal_open(const struct journal_opts *opts, struct journal **ret, const char **ret_why);

struct jrecord {
	uint32_t type;       /* the appender's */
	uint64_t mark;       /* the appender's */
	struct span payload; /* valid during the callback */
	uint64_t where;      /* position, for jlog_read */
};

struct jlog_opts {
	const char *name; /* a file-name-safe name of at most 200 bytes: [A-Za-z0-9._-]+ */
	/* size of each segment file; records never cross segments, so at least the largest record + 64 */
	uint32_t segment_bytes;
	/* Called for each record in order while the log is opened. Non-zero stops the opening with that value. */
	int (*replay)(void *ctx, const struct jrecord *rec);
	void *ctx;
};

/* Opens or creates a log, replaying what it holds. -EBADMSG: damage before the last durable record; the why names file and byte
 * offset. Main thread, before journal_start. */
int journal_log_open(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, const char **ret_why);

/* A way in for one appending thread. `bell` is rung (if its owner sleeps) whenever a mark of a log that this port appended to
 * since the last ring has been published. `depth` requests fit. Main thread, before journal_start. */
int journal_port_new(struct journal *j, struct doorbell *bell, uint32_t depth, struct journal_port **ret);

/* Starts the thread. Main thread. 0 or -errno. */
int journal_start(struct journal *j);

/* Queues a record for `log`. `mark` must be at or above every mark given before for this log (one log has one appending
 * port at a time). The payload bytes must stay unchanged until jlog_durable(log) >= mark (or until the journal has stopped). false: the
 * port is full, try again after the bell. Port owner's thread. */
bool journal_append(struct journal_port *p, struct jlog *log, uint32_t type, uint64_t mark, const void *payload,
		    uint32_t len);

/* Records with a mark below `mark` are no longer needed: whole segments of such are recycled. false: port full. Port owner's thread. */
bool journal_trim(struct journal_port *p, struct jlog *log, uint64_t mark);

/* Every record up to this mark is durable. Any thread; acquire. 0 before the first. After opening: the last recovered mark. */
uint64_t jlog_durable(const struct jlog *log);
/* Bytes in the log's live segments. Any thread. */
uint64_t jlog_bytes(const struct jlog *log);

/* True once a write or a sync has failed. Any thread. */
bool journal_has_failed(const struct journal *j);

/* Stops: all that was appended becomes durable first (unless failed), the lock is let go. 0, or the -errno of the failure.
 * Main thread, after all port owners have stopped appending. Also frees (with or without journal_start before). */
int journal_close(struct journal *j);

/* For stats; each is written by the journal thread, read anywhere. */
struct journal_stats {
	uint64_t records, bytes, groups, syncs, segments;
	struct hist sync_ns, group_records;
	/* how groups are made durable on this disk, chosen at start: "fdatasync", "dsync", "direct" */
	const char *method;
};
const struct journal_stats *journal_stats(const struct journal *j);

#endif
