/* CHECK ends the process and says where; it costs nothing when it holds. */
#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int evaluated;

static int count_and_return(int v)
{
	evaluated++;
	return v;
}

static void test_holding_check_evaluates_once(void **state)
{
	evaluated = 0;
	CHECK(count_and_return(1));
	assert_int_equal(evaluated, 1);
}

static void test_failed_check_aborts_and_names_the_place(void **state)
{
	char out[512] = "";
	int fds[2], status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		CHECK(1 + 1 == 3);
		_exit(0);
	}
	close(fds[1]);
	while (n < sizeof out - 1 && (got = read(fds[0], out + n, sizeof out - 1 - n)) > 0)
		n += (size_t)got;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_non_null(strstr(out, "1 + 1 == 3"));
	assert_non_null(strstr(out, "test_check.c:"));
}

static void test_container_of(void **state)
{
	struct outer {
		int a;
		struct {
			char c;
		} member;
	} o;

	assert_ptr_equal(container_of(&o.member, struct outer, member), &o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holding_check_evaluates_once),
		cmocka_unit_test(test_failed_check_aborts_and_names_the_place),
		cmocka_unit_test(test_container_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
