/* Wakes a thread that has said that it sleeps, and costs its callers nothing while it is awake.
 *
 * Sleeper:                              Ringer:
 *   doorbell_arm(b)                       make the work visible (push to a ring, store a counter)
 *   check once more for work              doorbell_ring(b)
 *   none: wait for b->fd to be readable
 *   doorbell_disarm(b)
 *
 * Both sides put a sequentially consistent fence between their store and their load, so at least one sees the other
 * (Dekker). The file descriptor is an eventfd: a shard reads it through its ring, other threads poll it.
 */
#ifndef ORDINAL_CORE_BASE_DOORBELL_H
#define ORDINAL_CORE_BASE_DOORBELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct doorbell {
	_Alignas(64) atomic_bool sleeping;
	int fd;
	atomic_uint_fast64_t rings; /* how often the eventfd was written: for stats */
};

/* 0 or -errno. */
int doorbell_init(struct doorbell *b);
void doorbell_done(struct doorbell *b);

/* The owner is about to sleep; it must look for work once more after this. */
static inline void doorbell_arm(struct doorbell *b)
{
	atomic_store_explicit(&b->sleeping, true, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst); /* pairs with doorbell_ring */
}
/* The owner is awake again. Does not consume the eventfd's count. */
static inline void doorbell_disarm(struct doorbell *b)
{
	atomic_store_explicit(&b->sleeping, false, memory_order_relaxed);
}

/* Slow half of doorbell_ring: takes the flag and writes the eventfd. */
void doorbell_write(struct doorbell *b);

/* Any thread, after its work is visible. */
static inline void doorbell_ring(struct doorbell *b)
{
	atomic_thread_fence(memory_order_seq_cst); /* pairs with doorbell_arm */
	if (atomic_load_explicit(&b->sleeping, memory_order_relaxed))
		doorbell_write(b);
}

/* For threads without a ring: arm must have been called and work looked for. Waits until rung or timeout_ns
 * (UINT64_MAX: no limit) has passed, consumes the count, disarms. Returns true when rung. */
bool doorbell_wait(struct doorbell *b, uint64_t timeout_ns);

#endif
