/* The sending half of the native session: frames, answers, and long messages in pieces. Runs on the
 * connection's shard.
 *
 * Answers are copied into the connection's output; ready bytes of 2 KiB and more (send_framed) lie
 * where they are until the kernel has them. A long message whose memory is scarce must not lie there
 * for as long as a client takes to read it: it is copied in pieces, as room appears. While such a
 * message is under way (mid_left > 0), only its call may write. The frames of all others wait in
 * `behind`, which follows the message; when that is long, the connection is not read.
 *
 * Invariant: what has been announced in a header is sent in full. If the client gives the call up in
 * the middle of its message, the rest of the message, at which nobody will look, is zeros. If the
 * service does, the connection ends, because a client would take zeros for the message.
 */
#include "core/base/check.h"
#include "rpc/native_impl.h"

#include <string.h>

enum {
	SLICE_MIN = 2048, /* shorter messages are copied */
	COPY_MAX =
		32
		<< 10, /* and so are messages of up to this size whose memory is scarce; longer ones in such pieces */
};

static uint8_t *behind_reserve(struct native_session *ns, size_t n)
{
	struct shard *s = ns->rpc->shard;
	uint32_t cap;
	size_t need = ns->behind_len + n;
	if (ns->behind_len > s->opts->conn_queue_max) {
		conn_abort(ns->conn, CONN_R_QUEUE);
		return NULL;
	}
	if (need <= ns->behind_cap)
		return ns->behind + ns->behind_len;
	uint8_t *more = bufpool_get(&s->pool, need > 2 * (size_t)ns->behind_cap ? need : 2 * (size_t)ns->behind_cap,
				    &cap);
	if (!more) {
		conn_abort(ns->conn, CONN_R_MEMORY);
		return NULL;
	}
	if (ns->behind_len)
		memcpy(more, ns->behind, ns->behind_len);
	bufpool_put(&s->pool, ns->behind, ns->behind_cap);
	ns->behind = more;
	ns->behind_cap = cap;
	return more + ns->behind_len;
}

static void behind_commit(struct native_session *ns, size_t n)
{
	ns->behind_len += (uint32_t)n;
	if (ns->behind_stops || ns->behind_len <= conn_high_water(ns->rpc->shard->opts->conn_queue_max))
		return;
	ns->behind_stops = true;
	if (ns->stopped++ == 0)
		conn_pause(ns->conn);
}

void native_behind_free(struct native_session *ns)
{
	bufpool_put(&ns->rpc->shard->pool, ns->behind, ns->behind_cap);
	ns->behind = NULL;
	ns->behind_len = ns->behind_cap = 0;
}

bool native_put_frame(struct native_session *ns, uint8_t kind, uint16_t code, uint32_t id, const void *p, size_t n)
{
	bool waits = ns->mid_left > 0;
	uint8_t *out = unlikely(waits) ? behind_reserve(ns, NATIVE_HEADER + n)
				       : conn_reserve(ns->conn, NATIVE_HEADER + n);
	if (!out)
		return false;
	native_put(out, kind, code, (uint32_t)n, id, 0);
	if (n)
		memcpy(out + NATIVE_HEADER, p, n);
	if (waits)
		behind_commit(ns, NATIVE_HEADER + n);
	else
		conn_commit(ns->conn, NATIVE_HEADER + n);
	return true;
}

static bool is_above_water(const struct native_session *ns)
{
	return conn_queued(ns->conn) >= conn_high_water(ns->rpc->shard->opts->conn_queue_max);
}

/* The message that came in pieces is whole: what follows it goes, and others may write again. */
static void long_done(struct native_session *ns)
{
	ns->mid = NULL;
	if (ns->behind_len) {
		conn_write(ns->conn, ns->behind, ns->behind_len);
		native_behind_free(ns);
	}
	if (ns->behind_stops) {
		ns->behind_stops = false;
		ns->stopped--;
		native_maybe_resume(ns);
	}
	conn_want_writable(ns->conn); /* those that were told to wait */
	if (unlikely(ns->eof))
		native_maybe_close(ns);
}

/* Adds bytes to the message under way as far as there is room; p NULL: zeros. Returns how many. */
static size_t long_add(struct native_session *ns, const uint8_t *p, size_t n)
{
	size_t at = 0;
	while (at < n && ns->mid_left && !is_above_water(ns)) {
		uint32_t piece = ns->mid_left < COPY_MAX ? ns->mid_left : COPY_MAX;
		piece = n - at < piece ? (uint32_t)(n - at) : piece;
		uint8_t *out = conn_reserve(ns->conn, piece);
		if (!out)
			return at;
		if (p)
			memcpy(out, p + at, piece);
		else
			memset(out, 0, piece);
		conn_commit(ns->conn, piece);
		at += piece;
		ns->mid_left -= piece;
	}
	if (ns->mid_left)
		conn_want_writable(ns->conn);
	else
		long_done(ns);
	return at;
}

/* Its call has ended, and will not bring the rest. */
void native_long_orphan(struct native_session *ns)
{
	ns->mid = NULL;
	if (conn_is_open(ns->conn))
		long_add(ns, NULL, ns->mid_left);
}

void native_long_go_on(struct native_session *ns)
{
	if (unlikely(ns->mid_left && !ns->mid))
		long_add(ns, NULL, ns->mid_left);
}

static void native_reply(struct call *c, const uint8_t *msg, size_t n)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	native_put_frame(native_session_of(c), NATIVE_MESSAGE | NATIVE_F_LAST, 0, nc->entry.id, msg, n);
	native_call_drop(nc, GRPC_OK);
}

/* Whether more may be queued; if not, `writable` will tell. */
static bool has_room(struct call *c)
{
	const struct native_session *ns = native_session_of(c);
	if (!is_above_water(ns) && likely(ns->mid_left == 0 || ns->mid == container_of(c, struct native_call, call)))
		return true;
	conn_want_writable(c->conn);
	return false;
}

static enum call_room native_room(struct call *c)
{
	return has_room(c) ? CALL_ROOM : CALL_FULL;
}

static bool native_send(struct call *c, const uint8_t *msg, size_t n)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	native_put_frame(native_session_of(c), NATIVE_MESSAGE, 0, nc->entry.id, msg, n);
	count_add(&c->rpc->stats[c->method_index].messages_out, 1);
	return has_room(c);
}

/* A message of ready bytes: its header, and the bytes copied when that costs less than another piece for the kernel to gather. *owned: the
 * release hangs on a piece already; all pieces of a turn leave the output together. */
static bool put_framed(struct native_call *nc, const struct conn_slice *all, const uint8_t *p, uint32_t n, bool *owned)
{
	struct conn *conn = nc->call.conn;
	struct conn_slice piece = {.p = p, .n = n};
	uint8_t kind = NATIVE_MESSAGE;
	if (nc->call.method->kind == METHOD_UNARY) {
		kind |= NATIVE_F_LAST;
		nc->answered = true;
	}
	if (n < SLICE_MIN || (all->scarce && n <= COPY_MAX))
		return native_put_frame(native_session_of(&nc->call), kind, 0, nc->entry.id, p, n);
	uint8_t *out = conn_reserve(conn, NATIVE_HEADER);
	if (!out)
		return false;
	native_put(out, kind, 0, n, nc->entry.id, 0);
	conn_commit(conn, NATIVE_HEADER);
	if (!*owned) {
		piece.release = all->release;
		piece.owner = all->owner;
		*owned = true;
	}
	return conn_write_slice(conn, &piece);
}

/* A long message whose memory is scarce begins. Returns how many of its n bytes went. */
static size_t long_begin(struct native_call *nc, const uint8_t *p, uint32_t n)
{
	struct native_session *ns = native_session_of(&nc->call);
	uint8_t *out = conn_reserve(ns->conn, NATIVE_HEADER);
	if (!out)
		return 0;
	native_put(out, NATIVE_MESSAGE, 0, n, nc->entry.id, 0);
	conn_commit(ns->conn, NATIVE_HEADER);
	ns->mid = nc;
	ns->mid_left = n;
	return long_add(ns, p, n);
}

/* Each message gets its header here. Whole ones only, but for long ones whose memory is scarce. */
static size_t native_send_framed(struct call *c, const struct conn_slice *all)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	struct native_session *ns = native_session_of(c);
	const uint8_t *p = all->p;
	size_t at = 0;
	bool owned = false;
	if (unlikely(ns->mid == nc))
		at = long_add(ns, p, all->n < ns->mid_left ? all->n : ns->mid_left);
	while (ns->mid != nc && all->n - at >= GRPC_PREFIX && has_room(c)) {
		uint32_t n = load_be32(p + at + 1);
		if (all->n - at - GRPC_PREFIX < n)
			break;
		if (unlikely(all->scarce && n > COPY_MAX && nc->call.method->kind != METHOD_UNARY))
			at += GRPC_PREFIX + long_begin(nc, p + at + GRPC_PREFIX, n);
		else if (put_framed(nc, all, p + at + GRPC_PREFIX, n, &owned))
			at += GRPC_PREFIX + n;
		else
			break;
	}
	if (!owned && all->release)
		all->release(all->owner);
	return at;
}

void native_end_call(struct native_call *nc, enum grpc_status status, struct span text)
{
	if (likely(!nc->answered))
		native_put_frame(native_session_of(&nc->call), NATIVE_END, (uint16_t)status, nc->entry.id, text.p,
				 text.n);
	native_call_drop(nc, status);
}

/* The service's end. In the middle of a message it cannot be told, and the rest of the message will not come. */
static void native_finish(struct call *c, enum grpc_status status, struct span text)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	if (unlikely(native_session_of(c)->mid == nc)) {
		conn_log_close(c->conn, "a call was ended by the server in the middle of a message");
		conn_abort(c->conn, CONN_R_DONE);
	}
	native_end_call(nc, status, text);
}

static void native_pause(struct call *c)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	if (nc->paused)
		return;
	nc->paused = true;
	if (native_session_of(c)->stopped++ == 0)
		conn_pause(c->conn);
}

static void native_resume(struct call *c)
{
	struct native_call *nc = container_of(c, struct native_call, call);
	struct native_session *ns = native_session_of(c);
	if (!nc->paused)
		return;
	nc->paused = false;
	ns->stopped--;
	native_maybe_resume(ns);
}

/* There are no windows. */
static bool native_is_shut(const struct call *c)
{
	return false;
}

const struct call_ops native_call_ops = {.reply = native_reply,
					 .send = native_send,
					 .send_framed = native_send_framed,
					 .room = native_room,
					 .finish = native_finish,
					 .pause = native_pause,
					 .resume = native_resume,
					 .is_shut = native_is_shut};
