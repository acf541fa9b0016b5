/* The number of one life of a sequence's or a stream's record. Two lives have the same number only
 * by a chance of 2^-64. Any thread. */
#ifndef ORDINAL_QUEUE_INCARNATION_H
#define ORDINAL_QUEUE_INCARNATION_H

#include "core/base/check.h"

#include <stdint.h>
#include <sys/random.h>

/* Random, and not 0, which means "not known" wherever a number is sent. */
static inline uint64_t incarnation_new(void)
{
	uint64_t n;

	do
		/* so few bytes are never refused */
		CHECK(getrandom(&n, sizeof n, 0) == (ssize_t)sizeof n);
	while (n == 0);
	return n;
}

#endif
