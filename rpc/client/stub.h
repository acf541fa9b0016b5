/* protobuf-c's generated client stubs over a channel: a `struct stub` is the ProtobufCService that the functions generated for a .proto's services take.
 *
 *	static const struct stub_method methods[] = {{.number = 40}, {.number = 41, .streams = true}};    (one a method, in the .proto's order)
 *	stub_init(&s, &example__v1__readings__descriptor, methods, 100);
 *	stub_set_channel(&s, channel);
 *	example__v1__readings__convert(&s.base, &request, on_reading, ctx);    returns at once; on_reading runs in a later turn
 *
 * With stub_set_sync instead of stub_set_channel the same function returns when the call is over, and its closure has run by then.
 *
 * The closure of a unary call runs exactly once: with the answer, or with NULL if there is none; that of a method that `streams`: with each message of the
 * answer, and then once with NULL. Inside it stub_status says how the call ended. A call that cannot be begun has its closure run inside the
 * generated function, with NULL. The message belongs to the stub and is gone when the closure returns; copy what is to stay. The request is encoded before the
 * generated function returns. A closure may begin and cancel calls, and may close the channel; it may not call stub_done.
 *
 * What protobuf-c's shape has no place for is beside it: deadlines are a field of the stub, and a method whose client streams is begun with stub_begin, and
 * fed with stub_send. Metadata and messages that come compressed are not there at all.
 *
 * Over gRPC any server's services can be called; over native framing those whose methods have numbers (rpc/methods.h). An answer is scanned before it is
 * unpacked (rpc/wire/pb_scan.h), so that a hostile server costs no more than message_max bytes of fields. Thread of the channel only. */
#ifndef ORDINAL_RPC_CLIENT_STUB_H
#define ORDINAL_RPC_CLIENT_STUB_H

#include "core/base/slab.h"
#include "rpc/client/channel.h"

#include <protobuf-c/protobuf-c.h>

struct sync_channel;

struct stub_method {
	uint16_t number; /* in native framing; 0: gRPC only */
	bool streams;    /* the answer is a stream */
};

struct stub {
	ProtobufCService base; /* for the generated functions. base.destroy is stub_done */
	uint64_t timeout_ns;   /* of the calls that are begun from here on; 0: none. The owner's to set, at any time */
	/* Private. */
	const struct stub_method *methods;
	struct channel *channel;
	struct sync_channel *sync;
	const struct channel_status *status;
	struct slab calls;
	uint8_t *packed;
	size_t packed_cap;
};

/* `methods`: as many as the service has, and must stay; NULL: all are unary, and gRPC only. calls_max: in flight; what is above it ends with
 * RESOURCE_EXHAUSTED. 0 or -ENOMEM. */
int stub_init(struct stub *s, const ProtobufCServiceDescriptor *service, const struct stub_method *methods,
	      uint32_t calls_max);
/* No call may be in flight: close the channel first. */
void stub_done(struct stub *s);

/* Calls go over this channel from here on; NULL (as when it has closed): they end with UNAVAILABLE. Calls in flight stay with the channel they are on. */
void stub_set_channel(struct stub *s, struct channel *ch);
/* Calls go over this one, and each generated function waits for the end of its call. */
void stub_set_sync(struct stub *s, struct sync_channel *sync);

/* Of the call whose closure is running: with a message, OK. Valid until the closure returns; outside of closures NULL. */
const struct channel_status *stub_status(const struct stub *s);

/* Begins call `method` (an index into the service's methods) with its first message; the client's side stays open. *ret_call names it until its closure has run
 * for the last time. Not with stub_set_sync. 0; or an error of channel_call, and then the closure does not run. */
int stub_begin(struct stub *s, unsigned method, const ProtobufCMessage *first, ProtobufCClosure closure, void *data,
	       uint32_t *ret_call);
/* A further message / the end of the client's side. As channel_call_send, channel_call_end. */
int stub_send(struct stub *s, uint32_t call, const ProtobufCMessage *m);
int stub_end(struct stub *s, uint32_t call);
/* The closure runs with NULL, inside this call; CANCELLED. */
void stub_cancel(struct stub *s, uint32_t call);

#endif
