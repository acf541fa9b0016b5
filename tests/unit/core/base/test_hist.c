/* Buckets, quantiles against sorted samples, merging, and reading beside a writer. */
#include "core/base/hist.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static struct hist h, other;

static void test_empty(void **state)
{
	hist_init(&h);
	assert_int_equal(hist_quantile(&h, 0.5), 0);
	assert_true(hist_mean(&h) == 0);
	assert_int_equal(h.min, UINT64_MAX);
	assert_int_equal(h.max, 0);
}

static void test_index_is_monotonic_and_within_bounds(void **state)
{
	unsigned last = 0;

	for (uint64_t v = 0; v < 100000; v++) {
		unsigned i = hist_index(v);

		assert_true(i == last || i == last + 1);
		last = i;
	}
	for (unsigned bit = 17; bit < 64; bit++) {
		uint64_t v = UINT64_C(1) << bit;

		assert_true(hist_index(v - 1) <= hist_index(v));
		assert_true(hist_index(v) < HIST_BUCKETS);
	}
	assert_int_equal(hist_index(UINT64_MAX), HIST_BUCKETS - 1);
	assert_int_equal(hist_index((UINT64_C(1) << HIST_MAX_BITS) - 1), HIST_BUCKETS - 1);
}

static void test_small_values_are_exact(void **state)
{
	hist_init(&h);
	for (uint64_t v = 1; v <= 20; v++)
		hist_add(&h, v, 1);
	assert_int_equal(hist_quantile(&h, 0), 1);
	assert_int_equal(hist_quantile(&h, 0.05), 1);
	assert_int_equal(hist_quantile(&h, 0.5), 10);
	assert_int_equal(hist_quantile(&h, 0.51), 11);
	assert_int_equal(hist_quantile(&h, 0.95), 19);
	assert_int_equal(hist_quantile(&h, 1), 20);
	assert_int_equal(hist_quantile(&h, 7), 20);
	assert_int_equal(hist_quantile(&h, -1), 1);
	assert_true(hist_mean(&h) == 10.5);
	assert_int_equal(h.min, 1);
	assert_int_equal(h.max, 20);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void test_quantiles_are_within_the_promised_error(void **state)
{
	enum { N = 20000 };
	static const double qs[] = {0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1};
	static uint64_t sample[N];
	uint64_t x = 2463534242u;

	hist_init(&h);
	for (int i = 0; i < N; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		sample[i] = (x >> 20) >> (x % 43); /* spread over all magnitudes */
		hist_add(&h, sample[i], 1);
	}
	qsort(sample, N, sizeof sample[0], by_value);
	for (size_t i = 0; i < sizeof qs / sizeof qs[0]; i++) {
		uint64_t exact = sample[(size_t)(qs[i] * N + 0.999999) - 1], got = hist_quantile(&h, qs[i]);

		assert_true(got >= exact);
		assert_true((double)(got - exact) <= 0.032 * (double)exact);
	}
	assert_int_equal(hist_quantile(&h, 1), sample[N - 1]);
}

static void test_huge_values_keep_the_maximum(void **state)
{
	hist_init(&h);
	hist_add(&h, 5, 1);
	hist_add(&h, UINT64_C(1) << 60, 1);
	assert_int_equal(hist_quantile(&h, 0.5), 5);
	assert_int_equal(hist_quantile(&h, 1), UINT64_C(1) << 60);
	assert_int_equal(h.max, UINT64_C(1) << 60);
}

static void test_count_of_many_at_once(void **state)
{
	hist_init(&h);
	hist_add(&h, 10, 99);
	hist_add(&h, 20, 1);
	assert_int_equal(h.count, 100);
	assert_int_equal(h.sum, 1010);
	assert_int_equal(hist_quantile(&h, 0.99), 10);
	assert_int_equal(hist_quantile(&h, 0.991), 20);
}

static void test_merge_is_the_histogram_of_both(void **state)
{
	static struct hist both;

	hist_init(&h);
	hist_init(&other);
	hist_init(&both);
	for (uint64_t v = 0; v < 5000; v++) {
		hist_add(v % 3 == 0 ? &h : &other, v * v, v % 4);
		hist_add(&both, v * v, v % 4);
	}
	hist_merge(&h, &other);
	assert_memory_equal(&h, &both, sizeof h);
	hist_init(&other);
	hist_merge(&h, &other); /* an empty one changes nothing */
	assert_memory_equal(&h, &both, sizeof h);
}

static atomic_bool stop;

static void *write_values(void *arg)
{
	uint64_t v = 0;

	while (!atomic_load(&stop)) {
		hist_add(&h, 1000 + v % 1000, 1);
		v++;
	}
	return NULL;
}

static void test_reading_beside_the_writer(void **state)
{
	pthread_t t;

	hist_init(&h);
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&t, NULL, write_values, NULL), 0);
	for (int i = 0; i < 500; i++) {
		uint64_t q = hist_quantile(&h, 0.5);

		assert_true(q == 0 || (q >= 1000 && q < 2000));
		hist_init(&other);
		hist_merge(&other, &h);
		assert_true(other.max < 2000);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
}

static void test_count_le(void **state)
{
	hist_init(&h);
	assert_int_equal(hist_count_le(&h, UINT64_MAX), 0);
	for (unsigned bit = 0; bit < 64; bit++) {
		hist_add(&h, (UINT64_C(1) << bit) - 1, 1);
		hist_add(&h, UINT64_C(1) << bit, 1);
	}
	/* exact at powers of two less one, within the range */
	for (unsigned bit = 1; bit < HIST_MAX_BITS; bit++)
		assert_int_equal(hist_count_le(&h, (UINT64_C(1) << bit) - 1), 2 * bit + 1);
	assert_int_equal(hist_count_le(&h, UINT64_MAX), 128);
	assert_true(hist_count_le(&h, UINT64_MAX - 1) < 128);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_count_le),
		cmocka_unit_test(test_index_is_monotonic_and_within_bounds),
		cmocka_unit_test(test_small_values_are_exact),
		cmocka_unit_test(test_quantiles_are_within_the_promised_error),
		cmocka_unit_test(test_huge_values_keep_the_maximum),
		cmocka_unit_test(test_count_of_many_at_once),
		cmocka_unit_test(test_merge_is_the_histogram_of_both),
		cmocka_unit_test(test_reading_beside_the_writer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
