/* The comparison mode HANDLER_THREADS: shards hand requests to worker threads through a queue of the family, and the workers' answers come back
 * through an SPSC ring for each pair of worker and shard, with the shard's doorbell. For Ids.Next and the bench service's Echo; all else runs on
 * the shard to completion, as everything does without this mode.
 *
 *   shard:  request -> job ----- HANDLER_QUEUE (tokens) ----> worker: IDs of its own view, or gzip
 *           answer  <- job <---- back[shard][worker] ---------
 *
 * A worker sees jobs, never calls: a token names a job by shard, slot and generation, and a job's memory stays its worker's until the token is back,
 * also when the call has ended meanwhile.
 */
#ifndef ORDINAL_RPC_WORKERS_H
#define ORDINAL_RPC_WORKERS_H

#include "queue/ids.h"
#include "rpc/call.h"

#define WORKERS_MAX 64

struct workers;

struct workers_opts {
	unsigned threads, shards;
	const char *queue; /* a member of queue/family */
	enum ids_order order;
	uint32_t message_max; /* bytes, also after inflating */
	uint64_t
		bytes_max; /* of requests and answers, of one shard; at least twice message_max, or the largest are always refused */
};

/* Whether the options go together and name a queue: 0, or -EINVAL with a sentence in *ret_why. */
int workers_check(const struct workers_opts *o, const char **ret_why);
/* Main thread. `ids` must have been opened for shards + threads views. 0, or -errno with a sentence in *ret_why (or NULL there). */
int workers_new(const struct workers_opts *o, struct ids *ids, struct workers **ret, const char **ret_why);
/* Starts the threads, after ids_start and before the shards. Stop: after the shards have ended and before ids_stop. Free: before ids_free. */
int workers_start(struct workers *w);
void workers_stop(struct workers *w);
void workers_free(struct workers *w);

/* Shard thread: sets r->workers. 0 or -ENOMEM. */
int workers_join(struct workers *w, struct rpc_shard *r);
/* Shard thread, once a turn: gives the answers that have come. */
void workers_turn(struct rpc_shard *r);
bool workers_pending(struct rpc_shard *r);

/* In place of svc_ids' Next and svc_bench's Echo. */
extern const struct method workers_next_method, workers_echo_method;

/* Adds what the views of this shard's part of the workers have counted. Any thread; w may be NULL. */
void workers_add_ids(const struct workers *w, unsigned shard, struct ids_view_stats *sum);

#endif
