/* Streams across restarts, power cuts, damage and failures of the disk. */
#include "tests/unit/queue/stream_rig.h"

static struct sub sub;

static void publish_some(const char *name, uint32_t n, uint32_t size)
{
	for (uint32_t i = 0; i < n; i++) {
		while (publish((unsigned)(dice() % rig.opts.shards), name, dice() % 1000, 1 + (int64_t)(dice() % 9),
			       size) != STREAM_E_OK)
			rig_turn();
		if (dice() % 8 == 0)
			rig_turn();
	}
}

/* All of the stream, from the beginning. */
static void read_all(const char *name)
{
	sub_open(&sub, (unsigned)(dice() % rig.opts.shards), name, 0, 0);
	do {
		rig_turn();
		sub_pull(&sub, 1000, 100000);
	} while (!sub.caught_up && !sub.ended);
}

/* The power goes at any moment: what was acknowledged is there, once; nobody saw a frame that is not. */
static void test_power_cuts_keep_what_was_acknowledged(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 60; round++) {
		uint64_t seen;

		rig_init(77 + round, 1 + round % 3);
		rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
		rig_open();
		sub_open(&sub, 0, "a", 0, 0);
		rig.sim.plug_at = 20 + dice() % 600;
		for (unsigned i = 0; i < 20000 && !rig.sim.dead; i++) {
			publish((unsigned)(dice() % rig.opts.shards), "a", dice() % 1000, 1, (uint32_t)(dice() % 3000));
			if (dice() % 4 == 0)
				rig_turn();
			sub_pull(&sub, 10, 100000);
		}
		assert_true(rig.sim.dead);
		for (unsigned i = 0; i < 20; i++) /* the shards hear of it */
			rig_turn();
		sub_pull(&sub, 1000, 100000);
		seen = sub.last_offset;
		sub_close(&sub);
		rig_close(false);
		rig.sim.plug_at = UINT64_MAX;
		rig.sim.dead = true;
		sim_crash(&rig.sim, round % 2 ? SIM_KEEP_RANDOM : SIM_KEEP_NONE, 0);
		rig_open();
		read_all("a");
		for (uint32_t i = 0; i < rig.published; i++)
			if (rig.f[i].offset != 0)
				assert_int_equal(sub.seen[rig.f[i].offset], 1);
		assert_true(seen <= sub.snapshot);
		assert_int_equal(sub.given, sub.snapshot);
		sub_close(&sub);
		rig_close(true);
	}
}

static enum stream_error numbered(const char *publisher, uint64_t number, struct stream_answer *ret);

static struct stream_answer numbered_answer;
static enum stream_error numbered_error;
static bool numbered_done;

static void numbered_published(void *ctx, void *user, const struct stream_answer *a)
{
	(void)ctx;
	(void)user;
	numbered_answer = *a;
	numbered_error = STREAM_E_OK;
	numbered_done = true;
}

static void numbered_refused(void *ctx, void *user, enum stream_error e)
{
	(void)ctx;
	(void)user;
	numbered_error = e;
	numbered_done = true;
}

static const struct streams_view_ops numbered_ops = {
	.published = numbered_published, .refused = numbered_refused, .ready = on_ready};

static enum stream_error numbered(const char *publisher, uint64_t number, struct stream_answer *ret)
{
	struct stream_request r = {.stream = SPAN_LIT("n"),
				   .seq_no = 5,
				   .payload = SPAN_LIT("once"),
				   .publisher = {(const uint8_t *)publisher, strlen(publisher)},
				   .publisher_seq = number};
	unsigned view = (unsigned)(dice() % rig.opts.shards);
	struct stream_publish *p;
	enum stream_error e = streams_publish(rig.view[view], &r, NULL, &p);
	bool worked;

	if (e != STREAM_E_OK)
		return e;
	numbered_done = false;
	while (!numbered_done) {
		for (unsigned i = 0; i < rig.opts.shards; i++)
			streams_view_turn(rig.view[i], &numbered_ops, NULL);
		keeper_turn(rig.ss);
		journal_turn(rig.j, &worked);
	}
	*ret = numbered_answer;
	return numbered_error;
}

static void test_repeats_get_the_first_answer_also_after_a_restart(void **state)
{
	struct stream_answer first[1500], a;

	(void)state;
	rig_init(5, 2);
	rig_open();
	for (unsigned i = 0; i < 1500; i++) {
		assert_int_equal(numbered("p", 10 + i, &first[i]), STREAM_E_OK);
		assert_false(first[i].duplicate);
		assert_int_equal(first[i].offset, i + 1);
	}
	for (unsigned pass = 0; pass < 3; pass++) {
		for (unsigned i = 1500 - rig.opts.numbers_max; i < 1500; i += 7) {
			assert_int_equal(numbered("p", 10 + i, &a), STREAM_E_OK);
			assert_true(a.duplicate);
			assert_int_equal(a.offset, first[i].offset);
			assert_int_equal(a.timestamp, first[i].timestamp);
		}
		assert_int_equal(numbered("p", 10, &a), STREAM_E_STALE);
		rig_close(pass == 0);
		rig_open();
	}
	assert_int_equal(numbered("q", 10, &a), STREAM_E_OK); /* another publisher's numbers are its own */
	assert_false(a.duplicate);
	assert_int_equal(a.offset, 1501);
	rig_close(true);
}

/* The limits may be others at each start: what a lower one forgets is stale or new, what is remembered is right, and no frame is lost. */
static void test_limits_of_repeats_that_change_between_starts(void **state)
{
	static const uint32_t limits[][2] = {{1000, 64}, {10, 64},  {1, 3},        {64, 64},
					     {100, 5},   {1000, 1}, {65536, 65536}};
	enum { NUMBERS = 100, PUBLISHERS = 20 };
	struct stream_answer a, first[PUBLISHERS][NUMBERS];
	struct stream_stats st;
	char name[16];

	(void)state;
	rig_init(7, 2);
	rig_open();
	for (unsigned i = 0; i < NUMBERS; i++) {
		for (unsigned p = 0; p < PUBLISHERS; p++) {
			snprintf(name, sizeof name, "p%u", p);
			assert_int_equal(numbered(name, i + 1, &first[p][i]), STREAM_E_OK);
		}
	}
	for (unsigned round = 0; round < ARRAY_SIZE(limits); round++) {
		uint32_t numbers = limits[round][0] < NUMBERS ? limits[round][0] : NUMBERS;
		uint32_t publishers = limits[round][1] < PUBLISHERS ? limits[round][1] : PUBLISHERS;
		bool all = publishers == PUBLISHERS;

		if (!all)
			numbers = 1; /* they took turns, so each was forgotten before it came again, and began anew */

		rig_close(round % 2 == 0);
		rig.opts.numbers_max = limits[round][0];
		rig.opts.publishers_max = limits[round][1];
		rig_open();
		streams_info(rig.ss, 0, &st);
		assert_int_equal(st.next_offset, NUMBERS * PUBLISHERS + 1);
		for (unsigned p = PUBLISHERS - publishers; p < PUBLISHERS; p++) { /* the last ones used */
			snprintf(name, sizeof name, "p%u", p);
			for (unsigned i = NUMBERS - numbers; i < NUMBERS; i++) {
				assert_int_equal(numbered(name, i + 1, &a), STREAM_E_OK);
				assert_true(a.duplicate);
				assert_int_equal(a.offset, first[p][i].offset);
				assert_int_equal(a.timestamp, first[p][i].timestamp);
			}
			if (all && numbers < NUMBERS)
				assert_int_equal(numbered(name, NUMBERS - numbers, &a), STREAM_E_STALE);
		}
	}
	rig_close(true);
}

/* The numbers are bounded by the option, whatever it is: not by the next power of two. */
static void test_numbers_are_bounded_by_the_option(void **state)
{
	(void)state;
	for (uint32_t max = 1; max <= 20; max++) {
		struct publishers ps = {.max = 2, .numbers_max = max};
		struct span name = {(const uint8_t *)"p", 1};
		uint64_t offset;
		int64_t timestamp;

		for (uint64_t i = 1; i <= 50; i++) {
			assert_int_equal(publishers_reserve(&ps, 1, name), 0);
			publishers_add(&ps, 1, name, i, 100 + i, 0);
			for (uint64_t k = 1; k <= i; k++) {
				bool known = k + max > i;
				assert_int_equal(publishers_find(&ps, 1, name, k, &offset, &timestamp),
						 known ? PUBLISHER_SEEN : PUBLISHER_STALE);
				assert_true(!known || offset == 100 + k);
			}
			assert_int_equal(publishers_find(&ps, 1, name, i + 1, &offset, &timestamp), PUBLISHER_NEW);
		}
		publishers_done(&ps);
	}
}

/* A server that keeps fewer numbers than the one that wrote them: what it leaves out is stale, not new. */
static void test_numbers_that_do_not_fit_after_a_restart_are_stale(void **state)
{
	struct publishers ps = {.max = 2, .numbers_max = 4};
	struct span name = {(const uint8_t *)"p", 1};
	struct publisher_number v[10];
	struct publisher_facts f = {.name = name, .max = 10, .v = v, .n = 10};
	uint64_t offset;
	int64_t timestamp;

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		v[i] = (struct publisher_number){i + 1, 100 + i, 0};
	assert_int_equal(publishers_restore(&ps, 1, &f), 0);
	for (uint64_t n = 1; n <= 11; n++)
		assert_int_equal(publishers_find(&ps, 1, name, n, &offset, &timestamp), n <= 6    ? PUBLISHER_STALE
											: n <= 10 ? PUBLISHER_SEEN
												  : PUBLISHER_NEW);
	publishers_done(&ps);
}

/* A publisher that is forgotten begins anew; one that stays in use is not. */
static void test_publishers_are_bounded(void **state)
{
	struct stream_answer a;
	char name[16];

	(void)state;
	rig_init(6, 1);
	rig_open();
	for (unsigned i = 0; i < rig.opts.publishers_max + 50; i++) {
		snprintf(name, sizeof name, "p%u", i);
		assert_int_equal(numbered(name, 1, &a), STREAM_E_OK);
		assert_int_equal(numbered("busy", i + 1, &a), STREAM_E_OK);
		assert_false(a.duplicate);
	}
	assert_int_equal(numbered("busy", 100, &a), STREAM_E_OK);
	assert_true(a.duplicate);
	assert_int_equal(numbered("p0", 1, &a), STREAM_E_OK);
	assert_false(a.duplicate);
	rig_close(true);
}

/* A frame that is not kept, for want of memory, is no reason to forget a publisher. */
static void test_a_publish_that_fails_forgets_no_publisher(void **state)
{
	enum { PUBLISHERS = 1024 };
	struct publishers ps = {.max = PUBLISHERS, .numbers_max = 8};
	uint64_t offset;
	int64_t timestamp;

	(void)state;
	for (uint64_t i = 1; i <= PUBLISHERS; i++) {
		struct span name = {(const uint8_t *)&i, sizeof i};
		assert_int_equal(publishers_reserve(&ps, i, name), 0);
		publishers_add(&ps, i, name, 1, i, 0);
	}
	for (uint64_t i = 5000; i < 5100; i++) {
		uint64_t bytes = ps.bytes;
		assert_int_equal(publishers_reserve(&ps, i, (struct span){(const uint8_t *)&i, sizeof i}), 0);
		assert_true(i == 5000 || ps.bytes == bytes); /* nothing piles up */
	}
	for (uint64_t i = 1; i <= PUBLISHERS; i++)
		assert_int_equal(
			publishers_find(&ps, i, (struct span){(const uint8_t *)&i, sizeof i}, 1, &offset, &timestamp),
			PUBLISHER_SEEN);
	uint64_t last = 5099, first = 1, second = 2;
	publishers_add(&ps, last, (struct span){(const uint8_t *)&last, sizeof last}, 1, 9, 0);
	assert_int_equal(ps.count, PUBLISHERS);
	assert_int_equal(publishers_find(&ps, first, (struct span){(const uint8_t *)&first, sizeof first}, 1, &offset,
					 &timestamp),
			 PUBLISHER_NEW);
	assert_int_equal(publishers_find(&ps, second, (struct span){(const uint8_t *)&second, sizeof second}, 1,
					 &offset, &timestamp),
			 PUBLISHER_SEEN);
	publishers_done(&ps);
}

/* The file whose path holds `part` and that is the `nth` of such. */
static struct sim_file *file_of(const char *part, unsigned nth)
{
	for (int i = 0; i < rig.sim.now.n; i++)
		if (rig.sim.now.v[i].file != SIM_DIR && strstr(rig.sim.now.v[i].path, part) != NULL && nth-- == 0)
			return &rig.sim.files[rig.sim.now.v[i].file];
	fail_msg("there is no such file");
	return NULL;
}

static unsigned taken;

static void plain_published(void *ctx, void *user, const struct stream_answer *a)
{
	(void)ctx;
	(void)user;
	(void)a;
	taken++;
}

/* The model knows one stream: another one's frames are only counted. */
static void publish_elsewhere(const char *name, unsigned n)
{
	static const struct streams_view_ops ops = {plain_published, on_refused, on_ready};
	struct stream_request r = {.stream = {(const uint8_t *)name, strlen(name)}, .payload = SPAN_LIT("elsewhere")};
	struct stream_publish *p;
	bool worked;

	taken = 0;
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_OK);
	while (taken < n) {
		for (unsigned i = 0; i < rig.opts.shards; i++)
			streams_view_turn(rig.view[i], &ops, NULL);
		journal_turn(rig.j, &worked);
		keeper_turn(rig.ss);
	}
}

/* The stream is there, and refuses everything with a sentence that says what is wrong and what helps. */
static void expect_closed(const char *name, unsigned shards)
{
	struct stream_start start = {.stream = {(const uint8_t *)name, strlen(name)}};
	struct stream_cursor *c;
	struct stream_stats st;
	char text[512];

	for (unsigned view = 0; view < shards; view++) {
		uint32_t before = rig.answered, published = rig.published;
		enum stream_error e = publish(view, name, 1, 1, 10);

		if (e == STREAM_E_OK) { /* it went to the owner */
			for (unsigned i = 0; i < 100 && rig.answered == before; i++)
				rig_turn();
			assert_int_equal(rig.answered, before + 1);
			assert_true(rig.f[published].refused);
			rig.answered = before;
			rig.published = published;
		} else {
			assert_int_equal(e, STREAM_E_DAMAGED);
		}
		assert_int_equal(stream_cursor_open(rig.view[view], &start, NULL, &c), STREAM_E_DAMAGED);
		stream_refusal_text(rig.ss, STREAM_E_DAMAGED, streams_view_refused(rig.view[view]), text, sizeof text);
		assert_non_null(strstr(text, "stream \"a\""));
		assert_non_null(strstr(text, "`ordinald --quarantine a`"));
		assert_non_null(strstr(text, "stream.a"));
		assert_non_null(strstr(text, "byte "));
	}
	for (uint32_t i = 0; i < streams_count(rig.ss); i++) {
		streams_info(rig.ss, i, &st);
		assert_int_equal(st.stopped, strcmp(st.name, name) == 0);
		assert_true((st.why != NULL) == (st.stopped != 0));
	}
	assert_int_equal(streams_stopped(rig.ss), 1);
}

static void test_one_damaged_stream_is_closed_and_the_others_are_served(void **state)
{
	(void)state;
	for (unsigned shards = 1; shards <= 2; shards++) {
		static uint8_t before[2u << 20];
		struct sim_file *f;
		size_t n;

		rig_init(5, shards);
		rig.opts.retain_frames = 10;
		rig_open();
		publish_some("a", 300, 500);
		rig_settle(NULL, 0);
		publish_elsewhere("b", 30);
		rig_close(true);
		f = file_of("stream.a/", 0);
		f->now[9000] ^= 4;
		f->safe[9000] ^= 4;
		n = f->now_n;
		assert_true(n <= sizeof before);
		memcpy(before, f->now, n);
		rig_open();
		expect_closed("a", shards);
		publish_elsewhere("b", 30);
		keeper_round(rig.ss, 1); /* what retention would drop of it stays */
		rig_settle(NULL, 0);
		rig_close(true);
		assert_int_equal(f->now_n, n);
		assert_memory_equal(f->now, before, n);
		rig_open();
		expect_closed("a", shards);
		rig_close(false);
		f->now[9000] ^= 4;
		f->safe[9000] ^= 4;
		rig_open(); /* nothing that happened meanwhile is held against it */
		assert_int_equal(streams_stopped(rig.ss), 0);
		read_all("a");
		assert_false(sub.ended);
		assert_true(sub.given > 0);
		sub_close(&sub);
		rig_close(true);
	}
}

/* A disk that does not answer says nothing of the stream: the daemon does not start without it. */
static void test_an_io_error_at_start_is_no_damage(void **state)
{
	unsigned refused = 0;
	bool ended = false;

	(void)state;
	rig_init(6, 1);
	rig_open();
	publish_some("a", 300, 500);
	rig_settle(NULL, 0);
	rig_close(true);
	for (uint64_t n = 0; !ended; n++) {
		rig.sim.fail_at = rig.sim.ops + n;
		rig.sim.fail_err = n % 2 ? -EIO : -EMFILE;
		rig.sim.failed = false;
		if (rig_try_open() == 0) {
			assert_int_equal(streams_stopped(rig.ss), 0);
			ended = !rig.sim.failed;
			rig_close(false);
		} else {
			refused++;
		}
		rig.sim.fail_at = UINT64_MAX;
		rig.sim.locked = false;
		for (int i = 0; i < SIM_FDS; i++)
			rig.sim.fds[i].open = false;
	}
	assert_true(refused > 10);
}

static void test_a_flipped_bit_is_named_at_start(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 40; round++) {
		struct sim_file *f;
		size_t at;

		rig_init(9 + round, 1);
		rig_open();
		publish_some("a", 300, 500);
		rig_settle(NULL, 0);
		rig_close(true);
		f = file_of("stream.a/", 0);
		at = 5000 + dice() % (300 * 500);
		f->now[at] ^= (uint8_t)(1 << dice() % 8);
		memcpy(f->safe, f->now, f->safe_n);
		rig_open();
		expect_closed("a", 1);
		rig_close(true);
	}
}

static void test_a_flipped_bit_is_found_when_it_is_read(void **state)
{
	unsigned hit = 0;

	(void)state;
	for (unsigned round = 0; round < 40; round++) {
		struct sim_file *f;

		rig_init(90 + round, 1 + round % 2);
		rig_open();
		publish_some("a", 300, 500);
		rig_settle(NULL, 0);
		rig_close(true);
		rig_open();
		f = file_of("stream.a/", 0);
		f->now[5000 + dice() % (300 * 500)] ^= (uint8_t)(1 << dice() % 8);
		read_all("a");
		if (sub.ended) {
			assert_int_equal(stream_cursor_error(sub.cursor), STREAM_E_DAMAGED);
			assert_non_null(strstr(stream_cursor_why(sub.cursor), "stream.a"));
			assert_non_null(strstr(stream_cursor_why(sub.cursor), "byte"));
			hit++;
		} /* else it was in a place that holds nothing (padding): every frame was compared */
		sub_close(&sub);
		rig_turn();
		rig_close(true);
	}
	assert_true(hit > 30);
}

static void test_a_full_disk_acknowledges_nothing(void **state)
{
	uint32_t refused = 0;
	uint64_t top;

	(void)state;
	rig_init(33, 2);
	rig_open();
	publish_some("a", 500, 100);
	rig_settle(NULL, 0);
	top = rig.top;
	sub_open(&sub, 1, "a", 0, 0);
	rig.sim.no_space = true;
	for (uint32_t i = 0; i < 60000 && rig.failures == 0; i++) {
		if (publish(i % 2, "a", i, 1, 100) != STREAM_E_OK)
			rig_turn();
		if (i % 16 == 0)
			rig_turn();
	}
	assert_int_equal(rig.failures, 1);
	while (rig.answered < rig.published)
		rig_turn();
	for (uint32_t i = 0; i < rig.published; i++)
		refused += rig.f[i].refused;
	assert_true(refused > 0);
	assert_int_equal(publish(0, "a", 1, 1, 10), STREAM_E_FAILED);
	for (unsigned i = 0; i < 50; i++) { /* subscribers are served on */
		rig_turn();
		sub_pull(&sub, 1000, 100000);
	}
	assert_true(sub.caught_up);
	assert_true(rig.top >= top);
	sub_check(&sub, rig.top);
	assert_true(sub.last_offset == 0 || sub.given == rig.top);
	sub_close(&sub);
	rig_close(false);
}

static void test_streams_kept_in_memory_only(void **state)
{
	struct stream_stats st;

	(void)state;
	rig_init(44, 3);
	rig.opts.durability_rules = "b=fsync, m*=memory";
	rig_open();
	sub_open(&sub, 2, "mem", 0, 0);
	publish_some("mem", 30000, 200);
	rig_settle(&sub, 1);
	assert_int_equal(rig.top, 30000);
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.durability, STREAM_MEMORY);
	assert_true(st.memory_bytes <= rig.opts.memory_bytes);
	assert_true(st.first_offset > 1000);
	assert_int_equal(st.frames, 30000 - st.first_offset + 1);
	sub_check(&sub, rig.top);
	sub_close(&sub);
	read_all("mem"); /* what is left, and a gap for the rest */
	assert_int_equal(sub.gaps, 1);
	assert_int_equal(sub.given, st.frames);
	sub_check(&sub, rig.top);
	sub_close(&sub);
	rig_turn();
	rig_close(true);
	rig_open();
	assert_int_equal(streams_count(rig.ss), 0);
	rig_close(true);
}

/* A subscriber of what is gone from memory while it is away, and of a stream whose past is on disk and whose present is not. */
static void test_a_stream_that_turns_from_disk_to_memory(void **state)
{
	(void)state;
	rig_init(45, 2);
	rig_open();
	publish_some("a", 3000, 100);
	rig_settle(NULL, 0);
	rig_close(true);
	rig.opts.durability = STREAM_MEMORY;
	rig_open();
	publish_some("a", 3000, 100);
	rig_settle(NULL, 0);
	assert_int_equal(rig.top, 6000);
	read_all("a");
	assert_int_equal(sub.given, 6000);
	assert_int_equal(sub.gaps, 0);
	sub_close(&sub);
	sub_open(&sub, 0, "a", 0, 2000);
	rig_settle(&sub, 1);
	assert_int_equal(sub.given, 4001);
	sub_close(&sub);
	rig_turn();
	rig_close(true);
}

static void test_a_slow_subscriber_may_drop_the_oldest(void **state)
{
	uint64_t given;

	(void)state;
	rig_init(46, 2);
	rig_open();
	publish_some("a", 10, 100);
	rig_settle(NULL, 0);
	sub_open(&sub, 0, "a", 0, 0);
	rig_settle(&sub, 1);
	given = sub.given;
	assert_int_equal(given, 10);
	sub.ready = false;
	publish_some("a", 5000, 100);
	rig_settle(NULL, 0);
	assert_true(stream_cursor_lag_frames(sub.cursor) == 5000);
	assert_true(stream_cursor_lag_bytes(sub.cursor) > 500000);
	assert_true(stream_cursor_drop(sub.cursor, 100000));
	assert_true(stream_cursor_lag_bytes(sub.cursor) <= 100000);
	assert_false(stream_cursor_drop(sub.cursor, 100000));
	sub.ready = true;
	rig_settle(&sub, 1);
	assert_int_equal(sub.gaps, 1);
	assert_true(sub.given > given + 100 && sub.given < given + 1500);
	sub_check(&sub, rig.top);
	sub_close(&sub);
	rig_turn();
	rig_close(true);
}

/* Retention takes a step of history away when part of it has been given: nothing comes twice, and what is gone is named. */
static void test_history_that_retention_overtakes(void **state)
{
	struct stream_stats st;

	(void)state;
	for (unsigned round = 0; round < 12; round++) {
		unsigned shards = 1 + round % 2;

		rig_init(900 + round, shards);
		rig_open();
		for (uint32_t i = 0; i < 40000; i++) {
			while (publish(0, "a", i % 100 == 5 && round % 3 == 0 ? i / 2 : i, 1, 60) != STREAM_E_OK)
				rig_turn();
			if (i % 100 == 0)
				rig_turn();
		}
		rig_settle(NULL, 0);
		rig_close(true);
		rig.opts.retain_bytes = 1500000 + round * 150000;
		rig_open();
		sub_open(&sub, shards - 1, "a", 0, 0);
		while (sub.given < 200 + dice() % 3000) {
			sub_pull(&sub, 1, 1000 + dice() % 3000);
			rig_turn();
		}
		keeper_round(rig.ss, 0);
		rig_settle(&sub, 1);
		streams_info(rig.ss, 0, &st);
		assert_true(st.first_offset > 3300);
		assert_true(sub.gaps > 0);
		sub_check(&sub, rig.top);
		for (uint64_t o = st.first_offset; o <= rig.top; o++)
			assert_int_equal(sub.seen[o], 1);
		sub_close(&sub);
		rig_turn();
		rig_close(true);
	}
}

static void test_limits_are_errors(void **state)
{
	static uint8_t big[RIG_PAYLOAD_MAX + 1];
	struct stream_request r = {.stream = SPAN_LIT("x"), .payload = {big, sizeof big}};
	struct stream_publish *p;
	char name[80];

	(void)state;
	rig_init(47, 1);
	rig_open();
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_PAYLOAD);
	r.payload.n = 1;
	r.publisher_seq = 1;
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_PUBLISHER);
	r.publisher = SPAN_LIT("\xff");
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_PUBLISHER);
	memset(name, 'n', sizeof name);
	r.publisher = (struct span){(const uint8_t *)name, STREAM_PUBLISHER_MAX + 1};
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_PUBLISHER);
	r.publisher.n = 0;
	r.publisher_seq = 0;
	r.stream = (struct span){(const uint8_t *)name, STREAM_NAME_MAX + 1};
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_NAME);
	r.stream = SPAN_LIT("a\nb");
	assert_int_equal(streams_publish(rig.view[0], &r, NULL, &p), STREAM_E_NAME);
	for (unsigned i = 0; i < rig.opts.streams_max; i++) {
		snprintf(name, sizeof name, "\xc3\xa9/%u", i); /* names that a file could not have */
		assert_int_equal(publish(0, name, 1, 1, 10), STREAM_E_OK);
		rig_settle(NULL, 0);
		rig.by_offset[1] = 0; /* each stream has an offset 1 */
	}
	assert_int_equal(publish(0, "more", 1, 1, 10), STREAM_E_LIMIT);
	rig_close(true);
	rig.opts.create = false;
	rig_open();
	assert_int_equal(streams_count(rig.ss), rig.opts.streams_max);
	assert_int_equal(publish(0, "more", 1, 1, 10), STREAM_E_UNKNOWN);
	rig_close(true);
}

/* One that the keeper had made, and this shard had not heard of, counted as known and as being made: a name for which there was room was refused. */
static void test_a_stream_just_made_takes_one_place_of_the_limit(void **state)
{
	bool worked;

	(void)state;
	rig_init(49, 1);
	rig.opts.streams_max = 2;
	rig_open();
	assert_int_equal(publish(0, "a", 1, 1, 10), STREAM_E_OK);
	for (unsigned i = 0; streams_count(rig.ss) == 0; i++) {
		keeper_turn(rig.ss);
		journal_turn(rig.j, &worked);
		assert_true(i < 1000);
	}
	sub_open(&sub, 0, "b", 0, 0);
	rig_settle(&sub, 1);
	assert_int_equal(streams_count(rig.ss), 2);
	assert_int_equal(publish(0, "c", 1, 1, 10), STREAM_E_LIMIT);
	sub_close(&sub);
	rig_turn();
	rig_close(true);
}

static enum stream_error open_existing(const char *name, struct stream_cursor **ret)
{
	struct stream_start start = {.stream = {(const uint8_t *)name, strlen(name)}, .only_existing = true};

	return stream_cursor_open(rig.view[0], &start, NULL, ret);
}

static void test_a_cursor_for_what_exists_makes_no_stream(void **state)
{
	struct stream_cursor *c;

	(void)state;
	rig_init(53, 1);
	rig_open();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(open_existing("none", &c), STREAM_E_ABSENT);
	rig_settle(NULL, 0);
	assert_int_equal(streams_count(rig.ss), 0);
	assert_int_equal(publish(0, "one", 1, 1, 10), STREAM_E_OK);
	assert_int_equal(open_existing("one", &c), STREAM_E_OK); /* it is being made */
	stream_cursor_close(c);
	rig_settle(NULL, 0);
	assert_int_equal(open_existing("one", &c), STREAM_E_OK);
	stream_cursor_close(c);
	assert_int_equal(streams_count(rig.ss), 1);
	rig_close(true);
}

static void test_rules_of_durability(void **state)
{
	static const char *const wrong[] = {"a", "a=", "a=disk", "a=fsync,b", "=memory,x=Memory"};
	const char *why;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(streams_rules_check(wrong[i], &why), -EINVAL);
	assert_int_equal(streams_rules_check("", &why), 0);
	assert_int_equal(streams_rules_check(NULL, &why), 0);
	rig_init(48, 1);
	rig.opts.durability_rules = "t*=memory,ticks.*=write,ticks.eur=fsync,=write, a=b=memory";
	rig_open();
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("t")), STREAM_MEMORY);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("ticks")), STREAM_MEMORY);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("ticks.")), STREAM_WRITE);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("ticks.usd")), STREAM_WRITE);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("ticks.eur")), STREAM_FSYNC);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("other")), STREAM_FSYNC);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("")), STREAM_WRITE);
	assert_int_equal(streams_durability_of(rig.ss, SPAN_LIT("a=b")), STREAM_MEMORY);
	rig_close(true);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_power_cuts_keep_what_was_acknowledged),
		cmocka_unit_test(test_repeats_get_the_first_answer_also_after_a_restart),
		cmocka_unit_test(test_publishers_are_bounded),
		cmocka_unit_test(test_numbers_that_do_not_fit_after_a_restart_are_stale),
		cmocka_unit_test(test_limits_of_repeats_that_change_between_starts),
		cmocka_unit_test(test_numbers_are_bounded_by_the_option),
		cmocka_unit_test(test_a_publish_that_fails_forgets_no_publisher),
		cmocka_unit_test(test_a_flipped_bit_is_named_at_start),
		cmocka_unit_test(test_one_damaged_stream_is_closed_and_the_others_are_served),
		cmocka_unit_test(test_an_io_error_at_start_is_no_damage),
		cmocka_unit_test(test_a_flipped_bit_is_found_when_it_is_read),
		cmocka_unit_test(test_a_full_disk_acknowledges_nothing),
		cmocka_unit_test(test_streams_kept_in_memory_only),
		cmocka_unit_test(test_a_stream_that_turns_from_disk_to_memory),
		cmocka_unit_test(test_a_slow_subscriber_may_drop_the_oldest),
		cmocka_unit_test(test_history_that_retention_overtakes),
		cmocka_unit_test(test_limits_are_errors),
		cmocka_unit_test(test_a_stream_just_made_takes_one_place_of_the_limit),
		cmocka_unit_test(test_a_cursor_for_what_exists_makes_no_stream),
		cmocka_unit_test(test_rules_of_durability),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
