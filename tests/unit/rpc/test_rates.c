/* rates.c: windows of samples, on time, late, too few, and more than the ring holds. */
#include "rpc/rates.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define S RATES_PERIOD_NS

static void near(double got, double want)
{
	if (!(got > want - 1e-6 && got < want + 1e-6))
		fail_msg("%f instead of %f", got, want);
}

static void test_no_rate_without_two_samples(void **state)
{
	struct rates r;
	assert_int_equal(rates_init(&r, 1), 0);
	assert_int_equal(rates_due_ns(&r), 0);
	near(rates_per_s(&r, 0, S), 0);
	rates_sample(&r, 100 * S, &(uint64_t){1000000});
	near(rates_per_s(&r, 0, 60 * S), 0);
	assert_int_equal(rates_due_ns(&r), 101 * S);
	rates_sample(&r, 101 * S, &(uint64_t){1000007});
	near(rates_per_s(&r, 0, S), 7);
	near(rates_per_s(&r, 0, 60 * S), 7); /* over what there is */
	rates_done(&r);
}

/* A column that grows by i in the i-th second, beside one that grows by 5 always. */
static void test_windows(void **state)
{
	struct rates r;
	uint64_t sums[2] = {0, 0};
	assert_int_equal(rates_init(&r, 2), 0);
	for (unsigned i = 0; i <= 200; i++) {
		sums[0] += i;
		sums[1] += 5;
		rates_sample(&r, (1000 + i) * S, sums);
	}
	near(rates_per_s(&r, 0, S), 200);
	near(rates_per_s(&r, 0, 10 * S), (191 + 200) / 2.0);
	near(rates_per_s(&r, 0, 60 * S), (141 + 200) / 2.0);
	near(rates_per_s(&r, 1, S), 5);
	near(rates_per_s(&r, 1, 60 * S), 5);
	near(rates_per_s(&r, 1, 3600 * S), 5); /* longer than the ring: over all of it */
	rates_done(&r);
}

/* The main thread may be late; a rate is by the time that has really passed. */
static void test_late_samples(void **state)
{
	struct rates r;
	uint64_t now = 50 * S, sum = 0;
	assert_int_equal(rates_init(&r, 1), 0);
	for (unsigned i = 0; i < 30; i++) {
		now += S + S / 50;
		sum += 102;
		rates_sample(&r, now, &sum);
	}
	near(rates_per_s(&r, 0, S), 100);
	near(rates_per_s(&r, 0, 10 * S), 100);
	now += 5 * S; /* stopped for a while, and nothing happened */
	rates_sample(&r, now, &sum);
	near(rates_per_s(&r, 0, S), 0);
	now += S;
	sum += 40;
	rates_sample(&r, now, &sum);
	near(rates_per_s(&r, 0, S), 40);
	near(rates_per_s(&r, 0, 6 * S), 40.0 / 6);
	rates_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_rate_without_two_samples),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_late_samples),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
