/* The service ordinal.bench.v1.Bench: a call that costs its handler some work, for bench/server-queues. Registered only with BENCH_SERVICE. */
#ifndef ORDINAL_RPC_SVC_BENCH_H
#define ORDINAL_RPC_SVC_BENCH_H

#include "rpc/call.h"
#include "rpc/gzip.h"

#define SVC_BENCH_METHODS 1
/* Run to completion on the shard. (rpc/workers.h has the one that is handed to a worker.) */
extern const struct method svc_bench_methods[SVC_BENCH_METHODS];

/* After the shard's thread has ended. */
void svc_bench_stop(struct rpc_shard *r);

/* What one thread needs for the work; zero-filled at first. */
struct svc_bench_room {
	struct gzip *gzip;
	uint8_t *out;
	size_t cap;
};
void svc_bench_room_done(struct svc_bench_room *room);

/* The work: a Blob, inflated to at most `max` bytes and deflated again, as a Blob in the room's memory, which stays until its next use. The room's
 * thread. GRPC_OK, or why not, with a sentence in *ret. */
enum grpc_status svc_bench_echo(struct svc_bench_room *room, struct span msg, size_t max, struct span *ret);

#endif
