/* What all threads see of a sequence: its counter, its name, and how far its producer has come.
 *
 * Sequences live in one array that never moves; a sequence's index is its slot. `name` and
 * `incarnation` are written once, before the slot is published by ids.count, and never change: a
 * sequence that begins another life takes another slot. Slot 0 is always the default sequence "".
 */
#ifndef ORDINAL_QUEUE_SEQUENCE_H
#define ORDINAL_QUEUE_SEQUENCE_H

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "queue/ids.h"

#include <stdatomic.h>
#include <stdint.h>

/* Two cache lines: the adjacent-line prefetcher pulls them in pairs, and would make neighbours of strangers. */
#define SEQUENCE_ALIGN (2 * CACHE_LINE)

/* The end of everything: IDs go up to 2^64-2, so that an exclusive end always fits. */
#define SEQUENCE_END UINT64_MAX

struct sequence {
	/* strict: the next ID to be claimed, by any shard. sharded: the next ID to be fed, stored by the producer. */
	_Alignas(SEQUENCE_ALIGN) _Atomic uint64_t next;

	/* Written by the producer, read by all; all relaxed: nothing is claimed on the strength of these. */
	_Alignas(SEQUENCE_ALIGN) _Atomic uint64_t low_water; /* strict: a shard asks for more when fewer IDs are left */
	_Atomic uint64_t durable_end;                        /* exclusive */
	_Atomic uint64_t windows;                            /* made durable since start */
	_Atomic uint32_t window;                             /* its present size */
	uint32_t name_len;
	/* The number of this life of the sequence: random, not 0. Each record about the sequence
	 * has it, so it is durable before the first ID that is told with it. */
	uint64_t incarnation;
	char name[SEQUENCE_NAME_MAX + 1];
};

static inline struct span sequence_name(const struct sequence *s)
{
	return (struct span){(const uint8_t *)s->name, s->name_len};
}

/* Adds without passing SEQUENCE_END. */
static inline uint64_t sequence_add(uint64_t id, uint64_t n)
{
	return n > SEQUENCE_END - id ? SEQUENCE_END : id + n;
}

/* How far `end` is ahead of `id`; 0 when it is not. */
static inline uint64_t sequence_left(uint64_t id, uint64_t end)
{
	return end > id ? end - id : 0;
}

/* Valid UTF-8 without control characters (U+0000-001F, U+007F-009F), of at most SEQUENCE_NAME_MAX bytes. Any thread. */
bool sequence_name_ok(struct span name);

#endif
