/* The uniqueness check of `ordinal load`, against a model that counts every ID. */
#include "tools/load_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#define PAGE (UINT64_C(1) << CHECK_PAGE_BITS)

static struct check_result finish(struct check_pages *p, struct check_seen *s, unsigned n)
{
	struct check_result r;
	for (unsigned i = 0; i < n; i++)
		check_seen_done(&s[i]);
	check_pages_result(p, &r);
	check_pages_free(p);
	return r;
}

static void begin(struct check_pages **p, struct check_seen *s, unsigned n, uint32_t pages_max)
{
	*p = check_pages_new(pages_max);
	assert_non_null(*p);
	for (unsigned i = 0; i < n; i++)
		check_seen_init(&s[i], *p);
}

static void test_nothing_received(void **state)
{
	struct check_pages *p;
	struct check_seen s;
	begin(&p, &s, 1, 10);
	struct check_result r = finish(p, &s, 1);
	assert_int_equal(r.received, 0);
	assert_int_equal(r.missing, 0);
}

static void test_dense_ids_of_two_workers(void **state)
{
	struct check_pages *p;
	struct check_seen s[2];
	begin(&p, s, 2, CHECK_LIVE + 4);
	/* Far more pages than may be kept incomplete: complete ones must be let go. */
	for (uint64_t id = 5; id < 5 + 300 * PAGE; id += 1000) {
		check_seen_range(&s[(id / 1000) % 2], id, 500);
		check_seen_range(&s[(id / 1000 + 1) % 2], id + 500, 500);
	}
	struct check_result r = finish(p, s, 2);
	assert_int_equal(r.repeated, 0);
	assert_int_equal(r.unchecked, 0);
	assert_int_equal(r.missing, 0);
	assert_int_equal(r.received, (300 * PAGE + 999) / 1000 * 1000);
}

static void test_repeats_within_and_across_workers(void **state)
{
	struct check_pages *p;
	struct check_seen s[3];
	begin(&p, s, 3, 1000);
	check_seen_one(&s[0], 7);
	check_seen_one(&s[0], 7); /* at once */
	check_seen_range(&s[0], 100, 300);
	check_seen_range(&s[0], 350, 100); /* 50 again */
	check_seen_one(&s[1], 7);          /* another worker */
	check_seen_one(&s[2], 200);
	/* A repeat that comes back to a page long after it was left. */
	check_seen_one(&s[0], 7 + CHECK_LIVE * PAGE);
	check_seen_one(&s[0], 7);
	struct check_result r = finish(p, s, 3);
	assert_int_equal(r.repeated, 1 + 50 + 1 + 1 + 1);
}

static void test_repeats_of_a_complete_page(void **state)
{
	struct check_pages *p;
	struct check_seen s[2];
	begin(&p, s, 2, 10);
	check_seen_range(&s[0], 0, (uint32_t)PAGE);
	check_seen_done(&s[0]);
	check_seen_range(&s[1], 10, 5);
	struct check_result r = finish(p, s, 2);
	assert_int_equal(r.repeated, 5);
	assert_int_equal(r.received, PAGE + 5);
	assert_int_equal(r.missing, 0);
}

static void test_missing_counts_the_holes(void **state)
{
	struct check_pages *p;
	struct check_seen s;
	begin(&p, &s, 1, 100);
	check_seen_range(&s, 1000, 10);
	check_seen_range(&s, 1020, 10);
	check_seen_one(&s, 1000 + 3 * PAGE);
	struct check_result r = finish(p, &s, 1);
	assert_int_equal(r.received, 21);
	assert_int_equal(r.missing, 3 * PAGE + 1 - 21);
}

static void test_the_highest_ids(void **state)
{
	struct check_pages *p;
	struct check_seen s;
	begin(&p, &s, 1, 100);
	check_seen_range(&s, UINT64_MAX - 99, 100);
	check_seen_one(&s, UINT64_MAX);
	struct check_result r = finish(p, &s, 1);
	assert_int_equal(r.received, 101);
	assert_int_equal(r.repeated, 1);
	assert_int_equal(r.missing, 0);
}

/* More holes than the bound allows: what was not looked at is counted, and no repeat is invented. */
static void test_the_bound_of_memory_is_kept_and_told(void **state)
{
	struct check_pages *p;
	struct check_seen s;
	begin(&p, &s, 1, 3);
	for (uint64_t i = 0; i < 500; i++)
		check_seen_one(&s, i * PAGE);
	struct check_result r = finish(p, &s, 1);
	assert_int_equal(r.received, 500);
	assert_int_equal(r.unchecked, 497);
	assert_int_equal(r.repeated, 0);
	assert_int_equal(r.missing, 0);
}

static void test_against_a_model(void **state)
{
	enum { SPAN = 4 << CHECK_PAGE_BITS, WORKERS = 3 };
	uint8_t *times = calloc(SPAN, 1);
	struct check_pages *p;
	struct check_seen s[WORKERS];
	uint32_t rnd = 99;
	uint64_t received = 0, repeated = 0, min = UINT64_MAX, max = 0, distinct = 0;

	begin(&p, s, WORKERS, 1000);
	for (int i = 0; i < 3000; i++) {
		rnd = rnd * 1664525 + 1013904223;
		uint64_t first = (rnd >> 3) % (SPAN - 2000);
		rnd = rnd * 1664525 + 1013904223;
		uint32_t count = 1 + (rnd >> 12) % (i % 3 ? 1 : 2000);
		check_seen_range(&s[(rnd >> 5) % WORKERS], first, count);
		received += count;
		for (uint32_t k = 0; k < count; k++)
			repeated += times[first + k] ? 1 : (times[first + k] = 1, distinct++, 0);
		min = first < min ? first : min;
		max = first + count - 1 > max ? first + count - 1 : max;
	}
	struct check_result r = finish(p, s, WORKERS);
	assert_int_equal(r.received, received);
	assert_int_equal(r.repeated, repeated);
	assert_int_equal(r.missing, max - min + 1 - distinct);
	free(times);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_received),
		cmocka_unit_test(test_dense_ids_of_two_workers),
		cmocka_unit_test(test_repeats_within_and_across_workers),
		cmocka_unit_test(test_repeats_of_a_complete_page),
		cmocka_unit_test(test_missing_counts_the_holes),
		cmocka_unit_test(test_the_highest_ids),
		cmocka_unit_test(test_the_bound_of_memory_is_kept_and_told),
		cmocka_unit_test(test_against_a_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
