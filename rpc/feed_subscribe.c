/* Subscribe. Runs on the shard.
 *
 *   message --stream_cursor_open--> [RESUMED] history --CAUGHT_UP--> live --> the end
 *
 * A subscriber is a cursor and at most one piece of output that its call has not taken yet; what it is behind is the log's to keep, not ours. Pumping
 * it sends pieces until the call takes no more (`writable` goes on) or the cursor has no more (`ready` goes on). Marks are frames put in
 * between.
 *
 * Slow subscribers: how far behind is counted from where the subscriber stood when it went live (or the least since), because history may take
 * its time. SLOW_DROP is looked at when it is about to be sent something, SLOW_DISCONNECT also once a second, as its call may never take anything.
 *
 * What has to be read from disk is asked for only when the call has room, and takes a turn. A subscriber whose call takes nothing may be told to give its
 * slice back, so that it holds no memory that others wait for; it goes on behind the bytes that its call has taken.
 *
 * Draining: a subscriber that has everything durable, and no publish being under way, gets GOING_AWAY and OK. At half the drain time every other one
 * gets it too, with the offset it has come to.
 */
#include "rpc/feed_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/wire/pb_feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void sub_free(struct feed_sub *sub)
{
	struct svc_feed *f = sub->feed;

	feed_run_cancel(sub);
	feed_out_reset(&sub->out);
	if (sub->cursor)
		stream_cursor_close(sub->cursor);
	feed_reorder_free(sub->reorder);
	free(sub->name);
	wheel_del(&f->rpc->shard->wheel, &sub->timer);
	*sub->link = sub->next;
	if (sub->next)
		sub->next->link = sub->link;
	if (!f->subscribers && !f->draining)
		wheel_del(&f->rpc->shard->wheel, &f->tick);
	__atomic_store_n(&sub->stream, 0, __ATOMIC_RELAXED);
	sub->call->svc.ptr = NULL;
	slab_put(&f->subs, sub->slot);
}

static void sub_end(struct feed_sub *sub, enum grpc_status status, const char *text)
{
	struct call *c = sub->call;

	sub_free(sub);
	call_finish(c, status, (struct span){(const uint8_t *)text, strlen(text)});
}

static void sub_no_memory(struct feed_sub *sub)
{
	sub_end(sub, GRPC_RESOURCE_EXHAUSTED, "no memory to send to this subscriber");
}

static void on_timer(struct timer *t, void *ctx)
{
	feed_run(container_of(t, struct feed_sub, timer));
}

/* Beginning. */

static bool request_ok(struct call *c, const struct pb_subscribe_request *m)
{
	if (m->slow >= FEED_SLOW_COUNT) {
		call_finish_text(c, GRPC_INVALID_ARGUMENT, "slow is %u, which is none of SlowPolicy's numbers",
				 m->slow);
		return false;
	}
	if (m->reorder_ms > FEED_REORDER_MS_MAX) {
		call_finish_text(c, GRPC_INVALID_ARGUMENT, "reorder_ms is %u; the longest window is %u", m->reorder_ms,
				 FEED_REORDER_MS_MAX);
		return false;
	}
	return true;
}

static struct feed_sub *sub_new(struct call *c)
{
	struct svc_feed *f = c->rpc->feed;
	uint32_t slot;
	struct feed_sub *sub = slab_get(&f->subs, &slot);

	if (!sub)
		return NULL;
	memset(&sub->call, 0, sizeof *sub - offsetof(struct feed_sub, call));
	__atomic_store_n(&sub->live, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&sub->lag_bytes, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&sub->lag_frames, 0, __ATOMIC_RELAXED);
	if (slot >= f->subs_made)
		__atomic_store_n(&f->subs_made, slot + 1, __ATOMIC_RELEASE); /* pairs with feed_report.c */
	sub->call = c;
	sub->feed = f;
	sub->slot = slot;
	sub->timer.fire = on_timer;
	sub->next = f->subscribers;
	sub->link = &f->subscribers;
	if (sub->next)
		sub->next->link = &sub->next;
	f->subscribers = sub;
	c->svc.ptr = sub;
	feed_watch(f);
	return sub;
}

/* Whose turn it is to read is shared out among client addresses first. */
static uint64_t address_of(const struct call *c)
{
	uint64_t ip[2];

	refusals_group(c->conn->ip, ip);
	return (ip[0] ^ ip[1] * UINT64_C(0x9e3779b97f4a7c15)) * (c->rpc->secret | 1);
}

static bool sub_open(struct feed_sub *sub, const struct pb_subscribe_request *m)
{
	struct svc_feed *f = sub->feed;
	const struct feed_opts *o = &f->shared->opts;
	struct call *c = sub->call;
	struct stream_start start = {
		.stream = m->stream,
		.seq_no = m->replay_seq_no_start,
		.offset = m->resume_offset,
		.incarnation = m->incarnation,
		.tell_begin = m->mark_begin,
		.reader = {address_of(c), (uintptr_t)c->conn * (f->rpc->secret | 1)},
		.only_existing = !call_may(c, ACCESS_PUBLISH, m->stream)}; /* streams stay for good */
	uint32_t window = m->reorder_ms ? m->reorder_ms : o->reorder_ms;

	sub->slow = (enum feed_slow)m->slow;
	if (c->rpc->access && !(sub->name = strndup((const char *)m->stream.p, m->stream.n))) {
		sub_no_memory(sub);
		return false;
	}
	if (window) {
		sub->reorder = feed_reorder_new(window * NS_PER_MS, o->reorder_bytes, &f->room);
		if (!sub->reorder) {
			sub_no_memory(sub);
			return false;
		}
	}
	enum stream_error e = stream_cursor_open(f->view, &start, sub, &sub->cursor);
	if (!e)
		return true;
	sub->cursor = NULL;
	sub_free(sub);
	feed_refuse(c, e, e == STREAM_E_DAMAGED ? streams_view_refused(f->view) : NULL);
	return false;
}

void feed_subscribe_message(struct call *c, struct span msg)
{
	struct svc_feed *f = c->rpc->feed;
	struct pb_subscribe_request m;

	if (f->draining) {
		call_finish(c, GRPC_UNAVAILABLE, SPAN_LIT("the server is stopping"));
		return;
	}
	if (pb_subscribe_request_get(msg, &m)) {
		call_finish(c, GRPC_INVALID_ARGUMENT, SPAN_LIT("the message is not an ordinal.v1.SubscribeRequest"));
		return;
	}
	if (!call_may(c, ACCESS_SUBSCRIBE, m.stream)) {
		call_deny(c, ACCESS_SUBSCRIBE, m.stream);
		return;
	}
	if (!request_ok(c, &m))
		return;
	struct feed_sub *sub = sub_new(c);
	if (!sub)
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for another subscriber"));
	else if (sub_open(sub, &m))
		feed_run(sub);
}

void feed_subscribe_cancel(struct call *c)
{
	if (c->svc.ptr)
		sub_free(c->svc.ptr);
}

void feed_subscribe_writable(struct call *c)
{
	if (c->svc.ptr)
		feed_run(c->svc.ptr);
}

void feed_on_ready(void *ctx, void *user)
{
	struct feed_sub *sub = user;

	sub->waiting = false;
	feed_run(sub);
}

/* What is put into the output, which is empty. Each returns false when the call has ended, for want of memory. */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void count_out(struct feed_sub *sub, uint64_t frames, uint64_t bytes)
{
	struct call *c = sub->call;
	uint64_t again = least(sub->again_frames, frames);

	sub->again_frames -= again;
	frames -= again;
	again = least(sub->again_bytes, bytes);
	sub->again_bytes -= again;
	bytes -= again;

	count_add(&c->rpc->stats[c->method_index].messages_out, frames);
	count_add(&sub->feed->delivered, frames);
	if (sub->count) {
		count_add(&sub->count->frames, frames);
		count_add(&sub->count->bytes, bytes);
	}
}

/* Once the stream is known, so is where to count. */
static void note_stream(struct feed_sub *sub)
{
	const struct stream *s = sub->count ? NULL : stream_cursor_stream(sub->cursor);

	if (!s)
		return;
	uint32_t i = stream_index(s);
	__atomic_store_n(&sub->stream, i + 1, __ATOMIC_RELAXED);
	if (i < sub->feed->shared->opts.streams_max)
		sub->count = &sub->feed->count[i];
}

static void note_reorder(struct feed_sub *sub)
{
	uint64_t late, early;

	feed_reorder_counts(sub->reorder, &late, &early);
	if (sub->count) {
		count_add(&sub->count->disordered, late);
		count_add(&sub->count->reorder_early, early);
	}
}

/* Frames out of the reorder window, and a mark behind them. */
static bool put_own(struct feed_sub *sub, size_t held, const struct frame *mark)
{
	struct feed_piece *p = feed_piece_new(sub->feed, held + FRAME_MARK_MAX);
	uint32_t frames = 0;

	if (!p) {
		sub_no_memory(sub);
		return false;
	}
	uint8_t *out = (uint8_t *)(uintptr_t)p->slice.p;
	if (held) {
		frames = feed_reorder_take(sub->reorder, out);
		note_reorder(sub);
		p->room_bytes = held;
		count_add(&sub->feed->room.bytes, held);
	}
	p->slice.n = held;
	if (mark) {
		DCHECK(frame_size(mark) <= FRAME_MARK_MAX);
		p->slice.n += frame_put(out + held, mark);
	}
	count_out(sub, frames, held);
	feed_out_set(&sub->out, p);
	return true;
}

/* A mark says something about the place it stands in, so what is held goes before it. */
static bool put_mark(struct feed_sub *sub, struct frame *mark)
{
	const struct stream *s = stream_cursor_stream(sub->cursor);

	/* GOING_AWAY may come before the stream is known */
	mark->incarnation = s ? stream_incarnation(s) : 0;
	return put_own(sub, sub->reorder ? feed_reorder_due(sub->reorder, feed_now(sub->feed), true) : 0, mark);
}

static bool put_slice(struct feed_sub *sub, struct stream_slice *s)
{
	struct svc_feed *f = sub->feed;

	if (unlikely(sub->torn)) {
		sub->torn = false;
	} else if (sub->reorder && sub->live && feed_reorder_pass(sub->reorder, (struct span){s->p, s->n})) {
		note_reorder(sub);
	} else if (sub->reorder && sub->live) {
		bool ok = feed_reorder_add(sub->reorder, (struct span){s->p, s->n}, feed_now(f));
		stream_slice_put(f->view, s);
		if (!ok)
			sub_no_memory(sub);
		return ok;
	}
	struct feed_piece *p = feed_piece_of(f, s);
	if (!p) {
		sub_no_memory(sub);
		return false;
	}
	count_out(sub, p->slice.frames, p->slice.n);
	feed_out_set(&sub->out, p);
	return true;
}

static bool put_resumed(struct feed_sub *sub, uint64_t offset)
{
	return put_mark(sub, &(struct frame){.mark = FRAME_RESUMED, .offset = offset});
}

static bool put_caught_up(struct feed_sub *sub)
{
	uint64_t next = stream_cursor_offset(sub->cursor);

	__atomic_store_n(&sub->live, 1, __ATOMIC_RELAXED);
	sub->allowed_lag = stream_cursor_lag_bytes(sub->cursor);
	return put_mark(sub, &(struct frame){.mark = FRAME_CAUGHT_UP, .offset = next ? next - 1 : 0});
}

static bool put_gap(struct feed_sub *sub, const struct stream_slice *gap)
{
	if (sub->dropping && sub->count)
		count_add(&sub->count->dropped, gap->gap_to - gap->gap_from + 1);
	sub->dropping = false;
	return put_mark(sub, &(struct frame){.mark = FRAME_GAP, .gap_from = gap->gap_from, .gap_to = gap->gap_to});
}

static bool put_going_away(struct feed_sub *sub)
{
	sub->gone = true;
	return put_mark(sub, &(struct frame){.mark = FRAME_GOING_AWAY, .offset = stream_cursor_offset(sub->cursor)});
}

static bool sub_failed(struct feed_sub *sub)
{
	enum stream_error e = stream_cursor_error(sub->cursor);
	struct call *c = sub->call;
	char why[400];

	snprintf(why, sizeof why, "%s", stream_cursor_why(sub->cursor));
	sub_free(sub);
	if (why[0])
		call_finish(c, feed_status_of(e), (struct span){(const uint8_t *)why, strlen(why)});
	else
		feed_refuse(c, e, NULL);
	return false;
}

/* Slow ones. */

static bool is_lagging(struct feed_sub *sub)
{
	uint64_t lag = stream_cursor_lag_bytes(sub->cursor);

	if (lag < sub->allowed_lag)
		sub->allowed_lag = lag;
	return lag - sub->allowed_lag > sub->feed->shared->opts.lag_max;
}

static void disconnect(struct feed_sub *sub)
{
	struct call *c = sub->call;
	uint64_t lag = stream_cursor_lag_bytes(sub->cursor), max = sub->feed->shared->opts.lag_max;

	if (sub->count)
		count_add(&sub->count->disconnected, 1);
	sub_free(sub);
	call_finish_text(c, GRPC_RESOURCE_EXHAUSTED,
			 "this subscriber is %llu bytes behind, more than FEED_LAG_MAX_BYTES, %llu",
			 (unsigned long long)lag, (unsigned long long)max);
}

/* false: the call has ended. */
static bool hold_to_policy(struct feed_sub *sub)
{
	if (!is_lagging(sub))
		return true;
	if (sub->slow == FEED_SLOW_DISCONNECT) {
		disconnect(sub);
		return false;
	}
	if (stream_cursor_drop(sub->cursor, sub->feed->shared->opts.lag_max / 2)) {
		sub->dropping = true;
		sub->waiting = false;
		if (sub->count)
			count_add(&sub->count->drops, 1);
	}
	return true;
}

/* The end. */

/* All that is durable has been given, and nothing is about to become so. */
static bool has_everything(const struct feed_sub *sub)
{
	return sub->waiting && sub->live && stream_cursor_lag_frames(sub->cursor) == 0 &&
	       !feed_is_publishing(sub->feed->shared);
}

static bool must_go(const struct feed_sub *sub)
{
	const struct svc_feed *f = sub->feed;

	return f->draining && (has_everything(sub) || feed_now(f) - f->drain_ns >= f->rpc->shard->opts->drain_ns / 2);
}

/* Pumping. */

/* The cursor has nothing: when to look again? Returns false, as there is nothing to send. */
static bool idle(struct feed_sub *sub)
{
	struct svc_feed *f = sub->feed;
	uint64_t next = sub->reorder ? feed_reorder_next_ns(sub->reorder) : UINT64_MAX;

	if (next != UINT64_MAX)
		wheel_add(&f->rpc->shard->wheel, &sub->timer, next);
	return false;
}

/* What comes next has to be read: not before the call can take it. */
static bool read_on(struct feed_sub *sub)
{
	enum call_room room = call_room(sub->call);

	if (room == CALL_ROOM) {
		stream_cursor_read(sub->cursor);
		return true;
	}
	sub->blocked = true;
	stream_cursor_rest(sub->cursor, NULL, room == CALL_SHUT);
	return false;
}

/* The call takes no more for now. */
static void rest(struct feed_sub *sub)
{
	const struct feed_piece *p = sub->out.piece;

	sub->blocked = true;
	if (!p->own)
		stream_cursor_rest(sub->cursor, &p->slice, call_room(sub->call) == CALL_SHUT);
}

void feed_on_give_back(void *ctx, void *user)
{
	struct feed_sub *sub = user;
	struct stream_slice s = sub->out.piece->slice;

	DCHECK(sub->blocked && !sub->out.piece->own);
	stream_slice_get(sub->feed->view, &s); /* the piece keeps its own until the output has let go of it */
	sub->again_bytes += s.n - sub->out.at;
	sub->again_frames += stream_cursor_back(sub->cursor, &s, sub->out.at);
	sub->torn = stream_cursor_is_torn(sub->cursor);
	feed_out_reset(&sub->out);
}

/* Puts the next thing into the output (or only into the reorder window). false: there is none for now, or the call has ended. */
static bool next(struct feed_sub *sub)
{
	struct stream_slice s = {0};

	if (likely(!sub->torn)) {
		size_t due = sub->reorder ? feed_reorder_due(sub->reorder, feed_now(sub->feed), false) : 0;

		if (due)
			return put_own(sub, due, NULL);
		if (sub->slow != FEED_SLOW_WAIT && sub->live && !hold_to_policy(sub))
			return false;
		if (unlikely(must_go(sub)))
			return put_going_away(sub);
	}
	if (sub->waiting)
		return idle(sub);
	switch (stream_cursor_next(sub->cursor, FEED_SLICE_MAX, &s)) {
	case CURSOR_SLICE:
		note_stream(sub);
		return put_slice(sub, &s);
	case CURSOR_CAUGHT_UP:
		note_stream(sub);
		return put_caught_up(sub);
	case CURSOR_GAP:
		note_stream(sub);
		return put_gap(sub, &s);
	case CURSOR_BEGUN:
		note_stream(sub);
		return put_resumed(sub, s.next_offset);
	case CURSOR_COLD:
		return read_on(sub);
	case CURSOR_ENDED:
		return sub_failed(sub);
	case CURSOR_WAIT:
	default:
		note_stream(sub);
		sub->waiting = true;
		return !sub->torn && must_go(sub) ? put_going_away(sub) : idle(sub);
	}
}

void feed_sub_pump(struct feed_sub *sub)
{
	do {
		sub->blocked = false;
		if (!feed_out_send(sub->call, &sub->out)) {
			rest(sub);
			return;
		}
		if (unlikely(sub->gone)) {
			sub_end(sub, GRPC_OK, "");
			return;
		}
	} while (next(sub));
}

/* The rules of access may have changed since, or the credential has expired. */
static bool still_may(const struct feed_sub *sub)
{
	return sub->name &&
	       call_may(sub->call, ACCESS_SUBSCRIBE, (struct span){(const uint8_t *)sub->name, strlen(sub->name)});
}

static void revoke(struct feed_sub *sub)
{
	struct call_refusal why;
	const char *name = sub->name ? sub->name : "";
	call_explain(sub->call, ACCESS_SUBSCRIBE, (struct span){(const uint8_t *)name, strlen(name)}, &why);
	sub_end(sub, why.status, why.text);
}

void feed_sub_tick(struct feed_sub *sub)
{
	__atomic_store_n(&sub->lag_bytes, stream_cursor_lag_bytes(sub->cursor), __ATOMIC_RELAXED);
	__atomic_store_n(&sub->lag_frames, stream_cursor_lag_frames(sub->cursor), __ATOMIC_RELAXED);
	if (sub->feed->draining)
		feed_run(sub);
	else if (unlikely(sub->call->rpc->access) && !still_may(sub))
		revoke(sub);
	else if (sub->blocked && sub->live && sub->slow == FEED_SLOW_DISCONNECT && is_lagging(sub))
		disconnect(sub);
}
