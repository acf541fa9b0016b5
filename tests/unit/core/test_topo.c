/* Plans made from trees of /sys and /proc that the tests write, and the calls that take a place on this very machine.
 * */
#include "core/topo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];
static struct topo t;
static const char *why;

static int setup(void **state)
{
	snprintf(root, sizeof root, "/tmp/test_topo.XXXXXX");
	why = NULL;
	memset(&t, 0x5a, sizeof t);
	return mkdtemp(root) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", root);
	return system(cmd) == 0 ? 0 : -1;
}

__attribute__((format(printf, 2, 3))) static void put(const char *text, const char *fmt, ...)
{
	char path[512];
	size_t n;
	va_list ap;
	FILE *f;

	n = (size_t)snprintf(path, sizeof path, "%s/", root);
	va_start(ap, fmt);
	vsnprintf(path + n, sizeof path - n, fmt, ap);
	va_end(ap);
	for (char *p = path + n; (p = strchr(p, '/')) != NULL; p++) {
		*p = 0;
		mkdir(path, 0700);
		*p = '/';
	}
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void put_siblings(const char *list, const int *cpus, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put(list, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpus[i]);
}

#define SIBLINGS(a, b) put_siblings(#a "," #b "\n", (const int[]){a, b}, 2)

/* As most Intel machines count: first threads of all cores, then the second ones; two nodes of two cores. */
static void two_nodes(void)
{
	SIBLINGS(0, 4);
	SIBLINGS(1, 5);
	SIBLINGS(2, 6);
	SIBLINGS(3, 7);
	put("0-1\n", "sys/devices/system/node/online");
	put("0-1,4-5\n", "sys/devices/system/node/node0/cpulist");
	put("2-3,6-7\n", "sys/devices/system/node/node1/cpulist");
}

/* Threads of a core beside each other. */
static void two_nodes_adjacent(void)
{
	put_siblings("0-1\n", (const int[]){0, 1}, 2);
	put_siblings("2-3\n", (const int[]){2, 3}, 2);
	put_siblings("4-5\n", (const int[]){4, 5}, 2);
	put_siblings("6-7\n", (const int[]){6, 7}, 2);
	put("0-1\n", "sys/devices/system/node/online");
	put("0-3\n", "sys/devices/system/node/node0/cpulist");
	put("4-7\n", "sys/devices/system/node/node1/cpulist");
}

static int plan(const char *allowed, const char *cpus, unsigned shards)
{
	struct topo_opts o = {.cpus = cpus, .shards = shards, .numa = true, .root = root, .allowed = allowed};

	return topo_plan(&o, &t, &why);
}

static void check_shards(unsigned n, const int *cpus)
{
	assert_int_equal(t.shards, n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(t.shard[i].cpu, cpus[i]);
}

#define CHECK_SHARDS(...) check_shards(sizeof((int[]){__VA_ARGS__}) / sizeof(int), (const int[]){__VA_ARGS__})

static void test_one_shard_a_cpu_cores_first_nodes_together(void **state)
{
	two_nodes();
	assert_int_equal(plan("0-7", "", 0), 0);
	CHECK_SHARDS(0, 1, 2, 3, 4, 5, 6, 7);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(t.shard[i].node, i / 2 % 2);
	assert_int_equal(t.cpus, 8);
	assert_int_equal(t.cores, 4);
	assert_int_equal(t.nodes, 2);
	assert_int_equal(t.producer_cpu, -1);
	assert_int_equal(t.journal_cpu, -1);
	assert_int_equal(t.log_cpu, -1);
	assert_int_equal(t.quota_milli, 0);
}

static void test_the_plan_tells_where_each_cpu_is(void **state)
{
	two_nodes();
	put("0-15\n", "sys/devices/system/cpu/online");
	assert_int_equal(plan("0-6", "6,2,1", 1), 0);
	assert_int_equal(t.online, 16);
	assert_int_equal(t.allowed, 7);
	assert_int_equal(t.cpus, 3);
	for (unsigned i = 0; i < t.cpus; i++) {
		static const struct topo_cpu is[] = {{6, 2, 1}, {2, 2, 1}, {1, 1, 0}};

		assert_int_equal(t.cpu[i].cpu, is[i].cpu);
		assert_int_equal(t.cpu[i].core, is[i].core);
		assert_int_equal(t.cpu[i].node, is[i].node);
	}
	assert_int_equal(t.producer_cpu, 2);
	assert_int_equal(t.journal_cpu, 1);
	assert_int_equal(t.log_cpu, 2);
}

static void test_second_threads_come_last_however_they_are_numbered(void **state)
{
	two_nodes_adjacent();
	assert_int_equal(plan("0-7", NULL, 0), 0);
	CHECK_SHARDS(0, 2, 4, 6, 1, 3, 5, 7);
	assert_int_equal(plan("0-7", NULL, 4), 0);
	CHECK_SHARDS(0, 2, 4, 6);
}

static void test_nodes_that_interleave_are_grouped(void **state)
{
	SIBLINGS(0, 4);
	SIBLINGS(1, 5);
	SIBLINGS(2, 6);
	SIBLINGS(3, 7);
	put("0-1\n", "sys/devices/system/node/online");
	put("0,2,4,6\n", "sys/devices/system/node/node0/cpulist");
	put("1,3,5,7\n", "sys/devices/system/node/node1/cpulist");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	CHECK_SHARDS(0, 2, 1, 3, 4, 6, 5, 7);
	assert_int_equal(t.shard[1].node, 0);
	assert_int_equal(t.shard[2].node, 1);
}

static void test_affinity_mask_is_respected(void **state)
{
	two_nodes();
	assert_int_equal(plan("2,4,6-7", NULL, 0), 0);
	/* CPU 4 is the only thread of its core here, so it is no second thread; 6 is one, after 2. */
	CHECK_SHARDS(4, 2, 7, 6);
	assert_int_equal(t.cpus, 4);
	assert_int_equal(t.cores, 3);
	assert_int_equal(t.nodes, 2);
}

static void test_a_list_is_taken_in_its_order(void **state)
{
	two_nodes();
	assert_int_equal(plan("0-7", "6,0-2", 0), 0);
	CHECK_SHARDS(6, 0, 1, 2);
	assert_int_equal(t.shard[0].node, 1);
	assert_int_equal(t.shard[1].node, 0);
	assert_int_equal(t.cpus, 4);
	assert_int_equal(t.cores, 3); /* 2 and 6 share one */
}

static void test_spare_cpus_go_to_the_other_threads(void **state)
{
	two_nodes();
	assert_int_equal(plan("0-7", NULL, 4), 0);
	assert_int_equal(t.producer_cpu, 4);
	assert_int_equal(t.journal_cpu, 5);
	assert_int_equal(t.log_cpu, 6);
	assert_int_equal(plan("0-7", NULL, 6), 0);
	assert_int_equal(t.producer_cpu, 6);
	assert_int_equal(t.journal_cpu, 7);
	assert_int_equal(t.log_cpu, 6);
	assert_int_equal(plan("0-7", "1-3", 2), 0); /* not those outside of the list */
	assert_int_equal(t.producer_cpu, 3);
	assert_int_equal(t.journal_cpu, 3);
	assert_int_equal(t.log_cpu, 3);
}

static void test_more_shards_than_cpus_go_round(void **state)
{
	assert_int_equal(plan("0-1", NULL, 5), 0);
	CHECK_SHARDS(0, 1, 0, 1, 0);
	assert_int_equal(t.producer_cpu, -1);
	assert_int_equal(plan("0-1", NULL, TOPO_SHARDS_MAX), 0);
	assert_int_equal(plan("0-1", NULL, TOPO_SHARDS_MAX + 1), -EINVAL);
	assert_non_null(strstr(why, "65"));
	assert_non_null(strstr(why, "64"));
}

static void test_default_stops_at_the_most_shards_there_can_be(void **state)
{
	assert_int_equal(plan("0-199", NULL, 0), 0);
	assert_int_equal(t.shards, TOPO_SHARDS_MAX);
	assert_int_equal(t.producer_cpu, 64);
}

static void test_without_sysfs_there_is_still_a_plan(void **state)
{
	assert_int_equal(plan("1,3", NULL, 0), 0);
	CHECK_SHARDS(1, 3);
	assert_int_equal(t.shard[0].node, -1);
	assert_int_equal(t.cores, 2);
	assert_int_equal(t.nodes, 1);
}

static void test_numa_off_names_no_node(void **state)
{
	struct topo_opts o = {.root = root, .allowed = "0-7"};

	two_nodes();
	assert_int_equal(topo_plan(&o, &t, NULL), 0);
	for (unsigned i = 0; i < t.shards; i++)
		assert_int_equal(t.shard[i].node, -1);
}

static void test_cpu_outside_the_mask_is_refused_by_name(void **state)
{
	struct topo before = t;

	assert_int_equal(plan("0-3,8", "0,5", 0), -EINVAL);
	assert_non_null(strstr(why, "CPU 5"));
	assert_non_null(strstr(why, "0-3,8"));
	assert_memory_equal(&t, &before, sizeof t); /* untouched on failure */
}

static void test_bad_lists_are_refused(void **state)
{
	static const char *const bad[] = {"x",   "0,x",   "0-",          "-1",   "3-1",     "0,,1", "0,", ",0", "0 1",
					  "0;1", "1-2-3", "99999999999", "8192", "0-99999", "0x1",  "\n", " "};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		why = NULL;
		assert_int_equal(plan("0-7", bad[i], 0), -EINVAL);
		assert_non_null(why);
		assert_non_null(strstr(why, bad[i]));
	}
	assert_int_equal(plan("0-7", "0-3,2", 0), -EINVAL);
	assert_non_null(strstr(why, "CPU 2 twice"));
}

static void test_quota_bounds_the_default(void **state)
{
	put("0::/a/b\n", "proc/self/cgroup");
	put("250000 100000\n", "sys/fs/cgroup/a/b/cpu.max");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 2500);
	assert_int_equal(t.shards, 3);
	assert_int_equal(t.producer_cpu, 3);
	assert_int_equal(plan("0-1", NULL, 0), 0);
	assert_int_equal(t.shards, 2); /* fewer CPUs than quota */
	assert_int_equal(plan("0-7", NULL, 6), 0);
	assert_int_equal(t.shards, 6); /* a number that somebody chose stays */
}

static void test_tightest_quota_of_all_ancestors_counts(void **state)
{
	put("12:cpuset:/x\n1:name=systemd:/y\n0::/a/b\n", "proc/self/cgroup");
	put("max 100000\n", "sys/fs/cgroup/a/b/cpu.max");
	put("100000 50000\n", "sys/fs/cgroup/a/cpu.max");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 2000);
	put("10000 100000\n", "sys/fs/cgroup/cpu.max"); /* the root of a container's namespace */
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 100);
	assert_int_equal(t.shards, 1);
}

static void test_no_or_unreadable_quota_is_none(void **state)
{
	static const char *const texts[] = {"max 100000\n", "", "garbage", "100000", "100000 0\n", "-1 100000\n"};

	put("0::/\n", "proc/self/cgroup");
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		put(texts[i], "sys/fs/cgroup/cpu.max");
		assert_int_equal(plan("0-7", NULL, 0), 0);
		assert_int_equal(t.quota_milli, 0);
		assert_int_equal(t.shards, 8);
	}
	put("0::/../elsewhere\n", "proc/self/cgroup");
	put("300000 100000\n", "sys/fs/cgroup/cpu.max");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 3000);
}

static void test_a_quota_of_cgroups_version_1_was_not_seen(void **state)
{
	put("9:memory:/d/c\n4:cpu,cpuacct:/d/c\n0::/x\n", "proc/self/cgroup");
	put("-1\n", "sys/fs/cgroup/cpu,cpuacct/d/c/cpu.cfs_quota_us");
	put("100000\n", "sys/fs/cgroup/cpu,cpuacct/d/c/cpu.cfs_period_us");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 0);
	put("150000\n", "sys/fs/cgroup/cpu,cpuacct/d/c/cpu.cfs_quota_us");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 1500);
	assert_int_equal(t.shards, 2);
	/* A container's own group is the root of what is mounted there, while its path is the
	 * host's. */
	put("50000\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us");
	put("50000\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 1000);
}

static void test_both_versions_of_cgroups_count(void **state)
{
	put("2:cpuset,cpu:/a\n3:cpuset:/b\n0::/c\n", "proc/self/cgroup");
	put("300000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us");
	put("100000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us");
	put("100000\n", "sys/fs/cgroup/cpuset/b/cpu.cfs_quota_us"); /* not of this controller */
	put("100000\n", "sys/fs/cgroup/cpuset/b/cpu.cfs_period_us");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 3000);
	put("200000 100000\n", "sys/fs/cgroup/c/cpu.max");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	assert_int_equal(t.quota_milli, 2000);
}

static void test_description(void **state)
{
	char buf[256], small[20];

	two_nodes();
	put("0::/\n", "proc/self/cgroup");
	put("250000 100000\n", "sys/fs/cgroup/cpu.max");
	assert_int_equal(plan("0-7", NULL, 0), 0);
	topo_describe(&t, buf, sizeof buf);
	assert_string_equal(buf, "3 shards on CPUs 0-2 (of 8 CPUs, 4 cores, 2 nodes), "
				 "producer on 3, journal on 4, log on 5, CPU quota 2.500");
	assert_int_equal(plan("0-7", "7,1,2", 4), 0);
	topo_describe(&t, buf, sizeof buf);
	assert_string_equal(buf, "4 shards on CPUs 7,1-2 (of 3 CPUs, 3 cores, 2 nodes), "
				 "CPU quota 2.500 (fewer than shards)");
	assert_int_equal(plan("3", NULL, 0), 0);
	topo_describe(&t, buf, sizeof buf);
	assert_string_equal(buf, "1 shard on CPU 3 (of 1 CPU, 1 core, 1 node), CPU quota 2.500");
	assert_string_equal(topo_describe(&t, small, sizeof small), "1 shard on CPU 3 (o");
}

/* ---- This machine ---- */

static void test_real_mask_is_the_default(void **state)
{
	struct topo_opts o = {.numa = true};
	cpu_set_t set;

	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(topo_plan(&o, &t, &why), 0);
	assert_int_equal(t.cpus, CPU_COUNT(&set));
	assert_true(t.shards >= 1 && t.shards <= t.cpus);
	for (unsigned i = 0; i < t.shards; i++)
		assert_true(CPU_ISSET(t.shard[i].cpu, &set));
	assert_true(t.cores >= 1 && t.cores <= t.cpus);
	assert_true(t.nodes >= 1 && t.nodes <= t.cpus);
}

static void *take_a_place(void *arg)
{
	cpu_set_t set;
	int err;

	assert_int_equal(topo_pin_self(-1), 0); /* changes nothing */
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(CPU_COUNT(&set), t.cpus);

	assert_int_equal(topo_pin_self(t.shard[0].cpu), 0);
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(CPU_COUNT(&set), 1);
	assert_true(CPU_ISSET(t.shard[0].cpu, &set));
	assert_int_equal(sched_getcpu(), t.shard[0].cpu);

	assert_int_equal(topo_pin_self(TOPO_CPUS_MAX), -EINVAL);
	assert_int_equal(topo_pin_self(TOPO_CPUS_MAX - 1), -EINVAL); /* no such CPU here */

	assert_int_equal(topo_confine_self(&t), 0); /* and back to all of the plan */
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(CPU_COUNT(&set), t.cpus);

	assert_int_equal(topo_bind_memory_self(-1), 0);
	assert_int_equal(topo_bind_memory_self(100000), -EINVAL);
	err = topo_bind_memory_self(t.shard[0].node);
	assert_true(err == 0 || err == -ENOSYS || err == -EPERM); /* containers may forbid it */
	if (err == 0 && t.shard[0].node >= 0)
		assert_int_equal(topo_bind_memory_self(1000), -EINVAL); /* no such node here */
	return NULL;
}

static void test_taking_a_place(void **state)
{
	struct topo_opts o = {.numa = true};
	pthread_t thread;

	assert_int_equal(topo_plan(&o, &t, &why), 0);
	assert_int_equal(pthread_create(&thread, NULL, take_a_place, NULL), 0);
	pthread_join(thread, NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_shard_a_cpu_cores_first_nodes_together),
		TEST(test_the_plan_tells_where_each_cpu_is),
		TEST(test_second_threads_come_last_however_they_are_numbered),
		TEST(test_nodes_that_interleave_are_grouped),
		TEST(test_affinity_mask_is_respected),
		TEST(test_a_list_is_taken_in_its_order),
		TEST(test_spare_cpus_go_to_the_other_threads),
		TEST(test_more_shards_than_cpus_go_round),
		TEST(test_default_stops_at_the_most_shards_there_can_be),
		TEST(test_without_sysfs_there_is_still_a_plan),
		TEST(test_numa_off_names_no_node),
		TEST(test_cpu_outside_the_mask_is_refused_by_name),
		TEST(test_bad_lists_are_refused),
		TEST(test_quota_bounds_the_default),
		TEST(test_tightest_quota_of_all_ancestors_counts),
		TEST(test_no_or_unreadable_quota_is_none),
		TEST(test_a_quota_of_cgroups_version_1_was_not_seen),
		TEST(test_both_versions_of_cgroups_count),
		TEST(test_description),
		TEST(test_real_mask_is_the_default),
		TEST(test_taking_a_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
