/* A ring is free while the sleeper is awake, wakes it once when it sleeps, and no work is ever left behind. */
#include "core/base/doorbell.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void test_ringing_the_waking_writes_nothing(void **state)
{
	struct doorbell b;

	assert_int_equal(doorbell_init(&b), 0);
	for (int i = 0; i < 10; i++)
		doorbell_ring(&b);
	assert_int_equal(atomic_load(&b.rings), 0);
	assert_false(readable(b.fd));
	doorbell_done(&b);
}

static void test_one_write_a_sleep(void **state)
{
	struct doorbell b;

	assert_int_equal(doorbell_init(&b), 0);
	doorbell_arm(&b);
	for (int i = 0; i < 10; i++)
		doorbell_ring(&b);
	assert_int_equal(atomic_load(&b.rings), 1);
	assert_true(readable(b.fd));
	assert_true(doorbell_wait(&b, UINT64_MAX));
	assert_false(readable(b.fd));
	assert_false(atomic_load(&b.sleeping));
	doorbell_done(&b);
}

static void test_wait_ends_without_a_ring(void **state)
{
	struct doorbell b;

	assert_int_equal(doorbell_init(&b), 0);
	doorbell_arm(&b);
	assert_false(doorbell_wait(&b, 0));
	assert_false(atomic_load(&b.sleeping));
	doorbell_arm(&b);
	assert_false(doorbell_wait(&b, 1000000));
	assert_false(atomic_load(&b.sleeping));
	doorbell_done(&b);
}

static void test_a_ring_as_the_wait_times_out_is_not_lost(void **state)
{
	struct doorbell b;

	assert_int_equal(doorbell_init(&b), 0);
	doorbell_arm(&b);
	doorbell_ring(&b); /* between the time-out and the disarm, seen from the sleeper */
	doorbell_disarm(&b);
	doorbell_arm(&b);
	assert_true(doorbell_wait(&b, UINT64_MAX));
	doorbell_done(&b);
}

#define ITEMS 20000

static struct doorbell bell;
static atomic_uint_fast64_t posted, answered;

static void *consume(void *arg)
{
	uint64_t seen = 0;

	while (seen < ITEMS) {
		uint64_t now = atomic_load_explicit(&posted, memory_order_acquire);

		if (now == seen) {
			doorbell_arm(&bell);
			now = atomic_load_explicit(&posted, memory_order_acquire);
			if (now == seen) {
				doorbell_wait(&bell, UINT64_MAX); /* a lost ring hangs here */
				continue;
			}
			doorbell_disarm(&bell);
		}
		seen = now;
		atomic_store_explicit(&answered, seen, memory_order_release);
	}
	return NULL;
}

static void test_no_ring_is_lost_between_two_threads(void **state)
{
	pthread_t t;

	assert_int_equal(doorbell_init(&bell), 0);
	assert_int_equal(pthread_create(&t, NULL, consume, NULL), 0);
	for (uint64_t i = 1; i <= ITEMS; i++) {
		atomic_store_explicit(&posted, i, memory_order_release);
		doorbell_ring(&bell);
		/* Every other item waits for its answer, so that the consumer goes to sleep between items. */
		while (i % 2 == 0 && atomic_load_explicit(&answered, memory_order_acquire) < i)
			sched_yield();
	}
	pthread_join(t, NULL);
	assert_int_equal(atomic_load(&answered), ITEMS);
	doorbell_done(&bell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ringing_the_waking_writes_nothing),
		cmocka_unit_test(test_one_write_a_sleep),
		cmocka_unit_test(test_wait_ends_without_a_ring),
		cmocka_unit_test(test_a_ring_as_the_wait_times_out_is_not_lost),
		cmocka_unit_test(test_no_ring_is_lost_between_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
