/* The slow half of subs_check.h: frames that came in the wrong place. Invariant: a publisher's holes lie below its `next`, and do not overlap. Pure. */
#include "tools/subs_check.h"

#include <errno.h>
#include <stdlib.h>

int subs_check_init(struct subs_check *c, uint32_t publishers)
{
	*c = (struct subs_check){.lowest = UINT64_MAX, .publishers = publishers};
	c->next = calloc(publishers ? publishers : 1, sizeof *c->next);
	return c->next ? 0 : -ENOMEM;
}

void subs_check_done(struct subs_check *c)
{
	free(c->next);
	free(c->hole);
	c->next = NULL;
	c->hole = NULL;
	c->holes = c->holes_cap = 0;
}

void subs_check_wrong_place(struct subs_check *c, bool same)
{
	c->flagged = c->received;
	if (same)
		c->repeated++;
	else
		c->disordered++;
}

static void add_hole(struct subs_check *c, uint32_t publisher, uint64_t from, uint64_t to)
{
	if (c->holes == SUBS_HOLES_MAX) {
		memmove(c->hole, c->hole + 1, (SUBS_HOLES_MAX - 1) * sizeof *c->hole);
		c->holes--;
	}
	if (c->holes == c->holes_cap) {
		uint32_t cap = c->holes_cap ? c->holes_cap * 2 : 16;
		struct subs_hole *grown = realloc(c->hole, cap * sizeof *grown);
		if (!grown)
			return; /* forgotten: `unchecked` says so when it matters */
		c->hole = grown;
		c->holes_cap = cap;
	}
	c->hole[c->holes++] = (struct subs_hole){publisher, from, to};
}

/* A number below `next`. */
static void fill_hole(struct subs_check *c, const struct load_stamp *s)
{
	for (uint32_t i = 0; i < c->holes; i++) {
		struct subs_hole *h = &c->hole[i];
		if (h->publisher != s->publisher || s->number < h->from || s->number >= h->to)
			continue;
		uint64_t rest = s->number + 1, to = h->to;
		h->to = s->number;
		if (h->from == h->to)
			*h = c->hole[--c->holes];
		if (rest < to)
			add_hole(c, s->publisher, rest, to);
		c->own++;
		c->disordered += c->flagged != c->received;
		return;
	}
	if (c->holes == SUBS_HOLES_MAX) {
		c->own++;
		c->unchecked++;
	} else {
		c->repeated += c->flagged != c->received;
	}
}

void subs_check_jump(struct subs_check *c, const struct load_stamp *s)
{
	if (s->publisher >= c->publishers) {
		c->unchecked++;
	} else if (s->number < c->next[s->publisher]) {
		fill_hole(c, s);
	} else {
		add_hole(c, s->publisher, c->next[s->publisher], s->number);
		c->next[s->publisher] = s->number + 1;
		c->own++;
	}
}

uint64_t subs_check_came(const struct subs_check *c, uint32_t publisher)
{
	uint64_t n = c->next[publisher];
	for (uint32_t i = 0; i < c->holes; i++)
		if (c->hole[i].publisher == publisher)
			n -= c->hole[i].to - c->hole[i].from;
	return n;
}
