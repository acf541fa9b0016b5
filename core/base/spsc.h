/* A single-producer single-consumer queue of fixed-size elements, wait-free: what crosses threads here goes through one
 * of these.
 *
 * Concurrency Kit's ck_ring underneath. Its atomics are invisible to ThreadSanitizer, which would report every element
 * as a race; so in TSan builds the same interface is a twin on C11 atomics, with the same capacity and the same
 * ordering. An element is copied in and out. Whoever pushes into the queue of a thread that may sleep rings that
 * thread's doorbell afterwards.
 *
 * Push: the producer's thread only. Pop: the consumer's thread only. Count: any thread. Init and done: nobody else is
 * using it.
 * Source: ck_ring(3); Lamport, "Specifying concurrent program modules", 1983 (the queue of two counters).
 */
#ifndef ORDINAL_CORE_BASE_SPSC_H
#define ORDINAL_CORE_BASE_SPSC_H

#include "core/base/check.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SPSC_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) && !defined(SPSC_TSAN)
#define SPSC_TSAN 1
#endif

#ifdef SPSC_TSAN
#include <stdatomic.h>
struct spsc_ring {
	_Alignas(CACHE_LINE) atomic_uint head; /* next to pop; stored by the consumer */
	_Alignas(CACHE_LINE) atomic_uint tail; /* next to push; stored by the producer */
	_Alignas(CACHE_LINE) unsigned int size, mask;
};
#else
#include <ck_ring.h>
#endif

#define SPSC_DEPTH_MAX (1u << 24)

struct spsc {
#ifdef SPSC_TSAN
	struct spsc_ring ring;
#else
	_Alignas(CACHE_LINE) struct ck_ring ring;
#endif
	uint32_t elem_size;
	void *buf;
};

/* Room for at least `depth` elements (1 to SPSC_DEPTH_MAX) of `elem_size` bytes. The real capacity is the next power
 * of two above depth, less one. 0, -EINVAL or -ENOMEM. */
static inline int spsc_init(struct spsc *s, uint32_t depth, uint32_t elem_size)
{
	uint32_t size = 2;
	size_t bytes;

	if (depth == 0 || depth > SPSC_DEPTH_MAX || elem_size == 0)
		return -EINVAL;
	while (size < depth + 1) /* the ring keeps one slot free to tell full from empty */
		size <<= 1;
	bytes = ((size_t)size * elem_size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
	memset(s, 0, sizeof *s);
	s->buf = aligned_alloc(CACHE_LINE, bytes);
	if (s->buf == NULL)
		return -ENOMEM;
	s->elem_size = elem_size;
#ifdef SPSC_TSAN
	s->ring.size = size;
	s->ring.mask = size - 1;
#else
	ck_ring_init(&s->ring, size);
#endif
	return 0;
}

/* Frees the memory; elements still inside are forgotten. Harmless on a zero-filled or finished queue. */
static inline void spsc_done(struct spsc *s)
{
	free(s->buf);
	s->buf = NULL;
}

/* Elements inside: exact for the two owners when the other is still, a recent value for anybody else. */
static inline uint32_t spsc_count(const struct spsc *s)
{
#ifdef SPSC_TSAN
	struct spsc_ring *r = (struct spsc_ring *)&s->ring;
	unsigned int head = atomic_load_explicit(&r->head, memory_order_acquire);

	return (atomic_load_explicit(&r->tail, memory_order_acquire) - head) & r->mask;
#else
	return ck_ring_size(&s->ring);
#endif
}

/* The most elements that fit. */
static inline uint32_t spsc_capacity(const struct spsc *s)
{
	return s->ring.size - 1;
}

static inline bool spsc_push_sized(struct spsc *s, const void *elem, uint32_t size)
{
	CHECK(size == s->elem_size);
#ifdef SPSC_TSAN
	struct spsc_ring *r = &s->ring;
	unsigned int tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	unsigned int head = atomic_load_explicit(&r->head, memory_order_acquire); /* pairs with spsc_pop_sized */

	if (((tail + 1) & r->mask) == (head & r->mask))
		return false;
	memcpy((char *)s->buf + (size_t)size * (tail & r->mask), elem, size);
	atomic_store_explicit(&r->tail, tail + 1, memory_order_release); /* pairs with spsc_pop_sized */
	return true;
#else
	return _ck_ring_enqueue_sp(&s->ring, s->buf, elem, size, NULL);
#endif
}

static inline bool spsc_pop_sized(struct spsc *s, void *ret_elem, uint32_t size)
{
	CHECK(size == s->elem_size);
#ifdef SPSC_TSAN
	struct spsc_ring *r = &s->ring;
	unsigned int head = atomic_load_explicit(&r->head, memory_order_relaxed);
	unsigned int tail = atomic_load_explicit(&r->tail, memory_order_acquire); /* pairs with spsc_push_sized */

	if (head == tail)
		return false;
	memcpy(ret_elem, (char *)s->buf + (size_t)size * (head & r->mask), size);
	atomic_store_explicit(&r->head, head + 1, memory_order_release); /* pairs with spsc_push_sized */
	return true;
#else
	return _ck_ring_dequeue_sc(&s->ring, s->buf, ret_elem, size);
#endif
}

/* Copies *elem in; false when full. The type of *elem must be the one whose size spsc_init was given (a CHECK holds
 * this). */
#define spsc_push(s, elem) spsc_push_sized((s), (elem), (uint32_t)sizeof *(elem))
/* Copies the oldest element to *ret_elem; false when empty. */
#define spsc_pop(s, ret_elem) spsc_pop_sized((s), (ret_elem), (uint32_t)sizeof *(ret_elem))

#endif
