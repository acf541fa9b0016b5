/* IDs on the real journal and the simulated disk, turned by hand: checkpoints that fill segments, trims, restarts, and power cuts at any operation. No ID
 * comes twice, a sequence keeps its incarnation, and no more is skipped than was reserved. */
#include "core/journal_internal.h"
#include "queue/ids_view.h"
#include "queue/producer.h"
#include "tests/unit/core/sim_disk.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
/* after those */
#include <cmocka.h>

/* So many that two checkpoints do not fit into one segment. */
#define SEQUENCES 4500u

static const struct ids_opts opts = {
	.shards = 1,
	.order = IDS_STRICT,
	.window_min = 4,
	.window_max = 64,
	.window_target_ms = 1,
	.queue_depth = 1024,
	.sequences_max = SEQUENCES + 1,
	.create = true,
	.count_max = 8,
};

struct call {
	struct ids_wait w;
	uint32_t sequence;
	bool answered;
};

/* What clients know of a sequence. */
struct told {
	uint64_t last, incarnation;
	uint64_t reserved; /* when the power went: no more may be skipped */
	uint64_t floor;    /* a crash has skipped the IDs below */
};

static struct {
	struct sim sim;
	struct journal_disk disk;
	struct journal *j;
	struct ids *ids;
	struct ids_view *view;
	struct doorbell bell;
	uint64_t seed, now_ns;
	struct told told[SEQUENCES];
	struct call call[SEQUENCES];
	uint32_t asked, answered;
} b;

static uint64_t dice(void)
{
	uint64_t v = b.seed += UINT64_C(0x9e3779b97f4a7c15);

	v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
	return v ^ v >> 31;
}

static struct span name_of(uint32_t sequence, char buf[SEQUENCE_NAME_MAX + 1])
{
	memset(buf, 'x', SEQUENCE_NAME_MAX);
	snprintf(buf, SEQUENCE_NAME_MAX + 1, "%0*" PRIu32, SEQUENCE_NAME_MAX, sequence);
	return (struct span){(const uint8_t *)buf, SEQUENCE_NAME_MAX};
}

/* ---- the process ---- */

static void on_failed(void *ctx, int err, const char *what)
{
	(void)ctx;
	(void)err;
	(void)what;
}

static void end_process(bool clean)
{
	bool was = b.sim.dead;

	if (clean) { /* the producer waits for the journal's thread, and nobody else is at the disk */
		assert_int_equal(journal_start(b.j), 0);
		producer_finish(b.ids->producer);
	} else {
		b.sim.dead = true;
	}
	journal_close(b.j);
	was = was || (clean && b.sim.dead);
	ids_view_free(b.view);
	ids_free(b.ids);
	doorbell_done(&b.bell);
	b.sim.dead = was;
	b.sim.locked = false;
	for (int i = 0; i < SIM_FDS; i++)
		b.sim.fds[i].open = false;
}

/* False: the plug was pulled meanwhile. */
static bool begin_process(void)
{
	struct journal_opts jo = {.dir = "sim", .failed = on_failed, .method = JOURNAL_FDATASYNC, .disk = &b.disk};
	const char *why = "";
	int err = journal_open(&jo, &b.j, &why);

	if (err == 0) {
		err = ids_open(&opts, b.j, &b.ids, &why);
		if (err != 0) {
			b.sim.dead = true;
			journal_close(b.j);
			b.sim.locked = false;
			for (int i = 0; i < SIM_FDS; i++)
				b.sim.fds[i].open = false;
		}
	}
	if (err != 0 && b.sim.ops <= b.sim.plug_at)
		fail_msg("%s", why);
	if (err != 0)
		return false;
	assert_int_equal(doorbell_init(&b.bell), 0);
	b.view = ids_view_new(b.ids, 0, &b.bell);
	assert_non_null(b.view);
	memset(b.call, 0, sizeof b.call);
	b.asked = b.answered = 0;
	b.now_ns = 1000 * NS_PER_S;
	return true;
}

static void power_cut(enum sim_keep keep)
{
	b.sim.dead = true;
	sim_crash(&b.sim, keep, 0);
}

/* ---- clients ---- */

static void on_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct call *c = container_of(w, struct call, w);
	struct told *t = &b.told[c->sequence];

	(void)ctx;
	if (first <= t->last)
		fail_msg("sequence %" PRIu32 " gave %" PRIu64 " again, after %" PRIu64, c->sequence, first, t->last);
	assert_true(t->incarnation == 0 || t->incarnation == incarnation);
	t->last = first + w->count - 1;
	t->incarnation = incarnation;
	c->answered = true;
	b.answered++;
}

static void on_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	(void)ctx;
	assert_int_equal(why, IDS_E_FAILED);
	container_of(w, struct call, w)->answered = true;
	b.answered++;
}

static void ask(uint32_t sequence)
{
	struct call *c = &b.call[sequence];
	char name[SEQUENCE_NAME_MAX + 1];

	if (c->sequence == sequence && c->w.next != NULL)
		return; /* it waits already */
	*c = (struct call){.sequence = sequence};
	if (ids_view_request(b.view, &c->w, name_of(sequence, name), 1 + (uint32_t)(dice() % 8)) == IDS_E_OK)
		b.asked++;
}

static void turn(uint64_t which)
{
	static const struct ids_view_ops ops = {on_answer, on_refused};
	bool worked;

	switch (which) {
	case 0:
		ids_view_turn(b.view, &ops, NULL);
		break;
	case 1:
		producer_turn(b.ids->producer, b.now_ns += NS_PER_MS);
		break;
	default:
		journal_turn(b.j, &worked);
	}
}

static void settle(void)
{
	for (unsigned i = 0; b.answered < b.asked; i++) {
		turn(i % 3);
		assert_true(i < 1000000);
	}
}

/* ---- checks ---- */

/* Where each sequence stands, after an opening. */
static void check(bool clean)
{
	struct ids_sequence_info info;
	uint32_t found = 0, known = 0;

	for (uint32_t i = 0; ids_sequence_info(b.ids, i, &info); i++) {
		uint32_t sequence = (uint32_t)strtoul(info.name, NULL, 10);
		struct told *t = &b.told[sequence];

		if (info.name[0] == '\0' || t->last == 0) /* the default one; one whose first IDs nobody was given */
			continue;
		found++;
		if (info.next <= t->last)
			fail_msg("sequence %" PRIu32 " goes on at %" PRIu64 ", and %" PRIu64 " is out", sequence,
				 info.next, t->last);
		if (clean)
			assert_int_equal(info.next, t->last + 1 > t->floor ? t->last + 1 : t->floor);
		else
			t->floor = info.next;
		assert_true(info.next <= t->reserved || t->reserved == 0);
		assert_int_equal(info.incarnation, t->incarnation);
	}
	for (uint32_t i = 0; i < SEQUENCES; i++)
		known += b.told[i].last != 0;
	assert_int_equal(found, known);
}

/* The process knows no more than this: a crash may skip it. */
static void note_reserved(void)
{
	struct ids_sequence_info info;

	for (uint32_t i = 1; ids_sequence_info(b.ids, i, &info); i++)
		b.told[strtoul(info.name, NULL, 10)].reserved = b.ids->producer->windows[i].reserved_end;
}

/* ---- lives ---- */

static void start(uint64_t seed)
{
	sim_done(&b.sim);
	memset(&b, 0, sizeof b);
	sim_init(&b.sim);
	b.disk = sim_disk(&b.sim);
	b.seed = seed;
	assert_true(begin_process());
	for (uint32_t i = 0; i < SEQUENCES; i++) {
		ask(i);
		if (i % 500 == 499)
			settle();
	}
}

/* False: the plug was pulled meanwhile, and there is no process. */
static bool restart(void)
{
	bool clean = dice() % 2 == 0;

	if (!clean)
		note_reserved();
	end_process(clean);
	if (b.sim.dead || !begin_process())
		return false;
	check(clean);
	for (uint32_t i = 0; i < SEQUENCES; i++)
		b.told[i].reserved = 0;
	return true;
}

/* Until the plug is pulled, or for so many steps. False: there is no process any more. */
static bool live(unsigned steps)
{
	for (unsigned i = 0; i < steps && !b.sim.dead; i++) {
		uint64_t d = dice() % 12;

		if (dice() % 300 == 0 && !restart())
			return false;
		if (d < 3)
			for (unsigned k = (unsigned)(dice() % 20); k > 0; k--)
				ask((uint32_t)(dice() % (d == 0 ? 8 : SEQUENCES)));
		else if (d == 3 && b.ids->producer->checkpoint.buf == NULL)
			b.ids->producer->records_since_checkpoint = UINT64_MAX / 2;
		else
			turn(dice() % 3);
	}
	return true;
}

/* False: the life ended before the plug was pulled. */
static bool life_with_power_cuts(const struct sim *begin, uint64_t seed, uint64_t plug, enum sim_keep keep)
{
	struct sim *copy = sim_copy(begin);
	bool died = true;

	sim_done(&b.sim);
	b.sim = *copy;
	free(copy);
	b.disk = sim_disk(&b.sim);
	b.seed = seed;
	assert_true(begin_process());
	check(true);
	b.sim.plug_at = b.sim.ops + plug;
	if (live(700)) {
		note_reserved();
		died = b.sim.dead;
		end_process(false);
	}
	b.sim.seed = seed * 2 + 1;
	power_cut(keep);
	b.sim.plug_at = b.sim.ops + dice() % 40; /* and again in the recovery */
	if (begin_process())
		end_process(false);
	power_cut(keep);
	assert_true(begin_process());
	check(false);
	for (unsigned i = 0; i < 30; i++)
		ask((uint32_t)(dice() % SEQUENCES));
	settle();
	for (uint32_t i = 0; i < SEQUENCES; i++)
		b.told[i].reserved = 0;
	end_process(false);
	power_cut(SIM_KEEP_NONE);
	assert_true(begin_process());
	check(false);
	end_process(false);
	return died;
}

static void test_no_id_twice_whatever_is_trimmed(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
	bool heavy = getenv("ORDINAL_HEAVY") != NULL;
	uint64_t step = heavy ? 3 : 61;
	static struct told begun[SEQUENCES];
	struct sim *begin;

	(void)state;
	start(1);
	end_process(true);
	memcpy(begun, b.told, sizeof begun);
	begin = sim_copy(&b.sim);
	for (uint64_t seed = 1; seed <= (heavy ? 8 : 3); seed++) {
		for (uint64_t plug = 1 + seed;; plug += step) {
			memcpy(b.told, begun, sizeof begun);
			if (!life_with_power_cuts(begin, seed * 1000, plug, keeps[plug % 3]))
				break;
		}
	}
	sim_free(begin);
	sim_done(&b.sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_id_twice_whatever_is_trimmed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
