/* The drawing of a topology, line for line. */
#include "tools/topology_view.h"

#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static char *drawing(const char *json)
{
	struct jread j;
	char *text;
	size_t n;
	assert_int_equal(jread_parse((struct span){(const uint8_t *)json, strlen(json)}, &j), 0);
	FILE *f = open_memstream(&text, &n);
	assert_non_null(f);
	assert_int_equal(topology_view(f, &j, j.node), 0);
	fclose(f);
	jread_done(&j);
	return text;
}

static void test_nodes_cores_siblings_and_who_is_on_them(void **state)
{
	char *text = drawing("{\"cpus_online\":16,\"cpus_allowed\":5,\"quota_cpus\":2.5,"
			     "\"cpus\":[{\"cpu\":0,\"core\":0,\"node\":0},"
			     "{\"cpu\":2,\"core\":2,\"node\":1},"
			     "{\"cpu\":4,\"core\":0,\"node\":0},"
			     "{\"cpu\":6,\"core\":2,\"node\":1},"
			     "{\"cpu\":3,\"core\":3,\"node\":1}],"
			     "\"threads\":[{\"name\":\"shard/0\",\"cpu\":0,\"memory_node\":0},"
			     "{\"name\":\"shard/1\",\"cpu\":2,\"memory_node\":0},"
			     "{\"name\":\"shard/2\",\"cpu\":4,\"memory_node\":0},"
			     "{\"name\":\"producer\",\"cpu\":6,\"memory_node\":-1},"
			     "{\"name\":\"journal\",\"cpu\":6,\"memory_node\":-1},"
			     "{\"name\":\"log\",\"cpu\":-1,\"memory_node\":-1}]}");
	assert_string_equal(
		text, "CPUs: 5 in use, 5 allowed by affinity and cpuset, 16 online; the cgroup's quota is 2.5 CPUs\n"
		      "node 0\n"
		      "  core 0    CPU 0    shard/0                CPU 4    shard/2\n"
		      "node 1\n"
		      "  core 2    CPU 2    shard/1 (memory on node 0)  CPU 6    producer, journal\n"
		      "  core 3    CPU 3    -\n"
		      "not pinned: log\n");
	free(text);
}

static void test_what_is_unknown_is_said_or_left_out(void **state)
{
	char *text = drawing("{\"cpus_online\":0,\"cpus_allowed\":1,\"quota_cpus\":0,"
			     "\"cpus\":[{\"cpu\":7,\"core\":7,\"node\":-1}],"
			     "\"threads\":[{\"name\":\"shard/0\",\"cpu\":7,\"memory_node\":-1}]}");
	assert_string_equal(text, "CPUs: 1 in use, 1 allowed by affinity and cpuset; no quota\n"
				  "node unknown\n"
				  "  core 7    CPU 7    shard/0\n"
				  "not pinned: none\n");
	free(text);
	text = drawing("{\"cpus_allowed\":1,\"cpus\":[{\"cpu\":1e300,\"core\":-1e300,\"node\":-7}],\"threads\":[]}");
	assert_non_null(strstr(text, "node unknown\n  core -1   CPU -1   -\n"));
	free(text);
	text = drawing("{}");
	assert_non_null(strstr(text, "0 in use"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nodes_cores_siblings_and_who_is_on_them),
		cmocka_unit_test(test_what_is_unknown_is_said_or_left_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
