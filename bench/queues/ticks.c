/* Calibration of ticks.h: how long a tick is, against CLOCK_MONOTONIC, and what a measurement of nothing shows. */
#include "ticks.h"

#include "core/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define TICKS_TRIES 10001

bool ticks_use_tsc;

static bool has_invariant_tsc(void)
{
#if defined(__x86_64__)
	unsigned a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (d & 1u << 27) != 0 &&
	       __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8) != 0;
#else
	return false;
#endif
}

/* A reading of both clocks, taken as close together as one of some tries allows. */
static void read_both(uint64_t *ret_ns, uint64_t *ret_ticks)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 100; i++) {
		uint64_t before = ticks_begin(), ns = clock_mono_ns(), after = ticks_end();

		if (after - before < best) {
			best = after - before;
			*ret_ns = ns;
			*ret_ticks = before + best / 2;
		}
	}
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

const struct ticks *ticks_init(void)
{
	static struct ticks t;
	static uint64_t empty[TICKS_TRIES];
	const struct timespec wait = {.tv_nsec = 50 * 1000 * 1000};
	uint64_t ns[2], ticks[2];

	if (t.ns != 0)
		return &t;
	t.tsc = ticks_use_tsc = has_invariant_tsc();
	t.ns = 1.0;
	if (t.tsc) {
		read_both(&ns[0], &ticks[0]);
		nanosleep(&wait, NULL);
		read_both(&ns[1], &ticks[1]);
		t.ns = (double)(ns[1] - ns[0]) / (double)(ticks[1] - ticks[0]);
	}
	for (unsigned i = 0; i < TICKS_TRIES; i++) {
		uint64_t begin = ticks_begin();

		empty[i] = ticks_end() - begin;
	}
	qsort(empty, TICKS_TRIES, sizeof *empty, compare);
	t.overhead = empty[TICKS_TRIES / 2];
	t.spread = empty[TICKS_TRIES * 9 / 10] - empty[TICKS_TRIES / 10];
	if (t.tsc)
		snprintf(
			t.text, sizeof t.text,
			"with the time stamp counter (%.3f GHz against CLOCK_MONOTONIC); the cost of the two readings,\n%.1f ns (median of %d "
			"empty measurements, which differ by %.1f ns), is subtracted",
			1.0 / t.ns, (double)t.overhead * t.ns, TICKS_TRIES, (double)t.spread * t.ns);
	else
		snprintf(
			t.text, sizeof t.text,
			"with CLOCK_MONOTONIC (no invariant time stamp counter here); the cost of the two readings,\n%.1f ns (median of %d "
			"empty measurements, which differ by %.1f ns), is subtracted",
			(double)t.overhead, TICKS_TRIES, (double)t.spread);
	return &t;
}
