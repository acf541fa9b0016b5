/* Nodes, in each its cores, in each its CPUs (siblings beside each other), on each the threads that are pinned to it. Nodes, cores and CPUs come in
 * the order in which the daemon uses them. Pure. */
#include "tools/topology_view.h"

#include "core/base/check.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

struct place {
	int cpu, core, node;
};

struct view {
	FILE *f;
	const struct jread *j;
	const struct jread_node *threads;
	struct place *cpu;
	size_t n;
	bool many_nodes;
};

enum { COLUMN = 32 }; /* of a CPU with its threads */

/* A CPU, a core or a node; -1: none, or no such number. */
static int number(const struct jread *j, const struct jread_node *of, const char *key)
{
	double v = jread_number(j, of, key);
	return v >= 0 && v <= INT_MAX ? (int)v : -1;
}

static int read_cpus(struct view *v, const struct jread_node *cpus)
{
	size_t n = 0;
	for (const struct jread_node *c = jread_first(v->j, cpus); c; c = jread_next(v->j, c))
		n++;
	v->cpu = calloc(n + 1, sizeof *v->cpu);
	if (!v->cpu)
		return -ENOMEM;
	for (const struct jread_node *c = jread_first(v->j, cpus); c; c = jread_next(v->j, c))
		v->cpu[v->n++] = (struct place){number(v->j, c, "cpu"), number(v->j, c, "core"),
						number(v->j, c, "node")};
	for (size_t i = 1; i < n; i++)
		v->many_nodes |= v->cpu[i].node != v->cpu[0].node;
	return 0;
}

/* A thread's name; where its memory does not come from the node that it runs on, that too. Returns how many columns it took. */
static int put_thread(const struct view *v, const struct jread_node *t, int node)
{
	struct span name = jread_text(v->j, t, "name");
	int memory = number(v->j, t, "memory_node");
	int n = fprintf(v->f, "%.*s", (int)name.n, (const char *)name.p);
	if (v->many_nodes && node >= 0 && memory >= 0 && memory != node)
		n += fprintf(v->f, " (memory on node %d)", memory);
	return n;
}

/* The threads pinned to a CPU (-1: to none), separated by commas. Returns how many columns they took. */
static int put_threads(const struct view *v, int cpu, int node)
{
	int columns = 0;
	for (const struct jread_node *t = jread_first(v->j, v->threads); t; t = jread_next(v->j, t)) {
		if (number(v->j, t, "cpu") != cpu)
			continue;
		if (columns)
			columns += fprintf(v->f, ", ");
		columns += put_thread(v, t, node);
	}
	return columns;
}

/* The line of the core that CPU `i` is the first of. */
static void put_core(const struct view *v, size_t i)
{
	int pad = fprintf(v->f, "  core %d", v->cpu[i].core);
	fprintf(v->f, "%*s", pad < 12 ? 12 - pad : 1, "");
	pad = 0;
	for (size_t k = i; k < v->n; k++) {
		if (v->cpu[k].core != v->cpu[i].core)
			continue;
		fprintf(v->f, "%*s", pad, "");
		int columns = fprintf(v->f, "CPU %-4d ", v->cpu[k].cpu);
		int threads = put_threads(v, v->cpu[k].cpu, v->cpu[k].node);
		columns += threads ? threads : fprintf(v->f, "-");
		pad = columns < COLUMN ? COLUMN - columns : 2;
	}
	fputc('\n', v->f);
}

static bool is_first(const struct view *v, size_t i, bool of_node)
{
	for (size_t k = 0; k < i; k++) {
		if (of_node ? v->cpu[k].node == v->cpu[i].node : v->cpu[k].core == v->cpu[i].core)
			return false;
	}
	return true;
}

static void put_node(const struct view *v, size_t i)
{
	if (v->cpu[i].node >= 0)
		fprintf(v->f, "node %d\n", v->cpu[i].node);
	else
		fprintf(v->f, "node unknown\n");
	for (size_t k = i; k < v->n; k++) {
		if (v->cpu[k].node == v->cpu[i].node && is_first(v, k, false))
			put_core(v, k);
	}
}

static void put_limits(const struct view *v, const struct jread_node *topology)
{
	double quota = jread_number(v->j, topology, "quota_cpus");
	int online = number(v->j, topology, "cpus_online");
	fprintf(v->f, "CPUs: %zu in use, %d allowed by affinity and cpuset", v->n,
		number(v->j, topology, "cpus_allowed"));
	if (online)
		fprintf(v->f, ", %d online", online);
	if (quota > 0)
		fprintf(v->f, "; the cgroup's quota is %.3g CPUs\n", quota);
	else
		fprintf(v->f, "; no quota\n");
}

int topology_view(FILE *f, const struct jread *j, const struct jread_node *topology)
{
	struct view v = {.f = f, .j = j, .threads = jread_member(j, topology, "threads")};
	int r = read_cpus(&v, jread_member(j, topology, "cpus"));
	if (r)
		return r;
	put_limits(&v, topology);
	for (size_t i = 0; i < v.n; i++) {
		if (is_first(&v, i, true))
			put_node(&v, i);
	}
	fprintf(f, "not pinned: ");
	if (put_threads(&v, -1, -1) == 0)
		fprintf(f, "none");
	fputc('\n', f);
	free(v.cpu);
	return 0;
}
