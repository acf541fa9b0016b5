/* The journal's manifest on the simulated disk: what was there and is gone is refused by name; a crash alone never is. */
#include "tests/unit/core/journal_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define MANIFEST ".manifest"
#define LOGS_MAX 24

static struct sim sim;
static struct journal_disk disk;
static struct journal *j;
static const char *why;

static void begin(void)
{
	sim_init(&sim);
	disk = sim_disk(&sim);
	j = NULL;
}

static int open_journal_as(enum journal_mode mode, bool new_manifest)
{
	struct journal_opts o = {.dir = "sim",
				 .method = JOURNAL_FDATASYNC,
				 .group_max = 4096,
				 .disk = &disk,
				 .mode = mode,
				 .first_log = "ids",
				 .new_manifest = new_manifest};

	why = "";
	return journal_open(&o, &j, &why);
}

static int open_journal(void)
{
	return open_journal_as(JOURNAL_SERVE, false);
}

static int open_log(const char *name, struct jlog **ret)
{
	struct jlog_opts o = {.name = name, .segment_bytes = JOURNAL_SEGMENT_MIN};

	return journal_log_open(j, &o, ret, &why);
}

static void close_cleanly(void)
{
	assert_int_equal(journal_close(j), 0);
	j = NULL;
}

/* The process is gone, and nothing was closed. */
static void kill_it(void)
{
	sim.dead = true;
	journal_close(j);
	j = NULL;
	sim.dead = sim.locked = false;
	sim.plug_at = sim.fail_at = UINT64_MAX;
}

/* A life that makes logs: "ids", "stream.a", "stream.b". */
static void make_logs(void)
{
	struct jlog *log;

	assert_int_equal(open_journal(), 0);
	assert_int_equal(open_log("ids", &log), 0);
	assert_int_equal(open_log("stream.a", &log), 0);
	assert_int_equal(open_log("stream.b", &log), 0);
	close_cleanly();
}

/* Moves a name, synced, as an operator does between two runs. */
static void move(const char *from, const char *to)
{
	struct sim_name *e = sim_find(&sim.now, from);

	assert_non_null(e);
	sim_change(&sim, from, to, e->file);
	sim_apply(&sim.safe, &sim.changes[--sim.nchanges]);
}

/* What a run makes of the directory: 0, or the error of the first log that does not open, or of the journal. */
static int look(enum journal_mode mode)
{
	static const char *const names[] = {"ids", "stream.a", "stream.b"};
	int err = open_journal_as(mode, false);
	struct jlog *log;

	if (err != 0)
		return err;
	for (int i = 0; i < 3 && err == 0; i++)
		err = open_log(names[i], &log);
	if (err == 0 && mode != JOURNAL_CHECK)
		close_cleanly();
	else
		kill_it();
	return err;
}

static void expect_refusal(int err, const char *what, const char *sentence)
{
	assert_int_equal(look(JOURNAL_CHECK), err);
	if (strstr(why, what) == NULL || strstr(why, sentence) == NULL)
		fail_msg("a check says: %s", why);
	assert_int_equal(look(JOURNAL_SERVE), err);
	if (strstr(why, what) == NULL || strstr(why, sentence) == NULL)
		fail_msg("an opening says: %s", why);
}

static int count(void *ctx, const char *name)
{
	(void)name;
	++*(unsigned *)ctx;
	return 0;
}

static int keep_name(void *ctx, const char *name)
{
	snprintf(ctx, 64, "%s", name);
	return 0;
}

/* ---- what is gone, or from elsewhere ---- */

static void a_log_whose_folder_was_moved_away_is_refused(void **state)
{
	char missing[64] = "";

	begin();
	make_logs();
	move("ids", "elsewhere");
	expect_refusal(-ENOENT, "sim/ids: ", "the folder is gone");
	assert_null(sim_find(&sim.now, "ids")); /* and nothing was made in its place */
	assert_int_equal(open_journal(), 0);
	assert_int_equal(journal_each_missing(j, keep_name, missing), 0);
	assert_string_equal(missing, "ids");
	close_cleanly();
	move("elsewhere", "ids");
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_done(&sim);
}

static void a_log_whose_folder_was_emptied_is_refused(void **state)
{
	begin();
	make_logs();
	move("stream.a/0000000000000001", "elsewhere");
	expect_refusal(-ENOENT, "sim/stream.a: ", "no segment left");
	move("elsewhere", "stream.a/0000000000000001");
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_done(&sim);
}

static void two_folders_that_were_swapped_are_refused(void **state)
{
	begin();
	make_logs();
	move("stream.a", "elsewhere");
	move("stream.b", "stream.a");
	move("elsewhere", "stream.b");
	expect_refusal(-EBADMSG, "sim/stream.a/0000000000000001", "a segment of the log \"stream.b\"");
	sim_done(&sim);
}

/* Puts the content of one simulated disk's file into the other's of the same name. */
static void put_file(struct sim *to, const struct sim *from, const char *path)
{
	struct sim_file *t = sim_content(to, path);
	struct sim_file *f = sim_content((struct sim *)from, path);

	assert_non_null(t);
	assert_non_null(f);
	t->now_n = t->safe_n = 0;
	sim_put(&t->now, &t->now_n, &t->now_cap, 0, f->now, f->now_n);
	sim_put(&t->safe, &t->safe_n, &t->safe_cap, 0, f->now, f->now_n);
}

static void files_of_another_data_directory_are_refused(void **state)
{
	static const struct {
		const char *path, *named, *says;
	} strangers[] = {
		{"ids/0000000000000001", "sim/ids/0000000000000001", "the log \"ids\" of another data directory"},
		{"stream.b/0000000000000001", "sim/stream.b/0000000000000001", "of another data directory"},
		{".super", "sim/.manifest", "from another data directory"},
		{".manifest", "sim/.manifest", "from another data directory"},
	};
	struct sim *other, *ours;

	begin();
	make_logs();
	other = sim_copy(&sim);
	sim_done(&sim);
	begin();
	sim.seed = 12345; /* another journal's id */
	make_logs();
	ours = sim_copy(&sim);
	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		put_file(&sim, other, strangers[i].path);
		expect_refusal(-EBADMSG, strangers[i].named, strangers[i].says);
		put_file(&sim, ours, strangers[i].path);
	}
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_free(ours);
	sim_free(other);
	sim_done(&sim);
}

static void the_files_of_an_earlier_log_of_the_same_name_are_refused(void **state)
{
	struct sim *before;
	struct jlog *log;

	begin();
	make_logs();
	before = sim_copy(&sim);
	assert_int_equal(open_journal(), 0);
	assert_int_equal(journal_log_remove(j, "stream.a", &why), 0);
	close_cleanly();
	assert_int_equal(open_journal(), 0);
	assert_int_equal(open_log("stream.a", &log), 0);
	close_cleanly();
	assert_int_equal(look(JOURNAL_SERVE), 0);
	put_file(&sim, before, "stream.a/0000000000000001");
	expect_refusal(-EBADMSG, "sim/stream.a/0000000000000001", "from an earlier log of this name");
	sim_free(before);
	sim_done(&sim);
}

static void a_manifest_or_a_superblock_that_is_gone_is_refused(void **state)
{
	begin();
	make_logs();
	move(MANIFEST, "elsewhere");
	expect_refusal(-EBADMSG, "sim/.manifest: ", "the file is missing");
	move("elsewhere", MANIFEST);
	move(".super", "elsewhere");
	expect_refusal(-EBADMSG, "sim/.super: ", "the file is missing, yet there are logs");
	move("ids", "ids.away");
	move("stream.a", "a.away"); /* folders with other names are logs, too */
	expect_refusal(-EBADMSG, "sim/.super: ", "the file is missing");
	sim_done(&sim);
}

static void an_older_copy_of_the_manifest_is_refused(void **state)
{
	struct sim *before;
	struct jlog *log;

	begin();
	make_logs();
	before = sim_copy(&sim);
	assert_int_equal(open_journal(), 0);
	assert_int_equal(open_log("stream.c", &log), 0);
	close_cleanly();
	put_file(&sim, before, MANIFEST);
	expect_refusal(-EBADMSG, "sim/.manifest: damaged at byte ", "no valid record here, and it had been synced");
	sim_free(before);
	sim_done(&sim);
}

static int append_one(void *ctx, uint64_t mark, struct jappend *ret)
{
	unsigned *left = ctx;

	ret->mark = mark + 1;
	ret->body = (struct span){(const uint8_t *)"fact", 4};
	return *left > 0 ? (int)((*left)--, 1) : 0;
}

static int live(unsigned records)
{
	struct jlog_opts o = {
		.name = "ids", .segment_bytes = JOURNAL_SEGMENT_MIN, .opened = append_one, .ctx = &records};
	struct jlog *log;
	int err = open_journal();

	if (err != 0)
		return err;
	err = journal_log_open(j, &o, &log, &why);
	if (err == 0)
		close_cleanly();
	else
		kill_it();
	return err;
}

/* IDs would be handed out again. */
static void an_older_copy_of_the_first_log_is_refused(void **state)
{
	char path[128];
	struct sim *before;
	struct jlog *log;

	begin();
	assert_int_equal(live(3), 0);
	sim_crash(&sim, SIM_KEEP_ALL, 0);
	before = sim_copy(&sim);
	for (unsigned run = 0; run < 2; run++) {
		assert_int_equal(live(2), 0);
		sim_crash(&sim, SIM_KEEP_ALL, 0);
	}
	put_file(&sim, before, "ids/0000000000000001");
	assert_int_equal(live(1), -EBADMSG);
	assert_non_null(strstr(why, "sim/ids/0000000000000001: damaged at byte "));
	assert_non_null(strstr(why, "or is an older copy"));
	assert_int_equal(open_journal_as(JOURNAL_REPAIR, false), 0); /* a new one is not held against the old one */
	assert_int_equal(journal_log_set_aside(j, "ids", "x", path, sizeof path, &why), 0);
	assert_int_equal(open_log("ids", &log), 0);
	close_cleanly();
	for (unsigned run = 0; run < 2; run++)
		assert_int_equal(live(1), 0);
	sim_free(before);
	sim_done(&sim);
}

/* After a clean stop no byte of the manifest can change so that a log is forgotten. */
static void no_damage_to_the_manifest_forgets_a_log(void **state)
{
	struct sim_file *f;
	unsigned refused = 0;

	begin();
	make_logs();
	f = sim_content(&sim, MANIFEST);
	move("stream.a", "elsewhere"); /* so that a manifest that forgot it would be accepted */
	for (uint64_t at = 0; at < 1024; at++) {
		int err;

		sim_flip(&sim, MANIFEST, at, (uint8_t)(1u << at % 8));
		err = look(JOURNAL_CHECK);
		assert_true(err == -EBADMSG || err == -ENOENT);
		refused += err == -EBADMSG && strstr(why, "sim/.manifest: damaged at byte ") != NULL;
		sim_flip(&sim, MANIFEST, at, (uint8_t)(1u << at % 8));
	}
	assert_in_range(refused, 512 + 3 * 52, 1024);
	for (size_t n = 0; n < 1024; n += 8) {
		size_t whole = f->now_n;

		f->now_n = f->safe_n = n;
		assert_true(look(JOURNAL_CHECK) != 0);
		f->now_n = f->safe_n = whole;
	}
	move("elsewhere", "stream.a");
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_done(&sim);
}

/* ---- directories from before there were manifests ---- */

/* Makes the directory what the version before would have left. */
static void forget_the_manifest(void)
{
	struct sim_file *f = sim_content(&sim, ".super");
	struct jf_super super;

	for (int slot = 0; slot < 2; slot++) {
		uint8_t *p = f->now + slot * JF_BLOCK;

		if (jf_super_decode(p, &super) != 0)
			continue;
		super.manifest = super.entries = 0;
		jf_super_encode(p, &super);
		memcpy(f->safe + slot * JF_BLOCK, p, JF_SECTOR);
	}
	if (sim_find(&sim.now, MANIFEST) != NULL)
		move(MANIFEST, "");
}

static void a_directory_without_a_manifest_gets_one(void **state)
{
	unsigned n = 0;

	begin();
	make_logs();
	forget_the_manifest();
	sim_change(&sim, "", "stream.c", SIM_DIR); /* begun, and never finished */
	assert_int_equal(open_journal(), 0);
	assert_int_equal(manifest_each(j, count, &n), 0);
	assert_int_equal(n, 3);
	close_cleanly();
	assert_int_equal(look(JOURNAL_SERVE), 0);
	move("stream.b", "elsewhere");
	expect_refusal(-ENOENT, "sim/stream.b: ", "the folder is gone");
	sim_done(&sim);
}

static void a_directory_without_a_manifest_that_has_lost_its_first_log_is_refused(void **state)
{
	begin();
	make_logs();
	forget_the_manifest();
	move("ids", "elsewhere");
	expect_refusal(-ENOENT, "sim/ids: ", "the folder is gone");
	expect_refusal(-ENOENT, "sim/ids: ", "the folder is gone");
	sim_done(&sim);
}

static void a_crash_while_the_manifest_is_made_changes_nothing(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
	bool ended = false;

	begin();
	make_logs();
	forget_the_manifest();
	for (uint64_t n = 0; !ended; n++) {
		struct sim *before = sim_copy(&sim);

		sim.plug_at = sim.ops + n;
		if (open_journal() == 0) {
			ended = !sim.dead;
			kill_it();
		}
		sim.dead = true;
		sim_crash(&sim, keeps[n % 3], 0);
		if (look(JOURNAL_SERVE) != 0)
			fail_msg("after a crash at operation %llu: %s", (unsigned long long)n, why);
		move("stream.b", "elsewhere");
		assert_int_equal(look(JOURNAL_SERVE), -ENOENT);
		sim_done(&sim);
		sim = *before;
		free(before);
		disk = sim_disk(&sim);
		assert_in_range(n, 0, 100);
		assert_true(n > 12 || !ended); /* it is more than a step */
	}
	sim_done(&sim);
}

/* ---- crashes while logs come and go ---- */

struct model {
	/* What was promised of each log: that it is there; that it is gone; nothing. */
	enum { UNKNOWN, THERE, GONE } log[LOGS_MAX];
};

static void log_name(int i, char ret[16])
{
	snprintf(ret, 16, "stream.%c", 'a' + i);
}

/* Makes and takes away logs until the plug is pulled. */
static void come_and_go(struct model *m)
{
	struct jlog *log;
	char name[16], path[128];

	for (int i = 0; i < LOGS_MAX / 2; i++) {
		log_name(i, name);
		m->log[i] = UNKNOWN;
		if (open_log(name, &log) == 0)
			m->log[i] = THERE;
	}
	if (journal_close(j) != 0) {
		j = NULL;
		return;
	}
	j = NULL;
	if (open_journal() != 0)
		return;
	for (int i = 0; i < LOGS_MAX / 2; i += 2) {
		log_name(i, name);
		m->log[i] = UNKNOWN;
		if (i % 4 == 0 && journal_log_remove(j, name, NULL) == 0)
			m->log[i] = GONE;
		if (i % 4 == 2 && journal_log_set_aside(j, name, "x", path, sizeof path, NULL) == 0)
			m->log[i] = GONE;
	}
	for (int i = 0; i < LOGS_MAX / 2; i += 4) { /* and a new one of the same name */
		log_name(i, name);
		if (m->log[i] == GONE && open_log(name, &log) == 0)
			m->log[i] = THERE;
		else if (m->log[i] == GONE)
			m->log[i] = UNKNOWN;
	}
}

static void check_model(const struct model *m, uint64_t n)
{
	struct jlog *log;
	char name[16];
	unsigned missing = 0;

	if (open_journal() != 0)
		fail_msg("crash at operation %llu: %s", (unsigned long long)n, why);
	assert_int_equal(journal_each_missing(j, count, &missing), 0);
	assert_int_equal(missing, 0);
	for (int i = 0; i < LOGS_MAX / 2; i++) {
		uint32_t birth;
		bool there;

		log_name(i, name);
		there = sim_find(&sim.now, name) != NULL;
		if (m->log[i] == THERE && !manifest_has(j, name, &birth))
			fail_msg("crash at operation %llu: the manifest has lost %s", (unsigned long long)n, name);
		if (m->log[i] == GONE && there)
			fail_msg("crash at operation %llu: %s is back", (unsigned long long)n, name);
		if (open_log(name, &log) != 0)
			fail_msg("crash at operation %llu: %s", (unsigned long long)n, why);
	}
	close_cleanly();
	assert_int_equal(open_journal(), 0);
	assert_null(sim_find(&sim.now, ".removed"));
	close_cleanly();
}

/* The plug is pulled at each operation in turn, and again while the journal recovers. */
static void a_crash_never_makes_a_log_look_lost(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM, SIM_KEEP_RANDOM};
	bool ended = false;

	for (uint64_t n = 1; !ended; n++) {
		struct model m = {.log = {UNKNOWN}};

		begin();
		sim.plug_at = n;
		if (open_journal() == 0)
			come_and_go(&m);
		ended = !sim.dead;
		if (j != NULL)
			kill_it();
		for (size_t k = 0; k < ARRAY_SIZE(keeps); k++) {
			struct sim *copy = sim_copy(&sim);

			sim.dead = true;
			sim.seed = n * 4 + k + 1;
			sim_crash(&sim, keeps[k], 0);
			if (k == 3) {
				sim.plug_at = sim.ops + n % 23;
				if (open_journal() == 0)
					kill_it();
				sim.dead = true;
				sim_crash(&sim, SIM_KEEP_RANDOM, 0);
			}
			check_model(&m, n);
			sim_done(&sim);
			sim = *copy;
			free(copy);
			disk = sim_disk(&sim);
		}
		sim_done(&sim);
	}
}

/* ---- faults ---- */

static void a_full_disk_refuses_a_new_log_and_lets_one_go(void **state)
{
	struct jlog *log;
	unsigned n = 0;

	begin();
	make_logs();
	assert_int_equal(open_journal(), 0);
	sim.no_space = true;
	assert_int_equal(open_log("stream.c", &log), -ENOSPC);
	assert_int_equal(journal_log_remove(j, "stream.b", &why), 0);
	sim.no_space = false;
	assert_int_equal(open_log("stream.c", &log), 0);
	assert_int_equal(manifest_each(j, count, &n), 0);
	assert_int_equal(n, 3);
	close_cleanly();
	sim_done(&sim);
}

/* A directory from before is served from a full disk, without new logs; it gets its manifest when there is room. */
static void a_full_disk_puts_the_manifest_off(void **state)
{
	struct jlog *log;
	unsigned n = 0;

	begin();
	make_logs();
	forget_the_manifest();
	sim.no_space = true;
	for (int run = 0; run < 2; run++) {
		assert_int_equal(open_journal(), 0);
		assert_int_equal(open_log("ids", &log), 0);
		assert_int_equal(open_log("stream.a", &log), 0);
		assert_int_equal(open_log("stream.c", &log), -ENOSPC);
		close_cleanly();
		assert_null(sim_find(&sim.now, MANIFEST));
	}
	sim.no_space = false;
	assert_int_equal(open_journal(), 0);
	assert_int_equal(open_log("stream.c", &log), 0);
	close_cleanly();
	assert_int_equal(open_journal(), 0);
	assert_int_equal(manifest_each(j, count, &n), 0);
	assert_int_equal(n, 4);
	close_cleanly();
	move("stream.b", "elsewhere");
	assert_int_equal(look(JOURNAL_SERVE), -ENOENT);
	sim_done(&sim);
}

/* No entry is believed, and none is tried again, after a write or a sync of the manifest has failed. */
static void a_failed_write_or_sync_of_the_manifest_is_not_tried_again(void **state)
{
	unsigned failed = 0, written = 0;

	for (uint64_t n = 0; n < 40; n++) {
		struct jlog *log;
		uint32_t birth;
		int err;

		begin();
		make_logs();
		assert_int_equal(open_journal(), 0);
		sim.fail_at = sim.ops + n;
		sim.fail_err = -EIO;
		err = open_log("stream.c", &log);
		if (err != 0 && strstr(why, MANIFEST) != NULL && sim.fail_op == SIM_OP_WRITE) {
			written++;
			assert_int_equal(open_log("stream.c", &log), -EIO);
			assert_non_null(strstr(why, "it is not tried again"));
		} else if (err != 0 && strstr(why, MANIFEST) != NULL && sim.fail_op == SIM_OP_SYNC) {
			failed++;
			assert_int_equal(open_log("stream.c", &log), -EIO);
			assert_non_null(strstr(why, "the journal has failed"));
			kill_it(); /* the next process reads the entry from memory: then it must be on disk, too */
			assert_int_equal(open_journal(), 0);
			assert_true(manifest_has(j, "stream.c", &birth));
			kill_it();
			sim.dead = true;
			sim_crash(&sim, SIM_KEEP_NONE, 0);
			assert_int_equal(open_journal(), 0);
			assert_true(manifest_has(j, "stream.c", &birth));
		}
		kill_it();
		sim.dead = true;
		sim_crash(&sim, SIM_KEEP_NONE, 0);
		assert_int_equal(look(JOURNAL_SERVE), 0);
		sim_done(&sim);
	}
	assert_int_equal(failed, 1);
	assert_true(written > 0);
}

static void a_check_writes_nothing(void **state)
{
	int before;

	begin();
	make_logs();
	before = sim.nchanges;
	sim.failed = true; /* counts operations that change something */
	sim.after_fail = 0;
	assert_int_equal(look(JOURNAL_CHECK), 0);
	assert_int_equal(sim.after_fail, 0);
	assert_int_equal(sim.nchanges, before);
	sim.failed = false;
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_done(&sim);
}

static void tools_make_no_journal(void **state)
{
	begin();
	assert_int_equal(open_journal_as(JOURNAL_REPAIR, false), -ENOENT);
	assert_int_equal(open_journal_as(JOURNAL_CHECK, false), -ENOENT);
	assert_int_equal(sim.now.n, 0);
	sim_done(&sim);
}

/* ---- years of it ---- */

static void a_manifest_stays_small_when_logs_come_and_go(void **state)
{
	struct jlog *log;
	size_t most = 0;

	begin();
	assert_int_equal(open_journal(), 0);
	assert_int_equal(open_log("ids", &log), 0);
	for (unsigned i = 0; i < 6000; i++) {
		struct jio io = {.d = &disk};
		const struct sim_file *f = sim_content(&sim, MANIFEST);
		char name[32];

		snprintf(name, sizeof name, "stream.%u", i);
		pthread_mutex_lock(&j->open_lock);
		assert_int_equal(manifest_add(j, &io, name, 7), 0);
		assert_int_equal(manifest_remove(j, &io, name), 0);
		pthread_mutex_unlock(&j->open_lock);
		if (f->now_n > most)
			most = f->now_n;
		if (i % 1500 == 700) { /* also across a crash */
			kill_it();
			sim.dead = true;
			sim_crash(&sim, SIM_KEEP_NONE, 0);
			assert_int_equal(open_journal(), 0);
			assert_int_equal(open_log("ids", &log), 0);
		}
	}
	assert_in_range(most, 64 << 10, 256 << 10);
	close_cleanly();
	assert_int_equal(open_journal(), 0);
	assert_int_equal(j->manifest.count, 1);
	close_cleanly();
	sim_done(&sim);
}

/* A new file takes the place of one that is mostly out of date: at each operation the plug is pulled. */
static void a_crash_while_the_manifest_is_rewritten_loses_no_entry(void **state)
{
	static const enum sim_keep keeps[] = {SIM_KEEP_NONE, SIM_KEEP_ALL, SIM_KEEP_RANDOM};
	struct sim *before, *copy;
	bool ended = false;

	begin();
	make_logs();
	assert_int_equal(open_journal(), 0);
	for (unsigned i = 0; i < 513; i++) {
		struct jio io = {.d = &disk};

		assert_int_equal(manifest_add(j, &io, "x", 1), 0);
		assert_int_equal(manifest_remove(j, &io, "x"), 0);
	}
	close_cleanly();
	before = sim_copy(&sim);
	for (uint64_t n = 0; !ended; n++) {
		uint64_t generation;
		unsigned missing = 0;
		uint32_t birth;
		int err;

		assert_int_equal(open_journal(), 0);
		generation = j->manifest.generation;
		sim.plug_at = sim.ops + n;
		err = journal_log_remove(j, "stream.b", &why);
		ended = !sim.dead;
		if (err == 0)
			assert_true(j->manifest.generation > generation);
		kill_it();
		sim.dead = true;
		sim_crash(&sim, keeps[n % 3], 0);
		if (open_journal() != 0)
			fail_msg("crash at operation %llu: %s", (unsigned long long)n, why);
		assert_true(manifest_has(j, "ids", &birth) && manifest_has(j, "stream.a", &birth));
		assert_false(manifest_has(j, "x", &birth));
		assert_false(err == 0 && manifest_has(j, "stream.b", &birth));
		assert_int_equal(journal_each_missing(j, count, &missing), 0);
		assert_int_equal(missing, 0);
		close_cleanly();
		sim_done(&sim);
		copy = sim_copy(before);
		sim = *copy;
		free(copy);
		disk = sim_disk(&sim);
		assert_true(n > 12 || !ended);
	}
	sim_free(before);
	sim_done(&sim);
}

static void a_lost_manifest_is_made_anew_only_when_asked_for(void **state)
{
	unsigned n = 0;

	begin();
	make_logs();
	move(MANIFEST, "");
	assert_int_equal(look(JOURNAL_SERVE), -EBADMSG);
	assert_int_equal(open_journal_as(JOURNAL_REPAIR, true), 0);
	assert_int_equal(manifest_each(j, count, &n), 0);
	assert_int_equal(n, 3);
	close_cleanly();
	assert_int_equal(look(JOURNAL_SERVE), 0);
	sim_done(&sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_log_whose_folder_was_moved_away_is_refused),
		cmocka_unit_test(a_log_whose_folder_was_emptied_is_refused),
		cmocka_unit_test(two_folders_that_were_swapped_are_refused),
		cmocka_unit_test(files_of_another_data_directory_are_refused),
		cmocka_unit_test(the_files_of_an_earlier_log_of_the_same_name_are_refused),
		cmocka_unit_test(a_manifest_or_a_superblock_that_is_gone_is_refused),
		cmocka_unit_test(an_older_copy_of_the_manifest_is_refused),
		cmocka_unit_test(an_older_copy_of_the_first_log_is_refused),
		cmocka_unit_test(no_damage_to_the_manifest_forgets_a_log),
		cmocka_unit_test(a_directory_without_a_manifest_gets_one),
		cmocka_unit_test(a_directory_without_a_manifest_that_has_lost_its_first_log_is_refused),
		cmocka_unit_test(a_crash_while_the_manifest_is_made_changes_nothing),
		cmocka_unit_test(a_crash_never_makes_a_log_look_lost),
		cmocka_unit_test(a_full_disk_refuses_a_new_log_and_lets_one_go),
		cmocka_unit_test(a_full_disk_puts_the_manifest_off),
		cmocka_unit_test(a_failed_write_or_sync_of_the_manifest_is_not_tried_again),
		cmocka_unit_test(a_check_writes_nothing),
		cmocka_unit_test(tools_make_no_journal),
		cmocka_unit_test(a_manifest_stays_small_when_logs_come_and_go),
		cmocka_unit_test(a_crash_while_the_manifest_is_rewritten_loses_no_entry),
		cmocka_unit_test(a_lost_manifest_is_made_anew_only_when_asked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
