/* Requests that are answered before they have ended, as a refusal is: what still comes of them is
 * taken in and discarded. Runs on the connection's shard.
 *
 *   HELD --END_STREAM of the request--> closed, answered
 *    |---QUIET_NS without a byte, or DISCARD_BYTES, or DISCARD_NS--> answered, ANSWERED
 *   ANSWERED --END_STREAM, or the peer's RST_STREAM--> closed
 *    \--DISCARD_BYTES have come, DISCARD_NS have passed, or DISCARDS_MAX others--> RST_STREAM(NO_ERROR)
 *
 * A reset right behind the answer, which RFC 9113 section 8.1 allows, overtakes the answer in proxies:
 * their users see a cancelled call instead of the status. And curl, when an answer comes while it is
 * about to send, takes the end of the stream for an error or waits for ever. So the stream's window
 * stays open until the request has ended, within bounds; and of a method with one request message the
 * answer itself is held back for as long as the request is on its way.
 *
 * Invariants: a stream is in the session's table or here, and here it has no call; the connection's
 * window is credited for all that is discarded; a held answer leaves before the session closes.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/h2_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
	DISCARDS_MAX = 32,        /* streams of a connection; fixed: about 9 KiB, with answers that are held back */
	DISCARD_BYTES = 16 << 20, /* of one request; fixed: several times the largest message that is taken */
};
#define DISCARD_NS (10 * NS_PER_S) /* fixed: an upload that goes on for longer is told to stop */
#define QUIET_NS (200 * NS_PER_MS) /* fixed: what is on its way has come, also from a busy machine */

struct discard {
	uint32_t id;
	int32_t window; /* what the peer may still send */
	uint32_t uncredited;
	uint32_t bytes;  /* that have come */
	uint32_t held_n; /* bytes of the answer; 0: it has left */
	uint8_t *held;
	uint64_t last_ns; /* when something came last */
	uint64_t until_ns;
};

struct h2_discards {
	struct h2_session *session;
	struct timer timer;
	uint32_t n; /* in the order of their time */
	struct discard d[DISCARDS_MAX];
};

static struct discard *find(const struct h2_session *s, uint32_t id)
{
	for (uint32_t i = 0; s->discards && i < s->discards->n; i++) {
		if (s->discards->d[i].id == id)
			return &s->discards->d[i];
	}
	return NULL;
}

/* A size update of the header table, if one is due, begins the first block that leaves. */
static void put_held(struct h2_session *s, const struct discard *d)
{
	if (likely(!s->table_update_due)) {
		conn_write(s->conn, d->held, d->held_n);
		return;
	}
	uint32_t n = d->held_n - H2_FRAME_HEADER;
	uint8_t *p = conn_reserve(s->conn, H2_FRAME_HEADER + 1 + n);
	if (!p)
		return;
	h2_frame_put(p, n + 1, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, d->id);
	p[H2_FRAME_HEADER] = HPACK_TABLE_OFF;
	memcpy(p + H2_FRAME_HEADER + 1, d->held + H2_FRAME_HEADER, n);
	conn_commit(s->conn, H2_FRAME_HEADER + 1 + n);
	s->table_update_due = false;
	s->table_is_off = true;
}

static void answer(struct h2_session *s, struct discard *d)
{
	if (d->held_n)
		put_held(s, d);
	free(d->held);
	d->held = NULL;
	d->held_n = 0;
}

static void forget(struct h2_session *s, struct discard *d)
{
	struct h2_discards *all = s->discards;
	size_t at = (size_t)(d - all->d);
	free(d->held);
	memmove(d, d + 1, (all->n - at - 1) * sizeof *d);
	if (--all->n == 0)
		h2_discard_free(s);
}

static void stop(struct h2_session *s, struct discard *d, enum h2_error code)
{
	uint32_t id = d->id;
	answer(s, d);
	forget(s, d);
	h2_reset(s, id, code, false);
}

void h2_discard_free(struct h2_session *s)
{
	struct h2_discards *all = s->discards;
	if (!all)
		return;
	for (uint32_t i = 0; i < all->n; i++)
		free(all->d[i].held);
	wheel_del(&s->rpc->shard->wheel, &all->timer);
	free(all);
	s->discards = NULL;
}

/* When the timer has to look next. */
static uint64_t due_ns(const struct h2_discards *all)
{
	uint64_t due = all->d[0].until_ns;
	for (uint32_t i = 0; i < all->n; i++) {
		if (all->d[i].held_n && all->d[i].last_ns + QUIET_NS < due)
			due = all->d[i].last_ns + QUIET_NS;
	}
	return due;
}

static void on_timer(struct timer *t, void *ctx)
{
	struct h2_discards *all = container_of(t, struct h2_discards, timer);
	struct h2_session *s = all->session;
	uint64_t now = s->rpc->shard->now_ns;
	for (uint32_t i = 0; i < all->n; i++) {
		if (now - all->d[i].last_ns >= QUIET_NS)
			answer(s, &all->d[i]);
	}
	while (s->discards && s->discards->d[0].until_ns <= now)
		stop(s, &s->discards->d[0], H2_NO_ERROR);
	if (s->discards)
		wheel_add(&s->rpc->shard->wheel, &s->discards->timer, due_ns(s->discards));
}

static uint32_t discards_max(const struct h2_session *s)
{
	return s->rpc->opts->streams_max < DISCARDS_MAX ? s->rpc->opts->streams_max : DISCARDS_MAX;
}

bool h2_discard_begin(struct h2_session *s, uint32_t id, int32_t window)
{
	int32_t whole = (int32_t)s->rpc->opts->h2_stream_window;
	uint64_t now = s->rpc->shard->now_ns;
	if (!s->discards && !s->eof) {
		s->discards = calloc(1, sizeof *s->discards);
		if (s->discards) {
			s->discards->session = s;
			s->discards->timer.fire = on_timer;
		}
	}
	if (!s->discards)
		return false;
	if (s->discards->n == discards_max(s)) {
		struct h2_discards *all = s->discards;
		stop(s, &all->d[0], H2_NO_ERROR);
	}
	s->discards->d[s->discards->n++] = (struct discard){
		.id = id, .window = whole, .last_ns = now, .until_ns = now + DISCARD_NS};
	wheel_add(&s->rpc->shard->wheel, &s->discards->timer, due_ns(s->discards));
	if (window < whole)
		h2_put_u32(s, H2_WINDOW_UPDATE, id, (uint32_t)(whole - window));
	return true;
}

bool h2_discard_hold(struct h2_session *s, uint32_t id, const uint8_t *frame, size_t n)
{
	struct discard *d = find(s, id);
	if (!d || s->draining || s->eof)
		return false;
	d->held = malloc(n);
	if (!d->held)
		return false;
	memcpy(d->held, frame, n);
	d->held_n = (uint32_t)n;
	wheel_add(&s->rpc->shard->wheel, &s->discards->timer, due_ns(s->discards));
	return true;
}

bool h2_discard_data(struct h2_session *s, uint32_t id, uint32_t n, bool end)
{
	struct discard *d = find(s, id);
	if (!d)
		return false;
	h2_credit(s, n);
	d->window -= (int32_t)n;
	d->bytes += n;
	d->uncredited += n;
	d->last_ns = s->rpc->shard->now_ns;
	if (d->window < 0) {
		stop(s, d, H2_FLOW_CONTROL_ERROR);
	} else if (end) {
		answer(s, d);
		forget(s, d);
	} else if (d->bytes > DISCARD_BYTES) {
		stop(s, d, H2_NO_ERROR);
	} else if (d->uncredited >= s->rpc->opts->h2_stream_window / 2) {
		h2_put_u32(s, H2_WINDOW_UPDATE, id, d->uncredited);
		d->window += (int32_t)d->uncredited;
		d->uncredited = 0;
	}
	return true;
}

bool h2_discard_trailers(struct h2_session *s, uint32_t id, bool end)
{
	struct discard *d = find(s, id);
	if (!d)
		return false;
	if (!end) {
		stop(s, d, H2_PROTOCOL_ERROR);
		return true;
	}
	answer(s, d);
	forget(s, d);
	return true;
}

bool h2_discard_reset(struct h2_session *s, uint32_t id)
{
	struct discard *d = find(s, id);
	if (d)
		forget(s, d);
	return d != NULL;
}

void h2_discard_answer(struct h2_session *s)
{
	for (uint32_t i = 0; s->discards && i < s->discards->n; i++)
		answer(s, &s->discards->d[i]);
}
