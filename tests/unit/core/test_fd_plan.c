/* core/fd_plan: who gets how many descriptors. */
#include "core/fd_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct fd_plan plan(uint64_t limit, unsigned connections)
{
	struct fd_needs n = {
		.limit = limit, .open = 30, .listeners = 2, .stats_clients = 48, .connections = connections};
	struct fd_plan p = {0};
	const char *why = "";

	if (fd_plan_make(&n, &p, &why) != 0)
		fail_msg("%s", why);
	return p;
}

static void everybody_has_a_share_and_they_add_up(void **state)
{
	for (uint64_t limit = 64; limit < 2000000; limit += limit / 7) {
		struct fd_plan p = plan(limit, 20000);

		assert_int_equal(p.reserved,
				 p.open + FD_PLAN_MOMENTS + p.journal_files + p.stats_clients + (p.accepts + 1) * 2);
		assert_true(p.reserved + p.connections <= limit);
		assert_true(p.connections >= 1 && p.connections <= 20000);
		assert_true(p.connections == 20000 || p.reserved + p.connections == limit);
		assert_true(p.journal_files >= 6 && p.journal_files <= FD_PLAN_JOURNAL_FILES);
		assert_true(p.stats_clients >= 1 && p.stats_clients <= 48);
		assert_true(p.accepts >= 1 && p.accepts <= FD_PLAN_ACCEPTS);
	}
}

static void most_are_for_connections(void **state)
{
	struct fd_plan p = plan(1024, 20000);

	assert_true(p.connections > 700);
	p = plan(131072, 20000);
	assert_int_equal(p.connections, 20000);
	assert_int_equal(p.journal_files, FD_PLAN_JOURNAL_FILES);
	p = plan(131072, 1000000);
	assert_true(p.connections > 120000);
}

static void a_limit_that_leaves_none_for_clients_is_refused(void **state)
{
	struct fd_needs n = {.limit = 50, .open = 30, .listeners = 2, .stats_clients = 48, .connections = 10};
	struct fd_plan p;
	const char *why = "";

	assert_int_equal(fd_plan_make(&n, &p, &why), -EMFILE);
	assert_non_null(strstr(why, "limit of open files is 50"));
	assert_non_null(strstr(why, "LimitNOFILE="));
	n.limit = p.reserved;
	assert_int_equal(fd_plan_make(&n, &p, &why), -EMFILE);
	n.limit++;
	assert_int_equal(fd_plan_make(&n, &p, &why), 0);
	assert_int_equal(p.connections, 1);
}

static void what_turns_out_to_be_open_is_taken_from_connections(void **state)
{
	struct fd_plan p = plan(100, 20000);
	unsigned before = p.connections;
	const char *why = "";

	assert_int_equal(fd_plan_correct(&p, 25, 20000, &why), 0);
	assert_int_equal(p.connections, before + 5);
	assert_int_equal(fd_plan_correct(&p, 32, 20000, &why), 0);
	assert_int_equal(p.connections, before - 2);
	assert_int_equal(fd_plan_correct(&p, 99, 20000, &why), -EMFILE);
}

static void open_descriptors_are_counted(void **state)
{
	uint64_t limit;

	assert_int_equal(fd_raise_limit(&limit), 0);
	assert_true(limit > 64);
	unsigned before = fd_count_open(limit);
	int low = open("/dev/null", O_RDONLY | O_CLOEXEC), high = fcntl(low, F_DUPFD_CLOEXEC, 60);

	assert_true(low >= 0 && high >= 60);
	assert_int_equal(fd_count_open(limit), before + 2);
	close(low);
	close(high);
	assert_int_equal(fd_count_open(limit), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everybody_has_a_share_and_they_add_up),
		cmocka_unit_test(most_are_for_connections),
		cmocka_unit_test(a_limit_that_leaves_none_for_clients_is_refused),
		cmocka_unit_test(what_turns_out_to_be_open_is_taken_from_connections),
		cmocka_unit_test(open_descriptors_are_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
