/* A repeatable source of numbers for tests (xorshift64*), and blocks of exact size so that a sanitizer or valgrind sees any read past the
 * end. */
#ifndef ORDINAL_TESTS_UNIT_RPC_WIRE_RANDOM_H
#define ORDINAL_TESTS_UNIT_RPC_WIRE_RANDOM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(0x2545f4914f6cdd1d);
}

/* In [0, below). */
static inline uint32_t random_below(uint64_t *state, uint32_t below)
{
	return (uint32_t)((random_next(state) >> 32) * below >> 32);
}

/* Numbers of every magnitude are equally likely. */
static inline uint64_t random_wide(uint64_t *state)
{
	return random_next(state) >> random_below(state, 64);
}

/* A heap copy of exactly n bytes (one byte for none). Free with free(). */
static inline uint8_t *exact_copy(const void *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);
	if (!copy)
		abort();
	if (n)
		memcpy(copy, p, n);
	return copy;
}

#endif
