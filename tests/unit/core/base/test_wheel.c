/* The wheel against a model that keeps every timer in a plain array, and the corners one by one. */
#include "core/base/wheel.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

struct probe {
	struct timer t;
	uint64_t due_ns; /* when armed by the test */
	unsigned fired;
	struct probe *other; /* what a callback acts on */
	uint64_t again_ns;
};

static struct wheel w;
static uint64_t now; /* ns */

static void fire(struct timer *t, void *ctx)
{
	struct probe *p = container_of(t, struct probe, t);

	assert_ptr_equal(ctx, &now);
	assert_false(timer_is_armed(t));
	assert_true(now >= p->due_ns); /* never early */
	p->fired++;
}

static void start(uint64_t at)
{
	now = at;
	wheel_init(&w, now, &now);
}

static void arm(struct probe *p, uint64_t due_ns)
{
	p->t.fire = p->t.fire ? p->t.fire : fire;
	p->due_ns = due_ns;
	wheel_add(&w, &p->t, due_ns);
}

static unsigned advance(uint64_t to)
{
	now = to;
	return wheel_advance(&w, now);
}

static void test_empty_wheel(void **state)
{
	start(123456789);
	assert_true(wheel_next_ns(&w) == UINT64_MAX);
	assert_int_equal(advance(now + 1000 * NS_PER_S), 0);
	assert_true(wheel_next_ns(&w) == UINT64_MAX);
}

/* For delays around every level's border, and starts around every border: not before, and at most one tick after. */
static void test_fires_at_its_tick_from_any_start(void **state)
{
	static const uint64_t edges[] = {0,      1,      63,     64,       65,       4095,     4096,    4097,
					 262143, 262144, 262145, 16777215, 16777216, 16777217, 50000000};

	for (size_t i = 0; i < ARRAY_SIZE(edges); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(edges); k++) {
			struct probe p = {0};
			uint64_t due;

			start(edges[i] * NS_PER_MS + 7);
			due = now + edges[k] * NS_PER_MS + 1;
			arm(&p, due);
			assert_int_equal(w.armed, 1);
			/* Follow the wheel's own advice until it fires. */
			while (p.fired == 0) {
				uint64_t next = wheel_next_ns(&w);

				assert_true(next != UINT64_MAX);
				assert_true(next <= due + NS_PER_MS);
				assert_true(next > now || w.now_ms == next / NS_PER_MS);
				if (next <= now)
					next = now;
				advance(next);
			}
			assert_true(now >= due && now - due <= NS_PER_MS);
			assert_int_equal(p.fired, 1);
			assert_int_equal(w.armed, 0);
			assert_true(wheel_next_ns(&w) == UINT64_MAX);
		}
	}
}

static void test_due_in_the_past_fires_at_the_next_advance(void **state)
{
	struct probe a = {0}, b = {0};

	start(10 * NS_PER_S);
	arm(&a, 3 * NS_PER_S);
	arm(&b, now);
	assert_true(wheel_next_ns(&w) <= now);
	assert_int_equal(advance(now), 2); /* though the clock has not moved */
	assert_int_equal(a.fired, 1);
	assert_int_equal(b.fired, 1);
}

static void test_clock_that_stands_or_steps_back_fires_nothing(void **state)
{
	struct probe a = {0};

	start(10 * NS_PER_S);
	arm(&a, now + 5 * NS_PER_MS);
	assert_int_equal(wheel_advance(&w, now), 0);
	assert_int_equal(wheel_advance(&w, now - NS_PER_S), 0);
	assert_int_equal(a.fired, 0);
	assert_int_equal(advance(now + 5 * NS_PER_MS), 1);
}

static void test_del_and_rearm(void **state)
{
	struct probe a = {0};

	start(0);
	wheel_del(&w, &a.t); /* zero-filled: not armed */
	arm(&a, 100 * NS_PER_MS);
	assert_true(timer_is_armed(&a.t));
	arm(&a, 5000 * NS_PER_MS); /* moved, not doubled */
	assert_int_equal(w.armed, 1);
	assert_int_equal(advance(200 * NS_PER_MS), 0);
	wheel_del(&w, &a.t);
	wheel_del(&w, &a.t);
	assert_false(timer_is_armed(&a.t));
	assert_int_equal(w.armed, 0);
	assert_true(wheel_next_ns(&w) == UINT64_MAX); /* its slot counts as empty again */
	assert_int_equal(advance(10 * NS_PER_S), 0);
	assert_int_equal(a.fired, 0);
}

static void test_due_never(void **state)
{
	struct probe a = {0};

	start(NS_PER_S);
	arm(&a, UINT64_MAX);
	assert_int_equal(advance(400 * 24 * 3600 * NS_PER_S), 0);
	assert_true(timer_is_armed(&a.t));
	assert_true(wheel_next_ns(&w) > now);
	wheel_del(&w, &a.t);
	assert_true(wheel_next_ns(&w) == UINT64_MAX);
}

static void fire_and_kill(struct timer *t, void *ctx)
{
	struct probe *p = container_of(t, struct probe, t);

	p->fired++;
	wheel_del(&w, &p->other->t);
}

static void test_callback_deletes_another_due_timer(void **state)
{
	struct probe a = {.t.fire = fire_and_kill}, b = {.t.fire = fire_and_kill};

	a.other = &b;
	b.other = &a;
	start(0);
	arm(&a, 10 * NS_PER_MS);
	arm(&b, 10 * NS_PER_MS);
	assert_int_equal(advance(20 * NS_PER_MS), 1);
	assert_int_equal(a.fired + b.fired, 1);
	assert_int_equal(w.armed, 0);
	assert_true(wheel_next_ns(&w) == UINT64_MAX);
}

static void fire_and_rearm(struct timer *t, void *ctx)
{
	struct probe *p = container_of(t, struct probe, t);

	p->fired++;
	arm(p, p->again_ns);
}

static void test_callback_rearming_itself_in_the_past_ends(void **state)
{
	struct probe a = {.t.fire = fire_and_rearm};

	start(0);
	arm(&a, 10 * NS_PER_MS);
	assert_int_equal(advance(50 * NS_PER_MS), 1); /* not for ever */
	assert_true(timer_is_armed(&a.t));
	assert_int_equal(advance(50 * NS_PER_MS), 1);
	a.again_ns = 51 * NS_PER_MS;
	assert_int_equal(advance(50 * NS_PER_MS), 1);
	assert_int_equal(advance(50 * NS_PER_MS), 0);
	assert_int_equal(advance(51 * NS_PER_MS), 1);
	assert_int_equal(w.armed, 1);
}

static void fire_and_postpone(struct timer *t, void *ctx)
{
	struct probe *p = container_of(t, struct probe, t);

	p->fired++;
	arm(p->other, now + 100 * NS_PER_MS);
}

static void test_callback_postpones_another_due_timer(void **state)
{
	struct probe a = {.t.fire = fire_and_postpone}, b = {0};

	a.other = &b;
	start(0);
	arm(&a, 10 * NS_PER_MS);
	arm(&b, 11 * NS_PER_MS);
	assert_int_equal(advance(20 * NS_PER_MS), 1);
	assert_int_equal(b.fired, 0);
	assert_int_equal(w.armed, 1);
	assert_int_equal(advance(120 * NS_PER_MS), 1);
	assert_int_equal(b.fired, 1);
}

static uint64_t order_last;

static void fire_in_order(struct timer *t, void *ctx)
{
	assert_true(t->due_ms >= order_last);
	order_last = t->due_ms;
}

static void test_one_advance_fires_in_order_of_due_time(void **state)
{
	struct probe p[500];
	uint64_t x = 12345;

	memset(p, 0, sizeof p);
	start(77 * NS_PER_MS);
	for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		p[i].t.fire = fire_in_order;
		arm(&p[i], now + (x >> 40) * NS_PER_MS);
	}
	order_last = 0;
	assert_int_equal(advance(now + (UINT64_C(1) << 24) * NS_PER_MS), ARRAY_SIZE(p));
}

/* 400 timers, random arms, deletions and advances of all sizes; after each advance exactly what is due has fired. */
static void test_random_walk_against_a_model(void **state)
{
	enum { N = 400 };
	static struct probe p[N];
	static bool armed[N];
	uint64_t x = 88172645463325252u;

	memset(p, 0, sizeof p);
	memset(armed, 0, sizeof armed);
	start(987654321);
	for (int step = 0; step < 60000; step++) {
		struct probe *q;
		size_t i;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		i = x % N;
		q = &p[i];
		if ((x >> 20) % 8 < 4) {
			arm(q, now + (x >> 24) % (NS_PER_MS << ((x >> 50) % 26)));
			armed[i] = true;
		} else if ((x >> 20) % 8 < 5) {
			wheel_del(&w, &q->t);
			armed[i] = false;
		} else {
			uint64_t next = wheel_next_ns(&w);
			uint32_t left = 0;

			advance(now + (x >> 24) % (NS_PER_MS << ((x >> 50) % 24)));
			for (size_t k = 0; k < N; k++) {
				/* ns to ticks: due rounded up, now rounded down. */
				bool due = armed[k] && (p[k].due_ns + NS_PER_MS - 1) / NS_PER_MS <= now / NS_PER_MS;

				if (armed[k])
					assert_true(next <= p[k].due_ns + NS_PER_MS);
				assert_int_equal(p[k].fired, due);
				p[k].fired = 0;
				armed[k] = armed[k] && !due;
				assert_int_equal(timer_is_armed(&p[k].t), armed[k]);
				left += armed[k];
			}
			assert_int_equal(w.armed, left);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_wheel),
		cmocka_unit_test(test_fires_at_its_tick_from_any_start),
		cmocka_unit_test(test_due_in_the_past_fires_at_the_next_advance),
		cmocka_unit_test(test_clock_that_stands_or_steps_back_fires_nothing),
		cmocka_unit_test(test_del_and_rearm),
		cmocka_unit_test(test_due_never),
		cmocka_unit_test(test_callback_deletes_another_due_timer),
		cmocka_unit_test(test_callback_rearming_itself_in_the_past_ends),
		cmocka_unit_test(test_callback_postpones_another_due_timer),
		cmocka_unit_test(test_one_advance_fires_in_order_of_due_time),
		cmocka_unit_test(test_random_walk_against_a_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
