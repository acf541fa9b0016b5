/* What the shards' views and the producer share. For queue/ only.
 *
 * A shard and the producer talk through a port: two SPSC rings. The protocol:
 *  - A view has at most one demand under way for each sequence (view_seq.asked), and the producer answers every one
 *    with a RANGE to that shard, sooner or later, until the journal fails. A RANGE may also come unasked.
 *  - When the request that a demand was made for is taken back, the view revises the demand to what is needed now. A
 *    revision is not answered; one that crosses the answer says nothing.
 *  - A CREATE is answered by CREATED or REFUSED, with the creation, which then belongs to the shard again.
 *  - Who pushes into the feed rings the shard only if it is hungry; who pushes into demand rings the producer.
 */
#ifndef ORDINAL_QUEUE_IDS_SHARED_H
#define ORDINAL_QUEUE_IDS_SHARED_H

#include "core/base/spsc.h"
#include "queue/ids.h"
#include "queue/names.h"
#include "queue/sequence.h"
#include "queue/singles.h"

#include <stdatomic.h>

#define IDS_DEMAND_DEPTH 1024 /* demands of one shard that wait to be read by the producer */

/* A name on its way to becoming a sequence. Made by a shard; while it is under way the producer reads hash and name,
 * writes slot and error and uses reply_next; the shard keeps the rest. */
struct creation {
	struct ids_wait waits;       /* sentinel of the requests that wait for it */
	struct creation *next;       /* shard: chain of its bucket */
	struct creation *later_next; /* shard: those that did not fit in the demand ring yet */
	struct creation *reply_next; /* producer: answers that did not fit in the feed ring yet */
	uint64_t hash;
	uint32_t slot;
	enum ids_error error;
	uint32_t name_len;
	char name[SEQUENCE_NAME_MAX];
};

enum feed_kind { FEED_RANGE, FEED_CREATION };

/* From the producer to a shard. */
struct feed {
	uint64_t first, count;
	struct creation *creation; /* FEED_CREATION */
	uint32_t slot;
	uint16_t kind;
	bool final; /* there will be no more: the sequence has come to SEQUENCE_END */
};

/* From a shard to the producer. */
struct demand {
	struct creation *creation; /* not NULL: make this sequence */
	uint32_t slot;
	uint32_t want; /* parked until so many IDs are there; 0: none is parked, but few are left */
	bool revises;  /* no demand of its own: the one under way, if there is one, is for so few only */
};

struct ids_port {
	struct spsc feed, demand;
	struct doorbell *bell; /* the shard's */
	/* Requests wait in this shard, so new ranges must wake it. Pairs with producer_ring_shards. */
	_Alignas(CACHE_LINE) atomic_bool hungry;
	/* The feed was full; the producer has more for this shard. Pairs with view_set_hungry. */
	_Alignas(CACHE_LINE) atomic_bool owed;
	uint64_t *owed_slots;                     /* producer: a bit for each */
	struct creation *replies, **replies_tail; /* producer: answers that did not fit */
	bool fed;                                 /* producer: something was pushed in this turn */
	struct creation *orphans;                 /* creations that were under way when the view was freed */
};

struct producer;

struct ids {
	struct ids_opts opts;
	struct journal *journal;
	struct jlog *log;
	struct producer *producer;
	struct singles *singles; /* NULL: ranges */
	struct doorbell bell;    /* the producer's */
	uint64_t hash_key[2];    /* one for all tables, so that a hash can travel */
	uint32_t capacity;       /* of sequences: sequences_max, or more if more were found on disk */
	struct sequence *sequences;
	uint64_t others; /* where a sequence begins that is made: 1, or above a loss that was accepted */
	/* IDS_E_OK, or why requests are refused that would have to wait; with IDS_E_LOST all are. The producer's; release, pairs with acquire in
	 * ids_view_turn. */
	_Alignas(CACHE_LINE) _Atomic unsigned trouble;
	_Atomic uint32_t count; /* sequences published; release, pairs with acquire in views */
	_Atomic(struct ids_port *) ports[IDS_SHARDS_MAX]; /* release by ids_view_new, acquire by the producer */
	bool started;
};

/* Zero-filled memory, touched lazily and never moved. NULL: none. */
void *ids_map(size_t bytes);
void ids_unmap(void *p, size_t bytes);

static inline bool bit_get(const uint64_t *bits, uint32_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}
static inline void bit_set(uint64_t *bits, uint32_t i)
{
	bits[i / 64] |= UINT64_C(1) << (i % 64);
}
static inline void bit_clear(uint64_t *bits, uint32_t i)
{
	bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

#endif
