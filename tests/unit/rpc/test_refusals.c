/* Refusals by address: bounded, and who is refused often is remembered. */
#include "core/base/check.h"
#include "core/base/count.h"
#include "rpc/refusals.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct refusals_address *find(const struct refusals *r, const uint64_t ip[2])
{
	for (unsigned i = 0; i < REFUSALS_ADDRESSES; i++) {
		if (memcmp(r->address[i].ip, ip, sizeof r->address[i].ip) == 0)
			return &r->address[i];
	}
	return NULL;
}

static void test_each_reason_of_each_address(void **state)
{
	struct refusals *r = calloc(1, sizeof *r);
	for (uint64_t ip = 1; ip <= 50; ip++) {
		for (unsigned why = 0; why < REFUSAL_COUNT; why++) {
			for (unsigned n = 0; n < ip + why; n++)
				refusals_note(r, (uint64_t[]){ip, 0}, (enum refusal)why);
		}
	}
	for (uint64_t ip = 1; ip <= 50; ip++) {
		const struct refusals_address *e = find(r, (uint64_t[]){ip, 0});
		assert_non_null(e);
		assert_int_equal(e->version % 2, 0);
		for (unsigned why = 0; why < REFUSAL_COUNT; why++)
			assert_int_equal(count_get(&e->by_reason[why]), ip + why);
	}
	free(r);
}

/* A hundred thousand addresses that come by once do not push out one that comes again and again. */
static void test_the_many_do_not_hide_the_one(void **state)
{
	struct refusals *r = calloc(1, sizeof *r);
	const uint64_t one[2] = {UINT64_MAX, 0};
	for (uint64_t i = 0; i < 100000; i++) {
		refusals_note(r, (uint64_t[]){i + 1, 0}, REFUSAL_FLOOD);
		refusals_note(r, one, REFUSAL_DENIED);
	}
	const struct refusals_address *e = find(r, one);
	assert_non_null(e);
	assert_true(e->by_reason[REFUSAL_DENIED] > 99000);
	assert_int_equal(e->by_reason[REFUSAL_FLOOD], 0);
	free(r);
}

/* IPv6 by its /64, IPv4 and ::1 each by itself. */
static void test_what_is_one_address(void **state)
{
	static const struct {
		const char *ip, *as;
	} cases[] = {
		{"2001:db8::1", "2001:db8::"},          {"2001:db8::ffff:1:2:3", "2001:db8::"},
		{"2001:db8:0:1::1", "2001:db8:0:1::"},  {"::ffff:10.0.0.1", "::ffff:10.0.0.1"},
		{"::ffff:10.0.0.2", "::ffff:10.0.0.2"}, {"::1", "::1"},
	};
	struct refusals *r = calloc(1, sizeof *r);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t ip[2], as[2];
		assert_int_equal(inet_pton(AF_INET6, cases[i].ip, ip), 1);
		assert_int_equal(inet_pton(AF_INET6, cases[i].as, as), 1);
		const struct refusals_address *e = find(r, as);
		uint64_t before = e ? e->by_reason[REFUSAL_HEADERS] : 0;
		refusals_note(r, ip, REFUSAL_HEADERS);
		e = find(r, as);
		assert_non_null(e);
		assert_int_equal(e->by_reason[REFUSAL_HEADERS], before + 1);
	}
	/* One without an address is counted all the same. */
	refusals_note(r, (uint64_t[]){0, 0}, REFUSAL_HEADERS);
	assert_int_equal(r->by_reason[REFUSAL_HEADERS], ARRAY_SIZE(cases) + 1);
	free(r);
}

static void test_every_reason_has_a_name(void **state)
{
	for (unsigned i = 0; i < REFUSAL_COUNT; i++) {
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(refusal_name((enum refusal)i), refusal_name((enum refusal)k));
	}
	assert_string_equal(refusal_name(REFUSAL_COUNT), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_reason_of_each_address),
		cmocka_unit_test(test_the_many_do_not_hide_the_one),
		cmocka_unit_test(test_what_is_one_address),
		cmocka_unit_test(test_every_reason_has_a_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
