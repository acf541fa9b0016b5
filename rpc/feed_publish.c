/* Publish and PublishMany. Runs on the shard.
 *
 *   message --streams_publish--> under way --published, refused--> answered
 *
 * Publish: the call is the publish. PublishMany: each request is an item in the order of arrival; the items at the front that are done are answered
 * together, once a turn, whatever streams they were of. An item that was refused ends the call after the answers before it; what was sent after it is
 * let go, and may be kept all the same: no answer means unknown.
 *
 * Bounds of a PublishMany: `pipeline` requests without an answer, and its share of held_max; beyond, reading pauses. Answers that the client
 * does not read stop the answering, and so, by the pipeline, the reading.
 */
#include "rpc/feed_impl.h"

#include "core/base/check.h"
#include "rpc/wire/pb_feed.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { ANSWERS_MAX = 16 << 10 /* bytes of answers sent together */ };
#define ANSWER_MAX (GRPC_PREFIX + PB_PUBLISH_REPLY_MAX)

static const char not_a_request[] = "the message is not an ordinal.v1.PublishRequest";
static const char stopping[] = "the server is stopping; this frame was not published";

static size_t put_answer(uint8_t *out, const struct stream_answer *a)
{
	struct pb_publish_reply r = {.offset = a->offset,
				     .timestamp = a->timestamp,
				     .durability = a->durability,
				     .duplicate = a->duplicate,
				     .incarnation = a->incarnation};

	return pb_publish_reply_put(out, &r);
}

static enum stream_error publish(struct svc_feed *f, struct feed_publish *p, const struct pb_publish_request *m)
{
	struct stream_request r = {.stream = m->stream,
				   .seq_no = m->seq_no,
				   .timestamp = m->timestamp,
				   .payload = m->payload,
				   .publisher = m->publisher,
				   .publisher_seq = m->publisher_seq};

	return streams_publish(f->view, &r, p, &p->handle);
}

/* Publish. */

static struct feed_publish *publish_of(struct call *c)
{
	return (struct feed_publish *)&c->svc;
}

void feed_publish_message(struct call *c, struct span msg)
{
	struct svc_feed *f = c->rpc->feed;
	struct feed_publish *p = publish_of(c);
	struct pb_publish_request m;

	if (unlikely(f->draining)) {
		call_finish(c, GRPC_UNAVAILABLE, SPAN_LIT(stopping));
		return;
	}
	if (unlikely(pb_publish_request_get(msg, &m))) {
		call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT(not_a_request));
		return;
	}
	if (unlikely(!call_may(c, ACCESS_PUBLISH, m.stream))) {
		call_deny(c, ACCESS_PUBLISH, m.stream);
		return;
	}
	*p = (struct feed_publish){.call = c};
	enum stream_error e = publish(f, p, &m);
	if (unlikely(e))
		feed_refuse(c, e, streams_view_refused(f->view));
}

void feed_publish_cancel(struct call *c)
{
	struct feed_publish *p = publish_of(c);

	if (p->handle)
		stream_publish_detach(p->handle);
	p->handle = NULL;
}

/* PublishMany. */

static void item_pop(struct feed_many *m)
{
	struct feed_item *it = m->first;

	if (it->publish.handle)
		stream_publish_detach(it->publish.handle);
	m->first = it->next;
	if (!m->first)
		m->last = &m->first;
	m->waiting--;
	slab_put(&m->feed->items, it->slot);
}

static void many_free(struct feed_many *m)
{
	while (m->first)
		item_pop(m);
	feed_out_reset(&m->out);
	feed_touch_cancel(m);
	*m->link = m->next;
	if (m->next)
		m->next->link = m->link;
	m->call->svc.ptr = NULL;
	free(m);
}

static void many_finish(struct feed_many *m, enum grpc_status status, const char *text)
{
	struct call *c = m->call;
	char kept[sizeof m->text];
	int n = snprintf(kept, sizeof kept, "%s", text);

	many_free(m);
	call_finish(c, status, (struct span){(const uint8_t *)kept, n < 0 ? 0 : strlen(kept)});
}

void feed_many_open(struct call *c)
{
	struct svc_feed *f = c->rpc->feed;
	struct feed_many *m = f->draining ? NULL : calloc(1, sizeof *m);

	c->svc.ptr = m;
	if (!m) {
		if (f->draining)
			call_finish(c, GRPC_UNAVAILABLE, SPAN_LIT(stopping));
		else
			call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for another publisher"));
		return;
	}
	m->call = c;
	m->feed = f;
	m->last = &m->first;
	m->next = f->publishers;
	m->link = &f->publishers;
	if (m->next)
		m->next->link = &m->next;
	f->publishers = m;
}

void feed_many_end(struct feed_many *m, enum grpc_status status, const char *fmt, ...)
{
	va_list ap;

	if (m->ending)
		return;
	m->ending = true;
	m->status = status;
	va_start(ap, fmt);
	vsnprintf(m->text, sizeof m->text, fmt, ap);
	va_end(ap);
	feed_touch(m);
}

static void many_refuse(struct feed_many *m, uint64_t request, enum stream_error e, const struct stream *s)
{
	char text[480];

	feed_many_end(m, feed_status_of(e), "request %llu: %s", (unsigned long long)request,
		      stream_refusal_text(m->feed->shared->ss, e, s, text, sizeof text));
}

/* Whether as much is under way as may be. */
static bool is_full(const struct feed_many *m)
{
	const struct feed *s = m->feed->shared;

	return m->waiting >= s->opts.pipeline ||
	       (m->waiting && streams_view_held(m->feed->view) > s->opts.held_max / 2);
}

static bool may_resume(const struct feed_many *m)
{
	const struct feed *s = m->feed->shared;

	return m->waiting == 0 ||
	       (m->waiting <= s->opts.pipeline / 2 && streams_view_held(m->feed->view) <= s->opts.held_max / 2);
}

void feed_many_message(struct call *c, struct span msg)
{
	struct feed_many *m = c->svc.ptr;
	struct pb_publish_request r;
	uint32_t slot;

	if (!m || m->ending)
		return;
	if (unlikely(pb_publish_request_get(msg, &r))) {
		feed_many_end(m, GRPC_INVALID_ARGUMENT, "request %llu: %s", (unsigned long long)m->taken + 1,
			      not_a_request);
		return;
	}
	if (unlikely(!call_may(c, ACCESS_PUBLISH, r.stream))) {
		struct call_refusal why;
		call_explain(c, ACCESS_PUBLISH, r.stream, &why);
		feed_many_end(m, why.status, "request %llu: %s", (unsigned long long)m->taken + 1, why.text);
		return;
	}
	struct feed_item *it = slab_get(&m->feed->items, &slot);
	if (unlikely(!it)) {
		feed_many_end(m, GRPC_RESOURCE_EXHAUSTED, "no memory for another request");
		return;
	}
	*it = (struct feed_item){.publish = {.call = c, .item = it}, .slot = slot};
	enum stream_error e = publish(m->feed, &it->publish, &r);
	if (unlikely(e)) {
		slab_put(&m->feed->items, slot);
		many_refuse(m, m->taken + 1, e, streams_view_refused(m->feed->view));
		return;
	}
	m->taken++;
	*m->last = it;
	m->last = &it->next;
	m->waiting++;
	if (!m->paused && is_full(m)) {
		m->paused = true;
		c->ops->pause(c);
	}
}

void feed_many_half_close(struct call *c)
{
	struct feed_many *m = c->svc.ptr;

	if (!m)
		return;
	m->half_closed = true;
	feed_touch(m);
}

void feed_many_cancel(struct call *c)
{
	if (c->svc.ptr)
		many_free(c->svc.ptr);
}

void feed_many_writable(struct call *c)
{
	if (c->svc.ptr)
		feed_touch(c->svc.ptr);
}

static bool is_due(const struct feed_many *m)
{
	return m->first && m->first->done && m->first->error == STREAM_E_OK;
}

/* Takes the answers that are due into the output, which is empty. 1; 0: none are; -ENOMEM: the call has ended. */
static int gather(struct feed_many *m)
{
	struct call *c = m->call;
	uint32_t n = 0;

	if (!is_due(m))
		return 0;
	struct feed_piece *p = feed_piece_new(m->feed, ANSWERS_MAX);
	if (!p) {
		many_finish(m, GRPC_RESOURCE_EXHAUSTED, "no memory for answers");
		return -ENOMEM;
	}
	uint8_t *out = (uint8_t *)(uintptr_t)p->slice.p, *at = out;
	for (; is_due(m) && (size_t)(at - out) + ANSWER_MAX <= ANSWERS_MAX; n++) {
		size_t len = put_answer(at + GRPC_PREFIX, &m->first->answer);
		at[0] = 0;
		store_be32(at + 1, (uint32_t)len);
		at += GRPC_PREFIX + len;
		item_pop(m);
	}
	p->slice.n = (size_t)(at - out);
	feed_out_set(&m->out, p);
	count_add(&c->rpc->stats[c->method_index].messages_out, n);
	return 1;
}

void feed_many_turn(struct feed_many *m)
{
	struct call *c = m->call;
	int more;

	do {
		if (!feed_out_send(c, &m->out))
			return;
	} while ((more = gather(m)) > 0);
	if (more < 0)
		return;
	if (m->first && m->first->done) { /* refused, and everything before it is answered */
		m->ending = false;
		many_refuse(m, m->taken - m->waiting + 1, m->first->error, m->first->refused);
		many_finish(m, m->status, m->text);
		return;
	}
	if (m->waiting == 0 && (m->ending || m->half_closed)) {
		many_finish(m, m->ending ? m->status : GRPC_OK, m->ending ? m->text : "");
		return;
	}
	if (m->paused && may_resume(m)) {
		m->paused = false;
		c->ops->resume(c);
	}
}

/* Ends of publishes. */

void feed_on_published(void *ctx, void *user, const struct stream_answer *a)
{
	struct feed_publish *p = user;
	uint8_t msg[PB_PUBLISH_REPLY_MAX];

	p->handle = NULL;
	if (!p->item) {
		call_reply(p->call, msg, put_answer(msg, a));
		return;
	}
	p->item->answer = *a;
	p->item->done = true;
	feed_touch(p->call->svc.ptr);
}

void feed_on_refused(void *ctx, void *user, enum stream_error why)
{
	struct feed_publish *p = user;
	const struct svc_feed *f = p->call->rpc->feed;

	p->handle = NULL;
	if (!p->item) {
		feed_refuse(p->call, why, streams_view_refused(f->view));
		return;
	}
	p->item->error = why;
	p->item->refused = streams_view_refused(f->view);
	p->item->done = true;
	feed_touch(p->call->svc.ptr);
}
