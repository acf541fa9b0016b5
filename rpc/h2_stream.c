/* HTTP/2 streams as gRPC calls: request messages in, answers and trailers out, stream flow control. Runs on the connection's shard.
 *
 *   idle --HEADERS--> open --END_STREAM--> half-closed (remote) --trailers--> closed
 *                       \--trailers first--> RST_STREAM(NO_ERROR) --> closed
 *
 * The hot path is a unary call whose request came in one DATA frame and whose answer fits the windows: its message is handled in place,
 * and its answer is one copy of constant HEADERS, DATA, constant trailers. Everything else takes the general path: `msg` puts messages together, `held` keeps
 * bytes while the service has paused, `pend` keeps answers until windows open.
 *
 * Invariants: a call ends once (call.live). A stream is freed when both sides have ended, or it was reset. Bytes taken in are credited to the
 * windows when they have been handled, so what a peer can make us hold is bounded by the windows and by message_max for a stream.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/gzip.h"
#include "rpc/h2_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t h2_stream_size(void)
{
	return sizeof(struct h2_stream);
}

struct h2_stream *h2_stream_find(struct h2_session *s, uint32_t id)
{
	if (likely(s->recent && s->recent->id == id))
		return s->recent;
	struct h2_stream *st = h2_table_find(&s->streams, id);
	if (st)
		s->recent = st;
	return st;
}

void h2_streams_each(struct h2_session *s, void (*fn)(struct h2_stream *st, void *ctx), void *ctx)
{
	/* fn may end the stream, and with it shift the table; so the identifiers are taken first. */
	const struct h2_table *t = &s->streams;
	uint32_t few[128], *ids = t->used <= ARRAY_SIZE(few) ? few : malloc(t->used * sizeof *ids), n = 0;
	if (!ids) {
		conn_abort(s->conn, CONN_R_MEMORY);
		return;
	}
	for (uint32_t i = 0; t->slot && i <= t->mask; i++) {
		if (t->slot[i].stream)
			ids[n++] = t->slot[i].id;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct h2_stream *st = h2_stream_find(s, ids[i]);
		if (st)
			fn(st, ctx);
	}
	if (ids != few)
		free(ids);
}

/* What has come of the message being put together. */
static void free_message(struct h2_stream *st)
{
	struct rpc_shard *r = st->session->rpc;
	assembly_sub(&r->assembly, &st->session->assembly, st->msg.cap);
	h2_bytes_free(r, &st->msg);
}

void h2_stream_drop(struct h2_stream *st)
{
	struct h2_session *s = st->session;
	struct rpc_shard *r = s->rpc;
	DCHECK(!st->call.live);
	h2_note_waiting(st, false);
	if (st->held.len > st->held.at)
		h2_credit(s, st->held.len - st->held.at);
	free_message(st);
	h2_bytes_free(r, &st->held);
	h2_bytes_free(r, &st->pend);
	h2_bytes_free(r, &st->text);
	call_extra_free(&st->call);
	h2_table_remove(&s->streams, st->id);
	if (s->recent == st)
		s->recent = NULL;
	slab_put(&r->h2_streams, st->slot);
}

void h2_stream_kill(struct h2_stream *st)
{
	if (st->call.live) {
		call_cancel_service(&st->call);
		call_end(&st->call, GRPC_CANCELLED);
	}
	h2_stream_drop(st);
}

/* Needs no memory. A removal moves later entries back, so a place is looked at until it is free. */
void h2_streams_free(struct h2_session *s)
{
	struct h2_table *t = &s->streams;
	for (uint32_t i = 0; t->used; i = (i + 1) & t->mask) {
		while (t->slot[i].stream)
			h2_stream_kill(t->slot[i].stream);
	}
	h2_table_done(t);
}

void h2_stream_error(struct h2_stream *st, enum h2_error code)
{
	struct h2_session *s = st->session;
	uint32_t id = st->id;
	count_add(&s->rpc->protocol_errors, 1);
	h2_stream_kill(st);
	h2_reset(s, id, code, true);
	h2_maybe_close(s);
}

/* Receiving. */

/* The answer may have to wait for windows; the request does not. */
static void fail(struct h2_stream *st, enum grpc_status status, const char *text)
{
	free_message(st);
	call_cancel_service(&st->call);
	h2_finish(&st->call, status, (struct span){(const uint8_t *)text, strlen(text)});
}

/* The same, for what the client did. */
static void refuse_call(struct h2_stream *st, enum grpc_status status, enum refusal why, const char *text)
{
	call_note_refusal(st->call.rpc, st->call.conn, why, text);
	fail(st, status, text);
}

static bool inflate_message(struct h2_stream *st, struct span in, struct span *ret)
{
	struct rpc_shard *r = st->call.rpc;
	char text[128];
	if (!r->gzip)
		r->gzip = gzip_new();
	int rc = r->gzip ? gzip_inflate(r->gzip, in, r->opts->message_max, ret) : -ENOMEM;
	if (rc == 0)
		return true;
	if (rc == -EBADMSG)
		snprintf(text, sizeof text, "a compressed message is not valid gzip");
	else if (rc == -EMSGSIZE)
		snprintf(text, sizeof text, "a message is, inflated, above MESSAGE_MAX, %u bytes",
			 r->opts->message_max);
	else
		snprintf(text, sizeof text, "no memory to inflate a message");
	/* gRPC's compression.md: what cannot be decompressed is INTERNAL. */
	refuse_call(st, rc == -EBADMSG ? GRPC_INTERNAL : GRPC_RESOURCE_EXHAUSTED,
		    rc == -EBADMSG    ? REFUSAL_INVALID
		    : rc == -EMSGSIZE ? REFUSAL_MESSAGE
				      : REFUSAL_MEMORY,
		    text);
	return false;
}

/* A whole message. false: the stream is gone, or takes no more. */
static bool deliver(struct h2_stream *st, struct span msg, bool compressed)
{
	struct h2_session *s = st->session;
	uint32_t id = st->id;
	if (unlikely(compressed) && !inflate_message(st, msg, &msg))
		return false;
	st->call.seen = true;
	st->call.was_compressed = compressed;
	call_deliver(&st->call, msg);
	/* The handler may have ended the call; the stream may be gone, or another. */
	return h2_stream_find(s, id) == st && st->call.live;
}

/* Refuses the message whose prefix has come. The rest of a request with one message is on its way and may be long, so
 * the answer waits for the rest (h2_discard.c). */
static void refuse_message(struct h2_stream *st, enum grpc_status status, enum refusal why, const char *text)
{
	st->discarded = !st->end_seen && !st->headers_sent && h2_wants_one_message(st->call.method);
	refuse_call(st, status, why, text);
}

/* The prefix of a message is complete. false: refused. */
static bool begin_message(struct h2_stream *st)
{
	const struct rpc_opts *o = st->call.rpc->opts;
	char text[128];
	if (st->prefix[0] > 1 || (st->prefix[0] && !st->gzip && !st->unknown_coding)) {
		refuse_message(st, GRPC_INTERNAL, REFUSAL_INVALID,
			       st->prefix[0] > 1 ? "the compressed flag of a message is neither 0 nor 1"
						 : "a message is flagged as compressed, and there is no grpc-encoding");
		return false;
	}
	if (st->prefix[0] && st->unknown_coding) {
		refuse_message(st, GRPC_UNIMPLEMENTED, REFUSAL_INVALID,
			       "this grpc-encoding is not supported; gzip and identity are");
		return false;
	}
	if (st->have_message) {
		refuse_message(st, GRPC_INVALID_ARGUMENT, REFUSAL_INVALID,
			       "this method takes exactly one request message");
		return false;
	}
	st->want = load_be32(st->prefix + 1);
	if (st->want > o->message_max) {
		snprintf(text, sizeof text, "a message of %u bytes is above MESSAGE_MAX, %u", st->want, o->message_max);
		refuse_message(st, GRPC_RESOURCE_EXHAUSTED, REFUSAL_MESSAGE, text);
		return false;
	}
	return true;
}

/* Keeps a piece of a message that is not whole yet. */
static bool keep(struct h2_stream *st, const uint8_t *p, size_t n)
{
	struct rpc_shard *r = st->call.rpc;
	struct assembly_share *share = &st->session->assembly;
	uint32_t before = st->msg.cap;
	char text[128] = "no memory for a partly received message";
	bool ok = h2_bytes_add(r, &st->msg, p, n);
	assembly_add(&r->assembly, share, st->msg.cap - before);
	if (likely(ok && !assembly_is_over(&r->assembly, share, &r->opts->assembly, text, sizeof text)))
		return true;
	refuse_call(st, GRPC_RESOURCE_EXHAUSTED, ok ? REFUSAL_MESSAGE : REFUSAL_MEMORY, text);
	return false;
}

/* A message has been put together. false: the stream takes no more. */
static bool whole(struct h2_stream *st)
{
	struct rpc_shard *r = st->call.rpc;
	struct h2_session *s = st->session;
	struct h2_bytes msg = st->msg;
	st->prefix_len = 0;
	if (h2_wants_one_message(
		    st->call.method)) { /* it waits for the end of the stream; a further prefix would be one too many */
		st->have_message = true;
		return true;
	}
	st->msg = (struct h2_bytes){0};
	bool go_on = deliver(st, (struct span){msg.p, msg.len}, st->prefix[0]);
	assembly_sub(&r->assembly, &s->assembly, msg.cap);
	h2_bytes_free(r, &msg);
	return go_on;
}

/* Takes one step in p; returns the bytes used, or SIZE_MAX when the stream takes no more. */
static size_t step(struct h2_stream *st, const uint8_t *p, size_t n)
{
	if (st->prefix_len < GRPC_PREFIX) {
		size_t want = (size_t)GRPC_PREFIX - st->prefix_len, take = want < n ? want : n;
		memcpy(st->prefix + st->prefix_len, p, take);
		st->prefix_len += (uint8_t)take;
		if (st->prefix_len == GRPC_PREFIX && (!begin_message(st) || (st->want == 0 && !whole(st))))
			return SIZE_MAX;
		return take;
	}
	size_t left = st->want - st->msg.len, take = left < n ? left : n;
	if (take == st->want && !h2_wants_one_message(st->call.method)) { /* all of it is here */
		st->prefix_len = 0;
		return deliver(st, (struct span){p, take}, st->prefix[0]) ? take : SIZE_MAX;
	}
	if (!keep(st, p, take) || (take == left && !whole(st)))
		return SIZE_MAX;
	return take;
}

static void credit_stream(struct h2_stream *st, uint32_t n)
{
	struct h2_session *s = st->session;
	st->recv_unacked += n;
	if (!st->remote_end && st->recv_unacked >= s->rpc->opts->h2_stream_window / 2) {
		uint8_t p[H2_FRAME_HEADER + 4];
		h2_frame_put(p, 4, H2_WINDOW_UPDATE, 0, st->id);
		store_be32(p + H2_FRAME_HEADER, st->recv_unacked);
		conn_write(s->conn, p, sizeof p);
		st->recv_window += (int32_t)st->recv_unacked;
		st->recv_unacked = 0;
	}
}

/* Takes request bytes until they are used up or the service pauses. Returns how many were used; *ret_gone: the stream takes no more. */
static uint32_t feed(struct h2_stream *st, const uint8_t *p, uint32_t n, bool *ret_gone)
{
	uint32_t at = 0;
	*ret_gone = false;
	while (at < n && !st->paused) {
		size_t used = step(st, p + at, n - at);
		if (used == SIZE_MAX) {
			*ret_gone = true;
			return n;
		}
		at += (uint32_t)used;
	}
	return at;
}

/* The request is complete and nothing of it is held. */
static void request_done(struct h2_stream *st)
{
	if (!st->call.live || st->request_told)
		return;
	st->request_told = true;
	if (st->prefix_len > 0) {
		refuse_call(st, GRPC_INVALID_ARGUMENT, REFUSAL_INVALID, "the request ended within a message");
	} else if (!h2_wants_one_message(st->call.method)) {
		st->call.seen = true;
		st->call.method->half_close(&st->call);
	} else if (!st->have_message) {
		refuse_call(st, GRPC_INVALID_ARGUMENT, REFUSAL_INVALID, "the request ended without a message");
	} else {
		struct h2_bytes msg = st->msg;
		struct h2_session *s = st->session;
		struct rpc_shard *r = s->rpc;
		st->msg = (struct h2_bytes){0};
		deliver(st, (struct span){msg.p, msg.len}, st->prefix[0]);
		assembly_sub(&r->assembly, &s->assembly, msg.cap);
		h2_bytes_free(r, &msg);
	}
}

void h2_stream_remote_end(struct h2_stream *st)
{
	if (st->content_left > 0) {
		h2_stream_error(st, H2_PROTOCOL_ERROR);
		return;
	}
	st->remote_end = true;
	if (st->held.len == st->held.at)
		request_done(st);
}

/* The whole request of a unary call in one frame. */
static bool is_whole(const struct h2_stream *st, const uint8_t *p, uint32_t n, bool end)
{
	return end && n >= GRPC_PREFIX && p[0] == 0 && load_be32(p + 1) == n - GRPC_PREFIX && st->prefix_len == 0 &&
	       !st->have_message && st->call.live && h2_wants_one_message(st->call.method) &&
	       n - GRPC_PREFIX <= st->call.rpc->opts->message_max;
}

void h2_stream_data(struct h2_stream *st, const uint8_t *p, uint32_t n, bool end)
{
	struct h2_session *s = st->session;
	st->end_seen = end;
	if (st->content_left >= 0) {
		st->content_left -= n;
		if (st->content_left < 0 || (end && st->content_left > 0)) {
			h2_credit(s, n);
			h2_stream_error(st, H2_PROTOCOL_ERROR);
			return;
		}
	}
	if (likely(is_whole(st, p, n, end))) {
		st->remote_end = st->request_told = true;
		h2_credit(s, n);
		deliver(st, (struct span){p + GRPC_PREFIX, n - GRPC_PREFIX}, false);
		return;
	}
	if (!st->call.live) { /* answered already; the answer waits for window */
		h2_credit(s, n);
		st->remote_end |= end;
		return;
	}
	/* A long message may take its time as long as it moves; a byte now and then is no move. */
	st->progress += n;
	if (st->progress >= H2_PROGRESS || (st->prefix_len == 0 && !h2_wants_one_message(st->call.method))) {
		st->progress = 0;
		st->progress_ns = s->rpc->shard->now_ns;
	}
	h2_watch(s);
	bool gone = false;
	uint32_t used = st->held.len > st->held.at ? 0 : feed(st, p, n, &gone);
	h2_credit(s, used);
	if (gone)
		return;
	if (st->prefix_len > 0 && st->msg.len < n) { /* this one has begun with these bytes */
		st->progress = 0;
		st->progress_ns = s->rpc->shard->now_ns;
	}
	credit_stream(st, used);
	if (used < n && !h2_bytes_add(s->rpc, &st->held, p + used, n - used)) {
		conn_abort(s->conn, CONN_R_MEMORY);
		return;
	}
	if (end)
		h2_stream_remote_end(st);
}

static void h2_pause(struct call *c)
{
	h2_stream_of(c)->paused = true;
}

static void h2_resume(struct call *c)
{
	struct h2_stream *st = h2_stream_of(c);
	struct h2_session *s = st->session;
	uint32_t id = st->id;
	if (!st->paused)
		return;
	st->paused = false;
	st->progress_ns = s->rpc->shard->now_ns; /* the rest has its time from here */
	bool gone = false;
	if (st->held.len > st->held.at) {
		/* The bytes are out of the stream's hands while they are handled: the stream may go meanwhile. */
		struct h2_bytes held = st->held;
		st->held = (struct h2_bytes){0};
		uint32_t used = feed(st, held.p + held.at, held.len - held.at, &gone);
		h2_credit(s, used);
		if (!gone) {
			credit_stream(st, used);
			held.at += used;
			if (held.at < held.len) {
				st->held = held;
				held = (struct h2_bytes){0};
			}
		}
		h2_bytes_free(s->rpc, &held);
	}
	if (!gone && h2_stream_find(s, id) == st && st->remote_end && !st->paused && st->held.len == st->held.at)
		request_done(st);
}

static const struct call_ops h2_call_ops = {.reply = h2_reply,
					    .send = h2_send,
					    .send_framed = h2_send_framed,
					    .room = h2_room,
					    .finish = h2_finish,
					    .pause = h2_pause,
					    .resume = h2_resume,
					    .is_shut = h2_is_shut};

static void on_call_timer(struct timer *t, void *ctx)
{
	fail(container_of(t, struct h2_stream, call.timer), GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
}

/* Opening. */

/* What cannot become a call. */
static void refuse(struct h2_session *s, uint32_t id, const struct h2_head *head, bool end)
{
	bool kept = !end && h2_discard_begin(s, id, (int32_t)s->rpc->opts->h2_stream_window);
	struct h2_stream st = {.session = s, .id = id, .discarded = kept};
	if (head->http_status && !head->too_large) {
		call_note_refusal(s->rpc, s->conn, REFUSAL_INVALID, "a request that is not gRPC");
		call_count_refused(s->rpc, GRPC_INVALID_ARGUMENT);
		h2_put_http_status(&st, head->http_status);
	} else {
		enum grpc_status status = head->too_large                    ? GRPC_RESOURCE_EXHAUSTED
					  : head->bad_timeout || head->twice ? GRPC_INVALID_ARGUMENT
									     : GRPC_UNIMPLEMENTED;
		char text[128];
		if (head->too_large)
			snprintf(
				text, sizeof text,
				"the request's header fields are above HEADER_LIST_MAX, %u bytes, or HEADER_FIELDS_MAX, %u",
				s->rpc->opts->header_list_max, s->rpc->opts->header_fields_max);
		else if (head->twice)
			snprintf(text, sizeof text, "the header field %s is given twice", head->twice);
		else
			snprintf(text, sizeof text, "%s",
				 head->bad_timeout
					 ? "grpc-timeout is not 1 to 8 digits and a unit of H, M, S, m, u or n"
				 : head->service_known ? "there is no such method in this service"
						       : "there is no such service here");
		call_note_refusal(s->rpc, s->conn, head->too_large ? REFUSAL_HEADERS : REFUSAL_INVALID, text);
		call_count_refused(s->rpc, status);
		h2_put_trailers(&st, status, (struct span){(uint8_t *)text, strlen(text)});
	}
	if (!end && !kept)
		h2_reset(s, id, H2_NO_ERROR, false);
}

/* Access says no. */
static void refuse_access(struct h2_session *s, uint32_t id, const struct method *m, const struct call_refusal *why,
			  bool end)
{
	bool kept = !end && h2_discard_begin(s, id, (int32_t)s->rpc->opts->h2_stream_window);
	struct h2_stream st = {.session = s, .id = id, .discarded = kept && h2_wants_one_message(m)};
	call_count_refused(s->rpc, why->status);
	h2_put_trailers(&st, why->status, (struct span){(const uint8_t *)why->text, strlen(why->text)});
	if (!end && !kept)
		h2_reset(s, id, H2_NO_ERROR, false);
}

void h2_stream_open(struct h2_session *s, uint32_t id, const struct h2_head *head, bool end)
{
	struct rpc_shard *r = s->rpc;
	uint32_t slot;
	if (unlikely(head->too_large || head->http_status || head->bad_timeout || head->twice || head->method < 0)) {
		refuse(s, id, head, end);
		return;
	}
	const struct method *m = r->methods->method[head->method];
	struct call_refusal why;
	if (unlikely(!call_admits(r, s->conn, m, head->who, &why))) {
		refuse_access(s, id, m, &why, end);
		return;
	}
	struct h2_stream *st = h2_table_reserve(&s->streams) ? slab_get(&r->h2_streams, &slot) : NULL;
	if (unlikely(!st)) {
		call_note_full(r, s->conn, &r->h2_streams);
		h2_reset(s, id, H2_REFUSED_STREAM, false);
		return;
	}
	memset(&st->session, 0, sizeof *st - offsetof(struct h2_stream, session));
	st->session = s;
	st->id = id;
	st->slot = slot;
	st->send_window = s->peer_window;
	st->recv_window = (int32_t)r->opts->h2_stream_window;
	st->content_left = head->content_length;
	st->gzip = head->gzip;
	st->unknown_coding = head->unknown_coding;
	st->takes_gzip = head->takes_gzip;
	st->progress_ns = r->shard->now_ns;
	st->call.ops = &h2_call_ops;
	st->call.rpc = r;
	st->call.conn = s->conn;
	st->call.timer.fire = on_call_timer;
	s->recent = st;
	h2_table_add(&s->streams, id, st);
	h2_watch(s);
	st->call.who = head->who;
	st->plain = !m->metadata && !(m->compress && head->takes_gzip);
	call_begin(&st->call, m, (uint16_t)head->method, head->timeout_ns);
	if (unlikely(st->call.extra)) {
		st->call.extra->request = s->metadata;
		s->metadata = (struct metadata){0};
	}
	if (m->open) {
		st->call.seen = true;
		m->open(&st->call);
		if (h2_stream_find(s, id) != st || !st->call.live)
			return;
	}
	if (end)
		h2_stream_remote_end(st);
}

/* Room for others. */

static void give_way(struct h2_stream *st, void *ctx)
{
	const struct rpc_opts *o = st->call.rpc->opts;
	char text[128];
	if (st->session->assembly.bytes <= *(const uint64_t *)ctx || !st->msg.cap)
		return;
	if (!st->call.live) { /* answered already; the answer waits for window */
		free_message(st);
		return;
	}
	assembly_text(&o->assembly, text, sizeof text);
	refuse_call(st, GRPC_RESOURCE_EXHAUSTED, REFUSAL_MESSAGE, text);
}

void h2_streams_give_way(struct assembly_share *share, uint64_t bytes)
{
	h2_streams_each(container_of(share, struct h2_session, assembly), give_way, &bytes);
}

/* Time. */

static bool awaits_request(const struct h2_stream *st)
{
	return st->call.live && !st->remote_end && !st->paused &&
	       (h2_wants_one_message(st->call.method) || st->prefix_len > 0);
}

/* The peer has taken nothing of the answer, or never can: no trailers can follow. */
static void give_up(struct h2_stream *st)
{
	struct h2_session *s = st->session;
	uint32_t id = st->id;
	h2_stream_kill(st);
	h2_reset(s, id, H2_CANCEL, false);
}

static void check_answer(struct h2_stream *st)
{
	struct h2_session *s = st->session;
	uint64_t now = s->rpc->shard->now_ns;
	if (!h2_is_shut(&st->call)) {
		st->progress_ns = now; /* it waits for the connection's output, whose progress the connection watches */
	} else if (s->eof) {
		give_up(st); /* who has closed its side opens no window any more */
	} else if (st->end_pending && now - st->progress_ns >= s->rpc->shard->opts->stall_ns) {
		call_note_refusal(s->rpc, s->conn, REFUSAL_STALLED,
				  "a stream: its client opened no window for the answer for STALL_TIMEOUT_MS");
		give_up(st);
	}
}

static void check_one(struct h2_stream *st, void *ctx)
{
	struct h2_session *s = st->session;
	uint64_t now = s->rpc->shard->now_ns;
	/* A session that does not read cannot expect that anything comes. */
	bool read = !conn_is_held_up(s->conn) && now - s->read_ns >= s->rpc->opts->body_ns;
	if (read && awaits_request(st) && now - st->progress_ns >= s->rpc->opts->body_ns)
		refuse_call(st, GRPC_DEADLINE_EXCEEDED, REFUSAL_TIMEOUT,
			    "the request did not come within BODY_TIMEOUT_MS");
	else if (st->waits)
		check_answer(st);
}

void h2_streams_check(struct h2_session *s)
{
	h2_streams_each(s, check_one, NULL);
	if (s->draining || s->eof)
		h2_maybe_close(s);
}

static void abandon_one(struct h2_stream *st, void *ctx)
{
	if (st->call.live)
		fail(st, GRPC_CANCELLED,
		     "the client has closed its side of the connection, and nothing has moved for STALL_TIMEOUT_MS");
}

void h2_streams_abandon(struct h2_session *s)
{
	h2_streams_each(s, abandon_one, NULL);
}

bool h2_streams_need_watch(const struct h2_session *s)
{
	return s->streams.used > 0;
}
