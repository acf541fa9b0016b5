/* The HTTP/2 session, connection level: preface, frames, settings, header blocks, connection flow control, flood limits, draining. Streams and
 * calls are h2_stream.c's. Runs on the connection's shard. Source: RFC 9113; sections are named where a rule is not obvious.
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

enum { DRAIN_PING = 0x6f72646e /* opaque data of the PING that follows the first GOAWAY */ };

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

static void put(struct h2_session *s, uint8_t type, uint8_t flags, uint32_t stream, const void *p, uint32_t n)
{
	uint8_t *out = conn_reserve(s->conn, H2_FRAME_HEADER + n);
	if (!out)
		return;
	h2_frame_put(out, n, type, flags, stream);
	if (n)
		memcpy(out + H2_FRAME_HEADER, p, n);
	conn_commit(s->conn, H2_FRAME_HEADER + n);
}

static void put_u32(struct h2_session *s, uint8_t type, uint32_t stream, uint32_t value)
{
	uint8_t b[4];
	store_be32(b, value);
	put(s, type, 0, stream, b, sizeof b);
}

static void put_goaway(struct h2_session *s, uint32_t last, enum h2_error code, const char *text)
{
	uint8_t b[8 + 200];
	size_t n = strlen(text) < 200 ? strlen(text) : 200;
	store_be32(b, last);
	store_be32(b + 4, code);
	memcpy(b + 8, text, n);
	put(s, H2_GOAWAY, 0, 0, b, (uint32_t)(8 + n));
}

void h2_conn_error(struct h2_session *s, enum h2_error code, enum conn_reason why, const char *text)
{
	if (s->ending)
		return;
	s->ending = s->noted = true;
	s->conn->reason = (uint8_t)why;
	call_note_end(s->rpc, s->conn);
	if (why == CONN_R_FLOOD)
		count_add(&s->rpc->floods, 1);
	else
		count_add(&s->rpc->protocol_errors, 1);
	conn_log_close(s->conn, text);
	put_goaway(s, s->draining == H2_DRAIN_FINAL ? s->goaway_id : s->last_id, code, text);
	conn_close(s->conn);
}

/* A token bucket: legitimate clients cancel, but not without end. */
static bool reset_allowed(struct h2_session *s)
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

static void useless(struct h2_session *s)
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
	if (provoked && !reset_allowed(s))
		return;
	s->reset_ids[s->reset_at++ % H2_RESET_IDS] = id;
	put_u32(s, H2_RST_STREAM, id, code);
}

static bool was_reset(const struct h2_session *s, uint32_t id)
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
	if (s->recv_unacked >= H2_CONN_WINDOW / 2) {
		put_u32(s, H2_WINDOW_UPDATE, 0, s->recv_unacked);
		s->recv_window += s->recv_unacked;
		s->recv_unacked = 0;
	}
}

void h2_maybe_close(struct h2_session *s)
{
	if (s->open == 0 && (s->draining == H2_DRAIN_FINAL || s->eof) && !s->ending) {
		s->ending = true;
		conn_close(s->conn);
	}
}

/* Header blocks. */

static bool hpack_ready(struct h2_session *s)
{
	if (s->hpack)
		return true;
	s->hpack = hpack_decoder_new(4096);
	s->memo = hpack_memo_new(sizeof(struct h2_head));
	if (s->hpack && s->memo)
		return true;
	h2_conn_error(s, H2_INTERNAL_ERROR, CONN_R_MEMORY, "no memory for header decoding");
	return false;
}

/* The rules of access have changed: who a known block is from is known no more. */
static void renew_access(struct h2_session *s)
{
	s->access_gen = s->rpc->access_gen;
	s->who = call_who_of(s->rpc, s->conn);
	hpack_memo_clear(s->memo);
}

/* Decodes a whole block. NULL: the connection has ended. The result lives until the next call. */
static const struct h2_head *decode(struct h2_session *s, const uint8_t *p, size_t n, bool trailers)
{
	static _Thread_local struct h2_head_reader rd;
	if (!hpack_ready(s))
		return NULL;
	if (unlikely(s->access_gen != s->rpc->access_gen))
		renew_access(s);
	if (unlikely(s->metadata.cap)) /* of a request that was refused */
		metadata_free(&s->metadata);
	if (likely(!trailers)) {
		const struct h2_head *known = hpack_memo_find(s->memo, hpack_generation(s->hpack), p, n);
		if (likely(known != NULL))
			return known;
	}
	rd = (struct h2_head_reader){
		.rpc = s->rpc, .trailers = trailers, .head = {.method = -1, .content_length = -1, .who = s->who}};
	int rc = hpack_decode(s->hpack, p, n, h2_head_field, &rd);
	if (rc == -ECANCELED) {
		metadata_free(&rd.metadata);
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_FLOOD,
			      "a header block far above HEADER_LIST_MAX or HEADER_FIELDS_MAX");
		return NULL;
	}
	if (rc) {
		metadata_free(&rd.metadata);
		h2_conn_error(s, rc == -ENOMEM ? H2_INTERNAL_ERROR : H2_COMPRESSION_ERROR,
			      rc == -ENOMEM ? CONN_R_MEMORY : CONN_R_PROTOCOL, "a header block that cannot be decoded");
		return NULL;
	}
	h2_head_finish(&rd);
	s->metadata = rd.metadata;
	if (!trailers && s->metadata.len == 0) /* the memo keeps no metadata */
		hpack_memo_put(s->memo, hpack_generation(s->hpack), p, n, &rd.head);
	return &rd.head;
}

static void new_stream(struct h2_session *s, uint32_t id, const struct h2_head *head, bool end)
{
	if (unlikely(id != s->last_id + 2)) {
		s->skipped_from = s->last_id + 1;
		s->skipped_to = id - 1;
	}
	s->last_id = id;
	/* The client knows from GOAWAY that it was not looked at; the rest of it may be on its way. */
	if (s->draining == H2_DRAIN_FINAL) {
		h2_reset(s, id, H2_REFUSED_STREAM, false);
		return;
	}
	if (unlikely(s->open >= s->rpc->opts->streams_max)) {
		/* Before it has seen our SETTINGS a client cannot know better. */
		count_add(&s->rpc->refused_streams, 1);
		call_note_refusal(s->rpc, s->conn, REFUSAL_CALLS);
		h2_reset(s, id, H2_REFUSED_STREAM, s->settings_acked);
		return;
	}
	if (unlikely(head->malformed)) {
		count_add(&s->rpc->protocol_errors, 1);
		h2_reset(s, id, H2_PROTOCOL_ERROR, true);
		return;
	}
	h2_stream_open(s, id, head, end);
}

/* A whole block has come for a stream (sections 5.1, 8.1). */
static void on_block(struct h2_session *s, uint32_t id, const uint8_t *p, size_t n, bool end)
{
	if (likely(id > s->last_id)) {
		const struct h2_head *head = decode(s, p, n, false);
		if (head)
			new_stream(s, id, head, end);
		return;
	}
	struct h2_stream *st = h2_stream_find(s, id);
	const struct h2_head *head = decode(s, p, n, true);
	if (!head)
		return;
	if (!st) {
		if (!was_reset(s, id)) {
			bool skipped = id >= s->skipped_from && id <= s->skipped_to;
			h2_conn_error(s, skipped ? H2_PROTOCOL_ERROR : H2_STREAM_CLOSED, CONN_R_PROTOCOL,
				      skipped ? "a stream identifier that went down" : "HEADERS on a closed stream");
		}
	} else if (st->remote_end) {
		h2_stream_error(st, H2_STREAM_CLOSED);
	} else if (!end || head->malformed) {
		h2_stream_error(st, H2_PROTOCOL_ERROR);
	} else {
		h2_stream_remote_end(st);
	}
}

/* Sections 6.2 and 6.1: cuts the padding, and the priority fields. false: the connection has ended. */
static bool unpad(struct h2_session *s, const struct h2_frame *f, const uint8_t **p, uint32_t *n)
{
	uint32_t pad = 0;
	if (f->flags & H2_F_PADDED) {
		if (*n < 1) {
			h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL, "a padded frame without its pad length");
			return false;
		}
		pad = **p;
		*p += 1;
		*n -= 1;
	}
	if (f->type == H2_HEADERS && (f->flags & H2_F_PRIORITY)) {
		if (*n < 5) {
			h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL,
				      "HEADERS too short for its priority fields");
			return false;
		}
		if ((load_be32(*p) & 0x7fffffff) == f->stream) {
			h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "a stream that depends on itself");
			return false;
		}
		*p += 5;
		*n -= 5;
	}
	if (pad > *n) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "padding longer than its frame");
		return false;
	}
	*n -= pad;
	return true;
}

static void on_headers(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	uint32_t n = f->len;
	if (!(f->stream & 1)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "HEADERS on a stream that a client cannot open");
		return;
	}
	if (!unpad(s, f, &p, &n))
		return;
	if (likely(f->flags & H2_F_END_HEADERS)) {
		on_block(s, f->stream, p, n, f->flags & H2_F_END_STREAM);
		return;
	}
	s->block_stream = f->stream;
	s->block_flags = f->flags;
	s->continuations = 0;
	s->block_ns = s->rpc->shard->now_ns;
	h2_watch(s);
	if (!h2_bytes_add(s->rpc, &s->block, p, n))
		h2_conn_error(s, H2_INTERNAL_ERROR, CONN_R_MEMORY, "no memory for a header block");
}

static void on_continuation(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (++s->continuations > s->rpc->opts->continuations_max ||
	    s->block.len + f->len > 2 * s->rpc->opts->header_list_max) {
		h2_conn_error(s, H2_ENHANCE_YOUR_CALM, CONN_R_FLOOD, "a header block in too many pieces, or too long");
		return;
	}
	if (!h2_bytes_add(s->rpc, &s->block, p, f->len)) {
		h2_conn_error(s, H2_INTERNAL_ERROR, CONN_R_MEMORY, "no memory for a header block");
		return;
	}
	if (!(f->flags & H2_F_END_HEADERS))
		return;
	struct h2_bytes block = s->block;
	uint32_t id = s->block_stream;
	s->block = (struct h2_bytes){0};
	s->block_stream = 0;
	on_block(s, id, block.p, block.len, s->block_flags & H2_F_END_STREAM);
	h2_bytes_free(s->rpc, &block);
}

/* The other frames. */

static void on_data(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	uint32_t n = f->len;
	if (f->stream == 0 || f->stream > s->last_id || !(f->stream & 1)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "DATA on an idle stream");
		return;
	}
	s->recv_window -= f->len;
	if (unlikely(s->recv_window < 0)) {
		h2_conn_error(s, H2_FLOW_CONTROL_ERROR, CONN_R_PROTOCOL,
			      "more DATA than the connection's window allowed");
		return;
	}
	if (!unpad(s, f, &p, &n))
		return;
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (unlikely(!st || st->remote_end)) {
		h2_credit(s, f->len);
		if (st)
			h2_stream_error(st, H2_STREAM_CLOSED);
		else if (!was_reset(s, f->stream))
			h2_reset(s, f->stream, H2_STREAM_CLOSED, true);
		return;
	}
	if (n == 0 && !(f->flags & H2_F_END_STREAM))
		useless(s);
	st->recv_window -= (int32_t)f->len;
	if (unlikely(st->recv_window < 0)) {
		h2_credit(s, f->len);
		h2_stream_error(st, H2_FLOW_CONTROL_ERROR);
		return;
	}
	if (f->len > n) { /* padding is taken in at once */
		h2_credit(s, f->len - n);
		st->recv_unacked += f->len - n;
	}
	h2_stream_data(st, p, n, f->flags & H2_F_END_STREAM);
}

static void on_rst_stream(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream == 0 || f->stream > s->last_id || !(f->stream & 1)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "RST_STREAM on an idle stream");
		return;
	}
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (!reset_allowed(s))
		return;
	if (st) {
		h2_stream_kill(st);
		h2_maybe_close(s);
	}
}

struct window_change {
	int64_t delta;
	bool overflow;
};

static void change_window(struct h2_stream *st, void *ctx)
{
	struct window_change *w = ctx;
	st->send_window += w->delta;
	w->overflow |= st->send_window > H2_WINDOW_MAX;
}

static bool set_peer_window(struct h2_session *s, uint32_t value)
{
	struct window_change w = {.delta = (int64_t)value - s->peer_window};
	if (w.delta == 0)
		return true;
	if (value <= H2_WINDOW_MAX)
		h2_streams_each(s, change_window, &w);
	if (value > H2_WINDOW_MAX || w.overflow) {
		h2_conn_error(s, H2_FLOW_CONTROL_ERROR, CONN_R_PROTOCOL,
			      "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large");
		return false;
	}
	s->peer_window = value;
	return true;
}

/* One parameter (section 6.5.2). false: the connection has ended. Of the values of the initial window in one frame the last is the one that
 * lasts: *window. */
static bool apply_setting(struct h2_session *s, uint16_t id, uint32_t value, uint32_t *window)
{
	if (id == H2_S_ENABLE_PUSH && value > 1) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "SETTINGS_ENABLE_PUSH is neither 0 nor 1");
		return false;
	}
	if (id == H2_S_MAX_FRAME_SIZE) {
		if (value < H2_FRAME_SIZE_DEFAULT || value > 0xffffff) {
			h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "SETTINGS_MAX_FRAME_SIZE is out of range");
			return false;
		}
		s->peer_frame = value;
	}
	if (id == H2_S_INITIAL_WINDOW_SIZE &&
	    *window <= H2_WINDOW_MAX) /* one that is too large stays: it is an error */
		*window = value;
	return true;
}

static void on_settings(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	bool ack = f->flags & H2_F_ACK;
	if (f->stream != 0) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "SETTINGS on a stream");
		return;
	}
	if (f->len % 6 != 0 || (ack && f->len != 0)) {
		h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL, "SETTINGS of a wrong length");
		return;
	}
	if (ack) {
		s->settings_acked = true;
		return;
	}
	s->settings_got = true;
	useless(s); /* each may go through all streams */
	if (s->ending)
		return;
	uint32_t window = s->peer_window;
	for (uint32_t i = 0; i < f->len; i += 6) {
		if (!apply_setting(s, load_be16(p + i), load_be32(p + i + 2), &window))
			return;
	}
	if (!set_peer_window(s, window))
		return;
	put(s, H2_SETTINGS, H2_F_ACK, 0, NULL, 0);
	if (s->waiting)
		h2_streams_pump(s);
}

static void final_goaway(struct h2_session *s)
{
	s->draining = H2_DRAIN_FINAL;
	s->goaway_id = s->last_id;
	put_goaway(s, s->goaway_id, H2_NO_ERROR, "draining");
	h2_maybe_close(s);
}

static void on_ping(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream != 0 || f->len != 8) {
		h2_conn_error(s, f->stream ? H2_PROTOCOL_ERROR : H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL,
			      "PING on a stream or of a wrong length");
		return;
	}
	if (!(f->flags & H2_F_ACK))
		put(s, H2_PING, H2_F_ACK, 0, p, 8);
	else if (s->draining == H2_DRAIN_WARNED && load_be64(p) == DRAIN_PING)
		final_goaway(s);
}

static void on_window_update(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->len != 4) {
		h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL, "WINDOW_UPDATE of a wrong length");
		return;
	}
	uint32_t n = load_be32(p) & 0x7fffffff;
	if (f->stream == 0) {
		s->send_window += n;
		if (n == 0)
			h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "WINDOW_UPDATE by 0");
		else if (s->send_window > H2_WINDOW_MAX)
			h2_conn_error(s, H2_FLOW_CONTROL_ERROR, CONN_R_PROTOCOL,
				      "WINDOW_UPDATE makes the connection's window too large");
		else if (s->waiting)
			h2_streams_pump(s);
		return;
	}
	if (f->stream > s->last_id || !(f->stream & 1)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "WINDOW_UPDATE on an idle stream");
		return;
	}
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (!st)
		return;
	st->send_window += n;
	if (n == 0)
		h2_stream_error(st, H2_PROTOCOL_ERROR);
	else if (st->send_window > H2_WINDOW_MAX)
		h2_stream_error(st, H2_FLOW_CONTROL_ERROR);
	else if (st->waits)
		h2_stream_pump(st);
}

static void on_priority(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	useless(s);
	if (f->stream == 0) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "PRIORITY without a stream");
		return;
	}
	bool self = f->len == 5 && (load_be32(p) & 0x7fffffff) == f->stream;
	if (f->len == 5 && !self)
		return;
	enum h2_error code = self ? H2_PROTOCOL_ERROR : H2_FRAME_SIZE_ERROR;
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (st)
		h2_stream_error(st, code);
	else if (f->stream > s->last_id || !(f->stream & 1)) /* section 6.4: no RST_STREAM for an idle one */
		h2_conn_error(s, code, CONN_R_PROTOCOL, "a PRIORITY that is wrong, on an idle stream");
	else
		h2_reset(s, f->stream, code, true);
}

static void on_goaway(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream != 0 || f->len < 8)
		h2_conn_error(s, f->stream ? H2_PROTOCOL_ERROR : H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL,
			      "GOAWAY on a stream or too short");
	/* The client opens no more streams; it closes when its calls have been answered. */
}

static void on_frame(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (unlikely(!s->settings_got) && (f->type != H2_SETTINGS || (f->flags & H2_F_ACK))) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "the first frame is not SETTINGS");
		return;
	}
	if (unlikely(s->block_stream) && (f->type != H2_CONTINUATION || f->stream != s->block_stream)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "a header block was interrupted");
		return;
	}
	switch (f->type) {
	case H2_DATA:
		on_data(s, f, p);
		break;
	case H2_HEADERS:
		on_headers(s, f, p);
		break;
	case H2_PRIORITY:
		on_priority(s, f, p);
		break;
	case H2_RST_STREAM:
		if (f->len != 4)
			h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL, "RST_STREAM of a wrong length");
		else
			on_rst_stream(s, f, p);
		break;
	case H2_SETTINGS:
		on_settings(s, f, p);
		break;
	case H2_PUSH_PROMISE:
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "PUSH_PROMISE from a client");
		break;
	case H2_PING:
		on_ping(s, f, p);
		break;
	case H2_GOAWAY:
		on_goaway(s, f, p);
		break;
	case H2_WINDOW_UPDATE:
		on_window_update(s, f, p);
		break;
	case H2_CONTINUATION:
		if (s->block_stream)
			on_continuation(s, f, p);
		else
			h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "CONTINUATION without HEADERS");
		break;
	default: /* section 4.1: unknown types are ignored */
		useless(s);
	}
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
		on_frame(s, &f, p + at + H2_FRAME_HEADER);
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
	store_be32(b + 8, H2_STREAM_WINDOW);
	store_be16(b + 12, H2_S_MAX_HEADER_LIST_SIZE);
	store_be32(b + 14, s->rpc->opts->header_list_max);
	put(s, H2_SETTINGS, 0, 0, b, sizeof b);
	put_u32(s, H2_WINDOW_UPDATE, 0, H2_CONN_WINDOW - H2_WINDOW_DEFAULT);
	s->recv_window = H2_CONN_WINDOW;
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

static uint64_t tick_ns(const struct h2_session *s)
{
	const struct rpc_opts *o = s->rpc->opts;
	return least(least(NS_PER_S, o->preface_ns / 4), least(o->headers_ns / 4, o->body_ns / 4)) + NS_PER_MS;
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
	if (s->conn->choked) /* while we do not read, that nothing comes is no fault of the peer's */
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
	if (s->draining == H2_DRAIN_WARNED && now - s->drain_ns >= NS_PER_S)
		final_goaway(s);
	h2_streams_check(s);
	if (!s->ending && (!s->settings_got || s->block_stream || s->part.len || s->draining == H2_DRAIN_WARNED ||
			   h2_streams_need_watch(s)))
		wheel_add(&s->rpc->shard->wheel, t, now + tick_ns(s));
}

/* The connection's events. */

/* Requests that will never be complete; and answers without an end, such as subscriptions, whose client can open no window any more. */
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
	h2_maybe_close(s);
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
	return s->open > 0;
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
	put_goaway(s, H2_WINDOW_MAX, H2_NO_ERROR, "draining");
	store_be64(ping, DRAIN_PING);
	put(s, H2_PING, 0, 0, ping, sizeof ping);
	h2_watch(s);
}

static void h2_closed(struct conn *c)
{
	struct h2_session *s = c->session;
	s->ending = true;
	if (!s->noted)
		call_note_end(s->rpc, c);
	h2_streams_free(s);
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
	s->peer_frame = H2_FRAME_SIZE_DEFAULT;
	s->reset_tokens = r->opts->resets_burst;
	s->reset_ns = s->useless_ns = s->start_ns = r->shard->now_ns;
	s->timer.fire = on_timer;
	s->access_gen = r->access_gen - 1;
	c->session = s;
	c->ops = &h2_ops;
	count_add(&r->sessions_h2, 1);
	count_add(&r->sessions_h2_total, 1);
	h2_watch(s);
	return true;
}
