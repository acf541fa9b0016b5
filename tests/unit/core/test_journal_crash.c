/* core/journal on the simulated disk: the plug is pulled at every operation, in many ways, and each time the oracle
 * looks. */
#include "tests/unit/core/journal_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static char place[900];

#define ROUNDS 40

/* Reads everything back by position, against the replay. */
static const char *check_reading(struct rig *r)
{
	static uint8_t buf[4096];

	for (int i = 0; i < RIG_LOGS; i++) {
		uint64_t where = 0, seen = 0;
		struct jrecord rec;
		int err;

		while ((err = jlog_read(r->log[i], where, buf, sizeof buf, &rec, &where, NULL)) == 0) {
			if (!rig_is_good(r, i, &rec) || r->l[i].where[rec.mark] != rec.where)
				return "reading gave something else than replay";
			seen++;
		}
		if (err != -ENODATA)
			return "reading failed";
		if (seen < r->l[i].last - r->l[i].trimmed && seen < r->l[i].count)
			return "reading gave less than replay";
	}
	return NULL;
}

/* Opens what is left, checks it, lives on for a while, closes cleanly, and checks once more. NULL or what is wrong. */
static const char *aftermath(struct rig *r, bool power)
{
	const char *wrong;
	int err = rig_open(r);

	if (err != 0)
		return r->why;
	wrong = rig_check(r, power);
	if (wrong == NULL)
		wrong = check_reading(r);
	rig_adopt(r);
	if (wrong == NULL && rig_live(r, 4) != 0)
		wrong = "it does not live on";
	err = rig_close(r);
	if (wrong != NULL)
		return wrong;
	if (err != 0)
		return "it does not close";
	if (rig_open(r) != 0)
		return r->why;
	wrong = rig_check(r, false);
	if (wrong == NULL && r->l[0].last != r->l[0].appended)
		wrong = "a clean close lost something";
	if (wrong == NULL && !journal_was_clean(r->j))
		wrong = "a clean close was not taken for one";
	rig_close(r);
	return wrong;
}

/* The same for a copy of the disk that crashes like this. */
static const char *crash_copy(const struct rig *from, enum sim_keep keep, uint64_t cut, uint64_t seed, uint64_t plug_at)
{
	static struct rig r;
	struct sim *sim = sim_copy(from->sim);
	const char *wrong;

	sim->seed = seed * 2 + 1;
	sim->lie_sync = sim->lie_dsync = sim->lie_sync_dir = sim->lie_resync = sim->lie_cut = false;
	sim_crash(sim, keep, cut);
	rig_init(&r, sim, JOURNAL_FDATASYNC);
	rig_know(&r, from);
	if (plug_at != UINT64_MAX) { /* recovery does not get far, and the plug is pulled again */
		sim->plug_at = sim->ops + plug_at;
		if (rig_open(&r) == 0)
			rig_kill(&r);
		sim->dead = true;
		sim_crash(sim, SIM_KEEP_RANDOM, 0);
		rig_know(&r, from);
	}
	wrong = aftermath(&r, true);
	rig_done(&r);
	sim_free(sim);
	if (wrong != NULL)
		snprintf(place, sizeof place, "keep %d cut %llu seed %llu recovery %lld: %s", (int)keep,
			 (unsigned long long)cut, (unsigned long long)seed, (long long)plug_at, wrong);
	return wrong;
}

/* All ways in which one state can crash. Returns how many promises were broken. */
static unsigned crash_all(const struct rig *r, uint64_t n)
{
	uint64_t sectors = sim_sectors(r->sim);
	unsigned broken = 0;

	broken += crash_copy(r, SIM_KEEP_NONE, 0, 1, UINT64_MAX) != NULL;
	broken += crash_copy(r, SIM_KEEP_ALL, 0, 1, UINT64_MAX) != NULL;
	for (uint64_t cut = 1; cut<sectors; cut += sectors> 24 ? sectors / 12 : 1)
		broken += crash_copy(r, SIM_KEEP_CUT, cut, 1, UINT64_MAX) != NULL;
	for (uint64_t seed = 0; seed < 4; seed++)
		broken += crash_copy(r, SIM_KEEP_RANDOM, 0, n * 4 + seed, UINT64_MAX) != NULL;
	return broken;
}

enum plant { PLANT_NONE, PLANT_SYNC, PLANT_DSYNC, PLANT_SYNC_DIR };

/* Lives once for each operation at which the plug can be pulled. Returns how many promises were broken; with a
 * planted bug it stops at the first. */
static unsigned sweep_files(enum journal_method method, enum jlog_durability durability, enum plant plant,
			    uint64_t step, bool one_file)
{
	static struct rig r;
	static struct sim sim;
	unsigned broken = 0;
	bool ended = false;

	for (uint64_t n = 1; !ended && !(plant != PLANT_NONE && broken > 0); n += step) {
		sim_init(&sim);
		sim.lie_sync = plant == PLANT_SYNC;
		sim.lie_dsync = plant == PLANT_DSYNC;
		sim.lie_sync_dir = plant == PLANT_SYNC_DIR;
		rig_init(&r, &sim, method);
		r.log_opts.durability = durability;
		r.one_file = one_file;
		sim.plug_at = n;
		if (rig_open(&r) == 0) {
			ended = rig_live(&r, ROUNDS) == 0;
			if (ended) /* a life worth looking at */
				assert_true(journal_stats(r.j)->recycled > 2 || plant != PLANT_NONE);
			if (ended && one_file)
				assert_true(journal_stats(r.j)->files_closed > 10);
			ended = ended && rig_close(&r) == 0;
			if (r.j != NULL)
				rig_kill(&r);
		}
		sim.dead = true;
		if (plant == PLANT_NONE)
			assert_int_equal(sim.closed_unsynced, 0);
		broken += crash_all(&r, n);
		if (broken > 0 && plant == PLANT_NONE)
			fail_msg("plug pulled at operation %llu: %s", (unsigned long long)n, place);
		rig_done(&r);
		sim_done(&sim);
	}
	return broken;
}

static unsigned sweep(enum journal_method method, enum jlog_durability durability, enum plant plant, uint64_t step)
{
	return sweep_files(method, durability, plant, step, false);
}

static void nothing_published_is_lost_with_fdatasync(void **state)
{
	assert_int_equal(sweep(JOURNAL_FDATASYNC, JLOG_FSYNC, PLANT_NONE, 1), 0);
}

static void nothing_published_is_lost_with_dsync(void **state)
{
	assert_int_equal(sweep(JOURNAL_DSYNC, JLOG_FSYNC, PLANT_NONE, 3), 0);
}

static void nothing_published_is_lost_with_direct(void **state)
{
	assert_int_equal(sweep(JOURNAL_DIRECT, JLOG_FSYNC, PLANT_NONE, 2), 0);
}

static void the_write_mode_keeps_a_whole_beginning(void **state)
{
	assert_int_equal(sweep(JOURNAL_FDATASYNC, JLOG_WRITE, PLANT_NONE, 3), 0);
}

static void nothing_is_lost_where_files_are_closed_for_others(void **state)
{
	assert_int_equal(sweep_files(JOURNAL_FDATASYNC, JLOG_FSYNC, PLANT_NONE, 4, true), 0);
	assert_int_equal(sweep_files(JOURNAL_DIRECT, JLOG_FSYNC, PLANT_NONE, 5, true), 0);
	assert_int_equal(sweep_files(JOURNAL_FDATASYNC, JLOG_WRITE, PLANT_NONE, 5, true), 0);
}

static void an_acknowledgement_before_the_sync_is_noticed(void **state)
{
	assert_true(sweep(JOURNAL_FDATASYNC, JLOG_FSYNC, PLANT_SYNC, 1) > 0);
}

static void a_durable_write_that_is_not_is_noticed(void **state)
{
	assert_true(sweep(JOURNAL_DSYNC, JLOG_FSYNC, PLANT_DSYNC, 1) > 0);
	assert_true(sweep(JOURNAL_DIRECT, JLOG_FSYNC, PLANT_DSYNC, 1) > 0);
}

static void a_missing_directory_sync_is_noticed(void **state)
{
	assert_true(sweep(JOURNAL_FDATASYNC, JLOG_FSYNC, PLANT_SYNC_DIR, 1) > 0);
}

/* Crash, then crash again at each operation of the recovery from it. */
static void a_second_crash_during_recovery_loses_nothing(void **state)
{
	static struct rig r;
	static struct sim sim;

	for (uint64_t n = 20; n < 320; n += 13) {
		sim_init(&sim);
		rig_init(&r, &sim, n % 2 ? JOURNAL_FDATASYNC : JOURNAL_DIRECT);
		sim.plug_at = n;
		if (rig_open(&r) == 0) {
			rig_live(&r, ROUNDS);
			rig_kill(&r);
		}
		sim.dead = true;
		for (uint64_t m = 0; m < 60; m++)
			if (crash_copy(&r, SIM_KEEP_RANDOM, 0, n, m) != NULL)
				fail_msg("plug pulled at operation %llu, then: %s", (unsigned long long)n, place);
		rig_done(&r);
		sim_done(&sim);
	}
}

/* A process that is killed leaves everything that it wrote. */
static void a_killed_process_loses_nothing_written(void **state)
{
	static struct rig r;
	static struct sim sim;

	for (int method = JOURNAL_FDATASYNC; method <= JOURNAL_DIRECT; method++) {
		sim_init(&sim);
		rig_init(&r, &sim, (enum journal_method)method);
		r.log_opts.durability = JLOG_WRITE;
		for (int round = 0; round < 6; round++) {
			assert_int_equal(rig_open(&r), 0);
			assert_null(rig_check(&r, false));
			rig_adopt(&r);
			assert_int_equal(rig_live(&r, 10), 0);
			rig_kill(&r);
			sim.dead = sim.locked = false;
		}
		rig_done(&r);
		sim_done(&sim);
	}
}

/* Records of one sector each, at sectors' edges: three in flight, each subset of which survives. Then a shorter
 * history takes their place, ending just where a survivor begins. */
static void what_was_cut_never_comes_back(void **state)
{
	static uint8_t a[464], b[464], pad[512 - 64 - 48];

	memset(a, 'a', sizeof a);
	memset(b, 'b', sizeof b);
	for (unsigned lie = 0; lie < 2; lie++)
		for (unsigned subset = 0; subset < 8; subset++) {
			static struct rig r;
			static struct sim sim;
			struct sim_file *f;
			struct jlog *log;
			struct jlog_opts o = {.name = "x", .segment_bytes = JOURNAL_SEGMENT_MIN};
			struct journal_port *p;
			bool worked;

			sim_init(&sim);
			rig_init(&r, &sim, JOURNAL_FDATASYNC);
			assert_int_equal(journal_open(&r.opts, &r.j, NULL), 0);
			assert_int_equal(journal_log_open(r.j, &o, &log, NULL), 0);
			assert_int_equal(journal_port_new(r.j, &r.bell, 8, &p), 0);
			assert_true(journal_append(p, log, 0, 1, pad, sizeof pad));
			assert_int_equal(journal_turn(r.j, &worked), 0);
			for (uint64_t mark = 2; mark <= 4; mark++)
				assert_true(journal_append(p, log, 0, mark, a, sizeof a));
			sim.plug_at = sim.ops + 1; /* written, not synced */
			assert_int_equal(journal_turn(r.j, &worked), -EIO);
			assert_int_equal(jlog_durable(log), 1);
			rig_kill(&r);
			f = sim_content(&sim, "x/0000000000000001");
			for (unsigned k = 0; k < 3; k++)
				if (subset >> k & 1)
					memcpy(f->safe + 4096 + 512 * (k + 1), f->w[0].p + 512 * k, 512);
			sim_crash(&sim, SIM_KEEP_NONE, 0);

			sim.lie_cut = lie; /* then the epoch alone must do */
			assert_int_equal(journal_open(&r.opts, &r.j, NULL), 0);
			assert_int_equal(journal_log_open(r.j, &o, &log, NULL), 0);
			uint64_t kept = subset == 7 ? 3 : (subset & 3) == 3 ? 2 : subset & 1;

			assert_int_equal(jlog_durable(log), 1 + kept);
			assert_int_equal(journal_port_new(r.j, &r.bell, 8, &p), 0);
			assert_true(journal_append(p, log, 0, 2 + kept, b, sizeof b));
			assert_int_equal(journal_turn(r.j, &worked), 0);
			rig_kill(&r);
			sim_crash(&sim, SIM_KEEP_NONE, 0);

			assert_int_equal(journal_open(&r.opts, &r.j, NULL), 0);
			assert_int_equal(journal_log_open(r.j, &o, &log, NULL), 0);
			assert_int_equal(jlog_durable(log), 2 + kept);
			assert_int_equal(journal_close(r.j), 0);
			r.j = NULL;
			rig_done(&r);
			sim_done(&sim);
		}
}

/* Long enough for each file to have been every segment, with crashes between. */
static void recycled_segments_never_show_old_records(void **state)
{
	static struct rig r;
	static struct sim sim;
	uint64_t recycled = 0;

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	for (int life = 0; life < 10; life++) {
		if (rig_open(&r) != 0)
			fail_msg("%s", r.why);
		if (rig_check(&r, true) != NULL)
			fail_msg("%s", rig_check(&r, true));
		rig_adopt(&r);
		assert_int_equal(rig_live(&r, 60), 0);
		recycled += journal_stats(r.j)->recycled;
		assert_true(journal_stats(r.j)->segments < 16);
		sim.plug_at = sim.ops + (uint64_t)life;
		rig_live(&r, 8);
		rig_kill(&r);
		sim.dead = true;
		sim_crash(&sim, SIM_KEEP_RANDOM, 0);
	}
	assert_true(recycled > 20);
	rig_done(&r);
	sim_done(&sim);
}

struct state_seen {
	uint32_t others, parts;
	uint64_t begun; /* segment */
};

static int see_state(void *ctx, const struct jrecord *rec)
{
	struct state_seen *seen = ctx;

	assert_int_equal(rec->mark, 1);
	if (rec->type != 8) {
		seen->others++;
		return 0;
	}
	if (seen->parts++ == 0)
		seen->begun = rec->where >> 32;
	assert_int_equal(rec->payload.p[0], seen->parts);
	return 0;
}

/* One record nearly fills the segment; then a state of so many parts, and a trim of what came
 * before. */
static void trim_behind(struct rig *r, uint32_t room, uint32_t parts, uint32_t bytes)
{
	static uint8_t body[JOURNAL_SEGMENT_MIN];
	struct jappend a = {.log = r->log[0], .type = 7, .mark = 1};

	a.body = (struct span){body, jlog_record_max(r->log[0]) - room};
	assert_true(journal_appendv(r->port[0], &a));
	assert_int_equal(rig_turn(r), 0);
	for (uint32_t i = 0; i < parts; i++) {
		uint8_t *own = calloc(1, bytes);

		assert_non_null(own);
		own[0] = (uint8_t)(i + 1);
		a.body = (struct span){own, bytes};
		a.type = 8;
		a.owned = true;
		a.state = (i == 0 ? JSTATE_FIRST : 0) | (i + 1 == parts ? JSTATE_LAST : 0);
		assert_true(journal_appendv(r->port[0], &a));
	}
	assert_true(journal_trim(r->port[0], r->log[0], 2));
	assert_int_equal(rig_turn(r), 0);
}

/* The state and the trim roll the segment wherever they do not fit, the trim alone too: all of the
 * state stays, nothing else that need not, and the mark goes on. */
static void a_trim_keeps_the_state_whatever_rolls_in_between(void **state)
{
	static struct rig r;
	static struct sim sim;

	(void)state;
	for (uint32_t room = 0; room < 600; room += 8) {
		for (uint32_t parts = 1; parts < 6; parts += 2) {
			struct state_seen seen = {0};
			struct jlog_opts lo = {
				.name = "ids", .segment_bytes = JOURNAL_SEGMENT_MIN, .replay = see_state, .ctx = &seen};

			sim_init(&sim);
			rig_init(&r, &sim, JOURNAL_FDATASYNC);
			assert_int_equal(rig_open(&r), 0);
			trim_behind(&r, room, parts, parts == 3 ? 9000 : 16);
			rig_kill(&r);
			sim_crash(&sim, SIM_KEEP_NONE, 0);
			assert_int_equal(journal_open(&r.opts, &r.j, NULL), 0);
			assert_int_equal(journal_log_open(r.j, &lo, &r.log[0], NULL), 0);
			assert_int_equal(jlog_durable(r.log[0]), 1);
			assert_int_equal(seen.parts, parts);
			assert_int_equal(seen.others, seen.begun == 1);
			assert_int_equal(rig_close(&r), 0);
			rig_done(&r);
			sim_done(&sim);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_published_is_lost_with_fdatasync),
		cmocka_unit_test(nothing_published_is_lost_with_dsync),
		cmocka_unit_test(nothing_published_is_lost_with_direct),
		cmocka_unit_test(the_write_mode_keeps_a_whole_beginning),
		cmocka_unit_test(nothing_is_lost_where_files_are_closed_for_others),
		cmocka_unit_test(an_acknowledgement_before_the_sync_is_noticed),
		cmocka_unit_test(a_durable_write_that_is_not_is_noticed),
		cmocka_unit_test(a_missing_directory_sync_is_noticed),
		cmocka_unit_test(a_second_crash_during_recovery_loses_nothing),
		cmocka_unit_test(a_killed_process_loses_nothing_written),
		cmocka_unit_test(what_was_cut_never_comes_back),
		cmocka_unit_test(recycled_segments_never_show_old_records),
		cmocka_unit_test(a_trim_keeps_the_state_whatever_rolls_in_between),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
