/* Which CPUs to use, and for what: a plan made once at start, and the calls by which each thread takes its place.
 *
 * The CPUs are those that the process may run on (so taskset(1) and cpusets are respected), or those of them that a
 * list names. Without a list, one thread of every core comes before any core's second one, and CPUs of a NUMA node come
 * together; a list keeps its own order. Shards take CPUs from the front; what is left over is spare, for the producer,
 * the journal and the log.
 * Source: cpuset(7) for lists; Documentation/ABI/stable/sysfs-devices-node, sysfs-devices-system-cpu; cgroups(7),
 * cpu.max.
 */
#ifndef ORDINAL_CORE_TOPO_H
#define ORDINAL_CORE_TOPO_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOPO_SHARDS_MAX 64
#define TOPO_CPUS_MAX 8192 /* the most that Linux can be built for */

struct topo_opts {
	const char *cpus; /* "0-3,8", in the order of use; NULL or "": all CPUs that the process may run on */
	unsigned shards;  /* 0: one a CPU, but no more than the cgroup's CPU quota, rounded up, and TOPO_SHARDS_MAX */
	bool numa;        /* name memory nodes in the plan */
	/* For tests: a directory that stands for /, and the affinity mask as a list. NULL: the real ones. */
	const char *root;
	const char *allowed;
};

struct topo_place {
	int cpu;
	int node; /* memory node of the CPU; -1: unknown, or numa is off */
};

struct topo_cpu {
	int16_t cpu;
	int16_t core; /* lowest CPU of the same core that the process may run on; itself when unknown */
	int16_t node; /* -1: unknown */
};

struct topo {
	unsigned shards;
	struct topo_place shard[TOPO_SHARDS_MAX]; /* more shards than CPUs: round and round */
	int producer_cpu, journal_cpu, log_cpu;   /* spare CPUs, shared if fewer than three; -1: none, do not pin */
	unsigned online;                          /* CPUs of the machine; 0: unknown */
	unsigned allowed;                         /* those of them that the process may run on */
	unsigned cpus;                            /* CPUs in use, spare ones included */
	unsigned cores;                           /* cores that they belong to; as many as CPUs when SMT is unknown */
	unsigned nodes;                           /* NUMA nodes that they belong to; 1 when unknown */
	uint32_t quota_milli;                     /* the cgroup's CPU quota in thousandths of a CPU; 0: none */
	cpu_set_t mask[TOPO_CPUS_MAX / CPU_SETSIZE]; /* the same CPUs, for topo_confine_self */
	struct topo_cpu cpu[TOPO_CPUS_MAX];          /* the same CPUs, in the order of use */
};

/* Makes the plan. 0; -EINVAL the list cannot be read, names a CPU twice, or one that the process may not run on, or
 * there are too many shards; other -errno when the mask cannot be read. *ret_why (if not NULL) is set to a sentence for
 * people on failure, valid until the next call. What sysfs does not tell is taken as: no SMT, one node, no quota. Main
 * thread, before any pinning. */
int topo_plan(const struct topo_opts *opts, struct topo *ret, const char **ret_why);

/* Confines the calling thread, and those that it will start, to the plan's CPUs. 0 or -errno. Main thread, at start. */
int topo_confine_self(const struct topo *t);
/* Pins the calling thread. `cpu` < 0: nothing to do. 0 or -errno. */
int topo_pin_self(int cpu);
/* From here on the calling thread's memory comes from this node while it has any (first touch). `node` < 0: nothing to
 * do. 0; -ENOSYS or -EPERM where the kernel or a container forbids it, with nothing changed. Before the thread
 * allocates. */
int topo_bind_memory_self(int node);

/* A sentence for the start-up line: "4 shards on CPUs 0-3 (4 cores, 1 node), …". Returns buf. */
const char *topo_describe(const struct topo *t, char *buf, size_t cap);

#endif
