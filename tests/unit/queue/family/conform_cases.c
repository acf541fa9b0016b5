/* The cases that one thread can run, as all producers and consumers in turn. */
#include "conform.h"

#include "core/base/check.h"

#include <errno.h>

/* Takes one item as whichever consumer gets one, beginning with `first`. 0, or -EAGAIN or -EPIPE when all say so. */
static int take_any(struct conform *c, struct family_queue *q, unsigned first, uint64_t *ret)
{
	int r = -EAGAIN;

	for (unsigned i = 0; i < c->consumers; i++) {
		r = family_dequeue(q, (first + i) % c->consumers, ret, false);
		if (r == 0)
			break;
	}
	return r;
}

void conform_empty(struct conform *c)
{
	struct family_queue *q = conform_queue(c, 8, NULL);
	uint64_t item;

	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < c->consumers; i++) {
			int r = family_dequeue(q, i, &item, false);

			if (r != -EAGAIN)
				conform_fault(c, r == 0 ? CONFORM_REPEATED : CONFORM_UNEXPECTED,
					      "an empty queue gave %d", r);
		}
		if (family_enqueue(q, round % c->producers, conform_item(0, round), false) != 0)
			conform_fault(c, CONFORM_BOUND, "an empty queue took nothing in");
		if (take_any(c, q, round, &item) != 0)
			conform_fault(c, CONFORM_LOST, "one item went in, none came out");
		if (item != conform_item(0, round))
			conform_fault(c, CONFORM_REPEATED, "another item came out than went in");
	}
	family_done(q);
}

/* Fills as all producers in turn; returns how many went in. */
static unsigned fill(struct conform *c, struct family_queue *q, unsigned most)
{
	unsigned full = 0, put = 0;

	for (unsigned who = 0; full < c->producers && put < most; who = (who + 1) % c->producers) {
		int r = family_enqueue(q, who, conform_item(0, put), false);

		if (r == -EAGAIN)
			full++;
		else if (r == 0)
			put++, full = 0;
		else
			conform_fault(c, CONFORM_UNEXPECTED, "enqueue gave %d", r);
	}
	return put;
}

void conform_full(struct conform *c)
{
	static const uint32_t capacities[] = {1, 2, 3, 5, 8, 21, 64, 100};

	for (unsigned i = 0; i < ARRAY_SIZE(capacities); i++) {
		uint32_t capacity;
		struct family_queue *q = conform_queue(c, capacities[i], &capacity);

		for (unsigned round = 0; round < 5; round++) {
			unsigned most = 3 * capacity + 1, put = fill(c, q, most), got = 0;
			uint64_t item;

			if (c->ops->bounded ? put > capacity : put < most)
				conform_fault(c, CONFORM_BOUND, "capacity %u: took %u", capacity, put);
			if (put == 0)
				conform_fault(c, CONFORM_BOUND, "capacity %u: took nothing", capacity);
			while (take_any(c, q, got, &item) == 0)
				got++;
			if (got != put)
				conform_fault(c, got < put ? CONFORM_LOST : CONFORM_REPEATED, "%u in, %u out", put,
					      got);
			conform_progress(c);
		}
		family_done(q);
	}
}

#define ORDER_ROUNDS 2000

/* Each item that went in came out once, and in an order that is claimed. out[] holds them as they came. */
static void check_order(struct conform *c, const uint64_t *out, unsigned n, uint64_t in)
{
	static unsigned char seen[ORDER_ROUNDS * 8];

	for (unsigned i = 0; i < n; i++) {
		uint64_t seq = conform_seq(out[i]);

		if (seq >= in || conform_producer(out[i]) != seq % c->producers || seen[seq]++ != 0)
			conform_fault(c, CONFORM_REPEATED, "item %llu came out twice, or never went in",
				      (unsigned long long)seq);
	}
	if (n != in)
		conform_fault(c, CONFORM_LOST, "%llu in, %u out", (unsigned long long)in, n);
	for (unsigned i = 0; i < n && c->ops->order == FAMILY_FIFO; i++)
		if (conform_seq(out[i]) != i)
			conform_fault(c, CONFORM_DISORDER, "item %llu came out in place of %u",
				      (unsigned long long)conform_seq(out[i]), i);
}

/* Some in, some out, wrapping round often. A FIFO keeps one order over all producers and consumers. */
void conform_order(struct conform *c)
{
	static uint64_t out[ORDER_ROUNDS * 8];
	struct family_queue *q = conform_queue(c, 16, NULL);
	uint64_t in = 0, extra;
	unsigned n = 0;

	for (unsigned round = 0; round < ORDER_ROUNDS; round++) {
		for (unsigned i = 0; i < round % 7 + 1; i++) {
			unsigned who = (unsigned)(in % c->producers);

			if (family_enqueue(q, who, conform_item(who, in), false) == 0)
				in++;
		}
		for (unsigned i = 0; i < round % 5 + 1 && n < ARRAY_SIZE(out) && take_any(c, q, round, &out[n]) == 0;
		     i++)
			n++;
	}
	while (n < ARRAY_SIZE(out) && take_any(c, q, 0, &out[n]) == 0)
		n++;
	if (take_any(c, q, 0, &extra) == 0)
		conform_fault(c, CONFORM_REPEATED, "far more came out than went in");
	check_order(c, out, n, in);
	family_done(q);
}

/* Batches keep their order and return what fits; one larger than the queue goes in by parts. */
void conform_batches(struct conform *c)
{
	uint32_t capacity;
	struct family_queue *q = conform_queue(c, 24, &capacity);
	uint64_t in[80], out[80], next = 0;

	for (unsigned round = 0; round < 300; round++) {
		unsigned n = round % ARRAY_SIZE(in) + 1, got = 0;
		int put;

		for (unsigned i = 0; i < n; i++)
			in[i] = conform_item(0, next + i);
		put = family_enqueue_batch(q, 0, in, n, false);
		if (put <= 0 || put > (int)n || (c->ops->bounded && put > (int)capacity))
			conform_fault(c, CONFORM_BOUND, "a batch of %u into an empty queue gave %d", n, put);
		for (unsigned idle = 0, who = 0; idle < c->consumers; who = (who + 1) % c->consumers) {
			int r = family_dequeue_batch(q, who, out + got, 7, false);

			idle = r > 0 ? 0 : idle + 1;
			if (r > 7)
				conform_fault(c, CONFORM_UNEXPECTED, "asked for 7, got %d", r);
			if (r > 0)
				got += (unsigned)r;
		}
		if ((int)got != put)
			conform_fault(c, (int)got < put ? CONFORM_LOST : CONFORM_REPEATED, "%d in, %u out", put, got);
		for (unsigned i = 0; i < got && c->ops->order == FAMILY_FIFO; i++)
			if (out[i] != in[i])
				conform_fault(c, CONFORM_DISORDER, "a batch in disorder");
		next += (unsigned)put;
	}
	family_done(q);
}

void conform_close_drains(struct conform *c)
{
	for (unsigned left = 0; left < 12; left++) {
		struct family_queue *q = conform_queue(c, 32, NULL);
		unsigned put = fill(c, q, left), got = 0;
		uint64_t item = conform_item(0, 0);
		int r;

		family_close(q);
		family_close(q);
		for (unsigned i = 0; i < 2 * c->producers; i++) {
			r = family_enqueue(q, i % c->producers, item, i < c->producers);
			if (r != -EPIPE)
				conform_fault(c, CONFORM_CLOSE, "an enqueue after the close gave %d", r);
		}
		for (unsigned i = 0; i < c->consumers;
		     i++) /* each until it is told the end; with lanes each has some */
			while ((r = family_dequeue(q, i, &item, i % 2)) != -EPIPE) {
				if (r != 0)
					conform_fault(c, CONFORM_CLOSE, "a dequeue from a closed queue gave %d", r);
				got++;
			}
		if (got != put)
			conform_fault(c, got < put ? CONFORM_LOST : CONFORM_REPEATED, "%u in, %u out after the close",
				      put, got);
		family_done(q);
	}
}
