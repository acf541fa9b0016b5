/* What tls.c (both sides, and the server's contexts) and tls_client.c (the client's) share. Nobody else includes this. */
#ifndef ORDINAL_CORE_TLS_INTERNAL_H
#define ORDINAL_CORE_TLS_INTERNAL_H

#include "core/tls.h"

#include <openssl/ssl.h>
#include <stdatomic.h>

struct tls_context {
	SSL_CTX *ctx;
	atomic_uint refs;
};

struct tls {
	SSL *ssl;      /* of a server's, made by the first step of the handshake */
	BIO *in, *out; /* made by the first bytes; owned by ssl when there is one */
	struct tls_context *context;
	bool ready, is_client;
	uint32_t asked;    /* for new keys, by the peer, since tls_is_calm */
	uint32_t renewals; /* since renewals_ns */
	uint64_t renewals_ns;
	const char *costly; /* what about the client's certificates is too large; NULL: nothing */
	char name[128];     /* the peer's */
	char error[200];
};

#define TLS_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20" /* of TLS 1.2; RFC 9113 section 9.2.2 */
/* A key exchange costs 0.05 to 0.7 ms with these groups; 20 clients that chose ffdhe8192, which
 * OpenSSL would take, held a shard for 1.8 s. The first of TLS_GROUPS_NEW is known to newer versions
 * of OpenSSL only, and is tried without it then. */
#define TLS_GROUPS "X25519:P-256:P-384:P-521"
#define TLS_GROUPS_NEW "X25519MLKEM768:" TLS_GROUPS

/* Makes a context around what both sides want of `ctx`, which it takes over (also on failure). NULL without memory. */
struct tls_context *tls_context_wrap(SSL_CTX *ctx);
/* A connection's state, without an SSL yet. NULL without memory. */
struct tls *tls_make(struct tls_context *x);
/* Gives it one, with neither side chosen. false: no memory. */
bool tls_make_ssl(struct tls *t);
/* The last entry of the calling thread's error queue, as text. */
const char *tls_reason(void);
/* Says in t->error why the client's side broke. */
void tls_client_explain(struct tls *t);

#endif
