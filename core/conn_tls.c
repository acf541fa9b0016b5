/* The TLS filter of a connection: between the ring's bytes and the session's. Runs on the connection's shard.
 *
 * Input is decrypted as it comes and handed on like any received bytes (held while the session may not have them). Output stays plaintext in `out`
 * until the records before it have gone, so a slow reader costs no more than in cleartext.
 *
 * What OpenSSL holds is bounded: of input, an unfinished record, because what comes is read back at once and nothing is put in that will not be read; of
 * output, PENDING_MAX, because what a peer makes it say (a handshake, alerts) is not counted in the connection's queue. How often a peer may ask for new
 * keys, which costs more than its bytes, is bounded by opts->tls_renewals_max.
 *
 * No private-key operation runs here, and no key exchange: until the handshake is over, everything
 * that comes is for conn_handshake.c.
 */
#include "core/conn_impl.h"
#include "core/base/check.h"
#include "core/tls.h"

#include <errno.h>

enum {
	PLAIN_MAX = 16384, /* of one record, RFC 8446 section 5.1 */
	PENDING_MAX =
		128
		<< 10, /* bytes of records unasked for; fixed: far above the longest flight of a handshake, and no client lets more wait */
};

void conn_tls_broken(struct conn *c, int err)
{
	conn_log_close(c, tls_error(c->tls));
	c->reason = err == -EACCES ? CONN_R_ACCESS : CONN_R_PROTOCOL;
	conn_close(c); /* the alert is sent first */
}

static void flood(struct conn *c, const char *what)
{
	conn_log_close(c, what);
	conn_abort(c, CONN_R_FLOOD);
}

void conn_tls_input(struct conn *c, const uint8_t *p, size_t n)
{
	if (!conn_is_open(c) || c->recv_eof)
		return; /* dropped, as in cleartext; after close_notify, RFC 8446 section 6.1 */
	if (likely(!c->handshake)) {
		conn_tls_decrypt(c, p, n);
		return;
	}
	conn_input_hold(c, p, n);
	conn_handshake_go_on(c);
}

void conn_tls_decrypt(struct conn *c, const uint8_t *p, size_t n)
{
	uint8_t plain[PLAIN_MAX];
	int got = 0;
	if (!tls_feed(c->tls, p, n)) {
		conn_abort(c, CONN_R_MEMORY);
		return;
	}
	while (conn_is_open(c) && (got = tls_read(c->tls, plain, sizeof plain)) > 0)
		conn_receive(c, plain, (size_t)got);
	if (!conn_is_open(c))
		return;
	if (!tls_is_calm(c->tls, c->shard->now_ns, c->shard->opts->tls_renewals_max)) {
		flood(c, "TLS: more key updates or renegotiations than TLS_RENEWALS_MAX");
		return;
	}
	if (got == -EPIPE)
		conn_on_end(c);
	else if (got < 0)
		conn_tls_broken(c, got);
	if (tls_pending(c->tls) > PENDING_MAX)
		flood(c, "TLS: an alert for each of its records, and it reads none");
	else if (tls_pending(c->tls) && !c->dirty)
		conn_mark_dirty(c);
}

bool conn_start_tls(struct conn *c, struct tls_context *x)
{
	CHECK(c->shard->handshakes.pool && !c->tls);
	c->tls = tls_new(x);
	c->handshake = c->tls ? CONN_HANDSHAKE_IDLE : CONN_HANDSHAKE_NONE;
	return c->tls != NULL;
}

bool conn_tls_has_output(const struct conn *c)
{
	return c->tls && c->handshake != CONN_HANDSHAKE_AWAY && tls_pending(c->tls);
}

static bool encrypt(struct conn *c)
{
	const struct conn_out *o = &c->out;
	if (!o->segs)
		return o->len == 0 || tls_write(c->tls, o->p, o->len);
	for (uint32_t i = 0; i < o->segs; i++) {
		const struct conn_segment *seg = &o->seg[i];
		if (!tls_write(c->tls, seg->ext.p ? seg->ext.p : o->p + seg->own, seg->ext.n))
			return false;
	}
	return true;
}

bool conn_tls_seal(struct conn *c)
{
	if (c->out.len + c->out.ext) {
		if (!tls_is_ready(c->tls) || !encrypt(c))
			return false;
		conn_out_reset(c, &c->out);
	} else if (!conn_is_open(c) && !c->tls_closed) {
		c->tls_closed = true;
		tls_shutdown(c->tls);
	}
	size_t n = tls_pending(c->tls);
	if (n == 0)
		return true;
	c->sending.p = bufpool_get(&c->shard->pool, n, &c->sending.cap);
	if (!c->sending.p)
		return false;
	c->sending.len = (uint32_t)tls_take(c->tls, c->sending.p, n);
	return true;
}
