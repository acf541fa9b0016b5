/* A TCP connection on a shard: its life, its receive and send operations, and its output queue. It knows no protocol: a session
 * (rpc/) is attached with a table of callbacks. All calls on the owning shard's thread.
 *
 *   OPEN --conn_close--> FLUSHING --all sent, shutdown(2)--> LINGERING --EOF or 1 s without a byte--> DEAD --in flight == 0--> freed
 *     \------------------------- conn_abort, error, stall ---------------------------^
 *
 * Invariants: at most one send in flight; a connection is freed only after the last completion that names it; `closed` is the last call
 * a session gets, and always comes from the end of a loop turn, never from inside a call of the session's own. close(2) cancels nothing
 * in io_uring, so DEAD cancels by descriptor and waits.
 */
#ifndef ORDINAL_CORE_CONN_H
#define ORDINAL_CORE_CONN_H

#include "core/base/bytes.h"
#include "core/base/wheel.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>

struct conn;
struct shard;
struct ring_event;

struct conn_ops {
	/* Bytes received, valid during the call; all of them are consumed (copy what must be kept). */
	void (*data)(struct conn *c, const uint8_t *p, size_t n);
	/* The peer has closed its sending half: once, after its last bytes. The default (NULL) is conn_close. */
	void (*eof)(struct conn *c);
	/* The output queue, having been above conn_high_water or waited for with conn_want_writable, is down to conn_low_water
	 * again. May be NULL. */
	void (*writable)(struct conn *c);
	/* Whether calls are in flight: such a connection is not idle, however silent. May be NULL. */
	bool (*busy)(const struct conn *c);
	/* Finish politely: end when what is in flight has been answered. */
	void (*drain)(struct conn *c);
	/* The peer has closed its sending half, and nothing has moved for a second: write something that
	 * is harmless to a peer that still reads. A peer that has gone answers it with a reset. May be
	 * NULL. */
	void (*probe)(struct conn *c);
	/* The peer has closed its sending half, and nothing has moved for stall_ns: end what is in flight,
	 * and close. The default (NULL) is conn_close. */
	void (*abandon)(struct conn *c);
	/* The connection is gone; free the session. May be NULL. */
	void (*closed)(struct conn *c);
};

/* Why connections end; counted by each shard. */
enum conn_reason {
	CONN_R_DONE,     /* closed in good order, by either side */
	CONN_R_PEER,     /* reset by the peer, or an I/O error */
	CONN_R_PROTOCOL, /* broke its protocol */
	CONN_R_TIMEOUT,  /* slow preface, headers or body */
	CONN_R_STALLED,  /* took no output for STALL_TIMEOUT_MS */
	CONN_R_QUEUE,    /* more output than CONN_QUEUE_MAX would have been needed */
	CONN_R_FLOOD,    /* too many useless frames, resets, pings */
	CONN_R_IDLE,     /* idle for IDLE_TIMEOUT_MS */
	CONN_R_LIMIT,    /* CONNECTIONS_MAX */
	CONN_R_MEMORY,   /* no memory for it */
	CONN_R_SHUTDOWN, /* still open at the end of draining */
	CONN_R_ACCESS,   /* no client certificate, or one that is not taken */
	CONN_R_COUNT
};
const char *conn_reason_name(enum conn_reason why);

#define CONN_HIGH_WATER                                                                                                \
	(64u << 10) /* bytes queued above which reading pauses; less with a small CONN_QUEUE_MAX: conn_high_water */

/* Bytes that live outside the connection's own buffer, and whom to tell when they are no longer needed. */
struct conn_slice {
	const void *p;
	uint32_t n;
	void (*release)(void *owner); /* may be NULL */
	void *owner;
	bool scarce; /* a hint to sessions: this memory is wanted back soon, so copy what is not large */
};

struct conn_segment {
	struct conn_slice ext; /* ext.p NULL: own bytes at `own` */
	uint32_t own;
};

/* Output being gathered or sent: own bytes, and (only when slices are in use) the order of own and outside pieces. */
struct conn_out {
	uint8_t *p;
	uint32_t len, cap;
	uint32_t segs, segs_cap;
	struct conn_segment *seg;
	uint32_t seg_own; /* own bytes before this are in segments already */
	uint32_t ext;     /* bytes in outside slices */
};

/* Received bytes that wait: while output is above high water, reading is paused, or the shard has others to serve first. */
struct conn_held {
	uint8_t *p;
	uint32_t at, len, cap;
};
/* Held bytes above which the receive itself is stopped. Fixed: nothing is refused for it, the peer's TCP waits. */
#define CONN_HELD_MAX (64u << 10)

/* Where the TLS handshake of a connection stands; conn_handshake.c draws it. */
enum conn_handshake {
	CONN_HANDSHAKE_NONE,    /* cleartext, or over */
	CONN_HANDSHAKE_IDLE,    /* not begun: the peer has to send more */
	CONN_HANDSHAKE_WAITING, /* for its turn */
	CONN_HANDSHAKE_AWAY,    /* a handshake thread has `tls` */
	CONN_HANDSHAKE_ASKED,   /* begun, and the peer has to answer */
};

/* The connections of a shard that wait for a handshake thread. Of 64 buckets a word tells which
 * have some. */
#define CONN_HANDSHAKE_BUCKETS 64
TAILQ_HEAD(conn_list, conn);
struct handshakes;
struct conn_handshakes {
	struct handshakes *pool; /* NULL: TLS is not served */
	uint64_t seed;           /* so that no peer can choose its bucket */
	uint64_t filled;
	unsigned next; /* bucket whose turn it is */
	bool newest;   /* whether the newest one had the last turn that it may have */
	unsigned asked;
	struct conn_handshake_bucket {
		struct conn_list waiting, asked;
		unsigned asked_count;
	} bucket[CONN_HANDSHAKE_BUCKETS];
};

struct conn {
	struct shard *shard;
	const struct conn_ops *ops;
	void *session;
	uint64_t ip[2]; /* of the peer, in network order; IPv4 as ::ffff:a.b.c.d; zero: not an Internet address */
	int fd;
	uint32_t slot;
	uint32_t gen; /* survives reuse of the slab slot */
	uint8_t state;
	uint8_t inflight; /* operations with a completion to come */
	bool recv_armed, recv_cancelling, recv_eof;
	bool eof_told;               /* to the session */
	bool paused;                 /* by the session */
	bool choked;                 /* output is above high water */
	bool wants_writable;         /* by the session: see conn_want_writable */
	bool dirty, starved, doomed; /* on the shard's lists, as is the next */
	bool backlogged;
	uint8_t reason;
	bool unwaited;  /* at its end the peer is not waited for */
	bool unsettled; /* on the shard's list; survives reuse of the slab slot */
	struct conn *dirty_next, *starved_next, *doomed_next;
	TAILQ_ENTRY(conn) backlog;
	struct conn_out out, sending;
	uint32_t sent; /* of `sending` */
	struct conn_held held;
	uint64_t bytes_sent;
	uint64_t taken;      /* changes with what the peer has acknowledged; when the timer last looked */
	uint64_t moved_ns;   /* when `taken` was seen to change, or sending began after nothing was owed */
	uint64_t active_ns;  /* last receipt */
	uint64_t ended_ns;   /* since when it is known that the peer has closed its sending half; 0: it has not */
	uint64_t idle_at_ns; /* when to look whether it is idle */
	uint64_t linger_until_ns;
	bool owed;                    /* output may be with us or the kernel that the peer has not acknowledged */
	bool probed;                  /* after ended_ns */
	struct timer timer;           /* conn_time.c */
	struct conn_gather *gather;   /* with slices only */
	struct tls *tls;              /* NULL: cleartext */
	bool tls_closed;              /* close_notify has been sent */
	uint8_t handshake;            /* enum conn_handshake */
	TAILQ_ENTRY(conn) handshakes; /* while it waits, or has begun and the peer has to answer */
};

/* Takes over an accepted socket. NULL (fd closed, counted) at a limit. The session is attached by the shard's `attach`. */
struct conn *conn_open(struct shard *s, int fd);

/* It may have sent what has not been delivered: that nothing comes is no fault of the peer's. */
static inline bool conn_is_held_up(const struct conn *c)
{
	return c->choked || c->paused || c->backlogged;
}

static inline bool conn_is_open(const struct conn *c)
{
	return c->state == 1 /* CONN_OPEN */;
}

uint8_t *conn_reserve_slow(struct conn *c, size_t n);
void conn_mark_dirty(struct conn *c);

/* Room for n bytes at the tail of the output, until conn_commit. NULL: the connection has been aborted (queue bound, or no
 * memory) or is not open any more. */
static inline uint8_t *conn_reserve(struct conn *c, size_t n)
{
	if (__builtin_expect(conn_is_open(c) && c->out.cap - c->out.len >= n, 1))
		return c->out.p + c->out.len;
	return conn_reserve_slow(c, n);
}
static inline void conn_commit(struct conn *c, size_t n)
{
	c->out.len += (uint32_t)n;
	if (!c->dirty)
		conn_mark_dirty(c);
}
/* Copies. false: as NULL above. */
bool conn_write(struct conn *c, const void *p, size_t n);
/* Appends without copying; the bytes must stay until release(owner). On false release has been called. */
bool conn_write_slice(struct conn *c, const struct conn_slice *s);
/* Bytes accepted for output and not yet taken by the kernel. */
size_t conn_queued(const struct conn *c);

/* Bytes queued above which reading pauses, and at which it goes on: a quarter of the queue's bound at the most, so that the answers to what has
 * been delivered already find room. */
static inline size_t conn_high_water(uint32_t conn_queue_max)
{
	return conn_queue_max / 4 < CONN_HIGH_WATER ? conn_queue_max / 4 : CONN_HIGH_WATER;
}
static inline size_t conn_low_water(uint32_t conn_queue_max)
{
	return conn_high_water(conn_queue_max) / 4;
}
/* The queue is not empty: `writable` is to be called once when it has come down to conn_low_water, whether it ever was above
 * high water or not. */
static inline void conn_want_writable(struct conn *c)
{
	c->wants_writable = true;
}

/* Ends in good order: nothing more is delivered, what is queued is sent; then the peer has a second to close as well, and
 * as long as it goes on sending up to stall_ns, so that what it sends does not reset the connection before it has read
 * everything. */
void conn_close(struct conn *c);
/* The same without that second: for a peer that is known to have read everything, or that has nothing to read but the end. */
void conn_close_now(struct conn *c);
/* Ends now; queued output is dropped. Callable from anywhere on the shard; takes effect at the end of the turn. */
void conn_abort(struct conn *c, enum conn_reason why);

/* Stop and resume delivery (back-pressure of the session's own; output above high water pauses by itself). Bytes received
 * meanwhile are held, and beyond CONN_HELD_MAX the receive is cancelled, so the peer's TCP feels it. */
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);

/* From here on bytes on the wire are TLS records. Called from the session's `data`, with the first
 * bytes of the first record, which the session leaves alone: they come back as plaintext when the
 * handshake is over. false: no memory. The shard has handshake threads. */
struct tls_context;
bool conn_start_tls(struct conn *c, struct tls_context *x);

/* Logs that a peer is being closed for what it did: one line a second, and how many were left out. */
void conn_log_close(struct conn *c, const char *what);

/* The address of the other end of a socket, as struct conn has it. */
void conn_ip_of(int fd, uint64_t ret[2]);
/* "127.0.0.1:53412" of the peer, for logs. */
const char *conn_peer(const struct conn *c, char *buf, size_t cap);

/* For the shard's loop only. */
void conn_on_recv(struct conn *c, const struct ring_event *ev);
void conn_on_send(struct conn *c, const struct ring_event *ev);
void conn_on_cancel(struct conn *c, const struct ring_event *ev);
/* Before the first connection: the threads for TLS handshakes, or NULL. */
void conn_handshakes_init(struct shard *s, struct handshakes *pool);
/* Takes what the handshake threads have done, and gives them more. */
void conn_handshakes_turn(struct shard *s);
/* Whether they have done something, or could be given something. After the shard's doorbell is
 * armed. */
bool conn_handshakes_pending(const struct shard *s);
/* Delivers held input of the backlog until the turn's time for input is over, one slice at least. */
void conn_work_off(struct shard *s);
/* The end of a turn: sends what is queued, receives again, frees what has ended. */
void conn_flush_all(struct shard *s);
/* One that has fallen silent: asks the socket whether it has ended. */
void conn_settle(struct conn *c);
void conn_drain(struct conn *c);

#endif
