/* Retention and restarts: after every decision of retention the stream is opened again and
 * published to, and the power is cut between any two operations of the disk. What the frames that
 * were dropped said must be known all the same: the next offset, the order, publishers' numbers,
 * the incarnation. */
#include "tests/unit/queue/stream_rig.h"
#include "core/base/clock.h"

#include <inttypes.h>

#define NAME "a"
#define FAR INT64_MAX /* a time at which everything is old */

static struct sub sub;

/* ---- what has to be so ---- */

static struct known {
	uint64_t incarnation;
	uint64_t trim_to; /* retention has decided to drop what is below */
	uint64_t end_pos; /* no frame may begin below */
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
	static const struct streams_view_ops ops = {.published = on_repeat, .refused = on_no_repeat, .ready = on_ready};
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

/* What the owner goes on from. */
static void check_order(void)
{
	const struct stream_own *o = &streams_at(rig.ss, 0)->own;
	uint64_t max_seq = 0;

	for (uint32_t i = 0; i < rig.published; i++)
		if (rig.f[i].offset != 0 && rig.f[i].seq_no > max_seq)
			max_seq = rig.f[i].seq_no;
	assert_true(o->max_seq >= max_seq);
	assert_true(o->end_pos >= known.end_pos);
	assert_int_equal(jlog_durable(streams_at(rig.ss, 0)->log), o->next_offset - 1);
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
	check_order();
	check_frames(&st);
	check_numbers();
	next = st.next_offset;
	while (publish(0, NAME, dice() % 1000, 1, 10) != STREAM_E_OK)
		rig_turn();
	rig_settle(NULL, 0);
	assert_int_equal(rig.f[rig.published - 1].offset, next);
	known.end_pos = streams_at(rig.ss, 0)->own.end_pos;
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

/* Until nobody has anything to do, or the plug is pulled. */
static void rig_settle_alive(void)
{
	for (unsigned i = 0; (rig_turn() || rig.answered < rig.published) && !rig.sim.dead; i++)
		assert_true(i < 100000);
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

/* Retention decides while more is on its way than the journal has taken: the state is of what it
 * has. */
static void test_a_state_in_a_queue_of_frames(void **state)
{
	bool worked;

	(void)state;
	start(400);
	fill_stream(8, 100000);
	rig_settle(NULL, 0);
	for (unsigned i = 0; i < PENDING_MAX + 10; i++) {
		assert_int_equal(publish(0, NAME, i, 1, 100), STREAM_E_OK);
		for (unsigned v = 0; v < rig.opts.shards; v++)
			streams_view_turn(rig.view[v], &rig_ops, NULL);
	}
	retention_at(FAR);
	for (unsigned v = 0; v < rig.opts.shards; v++)
		streams_view_turn(rig.view[v], &rig_ops, NULL);
	do
		journal_turn(rig.j, &worked);
	while (worked);
	reopen(false);
	rig.answered = rig.published;
	check();
	rig_close(true);
}

/* With FEED_DURABILITY=write a kill loses nothing, and a clean stop neither; a power cut loses
 * frames that were acknowledged, and their offsets are given again: in another incarnation.
 * Changing the durability hides none of it. */
static void test_a_power_cut_of_a_stream_that_is_only_written(void **state)
{
	uint64_t before, kept;
	struct stream_stats st;

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		start(700 + round);
		rig_close(true);
		rig.opts.durability = STREAM_WRITE;
		rig_open();
		fill_stream(3, 1000);
		rig_settle(NULL, 0);
		check();
		rig_close(false); /* killed */
		rig_open();
		check();
		rig_close(true);
		sim_crash(&rig.sim, SIM_KEEP_NONE, 0); /* a reboot */
		rig_open();
		check();
		kept = rig.top;
		before = known.incarnation;
		rig_close(false);
		rig_open(); /* reads, writes again and syncs what is there */
		fill_stream(3, 1000);
		rig_settle(NULL, 0);
		assert_int_equal(rig.top, kept + 3);
		rig_close(false);
		rig.sim.dead = true;
		sim_crash(&rig.sim, SIM_KEEP_NONE, 0);
		if (round % 2) { /* the recovery does not come to its end */
			rig.sim.plug_at = rig.sim.ops + 3 + round * 5;
			if (rig_try_open() == 0)
				rig_close(false);
			rig.sim.dead = true;
			sim_crash(&rig.sim, SIM_KEEP_NONE, 0);
		}
		rig.opts.durability = round < 2 ? STREAM_WRITE : STREAM_FSYNC;
		rig_open();
		streams_info(rig.ss, 0, &st);
		assert_in_range(st.next_offset, kept + 1, kept + 4); /* filling ahead may have synced them */
		assert_int_not_equal(st.incarnation, before);
		before = st.incarnation;
		rig_close(true);
		rig_open();
		streams_info(rig.ss, 0, &st);
		assert_int_equal(st.incarnation, before);
		rig_close(true);
	}
}

/* A stream that was on disk and is kept in memory now: its log is trimmed when memory has moved on,
 * and says no more than what it holds. Each life in memory is another one, as its frames are lost;
 * back on disk it is the first one. */
static void test_a_log_behind_a_stream_in_memory(void **state)
{
	uint64_t incarnation, kept, others[3];
	struct stream_stats st;

	(void)state;
	start(600);
	fill_stream(8, 100000);
	rig_settle(NULL, 0);
	check();
	kept = rig.top;
	incarnation = known.incarnation;
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		rig_close(i % 2 == 0);
		rig.opts.durability = STREAM_MEMORY;
		rig_open();
		streams_info(rig.ss, 0, &st);
		others[i] = st.incarnation;
		assert_int_not_equal(st.incarnation, 0);
		assert_int_not_equal(st.incarnation, incarnation);
		assert_true(i == 0 || others[i] != others[i - 1]);
		assert_int_equal(st.next_offset, kept + 1);
		/* these are others */
		memset(rig.by_offset, 0, RIG_FRAMES_MAX * sizeof *rig.by_offset);
		fill_stream(60, 100000);
		rig_settle(NULL, 0);
		streams_info(rig.ss, 0, &st);
		assert_true(st.first_offset > kept + 1);
	}
	reopen(false);
	rig_close(true);
	rig.opts.durability = STREAM_FSYNC;
	rig_open();
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.incarnation, incarnation);
	assert_int_equal(st.next_offset, kept + 1);
	memset(rig.by_offset, 0, RIG_FRAMES_MAX * sizeof *rig.by_offset);
	assert_int_equal(publish(0, NAME, 1, 1, 10), STREAM_E_OK);
	rig_settle(NULL, 0);
	assert_int_equal(rig.f[rig.published - 1].offset, kept + 1);
	reopen(false);
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.next_offset, kept + 2);
	rig_close(true);
}

/* ---- publishers by themselves ---- */

#define FEW 9u /* publishers */

struct used {
	uint32_t publisher;
	uint64_t number;
};

static struct span few_name(uint32_t publisher, char buf[8])
{
	return (struct span){(const uint8_t *)buf, (size_t)snprintf(buf, 8, "p%" PRIu32, publisher)};
}

static void use(struct publishers *ps, const struct used *u, uint64_t offset)
{
	char buf[8];
	struct span name = few_name(u->publisher, buf);

	assert_int_equal(publishers_reserve(ps, u->publisher, name), 0);
	publishers_add(ps, u->publisher, name, u->number, offset, (int64_t)offset * 3);
}

/* Takes in what the records say. */
static void restore(struct publishers *ps, struct span rest)
{
	static struct publisher_number v[8192];
	struct publisher_facts f;

	while (rest.n > 0) {
		assert_true(publishers_take(&rest, &f, v, ARRAY_SIZE(v)));
		assert_int_equal(publishers_restore(ps, (uint64_t)(f.name.p[1] - '0'), &f), 0);
	}
}

static void compare(const struct publishers *a, const struct publishers *b, const uint64_t *last)
{
	char buf[8];

	for (uint32_t i = 0; i < FEW; i++) {
		struct span name = few_name(i, buf);

		for (uint64_t n = 1; n <= last[i] + 1; n++) {
			uint64_t offset[2] = {0, 0};
			int64_t ts[2] = {0, 0};

			if (publishers_find(a, i, name, n, &offset[0], &ts[0]) !=
			    publishers_find(b, i, name, n, &offset[1], &ts[1]))
				fail_msg("publisher %" PRIu32 ", number %" PRIu64 " of %" PRIu64 ": offset %" PRIu64
					 " became %" PRIu64 " (limits %" PRIu32 " %" PRIu32 ")",
					 i, n, last[i], offset[0], offset[1], a->max, a->numbers_max);
			assert_int_equal(offset[0], offset[1]);
			assert_int_equal(ts[0], ts[1]);
		}
	}
}

/* Numbers of frames below `below` from records of any size that were written while publishers went
 * on, the others from the frames: all that was known is known, no more and no less. */
static void test_numbers_from_records_and_frames(void **state)
{
	static uint8_t records[4u << 20];
	static struct used used[20000];

	(void)state;
	rig.seed = 77;
	for (unsigned round = 0; round < 300; round++) {
		struct publishers now = {.max = round % 2 ? FEW : 3, .numbers_max = 1 + (uint32_t)(dice() % 2000)};
		struct publishers then = {.max = now.max, .numbers_max = now.numbers_max};
		uint64_t last[FEW] = {0}, n = 1 + dice() % (round % 10 == 0 ? 9000 : 400), offset = 1, below;
		size_t bytes = 0, cap = 200 + dice() % 40000;

		for (; offset <= n; offset++) {
			used[offset].publisher = (uint32_t)(dice() % FEW * (dice() % 3 > 0));
			used[offset].number = last[used[offset].publisher] += 1 + dice() % 2;
			use(&now, &used[offset], offset);
		}
		below = 1 + dice() % offset;
		publishers_walk(&now);
		while (publishers_walking(&now)) {
			size_t got = publishers_put(&now, below, records + bytes, cap);

			assert_true(got <= cap);
			bytes += got;
			for (uint64_t more = dice() % 4; more > 0; more--, offset++) {
				used[offset].publisher = (uint32_t)(dice() % FEW);
				used[offset].number = last[used[offset].publisher] += 1 + dice() % 2;
				use(&now, &used[offset], offset);
			}
			assert_true(bytes < sizeof records / 2);
		}
		if (round % 4 < 2) { /* the frames after the records, or before and after them */
			restore(&then, (struct span){records, bytes});
			n = below;
		}
		for (uint64_t o = below; o < n; o++)
			use(&then, &used[o], o);
		if (round % 4 >= 2) {
			restore(&then, (struct span){records, bytes});
			n = n > below ? n : below;
		}
		for (uint64_t o = n; o < offset; o++)
			use(&then, &used[o], o);
		compare(&now, &then, last);
		assert_int_equal(now.count, then.count);
		publishers_done(&now);
		publishers_done(&then);
	}
}

/* ---- many publishers ---- */

#define MANY 700u /* publishers, whose numbers take several records and turns */

static struct many {
	uint64_t offset[MANY][64]; /* by number */
} many;

static void on_many(void *ctx, void *user, const struct stream_answer *a)
{
	uint64_t *p = user;

	(void)ctx;
	if (p != NULL)
		*p = a->offset;
	answered = true;
	last_answer = *a;
}

static const struct streams_view_ops many_ops = {on_many, on_no_repeat, on_ready};

static void many_publish(uint32_t publisher, uint64_t number, uint32_t size, uint64_t *ret_offset)
{
	static uint8_t payload[RIG_PAYLOAD_MAX];
	char name[32];
	struct stream_request r = {.stream = SPAN_LIT(NAME),
				   .seq_no = 1,
				   .payload = {payload, size},
				   .publisher = {(const uint8_t *)name, 0},
				   .publisher_seq = number};
	struct stream_publish *p;

	r.publisher.n = (size_t)snprintf(name, sizeof name, "publisher-%" PRIu32, publisher);
	while (streams_publish(rig.view[0], &r, ret_offset, &p) != STREAM_E_OK)
		;
}

static void many_turn(void)
{
	bool worked;

	for (unsigned i = 0; i < rig.opts.shards; i++)
		streams_view_turn(rig.view[i], &many_ops, NULL);
	keeper_turn(rig.ss);
	journal_turn(rig.j, &worked);
}

/* Each of the numbers that have to be known gets its first answer. */
static void many_check(const uint64_t *numbers)
{
	for (uint32_t i = 0; i < MANY; i++) {
		for (uint64_t n = numbers[i]; n > 0 && n + rig.opts.numbers_max > numbers[i]; n--) {
			answered = false;
			many_publish(i, n, 1, NULL);
			while (!answered)
				many_turn();
			if (!last_answer.duplicate || last_answer.offset != many.offset[i][n])
				fail_msg("publisher %" PRIu32 ", number %" PRIu64 " of %" PRIu64 ": offset %" PRIu64
					 " in place of %" PRIu64,
					 i, n, numbers[i], last_answer.offset, many.offset[i][n]);
		}
	}
}

/* The numbers are written while their publishers go on, and segments begin between them; every
 * frame that said them is dropped. */
static void test_numbers_of_many_publishers_stay(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 2; round++) {
		static uint64_t numbers[MANY];

		memset(&many, 0, sizeof many);
		memset(numbers, 0, sizeof numbers);
		start(500 + round);
		rig.opts.numbers_max = 12 + 28 * round;
		rig_close(true);
		rig_open();
		for (unsigned wave = 0; wave < 3; wave++) {
			for (uint32_t k = 0; k < 12 * MANY; k++) {
				uint32_t i = (uint32_t)(dice() % MANY);

				if (numbers[i] + 1 == ARRAY_SIZE(many.offset[0]))
					continue;
				numbers[i]++;
				many_publish(i, numbers[i], (uint32_t)(dice() % 200), &many.offset[i][numbers[i]]);
				if (k % 50 == 0)
					many_turn();
				if (k % 900 == 0)
					retention_at(FAR);
			}
			for (unsigned i = 0; i < 2000; i++)
				many_turn();
			for (unsigned i = 0; i < 3; i++) { /* nobody publishes any more */
				retention_at(FAR);
				for (unsigned k = 0; k < 200; k++)
					many_turn();
			}
			reopen(wave % 2 == 0);
			assert_true(streams_at(rig.ss, 0)->own.trim_offset > 6000 * (wave + 1));
			many_check(numbers);
		}
		rig_close(true);
	}
}

/* ---- what retention decides ---- */

/* The first segment that stays, by the rules in force; segments are dropped whole, from the oldest on,
 * while any rule says so, and never the newest. */
static uint32_t first_to_stay(const struct jsegment *seg, uint32_t n, int64_t wall_ns)
{
	const struct streams_opts *o = &rig.ss->opts;
	uint32_t stays = 0;

	for (uint32_t drop = 1; drop < n; drop++) { /* may the first `drop` of them go? */
		uint64_t bytes = 0, left = seg[n - 1].last_mark - seg[drop - 1].last_mark;
		bool goes = false;

		for (uint32_t i = drop - 1; i < n; i++)
			bytes += (uint32_t)seg[i].end;
		goes = goes || (o->retain_bytes > 0 && bytes > o->retain_bytes);
		goes = goes || (o->retain_frames > 0 && left >= o->retain_frames);
		goes = goes || (o->retain_seconds > 0 &&
				wall_ns - seg[drop].created_ns >= (int64_t)o->retain_seconds * (int64_t)NS_PER_S);
		if (!goes)
			break;
		stays = drop;
	}
	return stays;
}

/* By bytes, by frames, by age, and by all of them, at their very borders. */
static void test_retention_drops_what_its_rules_say(void **state)
{
	unsigned dropped = 0, kept = 0;

	(void)state;
	for (unsigned round = 0; round < 120; round++) {
		struct jsegment seg[64], after[64];
		uint32_t n, m, at, stays;
		int64_t wall_ns;
		uint64_t bytes = 0;

		start(800 + round);
		do {
			fill_stream(3, (uint32_t)(dice() % 90000));
			rig_settle(NULL, 0);
		} while (jlog_segments(streams_at(rig.ss, 0)->log, seg, 64) < 6);
		n = jlog_segments(streams_at(rig.ss, 0)->log, seg, 64);
		at = (uint32_t)(dice() % n);
		for (uint32_t i = at; i < n; i++)
			bytes += (uint32_t)seg[i].end;
		rig.ss->opts.retain_bytes = round % 4 == 0 || round % 4 == 3 ? bytes + dice() % 3 - 1 : 0;
		rig.ss->opts.retain_frames = round % 4 == 1 || round % 4 == 3
						     ? seg[n - 1].last_mark - seg[at].last_mark + dice() % 3
						     : 0;
		rig.ss->opts.retain_seconds = round % 4 >= 2 ? 60 : 0;
		wall_ns = seg[at].created_ns + (int64_t)(60 * NS_PER_S) + (int64_t)(dice() % 3) - 1;
		stays = first_to_stay(seg, n, wall_ns);
		retention_at(wall_ns);
		rig_settle(NULL, 0);
		m = jlog_segments(streams_at(rig.ss, 0)->log, after, 64);
		assert_true(m >= n - stays);
		if (after[0].begin != seg[stays].begin)
			fail_msg("round %u: of %" PRIu32 " segments %" PRIu32
				 " had to go, and the oldest is number %" PRIu64,
				 round, n, stays, after[0].begin >> 32);
		dropped += stays > 0;
		kept += stays < n - 1;
		rig_close(true);
	}
	assert_true(dropped > 20 && kept > 20);
}

/* ---- lives ---- */

/* One decision of retention by each of its rules, or of all of them. */
static void decide(void)
{
	uint64_t rule = dice() % 4;

	rig.ss->opts.retain_bytes = rule == 0 || rule == 3 ? 1 + dice() % 700000 : 0;
	rig.ss->opts.retain_frames = rule == 1 || rule == 3 ? 1 + dice() % 12 : 0;
	rig.ss->opts.retain_seconds = rule == 2 || rule == 3 ? 60 : 0;
	retention_at(dice() % 2 ? FAR : 0);
}

static void some_turns(void)
{
	for (uint64_t n = dice() % 30; n > 0; n--)
		rig_turn();
}

/* Sizes that leave any room at the end of a segment, or almost none. */
static void publish_any(void)
{
	uint32_t room = the_log()->segment_bytes > the_log()->tail ? the_log()->segment_bytes - the_log()->tail : 0;

	if (dice() % 4 == 0 && room > 300 && room < RIG_PAYLOAD_MAX / 2)
		fill_stream(1, room - (uint32_t)(100 + dice() % 200));
	else
		fill_stream(1 + (uint32_t)(dice() % 4), (uint32_t)(dice() % 90000));
}

/* Opens it with segments of another size, and perhaps other limits. */
static bool open_again(void)
{
	int err;

	rig.opts.segment_bytes = dice() % 3 == 0 ? 2 * SEGMENT_BYTES_MIN : SEGMENT_BYTES_MIN;
	err = rig_try_open();
	rig.sim.dead = rig.sim.ops > rig.sim.plug_at;
	if (err != 0 && !rig.sim.dead)
		fail_msg("%s", rig.why);
	rig.answered = rig.published; /* nobody answers what was under way */
	return err == 0;
}

/* Lives until the plug is pulled, or `steps` are over. The stream is open afterwards, or the plug
 * was pulled while it was being opened (false). */
static bool live(unsigned steps)
{
	uint64_t plug;

	for (unsigned i = 0; i < steps && !rig.sim.dead; i++) {
		switch (dice() % 8) {
		case 0:
			rig_close(dice() % 2 == 0);
			if (rig.sim.dead || !open_again())
				return false;
			plug = rig.sim.plug_at; /* not while everything is compared */
			rig.sim.plug_at = rig.sim.dead ? plug : UINT64_MAX;
			if (!rig.sim.dead)
				check();
			rig.sim.plug_at = plug;
			break;
		case 1:
		case 2:
			decide();
			some_turns();
			break;
		case 3:
			decide();
			rig_settle_alive();
			break;
		default:
			publish_any();
			some_turns();
		}
	}
	return true;
}

/* One life with a power cut at operation `plug`, another one in the recovery, and a life behind
 * them. False: it ended before the plug was pulled. */
static bool life_with_power_cuts(uint64_t seed, uint64_t plug, enum sim_keep keep)
{
	bool died;

	start(seed);
	fill_stream(2, 1000);
	rig_settle(NULL, 0);
	rig.sim.plug_at = rig.sim.ops + plug;
	if (live(40))
		rig_close(!rig.sim.dead);
	died = rig.sim.dead;
	for (unsigned i = 0; i < 2; i++) {
		rig.sim.dead = true;
		rig.sim.seed = (seed * 7919 + plug) * 2 + 1;
		sim_crash(&rig.sim, keep, 0);
		if (i == 0)
			rig.sim.plug_at = rig.sim.ops + dice() % 60;
		if (open_again())
			rig_close(false);
	}
	rig.sim.dead = true;
	sim_crash(&rig.sim, keep, 0);
	assert_true(open_again());
	check();
	assert_true(live(6));
	rig_settle(NULL, 0);
	rig_close(true);
	rig_open();
	check();
	rig_close(true);
	return died;
}

static void test_lives_with_retention_and_power_cuts(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
	bool heavy = getenv("ORDINAL_HEAVY") != NULL;
	uint64_t step = heavy ? 1 : 37;

	(void)state;
	for (uint64_t seed = 1; seed <= (heavy ? 12 : 4); seed++)
		for (uint64_t plug = 1 + seed; life_with_power_cuts(seed * 1000, plug, keeps[plug % 3]);)
			plug += step;
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_offsets_go_on_when_no_frame_is_left),
		cmocka_unit_test(test_frames_go_on_when_no_frame_is_left),
		cmocka_unit_test(test_offsets_go_on_when_segments_become_smaller),
		cmocka_unit_test(test_segments_that_were_dropped_are_not_read),
		cmocka_unit_test(test_a_state_in_a_queue_of_frames),
		cmocka_unit_test(test_a_power_cut_of_a_stream_that_is_only_written),
		cmocka_unit_test(test_a_log_behind_a_stream_in_memory),
		cmocka_unit_test(test_numbers_from_records_and_frames),
		cmocka_unit_test(test_numbers_of_many_publishers_stay),
		cmocka_unit_test(test_retention_drops_what_its_rules_say),
		cmocka_unit_test(test_lives_with_retention_and_power_cuts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
