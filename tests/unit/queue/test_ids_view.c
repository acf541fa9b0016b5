/* One shard's view: order, parking, cancelling, names. The producer runs when the test says so. */
#include "tests/unit/queue/ids_harness.h"

static void test_first_id_is_one_and_a_turn_claims_once(void **state)
{
	struct ids_opts o = opts_default;
	struct call c[20] = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.window_min = 1000;
	bench_open(&o);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(ask(0, &c[i], "", 1), IDS_E_OK);
	assert_int_equal(ids_view_waiting(t.view[0]), 20);
	settle();
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(c[i].answered);
		assert_int_equal(c[i].first, 1 + i);
		assert_int_equal(c[i].order, 1 + i);
	}
	assert_int_equal(ids_view_stats(t.view[0])->claims, 1);
	assert_int_equal(ids_view_stats(t.view[0])->ids, 20);
	assert_int_equal(ids_view_stats(t.view[0])->parked, 20); /* the first window was not there yet */
	for (unsigned i = 0; i < 20; i++)
		ask(0, &c[i], "", 1 + i);
	turn(0); /* without the producer: the window is there */
	assert_int_equal(c[19].first, 21 + 190);
	bench_close(false);
}

static void test_nothing_before_the_window_is_durable(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &c, "", 1);
	settle();
	assert_false(c.answered);
	assert_int_equal(fake_count(IDS_RECORD_WINDOW), 1);
	fake_sync();
	settle();
	assert_true(c.answered);
	assert_int_equal(durable_of(0), 101);
	bench_close(false);
}

static void test_counts(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	assert_int_equal(ask(0, &c, "", 0), IDS_E_COUNT);
	assert_int_equal(ask(0, &c, "", 10001), IDS_E_COUNT);
	assert_int_equal(ask(0, &c, "", UINT32_MAX), IDS_E_COUNT);
	assert_int_equal(ask(0, &c, "n", 10001), IDS_E_COUNT);
	assert_int_equal(ask(0, &c, "", 10000), IDS_E_OK); /* a hundred windows */
	settle();
	assert_true(c.answered);
	assert_int_equal(c.first, 1);
	assert_int_equal(next_of(0), 10001);
	bench_close(false);
}

/* A request that does not fit keeps those behind it waiting, though they would fit. */
static void test_parked_in_order(void **state)
{
	struct call a = {0}, big = {0}, small = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &a, "", 45);
	settle();
	fake_sync();
	settle(); /* 46 to 100 are left */
	ask(0, &big, "", 60);
	ask(0, &small, "", 1);
	settle();
	assert_true(a.answered);
	assert_false(big.answered);
	assert_false(small.answered);
	assert_int_equal(ids_view_waiting(t.view[0]), 2);
	fake_sync();
	settle();
	assert_int_equal(big.first, 46);
	assert_int_equal(small.first, 106);
	assert_true(small.order > big.order);
	assert_int_equal(ids_view_stats(t.view[0])->parked, 3);
	fake_sync();
	settle();
	bench_close(false);
}

static void test_cancel_in_every_state(void **state)
{
	struct call c[6] = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ids_view_cancel(t.view[0], &c[0].w); /* not queued: harmless */
	for (unsigned i = 0; i < 3; i++)
		ask(0, &c[i], "", 1);
	ids_view_cancel(t.view[0], &c[1].w); /* before any turn */
	assert_int_equal(ids_view_waiting(t.view[0]), 2);
	settle();
	ids_view_cancel(t.view[0], &c[0].w); /* parked, the front */
	ids_view_cancel(t.view[0], &c[0].w); /* again */
	ask(0, &c[3], "new", 5);
	ask(0, &c[4], "new", 7);
	ids_view_cancel(t.view[0], &c[3].w); /* its sequence is being made */
	assert_int_equal(ids_view_waiting(t.view[0]), 2);
	settle();
	fake_sync();
	settle();
	assert_false(c[0].answered || c[1].answered || c[3].answered);
	assert_int_equal(c[2].first, 1);
	assert_int_equal(c[4].first, 1);
	ids_view_cancel(t.view[0], &c[2].w); /* answered */
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	/* All who wait are taken back: the range that comes finds nobody. */
	ask(0, &c[5], "new", 5000);
	settle();
	ids_view_cancel(t.view[0], &c[5].w);
	fake_sync();
	settle();
	assert_false(c[5].answered);
	assert_int_equal(next_of(1), 8);
	bench_close(false);
}

static void test_cancelled_front_lets_those_behind_it_through(void **state)
{
	struct call a = {0}, big = {0}, small = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&opts_default);
	ask(0, &a, "", 10);
	settle();
	fake_sync();
	settle();
	ask(0, &big, "", 5000);
	ask(0, &small, "", 2);
	settle();
	assert_false(small.answered);
	ids_view_cancel(t.view[0], &big.w);
	assert_true(ids_view_has_work(t.view[0]));
	turn(0);
	assert_true(small.answered);
	assert_int_equal(small.first, 11);
	bench_close(false);
}

/* What a batch does not use goes back: a clean stop leaves no gap. */
static void test_cancel_in_a_callback_gives_the_ids_back(void **state)
{
	struct call c[4] = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	for (unsigned i = 0; i < 4; i++)
		ask(0, &c[i], "", 10);
	c[0].cancels = &c[2];
	settle();
	assert_false(c[2].answered);
	assert_int_equal(c[0].first, 1);
	assert_int_equal(c[1].first, 11);
	assert_int_equal(c[3].first, 21);
	assert_int_equal(next_of(0), 31);
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	bench_close(false);
}

/* An ID for a request must be claimed after the request was made: another shard may have answered meanwhile. */
static void test_request_made_in_a_callback_is_claimed_anew(void **state)
{
	struct call c[3] = {0}, late = {0}, later = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	for (unsigned i = 0; i < 3; i++)
		ask(0, &c[i], "", 1);
	c[0].cancels = &c[1];
	c[0].requests = &late;
	c[0].requests_count = 1;
	late.requests = &later;
	late.requests_count = 30;
	settle();
	assert_int_equal(c[2].first, 2);
	assert_true(late.answered && later.answered);
	assert_int_equal(late.first, 3);
	assert_int_equal(later.first, 4);
	assert_int_equal(ids_view_stats(t.view[0])->claims, 3);
	bench_close(false);
}

/* A call that asks again in each answer must not hold the loop for ever, nor be forgotten. */
static void test_endless_asking_yields(void **state)
{
	struct call a = {0}, b = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	ask(0, &a, "", 1);
	settle();
	a.answered = false;
	a.requests = &b, a.requests_count = 1;
	ask(0, &a, "", 1);
	turn(0);
	assert_true(b.answered);
	for (unsigned i = 0; i < 3; i++) {
		a.answered = b.answered = false;
		a.requests = &b, b.requests = NULL;
		ask(0, &a, "", 1);
		turn(0);
		assert_true(a.answered && b.answered && b.first == a.first + 1);
	}
	bench_close(false);
}

static void test_several_sequences(void **state)
{
	static const char *const name[] = {"", "orders", "zähler", "a/b c"};
	struct call c[4][5] = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	for (unsigned k = 0; k < 5; k++)
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(ask(0, &c[i][k], name[i], 1 + i), IDS_E_OK);
	settle();
	for (unsigned k = 0; k < 5; k++)
		for (unsigned i = 0; i < 4; i++) {
			assert_true(c[i][k].answered);
			assert_int_equal(c[i][k].first, 1 + k * (1 + i));
		}
	assert_int_equal(ids_sequence_count(t.ids), 4);
	for (unsigned i = 0; i < 4; i++) {
		struct ids_sequence_info info;

		assert_true(ids_sequence_info(t.ids, i, &info));
		assert_string_equal(info.name, name[i]);
	}
	for (unsigned k = 0; k < 2; k++) { /* now they are known: no creation, the cache and the table */
		ask(0, &c[2][0], name[2], 1);
		assert_int_not_equal(c[2][0].w.slot, IDS_SLOT_NEW);
		turn(0);
		assert_int_equal(c[2][0].first, 16 + k);
	}
	bench_close(false);
}

static void test_names(void **state)
{
	char longest[SEQUENCE_NAME_MAX + 2];
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	memset(longest, 'x', sizeof longest);
	longest[SEQUENCE_NAME_MAX + 1] = 0;
	assert_int_equal(ask(0, &c, longest, 1), IDS_E_NAME);
	longest[SEQUENCE_NAME_MAX] = 0;
	assert_int_equal(ask(0, &c, longest, 1), IDS_E_OK);
	settle();
	assert_true(c.answered);
	assert_int_equal(ask(0, &c, "a\nb", 1), IDS_E_NAME);
	assert_int_equal(ask(0, &c, "\x7f", 1), IDS_E_NAME);
	assert_int_equal(ask(0, &c, "\xc2\x85", 1), IDS_E_NAME);         /* U+0085 */
	assert_int_equal(ask(0, &c, "\xc0\x80", 1), IDS_E_NAME);         /* overlong */
	assert_int_equal(ask(0, &c, "\xed\xa0\x80", 1), IDS_E_NAME);     /* surrogate */
	assert_int_equal(ask(0, &c, "\xf4\x90\x80\x80", 1), IDS_E_NAME); /* above U+10FFFF */
	assert_int_equal(ask(0, &c, "ab\xe2\x82", 1), IDS_E_NAME);       /* cut short */
	assert_int_equal(ask(0, &c, "\xff", 1), IDS_E_NAME);
	assert_int_equal(ask(0, &c, "\xe2\x82\xac\xf0\x9f\x98\x80", 1), IDS_E_OK);
	assert_int_equal(
		ids_view_request(t.view[0], &(struct ids_wait){0}, (struct span){(const uint8_t *)"a\0b", 3}, 1),
		IDS_E_NAME);
	settle();
	assert_true(c.answered);
	bench_close(false);
}

static void test_limit_met_by_the_view(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};
	char text[200];

	fake_clear(FAKE_IMMEDIATE);
	o.sequences_max = 2;
	bench_open(&o);
	ask(0, &c, "one", 1);
	settle();
	assert_int_equal(ask(0, &c, "two", 1), IDS_E_LIMIT);
	assert_non_null(strstr(ids_error_text(t.ids, IDS_E_LIMIT, text, sizeof text), "2 sequences"));
	bench_close(false);
}

/* One that the producer had made, and this shard had not heard of, counted as known and as being made: a name for which there was room was refused. */
static void test_a_sequence_just_made_takes_one_place_of_the_limit(void **state)
{
	struct ids_opts o = opts_default;
	struct call a = {0}, b = {0}, c = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.sequences_max = 3;
	bench_open(&o);
	assert_int_equal(ask(0, &a, "one", 1), IDS_E_OK);
	turn(0);
	produce();
	assert_int_equal(ask(0, &b, "two", 1), IDS_E_OK);
	settle();
	assert_int_equal(a.first, 1);
	assert_int_equal(b.first, 1);
	assert_int_equal(ask(0, &c, "three", 1), IDS_E_LIMIT);
	bench_close(false);
}

/* Both shards believe that there is room. */
static void test_limit_met_by_the_producer(void **state)
{
	struct ids_opts o = opts_default;
	struct call a = {0}, b = {0}, same = {0}, gone = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.sequences_max = 2;
	o.shards = 2;
	bench_open(&o);
	ask(0, &a, "one", 3);
	ask(1, &b, "two", 1);
	ask(1, &gone, "two", 1);
	ids_view_cancel(t.view[1], &gone.w);
	settle();
	assert_int_equal(a.first, 1);
	assert_int_equal(b.refused, IDS_E_LIMIT);
	assert_false(b.answered || gone.answered);
	assert_int_equal(gone.refused, IDS_E_OK);
	assert_int_equal(ids_view_waiting(t.view[1]), 0);
	ask(1, &same, "one", 1); /* the other shard's, found in the registry */
	settle();
	assert_int_equal(same.first, 4);
	bench_close(false);
}

static void test_one_name_asked_for_by_two_shards_at_once(void **state)
{
	struct ids_opts o = opts_default;
	struct call a = {0}, b = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.shards = 2;
	bench_open(&o);
	ask(0, &a, "same", 3);
	ask(1, &b, "same", 3);
	settle();
	assert_true(a.answered && b.answered);
	assert_int_equal(a.first + b.first, 5);
	assert_int_equal(ids_sequence_count(t.ids), 2);
	bench_close(false);
}

static void test_creation_off(void **state)
{
	struct ids_opts o = opts_default;
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.create = false;
	bench_open(&o);
	assert_int_equal(ask(0, &c, "one", 1), IDS_E_UNKNOWN);
	assert_int_equal(ask(0, &c, "", 1), IDS_E_OK);
	settle();
	assert_true(c.answered);
	bench_close(false);
}

/* Freed while a name is on its way to the producer. */
static void test_view_freed_during_creation(void **state)
{
	struct call c = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&opts_default);
	ask(0, &c, "one", 1);
	turn(0);
	ids_view_cancel(t.view[0], &c.w);
	ids_view_free(t.view[0]);
	t.view[0] = NULL;
	produce();
	bench_close(true);
}

/* More sequences ask at once than the demand ring holds, and their answers do not fit in the feed: all are served in
 * the end. */
static void test_full_rings_lose_nothing(void **state)
{
	enum { N = 3000 };
	struct ids_opts o = opts_default;
	struct call *c = calloc(N, sizeof *c);
	char name[16];

	for (unsigned order = IDS_STRICT; order <= IDS_SHARDED; order++) {
		fake_clear(FAKE_MANUAL);
		o.order = order;
		o.queue_depth = 2;
		o.sequences_max = N + 1;
		bench_open(&o);
		for (unsigned round = 0; round < 2; round++) {
			for (unsigned i = 0; i < N; i++) {
				snprintf(name, sizeof name, "s%u", i);
				assert_int_equal(ask(0, &c[i], name, 7), IDS_E_OK);
			}
			for (unsigned i = 0; i < 100 && ids_view_waiting(t.view[0]) != 0; i++) {
				settle();
				fake_sync();
			}
			assert_int_equal(ids_view_waiting(t.view[0]), 0);
			for (unsigned i = 0; i < N; i++)
				assert_true(c[i].answered);
		}
		settle();
		bench_close(true);
	}
	free(c);
}

static void test_sharded_ranges_do_not_overlap_and_rise(void **state)
{
	struct ids_opts o = opts_default;
	uint64_t last[3] = {0}, sum = 0;
	unsigned char *seen = calloc(1, 1 << 20);

	fake_clear(FAKE_IMMEDIATE);
	o.order = IDS_SHARDED;
	o.shards = 3;
	o.window_min = 10;
	bench_open(&o);
	for (unsigned i = 0; i < 3000; i++) {
		struct call c = {0};
		unsigned shard = i * 7 % 3;
		uint32_t count = 1 + i % 37;

		assert_int_equal(ask(shard, &c, "", count), IDS_E_OK);
		settle();
		assert_true(c.answered);
		assert_true(c.first > last[shard]);
		last[shard] = c.first + count - 1;
		for (uint32_t k = 0; k < count; k++) {
			assert_true(c.first + k < 1 << 20);
			assert_int_equal(seen[c.first + k]++, 0);
		}
		sum += count;
	}
	assert_true(next_of(0) > sum);
	assert_int_equal(
		ids_view_stats(t.view[0])->ids + ids_view_stats(t.view[1])->ids + ids_view_stats(t.view[2])->ids, sum);
	free(seen);
	bench_close(true);
}

/* A single shard's ranges touch, so nothing is skipped whatever the sizes. */
static void test_one_shard_in_sharded_order_skips_nothing(void **state)
{
	struct ids_opts o = opts_default;
	uint64_t expect = 1;

	fake_clear(FAKE_IMMEDIATE);
	o.order = IDS_SHARDED;
	o.window_min = 8;
	bench_open(&o);
	for (unsigned i = 0; i < 500; i++) {
		struct call c = {0};

		ask(0, &c, "", 1 + i * 31 % 97);
		settle();
		assert_int_equal(c.first, expect);
		expect += c.count;
	}
	bench_close(true);
}

/* Those who waited were left until the end of the drain, as nobody would ever feed them. */
static void requests_are_refused_when_the_journal_has_failed(enum ids_order order)
{
	struct ids_opts o = opts_default;
	struct call first = {0}, served = {0}, parked = {0}, behind = {0}, other = {0}, unmade[2] = {0}, later = {0};

	fake_clear(FAKE_IMMEDIATE);
	o.order = order;
	bench_open(&o);
	ask(0, &first, "", 1);
	ask(0, &other, "other", 1);
	settle();
	assert_true(first.answered && other.answered);
	ask(0, &parked, "", 5000); /* more than a window */
	ask(0, &behind, "", 1);
	ask(0, &other, "other", 5000);
	ask(0, &unmade[0], "unmade", 1);
	ask(0, &unmade[1], "unmade", 1);
	turn(0);
	assert_int_equal(ids_view_waiting(t.view[0]), 5);
	fake_fail();
	settle();
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	assert_int_equal(parked.refused, IDS_E_FAILED);
	assert_true(behind.refused == IDS_E_FAILED || behind.answered);
	assert_int_equal(other.refused, IDS_E_FAILED);
	assert_int_equal(unmade[0].refused, IDS_E_FAILED);
	assert_int_equal(unmade[1].refused, IDS_E_FAILED);
	/* The rest of the window is on disk. */
	ask(0, &served, "", 1);
	ask(0, &later, "new", 1);
	settle();
	assert_true(served.answered && served.first > first.first);
	assert_int_equal(later.refused, IDS_E_FAILED);
	ask(0, &later, "", 5000);
	settle();
	assert_int_equal(later.refused, IDS_E_FAILED);
	bench_close(false);
}

static void test_requests_are_refused_when_the_journal_has_failed(void **state)
{
	requests_are_refused_when_the_journal_has_failed(IDS_STRICT);
	requests_are_refused_when_the_journal_has_failed(IDS_SHARDED);
}

/* An ID that was handed out after that could be handed out again after a restart: the window's record is gone. */
static void no_id_is_handed_out_when_the_log_is_lost(enum ids_order order)
{
	struct ids_opts o = opts_default;
	struct call first = {0}, parked = {0}, unmade = {0}, fits = {0}, later = {0};
	char text[200];

	fake_clear(FAKE_IMMEDIATE);
	o.order = order;
	bench_open(&o);
	ask(0, &first, "", 1);
	settle();
	assert_true(first.answered);
	ask(0, &parked, "", 5000);
	ask(0, &unmade, "unmade", 1);
	turn(0);
	fake_lose();
	settle();
	turn(0);
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	assert_int_equal(parked.refused, IDS_E_LOST);
	assert_int_equal(unmade.refused, IDS_E_LOST);
	ask(0, &fits, "", 1); /* the window still has some */
	ask(0, &later, "new", 1);
	settle();
	assert_int_equal(fits.refused, IDS_E_LOST);
	assert_int_equal(later.refused, IDS_E_LOST);
	assert_non_null(strstr(ids_error_text(t.ids, IDS_E_LOST, text, sizeof text), "the file is gone"));
	producer_finish(t.ids->producer); /* does not wait for what never comes */
	bench_close(false);
}

static void test_no_id_is_handed_out_when_the_log_is_lost(void **state)
{
	no_id_is_handed_out_when_the_log_is_lost(IDS_STRICT);
	no_id_is_handed_out_when_the_log_is_lost(IDS_SHARDED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_id_is_one_and_a_turn_claims_once),
		cmocka_unit_test(test_nothing_before_the_window_is_durable),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_parked_in_order),
		cmocka_unit_test(test_cancel_in_every_state),
		cmocka_unit_test(test_cancelled_front_lets_those_behind_it_through),
		cmocka_unit_test(test_cancel_in_a_callback_gives_the_ids_back),
		cmocka_unit_test(test_request_made_in_a_callback_is_claimed_anew),
		cmocka_unit_test(test_endless_asking_yields),
		cmocka_unit_test(test_several_sequences),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_limit_met_by_the_view),
		cmocka_unit_test(test_a_sequence_just_made_takes_one_place_of_the_limit),
		cmocka_unit_test(test_limit_met_by_the_producer),
		cmocka_unit_test(test_one_name_asked_for_by_two_shards_at_once),
		cmocka_unit_test(test_creation_off),
		cmocka_unit_test(test_view_freed_during_creation),
		cmocka_unit_test(test_full_rings_lose_nothing),
		cmocka_unit_test(test_sharded_ranges_do_not_overlap_and_rise),
		cmocka_unit_test(test_one_shard_in_sharded_order_skips_nothing),
		cmocka_unit_test(test_requests_are_refused_when_the_journal_has_failed),
		cmocka_unit_test(test_no_id_is_handed_out_when_the_log_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
