/* Streams, some shards' views of them, the journal and both workers, run turn by turn on one thread, on the simulated disk; a model of what
 * was published; and subscribers that hold what they are given against it. Include once.
 *
 * A frame's payload follows from its number, so the model keeps but keys. Frame numbers are the order in which this test published; offsets come with
 * the answers, or with what is read. */
#ifndef ORDINAL_TESTS_STREAM_RIG_H
#define ORDINAL_TESTS_STREAM_RIG_H

#include "core/base/log.h"
#include "core/journal_internal.h"
#include "queue/stream_view.h"
#include "tests/unit/core/sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
/* after those */
#include <cmocka.h>

#define RIG_VIEWS 3
#define RIG_FRAMES_MAX 1200000u
#define RIG_PAYLOAD_MAX 300000u

struct model_frame {
	uint64_t seq_no, offset; /* offset 0: not acknowledged yet */
	int64_t timestamp;
	uint32_t size;
	unsigned view; /* that it was published through, by the publisher of the same number */
	bool refused;
};

static struct rig {
	struct sim sim;
	struct journal_disk disk;
	struct journal *j;
	struct streams *ss;
	struct streams_view *view[RIG_VIEWS];
	struct doorbell bell[RIG_VIEWS];
	struct streams_opts opts;
	uint64_t seed;
	struct model_frame *f;
	uint32_t published, answered;
	uint32_t *by_offset; /* frame number + 1 */
	uint64_t top;        /* the highest offset known */
	/* a subscriber keeps note of offsets below this one; a test with many subscribers lowers it */
	uint32_t seen_max;
	unsigned failures;
	const char *why;
	bool disk_stalls; /* the journal's thread does not run */
} rig;

static inline uint64_t dice(void)
{
	uint64_t v = rig.seed += UINT64_C(0x9e3779b97f4a7c15);

	v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
	return v ^ v >> 31;
}

static inline void fill(uint8_t *p, uint32_t n, uint32_t number)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (uint8_t)(number * 2654435761u >> (i & 3) * 8) + (uint8_t)(i >> 2);
}

static inline void rig_failed(void *ctx, int err, const char *what)
{
	(void)ctx;
	(void)err;
	(void)what;
	rig.failures++;
}

static inline int rig_try_open(void)
{
	struct journal_opts jo = {.dir = "sim",
				  .group_max = 1u << 20,
				  .failed = rig_failed,
				  .method = JOURNAL_FDATASYNC,
				  .disk = &rig.disk};
	int err;

	rig.why = "";
	err = journal_open(&jo, &rig.j, &rig.why);
	if (err != 0)
		return err;
	err = streams_open(&rig.opts, rig.j, &rig.ss, &rig.why);
	if (err != 0) {
		rig.sim.dead = true; /* not closed cleanly */
		journal_close(rig.j);
		rig.sim.dead = rig.sim.locked = false;
		rig.failures = 0;
		return err;
	}
	for (unsigned i = 0; i < rig.opts.shards; i++) {
		assert_int_equal(doorbell_init(&rig.bell[i]), 0);
		rig.view[i] = streams_view_new(rig.ss, i, &rig.bell[i]);
		assert_non_null(rig.view[i]);
	}
	return 0;
}

static inline void rig_open(void)
{
	if (rig_try_open() != 0)
		fail_msg("%s", rig.why);
}

/* `clean`: as the daemon stops. Else the process is gone, and perhaps the power. */
static inline void rig_close(bool clean)
{
	bool was = rig.sim.dead;

	if (!clean)
		rig.sim.dead = true;
	if (journal_close(rig.j) != 0 && clean && !rig.sim.dead)
		fail_msg("the journal could not be closed");
	if (clean && rig.sim.dead) /* the plug was pulled meanwhile */
		clean = false;
	else
		rig.sim.dead = was;
	for (unsigned i = 0; i < rig.opts.shards; i++) {
		streams_view_free(rig.view[i]);
		doorbell_done(&rig.bell[i]);
	}
	streams_free(rig.ss);
	if (!clean) {
		rig.sim.locked = false;
		for (int i = 0; i < SIM_FDS; i++)
			rig.sim.fds[i].open = false;
		rig.failures = 0;
	}
}

static inline void rig_init(uint64_t seed, unsigned shards)
{
	struct model_frame *f = rig.f;
	uint32_t *by_offset = rig.by_offset;

	sim_done(&rig.sim);
	memset(&rig, 0, sizeof rig);
	sim_init(&rig.sim);
	rig.disk = sim_disk(&rig.sim);
	rig.seed = seed;
	rig.seen_max = RIG_FRAMES_MAX;
	rig.f = f ? f : calloc(RIG_FRAMES_MAX, sizeof *f);
	rig.by_offset = by_offset ? by_offset : calloc(RIG_FRAMES_MAX, sizeof *by_offset);
	memset(rig.by_offset, 0, RIG_FRAMES_MAX * sizeof *by_offset);
	rig.opts = (struct streams_opts){
		.shards = shards,
		.streams_max = 8,
		.create = true,
		.segment_bytes = 1u << 20,
		.memory_bytes = 2u << 20,
		.payload_max = RIG_PAYLOAD_MAX,
		.publishers_max = 1024,
		.numbers_max = 1024,
		.held_max = 8u << 20,
	};
}

/* ---- publishing ---- */

static inline void learn(uint32_t number, uint64_t offset)
{
	assert_in_range(offset, 1, rig.seen_max - 1);
	if (rig.by_offset[offset] != 0)
		assert_int_equal(rig.by_offset[offset], number + 1);
	rig.by_offset[offset] = number + 1;
	rig.f[number].offset = offset;
	if (offset > rig.top)
		rig.top = offset;
}

static inline void on_published(void *ctx, void *user, const struct stream_answer *a)
{
	uint32_t number = (uint32_t)(uintptr_t)user - 1;

	(void)ctx;
	rig.answered++;
	assert_int_equal(a->timestamp, rig.f[number].timestamp);
	assert_false(a->duplicate);
	learn(number, a->offset);
}

static inline void on_refused(void *ctx, void *user, enum stream_error why)
{
	(void)ctx;
	(void)why;
	rig.answered++;
	rig.f[(uint32_t)(uintptr_t)user - 1].refused = true;
}

static inline enum stream_error publish(unsigned view, const char *name, uint64_t seq_no, int64_t timestamp,
					uint32_t size)
{
	static uint8_t payload[RIG_PAYLOAD_MAX];
	static const char *const publisher[RIG_VIEWS] = {"p0", "p1", "p2"};
	uint32_t number = rig.published;
	struct stream_request r = {.stream = {(const uint8_t *)name, strlen(name)},
				   .seq_no = seq_no,
				   .timestamp = timestamp,
				   .payload = {payload, size},
				   .publisher = {(const uint8_t *)publisher[view], 2},
				   .publisher_seq = number + 1};
	struct stream_publish *p;
	enum stream_error e;

	assert_true(number < RIG_FRAMES_MAX - 1);
	fill(payload, size, number);
	rig.f[number] = (struct model_frame){.seq_no = seq_no, .timestamp = timestamp, .size = size, .view = view};
	e = streams_publish(rig.view[view], &r, (void *)(uintptr_t)(number + 1), &p);
	if (e == STREAM_E_OK)
		rig.published++;
	return e;
}

/* ---- subscribing ---- */

struct sub {
	struct stream_cursor *cursor;
	unsigned view;
	uint64_t start, resume;
	bool ready, begun, caught_up, ended;
	uint64_t snapshot;              /* offset: history goes up to here */
	uint64_t last_seq, last_offset; /* of what was given */
	int64_t last_ts;
	uint64_t given, gaps;
	uint8_t *seen;   /* by offset: 1 given, 2 in a gap */
	uint8_t *gapped; /* by offset: named by a gap */
};

static inline void on_ready(void *ctx, void *user)
{
	(void)ctx;
	((struct sub *)user)->ready = true;
}

static const struct streams_view_ops rig_ops = {.published = on_published, .refused = on_refused, .ready = on_ready};

static inline void sub_open(struct sub *s, unsigned view, const char *name, uint64_t start, uint64_t resume)
{
	struct stream_start st = {.stream = {(const uint8_t *)name, strlen(name)},
				  .seq_no = start,
				  .offset = resume,
				  .reader = {view, (uintptr_t)s}}; /* each its own connection */
	uint8_t *seen = s->seen ? s->seen : malloc(2 * (size_t)rig.seen_max);

	memset(seen, 0, 2 * (size_t)rig.seen_max);
	*s = (struct sub){.view = view,
			  .start = start,
			  .resume = resume,
			  .ready = true,
			  .seen = seen,
			  .gapped = seen + rig.seen_max};
	assert_int_equal(stream_cursor_open(rig.view[view], &st, s, &s->cursor), STREAM_E_OK);
}

/* A frame's number travels with it, since a subscriber may see it before its publisher is answered. */
static inline void sub_frame(struct sub *s, const struct frame *f)
{
	static uint8_t want[RIG_PAYLOAD_MAX];
	uint32_t number;

	assert_in_range(f->publisher_seq, 1, rig.published);
	number = (uint32_t)f->publisher_seq - 1;
	learn(number, f->offset);
	assert_int_equal(f->seq_no, rig.f[number].seq_no);
	assert_int_equal(f->timestamp, rig.f[number].timestamp);
	assert_int_equal(f->payload.n, rig.f[number].size);
	fill(want, rig.f[number].size, number);
	assert_memory_equal(f->payload.p, want, f->payload.n);
	assert_true(f->seq_no >= s->start);
	assert_true(f->offset >= s->resume);
	assert_int_equal(s->begun, s->resume != 0);
	if (s->seen[f->offset] == 1)
		fail_msg("offset %llu is given twice", (unsigned long long)f->offset);
	if (s->seen[f->offset] == 2)
		fail_msg("offset %llu is given after a gap has named it", (unsigned long long)f->offset);
	s->seen[f->offset] = 1;
	if (s->given++ > 0 && !s->caught_up && s->resume == 0) {
		if (f->seq_no < s->last_seq || (f->seq_no == s->last_seq && f->timestamp < s->last_ts) ||
		    (f->seq_no == s->last_seq && f->timestamp == s->last_ts && f->offset <= s->last_offset))
			fail_msg("history is not in order at offset %llu", (unsigned long long)f->offset);
	} else if (s->given > 1 && (s->resume != 0 || s->last_offset > s->snapshot)) {
		assert_true(f->offset > s->last_offset);
	}
	if (s->caught_up)
		assert_true(f->offset > s->snapshot || s->resume != 0);
	s->last_seq = f->seq_no;
	s->last_ts = f->timestamp;
	s->last_offset = f->offset;
}

static inline void sub_slice(struct sub *s, struct stream_slice *sl)
{
	struct span rest = {sl->p, sl->n};
	uint32_t frames = 0;

	while (rest.n > 0) {
		struct frame f;
		size_t size;

		assert_int_equal(frame_get(rest, &f, &size), 0);
		assert_true(frame_is_whole((struct span){rest.p, size}));
		sub_frame(s, &f);
		rest = (struct span){rest.p + size, rest.n - size};
		frames++;
	}
	assert_int_equal(frames, sl->frames);
	if (sl->next_offset != 0)
		assert_true(sl->next_offset > s->last_offset);
	else
		assert_false(s->caught_up);
	stream_slice_put(rig.view[s->view], sl);
}

/* Whether some frame has come out of order; also when not all are known. */
static inline bool some_are_late(void)
{
	const struct model_frame *max = NULL;

	for (uint64_t o = 1; o <= rig.top; o++) {
		const struct model_frame *f = &rig.f[rig.by_offset[o] - 1];

		if (rig.by_offset[o] == 0)
			return true;
		if (max != NULL &&
		    (f->seq_no < max->seq_no || (f->seq_no == max->seq_no && f->timestamp < max->timestamp)))
			return true;
		max = f;
	}
	return false;
}

/* A gap names an offset once, and none that was given before: but in a sorted history with late
 * frames, where a frame may be given long before its neighbours. */
static inline void sub_gap(struct sub *s, const struct stream_slice *sl)
{
	bool exact = s->resume != 0 || s->caught_up || !some_are_late();

	for (uint64_t o = sl->gap_from; o <= sl->gap_to; o++) {
		if (s->gapped[o] != 0)
			fail_msg("offset %llu is named by two gaps", (unsigned long long)o);
		s->gapped[o] = 1;
		if (s->seen[o] == 1 && exact)
			fail_msg("offset %llu is named by a gap after it was given", (unsigned long long)o);
		if (s->seen[o] == 0)
			s->seen[o] = 2;
	}
}

/* Takes up to `slices` slices of at most `max` bytes. */
static inline void sub_pull(struct sub *s, unsigned slices, size_t max)
{
	while (s->ready && slices-- > 0) {
		struct stream_slice sl;

		switch (stream_cursor_next(s->cursor, max, &sl)) {
		case CURSOR_SLICE:
			sub_slice(s, &sl);
			break;
		case CURSOR_WAIT:
			s->ready = false;
			break;
		case CURSOR_CAUGHT_UP:
			assert_false(s->caught_up);
			s->caught_up = true;
			s->snapshot = s->cursor->h.end_offset;
			assert_true(s->resume != 0 || s->snapshot + 1 == stream_cursor_offset(s->cursor));
			break;
		case CURSOR_COLD:
			stream_cursor_read(s->cursor);
			break;
		case CURSOR_GAP:
			assert_true(sl.gap_from <= sl.gap_to);
			s->gaps++;
			sub_gap(s, &sl);
			break;
		case CURSOR_ENDED:
			s->ended = true;
			s->ready = false;
			break;
		case CURSOR_BEGUN:
			assert_true(s->resume != 0 && !s->begun && s->given == 0 && s->gaps == 0);
			assert_true(sl.next_offset >= s->resume);
			s->begun = true;
			break;
		}
	}
}

/* Everything up to `top` was given once, or is named by a gap. */
static inline void sub_check(const struct sub *s, uint64_t top)
{
	for (uint64_t o = s->resume ? s->resume : 1; o <= top; o++) {
		uint32_t number = rig.by_offset[o];

		if (number == 0 || s->seen[o] != 0 || rig.f[number - 1].seq_no < s->start)
			continue;
		fail_msg("offset %llu of %llu is missing (start %llu, caught up %d)", (unsigned long long)o,
			 (unsigned long long)top, (unsigned long long)s->start, s->caught_up);
	}
}

static inline void sub_close(struct sub *s)
{
	if (s->cursor != NULL)
		stream_cursor_close(s->cursor);
	s->cursor = NULL;
}

/* ---- turning ---- */

/* One turn of everything, in an order that the dice say. False: nobody had anything to do. */
static inline bool rig_turn(void)
{
	bool worked = false, w = false;

	for (unsigned k = 0, at = (unsigned)(dice() % (RIG_VIEWS + 3)); k < RIG_VIEWS + 3;
	     k++, at = (at + 1) % (RIG_VIEWS + 3)) {
		if (at < rig.opts.shards) {
			worked = streams_view_has_work(rig.view[at]) || worked;
			streams_view_turn(rig.view[at], &rig_ops, NULL);
		} else if (at == RIG_VIEWS) {
			if (rig.disk_stalls)
				continue;
			journal_turn(rig.j, &w);
			worked = worked || w;
		} else if (at == RIG_VIEWS + 1) {
			worked = keeper_turn(rig.ss) || worked;
		} else if (at == RIG_VIEWS + 2) {
			worked = reader_turn(rig.ss) || worked;
		}
	}
	return worked;
}

static inline void rig_settle(struct sub *subs, unsigned n)
{
	bool worked;

	do {
		worked = rig_turn();
		for (unsigned i = 0; i < n; i++) {
			worked = worked || subs[i].ready;
			if (subs[i].cursor != NULL)
				sub_pull(&subs[i], 1000, 1 + dice() % 300000);
		}
	} while (worked || rig.answered < rig.published);
}

#endif
