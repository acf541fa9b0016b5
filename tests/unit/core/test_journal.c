/* core/journal on the real file system, with its thread: what its users rely on. */
#include "core/journal.h"

#include "core/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT_MAX 64

static char base[200];
static unsigned dirs;

static const char *fresh_dir(void)
{
	static char dir[256];

	snprintf(dir, sizeof dir, "%s/deep/er%u", base, dirs++);
	return dir;
}

static int make_base(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(base, sizeof base, "%s/journal-XXXXXX", tmp != NULL ? tmp : "/tmp");
	return mkdtemp(base) == NULL;
}

static int remove_base(void **state)
{
	char cmd[300];

	snprintf(cmd, sizeof cmd, "rm -r '%s'", base);
	return system(cmd);
}

static uint32_t files_max; /* of the journals that are opened next */

static struct journal *must_open(const char *dir, enum journal_method method)
{
	struct journal_opts o = {.dir = dir, .method = method, .files_max = files_max};
	const char *why = "";
	struct journal *j = NULL;

	if (journal_open(&o, &j, &why) != 0)
		fail_msg("%s", why);
	return j;
}

struct seen {
	uint64_t n, last, bytes;
	uint64_t where[5000];
};

static int see(void *ctx, const struct jrecord *rec)
{
	struct seen *s = ctx;

	assert_true(rec->mark >= s->last);
	s->last = rec->mark;
	s->bytes += rec->payload.n;
	if (s->n < 5000)
		s->where[s->n] = rec->where;
	s->n++;
	return 0;
}

static struct jlog *must_open_log(struct journal *j, const char *name, uint32_t segment, struct seen *s)
{
	struct jlog_opts o = {.name = name, .segment_bytes = segment, .replay = s != NULL ? see : NULL, .ctx = s};
	const char *why = "";
	struct jlog *log = NULL;

	if (s != NULL)
		memset(s, 0, sizeof *s);
	if (journal_log_open(j, &o, &log, &why) != 0)
		fail_msg("%s", why);
	return log;
}

static void wait_durable(struct journal *j, struct doorbell *bell, const struct jlog *log, uint64_t mark)
{
	while (jlog_durable(log) < mark) {
		doorbell_arm(bell);
		if (jlog_durable(log) >= mark) {
			doorbell_disarm(bell);
			return;
		}
		assert_false(journal_has_failed(j));
		doorbell_wait(bell, UINT64_MAX);
	}
}

/* ---- several appenders ---- */

struct appender {
	struct journal *j;
	struct jlog *log;
	struct journal_port *port;
	struct doorbell bell;
	uint64_t records;
	pthread_t thread;
	char text[5000][TEXT_MAX];
};

static void *append_all(void *arg)
{
	struct appender *a = arg;

	for (uint64_t mark = 1; mark <= a->records; mark++) {
		snprintf(a->text[mark], TEXT_MAX, "%s says %llu", jlog_name(a->log), (unsigned long long)mark);
		while (!journal_append(a->port, a->log, 9, mark, a->text[mark], (uint32_t)strlen(a->text[mark])))
			wait_durable(a->j, &a->bell, a->log, jlog_durable(a->log) + 1);
		if (mark % 100 == 0)
			wait_durable(a->j, &a->bell, a->log, mark);
	}
	wait_durable(a->j, &a->bell, a->log, a->records);
	return NULL;
}

static void appenders_share_groups(enum journal_method method)
{
	static struct appender a[3];
	static struct seen seen;
	const char *dir = fresh_dir();
	struct journal *j = must_open(dir, method);
	char name[20];

	assert_true(journal_was_clean(j));
	assert_int_equal(journal_start(j), 0);
	for (int i = 0; i < 3; i++) { /* at run time: the first ones are appending already */
		snprintf(name, sizeof name, "log-%d", i);
		a[i].j = j;
		a[i].records = 2000;
		a[i].log = must_open_log(j, name, 64 << 10, NULL);
		assert_int_equal(doorbell_init(&a[i].bell), 0);
		assert_int_equal(journal_port_new(j, &a[i].bell, 256, &a[i].port), 0);
		assert_int_equal(pthread_create(&a[i].thread, NULL, append_all, &a[i]), 0);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(a[i].thread, NULL);
	assert_int_equal(journal_stats(j)->records, 6000);
	assert_true(journal_stats(j)->groups < 6000);
	assert_true(journal_stats(j)->sync_ns.count > 0);
	assert_int_equal(journal_close(j), 0);

	j = must_open(dir, method);
	assert_true(journal_was_clean(j));
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "log-%d", i);
		must_open_log(j, name, 64 << 10, &seen);
		assert_int_equal(seen.n, 2000);
		assert_int_equal(seen.last, 2000);
		doorbell_done(&a[i].bell);
	}
	assert_int_equal(journal_close(j), 0);
}

static void appenders_share_groups_by_the_chosen_method(void **state)
{
	appenders_share_groups(JOURNAL_AUTO);
}

static void appenders_share_groups_with_fdatasync(void **state)
{
	appenders_share_groups(JOURNAL_FDATASYNC);
}

static void appenders_share_groups_with_dsync(void **state)
{
	appenders_share_groups(JOURNAL_DSYNC);
}

static void appenders_share_groups_with_direct(void **state)
{
	int fd = open(base, O_TMPFILE | O_RDWR | O_DIRECT, 0600);

	if (fd < 0 && errno == EINVAL)
		skip(); /* this file system has no direct I/O */
	close(fd);
	appenders_share_groups(JOURNAL_DIRECT);
}

static void a_method_is_chosen_on_a_file_system_in_memory(void **state)
{
	char dir[] = "/dev/shm/journal-XXXXXX", cmd[64];
	struct journal *j;

	if (access("/dev/shm", W_OK) != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	j = must_open(dir, JOURNAL_AUTO);
	assert_non_null(journal_stats(j)->method);
	must_open_log(j, "x", 1 << 20, NULL);
	assert_int_equal(journal_close(j), 0);
	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

/* ---- opening ---- */

static void a_second_journal_in_the_directory_is_refused(void **state)
{
	const char *dir = fresh_dir();
	struct journal_opts o = {.dir = dir, .method = JOURNAL_FDATASYNC};
	struct journal *j = must_open(dir, JOURNAL_FDATASYNC), *second = NULL;
	const char *why = "";
	struct stat st;

	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(journal_open(&o, &second, &why), -EBUSY);
	assert_null(second);
	assert_non_null(strstr(why, "another process"));
	assert_int_equal(journal_close(j), 0);
	j = must_open(dir, JOURNAL_FDATASYNC);
	assert_int_equal(journal_close(j), 0);
}

static int count_names(void *ctx, const char *name)
{
	(*(int *)ctx)++;
	return strcmp(name, "stop") == 0 ? 7 : 0;
}

static void names_of_logs_are_checked(void **state)
{
	static const char *const bad[] = {"", ".", "..", ".x", "a/b", "a b", "ä", "a\n"};
	struct journal *j = must_open(fresh_dir(), JOURNAL_FDATASYNC);
	struct jlog_opts o = {.segment_bytes = 1 << 20};
	char longest[202];
	const char *why = NULL;
	struct jlog *log = NULL;
	int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		o.name = bad[i];
		assert_int_equal(journal_log_open(j, &o, &log, &why), -EINVAL);
		assert_non_null(strstr(why, "not a name"));
	}
	memset(longest, 'x', sizeof longest);
	longest[201] = '\0';
	o.name = longest;
	assert_int_equal(journal_log_open(j, &o, &log, &why), -EINVAL);
	longest[200] = '\0';
	assert_int_equal(journal_log_open(j, &o, &log, &why), 0);
	assert_int_equal(journal_log_open(j, &o, &log, &why), -EEXIST);
	o.name = "small";
	o.segment_bytes = JOURNAL_SEGMENT_MIN - 1;
	assert_int_equal(journal_log_open(j, &o, &log, &why), -EINVAL);
	must_open_log(j, "A-Z_0.9", 1 << 20, NULL);
	assert_int_equal(journal_each_log(j, count_names, &n), 0);
	assert_int_equal(n, 2);
	must_open_log(j, "stop", 1 << 20, NULL);
	assert_int_equal(journal_each_log(j, count_names, &n), 7);
	assert_int_equal(journal_close(j), 0);
}

static int refuse_second(void *ctx, const struct jrecord *rec)
{
	return ++*(int *)ctx == 2 ? -EPROTO : 0;
}

static void without_its_thread_close_still_makes_all_durable(void **state)
{
	const char *dir = fresh_dir(), *why = "";
	struct journal *j = must_open(dir, JOURNAL_FDATASYNC);
	struct jlog *log = must_open_log(j, "x", 1 << 20, NULL);
	struct jlog_opts o = {.name = "x", .segment_bytes = 1 << 20, .replay = refuse_second};
	struct journal_port *port;
	struct doorbell bell;
	int n = 0;

	assert_int_equal(doorbell_init(&bell), 0);
	assert_int_equal(journal_port_new(j, &bell, 4, &port), 0);
	for (uint64_t mark = 1; mark <= 4; mark++)
		assert_true(journal_append(port, log, 0, mark * 10, "abc", 3));
	assert_int_equal(jlog_durable(log), 0);
	assert_int_equal(journal_close(j), 0);
	j = must_open(dir, JOURNAL_FDATASYNC);
	o.ctx = &n;
	assert_int_equal(journal_log_open(j, &o, &log, &why), -EPROTO);
	assert_int_equal(n, 2);
	assert_non_null(strstr(why, "refused"));
	n = 2;
	assert_int_equal(journal_log_open(j, &o, &log, &why), 0);
	assert_int_equal(jlog_durable(log), 40);
	assert_int_equal(journal_close(j), 0);
	doorbell_done(&bell);
}

/* ---- reading and trimming ---- */

struct writer {
	struct journal *j;
	struct jlog *log;
	struct journal_port *port;
	struct doorbell bell;
};

static void writer_open(struct writer *w, const char *dir, uint32_t segment, struct seen *seen)
{
	w->j = must_open(dir, JOURNAL_FDATASYNC);
	w->log = must_open_log(w->j, "w", segment, seen);
	assert_int_equal(doorbell_init(&w->bell), 0);
	assert_int_equal(journal_port_new(w->j, &w->bell, 64, &w->port), 0);
	assert_int_equal(journal_start(w->j), 0);
}

static void writer_close(struct writer *w)
{
	assert_int_equal(journal_close(w->j), 0);
	doorbell_done(&w->bell);
}

static void records_of_two_pieces_are_read_back_by_position(void **state)
{
	static uint8_t body[8 << 20], buf[8 << 20];
	static struct seen seen;
	static const uint32_t sizes[] = {0, 1, 1000, 300000, 5 << 20, (8 << 20) - 5};
	const char *dir = fresh_dir(), *why = "";
	uint64_t where[ARRAY_SIZE(sizes)], at, next;
	struct jrecord rec;
	struct writer w;

	for (size_t i = 0; i < sizeof body; i++)
		body[i] = (uint8_t)(i * 2654435761u >> 13);
	writer_open(&w, dir, 12 << 20, NULL);
	assert_int_equal(jlog_record_max(w.log), JOURNAL_RECORD_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct jappend a = {
			.log = w.log,
			.type = (uint32_t)i,
			.mark = i + 1,
			.head = SPAN_LIT("head:"),
			.body = {body, sizes[i]},
			.where = &where[i],
		};

		assert_true(journal_appendv(w.port, &a));
	}
	wait_durable(w.j, &w.bell, w.log, ARRAY_SIZE(sizes));
	for (int life = 0; life < 2; life++) {
		at = 0;
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			assert_int_equal(jlog_read(w.log, at, buf, sizeof buf, &rec, &next, &why), 0);
			assert_int_equal(rec.where, where[i]);
			assert_int_equal(rec.mark, i + 1);
			assert_int_equal(rec.type, i);
			assert_int_equal(rec.payload.n, 5 + sizes[i]);
			assert_memory_equal(rec.payload.p, "head:", 5);
			assert_true(memcmp(rec.payload.p + 5, body, sizes[i]) == 0);
			at = next;
		}
		assert_int_equal(jlog_read(w.log, at, buf, sizeof buf, &rec, &next, &why), -ENODATA);
		assert_int_equal(jlog_read(w.log, where[4], buf, 100, &rec, &next, &why), -EMSGSIZE);
		assert_int_equal(rec.payload.n, 5 + sizes[4]);
		assert_int_equal(jlog_read(w.log, where[4] + 4, buf, sizeof buf, &rec, &next, &why), -EINVAL);
		assert_int_equal(jlog_read(w.log, where[4] + 8, buf, sizeof buf, &rec, &next, &why), -EBADMSG);
		if (life == 0) {
			writer_close(&w);
			writer_open(&w, dir, 12 << 20, &seen);
			assert_int_equal(seen.n, ARRAY_SIZE(sizes));
		}
	}
	writer_close(&w);
}

/* Appends marks from+1 to to, 1000 bytes each, waiting for each. */
static void append_some(struct writer *w, uint64_t from, uint64_t to)
{
	static const uint8_t zeros[1000];

	for (uint64_t mark = from + 1; mark <= to; mark++) {
		struct jappend a = {.log = w->log,
				    .mark = mark,
				    .body = {zeros, sizeof zeros},
				    .state = JSTATE_FIRST | JSTATE_LAST};

		assert_true(journal_appendv(w->port, &a));
		wait_durable(w->j, &w->bell, w->log, mark);
	}
}

static void trimming_drops_whole_segments_and_spares_readers(void **state)
{
	static struct seen seen;
	const char *dir = fresh_dir(), *why = "";
	struct jsegment segs[20], after[20];
	struct jlog_file held;
	struct jrecord rec;
	uint8_t buf[2000];
	struct writer w;
	uint32_t n, m;
	uint64_t bytes, mark;
	size_t size;

	writer_open(&w, dir, JOURNAL_SEGMENT_MIN, NULL);
	append_some(&w, 0, 100);
	n = jlog_segments(w.log, segs, 20);
	assert_true(n > 8 && n <= 20);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(segs[i].active, i + 1 == n);
		assert_int_equal(segs[i].first_mark, i == 0 ? 1 : segs[i - 1].last_mark + 1);
		assert_true(segs[i].created_ns > 1600000000000000000);
		assert_true(i == 0 || segs[i].created_ns >= segs[i - 1].created_ns);
	}
	assert_int_equal(segs[n - 1].last_mark, 100);
	bytes = jlog_bytes(w.log);
	assert_true(bytes > 100 * 1000 && bytes < (uint64_t)n * JOURNAL_SEGMENT_MIN);

	assert_int_equal(jlog_file_get(w.log, segs[1].begin, &held, &why), 0);
	assert_true(journal_trim(w.port, w.log, segs[4].first_mark));
	mark = 100;
	do { /* dropping happens between groups */
		append_some(&w, mark, mark + 1);
		mark++;
		m = jlog_segments(w.log, after, 20);
	} while (after[0].begin != segs[4].begin);
	assert_true(m <= n + 1);
	assert_true(jlog_bytes(w.log) < bytes);
	assert_int_equal(jlog_read(w.log, segs[1].begin, buf, sizeof buf, &rec, NULL, &why), -ENOENT);
	assert_int_equal(jlog_read(w.log, segs[4].begin, buf, sizeof buf, &rec, NULL, &why), 0);
	assert_int_equal(rec.mark, segs[4].first_mark);

	append_some(&w, mark, mark + 60); /* files are used again, but not the one that is held */
	mark += 60;
	assert_true(journal_stats(w.j)->recycled > 0);
	assert_int_equal(pread(held.fd, buf, sizeof buf, held.begin), sizeof buf);
	assert_int_equal(jlog_parse(w.log, segs[1].begin, (struct span){buf, sizeof buf}, &rec, &size), JLOG_E_SKIP);
	assert_int_equal(jlog_parse(w.log, segs[1].begin + size, (struct span){buf + size, 10}, &rec, &size), -ENODATA);
	assert_int_equal(size, 48);
	assert_int_equal(jlog_parse(w.log, segs[1].begin + 64, (struct span){buf + 64, 1048}, &rec, &size), 0);
	assert_int_equal(rec.mark, segs[1].first_mark);
	assert_int_equal(rec.payload.n, 1000);
	jlog_file_put(w.log, &held);
	writer_close(&w);

	writer_open(&w, dir, JOURNAL_SEGMENT_MIN, &seen);
	assert_int_equal(seen.last, mark);
	assert_int_equal(seen.n, mark - segs[4].first_mark + 1);
	writer_close(&w);
}

static void many_readers_keep_few_files_open(void **state)
{
	struct jsegment segs[40];
	struct jlog_file f[40];
	struct jrecord rec;
	uint8_t buf[2000];
	struct writer w;
	const char *dir = fresh_dir(), *why = "";
	uint32_t n;
	int before, after;

	writer_open(&w, dir, JOURNAL_SEGMENT_MIN, NULL);
	append_some(&w, 0, 300);
	writer_close(&w);
	files_max = 30; /* a third of them is for readers */
	writer_open(&w, dir, JOURNAL_SEGMENT_MIN, NULL);
	files_max = 0;
	n = jlog_segments(w.log, segs, 40);
	assert_true(n > 20 && n <= 40);
	before = dup(0);
	close(before);
	for (int round = 0; round < 2; round++)
		for (uint32_t i = 0; i < n; i++)
			assert_int_equal(jlog_read(w.log, segs[i].begin, buf, sizeof buf, &rec, NULL, NULL), 0);
	after = dup(0);
	close(after);
	assert_true(after - before <= 11); /* and the one that is written */
	for (int round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 10; i++) {
			assert_int_equal(jlog_file_get(w.log, segs[i].begin, &f[i], NULL), 0);
			assert_int_equal(f[i].segment, segs[i].begin >> 32);
		}
		assert_int_equal(jlog_file_get(w.log, segs[10].begin, &f[10], &why), -EMFILE);
		assert_non_null(strstr(why, "too many"));
		for (uint32_t i = 0; i < 10; i++)
			jlog_file_put(w.log, &f[i]);
	}
	after = dup(0);
	close(after);
	assert_true(after - before <= 11);
	writer_close(&w);
}

static void ports_have_a_bound(void **state)
{
	struct journal *j = must_open(fresh_dir(), JOURNAL_FDATASYNC);
	struct jlog *log = must_open_log(j, "x", 1 << 20, NULL);
	struct journal_port *port;
	struct doorbell bell;
	uint64_t mark = 1;

	assert_int_equal(doorbell_init(&bell), 0);
	for (unsigned i = 0; i < JOURNAL_PORTS_MAX; i++)
		assert_int_equal(journal_port_new(j, &bell, 10, &port), 0);
	while (journal_append(port, log, 0, mark, "x", 1))
		mark++;
	assert_int_equal(journal_port_waiting(port), mark - 1);
	assert_true(mark > 10);
	assert_false(journal_trim(port, log, 1));
	assert_int_equal(journal_port_new(j, &bell, 10, &port), -ENOSPC);
	assert_int_equal(journal_start(j), 0);
	wait_durable(j, &bell, log, mark - 1);
	assert_int_equal(journal_stats(j)->groups, 1); /* all that had arrived was one group */
	assert_int_equal(journal_close(j), 0);
	doorbell_done(&bell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(appenders_share_groups_by_the_chosen_method),
		cmocka_unit_test(appenders_share_groups_with_fdatasync),
		cmocka_unit_test(appenders_share_groups_with_dsync),
		cmocka_unit_test(appenders_share_groups_with_direct),
		cmocka_unit_test(a_method_is_chosen_on_a_file_system_in_memory),
		cmocka_unit_test(a_second_journal_in_the_directory_is_refused),
		cmocka_unit_test(names_of_logs_are_checked),
		cmocka_unit_test(without_its_thread_close_still_makes_all_durable),
		cmocka_unit_test(records_of_two_pieces_are_read_back_by_position),
		cmocka_unit_test(trimming_drops_whole_segments_and_spares_readers),
		cmocka_unit_test(many_readers_keep_few_files_open),
		cmocka_unit_test(ports_have_a_bound),
	};
	return cmocka_run_group_tests(tests, make_base, remove_base);
}
