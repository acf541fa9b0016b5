/* The client's side of Ordinal's native framing (rpc/wire/native.h).
 *
 * A call's number on the wire is the index of its slot, so finding it again is one array access. The number of a call that its owner has
 * given up (cancelled, deadline) stays taken until the server has ended it: that is what keeps a late answer from meeting a new call.
 *
 * A connection is open when the server has answered a first PING: a kernel accepts connections that a server, about to leave, never will, and
 * calls sent there would be lost without anybody knowing whether they ran. It also tells a server that speaks something else.
 * Runs on the client's thread; knows nothing of sockets. No state of its own beyond the channel's. */
#include "rpc/client/channel_impl.h"
#include "rpc/wire/native.h"

#include "core/base/clock.h"

#include <errno.h>

static int native_init(struct channel *ch)
{
	ch->need = NATIVE_HEADER;
	return 0;
}

static void native_done(struct channel *ch)
{
}

static int put(struct channel *ch, uint8_t kind_flags, uint16_t code, struct span msg, uint32_t call, uint32_t arg)
{
	if (unlikely(msg.n > UINT32_MAX))
		return -EMSGSIZE;
	uint8_t *p = channel_reserve(ch, NATIVE_HEADER + msg.n);
	if (unlikely(!p))
		return -ENOMEM;
	native_put(p, kind_flags, code, (uint32_t)msg.n, call, arg);
	if (msg.n)
		memcpy(p + NATIVE_HEADER, msg.p, msg.n);
	channel_commit(ch, NATIVE_HEADER + msg.n);
	return 0;
}

static void native_start(struct channel *ch)
{
	int r = 0;
	if (ch->bearer) {
		const char *token = ch->bearer + CHANNEL_BEARER;
		r = put(ch, NATIVE_AUTH, 0, (struct span){(const uint8_t *)token, strlen(token)}, 0, 0);
	}
	if (r || put(ch, NATIVE_PING, 0, (struct span){0, 0}, 0, 0))
		channel_fail(ch, -ENOMEM, "no memory for a connection");
}

static int native_call(struct channel *ch, struct call *call, uint32_t index, unsigned method, struct span path,
		       struct span request, uint64_t timeout_ns, bool last)
{
	uint64_t ms = 0;
	if (unlikely(method == 0))
		return -EINVAL;
	if (timeout_ns) {
		ms = (timeout_ns + NS_PER_MS - 1) / NS_PER_MS;
		if (ms > UINT32_MAX)
			ms = UINT32_MAX;
	}
	return put(ch, NATIVE_REQUEST | (last ? NATIVE_F_LAST : 0), (uint16_t)method, request, index, (uint32_t)ms);
}

static int native_send(struct channel *ch, struct call *call, uint32_t index, struct span msg, bool last)
{
	return put(ch, NATIVE_MESSAGE | (last ? NATIVE_F_LAST : 0), 0, msg, index, 0);
}

static int native_end(struct channel *ch, struct call *call, uint32_t index)
{
	return put(ch, NATIVE_MESSAGE | NATIVE_F_LAST | NATIVE_F_EMPTY, 0, (struct span){0, 0}, index, 0);
}

static void native_cancel(struct channel *ch, struct call *call, uint32_t index)
{
	if (put(ch, NATIVE_CANCEL, 0, (struct span){0, 0}, index, 0))
		channel_fail(ch, -ENOMEM, "no memory to send");
}

static int native_ping(struct channel *ch)
{
	return put(ch, NATIVE_PING, 0, (struct span){0, 0}, 0, 0);
}

static bool native_gone(struct channel *ch, struct call *call, uint32_t index, bool by_server)
{
	return !by_server;
}

static int on_message(struct channel *ch, const struct native_header *h, struct span body)
{
	struct call *call = channel_find(ch, h->call);
	if (unlikely(!call))
		return channel_fail(ch, -EPROTO, "the server answered call %u, which is not in flight", h->call);
	bool last = h->flags & NATIVE_F_LAST;
	if (unlikely(call->state == CALL_ZOMBIE)) {
		if (last)
			channel_release(ch, h->call);
		return 0;
	}
	if (likely(!(h->flags & NATIVE_F_EMPTY)))
		call->ops->message(call->ctx, body);
	/* The callback may have cancelled the call, or closed the channel. */
	if (!last || ch->state == CHANNEL_CLOSING)
		return 0;
	if (unlikely(call->state == CALL_ZOMBIE))
		channel_release(ch, h->call);
	else
		channel_finish(ch, h->call, true, &(struct channel_status){GRPC_OK, {0, 0}, false});
	return 0;
}

static int on_end(struct channel *ch, const struct native_header *h, struct span body)
{
	struct call *call = channel_find(ch, h->call);
	if (!call)
		return channel_fail(ch, -EPROTO, "the server ended call %u, which is not in flight", h->call);
	if (call->state == CALL_ZOMBIE)
		channel_release(ch, h->call);
	else
		channel_finish(ch, h->call, true, &(struct channel_status){grpc_status_of(h->code), body, false});
	return 0;
}

static int on_unit(struct channel *ch, const struct native_header *h, struct span body)
{
	switch (h->kind) {
	case NATIVE_MESSAGE:
		return on_message(ch, h, body);
	case NATIVE_END:
		return on_end(ch, h, body);
	case NATIVE_GOAWAY:
		channel_set_draining(ch);
		return 0;
	case NATIVE_PONG:
		channel_set_open(ch);
		return 0;
	case NATIVE_PING:
		if (body.n > NATIVE_PING_MAX || ch->out.n > ch->queue_max)
			return channel_fail(ch, -EPROTO, "the server sent pings that are too long or too many");
		return put(ch, NATIVE_PONG, 0, body, 0, 0);
	default:
		return channel_fail(ch, -EPROTO, "the server sent a frame of kind %u, which is a client's", h->kind);
	}
}

static ssize_t native_input(struct channel *ch, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (n - at >= NATIVE_HEADER) {
		struct native_header h;
		if (unlikely(native_get(p + at, &h)))
			return channel_fail(ch, -EPROTO, "the server does not speak Ordinal's native framing");
		if (unlikely(h.len > ch->message_max))
			return channel_fail(ch, -EMSGSIZE, "the server sent a message of %u bytes; the limit is %u",
					    h.len, ch->message_max);
		if (n - at - NATIVE_HEADER < h.len) {
			ch->need = NATIVE_HEADER + h.len;
			return (ssize_t)at;
		}
		int r = on_unit(ch, &h, (struct span){p + at + NATIVE_HEADER, h.len});
		if (unlikely(r || ch->state == CHANNEL_CLOSING))
			return r ? r : (ssize_t)at;
		at += NATIVE_HEADER + h.len;
	}
	ch->need = NATIVE_HEADER;
	return (ssize_t)at;
}

const struct protocol_ops native_client_ops = {
	.init = native_init,
	.done = native_done,
	.start = native_start,
	.input = native_input,
	.call = native_call,
	.send = native_send,
	.end = native_end,
	.cancel = native_cancel,
	.ping = native_ping,
	.gone = native_gone,
};
