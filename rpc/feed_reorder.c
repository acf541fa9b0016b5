/* A subscriber's reorder window: live frames are held for a while and given in (seq_no, timestamp) order, in order of arrival among equals.
 * Runs on the subscriber's shard.
 *
 * A heap by key says which frame is next, a list by arrival says when: once the frame that has waited longest is due, everything up to it in the heap
 * goes, and so do the first ones while more memory than bytes_max is taken, or all windows of the shard together take as much as their room has. A
 * frame whose key is below one that has been given is late: it goes at once, so late ones keep their order of arrival.
 *
 * Counted is what is allocated: frames with their heads, and the heap's arrays, which are given back when nothing is held.
 */
#include "rpc/feed_impl.h"

#include "core/base/check.h"
#include "core/base/count.h"

#include <stdlib.h>

struct held {
	struct held *next, **link; /* by arrival; NULL link: not in the list */
	uint64_t seq_no, arrival, due_ns;
	int64_t timestamp;
	uint32_t n;
	uint8_t bytes[];
};

struct feed_reorder {
	uint64_t window_ns, bytes_max;
	struct feed_room *room; /* of the shard */
	uint64_t memory;        /* taken, of what the room counts */
	uint64_t arrivals;
	struct held *first, **last; /* those in the heap, by arrival */
	struct held **heap;
	size_t count, cap;
	/* Chosen by feed_reorder_due, in the order in which they go; feed_reorder_take writes them. */
	struct held **chosen;
	size_t chosen_count, chosen_cap, chosen_bytes;
	/* The largest key given. */
	bool any_given;
	uint64_t given_seq_no;
	int64_t given_timestamp;
	uint64_t late, early;
};

static void take_memory(struct feed_reorder *r, uint64_t n)
{
	r->memory += n;
	count_add(&r->room->bytes, n);
}

static void give_memory(struct feed_reorder *r, uint64_t n)
{
	DCHECK(r->memory >= n);
	r->memory -= n;
	count_add(&r->room->bytes, -n);
}

/* What the allocator takes for it: a header, and whole units of 16. */
static uint64_t cost(const struct held *h)
{
	return (sizeof *h + h->n + 8 + 15) & ~(uint64_t)15;
}

static void forget(struct feed_reorder *r, struct held *h)
{
	give_memory(r, cost(h));
	free(h);
}

static void free_arrays(struct feed_reorder *r)
{
	give_memory(r, (r->cap + r->chosen_cap) * sizeof *r->heap);
	free(r->heap);
	free(r->chosen);
	r->heap = r->chosen = NULL;
	r->cap = r->chosen_cap = 0;
}

struct feed_reorder *feed_reorder_new(uint64_t window_ns, uint64_t bytes_max, struct feed_room *room)
{
	struct feed_reorder *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->window_ns = window_ns;
	r->bytes_max = bytes_max;
	r->room = room;
	r->last = &r->first;
	return r;
}

void feed_reorder_free(struct feed_reorder *r)
{
	if (!r)
		return;
	for (struct held *h = r->first, *next; h; h = next) {
		next = h->next;
		forget(r, h);
	}
	for (size_t i = 0; i < r->chosen_count; i++)
		forget(r, r->chosen[i]);
	free_arrays(r);
	DCHECK(r->memory == 0);
	free(r);
}

static bool is_before(const struct held *a, const struct held *b)
{
	if (a->seq_no != b->seq_no)
		return a->seq_no < b->seq_no;
	if (a->timestamp != b->timestamp)
		return a->timestamp < b->timestamp;
	return a->arrival < b->arrival;
}

static void heap_push(struct feed_reorder *r, struct held *h)
{
	size_t i = r->count++;

	for (; i > 0 && is_before(h, r->heap[(i - 1) / 2]); i = (i - 1) / 2)
		r->heap[i] = r->heap[(i - 1) / 2];
	r->heap[i] = h;
}

static struct held *heap_pop(struct feed_reorder *r)
{
	struct held *top = r->heap[0], *h = r->heap[--r->count];
	size_t i = 0;

	for (size_t k; (k = 2 * i + 1) < r->count; i = k) {
		if (k + 1 < r->count && is_before(r->heap[k + 1], r->heap[k]))
			k++;
		if (!is_before(r->heap[k], h))
			break;
		r->heap[i] = r->heap[k];
	}
	r->heap[i] = h;
	return top;
}

static bool grow(struct feed_reorder *r, struct held ***p, size_t count, size_t *cap)
{
	if (count < *cap)
		return true;
	size_t more = *cap ? *cap * 2 : 64;
	struct held **bigger = realloc(*p, more * sizeof *bigger);
	if (!bigger)
		return false;
	take_memory(r, (more - *cap) * sizeof *bigger);
	*p = bigger;
	*cap = more;
	return true;
}

/* A frame's place is chosen: it goes with the next feed_reorder_take. There is room: as many may be chosen as are held. */
static void choose(struct feed_reorder *r, struct held *h)
{
	r->chosen[r->chosen_count++] = h;
	r->chosen_bytes += h->n;
}

static bool is_late(const struct feed_reorder *r, uint64_t seq_no, int64_t timestamp)
{
	if (!r->any_given)
		return false;
	return seq_no != r->given_seq_no ? seq_no < r->given_seq_no : timestamp < r->given_timestamp;
}

static void note_given(struct feed_reorder *r, uint64_t seq_no, int64_t timestamp)
{
	r->any_given = true;
	r->given_seq_no = seq_no;
	r->given_timestamp = timestamp;
}

static struct held *choose_next(struct feed_reorder *r)
{
	struct held *h = heap_pop(r);

	*h->link = h->next;
	if (h->next)
		h->next->link = h->link;
	else
		r->last = h->link;
	note_given(r, h->seq_no, h->timestamp);
	choose(r, h);
	return h;
}

static bool add(struct feed_reorder *r, const uint8_t *p, size_t n, uint64_t seq_no, int64_t timestamp, uint64_t now_ns)
{
	if (!grow(r, &r->heap, r->count, &r->cap) || !grow(r, &r->chosen, r->chosen_count + r->count, &r->chosen_cap))
		return false;
	struct held *h = malloc(sizeof *h + n);
	if (!h)
		return false;
	*h = (struct held){.seq_no = seq_no,
			   .timestamp = timestamp,
			   .arrival = r->arrivals++,
			   .due_ns = now_ns + r->window_ns,
			   .n = (uint32_t)n};
	memcpy(h->bytes, p, n);
	take_memory(r, cost(h));
	if (is_late(r, seq_no, timestamp)) {
		r->late++;
		choose(r, h);
		return true;
	}
	h->link = r->last;
	*r->last = h;
	r->last = &h->next;
	heap_push(r, h);
	return true;
}

bool feed_reorder_add(struct feed_reorder *r, struct span wire, uint64_t now_ns)
{
	while (wire.n) {
		uint64_t seq_no;
		int64_t timestamp;
		size_t n;
		if (!frame_key(wire, &seq_no, &timestamp, &n)) { /* slices are whole frames */
			DCHECK(false);
			return false;
		}
		if (!add(r, wire.p, n, seq_no, timestamp, now_ns))
			return false;
		wire.p += n;
		wire.n -= n;
	}
	return true;
}

bool feed_reorder_pass(struct feed_reorder *r, struct span wire)
{
	if (r->count || r->chosen_count || !feed_room_is_full(r->room))
		return false;
	while (wire.n) {
		uint64_t seq_no;
		int64_t timestamp;
		size_t n;
		if (!frame_key(wire, &seq_no, &timestamp, &n)) {
			DCHECK(false);
			break;
		}
		if (is_late(r, seq_no, timestamp)) {
			r->late++;
		} else {
			r->early++;
			note_given(r, seq_no, timestamp);
		}
		wire.p += n;
		wire.n -= n;
	}
	return true;
}

size_t feed_reorder_due(struct feed_reorder *r, uint64_t now_ns, bool all)
{
	for (const struct held *h; (h = r->first) && (all || h->due_ns <= now_ns);) {
		while (choose_next(r) != h)
			;
	}
	/* What is chosen is about to go: it does not count here. */
	uint64_t gone = 0;
	for (size_t i = 0; i < r->chosen_count; i++)
		gone += cost(r->chosen[i]);
	for (; r->count && (r->memory - gone > r->bytes_max || feed_room_is_over(r->room, gone)); r->early++)
		gone += cost(choose_next(r));
	return r->chosen_bytes;
}

uint32_t feed_reorder_take(struct feed_reorder *r, uint8_t *out)
{
	uint32_t n = (uint32_t)r->chosen_count;

	for (size_t i = 0; i < r->chosen_count; i++) {
		memcpy(out, r->chosen[i]->bytes, r->chosen[i]->n);
		out += r->chosen[i]->n;
		forget(r, r->chosen[i]);
	}
	r->chosen_count = r->chosen_bytes = 0;
	if (!r->count)
		free_arrays(r);
	return n;
}

uint64_t feed_reorder_next_ns(const struct feed_reorder *r)
{
	return r->chosen_count ? 0 : r->first ? r->first->due_ns : UINT64_MAX;
}

void feed_reorder_counts(struct feed_reorder *r, uint64_t *ret_late, uint64_t *ret_early)
{
	*ret_late = r->late;
	*ret_early = r->early;
	r->late = r->early = 0;
}
