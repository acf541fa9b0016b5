/* What a gRPC channel does not take from a server: breaches of HTTP/2, floods and lies. The server is this test. */
#include "tests/unit/rpc/client/h2_peer.h"

static void test_ping_is_answered(void **state)
{
	struct server s;

	ready(&s, 4);
	put_frame(&s, H2_PING, 0, 0, "12345678", 8);
	expect(&s, H2_PING);
	assert_int_equal(s.frame.flags, H2_F_ACK);
	assert_memory_equal(s.body, "12345678", 8);
	/* Frames of unknown types, and PRIORITY, are passed over (RFC 9113 sections 4.1 and 5.3). */
	put_frame(&s, 0xfa, 0xff, 9, "xyz", 3);
	put_frame(&s, H2_PRIORITY, 0, 1, "12345", 5);
	put_frame(&s, H2_PING, 0, 0, "abcdefgh", 8);
	expect(&s, H2_PING);
	end(&s);
}

static void test_breaches_of_http2_close_the_connection(void **state)
{
	static const struct {
		uint8_t type, flags;
		uint32_t stream;
		const char *body;
		size_t n;
	} cases[] = {
		{H2_HEADERS, H2_F_END_HEADERS, 0, "\x88", 1},
		{H2_HEADERS, H2_F_END_HEADERS, 2, "\x88", 1},
		{H2_HEADERS, H2_F_END_HEADERS, 3, "\x88", 1}, /* never opened */
		{H2_HEADERS, H2_F_END_HEADERS, 1, "\xff", 1}, /* no header block */
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PADDED, 1, "\x05\x88", 2},
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PRIORITY, 1, "\x05\x88", 2},
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PADDED, 1, "", 0},
		{H2_DATA, 0, 0, "", 0},
		{H2_DATA, 0, 5, "", 0},
		{H2_DATA, H2_F_PADDED, 1, "\x02\0", 2},
		{H2_CONTINUATION, 0, 1, "", 0},
		{H2_PUSH_PROMISE, H2_F_END_HEADERS, 1, "\0\0\0\2\x88", 5},
		{H2_RST_STREAM, 0, 1, "\0\0\0", 3},
		{H2_RST_STREAM, 0, 7, "\0\0\0\0", 4},
		{H2_SETTINGS, 0, 1, "", 0},
		{H2_SETTINGS, 0, 0, "\0\1\0", 3},
		{H2_SETTINGS, H2_F_ACK, 0, "\0\1\0\0\0\0", 6},
		{H2_SETTINGS, 0, 0, "\0\4\x80\0\0\0", 6}, /* INITIAL_WINDOW_SIZE 2^31 */
		{H2_SETTINGS, 0, 0, "\0\5\0\0\0\0", 6},   /* MAX_FRAME_SIZE 0 */
		{H2_PING, 0, 0, "1234567", 7},
		{H2_PING, 0, 1, "12345678", 8},
		{H2_GOAWAY, 0, 0, "\0\0\0\0", 4},
		{H2_WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4},
		{H2_WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff", 4}, /* overflows */
		{H2_WINDOW_UPDATE, 0, 1, "\x7f\xff\xff\xff", 4},
		{H2_WINDOW_UPDATE, 0, 99, "\0\0\0\1", 4},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct server s;
		struct seen c = {0};
		ready(&s, 4);
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		expect_request(&s, "/ordinal.v1.Ids/Next");
		put_frame(&s, cases[i].type, cases[i].flags, cases[i].stream, cases[i].body, cases[i].n);
		harness_until(&s.h, &s.h.closed, 1);
		assert_int_equal(s.h.err, -EPROTO);
		assert_int_equal(c.code, GRPC_UNAVAILABLE);
		end(&s);
	}
}

static void test_an_interrupted_header_block_closes_the_connection(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_frame(&s, H2_HEADERS, 0, 1, "\x88", 1);
	put_frame(&s, H2_PING, 0, 0, "12345678", 8);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -EPROTO);
	end(&s);
}

static void test_what_does_not_speak_http2_is_named(void **state)
{
	struct server s;

	begin(&s, 4);
	peer_write(&s.h, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -EPROTO);
	assert_string_equal(s.h.why, "the server does not speak HTTP/2");
	assert_int_equal(s.h.opened, 0);
	end(&s);
}

static void test_a_server_that_never_greets_is_given_up(void **state)
{
	struct harness h;

	harness_begin(&h, &(struct channel_opts){.protocol = CHANNEL_GRPC, .connect_timeout_ns = 5 * NS_PER_MS});
	harness_until(&h, &h.closed, 1);
	assert_int_equal(h.err, -ETIMEDOUT);
	harness_end(&h);
}

static void test_a_frame_above_16_kib_closes_the_connection(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t raw[H2_FRAME_HEADER];

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	h2_frame_put(raw, 0xffffff, H2_DATA, 0, 1);
	peer_write(&s.h, raw, sizeof raw); /* its header alone: nothing of it is waited for */
	harness_until(&s.h, &s.h.closed, 1);
	assert_string_equal(s.h.why, "the server sent a frame above 16 KiB");
	end(&s);
}

/* RFC 9113 section 6.9.2. */
static void test_settings_may_not_overflow_a_window(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_u32(&s, H2_WINDOW_UPDATE, 1, H2_WINDOW_MAX - H2_WINDOW_DEFAULT);
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, H2_WINDOW_DEFAULT + 100);
	harness_until(&s.h, &s.h.closed, 1);
	assert_string_equal(s.h.why, "the server broke HTTP/2: a window above 2^31-1");
	end(&s);
}

/* Answers to a server that asks and does not read are bounded by queue_max. */
static void test_pings_that_cannot_be_answered_close_the_connection(void **state)
{
	enum { AT_ONCE = 1000, SIZE = H2_FRAME_HEADER + 8 };
	struct server s;
	uint8_t *p = calloc(AT_ONCE, SIZE);

	ready(&s, 4);
	for (int i = 0; i < AT_ONCE; i++)
		h2_frame_put(p + i * SIZE, 8, H2_PING, 0, 0);
	for (int i = 0; i < 2000 && !s.h.closed; i++) {
		size_t done = 0;
		while (done < AT_ONCE * SIZE && !s.h.closed) {
			ssize_t r = write(s.h.peer, p + done, AT_ONCE * SIZE - done);
			done += r > 0 ? (size_t)r : 0;
			assert_int_equal(client_turn(s.h.client, 0), 0);
		}
	}
	assert_int_equal(s.h.closed, 1);
	assert_string_equal(s.h.why, "the server broke HTTP/2: more SETTINGS and PING frames than can be answered");
	free(p);
	end(&s);
}

/* What a server says ends on somebody's terminal. */
static void test_a_servers_words_cannot_move_the_cursor(void **state)
{
	static const char goaway[] = "\0\0\0\0\0\0\0\2\x1b[2Jdown\xc2\x9b\n\x07";
	struct server s;

	ready(&s, 4);
	put_frame(&s, H2_GOAWAY, 0, 0, goaway, sizeof goaway - 1);
	harness_until(&s.h, &s.h.closed, 1);
	assert_null(strpbrk(s.h.why, "\x1b\x07\n\x9b"));
	assert_non_null(strstr(s.h.why, "?[2Jdown"));
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ping_is_answered),
		cmocka_unit_test(test_breaches_of_http2_close_the_connection),
		cmocka_unit_test(test_an_interrupted_header_block_closes_the_connection),
		cmocka_unit_test(test_what_does_not_speak_http2_is_named),
		cmocka_unit_test(test_a_server_that_never_greets_is_given_up),
		cmocka_unit_test(test_a_frame_above_16_kib_closes_the_connection),
		cmocka_unit_test(test_settings_may_not_overflow_a_window),
		cmocka_unit_test(test_pings_that_cannot_be_answered_close_the_connection),
		cmocka_unit_test(test_a_servers_words_cannot_move_the_cursor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
