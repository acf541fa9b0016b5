/* Bytes of a gRPC channel, wherever they are cut, and windows both ways; against an HTTP/2 server that is this test. */
#include "tests/unit/rpc/client/h2_peer.h"

static void test_messages_may_be_cut_and_joined_anywhere(void **state)
{
	struct server s;
	uint8_t p[2000];

	ready(&s, 4);
	for (size_t piece = 1; piece < 40; piece++) {
		struct seen c = {0};
		size_t n = message(p, "0123456789", 10);
		n += message(p + n, "", 0);
		n += message(p + n, "abc", 3);
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
		put_head(&s, stream, 0, head_ok);
		for (size_t at = 0; at < n; at += piece)
			put_frame(&s, H2_DATA, 0, stream, p + at, n - at < piece ? n - at : piece);
		put_head(&s, stream, H2_F_END_STREAM, trailers_ok);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, GRPC_OK);
		assert_int_equal(c.messages, 3);
		assert_int_equal(c.bytes, 13);
		assert_memory_equal(c.last, "abc", 3);
	}
	end(&s);
}

static void test_frames_may_arrive_a_byte_at_a_time(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t all[200], p[64];
	size_t n = 0, len;

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	len = block(p, head_ok);
	h2_frame_put(all, (uint32_t)len, H2_HEADERS, H2_F_END_HEADERS, 1);
	memcpy(all + H2_FRAME_HEADER, p, len);
	n = H2_FRAME_HEADER + len;
	/* Padded, so that the padding is cut as well. */
	len = message(p + 1, "reply", 5) + 1;
	p[0] = 3;
	memset(p + len, 0xee, 3);
	h2_frame_put(all + n, (uint32_t)len + 3, H2_DATA, H2_F_PADDED, 1);
	memcpy(all + n + H2_FRAME_HEADER, p, len + 3);
	n += H2_FRAME_HEADER + len + 3;
	len = block(p, trailers_ok);
	h2_frame_put(all + n, (uint32_t)len, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, 1);
	memcpy(all + n + H2_FRAME_HEADER, p, len);
	n += H2_FRAME_HEADER + len;
	for (size_t i = 0; i < n; i++) {
		peer_write(&s.h, all + i, 1);
		assert_int_equal(client_turn(s.h.client, 0), 0);
	}
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_memory_equal(c.last, "reply", 5);
	end(&s);
}

/* Bytes of a message never exceed a window, arrive in order, and all arrive. */
static void test_requests_wait_for_windows(void **state)
{
	enum { N = 100 };
	struct server s;
	struct seen c = {0};
	uint8_t text[N], got[N + GRPC_PREFIX];
	size_t have = 0;

	for (unsigned i = 0; i < N; i++)
		text[i] = (uint8_t)i;
	begin(&s, 4);
	open_with(&s, H2_S_INITIAL_WINDOW_SIZE, 10);
	harness_call(&s.h, METHOD_FEED_PUBLISH, (struct span){text, N}, 0, 0, &c);
	expect(&s, H2_HEADERS);
	for (size_t window = 10; have < sizeof got; window = 7) {
		expect(&s, H2_DATA);
		assert_true(s.frame.len <= window);
		memcpy(got + have, s.body, s.frame.len);
		have += s.frame.len;
		assert_int_equal(s.frame.flags, have == sizeof got ? H2_F_END_STREAM : 0);
		if (have < sizeof got) {
			peer_expect_silence(&s.h);
			put_u32(&s, H2_WINDOW_UPDATE, 1, 7);
		}
	}
	assert_int_equal(load_be32(got + 1), N);
	assert_memory_equal(got + GRPC_PREFIX, text, N);
	answer(&s, 1, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

/* SETTINGS may take back window that was used (RFC 9113 section 6.9.2), and large messages are cut into frames. */
static void test_the_connection_window_and_negative_windows(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};
	uint8_t *big = malloc(100000);
	size_t have = 0;

	memset(big, 'x', 100000);
	ready(&s, 4);
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 1 << 20);
	expect(&s, H2_SETTINGS);
	harness_call(&s.h, METHOD_FEED_PUBLISH, (struct span){big, 100000}, 0, 0, &c);
	expect(&s, H2_HEADERS);
	while (have < H2_WINDOW_DEFAULT) {
		expect(&s, H2_DATA);
		assert_true(s.frame.len <= H2_FRAME_SIZE_DEFAULT);
		have += s.frame.len;
	}
	assert_int_equal(have, H2_WINDOW_DEFAULT);
	/* The stream's window falls to 10 - 65,535, so opening the connection's is not enough. */
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 10);
	expect(&s, H2_SETTINGS);
	put_u32(&s, H2_WINDOW_UPDATE, 0, 1 << 20);
	peer_expect_silence(&s.h);
	/* Another call is not held up by the blocked one. */
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT("abc"), 0, 0, &d);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Ids/Next"), 3);
	put_u32(&s, H2_WINDOW_UPDATE, 1, 1 << 20);
	while (have < 100000 + GRPC_PREFIX) {
		expect(&s, H2_DATA);
		have += s.frame.len;
	}
	assert_int_equal(s.frame.flags, H2_F_END_STREAM);
	assert_int_equal(have, 100000 + GRPC_PREFIX);
	free(big);
	end(&s);
}

/* The end of a call whose bytes still wait must take them along. */
static void test_a_blocked_call_can_be_cancelled_or_answered(void **state)
{
	static const char *const refused[] = {":status", "200", "content-type", "application/grpc", "grpc-status",
					      "3",       NULL};
	struct server s;
	struct seen c = {0}, d = {0}, e = {0};

	begin(&s, 4);
	open_with(&s, H2_S_INITIAL_WINDOW_SIZE, 0);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &c);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &d);
	expect(&s, H2_HEADERS);
	expect(&s, H2_HEADERS);
	channel_call_cancel(s.h.channel, c.call);
	expect(&s, H2_RST_STREAM);
	assert_int_equal(load_be32(s.body), H2_CANCEL);
	/* Answered before the request was whole: the rest is not sent, and the stream is reset without blame. */
	put_head(&s, 3, H2_F_END_STREAM, refused);
	harness_until(&s.h, &d.done, 1);
	assert_int_equal(d.code, GRPC_INVALID_ARGUMENT);
	expect(&s, H2_RST_STREAM);
	assert_int_equal(s.frame.stream, 3);
	assert_int_equal(load_be32(s.body), H2_NO_ERROR);
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 100);
	expect(&s, H2_SETTINGS);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &e);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Feed/Publish"), 5);
	end(&s);
}

/* A server that fills our windows gets them back, on the stream and on the connection. */
static void test_windows_are_given_back(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t *p = calloc(1, H2_FRAME_SIZE_DEFAULT);
	size_t sent = 0;

	ready(&s, 4);
	harness_call(&s.h, METHOD_FEED_SUBSCRIBE, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Feed/Subscribe");
	put_head(&s, 1, 0, head_ok);
	message(p, p, 0);
	store_be32(p + 1, H2_FRAME_SIZE_DEFAULT - GRPC_PREFIX);
	while (sent <= WINDOW / 2) {
		put_frame(&s, H2_DATA, 0, 1, p, H2_FRAME_SIZE_DEFAULT);
		sent += H2_FRAME_SIZE_DEFAULT;
		harness_turn(&s.h);
	}
	expect(&s, H2_WINDOW_UPDATE);
	assert_int_equal(s.frame.stream, 0);
	assert_int_equal(load_be32(s.body), WINDOW / 2);
	expect(&s, H2_WINDOW_UPDATE);
	assert_int_equal(s.frame.stream, 1);
	assert_int_equal(load_be32(s.body), WINDOW / 2);
	harness_until(&s.h, &c.messages, (unsigned)(sent / H2_FRAME_SIZE_DEFAULT));
	free(p);
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages_may_be_cut_and_joined_anywhere),
		cmocka_unit_test(test_frames_may_arrive_a_byte_at_a_time),
		cmocka_unit_test(test_requests_wait_for_windows),
		cmocka_unit_test(test_the_connection_window_and_negative_windows),
		cmocka_unit_test(test_a_blocked_call_can_be_cancelled_or_answered),
		cmocka_unit_test(test_windows_are_given_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
