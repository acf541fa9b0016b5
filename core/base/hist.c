/* The reading half of hist.h, and what sets a histogram up.
 *
 * A reader may run beside the writer. It takes each number once with a relaxed load, and counts what it found in the
 * buckets instead of trusting `count`, so that a quantile is always a value of some bucket that is not empty.
 * Source: HdrHistogram (G. Tene): log-linear buckets; the quantile is the smallest value with at least q of the counts
 * at or below.
 */
#include "core/base/hist.h"

#include <string.h>

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

void hist_init(struct hist *h)
{
	memset(h, 0, sizeof *h);
	h->min = UINT64_MAX;
}

void hist_merge(struct hist *to, const struct hist *from)
{
	uint64_t min = load(&from->min), max = load(&from->max);

	to->count += load(&from->count);
	to->sum += load(&from->sum);
	if (min < to->min)
		to->min = min;
	if (max > to->max)
		to->max = max;
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		to->bucket[i] += load(&from->bucket[i]);
}

/* The largest value that hist_index maps to bucket i, if the last bucket ended where the range does. */
static uint64_t upper_edge(unsigned i)
{
	unsigned octave = i >> HIST_SUB_BITS, step = i & ((1u << HIST_SUB_BITS) - 1);

	if (octave == 0)
		return i;
	return ((uint64_t)((1u << HIST_SUB_BITS) + step + 1) << (octave - 1)) - 1;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t bucket[HIST_BUCKETS], total = 0, seen = 0, rank, max = load(&h->max);

	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		bucket[i] = load(&h->bucket[i]);
		total += bucket[i];
	}
	if (total == 0)
		return 0;
	if (!(q > 0))
		q = 0;
	/* ceil(q * total), at least 1; computed so that rounding of the product cannot pass the end. */
	rank = q >= 1 ? total : (uint64_t)(q * (double)total);
	if (q < 1 && (double)rank < q * (double)total)
		rank++;
	if (rank == 0)
		rank = 1;
	if (rank > total)
		rank = total;
	for (unsigned i = 0; i < HIST_BUCKETS - 1; i++) {
		seen += bucket[i];
		if (seen >= rank)
			return upper_edge(i) < max ? upper_edge(i) : max;
	}
	return max; /* the last bucket has no upper edge */
}

uint64_t hist_count_le(const struct hist *h, uint64_t v)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < HIST_BUCKETS - 1 && upper_edge(i) <= v; i++)
		n += load(&h->bucket[i]);
	return v == UINT64_MAX ? n + load(&h->bucket[HIST_BUCKETS - 1]) : n;
}

double hist_mean(const struct hist *h)
{
	uint64_t count = load(&h->count);

	return count == 0 ? 0 : (double)load(&h->sum) / (double)count;
}
