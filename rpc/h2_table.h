/* The open streams of an HTTP/2 connection, by their identifiers: open addressing by Robin Hood
 * hashing (Celis 1986). Entries lie in the order of their home places, so a search ends at the first
 * entry that is nearer to its home than the search is, and a removal shifts back only as far as the
 * next entry that is at home. Identifiers rise by two, so nearly all entries are at home. A client may
 * pass identifiers over, to have all of its streams at one home: so each run of as many identifiers as
 * there are slots is turned by a number that depends on a secret. Runs on the connection's shard.
 *
 * Invariant: an identifier is in the table once at most.
 */
#ifndef ORDINAL_RPC_H2_TABLE_H
#define ORDINAL_RPC_H2_TABLE_H

#include "core/base/check.h"

#include <stdbool.h>
#include <stdint.h>

struct h2_stream;

struct h2_slot {
	struct h2_stream *stream; /* NULL: free */
	uint32_t id;
};

/* Zero-filled: empty. */
struct h2_table {
	struct h2_slot *slot; /* NULL while no stream was ever open */
	uint32_t mask;
	uint32_t used;
	uint64_t secret; /* set before the first stream: 64 bits that clients do not know */
};

void h2_table_done(struct h2_table *t);
/* Makes sure that one more entry finds room. false: no memory. */
bool h2_table_reserve(struct h2_table *t);
/* Room has been reserved, and the identifier is not in the table. */
void h2_table_add(struct h2_table *t, uint32_t id, struct h2_stream *st);
/* The identifier is in the table. */
void h2_table_remove(struct h2_table *t, uint32_t id);

static inline uint32_t h2_table_home(const struct h2_table *t, uint32_t id)
{
	uint32_t number = id >> 1, turn = (uint32_t)((number & ~t->mask) * t->secret >> 32);
	return (number + turn) & t->mask;
}

/* The stream with this identifier, or NULL. */
static inline struct h2_stream *h2_table_find(const struct h2_table *t, uint32_t id)
{
	if (unlikely(!t->slot))
		return NULL;
	uint32_t mask = t->mask, i = h2_table_home(t, id);
	for (uint32_t far = 0; t->slot[i].stream; i = (i + 1) & mask, far++) {
		if (t->slot[i].id == id)
			return t->slot[i].stream;
		if (((i - h2_table_home(t, t->slot[i].id)) & mask) < far)
			return NULL;
	}
	return NULL;
}

#endif
