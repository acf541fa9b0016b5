/* The loop of a client thread: flush, wait, reap, expire, bury.
 *
 * Invariants: `dirty` holds each channel with bytes to send at most once; a channel is freed only here, after the ring has reported the
 * last completion that names it, and never while it stands in `dirty`. Runs on the thread that owns the ring. Knows no protocol: bytes
 * go to channel.c. */
#include "rpc/client/channel_impl.h"

#include "core/base/clock.h"

#include <errno.h>
#include <stdlib.h>

enum { EVENTS_AT_ONCE = 64 };

int client_new(struct ring *ring, uint32_t channels_max, struct client **ret)
{
	struct client *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->ring = ring;
	c->now_ns = clock_mono_ns();
	c->dirty = calloc(channels_max, sizeof *c->dirty);
	c->dying = calloc(channels_max, sizeof *c->dying);
	int r = slab_init(&c->channels, sizeof(struct channel), channels_max);
	if (r || !c->dirty || !c->dying) {
		if (!r)
			slab_done(&c->channels);
		free(c->dirty);
		free(c->dying);
		free(c);
		return -ENOMEM;
	}
	wheel_init(&c->wheel, c->now_ns, c);
	*ret = c;
	return 0;
}

void client_free(struct client *c)
{
	if (!c)
		return;
	for (uint32_t i = 0; i < c->channels.made; i++) {
		struct channel *ch = slab_at(&c->channels, i);
		if (ch->client)
			channel_close(ch);
	}
	/* The last completions of closed sockets come at once; without them the memory that the kernel may still write to cannot go. */
	while (c->channels.used > 0 && client_turn(c, NS_PER_S) == 0)
		;
	CHECK(c->channels.used == 0);
	slab_done(&c->channels);
	free(c->dirty);
	free(c->dying);
	free(c);
}

uint64_t client_now_ns(const struct client *c)
{
	return c->now_ns;
}

void channel_mark_dirty(struct channel *ch)
{
	struct client *c = ch->client;
	ch->is_dirty = true;
	c->dirty[c->dirty_n++] = ch;
}

/* A channel may fail here (TLS), and its callbacks make others dirty: each is taken out before it is flushed. */
static void flush(struct client *c)
{
	while (c->dirty_n > 0) {
		struct channel *ch = c->dirty[--c->dirty_n];
		ch->is_dirty = false;
		channel_flush(ch);
	}
}

static void forget_dirty(struct client *c, struct channel *ch)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < c->dirty_n; i++)
		if (c->dirty[i] != ch)
			c->dirty[kept++] = c->dirty[i];
	c->dirty_n = kept;
}

/* `closed` callbacks may close further channels, which are then looked at in the same pass. */
static void bury(struct client *c)
{
	for (uint32_t i = 0; i < c->dying_n;) {
		struct channel *ch = c->dying[i];
		if (ch->ops_in_flight > 0) {
			i++;
			continue;
		}
		c->dying[i] = c->dying[--c->dying_n];
		if (ch->is_dirty)
			forget_dirty(c, ch);
		channel_bury(ch);
	}
}

static void dispatch(struct client *c, const struct ring_event *ev)
{
	uint32_t slot = ring_tag_slot(ev->tag);
	struct channel *ch = slot < c->channels.made ? slab_at(&c->channels, slot) : NULL;
	/* A channel outlives its completions, so every event finds its owner. */
	CHECK(ch && ch->client == c && (ch->gen & 0xffffff) == ring_tag_gen(ev->tag));
	channel_event(ch, ev);
}

int client_turn(struct client *c, uint64_t timeout_ns)
{
	flush(c);
	uint64_t due = wheel_next_ns(&c->wheel);
	if (timeout_ns > 0 && due != UINT64_MAX) {
		uint64_t now = clock_mono_ns();
		uint64_t left = due > now ? due - now : 0;
		if (left < timeout_ns)
			timeout_ns = left;
	}
	for (uint32_t i = 0; unlikely(i < c->dying_n); i++)
		if (c->dying[i]->ops_in_flight == 0)
			timeout_ns = 0;
	int r = ring_wait(c->ring, timeout_ns);
	if (r)
		return r;
	c->now_ns = clock_mono_ns();
	struct ring_event ev[EVENTS_AT_ONCE];
	unsigned n;
	do {
		n = ring_reap(c->ring, ev, EVENTS_AT_ONCE);
		for (unsigned i = 0; i < n; i++)
			dispatch(c, &ev[i]);
	} while (n == EVENTS_AT_ONCE);
	if (due <= c->now_ns)
		wheel_advance(&c->wheel, c->now_ns);
	if (unlikely(c->dying_n > 0))
		bury(c);
	return 0;
}
