/* Two shards on two threads and the producer on its own: strict order in real time, uniqueness when sharded, and no
 * wake-up that is lost. The journal is the twin that makes records durable at once, so that the threads meet as often
 * as possible. */
#include "tests/unit/queue/ids_harness.h"

#include <pthread.h>
#include <stdlib.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifdef SANITIZED
#define IDS_TOTAL 400000u
#else
#define IDS_TOTAL 10000000u
#endif

#define SHARDS 2
#define DEPTH 64
#define WAIT_NS (60 * NS_PER_S) /* only reached if a wake-up is lost */

struct job {
	struct ids *ids;
	unsigned shard;
	uint32_t count_max; /* a request's: 1 to this */
	uint64_t total;
	const char *name;

	_Atomic uint64_t *last_seen; /* largest ID in any reply so far */
	bool strict;
	uint64_t *firsts; /* each request's; its count is (i % count_max) + 1 */
	size_t requests, answered;
	uint64_t seen, previous;
	struct ids_wait w[DEPTH];
	const char *wrong;
};

static void job_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct job *j = ctx;
	uint64_t last = first + w->count - 1, max;

	if (first <= j->previous)
		j->wrong = "not increasing on its own shard";
	if (j->strict && first <= j->seen)
		j->wrong = "not above an ID that was in a reply before the request was made";
	j->previous = last;
	j->firsts[j->answered++] = first;
	max = atomic_load_explicit(j->last_seen, memory_order_relaxed);
	while (max < last && !atomic_compare_exchange_weak(j->last_seen, &max, last))
		;
}

static void job_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	((struct job *)ctx)->wrong = "refused";
}

static void *job_run(void *ctx)
{
	static const struct ids_view_ops ops = {job_answer, job_refused};
	struct job *j = ctx;
	struct doorbell *bell = &t.bell[j->shard];
	struct ids_view *v;
	uint64_t given = 0;

	v = ids_view_new(j->ids, j->shard, bell);
	if (v == NULL) {
		j->wrong = "no view";
		return NULL;
	}
	while (given < j->total && !j->wrong) {
		unsigned batch = 1 + (unsigned)(j->requests * 7 % DEPTH);

		j->seen = atomic_load(j->last_seen);
		for (unsigned i = 0; i < batch; i++) {
			uint32_t count = 1 + (uint32_t)(j->requests++ % j->count_max);

			given += count;
			if (ids_view_request(v, &j->w[i], str(j->name), count) != IDS_E_OK)
				j->wrong = "not queued";
		}
		ids_view_turn(v, &ops, j);
		while (ids_view_waiting(v) != 0 && !j->wrong) {
			doorbell_arm(bell);
			if (ids_view_has_work(v))
				doorbell_disarm(bell);
			else if (!doorbell_wait(bell, WAIT_NS))
				j->wrong = "a wake-up was lost";
			ids_view_turn(v, &ops, j);
		}
	}
	ids_view_free(v);
	return NULL;
}

static int by_first(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Runs both shards; returns how many IDs lie unused between those handed out. */
static uint64_t run(const struct ids_opts *opts, uint64_t total, const char *name)
{
	struct job job[SHARDS] = {0};
	pthread_t thread[SHARDS];
	_Atomic uint64_t last_seen = 0;
	struct journal *journal;
	uint64_t *all, gap = 0;
	size_t n = 0;

	fake_clear(FAKE_IMMEDIATE);
	assert_int_equal(journal_open(NULL, &journal, NULL), 0);
	assert_int_equal(ids_open(opts, journal, &t.ids, NULL), 0);
	assert_int_equal(ids_start(t.ids, -1), 0);
	for (unsigned i = 0; i < SHARDS; i++) {
		job[i] = (struct job){.ids = t.ids,
				      .shard = i,
				      .count_max = 1 + 4 * i,
				      .total = total / SHARDS,
				      .name = name,
				      .last_seen = &last_seen,
				      .strict = opts->order == IDS_STRICT};
		job[i].firsts = malloc((total / SHARDS + DEPTH) * sizeof(uint64_t));
		assert_non_null(job[i].firsts);
		assert_int_equal(doorbell_init(&t.bell[i]), 0);
		assert_int_equal(pthread_create(&thread[i], NULL, job_run, &job[i]), 0);
	}
	for (unsigned i = 0; i < SHARDS; i++)
		pthread_join(thread[i], NULL);
	ids_stop(t.ids);
	for (unsigned i = 0; i < SHARDS; i++) {
		if (job[i].wrong)
			fail_msg("shard %u: %s", i, job[i].wrong);
		assert_int_equal(job[i].answered, job[i].requests);
		n += job[i].answered;
		doorbell_done(&t.bell[i]);
	}
	/* Each ID once: requests as (first << 3 | count), sorted, must not overlap. */
	all = malloc(n * sizeof *all);
	assert_non_null(all);
	n = 0;
	for (unsigned i = 0; i < SHARDS; i++) {
		for (size_t k = 0; k < job[i].answered; k++)
			all[n++] = job[i].firsts[k] << 3 | (1 + k % job[i].count_max);
		free(job[i].firsts);
	}
	qsort(all, n, sizeof *all, by_first);
	for (size_t k = 1; k < n; k++) {
		uint64_t end = (all[k - 1] >> 3) + (all[k - 1] & 7);

		assert_true(all[k] >> 3 >= end);
		gap += (all[k] >> 3) - end;
	}
	free(all);
	ids_free(t.ids);
	return gap;
}

static void test_strict_is_greater_than_all_seen_before(void **state)
{
	struct ids_opts o = opts_default;

	o.shards = SHARDS;
	o.window_min = 1000;
	o.window_max = 4000000;
	assert_int_equal(run(&o, IDS_TOTAL, ""), 0);
}

/* Windows so small that shards wait for the producer all the time. */
static void test_strict_with_tiny_windows_loses_no_wake_up(void **state)
{
	struct ids_opts o = opts_default;

	o.shards = SHARDS;
	o.window_min = 1;
	o.window_max = 64;
	o.queue_depth = 2;
	assert_int_equal(run(&o, IDS_TOTAL / 40, "named"), 0);
}

static void test_strict_with_a_rate_cap(void **state)
{
	struct ids_opts o = opts_default;

	o.shards = SHARDS;
	o.rate = 100000;
	assert_int_equal(run(&o, 20000, ""), 0);
}

static void test_sharded_is_unique(void **state)
{
	struct ids_opts o = opts_default;

	o.order = IDS_SHARDED;
	o.shards = SHARDS;
	o.window_min = 1000;
	o.window_max = 1000000;
	run(&o, IDS_TOTAL / 2, "");
}

static void test_sharded_with_tiny_windows_loses_no_wake_up(void **state)
{
	struct ids_opts o = opts_default;

	o.order = IDS_SHARDED;
	o.shards = SHARDS;
	o.window_min = 1;
	o.window_max = 64;
	o.queue_depth = 2;
	run(&o, IDS_TOTAL / 40, "named");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strict_is_greater_than_all_seen_before),
		cmocka_unit_test(test_strict_with_tiny_windows_loses_no_wake_up),
		cmocka_unit_test(test_strict_with_a_rate_cap),
		cmocka_unit_test(test_sharded_is_unique),
		cmocka_unit_test(test_sharded_with_tiny_windows_loses_no_wake_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
