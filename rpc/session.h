/* Sessions: what speaks a protocol on a connection. A new connection gets the sniffer, which attaches the session that the first bytes ask for:
 *
 *   0x81…                  native_session.c   (rpc/wire/native.h)
 *   "PRI * HTTP/2.0"…      h2_session.c       (RFC 9113 section 3.4, prior knowledge)
 *
 * A further protocol joins with a session of its own and one line in session.c's table. A filter (TLS) sits below sessions, between them and the
 * connection's bytes, and no session knows of it.
 * Shard thread.
 */
#ifndef ORDINAL_RPC_SESSION_H
#define ORDINAL_RPC_SESSION_H

#include "core/conn.h"
#include "rpc/call.h"

int session_pools_init(struct rpc_shard *r);
void session_pools_done(struct rpc_shard *r);

/* Attaches the sniffer. false: no memory. */
bool session_attach(struct conn *c, struct rpc_shard *r);

/* Each takes over a connection from the sniffer, or returns false without memory. */
bool native_session_start(struct conn *c, struct rpc_shard *r);
bool h2_session_start(struct conn *c, struct rpc_shard *r);
/* Bytes of what each keeps for a connection and for a call. */
size_t native_session_size(void);
size_t native_call_size(void);
size_t h2_stream_size(void);

#endif
