/* The sniffer: waits for the first bytes of a connection and hands it to the session that they ask for. Runs on the connection's shard.
 *
 *   accepted --first byte 0x81--> native --'P','R','I'--> h2
 *       |--0x16 (a TLS handshake)--> the TLS filter; after the handshake as above, once more
 *       |--a request line of HTTP/1--> 400 with a sentence, closed
 *       \--anything else, or PREFACE_TIMEOUT--> closed
 */
#include "rpc/session.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/tls.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TLS_HANDSHAKE = 0x16 /* RFC 8446 section 5.1: ContentType handshake */ };

struct sniffer {
	struct rpc_shard *rpc;
	struct conn *conn;
	struct timer timer;
	bool draining;
};

int session_pools_init(struct rpc_shard *r)
{
	/* CONNECTIONS_MAX times the calls of a connection may be more than this. What is beyond is refused: call_note_full. */
	int rc = slab_init(&r->native_calls, native_call_size(), r->opts->calls_max);
	return rc ? rc : slab_init(&r->h2_streams, h2_stream_size(), r->opts->calls_max);
}

void session_pools_done(struct rpc_shard *r)
{
	slab_done(&r->native_calls);
	slab_done(&r->h2_streams);
}

static void sniffer_free(struct sniffer *n)
{
	wheel_del(&n->conn->shard->wheel, &n->timer);
	free(n);
}

static void refuse(struct conn *c, struct rpc_shard *r, const char *what)
{
	count_add(&r->protocol_errors, 1);
	conn_log_close(c, what);
	conn_abort(c, CONN_R_PROTOCOL);
}

/* Whether the first bytes are the request line of HTTP/1, as far as they go. "PRI" is HTTP/2's preface, and one byte
 * tells nothing. Source: RFC 9110 section 9.1, RFC 5789. */
static bool is_http1(const uint8_t *p, size_t n)
{
	static const char *const methods[] = {"GET ",     "HEAD ",  "POST ",  "PUT ",    "DELETE ",
					      "OPTIONS ", "PATCH ", "TRACE ", "CONNECT "};
	for (size_t i = 0; n > 1 && i < ARRAY_SIZE(methods); i++) {
		size_t whole = strlen(methods[i]);
		if (memcmp(p, methods[i], n < whole ? n : whole) == 0)
			return true;
	}
	return false;
}

/* An HTTP/1 client is told what is spoken here, in its own words. */
static void refuse_http1(struct conn *c, struct rpc_shard *r)
{
	static const char sentence[] =
		"This port speaks gRPC over HTTP/2 with prior knowledge, and Ordinal's native framing; it does not "
		"speak HTTP/1.1. The pages are on the stats socket: curl --unix-socket PATH http://localhost/stats\n";
	char answer[sizeof sentence + 160];
	int n = snprintf(
		answer, sizeof answer,
		"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n"
		"Connection: close\r\n\r\n%s",
		sizeof sentence - 1, sentence);
	count_add(&r->protocol_errors, 1);
	conn_log_close(c, "HTTP/1.1 is not spoken here");
	c->reason = CONN_R_PROTOCOL;
	conn_write(c, answer, (size_t)n);
	conn_close(c);
}

/* The first bytes of a TLS connection go to the filter, and come back as plaintext. */
static void start_tls(struct conn *c, struct rpc_shard *r)
{
	struct tls_context *x = r->opts->tls ? r->opts->tls(r->opts->tls_ctx) : NULL;
	if (!x) {
		refuse(c, r, "TLS is not configured here: set TLS_CERT and TLS_KEY");
		return;
	}
	if (!conn_start_tls(c, x))
		conn_abort(c, CONN_R_MEMORY);
	tls_context_put(x);
}

static void sniffer_data(struct conn *c, const uint8_t *p, size_t n)
{
	struct sniffer *sn = c->session;
	struct rpc_shard *r = sn->rpc;
	bool (*start)(struct conn *, struct rpc_shard *) = p[0] == NATIVE_MAGIC    ? native_session_start
							   : p[0] == H2_PREFACE[0] ? h2_session_start
										   : NULL;
	if (p[0] == TLS_HANDSHAKE && !c->tls) {
		start_tls(c, r);
		return;
	}
	if (is_http1(p, n)) {
		refuse_http1(c, r);
		return;
	}
	if (!start) {
		refuse(c, r, "the first byte is none of a protocol spoken here (gRPC over HTTP/2, or native framing)");
		return;
	}
	if (!c->tls && r->opts->tls_only) {
		refuse(c, r, "cleartext, where TLS is configured: set ALLOW_CLEARTEXT=y to take both");
		return;
	}
	sniffer_free(sn);
	c->session = NULL;
	if (!start(c, r)) { /* it stays ours, without a sniffer, until `closed` */
		call_note_refusal(r, c, REFUSAL_MEMORY, "the connection: no memory for its session");
		conn_abort(c, CONN_R_MEMORY);
		return;
	}
	c->ops->data(c, p, n);
	if (c->shard->draining)
		conn_drain(c);
}

/* Its client may be about to speak. Where the next process takes over, nobody is to notice: it gets a moment, and what it asks for. */
static void sniffer_drain(struct conn *c)
{
	struct sniffer *sn = c->session;
	if (!c->shard->opts->listeners_kept || sn->draining) {
		conn_close(c);
		return;
	}
	sn->draining = true;
	wheel_add(&c->shard->wheel, &sn->timer, c->shard->now_ns + NS_PER_S);
}

static void sniffer_closed(struct conn *c)
{
	if (c->session)
		call_note_end(((struct sniffer *)c->session)->rpc, c);
	if (c->session)
		sniffer_free(c->session);
}

static const struct conn_ops sniffer_ops = {.data = sniffer_data, .drain = sniffer_drain, .closed = sniffer_closed};

static void on_timer(struct timer *t, void *ctx)
{
	struct sniffer *sn = container_of(t, struct sniffer, timer);
	if (sn->draining)
		conn_close(sn->conn);
	else
		conn_abort(sn->conn, CONN_R_TIMEOUT);
}

bool session_attach(struct conn *c, struct rpc_shard *r)
{
	struct sniffer *sn = calloc(1, sizeof *sn);
	if (!sn) {
		call_note_refusal(r, c, REFUSAL_MEMORY, "the connection: no memory for its session");
		return false;
	}
	sn->rpc = r;
	sn->conn = c;
	sn->timer.fire = on_timer;
	c->session = sn;
	c->ops = &sniffer_ops;
	if (c->shard->draining)
		sniffer_drain(c);
	else if (r->opts->preface_ns)
		wheel_add(&c->shard->wheel, &sn->timer, c->shard->now_ns + r->opts->preface_ns);
	return true;
}
