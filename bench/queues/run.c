/* The runs of run.h: threads in a child process, and the watch over it.
 *
 * The child's main thread starts all threads, waits until they are ready, notes the time and lets them go; so the
 * start is common, and when each of them first gets a CPU is the scheduler's doing and part of what is measured.
 */
#include "run.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "ticks.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Exit codes of the child. */
enum { CHILD_OK, CHILD_REFUSED = 10, CHILD_WRONG, CHILD_FAILED };

struct bench_thread {
	struct bench *bench;
	struct bench_peer *peer;
	unsigned who, index; /* index: over all threads, for pinning */
	bool producer;
	uint64_t quota; /* items to move; consumers of a flow: UINT64_MAX */
	pthread_t thread;
};

struct bench {
	const struct bench_opts *opts;
	const struct ticks *ticks;
	struct bench_result *r;
	struct family_queue *q;
	pthread_barrier_t gate;
	atomic_uint ready;
	uint64_t start_ns;
};

static void pin_to(unsigned index)
{
	cpu_set_t all, one;
	unsigned nth;

	if (sched_getaffinity(0, sizeof all, &all) != 0)
		return;
	nth = index % (unsigned)CPU_COUNT(&all);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && nth-- == 0) {
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			if (pthread_setaffinity_np(pthread_self(), sizeof one, &one) != 0)
				fprintf(stderr, "cannot pin a thread to CPU %d\n", cpu);
			return;
		}
}

static void note_latency(struct bench_thread *t, uint64_t begin)
{
	uint64_t ticks = ticks_end() - begin, overhead = t->bench->ticks->overhead;

	hist_add(&t->peer->latency, ticks > overhead ? ticks - overhead : 0, 1);
}

/* Items are a producer's number and a count, so that sums tell them apart and runs are consecutive. */
static int put(struct bench_thread *t, uint64_t first, unsigned n, uint64_t *buf)
{
	struct bench *b = t->bench;

	if (b->r->ops->enqueue_range != NULL)
		return family_enqueue_range(b->q, t->who, first, n, true) == 0 ? (int)n : -EPIPE;
	for (unsigned i = 0; i < n; i++)
		buf[i] = first + i;
	return family_enqueue_batch(b->q, t->who, buf, n, true);
}

static void produce(struct bench_thread *t)
{
	uint64_t buf[BENCH_BATCH_MAX], moved = 0, sum = 0;
	unsigned batch = t->bench->r->put_batch, until_sample = t->bench->opts->sample;

	while (moved < t->quota) {
		unsigned n = t->quota - moved < batch ? (unsigned)(t->quota - moved) : batch;
		uint64_t first = ((uint64_t)t->who << 40) + moved + 1;
		bool timed = --until_sample == 0;
		uint64_t begin = timed ? ticks_begin() : 0;
		int r = put(t, first, n, buf);

		if (timed) {
			note_latency(t, begin);
			until_sample = t->bench->opts->sample;
		}
		if (r <= 0)
			break;
		sum += (unsigned)r * first + (uint64_t)(unsigned)r * ((unsigned)r - 1) / 2;
		moved += (unsigned)r;
		atomic_store_explicit(&t->peer->items, moved, memory_order_relaxed);
	}
	t->peer->sum = sum;
}

static void consume(struct bench_thread *t)
{
	uint64_t buf[BENCH_BATCH_MAX], moved = 0, sum = 0;
	unsigned batch = t->bench->opts->batch, until_sample = t->bench->opts->sample;

	while (moved < t->quota) {
		unsigned n = t->quota - moved < batch ? (unsigned)(t->quota - moved) : batch;
		bool timed = --until_sample == 0;
		uint64_t begin = timed ? ticks_begin() : 0;
		int r = family_dequeue_batch(t->bench->q, t->who, buf, n, true);

		if (timed) {
			note_latency(t, begin);
			until_sample = t->bench->opts->sample;
		}
		if (r <= 0)
			break;
		for (int i = 0; i < r; i++)
			sum += buf[i];
		moved += (unsigned)r;
		atomic_store_explicit(&t->peer->items, moved, memory_order_relaxed);
	}
	t->peer->sum = sum;
}

static void *thread_main(void *arg)
{
	struct bench_thread *t = arg;
	struct rusage ru;

	if (t->bench->opts->pin)
		pin_to(t->index);
	atomic_fetch_add(&t->bench->ready, 1);
	pthread_barrier_wait(&t->bench->gate);
	if (t->producer)
		produce(t);
	else
		consume(t);
	t->peer->ns = clock_mono_ns() - t->bench->start_ns;
	if (getrusage(RUSAGE_THREAD, &ru) == 0) {
		t->peer->cpu_ns = (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * NS_PER_S +
				  (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) * NS_PER_US;
		t->peer->switches[0] = (uint64_t)ru.ru_nvcsw;
		t->peer->switches[1] = (uint64_t)ru.ru_nivcsw;
	}
	atomic_store_explicit(&t->peer->finished, true, memory_order_release);
	return NULL;
}

/* Fills the queue for a prefilled run: each consumer's quota, and as much more as ranges begun and not finished can
 * hold back. */
static int prefill(struct bench *b, uint64_t items)
{
	struct bench_thread filler = {.bench = b};
	uint64_t buf[BENCH_BATCH_MAX];

	for (uint64_t i = 0; i < items; i += b->r->put_batch)
		if (put(&filler, i + 1, b->r->put_batch, buf) <= 0)
			return -ENOSPC;
	return 0;
}

static int open_queue(struct bench *b)
{
	const struct bench_opts *o = b->opts;
	struct bench_result *r = b->r;
	struct family_opts fo = {
		.capacity = r->capacity, .producers = r->producers ? r->producers : 1, .consumers = r->consumers};
	uint64_t fill = o->items + (uint64_t)r->consumers * r->put_batch * 2;
	int err;

	if (o->prefill) {
		uint64_t elements = r->ops->enqueue_range != NULL ? fill / r->put_batch + r->consumers
								  : fill + r->put_batch;

		if (2 * elements > FAMILY_CAPACITY_MAX)
			return -EINVAL;
		fo.capacity = (uint32_t)(2 * elements); /* some members use half */
		if (fo.capacity < 64 * r->consumers)
			fo.capacity = 64 * r->consumers;
	}
	err = family_init(r->ops, &fo, &b->q);
	if (err == 0 && o->prefill)
		err = prefill(b, fill);
	return err;
}

/* What each consumer takes in a prefilled run. */
static uint64_t quota(const struct bench *b)
{
	CHECK(b->r->consumers > 0);
	return b->opts->items / b->r->consumers;
}

static bool balanced(const struct bench *b)
{
	uint64_t in = 0, out = 0, sum = 0;

	for (unsigned i = 0; i < b->r->producers; i++) {
		in += atomic_load(&b->r->peers[i].items);
		sum += b->r->peers[i].sum;
	}
	for (unsigned i = b->r->producers; i < b->r->producers + b->r->consumers; i++) {
		out += atomic_load(&b->r->peers[i].items);
		sum -= b->r->peers[i].sum;
	}
	return b->opts->prefill ? out == quota(b) * b->r->consumers : in == out && sum == 0 && in == b->opts->items;
}

static uint64_t part(uint64_t whole, unsigned n, unsigned i)
{
	return whole / n + (i < whole % n);
}

static int child_main(struct bench *b)
{
	unsigned producers = b->r->producers, n = producers + b->r->consumers;
	struct bench_thread *threads;
	int err = open_queue(b);

	if (err == -EINVAL)
		return CHILD_REFUSED;
	CHECK(n > 0);
	threads = calloc(n, sizeof *threads);
	if (err != 0 || threads == NULL || pthread_barrier_init(&b->gate, NULL, n + 1) != 0)
		return CHILD_FAILED;
	for (unsigned i = 0; i < n; i++) {
		struct bench_thread *t = &threads[i];

		t->bench = b;
		t->peer = &b->r->peers[i];
		t->index = i;
		t->producer = i < producers;
		t->who = t->producer ? i : i - producers;
		if (t->producer)
			t->quota = part(b->opts->items, producers, i);
		else
			t->quota = b->opts->prefill ? quota(b) : UINT64_MAX;
		if (pthread_create(&t->thread, NULL, thread_main, t) != 0)
			return CHILD_FAILED;
	}
	while (atomic_load(&b->ready) < n)
		usleep(100);
	b->start_ns = clock_mono_ns();
	pthread_barrier_wait(&b->gate);
	for (unsigned i = 0; i < producers; i++)
		pthread_join(threads[i].thread, NULL);
	if (!b->opts->prefill)
		family_close(b->q);
	for (unsigned i = producers; i < n; i++)
		pthread_join(threads[i].thread, NULL);
	family_done(b->q);
	free(threads);
	return balanced(b) ? CHILD_OK : CHILD_WRONG;
}

static uint64_t moved_by(const struct bench_result *r, unsigned from, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = from; i < from + n; i++)
		sum += atomic_load_explicit(&r->peers[i].items, memory_order_relaxed);
	return sum;
}

/* Until the child has ended or has made no progress for too long. */
static enum bench_outcome watch(pid_t child, const struct bench_opts *opts, const struct bench_result *r,
				bench_progress *progress)
{
	uint64_t seen = UINT64_MAX, since = clock_mono_ns(), told = since;
	int status;

	while (waitpid(child, &status, WNOHANG) == 0) {
		uint64_t out = moved_by(r, r->producers, r->consumers), now = clock_mono_ns();
		uint64_t all = out + moved_by(r, 0, r->producers);

		if (all != seen) {
			seen = all;
			since = now;
		} else if (now - since > opts->stall_s * NS_PER_S) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			return BENCH_HUNG;
		}
		if (now - told >= 100 * NS_PER_MS) {
			told = now;
			progress(r, out, opts->items);
		}
		usleep(5000);
	}
	if (!WIFEXITED(status))
		return BENCH_CRASHED;
	switch (WEXITSTATUS(status)) {
	case CHILD_OK:
		return BENCH_OK;
	case CHILD_REFUSED:
		return BENCH_REFUSED;
	case CHILD_WRONG:
		return BENCH_WRONG;
	default:
		return BENCH_CRASHED;
	}
}

static unsigned at_most(unsigned n, unsigned max)
{
	return max != 0 && n > max ? max : n;
}

void bench_run(const struct family_ops *ops, const struct bench_opts *opts, bench_progress *progress,
	       struct bench_result *ret)
{
	struct bench b = {.opts = opts, .ticks = ticks_init(), .r = ret};
	unsigned n;
	pid_t child;

	memset(ret, 0, sizeof *ret);
	ret->ops = ops;
	ret->producers = opts->prefill ? 0 : at_most(opts->producers, ops->producers_max);
	ret->consumers = at_most(opts->consumers, ops->consumers_max);
	ret->put_batch = ops->enqueue_range != NULL && opts->range > opts->batch ? opts->range : opts->batch;
	ret->capacity = opts->capacity;
	if (ops->enqueue_range != NULL) { /* the bound counts ranges: the same number of items */
		uint32_t least = ops->lanes ? ret->consumers : ops->capacity_min;

		ret->capacity = opts->capacity / ret->put_batch > least ? opts->capacity / ret->put_batch : least;
	}
	n = ret->producers + ret->consumers;
	ret->peers_size = n * sizeof *ret->peers;
	ret->peers = mmap(NULL, ret->peers_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(ret->peers != MAP_FAILED);
	for (unsigned i = 0; i < n; i++)
		hist_init(&ret->peers[i].latency);
	fflush(NULL);
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(child_main(&b));
	ret->outcome = watch(child, opts, ret, progress);
	for (unsigned i = ret->producers; i < n; i++)
		if (ret->peers[i].ns > ret->wall_ns)
			ret->wall_ns = ret->peers[i].ns;
}

void bench_result_done(struct bench_result *r)
{
	munmap(r->peers, r->peers_size);
}

double bench_items_per_second(const struct bench_result *r)
{
	return r->wall_ns > 0 ? (double)moved_by(r, r->producers, r->consumers) * 1e9 / (double)r->wall_ns : 0;
}

/* Slower before faster, and those that went wrong before all others. */
static int compare_runs(const void *a, const void *b)
{
	const struct bench_result *x = a, *y = b;
	double rx = bench_items_per_second(x), ry = bench_items_per_second(y);

	if ((x->outcome != BENCH_OK) != (y->outcome != BENCH_OK))
		return x->outcome != BENCH_OK ? -1 : 1;
	return (rx > ry) - (rx < ry);
}

void bench_median(struct bench_result *runs, unsigned n, struct bench_result *ret)
{
	unsigned chosen;

	CHECK(n > 0);
	qsort(runs, n, sizeof *runs, compare_runs);
	chosen = runs[0].outcome != BENCH_OK ? 0 : n / 2;
	*ret = runs[chosen];
	ret->lowest = bench_items_per_second(&runs[0]);
	ret->highest = bench_items_per_second(&runs[n - 1]);
	for (unsigned i = 0; i < n; i++)
		if (i != chosen)
			bench_result_done(&runs[i]);
}

/* Jain's index of n values, and the least over the mean. */
static double jain(const double *x, unsigned n, double *ret_least)
{
	double sum = 0, squares = 0, least = n > 0 ? x[0] : 0;

	for (unsigned i = 0; i < n; i++) {
		sum += x[i];
		squares += x[i] * x[i];
		if (x[i] < least)
			least = x[i];
	}
	*ret_least = sum > 0 ? least * n / sum : 0;
	return squares > 0 ? sum * sum / (n * squares) : 0;
}

static double rate_of(const struct bench_peer *p)
{
	return p->ns > 0 ? (double)atomic_load(&p->items) * 1e9 / (double)p->ns : 0;
}

bool bench_is_starved(const struct bench_result *r, unsigned c, uint64_t items)
{
	const struct bench_peer *p = &r->peers[r->producers + c];

	return !atomic_load(&p->finished) || atomic_load(&p->items) * r->consumers * 10 < items;
}

void bench_summarize(const struct bench_result *r, struct bench_summary *ret)
{
	unsigned n = r->producers + r->consumers;
	double *rates = calloc(n, sizeof *rates), ignored;

	CHECK(rates != NULL);
	memset(ret, 0, sizeof *ret);
	hist_init(&ret->put);
	hist_init(&ret->take);
	for (unsigned i = 0; i < n; i++) {
		const struct bench_peer *p = &r->peers[i];

		rates[i] = rate_of(p);
		hist_merge(i < r->producers ? &ret->put : &ret->take, &p->latency);
		ret->cpu_s += (double)p->cpu_ns / 1e9;
		ret->switches[0] += p->switches[0];
		ret->switches[1] += p->switches[1];
		if (i >= r->producers) {
			ret->items += atomic_load(&p->items);
			ret->finished += atomic_load(&p->finished);
		}
	}
	ret->items_per_second = bench_items_per_second(r);
	ret->producers_jain = jain(rates, r->producers, &ignored);
	ret->jain = jain(rates + r->producers, r->consumers, &ret->slowest);
	for (unsigned c = 0; c < r->consumers; c++)
		ret->starved += bench_is_starved(r, c, ret->items);
	free(rates);
}
