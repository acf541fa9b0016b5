/* The service grpc.health.v1.Health: what load balancers and supervisors ask. A service is SERVING until the daemon begins to drain. */
#ifndef ORDINAL_RPC_SVC_HEALTH_H
#define ORDINAL_RPC_SVC_HEALTH_H

#include "rpc/typed.h"

#define SVC_HEALTH_METHODS 3
extern const struct typed_method svc_health_methods[SVC_HEALTH_METHODS];

/* Shard thread, when the shard begins to drain, before its connections are told: every watcher hears NOT_SERVING. */
void svc_health_drain(struct rpc_shard *r);

#endif
