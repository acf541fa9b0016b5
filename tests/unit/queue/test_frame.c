/* Frames against protobuf-c, and against bytes that are not frames. */
#include "queue/frame.h"
#include "core/base/crc32c.h"
#include "ordinal/v1/ordinal.pb-c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
/* after those */
#include <cmocka.h>

static uint64_t seed;

static uint64_t dice(void)
{
	uint64_t v = seed += UINT64_C(0x9e3779b97f4a7c15);

	v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
	return v ^ v >> 31;
}

/* Of any length, also none. */
static uint64_t number(void)
{
	uint64_t d = dice();

	return d % 4 == 0 ? 0 : dice() >> d % 64;
}

static struct frame any_frame(uint8_t payload[300])
{
	struct frame f = {.seq_no = number(), .timestamp = (int64_t)number(), .offset = number()};

	for (unsigned i = 0; i < 300; i++)
		payload[i] = (uint8_t)dice();
	f.payload = (struct span){payload, dice() % 300};
	if (dice() % 3 == 0) {
		f.publisher = SPAN_LIT("publisher-7");
		f.publisher_seq = number();
	}
	if (dice() % 5 == 0) {
		f.mark = (enum frame_mark)(dice() % 5);
		f.incarnation = dice() % 4 == 0 ? 0 : dice();
		f.gap_from = number();
		f.gap_to = number();
	}
	return f;
}

static void assert_same(const struct frame *a, const struct frame *b)
{
	assert_int_equal(a->seq_no, b->seq_no);
	assert_int_equal(a->timestamp, b->timestamp);
	assert_int_equal(a->offset, b->offset);
	assert_true(span_eq(a->payload, b->payload));
	assert_true(span_eq(a->publisher, b->publisher));
	assert_int_equal(a->publisher_seq, b->publisher_seq);
	assert_int_equal(a->mark, b->mark);
	assert_int_equal(a->gap_from, b->gap_from);
	assert_int_equal(a->gap_to, b->gap_to);
	assert_int_equal(a->incarnation, b->incarnation);
}

static void test_frames_are_what_protobuf_says(void **state)
{
	static uint8_t payload[300], wire[600];

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		struct frame f = any_frame(payload), got;
		size_t n = frame_put(wire, &f), size;
		Ordinal__V1__Frame *pb = ordinal__v1__frame__unpack(NULL, n - FRAME_PREFIX, wire + FRAME_PREFIX);
		uint64_t seq;
		int64_t ts;

		assert_int_equal(n, frame_size(&f));
		assert_int_equal(frame_length((struct span){wire, sizeof wire}), n);
		assert_non_null(pb);
		assert_int_equal(pb->seq_no, f.seq_no);
		assert_int_equal(pb->timestamp, f.timestamp);
		assert_int_equal(pb->offset, f.offset);
		assert_int_equal(pb->payload.len, f.payload.n);
		if (f.payload.n > 0)
			assert_memory_equal(pb->payload.data, f.payload.p, f.payload.n);
		assert_int_equal(pb->mark, f.mark);
		assert_int_equal(pb->gap_from, f.gap_from);
		assert_int_equal(pb->gap_to, f.gap_to);
		assert_int_equal(pb->incarnation, f.incarnation);
		assert_int_equal(strlen(pb->publisher), f.publisher.n);
		assert_int_equal(pb->publisher_seq, f.publisher_seq);
		assert_int_equal(pb->crc32c, crc32c(0, wire + FRAME_PREFIX, n - FRAME_PREFIX - FRAME_CRC));
		ordinal__v1__frame__free_unpacked(pb, NULL);
		assert_int_equal(frame_get((struct span){wire, n}, &got, &size), 0);
		assert_int_equal(size, n);
		assert_same(&f, &got);
		assert_true(frame_key((struct span){wire, n}, &seq, &ts, &size));
		assert_int_equal(seq, f.seq_no);
		assert_int_equal(ts, f.timestamp);
		assert_true(frame_is_whole((struct span){wire, n}));
	}
}

static void test_marks_fit(void **state)
{
	uint8_t wire[FRAME_MARK_MAX];
	struct frame f = {.offset = UINT64_MAX,
			  .mark = FRAME_GAP,
			  .gap_from = UINT64_MAX,
			  .gap_to = UINT64_MAX,
			  .incarnation = UINT64_MAX};

	(void)state;
	assert_true(frame_size(&f) <= sizeof wire);
	assert_int_equal(frame_put(wire, &f), frame_size(&f));
}

static void test_overhead_is_bounded(void **state)
{
	static uint8_t big[4u << 20];
	struct frame f = {.seq_no = UINT64_MAX,
			  .timestamp = -1,
			  .offset = UINT64_MAX,
			  .payload = {big, sizeof big},
			  .publisher = {big, 64},
			  .publisher_seq = UINT64_MAX};

	(void)state;
	assert_true(frame_size(&f) <= sizeof big + 64 + FRAME_OVERHEAD_MAX);
}

/* Each in memory of exactly its size, so that a byte too far is seen. */
static void test_damage_is_found_and_nothing_is_read_beyond(void **state)
{
	static uint8_t payload[300], wire[600];
	struct frame f, got;
	uint64_t seq;
	int64_t ts;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		size_t n, size, cut;
		uint8_t *copy;

		f = any_frame(payload);
		n = frame_put(wire, &f);
		cut = dice() % n;
		copy = malloc(cut + 1);
		assert_non_null(copy);
		memcpy(copy, wire, cut);
		assert_int_equal(frame_get((struct span){copy, cut}, &got, &size), -EBADMSG);
		assert_false(frame_key((struct span){copy, cut}, &seq, &ts, &size));
		assert_false(frame_is_whole((struct span){copy, cut}));
		free(copy);
		copy = malloc(n);
		assert_non_null(copy);
		memcpy(copy, wire, n);
		copy[dice() % n] ^= (uint8_t)(1 << dice() % 8);
		assert_false(frame_is_whole((struct span){copy, n}));
		for (unsigned k = 0; k < 4; k++)
			copy[dice() % n] = (uint8_t)dice();
		if (frame_get((struct span){copy, n}, &got, &size) == 0)
			assert_true(size <= n && got.payload.n <= n && got.publisher.n <= n);
		if (frame_key((struct span){copy, n}, &seq, &ts, &size))
			assert_true(size <= n);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_are_what_protobuf_says),
		cmocka_unit_test(test_marks_fit),
		cmocka_unit_test(test_overhead_is_bounded),
		cmocka_unit_test(test_damage_is_found_and_nothing_is_read_beyond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
