/* Who gets how many file descriptors. The limit (RLIMIT_NOFILE) is shared out once, at start: first to what the daemon cannot do without, and what is left to
 * connections. So whatever strangers open, the journal finds a descriptor. Main thread.
 *
 *   | open for good | moments | journal's files | stats clients | accepts under way | connections |
 *   0                                                                                          limit
 *
 * "Open for good": listening sockets, rings, doorbells, the log. "Moments": files and sockets that are open for an instant, as for a reload. "Accepts under
 * way": a socket has its descriptor before a shard can say that it is one too many. */
#ifndef ORDINAL_CORE_FD_PLAN_H
#define ORDINAL_CORE_FD_PLAN_H

#include <stdint.h>

#define FD_PLAN_MOMENTS 12u /* 4 of the journal's threads; the others: a reload, systemd, the log, /proc */
#define FD_PLAN_ACCEPTS 16u /* at the most, of a listener */
#define FD_PLAN_JOURNAL_FILES                                                                                          \
	4096u /* at the most: beyond it files are closed and opened again, which costs some microseconds */

struct fd_needs {
	uint64_t limit;
	unsigned open; /* for good: those that are open now, and those that will be */
	unsigned listeners;
	unsigned stats_clients, connections; /* wanted: what the configuration allows */
};

struct fd_plan {
	uint64_t limit;
	unsigned open, journal_files, stats_clients, accepts /* of each listener */, connections;
	unsigned reserved; /* for all but connections */
};

/* 0; -EMFILE: nothing is left for connections, and *ret_why (valid until the next call) says what is needed. */
int fd_plan_make(const struct fd_needs *n, struct fd_plan *ret, const char **ret_why);
/* It has turned out how many are open for good: connections get more or less. As above. */
int fd_plan_correct(struct fd_plan *p, unsigned open, unsigned connections, const char **ret_why);

/* Raises the soft limit to the hard one, and returns it; or -errno. */
int fd_raise_limit(uint64_t *ret_limit);
/* How many are open now. */
unsigned fd_count_open(uint64_t limit);

#endif
