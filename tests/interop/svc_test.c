/* grpc.testing.TestService; see the header. Runs on the shard. A streaming call keeps a queue of the answers it owes and sends them one by one, at their
 * intervals and as the client takes them. Source: gRPC's interop-test-descriptions.md. */
#include "tests/interop/svc_test.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "grpc/testing/test.pb-c.h"

#include <stdlib.h>
#include <string.h>

enum { SIZE_MAX_ASKED = 16 << 20 };

/* One answer that is owed. */
struct owed {
	struct owed *next;
	uint32_t size;
	uint64_t interval_ns;
	bool compressed;
};

struct stream {
	struct call *call;
	struct timer timer;
	struct owed *first, **last;
	uint64_t received; /* bytes of payload */
	bool timed;        /* the timer for the first one is running, or has fired */
	bool due;
	bool blocked; /* until `writable` */
	bool holding; /* HalfDuplexCall: until the half close */
	bool half_closed;
	uint32_t end_code; /* status to end with, once all is sent */
	bool ending;
	char *end_text;
};

static struct stream *stream_of(struct call *c)
{
	return c->svc.ptr;
}

static void stream_free(struct call *c)
{
	struct stream *s = stream_of(c);
	if (!s)
		return;
	c->svc.ptr = NULL;
	wheel_del(&c->rpc->shard->wheel, &s->timer);
	for (struct owed *o = s->first, *next; o; o = next) {
		next = o->next;
		free(o);
	}
	free(s->end_text);
	free(s);
}

/* Metadata that the client wants to see again. */
static void echo_metadata(struct call *c)
{
	struct span initial = SPAN_LIT("x-grpc-test-echo-initial"),
		    trailing = SPAN_LIT("x-grpc-test-echo-trailing-bin"), v;
	if (!c->extra)
		return;
	if (metadata_get(&c->extra->request, initial, 0, &v))
		metadata_add(&c->extra->initial, initial, v);
	if (metadata_get(&c->extra->request, trailing, 0, &v))
		metadata_add(&c->extra->trailing, trailing, v);
}

static bool compression_is_as_expected(const struct call *c, const Grpc__Testing__BoolValue *expected)
{
	return !expected || (expected->value != 0) == c->was_compressed;
}

/* Zeros for as long as the process lives. */
static uint8_t *zeros(void)
{
	static uint8_t bytes[SIZE_MAX_ASKED];
	return bytes;
}

static void on_empty(struct call *c, const ProtobufCMessage *m)
{
	Grpc__Testing__Empty reply = GRPC__TESTING__EMPTY__INIT;
	echo_metadata(c);
	typed_reply(c, &reply.base);
}

static void on_unary(struct call *c, const ProtobufCMessage *m)
{
	const Grpc__Testing__SimpleRequest *req = (const Grpc__Testing__SimpleRequest *)m;
	Grpc__Testing__SimpleResponse reply = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
	Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
	echo_metadata(c);
	if (!compression_is_as_expected(c, req->expect_compressed)) {
		call_finish(c, GRPC_INVALID_ARGUMENT,
			    SPAN_LIT("the request's compression is not what it says it expects"));
		return;
	}
	if (req->response_status && req->response_status->code) {
		call_finish(c, (enum grpc_status)req->response_status->code,
			    (struct span){(const uint8_t *)req->response_status->message,
					  strlen(req->response_status->message)});
		return;
	}
	if (req->response_size < 0 || req->response_size > SIZE_MAX_ASKED) {
		call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT("response_size is out of range"));
		return;
	}
	payload.body = (ProtobufCBinaryData){(size_t)req->response_size, zeros()};
	reply.payload = &payload;
	c->compress = req->response_compressed && req->response_compressed->value;
	typed_reply(c, &reply.base);
}

/* Streams. */

static void on_open(struct call *c)
{
	struct stream *s = calloc(1, sizeof *s);
	echo_metadata(c);
	if (!s) {
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory"));
		return;
	}
	s->call = c;
	s->last = &s->first;
	c->svc.ptr = s;
}

static void on_half_duplex_open(struct call *c)
{
	on_open(c);
	if (stream_of(c))
		stream_of(c)->holding = true;
}

static void finish(struct call *c)
{
	struct stream *s = stream_of(c);
	enum grpc_status code = s->ending ? (enum grpc_status)s->end_code : GRPC_OK;
	char *text = s->end_text;
	s->end_text = NULL;
	stream_free(c);
	call_finish(c, code, (struct span){(const uint8_t *)text, text ? strlen(text) : 0});
	free(text);
}

static void send_one(struct stream *s)
{
	struct owed *o = s->first;
	Grpc__Testing__StreamingOutputCallResponse reply = GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
	Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
	payload.body = (ProtobufCBinaryData){o->size, zeros()};
	reply.payload = &payload;
	s->first = o->next;
	if (!s->first)
		s->last = &s->first;
	s->timed = s->due = false;
	s->call->compress = o->compressed;
	free(o);
	s->blocked = !typed_send(s->call, &reply.base);
}

/* Sends what is owed and due. */
static void advance(struct call *c)
{
	struct stream *s = stream_of(c);
	if (s->holding)
		return;
	while (s->first && !s->blocked) {
		if (s->first->interval_ns && !s->timed) {
			s->timed = true;
			wheel_add(&c->rpc->shard->wheel, &s->timer, c->rpc->shard->now_ns + s->first->interval_ns);
		}
		if (s->first->interval_ns && !s->due)
			return;
		send_one(s);
		if (!c->live)
			return;
	}
	if (!s->first && (s->ending || s->half_closed))
		finish(c);
}

static void on_timer(struct timer *t, void *ctx)
{
	struct stream *s = container_of(t, struct stream, timer);
	s->due = true;
	advance(s->call);
}

static bool owe(struct stream *s, const Grpc__Testing__ResponseParameters *p)
{
	struct owed *o = p->size < 0 || p->size > SIZE_MAX_ASKED || p->interval_us < 0 ? NULL : malloc(sizeof *o);
	if (!o)
		return false;
	*o = (struct owed){.size = (uint32_t)p->size,
			   .interval_ns = (uint64_t)p->interval_us * NS_PER_US,
			   .compressed = p->compressed && p->compressed->value};
	*s->last = o;
	s->last = &o->next;
	return true;
}

static void on_output(struct call *c, const ProtobufCMessage *m)
{
	const Grpc__Testing__StreamingOutputCallRequest *req = (const Grpc__Testing__StreamingOutputCallRequest *)m;
	struct stream *s = stream_of(c);
	if (!s)
		return;
	s->timer.fire = on_timer;
	for (size_t i = 0; i < req->n_response_parameters; i++) {
		if (!owe(s, req->response_parameters[i])) {
			stream_free(c);
			call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT("response_parameters are out of range"));
			return;
		}
	}
	if (req->response_status && req->response_status->code) {
		s->ending = true;
		s->end_code = (uint32_t)req->response_status->code;
		s->end_text = strdup(req->response_status->message);
	}
	if (c->method->kind == METHOD_SERVER_STREAM)
		s->half_closed = true;
	advance(c);
}

static void on_input(struct call *c, const ProtobufCMessage *m)
{
	const Grpc__Testing__StreamingInputCallRequest *req = (const Grpc__Testing__StreamingInputCallRequest *)m;
	if (!stream_of(c))
		return;
	if (!compression_is_as_expected(c, req->expect_compressed)) {
		stream_free(c);
		call_finish(c, GRPC_INVALID_ARGUMENT,
			    SPAN_LIT("a message's compression is not what it says it expects"));
		return;
	}
	if (req->payload)
		stream_of(c)->received += req->payload->body.len;
}

static void on_input_end(struct call *c)
{
	Grpc__Testing__StreamingInputCallResponse reply = GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
	if (!stream_of(c))
		return;
	uint64_t received = stream_of(c)->received;
	reply.aggregated_payload_size = received < INT32_MAX ? (int32_t)received : INT32_MAX;
	stream_free(c);
	typed_reply(c, &reply.base);
}

static void on_duplex_end(struct call *c)
{
	struct stream *s = stream_of(c);
	if (!s)
		return;
	s->half_closed = true;
	s->holding = false;
	advance(c);
}

static void on_writable(struct call *c)
{
	struct stream *s = stream_of(c);
	if (!s)
		return;
	s->blocked = false;
	advance(c);
}

#define STREAM(name, kind, ...)                                                                                        \
	TYPED("grpc.testing.TestService", name, kind, .metadata = true, .compress = true, __VA_ARGS__)

const struct typed_method svc_test_methods[SVC_TEST_METHODS] = {
	{STREAM("EmptyCall", METHOD_UNARY), &grpc__testing__empty__descriptor, on_empty},
	{STREAM("UnaryCall", METHOD_UNARY), &grpc__testing__simple_request__descriptor, on_unary},
	{STREAM("StreamingOutputCall", METHOD_SERVER_STREAM, .open = on_open, .cancel = stream_free,
		.writable = on_writable),
	 &grpc__testing__streaming_output_call_request__descriptor, on_output},
	{STREAM("StreamingInputCall", METHOD_CLIENT_STREAM, .open = on_open, .cancel = stream_free,
		.half_close = on_input_end),
	 &grpc__testing__streaming_input_call_request__descriptor, on_input},
	{STREAM("FullDuplexCall", METHOD_BIDI, .open = on_open, .cancel = stream_free, .half_close = on_duplex_end,
		.writable = on_writable),
	 &grpc__testing__streaming_output_call_request__descriptor, on_output},
	{STREAM("HalfDuplexCall", METHOD_BIDI, .open = on_half_duplex_open, .cancel = stream_free,
		.half_close = on_duplex_end, .writable = on_writable),
	 &grpc__testing__streaming_output_call_request__descriptor, on_output},
};
