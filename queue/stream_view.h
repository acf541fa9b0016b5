/* The inside of a shard's view of the streams. For queue/stream_view.c, queue/stream_cursor.c and their tests only. */
#ifndef ORDINAL_QUEUE_STREAM_VIEW_H
#define ORDINAL_QUEUE_STREAM_VIEW_H

#include "queue/stream_impl.h"

/* What slices keep alive; counted by the shard alone. */
struct hold {
	uint32_t refs;
	struct chunk *chunk; /* one of the two */
	struct stream_buf *buf;
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
	char why[320];
	uint64_t seq_no, asked, resume; /* asked: the offset; resume: what of it is there (or 0) */
	uint64_t incarnation;           /* asked for; 0: any */
	uint64_t gap_from, gap_to;      /* to be given next; gap_from 0: none */
	struct piece piece;
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
struct hold *hold_chunk(struct view_stream *vs, uint64_t pos);
struct hold *hold_buf(struct stream_buf *b); /* takes the reference over; NULL: no memory, the reference is gone */
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
/* Sends c->fetch to the reader. Returns CURSOR_AGAIN. */
int cursor_fetch(struct stream_cursor *c);
enum cursor_state cursor_slice(struct stream_slice *ret, struct hold *h, const uint8_t *p, size_t n, uint32_t frames,
			       uint64_t next_offset);

/* ---- stream_live.c ---- */

#define CURSOR_AGAIN (-1) /* beside enum cursor_state: look once more */
#define CURSOR_GONE_MAX 16u

int cursor_next_live(struct stream_cursor *c, size_t max, struct stream_slice *ret);
/* Bytes at the beginning of `s` (from offset c->offset on) that the subscriber has not asked for, whole frames. */
size_t cursor_unwanted(const struct stream_cursor *c, struct span s, uint32_t *ret_frames);
/* Bytes of the frames that it has asked for, up to `max`, but one at least if there is one. */
size_t cursor_wanted(const struct stream_cursor *c, struct span s, size_t max, uint32_t *ret_frames);

#endif
