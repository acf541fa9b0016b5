/* The calls in flight on a native connection, by the numbers that the client chose: a chained hash
 * that grows with the number of calls. Its entries are embedded in the calls. Runs on the
 * connection's shard.
 *
 * Invariants: of several entries with one number the newest is found, also after the table has
 * grown; an entry is in exactly one chain from native_table_add to native_table_remove. The session
 * decides which calls may have the same number at once. A secret decides which chain a number belongs
 * to, so a client cannot choose numbers that meet in one chain.
 */
#ifndef ORDINAL_RPC_NATIVE_TABLE_H
#define ORDINAL_RPC_NATIVE_TABLE_H

#include "core/base/check.h"

#include <stdint.h>

struct native_entry {
	struct native_entry *next, **link; /* of its chain */
	uint32_t id;
};

#define NATIVE_BUCKETS_FEW 8
#define NATIVE_BUCKETS_MAX 4096

struct native_table {
	struct native_entry **bucket; /* few, or a bigger array of their own */
	struct native_entry *few[NATIVE_BUCKETS_FEW];
	uint32_t mask;
	uint32_t used;   /* entries */
	uint64_t secret; /* odd */
};

/* `secret`: 64 bits that clients do not know. The table must not move afterwards. */
void native_table_init(struct native_table *t, uint64_t secret);
/* Every entry has been removed. */
void native_table_done(struct native_table *t);
/* Four times the buckets. Without memory the chains just stay longer. */
void native_table_grow(struct native_table *t);
/* Calls fn for every entry; fn may remove it. */
void native_table_each(struct native_table *t, void (*fn)(struct native_entry *e));

static inline struct native_entry **native_table_chain(const struct native_table *t, uint32_t id)
{
	return &t->bucket[(uint32_t)(id * t->secret >> 32) & t->mask];
}

/* The newest entry with this number, or NULL. */
static inline struct native_entry *native_table_find(const struct native_table *t, uint32_t id)
{
	struct native_entry *e = *native_table_chain(t, id);
	while (e && e->id != id)
		e = e->next;
	return e;
}

static inline void native_table_link(struct native_table *t, struct native_entry *e)
{
	struct native_entry **b = native_table_chain(t, e->id);
	e->next = *b;
	e->link = b;
	if (e->next)
		e->next->link = &e->next;
	*b = e;
}

static inline void native_table_add(struct native_table *t, struct native_entry *e)
{
	native_table_link(t, e);
	t->used++;
	if (unlikely(t->used > 2 * t->mask && t->mask + 1 < NATIVE_BUCKETS_MAX))
		native_table_grow(t);
}

static inline void native_table_remove(struct native_table *t, struct native_entry *e)
{
	*e->link = e->next;
	if (e->next)
		e->next->link = e->link;
	t->used--;
}

#endif
