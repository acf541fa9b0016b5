/* The three clocks tick, in their units, and agree with the system's. */
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

static void test_mono_never_goes_back(void **state)
{
	uint64_t last = clock_mono_ns();

	for (int i = 0; i < 100000; i++) {
		uint64_t now = clock_mono_ns();

		assert_true(now >= last);
		last = now;
	}
}

static void test_mono_is_clock_monotonic_in_ns(void **state)
{
	struct timespec a, b;
	uint64_t mid;

	clock_gettime(CLOCK_MONOTONIC, &a);
	mid = clock_mono_ns();
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true(mid >= (uint64_t)a.tv_sec * NS_PER_S + (uint64_t)a.tv_nsec);
	assert_true(mid <= (uint64_t)b.tv_sec * NS_PER_S + (uint64_t)b.tv_nsec);
}

static void test_wall_is_unix_time_in_ns(void **state)
{
	time_t before = time(NULL);
	int64_t wall = clock_wall_ns();

	/* time() may run on the coarse clock, a tick behind; a stepped clock is not this test's matter. */
	assert_true(wall / (int64_t)NS_PER_S >= before);
	assert_true(wall / (int64_t)NS_PER_S - before < 3600);
}

static void test_thread_cpu_time_grows_with_work_only(void **state)
{
	uint64_t a = clock_thread_cpu_ns(), b = a, wall = clock_mono_ns();

	while (b == a)
		b = clock_thread_cpu_ns();
	assert_true(b > a);
	wall = clock_mono_ns();
	a = clock_thread_cpu_ns();
	b = clock_thread_cpu_ns();
	/* A thread cannot use more CPU time than passes; the two clocks may differ by a tick of either. */
	assert_true(b - a <= clock_mono_ns() - wall + NS_PER_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mono_never_goes_back),
		cmocka_unit_test(test_mono_is_clock_monotonic_in_ns),
		cmocka_unit_test(test_wall_is_unix_time_in_ns),
		cmocka_unit_test(test_thread_cpu_time_grows_with_work_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
