/* Were the IDs unique? Every ID received is a bit; pages of bits are kept by each worker for itself while they fill, and joined into one shared
 * directory when they have been left behind. A page whose every bit is set is let go, so dense IDs need almost no memory, however many.
 *
 * One `struct check_seen` a worker thread; the shared part locks, once in about half a million IDs. */
#ifndef ORDINAL_TOOLS_LOAD_CHECK_H
#define ORDINAL_TOOLS_LOAD_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#define CHECK_PAGE_BITS 19 /* IDs in a page: 524,288, that is 64 KiB */
#define CHECK_LIVE 64      /* pages that a worker keeps at a time */

struct check_pages;
/* `pages_max`: incomplete pages (64 KiB each) that may be kept in all; IDs beyond are counted as unchecked. NULL without memory. */
struct check_pages *check_pages_new(uint32_t pages_max);
void check_pages_free(struct check_pages *p);

struct check_seen {
	struct check_pages *pages;
	uint64_t *live[CHECK_LIVE];  /* bits, or NULL */
	uint64_t page[CHECK_LIVE];   /* which page live[i] is */
	uint64_t received, repeated; /* IDs; repeated only within this worker's live pages until check_seen_done */
	uint64_t unchecked;          /* IDs without a page, for want of memory */
	uint64_t min, max;
};
void check_seen_init(struct check_seen *s, struct check_pages *pages);
/* Records IDs first … first + count - 1, which must not wrap. Owner only. */
void check_seen_range(struct check_seen *s, uint64_t first, uint32_t count);
/* Hands over what is left. Owner only, or after the owner has ended. */
void check_seen_done(struct check_seen *s);

/* After check_seen_done of all workers. */
struct check_result {
	uint64_t received; /* IDs in all replies */
	uint64_t repeated; /* IDs beyond the first time each was received */
	uint64_t
		missing; /* IDs between the lowest and the highest received that nobody received; 0 while unchecked > 0 */
	uint64_t unchecked; /* IDs that were not looked at, for want of memory */
};
void check_pages_result(const struct check_pages *p, struct check_result *ret);

/* Bits of one page, or NULL: make it live. Slow path of check_seen_one. */
uint64_t *check_seen_page(struct check_seen *s, uint64_t page);

static inline void check_seen_one(struct check_seen *s, uint64_t id)
{
	uint64_t page = id >> CHECK_PAGE_BITS;
	unsigned i = page % CHECK_LIVE;
	uint64_t *bits = s->live[i];
	if (__builtin_expect(!bits || s->page[i] != page, 0))
		bits = check_seen_page(s, page);
	s->received++;
	if (id < s->min)
		s->min = id;
	if (id > s->max)
		s->max = id;
	if (__builtin_expect(!bits, 0)) {
		s->unchecked++;
		return;
	}
	uint64_t *word = &bits[(id >> 6) & ((1u << (CHECK_PAGE_BITS - 6)) - 1)], bit = UINT64_C(1) << (id & 63);
	s->repeated += (*word & bit) != 0;
	*word |= bit;
}

#endif
