/* The frames of an HTTP/2 connection: what each means, and the errors that RFC 9113 wants; header blocks and settings with it. Runs on the
 * connection's shard. Sections are named where a rule is not obvious.
 *
 * Invariant: every header block is decoded, also those of refused streams, or the decoder's state would be wrong. Bytes come whole frame by
 * whole frame from h2_session.c; streams and calls are h2_stream.c's.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/h2_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RESET_FREE_NS (50 * UINT64_C(1000000)) /* fixed: with 100 streams at most 2,000 such resets a second */

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
	if (unlikely(s->streams.used >= s->rpc->opts->streams_max)) {
		/* Before it has seen our SETTINGS a client cannot know better. */
		count_add(&s->rpc->refused_streams, 1);
		call_note_refusal(s->rpc, s->conn, REFUSAL_CALLS, "a stream beyond STREAMS_MAX");
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
		if (!h2_discard_trailers(s, id, end) && !h2_was_reset(s, id)) {
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
		*p += 5; /* not looked at, whatever it depends on: section 5.3.2 */
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
	if (unlikely(!st) && h2_discard_data(s, f->stream, f->len, f->flags & H2_F_END_STREAM))
		return;
	if (unlikely(!st || st->remote_end)) {
		h2_credit(s, f->len);
		if (st)
			h2_stream_error(st, H2_STREAM_CLOSED);
		else if (!h2_was_reset(s, f->stream))
			h2_reset(s, f->stream, H2_STREAM_CLOSED, true);
		return;
	}
	if (n == 0 && !(f->flags & H2_F_END_STREAM))
		h2_useless(s);
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

/* A reset of a stream that has been answered costs nothing and is owed nothing: several years of a popular JavaScript
 * client send one after each answer. A further one for the same stream says nothing. */
static void forgive_reset(struct h2_session *s, uint32_t id)
{
	if (h2_discard_reset(s, id))
		return;
	if (s->answered > 0)
		s->answered--;
	else
		h2_useless(s);
}

#define DEADLINE_EARLY_NS (5 * UINT64_C(1000000)) /* fixed: a client's deadline may pass so much before ours */

/* The client had said how long it would wait, and has waited; at least a moment, so that a deadline of no time is no way round
 * the budget. */
static bool is_past_deadline(const struct call *c)
{
	uint64_t age = c->rpc->shard->now_ns - c->start_ns, timeout = c->deadline_ns - c->start_ns;
	return c->deadline_ns && age >= NS_PER_MS && age + timeout / 8 + DEADLINE_EARLY_NS >= timeout;
}

/* What is charged is work that was begun and is thrown away at once, because nothing else bounds how often that
 * happens. A stream that has lived for RESET_FREE_NS has had its place among STREAMS_MAX for as long, which bounds
 * it: so deadlines that pass at the client are no attack. */
static void on_rst_stream(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream == 0 || f->stream > s->last_id || !(f->stream & 1)) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "RST_STREAM on an idle stream");
		return;
	}
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (!st) {
		forgive_reset(s, f->stream);
		return;
	}
	bool young = s->rpc->shard->now_ns - st->call.start_ns < RESET_FREE_NS;
	if (young && !is_past_deadline(&st->call) && !h2_reset_allowed(s))
		return;
	h2_stream_kill(st);
	h2_maybe_close(s);
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
	if (id == H2_S_HEADER_TABLE_SIZE && value < HPACK_TABLE_DEFAULT && !s->table_is_off)
		s->table_update_due = true;
	if (id == H2_S_MAX_HEADER_LIST_SIZE)
		s->peer_header_list = value;
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
	h2_useless(s); /* each may go through all streams */
	if (s->ending)
		return;
	uint32_t window = s->peer_window;
	for (uint32_t i = 0; i < f->len; i += 6) {
		if (!apply_setting(s, load_be16(p + i), load_be32(p + i + 2), &window))
			return;
	}
	if (!set_peer_window(s, window))
		return;
	h2_put(s, H2_SETTINGS, H2_F_ACK, 0, NULL, 0);
	if (s->waiting)
		h2_streams_pump(s);
}

void h2_final_goaway(struct h2_session *s)
{
	s->draining = H2_DRAIN_FINAL;
	s->goaway_id = s->last_id;
	h2_put_goaway(s, s->goaway_id, H2_NO_ERROR, "draining");
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
		h2_put(s, H2_PING, H2_F_ACK, 0, p, 8);
	else if (s->draining == H2_DRAIN_WARNED && load_be64(p) == H2_DRAIN_PING) {
		s->settled = s->streams.used == 0; /* it has read everything, and all that it had sent before is here */
		h2_final_goaway(s);
	}
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
	h2_useless(s);
	if (f->stream == 0) {
		h2_conn_error(s, H2_PROTOCOL_ERROR, CONN_R_PROTOCOL, "PRIORITY without a stream");
		return;
	}
	if (f->len ==
	    5) /* its content is not looked at (section 5.3.2), not even a dependency on itself, which RFC 7540 took for an error */
		return;
	struct h2_stream *st = h2_stream_find(s, f->stream);
	if (st)
		h2_stream_error(st, H2_FRAME_SIZE_ERROR);
	else if (f->stream > s->last_id || !(f->stream & 1)) /* section 6.4: no RST_STREAM for an idle one */
		h2_conn_error(s, H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL,
			      "a PRIORITY of a wrong length, on an idle stream");
	else
		h2_reset(s, f->stream, H2_FRAME_SIZE_ERROR, true);
}

static void on_goaway(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream != 0 || f->len < 8)
		h2_conn_error(s, f->stream ? H2_PROTOCOL_ERROR : H2_FRAME_SIZE_ERROR, CONN_R_PROTOCOL,
			      "GOAWAY on a stream or too short");
	/* The client opens no more streams; it closes when its calls have been answered. */
}

void h2_on_frame(struct h2_session *s, const struct h2_frame *f, const uint8_t *p)
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
		h2_useless(s);
	}
}
