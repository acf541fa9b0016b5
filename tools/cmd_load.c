/* `ordinal load`: options, the threads, the live line, and the end. The loop of a thread is load_worker.c.
 *
 * Main thread: it changes the phase (connect, warm up, measure, stop) that the workers look at once a loop turn, and reads their counters. SIGINT and
 * SIGTERM are blocked everywhere and taken here with sigtimedwait, so an early end is just another reason to stop. */
#include "tools/load.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LIVE_NS (500 * NS_PER_MS)
#define TICK_NS (5 * NS_PER_MS)
#define CONNECTIONS_MAX 100000u
#define DEPTH_MAX 100000u
#define SLOTS_MAX (16u << 20)  /* connections x depth */
#define CHECK_PAGES_MAX 16384u /* 1 GiB of IDs with holes around them */

static const char usage[] =
	"usage: ordinal load [OPTION]...\n\n"
	"Calls Ids as fast as the server answers (closed loop), or at a given rate (open loop); reports rate, latency and status codes, and\n"
	"checks that no ID came twice and that each was above all that anybody here had received before its request was sent.\n\n"
	"  --connections N        (default 5)\n"
	"  --depth N              calls in flight on each connection; with grpc: streams (default 20)\n"
	"  --threads N            threads of this program, each with its own loop (default 1)\n"
	"  --duration DURATION    of measuring (default 10s)\n"
	"  --requests N           stop after this many calls instead\n"
	"  --warmup DURATION      before measuring begins (default 0)\n"
	"  --protocol native|grpc (default native)\n"
	"  --method next|take     one call an answer, or one long stream a connection (default next)\n"
	"  --count N              IDs in a call (default 1)\n"
	"  --sequence S           (default: \"\", the default one)\n"
	"  --rate N               calls/s in all: open loop. Latency counts from when a call was due, so stalls are charged in full\n"
	"  --timeout DURATION     deadline of each call of next (default: none)\n"
	"  --server HOST:PORT     (default: $ORDINAL_SERVER, else " TOOL_SERVER_DEFAULT ")\n"
	"  --pin CPULIST          CPUs for the threads, such as 1 or 2-5,8\n"
	"  --live                 a line on standard error twice a second, even where that is no terminal\n"
	"  --json                 the report as one object\n\n"
	"The clock is read once a loop turn for sending and once for receiving. IDs are remembered as bits, 64 KiB for each 524,288 in a row, let\n"
	"go when complete; at most 1 GiB. Ctrl-C ends early, with the report.\n"
	"Exit code: 0 every call was answered with OK and the check holds, 1 not so, 2 wrong usage, 3 the server cannot be reached.\n";

enum {
	OPT_CONNECTIONS = 256,
	OPT_DEPTH,
	OPT_THREADS,
	OPT_DURATION,
	OPT_REQUESTS,
	OPT_WARMUP,
	OPT_PROTOCOL,
	OPT_METHOD,
	OPT_COUNT,
	OPT_SEQUENCE,
	OPT_RATE,
	OPT_TIMEOUT,
	OPT_SERVER,
	OPT_PIN,
	OPT_LIVE,
	OPT_JSON,
	OPT_HELP
};
static const struct option options[] = {
	{"connections", required_argument, NULL, OPT_CONNECTIONS},
	{"depth", required_argument, NULL, OPT_DEPTH},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"duration", required_argument, NULL, OPT_DURATION},
	{"requests", required_argument, NULL, OPT_REQUESTS},
	{"warmup", required_argument, NULL, OPT_WARMUP},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"method", required_argument, NULL, OPT_METHOD},
	{"count", required_argument, NULL, OPT_COUNT},
	{"sequence", required_argument, NULL, OPT_SEQUENCE},
	{"rate", required_argument, NULL, OPT_RATE},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"server", required_argument, NULL, OPT_SERVER},
	{"pin", required_argument, NULL, OPT_PIN},
	{"live", no_argument, NULL, OPT_LIVE},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static int u32_option(const char *name, uint32_t max, uint32_t *ret)
{
	uint64_t v;
	int r = tool_u64(name, optarg, 1, max, &v);
	if (r == 0)
		*ret = (uint32_t)v;
	return r;
}

static int method_option(struct load_opts *o)
{
	if (strcmp(optarg, "next") == 0)
		o->method = METHOD_IDS_NEXT;
	else if (strcmp(optarg, "take") == 0)
		o->method = METHOD_IDS_TAKE;
	else {
		fprintf(stderr, "ordinal: --method takes next or take, not \"%s\"\n", optarg);
		return -EINVAL;
	}
	return 0;
}

static int rate_option(struct load_opts *o)
{
	char *end;
	double v = strtod(optarg, &end);
	if (end == optarg || *end || !(v > 0 && v <= 1e9)) {
		fprintf(stderr, "ordinal: --rate takes calls per second, above 0, not \"%s\"\n", optarg);
		return -EINVAL;
	}
	o->rate = v;
	return 0;
}

/* "1", "0,2", "2-5,8". */
static int pin_option(struct load_opts *o)
{
	const char *p = optarg;
	cpu_set_t mine;
	sched_getaffinity(0, sizeof mine, &mine);
	o->cpus_n = 0;
	for (;;) {
		char *end;
		unsigned long a = strtoul(p, &end, 10), b = a;
		bool ok = end != p;
		if (ok && *end == '-') {
			p = end + 1;
			b = strtoul(p, &end, 10);
			ok = end != p;
		}
		ok = ok && a <= b && b < CPU_SETSIZE && (*end == 0 || *end == ',');
		for (; ok && a <= b && o->cpus_n < LOAD_CPUS_MAX; a++) {
			ok = CPU_ISSET(a, &mine);
			o->cpus[o->cpus_n++] = (int)a;
		}
		if (!ok) {
			fprintf(stderr,
				"ordinal: --pin takes a list of CPUs that this process may use, such as 1 or 2-5,8, not \"%s\"\n",
				optarg);
			return -EINVAL;
		}
		if (*end == 0)
			return 0;
		p = end + 1;
	}
}

static int take_option(struct load_opts *o, int opt)
{
	switch (opt) {
	case OPT_CONNECTIONS:
		return u32_option("--connections", CONNECTIONS_MAX, &o->connections);
	case OPT_DEPTH:
		return u32_option("--depth", DEPTH_MAX, &o->depth);
	case OPT_THREADS:
		return u32_option("--threads", LOAD_THREADS_MAX, &o->threads);
	case OPT_DURATION:
		return tool_duration("--duration", optarg, &o->duration_ns);
	case OPT_REQUESTS:
		return tool_u64("--requests", optarg, 1, UINT64_MAX / 2, &o->requests);
	case OPT_WARMUP:
		return tool_duration("--warmup", optarg, &o->warmup_ns);
	case OPT_PROTOCOL:
		return tool_protocol("--protocol", optarg, &o->protocol);
	case OPT_METHOD:
		return method_option(o);
	case OPT_COUNT:
		return u32_option("--count", UINT32_MAX, &o->count);
	case OPT_SEQUENCE:
		o->sequence = (struct span){(const uint8_t *)optarg, strlen(optarg)};
		return 0;
	case OPT_RATE:
		return rate_option(o);
	case OPT_TIMEOUT:
		return tool_duration("--timeout", optarg, &o->timeout_ns);
	case OPT_SERVER:
		o->server = optarg;
		return 0;
	case OPT_PIN:
		return pin_option(o);
	case OPT_LIVE:
		o->live = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* 0; TOOL_USAGE; or -1 after --help. */
static int read_options(struct load_opts *o, int argc, char **argv)
{
	int opt;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return -1;
		}
		if (take_option(o, opt))
			return tool_usage("load");
	}
	if (optind < argc) {
		fprintf(stderr, "ordinal: load takes no argument \"%s\"\n", argv[optind]);
		return tool_usage("load");
	}
	if ((uint64_t)o->connections * o->depth > SLOTS_MAX) {
		fprintf(stderr, "ordinal: --connections times --depth may be %u at the most\n", SLOTS_MAX);
		return tool_usage("load");
	}
	if (o->method == METHOD_IDS_TAKE && o->timeout_ns) {
		fprintf(stderr,
			"ordinal: --timeout is the deadline of a call, and --method take is one call for the whole run\n");
		return tool_usage("load");
	}
	if (o->threads > o->connections)
		o->threads = o->connections;
	if (o->duration_ns == 0)
		o->duration_ns = o->requests ? UINT64_MAX : 10 * NS_PER_S;
	return 0;
}

/* ---- the run ---- */

static void add_counts(struct load_counts *to, const struct load_counts *from)
{
	hist_merge(&to->latency, &from->latency);
	to->calls += __atomic_load_n(&from->calls, __ATOMIC_RELAXED);
	to->items += __atomic_load_n(&from->items, __ATOMIC_RELAXED);
	for (unsigned i = 0; i <= LOAD_STATUS_OTHER; i++)
		to->by_status[i] += __atomic_load_n(&from->by_status[i], __ATOMIC_RELAXED);
	to->unprocessed += __atomic_load_n(&from->unprocessed, __ATOMIC_RELAXED);
	to->unsent += __atomic_load_n(&from->unsent, __ATOMIC_RELAXED);
	to->disordered += __atomic_load_n(&from->disordered, __ATOMIC_RELAXED);
	to->disordered_here += __atomic_load_n(&from->disordered_here, __ATOMIC_RELAXED);
	to->lost += __atomic_load_n(&from->lost, __ATOMIC_RELAXED);
}

static void sum_counts(struct load_counts *sum, const struct load_worker *workers, uint32_t n)
{
	memset(sum, 0, sizeof *sum);
	hist_init(&sum->latency);
	for (uint32_t i = 0; i < n; i++)
		add_counts(sum, &workers[i].counts);
}

struct live {
	bool on, tty, drawn;
	uint64_t start_ns, last_ns;
	struct load_counts now, before;
};

/* The quantile of what was added since the last line. */
static double interval_quantile(const struct live *l, double q)
{
	static struct hist d;
	hist_init(&d);
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		d.bucket[i] = l->now.latency.bucket[i] - l->before.latency.bucket[i];
	d.count = l->now.latency.count - l->before.latency.count;
	d.max = l->now.latency.max;
	return (double)hist_quantile(&d, q) / 1e3;
}

static void live_line(struct live *l, const struct load_worker *workers, uint32_t n)
{
	uint64_t now = clock_mono_ns();
	if (!l->on || now - l->last_ns < LIVE_NS)
		return;
	sum_counts(&l->now, workers, n);
	fprintf(stderr, "%s%6.1f s  %12.0f calls/s  p50 %.1f us  p99 %.1f us  errors %" PRIu64 "%s", l->tty ? "\r" : "",
		(double)(now - l->start_ns) / 1e9,
		(double)(l->now.calls - l->before.calls) * 1e9 / (double)(now - l->last_ns), interval_quantile(l, 0.5),
		interval_quantile(l, 0.99), l->now.calls - l->now.by_status[GRPC_OK], l->tty ? "\033[K" : "\n");
	fflush(stderr);
	l->drawn = true;
	l->before = l->now;
	l->last_ns = now;
}

static void set_phase(struct load *load, int phase)
{
	atomic_store_explicit(&load->phase, phase, memory_order_relaxed);
}

/* Until `due_ns`, all workers have ended, or a signal. Returns true for the signal. */
static bool wait_until(struct load *load, uint64_t due_ns, struct live *live, const struct load_worker *workers,
		       const atomic_uint *goal)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	uint32_t n = load->opts.threads;
	for (;;) {
		uint64_t now = clock_mono_ns();
		if (now >= due_ns || atomic_load(&load->ended) == n || (goal && atomic_load(goal) == n) ||
		    atomic_load(&load->failed))
			return false;
		uint64_t nap = due_ns - now < TICK_NS ? due_ns - now : TICK_NS;
		if (sigtimedwait(&signals, NULL, &(struct timespec){.tv_nsec = (long)nap}) > 0)
			return true;
		if (live)
			live_line(live, workers, n);
	}
}

/* All phases. *ret_start_ns: when measuring began, or 0 if it never did. */
static void conduct(struct load *load, const struct load_worker *workers, uint64_t *ret_start_ns)
{
	static struct live live;
	const struct load_opts *o = &load->opts;
	bool stop = wait_until(load, UINT64_MAX, NULL, workers, &load->connected);
	*ret_start_ns = 0;
	if (!stop && o->warmup_ns && !atomic_load(&load->failed)) {
		set_phase(load, LOAD_WARMUP);
		stop = wait_until(load, clock_mono_ns() + o->warmup_ns, NULL, workers, NULL);
	}
	if (!stop && !atomic_load(&load->failed)) {
		uint64_t now = *ret_start_ns = clock_mono_ns();
		live.tty = isatty(STDERR_FILENO);
		live.on = o->live || live.tty;
		live.start_ns = live.last_ns = now;
		set_phase(load, LOAD_MEASURE);
		wait_until(load, o->duration_ns > UINT64_MAX - now ? UINT64_MAX : now + o->duration_ns, &live, workers,
			   NULL);
		if (live.drawn && live.tty)
			fputc('\n', stderr);
	}
	set_phase(load, LOAD_STOP);
}

/* *ret_started: threads to be joined, also on failure. */
static int start_workers(struct load *load, struct load_worker *workers, uint32_t *ret_started)
{
	const struct load_opts *o = &load->opts;
	memset(workers, 0, o->threads * sizeof *workers);
	for (uint32_t i = 0; i < o->threads; i++) {
		struct load_worker *w = &workers[i];
		w->load = load;
		w->number = i;
		w->connections = o->connections / o->threads + (i < o->connections % o->threads);
		int r = pthread_create(&w->thread, NULL, load_worker_run, w);
		*ret_started = i + (r == 0);
		if (r)
			return -r;
	}
	return 0;
}

static void total(struct load_totals *t, const struct load *load, const struct load_worker *workers, uint64_t start_ns)
{
	sum_counts(&t->counts, workers, load->opts.threads);
	check_pages_result(load->pages, &t->check);
	t->depth = load->opts.depth;
	for (uint32_t i = 0; i < load->opts.threads; i++) {
		const struct load_worker *w = &workers[i];
		if (start_ns && w->ended_ns > start_ns && w->ended_ns - start_ns > t->elapsed_ns)
			t->elapsed_ns = w->ended_ns - start_ns;
		t->cpu_ns += w->cpu_ns;
		t->gone += w->gone;
		t->sharded |= w->sharded;
		if (w->depth < t->depth)
			t->depth = w->depth;
		if (w->why[0] && !t->why)
			t->why = w->why;
	}
}

static void raise_fd_limit(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int finish(const struct load *load, const struct load_worker *workers, uint64_t start_ns)
{
	static struct load_totals t;
	const struct load_opts *o = &load->opts;
	for (uint32_t i = 0; i < o->threads; i++) {
		if (atomic_load(&load->failed) && workers[i].err && workers[i].err != -EINTR)
			return tool_unreachable(o->server, workers[i].why);
		if (!atomic_load(&load->failed) && workers[i].err)
			fprintf(stderr, "ordinal: thread %" PRIu32 " stopped: %s\n", i, workers[i].why);
	}
	if (atomic_load(&load->failed)) {
		fprintf(stderr, "ordinal: stopped before all connections stood\n");
		return TOOL_FAILED;
	}
	total(&t, load, workers, start_ns);
	if (t.depth < o->depth)
		fprintf(stderr,
			"ordinal: the server allows %" PRIu32 " calls in flight on a connection; --depth %" PRIu32
			" was lowered to that\n",
			t.depth, o->depth);
	return load_report(o, &t) ? TOOL_OK : TOOL_FAILED;
}

static int run(struct load *load)
{
	const struct load_opts *o = &load->opts;
	struct load_worker *workers = aligned_alloc(CACHE_LINE, o->threads * sizeof *workers);
	sigset_t signals;
	uint64_t start_ns = 0;
	uint32_t started = 0;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	raise_fd_limit();
	load->pages = check_pages_new(CHECK_PAGES_MAX);
	int r = workers && load->pages ? start_workers(load, workers, &started) : -ENOMEM;
	if (r)
		set_phase(load, LOAD_STOP);
	else
		conduct(load, workers, &start_ns);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	if (r) {
		fprintf(stderr, "ordinal: cannot start: %s\n", strerror(-r));
		r = TOOL_FAILED;
	} else {
		r = finish(load, workers, start_ns);
	}
	free(workers);
	check_pages_free(load->pages);
	return r;
}

int cmd_load(int argc, char **argv)
{
	static struct load load;
	struct load_opts *o = &load.opts;
	*o = (struct load_opts){.server = tool_server(),
				.token = tool_token(),
				.protocol = CHANNEL_NATIVE,
				.method = METHOD_IDS_NEXT,
				.count = 1,
				.connections = 5,
				.depth = 20,
				.threads = 1};
	int r = read_options(o, argc, argv);
	if (r)
		return r < 0 ? TOOL_OK : r;
	const char *why;
	if (address_resolve(o->server, &o->address, &why))
		return tool_unreachable(o->server, why);
	return run(&load);
}
