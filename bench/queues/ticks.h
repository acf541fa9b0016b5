/* The clock of the latency figures: the CPU's time stamp counter, and what reading it costs.
 *
 * A call is timed from ticks_begin to ticks_end. Both wait for the instructions before (and, at the beginning, keep
 * those after from starting early), as Intel's white paper on benchmarking (Paoloni, 2010) advises. The least that
 * the pair shows with nothing in between is `overhead`, to be subtracted. Where there is no invariant TSC,
 * CLOCK_MONOTONIC takes its place. Any thread.
 */
#ifndef ORDINAL_BENCH_QUEUES_TICKS_H
#define ORDINAL_BENCH_QUEUES_TICKS_H

#include "core/base/clock.h"

#include <stdbool.h>
#include <stdint.h>

struct ticks {
	bool tsc;
	double ns;         /* of one tick */
	uint64_t overhead; /* ticks: the median of many empty measurements */
	uint64_t spread;   /* ticks: between the 10th and the 90th percentile of them; the counter's steps, mostly */
	char text[320];    /* a sentence for the report */
};

/* Calibrates, in about 50 ms, when first called; before any thread starts. */
const struct ticks *ticks_init(void);

extern bool ticks_use_tsc; /* written by ticks_init only */

static inline uint64_t ticks_begin(void)
{
#if defined(__x86_64__)
	if (ticks_use_tsc) {
		uint32_t lo, hi;

		__asm__ __volatile__("lfence\n\trdtsc\n\tlfence" : "=a"(lo), "=d"(hi) : : "memory");
		return (uint64_t)hi << 32 | lo;
	}
#endif
	return clock_mono_ns();
}

static inline uint64_t ticks_end(void)
{
#if defined(__x86_64__)
	if (ticks_use_tsc) {
		uint32_t lo, hi;

		__asm__ __volatile__("rdtscp\n\tlfence" : "=a"(lo), "=d"(hi) : : "rcx", "memory");
		return (uint64_t)hi << 32 | lo;
	}
#endif
	return clock_mono_ns();
}

#endif
