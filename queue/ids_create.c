/* A view's names: which slot a name has, and sequences that are being made. Runs on the shard's thread.
 *
 * A small cache by the names' last bytes comes first, then the table of this shard: it holds the slots below `known`,
 * and catches up with those published since when a name is not found. A name that nobody has is sent to the producer as
 * a creation; requests for it wait in the creation, in order, and move to the sequence's queue when it comes back.
 * While creations are under way they are looked up first, so that later requests stay behind earlier ones.
 */
#include "queue/ids_view.h"

#include <stdlib.h>

static struct span view_name_at(const void *ctx, uint32_t slot)
{
	return sequence_name(&((const struct ids *)ctx)->sequences[slot]);
}

int view_names_init(struct ids_view *v)
{
	v->later_creations_tail = &v->later_creations;
	return names_init(&v->names, v->ids->hash_key, view_name_at, v->ids);
}

/* The producer may hold some of the creations; they are freed with the port. */
void view_names_done(struct ids_view *v)
{
	for (unsigned i = 0; i < VIEW_BUCKETS; i++) {
		while (v->bucket[i] != NULL) {
			struct creation *c = v->bucket[i];

			v->bucket[i] = c->next;
			c->next = v->port->orphans;
			v->port->orphans = c;
		}
	}
	names_done(&v->names);
}

/* Takes in the sequences published since the last time. False: no memory. */
static bool view_catch_up(struct ids_view *v)
{
	uint32_t count = atomic_load_explicit(&v->ids->count, memory_order_acquire); /* pairs with producer_create */

	for (; v->known < count; v->known++)
		if (names_add(&v->names, names_hash(&v->names, view_name_at(v->ids, v->known)), v->known) != 0)
			return false;
	return true;
}

/* Names that differ mostly do so at their end. */
static uint32_t *view_cache_line(struct ids_view *v, struct span name)
{
	uint64_t tail = name.n;

	if (name.n >= 8)
		tail += load_le64(name.p + name.n - 8);
	else
		for (size_t i = 0; i < name.n; i++)
			tail = tail << 8 | name.p[i];
	tail *= 0x9e3779b97f4a7c15;
	/* The last byte is the top one: one product alone would hardly spread it. */
	tail = (tail ^ tail >> 29) * 0x9e3779b97f4a7c15;
	return &v->cached[tail >> (64 - VIEW_CACHED_BITS)];
}

static bool view_find(struct ids_view *v, struct span name, uint64_t hash, uint32_t *ret_slot)
{
	if (!names_find(&v->names, hash, name, ret_slot)) {
		if (v->known == atomic_load_explicit(&v->ids->count, memory_order_relaxed) || !view_catch_up(v) ||
		    !names_find(&v->names, hash, name, ret_slot))
			return false;
	}
	*view_cache_line(v, name) = *ret_slot;
	return true;
}

static struct creation *view_find_creation(struct ids_view *v, struct span name, uint64_t hash)
{
	struct creation *c = v->bucket[hash % VIEW_BUCKETS];

	while (c != NULL && !(c->hash == hash && span_eq((struct span){(const uint8_t *)c->name, c->name_len}, name)))
		c = c->next;
	return c;
}

static void view_send_creation(struct ids_view *v, struct creation *c)
{
	struct demand d = {.creation = c};

	if (v->later_creations == NULL && spsc_push(&v->port->demand, &d)) {
		v->ring = true;
		return;
	}
	c->later_next = NULL;
	*v->later_creations_tail = c;
	v->later_creations_tail = &c->later_next;
}

void view_send_creations(struct ids_view *v)
{
	while (v->later_creations != NULL) {
		struct creation *c = v->later_creations;
		struct demand d = {.creation = c};

		if (!spsc_push(&v->port->demand, &d))
			return;
		v->ring = true;
		v->later_creations = c->later_next;
	}
	v->later_creations_tail = &v->later_creations;
}

static enum ids_error view_create(struct ids_view *v, struct span name, uint64_t hash, struct creation **ret)
{
	struct creation *c;

	if (!sequence_name_ok(name))
		return IDS_E_NAME;
	if (!v->ids->opts.create)
		return IDS_E_UNKNOWN;
	/* The producer decides on the last places: it may have made some of `creating` already, which are known then. */
	if (v->known >= v->ids->opts.sequences_max || v->creating >= v->ids->opts.sequences_max)
		return IDS_E_LIMIT;
	c = calloc(1, sizeof *c);
	if (c == NULL)
		return IDS_E_LIMIT;
	c->waits.next = c->waits.prev = &c->waits;
	c->hash = hash;
	c->name_len = (uint32_t)name.n;
	memcpy(c->name, name.p, name.n);
	c->next = v->bucket[hash % VIEW_BUCKETS];
	v->bucket[hash % VIEW_BUCKETS] = c;
	v->creating++;
	view_send_creation(v, c);
	*ret = c;
	return IDS_E_OK;
}

enum ids_error view_request_named(struct ids_view *v, struct ids_wait *w, struct span name, uint32_t count)
{
	struct creation *c = NULL;
	enum ids_error e;
	uint64_t hash;
	uint32_t slot;

	if (name.n > SEQUENCE_NAME_MAX)
		return IDS_E_NAME;
	if (v->singles != NULL)
		return IDS_E_SINGLES;
	if (v->creating == 0) {
		slot = *view_cache_line(v, name);
		if (slot != 0 && span_eq(sequence_name(&v->sequences[slot]), name)) {
			view_enqueue(v, w, slot, count);
			return IDS_E_OK;
		}
	}
	hash = names_hash(&v->names, name);
	if (v->creating != 0)
		c = view_find_creation(v, name, hash);
	if (c == NULL) {
		if (view_find(v, name, hash, &slot)) {
			view_enqueue(v, w, slot, count);
			return IDS_E_OK;
		}
		e = view_create(v, name, hash, &c);
		if (e != IDS_E_OK)
			return e;
	}
	w->slot = IDS_SLOT_NEW;
	w->count = count;
	wait_append(&c->waits, w);
	v->waiting++;
	return IDS_E_OK;
}

void view_refuse_creations(struct ids_view *v, const struct ids_view_ops *ops, void *ctx)
{
	for (unsigned i = 0; i < VIEW_BUCKETS; i++)
		for (struct creation *c = v->bucket[i]; c != NULL; c = c->next)
			while (c->waits.next != &c->waits) {
				struct ids_wait *w = c->waits.next;

				wait_unlink(w);
				v->waiting--;
				ops->refused(ctx, w, v->refusing);
			}
}

void view_created(struct ids_view *v, struct creation *c, const struct ids_view_ops *ops, void *ctx)
{
	struct creation **link = &v->bucket[c->hash % VIEW_BUCKETS];

	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	v->creating--;
	while (c->waits.next != &c->waits) {
		struct ids_wait *w = c->waits.next;

		wait_unlink(w);
		v->waiting--;
		if (c->error == IDS_E_OK)
			view_enqueue(v, w, c->slot, w->count);
		else
			ops->refused(ctx, w, c->error);
	}
	free(c);
}
