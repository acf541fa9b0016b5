/* A new log of the IDs in the place of a lost one, on the simulated disk: what can be read of the old one is never gone
 * below, and no crash leaves a log that has forgotten it. */
#include "core/journal_internal.h"
#include "queue/ids.h"
#include "queue/ids_record.h"
#include "tests/unit/core/sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
/* after those */
#include <cmocka.h>

#define SEGMENT "ids/0000000000000001"

static struct sim sim;
static struct journal_disk disk;
static struct journal *j;
static const char *why;

static struct {
	const char *name;
	uint64_t values[3]; /* of its records, in this order */
	uint64_t incarnation;
} const written[] = {{"", {100, 200, 300}, 7}, {"orders", {1000, 5000, 9000}, 8}, {"old", {40, 50, 60}, 0}};

static int open_journal(enum journal_mode mode)
{
	struct journal_opts o = {.dir = "sim",
				 .method = JOURNAL_FDATASYNC,
				 .group_max = 4096,
				 .disk = &disk,
				 .mode = mode,
				 .first_log = IDS_LOG};

	why = "";
	return journal_open(&o, &j, &why);
}

static void kill_it(void)
{
	sim.dead = true;
	journal_close(j);
	j = NULL;
	sim.dead = sim.locked = false;
	sim.plug_at = UINT64_MAX;
}

static void close_cleanly(void)
{
	assert_int_equal(journal_close(j), 0);
	j = NULL;
}

/* The log as a daemon left it: WINDOW records, one a value. */
static int next_record(void *ctx, uint64_t mark, struct jappend *ret)
{
	static uint8_t record[IDS_RECORD_ENTRY_MAX];
	unsigned *n = ctx;
	unsigned round = *n / ARRAY_SIZE(written), i = *n % ARRAY_SIZE(written);
	struct span name;
	size_t len;

	if (round == 3)
		return 0;
	++*n;
	name = (struct span){(const uint8_t *)written[i].name, strlen(written[i].name)};
	ret->type = written[i].incarnation != 0 ? IDS_RECORD_WINDOW : IDS_RECORD_OLD_WINDOW;
	if (written[i].incarnation != 0) {
		struct ids_fact f = {name, written[i].values[round], written[i].incarnation, false};

		len = ids_record_put(record, &f);
	} else {
		store_le64(record, written[i].values[round]);
		record[8] = (uint8_t)name.n;
		memcpy(record + 9, name.p, name.n);
		len = 9 + name.n;
	}
	ret->mark = mark + 1;
	ret->body = (struct span){record, len};
	return 1;
}

static void make_log(void)
{
	unsigned n = 0;
	struct jlog_opts o = {.name = IDS_LOG, .segment_bytes = JOURNAL_SEGMENT_MIN, .opened = next_record, .ctx = &n};
	struct jlog *log;

	sim_init(&sim);
	disk = sim_disk(&sim);
	assert_int_equal(open_journal(JOURNAL_SERVE), 0);
	assert_int_equal(journal_log_open(j, &o, &log, &why), 0);
	close_cleanly();
	sim_crash(&sim, SIM_KEEP_ALL, 0); /* long ago: the note of the log's end is on disk, too */
	assert_int_equal(n, 9);
}

/* Where record `n` (from 0) begins in the segment, found by its value. */
static uint32_t place_of(unsigned n)
{
	const struct sim_file *f = sim_content(&sim, SEGMENT);
	unsigned round = n / ARRAY_SIZE(written), i = n % ARRAY_SIZE(written);
	uint8_t value[8];

	store_le64(value, written[i].values[round]);
	for (uint32_t at = JF_HEADER; at < 8192; at += 8)
		if (memcmp(f->now + at + JF_RECORD_HEADER, value, 8) == 0)
			return at;
	fail();
	return 0;
}

struct known {
	unsigned count;
	uint64_t unnamed, orders, old;
};

static void know(void *ctx, struct span name, uint64_t next)
{
	struct known *k = ctx;

	k->count++;
	if (name.n == 0)
		k->unnamed = next;
	else if (name.n == 6)
		k->orders = next;
	else
		k->old = next;
}

static int replace(uint64_t above, struct known *k)
{
	char path[256] = "";
	struct ids_replace_opts o = {
		.above = above, .stamp = "x", .ret_path = path, .path_cap = sizeof path, .each = know, .ctx = k};

	*k = (struct known){.count = 0};
	return ids_replace(j, &o, &why);
}

/* Where the sequences go on in the next run; 0: there is no such sequence. The opening's error, if it is refused. */
static int look(struct known *ret, uint64_t incarnations[3])
{
	struct ids_opts o = {.shards = 1,
			     .window_min = 1,
			     .window_max = 1,
			     .window_target_ms = 1,
			     .queue_depth = 1,
			     .sequences_max = 8,
			     .create = true,
			     .count_max = 1};
	struct ids_sequence_info info;
	struct ids *ids;
	int err = open_journal(JOURNAL_SERVE);

	*ret = (struct known){.count = 0};
	if (err != 0)
		return err;
	err = ids_open(&o, j, &ids, &why);
	if (err != 0) {
		kill_it();
		return err;
	}
	for (uint32_t i = 0; ids_sequence_info(ids, i, &info); i++) {
		know(ret, (struct span){(const uint8_t *)info.name, strlen(info.name)}, info.next);
		incarnations[strlen(info.name) == 0 ? 0 : strlen(info.name) == 6 ? 1 : 2] = info.incarnation;
	}
	kill_it();
	ids_free(ids);
	return 0;
}

static void a_damaged_log_leaves_what_can_be_read(void **state)
{
	for (unsigned damaged = 0; damaged < 9; damaged++) {
		uint64_t numbers[3] = {0}, rest[3] = {0};
		struct known k, next;

		make_log();
		sim_flip(&sim, SEGMENT, place_of(damaged) + JF_RECORD_HEADER + 1, 1);
		assert_int_equal(look(&next, numbers), -EBADMSG);
		assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
		assert_int_equal(replace(0, &k), 0);
		close_cleanly();
		for (unsigned n = 0; n < 9; n++)
			if (n != damaged)
				rest[n % 3] = written[n % 3].values[n / 3];
		assert_int_equal(k.count, 3);
		assert_int_equal(k.unnamed, rest[0]);
		assert_int_equal(k.orders, rest[1]);
		assert_int_equal(k.old, rest[2]);
		assert_int_equal(look(&next, numbers), 0);
		assert_memory_equal(&next, &k, sizeof k);
		for (unsigned i = 0; i < 3; i++)
			assert_true(numbers[i] != 0 && numbers[i] != written[i].incarnation);
		sim_done(&sim);
	}
}

static void a_damaged_header_hides_no_record(void **state)
{
	uint64_t numbers[3];
	struct known k, next;

	make_log();
	sim_flip(&sim, SEGMENT, 16, 1);
	assert_int_equal(look(&next, numbers), -EBADMSG);
	assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
	assert_int_equal(replace(0, &k), 0);
	close_cleanly();
	assert_int_equal(look(&next, numbers), 0);
	assert_int_equal(next.unnamed, 300);
	assert_int_equal(next.orders, 9000);
	assert_int_equal(next.old, 60);
	sim_done(&sim);
}

static void a_missing_log_begins_above_what_the_operator_knows(void **state)
{
	uint64_t numbers[3];
	struct known k, next;

	make_log();
	sim_change(&sim, "ids", "", SIM_DIR);
	sim_crash(&sim, SIM_KEEP_ALL, 0);
	assert_int_equal(look(&next, numbers), -ENOENT);
	assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
	assert_int_equal(replace(123456, &k), 0);
	assert_int_equal(k.count, 0);
	close_cleanly();
	assert_int_equal(look(&next, numbers), 0);
	assert_int_equal(next.unnamed, 123457);
	/* Lost once more: what was set aside before, and the new one, are not forgotten. */
	sim_flip(&sim, SEGMENT, 16, 1);
	assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
	assert_int_equal(replace(0, &k), 0);
	close_cleanly();
	assert_int_equal(look(&next, numbers), 0);
	assert_int_equal(next.unnamed, 123457);
	sim_done(&sim);
}

static void what_is_known_is_raised_above_what_the_operator_knows(void **state)
{
	uint64_t numbers[3];
	struct known k, next;

	make_log();
	sim_flip(&sim, SEGMENT, place_of(8) + JF_RECORD_HEADER + 1, 1);
	assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
	assert_int_equal(replace(400, &k), 0);
	close_cleanly();
	assert_int_equal(look(&next, numbers), 0);
	assert_int_equal(next.unnamed, 401);
	assert_int_equal(next.orders, 9000);
	assert_int_equal(next.old, 401);
	sim_done(&sim);
}

/* After a crash at any operation the log is refused, or goes on above everything that is known; and the command can be
 * given again. */
static void a_crash_forgets_nothing(void **state)
{
	unsigned refused = 0, done = 0;
	bool ended = false;

	for (uint64_t n = 0; !ended; n++) {
		static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
		uint64_t numbers[3];
		struct known k, next;
		int err;

		make_log();
		sim_flip(&sim, SEGMENT, place_of(8) + JF_RECORD_HEADER + 1, 1);
		assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
		sim.plug_at = sim.ops + n;
		ended = replace(70, &k) == 0 && !sim.dead;
		kill_it();
		sim.dead = true;
		sim_crash(&sim, keeps[n % 3], 0);
		err = look(&next, numbers);
		refused += err != 0;
		done += err == 0;
		assert_true(err == 0 || err == -EBADMSG || err == -ENOENT);
		if (err == 0 && (next.unnamed != 300 || next.orders != 9000 || next.old != 71))
			fail_msg("crash at operation %llu: sequences go back", (unsigned long long)n);
		if (err != 0) {
			assert_int_equal(open_journal(JOURNAL_REPAIR), 0);
			assert_int_equal(replace(70, &k), 0);
			close_cleanly();
			assert_int_equal(look(&next, numbers), 0);
			assert_true(next.unnamed == 300 && next.orders == 9000 && next.old == 71);
		}
		sim_done(&sim);
	}
	assert_true(refused > 15 && done > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_damaged_log_leaves_what_can_be_read),
		cmocka_unit_test(a_damaged_header_hides_no_record),
		cmocka_unit_test(a_missing_log_begins_above_what_the_operator_knows),
		cmocka_unit_test(what_is_known_is_raised_above_what_the_operator_knows),
		cmocka_unit_test(a_crash_forgets_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
