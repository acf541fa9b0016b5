/* The producer: makes ranges and feeds every shard's queue. For queue/ and its tests only.
 *
 * Three files: producer.c is the thread and its loop, producer_window.c what is reserved in the journal,
 * producer_feed.c what is released to shards. All of it runs on the producer's thread; tests drive producer_turn
 * themselves, without a thread.
 */
#ifndef ORDINAL_QUEUE_PRODUCER_H
#define ORDINAL_QUEUE_PRODUCER_H

#include "queue/ids_record.h"
#include "queue/ids_shared.h"

#include "core/base/clock.h"

#include <pthread.h>

#define SLOT_NONE UINT32_MAX

#define PRODUCER_PORT_DEPTH 256            /* records on their way into the journal */
#define PRODUCER_TICK_NS (1 * NS_PER_MS)   /* shortest time between two releases under a rate cap */
#define PRODUCER_CHECKPOINT_RECORDS 4096   /* window records between two checkpoints, at least */
#define PRODUCER_RECORD_BYTES (128u << 10) /* of one CHECKPOINT or STAND record, at most */
#define PRODUCER_SEGMENT_BYTES (1u << 20)

/* A shard's fair share of a sequence whose IDs are scarce, in IDs. */
struct share {
	uint64_t tag;  /* what it has had, counted up to fair_time when it comes to wait */
	uint32_t want; /* what its front request needs, at least 1 */
};

/* The producer's side of a sequence. Always: released_end <= durable_end <= reserved_end. */
struct window {
	uint64_t released_end; /* shards have been told of the IDs below */
	uint64_t durable_end;  /* IDs below are reserved, written and synced */
	uint64_t reserved_end; /* the same, with the record that is under way */
	uint64_t want; /* uncapped strict: the most that a parked request needs; sharded: what the next in turn lacks */
	uint64_t mark; /* of the record under way */
	uint32_t size; /* between window_min and window_max */
	bool reserving; /* a record is under way or waiting for room in the journal's port */
	bool ticking;   /* rate cap: more is to be released as time passes */
	bool used;      /* has reserved since start */
	uint32_t reserving_next, ticking_next;

	uint64_t sized_ns, sized_at; /* when the size was last looked at, and where the sequence stood then */

	uint64_t credit;                 /* rate cap: IDs that time has earned and that are not released yet */
	uint64_t credit_ns, credit_part; /* counted up to this time; left over, in IDs * ns / s */
	uint64_t tick_due_ns;            /* UINT64_MAX: waits for the journal */

	/* strict: shards that have ever asked; capped: that have few left and are not answered yet */
	uint64_t users[IDS_SHARDS_MAX / 64];
	uint64_t waiting[IDS_SHARDS_MAX / 64]; /* sharded or capped: shards whose requests wait */
	struct share *shares;                  /* by shard; made when one has to wait */
	uint64_t fair_time;                    /* the tag of the share that was served last */
	uint8_t record[IDS_RECORD_ENTRY_MAX];  /* under way */
};

/* A list of slots, threaded through struct window. */
struct slot_list {
	uint32_t head, tail;
};

/* Facts about all sequences on their way into the journal, as one or more records. */
struct snapshot {
	uint8_t *buf;
	size_t len, sent;
	uint64_t mark_first, mark_last;
};

struct producer {
	struct ids *ids;
	struct journal_port *port;
	bool failed;            /* the journal has; nothing more is released */
	struct window *windows; /* by slot */
	struct names names;
	uint64_t now_ns;
	uint64_t mark;           /* last one given */
	struct slot_list unsent; /* windows being reserved: waiting for room in the port */
	struct slot_list sent;   /* and in the journal, by mark */
	uint32_t ticking;        /* head of the list, or SLOT_NONE */
	uint64_t tick_due_ns;    /* UINT64_MAX: none */
	uint64_t burst;          /* rate cap: IDs that may be released at once */
	struct snapshot checkpoint, stand;
	uint64_t records_since_checkpoint;
	bool singles_due;                             /* ids->singles: there may be something to put */
	uint64_t singles_asking[IDS_SHARDS_MAX / 64]; /* shards whose demand is not answered yet */

	pthread_t thread;
	atomic_bool stop; /* pairs: ids_stop and the loop */
};

/* Main thread, in ids_open, after the replay. `ids->sequences` and count are set; their `next` is where each begins. */
int producer_new(struct ids *ids, struct journal_port *port, struct producer **ret);
void producer_free(struct producer *p);
/* Main thread, before the first turn: some sequence had no incarnation before this opening. A
 * checkpoint makes those numbers durable that the first windows would not. */
void producer_upgrade(struct producer *p);

/* Does all that can be done now. Returns when it should be called again if nothing else happens (monotonic ns, or
 * UINT64_MAX). */
uint64_t producer_turn(struct producer *p, uint64_t now_ns);
/* Whether there is something to do right now. */
bool producer_has_work(const struct producer *p);
/* Records where every sequence stands and waits until that is durable or the journal has failed. The last thing it
 * does. */
void producer_finish(struct producer *p);
/* The thread's function. */
void *producer_main(void *p);

/* producer_window.c */

/* Reserves the window's size (or `want`, if more) beyond `base`, unless that is under way or the sequence has ended. */
void window_reserve(struct producer *p, uint32_t slot, uint64_t base, uint64_t want);
/* Moves finished reservations on: feed_window_ready for each. */
void window_reap(struct producer *p);
/* Gives the journal what is to be written: reservations, the checkpoint. */
void window_flush(struct producer *p);
bool window_has_work(const struct producer *p);

/* producer_feed.c */

/* A shard asks. */
void feed_demand(struct producer *p, unsigned shard, const struct demand *d);
/* The window of this slot has become longer. */
void feed_window_ready(struct producer *p, uint32_t slot);
/* Releases what time has earned; tries again what did not fit before. */
void feed_turn(struct producer *p);
/* With ids->singles: puts what is durable into the queues, and answers who has asked. */
void feed_singles(struct producer *p);
/* A creation is answered. */
void feed_creation(struct producer *p, struct ids_port *port, struct creation *c);
/* Wakes the shards that were fed in this turn and wait for it. */
void feed_ring_shards(struct producer *p);
/* Some shard waits for what it is owed. *ret_room: and its ring has room now. */
bool feed_is_owing(const struct producer *p, bool *ret_room);

#endif
