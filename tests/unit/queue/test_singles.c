/* Single IDs through queues of the family: every member serves unique rising IDs, only durable ones, wakes whoever waits, and a clean stop
 * leaves no gap where one queue had them all. Without threads, but for the last test. */
#include "queue/family/family.h"
#include "tests/unit/queue/ids_harness.h"

#include <pthread.h>

static struct ids_opts opts_of(const struct family_ops *m, unsigned shards, enum ids_order order)
{
	struct ids_opts o = opts_default;

	o.queue = m->name;
	o.shards = shards;
	o.order = order;
	return o;
}

static bool is_strict(const struct family_ops *m)
{
	return m->order == FAMILY_FIFO && m->consumers_max != 1;
}

static void each_member_in_order(void **state)
{
	for (unsigned i = 0; i < family_count; i++) {
		struct ids_opts o = opts_of(family_members[i], 1, IDS_STRICT);
		struct call calls[50] = {0};
		uint64_t last = 0;

		fake_clear(FAKE_IMMEDIATE);
		bench_open(&o);
		for (unsigned round = 0; round < 40; round++) {
			for (unsigned k = 0; k < ARRAY_SIZE(calls); k++)
				assert_int_equal(ask(0, &calls[k], "", 1), IDS_E_OK);
			settle();
			for (unsigned k = 0; k < ARRAY_SIZE(calls); k++) {
				assert_true(calls[k].answered);
				assert_int_equal(calls[k].first, last + 1);
				last = calls[k].first;
				assert_true(last < durable_of(0));
			}
		}
		bench_close(true);
		/* A clean stop takes back what was in the queue. */
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&o);
		assert_int_equal(ask(0, &calls[0], "", 1), IDS_E_OK);
		settle();
		assert_int_equal(calls[0].first, last + 1);
		bench_close(true);
	}
}

static void two_shards(void **state)
{
	unsigned strict = 0;

	for (unsigned i = 0; i < family_count; i++) {
		const struct family_ops *m = family_members[i];
		enum ids_order order = is_strict(m) ? IDS_STRICT : IDS_SHARDED;
		struct ids_opts o = opts_of(m, 2, order);
		struct call calls[2][20] = {0};
		uint64_t last[2] = {0}, highest = 0, sum = 0, n = 0;

		if (m->order == FAMILY_UNORDERED)
			continue;
		strict += order == IDS_STRICT;
		fake_clear(FAKE_IMMEDIATE);
		bench_open(&o);
		for (unsigned round = 0; round < 40; round++) {
			for (unsigned k = 0; k < 40; k++)
				assert_int_equal(ask(k % 2, &calls[k % 2][k / 2], "", 1), IDS_E_OK);
			settle();
			for (unsigned s = 0; s < 2; s++) {
				for (unsigned k = 0; k < 20; k++) {
					uint64_t id = calls[s][k].first;

					assert_true(calls[s][k].answered);
					assert_true(id > last[s]);
					last[s] = id;
					highest = id > highest ? id : highest;
					sum += id;
					n++;
				}
			}
		}
		if (order == IDS_STRICT) {
			assert_int_equal(highest, n);
			assert_int_equal(sum, n * (n + 1) / 2);
		}
		bench_close(true);
	}
	assert_true(strict > 10);
}

static void nothing_before_it_is_durable(void **state)
{
	struct ids_opts o = opts_of(family_find("basic"), 1, IDS_STRICT);
	struct call c = {0};

	fake_clear(FAKE_MANUAL);
	bench_open(&o);
	assert_int_equal(ask(0, &c, "", 1), IDS_E_OK);
	settle();
	assert_false(c.answered);
	fake_sync();
	settle();
	assert_true(c.answered);
	bench_close(true);
}

static void a_kill_repeats_nothing(void **state)
{
	struct ids_opts o = opts_of(family_find("kfifo-mpmc"), 1, IDS_STRICT);
	struct call c = {0};
	uint64_t last = 0;

	fake_clear(FAKE_IMMEDIATE);
	for (unsigned i = 0; i < 20; i++) {
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&o);
		assert_int_equal(ask(0, &c, "", 1), IDS_E_OK);
		settle();
		assert_true(c.first > last);
		last = c.first;
		bench_close(false);
	}
}

static void cancelled_and_requested_in_answers(void **state)
{
	struct ids_opts o = opts_of(family_find("linked"), 1, IDS_STRICT);
	struct call a = {0}, b = {0}, c = {0}, d = {0};

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&o);
	a.cancels = &b;
	c.requests = &d;
	c.requests_count = 1;
	assert_int_equal(ask(0, &a, "", 1), IDS_E_OK);
	assert_int_equal(ask(0, &b, "", 1), IDS_E_OK);
	assert_int_equal(ask(0, &c, "", 1), IDS_E_OK);
	d.count = 1;
	settle();
	assert_true(a.answered && !b.answered && c.answered && d.answered);
	assert_int_equal(c.first, a.first + 1);
	assert_int_equal(d.first, c.first + 1);
	assert_int_equal(ids_view_waiting(t.view[0]), 0);
	bench_close(true);
}

/* One shard alone gets consecutive IDs, more than the queue holds at a time too. */
static void many_in_one_request(void **state)
{
	static const uint32_t counts[] = {1, 7, 2, 100, 1, 1000, 65, 64};

	for (unsigned i = 0; i < family_count; i++) {
		struct ids_opts o = opts_of(family_members[i], 1, IDS_STRICT);
		struct call calls[ARRAY_SIZE(counts)] = {0};
		uint64_t last = 0;

		fake_clear(FAKE_IMMEDIATE);
		bench_open(&o);
		for (unsigned round = 0; round < 10; round++) {
			for (unsigned k = 0; k < ARRAY_SIZE(counts); k++)
				assert_int_equal(ask(0, &calls[k], "", counts[k]), IDS_E_OK);
			settle();
			for (unsigned k = 0; k < ARRAY_SIZE(counts); k++) {
				assert_true(calls[k].answered);
				assert_int_equal(calls[k].first, last + 1);
				last += counts[k];
				assert_true(last < durable_of(0));
			}
		}
		assert_int_equal(ask(0, &calls[0], "", o.count_max + 1), IDS_E_COUNT);
		bench_close(true);
	}
}

/* What was collected for a request that has gone away is the next one's, and a clean stop takes it back. */
static void held_ids_are_not_lost(void **state)
{
	for (unsigned i = 0; i < family_count; i++) {
		struct ids_opts o = opts_of(family_members[i], 1, IDS_STRICT);
		struct call a = {0}, b = {0}, c = {0};

		o.count_max = 1000000; /* more than window_max, so more than can be durable ahead */
		fake_clear(FAKE_IMMEDIATE);
		bench_open(&o);
		assert_int_equal(ask(0, &a, "", 1), IDS_E_OK);
		settle();
		assert_int_equal(a.first, 1);
		fake.mode = FAKE_MANUAL; /* nothing more becomes durable */
		assert_int_equal(ask(0, &b, "", o.count_max), IDS_E_OK);
		settle();
		assert_false(b.answered);
		ids_view_cancel(t.view[0], &b.w);
		assert_int_equal(ask(0, &c, "", 3), IDS_E_OK);
		settle();
		assert_true(c.answered);
		assert_int_equal(c.first, 2);
		bench_close(true);
		fake_reopen(FAKE_IMMEDIATE);
		bench_open(&o);
		assert_int_equal(ask(0, &a, "", 1), IDS_E_OK);
		settle();
		assert_int_equal(a.first, 5);
		bench_close(true);
	}
}

static void what_it_does_not_do(void **state)
{
	struct ids_opts o = opts_of(family_find("basic"), 2, IDS_STRICT);
	struct call c = {0};
	char text[256];

	fake_clear(FAKE_IMMEDIATE);
	bench_open(&o);
	assert_int_equal(ask(0, &c, "", 2), IDS_E_SINGLES);
	assert_int_equal(ask(0, &c, "name", 1), IDS_E_SINGLES);
	assert_non_null(strstr(ids_error_text(t.ids, IDS_E_SINGLES, text, sizeof text), "ID_QUEUE=basic"));
	bench_close(false);
}

static void refused(const char *queue, unsigned shards, enum ids_order order, uint64_t rate, const char *because)
{
	struct ids_opts o = opts_default;
	const char *why = NULL;

	o.queue = queue;
	o.shards = shards;
	o.order = order;
	o.rate = rate;
	fake_clear(FAKE_IMMEDIATE);
	assert_int_equal(journal_open(NULL, &t.journal, NULL), 0);
	assert_true(ids_open(&o, t.journal, &t.ids, &why) < 0);
	assert_non_null(strstr(why, because));
}

static void promises_that_a_member_cannot_keep(void **state)
{
	refused("nonsense", 1, IDS_STRICT, 0, "double-waiters-new");
	refused("sharded", 2, IDS_SHARDED, 0, "no order");
	refused("ck-ring-spsc", 2, IDS_STRICT, 0, "ID_ORDER=sharded");
	refused("ranges-spsc", 2, IDS_STRICT, 0, "ID_ORDER=sharded");
	refused("ranges-mpmc", 2, IDS_STRICT, 0, "ID_ORDER=sharded");
	refused("basic", 1, IDS_STRICT, 1000, "PRODUCER_RATE");
}

/* ---- with threads ---- */

#define THREADS 2
#define REQUESTS 100000u

struct taker {
	unsigned shard;
	pthread_t thread;
	struct ids_view *view;
	uint64_t *got, n;
	const char *wrong;
};

static _Atomic uint64_t seen;

static void taker_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct taker *k = ctx;

	k->got[k->n++] = first;
}

static void taker_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	((struct taker *)ctx)->wrong = "refused";
}

static void *taker_run(void *ctx)
{
	static const struct ids_view_ops ops = {taker_answer, taker_refused};
	struct taker *k = ctx;
	struct doorbell *bell = &t.bell[k->shard];
	struct ids_wait w[8] = {0};

	while (k->n < REQUESTS && k->wrong == NULL) {
		uint64_t before = atomic_load(&seen), from = k->n, max;

		for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
			ids_view_request(k->view, &w[i], str(""), 1);
		while (k->n < from + ARRAY_SIZE(w) && k->wrong == NULL) {
			ids_view_turn(k->view, &ops, k);
			if (ids_view_waiting(k->view) == 0)
				break;
			doorbell_arm(bell);
			if (ids_view_has_work(k->view))
				doorbell_disarm(bell);
			else if (!doorbell_wait(bell, 60 * NS_PER_S))
				k->wrong = "a wake-up was lost";
		}
		for (uint64_t i = from; i < k->n; i++)
			if (k->got[i] <= before)
				k->wrong = "not above an ID that was in a reply before the request was made";
		max = atomic_load(&seen);
		while (k->n != 0 && max < k->got[k->n - 1] &&
		       !atomic_compare_exchange_weak(&seen, &max, k->got[k->n - 1]))
			;
	}
	return NULL;
}

static void strict_in_real_time(void **state)
{
	for (unsigned i = 0; i < family_count; i++) {
		struct ids_opts o = opts_of(family_members[i], THREADS, IDS_STRICT);
		struct taker takers[THREADS] = {0};
		uint64_t highest = 0, sum = 0, n = 0;

		if (!is_strict(family_members[i]))
			continue;
		o.window_max = 1000000;
		fake_clear(FAKE_IMMEDIATE);
		bench_open(&o);
		atomic_store(&seen, 0);
		assert_int_equal(ids_start(t.ids, -1), 0);
		for (unsigned s = 0; s < THREADS; s++) {
			takers[s] = (struct taker){.shard = s, .view = t.view[s]};
			takers[s].got = calloc(REQUESTS + 8, sizeof *takers[s].got);
			assert_int_equal(pthread_create(&takers[s].thread, NULL, taker_run, &takers[s]), 0);
		}
		for (unsigned s = 0; s < THREADS; s++) {
			pthread_join(takers[s].thread, NULL);
			if (takers[s].wrong)
				fail_msg("%s: %s", o.queue, takers[s].wrong);
			for (uint64_t k = 0; k < takers[s].n; k++) {
				highest = takers[s].got[k] > highest ? takers[s].got[k] : highest;
				sum += takers[s].got[k];
			}
			n += takers[s].n;
			free(takers[s].got);
		}
		assert_int_equal(highest, n);
		assert_int_equal(sum, n * (n + 1) / 2);
		ids_stop(t.ids);
		assert_int_equal(next_of(0), n + 1);
		bench_close(false);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_member_in_order),
		cmocka_unit_test(two_shards),
		cmocka_unit_test(nothing_before_it_is_durable),
		cmocka_unit_test(a_kill_repeats_nothing),
		cmocka_unit_test(cancelled_and_requested_in_answers),
		cmocka_unit_test(many_in_one_request),
		cmocka_unit_test(held_ids_are_not_lost),
		cmocka_unit_test(what_it_does_not_do),
		cmocka_unit_test(promises_that_a_member_cannot_keep),
		cmocka_unit_test(strict_in_real_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
