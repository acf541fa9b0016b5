/* protobuf-c's generated stubs over a channel, whose server is this test. Over real servers: tests/e2e/test_example.py. */
#include "tests/unit/rpc/client/harness.h"

#include "core/base/bytes.h"
#include "example/v1/readings.pb-c.h"
#include "rpc/client/stub.h"
#include "rpc/wire/native.h"

enum { CONVERT, SUMMARIZE };
static const struct stub_method methods[] = {{.number = 40}, {.number = 41, .streams = true}};

struct rig {
	struct harness h;
	struct stub stub;
};

/* What a closure has been told. */
struct told {
	struct stub *stub;
	unsigned messages, ends;
	double degrees;
	uint64_t count;
	unsigned code;
	char text[200];
	void (*then)(struct told *t);
	bool again; /* the closure has begun another call */
};

static void note_end(struct told *t)
{
	const struct channel_status *st = stub_status(t->stub);
	assert_non_null(st);
	t->ends++;
	t->code = st->code;
	snprintf(t->text, sizeof t->text, "%.*s", (int)st->text.n, st->text.n ? (const char *)st->text.p : "");
}

static void on_reading(const Example__V1__Reading *r, void *data)
{
	struct told *t = data;
	note_end(t);
	if (r) {
		t->messages++;
		t->degrees = r->degrees;
	}
	if (t->then)
		t->then(t);
}

static void on_summary(const Example__V1__Summary *s, void *data)
{
	struct told *t = data;
	assert_int_equal(t->ends, 0);
	if (s) {
		t->messages++;
		t->count = s->count;
		assert_int_equal(stub_status(t->stub)->code, GRPC_OK);
	} else {
		note_end(t);
	}
	if (t->then)
		t->then(t);
}

static void begin(struct rig *r, uint32_t calls_max)
{
	uint8_t ping[NATIVE_HEADER];
	harness_begin(&r->h, &(struct channel_opts){.protocol = CHANNEL_NATIVE, .message_max = 100000});
	peer_read(&r->h, ping, sizeof ping);
	native_put(ping, NATIVE_PONG, 0, 0, 0, 0);
	peer_write(&r->h, ping, sizeof ping);
	harness_until(&r->h, &r->h.opened, 1);
	assert_int_equal(stub_init(&r->stub, &example__v1__readings__descriptor, methods, calls_max), 0);
	stub_set_channel(&r->stub, r->h.channel);
}

static void end(struct rig *r)
{
	harness_end(&r->h);
	stub_done(&r->stub);
}

static void convert(struct rig *r, double degrees, struct told *t)
{
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	request.degrees = degrees;
	t->stub = &r->stub;
	example__v1__readings__convert(&r->stub.base, &request, on_reading, t);
}

static struct native_header expect_reading(struct rig *r, uint8_t kind, double degrees)
{
	uint8_t raw[NATIVE_HEADER], body[64];
	struct native_header hdr;
	peer_read(&r->h, raw, sizeof raw);
	assert_int_equal(native_get(raw, &hdr), 0);
	assert_int_equal(hdr.kind, kind);
	assert_true(hdr.len <= sizeof body);
	peer_read(&r->h, body, hdr.len);
	Example__V1__Reading *m = example__v1__reading__unpack(NULL, hdr.len, body);
	assert_non_null(m);
	assert_true(m->degrees == degrees);
	example__v1__reading__free_unpacked(m, NULL);
	return hdr;
}

static void answer(struct rig *r, uint8_t kind_flags, uint16_t code, uint32_t call, const void *body, size_t n)
{
	uint8_t raw[NATIVE_HEADER];
	native_put(raw, kind_flags, code, (uint32_t)n, call, 0);
	peer_write(&r->h, raw, sizeof raw);
	peer_write(&r->h, body, n);
}

static void answer_reading(struct rig *r, uint32_t call, double degrees, uint8_t flags)
{
	Example__V1__Reading m = EXAMPLE__V1__READING__INIT;
	uint8_t body[16];
	m.degrees = degrees;
	answer(r, NATIVE_MESSAGE | flags, 0, call, body, example__v1__reading__pack(&m, body));
}

static void answer_summary(struct rig *r, uint32_t call, uint64_t count)
{
	Example__V1__Summary m = EXAMPLE__V1__SUMMARY__INIT;
	uint8_t body[32];
	m.count = count;
	answer(r, NATIVE_MESSAGE, 0, call, body, example__v1__summary__pack(&m, body));
}

static void test_answers_reach_their_closures_in_any_order(void **state)
{
	struct rig r;
	struct told t[3];
	uint32_t call[3];

	memset(t, 0, sizeof t);
	begin(&r, 3);
	for (int i = 0; i < 3; i++)
		convert(&r, 10 + i, &t[i]);
	for (int i = 0; i < 3; i++) {
		struct native_header hdr = expect_reading(&r, NATIVE_REQUEST, 10 + i);
		assert_int_equal(hdr.code, 40);
		assert_int_equal(hdr.flags, NATIVE_F_LAST);
		call[i] = hdr.call;
	}
	for (int i = 2; i >= 0; i--) {
		assert_int_equal(t[i].ends, 0);
		answer_reading(&r, call[i], 100 + i, NATIVE_F_LAST);
		harness_until(&r.h, &t[i].ends, 1);
		assert_int_equal(t[i].code, GRPC_OK);
		assert_true(t[i].degrees == 100 + i);
	}
	assert_null(stub_status(&r.stub));
	end(&r);
}

static void test_a_refusal_brings_its_status_and_no_message(void **state)
{
	struct rig r;
	struct told t = {0};

	begin(&r, 1);
	r.stub.timeout_ns = 1500 * NS_PER_MS;
	convert(&r, -300, &t);
	struct native_header hdr = expect_reading(&r, NATIVE_REQUEST, -300);
	assert_int_equal(hdr.arg, 1500);
	answer(&r, NATIVE_END, GRPC_INVALID_ARGUMENT, hdr.call, "too cold", 8);
	harness_until(&r.h, &t.ends, 1);
	assert_int_equal(t.messages, 0);
	assert_int_equal(t.code, GRPC_INVALID_ARGUMENT);
	assert_string_equal(t.text, "too cold");
	end(&r);
}

/* An answer that came before the status is none, if the status is not OK. */
static void test_a_message_counts_only_with_ok(void **state)
{
	struct rig r;
	struct told t = {0};

	begin(&r, 1);
	convert(&r, 1, &t);
	struct native_header hdr = expect_reading(&r, NATIVE_REQUEST, 1);
	answer_reading(&r, hdr.call, 2, 0);
	answer(&r, NATIVE_END, GRPC_ABORTED, hdr.call, "no", 2);
	harness_until(&r.h, &t.ends, 1);
	assert_int_equal(t.messages, 0);
	assert_int_equal(t.code, GRPC_ABORTED);
	end(&r);
}

static void test_answers_that_make_no_sense_are_internal(void **state)
{
	static const struct {
		const char *body;
		size_t n;
		const char *text;
	} cases[] = {
		{"\x09\x00", 2, "the answer is no example.v1.Reading: "}, /* a double that is cut */
		{"\x0f", 1, "the answer is no example.v1.Reading: "},
	};
	struct rig r;

	begin(&r, 2);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct told t = {0};
		convert(&r, 1, &t);
		struct native_header hdr = expect_reading(&r, NATIVE_REQUEST, 1);
		answer(&r, NATIVE_MESSAGE | NATIVE_F_LAST, 0, hdr.call, cases[i].body, cases[i].n);
		harness_until(&r.h, &t.ends, 1);
		assert_int_equal(t.code, GRPC_INTERNAL);
		assert_int_equal(t.messages, 0);
		assert_memory_equal(t.text, cases[i].text, strlen(cases[i].text));
	}
	struct told none = {0}, two = {0};
	convert(&r, 1, &none);
	convert(&r, 2, &two);
	uint32_t a = expect_reading(&r, NATIVE_REQUEST, 1).call, b = expect_reading(&r, NATIVE_REQUEST, 2).call;
	answer(&r, NATIVE_MESSAGE | NATIVE_F_LAST | NATIVE_F_EMPTY, 0, a, NULL, 0);
	answer_reading(&r, b, 1, 0);
	answer_reading(&r, b, 2, NATIVE_F_LAST);
	harness_until(&r.h, &none.ends, 1);
	harness_until(&r.h, &two.ends, 1);
	assert_string_equal(none.text, "the answer is no example.v1.Reading: no message");
	assert_string_equal(two.text, "the answer is no example.v1.Reading: more than one message");
	end(&r);
}

/* A stream with a message that is none is given up: the server is told, and the rest of it goes nowhere. */
static void test_a_stream_that_makes_no_sense_is_cancelled(void **state)
{
	struct rig r;
	struct told t = {.stub = NULL};
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	uint8_t raw[NATIVE_HEADER];
	struct native_header hdr;

	begin(&r, 1);
	t.stub = &r.stub;
	example__v1__readings__summarize(&r.stub.base, &request, on_summary, &t);
	uint32_t call = expect_reading(&r, NATIVE_REQUEST, 0).call;
	answer_summary(&r, call, 1);
	answer(&r, NATIVE_MESSAGE, 0, call, "\xff", 1);
	answer_summary(&r, call, 2);
	harness_until(&r.h, &t.ends, 1);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.code, GRPC_INTERNAL);
	peer_read(&r.h, raw, sizeof raw);
	assert_int_equal(native_get(raw, &hdr), 0);
	assert_int_equal(hdr.kind, NATIVE_CANCEL);
	end(&r);
}

static void test_a_stream_goes_both_ways(void **state)
{
	struct rig r;
	struct told t = {.stub = NULL};
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	uint32_t call;
	uint8_t raw[NATIVE_HEADER];
	struct native_header hdr;

	begin(&r, 1);
	t.stub = &r.stub;
	assert_int_equal(stub_begin(&r.stub, SUMMARIZE, &request.base, (ProtobufCClosure)on_summary, &t, &call), 0);
	hdr = expect_reading(&r, NATIVE_REQUEST, 0);
	assert_int_equal(hdr.code, 41);
	assert_int_equal(hdr.flags, 0);
	uint32_t number = hdr.call;
	request.degrees = 5;
	assert_int_equal(stub_send(&r.stub, call, &request.base), 0);
	expect_reading(&r, NATIVE_MESSAGE, 5);
	answer_summary(&r, number, 1);
	answer_summary(&r, number, 2);
	harness_until(&r.h, &t.messages, 2);
	assert_int_equal(t.count, 2);
	assert_int_equal(stub_end(&r.stub, call), 0);
	assert_int_equal(stub_send(&r.stub, call, &request.base), -EPIPE);
	peer_read(&r.h, raw, sizeof raw);
	assert_int_equal(native_get(raw, &hdr), 0);
	assert_int_equal(hdr.flags, NATIVE_F_LAST | NATIVE_F_EMPTY);
	answer(&r, NATIVE_END, GRPC_OK, number, NULL, 0);
	harness_until(&r.h, &t.ends, 1);
	assert_int_equal(t.code, GRPC_OK);
	/* Another, which is cancelled. */
	struct told u = {.stub = &r.stub};
	assert_int_equal(stub_begin(&r.stub, SUMMARIZE, &request.base, (ProtobufCClosure)on_summary, &u, &call), 0);
	stub_cancel(&r.stub, call);
	assert_int_equal(u.ends, 1);
	assert_int_equal(u.code, GRPC_CANCELLED);
	end(&r);
}

static void call_again(struct told *t)
{
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	if (t->again)
		return;
	t->again = true;
	request.degrees = 77;
	example__v1__readings__convert(&t->stub->base, &request, on_reading, t);
	assert_int_equal(stub_status(t->stub)->code, GRPC_OK); /* still that of the first */
}

/* The slot of a call is free when its closure runs, so that one slot is enough for one call after another. */
static void test_a_closure_may_begin_the_next_call(void **state)
{
	struct rig r;
	struct told t = {.then = call_again};

	begin(&r, 1);
	convert(&r, 1, &t);
	answer_reading(&r, expect_reading(&r, NATIVE_REQUEST, 1).call, 2, NATIVE_F_LAST);
	harness_until(&r.h, &t.ends, 1);
	answer_reading(&r, expect_reading(&r, NATIVE_REQUEST, 77).call, 3, NATIVE_F_LAST);
	harness_until(&r.h, &t.ends, 2);
	assert_true(t.degrees == 3);
	end(&r);
}

/* The closure runs inside the generated function, and says why. */
static void test_calls_that_cannot_begin_end_at_once(void **state)
{
	struct rig r;
	struct told first = {0}, t = {0};
	static const struct stub_method no_numbers[2];
	uint32_t call;

	begin(&r, 1);
	convert(&r, 1, &first);
	convert(&r, 2, &t);
	assert_int_equal(t.ends, 1);
	assert_int_equal(t.code, GRPC_RESOURCE_EXHAUSTED);
	assert_string_equal(t.text, "as many calls in flight as are allowed");
	assert_int_equal(first.ends, 0);

	struct stub other;
	struct told u = {.stub = &other};
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	assert_int_equal(stub_init(&other, &example__v1__readings__descriptor, no_numbers, 1), 0);
	example__v1__readings__convert(&other.base, &request, on_reading, &u);
	assert_int_equal(u.code, GRPC_UNAVAILABLE); /* no channel */
	stub_set_channel(&other, r.h.channel);
	example__v1__readings__convert(&other.base, &request, on_reading, &u);
	assert_int_equal(u.ends, 2);
	assert_int_equal(u.code, GRPC_UNIMPLEMENTED); /* no number, over native framing */
	assert_int_equal(stub_begin(&other, CONVERT, &request.base, (ProtobufCClosure)on_reading, &u, &call), -EINVAL);
	assert_int_equal(u.ends, 2);
	protobuf_c_service_destroy(&other.base);

	/* The end of the channel is the end of its calls. */
	channel_close(r.h.channel);
	assert_int_equal(first.ends, 1);
	assert_int_equal(first.code, GRPC_UNAVAILABLE);
	end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_reach_their_closures_in_any_order),
		cmocka_unit_test(test_a_refusal_brings_its_status_and_no_message),
		cmocka_unit_test(test_a_message_counts_only_with_ok),
		cmocka_unit_test(test_answers_that_make_no_sense_are_internal),
		cmocka_unit_test(test_a_stream_that_makes_no_sense_is_cancelled),
		cmocka_unit_test(test_a_stream_goes_both_ways),
		cmocka_unit_test(test_a_closure_may_begin_the_next_call),
		cmocka_unit_test(test_calls_that_cannot_begin_end_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
