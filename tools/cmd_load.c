/* `ordinal load`: the threads, the phases, the live line, and the end. The loop of a thread is load_worker.c, or subs.c.
 *
 * Main thread: it changes the phase (connect, warm up, measure, stop) that the workers look at once a loop turn, and reads their counters. SIGINT and
 * SIGTERM are blocked everywhere and taken here with sigtimedwait, so an early end is just another reason to stop. */
#include "tools/credentials.h"
#include "tools/load.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LIVE_NS (500 * NS_PER_MS)
#define TICK_NS (5 * NS_PER_MS)
#define SILENCE_NS (10 * NS_PER_S) /* of what subscribers wait for, at the end */
#define CHECK_PAGES_MAX 16384u     /* 1 GiB of IDs with holes around them */

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
	to->elsewhere += __atomic_load_n(&from->elsewhere, __ATOMIC_RELAXED);
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
	struct subs_counts subs_now, subs_before;
};

/* The quantile of what was added since the last line. */
static double interval_quantile(const struct hist *now, const struct hist *before, double q)
{
	static struct hist d;
	hist_init(&d);
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		d.bucket[i] = now->bucket[i] - before->bucket[i];
	d.count = now->count - before->count;
	d.max = now->max;
	return (double)hist_quantile(&d, q) / 1e3;
}

static void live_line(struct live *l, const struct load *load, const struct load_worker *workers)
{
	uint64_t now = clock_mono_ns();
	bool subs = load->opts.kind >= LOAD_FANOUT;
	if (!l->on || now - l->last_ns < LIVE_NS || tool_would_wait(STDERR_FILENO))
		return;
	const struct hist *h = subs ? &l->subs_now.latency : &l->now.latency,
			  *h_before = subs ? &l->subs_before.latency : &l->before.latency;
	double per_second = 1e9 / (double)(now - l->last_ns);
	sum_counts(&l->now, workers, load->opts.threads);
	if (subs)
		subs_sum(&load->subs, &l->subs_now);
	fprintf(stderr, "%s%6.1f s", l->tty ? "\r" : "", (double)(now - l->start_ns) / 1e9);
	if (load->opts.kind != LOAD_SUBSCRIBE)
		fprintf(stderr, "  %12.0f calls/s", (double)(l->now.calls - l->before.calls) * per_second);
	if (subs)
		fprintf(stderr, "  %12.0f deliveries/s",
			(double)(l->subs_now.deliveries - l->subs_before.deliveries) * per_second);
	fprintf(stderr, "  p50 %.1f us  p99 %.1f us  errors %" PRIu64 "%s", interval_quantile(h, h_before, 0.5),
		interval_quantile(h, h_before, 0.99), load_errors(&l->now) + l->subs_now.lost,
		l->tty ? "\033[K" : "\n");
	fflush(stderr);
	l->drawn = true;
	l->before = l->now;
	l->subs_before = l->subs_now;
	l->last_ns = now;
}

static void set_phase(struct load *load, int phase)
{
	atomic_store_explicit(&load->phase, phase, memory_order_relaxed);
}

enum wait_for { WAIT_CONNECTED, WAIT_CAUGHT_UP, WAIT_WORKERS, WAIT_SUBS, WAIT_TIME };

static bool subs_have_ended(const struct load *load)
{
	return load->opts.kind >= LOAD_FANOUT && atomic_load(&load->subs.ended) == load->subs.opts.threads;
}

static bool reached(const struct load *load, enum wait_for what)
{
	const struct load_opts *o = &load->opts;
	bool subs = o->kind >= LOAD_FANOUT;
	if (atomic_load(&load->failed) || (subs && atomic_load(&load->subs.failed)))
		return true;
	switch (what) {
	case WAIT_CONNECTED:
		return atomic_load(&load->connected) == o->threads &&
		       (!subs || subs_ready(&load->subs) == o->subscribers);
	case WAIT_CAUGHT_UP:
		return subs_ready(&load->subs) == o->subscribers || subs_have_ended(load);
	case WAIT_SUBS:
		return subs_have_ended(load);
	default:
		return (o->threads && atomic_load(&load->ended) == o->threads) || subs_have_ended(load);
	}
}

/* Until it is reached, `due_ns`, a failure or a signal. Returns true for the signal. */
static bool wait_until(struct load *load, enum wait_for what, uint64_t due_ns, struct live *live,
		       const struct load_worker *workers)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	for (;;) {
		uint64_t now = clock_mono_ns();
		if (now >= due_ns || reached(load, what))
			return false;
		uint64_t nap = due_ns - now < TICK_NS ? due_ns - now : TICK_NS;
		if (sigtimedwait(&signals, NULL, &(struct timespec){.tv_nsec = (long)nap}) > 0)
			return true;
		if (live)
			live_line(live, load, workers);
	}
}

static bool has_failed(const struct load *load)
{
	return atomic_load(&load->failed) || (load->opts.kind >= LOAD_FANOUT && atomic_load(&load->subs.failed));
}

/* From the time when all stands to the end of measuring. Returns when measuring began. */
static uint64_t measure(struct load *load, const struct load_worker *workers)
{
	static struct live live;
	const struct load_opts *o = &load->opts;
	/* A subscriber alone reads to the end of history, however long, unless it was told for how long. */
	bool to_the_end = o->kind == LOAD_SUBSCRIBE && !o->duration_given;
	uint64_t now = clock_mono_ns(), due = o->duration_ns > UINT64_MAX - now ? UINT64_MAX : now + o->duration_ns;
	live.tty = isatty(STDERR_FILENO);
	live.on = o->live || live.tty;
	live.start_ns = live.last_ns = now;
	if (o->kind >= LOAD_FANOUT)
		subs_set_phase(&load->subs, to_the_end ? SUBS_FINISH : SUBS_MEASURE);
	set_phase(load, LOAD_MEASURE);
	wait_until(load, to_the_end ? WAIT_SUBS : WAIT_TIME, to_the_end ? UINT64_MAX : due, &live, workers);
	if (live.drawn && live.tty)
		fputc('\n', stderr);
	return now;
}

/* All phases. *ret_start_ns: when measuring began, or 0 if it never did. */
static void conduct(struct load *load, const struct load_worker *workers, uint64_t *ret_start_ns)
{
	const struct load_opts *o = &load->opts;
	bool stop = wait_until(load, WAIT_CONNECTED, UINT64_MAX, NULL, workers);
	*ret_start_ns = 0;
	if (!stop && !has_failed(load) && o->kind == LOAD_FANOUT) {
		subs_set_phase(&load->subs, SUBS_BEGIN);
		stop = wait_until(load, WAIT_CAUGHT_UP, UINT64_MAX, NULL, workers);
	}
	if (!stop && o->warmup_ns && !has_failed(load)) {
		set_phase(load, LOAD_WARMUP);
		stop = wait_until(load, WAIT_TIME, clock_mono_ns() + o->warmup_ns, NULL, workers);
	}
	if (!stop && !has_failed(load))
		*ret_start_ns = measure(load, workers);
	set_phase(load, LOAD_STOP);
}

/* *ret_started: threads to be joined, also on failure. */
static int start_workers(struct load *load, struct load_worker *workers, uint32_t *ret_started)
{
	const struct load_opts *o = &load->opts;
	uint32_t first = 0;
	memset(workers, 0, o->threads * sizeof *workers);
	for (uint32_t i = 0; i < o->threads; i++) {
		struct load_worker *w = &workers[i];
		w->load = load;
		w->number = i;
		w->connections = o->connections / o->threads + (i < o->connections % o->threads);
		w->publisher_first = first;
		first += w->connections;
		int r = pthread_create(&w->thread, NULL, load_worker_run, w);
		*ret_started = i + (r == 0);
		if (r)
			return -r;
	}
	return 0;
}

static int start_subs(struct load *load)
{
	const struct load_opts *o = &load->opts;
	bool fanout = o->kind == LOAD_FANOUT;
	struct subs_opts s = {.address = o->address,
			      .server = o->server,
			      .protocol = o->protocol,
			      .stream = o->stream,
			      .since = fanout ? o->seq_base : o->since,
			      .slow = o->slow,
			      .verify = o->verify,
			      .subscribers = o->subscribers,
			      .threads = o->sub_threads,
			      .publishers = fanout ? o->connections : 0,
			      .run = fanout ? o->run : 0,
			      .silence_ns = SILENCE_NS,
			      .cpus = o->cpus,
			      .cpus_n = o->cpus_n,
			      .cpu_first = o->threads};
	struct channel_opts shown = {0};
	credentials_fill(&shown);
	s.token = shown.token;
	s.tls = shown.tls;
	s.tls_name = shown.tls_name;
	return subs_start(&load->subs, &s);
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
		t->durability = w->durability > t->durability ? w->durability : t->durability;
		if (w->depth < t->depth)
			t->depth = w->depth;
		if (w->why[0] && !t->why)
			t->why = w->why;
	}
	if (load->opts.kind < LOAD_FANOUT)
		return;
	subs_sum(&load->subs, &t->subs);
	subs_result(&load->subs, load->acked, &t->subs_result);
	if (start_ns && t->subs_result.last_ns > start_ns)
		t->subs_elapsed_ns = t->subs_result.last_ns - start_ns;
}

static void raise_fd_limit(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

/* TOOL_OK, or what went wrong before anything could be measured, after a sentence. */
static int explain_failure(const struct load *load, const struct load_worker *workers)
{
	const struct load_opts *o = &load->opts;
	for (uint32_t i = 0; i < o->threads; i++) {
		if (atomic_load(&load->failed) && workers[i].err && workers[i].err != -EINTR)
			return tool_unreachable(o->server, workers[i].why);
		if (!atomic_load(&load->failed) && workers[i].err)
			fprintf(stderr, "ordinal: thread %" PRIu32 " stopped: %s\n", i, workers[i].why);
	}
	if (!has_failed(load))
		return TOOL_OK;
	for (uint32_t i = 0; o->kind >= LOAD_FANOUT && i < load->subs.opts.threads; i++)
		if (load->subs.thread[i].err)
			return tool_unreachable(o->server, load->subs.thread[i].why);
	fprintf(stderr, "ordinal: stopped before all connections stood\n");
	return TOOL_FAILED;
}

static int finish(const struct load *load, const struct load_worker *workers, uint64_t start_ns)
{
	static struct load_totals t;
	const struct load_opts *o = &load->opts;
	int r = explain_failure(load, workers);
	if (r)
		return r;
	total(&t, load, workers, start_ns);
	if (t.depth < o->depth && o->threads)
		fprintf(stderr,
			"ordinal: the server allows %" PRIu32 " calls in flight on a connection; --depth %" PRIu32
			" was lowered to that\n",
			t.depth, o->depth);
	return (o->kind >= LOAD_FANOUT ? load_report_feed : load_report)(o, &t) ? TOOL_OK : TOOL_FAILED;
}

/* What was published is on its way: every subscriber has to get what was acknowledged. */
static void finish_subs(struct load *load)
{
	uint64_t goal = 0;
	for (uint32_t i = 0; i < load->opts.connections; i++)
		goal += load->acked[i];
	atomic_store(&load->subs.goal, goal);
	bool reads_on = load->opts.kind == LOAD_FANOUT && !has_failed(load) &&
			atomic_load(&load->subs.phase) >= SUBS_MEASURE;
	subs_set_phase(&load->subs, reads_on ? SUBS_FINISH : SUBS_STOP);
	if (reads_on && wait_until(load, WAIT_SUBS, UINT64_MAX, NULL, NULL))
		subs_set_phase(&load->subs, SUBS_STOP);
	subs_join(&load->subs);
}

static int run(struct load *load)
{
	const struct load_opts *o = &load->opts;
	bool subs = o->kind >= LOAD_FANOUT;
	struct load_worker *workers = aligned_alloc(CACHE_LINE, (o->threads ? o->threads : 1) * sizeof *workers);
	sigset_t signals;
	uint64_t start_ns = 0;
	uint32_t started = 0;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	raise_fd_limit();
	load->pages = check_pages_new(CHECK_PAGES_MAX);
	load->acked = calloc(o->connections, sizeof *load->acked);
	int r = workers && load->pages && load->acked ? start_workers(load, workers, &started) : -ENOMEM;
	if (r == 0 && subs)
		r = start_subs(load);
	if (r)
		set_phase(load, LOAD_STOP);
	else
		conduct(load, workers, &start_ns);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	if (subs && load->subs.thread)
		finish_subs(load);
	if (r) {
		fprintf(stderr, "ordinal: cannot start: %s\n", strerror(-r));
		r = TOOL_FAILED;
	} else {
		/* Nothing else is left to be stopped: a signal ends the program, whether somebody reads the report or not. */
		pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
		r = finish(load, workers, start_ns);
	}
	subs_free(&load->subs);
	free(workers);
	free(load->acked);
	check_pages_free(load->pages);
	return r;
}

int cmd_load(int argc, char **argv)
{
	static struct load load;
	struct load_opts *o = &load.opts;
	*o = (struct load_opts){.server = tool_server(),
				.kind = LOAD_IDS,
				.method = METHOD_IDS_NEXT,
				.count = 1,
				.depth = 20,
				.threads = 1,
				.stream = SPAN_LIT("load"),
				.size = 64,
				.subscribers = 1,
				.sub_threads = 1,
				.lag = 16384};
	int r = load_read_options(o, argc, argv);
	if (r)
		return r < 0 ? TOOL_OK : r;
	const char *why;
	if (address_resolve(o->server, &o->address, &why))
		return tool_unreachable(o->server, why);
	return run(&load);
}
