/* Streams of frames: kept, ordered, replayed. One shard's view of all of them, as queue/ids.h is for IDs.
 *
 *   shard B                         shard A, the stream's owner                 journal thread
 *   streams_publish ---- inbox ---> append: encode once into memory --- port --> one record per stream and turn
 *                                                  |                                    |
 *   ops->published <---- inbox ---- acknowledge, publish the edge <------- bell ------- synced
 *   ops->ready     <---- inbox ----    "durable up to"
 *   stream_cursor_next: slices of the owner's memory, or (through the reader thread) of the segment files
 *
 * A stream is owned by one shard (by a hash of its name): only that shard's thread appends to it, keeps its index and plans replays. A
 * frame is kept as the bytes that subscribers receive (queue/frame.h), so a slice goes to a socket as it is. Positions count bytes of
 * the stream since its beginning, with holes; offsets are dense from 1.
 *
 * Invariants: a frame is seen by nobody before it is as durable as its stream promises. A cursor gives history in rising (seq_no, timestamp,
 * offset), then CAUGHT_UP, then later frames by offset: none missed, none twice. What retention has dropped is named by a GAP.
 * After the journal has failed nothing more is acknowledged, and no cursor gives anything newer than what was durable before.
 *
 * Everything with a view or a cursor is called on that view's shard thread, and calls back there, from streams_view_turn only.
 * Nothing here blocks; disk is read and logs are opened by two threads of this module.
 */
#ifndef ORDINAL_QUEUE_STREAM_H
#define ORDINAL_QUEUE_STREAM_H

#include "core/base/bytes.h"
#include "core/base/doorbell.h"
#include "core/journal.h"
#include "queue/frame.h"

#include <stdbool.h>
#include <stdint.h>

#define STREAM_NAME_MAX 64      /* bytes; of the logs' format, as is the next */
#define STREAM_PUBLISHER_MAX 64 /* bytes of a publisher's id */
#define STREAM_SHARDS_MAX 128
#define STREAM_UNIT (256u << 10) /* bytes: of a chunk of memory, and of the longest slice (but for a larger frame) */

struct streams;      /* all of them */
struct stream;       /* one */
struct streams_view; /* one shard's side */

/* Numbers as ordinal.v1.Durability. */
enum stream_durability { STREAM_FSYNC, STREAM_WRITE, STREAM_MEMORY };

struct streams_opts {
	unsigned shards;
	enum stream_durability durability;
	/* Exceptions by name: "ticks.*=memory,logs=write". A pattern is a name, or the beginning of names followed by '*'; the longest that
	 * matches holds, a full name before a pattern. NULL or "": none. */
	const char *durability_rules;
	uint32_t streams_max;
	bool create;            /* streams are made on first use */
	uint32_t segment_bytes; /* of each segment file */
	uint64_t memory_bytes;  /* of each stream's tail in memory, not counting what readers hold */
	/* Retention; 0: none. Whole segments go, the newest never does. A stream kept in memory only keeps memory_bytes. */
	uint64_t retain_bytes, retain_frames;
	uint32_t retain_seconds;
	uint32_t payload_max; /* bytes; also bounded by segment_bytes */
	/* Remembered for repeats, each at least 1: of each stream the publishers that were used last, of each publisher its latest numbers. In memory
	 * only, found again from the frames: may be others at each opening. */
	uint32_t publishers_max, numbers_max;
	uint64_t
		held_max; /* bytes of publishes that wait on one shard for another one, for memory, or for a stream being made */
	uint64_t read_max; /* bytes, on one shard, of what cursors have read from disk or merged; 0: no bound */
};

/* Opens every stream in the journal, replaying its log: with a line in the log now and then. A stream whose log is damaged
 * is there, and refuses everything with STREAM_E_DAMAGED; see stream_damage. One whose log is missing refuses the opening
 * (-ENOENT), and so does every other error, with a sentence in *ret_why (valid until the thread's next call here or of
 * core/journal.h). The journal must not have been started. Main thread. */
int streams_open(const struct streams_opts *opts, struct journal *j, struct streams **ret, const char **ret_why);
/* 0, or -EINVAL: what is wrong with durability_rules, in *ret_why. Any thread. */
int streams_rules_check(const char *rules, const char **ret_why);
/* For a tool that looks at a journal or mends it: one stream's log, as it is. */
struct stream_check {
	const char *log;                /* its log's name in the journal */
	char name[STREAM_NAME_MAX + 1]; /* "": the default stream; or no stream is called like that, with -EINVAL */
	/* 0; -EBADMSG: damaged; -ENOENT: the manifest names it and it is not there; -EINVAL; other -errno: not readable.
	 * `why` is then a sentence. */
	int err;
	const char *why;
	uint64_t frames, first_offset, last_offset, bytes;
};
/* Reads every stream's log whole, one after another, in a journal of JOURNAL_CHECK, with all checks that an opening makes.
 * 0, or -errno when there is no going on. Main thread. */
int streams_check(struct journal *j, void (*each)(void *ctx, const struct stream_check *c), void *ctx,
		  const char **ret_why);
/* Writes the name of the log that `operand` stands for: a stream's name, or the log's own. False: no stream can be called
 * like that. Any thread. */
bool stream_log_of(const char *operand, char ret_log[208]);
/* What an operator writes for the stream of this log; see stream_log_of. Any thread. */
const char *stream_operand(const char *log);

/* Starts the two threads. Main thread, 0 or -errno. */
int streams_start(struct streams *ss);
/* Ends them. After all shards have ended. Main thread. */
void streams_stop(struct streams *ss);
/* After streams_stop, journal_close (which may still read what was appended) and streams_view_free of every view. */
void streams_free(struct streams *ss);

/* `bell` is the shard's doorbell; its memory must stay until after journal_close, which may ring it. One view a shard. NULL: no memory, or
 * no port. Shard thread; freed by the main thread after streams_stop.
 * A view's thread must go on turning as long as any shard has publishes or cursors: it may own their streams. */
struct streams_view *streams_view_new(struct streams *ss, unsigned shard, struct doorbell *bell);
void streams_view_free(struct streams_view *v);

struct stream_answer {
	uint64_t offset;
	int64_t timestamp; /* the frame's; the server's clock when it was sent as 0 */
	enum stream_durability durability;
	/* this publisher's number was there before: the answer is the first one's */
	bool duplicate;
	uint64_t incarnation; /* the stream's */
};

enum stream_error {
	STREAM_E_OK,
	STREAM_E_NAME,      /* not UTF-8, control characters, or too long */
	STREAM_E_UNKNOWN,   /* no such stream, and creation is off */
	STREAM_E_ABSENT,    /* no such stream, and who asked may not make one (stream_start.only_existing) */
	STREAM_E_LIMIT,     /* streams_max */
	STREAM_E_OPEN,      /* it could not be created (the daemon's log says why) */
	STREAM_E_PAYLOAD,   /* too large */
	STREAM_E_PUBLISHER, /* the publisher's id is too long or not UTF-8, or a number without an id */
	STREAM_E_STALE,     /* the number is older than the numbers remembered: whether it is a repeat is not known */
	STREAM_E_BUSY,      /* held_max, or no memory: try again later */
	STREAM_E_FAILED,    /* the journal has failed: whether the frame is kept is not known */
	/* Cursors: what the disk gave is not what was written; stream_cursor_why names file and byte. Publishes: the stream takes no frames any more,
	 * see stream_damage. */
	STREAM_E_DAMAGED,
	/* cursors: the stream is in another one than stream_start.incarnation */
	STREAM_E_INCARNATION,
	STREAM_E_BEYOND,    /* cursors: stream_start.offset is beyond the end of the stream */
	STREAM_E_OVERTAKEN, /* cursors: retention has dropped a frame of which the subscriber has a part */
};
/* A sentence for people, in buf. Any thread. */
const char *stream_error_text(const struct streams *ss, enum stream_error e, char *buf, size_t cap);
/* The same of a refusal by this stream, which may be NULL: names it where the stream is what is wrong. */
const char *stream_refusal_text(const struct streams *ss, enum stream_error e, const struct stream *s, char *buf,
				size_t cap);
/* NULL, or why the stream takes no frames any more: what it is kept in has been deleted or moved away, or is damaged. What
 * can still be read of it is given to cursors, which then end with STREAM_E_DAMAGED; of one that was damaged when it was
 * opened nothing is, and no cursor opens. Any thread; valid as long as the streams. */
const char *stream_damage(const struct stream *s);

struct streams_view_ops {
	/* The end of a publish; `user` is as given to streams_publish. Of one stream in the order in which this view published. */
	void (*published)(void *ctx, void *user, const struct stream_answer *a);
	void (*refused)(void *ctx, void *user, enum stream_error why);
	/* After stream_cursor_next gave CURSOR_WAIT: call it again (it may say so again). */
	void (*ready)(void *ctx, void *user);
	/* Memory is short, and this cursor rests: call stream_cursor_back for its slice, in here. NULL: pieces are never taken back. */
	void (*give_back)(void *ctx, void *user);
};

/* ---- publishing ---- */

struct stream_request {
	struct span stream; /* its name */
	uint64_t seq_no;
	int64_t timestamp; /* 0: the server's clock */
	struct span payload;
	struct span publisher; /* empty: not idempotent */
	uint64_t publisher_seq;
};

struct stream_publish; /* one that is under way */

/* Takes the frame; *r is not needed afterwards. STREAM_E_OK: it will be answered, by exactly one of published and refused, in a later turn of
 * this view (never from in here). Else it was not taken, and nothing will come. */
enum stream_error streams_publish(struct streams_view *v, const struct stream_request *r, void *user,
				  struct stream_publish **ret);
/* The stream that gave this view's last refusal, the one that streams_publish has returned or that is being called back with; NULL: none. */
const struct stream *streams_view_refused(const struct streams_view *v);
/* The caller does not want the answer any more; the frame may be kept all the same. Only while unanswered. */
void stream_publish_detach(struct stream_publish *p);
/* Bytes held by publishes of this view that are not in their stream's memory yet: for back-pressure, against held_max.
 * Any thread. */
uint64_t streams_view_held(const struct streams_view *v);

/* ---- subscribing ---- */

struct stream_cursor;

struct stream_start {
	struct span stream;
	uint64_t seq_no; /* only frames at or above it */
	/* 0: history sorted, from seq_no. Else: resume with this offset, in the order of offsets, history as well. */
	uint64_t offset;
	/* not 0: the stream must be in this one; else the cursor ends with STREAM_E_INCARNATION */
	uint64_t incarnation;
	bool tell_begin;    /* CURSOR_BEGUN comes without an offset, too */
	bool only_existing; /* a stream that is not there is not made: STREAM_E_ABSENT */
	/* Who reads: numbers of the client's address and of its connection, among which turns to read are shared out. */
	uint64_t reader[2];
};

/* A piece of what a subscriber receives: whole frames. Held until stream_slice_put, on the same shard. */
struct stream_slice {
	const uint8_t *p;
	size_t n;
	uint32_t frames;
	/* live: the offset to resume with after this; 0 in sorted history. CURSOR_BEGUN: see there */
	uint64_t next_offset;
	uint64_t gap_from, gap_to; /* CURSOR_GAP */
	bool scarce;               /* read or merged for this cursor, in memory that others wait for */
	void *hold;                /* private */
};

enum cursor_state {
	CURSOR_SLICE,     /* *ret holds frames */
	CURSOR_WAIT,      /* nothing now; ops->ready follows */
	CURSOR_COLD,      /* what comes next has to be read: call stream_cursor_read when the subscriber can take it */
	CURSOR_CAUGHT_UP, /* once: all that was durable when the cursor was opened has been given */
	CURSOR_GAP, /* *ret holds gap_from and gap_to: these offsets are gone (those of them that were not given before) */
	CURSOR_ENDED, /* stream_cursor_error says why; nothing more comes */
	/* Once, before all else, where a cursor was opened with an offset or with tell_begin:
	 * frames from ret->next_offset on follow, or with 0 a sorted history. */
	CURSOR_BEGUN,
};

/* STREAM_E_OK, or why not (DAMAGED: streams_view_refused is the stream). An offset that is one
 * above the stream's newest is in order; one beyond that ends the cursor with STREAM_E_BEYOND: the
 * stream does not have the frames (any more) that were read before. A stream that is not there is
 * made (but for only_existing), and until then the cursor waits; it may end with an error then. The
 * first call of stream_cursor_next may follow at once. */
enum stream_error stream_cursor_open(struct streams_view *v, const struct stream_start *start, void *user,
				     struct stream_cursor **ret);
/* At any time. Slices stay valid until they are put. */
void stream_cursor_close(struct stream_cursor *c);
/* The next piece: at most `max` bytes, but a whole frame at least. Costs no work per frame where every frame goes. */
enum cursor_state stream_cursor_next(struct stream_cursor *c, size_t max, struct stream_slice *ret);
/* After CURSOR_COLD: asks for what comes next, and takes a turn with other cursors for it. stream_cursor_next may be called at once. */
void stream_cursor_read(struct stream_cursor *c);
/* The subscriber takes nothing for now, and keeps the slice that was given last (NULL: it has none). `alone`: that is its own matter, and its connection goes on for others.
 * If memory runs short, ops->give_back asks for the slice. stream_cursor_next, stream_cursor_back and stream_cursor_stir end this. */
void stream_cursor_rest(struct stream_cursor *c, const struct stream_slice *s, bool alone);
void stream_cursor_stir(struct stream_cursor *c);
/* Puts the slice that was given last; `taken` bytes of it have been taken by the subscriber. The next slice goes on exactly behind these, in the middle of a
 * frame if need be; as long as stream_cursor_is_torn, nothing else may be put in between. Returns how many frames will be given again, or their rests. */
uint32_t stream_cursor_back(struct stream_cursor *c, struct stream_slice *s, size_t taken);
bool stream_cursor_is_torn(const struct stream_cursor *c);
/* Gives a slice back. Another holder of the same bytes on the same shard calls stream_slice_get first. */
void stream_slice_put(struct streams_view *v, struct stream_slice *s);
void stream_slice_get(struct streams_view *v, const struct stream_slice *s);

bool stream_cursor_is_live(const struct stream_cursor *c); /* CURSOR_CAUGHT_UP has been given */
/* Bytes (about) and frames between the cursor and the newest durable frame. Live cursors; others count from the beginning of their live part. */
uint64_t stream_cursor_lag_bytes(const struct stream_cursor *c);
uint64_t stream_cursor_lag_frames(const struct stream_cursor *c);
/* Offset to resume with: the one after the last given; 0 while sorted history is being given (begin again, from seq_no). */
uint64_t stream_cursor_offset(const struct stream_cursor *c);
/* Live cursors: leaves out the oldest, so that about `keep` bytes at most are still to come. True: something is left out, and the next
 * call of stream_cursor_next gives CURSOR_GAP. For subscribers that rather lose than lag. */
bool stream_cursor_drop(struct stream_cursor *c, uint64_t keep);
enum stream_error stream_cursor_error(const struct stream_cursor *c);
/* For STREAM_E_DAMAGED, _OPEN, _INCARNATION and _BEYOND; else "". */
const char *stream_cursor_why(const struct stream_cursor *c);
const struct stream *stream_cursor_stream(const struct stream_cursor *c); /* NULL until it is known */

/* ---- the shard's loop ---- */

/* Once a turn, after the turn's requests: takes in what has come, hands what was appended to the journal, answers. */
void streams_view_turn(struct streams_view *v, const struct streams_view_ops *ops, void *ctx);
/* After the shard's doorbell is armed: whether a turn would find something to do. */
bool streams_view_has_work(struct streams_view *v);
/* Publishes under way and cursors that are open (of this view), for draining. Any thread. */
uint32_t streams_view_publishing(const struct streams_view *v);
uint32_t streams_view_cursors(const struct streams_view *v);

/* ---- figures; any thread ---- */

/* Of one shard: the memory of what cursors have read. */
struct streams_read_stats {
	uint64_t bytes;      /* now, with what is reserved for reads under way */
	uint64_t most;       /* at any time */
	uint64_t waiting;    /* cursors that wait for their turn */
	uint64_t taken_back; /* pieces that were taken back from subscribers who took nothing */
};
/* The view must not have been freed. */
void streams_view_read_stats(const struct streams_view *v, struct streams_read_stats *ret);

struct stream_stats {
	char name[STREAM_NAME_MAX + 1];
	unsigned owner; /* shard */
	enum stream_durability durability;
	uint64_t incarnation;
	uint64_t first_offset;   /* the oldest kept; next_offset when none is */
	uint64_t durable_offset; /* the newest that subscribers see; 0: none */
	uint64_t next_offset;
	uint64_t frames, bytes;              /* kept: frames, and bytes of them on disk (of all segments) */
	uint64_t published, published_bytes; /* since start; bytes as kept */
	uint64_t late;                       /* kept frames that came out of order */
	uint64_t memory_bytes, index_bytes;
	uint64_t duplicates, stale;        /* repeats that got their first answer; refused as too old */
	uint64_t reads_memory, reads_disk; /* slices given from memory; pieces read from disk */
	uint64_t gaps;                     /* given to cursors */
	uint64_t damaged;                  /* reads that found damage */
	uint64_t cursors, live_cursors;    /* open now */
	uint64_t stopped;                  /* 1: takes no frames any more, and `why` says why */
	const char *why;                   /* stream_damage */
};

uint32_t streams_count(const struct streams *ss);
/* How many of them take no frames any more; see stream_damage. */
uint32_t streams_stopped(const struct streams *ss);
/* Frames of all streams since the start. */
uint64_t streams_frames_published(const struct streams *ss);
/* `i` is below streams_count, in the order in which they were made. */
void streams_info(const struct streams *ss, uint32_t i, struct stream_stats *ret);
/* The stream's number for streams_info. */
uint32_t stream_index(const struct stream *s);
/* The number of this life of the stream: random, not 0, and the same as long as the stream has the
 * same frames at the same offsets. It is on disk before anybody sees the stream; a stream that is
 * kept in memory only has another one after each start. */
uint64_t stream_incarnation(const struct stream *s);

#endif
