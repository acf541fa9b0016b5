/* Sharing the memory for partly received messages; see the header. Runs on the shard that owns it.
 *
 * Making room is max-min fair: the bytes that may stay are poured over the addresses until each has what it holds or all others have reached the same
 * level, and an address's level is poured over its connections in the same way. What stands above its level gives way, the highest first, and only until
 * there is room. It makes an eighth more room than is needed, so that the sorting is paid for by the bytes that have to come before the next time.
 */
#include "rpc/assembly.h"
#include "core/base/check.h"
#include "core/base/count.h"
#include "rpc/refusals.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct holder {
	uint64_t ip[2];
	struct assembly_share *share;
};

/* An address: holders [first, first + n), the heaviest first. */
struct group {
	uint64_t bytes;
	uint32_t first, n;
};

void assembly_add(struct assembly *a, struct assembly_share *s, uint64_t n)
{
	if (n == 0)
		return;
	if (s->bytes == 0) {
		s->next = a->holders;
		s->link = &a->holders;
		if (s->next)
			s->next->link = &s->next;
		a->holders = s;
		a->count++;
	}
	s->bytes += n;
	count_add(&a->bytes, n);
}

void assembly_sub(struct assembly *a, struct assembly_share *s, uint64_t n)
{
	if (n == 0)
		return;
	CHECK(n <= s->bytes);
	s->bytes -= n;
	count_add(&a->bytes, -n);
	if (s->bytes)
		return;
	*s->link = s->next;
	if (s->next)
		s->next->link = s->link;
	a->count--;
}

bool assembly_is_over(const struct assembly *a, const struct assembly_share *s, const struct assembly_limits *l,
		      char *text, size_t cap)
{
	if (likely(s->bytes <= l->share && a->bytes <= l->total))
		return false;
	if (s->bytes > l->share)
		snprintf(text, cap,
			 "partly received messages of this connection need more than ASSEMBLY_CONN_MAX, %" PRIu64
			 " bytes",
			 l->share);
	else
		assembly_text(l, text, cap);
	return true;
}

void assembly_text(const struct assembly_limits *l, char *text, size_t cap)
{
	snprintf(text, cap, "the memory for partly received messages, ASSEMBLY_MAX, %" PRIu64 " bytes, is used up",
		 l->total);
}

static int by_ip_and_weight(const void *a, const void *b)
{
	const struct holder *x = a, *y = b;
	int ip = memcmp(x->ip, y->ip, sizeof x->ip);
	if (ip)
		return ip;
	return x->share->bytes > y->share->bytes ? -1 : x->share->bytes < y->share->bytes;
}

static int by_weight(const void *a, const void *b)
{
	const struct group *x = a, *y = b;
	return x->bytes > y->bytes ? -1 : x->bytes < y->bytes;
}

/* How high each may stand, so that `most` is enough for all: the i-th has bytes_of(of, i), the heaviest first. */
static uint64_t level_of(uint64_t (*bytes_of)(const void *of, uint32_t i), const void *of, uint32_t n, uint64_t most)
{
	for (uint32_t i = n; i > 0; i--) { /* from the lightest */
		uint64_t has = bytes_of(of, i - 1);
		if (has > most / i)
			return most / i;
		most -= has;
	}
	return UINT64_MAX;
}

static uint64_t holder_bytes(const void *of, uint32_t i)
{
	return ((const struct holder *)of)[i].share->bytes;
}

static uint64_t group_bytes(const void *of, uint32_t i)
{
	return ((const struct group *)of)[i].bytes;
}

static uint32_t gather(const struct assembly *a, struct holder *h, struct group *g)
{
	uint32_t n = 0, groups = 0;
	for (struct assembly_share *s = a->holders; s; s = s->next) {
		refusals_group(s->ip, h[n].ip);
		h[n++].share = s;
	}
	qsort(h, n, sizeof *h, by_ip_and_weight);
	for (uint32_t i = 0; i < n; i++) {
		if (i == 0 || memcmp(h[i].ip, h[i - 1].ip, sizeof h->ip) != 0)
			g[groups++] = (struct group){.first = i};
		g[groups - 1].bytes += h[i].share->bytes;
		g[groups - 1].n++;
	}
	qsort(g, groups, sizeof *g, by_weight);
	return groups;
}

/* Of one address, down to `level`, or until `most` are left in all. */
static void cut(struct assembly *a, const struct holder *h, const struct group *g, uint64_t level, uint64_t most)
{
	uint64_t each = level_of(holder_bytes, h + g->first, g->n, level), bytes = g->bytes;
	for (uint32_t i = g->first; i < g->first + g->n && bytes > level && a->bytes > most; i++) {
		struct assembly_share *s = h[i].share;
		uint64_t before = s->bytes;
		if (before > each)
			s->give_way(s, each);
		bytes -= before - s->bytes;
	}
}

void assembly_make_room(struct assembly *a, const struct assembly_limits *l)
{
	uint64_t most = l->total > l->share ? l->total - l->share : 0;
	most -= most / 8;
	struct holder *h = calloc(a->count, sizeof *h);
	struct group *g = calloc(a->count, sizeof *g);
	if (h && g) { /* without memory nobody gives way; `total` holds all the same */
		uint32_t groups = gather(a, h, g);
		uint64_t level = level_of(group_bytes, g, groups, most);
		for (uint32_t i = 0; i < groups && g[i].bytes > level && a->bytes > most; i++)
			cut(a, h, &g[i], level, most);
	}
	free(h);
	free(g);
}
