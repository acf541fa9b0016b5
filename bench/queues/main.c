/* bench/queues: every queue of the family under the same load, one after the other, and what they did with it.
 *
 * This file is the command line and the progress on standard error; run.c runs, report.c and charts.c tell.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "report.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct main_opts {
	struct bench_opts bench;
	bool json, csv, charts, list;
	const char *out;
	const struct family_ops **queues;
	unsigned n;
};

static unsigned run_number, run_total; /* for the progress line */

static const char usage[] =
	"Usage: queues [OPTION]...\n"
	"Runs queues of the family and compares throughput, latency, fairness, CPU time and context switches.\n\n"
	"  --producers N    threads that put (10)\n"
	"  --consumers N    threads that take (10)\n"
	"  --items N        items in all (1000000)\n"
	"  --capacity N     items that a bounded queue holds (4096)\n"
	"  --batch N        items in a call, 1 to 1024 (1)\n"
	"  --range N        items in a range, for the queues that carry ranges (64)\n"
	"  --queue LIST     names separated by commas, or all (all)\n"
	"  --list           the names, and what they are (with --json: all that is said of them)\n"
	"  --prefill        no producers: a filled queue, and a fixed number of items for each consumer\n"
	"  --pin            each thread on one CPU, in turn\n"
	"  --repeat N       runs of each queue, all queues in turn; the median is shown (3)\n"
	"  --sample N       time each N-th call (16)\n"
	"  --stall S        a queue without progress for S seconds is hung (30)\n"
	"  --json, --csv    in place of the table\n"
	"  --out DIR        for the charts and their figures (build/bench/queues-charts)\n"
	"  --no-charts      none\n"
	"  --help\n";

static void list_queues(bool json)
{
	static const char *const orders[] = {
		[FAMILY_UNORDERED] = "none", [FAMILY_PER_PRODUCER] = "per producer", [FAMILY_FIFO] = "fifo"};

	for (unsigned i = 0; i < family_count; i++) {
		const struct family_ops *m = family_members[i];

		if (json)
			printf("%s{\"name\":\"%s\",\"about\":\"%s\",\"producers_max\":%u,\"consumers_max\":%u,\"order\":\"%s\","
			       "\"bounded\":%s}",
			       i > 0 ? ",\n" : "[", m->name, m->about, m->producers_max, m->consumers_max,
			       orders[m->order], m->bounded ? "true" : "false");
		else
			printf("%-24s %s\n", m->name, m->about);
	}
	if (json)
		printf("]\n");
}

static uint64_t number(const char *name, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || v < min || v > max) {
		fprintf(stderr, "queues: --%s: \"%s\" is not a number from %llu to %llu\n", name, text,
			(unsigned long long)min, (unsigned long long)max);
		exit(2);
	}
	return v;
}

static void choose_queues(struct main_opts *o, char *list)
{
	char *save = NULL;

	o->n = 0;
	for (char *name = strtok_r(list, ",", &save); name != NULL; name = strtok_r(NULL, ",", &save)) {
		const struct family_ops *ops = family_find(name);

		if (strcmp(name, "all") == 0) {
			memcpy(o->queues, family_members, family_count * sizeof *o->queues);
			o->n = family_count;
			return;
		}
		if (ops == NULL) {
			fprintf(stderr, "queues: --queue: there is no \"%s\"; --list names them\n", name);
			exit(2);
		}
		if (o->n < family_count)
			o->queues[o->n++] = ops;
	}
	if (o->n == 0) {
		fprintf(stderr, "queues: --queue needs a name\n");
		exit(2);
	}
}

static void take_option(struct main_opts *o, const char *name, char *arg)
{
	struct bench_opts *b = &o->bench;

	if (strcmp(name, "producers") == 0)
		b->producers = (unsigned)number(name, arg, 1, FAMILY_PEERS_MAX);
	else if (strcmp(name, "consumers") == 0)
		b->consumers = (unsigned)number(name, arg, 1, FAMILY_PEERS_MAX);
	else if (strcmp(name, "items") == 0)
		b->items = number(name, arg, 1, UINT64_C(1) << 39);
	else if (strcmp(name, "capacity") == 0)
		b->capacity = (uint32_t)number(name, arg, 1, FAMILY_CAPACITY_MAX);
	else if (strcmp(name, "batch") == 0)
		b->batch = (unsigned)number(name, arg, 1, BENCH_BATCH_MAX);
	else if (strcmp(name, "range") == 0)
		b->range = (uint32_t)number(name, arg, 1, 1u << 30);
	else if (strcmp(name, "sample") == 0)
		b->sample = (unsigned)number(name, arg, 1, 1u << 30);
	else if (strcmp(name, "repeat") == 0)
		b->repeat = (unsigned)number(name, arg, 1, BENCH_REPEAT_MAX);
	else if (strcmp(name, "stall") == 0)
		b->stall_s = (unsigned)number(name, arg, 1, 3600);
	else if (strcmp(name, "queue") == 0)
		choose_queues(o, arg);
	else if (strcmp(name, "out") == 0)
		o->out = arg;
	else if (strcmp(name, "prefill") == 0)
		b->prefill = true;
	else if (strcmp(name, "pin") == 0)
		b->pin = true;
	else if (strcmp(name, "json") == 0)
		o->json = true;
	else if (strcmp(name, "csv") == 0)
		o->csv = true;
	else if (strcmp(name, "no-charts") == 0)
		o->charts = false;
	else if (strcmp(name, "list") == 0)
		o->list = true;
	else {
		fputs(usage, stdout);
		exit(0);
	}
}

static void take_options(struct main_opts *o, int argc, char **argv)
{
	static const struct option options[] = {
		{"producers", required_argument, NULL, 0},
		{"consumers", required_argument, NULL, 0},
		{"items", required_argument, NULL, 0},
		{"capacity", required_argument, NULL, 0},
		{"batch", required_argument, NULL, 0},
		{"range", required_argument, NULL, 0},
		{"sample", required_argument, NULL, 0},
		{"stall", required_argument, NULL, 0},
		{"queue", required_argument, NULL, 0},
		{"out", required_argument, NULL, 0},
		{"prefill", no_argument, NULL, 0},
		{"pin", no_argument, NULL, 0},
		{"json", no_argument, NULL, 0},
		{"csv", no_argument, NULL, 0},
		{"no-charts", no_argument, NULL, 0},
		{"list", no_argument, NULL, 0},
		{"repeat", required_argument, NULL, 0},
		{"help", no_argument, NULL, 0},
		{0},
	};
	int at, c;

	while ((c = getopt_long(argc, argv, "", options, &at)) == 0)
		take_option(o, options[at].name, optarg);
	if (c != -1 || optind < argc) {
		if (c == -1)
			fprintf(stderr, "queues: \"%s\": there are no arguments but options\n", argv[optind]);
		fputs(usage, stderr);
		exit(2);
	}
	if (o->bench.items < o->bench.consumers) {
		fprintf(stderr, "queues: --items must be at least --consumers\n");
		exit(2);
	}
}

static void progress(const struct bench_result *r, uint64_t done, uint64_t total)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r[%3u/%u] %-24s %3u%% \033[K", run_number, run_total, r->ops->name,
			(unsigned)(done * 100 / total));
}

static void tell(const struct bench_result *r)
{
	static const char *const texts[] = {"", "does not take these options", "HUNG",
					    "WRONG: not the items that went in", "CRASHED"};
	unsigned finished = 0;

	for (unsigned c = 0; c < r->consumers; c++)
		finished += atomic_load(&r->peers[r->producers + c].finished);
	fprintf(stderr, "%s[%3u/%u] %-24s ", isatty(STDERR_FILENO) ? "\r\033[K" : "", run_number, run_total,
		r->ops->name);
	if (r->outcome != BENCH_REFUSED)
		fprintf(stderr, "%9.3f million items/s, %u of %u consumers finished ", bench_items_per_second(r) / 1e6,
			finished, r->consumers);
	fprintf(stderr, "%s\n", texts[r->outcome]);
}

/* Every queue once, then every queue again, so that what else the machine does meanwhile meets them all. */
static void run_all(const struct main_opts *o, struct bench_result *ret_medians)
{
	unsigned repeat = o->bench.repeat;
	struct bench_result *runs = calloc((size_t)o->n * repeat, sizeof *runs);

	CHECK(runs != NULL);
	run_total = o->n * repeat;
	for (unsigned round = 0; round < repeat; round++)
		for (unsigned i = 0; i < o->n; i++) {
			run_number++;
			bench_run(o->queues[i], &o->bench, progress, &runs[i * repeat + round]);
			tell(&runs[i * repeat + round]);
		}
	for (unsigned i = 0; i < o->n; i++)
		bench_median(&runs[i * repeat], repeat, &ret_medians[i]);
	free(runs);
}

static int report(const struct main_opts *o, const struct bench_report *r)
{
	int err;

	if (o->json)
		report_json(stdout, r);
	else if (o->csv)
		report_csv(stdout, r);
	else
		report_table(stdout, r);
	if (fflush(stdout) != 0) {
		perror("queues: standard output");
		return 1;
	}
	if (!o->charts)
		return 0;
	err = charts_write(o->out, r);
	if (err == -ENOENT)
		fprintf(stderr,
			"no charts: gnuplot is not installed (apt-get install gnuplot-nox); the figures are in %s\n",
			o->out);
	else if (err != 0)
		fprintf(stderr, "no charts in %s: %s\n", o->out, strerror(-err));
	return err != 0;
}

int main(int argc, char **argv)
{
	struct main_opts o = {
		.bench = {.producers = 10,
			  .consumers = 10,
			  .items = 1000000,
			  .capacity = 4096,
			  .batch = 1,
			  .range = 64,
			  .sample = 16,
			  .repeat = 3,
			  .stall_s = 30},
		.charts = true,
		.out = "build/bench/queues-charts",
	};
	struct bench_result *results = calloc(family_count, sizeof *results);
	struct bench_summary *summaries = calloc(family_count, sizeof *summaries);
	struct bench_report r = {.opts = &o.bench, .results = results, .summaries = summaries};
	bool failed = false;

	o.queues = calloc(family_count, sizeof *o.queues);
	CHECK(results != NULL && summaries != NULL && o.queues != NULL);
	memcpy(o.queues, family_members, family_count * sizeof *o.queues);
	o.n = family_count;
	take_options(&o, argc, argv);
	if (o.list) {
		list_queues(o.json);
		goto out_free;
	}
	r.ticks = ticks_init();
	r.n = o.n;
	run_all(&o, results);
	for (unsigned i = 0; i < o.n; i++) {
		bench_summarize(&results[i], &summaries[i]);
		failed |= results[i].outcome != BENCH_OK && results[i].outcome != BENCH_REFUSED;
	}
	failed |= report(&o, &r) != 0;
	for (unsigned i = 0; i < o.n; i++)
		bench_result_done(&results[i]);
out_free:
	free(o.queues);
	free(summaries);
	free(results);
	return failed;
}
