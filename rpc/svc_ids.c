/* The service ordinal.v1.Ids: Next and Take, over the shard's view of the sequences. Runs on the shard.
 *
 * Next: a request joins its sequence's waiting list, and the turn's end claims once for all of them (queue/ids.h).
 *
 * Take: the same on a stream, whose replies must keep the order of its requests. Requests of one sequence are answered in order anyway, so as
 * long as a stream stays with a sequence all of its requests wait there together (items). A request for another sequence is held, with all
 * that follow, until the stream has nothing waiting. Bound: opts->take_pipeline requests, then reading pauses. So it does while answers do not leave,
 * because the client opens no window or does not read.
 */
#include "rpc/svc_ids.h"
#include "core/base/check.h"
#include "rpc/methods.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One request that waits. For Next it is inside the call. */
struct req {
	struct ids_wait wait;
	struct call *call;
	uint32_t item; /* its slot in svc_ids.items; SLAB_NONE: inside the call */
};
_Static_assert(sizeof(struct req) <= sizeof(((struct call *)0)->svc), "a waiting request fits into its call");

/* A request message held back, behind others of its stream. */
struct held {
	struct held *next;
	size_t n;
	uint8_t msg[];
};

/* A Take stream. */
struct take {
	uint32_t waiting, held;
	bool half_closed, paused;
	bool stalled; /* answers wait to be sent: nothing more is asked for until `writable` */
	uint8_t name_len;
	char name[SEQUENCE_NAME_MAX]; /* the sequence that the waiting requests are of */
	struct held *first, **last;
	struct item *items;
};

struct item {
	struct req req;
	struct item *next, **link; /* of the stream */
};

struct svc_ids {
	struct rpc_shard *rpc;
	struct ids *ids;
	struct ids_view *view;
	struct slab items; /* struct item */
	uint32_t order;    /* in every reply */
};

enum grpc_status svc_ids_status(enum ids_error e)
{
	static const enum grpc_status status[] = {
		[IDS_E_COUNT] = GRPC_RESOURCE_EXHAUSTED,     [IDS_E_NAME] = GRPC_INVALID_ARGUMENT,
		[IDS_E_LIMIT] = GRPC_RESOURCE_EXHAUSTED,     [IDS_E_UNKNOWN] = GRPC_NOT_FOUND,
		[IDS_E_EXHAUSTED] = GRPC_RESOURCE_EXHAUSTED, [IDS_E_SINGLES] = GRPC_FAILED_PRECONDITION,
		[IDS_E_FAILED] = GRPC_UNAVAILABLE,           [IDS_E_LOST] = GRPC_DATA_LOSS,
	};
	return status[e];
}

static void refuse(struct call *c, enum ids_error e)
{
	char text[512];
	const struct svc_ids *s = c->rpc->ids;
	call_finish_text(c, svc_ids_status(e), "%s", ids_error_text(s->ids, e, text, sizeof text));
}

static bool parse(struct call *c, struct span msg, struct pb_next_request *ret)
{
	if (likely(!pb_next_request_get(msg, ret)))
		return true;
	call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT("the message is not an ordinal.v1.NextRequest"));
	return false;
}

static struct req *req_of(struct call *c)
{
	return (struct req *)&c->svc;
}

static void next_message(struct call *c, struct span msg)
{
	struct svc_ids *s = c->rpc->ids;
	struct pb_next_request m;
	if (!parse(c, msg, &m))
		return;
	if (unlikely(!call_may(c, ACCESS_IDS, m.sequence))) {
		call_deny(c, ACCESS_IDS, m.sequence);
		return;
	}
	struct req *r = req_of(c);
	r->call = c;
	r->item = SLAB_NONE;
	enum ids_error e = ids_view_request(s->view, &r->wait, m.sequence, m.count ? m.count : 1);
	if (unlikely(e))
		refuse(c, e);
}

static void next_cancel(struct call *c)
{
	struct svc_ids *s = c->rpc->ids;
	ids_view_cancel(s->view, &req_of(c)->wait);
}

/* Take. */

static void item_drop(struct svc_ids *s, struct take *t, struct item *it)
{
	*it->link = it->next;
	if (it->next)
		it->next->link = it->link;
	t->waiting--;
	slab_put(&s->items, it->req.item);
}

static void take_free(struct svc_ids *s, struct call *c)
{
	struct take *t = c->svc.ptr;
	while (t->items) {
		ids_view_cancel(s->view, &t->items->req.wait);
		item_drop(s, t, t->items);
	}
	for (struct held *h = t->first, *next; h; h = next) {
		next = h->next;
		free(h);
	}
	free(t);
	c->svc.ptr = NULL;
}

static void take_open(struct call *c)
{
	struct take *t = calloc(1, sizeof *t);
	c->svc.ptr = t;
	if (t)
		t->last = &t->first;
	else
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for another stream"));
}

static void take_end(struct call *c, enum grpc_status status, const char *text)
{
	take_free(c->rpc->ids, c);
	call_finish(c, status, (struct span){(const uint8_t *)text, strlen(text)});
}

static void take_refuse(struct call *c, enum ids_error e)
{
	take_free(c->rpc->ids, c);
	refuse(c, e);
}

/* Puts a request into its sequence's waiting list. false: the call has ended. */
static bool take_submit(struct call *c, const struct pb_next_request *m)
{
	struct svc_ids *s = c->rpc->ids;
	struct take *t = c->svc.ptr;
	uint32_t slot;
	struct item *it = slab_get(&s->items, &slot);
	if (!it) {
		take_end(c, GRPC_RESOURCE_EXHAUSTED, "no memory for another request");
		return false;
	}
	memset(it, 0, sizeof *it);
	it->req.call = c;
	it->req.item = slot;
	enum ids_error e = ids_view_request(s->view, &it->req.wait, m->sequence, m->count ? m->count : 1);
	if (e) {
		slab_put(&s->items, slot);
		take_refuse(c, e);
		return false;
	}
	it->next = t->items;
	it->link = &t->items;
	if (it->next)
		it->next->link = &it->next;
	t->items = it;
	t->waiting++;
	t->name_len = (uint8_t)m->sequence.n;
	if (m->sequence.n)
		memcpy(t->name, m->sequence.p, m->sequence.n);
	return true;
}

static bool take_may_submit(const struct take *t, const struct pb_next_request *m)
{
	return t->waiting == 0 ||
	       (m->sequence.n == t->name_len && (t->name_len == 0 || memcmp(m->sequence.p, t->name, t->name_len) == 0));
}

static void take_hold(struct call *c, struct span msg)
{
	struct take *t = c->svc.ptr;
	struct held *h = malloc(sizeof *h + msg.n);
	if (!h) {
		take_end(c, GRPC_RESOURCE_EXHAUSTED, "no memory for another request");
		return;
	}
	h->next = NULL;
	h->n = msg.n;
	if (msg.n)
		memcpy(h->msg, msg.p, msg.n);
	*t->last = h;
	t->last = &h->next;
	t->held++;
}

/* Submits held requests for as long as their order allows. false: the call has ended. */
static bool take_advance(struct call *c)
{
	struct take *t = c->svc.ptr;
	uint32_t most = c->rpc->opts->take_pipeline;
	while (t->first && t->waiting < most && !t->stalled) {
		struct held *h = t->first;
		struct pb_next_request m = {0};
		pb_next_request_get((struct span){h->msg, h->n}, &m); /* it was well-formed when it was held */
		if (!take_may_submit(t, &m))
			break;
		t->first = h->next;
		if (!t->first)
			t->last = &t->first;
		t->held--;
		bool ok = take_submit(c, &m);
		free(h);
		if (!ok)
			return false;
	}
	if (t->paused && !t->stalled && t->held == 0 && t->waiting < (most + 1) / 2) {
		t->paused = false;
		c->ops->resume(c);
		if (c->svc.ptr != t) /* resuming may deliver messages, and one of them may end the call */
			return false;
	}
	if (t->half_closed && t->waiting == 0 && t->held == 0) {
		take_end(c, GRPC_OK, "");
		return false;
	}
	return true;
}

static void take_message(struct call *c, struct span msg)
{
	struct take *t = c->svc.ptr;
	struct pb_next_request m;
	if (!t)
		return;
	if (pb_next_request_get(msg, &m)) {
		take_end(c, GRPC_INVALID_ARGUMENT, "the message is not an ordinal.v1.NextRequest");
		return;
	}
	if (unlikely(!call_may(c, ACCESS_IDS, m.sequence))) {
		take_free(c->rpc->ids, c);
		call_deny(c, ACCESS_IDS, m.sequence);
		return;
	}
	uint32_t most = c->rpc->opts->take_pipeline;
	if (t->held || t->stalled || t->waiting >= most || !take_may_submit(t, &m))
		take_hold(c, msg);
	else
		take_submit(c, &m);
	t = c->svc.ptr;
	if (t && !t->paused && (t->held || t->waiting >= most)) {
		t->paused = true;
		c->ops->pause(c);
	}
}

static void take_half_close(struct call *c)
{
	struct take *t = c->svc.ptr;
	if (!t)
		return;
	t->half_closed = true;
	take_advance(c);
}

static void take_writable(struct call *c)
{
	struct take *t = c->svc.ptr;
	if (!t || !t->stalled)
		return;
	t->stalled = false;
	take_advance(c);
}

static void take_cancel(struct call *c)
{
	if (c->svc.ptr)
		take_free(c->rpc->ids, c);
}

static void take_answer(struct svc_ids *s, struct req *r, const uint8_t *msg, size_t n)
{
	struct call *c = r->call;
	struct take *t = c->svc.ptr;
	item_drop(s, t, container_of(r, struct item, req));
	if (unlikely(!call_send(c, msg, n))) {
		t->stalled = true;
		if (!t->paused) {
			t->paused = true;
			c->ops->pause(c);
		}
	}
	take_advance(c);
}

static void on_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
{
	struct svc_ids *s = ctx;
	struct req *r = container_of(w, struct req, wait);
	uint8_t msg[PB_NEXT_REPLY_MAX];
	size_t n = pb_next_reply_put(msg, &(struct pb_next_reply){first, w->count, s->order, incarnation});
	if (likely(r->item == SLAB_NONE))
		call_reply(r->call, msg, n);
	else
		take_answer(s, r, msg, n);
}

static void on_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	struct svc_ids *s = ctx;
	struct req *r = container_of(w, struct req, wait);
	struct call *c = r->call;
	if (r->item == SLAB_NONE) {
		refuse(c, why);
	} else {
		item_drop(s, c->svc.ptr, container_of(r, struct item, req));
		take_refuse(c, why);
	}
}

const struct method svc_ids_methods[SVC_IDS_METHODS] = {
	{.service = "ordinal.v1.Ids",
	 .name = "Next",
	 .number = METHOD_IDS_NEXT,
	 .kind = METHOD_UNARY,
	 .access = METHOD_CHECKS,
	 .message = next_message,
	 .cancel = next_cancel},
	{.service = "ordinal.v1.Ids",
	 .name = "Take",
	 .number = METHOD_IDS_TAKE,
	 .kind = METHOD_BIDI,
	 .access = METHOD_CHECKS,
	 .open = take_open,
	 .message = take_message,
	 .half_close = take_half_close,
	 .writable = take_writable,
	 .cancel = take_cancel},
};

int svc_ids_start(struct rpc_shard *r, struct ids *ids)
{
	struct svc_ids *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->rpc = r;
	s->ids = ids;
	s->order = ids_order(ids) == IDS_SHARDED;
	if (slab_init(&s->items, sizeof(struct item), 1u << 22)) {
		free(s);
		return -ENOMEM;
	}
	s->view = ids_view_new(ids, r->shard->index, &r->shard->bell);
	if (!s->view) {
		slab_done(&s->items);
		free(s);
		return -ENOMEM;
	}
	r->ids = s;
	return 0;
}

void svc_ids_stop(struct rpc_shard *r)
{
	struct svc_ids *s = r->ids;
	ids_view_free(s->view);
	slab_done(&s->items);
	free(s);
	r->ids = NULL;
}

void svc_ids_turn(struct rpc_shard *r)
{
	static const struct ids_view_ops ops = {.answer = on_answer, .refused = on_refused};
	struct svc_ids *s = r->ids;
	ids_view_turn(s->view, &ops, s);
}

bool svc_ids_pending(struct rpc_shard *r)
{
	const struct svc_ids *s = r->ids;
	return ids_view_has_work(s->view);
}

const struct ids_view *svc_ids_view(const struct rpc_shard *r)
{
	const struct svc_ids *s = r->ids;
	return s->view;
}
