/* The table from names to indexes. */
#include "queue/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
/* after those */
#include <cmocka.h>

#define COUNT 5000u

static char text[COUNT][16];

static struct span name_at(const void *ctx, uint32_t index)
{
	return (struct span){(const uint8_t *)text[index], strlen(text[index])};
}

/* Test vectors of SipHash-1-3 with the key 00 01 .. 0f and the messages "", 00, 00 01, ...: the first of the Rust
 * standard library's. */
static void test_hash_is_siphash_1_3(void **state)
{
	static const uint64_t expect[] = {
		0xabac0158050fc4dc, 0xc9f49bf37d57ca93, 0x82cb9b024dc7d44d, 0x8bf80ab8e7ddf7fb, 0xcf75576088d38328,
		0xdef9d52f49533b67, 0xc50d2b50c59f22a7, 0xd3927d989bb11140, 0x369095118d299a8e, 0x25a48eb36c063de4};
	static const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
	uint8_t message[16];
	struct names n;

	assert_int_equal(names_init(&n, key, name_at, NULL), 0);
	for (size_t i = 0; i < sizeof expect / sizeof *expect; i++) {
		assert_int_equal(names_hash(&n, (struct span){message, i}), expect[i]);
		message[i] = (uint8_t)i;
	}
	names_done(&n);
}

static void test_finds_what_was_added_while_it_grows(void **state)
{
	struct names n;
	uint32_t index;

	assert_int_equal(names_init(&n, NULL, name_at, NULL), 0);
	for (uint32_t i = 0; i < COUNT; i++) {
		snprintf(text[i], sizeof text[i], "name %u", i);
		assert_false(names_find(&n, names_hash(&n, name_at(NULL, i)), name_at(NULL, i), &index));
		assert_int_equal(names_add(&n, names_hash(&n, name_at(NULL, i)), i), 0);
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		assert_true(names_find(&n, names_hash(&n, name_at(NULL, i)), name_at(NULL, i), &index));
		assert_int_equal(index, i);
	}
	names_done(&n);
}

/* Two names with one hash are told apart by their bytes. */
static void test_equal_hashes(void **state)
{
	struct names n;
	uint32_t index;

	assert_int_equal(names_init(&n, NULL, name_at, NULL), 0);
	snprintf(text[0], sizeof text[0], "a");
	snprintf(text[1], sizeof text[1], "b");
	assert_int_equal(names_add(&n, 42, 0), 0);
	assert_false(names_find(&n, 42, name_at(NULL, 1), &index));
	assert_int_equal(names_add(&n, 42, 1), 0);
	assert_true(names_find(&n, 42, name_at(NULL, 1), &index));
	assert_int_equal(index, 1);
	assert_true(names_find(&n, 42, name_at(NULL, 0), &index));
	assert_int_equal(index, 0);
	names_done(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hash_is_siphash_1_3),
		cmocka_unit_test(test_finds_what_was_added_while_it_grows),
		cmocka_unit_test(test_equal_hashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
