/* The native session: rpc/wire/native.h on a connection. Runs on the connection's shard.
 *
 * Frames are handled in place in the receive buffer; only a frame that is cut by its end is kept. A
 * call is a slab object, and is found by its number in a table (native_table.h), so that MESSAGE and
 * CANCEL cost the same however many calls there are.
 *
 * Invariants: every REQUEST is answered by exactly one LAST or END, unless the connection ends
 * first. At most native_inflight_max calls are open. The number of a streaming call belongs to that
 * call alone until it ends, so that every later frame with this number reaches it; unary calls, to
 * which nothing but CANCEL can be said, may have one number at once. After GOAWAY the connection
 * ends when no call is open and the peer has fallen silent or closed.
 * What is sent is native_send.c's.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/native_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PART_PROGRESS = 16384, /* bytes of a frame that have to come within body_ns */
	PART_FREE = 4096,      /* a frame that fits here is not counted in the memory for partly received messages */
};

size_t native_session_size(void)
{
	return sizeof(struct native_session);
}

size_t native_call_size(void)
{
	return sizeof(struct native_call);
}

static void protocol_error(struct native_session *ns, const char *what)
{
	count_add(&ns->rpc->protocol_errors, 1);
	conn_log_close(ns->conn, what);
	conn_abort(ns->conn, CONN_R_PROTOCOL);
}

static void put_error(struct native_session *ns, uint32_t id, enum grpc_status status, const char *text)
{
	call_count_refused(ns->rpc, status);
	native_put_frame(ns, NATIVE_END, (uint16_t)status, id, text, strlen(text));
}

/* The same, for what the client did. */
static void refuse_request(struct native_session *ns, uint32_t id, enum grpc_status status, enum refusal why,
			   const char *text)
{
	call_note_refusal(ns->rpc, ns->conn, why, text);
	put_error(ns, id, status, text);
}

/* Calls. */

void native_maybe_close(struct native_session *ns)
{
	if (ns->calls.used == 0 && ns->eof && ns->mid_left == 0)
		conn_close(ns->conn);
}

/* It is read again only now: the rest of a frame has its time from here. */
static void restart_timer(struct native_session *ns)
{
	if (!ns->draining && timer_is_armed(&ns->timer))
		wheel_add(&ns->rpc->shard->wheel, &ns->timer, ns->rpc->shard->now_ns + ns->rpc->opts->body_ns);
}

void native_maybe_resume(struct native_session *ns)
{
	if (ns->stopped)
		return;
	restart_timer(ns);
	conn_resume(ns->conn);
}

void native_call_drop(struct native_call *nc, enum grpc_status status)
{
	struct native_session *ns = native_session_of(&nc->call);
	if (unlikely(ns->mid == nc))
		native_long_orphan(ns);
	call_end(&nc->call, status);
	native_table_remove(&ns->calls, &nc->entry);
	if (nc->call.method->kind != METHOD_UNARY)
		ns->streams--;
	call_extra_free(&nc->call);
	slab_put(&ns->rpc->native_calls, nc->slot);
	if (unlikely(nc->paused))
		ns->stopped--;
	if (unlikely(ns->conn->paused))
		native_maybe_resume(ns);
	if (unlikely(ns->eof))
		native_maybe_close(ns);
}

static void on_call_timer(struct timer *t, void *ctx)
{
	struct native_call *nc = container_of(t, struct native_call, call.timer);
	call_cancel_service(&nc->call);
	native_end_call(nc, GRPC_DEADLINE_EXCEEDED, SPAN_LIT("the deadline has passed"));
}

static struct native_call *find(struct native_session *ns, uint32_t id)
{
	struct native_entry *e = native_table_find(&ns->calls, id);
	return e ? container_of(e, struct native_call, entry) : NULL;
}

/* Whether a new call of this method may not have the number, because a call in flight has it. */
static bool is_number_taken(struct native_session *ns, uint32_t id, const struct method *m)
{
	bool unary = m->kind == METHOD_UNARY;
	if (likely(unary && ns->streams == 0))
		return false;
	const struct native_call *nc = find(ns, id);
	return nc && !(unary && nc->call.method->kind == METHOD_UNARY);
}

/* Access. */

/* Whose calls these are, under the rules in force. */
static uint64_t who_of(struct native_session *ns)
{
	struct rpc_shard *r = ns->rpc;
	if (ns->access_gen == r->access_gen)
		return ns->who;
	ns->access_gen = r->access_gen;
	ns->who = !r->access      ? ACCESS_WHO_NOBODY
		  : ns->has_token ? access_who_digest(r->access, ns->token)
				  : call_who_of(r, ns->conn);
	return ns->who;
}

static void on_auth(struct native_session *ns, const struct native_header *h, const uint8_t *payload)
{
	access_digest((struct span){payload, h->len}, ns->token);
	ns->has_token = true;
	ns->access_gen = ns->rpc->access_gen - 1; /* to be looked up again */
}

/* Frames. */

static void on_request(struct native_session *ns, const struct native_header *h, const uint8_t *payload)
{
	struct rpc_shard *r = ns->rpc;
	int index = method_find_number(r->methods, h->code);
	if (unlikely(index < 0)) {
		refuse_request(ns, h->call, GRPC_UNIMPLEMENTED, REFUSAL_INVALID,
			       "there is no method of this number; rpc/methods.h lists them");
		return;
	}
	const struct method *m = r->methods->method[index];
	bool streaming = m->kind == METHOD_CLIENT_STREAM || m->kind == METHOD_BIDI;
	if (unlikely(!streaming && (h->flags & (NATIVE_F_LAST | NATIVE_F_EMPTY)) != NATIVE_F_LAST)) {
		refuse_request(ns, h->call, GRPC_INVALID_ARGUMENT, REFUSAL_INVALID,
			       "this method takes exactly one request message, with the flag LAST");
		return;
	}
	if (unlikely(ns->calls.used >= r->opts->native_inflight_max)) {
		char text[96];
		snprintf(text, sizeof text, "%u calls are in flight on this connection, NATIVE_INFLIGHT_MAX",
			 ns->calls.used);
		refuse_request(ns, h->call, GRPC_RESOURCE_EXHAUSTED, REFUSAL_CALLS, text);
		return;
	}
	if (unlikely(is_number_taken(ns, h->call, m))) {
		refuse_request(ns, h->call, GRPC_INVALID_ARGUMENT, REFUSAL_INVALID,
			       "a call in flight on this connection has this number already");
		return;
	}
	uint64_t who = who_of(ns);
	struct call_refusal why;
	if (unlikely(!call_admits(r, ns->conn, m, who, &why))) {
		put_error(ns, h->call, why.status, why.text);
		return;
	}
	uint32_t slot;
	struct native_call *nc = slab_get(&r->native_calls, &slot);
	if (unlikely(!nc)) {
		put_error(ns, h->call, GRPC_RESOURCE_EXHAUSTED, call_note_full(r, ns->conn, &r->native_calls));
		return;
	}
	nc->entry.id = h->call;
	nc->slot = slot;
	nc->half_closed = h->flags & NATIVE_F_LAST;
	nc->paused = nc->answered = false;
	native_table_add(&ns->calls, &nc->entry);
	ns->streams += m->kind != METHOD_UNARY;
	struct call *c = &nc->call;
	c->ops = &native_call_ops;
	c->rpc = r;
	c->conn = ns->conn;
	c->timer.fire = on_call_timer;
	c->who = who;
	call_begin(c, m, (uint16_t)index, (uint64_t)h->arg * NS_PER_MS);
	c->seen = true;
	/* The service may have ended the call, and with it the object, in any of these. */
	if (m->open)
		m->open(c);
	if (!(h->flags & NATIVE_F_EMPTY) && (!m->open || find(ns, h->call) == nc))
		call_deliver(c, (struct span){payload, h->len});
	if (streaming && (h->flags & NATIVE_F_LAST) && find(ns, h->call) == nc)
		m->half_close(c);
}

static void on_message(struct native_session *ns, const struct native_header *h, const uint8_t *payload)
{
	struct native_call *nc = find(ns, h->call);
	if (!nc) /* it ended while this was on its way */
		return;
	if (nc->half_closed) {
		protocol_error(ns, "a MESSAGE after the LAST of its call");
		return;
	}
	const struct method *m = nc->call.method;
	nc->half_closed = h->flags & NATIVE_F_LAST;
	if (!(h->flags & NATIVE_F_EMPTY))
		call_deliver(&nc->call, (struct span){payload, h->len});
	if ((h->flags & NATIVE_F_LAST) && find(ns, h->call) == nc)
		m->half_close(&nc->call);
}

static void on_cancel(struct native_session *ns, const struct native_header *h)
{
	struct native_call *nc = find(ns, h->call);
	if (!nc)
		return;
	call_cancel_service(&nc->call);
	native_end_call(nc, GRPC_CANCELLED, SPAN_LIT("cancelled by the client"));
}

static void on_frame(struct native_session *ns, const struct native_header *h, const uint8_t *payload)
{
	switch (h->kind) {
	case NATIVE_REQUEST:
		on_request(ns, h, payload);
		break;
	case NATIVE_MESSAGE:
		on_message(ns, h, payload);
		break;
	case NATIVE_CANCEL:
		on_cancel(ns, h);
		break;
	case NATIVE_PING:
		native_put_frame(ns, NATIVE_PONG, 0, h->call, payload, h->len);
		break;
	case NATIVE_AUTH:
		on_auth(ns, h, payload);
		break;
	default:
		protocol_error(ns, "a frame of a kind that only servers send");
	}
}

/* A clear error to the call that it belongs to, if that is not over, and then the end of the connection: the message's bytes cannot be skipped
 * without reading them all. */
static void refuse_message(struct native_session *ns, const struct native_header *h, const char *text)
{
	struct native_call *nc = h->kind == NATIVE_MESSAGE ? find(ns, h->call) : NULL;
	call_note_refusal(ns->rpc, ns->conn, REFUSAL_MESSAGE, text);
	if (nc) {
		call_cancel_service(&nc->call);
		native_end_call(nc, GRPC_RESOURCE_EXHAUSTED, (struct span){(const uint8_t *)text, strlen(text)});
	} else if (h->kind == NATIVE_REQUEST) {
		put_error(ns, h->call, GRPC_RESOURCE_EXHAUSTED, text);
	}
	conn_close(ns->conn);
}

/* Checks a header's form and length. */
static bool header_ok(struct native_session *ns, const uint8_t *p, struct native_header *h)
{
	if (unlikely(native_get(p, h))) {
		protocol_error(ns, "not a native header (rpc/wire/native.h)");
		return false;
	}
	uint32_t max = h->kind == NATIVE_REQUEST || h->kind == NATIVE_MESSAGE ? ns->rpc->opts->message_max
		       : h->kind == NATIVE_PING                               ? NATIVE_PING_MAX
		       : h->kind == NATIVE_AUTH                               ? NATIVE_TOKEN_MAX
									      : 0;
	if (unlikely((h->flags & NATIVE_F_EMPTY) && h->len)) {
		protocol_error(ns, "a frame with the flag EMPTY that is not empty");
		return false;
	}
	if (likely(h->len <= max))
		return true;
	if (h->kind == NATIVE_REQUEST || h->kind == NATIVE_MESSAGE) {
		char text[128];
		snprintf(text, sizeof text, "a message of %u bytes is above MESSAGE_MAX, %u", h->len, max);
		count_add(&ns->rpc->protocol_errors, 1);
		refuse_message(ns, h, text);
	} else {
		protocol_error(ns, "a frame that is longer than its kind allows");
	}
	return false;
}

/* Handles whole frames from p; returns how many bytes they were. */
static size_t consume(struct native_session *ns, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (n - at >= NATIVE_HEADER && conn_is_open(ns->conn)) {
		struct native_header h;
		if (!header_ok(ns, p + at, &h))
			break;
		if (n - at - NATIVE_HEADER < h.len)
			break;
		on_frame(ns, &h, p + at + NATIVE_HEADER);
		at += NATIVE_HEADER + h.len;
	}
	return at;
}

/* How many bytes the kept frame has in all, as far as is known. */
static size_t part_wants(const struct native_session *ns)
{
	return ns->part_len < NATIVE_HEADER ? NATIVE_HEADER : NATIVE_HEADER + load_le32(ns->part + 4);
}

/* What a block counts. Small ones, of which each connection may have one, do not. */
static uint64_t part_counts(uint32_t cap)
{
	return cap > PART_FREE ? cap : 0;
}

static void part_done(struct native_session *ns)
{
	bufpool_put(&ns->rpc->shard->pool, ns->part, ns->part_cap);
	assembly_sub(&ns->rpc->assembly, &ns->assembly, part_counts(ns->part_cap));
	ns->part = NULL;
	ns->part_len = ns->part_cap = 0;
	if (!ns->draining)
		wheel_del(&ns->rpc->shard->wheel, &ns->timer);
}

/* A long message for which there is no room. */
static void part_refuse(struct native_session *ns, const char *text)
{
	struct native_header h = {0};
	native_get(ns->part, &h); /* it was well-formed when it came */
	part_done(ns);
	refuse_message(ns, &h, text);
}

/* assembly_share's. */
static void give_way(struct assembly_share *share, uint64_t bytes)
{
	struct native_session *ns = container_of(share, struct native_session, assembly);
	char text[128];
	assembly_text(&ns->rpc->opts->assembly, text, sizeof text);
	part_refuse(ns, text);
}

/* Room for n more bytes. false: the connection has ended. */
static bool part_reserve(struct native_session *ns, size_t n)
{
	struct rpc_shard *r = ns->rpc;
	size_t need = ns->part_len + n;
	uint32_t cap, before = ns->part_cap;
	char text[128];
	if (before - ns->part_len >= n)
		return true;
	uint8_t *more = bufpool_get(&r->shard->pool, need > 2 * (size_t)before ? need : 2 * (size_t)before, &cap);
	if (!more) {
		conn_abort(ns->conn, CONN_R_MEMORY);
		return false;
	}
	if (ns->part_len)
		memcpy(more, ns->part, ns->part_len);
	bufpool_put(&r->shard->pool, ns->part, before);
	ns->part = more;
	ns->part_cap = cap;
	assembly_add(&r->assembly, &ns->assembly, part_counts(cap) - part_counts(before));
	if (likely(!part_counts(cap) || ns->part_len < NATIVE_HEADER ||
		   !assembly_is_over(&r->assembly, &ns->assembly, &r->opts->assembly, text, sizeof text)))
		return true;
	part_refuse(ns, text);
	return false;
}

static bool part_add(struct native_session *ns, const uint8_t *p, size_t n)
{
	if (!part_reserve(ns, n))
		return false;
	/* A long message may take its time as long as it moves. */
	bool moved = ns->part_len / PART_PROGRESS != (ns->part_len + n) / PART_PROGRESS;
	memcpy(ns->part + ns->part_len, p, n);
	ns->part_len += (uint32_t)n;
	if (!ns->draining && (moved || !timer_is_armed(&ns->timer)))
		wheel_add(&ns->rpc->shard->wheel, &ns->timer, ns->rpc->shard->now_ns + ns->rpc->opts->body_ns);
	return true;
}

/* Completes the kept frame from new bytes; returns how many were taken. */
static size_t part_fill(struct native_session *ns, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (at < n && conn_is_open(ns->conn)) {
		size_t want = part_wants(ns) - ns->part_len, take = want < n - at ? want : n - at;
		if (!part_add(ns, p + at, take))
			return n;
		at += take;
		if (take < want)
			break;
		struct native_header h;
		if (ns->part_len == NATIVE_HEADER && !header_ok(ns, ns->part, &h))
			return n;
		if (part_wants(ns) == ns->part_len) {
			consume(ns, ns->part, ns->part_len);
			part_done(ns);
			break;
		}
	}
	return at;
}

static void native_data(struct conn *c, const uint8_t *p, size_t n)
{
	struct native_session *ns = c->session;
	size_t at = ns->part_len ? part_fill(ns, p, n) : 0;
	if (ns->part_len)
		return;
	at += consume(ns, p + at, n - at);
	if (at < n && conn_is_open(c))
		part_add(ns, p + at, n - at);
}

static void cancel_call(struct native_entry *e)
{
	struct native_call *nc = container_of(e, struct native_call, entry);
	call_cancel_service(&nc->call);
	native_call_drop(nc, GRPC_CANCELLED);
}

/* A stream that was not ended before the end of the connection's input never will be. Nor may an answer without an end go on: from here, a
 * client that is gone looks like one that only has nothing more to say. */
static void cancel_unended(struct native_entry *e)
{
	const struct native_call *nc = container_of(e, struct native_call, entry);
	if (!nc->half_closed || nc->call.method->kind == METHOD_SERVER_STREAM)
		cancel_call(e);
}

static void native_eof(struct conn *c)
{
	struct native_session *ns = c->session;
	ns->eof = true;
	native_table_each(&ns->calls, cancel_unended);
	native_maybe_close(ns);
}

/* To a client that still reads it says what is true: no more calls will be taken here. */
static void native_probe(struct conn *c)
{
	native_put_frame(c->session, NATIVE_GOAWAY, 0, 0, NULL, 0);
}

static void abandon_call(struct native_entry *e)
{
	struct native_call *nc = container_of(e, struct native_call, entry);
	call_cancel_service(&nc->call);
	native_end_call(nc, GRPC_CANCELLED,
			SPAN_LIT("the client has closed its side of the connection, and nothing has moved for "
				 "STALL_TIMEOUT_MS"));
}

static void native_abandon(struct conn *c)
{
	struct native_session *ns = c->session;
	native_table_each(&ns->calls, abandon_call);
	conn_close(c);
}

static void tell_writable(struct native_entry *e)
{
	struct native_call *nc = container_of(e, struct native_call, entry);
	if (nc->call.method->writable)
		nc->call.method->writable(&nc->call);
}

static void native_writable(struct conn *c)
{
	struct native_session *ns = c->session;
	restart_timer(ns);
	native_long_go_on(ns);
	native_table_each(&ns->calls, tell_writable);
}

static bool native_busy(const struct conn *c)
{
	const struct native_session *ns = c->session;
	return ns->calls.used > 0 || ns->mid_left > 0;
}

static void native_drain(struct conn *c)
{
	struct native_session *ns = c->session;
	if (ns->draining)
		return;
	ns->draining = true;
	ns->drain_ns = ns->rpc->shard->now_ns;
	ns->quiet = ns->calls.used == 0 && c->active_ns + RPC_QUIET_NS <= ns->drain_ns;
	native_put_frame(ns, NATIVE_GOAWAY, 0, 0, NULL, 0);
	wheel_add(&ns->rpc->shard->wheel, &ns->timer, ns->rpc->shard->now_ns + 100 * NS_PER_MS);
}

/* The client is expected to close after GOAWAY, when its calls have been answered. One that stays but has been silent for a second is let go; one that had
 * been silent before, at once. */
static void on_timer(struct timer *t, void *ctx)
{
	struct native_session *ns = container_of(t, struct native_session, timer);
	struct shard *s = ns->rpc->shard;
	if (!ns->draining) {
		/* While we do not take its bytes, that they do not come is no fault of the peer's. */
		if (conn_is_held_up(ns->conn))
			wheel_add(&s->wheel, t, s->now_ns + ns->rpc->opts->body_ns);
		else
			conn_abort(ns->conn, CONN_R_TIMEOUT);
		return;
	}
	uint64_t heard_ns = ns->conn->active_ns > ns->drain_ns ? ns->conn->active_ns : ns->drain_ns;
	if (ns->conn->backlogged) /* and not yet listened to */
		heard_ns = s->now_ns;
	bool open = native_busy(ns->conn);
	if (!open && ns->quiet && heard_ns == ns->drain_ns)
		conn_close_now(ns->conn);
	else if (!open && s->now_ns - heard_ns >= NS_PER_S)
		conn_close(ns->conn);
	else
		wheel_add(&s->wheel, t, s->now_ns + 100 * NS_PER_MS);
}

static void native_closed(struct conn *c)
{
	struct native_session *ns = c->session;
	call_note_end(ns->rpc, c);
	native_table_each(&ns->calls, cancel_call);
	native_table_done(&ns->calls);
	part_done(ns);
	native_behind_free(ns);
	wheel_del(&ns->rpc->shard->wheel, &ns->timer);
	count_add(&ns->rpc->sessions_native, -1);
	free(ns);
}

static const struct conn_ops native_ops = {.data = native_data,
					   .eof = native_eof,
					   .writable = native_writable,
					   .busy = native_busy,
					   .drain = native_drain,
					   .probe = native_probe,
					   .abandon = native_abandon,
					   .closed = native_closed};

bool native_session_start(struct conn *c, struct rpc_shard *r)
{
	struct native_session *ns = calloc(1, sizeof *ns);
	if (!ns)
		return false;
	ns->rpc = r;
	ns->conn = c;
	ns->timer.fire = on_timer;
	ns->assembly.ip = c->ip;
	ns->assembly.give_way = give_way;
	ns->access_gen = r->access_gen - 1;
	native_table_init(&ns->calls, r->secret);
	c->session = ns;
	c->ops = &native_ops;
	count_add(&r->sessions_native, 1);
	count_add(&r->sessions_native_total, 1);
	return true;
}
