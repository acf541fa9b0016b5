/* A subscriber's reorder window: live frames are held for a while and given in (seq_no, timestamp) order, in order of arrival among equals.
 * Runs on the subscriber's shard.
 *
 * A heap by key says which frame is next, a list by arrival says when: once the frame that has waited longest is due, everything up to it in the heap
 * goes, and so do the first ones while more than bytes_max is held. A frame whose key is below one that has been given is late: it goes
 * at once, so late ones keep their order of arrival.
 */
#include "rpc/feed_impl.h"

#include "core/base/check.h"

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
	uint64_t bytes; /* held */
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

struct feed_reorder *feed_reorder_new(uint64_t window_ns, uint64_t bytes_max)
{
	struct feed_reorder *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->window_ns = window_ns;
	r->bytes_max = bytes_max;
	r->last = &r->first;
	return r;
}

void feed_reorder_free(struct feed_reorder *r)
{
	if (!r)
		return;
	for (struct held *h = r->first, *next; h; h = next) {
		next = h->next;
		free(h);
	}
	for (size_t i = 0; i < r->chosen_count; i++)
		free(r->chosen[i]);
	free(r->heap);
	free(r->chosen);
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

static bool room(struct held ***p, size_t count, size_t *cap)
{
	if (count < *cap)
		return true;
	size_t more = *cap ? *cap * 2 : 64;
	struct held **bigger = realloc(*p, more * sizeof *bigger);
	if (!bigger)
		return false;
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

static bool is_late(const struct feed_reorder *r, const struct held *h)
{
	if (!r->any_given)
		return false;
	return h->seq_no != r->given_seq_no ? h->seq_no < r->given_seq_no : h->timestamp < r->given_timestamp;
}

static struct held *choose_next(struct feed_reorder *r)
{
	struct held *h = heap_pop(r);

	*h->link = h->next;
	if (h->next)
		h->next->link = h->link;
	else
		r->last = h->link;
	r->bytes -= h->n;
	r->any_given = true;
	r->given_seq_no = h->seq_no;
	r->given_timestamp = h->timestamp;
	choose(r, h);
	return h;
}

static bool add(struct feed_reorder *r, const uint8_t *p, size_t n, uint64_t seq_no, int64_t timestamp, uint64_t now_ns)
{
	if (!room(&r->heap, r->count, &r->cap) || !room(&r->chosen, r->chosen_count + r->count, &r->chosen_cap))
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
	if (is_late(r, h)) {
		r->late++;
		choose(r, h);
		return true;
	}
	h->link = r->last;
	*r->last = h;
	r->last = &h->next;
	r->bytes += n;
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

size_t feed_reorder_due(struct feed_reorder *r, uint64_t now_ns, bool all)
{
	for (const struct held *h; (h = r->first) && (all || h->due_ns <= now_ns);) {
		while (choose_next(r) != h)
			;
	}
	for (; r->bytes > r->bytes_max; r->early++)
		choose_next(r);
	return r->chosen_bytes;
}

uint32_t feed_reorder_take(struct feed_reorder *r, uint8_t *out)
{
	uint32_t n = (uint32_t)r->chosen_count;

	for (size_t i = 0; i < r->chosen_count; i++) {
		memcpy(out, r->chosen[i]->bytes, r->chosen[i]->n);
		out += r->chosen[i]->n;
		free(r->chosen[i]);
	}
	r->chosen_count = r->chosen_bytes = 0;
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
