/* Concurrency Kit for the members built on it, in a form that ThreadSanitizer can follow.
 *
 * CK's atomics are inline assembly, invisible to TSan. So TSan builds take CK's port to compiler builtins and replace
 * its loads and stores (volatile accesses there) by acquire loads and release stores, which is what they are on the
 * one memory model that CK calls TSO; the algorithms in CK's headers stay as they are. Reclamation (ck_epoch, ck_hp)
 * lives in libck, which is not instrumented: ck_grace_leave and ck_grace_over tell TSan what it promises, that
 * whoever left a section before the grace period ended has happened before what follows. A section that did not end
 * in time, or an access outside one, is still reported.
 *
 * One report is expected and suppressed in ck_tsan.c: _ck_ring_dequeue_mc reads a slot that a producer may be
 * overwriting, and throws the value away when its compare-and-swap then fails.
 */
#ifndef ORDINAL_QUEUE_FAMILY_CK_H
#define ORDINAL_QUEUE_FAMILY_CK_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FAMILY_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) && !defined(FAMILY_TSAN)
#define FAMILY_TSAN 1
#endif

#ifdef FAMILY_TSAN

#define CK_USE_CC_BUILTINS 1
#include <ck_pr.h>

#undef ck_pr_load_uint
#undef ck_pr_store_uint
#undef ck_pr_load_ptr
#undef ck_pr_store_ptr
#undef ck_pr_store_ptr_unsafe
#define ck_pr_load_uint(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ck_pr_store_uint(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define ck_pr_load_ptr(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ck_pr_store_ptr(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define ck_pr_store_ptr_unsafe(p, v) (*(void **)(p) = (void *)(v))

#ifndef CK_F_PR_CAS_PTR_2
#define CK_F_PR_CAS_PTR_2
_Bool __tsan_atomic128_compare_exchange_strong(volatile void *a, void *c, unsigned __int128 v, int mo, int fail_mo);
static inline bool ck_pr_cas_ptr_2(void *target, void *compare, void *set)
{
	unsigned __int128 old, new;

	__builtin_memcpy(&old, compare, sizeof old);
	__builtin_memcpy(&new, set, sizeof new);
	return __tsan_atomic128_compare_exchange_strong(target, &old, new, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define ck_grace_leave(p) __tsan_release(p)
#define ck_grace_over(p) __tsan_acquire(p)

#else

#define CK_USE_CC_BUILTINS 0 /* also under analysers, where CK would leave out the double compare-and-swap */
#define ck_grace_leave(p) ((void)(p))
#define ck_grace_over(p) ((void)(p))

#endif

#include <ck_epoch.h>
#include <ck_fifo.h>
#include <ck_hp.h>
#include <ck_ring.h>

#include "queue/family/blocking.h"

#include <sched.h>

_Static_assert(sizeof(void *) == sizeof(uint64_t), "CK's queues carry pointers, ours carry 64-bit items in them");

/* CK's rings keep one slot free: the size of the largest that holds no more than `capacity` (>= 3, the least that
 * ck_ring_init(3) allows). */
static inline unsigned ck_ring_size_for(uint32_t capacity)
{
	return 1u << (31 - __builtin_clz(capacity + 1));
}
#define CK_RING_CAPACITY_MIN 3

/* Many producers put into a ck_ring by taking a ticket (reserve), writing, and waiting until all earlier tickets are
 * committed. The library waits by spinning. When threads outnumber CPUs, a producer that loses its CPU between the two
 * makes the others burn theirs, each behind a ticket of its own, and from then on every item waits for the one
 * thread whose turn it is to be scheduled: a convoy that never dissolves. Two things are done about it: */

/* The wait for the turn gives up the CPU; but it does not sleep, and under SCHED_FIFO yielding lets only threads of the
 * same priority run: there all producers must have one priority. */
static inline void ck_ring_await_turn(struct ck_ring *ring, unsigned ticket)
{
	unsigned tries = 0;

	while (ck_pr_load_uint(&ring->p_tail) != ticket)
		if (!blocking_pause(&tries))
			sched_yield();
}

/* No ticket is taken before those that are out are committed: whoever lost his CPU finds nobody in his way when he runs
 * again. It costs no time, because the turn would not have come earlier. To be called before reserving. */
static inline void ck_ring_await_peers(struct ck_ring *ring)
{
	unsigned head = ck_pr_load_uint(&ring->p_head), tries = 0;

	while ((int)(ck_pr_load_uint(&ring->p_tail) - head) < 0)
		if (!blocking_pause(&tries))
			sched_yield();
}

#endif
