/* One thread of the load generator: a ring, a client, its share of the connections, and `depth` call slots for each of them.
 *
 * A loop turn: send what was queued and wait (client_turn) -> replies are counted and checked, and their slots become idle -> the highest ID received is
 * published -> idle slots are given new calls. So whatever is published was received before the requests of this turn leave, and the
 * order check is strict in real time: a reply must be above the number that its request noted.
 *
 * Times: a reply's time is read once a turn, when the wait ended, and so is the time of sending; a call's latency therefore includes what waited in
 * this client for its own turn, and is never too small by more than the time between two reads. In the open loop latency counts from
 * the time a call was due, so a stall is charged to every call that it delayed (no coordinated omission).
 *
 * take: one long call a connection, `depth` messages on it unanswered; answers come in order, so slots queue up in a ring.
 *
 * A connection that drains (GOAWAY) finishes its calls and is then made again; one that cannot be made again is gone, and the worker ends when all are.
 * A call that the server says it has not looked at is sent again elsewhere, or counted as unprocessed, never as an error.
 *
 * Publishing is the same with other messages: an answer's offset is judged as an ID is. Each connection is a publisher, and stamps its
 * frames (load_stamp.h); in a fan-out, publishers keep to what the subscribers have got. */
#include "tools/credentials.h"
#include "tools/load.h"

#include "core/base/clock.h"
#include "core/ring.h"
#include "rpc/client/client.h"
#include "rpc/methods.h"
#include "rpc/wire/pb.h"
#include "tools/load_stamp.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_WAIT_NS (20 * NS_PER_MS) /* looks at the phase at least this often */
#define AHEAD_WAIT_NS (NS_PER_MS / 2) /* likewise, while waiting for subscribers */
#define GRACE_NS (5 * NS_PER_S)       /* for calls in flight at the end, if they have no timeout */
enum { STRIKES_MAX = 3 };             /* connections in a row that end without having answered a call */

struct load_call {
	uint64_t due_ns; /* when it was sent, or should have been */
	uint64_t floor;  /* the highest ID received by anybody before it was sent */
	uint64_t floor_here;
	struct load_conn *conn;
	bool measured;
	bool again;      /* given back unprocessed: due_ns stands */
	bool bad;        /* the answer was no NextReply */
	uint32_t got;    /* IDs, or 1 for a frame */
	uint64_t number; /* of its publisher's frames */
};

enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_DRAINING, CONN_CLOSED /* to be made again */, CONN_DEAD };

struct load_conn {
	struct worker *w;
	struct channel *channel;
	enum conn_state state;
	unsigned strikes;        /* ends since the last answered call */
	uint64_t highest;        /* ID received on it */
	struct load_call *calls; /* depth of them */
	uint32_t publisher;
	uint64_t published;        /* frames sent */
	struct load_call **parked; /* slots that wait until the connection can take a call */
	uint32_t parked_n;
	/* take */
	bool streaming;
	uint32_t stream;
	struct load_call **queue; /* unanswered, oldest first: a ring of depth */
	uint32_t queue_head, queue_n;
};

/* The private half of struct load_worker. */
struct worker {
	struct load_worker *pub;
	const struct load_opts *o;
	struct load *load;
	struct client *client;
	struct ring *ring;
	struct load_conn *conns;
	uint64_t unparked_ns; /* when all were last */
	struct load_call *
		*idle; /* a ring of idle_cap: first in, first out, so that the open loop is fair to connections */
	uint32_t idle_head, idle_n, idle_mask;
	uint32_t in_flight, open, closed, dead; /* calls; connections in those states */
	int phase;
	bool abandoning; /* the end has come, and what is in flight is given up */
	uint64_t highest, incarnation;
	uint64_t left, budget; /* measured calls that may still be started, and could at first */
	uint64_t issued;       /* open loop: calls that were due, since start_ns */
	uint64_t start_ns, cpu_start_ns;
	struct check_seen seen;
	uint8_t *request;
	size_t request_n;
	uint8_t *payload; /* in `request`; NULL: not publishing */
	uint64_t rounded; /* LOAD_FANOUT: frames started in this turn, not told yet */
};

static void idle_push(struct worker *w, struct load_call *call)
{
	w->idle[(w->idle_head + w->idle_n++) & w->idle_mask] = call;
}

static struct load_call *idle_pop(struct worker *w)
{
	struct load_call *call = w->idle[w->idle_head++ & w->idle_mask];
	w->idle_n--;
	return call;
}

/* The slot waits for its connection; if that is dead, for ever, and a call that was to be sent again is given up. */
static void park(struct worker *w, struct load_call *call)
{
	struct load_conn *conn = call->conn;
	if (conn->state == CONN_DEAD && call->again) {
		call->again = false;
		if (call->measured)
			hist_bump(&w->pub->counts.unprocessed, 1);
	}
	conn->parked[conn->parked_n++] = call;
}

static void unpark(struct worker *w, struct load_conn *conn)
{
	while (conn->parked_n > 0)
		idle_push(w, conn->parked[--conn->parked_n]);
}

/* ---- replies ---- */

/* The first reply of all says which incarnation is checked. False: this one is of another. */
static bool is_same_incarnation(struct worker *w, const struct pb_next_reply *r)
{
	uint64_t first = 0;

	if (atomic_compare_exchange_strong_explicit(&w->load->incarnation, &first, r->incarnation, memory_order_relaxed,
						    memory_order_relaxed))
		first = r->incarnation;
	w->incarnation = first;
	return first == r->incarnation;
}

static void check_reply(struct worker *w, struct load_call *call, const struct pb_next_reply *r)
{
	struct load_conn *conn = call->conn;
	struct load_counts *c = &w->pub->counts;
	uint64_t last = r->first + r->count - 1;
	if (unlikely(r->incarnation != w->incarnation) && r->incarnation != 0 && !is_same_incarnation(w, r)) {
		hist_bump(&c->elsewhere, r->count);
		return;
	}
	if (unlikely(r->first <= call->floor)) {
		uint64_t below = call->floor - r->first + 1;
		hist_bump(&c->disordered, below < r->count ? below : r->count);
	}
	if (unlikely(r->first <= call->floor_here)) {
		uint64_t below = call->floor_here - r->first + 1;
		hist_bump(&c->disordered_here, below < r->count ? below : r->count);
	}
	if (last > conn->highest)
		conn->highest = last;
	if (last > w->highest)
		w->highest = last;
	if (r->count == 1)
		check_seen_one(&w->seen, r->first);
	else
		check_seen_range(&w->seen, r->first, r->count);
}

/* What was given: IDs, or an offset. */
static int reply_get(struct worker *w, struct span msg, struct pb_next_reply *ret)
{
	struct feed_publish_reply r;
	if (!w->payload)
		return pb_next_reply_get(msg, ret);
	if (feed_publish_reply_get(msg, &r))
		return -EBADMSG;
	w->pub->durability = r.durability;
	*ret = (struct pb_next_reply){
		.first = r.offset, .count = r.offset != 0 && !r.duplicate, .incarnation = r.incarnation};
	return 0;
}

static void on_reply(void *ctx, struct span msg)
{
	struct load_call *call = ctx;
	struct worker *w = call->conn->w;
	struct pb_next_reply r;
	if (unlikely(call->got || reply_get(w, msg, &r) || r.count == 0 || r.count > w->o->count ||
		     r.first > UINT64_MAX - (r.count - 1))) {
		call->bad = true;
		return;
	}
	call->got = r.count;
	if (w->payload)
		hist_bump(&w->load->acked[call->conn->publisher], 1);
	if (unlikely(r.order != 0))
		w->pub->sharded = true;
	check_reply(w, call, &r);
}

/* The call is over; its slot is idle again. */
static void complete(struct worker *w, struct load_call *call, unsigned code, bool unprocessed)
{
	struct load_counts *c = &w->pub->counts;
	struct load_conn *conn = call->conn;
	w->in_flight--;
	if (unlikely(conn->parked_n > 0) && conn->state == CONN_OPEN)
		unpark(w, conn);
	if (unlikely(w->abandoning))
		code = GRPC_CANCELLED;
	if (unlikely(unprocessed && w->phase != LOAD_STOP)) {
		call->again = true;
		idle_push(w, call);
		return;
	}
	if (unlikely(code == GRPC_OK && (call->bad || !call->got)))
		code = GRPC_INTERNAL;
	if (likely(code == GRPC_OK))
		conn->strikes = 0;
	if (likely(call->measured)) {
		if (unlikely(unprocessed)) {
			hist_bump(&c->unprocessed, 1);
		} else {
			uint64_t now = client_now_ns(w->client);
			hist_add(&c->latency, now > call->due_ns ? now - call->due_ns : 0, 1);
			hist_bump(&c->by_status[code < LOAD_STATUS_OTHER ? code : LOAD_STATUS_OTHER], 1);
			hist_bump(&c->calls, 1);
			hist_bump(&c->items, call->got);
		}
	}
	idle_push(w, call);
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct load_call *call = ctx;
	complete(call->conn->w, call, st->code, st->unprocessed);
}

static const struct channel_call_ops unary_ops = {.message = on_reply, .done = on_done};

static void on_take_reply(void *ctx, struct span msg)
{
	struct load_conn *conn = ctx;
	if (unlikely(conn->queue_n == 0)) {
		channel_call_cancel(conn->channel, conn->stream); /* an answer to no question */
		return;
	}
	struct load_call *call = conn->queue[conn->queue_head];
	conn->queue_head = conn->queue_head + 1 == conn->w->pub->depth ? 0 : conn->queue_head + 1;
	conn->queue_n--;
	on_reply(call, msg);
	complete(conn->w, call, GRPC_OK, false);
}

/* The long call is over, and with it what is unanswered on it. */
static void on_take_done(void *ctx, const struct channel_status *st)
{
	struct load_conn *conn = ctx;
	conn->streaming = false;
	for (; conn->queue_n > 0; conn->queue_n--) {
		struct load_call *call = conn->queue[conn->queue_head];
		conn->queue_head = conn->queue_head + 1 == conn->w->pub->depth ? 0 : conn->queue_head + 1;
		complete(conn->w, call, st->code == GRPC_OK ? GRPC_UNAVAILABLE : st->code, st->unprocessed);
	}
}

static const struct channel_call_ops take_ops = {.message = on_take_reply, .done = on_take_done};

/* ---- requests ---- */

/* The request of a call; of a frame, with its stamp. */
static struct span request_of(struct worker *w, struct load_call *call)
{
	const struct load_opts *o = w->o;
	size_t n = w->request_n;
	if (w->payload) {
		struct load_stamp s = {call->conn->publisher, call->number, call->due_ns};
		uint64_t seq_no = o->seq_base + (o->seq == LOAD_SEQ_RISING ? call->number : 0);
		load_stamp_put(w->payload, o->run, &s);
		w->request[n++] = 0x10; /* seq_no; any order of fields will do, and here the payload keeps its place */
		n += pb_put_varint(w->request + n, seq_no);
	}
	return (struct span){w->request, n};
}

static int start_take(struct worker *w, struct load_conn *conn, struct load_call *call, struct span request)
{
	int r = conn->streaming ? channel_call_send(conn->channel, conn->stream, request, CHANNEL_MORE)
				: channel_call(conn->channel, w->o->method, request, 0, CHANNEL_MORE, &take_ops, conn,
					       &conn->stream);
	if (r)
		return r;
	conn->streaming = true;
	uint32_t at = conn->queue_head + conn->queue_n++;
	conn->queue[at >= w->pub->depth ? at - w->pub->depth : at] = call;
	return 0;
}

/* Sends a call that is due. The slot goes to flight, or is parked until its connection can take it. */
static bool start(struct worker *w, struct load_call *call, uint64_t due_ns, uint64_t floor)
{
	struct load_conn *conn = call->conn;
	if (unlikely(conn->state != CONN_OPEN)) {
		park(w, call);
		return false;
	}
	if (likely(!call->again)) {
		call->due_ns = due_ns;
		call->number = conn->published;
	}
	call->floor = floor;
	call->floor_here = conn->highest;
	call->got = 0;
	call->bad = false;
	struct span request = request_of(w, call);
	int r = w->o->streaming ? start_take(w, conn, call, request)
				: channel_call(conn->channel, w->o->method, request, w->o->timeout_ns, 0, &unary_ops,
					       call, NULL);
	if (unlikely(r)) {
		/* -EAGAIN: the server has lowered its limit, and `complete` unparks. Else the connection is about to close. */
		park(w, call);
		return false;
	}
	if (likely(!call->again)) {
		call->measured = w->phase == LOAD_MEASURE;
		conn->published++;
		w->rounded++;
	}
	call->again = false;
	w->in_flight++;
	return true;
}

/* How many frames may be started in this turn, so that publishers do not run away from subscribers. */
static uint64_t room_ahead(const struct worker *w)
{
	if (w->o->kind != LOAD_FANOUT || w->o->lag == 0)
		return UINT64_MAX;
	uint64_t least = subs_least(&w->load->subs);
	uint64_t issued = atomic_load_explicit(&w->load->issued, memory_order_relaxed);
	if (issued < least || issued - least < w->o->lag)
		return issued < least ? w->o->lag : w->o->lag - (issued - least);
	return 0;
}

static void issue_closed(struct worker *w, uint64_t now, uint64_t floor)
{
	uint64_t allowed = w->phase == LOAD_MEASURE ? w->left : UINT64_MAX, room = room_ahead(w);
	for (uint32_t n = w->idle_n; n > 0 && allowed > 0 && w->rounded < room; n--) {
		struct load_call *call = idle_pop(w);
		bool fresh = !call->again;
		if (start(w, call, now, floor) && fresh)
			allowed--;
	}
	if (w->phase == LOAD_MEASURE)
		w->left = allowed;
}

/* Starts what is due by now, and returns how long until the next is. */
static uint64_t issue_open(struct worker *w, uint64_t now, uint64_t floor)
{
	double interval = 1e9 * w->load->opts.threads / w->o->rate;
	for (uint32_t n = w->idle_n; n > 0; n--) {
		uint64_t due = w->start_ns + (uint64_t)((double)w->issued * interval);
		struct load_call *call = idle_pop(w);
		bool fresh = !call->again;
		if (fresh && (due > now || w->left == 0)) {
			idle_push(w, call);
			continue;
		}
		if (start(w, call, due, floor) && fresh) {
			w->issued++;
			if (w->phase == LOAD_MEASURE)
				w->left--;
		}
	}
	uint64_t next = w->start_ns + (uint64_t)((double)w->issued * interval);
	if (w->idle_n == 0 || w->left == 0)
		return IDLE_WAIT_NS;
	return next > now ? next - now : 0;
}

/* Calls that timed out all at once leave nobody to unpark: their numbers come free when the server has ended them, which completes nothing. */
static void unpark_now_and_then(struct worker *w, uint64_t now)
{
	if (likely(w->o->timeout_ns == 0 || now - w->unparked_ns < IDLE_WAIT_NS))
		return;
	w->unparked_ns = now;
	for (uint32_t i = 0; i < w->pub->connections; i++) {
		if (w->conns[i].state == CONN_OPEN)
			unpark(w, &w->conns[i]);
	}
}

static uint64_t issue(struct worker *w)
{
	uint64_t now = clock_mono_ns();
	unpark_now_and_then(w, now);
	uint64_t floor = atomic_load_explicit(&w->load->highest, memory_order_relaxed), wait = IDLE_WAIT_NS;
	w->rounded = 0;
	if (w->o->rate > 0)
		wait = issue_open(w, now, floor);
	else
		issue_closed(w, now, floor);
	if (w->o->kind == LOAD_FANOUT) {
		atomic_fetch_add_explicit(&w->load->issued, w->rounded, memory_order_relaxed);
		if (w->o->lag && w->o->rate == 0 && w->idle_n > 0 && wait > AHEAD_WAIT_NS)
			wait = AHEAD_WAIT_NS; /* the subscribers' progress wakes nobody */
	}
	return wait;
}

/* ---- connections ---- */

static void on_opened(void *ctx, struct channel *ch)
{
	struct load_conn *conn = ctx;
	struct worker *w = conn->w;
	uint32_t limit = channel_calls_limit(ch);
	conn->state = CONN_OPEN;
	w->open++;
	if (w->phase == LOAD_CONNECT && !w->o->streaming && limit < w->pub->depth)
		w->pub->depth = limit;
	unpark(w, conn);
}

static void on_draining(void *ctx, struct channel *ch)
{
	struct load_conn *conn = ctx;
	conn->state = CONN_DRAINING;
	conn->w->open--;
	if (conn->streaming)
		channel_call_end(ch, conn->stream);
}

static void conn_dead(struct worker *w, struct load_conn *conn)
{
	uint32_t n = conn->parked_n;
	conn->state = CONN_DEAD;
	w->dead++;
	conn->parked_n = 0;
	for (uint32_t i = 0; i < n; i++)
		park(w, conn->parked[i]);
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	struct load_conn *conn = ctx;
	struct worker *w = conn->w;
	enum conn_state was = conn->state;
	conn->channel = NULL;
	conn->state = CONN_CLOSED;
	w->closed++;
	if (was == CONN_OPEN)
		w->open--;
	if (err && !w->pub->why[0])
		snprintf(w->pub->why, sizeof w->pub->why, "%s", why);
	if (was == CONN_CONNECTING || ++conn->strikes == STRIKES_MAX) {
		w->closed--;
		conn_dead(w, conn);
	}
	if (err && was != CONN_CONNECTING)
		hist_bump(&w->pub->counts.lost, 1);
}

static const struct channel_events conn_events = {.opened = on_opened, .draining = on_draining, .closed = on_closed};

static int conn_connect(struct worker *w, struct load_conn *conn)
{
	const struct load_opts *o = w->o;
	struct channel_opts opts = {.protocol = o->protocol, .authority = o->server, .calls_max = o->depth};
	credentials_fill(&opts);
	conn->state = CONN_CONNECTING;
	return channel_connect(w->client, &opts, (const struct sockaddr *)&o->address.addr, o->address.len,
			       &conn_events, conn, &conn->channel);
}

/* Makes again what was closed. */
static void reconnect(struct worker *w)
{
	for (uint32_t i = 0; i < w->pub->connections && w->closed > 0; i++) {
		struct load_conn *conn = &w->conns[i];
		if (conn->state != CONN_CLOSED)
			continue;
		w->closed--;
		if (conn_connect(w, conn))
			conn_dead(w, conn);
	}
}

/* ---- life ---- */

static int conn_init(struct worker *w, struct load_conn *conn)
{
	uint32_t depth = w->o->depth;
	*conn = (struct load_conn){.w = w};
	conn->calls = calloc(depth, sizeof *conn->calls);
	conn->parked = calloc(depth, sizeof *conn->parked);
	conn->queue = calloc(depth, sizeof *conn->queue);
	if (!conn->calls || !conn->parked || !conn->queue)
		return -ENOMEM;
	for (uint32_t i = 0; i < depth; i++)
		conn->calls[i].conn = conn;
	return 0;
}

static void worker_done(struct worker *w)
{
	while (w->idle_n > 0) {
		const struct load_call *call = idle_pop(w);
		if (call->again && call->measured)
			hist_bump(&w->pub->counts.unprocessed, 1);
	}
	for (uint32_t i = 0; w->conns && i < w->pub->connections; i++) {
		free(w->conns[i].calls);
		free(w->conns[i].parked);
		free(w->conns[i].queue);
	}
	ring_done(w->ring);
	free(w->conns);
	free(w->idle);
	free(w->request);
}

static int worker_fail(struct worker *w, int err, const char *why)
{
	snprintf(w->pub->why, sizeof w->pub->why, "%s", why);
	return w->pub->err = err;
}

/* What all requests have in common. */
static int request_init(struct worker *w)
{
	const struct load_opts *o = w->o;
	if (o->kind == LOAD_IDS) {
		size_t room = o->sequence.n + 2 * PB_VARINT_MAX + 2;
		w->request = malloc(room);
		if (!w->request)
			return -ENOMEM;
		w->request_n = pb_next_request_put(w->request, room, o->sequence, o->count == 1 ? 0 : o->count);
		return 0;
	}
	w->request = malloc(o->stream.n + o->size + FEED_PUBLISH_OVERHEAD);
	uint8_t *filler = calloc(1, o->size);
	if (!w->request || !filler) {
		free(filler);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < o->size; i++)
		filler[i] = (uint8_t)('a' + i % 26);
	struct feed_publish m = {.stream = o->stream, .payload = {filler, o->size}};
	w->request_n = feed_publish_put(w->request, &m);
	w->payload = w->request + w->request_n - o->size; /* the last field */
	free(filler);
	return 0;
}

static int worker_init(struct worker *w)
{
	const struct load_opts *o = w->o;
	uint32_t connections = w->pub->connections;
	uint64_t slots = 64;
	while (slots < (uint64_t)connections * o->depth)
		slots *= 2;
	w->conns = calloc(connections, sizeof *w->conns);
	w->idle = calloc(slots, sizeof(*w->idle));
	w->idle_mask = (uint32_t)(slots - 1);
	if (!w->conns || !w->idle || request_init(w))
		return worker_fail(w, -ENOMEM, "not enough memory");
	for (uint32_t i = 0; i < connections; i++) {
		if (conn_init(w, &w->conns[i]))
			return worker_fail(w, -ENOMEM, "not enough memory");
		w->conns[i].publisher = w->pub->publisher_first + i;
	}
	struct ring_params ring = {.entries = 1024, .cq_entries = 16384, .bufs = 512, .buf_size = 16384};
	int r = ring_init(&ring, &w->ring);
	if (r)
		return worker_fail(w, r, ring_explain(r));
	/* One more than connections: a channel is still counted while its `closed` runs. */
	r = client_new(w->ring, connections + 1, &w->client);
	return r ? worker_fail(w, r, strerror(-r)) : 0;
}

/* Every connection, or the first failure. */
static int worker_connect(struct worker *w)
{
	for (uint32_t i = 0; i < w->pub->connections; i++) {
		int r = conn_connect(w, &w->conns[i]);
		if (r)
			return worker_fail(w, r, strerror(-r));
	}
	while (w->open < w->pub->connections) {
		int r = client_turn(w->client, IDLE_WAIT_NS);
		if (r)
			return worker_fail(w, r, strerror(-r));
		if (w->dead > 0 || w->closed > 0)
			return w->pub->err = -ECONNREFUSED;
		if (atomic_load_explicit(&w->load->phase, memory_order_relaxed) == LOAD_STOP)
			return worker_fail(w, -EINTR, "interrupted");
	}
	return 0;
}

static void publish_highest(struct worker *w)
{
	uint64_t seen = atomic_load_explicit(&w->load->highest, memory_order_relaxed);
	while (w->highest > seen && !atomic_compare_exchange_weak_explicit(&w->load->highest, &seen, w->highest,
									   memory_order_relaxed, memory_order_relaxed))
		;
}

static void change_phase(struct worker *w, int phase)
{
	if (w->phase == LOAD_CONNECT) {
		/* Slots of all connections by turns, so that the first calls are spread over them. */
		for (uint32_t d = 0; d < w->pub->depth; d++)
			for (uint32_t i = 0; i < w->pub->connections; i++)
				idle_push(w, &w->conns[i].calls[d]);
		w->start_ns = clock_mono_ns();
	}
	if (phase == LOAD_MEASURE)
		w->cpu_start_ns = clock_thread_cpu_ns();
	if (phase == LOAD_STOP && w->o->rate > 0) {
		uint64_t due = (uint64_t)((double)(clock_mono_ns() - w->start_ns) * w->o->rate / (1e9 * w->o->threads));
		if (w->left > 0 && due > w->issued + 1)
			hist_bump(&w->pub->counts.unsent, due - w->issued - 1);
	}
	w->phase = phase;
}

/* Nothing left to do: stopped and answered, all asked for is done, or nobody to ask. */
static bool is_finished(const struct worker *w)
{
	if (w->in_flight > 0)
		return false;
	return w->phase == LOAD_STOP || w->dead == w->pub->connections ||
	       (w->phase == LOAD_MEASURE && w->pub->counts.calls + w->pub->counts.unprocessed >= w->budget);
}

/* Ends long calls and, after the time of grace, everything. */
static void wind_up(struct worker *w, uint64_t grace_end_ns)
{
	bool late = clock_mono_ns() >= grace_end_ns;
	w->abandoning = late;
	for (uint32_t i = 0; i < w->pub->connections; i++) {
		struct load_conn *conn = &w->conns[i];
		if (late && conn->channel)
			channel_close(conn->channel);
		else if (conn->streaming && conn->state == CONN_OPEN)
			channel_call_end(conn->channel, conn->stream); /* again and again is harmless */
	}
}

static int worker_loop(struct worker *w)
{
	uint64_t grace_end_ns = UINT64_MAX;
	for (;;) {
		int phase = atomic_load_explicit(&w->load->phase, memory_order_relaxed);
		uint64_t wait = IDLE_WAIT_NS;
		if (unlikely(phase != w->phase)) {
			change_phase(w, phase);
			if (phase == LOAD_STOP)
				grace_end_ns = clock_mono_ns() +
					       (w->o->timeout_ns ? w->o->timeout_ns + NS_PER_S : GRACE_NS);
		}
		if (is_finished(w))
			return 0;
		if (w->phase == LOAD_WARMUP || w->phase == LOAD_MEASURE) {
			if (unlikely(w->closed > 0))
				reconnect(w);
			wait = issue(w);
		} else if (w->phase == LOAD_STOP) {
			wind_up(w, grace_end_ns);
		}
		int r = client_turn(w->client, wait < IDLE_WAIT_NS ? wait : IDLE_WAIT_NS);
		if (r)
			return worker_fail(w, r, strerror(-r));
		publish_highest(w);
	}
}

static void pin(const struct load_worker *pub)
{
	const struct load_opts *o = &pub->load->opts;
	cpu_set_t set;
	if (o->cpus_n == 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(o->cpus[pub->number % o->cpus_n], &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* cmd_load has checked that they can be had */
}

void *load_worker_run(void *arg)
{
	struct load_worker *pub = arg;
	struct load *load = pub->load;
	const struct load_opts *o = &load->opts;
	struct worker w = {.pub = pub, .o = o, .load = load, .phase = LOAD_CONNECT, .left = UINT64_MAX};
	pin(pub);
	hist_init(&pub->counts.latency);
	check_seen_init(&w.seen, load->pages);
	pub->depth = o->depth;
	if (o->requests)
		w.left = o->requests / o->threads + (pub->number < o->requests % o->threads);
	w.budget = w.left;
	if (worker_init(&w) || worker_connect(&w)) {
		atomic_store(&load->failed, true);
	} else {
		atomic_fetch_add(&load->connected, 1);
		worker_loop(&w);
	}
	pub->ended_ns = clock_mono_ns();
	pub->cpu_ns = w.cpu_start_ns ? clock_thread_cpu_ns() - w.cpu_start_ns : 0;
	pub->gone = w.dead;
	w.phase = LOAD_STOP;
	client_free(w.client);
	check_seen_done(&w.seen);
	worker_done(&w);
	atomic_fetch_add(&load->ended, 1);
	return NULL;
}
