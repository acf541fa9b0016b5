/* Rings that carry {first, count} instead of single items: the production shape. A consumer takes a range out once
 * and then hands out its items with an addition each.
 *
 *   ranges-spsc   one producer, and for each consumer a ring of its own (core/base/spsc.h, Concurrency Kit's ring):
 *                 what feeds Ordinal's shards. A range goes to the next ring that has room, and only its consumer can
 *                 take it (lanes)
 *   ranges-mpmc   one ring (ck_ring) for any number of producers and consumers
 *
 * The bound counts ranges. The rest of a range that a consumer has begun is that consumer's alone: it is lost if he
 * stops calling, and while he holds it others get later items, so there is an order only within what one consumer
 * gets from one producer. family_enqueue_batch makes one range of each run of consecutive items.
 *
 * blocking.h hands an element through as a pointer to words; here an element is two words, {first, count}, and always
 * one at a time. Invariant: `rest` is touched by its consumer only.
 */
#include "core/base/spsc.h"
#include "queue/family/blocking.h"
#include "queue/family/ck.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct range {
	uint64_t first, count;
};
CK_RING_PROTOTYPE(range, range)

struct ranges_lane {
	_Alignas(CACHE_LINE) struct range rest; /* the consumer's, taken out already */
	struct spsc ring;                       /* ranges-spsc only, as is ready */
	struct eventcount ready;
};

struct ranges {
	struct family_queue base;
	unsigned consumers;
	struct ranges_lane *lanes; /* one for each consumer */
	struct range *slots;       /* ranges-mpmc only, as is ring */
	struct blocking blocking;
	_Alignas(CACHE_LINE) unsigned next; /* ranges-spsc: the lane whose turn it is; the producer's */
	_Alignas(CACHE_LINE) struct ck_ring ring;
};

static void ranges_done(struct family_queue *q)
{
	struct ranges *r = container_of(q, struct ranges, base);

	for (unsigned i = 0; r->lanes != NULL && i < r->consumers; i++)
		spsc_done(&r->lanes[i].ring);
	blocking_done(&r->blocking);
	free(r->slots);
	free(r->lanes);
	free(r);
}

static int ranges_new(const struct family_ops *ops, const struct family_opts *opts, struct ranges **ret)
{
	struct ranges *r = family_alloc(sizeof *r);

	if (r == NULL)
		return -ENOMEM;
	r->base.ops = ops;
	r->consumers = opts->consumers;
	r->lanes = family_alloc(opts->consumers * sizeof *r->lanes);
	if (r->lanes == NULL || blocking_init(&r->blocking, opts->producers) != 0) {
		ranges_done(&r->base);
		return -ENOMEM;
	}
	*ret = r;
	return 0;
}

static int ranges_spsc_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct ranges *r;
	int err;

	if (opts->capacity < opts->consumers)
		return -EINVAL;
	err = ranges_new(ops, opts, &r);
	for (unsigned i = 0; err == 0 && i < opts->consumers; i++) {
		uint32_t part = opts->capacity / opts->consumers;

		err = spsc_init(&r->lanes[i].ring, ck_ring_size_for(part) - 1, sizeof(struct range));
		if (err != 0)
			ranges_done(&r->base);
	}
	if (err != 0)
		return err;
	*ret = &r->base;
	return 0;
}

static int ranges_mpmc_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct ranges *r;
	unsigned size = ck_ring_size_for(opts->capacity);
	int err = ranges_new(ops, opts, &r);

	if (err != 0)
		return err;
	r->slots = family_alloc((size_t)size * sizeof *r->slots);
	if (r->slots == NULL) {
		ranges_done(&r->base);
		return -ENOMEM;
	}
	ck_ring_init(&r->ring, size);
	*ret = &r->base;
	return 0;
}

static int ranges_spsc_push(struct family_queue *q, unsigned who, const uint64_t *words, unsigned n)
{
	struct ranges *r = container_of(q, struct ranges, base);
	struct range range = {words[0], words[1]};

	for (unsigned tried = 0; tried < r->consumers; tried++) {
		struct ranges_lane *lane = &r->lanes[r->next];

		r->next = r->next + 1 < r->consumers ? r->next + 1 : 0;
		if (spsc_push(&lane->ring, &range)) {
			eventcount_notify(&lane->ready, 1);
			return 1;
		}
	}
	return 0;
}

static int ranges_mpmc_push(struct family_queue *q, unsigned who, const uint64_t *words, unsigned n)
{
	struct ranges *r = container_of(q, struct ranges, base);
	unsigned ticket;
	struct range *slot;

	ck_ring_await_peers(&r->ring);
	slot = ck_ring_enqueue_reserve_mpmc_range(&r->ring, r->slots, &ticket);
	if (slot == NULL)
		return 0;
	*slot = (struct range){words[0], words[1]};
	ck_ring_await_turn(&r->ring, ticket);
	ck_ring_enqueue_commit_mpmc(&r->ring, ticket);
	return 1;
}

/* Up to n items of the range that this consumer has begun. */
static unsigned ranges_rest(struct ranges_lane *lane, uint64_t *items, unsigned n)
{
	if (lane->rest.count < n)
		n = (unsigned)lane->rest.count;
	for (unsigned i = 0; i < n; i++)
		items[i] = lane->rest.first + i;
	lane->rest.first += n;
	lane->rest.count -= n;
	return n;
}

static int ranges_spsc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct ranges_lane *lane = &container_of(q, struct ranges, base)->lanes[who];

	return spsc_pop(&lane->ring, &lane->rest) ? (int)ranges_rest(lane, items, n) : 0;
}

static int ranges_mpmc_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct ranges *r = container_of(q, struct ranges, base);
	struct ranges_lane *lane = &r->lanes[who];

	return ck_ring_dequeue_mpmc_range(&r->ring, r->slots, &lane->rest) ? (int)ranges_rest(lane, items, n) : 0;
}

static int ranges_spsc_enqueue_range(struct family_queue *q, unsigned who, uint64_t first, uint32_t count, bool wait)
{
	const uint64_t words[2] = {first, count};

	return blocking_enqueue(&container_of(q, struct ranges, base)->blocking, q, who, words, 1, wait,
				ranges_spsc_push);
}

static int ranges_mpmc_enqueue_range(struct family_queue *q, unsigned who, uint64_t first, uint32_t count, bool wait)
{
	const uint64_t words[2] = {first, count};

	return blocking_enqueue(&container_of(q, struct ranges, base)->blocking, q, who, words, 1, wait,
				ranges_mpmc_push);
}

static int ranges_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	unsigned put = 0;

	while (put < n) {
		uint32_t run = 1;
		int r;

		while (put + run < n && items[put + run] == items[put] + run)
			run++;
		r = q->ops->enqueue_range(q, who, items[put], run, wait);
		if (r <= 0)
			return put > 0 ? (int)put : r;
		put += run;
	}
	return (int)put;
}

static int ranges_spsc_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct ranges *r = container_of(q, struct ranges, base);
	struct ranges_lane *lane = &r->lanes[who];

	if (lane->rest.count > 0)
		return (int)ranges_rest(lane, items, n);
	return blocking_dequeue_on(&r->blocking, &lane->ready, q, who, items, n, wait, ranges_spsc_pop);
}

static int ranges_mpmc_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct ranges *r = container_of(q, struct ranges, base);

	if (r->lanes[who].rest.count > 0)
		return (int)ranges_rest(&r->lanes[who], items, n);
	return blocking_dequeue(&r->blocking, q, who, items, n, wait, ranges_mpmc_pop);
}

static void ranges_close(struct family_queue *q)
{
	struct ranges *r = container_of(q, struct ranges, base);

	blocking_close(&r->blocking);
	for (unsigned i = 0; i < r->consumers; i++)
		eventcount_notify(&r->lanes[i].ready, EVENTCOUNT_ALL);
}

const struct family_ops family_ranges_spsc = {
	.name = "ranges-spsc",
	.about =
		"ranges {first, count} from one producer, a Concurrency Kit ring for each consumer: the production shape",
	.producers_max = 1,
	.order = FAMILY_PER_PRODUCER,
	.peer = FAMILY_PEER_CONSUMER,
	.bounded = true,
	.lanes = true,
	.init = ranges_spsc_init,
	.done = ranges_done,
	.enqueue = ranges_enqueue,
	.dequeue = ranges_spsc_dequeue,
	.close = ranges_close,
	.enqueue_range = ranges_spsc_enqueue_range,
};
const struct family_ops family_ranges_mpmc = {
	.name = "ranges-mpmc",
	.about = "ranges {first, count} in one Concurrency Kit ring of many producers and consumers",
	.capacity_min = CK_RING_CAPACITY_MIN,
	.order = FAMILY_PER_PRODUCER,
	.peer = FAMILY_PEER_CONSUMER,
	.bounded = true,
	.init = ranges_mpmc_init,
	.done = ranges_done,
	.enqueue = ranges_enqueue,
	.dequeue = ranges_mpmc_dequeue,
	.close = ranges_close,
	.enqueue_range = ranges_mpmc_enqueue_range,
};
