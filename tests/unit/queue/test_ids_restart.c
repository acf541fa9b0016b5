/* Where sequences continue after a restart: a clean stop leaves no gap, a crash skips at most the window, nothing ever
 * repeats. */
#include "tests/unit/queue/ids_harness.h"

static uint64_t take(unsigned shard, const char *name, uint32_t count)
{
	struct call c = {0};

	assert_int_equal(ask(shard, &c, name, count), IDS_E_OK);
	settle();
	assert_true(c.answered);
	return c.first;
}

static void test_clean_stop_leaves_no_gap(void **state)
{
	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(take(0, "", 7), 1);
	assert_int_equal(take(0, "a", 250), 1);
	bench_close(true);
	for (unsigned i = 0; i < 3; i++) { /* runs that use one of the two, or none */
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&opts_default);
		if (i == 1)
			assert_int_equal(take(0, "a", 1), 251);
		bench_close(true);
	}
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(take(0, "", 1), 8);
	assert_int_equal(take(0, "a", 1), 252);
	bench_close(true);
}

static void test_crash_skips_at_most_the_window(void **state)
{
	uint64_t last = 0, window = opts_default.window_min;

	fake_clear(FAKE_IMMEDIATE);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t first;

		bench_open(&opts_default);
		first = take(0, "", 1 + i);
		assert_true(first > last);
		assert_true(first <= last + 1 + window);
		last = first + i;
		window = durable_of(0) - last;
		assert_true(window <= opts_default.window_min);
		bench_close(false);
		fake_reopen(FAKE_IMMEDIATE);
	}
}

static void test_crash_after_clean_stop_and_clean_stop_after_crash(void **state)
{
	uint64_t first;

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	take(0, "", 5);
	bench_close(true);
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(take(0, "", 5), 6);
	bench_close(false); /* the stand of the run before must not count any more */
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	first = take(0, "", 5);
	assert_int_equal(first, 106);
	bench_close(true);
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(take(0, "", 1), 111);
	bench_close(true);
}

/* A window that was not synced was not used either; a window that was, but unknown to us, may be skipped. */
static void test_crash_during_a_reservation(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &c, "", 10);
	settle();
	bench_close(false);
	fake_reopen(FAKE_MANUAL);
	bench_open(&opts_default);
	c = (struct call){0};
	ask(0, &c, "", 10);
	settle();
	fake_sync(); /* durable, but the daemon dies before it sees that */
	bench_close(false);
	fake_reopen(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(take(0, "", 1), 101);
	bench_close(true);
}

static void test_marks_rise_across_restarts(void **state)
{
	fake_clear(FAKE_IMMEDIATE);
	for (unsigned i = 0; i < 4; i++) {
		bench_open(&opts_default);
		take(0, "", 90);
		bench_close(i & 1);
		fake_reopen(FAKE_IMMEDIATE);
	}
	for (size_t i = 1; i < fake.count; i++)
		assert_true(fake.rec[i].mark > fake.rec[i - 1].mark);
	assert_true(fake.count > 5);
}

/* strict, sharded and back, with and without a rate cap, stopped in both ways. */
static void test_changing_the_order_never_repeats(void **state)
{
	uint64_t last = 0;

	fake_clear(FAKE_IMMEDIATE);
	for (unsigned i = 0; i < 64; i++) {
		struct ids_opts o = opts_default;
		uint64_t largest = last;

		o.order = i & 1 ? IDS_SHARDED : IDS_STRICT;
		o.rate = i & 4 ? 1000000 : 0;
		o.shards = 2;
		bench_open(&o);
		for (unsigned k = 0; k < 20; k++) {
			uint64_t first = take(k % 2, "", 1 + (i + k) % 30), end = first + (i + k) % 30;

			assert_true(first > last);
			if (end > largest)
				largest = end;
		}
		last = largest;
		bench_close(i & 2);
		fake_reopen(FAKE_IMMEDIATE);
	}
}

/* SEQUENCES_MAX was lowered: those that exist stay. */
static void test_fewer_sequences_allowed_than_exist(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&o);
	take(0, "a", 1);
	take(0, "b", 1);
	bench_close(true);
	fake_reopen(FAKE_IMMEDIATE);
	o.sequences_max = 1;
	o.create = false;
	bench_open(&o);
	assert_int_equal(take(0, "b", 1), 2);
	assert_int_equal(ask(0, &c, "c", 1), IDS_E_UNKNOWN);
	bench_close(true);
	fake_reopen(FAKE_IMMEDIATE);
	o.create = true;
	bench_open(&o);
	assert_int_equal(ask(0, &c, "c", 1), IDS_E_LIMIT);
	bench_close(true);
}

static void put(uint32_t type, const void *payload, uint32_t len)
{
	struct journal *j;

	journal_open(NULL, &j, NULL);
	assert_true(journal_append((struct journal_port *)j, (struct jlog *)j, type, 1, payload, len));
}

static void test_a_damaged_log_is_refused(void **state)
{
	static const struct {
		uint32_t type, len;
		const char *payload;
	} bad[] = {
		{4, 10, "\1\0\0\0\0\0\0\0\1a"}, /* unknown type */
		{0, 10, "\1\0\0\0\0\0\0\0\1a"},
		{IDS_RECORD_WINDOW, 0, ""},                      /* empty */
		{IDS_RECORD_WINDOW, 8, "\1\0\0\0\0\0\0\0"},      /* cut */
		{IDS_RECORD_WINDOW, 10, "\1\0\0\0\0\0\0\0\2a"},  /* the name is cut */
		{IDS_RECORD_WINDOW, 9, "\0\0\0\0\0\0\0\0\0"},    /* position 0 */
		{IDS_RECORD_WINDOW, 10, "\1\0\0\0\0\0\0\0\1\n"}, /* no name for a sequence */
		{IDS_RECORD_WINDOW, 10, "\1\0\0\0\0\0\0\0\0x"},  /* more behind */
		{IDS_RECORD_WINDOW, 9, "\1\0\0\0\0\0\0\0\x81"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *why = NULL;
		struct ids *ids = NULL;
		struct journal *j;

		fake_clear(FAKE_IMMEDIATE);
		put(bad[i].type, bad[i].payload, bad[i].len);
		journal_open(NULL, &j, NULL);
		assert_int_equal(ids_open(&opts_default, j, &ids, &why), -EBADMSG);
		assert_null(ids);
		assert_non_null(why);
	}
}

static void test_bad_options_are_refused(void **state)
{
	struct ids_opts o;
	struct journal *j;

	fake_clear(FAKE_IMMEDIATE);
	journal_open(NULL, &j, NULL);
	for (unsigned i = 0; i < 7; i++) {
		const char *why = NULL;
		struct ids *ids = NULL;

		o = opts_default;
		switch (i) {
		case 0:
			o.shards = 0;
			break;
		case 1:
			o.shards = IDS_SHARDS_MAX + 1;
			break;
		case 2:
			o.window_min = 0;
			break;
		case 3:
			o.window_max = o.window_min - 1;
			break;
		case 4:
			o.queue_depth = 0;
			break;
		case 5:
			o.sequences_max = 0;
			break;
		case 6:
			o.window_target_ms = 0;
			break;
		}
		assert_int_equal(ids_open(&o, j, &ids, &why), -EINVAL);
		assert_non_null(why);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean_stop_leaves_no_gap),
		cmocka_unit_test(test_crash_skips_at_most_the_window),
		cmocka_unit_test(test_crash_after_clean_stop_and_clean_stop_after_crash),
		cmocka_unit_test(test_crash_during_a_reservation),
		cmocka_unit_test(test_marks_rise_across_restarts),
		cmocka_unit_test(test_changing_the_order_never_repeats),
		cmocka_unit_test(test_fewer_sequences_allowed_than_exist),
		cmocka_unit_test(test_a_damaged_log_is_refused),
		cmocka_unit_test(test_bad_options_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
