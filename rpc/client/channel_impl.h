/* What channel.c and the two protocols (native_client.c, h2_client.c) share. Nobody else includes this. Owner thread only. */
#ifndef ORDINAL_RPC_CLIENT_CHANNEL_IMPL_H
#define ORDINAL_RPC_CLIENT_CHANNEL_IMPL_H

#include "core/base/check.h"
#include "core/base/slab.h"
#include "core/base/wheel.h"
#include "core/ring.h"
#include "rpc/client/channel.h"
#include "rpc/client/client.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"

#include <sys/types.h>

#define CHANNEL_TOKEN_MAX 512 /* bytes, as servers take them */
#define CHANNEL_BEARER 7      /* bytes of "Bearer " */

struct channel_buf {
	uint8_t *p;
	size_t n, cap;
};

enum call_state {
	CALL_FREE,
	CALL_OPEN,
	CALL_ZOMBIE, /* done for its owner; the number stays taken until the server has ended it (native only) */
};

struct call {
	const struct channel_call_ops *ops;
	void *ctx;
	uint64_t deadline_ns;   /* UINT64_MAX: none */
	uint32_t stream;        /* HTTP/2's number; unused by native */
	uint8_t state;          /* enum call_state */
	bool ended;             /* the client's side */
	bool headers_seen;      /* h2: the answer has begun */
	uint32_t recv_used;     /* h2: bytes received since the last WINDOW_UPDATE of the stream */
	int64_t send_window;    /* h2 */
	struct call_more *more; /* h2: cut messages and blocked bytes; NULL in the common case */
};

enum channel_state { CHANNEL_CONNECTING, CHANNEL_STARTING, CHANNEL_OPEN, CHANNEL_DRAINING, CHANNEL_CLOSING };

/* How sure it is that the server is there: bytes have come lately; a PING waits for its answer; the answer is overdue. */
enum channel_doubt { CHANNEL_SURE, CHANNEL_PINGED, CHANNEL_OVERDUE };

struct client {
	struct ring *ring;
	uint64_t now_ns;
	struct wheel wheel;
	struct slab channels;   /* of struct channel */
	struct channel **dirty; /* have bytes to send; channels_max entries */
	struct channel **dying; /* closing; channels_max entries */
	uint32_t dirty_n, dying_n;
};

struct protocol_ops;

struct channel {
	/* Each call touches these. */
	const struct protocol_ops *ops;
	struct client *client;
	struct channel_buf out; /* filled in this turn */
	uint8_t state;          /* enum channel_state */
	bool is_dirty, is_sending;
	uint32_t calls_limit; /* in force now */
	uint64_t sweep_ns;    /* no deadline of a call is before this */
	struct slab calls;    /* of struct call */
	uint32_t zombies;
	uint32_t message_max;
	size_t queue_max;
	void *proto; /* struct native_client or struct h2_client */

	/* Each turn touches these. */
	struct channel_buf wire; /* being sent */
	size_t sent;             /* of wire */
	struct channel_buf part; /* the beginning of a unit that was cut by the end of a buffer */
	size_t need;             /* bytes of the unit at hand that its protocol must see at once */
	int fd;
	uint32_t index, gen;    /* of our tags */
	uint32_t ops_in_flight; /* completions owed by the ring */
	uint64_t heard_ns;      /* when bytes came last */
	bool recv_armed;
	struct tls *tls; /* NULL: cleartext */

	const struct channel_events *events;
	void *ctx;
	struct timer sweep;
	struct timer keepalive;
	uint64_t keepalive_ns; /* UINT64_MAX: off */
	uint8_t doubt;         /* enum channel_doubt */
	uint32_t calls_max;
	char *authority;
	char *bearer; /* "Bearer TOKEN", or NULL */
	struct sockaddr_storage addr;
	int err;
	char why[200];
};

struct protocol_ops {
	int (*init)(struct channel *ch); /* makes ch->proto; 0, -ENOMEM or -EINVAL */
	void (*done)(struct channel *ch);
	/* The socket is connected. May queue bytes; calls channel_set_open, now or later. */
	void (*start)(struct channel *ch);
	/* Takes in whole units from p. Returns the bytes consumed, with ch->need set for the unit that begins at the rest, or -errno after
	 * channel_fail. Returns early (any value) when a callback has closed the channel. */
	ssize_t (*input)(struct channel *ch, const uint8_t *p, size_t n);
	/* 0 or -errno with nothing queued. `path`: empty: that of `method` in rpc/methods.h. */
	int (*call)(struct channel *ch, struct call *call, uint32_t index, unsigned method, struct span path,
		    struct span request, uint64_t timeout_ns, bool last);
	int (*send)(struct channel *ch, struct call *call, uint32_t index, struct span msg, bool last);
	int (*end)(struct channel *ch, struct call *call, uint32_t index);
	/* Tells the server that nobody waits any more; before channel_finish. */
	void (*cancel)(struct channel *ch, struct call *call, uint32_t index);
	/* Asks for a sign of life. 0 or -ENOMEM. */
	int (*ping)(struct channel *ch);
	/* Forgets the call; true: its number must stay taken. `by_server`: the server has ended it. */
	bool (*gone)(struct channel *ch, struct call *call, uint32_t index, bool by_server);
};

extern const struct protocol_ops native_client_ops;
extern const struct protocol_ops h2_client_ops;

static inline struct call *channel_slot(const struct channel *ch, uint32_t index)
{
	return slab_at(&ch->calls, index);
}

/* The open call with this number, or NULL: for numbers that a peer sent. */
static inline struct call *channel_find(const struct channel *ch, uint32_t index)
{
	if (unlikely(index >= ch->calls.made))
		return NULL;
	struct call *call = channel_slot(ch, index);
	return likely(call->state != CALL_FREE) ? call : NULL;
}

/* 0 or -ENOMEM: room for n more bytes in b. */
int channel_buf_grow(struct channel_buf *b, size_t n);
int channel_buf_add(struct channel_buf *b, const void *p, size_t n);
void channel_buf_free(struct channel_buf *b);

/* n bytes at the end of the output, to be written and then counted with channel_commit; NULL without memory. */
static inline uint8_t *channel_reserve(struct channel *ch, size_t n)
{
	if (unlikely(ch->out.cap - ch->out.n < n) && channel_buf_grow(&ch->out, n))
		return NULL;
	return ch->out.p + ch->out.n;
}
void channel_mark_dirty(struct channel *ch);
static inline void channel_commit(struct channel *ch, size_t n)
{
	ch->out.n += n;
	if (!ch->is_dirty)
		channel_mark_dirty(ch);
}

void channel_set_open(struct channel *ch);
/* GOAWAY has come. May end in closing. */
void channel_set_draining(struct channel *ch);
/* The connection can carry no further call, as after a GOAWAY, found inside channel_call: nothing is reported before the next turn. */
void channel_set_worn_out(struct channel *ch);
/* Ends the connection for this reason; every call ends with UNAVAILABLE. err < 0, or 0 for an orderly end. Returns err. */
int channel_fail(struct channel *ch, int err, const char *why, ...) __attribute__((format(printf, 3, 4)));
/* Ends a call: its slot is free (unless the protocol says otherwise), then `done` runs. */
void channel_finish(struct channel *ch, uint32_t index, bool by_server, const struct channel_status *status);
/* The server has ended a call of CALL_ZOMBIE. */
void channel_release(struct channel *ch, uint32_t index);

/* channel_tls.c; ch->tls is not NULL. */
/* Makes ch->tls. 0, -ENOMEM or -EINVAL. */
int channel_tls_init(struct channel *ch, const struct channel_opts *o);
/* The first record. */
void channel_tls_start(struct channel *ch);
/* Received bytes: what they decrypt to goes to channel_feed. */
void channel_tls_input(struct channel *ch, const uint8_t *p, size_t n);
/* There are bytes that channel_tls_seal would put into `wire`. */
bool channel_tls_has_output(const struct channel *ch);
/* Turns `out` into records in `wire`, which is empty. False: there is nothing to send, or the channel has failed. */
bool channel_tls_seal(struct channel *ch);
/* Before the descriptor is closed: tells the server so, as far as it goes without waiting. */
void channel_tls_goodbye(struct channel *ch);
/* Takes received plaintext in. */
void channel_feed(struct channel *ch, const uint8_t *p, size_t n);

/* For client.c. */
void channel_event(struct channel *ch, const struct ring_event *ev);
void channel_flush(struct channel *ch);
/* Closes the descriptor, reports `closed`, frees. All completions have come. */
void channel_bury(struct channel *ch);

#endif
