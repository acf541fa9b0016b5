/* Retention and restarts: after every decision of retention the stream is opened again and
 * published to, and the power is cut between any two operations of the disk. What the frames that
 * were dropped said must be known all the same: the next offset, the order, publishers' numbers,
 * the incarnation. */
#include "tests/unit/queue/stream_rig.h"

#include <inttypes.h>

#define NAME "a"
#define FAR INT64_MAX /* a time at which everything is old */

static struct sub sub;

/* ---- what has to be so ---- */

static struct known {
	uint64_t incarnation;
	uint64_t trim_to; /* retention has decided to drop what is below */
} known;

static struct stream_answer last_answer;
static bool answered;

static void on_repeat(void *ctx, void *user, const struct stream_answer *a)
{
	(void)ctx;
	(void)user;
	last_answer = *a;
	answered = true;
}

static void on_no_repeat(void *ctx, void *user, enum stream_error why)
{
	(void)ctx;
	(void)user;
	fail_msg("a repeat was refused: %d", (int)why);
}

/* The same frame once more, from the same publisher. */
static void repeat(uint32_t number)
{
	static const struct streams_view_ops ops = {on_repeat, on_no_repeat, on_ready};
	static const char *const publisher[RIG_VIEWS] = {"p0", "p1", "p2"};
	struct stream_request r = {.stream = SPAN_LIT(NAME),
				   .seq_no = rig.f[number].seq_no,
				   .payload = SPAN_LIT("another"),
				   .publisher = {(const uint8_t *)publisher[rig.f[number].view], 2},
				   .publisher_seq = number + 1};
	struct stream_publish *p;
	bool w;

	answered = false;
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_OK);
	while (!answered) {
		for (unsigned i = 0; i < rig.opts.shards; i++)
			streams_view_turn(rig.view[i], &ops, NULL);
		journal_turn(rig.j, &w);
	}
	if (!last_answer.duplicate || last_answer.offset != rig.f[number].offset)
		fail_msg("frame %u, offset %" PRIu64 ": its repeat was answered with offset %" PRIu64 ", duplicate %d",
			 number, rig.f[number].offset, last_answer.offset, last_answer.duplicate);
	assert_int_equal(last_answer.timestamp, rig.f[number].timestamp);
}

/* Of each publisher the latest numbers; some that were not answered may have come between. */
static void check_numbers(void)
{
	uint32_t left[RIG_VIEWS], lost = 0;

	for (uint32_t i = 0; i < rig.published; i++)
		lost += rig.f[i].offset == 0;
	for (unsigned i = 0; i < RIG_VIEWS; i++)
		left[i] = rig.opts.numbers_max > lost ? rig.opts.numbers_max - lost : 0;
	for (uint32_t i = rig.published; i-- > 0;) {
		uint32_t *l = &left[rig.f[i].view];

		if (rig.f[i].offset != 0 && *l > 0) {
			repeat(i);
			--*l;
		}
	}
}

static void check_frames(const struct stream_stats *st)
{
	sub_open(&sub, 0, NAME, 0, 0);
	do {
		rig_turn();
		sub_pull(&sub, 1000, 100000);
	} while (!sub.caught_up && !sub.ended);
	if (sub.ended)
		fail_msg("the subscriber from the start was ended: %d %s", (int)stream_cursor_error(sub.cursor),
			 stream_cursor_why(sub.cursor));
	assert_int_equal(sub.given, st->next_offset - st->first_offset);
	sub_check(&sub, rig.top);
	for (uint64_t o = 1; o < st->next_offset; o++)
		if (rig.by_offset[o] != 0)
			assert_int_equal(sub.seen[o], o < st->first_offset ? 2 : 1);
	sub_close(&sub);
	rig_turn();
}

/* All of it, after an opening; and one more frame is taken. */
static void check(void)
{
	struct stream_stats st;
	uint64_t next;

	assert_int_equal(streams_count(rig.ss), 1);
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.incarnation, stream_incarnation(streams_at(rig.ss, 0)));
	if (known.incarnation == 0)
		known.incarnation = st.incarnation;
	assert_int_not_equal(st.incarnation, 0);
	assert_int_equal(st.incarnation, known.incarnation);
	if (st.next_offset <= rig.top)
		fail_msg("the next offset is %" PRIu64 ", and %" PRIu64 " was acknowledged", st.next_offset, rig.top);
	assert_true(st.first_offset == 1 || st.first_offset <= known.trim_to);
	check_frames(&st);
	check_numbers();
	next = st.next_offset;
	while (publish(0, NAME, dice() % 1000, 1, 10) != STREAM_E_OK)
		rig_turn();
	rig_settle(NULL, 0);
	assert_int_equal(rig.f[rig.published - 1].offset, next);
}

/* ---- steps ---- */

static void start(uint64_t seed)
{
	known = (struct known){0};
	rig_init(seed, 2);
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig.opts.numbers_max = 16;
	rig.opts.retain_seconds = 60;
	rig_open();
}

static void retention_at(int64_t wall_ns)
{
	keeper_round(rig.ss, wall_ns);
	if (streams_count(rig.ss) > 0 && streams_at(rig.ss, 0)->trim_to > known.trim_to)
		known.trim_to = streams_at(rig.ss, 0)->trim_to;
}

static void fill_stream(uint32_t n, uint32_t size)
{
	for (uint32_t i = 0; i < n && !rig.sim.dead; i++) {
		unsigned view = (unsigned)(dice() % rig.opts.shards);

		while (publish(view, NAME, dice() % 1000, 1 + (int64_t)(dice() % 9), size) != STREAM_E_OK)
			rig_turn();
		if (dice() % 2 == 0)
			rig_turn();
	}
}

static const struct jlog *the_log(void)
{
	return streams_at(rig.ss, 0)->log;
}

/* Publishes until the active segment has less room than a trim's record takes. */
static void fill_segment(void)
{
	while (the_log()->segment_bytes - the_log()->tail > 4000) {
		uint32_t room = the_log()->segment_bytes - the_log()->tail - 3000;

		fill_stream(1, room < 100000 ? room : 100000);
		rig_settle(NULL, 0);
	}
	for (uint32_t size = the_log()->segment_bytes - the_log()->tail; the_log()->number > 0; size -= 8) {
		struct frame f = {.seq_no = 999,
				  .timestamp = 9,
				  .offset = rig.top + 1,
				  .payload = {NULL, size},
				  .publisher = SPAN_LIT("p0"),
				  .publisher_seq = rig.published + 1};
		uint32_t bytes = jf_record_size(RECORD_HEAD + (uint32_t)frame_size(&f));

		if (bytes > the_log()->segment_bytes - the_log()->tail)
			continue;
		assert_int_equal(publish(0, NAME, 999, 9, size), STREAM_E_OK);
		rig_settle(NULL, 0);
		break;
	}
	assert_true(the_log()->segment_bytes - the_log()->tail < JLOG_TRIM_BYTES);
}

static void reopen(bool clean)
{
	rig_close(clean);
	if (!clean) {
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_NONE, 0);
	}
	rig_open();
}

/* ---- the tests ---- */

/* A trim that did not fit began a segment that holds nothing else, and the next one dropped all the
 * others: after a restart the stream began at offset 1 again, said that it was kept when it was
 * not, and the daemon ended. */
static void test_offsets_go_on_when_no_frame_is_left(void **state)
{
	struct stream_stats st;

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		start(100 + round);
		fill_stream(3, 100000);
		rig_settle(NULL, 0);
		fill_segment();
		for (unsigned i = 0; i < 3; i++) {
			retention_at(FAR);
			rig_settle(NULL, 0);
		}
		streams_info(rig.ss, 0, &st);
		assert_int_equal(st.frames, 0);
		assert_int_equal(st.first_offset, rig.top + 1);
		for (unsigned i = 0; i < 3; i++) {
			reopen(round % 2 == 0);
			streams_info(rig.ss, 0, &st);
			assert_int_equal(st.next_offset, rig.top + 1);
			if (i < round % 3) /* or open once more first */
				continue;
			check();
		}
		rig_close(true);
	}
}

/* The same without a restart: the next frame goes on in a chunk of memory whose frames are gone from
 * the index. */
static void test_frames_go_on_when_no_frame_is_left(void **state)
{
	struct stream_stats st;

	(void)state;
	start(150);
	for (unsigned round = 0; round < 12; round++) {
		for (unsigned i = 0; i < 2; i++) {
			fill_stream(1 + round % 3, 100);
			rig_settle(NULL, 0);
			fill_segment();
		}
		for (unsigned i = 0; i < 3; i++) {
			retention_at(FAR);
			rig_settle(NULL, 0);
		}
		streams_info(rig.ss, 0, &st);
		assert_int_equal(st.frames, 0);
		check();
	}
	reopen(false);
	check();
	rig_close(true);
}

/* The same with smaller segments than those that are there: the trim begins one. */
static void test_offsets_go_on_when_segments_become_smaller(void **state)
{
	struct stream_stats st;

	(void)state;
	start(200);
	rig_close(true);
	rig.opts.segment_bytes = 1u << 20;
	rig_open();
	fill_stream(16, 100000);
	rig_settle(NULL, 0);
	assert_true(the_log()->tail > SEGMENT_BYTES_MIN);
	rig_close(true);
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig_open();
	for (unsigned i = 0; i < 3; i++) {
		retention_at(FAR);
		rig_settle(NULL, 0);
		reopen(i % 2 == 0);
	}
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.frames, 0);
	check();
	rig_close(true);
}

/* Power cuts at every operation around a trim: a dropped file that is still there is not the
 * stream's any more. */
static void test_segments_that_were_dropped_are_not_read(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
	bool ended = false;

	(void)state;
	for (uint64_t plug = 1; !ended; plug++) {
		for (unsigned k = 0; k < ARRAY_SIZE(keeps); k++) {
			start(300 + plug);
			fill_stream(8, 100000);
			rig_settle(NULL, 0);
			rig.sim.plug_at = rig.sim.ops + plug;
			retention_at(FAR);
			for (unsigned i = 0; i < 40; i++)
				rig_turn();
			ended = !rig.sim.dead;
			rig_close(false);
			rig.sim.dead = true;
			sim_crash(&rig.sim, keeps[k], 0);
			rig_open();
			check();
			rig_close(true);
		}
	}
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_offsets_go_on_when_no_frame_is_left),
		cmocka_unit_test(test_frames_go_on_when_no_frame_is_left),
		cmocka_unit_test(test_offsets_go_on_when_segments_become_smaller),
		cmocka_unit_test(test_segments_that_were_dropped_are_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
