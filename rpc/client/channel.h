/* One connection to a server, and the calls on it. Speaks gRPC (HTTP/2 with prior knowledge) or Ordinal's native framing, in cleartext or over TLS.
 *
 *   CONNECTING --opened--> OPEN --GOAWAY--> DRAINING --last call done--> CLOSED
 *        |                   |                  |                          ^
 *        +---- error --------+---- error -------+------ channel_close -----+
 *
 * The owner is told of each arrow. What to do after CLOSED (connect again, where, when) is its policy, not ours. Messages are bytes here:
 * who encodes and decodes them is the caller's matter. Bytes given to a callback are valid until it returns.
 *
 * Requests of one turn leave in one send. A call costs a slab slot and no allocation; a message that comes whole is handed out in
 * place. Owner thread only, as client.h. Source: rpc/wire/native.h; RFC 9113; gRPC's PROTOCOL-HTTP2.md. */
#ifndef ORDINAL_RPC_CLIENT_CHANNEL_H
#define ORDINAL_RPC_CLIENT_CHANNEL_H

#include "core/base/bytes.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct client;
struct channel;
struct tls_context;

enum channel_protocol { CHANNEL_NATIVE, CHANNEL_GRPC };

struct channel_opts {
	enum channel_protocol protocol;
	const char *authority; /* HTTP/2's :authority, "host:port"; copied; NULL: "localhost" */
	struct tls_context
		*tls;         /* from tls_client_context_new; the channel counts its own use of it; NULL: cleartext */
	const char *tls_name; /* what the server's certificate must be for (core/tls.h); copied; not NULL with tls */
	const char *token;    /* a bearer token (rpc/access.h), sent with every call; copied; NULL: none */
	uint32_t calls_max;   /* in flight; 0: 1024 */
	uint32_t message_max; /* bytes of one received message; 0: 4 MiB */
	uint32_t queue_max;   /* bytes queued for sending above which new messages are refused; 0: 4 MiB */
	uint64_t connect_timeout_ns; /* until `opened`; 0: 5 s */
	/* While calls are in flight and nothing has come for so long, the server is asked for a sign of life (PING); if
	 * nothing comes for as long again, the channel closes with -ETIMEDOUT. 0: 10 s; UINT64_MAX: never. */
	uint64_t keepalive_ns;
};

struct channel_events {
	/* Calls may start: the server itself has answered (native: a first PONG; gRPC: SETTINGS). */
	void (*opened)(void *ctx, struct channel *ch);
	/* The server asked for no new calls; those in flight go on, and the channel closes by itself after the last. May be NULL. */
	void (*draining)(void *ctx, struct channel *ch);
	/* The last callback: every call is done, the socket is closed, and `ch` is gone when this returns. err: 0 after channel_close or a
	 * finished drain, else -errno, with a sentence in `why`. -EKEYREJECTED: TLS has failed:
	 * a certificate or its name was refused, by either side, or there is no TLS here. */
	void (*closed)(void *ctx, struct channel *ch, int err, const char *why);
};

/* Begins to connect / takes over a connected stream socket (closed with the channel). Results come as events, never inside this call. 0;
 * -EINVAL: a token or name that cannot be one; -ENOMEM, -EMFILE …; -ENOSPC: channels_max. `addr` may go afterwards; `events` must stay. */
int channel_connect(struct client *c, const struct channel_opts *opts, const struct sockaddr *addr, socklen_t len,
		    const struct channel_events *events, void *ctx, struct channel **ret);
int channel_adopt(struct client *c, const struct channel_opts *opts, int fd, const struct channel_events *events,
		  void *ctx, struct channel **ret);
/* Calls in flight end with UNAVAILABLE, inside this call; `closed` comes in a later turn. Harmless when closing already. */
void channel_close(struct channel *ch);

/* How a call ended. */
struct channel_status {
	unsigned code;    /* enum grpc_status; UNKNOWN for a code that is none of gRPC's */
	struct span text; /* UTF-8 by convention, but the server's bytes; may be empty */
	bool unprocessed; /* the server is known not to have looked at the call: safe to try again elsewhere */
};

struct channel_call_ops {
	/* One message of the answer. */
	void (*message)(void *ctx, struct span msg);
	/* The call is over; its number is free for reuse before this runs, so it may start the next. */
	void (*done)(void *ctx, const struct channel_status *status);
};

#define CHANNEL_MORE 1u /* the client's side stays open for channel_call_send */

/* Starts a call of `method` (enum method_number) with its first message. timeout_ns: 0 for none; counted
 * from client_now_ns, told to the server, and kept here.
 * `ops` must stay; `ret_call` (may be NULL) names the call until `done`. No callback runs inside. 0, or
 *   -EAGAIN     as many calls in flight as are allowed (channel_calls_limit), or queue_max reached: after a turn that ends calls or sends
 *   -ENOTCONN   not open yet      -ESHUTDOWN  draining, closed, or out of stream numbers (it closes
 *               by itself): use another channel
 *   -EINVAL     no such method    -EMSGSIZE   the message cannot be framed    -ENOMEM */
int channel_call(struct channel *ch, unsigned method, struct span request, uint64_t timeout_ns, unsigned flags,
		 const struct channel_call_ops *ops, void *ctx, uint32_t *ret_call);
/* A method that rpc/methods.h does not have: of a service added since, or of any gRPC server. */
#define CHANNEL_PATH_MAX 512
struct channel_method {
	struct span
		path; /* gRPC: "/package.Service/Method", at most CHANNEL_PATH_MAX bytes; read during the call of channel_call_method only */
	uint16_t number; /* native framing; 0: not reachable there (-EINVAL) */
};
/* As channel_call. The path is sent in full each time, where those of methods.h are a byte after the first. */
int channel_call_method(struct channel *ch, const struct channel_method *method, struct span request,
			uint64_t timeout_ns, unsigned flags, const struct channel_call_ops *ops, void *ctx,
			uint32_t *ret_call);

/* A further message of a call that was started with CHANNEL_MORE; without CHANNEL_MORE in `flags` it is the last. 0; -EAGAIN, -EMSGSIZE, -ENOMEM as
 * above; -EPIPE: the client's side has ended. */
int channel_call_send(struct channel *ch, uint32_t call, struct span msg, unsigned flags);
/* Ends the client's side without a further message. 0; -EPIPE; -ENOMEM. */
int channel_call_end(struct channel *ch, uint32_t call);
/* `done` runs with CANCELLED inside this call. */
void channel_call_cancel(struct channel *ch, uint32_t call);

uint32_t channel_calls_limit(const struct channel *ch); /* calls_max, or less where the server allows less */
uint32_t channel_calls(const struct channel *ch);       /* not done yet */
bool channel_is_open(const struct channel *ch);

#endif
