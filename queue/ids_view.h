/* The inside of a shard's view. For queue/ids_view.c and queue/ids_create.c only. */
#ifndef ORDINAL_QUEUE_IDS_VIEW_H
#define ORDINAL_QUEUE_IDS_VIEW_H

#include "queue/ids_shared.h"

#define VIEW_BUCKETS 64 /* of creations under way */
#define VIEW_CACHED_BITS 8
#define VIEW_CACHED (1u << VIEW_CACHED_BITS) /* names found lately */
#define SLOT_END UINT32_MAX                  /* ends a list of slots */
#define SLOT_UNLISTED 0 /* a zero-filled link: not in the list. So links hold the slot plus 1, or SLOT_END */

/* A shard's side of a sequence. All zero until first used. */
struct view_seq {
	struct ids_wait q;     /* sentinel of those that wait, in order of arrival; links are NULL until first used */
	uint64_t total;        /* IDs that they want */
	uint64_t first, end;   /* strict: IDs below `end` may be claimed. sharded: the piece in use, [first, end) */
	uint32_t touched_next; /* to be looked at in this turn; SLOT_UNLISTED: not listed */
	uint8_t asked;         /* a demand is under way, or in the `later` list */
	uint8_t final;         /* no more will come */
	uint32_t waits;        /* how many wait */
	uint32_t counted;      /* those of them that are in stats.parked already */
	/* ----- one cache line up to here; below: rare ----- */
	uint64_t ahead_first, ahead_end; /* sharded: the piece after the one in use */
	uint32_t later_next;             /* in the list of those whose message did not fit in the ring yet */
	uint32_t asked_want;             /* what the demand under way says, as it was sent or revised */
	uint8_t unsent;                  /* enum view_unsent: what the list is to send for it */
};

enum view_unsent { VIEW_UNSENT_NOTHING, VIEW_UNSENT_DEMAND, VIEW_UNSENT_REVISION };

struct ids_view {
	struct view_seq *seqs; /* by slot */
	struct sequence *sequences;
	struct ids_port *port;
	struct ids *ids;
	uint32_t count_max;
	uint32_t waiting;
	uint32_t touched; /* head of the list */
	uint32_t later;   /* head of the list */
	enum { VIEW_STRICT, VIEW_SHARDED, VIEW_SINGLES } mode;
	bool hungry;
	/* IDS_E_OK, or nobody waits: those who would have to are refused with this. What is durable is still handed out, but for IDS_E_LOST. */
	enum ids_error refusing;
	bool ring; /* the producer was sent something in this turn */

	/* Names (queue/ids_create.c). */
	uint32_t known; /* sequences in the table */
	uint32_t creating;
	uint32_t cached[VIEW_CACHED]; /* slots, by view_cache_line of the name; 0: none */
	struct names names;
	struct creation *bucket[VIEW_BUCKETS];
	struct creation *later_creations, **later_creations_tail;

	/* Only with ids->singles. */
	struct singles *singles;
	unsigned who;   /* its number as a consumer */
	uint32_t taken; /* IDs since the last demand */

	_Alignas(CACHE_LINE) struct ids_view_stats stats; /* relaxed stores, read by any thread */
};

/* Puts w at the end of its sequence's queue. */
void view_enqueue(struct ids_view *v, struct ids_wait *w, uint32_t slot, uint32_t count);

/* queue/ids_create.c */

int view_names_init(struct ids_view *v);
void view_names_done(struct ids_view *v);
/* Queues w for a named sequence, or for its creation. */
enum ids_error view_request_named(struct ids_view *v, struct ids_wait *w, struct span name, uint32_t count);
/* The producer has answered: those that waited go to the sequence's queue, or are refused. */
void view_created(struct ids_view *v, struct creation *c, const struct ids_view_ops *ops, void *ctx);
/* Refuses those that wait for a sequence to be made, with v->refusing. */
void view_refuse_creations(struct ids_view *v, const struct ids_view_ops *ops, void *ctx);
/* Sends the creations that did not fit before. */
void view_send_creations(struct ids_view *v);

static inline void wait_append(struct ids_wait *head, struct ids_wait *w)
{
	w->next = head;
	w->prev = head->prev;
	head->prev->next = w;
	head->prev = w;
}

static inline void wait_unlink(struct ids_wait *w)
{
	w->prev->next = w->next;
	w->next->prev = w->prev;
	w->next = w->prev = NULL;
}

#endif
