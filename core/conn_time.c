/* A connection's time: a peer that takes no output, a peer that has closed its side, and a connection
 * that is idle. conn.h draws the rest. Runs on the owning shard.
 *
 * One timer serves all of these. It fires when the first of them has to be looked at, and is brought
 * forward when a send begins.
 *
 *  - Stalled. While a send is under way, or the kernel has bytes that the peer has not acknowledged,
 *    the peer must take some within stall_ns. What counts is what the peer's kernel acknowledges, also
 *    in the middle of a send: so a slow reader of one large message is not taken for a stalled one,
 *    and a machine that has vanished is not taken for a reader because the kernel still had room.
 *  - Ended. A peer that has closed its sending half may still read its answers; or it has gone
 *    altogether, which looks the same. So when nothing has moved for PROBE_NS, the session writes
 *    something harmless (`probe`): a peer that has gone answers it with a reset. And when nothing has
 *    moved for stall_ns, the session gives up what is in flight (`abandon`). Of a connection that is
 *    not being received from, because its session has paused, the kernel is asked whether the end has
 *    come.
 *  - Idle. Nothing was received for idle_ns and no call is in flight: the connection drains.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/conn_impl.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h> /* netinet/tcp.h lacks tcpi_bytes_acked */
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define LINGER_NS NS_PER_S        /* fixed: the peer has been answered, and its place is wanted */
#define PROBE_NS NS_PER_S         /* fixed: an answer that is under way mostly leaves before, and is a probe itself */
#define ECHO_NS (100 * NS_PER_MS) /* after a probe: when its reset will mostly have come */
#define LOOKS 4                   /* within stall_ns */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t stall_ns(const struct conn *c)
{
	return c->shard->opts->stall_ns;
}

static uint64_t probe_ns(const struct conn *c)
{
	return least(PROBE_NS, stall_ns(c) / LOOKS);
}

/* When something last moved, in either direction. */
static uint64_t moved_ns(const struct conn *c)
{
	return c->moved_ns > c->active_ns ? c->moved_ns : c->active_ns;
}

/* Nothing is received from it, although its end has not been seen. */
static bool is_deaf(const struct conn *c)
{
	return c->state == CONN_OPEN && !c->recv_armed && !c->recv_eof && !c->starved;
}

static bool has_ended(const struct conn *c)
{
	return c->state == CONN_OPEN && c->ended_ns;
}

/* How long a peer that has ended may be still. A probe moves as well, after probe_ns without anything. */
static uint64_t patience_ns(const struct conn *c)
{
	return stall_ns(c) - (c->probed ? probe_ns(c) : 0);
}

/* When the timer has to fire next; UINT64_MAX: not at all. */
static uint64_t next_look_ns(const struct conn *c)
{
	const struct shard *s = c->shard;
	uint64_t soon = s->now_ns + stall_ns(c) / LOOKS, next = UINT64_MAX;
	if (c->owed)
		next = least(soon, c->moved_ns + stall_ns(c));
	if (has_ended(c))
		next = least(next, c->probed ? least(soon, moved_ns(c) + patience_ns(c)) : moved_ns(c) + probe_ns(c));
	else if (is_deaf(c))
		next = least(next, s->now_ns + probe_ns(c));
	if (s->opts->idle_ns && c->state == CONN_OPEN)
		next = least(next, c->idle_at_ns);
	return next;
}

static void schedule(struct conn *c, uint64_t at_ns)
{
	if (at_ns != UINT64_MAX)
		wheel_add(&c->shard->wheel, &c->timer, at_ns);
}

void conn_time_start(struct conn *c)
{
	c->active_ns = c->moved_ns = c->shard->now_ns;
	c->idle_at_ns = c->active_ns + c->shard->opts->idle_ns;
	schedule(c, next_look_ns(c));
}

/* What the kernel knows of the output: a number that changes whenever the peer has taken some (with TCP
 * it is the bytes acknowledged since the connection began), and whether there is more to take. */
static uint64_t bytes_taken(const struct conn *c, bool *ret_owed)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof info;
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 &&
	    n >= offsetof(struct tcp_info, tcpi_notsent_bytes) + sizeof info.tcpi_notsent_bytes) {
		*ret_owed = info.tcpi_unacked || info.tcpi_notsent_bytes;
		return info.tcpi_bytes_acked;
	}
	/* Not TCP: of a Unix socket the kernel tells the memory that unread bytes take. */
	int left = 0;
	if (ioctl(c->fd, SIOCOUTQ, &left) || left < 0)
		left = 0;
	*ret_owed = left > 0;
	return c->bytes_sent ^ (uint64_t)left << 40;
}

static void note_progress(struct conn *c)
{
	bool owed;
	uint64_t taken = bytes_taken(c, &owed);
	c->owed = owed || conn_is_sending(c);
	if (taken == c->taken)
		return;
	c->taken = taken;
	c->moved_ns = c->shard->now_ns;
}

void conn_time_sending(struct conn *c)
{
	uint64_t soon = c->shard->now_ns + stall_ns(c) / LOOKS;
	if (!c->owed) {
		c->owed = true; /* until the timer has looked */
		c->moved_ns = c->shard->now_ns;
	}
	if (timer_is_armed(&c->timer) && c->timer.due_ms <= soon / NS_PER_MS + 1)
		return;
	wheel_add(&c->shard->wheel, &c->timer, soon);
}

void conn_time_linger(struct conn *c)
{
	c->linger_until_ns = c->shard->now_ns + stall_ns(c);
	wheel_add(&c->shard->wheel, &c->timer, c->shard->now_ns + LINGER_NS);
}

/* A peer that is still sending will read the answer when it has sent everything: a reset before would take the answer from
 * it. So it may go on for as long as its bytes come, and not longer than stall_ns. */
static void look_at_lingering(struct conn *c)
{
	uint64_t now = c->shard->now_ns, quiet_ns = c->active_ns + LINGER_NS;
	if (now < quiet_ns && now < c->linger_until_ns)
		wheel_add(&c->shard->wheel, &c->timer, least(quiet_ns, c->linger_until_ns));
	else
		conn_die(c, (enum conn_reason)c->reason);
}

/* Brings the timer forward, if it stands later than now necessary. */
static void look_in_time(struct conn *c)
{
	uint64_t at = next_look_ns(c);
	if (!timer_is_armed(&c->timer) || c->timer.due_ms > at / NS_PER_MS + 1)
		schedule(c, at);
}

void conn_time_ended(struct conn *c)
{
	if (c->state != CONN_OPEN || c->ended_ns)
		return;
	c->ended_ns = c->moved_ns = c->shard->now_ns;
	look_in_time(c);
}

void conn_time_deaf(struct conn *c)
{
	if (is_deaf(c))
		look_in_time(c);
}

/* Asks the kernel about a connection on which no receive is armed, so that the ring does not tell how
 * the connection is. A send that is under way tells of errors itself. */
static void ask_kernel(struct conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
	int err = 0;
	socklen_t n = sizeof err;
	if (poll(&p, 1, 0) <= 0)
		return;
	if (p.revents & POLLRDHUP)
		conn_time_ended(c);
	if (!(p.revents & (POLLERR | POLLHUP)) || conn_is_sending(c))
		return;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n);
	conn_break_off(c, err ? -err : -ECONNRESET);
}

static void look_at_ended(struct conn *c)
{
	uint64_t still = c->shard->now_ns - moved_ns(c);
	if (still >= patience_ns(c)) {
		c->reason = CONN_R_STALLED;
		if (c->ops->abandon)
			c->ops->abandon(c);
		else
			conn_close(c);
	} else if (!c->probed && still >= probe_ns(c)) {
		c->probed = true;
		if (c->ops->probe)
			c->ops->probe(c);
	}
}

static void look_at_idle(struct conn *c)
{
	struct shard *s = c->shard;
	c->idle_at_ns = c->active_ns + s->opts->idle_ns;
	if (s->now_ns < c->idle_at_ns)
		return;
	if (!c->ops->busy || !c->ops->busy(c)) {
		c->reason = CONN_R_IDLE;
		conn_drain(c);
	}
	c->idle_at_ns = s->now_ns + s->opts->idle_ns;
}

void conn_time_fire(struct timer *t, void *ctx)
{
	struct conn *c = container_of(t, struct conn, timer);
	struct shard *s = c->shard;
	bool probed = c->probed;
	if (c->state == CONN_LINGERING) {
		look_at_lingering(c);
		return;
	}
	if (c->owed || has_ended(c))
		note_progress(c);
	if (c->owed && s->now_ns - c->moved_ns >= stall_ns(c)) {
		conn_die(c, CONN_R_STALLED);
		return;
	}
	if (c->state == CONN_OPEN && !c->recv_armed)
		ask_kernel(c);
	if (has_ended(c))
		look_at_ended(c);
	if (s->opts->idle_ns && c->state == CONN_OPEN)
		look_at_idle(c);
	if (c->state == CONN_DEAD)
		return;
	schedule(c, c->probed != probed ? s->now_ns + ECHO_NS : next_look_ns(c));
}
