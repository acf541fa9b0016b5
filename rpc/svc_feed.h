/* The service ordinal.v1.Feed: its methods, what its shards share, and its state on each shard. */
#ifndef ORDINAL_RPC_SVC_FEED_H
#define ORDINAL_RPC_SVC_FEED_H

#include "queue/stream.h"
#include "rpc/call.h"

#define SVC_FEED_METHODS 3
extern const struct method svc_feed_methods[SVC_FEED_METHODS];

struct report;
struct feed; /* one for the daemon */

struct feed_opts {
	unsigned shards;
	uint32_t streams_max;
	uint32_t pipeline;      /* unanswered requests of one PublishMany */
	uint64_t held_max;      /* bytes, as streams_opts.held_max: PublishMany stops at half of it */
	uint64_t lag_max;       /* bytes: SLOW_DROP, SLOW_DISCONNECT */
	uint32_t reorder_ms;    /* of subscribers who ask for no window */
	uint64_t reorder_bytes; /* held for one subscriber at the most */
	uint64_t reorder_total; /* for all subscribers of a shard */
};

/* Main thread. `ss` must outlive it. NULL: no memory. */
struct feed *feed_new(struct streams *ss, const struct feed_opts *opts);
/* After svc_feed_stop on every shard. */
void feed_free(struct feed *f);
/* Joins the report: a section "streams", and the rates of frames published and delivered. Before the first sample; `f` must outlive the
 * report. Main thread. */
void feed_join_report(struct feed *f, struct report *r);

/* Shard thread: sets r->feed. 0 or -ENOMEM. */
int svc_feed_start(struct rpc_shard *r, struct feed *f);
/* After that thread has ended, and after streams_stop and journal_close. Main thread. */
void svc_feed_stop(struct rpc_shard *r);
/* Once a turn: appends, answers, and sends to subscribers. */
void svc_feed_turn(struct rpc_shard *r);
/* Whether there is something to do, after the doorbell is armed. */
bool svc_feed_pending(struct rpc_shard *r);
/* The shard begins to drain: nothing new is taken, publishes in flight are answered, subscribers get what is durable and GOING_AWAY. */
void svc_feed_drain(struct rpc_shard *r);
/* What clients have here at the moment. Any thread, between svc_feed_start and svc_feed_stop. */
struct svc_feed_figures {
	uint64_t subscriptions;
	uint64_t publishes; /* not answered yet, or whose clients have gone meanwhile */
	uint64_t held;      /* bytes of those that wait to be appended */
	uint64_t pieces;    /* of streams, that are being sent or wait to be */
};
void svc_feed_figures(const struct rpc_shard *r, struct svc_feed_figures *ret);
/* Whether this shard must go on turning: other shards' publishes or cursors may need the streams that it owns. */
bool svc_feed_needed(struct rpc_shard *r);

#endif
