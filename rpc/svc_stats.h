/* The service ordinal.v1.Stats: the pages of the stats socket over the network. Its methods, and its state on each shard.
 *
 * Who may: with rules of access, who has the right `stats` (or admin). Without rules everybody may do everything, so everybody may ask; but the
 * addresses of clients that were refused something are left out then. They say something about third parties, which no other method does, and
 * where nobody shows who he is, nobody has been allowed to know them; the stats socket, whose file guards it, tells them. */
#ifndef ORDINAL_RPC_SVC_STATS_H
#define ORDINAL_RPC_SVC_STATS_H

#include "rpc/pages.h"
#include "rpc/report.h"
#include "rpc/typed.h"

#define SVC_STATS_METHODS 1
extern const struct typed_method svc_stats_methods[SVC_STATS_METHODS];

/* Shard thread: sets r->stats_calls. `pages` has REPORT_KINDS kinds, report_reply's. 0 or -ENOMEM. */
int svc_stats_start(struct rpc_shard *r, struct pages *pages);
/* After that thread has ended. */
void svc_stats_stop(struct rpc_shard *r);
/* Once a turn: answers with the pages that have come. */
void svc_stats_turn(struct rpc_shard *r);
bool svc_stats_pending(struct rpc_shard *r);

#endif
