/* core/base/spsc.h: order, bounds, and a long run of two threads (worth most in a TSan build, where the twin is what runs). */
#include "core/base/spsc.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct elem {
	uint64_t a, b;
	uint32_t c;
};

static void capacity_is_at_least_the_depth(void **state)
{
	static const uint32_t depths[] = {1, 2, 3, 4, 7, 8, 100, 1024};

	for (size_t i = 0; i < ARRAY_SIZE(depths); i++) {
		struct spsc s;
		uint32_t v = 0, n = 0;

		assert_int_equal(spsc_init(&s, depths[i], sizeof v), 0);
		while (spsc_push(&s, &n))
			n++;
		assert_true(n >= depths[i]);
		assert_int_equal(n, spsc_capacity(&s));
		assert_int_equal(n, spsc_count(&s));
		for (uint32_t k = 0; k < n; k++) {
			assert_true(spsc_pop(&s, &v));
			assert_int_equal(v, k);
		}
		assert_false(spsc_pop(&s, &v));
		assert_int_equal(spsc_count(&s), 0);
		spsc_done(&s);
	}
}

static void refuses_senseless_sizes(void **state)
{
	struct spsc s;

	assert_int_equal(spsc_init(&s, 0, 8), -EINVAL);
	assert_int_equal(spsc_init(&s, 8, 0), -EINVAL);
	assert_int_equal(spsc_init(&s, SPSC_DEPTH_MAX + 1, 8), -EINVAL);
}

static void elements_come_whole_across_the_end_of_the_buffer(void **state)
{
	struct spsc s;
	uint64_t pushed = 0, popped = 0;

	assert_int_equal(spsc_init(&s, 5, sizeof(struct elem)), 0);
	for (int round = 0; round < 1000; round++) {
		for (int k = 0; k < round % 6; k++) {
			struct elem e = {pushed, ~pushed, (uint32_t)pushed};

			if (spsc_push(&s, &e))
				pushed++;
		}
		for (int k = 0; k < (round * 7) % 6; k++) {
			struct elem e;

			if (!spsc_pop(&s, &e))
				break;
			assert_int_equal(e.a, popped);
			assert_int_equal(e.b, ~popped);
			assert_int_equal(e.c, (uint32_t)popped);
			popped++;
		}
		assert_int_equal(spsc_count(&s), pushed - popped);
	}
	assert_true(popped > 1000);
	spsc_done(&s);
}

#define RUN 300000u

static void *produce(void *arg)
{
	struct spsc *s = arg;

	for (uint64_t i = 0; i < RUN;) {
		struct elem e = {i, i * 3, (uint32_t)i};

		if (spsc_push(s, &e))
			i++;
		else
			sched_yield();
	}
	return NULL;
}

static void two_threads_see_each_element_once_in_order(void **state)
{
	struct spsc s;
	pthread_t t;

	assert_int_equal(spsc_init(&s, 64, sizeof(struct elem)), 0);
	assert_int_equal(pthread_create(&t, NULL, produce, &s), 0);
	for (uint64_t i = 0; i < RUN;) {
		struct elem e;

		if (!spsc_pop(&s, &e)) {
			sched_yield();
			continue;
		}
		if (e.a != i || e.b != i * 3 || e.c != (uint32_t)i)
			fail_msg("element %llu is wrong", (unsigned long long)i);
		i++;
	}
	pthread_join(t, NULL);
	assert_int_equal(spsc_count(&s), 0);
	spsc_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capacity_is_at_least_the_depth),
		cmocka_unit_test(refuses_senseless_sizes),
		cmocka_unit_test(elements_come_whole_across_the_end_of_the_buffer),
		cmocka_unit_test(two_threads_see_each_element_once_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
