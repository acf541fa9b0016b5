/* What members share among themselves: the list of them, and memory. Not for users of the family. */
#ifndef ORDINAL_QUEUE_FAMILY_MEMBERS_H
#define ORDINAL_QUEUE_FAMILY_MEMBERS_H

#include "core/base/check.h"
#include "queue/family/family.h"

extern const struct family_ops family_basic, family_basic_out;
extern const struct family_ops family_linked;
extern const struct family_ops family_double;
#define FAMILY_MPMC_VARIANTS 16
extern const struct family_ops family_mpmc[FAMILY_MPMC_VARIANTS];
extern const struct family_ops family_double_waiters_new, family_double_waiters_old;
extern const struct family_ops family_kfifo_spsc, family_kfifo_mpmc;
extern const struct family_ops family_ck_ring_spsc, family_ck_ring_mpmc;
extern const struct family_ops family_ck_fifo_spsc, family_ck_fifo_epoch, family_ck_fifo_hp;
extern const struct family_ops family_sharded;
extern const struct family_ops family_ranges_spsc, family_ranges_mpmc;

/* Zero-filled, on cache lines of its own; NULL when there is none. Freed with free(). */
void *family_alloc(size_t size);

/* The smallest power of two that is n or more, for n up to 2^31. */
static inline uint32_t family_pow2_up(uint32_t n)
{
	return n <= 1 ? 1 : 1u << (32 - __builtin_clz(n - 1));
}

#endif
