/* What the HTTP/2 client sends: requests, messages, control frames, and flow control in that direction.
 *
 * The common request is one copy into the channel's output: a ready-made header block and one DATA frame. A message that the windows do not
 * allow yet, or that is larger than a frame, goes through call->more->out, in order, and leaves in h2c_pump_call as windows open; so
 * nothing of a call overtakes its own earlier bytes. Runs on the client's thread. */
#include "rpc/client/h2c.h"

#include <errno.h>
#include <stdlib.h>

int h2c_put_frame(struct channel *ch, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, uint32_t n)
{
	uint8_t *p = channel_reserve(ch, H2_FRAME_HEADER + n);
	if (!p)
		return -ENOMEM;
	h2_frame_put(p, n, type, flags, stream);
	if (n)
		memcpy(p + H2_FRAME_HEADER, payload, n);
	channel_commit(ch, H2_FRAME_HEADER + n);
	return 0;
}

int h2c_put_window(struct channel *ch, uint32_t stream, uint32_t increment)
{
	uint8_t p[4];
	store_be32(p, increment);
	return h2c_put_frame(ch, H2_WINDOW_UPDATE, 0, stream, p, sizeof p);
}

int h2c_put_reset(struct channel *ch, uint32_t stream, uint32_t error)
{
	uint8_t p[4];
	store_be32(p, error);
	return h2c_put_frame(ch, H2_RST_STREAM, 0, stream, p, sizeof p);
}

struct call_more *h2c_call_more(struct call *call)
{
	if (!call->more)
		call->more = calloc(1, sizeof *call->more);
	return call->more;
}

static size_t blocked_bytes(const struct call *call)
{
	return call->more ? call->more->out.n - call->more->out_at : 0;
}

static void put_prefix(uint8_t *p, size_t n)
{
	p[0] = 0;
	store_be32(p + 1, (uint32_t)n);
}

/* Puts the message behind what already waits for a window, and sends what may go. */
static int send_queued(struct channel *ch, struct call *call, struct span msg, bool last)
{
	struct h2_client *h = ch->proto;
	struct call_more *more = h2c_call_more(call);
	uint8_t prefix[GRPC_PREFIX];
	if (!more)
		return -ENOMEM;
	bool was_blocked = blocked_bytes(call) > 0;
	if (more->out.n > ch->queue_max && was_blocked)
		return -EAGAIN;
	if (more->out.cap - more->out.n < GRPC_PREFIX + msg.n && channel_buf_grow(&more->out, GRPC_PREFIX + msg.n))
		return -ENOMEM;
	put_prefix(prefix, msg.n);
	channel_buf_add(&more->out, prefix, sizeof prefix);
	channel_buf_add(&more->out, msg.p, msg.n);
	more->out_last = last;
	if (!was_blocked)
		h->blocked++;
	return h2c_pump_call(ch, call);
}

int h2c_send(struct channel *ch, struct call *call, uint32_t index, struct span msg, bool last)
{
	struct h2_client *h = ch->proto;
	size_t n = GRPC_PREFIX + msg.n;
	if (unlikely(msg.n > UINT32_MAX - GRPC_PREFIX))
		return -EMSGSIZE;
	if (unlikely(blocked_bytes(call) > 0 || n > h->frame_max || (int64_t)n > h->send_window ||
		     (int64_t)n > call->send_window))
		return send_queued(ch, call, msg, last);
	uint8_t *p = channel_reserve(ch, H2_FRAME_HEADER + n);
	if (unlikely(!p))
		return -ENOMEM;
	h2_frame_put(p, (uint32_t)n, H2_DATA, last ? H2_F_END_STREAM : 0, call->stream);
	put_prefix(p + H2_FRAME_HEADER, msg.n);
	if (msg.n)
		memcpy(p + H2_FRAME_HEADER + GRPC_PREFIX, msg.p, msg.n);
	channel_commit(ch, H2_FRAME_HEADER + n);
	h->send_window -= (int64_t)n;
	call->send_window -= (int64_t)n;
	return 0;
}

int h2c_call(struct channel *ch, struct call *call, uint32_t index, unsigned method, struct span path,
	     struct span request, uint64_t timeout_ns, bool last)
{
	struct h2_client *h = ch->proto;
	uint8_t scratch[H2_HEAD_MAX];
	size_t n;
	if (unlikely(request.n > UINT32_MAX - GRPC_PREFIX))
		return -EMSGSIZE;
	if (unlikely(h->stream_next > H2_STREAM_MAX)) {
		/* The numbers are used up: as after a GOAWAY, the owner needs a new connection (RFC 9113, section 5.1.1). */
		channel_set_worn_out(ch);
		return -ESHUTDOWN;
	}
	/* Room before anything moves: the encoder's state must not get ahead of what the server will see. */
	uint8_t *p = channel_reserve(ch, H2_FRAME_HEADER + H2_HEAD_MAX + H2_FRAME_HEADER + GRPC_PREFIX + request.n);
	if (unlikely(!p || h2c_stream_add(h, h->stream_next, index)))
		return -ENOMEM;
	call->stream = h->stream_next;
	call->send_window = h->stream_window;
	h->stream_next += 2;
	const uint8_t *block = h2c_encoder_head(&h->encoder, path.n ? 0 : method, path, ch->authority, ch->bearer,
						timeout_ns, scratch, &n);
	h2_frame_put(p, (uint32_t)n, H2_HEADERS, H2_F_END_HEADERS, call->stream);
	memcpy(p + H2_FRAME_HEADER, block, n);
	channel_commit(ch, H2_FRAME_HEADER + n);
	int r = h2c_send(ch, call, index, request, last);
	if (unlikely(r)) {
		h2c_put_reset(ch, call->stream, H2_CANCEL);
		h2_client_ops.gone(ch, call, index, false);
	}
	return r;
}

int h2c_end(struct channel *ch, struct call *call, uint32_t index)
{
	if (blocked_bytes(call) > 0) {
		call->more->out_last = true;
		return 0;
	}
	return h2c_put_frame(ch, H2_DATA, H2_F_END_STREAM, call->stream, NULL, 0);
}

int h2c_pump_call(struct channel *ch, struct call *call)
{
	struct h2_client *h = ch->proto;
	struct call_more *more = call->more;
	for (;;) {
		size_t left = more->out.n - more->out_at, n = left;
		int64_t window = h->send_window < call->send_window ? h->send_window : call->send_window;
		if (window <= 0)
			return 0;
		if (n > (size_t)window)
			n = (size_t)window;
		if (n > h->frame_max)
			n = h->frame_max;
		bool last = more->out_last && n == left;
		if (h2c_put_frame(ch, H2_DATA, last ? H2_F_END_STREAM : 0, call->stream, more->out.p + more->out_at,
				  (uint32_t)n))
			return -ENOMEM;
		more->out_at += n;
		h->send_window -= (int64_t)n;
		call->send_window -= (int64_t)n;
		if (n < left)
			continue;
		more->out.n = more->out_at = 0;
		h->blocked--;
		return 0;
	}
}

int h2c_pump(struct channel *ch)
{
	struct h2_client *h = ch->proto;
	for (uint32_t i = 0; i < ch->calls.made && h->blocked > 0 && h->send_window > 0; i++) {
		struct call *call = channel_slot(ch, i);
		if (call->state == CALL_OPEN && blocked_bytes(call) > 0 && h2c_pump_call(ch, call))
			return -ENOMEM;
	}
	return 0;
}
