/* Requests handed to worker threads; see the header. The first half runs on the shards, the second on the workers; making and unmaking on the main
 * thread.
 *
 *   job:   free --job_new--> [waiting] --hand_over--> at a worker --workers_turn--> free
 *
 * Invariants: a shard has at most `limit` jobs at workers, and the shards' limits together are the
 * queue's capacity, so the rings back never overflow. While a job is at a worker, the shard touches
 * only its `call`, and `dropped` when that call ends; the worker touches everything but `call`. The
 * memory of a shard's jobs, requests and answers, is never above bytes_max; of free ones, an eighth of
 * that is kept for the next.
 */
#include "rpc/workers.h"
#include "core/base/check.h"
#include "core/base/spsc.h"
#include "queue/family/family.h"
#include "rpc/methods.h"
#include "rpc/svc_bench.h"
#include "rpc/svc_ids.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CAPACITY = 4096,     /* jobs at workers, of all shards together */
	JOBS_MAX = 1u << 17, /* of one shard, those that wait included; their bytes have an option, HANDLER_BYTES_MAX */
	SMALL = 160,         /* bytes that need no allocation */
	KEEP_PART = 8,       /* of bytes_max, what free jobs may keep: 1 / KEEP_PART */
	GEN_BITS = 24,
};

struct bytes {
	uint8_t *p; /* `small`, or memory of its own that stays with the slot */
	uint32_t n, cap;
	uint8_t small[SMALL];
};

enum job_kind { JOB_NEXT, JOB_ECHO };

struct job {
	struct call *call; /* NULL: it has ended, nobody wants the answer */
	uint32_t gen, slot;
	uint32_t next; /* of those that wait: slot, or SLAB_NONE */
	enum job_kind kind;
	uint32_t count;
	enum grpc_status status;
	atomic_bool dropped;  /* nobody wants the answer: a worker that waits for IDs need not; pairs with `waiter` */
	atomic_uint waiter;   /* number of the worker that waits for its IDs, plus 1; 0: none does */
	struct bytes in, out; /* in: of NEXT the sequence, of ECHO the message. out: the answer, or a sentence */
};

/* A shard's side. */
struct desk {
	struct workers *all;
	unsigned shard;
	struct doorbell *bell;
	struct slab jobs;
	uint32_t first, last; /* of those that wait for room in the queue */
	uint32_t at_workers, limit;
	atomic_uint_fast64_t bytes; /* of all jobs' memory of their own; the shard's and the workers' */
	struct spsc *back;          /* tokens, one ring for each worker */
};

struct worker {
	struct workers *all;
	unsigned index;
	bool started;
	pthread_t thread;
	struct doorbell bell;
	struct ids_view *view;
	struct svc_bench_room room;
	/* The request that it is at. */
	struct ids_wait wait;
	struct desk *desk;
	struct job *job;
	bool done;
};

struct workers {
	struct workers_opts opts;
	struct ids *ids;
	struct family_queue *queue;
	atomic_bool stop; /* workers_stop, and whoever waits for IDs */
	struct worker *worker;
	struct desk desk[SHARD_MAX];
};

static void bytes_done(struct desk *d, struct bytes *b)
{
	if (!b->cap)
		return;
	free(b->p);
	atomic_fetch_sub_explicit(&d->bytes, b->cap, memory_order_relaxed);
	b->p = NULL;
	b->cap = 0;
}

/* Makes `b` hold a copy. false: no memory, or above bytes_max. */
static bool bytes_set(struct desk *d, struct bytes *b, struct span s)
{
	if (s.n > SMALL && s.n > b->cap) {
		bytes_done(d, b); /* nothing of it is needed */
		uint64_t before = atomic_fetch_add_explicit(&d->bytes, s.n, memory_order_relaxed);
		uint8_t *p = before + s.n <= d->all->opts.bytes_max ? malloc(s.n) : NULL;
		if (!p) {
			atomic_fetch_sub_explicit(&d->bytes, s.n, memory_order_relaxed);
			return false;
		}
		b->p = p;
		b->cap = (uint32_t)s.n;
	} else if (!b->cap) {
		b->p = b->small;
	}
	if (s.n)
		memcpy(b->p, s.p, s.n);
	b->n = (uint32_t)s.n;
	return true;
}

static struct span bytes_of(const struct bytes *b)
{
	return (struct span){b->p, b->n};
}

/* Shards. */

static uint64_t token_of(const struct desk *d, const struct job *j)
{
	return (uint64_t)d->shard << 56 | (uint64_t)(j->gen & ((1u << GEN_BITS) - 1)) << 32 | j->slot;
}

static struct job *job_of(const struct desk *d, uint64_t token)
{
	struct job *j = slab_at(&d->jobs, (uint32_t)token);
	CHECK(token_of(d, j) == token);
	return j;
}

static void job_free(struct desk *d, struct job *j)
{
	if (atomic_load_explicit(&d->bytes, memory_order_relaxed) > d->all->opts.bytes_max / KEEP_PART) {
		bytes_done(d, &j->in);
		bytes_done(d, &j->out);
	}
	j->gen++;
	slab_put(&d->jobs, j->slot);
}

static bool hand_over(struct desk *d, struct job *j)
{
	if (d->at_workers >= d->limit || family_enqueue(d->all->queue, d->shard, token_of(d, j), false))
		return false;
	d->at_workers++;
	return true;
}

static void refuse(struct desk *d, struct call *c, bool many)
{
	if (many)
		call_finish_text(c, GRPC_RESOURCE_EXHAUSTED, "%u requests of this shard wait for a worker already",
				 (unsigned)JOBS_MAX);
	else
		call_finish_text(
			c, GRPC_RESOURCE_EXHAUSTED,
			"the memory for requests that wait for a worker, HANDLER_BYTES_MAX, %llu bytes, is used up",
			(unsigned long long)d->all->opts.bytes_max);
}

/* The call's request becomes a job; without room for it the call ends. */
static void job_begin(struct call *c, enum job_kind kind, struct span in, uint32_t count)
{
	struct desk *d = c->rpc->workers;
	uint32_t slot;
	struct job *j = slab_get(&d->jobs, &slot);
	if (!j || !bytes_set(d, &j->in, in)) {
		if (j)
			slab_put(&d->jobs, slot);
		refuse(d, c, !j);
		return;
	}
	j->call = c;
	j->slot = slot;
	j->kind = kind;
	j->count = count;
	atomic_store_explicit(&j->dropped, false, memory_order_relaxed);
	atomic_store_explicit(&j->waiter, 0, memory_order_relaxed);
	j->next = SLAB_NONE;
	c->svc.word[0] = (uint64_t)slot + 1;
	if (d->first == SLAB_NONE && hand_over(d, j))
		return;
	if (d->first == SLAB_NONE)
		d->first = slot;
	else
		((struct job *)slab_at(&d->jobs, d->last))->next = slot;
	d->last = slot;
}

static void next_message(struct call *c, struct span msg)
{
	struct pb_next_request m;
	if (pb_next_request_get(msg, &m))
		call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT("the message is not an ordinal.v1.NextRequest"));
	else if (!call_may(c, ACCESS_IDS, m.sequence))
		call_deny(c, ACCESS_IDS, m.sequence);
	else
		job_begin(c, JOB_NEXT, m.sequence, m.count ? m.count : 1);
}

static void echo_message(struct call *c, struct span msg)
{
	job_begin(c, JOB_ECHO, msg, 0);
}

/* The job goes its way, and is nobody's when it comes back. Either the worker sees that it is dropped
 * before it waits for IDs, or it is seen here that a worker waits, and the worker is woken. */
static void cancel(struct call *c)
{
	struct desk *d = c->rpc->workers;
	if (!c->svc.word[0])
		return;
	struct job *j = slab_at(&d->jobs, (uint32_t)(c->svc.word[0] - 1));
	j->call = NULL;
	atomic_store(&j->dropped, true);
	unsigned waiter = atomic_load(&j->waiter);
	if (waiter)
		doorbell_ring(&d->all->worker[waiter - 1].bell);
}

const struct method workers_next_method = {.service = "ordinal.v1.Ids",
					   .name = "Next",
					   .number = METHOD_IDS_NEXT,
					   .kind = METHOD_UNARY,
					   .access = METHOD_CHECKS,
					   .message = next_message,
					   .cancel = cancel};
const struct method workers_echo_method = {.service = "ordinal.bench.v1.Bench",
					   .name = "Echo",
					   .number = METHOD_BENCH_ECHO,
					   .kind = METHOD_UNARY,
					   .access = METHOD_FOR_KNOWN,
					   .message = echo_message,
					   .cancel = cancel};

/* What waits goes to the workers, as far as there is room. */
static void push_waiting(struct desk *d)
{
	while (d->first != SLAB_NONE) {
		struct job *j = slab_at(&d->jobs, d->first);
		if (j->call && !hand_over(d, j))
			return;
		d->first = j->next;
		if (!j->call)
			job_free(d, j);
	}
}

void workers_turn(struct rpc_shard *r)
{
	struct desk *d = r->workers;
	for (unsigned i = 0; i < d->all->opts.threads; i++) {
		uint64_t token;
		while (spsc_pop(&d->back[i], &token)) {
			struct job *j = job_of(d, token);
			struct call *c = j->call;
			d->at_workers--;
			if (c && j->status == GRPC_OK)
				call_reply(c, j->out.p, j->out.n);
			else if (c)
				call_finish(c, j->status, bytes_of(&j->out));
			job_free(d, j);
		}
	}
	push_waiting(d);
}

bool workers_pending(struct rpc_shard *r)
{
	const struct desk *d = r->workers;
	for (unsigned i = 0; i < d->all->opts.threads; i++) {
		if (spsc_count(&d->back[i]))
			return true;
	}
	return d->first != SLAB_NONE && d->at_workers < d->limit;
}

int workers_join(struct workers *w, struct rpc_shard *r)
{
	struct desk *d = &w->desk[r->shard->index];
	d->bell = &r->shard->bell;
	r->workers = d;
	return slab_init(&d->jobs, sizeof(struct job), JOBS_MAX);
}

/* Workers. */

static void answer_text(struct worker *w, struct job *j, enum grpc_status status, struct span text)
{
	j->status = status;
	if (!bytes_set(w->desk, &j->out, text))
		j->out.n = 0;
}

static void answer_refused(struct worker *w, enum ids_error e)
{
	char text[512];
	ids_error_text(w->all->ids, e, text, sizeof text);
	answer_text(w, w->job, svc_ids_status(e), (struct span){(const uint8_t *)text, strlen(text)});
	w->done = true;
}

static void on_answer(void *ctx, struct ids_wait *wait, uint64_t first, uint64_t incarnation)
{
	struct worker *w = ctx;
	struct bytes *out = &w->job->out;
	bytes_set(w->desk, out, (struct span){0}); /* so that it points somewhere; a reply is small */
	w->job->status = GRPC_OK;
	out->n = (uint32_t)pb_next_reply_put(out->p, &(struct pb_next_reply){first, wait->count, 0, incarnation});
	w->done = true;
}

static void on_refused(void *ctx, struct ids_wait *wait, enum ids_error why)
{
	answer_refused(ctx, why);
}
_Static_assert(PB_NEXT_REPLY_MAX <= SMALL, "a reply needs no allocation");

static const struct ids_view_ops view_ops = {.answer = on_answer, .refused = on_refused};

/* Takes the request back, and tells the producer that it need not save up for it. */
static void give_up(struct worker *w, enum grpc_status status, struct span text)
{
	doorbell_disarm(&w->bell);
	ids_view_cancel(w->view, &w->wait);
	ids_view_turn(w->view, &view_ops, w);
	answer_text(w, w->job, status, text);
}

static void do_next(struct worker *w, struct job *j)
{
	w->done = false;
	enum ids_error e = ids_view_request(w->view, &w->wait, bytes_of(&j->in), j->count);
	if (e)
		answer_refused(w, e);
	atomic_store(&j->waiter, w->index + 1);
	while (!w->done) {
		ids_view_turn(w->view, &view_ops, w);
		if (w->done)
			break;
		doorbell_arm(&w->bell);
		if (atomic_load_explicit(&w->all->stop, memory_order_acquire)) {
			give_up(w, GRPC_UNAVAILABLE, SPAN_LIT("the server is stopping"));
			return;
		}
		if (atomic_load(&j->dropped)) {
			give_up(w, GRPC_CANCELLED, (struct span){0, 0});
			return;
		}
		if (ids_view_has_work(w->view))
			doorbell_disarm(&w->bell);
		else
			doorbell_wait(&w->bell, UINT64_MAX);
	}
}

static void do_echo(struct worker *w, struct job *j)
{
	struct span out;
	j->status = svc_bench_echo(&w->room, bytes_of(&j->in), w->all->opts.message_max, &out);
	if (!bytes_set(w->desk, &j->out, out))
		answer_text(w, j, GRPC_RESOURCE_EXHAUSTED,
			    SPAN_LIT("no memory for the answer within HANDLER_BYTES_MAX"));
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct workers *all = w->all;
	char name[16];
	uint64_t token;
	int rc;
	snprintf(name, sizeof name, "worker/%u", w->index);
	pthread_setname_np(pthread_self(), name);
	while ((rc = family_dequeue(all->queue, w->index, &token, true)) != -EPIPE) {
		if (rc)
			continue;
		struct desk *d = w->desk = &all->desk[token >> 56];
		w->job = job_of(d, token);
		if (atomic_load_explicit(&w->job->dropped, memory_order_relaxed))
			w->job->status = GRPC_CANCELLED; /* it ended while it waited here */
		else if (w->job->kind == JOB_NEXT)
			do_next(w, w->job);
		else
			do_echo(w, w->job);
		CHECK(spsc_push(&d->back[w->index], &token));
		doorbell_ring(d->bell);
	}
	return NULL;
}

/* Making. */

static const char *why_not(const struct workers_opts *o, const struct family_ops *ops)
{
	static char why[256];
	if (!ops)
		snprintf(why, sizeof why, "HANDLER_QUEUE=\"%.64s\" is no queue of queue/family, such as basic",
			 o->queue);
	else if (o->order != IDS_STRICT)
		return "HANDLER_THREADS takes ID_ORDER=strict: any worker may answer any request of a connection";
	else if ((ops->producers_max && o->shards > ops->producers_max) ||
		 (ops->consumers_max && o->threads > ops->consumers_max))
		snprintf(
			why, sizeof why,
			"HANDLER_QUEUE=\"%s\" does not take %u shards on one side and %u workers (HANDLER_THREADS) on the other",
			ops->name, o->shards, o->threads);
	else
		return NULL;
	return why;
}

static int make_desk(struct workers *w, unsigned shard)
{
	struct desk *d = &w->desk[shard];
	int rc = 0;
	d->all = w;
	d->shard = shard;
	d->first = d->last = SLAB_NONE;
	d->limit = CAPACITY / w->opts.shards;
	d->back = aligned_alloc(CACHE_LINE, w->opts.threads * sizeof *d->back);
	if (!d->back)
		return -ENOMEM;
	memset(d->back, 0, w->opts.threads * sizeof *d->back);
	for (unsigned i = 0; rc == 0 && i < w->opts.threads; i++)
		rc = spsc_init(&d->back[i], d->limit, sizeof(uint64_t));
	return rc;
}

static int make_worker(struct workers *all, unsigned i)
{
	struct worker *w = &all->worker[i];
	w->all = all;
	w->index = i;
	int rc = doorbell_init(&w->bell);
	if (rc)
		return rc;
	w->view = ids_view_new(all->ids, all->opts.shards + i, &w->bell);
	return w->view ? 0 : -ENOMEM;
}

int workers_check(const struct workers_opts *o, const char **ret_why)
{
	*ret_why = why_not(o, family_find(o->queue));
	return *ret_why ? -EINVAL : 0;
}

int workers_new(const struct workers_opts *o, struct ids *ids, struct workers **ret, const char **ret_why)
{
	const struct family_ops *ops = family_find(o->queue);
	struct family_opts fo = {.capacity = CAPACITY, .producers = o->shards, .consumers = o->threads};
	*ret_why = why_not(o, ops);
	if (*ret_why)
		return -EINVAL;
	struct workers *w = aligned_alloc(CACHE_LINE, (sizeof *w + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!w)
		return -ENOMEM;
	memset(w, 0, sizeof *w);
	w->opts = *o;
	w->ids = ids;
	w->worker = aligned_alloc(CACHE_LINE, o->threads * sizeof *w->worker);
	if (!w->worker) {
		free(w);
		return -ENOMEM;
	}
	memset(w->worker, 0, o->threads * sizeof *w->worker);
	for (unsigned i = 0; i < o->threads; i++)
		w->worker[i].bell.fd = -1;
	int rc = family_init(ops, &fo, &w->queue);
	for (unsigned i = 0; rc == 0 && i < o->shards; i++)
		rc = make_desk(w, i);
	for (unsigned i = 0; rc == 0 && i < o->threads; i++)
		rc = make_worker(w, i);
	if (rc) {
		workers_free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

int workers_start(struct workers *w)
{
	for (unsigned i = 0; i < w->opts.threads; i++) {
		int rc = pthread_create(&w->worker[i].thread, NULL, worker_main, &w->worker[i]);
		if (rc)
			return -rc;
		w->worker[i].started = true;
	}
	return 0;
}

void workers_stop(struct workers *w)
{
	if (!w)
		return;
	atomic_store_explicit(&w->stop, true, memory_order_release);
	family_close(w->queue);
	for (unsigned i = 0; i < w->opts.threads; i++)
		doorbell_ring(&w->worker[i].bell);
	for (unsigned i = 0; i < w->opts.threads; i++) {
		if (w->worker[i].started)
			pthread_join(w->worker[i].thread, NULL);
		w->worker[i].started = false;
	}
}

static void free_desk(struct workers *w, struct desk *d)
{
	for (uint32_t i = 0; d->bell && i < d->jobs.made; i++) {
		struct job *j = slab_at(&d->jobs, i);
		bytes_done(d, &j->in);
		bytes_done(d, &j->out);
	}
	if (d->bell)
		slab_done(&d->jobs);
	for (unsigned i = 0; d->back && i < w->opts.threads; i++)
		spsc_done(&d->back[i]);
	free(d->back);
}

void workers_free(struct workers *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < w->opts.shards; i++)
		free_desk(w, &w->desk[i]);
	for (unsigned i = 0; i < w->opts.threads; i++) {
		ids_view_free(w->worker[i].view);
		if (w->worker[i].bell.fd >= 0)
			doorbell_done(&w->worker[i].bell);
		svc_bench_room_done(&w->worker[i].room);
	}
	if (w->queue)
		family_done(w->queue);
	free(w->worker);
	free(w);
}

void workers_add_ids(const struct workers *w, unsigned shard, struct ids_view_stats *sum)
{
	for (unsigned i = shard; w && i < w->opts.threads; i += w->opts.shards) {
		const struct ids_view_stats *s = ids_view_stats(w->worker[i].view);
		sum->claims += count_get(&s->claims);
		sum->ids += count_get(&s->ids);
		sum->ranges += count_get(&s->ranges);
		sum->parked += count_get(&s->parked);
	}
}
