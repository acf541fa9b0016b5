/* Sharing out file descriptors; see the header. Main thread.
 *
 * Connections come last, and get nearly all where there are many. Where there are few, an eighth is the journal's, a sixteenth is for clients of the stats
 * socket, and each has a least number with which it works, slowly.
 */
#include "core/fd_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>

#define JOURNAL_FILES_LEAST 6u
#define SCAN_MAX (1u << 17) /* nothing that was opened before the plan is above it, unless it was inherited so */

static char why[400];

static uint64_t clamp(uint64_t v, uint64_t low, uint64_t high)
{
	return v < low ? low : v > high ? high : v;
}

static int refuse(const struct fd_plan *p)
{
	snprintf(
		why, sizeof why,
		"the limit of open files is %llu: %u are needed besides connections (%u for what is open all the time, %u for files of the journal, %u for the "
		"stats socket), so none is left for a client; raise LimitNOFILE= of the unit, or the shell's `ulimit -Hn`, to %u or more",
		(unsigned long long)p->limit, p->reserved, p->open, p->journal_files, p->stats_clients,
		p->reserved + 64);
	return -EMFILE;
}

static int share_out(struct fd_plan *p, unsigned connections, const char **ret_why)
{
	*ret_why = why;
	if (p->limit <= p->reserved)
		return refuse(p);
	p->connections = (unsigned)clamp(p->limit - p->reserved, 1, connections);
	return 0;
}

int fd_plan_make(const struct fd_needs *n, struct fd_plan *ret, const char **ret_why)
{
	uint64_t first = (uint64_t)n->open + FD_PLAN_MOMENTS, spare = n->limit > first ? n->limit - first : 0;
	struct fd_plan p = {.limit = n->limit, .open = n->open};

	p.stats_clients = (unsigned)clamp(spare / 16, 1, n->stats_clients);
	p.accepts = (unsigned)clamp(spare / 32 / (n->listeners ? n->listeners : 1), 1, FD_PLAN_ACCEPTS);
	p.reserved = n->open + FD_PLAN_MOMENTS + p.stats_clients +
		     (p.accepts + 1) * n->listeners; /* + 1: two shards may
											      find the last one free */
	p.journal_files = (unsigned)clamp(spare / 8, JOURNAL_FILES_LEAST, FD_PLAN_JOURNAL_FILES);
	if (n->limit > (uint64_t)p.reserved + n->connections + p.journal_files) /* more than connections take */
		p.journal_files = (unsigned)clamp(n->limit - p.reserved - n->connections, p.journal_files,
						  FD_PLAN_JOURNAL_FILES);
	p.reserved += p.journal_files;
	*ret = p;
	return share_out(ret, n->connections, ret_why);
}

int fd_plan_correct(struct fd_plan *p, unsigned open, unsigned connections, const char **ret_why)
{
	p->reserved = p->reserved - p->open + open;
	p->open = open;
	return share_out(p, connections, ret_why);
}

int fd_raise_limit(uint64_t *ret_limit)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r))
		return -errno;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &r) || getrlimit(RLIMIT_NOFILE, &r))
		return -errno;
	*ret_limit = r.rlim_cur;
	return 0;
}

unsigned fd_count_open(uint64_t limit)
{
	unsigned n = 0;

	for (int fd = 0; fd < (int)clamp(limit, 0, SCAN_MAX); fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}
