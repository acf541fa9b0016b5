/* The native side of a channel, against a server that is this test. */
#include "tests/unit/rpc/client/harness.h"

#include "rpc/wire/native.h"

static struct native_header expect(struct harness *h, uint8_t kind, void *body, size_t n)
{
	uint8_t raw[NATIVE_HEADER];
	struct native_header hdr;
	peer_read(h, raw, sizeof raw);
	assert_int_equal(native_get(raw, &hdr), 0);
	assert_int_equal(hdr.kind, kind);
	assert_int_equal(hdr.len, n);
	if (n)
		peer_read(h, body, n);
	return hdr;
}

static void answer(struct harness *h, uint8_t kind_flags, uint16_t code, uint32_t call, const void *body, size_t n)
{
	uint8_t raw[NATIVE_HEADER];
	native_put(raw, kind_flags, code, (uint32_t)n, call, 0);
	peer_write(h, raw, sizeof raw);
	peer_write(h, body, n);
}

static void greet(struct harness *h, uint32_t calls_max)
{
	harness_begin(
		h, &(struct channel_opts){.protocol = CHANNEL_NATIVE, .calls_max = calls_max, .message_max = 100000});
	expect(h, NATIVE_PING, NULL, 0);
	assert_int_equal(h->opened, 0);
}

static void begin(struct harness *h, uint32_t calls_max)
{
	greet(h, calls_max);
	answer(h, NATIVE_PONG, 0, 0, NULL, 0);
	harness_until(h, &h->opened, 1);
}

static void test_a_unary_call_is_one_request_and_one_message(void **state)
{
	struct harness h;
	struct seen s = {0};
	char body[3];

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT("abc"), 1500001, 0, &s);
	assert_int_equal(channel_calls(h.channel), 1);
	struct native_header hdr = expect(&h, NATIVE_REQUEST, body, 3);
	assert_memory_equal(body, "abc", 3);
	assert_int_equal(hdr.code, METHOD_IDS_NEXT);
	assert_int_equal(hdr.flags, NATIVE_F_LAST);
	assert_int_equal(hdr.arg, 2); /* milliseconds, rounded up */
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, hdr.call, "reply", 5);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.messages, 1);
	assert_int_equal(s.code, GRPC_OK);
	assert_memory_equal(s.last, "reply", 5);
	assert_int_equal(channel_calls(h.channel), 0);
	harness_end(&h);
}

static void test_answers_find_their_calls_in_any_order(void **state)
{
	enum { N = 50 };
	struct harness h;
	struct seen s[N];
	uint32_t call[N];

	memset(s, 0, sizeof s);
	begin(&h, N);
	for (uint32_t i = 0; i < N; i++)
		harness_call(&h, METHOD_IDS_NEXT, (struct span){(uint8_t *)&i, 4}, 0, 0, &s[i]);
	assert_int_equal(channel_call(h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL), -EAGAIN);
	for (uint32_t i = 0; i < N; i++) {
		uint32_t who;
		call[i] = expect(&h, NATIVE_REQUEST, &who, 4).call;
		assert_int_equal(who, i);
	}
	for (uint32_t i = 0; i < N; i++) {
		uint32_t which = (i * 7 + 3) % N;
		answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, call[which], &which, 4);
	}
	for (uint32_t i = 0; i < N; i++) {
		harness_until(&h, &s[i].done, 1);
		assert_memory_equal(s[i].last, &i, 4);
	}
	harness_end(&h);
}

/* Cut at every byte, and larger than one receive buffer. */
static void test_units_may_be_cut_anywhere(void **state)
{
	struct harness h;
	struct seen s = {0}, t = {0};
	uint8_t raw[NATIVE_HEADER + 3];
	char *big = calloc(1, 50000);

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	harness_call(&h, METHOD_FEED_SUBSCRIBE, SPAN_LIT(""), 0, 0, &t);
	uint32_t a = expect(&h, NATIVE_REQUEST, NULL, 0).call, b = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	native_put(raw, NATIVE_MESSAGE | NATIVE_F_LAST, 0, 3, a, 0);
	memcpy(raw + NATIVE_HEADER, "xyz", 3);
	for (size_t i = 0; i < sizeof raw; i++) {
		assert_int_equal(s.done, 0);
		peer_write(&h, raw + i, 1);
		harness_turn(&h);
	}
	harness_until(&h, &s.done, 1);
	assert_memory_equal(s.last, "xyz", 3);
	memset(big, 'b', 50000);
	answer(&h, NATIVE_MESSAGE, 0, b, big, 50000);
	answer(&h, NATIVE_MESSAGE, 0, b, "c", 1);
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, b, big, 1);
	harness_until(&h, &t.done, 1);
	assert_int_equal(t.messages, 3);
	assert_int_equal(t.bytes, 50002);
	free(big);
	harness_end(&h);
}

static void test_end_carries_status_and_text(void **state)
{
	struct harness h;
	struct seen s = {0};

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	uint32_t call = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	answer(&h, NATIVE_END, GRPC_RESOURCE_EXHAUSTED, call, "count is above 7", 16);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.messages, 0);
	assert_int_equal(s.code, GRPC_RESOURCE_EXHAUSTED);
	assert_string_equal(s.text, "count is above 7");
	harness_end(&h);
}

static void test_an_end_with_a_code_that_is_none_is_unknown(void **state)
{
	static const uint16_t codes[] = {GRPC_STATUS_COUNT, 99, 34463 /* 99999 in 16 bits */, UINT16_MAX};
	struct harness h;

	begin(&h, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
		struct seen s = {0};
		harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
		answer(&h, NATIVE_END, codes[i], expect(&h, NATIVE_REQUEST, NULL, 0).call, "made up", 7);
		harness_until(&h, &s.done, 1);
		assert_int_equal(s.code, GRPC_UNKNOWN);
		assert_string_equal(s.text, "made up");
	}
	harness_end(&h);
}

/* The answer to a call that was given up must not reach the next call. */
static void test_a_cancelled_call_keeps_its_number_until_the_server_ends_it(void **state)
{
	struct harness h;
	struct seen s = {0}, t = {0}, u = {0};

	begin(&h, 2);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	uint32_t first = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	channel_call_cancel(h.channel, s.call);
	assert_int_equal(s.done, 1);
	assert_int_equal(s.code, GRPC_CANCELLED);
	assert_int_equal(channel_calls(h.channel), 0);
	assert_int_equal(expect(&h, NATIVE_CANCEL, NULL, 0).call, first);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &t);
	uint32_t second = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	assert_int_not_equal(first, second);
	assert_int_equal(channel_call(h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, &u, NULL), -EAGAIN);
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, first, "late", 4);
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, second, "mine", 4);
	harness_until(&h, &t.done, 1);
	assert_memory_equal(t.last, "mine", 4);
	assert_int_equal(s.messages, 0);
	/* Both numbers are free again. */
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &u);
	struct seen v = {0};
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &v);
	harness_end(&h);
	assert_int_equal(u.code, GRPC_UNAVAILABLE);
}

static void test_a_deadline_ends_the_call_and_tells_the_server(void **state)
{
	struct harness h;
	struct seen s = {0}, t = {0}, u = {0};

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 3600 * NS_PER_S, 0, &t);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 5 * NS_PER_MS, 0, &s);
	expect(&h, NATIVE_REQUEST, NULL, 0);
	struct native_header hdr = expect(&h, NATIVE_REQUEST, NULL, 0);
	assert_int_equal(hdr.arg, 5);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.code, GRPC_DEADLINE_EXCEEDED);
	assert_int_equal(expect(&h, NATIVE_CANCEL, NULL, 0).call, hdr.call);
	assert_int_equal(t.done, 0);
	/* A later, earlier deadline is met although a far one is pending. */
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 1, 0, &u);
	harness_until(&h, &u.done, 1);
	assert_int_equal(u.code, GRPC_DEADLINE_EXCEEDED);
	assert_int_equal(t.done, 0);
	harness_end(&h);
}

static void test_goaway_lets_calls_in_flight_finish(void **state)
{
	struct harness h;
	struct seen s = {0};

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	uint32_t call = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	answer(&h, NATIVE_GOAWAY, 0, 0, NULL, 0);
	harness_until(&h, &h.draining, 1);
	assert_int_equal(channel_call(h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ESHUTDOWN);
	assert_int_equal(h.closed, 0);
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, call, "ok", 2);
	harness_until(&h, &h.closed, 1);
	assert_int_equal(s.code, GRPC_OK);
	assert_int_equal(s.messages, 1);
	assert_int_equal(h.err, 0);
	harness_end(&h);
}

static void test_a_lost_connection_ends_its_calls(void **state)
{
	struct harness h;
	struct seen s = {0};

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	expect(&h, NATIVE_REQUEST, NULL, 0);
	close(h.peer);
	h.peer = -1;
	harness_until(&h, &h.closed, 1);
	assert_int_equal(s.done, 1);
	assert_int_equal(s.code, GRPC_UNAVAILABLE);
	assert_int_equal(h.err, -ECONNRESET);
	harness_end(&h);
}

/* Each makes the connection useless, with a reason, and no call is answered by it. */
static void test_nonsense_closes_the_connection(void **state)
{
	static const struct {
		uint8_t bytes[NATIVE_HEADER];
		int err;
	} cases[] = {
		{{'H', 'T', 'T', 'P', '/', '1', '.', '1', ' ', '4', '0', '0', ' ', 'B', 'a', 'd'}, -EPROTO},
		{{0x81, NATIVE_MESSAGE | NATIVE_F_LAST, 0, 0, 0, 0, 0, 0, 77}, -EPROTO}, /* no such call */
		{{0x81, NATIVE_END, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, -EPROTO}, /* nor this */
		{{0x81, NATIVE_MESSAGE, 0, 0, 0xa1, 0x86, 0x01, 0, 0}, -EMSGSIZE},       /* 100,001 bytes */
		{{0x81, NATIVE_REQUEST | NATIVE_F_LAST, 1, 0, 0, 0, 0, 0, 0}, -EPROTO},  /* a client's kind */
		{{0x81, NATIVE_CANCEL, 0, 0, 0, 0, 0, 0, 0}, -EPROTO},
		{{0x81, NATIVE_PING, 0, 0, 65, 0, 0, 0, 0}, -EPROTO}, /* a ping of 65 bytes */
		{{0x81, 0x4f, 0, 0, 0, 0, 0, 0, 0}, -EPROTO},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct harness h;
		struct seen s = {0};
		uint8_t rest[65] = {0};
		begin(&h, 4);
		harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
		expect(&h, NATIVE_REQUEST, NULL, 0);
		peer_write(&h, cases[i].bytes, NATIVE_HEADER);
		peer_write(&h, rest, sizeof rest);
		harness_until(&h, &h.closed, 1);
		assert_int_equal(h.err, cases[i].err);
		assert_int_equal(s.messages, 0);
		assert_int_equal(s.code, GRPC_UNAVAILABLE);
		assert_true(strlen(h.why) > 0);
		harness_end(&h);
	}
}

static void test_a_streaming_call_sends_until_it_ends(void **state)
{
	struct harness h;
	struct seen s = {0};
	char body[2];

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_TAKE, SPAN_LIT("m1"), 0, CHANNEL_MORE, &s);
	struct native_header hdr = expect(&h, NATIVE_REQUEST, body, 2);
	assert_int_equal(hdr.flags, 0);
	assert_int_equal(channel_call_send(h.channel, s.call, SPAN_LIT("m2"), CHANNEL_MORE), 0);
	assert_int_equal(expect(&h, NATIVE_MESSAGE, body, 2).call, hdr.call);
	assert_memory_equal(body, "m2", 2);
	answer(&h, NATIVE_MESSAGE, 0, hdr.call, "r1", 2);
	harness_until(&h, &s.messages, 1);
	assert_int_equal(channel_call_end(h.channel, s.call), 0);
	assert_int_equal(expect(&h, NATIVE_MESSAGE, NULL, 0).flags, NATIVE_F_LAST | NATIVE_F_EMPTY);
	assert_int_equal(channel_call_send(h.channel, s.call, SPAN_LIT("m3"), 0), -EPIPE);
	assert_int_equal(channel_call_end(h.channel, s.call), -EPIPE);
	answer(&h, NATIVE_END, GRPC_OK, hdr.call, NULL, 0);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.code, GRPC_OK);
	assert_int_equal(s.messages, 1);
	harness_end(&h);
}

static void again(struct seen *s)
{
	static unsigned left = 3;
	if (left-- > 0) {
		s->done = 0;
		harness_call(s->h, METHOD_IDS_NEXT, SPAN_LIT("x"), 0, 0, s);
	}
}

static void test_done_may_start_the_next_call(void **state)
{
	struct harness h;
	struct seen s = {.on_done = again};
	char x;

	begin(&h, 1);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT("x"), 0, 0, &s);
	for (unsigned i = 1; i <= 4; i++) {
		answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, expect(&h, NATIVE_REQUEST, &x, 1).call, "r", 1);
		harness_until(&h, &s.messages, i);
	}
	harness_until(&h, &s.done, 1);
	harness_end(&h);
}

static void close_it(struct seen *s)
{
	channel_close(s->h->channel);
}

static void test_a_callback_may_close_the_channel_in_the_middle_of_a_buffer(void **state)
{
	struct harness h;
	struct seen s = {.on_message = close_it}, t = {0};
	uint8_t raw[4 * NATIVE_HEADER];

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &t);
	uint32_t a = expect(&h, NATIVE_REQUEST, NULL, 0).call, b = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	native_put(raw, NATIVE_MESSAGE | NATIVE_F_LAST, 0, 0, a, 0);
	native_put(raw + NATIVE_HEADER, NATIVE_MESSAGE | NATIVE_F_LAST, 0, 0, b, 0);
	peer_write(&h, raw, 2 * NATIVE_HEADER);
	harness_until(&h, &h.closed, 1);
	assert_int_equal(h.err, 0);
	assert_int_equal(s.code, GRPC_UNAVAILABLE);
	assert_int_equal(t.code, GRPC_UNAVAILABLE);
	assert_int_equal(t.messages, 0);
	harness_end(&h);
}

static void cancel_it(struct seen *s)
{
	channel_call_cancel(s->h->channel, s->call);
}

static void test_a_callback_may_cancel_its_own_call(void **state)
{
	struct harness h;
	struct seen s = {.on_message = cancel_it}, t = {0};

	begin(&h, 4);
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &s);
	uint32_t call = expect(&h, NATIVE_REQUEST, NULL, 0).call;
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, call, "r", 1);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.code, GRPC_CANCELLED);
	/* The last message freed the number: the channel is as new. */
	harness_call(&h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &t);
	assert_int_equal(t.call, s.call);
	harness_end(&h);
}

/* A connection that a leaving server never took must not look open: calls sent there would be lost. */
static void test_it_is_open_only_when_the_server_has_answered(void **state)
{
	struct harness h;
	uint8_t goaway[NATIVE_HEADER];

	greet(&h, 4);
	assert_int_equal(channel_call(h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ENOTCONN);
	peer_expect_silence(&h);
	assert_int_equal(h.opened, 0);
	native_put(goaway, NATIVE_GOAWAY, 0, 0, 0, 0);
	peer_write(&h, goaway, sizeof goaway);
	harness_until(&h, &h.closed, 1);
	assert_int_equal(h.opened, 0);
	assert_int_equal(h.err, -ECONNREFUSED);
	harness_end(&h);
}

static void test_ping_is_answered(void **state)
{
	struct harness h;
	char body[8];

	begin(&h, 4);
	answer(&h, NATIVE_PING, 0, 0, "12345678", 8);
	expect(&h, NATIVE_PONG, body, 8);
	assert_memory_equal(body, "12345678", 8);
	harness_end(&h);
}

/* No service listens behind this; the number itself is refused before anything is sent. */
static void test_a_call_that_cannot_be_made_costs_nothing(void **state)
{
	struct harness h;

	begin(&h, 1);
	assert_int_equal(channel_call(h.channel, 0, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL), -EINVAL);
	assert_int_equal(channel_call(h.channel, METHOD_COUNT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL), -EINVAL);
	assert_int_equal(channel_calls(h.channel), 0);
	peer_expect_silence(&h);
	harness_end(&h);
}

static void test_a_method_of_ones_own_needs_a_number(void **state)
{
	struct harness h;
	struct seen s = {0};
	struct channel_method m = {SPAN_LIT("/example.v1.Readings/Convert"), 40};

	begin(&h, 4);
	assert_int_equal(channel_call_method(h.channel, &m, SPAN_LIT("abc"), 0, 0, &seen_ops, &s, &s.call), 0);
	char body[3];
	struct native_header hdr = expect(&h, NATIVE_REQUEST, body, 3);
	assert_int_equal(hdr.code, 40);
	answer(&h, NATIVE_MESSAGE | NATIVE_F_LAST, 0, hdr.call, "reply", 5);
	harness_until(&h, &s.done, 1);
	assert_int_equal(s.code, GRPC_OK);
	m.number = 0;
	assert_int_equal(channel_call_method(h.channel, &m, SPAN_LIT("abc"), 0, 0, &seen_ops, &s, NULL), -EINVAL);
	assert_int_equal(channel_calls(h.channel), 0);
	harness_end(&h);
}

/* A peer that is gone without an end is noticed: a silent one is asked, and one that answers is kept. */
static void test_a_silent_server_is_asked_and_then_given_up(void **state)
{
	struct harness h;
	struct seen s = {0};

	harness_begin(&h, &(struct channel_opts){.protocol = CHANNEL_NATIVE, .keepalive_ns = 50 * NS_PER_MS});
	expect(&h, NATIVE_PING, NULL, 0);
	answer(&h, NATIVE_PONG, 0, 0, NULL, 0);
	harness_until(&h, &h.opened, 1);
	for (int i = 0; i < 100; i++) /* without a call nobody is asked */
		harness_turn(&h);
	peer_expect_silence(&h);
	harness_call(&h, METHOD_IDS_TAKE, SPAN_LIT("abc"), 0, CHANNEL_MORE, &s);
	char body[3];
	expect(&h, NATIVE_REQUEST, body, 3);
	for (int i = 0; i < 3; i++) { /* whatever comes is a sign of life */
		expect(&h, NATIVE_PING, NULL, 0);
		answer(&h, NATIVE_PONG, 0, 0, NULL, 0);
	}
	assert_int_equal(h.closed, 0);
	expect(&h, NATIVE_PING, NULL, 0);
	harness_until(&h, &h.closed, 1);
	assert_int_equal(h.err, -ETIMEDOUT);
	assert_non_null(strstr(h.why, "PING"));
	assert_int_equal(s.code, GRPC_UNAVAILABLE);
	harness_end(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_silent_server_is_asked_and_then_given_up),
		cmocka_unit_test(test_a_unary_call_is_one_request_and_one_message),
		cmocka_unit_test(test_answers_find_their_calls_in_any_order),
		cmocka_unit_test(test_units_may_be_cut_anywhere),
		cmocka_unit_test(test_end_carries_status_and_text),
		cmocka_unit_test(test_an_end_with_a_code_that_is_none_is_unknown),
		cmocka_unit_test(test_a_cancelled_call_keeps_its_number_until_the_server_ends_it),
		cmocka_unit_test(test_a_deadline_ends_the_call_and_tells_the_server),
		cmocka_unit_test(test_goaway_lets_calls_in_flight_finish),
		cmocka_unit_test(test_a_lost_connection_ends_its_calls),
		cmocka_unit_test(test_nonsense_closes_the_connection),
		cmocka_unit_test(test_a_streaming_call_sends_until_it_ends),
		cmocka_unit_test(test_done_may_start_the_next_call),
		cmocka_unit_test(test_a_callback_may_close_the_channel_in_the_middle_of_a_buffer),
		cmocka_unit_test(test_a_callback_may_cancel_its_own_call),
		cmocka_unit_test(test_it_is_open_only_when_the_server_has_answered),
		cmocka_unit_test(test_ping_is_answered),
		cmocka_unit_test(test_a_call_that_cannot_be_made_costs_nothing),
		cmocka_unit_test(test_a_method_of_ones_own_needs_a_number),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
