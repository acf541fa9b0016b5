/* JSON as the daemon writes it, and the screen that is made of it. */
#include "tools/top_view.h"

#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse(const char *text, struct jread *j)
{
	/* A copy of exactly that size, for the sanitizers. */
	size_t n = strlen(text);
	uint8_t *p = malloc(n ? n : 1);
	assert_non_null(p);
	memcpy(p, text, n);
	int r = jread_parse((struct span){p, n}, j);
	if (r == 0)
		jread_done(j);
	free(p);
	return r;
}

static void test_json(void **state)
{
	static const char *const good[] = {
		"0", " -1.5e3 ", "[]", "{}", "[1,[2,{\"a\":null}],true,false]", "{\"a\\\"b\":\"\\\\\"}", "\"\""};
	static const char *const bad[] = {"",     "[",     "]",      "{\"a\"}",   "{\"a\":}", "{a:1}",
					  "[1,]", "[1 2]", "\"open", "\"\\",      "\"a\nb\"", "tru",
					  "1x",   "-",     "1 1",    "{\"a\":1,}"};
	struct jread j;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(parse(good[i], &j), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &j), -EBADMSG);
	char deep[1000];
	memset(deep, '[', sizeof deep - 1);
	deep[sizeof deep - 1] = 0;
	assert_int_equal(parse(deep, &j), -E2BIG);
}

static void test_members(void **state)
{
	struct jread j;
	const char *text = "{\"a\":{\"n\":2.5,\"s\":\"x\\ny\"},\"list\":[{\"n\":1},{\"n\":2}]}";
	assert_int_equal(jread_parse((struct span){(const uint8_t *)text, strlen(text)}, &j), 0);
	const struct jread_node *a = jread_member(&j, j.node, "a");
	assert_true(jread_number(&j, a, "n") == 2.5);
	assert_true(span_eq(jread_text(&j, a, "s"), SPAN_LIT("x\\ny")));
	assert_null(jread_member(&j, j.node, "none"));
	assert_null(jread_member(&j, NULL, "n"));
	assert_true(jread_number(&j, a, "s") == 0);
	double sum = 0;
	for (const struct jread_node *n = jread_first(&j, jread_member(&j, j.node, "list")); n; n = jread_next(&j, n))
		sum += jread_number(&j, n, "n");
	assert_true(sum == 3);
	jread_done(&j);
}

static void test_numbers_for_people(void **state)
{
	char b[48];
	assert_string_equal(top_count(0, b, sizeof b), "0");
	assert_string_equal(top_count(999, b, sizeof b), "999");
	assert_string_equal(top_count(1234567.4, b, sizeof b), "1,234,567");
	assert_string_equal(top_count(-1, b, sizeof b), "0");
	assert_string_equal(top_bytes(1023, b, sizeof b), "1023 B");
	assert_string_equal(top_bytes(1536, b, sizeof b), "1.5 KiB");
	assert_string_equal(top_bytes(200.0 * 1024 * 1024, b, sizeof b), "200 MiB");
	assert_string_equal(top_time(3661, b, sizeof b), "01:01:01");
	assert_string_equal(top_time(90061, b, sizeof b), "1d 01:01:01");
}

#define READING(uptime, calls, failed, published, next)                                                                             \
	"{\"version\":\"9.9\",\"listen\":\"h:1\",\"id_order\":\"strict\",\"pid\":7,\"uptime_seconds\":" uptime                      \
	",\"resident_bytes\":1048576,\"cpu_seconds\":" uptime                                                                       \
	",\"methods\":{\"a.b.Ids/Next\":{\"by_status\":{\"OK\":" calls ",\"UNKNOWN\":" failed                                       \
	"},\"latency_us\":{\"p50\":12,\"p99\":345}},\"a.b.Ids/Quiet\":{\"by_status\":{},"                                           \
	"\"latency_us\":{}}},\"sequence_count\":3,\"sequences\":[{\"name\":\"\",\"next\":" next                                     \
	",\"window\":10}],\"total\":{\"connections\":5,\"bytes_in\":0},\"shards\":[{\"shard\":0,\"cpu\":3,\"state\":\"running\"}]," \
	"\"journal\":{\"syncs\":0},\"streams\":{\"count\":1,\"by_name\":[{\"name\":\"ticks\",\"durability\":\"fsync\","             \
	"\"published\":" published ",\"frames\":77,\"lag_frames\":{\"p50\":8,\"p99\":9}}]}}"

static char *screen(const char *before, const char *now, uint64_t ns)
{
	struct top_reading a = {.mono_ns = 1000}, b = {.mono_ns = 1000 + ns};
	char *text;
	size_t n;
	assert_int_equal(jread_parse((struct span){(const uint8_t *)before, strlen(before)}, &a.stats.json), 0);
	assert_int_equal(jread_parse((struct span){(const uint8_t *)now, strlen(now)}, &b.stats.json), 0);
	FILE *f = open_memstream(&text, &n);
	assert_non_null(f);
	top_view(f, &b, &a, 10);
	fclose(f);
	jread_done(&a.stats.json);
	jread_done(&b.stats.json);
	return text;
}

/* The line that begins with `head`, its runs of spaces made one, in buf. */
static const char *line(const char *text, const char *head, char *buf, size_t cap)
{
	const char *p = text;
	while (strncmp(p, head, strlen(head)) != 0) {
		p = strchr(p, '\n');
		assert_non_null(p);
		p++;
	}
	size_t n = 0;
	for (; *p && *p != '\n' && n + 1 < cap; p++)
		if (*p != ' ' || (n > 0 && buf[n - 1] != ' '))
			buf[n++] = *p;
	buf[n] = 0;
	return buf;
}

static void test_rates_are_of_the_interval(void **state)
{
	char buf[256];
	char *text = screen(READING("10", "1000", "0", "500", "100"), READING("12", "5000", "20", "2500", "300"),
			    2000000000);
	assert_string_equal(line(text, "ordinald", buf, sizeof buf),
			    "ordinald 9.9 on h:1 up 00:00:12 pid 7 order strict memory 1.0 MiB CPU 100%");
	assert_string_equal(line(text, "Ids/Next", buf, sizeof buf), "Ids/Next 2,010 0 0 10 12 345");
	assert_string_equal(line(text, "ticks", buf, sizeof buf), "ticks fsync 77 1,000 0 0 8 9 0 0");
	assert_string_equal(line(text, "\"\"", buf, sizeof buf), "\"\" 300 100 10");
	assert_non_null(strstr(text, "… and 2 more\n"));
	assert_null(strstr(text, "Quiet"));
	free(text);
}

/* Counters that went back: the daemon was started again in between. */
static void test_a_restart_gives_no_rate(void **state)
{
	char buf[256];
	char *text = screen(READING("1000", "90000", "7", "500", "100"), READING("1", "5", "0", "2", "3"), 1000000000);
	assert_string_equal(line(text, "Ids/Next", buf, sizeof buf), "Ids/Next 0 0 0 0 12 345");
	free(text);
}

/* An older or newer daemon may lack anything. */
static void test_what_is_missing_is_nothing(void **state)
{
	char *text = screen("{}", "{\"methods\":[],\"streams\":7,\"shards\":{\"a\":1}}", 0);
	assert_non_null(strstr(text, "METHOD"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_members),
		cmocka_unit_test(test_numbers_for_people),
		cmocka_unit_test(test_rates_are_of_the_interval),
		cmocka_unit_test(test_a_restart_gives_no_rate),
		cmocka_unit_test(test_what_is_missing_is_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
