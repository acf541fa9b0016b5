/* The table of a native connection's calls; see the header. Runs on the connection's shard. */
#include "rpc/native_table.h"

#include <stdlib.h>

void native_table_init(struct native_table *t, uint64_t secret)
{
	*t = (struct native_table){.mask = NATIVE_BUCKETS_FEW - 1, .secret = secret | 1};
	t->bucket = t->few;
}

void native_table_done(struct native_table *t)
{
	DCHECK(t->used == 0);
	if (t->bucket != t->few)
		free(t->bucket);
	t->bucket = t->few;
}

/* The chain in the opposite order, linked by `next` alone. */
static struct native_entry *reversed(struct native_entry *e)
{
	struct native_entry *out = NULL;
	while (e) {
		struct native_entry *next = e->next;
		e->next = out;
		out = e;
		e = next;
	}
	return out;
}

/* native_table_link puts an entry in front of its chain. So each old chain is walked from its oldest
 * entry to its newest, and the newest is in front again. */
void native_table_grow(struct native_table *t)
{
	uint32_t old = t->mask + 1, n = old * 4;
	struct native_entry **from = t->bucket, **to = n <= NATIVE_BUCKETS_MAX ? calloc(n, sizeof *to) : NULL;
	if (!to)
		return;
	t->bucket = to;
	t->mask = n - 1;
	for (uint32_t i = 0; i < old; i++) {
		for (struct native_entry *e = reversed(from[i]), *next; e; e = next) {
			next = e->next;
			native_table_link(t, e);
		}
	}
	if (from != t->few)
		free(from);
}

void native_table_each(struct native_table *t, void (*fn)(struct native_entry *e))
{
	for (uint32_t i = 0; i <= t->mask; i++) {
		for (struct native_entry *e = t->bucket[i], *next; e; e = next) {
			next = e->next;
			fn(e);
		}
	}
}
