/* The reorder window on its own, and against a plain model. */
#include "core/base/check.h"
#include "rpc/feed_impl.h"
#include "tests/unit/rpc/wire/random.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { WINDOW = 100 };

static struct feed_room room = {.max = 1 << 20};

struct key {
	uint64_t seq_no;
	int64_t timestamp;
};

static size_t frame_make(uint8_t *out, uint64_t seq_no, int64_t timestamp, uint64_t offset)
{
	return frame_put(out, &(struct frame){.seq_no = seq_no, .timestamp = timestamp, .offset = offset});
}

static void add(struct feed_reorder *r, uint64_t seq_no, int64_t timestamp, uint64_t offset, uint64_t now)
{
	uint8_t wire[FRAME_OVERHEAD_MAX];

	assert_true(feed_reorder_add(r, (struct span){wire, frame_make(wire, seq_no, timestamp, offset)}, now));
}

/* The offsets of what is due; their number. */
static unsigned take(struct feed_reorder *r, uint64_t now, bool all, uint64_t *ret)
{
	size_t n = feed_reorder_due(r, now, all), at = 0, size;
	uint8_t *out = malloc(n ? n : 1);
	unsigned frames = feed_reorder_take(r, out), count = 0;
	struct frame f;

	for (; at < n; at += size) {
		assert_int_equal(frame_get((struct span){out + at, n - at}, &f, &size), 0);
		ret[count++] = f.offset;
	}
	assert_int_equal(frames, count);
	free(out);
	return count;
}

static void expect(struct feed_reorder *r, uint64_t now, bool all, unsigned n, const uint64_t *offsets)
{
	uint64_t got[64];

	assert_int_equal(take(r, now, all, got), n);
	assert_memory_equal(got, offsets, n * sizeof *got);
}
#define EXPECT(r, now, all, ...)                                                                                       \
	expect(r, now, all, sizeof((uint64_t[]){__VA_ARGS__}) / 8, (const uint64_t[]){__VA_ARGS__})

static void test_order_within_the_window(void **state)
{
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 19, &room);

	assert_true(feed_reorder_next_ns(r) == UINT64_MAX);
	add(r, 5, 1, 1, 0);
	add(r, 3, 2, 2, 10);
	add(r, 3, 1, 3, 20);
	add(r, 9, 1, 4, 30);
	add(r, 3, 1, 5, 40);
	assert_true(feed_reorder_next_ns(r) == WINDOW);
	assert_int_equal(feed_reorder_due(r, WINDOW - 1, false), 0);
	EXPECT(r, WINDOW, false, 3, 5, 2, 1); /* the first that came is due, and with it what goes before it */
	assert_true(feed_reorder_next_ns(r) == 30 + WINDOW);
	EXPECT(r, 30 + WINDOW, false, 4);
	assert_true(feed_reorder_next_ns(r) == UINT64_MAX);
	feed_reorder_free(r);
}

static void test_late_ones_go_at_once_in_order_of_arrival(void **state)
{
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 19, &room);
	uint64_t late, early;

	add(r, 5, 5, 1, 0);
	EXPECT(r, WINDOW, false, 1);
	add(r, 4, 9, 2, WINDOW);
	add(r, 2, 1, 3, WINDOW);
	add(r, 5, 4, 4, WINDOW);
	add(r, 5, 5, 5, WINDOW); /* equal is not late */
	assert_true(feed_reorder_next_ns(r) == 0);
	EXPECT(r, WINDOW, false, 2, 3, 4);
	EXPECT(r, 2 * WINDOW, false, 5);
	feed_reorder_counts(r, &late, &early);
	assert_true(late == 3 && early == 0);
	feed_reorder_counts(r, &late, &early);
	assert_true(late == 0);
	feed_reorder_free(r);
}

static void test_everything_goes_before_a_mark(void **state)
{
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 19, &room);

	add(r, 2, 0, 1, 0);
	add(r, 1, 0, 2, 0);
	EXPECT(r, 1, true, 2, 1);
	assert_int_equal(feed_reorder_due(r, 1, true), 0);
	feed_reorder_free(r);
}

/* One frame with a high key came first and holds the others back: they must not pile up. */
static void test_memory_is_bounded(void **state)
{
	struct feed_reorder *r = feed_reorder_new(WINDOW, 10000, &room);
	uint64_t got[64], late, early, given = 0;

	add(r, 1000000, 1, 1, 0);
	for (uint64_t i = 2; i < 1000; i++) {
		add(r, i, 1, i, 1);
		unsigned count = take(r, 1, false, got);
		for (unsigned k = 0; k < count; k++)
			assert_true(got[k] == 2 + given++);
		assert_true(room.bytes <= 10000);
	}
	assert_true(given > 998 - 10000 / 64 && given < 998 - 10000 / 128); /* a frame takes 64 to 128 bytes */
	feed_reorder_counts(r, &late, &early);
	assert_true(early == given && late == 0);
	feed_reorder_free(r);
	assert_int_equal(room.bytes, 0);
}

/* Each window is far from its own bound. */
static void test_all_windows_together_are_bounded(void **state)
{
	struct feed_room small = {.max = 20000};
	struct feed_reorder *r[50];
	uint64_t got[64], late, early, went = 0, frames = 0;
	uint8_t wire[FRAME_OVERHEAD_MAX] = {0};

	for (unsigned i = 0; i < 50; i++) {
		r[i] = feed_reorder_new(WINDOW, 1 << 20, &small);
		for (uint64_t k = 1; k <= 40; k++) {
			struct span w = {wire, frame_make(wire, k, 1, k)};
			if (feed_reorder_pass(r[i], w)) {
				went++;
			} else {
				assert_true(feed_reorder_add(r[i], w, 0));
				went += take(r[i], 0, false, got);
			}
			frames++;
			assert_true(small.bytes <= small.max);
		}
		feed_reorder_counts(r[i], &late, &early);
		assert_int_equal(late, 0);
	}
	assert_true(went > frames / 2 && went < frames); /* the others are held */
	for (unsigned i = 0; i < 50; i++)
		went += take(r[i], WINDOW, false, got);
	assert_int_equal(went, frames);
	assert_int_equal(small.bytes, 0); /* and with the frames the arrays */
	for (unsigned i = 0; i < 50; i++)
		feed_reorder_free(r[i]);
}

/* Frames that were passed on without being held count as given: one below them that comes later is late, and is not held. */
static void test_a_frame_below_those_that_were_passed_is_late(void **state)
{
	struct feed_room full = {.max = 1000, .bytes = 1001};
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 20, &full);
	uint8_t wire[FRAME_OVERHEAD_MAX] = {0};
	uint64_t late, early;

	assert_true(feed_reorder_pass(r, (struct span){wire, frame_make(wire, 10, 1, 1)}));
	full.bytes = 0;
	assert_true(feed_reorder_add(r, (struct span){wire, frame_make(wire, 5, 1, 2)}, 0));
	assert_int_equal(feed_reorder_next_ns(r), 0); /* it goes at once */
	feed_reorder_counts(r, &late, &early);
	assert_int_equal(late, 1);
	assert_int_equal(early, 1);
	feed_reorder_free(r);
}

static void test_free_with_frames_held(void **state)
{
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 19, &room);

	add(r, 1, 1, 1, 0);
	add(r, 2, 2, 2, 0);
	assert_true(feed_reorder_due(r, 0, true) > 0); /* chosen, and not taken */
	add(r, 3, 3, 3, 0);
	feed_reorder_free(r);
	feed_reorder_free(NULL);
}

/* The model: when the oldest of those held is due, all up to it go in order; one that sorts below something given goes at once. */
struct model {
	struct key key[400];
	uint64_t offset[400], came[400];
	unsigned count;
	struct key given;
	bool any;
};

static bool is_below(struct key a, struct key b)
{
	return a.seq_no != b.seq_no ? a.seq_no < b.seq_no : a.timestamp < b.timestamp;
}

static unsigned model_next(const struct model *m)
{
	unsigned best = 0;

	for (unsigned i = 1; i < m->count; i++) {
		if (is_below(m->key[i], m->key[best]))
			best = i;
	}
	return best;
}

static uint64_t model_remove(struct model *m, unsigned i)
{
	uint64_t offset = m->offset[i];

	m->count--;
	for (; i < m->count; i++) {
		m->key[i] = m->key[i + 1];
		m->offset[i] = m->offset[i + 1];
		m->came[i] = m->came[i + 1];
	}
	return offset;
}

static unsigned model_take(struct model *m, uint64_t now, uint64_t *ret)
{
	unsigned n = 0;

	while (m->count && m->came[0] + WINDOW <= now) {
		unsigned i = model_next(m);
		m->given = m->key[i];
		m->any = true;
		ret[n++] = model_remove(m, i);
	}
	return n;
}

static void test_against_a_model(void **state)
{
	uint64_t seed = 42, now = 0;
	static struct model m;
	struct feed_reorder *r = feed_reorder_new(WINDOW, 1 << 19, &room);

	for (uint64_t offset = 1; offset < 20000; offset++) {
		uint64_t want[400], got[400];
		unsigned n = 0;
		struct key k = {now / 20 + random_below(&seed, 12), random_below(&seed, 3)};
		add(r, k.seq_no, k.timestamp, offset, now);
		if (m.any && is_below(k, m.given)) {
			want[n++] = offset;
		} else {
			m.key[m.count] = k;
			m.offset[m.count] = offset;
			m.came[m.count++] = now;
		}
		now += random_below(&seed, 4) ? random_below(&seed, 5) : random_below(&seed, 2 * WINDOW);
		n += model_take(&m, now, want + n);
		assert_int_equal(take(r, now, false, got), n);
		assert_memory_equal(got, want, n * sizeof *want);
	}
	feed_reorder_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_within_the_window),
		cmocka_unit_test(test_late_ones_go_at_once_in_order_of_arrival),
		cmocka_unit_test(test_everything_goes_before_a_mark),
		cmocka_unit_test(test_memory_is_bounded),
		cmocka_unit_test(test_all_windows_together_are_bounded),
		cmocka_unit_test(test_a_frame_below_those_that_were_passed_is_late),
		cmocka_unit_test(test_free_with_frames_held),
		cmocka_unit_test(test_against_a_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
