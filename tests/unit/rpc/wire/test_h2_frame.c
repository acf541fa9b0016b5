/* h2_frame.h: RFC 9113's numbers and the frame header. */
#include "rpc/wire/h2_frame.h"

#include "tests/unit/rpc/wire/random.h"

#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void test_layout(void **state)
{
	static const uint8_t want[H2_FRAME_HEADER] = {0x01, 0x02, 0x03, 0x01, 0x25, 0x7a, 0xbb, 0xcc, 0xdd};
	uint8_t out[H2_FRAME_HEADER];

	h2_frame_put(out, 0x010203, H2_HEADERS, 0x25, 0x7abbccdd);
	assert_memory_equal(out, want, sizeof want);
	uint8_t *copy = exact_copy(want, sizeof want);
	copy[5] |= 0x80; /* the reserved bit is ignored */
	struct h2_frame f = h2_frame_get(copy);
	assert_int_equal(f.len, 0x010203);
	assert_int_equal(f.type, H2_HEADERS);
	assert_int_equal(f.flags, H2_F_END_STREAM | H2_F_END_HEADERS | H2_F_PRIORITY);
	assert_int_equal(f.stream, 0x7abbccdd);
	free(copy);
}

static void test_round_trip(void **state)
{
	uint64_t seed = 9;

	for (int i = 0; i < 5000; i++) {
		uint8_t out[H2_FRAME_HEADER];
		uint32_t len = (uint32_t)random_wide(&seed) & 0xffffff,
			 stream = (uint32_t)random_wide(&seed) & 0x7fffffff;
		uint8_t type = (uint8_t)random_next(&seed), flags = (uint8_t)random_next(&seed);

		h2_frame_put(out, len, type, flags, stream);
		struct h2_frame f = h2_frame_get(out);
		assert_true(f.len == len && f.type == type && f.flags == flags && f.stream == stream);
	}
}

/* Our numbers are those that nghttp2 has from the same RFC. */
static void test_numbers(void **state)
{
	assert_memory_equal(H2_PREFACE, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
	assert_int_equal(H2_PREFACE_LEN, NGHTTP2_CLIENT_MAGIC_LEN);
	assert_int_equal(H2_DATA, NGHTTP2_DATA);
	assert_int_equal(H2_HEADERS, NGHTTP2_HEADERS);
	assert_int_equal(H2_PRIORITY, NGHTTP2_PRIORITY);
	assert_int_equal(H2_RST_STREAM, NGHTTP2_RST_STREAM);
	assert_int_equal(H2_SETTINGS, NGHTTP2_SETTINGS);
	assert_int_equal(H2_PUSH_PROMISE, NGHTTP2_PUSH_PROMISE);
	assert_int_equal(H2_PING, NGHTTP2_PING);
	assert_int_equal(H2_GOAWAY, NGHTTP2_GOAWAY);
	assert_int_equal(H2_WINDOW_UPDATE, NGHTTP2_WINDOW_UPDATE);
	assert_int_equal(H2_CONTINUATION, NGHTTP2_CONTINUATION);
	assert_int_equal(H2_F_END_STREAM, NGHTTP2_FLAG_END_STREAM);
	assert_int_equal(H2_F_ACK, NGHTTP2_FLAG_ACK);
	assert_int_equal(H2_F_END_HEADERS, NGHTTP2_FLAG_END_HEADERS);
	assert_int_equal(H2_F_PADDED, NGHTTP2_FLAG_PADDED);
	assert_int_equal(H2_F_PRIORITY, NGHTTP2_FLAG_PRIORITY);
	assert_int_equal(H2_NO_ERROR, NGHTTP2_NO_ERROR);
	assert_int_equal(H2_PROTOCOL_ERROR, NGHTTP2_PROTOCOL_ERROR);
	assert_int_equal(H2_FLOW_CONTROL_ERROR, NGHTTP2_FLOW_CONTROL_ERROR);
	assert_int_equal(H2_REFUSED_STREAM, NGHTTP2_REFUSED_STREAM);
	assert_int_equal(H2_COMPRESSION_ERROR, NGHTTP2_COMPRESSION_ERROR);
	assert_int_equal(H2_HTTP_1_1_REQUIRED, NGHTTP2_HTTP_1_1_REQUIRED);
	assert_int_equal(H2_S_HEADER_TABLE_SIZE, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE);
	assert_int_equal(H2_S_INITIAL_WINDOW_SIZE, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
	assert_int_equal(H2_S_MAX_HEADER_LIST_SIZE, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE);
	assert_int_equal(H2_WINDOW_DEFAULT, NGHTTP2_INITIAL_WINDOW_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
