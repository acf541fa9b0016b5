/* A ring of samples; see the header. Main thread.
 *
 * A window reaches back to the oldest sample that is not more than half a period older than it, so samples taken a little late
 * still make a window of one second out of two samples. */
#include "rpc/rates.h"
#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int rates_init(struct rates *r, unsigned columns)
{
	*r = (struct rates){.columns = columns, .newest = RATES_SAMPLES - 1};
	r->sums = calloc((size_t)RATES_SAMPLES * columns, sizeof *r->sums);
	return r->sums ? 0 : -ENOMEM;
}

void rates_done(struct rates *r)
{
	free(r->sums);
	r->sums = NULL;
}

void rates_sample(struct rates *r, uint64_t now_ns, const uint64_t *sums)
{
	CHECK(r->count == 0 || now_ns > r->at_ns[r->newest]);
	r->newest = (r->newest + 1) % RATES_SAMPLES;
	r->at_ns[r->newest] = now_ns;
	memcpy(&r->sums[(size_t)r->newest * r->columns], sums, r->columns * sizeof *sums);
	if (r->count < RATES_SAMPLES)
		r->count++;
}

double rates_per_s(const struct rates *r, unsigned column, uint64_t window_ns)
{
	unsigned from = r->newest;
	CHECK(column < r->columns);
	for (unsigned back = 1; back < r->count; back++) {
		unsigned i = (r->newest + RATES_SAMPLES - back) % RATES_SAMPLES;
		if (back > 1 && r->at_ns[r->newest] - r->at_ns[i] > window_ns + RATES_PERIOD_NS / 2)
			break;
		from = i;
	}
	uint64_t ns = r->at_ns[r->newest] - r->at_ns[from];
	uint64_t then = r->sums[(size_t)from * r->columns + column],
		 now = r->sums[(size_t)r->newest * r->columns + column];
	return ns && now > then ? (double)(now - then) * 1e9 / (double)ns : 0;
}

uint64_t rates_due_ns(const struct rates *r)
{
	return r->count ? r->at_ns[r->newest] + RATES_PERIOD_NS : 0;
}
