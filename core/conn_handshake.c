/* A connection's TLS handshake, as its shard sees it: who waits for a handshake thread, whose turn
 * it is, and what happens when a step is done. Runs on the owning shard; handshakes.c has the
 * threads.
 *
 *   IDLE --a whole record has come--> WAITING --its turn, and there is room--> AWAY
 *                                        ^                                      |
 *                                        | a whole record                       | the step is done
 *                                        | has come                             v
 *                                      ASKED <--- the client has to answer --- or NONE: it is over
 *
 * Invariants: while AWAY, `c->tls` belongs to a handshake thread, and the step counts as an
 * operation in flight, so the connection is not freed before the step is done. What the client
 * sends until the handshake is over is held as it came, in `c->held`: nothing of it is decrypted
 * before the bytes that came earlier. A connection is in its bucket's list `waiting` when it is
 * WAITING, in the list `asked` when it is ASKED, and in neither otherwise. There is no state of
 * OpenSSL's before the first step.
 *
 * Whose turn it is: connections wait in buckets by their peer's address (of IPv6 the upper half,
 * which one subscriber has to himself), and the buckets take turns. So a crowd of clients from one
 * address makes the others wait for one step each, and not for the whole crowd. Within a bucket a
 * handshake that has begun comes before a new one, and otherwise the first comes first. When the
 * first has waited for OVERLOAD_NS, more come than can be served, and every other turn is the
 * newest one's: else all would be served so late that all have given up.
 *
 * What a peer can make grow here: held bytes, up to CONN_HELD_MAX of each connection; waiting
 * connections, which the session's time for a first request (PREFACE_TIMEOUT_MS) ends; and
 * OpenSSL's state of handshakes that have begun, of which ASKED_MAX may be unanswered. One more
 * ends the oldest one of the address that has the most. */
#include "core/conn_impl.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/count.h"
#include "core/handshakes.h"
#include "core/tls.h"

#include <errno.h>

enum {
	RECORD_HEADER = 5,             /* RFC 8446 section 5.1 */
	RECORD_MAX = (16 << 10) + 256, /* section 5.2 */
	CHANGE_CIPHER_RECORD = 0x14,   /* the least ContentType */
	APPLICATION_RECORD = 0x17,     /* the greatest */
	VERSION_MAJOR = 3,
	ASKED_MAX = 2048, /* fixed: some 100 MB; honest clients answer within a round trip */
};
#define OVERLOAD_NS (500 * NS_PER_MS)

static unsigned bucket_of(const struct conn *c)
{
	uint64_t key = c->ip[0] ? c->ip[0] : c->ip[1];
	key = (key ^ c->shard->handshakes.seed) * UINT64_C(0x9e3779b97f4a7c15);
	return (unsigned)(key >> 58);
}

/* The queue. */

void conn_handshakes_init(struct shard *s, struct handshakes *pool)
{
	struct conn_handshakes *q = &s->handshakes;
	*q = (struct conn_handshakes){.pool = pool, .seed = pool ? handshakes_seed(pool) : 0};
	for (unsigned i = 0; i < CONN_HANDSHAKE_BUCKETS; i++) {
		TAILQ_INIT(&q->bucket[i].waiting);
		TAILQ_INIT(&q->bucket[i].asked);
	}
}

static void add(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	unsigned i = bucket_of(c);
	if (tls_has_begun(c->tls))
		TAILQ_INSERT_HEAD(&q->bucket[i].waiting, c, handshakes);
	else
		TAILQ_INSERT_TAIL(&q->bucket[i].waiting, c, handshakes);
	q->filled |= UINT64_C(1) << i;
	c->handshake = CONN_HANDSHAKE_WAITING;
	count_add(&c->shard->stats.handshakes_waiting, 1);
}

static void take_out(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	unsigned i = bucket_of(c);
	TAILQ_REMOVE(&q->bucket[i].waiting, c, handshakes);
	if (TAILQ_EMPTY(&q->bucket[i].waiting))
		q->filled &= ~(UINT64_C(1) << i);
	c->handshake = CONN_HANDSHAKE_IDLE;
	count_add(&c->shard->stats.handshakes_waiting, -1);
}

/* The connection whose turn it is, or NULL. */
static struct conn *next_waiting(struct shard *s)
{
	struct conn_handshakes *q = &s->handshakes;
	if (!q->filled)
		return NULL;
	uint64_t later = q->filled & ~UINT64_C(0) << q->next;
	unsigned i = (unsigned)__builtin_ctzll(later ? later : q->filled);
	struct conn *first = TAILQ_FIRST(&q->bucket[i].waiting);
	q->next = (i + 1) % CONN_HANDSHAKE_BUCKETS;
	if (tls_has_begun(first->tls) || s->now_ns - first->active_ns < OVERLOAD_NS)
		return first;
	q->newest = !q->newest;
	return q->newest ? TAILQ_LAST(&q->bucket[i].waiting, conn_list) : first;
}

/* The client has to answer. */
static void ask(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	struct conn_handshake_bucket *b = &q->bucket[bucket_of(c)];
	TAILQ_INSERT_TAIL(&b->asked, c, handshakes);
	b->asked_count++;
	q->asked++;
	c->handshake = CONN_HANDSHAKE_ASKED;
}

static void stop_asking(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	struct conn_handshake_bucket *b = &q->bucket[bucket_of(c)];
	TAILQ_REMOVE(&b->asked, c, handshakes);
	b->asked_count--;
	q->asked--;
	c->handshake = CONN_HANDSHAKE_IDLE;
}

/* Ends the one that has not answered for the longest time, of those whose address has the most. */
static void end_oldest(struct conn_handshakes *q)
{
	struct conn_handshake_bucket *most = &q->bucket[0];
	for (unsigned i = 1; i < CONN_HANDSHAKE_BUCKETS; i++) {
		if (q->bucket[i].asked_count > most->asked_count)
			most = &q->bucket[i];
	}
	struct conn *c = TAILQ_FIRST(&most->asked);
	conn_log_close(c, "TLS: too many handshakes are unfinished, and its address has the most of them");
	stop_asking(c);
	conn_abort(c, CONN_R_FLOOD);
}

/* One connection. */

/* Whether the held bytes begin with a whole record. What can be none is OpenSSL's to refuse. */
static bool has_record(const struct conn_held *h)
{
	size_t n = h->len - h->at;
	if (n == 0)
		return false;
	const uint8_t *p = h->p + h->at;
	if (p[0] < CHANGE_CIPHER_RECORD || p[0] > APPLICATION_RECORD)
		return true;
	if (n < RECORD_HEADER)
		return false;
	size_t length = load_be16(p + 3);
	return p[1] != VERSION_MAJOR || length > RECORD_MAX || n >= RECORD_HEADER + length;
}

void conn_handshake_go_on(struct conn *c)
{
	if ((c->handshake != CONN_HANDSHAKE_IDLE && c->handshake != CONN_HANDSHAKE_ASKED) || !conn_is_open(c))
		return;
	if (has_record(&c->held)) {
		conn_handshake_drop(c);
		add(c);
	} else if (c->recv_eof) {
		conn_close(c);
	}
}

void conn_handshake_drop(struct conn *c)
{
	if (c->handshake == CONN_HANDSHAKE_WAITING)
		take_out(c);
	else if (c->handshake == CONN_HANDSHAKE_ASKED)
		stop_asking(c);
}

void conn_handshake_on_end(struct conn *c)
{
	if (c->handshake == CONN_HANDSHAKE_WAITING && !tls_has_begun(c->tls))
		conn_close(c); /* nothing of it has cost anything yet */
	else
		conn_handshake_go_on(c);
}

/* Hands a step to a thread, which has room. */
static void hand_over(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	const struct conn_held *h = &c->held;
	if (!tls_feed(c->tls, h->p + h->at, h->len - h->at)) {
		conn_abort(c, CONN_R_MEMORY);
		return;
	}
	conn_input_taken(c);
	c->handshake = CONN_HANDSHAKE_AWAY;
	c->inflight++;
	handshakes_post(q->pool, c->shard->index, c->tls, conn_tag(c, SHARD_OP_HANDSHAKE));
}

/* The handshake is over: what came meanwhile is for the filter. */
static void finish(struct conn *c)
{
	struct conn_held raw = c->held;
	c->handshake = CONN_HANDSHAKE_NONE;
	c->held = (struct conn_held){0};
	count_add(&c->shard->stats.handshakes, 1);
	conn_tls_decrypt(c, raw.p ? raw.p + raw.at : NULL, raw.len - raw.at);
	bufpool_put(&c->shard->pool, raw.p, raw.cap);
	conn_input_rearm(c);
	if (c->recv_eof)
		conn_input_go_on(c);
}

static void go_on_unfinished(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	ask(c);
	conn_handshake_go_on(c); /* the answer may be there already */
	if (q->asked > ASKED_MAX)
		end_oldest(q);
}

static void on_done(struct conn *c, int result)
{
	c->inflight--;
	c->handshake = CONN_HANDSHAKE_IDLE;
	if (c->state != CONN_DEAD && tls_pending(c->tls) && !c->dirty)
		conn_mark_dirty(c);
	if (c->state == CONN_DEAD)
		conn_doom_if_over(c);
	else if (c->state == CONN_FLUSHING && !c->dirty)
		conn_mark_dirty(c);
	else if (c->state != CONN_OPEN)
		return;
	else if (result == -ENOMEM)
		conn_abort(c, CONN_R_MEMORY);
	else if (result < 0)
		conn_tls_broken(c, result);
	else if (tls_is_ready(c->tls))
		finish(c);
	else
		go_on_unfinished(c);
}

void conn_handshakes_turn(struct shard *s)
{
	struct conn_handshakes *q = &s->handshakes;
	struct handshakes_done d;
	struct conn *c;
	if (likely(!q->pool))
		return;
	while (handshakes_take(q->pool, s->index, &d)) {
		c = slab_at(&s->conns, ring_tag_slot(d.tag));
		CHECK(c->tls == d.tls && c->handshake == CONN_HANDSHAKE_AWAY &&
		      (c->gen & 0xffffff) == ring_tag_gen(d.tag));
		on_done(c, d.result);
	}
	while (q->filled && handshakes_has_room(q->pool, s->index)) {
		c = next_waiting(s);
		take_out(c);
		hand_over(c);
	}
}

bool conn_handshakes_pending(const struct shard *s)
{
	const struct conn_handshakes *q = &s->handshakes;
	return q->pool &&
	       (handshakes_is_done(q->pool, s->index) || (q->filled && handshakes_has_room(q->pool, s->index)));
}

void conn_handshake_free(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	DCHECK(c->handshake == CONN_HANDSHAKE_IDLE || c->handshake == CONN_HANDSHAKE_NONE);
	if (q->pool && c->tls && tls_has_begun(c->tls))
		handshakes_discard(q->pool, c->shard->index, c->tls);
	else
		tls_free(c->tls);
	c->tls = NULL;
}
