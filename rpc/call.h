/* A call: one RPC in flight, between a session (which knows the wire) and a service (which knows the meaning).
 *
 *   session  --method->open, message, half_close-->  service
 *   session  <--call_send, call_finish, call_reply--  service
 *
 * Every protocol reaches the same methods through this file. A call lives inside an object of its session's, is owned by one shard, and is handled on
 * that shard's thread only. Invariants: a call ends exactly once, by call_reply or call_finish from the service, or by
 * cancel from the session (client's cancel, deadline, connection lost), after which neither names it again.
 */
#ifndef ORDINAL_RPC_CALL_H
#define ORDINAL_RPC_CALL_H

#include "core/base/bytes.h"
#include "core/base/count.h"
#include "core/base/hist.h"
#include "core/base/wheel.h"
#include "core/shard.h"
#include "rpc/access.h"
#include "rpc/assembly.h"
#include "rpc/metadata.h"
#include "rpc/method.h"
#include "rpc/refusals.h"
#include "rpc/wire/grpc.h"

#include <stdbool.h>
#include <stdint.h>

#define CALL_TEXT_MAX 1024 /* bytes of the text that ends a call */

enum call_room {
	CALL_ROOM,
	CALL_FULL, /* the connection takes nothing for now */
	CALL_SHUT, /* this call's stream takes nothing for now, whatever others do */
};

/* What a session does for its calls. */
struct call_ops {
	/* The whole answer of a unary call: one message, status OK. */
	void (*reply)(struct call *c, const uint8_t *msg, size_t n);
	/* One message of a streaming answer. false: accepted, but stop for now: wait for `writable`. */
	bool (*send)(struct call *c, const uint8_t *msg, size_t n);
	/* Messages of a streaming answer that lie ready as gRPC frames them (5-byte prefix each), back to back, in memory that stays until
	 * s->release(s->owner). Of a unary answer it is the one message, and call_finish with OK follows when all of it is taken. Takes what windows and the output queue allow and returns how many bytes that was, whole messages or not; the
	 * next call goes on exactly there. release is called exactly once, now or later, whatever was taken. Less than s->n: wait for
	 * `writable`. */
	size_t (*send_framed)(struct call *c, const struct conn_slice *s);
	/* The end; text is for people (may be empty), CALL_TEXT_MAX bytes at most. */
	void (*finish)(struct call *c, enum grpc_status status, struct span text);
	/* Whether send_framed would take anything now. If not, `writable` follows. NULL: always. */
	enum call_room (*room)(struct call *c);
	/* Stop and go on delivering request messages (back-pressure of the service's). Native framing stops the whole connection, and what
	 * one receive had brought is still delivered; so services take messages after a pause, too. */
	void (*pause)(struct call *c);
	void (*resume)(struct call *c);
	/* Whether what is to be sent waits because the client opens no window. If it waits for the
	 * connection's output instead, the connection itself watches that the client takes some. NULL: not
	 * known, and taken for true. */
	bool (*is_shut)(const struct call *c);
};

/* Metadata of a call, for methods that have asked for it. */
struct call_extra {
	struct metadata request;
	struct metadata initial, trailing; /* of the answer; initial only before the first message */
};

struct call {
	const struct method *method;
	const struct call_ops *ops;
	struct rpc_shard *rpc;
	struct conn *conn;
	uint64_t start_ns;        /* monotonic */
	uint64_t deadline_ns;     /* monotonic; 0: none */
	struct timer timer;       /* deadline, and slow bodies */
	struct call_extra *extra; /* NULL: the method has not asked, or there is no memory, or the framing has none */
	uint64_t who;             /* whose credential came with it, where there are rules: rpc/access.h */
	uint16_t method_index;    /* of the table */
	bool compress;       /* the service's wish for the messages sent from here on; where client and method do */
	bool was_compressed; /* the request message that the service is being given came compressed */
	bool live;           /* begun and not ended */
	bool seen;           /* the service has been told of it (open or message) */
	bool ended_send;     /* the service has ended it */
	/* The service's own state; zero-filled at the beginning. */
	union {
		void *ptr;
		uint64_t word[8];
	} svc;
};

/* Per-method figures of one shard; written by it, read by anybody (core/base/count.h). Messages are those of streaming methods. */
struct method_stats {
	uint64_t by_status[GRPC_STATUS_COUNT];
	uint64_t messages_in, messages_out;
	struct hist latency_ns;
};

/* Draining: a peer without a call that has been silent for so long is idle, and is not waited for as one that may be about to ask for something. */
#define RPC_QUIET_NS (250 * NS_PER_MS)

struct tls_context;

struct rpc_opts {
	/* A reference to the context for a new TLS connection, or NULL: TLS is not configured. Shard thread. */
	struct tls_context *(*tls)(void *tls_ctx);
	void *tls_ctx;
	bool tls_only;                /* cleartext is refused */
	struct access_source *access; /* the rules; NULL: there never are any */
	uint32_t calls_max;           /* in flight on a shard, of each session's kind; as the shard began */
	uint32_t message_max, streams_max, native_inflight_max, header_list_max, header_fields_max;
	uint32_t h2_stream_window, h2_conn_window;      /* announced; above 65535 */
	uint32_t take_pipeline;                         /* unanswered requests of a Take */
	uint32_t continuations_max;                     /* CONTINUATION frames of a header block */
	uint32_t resets_burst, resets_per_s;            /* HTTP/2 streams reset by the peer, or for its errors */
	uint32_t useless_max;                           /* frames that say nothing, in 10 s */
	struct assembly_limits assembly;                /* of partly received messages on a shard */
	uint32_t stats_calls_max, stats_conn_calls_max; /* of ordinal.v1.Stats in flight: on a shard, of a connection */
	uint64_t preface_ns, headers_ns, body_ns, call_ns; /* call_ns: cap on unary calls; 0: none */
};

/* RPC state of one shard. Made on its thread; freed by the main thread after it, so that the figures can be read until then. */
struct rpc_shard {
	struct shard *shard;
	const struct rpc_opts *opts;
	const struct method_table *methods;
	struct method_stats *stats; /* one a method, and one more for calls of unknown methods */
	uint64_t secret;            /* random; for tables whose keys clients choose */
	uint64_t reply_ns;          /* the time used for the latency of this turn's replies; 0: not read yet */
	/* Runs of equal (method, latency) are counted once. */
	uint16_t run_method;
	uint64_t run_ns, run_count;
	struct gzip *gzip;        /* made on first use */
	struct budget *budget;    /* likewise, by typed.c */
	void *health;             /* svc_health's watchers */
	uint32_t calls;           /* live; with count_add */
	struct assembly assembly; /* of partly received messages */
	struct slab native_calls, h2_streams;
	/* Read by anybody. */
	uint64_t sessions_h2, sessions_native; /* live */
	uint64_t sessions_h2_total, sessions_native_total;
	uint64_t protocol_errors, refused_streams, floods;
	struct refusals *refusals;
	struct access *access; /* the rules in force; NULL: everybody may do everything */
	uint32_t access_gen;   /* of the source; read by anybody */
	void *ids;             /* the services' own state, one field each */
	void *feed;
	void *workers; /* NULL: all requests run to completion here */
	void *bench;
	void *stats_calls; /* svc_stats */
};

/* Shard thread. 0 or -ENOMEM. Done: after that thread has ended. */
int rpc_shard_init(struct rpc_shard *r, struct shard *s, const struct method_table *methods,
		   const struct rpc_opts *opts);
void rpc_shard_done(struct rpc_shard *r);
/* Once a turn, after the services: closes the run of counted replies, takes over new rules of access. */
void rpc_shard_turn(struct rpc_shard *r);

/* For sessions. */

/* Why a call was not admitted. */
struct call_refusal {
	enum grpc_status status;
	char text[256];
};
bool call_is_admitted(struct rpc_shard *r, struct conn *c, const struct method *m, uint64_t who,
		      struct call_refusal *ret);

/* A call begins: c->ops, rpc and conn are set by the session. `timeout_ns` from now (0: none). */
void call_begin(struct call *c, const struct method *m, uint16_t index, uint64_t timeout_ns);
/* Frees what hangs on a call that is about to be reused. */
void call_extra_release(struct call *c);
static inline void call_extra_free(struct call *c)
{
	if (c->extra)
		call_extra_release(c);
}
/* It has ended: counts it and disarms its timer. Called once by the session, whoever ended it. */
void call_end(struct call *c, enum grpc_status status);
/* Counts a call refused before it began (unknown method, limit). */
void call_count_refused(struct rpc_shard *r, enum grpc_status status);
/* Counts what is refused to the peer of a connection, by reason and by its address, and logs it: of each reason a line a second at the most. */
void call_note_refusal(struct rpc_shard *r, const struct conn *c, enum refusal why, const char *text);
/* A connection ends for what its peer did: counts it. For who logs it. */
void call_count_end(struct rpc_shard *r, const struct conn *c);
/* A connection is gone: counts it if it ended for what the peer did, and logs it if nobody has before (those ended with conn_log_close). */
void call_note_end(struct rpc_shard *r, const struct conn *c);
/* There is no room for another call: `calls` is at CALLS_MAX, or there is no memory. Returns the sentence for the client. */
const char *call_note_full(struct rpc_shard *r, const struct conn *c, const struct slab *calls);
/* What call_finish lets through of a status and a text. */
void call_bound_answer(enum grpc_status *status, struct span *text);
/* An answer of a service's that refuses. */
void call_note_answer(struct call *c, enum grpc_status status, struct span text);
/* The principal of a connection by its client certificate. */
uint64_t call_who_of(const struct rpc_shard *r, const struct conn *c);
/* Whether `who` may open a call of the method. If not: counted and logged, with the status and a sentence for the answer. */
static inline bool call_admits(struct rpc_shard *r, struct conn *c, const struct method *m, uint64_t who,
			       struct call_refusal *ret);
/* Gives the service a message; it may end the call. */
static inline void call_deliver(struct call *c, struct span msg);
/* Tells the service that the call is over. */
static inline void call_cancel_service(struct call *c);

/* For services. */

/* Whether the call's sender has the right, at this moment; `name` is the sequence's or the stream's. Where there are no rules this is one branch. If
 * not, the service lets go of the call and calls call_deny. */
static inline bool call_may(const struct call *c, enum access_right right, struct span name);
/* What call_deny says, for services that end the call later; counted and logged here. */
void call_explain(struct call *c, enum access_right right, struct span name, struct call_refusal *ret);
/* Ends the call with UNAUTHENTICATED or PERMISSION_DENIED and a sentence that names the right; counted and logged. */
void call_deny(struct call *c, enum access_right right, struct span name);

void call_finish_text(struct call *c, enum grpc_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static inline bool call_may(const struct call *c, enum access_right right, struct span name)
{
	return __builtin_expect(!c->rpc->access, 1) || access_check(c->rpc->access, c->who, right, name) == ACCESS_OK;
}
static inline bool call_admits(struct rpc_shard *r, struct conn *c, const struct method *m, uint64_t who,
			       struct call_refusal *ret)
{
	return __builtin_expect(!r->access, 1) || call_is_admitted(r, c, m, who, ret);
}

static inline void call_reply(struct call *c, const uint8_t *msg, size_t n)
{
	c->ops->reply(c, msg, n);
}
static inline bool call_send(struct call *c, const uint8_t *msg, size_t n)
{
	return c->ops->send(c, msg, n);
}
static inline size_t call_send_framed(struct call *c, const struct conn_slice *s)
{
	return c->ops->send_framed(c, s);
}
static inline bool call_is_shut(const struct call *c)
{
	return !c->ops->is_shut || c->ops->is_shut(c);
}
/* A service may give any status and any text, for example those of another server: what is beyond gRPC's codes becomes UNKNOWN, and a text is cut at
 * CALL_TEXT_MAX bytes. */
static inline void call_finish(struct call *c, enum grpc_status status, struct span text)
{
	if (__builtin_expect((unsigned)status >= GRPC_STATUS_COUNT || text.n > CALL_TEXT_MAX, 0))
		call_bound_answer(&status, &text);
	if (__builtin_expect(status == GRPC_RESOURCE_EXHAUSTED || status == GRPC_INVALID_ARGUMENT, 0))
		call_note_answer(c, status, text);
	c->ops->finish(c, status, text);
}
static inline enum call_room call_room(struct call *c)
{
	return c->ops->room ? c->ops->room(c) : CALL_ROOM;
}
static inline void call_deliver(struct call *c, struct span msg)
{
	if (c->method->kind != METHOD_UNARY)
		count_add(&c->rpc->stats[c->method_index].messages_in, 1);
	c->method->message(c, msg);
}
static inline void call_cancel_service(struct call *c)
{
	if (c->seen && c->method->cancel)
		c->method->cancel(c);
}

#endif
