/* What the journal's own files share; nobody else includes this but their tests. journal.md beside this file draws how
 * they fit.
 *
 *   journal.c          open and close, superblock, ports, the thread
 *   journal_group.c    a group: gather, write, sync, publish
 *   journal_segment.c  a log's files: make ready, fill, roll, drop
 *   journal_files.c    which of them are open
 *   journal_lost.c     logs whose files are not where they were
 *   journal_recover.c  opening a log: scan, tell a torn tail from damage, cut
 *   journal_read.c     readers' side
 *   journal_manifest.c which logs must be there;  journal_remove.c  taking one out
 *   journal_salvage.c  what can be read of one that does not open
 *   journal_probe.c    which way to durability is fastest here
 *   journal_format.c   bytes;  journal_disk.c  the file system
 */
#ifndef ORDINAL_CORE_JOURNAL_INTERNAL_H
#define ORDINAL_CORE_JOURNAL_INTERNAL_H

#include "core/base/spsc.h"
#include "core/journal.h"
#include "core/journal_disk.h"
#include "core/journal_format.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#define JLOG_NAME_MAX 200
#define JPATH_MAX (JLOG_NAME_MAX + 32)
#define JLOG_SPARES 2u /* files kept for recycling, a log */
#define JFILES_MIN 6u  /* descriptors for open files: at the least; and where the opener does not say */
#define JFILES_DEFAULT 256u
#define JLOG_FILL_MIN (256u << 10) /* zero-filled at a time, at first; doubled with the file's size up to the maximum */
#define JLOG_FILL_SMALL (16u << 10) /* the same for the first segment of a log that may stay small */
#define JLOG_FILL_MAX (4u << 20)
#define JGROUP_RECORDS_MAX 16384u
#define JLOG_BEGIN_BYTES (JF_RECORD_HEADER + JF_BEGIN_PAYLOAD)
#define JLOG_TRIM_BYTES (JF_RECORD_HEADER + JF_TRIM_PAYLOAD)

enum jop { JOP_APPEND, JOP_TRIM };

/* What travels through a port. */
struct jrequest {
	struct jlog *log;
	uint8_t op;    /* enum jop */
	uint8_t state; /* enum jstate */
	bool owned;    /* body.p is to be freed */
	uint32_t type;
	uint64_t mark;
	struct span head, body;
	uint64_t *where;
};

/* A request in the present group, in its log's order. */
struct jentry {
	struct jrequest req;
	struct jentry *next;
};

struct journal_port {
	struct spsc q;
	struct doorbell *bell;
	bool touched; /* journal thread: has a request in the present group */
};

/* One live segment, as readers see it: under jlog.lock, all of it. */
struct jseg {
	uint64_t number;
	uint64_t first_mark, last_mark;
	int64_t created_ns;
	uint32_t end; /* bytes; durable */
	uint32_t refs;
	struct jseg *gone_next; /* trimmed, and kept for those who hold it */
	struct jfile *file;     /* open for reading: under jfiles.lock; NULL: not open */
};

/* A place for a file that is open for reading. */
struct jfile {
	int fd; /* -1: free */
	uint32_t users;
	struct jseg *seg;
	TAILQ_ENTRY(jfile) lru; /* in `idle`, without users */
};

struct jfiles {
	/* The journal thread's (or whoever stands in for it). */
	TAILQ_HEAD(jfiles_written, jlog) written; /* logs whose active file is open, the one used last first */
	uint32_t written_now, written_max;        /* descriptors */
	/* Under the lock, which comes after a log's own. */
	pthread_mutex_t lock;
	struct jfile *read;
	TAILQ_HEAD(jfiles_idle, jfile) idle; /* to be closed, the first one first; free ones are in front */
};

struct jlog {
	struct journal *j;
	uint32_t salt, segment_bytes, epoch;
	bool must_exist; /* the manifest names it */
	uint32_t birth;  /* no segment of it has a lower epoch */
	enum jlog_durability durability;
	bool direct; /* groups go through dfd */
	bool small;  /* jlog_opts.small */

	_Alignas(CACHE_LINE) atomic_uint_fast64_t durable; /* mark; release by jlog_publish, acquire by jlog_durable */
	atomic_uint_fast64_t bytes;
	atomic_int state; /* enum jlog_state; the journal thread's; release, pairs with jlog_state */
	char *why;        /* of the state; NULL: none, or no memory for it */

	/* The opener's until the first request arrives, the journal thread's from then on, the closer's at the end. */
	_Alignas(CACHE_LINE) int wfd; /* the active segment; -1: not open now, see jfiles_open_log */
	int dfd;                      /* the same, O_DIRECT | O_DSYNC; -1 when not open, or not direct */
	TAILQ_ENTRY(jlog) written;    /* in jfiles.written, while wfd is open */
	uint64_t number;              /* of the active segment */
	uint32_t tail;                /* next byte to write in it */
	uint32_t filled;              /* its bytes below this are written, synced and in the file's size */
	uint32_t next_filled;         /* of the segment that was prepared last */
	struct jd_id file, next_file; /* the active segment's; of the segment that was prepared last */
	uint64_t seq, synced_seq;     /* of the last record written; of the last one synced */
	uint64_t noted_seq;           /* of the last note on disk */
	uint64_t last_mark;
	uint64_t first_mark; /* of the active segment; UINT64_MAX: it has no record of a user's */
	int64_t begin_ns;    /* created_ns of the active segment */
	uint64_t first_live; /* segment number */
	/* segment with the first record of the newest whole state; 0: none since the opening */
	uint64_t state_at;
	uint64_t state_begun;         /* the same of the state that is being appended */
	uint64_t unsealed;            /* number of a segment that jlog_seal has not noted yet; 0: none */
	uint64_t unsealed_seq;        /* of the first record of the segment after it */
	uint64_t dropped;             /* segments below this one are dropped as files, too; follows first_live */
	bool next_ready;              /* number + 1 is there, with its header, synced with its name */
	bool note_unsynced;           /* a note was written, and the file not synced since */
	bool next_named;              /* number + 1 is there with its header; its name is not synced yet */
	uint64_t retiring;            /* segment that is dropped, and whose file is still there; 0: none */
	bool retiring_held;           /* somebody reads that file */
	bool try_now;                 /* in_later, yet there may be room now */
	bool spares_unsynced;         /* renames to spare names that the directory's sync has not covered */
	uint64_t spares[JLOG_SPARES]; /* numbers of the spare files in the folder, each once */
	unsigned nspares;
	uint8_t *tail_block; /* direct: the JF_BLOCK bytes around tail, as on disk; NULL while dfd is not open */
	struct jentry *group_first, **group_last;
	struct jlog *group_next;   /* list of the logs in this group */
	struct jlog *work_next;    /* list of the logs that may need looking after */
	struct jlog *unnoted_next; /* list of the logs that are durable beyond their note */
	struct jlog *later_next;   /* list of the logs whose work ahead of need wanted room */
	bool in_group, in_work, in_unnoted, in_later;

	pthread_mutex_t lock;
	struct jseg **segs; /* oldest first, numbers without gaps; the last one is active */
	uint32_t nsegs, segs_cap;
	struct jseg *gone;
	struct jlog *opened_next; /* journal.opened, under journal.open_lock */
	char name[];
};

/* Room for one log's part of a group. Made by openers, large enough for the largest record of the logs so far. */
struct jbuf {
	size_t cap;
	uint8_t *p; /* aligned to JF_BLOCK */
};

/* Which logs must be there; see journal_manifest.c. Under journal.open_lock. */
struct jmanifest {
	void *root; /* a search tree of the entries, by name */
	uint64_t count;
	int failed; /* 0, or the error after which nothing is written into it any more */
	uint64_t generation, records;
	size_t tail, filled; /* bytes: of header and records; of the file */
};

#define JLOG_BIRTH_NONE UINT32_MAX /* an entry of a log that is being replaced */

struct journal {
	struct journal_opts opts;
	struct jmanifest manifest;
	unsigned strangers; /* segments that are not their log's: under open_lock */
	bool replacing;     /* journal_log_replace is making the log anew: under open_lock */
	struct journal_disk disk, own_disk;
	int lock_fd;
	enum journal_method method;
	bool was_clean, started;
	/* It has turned: its close is a clean stop. One that was opened and closed alone leaves it
	 * at what the stop before was. */
	bool used;
	uint64_t boot; /* journal_boot */

	pthread_mutex_t open_lock; /* openers only: super, opened, ports' growth */
	struct jf_super super;
	struct jlog *opened;
	size_t buf_cap;               /* of the largest jbuf made */
	_Atomic(struct jbuf *) grown; /* a larger one, for the journal thread to take: openers' release, its acquire */
	struct journal_port *ports[JOURNAL_PORTS_MAX];
	atomic_uint nports; /* release by journal_port_new, acquire by the gatherer */

	struct jfiles files;

	atomic_int failed; /* 0 or -errno; release by journal_fail */
	atomic_int room;   /* enum journal_room; the journal thread's */
	atomic_bool stop;
	struct doorbell bell; /* the journal thread sleeps on it */
	pthread_t thread;

	/* Journal thread. */
	struct jio io;
	unsigned first_port; /* fairness: where the next gathering begins */
	struct jentry *entries;
	uint32_t nentries;
	struct jlog *group;
	struct jlog *work, *unnoted;
	struct jlog *later, **later_last;
	uint64_t later_ns;      /* the first of `later` waits until then */
	uint64_t note_retry_ns; /* notes wait until then; 0: none has failed */
	struct jbuf *buf;       /* what is written next */
	size_t buf_len;
	size_t buf_fresh; /* bytes of it that are not on disk yet */
	uint32_t buf_at;  /* place of buf[0] in the file */
	struct journal_stats stats;
};

/* ---- journal.c ---- */

/* One turn of the thread: gathers a group and makes it durable, else looks after one log. *ret_worked: whether there
 * was anything. 0, or -errno after journal_fail. Whoever runs the journal: its thread, journal_close, or a test that
 * has not started the thread. */
int journal_turn(struct journal *j, bool *ret_worked);
/* Notes how far each log that needs it is durable. 0 or -errno after journal_fail. As journal_turn. */
int journal_note_idle(struct journal *j);
/* The first failure counts: tells opts.failed and everybody who waits. Any thread; returns err. */
int journal_fail(struct journal *j, int err, const char *what);
/* Raises the journal's epoch above `seen`, durably. Under open_lock. */
int journal_raise_epoch(struct journal *j, struct jio *io, uint32_t seen);
/* Writes the superblock as it is in memory, synced. As journal_raise_epoch. */
int journal_write_super(struct journal *j, struct jio *io);
/* As journal_log_open, under open_lock. */
int journal_open_log(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, struct jio *io);
bool jlog_name_is_valid(const char *name);
/* Whether it is journal_opts.first_log. */
bool jlog_is_first(const struct jlog *log);
/* The calling thread's sentence for `ret_why`. */
const char *journal_say(const struct jio *io);

static inline void journal_count(uint64_t *p, int64_t n)
{
	__atomic_fetch_add(p, (uint64_t)n, __ATOMIC_RELAXED);
}

/* ---- journal_group.c ---- */

void jbuf_free(struct jbuf *b);
/* Frees the body that the journal owns, once it is in the buffer or will never be. */
void jrequest_done(struct jrequest *req);

/* Takes up to a group from the ports. False: there was nothing. */
bool journal_gather(struct journal *j);
/* Writes, syncs and publishes it. 0 or -errno with j->io.why set. */
int journal_commit(struct journal *j);
/* Writes a record at the log's tail into p, which has room for jf_record_size(rec->len) bytes. */
void jlog_encode(struct jlog *log, uint8_t *p, struct jf_record *rec, struct span head, struct span body);
/* The first record of a segment, likewise. */
void jlog_encode_begin(struct jlog *log, uint8_t *p);

/* ---- journal_segment.c ---- */

void jlog_segment_path(const struct jlog *log, uint64_t number, char path[JPATH_MAX]);
void jlog_spare_path(const struct jlog *log, uint64_t number, char path[JPATH_MAX]);
/* Makes sure that the active segment is filled up to `to` at least. */
int jlog_fill_to(struct jlog *log, struct jio *io, uint32_t to);
/* Makes segment `number` ready under its name: a spare or a new file, filled, header written, all synced. */
int jlog_prepare(struct jlog *log, struct jio *io, uint64_t number);
/* The same of its file, opened by the caller. */
int jlog_fill(struct jlog *log, struct jio *io, int fd, uint32_t to);
/* Goes on to the next segment (preparing it if need be). All of the present one must be written. */
int jlog_roll(struct jlog *log, struct jio *io);
/* The last step of it: the next segment is ready, and the log has no file open. */
int jlog_next(struct jlog *log, struct jio *io);
/* Makes a numbered file a spare, or unlinks it when there are enough. */
int jlog_retire(struct jlog *log, struct jio *io, uint64_t number, bool recycle);
/* One step of what can be done ahead of need: drop a trimmed segment, fill ahead, prepare the next. */
int jlog_maintain(struct jlog *log, struct jio *io, bool *ret_worked);
/* Syncs what is written and not synced, in JLOG_WRITE too. */
int jlog_sync(struct jlog *log, struct jio *io);
/* Writes the note into the active segment; no sync. put: through this descriptor, whether there is something new or not. */
int jlog_put_note(struct jlog *log, struct jio *io, int fd);
int jlog_note(struct jlog *log, struct jio *io);
/* The clean end: everything is synced, and so is a note that says so. */
int jlog_end(struct jlog *log, struct jio *io);
/* Notes in the segment before the active one, durably, that the log goes on behind it, once that is
 * so. */
int jlog_seal(struct jlog *log, struct jio *io);

/* ---- journal_files.c ---- */

/* `max`: journal_opts.files_max. 0 or -ENOMEM. Done is harmless on a zero-filled one. */
int jfiles_init(struct jfiles *f, uint32_t max);
void jfiles_done(struct jfiles *f);
/* Opens a file for a moment, or syncs a directory: where no descriptor is left, the journal's own thread closes a log's file that was used long ago. As
 * jio_open and jio_sync_dir. */
int jfiles_open(struct journal *j, struct jio *io, const char *path, unsigned flags);
int jfiles_sync_dir(struct journal *j, struct jio *io, const char *path);
/* The log's active file: open when this returns 0, and until another log's is opened. Before each use of wfd or dfd. */
int jfiles_open_log(struct jlog *log, struct jio *io);
/* Closes it. It has nothing unsynced, or nobody relies on it any more. */
void jfiles_close_log(struct jlog *log, struct jio *io);
/* A segment's file for reading, opened if need be: a descriptor that stays open until jfiles_put. The caller holds the segment. Any thread. */
int jfiles_get(struct jlog *log, struct jseg *seg, struct jio *io);
void jfiles_put(struct jlog *log, struct jseg *seg);
/* Before a segment that nobody holds is freed or dropped. */
void jfiles_forget(struct jlog *log, struct jseg *seg);

/* ---- journal_lost.c ---- */

/* Whether the active segment's file is where it has to be, with all its bytes. 0; JLOG_E_LOST: it is not, and the log has
 * become lost; -errno. */
int jlog_verify(struct jlog *log, struct jio *io);
/* The same of the active segment's open file, and of its bytes alone. */
int jlog_verify_length(struct jlog *log, struct jio *io);
/* After something that was done to a log's files has failed with `err`, io->why saying what: JLOG_E_LOST if that was for
 * the files' not being there, and the log has become lost; else err. */
int jlog_blame(struct jlog *log, struct jio *io, int err);
#define JLOG_E_LOST 2
static inline bool jlog_is_lost(const struct jlog *log)
{
	return atomic_load_explicit(&log->state, memory_order_relaxed) == JLOG_LOST;
}

/* ---- journal_read.c ---- */

/* Adds a segment at the end of the list. 0 or -ENOMEM. */
int jlog_seg_add(struct jlog *log, const struct jseg *seg);
/* Publishes the state of the newest segment in the list, and the log's bytes. */
void jlog_seg_update(struct jlog *log, uint64_t first_mark, uint64_t last_mark, int64_t created_ns, uint32_t end);
/* Takes the oldest out of the list, if its number is below `first_live`. False: there is none such. *ret_held:
 * somebody reads it. */
bool jlog_seg_drop(struct jlog *log, uint64_t first_live, uint64_t *ret_number, bool *ret_held);
/* The lowest segment number whose last mark is at or above `mark`; the newest at the latest. */
uint64_t jlog_seg_first_above(struct jlog *log, uint64_t mark);
void jlog_seg_free_all(struct jlog *log);

/* ---- journal_recover.c ---- */

/* Fills in a new log from its directory, replaying; makes it and enters it in the manifest if it is new. log->j, name,
 * salt, segment_bytes, durability, epoch, must_exist, birth are set. 0, what replay returned, or -errno with io->why set. Under open_lock. */
int jlog_recover(struct jlog *log, struct jio *io, const struct jlog_opts *opts);

/* Whether it is the name of a segment's file: its number, not 0, as 16 hexadecimal digits. */
bool jlog_parse_number(const char *name, uint64_t *ret);

/* ---- journal_manifest.c: under open_lock; 0 or -errno with io->why set ---- */

/* Reads it, or makes one for a directory that has none. The superblock has been read; it is written afterwards. */
int manifest_open(struct journal *j, struct jio *io);
void manifest_done(struct journal *j);
/* Whether the log is in it, with its birth. */
bool manifest_has(const struct journal *j, const char *name, uint32_t *ret_birth);
/* Whether the log of this name is open; and notes that one is. What is not in the manifest is not open. */
bool manifest_is_open(const struct journal *j, const char *name);
void manifest_set_open(struct journal *j, const char *name);
/* Durable when they return 0. Nothing is done for a log that is in it already with this birth, or is not in it. */
int manifest_add(struct journal *j, struct jio *io, const char *name, uint32_t birth);
int manifest_remove(struct journal *j, struct jio *io, const char *name);
/* Every entry; those whose folder is not there. Non-zero from `each` ends the walk with that value. */
int manifest_each(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx);
int manifest_each_missing(struct journal *j, struct jio *io, int (*each)(void *ctx, const char *name), void *ctx);

/* ---- journal_remove.c ---- */

#define QUARANTINE_DIR ".quarantine"

/* Unlinks what is left of logs that were removed. */
void journal_sweep_removed(struct journal *j);

/* ---- journal_probe.c ---- */

/* Chooses how to sync, in at most 50 ms on a disk that answers. 0 or -errno. */
int journal_probe(struct jio *io, enum journal_method *ret);
const char *journal_method_name(enum journal_method m);

#endif
