/* A channel whose server is the test: one end of a socket pair, read and written between the client's turns. */
#ifndef ORDINAL_TESTS_UNIT_RPC_CLIENT_HARNESS_H
#define ORDINAL_TESTS_UNIT_RPC_CLIENT_HARNESS_H

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/ring.h"
#include "rpc/client/channel.h"
#include "rpc/client/client.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TURNS_MAX = 5000 }; /* of a millisecond: how long anything may take before the test fails */

/* What a call has told its owner. */
struct seen {
	unsigned messages, done;
	unsigned code;
	bool unprocessed;
	size_t bytes;     /* of all messages */
	uint8_t last[64]; /* the beginning of the last message */
	size_t last_n;
	char text[256];
	void (*on_message)(struct seen *s);
	void (*on_done)(struct seen *s);
	struct harness *h;
	uint32_t call;
};

struct harness {
	struct ring *ring;
	struct client *client;
	struct channel *channel; /* NULL once closed */
	int peer;
	unsigned opened, draining, closed;
	int err;
	char why[200];
};

static inline void seen_message(void *ctx, struct span msg)
{
	struct seen *s = ctx;
	assert_int_equal(s->done, 0);
	s->messages++;
	s->bytes += msg.n;
	s->last_n = msg.n;
	if (msg.n)
		memcpy(s->last, msg.p, msg.n < sizeof s->last ? msg.n : sizeof s->last);
	if (s->on_message)
		s->on_message(s);
}

static inline void seen_done(void *ctx, const struct channel_status *st)
{
	struct seen *s = ctx;
	assert_int_equal(s->done, 0);
	s->done++;
	s->code = st->code;
	s->unprocessed = st->unprocessed;
	snprintf(s->text, sizeof s->text, "%.*s", (int)st->text.n, st->text.n ? (const char *)st->text.p : "");
	if (s->on_done)
		s->on_done(s);
}

static const struct channel_call_ops seen_ops = {.message = seen_message, .done = seen_done};

static inline void harness_opened(void *ctx, struct channel *ch)
{
	((struct harness *)ctx)->opened++;
}

static inline void harness_draining(void *ctx, struct channel *ch)
{
	((struct harness *)ctx)->draining++;
}

static inline void harness_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	struct harness *h = ctx;
	assert_ptr_equal(ch, h->channel);
	h->channel = NULL;
	h->closed++;
	h->err = err;
	snprintf(h->why, sizeof h->why, "%s", why);
}

static const struct channel_events harness_events = {
	.opened = harness_opened, .draining = harness_draining, .closed = harness_closed};

static inline void harness_turn(struct harness *h)
{
	assert_int_equal(client_turn(h->client, NS_PER_MS), 0);
}

static inline void harness_until(struct harness *h, const unsigned *flag, unsigned value)
{
	for (int i = 0; i < TURNS_MAX && *flag < value; i++)
		harness_turn(h);
	assert_int_equal(*flag, value);
}

static inline void harness_begin(struct harness *h, const struct channel_opts *opts)
{
	int fds[2];
	*h = (struct harness){0};
	assert_int_equal(
		ring_init(&(struct ring_params){.entries = 64, .cq_entries = 256, .bufs = 16, .buf_size = 4096},
			  &h->ring),
		0);
	assert_int_equal(client_new(h->ring, 2, &h->client), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	h->peer = fds[1];
	fcntl(h->peer, F_SETFL, O_NONBLOCK);
	assert_int_equal(channel_adopt(h->client, opts, fds[0], &harness_events, h, &h->channel), 0);
	assert_int_equal(h->opened, 0);
}

static inline void harness_end(struct harness *h)
{
	client_free(h->client);
	ring_done(h->ring);
	if (h->peer >= 0)
		close(h->peer);
}

/* Exactly n bytes from the client, which takes its turns meanwhile. */
static inline void peer_read(struct harness *h, void *p, size_t n)
{
	size_t have = 0;
	for (int i = 0; have < n && i < TURNS_MAX; i++) {
		ssize_t r = read(h->peer, (uint8_t *)p + have, n - have);
		assert_true(r > 0 || (r < 0 && errno == EAGAIN));
		if (r > 0)
			have += (size_t)r;
		else
			harness_turn(h);
	}
	assert_int_equal(have, n);
}

static inline void peer_expect_silence(struct harness *h)
{
	uint8_t b;
	for (int i = 0; i < 3; i++)
		harness_turn(h);
	assert_int_equal(read(h->peer, &b, 1), -1);
	assert_int_equal(errno, EAGAIN);
}

static inline void peer_write(struct harness *h, const void *p, size_t n)
{
	size_t done = 0;
	for (int i = 0; done < n && i < TURNS_MAX; i++) {
		ssize_t r = write(h->peer, (const uint8_t *)p + done, n - done);
		if (r > 0)
			done += (size_t)r;
		else
			harness_turn(h);
	}
	assert_int_equal(done, n);
}

static inline void harness_call(struct harness *h, unsigned method, struct span msg, uint64_t timeout_ns,
				unsigned flags, struct seen *s)
{
	s->h = h;
	assert_int_equal(channel_call(h->channel, method, msg, timeout_ns, flags, &seen_ops, s, &s->call), 0);
}

#endif
