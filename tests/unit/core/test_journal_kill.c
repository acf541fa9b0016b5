/* core/journal on the real file system: a process that appends is killed, again and again; what it was told is
 * durable is there. */
#include "core/journal.h"

#include "core/base/check.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define ROUNDS 20
#define AHEAD 64u
#define SEGMENT (64u << 10)

/* What the appending process was told, in memory that outlives it. */
struct told {
	atomic_uint_fast64_t durable, trimmed;
};

struct replayed {
	uint64_t first, last;
	bool wrong;
};

static uint32_t payload_make(uint8_t *p, uint64_t mark)
{
	uint32_t n = (uint32_t)(mark * 2654435761u % 700);

	for (uint32_t i = 0; i < n; i++)
		p[i] = (uint8_t)(mark + i * 7);
	return n;
}

static int replay(void *ctx, const struct jrecord *rec)
{
	struct replayed *r = ctx;
	uint8_t want[700];
	uint32_t n = payload_make(want, rec->mark);

	if (r->first == 0)
		r->first = rec->mark;
	else if (rec->mark != r->last + 1)
		r->wrong = true;
	if (rec->payload.n != n || memcmp(rec->payload.p, want, n) != 0)
		r->wrong = true;
	r->last = rec->mark;
	return 0;
}

static int open_all(const char *dir, int round, struct journal **ret, struct jlog **ret_log, struct replayed *r)
{
	/* the methods take turns, so that each reads what the others wrote */
	struct journal_opts o = {.dir = dir, .method = (enum journal_method)(round % 3), .idle_note_ms = 1};
	struct jlog_opts lo = {.name = "log", .segment_bytes = SEGMENT, .replay = replay, .ctx = r};
	const char *why = "";
	int err = journal_open(&o, ret, &why);

	if (err == 0)
		err = journal_log_open(*ret, &lo, ret_log, &why);
	if (err != 0)
		fprintf(stderr, "round %d: %s\n", round, why);
	return err;
}

/* Runs until it is killed. */
static void append_forever(const char *dir, int round, struct told *told)
{
	static uint8_t payload[AHEAD * 2][700];
	struct replayed r = {0};
	struct journal *j;
	struct jlog *log;
	struct journal_port *port;
	struct doorbell bell;
	uint64_t mark;

	if (open_all(dir, round, &j, &log, &r) != 0 || doorbell_init(&bell) != 0 ||
	    journal_port_new(j, &bell, AHEAD, &port) != 0 || journal_start(j) != 0)
		_exit(1);
	uint64_t begin = jlog_durable(log) + 1;
	for (mark = begin;; mark++) {
		uint8_t *p = payload[mark % ARRAY_SIZE(payload)];
		uint32_t n = payload_make(p, mark);
		uint64_t durable = jlog_durable(log);

		atomic_store(&told->durable, durable);
		struct jappend a = {.log = log,
				    .type = 1,
				    .mark = mark,
				    .body = {p, n},
				    /* each record is all that is needed */
				    .state = JSTATE_FIRST | JSTATE_LAST};

		if (mark % 97 == 0 && durable > 500 && mark > begin) {
			atomic_store(&told->trimmed, durable - 400);
			journal_trim(port, log, durable - 400);
		}
		while (mark - durable > AHEAD / 2 || !journal_appendv(port, &a)) {
			if (journal_has_failed(j))
				_exit(2);
			doorbell_arm(&bell);
			if (jlog_durable(log) == durable)
				doorbell_wait(&bell, UINT64_MAX);
			doorbell_disarm(&bell);
			durable = jlog_durable(log);
			atomic_store(&told->durable, durable);
		}
	}
}

static void killed_while_appending_it_keeps_what_it_told(void **state)
{
	struct told *told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const char *tmp = getenv("TMPDIR");
	char dir[200], cmd[240];

	assert_true(told != MAP_FAILED);
	snprintf(dir, sizeof dir, "%s/journal-XXXXXX", tmp != NULL ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t goal = atomic_load(&told->durable) + 20 + (uint64_t)(round * 7919 % 600);
		struct replayed r = {0};
		struct journal *j = NULL;
		struct jlog *log = NULL;
		int status = 0;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* however this process ends */
			append_forever(dir, round, told);
		}
		while (atomic_load(&told->durable) < goal && waitpid(pid, &status, WNOHANG) == 0)
			sched_yield();
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(open_all(dir, round % 2 + 1, &j, &log, &r), 0);
		assert_false(r.wrong);
		assert_true(r.last >= atomic_load(&told->durable));
		assert_true(r.first == 1 || r.first <= atomic_load(&told->trimmed));
		assert_int_equal(jlog_durable(log), r.last);
		assert_false(journal_was_clean(j));
		assert_int_equal(journal_close(j), 0);
	}
	assert_true(atomic_load(&told->trimmed) > 0);
	snprintf(cmd, sizeof cmd, "rm -r '%s'", dir);
	assert_int_equal(system(cmd), 0);
	munmap(told, sizeof *told);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_while_appending_it_keeps_what_it_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
