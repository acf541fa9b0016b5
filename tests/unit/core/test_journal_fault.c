/* core/journal on the simulated disk: each I/O fails in turn, and each byte that matters is damaged in turn. */
#include "tests/unit/core/journal_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define ROUNDS 30

static const int errors[] = {-EIO, -ENOSPC, 0 /* a short write */, -EDQUOT, -EMFILE, -ENFILE, -ENOMEM};

/* After a failure: the same machine runs on, another process opens the journal, and then the power goes. */
static void look_after_failure(struct rig *r, uint64_t n)
{
	struct sim *sim = r->sim;
	const char *wrong;

	sim->dead = sim->locked = sim->failed = false;
	sim->fail_at = UINT64_MAX;
	if (rig_open(r) != 0)
		fail_msg("operation %llu failed, and then: %s", (unsigned long long)n, r->why);
	wrong = rig_check(r, false);
	if (wrong != NULL)
		fail_msg("operation %llu failed, and then: %s", (unsigned long long)n, wrong);
	rig_adopt(r); /* these marks are published now */
	rig_kill(r);
	sim->dead = true;
	sim_crash(sim, SIM_KEEP_NONE, 0);
	if (rig_open(r) != 0)
		fail_msg("operation %llu failed, then a power cut: %s", (unsigned long long)n, r->why);
	wrong = rig_check(r, true);
	if (wrong != NULL)
		fail_msg("operation %llu failed, then a power cut: %s", (unsigned long long)n, wrong);
	assert_int_equal(rig_close(r), 0);
}

/* What a failure must look like, or what it may have been instead. */
static void judge_failure(struct rig *r, int err, int how, unsigned *survived)
{
	if (err == 0) {
		/* only what was wanted ahead of need may be missing, or one write have been in two pieces */
		if (r->sim->failed) {
			assert_int_not_equal(how, -EIO);
			assert_true(how != 0 || r->sim->fail_op == SIM_OP_WRITE);
			assert_true(r->sim->fail_op != SIM_OP_SYNC);
			assert_true(r->sim->fail_op != SIM_OP_SYNC_DIR || how == -EMFILE || how == -ENFILE);
			++*survived;
		}
		assert_int_equal(r->failures, 0);
		return;
	}
	assert_int_equal(r->failures, 1);
	assert_true(strstr(r->why, "sim/") != NULL);
	assert_int_equal(r->sim->after_fail, 0); /* nothing was tried again, nothing was written any more */
}

/* One life in which operation n fails. False when there was no operation n. */
static bool live_with_failure(enum journal_method method, bool one_file, uint64_t n, uint64_t more, int how,
			      unsigned *survived)
{
	static struct rig r;
	static struct sim sim;
	bool happened;
	int err;

	sim_init(&sim);
	rig_init(&r, &sim, method);
	r.one_file = one_file;
	sim.fail_at = n;
	sim.fail_err = how;
	sim.fail_more = more;
	if (rig_open(&r) == 0) {
		err = rig_live(&r, ROUNDS);
		assert_true(journal_has_failed(r.j) == (err != 0));
		if (err != 0)
			assert_int_equal(rig_turn(&r), err);
		err = rig_close(&r);
		judge_failure(&r, err, how, survived);
	} else {
		assert_true(strstr(r.why, "sim") != NULL);
	}
	happened = sim.failed;
	look_after_failure(&r, n);
	rig_done(&r);
	sim_done(&sim);
	return happened;
}

static void each_io_fails(enum journal_method method, bool one_file, uint64_t step)
{
	unsigned survived = 0;

	for (size_t k = 0; k < ARRAY_SIZE(errors); k++) {
		survived = 0;
		for (uint64_t n = 0; live_with_failure(method, one_file, n, 0, errors[k], &survived); n += step)
			;
		assert_true(survived > 0 || errors[k] == -EIO);
	}
	survived = 0; /* the rest of a short write is short as well */
	for (uint64_t n = 0; live_with_failure(method, one_file, n, 1, 0, &survived); n += step)
		;
	assert_true(survived > 0);
}

static void a_failed_io_ends_the_journal_and_loses_nothing_with_fdatasync(void **state)
{
	each_io_fails(JOURNAL_FDATASYNC, false, 1);
}

static void a_failed_io_ends_the_journal_and_loses_nothing_with_dsync(void **state)
{
	each_io_fails(JOURNAL_DSYNC, false, 3);
}

static void a_failed_io_ends_the_journal_and_loses_nothing_with_direct(void **state)
{
	each_io_fails(JOURNAL_DIRECT, false, 2);
}

static void a_failed_io_ends_the_journal_where_files_are_closed_for_others(void **state)
{
	each_io_fails(JOURNAL_FDATASYNC, true, 3);
	each_io_fails(JOURNAL_DIRECT, true, 3);
}

/* A drive, or a journal, that goes on after a failed sync: the oracle must see that. */
static void a_sync_tried_again_is_noticed(void **state)
{
	static struct rig r;
	static struct sim sim;
	unsigned noticed = 0;

	for (uint64_t n = 20; n < 200 && noticed == 0; n++) {
		sim_init(&sim);
		sim.lie_resync = true;
		rig_init(&r, &sim, JOURNAL_FDATASYNC);
		sim.fail_at = n;
		sim.fail_err = -EIO;
		if (rig_open(&r) == 0) {
			rig_live(&r, ROUNDS);
			rig_kill(&r);
		}
		sim.dead = true;
		sim_crash(&sim, SIM_KEEP_NONE, 0);
		sim.lie_resync = false;
		noticed += rig_open(&r) != 0 || rig_check(&r, true) != NULL;
		if (r.j != NULL)
			rig_close(&r);
		rig_done(&r);
		sim_done(&sim);
	}
	assert_true(noticed > 0);
}

/* What recovery shows after a kill was perhaps only in memory: it has to be synced before it counts. */
static void what_a_kill_left_is_synced_before_it_counts(void **state)
{
	static struct rig r;
	static struct sim sim;

	for (uint64_t n = 1; n < 400; n += 3) {
		sim_init(&sim);
		rig_init(&r, &sim, JOURNAL_FDATASYNC);
		r.log_opts.durability = n % 2 ? JLOG_WRITE : JLOG_FSYNC;
		sim.plug_at = n;
		if (rig_open(&r) == 0) {
			rig_live(&r, ROUNDS);
			rig_kill(&r);
		}
		sim.plug_at = UINT64_MAX;
		look_after_failure(&r, n);
		rig_done(&r);
		sim_done(&sim);
	}
}

static void no_space_at_all_is_an_answer_at_opening(void **state)
{
	static struct rig r;
	static struct sim sim;

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	sim.no_space = true;
	assert_int_equal(rig_open(&r), -ENOSPC);
	sim.no_space = false;
	assert_int_equal(rig_open(&r), 0);
	sim.no_space = true;
	int err = 0;
	uint64_t published = 0;

	while (err == 0) {
		published = r.l[0].published;
		rig_append(&r, 0);
		err = rig_turn(&r);
	}
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(r.l[0].published, published);
	assert_true(published > 3); /* what was filled ahead could be used */
	assert_int_equal(rig_close(&r), -ENOSPC);
	sim.no_space = false;
	assert_int_equal(rig_open(&r), 0);
	assert_null(rig_check(&r, false));
	rig_close(&r);
	rig_done(&r);
	sim_done(&sim);
}

/* ---- what is only prepared ---- */

/* The row that found it: a short write while the file was filled far ahead of the tail ended the daemon. */
static void what_is_only_prepared_may_fail_and_is_tried_again(void **state)
{
	static struct rig r;
	static struct sim sim;

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	r.log_opts.segment_bytes = 1u << 20;
	r.opts.retry_ms = 3600 * 1000;
	assert_int_equal(rig_open(&r), 0);
	sim.no_space = true;
	for (int i = 0; i < 150; i++) {
		assert_true(rig_append(&r, 0));
		assert_int_equal(rig_turn(&r), 0);
	}
	assert_int_equal(r.l[0].published, 150);
	assert_int_equal(journal_room(r.j), JOURNAL_ROOM_TIGHT);
	assert_int_equal(r.rooms, 1);
	assert_int_equal(sim.refused, 1); /* with many groups since: not again before the time */
	sim.no_space = false;
	r.j->later_ns = 0; /* the hour is over */
	assert_int_equal(rig_turn(&r), 0);
	assert_int_equal(journal_room(r.j), JOURNAL_ROOM_AMPLE);
	assert_int_equal(r.rooms, 2);
	for (int i = 0; i < 600; i++) {
		assert_true(rig_append(&r, 0));
		assert_int_equal(rig_turn(&r), 0);
	}
	assert_int_equal(rig_close(&r), 0);
	rig_done(&r);
	sim_done(&sim);
}

/* Dropped files, the next segment and notes: each operation fails as it does without descriptors or memory, once. */
static void every_preparation_is_made_up_for(void **state)
{
	static const int shortages[] = {-ENOSPC, -EMFILE, -ENOMEM};
	unsigned survived = 0;

	for (size_t k = 0; k < ARRAY_SIZE(shortages); k++)
		for (uint64_t n = 1;; n++) {
			static struct rig r;
			static struct sim sim;
			bool happened;

			sim_init(&sim);
			rig_init(&r, &sim, JOURNAL_FDATASYNC);
			r.opts.retry_ms = 3600 * 1000;
			assert_int_equal(rig_open(&r), 0);
			sim.fail_at = sim.ops + n;
			sim.fail_err = shortages[k];
			int err = rig_live(&r, ROUNDS);

			happened = sim.failed;
			if (err == 0 && happened) {
				survived++;
				r.j->later_ns = r.j->note_retry_ns = 0;
				assert_int_equal(rig_turn(&r), 0);
				assert_int_equal(journal_note_idle(r.j), 0);
				assert_int_equal(rig_turn(&r), 0);
				assert_int_equal(journal_room(r.j), JOURNAL_ROOM_AMPLE);
				for (int i = 0; i < RIG_LOGS; i++) {
					assert_int_equal(r.log[i]->retiring, 0);
					assert_int_equal(r.log[i]->dropped, r.log[i]->first_live);
					assert_true(r.log[i]->tail <= r.log[i]->segment_bytes / 2 ||
						    r.log[i]->next_ready);
				}
			}
			rig_kill(&r);
			rig_done(&r);
			sim_done(&sim);
			if (!happened)
				break;
		}
	assert_true(survived > 50);
}

/* ---- every thread's syncs ---- */

/* A log is made while the journal runs. One of its syncs fails: nobody is answered any more. */
static void a_failed_sync_of_an_opener_ends_the_journal(void **state)
{
	unsigned ended = 0, refused = 0;

	for (uint64_t n = 0;; n++) {
		static struct rig r;
		static struct sim sim;
		struct jlog_opts o = {.name = "new", .segment_bytes = JOURNAL_SEGMENT_MIN};
		const char *why = "";
		struct jlog *log;
		bool happened;

		sim_init(&sim);
		rig_init(&r, &sim, JOURNAL_FDATASYNC);
		assert_int_equal(rig_open(&r), 0);
		rig_append(&r, 0);
		assert_int_equal(rig_turn(&r), 0);
		sim.fail_at = sim.ops + n;
		sim.fail_err = -EIO;
		int err = journal_log_open(r.j, &o, &log, &why);

		happened = sim.failed;
		sim.fail_at = UINT64_MAX;
		assert_true((err == 0) == !happened);
		rig_append(&r, 0);
		if (happened && (sim.fail_op == SIM_OP_SYNC || sim.fail_op == SIM_OP_SYNC_DIR)) {
			ended++;
			assert_int_equal(r.failures, 1);
			assert_non_null(strstr(r.why, why));
			assert_int_equal(rig_turn(&r), -EIO);
			assert_int_equal(r.l[0].published, 1);
			assert_int_equal(journal_log_open(r.j, &o, &log, &why), -EIO);
			assert_non_null(strstr(why, "the journal has failed"));
			assert_int_equal(rig_close(&r), -EIO);
			assert_int_equal(r.failures, 1);
			sim.locked = false;
			assert_int_equal(rig_open(&r), 0);
			assert_false(journal_was_clean(r.j));
		} else {
			refused += happened;
			assert_false(journal_has_failed(r.j));
			assert_int_equal(rig_turn(&r), 0);
			assert_int_equal(r.l[0].published, 2);
		}
		rig_kill(&r);
		rig_done(&r);
		sim_done(&sim);
		if (!happened)
			break;
	}
	assert_true(ended >= 3 && refused >= 4);
}

/* No room, no descriptors: nothing is left of the log that could not be made, and another time it can be. */
static void a_log_that_cannot_be_made_leaves_nothing(void **state)
{
	static const int shortages[] = {-ENOSPC, -EDQUOT, -EMFILE, -ENFILE, -ENOMEM};
	unsigned refused = 0;

	for (size_t k = 0; k < ARRAY_SIZE(shortages); k++)
		for (uint64_t n = 0;; n++) {
			static struct rig r;
			static struct sim sim;
			struct jlog_opts o = {.name = "new", .segment_bytes = JOURNAL_SEGMENT_MIN};
			const char *why = "";
			struct jlog *log;
			bool happened;

			sim_init(&sim);
			rig_init(&r, &sim, JOURNAL_FDATASYNC);
			assert_int_equal(rig_open(&r), 0);
			sim.fail_at = sim.ops + n;
			sim.fail_err = shortages[k];
			int err = journal_log_open(r.j, &o, &log, &why);

			happened = sim.failed;
			if (err != 0 && !journal_has_failed(r.j)) {
				refused++;
				assert_int_equal(err, shortages[k]);
				for (int i = 0; i < sim.now.n; i++)
					assert_null(strstr(sim.now.v[i].path, "new"));
				assert_int_equal(journal_log_open(r.j, &o, &log, &why), 0);
				rig_append(&r, 0);
				assert_int_equal(rig_turn(&r), 0);
				assert_int_equal(r.l[0].published, 1);
			}
			rig_kill(&r);
			rig_done(&r);
			sim_done(&sim);
			if (!happened)
				break;
		}
	assert_true(refused > 20);
}

/* Appends to log 0 until it goes on in another segment. */
static void fill_a_segment(struct rig *r)
{
	uint64_t number = r->log[0]->number;

	while (r->log[0]->number == number) {
		assert_true(rig_append(r, 0));
		assert_int_equal(rig_turn(r), 0);
	}
}

/* ---- files that are taken away ---- */

static void delete_all_of(struct sim *sim, const char *log)
{
	char path[SIM_PATH];

	for (int i = sim->now.n; i-- > 0;) {
		memcpy(path, sim->now.v[i].path, sizeof path);
		if (sim_is_in(path, log))
			assert_int_equal(sim_unlink(sim, path), 0);
	}
}

enum theft { THEFT_ALL, THEFT_ACTIVE, THEFT_OTHER_FILE, THEFT_CUT, THEFTS };

/* Does to the first log's files what nobody should. */
static void steal(struct rig *r, enum theft how)
{
	char path[SIM_PATH];
	int fd;

	snprintf(path, sizeof path, "ids/%016llx", (unsigned long long)r->log[0]->number);
	switch (how) {
	case THEFT_ALL:
		delete_all_of(r->sim, "ids");
		break;
	case THEFT_ACTIVE:
		assert_int_equal(sim_rename(r->sim, path, "elsewhere"), 0);
		break;
	case THEFT_OTHER_FILE:
		assert_int_equal(sim_unlink(r->sim, path), 0);
		fd = sim_open(r->sim, path, JD_CREATE);
		assert_int_equal(sim_pwrite(r->sim, fd, path, 1, JLOG_FILL_MIN, 0), 1);
		sim_close(r->sim, fd);
		break;
	case THEFT_CUT:
		sim_content(r->sim, path)->now_n = 100;
		break;
	case THEFTS:
		break;
	}
}

/* The next group of that log is not published, and nothing of it afterwards; the other log goes on. */
static void a_log_whose_file_is_taken_away_is_lost_alone(void **state)
{
	static const enum journal_method methods[] = {JOURNAL_FDATASYNC, JOURNAL_DSYNC, JOURNAL_DIRECT};

	for (unsigned k = 0; k < 3 * THEFTS * 4; k++) {
		static struct rig r;
		static struct sim sim;
		uint64_t before;

		sim_init(&sim);
		rig_init(&r, &sim, methods[k % 3]);
		r.log_opts.durability = k / (3 * THEFTS) % 2 ? JLOG_WRITE : JLOG_FSYNC;
		r.one_file = k / (3 * THEFTS) / 2; /* the first log's file is not open when it goes */
		assert_int_equal(rig_open(&r), 0);
		assert_int_equal(rig_live(&r, 3 + (int)k % 5), 0);
		rig_append(&r, 1);
		assert_int_equal(rig_turn(&r), 0);
		before = r.l[0].published;
		steal(&r, (enum theft)(k / 3 % THEFTS));
		for (int i = 0; i < 40; i++) { /* also into another segment */
			rig_append(&r, 0);
			rig_append(&r, 1);
			assert_int_equal(rig_turn(&r), 0);
		}
		assert_int_equal(r.l[0].published, before);
		assert_int_equal(jlog_state(r.log[0]), JLOG_LOST);
		assert_non_null(strstr(jlog_why(r.log[0]), "sim/ids/"));
		assert_int_equal(r.lost, 1);
		assert_int_equal(r.l[1].published, r.l[1].appended);
		assert_int_equal(jlog_state(r.log[1]), JLOG_WELL);
		assert_string_equal(jlog_why(r.log[1]), "");
		assert_false(journal_has_failed(r.j));
		assert_int_equal(journal_note_idle(r.j), 0);
		assert_int_equal(rig_close(&r), 0);
		rig_done(&r);
		sim_done(&sim);
	}
}

/* Nobody appends any more: what is done ahead of need, and the clean end, meet it. */
static void a_lost_log_that_is_idle_stops_nothing(void **state)
{
	static struct rig r;
	static struct sim sim;

	for (int i = 0; i < 2; i++) {
		sim_init(&sim);
		rig_init(&r, &sim, JOURNAL_FDATASYNC);
		r.one_file = i > 0;
		assert_int_equal(rig_open(&r), 0);
		rig_append(&r, 0);
		rig_append(&r, 1);
		assert_int_equal(rig_turn(&r), 0);
		delete_all_of(&sim, "ids");
		delete_all_of(&sim, "stream.a-1");
		if (i == 0)
			assert_int_equal(journal_note_idle(r.j), 0);
		assert_int_equal(rig_close(&r), 0);
		assert_int_equal(r.failures, 0);
		rig_done(&r);
		sim_done(&sim);
	}
}

static void a_prepared_segment_removed_by_hand_is_made_again(void **state)
{
	static struct rig r;
	static struct sim sim;
	char path[JPATH_MAX];

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	assert_int_equal(rig_open(&r), 0);
	while (!r.log[0]->next_ready) {
		assert_true(rig_append(&r, 0));
		assert_int_equal(rig_turn(&r), 0);
	}
	jlog_segment_path(r.log[0], r.log[0]->number + 1, path);
	assert_int_equal(sim_unlink(&sim, path), 0);
	fill_a_segment(&r);
	assert_int_equal(jlog_state(r.log[0]), JLOG_WELL);
	assert_int_equal(r.l[0].published, r.l[0].appended);
	rig_kill(&r);
	sim.dead = sim.locked = false;
	assert_int_equal(rig_open(&r), 0);
	assert_null(rig_check(&r, false));
	rig_kill(&r);
	rig_done(&r);
	sim_done(&sim);
}

/* A reader is told, instead of being told that it was trimmed. */
static void a_sealed_file_that_is_gone_is_damage_to_its_reader(void **state)
{
	static struct rig r;
	static struct sim sim;
	static uint8_t buf[4096];
	const char *why = "";
	struct jrecord rec;

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	assert_int_equal(rig_open(&r), 0);
	fill_a_segment(&r);
	assert_int_equal(sim_unlink(&sim, "ids/0000000000000001"), 0);
	assert_int_equal(jlog_read(r.log[0], 0, buf, sizeof buf, &rec, NULL, &why), -EBADMSG);
	assert_non_null(strstr(why, "sim/ids/0000000000000001"));
	rig_kill(&r);
	rig_done(&r);
	sim_done(&sim);
}

/* ---- spare files ---- */

static void trim_all(struct rig *r)
{
	assert_true(rig_append(r, 0)); /* the state that stays */
	r->l[0].trimmed = r->l[0].kept = r->l[0].appended;
	assert_true(journal_trim(r->port[0], r->log[0], r->l[0].trimmed));
	assert_int_equal(rig_turn(r), 0);
}

/* A restart makes a spare of the segment that was prepared, and gives its number out again. */
static void a_number_used_again_is_listed_once_among_the_spares(void **state)
{
	static struct rig r;
	static struct sim sim;

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	r.each_is_state = true;
	assert_int_equal(rig_open(&r), 0);
	fill_a_segment(&r);
	while (!r.log[0]->next_ready) {
		assert_true(rig_append(&r, 0));
		assert_int_equal(rig_turn(&r), 0);
	}
	rig_kill(&r);
	sim.dead = sim.locked = false;
	assert_int_equal(rig_open(&r), 0);
	rig_adopt(&r);
	assert_int_equal(r.log[0]->nspares, 1);
	assert_int_equal(r.log[0]->spares[0], r.log[0]->number + 1);
	trim_all(&r); /* a second spare, which is used first */
	for (int i = 0; i < 6; i++) {
		fill_a_segment(&r);
		trim_all(&r);
	}
	for (int i = 0; i < 4; i++) /* until every spare has been used */
		fill_a_segment(&r);
	assert_int_equal(rig_close(&r), 0);
	rig_done(&r);
	sim_done(&sim);
}

/* An error between two steps of preparing a segment leaves a file under a spare's name. */
static void a_spare_left_by_an_error_is_listed(void **state)
{
	for (uint64_t n = 0;; n++) {
		static struct rig r;
		static struct sim sim;
		struct jio io = {.d = &r.disk};
		bool happened;

		sim_init(&sim);
		rig_init(&r, &sim, JOURNAL_FDATASYNC);
		assert_int_equal(rig_open(&r), 0);
		sim.fail_at = sim.ops + n;
		sim.fail_err = -ENOSPC;
		if (jlog_prepare(r.log[0], &io, 2) == 0)
			assert_int_equal(r.log[0]->nspares, 0);
		assert_true(rig_spares_are_listed(&r));
		happened = sim.failed;
		rig_kill(&r);
		rig_done(&r);
		sim_done(&sim);
		if (!happened)
			break;
		assert_true(n < 20);
	}
}

static void a_spare_removed_by_hand_is_made_again(void **state)
{
	static struct rig r;
	static struct sim sim;
	char path[JPATH_MAX];

	sim_init(&sim);
	rig_init(&r, &sim, JOURNAL_FDATASYNC);
	r.each_is_state = true;
	assert_int_equal(rig_open(&r), 0);
	fill_a_segment(&r);
	fill_a_segment(&r);
	trim_all(&r);
	assert_true(r.log[0]->nspares > 0);
	for (unsigned i = 0; i < r.log[0]->nspares; i++) {
		jlog_spare_path(r.log[0], r.log[0]->spares[i], path);
		assert_int_equal(sim_unlink(&sim, path), 0);
	}
	while (!r.log[0]->next_ready) {
		bool worked;

		assert_true(rig_append(&r, 0));
		do
			assert_int_equal(journal_turn(r.j, &worked), 0);
		while (worked);
	}
	assert_true(rig_spares_are_listed(&r));
	assert_int_equal(rig_close(&r), 0);
	rig_done(&r);
	sim_done(&sim);
}

/* ---- damage ---- */

struct extent {
	uint32_t at, n;
};

/* All records in a segment file, as bytes. */
static unsigned find_records(struct rig *r, int log, uint64_t segment, const struct sim_file *f, struct extent *ret,
			     unsigned cap)
{
	struct jlog *l = r->log[log];
	uint32_t at = JF_HEADER;
	unsigned n = 0;

	while (n < cap && at + JF_RECORD_HEADER <= f->now_n) {
		struct jrecord rec;
		size_t size;
		int err = jlog_parse(l, segment << 32 | at, (struct span){f->now + at, f->now_n - at}, &rec, &size);

		if (err < 0)
			break;
		ret[n++] = (struct extent){at, (uint32_t)(err == 0 ? JF_RECORD_HEADER + rec.payload.n : size)};
		at += (uint32_t)size;
	}
	return n;
}

static struct sim *stopped; /* the disk as it is to be damaged */

/* Opens a damaged copy: it must be refused, with the place named. */
static void must_be_refused(const struct rig *from, const char *path, uint32_t byte, uint32_t named)
{
	static struct rig r;
	struct sim *sim = sim_copy(stopped);
	char want[120];

	rig_init(&r, sim, JOURNAL_FDATASYNC);
	rig_know(&r, from);
	sim_flip(sim, path, byte, (uint8_t)(1u << byte % 8));
	snprintf(want, sizeof want, "sim/%s: damaged at byte %u:", path, named);
	int err = rig_open(&r);

	if (err != -EBADMSG || strncmp(r.why, want, strlen(want)) != 0)
		fail_msg("byte %u of %s flipped: %d \"%s\", not \"%s\"", byte, path, err, r.why, want);
	rig_done(&r);
	sim_free(sim);
}

/* Flips a bit in every few bytes of all records of both logs, except the last `spare` records of each. */
static void flip_records(struct rig *r, unsigned spare)
{
	static const char *const names[RIG_LOGS] = {"ids", "stream.a-1"};
	static struct extent x[2000];
	unsigned flips = 0;

	for (int log = 0; log < RIG_LOGS; log++) {
		struct jsegment segs[32];
		uint32_t nsegs = jlog_segments(r->log[log], segs, 32);

		assert_true(nsegs > 1);
		for (uint32_t s = 0; s < nsegs; s++) {
			char path[SIM_PATH];
			unsigned n;

			snprintf(path, sizeof path, "%s/%016llx", names[log],
				 (unsigned long long)(segs[s].begin >> 32));
			n = find_records(r, log, segs[s].begin >> 32, sim_content(r->sim, path), x, ARRAY_SIZE(x));
			for (unsigned i = 0; i + (s + 1 == nsegs ? spare : 0) < n; i++)
				for (uint32_t b = 0; b < x[i].n; b += b < JF_RECORD_HEADER ? 3 : 41, flips++)
					must_be_refused(r, path, x[i].at + b, x[i].at);
		}
	}
	assert_true(flips > 1000);
}

/* A history on disk, and the journal open to tell where things are in it. */
static void build(struct rig *r, struct sim *sim)
{
	sim_init(sim);
	rig_init(r, sim, JOURNAL_FDATASYNC);
	assert_int_equal(rig_open(r), 0);
	assert_int_equal(rig_live(r, 36), 0);
}

/* The disk as it is now is the one to be damaged. */
static void stop_here(struct rig *r)
{
	stopped = sim_copy(r->sim);
	for (int fd = 0; fd < SIM_FDS; fd++)
		stopped->fds[fd].open = false;
	stopped->locked = false;
}

static void build_clean(struct rig *r, struct sim *sim)
{
	build(r, sim);
	for (int log = 0; log < RIG_LOGS; log++)
		rig_append(r, log);
	assert_int_equal(rig_turn(r), 0);
	assert_int_equal(rig_close(r), 0);
	stop_here(r);
	assert_int_equal(rig_open(r), 0);
}

static void tear_down(struct rig *r, struct sim *sim)
{
	rig_kill(r);
	rig_done(r);
	sim_done(sim);
	sim_free(stopped);
}

static void damage_is_refused_after_a_clean_stop(void **state)
{
	static struct rig r;
	static struct sim sim;

	build_clean(&r, &sim);
	flip_records(&r, 0);
	tear_down(&r, &sim);
}

static void damage_is_refused_after_an_idle_while(void **state)
{
	static struct rig r;
	static struct sim sim;

	build(&r, &sim);
	assert_int_equal(journal_note_idle(r.j), 0);
	stop_here(&r);
	flip_records(&r, 0);
	tear_down(&r, &sim);
}

static void damage_before_the_last_group_is_refused_after_a_kill(void **state)
{
	static struct rig r;
	static struct sim sim;

	build(&r, &sim);
	for (int log = 0; log < RIG_LOGS; log++) {
		rig_append(&r, log); /* a last group of one record */
		assert_int_equal(rig_turn(&r), 0);
	}
	stop_here(&r);
	flip_records(&r, 1);
	tear_down(&r, &sim);
}

static void damaged_headers_are_refused(void **state)
{
	static struct rig r;
	static struct sim sim;
	struct jsegment segs[32];
	char path[SIM_PATH];

	build_clean(&r, &sim);
	assert_true(jlog_segments(r.log[0], segs, 32) > 1);
	snprintf(path, sizeof path, "ids/%016llx", (unsigned long long)(segs[0].begin >> 32));
	for (uint32_t b = 0; b < JF_SECTOR; b++)
		must_be_refused(&r, path, b, 0);
	tear_down(&r, &sim);
}

static void a_missing_segment_is_refused(void **state)
{
	static struct rig r;
	static struct sim sim;
	struct jsegment segs[32];
	char path[SIM_PATH];
	uint32_t n;

	build_clean(&r, &sim);
	n = jlog_segments(r.log[0], segs, 32);
	for (uint32_t i = 0; i + 1 < n; i++) {
		static struct rig other;
		struct sim *copy = sim_copy(stopped);

		snprintf(path, sizeof path, "ids/%016llx", (unsigned long long)(segs[i].begin >> 32));
		rig_init(&other, copy, JOURNAL_FDATASYNC);
		rig_know(&other, &r);
		assert_int_equal(sim_unlink(copy, path), 0);
		assert_int_equal(rig_open(&other), -EBADMSG);
		assert_non_null(strstr(other.why, path));
		assert_non_null(strstr(other.why, "missing"));
		rig_done(&other);
		sim_free(copy);
	}
	tear_down(&r, &sim);
}

/* One damaged slot of the superblock costs nothing; two are refused; none, where there are logs, is refused. */
/* The newest file with records, and a file behind it that was only made ready. */
static void remove_newest(struct sim *sim, int log, uint64_t newest, char want[140])
{
	for (uint64_t n = newest; n <= newest + 1; n++) {
		char path[80];

		snprintf(path, sizeof path, "%s/%016llx", log == 0 ? "ids" : "stream.a-1", (unsigned long long)n);
		if (n == newest)
			snprintf(want, 140, "sim/%s: damaged at byte 0: the newest file is missing", path);
		if (sim_unlink(sim, path) != 0)
			assert_int_not_equal(n, newest);
	}
}

/* As an older version wrote them: no note says that the segment before the newest one was
 * sealed. */
static void unseal(struct sim *sim, int log, uint64_t newest)
{
	char path[80];
	struct sim_file *f;

	snprintf(path, sizeof path, "%s/%016llx", log == 0 ? "ids" : "stream.a-1", (unsigned long long)newest - 1);
	f = sim_content(sim, path);
	assert_non_null(f);
	memset(f->now + JF_NOTE_AT, 0, JF_SECTOR);
	memset(f->safe + JF_NOTE_AT, 0, JF_SECTOR);
}

/* What its records said was lost without a word: the file before it says that there has to be one.
 * `how` the process ended: closed; killed, and all that it wrote is there; the power went; the
 * same, in an older version. */
static void a_missing_newest_segment_is_refused(void **state)
{
	static struct rig r;
	static struct sim sim;
	char want[140];

	(void)state;
	for (unsigned how = 0; how < 4; how++) {
		for (unsigned round = 0; round < 12; round++) {
			int log = (int)(round % RIG_LOGS);
			uint64_t newest;

			sim_init(&sim);
			rig_init(&r, &sim, JOURNAL_FDATASYNC);
			r.seed = 100 + round;
			assert_int_equal(rig_open(&r), 0);
			do /* else it is the only one */
				assert_int_equal(rig_live(&r, 20), 0);
			while (r.log[log]->first_live == r.log[log]->number);
			newest = r.log[log]->number;
			assert_true(newest > 2 && r.log[log]->tail > JF_HEADER);
			if (how == 0)
				assert_int_equal(rig_close(&r), 0);
			else
				rig_kill(&r);
			sim.dead = sim.locked = false;
			if (how >= 2)
				sim_crash(&sim, SIM_KEEP_NONE, 0);
			if (how == 3)
				unseal(&sim, log, newest);
			if (round % 2 || how == 3) {
				assert_int_equal(rig_open(&r), 0);
				rig_kill(&r);
				sim.dead = sim.locked = false;
			}
			remove_newest(&sim, log, newest, want);
			assert_int_equal(rig_open(&r), -EBADMSG);
			assert_string_equal(r.why, want);
			rig_done(&r);
			sim_done(&sim);
		}
	}
}

static void the_superblock_has_two_slots(void **state)
{
	static struct rig r;
	static struct sim sim;

	for (int slots = 1; slots <= 3; slots++) {
		uint32_t epoch;

		build(&r, &sim);
		assert_int_equal(rig_close(&r), 0);
		assert_int_equal(rig_open(&r), 0);
		assert_int_equal(rig_live(&r, 3), 0);
		epoch = r.log[0]->epoch;
		rig_kill(&r);
		sim.dead = sim.locked = false;
		if (slots & 1)
			sim_flip(&sim, ".super", 20, 1);
		if (slots & 2)
			sim_flip(&sim, ".super", 4096 + 20, 1);
		assert_int_equal(rig_open(&r), slots == 3 ? -EBADMSG : 0);
		if (slots == 3) {
			assert_string_equal(r.why, "sim/.super: damaged at byte 0: neither slot is valid");
			assert_int_equal(sim_unlink(&sim, ".super"), 0);
			assert_int_equal(rig_open(&r), -EBADMSG);
		} else {
			/* the lower epoch of an older slot must not be used again */
			assert_true(r.log[0]->epoch > epoch);
			assert_null(rig_check(&r, false));
			rig_adopt(&r);
			assert_int_equal(rig_live(&r, 3), 0);
			rig_kill(&r);
			sim.dead = true;
			sim_crash(&sim, SIM_KEEP_NONE, 0);
			assert_int_equal(rig_open(&r), 0);
			assert_null(rig_check(&r, false));
			rig_close(&r);
		}
		rig_done(&r);
		sim_done(&sim);
	}
}

static void damage_under_a_reader_is_named(void **state)
{
	static struct rig r;
	static struct sim sim;
	static uint8_t buf[4096];
	const char *why = "";
	struct jrecord rec;
	uint64_t where, next;
	char want[100];

	build_clean(&r, &sim);
	where = r.l[0].where[r.l[0].last];
	assert_int_equal(jlog_read(r.log[0], where, buf, sizeof buf, &rec, &next, &why), 0);
	assert_int_equal(rec.mark, r.l[0].last);
	snprintf(want, sizeof want, "ids/%016llx", (unsigned long long)(where >> 32));
	sim_flip(&sim, want, (uint32_t)where + JF_RECORD_HEADER + (uint32_t)rec.payload.n - 1, 4);
	assert_int_equal(jlog_read(r.log[0], where, buf, sizeof buf, &rec, &next, &why), -EBADMSG);
	snprintf(want, sizeof want, "sim/ids/%016llx: damaged at byte %u", (unsigned long long)(where >> 32),
		 (uint32_t)where);
	assert_string_equal(why, want);
	tear_down(&r, &sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_io_ends_the_journal_and_loses_nothing_with_fdatasync),
		cmocka_unit_test(a_failed_io_ends_the_journal_and_loses_nothing_with_dsync),
		cmocka_unit_test(a_failed_io_ends_the_journal_and_loses_nothing_with_direct),
		cmocka_unit_test(a_failed_io_ends_the_journal_where_files_are_closed_for_others),
		cmocka_unit_test(a_sync_tried_again_is_noticed),
		cmocka_unit_test(what_a_kill_left_is_synced_before_it_counts),
		cmocka_unit_test(no_space_at_all_is_an_answer_at_opening),
		cmocka_unit_test(what_is_only_prepared_may_fail_and_is_tried_again),
		cmocka_unit_test(every_preparation_is_made_up_for),
		cmocka_unit_test(a_failed_sync_of_an_opener_ends_the_journal),
		cmocka_unit_test(a_log_that_cannot_be_made_leaves_nothing),
		cmocka_unit_test(a_log_whose_file_is_taken_away_is_lost_alone),
		cmocka_unit_test(a_lost_log_that_is_idle_stops_nothing),
		cmocka_unit_test(a_prepared_segment_removed_by_hand_is_made_again),
		cmocka_unit_test(a_sealed_file_that_is_gone_is_damage_to_its_reader),
		cmocka_unit_test(a_number_used_again_is_listed_once_among_the_spares),
		cmocka_unit_test(a_spare_left_by_an_error_is_listed),
		cmocka_unit_test(a_spare_removed_by_hand_is_made_again),
		cmocka_unit_test(damage_is_refused_after_a_clean_stop),
		cmocka_unit_test(damage_is_refused_after_an_idle_while),
		cmocka_unit_test(damage_before_the_last_group_is_refused_after_a_kill),
		cmocka_unit_test(damaged_headers_are_refused),
		cmocka_unit_test(a_missing_segment_is_refused),
		cmocka_unit_test(a_missing_newest_segment_is_refused),
		cmocka_unit_test(the_superblock_has_two_slots),
		cmocka_unit_test(damage_under_a_reader_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
