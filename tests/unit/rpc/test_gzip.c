/* gzip of messages: round trips, the bound on inflating, and what is not gzip. */
#include "rpc/gzip.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_round_trip_of_many_sizes(void **state)
{
	struct gzip *g = gzip_new();
	assert_non_null(g);
	for (size_t n = 0; n < 3000000; n = n * 3 + 1) {
		uint8_t *p = malloc(n + 1);
		for (size_t i = 0; i < n; i++)
			p[i] = (uint8_t)(i * i >> 3);
		struct span packed, back;
		assert_int_equal(gzip_deflate(g, (struct span){p, n}, &packed), 0);
		assert_int_equal(gzip_inflate(g, packed, n, &back), 0);
		assert_true(span_eq(back, (struct span){p, n}));
		if (n > 0)
			assert_int_equal(gzip_inflate(g, packed, n - 1, &back), -EMSGSIZE);
		free(p);
	}
	gzip_free(g);
}

static void test_a_bomb_stops_at_the_bound(void **state)
{
	struct gzip *g = gzip_new();
	uint8_t *zeros = calloc(1, 64 << 20);
	struct span packed, back;
	assert_int_equal(gzip_deflate(g, (struct span){zeros, 64 << 20}, &packed), 0);
	assert_true(packed.n < 1 << 20);
	assert_int_equal(gzip_inflate(g, packed, 4 << 20, &back), -EMSGSIZE);
	free(zeros);
	gzip_free(g);
}

/* Its last four bytes are the size: what says too little, or too much, is no gzip stream, and costs no more than it said. */
static void test_a_bomb_that_lies_about_its_size_is_refused(void **state)
{
	struct gzip *g = gzip_new();
	uint8_t *zeros = calloc(1, 64 << 20), copy[1 << 17];
	struct span packed, back;
	assert_int_equal(gzip_deflate(g, (struct span){zeros, 16 << 20}, &packed), 0);
	assert_true(packed.n <= sizeof copy);
	memcpy(copy, packed.p, packed.n);
	const uint32_t lies[] = {0, 1, 100, 4 << 20, (16 << 20) - 1, (16 << 20) + 1};
	for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
		for (unsigned k = 0; k < 4; k++)
			copy[packed.n - 4 + k] = (uint8_t)(lies[i] >> 8 * k);
		assert_int_equal(gzip_inflate(g, (struct span){copy, packed.n}, 64 << 20, &back), -EBADMSG);
	}
	free(zeros);
	gzip_free(g);
}

static void test_what_is_not_one_whole_stream_is_refused(void **state)
{
	struct gzip *g = gzip_new();
	struct span packed, back;
	assert_int_equal(gzip_deflate(g, SPAN_LIT("some text to pack"), &packed), 0);
	uint8_t *copy = malloc(packed.n + 1);
	memcpy(copy, packed.p, packed.n);
	assert_int_equal(gzip_inflate(g, (struct span){copy, 0}, 1000, &back), 0); /* as gRPC's own libraries have it */
	assert_int_equal(back.n, 0);
	for (size_t n = 1; n < packed.n; n++) /* cut anywhere */
		assert_int_not_equal(gzip_inflate(g, (struct span){copy, n}, 1000, &back), 0);
	copy[packed.n] = 0;
	assert_int_equal(gzip_inflate(g, (struct span){copy, packed.n + 1}, 1000, &back), -EBADMSG);
	copy[packed.n - 5] ^= 1; /* its CRC */
	assert_int_equal(gzip_inflate(g, (struct span){copy, packed.n}, 1000, &back), -EBADMSG);
	assert_int_equal(gzip_inflate(g, SPAN_LIT("not gzip at all"), 1000, &back), -EBADMSG);
	free(copy);
	gzip_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip_of_many_sizes),
		cmocka_unit_test(test_a_bomb_stops_at_the_bound),
		cmocka_unit_test(test_a_bomb_that_lies_about_its_size_is_refused),
		cmocka_unit_test(test_what_is_not_one_whole_stream_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
