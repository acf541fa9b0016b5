/* TLS on connections, below any session: a filter that turns received bytes into plaintext and output into records. OpenSSL does the protocol; bytes
 * travel through memory, because the ring owns the socket. Both sides: ordinald's connections, and those of rpc/client.
 *
 * A context (certificate, key, client CA) is shared by all shards and counted; connections keep the one they began with, so a reload touches only
 * new ones. TLS 1.2 and up, ALPN "h2" (and none, for native framing).
 * Source: ssl(7), BIO_s_mem(3); RFC 8446; RFC 7301; RFC 9113 section 9.2.
 */
#ifndef ORDINAL_CORE_TLS_H
#define ORDINAL_CORE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tls_context;
struct tls;

struct tls_opts {
	const char *cert, *key; /* PEM files; the certificate's may hold its chain */
	const char *
		client_ca; /* PEM file: clients must show a certificate that it signed; NULL or "": none is asked for */
};

/* Loads and checks the files. 0; -EINVAL with a sentence in ret_why (valid until the calling thread's next call) that names file and fault. Any thread. */
int tls_context_new(const struct tls_opts *opts, struct tls_context **ret, const char **ret_why);
struct tls_context *tls_context_get(struct tls_context *x);
void tls_context_put(struct tls_context *x);

struct tls_client_opts {
	const char
		*ca; /* PEM file: the server must show a certificate that it signed; NULL or "": those of the system */
	const char *cert, *key; /* PEM files, for a server that asks for them (mutual TLS); both or neither */
};
/* A client's context. As tls_context_new, with a sentence that names the file. */
int tls_client_context_new(const struct tls_client_opts *opts, struct tls_context **ret, const char **ret_why);

/* One connection's state, a server's. NULL without memory. Owner thread only, as all below: a
 * handshake thread as long as it has it (handshakes.h), else the connection's shard. */
struct tls *tls_new(struct tls_context *x);
/* The first step of the handshake has been taken. */
bool tls_has_begun(const struct tls *t);
#define TLS_NAME_MAX 253 /* bytes of a host name, RFC 1035 section 2.3.4 */
/* The client's side: the server's certificate must be for `name`, a host name (which is also sent, as SNI) or an IP address; copied. `h2`: offers HTTP/2
 * by ALPN, else nothing. NULL: without memory, or `name` cannot be one. tls_handshake makes the first record. */
struct tls *tls_client_new(struct tls_context *x, const char *name, bool h2);
void tls_free(struct tls *t);

/* Gives received bytes. Afterwards tls_read yields what they decrypt to, and tls_take what must be sent (handshake, alerts). false: no memory. */
bool tls_feed(struct tls *t, const uint8_t *p, size_t n);
/* Goes on with the handshake, and reads nothing of what follows it. 0: see tls_is_ready; -ENOMEM;
 * -EPROTO, -EACCES as below. */
int tls_handshake(struct tls *t);
/* Up to cap bytes of plaintext (a client's goes on with the handshake first; a server's must be
 * over); 0: none now; -EPIPE: the peer has closed in order; -EPROTO: broken or refused; -EACCES:
 * on a server, no certificate of the client's, or one that is not taken. See tls_error. */
int tls_read(struct tls *t, uint8_t *out, size_t cap);
/* Whether the peer has asked for new keys no more than `max` times in 10 seconds: key updates (TLS 1.3), and renegotiations (TLS 1.2), which are
 * refused with an alert each. Servers; `now_ns` is monotonic. */
bool tls_is_calm(struct tls *t, uint64_t now_ns, uint32_t max);
/* Encrypts. false: broken. Only once tls_is_ready. */
bool tls_write(struct tls *t, const uint8_t *p, size_t n);
/* Bytes of records that wait to be sent, and taking them. */
size_t tls_pending(const struct tls *t);
size_t tls_take(struct tls *t, uint8_t *out, size_t cap);
/* The handshake is over. */
bool tls_is_ready(const struct tls *t);
/* Says goodbye: close_notify joins the pending records. */
void tls_shutdown(struct tls *t);

/* The server took HTTP/2. Once tls_is_ready. */
bool tls_has_h2(const struct tls *t);

/* The subject's common name of the client's verified certificate; "" without one. Valid as long as t. */
const char *tls_client_name(const struct tls *t);
/* Why it broke, for the log or for whoever called. */
const char *tls_error(const struct tls *t);

#endif
