/* A stream's incarnation, over restarts, kills and power cuts; and cursors that go on where they
 * were: they are told what they go on with, or that the stream does not have what they have read.
 */
#include "tests/unit/queue/stream_rig.h"

#include <inttypes.h>

static struct sub sub;

static void turn_until_idle(void)
{
	while (rig_turn())
		;
}

static void put(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		while (publish((unsigned)(dice() % rig.opts.shards), "a", i, 1, 400) != STREAM_E_OK)
			rig_turn();
		if (i % 8 == 0)
			turn_until_idle();
	}
	rig_settle(NULL, 0);
}

static void begin(uint64_t seed, enum stream_durability durability)
{
	rig_init(seed, 1 + seed % 3);
	rig.opts.durability = durability;
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig_open();
}

enum stop { CLEAN, KILLED, POWER_CUT };

static void restart(enum stop how)
{
	rig_close(how == CLEAN);
	if (how == POWER_CUT) {
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_RANDOM, 0);
	}
	rig_open();
}

static uint64_t incarnation(void)
{
	struct stream_stats st;

	streams_info(rig.ss, 0, &st);
	assert_string_equal(st.name, "a");
	assert_int_not_equal(st.incarnation, 0);
	assert_true(st.incarnation == stream_incarnation(streams_at(rig.ss, 0)));
	return st.incarnation;
}

static void test_a_stream_that_is_synced_keeps_its_incarnation(void **state)
{
	uint64_t first;

	(void)state;
	begin(1, STREAM_FSYNC);
	put(50);
	first = incarnation();
	for (unsigned i = 0; i < 9; i++) {
		restart(i % 3 == 0 ? CLEAN : i % 3 == 1 ? KILLED : POWER_CUT);
		assert_true(incarnation() == first);
		put(20);
	}
	rig_close(true);
}

static void test_a_stream_of_memory_has_another_incarnation_after_each_start(void **state)
{
	uint64_t seen[4];

	(void)state;
	begin(2, STREAM_MEMORY);
	for (unsigned i = 0; i < 4; i++) {
		rig_close(true);
		rig_open();
		put(5);
		seen[i] = incarnation();
		for (unsigned k = 0; k < i; k++)
			assert_true(seen[k] != seen[i]);
		memset(rig.by_offset, 0, 16 * sizeof *rig.by_offset); /* offsets begin again */
	}
	rig_close(true);
}

/* Frames that are told as soon as they are written: the machine's death may take some of them, a
 * process's own does not. */
static void test_a_stream_that_is_written_has_another_incarnation_after_a_power_cut(void **state)
{
	uint64_t was;

	(void)state;
	for (unsigned round = 0; round < 8; round++) {
		begin(3 + round, STREAM_WRITE);
		put(30);
		was = incarnation();
		restart(CLEAN);
		assert_true(incarnation() == was);
		rig_close(true); /* a clean stop, and a boot */
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_NONE, 0);
		rig_open();
		assert_true(incarnation() == was);
		restart(KILLED);
		assert_true(incarnation() == was);
		rig_close(false);
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_RANDOM, 0);
		/* a start that gets no further than to open, and ends in good order */
		if (round % 2 == 1) {
			struct journal_opts jo = {
				.dir = "sim", .group_max = 1u << 20, .method = JOURNAL_FDATASYNC, .disk = &rig.disk};

			assert_int_equal(journal_open(&jo, &rig.j, &rig.why), 0);
			assert_int_equal(journal_close(rig.j), 0);
		}
		if (round >= 4) /* what it is from now on makes no difference to what it was */
			rig.opts.durability = STREAM_FSYNC;
		rig_open();
		assert_true(incarnation() != was);
		was = incarnation();
		restart(KILLED);
		assert_true(incarnation() == was);
		if (round >= 4) {
			restart(POWER_CUT);
			assert_true(incarnation() == was);
		}
		rig_close(true);
	}
}

/* ---- going on ---- */

static void open_at(uint64_t offset, uint64_t number, bool tell)
{
	struct stream_start st = {.stream = SPAN_LIT("a"), .offset = offset, .incarnation = number, .tell_begin = tell};

	assert_int_equal(stream_cursor_open(rig.view[dice() % rig.opts.shards], &st, &sub, &sub.cursor), STREAM_E_OK);
	sub.view = sub.cursor->view->shard;
}

/* The next thing that is not a wait. */
static enum cursor_state next(struct stream_slice *ret)
{
	for (unsigned i = 0; i < 1000; i++) {
		enum cursor_state st = stream_cursor_next(sub.cursor, 1, ret);

		if (st == CURSOR_COLD)
			stream_cursor_read(sub.cursor);
		else if (st != CURSOR_WAIT)
			return st;
		rig_turn();
	}
	fail_msg("nothing comes");
	return CURSOR_ENDED;
}

static void close_it(void)
{
	stream_cursor_close(sub.cursor);
	sub.cursor = NULL;
	turn_until_idle();
}

static void assert_first_frame(uint64_t offset)
{
	struct stream_slice sl;
	struct frame f;
	size_t size;

	assert_int_equal(next(&sl), CURSOR_SLICE);
	assert_int_equal(frame_get((struct span){sl.p, sl.n}, &f, &size), 0);
	assert_int_equal(f.offset, offset);
	assert_int_equal(f.incarnation, 0);
	stream_slice_put(rig.view[sub.view], &sl);
}

static void assert_begun(uint64_t offset)
{
	struct stream_slice sl;

	assert_int_equal(next(&sl), CURSOR_BEGUN);
	assert_int_equal(sl.next_offset, offset);
}

static void assert_refused(enum stream_error e, const char *words, uint64_t number)
{
	char digits[24];
	struct stream_slice sl;

	snprintf(digits, sizeof digits, "%" PRIu64, number);
	assert_int_equal(next(&sl), CURSOR_ENDED);
	assert_int_equal(stream_cursor_error(sub.cursor), e);
	assert_non_null(strstr(stream_cursor_why(sub.cursor), words));
	assert_non_null(strstr(stream_cursor_why(sub.cursor), digits));
	assert_non_null(strstr(stream_cursor_why(sub.cursor), "replay_seq_no_start"));
	close_it();
}

static void test_going_on_in_the_same_incarnation(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		begin(30 + i, i % 2 ? STREAM_MEMORY : STREAM_FSYNC);
		put(10);
		open_at(4, i < 3 ? incarnation() : 0, i % 3 == 0);
		assert_begun(4);
		assert_first_frame(4);
		close_it();
		open_at(0, incarnation(), false);
		assert_first_frame(1); /* nothing was asked for */
		close_it();
		open_at(0, 0, true);
		assert_begun(0);
		assert_first_frame(1);
		close_it();
		rig_close(true);
	}
}

static void test_going_on_in_another_incarnation_is_refused(void **state)
{
	(void)state;
	begin(40, STREAM_FSYNC);
	put(10);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t other = incarnation() ^ 1;

		open_at(i == 0 ? 4 : i == 1 ? 0 : 1000, other, false);
		assert_refused(STREAM_E_INCARNATION, "incarnation", other);
		open_at(i == 0 ? 4 : i == 1 ? 0 : 1000, other, true);
		assert_refused(STREAM_E_INCARNATION, "incarnation", incarnation());
	}
	rig_close(true);
}

static void test_an_offset_beyond_the_end_is_refused(void **state)
{
	struct stream_slice sl;

	(void)state;
	for (unsigned n = 0; n < 20; n += 6) {
		begin(50 + n, n % 4 ? STREAM_MEMORY : STREAM_FSYNC);
		put(1);
		put(n);
		n += 1;
		open_at(n + 2, 0, false);
		assert_refused(STREAM_E_BEYOND, "resume_offset", n);
		open_at(UINT64_MAX, incarnation(), false);
		assert_refused(STREAM_E_BEYOND, "ends", n);
		open_at(n + 1, 0, false); /* the next one that will come */
		assert_begun(n + 1);
		assert_int_equal(next(&sl), CURSOR_CAUGHT_UP);
		put(1);
		assert_first_frame(n + 1);
		close_it();
		n -= 1;
		rig_close(true);
	}
}

/* The end is what subscribers may see: a frame that is not durable yet does not count. */
static void test_the_end_is_that_of_what_is_durable(void **state)
{
	struct stream_publish *p;
	struct stream_request r = {.stream = SPAN_LIT("a"), .seq_no = 1, .timestamp = 1, .payload = SPAN_LIT("x")};
	struct stream_slice sl;

	(void)state;
	begin(60, STREAM_FSYNC);
	put(10);
	rig.opts.shards = 1 + 60 % 3;
	assert_int_equal(streams_publish(rig.view[streams_at(rig.ss, 0)->owner], &r, NULL, &p), STREAM_E_OK);
	stream_publish_detach(p);
	struct stream_start st = {.stream = SPAN_LIT("a"), .offset = 12};
	assert_int_equal(stream_cursor_open(rig.view[streams_at(rig.ss, 0)->owner], &st, &sub, &sub.cursor),
			 STREAM_E_OK);
	assert_int_equal(stream_cursor_next(sub.cursor, 1, &sl), CURSOR_ENDED);
	assert_int_equal(stream_cursor_error(sub.cursor), STREAM_E_BEYOND);
	stream_cursor_close(sub.cursor);
	st.offset = 11;
	assert_int_equal(stream_cursor_open(rig.view[streams_at(rig.ss, 0)->owner], &st, &sub, &sub.cursor),
			 STREAM_E_OK);
	assert_int_equal(stream_cursor_next(sub.cursor, 1, &sl), CURSOR_BEGUN);
	assert_int_equal(sl.next_offset, 11);
	close_it();
	rig_close(true);
}

static uint32_t newest_segment_bytes(void)
{
	struct jsegment seg[64];
	uint32_t n = jlog_segments(streams_at(rig.ss, 0)->log, seg, ARRAY_SIZE(seg));

	assert_in_range(n, 1, ARRAY_SIZE(seg));
	return (uint32_t)seg[n - 1].end;
}

static void retain(uint64_t bytes)
{
	for (unsigned i = 0; i < 8; i++) {
		rig.ss->opts.retain_bytes = bytes;
		keeper_round(rig.ss, 0);
		turn_until_idle();
	}
}

/* Retention has dropped what is to be gone on with: first comes the offset from which frames
 * follow, then the gap. */
static void test_what_is_gone_is_named_behind_where_it_goes_on(void **state)
{
	struct stream_stats st;
	struct stream_slice sl;

	(void)state;
	begin(70, STREAM_FSYNC);
	put(3000);
	retain(600000);
	streams_info(rig.ss, 0, &st);
	assert_true(st.first_offset > 100 && st.first_offset < 3001);
	open_at(7, incarnation(), false);
	assert_begun(st.first_offset);
	assert_int_equal(next(&sl), CURSOR_GAP);
	assert_true(sl.gap_from == 7 && sl.gap_to == st.first_offset - 1);
	assert_first_frame(st.first_offset);
	close_it();
	rig_close(true);
}

static void test_a_stream_of_which_nothing_is_left_is_gone_on_with(void **state)
{
	struct stream_stats st;
	struct stream_slice sl;
	uint64_t was;

	(void)state;
	begin(71, STREAM_FSYNC);
	rig_close(true);
	rig.opts.segment_bytes = 2 * SEGMENT_BYTES_MIN;
	rig_open();
	put(1500);
	while (newest_segment_bytes() < SEGMENT_BYTES_MIN)
		put(10);
	was = incarnation();
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN; /* what is written next begins a segment */
	restart(CLEAN);
	retain(1);
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.frames, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(incarnation() == was);
		open_at(7, was, false);
		assert_begun(st.next_offset);
		assert_int_equal(next(&sl), CURSOR_GAP);
		assert_true(sl.gap_from == 7 && sl.gap_to == st.next_offset - 1);
		assert_int_equal(next(&sl), CURSOR_CAUGHT_UP);
		close_it();
		open_at(st.next_offset + 1, was, false);
		assert_refused(STREAM_E_BEYOND, "ends", st.next_offset - 1);
		restart(KILLED);
	}
	rig_close(true);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_stream_that_is_synced_keeps_its_incarnation),
		cmocka_unit_test(test_a_stream_of_memory_has_another_incarnation_after_each_start),
		cmocka_unit_test(test_a_stream_that_is_written_has_another_incarnation_after_a_power_cut),
		cmocka_unit_test(test_going_on_in_the_same_incarnation),
		cmocka_unit_test(test_going_on_in_another_incarnation_is_refused),
		cmocka_unit_test(test_an_offset_beyond_the_end_is_refused),
		cmocka_unit_test(test_the_end_is_that_of_what_is_durable),
		cmocka_unit_test(test_what_is_gone_is_named_behind_where_it_goes_on),
		cmocka_unit_test(test_a_stream_of_which_nothing_is_left_is_gone_on_with),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
