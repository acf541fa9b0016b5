/* The double list itself, which double.c and double_waiters.c share: producers fill one list, the consumer that holds
 * take_lock drains the other, and the two are swapped when that one is empty. How a consumer waits for the first item
 * is each member's own.
 *
 * Each list has room for half of the capacity, so that both together respect the bound: a swap is followed at once,
 * under take_lock, by a take, so the total is at most 2 * half - 1 <= capacity.
 *
 * Invariants: put_lock guards put (list, length) and closed; take_lock guards take (list, position, length). Order:
 * take_lock, then put_lock. Producers wait on `space`, and only while their list is full, so whoever swaps a full list
 * away wakes all of them.
 */
#ifndef ORDINAL_QUEUE_FAMILY_DOUBLE_LISTS_H
#define ORDINAL_QUEUE_FAMILY_DOUBLE_LISTS_H

#include "queue/family/members.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct double_lists {
	uint32_t half; /* room in each list */
	_Alignas(CACHE_LINE) pthread_mutex_t put_lock;
	pthread_cond_t space;
	uint64_t *put;
	uint32_t put_len;
	bool closed;
	_Alignas(CACHE_LINE) pthread_mutex_t take_lock;
	uint64_t *take;
	uint32_t take_pos, take_len;
};

/* 0 or -ENOMEM. */
static inline int double_lists_init(struct double_lists *l, uint32_t capacity)
{
	l->half = (capacity + 1) / 2;
	l->put = family_alloc((size_t)l->half * sizeof *l->put);
	l->take = family_alloc((size_t)l->half * sizeof *l->take);
	if (l->put == NULL || l->take == NULL) {
		free(l->put);
		free(l->take);
		return -ENOMEM;
	}
	pthread_mutex_init(&l->put_lock, NULL);
	pthread_mutex_init(&l->take_lock, NULL);
	pthread_cond_init(&l->space, NULL);
	return 0;
}

static inline void double_lists_done(struct double_lists *l)
{
	pthread_cond_destroy(&l->space);
	pthread_mutex_destroy(&l->take_lock);
	pthread_mutex_destroy(&l->put_lock);
	free(l->put);
	free(l->take);
}

/* Under put_lock: up to n items in, none when closed. How many. */
static inline unsigned double_lists_put(struct double_lists *l, const uint64_t *items, unsigned n)
{
	uint32_t room = l->closed ? 0 : l->half - l->put_len;

	if (n > room)
		n = room;
	memcpy(l->put + l->put_len, items, n * sizeof *items);
	l->put_len += n;
	return n;
}

/* Under both locks, with an empty take list: exchanges them, and gives put_lock back. */
static inline void double_lists_swap(struct double_lists *l)
{
	bool was_full = l->put_len == l->half;
	uint64_t *list = l->take;

	l->take = l->put;
	l->take_len = l->put_len;
	l->take_pos = 0;
	l->put = list;
	l->put_len = 0;
	pthread_mutex_unlock(&l->put_lock);
	if (was_full)
		pthread_cond_broadcast(&l->space);
}

static inline bool double_lists_has_taken_all(const struct double_lists *l)
{
	return l->take_pos == l->take_len;
}

/* Under take_lock, when there is something to take: up to n items out. How many. */
static inline unsigned double_lists_take(struct double_lists *l, uint64_t *items, unsigned n)
{
	uint32_t left = l->take_len - l->take_pos;

	if (n > left)
		n = left;
	memcpy(items, l->take + l->take_pos, n * sizeof *items);
	l->take_pos += n;
	return n;
}

#endif
