/* One connection that is made again when it is lost, for commands that go on: `ordinal publish`, `ordinal subscribe`. Main thread. */
#ifndef ORDINAL_TOOLS_DIAL_H
#define ORDINAL_TOOLS_DIAL_H

#include "rpc/client/address.h"
#include "rpc/client/channel.h"
#include "rpc/client/client.h"

struct dial_opts {
	const char *server;
	enum channel_protocol protocol;
	/* How long a connection that was lost may stay away. A silent server is noticed within a part of it. */
	uint64_t patience_ns;
	uint32_t message_max; /* bytes of one received message */
	/* The channel stands, or the server has asked to go: no new calls, please. May be NULL. */
	void (*opened)(void *ctx, struct channel *ch);
	void (*draining)(void *ctx, struct channel *ch);
	void *ctx;
};

struct dial {
	struct dial_opts opts;
	struct address address;
	struct ring *ring;
	struct client *client;
	struct channel *channel; /* NULL: none now */
	bool ever_open;
	uint64_t lost_ns;  /* since when none is open; 0: one is */
	uint64_t next_ns;  /* not before this is another made */
	uint64_t pause_ns; /* that was waited before the last attempt */
	char why[256];     /* of the last loss */
};

/* Begins to connect. 0 or -errno, with a sentence in d->why. dial_done is due in either case. */
int dial_init(struct dial *d, const struct dial_opts *opts);
void dial_done(struct dial *d);
/* A turn of the client's loop, at most timeout_ns long; connects again when that is due. 0; or -errno with a sentence in d->why: the first
 * connection failed, or patience has run out, or the ring failed. */
int dial_turn(struct dial *d, uint64_t timeout_ns);
/* The channel that takes calls now, or NULL. */
struct channel *dial_channel(const struct dial *d);
/* What the call was for went well: the next loss is followed by an attempt at once again. */
void dial_well(struct dial *d);
/* A server that is there refuses for the moment: closes the connection; the next attempt waits as after a loss. */
void dial_pause(struct dial *d, const char *why);

#endif
