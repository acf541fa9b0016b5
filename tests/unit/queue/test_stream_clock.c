/* Timestamps that the server gives never fall within a stream, whatever its clock does: it is set
 * back while the stream is used, between two starts, and while retention has dropped every frame.
 * Publishers' own timestamps are kept as they are, and do not move the server's. */
#include "core/base/clock.h"
#include "tests/unit/queue/stream_rig.h"

static int64_t wall_ns;
static uint64_t mono_ns = NS_PER_S;

int64_t clock_wall_ns(void)
{
	return wall_ns;
}

uint64_t clock_mono_ns(void)
{
	return mono_ns += 1000;
}

uint64_t clock_thread_cpu_ns(void)
{
	return 0;
}

static struct stream_answer answer;
static bool answered;
static struct sub sub;

static void on_answer(void *ctx, void *user, const struct stream_answer *a)
{
	(void)ctx;
	(void)user;
	answer = *a;
	answered = true;
}

static void on_no_answer(void *ctx, void *user, enum stream_error why)
{
	(void)ctx;
	(void)user;
	fail_msg("a publish was refused: %d", (int)why);
}

static const struct streams_view_ops ops = {on_answer, on_no_answer, on_ready};

static void turn_all(void)
{
	bool w;

	for (unsigned i = 0; i < rig.opts.shards; i++)
		streams_view_turn(rig.view[i], &ops, NULL);
	keeper_turn(rig.ss);
	reader_turn(rig.ss);
	journal_turn(rig.j, &w);
}

/* Through any shard. Returns the frame's timestamp. */
static int64_t put(int64_t timestamp)
{
	static const uint8_t payload[3000];
	struct stream_request r = {
		.stream = SPAN_LIT("a"), .seq_no = 1, .timestamp = timestamp, .payload = {payload, sizeof payload}};
	struct stream_publish *p;

	answered = false;
	assert_int_equal(streams_publish(rig.view[dice() % rig.opts.shards], &r, NULL, &p), STREAM_E_OK);
	while (!answered)
		turn_all();
	return answer.timestamp;
}

static void begin(uint64_t seed, unsigned shards, enum stream_durability durability)
{
	rig_init(seed, shards);
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig.opts.durability = durability;
	rig_open();
}

static void restart(bool clean, unsigned shards)
{
	rig_close(clean);
	rig.opts.shards = shards;
	rig_open();
}

static void test_a_clock_that_is_set_back(void **state)
{
	static const enum stream_durability durability[] = {STREAM_FSYNC, STREAM_WRITE, STREAM_MEMORY};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(durability); i++) {
		begin(i, 1 + i, durability[i]);
		wall_ns = 5000;
		assert_int_equal(put(0), 5000);
		wall_ns = 6000;
		assert_int_equal(put(0), 6000);
		wall_ns = 1000; /* set back */
		assert_int_equal(put(0), 6000);
		assert_int_equal(put(0), 6000);
		wall_ns = 6001;
		assert_int_equal(put(0), 6001);
		rig_close(true);
	}
}

static void test_publishers_timestamps_are_their_own(void **state)
{
	(void)state;
	begin(7, 2, STREAM_FSYNC);
	wall_ns = 5000;
	assert_int_equal(put(0), 5000);
	assert_int_equal(put(900000), 900000); /* far ahead: the server's are not dragged along */
	assert_int_equal(put(0), 5000);
	assert_int_equal(put(3), 3); /* far behind: kept as it is */
	assert_int_equal(put(-3), -3);
	wall_ns = 4000;
	assert_int_equal(put(0), 5000);
	restart(false, 1);
	assert_int_equal(put(0), 5000);
	wall_ns = 5001;
	assert_int_equal(put(0), 5001);
	rig_close(true);
}

static void test_a_clock_that_is_set_back_between_two_starts(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 12; round++) {
		int64_t given;

		begin(round, 1 + round % 3, round % 2 ? STREAM_WRITE : STREAM_FSYNC);
		wall_ns = 1000000;
		for (unsigned i = 0; i < 20; i++) {
			wall_ns += 100;
			given = put(0);
			put(wall_ns + 777777);
		}
		assert_int_equal(given, wall_ns);
		wall_ns = 500;
		restart(round % 4 < 2, 1 + (round + 1) % 3); /* other shards own it */
		assert_int_equal(put(0), given);
		rig_close(true);
	}
}

/* Nothing of the frames is left, and what was given is known all the same. */
static void test_a_clock_that_is_set_back_after_retention_dropped_all(void **state)
{
	struct stream_stats st;

	(void)state;
	begin(3, 1, STREAM_FSYNC);
	wall_ns = 1000000;
	for (unsigned i = 0; i < 400; i++)
		put(0);
	for (unsigned k = 0; k < 6; k++) {
		restart(true, 1);
		rig.ss->opts.retain_seconds = 1;
		keeper_round(rig.ss, INT64_MAX);
		for (unsigned i = 0; i < 20; i++)
			turn_all();
		streams_info(rig.ss, 0, &st);
	}
	assert_true(st.first_offset > 100);
	wall_ns = 10;
	assert_int_equal(put(0), 1000000);
	rig_close(true);
}

/* Frames with equal seq_no that the server has stamped: history gives them in the order in which
 * they came live. */
static void test_history_and_live_agree(void **state)
{
	uint64_t last = 0;

	(void)state;
	begin(9, 2, STREAM_FSYNC);
	for (unsigned i = 0; i < 300; i++) {
		wall_ns = 1000000 + (int64_t)(dice() % 1000000); /* to and fro */
		put(0);
	}
	struct stream_start start = {.stream = SPAN_LIT("a")};
	assert_int_equal(stream_cursor_open(rig.view[0], &start, &sub, &sub.cursor), STREAM_E_OK);
	for (bool done = false; !done;) {
		struct stream_slice sl;

		switch (stream_cursor_next(sub.cursor, 1, &sl)) {
		case CURSOR_SLICE: {
			struct frame f;
			size_t size;

			assert_int_equal(frame_get((struct span){sl.p, sl.n}, &f, &size), 0);
			assert_int_equal(f.offset, last + 1);
			last = f.offset;
			stream_slice_put(rig.view[0], &sl);
			break;
		}
		case CURSOR_CAUGHT_UP:
			done = true;
			break;
		default:
			turn_all();
		}
	}
	assert_int_equal(last, 300);
	sub_close(&sub);
	rig_close(true);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_clock_that_is_set_back),
		cmocka_unit_test(test_publishers_timestamps_are_their_own),
		cmocka_unit_test(test_a_clock_that_is_set_back_between_two_starts),
		cmocka_unit_test(test_a_clock_that_is_set_back_after_retention_dropped_all),
		cmocka_unit_test(test_history_and_live_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
