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

/* ---- incarnations ---- */

static uint64_t incarnation_of(unsigned shard, const char *name)
{
	struct call c = {0};

	assert_int_equal(ask(shard, &c, name, 1), IDS_E_OK);
	settle();
	assert_true(c.answered);
	return c.incarnation;
}

static void test_a_sequence_keeps_its_incarnation_across_restarts(void **state)
{
	struct ids_opts o = opts_default;
	struct ids_sequence_info info;
	uint64_t unnamed, a, b;

	o.shards = 2;
	fake_clear(FAKE_IMMEDIATE);
	bench_open(&o);
	unnamed = incarnation_of(0, "");
	a = incarnation_of(0, "a");
	b = incarnation_of(1, "b");
	assert_true(unnamed != a && unnamed != b && a != b);
	for (unsigned i = 0; i < 6; i++) {
		bench_close(i % 2 == 0);
		fake_reopen(FAKE_IMMEDIATE);
		o.order = i % 3 == 0 ? IDS_SHARDED : IDS_STRICT;
		bench_open(&o);
		if (i == 1)
			continue; /* a run that uses none */
		for (unsigned shard = 0; shard < 2; shard++) {
			assert_true(incarnation_of(shard, "") == unnamed);
			assert_true(incarnation_of(shard, "a") == a);
			assert_true(incarnation_of(shard, "b") == b);
		}
	}
	assert_true(ids_sequence_info(t.ids, 0, &info));
	assert_true(info.incarnation == unnamed);
	bench_close(true);
	fake_clear(FAKE_IMMEDIATE); /* the log is gone */
	bench_open(&o);
	assert_true(incarnation_of(0, "") != unnamed);
	assert_true(incarnation_of(0, "a") != a);
	bench_close(true);
}

/* Power goes at any moment: whoever was told a number finds it again. */
static void test_an_incarnation_is_durable_before_it_is_told(void **state)
{
	for (unsigned syncs = 0; syncs < 8; syncs++) {
		struct call c = {0}, d = {0};
		uint64_t told[2];

		fake_clear(FAKE_MANUAL);
		bench_open(&opts_default);
		ask(0, &c, "", 1);
		ask(0, &d, "new", 1);
		for (unsigned i = 0; i < syncs; i++) {
			turn(0);
			produce();
			if (i % 2 == 1)
				fake_sync();
		}
		turn(0);
		told[0] = c.answered ? c.incarnation : 0;
		told[1] = d.answered ? d.incarnation : 0;
		assert_true(syncs < 6 || (told[0] != 0 && told[1] != 0));
		ids_view_cancel(t.view[0], &c.w);
		ids_view_cancel(t.view[0], &d.w);
		bench_close(false);
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&opts_default);
		assert_true(told[0] == 0 || incarnation_of(0, "") == told[0]);
		assert_true(told[1] == 0 || incarnation_of(0, "new") == told[1]);
		bench_close(true);
	}
}

static void put_facts(uint32_t type, const struct ids_fact *f, size_t n)
{
	uint8_t buf[4 * IDS_RECORD_ENTRY_MAX];
	struct journal *j;
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		if (type <= IDS_RECORD_OLD_STAND) { /* as versions without incarnations wrote it */
			store_le64(buf + len, f[i].value);
			buf[len + 8] = (uint8_t)f[i].name.n;
			memcpy(buf + len + 9, f[i].name.p, f[i].name.n);
			len += 9 + f[i].name.n;
		} else {
			len += ids_record_put(buf + len, &f[i]);
		}
	}
	journal_open(NULL, &j, NULL);
	assert_true(
		journal_append((struct journal_port *)j, (struct jlog *)j, type, fake.count + 1, buf, (uint32_t)len));
	fake_sync();
}

static void test_sequences_of_an_older_version_get_an_incarnation(void **state)
{
	const struct ids_fact old[] = {{str("a"), 500, 0}, {str("b"), 700, 0}, {str("c"), 900, 0}};
	struct ids_sequence_info info;
	uint64_t numbers[4];

	fake_clear(FAKE_IMMEDIATE);
	put_facts(IDS_RECORD_OLD_WINDOW, old, 2);
	put_facts(IDS_RECORD_OLD_CHECKPOINT, old + 2, 1);
	put_facts(IDS_RECORD_OLD_STAND, old, 1);
	bench_open(&opts_default);
	assert_int_equal(take(0, "a", 1), 500);
	assert_int_equal(take(0, "b", 1), 700);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(ids_sequence_info(t.ids, i, &info));
		assert_true(info.incarnation != 0);
		numbers[i] = info.incarnation;
	}
	bench_close(false);
	for (unsigned run = 0; run < 3; run++) { /* also "c", which nobody has used since */
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&opts_default);
		for (unsigned i = 1; i < 4; i++) {
			assert_true(ids_sequence_info(t.ids, i, &info));
			assert_true(info.incarnation == numbers[i]);
		}
		if (run == 2) {
			assert_true(take(0, "a", 1) > 500);
			assert_int_equal(take(0, "c", 1), 900);
		}
		bench_close(run == 1);
	}
}

/* What a sequence that is forgotten on purpose, or restored, writes: nothing before it counts. */
static void test_another_incarnation_begins_anew(void **state)
{
	const struct ids_fact first = {str("a"), 5000, 11}, old = {str("a"), 6000, 0}, second = {str("a"), 20, 12},
			      later = {str("a"), 30, 12}, stand = {str("a"), 25, 12};

	for (unsigned i = 0; i < 2; i++) {
		fake_clear(FAKE_IMMEDIATE);
		put_facts(IDS_RECORD_OLD_WINDOW, &old, 1);
		/* the number of the life that there was: the position stays */
		put_facts(IDS_RECORD_WINDOW, &first, 1);
		if (i == 1) {
			put_facts(IDS_RECORD_WINDOW, &second, 1);
			put_facts(IDS_RECORD_CHECKPOINT, &later, 1);
			put_facts(IDS_RECORD_STAND, &stand, 1);
		}
		bench_open(&opts_default);
		assert_int_equal(take(0, "a", 1), i == 0 ? 6000 : 25);
		assert_int_equal(incarnation_of(0, "a"), i == 0 ? 11 : 12);
		bench_close(true);
	}
}

/* After a loss that was accepted: what is not known begins above what the operator has said, also after checkpoints. */
static void test_sequences_without_an_entry_begin_where_the_log_says(void **state)
{
	const struct ids_fact facts[] = {{.value = 1001, .incarnation = UINT64_MAX, .others = true},
					 {str("a"), 5000, 11}};
	struct ids_opts o = opts_default;
	struct call c = {0};

	o.window_max = 100;
	o.count_max = 100;
	fake_clear(FAKE_IMMEDIATE);
	put_facts(IDS_RECORD_CHECKPOINT, facts, 2);
	bench_open(&o);
	assert_int_equal(take(0, "a", 1), 5000);
	assert_int_equal(take(0, "b", 1), 1001);
	for (unsigned i = 0; i < PRODUCER_CHECKPOINT_RECORDS + 10; i++) {
		ask(0, &c, "a", 100);
		settle();
	}
	assert_int_equal(fake_count(IDS_RECORD_CHECKPOINT), 2);
	bench_close(false);
	fake_reopen(FAKE_IMMEDIATE);
	assert_int_equal(fake_count(IDS_RECORD_CHECKPOINT), 1); /* the first one was let go */
	for (unsigned run = 0; run < 2; run++) {
		bench_open(&o);
		assert_int_equal(take(0, run == 0 ? "c" : "d", 1), 1001);
		assert_true(take(0, "", 1) >= 1001);
		assert_true(take(0, "b", 1) > 1001);
		bench_close(run == 0);
		fake_reopen(FAKE_IMMEDIATE);
	}
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
		{7, 10, "\1\0\0\0\0\0\0\0\1a"}, /* unknown type */
		{0, 10, "\1\0\0\0\0\0\0\0\1a"},
		{IDS_RECORD_OLD_WINDOW, 0, ""},                      /* empty */
		{IDS_RECORD_OLD_WINDOW, 8, "\1\0\0\0\0\0\0\0"},      /* cut */
		{IDS_RECORD_OLD_WINDOW, 10, "\1\0\0\0\0\0\0\0\2a"},  /* the name is cut */
		{IDS_RECORD_OLD_WINDOW, 9, "\0\0\0\0\0\0\0\0\0"},    /* position 0 */
		{IDS_RECORD_OLD_WINDOW, 10, "\1\0\0\0\0\0\0\0\1\n"}, /* no name for a sequence */
		{IDS_RECORD_OLD_WINDOW, 10, "\1\0\0\0\0\0\0\0\0x"},  /* more behind */
		{IDS_RECORD_OLD_WINDOW, 9, "\1\0\0\0\0\0\0\0\x81"},
		{IDS_RECORD_WINDOW, 0, ""},
		{IDS_RECORD_WINDOW, 16, "\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"},     /* cut */
		{IDS_RECORD_WINDOW, 18, "\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\2a"},  /* the name is cut */
		{IDS_RECORD_WINDOW, 17, "\0\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\0"},   /* position 0 */
		{IDS_RECORD_WINDOW, 17, "\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"},   /* incarnation 0 */
		{IDS_RECORD_WINDOW, 18, "\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\1\n"}, /* no name for a sequence */
		{IDS_RECORD_WINDOW, 18, "\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\0x"},  /* more behind */
		{IDS_RECORD_WINDOW, 17, "\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\x81"},
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
		cmocka_unit_test(test_a_sequence_keeps_its_incarnation_across_restarts),
		cmocka_unit_test(test_an_incarnation_is_durable_before_it_is_told),
		cmocka_unit_test(test_sequences_of_an_older_version_get_an_incarnation),
		cmocka_unit_test(test_another_incarnation_begins_anew),
		cmocka_unit_test(test_sequences_without_an_entry_begin_where_the_log_says),
		cmocka_unit_test(test_a_damaged_log_is_refused),
		cmocka_unit_test(test_bad_options_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
