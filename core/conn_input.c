/* What a connection receives: the receive itself, bytes that are held, and whose turn it is; conn.h draws the rest. Runs on the owning shard.
 *
 * Bytes go to the session as they come, unless it may not have them (its output is above high water, or it has paused) or the shard has had enough: once
 * a turn has handled input for TURN_US, what is longer than SMALL is held, and its connection queues up in the shard's backlog, which is worked
 * off in slices, a turn's time at a time, with a look at the ring between. So who asks for little waits for a turn and not for everybody who asks for
 * much. Bytes of a connection keep their order: while some are held, all that come are added to them.
 *
 * What a peer can make grow here: held bytes, which are CONN_HELD_MAX and what one multishot receive had delivered by the time its cancellation is noticed. When
 * the backlog has taken BACKLOG_BYTES of memory, input is handled as it comes again.
 */
#include "core/conn_impl.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/count.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
	SMALL = 2048, /* bytes that are never put off: some ten calls */
	SLICE = 4096, /* bytes between two looks at the clock: some tens of microseconds of the smallest calls */
	LATE_MAX = 16 << 10,
};

/* The receive. */

static void recv_arm(struct conn *c)
{
	DCHECK(!c->recv_armed);
	ring_recv(c->shard->ring, c->fd, conn_tag(c, SHARD_OP_RECV));
	c->recv_armed = true;
	c->inflight++;
}

static void recv_cancel(struct conn *c)
{
	if (!c->recv_armed || c->recv_cancelling)
		return;
	ring_cancel_tag(c->shard->ring, conn_tag(c, SHARD_OP_RECV), conn_tag(c, SHARD_OP_CANCEL_RECV));
	c->recv_cancelling = true;
	c->inflight++;
}

static uint32_t held_bytes(const struct conn *c)
{
	return c->held.len - c->held.at;
}

/* Held bytes above which nothing more is received. Who waits in the backlog is received from slowly: it is us who are behind. */
static uint32_t held_max(const struct conn *c)
{
	return c->backlogged ? LATE_MAX : CONN_HELD_MAX;
}

/* Whether a receive should be armed: one that was stopped goes on when half is left. */
static bool recv_wanted(const struct conn *c)
{
	return !c->recv_eof && (c->state == CONN_OPEN || c->state == CONN_FLUSHING || c->state == CONN_LINGERING) &&
	       held_bytes(c) <= held_max(c) / 2;
}

void conn_input_start(struct conn *c)
{
	recv_arm(c);
}

void conn_input_rearm(struct conn *c)
{
	if (!c->recv_armed && !c->starved && recv_wanted(c))
		recv_arm(c);
}

void conn_input_fed(struct conn *c)
{
	c->starved = false;
	conn_input_rearm(c);
}

/* The backlog. */

static bool is_turn_over(const struct shard *s)
{
	return s->input_until_ns && clock_mono_ns() >= s->input_until_ns;
}

static bool is_backlog_full(const struct shard *s)
{
	return s->backlog_bytes >= s->opts->backlog_max;
}

/* Whether input has to wait for a later turn: the rest of this one is for others, and there is room to keep it. */
static bool is_late(const struct shard *s, size_t n)
{
	return n > SMALL && !is_backlog_full(s) && is_turn_over(s);
}

static void backlog_add(struct conn *c)
{
	if (c->backlogged)
		return;
	c->backlogged = true;
	c->shard->backlog_bytes += c->held.cap;
	TAILQ_INSERT_TAIL(&c->shard->backlog, c, backlog);
}

static void backlog_remove(struct conn *c)
{
	if (!c->backlogged)
		return;
	c->backlogged = false;
	c->shard->backlog_bytes -= c->held.cap;
	TAILQ_REMOVE(&c->shard->backlog, c, backlog);
}

void conn_input_drop(struct conn *c)
{
	backlog_remove(c);
	bufpool_put(&c->shard->pool, c->held.p, c->held.cap);
	c->held = (struct conn_held){0};
}

void conn_input_ignore(struct conn *c)
{
	conn_input_drop(c);
	conn_input_rearm(c);
}

void conn_input_taken(struct conn *c)
{
	bufpool_put(&c->shard->pool, c->held.p, c->held.cap);
	c->held = (struct conn_held){0};
	conn_input_rearm(c);
}

/* Delivery. */

/* Bytes given to the session at once. What answers a piece is some ten times as long at the most (errors have texts), and must find room above high
 * water. */
static size_t piece_max(const struct conn *c)
{
	return conn_high(c) / 4;
}

/* One turn may bring megabytes: the answers to what has been delivered already choke the connection in its middle. */
static bool may_deliver(struct conn *c)
{
	if (unlikely(conn_queued(c) > conn_high(c)))
		c->choked = true;
	return c->state == CONN_OPEN && !c->choked && !c->paused && !c->handshake;
}

void conn_input_hold(struct conn *c, const uint8_t *p, size_t n)
{
	struct conn_held *h = &c->held;
	if (h->p && h->at && h->cap - h->len < n) {
		memmove(h->p, h->p + h->at, h->len - h->at);
		h->len -= h->at;
		h->at = 0;
	}
	if (!h->p || h->cap - h->len < n) {
		uint32_t cap;
		uint8_t *bigger = bufpool_get(&c->shard->pool, h->len + n, &cap);
		if (!bigger) {
			conn_abort(c, CONN_R_MEMORY);
			return;
		}
		if (h->p)
			memcpy(bigger, h->p, h->len);
		bufpool_put(&c->shard->pool, h->p, h->cap);
		if (c->backlogged)
			c->shard->backlog_bytes += cap - h->cap;
		h->p = bigger;
		h->cap = cap;
	}
	memcpy(h->p + h->len, p, n);
	h->len += (uint32_t)n;
	if (held_bytes(c) > held_max(c))
		recv_cancel(c);
}

/* Gives bytes to the session. false: TLS has begun, and they are records, like what comes after
 * them. */
static bool give(struct conn *c, const uint8_t *p, size_t n)
{
	const struct tls *before = c->tls;
	c->ops->data(c, p, n);
	return likely(c->tls == before);
}

/* Delivers held bytes for as long as the session may take them and, unless it is to be `all` of them, the turn lasts, one slice at least; a slice at a
 * time, because each may choke the output again. */
static void deliver_held(struct conn *c, bool all)
{
	struct conn_held *h = &c->held;
	while (h->at < h->len && may_deliver(c)) {
		size_t n = h->len - h->at, most = piece_max(c) < SLICE ? piece_max(c) : SLICE;
		n = n < most ? n : most;
		const uint8_t *p = h->p + h->at;
		h->at += (uint32_t)n;
		if (unlikely(!give(c, p, n))) {
			h->at -= (uint32_t)n;
			conn_handshake_go_on(c);
			break;
		}
		if (!all && may_deliver(c) && is_late(c->shard, h->len - h->at)) {
			backlog_add(c);
			break;
		}
	}
	if (h->at == h->len && h->p) {
		bufpool_put(&c->shard->pool, h->p, h->cap);
		*h = (struct conn_held){0};
	}
	if (c->state == CONN_OPEN && !c->recv_armed && !c->starved && recv_wanted(c))
		recv_arm(c);
	if (c->state == CONN_OPEN && c->recv_eof && !c->eof_told && !h->p && may_deliver(c)) {
		c->eof_told = true;
		if (c->ops->eof)
			c->ops->eof(c);
		else
			conn_close(c);
	}
}

void conn_input_go_on(struct conn *c)
{
	if (c->state != CONN_OPEN || c->backlogged || !(c->held.p || c->recv_eof) || !may_deliver(c))
		return;
	if (is_late(c->shard, held_bytes(c)))
		backlog_add(c);
	else
		deliver_held(c, false);
}

void conn_input_finish(struct conn *c)
{
	if (!c->backlogged)
		return;
	backlog_remove(c);
	if (c->state == CONN_OPEN)
		deliver_held(c, true);
}

void conn_work_off(struct shard *s)
{
	struct conn *c;
	do {
		c = TAILQ_FIRST(&s->backlog);
		if (!c)
			return;
		backlog_remove(c);
		if (c->state == CONN_OPEN)
			deliver_held(c, false);
	} while (!is_turn_over(s));
}

void conn_receive(struct conn *c, const uint8_t *p, size_t n)
{
	if (unlikely(c->backlogged && is_backlog_full(c->shard))) {
		const struct tls *before = c->tls;
		conn_input_finish(c);
		if (c->tls != before) { /* what was held has begun TLS: these are records, too */
			conn_tls_input(c, p, n);
			return;
		}
	}
	while (likely(may_deliver(c) && !c->held.p)) {
		size_t most = piece_max(c);
		if (unlikely(is_late(c->shard, n))) {
			count_add(&c->shard->stats.put_off, 1);
			backlog_add(c);
			conn_input_hold(c, p, n);
			return;
		}
		if (unlikely(!give(c, p, n < most ? n : most))) {
			conn_tls_input(c, p, n);
			return;
		}
		if (likely(n <= most))
			return;
		p += most;
		n -= most;
	}
	if (c->state == CONN_OPEN)
		conn_input_hold(c, p, n);
}

/* Events. */

void conn_on_end(struct conn *c)
{
	c->recv_eof = true;
	if (c->state == CONN_LINGERING) {
		conn_die(c, (enum conn_reason)c->reason);
		return;
	}
	if (unlikely(c->handshake))
		conn_handshake_on_end(c);
	else
		conn_input_go_on(c);
	conn_time_ended(c);
}

/* Kernels lose the end of a connection that comes together with its last bytes: the wake-ups of both are taken for one, the multishot receive
 * delivers the bytes, and waits for ever. So a connection that has received something is asked once, when it has fallen silent. */
void conn_settle(struct conn *c)
{
	uint8_t byte;
	conn_time_deaf(c);
	if (!c->recv_armed || c->recv_eof || c->state == CONN_DEAD)
		return;
	ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n == 0)
		conn_on_end(c);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		conn_break_off(c, -errno);
}

void conn_on_recv(struct conn *c, const struct ring_event *ev)
{
	struct shard *s = c->shard;
	if (!(ev->flags & RING_EV_MORE)) {
		c->recv_armed = false;
		c->inflight--;
	}
	if (ev->res > 0) {
		const uint8_t *p = ring_buf(s->ring, ev->buf);
		count_add(&s->stats.bytes_in, (uint32_t)ev->res);
		c->active_ns = s->now_ns;
		if (unlikely(!c->unsettled))
			shard_unsettle(s, c);
		if (likely(!c->tls))
			conn_receive(c, p, (size_t)ev->res);
		else
			conn_tls_input(c, p, (size_t)ev->res);
		ring_buf_put(s->ring, ev->buf);
	} else if (ev->flags & RING_EV_BUFFER) {
		ring_buf_put(s->ring, ev->buf);
	}
	if (ev->res == 0)
		conn_on_end(c);
	else if (ev->res < 0 && ev->res != -ENOBUFS && ev->res != -ECANCELED && c->state != CONN_DEAD)
		conn_break_off(c, ev->res);
	conn_doom_if_over(c);
	if (c->recv_armed || c->starved || !recv_wanted(c))
		return;
	if (ev->res == -ENOBUFS) {
		c->starved = true;
		c->starved_next = s->starved;
		s->starved = c;
	} else {
		recv_arm(c);
	}
}

/* The session's own back-pressure. */

void conn_pause(struct conn *c)
{
	c->paused = true;
}

void conn_resume(struct conn *c)
{
	if (!c->paused)
		return;
	c->paused = false;
	/* Delivered from the flush at the end of the turn, not from inside the session's own call. Nothing is delivered to the dead: a session
	 * that ends its calls in `closed` comes by here, too. */
	if (!c->dirty && c->state != CONN_DEAD)
		conn_mark_dirty(c);
}
