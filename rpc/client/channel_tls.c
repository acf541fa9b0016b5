/* TLS under a channel: between the socket's bytes and the protocol's.
 *
 * Output stays plaintext in `out` until the records before it have been sent, so queue_max means the same as in cleartext, and nothing of the protocol
 * leaves before the server has proved who it is. Input is decrypted as it comes and handed on at once. Runs on the client's thread. */
#include "rpc/client/channel_impl.h"

#include "core/tls.h"

#include <errno.h>
#include <sys/socket.h>

enum { PLAIN_MAX = 16384 /* of one record, RFC 8446 section 5.1 */ };

int channel_tls_init(struct channel *ch, const struct channel_opts *o)
{
	if (!o->tls_name || !*o->tls_name || strlen(o->tls_name) > TLS_NAME_MAX)
		return -EINVAL;
	ch->tls = tls_client_new(o->tls, o->tls_name, o->protocol == CHANNEL_GRPC);
	return ch->tls ? 0 : -ENOMEM;
}

static void broken(struct channel *ch)
{
	channel_fail(ch, -EKEYREJECTED, "%s", tls_error(ch->tls));
}

void channel_tls_start(struct channel *ch)
{
	if (tls_handshake(ch->tls))
		broken(ch);
	else if (!ch->is_dirty)
		channel_mark_dirty(ch);
}

void channel_tls_input(struct channel *ch, const uint8_t *p, size_t n)
{
	uint8_t plain[PLAIN_MAX];
	bool was_ready = tls_is_ready(ch->tls);
	int got = 0;
	if (!tls_feed(ch->tls, p, n)) {
		channel_fail(ch, -ENOMEM, "no memory for a TLS record");
		return;
	}
	while (ch->state != CHANNEL_CLOSING && (got = tls_read(ch->tls, plain, sizeof plain)) >= 0) {
		if (unlikely(!was_ready && tls_is_ready(ch->tls))) {
			was_ready = true;
			if (ch->ops == &h2_client_ops && !tls_has_h2(ch->tls))
				channel_fail(ch, -EPROTO, "the server does not speak HTTP/2 over TLS");
		}
		if (got == 0)
			break;
		if (ch->state != CHANNEL_CLOSING)
			channel_feed(ch, plain, (size_t)got);
	}
	if (ch->state == CHANNEL_CLOSING)
		return;
	if (got == -EPIPE)
		channel_fail(ch, -ECONNRESET, "the server closed the connection");
	else if (got < 0)
		broken(ch);
	else if (channel_tls_has_output(ch) && !ch->is_dirty)
		channel_mark_dirty(ch);
}

bool channel_tls_has_output(const struct channel *ch)
{
	return tls_pending(ch->tls) > 0 || (ch->out.n > 0 && tls_is_ready(ch->tls));
}

bool channel_tls_seal(struct channel *ch)
{
	if (ch->out.n > 0 && tls_is_ready(ch->tls)) {
		if (!tls_write(ch->tls, ch->out.p, ch->out.n)) {
			broken(ch);
			return false;
		}
		ch->out.n = 0;
	}
	size_t n = tls_pending(ch->tls);
	ch->wire.n = 0;
	if (n == 0)
		return false;
	if (ch->wire.cap < n && channel_buf_grow(&ch->wire, n)) {
		channel_fail(ch, -ENOMEM, "no memory to send");
		return false;
	}
	ch->wire.n = tls_take(ch->tls, ch->wire.p, n);
	return true;
}

void channel_tls_goodbye(struct channel *ch)
{
	uint8_t record[1024]; /* an alert; more than that is output that was given up */
	if (ch->is_sending)
		return; /* what was sent last may be the first half of a record */
	tls_shutdown(ch->tls);
	size_t n = tls_pending(ch->tls);
	if (n > 0 && n <= sizeof record)
		(void)send(ch->fd, record, tls_take(ch->tls, record, n), MSG_DONTWAIT | MSG_NOSIGNAL);
}
