/* The inside of streams. For queue/stream*.c and their tests only. Who does what:
 *
 *   streams.c          all streams: opening, the registry, figures.  stream_names.c  names of streams and logs
 *   stream_check.c     all streams' logs, looked at by a tool
 *   stream_recover.c   one stream from its log
 *   stream_log.c       owner: frames in memory, records to the journal, what is durable (chunks: any thread)
 *   stream_state.c     owner: the records of what a restart needs, before a trim
 *   stream_index.c     owner: where frames are.  stream_late: the late ones.  stream_publishers.c: numbers seen
 *   stream_plan.c      owner: what comes next in a sorted history
 *   stream_merge.c     any: a step of such a plan, carried out
 *   stream_reader.c    reader thread: what is not in memory.  stream_keeper.c  keeper thread: creation, retention
 *   stream_view.c      shard: names, publishes, mail.  stream_cursor.c, stream_live.c  shard: subscribers' places
 *   stream_turns.c     shard: whose turn it is to read, and the memory for it
 *
 * Threads send each other notes: intrusive, each in at most one inbox at a time, so an inbox is never full and nothing waits for room.
 */
#ifndef ORDINAL_QUEUE_STREAM_IMPL_H
#define ORDINAL_QUEUE_STREAM_IMPL_H

#include "core/base/check.h"
#include "core/base/count.h"
#include "queue/names.h"
#include "queue/stream.h"
#include "queue/stream_late.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <stdatomic.h>

#define BLOCK_BYTES (32u << 10) /* an index block is closed when it has so many */
#define CHUNK_BLOCKS (STREAM_UNIT / BLOCK_BYTES + 1)
#define CHUNK_REFS ((UINT64_C(1) << 24) - 1)
#define RECORD_HEAD 48u       /* of a RECORD_FRAMES that is written now */
#define RECORD_HEAD_1 40u     /* of version 1, without the server's timestamp */
#define PENDING_MAX 64u       /* records of one stream on their way to disk */
#define DIR_FIRST 8u          /* slots of a stream's first directory of chunks */
#define WHERE_NONE UINT64_MAX /* on no disk; 0: not known yet, or the oldest */
#define SEGMENT_BYTES_MIN (256u << 10)
#define PORT_DEPTH 1024u
#define STATE_BYTES 64u
/* requests in the port, above which no more of a state is put into it */
#define STATE_WAITING_MAX (PORT_DEPTH / 4)
#define LOG_PREFIX "stream."
#define PLAN_STEPS 16u
#define PLAN_LATE 512u
#define PLAN_LATE_FIRST 16u
#define MERGE_LATE_BYTES (64u << 10) /* of late frames in one step, but for the first */

/* The types of a stream's records. */
enum record_type {
	RECORD_FRAMES = 1,  /* stream_log.c */
	RECORD_STATE = 2,   /* stream_state.c, as the next */
	RECORD_NUMBERS = 3, /* of publishers */
};

/* Bytes before the frames of a RECORD_FRAMES whose first RECORD_HEAD_1 bytes are at p; 0: it is of
 * no known version. */
static inline uint32_t frames_head(const uint8_t *p)
{
	uint32_t version = load_le32(p + 36);

	return version == 1 ? RECORD_HEAD_1 : version == 2 ? RECORD_HEAD : 0;
}
/* The same, of a whole payload. */
static inline uint32_t record_head(struct span payload)
{
	uint32_t head = payload.n >= RECORD_HEAD_1 ? frames_head(payload.p) : 0;

	return payload.n >= head ? head : 0;
}

/* ---- notes ---- */

enum note_kind {
	NOTE_PUBLISH,
	NOTE_ANSWERED,
	NOTE_CREATE,
	NOTE_CREATED,
	NOTE_PLAN,
	NOTE_PLANNED,
	NOTE_FETCH,
	NOTE_FETCHED,
	NOTE_EDGE,
	NOTE_TRIM
};

struct note {
	struct note *next;
	enum note_kind kind;
};

struct inbox {
	_Alignas(CACHE_LINE) _Atomic(struct note *) head;
	_Atomic(struct doorbell *) bell; /* NULL: nobody reads yet */
};

/* Any thread. The note is the reader's from here. */
static inline void inbox_push(struct inbox *in, struct note *n, enum note_kind kind)
{
	struct note *head = atomic_load_explicit(&in->head, memory_order_relaxed);
	struct doorbell *bell;

	n->kind = kind;
	do {
		n->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&in->head, &head, n, memory_order_acq_rel,
							memory_order_relaxed)); /* inbox_take */
	bell = atomic_load_explicit(&in->bell, memory_order_acquire);           /* pairs with streams_view_new */
	if (head == NULL && bell != NULL) /* else it is rung already, or about to be */
		doorbell_ring(bell);
}

static inline bool inbox_is_empty(const struct inbox *in)
{
	return atomic_load_explicit(&in->head, memory_order_relaxed) == NULL;
}

/* The reader: everything, oldest first. */
static inline struct note *inbox_take(struct inbox *in)
{
	struct note *n = NULL, *list = NULL;

	if (!inbox_is_empty(in))
		n = atomic_exchange_explicit(&in->head, NULL, memory_order_acq_rel); /* pairs with inbox_push */
	while (n != NULL) {
		struct note *next = n->next;

		n->next = list;
		list = n;
		n = next;
	}
	return list;
}

/* ---- memory ---- */

/* A position and the offset of the frame before it, published together by one thread. The position is stored twice: a reader that finds both equal has
 * read the offset that belongs to it. */
struct edge {
	_Alignas(CACHE_LINE) atomic_uint_fast64_t ahead;
	atomic_uint_fast64_t offset, pos;
};

static inline void edge_set(struct edge *e, uint64_t pos, uint64_t offset)
{
	atomic_store_explicit(&e->ahead, pos, memory_order_relaxed);
	atomic_store_explicit(&e->offset, offset, memory_order_release); /* pairs with edge_get */
	atomic_store_explicit(&e->pos, pos, memory_order_release);       /* pairs with edge_get, edge_pos */
}

static inline uint64_t edge_pos(const struct edge *e)
{
	return atomic_load_explicit(&e->pos, memory_order_acquire);
}

static inline void edge_get(const struct edge *e, uint64_t *ret_pos, uint64_t *ret_offset)
{
	do {
		*ret_pos = atomic_load_explicit(&e->pos, memory_order_acquire);
		*ret_offset = atomic_load_explicit(&e->offset, memory_order_acquire);
	} while (atomic_load_explicit(&e->ahead, memory_order_relaxed) != *ret_pos);
}

/* Part of a chunk, as readers see it. */
struct chunk_block {
	uint64_t pos, first_offset;
	atomic_uint_fast64_t where;   /* of the record that holds pos; set before it is durable for readers */
	atomic_uint_fast64_t min_seq; /* of its frames; may be of frames that are not durable yet */
};

/* A stretch of the stream in memory: positions [pos, pos + cap), pos being a multiple of STREAM_UNIT; frames never cross chunks. A header is never freed
 * before its stream, so any thread may try to take a reference: it gets one if the chunk is still the one that it means. */
struct chunk {
	_Alignas(CACHE_LINE)
		atomic_uint_fast64_t state; /* (first unit + 1) << 24 | references; the owner's "in memory" is one */
	atomic_uint_fast64_t end;           /* UINT64_MAX while it is open. release by the sealer, acquire by readers */
	uint64_t pos, end_offset;           /* end_offset: the first one not in it, once sealed */
	uint32_t units, cap;
	uint8_t *data;
	atomic_uint nblocks; /* release by the owner, acquire by readers */
	struct chunk_block block[CHUNK_BLOCKS];
	/* The owner's. */
	uint32_t fill;
	uint64_t end_max_seq; /* running maximum at its end, once sealed */
	int64_t end_max_ts;
	struct chunk *newer, *pool_next;
};

/* Chunks by unit. It grows with the span of units in memory; a smaller one stays for those who read it, until the stream goes. */
struct chunk_dir {
	uint32_t mask;
	struct chunk_dir *smaller;
	_Atomic(struct chunk *) slot[]; /* release by the owner */
};

/* Bytes that were put together for a reader, or read from disk. */
struct stream_buf {
	atomic_uint refs;
	uint32_t n, cap;
	uint8_t data[];
};

static inline struct stream_buf *buf_new(size_t cap)
{
	struct stream_buf *b = malloc(sizeof *b + cap);

	if (b != NULL) {
		atomic_init(&b->refs, 1);
		b->n = 0;
		b->cap = (uint32_t)cap;
	}
	return b;
}
static inline struct stream_buf *buf_get(struct stream_buf *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}
static inline void buf_put(struct stream_buf *b)
{
	if (b != NULL && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1) /* pairs with itself */
		free(b);
}

/* ---- what an owner keeps ---- */

/* Consecutive frames, about BLOCK_BYTES of them, without a hole. Blocks are in the order of positions, and cover every frame that is kept. */
struct stream_block {
	uint64_t pos, where, first_offset;
	uint64_t
		max_seq; /* running maximum of (seq_no, timestamp) before it; its frames below the running maximum are late */
	int64_t max_ts;
	uint32_t bytes;
	bool has_late, has_run; /* may have late frames; may have others */
};

struct block_index {
	struct stream_block *v;
	uint64_t begin, end; /* numbers: v[number - base] */
	uint64_t base, cap;
};

struct publisher;
struct publishers {
	struct publisher **bucket; /* made at first use */
	struct publisher *newest, *oldest;
	struct publisher *walk; /* what publishers_put goes on with; NULL: it is through */
	uint64_t walk_offset;   /* of the walk's publisher the numbers up to this offset are done */
	uint32_t round;         /* of the walk */
	uint32_t count;
	uint32_t max, numbers_max; /* publishers_max and numbers_max of struct streams_opts; set before anything else */
	uint64_t bytes;
};

/* A record on its way to disk. Those of a shard's streams come from one list of its own. */
struct pending {
	struct pending *next;
	uint64_t where; /* written by the journal */
	uint64_t pos, end, first_offset, last_offset;
	uint8_t head[RECORD_HEAD];
};

/* What a RECORD_STATE says. */
struct stream_state {
	uint64_t incarnation, next_offset;
	uint64_t pos; /* where the last frame ended */
	uint64_t max_seq;
	int64_t max_ts;
	int64_t server_ts; /* no greater timestamp has been given by the server; INT64_MIN: none */
	/* 0: frames after it are acknowledged when they are synced. Else they were written in this
	 * run of the machine (journal_boot), and acknowledged before a sync: in another run, some
	 * may be gone. */
	uint64_t boot;
};

/* A state on its way to the journal, before a trim. */
struct state_writing {
	uint64_t trim;  /* the offset that follows it */
	uint64_t below; /* numbers of frames below this offset are written */
	bool under_way;
	bool first;   /* nothing of it is in the journal yet */
	bool starved; /* no memory for the next part */
};

struct stream_publish;

struct publish_list {
	struct stream_publish *first, **last;
	uint32_t n;
};

struct stream_own {
	struct block_index index;
	struct late_tree late;
	struct publishers publishers;
	uint64_t next_offset, max_seq; /* max: the running maximum */
	int64_t max_ts;
	/* The greatest timestamp that the server gave in place of 0; INT64_MIN: none is known. It
	 * survives restarts: each record of frames says it, and so does the state. */
	int64_t server_ts;
	uint64_t end_pos;   /* of the last frame appended */
	uint64_t next_unit; /* where the next chunk begins, at the earliest */
	struct chunk *open, *oldest, *newest, *pool;
	uint64_t memory; /* bytes of chunks from oldest to newest */
	/* Submitted to the journal: everything before (chunk, at). */
	struct chunk *sub_chunk;
	uint32_t sub_at;
	/* sub_pos: where the last submitted frame ends */
	uint64_t sub_offset, sub_max_seq, sub_pos;
	int64_t sub_max_ts;
	struct pending *pending, *pending_last; /* oldest first */
	uint32_t pending_count;
	struct pending *reserve; /* for the only one, so that without memory one is written after the other */
	uint64_t where_block;    /* number of the first index block without a place on disk */
	uint64_t last_segment;   /* that the newest durable record is in */
	uint64_t trim_offset;    /* frames below it are gone from the index... */
	uint64_t trimmed;        /* ...and from the journal */
	struct state_writing state;
	struct publish_list acks, parked;
	uint32_t gone_seen; /* of `gone`, when the parked ones were last looked through */
	bool sweeping, active;
	struct stream *active_next;
};

/* What a shard's thread writes about a stream. */
struct stream_local {
	_Alignas(CACHE_LINE) struct note note; /* NOTE_EDGE */
	struct stream *stream;
	atomic_bool wanted; /* cursors of the shard wait for the edge to move; see view_watch and stream_wake */
	uint64_t reads_memory, reads_disk, gaps, damaged, cursors, live_cursors;
};

struct stream {
	struct streams *ss;
	uint32_t index, name_len;
	unsigned owner;
	atomic_uint gone; /* publishes whose clients have gone, parked or not; counted by any shard, relaxed */
	enum stream_durability durability;
	/* NULL: none; with STREAM_MEMORY it may be there from before, and is only read */
	struct jlog *log;
	uint64_t incarnation; /* not 0; never changes */
	/* the log's; another one with STREAM_MEMORY, whose frames are lost at each stop */
	uint64_t log_incarnation;
	uint32_t record_max; /* bytes of frames in one record */
	uint64_t memory_max;
	uint64_t recovered_pos; /* where the log ended when it was opened: nothing is between it and the next unit */
	_Atomic(struct chunk_dir *) dir; /* NULL: nothing was ever in memory; release by the owner */
	struct edge durable;             /* what readers may see. offset: of the newest durable frame */
	struct edge first;               /* the oldest kept. offset: its own */
	_Atomic(const char *) damage;    /* see stream_damage; release by stream_set_damage */
	bool closed;                     /* it was damaged when it was opened: there is no log, and nothing is served */
	/* For figures: count_add by the owner. */
	uint64_t published, published_bytes, duplicates, stale, stat_next, stat_memory, stat_index, stat_late;
	struct note trim;      /* NOTE_TRIM, from the keeper */
	atomic_bool trim_sent; /* it is the owner's now */
	uint64_t trim_to;
	_Alignas(CACHE_LINE) struct stream_own own;
	char name[STREAM_NAME_MAX + 1];
	_Atomic(struct stream_local *)
		local[]; /* by shard, which makes its own when it has a subscriber; NULL: none yet */
};

struct stream_port {
	struct inbox inbox;
	struct pending *spare; /* the shard's, as the next */
	uint64_t published;    /* frames of all streams that the shard owns; count_add */
};

/* A thread with an inbox: the keeper and the reader. */
struct worker {
	struct inbox inbox;
	struct doorbell bell;
	atomic_bool stop;
	bool started;
	pthread_t thread;
};

struct reader;

/* What the log is told while streams are being opened: now and then how far that is, and in the end one line, however many there are. */
struct opening {
	uint64_t frames, late; /* of the streams so far */
	uint32_t closed;       /* of them, because they are damaged */
	uint64_t began_ns, said_ns, pause_ns;
	/* streams that have begun another incarnation, because frames of theirs may be gone */
	uint32_t lost;
	const struct stream *lost_first;
};

struct streams {
	struct streams_opts opts;
	char *rules;
	struct journal *journal;
	uint64_t hash_key[2];
	uint32_t payload_max, frame_max;
	uint32_t piece_max; /* bytes of memory that one piece, read or merged, can take */
	uint32_t capacity;
	_Atomic(struct stream *) *streams;
	_Alignas(CACHE_LINE) atomic_uint count; /* published; release, pairs with acquire in views */
	struct names names;                     /* the keeper's (the opener's before it runs) */
	struct stream_port *ports;              /* by shard */
	struct worker keeper, reader;
	struct reader *reading;
	struct opening opening; /* the main thread's, until the streams are open */
};

/* ---- streams.c ---- */

/* Names of streams' logs. */
struct stream_logs {
	char (*name)[208];
	uint32_t n, room;
};
/* For journal_each_log: adds the name, if it is a stream's. 0 or -ENOMEM. */
int stream_logs_add(void *stream_logs, const char *name);
/* Streams without any yet. NULL: out of memory, or of descriptors. */
struct streams *streams_new(const struct streams_opts *opts, struct journal *j, uint32_t found);
/* Whether to say how far the opening is: after a second, two more, four more... */
bool opening_is_long(struct opening *o);
enum stream_durability streams_durability_of(const struct streams *ss, struct span name);
static inline struct span stream_name(const struct stream *s)
{
	return (struct span){(const uint8_t *)s->name, s->name_len};
}
static inline struct stream *streams_at(const struct streams *ss, uint32_t i)
{
	return atomic_load_explicit(&ss->streams[i], memory_order_relaxed);
}
static inline uint32_t streams_published(const struct streams *ss)
{
	return atomic_load_explicit(&ss->count, memory_order_acquire); /* pairs with streams_add */
}

/* ---- stream_names.c ---- */

/* Writes the log's name: at most 200 bytes and the end. */
void stream_log_name(char out[208], struct span name);
bool stream_name_ok(struct span name);
/* False: not what stream_log_name makes. */
bool stream_name_of_log(const char *log, uint8_t out[STREAM_NAME_MAX], size_t *ret_n);

/* ---- stream_recover.c ---- */

/* A stream, with what its log holds; `exists`: it has one. 0 or -errno, *ret_why as journal_log_open. */
int stream_make(struct streams *ss, struct span name, bool exists, struct stream **ret, const char **ret_why);
/* A stream that is there, and is closed because its log is damaged: `why`. NULL: out of memory. */
struct stream *stream_make_closed(struct streams *ss, struct span name, const char *why);
void stream_free(struct stream *s);
/* The owner, or the opener: the stream takes no frames any more, and this is why. Once. */
void stream_set_damage(struct stream *s, const char *why);
/* Opener or keeper: publishes it. 0 or -ENOMEM. */
int streams_add(struct streams *ss, struct stream *s);

/* ---- stream_index.c: the owner ---- */

/* Room for two more blocks. 0 or -ENOMEM. */
int index_reserve(struct block_index *x);
void index_done(struct block_index *x);
static inline struct stream_block *index_at(const struct block_index *x, uint64_t number)
{
	return &x->v[number - x->base];
}
/* Appends, or puts in before `number`; index_reserve was called. */
struct stream_block *index_put(struct block_index *x, uint64_t number);
/* The block that holds the position (or the last that begins at or below it). index.end when there is none. */
uint64_t index_find_pos(const struct block_index *x, uint64_t pos);
uint64_t index_find_offset(const struct block_index *x, uint64_t offset);
/* The first block that may hold a frame at or above (seq_no, INT64_MIN) that is not late. */
uint64_t index_find_seq(const struct stream_own *o, uint64_t seq_no);
/* Drops blocks whose frames are all below `offset`. */
void index_trim(struct stream_own *o, uint64_t offset);
static inline uint64_t index_bytes(const struct block_index *x)
{
	return x->cap * sizeof *x->v;
}
/* The first offset after the block; the running maximum after it. */
uint64_t block_end_offset(const struct stream_own *o, uint64_t number);
void block_end_max(const struct stream_own *o, uint64_t number, uint64_t *ret_seq, int64_t *ret_ts);

/* ---- stream_publishers.c: the owner ---- */

enum publisher_state { PUBLISHER_NEW, PUBLISHER_SEEN, PUBLISHER_STALE };
/* What is known of the number. SEEN: *ret_offset and *ret_timestamp. */
enum publisher_state publishers_find(const struct publishers *ps, uint64_t hash, struct span name, uint64_t number,
				     uint64_t *ret_offset, int64_t *ret_timestamp);
/* Makes room for publishers_add. 0 or -ENOMEM. */
int publishers_reserve(struct publishers *ps, uint64_t hash, struct span name);
void publishers_add(struct publishers *ps, uint64_t hash, struct span name, uint64_t number, uint64_t offset,
		    int64_t timestamp);
/* What is remembered of one publisher, or part of it; numbers in the order of offsets. */
struct publisher_number {
	uint64_t number, offset;
	int64_t timestamp;
};
struct publisher_facts {
	struct span name;
	uint64_t max; /* the greatest number used */
	bool forgot;  /* older numbers were forgotten */
	const struct publisher_number *v;
	uint32_t n;
};
/* Adds facts from the log to what is known, as if the frames had been there in their order. 0 or
 * -ENOMEM. */
int publishers_restore(struct publishers *ps, uint64_t hash, const struct publisher_facts *f);
/* Takes the first entry off *rest, its numbers into v (room for n_max). False: malformed. */
bool publishers_take(struct span *rest, struct publisher_facts *ret, struct publisher_number *v, uint32_t n_max);
/* Begins a walk over all publishers; a walk goes on while there is use and forgetting. */
void publishers_walk(struct publishers *ps);
static inline bool publishers_walking(const struct publishers *ps)
{
	return ps->walk != NULL;
}
/* Writes entries of the walk's next publishers (stream_state.c) with their numbers of frames below
 * the offset. The bytes written; 0: nothing had to be, so far. */
size_t publishers_put(struct publishers *ps, uint64_t below, uint8_t *p, size_t cap);
void publishers_done(struct publishers *ps);

/* ---- stream_state.c ---- */

void state_encode(uint8_t p[STATE_BYTES], const struct stream_state *st);
/* 0; -ENOTSUP: of a newer version; -EBADMSG. */
int state_decode(struct span payload, struct stream_state *ret);
/* The same of a RECORD_NUMBERS: leaves its entries in *rest, for publishers_take. */
int state_numbers_open(struct span *rest);
/* Owner: when the journal has to be trimmed, what recovery needs goes there first, in as many turns
 * as it takes. */
void stream_state_turn(struct stream *s, struct journal_port *port);
/* Owner: whether stream_state_turn would get on. */
bool stream_state_can_turn(const struct stream *s, const struct journal_port *port);

/* ---- stream_log.c ---- */

/* Any thread: a reference to the chunk that holds the position, or NULL: it is not in memory (any more). */
struct chunk *chunk_get(const struct stream *s, uint64_t pos);
static inline void chunk_put(struct chunk *c)
{
	atomic_fetch_sub_explicit(&c->state, 1, memory_order_release); /* pairs with chunk_new */
}
/* Owner. *ret holds the answer when it is STREAM_E_OK; the frame is durable when the durable edge's offset has come to ret->offset. BUSY: no
 * memory now, nothing has changed. */
enum stream_error stream_append(struct stream *s, const struct stream_request *r, struct stream_answer *ret);
/* Owner: hands what was appended to the journal, or publishes it (memory). */
void stream_submit(struct stream *s, struct journal_port *port);
/* Owner: takes note of what has become durable. True: the edge has moved. */
bool stream_advance(struct stream *s);
/* Owner: whether stream_advance would say true. */
static inline bool stream_can_advance(const struct stream *s)
{
	const struct stream_own *o = &s->own;

	return o->pending_count > 0 && jlog_durable(s->log) >= o->pending->last_offset;
}
/* Owner: whether its log has been lost. */
static inline bool stream_is_lost(const struct stream *s)
{
	return s->durability != STREAM_MEMORY && jlog_state(s->log) == JLOG_LOST;
}
/* Owner: frames below the offset are no longer needed. It is where a segment begins. */
void stream_trim(struct stream *s, uint64_t offset);
/* Owner (or the opener): adds what recovery or appending knows of a frame to the index. late_add comes before. */
static inline bool stream_is_late(const struct stream_own *o, uint64_t seq_no, int64_t timestamp)
{
	return seq_no < o->max_seq || (seq_no == o->max_seq && timestamp < o->max_ts);
}
void stream_count(struct stream *s);
void pendings_free(struct pending *list);
void stream_log_done(struct stream *s);

/* ---- stream_plan.c, stream_merge.c ---- */

/* Where a sorted history stands. Only frames before end_pos belong to it. */
struct history {
	uint64_t seq_no;
	uint64_t end_pos, end_offset, end_where; /* what was durable when it began */
	struct stream_key from;                  /* what is below it has been planned */
	uint64_t run_pos, run_offset;            /* the block that goes on with it; end_pos: none */
	uint64_t first_offset;                   /* of the stream, when it was last planned */
	/* The part of a RANGE that was planned before and has not been given yet: to be planned
	 * before all else. part_frames 0: none. */
	uint64_t part_pos, part_end, part_offset;
	uint32_t part_frames;
	bool begun, done;
};

enum step_kind { STEP_RANGE, STEP_MERGE, STEP_GAP };

/* RANGE: every frame of [pos, end). MERGE: the frames of [pos, end) that are not late and have keys from `from` to `bound`, with the late frames
 * [late, late + lates) of the plan, in order. GAP: offsets [pos, end]. */
struct step {
	enum step_kind kind;
	uint32_t late, lates;
	uint64_t pos, end, where;
	uint64_t offset;  /* RANGE: of the frame at pos */
	uint32_t frames;  /* RANGE */
	uint64_t max_seq; /* MERGE: running maximum at pos */
	int64_t max_ts;
	struct stream_key from, bound;
	/* where the history stood before this step, and so after the one in front of it */
	struct history before;
};

struct late_ref {
	struct stream_key key;
	uint64_t where;
	uint32_t size;
};

struct plan {
	unsigned n;
	uint32_t lates, late_cap;
	struct late_ref *late; /* grows as needed: most histories have none */
	bool failed;           /* no memory */
	struct step step[PLAN_STEPS];
};

void plan_free(struct plan *p);
/* Owner: begins a history of what is durable now. */
void history_begin(const struct stream *s, struct history *h, uint64_t seq_no);
/* Owner: the next steps; none when h->done. */
void history_plan(const struct stream *s, struct history *h, struct plan *ret);

/* Where a merge gets its bytes from. */
struct stream_source {
	/* The bytes from `pos` (where a frame begins) to some end of a frame, valid until the next call of this. 0 or -errno. */
	int (*run)(struct stream_source *src, uint64_t pos, uint64_t where, struct span *ret);
	/* One frame, which the reference describes, valid until the next call of this. 0 or -errno. */
	int (*late)(struct stream_source *src, const struct late_ref *ref, struct span *ret);
};
/* Carries out a MERGE. 0 and a buffer (with n 0 when nothing is left); -ENOMEM; -EBADMSG malformed; or what the source said. */
int step_merge(const struct step *st, const struct late_ref *late, struct stream_source *src, struct stream_buf **ret,
	       uint32_t *ret_frames);

/* ---- stream_reader.c ---- */

/* Something to be read, with the answer. RANGE: frames of [pos, end) from pos on, or, if what is there begins later, from there. */
struct fetch {
	struct note note;
	struct inbox *reply;
	const struct stream *stream;
	enum step_kind kind;
	uint64_t pos, end, where;
	uint64_t min_offset;     /* RANGE of a live cursor: nothing below it is wanted; 0: pos must be there */
	size_t max;              /* RANGE: bytes, but a whole frame at least */
	const struct step *step; /* MERGE */
	const struct late_ref *late;
	/* The answer. -ENOENT: gone. */
	int err;
	char *why; /* of another error, or NULL; the asker frees it */
	struct stream_buf *buf;
	struct span bytes; /* in buf */
	uint32_t frames;
	uint64_t first_offset, next_pos, next_where, min_seq; /* RANGE */
};

/* Bytes of memory that a piece, read or merged, can take where frames have up to frame_max. */
uint32_t reader_piece_max(uint32_t frame_max);
int reader_new(struct streams *ss);
void reader_free(struct streams *ss);
void *reader_main(void *ss);
/* What has come; for the thread, or a test that has none. False: nothing had. */
bool reader_turn(struct streams *ss);

/* ---- stream_keeper.c ---- */

/* A stream to be made. The shard's, but while the keeper has it. */
struct creation {
	struct note note;
	struct creation *next;
	struct inbox *reply;
	uint64_t hash;
	struct stream *stream; /* the answer */
	enum stream_error error;
	struct publish_list publishes;
	struct stream_cursor *cursors; /* by wait_next */
	uint32_t name_len;
	char name[STREAM_NAME_MAX];
};

void *keeper_main(void *ss);
/* As reader_turn. */
bool keeper_turn(struct streams *ss);
/* Looks at every stream for what retention drops, and tells the owners. */
void keeper_round(struct streams *ss, int64_t wall_ns);

#endif
