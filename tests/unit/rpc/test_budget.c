/* budget.c: the bound, alignment, resets; and protobuf-c living within it. */
#include "rpc/budget.h"

#include "tests/support/pb_node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_bound(void **state)
{
	struct budget b;

	assert_int_equal(budget_init(&b, 64, 256), 0);
	for (int round = 0; round < 3; round++) {
		size_t got = 0;
		uint8_t *p;
		while ((p = budget_alloc(&b, 16))) {
			assert_int_equal((uintptr_t)p % 16, 0);
			memset(p, 0xaa, 16);
			got += 16;
		}
		assert_int_equal(got, 256);
		assert_true(budget_is_exhausted(&b));
		budget_reset(&b);
		assert_false(budget_is_exhausted(&b));
		assert_int_equal(b.spent, 0);
	}
	assert_null(budget_alloc(&b, 257));
	assert_true(budget_is_exhausted(&b));
	budget_reset(&b);
	assert_non_null(budget_alloc(&b, 256)); /* in one piece, beyond the block */
	assert_null(budget_alloc(&b, 1));
	budget_done(&b);
}

static void test_sizes(void **state)
{
	struct budget b;

	assert_int_equal(budget_init(&b, 0, 1000), 0);
	assert_null(budget_alloc(&b, SIZE_MAX));
	assert_null(budget_alloc(&b, SIZE_MAX - 15));
	assert_null(budget_alloc(&b, SIZE_MAX / 2));
	assert_int_equal(b.spent, 0);
	void *zero = budget_alloc(&b, 0);
	assert_non_null(zero);
	assert_ptr_not_equal(zero, budget_alloc(&b, 0));
	assert_int_equal(b.spent, 32);
	budget_done(&b);

	assert_int_equal(budget_init(&b, 4096, 0), 0);
	assert_null(budget_alloc(&b, 1));
	budget_done(&b);
}

/* Every piece keeps what was written to it, whichever chunk it came from. */
static void test_pieces_do_not_overlap(void **state)
{
	struct budget b;
	uint8_t *piece[200];
	size_t size[200], total = 0;

	assert_int_equal(budget_init(&b, 100, 1 << 20), 0);
	for (size_t i = 0; i < 200; i++) {
		size[i] = i * 37 % 500 + 1;
		piece[i] = budget_alloc(&b, size[i]);
		assert_non_null(piece[i]);
		memset(piece[i], (int)i, size[i]);
		total += (size[i] + 15) / 16 * 16;
	}
	assert_int_equal(b.spent, total);
	for (size_t i = 0; i < 200; i++) {
		for (size_t k = 0; k < size[i]; k++)
			assert_int_equal(piece[i][k], (uint8_t)i);
	}
	budget_done(&b);
}

/* With every budget from nothing to enough, protobuf-c either yields the message or says so; it leaks and breaks nothing. */
static void test_protobuf_c_within_any_budget(void **state)
{
	static const uint8_t msg[] =
		"\x0a\x03"
		"abc\x12\x09\x0a\x03"
		"def\x1a\x02\x20\x07\x1a\x04\x32\x02xy\x1a\x00\x20\x05\x22\x02\x01\x02\x2a\x02\xff\xfe"
		"\x32\x01x\x32\x02yz\x12\x04\x2a\x02ok\x78\x01\x7a\x03unk";
	size_t enough = 0;

	for (size_t limit = 0; limit < 16384; limit += 16) {
		struct budget b;
		assert_int_equal(budget_init(&b, 32, limit), 0);
		struct pb_node *m = (struct pb_node *)protobuf_c_message_unpack(&pb_node_descriptor, &b.allocator,
										sizeof msg - 1, msg);
		assert_int_equal(m == NULL, budget_is_exhausted(&b));
		assert_true(b.spent <= limit);
		if (m) {
			assert_string_equal(m->name, "abc");
			assert_string_equal(m->child->name, "def");
			assert_int_equal(m->child->children[0]->numbers[0], 7);
			assert_memory_equal(m->child->blob.data, "ok", 2);
			assert_int_equal(m->n_children, 2);
			assert_string_equal(m->children[0]->names[0], "xy");
			assert_int_equal(m->n_numbers, 3);
			assert_string_equal(m->names[1], "yz");
			if (!enough)
				enough = limit;
		} else {
			assert_int_equal(enough, 0); /* more is never less */
		}
		budget_done(&b);
		if (enough && limit > enough + 64)
			break;
	}
	assert_true(enough > 0);
}

/* A small bomb: unknown fields of two bytes, each of which the parser turns into dozens. */
static void test_unknown_fields_are_paid_for(void **state)
{
	static uint8_t msg[20000];
	struct budget b;

	for (size_t i = 0; i < sizeof msg; i += 2)
		msg[i] = 0x78;
	assert_int_equal(budget_init(&b, 4096, 64 << 10), 0);
	assert_null(protobuf_c_message_unpack(&pb_node_descriptor, &b.allocator, sizeof msg, msg));
	assert_true(budget_is_exhausted(&b));
	budget_reset(&b);
	assert_non_null(protobuf_c_message_unpack(&pb_node_descriptor, &b.allocator, 20, msg));
	budget_reset(&b);
	assert_null(protobuf_c_message_unpack(&pb_node_descriptor, &b.allocator, 1, msg));
	assert_false(budget_is_exhausted(&b)); /* malformed is told from too much */
	budget_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bound),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_pieces_do_not_overlap),
		cmocka_unit_test(test_protobuf_c_within_any_budget),
		cmocka_unit_test(test_unknown_fields_are_paid_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
