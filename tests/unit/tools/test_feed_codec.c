/* Feed's messages from a client's side, against protobuf-c, and against the frames that the server keeps. */
#include "tools/feed_codec.h"

#include "ordinal/v1/ordinal.pb-c.h"
#include "queue/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 7;

static uint32_t rnd(uint32_t below)
{
	state = state * 1664525 + 1013904223;
	return (state >> 8) % below;
}

/* Numbers of every length that a varint can have. */
static uint64_t rnd_number(void)
{
	uint64_t v = (uint64_t)rnd(1u << 24) << 48 ^ (uint64_t)rnd(1u << 24) << 24 ^ rnd(1u << 24);
	return rnd(5) ? v >> rnd(64) : 0;
}

static uint64_t rnd_offset(void)
{
	return rnd_number() % FEED_OFFSET_MAX + 1;
}

static void test_publish_requests(void **ctx)
{
	uint8_t out[1024];
	for (int i = 0; i < 2000; i++) {
		struct feed_publish p = {.stream = SPAN_LIT("ticks"),
					 .payload = {(const uint8_t *)"payload!", rnd(9)},
					 .publisher = {(const uint8_t *)"me", rnd(2) * 2},
					 .seq_no = rnd_number(),
					 .publisher_seq = rnd_number(),
					 .timestamp = (int64_t)rnd_number()};
		size_t n = feed_publish_put(out, &p);
		assert_true(n <= p.stream.n + p.payload.n + p.publisher.n + FEED_PUBLISH_OVERHEAD);
		Ordinal__V1__PublishRequest *r = ordinal__v1__publish_request__unpack(NULL, n, out);
		assert_non_null(r);
		assert_string_equal(r->stream, "ticks");
		assert_true(r->seq_no == p.seq_no && r->timestamp == p.timestamp &&
			    r->publisher_seq == p.publisher_seq);
		assert_int_equal(r->payload.len, p.payload.n);
		assert_memory_equal(r->payload.data, "payload!", p.payload.n);
		assert_string_equal(r->publisher, p.publisher.n ? "me" : "");
		ordinal__v1__publish_request__free_unpacked(r, NULL);
	}
}

static void test_subscribe_requests(void **ctx)
{
	uint8_t out[64];
	struct feed_subscribe s = {SPAN_LIT("s"), UINT64_MAX, FEED_SLOW_DISCONNECT, UINT64_MAX, UINT32_MAX,
				   UINT64_MAX,    true};
	size_t n = feed_subscribe_put(out, &s);
	assert_true(n <= s.stream.n + FEED_SUBSCRIBE_OVERHEAD);
	Ordinal__V1__SubscribeRequest *r = ordinal__v1__subscribe_request__unpack(NULL, n, out);
	assert_non_null(r);
	assert_string_equal(r->stream, "s");
	assert_true(r->replay_seq_no_start == UINT64_MAX && r->resume_offset == UINT64_MAX &&
		    r->reorder_ms == UINT32_MAX && r->incarnation == UINT64_MAX && r->mark_begin);
	assert_int_equal(r->slow, ORDINAL__V1__SLOW_POLICY__SLOW_DISCONNECT);
	ordinal__v1__subscribe_request__free_unpacked(r, NULL);
}

static void test_publish_replies(void **ctx)
{
	uint8_t out[256];
	for (int i = 0; i < 1000; i++) {
		Ordinal__V1__PublishReply m = ORDINAL__V1__PUBLISH_REPLY__INIT;
		struct feed_publish_reply r;
		m.offset = rnd_offset();
		m.timestamp = (int64_t)rnd_number();
		m.durability = rnd(3);
		m.duplicate = rnd(2);
		m.incarnation = rnd_number();
		size_t n = ordinal__v1__publish_reply__pack(&m, out);
		assert_int_equal(feed_publish_reply_get((struct span){out, n}, &r), 0);
		assert_true(r.offset == m.offset && r.timestamp == m.timestamp);
		assert_int_equal(r.durability, m.durability);
		assert_int_equal(r.duplicate, m.duplicate);
		assert_true(r.incarnation == m.incarnation);
	}
	struct feed_publish_reply r;
	assert_int_equal(feed_publish_reply_get(SPAN_LIT("\x08\x80"), &r), -EBADMSG);
}

/* What the server keeps is read by both readers alike, or refused by the fast one. */
static void test_frames(void **ctx)
{
	static uint8_t out[512 + FEED_SLACK];
	unsigned fast = 0;
	for (int i = 0; i < 20000; i++) {
		struct frame f = {.seq_no = rnd_number(),
				  .timestamp = (int64_t)rnd_number(),
				  .offset = rnd_offset(),
				  .payload = {(const uint8_t *)"0123456789012345678901234567890123456789", rnd(41)},
				  .publisher = {(const uint8_t *)"somebody", rnd(4) ? 0 : rnd(9)}};
		if (f.publisher.n)
			f.publisher_seq = rnd_number();
		if (rnd(10) == 0)
			f.mark = (enum frame_mark)rnd(5);
		if (f.mark != FRAME_NONE)
			f.incarnation = rnd_number();
		if (f.mark == FRAME_GAP) {
			f.gap_to = rnd_offset();
			f.gap_from = f.gap_to - rnd_number() % f.gap_to;
		}
		size_t size = frame_put(out, &f);
		assert_true(size <= 512);
		struct span msg = {out + FEED_PREFIX, size - FEED_PREFIX};
		struct feed_frame g;
		struct feed_lean l;
		assert_int_equal(feed_frame_get(msg, &g), 0);
		assert_true(g.seq_no == f.seq_no && g.timestamp == f.timestamp && g.offset == f.offset);
		assert_true(span_eq(g.payload, f.payload) && span_eq(g.publisher, f.publisher));
		assert_true(g.publisher_seq == f.publisher_seq && g.mark == (uint32_t)f.mark);
		assert_true(g.gap_from == f.gap_from && g.gap_to == f.gap_to && g.incarnation == f.incarnation);
		assert_int_equal(feed_frame_crc(msg), FEED_CRC_OK);
		if (feed_lean_get(msg.p, msg.n, &l)) {
			fast++;
			uint64_t t = 0, seq_no = 0;
			assert_true(!l.seq_no || feed_varint(&l.seq_no, &seq_no));
			assert_true(seq_no == f.seq_no && l.offset == f.offset);
			assert_true(span_eq(l.payload, f.payload));
			assert_int_equal(f.mark, FRAME_NONE);
			assert_int_equal(f.publisher.n, 0);
			assert_true(!l.timestamp || feed_varint(&l.timestamp, &t));
			assert_true((int64_t)t == f.timestamp);
		} else {
			/* Only for a reason. */
			assert_true(f.mark || f.publisher.n || f.payload.n == 0 || f.offset == 0);
		}
		if (msg.n > FEED_CRC_BYTES) {
			out[FEED_PREFIX + rnd((uint32_t)msg.n - FEED_CRC_BYTES)] ^= (uint8_t)(1u << rnd(8));
			assert_int_equal(feed_frame_crc(msg), FEED_CRC_WRONG);
		}
	}
	assert_true(fast > 5000);
}

/* Any bytes: no reader may look beyond them (the sanitizers watch), nor disagree with the other about what it takes. */
static void test_any_bytes(void **ctx)
{
	for (int i = 0; i < 50000; i++) {
		size_t n = rnd(60);
		uint8_t *p = malloc(n + FEED_SLACK);
		assert_non_null(p);
		static const uint8_t tags[] = {0x08, 0x12, 0x18, 0x20, 0x28, 0x7d, 0x80, 0xff, 0x01, 0x02};
		for (size_t k = 0; k < n + FEED_SLACK; k++)
			p[k] = rnd(2) ? tags[rnd(sizeof tags)] : (uint8_t)rnd(256);
		struct feed_frame g;
		struct feed_lean l;
		if (feed_lean_get(p, n, &l)) {
			assert_int_equal(feed_frame_get((struct span){p, n}, &g), 0);
			uint64_t seq_no = 0;
			assert_true(!l.seq_no || feed_varint(&l.seq_no, &seq_no));
			assert_true(g.seq_no == seq_no && g.offset == l.offset && span_eq(g.payload, l.payload));
		}
		feed_frame_crc((struct span){p, n});
		free(p);
	}
}

static int frame_of(enum frame_mark mark, uint64_t offset, uint64_t gap_from, uint64_t gap_to)
{
	static uint8_t out[128 + FEED_SLACK];
	struct frame f = {.mark = mark,
			  .offset = offset,
			  .gap_from = gap_from,
			  .gap_to = gap_to,
			  .payload = {(const uint8_t *)"x", mark ? 0 : 1}};
	size_t size = frame_put(out, &f);
	struct feed_frame g;
	struct feed_lean l;
	int r = feed_frame_get((struct span){out + FEED_PREFIX, size - FEED_PREFIX}, &g);
	if (r)
		assert_false(feed_lean_get(out + FEED_PREFIX, size - FEED_PREFIX, &l));
	return r;
}

/* D6: sums of offsets wrapped around when a server named the largest ones. */
static void test_offsets_that_no_stream_has(void **ctx)
{
	uint8_t out[64];
	struct feed_publish_reply r;
	static const uint64_t impossible[] = {0, FEED_OFFSET_MAX + 1, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
	for (unsigned i = 0; i < ARRAY_SIZE(impossible); i++) {
		uint64_t v = impossible[i];
		Ordinal__V1__PublishReply m = ORDINAL__V1__PUBLISH_REPLY__INIT;
		m.offset = v;
		size_t n = ordinal__v1__publish_reply__pack(&m, out);
		assert_int_equal(feed_publish_reply_get((struct span){out, n}, &r), -EBADMSG);
		assert_int_equal(frame_of(FRAME_NONE, v, 0, 0), -EBADMSG);
		assert_int_equal(frame_of(FRAME_GAP, 0, v, FEED_OFFSET_MAX), -EBADMSG);
		assert_int_equal(frame_of(FRAME_GAP, 0, 1, v), -EBADMSG);
		assert_int_equal(frame_of(FRAME_CAUGHT_UP, v, 0, 0), v ? -EBADMSG : 0);
		assert_int_equal(frame_of(FRAME_GOING_AWAY, v, 0, 0), v ? -EBADMSG : 0);
	}
	assert_int_equal(frame_of(FRAME_GAP, 0, 6, 5), -EBADMSG);
	assert_int_equal(frame_of(FRAME_GAP, 0, 1, FEED_OFFSET_MAX), 0);
	assert_int_equal(frame_of(FRAME_NONE, FEED_OFFSET_MAX, 0, 0), 0);
}

static void test_names(void **ctx)
{
	assert_string_equal(feed_durability_name(FEED_FSYNC), "fsync");
	assert_string_equal(feed_durability_name(FEED_MEMORY), "memory");
	assert_string_equal(feed_durability_name(9), "unknown");
	assert_string_equal(feed_mark_name(FEED_MARK_GAP), "GAP");
	assert_string_equal(feed_mark_name(99), "UNKNOWN");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publish_requests),
		cmocka_unit_test(test_subscribe_requests),
		cmocka_unit_test(test_publish_replies),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_any_bytes),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_offsets_that_no_stream_has),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
