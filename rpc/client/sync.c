/* The synchronous face of a channel: run the loop until done. Blocks; one call at a time; the thread that calls is the owner. */
#include "rpc/client/channel_impl.h"
#include "rpc/client/address.h"
#include "rpc/client/sync.h"

#include "core/base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct sync_channel {
	struct ring *ring;
	struct client *client;
	struct channel *channel; /* NULL once closed */
	bool open;
	int err;
	char why[200];
	/* The call at hand. */
	struct sync_reply *reply;
	struct channel_buf message;
	unsigned messages;
	bool done;
};

static void on_opened(void *ctx, struct channel *ch)
{
	struct sync_channel *s = ctx;
	s->open = true;
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	struct sync_channel *s = ctx;
	s->channel = NULL;
	s->open = false;
	s->err = err ? err : -ESHUTDOWN;
	snprintf(s->why, sizeof s->why, "%s", why);
}

static const struct channel_events events = {.opened = on_opened, .closed = on_closed};

static void on_message(void *ctx, struct span msg)
{
	struct sync_channel *s = ctx;
	s->message.n = 0;
	if (channel_buf_add(&s->message, msg.p, msg.n) == 0)
		s->messages++;
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct sync_channel *s = ctx;
	s->reply->code = st->code;
	snprintf(s->reply->text, sizeof s->reply->text, "%.*s",
		 (int)(st->text.n < SYNC_TEXT_MAX ? st->text.n : SYNC_TEXT_MAX),
		 st->text.n ? (const char *)st->text.p : "");
	text_make_printable(s->reply->text);
	s->done = true;
}

static const struct channel_call_ops call_ops = {.message = on_message, .done = on_done};

int sync_connect(const char *server, const struct channel_opts *opts, struct sync_channel **ret, char *why, size_t cap)
{
	struct address a;
	struct channel_opts o = *opts;
	const char *text;
	int r = address_resolve(server, &a, &text);
	if (r) {
		snprintf(why, cap, "%s", text);
		return r;
	}
	struct sync_channel *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	if (!o.authority)
		o.authority = server;
	o.calls_max = 4;
	r = ring_init(&(struct ring_params){.entries = 16, .cq_entries = 64, .bufs = 16, .buf_size = 16384}, &s->ring);
	if (r) {
		snprintf(why, cap, "%s", ring_explain(r));
		goto out;
	}
	r = client_new(s->ring, 1, &s->client);
	if (r == 0)
		r = channel_connect(s->client, &o, (struct sockaddr *)&a.addr, a.len, &events, s, &s->channel);
	if (r) {
		snprintf(why, cap, "%s", strerror(-r));
		goto out;
	}
	while (r == 0 && s->channel && !s->open)
		r = client_turn(s->client, UINT64_MAX);
	if (r == 0 && s->open) {
		*ret = s;
		return 0;
	}
	r = r ? r : s->err;
	snprintf(why, cap, "%s", s->why);
out:
	sync_close(s);
	return r;
}

void sync_close(struct sync_channel *s)
{
	if (!s)
		return;
	client_free(s->client);
	ring_done(s->ring);
	channel_buf_free(&s->message);
	free(s);
}

struct channel *sync_channel_of(const struct sync_channel *s)
{
	return s->channel;
}

int sync_turn(struct sync_channel *s, uint64_t timeout_ns)
{
	return client_turn(s->client, timeout_ns);
}

int sync_call(struct sync_channel *s, unsigned method, struct span request, uint64_t timeout_ns, struct sync_reply *ret)
{
	*ret = (struct sync_reply){0};
	s->reply = ret;
	s->messages = 0;
	s->done = false;
	int r = client_turn(s->client, 0); /* timeouts count from the time of the last turn */
	if (r == 0)
		r = s->channel ? channel_call(s->channel, method, request, timeout_ns, 0, &call_ops, s, NULL) : s->err;
	if (r) {
		snprintf(ret->text, sizeof ret->text, "%s", s->channel ? strerror(-r) : s->why);
		return r;
	}
	while (!s->done) {
		r = client_turn(s->client, UINT64_MAX);
		if (r)
			return r;
	}
	if (ret->code == GRPC_OK && s->messages != 1) {
		ret->code = GRPC_INTERNAL;
		snprintf(ret->text, sizeof ret->text, "the server answered with %u messages instead of one",
			 s->messages);
	}
	ret->message = (struct span){s->message.p, s->message.n};
	return 0;
}
