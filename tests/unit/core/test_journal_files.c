/* core/journal_files: many logs and few descriptors, on the simulated disk, which counts the files that are open and those that were closed too early. */
#include "core/journal_internal.h"
#include "tests/unit/core/sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define LOGS 40
#define FILES 6

struct many {
	struct sim sim;
	struct journal_disk disk;
	struct journal *j;
	struct jlog *log[LOGS];
	struct journal_port *port;
	struct doorbell bell;
	uint64_t appended[LOGS], seen[LOGS];
	unsigned failures;
	char why[700];
};

static void failed(void *ctx, int err, const char *what)
{
	struct many *m = ctx;

	(void)err;
	m->failures++;
	snprintf(m->why, sizeof m->why, "%s", what);
}

struct replay {
	struct many *m;
	int log;
};

static int see(void *ctx, const struct jrecord *rec)
{
	struct replay *r = ctx;

	assert_int_equal(rec->mark, ++r->m->seen[r->log]);
	assert_int_equal(rec->type, r->log);
	return 0;
}

static void open_many(struct many *m, enum journal_method method, enum jlog_durability durability)
{
	struct journal_opts o = {
		.dir = "sim", .method = method, .disk = &m->disk, .files_max = FILES, .failed = failed, .ctx = m};
	const char *why = "";

	m->disk = sim_disk(&m->sim);
	if (journal_open(&o, &m->j, &why) != 0)
		fail_msg("%s", why);
	assert_int_equal(journal_port_new(m->j, &m->bell, 4 * LOGS, &m->port), 0);
	for (int i = 0; i < LOGS; i++) {
		char name[16];
		struct replay r = {m, i};
		struct jlog_opts lo = {.name = name,
				       .segment_bytes = JOURNAL_SEGMENT_MIN,
				       .replay = see,
				       .ctx = &r,
				       .durability = durability};

		snprintf(name, sizeof name, "log-%02d", i);
		m->seen[i] = 0;
		if (journal_log_open(m->j, &lo, &m->log[i], &why) != 0)
			fail_msg("%s", why);
		assert_int_equal(m->seen[i], m->appended[i]);
	}
}

static void make_many(struct many *m, enum journal_method method, enum jlog_durability durability)
{
	memset(m, 0, sizeof *m);
	sim_init(&m->sim);
	m->sim.fds_max = FILES + (int)JOURNAL_FILES_MORE;
	assert_int_equal(doorbell_init(&m->bell), 0);
	open_many(m, method, durability);
}

static void close_many(struct many *m)
{
	assert_int_equal(journal_close(m->j), 0);
	assert_int_equal(sim_fds_open(&m->sim), 0);
	assert_int_equal(m->sim.closed_unsynced, 0);
}

static void free_many(struct many *m)
{
	doorbell_done(&m->bell);
	sim_done(&m->sim);
}

/* 0 or the journal's error. */
static int run(struct many *m)
{
	bool worked = true;
	int err = 0;

	while (worked && err == 0) {
		err = journal_turn(m->j, &worked);
		assert_true(sim_fds_open(&m->sim) <= FILES);
	}
	return err;
}

static void append(struct many *m, int log)
{
	static const uint8_t payload[3000];

	assert_true(journal_append(m->port, m->log[log], (uint32_t)log, ++m->appended[log], payload, sizeof payload));
}

static void read_all(struct many *m, int log)
{
	static uint8_t buf[4096];
	struct jrecord rec;
	uint64_t where = 0, n = 0;

	while (jlog_read(m->log[log], where, buf, sizeof buf, &rec, &where, NULL) == 0)
		assert_int_equal(rec.mark, ++n);
	assert_int_equal(n, m->appended[log]);
	assert_true(sim_fds_open(&m->sim) <= FILES);
}

/* Each turn writes one log, or all of them in one group; each log goes through several segments. */
static void live(enum journal_method method, enum jlog_durability durability)
{
	static struct many m;

	make_many(&m, method, durability);
	for (int round = 0; round < 12; round++) {
		for (int i = 0; i < LOGS; i++) {
			append(&m, i);
			if (round % 2 == 0)
				assert_int_equal(run(&m), 0);
		}
		assert_int_equal(run(&m), 0);
		for (int i = 0; i < LOGS; i++)
			assert_int_equal(jlog_durable(m.log[i]), m.appended[i]);
		if (round % 5 == 0)
			assert_int_equal(journal_note_idle(m.j), 0);
		read_all(&m, round);
	}
	assert_true(journal_stats(m.j)->files_closed > LOGS);
	for (int i = 0; i < LOGS; i++)
		read_all(&m, i);
	close_many(&m);
	open_many(&m, method, durability); /* which sees that everything is there */
	assert_true(journal_was_clean(m.j));
	close_many(&m);
	sim_crash(&m.sim, SIM_KEEP_NONE, 0); /* a clean stop has synced all of it */
	open_many(&m, method, durability);
	assert_true(journal_was_clean(m.j));
	close_many(&m);
	free_many(&m);
}

static void many_logs_need_few_descriptors(void **state)
{
	live(JOURNAL_FDATASYNC, JLOG_FSYNC);
	live(JOURNAL_DSYNC, JLOG_FSYNC);
	live(JOURNAL_DIRECT, JLOG_FSYNC);
	live(JOURNAL_FDATASYNC, JLOG_WRITE);
}

/* Each log cost two syncs and was read twice: with many streams a start took minutes. */
static void a_clean_journal_is_opened_without_a_sync_a_log(void **state)
{
	static struct many m;
	uint64_t syncs, ops;

	make_many(&m, JOURNAL_FDATASYNC, JLOG_FSYNC);
	for (int i = 0; i < LOGS; i++)
		append(&m, i);
	assert_int_equal(run(&m), 0);
	close_many(&m);
	syncs = m.sim.syncs;
	ops = m.sim.ops;
	open_many(&m, JOURNAL_FDATASYNC, JLOG_FSYNC);
	assert_in_range(m.sim.syncs - syncs, 0, 5); /* the superblock's, the manifest's */
	assert_in_range(m.sim.ops - ops, 0, 8 * LOGS + 20);
	syncs = m.sim.syncs;
	close_many(&m);
	assert_in_range(m.sim.syncs - syncs, 0, 5);
	free_many(&m);
}

/* Of a log that is not synced for each group, what was written is synced before its file is closed for another one; and a failure of that sync is the end. */
static void a_file_is_not_closed_when_its_sync_fails(void **state)
{
	static struct many m;
	int i = 0;

	make_many(&m, JOURNAL_FDATASYNC, JLOG_WRITE);
	for (; i < FILES - FILES / 3; i++) { /* all that may be open */
		append(&m, i);
		assert_int_equal(run(&m), 0);
	}
	assert_int_equal(journal_stats(m.j)->files_closed, 0);
	append(&m, i);
	m.sim.fail_at = m.sim.ops; /* the next operation */
	m.sim.fail_err = -EIO;
	assert_int_equal(run(&m), -EIO);
	assert_int_equal(m.sim.fail_op, SIM_OP_SYNC);
	assert_int_equal(m.failures, 1);
	assert_non_null(strstr(m.why, "fdatasync sim/log-00/"));
	assert_int_equal(jlog_durable(m.log[i]), 0);
	assert_int_equal(journal_close(m.j), -EIO);
	free_many(&m);
}

/* Descriptors that somebody else has taken: the files that were used long ago give way. */
static void a_lack_of_descriptors_closes_files_that_are_idle(void **state)
{
	static struct many m;

	make_many(&m, JOURNAL_FDATASYNC, JLOG_FSYNC);
	for (int i = 0; i < FILES - FILES / 3; i++)
		append(&m, i);
	assert_int_equal(run(&m), 0);
	read_all(&m, 0);
	read_all(&m, 1);
	assert_int_equal(sim_fds_open(&m.sim), FILES);
	m.sim.fds_max = 3; /* from here on */
	for (int round = 0; round < 12; round++)
		for (int i = 0; i < LOGS; i++)
			append(&m, i), assert_int_equal(run(&m), 0);
	m.sim.fds_max = 1;
	for (int i = 0; i < LOGS; i++)
		append(&m, i);
	assert_int_equal(run(&m), -EMFILE); /* one is not enough */
	assert_true(journal_close(m.j) < 0);
	free_many(&m);
}

/* An idle log's file has given way, and another file is put in its place. The descriptor that was opened to find that out
 * must not stay: it would be counted as the log's, and the bound on open files would not hold any more. */
static void a_file_that_is_not_the_log_s_does_not_stay_open(void **state)
{
	static struct many m;
	const char *path = "log-00/0000000000000001";
	int fd;

	make_many(&m, JOURNAL_FDATASYNC, JLOG_FSYNC);
	for (int i = 0; i < LOGS; i++) {
		append(&m, i);
		assert_int_equal(run(&m), 0);
	}
	assert_true(m.log[0]->wfd < 0);
	assert_int_equal(sim_unlink(&m.sim, path), 0);
	fd = sim_open(&m.sim, path, JD_CREATE);
	assert_int_equal(sim_pwrite(&m.sim, fd, path, 1, JLOG_FILL_MIN, 0), 1);
	assert_int_equal(sim_sync(&m.sim, fd), 0);
	sim_close(&m.sim, fd);
	append(&m, 0);
	assert_int_equal(run(&m), 0);
	assert_int_equal(jlog_state(m.log[0]), JLOG_LOST);
	for (int round = 0; round < 3; round++) {
		for (int i = 1; i < LOGS; i++) {
			append(&m, i);
			assert_int_equal(run(&m), 0);
			assert_int_equal(m.j->files.written_now, FILES - FILES / 3);
		}
	}
	close_many(&m);
	free_many(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_logs_need_few_descriptors),
		cmocka_unit_test(a_clean_journal_is_opened_without_a_sync_a_log),
		cmocka_unit_test(a_file_is_not_closed_when_its_sync_fails),
		cmocka_unit_test(a_lack_of_descriptors_closes_files_that_are_idle),
		cmocka_unit_test(a_file_that_is_not_the_log_s_does_not_stay_open),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
