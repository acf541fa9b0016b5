/* The insides of the native session, shared by native_session.c (the connection, what is received) and
 * native_send.c (what is sent). For these two only. */
#ifndef ORDINAL_RPC_NATIVE_IMPL_H
#define ORDINAL_RPC_NATIVE_IMPL_H

#include "core/base/check.h"
#include "rpc/native_table.h"
#include "rpc/session.h"
#include "rpc/wire/native.h"

struct native_call {
	struct call call;
	struct native_entry entry; /* its number */
	uint32_t slot;
	bool half_closed, paused;
	bool answered; /* the one message of a unary call has gone, and with LAST its end */
};

struct native_session {
	struct rpc_shard *rpc;
	struct conn *conn;
	struct native_table calls;
	uint32_t streams;        /* calls that are not unary */
	uint32_t stopped;        /* reasons not to read: calls whose service asked to pause, and `behind` being long */
	struct native_call *mid; /* whose message is under way in pieces; NULL: nobody's, or that call has ended */
	uint32_t mid_left;       /* bytes of it that are to come; 0: there is none */
	uint8_t *behind;         /* frames that follow it */
	uint32_t behind_len, behind_cap;
	bool behind_stops; /* counted in `stopped` */
	bool draining, eof, has_token;
	uint32_t access_gen; /* of `who` */
	uint64_t who;        /* its principal: rpc/access.h */
	uint8_t token[ACCESS_DIGEST];
	uint8_t *part; /* a frame cut by the end of a buffer */
	uint32_t part_len, part_cap;
	struct assembly_share assembly;
	struct timer timer; /* a frame that does not get finished; the end of draining */
	uint64_t drain_ns;
	bool quiet; /* at drain_ns it had no call, and had been silent for RPC_QUIET_NS */
};

static inline struct native_session *native_session_of(const struct call *c)
{
	return c->conn->session;
}

/* native_session.c */

/* The call has ended: forgets it. */
void native_call_drop(struct native_call *nc, enum grpc_status status);
/* Ends the connection when the client has, and there is nothing more to do. */
void native_maybe_close(struct native_session *ns);
/* Reads on, if nothing speaks against it. */
void native_maybe_resume(struct native_session *ns);

/* native_send.c */

extern const struct call_ops native_call_ops;
/* One frame into the output, or behind the message under way. false: the connection has ended. */
bool native_put_frame(struct native_session *ns, uint8_t kind, uint16_t code, uint32_t id, const void *p, size_t n);
/* Ends a call, as its client wants or by a rule of the session's. */
void native_end_call(struct native_call *nc, enum grpc_status status, struct span text);
/* The call whose message is under way has ended. */
void native_long_orphan(struct native_session *ns);
/* There is room: a message whose call has ended goes on. */
void native_long_go_on(struct native_session *ns);
void native_behind_free(struct native_session *ns);

#endif
