/* A log-linear histogram of non-negative integers (as HdrHistogram): 32 linear steps an octave, so a quantile is at
 * most 3.2% off, from 0 to 2^44 (larger values count in the last bucket; min, max and sum stay exact).
 *
 * One writer; other threads may read while it writes: buckets are relaxed atomics through plain-looking helpers, a
 * reader sees some recent state, never a torn number.
 */
#ifndef ORDINAL_CORE_BASE_HIST_H
#define ORDINAL_CORE_BASE_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 5
#define HIST_MAX_BITS 44
#define HIST_BUCKETS ((HIST_MAX_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	uint64_t count, sum, min, max; /* min is UINT64_MAX while empty */
	uint64_t bucket[HIST_BUCKETS];
};

void hist_init(struct hist *h);

static inline unsigned hist_index(uint64_t v)
{
	if (v < (1u << HIST_SUB_BITS))
		return (unsigned)v;
	unsigned msb = 63 - (unsigned)__builtin_clzll(v);
	if (msb >= HIST_MAX_BITS)
		return HIST_BUCKETS - 1;
	unsigned shift = msb - HIST_SUB_BITS;
	return ((shift + 1) << HIST_SUB_BITS) + (unsigned)((v >> shift) & ((1u << HIST_SUB_BITS) - 1));
}

static inline void hist_bump(uint64_t *p, uint64_t n)
{
	__atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* Counts the value `v` `n` times. Owner thread only. */
static inline void hist_add(struct hist *h, uint64_t v, uint64_t n)
{
	hist_bump(&h->bucket[hist_index(v)], n);
	hist_bump(&h->count, n);
	hist_bump(&h->sum, v * n);
	if (v < h->min)
		__atomic_store_n(&h->min, v, __ATOMIC_RELAXED);
	if (v > h->max)
		__atomic_store_n(&h->max, v, __ATOMIC_RELAXED);
}

/* Adds all of `from` to `to`. `to` is the caller's alone; `from` may be being written. */
void hist_merge(struct hist *to, const struct hist *from);

/* The value at quantile q in [0, 1], as the upper edge of its bucket, capped by max; 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double q);
/* How many of the values are in buckets that end at or below v. Exact for v = 2^k - 1, and for UINT64_MAX. */
uint64_t hist_count_le(const struct hist *h, uint64_t v);
/* sum / count, or 0. */
double hist_mean(const struct hist *h);

#endif
