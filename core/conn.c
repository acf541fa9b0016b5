/* A connection's life and its output: open, send, close. The header has the states, conn_input.c what
 * is received, conn_time.c what happens when nothing does. Runs on the owning shard.
 *
 * What a peer can make grow here, and its bound: output (opts->conn_queue_max before anything is
 * added), operations in flight (one receive, one send, two cancellations). Leaves the meaning of bytes
 * to the session, and the order of a turn to shard.c.
 */
#include "core/conn_impl.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log_limit.h"
#include "core/base/count.h"
#include "core/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	SEND_MAX =
		256
		<< 10, /* bytes of one operation, of slices too, so that a large message does not fill the queue's time */
	GATHER_MAX = 256, /* pieces of one operation */
};

struct conn_gather {
	struct msghdr msg;
	struct iovec iov[GATHER_MAX];
};

static void doom(struct conn *c);

const char *conn_reason_name(enum conn_reason why)
{
	static const char *const names[CONN_R_COUNT] = {"done",  "peer", "protocol", "timeout", "stalled",  "queue",
							"flood", "idle", "limit",    "memory",  "shutdown", "access"};
	return (unsigned)why < CONN_R_COUNT ? names[why] : "?";
}

void conn_doom_if_over(struct conn *c)
{
	if (c->state == CONN_DEAD && c->inflight == 0)
		doom(c);
}

struct conn *conn_open(struct shard *s, int fd)
{
	uint32_t slot;
	struct conn *c = slab_get(&s->conns, &slot);
	if (!c) {
		shard_refuse(s, fd);
		return NULL;
	}
	uint32_t gen = c->gen;
	bool unsettled = c->unsettled;
	memset(c, 0, sizeof *c);
	c->gen = gen;
	c->unsettled = unsettled;
	if (unsettled) /* its slot is in the list from before */
		s->unsettled_gone--;
	c->slot = slot;
	c->shard = s;
	c->fd = fd;
	c->state = CONN_OPEN;
	conn_ip_of(fd, c->ip); /* now: a connection that has broken tells no more */
	c->timer.fire = conn_time_fire;
	atomic_store_explicit(&s->conn_count, s->conns.used, memory_order_relaxed);
	count_add(&s->stats.accepted, 1);
	if (unlikely(log_get_level() == LOG_LEVEL_DEBUG)) {
		char peer[64];
		log_debug("connection %u is opened by %s", slot, conn_peer(c, peer, sizeof peer));
	}
	if (!s->opts->attach(c, s->opts->ctx)) {
		conn_die(c, CONN_R_MEMORY);
		return NULL;
	}
	conn_time_start(c);
	conn_input_start(c);
	return c;
}

/* Output. */

void conn_mark_dirty(struct conn *c)
{
	c->dirty = true;
	c->dirty_next = c->shard->dirty;
	c->shard->dirty = c;
}

size_t conn_queued(const struct conn *c)
{
	return (size_t)c->out.len + c->out.ext + c->sending.len + c->sending.ext - c->sent;
}

/* What the connection itself holds: without outside slices, whose number the sessions bound. */
static size_t own_queued(const struct conn *c)
{
	return (size_t)c->out.len + c->sending.len - (c->sending.segs ? 0 : c->sent);
}

uint8_t *conn_reserve_slow(struct conn *c, size_t n)
{
	struct conn_out *o = &c->out;
	if (c->state != CONN_OPEN)
		return NULL;
	if (own_queued(c) > c->shard->opts->conn_queue_max) {
		conn_abort(c, CONN_R_QUEUE);
		return NULL;
	}
	size_t need = (size_t)o->len + n;
	if (need < (size_t)o->cap * 2)
		need = (size_t)o->cap * 2;
	uint32_t cap;
	uint8_t *p = bufpool_get(&c->shard->pool, need, &cap);
	if (!p) {
		conn_abort(c, CONN_R_MEMORY);
		return NULL;
	}
	if (o->len)
		memcpy(p, o->p, o->len);
	bufpool_put(&c->shard->pool, o->p, o->cap);
	o->p = p;
	o->cap = cap;
	return p + o->len;
}

bool conn_write(struct conn *c, const void *p, size_t n)
{
	uint8_t *to = conn_reserve(c, n);
	if (!to)
		return false;
	memcpy(to, p, n);
	conn_commit(c, n);
	return true;
}

static bool out_add_segment(struct conn_out *o, const struct conn_segment *seg)
{
	if (o->segs == o->segs_cap) {
		uint32_t cap = o->segs_cap ? o->segs_cap * 2 : 16;
		struct conn_segment *more = realloc(o->seg, cap * sizeof *more);
		if (!more)
			return false;
		o->seg = more;
		o->segs_cap = cap;
	}
	o->seg[o->segs++] = *seg;
	return true;
}

/* Own bytes written since the last segment become one. */
static bool out_seal(struct conn_out *o)
{
	if (o->seg_own == o->len)
		return true;
	struct conn_segment seg = {.ext = {.n = o->len - o->seg_own}, .own = o->seg_own};
	o->seg_own = o->len;
	return out_add_segment(o, &seg);
}

bool conn_write_slice(struct conn *c, const struct conn_slice *s)
{
	struct conn_out *o = &c->out;
	if (c->state == CONN_OPEN && conn_queued(c) > c->shard->opts->conn_queue_max)
		conn_abort(c, CONN_R_QUEUE);
	if (c->state == CONN_OPEN && (!out_seal(o) || !out_add_segment(o, &(struct conn_segment){.ext = *s})))
		conn_abort(c, CONN_R_MEMORY);
	if (c->state != CONN_OPEN) {
		if (s->release)
			s->release(s->owner);
		return false;
	}
	o->ext += s->n;
	if (!c->dirty)
		conn_mark_dirty(c);
	return true;
}

void conn_out_reset(struct conn *c, struct conn_out *o)
{
	for (uint32_t i = 0; i < o->segs; i++) {
		if (o->seg[i].ext.p && o->seg[i].ext.release)
			o->seg[i].ext.release(o->seg[i].ext.owner);
	}
	bufpool_put(&c->shard->pool, o->p, o->cap);
	free(o->seg);
	*o = (struct conn_out){0};
}

static void send_gathered(struct conn *c)
{
	struct conn_gather *g = c->gather;
	if (!g && !(g = c->gather = calloc(1, sizeof *g))) {
		conn_abort(c, CONN_R_MEMORY);
		return;
	}
	const struct conn_out *o = &c->sending;
	size_t skip = c->sent, total = 0;
	unsigned n = 0;
	for (uint32_t i = 0; i < o->segs && n < GATHER_MAX && total < SEND_MAX; i++) {
		const struct conn_segment *seg = &o->seg[i];
		if (skip >= seg->ext.n) {
			skip -= seg->ext.n;
			continue;
		}
		const uint8_t *p = seg->ext.p ? seg->ext.p : o->p + seg->own;
		size_t left = seg->ext.n - skip;
		g->iov[n].iov_base = (void *)(uintptr_t)(p + skip);
		g->iov[n].iov_len = left < SEND_MAX - total ? left : SEND_MAX - total;
		total += g->iov[n++].iov_len;
		skip = 0;
	}
	g->msg = (struct msghdr){.msg_iov = g->iov, .msg_iovlen = n};
	ring_sendmsg(c->shard->ring, c->fd, &g->msg, conn_tag(c, SHARD_OP_SEND));
	c->inflight++;
}

static void send_more(struct conn *c)
{
	const struct conn_out *o = &c->sending;
	if (o->segs) {
		send_gathered(c);
	} else {
		uint32_t n = o->len - c->sent;
		ring_send(c->shard->ring, c->fd, o->p + c->sent, n < SEND_MAX ? n : SEND_MAX,
			  conn_tag(c, SHARD_OP_SEND));
		c->inflight++;
	}
	count_add(&c->shard->stats.sends, 1);
	conn_time_sending(c);
}

/* All output has gone: the good end of FLUSHING. */
static void finish(struct conn *c)
{
	if (c->recv_eof || c->unwaited) {
		conn_die(c, (enum conn_reason)c->reason);
		return;
	}
	shutdown(c->fd, SHUT_WR);
	c->state = CONN_LINGERING;
	conn_time_linger(c);
}

static void flush(struct conn *c)
{
	c->dirty = false;
	if (c->state == CONN_OPEN)
		conn_input_go_on(c);
	if (c->state == CONN_FLUSHING) {
		conn_input_ignore(c);
		conn_handshake_drop(c);
	}
	if (c->state == CONN_DEAD || c->state == CONN_LINGERING || conn_is_sending(c) ||
	    c->handshake == CONN_HANDSHAKE_AWAY)
		return;
	if (c->out.len + c->out.ext && c->out.segs && !out_seal(&c->out)) {
		conn_abort(c, CONN_R_MEMORY);
		return;
	}
	if (unlikely(c->tls != NULL)) {
		if (!conn_tls_seal(c)) {
			conn_abort(c, CONN_R_MEMORY);
			return;
		}
	} else {
		c->sending = c->out;
		c->out = (struct conn_out){0};
	}
	if (conn_is_sending(c)) {
		c->sent = 0;
		send_more(c);
		if (conn_queued(c) > conn_high(c))
			c->choked = true;
	} else if (c->state == CONN_FLUSHING) {
		finish(c);
	}
}

void conn_on_send(struct conn *c, const struct ring_event *ev)
{
	c->inflight--;
	if (c->state == CONN_DEAD) {
		conn_doom_if_over(c);
		return;
	}
	if (ev->res <= 0) {
		conn_break_off(c, ev->res);
		return;
	}
	c->sent += (uint32_t)ev->res;
	c->bytes_sent += (uint32_t)ev->res;
	count_add(&c->shard->stats.bytes_out, (uint32_t)ev->res);
	if (c->sent < c->sending.len + c->sending.ext) {
		send_more(c);
		return;
	}
	conn_out_reset(c, &c->sending);
	c->sent = 0;
	if (c->out.len + c->out.ext || c->state == CONN_FLUSHING || c->choked || conn_tls_has_output(c)) {
		if (!c->dirty)
			conn_mark_dirty(c);
	}
	if ((c->choked || c->wants_writable) && conn_queued(c) <= conn_low_water(c->shard->opts->conn_queue_max)) {
		c->choked = c->wants_writable = false;
		if (c->state == CONN_OPEN && c->ops->writable)
			c->ops->writable(c);
	}
}

void conn_on_cancel(struct conn *c, const struct ring_event *ev)
{
	c->inflight--;
	if (ring_tag_kind(ev->tag) == SHARD_OP_CANCEL_RECV)
		c->recv_cancelling = false;
	conn_doom_if_over(c);
}

/* Ending. */

static void doom(struct conn *c)
{
	if (c->doomed)
		return;
	c->doomed = true;
	c->doomed_next = c->shard->doomed;
	c->shard->doomed = c;
}

void conn_die(struct conn *c, enum conn_reason why)
{
	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_DEAD;
	c->reason = (uint8_t)why;
	doom(c);
}

/* TCP_USER_TIMEOUT may run out: a send that has been under way all the time ends with EPIPE then, where
 * a reset would be ECONNRESET. */
void conn_break_off(struct conn *c, int err)
{
	bool stalled = err == -ETIMEDOUT || (err == -EPIPE && c->choked && !c->recv_armed);
	enum conn_reason why = stalled ? CONN_R_STALLED : CONN_R_PEER;
	conn_die(c, c->state == CONN_OPEN ? why : (enum conn_reason)c->reason);
}

void conn_abort(struct conn *c, enum conn_reason why)
{
	conn_die(c, why);
}

void conn_close(struct conn *c)
{
	if (c->state != CONN_OPEN)
		return;
	c->state = CONN_FLUSHING;
	if (!c->dirty)
		conn_mark_dirty(c);
}

void conn_close_now(struct conn *c)
{
	c->unwaited = true;
	conn_close(c);
}

/* What it had sent before is heard first. */
void conn_drain(struct conn *c)
{
	conn_input_finish(c);
	if (c->state == CONN_OPEN)
		c->ops->drain(c);
}

/* When all of the connections that might have to be asked are free again, the shard need not wake up to ask. */
static void forget_unsettled(struct conn *c)
{
	struct shard *s = c->shard;
	if (!c->unsettled || ++s->unsettled_gone < s->unsettled_count)
		return;
	for (uint32_t i = 0; i < s->unsettled_count; i++)
		((struct conn *)slab_at(&s->conns, s->unsettled[i]))->unsettled = false;
	s->unsettled_count = s->unsettled_gone = 0;
	wheel_del(&s->wheel, &s->settle_timer);
}

static void conn_free(struct conn *c)
{
	struct shard *s = c->shard;
	conn_out_reset(c, &c->out);
	conn_out_reset(c, &c->sending);
	conn_input_drop(c);
	free(c->gather);
	conn_handshake_free(c);
	close(c->fd);
	log_debug("connection %u has ended: %s; %llu bytes were sent to it", c->slot, conn_reason_name(c->reason),
		  (unsigned long long)c->bytes_sent);
	count_add(&s->stats.ended[c->reason], 1);
	c->state = CONN_FREE;
	c->gen = (c->gen + 1) & 0xffffff;
	forget_unsettled(c);
	slab_put(&s->conns, c->slot);
	atomic_store_explicit(&s->conn_count, s->conns.used, memory_order_relaxed);
}

/* A doomed one. Comes by twice if operations are in flight: to cancel them, and after the last completion. */
static void bury(struct conn *c)
{
	if (c->ops) {
		const struct conn_ops *ops = c->ops;
		c->ops = NULL;
		wheel_del(&c->shard->wheel, &c->timer);
		conn_handshake_drop(c);
		if (ops->closed)
			ops->closed(c);
		if (c->inflight) {
			ring_cancel_fd(c->shard->ring, c->fd, conn_tag(c, SHARD_OP_CANCEL));
			c->inflight++;
		}
	}
	if (c->inflight == 0 && !c->starved && !c->dirty)
		conn_free(c);
	else
		c->doomed = false; /* comes back when its last completion does */
}

void conn_flush_all(struct shard *s)
{
	while (s->dirty) {
		struct conn *c = s->dirty;
		s->dirty = c->dirty_next;
		flush(c);
	}
	struct conn *starved = s->starved;
	s->starved = NULL;
	for (struct conn *next; starved; starved = next) {
		next = starved->starved_next;
		conn_input_fed(starved);
	}
	while (s->doomed) {
		struct conn *c = s->doomed;
		s->doomed = c->doomed_next;
		bury(c);
	}
}

void conn_log_close(struct conn *c, const char *what)
{
	static struct log_limit said;
	unsigned long long more;
	char peer[64];
	if (log_limit_pass(&said, "closing a connection for what its peer did", &more))
		log_info("closing %s: %s (%llu more such in the burst before)", conn_peer(c, peer, sizeof peer), what,
			 more);
}

void conn_ip_of(int fd, uint64_t ret[2])
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;
	uint8_t ip[16] = {0};
	if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0 && ss.ss_family == AF_INET) {
		ip[10] = ip[11] = 0xff;
		memcpy(ip + 12, &((const struct sockaddr_in *)&ss)->sin_addr, 4);
	} else if (ss.ss_family == AF_INET6) {
		memcpy(ip, &((const struct sockaddr_in6 *)&ss)->sin6_addr, 16);
	}
	memcpy(ret, ip, sizeof ip);
}

const char *conn_peer(const struct conn *c, char *buf, size_t cap)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;
	char host[INET6_ADDRSTRLEN] = "";
	if (getpeername(c->fd, (struct sockaddr *)&ss, &len)) {
		snprintf(buf, cap, "(gone)");
	} else if (ss.ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)&ss;
		inet_ntop(AF_INET, &a->sin_addr, host, sizeof host);
		snprintf(buf, cap, "%s:%u", host, ntohs(a->sin_port));
	} else if (ss.ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&ss;
		inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof host);
		snprintf(buf, cap, "[%s]:%u", host, ntohs(a->sin6_port));
	} else {
		snprintf(buf, cap, "local");
	}
	return buf;
}
