/* Resuming a subscription, against a model of a server that publishes, sorts, and breaks connections at random. */
#include "tools/resume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { FRAMES_MAX = 400 };

struct model_frame {
	uint64_t seq_no, offset;
	int64_t timestamp;
};

struct model {
	uint32_t rnd;
	struct model_frame frame[FRAMES_MAX]; /* by offset - 1 */
	uint32_t frames, frames_max;
	uint32_t seq_range, time_range, window;
	unsigned delivered[FRAMES_MAX];
	struct resume resume;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	m->rnd = m->rnd * 1664525 + 1013904223;
	return (m->rnd >> 8) % below;
}

static void publish(struct model *m)
{
	if (m->frames < m->frames_max) {
		struct model_frame *f = &m->frame[m->frames++];
		*f = (struct model_frame){rnd(m, m->seq_range), m->frames, rnd(m, m->time_range)};
	}
}

static int by_key(const void *a, const void *b)
{
	const struct model_frame *x = a, *y = b;
	if (x->seq_no != y->seq_no)
		return x->seq_no < y->seq_no ? -1 : 1;
	if (x->timestamp != y->timestamp)
		return x->timestamp < y->timestamp ? -1 : 1;
	return x->offset < y->offset ? -1 : 1;
}

static void give(struct model *m, const struct model_frame *f)
{
	switch (resume_frame(&m->resume, f->seq_no, f->timestamp, f->offset)) {
	case RESUME_NEW:
		assert_int_equal(m->delivered[f->offset - 1]++, 0);
		break;
	case RESUME_SEEN:
		assert_int_equal(m->delivered[f->offset - 1], 1);
		break;
	default:
		fail_msg("offset %u was called repeated or disordered", (unsigned)f->offset);
	}
}

static bool break_now(struct model *m, uint32_t one_in)
{
	if (rnd(m, 3) == 0)
		publish(m);
	return one_in && rnd(m, one_in) == 0;
}

/* What comes live, up to m->window frames of it held back and given in any order. */
static bool live(struct model *m, uint64_t since, uint32_t at, uint32_t one_in)
{
	struct model_frame held[16];
	uint32_t n = 0;
	while (n > 0 || at < m->frames || m->frames < m->frames_max) {
		if (break_now(m, one_in))
			return true;
		if (n < m->window && (at < m->frames || m->frames < m->frames_max)) {
			while (at >= m->frames)
				publish(m);
			held[n++] = m->frame[at++];
			continue;
		}
		uint32_t i = rnd(m, n);
		if (held[i].seq_no >= since)
			give(m, &held[i]);
		held[i] = held[--n];
	}
	return false;
}

/* One connection, until it breaks (true) or all is delivered and nothing more will be published. */
static bool connection(struct model *m, uint32_t one_in)
{
	uint64_t since, resume_offset;
	resume_begin(&m->resume, &since, &resume_offset);
	uint32_t edge = m->frames, at = edge;
	if (resume_offset == 0) {
		struct model_frame sorted[FRAMES_MAX];
		memcpy(sorted, m->frame, edge * sizeof *sorted);
		qsort(sorted, edge, sizeof *sorted, by_key);
		for (uint32_t i = 0; i < edge; i++) {
			if (break_now(m, one_in))
				return true;
			if (sorted[i].seq_no >= since)
				give(m, &sorted[i]);
		}
		if (break_now(m, one_in))
			return true;
		if (!resume_caught_up(&m->resume))
			return true;
	} else {
		at = (uint32_t)resume_offset - 1;
	}
	for (; at < edge; at++) {
		if (break_now(m, one_in))
			return true;
		if (m->frame[at].seq_no >= since)
			give(m, &m->frame[at]);
	}
	if (resume_offset)
		assert_true(resume_caught_up(&m->resume));
	return live(m, since, at, one_in);
}

static void run(struct model *m, uint32_t seed)
{
	*m = (struct model){.rnd = seed};
	m->seq_range = 1 + rnd(m, 1 + rnd(m, 40));
	m->time_range = 1 + rnd(m, 5);
	m->window = rnd(m, 2) ? 1 : 1 + rnd(m, 16);
	m->frames_max = 20 + rnd(m, FRAMES_MAX - 20);
	uint64_t since = rnd(m, 3) ? 0 : rnd(m, m->seq_range);
	for (uint32_t n = rnd(m, m->frames_max); n > 0; n--)
		publish(m);
	resume_init(&m->resume, since);
	uint32_t breaks = rnd(m, 30), one_in = 1 + rnd(m, 60);
	while (connection(m, breaks ? one_in : 0)) {
		assert_int_equal(resume_break(&m->resume), 0);
		breaks -= breaks > 0;
	}
	for (uint32_t i = 0; i < m->frames; i++)
		assert_int_equal(m->delivered[i], m->frame[i].seq_no >= since);
	resume_done(&m->resume);
}

static void test_nothing_is_lost_or_repeated(void **state)
{
	static struct model m;
	for (uint32_t seed = 1; seed <= 6000; seed++)
		run(&m, seed);
}

/* The order that a subscriber sees without breaks is the server's own: nothing is held back or called wrong. */
static void test_a_whole_connection(void **state)
{
	struct resume r;
	uint64_t since, offset;
	resume_init(&r, 5);
	resume_begin(&r, &since, &offset);
	assert_int_equal(since, 5);
	assert_int_equal(offset, 0);
	assert_int_equal(resume_frame(&r, 5, 1, 9), RESUME_NEW);
	assert_int_equal(resume_frame(&r, 5, 1, 10), RESUME_NEW);
	assert_int_equal(resume_frame(&r, 7, 0, 2), RESUME_NEW);
	assert_true(resume_caught_up(&r));
	assert_int_equal(resume_frame(&r, 6, 0, 11), RESUME_NEW);
	assert_int_equal(resume_break(&r), 0);
	resume_begin(&r, &since, &offset);
	assert_int_equal(since, 5);
	assert_int_equal(offset, 11); /* a live frame below 11 might have been held back, but history ends with 10 */
	assert_int_equal(resume_frame(&r, 6, 0, 11), RESUME_SEEN);
	assert_int_equal(resume_frame(&r, 6, 0, 12), RESUME_NEW);
	resume_going_away(&r, 13);
	resume_begin(&r, &since, &offset);
	assert_int_equal(offset, 13);
	resume_done(&r);
}

static void test_the_servers_faults_are_found(void **state)
{
	struct resume r;
	uint64_t since, offset;
	resume_init(&r, 0);
	resume_begin(&r, &since, &offset);
	assert_int_equal(resume_frame(&r, 5, 1, 9), RESUME_NEW);
	assert_int_equal(resume_frame(&r, 5, 1, 9), RESUME_REPEATED);
	assert_int_equal(resume_frame(&r, 5, 1, 8), RESUME_DISORDERED);
	assert_int_equal(resume_frame(&r, 4, 1, 10), RESUME_DISORDERED);
	assert_true(resume_caught_up(&r));
	assert_int_equal(resume_frame(&r, 1, 1, 8), RESUME_DISORDERED);
	assert_int_equal(resume_frame(&r, 1, 1, 10), RESUME_NEW);
	assert_int_equal(resume_frame(&r, 1, 1, 10), RESUME_REPEATED);
	resume_done(&r);
}

/* Far more live frames than are remembered: what is asked for again stays within what is. */
static void test_a_long_life(void **state)
{
	struct resume r;
	uint64_t since, offset;
	resume_init(&r, 0);
	resume_begin(&r, &since, &offset);
	assert_true(resume_caught_up(&r));
	for (uint64_t o = 1; o <= 3 * RESUME_WINDOW; o++)
		assert_int_equal(resume_frame(&r, 1, 1, o == 70000 ? 70001 : o == 70001 ? 70000 : o), RESUME_NEW);
	resume_begin(&r, &since, &offset);
	assert_true(offset > 2 * RESUME_WINDOW && offset < 3 * RESUME_WINDOW - RESUME_BACK);
	for (uint64_t o = offset; o <= 3 * RESUME_WINDOW; o++)
		assert_int_equal(resume_frame(&r, 1, 1, o), RESUME_SEEN);
	assert_int_equal(resume_frame(&r, 1, 1, 3 * RESUME_WINDOW + 1), RESUME_NEW);
	assert_int_equal(resume_frame(&r, 1, 1, 3 * RESUME_WINDOW + 1), RESUME_REPEATED);
	assert_int_equal(resume_frame(&r, 1, 1, 5), RESUME_DISORDERED);
	resume_done(&r);
}

static void test_a_gap_is_not_waited_for(void **state)
{
	struct resume r;
	uint64_t since, offset;
	resume_init(&r, 0);
	resume_begin(&r, &since, &offset);
	assert_true(resume_caught_up(&r));
	assert_int_equal(resume_frame(&r, 1, 1, 1), RESUME_NEW);
	uint64_t from = 1;
	assert_true(resume_gap(&r, &from, 50));
	assert_int_equal(from, 2);
	assert_false(resume_gap(&r, &from, 50));
	resume_going_away(&r, 51);
	resume_begin(&r, &since, &offset);
	assert_int_equal(offset, 51);
	assert_int_equal(resume_frame(&r, 1, 1, 51), RESUME_NEW);
	resume_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_lost_or_repeated),  cmocka_unit_test(test_a_whole_connection),
		cmocka_unit_test(test_the_servers_faults_are_found), cmocka_unit_test(test_a_long_life),
		cmocka_unit_test(test_a_gap_is_not_waited_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
