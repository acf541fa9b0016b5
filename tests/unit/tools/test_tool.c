/* Option values and JSON strings of the `ordinal` program. */
#include "tools/tool.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns; /* UINT64_MAX: refused */
	} cases[] = {
		{"10", 10 * NS_PER_S},
		{"1.5s", 1500 * NS_PER_MS},
		{"500ms", 500 * NS_PER_MS},
		{"20us", 20000},
		{"2m", 120 * NS_PER_S},
		{"1h", 3600 * NS_PER_S},
		{"0", 0},
		{".5", 500 * NS_PER_MS},
		{"", UINT64_MAX},
		{"x", UINT64_MAX},
		{"-1", UINT64_MAX},
		{"5d", UINT64_MAX},
		{"1s ", UINT64_MAX},
		{"nan", UINT64_MAX},
		{"inf", UINT64_MAX},
		{"1e300", UINT64_MAX},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t ns = UINT64_MAX;
		int r = tool_duration("--x", cases[i].text, &ns);
		assert_int_equal(r, cases[i].ns == UINT64_MAX ? -EINVAL : 0);
		assert_int_equal(ns, cases[i].ns);
	}
}

static void test_numbers(void **state)
{
	uint64_t v = 77;
	assert_int_equal(tool_u64("--x", "0", 1, 10, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "11", 1, 10, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "-1", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "+1", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "1k", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(tool_u64("--x", "18446744073709551616", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(v, 77);
	assert_int_equal(tool_u64("--x", "18446744073709551615", 0, UINT64_MAX, &v), 0);
	assert_true(v == UINT64_MAX);
}

static void test_delimiters(void **state)
{
	static const struct {
		const char *text;
		int byte; /* -2: refused */
	} cases[] = {
		{"none", -1},   {";", ';'},      {"0", '0'},      {"\n", '\n'},  {"\\n", '\n'}, {"\\0", 0},
		{"\\\\", '\\'}, {"\\x1e", 0x1e}, {"\\xFF", 0xff}, {"\\", '\\'},  {"", -2},      {"ab", -2},
		{"\\q", -2},    {"\\x1", -2},    {"\\x1eg", -2},  {"\\x-1", -2},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int byte = -2;
		assert_int_equal(tool_delimiter("--x", cases[i].text, &byte), cases[i].byte == -2 ? -EINVAL : 0);
		assert_int_equal(byte, cases[i].byte);
	}
}

static void test_json_strings(void **state)
{
	static const struct {
		struct span in;
		const char *out;
	} cases[] = {
		{SPAN_LIT(""), "\"\""},
		{SPAN_LIT("plain"), "\"plain\""},
		{SPAN_LIT("a\"b\\c\n"), "\"a\\u0022b\\u005cc\\u000a\""},
		{SPAN_LIT("\0"), "\"\\u0000\""},
		{SPAN_LIT("\xe2\x82\xac\xf0\x9f\x98\x80"), "\"\xe2\x82\xac\xf0\x9f\x98\x80\""},
		{SPAN_LIT("\xff"), "\"\\ufffd\""},
		{SPAN_LIT("\xe2\x82"), "\"\\ufffd\\ufffd\""},            /* cut off */
		{SPAN_LIT("\xc0\x80"), "\"\\ufffd\\ufffd\""},            /* overlong */
		{SPAN_LIT("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\""}, /* a surrogate */
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text;
		size_t n;
		FILE *f = open_memstream(&text, &n);
		tool_json_string(f, cases[i].in);
		fclose(f);
		assert_string_equal(text, cases[i].out);
		free(text);
	}
}

static void test_json_payloads(void **state)
{
	static const struct {
		struct span in;
		const char *out;
	} cases[] = {
		{SPAN_LIT(""), "\"payload\":\"\""},
		{SPAN_LIT("a\n"), "\"payload\":\"a\\u000a\""},
		{SPAN_LIT("\xff"), "\"payload_base64\":\"/w==\""},
		{SPAN_LIT("\xff\x00"), "\"payload_base64\":\"/wA=\""},
		{SPAN_LIT("\xff\x00\x01"), "\"payload_base64\":\"/wAB\""},
		{SPAN_LIT("\xfb\xef\xbe\xfb"), "\"payload_base64\":\"++++"
					       "+w==\""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text;
		size_t n;
		FILE *f = open_memstream(&text, &n);
		tool_json_payload(f, cases[i].in);
		fclose(f);
		assert_string_equal(text, cases[i].out);
		free(text);
	}
}

static void test_slow_policies(void **state)
{
	enum feed_slow s = FEED_SLOW_WAIT;
	assert_int_equal(tool_slow("--slow", "disconnect", &s), 0);
	assert_int_equal(s, FEED_SLOW_DISCONNECT);
	assert_int_equal(tool_slow("--slow", "drop", &s), 0);
	assert_int_equal(s, FEED_SLOW_DROP);
	assert_int_equal(tool_slow("--slow", "never", &s), -EINVAL);
	assert_int_equal(s, FEED_SLOW_DROP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_durations),     cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_delimiters),    cmocka_unit_test(test_json_strings),
		cmocka_unit_test(test_json_payloads), cmocka_unit_test(test_slow_policies),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
