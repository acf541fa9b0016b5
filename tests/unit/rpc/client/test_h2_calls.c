/* Calls over gRPC: answers, statuses, resets, GOAWAY, numbers; against an HTTP/2 server that is this test. */
#include "tests/unit/rpc/client/h2_peer.h"

static void test_a_unary_call(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT("abc"), 0, 0, &c);
	uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
	assert_int_equal(stream, 1);
	assert_memory_equal(s.body + GRPC_PREFIX, "abc", 3);
	answer(&s, stream, "reply", 5);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.messages, 1);
	assert_memory_equal(c.last, "reply", 5);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

static void test_trailers_only_carries_an_error(void **state)
{
	static const char *const fields[] = {":status",     "200", "content-type", "application/grpc",
					     "grpc-status", "8",   "grpc-message", "100%25 of %E2%82%AC",
					     NULL};
	struct server s;

	ready(&s, 4);
	for (int i = 0; i < 2; i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		put_head(&s, expect_request(&s, "/ordinal.v1.Ids/Next"), H2_F_END_STREAM, fields);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, GRPC_RESOURCE_EXHAUSTED);
		assert_string_equal(c.text, "100% of \xe2\x82\xac");
	}
	end(&s);
}

/* An error's text belongs to its own answer, not to the next one. */
static void test_a_text_is_not_carried_over(void **state)
{
	static const char *const with[] = {":status", "200", "grpc-status", "3", "grpc-message", "first", NULL};
	static const char *const without[] = {":status", "200", "grpc-status", "3", NULL};
	struct server s;
	struct seen c = {0}, d = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_head(&s, 1, H2_F_END_STREAM, with);
	put_head(&s, 3, H2_F_END_STREAM, without);
	harness_until(&s.h, &d.done, 1);
	assert_string_equal(c.text, "first");
	assert_string_equal(d.text, "");
	end(&s);
}

/* Against a model: which stream is which call, with calls ending in any order and one that outlives thousands. */
static void test_every_answer_reaches_its_call(void **state)
{
	enum { N = 300, ROUNDS = 3000 };
	static struct seen c[N];
	static uint32_t stream[N];
	struct server s;
	uint32_t rnd = 7;

	memset(c, 0, sizeof c);
	ready(&s, N);
	for (uint32_t i = 0; i < N; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		stream[i] = expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	for (int round = 0; round < ROUNDS; round++) {
		rnd = rnd * 1103515245 + 12345;
		uint32_t i = 1 + (rnd >> 8) % (N - 1); /* never c[0] */
		answer(&s, stream[i], &stream[i], 4);
		harness_until(&s.h, &c[i].done, 1);
		assert_memory_equal(c[i].last, &stream[i], 4);
		c[i] = (struct seen){0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		stream[i] = expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	assert_int_equal(stream[0], 1);
	for (uint32_t i = 0; i < N; i++) {
		answer(&s, stream[i], &stream[i], 4);
		harness_until(&s.h, &c[i].done, 1);
		assert_memory_equal(c[i].last, &stream[i], 4);
	}
	end(&s);
}

static void test_resets_have_meanings(void **state)
{
	static const struct {
		uint32_t error;
		unsigned code;
		bool unprocessed;
	} cases[] = {
		{H2_NO_ERROR, GRPC_INTERNAL, false},
		{H2_REFUSED_STREAM, GRPC_UNAVAILABLE, true},
		{H2_CANCEL, GRPC_CANCELLED, false},
		{H2_ENHANCE_YOUR_CALM, GRPC_RESOURCE_EXHAUSTED, false},
		{H2_INADEQUATE_SECURITY, GRPC_PERMISSION_DENIED, false},
		{99, GRPC_INTERNAL, false},
	};
	struct server s;

	ready(&s, 4);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		put_u32(&s, H2_RST_STREAM, expect_request(&s, "/ordinal.v1.Ids/Next"), cases[i].error);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, cases[i].code);
		assert_int_equal(c.unprocessed, cases[i].unprocessed);
	}
	end(&s);
}

static void test_answers_that_make_no_sense_end_only_their_call(void **state)
{
	static const char *const http_503[] = {":status", "503", NULL};
	static const char *const html[] = {":status", "200", "content-type", "text/html", NULL};
	static const char *const nothing[] = {"x", "y", NULL};
	static const char *const odd[] = {"grpc-status", "ten", NULL};
	static const char *const huge[] = {"grpc-status", "9999", NULL};
	static const char *const down[] = {":status", "503", "grpc-status", "0", NULL};
	static const struct {
		const char *const *head; /* NULL: none */
		uint8_t head_flags;
		const char *data;
		size_t data_n;
		uint8_t data_flags;
		const char *const *trailers;
		unsigned code;
	} cases[] = {
		{http_503, 0, NULL, 0, 0, NULL, GRPC_UNAVAILABLE},
		{http_503, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_UNAVAILABLE},
		{html, 0, NULL, 0, 0, NULL, GRPC_UNKNOWN},
		{head_ok, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_UNKNOWN},
		{trailers_ok, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_INTERNAL}, /* trailers without headers */
		{down, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_UNAVAILABLE},     /* "OK" of a proxy that has failed */
		{head_ok, 0, NULL, 0, 0, nothing, GRPC_UNKNOWN},
		{head_ok, 0, NULL, 0, 0, odd, GRPC_UNKNOWN},
		{head_ok, 0, NULL, 0, 0, huge, GRPC_UNKNOWN}, /* no status that there is */
		{head_ok, 0, "\0\0\0\0\0", 5, H2_F_END_STREAM, NULL, GRPC_INTERNAL},
		{head_ok, 0, "\0\0\0\0\5ab", 7, 0, trailers_ok, GRPC_INTERNAL},
		{head_ok, 0, "\1\0\0\0\1a", 6, 0, NULL, GRPC_INTERNAL},
		{head_ok, 0, "\0\xff\0\0\0", 5, 0, NULL, GRPC_RESOURCE_EXHAUSTED},
		{NULL, 0, "\0\0\0\0\0", 5, 0, NULL, GRPC_INTERNAL},
	};
	struct server s;
	struct seen last = {0};

	ready(&s, 4);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
		if (cases[i].head)
			put_head(&s, stream, cases[i].head_flags, cases[i].head);
		if (cases[i].data)
			put_frame(&s, H2_DATA, cases[i].data_flags, stream, cases[i].data, cases[i].data_n);
		if (cases[i].trailers)
			put_head(&s, stream, H2_F_END_STREAM, cases[i].trailers);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, cases[i].code);
		bool ended = (cases[i].head_flags | cases[i].data_flags) & H2_F_END_STREAM || cases[i].trailers;
		if (!ended) {
			expect(&s, H2_RST_STREAM);
			assert_int_equal(s.frame.stream, stream);
		}
	}
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &last);
	answer(&s, expect_request(&s, "/ordinal.v1.Ids/Next"), "ok", 2);
	harness_until(&s.h, &last.done, 1);
	assert_int_equal(last.code, GRPC_OK);
	end(&s);
}

static void test_an_interim_response_is_passed_over(void **state)
{
	static const char *const early[] = {":status", "103", "link", "x", NULL};
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
	put_head(&s, stream, 0, early);
	answer(&s, stream, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

static void put_goaway(struct server *s, uint32_t last, uint32_t error)
{
	uint8_t p[8];
	store_be32(p, last);
	store_be32(p + 4, error);
	put_frame(s, H2_GOAWAY, 0, 0, p, sizeof p);
}

static void test_a_graceful_goaway_loses_nothing(void **state)
{
	struct server s;
	struct seen c[3];

	memset(c, 0, sizeof c);
	ready(&s, 4);
	for (int i = 0; i < 3; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	put_goaway(&s, H2_WINDOW_MAX, H2_NO_ERROR);
	harness_until(&s.h, &s.h.draining, 1);
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ESHUTDOWN);
	assert_int_equal(c[2].done, 0);
	put_goaway(&s, 3, H2_NO_ERROR);
	harness_until(&s.h, &c[2].done, 1);
	assert_int_equal(c[2].code, GRPC_UNAVAILABLE);
	assert_true(c[2].unprocessed);
	answer(&s, 3, "b", 1);
	answer(&s, 1, "a", 1);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(c[0].code, GRPC_OK);
	assert_int_equal(c[1].code, GRPC_OK);
	assert_int_equal(s.h.err, 0);
	assert_int_equal(s.h.draining, 1);
	end(&s);
}

static void test_a_goaway_with_an_error_closes(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_goaway(&s, 1, H2_ENHANCE_YOUR_CALM);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -ECONNABORTED);
	assert_false(c.unprocessed);
	assert_true(d.unprocessed);
	end(&s);
}

static void test_the_servers_limit_of_streams_is_kept(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0}, e = {0};

	begin(&s, 100);
	open_with(&s, H2_S_MAX_CONCURRENT_STREAMS, 2);
	assert_int_equal(channel_calls_limit(s.h.channel), 2);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -EAGAIN);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	answer(&s, 1, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &e);
	end(&s);
}

/* After 2^30 calls a connection has no numbers left: it finishes what it has, and its owner makes another. */
static void test_stream_numbers_run_out(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	((struct h2_client *)s.h.channel->proto)->stream_next = H2_STREAM_MAX;
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Ids/Next"), H2_STREAM_MAX);
	for (int i = 0; i < 2; i++)
		assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
				 -ESHUTDOWN);
	peer_expect_silence(&s.h);
	assert_int_equal(s.h.closed, 0);
	answer(&s, H2_STREAM_MAX, "ok", 2);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_int_equal(s.h.err, 0);
	end(&s);
	/* The same with nothing in flight. */
	ready(&s, 4);
	((struct h2_client *)s.h.channel->proto)->stream_next = H2_STREAM_MAX + 2;
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ESHUTDOWN);
	assert_int_equal(s.h.closed, 0);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, 0);
	end(&s);
}

static void test_a_stream_goes_both_ways(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t p[64];

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_TAKE, SPAN_LIT("m1"), 0, CHANNEL_MORE, &c);
	expect(&s, H2_HEADERS);
	expect(&s, H2_DATA);
	assert_int_equal(s.frame.flags, 0);
	assert_int_equal(channel_call_send(s.h.channel, c.call, SPAN_LIT("m2"), CHANNEL_MORE), 0);
	expect(&s, H2_DATA);
	assert_memory_equal(s.body + GRPC_PREFIX, "m2", 2);
	put_head(&s, 1, 0, head_ok);
	put_frame(&s, H2_DATA, 0, 1, p, message(p, "r1", 2));
	harness_until(&s.h, &c.messages, 1);
	assert_int_equal(channel_call_end(s.h.channel, c.call), 0);
	expect(&s, H2_DATA);
	assert_int_equal(s.frame.len, 0);
	assert_int_equal(s.frame.flags, H2_F_END_STREAM);
	put_head(&s, 1, H2_F_END_STREAM, trailers_ok);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

/* Any byte that comes is a sign of life; without one the channel ends, and its calls with it. */
static void test_a_silent_server_is_asked_and_then_given_up(void **state)
{
	struct server s;
	struct seen c = {0};

	keepalive_ns = 50 * NS_PER_MS;
	ready(&s, 4);
	keepalive_ns = 0;
	harness_call(&s.h, METHOD_IDS_TAKE, SPAN_LIT("abc"), 0, CHANNEL_MORE, &c);
	expect(&s, H2_HEADERS);
	expect(&s, H2_DATA);
	for (int i = 0; i < 3; i++) {
		expect(&s, H2_PING);
		assert_int_equal(s.frame.flags, 0);
		put_frame(&s, H2_PING, H2_F_ACK, 0, s.body, s.frame.len);
	}
	assert_int_equal(s.h.closed, 0);
	expect(&s, H2_PING);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -ETIMEDOUT);
	assert_int_equal(c.code, GRPC_UNAVAILABLE);
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_silent_server_is_asked_and_then_given_up),
		cmocka_unit_test(test_a_unary_call),
		cmocka_unit_test(test_trailers_only_carries_an_error),
		cmocka_unit_test(test_a_text_is_not_carried_over),
		cmocka_unit_test(test_every_answer_reaches_its_call),
		cmocka_unit_test(test_resets_have_meanings),
		cmocka_unit_test(test_answers_that_make_no_sense_end_only_their_call),
		cmocka_unit_test(test_an_interim_response_is_passed_over),
		cmocka_unit_test(test_a_graceful_goaway_loses_nothing),
		cmocka_unit_test(test_a_goaway_with_an_error_closes),
		cmocka_unit_test(test_the_servers_limit_of_streams_is_kept),
		cmocka_unit_test(test_stream_numbers_run_out),
		cmocka_unit_test(test_a_stream_goes_both_ways),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
