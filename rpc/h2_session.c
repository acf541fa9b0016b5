/* The HTTP/2 session, connection level: preface, input cut into frames, connection flow control, flood limits, time, draining. What each frame
 * means is h2_frames.c's; streams and calls are h2_stream.c's. Runs on the connection's shard. Source: RFC 9113; sections are named where a rule is not obvious.
 *
 *   start --preface--> SETTINGS expected --SETTINGS--> open --drain--> GOAWAY(2^31-1) + PING --its ack, or 1 s--> GOAWAY(last)
 *   any --connection error--> GOAWAY(code) --> closed        GOAWAY(last), no stream left --> closed
 *
 * Frames are read in place in the receive buffer; only a frame cut by its end is kept (part), and a header block in several frames
 * (block). Invariants: every header block is decoded, also those of refused streams, or the decoder's state would be wrong. Everything that a peer can
 * make us keep or send has a bound: see the limits in h2_impl.h and rpc_opts.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/h2_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool h2_bytes_add(struct rpc_shard *r, struct h2_bytes *b, const void *p, size_t n)
{
	if (b->at && b->cap - b->len < n) {
		memmove(b->p, b->p + b->at, b->len - b->at);
		b->len -= b->at;
		b->at = 0;
	}
	if (b->cap - b->len < n) {
		uint32_t cap;
		size_t need = b->len + n > (size_t)b->cap * 2 ? b->len + n : (size_t)b->cap * 2;
		uint8_t *more = bufpool_get(&r->shard->pool, need, &cap);
		if (!more)
			return false;
		if (b->len)
			memcpy(more, b->p, b->len);
		bufpool_put(&r->shard->pool, b->p, b->cap);
		b->p = more;
		b->cap = cap;
	}
	if (n)
		memcpy(b->p + b->len, p, n);
	b->len += (uint32_t)n;
	return true;
}

void h2_bytes_release(struct rpc_shard *r, struct h2_bytes *b)
{
	bufpool_put(&r->shard->pool, b->p, b->cap);
	*b = (struct h2_bytes){0};
}

/* Output. */

void h2_put(struct h2_session *s, uint8_t type, uint8_t flags, uint32_t stream, const void *p, uint32_t n)
{
	uint8_t *out = conn_reserve(s->conn, H2_FRAME_HEADER + n);
	if (!out)
		return;
	h2_frame_put(out, n, type, flags, stream);
	if (n)
		memcpy(out + H2_FRAME_HEADER, p, n);
	conn_commit(s->conn, H2_FRAME_HEADER + n);
}

void h2_put_u32(struct h2_session *s, uint8_t type, uint32_t stream, uint32_t value)
{
	uint8_t b[4];
	store_be32(b, value);
	h2_put(s, type, 0, stream, b, sizeof b);
}

void h2_put_goaway(struct h2_session *s, uint32_t last, enum h2_error code, const char *text)
{
	uint8_t b[8 + 200];
	size_t n = strlen(text) < 200 ? strlen(text) : 200;
	store_be32(b, last);
	store_be32(b + 4, code);
	memcpy(b + 8, text, n);
	h2_put(s, H2_GOAWAY, 0, 0, b, (uint32_t)(8 + n));
}

void h2_conn_error(struct h2_session *s, enum h2_error code, enum conn_reason why, const char *text)
{
	if (s->ending)
		return;
	s->ending = s->noted = true;
	s->conn->reason = (uint8_t)why;
	call_count_end(s->rpc, s->conn);
	if (why == CONN_R_FLOOD)
		count_add(&s->rpc->floods, 1);
	else
		count_add(&s->rpc->protocol_errors, 1);
	conn_log_close(s->conn, text);
	h2_put_goaway(s, s->draining == H2_DRAIN_FINAL ? s->goaway_id : s->last_id, code, text);
	conn_close(s->conn);
}

/* A token bucket: legitimate clients cancel, but not without end. */
bool h2_reset_allowed(struct h2_session *s)
{
	const struct rpc_opts *o = s->rpc->opts;
	uint64_t now = s->rpc->shard->now_ns, back = (now - s->reset_ns) / (NS_PER_S / o->resets_per_s);
	if (back) {
		s->reset_tokens = back >= o->resets_burst - s->reset_tokens ? o->resets_burst
									    : s->reset_tokens + (uint32_t)back;
		s->reset_ns = now;
	}
	if (s->reset_tokens == 0) {
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_FLOOD, "too many stream resets");
		return false;
	}
	s->reset_tokens--;
	return true;
}

void h2_useless(struct h2_session *s)
{
	uint64_t now = s->rpc->shard->now_ns;
	if (now - s->useless_ns > H2_USELESS_NS) {
		s->useless_ns = now;
		s->useless = 0;
	}
	if (++s->useless > s->rpc->opts->useless_max)
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_FLOOD, "too many frames that say nothing");
}

void h2_reset(struct h2_session *s, uint32_t id, enum h2_error code, bool provoked)
{
	if (provoked && !h2_reset_allowed(s))
		return;
	if (provoked && code != H2_REFUSED_STREAM) /* which has said why */
		call_note_refusal(s->rpc, s->conn, REFUSAL_PROTOCOL, "a stream: it broke the rules of HTTP/2");
	h2_discard_reset(s, id); /* nothing follows a reset, an answer that is held back least of all */
	s->reset_ids[s->reset_at++ % H2_RESET_IDS] = id;
	h2_put_u32(s, H2_RST_STREAM, id, code);
}

bool h2_was_reset(const struct h2_session *s, uint32_t id)
{
	for (unsigned i = 0; i < H2_RESET_IDS; i++) {
		if (s->reset_ids[i] == id)
			return true;
	}
	return false;
}

void h2_credit(struct h2_session *s, uint32_t n)
{
	s->recv_unacked += n;
	if (s->recv_unacked >= s->rpc->opts->h2_conn_window / 2) {
		h2_put_u32(s, H2_WINDOW_UPDATE, 0, s->recv_unacked);
		s->recv_window += s->recv_unacked;
		s->recv_unacked = 0;
	}
}

void h2_maybe_close(struct h2_session *s)
{
	if (s->streams.used == 0 && (s->draining == H2_DRAIN_FINAL || s->eof) && !s->ending) {
		h2_discard_answer(s);
		s->ending = true;
		if (s->settled)
			conn_close_now(s->conn);
		else
			conn_close(s->conn);
	}
}

/* A peer that had been silent for a while before the first GOAWAY, has been since, and has no call. */
static bool is_quiet(const struct h2_session *s)
{
	return s->streams.used == 0 && s->conn->active_ns + RPC_QUIET_NS <= s->drain_ns;
}

/* Input. */

static bool size_ok(struct h2_session *s, const struct h2_frame *f)
{
	if (likely(f->len <= H2_FRAME_SIZE_DEFAULT))
		return true;
	h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL, "a frame above SETTINGS_MAX_FRAME_SIZE, 16384");
	return false;
}

/* Handles whole frames from p; returns how many bytes they were. */
static size_t consume(struct h2_session *s, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (n - at >= H2_FRAME_HEADER && !s->ending && conn_is_open(s->conn)) {
		struct h2_frame f = h2_frame_get(p + at);
		if (!size_ok(s, &f) || n - at - H2_FRAME_HEADER < f.len)
			break;
		h2_on_frame(s, &f, p + at + H2_FRAME_HEADER);
		at += H2_FRAME_HEADER + f.len;
	}
	return at;
}

static size_t part_wants(const struct h2_session *s)
{
	if (!s->preface_done)
		return H2_PREFACE_LEN;
	return s->part.len < H2_FRAME_HEADER ? H2_FRAME_HEADER : H2_FRAME_HEADER + h2_frame_get(s->part.p).len;
}

static bool part_add(struct h2_session *s, const uint8_t *p, size_t n)
{
	if (s->part.len == 0) {
		s->part_ns = s->rpc->shard->now_ns;
		h2_watch(s);
	}
	if (h2_bytes_add(s->rpc, &s->part, p, n))
		return true;
	conn_abort(s->conn, CONN_R_MEMORY);
	return false;
}

static void send_preface(struct h2_session *s)
{
	uint8_t b[18];
	store_be16(b, H2_S_MAX_CONCURRENT_STREAMS);
	store_be32(b + 2, s->rpc->opts->streams_max);
	store_be16(b + 6, H2_S_INITIAL_WINDOW_SIZE);
	store_be32(b + 8, s->rpc->opts->h2_stream_window);
	store_be16(b + 12, H2_S_MAX_HEADER_LIST_SIZE);
	store_be32(b + 14, s->rpc->opts->header_list_max);
	h2_put(s, H2_SETTINGS, 0, 0, b, sizeof b);
	h2_put_u32(s, H2_WINDOW_UPDATE, 0, s->rpc->opts->h2_conn_window - H2_WINDOW_DEFAULT);
	s->recv_window = s->rpc->opts->h2_conn_window;
}

/* Completes the kept bytes from new ones; returns how many were taken. */
static size_t part_fill(struct h2_session *s, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (at < n && !s->ending && conn_is_open(s->conn)) {
		size_t want = part_wants(s) - s->part.len, take = want < n - at ? want : n - at;
		if (!part_add(s, p + at, take))
			return n;
		at += take;
		if (!s->preface_done && memcmp(s->part.p, H2_PREFACE, s->part.len) != 0) {
			h2_conn_error(
				s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL,
				"not the HTTP/2 connection preface; this port speaks gRPC over HTTP/2 with prior knowledge");
			return n;
		}
		if (take < want)
			break;
		if (!s->preface_done) {
			s->preface_done = true;
			h2_bytes_free(s->rpc, &s->part);
			send_preface(s);
			break;
		}
		struct h2_frame f = h2_frame_get(s->part.p);
		if (!size_ok(s, &f))
			return n;
		if (part_wants(s) == s->part.len) {
			struct h2_bytes whole = s->part;
			s->part = (struct h2_bytes){0};
			consume(s, whole.p, whole.len);
			h2_bytes_free(s->rpc, &whole);
			break;
		}
	}
	return at;
}

static void h2_data(struct conn *c, const uint8_t *p, size_t n)
{
	struct h2_session *s = c->session;
	size_t at = 0;
	if (s->part.len || !s->preface_done)
		at = part_fill(s, p, n);
	if (s->part.len || s->ending)
		return;
	at += consume(s, p + at, n - at);
	if (at < n && !s->ending && conn_is_open(c))
		part_add(s, p + at, n - at);
}

/* Time. */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How long a quiet peer has to acknowledge GOAWAY: what it had sent before is here by then, and what it sends later it may send again elsewhere. */
#define QUIET_GRACE_NS (100 * NS_PER_MS)

static uint64_t tick_ns(const struct h2_session *s)
{
	const struct rpc_opts *o = s->rpc->opts;
	if (s->draining == H2_DRAIN_WARNED && is_quiet(s))
		return QUIET_GRACE_NS;
	uint64_t stall_ns = s->rpc->shard->opts->stall_ns;
	return least(least(least(NS_PER_S, stall_ns / 4), o->preface_ns / 4),
		     least(o->headers_ns / 4, o->body_ns / 4)) +
	       NS_PER_MS;
}

void h2_watch(struct h2_session *s)
{
	if (!timer_is_armed(&s->timer))
		wheel_add(&s->rpc->shard->wheel, &s->timer, s->rpc->shard->now_ns + tick_ns(s));
}

static void on_timer(struct timer *t, void *ctx)
{
	struct h2_session *s = container_of(t, struct h2_session, timer);
	const struct rpc_opts *o = s->rpc->opts;
	uint64_t now = s->rpc->shard->now_ns;
	if (s->ending)
		return;
	if (conn_is_held_up(s->conn))
		s->start_ns = s->block_ns = s->part_ns = now;
	if (!s->settings_got && now - s->start_ns >= o->preface_ns) {
		h2_conn_error(s, H2_SETTINGS_TIMEOUT, CONN_R_TIMEOUT, "no SETTINGS within PREFACE_TIMEOUT_MS");
		return;
	}
	if (s->block_stream && now - s->block_ns >= o->headers_ns) {
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_TIMEOUT,
			      "a header block took longer than HEADERS_TIMEOUT_MS");
		return;
	}
	if (s->part.len && now - s->part_ns >= least(o->body_ns, o->headers_ns)) {
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_TIMEOUT,
			      "a frame took longer than HEADERS_TIMEOUT_MS or BODY_TIMEOUT_MS");
		return;
	}
	if (s->draining == H2_DRAIN_WARNED && (is_quiet(s) || now - s->drain_ns >= NS_PER_S)) {
		s->settled = s->streams.used == 0; /* it does not read: there is nothing to wait for */
		h2_final_goaway(s);
	}
	h2_streams_check(s);
	if (!s->ending && (!s->settings_got || s->block_stream || s->part.len || s->draining == H2_DRAIN_WARNED ||
			   h2_streams_need_watch(s)))
		wheel_add(&s->rpc->shard->wheel, t, now + tick_ns(s));
}

/* The connection's events. */

/* Ends requests that will never be complete, and answers without an end, such as subscriptions, whose
 * client can open no window any more. */
static void kill_unended(struct h2_stream *st, void *ctx)
{
	if (!st->remote_end || st->call.method->kind == METHOD_SERVER_STREAM)
		h2_stream_kill(st);
}

static void h2_eof(struct conn *c)
{
	struct h2_session *s = c->session;
	s->eof = true;
	h2_streams_each(s, kill_unended, NULL);
	h2_streams_check(s);
	h2_maybe_close(s);
}

/* To a client that still reads it says what is true: this connection will take no more streams. */
static void h2_probe(struct conn *c)
{
	struct h2_session *s = c->session;
	if (s->preface_done && !s->ending)
		h2_put_goaway(s, s->draining == H2_DRAIN_FINAL ? s->goaway_id : H2_WINDOW_MAX, H2_NO_ERROR,
			      "the client has closed its side");
}

static void h2_abandon(struct conn *c)
{
	struct h2_session *s = c->session;
	h2_streams_abandon(s);
	s->ending = true;
	conn_close(c);
}

static void h2_writable(struct conn *c)
{
	struct h2_session *s = c->session;
	s->read_ns = s->block_ns = s->part_ns = s->rpc->shard->now_ns; /* it is read again only now */
	h2_streams_pump(s);
}

static bool h2_busy(const struct conn *c)
{
	const struct h2_session *s = c->session;
	return s->streams.used > 0;
}

static void h2_drain(struct conn *c)
{
	struct h2_session *s = c->session;
	uint8_t ping[8];
	if (s->draining || s->ending)
		return;
	if (!s->preface_done) {
		conn_close(c);
		return;
	}
	s->draining = H2_DRAIN_WARNED;
	s->drain_ns = s->rpc->shard->now_ns;
	h2_put_goaway(s, H2_WINDOW_MAX, H2_NO_ERROR, "draining");
	store_be64(ping, H2_DRAIN_PING);
	h2_put(s, H2_PING, 0, 0, ping, sizeof ping);
	if (is_quiet(s))
		wheel_del(&s->rpc->shard->wheel, &s->timer); /* soon instead */
	h2_watch(s);
}

static void h2_closed(struct conn *c)
{
	struct h2_session *s = c->session;
	s->ending = true;
	if (!s->noted)
		call_note_end(s->rpc, c);
	h2_streams_free(s);
	h2_discard_free(s);
	wheel_del(&s->rpc->shard->wheel, &s->timer);
	h2_bytes_free(s->rpc, &s->part);
	h2_bytes_free(s->rpc, &s->block);
	hpack_decoder_free(s->hpack);
	hpack_memo_free(s->memo);
	metadata_free(&s->metadata);
	count_add(&s->rpc->sessions_h2, -1);
	free(s);
}

static const struct conn_ops h2_ops = {.data = h2_data,
				       .eof = h2_eof,
				       .writable = h2_writable,
				       .busy = h2_busy,
				       .drain = h2_drain,
				       .probe = h2_probe,
				       .abandon = h2_abandon,
				       .closed = h2_closed};

bool h2_session_start(struct conn *c, struct rpc_shard *r)
{
	struct h2_session *s = calloc(1, sizeof *s);
	if (!s)
		return false;
	s->rpc = r;
	s->conn = c;
	s->send_window = H2_WINDOW_DEFAULT;
	s->recv_window = H2_WINDOW_DEFAULT;
	s->peer_window = H2_WINDOW_DEFAULT;
	s->streams.secret = r->secret;
	s->peer_frame = H2_FRAME_SIZE_DEFAULT;
	s->peer_header_list = UINT32_MAX;
	s->reset_tokens = r->opts->resets_burst;
	s->reset_ns = s->useless_ns = s->start_ns = r->shard->now_ns;
	s->timer.fire = on_timer;
	s->access_gen = r->access_gen - 1;
	s->assembly.ip = c->ip;
	s->assembly.give_way = h2_streams_give_way;
	c->session = s;
	c->ops = &h2_ops;
	count_add(&r->sessions_h2, 1);
	count_add(&r->sessions_h2_total, 1);
	h2_watch(s);
	return true;
}
