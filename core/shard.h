/* A shard: one pinned thread with one io_uring, running reap -> run -> flush -> wait over its own connections. Nothing else touches
 * what it owns, but for its mailboxes (mesh), its doorbell, and counters that others read.
 *
 * Services hook into the loop: `turn` runs once a turn after all events were handled and before output is flushed; `pending` is asked after the
 * doorbell is armed, so that work pushed by another thread is never slept over.
 */
#ifndef ORDINAL_CORE_SHARD_H
#define ORDINAL_CORE_SHARD_H

#include "core/base/doorbell.h"
#include "core/base/slab.h"
#include "core/base/wheel.h"
#include "core/bufpool.h"
#include "core/conn.h"
#include "core/mesh.h"
#include "core/ring.h"

#include <pthread.h>
#include <stdatomic.h>

#define SHARD_MAX 64
#define SHARD_HOOKS_MAX 8
#define SHARD_LISTENERS_MAX 64 /* one shard may have to take over those of many */

struct shard;

struct shard_opts {
	uint32_t ring_entries, cq_entries;
	uint32_t recv_bufs, recv_buf_size;
	uint32_t conns_max; /* of all shards together */
	/* Where so many are open, of all shards together, there are no descriptors for more: new ones wait in the kernel's queue. UINT32_MAX: there
	 * are enough for conns_max. */
	uint32_t conns_room;
	uint32_t accepts;          /* under way at a time on each listener: so many more may come than conns_room */
	uint32_t conn_queue_max;   /* bytes; output of one connection */
	uint32_t tls_renewals_max; /* of a connection, in 10 s: tls_is_calm */
	uint64_t stall_ns, idle_ns, drain_ns; /* idle 0: never */
	uint64_t spin_ns;                     /* busy wait before sleeping */
	uint64_t turn_ns; /* of a turn, after which long input is put off to a later one; 0: never */
	uint64_t
		backlog_max; /* bytes of memory for such input, of all connections of a shard, above which none is put off */
	bool restrict_ring;
	struct handshakes *handshakes; /* the threads for TLS, started; NULL: no TLS is served */
	/* Others hold the listening sockets too, and the next process will accept from them: a drain leaves them as they are, and whoever was
	 * accepted at the last moment is served. */
	bool listeners_kept;
	/* Shard thread, before the loop: set up per-shard state of the services. 0 or -errno. */
	int (*start)(struct shard *s, void *ctx);
	/* Shard thread, the last thing it does: its loop has ended, after a drain (all connections are gone) or because its ring has failed
	 * (s->error). What `start` made is still there: it is freed by the main thread after shard_join, as others read its figures until then. */
	void (*stop)(struct shard *s, void *ctx);
	/* Gives a new connection its ops and session; false: refuse it. */
	bool (*attach)(struct conn *c, void *ctx);
	/* A socket is about to be closed for conns_max. May be NULL. */
	void (*refused)(struct shard *s, int fd, void *ctx);
	void *ctx;
};

struct shard_hook {
	void (*turn)(struct shard *s, void *ctx);
	bool (*pending)(struct shard *s, void *ctx); /* may be NULL */
	/* The shard begins to drain; its connections are told after this. May be NULL. */
	void (*drain)(struct shard *s, void *ctx);
	/* Asked after each turn of a drain: whether the loop must go on although no connection is left, for the sake of other shards. It
	 * must become false by itself, with the drain time or little later. May be NULL. */
	bool (*needed)(struct shard *s, void *ctx);
	void *ctx;
};

/* Written by the shard with relaxed stores, read by anybody. */
struct shard_stats {
	uint64_t turns, sleeps, accepted, handed_off, bytes_in, bytes_out, sends;
	uint64_t handshakes;         /* of TLS, finished */
	uint64_t handshakes_waiting; /* for a handshake thread, now */
	uint64_t put_off;            /* receipts that had to wait for a later turn */
	uint64_t ended[CONN_R_COUNT];
	uint64_t accept_errors;
};

enum shard_phase { SHARD_STARTING, SHARD_RUNNING, SHARD_DRAINING, SHARD_ENDED, SHARD_FAILED };

struct shard {
	unsigned index;
	int cpu,
		node; /* -1: not pinned, memory from anywhere; set so by the thread where the kernel refuses, before it runs its loop */
	const struct shard_opts *opts;
	struct ring *ring;
	uint64_t now_ns; /* monotonic, read once a turn */
	struct wheel wheel;
	struct slab conns;
	struct bufpool pool;
	struct conn *dirty, *starved, *doomed;
	TAILQ_HEAD(conn_backlog, conn) backlog; /* connections whose held input waits for its turn, in order */
	uint64_t backlog_bytes;                 /* of memory that holds it */
	uint64_t input_until_ns; /* long input that comes later waits for another turn; 0: no such time */
	uint32_t *unsettled;     /* slots of connections that have received lately; some may be free again */
	uint32_t unsettled_count, unsettled_cap;
	uint32_t unsettled_gone; /* of them, slots that are free again */
	struct timer settle_timer;
	struct conn_handshakes handshakes;
	struct shard_hook hooks[SHARD_HOOKS_MAX];
	unsigned hook_count;
	struct mesh *mesh;
	void *services; /* the composition root's per-shard state */
	struct shard_stats stats;
	struct ring_stats ring_stats; /* here, so that it can still be read when the ring is gone */
	struct doorbell bell;
	uint64_t bell_sink; /* where the eventfd is read to */
	bool bell_armed;    /* a read of it is in flight */
	int listeners[SHARD_LISTENERS_MAX];
	unsigned listener_count;
	uint8_t accepts[SHARD_LISTENERS_MAX]; /* that are under way, of each listener... */
	uint32_t accepts_armed;               /* ...and of all */
	struct timer accept_timer;            /* waits out a lack of descriptors */
	uint64_t drain_deadline_ns;
	bool draining;
	bool hurried;
	atomic_bool drain_wanted, hurry_wanted;
	atomic_uint phase;         /* enum shard_phase */
	atomic_uint conn_count;    /* published for balancing and stats */
	atomic_uint conns_coming;  /* given to it by other shards, and not adopted yet */
	atomic_uint_fast64_t beat; /* advances with every turn: for the watchdog */
	int error;                 /* -errno, with SHARD_FAILED */
	pthread_t thread;
};

/* Main thread. The shard must be zero-filled; listeners (listening sockets, owned by the shard from here) may be none. */
int shard_init(struct shard *s, unsigned index, int cpu, int node, const struct shard_opts *opts, struct mesh *mesh);
void shard_add_listener(struct shard *s, int fd);
/* Starts the thread and waits until it runs its loop or has failed. 0 or -errno. */
int shard_start(struct shard *s);
/* Any thread: stop accepting, let connections finish, end after opts->drain_ns at the latest. */
void shard_drain(struct shard *s);
/* Any thread, after shard_drain: ends the connections that are still open now. */
void shard_hurry(struct shard *s);
/* Any thread: the loop has ended; shard_join will not wait long. */
bool shard_has_ended(const struct shard *s);
/* Main thread, after shard_drain. */
void shard_join(struct shard *s);
void shard_done(struct shard *s);

/* Shard thread, from opts->start. */
void shard_add_hook(struct shard *s, const struct shard_hook *h);
/* Shard thread: a socket that another shard has accepted, from its mail. */
void shard_adopt(struct shard *s, int fd);
/* Shard thread: closes a socket for conns_max. */
void shard_refuse(struct shard *s, int fd);
/* Shard thread: conn_settle(c), when nothing has come on it for a while. */
void shard_unsettle(struct shard *s, struct conn *c);
/* The number of connections that still live. */
static inline uint32_t shard_conns(const struct shard *s)
{
	return s->conns.used;
}

/* Tags: kind of operation. */
enum shard_op {
	SHARD_OP_ACCEPT = 1,
	SHARD_OP_BELL,
	SHARD_OP_RECV,
	SHARD_OP_SEND,
	SHARD_OP_CANCEL,
	SHARD_OP_CANCEL_RECV,
	SHARD_OP_HANDSHAKE /* not of the ring's: conn_handshake.c */
};

#endif
