/* Threads that do the TLS handshakes; see the header.
 *
 * Between each shard and each thread lie two queues, one a direction, each with one pushing and one
 * popping thread. A thread takes from the shards in turn, one step at a time, so that no shard's
 * connections wait for all of another shard's. It sleeps on its doorbell when there is nothing.
 *
 * Bounds: HANDSHAKES_DEPTH steps and DISCARDS structs to free are with a thread at most. When the
 * threads have too many to free, which only happens while they get no CPU, the shard frees by
 * itself.
 *
 * Each struct is with one thread at a time, handed over by the queues' release and acquire.
 * Contexts (SSL_CTX) are shared by all threads, which OpenSSL allows. */
#include "core/handshakes.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/doorbell.h"
#include "core/base/log.h"
#include "core/base/spsc.h"
#include "core/tls.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

enum {
	DISCARDS = 60,
	NICE = 10, /* a tenth of the weight of a shard */
};

struct step {
	struct tls *tls;
	uint64_t tag;
	bool discard;
};

/* Between one shard and one thread. */
struct link {
	struct spsc todo; /* of struct step */
	struct spsc done; /* of struct handshakes_done */
	unsigned steps;   /* posted and not taken; the shard's */
};

struct worker {
	struct doorbell bell; /* cache-line aligned */
	struct handshakes *pool;
	unsigned index;
	unsigned next; /* shard to look at first */
	pthread_t thread;
};

struct handshakes {
	unsigned threads, shards, started;
	uint64_t seed;
	atomic_bool stop;
	struct worker *worker;
	struct link *link; /* [shard * threads + thread] */
	struct doorbell **bell;
};

static struct link *link_of(const struct handshakes *h, unsigned shard, unsigned thread)
{
	return &h->link[shard * h->threads + thread];
}

/* ---- making ---- */

static void *zeroed(size_t n, size_t size)
{
	void *p = aligned_alloc(CACHE_LINE, (n * size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1));
	if (p)
		memset(p, 0, n * size);
	return p;
}

static int make_links(struct handshakes *h)
{
	size_t n = (size_t)h->shards * h->threads;
	h->link = zeroed(n, sizeof *h->link);
	for (size_t i = 0; h->link && i < n; i++) {
		int rc = spsc_init(&h->link[i].todo, HANDSHAKES_DEPTH + DISCARDS, sizeof(struct step));
		if (rc == 0)
			rc = spsc_init(&h->link[i].done, HANDSHAKES_DEPTH, sizeof(struct handshakes_done));
		if (rc)
			return rc;
	}
	return h->link ? 0 : -ENOMEM;
}

int handshakes_new(unsigned threads, unsigned shards, struct handshakes **ret)
{
	CHECK(threads > 0 && threads <= HANDSHAKES_THREADS_MAX && shards > 0);
	struct handshakes *h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->shards = shards;
	h->bell = calloc(shards, sizeof(struct doorbell *));
	h->worker = zeroed(threads, sizeof *h->worker);
	int rc = h->bell && h->worker ? 0 : -ENOMEM;
	if (rc == 0 && getrandom(&h->seed, sizeof h->seed, 0) != sizeof h->seed)
		rc = -errno;
	while (rc == 0 && h->threads < threads) {
		struct worker *w = &h->worker[h->threads];
		rc = doorbell_init(&w->bell);
		if (rc)
			break;
		w->pool = h;
		w->index = h->threads++;
	}
	if (rc == 0)
		rc = make_links(h);
	if (rc) {
		handshakes_free(h);
		return rc;
	}
	*ret = h;
	return 0;
}

void handshakes_join(struct handshakes *h, unsigned shard, struct doorbell *bell)
{
	CHECK(shard < h->shards);
	h->bell[shard] = bell;
}

uint64_t handshakes_seed(const struct handshakes *h)
{
	return h->seed;
}

/* Steps that nobody will take, of shards whose ring has failed, and structs that were to be
 * freed. */
static void link_done(struct link *l)
{
	struct step s;
	struct handshakes_done d;
	while (l->todo.buf && spsc_pop(&l->todo, &s))
		tls_free(s.tls);
	while (l->done.buf && spsc_pop(&l->done, &d))
		tls_free(d.tls);
	spsc_done(&l->todo);
	spsc_done(&l->done);
}

void handshakes_free(struct handshakes *h)
{
	if (!h)
		return;
	for (size_t i = 0; h->link && i < (size_t)h->shards * h->threads; i++)
		link_done(&h->link[i]);
	for (unsigned i = 0; i < h->threads; i++)
		doorbell_done(&h->worker[i].bell);
	free(h->link);
	free(h->worker);
	free(h->bell);
	free(h);
}

/* ---- the shards' side ---- */

/* The thread that has the fewest steps of this shard, or NULL. */
static struct link *least_busy(const struct handshakes *h, unsigned shard, unsigned *ret_thread)
{
	struct link *best = NULL;
	for (unsigned i = 0; i < h->threads; i++) {
		struct link *l = link_of(h, shard, i);
		if (l->steps < (best ? best->steps : HANDSHAKES_DEPTH)) {
			best = l;
			*ret_thread = i;
		}
	}
	return best;
}

bool handshakes_has_room(const struct handshakes *h, unsigned shard)
{
	unsigned thread;
	return least_busy(h, shard, &thread) != NULL;
}

void handshakes_post(struct handshakes *h, unsigned shard, struct tls *t, uint64_t tag)
{
	unsigned thread = 0;
	struct link *l = least_busy(h, shard, &thread);
	struct step s = {.tls = t, .tag = tag};
	CHECK(l && spsc_push(&l->todo, &s)); /* discards leave room for HANDSHAKES_DEPTH */
	l->steps++;
	doorbell_ring(&h->worker[thread].bell);
}

void handshakes_discard(struct handshakes *h, unsigned shard, struct tls *t)
{
	struct step s = {.tls = t, .discard = true};
	for (unsigned i = 0; i < h->threads; i++) {
		struct link *l = link_of(h, shard, i);
		if (spsc_count(&l->todo) >= DISCARDS || !spsc_push(&l->todo, &s))
			continue;
		doorbell_ring(&h->worker[i].bell);
		return;
	}
	tls_free(t);
}

bool handshakes_take(struct handshakes *h, unsigned shard, struct handshakes_done *ret)
{
	for (unsigned i = 0; i < h->threads; i++) {
		struct link *l = link_of(h, shard, i);
		if (l->steps && spsc_pop(&l->done, ret)) {
			l->steps--;
			return true;
		}
	}
	return false;
}

bool handshakes_is_done(const struct handshakes *h, unsigned shard)
{
	for (unsigned i = 0; i < h->threads; i++) {
		if (spsc_count(&link_of(h, shard, i)->done))
			return true;
	}
	return false;
}

/* ---- the threads' side ---- */

static void work(struct handshakes *h, unsigned shard, struct link *l, const struct step *s)
{
	if (s->discard) {
		tls_free(s->tls);
		return;
	}
	struct handshakes_done d = {.tls = s->tls, .tag = s->tag, .result = tls_handshake(s->tls)};
	CHECK(spsc_push(&l->done, &d)); /* HANDSHAKES_DEPTH fit in */
	if (h->bell[shard])
		doorbell_ring(h->bell[shard]);
}

bool handshakes_turn(struct handshakes *h, unsigned thread)
{
	struct worker *w = &h->worker[thread];
	for (unsigned i = 0; i < h->shards; i++) {
		unsigned shard = (w->next + i) % h->shards;
		struct link *l = link_of(h, shard, thread);
		struct step s;
		if (!spsc_pop(&l->todo, &s))
			continue;
		w->next = (shard + 1) % h->shards;
		work(h, shard, l, &s);
		return true;
	}
	return false;
}

static bool has_work(const struct handshakes *h, unsigned thread)
{
	for (unsigned i = 0; i < h->shards; i++) {
		if (spsc_count(&link_of(h, i, thread)->todo))
			return true;
	}
	return atomic_load_explicit(&h->stop, memory_order_acquire);
}

/* A shard that wakes is to run at once. An operator's real-time priority is for the shards
 * alone. */
static void yield_to_shards(void)
{
	struct sched_param none = {0};
	int nice = getpriority(PRIO_PROCESS, 0) + NICE; /* of the calling thread, on Linux */
	if (sched_setscheduler(0, SCHED_BATCH, &none) || setpriority(PRIO_PROCESS, 0, nice < 19 ? nice : 19))
		log_warn("cannot lower the weight of the handshake threads: %s; many TLS handshakes at once may "
			 "delay calls",
			 strerror(errno));
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct handshakes *h = w->pool;
	char name[16];
	snprintf(name, sizeof name, "handshake/%u", w->index);
	pthread_setname_np(pthread_self(), name);
	log_thread_register(name);
	yield_to_shards();
	while (!atomic_load_explicit(&h->stop, memory_order_acquire)) {
		if (handshakes_turn(h, w->index))
			continue;
		doorbell_arm(&w->bell);
		if (has_work(h, w->index))
			doorbell_disarm(&w->bell);
		else
			doorbell_wait(&w->bell, UINT64_MAX);
	}
	log_thread_unregister();
	return NULL;
}

int handshakes_start(struct handshakes *h)
{
	while (h->started < h->threads) {
		struct worker *w = &h->worker[h->started];
		int rc = pthread_create(&w->thread, NULL, worker_main, w);
		if (rc)
			return -rc;
		h->started++;
	}
	return 0;
}

void handshakes_stop(struct handshakes *h)
{
	if (!h)
		return;
	atomic_store_explicit(&h->stop, true, memory_order_release); /* pairs with worker_main */
	for (unsigned i = 0; i < h->started; i++)
		doorbell_ring(&h->worker[i].bell);
	for (unsigned i = 0; i < h->started; i++)
		pthread_join(h->worker[i].thread, NULL);
	h->started = 0;
}
