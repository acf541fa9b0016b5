/* Turns to read, and slices that are given back: the memory of what is read stays within its bound, whoever takes it or not; nobody waits for a reader that
 * takes nothing; and a cursor whose slice was given back goes on exactly behind the bytes that its subscriber took.
 *
 * Takers take bytes, not frames: what they took is put together and held against the model, so a byte too many or too few is found. */
#include "tests/unit/queue/stream_rig.h"

#define TAKERS 120u

/* A subscriber that takes some bytes of its slice and keeps the rest. */
struct taker {
	struct sub s;
	struct stream_slice slice; /* hold NULL: none */
	size_t at;
	uint8_t *got; /* bytes of a frame that is not whole yet */
	size_t got_n, got_cap;
	uint32_t backs;
	bool shut;   /* stalls because of its own stream, while its connection goes on */
	bool stalls; /* takes nothing; once it has given back what it was given, it asks for nothing either */
};

static struct taker taker[TAKERS];

static void keep(struct taker *t, const uint8_t *p, size_t n)
{
	if (t->got_n + n > t->got_cap) {
		t->got_cap = t->got_n + n + 1024;
		t->got = realloc(t->got, t->got_cap);
		assert_non_null(t->got);
	}
	memcpy(t->got + t->got_n, p, n);
	t->got_n += n;
}

static void take_bytes(struct taker *t, size_t n)
{
	size_t at = 0, size;

	keep(t, t->slice.p + t->at, n);
	t->at += n;
	while ((size = frame_length((struct span){t->got + at, t->got_n - at})) > 0) {
		struct frame f;

		assert_int_equal(frame_get((struct span){t->got + at, size}, &f, &size), 0);
		assert_true(frame_is_whole((struct span){t->got + at, size}));
		sub_frame(&t->s, &f);
		at += size;
	}
	memmove(t->got, t->got + at, t->got_n - at);
	t->got_n -= at;
	if (t->at == t->slice.n)
		stream_slice_put(rig.view[t->s.view], &t->slice);
}

static void give_back(struct taker *t)
{
	size_t kept = t->got_n;

	assert_true(t->at < t->slice.n);
	stream_cursor_back(t->s.cursor, &t->slice, t->at);
	assert_null(t->slice.hold);
	assert_int_equal(stream_cursor_is_torn(t->s.cursor), kept > 0);
	t->backs++;
}

static void on_give_back(void *ctx, void *user)
{
	(void)ctx;
	give_back(container_of(user, struct taker, s));
}

static const struct streams_view_ops ops = {
	.published = on_published, .refused = on_refused, .ready = on_ready, .give_back = on_give_back};

static void check_bound(void)
{
	for (unsigned v = 0; v < rig.opts.shards; v++) {
		const struct turns *t = &rig.view[v]->turns;

		assert_true(t->used <= t->max || t->used <= t->need);
	}
}

static bool turn(void)
{
	bool worked = false, w = false;

	for (unsigned v = 0; v < rig.opts.shards; v++) {
		worked = streams_view_has_work(rig.view[v]) || worked;
		streams_view_turn(rig.view[v], &ops, NULL);
		check_bound();
	}
	journal_turn(rig.j, &w);
	worked = keeper_turn(rig.ss) || worked || w;
	return reader_turn(rig.ss) || worked;
}

static void settle(void)
{
	while (turn() || rig.answered < rig.published)
		;
}

/* A step of a taker: bytes of the slice that it has, or the next one. `give`: in 16 of 16 times its slice is given back after that. False: it waits. */
static bool step(struct taker *t, unsigned give)
{
	struct stream_slice sl;

	if (t->stalls && (t->slice.hold != NULL || t->backs > 0))
		return false;
	if (t->slice.hold != NULL) {
		stream_cursor_stir(t->s.cursor);
		take_bytes(t, 1 + dice() % (t->slice.n - t->at));
		if (t->slice.hold == NULL)
			return true;
		if (dice() % 16 < give)
			give_back(t);
		else
			stream_cursor_rest(t->s.cursor, &t->slice, dice() % 4 == 0);
		return true;
	}
	if (!t->s.ready || t->s.ended || t->s.cursor == NULL)
		return false;
	switch (stream_cursor_next(t->s.cursor, 1 + dice() % 300000, &sl)) {
	case CURSOR_SLICE:
		t->slice = sl;
		t->at = 0;
		if (t->stalls)
			stream_cursor_rest(t->s.cursor, &t->slice, t->shut);
		break;
	case CURSOR_WAIT:
		t->s.ready = false;
		break;
	case CURSOR_BEGUN:
		t->s.begun = true;
		break;
	case CURSOR_COLD:
		stream_cursor_read(t->s.cursor);
		break;
	case CURSOR_CAUGHT_UP:
		assert_false(stream_cursor_is_torn(t->s.cursor));
		t->s.caught_up = true;
		t->s.snapshot = t->s.cursor->h.end_offset;
		break;
	case CURSOR_GAP:
		assert_int_equal(t->got_n, 0);
		sub_gap(&t->s, &sl);
		break;
	case CURSOR_ENDED:
		t->s.ended = true;
		break;
	}
	check_bound();
	return true;
}

/* Until all that do not stall have caught up, and have everything. */
static void run(unsigned n, unsigned give)
{
	bool more;

	do {
		more = turn();
		for (unsigned i = 0; i < n; i++)
			for (unsigned k = 0; k < 20 && step(&taker[i], give); k++)
				more = true;
	} while (more);
}

static void open_taker(unsigned i, unsigned view, uint64_t start, uint64_t resume, uint64_t connection)
{
	uint8_t *got = taker[i].got;
	size_t cap = taker[i].got_cap;
	uint8_t *seen = taker[i].s.seen;
	struct stream_start st = {
		.stream = SPAN_LIT("a"), .seq_no = start, .offset = resume, .reader = {connection / 100, connection}};

	taker[i] = (struct taker){.got = got, .got_cap = cap, .s = {.seen = seen}};
	sub_open(&taker[i].s, view, "a", start, resume);
	stream_cursor_close(taker[i].s.cursor);
	assert_int_equal(stream_cursor_open(rig.view[view], &st, &taker[i].s, &taker[i].s.cursor), STREAM_E_OK);
}

static void close_takers(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (taker[i].slice.hold != NULL)
			stream_slice_put(rig.view[taker[i].s.view], &taker[i].slice);
		sub_close(&taker[i].s);
	}
	settle();
	for (unsigned v = 0; v < rig.opts.shards; v++) {
		assert_int_equal(rig.view[v]->turns.used, 0);
		assert_int_equal(rig.view[v]->turns.waiting, 0);
	}
	rig_close(true);
}

static void check_taker(const struct taker *t)
{
	assert_false(t->s.ended);
	assert_true(t->s.caught_up);
	assert_int_equal(t->got_n, 0);
	sub_check(&t->s, rig.top);
}

static void publish_many(uint32_t n, unsigned late_of_16, uint32_t size)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t seq_no = dice() % 16 < late_of_16 ? dice() % (rig.published + 1) : rig.published;

		while (publish(0, "a", seq_no, 1, size / 2 + (uint32_t)(dice() % size)) != STREAM_E_OK)
			turn();
		if (dice() % 8 == 0)
			settle();
	}
	settle();
}

static void begin(uint64_t seed, unsigned shards, uint64_t read_max)
{
	rig_init(seed, shards);
	rig.seen_max = 20000;
	rig.opts.read_max = read_max;
	rig_open();
}

/* ---- giving back ---- */

static void given_back(uint64_t seed, unsigned late_of_16, unsigned give, bool disk)
{
	enum { N = 6 };

	begin(seed, 1 + seed % 2, UINT64_MAX);
	publish_many(300, late_of_16, 6000);
	if (disk) {
		rig_close(true);
		rig_open();
	}
	for (unsigned i = 0; i < N; i++)
		open_taker(i, (unsigned)(i % rig.opts.shards), i % 3 * 60, i == 5 ? 40 : 0, i);
	for (unsigned k = 0; k < 5; k++) {
		for (unsigned i = 0; i < N; i++)
			for (unsigned j = 0; j < 7; j++)
				step(&taker[i], give);
		turn();
		publish_many(20, late_of_16, 6000); /* live, and in no history */
	}
	run(N, give);
	for (unsigned i = 0; i < N; i++) {
		check_taker(&taker[i]);
		assert_true(taker[i].backs > 3);
	}
	close_takers(N);
}

static void test_what_was_given_back_is_given_again_from_the_same_byte_on(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		for (unsigned late = 0; late <= 16; late += 8) {
			given_back(seed, late, 16, true);
			given_back(seed, late, 16, false);
			given_back(seed, late, 5, seed % 2);
		}
	}
}

/* Retention takes what a subscriber was in the middle of. */
static void test_a_frame_that_retention_took_while_it_was_torn_ends_the_cursor(void **state)
{
	char text[256];

	(void)state;
	begin(5, 1, UINT64_MAX);
	rig.opts.segment_bytes = SEGMENT_BYTES_MIN;
	rig_close(true);
	rig_open();
	publish_many(1200, 0, 4000);
	rig_close(true);
	rig_open();
	for (unsigned i = 0; i < 2; i++) {
		open_taker(i, 0, 0, i, i); /* sorted, and by offset */
		while (taker[i].slice.hold == NULL) {
			step(&taker[i], 0);
			turn();
		}
		take_bytes(&taker[i], 100);
		give_back(&taker[i]);
	}
	rig.ss->opts.retain_bytes = 16 * SEGMENT_BYTES_MIN;
	keeper_round(rig.ss, 0);
	settle();
	open_taker(2, 0, 0, 0, 2); /* drives what was read out of the reader's cache */
	taker[0].stalls = taker[1].stalls = true;
	taker[0].s.ready = taker[1].s.ready = false;
	run(3, 0);
	assert_true(taker[2].s.caught_up && taker[2].s.seen[1] == 2);
	taker[0].stalls = taker[1].stalls = false;
	taker[0].s.ready = taker[1].s.ready = true;
	run(2, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(taker[i].s.ended);
		assert_int_equal(stream_cursor_error(taker[i].s.cursor), STREAM_E_OVERTAKEN);
		assert_int_equal(taker[i].s.given, 0);
	}
	assert_non_null(
		strstr(stream_error_text(rig.ss, STREAM_E_OVERTAKEN, text, sizeof text), "in the middle of it"));
	rig.ss->opts.retain_bytes = 0;
	close_takers(3);
}

/* ---- the bound ---- */

/* P8: each of 4,000 subscribers held a frame of 1 MB for as long as it liked. Here: many that take nothing, and some that take. */
static void test_the_memory_of_reads_stays_within_its_bound(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 2; seed++) {
		uint64_t most;

		begin(seed, 1, 3u << 20);
		rig.seen_max = 2000;
		publish_many(60, seed % 2 ? 0 : 8, 180000);
		rig_close(true);
		rig_open();
		for (unsigned i = 0; i < TAKERS; i++) {
			open_taker(i, 0, 0, 0, i / 30);
			taker[i].stalls = taker[i].shut = i % 30 != 0; /* of each connection, one takes */
		}
		run(TAKERS, 2);
		for (unsigned i = 0; i < TAKERS; i += 30)
			check_taker(&taker[i]);
		most = rig.view[0]->turns.most;
		assert_in_range(most, 2u << 20, 3u << 20);
		for (unsigned i = 1; i < TAKERS; i += 15) /* and those that stalled find everything as it was */
			taker[i].stalls = false;
		run(TAKERS, 0);
		for (unsigned i = 1; i < TAKERS; i += 15)
			check_taker(&taker[i]);
		close_takers(TAKERS);
	}
}

/* A connection whose cursors take nothing has read ahead for a few of them, and not for all, and not again and again. */
static void test_a_connection_that_takes_nothing_reads_a_few_pieces(void **state)
{
	struct stream_stats st;

	(void)state;
	begin(3, 1, 64u << 20);
	rig.seen_max = 2000;
	publish_many(60, 0, 180000);
	rig_close(true);
	rig_open();
	for (unsigned i = 1; i < TAKERS; i++) {
		open_taker(i, 0, 0, 0, 7);
		taker[i].stalls = true;
	}
	open_taker(0, 0, 0, 0, 7);
	sub_close(&taker[0].s);
	run(TAKERS, 0);
	streams_info(rig.ss, 0, &st);
	assert_int_equal(st.reads_disk, TURNS_OUT);
	assert_int_equal(rig.view[0]->turns.waiting, TAKERS - 1 - TURNS_OUT);
	assert_int_equal(rig.view[0]->turns.taken_back, 0);
	open_taker(0, 0, 0, 0, 8); /* another connection is served */
	run(TAKERS, 0);
	check_taker(&taker[0]);
	close_takers(TAKERS);
}

/* Turns go round addresses and connections: one with a hundred cursors gets no more than one with a single one. */
static void test_turns_go_round_connections_and_addresses(void **state)
{
	uint32_t turns = 0;

	(void)state;
	begin(9, 1, 3u << 20);
	rig.seen_max = 2000;
	publish_many(40, 0, 180000);
	rig_close(true);
	rig_open();
	for (unsigned i = 0; i < TAKERS - 2; i++)
		open_taker(i, 0, 0, 0, i % 4);
	open_taker(TAKERS - 2, 0, 0, 0, 5);
	open_taker(TAKERS - 1, 0, 0, 0, 200); /* another address */
	do {
		turn();
		for (unsigned i = 0; i < TAKERS; i++)
			for (unsigned k = 0; k < 200 && step(&taker[i], 0); k++)
				;
		turns++;
	} while (!taker[TAKERS - 1].s.caught_up || !taker[TAKERS - 2].s.caught_up);
	/* 40 frames are some 40 pieces; in the order of requests each would have waited for all 120 cursors. */
	assert_in_range(turns, 1, 8 * 40);
	assert_false(taker[0].s.caught_up);
	run(TAKERS, 0);
	for (unsigned i = 0; i < TAKERS; i++)
		check_taker(&taker[i]);
	close_takers(TAKERS);
}

static void test_a_piece_above_the_bound_is_read_alone(void **state)
{
	(void)state;
	begin(4, 1, 1000);
	rig.seen_max = 2000;
	publish_many(20, 4, 180000);
	rig_close(true);
	rig_open();
	for (unsigned i = 0; i < 10; i++)
		open_taker(i, 0, 0, 0, i);
	run(10, 1);
	for (unsigned i = 0; i < 10; i++)
		check_taker(&taker[i]);
	close_takers(10);
}

static void test_bytes_that_many_hold_are_charged_once(void **state)
{
	uint64_t one;

	(void)state;
	begin(6, 1, 64u << 20);
	rig.seen_max = 2000;
	publish_many(10, 0, 180000);
	rig_close(true);
	rig_open();
	open_taker(0, 0, 0, 0, 0);
	taker[0].stalls = true;
	run(1, 0);
	one = rig.view[0]->turns.used;
	assert_true(one > 100000);
	for (unsigned i = 1; i < TAKERS; i++) {
		open_taker(i, 0, 0, 0, i);
		taker[i].stalls = true;
	}
	run(TAKERS, 0);
	assert_int_equal(rig.view[0]->turns.used, one);
	close_takers(TAKERS);
}

/* A cursor may go at any time: while it waits, while the reader has its request, while it rests. */
static void test_cursors_that_go_leave_nothing_behind(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 10; seed++) {
		begin(seed, 1, 2u << 20);
		rig.seen_max = 2000;
		publish_many(20, 4, 180000);
		rig_close(true);
		rig_open();
		for (unsigned i = 0; i < TAKERS; i++)
			open_taker(i, 0, 0, 0, i / 10);
		for (unsigned k = 0; k < 40; k++) {
			unsigned i = (unsigned)(dice() % TAKERS);

			for (unsigned j = 0; j < TAKERS; j++)
				step(&taker[j], 2);
			if (dice() % 2)
				turn();
			if (taker[i].slice.hold != NULL)
				stream_slice_put(rig.view[0], &taker[i].slice);
			sub_close(&taker[i].s);
			open_taker(i, 0, 0, 0, dice() % 12);
		}
		close_takers(TAKERS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_given_back_is_given_again_from_the_same_byte_on),
		cmocka_unit_test(test_a_frame_that_retention_took_while_it_was_torn_ends_the_cursor),
		cmocka_unit_test(test_the_memory_of_reads_stays_within_its_bound),
		cmocka_unit_test(test_a_connection_that_takes_nothing_reads_a_few_pieces),
		cmocka_unit_test(test_turns_go_round_connections_and_addresses),
		cmocka_unit_test(test_a_piece_above_the_bound_is_read_alone),
		cmocka_unit_test(test_bytes_that_many_hold_are_charged_once),
		cmocka_unit_test(test_cursors_that_go_leave_nothing_behind),
	};

	log_set_level(LOG_LEVEL_ERROR);
	cmocka_set_test_filter(getenv("ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
