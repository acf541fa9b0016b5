/* The conformance suite of the queue family: what every member must do, as cases that can be run on any struct
 * family_ops.
 *
 * Each run is a process of its own with a watchdog outside: a case that stops making progress is a hang, whatever it
 * hangs in, and a crash is a fault like others. A fault ends the run at once. The limit is generous, because a hang
 * is for ever: it says how long a correct member may be kept from running by a busy machine, not how fast it is.
 */
#ifndef ORDINAL_TESTS_CONFORM_H
#define ORDINAL_TESTS_CONFORM_H

#include "queue/family/family.h"

#include <stdatomic.h>

enum conform_fault {
	CONFORM_LOST = 1,        /* an item that went in did not come out */
	CONFORM_REPEATED = 2,    /* an item came out twice, or one that never went in */
	CONFORM_DISORDER = 4,    /* not the order that is claimed */
	CONFORM_HANG = 8,        /* no progress */
	CONFORM_BOUND = 16,      /* more items inside than the bound, or none taken in */
	CONFORM_CLOSE = 32,      /* open after close, or closed before */
	CONFORM_UNEXPECTED = 64, /* any other result that the header does not allow */
	CONFORM_CRASH = 128,
};

#define CONFORM_HANG_S 60

struct conform;
struct conform_case {
	const char *name;
	void (*run)(struct conform *c);
};
extern const struct conform_case conform_cases[];
extern const unsigned conform_count;

/* A set of conform_fault, 0 when the member conforms; `why` gets a sentence. */
unsigned conform_run(const struct conform_case *k, const struct family_ops *ops, unsigned hang_s, char *why,
		     size_t cap);

/* ---- for the cases (conform_cases.c, conform_threads.c)
 * ------------------------------------------------------------------------- */

struct conform_shared {
	atomic_uint faults;
	atomic_ullong progress;
	char why[256];
};

struct conform {
	const struct family_ops *ops;
	struct conform_shared *shared; /* with the process that watches */
	unsigned producers, consumers; /* how many this member is run with */
};

/* Records the fault and ends the run. */
void conform_fault(struct conform *c, enum conform_fault fault, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
static inline void conform_progress(struct conform *c)
{
	atomic_fetch_add_explicit(&c->shared->progress, 1, memory_order_relaxed);
}
/* A queue of at least `capacity`, or as much more as the member needs. */
struct family_queue *conform_queue(struct conform *c, uint32_t capacity, uint32_t *ret_capacity);

/* Items: a producer's number and its sequence; never two consecutive values, so that no member makes ranges of them
 * by itself. */
static inline uint64_t conform_item(unsigned producer, uint64_t seq)
{
	return (uint64_t)producer << 40 | seq << 1;
}
static inline unsigned conform_producer(uint64_t item)
{
	return (unsigned)(item >> 40);
}
static inline uint64_t conform_seq(uint64_t item)
{
	return (item & ((UINT64_C(1) << 40) - 1)) >> 1;
}

void conform_empty(struct conform *c);
void conform_full(struct conform *c);
void conform_order(struct conform *c);
void conform_batches(struct conform *c);
void conform_close_drains(struct conform *c);

void conform_close_wakes_consumers(struct conform *c);
void conform_close_wakes_producers(struct conform *c);
void conform_every_item_wakes_one(struct conform *c);
void conform_every_space_wakes_one(struct conform *c);
void conform_stress(struct conform *c);
void conform_stress_small(struct conform *c);
void conform_stress_batch(struct conform *c);
void conform_close_midway(struct conform *c);
void conform_suspended_peer(struct conform *c);

#endif
