/* The log from outside: what arrives in the target, what is counted, and that nobody waits. A FIFO whose reader does
 * not read stands for a stuck disk. */
#include "core/base/log_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[96], target[128];
static char text[16 << 20]; /* of the file, read back */
static uint64_t written_before, dropped_before;

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/test_log.XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof path, "%s/log", dir);
	snprintf(target, sizeof target, "file:%s", path);
	written_before = log_written();
	dropped_before = log_dropped();
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	return system(cmd) == 0 ? 0 : -1;
}

static uint64_t written(void)
{
	return log_written() - written_before;
}

static uint64_t dropped(void)
{
	return log_dropped() - dropped_before;
}

static const char *slurp_fd(int fd)
{
	size_t n = 0;
	ssize_t got;

	while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = 0;
	return text;
}

static const char *slurp(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	slurp_fd(fd);
	close(fd);
	return text;
}

/* The text of the only line in the file, without its prefix; its form is checked. */
static const char *only_line(void)
{
	char *line = (char *)(uintptr_t)slurp(path), *end = strchr(line, '\n');

	assert_non_null(end);
	assert_int_equal(end[1], 0);
	*end = 0;
	line = strstr(line, ": ");
	assert_non_null(line);
	return line + 2;
}

static const char *logged_as(const char *what)
{
	assert_int_equal(truncate(path, 0) == 0 || errno == ENOENT, 1);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_info("%s", what);
	log_done();
	return only_line();
}

static void test_line_has_time_level_name_and_text(void **state)
{
	unsigned y, mo, d, h, mi, s, ms;
	int end = -1;

	assert_int_equal(log_init(target, LOG_LEVEL_DEBUG), 0);
	assert_int_equal(log_thread_register("shard/0"), 0);
	log_warn("queue %d is %s", 7, "full");
	log_thread_unregister();
	log_done();
	slurp(path);
	assert_int_equal(sscanf(text, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ%n", &y, &mo, &d, &h, &mi, &s, &ms, &end), 7);
	assert_int_equal(end, 24);
	assert_true(y >= 2020 && mo >= 1 && mo <= 12 && d >= 1 && d <= 31 && h < 24 && mi < 60 && s <= 60);
	assert_string_equal(text + 24, " WARN  shard/0: queue 7 is full\n");
	assert_int_equal(written(), 1);
	assert_int_equal(dropped(), 0);
}

static void test_unregistered_thread_is_named_by_its_pthread_name(void **state)
{
	char comm[16];

	pthread_getname_np(pthread_self(), comm, sizeof comm);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_error("early");
	log_done();
	slurp(path);
	assert_non_null(strstr(text, " ERROR "));
	assert_non_null(strstr(text, comm));
	assert_non_null(strstr(text, ": early\n"));
}

static void test_level_filters_and_changes(void **state)
{
	assert_int_equal(log_init(target, LOG_LEVEL_WARN), 0);
	log_info("one");
	log_warn("two");
	log_set_level(LOG_LEVEL_DEBUG);
	assert_int_equal(log_get_level(), LOG_LEVEL_DEBUG);
	log_debug("three");
	log_done();
	log_set_level(LOG_LEVEL_INFO);
	slurp(path);
	assert_null(strstr(text, "one"));
	assert_non_null(strstr(text, "two"));
	assert_non_null(strstr(text, "three"));
}

static void test_bad_targets_are_refused(void **state)
{
	assert_int_equal(log_init("syslog", LOG_LEVEL_INFO), -EINVAL);
	assert_int_equal(log_init("file:", LOG_LEVEL_INFO), -EINVAL);
	assert_int_equal(log_init("file:/nonexistent/dir/log", LOG_LEVEL_INFO), -ENOENT);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0); /* and leave nothing behind */
	log_done();
	log_done(); /* harmless */
}

static void test_peer_cannot_forge_a_line(void **state)
{
	assert_string_equal(logged_as("a\n2025-01-01T00:00:00.000Z ERROR shard/0: forged"),
			    "a\\n2025-01-01T00:00:00.000Z ERROR shard/0: forged");
	assert_string_equal(logged_as("\r\t\x1b[2J\x7f\x01"), "\\r\\t\\x1b[2J\\x7f\\x01");
	assert_string_equal(logged_as("next\xc2\x85line"), "next\\xc2\\x85line"); /* U+0085 */
	assert_string_equal(logged_as("sep\xe2\x80\xa8para\xe2\x80\xa9"), "sep\\xe2\\x80\\xa8para\\xe2\\x80\\xa9");
}

static void test_utf8_is_kept_and_what_is_not_is_escaped(void **state)
{
	assert_string_equal(logged_as("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x9a\x80"),
			    "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x9a\x80");
	assert_string_equal(logged_as("\xff\xfe\x80"), "\\xff\\xfe\\x80");
	assert_string_equal(logged_as("\xc0\x8a"), "\\xc0\\x8a"); /* overlong newline */
	assert_string_equal(logged_as("\xe0\x80\x8a"), "\\xe0\\x80\\x8a");
	assert_string_equal(logged_as("\xf0\x80\x80\x8a"), "\\xf0\\x80\\x80\\x8a");
	assert_string_equal(logged_as("\xed\xa0\x80"), "\\xed\\xa0\\x80");          /* a surrogate */
	assert_string_equal(logged_as("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80"); /* above U+10FFFF */
	assert_string_equal(logged_as("\xe2\x82"), "\\xe2\\x82");                   /* ends too early */
	assert_string_equal(logged_as("\xe2\x82z"), "\\xe2\\x82z");
	assert_string_equal(logged_as(""), "");
}

static void test_long_lines_are_cut_whole(void **state)
{
	static char big[5 * LOG_LINE_MAX];
	const char *line;

	memset(big, 'x', LOG_LINE_MAX);
	big[LOG_LINE_MAX] = 0;
	assert_string_equal(logged_as(big), big); /* exactly as long as allowed */
	memset(big, 'x', sizeof big - 1);
	line = logged_as(big);
	assert_int_equal(strlen(line), LOG_LINE_MAX);
	assert_string_equal(line + LOG_LINE_MAX - 4, "x...");

	for (size_t i = 0; i + 2 < sizeof big; i += 2)
		memcpy(big + i, "\xc3\xbc", 2);
	line = logged_as(big);
	assert_true(strlen(line) <= LOG_LINE_MAX && strlen(line) > LOG_LINE_MAX - 8);
	assert_string_equal(line + strlen(line) - 5, "\xc3\xbc..."); /* no half character */
	assert_null(strstr(line, "\\x"));

	memset(big, 1, sizeof big - 1);
	line = logged_as(big);
	assert_true(strlen(line) <= LOG_LINE_MAX && strlen(line) > LOG_LINE_MAX - 8);
	assert_string_equal(line + strlen(line) - 7, "\\x01..."); /* no half escape */
}

static void test_errno_is_left_alone(void **state)
{
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	errno = EXDEV;
	log_info("%s", "x");
	assert_int_equal(errno, EXDEV);
	log_reopen();
	assert_int_equal(errno, EXDEV);
	log_done();
}

static void test_percent_m_sees_the_callers_errno(void **state)
{
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	errno = ENOSPC;
	log_info("write: %m");
	log_done();
	assert_string_equal(only_line(), "write: No space left on device");
}

/* ---- Standard error ---- */

static int saved_stderr, err_pipe[2];

static void catch_stderr(void)
{
	fflush(stderr);
	assert_int_equal(pipe(err_pipe), 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(err_pipe[1], STDERR_FILENO);
}

static const char *caught_stderr(void)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(err_pipe[1]);
	slurp_fd(err_pipe[0]);
	close(err_pipe[0]);
	return text;
}

static void test_without_a_writer_lines_go_to_stderr_at_once(void **state)
{
	catch_stderr();
	log_info("too early");
	assert_int_equal(log_thread_register("shard/3"), 0);
	log_warn("named\n");
	log_thread_unregister();
	caught_stderr();
	assert_non_null(strstr(text, ": too early\n"));
	assert_non_null(strstr(text, " WARN  shard/3: named\\n\n"));
	assert_int_equal(written(), 2);
}

static void test_journal_lines_have_a_priority_and_no_time(void **state)
{
	catch_stderr();
	assert_int_equal(log_init("journal", LOG_LEVEL_DEBUG), 0);
	assert_int_equal(log_thread_register("main"), 0);
	log_debug("d");
	log_info("i");
	log_warn("w");
	log_error("e");
	log_thread_unregister();
	log_done();
	log_set_level(LOG_LEVEL_INFO);
	caught_stderr();
	assert_string_equal(text, "<7>main: d\n<6>main: i\n<4>main: w\n<3>main: e\n");
}

static void check_auto(const char *journal_stream, bool journal)
{
	if (journal_stream != NULL)
		setenv("JOURNAL_STREAM", journal_stream, 1);
	else
		unsetenv("JOURNAL_STREAM");
	assert_int_equal(log_init("auto", LOG_LEVEL_INFO), 0);
	log_info("x");
	log_done();
	unsetenv("JOURNAL_STREAM");
	caught_stderr();
	assert_int_equal(text[0] == '<', journal);
}

static void test_auto_is_the_journal_only_when_stderr_is(void **state)
{
	char stream[64];
	struct stat st;

	catch_stderr();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	check_auto(stream, true);
	catch_stderr();
	check_auto("1:2", false);
	catch_stderr();
	check_auto("nonsense", false);
	catch_stderr();
	check_auto(NULL, false);
}

/* ---- Threads ---- */

#define THREADS 4
#define LINES 20000

static void *write_lines(void *arg)
{
	unsigned t = (unsigned)(uintptr_t)arg;
	char name[16];

	snprintf(name, sizeof name, "worker/%u", t);
	assert_int_equal(log_thread_register(name), 0);
	for (unsigned i = 0; i < LINES; i++)
		log_info("line %u of %s", i, name);
	log_thread_unregister();
	return NULL;
}

/* Each thread's lines are whole and in order; those missing were counted and reported. Returns the number found. */
static uint64_t check_workers(unsigned threads)
{
	long next[THREADS] = {0};
	uint64_t found = 0, reported = 0;

	for (char *line = text, *end; *line != 0; line = end + 1) {
		unsigned t, i, t2;
		unsigned long long lost;
		const char *at;

		end = strchr(line, '\n');
		assert_non_null(end);
		*end = 0;
		at = strstr(line, " INFO  ");
		if (at != NULL) {
			assert_int_equal(sscanf(at, " INFO  worker/%u: line %u of worker/%u", &t, &i, &t2), 3);
			assert_true(t < threads && t == t2);
			assert_true((long)i >= next[t]);
			next[t] = (long)i + 1;
			found++;
		} else {
			at = strstr(line, " WARN  log: ");
			assert_non_null(at);
			assert_int_equal(sscanf(at, " WARN  log: %llu lines of worker/%u were dropped", &lost, &t), 2);
			reported += lost;
		}
	}
	assert_int_equal(reported, dropped());
	return found;
}

static void test_threads_at_once_keep_their_order_and_lose_nothing_uncounted(void **state)
{
	pthread_t t[THREADS];

	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, write_lines, (void *)i), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	log_done();
	slurp(path);
	assert_int_equal(check_workers(THREADS), written());
	assert_int_equal(written() + dropped(), THREADS * LINES);
}

static void *read_to_the_end(void *arg)
{
	int fd = *(int *)arg;

	slurp_fd(fd);
	close(fd);
	return NULL;
}

static void test_stuck_target_drops_counts_and_reports_and_nobody_waits(void **state)
{
	pthread_t t;
	int both, reader;

	assert_int_equal(mkfifo(path, 0600), 0);
	both = open(path, O_RDWR | O_CLOEXEC);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(both >= 0 && reader >= 0);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	assert_int_equal(pthread_create(&t, NULL, write_lines, (void *)0), 0);
	pthread_join(t, NULL); /* it ends although nobody reads */
	/* Pipe, batch and ring together hold a fraction of what was logged. */
	assert_true(dropped() > 0);

	assert_int_equal(pthread_create(&t, NULL, read_to_the_end, &reader), 0);
	log_done();
	close(both);
	pthread_join(t, NULL);
	assert_int_equal(check_workers(1), written());
	assert_int_equal(written() + dropped(), LINES);
}

/* The first line of a small file of /proc; empty when it is gone. */
static void first_line(const char *name, char *buf, int cap)
{
	FILE *f = fopen(name, "re");

	buf[0] = 0;
	if (f == NULL)
		return;
	if (fgets(buf, cap, f) == NULL)
		buf[0] = 0;
	fclose(f);
}

/* Finds the stat file of this process's thread with that name. */
static bool find_thread(const char *name, char *ret_stat, size_t cap)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	bool found = false;
	char file[300], comm[64];

	assert_non_null(d);
	while (!found && (e = readdir(d)) != NULL) {
		snprintf(file, sizeof file, "/proc/self/task/%s/comm", e->d_name);
		first_line(file, comm, sizeof comm);
		comm[strcspn(comm, "\n")] = 0;
		found = strcmp(comm, name) == 0;
		if (found)
			snprintf(ret_stat, cap, "/proc/self/task/%s/stat", e->d_name);
	}
	closedir(d);
	return found;
}

static void test_writer_sleeps_when_there_is_nothing_to_write(void **state)
{
	char stat_path[300], buf[256];

	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_info("wake");
	while (written() == 0)
		sched_yield();
	assert_true(find_thread("log", stat_path, sizeof stat_path));
	do { /* a writer that spins is never seen asleep: this would hang */
		sched_yield();
		first_line(stat_path, buf, sizeof buf);
	} while (strstr(buf, "(log) S") == NULL);
	log_info("and wakes again");
	while (written() == 1)
		sched_yield();
	log_done();
}

/* ---- Reopening ---- */

static void test_reopen_moves_to_the_new_file(void **state)
{
	char old[112];

	snprintf(old, sizeof old, "%s.1", path);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_info("before");
	while (written() == 0)
		sched_yield();
	assert_int_equal(rename(path, old), 0);
	log_reopen();
	log_info("after");
	log_done();
	slurp(old);
	assert_non_null(strstr(text, "before"));
	assert_null(strstr(text, "after"));
	assert_string_equal(only_line(), "after");
}

static void on_signal(int sig)
{
	log_reopen();
}

static void test_reopen_from_a_signal_handler(void **state)
{
	char old[112];

	snprintf(old, sizeof old, "%s.1", path);
	signal(SIGUSR1, on_signal);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	assert_int_equal(rename(path, old), 0);
	raise(SIGUSR1);
	log_info("after");
	log_done();
	signal(SIGUSR1, SIG_DFL);
	assert_string_equal(only_line(), "after");
}

static void test_reopen_that_fails_keeps_the_old_file_and_says_so(void **state)
{
	char moved[80], old[112];

	snprintf(moved, sizeof moved, "%s.moved", dir);
	snprintf(old, sizeof old, "%s/log", moved);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	assert_int_equal(rename(dir, moved), 0);
	log_reopen();
	log_info("still here");
	log_done();
	slurp(old);
	assert_int_equal(rename(moved, dir), 0);
	assert_non_null(strstr(text, "cannot reopen"));
	assert_non_null(strstr(text, path));
	assert_non_null(strstr(text, "still here"));
	assert_int_equal(written(), 1);
}

static void test_rotation_under_load_loses_nothing(void **state)
{
	enum { ROTATIONS = 20 };
	static char all[sizeof text];
	char name[128];
	size_t n = 0;
	pthread_t t;

	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	assert_int_equal(pthread_create(&t, NULL, write_lines, (void *)0), 0);
	for (unsigned i = 0; i < ROTATIONS; i++) {
		snprintf(name, sizeof name, "%s.%02u", path, i);
		assert_int_equal(rename(path, name), 0);
		log_reopen();
		while (access(path, F_OK) != 0)
			sched_yield();
	}
	pthread_join(t, NULL);
	log_done();
	snprintf(name, sizeof name, "%s.%02u", path, (unsigned)ROTATIONS);
	assert_int_equal(rename(path, name), 0);
	for (unsigned i = 0; i <= ROTATIONS; i++) {
		size_t len;

		snprintf(name, sizeof name, "%s.%02u", path, i);
		len = strlen(slurp(name));
		memcpy(all + n, text, len);
		n += len;
	}
	all[n] = 0;
	memcpy(text, all, n + 1);
	assert_int_equal(check_workers(1), written());
	assert_int_equal(written() + dropped(), LINES);
}

static void test_write_errors_are_counted_and_told(void **state)
{
	catch_stderr();
	assert_int_equal(log_init("file:/dev/full", LOG_LEVEL_INFO), 0);
	log_info("lost");
	log_done();
	caught_stderr();
	assert_int_equal(written(), 0);
	assert_int_equal(dropped(), 1);
	assert_non_null(strstr(text, "/dev/full: No space left on device"));
}

/* ---- Starting and stopping ---- */

static void test_buffer_outlives_the_writer(void **state)
{
	assert_int_equal(log_thread_register("main"), 0); /* before there is a writer */
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_info("one");
	log_done();
	catch_stderr();
	log_info("between");
	caught_stderr();
	assert_non_null(strstr(text, "main: between\n"));
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	log_info("two");
	assert_int_equal(log_thread_register("renamed"), 0);
	log_info("three");
	log_done();
	log_thread_unregister();
	log_thread_unregister(); /* harmless */
	slurp(path);
	assert_non_null(strstr(text, "main: one\n"));
	assert_non_null(strstr(text, "main: two\n"));
	assert_non_null(strstr(text, "renamed: three\n"));
	assert_null(strstr(text, "between"));
	assert_int_equal(written(), 4);
}

static atomic_int churning;

static void *churn(void *arg)
{
	for (int i = 0; i < 300; i++) {
		assert_int_equal(log_thread_register("churn"), 0);
		log_info("one line");
		log_thread_unregister();
	}
	atomic_fetch_sub(&churning, 1);
	return NULL;
}

/* Threads come and go while the writer starts and stops; every line goes somewhere, and the sanitizers watch. */
static void test_registering_beside_start_and_stop(void **state)
{
	pthread_t t[2];
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), err = dup(STDERR_FILENO);

	dup2(null, STDERR_FILENO);
	atomic_store(&churning, 2);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, churn, NULL), 0);
	while (atomic_load(&churning) > 0) {
		assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
		log_done();
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	dup2(err, STDERR_FILENO);
	close(err);
	close(null);
	assert_int_equal(dropped(), 0);
	assert_int_equal(written(), 600);
}

/* ---- Readers that have stopped ---- */

/* A pipe that is full, in place of standard error. Returns its reading end. */
static int stall_stderr(void)
{
	static const char zeros[4096];
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	while (write(ends[1], zeros, sizeof zeros) > 0)
		;
	assert_int_equal(fcntl(ends[1], F_SETFL, 0), 0); /* as others have it: a write waits */
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	return ends[0];
}

/* The process stayed for ever. */
static void test_the_end_does_not_wait_for_a_reader_that_has_stopped(void **state)
{
	int err = dup(STDERR_FILENO), reader = stall_stderr();
	struct timespec began, ended;

	assert_int_equal(log_init("stderr", LOG_LEVEL_INFO), 0);
	for (int i = 0; i < 5000; i++)
		log_info("nobody reads line %d", i);
	clock_gettime(CLOCK_MONOTONIC, &began);
	log_done();
	log_info("nor this one, which is written without a writer");
	log_info("nor this one");
	clock_gettime(CLOCK_MONOTONIC, &ended);
	dup2(err, STDERR_FILENO);
	close(err);
	close(reader);
	assert_true(ended.tv_sec - began.tv_sec < 60); /* one or two, on a machine that has time */
	assert_int_equal(written(), 0);
	assert_int_equal(dropped(), 5002);
}

static void *read_slowly(void *arg)
{
	char buf[64];
	int fd = *(int *)arg;

	while (read(fd, buf, sizeof buf) != 0)
		usleep(100);
	return NULL;
}

/* Nor one that reads on, too slowly to see the end. */
static void test_the_end_does_not_wait_for_a_reader_that_is_slow(void **state)
{
	int err = dup(STDERR_FILENO), reader = stall_stderr();
	pthread_t t;

	assert_int_equal(fcntl(reader, F_SETFL, 0), 0);
	assert_int_equal(pthread_create(&t, NULL, read_slowly, &reader), 0);
	assert_int_equal(log_init("stderr", LOG_LEVEL_INFO), 0);
	for (int i = 0; i < 100; i++)
		log_info("line %d", i);
	log_done();
	dup2(err, STDERR_FILENO);
	close(err);
	pthread_join(t, NULL);
	close(reader);
	assert_int_equal(written() + dropped(), 100);
}

/* A FIFO that nobody has opened for reading: log_init waited in open(2). */
static void test_a_fifo_without_a_reader_is_refused(void **state)
{
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), -ENXIO);
}

/* ---- Repeated lines ---- */

#define SECOND UINT64_C(1000000000)

static void forget_it(unsigned long long more, const char *what)
{
	(void)more;
	assert_string_equal(what, "it");
}

static void test_a_class_of_lines_has_one_a_second_and_then_one_a_minute(void **state)
{
	struct log_limit l = {.said_ns = 0};
	unsigned long long more, told = 0, passed = 0;
	uint64_t now = 1000 * SECOND;

	for (unsigned i = 0; i < 20 * 30; i++, now += SECOND / 20) /* 30 s, 20 a second */
		if (log_limit_pass_at(&l, "it", now, &more)) {
			passed++;
			told += more;
		}
	assert_int_equal(passed, 30);
	assert_int_equal(told, 29 * 19);
	for (unsigned i = 0; i < 3600 * 24; i++, now += SECOND) /* a day */
		if (log_limit_pass_at(&l, "it", now, &more))
			passed++;
	assert_in_range(passed, 24 * 60, 24 * 60 + LOG_LIMIT_BURST + 1);
	now += LOG_LIMIT_BURST * LOG_LIMIT_REFILL_NS; /* quiet */
	for (unsigned i = 0; i < 60; i++, now += SECOND)
		assert_true(log_limit_pass_at(&l, "it", now, &more));
	assert_false(log_limit_pass_at(&l, "it", now - SECOND / 2, &more));
	log_limit_tell(now, true, forget_it); /* it is not static */
}

static void repeat(void)
{
	log_limited(LOG_LEVEL_WARN, "queue %d is %s", 7, "full");
}

static void test_lines_that_were_suppressed_are_told_at_the_end(void **state)
{
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	for (int i = 0; i < 100; i++)
		repeat();
	log_limited(LOG_LEVEL_INFO, "another class, 100%%");
	log_done();
	slurp(path);
	assert_non_null(strstr(text, ": queue 7 is full\n"));
	assert_null(strstr(strstr(text, ": queue 7 is full\n") + 5, ": queue 7 is full\n"));
	assert_non_null(strstr(text, "log: 99 identical lines suppressed: queue ... is ...\n"));
	assert_non_null(strstr(text, "another class, 100%\n"));
	assert_int_equal(written(), 2);
	usleep(1100000);
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	repeat();
	log_done();
	assert_null(strstr(strstr(slurp(path), "suppressed") + 5, "suppressed")); /* those were told */
}

static atomic_ullong more_told;

static void *repeat_much(void *arg)
{
	static struct log_limit l;
	unsigned long long more;

	for (int i = 0; i < 20000; i++)
		if (log_limit_pass(&l, "much", &more))
			atomic_fetch_add(&more_told, more + 1);
	return NULL;
}

static void add_told(unsigned long long more, const char *what)
{
	assert_string_equal(what, "much");
	atomic_fetch_add(&more_told, more);
}

/* Each line is written or told of once, whoever counts and tells meanwhile. */
static void test_suppressed_lines_of_many_threads_are_counted_once(void **state)
{
	pthread_t t[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, repeat_much, NULL), 0);
	for (unsigned i = 0; i < 1000; i++)
		log_limit_tell(0, true, add_told);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	log_limit_tell(0, true, add_told);
	assert_int_equal(atomic_load(&more_told), THREADS * 20000);
}

static void test_pin(void **state)
{
	cpu_set_t set;
	int cpu = 0;

	assert_int_equal(log_pin(0), -ESRCH);
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	assert_int_equal(log_init(target, LOG_LEVEL_INFO), 0);
	assert_int_equal(log_pin(-1), -EINVAL);
	assert_int_equal(log_pin(cpu), 0);
	log_done();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_without_a_writer_lines_go_to_stderr_at_once),
		TEST(test_line_has_time_level_name_and_text),
		TEST(test_unregistered_thread_is_named_by_its_pthread_name),
		TEST(test_level_filters_and_changes),
		TEST(test_bad_targets_are_refused),
		TEST(test_peer_cannot_forge_a_line),
		TEST(test_utf8_is_kept_and_what_is_not_is_escaped),
		TEST(test_long_lines_are_cut_whole),
		TEST(test_errno_is_left_alone),
		TEST(test_percent_m_sees_the_callers_errno),
		TEST(test_journal_lines_have_a_priority_and_no_time),
		TEST(test_auto_is_the_journal_only_when_stderr_is),
		TEST(test_threads_at_once_keep_their_order_and_lose_nothing_uncounted),
		TEST(test_stuck_target_drops_counts_and_reports_and_nobody_waits),
		TEST(test_writer_sleeps_when_there_is_nothing_to_write),
		TEST(test_reopen_moves_to_the_new_file),
		TEST(test_reopen_from_a_signal_handler),
		TEST(test_reopen_that_fails_keeps_the_old_file_and_says_so),
		TEST(test_rotation_under_load_loses_nothing),
		TEST(test_write_errors_are_counted_and_told),
		TEST(test_buffer_outlives_the_writer),
		TEST(test_registering_beside_start_and_stop),
		TEST(test_the_end_does_not_wait_for_a_reader_that_has_stopped),
		TEST(test_the_end_does_not_wait_for_a_reader_that_is_slow),
		TEST(test_a_fifo_without_a_reader_is_refused),
		TEST(test_a_class_of_lines_has_one_a_second_and_then_one_a_minute),
		TEST(test_lines_that_were_suppressed_are_told_at_the_end),
		TEST(test_suppressed_lines_of_many_threads_are_counted_once),
		TEST(test_pin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
