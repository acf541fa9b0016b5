/* The real clock. Everything that needs the time asks here, so a test that links its own clock owns time altogether.
 * Any thread; no state. The vDSO answers the first two without entering the kernel. */
#include "core/base/clock.h"

#include "core/base/check.h"

#include <time.h>

static struct timespec now(clockid_t id)
{
	struct timespec ts;

	/* Fails only for an unknown clock or a bad pointer, neither of which a caller can choose. */
	CHECK(clock_gettime(id, &ts) == 0);
	return ts;
}

uint64_t clock_mono_ns(void)
{
	struct timespec ts = now(CLOCK_MONOTONIC);

	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int64_t clock_wall_ns(void)
{
	struct timespec ts = now(CLOCK_REALTIME);

	return (int64_t)ts.tv_sec * (int64_t)NS_PER_S + ts.tv_nsec;
}

uint64_t clock_thread_cpu_ns(void)
{
	struct timespec ts = now(CLOCK_THREAD_CPUTIME_ID);

	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}
