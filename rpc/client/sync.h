/* One channel with its own ring and loop, for programs that do one thing after another: `ordinal next`. Blocks the calling thread. */
#ifndef ORDINAL_RPC_CLIENT_SYNC_H
#define ORDINAL_RPC_CLIENT_SYNC_H

#include "rpc/client/channel.h"

struct sync_channel;

/* Resolves "host:port", connects, waits until open. `token`: as channel_opts has it. 0, or -errno with a sentence in why (at most cap bytes, terminated). */
int sync_connect(const char *server, enum channel_protocol protocol, const char *token, uint64_t timeout_ns,
		 struct sync_channel **ret, char *why, size_t cap);
void sync_close(struct sync_channel *s);

#define SYNC_TEXT_MAX 512
struct sync_reply {
	unsigned code;            /* enum grpc_status */
	char text[SYNC_TEXT_MAX]; /* terminated; the server's bytes */
	struct span message;      /* of code GRPC_OK: the one message; valid until the next call on this channel */
};

/* A unary call. timeout_ns: 0 for none. 0 when it ended, in whatever way; or -errno: it could not be started, or the ring failed (why as
 * above in ret->text). An answer of OK without exactly one message is reported as GRPC_INTERNAL. */
int sync_call(struct sync_channel *s, unsigned method, struct span request, uint64_t timeout_ns,
	      struct sync_reply *ret);

#endif
