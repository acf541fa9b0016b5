/* The bridge between protobuf-c's service stubs and a channel; see the header. A call in flight is a slot of `calls`; a unary answer waits in it for the
 * call's status, because a message counts only with OK. Runs on the channel's thread. */
#include "rpc/client/stub.h"

#include "core/base/check.h"
#include "rpc/client/sync.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb_scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCAN_SIZE_MAX SIZE_MAX /* channel_opts.message_max is the bound */

struct stub_call {
	struct stub *stub;
	struct channel *channel;
	uint32_t call; /* the channel's name for it */
	uint32_t slot; /* ours */
	const ProtobufCMessageDescriptor *output;
	bool streams;
	ProtobufCClosure closure;
	void *data;
	ProtobufCMessage *answer; /* of a unary call */
	unsigned answers;
	const char *fault; /* of the answer; NULL: none */
	bool *ended;       /* set at the end; NULL: nobody waits */
};

static void tell(struct stub *s, ProtobufCClosure closure, void *data, const ProtobufCMessage *m,
		 const struct channel_status *status)
{
	const struct channel_status *outer = s->status; /* a closure that begins a call which fails at once */
	s->status = status;
	closure(m, data);
	s->status = outer;
}

static ProtobufCMessage *unpack(const struct stub_call *c, struct span msg, const char **ret_fault)
{
	struct pb_scan_limits limits = PB_SCAN_LIMITS;
	limits.size_max = SCAN_SIZE_MAX;
	int r = pb_scan(msg, c->output, &limits);
	uint8_t *copy = r == PB_SCAN_E_GROUPS ? malloc(msg.n) : NULL;
	if (r == PB_SCAN_E_GROUPS && copy) {
		memcpy(copy, msg.p, msg.n);
		pb_hide_groups(copy, msg.n, c->output, &limits);
		msg.p = copy;
	} else if (r == PB_SCAN_E_GROUPS) {
		*ret_fault = "there is no memory to unpack it";
		return NULL;
	}
	ProtobufCMessage *m = r < 0 ? NULL : protobuf_c_message_unpack(c->output, NULL, msg.n, msg.p);
	if (!m)
		*ret_fault = r < 0 ? pb_scan_error_text(r) : "it cannot be unpacked";
	free(copy);
	return m;
}

static void on_message(void *ctx, struct span msg)
{
	struct stub_call *c = ctx;
	if (c->fault || (!c->streams && c->answers++ > 0))
		return; /* the end tells of it */
	ProtobufCMessage *m = unpack(c, msg, &c->fault);
	if (!m) {
		if (c->streams)
			channel_call_cancel(c->channel, c->call);
		return;
	}
	if (!c->streams) {
		c->answer = m;
		return;
	}
	tell(c->stub, c->closure, c->data, m, &(struct channel_status){.code = GRPC_OK});
	protobuf_c_message_free_unpacked(m, NULL);
}

/* What the server calls OK is none without exactly one answer that makes sense. */
static const char *fault_of(const struct stub_call *c)
{
	if (c->fault || c->streams)
		return c->fault;
	return c->answers == 1 ? NULL : c->answers ? "more than one message" : "no message";
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct stub_call c = *(struct stub_call *)ctx;
	struct channel_status status = *st;
	char text[200];
	const char *fault = fault_of(&c);
	if (fault && (status.code == GRPC_OK || c.fault)) {
		int n = snprintf(text, sizeof text, "the answer is no %s: %s", c.output->name, fault);
		status = (struct channel_status){
			.code = GRPC_INTERNAL,
			.text = {(const uint8_t *)text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1}};
	}
	slab_put(&c.stub->calls, c.slot); /* so that the closure may begin the next */
	tell(c.stub, c.closure, c.data, status.code == GRPC_OK ? c.answer : NULL, &status);
	if (c.answer)
		protobuf_c_message_free_unpacked(c.answer, NULL);
	if (c.ended)
		*c.ended = true;
}

static const struct channel_call_ops call_ops = {.message = on_message, .done = on_done};

static int pack(struct stub *s, const ProtobufCMessage *m, struct span *ret)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	if (n > s->packed_cap) {
		uint8_t *p = realloc(s->packed, n);
		if (!p)
			return -ENOMEM;
		s->packed = p;
		s->packed_cap = n;
	}
	*ret = (struct span){s->packed, n ? protobuf_c_message_pack(m, s->packed) : 0};
	return 0;
}

static int start(struct stub *s, unsigned method, const ProtobufCMessage *first, unsigned flags,
		 ProtobufCClosure closure, void *data, bool *ended, struct stub_call **ret_call)
{
	const ProtobufCServiceDescriptor *d = s->base.descriptor;
	const struct stub_method *m = s->methods ? &s->methods[method] : &(struct stub_method){0};
	char path[CHANNEL_PATH_MAX + 1];
	struct span request;
	uint32_t slot;
	CHECK(method < d->n_methods);
	if (!s->channel)
		return -ESHUTDOWN;
	int n = snprintf(path, sizeof path, "/%s/%s", d->name, d->methods[method].name);
	if (n >= (int)sizeof path)
		return -EINVAL;
	int r = pack(s, first, &request);
	if (r)
		return r;
	struct stub_call *c = slab_get(&s->calls, &slot);
	if (!c)
		return s->calls.used >= s->calls.max ? -EAGAIN : -ENOMEM;
	*c = (struct stub_call){.stub = s,
				.channel = s->channel,
				.slot = slot,
				.output = d->methods[method].output,
				.streams = m->streams,
				.closure = closure,
				.data = data,
				.ended = ended};
	struct channel_method how = {{(const uint8_t *)path, (size_t)n}, m->number};
	r = channel_call_method(s->channel, &how, request, s->timeout_ns, flags, &call_ops, c, &c->call);
	if (r)
		slab_put(&s->calls, slot);
	*ret_call = c;
	return r;
}

static struct channel_status status_of(int r)
{
	static const struct {
		int error;
		struct channel_status status;
	} known[] = {
		{-EAGAIN, {GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("as many calls in flight as are allowed"), true}},
		{-ENOTCONN, {GRPC_UNAVAILABLE, SPAN_LIT("the connection does not stand yet"), true}},
		{-ESHUTDOWN, {GRPC_UNAVAILABLE, SPAN_LIT("the connection is closed, or about to"), true}},
		{-EINVAL, {GRPC_UNIMPLEMENTED, SPAN_LIT("the method cannot be called over this protocol"), true}},
		{-EMSGSIZE, {GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("the request is too large to be framed"), true}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].error == r)
			return known[i].status;
	return (struct channel_status){GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for the call"), true};
}

/* The loop, until the call is over. When the ring fails nothing else will end it. */
static void wait_for(struct stub *s, const struct stub_call *c, const bool *ended)
{
	while (!*ended)
		if (sync_turn(s->sync, UINT64_MAX) && !*ended)
			channel_call_cancel(c->channel, c->call);
}

static void invoke(ProtobufCService *base, unsigned method, const ProtobufCMessage *input, ProtobufCClosure closure,
		   void *data)
{
	struct stub *s = container_of(base, struct stub, base);
	bool ended = false;
	struct stub_call *call;
	if (s->sync) {
		sync_turn(s->sync, 0); /* timeouts count from the time of the last turn */
		s->channel = sync_channel_of(s->sync);
	}
	int r = start(s, method, input, 0, closure, data, s->sync ? &ended : NULL, &call);
	if (r) {
		struct channel_status status = status_of(r);
		tell(s, closure, data, NULL, &status);
	} else if (s->sync) {
		wait_for(s, call, &ended);
	}
}

static void destroy(ProtobufCService *base)
{
	stub_done(container_of(base, struct stub, base));
}

int stub_init(struct stub *s, const ProtobufCServiceDescriptor *service, const struct stub_method *methods,
	      uint32_t calls_max)
{
	*s = (struct stub){.base = {.descriptor = service, .invoke = invoke, .destroy = destroy}, .methods = methods};
	return slab_init(&s->calls, sizeof(struct stub_call), calls_max);
}

void stub_done(struct stub *s)
{
	CHECK(s->calls.used == 0);
	slab_done(&s->calls);
	free(s->packed);
	s->packed = NULL;
}

void stub_set_channel(struct stub *s, struct channel *ch)
{
	s->channel = ch;
	s->sync = NULL;
}

void stub_set_sync(struct stub *s, struct sync_channel *sync)
{
	s->sync = sync;
}

const struct channel_status *stub_status(const struct stub *s)
{
	return s->status;
}

int stub_begin(struct stub *s, unsigned method, const ProtobufCMessage *first, ProtobufCClosure closure, void *data,
	       uint32_t *ret_call)
{
	struct stub_call *c;
	CHECK(!s->sync);
	int r = start(s, method, first, CHANNEL_MORE, closure, data, NULL, &c);
	if (r == 0)
		*ret_call = c->slot;
	return r;
}

int stub_send(struct stub *s, uint32_t call, const ProtobufCMessage *m)
{
	const struct stub_call *c = slab_at(&s->calls, call);
	struct span msg;
	int r = pack(s, m, &msg);
	return r ? r : channel_call_send(c->channel, c->call, msg, CHANNEL_MORE);
}

int stub_end(struct stub *s, uint32_t call)
{
	const struct stub_call *c = slab_at(&s->calls, call);
	return channel_call_end(c->channel, c->call);
}

void stub_cancel(struct stub *s, uint32_t call)
{
	const struct stub_call *c = slab_at(&s->calls, call);
	channel_call_cancel(c->channel, c->call);
}
