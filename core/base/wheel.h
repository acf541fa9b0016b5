/* A hierarchical timer wheel (Varghese & Lauck 1987, scheme 7), owned by one thread.
 *
 * Ticks of one millisecond, 4 levels of 64 slots (about 4.6 hours; later timers sit in the last level and are re-hung).
 * Add and delete are O(1). A timer never fires early; it fires at most one tick and one loop turn late.
 */
#ifndef ORDINAL_CORE_BASE_WHEEL_H
#define ORDINAL_CORE_BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

struct timer {
	struct timer *next, *prev;                /* NULL when not armed */
	uint64_t due_ms;                          /* monotonic milliseconds */
	void (*fire)(struct timer *t, void *ctx); /* ctx is the wheel's */
};

#define WHEEL_LEVELS 4
#define WHEEL_SLOTS 64

struct wheel {
	uint64_t now_ms;
	uint64_t occupied[WHEEL_LEVELS]; /* one bit a slot */
	struct timer slots[WHEEL_LEVELS][WHEEL_SLOTS];
	struct timer expired; /* due, and about to be called; empty outside wheel_advance */
	void *ctx;
	uint32_t armed; /* readable by any thread: core/base/count.h */
};

void wheel_init(struct wheel *w, uint64_t now_ns, void *ctx);

/* Arms `t` (re-arms it if armed) to fire when the clock reaches due_ns. t->fire must be set. Due in the past: next
 * advance. */
void wheel_add(struct wheel *w, struct timer *t, uint64_t due_ns);
/* Disarms; harmless when not armed. A zero-filled timer counts as not armed. */
void wheel_del(struct wheel *w, struct timer *t);
static inline bool timer_is_armed(const struct timer *t)
{
	return t->next != 0;
}

/* Fires what is due. Callbacks may add and delete any timer, themselves too. Returns the number fired. */
unsigned wheel_advance(struct wheel *w, uint64_t now_ns);

/* The monotonic time in ns at which wheel_advance should next be called (a lower bound of the next due time), or
 * UINT64_MAX. */
uint64_t wheel_next_ns(const struct wheel *w);

#endif
