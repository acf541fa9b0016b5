/* Threads that do the TLS handshakes of all shards. A handshake costs 0.1 to 10 ms of private-key
 * and key-exchange operations that cannot be interrupted, so a shard that did one itself would let
 * its established connections wait for each. These threads have a low weight with the scheduler: a
 * shard that wakes on the same CPU runs first.
 *
 * A shard posts a `struct tls` with the bytes that the peer has sent; a thread goes on with the
 * handshake as far as these bytes lead, which is one step; the shard takes the result. From the
 * post to the take the struct belongs to the thread alone. Of each shard at most HANDSHAKES_DEPTH
 * steps are with a thread at a time: what waits longer waits in the shard's own queue
 * (conn_handshake.c), which decides whose turn it is.
 */
#ifndef ORDINAL_CORE_HANDSHAKES_H
#define ORDINAL_CORE_HANDSHAKES_H

#include <stdbool.h>
#include <stdint.h>

struct doorbell;
struct handshakes;
struct tls;

enum {
	HANDSHAKES_THREADS_MAX = 8,
	HANDSHAKES_DEPTH = 2, /* one that runs, and one so that the thread need not wait for the shard */
};

struct handshakes_done {
	struct tls *tls;
	uint64_t tag; /* as posted */
	int result;   /* of tls_handshake */
};

/* Main thread. The threads do not run yet: handshakes_start. 0, -ENOMEM or -errno. */
int handshakes_new(unsigned threads, unsigned shards, struct handshakes **ret);
/* Before a shard posts: the doorbell to ring when a step of its is done; NULL: none. */
void handshakes_join(struct handshakes *h, unsigned shard, struct doorbell *bell);
int handshakes_start(struct handshakes *h);
/* Main thread, after the shards have ended. Both are harmless on NULL. */
void handshakes_stop(struct handshakes *h);
void handshakes_free(struct handshakes *h);
/* A random number that is the same for all shards and that no peer knows. Any thread. */
uint64_t handshakes_seed(const struct handshakes *h);

/* Shard thread `shard`, as all below. Whether handshakes_post would take one more now. */
bool handshakes_has_room(const struct handshakes *h, unsigned shard);
/* Only if there is room. */
void handshakes_post(struct handshakes *h, unsigned shard, struct tls *t, uint64_t tag);
/* Frees a struct that the shard has done with. The thread does that, too: it may be as long as a
 * call. */
void handshakes_discard(struct handshakes *h, unsigned shard, struct tls *t);
/* The next step that is done; false: none. */
bool handshakes_take(struct handshakes *h, unsigned shard, struct handshakes_done *ret);
bool handshakes_is_done(const struct handshakes *h, unsigned shard);

/* What each thread loops over: one step of one shard, or one struct to free. false: there was
 * nothing to do. For the thread itself, and for tests that start none. */
bool handshakes_turn(struct handshakes *h, unsigned thread);

#endif
