/* The service ordinal.v1.Feed: Publish, PublishMany and Subscribe over the shard's view of the streams (queue/stream.h). Runs on the shard.
 *
 * This file has what the methods share: the shard's turn, the lists of those that have something to do in it, the tick, and the end. A turn first lets
 * the streams answer, which only marks those that are concerned; then every publisher that was marked is answered, and every subscriber that was
 * marked is sent what it can take. Nothing of the streams is called from inside their callbacks.
 *
 * Draining: a shard that has no connection left goes on turning for as long as another shard has publishes or cursors, whose streams it may
 * own, at most until a little after the drain time.
 */
#include "rpc/svc_feed.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/feed_impl.h"
#include "rpc/methods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS NS_PER_S
#define DRAIN_TICK_NS (10 * NS_PER_MS)
#define DRAIN_GRACE_NS (2 * NS_PER_S)

enum grpc_status feed_status_of(enum stream_error e)
{
	static const enum grpc_status status[] = {
		[STREAM_E_OK] = GRPC_OK,
		[STREAM_E_NAME] = GRPC_INVALID_ARGUMENT,
		[STREAM_E_UNKNOWN] = GRPC_NOT_FOUND,
		[STREAM_E_ABSENT] = GRPC_NOT_FOUND,
		[STREAM_E_LIMIT] = GRPC_RESOURCE_EXHAUSTED,
		[STREAM_E_OPEN] = GRPC_UNAVAILABLE,
		[STREAM_E_PAYLOAD] = GRPC_RESOURCE_EXHAUSTED,
		[STREAM_E_PUBLISHER] = GRPC_INVALID_ARGUMENT,
		[STREAM_E_STALE] = GRPC_OUT_OF_RANGE,
		[STREAM_E_BUSY] = GRPC_RESOURCE_EXHAUSTED,
		[STREAM_E_FAILED] = GRPC_UNAVAILABLE,
		[STREAM_E_DAMAGED] = GRPC_DATA_LOSS,
		[STREAM_E_INCARNATION] = GRPC_OUT_OF_RANGE,
		[STREAM_E_BEYOND] = GRPC_OUT_OF_RANGE,
		[STREAM_E_OVERTAKEN] = GRPC_UNAVAILABLE,
	};
	return (unsigned)e < ARRAY_SIZE(status) ? status[e] : GRPC_INTERNAL;
}

void feed_refuse(struct call *c, enum stream_error e, const struct stream *s)
{
	const struct svc_feed *f = c->rpc->feed;
	char text[512];

	call_finish_text(c, feed_status_of(e), "%s", stream_refusal_text(f->shared->ss, e, s, text, sizeof text));
}

/* Lists. */

void feed_run(struct feed_sub *sub)
{
	if (sub->running)
		return;
	sub->running = true;
	TAILQ_INSERT_TAIL(&sub->feed->run, sub, run);
}

void feed_run_cancel(struct feed_sub *sub)
{
	if (!sub->running)
		return;
	sub->running = false;
	TAILQ_REMOVE(&sub->feed->run, sub, run);
}

static struct feed_sub *run_pop(struct svc_feed *f)
{
	struct feed_sub *sub = TAILQ_FIRST(&f->run);

	feed_run_cancel(sub);
	return sub;
}

void feed_touch(struct feed_many *m)
{
	if (m->dirty)
		return;
	m->dirty = true;
	TAILQ_INSERT_TAIL(&m->feed->dirty, m, touched);
}

void feed_touch_cancel(struct feed_many *m)
{
	if (!m->dirty)
		return;
	m->dirty = false;
	TAILQ_REMOVE(&m->feed->dirty, m, touched);
}

static struct feed_many *dirty_pop(struct svc_feed *f)
{
	struct feed_many *m = TAILQ_FIRST(&f->dirty);

	feed_touch_cancel(m);
	return m;
}

/* The turn. */

/* Other shards read these while they drain; they are seldom different, and the lines are shared. */
static void tell(_Atomic uint32_t *where, uint32_t v)
{
	if (atomic_load_explicit(where, memory_order_relaxed) != v)
		atomic_store_explicit(where, v, memory_order_relaxed);
}

static void tell_work(struct svc_feed *f)
{
	const struct feed *s = f->shared;
	unsigned i = f->rpc->shard->index;

	tell(&s->publishing[i], (streams_view_publishing(f->view) != 0) | !f->draining);
	tell(&s->cursors[i], streams_view_cursors(f->view) != 0);
}

bool feed_is_publishing(const struct feed *s)
{
	for (unsigned i = 0; i < s->opts.shards; i++) {
		if (atomic_load_explicit(&s->publishing[i], memory_order_relaxed))
			return true;
	}
	return false;
}

void svc_feed_turn(struct rpc_shard *r)
{
	static const struct streams_view_ops ops = {
		.published = feed_on_published,
		.refused = feed_on_refused,
		.ready = feed_on_ready,
		.give_back = feed_on_give_back,
	};
	struct svc_feed *f = r->feed;

	streams_view_turn(f->view, &ops, f);
	while (!TAILQ_EMPTY(&f->dirty))
		feed_many_turn(dirty_pop(f));
	while (!TAILQ_EMPTY(&f->run))
		feed_sub_pump(run_pop(f));
	tell_work(f);
}

void svc_feed_figures(const struct rpc_shard *r, struct svc_feed_figures *ret)
{
	const struct svc_feed *f = r->feed;

	ret->subscriptions = streams_view_cursors(f->view);
	ret->publishes = streams_view_publishing(f->view);
	ret->held = streams_view_held(f->view);
	ret->pieces = count_get(&f->pieces_held);
}

bool svc_feed_pending(struct rpc_shard *r)
{
	struct svc_feed *f = r->feed;

	return !TAILQ_EMPTY(&f->run) || !TAILQ_EMPTY(&f->dirty) || streams_view_has_work(f->view);
}

/* The tick. */

void feed_watch(struct svc_feed *f)
{
	if (!timer_is_armed(&f->tick))
		wheel_add(&f->rpc->shard->wheel, &f->tick, feed_now(f) + (f->draining ? DRAIN_TICK_NS : TICK_NS));
}

static void on_tick(struct timer *t, void *ctx)
{
	struct svc_feed *f = container_of(t, struct svc_feed, tick);

	for (struct feed_sub *sub = f->subscribers, *next; sub; sub = next) {
		next = sub->next;
		feed_sub_tick(sub);
	}
	if (f->subscribers || f->draining)
		feed_watch(f);
}

/* The end. */

void svc_feed_drain(struct rpc_shard *r)
{
	struct svc_feed *f = r->feed;

	f->draining = true;
	f->drain_ns = feed_now(f);
	for (struct feed_many *m = f->publishers; m; m = m->next)
		feed_many_end(m, GRPC_UNAVAILABLE,
			      "the server is stopping; what was sent after the last answer was not published");
	for (struct feed_sub *sub = f->subscribers; sub; sub = sub->next)
		feed_run(sub);
	wheel_del(&r->shard->wheel, &f->tick);
	feed_watch(f);
}

bool svc_feed_needed(struct rpc_shard *r)
{
	const struct svc_feed *f = r->feed;
	const struct feed *s = f->shared;

	if (feed_now(f) - f->drain_ns >= r->shard->opts->drain_ns + DRAIN_GRACE_NS)
		return false;
	for (unsigned i = 0; i < s->opts.shards; i++) {
		if (shard_has_ended(mesh_shard(r->shard->mesh, i)))
			continue;
		if (atomic_load_explicit(&s->publishing[i], memory_order_relaxed) ||
		    atomic_load_explicit(&s->cursors[i], memory_order_relaxed))
			return true;
	}
	return false;
}

/* Making and unmaking. */

struct feed *feed_new(struct streams *ss, const struct feed_opts *opts)
{
	struct feed *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->ss = ss;
	s->opts = *opts;
	s->publishing = calloc(opts->shards, sizeof *s->publishing);
	s->cursors = calloc(opts->shards, sizeof *s->cursors);
	if (!s->publishing || !s->cursors) {
		feed_free(s);
		return NULL;
	}
	for (unsigned i = 0; i < opts->shards; i++) /* each takes new ones until it drains */
		atomic_init(&s->publishing[i], 1);
	return s;
}

void feed_free(struct feed *s)
{
	if (!s)
		return;
	free(s->publishing);
	free(s->cursors);
	free(s);
}

static void done(struct svc_feed *f)
{
	slab_done(&f->items);
	slab_done(&f->subs);
	slab_done(&f->pieces);
	free(f->count);
	free(f);
}

int svc_feed_start(struct rpc_shard *r, struct feed *s)
{
	struct svc_feed *f = calloc(1, sizeof *f);

	if (!f)
		return -ENOMEM;
	f->rpc = r;
	f->shared = s;
	TAILQ_INIT(&f->run);
	TAILQ_INIT(&f->dirty);
	f->tick.fire = on_tick;
	f->room.max = s->opts.reorder_total;
	f->count = calloc(s->opts.streams_max, sizeof *f->count);
	if (!f->count || slab_init(&f->items, sizeof(struct feed_item), 1u << 24) ||
	    slab_init(&f->subs, sizeof(struct feed_sub), 1u << 24) ||
	    slab_init(&f->pieces, sizeof(struct feed_piece), 1u << 24)) {
		done(f);
		return -ENOMEM;
	}
	f->view = streams_view_new(s->ss, r->shard->index, &r->shard->bell);
	if (!f->view) {
		done(f);
		return -ENOMEM;
	}
	r->feed = f;
	s->shard[r->shard->index] = f;
	return 0;
}

void svc_feed_stop(struct rpc_shard *r)
{
	struct svc_feed *f = r->feed;

	streams_view_free(f->view);
	f->shared->shard[r->shard->index] = NULL;
	r->feed = NULL;
	done(f);
}

const struct method svc_feed_methods[SVC_FEED_METHODS] = {
	{.service = "ordinal.v1.Feed",
	 .name = "Publish",
	 .number = METHOD_FEED_PUBLISH,
	 .kind = METHOD_UNARY,
	 .access = METHOD_CHECKS,
	 .message = feed_publish_message,
	 .cancel = feed_publish_cancel},
	{.service = "ordinal.v1.Feed",
	 .name = "PublishMany",
	 .number = METHOD_FEED_PUBLISH_MANY,
	 .kind = METHOD_BIDI,
	 .access = METHOD_CHECKS,
	 .open = feed_many_open,
	 .message = feed_many_message,
	 .half_close = feed_many_half_close,
	 .cancel = feed_many_cancel,
	 .writable = feed_many_writable},
	{.service = "ordinal.v1.Feed",
	 .name = "Subscribe",
	 .number = METHOD_FEED_SUBSCRIBE,
	 .kind = METHOD_SERVER_STREAM,
	 .access = METHOD_CHECKS,
	 .message = feed_subscribe_message,
	 .cancel = feed_subscribe_cancel,
	 .writable = feed_subscribe_writable},
};
