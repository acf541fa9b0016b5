/* Streams against a model: random interleavings of publishes (out of order, equal keys, large and small), subscribes, disconnects, retention and restarts.
 * Every subscriber gets each frame once, in the promised order, byte for byte; what is gone is named. */
#include "tests/unit/queue/stream_rig.h"

#define SUBS 6

enum pattern { RISING, MOSTLY_RISING, ALL_EQUAL, RANDOM, FALLING, LAGGARDS };

static void next_key(enum pattern p, uint32_t i, uint64_t *ret_seq, int64_t *ret_ts)
{
	uint64_t d = dice();

	*ret_ts = 1 + (int64_t)(d >> 32) % 5;
	switch (p) {
	case RISING:
		*ret_seq = i;
		break;
	case MOSTLY_RISING:
		*ret_seq = d % 20 == 0 ? i - (i < 300 ? i : dice() % 300) : i;
		break;
	case ALL_EQUAL:
		*ret_seq = 7;
		*ret_ts = 9;
		break;
	case RANDOM:
		*ret_seq = d % 5000;
		break;
	case FALLING:
		*ret_seq = RIG_FRAMES_MAX - i;
		break;
	case LAGGARDS: /* one publisher of three is far behind */
		*ret_seq = i % 3 == 0 ? i / 2 : i;
		break;
	}
}

static uint32_t next_size(void)
{
	uint64_t d = dice();

	if (d % 4000 == 0)
		return (uint32_t)(dice() % RIG_PAYLOAD_MAX);
	return (uint32_t)(d >> 20) % 90;
}

static uint64_t next_start(enum pattern p, uint32_t i)
{
	uint64_t seq;
	int64_t ts;

	if (dice() % 4 == 0)
		return 0;
	next_key(p, (uint32_t)(dice() % (i + 100)), &seq, &ts);
	return seq;
}

static void open_one(struct sub *s, enum pattern p, uint32_t i)
{
	uint64_t resume = dice() % 3 == 0 && rig.top > 0 ? 1 + dice() % rig.top : 0;

	sub_open(s, (unsigned)(dice() % rig.opts.shards), "a", next_start(p, i), resume);
}

static void restart(struct sub *subs, bool clean)
{
	rig_settle(subs, SUBS);
	for (unsigned k = 0; k < SUBS; k++) {
		if (subs[k].cursor != NULL)
			sub_check(&subs[k], rig.top);
		sub_close(&subs[k]);
	}
	rig_turn();
	rig_close(clean);
	if (!clean) {
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_RANDOM, 0);
	}
	rig_open();
}

/* The run was about what it should have been about. */
static void check_figures(bool retention)
{
	struct stream_stats st;

	streams_info(rig.ss, 0, &st);
	assert_string_equal(st.name, "a");
	assert_int_equal(st.durable_offset, rig.top);
	assert_int_equal(st.next_offset, rig.top + 1);
	assert_int_equal(st.frames, rig.top - st.first_offset + 1);
	assert_int_equal(st.cursors, SUBS);
	assert_int_equal(st.live_cursors, SUBS);
	assert_true(st.reads_memory > 0);
	assert_true(st.reads_disk > 0);
	assert_true(st.memory_bytes <= rig.opts.memory_bytes);
	assert_int_equal(st.damaged, 0);
	if (retention) {
		assert_true(st.first_offset > 1);
		assert_true(st.bytes < 6u << 20);
	} else {
		assert_int_equal(st.first_offset, 1);
		assert_int_equal(st.gaps, 0);
	}
}

static void live(enum pattern p, uint32_t frames, unsigned restarts, unsigned shards, bool retention)
{
	static struct sub subs[SUBS];
	uint32_t every = frames / (restarts + 1) + 1;

	rig_init(p * 1000 + frames, shards);
	if (retention)
		rig.opts.retain_bytes = 3u << 20;
	rig_open();
	for (uint32_t i = 0; i < frames; i++) {
		uint64_t seq;
		int64_t ts;
		uint64_t d = dice();

		next_key(p, i, &seq, &ts);
		if (publish(shards == 1 ? 0 : (unsigned)(d % shards), "a", seq, ts, next_size()) == STREAM_E_BUSY)
			rig_settle(subs, SUBS);
		if (d % 64 == 0)
			rig_turn();
		if (d % 4096 == 1) {
			struct sub *s = &subs[(d >> 20) % SUBS];

			if (s->cursor != NULL && dice() % 2 == 0) { /* in the midst of it */
				sub_close(s);
			} else if (s->cursor != NULL) {
				rig_settle(subs, SUBS);
				sub_check(s, rig.top);
				sub_close(s);
			}
			open_one(s, p, i);
		}
		if (d % 256 == 2)
			for (unsigned k = 0; k < SUBS; k++)
				if (subs[k].cursor != NULL && dice() % 2 == 0)
					sub_pull(&subs[k], (unsigned)(dice() % 4), 1 + dice() % 300000);
		if (retention && d % 8192 == 3)
			keeper_round(rig.ss, 0);
		if (i % every == every - 1)
			restart(subs, dice() % 2 == 0);
	}
	for (unsigned k = 0; k < SUBS; k++)
		if (subs[k].cursor == NULL)
			open_one(&subs[k], p, frames);
	rig_settle(subs, SUBS);
	assert_int_equal(rig.top, rig.published);
	check_figures(retention);
	for (unsigned k = 0; k < SUBS; k++) {
		sub_check(&subs[k], rig.top);
		assert_true(subs[k].caught_up);
		if (!retention)
			assert_int_equal(subs[k].gaps, 0);
		sub_close(&subs[k]);
		free(subs[k].seen);
		subs[k].seen = NULL;
	}
	rig_close(true);
}

static void test_rising(void **state)
{
	(void)state;
	live(RISING, 200000, 2, 1, false);
}

static void test_mostly_rising(void **state)
{
	(void)state;
	live(MOSTLY_RISING, 150000, 3, 3, false);
}

static void test_equal_keys_keep_the_order_of_offsets(void **state)
{
	(void)state;
	live(ALL_EQUAL, 60000, 1, 2, false);
}

static void test_random_keys(void **state)
{
	(void)state;
	live(RANDOM, 100000, 2, 3, false);
}

static void test_falling_keys(void **state)
{
	(void)state;
	live(FALLING, 60000, 1, 1, false);
}

static void test_laggards(void **state)
{
	(void)state;
	live(LAGGARDS, 100000, 2, 2, false);
}

static void test_what_retention_drops_is_named(void **state)
{
	(void)state;
	live(MOSTLY_RISING, 150000, 1, 2, true);
	live(RANDOM, 150000, 1, 2, true);
	live(RISING, 150000, 1, 1, true);
	live(FALLING, 100000, 1, 3, true);
}

/* The disk stalls while memory fills up: what is not durable yet stays in memory, and publishes are refused instead. A
 * chunk that was evicted too early was lost to its subscribers, and to the journal, which had yet to write it. */
static void test_a_stalled_disk_keeps_what_is_not_durable_in_memory(void **state)
{
	static struct sub live_sub, late_sub;

	(void)state;
	rig_init(7, 1);
	rig_open();
	sub_open(&live_sub, 0, "a", 0, 0);
	assert_int_equal(publish(0, "a", 1, 1, 10), STREAM_E_OK);
	rig_settle(&live_sub, 1);
	assert_true(live_sub.caught_up);
	for (unsigned round = 0; round < 3; round++) {
		uint32_t answered = rig.answered, busy = 0, before = rig.published;
		uint64_t given = live_sub.given;

		rig.disk_stalls = true;
		for (uint32_t i = 0; i < 3000; i++) {
			busy += publish(0, "a", 2 + rig.published % 50, 1, 20000) == STREAM_E_BUSY;
			rig_turn();
			sub_pull(&live_sub, 10, 100000);
		}
		assert_true(busy > 0 && rig.published > before + 50);
		assert_int_equal(rig.answered, answered);
		assert_int_equal(live_sub.given, given); /* nothing is shown before it is durable */
		rig.disk_stalls = false;
		rig_settle(&live_sub, 1);
		assert_int_equal(rig.top, rig.published);
		sub_check(&live_sub, rig.top);
	}
	sub_close(&live_sub);
	rig_turn();
	rig_close(true);
	rig_open();
	sub_open(&late_sub, 0, "a", 0, 0);
	rig_settle(&late_sub, 1);
	sub_check(&late_sub, rig.top);
	assert_int_equal(late_sub.gaps, 0);
	sub_close(&late_sub);
	rig_turn();
	rig_close(true);
	free(live_sub.seen);
	free(late_sub.seen);
}

/* Each chunk that leaves memory gives back all that it was counted for, also what its frames have left unused: otherwise
 * a stream that has been published to for long refuses every frame. */
static void test_memory_that_chunks_leave_unused_is_given_back(void **state)
{
	static struct sub sub;
	const struct stream_own *o;
	uint64_t caps = 0;

	(void)state;
	rig_init(11, 1);
	rig_open();
	sub_open(&sub, 0, "a", 0, 0);
	for (uint32_t i = 0; i < 1000; i++) {
		assert_int_equal(publish(0, "a", 1 + i, 1, 20000), STREAM_E_OK);
		while (rig_turn())
			;
		sub_pull(&sub, 10, 100000);
	}
	rig_settle(&sub, 1);
	o = &streams_at(rig.ss, 0)->own;
	assert_true(o->oldest->pos > 0); /* chunks have left */
	for (const struct chunk *c = o->oldest; c != NULL; c = c->newer)
		caps += c->cap;
	assert_int_equal(o->memory, caps);
	sub_check(&sub, rig.top);
	sub_close(&sub);
	rig_turn();
	rig_close(true);
	free(sub.seen);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rising),
		cmocka_unit_test(test_mostly_rising),
		cmocka_unit_test(test_equal_keys_keep_the_order_of_offsets),
		cmocka_unit_test(test_random_keys),
		cmocka_unit_test(test_falling_keys),
		cmocka_unit_test(test_laggards),
		cmocka_unit_test(test_what_retention_drops_is_named),
		cmocka_unit_test(test_a_stalled_disk_keeps_what_is_not_durable_in_memory),
		cmocka_unit_test(test_memory_that_chunks_leave_unused_is_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
