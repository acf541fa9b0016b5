/* The producer: windows that follow the rate, the rate cap, checkpoints, a journal that is slow, full or fails, and the
 * end of numbers. */
#include "tests/unit/queue/ids_harness.h"

static uint32_t window_of(uint32_t slot)
{
	struct ids_sequence_info info;

	assert_true(ids_sequence_info(t.ids, slot, &info));
	return info.window;
}

/* Takes IDs one request at a time until one has to wait; returns how many. */
static uint64_t drain(unsigned shard, struct call *waiting, uint64_t most)
{
	for (uint64_t n = 0; n < most; n++) {
		ask(shard, waiting, "", 1);
		turn(shard);
		if (!waiting->answered)
			return n;
	}
	return most;
}

static void test_next_window_is_reserved_before_this_one_is_used_up(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &c, "", 50);
	settle();
	fake_sync();
	settle();
	assert_int_equal(durable_of(0), 101);
	assert_int_equal(fake_count(IDS_RECORD_WINDOW), 1); /* half is left: not yet low */
	ask(0, &c, "", 1);
	settle();
	assert_true(c.answered);
	assert_int_equal(fake_count(IDS_RECORD_WINDOW), 2);
	for (unsigned i = 0; i < 10; i++) { /* while that is under way: no other */
		ask(0, &c, "", 1);
		settle();
		assert_true(c.answered);
	}
	assert_int_equal(fake_count(IDS_RECORD_WINDOW), 2);
	fake_sync();
	settle();
	assert_int_equal(durable_of(0), 52 + window_of(0));
	bench_close(false);
}

static void test_window_follows_the_rate(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	uint64_t due;

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&o);
	for (unsigned i = 0; i < 2000; i++) { /* 100,000 a second: 10,000 in the target time of 100 ms */
		ask(0, &c, "", 1000);
		settle();
		assert_true(c.answered);
		t.now_ns += 10 * NS_PER_MS;
	}
	assert_in_range(window_of(0), 5000, 25600);
	for (unsigned i = 0; i < 40; i++) { /* as fast as it goes */
		ask(0, &c, "", 10000);
		settle();
		t.now_ns += 1000;
	}
	assert_int_equal(window_of(0), o.window_max);
	for (unsigned i = 0; i < 400; i++) { /* 100 a second */
		ask(0, &c, "", 10000);
		settle();
		t.now_ns += 100 * NS_PER_S;
	}
	assert_int_equal(window_of(0), o.window_min);
	due = settle();
	assert_int_equal(due, UINT64_MAX); /* idle: it sleeps without a limit */
	assert_true(durable_of(0) - next_of(0) <= 10000);
	bench_close(false);
}

/* What a crash can skip is bounded by the window, at every moment. */
static void test_never_reserves_more_than_the_window(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		fake_clear(FAKE_IMMEDIATE);
		o.order = order;
		o.window_max = 1000;
		o.count_max = 10;
		bench_open(&o);
		for (unsigned i = 0; i < 20000; i++) {
			uint64_t given;

			ask(0, &c, "", 1 + i % 10);
			settle();
			given = ids_view_stats(t.view[0])->ids;
			assert_true(durable_of(0) - 1 - given <= o.window_max);
			t.now_ns += i * 100;
		}
		bench_close(false);
	}
}

static void test_rate_cap(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	uint64_t sum, start, due;

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		fake_clear(FAKE_IMMEDIATE);
		o.rate = 1000;
		o.order = order;
		bench_open(&o);
		start = t.now_ns;
		sum = 0;
		ask(0, &c, "", 1);
		while (t.now_ns < start + 5 * NS_PER_S) {
			due = settle();
			if (c.answered) {
				sum += 1 + drain(0, &c, 1000000);
				due = settle();
			}
			/* The IDs given out never pass rate * time + burst. */
			assert_true((sum - 100) * NS_PER_S <= 1000 * (t.now_ns - start) || sum <= 100);
			assert_true(due >= t.now_ns + NS_PER_MS && due < t.now_ns + 20 * NS_PER_MS);
			t.now_ns = due;
		}
		assert_in_range(sum, 4900, 5101);
		/* Nobody asks: the bucket fills, and then it sleeps. */
		ids_view_cancel(t.view[0], &c.w);
		for (unsigned i = 0; (due = settle()) != UINT64_MAX; i++) {
			assert_true(i < 200);
			t.now_ns = due;
		}
		t.now_ns += 1000 * NS_PER_S; /* a long rest earns one burst */
		sum = 0;
		do {
			uint64_t n = drain(0, &c, 1000000);

			if (n == 0 && !c.answered)
				settle();
			sum += n + c.answered;
			if (!c.answered) {
				ids_view_cancel(t.view[0], &c.w);
				break;
			}
		} while (sum < 10000);
		assert_in_range(sum, 1, 200);
		bench_close(false);
	}
}

/* One ID in ten seconds: no tick in between. */
static void test_low_rate_sleeps_until_the_next_id(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	uint64_t due;

	fake_clear(FAKE_IMMEDIATE);
	o.rate = 1;
	bench_open(&o);
	ask(0, &c, "", 1);
	settle();
	assert_true(c.answered); /* the burst: one */
	ask(0, &c, "", 1);
	due = settle();
	assert_false(c.answered);
	assert_in_range(due - t.now_ns, NS_PER_S - NS_PER_MS, NS_PER_S);
	t.now_ns = due;
	settle();
	assert_true(c.answered);
	assert_int_equal(c.first, 2);
	bench_close(false);
}

/* More than the burst in one request: it waits until so many have been earned. */
static void test_rate_cap_serves_a_request_above_the_burst(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	uint64_t start;

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		fake_clear(FAKE_IMMEDIATE);
		o.rate = 1000;
		o.order = order;
		bench_open(&o);
		start = t.now_ns;
		ask(0, &c, "", 3000);
		while (!c.answered) {
			uint64_t due = settle();

			assert_true(c.answered || due != UINT64_MAX);
			assert_true(t.now_ns < start + 10 * NS_PER_S);
			if (!c.answered)
				t.now_ns = due;
		}
		assert_in_range(t.now_ns - start, 29 * NS_PER_S / 10, 31 * NS_PER_S / 10);
		bench_close(false);
	}
}

static void test_rate_cap_is_shared_by_shards(void **state)
{
	struct ids_opts o = opts_default;
	uint64_t sum[2] = {0}, start;

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		struct call c[2] = {0};

		fake_clear(FAKE_IMMEDIATE);
		o.rate = 2000;
		o.order = order;
		o.shards = 2;
		bench_open(&o);
		sum[0] = sum[1] = 0;
		start = t.now_ns;
		ask(0, &c[0], "", 1);
		ask(1, &c[1], "", 1);
		for (unsigned i = 0; t.now_ns < start + 4 * NS_PER_S; i++) {
			uint64_t due = settle();

			for (unsigned k = 0; k < 2; k++) {
				unsigned shard = (i + k) % 2;

				if (c[shard].answered)
					sum[shard] += 1 + drain(shard, &c[shard], 1000000);
			}
			due = settle();
			t.now_ns = due == UINT64_MAX ? t.now_ns + NS_PER_MS : due;
		}
		assert_in_range(sum[0] + sum[1], 7700, 8401);
		assert_in_range(sum[0], 1000, 7000);
		bench_close(false);
	}
}

/* One shard has more small requests than the cap allows, the other a larger one now and then: it must get its turn, and
 * so must they. */
static void test_rate_cap_large_request_is_not_starved_by_another_shard(void **state)
{
	static const uint32_t large[] = {2, 50, 500};
	struct ids_opts o = opts_default;

	o.rate = 1000;
	o.shards = 2;
	for (unsigned i = 0; i < 6; i++) {
		struct call small[30] = {0}, big = {0};
		uint64_t start, count = 0, done = 0;

		fake_clear(FAKE_IMMEDIATE);
		o.order = i % 2 ? IDS_SHARDED : IDS_STRICT;
		bench_open(&o);
		for (unsigned k = 0; k < 30; k++)
			ask(0, &small[k], "", 1);
		start = t.now_ns;
		while (t.now_ns < start + 20 * NS_PER_S) {
			uint64_t due = settle();

			for (unsigned k = 0; k < 30; k++)
				if (small[k].answered) {
					count++;
					ask(0, &small[k], "", 1);
				}
			if (big.answered || big.count == 0) {
				done += big.answered;
				ask(1, &big, "", large[i / 2]);
			}
			settle();
			t.now_ns = due == UINT64_MAX ? t.now_ns + NS_PER_MS : due;
		}
		/* 20,000 IDs. In sharded order the rest of a piece that is too small for the next request is lost. */
		assert_true(done * large[i / 2] >= 2000);
		assert_true(count >= 2000);
		assert_true(count + done * large[i / 2] >= (o.order == IDS_STRICT ? 19000 : 10000));
		bench_close(false);
	}
}

static void test_failed_journal_releases_nothing(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &c, "", 1);
	settle();
	fake_fail();
	fake_sync();
	settle();
	assert_false(c.answered);
	assert_int_equal(durable_of(0), 1);
	/* Not even what is durable, if it has not been released. */
	atomic_store(&fake.durable, 1);
	settle();
	assert_false(c.answered);
	assert_false(producer_has_work(t.ids->producer)); /* and it does not spin */
	producer_finish(t.ids->producer);
	assert_int_equal(fake_count(IDS_RECORD_STAND), 0);
	bench_close(false);
}

static void test_full_journal_port_is_tried_again(void **state)
{
	struct call a = {0}, b = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	fake.full = true;
	ask(0, &a, "", 1);
	ask(0, &b, "b", 1);
	settle();
	settle();
	assert_false(a.answered || b.answered);
	fake.full = false;
	produce();
	settle();
	assert_true(a.answered && b.answered);
	assert_int_equal(fake_count(IDS_RECORD_WINDOW), 2);
	bench_close(true);
}

static void test_checkpoint_carries_all_sequences_and_trims(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	uint64_t next[4];

	fake_clear(FAKE_IMMEDIATE);
	o.window_max = 100;
	o.count_max = 100;
	bench_open(&o);
	for (unsigned i = 0; i < 3; i++) {
		ask(0, &c, (const char *[]){"a", "b", "c"}[i], 5);
		settle();
	}
	for (unsigned i = 0; i < PRODUCER_CHECKPOINT_RECORDS + 10; i++) {
		ask(0, &c, "", 100);
		settle();
	}
	assert_int_equal(fake_count(IDS_RECORD_CHECKPOINT), 1);
	assert_true(fake.trimmed > PRODUCER_CHECKPOINT_RECORDS);
	for (uint32_t i = 0; i < 4; i++)
		next[i] = durable_of(i);
	bench_close(false);
	fake_reopen(FAKE_IMMEDIATE);
	assert_true(fake.count < 20); /* what is before the checkpoint is gone */
	bench_open(&o);
	assert_int_equal(ids_sequence_count(t.ids), 4);
	for (unsigned i = 0; i < 4; i++) {
		ask(0, &c, (const char *[]){"", "a", "b", "c"}[i], 1);
		settle();
		assert_true(c.answered);
		assert_true(c.first >= 6);
	}
	assert_int_equal(durable_of(0), next[0] + 100);
	bench_close(true);
}

/* The producer that looks before it sleeps has to see a durable checkpoint: nothing else would let go of what lies before
 * it, on a server that has fallen idle. */
static void test_a_durable_checkpoint_is_work_for_an_idle_producer(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	o.window_max = 100;
	o.count_max = 100;
	bench_open(&o);
	while (fake_count(IDS_RECORD_CHECKPOINT) == 0) {
		if (!c.w.next)
			ask(0, &c, "", 100);
		settle();
		if (fake_count(IDS_RECORD_CHECKPOINT) == 0)
			fake_sync();
	}
	assert_true(fake.synced < fake.count - 1);
	/* A group of the journal ends right before the checkpoint. */
	atomic_store(&fake.durable, fake.rec[fake.count - 2].mark);
	settle();
	assert_int_equal(fake.trimmed, 0);
	assert_false(producer_has_work(t.ids->producer));
	fake_sync();
	assert_true(producer_has_work(t.ids->producer));
	settle();
	assert_int_equal(fake.trimmed, fake.rec[fake.count - 1].mark);
	assert_false(producer_has_work(t.ids->producer));
	bench_close(true);
}

/* A checkpoint of many long names takes several records. */
static void test_checkpoint_in_parts(void **state)
{
	enum { N = 2500 };
	struct ids_opts o = opts_default;
	char name[SEQUENCE_NAME_MAX + 1];
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.sequences_max = N + 1;
	o.window_max = 100;
	bench_open(&o);
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < N; i++) {
			snprintf(name, sizeof name, "%0*u", SEQUENCE_NAME_MAX, i);
			ask(0, &c, name, 100);
			settle();
			assert_true(c.answered);
		}
	}
	/* 2500 * 145 bytes, in records of 128 KiB */
	assert_in_range(fake_count(IDS_RECORD_CHECKPOINT), 3, 6);
	bench_close(false);
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&o);
	assert_int_equal(ids_sequence_count(t.ids), N + 1);
	for (unsigned i = 0; i < N; i += 100) {
		snprintf(name, sizeof name, "%0*u", SEQUENCE_NAME_MAX, i);
		ask(0, &c, name, 1);
		settle();
		assert_true(c.first > 600 && c.first <= 701);
	}
	bench_close(true);
}

/* ---- the end of numbers ---- */

/* A log that says where the default sequence stands. */
static void stand_at(uint64_t next)
{
	struct jlog_opts lo = {.replay = NULL};
	struct ids_fact f = {str(""), next, 7};
	uint8_t rec[IDS_RECORD_ENTRY_MAX];
	struct journal *j;
	struct jlog *log;

	fake_clear(FAKE_IMMEDIATE);
	journal_open(NULL, &j, NULL);
	journal_log_open(j, &lo, &log, NULL);
	assert_true(journal_append((struct journal_port *)j, log, IDS_RECORD_STAND, 1, rec,
				   (uint32_t)ids_record_put(rec, &f)));
}

static void test_exhausted(void **state)
{
	struct ids_opts o = opts_default;
	struct call c[3] = {0}, after = {0};

	for (unsigned i = 0; i < 4; i++) {
		o.order = i & 1 ? IDS_SHARDED : IDS_STRICT;
		o.rate = i & 2 ? 1000000 : 0;
		stand_at(UINT64_MAX - 10);
		bench_open(&o);
		ask(0, &c[0], "", 6);
		ask(0, &c[1], "", 5); /* 4 are left */
		ask(0, &c[2], "", 4);
		settle();
		assert_int_equal(c[0].first, UINT64_MAX - 10);
		assert_int_equal(c[1].refused, IDS_E_EXHAUSTED);
		assert_false(c[1].answered);
		assert_int_equal(c[2].first, UINT64_MAX - 4);
		ask(0, &after, "", 1);
		settle();
		assert_int_equal(after.refused, IDS_E_EXHAUSTED);
		assert_int_equal(next_of(0), UINT64_MAX);
		ask(0, &after, "another", 1); /* which is not at its end */
		settle();
		assert_int_equal(after.first, 1);
		bench_close(true);
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&o);
		ask(0, &after, "", 1);
		settle();
		assert_int_equal(after.refused, IDS_E_EXHAUSTED);
		bench_close(false);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_next_window_is_reserved_before_this_one_is_used_up),
		cmocka_unit_test(test_window_follows_the_rate),
		cmocka_unit_test(test_never_reserves_more_than_the_window),
		cmocka_unit_test(test_rate_cap),
		cmocka_unit_test(test_low_rate_sleeps_until_the_next_id),
		cmocka_unit_test(test_rate_cap_serves_a_request_above_the_burst),
		cmocka_unit_test(test_rate_cap_is_shared_by_shards),
		cmocka_unit_test(test_rate_cap_large_request_is_not_starved_by_another_shard),
		cmocka_unit_test(test_failed_journal_releases_nothing),
		cmocka_unit_test(test_full_journal_port_is_tried_again),
		cmocka_unit_test(test_checkpoint_carries_all_sequences_and_trims),
		cmocka_unit_test(test_a_durable_checkpoint_is_work_for_an_idle_producer),
		cmocka_unit_test(test_checkpoint_in_parts),
		cmocka_unit_test(test_exhausted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
