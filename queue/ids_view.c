/* One shard's view of all sequences: requests wait here, are served in order, and whoever cannot be served asks the
 * producer.
 *
 * Runs on the shard's thread, but for the two getters at the end. Names and creations are in ids_create.c.
 *
 * A sequence in a turn:
 *
 *              request, range, front cancelled               view_serve: all answered
 *     resting ------------------------------> touched ----------------------------------> resting
 *                                               ^  | view_serve: the front does not fit
 *            view_take_range, front cancelled   |  v view_ask
 *                                              parked (asked, or final and refused)
 *
 * Invariants:
 *  - `total` is the sum of the counts of all that wait for the sequence, those of a batch being answered included.
 *  - After a turn, a sequence that has a request waiting is parked and has a demand under way, which the producer will
 *    answer. The demand is for no more than the request in front needs: one that was for a request that has been taken
 *    back is revised.
 *  - A request is only ever given IDs that were claimed after it was made: a batch is cut off before its claim, and
 *    what comes in during its callbacks waits for the next claim. (Else it might get an ID below one that its sender
 *    has seen.)
 *  - IDs are claimed in strict order only below `end`, which came through the ring after the window was durable.
 *
 * In the comparison mode (queue/singles.h) there are no claims: requests take IDs out of a queue, and what the producer
 * answers to a demand says only that it is worth looking again.
 *
 * The counter is a compare-and-swap, not a fetch-and-add: an ID beyond `end` must not be taken and then wait for its
 * window, because another shard would meanwhile answer higher ones. It also lets a batch that shrinks in its callbacks
 * (a connection closed) give back what it did not use, if nobody has claimed since.
 */
#include "queue/ids_view.h"

#include <stdlib.h>

#define VIEW_ROUNDS 8 /* of requests made in answers to requests, in one turn */

struct ids_view *ids_view_new(struct ids *ids, unsigned shard, struct doorbell *bell)
{
	struct ids_view *v = aligned_alloc(CACHE_LINE, (sizeof *v + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	struct ids_port *port = aligned_alloc(CACHE_LINE, (sizeof *port + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);

	CHECK(shard < ids->opts.shards);
	CHECK(atomic_load_explicit(&ids->ports[shard], memory_order_relaxed) == NULL);
	if (v == NULL || port == NULL)
		goto out_free;
	memset(v, 0, sizeof *v);
	memset(port, 0, sizeof *port);
	v->seqs = ids_map(ids->capacity * sizeof *v->seqs);
	port->owed_slots = calloc((ids->capacity + 63) / 64, sizeof *port->owed_slots);
	if (v->seqs == NULL || port->owed_slots == NULL ||
	    spsc_init(&port->feed, ids->opts.queue_depth, sizeof(struct feed)) != 0 ||
	    spsc_init(&port->demand, IDS_DEMAND_DEPTH, sizeof(struct demand)) != 0)
		goto out_free;
	v->ids = ids;
	v->port = port;
	if (view_names_init(v) != 0)
		goto out_free;
	v->sequences = ids->sequences;
	v->count_max = ids->opts.count_max;
	v->mode = ids->opts.order == IDS_SHARDED ? VIEW_SHARDED : VIEW_STRICT;
	v->who = shard;
	v->singles = ids->singles;
	if (v->singles != NULL) {
		v->mode = VIEW_SINGLES;
		if (!singles_takes_many(v->singles))
			v->count_max = 1;
	}
	v->touched = v->later = SLOT_END;
	port->bell = bell;
	port->replies_tail = &port->replies;
	atomic_store_explicit(&ids->ports[shard], port, memory_order_release); /* pairs with producer_turn */
	return v;

out_free:
	if (port != NULL) {
		spsc_done(&port->feed);
		spsc_done(&port->demand);
		free(port->owed_slots);
	}
	if (v != NULL)
		ids_unmap(v->seqs, ids->capacity * sizeof *v->seqs);
	free(port);
	free(v);
	return NULL;
}

/* The port stays with the ids: the producer may still look at it. */
void ids_view_free(struct ids_view *v)
{
	if (v == NULL)
		return;
	atomic_store_explicit(&v->port->hungry, false, memory_order_relaxed);
	view_names_done(v);
	ids_unmap(v->seqs, v->ids->capacity * sizeof *v->seqs);
	free(v);
}

static inline void stat_add(uint64_t *stat, uint64_t n)
{
	__atomic_store_n(stat, __atomic_load_n(stat, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint32_t view_slot(const struct ids_view *v, const struct view_seq *s)
{
	return (uint32_t)(s - v->seqs);
}

static inline void view_touch(struct ids_view *v, struct view_seq *s)
{
	if (s->touched_next != SLOT_UNLISTED)
		return;
	s->touched_next = v->touched;
	v->touched = view_slot(v, s) + 1;
}

static inline bool view_seq_is_empty(const struct view_seq *s)
{
	return s->q.next == &s->q;
}

static inline __attribute__((always_inline)) void enqueue(struct ids_view *v, struct ids_wait *w, uint32_t slot,
							  uint32_t count)
{
	struct view_seq *s = &v->seqs[slot];

	DCHECK(w->next == NULL);
	if (unlikely(s->q.next == NULL))
		s->q.next = s->q.prev = &s->q;
	if (view_seq_is_empty(s))
		view_touch(v, s); /* else it is touched already, or parked, and this one is behind the front */
	w->slot = slot;
	w->count = count;
	wait_append(&s->q, w);
	s->total += count;
	s->waits++;
	v->waiting++;
}

void view_enqueue(struct ids_view *v, struct ids_wait *w, uint32_t slot, uint32_t count)
{
	enqueue(v, w, slot, count);
}

enum ids_error ids_view_request(struct ids_view *v, struct ids_wait *w, struct span sequence, uint32_t count)
{
	if (unlikely(count - 1 >= v->count_max)) /* 0 too */
		return v->singles != NULL && !singles_takes_many(v->singles) ? IDS_E_SINGLES : IDS_E_COUNT;
	if (sequence.n != 0)
		return view_request_named(v, w, sequence, count);
	enqueue(v, w, 0, count);
	return IDS_E_OK;
}

void ids_view_cancel(struct ids_view *v, struct ids_wait *w)
{
	if (w->next == NULL)
		return;
	v->waiting--;
	if (w->slot != IDS_SLOT_NEW) {
		struct view_seq *s = &v->seqs[w->slot];

		s->total -= w->count;
		s->waits--;
		if (s->counted > s->waits)
			s->counted = s->waits;
		if (w->prev == &s->q)
			view_touch(v, s); /* those behind it may fit */
	}
	wait_unlink(w);
}

/* ---- asking ---- */

/* What the request in front needs; 0: none waits. */
static uint32_t view_want(const struct view_seq *s)
{
	return s->total != 0 ? s->q.next->count : 0;
}

/* Puts the slot's demand, or its revision, into the ring, or into the list that each turn tries again. That there will
 * be such a turn: the ring is full of demands that the producer is going to answer. */
static void view_send_demand(struct ids_view *v, struct view_seq *s, bool revises)
{
	struct demand d = {.slot = view_slot(v, s), .want = view_want(s), .revises = revises};

	if (spsc_push(&v->port->demand, &d)) {
		v->ring = true;
		s->asked_want = d.want;
		s->unsent = VIEW_UNSENT_NOTHING;
		return;
	}
	s->unsent = revises ? VIEW_UNSENT_REVISION : VIEW_UNSENT_DEMAND;
	if (s->later_next != SLOT_UNLISTED)
		return;
	s->later_next = v->later;
	v->later = view_slot(v, s) + 1;
}

/* The demand under way may be for a request that was taken back: nobody waits for its IDs, and those who wait now are
 * not to wait until there are so many. */
static void view_revise(struct ids_view *v, struct view_seq *s)
{
	if (s->asked && s->unsent != VIEW_UNSENT_DEMAND && view_want(s) < s->asked_want)
		view_send_demand(v, s, true);
}

static inline void view_ask(struct ids_view *v, struct view_seq *s)
{
	if (s->final)
		return;
	if (s->asked) {
		view_revise(v, s);
		return;
	}
	s->asked = true;
	view_send_demand(v, s, false);
}

static void view_send_later(struct ids_view *v)
{
	uint32_t i = v->later;

	v->later = SLOT_END;
	while (i != SLOT_END) {
		struct view_seq *s = &v->seqs[i - 1];

		i = s->later_next;
		s->later_next = SLOT_UNLISTED;
		if (s->unsent == VIEW_UNSENT_DEMAND)
			view_send_demand(v, s, false);
		else if (s->unsent == VIEW_UNSENT_REVISION)
			view_send_demand(v, s, true);
	}
	view_send_creations(v);
}

/* ---- serving ---- */

/* How many IDs the front requests want, as many as fit whole into `room`. *ret_stop: the first that does not fit. */
static inline uint64_t view_fit(struct view_seq *s, uint64_t room, struct ids_wait **ret_stop)
{
	struct ids_wait *w;
	uint64_t sum = 0;

	*ret_stop = &s->q;
	if (likely(s->total <= room))
		return s->total;
	for (w = s->q.next; w != &s->q && w->count <= room - sum; w = w->next)
		sum += w->count;
	*ret_stop = w;
	return sum;
}

/* Answers the requests in front of `stop` with the IDs from `first` on, and returns how many IDs that were: all of
 * theirs, less those of requests that were cancelled in the callbacks. Requests made in the callbacks are not part of
 * the batch. */
static uint64_t view_answer(struct ids_view *v, struct view_seq *s, struct ids_wait *stop, uint64_t first,
			    const struct ids_view_ops *ops, void *ctx)
{
	uint64_t id = first, incarnation = v->sequences[view_slot(v, s)].incarnation;
	struct ids_wait batch, *w;
	uint32_t answered = 0;

	/* Cut the batch out of the queue: the callbacks may take from it and add to the queue. */
	batch.next = s->q.next;
	batch.prev = stop->prev;
	batch.next->prev = &batch;
	batch.prev->next = &batch;
	s->q.next = stop;
	stop->prev = &s->q;

	while ((w = batch.next) != &batch) {
		uint32_t count = w->count;

		batch.next = w->next;
		w->next->prev = &batch;
		__builtin_prefetch(w->next->next);
		w->next = w->prev = NULL;
		s->total -= count;
		v->waiting--;
		ops->answer(ctx, w, id, incarnation);
		id += count;
		answered++;
	}
	s->waits -= answered;
	s->counted -= s->counted < answered ? s->counted : answered;
	stat_add(&v->stats.claims, 1);
	stat_add(&v->stats.ids, id - first);
	return id - first;
}

/* The front can never be served. Taking it back touches the sequence, so those behind it are looked at in the next
 * round. */
static void view_refuse_front(struct ids_view *v, struct view_seq *s, enum ids_error why,
			      const struct ids_view_ops *ops, void *ctx)
{
	struct ids_wait *w = s->q.next;

	ids_view_cancel(v, w);
	ops->refused(ctx, w, why);
}

/* Those left over wait for a range, if there may be one. */
static void view_park(struct ids_view *v, struct view_seq *s, const struct ids_view_ops *ops, void *ctx)
{
	while (unlikely(v->refusing != IDS_E_OK) && !view_seq_is_empty(s))
		view_refuse_front(v, s, v->refusing, ops, ctx);
	if (view_seq_is_empty(s))
		return;
	stat_add(&v->stats.parked, s->waits - s->counted);
	s->counted = s->waits;
	view_ask(v, s);
}

static void view_serve_strict(struct ids_view *v, struct view_seq *s, const struct ids_view_ops *ops, void *ctx)
{
	struct sequence *q = &v->sequences[view_slot(v, s)];
	uint64_t next = atomic_load_explicit(&q->next, memory_order_relaxed), take, used;
	struct ids_wait *stop;

	/* A stale `next` costs a round; a claim is never made on one, because the swap fails then. */
	do {
		take = view_fit(s, sequence_left(next, s->end), &stop);
		if (take == 0)
			break;
	} while (!atomic_compare_exchange_weak_explicit(&q->next, &next, next + take, memory_order_acq_rel,
							memory_order_relaxed));

	if (take != 0) {
		used = view_answer(v, s, stop, next, ops, ctx);
		next += take;
		if (unlikely(used != take) &&
		    atomic_compare_exchange_strong_explicit(&q->next, &(uint64_t){next}, next - (take - used),
							    memory_order_acq_rel, memory_order_relaxed))
			next -= take - used;
	}
	if (stop != &s->q && !view_seq_is_empty(s)) {
		if (s->final && s->q.next->count > sequence_left(next, s->end)) {
			view_refuse_front(v, s, IDS_E_EXHAUSTED, ops, ctx);
			return;
		}
		view_park(v, s, ops, ctx);
	} else if (sequence_left(next, s->end) < atomic_load_explicit(&q->low_water, memory_order_relaxed)) {
		view_ask(v, s);
	}
}

static void view_serve_sharded(struct ids_view *v, struct view_seq *s, const struct ids_view_ops *ops, void *ctx)
{
	struct ids_wait *stop;
	uint64_t take;

	for (;;) {
		take = view_fit(s, s->end - s->first, &stop);
		if (take != 0) {
			s->first += view_answer(v, s, stop, s->first, ops, ctx);
			if (stop == &s->q || view_seq_is_empty(s))
				break; /* what came in meanwhile has touched it again */
			continue;
		}
		/* The front does not fit: it needs one piece, so the rest of this one is skipped, unless the next one
		 * adjoins. */
		if (s->ahead_first != s->ahead_end) {
			if (s->end != s->ahead_first)
				s->first = s->ahead_first;
			s->end = s->ahead_end;
			s->ahead_first = s->ahead_end = 0;
		} else if (s->final) {
			view_refuse_front(v, s, IDS_E_EXHAUSTED, ops, ctx);
			return;
		} else {
			view_park(v, s, ops, ctx);
			return;
		}
	}
	if (s->ahead_first == s->ahead_end)
		view_ask(v, s);
}

/* Each request takes its IDs when its turn comes, so after it was made. */
static void view_serve_singles(struct ids_view *v, struct view_seq *s, const struct ids_view_ops *ops, void *ctx)
{
	for (uint32_t n = s->waits; n > 0 && !view_seq_is_empty(s); n--) {
		struct ids_wait *w = s->q.next;
		uint64_t first;

		if (!singles_take(v->singles, v->who, w->count, &first)) {
			v->taken = 0;
			if (s->final)
				view_refuse_front(v, s, IDS_E_EXHAUSTED, ops, ctx);
			else
				view_park(v, s, ops, ctx);
			return;
		}
		wait_unlink(w);
		s->total -= w->count;
		s->waits--;
		s->counted -= s->counted != 0;
		v->waiting--;
		v->taken += w->count;
		stat_add(&v->stats.claims, 1);
		stat_add(&v->stats.ids, w->count);
		ops->answer(ctx, w, first, v->sequences[0].incarnation);
	}
	if (!view_seq_is_empty(s))
		view_touch(v, s); /* what was requested in the answers */
	if (v->taken >= singles_refill(v->singles)) {
		v->taken = 0;
		view_ask(v, s);
	}
}

/* ---- a turn ---- */

static void view_take_range(struct ids_view *v, const struct feed *f)
{
	struct view_seq *s = &v->seqs[f->slot];
	uint64_t end = f->first + f->count;

	stat_add(&v->stats.ranges, 1);
	s->asked = false;
	s->unsent = VIEW_UNSENT_NOTHING;
	s->final |= f->final;
	if (s->total != 0)
		view_touch(v, s);
	if (v->mode != VIEW_SHARDED) {
		if (end > s->end)
			s->end = end;
		return;
	}
	if (f->count == 0)
		return;
	if (s->first == s->end) {
		s->first = f->first;
		s->end = end;
	} else {
		/* It asks only when it has none ahead, and gets one range for one demand. */
		CHECK(s->ahead_first == s->ahead_end);
		CHECK(f->first >= s->end);
		s->ahead_first = f->first;
		s->ahead_end = end;
	}
}

static void view_take_feed(struct ids_view *v, const struct ids_view_ops *ops, void *ctx)
{
	struct feed f;

	while (spsc_pop(&v->port->feed, &f)) {
		if (f.kind == FEED_RANGE)
			view_take_range(v, &f);
		else
			view_created(v, f.creation, ops, ctx);
	}
}

static void view_serve_touched(struct ids_view *v, const struct ids_view_ops *ops, void *ctx)
{
	for (unsigned round = 0; round < VIEW_ROUNDS && v->touched != SLOT_END; round++) {
		uint32_t i = v->touched;

		v->touched = SLOT_END;
		while (i != SLOT_END) {
			struct view_seq *s = &v->seqs[i - 1];

			i = s->touched_next;
			s->touched_next = SLOT_UNLISTED;
			if (view_seq_is_empty(s)) {
				view_revise(v, s);
				continue;
			}
			if (unlikely(v->refusing == IDS_E_LOST))
				view_park(v, s, ops, ctx);
			else if (likely(v->mode == VIEW_STRICT))
				view_serve_strict(v, s, ops, ctx);
			else if (v->mode == VIEW_SHARDED)
				view_serve_sharded(v, s, ops, ctx);
			else
				view_serve_singles(v, s, ops, ctx);
		}
	}
}

/* Tells the producer whether to wake this shard. True: what it pushed before it could know may lie in the ring. */
static bool view_set_hungry(struct ids_view *v)
{
	bool hungry = v->waiting != 0;

	if (likely(hungry == v->hungry))
		return false;
	v->hungry = hungry;
	atomic_store_explicit(&v->port->hungry, hungry, memory_order_relaxed);
	if (!hungry)
		return false;
	atomic_thread_fence(memory_order_seq_cst); /* pairs with feed_ring_shards */
	if (atomic_load_explicit(&v->port->owed, memory_order_relaxed))
		v->ring = true;
	return spsc_count(&v->port->feed) != 0;
}

/* Whether those who have to wait are refused from here on. */
static void view_look_for_trouble(struct ids_view *v)
{
	/* pairs with producer_tell */
	enum ids_error e = (enum ids_error)atomic_load_explicit(&v->ids->trouble, memory_order_acquire);

	if (e == IDS_E_OK && journal_has_failed(v->ids->journal))
		e = IDS_E_FAILED;
	if (likely(e == v->refusing))
		return;
	v->refusing = e;
	for (uint32_t slot = 0; slot < v->ids->count; slot++)
		if (v->seqs[slot].waits != 0)
			view_touch(v, &v->seqs[slot]);
}

void ids_view_turn(struct ids_view *v, const struct ids_view_ops *ops, void *ctx)
{
	if (v->waiting != 0)
		view_look_for_trouble(v);
	do {
		if (spsc_count(&v->port->feed) != 0)
			view_take_feed(v, ops, ctx);
		if (v->touched != SLOT_END)
			view_serve_touched(v, ops, ctx);
		if (unlikely(v->refusing != IDS_E_OK && v->creating != 0))
			view_refuse_creations(v, ops, ctx);
		if (unlikely(v->later != SLOT_END || v->later_creations != NULL))
			view_send_later(v);
	} while (view_set_hungry(v));
	if (v->ring) {
		v->ring = false;
		doorbell_ring(&v->ids->bell);
	}
}

uint32_t ids_view_waiting(const struct ids_view *v)
{
	return v->waiting;
}

bool ids_view_has_work(const struct ids_view *v)
{
	return v->touched != SLOT_END || spsc_count(&v->port->feed) != 0;
}

const struct ids_view_stats *ids_view_stats(const struct ids_view *v)
{
	return &v->stats;
}

uint32_t ids_view_queue_depth(const struct ids_view *v)
{
	return spsc_count(&v->port->feed);
}
