/* The client's side of HTTP/2 as gRPC uses it: frames in, stream table, windows in, life of the connection.
 *
 * A frame is looked at whole, in place. A stream is found by its number in a small open-addressed table, and ends for us with END_STREAM or
 * RST_STREAM from the server, or with the RST_STREAM that we send; frames that were under way then find no stream and are only counted
 * (RFC 9113 section 5.1), though their header blocks are still decoded, because those change the decoder's state.
 *
 * The answer to a call: HEADERS (status 200), DATA frames holding 5-byte-prefixed messages, HEADERS with END_STREAM (trailers, grpc-status);
 * or one HEADERS with END_STREAM for all ("trailers only"). Nothing that a server sends is trusted: what breaks RFC 9113 closes the channel with a
 * sentence, what breaks gRPC ends the call with INTERNAL or UNKNOWN. Runs on the client's thread; h2c_output.c sends, h2c_head.c does header blocks. */
#include "rpc/client/h2c.h"

#include <errno.h>
#include <stdlib.h>

enum { STREAMS_FIRST = 64 };

static int broken(struct channel *ch, const char *why)
{
	return channel_fail(ch, -EPROTO, "the server broke HTTP/2: %s", why);
}

/* ---- stream table ---- */

/* Robin Hood hashing: along a run of slots, distances from home never fall by more than the step, so a search may stop at an entry that is
 * nearer to its home than the search is, and a removal need only move back what is away from home: with streams that follow each other, nothing. */

static uint32_t distance(const struct h2_client *h, uint32_t stream, uint32_t i)
{
	return (i - (stream >> 1)) & h->streams_mask;
}

static struct h2c_stream_slot *stream_find(const struct h2_client *h, uint32_t stream)
{
	uint32_t i = (stream >> 1) & h->streams_mask;
	for (uint32_t d = 0;; d++, i = (i + 1) & h->streams_mask) {
		struct h2c_stream_slot *s = &h->streams[i];
		if (likely(s->stream == stream))
			return s;
		if (s->stream == 0 || distance(h, s->stream, i) < d)
			return NULL;
	}
}

static void stream_insert(struct h2_client *h, uint32_t stream, uint32_t call)
{
	struct h2c_stream_slot mine = {stream, call};
	uint32_t i = (stream >> 1) & h->streams_mask;
	for (uint32_t d = 0; unlikely(h->streams[i].stream != 0); d++, i = (i + 1) & h->streams_mask) {
		uint32_t theirs = distance(h, h->streams[i].stream, i);
		if (theirs < d) {
			struct h2c_stream_slot richer = h->streams[i];
			h->streams[i] = mine;
			mine = richer;
			d = theirs;
		}
	}
	h->streams[i] = mine;
	h->streams_n++;
}

int h2c_stream_add(struct h2_client *h, uint32_t stream, uint32_t call)
{
	if (unlikely(h->streams_n * 2 > h->streams_mask)) {
		uint32_t old_n = h->streams_mask + 1;
		struct h2c_stream_slot *old = h->streams, *grown = calloc((size_t)old_n * 2, sizeof *grown);
		if (!grown)
			return -ENOMEM;
		h->streams = grown;
		h->streams_mask = old_n * 2 - 1;
		h->streams_n = 0;
		for (uint32_t i = 0; i < old_n; i++)
			if (old[i].stream)
				stream_insert(h, old[i].stream, old[i].call);
		free(old);
	}
	stream_insert(h, stream, call);
	return 0;
}

static void stream_remove(struct h2_client *h, uint32_t stream)
{
	struct h2c_stream_slot *s = stream_find(h, stream);
	CHECK(s != NULL);
	uint32_t hole = (uint32_t)(s - h->streams), i = (hole + 1) & h->streams_mask;
	while (h->streams[i].stream && distance(h, h->streams[i].stream, i) > 0) {
		h->streams[hole] = h->streams[i];
		hole = i;
		i = (i + 1) & h->streams_mask;
	}
	h->streams[hole].stream = 0;
	h->streams_n--;
}

/* The open call of a stream, or NULL when it has ended. *ret_index for channel_finish. */
static struct call *call_of(struct channel *ch, uint32_t stream, uint32_t *ret_index)
{
	const struct h2c_stream_slot *s = stream_find(ch->proto, stream);
	if (unlikely(!s))
		return NULL;
	*ret_index = s->call;
	return channel_slot(ch, s->call);
}

/* ---- life ---- */

static void h2_done(struct channel *ch)
{
	struct h2_client *h = ch->proto;
	for (uint32_t i = 0; i < ch->calls.made; i++)
		DCHECK(channel_slot(ch, i)->state == CALL_FREE);
	hpack_decoder_free(h->head.decoder);
	hpack_memo_free(h->head.memo);
	channel_buf_free(&h->joined);
	free(h->streams);
	free(h);
	ch->proto = NULL;
}

static int h2_init(struct channel *ch)
{
	if (strlen(ch->authority) > H2_AUTHORITY_MAX)
		return -EINVAL;
	struct h2_client *h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	ch->proto = h;
	h->streams = calloc(STREAMS_FIRST, sizeof *h->streams);
	h->streams_mask = STREAMS_FIRST - 1;
	h->head.decoder = hpack_decoder_new(4096);
	h->head.memo = hpack_memo_new(sizeof(struct h2c_head));
	if (!h->streams || !h->head.decoder || !h->head.memo) {
		h2_done(ch);
		return -ENOMEM;
	}
	h->stream_next = 1;
	h->send_window = H2_WINDOW_DEFAULT;
	h->stream_window = H2_WINDOW_DEFAULT;
	h->frame_max = H2_FRAME_SIZE_DEFAULT;
	h2c_encoder_init(&h->encoder, ch->tls != NULL);
	ch->need = H2_FRAME_HEADER;
	return 0;
}

static void put_setting(uint8_t *p, uint16_t id, uint32_t value)
{
	store_be16(p, id);
	store_be32(p + 2, value);
}

static void h2_start(struct channel *ch)
{
	uint8_t settings[12];
	put_setting(settings, H2_S_ENABLE_PUSH, 0);
	put_setting(settings + 6, H2_S_INITIAL_WINDOW_SIZE, H2_CLIENT_WINDOW);
	uint8_t *p = channel_reserve(ch, H2_PREFACE_LEN);
	if (!p)
		goto out_memory;
	memcpy(p, H2_PREFACE, H2_PREFACE_LEN);
	channel_commit(ch, H2_PREFACE_LEN);
	if (h2c_put_frame(ch, H2_SETTINGS, 0, 0, settings, sizeof settings) ||
	    h2c_put_window(ch, 0, H2_CLIENT_WINDOW - H2_WINDOW_DEFAULT))
		goto out_memory;
	return;
out_memory:
	channel_fail(ch, -ENOMEM, "no memory for a connection");
}

static void h2_cancel(struct channel *ch, struct call *call, uint32_t index)
{
	if (h2c_put_reset(ch, call->stream, H2_CANCEL))
		channel_fail(ch, -ENOMEM, "no memory to send");
}

static bool h2_gone(struct channel *ch, struct call *call, uint32_t index, bool by_server)
{
	struct h2_client *h = ch->proto;
	stream_remove(h, call->stream);
	struct call_more *more = call->more;
	if (unlikely(more != NULL)) {
		if (more->out.n > more->out_at)
			h->blocked--;
		channel_buf_free(&more->in);
		channel_buf_free(&more->out);
		free(more);
		call->more = NULL;
	}
	return false;
}

/* ---- the answer ---- */

static unsigned status_of_reset(uint32_t error)
{
	switch (error) {
	case H2_REFUSED_STREAM:
		return GRPC_UNAVAILABLE;
	case H2_CANCEL:
		return GRPC_CANCELLED;
	case H2_ENHANCE_YOUR_CALM:
		return GRPC_RESOURCE_EXHAUSTED;
	case H2_INADEQUATE_SECURITY:
		return GRPC_PERMISSION_DENIED;
	default:
		return GRPC_INTERNAL;
	}
}

/* gRPC's http-grpc-status-mapping.md. */
static unsigned status_of_http(unsigned http)
{
	switch (http) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	default:
		return GRPC_UNKNOWN;
	}
}

/* The server has ended the stream. If our side is still open, a reset ends that too (RFC 9113 section 8.1). */
static int finish(struct channel *ch, struct call *call, uint32_t index, unsigned code, struct span text)
{
	bool blocked = call->more && call->more->out.n > call->more->out_at;
	if (unlikely(!call->ended || blocked) && h2c_put_reset(ch, call->stream, H2_NO_ERROR))
		return channel_fail(ch, -ENOMEM, "no memory to send");
	channel_finish(ch, index, true, &(struct channel_status){code, text, false});
	return 0;
}

/* The call's answer makes no sense; the connection is fine. */
static int spoil(struct channel *ch, struct call *call, uint32_t index, unsigned code, const char *why)
{
	if (h2c_put_reset(ch, call->stream, H2_CANCEL))
		return channel_fail(ch, -ENOMEM, "no memory to send");
	channel_finish(ch, index, false, &(struct channel_status){code, {(const uint8_t *)why, strlen(why)}, false});
	return 0;
}

static int on_head(struct channel *ch, uint32_t stream, uint8_t flags, const struct h2c_head *head)
{
	struct h2_client *h = ch->proto;
	uint32_t index;
	struct call *call = call_of(ch, stream, &index);
	bool end = flags & H2_F_END_STREAM;
	if (!call)
		return 0;
	if (!call->headers_seen && head->http >= 100 && head->http < 200)
		return end ? broken(ch, "an interim response ended its stream") : 0;
	if (likely(!end)) {
		if (unlikely(call->headers_seen))
			return spoil(ch, call, index, GRPC_INTERNAL, "a second header block that is not the trailers");
		if (unlikely(head->http != 200))
			return spoil(ch, call, index, status_of_http(head->http),
				     "the server answered with an HTTP error");
		if (unlikely(!head->is_grpc))
			return spoil(ch, call, index, GRPC_UNKNOWN, "the server's answer is not application/grpc");
		call->headers_seen = true;
		return 0;
	}
	if (unlikely(!call->headers_seen && head->http == 0))
		return finish(ch, call, index, GRPC_INTERNAL, SPAN_LIT("the answer has no :status"));
	if (unlikely(call->more && call->more->in.n > 0))
		return finish(ch, call, index, GRPC_INTERNAL, SPAN_LIT("the answer ended in the middle of a message"));
	if (likely(head->status == GRPC_OK && (call->headers_seen || head->http == 200)))
		return finish(ch, call, index, GRPC_OK, (struct span){0, 0});
	if (head->status > 0)
		return finish(ch, call, index, (unsigned)head->status,
			      (struct span){(const uint8_t *)h->head.text, head->has_text ? h->head.text_n : 0});
	if (!call->headers_seen && head->http != 200)
		return finish(ch, call, index, status_of_http(head->http),
			      SPAN_LIT("the server answered with an HTTP error"));
	return finish(ch, call, index, GRPC_UNKNOWN, SPAN_LIT("the server sent no grpc-status"));
}

static int on_block(struct channel *ch, uint32_t stream, uint8_t flags, const uint8_t *p, size_t n)
{
	struct h2_client *h = ch->proto;
	struct h2c_head head;
	int r = h2c_head_read(&h->head, p, n, &head);
	if (unlikely(r == -ENOMEM))
		return channel_fail(ch, -ENOMEM, "no memory for a header block");
	if (unlikely(r))
		return broken(ch, r == -E2BIG ? "a header block of more than 100 fields"
					      : "a header block that cannot be decoded");
	return on_head(ch, stream, flags, &head);
}

static int on_headers(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	size_t at = 0, n = f->len, pad = 0;
	if (unlikely(f->stream == 0 || !(f->stream & 1) || f->stream >= h->stream_next))
		return broken(ch, "HEADERS on a stream that was never opened");
	if (unlikely(f->flags & (H2_F_PADDED | H2_F_PRIORITY))) {
		if (f->flags & H2_F_PADDED) {
			if (n < 1)
				return broken(ch, "a padded frame that is empty");
			pad = p[0];
			at = 1;
		}
		if (f->flags & H2_F_PRIORITY)
			at += 5;
		if (at + pad > n)
			return broken(ch, "padding longer than its frame");
	}
	n -= at + pad;
	if (likely(f->flags & H2_F_END_HEADERS))
		return on_block(ch, f->stream, f->flags, p + at, n);
	h->joined.n = 0;
	if (channel_buf_add(&h->joined, p + at, n))
		return channel_fail(ch, -ENOMEM, "no memory for a header block");
	h->joined_stream = f->stream;
	h->joined_flags = f->flags;
	return 0;
}

static int on_continuation(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	if (h->joined_stream == 0 || f->stream != h->joined_stream)
		return broken(ch, "CONTINUATION without HEADERS");
	if (h->joined.n + f->len > H2_CLIENT_BLOCK_MAX)
		return broken(ch, "a header block of more than 64 KiB");
	if (channel_buf_add(&h->joined, p, f->len))
		return channel_fail(ch, -ENOMEM, "no memory for a header block");
	if (!(f->flags & H2_F_END_HEADERS))
		return 0;
	h->joined_stream = 0;
	return on_block(ch, f->stream, h->joined_flags, h->joined.p, h->joined.n);
}

/* Whether the call is still the one whose frame we are in the middle of, after a callback. */
static bool still(const struct channel *ch, const struct call *call, uint32_t stream)
{
	return ch->state != CHANNEL_CLOSING && call->state == CALL_OPEN && call->stream == stream;
}

/* Adds bytes to the cut message; hands it out when it is whole. */
static int on_cut_message(struct channel *ch, struct call *call, uint32_t index, const uint8_t **p, size_t *n)
{
	struct call_more *more = h2c_call_more(call);
	if (!more)
		return channel_fail(ch, -ENOMEM, "no memory for a message");
	size_t want = GRPC_PREFIX;
	if (more->in.n >= GRPC_PREFIX)
		want += load_be32(more->in.p + 1);
	size_t take = want - more->in.n < *n ? want - more->in.n : *n;
	if (channel_buf_add(&more->in, *p, take))
		return channel_fail(ch, -ENOMEM, "no memory for a message");
	*p += take;
	*n -= take;
	if (more->in.n < want)
		return 0;
	if (want == GRPC_PREFIX) {
		if (more->in.p[0] != 0)
			return spoil(ch, call, index, GRPC_INTERNAL,
				     "a compressed message, which this client did not ask for");
		if (load_be32(more->in.p + 1) > ch->message_max)
			return spoil(ch, call, index, GRPC_RESOURCE_EXHAUSTED, "a message above this client's limit");
		if (load_be32(more->in.p + 1) > 0)
			return 0;
	}
	/* The callback may end the call, and with it `more`: take the bytes out first. */
	struct channel_buf whole = more->in;
	more->in = (struct channel_buf){0};
	call->ops->message(call->ctx, (struct span){whole.p + GRPC_PREFIX, whole.n - GRPC_PREFIX});
	channel_buf_free(&whole);
	return 0;
}

static int on_messages(struct channel *ch, struct call *call, uint32_t index, const uint8_t *p, size_t n)
{
	uint32_t stream = call->stream;
	while (n > 0) {
		size_t len = n >= GRPC_PREFIX ? load_be32(p + 1) : 0;
		if (likely(n >= GRPC_PREFIX && p[0] == 0 && len <= n - GRPC_PREFIX &&
			   !(call->more && call->more->in.n > 0) && len <= ch->message_max)) {
			call->ops->message(call->ctx, (struct span){p + GRPC_PREFIX, len});
			p += GRPC_PREFIX + len;
			n -= GRPC_PREFIX + len;
		} else {
			int r = on_cut_message(ch, call, index, &p, &n);
			if (r)
				return r;
		}
		if (unlikely(!still(ch, call, stream)))
			return 0;
	}
	return 0;
}

static int on_data(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	size_t n = f->len;
	uint32_t index;
	if (unlikely(f->stream == 0 || !(f->stream & 1) || f->stream >= h->stream_next))
		return broken(ch, "DATA on a stream that was never opened");
	h->recv_used += f->len;
	if (unlikely(h->recv_used >= H2_CLIENT_REFILL)) {
		if (h2c_put_window(ch, 0, h->recv_used))
			return channel_fail(ch, -ENOMEM, "no memory to send");
		h->recv_used = 0;
	}
	if (unlikely(f->flags & H2_F_PADDED)) {
		if (n < 1 || (size_t)p[0] + 1 > n)
			return broken(ch, "padding longer than its frame");
		n -= (size_t)p[0] + 1;
		p++;
	}
	struct call *call = call_of(ch, f->stream, &index);
	if (unlikely(!call))
		return 0;
	if (unlikely(!call->headers_seen))
		return spoil(ch, call, index, GRPC_INTERNAL, "a message before the answer's headers");
	call->recv_used += f->len;
	if (unlikely(call->recv_used >= H2_CLIENT_REFILL && !(f->flags & H2_F_END_STREAM))) {
		if (h2c_put_window(ch, f->stream, call->recv_used))
			return channel_fail(ch, -ENOMEM, "no memory to send");
		call->recv_used = 0;
	}
	int r = on_messages(ch, call, index, p, n);
	if (unlikely(r))
		return r;
	if (unlikely((f->flags & H2_F_END_STREAM) && still(ch, call, f->stream)))
		return finish(ch, call, index, GRPC_INTERNAL, SPAN_LIT("the answer ended without trailers"));
	return 0;
}

/* ---- control frames ---- */

static int on_reset(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	uint32_t index;
	if (f->len != 4)
		return broken(ch, "RST_STREAM of a wrong size");
	if (f->stream == 0 || f->stream >= h->stream_next)
		return broken(ch, "RST_STREAM on a stream that was never opened");
	struct call *call = call_of(ch, f->stream, &index);
	if (!call)
		return 0;
	uint32_t error = load_be32(p);
	channel_finish(ch, index, true,
		       &(struct channel_status){status_of_reset(error), SPAN_LIT("the server reset the stream"),
						error == H2_REFUSED_STREAM});
	return 0;
}

/* A new INITIAL_WINDOW_SIZE moves the windows of streams that are open, even below zero (RFC 9113 section 6.9.2). */
static int set_stream_window(struct channel *ch, uint32_t value)
{
	struct h2_client *h = ch->proto;
	if (value > H2_WINDOW_MAX)
		return broken(ch, "INITIAL_WINDOW_SIZE above 2^31-1");
	int64_t by = (int64_t)value - h->stream_window;
	h->stream_window = (int32_t)value;
	for (uint32_t i = 0; i < ch->calls.made && by != 0; i++) {
		struct call *call = channel_slot(ch, i);
		if (call->state != CALL_OPEN)
			continue;
		call->send_window += by;
		if (call->send_window > H2_WINDOW_MAX)
			return broken(ch, "a window above 2^31-1");
	}
	return 0;
}

static int on_setting(struct channel *ch, uint16_t id, uint32_t value)
{
	struct h2_client *h = ch->proto;
	switch (id) {
	case H2_S_HEADER_TABLE_SIZE:
		h2c_encoder_resize(&h->encoder, value);
		return 0;
	case H2_S_MAX_CONCURRENT_STREAMS:
		ch->calls_limit = value < ch->calls_max ? value : ch->calls_max;
		return 0;
	case H2_S_INITIAL_WINDOW_SIZE:
		return set_stream_window(ch, value);
	case H2_S_MAX_FRAME_SIZE:
		if (value < H2_FRAME_SIZE_DEFAULT || value > 0xffffff)
			return broken(ch, "MAX_FRAME_SIZE out of range");
		h->frame_max = value;
		return 0;
	default:
		return 0;
	}
}

static int on_settings(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	if (f->stream != 0 || f->len % 6 != 0 || ((f->flags & H2_F_ACK) && f->len != 0))
		return broken(ch, "SETTINGS of a wrong shape");
	if (f->flags & H2_F_ACK)
		return 0;
	for (uint32_t at = 0; at < f->len; at += 6) {
		int r = on_setting(ch, load_be16(p + at), load_be32(p + at + 2));
		if (r)
			return r;
	}
	if (ch->out.n > ch->queue_max)
		return broken(ch, "more SETTINGS and PING frames than can be answered");
	if (h2c_put_frame(ch, H2_SETTINGS, H2_F_ACK, 0, NULL, 0) || h2c_pump(ch))
		return channel_fail(ch, -ENOMEM, "no memory to send");
	if (!h->settings_seen) {
		h->settings_seen = true;
		channel_set_open(ch);
	}
	return 0;
}

static int on_ping(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream != 0 || f->len != 8)
		return broken(ch, "PING of a wrong shape");
	if (f->flags & H2_F_ACK)
		return 0;
	if (ch->out.n > ch->queue_max)
		return broken(ch, "more SETTINGS and PING frames than can be answered");
	if (h2c_put_frame(ch, H2_PING, H2_F_ACK, 0, p, 8))
		return channel_fail(ch, -ENOMEM, "no memory to send");
	return 0;
}

/* The calls that the server will not look at. */
static void give_back(struct channel *ch, uint32_t last)
{
	static const struct span why = SPAN_LIT("the server went away before this call");
	for (uint32_t i = 0; i < ch->calls.made && ch->state != CHANNEL_CLOSING; i++) {
		struct call *call = channel_slot(ch, i);
		if (call->state == CALL_OPEN && call->stream > last)
			channel_finish(ch, i, true, &(struct channel_status){GRPC_UNAVAILABLE, why, true});
	}
}

static int on_goaway(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	if (f->stream != 0 || f->len < 8)
		return broken(ch, "GOAWAY of a wrong shape");
	uint32_t last = load_be32(p) & 0x7fffffff, error = load_be32(p + 4);
	/* First what keeps callbacks from starting calls here. With an error it is not a drain, which might end well before the reason is told. */
	if (likely(error == H2_NO_ERROR))
		channel_set_draining(ch);
	else
		ch->state = CHANNEL_STARTING;
	give_back(ch, last);
	if (error != H2_NO_ERROR)
		return channel_fail(ch, -ECONNABORTED, "the server ended the connection with HTTP/2 error %u: %.*s",
				    error, (int)(f->len - 8 < 80 ? f->len - 8 : 80), (const char *)p + 8);
	return 0;
}

static int on_window_update(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	uint32_t index;
	if (f->len != 4)
		return broken(ch, "WINDOW_UPDATE of a wrong size");
	uint32_t by = load_be32(p) & 0x7fffffff;
	if (by == 0 || f->stream >= h->stream_next)
		return broken(ch, "WINDOW_UPDATE by 0 or on a stream that was never opened");
	int64_t *window = &h->send_window;
	if (f->stream != 0) {
		struct call *call = call_of(ch, f->stream, &index);
		if (!call)
			return 0;
		window = &call->send_window;
	}
	*window += by;
	if (*window > H2_WINDOW_MAX)
		return broken(ch, "a window above 2^31-1");
	if (unlikely(h->blocked > 0) && h2c_pump(ch))
		return channel_fail(ch, -ENOMEM, "no memory to send");
	return 0;
}

static int on_frame(struct channel *ch, const struct h2_frame *f, const uint8_t *p)
{
	struct h2_client *h = ch->proto;
	if (unlikely(h->joined_stream && f->type != H2_CONTINUATION))
		return broken(ch, "a header block was interrupted");
	switch (f->type) {
	case H2_DATA:
		return on_data(ch, f, p);
	case H2_HEADERS:
		return on_headers(ch, f, p);
	case H2_RST_STREAM:
		return on_reset(ch, f, p);
	case H2_SETTINGS:
		return on_settings(ch, f, p);
	case H2_PUSH_PROMISE:
		return broken(ch, "PUSH_PROMISE, which was switched off");
	case H2_PING:
		return on_ping(ch, f, p);
	case H2_GOAWAY:
		return on_goaway(ch, f, p);
	case H2_WINDOW_UPDATE:
		return on_window_update(ch, f, p);
	case H2_CONTINUATION:
		return on_continuation(ch, f, p);
	default: /* PRIORITY, and types that we do not know (section 4.1) */
		return 0;
	}
}

static ssize_t h2_input(struct channel *ch, const uint8_t *p, size_t n)
{
	const struct h2_client *h = ch->proto;
	size_t at = 0;
	while (n - at >= H2_FRAME_HEADER) {
		struct h2_frame f = h2_frame_get(p + at);
		if (unlikely(f.len > H2_FRAME_SIZE_DEFAULT || (!h->settings_seen && f.type != H2_SETTINGS)))
			return channel_fail(ch, -EPROTO,
					    h->settings_seen ? "the server sent a frame above 16 KiB"
							     : "the server does not speak HTTP/2");
		if (n - at - H2_FRAME_HEADER < f.len) {
			ch->need = H2_FRAME_HEADER + f.len;
			return (ssize_t)at;
		}
		int r = on_frame(ch, &f, p + at + H2_FRAME_HEADER);
		if (unlikely(r || ch->state == CHANNEL_CLOSING))
			return r ? r : (ssize_t)at;
		at += H2_FRAME_HEADER + f.len;
	}
	ch->need = H2_FRAME_HEADER;
	return (ssize_t)at;
}

static int h2_ping(struct channel *ch)
{
	static const uint8_t opaque[8] = "alive?";
	return h2c_put_frame(ch, H2_PING, 0, 0, opaque, sizeof opaque);
}

const struct protocol_ops h2_client_ops = {
	.init = h2_init,
	.done = h2_done,
	.start = h2_start,
	.input = h2_input,
	.call = h2c_call,
	.send = h2c_send,
	.end = h2c_end,
	.cancel = h2_cancel,
	.ping = h2_ping,
	.gone = h2_gone,
};
