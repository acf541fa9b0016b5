/* The threads of subs.h: each has an epoll, a buffer and its share of the subscribers; the main thread moves them through the phases.
 *
 *   CONNECT --all sockets stand--> BEGIN --(caught up)--> MEASURE --> FINISH --complete, or silent--> ended
 *
 * A thread looks at the phase every LOOK_NS, also under load, and then publishes how far the slowest of its subscribers is. */
#include "tools/subs_conn.h"

#include "core/base/clock.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LOOK_NS NS_PER_MS
enum { EVENTS_AT_ONCE = 64, WAIT_MS = 5 };

static void pin(const struct subs_thread *t)
{
	const struct subs_opts *o = &t->subs->opts;
	cpu_set_t set;
	if (o->cpus_n == 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(o->cpus[(o->cpu_first + t->number) % o->cpus_n], &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* cmd_load has checked that they can be had */
}

static int thread_init(struct subs_thread *t)
{
	hist_init(&t->counts.latency);
	t->buf = calloc(1, SUBS_BUF + FEED_SLACK);
	t->cipher = t->subs->opts.tls ? malloc(SUBS_CIPHER) : NULL;
	t->conn = calloc(t->conns, sizeof *t->conn);
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!t->buf || !t->conn || t->epoll < 0 || (t->subs->opts.tls && !t->cipher)) {
		snprintf(t->why, sizeof t->why, "%s", t->epoll < 0 ? strerror(errno) : "not enough memory");
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < t->conns; i++)
		t->conn[i].fd = -1;
	for (uint32_t i = 0; i < t->conns; i++) {
		int r = subs_conn_open(t, &t->conn[i]);
		if (r)
			return r;
	}
	return 0;
}

static bool is_complete(const struct subs_thread *t, const struct subs_conn *c)
{
	if (c->fd < 0)
		return true;
	if (t->subs->opts.publishers == 0)
		return c->caught_up;
	return c->check.own >= atomic_load_explicit(&t->subs->goal, memory_order_relaxed);
}

/* Whether the thread has nothing more to wait for. */
static bool is_finished(const struct subs_thread *t)
{
	if (t->phase == SUBS_STOP || t->live == 0)
		return true;
	if (t->phase != SUBS_FINISH)
		return false;
	if (t->now_ns - t->heard_ns > t->subs->opts.silence_ns)
		return true;
	for (uint32_t i = 0; i < t->conns; i++)
		if (!is_complete(t, &t->conn[i]))
			return false;
	return true;
}

static void publish_least(struct subs_thread *t)
{
	uint64_t least = UINT64_MAX;
	for (uint32_t i = 0; i < t->conns; i++)
		if (t->conn[i].fd >= 0 && t->conn[i].check.own < least)
			least = t->conn[i].check.own;
	atomic_store_explicit(&t->least, least, memory_order_relaxed);
}

static void begin_all(struct subs_thread *t)
{
	atomic_store_explicit(&t->ready, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < t->conns; i++)
		if (t->conn[i].fd >= 0 && subs_conn_begin(t, &t->conn[i])) {
			hist_bump(&t->counts.lost, 1);
			subs_conn_close(t, &t->conn[i]);
		}
}

static void change_phase(struct subs_thread *t, int phase)
{
	bool begun = t->phase >= SUBS_BEGIN;
	if (phase >= SUBS_MEASURE && !t->measuring) {
		t->measuring = true;
		t->cpu_start_ns = clock_thread_cpu_ns();
	}
	t->phase = phase;
	t->heard_ns = t->now_ns;
	if (!begun && phase >= SUBS_BEGIN && phase < SUBS_STOP)
		begin_all(t);
}

static void loop(struct subs_thread *t)
{
	struct epoll_event ev[EVENTS_AT_ONCE];
	uint64_t look_ns = 0;
	for (;;) {
		t->now_ns = clock_mono_ns();
		if (t->now_ns >= look_ns) {
			look_ns = t->now_ns + LOOK_NS;
			int phase = atomic_load_explicit(&t->subs->phase, memory_order_relaxed);
			if (phase != t->phase)
				change_phase(t, phase);
			publish_least(t);
			if (is_finished(t))
				return;
		}
		int n = epoll_wait(t->epoll, ev, EVENTS_AT_ONCE, WAIT_MS);
		for (int i = 0; i < n; i++)
			subs_conn_read(t, ev[i].data.ptr);
	}
}

static void *run(void *arg)
{
	struct subs_thread *t = arg;
	pin(t);
	t->err = thread_init(t);
	if (t->err)
		atomic_store(&t->subs->failed, true);
	else
		loop(t);
	t->cpu_ns = t->cpu_start_ns ? clock_thread_cpu_ns() - t->cpu_start_ns : 0;
	for (uint32_t i = 0; t->conn && i < t->conns; i++)
		subs_conn_close(t, &t->conn[i]);
	if (t->epoll >= 0)
		close(t->epoll);
	free(t->buf);
	free(t->cipher);
	t->buf = t->cipher = NULL;
	atomic_fetch_add(&t->subs->ended, 1);
	return NULL;
}

int subs_start(struct subs *s, const struct subs_opts *opts)
{
	*s = (struct subs){.opts = *opts};
	atomic_store(&s->goal, UINT64_MAX);
	if (s->opts.threads > opts->subscribers)
		s->opts.threads = opts->subscribers;
	uint32_t n = s->opts.threads;
	s->thread = aligned_alloc(CACHE_LINE, n * sizeof *s->thread);
	if (!s->thread)
		return -ENOMEM;
	memset(s->thread, 0, n * sizeof *s->thread);
	for (uint32_t i = 0; i < n; i++) {
		struct subs_thread *t = &s->thread[i];
		t->subs = s;
		t->number = i;
		t->epoll = -1;
		t->conns = opts->subscribers / n + (i < opts->subscribers % n);
		int r = pthread_create(&t->thread, NULL, run, t);
		if (r) {
			s->opts.threads = i; /* what is there to be joined */
			atomic_store(&s->phase, SUBS_STOP);
			return -r;
		}
	}
	return 0;
}

void subs_set_phase(struct subs *s, enum subs_phase phase)
{
	atomic_store_explicit(&s->phase, (int)phase, memory_order_relaxed);
}

uint32_t subs_ready(const struct subs *s)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->opts.threads; i++)
		n += atomic_load_explicit(&s->thread[i].ready, memory_order_relaxed);
	return n;
}

uint64_t subs_least(const struct subs *s)
{
	uint64_t least = UINT64_MAX;
	for (uint32_t i = 0; i < s->opts.threads; i++) {
		uint64_t v = atomic_load_explicit(&s->thread[i].least, memory_order_relaxed);
		if (v < least)
			least = v;
	}
	return least;
}

void subs_join(struct subs *s)
{
	for (uint32_t i = 0; i < s->opts.threads; i++)
		pthread_join(s->thread[i].thread, NULL);
}

void subs_free(struct subs *s)
{
	for (uint32_t i = 0; s->thread && i < s->opts.threads; i++) {
		struct subs_thread *t = &s->thread[i];
		for (uint32_t k = 0; t->conn && k < t->conns; k++)
			subs_conn_free(&t->conn[k]);
		free(t->conn);
	}
	free(s->thread);
	s->thread = NULL;
}

static void add(uint64_t *to, const uint64_t *from)
{
	*to += __atomic_load_n(from, __ATOMIC_RELAXED);
}

void subs_sum(const struct subs *s, struct subs_counts *ret)
{
	memset(ret, 0, sizeof *ret);
	hist_init(&ret->latency);
	for (uint32_t i = 0; i < s->opts.threads; i++) {
		const struct subs_counts *c = &s->thread[i].counts;
		hist_merge(&ret->latency, &c->latency);
		add(&ret->deliveries, &c->deliveries);
		add(&ret->bytes, &c->bytes);
		add(&ret->verified, &c->verified);
		add(&ret->damaged, &c->damaged);
		add(&ret->gaps, &c->gaps);
		add(&ret->gap_frames, &c->gap_frames);
		add(&ret->foreign, &c->foreign);
		add(&ret->lost, &c->lost);
	}
}

/* How many frames this subscriber should have got and did not. */
static uint64_t missing_of(const struct subs *s, const struct subs_conn *c, const uint64_t *acked)
{
	const struct subs_check *k = &c->check;
	uint64_t missing = 0;
	for (uint32_t p = 0; p < s->opts.publishers; p++) {
		uint64_t came = subs_check_came(k, p);
		missing += acked[p] > came ? acked[p] - came : 0;
	}
	/* From the beginning of the stream, every offset is due. */
	if (s->opts.publishers == 0 && s->opts.since == 0 && k->received > 0) {
		uint64_t highest = k->offset > k->highest ? k->offset : k->highest, due = highest - k->lowest + 1;
		uint64_t came = k->received - k->repeated;
		missing = due > came ? due - came : 0;
	}
	return missing;
}

static void add_result(const struct subs *s, const struct subs_conn *c, const uint64_t *acked, struct subs_result *ret)
{
	const struct subs_check *k = &c->check;
	if (!k->next)
		return; /* never opened */
	ret->received += k->received;
	ret->repeated += k->repeated;
	ret->disordered += k->disordered;
	ret->unchecked += k->unchecked;
	ret->missing += missing_of(s, c, acked);
	ret->caught_up += c->caught_up;
	if (k->received < ret->fewest)
		ret->fewest = k->received;
	if (k->received > ret->most)
		ret->most = k->received;
}

void subs_result(const struct subs *s, const uint64_t *acked, struct subs_result *ret)
{
	*ret = (struct subs_result){.fewest = UINT64_MAX};
	for (uint32_t i = 0; i < s->opts.threads; i++) {
		const struct subs_thread *t = &s->thread[i];
		for (uint32_t k = 0; t->conn && k < t->conns; k++)
			add_result(s, &t->conn[k], acked, ret);
		ret->cpu_ns += t->cpu_ns;
		if (t->last_ns > ret->last_ns)
			ret->last_ns = t->last_ns;
		if (t->why[0] && !ret->why)
			ret->why = t->why;
	}
	if (ret->fewest == UINT64_MAX)
		ret->fewest = 0;
}
