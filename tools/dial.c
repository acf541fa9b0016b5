/* Connecting again, with pauses that double from PAUSE_FIRST_NS to PAUSE_MAX_NS until dial_well; the first attempt after a good time is made at once.
 * The very first connection is made once: a wrong address is told immediately. Main thread. */
#include "tools/dial.h"
#include "tools/credentials.h"

#include "core/base/clock.h"
#include "core/ring.h"

#include <errno.h>
#include <stdio.h>

#define PAUSE_FIRST_NS (50 * NS_PER_MS)
#define PAUSE_MAX_NS (5 * NS_PER_S)
/* A server that is silent is asked for a sign of life after an eighth of the patience, within these bounds, and given up
 * after as long again: so that a loss that nobody tells of is found while there is patience left to connect again. */
#define KEEPALIVE_MIN_NS (500 * NS_PER_MS)
#define KEEPALIVE_MAX_NS (10 * NS_PER_S)

static void lost(struct dial *d)
{
	uint64_t now = clock_mono_ns();
	if (!d->lost_ns)
		d->lost_ns = now;
	d->next_ns = now + d->pause_ns;
	d->pause_ns = d->pause_ns ? d->pause_ns * 2 : PAUSE_FIRST_NS;
	if (d->pause_ns > PAUSE_MAX_NS)
		d->pause_ns = PAUSE_MAX_NS;
}

static void on_opened(void *ctx, struct channel *ch)
{
	struct dial *d = ctx;
	d->ever_open = true;
	d->lost_ns = 0;
	if (d->opts.opened)
		d->opts.opened(d->opts.ctx, ch);
}

static void on_draining(void *ctx, struct channel *ch)
{
	struct dial *d = ctx;
	if (d->opts.draining)
		d->opts.draining(d->opts.ctx, ch);
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	struct dial *d = ctx;
	d->channel = NULL;
	snprintf(d->why, sizeof d->why, "%s", why);
	lost(d);
}

static const struct channel_events events = {.opened = on_opened, .draining = on_draining, .closed = on_closed};

static uint64_t keepalive_of(uint64_t patience_ns)
{
	uint64_t ns = patience_ns / 8;
	return ns < KEEPALIVE_MIN_NS ? KEEPALIVE_MIN_NS : ns > KEEPALIVE_MAX_NS ? KEEPALIVE_MAX_NS : ns;
}

static int connect_now(struct dial *d)
{
	struct channel_opts o = {.protocol = d->opts.protocol,
				 .authority = d->opts.server,
				 .calls_max = 4,
				 .keepalive_ns = keepalive_of(d->opts.patience_ns),
				 .message_max = d->opts.message_max};
	credentials_fill(&o);
	int r = channel_connect(d->client, &o, (const struct sockaddr *)&d->address.addr, d->address.len, &events, d,
				&d->channel);
	if (r)
		snprintf(d->why, sizeof d->why, "%s", strerror(-r));
	return r;
}

int dial_init(struct dial *d, const struct dial_opts *opts)
{
	const char *why;
	*d = (struct dial){.opts = *opts, .lost_ns = clock_mono_ns()};
	int r = address_resolve(opts->server, &d->address, &why);
	if (r) {
		snprintf(d->why, sizeof d->why, "%s", why);
		return r;
	}
	r = ring_init(&(struct ring_params){.entries = 64, .cq_entries = 256, .bufs = 32, .buf_size = 65536}, &d->ring);
	if (r) {
		snprintf(d->why, sizeof d->why, "%s", ring_explain(r));
		return r;
	}
	/* A channel is still counted while its `closed` runs. */
	r = client_new(d->ring, 2, &d->client);
	if (r) {
		snprintf(d->why, sizeof d->why, "%s", strerror(-r));
		return r;
	}
	return connect_now(d);
}

void dial_done(struct dial *d)
{
	client_free(d->client);
	if (d->ring)
		ring_done(d->ring);
	d->client = NULL;
	d->ring = NULL;
}

int dial_turn(struct dial *d, uint64_t timeout_ns)
{
	uint64_t now = clock_mono_ns();
	if (!d->channel) {
		if (!d->ever_open)
			return -ECONNREFUSED;
		if (now - d->lost_ns > d->opts.patience_ns)
			return -ETIMEDOUT;
		if (now < d->next_ns)
			timeout_ns = d->next_ns - now < timeout_ns ? d->next_ns - now : timeout_ns;
		else if (connect_now(d))
			lost(d);
	}
	int r = client_turn(d->client, timeout_ns);
	if (r)
		snprintf(d->why, sizeof d->why, "%s", strerror(-r));
	return r;
}

struct channel *dial_channel(const struct dial *d)
{
	return d->channel && channel_is_open(d->channel) ? d->channel : NULL;
}

void dial_well(struct dial *d)
{
	d->pause_ns = 0;
}

void dial_pause(struct dial *d, const char *why)
{
	if (!d->lost_ns)
		d->lost_ns = clock_mono_ns();
	if (d->pause_ns == 0)
		d->pause_ns = PAUSE_FIRST_NS;
	if (d->channel)
		channel_close(d->channel);
	snprintf(d->why, sizeof d->why, "%s", why);
}
