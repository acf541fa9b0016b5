/* Counters that one thread writes and any thread may read: a relaxed load and a relaxed store, which cost no more than a plain increment, since
 * nobody else writes. A reader sees a recent value, never a torn one; sums over several counters are not taken at one instant. */
#ifndef ORDINAL_CORE_BASE_COUNT_H
#define ORDINAL_CORE_BASE_COUNT_H

#include <stdint.h>

/* Adds n (may be negative: counts wrap) to a uint32_t or uint64_t of the calling thread's own. */
#define count_add(p, n)                                                                                                \
	do {                                                                                                           \
		__auto_type count_p_ = (p);                                                                            \
		__atomic_store_n(count_p_, __atomic_load_n(count_p_, __ATOMIC_RELAXED) + (n), __ATOMIC_RELAXED);       \
	} while (0)

/* Any thread. */
#define count_get(p) __atomic_load_n((p), __ATOMIC_RELAXED)

#endif
