/* Uniqueness of IDs across all workers of a run, exactly, in bounded memory.
 *
 * A worker sets bits in its own pages, found by a direct-mapped table of CHECK_LIVE entries; a page that loses its entry to another, and every page at
 * the end, is joined into the shared directory: bits that are set on both sides are repeats. A page that is complete there is
 * remembered as complete and its 64 KiB go back. So the memory is: live pages of the workers, and pages with holes (windows that were skipped,
 * IDs that other clients got), the latter up to pages_max.
 *
 * Invariant: an ID's first record in a worker is in a live page or in the directory, never in both for one worker unless it left the former. */
#include "tools/load_check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (1u << (CHECK_PAGE_BITS - 6))
#define IDS (1u << CHECK_PAGE_BITS)
enum { DIRECTORY_FIRST = 256 };

struct entry {
	uint64_t page;
	uint64_t *bits; /* NULL when complete */
	uint32_t n;     /* bits set; 0: empty entry */
};

struct check_pages {
	pthread_mutex_t lock;
	struct entry *directory; /* open addressing, linear probing */
	uint64_t mask, used;
	uint32_t pages, pages_max; /* incomplete ones */
	uint64_t **spare;          /* pages of zeros, to be used again */
	uint32_t spare_n;
	uint64_t received, repeated, unchecked, min, max;
};

enum { SPARE_MAX = 2 * CHECK_LIVE };

struct check_pages *check_pages_new(uint32_t pages_max)
{
	struct check_pages *p = calloc(1, sizeof *p);
	if (!p)
		return NULL;
	p->directory = calloc(DIRECTORY_FIRST, sizeof *p->directory);
	p->spare = calloc(SPARE_MAX, sizeof *p->spare);
	if (!p->directory || !p->spare) {
		check_pages_free(p);
		return NULL;
	}
	p->mask = DIRECTORY_FIRST - 1;
	p->pages_max = pages_max;
	p->min = UINT64_MAX;
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

void check_pages_free(struct check_pages *p)
{
	if (!p)
		return;
	for (uint64_t i = 0; p->directory && i <= p->mask; i++)
		free(p->directory[i].bits);
	for (uint32_t i = 0; i < p->spare_n; i++)
		free(p->spare[i]);
	free(p->directory);
	free(p->spare);
	free(p);
}

static uint64_t *page_get(struct check_pages *p)
{
	uint64_t *bits = NULL;
	pthread_mutex_lock(&p->lock);
	if (p->spare_n > 0)
		bits = p->spare[--p->spare_n];
	pthread_mutex_unlock(&p->lock);
	return bits ? bits : calloc(WORDS, sizeof *bits);
}

/* Under the lock. */
static void page_put(struct check_pages *p, uint64_t *bits)
{
	if (p->spare_n == SPARE_MAX) {
		free(bits);
		return;
	}
	memset(bits, 0, WORDS * sizeof *bits);
	p->spare[p->spare_n++] = bits;
}

static struct entry *probe(struct entry *directory, uint64_t mask, uint64_t page)
{
	uint64_t i = page & mask;
	while (directory[i].n && directory[i].page != page)
		i = (i + 1) & mask;
	return &directory[i];
}

/* The entry of a page, made if need be; NULL without memory. */
static struct entry *entry_of(struct check_pages *p, uint64_t page)
{
	if (p->used * 2 > p->mask) {
		uint64_t mask = p->mask * 2 + 1;
		struct entry *grown = calloc(mask + 1, sizeof *grown);
		if (!grown)
			return NULL;
		for (uint64_t i = 0; i <= p->mask; i++)
			if (p->directory[i].n)
				*probe(grown, mask, p->directory[i].page) = p->directory[i];
		free(p->directory);
		p->directory = grown;
		p->mask = mask;
	}
	return probe(p->directory, p->mask, page);
}

static uint32_t count_bits(const uint64_t *bits)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < WORDS; i++)
		n += (uint32_t)__builtin_popcountll(bits[i]);
	return n;
}

/* Sets bits of `from` in `to`; returns how many were set in both. */
static uint32_t join_bits(uint64_t *to, const uint64_t *from)
{
	uint32_t both = 0;
	for (uint32_t i = 0; i < WORDS; i++) {
		both += (uint32_t)__builtin_popcountll(to[i] & from[i]);
		to[i] |= from[i];
	}
	return both;
}

/* Takes `bits` over. Under the lock. */
static void join(struct check_pages *p, uint64_t page, uint64_t *bits)
{
	uint32_t n = count_bits(bits);
	struct entry *e = n ? entry_of(p, page) : NULL;
	if (!e || (e->n == 0 && n < IDS && p->pages == p->pages_max)) {
		p->unchecked += n;
		page_put(p, bits);
		return;
	}
	if (e->n == 0) {
		*e = (struct entry){page, bits, n};
		p->used++;
		p->pages++;
	} else if (!e->bits) {
		p->repeated += n;
		page_put(p, bits);
		return;
	} else {
		uint32_t both = join_bits(e->bits, bits);
		p->repeated += both;
		e->n += n - both;
		page_put(p, bits);
	}
	if (e->n == IDS) {
		page_put(p, e->bits);
		e->bits = NULL;
		p->pages--;
	}
}

void check_seen_init(struct check_seen *s, struct check_pages *pages)
{
	*s = (struct check_seen){.pages = pages, .min = UINT64_MAX};
}

uint64_t *check_seen_page(struct check_seen *s, uint64_t page)
{
	unsigned i = page % CHECK_LIVE;
	uint64_t *fresh = page_get(s->pages);
	pthread_mutex_lock(&s->pages->lock);
	if (s->live[i])
		join(s->pages, s->page[i], s->live[i]);
	pthread_mutex_unlock(&s->pages->lock);
	s->live[i] = fresh;
	s->page[i] = page;
	return fresh;
}

void check_seen_range(struct check_seen *s, uint64_t first, uint32_t count)
{
	for (uint64_t id = first, left = count; left > 0;) {
		/* The single IDs at both ends, whole words between. */
		if ((id & 63) || left < 64) {
			check_seen_one(s, id);
			id++;
			left--;
			continue;
		}
		uint64_t page = id >> CHECK_PAGE_BITS;
		unsigned i = page % CHECK_LIVE;
		uint64_t *bits = s->live[i];
		if (!bits || s->page[i] != page)
			bits = check_seen_page(s, page);
		if (bits) {
			uint64_t *word = &bits[(id >> 6) & (WORDS - 1)];
			s->repeated += (uint64_t)__builtin_popcountll(*word);
			*word = UINT64_MAX;
		} else {
			s->unchecked += 64;
		}
		s->received += 64;
		if (id < s->min)
			s->min = id;
		if (id + 63 > s->max)
			s->max = id + 63;
		id += 64;
		left -= 64;
	}
}

void check_seen_done(struct check_seen *s)
{
	struct check_pages *p = s->pages;
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < CHECK_LIVE; i++) {
		if (s->live[i])
			join(p, s->page[i], s->live[i]);
		s->live[i] = NULL;
	}
	p->received += s->received;
	p->repeated += s->repeated;
	p->unchecked += s->unchecked;
	if (s->min < p->min)
		p->min = s->min;
	if (s->max > p->max)
		p->max = s->max;
	pthread_mutex_unlock(&p->lock);
	s->received = s->repeated = s->unchecked = 0;
}

void check_pages_result(const struct check_pages *p, struct check_result *ret)
{
	*ret = (struct check_result){.received = p->received, .repeated = p->repeated, .unchecked = p->unchecked};
	if (p->received > 0 && p->unchecked == 0)
		ret->missing = p->max - p->min + 1 - (p->received - p->repeated);
}
