/* The durable append-only store, and the one thread that writes it.
 *
 * A journal is a directory of named logs; a log is a sequence of records in fixed-size segments. Other threads append
 * through a port (one SPSC queue each). While one sync is under way, all that arrives becomes the next group; a group
 * is written to every log it touches, each touched log is synced once, and then each log's durable mark is published
 * and the ports' bells are rung.
 *
 * Invariants: a mark is published only after every record of its log up to it is written in full and synced, together
 * with the directory entry and size of its file. An error on the way, and a failed sync of any thread, end the journal:
 * no mark is published any more, the sync is never retried, and opts.failed is called once. Nor is a mark published whose
 * file is not found any more at its place: that log alone is lost (JLOG_LOST). What is only done ahead of
 * need (filling, the next segment, notes, files to be dropped) may want room, and is tried again later. Recovery cuts an
 * unfinished tail after the last durable record and refuses damage before it.
 * Source: journal.md beside this file (formats, recovery, what is assumed of a disk); fsyncgate (PostgreSQL wiki,
 * "Fsync Errors").
 */
#ifndef ORDINAL_CORE_JOURNAL_H
#define ORDINAL_CORE_JOURNAL_H

#include "core/base/bytes.h"
#include "core/base/doorbell.h"
#include "core/base/hist.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct journal;
struct journal_disk;
struct journal_port;
struct jlog;

#define JOURNAL_RECORD_MAX (8u << 20) /* bytes of one record's payload */
#define JOURNAL_PORTS_MAX 256u
#define JOURNAL_ID_BYTES 16u
#define JOURNAL_FILES_MORE 2u
#define JOURNAL_SEGMENT_MIN (16u << 10)
#define JOURNAL_SEGMENT_MAX (1u << 30)

/* How a group is made durable. AUTO measures for at most 50 ms what this disk does fastest. */
enum journal_method { JOURNAL_AUTO, JOURNAL_FDATASYNC, JOURNAL_DSYNC, JOURNAL_DIRECT };

/* Whether the journal gets the room, descriptors and memory that it wants. */
enum journal_room {
	JOURNAL_ROOM_AMPLE,
	JOURNAL_ROOM_TIGHT, /* something that is only done ahead of need could not be done, and is tried again later */
};

/* SERVE: what the daemon does. REPAIR: for tools that work on a journal while no daemon runs; none is created. CHECK: to
 * look at it; nothing is written, and logs can be opened and read, but not appended to. */
enum journal_mode { JOURNAL_SERVE, JOURNAL_REPAIR, JOURNAL_CHECK };

struct journal_opts {
	const char *dir;    /* created (0700) if missing; locked against a second daemon */
	uint32_t group_max; /* bytes of one group, about; 0: 1 MiB */
	/* Once, by the thread that met the failure (the journal's or an opener's): what failed ("fdatasync
	 * /var/lib/ordinal/x/0000000000000001: No space left on device"). May be NULL. */
	void (*failed)(void *ctx, int err, const char *what);
	/* Journal thread, when the room becomes another: what could not be done, 0 and "" for AMPLE. May be NULL. */
	void (*room_changed)(void *ctx, enum journal_room room, int err, const char *what);
	/* Journal thread: a log is lost, see JLOG_LOST; what: jlog_why. May be NULL. */
	void (*log_lost)(void *ctx, const char *name, const char *what);
	void *ctx;
	enum journal_method method;
	/* After so long without work the thread notes on disk (with no sync) how far each log is durable, so that
	 * damage to its last group is known for what it is even after a kill. 0: 200 ms; UINT32_MAX: only a clean
	 * close does. */
	uint32_t idle_note_ms;
	/* Descriptors for files that are kept open, for all logs together: the files that were used last. At least 6; 0: 256. Besides, each thread that
	 * calls here needs JOURNAL_FILES_MORE for moments. */
	uint32_t files_max;
	/* So long after it could not be done, what is only done ahead of need is tried again. 0: 1,000 ms. */
	uint32_t retry_ms;
	/* NULL, or JOURNAL_ID_BYTES: the journal that has to be there; none is created then. */
	const uint8_t *expected;
	enum journal_mode mode;
	/* NULL, or the name of the log that every data directory has had before its others. A directory from before
	 * there were manifests that has other logs has lost this one if it is not there. The superblock knows
	 * how far it went at the last clean close, so an older copy of it is refused. */
	const char *first_log;
	bool new_manifest;               /* JOURNAL_REPAIR: the manifest is made anew from the logs that are there */
	const struct journal_disk *disk; /* NULL: the file system; tests give a simulated one (core/journal_disk.h) */
};

/* Opens the directory, takes its lock (with a bounded retry of 2 s: a killed process may hold it a moment longer),
 * reads the superblock and the manifest. 0; -EBUSY another process has it; -EBADMSG damaged or of a newer format;
 * -ESTALE: not the expected one, and the why is "no journal" or "journal ID"; -ENOENT: there is no journal (REPAIR and
 * CHECK); other -errno.
 * `*ret_why` (if not NULL) is set to a sentence for people, valid until the calling thread's next call of this
 * module, for any failure of this and of journal_log_open. Main thread. */
int journal_open(const struct journal_opts *opts, struct journal **ret, const char **ret_why);
/* Its name, given at random when it was created: JOURNAL_ID_BYTES. Any thread. */
const uint8_t *journal_id(const struct journal *j);
/* Whether the last journal before this opening that was used was closed with journal_close and
 * without a failure (true for a new one). One that was opened and closed without journal_start, as
 * by a start that failed, was not used. */
bool journal_was_clean(const struct journal *j);
/* A number of this run of the machine, never 0. What was written and not synced in another run may
 * be gone. Any thread. */
uint64_t journal_boot(const struct journal *j);
/* Calls `each` for every log in the directory, opened or not, in any order. Non-zero stops the walk with that value.
 * Any thread. */
int journal_each_log(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx);
/* The same for every log that the manifest names and that has no folder any more: nobody but an operator may take one
 * away, so whoever opens all logs looks here first. `each` must not call the journal. Any thread. */
int journal_each_missing(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx);

struct jrecord {
	uint32_t type;       /* the appender's */
	uint64_t mark;       /* the appender's */
	struct span payload; /* valid during the callback */
	/* Position, for jlog_read: segment number << 32 | byte in the file. Rises with the order of records. */
	uint64_t where;
};

enum jlog_durability {
	JLOG_FSYNC, /* marks are published after the sync */
	JLOG_WRITE, /* marks are published after the write: a kill loses nothing, a power cut may lose the end */
};

/* Part of a log's state: see journal_trim. A state is one record (both) or several. */
enum jstate { JSTATE_NONE = 0, JSTATE_FIRST = 1, JSTATE_LAST = 2 };

/* A record to append: its payload is `head` followed by `body` (either may be empty), together at
 * most jlog_record_max bytes. */
struct jappend {
	struct jlog *log;
	uint32_t type;
	/* At or above every mark given before for this log. Equal marks are taken for one: a record
	 * is known to be durable only when the last record with its mark is, so give rising marks
	 * where each answer waits for its own. */
	uint64_t mark;
	struct span head, body;
	uint64_t *where; /* NULL, or set to the record's position before its mark is published */
	unsigned state;  /* JSTATE_FIRST, JSTATE_LAST */
	bool owned;      /* body.p is malloc'd, and the journal's from here on: it frees it */
};

struct jlog_opts {
	const char *name; /* a file-name-safe name of 1 to 200 bytes: [A-Za-z0-9._-]+, not beginning with a dot */
	/* Size of each segment file, JOURNAL_SEGMENT_MIN to _MAX, rounded up to 4096. Records never cross segments:
	 * see jlog_record_max. Disk space is taken (zero-filled) up to 4 MiB at a time ahead of the end. May differ
	 * from the last opening's. */
	uint32_t segment_bytes;
	/* Called for each record in order while the log is opened. Non-zero stops the opening with
	 * that value. Records in segments that a trim has dropped are never shown, whether their
	 * files are still there or not. */
	int (*replay)(void *ctx, const struct jrecord *rec);
	/* NULL, or called after the replay, before anybody else sees the log. 0: nothing is to be
	 * done; 1: *ret (its type, mark and bytes) is appended, and `opened` is called again; all is
	 * durable when journal_log_open returns; -errno stops the opening. `mark` is the last one:
	 * a log whose records a trim has all dropped still knows it. */
	int (*opened)(void *ctx, uint64_t mark, struct jappend *ret);
	void *ctx;
	enum jlog_durability durability;
	/* There are many logs like this one, and most stay small: disk space is taken in small pieces at first. */
	bool small;
};

/* Opens or creates a log, replaying what it holds. -EBADMSG: damage before the last durable record; the why names
 * file and byte offset, and nothing was changed. -ENOTSUP: a newer version has written it. -ENOENT: the manifest says that the log must be there, and its folder
 * or all of its segments are gone; the why names the folder. -EEXIST: it is open already. Any thread, at any time between journal_open and journal_close
 * (openers take turns under a lock that nobody else takes); it reads and syncs files, so not a shard's. The caller
 * hands the log to its one appending thread. */
int journal_log_open(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, const char **ret_why);

/* Takes a log out of the journal that is not open; its files are unlinked. One that has no folder any more is forgotten:
 * that is how an operator accepts its loss. When it returns 0 the log is gone for good, and its name may be used for
 * a new one; a crash before leaves it gone, or whole. 0; -EBUSY it is open; other -errno. Any thread. */
int journal_log_remove(struct journal *j, const char *name, const char **ret_why);
/* The same, but its folder is kept: it is renamed to DIR/.quarantine/NAME-STAMP, whose path is written to ret_path ("":
 * there was no folder). Put back under its name, it is a log again. */
int journal_log_set_aside(struct journal *j, const char *name, const char *stamp, char *ret_path, size_t cap,
			  const char **ret_why);

/* Puts a new log in the place of one that is lost or damaged. What is left of the old one is set aside (ret_path as above).
 * The new one holds what opts->opened gives. A crash before it returns 0 leaves the log refused (-ENOENT) until this
 * is called again. JOURNAL_REPAIR. -EBUSY: it is open. Main thread. */
int journal_log_replace(struct journal *j, const struct jlog_opts *opts, const char *stamp, char *ret_path, size_t cap,
			struct jlog **ret, const char **ret_why);
/* Calls `each` for every record that is still whole in the segments of a log, whatever is damaged or missing around it, and
 * in those of logs of this name that were set aside; in no useful order, and records that were trimmed as well. For what
 * can be known of a log that does not open. Non-zero from `each` ends it with that value. Any thread. */
int journal_log_salvage(struct journal *j, const char *name, int (*each)(void *ctx, const struct jrecord *rec),
			void *ctx, const char **ret_why);

/* A way in for one appending thread. `bell` is rung (if its owner sleeps) whenever a mark of a log that this port
 * appended to since the last ring has been published, and when the journal has failed. At least `depth` requests
 * fit. Any thread, as journal_log_open. -ENOSPC: JOURNAL_PORTS_MAX. Freed by journal_close. */
int journal_port_new(struct journal *j, struct doorbell *bell, uint32_t depth, struct journal_port **ret);

/* Starts the thread. Main thread. 0 or -errno. */
int journal_start(struct journal *j);
/* Pins the thread, after journal_start. 0 or -errno, and it runs as before. Main thread. */
int journal_pin(struct journal *j, int cpu);

/* Queues a record. One log has one appending port at a time. head, body and *where must stay (and
 * the bytes unchanged) until jlog_durable(log) >= mark (or until the journal has failed or
 * stopped); a record with an equal mark may make that true too early, so where marks do not rise
 * the body is `owned` and there is no head and no where. false: the port is full (an owned body is
 * still the caller's), try again after the bell; or never, when journal_has_failed. Port owner's
 * thread. */
bool journal_appendv(struct journal_port *p, const struct jappend *a);
static inline bool journal_append(struct journal_port *p, struct jlog *log, uint32_t type, uint64_t mark,
				  const void *payload, uint32_t len)
{
	return journal_appendv(
		p, &(struct jappend){.log = log, .type = type, .mark = mark, .body = {(const uint8_t *)payload, len}});
}

/* Records with a mark below `mark` are no longer needed: whole segments of such are recycled,
 * except the newest, and except what the log's state needs. The state is what the owner has to find
 * again when everything before it is gone (next offsets, positions of sequences): one or several
 * records, appended through this port since the log was opened and before this call, the first of
 * them with JSTATE_FIRST and the last with JSTATE_LAST. Everything from the first record of the
 * newest whole state on stays, whatever segments begin in between. A state that is being appended
 * does not count before its last record. A trim without a state is a bug of the caller and ends the
 * process. false: port full. Port owner's thread. */
bool journal_trim(struct journal_port *p, struct jlog *log, uint64_t mark);
/* Requests in the port that the journal has not taken yet. Port owner's thread. */
uint32_t journal_port_waiting(const struct journal_port *p);

/* Every record up to this mark is durable. Any thread; acquire. 0 before the first. After opening: the last
 * recovered mark. */
uint64_t jlog_durable(const struct jlog *log);
/* Bytes in the log's live segments. Any thread. */
uint64_t jlog_bytes(const struct jlog *log);

enum jlog_state {
	JLOG_WELL,
	/* Its folder or its active file has been deleted, moved away or cut short by hand: what is written now could not
	 * be found again. Nothing is written or published of it any more, what is appended is dropped; other logs go
	 * on. */
	JLOG_LOST,
};
/* Any thread; acquire. The bell of a port rings when a log of it that it has appended to becomes lost. */
enum jlog_state jlog_state(const struct jlog *log);
/* Why it is lost; "" when it is not. Any thread; valid as long as the log. */
const char *jlog_why(const struct jlog *log);
/* The largest payload of one record. Any thread. */
uint32_t jlog_record_max(const struct jlog *log);
const char *jlog_name(const struct jlog *log);

/* Reading back. Any thread; these take the log's own lock for moments, which the journal thread takes once a group. */

/* Reads the first record at or after `where` (0: the oldest) into buf: ret->payload lies in buf. *ret_next (if not
 * NULL) is where the record after it begins. Only what is durable is read. 0; -ENODATA: nothing there yet; -ENOENT:
 * trimmed; -EMSGSIZE: the payload has ret->payload.n bytes, more than cap; -EINVAL: not a place where records can
 * begin; -EBADMSG: damaged (or no position that was ever given out), *ret_why names file and byte; other -errno. */
int jlog_read(struct jlog *log, uint64_t where, void *buf, size_t cap, struct jrecord *ret, uint64_t *ret_next,
	      const char **ret_why);

struct jsegment {
	uint64_t first_mark, last_mark; /* of its records; first > last: it has none yet */
	uint64_t begin, end; /* positions: of its first record (for jlog_read), and just after its last durable one */
	int64_t created_ns;  /* wall clock, when its first record was written */
	bool active;         /* the newest, still being written; a trim never drops it */
};
/* Fills `ret` with up to `cap` segments, oldest first, and returns how many there are. For retention by bytes, age
 * or count: trim at the first_mark of the oldest segment to keep. */
uint32_t jlog_segments(struct jlog *log, struct jsegment *ret, uint32_t cap);

/* The file that holds a position, for reading by other means (a ring). While it is held it is neither recycled nor
 * closed, even when it is trimmed; and it takes one of journal_opts.files_max. -ENOENT: trimmed; -ENODATA: beyond the
 * end; -EMFILE: as many are held as there may be; -errno of open. */
struct jlog_file {
	int fd; /* read-only; with a simulated disk the disk's handle */
	uint64_t segment;
	void *handle;        /* the journal's own */
	uint32_t begin, end; /* bytes of the file that hold durable records now */
};
int jlog_file_get(struct jlog *log, uint64_t where, struct jlog_file *ret, const char **ret_why);
void jlog_file_put(struct jlog *log, const struct jlog_file *f);
/* Reads up to n bytes of a held file at byte `offset`; fewer only at its end. A count, or -errno with *ret_why. */
ssize_t jlog_file_read(struct jlog *log, const struct jlog_file *f, void *buf, size_t n, uint32_t offset,
		       const char **ret_why);
/* Looks at n bytes read from a file at `where`. 0: a record, *ret_size bytes of the file; JLOG_E_SKIP: *ret_size
 * bytes of the journal's own; -ENODATA: *ret_size bytes are needed to tell; -EBADMSG: damaged. */
#define JLOG_E_SKIP 1
int jlog_parse(struct jlog *log, uint64_t where, struct span bytes, struct jrecord *ret, size_t *ret_size);

/* The same with the record's first bytes alone (JLOG_HEADER of them are enough), so its payload is not checked: ret->payload has its length
 * but no bytes; it is JLOG_HEADER bytes behind `where`. */
#define JLOG_HEADER 48u
int jlog_parse_header(struct jlog *log, uint64_t where, struct span bytes, struct jrecord *ret, size_t *ret_size);

/* True once a write that an acknowledgement needs has failed, or any sync of any thread. Any thread; acquire. */
bool journal_has_failed(const struct journal *j);
/* Any thread. */
enum journal_room journal_room(const struct journal *j);

/* Stops: all that was appended becomes durable first (unless failed), each log's end is noted, the lock is let go.
 * 0, or the -errno of the failure. Main thread, after all port owners have stopped appending. Also frees, logs and
 * ports as well (with or without journal_start before). */
int journal_close(struct journal *j);

/* For stats; each is written by the journal thread (`segments` by openers too), read anywhere. */
struct journal_stats {
	uint64_t records, bytes, groups, syncs; /* since start; bytes of payloads */
	uint64_t segments;                      /* live, in all open logs */
	uint64_t files_closed;       /* files of logs that were closed since start, because others had to be opened */
	uint64_t prepared, recycled; /* segment files made ready since start, and how many of them were used before */
	struct hist sync_ns, group_records;
	/* how groups are made durable on this disk, chosen at start: "fdatasync", "dsync", "direct" */
	const char *method;
};
const struct journal_stats *journal_stats(const struct journal *j);

#endif
