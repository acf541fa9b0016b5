/* A ring for each pair of producer and consumer, and consumers that steal when their own rings are empty.
 *
 * Each ring has one producer, so putting costs two plain stores; its items are taken by compare-and-swap on `head`,
 * because beside the consumer that it belongs to a thief may come. A batch is copied out first and claimed by one
 * compare-and-swap: if that succeeds nobody else had any of it, since indices run freely and the producer reuses a
 * slot only after head has passed it.
 *
 * The capacity is shared out evenly over the producers, and each producer's part over its rings: a ring may get no
 * room at all when there are more rings than items, but each producer has room for at least one item (-EINVAL
 * otherwise). A producer goes round its rings, with a cache line of items to each, and leaves out full ones, so it
 * waits only when its whole part is full.
 *
 * A consumer stays with the ring where it last found something until that is empty: looking is what costs here.
 *
 * Order: none; a stolen item can overtake, and so can one in a shorter ring. Invariant of each ring: tail - head <=
 * capacity; slots head … tail-1 (modulo size, a power of two) are inside. Source: Lamport's ring as in kfifo_spsc.c;
 * Chase and Lev, "Dynamic circular work-stealing deque", 2005, for the validated claim.
 */
#include "queue/family/blocking.h"
#include "queue/family/members.h"

#include <stdlib.h>

struct shard {
	_Alignas(CACHE_LINE) atomic_uint head; /* consumers and thieves */
	_Alignas(CACHE_LINE) atomic_uint tail; /* the producer */
	uint32_t head_seen;                    /* the producer's copy */
	_Alignas(CACHE_LINE) uint32_t capacity;
	uint32_t mask;
	_Atomic uint64_t *items;
};

#define SHARDED_RUN 8 /* items: a cache line */

struct sharded_peer {
	_Alignas(
		CACHE_LINE) unsigned next; /* producer: the consumer whose ring it fills; consumer: where it last found */
	unsigned column;                   /* consumer: whose ring that was */
	unsigned run;                      /* producer: items put since it came to that ring */
};

struct sharded {
	struct family_queue base;
	unsigned producers, consumers;
	struct shard *shards;       /* [producer * consumers + consumer] */
	struct sharded_peer *peers; /* producers, then consumers */
	_Atomic uint64_t *items;    /* of all rings */
	struct blocking blocking;
};

static void sharded_done(struct family_queue *q)
{
	struct sharded *s = container_of(q, struct sharded, base);

	blocking_done(&s->blocking);
	free(s->items);
	free(s->peers);
	free(s->shards);
	free(s);
}

/* Part i of n of the whole, the first ones larger by one where it does not divide. */
static uint32_t sharded_part(uint32_t whole, unsigned n, unsigned i)
{
	return whole / n + (i < whole % n);
}

static int sharded_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	unsigned rings = opts->producers * opts->consumers;
	struct sharded *s;
	size_t slots = 0;

	if (opts->capacity < opts->producers)
		return -EINVAL;
	s = family_alloc(sizeof *s);
	if (s == NULL)
		return -ENOMEM;
	s->base.ops = ops;
	s->producers = opts->producers;
	s->consumers = opts->consumers;
	s->shards = family_alloc(rings * sizeof *s->shards);
	s->peers = family_alloc((opts->producers + opts->consumers) * sizeof *s->peers);
	for (unsigned i = 0; s->shards != NULL && i < rings; i++) {
		struct shard *r = &s->shards[i];
		uint32_t part = sharded_part(opts->capacity, opts->producers, i / opts->consumers);

		r->capacity = sharded_part(part, opts->consumers, i % opts->consumers);
		r->mask = family_pow2_up(r->capacity < 8 ? 8 : r->capacity) - 1; /* whole cache lines */
		slots += r->mask + 1;
	}
	s->items = family_alloc(slots * sizeof *s->items);
	if (s->shards == NULL || s->peers == NULL || s->items == NULL ||
	    blocking_init(&s->blocking, opts->producers) != 0) {
		sharded_done(&s->base);
		return -ENOMEM;
	}
	slots = 0;
	for (unsigned i = 0; i < rings; i++) {
		s->shards[i].items = s->items + slots;
		slots += s->shards[i].mask + 1;
	}
	for (unsigned i = 0; i < opts->producers; i++)
		s->peers[i].next = i % opts->consumers;
	for (unsigned i = 0; i < opts->consumers; i++)
		s->peers[opts->producers + i].column = i;
	*ret = &s->base;
	return 0;
}

static unsigned shard_push(struct shard *r, const uint64_t *items, unsigned n)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	uint32_t room = r->capacity - (tail - r->head_seen);

	if (room < n) {
		r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire); /* pairs with shard_pop */
		room = r->capacity - (tail - r->head_seen);
		if (room < n)
			n = room;
	}
	for (unsigned i = 0; i < n; i++)
		atomic_store_explicit(&r->items[(tail + i) & r->mask], items[i], memory_order_relaxed);
	if (n > 0)
		atomic_store_explicit(&r->tail, tail + n, memory_order_release); /* pairs with shard_pop */
	return n;
}

static unsigned shard_pop(struct shard *r, uint64_t *items, unsigned n)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_acquire);

	for (;;) {
		uint32_t tail = atomic_load_explicit(&r->tail, memory_order_acquire); /* pairs with shard_push */
		uint32_t left = tail - head;
		unsigned k = n < left ? n : left;

		if (k == 0)
			return 0;
		for (unsigned i = 0; i < k; i++)
			items[i] = atomic_load_explicit(&r->items[(head + i) & r->mask], memory_order_relaxed);
		/* release: the copies are done before the producer may write the slots again; pairs with shard_push */
		if (atomic_compare_exchange_weak_explicit(&r->head, &head, head + k, memory_order_acq_rel,
							  memory_order_acquire))
			return k;
	}
}

static int sharded_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	struct sharded *s = container_of(q, struct sharded, base);
	struct shard *mine = &s->shards[who * s->consumers];
	struct sharded_peer *me = &s->peers[who];
	unsigned put = 0;

	for (unsigned tried = 0; tried < s->consumers && put < n; tried++) {
		unsigned k = shard_push(&mine[me->next], items + put, n - put);

		put += k;
		me->run += k;
		if (put == n && me->run < SHARDED_RUN)
			break;
		me->run = 0;
		if (++me->next == s->consumers)
			me->next = 0;
	}
	return (int)put;
}

/* From the rings of consumer `owner`, beginning at producer *from; leaves there the last one used, where more is
 * likely. */
static unsigned sharded_take(struct sharded *s, unsigned owner, unsigned *from, uint64_t *items, unsigned n)
{
	unsigned at = *from, got = 0;

	for (unsigned tried = 0; tried < s->producers; tried++) {
		unsigned k = shard_pop(&s->shards[at * s->consumers + owner], items + got, n - got);

		got += k;
		if (k > 0)
			*from = at;
		if (got == n)
			break;
		if (++at == s->producers)
			at = 0;
	}
	return got;
}

/* Where something was last found, then its own rings, then the others'. */
static int sharded_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	struct sharded *s = container_of(q, struct sharded, base);
	struct sharded_peer *me = &s->peers[s->producers + who];
	unsigned got = shard_pop(&s->shards[me->next * s->consumers + me->column], items, n);

	for (unsigned i = 0; got == 0 && i < s->consumers; i++) {
		unsigned owner = who + i < s->consumers ? who + i : who + i - s->consumers;

		got = sharded_take(s, owner, &me->next, items, n);
		me->column = owner;
	}
	return (int)got;
}

static int sharded_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	return blocking_enqueue(&container_of(q, struct sharded, base)->blocking, q, who, items, n, wait, sharded_push);
}
static int sharded_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct sharded, base)->blocking, q, who, items, n, wait, sharded_pop);
}
static void sharded_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct sharded, base)->blocking);
}

const struct family_ops family_sharded = {
	.name = "sharded",
	.about = "a single-producer ring for each pair of producer and consumer, with work stealing",
	.order = FAMILY_UNORDERED,
	.peer = FAMILY_PEER_ANY,
	.bounded = true,
	.init = sharded_init,
	.done = sharded_done,
	.enqueue = sharded_enqueue,
	.dequeue = sharded_dequeue,
	.close = sharded_close,
};
