/* The IDs of all sequences, as one shard sees them, and the producer that feeds the shards.
 *
 *   shard thread                     producer thread                    journal thread
 *   ids_view  <---- CK SPSC ring ---- producer  ------ port ----------> window records, synced
 *             {slot, first, count}       ^
 *   demand    ----- CK SPSC ring --------+   (create NAME; sequence runs low; wants n)
 *
 * strict: every shard gets every range; a claim is one compare-and-swap of the sequence's shared counter per loop turn,
 * bounded by the end of the ranges this shard has received. sharded: each range goes to one shard, which hands it out
 * alone.
 * Invariant: no ID at or above the durable end of its sequence's window is ever in a range.
 */
#ifndef ORDINAL_QUEUE_IDS_H
#define ORDINAL_QUEUE_IDS_H

#include "core/base/bytes.h"
#include "core/base/doorbell.h"
#include "core/journal.h"

#include <stdbool.h>
#include <stdint.h>

#define IDS_LOG "ids"         /* the journal's log of them, which is there before any other */
#define SEQUENCE_NAME_MAX 128 /* bytes; of the journal's format */
#define IDS_SHARDS_MAX 256

enum ids_order { IDS_STRICT, IDS_SHARDED };

struct ids_opts {
	unsigned shards;
	enum ids_order order;
	/* IDs reserved at a time; the size moves between these with the observed rate */
	uint32_t window_min, window_max;
	uint32_t window_target_ms; /* a window should last about this long */
	uint64_t rate;             /* PRODUCER_RATE, IDs/s of each sequence; 0: no cap */
	uint32_t queue_depth;      /* ranges in each shard's ring; a power of two */
	uint32_t sequences_max;
	bool create;        /* sequences are made on first use */
	uint32_t count_max; /* IDs in one request */
	/* What carries IDs to the shards. NULL or "ranges": what stands above. A member of queue/family: the comparison
	 * mode of queue/singles.h, which has the default sequence only, and takes no rate. */
	const char *queue;
};

struct ids;      /* all sequences, and the producer's state */
struct ids_view; /* one shard's side */

/* Whether ids_open can take these options: 0, or -EINVAL with a sentence in *ret_why. */
int ids_check(const struct ids_opts *opts, const char **ret_why);
/* Opens the journal's "ids" log, replays it. The journal must not have been started. Main thread. *ret_why as
 * journal_open. */
int ids_open(const struct ids_opts *opts, struct journal *j, struct ids **ret, const char **ret_why);
/* For a tool that looks at a journal (JOURNAL_CHECK): reads the IDs' log whole, with all checks of ids_open. 0; -EBADMSG:
 * damaged; -ENOENT: the manifest names it and it is not there; other -errno. Once a journal. Main thread. */
int ids_look(struct journal *j, uint32_t *ret_sequences, const char **ret_why);

struct ids_replace_opts {
	uint64_t above;    /* no ID at or below it is handed out any more; at most IDS_ABOVE_MAX */
	const char *stamp; /* for the name of the folder that the old log is set aside to... */
	char *ret_path;    /* ...which is written here; "": there was none */
	size_t path_cap;
	/* Each sequence of which something is known: its next ID. */
	void (*each)(void *ctx, struct span name, uint64_t next);
	void *ctx;
};
#define IDS_ABOVE_MAX (UINT64_MAX - 2)
/* Puts a new log in the place of the IDs' log, which is missing or damaged: see queue/ids_replace.c. In a journal of
 * JOURNAL_REPAIR, before ids_open. 0, or -errno with a sentence in *ret_why. Main thread. */
int ids_replace(struct journal *j, const struct ids_replace_opts *opts, const char **ret_why);

/* Starts / stops the producer thread: after journal_start, before journal_close. Stop (after all shards have stopped
 * claiming) records where each sequence stands, so that a clean stop leaves no gap, and waits until that is durable (or
 * the journal has failed). `cpu` < 0: not pinned. 0 or -errno. Main thread. */
int ids_start(struct ids *ids, int cpu);
void ids_stop(struct ids *ids);
/* After ids_stop (or without ids_start), after every view is freed, and after journal_close (which may still ring the
 * producer's bell). */
void ids_free(struct ids *ids);

/* Shard thread; `bell` is the shard's doorbell: rung when ranges arrive while the shard sleeps with requests waiting.
 * It must outlive ids_stop. One view a shard. NULL: no memory. */
struct ids_view *ids_view_new(struct ids *ids, unsigned shard, struct doorbell *bell);
void ids_view_free(struct ids_view *v);

#define IDS_SLOT_NEW UINT32_MAX

/* A request waiting for its IDs: embedded in the caller's call object; the view links it, and answers in order. */
struct ids_wait {
	struct ids_wait *next, *prev; /* NULL when not queued */
	uint32_t slot;                /* sequence, or IDS_SLOT_NEW while its creation is under way */
	uint32_t count;
};

enum ids_error {
	IDS_E_OK = 0,
	IDS_E_COUNT,     /* count above count_max */
	IDS_E_NAME,      /* longer than SEQUENCE_NAME_MAX, or has control characters or is not UTF-8 */
	IDS_E_LIMIT,     /* sequences_max reached */
	IDS_E_UNKNOWN,   /* creation is off and there is no such sequence */
	IDS_E_EXHAUSTED, /* the sequence has reached 2^64-1 */
	IDS_E_FAILED,    /* the journal has failed: no more are reserved */
	IDS_E_LOST,      /* the log of reservations has been deleted or moved away: none is handed out any more */
	IDS_E_SINGLES, /* a named sequence, or count above 1 with several shards, where opts.queue carries single IDs */
};

/* Queues w (zero-filled or taken back before) for `count` IDs (1 or more) of the sequence. Answers come from
 * ids_view_turn. IDS_E_*; non-zero: not queued. A limit met only by the producer is told through `refused`. */
enum ids_error ids_view_request(struct ids_view *v, struct ids_wait *w, struct span sequence, uint32_t count);

/* Takes w back (cancelled, deadline): it will not be answered. Harmless when not queued. */
void ids_view_cancel(struct ids_view *v, struct ids_wait *w);

/* Once per loop turn, after all requests of the turn: takes in ranges, claims for each touched sequence once, and calls
 * `answer` for each request that can be served, in order of arrival within its sequence. w is unlinked before the
 * callback, so it may be reused in it. `refused` is called likewise for requests that can never be served. Cheap when
 * nothing waits and nothing arrived. */
struct ids_view_ops {
	void (*answer)(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation);
	void (*refused)(void *ctx, struct ids_wait *w, enum ids_error why);
};
void ids_view_turn(struct ids_view *v, const struct ids_view_ops *ops, void *ctx);
/* Whether anything is waiting (for draining and for the decision to sleep). */
uint32_t ids_view_waiting(const struct ids_view *v);
/* Whether a turn now would do something: ranges have arrived, or requests were made (in the callbacks of the last turn,
 * say) that no turn has looked at. The shard looks here between doorbell_arm and its sleep. */
bool ids_view_has_work(const struct ids_view *v);

/* Stats, readable by any thread. */
struct ids_view_stats {
	uint64_t claims, ids, ranges, parked; /* parked: requests that had to wait for a range */
};
const struct ids_view_stats *ids_view_stats(const struct ids_view *v);
/* Ranges in the shard's ring now. Any thread (approximate). */
uint32_t ids_view_queue_depth(const struct ids_view *v);

struct ids_sequence_info {
	char name[SEQUENCE_NAME_MAX + 1];
	/* next to be handed out (strict) or fed (sharded); end of the durable window, exclusive */
	uint64_t next, durable_end;
	uint32_t window;  /* its present size */
	uint64_t windows; /* reserved since start */
	/* The number of this life of the sequence, as in every answer. IDs are strict, and unique,
	 * within one. */
	uint64_t incarnation;
};
uint32_t ids_sequence_count(const struct ids *ids);
/* false: no such slot. Any thread. */
bool ids_sequence_info(const struct ids *ids, uint32_t slot, struct ids_sequence_info *ret);
enum ids_order ids_order(const struct ids *ids);
/* A sentence that names the limit. */
const char *ids_error_text(const struct ids *ids, enum ids_error e, char *buf, size_t cap);

#endif
