/* The producer's releases: which IDs the shards are told of, and when. Runs on the producer's thread.
 *
 * strict: what is released goes to every shard that has ever asked for the sequence (the others would only be woken for
 * nothing; their first request asks). Without a cap, all that is durable is released at once.
 * sharded: a shard that asks gets a range of its own, 1/(4 * shards) of the window, or what its front request needs.
 *
 * Rate cap: a token bucket for each sequence. strict: the tokens are the released IDs that nobody has claimed, so that
 * the bucket is full when `burst` of them lie ready; `credit` is what time has earned beyond, while it is not released.
 * sharded: `credit` is the bucket. While a bucket is not full, its slot is in the list of ticking ones, and the
 * producer wakes for the next token, but not more often than every PRODUCER_TICK_NS. When all are full or wait for the
 * journal, it sleeps without a limit.
 *
 * Who is served when more is wanted than there is: the shards share by start-time fair queueing (Goyal, Vin & Cheng,
 * 1997): next comes the one that would have had least after its front request. In strict order all claim from one
 * counter, and a shard with many small requests would take every token before a larger request of another shard could
 * be served. So tokens are held back until they are enough for the shard whose turn it is, and then only that one is
 * told of them; the others cannot claim beyond the end they know, until their turn or until nobody waits.
 *
 * singles: what is durable goes into the queues of queue/singles.h, and a shard that asks is only told to look again.
 *
 * A shard's ring may be full (it sleeps, or is slow): then its slot is owed. Nothing is lost, as what is owed is worked
 * out from the present state when there is room. A shard that finds itself waiting while `owed` is set rings us.
 */
#include "queue/producer.h"

#include <stdlib.h>

static struct ids_port *feed_port(const struct producer *p, unsigned shard)
{
	return atomic_load_explicit(&p->ids->ports[shard], memory_order_acquire); /* pairs with ids_view_new */
}

static bool feed_push(struct producer *p, unsigned shard, const struct feed *f)
{
	struct ids_port *port = feed_port(p, shard);

	port->fed = true;
	if (spsc_push(&port->feed, f))
		return true;
	bit_set(port->owed_slots, f->slot);
	atomic_store_explicit(&port->owed, true, memory_order_relaxed); /* fence: feed_ring_shards */
	return false;
}

/* ---- strict ---- */

/* Tells one shard how far it may claim. */
static void feed_strict(struct producer *p, unsigned shard, uint32_t slot)
{
	struct window *w = &p->windows[slot];
	uint64_t next = atomic_load_explicit(&p->ids->sequences[slot].next, memory_order_relaxed);
	uint64_t left = sequence_left(next, w->released_end);
	struct feed f = {.kind = FEED_RANGE,
			 .slot = slot,
			 .first = w->released_end - left,
			 .count = left,
			 .final = w->released_end == SEQUENCE_END};

	feed_push(p, shard, &f);
}

static void feed_strict_all(struct producer *p, uint32_t slot)
{
	const uint64_t *users = p->windows[slot].users;

	for (unsigned i = 0; i < ARRAY_SIZE(p->windows->users); i++)
		for (uint64_t bits = users[i]; bits != 0; bits &= bits - 1)
			feed_strict(p, 64 * i + (unsigned)__builtin_ctzll(bits), slot);
}

/* ---- the rate cap ---- */

static void tick_start(struct producer *p, uint32_t slot)
{
	struct window *w = &p->windows[slot];

	if (w->ticking)
		return;
	p->tick_due_ns = w->tick_due_ns = p->now_ns; /* in this turn */
	w->ticking = true;
	w->credit_ns = p->now_ns;
	w->credit_part = 0;
	w->ticking_next = p->ticking;
	p->ticking = slot;
}

/* Counts what has been earned since the last time, up to `room`. */
static void tick_earn(struct producer *p, struct window *w, uint64_t room)
{
	uint64_t passed_ns = p->now_ns > w->credit_ns ? p->now_ns - w->credit_ns : 0;
	unsigned __int128 part = (unsigned __int128)passed_ns * p->ids->opts.rate + w->credit_part;
	unsigned __int128 credit = w->credit + part / NS_PER_S;

	w->credit_part = (uint64_t)(part % NS_PER_S);
	w->credit_ns = p->now_ns;
	w->credit = (uint64_t)credit;
	if (credit >= room) {
		w->credit = room;
		w->credit_part = 0;
	}
}

/* When the next token will have been earned. */
static uint64_t tick_next_ns(const struct producer *p, const struct window *w)
{
	uint64_t rate = p->ids->opts.rate, ns = (NS_PER_S - w->credit_part + rate - 1) / rate;

	return p->now_ns + (ns > PRODUCER_TICK_NS ? ns : PRODUCER_TICK_NS);
}

/* ---- whose turn it is ---- */

static void feed_wait(struct producer *p, struct window *w, unsigned shard, uint32_t want)
{
	if (w->shares == NULL) {
		w->shares = calloc(p->ids->opts.shards, sizeof *w->shares);
		CHECK(w->shares != NULL);
	}
	w->shares[shard].want = want;
	if (w->shares[shard].tag < w->fair_time)
		w->shares[shard].tag = w->fair_time; /* nobody saves up while not waiting */
	bit_set(w->waiting, shard);
}

static void feed_served(struct window *w, unsigned shard, uint64_t ids)
{
	bit_clear(w->waiting, shard);
	if (w->fair_time < w->shares[shard].tag)
		w->fair_time = w->shares[shard].tag;
	w->shares[shard].tag += ids;
}

/* The waiting shard whose turn it is; IDS_SHARDS_MAX: none waits. */
static unsigned feed_next_waiting(const struct window *w)
{
	unsigned best = IDS_SHARDS_MAX;

	for (unsigned i = 0; i < ARRAY_SIZE(w->waiting); i++) {
		for (uint64_t bits = w->waiting[i]; bits != 0; bits &= bits - 1) {
			unsigned shard = 64 * i + (unsigned)__builtin_ctzll(bits);
			const struct share *s = &w->shares[shard];

			if (best == IDS_SHARDS_MAX || s->tag + s->want < w->shares[best].tag + w->shares[best].want)
				best = shard;
		}
	}
	return best;
}

/* ---- strict, capped ---- */

/* Releases the credit, as far as it is durable; returns how much. Nobody is told yet. */
static uint64_t capped_release(struct window *w)
{
	uint64_t grant = w->durable_end - w->released_end;

	if (grant > w->credit)
		grant = w->credit;
	w->credit -= grant;
	w->released_end += grant;
	return grant;
}

static void capped_answer_users(struct producer *p, uint32_t slot)
{
	feed_strict_all(p, slot);
	memset(p->windows[slot].users, 0, sizeof p->windows[slot].users);
}

/* Feeds the waiting shards in turn, as long as there is enough for all that were fed. */
static void capped_feed_waiting(struct producer *p, uint32_t slot, uint64_t next)
{
	struct window *w = &p->windows[slot];
	uint64_t spoken_for = 0;
	unsigned shard;

	while ((shard = feed_next_waiting(w)) != IDS_SHARDS_MAX) {
		uint64_t level = sequence_left(next, w->released_end), room = w->durable_end - w->released_end;
		uint64_t want = w->shares[shard].want, grant;

		if (level + (w->credit < room ? w->credit : room) < spoken_for + want)
			return; /* hold back */
		grant = capped_release(w);
		spoken_for += want;
		feed_served(w, shard, grant > want ? grant : want);
		feed_strict(p, shard, slot);
	}
}

/* Returns when to look again; 0: the bucket is full. */
static uint64_t tick_strict(struct producer *p, uint32_t slot)
{
	struct window *w = &p->windows[slot];
	uint64_t next = atomic_load_explicit(&p->ids->sequences[slot].next, memory_order_relaxed), full = p->burst;
	unsigned shard = feed_next_waiting(w);

	if (shard != IDS_SHARDS_MAX && w->shares[shard].want > full)
		full = w->shares[shard].want;
	tick_earn(p, w, sequence_left(sequence_left(next, w->released_end), full));
	if (sequence_left(next, w->durable_end) < (full > w->size / 2 ? full : w->size / 2))
		window_reserve(p, slot, next, full > 2 * p->burst ? full : 2 * p->burst);
	if (shard != IDS_SHARDS_MAX && w->durable_end != SEQUENCE_END) {
		capped_answer_users(p, slot); /* before the release: it is not for them */
		capped_feed_waiting(p, slot, next);
	} else {
		for (unsigned i = 0; i < ARRAY_SIZE(w->users); i++) {
			w->users[i] |= w->waiting[i]; /* at the end of numbers nothing is held back */
			w->waiting[i] = 0;
		}
		capped_release(w);
		capped_answer_users(p, slot);
		if (w->released_end == SEQUENCE_END || sequence_left(next, w->released_end) >= full)
			return 0;
	}
	if (w->credit > w->durable_end - w->released_end)
		return UINT64_MAX; /* feed_window_ready */
	return tick_next_ns(p, w);
}

/* ---- sharded ---- */

static uint64_t sharded_range_size(const struct producer *p, const struct window *w)
{
	uint64_t size = w->size / (4 * p->ids->opts.shards);

	if (p->ids->opts.rate && size > p->burst / (2 * p->ids->opts.shards))
		size = p->burst / (2 * p->ids->opts.shards);
	return size ? size : 1;
}

/* Gives a waiting shard its range. False: it has to wait; then w->want is what it lacks. */
static bool sharded_give(struct producer *p, uint32_t slot, unsigned shard)
{
	struct window *w = &p->windows[slot];
	uint64_t room = w->durable_end - w->released_end, give = sharded_range_size(p, w);
	struct feed f = {.kind = FEED_RANGE, .slot = slot, .first = w->released_end};

	w->want = w->shares[shard].want;
	if (w->durable_end == SEQUENCE_END && w->want > room)
		w->want = room; /* the last ones, even if they are too few */
	if (p->ids->opts.rate && room > w->credit)
		room = w->credit;
	if (room < w->want)
		return false;
	if (give < w->want)
		give = w->want;
	f.count = give < room ? give : room;
	f.final = f.first + f.count == SEQUENCE_END;
	w->want = 0;
	if (!feed_push(p, shard, &f)) {
		bit_clear(w->waiting, shard); /* set again when it is owed no more */
		return true;
	}
	feed_served(w, shard, f.count);
	w->released_end += f.count;
	atomic_store_explicit(&p->ids->sequences[slot].next, w->released_end, memory_order_relaxed);
	if (p->ids->opts.rate)
		w->credit -= f.count;
	return true;
}

static void sharded_serve(struct producer *p, uint32_t slot)
{
	struct window *w = &p->windows[slot];
	unsigned shard;

	do
		shard = feed_next_waiting(w);
	while (shard != IDS_SHARDS_MAX && sharded_give(p, slot, shard));
	if (w->durable_end - w->released_end < (w->want > w->size / 4 ? w->want : w->size / 4))
		window_reserve(p, slot, w->released_end, w->want);
}

static uint64_t tick_sharded(struct producer *p, uint32_t slot)
{
	struct window *w = &p->windows[slot];

	tick_earn(p, w, w->want > p->burst ? w->want : p->burst);
	sharded_serve(p, slot);
	if (feed_next_waiting(w) == IDS_SHARDS_MAX && w->credit >= p->burst)
		return 0;
	if (w->want != 0 && w->credit >= w->want)
		return UINT64_MAX; /* feed_window_ready */
	return tick_next_ns(p, w);
}

/* ---- singles ---- */

#define SINGLES_TURN 4096 /* IDs put in one turn of the producer's, at most */

/* All durable IDs that the queues have room for. Whoever has asked is told to look again if there is something. */
void feed_singles(struct producer *p)
{
	struct window *w = &p->windows[0];
	uint64_t left = w->durable_end - w->released_end, n = left < SINGLES_TURN ? left : SINGLES_TURN;
	uint64_t put = singles_put(p->ids->singles, w->released_end, n);
	struct feed f = {.kind = FEED_RANGE};

	w->released_end += put;
	atomic_store_explicit(&p->ids->sequences[0].next, w->released_end, memory_order_relaxed);
	p->singles_due = put == n && n < left; /* else the queues are full, or all is in them */
	f.final = w->released_end == SEQUENCE_END;
	for (unsigned i = 0; (put != 0 || put < n || f.final) && i < ARRAY_SIZE(p->singles_asking); i++) {
		for (; p->singles_asking[i] != 0; p->singles_asking[i] &= p->singles_asking[i] - 1)
			feed_push(p, 64 * i + (unsigned)__builtin_ctzll(p->singles_asking[i]), &f);
	}
	if (w->durable_end - w->released_end < w->size / 2 + 1)
		window_reserve(p, 0, w->released_end, 1);
}

/* ---- what happens ---- */

static void demand_strict(struct producer *p, unsigned shard, uint32_t slot, uint32_t want)
{
	struct window *w = &p->windows[slot];
	uint64_t next = atomic_load_explicit(&p->ids->sequences[slot].next, memory_order_relaxed);
	uint64_t left = sequence_left(next, w->released_end), low = w->size / 2;

	bit_set(w->users, shard);
	if (w->released_end == SEQUENCE_END || left >= (want ? want : low))
		feed_strict(p, shard, slot); /* there is enough, it did not know */
	if (w->released_end == SEQUENCE_END || (left >= want && left >= low))
		return;
	if (w->want < want)
		w->want = want;
	window_reserve(p, slot, next, want);
}

static void demand_capped(struct producer *p, unsigned shard, uint32_t slot, uint32_t want)
{
	struct window *w = &p->windows[slot];
	uint64_t next = atomic_load_explicit(&p->ids->sequences[slot].next, memory_order_relaxed);
	uint64_t left = sequence_left(next, w->released_end);

	if (w->released_end == SEQUENCE_END) {
		feed_strict(p, shard, slot);
		return;
	}
	if (want == 0 && left < p->burst)
		bit_set(w->users, shard);
	else if (left < want || (want != 0 && feed_next_waiting(w) != IDS_SHARDS_MAX))
		feed_wait(p, w, shard, want);
	else
		feed_strict(p, shard, slot); /* there is enough, it did not know */
	tick_start(p, slot);
}

static void demand_sharded(struct producer *p, unsigned shard, uint32_t slot, uint32_t want)
{
	struct window *w = &p->windows[slot];

	feed_wait(p, w, shard, want ? want : 1);
	sharded_serve(p, slot);
	if (p->ids->opts.rate)
		tick_start(p, slot);
}

/* The request that the shard waits with has been taken back. */
static void feed_revise(struct producer *p, unsigned shard, uint32_t slot, uint32_t want)
{
	struct window *w = &p->windows[slot];
	bool strict = p->ids->opts.order == IDS_STRICT;

	if (w->shares == NULL || !bit_get(w->waiting, shard))
		return; /* it has been answered meanwhile, or does not hold anybody up */
	if (want != 0) {
		w->shares[shard].want = want;
	} else if (strict) {
		bit_clear(w->waiting, shard);
		bit_set(w->users, shard); /* told with the others, as one that has few left */
	} else {
		w->shares[shard].want = 1; /* it may have the next small range */
	}
	if (!strict)
		sharded_serve(p, slot);
	if (p->ids->opts.rate) {
		tick_start(p, slot);
		p->tick_due_ns = w->tick_due_ns = p->now_ns;
	}
}

void feed_demand(struct producer *p, unsigned shard, const struct demand *d)
{
	if (d->revises) {
		feed_revise(p, shard, d->slot, d->want);
		return;
	}
	if (p->ids->singles != NULL) {
		bit_set(p->singles_asking, shard);
		p->singles_due = true;
	} else if (p->ids->opts.order == IDS_SHARDED) {
		demand_sharded(p, shard, d->slot, d->want);
	} else if (p->ids->opts.rate) {
		demand_capped(p, shard, d->slot, d->want);
	} else {
		demand_strict(p, shard, d->slot, d->want);
	}
}

void feed_window_ready(struct producer *p, uint32_t slot)
{
	struct window *w = &p->windows[slot];

	if (p->ids->singles != NULL) {
		p->singles_due = true;
	} else if (p->ids->opts.rate) {
		if (w->ticking)
			p->tick_due_ns = w->tick_due_ns = p->now_ns;
	} else if (p->ids->opts.order == IDS_SHARDED) {
		sharded_serve(p, slot);
	} else {
		uint64_t next = atomic_load_explicit(&p->ids->sequences[slot].next, memory_order_relaxed);

		w->released_end = w->durable_end;
		feed_strict_all(p, slot);
		if (w->want > sequence_left(next, w->released_end))
			window_reserve(p, slot, next, w->want);
		w->want = 0;
	}
}

void feed_creation(struct producer *p, struct ids_port *port, struct creation *c)
{
	struct feed f = {.kind = FEED_CREATION, .creation = c};

	port->fed = true;
	if (port->replies == NULL && spsc_push(&port->feed, &f))
		return;
	c->reply_next = NULL;
	*port->replies_tail = c;
	port->replies_tail = &c->reply_next;
	atomic_store_explicit(&port->owed, true, memory_order_relaxed); /* fence: feed_ring_shards */
}

/* ---- a turn ---- */

static void feed_tick(struct producer *p)
{
	uint32_t *link = &p->ticking;

	p->tick_due_ns = UINT64_MAX;
	while (*link != SLOT_NONE) {
		uint32_t slot = *link;
		struct window *w = &p->windows[slot];

		if (w->tick_due_ns <= p->now_ns)
			w->tick_due_ns = p->ids->opts.order == IDS_SHARDED ? tick_sharded(p, slot)
									   : tick_strict(p, slot);
		if (w->tick_due_ns == 0) {
			w->ticking = false;
			*link = w->ticking_next;
			continue;
		}
		if (w->tick_due_ns < p->tick_due_ns)
			p->tick_due_ns = w->tick_due_ns;
		link = &w->ticking_next;
	}
}

static bool feed_has_room(const struct ids_port *port)
{
	return spsc_count(&port->feed) < spsc_capacity(&port->feed);
}

/* Pushes what did not fit before. */
static void feed_pay(struct producer *p, unsigned shard, struct ids_port *port)
{
	uint32_t words = (p->ids->capacity + 63) / 64;

	atomic_store_explicit(&port->owed, false, memory_order_relaxed); /* set again by whatever does not fit */
	while (port->replies != NULL) {
		struct creation *c = port->replies, *next = c->reply_next;
		struct feed f = {.kind = FEED_CREATION, .creation = c};

		port->fed = true;
		if (!spsc_push(&port->feed, &f))
			break;
		port->replies = next;
	}
	if (port->replies == NULL)
		port->replies_tail = &port->replies;
	for (uint32_t i = 0; i < words && feed_has_room(port); i++) {
		for (uint64_t bits = port->owed_slots[i]; bits != 0 && feed_has_room(port); bits &= bits - 1) {
			uint32_t slot = 64 * i + (uint32_t)__builtin_ctzll(bits);

			bit_clear(port->owed_slots, slot);
			if (p->ids->opts.order == IDS_SHARDED) {
				bit_set(p->windows[slot].waiting, shard);
				sharded_serve(p, slot);
				if (p->ids->opts.rate)
					tick_start(p, slot);
			} else {
				feed_strict(p, shard, slot);
			}
		}
	}
	if (!feed_has_room(port))
		atomic_store_explicit(&port->owed, true, memory_order_relaxed);
}

void feed_turn(struct producer *p)
{
	if (p->singles_due)
		feed_singles(p);
	if (p->now_ns >= p->tick_due_ns)
		feed_tick(p);
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		struct ids_port *port = feed_port(p, i);

		if (port != NULL && atomic_load_explicit(&port->owed, memory_order_relaxed) && feed_has_room(port))
			feed_pay(p, i, port);
	}
}

void feed_ring_shards(struct producer *p)
{
	atomic_thread_fence(
		memory_order_seq_cst); /* pairs with view_set_hungry: what was pushed is seen, or that it waits is */
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		struct ids_port *port = feed_port(p, i);

		if (port == NULL || !port->fed)
			continue;
		port->fed = false;
		if (atomic_load_explicit(&port->hungry, memory_order_relaxed))
			doorbell_ring(port->bell);
	}
}

bool feed_is_owing(const struct producer *p, bool *ret_room)
{
	bool owing = false;

	*ret_room = false;
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		struct ids_port *port = feed_port(p, i);

		if (port == NULL || !atomic_load_explicit(&port->owed, memory_order_relaxed) ||
		    !atomic_load_explicit(&port->hungry, memory_order_relaxed))
			continue;
		owing = true;
		*ret_room |= feed_has_room(port);
	}
	return owing;
}
