/* The stats socket: a small HTTP/1.1 server on a Unix socket. GET and HEAD; every other question gets a clear answer, too. It never blocks: the main
 * thread waits for its descriptor among others. A client can cost it one of few places, for a bounded time. Who may ask is decided by the file's
 * mode, 0660. Main thread.
 * Source: RFC 9112; rpc/wire/http1.h reads the requests. */
#ifndef ORDINAL_RPC_STATSOCK_H
#define ORDINAL_RPC_STATSOCK_H

#include "core/base/text.h"

#include <stdint.h>

#define STATSOCK_SPARE 16 /* places for clients that are told that there are too many */

struct statsock;

/* Answers for a path ("/stats", without the query): writes the body, may set the content type (text/plain; charset=utf-8 unless set), and returns the
 * status: 200, 404 or 500. */
typedef unsigned (*statsock_get)(void *ctx, struct span path, struct text *body, const char **ret_type);

struct statsock_opts {
	const char *path;
	unsigned conns_max; /* clients at once; one more is told so (503), and of a crowd some are just closed */
	uint64_t idle_ns;   /* for a request to come in whole, and between two pieces of an answer being taken */
	statsock_get get;
	void *ctx;
};

/* Makes the directory (0755) if it is missing, removes a socket that nobody listens on, and listens. 0; -EADDRINUSE: a living daemon listens there;
 * -EEXIST: there is something that is not a socket; other -errno. *ret_why is a sentence for people, valid until the next call. */
int statsock_open(const struct statsock_opts *opts, struct statsock **ret, const char **ret_why);
/* Closes everything, and removes the socket's file if it is still ours. NULL is allowed. */
void statsock_close(struct statsock *s);
/* Of clients, those that are told that there are too many included, no more than this many have a connection at once: before the first turn. */
void statsock_bound(struct statsock *s, unsigned descriptors);

/* Readable when statsock_turn has something to do; so it has at statsock_next_ns (monotonic; UINT64_MAX: never). */
int statsock_fd(const struct statsock *s);
uint64_t statsock_next_ns(const struct statsock *s);
void statsock_turn(struct statsock *s, uint64_t now_ns);

#endif
