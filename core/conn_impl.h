/* The insides of a connection, shared by conn.c (its life and its output), conn_input.c (what it
 * receives), conn_time.c (its timer), conn_handshake.c (how TLS begins) and conn_tls.c (the
 * filter). For these five only; all on the owning shard's thread. */
#ifndef ORDINAL_CORE_CONN_IMPL_H
#define ORDINAL_CORE_CONN_IMPL_H

#include "core/conn.h"
#include "core/ring.h"
#include "core/shard.h"

enum conn_state { CONN_FREE, CONN_OPEN, CONN_FLUSHING, CONN_LINGERING, CONN_DEAD };

static inline uint64_t conn_tag(const struct conn *c, enum shard_op op)
{
	return ring_tag(c->slot, c->gen, (uint8_t)op);
}

/* Above it, in this shard's configuration, reading pauses. */
static inline size_t conn_high(const struct conn *c)
{
	return conn_high_water(c->shard->opts->conn_queue_max);
}

/* A send is under way. */
static inline bool conn_is_sending(const struct conn *c)
{
	return c->sending.len + c->sending.ext != 0;
}

/* conn.c */

/* Marks it dead; it is buried at the end of the turn. */
void conn_die(struct conn *c, enum conn_reason why);
/* The kernel gives the connection up: -errno of an operation. */
void conn_break_off(struct conn *c, int err);
/* A dead connection is buried once more when its last completion has come. */
void conn_doom_if_over(struct conn *c);
/* Lets go of everything in an output, sent or not. */
void conn_out_reset(struct conn *c, struct conn_out *o);

/* conn_input.c */

void conn_input_start(struct conn *c);
/* Bytes for the session: now, or when it may go on. */
void conn_receive(struct conn *c, const uint8_t *p, size_t n);
/* The peer has closed its sending half. */
void conn_on_end(struct conn *c);
/* Output has moved, or the session has resumed: what is held may go on. */
void conn_input_go_on(struct conn *c);
/* What waits in the backlog is delivered now, all of it. */
void conn_input_finish(struct conn *c);
/* A starved one, after buffers came back. */
void conn_input_fed(struct conn *c);
/* A connection that is not received from may be again. */
void conn_input_rearm(struct conn *c);
/* Adds bytes to those that are held. */
void conn_input_hold(struct conn *c, const uint8_t *p, size_t n);
/* What was held has been copied elsewhere: it is let go, and the receive goes on. */
void conn_input_taken(struct conn *c);
/* Nothing more will be delivered: what is held is let go. Not from inside the session's `data`, which may be reading it. */
void conn_input_drop(struct conn *c);
/* The same of one that closes in good order, and has to see the peer's end. */
void conn_input_ignore(struct conn *c);

/* conn_time.c */

void conn_time_start(struct conn *c);
/* A send begins, or goes on. */
void conn_time_sending(struct conn *c);
/* The connection waits for the peer's end, for a moment. */
void conn_time_linger(struct conn *c);
/* The peer has closed its sending half, and the session may still have something to say. */
void conn_time_ended(struct conn *c);
/* Nothing has been received for a while, perhaps because no receive is armed. */
void conn_time_deaf(struct conn *c);
void conn_time_fire(struct timer *t, void *ctx);

/* conn_handshake.c */

/* Held bytes may have become a whole record, or the peer's end may have come. */
void conn_handshake_go_on(struct conn *c);
/* The peer has closed its sending half before the handshake is over. */
void conn_handshake_on_end(struct conn *c);
/* Nothing more will be done of the handshake. */
void conn_handshake_drop(struct conn *c);
/* Frees the state of TLS, if there is some. */
void conn_handshake_free(struct conn *c);

/* conn_tls.c */

/* Bytes of TLS records have come. */
void conn_tls_input(struct conn *c, const uint8_t *p, size_t n);
/* The handshake is over: gives the session what these bytes, and those that the filter has already,
 * decrypt to. */
void conn_tls_decrypt(struct conn *c, const uint8_t *p, size_t n);
/* The peer has broken TLS, or is refused; tls_error says why. An alert is sent first. */
void conn_tls_broken(struct conn *c, int err);
/* Records wait to be sent that no output of the session's made. */
bool conn_tls_has_output(const struct conn *c);
/* Turns output into records and puts them into `sending`, which is empty. false: it cannot go on. */
bool conn_tls_seal(struct conn *c);

#endif
