/* What the runs are turned into: a table for people, JSON, CSV, and charts drawn by gnuplot. */
#ifndef ORDINAL_BENCH_QUEUES_REPORT_H
#define ORDINAL_BENCH_QUEUES_REPORT_H

#include "run.h"
#include "ticks.h"

#include <stdio.h>

struct bench_report {
	const struct bench_opts *opts;
	const struct ticks *ticks;
	const struct bench_result *results;
	const struct bench_summary *summaries;
	unsigned n;
};

void report_table(FILE *f, const struct bench_report *r);
void report_json(FILE *f, const struct bench_report *r);
void report_csv(FILE *f, const struct bench_report *r);
/* "183 ns", "4.21 us", "31.0 ms": at most 8 characters, and the terminating zero. */
const char *report_ns(double ns, char buf[12]);

/* Writes queues.csv and three SVG charts into `dir`, which is made. Says what it wrote on standard error. 0 or
 * -errno; -ENOENT: there is no gnuplot (the CSV is written all the same). */
int charts_write(const char *dir, const struct bench_report *r);

#endif
