/* Sequences, views and a producer without a thread, on the fake journal and a clock that the test turns.
 * Include once. */
#ifndef ORDINAL_TESTS_IDS_HARNESS_H
#define ORDINAL_TESTS_IDS_HARNESS_H

#include "queue/ids_record.h"
#include "queue/ids_view.h"
#include "queue/producer.h"
#include "tests/unit/queue/fake_journal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
/* after those */
#include <cmocka.h>

#define BENCH_SHARDS 4

struct call {
	struct ids_wait w;
	uint64_t first, incarnation;
	uint32_t count;
	unsigned order; /* 1: answered or refused first */
	enum ids_error refused;
	bool answered;
	/* in the answer: */
	struct call *cancels, *requests;
	uint32_t requests_count;
};

static struct {
	struct journal *journal;
	struct ids *ids;
	struct ids_view *view[BENCH_SHARDS];
	struct doorbell bell[BENCH_SHARDS];
	unsigned shards, order;
	uint64_t now_ns;
	struct ids_view *turning;
} t;

static const struct ids_opts opts_default = {
	.shards = 1,
	.order = IDS_STRICT,
	.window_min = 100,
	.window_max = 100000,
	.window_target_ms = 100,
	.queue_depth = 64,
	.sequences_max = 8,
	.create = true,
	.count_max = 10000,
};

static inline void bench_open(const struct ids_opts *opts)
{
	const char *why = "";

	assert_int_equal(journal_open(NULL, &t.journal, NULL), 0);
	assert_int_equal(ids_open(opts, t.journal, &t.ids, &why), 0);
	t.shards = opts->shards;
	t.order = 0;
	t.now_ns = 1000 * NS_PER_S;
	for (unsigned i = 0; i < t.shards; i++) {
		assert_int_equal(doorbell_init(&t.bell[i]), 0);
		t.view[i] = ids_view_new(t.ids, i, &t.bell[i]);
		assert_non_null(t.view[i]);
	}
}

static inline void bench_close(bool clean)
{
	if (clean) {
		fake.mode = FAKE_IMMEDIATE; /* producer_finish waits */
		fake_sync();
		producer_finish(t.ids->producer);
	}
	for (unsigned i = 0; i < t.shards; i++) {
		ids_view_free(t.view[i]);
		doorbell_done(&t.bell[i]);
	}
	ids_free(t.ids);
	t.ids = NULL;
	assert_false(fake.changed);
}

static inline struct span str(const char *s)
{
	return (struct span){(const uint8_t *)s, strlen(s)};
}

static inline enum ids_error ask(unsigned shard, struct call *c, const char *name, uint32_t count)
{
	enum ids_error e;

	c->answered = false;
	c->refused = IDS_E_OK;
	c->count = count;
	e = ids_view_request(t.view[shard], &c->w, str(name), count);
	if (e == IDS_E_OK)
		assert_non_null(c->w.next);
	else
		assert_null(c->w.next);
	return e;
}

static inline void on_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct call *c = container_of(w, struct call, w);

	assert_null(w->next);
	assert_false(c->answered);
	c->answered = true;
	c->first = first;
	assert_int_not_equal(incarnation, 0);
	c->incarnation = incarnation;
	c->order = ++t.order;
	if (c->cancels)
		ids_view_cancel(t.turning, &c->cancels->w);
	if (c->requests)
		assert_int_equal(ids_view_request(t.turning, &c->requests->w, str(""), c->requests_count), IDS_E_OK);
}

static inline void on_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	struct call *c = container_of(w, struct call, w);

	assert_null(w->next);
	c->refused = why;
	c->order = ++t.order;
}

static const struct ids_view_ops bench_ops = {on_answer, on_refused};

static inline void turn(unsigned shard)
{
	t.turning = t.view[shard];
	ids_view_turn(t.view[shard], &bench_ops, NULL);
}

static inline uint64_t produce(void)
{
	return producer_turn(t.ids->producer, t.now_ns);
}

static inline bool bench_busy(void)
{
	for (unsigned i = 0; i < t.shards; i++)
		if (ids_view_has_work(t.view[i]))
			return true;
	return producer_has_work(t.ids->producer);
}

/* Everybody runs until nobody has anything to do. Returns when the producer wants to be called again. */
static inline uint64_t settle(void)
{
	uint64_t due;
	unsigned rounds = 0;

	do {
		for (unsigned i = 0; i < t.shards; i++)
			turn(i);
		due = produce();
		assert_true(++rounds < 10000);
	} while (bench_busy());
	return due;
}

static inline uint64_t next_of(uint32_t slot)
{
	struct ids_sequence_info info;

	assert_true(ids_sequence_info(t.ids, slot, &info));
	return info.next;
}

static inline uint64_t durable_of(uint32_t slot)
{
	struct ids_sequence_info info;

	assert_true(ids_sequence_info(t.ids, slot, &info));
	return info.durable_end;
}

#endif
