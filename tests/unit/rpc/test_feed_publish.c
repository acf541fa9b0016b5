/* Publish and PublishMany over streams that answer as the test says. */
#include "tests/unit/rpc/feed_rig.h"

static void test_publish_is_answered_when_it_is_durable(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH);
	struct pb_publish_reply r;

	send_publish(c, "a", 7, "hello");
	struct stream_publish *p = fake_publish(0);
	assert_string_equal(p->stream, "a");
	assert_true(p->seq_no == 7 && p->timestamp == 70 && p->payload_n == 5 && !memcmp(p->payload, "hello", 5));
	rig_turn(1);
	assert_false(c->ended);
	fake_answer(p, 3);
	p->answer.durability = STREAM_WRITE;
	p->answer.duplicate = true;
	rig_turn(1);
	assert_true(c->ended && c->replied);
	assert_int_equal(pb_publish_reply_get((struct span){c->reply, c->reply_n}, &r), 0);
	assert_true(r.offset == 3 && r.timestamp == 70 && r.durability == STREAM_WRITE && r.duplicate);
	fake_free(c);
}

static void test_publisher_and_number_are_passed_on(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH);
	uint8_t msg[64];
	size_t n = pb_publish_request_put(
		msg, &(struct pb_publish_request){.publisher = SPAN_LIT("me"), .publisher_seq = 9, .timestamp = -5});

	fake_message(c, msg, n);
	struct stream_publish *p = fake_publish(0);
	assert_string_equal(p->publisher, "me");
	assert_true(p->publisher_seq == 9 && p->timestamp == -5 && p->payload_n == 0);
	fake_free(c);
}

static const struct {
	enum stream_error e;
	enum grpc_status status;
} meanings[] = {
	{STREAM_E_NAME, GRPC_INVALID_ARGUMENT},      {STREAM_E_UNKNOWN, GRPC_NOT_FOUND},
	{STREAM_E_LIMIT, GRPC_RESOURCE_EXHAUSTED},   {STREAM_E_OPEN, GRPC_UNAVAILABLE},
	{STREAM_E_PAYLOAD, GRPC_RESOURCE_EXHAUSTED}, {STREAM_E_PUBLISHER, GRPC_INVALID_ARGUMENT},
	{STREAM_E_STALE, GRPC_OUT_OF_RANGE},         {STREAM_E_BUSY, GRPC_RESOURCE_EXHAUSTED},
	{STREAM_E_FAILED, GRPC_UNAVAILABLE},         {STREAM_E_DAMAGED, GRPC_DATA_LOSS},
	{STREAM_E_ABSENT, GRPC_NOT_FOUND},
};

static void test_errors_have_their_status(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(meanings); i++) {
		for (unsigned later = 0; later < 2; later++) {
			struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH);
			char text[64];
			if (!later)
				fake.refuse_next = meanings[i].e;
			send_publish(c, "a", 1, "");
			if (later)
				fake_refuse(fake_publish(0), meanings[i].e);
			rig_turn(0);
			snprintf(text, sizeof text, "error %d of the streams", (int)meanings[i].e);
			assert_true(c->ended);
			assert_int_equal(c->status, meanings[i].status);
			assert_string_equal(c->text, text);
			fake_free(c);
		}
	}
}

static void test_malformed_publish(void **state)
{
	for (unsigned number = METHOD_FEED_PUBLISH; number <= METHOD_FEED_PUBLISH_MANY; number++) {
		struct fake_call *c = fake_begin(number);
		fake_message(c, (const uint8_t *)"\x0a\x05x", 3);
		rig_turn(0);
		assert_true(c->ended);
		assert_int_equal(c->status, GRPC_INVALID_ARGUMENT);
		assert_non_null(strstr(c->text, "PublishRequest"));
		fake_free(c);
	}
	assert_int_equal(fake.publishes, 0);
}

static void test_a_cancelled_publish_is_let_go(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH);

	send_publish(c, "a", 1, "x");
	fake_cancel(c);
	assert_true(fake_publish(0)->detached);
	fake_answer(fake_publish(0), 1);
	rig_turn(0);
	fake_free(c);
}

static void test_draining_answers_what_is_under_way_and_takes_nothing_new(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH), *d, *m, *n;

	send_publish(c, "a", 1, "x");
	m = fake_begin(METHOD_FEED_PUBLISH_MANY);
	send_publish(m, "a", 2, "y");
	rig_turn(1);
	rig_drain();
	d = fake_begin(METHOD_FEED_PUBLISH);
	send_publish(d, "a", 3, "z");
	assert_true(d->ended);
	assert_int_equal(d->status, GRPC_UNAVAILABLE);
	n = fake_begin(METHOD_FEED_PUBLISH_MANY);
	assert_true(n->ended);
	assert_int_equal(n->status, GRPC_UNAVAILABLE);
	send_publish(m, "a", 4, "too late");
	rig_turn(1);
	assert_int_equal(fake.publishes, 2);
	assert_false(c->ended);
	assert_false(m->ended);
	assert_true(feed_is_publishing(rig.feed));
	fake_answer(fake_publish(0), 1);
	fake_answer(fake_publish(1), 2);
	rig_turn(1);
	assert_true(c->replied);
	assert_true(m->ended && m->n > 0);
	assert_int_equal(m->status, GRPC_UNAVAILABLE);
	assert_false(feed_is_publishing(rig.feed));
	fake_free(c);
	fake_free(d);
	fake_free(m);
	fake_free(n);
}

/* PublishMany. */

static void assert_offsets(struct fake_call *c, size_t *at, uint64_t from, uint64_t to)
{
	struct pb_publish_reply r;

	for (; from <= to; from++) {
		assert_true(next_reply(c, at, &r));
		assert_true(r.offset == from);
	}
	assert_int_equal(*at, c->n);
}

static void test_many_answers_in_the_order_of_requests(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);
	size_t at = 0;

	for (unsigned i = 0; i < 5; i++)
		send_publish(c, i % 2 ? "a" : "b", i, "x");
	fake_answer(fake_publish(1), 2); /* another stream's is durable first */
	fake_answer(fake_publish(3), 4);
	rig_turn(1);
	assert_int_equal(c->n, 0);
	fake_answer(fake_publish(0), 1);
	rig_turn(1);
	assert_offsets(c, &at, 1, 2);
	fake_answer(fake_publish(0), 3);
	fake_answer(fake_publish(1), 5);
	c->call.method->half_close(&c->call);
	rig_turn(1);
	assert_offsets(c, &at, 3, 5);
	assert_true(c->ended && c->status == GRPC_OK);
	assert_int_equal(rig.rpc.stats[c->call.method_index].messages_out, 5);
	fake_free(c);
}

static void test_a_refused_request_ends_many_after_the_answers_before_it(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);
	size_t at = 0;

	for (unsigned i = 0; i < 4; i++)
		send_publish(c, "a", i, "x");
	fake_refuse(fake_publish(2), STREAM_E_STALE);
	rig_turn(1);
	assert_false(c->ended);
	fake_answer(fake_publish(0), 1);
	fake_answer(fake_publish(1), 2);
	struct stream_publish *last = fake_publish(2);
	rig_turn(1);
	assert_offsets(c, &at, 1, 2);
	assert_true(c->ended);
	assert_int_equal(c->status, GRPC_OUT_OF_RANGE);
	assert_non_null(strstr(c->text, "request 3: "));
	assert_true(last->detached);
	fake_free(c);
}

static void test_a_request_refused_at_once_ends_many_likewise(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);
	size_t at = 0;

	send_publish(c, "a", 1, "x");
	fake.refuse_next = STREAM_E_PAYLOAD;
	send_publish(c, "a", 2, "x");
	send_publish(c, "a", 3, "not taken");
	rig_turn(1);
	assert_false(c->ended);
	fake_answer(fake_publish(0), 1);
	rig_turn(1);
	assert_offsets(c, &at, 1, 1);
	assert_true(c->ended);
	assert_int_equal(c->status, GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(c->text, "request 2: "));
	assert_int_equal(fake.publishes, 1);
	fake_free(c);
}

static void test_many_pauses_at_its_pipeline(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);

	for (unsigned i = 0; i < 7; i++)
		send_publish(c, "a", i, "x");
	assert_false(c->paused);
	send_publish(c, "a", 8, "x");
	assert_true(c->paused);
	send_publish(c, "a", 9, "had been received already");
	for (unsigned i = 0; i < 4; i++)
		fake_answer(fake_publish(i), i + 1);
	rig_turn(1);
	assert_true(c->paused); /* five are left, more than half */
	fake_answer(fake_publish(0), 5);
	rig_turn(1);
	assert_false(c->paused);
	fake_free(c);
}

static void test_many_pauses_while_too_much_is_held(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY), *d = fake_begin(METHOD_FEED_PUBLISH_MANY);

	fake.held = 501;
	send_publish(c, "a", 1, "x");
	assert_true(c->paused);
	send_publish(d, "a", 2, "x");
	fake_answer(fake_publish(0), 1);
	rig_turn(1);
	assert_false(c->paused); /* one at a time always goes */
	fake.held = 0;
	fake_free(c);
	fake_free(d);
}

static void test_answers_wait_for_a_client_that_does_not_read(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);
	size_t at = 0;

	c->room = 7; /* in the middle of the first answer */
	for (unsigned i = 0; i < 8; i++)
		send_publish(c, "a", i, "x");
	for (unsigned i = 0; i < 8; i++)
		fake_answer(fake_publish(i), i + 1);
	c->call.method->half_close(&c->call);
	rig_turn(1);
	rig_turn(1);
	assert_int_equal(c->n, 7);
	assert_false(c->ended);
	for (unsigned i = 0; i < 1000 && !c->ended; i++) {
		rig_room(c, 5);
		rig_turn(1);
	}
	assert_true(c->ended && c->status == GRPC_OK);
	assert_offsets(c, &at, 1, 8);
	fake_free(c);
}

static void test_many_cancelled_with_answers_in_flight(void **state)
{
	struct fake_call *c = fake_begin(METHOD_FEED_PUBLISH_MANY);

	c->room = 9;
	for (unsigned i = 0; i < 4; i++)
		send_publish(c, "a", i, "x");
	fake_answer(fake_publish(0), 1);
	fake_answer(fake_publish(1), 2);
	rig_turn(1);
	fake_cancel(c);
	assert_true(fake_publish(0)->detached && fake_publish(1)->detached);
	rig_turn(1);
	fake_free(c);
}

static void test_more_answers_than_one_piece_has_room_for(void **state)
{
	struct fake_call *c;
	size_t at = 0;

	rig_end(NULL);
	rig_begin_with(&(struct feed_opts){.shards = 1, .streams_max = 26, .pipeline = 5000, .held_max = 1000});
	c = fake_begin(METHOD_FEED_PUBLISH_MANY);
	for (unsigned i = 0; i < 3000; i++)
		send_publish(c, "a", UINT64_C(1) << 40, "");
	unsigned i = 0;
	for (struct stream_publish *p = fake.first; p; p = p->next)
		fake_answer(p, ++i);
	rig_turn(1);
	assert_offsets(c, &at, 1, 3000);
	fake_free(c);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_begin, rig_end)
	const struct CMUnitTest tests[] = {
		TEST(test_publish_is_answered_when_it_is_durable),
		TEST(test_publisher_and_number_are_passed_on),
		TEST(test_errors_have_their_status),
		TEST(test_malformed_publish),
		TEST(test_a_cancelled_publish_is_let_go),
		TEST(test_draining_answers_what_is_under_way_and_takes_nothing_new),
		TEST(test_many_answers_in_the_order_of_requests),
		TEST(test_a_refused_request_ends_many_after_the_answers_before_it),
		TEST(test_a_request_refused_at_once_ends_many_likewise),
		TEST(test_many_pauses_at_its_pipeline),
		TEST(test_many_pauses_while_too_much_is_held),
		TEST(test_answers_wait_for_a_client_that_does_not_read),
		TEST(test_many_cancelled_with_answers_in_flight),
		TEST(test_more_answers_than_one_piece_has_room_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
