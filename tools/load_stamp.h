/* What the load generator writes at the beginning of each payload that it publishes, so that who receives it knows whose it is, which one, and how
 * long it took. Little-endian; clocks are of this machine. Pure. */
#ifndef ORDINAL_TOOLS_LOAD_STAMP_H
#define ORDINAL_TOOLS_LOAD_STAMP_H

#include "core/base/bytes.h"

#define LOAD_STAMP 28
#define LOAD_STAMP_MAGIC 0x31444c4fu /* "OLD1" */

struct load_stamp {
	uint32_t publisher; /* from 0 */
	uint64_t number;    /* of this publisher's frames, from 0 */
	uint64_t sent_ns;   /* CLOCK_MONOTONIC: when it was sent, or due */
};

/* Names a run; not 0. */
static inline uint64_t load_stamp_run(uint32_t random)
{
	return (uint64_t)random << 32 | LOAD_STAMP_MAGIC;
}

static inline void load_stamp_put(uint8_t *p, uint64_t run, const struct load_stamp *s)
{
	store_le64(p, run);
	store_le32(p + 8, s->publisher);
	store_le64(p + 12, s->number);
	store_le64(p + 20, s->sent_ns);
}

/* The run that a payload is of; 0: none. */
static inline uint64_t load_stamp_run_of(struct span payload)
{
	return payload.n >= LOAD_STAMP && load_le32(payload.p) == LOAD_STAMP_MAGIC ? load_le64(payload.p) : 0;
}

static inline struct load_stamp load_stamp_get(const uint8_t *p)
{
	return (struct load_stamp){load_le32(p + 8), load_le64(p + 12), load_le64(p + 20)};
}

#endif
