/* The service ordinal.v1.Stats; see the header. Runs on the shard. The pages are report_network.c's.
 *
 *   request --pages_ask--> waiting --page--> being sent --all taken--> OK
 *                             |                  \--nothing taken for STALL_TIMEOUT_MS--> DEADLINE_EXCEEDED
 *                             \--no memory for the page--> RESOURCE_EXHAUSTED
 *
 * A page is a StatsReply as gRPC frames it, one for all calls that it answers: the output is given slices of it, so a client that does not read costs a
 * reference. What clients can make grow is the number of calls that wait or are being sent: STATS_CALLS_MAX on a shard, STATS_CONN_CALLS_MAX of a connection, so
 * that one connection does not take all places; and pages in their connections' output, as many as are rendered within STALL_TIMEOUT_MS. Calls are few, so the
 * list is walked.
 *
 * Invariant: a call is on the list from its request until it ends; what ends it takes it off before it says so.
 */
#include "rpc/svc_stats.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "ordinal/v1/stats.pb-c.h"
#include "rpc/methods.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS NS_PER_S

/* A call, in call.svc. */
struct get {
	struct get *next, **link;
	struct page *page; /* NULL: it waits for one */
	uint64_t moved_ns; /* when the client last took some of it */
	uint32_t at;       /* what it has taken */
	uint32_t number;   /* of the question */
	uint8_t kind;
	bool due; /* to be sent in this turn */
};
_Static_assert(sizeof(struct get) <= sizeof(((struct call *)0)->svc),
	       "a call that waits for a page fits into its call");

struct svc_stats {
	struct rpc_shard *rpc;
	struct pages *pages;
	struct get *gets;
	struct timer tick; /* while there are any */
};

static struct get *get_of(struct call *c)
{
	return (struct get *)&c->svc;
}

static struct call *call_of(struct get *g)
{
	return (struct call *)(void *)((char *)g - offsetof(struct call, svc));
}

/* The list. */

static void watch(struct svc_stats *s)
{
	struct shard *shard = s->rpc->shard;
	if (s->gets && !timer_is_armed(&s->tick))
		wheel_add(&shard->wheel, &s->tick, shard->now_ns + TICK_NS);
	else if (!s->gets && timer_is_armed(&s->tick))
		wheel_del(&shard->wheel, &s->tick);
}

static void add(struct svc_stats *s, struct get *g)
{
	g->next = s->gets;
	g->link = &s->gets;
	if (g->next)
		g->next->link = &g->next;
	s->gets = g;
	watch(s);
}

static void drop(struct svc_stats *s, struct get *g)
{
	*g->link = g->next;
	if (g->next)
		g->next->link = g->link;
	g->link = NULL;
	page_put(g->page);
	g->page = NULL;
	watch(s);
}

/* Whether there is a place for one more; if not, the call ends. */
static bool has_place(struct svc_stats *s, struct call *c)
{
	const struct rpc_opts *o = s->rpc->opts;
	unsigned all = 0, mine = 0;
	for (struct get *g = s->gets; g; g = g->next) {
		all++;
		mine += call_of(g)->conn == c->conn;
	}
	if (mine >= o->stats_conn_calls_max)
		call_finish_text(c, GRPC_RESOURCE_EXHAUSTED,
				 "%u calls for stats of this connection are in flight, STATS_CONN_CALLS_MAX", mine);
	else if (all >= o->stats_calls_max)
		call_finish_text(c, GRPC_RESOURCE_EXHAUSTED,
				 "%u calls for stats are in flight on this shard, STATS_CALLS_MAX", all);
	return mine < o->stats_conn_calls_max && all < o->stats_calls_max;
}

/* Sending. */

static void on_release(void *owner)
{
	page_put(owner);
}

static void send_page(struct svc_stats *s, struct get *g)
{
	struct call *c = call_of(g);
	struct page *p = page_get(g->page); /* the slice's */
	uint32_t n = (uint32_t)p->text.n;
	size_t took = call_send_framed(
		c, &(struct conn_slice){.p = p->text.p + g->at, .n = n - g->at, .release = on_release, .owner = p});
	if (took)
		g->moved_ns = s->rpc->shard->now_ns;
	g->at += (uint32_t)took;
	if (g->at < n)
		return; /* `writable` goes on */
	drop(s, g);
	call_finish(c, GRPC_OK, (struct span){0, 0});
}

static void writable(struct call *c)
{
	struct get *g = get_of(c);
	if (g->page)
		send_page(c->rpc->stats_calls, g);
}

static bool is_answered_by(const struct get *g, const struct pages_post *post)
{
	return !g->page && g->kind == post->kind && (int32_t)(g->number - post->number) <= 0;
}

static struct get *first_due(const struct svc_stats *s)
{
	struct get *g = s->gets;
	while (g && !g->due)
		g = g->next;
	return g;
}

/* Ending a call may do anything to the list but take marks from it. */
static void on_post(struct svc_stats *s, const struct pages_post *post)
{
	for (struct get *g = s->gets; g; g = g->next)
		g->due = is_answered_by(g, post);
	for (struct get *g; (g = first_due(s));) {
		g->due = false;
		if (post->page) {
			g->page = page_get(post->page);
			g->moved_ns = s->rpc->shard->now_ns;
			send_page(s, g);
		} else {
			drop(s, g);
			call_finish(call_of(g), GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for the page"));
		}
	}
	page_put(post->page);
}

/* A client that takes nothing of its answer gives its place to others. One whose connection is busy
 * with what was queued before may be taking it, and is watched by the connection. */
static void on_tick(struct timer *t, void *ctx)
{
	struct svc_stats *s = container_of(t, struct svc_stats, tick);
	const struct shard *shard = s->rpc->shard;
	for (struct get *g = s->gets; g; g = g->next) {
		if (g->page && !call_is_shut(call_of(g)))
			g->moved_ns = shard->now_ns;
		g->due = g->page && shard->now_ns - g->moved_ns >= shard->opts->stall_ns;
	}
	for (struct get *g; (g = first_due(s));) {
		static const char text[] = "the answer was not taken within STALL_TIMEOUT_MS";
		struct call *c = call_of(g);
		g->due = false;
		drop(s, g);
		call_note_refusal(s->rpc, c->conn, REFUSAL_STALLED, text);
		call_finish(c, GRPC_DEADLINE_EXCEEDED, (struct span){(const uint8_t *)text, sizeof text - 1});
	}
	watch(s);
}

/* Calls. */

static void get(struct call *c, const ProtobufCMessage *m)
{
	const Ordinal__V1__StatsRequest *req = (const Ordinal__V1__StatsRequest *)m;
	struct svc_stats *s = c->rpc->stats_calls;
	struct get *g = get_of(c);
	if (!call_may(c, ACCESS_STATS, (struct span){0, 0})) {
		call_deny(c, ACCESS_STATS, (struct span){0, 0});
		return;
	}
	unsigned format = (unsigned)req->format;
	if (format >= REPORT_FORMS) {
		call_finish_text(c, GRPC_INVALID_ARGUMENT, "format is %u, which is none of StatsFormat's numbers",
				 format);
		return;
	}
	if (!has_place(s, c))
		return;
	g->kind = (uint8_t)report_kind((enum report_form)format, c->rpc->access != NULL);
	g->number = pages_ask(s->pages, c->rpc->shard->index, g->kind);
	add(s, g);
}

static void cancel(struct call *c)
{
	struct get *g = get_of(c);
	if (g->link)
		drop(c->rpc->stats_calls, g);
}

const struct typed_method svc_stats_methods[SVC_STATS_METHODS] = {
	{TYPED("ordinal.v1.Stats", "Get", METHOD_UNARY, .number = METHOD_STATS_GET, .access = METHOD_CHECKS,
	       .cancel = cancel, .writable = writable),
	 &ordinal__v1__stats_request__descriptor, get},
};

int svc_stats_start(struct rpc_shard *r, struct pages *pages)
{
	struct svc_stats *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->rpc = r;
	s->pages = pages;
	s->tick.fire = on_tick;
	pages_join(pages, r->shard->index, &r->shard->bell);
	r->stats_calls = s;
	return 0;
}

void svc_stats_stop(struct rpc_shard *r)
{
	free(r->stats_calls);
	r->stats_calls = NULL;
}

void svc_stats_turn(struct rpc_shard *r)
{
	struct svc_stats *s = r->stats_calls;
	struct pages_post post;
	while (pages_take(s->pages, r->shard->index, &post))
		on_post(s, &post);
}

bool svc_stats_pending(struct rpc_shard *r)
{
	const struct svc_stats *s = r->stats_calls;
	return pages_has_mail(s->pages, r->shard->index);
}
