/* Subscribers that pause, at every frame of a history, while retention drops segments and other
 * readers drive what was read out of the reader's cache. Each frame is given once or named by one
 * gap; nothing is given twice, nothing is given after a gap has named it.
 *
 * A round publishes a stream, opens one reader for each place to pause, lets each read up to its
 * place, drops segments, and lets all go on. */
#include "tests/unit/queue/stream_rig.h"

#define FRAMES 1600u
#define READERS FRAMES
#define OFFSETS (10u * FRAMES)
#define OTHER_FRAMES 40u

static struct sub reader[READERS], other;
static bool heavy;

enum keys { RISING, SOME_LATE, LAGGARDS, ANY_ORDER, KEYS };

static uint64_t next_key(enum keys k, uint32_t i)
{
	if (k == SOME_LATE && dice() % 30 == 0)
		return i - (i < 200 ? i : dice() % 200);
	if (k == ANY_ORDER)
		return dice() % FRAMES;
	return k == LAGGARDS && i % 3 == 0 ? i / 2 : i;
}

static void turn_until_idle(void)
{
	while (rig_turn())
		;
}

static void publish_one(const char *name, uint64_t seq_no, uint32_t size)
{
	while (publish((unsigned)(dice() % rig.opts.shards), name, seq_no, 1, size) != STREAM_E_OK)
		rig_turn();
}

/* `n` frames, up to `batch` of them in a record. */
static void publish_frames(enum keys k, uint32_t n, uint32_t batch)
{
	uint32_t first = rig.published;

	for (uint32_t i = 0; i < n; i++) {
		publish_one("a", next_key(k, first + i), 700 + (uint32_t)(dice() % 300));
		if (dice() % batch == 0)
			turn_until_idle();
	}
	turn_until_idle();
}

/* Retention drops the oldest segment of stream "a", if it may. Stream "b" is left alone: the keeper
 * believes that its owner is at it. */
static void drop_a_segment(void)
{
	struct stream *b = streams_at(rig.ss, 1);
	struct stream_stats st;

	assert_string_equal(b->name, "b");
	streams_info(rig.ss, 0, &st);
	assert_string_equal(st.name, "a");
	rig.ss->opts.retain_bytes = st.bytes - 1;
	atomic_store(&b->trim_sent, true);
	keeper_round(rig.ss, 0);
	atomic_store(&b->trim_sent, false);
	rig.ss->opts.retain_bytes = 0;
	turn_until_idle();
}

/* Reads another stream from disk, as many records as it takes to drive everything else out of the
 * reader's places. Its frames have numbers of their own, so they are counted and not looked at. */
static void use_the_cache(void)
{
	struct stream_start st = {.stream = SPAN_LIT("b")};
	struct stream_slice sl;
	enum cursor_state state;
	uint32_t frames = 0;

	assert_int_equal(stream_cursor_open(rig.view[0], &st, &other, &other.cursor), STREAM_E_OK);
	while ((state = stream_cursor_next(other.cursor, 1, &sl)) != CURSOR_CAUGHT_UP) {
		if (state == CURSOR_SLICE) {
			frames += sl.frames;
			stream_slice_put(rig.view[0], &sl);
		} else if (state == CURSOR_COLD) {
			stream_cursor_read(other.cursor);
		}
		rig_turn();
	}
	assert_int_equal(frames, OTHER_FRAMES);
	stream_cursor_close(other.cursor);
	other.cursor = NULL;
}

/* Every record of stream "b" is large enough to be a place of its own. */
static void publish_other(void)
{
	for (uint32_t i = 0; i < OTHER_FRAMES; i++) {
		struct stream_request r = {.stream = SPAN_LIT("b"),
					   .seq_no = i,
					   .timestamp = 1,
					   .payload = {(const uint8_t *)rig.f, 20000}};
		struct stream_publish *p;

		assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_OK);
		stream_publish_detach(p);
		turn_until_idle();
	}
}

/* Segments end at other places than chunks of memory, which bound a step: the border between two of
 * them is in a step, near its beginning or near its end. */
static uint32_t segment_bytes(uint64_t seed)
{
	return SEGMENT_BYTES_MIN + (uint32_t)(seed % 3) * 100000;
}

static void begin(uint64_t seed, enum keys k, unsigned shards, uint32_t batch)
{
	rig_init(seed, shards);
	rig.seen_max = OFFSETS;
	rig.opts.segment_bytes = segment_bytes(seed);
	rig.opts.memory_bytes = 2 * STREAM_UNIT;
	rig.opts.payload_max = 20000;
	rig_open();
	publish_frames(k, FRAMES, batch);
	publish_other();
}

static void all_on_disk(void)
{
	rig_close(true);
	rig_open();
}

/* Takes `n` frames, one by one: a reader may pause after each. */
static void take(struct sub *s, uint64_t n)
{
	for (uint64_t want = s->given + n; s->given < want && !s->caught_up && !s->ended;) {
		sub_pull(s, 1, 1);
		if (!s->ready)
			rig_turn();
	}
}

static void finish(unsigned readers)
{
	rig_settle(reader, readers);
	for (unsigned i = 0; i < readers; i++) {
		assert_false(reader[i].ended);
		assert_true(reader[i].caught_up);
		sub_check(&reader[i], rig.top);
		sub_close(&reader[i]);
		free(reader[i].seen);
		reader[i].seen = NULL;
	}
	rig_turn();
	rig_close(true);
}

/* A reader for each frame: it pauses there, and retention drops the oldest segments. `resume`: they
 * read by offset. */
static void paused_at_each_frame(uint64_t seed, enum keys k, bool resume, unsigned drops)
{
	unsigned step = heavy ? 1 : 17, readers = 0;

	begin(seed, k, 1 + seed % 2, 1 + (uint32_t)(seed % 40));
	all_on_disk();
	for (uint32_t at = (uint32_t)(seed % step); at < FRAMES; at += step) {
		struct sub *s = &reader[readers++];

		sub_open(s, 0, "a", 0, resume ? 1 : 0);
		take(s, at);
	}
	for (unsigned i = 0; i < drops; i++)
		drop_a_segment();
	use_the_cache();
	finish(readers);
}

static void test_a_reader_paused_behind_a_segments_border_gets_nothing_twice(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 8 : 3); seed++)
		for (unsigned drops = 1; drops <= 3; drops++)
			paused_at_each_frame(seed, RISING, false, drops);
}

static void test_a_reader_paused_among_late_frames_gets_nothing_twice(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 6 : 2); seed++) {
		paused_at_each_frame(seed, SOME_LATE, false, 1 + seed % 3);
		paused_at_each_frame(seed, LAGGARDS, false, 1 + seed % 3);
		paused_at_each_frame(seed, ANY_ORDER, false, 1 + seed % 3);
	}
}

static void test_a_reader_that_resumed_and_paused_gets_nothing_twice(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 6 : 2); seed++)
		paused_at_each_frame(seed, seed % 2 ? RISING : SOME_LATE, true, 1 + seed % 3);
}

/* Retention, publishes, other readers and pauses in any order; part of the history is in memory
 * when it is planned. */
static void random_order(uint64_t seed, enum keys k, enum stream_durability durability)
{
	enum { N = 24 };

	rig_init(seed, 1 + seed % 3);
	rig.seen_max = OFFSETS;
	rig.opts.durability = durability;
	rig.opts.segment_bytes = segment_bytes(seed);
	rig.opts.memory_bytes = 2 * STREAM_UNIT;
	rig.opts.payload_max = 20000;
	rig_open();
	publish_frames(k, FRAMES, 1 + (uint32_t)(dice() % 40));
	publish_other();
	if (dice() % 2 == 0 && durability != STREAM_MEMORY)
		all_on_disk();
	for (unsigned i = 0; i < N; i++)
		sub_open(&reader[i], (unsigned)(dice() % rig.opts.shards), "a", dice() % 3 ? 0 : dice() % FRAMES,
			 dice() % 4 ? 0 : 1 + dice() % FRAMES);
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned i = 0; i < N; i++)
			if (dice() % 2 == 0)
				take(&reader[i], dice() % 120);
		switch (dice() % 4) {
		case 0:
			if (durability != STREAM_MEMORY)
				drop_a_segment();
			break;
		case 1:
			publish_frames(k, (uint32_t)(dice() % 200), 1 + (uint32_t)(dice() % 40));
			break;
		case 2:
			if (durability != STREAM_MEMORY)
				use_the_cache();
			break;
		default:
			rig_turn();
		}
	}
	finish(N);
}

static void test_pauses_retention_and_other_readers_in_any_order(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 400 : 15); seed++)
		random_order(seed, (enum keys)(seed % KEYS), STREAM_FSYNC);
}

static void test_pauses_while_a_stream_of_memory_loses_its_oldest_frames(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 200 : 9); seed++)
		random_order(1000 + seed, (enum keys)(seed % KEYS), STREAM_MEMORY);
}

static uint32_t newest_segment_bytes(void)
{
	struct jsegment seg[64];
	uint32_t n = jlog_segments(streams_at(rig.ss, 0)->log, seg, ARRAY_SIZE(seg));

	assert_in_range(n, 1, ARRAY_SIZE(seg));
	return (uint32_t)seg[n - 1].end;
}

/* Retention may drop every segment that holds frames: the newest has the journal's own records
 * alone. A reader that paused is told that the rest is gone, and gets what comes later, from memory
 * or from disk. */
static void paused_until_nothing_is_left(bool resume)
{
	enum { N = 12 };
	struct stream_stats st;

	begin(7, RISING, 1, 10);
	while (newest_segment_bytes() < SEGMENT_BYTES_MIN)
		publish_frames(RISING, 10, 5);
	rig_close(true);
	/* what trims is written to a segment of its own, since the newest is larger */
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig_open();
	for (unsigned i = 0; i < N; i++) {
		sub_open(&reader[i], 0, "a", 0, resume ? 1 : 0);
		take(&reader[i], i * (FRAMES / N));
	}
	for (unsigned i = 0; i < 12; i++)
		drop_a_segment();
	use_the_cache();
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.frames, 0);
	rig_settle(reader, N / 2);
	publish_frames(RISING, FRAMES, 10); /* more than memory holds */
	finish(N);
}

static void test_a_reader_that_paused_until_nothing_is_left_is_told_so(void **state)
{
	(void)state;
	paused_until_nothing_is_left(false);
	paused_until_nothing_is_left(true);
}

int main(void)
{
	const char *env = getenv("ORDINAL_HEAVY");

	heavy = env != NULL && strcmp(env, "1") == 0;
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_reader_paused_behind_a_segments_border_gets_nothing_twice),
		cmocka_unit_test(test_a_reader_paused_among_late_frames_gets_nothing_twice),
		cmocka_unit_test(test_a_reader_that_resumed_and_paused_gets_nothing_twice),
		cmocka_unit_test(test_pauses_retention_and_other_readers_in_any_order),
		cmocka_unit_test(test_a_reader_that_paused_until_nothing_is_left_is_told_so),
		cmocka_unit_test(test_pauses_while_a_stream_of_memory_loses_its_oldest_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
