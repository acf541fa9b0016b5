/* text.c: growth, padding, and JSON that needs escapes. */
#include "core/base/text.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define assert_text(t, s)                                                                                              \
	do {                                                                                                           \
		assert_false((t)->failed);                                                                             \
		assert_int_equal((t)->n, strlen(s));                                                                   \
		assert_memory_equal((t)->p, s, strlen(s));                                                             \
	} while (0)

static void test_growth(void **state)
{
	struct text t = {0};
	char piece[301];
	for (unsigned i = 0; i < 2000; i++) {
		memset(piece, 'a' + (int)(i % 26), i % 300);
		piece[i % 300] = 0;
		if (i % 2)
			text_printf(&t, "%s", piece);
		else
			text_add(&t, piece, i % 300);
	}
	assert_false(t.failed);
	size_t at = 0;
	for (unsigned i = 0; i < 2000; i++) {
		for (unsigned k = 0; k < i % 300; k++)
			assert_int_equal(t.p[at++], 'a' + (int)(i % 26));
	}
	assert_int_equal(at, t.n);
	text_done(&t);
	assert_int_equal(t.n, 0);
}

/* A line longer than all the room there was must come out whole. */
static void test_printf_longer_than_the_room(void **state)
{
	struct text t = {0};
	char big[20000];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = 0;
	text_printf(&t, "<%s>", big);
	assert_int_equal(t.n, sizeof big + 1);
	assert_int_equal(t.p[t.n - 1], '>');
	assert_int_equal(t.p[t.n - 2], 'x');
	text_done(&t);
}

static void test_pad(void **state)
{
	struct text t = {0};
	text_printf(&t, "ab");
	size_t from = t.n;
	text_printf(&t, "cd");
	text_pad(&t, from, 5, '.');
	text_pad(&t, from, 3, '!');
	assert_text(&t, "abcd...");
	text_done(&t);
}

static void test_a_text_without_memory_stays_empty(void **state)
{
	struct text t = {.failed = true};
	text_printf(&t, "lost");
	text_add(&t, "lost", 4);
	text_pad(&t, 0, 100, ' ');
	assert_true(t.failed);
	assert_int_equal(t.n, 0);
	text_done(&t);
}

static void test_json(void **state)
{
	struct text t = {0};
	struct json j = {.to = &t};
	json_open(&j, NULL, '{');
	json_u64(&j, "max", UINT64_MAX);
	json_open(&j, "list", '[');
	json_open(&j, NULL, '{');
	json_close(&j, '}');
	json_str(&j, NULL, "a\"b\\c\n\x01\xc3\xa9");
	json_bool(&j, NULL, true);
	json_close(&j, ']');
	json_f64(&j, "half", 0.5);
	json_f64(&j, "nan", NAN);
	json_f64(&j, "inf", INFINITY);
	json_span(&j, "nul", (struct span){(const uint8_t *)"\0x", 2});
	json_open(&j, "empty", '[');
	json_close(&j, ']');
	json_close(&j, '}');
	assert_text(
		&t,
		"{\"max\":18446744073709551615,\"list\":[{},\"a\\\"b\\\\c\\u000a\\u0001\xc3\xa9\",true],\"half\":0.5,\"nan\":null,"
		"\"inf\":null,\"nul\":\"\\u0000x\",\"empty\":[]}");
	text_done(&t);
}

static void test_others_text_is_made_printable(void **state)
{
	char all[] = "a\x1b[2J\tb\r\nc\x7f\xc2\x9b\xc2\xa0 \xe2\x82\xac\xc2";
	text_make_printable(all);
	assert_string_equal(all, "a?[2J b  c???\xc2\xa0 \xe2\x82\xac\xc2");
	char none[] = "";
	text_make_printable(none);
	assert_string_equal(none, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_growth), cmocka_unit_test(test_printf_longer_than_the_room),
		cmocka_unit_test(test_pad),    cmocka_unit_test(test_a_text_without_memory_stays_empty),
		cmocka_unit_test(test_json),   cmocka_unit_test(test_others_text_is_made_printable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
