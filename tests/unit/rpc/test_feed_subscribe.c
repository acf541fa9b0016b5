/* Subscribe over cursors and a session that do as the test says. */
#include "tests/unit/rpc/feed_rig.h"

#define SLICE 3000 /* bytes of a large frame's payload */

static void assert_frames(struct fake_call *c, size_t *at, uint64_t from, uint64_t to)
{
	struct frame f;

	for (; from <= to; from++) {
		assert_true(next_frame(c, at, &f));
		assert_true(f.mark == FRAME_NONE && f.incarnation == 0);
		assert_int_equal(f.offset, from);
	}
}

static struct frame assert_mark(struct fake_call *c, size_t *at, enum frame_mark mark)
{
	struct frame f;

	assert_true(next_frame(c, at, &f));
	assert_int_equal(f.mark, mark);
	assert_true(f.incarnation == FAKE_INCARNATION);
	return f;
}

static void assert_nothing(const struct fake_call *c, size_t at)
{
	assert_int_equal(at, c->n);
}

/* A subscriber that has gone live with nothing before it. */
static struct stream_cursor *subscribe_live(struct fake_call *c, struct pb_subscribe_request r, size_t *at)
{
	struct stream_cursor *cursor = send_subscribe(c, r);

	cursor->offset = 1;
	fake_add(cursor, CURSOR_CAUGHT_UP);
	rig_turn(1);
	assert_true(assert_mark(c, at, FRAME_CAUGHT_UP).offset == 0);
	return cursor;
}

static void test_history_caught_up_live(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(
		c, (struct pb_subscribe_request){.replay_seq_no_start = 4, .resume_offset = 9});
	size_t at = 0;

	assert_string_equal(cursor->stream, "b");
	assert_true(cursor->start.seq_no == 4 && cursor->start.offset == 9);
	rig_turn(1); /* it waits */
	assert_int_equal(c->n, 0);
	fake_add_frames(cursor, 1, 3, NULL, 10);
	fake_add_frames(cursor, 4, 2, NULL, SLICE);
	fake_add(cursor, CURSOR_CAUGHT_UP);
	fake_add_frames(cursor, 6, 1, NULL, 10);
	rig_turn(1);
	assert_frames(c, &at, 1, 5);
	assert_true(assert_mark(c, &at, FRAME_CAUGHT_UP).offset == 5);
	assert_frames(c, &at, 6, 6);
	fake_add_frames(cursor, 7, 4, NULL, 0);
	rig_turn(1);
	assert_frames(c, &at, 7, 10);
	assert_nothing(c, at);
	assert_int_equal(rig.rpc.stats[c->call.method_index].messages_out, 10);
	fake_free(c);
}

static void test_a_resumed_one_is_told_first_what_it_resumes(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(
			c, i == 0 ? (struct pb_subscribe_request){.resume_offset = 9, .incarnation = 17}
				  : (struct pb_subscribe_request){.mark_begin = true, .reorder_ms = 50});
		size_t at = 0;

		assert_true(cursor->start.incarnation == (i == 0 ? 17 : 0));
		assert_int_equal(cursor->start.tell_begin, i == 1);
		fake_add(cursor, CURSOR_BEGUN)->next_offset = i == 0 ? 9 : 0;
		fake_add_frames(cursor, 9, 2, NULL, 10);
		rig_turn(1);
		assert_true(assert_mark(c, &at, FRAME_RESUMED).offset == (i == 0 ? 9 : 0));
		assert_frames(c, &at, 9, 10);
		assert_nothing(c, at);
		fake_free(c);
	}
}

static void test_what_cannot_be_resumed_is_out_of_range_with_the_streams_own_words(void **state)
{
	static const enum stream_error errors[] = {STREAM_E_INCARNATION, STREAM_E_BEYOND};

	for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){.resume_offset = 9});

		cursor->error = errors[i];
		cursor->why = "another life";
		fake_add(cursor, CURSOR_ENDED);
		rig_turn(1);
		assert_true(c->ended);
		assert_int_equal(c->status, GRPC_OUT_OF_RANGE);
		assert_string_equal(c->text, "another life");
		assert_int_equal(c->n, 0);
		fake_free(c);
	}
}

static void test_gaps_are_named(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
	size_t at = 0;

	*fake_add(cursor, CURSOR_GAP) = (struct fake_step){.state = CURSOR_GAP, .from = 1, .to = 40};
	fake_add_frames(cursor, 41, 2, NULL, 10);
	rig_turn(1);
	struct frame f = assert_mark(c, &at, FRAME_GAP);
	assert_true(f.gap_from == 1 && f.gap_to == 40);
	assert_frames(c, &at, 41, 42);
	fake_free(c);
}

/* Every byte is given once, however few the call takes at a time, and memory stays until the output lets go. */
static void test_bytes_in_pieces(void **state)
{
	for (size_t room = 1; room < 9000; room = room * 3 + 1) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
		size_t at = 0;
		c->room = room;
		fake_add_frames(cursor, 1, 10, NULL, room < 20 ? 9 : 900);
		fake_add(cursor, CURSOR_CAUGHT_UP);
		fake_add_frames(cursor, 11, 1, NULL, room < 20 ? 9 : 5000);
		rig_turn(1);
		for (unsigned i = 0; i < 3000 && !(cursor->waits && c->room); i++) {
			rig_room(c, room);
			rig_turn(0);
		}
		assert_frames(c, &at, 1, 10);
		assert_mark(c, &at, FRAME_CAUGHT_UP);
		assert_frames(c, &at, 11, 11);
		assert_nothing(c, at);
		fake_free(c);
		assert_int_equal(fake.slices, 0);
	}
}

static void test_a_blocked_subscriber_is_not_pumped(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});

	c->room = 10;
	for (unsigned i = 0; i < 5; i++)
		fake_add_frames(cursor, 1 + i, 1, NULL, 100);
	rig_turn(1);
	rig_turn(1);
	assert_int_equal(cursor->at, 1); /* what waits stays in the log */
	fake_free(c);
}

/* The client goes while the kernel still reads from the log's memory. */
static void test_cancelled_with_a_send_in_flight(void **state)
{
	for (size_t room = 0; room < 8000; room += 1999) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
		c->room = room;
		fake_add_frames(cursor, 1, 2, NULL, SLICE);
		fake_add_frames(cursor, 3, 2, NULL, SLICE);
		rig_turn(1);
		assert_true(fake.slices > 0);
		fake_cancel(c);
		assert_true(fake.slices > 0);
		rig_turn(1);
		fake_flush(c);
		assert_int_equal(fake.slices, 0);
		fake_free(c);
	}
}

/* A call that takes nothing has nothing read for it: what was read would only wait in memory. */
static void test_what_has_to_be_read_is_asked_for_when_the_call_has_room(void **state)
{
	for (unsigned shut = 0; shut < 2; shut++) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
		size_t at = 0;

		c->room = 0;
		c->shut = shut;
		fake_add(cursor, CURSOR_COLD);
		rig_turn(1);
		rig_turn(1);
		assert_false(cursor->reads);
		assert_true(cursor->rests);
		assert_int_equal(cursor->alone, shut);
		cursor->at = 0; /* the cursor says so until it is asked */
		rig_room(c, 100000);
		rig_turn(1);
		assert_true(cursor->reads);
		fake_add_frames(cursor, 1, 3, NULL, SLICE);
		rig_turn(1);
		assert_frames(c, &at, 1, 3);
		fake_free(c);
	}
}

/* Memory is short: a subscriber that takes nothing gives its slice back, wherever it is in it, and goes on from there. */
static void test_a_slice_that_was_given_back_goes_on_where_it_was(void **state)
{
	for (size_t room = 0; room < 3 * SLICE; room += 97) {
		struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
		struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
		size_t at = 0;

		c->room = room;
		fake_add_frames(cursor, 1, 3, NULL, SLICE);
		fake_add(cursor, CURSOR_CAUGHT_UP);
		rig_turn(1);
		assert_true(cursor->rests);
		cursor->give_back = true;
		rig_turn(1);
		assert_false(cursor->rests);
		cursor->give_back = false;
		assert_int_equal(fake.slices, 1); /* the output has it still */
		fake_flush(c);
		assert_int_equal(fake.slices, 0);
		for (unsigned i = 0; i < 200 && !cursor->waits; i++) {
			rig_room(c, 101);
			cursor->give_back = i % 3 == 0;
			rig_turn(1);
			fake_flush(c);
		}
		assert_frames(c, &at, 1, 3);
		assert_mark(c, &at, FRAME_CAUGHT_UP);
		assert_nothing(c, at);
		assert_int_equal(rig.rpc.stats[c->call.method_index].messages_out, 3);
		rig.rpc.stats[c->call.method_index].messages_out = 0;
		fake_free(c);
	}
}

/* What was given back in the middle of a frame: the rest of the frame comes first, and no mark or other frame before it. */
static void test_nothing_is_put_into_the_middle_of_a_frame(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){.slow = FEED_SLOW_DROP});
	size_t at = 0;

	cursor->offset = 1;
	fake_add(cursor, CURSOR_CAUGHT_UP);
	rig_turn(1);
	assert_mark(c, &at, FRAME_CAUGHT_UP);
	c->room = SLICE / 2;
	fake_add_frames(cursor, 1, 2, NULL, SLICE);
	rig_turn(1);
	cursor->give_back = true;
	rig_turn(1);
	fake_flush(c);
	cursor->give_back = false;
	cursor->lag_bytes = 1000000; /* so far behind that frames would be dropped */
	rig_drain();
	rig_turn(6000); /* and time to go */
	rig_room(c, SIZE_MAX);
	rig_turn(1);
	assert_int_equal(cursor->dropped_to, 500); /* behind the two frames */
	assert_frames(c, &at, 1, 2);
	assert_mark(c, &at, FRAME_GOING_AWAY);
	fake_free(c);
}

static void test_requests_that_are_refused(void **state)
{
	static const struct {
		struct pb_subscribe_request r;
		const char *word;
	} bad[] = {{{.slow = 3}, "SlowPolicy"}, {{.reorder_ms = FEED_REORDER_MS_MAX + 1}, "60000"}};
	struct fake_call *c;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		c = fake_begin(METHOD_FEED_SUBSCRIBE);
		send_subscribe(c, bad[i].r);
		assert_true(c->ended);
		assert_int_equal(c->status, GRPC_INVALID_ARGUMENT);
		assert_non_null(strstr(c->text, bad[i].word));
		fake_free(c);
	}
	c = fake_begin(METHOD_FEED_SUBSCRIBE);
	fake_message(c, (const uint8_t *)"\x0a\x02\xff\xff", 4);
	assert_true(c->ended && c->status == GRPC_INVALID_ARGUMENT);
	fake_free(c);
	c = fake_begin(METHOD_FEED_SUBSCRIBE);
	fake.refuse_next = STREAM_E_UNKNOWN;
	send_subscribe(c, (struct pb_subscribe_request){.reorder_ms = 5});
	assert_true(c->ended && c->status == GRPC_NOT_FOUND);
	fake_free(c);
	rig_turn(1);
}

static void test_a_cursor_that_ends_says_why(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
	size_t at = 0;

	fake_add_frames(cursor, 1, 2, NULL, 10);
	fake_add(cursor, CURSOR_ENDED);
	cursor->error = STREAM_E_DAMAGED;
	cursor->why = "byte 7 of the file x";
	rig_turn(1);
	assert_frames(c, &at, 1, 2);
	assert_true(c->ended && c->status == GRPC_DATA_LOSS);
	assert_string_equal(c->text, "byte 7 of the file x");
	fake_free(c);
}

/* Slow ones: lag_max is 1000. */

static void test_slow_wait_waits(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	size_t at = 0;
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){.slow = FEED_SLOW_WAIT}, &at);

	c->room = 10;
	fake_add_frames(cursor, 1, 1, NULL, 100);
	cursor->lag_bytes = 1000000;
	for (unsigned i = 0; i < 20; i++)
		rig_turn(1000);
	assert_false(c->ended);
	rig_room(c, SIZE_MAX);
	rig_turn(1);
	assert_frames(c, &at, 1, 1);
	assert_int_equal(cursor->dropped_to, 0);
	fake_free(c);
}

static void test_slow_drop_drops_the_oldest(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	size_t at = 0;
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){.slow = FEED_SLOW_DROP}, &at);

	c->room = 10;
	fake_add_frames(cursor, 1, 1, NULL, 100);
	rig_turn(1);
	cursor->lag_bytes = 1001;
	rig_turn(5000);
	assert_int_equal(cursor->dropped_to, 0); /* nothing is lost before it is asked for */
	*fake_add(cursor, CURSOR_GAP) = (struct fake_step){.state = CURSOR_GAP, .from = 2, .to = 9};
	fake_add_frames(cursor, 10, 2, NULL, 100);
	rig_room(c, SIZE_MAX);
	rig_turn(1);
	assert_int_equal(cursor->dropped_to, 500);
	assert_frames(c, &at, 1, 1);
	assert_true(assert_mark(c, &at, FRAME_GAP).gap_to == 9);
	assert_frames(c, &at, 10, 11);
	const struct feed_count *n = &((struct svc_feed *)rig.rpc.feed)->count[1];
	assert_true(n->drops == 1 && n->dropped == 8 && n->frames == 3);
	fake_free(c);
}

static void test_slow_disconnect_ends_with_the_limit_named(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	size_t at = 0;
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){.slow = FEED_SLOW_DISCONNECT},
						      &at);

	c->room = 10;
	fake_add_frames(cursor, 1, 1, NULL, 100);
	cursor->lag_bytes = 1000;
	for (unsigned i = 0; i < 5; i++)
		rig_turn(1000);
	assert_false(c->ended);
	cursor->lag_bytes = 1001; /* its call takes nothing, so only time can tell */
	for (unsigned i = 0; i < 2; i++)
		rig_turn(1000);
	assert_true(c->ended);
	assert_int_equal(c->status, GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(c->text, "FEED_LAG_MAX_BYTES"));
	assert_non_null(strstr(c->text, "1000"));
	assert_int_equal(((struct svc_feed *)rig.rpc.feed)->count[1].disconnected, 1);
	fake_free(c);
}

/* While history was given, much was published: that is no fault of the subscriber's. */
static void test_a_long_history_is_no_lag(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){.slow = FEED_SLOW_DISCONNECT});

	cursor->lag_bytes = 500000;
	fake_add_frames(cursor, 1, 1, NULL, 100);
	fake_add(cursor, CURSOR_CAUGHT_UP);
	fake_add_frames(cursor, 2, 1, NULL, 100);
	rig_turn(1);
	for (unsigned i = 0; i < 5; i++) {
		cursor->lag_bytes -= 50000;
		fake_add_frames(cursor, 3 + i, 1, NULL, 100);
		rig_turn(1000);
	}
	assert_false(c->ended);
	cursor->lag_bytes += 1001; /* it falls back from where it had come */
	fake_add_frames(cursor, 8, 1, NULL, 100);
	rig_turn(1);
	assert_true(c->ended && c->status == GRPC_RESOURCE_EXHAUSTED);
	fake_free(c);
}

/* Draining: 10 s. */

static void test_draining_gives_what_is_durable_and_says_where_to_resume(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE), *p = fake_begin(METHOD_FEED_PUBLISH), *d;
	size_t at = 0;
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){0}, &at);

	send_publish(p, "b", 1, "x");
	rig_turn(1);
	rig_drain();
	d = fake_begin(METHOD_FEED_SUBSCRIBE);
	send_subscribe(d, (struct pb_subscribe_request){0});
	assert_true(d->ended && d->status == GRPC_UNAVAILABLE);
	rig_turn(20);
	assert_false(c->ended); /* a publish is under way */
	fake_answer(fake_publish(0), 1);
	fake_add_frames(cursor, 1, 1, NULL, 10);
	for (unsigned i = 0; i < 5 && !c->ended; i++)
		rig_turn(20);
	assert_frames(c, &at, 1, 1);
	assert_true(assert_mark(c, &at, FRAME_GOING_AWAY).offset == 2);
	assert_nothing(c, at);
	assert_true(c->ended && c->status == GRPC_OK);
	fake_free(c);
	fake_free(d);
	fake_free(p);
}

static void test_draining_lets_a_subscriber_read_on(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	size_t at = 0;
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){0}, &at);

	c->room = 0;
	for (unsigned i = 0; i < 5; i++)
		fake_add_frames(cursor, 1 + i, 1, NULL, 500);
	rig_turn(1);
	rig_drain();
	for (unsigned i = 0; i < 40 && !c->ended; i++) {
		rig_turn(20);
		rig_room(c, 100);
	}
	rig_turn(20);
	assert_true(c->ended && c->status == GRPC_OK);
	assert_frames(c, &at, 1, 5);
	assert_true(assert_mark(c, &at, FRAME_GOING_AWAY).offset == 6);
	fake_free(c);
}

/* One that would take longer is cut at half the drain time, between two pieces. */
static void test_draining_cuts_a_long_history(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){0});
	size_t at = 0;
	unsigned ms = 0;

	for (unsigned i = 0; i < 60; i++)
		fake_add_frames(cursor, 1 + i, 1, NULL, 1000);
	for (unsigned i = 0; i < 60; i++)
		cursor->step[i].next_offset = 0; /* sorted history has no place to resume at */
	c->room = 100;
	rig_turn(1);
	rig_drain();
	for (; ms < 9000 && !c->ended; ms += 20) {
		rig_turn(20);
		rig_room(c, 10);
	}
	assert_true(ms < 9000 && c->status == GRPC_OK && cursor != fake.cursors);
	struct frame f = {0};
	uint64_t n = 0;
	for (; next_frame(c, &at, &f) && f.mark == FRAME_NONE;)
		assert_true(f.offset == ++n);
	assert_true(f.mark == FRAME_GOING_AWAY && f.offset == 0);
	assert_nothing(c, at);
	assert_true(n > 0 && n < 60);
	fake_free(c);
}

/* The reorder window. */

static void test_live_frames_are_reordered(void **state)
{
	static const struct fake_key keys[] = {{5, 1}, {4, 1}, {4, 0}}, more[] = {{6, 1}, {1, 1}};
	struct fake_call *c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = send_subscribe(c, (struct pb_subscribe_request){.reorder_ms = 50});
	size_t at = 0;

	fake_add_frames(cursor, 1, 2, NULL, 10); /* history goes as it comes */
	fake_add(cursor, CURSOR_CAUGHT_UP);
	fake_add_frames(cursor, 3, 3, keys, 10);
	rig_turn(1);
	assert_frames(c, &at, 1, 2);
	assert_mark(c, &at, FRAME_CAUGHT_UP);
	assert_nothing(c, at);
	rig_turn(40);
	assert_nothing(c, at);
	rig_turn(11);
	assert_frames(c, &at, 5, 5);
	assert_frames(c, &at, 4, 4);
	assert_frames(c, &at, 3, 3);
	fake_add_frames(cursor, 6, 2, more, 10);
	rig_turn(1);
	assert_frames(c, &at, 7, 7); /* too late to be put in order */
	assert_nothing(c, at);
	*fake_add(cursor, CURSOR_GAP) = (struct fake_step){.state = CURSOR_GAP, .from = 8, .to = 9};
	rig_turn(1);
	assert_frames(c, &at, 6, 6); /* a mark keeps its place */
	assert_mark(c, &at, FRAME_GAP);
	const struct feed_count *n = &((struct svc_feed *)rig.rpc.feed)->count[1];
	assert_true(n->frames == 7 && n->disordered == 1);
	fake_free(c);
}

static void test_the_window_of_those_who_ask_for_none(void **state)
{
	static const struct fake_key keys[] = {{5, 1}, {4, 1}};
	struct fake_call *c;
	size_t at = 0;

	rig_end(NULL);
	rig_begin_with(&(struct feed_opts){.shards = 1,
					   .streams_max = 26,
					   .pipeline = 1,
					   .reorder_ms = 30,
					   .reorder_bytes = 10000,
					   .reorder_total = 1 << 20});
	c = fake_begin(METHOD_FEED_SUBSCRIBE);
	struct stream_cursor *cursor = subscribe_live(c, (struct pb_subscribe_request){0}, &at);
	fake_add_frames(cursor, 1, 2, keys, 10);
	rig_turn(1);
	rig_turn(31);
	assert_frames(c, &at, 2, 2);
	assert_frames(c, &at, 1, 1);
	fake_free(c);
}

/* ---- figures ---- */

static void test_the_report_is_read_while_subscribers_come_and_go(void **state)
{
	struct fake_call *c[3];
	struct text t = {0};
	struct json j = {.to = &t};
	size_t at;

	for (unsigned i = 0; i < 3; i++) {
		c[i] = fake_begin(METHOD_FEED_SUBSCRIBE);
		at = 0;
		subscribe_live(c[i], (struct pb_subscribe_request){0}, &at)->lag_bytes = 100 * (i + 1);
	}
	fake_free(c[1]);
	rig_turn(1000);
	rig_turn(1000);
	json_open(&j, NULL, '{');
	feed_report_json(rig.feed, &j);
	json_close(&j, '}');
	text_add(&t, "", 1);
	assert_false(t.failed);
	assert_non_null(strstr(t.p, "\"subscribers\":2"));
	assert_non_null(strstr(t.p, "\"lag_bytes\":{\"p50\":300,\"p90\":300,\"p99\":300,\"max\":300}"));
	text_done(&t);
	fake_free(c[0]);
	fake_free(c[2]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_begin, rig_end)
	const struct CMUnitTest tests[] = {
		TEST(test_history_caught_up_live),
		TEST(test_a_resumed_one_is_told_first_what_it_resumes),
		TEST(test_what_cannot_be_resumed_is_out_of_range_with_the_streams_own_words),
		TEST(test_gaps_are_named),
		TEST(test_bytes_in_pieces),
		TEST(test_a_blocked_subscriber_is_not_pumped),
		TEST(test_cancelled_with_a_send_in_flight),
		TEST(test_what_has_to_be_read_is_asked_for_when_the_call_has_room),
		TEST(test_a_slice_that_was_given_back_goes_on_where_it_was),
		TEST(test_nothing_is_put_into_the_middle_of_a_frame),
		TEST(test_requests_that_are_refused),
		TEST(test_a_cursor_that_ends_says_why),
		TEST(test_slow_wait_waits),
		TEST(test_slow_drop_drops_the_oldest),
		TEST(test_slow_disconnect_ends_with_the_limit_named),
		TEST(test_a_long_history_is_no_lag),
		TEST(test_draining_gives_what_is_durable_and_says_where_to_resume),
		TEST(test_draining_lets_a_subscriber_read_on),
		TEST(test_draining_cuts_a_long_history),
		TEST(test_live_frames_are_reordered),
		TEST(test_the_window_of_those_who_ask_for_none),
		TEST(test_the_report_is_read_while_subscribers_come_and_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
