/* Rates over sliding windows: sums that only grow are sampled about once a second, and a rate is the growth between two samples by the time between
 * them. Main thread. */
#ifndef ORDINAL_RPC_RATES_H
#define ORDINAL_RPC_RATES_H

#include <stdint.h>

#define RATES_SAMPLES 64
#define RATES_PERIOD_NS UINT64_C(1000000000)

struct rates {
	unsigned columns; /* sums in a sample */
	unsigned count;   /* samples so far, at most RATES_SAMPLES */
	unsigned newest;
	uint64_t at_ns[RATES_SAMPLES];
	uint64_t *sums; /* [RATES_SAMPLES][columns] */
};

/* 0 or -ENOMEM. */
int rates_init(struct rates *r, unsigned columns);
void rates_done(struct rates *r);
/* Adds a sample of `columns` sums. now_ns is monotonic and above that of the sample before. */
void rates_sample(struct rates *r, uint64_t now_ns, const uint64_t *sums);
/* Growth of a column a second, over the last window_ns as seen from the newest sample: over what there is while that is less, and over the last two
 * samples at least when they are further apart. 0 with fewer than two. */
double rates_per_s(const struct rates *r, unsigned column, uint64_t window_ns);
/* When the next sample is due: at once before the first. */
uint64_t rates_due_ns(const struct rates *r);

#endif
