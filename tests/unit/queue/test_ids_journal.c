/* IDs on the real journal and the real disk: a clean stop, and a process killed while it hands out IDs. */
#include "queue/ids.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
/* after those */
#include <cmocka.h>

#define WAIT_NS (60 * NS_PER_S)

static const struct ids_opts opts = {
	.shards = 1,
	.order = IDS_STRICT,
	.window_min = 100,
	.window_max = 5000,
	.window_target_ms = 10,
	.queue_depth = 64,
	.sequences_max = 100,
	.create = true,
	.count_max = 1000,
};

struct bench {
	char dir[64];
	struct journal *journal;
	struct ids *ids;
	struct ids_view *view;
	struct doorbell bell;
	uint64_t first;
	bool answered;
};

static void bench_open(struct bench *b)
{
	struct journal_opts jo = {.dir = b->dir, .group_max = 1u << 20};
	const char *why = "";
	int rc = journal_open(&jo, &b->journal, &why);

	if (rc == 0)
		rc = ids_open(&opts, b->journal, &b->ids, &why);
	if (rc != 0)
		fail_msg("%s (%d)", why, rc);
	assert_int_equal(journal_start(b->journal), 0);
	assert_int_equal(ids_start(b->ids, -1), 0);
	assert_int_equal(doorbell_init(&b->bell), 0);
	b->view = ids_view_new(b->ids, 0, &b->bell);
	assert_non_null(b->view);
}

static void bench_close(struct bench *b)
{
	ids_stop(b->ids);
	assert_int_equal(journal_close(b->journal), 0);
	ids_view_free(b->view);
	ids_free(b->ids);
	doorbell_done(&b->bell);
}

static void on_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct bench *b = ctx;

	b->first = first;
	b->answered = true;
}

static void on_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	fail_msg("refused: %d", why);
}

static uint64_t take(struct bench *b, const char *name, uint32_t count)
{
	static const struct ids_view_ops ops = {on_answer, on_refused};
	struct ids_wait w = {NULL};

	b->answered = false;
	assert_int_equal(ids_view_request(b->view, &w, (struct span){(const uint8_t *)name, strlen(name)}, count),
			 IDS_E_OK);
	ids_view_turn(b->view, &ops, b);
	while (!b->answered) {
		doorbell_arm(&b->bell);
		if (ids_view_has_work(b->view))
			doorbell_disarm(&b->bell);
		else
			assert_true(doorbell_wait(&b->bell, WAIT_NS));
		ids_view_turn(b->view, &ops, b);
	}
	return b->first;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof *b);
	const char *tmp = getenv("TMPDIR");

	if (b == NULL)
		return -1;
	snprintf(b->dir, sizeof b->dir, "%s/ids-test-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	*state = b;
	return mkdtemp(b->dir) ? 0 : -1;
}

static int teardown(void **state)
{
	struct bench *b = *state;
	char command[96];
	int rc;

	snprintf(command, sizeof command, "rm -rf '%s'", b->dir);
	rc = system(command);
	free(b);
	return rc;
}

static void test_clean_stops_leave_no_gap(void **state)
{
	struct bench *b = *state;
	uint64_t expect = 1;

	for (unsigned i = 0; i < 4; i++) {
		bench_open(b);
		for (unsigned k = 0; k < 500; k++) {
			assert_int_equal(take(b, "", 1 + k % 5), expect);
			expect += 1 + k % 5;
		}
		assert_int_equal(take(b, "other", 2), 1 + 2 * i);
		bench_close(b);
	}
}

/* Several generations: each hands out IDs, telling the parent of each through a pipe, until it is killed. */
static void test_killed_processes_never_repeat(void **state)
{
	struct bench *b = *state;
	uint64_t last = 0;

	for (unsigned i = 0; i < 5; i++) {
		uint64_t id, skipped = 0;
		int pipe_fd[2], status;
		pid_t pid;

		assert_int_equal(pipe(pipe_fd), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			/* It ends with this process, however that ends: it would hold the runner's output. */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(pipe_fd[0]);
			bench_open(b);
			for (;;) {
				id = take(b, "", 1);
				if (write(pipe_fd[1], &id, sizeof id) != sizeof id)
					_exit(1);
			}
		}
		close(pipe_fd[1]);
		for (unsigned k = 0; k < 1000 + 700 * i; k++) {
			assert_int_equal(read(pipe_fd[0], &id, sizeof id), sizeof id);
			assert_true(id > last);
			if (k == 0)
				skipped = id - last - 1;
			else
				assert_int_equal(id, last + 1);
			last = id;
		}
		/* and the one that was handed out when the process before was killed, and not told of */
		assert_true(skipped <= opts.window_max + 1);
		kill(pid, SIGKILL);
		while (read(pipe_fd[0], &id, sizeof id) == sizeof id) { /* what it had written before it died */
			assert_int_equal(id, last + 1);
			last = id;
		}
		close(pipe_fd[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
	bench_open(b);
	assert_in_range(take(b, "", 1), last + 1, last + 2 + opts.window_max);
	bench_close(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_clean_stops_leave_no_gap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_processes_never_repeat, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
