/* Every member of the queue family against the whole conformance suite, and what is particular to some. */
#include "conform.h"

#include "core/base/check.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct pair {
	const struct family_ops *ops;
	const struct conform_case *k;
};

static void test_member(void **state)
{
	const struct pair *pair = *state;
	char why[256] = "";

	if (conform_run(pair->k, pair->ops, CONFORM_HANG_S, why, sizeof why) != 0)
		fail_msg("%s: %s", pair->ops->name, why);
}

/* Ranges come out item by item, to each consumer in order, none lost and none twice, whatever the sizes of ranges and
 * batches. */
static void ranges_come_out_as_items(const struct family_ops *ops)
{
	const struct family_opts opts = {.capacity = 64, .producers = 1, .consumers = 3};
	struct family_queue *q;
	uint64_t next = 1000, sum = 0, out[10], last[3] = {0}, n = 0;

	assert_int_equal(family_init(ops, &opts, &q), 0);
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(family_enqueue_range(q, 0, next, i + 1, false), 0);
		next += i + 1;
	}
	family_close(q);
	assert_int_equal(family_enqueue_range(q, 0, next, 1, true), -EPIPE);
	for (unsigned who = 0; who < 3; who++) {
		int r;

		while ((r = family_dequeue_batch(q, who, out, who + 1, true)) > 0) {
			assert_in_range(r, 1, who + 1);
			for (int i = 0; i < r; i++) {
				assert_true(out[i] > last[who]);
				last[who] = out[i];
				sum += out[i];
				n++;
			}
		}
		assert_int_equal(r, -EPIPE);
	}
	assert_int_equal(n, next - 1000);
	assert_int_equal(sum, (1000 + next - 1) * (next - 1000) / 2);
	family_done(q);
}

static void test_ranges(void **state)
{
	unsigned found = 0;

	for (unsigned i = 0; i < family_count; i++)
		if (family_members[i]->enqueue_range != NULL) {
			ranges_come_out_as_items(family_members[i]);
			found++;
		}
	assert_int_equal(found, 2);
}

/* A run of consecutive items in a batch takes one place, so a bound of few ranges holds many items. */
static void test_ranges_are_made_of_runs(void **state)
{
	const struct family_opts opts = {.capacity = 3, .producers = 1, .consumers = 1};
	uint64_t items[100], out;
	struct family_queue *q;

	for (unsigned i = 0; i < 100; i++)
		items[i] = 5 + i;
	assert_int_equal(family_init(family_find("ranges-spsc"), &opts, &q), 0);
	assert_int_equal(family_enqueue_batch(q, 0, items, 100, false), 100);
	items[50] = 7;
	assert_int_equal(family_enqueue_batch(q, 0, items, 100, false),
			 51); /* 50, the odd one, and no room for the rest */
	for (unsigned i = 0; i < 150; i++) {
		assert_int_equal(family_dequeue(q, 0, &out, false), 0);
		assert_int_equal(out, i < 100 ? 5 + i : 5 + i - 100);
	}
	assert_int_equal(family_dequeue(q, 0, &out, false), 0);
	assert_int_equal(out, 7);
	assert_int_equal(family_dequeue(q, 0, &out, false), -EAGAIN);
	family_done(q);
}

static void test_init_refuses_what_a_member_cannot_do(void **state)
{
	struct family_queue *q;

	for (unsigned i = 0; i < family_count; i++) {
		const struct family_ops *ops = family_members[i];
		struct family_opts opts = {.capacity = 0, .producers = 1, .consumers = 1};

		assert_int_equal(family_init(ops, &opts, &q), -EINVAL);
		opts.capacity = FAMILY_CAPACITY_MAX + 1;
		assert_int_equal(family_init(ops, &opts, &q), -EINVAL);
		opts.capacity = 64;
		opts.producers = 0;
		assert_int_equal(family_init(ops, &opts, &q), -EINVAL);
		opts.producers = ops->producers_max != 0 ? ops->producers_max + 1 : FAMILY_PEERS_MAX + 1;
		assert_int_equal(family_init(ops, &opts, &q), -EINVAL);
		opts.producers = 1;
		opts.consumers = ops->consumers_max != 0 ? ops->consumers_max + 1 : FAMILY_PEERS_MAX + 1;
		assert_int_equal(family_init(ops, &opts, &q), -EINVAL);
	}
}

static void test_names_are_unique_and_found(void **state)
{
	for (unsigned i = 0; i < family_count; i++)
		assert_ptr_equal(family_find(family_members[i]->name), family_members[i]);
	assert_null(family_find("no-such-queue"));
}

/* With an argument: only the tests whose names match it, such as "sharded*". */
int main(int argc, char **argv)
{
	static const struct CMUnitTest single[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_ranges_are_made_of_runs),
		cmocka_unit_test(test_init_refuses_what_a_member_cannot_do),
		cmocka_unit_test(test_names_are_unique_and_found),
	};
	unsigned n = family_count * conform_count;
	struct CMUnitTest *tests = calloc(n, sizeof *tests);
	struct pair *pairs = calloc(n, sizeof *pairs);
	char(*names)[96] = calloc(n, sizeof *names);
	int failed;

	CHECK(tests != NULL && pairs != NULL && names != NULL);
	for (unsigned i = 0; i < n; i++) {
		pairs[i].ops = family_members[i / conform_count];
		pairs[i].k = &conform_cases[i % conform_count];
		snprintf(names[i], sizeof names[i], "%s/%s", pairs[i].ops->name, pairs[i].k->name);
		tests[i].name = names[i];
		tests[i].test_func = test_member;
		tests[i].initial_state = &pairs[i];
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	failed = _cmocka_run_group_tests("family members", tests, n, NULL, NULL);
	failed += cmocka_run_group_tests_name("family particulars", single, NULL, NULL);
	free(names);
	free(pairs);
	free(tests);
	return failed;
}
