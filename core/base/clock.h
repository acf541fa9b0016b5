/* The only way to the time. Tests link a twin of clock.c with a virtual clock. Any thread. */
#ifndef ORDINAL_CORE_BASE_CLOCK_H
#define ORDINAL_CORE_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* CLOCK_MONOTONIC in nanoseconds: never steps; for intervals, deadlines and rates. */
uint64_t clock_mono_ns(void);

/* CLOCK_REALTIME in Unix nanoseconds: may step; only for timestamps that people or frames carry. */
int64_t clock_wall_ns(void);

/* CPU time used by the calling thread so far, in nanoseconds. */
uint64_t clock_thread_cpu_ns(void);

#endif
