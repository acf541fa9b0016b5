/* The tree of late frames against a sorted array. */
#include "queue/stream_late.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after those */
#include <cmocka.h>

#define MAX 60000u

static struct late model[MAX];
static unsigned count;
static uint64_t seed;

static uint64_t dice(void)
{
	uint64_t v = seed += UINT64_C(0x9e3779b97f4a7c15);

	v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
	return v ^ v >> 31;
}

static int compare(const void *a, const void *b)
{
	const struct late *x = a, *y = b;

	return key_below(&x->key, &y->key) ? -1 : key_below(&y->key, &x->key);
}

static void add(struct late_tree *t, uint64_t seq_no, int64_t timestamp)
{
	struct late e = {{seq_no, timestamp, 1000 + count * 3}, count};

	assert_int_equal(late_add(t, &e), 0);
	model[count++] = e;
	assert_int_equal(t->count, count);
}

static void check(const struct late_tree *t)
{
	struct stream_key least = {.timestamp = INT64_MIN};
	struct late_iter it = late_seek(t, &least);

	qsort(model, count, sizeof model[0], compare);
	for (unsigned i = 0; i < count; i++) {
		const struct late *e = late_next(&it);

		assert_non_null(e);
		assert_memory_equal(&e->key, &model[i].key, sizeof e->key);
		assert_int_equal(e->size, model[i].size);
	}
	assert_null(late_next(&it));
	for (unsigned k = 0; k < 200 && count > 0; k++) { /* from anywhere */
		struct stream_key from = model[dice() % count].key;
		unsigned lo = 0;

		from.pos += dice() % 3;
		while (lo < count && key_below(&model[lo].key, &from))
			lo++;
		it = late_seek(t, &from);
		for (unsigned n = 0; n < 70 && lo < count; n++, lo++)
			assert_int_equal(late_next(&it)->key.pos, model[lo].key.pos);
	}
}

static void sweep(struct late_tree *t, uint64_t pos)
{
	unsigned kept = 0;

	while (!late_sweep(t, pos, 1 + (unsigned)(dice() % 20)))
		;
	for (unsigned i = 0; i < count; i++)
		if (model[i].key.pos >= pos)
			model[kept++] = model[i];
	count = kept;
	assert_int_equal(t->count, count);
	check(t);
}

static void run(uint64_t (*key)(unsigned i), unsigned n, unsigned bytes_max)
{
	struct late_tree t = {.swept = {.timestamp = INT64_MIN}};

	count = 0;
	for (unsigned i = 0; i < n; i++)
		add(&t, key(i), (int64_t)(dice() % 3) - 1);
	check(&t);
	assert_true(t.bytes < (uint64_t)n * bytes_max + 10000);
	sweep(&t, 1000 + n);
	sweep(&t, 1000 + 2 * n + n / 2);
	sweep(&t, UINT64_MAX);
	assert_null(t.root);
	assert_int_equal(t.bytes, 0);
	count = 0;
	add(&t, 5, 5);
	check(&t);
	late_done(&t);
}

static uint64_t key_random(unsigned i)
{
	(void)i;
	return dice();
}

static uint64_t key_rising(unsigned i)
{
	return i / 2;
}

static uint64_t key_falling(unsigned i)
{
	return MAX - i;
}

static uint64_t key_equal(unsigned i)
{
	(void)i;
	return 3;
}

/* Rising runs, each below the one before: leaves split at their ends, again and again. */
static uint64_t key_saw(unsigned i)
{
	return (uint64_t)(MAX - i / 64) * 1000 + i % 64;
}

/* The end of a full leaf from above: no leaf must be made for a single key. */
static uint64_t key_converging(unsigned i)
{
	return i % 2 ? i : 2 * (uint64_t)MAX - i;
}

static void test_against_a_sorted_array(void **state)
{
	(void)state;
	run(key_random, MAX, 60);
	run(key_rising, MAX, 60);
	run(key_falling, MAX, 80);
	run(key_equal, MAX, 80);
	run(key_saw, MAX, 80);
	run(key_converging, MAX, 80);
	run(key_random, 10, 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_a_sorted_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
