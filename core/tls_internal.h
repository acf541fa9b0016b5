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
	SSL *ssl;
	BIO *in, *out; /* owned by ssl */
	struct tls_context *context;
	bool ready, is_client;
	uint32_t asked;    /* for new keys, by the peer, since tls_is_calm */
	uint32_t renewals; /* since renewals_ns */
	uint64_t renewals_ns;
	char name[128]; /* the peer's */
	char error[200];
};

#define TLS_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20" /* of TLS 1.2; RFC 9113 section 9.2.2 */

/* Makes a context around what both sides want of `ctx`, which it takes over (also on failure). NULL without memory. */
struct tls_context *tls_context_wrap(SSL_CTX *ctx);
/* A connection's state, with neither side chosen yet. NULL without memory. */
struct tls *tls_make(struct tls_context *x);
/* The last entry of the calling thread's error queue, as text. */
const char *tls_reason(void);
/* Says in t->error why the client's side broke. */
void tls_client_explain(struct tls *t);

#endif
