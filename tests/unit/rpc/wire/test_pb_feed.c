/* pb_feed.c against protobuf-c's generated code: what one writes the other reads, byte for byte, and cut or damaged messages are judged alike. */
#include "rpc/wire/pb_feed.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"
#include "tests/unit/rpc/wire/random.h"

#include "ordinal/v1/ordinal.pb-c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { ROUNDS = 20000, TEXT_MAX = 40, PAYLOAD_MAX = 300 };

/* Often 0, which encoders leave out. */
static uint64_t number(uint64_t *seed)
{
	return random_below(seed, 4) ? random_wide(seed) : 0;
}

/* Letters, and now and then "ä"; terminated, for protobuf-c. */
static size_t text(uint64_t *seed, char *out)
{
	size_t n = random_below(seed, TEXT_MAX - 3);

	for (size_t i = 0; i < n; i++)
		out[i] = (char)('a' + random_below(seed, 26));
	if (random_below(seed, 5) == 0) {
		memcpy(out + n, "ä", 2);
		n += 2;
	}
	out[n] = 0;
	return n;
}

static struct span span_of(const char *s, size_t n)
{
	return (struct span){(const uint8_t *)s, n};
}

/* Bytes, or a text of protobuf-c, which it gives as "" when there is none. */
static bool same(struct span a, const void *p, size_t n)
{
	return span_eq(a, (struct span){p, n});
}

struct publish {
	struct pb_publish_request ours;
	Ordinal__V1__PublishRequest theirs;
	char stream[TEXT_MAX], publisher[TEXT_MAX];
	uint8_t payload[PAYLOAD_MAX];
};

static void publish_make(uint64_t *seed, struct publish *m)
{
	size_t payload = random_below(seed, PAYLOAD_MAX);

	for (size_t i = 0; i < payload; i++)
		m->payload[i] = (uint8_t)random_next(seed);
	m->ours = (struct pb_publish_request){.stream = span_of(m->stream, text(seed, m->stream)),
					      .seq_no = number(seed),
					      .payload = {m->payload, payload},
					      .timestamp = (int64_t)number(seed),
					      .publisher = span_of(m->publisher, text(seed, m->publisher)),
					      .publisher_seq = number(seed)};
	ordinal__v1__publish_request__init(&m->theirs);
	m->theirs.stream = m->stream;
	m->theirs.seq_no = m->ours.seq_no;
	m->theirs.payload.data = m->payload;
	m->theirs.payload.len = payload;
	m->theirs.timestamp = m->ours.timestamp;
	m->theirs.publisher = m->publisher;
	m->theirs.publisher_seq = m->ours.publisher_seq;
}

static void publish_compare(const struct pb_publish_request *r, const Ordinal__V1__PublishRequest *want)
{
	assert_true(same(r->stream, want->stream, strlen(want->stream)));
	assert_true(r->seq_no == want->seq_no);
	assert_true(same(r->payload, want->payload.data, want->payload.len));
	assert_true(r->timestamp == want->timestamp);
	assert_true(same(r->publisher, want->publisher, strlen(want->publisher)));
	assert_true(r->publisher_seq == want->publisher_seq);
}

/* Reads the bytes with both. `strict`: they have to agree on whether it is a message. */
static void publish_judge(const uint8_t *bytes, size_t n, bool strict)
{
	uint8_t *copy = exact_copy(bytes, n);
	struct pb_publish_request r = {.seq_no = 12345};
	int got = pb_publish_request_get((struct span){copy, n}, &r);
	Ordinal__V1__PublishRequest *want = ordinal__v1__publish_request__unpack(NULL, n, copy);

	assert_true(got == 0 || (got == -EBADMSG && r.seq_no == 12345));
	if (strict)
		assert_int_equal(got == 0, want != NULL);
	if (got == 0 && want && !memchr(r.stream.p, 0, r.stream.n) && !memchr(r.publisher.p, 0, r.publisher.n))
		publish_compare(&r, want);
	if (want)
		ordinal__v1__publish_request__free_unpacked(want, NULL);
	free(copy);
}

static void test_publish_request(void **state)
{
	uint64_t seed = 1;
	struct publish m;
	uint8_t ours[PAYLOAD_MAX + 2 * TEXT_MAX + PB_PUBLISH_REQUEST_OVERHEAD], theirs[sizeof ours];

	for (int i = 0; i < ROUNDS; i++) {
		publish_make(&seed, &m);
		size_t n = pb_publish_request_put(ours, &m.ours);
		assert_true(n <= m.ours.stream.n + m.ours.payload.n + m.ours.publisher.n + PB_PUBLISH_REQUEST_OVERHEAD);
		assert_int_equal(ordinal__v1__publish_request__get_packed_size(&m.theirs), n);
		ordinal__v1__publish_request__pack(&m.theirs, theirs);
		assert_memory_equal(ours, theirs, n);
		publish_judge(ours, n, true);
		publish_judge(ours, random_below(&seed, (uint32_t)n + 1), true);
		if (n)
			ours[random_below(&seed, (uint32_t)n)] ^= (uint8_t)(1 << random_below(&seed, 8));
		publish_judge(ours, n, false);
	}
}

static void test_publish_request_takes_the_last_and_skips_the_unknown(void **state)
{
	static const uint8_t msg[] = {
		0x10, 5,    0x0a, 1,    'x',  0x7a, 2, 1, 2, 0x0a, 2, 'a',
		'b',  0x10, 0x80, 0x01, 0x45, 1,    2, 3, 4, 0x18, 9 /* the payload's number as a varint */};
	struct pb_publish_request r;

	assert_int_equal(pb_publish_request_get((struct span){msg, sizeof msg}, &r), 0);
	assert_true(span_eq(r.stream, SPAN_LIT("ab")) && r.seq_no == 128 && r.payload.n == 0 && r.timestamp == 0);
	assert_int_equal(pb_publish_request_get((struct span){NULL, 0}, &r), 0);
	assert_true(r.stream.n == 0 && r.payload.n == 0 && r.seq_no == 0);
}

static void test_texts_have_to_be_utf8(void **state)
{
	static const uint8_t stream[] = {0x0a, 2, 0xc3, 0x28}, publisher[] = {0x2a, 1, 0xff},
			     payload[] = {0x1a, 1, 0xff};
	struct pb_publish_request r;
	struct pb_subscribe_request s;

	assert_int_equal(pb_publish_request_get((struct span){stream, sizeof stream}, &r), -EBADMSG);
	assert_int_equal(pb_publish_request_get((struct span){publisher, sizeof publisher}, &r), -EBADMSG);
	assert_int_equal(pb_subscribe_request_get((struct span){stream, sizeof stream}, &s), -EBADMSG);
	assert_int_equal(pb_publish_request_get((struct span){payload, sizeof payload}, &r), 0);
}

static void test_publish_reply(void **state)
{
	uint64_t seed = 2;

	for (int i = 0; i < ROUNDS; i++) {
		uint8_t ours[PB_PUBLISH_REPLY_MAX], theirs[64];
		struct pb_publish_reply back, r = {.offset = number(&seed),
						   .timestamp = (int64_t)number(&seed),
						   .durability = random_below(&seed, 3),
						   .duplicate = random_below(&seed, 2),
						   .incarnation = number(&seed)};
		Ordinal__V1__PublishReply m;
		ordinal__v1__publish_reply__init(&m);
		m.offset = r.offset;
		m.timestamp = r.timestamp;
		m.durability = (Ordinal__V1__Durability)r.durability;
		m.duplicate = r.duplicate;
		m.incarnation = r.incarnation;
		size_t n = pb_publish_reply_put(ours, &r);
		assert_true(n <= sizeof ours);
		assert_int_equal(ordinal__v1__publish_reply__pack(&m, theirs), n);
		assert_memory_equal(ours, theirs, n);
		assert_int_equal(pb_publish_reply_get((struct span){ours, n}, &back), 0);
		assert_true(back.offset == r.offset && back.timestamp == r.timestamp &&
			    back.durability == r.durability && back.duplicate == r.duplicate &&
			    back.incarnation == r.incarnation);
		for (size_t cut = 0; cut < n; cut++) {
			uint8_t *copy = exact_copy(ours, cut);
			Ordinal__V1__PublishReply *want = ordinal__v1__publish_reply__unpack(NULL, cut, copy);
			assert_int_equal(pb_publish_reply_get((struct span){copy, cut}, &back), want ? 0 : -EBADMSG);
			if (want)
				ordinal__v1__publish_reply__free_unpacked(want, NULL);
			free(copy);
		}
	}
}

static void test_subscribe_request(void **state)
{
	uint64_t seed = 3;

	for (int i = 0; i < ROUNDS; i++) {
		uint8_t ours[TEXT_MAX + PB_SUBSCRIBE_REQUEST_OVERHEAD], theirs[sizeof ours];
		char stream[TEXT_MAX];
		struct pb_subscribe_request back, r = {.stream = span_of(stream, text(&seed, stream)),
						       .replay_seq_no_start = number(&seed),
						       .slow = random_below(&seed, 4),
						       .resume_offset = number(&seed),
						       .reorder_ms = (uint32_t)number(&seed),
						       .incarnation = number(&seed),
						       .mark_begin = random_below(&seed, 2)};
		Ordinal__V1__SubscribeRequest m;
		ordinal__v1__subscribe_request__init(&m);
		m.stream = stream;
		m.replay_seq_no_start = r.replay_seq_no_start;
		m.slow = (Ordinal__V1__SlowPolicy)r.slow;
		m.resume_offset = r.resume_offset;
		m.reorder_ms = r.reorder_ms;
		m.incarnation = r.incarnation;
		m.mark_begin = r.mark_begin;
		size_t n = pb_subscribe_request_put(ours, &r);
		assert_int_equal(ordinal__v1__subscribe_request__get_packed_size(&m), n);
		ordinal__v1__subscribe_request__pack(&m, theirs);
		assert_memory_equal(ours, theirs, n);
		assert_int_equal(pb_subscribe_request_get((struct span){ours, n}, &back), 0);
		assert_true(span_eq(back.stream, r.stream) && back.replay_seq_no_start == r.replay_seq_no_start &&
			    back.slow == r.slow && back.resume_offset == r.resume_offset &&
			    back.reorder_ms == r.reorder_ms && back.incarnation == r.incarnation &&
			    back.mark_begin == r.mark_begin);
		for (size_t cut = 0; cut < n; cut++) {
			uint8_t *copy = exact_copy(ours, cut);
			Ordinal__V1__SubscribeRequest *want = ordinal__v1__subscribe_request__unpack(NULL, cut, copy);
			assert_int_equal(pb_subscribe_request_get((struct span){copy, cut}, &back),
					 want ? 0 : -EBADMSG);
			if (want)
				ordinal__v1__subscribe_request__free_unpacked(want, NULL);
			free(copy);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publish_request),
		cmocka_unit_test(test_publish_request_takes_the_last_and_skips_the_unknown),
		cmocka_unit_test(test_texts_have_to_be_utf8),
		cmocka_unit_test(test_publish_reply),
		cmocka_unit_test(test_subscribe_request),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
