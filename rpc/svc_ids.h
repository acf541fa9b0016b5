/* The service ordinal.v1.Ids: its methods, and its state on each shard. */
#ifndef ORDINAL_RPC_SVC_IDS_H
#define ORDINAL_RPC_SVC_IDS_H

#include "queue/ids.h"
#include "rpc/call.h"

#define SVC_IDS_METHODS 2
extern const struct method svc_ids_methods[SVC_IDS_METHODS];

/* Shard thread: sets r->ids. 0 or -ENOMEM. */
int svc_ids_start(struct rpc_shard *r, struct ids *ids);
/* After that thread has ended. */
void svc_ids_stop(struct rpc_shard *r);
/* Once a turn: claims and answers. */
void svc_ids_turn(struct rpc_shard *r);
/* Whether another thread has put something there to look at. */
bool svc_ids_pending(struct rpc_shard *r);
/* How a call ends that is refused with `e`. Any thread. */
enum grpc_status svc_ids_status(enum ids_error e);
const struct ids_view *svc_ids_view(const struct rpc_shard *r);

#endif
