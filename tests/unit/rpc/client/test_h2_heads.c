/* Header blocks of a gRPC channel, out and in; against an HTTP/2 server that is this test. */
#include "tests/unit/rpc/client/h2_peer.h"

/* A server's decoder must read the same request from the first, inserting block, from the ready-made ones, and after other methods and timeouts
 * have moved the table's indexes. */
static void test_header_blocks_mean_the_same_whatever_came_before(void **state)
{
	static const uint64_t timeouts[] = {
		0, 100 * NS_PER_MS, 7, 5 * NS_PER_S, 11 * NS_PER_MS, 12 * NS_PER_MS, 3600 * NS_PER_S};
	struct server s;
	uint32_t rnd = 1;

	ready(&s, 1000);
	for (int i = 0; i < 400; i++) {
		struct seen c = {0};
		char timeout[11] = "";
		rnd = rnd * 1103515245 + 12345;
		unsigned method = METHOD_IDS_NEXT + (rnd >> 16) % (METHOD_COUNT - METHOD_IDS_NEXT);
		uint64_t ns = timeouts[(rnd >> 8) % ARRAY_SIZE(timeouts)];
		struct span path = method_path(method);
		if (ns)
			timeout[grpc_timeout_put(timeout, ns)] = 0;
		harness_call(&s.h, method, SPAN_LIT(""), ns, 0, &c);
		char text[64];
		snprintf(text, sizeof text, "%.*s", (int)path.n, (const char *)path.p);
		uint32_t stream = expect_request(&s, text);
		assert_string_equal(s.request.timeout, timeout);
		if (!c.done) /* a deadline of 7 ns may have come first */
			channel_call_cancel(s.h.channel, c.call);
		expect(&s, H2_RST_STREAM);
		assert_int_equal(s.frame.stream, stream);
	}
	end(&s);
}

static void test_the_second_request_is_all_indexed(void **state)
{
	struct server s;
	struct seen c[3];

	memset(c, 0, sizeof c);
	ready(&s, 4);
	for (int i = 0; i < 3; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 10 * NS_PER_S, 0, &c[i]);
		expect_request(&s, "/ordinal.v1.Ids/Next");
		assert_string_equal(s.request.timeout, "10S");
		if (i > 0)
			assert_int_equal(s.head_n, 8);
	}
	end(&s);
}

/* A server may shrink the table, before the first request or later, even to nothing. */
static void test_a_smaller_header_table_is_obeyed(void **state)
{
	static const uint32_t sizes[] = {0, 100, 4096, 1};
	struct server s;

	begin(&s, 100);
	hpack_decoder_free(s.decoder);
	s.decoder = hpack_decoder_new(4096);
	open_with(&s, H2_S_HEADER_TABLE_SIZE, 64);
	for (size_t i = 0; i < ARRAY_SIZE(sizes) + 1; i++) {
		for (int k = 0; k < 3; k++) {
			struct seen c = {0};
			harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
			expect_request(&s, "/ordinal.v1.Ids/Next");
			if (i == 0 && k == 0)
				assert_int_equal(s.request.fields, 7);
			channel_call_cancel(s.h.channel, c.call);
			expect(&s, H2_RST_STREAM);
		}
		if (i == ARRAY_SIZE(sizes))
			break;
		put_setting(&s, H2_S_HEADER_TABLE_SIZE, sizes[i]);
		expect(&s, H2_SETTINGS);
	}
	end(&s);
}

static void test_a_header_block_may_be_continued(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t p[1000];
	size_t n = block(p, head_ok);

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_frame(&s, H2_HEADERS, 0, 1, p, 3);
	put_frame(&s, H2_CONTINUATION, 0, 1, p + 3, 0);
	put_frame(&s, H2_CONTINUATION, 0, 1, p + 3, 5);
	put_frame(&s, H2_CONTINUATION, H2_F_END_HEADERS, 1, p + 8, n - 8);
	n = message(p, "ok", 2);
	put_frame(&s, H2_DATA, 0, 1, p, n);
	n = block(p, trailers_ok);
	put_frame(&s, H2_HEADERS, H2_F_END_STREAM, 1, p, 2);
	put_frame(&s, H2_CONTINUATION, H2_F_END_HEADERS, 1, p + 2, n - 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_int_equal(c.messages, 1);
	end(&s);
}

/* The block of a stream that we have cancelled still changes the decoder's table. */
static void test_late_header_blocks_of_cancelled_calls_are_decoded(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};
	uint8_t p[1000];
	size_t n;

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	channel_call_cancel(s.h.channel, c.call);
	expect(&s, H2_RST_STREAM);
	n = hpack_put_indexed(p, sizeof p, 8); /* :status 200 */
	n += hpack_put_incremental(p + n, sizeof p - n, SPAN_LIT("content-type"), SPAN_LIT("application/grpc"));
	put_frame(&s, H2_HEADERS, H2_F_END_HEADERS, 1, p, n);
	n = message(p, "late", 4);
	put_frame(&s, H2_DATA, H2_F_END_STREAM, 1, p, n);
	n = hpack_put_indexed(p, sizeof p, 8);
	n += hpack_put_indexed(p + n, sizeof p - n, 62);
	put_frame(&s, H2_HEADERS, H2_F_END_HEADERS, 3, p, n);
	n = message(p, "mine", 4);
	put_frame(&s, H2_DATA, 0, 3, p, n);
	put_head(&s, 3, H2_F_END_STREAM, trailers_ok);
	harness_until(&s.h, &d.done, 1);
	assert_int_equal(d.code, GRPC_OK);
	assert_memory_equal(d.last, "mine", 4);
	assert_int_equal(c.messages, 0);
	assert_int_equal(c.code, GRPC_CANCELLED);
	end(&s);
}

static void test_a_path_of_ones_own_is_sent_in_full(void **state)
{
	static const struct span path = SPAN_LIT("/example.v1.Readings/Convert");
	struct server s;
	struct seen c[4];
	char longest[CHANNEL_PATH_MAX + 2];

	memset(c, 0, sizeof c);
	memset(longest, '/', sizeof longest);
	ready(&s, 4);
	for (int i = 0; i < 3; i++) {
		struct channel_method m = {path, 0};
		assert_int_equal(channel_call_method(s.h.channel, &m, SPAN_LIT("abc"), 5 * NS_PER_S, 0, &seen_ops,
						     &c[i], &c[i].call),
				 0);
		uint32_t stream = expect_request(&s, "/example.v1.Readings/Convert");
		assert_string_equal(s.request.timeout, "5S");
		answer(&s, stream, "reply", 5);
		harness_until(&s.h, &c[i].done, 1);
		assert_int_equal(c[i].code, GRPC_OK);
	}
	/* Those of methods.h are indexed as before. */
	for (int i = 0; i < 2; i++) {
		struct seen d = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 5 * NS_PER_S, 0, &d);
		answer(&s, expect_request(&s, "/ordinal.v1.Ids/Next"), "reply", 5);
		harness_until(&s.h, &d.done, 1);
	}
	assert_int_equal(s.head_n, 8);
	struct channel_method wrong[] = {
		{{NULL, 0}, 40}, {SPAN_LIT("no.slash/First"), 0}, {{(uint8_t *)longest, CHANNEL_PATH_MAX + 1}, 0}};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(
			channel_call_method(s.h.channel, &wrong[i], SPAN_LIT(""), 0, 0, &seen_ops, &c[3], NULL),
			-EINVAL);
	struct channel_method most = {{(uint8_t *)longest, CHANNEL_PATH_MAX}, 0};
	assert_int_equal(channel_call_method(s.h.channel, &most, SPAN_LIT(""), 0, 0, &seen_ops, &c[3], NULL), 0);
	expect(&s, H2_HEADERS);
	expect(&s, H2_DATA);
	end(&s);
}

/* One large field in the table, named again and again: more fields than anyone needs (CVE-2016-6581, and its kin). */
static void test_a_block_that_unfolds_closes_the_connection(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t p[8000];
	static uint8_t large[3900];
	size_t n;

	memset(large, 'x', sizeof large);
	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	n = hpack_put_incremental(p, sizeof p, SPAN_LIT("x"), (struct span){large, sizeof large});
	assert_true(n > 0);
	memset(p + n, 0x80 | 62, 4000);
	put_frame(&s, H2_HEADERS, H2_F_END_HEADERS, 1, p, n + 4000);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -EPROTO);
	assert_string_equal(s.h.why, "the server broke HTTP/2: a header block of more than 100 fields");
	assert_int_equal(c.code, GRPC_UNAVAILABLE);
	end(&s);
}

static void test_a_block_without_end_closes_the_connection(void **state)
{
	static const uint8_t piece[16000];
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_frame(&s, H2_HEADERS, 0, 1, piece, sizeof piece);
	for (int i = 0; i < 4; i++)
		put_frame(&s, H2_CONTINUATION, 0, 1, piece, sizeof piece);
	harness_until(&s.h, &s.h.closed, 1);
	assert_string_equal(s.h.why, "the server broke HTTP/2: a header block of more than 64 KiB");
	end(&s);
}

static void test_a_grpc_status_that_is_none_is_unknown(void **state)
{
	static const char *const made_up[] = {"99999", "9999", "17", "-1", "abc", ""};
	struct server s;

	ready(&s, 100);
	for (unsigned i = 0; i < ARRAY_SIZE(made_up); i++) {
		const char *const trailers[] = {"grpc-status", made_up[i], "grpc-message", "made up", NULL};
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
		put_head(&s, stream, 0, head_ok);
		put_head(&s, stream, H2_F_END_STREAM, trailers);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, GRPC_UNKNOWN);
		assert_string_equal(c.text, "made up");
	}
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header_blocks_mean_the_same_whatever_came_before),
		cmocka_unit_test(test_the_second_request_is_all_indexed),
		cmocka_unit_test(test_a_smaller_header_table_is_obeyed),
		cmocka_unit_test(test_a_header_block_may_be_continued),
		cmocka_unit_test(test_late_header_blocks_of_cancelled_calls_are_decoded),
		cmocka_unit_test(test_a_path_of_ones_own_is_sent_in_full),
		cmocka_unit_test(test_a_block_that_unfolds_closes_the_connection),
		cmocka_unit_test(test_a_block_without_end_closes_the_connection),
		cmocka_unit_test(test_a_grpc_status_that_is_none_is_unknown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
