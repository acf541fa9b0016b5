/* A connection's TLS handshake, as its shard sees it: who waits for a handshake thread, whose turn
 * it is, and what happens when a step is done. Runs on the owning shard; handshakes.c has the
 * threads.
 *
 *        bytes came: a whole record           there is room: its turn
 *   IDLE ------------------------> WAITING ----------------------> AWAY
 *     ^                                                             |
 *     +--------- a step is done, and the client has to answer ------+--- done: no handshake any
 * more
 *
 * Invariants: while AWAY, `c->tls` belongs to a handshake thread, and the step counts as an
 * operation in flight, so the connection is not freed before the step is done. What the client
 * sends until the handshake is over is held as it came, in `c->held`: nothing of it is decrypted
 * before the bytes that came earlier. WAITING connections are in the shard's queue, and in no other
 * state.
 *
 * Whose turn it is: connections wait in buckets by their peer's address (of IPv6 the upper half,
 * which one subscriber has to himself), and the buckets take turns. So a crowd of clients from one
 * address makes the others wait for one step each, and not for the whole crowd. Within a bucket a
 * handshake that has begun comes before a new one, and otherwise the first comes first.
 *
 * What a peer can make grow here: held bytes, up to CONN_HELD_MAX of each connection, and waiting
 * connections, which the session's time for a first request (PREFACE_TIMEOUT_MS) ends. There is no
 * state of OpenSSL's before the first turn. */
#include "core/conn_impl.h"
#include "core/base/check.h"
#include "core/base/count.h"
#include "core/handshakes.h"
#include "core/tls.h"

#include <errno.h>

enum {
	RECORD_HEADER = 5,             /* RFC 8446 section 5.1 */
	RECORD_MAX = (16 << 10) + 256, /* section 5.2 */
	HANDSHAKE_RECORD = 0x16,       /* ContentType handshake; RFC 5246 has the same */
	APPLICATION_RECORD = 0x17,
	CHANGE_CIPHER_RECORD = 0x14,
	VERSION_MAJOR = 3,
};

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
	for (unsigned i = 0; i < CONN_HANDSHAKE_BUCKETS; i++)
		TAILQ_INIT(&q->waiting[i]);
}

static void add(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	unsigned bucket = bucket_of(c);
	if (tls_has_begun(c->tls))
		TAILQ_INSERT_HEAD(&q->waiting[bucket], c, handshakes);
	else
		TAILQ_INSERT_TAIL(&q->waiting[bucket], c, handshakes);
	q->filled |= UINT64_C(1) << bucket;
	c->handshake = CONN_HANDSHAKE_WAITING;
	count_add(&c->shard->stats.handshakes_waiting, 1);
}

static void take_out(struct conn *c)
{
	struct conn_handshakes *q = &c->shard->handshakes;
	unsigned bucket = bucket_of(c);
	TAILQ_REMOVE(&q->waiting[bucket], c, handshakes);
	if (TAILQ_EMPTY(&q->waiting[bucket]))
		q->filled &= ~(UINT64_C(1) << bucket);
	c->handshake = CONN_HANDSHAKE_IDLE;
	count_add(&c->shard->stats.handshakes_waiting, -1);
}

/* The first connection of the bucket whose turn it is, or NULL. */
static struct conn *next_waiting(struct conn_handshakes *q)
{
	if (!q->filled)
		return NULL;
	uint64_t later = q->filled & ~UINT64_C(0) << q->next;
	unsigned bucket = (unsigned)__builtin_ctzll(later ? later : q->filled);
	q->next = (bucket + 1) % CONN_HANDSHAKE_BUCKETS;
	return TAILQ_FIRST(&q->waiting[bucket]);
}

/* One connection. */

/* Whether the held bytes begin with a whole record. What can be none is OpenSSL's to refuse. */
static bool has_record(const struct conn_held *h)
{
	const uint8_t *p = h->p + h->at;
	size_t n = h->len - h->at;
	if (n > 0 && (p[0] < CHANGE_CIPHER_RECORD || p[0] > APPLICATION_RECORD))
		return true;
	if (n < RECORD_HEADER)
		return false;
	size_t length = load_be16(p + 3);
	return p[1] != VERSION_MAJOR || length > RECORD_MAX || n >= RECORD_HEADER + length;
}

void conn_handshake_go_on(struct conn *c)
{
	if (c->handshake != CONN_HANDSHAKE_IDLE || !conn_is_open(c))
		return;
	if (has_record(&c->held))
		add(c);
	else if (c->recv_eof)
		conn_close(c);
}

void conn_handshake_drop(struct conn *c)
{
	if (c->handshake == CONN_HANDSHAKE_WAITING)
		take_out(c);
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
		conn_handshake_go_on(c);
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
		c = next_waiting(q);
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
	DCHECK(c->handshake != CONN_HANDSHAKE_AWAY && c->handshake != CONN_HANDSHAKE_WAITING);
	if (q->pool && c->tls && tls_has_begun(c->tls))
		handshakes_discard(q->pool, c->shard->index, c->tls);
	else
		tls_free(c->tls);
	c->tls = NULL;
}
