/* One channel with its own ring and loop, for programs that do one thing after another: `ordinal next`. Blocks the calling thread. */
#ifndef ORDINAL_RPC_CLIENT_SYNC_H
#define ORDINAL_RPC_CLIENT_SYNC_H

#include "rpc/client/channel.h"

struct sync_channel;

/* Resolves "host:port", connects, waits until open. `opts`: as for channel_connect; where it names no authority that is `server`, and calls_max is
 * ours. 0, or -errno with a sentence in why (at most cap bytes, terminated). */
int sync_connect(const char *server, const struct channel_opts *opts, struct sync_channel **ret, char *why, size_t cap);
void sync_close(struct sync_channel *s);

/* For rpc/client/stub.h. The channel, or NULL once it has closed; a turn of its loop, as client_turn. */
struct channel *sync_channel_of(const struct sync_channel *s);
int sync_turn(struct sync_channel *s, uint64_t timeout_ns);

#define SYNC_TEXT_MAX 512
struct sync_reply {
	unsigned code;            /* enum grpc_status */
	char text[SYNC_TEXT_MAX]; /* terminated; the server's, fit for a terminal */
	struct span message;      /* of code GRPC_OK: the one message; valid until the next call on this channel */
};

/* A unary call. timeout_ns: 0 for none. 0 when it ended, in whatever way; or -errno: it could not be started, or the ring failed (why as
 * above in ret->text). An answer of OK without exactly one message is reported as GRPC_INTERNAL. */
int sync_call(struct sync_channel *s, unsigned method, struct span request, uint64_t timeout_ns,
	      struct sync_reply *ret);

#endif
