/* The insides of the Feed service, shared by svc_feed.c (methods, the shard's turn), feed_publish.c, feed_subscribe.c, feed_reorder.c, feed_out.c
 * (bytes on their way to a call) and feed_report.c. For these and their tests only. */
#ifndef ORDINAL_RPC_FEED_IMPL_H
#define ORDINAL_RPC_FEED_IMPL_H

#include "core/base/slab.h"
#include "rpc/svc_feed.h"

#include <stdatomic.h>
#include <sys/queue.h>

#define FEED_REORDER_MS_MAX                                                                                            \
	60000 /* that a subscriber may ask for: promised by ordinal.proto; FEED_REORDER_BYTES and _TOTAL bound the memory */
#define FEED_SLICE_MAX STREAM_UNIT /* bytes asked of a cursor at once */

/* What subscribers of one stream got on one shard; read by anybody (core/base/count.h). */
struct feed_count {
	uint64_t frames, bytes;  /* delivered */
	uint64_t drops, dropped; /* how often a slow subscriber lost frames, and how many */
	uint64_t disconnected;   /* slow subscribers ended */
	uint64_t disordered;     /* frames that came after their reorder window */
	uint64_t reorder_early;  /* frames sent before their time, for lack of room in the window */
};

/* The memory of all reorder windows of a shard, with what has left them and is not sent. Written on the shard, `bytes` read by anybody. */
struct feed_room {
	uint64_t bytes, max;
};

static inline bool feed_room_is_over(const struct feed_room *room, uint64_t but)
{
	return room->bytes - but >= room->max;
}

static inline bool feed_room_is_full(const struct feed_room *room)
{
	return feed_room_is_over(room, 0);
}

struct feed {
	struct streams *ss;
	struct feed_opts opts;
	/* Whether each shard has publishes under way or takes new ones; and whether it has cursors. A shard may end when all are 0. */
	_Atomic uint32_t *publishing, *cursors;
	struct svc_feed *shard[SHARD_MAX]; /* for the report; set before the shards run freely */
};

/* Bytes that wait to be taken by a call, and are held until the last send that names them is over: a slice of a log, or bytes of our own. */
struct feed_piece {
	struct svc_feed *feed;
	uint32_t refs, slot;
	uint64_t room_bytes;       /* counted in the shard's feed_room */
	struct stream_slice slice; /* own bytes: p is malloc's */
	bool own;
};

/* What a call is being sent. */
struct feed_out {
	struct feed_piece *piece; /* NULL: nothing */
	size_t at;
};

/* A publish under way. Inside its call for Publish, in an item for PublishMany. */
struct feed_publish {
	struct call *call;
	struct stream_publish *handle;
	struct feed_item *item; /* NULL: Publish */
};
_Static_assert(sizeof(struct feed_publish) <= sizeof(((struct call *)0)->svc), "a publish fits into its call");

struct feed_item {
	struct feed_publish publish;
	struct feed_item *next; /* of its call, in the order of requests */
	uint32_t slot;
	bool done;
	enum stream_error error;
	const struct stream *refused; /* by it, or NULL */
	struct stream_answer answer;
};

/* A PublishMany call. */
struct feed_many {
	struct call *call;
	struct svc_feed *feed;
	struct feed_item *first, **last;
	struct feed_many *next, **link; /* all of the shard */
	TAILQ_ENTRY(feed_many) touched; /* while dirty */
	uint32_t waiting;               /* items */
	uint64_t taken;                 /* requests in all, but for a bad one that ends it */
	struct feed_out out;
	bool half_closed, paused, dirty, blocked;
	bool ending; /* no more is taken; the end follows the last answer */
	enum grpc_status status;
	char text[512];
};

/* As ordinal.v1.SlowPolicy. */
enum feed_slow { FEED_SLOW_WAIT, FEED_SLOW_DROP, FEED_SLOW_DISCONNECT, FEED_SLOW_COUNT };

/* A Subscribe call. The first members are read by the report; the others are the shard's alone. */
struct feed_sub {
	uint32_t stream; /* its number + 1; 0: not known yet, or this slot is free */
	uint32_t live;
	uint64_t lag_bytes, lag_frames;

	struct call *call;
	struct svc_feed *feed;
	uint32_t slot;
	enum feed_slow slow;
	struct stream_cursor *cursor;
	struct feed_count *count; /* NULL until the stream is known */
	struct feed_out out;
	struct feed_sub *next, **link;      /* all of the shard */
	TAILQ_ENTRY(feed_sub) run;          /* while running */
	bool running;                       /* on the list of those to be pumped */
	bool blocked;                       /* the call takes no more for now */
	bool waiting;                       /* the cursor will say when it is ready */
	bool dropping;                      /* the next gap is our own doing */
	bool gone;                          /* GOING_AWAY has been put; the end follows */
	bool torn;                          /* part of a frame was given back: its rest comes before anything else */
	uint64_t again_frames, again_bytes; /* counted already, and to be put once more */
	uint64_t allowed_lag;               /* what it lagged when it went live, or less; the bound counts from there */
	struct feed_reorder *reorder;       /* NULL: none */
	struct timer timer;                 /* with a reorder window: when the next frames are due */
	char *name;                         /* where there are rules of access: the stream's, to ask them again */
};

struct svc_feed {
	struct rpc_shard *rpc;
	struct feed *shared;
	struct streams_view *view;
	struct slab items, subs, pieces;
	struct feed_room room;
	uint64_t pieces_held; /* readable by any thread: core/base/count.h */
	uint32_t subs_made;   /* slots that the report may look at; stored with release */
	struct feed_sub *subscribers;
	struct feed_many *publishers;
	TAILQ_HEAD(feed_run, feed_sub) run;      /* subscribers to be pumped this turn */
	TAILQ_HEAD(feed_dirty, feed_many) dirty; /* PublishMany calls to be looked at this turn */
	struct feed_count *count;                /* of each stream by its number */
	uint64_t delivered;                      /* frames, of all streams; count_add */
	bool draining;
	uint64_t drain_ns; /* when it began */
	struct timer tick;
};

/* svc_feed.c */

enum grpc_status feed_status_of(enum stream_error e);
/* Ends the call with what the error means. */
void feed_refuse(struct call *c, enum stream_error e, const struct stream *s);
/* Puts a subscriber on the list of those to be pumped this turn; takes it off. */
void feed_run(struct feed_sub *sub);
void feed_run_cancel(struct feed_sub *sub);
/* The same with a PublishMany that is to be looked at. */
void feed_touch(struct feed_many *m);
void feed_touch_cancel(struct feed_many *m);
/* Makes sure that the shard's tick runs. */
void feed_watch(struct svc_feed *f);
static inline uint64_t feed_now(const struct svc_feed *f)
{
	return f->rpc->shard->now_ns;
}
/* Whether publishes are still under way on any shard. */
bool feed_is_publishing(const struct feed *f);

/* feed_out.c */

/* A piece of `cap` bytes of its own to be filled (piece->slice.p is writable), or one that holds a slice, which it takes over. NULL: no
 * memory; the slice has been given back then. One reference. */
struct feed_piece *feed_piece_new(struct svc_feed *f, size_t cap);
struct feed_piece *feed_piece_of(struct svc_feed *f, const struct stream_slice *s);
void feed_piece_put(struct feed_piece *p);
/* Takes the piece over. There must be none before. */
void feed_out_set(struct feed_out *o, struct feed_piece *p);
void feed_out_reset(struct feed_out *o);
/* Gives the call what it takes. true: nothing is left. */
bool feed_out_send(struct call *c, struct feed_out *o);

/* feed_publish.c */

void feed_publish_message(struct call *c, struct span msg);
void feed_publish_cancel(struct call *c);
void feed_many_open(struct call *c);
void feed_many_message(struct call *c, struct span msg);
void feed_many_half_close(struct call *c);
void feed_many_cancel(struct call *c);
void feed_many_writable(struct call *c);
/* Sends the answers that are due, and ends, pauses or resumes the call as it should be. It may be gone afterwards. */
void feed_many_turn(struct feed_many *m);
/* No more requests are taken: what is waiting is answered, then the call ends with this status. */
void feed_many_end(struct feed_many *m, enum grpc_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void feed_on_published(void *ctx, void *user, const struct stream_answer *a);
void feed_on_refused(void *ctx, void *user, enum stream_error why);

/* feed_subscribe.c */

void feed_subscribe_message(struct call *c, struct span msg);
void feed_subscribe_cancel(struct call *c);
void feed_subscribe_writable(struct call *c);
void feed_on_ready(void *ctx, void *user);
/* The subscriber gives its slice back, which its call does not take for now. */
void feed_on_give_back(void *ctx, void *user);
/* Sends what the cursor gives and the call takes. It may be gone afterwards. */
void feed_sub_pump(struct feed_sub *sub);
/* Once a second: figures, and slow subscribers whose call takes nothing. It may be gone afterwards. */
void feed_sub_tick(struct feed_sub *sub);

/* feed_reorder.c: the frames of one subscriber that are held back. */

/* `room` outlives it. */
struct feed_reorder *feed_reorder_new(uint64_t window_ns, uint64_t bytes_max, struct feed_room *room);
void feed_reorder_free(struct feed_reorder *r);
/* Takes copies of the frames in `wire`. false: no memory. */
bool feed_reorder_add(struct feed_reorder *r, struct span wire, uint64_t now_ns);
/* When the room is full and nothing is held: true, and the frames in `wire` go as they are, counted as late or early. */
bool feed_reorder_pass(struct feed_reorder *r, struct span wire);
/* How many bytes are to be sent now; `all`: of all frames held. */
size_t feed_reorder_due(struct feed_reorder *r, uint64_t now_ns, bool all);
/* Writes them to `out`, which has that much room, and forgets them. Returns the number of frames. */
uint32_t feed_reorder_take(struct feed_reorder *r, uint8_t *out);
/* When the next ones will be; UINT64_MAX: nothing is held. */
uint64_t feed_reorder_next_ns(const struct feed_reorder *r);
/* Counts of frames since the last call, for the figures: later than their window; sent early for lack of room. */
void feed_reorder_counts(struct feed_reorder *r, uint64_t *ret_late, uint64_t *ret_early);

/* feed_report.c: the members of the section's object, as a report_section's json. */

struct json;
void feed_report_json(void *ctx, struct json *to);

#endif
