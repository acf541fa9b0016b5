/* Handlers on protobuf-c's generated types: what a new service is written with. The request has been scanned (rpc/wire/pb_scan.h) and unpacked within a
 * budget before its handler sees it; it lives until the handler returns.
 *
 *	static void say(struct call *c, const ProtobufCMessage *m)
 *	{
 *		const Demo__Request *req = (const Demo__Request *)m;
 *		Demo__Reply reply = DEMO__REPLY__INIT;
 *		reply.text = req->text;
 *		typed_reply(c, &reply.base);
 *	}
 *	static const struct typed_method demo[] = {{TYPED("demo.Greeter", "Say", METHOD_UNARY), &demo__request__descriptor, say}};
 *
 * Shard thread. */
#ifndef ORDINAL_RPC_TYPED_H
#define ORDINAL_RPC_TYPED_H

#include "rpc/call.h"

#include <protobuf-c/protobuf-c.h>

struct typed_method {
	struct method method; /* .message is typed_message */
	const ProtobufCMessageDescriptor *request;
	void (*handle)(struct call *c, const ProtobufCMessage *request);
};

#define TYPED(service_name, method_name, method_kind, ...)                                                             \
	.method = {.service = (service_name),                                                                          \
		   .name = (method_name),                                                                              \
		   .kind = (method_kind),                                                                              \
		   .message = typed_message,                                                                           \
		   __VA_ARGS__}

void typed_message(struct call *c, struct span msg);

/* Packs and sends: the whole answer of a unary call; or one message of a streaming one, with call_send's result. Without memory the call ends with
 * RESOURCE_EXHAUSTED. */
void typed_reply(struct call *c, const ProtobufCMessage *m);
bool typed_send(struct call *c, const ProtobufCMessage *m);

/* Main thread: adds each. */
void typed_table_add(struct method_table *t, const struct typed_method *methods, unsigned n);

#endif
