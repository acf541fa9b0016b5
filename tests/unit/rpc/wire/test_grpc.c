/* grpc.c: status names, grpc-timeout, percent-encoding. */
#include "rpc/wire/grpc.h"

#include "core/base/check.h"
#include "tests/unit/rpc/wire/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void test_status_names(void **state)
{
	assert_string_equal(grpc_status_name(GRPC_OK), "OK");
	assert_string_equal(grpc_status_name(GRPC_INVALID_ARGUMENT), "INVALID_ARGUMENT");
	assert_string_equal(grpc_status_name(8), "RESOURCE_EXHAUSTED");
	assert_string_equal(grpc_status_name(14), "UNAVAILABLE");
	assert_string_equal(grpc_status_name(16), "UNAUTHENTICATED");
	assert_string_equal(grpc_status_name(17), "UNKNOWN");
	assert_string_equal(grpc_status_name(UINT32_MAX), "UNKNOWN");
}

/* D6: a server's grpc-status of 99999 became a number that nobody had bounded. */
static void test_a_status_that_is_none_is_unknown(void **state)
{
	static const char *const bad[] = {"",   "17", "99",  "99999", "4294967296", "-1", "+1",
					  " 1", "1 ", "abc", "0x1",   "1.0",        "000"};
	char text[12];
	for (unsigned i = 0; i < GRPC_STATUS_COUNT; i++) {
		size_t n = (size_t)snprintf(text, sizeof text, "%u", i);
		assert_int_equal(grpc_status_get((struct span){(uint8_t *)text, n}), i);
		assert_int_equal(grpc_status_of(i), i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t *copy = exact_copy(bad[i], strlen(bad[i]));
		assert_int_equal(grpc_status_get((struct span){copy, strlen(bad[i])}), GRPC_UNKNOWN);
		free(copy);
	}
	assert_int_equal(grpc_status_of(GRPC_STATUS_COUNT), GRPC_UNKNOWN);
	assert_int_equal(grpc_status_of(UINT64_MAX), GRPC_UNKNOWN);
}

static void test_timeout_get(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {
		{"1H", UINT64_C(3600000000000)},
		{"20S", UINT64_C(20000000000)},
		{"3M", UINT64_C(180000000000)},
		{"100m", 100000000},
		{"5u", 5000},
		{"7n", 7},
		{"0n", 0},
		{"00000001n", 1},
		{"99999999u", UINT64_C(99999999000)},
		{"99999999S", UINT64_C(99999999000000000)},
		{"99999999H", UINT64_MAX},
	};
	static const char *const bad[] = {
		"",    "1",    "S",          "1s",  "1h",  " 1S",  "1S ",   "+1S",
		"-1S", "1.5S", "123456789n", "1 S", "1SS", "0x1S", "\xb9S",
	};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint8_t *copy = exact_copy(good[i].text, strlen(good[i].text));
		uint64_t ns = 1234;
		assert_int_equal(grpc_timeout_get((struct span){copy, strlen(good[i].text)}, &ns), 0);
		assert_true(ns == good[i].ns);
		free(copy);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t *copy = exact_copy(bad[i], strlen(bad[i]));
		uint64_t ns = 1234;
		if (grpc_timeout_get((struct span){copy, strlen(bad[i])}, &ns) != -EINVAL || ns != 1234)
			fail_msg("accepted \"%s\"", bad[i]);
		free(copy);
	}
	uint64_t ns;
	assert_int_equal(grpc_timeout_get((struct span){(const uint8_t *)"1\0S", 3}, &ns), -EINVAL);
}

static void expect_timeout(uint64_t ns, const char *want)
{
	char out[10];
	size_t n = grpc_timeout_put(out, ns);

	assert_int_equal(n, strlen(want));
	assert_memory_equal(out, want, n);
}

static void test_timeout_put(void **state)
{
	expect_timeout(0, "0n");
	expect_timeout(1, "1n");
	expect_timeout(999, "999n");
	expect_timeout(1000, "1u");
	expect_timeout(1500, "1500n");
	expect_timeout(20000000000, "20S");
	expect_timeout(60000000000, "1M");
	expect_timeout(7200000000000, "2H");
	expect_timeout(99999999, "99999999n");
	expect_timeout(100000001, "100001u"); /* rounded up */
	expect_timeout(UINT64_MAX, "5124096H");
}

static void test_timeout_round_trip(void **state)
{
	uint64_t seed = 3;

	for (int i = 0; i < 20000; i++) {
		uint64_t ns = random_wide(&seed), back;
		char out[10];
		size_t n = grpc_timeout_put(out, ns);

		assert_true(n >= 2 && n <= 9);
		assert_int_equal(grpc_timeout_get((struct span){(uint8_t *)out, n}, &back), 0);
		assert_true(back >= ns);
		assert_true(back - ns <= ns / 27000); /* 8 digits: an hour in 10^8 minutes at the worst */
	}
}

static void expect_encoded(struct span text, size_t cap, const char *want)
{
	char *out = malloc(cap ? cap : 1);
	uint8_t *copy = exact_copy(text.p, text.n);
	size_t got = grpc_percent_encode(out, cap, (struct span){copy, text.n});

	assert_int_equal(got, strlen(want));
	assert_memory_equal(out, want, got);
	free(copy);
	free(out);
}

static void test_percent_encode(void **state)
{
	expect_encoded(SPAN_LIT("plain text ~"), 100, "plain text ~");
	expect_encoded(SPAN_LIT("100%"), 100, "100%25");
	/* grpc's interoperability case special_status_message */
	expect_encoded(
		SPAN_LIT("\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88\t\n"),
		200, "%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A");
	expect_encoded(SPAN_LIT("a\0b\x7f"), 100, "a%00b%7F");
	/* Cut: neither in an escape nor in a character. */
	expect_encoded(SPAN_LIT("abc"), 2, "ab");
	expect_encoded(SPAN_LIT("abc"), 0, "");
	expect_encoded(SPAN_LIT("a%"), 3, "a");
	expect_encoded(SPAN_LIT("a\xe2\x98\xba"), 9, "a");
	expect_encoded(SPAN_LIT("a\xe2\x98\xba"), 10, "a%E2%98%BA");
	expect_encoded(SPAN_LIT("\x80\x80\x80\x80\x80"), 14, "%80%80%80%80");
}

static void test_percent_decode(void **state)
{
	static const struct {
		const char *text, *want;
	} t[] = {
		{"plain", "plain"}, {"a%20b", "a b"},   {"%e2%98%BA", "\xe2\x98\xba"},
		{"100%25", "100%"}, {"%", "%"},         {"%2", "%2"},
		{"%zz", "%zz"},     {"%2g%41", "%2gA"}, {"%%41", "%A"},
		{"%-1", "%-1"},     {"%:0", "%:0"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char out[64];
		uint8_t *copy = exact_copy(t[i].text, strlen(t[i].text));
		size_t n = grpc_percent_decode(out, sizeof out, (struct span){copy, strlen(t[i].text)});
		assert_int_equal(n, strlen(t[i].want));
		assert_memory_equal(out, t[i].want, n);
		free(copy);
	}
	char out[3] = "xyz";
	assert_int_equal(grpc_percent_decode(out, 2, SPAN_LIT("%41%42%43")), 2);
	assert_memory_equal(out, "ABz", 3);
}

static void test_percent_round_trip(void **state)
{
	uint64_t seed = 8;

	for (int i = 0; i < 5000; i++) {
		uint8_t text[100];
		char encoded[300], decoded[100], part[300];
		size_t n = random_below(&seed, sizeof text + 1);

		for (size_t k = 0; k < n; k++)
			text[k] = (uint8_t)random_next(&seed);
		size_t e = grpc_percent_encode(encoded, sizeof encoded, (struct span){text, n});
		for (size_t k = 0; k < e; k++)
			assert_true(encoded[k] >= 0x20 && encoded[k] <= 0x7e);
		size_t d = grpc_percent_decode(decoded, sizeof decoded, (struct span){(uint8_t *)encoded, e});
		assert_int_equal(d, n);
		assert_memory_equal(decoded, text, n);
		/* A cut one is a beginning of the whole. */
		size_t cap = random_below(&seed, sizeof part + 1);
		size_t p = grpc_percent_encode(part, cap, (struct span){text, n});
		assert_true(p <= cap && p <= e);
		assert_memory_equal(part, encoded, p);
		/* Decoding of anything stays in bounds. */
		char small[40];
		assert_true(grpc_percent_decode(small, sizeof small, (struct span){text, n}) <= sizeof small);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_status_that_is_none_is_unknown),
		cmocka_unit_test(test_status_names),
		cmocka_unit_test(test_timeout_get),
		cmocka_unit_test(test_timeout_put),
		cmocka_unit_test(test_timeout_round_trip),
		cmocka_unit_test(test_percent_encode),
		cmocka_unit_test(test_percent_decode),
		cmocka_unit_test(test_percent_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
