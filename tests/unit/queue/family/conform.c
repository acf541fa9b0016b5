/* Runs one case on one member in a child process, and watches it. */
#include "conform.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONFORM_PEERS 4

const struct conform_case conform_cases[] = {
	{"empty", conform_empty},
	{"full", conform_full},
	{"order", conform_order},
	{"batches", conform_batches},
	{"close_drains", conform_close_drains},
	{"close_wakes_consumers", conform_close_wakes_consumers},
	{"close_wakes_producers", conform_close_wakes_producers},
	{"every_item_wakes_one", conform_every_item_wakes_one},
	{"every_space_wakes_one", conform_every_space_wakes_one},
	{"stress", conform_stress},
	{"stress_small", conform_stress_small},
	{"stress_batch", conform_stress_batch},
	{"close_midway", conform_close_midway},
	{"suspended_peer", conform_suspended_peer},
};
const unsigned conform_count = ARRAY_SIZE(conform_cases);

void conform_fault(struct conform *c, enum conform_fault fault, const char *fmt, ...)
{
	if (atomic_fetch_or(&c->shared->faults, fault) == 0) { /* the first to find one tells */
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(c->shared->why, sizeof c->shared->why, fmt, ap);
		va_end(ap);
	}
	_exit(1);
}

struct family_queue *conform_queue(struct conform *c, uint32_t capacity, uint32_t *ret_capacity)
{
	struct family_opts opts = {.capacity = capacity, .producers = c->producers, .consumers = c->consumers};
	struct family_queue *q;
	int r;

	/* a member may need more than one item of capacity: its minimum, or one for each peer */
	while ((r = family_init(c->ops, &opts, &q)) == -EINVAL && opts.capacity < capacity + 2 * CONFORM_PEERS)
		opts.capacity++;
	if (r != 0)
		conform_fault(c, CONFORM_UNEXPECTED, "init with capacity %u gave %d", capacity, r);
	if (ret_capacity != NULL)
		*ret_capacity = opts.capacity;
	return q;
}

static unsigned conform_peers(unsigned max)
{
	return max != 0 && max < CONFORM_PEERS ? max : CONFORM_PEERS;
}

/* Waits for the child. true: it has ended; false: it made no progress for hang_s seconds. */
static bool conform_watch(pid_t child, struct conform_shared *shared, unsigned hang_s, int *ret_status)
{
	uint64_t seen = UINT64_MAX, since = clock_mono_ns();

	while (waitpid(child, ret_status, WNOHANG) == 0) {
		uint64_t progress = atomic_load(&shared->progress);

		if (progress != seen) {
			seen = progress;
			since = clock_mono_ns();
		} else if (clock_mono_ns() - since > hang_s * NS_PER_S) {
			return false;
		}
		usleep(500);
	}
	return true;
}

unsigned conform_run(const struct conform_case *k, const struct family_ops *ops, unsigned hang_s, char *why, size_t cap)
{
	struct conform_shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
					     -1, 0);
	unsigned faults;
	int status;
	pid_t child;

	CHECK(shared != MAP_FAILED);
	fflush(NULL);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		struct conform c = {.ops = ops, .shared = shared};

		/* Under SCHED_FIFO a thread that does not sleep keeps others from the CPU, or from a mutex, for as long
		 * as it likes (README.md of the family), and the watchdog could not tell that from a hang. */
		CHECK(sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0}) == 0);
		c.producers = conform_peers(ops->producers_max);
		c.consumers = conform_peers(ops->consumers_max);
		k->run(&c);
		exit(0); /* not _exit: sanitizers look for leaks and reports here */
	}
	if (!conform_watch(child, shared, hang_s, &status)) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		atomic_fetch_or(&shared->faults, CONFORM_HANG);
		snprintf(why, cap, "no progress for %u s", hang_s);
	} else if (atomic_load(&shared->faults) != 0) {
		snprintf(why, cap, "%s", shared->why);
	} else if (status != 0) {
		atomic_fetch_or(&shared->faults, CONFORM_CRASH);
		snprintf(why, cap, "ended with status %#x", (unsigned)status);
	}
	faults = atomic_load(&shared->faults);
	munmap(shared, sizeof *shared);
	return faults;
}
