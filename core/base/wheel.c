/* The timer wheel.
 *
 * A slot of level L spans 64^L ticks. A timer due in d ticks hangs in the lowest level with d < 64^(L+1), in the slot
 * of its due time. When now_ms enters a slot of level L > 0 (its low 6L bits are 0), what hangs there is hung again and
 * falls at least one level; timers beyond the last level wait in its farthest slot and are hung again when it comes up.
 *
 * Invariants
 *  1. occupied[L] has bit s exactly when slots[L][s] is not empty.
 *  2. The slot that now_ms is in holds, on level 0, only timers that are due already (added late); on level L > 0, only
 *     timers of the next time round.
 *  3. due_ms is the due time rounded up, now_ms the time rounded down: nothing fires early.
 *  4. wheel_advance moves all that is due to `expired` first, sets now_ms to its end, and only then calls out. So a
 *     callback that arms a timer in the past cannot keep the call from ending, and one that deletes a timer that is due
 *     unhooks it in time.
 *
 * Empty time is skipped by the bit maps, so an advance costs the number of timers and cascades in it, not its ticks.
 * Runs on the owner's thread.
 */
#include "core/base/wheel.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/count.h"

#include <stddef.h>

#define SLOT_BITS 6
#define SLOT_MASK (WHEEL_SLOTS - 1)
#define SPAN_MS (UINT64_C(1) << (SLOT_BITS * WHEEL_LEVELS))

static void list_init(struct timer *head)
{
	head->next = head->prev = head;
}

static void list_append(struct timer *head, struct timer *t)
{
	t->prev = head->prev;
	t->next = head;
	head->prev->next = t;
	head->prev = t;
}

/* Takes t off its list and keeps invariant 1: the last timer of a slot clears its bit. */
static void unlink_timer(struct wheel *w, struct timer *t)
{
	struct timer *neighbour = t->next;

	t->prev->next = t->next;
	t->next->prev = t->prev;
	t->next = t->prev = NULL;
	if (neighbour->next == neighbour && neighbour != &w->expired) {
		size_t i = (size_t)(neighbour - &w->slots[0][0]);

		w->occupied[i / WHEEL_SLOTS] &= ~(UINT64_C(1) << (i % WHEEL_SLOTS));
	}
}

static void hang(struct wheel *w, struct timer *t)
{
	uint64_t due = t->due_ms > w->now_ms ? t->due_ms : w->now_ms;
	unsigned level = 0, slot;

	if (due - w->now_ms >= SPAN_MS)
		due = w->now_ms + SPAN_MS - 1;
	while ((due - w->now_ms) >> (SLOT_BITS * (level + 1)) != 0)
		level++;
	slot = (unsigned)(due >> (SLOT_BITS * level)) & SLOT_MASK;
	list_append(&w->slots[level][slot], t);
	w->occupied[level] |= UINT64_C(1) << slot;
}

void wheel_init(struct wheel *w, uint64_t now_ns, void *ctx)
{
	w->now_ms = now_ns / NS_PER_MS;
	w->ctx = ctx;
	w->armed = 0;
	list_init(&w->expired);
	for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
		w->occupied[l] = 0;
		for (unsigned s = 0; s < WHEEL_SLOTS; s++)
			list_init(&w->slots[l][s]);
	}
}

void wheel_add(struct wheel *w, struct timer *t, uint64_t due_ns)
{
	DCHECK(t->fire != NULL);
	wheel_del(w, t);
	t->due_ms = due_ns / NS_PER_MS + (due_ns % NS_PER_MS != 0);
	hang(w, t);
	count_add(&w->armed, 1);
}

void wheel_del(struct wheel *w, struct timer *t)
{
	if (!timer_is_armed(t))
		return;
	unlink_timer(w, t);
	count_add(&w->armed, -1u);
}

static uint64_t rotate_right(uint64_t v, unsigned n)
{
	return n == 0 ? v : v >> n | v << (64 - n);
}

/* The first tick at or after now_ms at which a slot comes up, to be fired or hung again; UINT64_MAX if all are
 * empty. */
static uint64_t next_tick(const struct wheel *w)
{
	uint64_t best = UINT64_MAX;

	if (w->occupied[0] != 0) {
		uint64_t ahead = rotate_right(w->occupied[0], (unsigned)w->now_ms & SLOT_MASK);

		best = w->now_ms + (unsigned)__builtin_ctzll(ahead);
	}
	for (unsigned l = 1; l < WHEEL_LEVELS; l++) {
		uint64_t at = w->now_ms >> (SLOT_BITS * l), ahead, tick;

		if (w->occupied[l] == 0)
			continue;
		/* From the slot after the present one: the present one comes up a whole round later (invariant 2). */
		ahead = rotate_right(w->occupied[l], (unsigned)(at + 1) & SLOT_MASK);
		tick = (at + 1 + (unsigned)__builtin_ctzll(ahead)) << (SLOT_BITS * l);
		if (tick < best)
			best = tick;
	}
	return best;
}

/* now_ms has just come to a tick: hang again what hangs in the slots that begin here, from the top down. No timer can
 * fall back into the slot that it is taken from: it is due before that slot ends, or is put 63 slots ahead. */
static void cascade(struct wheel *w)
{
	for (unsigned l = WHEEL_LEVELS - 1; l > 0; l--) {
		struct timer *head;

		if ((w->now_ms & ((UINT64_C(1) << (SLOT_BITS * l)) - 1)) != 0)
			continue;
		head = &w->slots[l][(w->now_ms >> (SLOT_BITS * l)) & SLOT_MASK];
		while (head->next != head) {
			struct timer *t = head->next;

			unlink_timer(w, t);
			hang(w, t);
		}
	}
}

static void expire(struct wheel *w)
{
	struct timer *head = &w->slots[0][w->now_ms & SLOT_MASK];

	while (head->next != head) {
		struct timer *t = head->next;

		unlink_timer(w, t);
		list_append(&w->expired, t);
	}
}

unsigned wheel_advance(struct wheel *w, uint64_t now_ns)
{
	uint64_t end = now_ns / NS_PER_MS;
	unsigned fired = 0;

	expire(w); /* what was added when it was due already */
	while (w->now_ms < end) {
		uint64_t tick = next_tick(w);

		w->now_ms = tick < end ? tick : end;
		if (tick > end)
			break;
		cascade(w);
		expire(w);
	}
	while (w->expired.next != &w->expired) {
		struct timer *t = w->expired.next;

		unlink_timer(w, t);
		count_add(&w->armed, -1u);
		fired++;
		t->fire(t, w->ctx);
	}
	return fired;
}

uint64_t wheel_next_ns(const struct wheel *w)
{
	uint64_t tick = next_tick(w);

	return tick > UINT64_MAX / NS_PER_MS ? UINT64_MAX : tick * NS_PER_MS;
}
