/* Which CPUs to use: reads the affinity mask, sysfs and the cgroup's quota, and deals CPUs out.
 *
 * Invariants: every CPU in a plan is one that the process may run on, and is there once; each shard
 * has one. What the system does not tell (no sysfs in a container, a kernel without NUMA) makes the
 * order plainer, never a failure; what the operator wrote wrongly is always a failure, with the CPU
 * named.
 *
 * The quota only bounds the number of shards that nobody chose: a number in the configuration is
 * kept, and topo_describe says that it is above the quota. Cgroups of both versions are read; a
 * limit of any ancestor counts.
 *
 * topo_plan runs on the main thread at start; the calls for `self` on the thread that they are
 * about. */
#include "core/topo.h"

#include "core/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <numaif.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX 32768 /* of a list in sysfs: 8192 CPUs, every other one */
#define NODES_MAX 1024

struct cpu_set {
	cpu_set_t bits[TOPO_CPUS_MAX / CPU_SETSIZE];
};

struct cpu_info {
	int cpu;
	int node; /* -1: unknown */
	int core; /* lowest allowed CPU of the same core; itself when unknown */
	int rank; /* how many allowed CPUs of its core come before it */
};

/* What the plan is made from. */
struct machine {
	struct cpu_set allowed;
	unsigned count;
	struct cpu_info cpu[TOPO_CPUS_MAX];
};

static char why[512];

__attribute__((format(printf, 2, 3))) static int explain(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	return err;
}

static bool set_has(const struct cpu_set *s, int cpu)
{
	return CPU_ISSET_S((size_t)cpu, sizeof s->bits, s->bits);
}

static void set_add(struct cpu_set *s, int cpu)
{
	CPU_SET_S((size_t)cpu, sizeof s->bits, s->bits);
}

/* ---- Lists ---- */

/* A number below TOPO_CPUS_MAX at *s, which is moved behind it; or -1. */
static int parse_number(const char **s)
{
	int v = 0;

	if (**s < '0' || **s > '9')
		return -1;
	for (; **s >= '0' && **s <= '9'; (*s)++) {
		v = v * 10 + (**s - '0');
		if (v >= TOPO_CPUS_MAX)
			return -1;
	}
	return v;
}

/* Reads "0-3,8" into `cpus`, which has room for TOPO_CPUS_MAX, in the order written, and sets `ret_set`. A newline may
 * end it. Returns how many, or -EINVAL, and says why. */
static int parse_list(const char *list, int *cpus, struct cpu_set *ret_set)
{
	const char *s = list;
	int n = 0;

	memset(ret_set, 0, sizeof *ret_set);
	while (*s != 0 && *s != '\n') {
		const char *at = s;
		int first = parse_number(&s), last = first;

		if (first >= 0 && *s == '-') {
			s++;
			last = parse_number(&s);
		}
		if (first < 0 || last < first || (*s != ',' && *s != 0 && *s != '\n') || (*s == ',' && s[1] == 0))
			return explain(-EINVAL, "\"%.100s\" is not a list of CPUs such as 0-3,8: stopped at \"%.20s\"",
				       list, at);
		for (int cpu = first; cpu <= last; cpu++) {
			if (set_has(ret_set, cpu))
				return explain(-EINVAL, "\"%.100s\" names CPU %d twice", list, cpu);
			set_add(ret_set, cpu);
			cpus[n++] = cpu;
		}
		if (*s == ',')
			s++;
	}
	return n;
}

/* Appends "0-3,8" for n CPUs in their order to buf at `len`; returns the new length. Cut where buf ends. */
static size_t format_list(char *buf, size_t cap, size_t len, const int *cpus, unsigned n)
{
	for (unsigned i = 0, j; i < n && len < cap; i = j) {
		int put;

		for (j = i + 1; j < n && cpus[j] == cpus[j - 1] + 1;)
			j++;
		if (j - i > 1)
			put = snprintf(buf + len, cap - len, "%s%d-%d", i > 0 ? "," : "", cpus[i], cpus[j - 1]);
		else
			put = snprintf(buf + len, cap - len, "%s%d", i > 0 ? "," : "", cpus[i]);
		len += put > 0 ? (size_t)put : 0;
	}
	return len < cap ? len : cap - 1;
}

/* ---- What the system says ---- */

/* The text of a small file, or false. */
static bool read_text(char *buf, size_t cap, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, cap - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n > 0;
}

static int read_allowed(struct machine *m, const struct topo_opts *opts)
{
	static int list[TOPO_CPUS_MAX];

	if (opts->allowed != NULL) {
		if (parse_list(opts->allowed, list, &m->allowed) < 0)
			return -EINVAL;
	} else {
		memset(&m->allowed, 0, sizeof m->allowed);
		if (sched_getaffinity(0, sizeof m->allowed.bits, m->allowed.bits) != 0)
			return explain(-errno, "cannot read the process's CPU affinity: %s", strerror(errno));
	}
	m->count = 0;
	for (int cpu = 0; cpu < TOPO_CPUS_MAX; cpu++)
		if (set_has(&m->allowed, cpu))
			m->cpu[m->count++] = (struct cpu_info){.cpu = cpu, .node = -1, .core = cpu};
	if (m->count == 0)
		return explain(-EINVAL, "this process may not run on any CPU");
	return 0;
}

static void read_cores(struct machine *m, const char *root)
{
	static int list[TOPO_CPUS_MAX];
	static char text[FILE_MAX];
	char path[PATH_MAX];
	struct cpu_set siblings;

	for (unsigned i = 0; i < m->count; i++) {
		struct cpu_info *c = &m->cpu[i];
		int n;

		snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root,
			 c->cpu);
		if (!read_text(text, sizeof text, path))
			continue;
		n = parse_list(text, list, &siblings);
		for (int k = 0; k < n; k++) {
			if (list[k] >= c->cpu || !set_has(&m->allowed, list[k]))
				continue;
			c->rank++;
			if (list[k] < c->core)
				c->core = list[k];
		}
	}
}

static void read_nodes(struct machine *m, const char *root)
{
	static int nodes[TOPO_CPUS_MAX], list[TOPO_CPUS_MAX];
	static char text[FILE_MAX];
	char path[PATH_MAX];
	struct cpu_set set;
	int n;

	snprintf(path, sizeof path, "%s/sys/devices/system/node/online", root);
	if (!read_text(text, sizeof text, path))
		return;
	n = parse_list(text, nodes, &set);
	for (int k = 0; k < n; k++) {
		snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d/cpulist", root, nodes[k]);
		if (!read_text(text, sizeof text, path) || parse_list(text, list, &set) < 0)
			continue;
		for (unsigned i = 0; i < m->count; i++)
			if (set_has(&set, m->cpu[i].cpu))
				m->cpu[i].node = nodes[k];
	}
}

/* A quota and its period, both in microseconds. Thousandths of a CPU, or 0 for no limit. */
static uint32_t milli_of(const char *quota_text, const char *period_text)
{
	unsigned long long quota, period, milli;

	if (quota_text[0] < '0' || quota_text[0] > '9')
		return 0;
	quota = strtoull(quota_text, NULL, 10);
	period = strtoull(period_text, NULL, 10);
	if (period == 0 || quota > ULLONG_MAX / 1000)
		return 0;
	milli = quota * 1000 / period;
	return milli == 0 ? 1 : milli > UINT32_MAX ? 0 : (uint32_t)milli;
}

/* Of cgroups of version 2: cpu.max in the folder `dir`, "150000 100000" or "max 100000". As
 * milli_of. */
static uint32_t read_cpu_max(const char *dir)
{
	char path[2 * PATH_MAX + 16], text[64];

	snprintf(path, sizeof path, "%s/cpu.max", dir);
	return read_text(text, sizeof text, path) ? milli_of(text, text + strcspn(text, " ")) : 0;
}

/* Of cgroups of version 1: cpu.cfs_quota_us, -1 for none, and cpu.cfs_period_us, in the folder
 * `dir`. As read_cpu_max. */
static uint32_t read_cfs_quota(const char *dir)
{
	char path[2 * PATH_MAX + 64], quota[64], period[64];

	snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
	if (!read_text(quota, sizeof quota, path))
		return 0;
	snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
	return read_text(period, sizeof period, path) ? milli_of(quota, period) : 0;
}

static uint32_t tighter(uint32_t a, uint32_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The tightest limit of `group` and its ancestors, in the hierarchy that is mounted at `mount`. */
static uint32_t read_hierarchy(const char *mount, const char *group, uint32_t (*read_one)(const char *dir))
{
	char dir[2 * PATH_MAX], at[PATH_MAX];
	uint32_t best = 0;

	/* A path that leaves the cgroup namespace cannot be followed; its root can. */
	snprintf(at, sizeof at, "%s", strstr(group, "/..") != NULL ? "" : group);
	for (;;) {
		char *slash;

		snprintf(dir, sizeof dir, "%s%s", mount, at);
		best = tighter(best, read_one(dir));
		slash = strrchr(at, '/');
		if (slash == NULL)
			return best;
		*slash = 0;
	}
}

/* Whether a comma-separated list of controllers has "cpu". */
static bool has_cpu(const char *list, size_t n)
{
	for (size_t at = 0, len; at < n; at += len + 1) {
		len = strcspn(list + at, ",:");
		if (len == 3 && memcmp(list + at, "cpu", 3) == 0)
			return true;
	}
	return false;
}

/* The tightest limit that one line of /proc/self/cgroup leads to: "0::/path" of version 2,
 * "4:cpu,cpuacct:/path" of version 1. */
static uint32_t read_group(const char *root, const char *line)
{
	char mount[PATH_MAX];
	const char *list = strchr(line, ':');
	const char *path = list != NULL ? strchr(list + 1, ':') : NULL;
	uint32_t v1;

	if (path == NULL || path[1] != '/')
		return 0;
	list++;
	if (list == path) {
		snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
		return read_hierarchy(mount, path + 1, read_cpu_max);
	}
	if (!has_cpu(list, (size_t)(path - list)))
		return 0;
	/* The folder has the name of its controllers; "cpu" alone is a link to it, or the folder
	 * itself. */
	snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%.*s", root, (int)(path - list), list);
	v1 = read_hierarchy(mount, path + 1, read_cfs_quota);
	snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/cpu", root);
	return tighter(v1, read_hierarchy(mount, path + 1, read_cfs_quota));
}

/* The tightest limit of the process's cgroups and their ancestors. */
static uint32_t read_quota(const char *root)
{
	char text[PATH_MAX], path[PATH_MAX], *rest = text, *line;
	uint32_t best = 0;

	snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
	if (!read_text(text, sizeof text, path))
		return 0;
	while ((line = strsep(&rest, "\n")) != NULL)
		best = tighter(best, read_group(root, line));
	return best;
}

/* How many CPUs the machine has; 0: unknown. */
static unsigned read_online(const char *root)
{
	static int list[TOPO_CPUS_MAX];
	static char text[FILE_MAX];
	char path[PATH_MAX];
	struct cpu_set set;
	int n;

	snprintf(path, sizeof path, "%s/sys/devices/system/cpu/online", root);
	n = read_text(text, sizeof text, path) ? parse_list(text, list, &set) : 0;
	return n > 0 ? (unsigned)n : 0;
}

/* ---- The plan ---- */

static int by_use(const void *va, const void *vb)
{
	const struct cpu_info *a = va, *b = vb;

	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->node != b->node)
		return a->node < b->node ? -1 : 1;
	return a->cpu < b->cpu ? -1 : a->cpu > b->cpu;
}

static int not_allowed(const struct machine *m, int cpu)
{
	static int list[TOPO_CPUS_MAX];
	char allowed[256];

	for (unsigned i = 0; i < m->count; i++)
		list[i] = m->cpu[i].cpu;
	format_list(allowed, sizeof allowed, 0, list, m->count);
	return explain(-EINVAL, "CPU %d is not among those that this process may run on (%s)", cpu, allowed);
}

/* Puts the CPUs to use, in the order of use, at the front of m->cpu. */
static int choose(struct machine *m, const char *cpus)
{
	static struct cpu_info chosen[TOPO_CPUS_MAX];
	static int list[TOPO_CPUS_MAX];
	struct cpu_set set;
	int n;

	if (cpus == NULL || cpus[0] == 0) {
		qsort(m->cpu, m->count, sizeof m->cpu[0], by_use);
		return 0;
	}
	n = parse_list(cpus, list, &set);
	if (n < 0)
		return n;
	if (n == 0)
		return explain(-EINVAL, "\"%.100s\" names no CPU", cpus);
	for (int i = 0; i < n; i++) {
		if (!set_has(&m->allowed, list[i]))
			return not_allowed(m, list[i]);
		for (unsigned k = 0; k < m->count; k++)
			if (m->cpu[k].cpu == list[i])
				chosen[i] = m->cpu[k];
	}
	m->count = (unsigned)n;
	memcpy(m->cpu, chosen, m->count * sizeof chosen[0]);
	return 0;
}

static unsigned count_distinct(const struct machine *m, bool nodes)
{
	static bool seen[TOPO_CPUS_MAX];
	unsigned n = 0;

	memset(seen, 0, sizeof seen);
	for (unsigned i = 0; i < m->count; i++) {
		int key = !nodes ? m->cpu[i].core : m->cpu[i].node < 0 ? 0 : m->cpu[i].node;

		n += !seen[key];
		seen[key] = true;
	}
	return n;
}

static uint32_t ceil_milli(uint32_t milli)
{
	return milli / 1000 + (milli % 1000 != 0);
}

static unsigned default_shards(const struct machine *m, uint32_t quota_milli)
{
	unsigned n = m->count < TOPO_SHARDS_MAX ? m->count : TOPO_SHARDS_MAX;
	uint32_t quota = ceil_milli(quota_milli);

	return quota != 0 && quota < n ? quota : n;
}

static void deal(const struct machine *m, const struct topo_opts *opts, struct topo *t)
{
	unsigned spare;

	for (unsigned i = 0; i < t->shards; i++) {
		const struct cpu_info *c = &m->cpu[i % m->count];

		t->shard[i] = (struct topo_place){.cpu = c->cpu, .node = opts->numa ? c->node : -1};
	}
	t->producer_cpu = t->journal_cpu = t->log_cpu = -1;
	if (t->shards < m->count) {
		spare = m->count - t->shards;
		t->producer_cpu = m->cpu[t->shards].cpu;
		t->journal_cpu = m->cpu[t->shards + 1 % spare].cpu;
		t->log_cpu = m->cpu[t->shards + 2 % spare].cpu;
	}
	for (unsigned i = 0; i < m->count; i++) {
		const struct cpu_info *c = &m->cpu[i];

		CPU_SET_S((size_t)c->cpu, sizeof t->mask, t->mask);
		t->cpu[i] = (struct topo_cpu){(int16_t)c->cpu, (int16_t)c->core, (int16_t)c->node};
	}
}

int topo_plan(const struct topo_opts *opts, struct topo *ret, const char **ret_why)
{
	const char *root = opts->root != NULL ? opts->root : "";
	struct machine *m = malloc(sizeof *m);
	struct topo t = {0};
	int err;

	if (ret_why != NULL)
		*ret_why = why;
	if (m == NULL)
		return explain(-ENOMEM, "out of memory");
	err = read_allowed(m, opts);
	if (err < 0)
		goto out;
	read_cores(m, root);
	read_nodes(m, root);
	t.online = read_online(root);
	t.allowed = m->count;
	err = choose(m, opts->cpus);
	if (err < 0)
		goto out;
	t.quota_milli = read_quota(root);
	t.shards = opts->shards != 0 ? opts->shards : default_shards(m, t.quota_milli);
	if (t.shards > TOPO_SHARDS_MAX) {
		err = explain(-EINVAL, "%u shards are more than the %d that there can be", t.shards, TOPO_SHARDS_MAX);
		goto out;
	}
	t.cpus = m->count;
	t.cores = count_distinct(m, false);
	t.nodes = count_distinct(m, true);
	deal(m, opts, &t);
	*ret = t;
out:
	free(m);
	return err;
}

/* ---- Taking one's place ---- */

int topo_confine_self(const struct topo *t)
{
	return sched_setaffinity(0, sizeof t->mask, t->mask) == 0 ? 0 : -errno;
}

int topo_pin_self(int cpu)
{
	struct cpu_set set = {0};

	if (cpu < 0)
		return 0;
	if (cpu >= TOPO_CPUS_MAX)
		return -EINVAL;
	set_add(&set, cpu);
	return sched_setaffinity(0, sizeof set.bits, set.bits) == 0 ? 0 : -errno;
}

int topo_bind_memory_self(int node)
{
	unsigned long mask[NODES_MAX / (8 * sizeof(unsigned long))] = {0};

	if (node < 0)
		return 0;
	if (node >= NODES_MAX - 1)
		return -EINVAL;
	mask[(size_t)node / (8 * sizeof mask[0])] |= 1ul << ((size_t)node % (8 * sizeof mask[0]));
	return set_mempolicy(MPOL_PREFERRED, mask, NODES_MAX) == 0 ? 0 : -errno;
}

__attribute__((format(printf, 4, 5))) static size_t append(char *buf, size_t cap, size_t len, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf + len, cap - len, fmt, ap);
	va_end(ap);
	len += n > 0 ? (size_t)n : 0;
	return len < cap ? len : cap - 1;
}

static const char *plural(unsigned n)
{
	return n == 1 ? "" : "s";
}

const char *topo_describe(const struct topo *t, char *buf, size_t cap)
{
	int cpus[TOPO_SHARDS_MAX];
	unsigned distinct = t->shards < t->cpus ? t->shards : t->cpus;
	size_t len;

	CHECK(cap > 0);
	for (unsigned i = 0; i < distinct; i++)
		cpus[i] = t->shard[i].cpu;
	len = append(buf, cap, 0, "%u shard%s on CPU%s ", t->shards, plural(t->shards), plural(distinct));
	len = format_list(buf, cap, len, cpus, distinct);
	len = append(buf, cap, len, " (of %u CPU%s, %u core%s, %u node%s)", t->cpus, plural(t->cpus), t->cores,
		     plural(t->cores), t->nodes, plural(t->nodes));
	if (t->producer_cpu >= 0)
		len = append(buf, cap, len, ", producer on %d, journal on %d, log on %d", t->producer_cpu,
			     t->journal_cpu, t->log_cpu);
	if (t->quota_milli != 0)
		len = append(buf, cap, len, ", CPU quota %u.%03u", t->quota_milli / 1000, t->quota_milli % 1000);
	if (t->quota_milli != 0 && t->shards > ceil_milli(t->quota_milli))
		append(buf, cap, len, " (fewer than shards)");
	return buf;
}
