/* The table of an HTTP/2 connection's streams; see the header. Runs on the connection's shard. */
#include "rpc/h2_table.h"

#include <stdlib.h>

enum { SLOTS_MIN = 16 };

void h2_table_done(struct h2_table *t)
{
	DCHECK(t->used == 0);
	free(t->slot);
	*t = (struct h2_table){0};
}

static void put(struct h2_table *t, struct h2_slot in)
{
	uint32_t mask = t->mask, i = h2_table_home(t, in.id), far = 0;
	for (; t->slot[i].stream; i = (i + 1) & mask, far++) {
		uint32_t its = (i - h2_table_home(t, t->slot[i].id)) & mask;
		if (its < far) { /* it is nearer to its home: it makes room */
			struct h2_slot out = t->slot[i];
			t->slot[i] = in;
			in = out;
			far = its;
		}
	}
	t->slot[i] = in;
}

bool h2_table_reserve(struct h2_table *t)
{
	uint32_t size = t->slot ? t->mask + 1 : 0;
	if (likely(t->used * 2 < size))
		return true;
	uint32_t fresh = size ? size * 2 : SLOTS_MIN;
	struct h2_slot *old = t->slot, *bigger = calloc(fresh, sizeof *bigger);
	if (!bigger)
		return false;
	t->slot = bigger;
	t->mask = fresh - 1;
	for (uint32_t i = 0; i < size; i++) {
		if (old[i].stream)
			put(t, old[i]);
	}
	free(old);
	return true;
}

void h2_table_add(struct h2_table *t, uint32_t id, struct h2_stream *st)
{
	DCHECK(st && t->used <= t->mask && !h2_table_find(t, id));
	put(t, (struct h2_slot){st, id});
	t->used++;
}

void h2_table_remove(struct h2_table *t, uint32_t id)
{
	uint32_t mask = t->mask, i = h2_table_home(t, id), k;
	DCHECK(h2_table_find(t, id));
	while (t->slot[i].id != id || !t->slot[i].stream)
		i = (i + 1) & mask;
	for (; t->slot[k = (i + 1) & mask].stream && h2_table_home(t, t->slot[k].id) != k; i = k)
		t->slot[i] = t->slot[k];
	t->slot[i].stream = NULL;
	t->used--;
}
