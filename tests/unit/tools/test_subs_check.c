/* What the load generator's subscribers call repeated, disordered and missing. */
#include "tools/subs_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static void begin(struct subs_check *c, uint32_t publishers, bool live)
{
	assert_int_equal(subs_check_init(c, publishers), 0);
	if (live)
		subs_check_caught_up(c);
}

/* A live frame of this run. */
static void give(struct subs_check *c, uint64_t offset, uint32_t publisher, uint64_t number)
{
	subs_check_live(c, offset);
	subs_check_stamp(c, &(struct load_stamp){publisher, number, 0});
}

static void expect(const struct subs_check *c, uint64_t repeated, uint64_t disordered, uint64_t own)
{
	assert_int_equal(c->repeated, repeated);
	assert_int_equal(c->disordered, disordered);
	assert_int_equal(c->own, own);
	assert_int_equal(c->unchecked, 0);
}

static void test_stamps(void **state)
{
	uint8_t p[LOAD_STAMP + 3];
	struct load_stamp s = {7, UINT64_MAX - 1, 12345};
	uint64_t run = load_stamp_run(0xdeadbeef);
	load_stamp_put(p, run, &s);
	assert_true(load_stamp_run_of((struct span){p, sizeof p}) == run);
	assert_true(load_stamp_run_of((struct span){p, LOAD_STAMP - 1}) == 0);
	struct load_stamp r = load_stamp_get(p);
	assert_true(r.publisher == s.publisher && r.number == s.number && r.sent_ns == s.sent_ns);
	p[0] ^= 1;
	assert_true(load_stamp_run_of((struct span){p, sizeof p}) == 0);
}

static void test_all_in_order(void **state)
{
	struct subs_check c;
	begin(&c, 2, true);
	for (uint64_t i = 0; i < 1000; i++)
		give(&c, 100 + i, i % 2, i / 2);
	expect(&c, 0, 0, 1000);
	assert_int_equal(subs_check_came(&c, 0), 500);
	assert_int_equal(subs_check_came(&c, 1), 500);
	subs_check_done(&c);
}

static void test_what_does_not_come_is_missing(void **state)
{
	struct subs_check c;
	begin(&c, 1, true);
	give(&c, 1, 0, 0);
	give(&c, 5, 0, 4);
	expect(&c, 0, 0, 2);
	assert_int_equal(subs_check_came(&c, 0), 2); /* of 5 */
	subs_check_done(&c);
}

static void test_what_comes_late_is_disordered_once(void **state)
{
	struct subs_check c;
	begin(&c, 1, true);
	give(&c, 1, 0, 0);
	give(&c, 5, 0, 4);
	give(&c, 3, 0, 2); /* by offset and by number */
	give(&c, 6, 0, 1); /* by number */
	expect(&c, 0, 2, 4);
	assert_int_equal(subs_check_came(&c, 0), 4);
	give(&c, 7, 0, 3);
	expect(&c, 0, 3, 5);
	assert_int_equal(subs_check_came(&c, 0), 5);
	assert_int_equal(c.holes, 0);
	subs_check_done(&c);
}

static void test_what_comes_twice_is_repeated_once(void **state)
{
	struct subs_check c;
	begin(&c, 1, true);
	give(&c, 1, 0, 0);
	give(&c, 1, 0, 0); /* the last again */
	give(&c, 2, 0, 1);
	give(&c, 3, 0, 0); /* again, under another offset */
	expect(&c, 2, 0, 2);
	assert_int_equal(subs_check_came(&c, 0), 2);
	subs_check_done(&c);
}

static void test_history_rises_by_its_key(void **state)
{
	struct subs_check c;
	begin(&c, 0, false);
	subs_check_history(&c, 1, 5, 9);
	subs_check_history(&c, 1, 6, 2);
	subs_check_history(&c, 1, 6, 3);
	subs_check_history(&c, 2, 0, 1);
	expect(&c, 0, 0, 0);
	subs_check_history(&c, 2, 0, 1); /* the last again */
	subs_check_history(&c, 1, 9, 9);
	subs_check_history(&c, 2, 0, 0);
	expect(&c, 1, 2, 0);
	assert_int_equal(c.lowest, 0);
	assert_int_equal(c.highest, 9);
	subs_check_caught_up(&c);
	subs_check_live(&c, 10);
	expect(&c, 1, 2, 0);
	subs_check_live(&c, 9);
	expect(&c, 1, 3, 0);
	subs_check_done(&c);
}

/* More holes than are kept: what fills a forgotten one is neither called repeated nor in order. */
static void test_forgotten_holes_are_told(void **state)
{
	struct subs_check c;
	begin(&c, 1, true);
	for (uint64_t i = 0; i < SUBS_HOLES_MAX + 10; i++)
		give(&c, 1 + i, 0, 2 * i + 1);
	assert_int_equal(c.holes, SUBS_HOLES_MAX);
	give(&c, 1 << 20, 0, 0);
	assert_int_equal(c.unchecked, 1);
	assert_int_equal(c.repeated, 0);
	subs_check_done(&c);
}

static void test_a_publisher_that_is_none(void **state)
{
	struct subs_check c;
	begin(&c, 2, true);
	give(&c, 1, 2, 0);
	assert_int_equal(c.unchecked, 1);
	assert_int_equal(c.own, 0);
	subs_check_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stamps),
		cmocka_unit_test(test_all_in_order),
		cmocka_unit_test(test_what_does_not_come_is_missing),
		cmocka_unit_test(test_what_comes_late_is_disordered_once),
		cmocka_unit_test(test_what_comes_twice_is_repeated_once),
		cmocka_unit_test(test_history_rises_by_its_key),
		cmocka_unit_test(test_forgotten_holes_are_told),
		cmocka_unit_test(test_a_publisher_that_is_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
