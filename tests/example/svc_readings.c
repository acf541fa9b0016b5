/* The service example.v1.Readings: how a service is written. Runs on the shard; a stream's state lives in its call. */
#include "tests/example/svc_readings.h"
#include "example/v1/readings.pb-c.h"

#define ABSOLUTE_ZERO (-273.15)

/* What Summarize keeps of a call: as much as fits into call.svc, which begins as zeros and needs no end. */
struct summary {
	uint64_t count;
	double lowest, highest;
};
_Static_assert(sizeof(struct summary) <= sizeof(((struct call *)0)->svc), "a summary fits into its call");

static bool is_refused(struct call *c, const Example__V1__Reading *r)
{
	if (r->degrees >= ABSOLUTE_ZERO)
		return false;
	call_finish_text(c, GRPC_INVALID_ARGUMENT, "%g degrees are below absolute zero", r->degrees);
	return true;
}

static void convert(struct call *c, const ProtobufCMessage *m)
{
	const Example__V1__Reading *req = (const Example__V1__Reading *)m;
	Example__V1__Reading reply = EXAMPLE__V1__READING__INIT;
	if (is_refused(c, req))
		return;
	reply.degrees = req->degrees * 9 / 5 + 32;
	typed_reply(c, &reply.base);
}

static void summarize(struct call *c, const ProtobufCMessage *m)
{
	const Example__V1__Reading *req = (const Example__V1__Reading *)m;
	Example__V1__Summary reply = EXAMPLE__V1__SUMMARY__INIT;
	struct summary *s = (struct summary *)&c->svc;
	if (is_refused(c, req))
		return;
	if (s->count == 0 || req->degrees < s->lowest)
		s->lowest = req->degrees;
	if (s->count == 0 || req->degrees > s->highest)
		s->highest = req->degrees;
	s->count++;
	reply.count = s->count;
	reply.lowest = s->lowest;
	reply.highest = s->highest;
	if (!typed_send(c, &reply.base) && c->live)
		c->ops->pause(c); /* the client does not read: take no more from it until it does */
}

static void summarize_writable(struct call *c)
{
	c->ops->resume(c);
}

static void summarize_end(struct call *c)
{
	call_finish(c, GRPC_OK, (struct span){0, 0});
}

const struct typed_method svc_readings_methods[SVC_READINGS_METHODS] = {
	{TYPED("example.v1.Readings", "Convert", METHOD_UNARY, .number = 40, .access = METHOD_FOR_KNOWN),
	 &example__v1__reading__descriptor, convert},
	{TYPED("example.v1.Readings", "Summarize", METHOD_BIDI, .number = 41, .access = METHOD_FOR_KNOWN,
	       .half_close = summarize_end, .writable = summarize_writable),
	 &example__v1__reading__descriptor, summarize},
};
