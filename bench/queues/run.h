/* One queue, one run, in a process of its own, so that a queue that hangs or crashes costs the others nothing.
 *
 * Flow (default): producers put their parts of `items` in; when all have, the queue is closed; consumers take until
 * they are told the end. Prefilled: the queue, large enough, is filled first; then each consumer takes a fixed
 * number, without producers. The queue is checked on the way: as many items come out as went in, with the same sum.
 */
#ifndef ORDINAL_BENCH_QUEUES_RUN_H
#define ORDINAL_BENCH_QUEUES_RUN_H

#include "core/base/hist.h"
#include "queue/family/family.h"

#include <stdatomic.h>

struct bench_opts {
	unsigned producers, consumers;
	uint64_t items;
	uint32_t capacity;
	unsigned batch;   /* items in a call */
	uint32_t range;   /* items in a range, for members that carry ranges, when batch is smaller */
	unsigned sample;  /* every so many-th call is timed */
	unsigned stall_s; /* no progress for so long: hung */
	unsigned repeat;  /* runs of each queue */
	bool prefill, pin;
};

#define BENCH_BATCH_MAX 1024
#define BENCH_REPEAT_MAX 99

/* One thread. Written by it alone, in memory shared with the process that watches. */
struct bench_peer {
	_Alignas(64) atomic_ullong items; /* moved so far */
	atomic_bool finished;
	uint64_t sum;         /* of the items moved */
	uint64_t ns;          /* from the common start to its end */
	uint64_t cpu_ns;      /* user and system */
	uint64_t switches[2]; /* voluntary, involuntary */
	struct hist latency;  /* ticks, of the sampled calls; less the clock's own cost */
};

enum bench_outcome {
	BENCH_OK,
	BENCH_REFUSED, /* the member does not take these options */
	BENCH_HUNG,
	BENCH_WRONG, /* what came out is not what went in */
	BENCH_CRASHED,
};

struct bench_result {
	const struct family_ops *ops;
	enum bench_outcome outcome;
	unsigned producers, consumers; /* as many as the member takes */
	unsigned put_batch;            /* items in an enqueue */
	uint32_t capacity;             /* in the member's unit */
	uint64_t wall_ns;              /* from the common start to the last consumer's end */
	struct bench_peer *peers;      /* producers, then consumers */
	size_t peers_size;
	double lowest, highest; /* items per second of all runs of this queue, of which this is the median */
};

/* A line about the run that is going on; at most ten a second. `done` of `total` items. */
typedef void bench_progress(const struct bench_result *r, uint64_t done, uint64_t total);

/* The result is to be given back with bench_result_done. */
void bench_run(const struct family_ops *ops, const struct bench_opts *opts, bench_progress *progress,
	       struct bench_result *ret);
void bench_result_done(struct bench_result *r);

/* What the report says of a result. */
struct bench_summary {
	uint64_t items; /* taken out */
	double items_per_second;
	double cpu_s;
	uint64_t switches[2]; /* voluntary, involuntary */
	unsigned finished;    /* consumers that came to their end */
	unsigned starved;     /* consumers that did not, or got less than a tenth of an even share */
	double jain;          /* of the consumers' items per second: 1 is even, 1/n is one gets all */
	double slowest;       /* consumer's part of an even share: 1 is even */
	double producers_jain;
	struct hist put, take; /* ticks */
};
/* Of n runs of one queue, chooses the one with the median of items per second, or the first that went wrong. Gives the
 * others back, and sets its lowest and highest. `runs` is put into another order. */
void bench_median(struct bench_result *runs, unsigned n, struct bench_result *ret);
/* Items taken out per second, from the common start to the last consumer's end. */
double bench_items_per_second(const struct bench_result *r);
/* Whether consumer number c did not finish or got less than a tenth of an even share of the `items` taken. */
bool bench_is_starved(const struct bench_result *r, unsigned c, uint64_t items);
void bench_summarize(const struct bench_result *r, struct bench_summary *ret);

#endif
