/* The ring under a connection, and what it wants of its shard, as a test: what is asked for is kept in `ring`, and completes when and how the test says.
 * For programs that link conn.c without ring.c and shard.c. */
#ifndef ORDINAL_TESTS_UNIT_CORE_RING_TWIN_H
#define ORDINAL_TESTS_UNIT_CORE_RING_TWIN_H

#include "core/conn.h"
#include "core/ring.h"
#include "core/shard.h"

static struct {
	bool recv_armed, recv_cancelled, sending, send_cancelled;
	uint64_t recv_tag, send_tag, cancels[8];
	unsigned cancel_count;
	const void *send_p;
	size_t send_len;
	const uint8_t *delivered; /* what the next receipt brings */
} ring;

void ring_recv(struct ring *r, int fd, uint64_t tag)
{
	assert_false(ring.recv_armed);
	ring.recv_armed = true;
	ring.recv_cancelled = false;
	ring.recv_tag = tag;
}

void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag)
{
	assert_false(ring.sending);
	assert_true(n > 0);
	ring.sending = true;
	ring.send_cancelled = false;
	ring.send_tag = tag;
	ring.send_p = p;
	ring.send_len = n;
}

void ring_sendmsg(struct ring *r, int fd, const struct msghdr *m, uint64_t tag)
{
	size_t n = 0;

	for (size_t i = 0; i < m->msg_iovlen; i++)
		n += m->msg_iov[i].iov_len;
	ring_send(r, fd, m, n, tag);
}

static void cancelled_by(uint64_t tag)
{
	assert_true(ring.cancel_count < sizeof ring.cancels / sizeof *ring.cancels);
	ring.cancels[ring.cancel_count++] = tag;
}

void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag)
{
	ring.recv_cancelled |= ring.recv_armed && ring.recv_tag == victim;
	cancelled_by(tag);
}

void ring_cancel_fd(struct ring *r, int fd, uint64_t tag)
{
	ring.recv_cancelled |= ring.recv_armed;
	ring.send_cancelled |= ring.sending;
	cancelled_by(tag);
}

uint8_t *ring_buf(const struct ring *r, uint16_t buf)
{
	return (uint8_t *)(uintptr_t)ring.delivered;
}

void ring_buf_put(struct ring *r, uint16_t buf)
{
}

void shard_unsettle(struct shard *s, struct conn *c)
{
}

void shard_refuse(struct shard *s, int fd)
{
	fail();
}

/* An operation completes. */
static inline void ring_complete(struct shard *s, uint64_t tag, int32_t res, uint16_t flags)
{
	struct ring_event ev = {.tag = tag, .res = res, .flags = flags};
	struct conn *c = slab_at(&s->conns, ring_tag_slot(tag));

	assert_int_equal(c->gen & 0xffffff, ring_tag_gen(tag));
	if (ring_tag_kind(tag) == SHARD_OP_RECV)
		conn_on_recv(c, &ev);
	else if (ring_tag_kind(tag) == SHARD_OP_SEND)
		conn_on_send(c, &ev);
	else
		conn_on_cancel(c, &ev);
}

#endif
