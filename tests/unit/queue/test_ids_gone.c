/* Requests that are taken back, because their clients have gone, while PRODUCER_RATE makes them wait:
 * they hold nobody up, in either order of IDs, on their own shard and on others. */
#include "tests/unit/queue/ids_harness.h"

#include <stdlib.h>

static uint64_t random_state;

static uint32_t random_below(uint32_t below)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)((random_state >> 33) % below);
}

static void open_with(enum ids_order order, unsigned shards)
{
	struct ids_opts o = opts_default;

	fake_clear(FAKE_IMMEDIATE);
	o.order = order;
	o.shards = shards;
	o.rate = 1000;
	o.count_max = 100000;
	bench_open(&o);
}

/* Lets time pass, with everybody running whenever there is something to do. */
static void pass(uint64_t ns)
{
	uint64_t until = t.now_ns + ns, due;

	while ((due = settle()) < until)
		t.now_ns = due;
	t.now_ns = until;
	settle();
}

/* The bucket is empty. */
static void use_up(unsigned shard)
{
	struct call c = {0};

	for (unsigned i = 0; i < 150; i++) {
		ask(shard, &c, "", 1);
		settle();
		if (!c.answered)
			break;
	}
	ids_view_cancel(t.view[shard], &c.w);
	settle();
}

/* It waited until the bucket held as many as the request of the client that had gone had wanted: 30 s. */
static void test_a_request_that_is_taken_back_holds_nobody_up(void **state)
{
	for (unsigned i = 0; i < 12; i++) {
		enum ids_order order = i % 2 ? IDS_SHARDED : IDS_STRICT;
		unsigned other = i / 2 % 2;
		bool behind = i / 4 == 1, late = i / 4 == 2; /* asks before the first has gone, or a while after */
		struct call gone = {0}, stays = {0};

		open_with(order, 2);
		use_up(0);
		ask(0, &gone, "", 30000);
		pass(NS_PER_S);
		if (behind)
			ask(other, &stays, "", 20);
		pass(NS_PER_S);
		assert_false(gone.answered);
		ids_view_cancel(t.view[0], &gone.w);
		if (late)
			pass(NS_PER_S);
		if (!behind)
			ask(other, &stays, "", 20);
		pass(200 * NS_PER_MS);
		assert_true(stays.answered);
		bench_close(false);
	}
}

/* The requests behind it are served in the same turn, without waiting until the next ID is earned: a second at a rate of 1. */
static void test_a_request_that_is_taken_back_lets_the_next_one_go_at_once(void **state)
{
	struct call gone = {0}, stays = {0};

	open_with(IDS_STRICT, 2);
	use_up(0);
	ask(0, &gone, "", 30000);
	pass(NS_PER_S);
	ask(1, &stays, "", 20);
	settle();
	assert_false(gone.answered || stays.answered);
	ids_view_cancel(t.view[0], &gone.w);
	settle(); /* the clock stands still */
	assert_true(stays.answered);
	bench_close(false);
}

/* What had been saved up for it is let go: nobody gets more than the cap allows afterwards. */
static void test_what_was_saved_up_for_a_request_that_is_taken_back_is_no_ones(void **state)
{
	struct call gone = {0}, c = {0};
	unsigned n = 0;

	open_with(IDS_STRICT, 1);
	use_up(0);
	ask(0, &gone, "", 30000);
	pass(20 * NS_PER_S);
	ids_view_cancel(t.view[0], &gone.w);
	settle();
	for (uint64_t until = t.now_ns + NS_PER_S; t.now_ns < until; pass(NS_PER_MS)) {
		do {
			ask(0, &c, "", 1);
			settle();
			n += c.answered;
		} while (c.answered);
		ids_view_cancel(t.view[0], &c.w);
	}
	assert_in_range(n, 900, 1210); /* a second's, and the burst */
	bench_close(false);
}

/* A revision that finds the ring full, or that crosses the answer, loses nothing. */
static void test_revisions_lose_nothing_in_full_rings(void **state)
{
	enum { N = 2500 };
	struct ids_opts o = opts_default;
	struct call *gone = calloc(N, sizeof *gone), *stays = calloc(N, sizeof *stays);
	char name[16];

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		fake_clear(FAKE_MANUAL);
		o.order = order;
		o.rate = 1000;
		o.queue_depth = 2;
		o.sequences_max = N + 1;
		o.count_max = 100000;
		bench_open(&o);
		for (unsigned i = 0; i < N; i++) {
			snprintf(name, sizeof name, "s%u", i);
			assert_int_equal(ask(0, &gone[i], name, 20000), IDS_E_OK);
			assert_int_equal(ask(0, &stays[i], name, 1), IDS_E_OK);
		}
		for (unsigned i = 0; i < 20; i++) {
			fake_sync();
			pass(10 * NS_PER_MS);
		}
		for (unsigned i = 0; i < N; i++)
			ids_view_cancel(t.view[0], &gone[i].w);
		for (unsigned i = 0; i < 200 && ids_view_waiting(t.view[0]) != 0; i++) {
			fake_sync();
			pass(10 * NS_PER_MS);
		}
		for (unsigned i = 0; i < N; i++)
			assert_true(stays[i].answered);
		bench_close(false);
	}
	free(gone);
	free(stays);
}

enum { REQUESTS = 40, SHARDS = 3 };

/* Asks and takes back at random; what is left is answered when its IDs can have been made. */
static void run_at_random(enum ids_order order)
{
	struct call c[REQUESTS] = {0};
	bool open[REQUESTS] = {0};
	unsigned shard[REQUESTS] = {0};
	uint64_t wanted = 0, limit_ns;

	open_with(order, SHARDS);
	for (unsigned i = 0; i < 300; i++) {
		unsigned k = random_below(REQUESTS);

		if (open[k] && !c[k].answered) {
			ids_view_cancel(t.view[shard[k]], &c[k].w);
			open[k] = false;
		} else {
			shard[k] = random_below(SHARDS);
			ask(shard[k], &c[k], random_below(3) ? "" : "named",
			    1 + random_below(random_below(4) ? 20 : 5000));
			open[k] = true;
		}
		if (random_below(3) == 0)
			pass(random_below(50) * NS_PER_MS);
	}
	for (unsigned k = 0; k < REQUESTS; k++)
		wanted += open[k] && !c[k].answered ? c[k].count : 0;
	/* In sharded order the rest of a piece that is too small for the next request is lost. */
	limit_ns = (wanted * (order == IDS_SHARDED ? 3 : 1) + 1000) * NS_PER_S / 1000;
	pass(limit_ns);
	for (unsigned k = 0; k < REQUESTS; k++)
		assert_true(!open[k] || c[k].answered);
	bench_close(false);
}

static void test_what_is_not_taken_back_is_answered_in_its_time(void **state)
{
	for (unsigned i = 0; i < 60; i++) {
		random_state = i;
		run_at_random(i % 2 ? IDS_SHARDED : IDS_STRICT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_request_that_is_taken_back_holds_nobody_up),
		cmocka_unit_test(test_a_request_that_is_taken_back_lets_the_next_one_go_at_once),
		cmocka_unit_test(test_what_was_saved_up_for_a_request_that_is_taken_back_is_no_ones),
		cmocka_unit_test(test_revisions_lose_nothing_in_full_rings),
		cmocka_unit_test(test_what_is_not_taken_back_is_answered_in_its_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
