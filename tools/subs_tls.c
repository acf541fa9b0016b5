/* TLS of a subscription: the handshake, which blocks, and then records to and from the thread's buffers. One receive is SUBS_CIPHER at the most, so that
 * all it decrypts to fits into what subs_conn.c reads into, and nothing is left behind that no event would tell of. Thread of its subs_thread. */
#include "tools/subs_conn.h"

#include "core/tls.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

enum { PIECE = 16384 };

_Static_assert(SUBS_CIPHER + 2 * PIECE <= SUBS_BUF / 2, "a receive must fit, with a record that was cut before it");

/* Sends the records that wait. False: not all of them went. */
static bool send_records(struct subs_conn *c, int flags)
{
	uint8_t piece[PIECE];
	size_t n;
	while ((n = tls_take(c->tls, piece, sizeof piece)) > 0)
		if (send(c->fd, piece, n, MSG_NOSIGNAL | flags) != (ssize_t)n)
			return false;
	return true;
}

static int fail(struct subs_thread *t, const char *why)
{
	snprintf(t->why, sizeof t->why, "%s", why);
	return -EKEYREJECTED;
}

int subs_tls_open(struct subs_thread *t, struct subs_conn *c)
{
	const struct subs_opts *o = &t->subs->opts;
	uint8_t piece[PIECE];
	c->tls = tls_client_new(o->tls, o->tls_name, o->protocol == CHANNEL_GRPC);
	if (!c->tls)
		return -ENOMEM;
	for (;;) {
		int r = tls_handshake(c->tls);
		bool sent = send_records(c, 0);
		if (r)
			return fail(t, tls_error(c->tls));
		if (!sent)
			return -errno;
		if (tls_is_ready(c->tls))
			break;
		ssize_t n = recv(c->fd, piece, sizeof piece, 0);
		if (n <= 0)
			return fail(t, n ? strerror(errno) : "the server closed the connection in the TLS handshake");
		if (!tls_feed(c->tls, piece, (size_t)n))
			return -ENOMEM;
	}
	if (o->protocol == CHANNEL_GRPC && !tls_has_h2(c->tls))
		return fail(t, "the server does not speak HTTP/2 over TLS");
	return 0;
}

bool subs_tls_send(struct subs_conn *c, const void *p, size_t n)
{
	return tls_write(c->tls, p, n) && send_records(c, MSG_DONTWAIT);
}

ssize_t subs_tls_recv(struct subs_thread *t, struct subs_conn *c, uint8_t *to, size_t cap)
{
	size_t got = 0;
	int r;
	ssize_t n = recv(c->fd, t->cipher, SUBS_CIPHER, MSG_DONTWAIT);
	if (n <= 0)
		return n;
	if (!tls_feed(c->tls, t->cipher, (size_t)n)) {
		errno = ENOMEM;
		return -1;
	}
	while ((r = tls_read(c->tls, to + got, cap - got)) > 0)
		got += (size_t)r;
	if (got > 0 && (r == 0 || r == -EPIPE))
		return (ssize_t)got; /* an end is told by the next receive */
	if (r == -EPIPE)
		return 0;
	if (r < 0)
		fail(t, tls_error(c->tls));
	errno = r < 0 ? EPROTO : EAGAIN;
	return -1;
}

void subs_tls_close(struct subs_conn *c)
{
	tls_shutdown(c->tls);
	send_records(c, MSG_DONTWAIT);
	tls_free(c->tls);
	c->tls = NULL;
}
