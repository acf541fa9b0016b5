/* A connection's life and its calls, below the protocols: connecting, bytes out and in, deadlines, the end.
 *
 *   channel_connect -> CONNECTING -on_connect-> STARTING -channel_set_open-> OPEN -channel_set_draining-> DRAINING
 *   channel_adopt   ------------------------------^                              \______ channel_fail ______/
 *                                                                                             v
 *                                          channel_bury <-(no completion owed)- CLOSING
 *
 * Invariants: at most one send is in flight, of `wire`, while `out` fills; a receive is armed from STARTING on; a channel in CLOSING has no
 * open call, starts none and touches no protocol state. Any callback may close the channel: code that goes on after one looks at `state`.
 *
 * Deadlines: calls of a channel mostly have the same timeout, so instead of a timer a call there is one a channel, set to a lower bound of all
 * deadlines (sweep_ns); when it fires, all calls are looked at. Starting a call costs one comparison.
 *
 * Runs on the client's thread; leaves framing to native_client.c and h2_client.c, and TLS, which lies between them and the socket, to
 * channel_tls.c. */
#include "rpc/client/channel_impl.h"

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/tls.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OP_CONNECT = 1, OP_RECV, OP_SEND, OP_CANCEL };

#define CALLS_DEFAULT 1024u
#define MESSAGE_DEFAULT (4u << 20)
#define QUEUE_DEFAULT (4u << 20)
#define CONNECT_DEFAULT (5 * NS_PER_S)
#define KEEPALIVE_DEFAULT (10 * NS_PER_S)
#define OUT_FIRST 4096u

int channel_buf_grow(struct channel_buf *b, size_t n)
{
	size_t cap = b->cap ? b->cap : OUT_FIRST;
	while (cap - b->n < n) {
		if (cap > SIZE_MAX / 2)
			return -ENOMEM;
		cap *= 2;
	}
	uint8_t *p = realloc(b->p, cap);
	if (!p)
		return -ENOMEM;
	b->p = p;
	b->cap = cap;
	return 0;
}

int channel_buf_add(struct channel_buf *b, const void *p, size_t n)
{
	if (b->cap - b->n < n && channel_buf_grow(b, n))
		return -ENOMEM;
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	return 0;
}

void channel_buf_free(struct channel_buf *b)
{
	free(b->p);
	*b = (struct channel_buf){0};
}

static uint64_t tag(const struct channel *ch, uint8_t kind)
{
	return ring_tag(ch->index, ch->gen, kind);
}

static void arm_recv(struct channel *ch)
{
	ring_recv(ch->client->ring, ch->fd, tag(ch, OP_RECV));
	ch->recv_armed = true;
	ch->ops_in_flight++;
}

static void close_if_drained(struct channel *ch)
{
	if (ch->state == CHANNEL_DRAINING && ch->calls.used == ch->zombies)
		channel_fail(ch, 0, "the server is going away");
}

static void note_deadline(struct channel *ch, uint64_t deadline_ns)
{
	if (likely(deadline_ns >= ch->sweep_ns))
		return;
	ch->sweep_ns = deadline_ns;
	wheel_add(&ch->client->wheel, &ch->sweep, deadline_ns);
}

/* Ends a call from our side. Without memory to tell the server, the whole channel has failed, and the call with it. */
static void abandon(struct channel *ch, uint32_t index, unsigned code)
{
	ch->ops->cancel(ch, channel_slot(ch, index), index);
	if (likely(ch->state != CHANNEL_CLOSING))
		channel_finish(ch, index, false, &(struct channel_status){code, {0, 0}, false});
}

/* The earliest thing that may be due: the end of connecting, or a call's deadline. */
static void sweep_fire(struct timer *t, void *ctx)
{
	struct client *c = ctx;
	struct channel *ch = container_of(t, struct channel, sweep);
	if (ch->state < CHANNEL_OPEN) {
		channel_fail(ch, -ETIMEDOUT,
			     ch->state == CHANNEL_CONNECTING ? "the connection was not accepted in time"
							     : "the server did not answer the greeting in time");
		return;
	}
	/* Calls that are started from here on, by `done`, set the timer themselves. */
	uint64_t next = UINT64_MAX;
	ch->sweep_ns = UINT64_MAX;
	for (uint32_t i = 0; i < ch->calls.made && ch->state < CHANNEL_CLOSING; i++) {
		struct call *call = channel_slot(ch, i);
		if (call->state != CALL_OPEN)
			continue;
		if (call->deadline_ns <= c->now_ns) {
			abandon(ch, i, GRPC_DEADLINE_EXCEEDED);
		} else if (call->deadline_ns < next) {
			next = call->deadline_ns;
		}
	}
	if (ch->state < CHANNEL_CLOSING)
		note_deadline(ch, next);
	close_if_drained(ch);
}

/* A peer whose machine or network is gone sends no end of the connection: a server that is silent while calls wait is
 * asked whether it is there. A channel without calls asks nothing: whether its server is there shows with the next call. */
static void keepalive_fire(struct timer *t, void *ctx)
{
	struct client *c = ctx;
	struct channel *ch = container_of(t, struct channel, keepalive);
	uint64_t quiet_ns = c->now_ns - ch->heard_ns, next_ns = c->now_ns + ch->keepalive_ns;
	if (quiet_ns < ch->keepalive_ns) {
		next_ns = ch->heard_ns + ch->keepalive_ns;
	} else if (channel_calls(ch) == 0) {
		ch->doubt = CHANNEL_SURE;
	} else if (ch->doubt == CHANNEL_SURE) {
		ch->doubt = CHANNEL_PINGED;
		if (ch->ops->ping(ch) != 0) {
			channel_fail(ch, -ENOMEM, "no memory to send");
			return;
		}
	} else if (ch->doubt == CHANNEL_PINGED) {
		/* This process may have been asleep, and the answer may lie in the ring: a turn reaps before it is late. */
		ch->doubt = CHANNEL_OVERDUE;
		next_ns = c->now_ns + NS_PER_MS;
	} else {
		channel_fail(ch, -ETIMEDOUT,
			     "the server has not been heard of for %" PRIu64 " s, nor has it answered a PING",
			     quiet_ns / NS_PER_S);
		return;
	}
	wheel_add(&c->wheel, &ch->keepalive, next_ns);
}

static int set_token(struct channel *ch, const char *token)
{
	size_t n = strlen(token);
	if (n == 0 || n > CHANNEL_TOKEN_MAX)
		return -EINVAL;
	ch->bearer = malloc(CHANNEL_BEARER + n + 1);
	if (!ch->bearer)
		return -ENOMEM;
	memcpy(ch->bearer, "Bearer ", CHANNEL_BEARER);
	memcpy(ch->bearer + CHANNEL_BEARER, token, n + 1);
	return 0;
}

static int channel_new(struct client *c, const struct channel_opts *o, const struct channel_events *events, void *ctx,
		       int fd, struct channel **ret)
{
	uint32_t index;
	struct channel *ch = slab_get(&c->channels, &index);
	if (!ch)
		return c->channels.used >= c->channels.max ? -ENOSPC : -ENOMEM;
	uint32_t gen = ch->gen + 1;
	*ch = (struct channel){
		.ops = o->protocol == CHANNEL_GRPC ? &h2_client_ops : &native_client_ops,
		.fd = fd,
		.index = index,
		.gen = gen,
		.sweep_ns = UINT64_MAX,
		.calls_max = o->calls_max ? o->calls_max : CALLS_DEFAULT,
		.message_max = o->message_max ? o->message_max : MESSAGE_DEFAULT,
		.queue_max = o->queue_max ? o->queue_max : QUEUE_DEFAULT,
		.events = events,
		.ctx = ctx,
		.sweep.fire = sweep_fire,
		.keepalive.fire = keepalive_fire,
		.keepalive_ns = o->keepalive_ns ? o->keepalive_ns : KEEPALIVE_DEFAULT,
		.authority = strdup(o->authority ? o->authority : "localhost"),
	};
	ch->calls_limit = ch->calls_max;
	int r = ch->authority ? 0 : -ENOMEM;
	if (r == 0 && o->token)
		r = set_token(ch, o->token);
	if (r == 0)
		r = slab_init(&ch->calls, sizeof(struct call), ch->calls_max);
	if (r)
		goto out_free;
	if (o->tls && (r = channel_tls_init(ch, o)))
		goto out_calls;
	r = ch->ops->init(ch);
	if (r)
		goto out_calls;
	ch->client = c;
	wheel_add(&c->wheel, &ch->sweep,
		  clock_mono_ns() + (o->connect_timeout_ns ? o->connect_timeout_ns : CONNECT_DEFAULT));
	*ret = ch;
	return 0;

out_calls:
	tls_free(ch->tls);
	slab_done(&ch->calls);
out_free:
	free(ch->authority);
	free(ch->bearer);
	ch->authority = ch->bearer = NULL;
	slab_put(&c->channels, index);
	return r;
}

int channel_connect(struct client *c, const struct channel_opts *opts, const struct sockaddr *addr, socklen_t len,
		    const struct channel_events *events, void *ctx, struct channel **ret)
{
	struct channel *ch;
	int one = 1, fd;
	if (len > sizeof ch->addr)
		return -EINVAL;
	fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (addr->sa_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	int r = channel_new(c, opts, events, ctx, fd, &ch);
	if (r) {
		close(fd);
		return r;
	}
	memcpy(&ch->addr, addr, len);
	ring_connect(c->ring, fd, (struct sockaddr *)&ch->addr, len, tag(ch, OP_CONNECT));
	ch->ops_in_flight++;
	*ret = ch;
	return 0;
}

static void start(struct channel *ch)
{
	ch->state = CHANNEL_STARTING;
	arm_recv(ch);
	if (ch->tls)
		channel_tls_start(ch);
	if (ch->state == CHANNEL_STARTING)
		ch->ops->start(ch);
}

int channel_adopt(struct client *c, const struct channel_opts *opts, int fd, const struct channel_events *events,
		  void *ctx, struct channel **ret)
{
	struct channel *ch;
	int r = channel_new(c, opts, events, ctx, fd, &ch);
	if (r)
		return r;
	/* An operation that does nothing, so that `opened` comes from a turn and never from inside this call. */
	ring_cancel_tag(c->ring, tag(ch, 0), tag(ch, OP_CONNECT));
	ch->ops_in_flight++;
	*ret = ch;
	return 0;
}

void channel_set_open(struct channel *ch)
{
	if (ch->state != CHANNEL_STARTING)
		return;
	ch->state = CHANNEL_OPEN;
	wheel_del(&ch->client->wheel, &ch->sweep);
	if (ch->keepalive_ns != UINT64_MAX)
		wheel_add(&ch->client->wheel, &ch->keepalive, ch->client->now_ns + ch->keepalive_ns);
	ch->events->opened(ch->ctx, ch);
}

void channel_set_draining(struct channel *ch)
{
	if (ch->state < CHANNEL_OPEN) {
		channel_fail(ch, -ECONNREFUSED, "the server is going away");
		return;
	}
	if (ch->state != CHANNEL_OPEN)
		return;
	ch->state = CHANNEL_DRAINING;
	if (ch->events->draining)
		ch->events->draining(ch->ctx, ch);
	close_if_drained(ch);
}

void channel_set_worn_out(struct channel *ch)
{
	ch->state = CHANNEL_DRAINING;
	note_deadline(ch, ch->client->now_ns); /* sweep_fire closes it if it has no calls */
}

int channel_fail(struct channel *ch, int err, const char *why, ...)
{
	if (ch->state == CHANNEL_CLOSING)
		return err;
	va_list ap;
	va_start(ap, why);
	vsnprintf(ch->why, sizeof ch->why, why, ap);
	va_end(ap);
	text_make_printable(ch->why); /* some of it may be the server's */
	struct client *c = ch->client;
	ch->state = CHANNEL_CLOSING;
	ch->err = err;
	wheel_del(&c->wheel, &ch->sweep);
	wheel_del(&c->wheel, &ch->keepalive);
	if (ch->ops_in_flight > 0) {
		ring_cancel_fd(c->ring, ch->fd, tag(ch, OP_CANCEL));
		ch->ops_in_flight++;
	}
	c->dying[c->dying_n++] = ch;
	struct channel_status gone = {GRPC_UNAVAILABLE, {(const uint8_t *)ch->why, strlen(ch->why)}, false};
	for (uint32_t i = 0; i < ch->calls.made; i++)
		if (channel_slot(ch, i)->state == CALL_OPEN)
			channel_finish(ch, i, true, &gone);
	return err;
}

void channel_close(struct channel *ch)
{
	channel_fail(ch, 0, "closed by this program");
}

void channel_bury(struct channel *ch)
{
	struct client *c = ch->client;
	if (ch->tls)
		channel_tls_goodbye(ch);
	close(ch->fd);
	ch->events->closed(ch->ctx, ch, ch->err, ch->why);
	ch->ops->done(ch);
	slab_done(&ch->calls);
	channel_buf_free(&ch->out);
	channel_buf_free(&ch->wire);
	channel_buf_free(&ch->part);
	free(ch->authority);
	free(ch->bearer);
	tls_free(ch->tls);
	ch->client = NULL;
	slab_put(&c->channels, ch->index);
}

void channel_flush(struct channel *ch)
{
	if (ch->is_sending || ch->state < CHANNEL_STARTING || ch->state == CHANNEL_CLOSING)
		return;
	if (unlikely(ch->tls != NULL)) {
		if (!channel_tls_seal(ch))
			return;
	} else if (ch->out.n > 0) {
		struct channel_buf was = ch->wire;
		ch->wire = ch->out;
		ch->out = was;
		ch->out.n = 0;
	} else {
		return;
	}
	ch->sent = 0;
	ch->is_sending = true;
	ring_send(ch->client->ring, ch->fd, ch->wire.p, ch->wire.n, tag(ch, OP_SEND));
	ch->ops_in_flight++;
}

static void on_sent(struct channel *ch, int32_t res)
{
	if (ch->state == CHANNEL_CLOSING) {
		ch->is_sending = res < 0 || ch->sent + (size_t)res < ch->wire.n;
		return;
	}
	if (unlikely(res < 0)) {
		channel_fail(ch, res, "sending failed: %s", strerror(-res));
		return;
	}
	ch->sent += (size_t)res;
	if (unlikely(ch->sent < ch->wire.n)) {
		ring_send(ch->client->ring, ch->fd, ch->wire.p + ch->sent, ch->wire.n - ch->sent, tag(ch, OP_SEND));
		ch->ops_in_flight++;
		return;
	}
	ch->is_sending = false;
	if ((ch->out.n > 0 || (ch->tls && channel_tls_has_output(ch))) && !ch->is_dirty)
		channel_mark_dirty(ch);
}

/* Completes the cut unit in `part` from the bytes at *p, until it is consumed or the bytes are used up. */
static int feed_part(struct channel *ch, const uint8_t **p, size_t *n)
{
	while (ch->part.n > 0 && *n > 0) {
		size_t take = ch->need - ch->part.n;
		if (take > *n)
			take = *n;
		if (channel_buf_add(&ch->part, *p, take))
			return channel_fail(ch, -ENOMEM, "no memory for a message");
		*p += take;
		*n -= take;
		if (ch->part.n < ch->need)
			return 0;
		ssize_t used = ch->ops->input(ch, ch->part.p, ch->part.n);
		if (used < 0 || ch->state == CHANNEL_CLOSING)
			return -ECANCELED;
		/* Either the unit was whole and is consumed, or only its header was, and `need` has grown. */
		DCHECK(used == 0 || (size_t)used == ch->part.n);
		if (used > 0)
			ch->part.n = 0;
	}
	return 0;
}

void channel_feed(struct channel *ch, const uint8_t *p, size_t n)
{
	if (ch->part.n > 0 && feed_part(ch, &p, &n))
		return;
	if (n == 0)
		return;
	ssize_t used = ch->ops->input(ch, p, n);
	if (used < 0 || ch->state == CHANNEL_CLOSING || (size_t)used == n)
		return;
	if (channel_buf_add(&ch->part, p + used, n - (size_t)used))
		channel_fail(ch, -ENOMEM, "no memory for a message");
}

/* What may explain an end so early. */
static const char *when(const struct channel *ch)
{
	if (ch->state != CHANNEL_STARTING)
		return "";
	if (!ch->tls)
		return " without a greeting (it may want TLS)";
	return tls_is_ready(ch->tls) ? " after the TLS handshake (it may want another certificate)"
				     : " in the TLS handshake (it may not speak TLS)";
}

static void on_recv(struct channel *ch, const struct ring_event *ev)
{
	struct ring *ring = ch->client->ring;
	if (ev->flags & RING_EV_BUFFER) {
		ch->heard_ns = ch->client->now_ns;
		ch->doubt = CHANNEL_SURE;
		if (ev->res > 0 && ch->state != CHANNEL_CLOSING)
			(unlikely(ch->tls != NULL) ? channel_tls_input : channel_feed)(ch, ring_buf(ring, ev->buf),
										       (size_t)ev->res);
		ring_buf_put(ring, ev->buf);
	}
	if (ch->state == CHANNEL_CLOSING)
		return;
	if (unlikely(ev->res == 0))
		channel_fail(ch, -ECONNRESET, "the server closed the connection%s", when(ch));
	else if (unlikely(ev->res < 0 && ev->res != -ENOBUFS))
		channel_fail(ch, ev->res, "receiving failed%s: %s", when(ch), strerror(-ev->res));
	else if (!ch->recv_armed)
		arm_recv(ch);
}

static void on_connect(struct channel *ch, int32_t res)
{
	if (ch->state == CHANNEL_CLOSING)
		return;
	/* -ENOENT is what the do-nothing cancel of channel_adopt completes with. */
	if (res < 0 && !(res == -ENOENT && ch->addr.ss_family == AF_UNSPEC))
		channel_fail(ch, res, "%s", strerror(-res));
	else
		start(ch);
}

void channel_event(struct channel *ch, const struct ring_event *ev)
{
	if (!(ev->flags & RING_EV_MORE)) {
		ch->ops_in_flight--;
		if (ring_tag_kind(ev->tag) == OP_RECV)
			ch->recv_armed = false;
	}
	switch (ring_tag_kind(ev->tag)) {
	case OP_RECV:
		on_recv(ch, ev);
		break;
	case OP_SEND:
		on_sent(ch, ev->res);
		break;
	case OP_CONNECT:
		on_connect(ch, ev->res);
		break;
	default: /* OP_CANCEL: counted above */
		break;
	}
}

static int not_open(const struct channel *ch)
{
	return ch->state < CHANNEL_OPEN ? -ENOTCONN : -ESHUTDOWN;
}

static inline int begin(struct channel *ch, unsigned method, struct span path, struct span request, uint64_t timeout_ns,
			unsigned flags, const struct channel_call_ops *ops, void *ctx, uint32_t *ret_call)
{
	if (unlikely(ch->state != CHANNEL_OPEN))
		return not_open(ch);
	if (unlikely(ch->calls.used >= ch->calls_limit || ch->out.n > ch->queue_max))
		return -EAGAIN;
	uint32_t index;
	struct call *call = slab_get(&ch->calls, &index);
	if (unlikely(!call))
		return -ENOMEM;
	*call = (struct call){.ops = ops,
			      .ctx = ctx,
			      .deadline_ns = UINT64_MAX,
			      .state = CALL_OPEN,
			      .ended = !(flags & CHANNEL_MORE)};
	int r = ch->ops->call(ch, call, index, method, path, request, timeout_ns, call->ended);
	if (unlikely(r)) {
		call->state = CALL_FREE;
		slab_put(&ch->calls, index);
		return r;
	}
	if (timeout_ns) {
		call->deadline_ns = timeout_ns < UINT64_MAX - ch->client->now_ns ? ch->client->now_ns + timeout_ns
										 : UINT64_MAX;
		note_deadline(ch, call->deadline_ns);
	}
	if (ret_call)
		*ret_call = index;
	return 0;
}

int channel_call(struct channel *ch, unsigned method, struct span request, uint64_t timeout_ns, unsigned flags,
		 const struct channel_call_ops *ops, void *ctx, uint32_t *ret_call)
{
	if (unlikely(method == 0 || method >= METHOD_COUNT))
		return ch->state == CHANNEL_OPEN ? -EINVAL : not_open(ch);
	return begin(ch, method, (struct span){0, 0}, request, timeout_ns, flags, ops, ctx, ret_call);
}

int channel_call_method(struct channel *ch, const struct channel_method *method, struct span request,
			uint64_t timeout_ns, unsigned flags, const struct channel_call_ops *ops, void *ctx,
			uint32_t *ret_call)
{
	if (method->path.n == 0 || method->path.n > CHANNEL_PATH_MAX || method->path.p[0] != '/')
		return ch->state == CHANNEL_OPEN ? -EINVAL : not_open(ch);
	return begin(ch, method->number, method->path, request, timeout_ns, flags, ops, ctx, ret_call);
}

int channel_call_send(struct channel *ch, uint32_t index, struct span msg, unsigned flags)
{
	if (unlikely(ch->state == CHANNEL_CLOSING))
		return -EPIPE;
	struct call *call = channel_slot(ch, index);
	DCHECK(call->state == CALL_OPEN);
	if (call->ended)
		return -EPIPE;
	if (ch->out.n > ch->queue_max)
		return -EAGAIN;
	bool last = !(flags & CHANNEL_MORE);
	int r = ch->ops->send(ch, call, index, msg, last);
	if (r == 0)
		call->ended = last;
	return r;
}

int channel_call_end(struct channel *ch, uint32_t index)
{
	if (ch->state == CHANNEL_CLOSING)
		return -EPIPE;
	struct call *call = channel_slot(ch, index);
	DCHECK(call->state == CALL_OPEN);
	if (call->ended)
		return -EPIPE;
	int r = ch->ops->end(ch, call, index);
	if (r == 0)
		call->ended = true;
	return r;
}

void channel_call_cancel(struct channel *ch, uint32_t index)
{
	if (ch->state == CHANNEL_CLOSING)
		return;
	DCHECK(channel_slot(ch, index)->state == CALL_OPEN);
	abandon(ch, index, GRPC_CANCELLED);
}

void channel_finish(struct channel *ch, uint32_t index, bool by_server, const struct channel_status *status)
{
	struct call *call = channel_slot(ch, index);
	const struct channel_call_ops *ops = call->ops;
	void *ctx = call->ctx;
	if (unlikely(ch->ops->gone(ch, call, index, by_server))) {
		call->state = CALL_ZOMBIE;
		ch->zombies++;
	} else {
		call->state = CALL_FREE;
		slab_put(&ch->calls, index);
	}
	ops->done(ctx, status);
	if (unlikely(ch->state == CHANNEL_DRAINING))
		close_if_drained(ch);
}

void channel_release(struct channel *ch, uint32_t index)
{
	channel_slot(ch, index)->state = CALL_FREE;
	slab_put(&ch->calls, index);
	ch->zombies--;
}

uint32_t channel_calls_limit(const struct channel *ch)
{
	return ch->calls_limit < ch->calls_max ? ch->calls_limit : ch->calls_max;
}

uint32_t channel_calls(const struct channel *ch)
{
	return ch->calls.used - ch->zombies;
}

bool channel_is_open(const struct channel *ch)
{
	return ch->state == CHANNEL_OPEN;
}
