/* The inside of a shard's view of the streams. For queue/stream_view.c, queue/stream_cursor.c and their tests only. */
#ifndef ORDINAL_QUEUE_STREAM_VIEW_H
#define ORDINAL_QUEUE_STREAM_VIEW_H

#include "queue/stream_impl.h"

#include <sys/queue.h>

/* What slices keep alive; counted by the shard alone. A shard has one for each chunk and buffer. */
struct hold {
	uint32_t refs;
	struct chunk *chunk; /* one of the two */
	struct stream_buf *buf;
	struct streams_view *view;
	struct hold *next; /* in view->holds */
};
#define HOLD_BUCKETS 256u

/* ---- stream_turns.c ---- */

#define TURNS_OUT 4u /* turns of a connection, with pieces that its cursors hold */
#define TURNS_BUCKETS 256u

/* Cursors of one connection. */
struct turn_list {
	uint64_t reader[2];
	struct turn_list *next; /* in its bucket */
	struct turn_group *group;
	uint32_t users; /* cursors that name it */
	uint32_t out;   /* of them, with a place */
	TAILQ_HEAD(turn_waiting, stream_cursor) waiting;
	bool ready; /* the first of them may have a turn; in group->ready then */
	TAILQ_ENTRY(turn_list) entry;
};

/* Connections of one client address. */
struct turn_group {
	uint64_t address;
	struct turn_group *next; /* in its bucket */
	uint32_t lists;
	TAILQ_HEAD(turn_lists, turn_list) ready; /* if there are any, it is in turns.ready */
	TAILQ_ENTRY(turn_group) entry;
};

enum turn_resting { TURNS_RESTING_PIECE, TURNS_RESTING_CHUNK, TURNS_RESTING };
enum turn { TURN_NONE, TURN_WAITS, TURN_HELD };

struct turns {
	uint64_t max;  /* bytes: streams_opts.read_max */
	uint32_t need; /* bytes that a turn reserves */
	struct turn_list *list[TURNS_BUCKETS];
	struct turn_group *group[TURNS_BUCKETS];
	TAILQ_HEAD(turn_groups, turn_group) ready; /* the next one first */
	TAILQ_HEAD(turn_holders, stream_cursor)
	resting[TURNS_RESTING]; /* cursors whose subscriber takes nothing, the longest first */
	/* Read by anybody. */
	uint64_t used, most; /* bytes */
	uint64_t waiting, taken_back;
};

struct stream_publish {
	struct note note;            /* to the owner and back */
	struct stream_publish *next; /* in a publish_list */
	struct stream_publish *prev_all, *next_all;
	struct inbox *reply;
	void *user;
	atomic_bool detached; /* nobody waits for the answer; relaxed: written by its view, read by the owner too */
	enum stream_error error;
	struct stream *stream;
	struct stream_request request; /* spans lie in data; only of copies */
	struct stream_answer answer;
	size_t held;
	uint8_t data[];
};

/* A stream, for this shard. */
struct view_stream {
	struct stream *s;
	struct stream_local *local;
	struct stream_cursor *waiting; /* for the edge to move */
	struct hold *tail; /* the newest chunk that was looked at: it stays held, for the next one who asks */
	bool armed;        /* local.wanted is set, or a NOTE_EDGE is on its way */
};

struct cursor_list {
	struct stream_cursor *first, *last;
	uint32_t n;
};

struct streams_view {
	struct streams *ss;
	unsigned shard;
	struct inbox *inbox;
	struct journal_port *port;
	struct names names;
	uint32_t known;               /* streams in the table */
	struct view_stream **streams; /* by index */
	struct creation *creations;
	uint32_t creating;
	struct stream *active; /* owned: with something to be done */
	struct publish_list answered;
	struct cursor_list ready;
	struct stream_publish *all_publishes;
	struct stream_cursor *all_cursors;
	struct hold *holds[HOLD_BUCKETS]; /* by what is held */
	struct turns turns;
	uint64_t held;
	uint32_t publishing, cursors;
	const struct stream *refused; /* see streams_view_refused */
	bool failed;
};

enum cursor_phase { PHASE_OPENING, PHASE_HISTORY, PHASE_LIVE, PHASE_ENDED };
enum cursor_queue { QUEUE_NONE, QUEUE_WAITING, QUEUE_READY };

/* Bytes that were fetched or merged, and are being given. */
struct piece {
	struct hold *hold;
	struct span rest;
	uint32_t frames; /* in rest */
	uint64_t min_seq, next_pos;
	/* For giving back. History: the step that it was read for. */
	unsigned step;
	bool merged;
	uint64_t pos;         /* RANGE: of rest */
	uint32_t step_frames; /* RANGE: of the step, before rest */
	uint64_t where;       /* live: at or before it */
};

/* Where the slice that was given last begins, so that its rest can be given again. */
struct given {
	enum { GIVEN_NOTHING, GIVEN_STEP, GIVEN_MERGE, GIVEN_LIVE } kind;
	unsigned step;
	uint32_t step_frames, torn;
	uint64_t pos, offset, where;
};

struct stream_cursor {
	struct note note; /* NOTE_PLAN */
	struct fetch fetch;
	struct streams_view *view;
	struct view_stream *vs;                                  /* NULL while the stream is being made */
	struct stream_cursor *prev_all, *next_all, *prev, *next; /* prev, next: in the queue */
	struct stream_cursor *wait_next;                         /* in a creation */
	void *user;
	enum cursor_phase phase;
	enum cursor_queue queue;
	bool in_flight; /* lent to the keeper, the owner or the reader */
	bool closed, wants, begun, caught_up;
	bool tell_begin; /* CURSOR_BEGUN is still to be given */
	/* the owner's: the stream does not have what was asked for; `why` says it */
	enum stream_error refusal;
	enum stream_error error;
	char *why;                      /* NULL: "" */
	uint64_t seq_no, asked, resume; /* asked: the offset; resume: what of it is there (or 0) */
	uint64_t incarnation;           /* asked for; 0: any */
	uint64_t gap_from, gap_to;      /* to be given next; gap_from 0: none */
	struct piece piece;
	/* Turns, and what was given back. */
	uint64_t reader[2];
	struct turn_list *list; /* its connection's; NULL: it has never asked */
	enum turn turn;
	bool has_place;  /* counted in list->out */
	uint8_t resting; /* enum turn_resting + 1; 0: it does not rest */
	uint64_t reserved;
	TAILQ_ENTRY(stream_cursor) turn_entry; /* in list->waiting, or in view->turns.resting */
	struct given given;
	uint32_t torn;        /* bytes of the next frame that the subscriber has already */
	uint64_t torn_offset; /* of that frame */
	bool has_after;       /* history: frames at or below this key were given */
	uint64_t after_seq, after_offset;
	int64_t after_ts;
	/* Sorted history. */
	struct history h;
	struct plan *plan;
	unsigned step;        /* of the plan */
	uint64_t step_pos;    /* RANGE: what is before it has been given; 0: nothing */
	uint32_t step_frames; /* given of it */
	unsigned gone;        /* times in a row that a step was gone */
	/* Live. */
	uint64_t pos, where, offset;
	uint64_t end_pos; /* caught up there */
};

/* ---- stream_view.c ---- */

void view_activate(struct streams_view *v, struct stream *s);
struct view_stream *view_stream(struct streams_view *v, struct stream *s);
/* Finds a stream by name, or the creation that will make it, which begins here if it may. STREAM_E_OK: one of the two is set. */
enum stream_error view_find(struct streams_view *v, struct span name, bool may_create, struct stream **ret,
			    struct creation **ret_creation);
/* The hold on the chunk that has the position, or NULL. */
struct hold *hold_chunk(struct streams_view *v, struct view_stream *vs, uint64_t pos);
/* Takes the reference over; NULL: no memory, the reference is gone. */
struct hold *hold_buf(struct streams_view *v, struct stream_buf *b);
void hold_put(struct hold *h);

/* ---- stream_cursor.c ---- */

/* The cursor's queue. */
void cursor_set_ready(struct stream_cursor *c);
void cursor_unqueue(struct stream_cursor *c);
/* Notes that have come back. */
void cursor_created(struct stream_cursor *c, struct stream *s, enum stream_error e);
void cursor_planned(struct stream_cursor *c);
void cursor_fetched(struct stream_cursor *c);
/* Owner: does what the cursor asks. */
void cursor_serve(struct stream_cursor *c);
void cursor_free(struct stream_cursor *c);
void cursor_end(struct stream_cursor *c, enum stream_error e, const char *why);
void cursor_piece_drop(struct stream_cursor *c);
/* 0: the cursor has the turn to read. Else what stream_cursor_next has to say. */
int cursor_need_turn(struct stream_cursor *c);
/* Sends c->fetch to the reader. Returns CURSOR_AGAIN. */
int cursor_fetch(struct stream_cursor *c);
/* Gives bytes, without those of a torn frame that the subscriber has. Takes the hold over. CURSOR_SLICE or CURSOR_AGAIN. */
int cursor_slice(struct stream_cursor *c, struct stream_slice *ret, struct hold *h, const struct stream_slice *s);

/* ---- stream_turns.c ---- */

/* need: bytes of the largest piece. */
void turns_init(struct turns *t, uint64_t max, uint32_t need);
void turns_charge(struct turns *t, uint64_t bytes);
void turns_discharge(struct turns *t, uint64_t bytes);
/* Gives turns to cursors that wait, while there is memory, and takes pieces back that rest. From streams_view_turn only. */
void turns_run(struct turns *t, const struct streams_view_ops *ops, void *ctx);
bool turns_have_work(const struct turns *t);
/* The cursor asks for a turn: it has one, or waits. */
void turn_ask(struct stream_cursor *c);
/* What was reserved is not needed any more: it has been read, or will not be. */
void turn_settle(struct stream_cursor *c);
void turn_leave_place(struct stream_cursor *c);
void turn_stop_waiting(struct stream_cursor *c);
/* All of these. */
void turn_end(struct stream_cursor *c);
/* The cursor goes. */
void turn_forget(struct stream_cursor *c);
/* The subscriber keeps the slice that was given last, and takes nothing for now; goes on. */
void turn_rest(struct stream_cursor *c, enum turn_resting what);
void turn_stir(struct stream_cursor *c);

/* ---- stream_live.c ---- */

#define CURSOR_AGAIN (-1) /* beside enum cursor_state: look once more */
#define CURSOR_GONE_MAX 16u

int cursor_next_live(struct stream_cursor *c, size_t max, struct stream_slice *ret);
/* Bytes at the beginning of `s` (from offset c->offset on) that the subscriber has not asked for, whole frames. */
size_t cursor_unwanted(const struct stream_cursor *c, struct span s, uint32_t *ret_frames);
/* Bytes of the frames that it has asked for, up to `max`, but one at least if there is one. */
size_t cursor_wanted(const struct stream_cursor *c, struct span s, size_t max, uint32_t *ret_frames);

#endif
