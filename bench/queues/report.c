/* Tables, JSON and CSV of the results. Latencies are kept in ticks and become nanoseconds here. */
#include "report.h"

#include "core/base/check.h"

#include <sched.h>
#include <string.h>
#include <sys/utsname.h>

static const double quantiles[] = {0.5, 0.99, 0.999};
static const char *const quantile_names[] = {"p50", "p99", "p999"};

static const char *outcome_text(enum bench_outcome o)
{
	static const char *const texts[] = {"ok", "refused", "hung", "wrong", "crashed"};

	return texts[o];
}

static unsigned cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 0;
}

const char *report_ns(double ns, char buf[12])
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	unsigned u = 0;

	while (ns >= 999.5 && u + 1 < ARRAY_SIZE(units)) {
		ns /= 1000;
		u++;
	}
	snprintf(buf, 12, "%.*f %s", u == 0 || ns >= 99.95 ? 0 : ns >= 9.995 ? 1 : 2, ns, units[u]);
	return buf;
}

static void table_latency(FILE *f, const struct bench_report *r, const char *what, const struct hist *h)
{
	char buf[12];
	double ns = r->ticks->ns;

	if (h->count == 0)
		return;
	fprintf(f, "  %-4s %9s", what, report_ns(hist_mean(h) * ns, buf));
	fprintf(f, " %9s", report_ns((double)h->min * ns, buf));
	for (unsigned i = 0; i < ARRAY_SIZE(quantiles); i++)
		fprintf(f, " %9s", report_ns((double)hist_quantile(h, quantiles[i]) * ns, buf));
	fprintf(f, " %9s", report_ns((double)h->max * ns, buf));
}

static void table_peers(const struct bench_result *q, char *buf, size_t cap)
{
	snprintf(buf, cap, "%ux%u%s", q->producers, q->consumers, q->ops->enqueue_range != NULL ? "*" : "");
}

static void table_throughput(FILE *f, const struct bench_report *r)
{
	fprintf(f, "%-24s %7s %9s %15s %9s %7s %9s %9s %9s %8s %7s %8s\n", "queue", "PxC", "Mitem/s", "of all runs",
		"time", "CPU s", "voluntary", "forced", "finished", "starved", "Jain", "slowest");
	for (unsigned i = 0; i < r->n; i++) {
		const struct bench_result *q = &r->results[i];
		const struct bench_summary *s = &r->summaries[i];
		char peers[24], finished[24], runs[40], ns[12];

		table_peers(q, peers, sizeof peers);
		if (q->outcome == BENCH_REFUSED) {
			fprintf(f, "%-24s %7s does not take these options\n", q->ops->name, peers);
			continue;
		}
		snprintf(runs, sizeof runs, "%.2f-%.2f", q->lowest / 1e6, q->highest / 1e6);
		snprintf(finished, sizeof finished, "%u/%u", s->finished, q->consumers);
		fprintf(f, "%-24s %7s %9.3f %15s %9s %7.2f %9llu %9llu %9s %8u %7.3f %7.1f%%", q->ops->name, peers,
			s->items_per_second / 1e6, runs, report_ns((double)q->wall_ns, ns), s->cpu_s,
			(unsigned long long)s->switches[0], (unsigned long long)s->switches[1], finished, s->starved,
			s->jain, s->slowest * 100);
		fprintf(f, "%s\n",
			q->outcome == BENCH_OK      ? ""
			: q->outcome == BENCH_HUNG  ? "  HUNG"
			: q->outcome == BENCH_WRONG ? "  WRONG"
						    : "  CRASHED");
	}
}

/* Which consumers starved, and what they got. */
static void table_starved(FILE *f, const struct bench_report *r)
{
	for (unsigned i = 0; i < r->n; i++) {
		const struct bench_result *q = &r->results[i];

		if (q->outcome == BENCH_REFUSED || r->summaries[i].starved == 0)
			continue;
		fprintf(f, "starved with %s:", q->ops->name);
		for (unsigned c = 0; c < q->consumers; c++) {
			const struct bench_peer *p = &q->peers[q->producers + c];

			if (bench_is_starved(q, c, r->summaries[i].items))
				fprintf(f, " consumer %u (%llu items%s)", c, (unsigned long long)atomic_load(&p->items),
					atomic_load(&p->finished) ? "" : ", did not finish");
		}
		fprintf(f, "\n");
	}
}

static void table_legend(FILE *f, const struct bench_report *r)
{
	const struct bench_opts *o = r->opts;
	bool starred = false;

	for (unsigned i = 0; i < r->n; i++)
		starred |= r->results[i].ops->enqueue_range != NULL;
	fprintf(f, "\nPxC: producers x consumers, fewer than asked for where the queue takes fewer.%s\n",
		starred ? " *: carries ranges; an enqueue is a whole range, and the capacity that of as many items."
			: "");
	if (starred)
		fprintf(f, "Ranges of %u items (--range).\n", o->range > o->batch ? o->range : o->batch);
	if (o->repeat > 1)
		fprintf(f,
			"Each queue ran %u times, in turn with the others; shown is the run with the median of items per second, and the "
			"slowest and the fastest.\n",
			o->repeat);
	fprintf(f,
		"finished: consumers that came to their end. starved: consumers that did not, or got less than a tenth of an even share.\n"
		"Jain: fairness of the consumers' items per second, 1 is even. slowest: the slowest consumer's part of an even share.\n"
		"voluntary, forced: context switches of all threads, waiting and preempted.\n"
		"Latency: of a whole call of %u item%s, waiting included; one call in %u of each thread is timed\n%s.\n"
		"Quantiles are at most 3.2%% too high; a call that was not sampled can be beyond min and max.\n",
		o->batch, o->batch == 1 ? "" : "s", o->sample, r->ticks->text);
}

void report_table(FILE *f, const struct bench_report *r)
{
	const struct bench_opts *o = r->opts;

	if (o->prefill)
		fprintf(f, "Prefilled: %llu items in the queue, %u consumers taking %llu each; batch %u; %u CPUs%s\n\n",
			(unsigned long long)o->items, o->consumers, (unsigned long long)(o->items / o->consumers),
			o->batch, cpus(), o->pin ? ", pinned" : "");
	else
		fprintf(f, "Flow: %u producers, %u consumers, %llu items, capacity %u, batch %u; %u CPUs%s\n\n",
			o->producers, o->consumers, (unsigned long long)o->items, o->capacity, o->batch, cpus(),
			o->pin ? ", pinned" : "");
	table_throughput(f, r);
	table_starved(f, r);
	fprintf(f, "\n%-24s  %-4s %9s %9s %9s %9s %9s %9s\n", "latency", "call", "mean", "min", "p50", "p99", "p99.9",
		"max");
	for (unsigned i = 0; i < r->n; i++) {
		const struct bench_summary *s = &r->summaries[i];

		if (r->results[i].outcome == BENCH_REFUSED)
			continue;
		fprintf(f, "%-24s", r->results[i].ops->name);
		table_latency(f, r, "put", &s->put);
		if (s->put.count > 0)
			fprintf(f, "\n%-24s", "");
		table_latency(f, r, "take", &s->take);
		fprintf(f, "\n");
	}
	table_legend(f, r);
}

static void json_latency(FILE *f, const char *name, const struct hist *h, double ns)
{
	fprintf(f, "\"%s\":{\"sampled\":%llu", name, (unsigned long long)h->count);
	if (h->count > 0) {
		fprintf(f, ",\"mean\":%.1f,\"min\":%.1f", hist_mean(h) * ns, (double)h->min * ns);
		for (unsigned i = 0; i < ARRAY_SIZE(quantiles); i++)
			fprintf(f, ",\"%s\":%.1f", quantile_names[i], (double)hist_quantile(h, quantiles[i]) * ns);
		fprintf(f, ",\"max\":%.1f", (double)h->max * ns);
	}
	fprintf(f, "}");
}

static void json_queue(FILE *f, const struct bench_report *r, unsigned i)
{
	const struct bench_result *q = &r->results[i];
	const struct bench_summary *s = &r->summaries[i];

	fprintf(f,
		"{\"name\":\"%s\",\"about\":\"%s\",\"outcome\":\"%s\",\"producers\":%u,\"consumers\":%u,\"items_in_an_enqueue\":%u",
		q->ops->name, q->ops->about, outcome_text(q->outcome), q->producers, q->consumers, q->put_batch);
	if (q->outcome != BENCH_REFUSED) {
		fprintf(f,
			",\"items\":%llu,\"seconds\":%.6f,\"items_per_second\":%.1f,"
			"\"items_per_second_lowest\":%.1f,\"items_per_second_highest\":%.1f,\"cpu_seconds\":%.3f,"
			"\"switches_voluntary\":%llu,\"switches_forced\":%llu,\"finished\":%u,\"starved\":%u,\"jain\":%.4f,"
			"\"slowest_of_even_share\":%.4f,\"producers_jain\":%.4f,\"consumer_items\":[",
			(unsigned long long)s->items, (double)q->wall_ns / 1e9, s->items_per_second, q->lowest,
			q->highest, s->cpu_s, (unsigned long long)s->switches[0], (unsigned long long)s->switches[1],
			s->finished, s->starved, s->jain, s->slowest, s->producers_jain);
		for (unsigned c = 0; c < q->consumers; c++)
			fprintf(f, "%s%llu", c > 0 ? "," : "",
				(unsigned long long)atomic_load(&q->peers[q->producers + c].items));
		fprintf(f, "],\"starved_consumers\":[");
		for (unsigned c = 0, told = 0; c < q->consumers; c++)
			if (bench_is_starved(q, c, s->items))
				fprintf(f, "%s%u", told++ > 0 ? "," : "", c);
		fprintf(f, "],\"latency_ns\":{");
		json_latency(f, "put", &s->put, r->ticks->ns);
		fprintf(f, ",");
		json_latency(f, "take", &s->take, r->ticks->ns);
		fprintf(f, "}");
	}
	fprintf(f, "}");
}

void report_json(FILE *f, const struct bench_report *r)
{
	const struct bench_opts *o = r->opts;
	struct utsname u;

	if (uname(&u) != 0)
		memset(&u, 0, sizeof u);
	fprintf(f,
		"{\"parameters\":{\"producers\":%u,\"consumers\":%u,\"items\":%llu,\"capacity\":%u,\"batch\":%u,\"range\":%u,\"prefill\":%s,"
		"\"pin\":%s,\"sample\":%u,\"repeat\":%u},\"machine\":{\"cpus\":%u,\"kernel\":\"%s\",\"architecture\":\"%s\"},"
		"\"clock\":{\"tsc\":%s,\"ns_per_tick\":%.6f,\"overhead_ns\":%.1f,\"spread_ns\":%.1f},\"queues\":[",
		o->producers, o->consumers, (unsigned long long)o->items, o->capacity, o->batch, o->range,
		o->prefill ? "true" : "false", o->pin ? "true" : "false", o->sample, o->repeat, cpus(), u.release,
		u.machine, r->ticks->tsc ? "true" : "false", r->ticks->ns, (double)r->ticks->overhead * r->ticks->ns,
		(double)r->ticks->spread * r->ticks->ns);
	for (unsigned i = 0; i < r->n; i++) {
		fprintf(f, "%s\n", i > 0 ? "," : "");
		json_queue(f, r, i);
	}
	fprintf(f, "\n]}\n");
}

static void csv_latency(FILE *f, const struct hist *h, double ns)
{
	fprintf(f, ",%.1f,%.1f", hist_mean(h) * ns, h->count > 0 ? (double)h->min * ns : 0);
	for (unsigned i = 0; i < ARRAY_SIZE(quantiles); i++)
		fprintf(f, ",%.1f", (double)hist_quantile(h, quantiles[i]) * ns);
	fprintf(f, ",%.1f", (double)h->max * ns);
}

void report_csv(FILE *f, const struct bench_report *r)
{
	fprintf(f,
		"queue,outcome,producers,consumers,items,seconds,items_per_second,cpu_seconds,switches_voluntary,switches_forced,finished,"
		"starved,jain,slowest_of_even_share,put_mean_ns,put_min_ns,put_p50_ns,put_p99_ns,put_p999_ns,put_max_ns,"
		"take_mean_ns,take_min_ns,take_p50_ns,take_p99_ns,take_p999_ns,take_max_ns,items_per_second_lowest,items_per_second_highest\n");
	for (unsigned i = 0; i < r->n; i++) {
		const struct bench_result *q = &r->results[i];
		const struct bench_summary *s = &r->summaries[i];

		fprintf(f, "%s,%s,%u,%u,%llu,%.6f,%.1f,%.3f,%llu,%llu,%u,%u,%.4f,%.4f", q->ops->name,
			outcome_text(q->outcome), q->producers, q->consumers, (unsigned long long)s->items,
			(double)q->wall_ns / 1e9, s->items_per_second, s->cpu_s, (unsigned long long)s->switches[0],
			(unsigned long long)s->switches[1], s->finished, s->starved, s->jain, s->slowest);
		csv_latency(f, &s->put, r->ticks->ns);
		csv_latency(f, &s->take, r->ticks->ns);
		fprintf(f, ",%.1f,%.1f\n", q->lowest, q->highest);
	}
}
