/* The cases with a thread for each producer and consumer. No case waits for a time to pass in order to be right: a
 * pause only makes it likelier that threads are where a fault would show. */
#include "conform.h"

#include "core/base/check.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PEERS_MAX 8
#define STRESS_ITEMS 6000 /* of each producer */

struct run;
struct peer {
	struct run *run;
	unsigned who;
	pthread_t thread;
	uint64_t count, sum;      /* items moved, and the sum of them mixed */
	uint64_t next[PEERS_MAX]; /* consumer: the least sequence that may come from each producer */
	sem_t go;                 /* the next round, for the cases that have rounds */
};

struct run {
	struct conform *c;
	struct family_queue *q;
	unsigned batch;     /* 0: sizes of all kinds */
	uint64_t items;     /* of each producer; 0: until stop or closed */
	atomic_uchar *seen; /* [producer * items + seq], or NULL */
	atomic_bool stop;
	bool rounds; /* progress is what the main thread makes, not that items move */
	atomic_ullong moved;
	sem_t taken;
	struct peer producers[PEERS_MAX], consumers[PEERS_MAX];
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * UINT64_C(0x9e3779b97f4a7c15);
	return x ^ x >> 29;
}

static unsigned batch_of(const struct run *run, uint64_t turn)
{
	return run->batch != 0 ? run->batch : (unsigned)(mix(turn) % 17 + 1);
}

static void *produce(void *arg)
{
	struct peer *p = arg;
	struct run *run = p->run;
	uint64_t in[17];

	while ((run->items == 0 || p->count < run->items) && !atomic_load(&run->stop)) {
		unsigned n = batch_of(run, p->count + p->who);
		int r;

		if (run->items != 0 && n > run->items - p->count)
			n = (unsigned)(run->items - p->count);
		for (unsigned i = 0; i < n; i++)
			in[i] = conform_item(p->who, p->count + i);
		r = family_enqueue_batch(run->q, p->who, in, n, true);
		if (r == -EPIPE && run->items == 0)
			break;
		if (r <= 0 || r > (int)n || (r < (int)n && run->items != 0))
			conform_fault(run->c, CONFORM_UNEXPECTED, "a waiting enqueue of %u gave %d", n, r);
		for (int i = 0; i < r; i++)
			p->sum += mix(in[i]);
		p->count += (unsigned)r;
	}
	return NULL;
}

static void consume_one(struct peer *p, uint64_t item)
{
	struct run *run = p->run;
	unsigned producer = conform_producer(item);
	uint64_t seq = conform_seq(item);

	if (producer >= run->c->producers || (run->items != 0 && seq >= run->items))
		conform_fault(run->c, CONFORM_REPEATED, "an item that nobody put in");
	if (run->seen != NULL && atomic_fetch_add(&run->seen[producer * run->items + seq], 1) != 0)
		conform_fault(run->c, CONFORM_REPEATED, "item %llu of producer %u came twice", (unsigned long long)seq,
			      producer);
	if (run->c->ops->order != FAMILY_UNORDERED && seq < p->next[producer])
		conform_fault(run->c, CONFORM_DISORDER, "item %llu of producer %u came too late",
			      (unsigned long long)seq, producer);
	p->next[producer] = seq + 1;
	p->count++;
	p->sum += mix(item);
}

static void *consume(void *arg)
{
	struct peer *p = arg;
	struct run *run = p->run;
	uint64_t out[17];

	for (;;) {
		unsigned n = batch_of(run, p->count);
		int r = family_dequeue_batch(run->q, p->who, out, n, true);

		if (r == -EPIPE)
			return NULL;
		if (r <= 0 || r > (int)n)
			conform_fault(run->c, CONFORM_UNEXPECTED, "a waiting dequeue of %u gave %d", n, r);
		for (int i = 0; i < r; i++)
			consume_one(p, out[i]);
		atomic_fetch_add_explicit(&run->moved, (unsigned)r, memory_order_relaxed);
		if (!run->rounds)
			conform_progress(run->c);
	}
}

static void start(struct run *run, struct peer *peers, unsigned n, void *(*body)(void *))
{
	for (unsigned i = 0; i < n; i++) {
		peers[i].run = run;
		peers[i].who = i;
		sem_init(&peers[i].go, 0, 0);
		CHECK(pthread_create(&peers[i].thread, NULL, body, &peers[i]) == 0);
	}
}
static void join(struct peer *peers, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pthread_join(peers[i].thread, NULL);
}

/* What went in came out, by count and by content. */
static void balance(struct run *run)
{
	uint64_t in = 0, out = 0, sum = 0;

	for (unsigned i = 0; i < run->c->producers; i++) {
		in += run->producers[i].count;
		sum += run->producers[i].sum;
	}
	for (unsigned i = 0; i < run->c->consumers; i++) {
		out += run->consumers[i].count;
		sum -= run->consumers[i].sum;
	}
	if (in != out)
		conform_fault(run->c, in > out ? CONFORM_LOST : CONFORM_REPEATED, "%llu in, %llu out",
			      (unsigned long long)in, (unsigned long long)out);
	if (sum != 0)
		conform_fault(run->c, CONFORM_LOST | CONFORM_REPEATED, "as many came out as went in, but not the same");
}

static void stress(struct conform *c, uint32_t capacity, unsigned batch)
{
	struct run run = {.c = c, .batch = batch, .items = STRESS_ITEMS};

	run.q = conform_queue(c, capacity, NULL);
	run.seen = calloc(c->producers * run.items, sizeof *run.seen);
	CHECK(run.seen != NULL);
	start(&run, run.consumers, c->consumers, consume);
	start(&run, run.producers, c->producers, produce);
	join(run.producers, c->producers);
	family_close(run.q);
	join(run.consumers, c->consumers);
	balance(&run);
	free(run.seen);
	family_done(run.q);
}

void conform_stress(struct conform *c)
{
	stress(c, 64, 1);
}
void conform_stress_small(struct conform *c)
{
	stress(c, 1, 1);
}
void conform_stress_batch(struct conform *c)
{
	stress(c, 48, 0);
}

void conform_close_wakes_consumers(struct conform *c)
{
	for (unsigned round = 0; round < 20; round++) {
		struct run run = {.c = c, .batch = 1};

		run.q = conform_queue(c, 8, NULL);
		start(&run, run.consumers, c->consumers, consume);
		usleep(round % 4 * 300);
		family_close(run.q);
		join(run.consumers, c->consumers);
		balance(&run);
		family_done(run.q);
		conform_progress(c);
	}
}

/* Producers fill the queue and wait; nobody takes anything until it is closed. What they were told went in must come
 * out. */
void conform_close_wakes_producers(struct conform *c)
{
	for (unsigned round = 0; round < 20 && c->ops->bounded; round++) {
		struct run run = {.c = c, .batch = round % 2};

		run.q = conform_queue(c, 8, NULL);
		start(&run, run.producers, c->producers, produce);
		usleep(round % 4 * 300);
		family_close(run.q);
		join(run.producers, c->producers);
		start(&run, run.consumers, c->consumers, consume);
		join(run.consumers, c->consumers);
		balance(&run);
		family_done(run.q);
		conform_progress(c);
	}
}

/* Producers and consumers at work, and the queue closed in the middle. */
void conform_close_midway(struct conform *c)
{
	for (unsigned round = 0; round < 20; round++) {
		struct run run = {.c = c, .batch = round % 2};

		run.q = conform_queue(c, 16, NULL);
		start(&run, run.producers, c->producers, produce);
		start(&run, run.consumers, c->consumers, consume);
		while (atomic_load(&run.moved) < round * 50)
			usleep(50);
		family_close(run.q);
		join(run.producers, c->producers);
		join(run.consumers, c->consumers);
		balance(&run);
		family_done(run.q);
		conform_progress(c);
	}
}

/* Takes one item a round, and only one. */
static void *take_one_a_round(void *arg)
{
	struct peer *p = arg;
	uint64_t item;
	int r;

	while ((r = family_dequeue(p->run->q, p->who, &item, true)) == 0) {
		sem_post(&p->run->taken);
		sem_wait(&p->go);
	}
	if (r != -EPIPE)
		conform_fault(p->run->c, CONFORM_UNEXPECTED, "a waiting dequeue gave %d", r);
	return NULL;
}

/* As many items as consumers, each of whom takes one and then takes none until all have: one wake-up lost and they
 * wait for ever. */
void conform_every_item_wakes_one(struct conform *c)
{
	struct run run = {.c = c};

	run.q = conform_queue(c, 32, NULL);
	sem_init(&run.taken, 0, 0);
	start(&run, run.consumers, c->consumers, take_one_a_round);
	for (unsigned round = 0; round < 300; round++) {
		if (round % 3 == 0)
			usleep(200); /* they are probably asleep */
		for (unsigned i = 0; i < c->consumers; i++) {
			if (family_enqueue(run.q, (round + i) % c->producers, conform_item(0, round), true) != 0)
				conform_fault(c, CONFORM_UNEXPECTED, "enqueue failed");
			if (round % 3 == 1)
				usleep(20);
		}
		for (unsigned i = 0; i < c->consumers; i++)
			sem_wait(&run.taken);
		for (unsigned i = 0; i < c->consumers; i++)
			sem_post(&run.consumers[i].go);
		conform_progress(c);
	}
	family_close(run.q);
	join(run.consumers, c->consumers);
	family_done(run.q);
}

static void *put_one_a_round(void *arg)
{
	struct peer *p = arg;
	int r;

	while ((r = family_enqueue(p->run->q, p->who, conform_item(p->who, 1), true)) == 0) {
		sem_post(&p->run->taken);
		sem_wait(&p->go);
	}
	if (r != -EPIPE)
		conform_fault(p->run->c, CONFORM_UNEXPECTED, "a waiting enqueue gave %d", r);
	return NULL;
}

/* A full queue, every producer waiting to put one item; then all items are taken, and every producer must get its own
 * in. */
void conform_every_space_wakes_one(struct conform *c)
{
	struct run run = {.c = c};

	if (!c->ops->bounded)
		return;
	run.q = conform_queue(c, 8, NULL);
	sem_init(&run.taken, 0, 0);
	for (unsigned round = 0; round < 300; round++) {
		unsigned left = c->producers;
		uint64_t item;

		for (unsigned who = 0; who < c->producers;
		     who++) /* no producer is inside a call: their numbers are free */
			while (family_enqueue(run.q, who, conform_item(who, 0), false) == 0)
				left++;
		if (round == 0)
			start(&run, run.producers, c->producers, put_one_a_round);
		else
			for (unsigned i = 0; i < c->producers; i++)
				sem_post(&run.producers[i].go);
		if (round % 3 == 0)
			usleep(200);
		while (left > 0) {
			unsigned before = left;

			for (unsigned who = 0; who < c->consumers && left > 0; who++)
				if (family_dequeue(run.q, who, &item, false) == 0)
					left--;
			if (left == before || round % 3 == 1)
				usleep(20);
		}
		for (unsigned i = 0; i < c->producers; i++)
			sem_wait(&run.taken);
		conform_progress(c);
	}
	family_close(run.q);
	for (unsigned i = 0; i < c->producers; i++)
		sem_post(&run.producers[i].go);
	join(run.producers, c->producers);
	family_done(run.q);
}

static atomic_bool hold;
static sem_t held, released;

static void on_hold(int sig)
{
	const struct timespec t = {.tv_nsec = 100 * 1000};
	int err = errno;

	sem_post(&held);
	while (atomic_load(&hold))
		nanosleep(&t, NULL);
	sem_post(&released);
	errno = err;
}

/* Until the victim is in on_hold. A signal interrupts every wait, but under ThreadSanitizer not that for a mutex: there
 * it comes when the victim has the mutex, which is not fair, so others may have it many times before. While items move,
 * that is no hang. */
static void await_held(struct run *run)
{
	uint64_t seen = atomic_load(&run->moved);
	struct timespec until;

	for (;;) {
		uint64_t moved;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		if (sem_timedwait(&held, &until) == 0)
			return;
		moved = atomic_load(&run->moved);
		if (moved != seen)
			conform_progress(run->c);
		seen = moved;
	}
}

/* A thread is suspended wherever it happens to be, again and again. The others go on meanwhile if the member claims
 * it; and in any case nothing is lost when the thread comes back. */
void conform_suspended_peer(struct conform *c)
{
	struct run run = {.c = c, .batch = 1, .rounds = true};
	struct sigaction sa = {.sa_handler = on_hold, .sa_flags = SA_RESTART};

	sem_init(&held, 0, 0);
	sem_init(&released, 0, 0);
	sigaction(SIGUSR1, &sa, NULL);
	run.q = conform_queue(c, 64, NULL);
	start(&run, run.consumers, c->consumers, consume);
	start(&run, run.producers, c->producers, produce);
	for (unsigned round = 0; round < 30; round++) {
		bool consumer = round % 2 == 0;
		unsigned n = consumer ? c->consumers : c->producers;
		struct peer *victim = (consumer ? run.consumers : run.producers) + round / 2 % n;
		bool others = n > 1 &&
			      (c->ops->peer == FAMILY_PEER_ANY || (consumer && c->ops->peer == FAMILY_PEER_CONSUMER));
		uint64_t from;

		usleep((unsigned)(mix(round) % 400));
		atomic_store(&hold, true);
		pthread_kill(victim->thread, SIGUSR1);
		await_held(&run);
		from = atomic_load(&run.moved);
		if (others)
			while (atomic_load(&run.moved) < from + 300)
				usleep(50);
		else
			usleep(500);
		atomic_store(&hold, false);
		while (sem_wait(&released) != 0)
			;
		conform_progress(c);
	}
	atomic_store(&run.stop, true);
	join(run.producers, c->producers);
	family_close(run.q);
	join(run.consumers, c->consumers);
	balance(&run);
	family_done(run.q);
}
