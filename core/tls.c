/* TLS over memory; see the header. A context is made on any thread and then only read; a connection's state belongs to its shard.
 *
 * OpenSSL's error queue is per thread: it is cleared before each call whose failure is looked at. */
#include "core/base/check.h"
#include "core/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RENEWALS_NS (10 * UINT64_C(1000000000)) /* the time of TLS_RENEWALS_MAX */

static _Thread_local char why[512];

const char *tls_reason(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *s = e ? ERR_reason_error_string(e) : NULL;
	return s ? s : "unknown error";
}

/* A file that cannot be read has the system's reason: the last of OpenSSL's says "system lib". */
static int fault(const char *option, const char *path)
{
	snprintf(why, sizeof why, "%s=\"%s\": %s", option, path, access(path, R_OK) ? strerror(errno) : tls_reason());
	return -EINVAL;
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
		       unsigned int inlen, void *arg)
{
	static const unsigned char h2[] = "\x02h2";
	if (SSL_select_next_proto((unsigned char **)(uintptr_t)out, outlen, h2, sizeof h2 - 1, in, inlen) ==
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_OK;
	return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301 section 3.2 */
}

static int load(SSL_CTX *ctx, const struct tls_opts *o)
{
	if (SSL_CTX_use_certificate_chain_file(ctx, o->cert) != 1)
		return fault("TLS_CERT", o->cert);
	if (SSL_CTX_use_PrivateKey_file(ctx, o->key, SSL_FILETYPE_PEM) != 1)
		return fault("TLS_KEY", o->key);
	if (SSL_CTX_check_private_key(ctx) != 1) {
		snprintf(why, sizeof why, "TLS_KEY=\"%s\" is not the key of TLS_CERT=\"%s\"", o->key, o->cert);
		return -EINVAL;
	}
	if (!o->client_ca || !*o->client_ca)
		return 0;
	STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(o->client_ca);
	if (!names || SSL_CTX_load_verify_locations(ctx, o->client_ca, NULL) != 1)
		return fault("TLS_CLIENT_CA", o->client_ca);
	SSL_CTX_set_client_CA_list(ctx, names);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

struct tls_context *tls_context_wrap(SSL_CTX *ctx)
{
	struct tls_context *x = calloc(1, sizeof *x);
	if (!x || !ctx) {
		free(x);
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_cipher_list(ctx, TLS_CIPHERS);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	x->ctx = ctx;
	atomic_init(&x->refs, 1);
	return x;
}

int tls_context_new(const struct tls_opts *opts, struct tls_context **ret, const char **ret_why)
{
	static const unsigned char session_id[] = "ordinal";
	*ret_why = why;
	ERR_clear_error();
	struct tls_context *x = tls_context_wrap(SSL_CTX_new(TLS_server_method()));
	if (!x) {
		snprintf(why, sizeof why, "no memory for TLS");
		return -ENOMEM;
	}
	SSL_CTX_set_options(x->ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_id_context(x->ctx, session_id, sizeof session_id - 1);
	SSL_CTX_set_alpn_select_cb(x->ctx, select_alpn, NULL);
	int rc = load(x->ctx, opts);
	if (rc) {
		tls_context_put(x);
		return rc;
	}
	*ret = x;
	return 0;
}

struct tls_context *tls_context_get(struct tls_context *x)
{
	atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
	return x;
}

void tls_context_put(struct tls_context *x)
{
	if (!x || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	SSL_CTX_free(x->ctx);
	free(x);
}

struct tls *tls_make(struct tls_context *x)
{
	struct tls *t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->ssl = SSL_new(x->ctx);
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	if (!t->ssl || !t->in || !t->out) {
		SSL_free(t->ssl);
		BIO_free(t->in);
		BIO_free(t->out);
		free(t);
		return NULL;
	}
	BIO_set_mem_eof_return(t->in, -1); /* empty is "not yet", not the end */
	BIO_set_mem_eof_return(t->out, -1);
	SSL_set_bio(t->ssl, t->in, t->out);
	t->context = tls_context_get(x);
	return t;
}

/* Called by OpenSSL for each message that it reads or writes. A renegotiation is known by its refusal. */
static void on_message(int is_written, int version, int type, const void *p, size_t n, SSL *ssl, void *arg)
{
	struct tls *t = arg;
	const uint8_t *b = p;
	if (is_written)
		t->asked += type == SSL3_RT_ALERT && n == 2 && b[1] == SSL_AD_NO_RENEGOTIATION;
	else
		t->asked += type == SSL3_RT_HANDSHAKE && n > 0 && b[0] == SSL3_MT_KEY_UPDATE;
}

struct tls *tls_new(struct tls_context *x)
{
	struct tls *t = tls_make(x);
	if (!t)
		return NULL;
	SSL_set_accept_state(t->ssl);
	SSL_set_msg_callback(t->ssl, on_message);
	SSL_set_msg_callback_arg(t->ssl, t);
	return t;
}

bool tls_is_calm(struct tls *t, uint64_t now_ns, uint32_t max)
{
	if (likely(t->asked == 0))
		return true;
	if (now_ns - t->renewals_ns > RENEWALS_NS) {
		t->renewals_ns = now_ns;
		t->renewals = 0;
	}
	t->renewals += t->asked;
	t->asked = 0;
	return t->renewals <= max;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	tls_context_put(t->context);
	free(t);
}

bool tls_feed(struct tls *t, const uint8_t *p, size_t n)
{
	return BIO_write(t->in, p, (int)n) == (int)n;
}

/* Keeps the reason in words; returns it as tls_read has it. */
static int set_error(struct tls *t)
{
	long verify = SSL_get_verify_result(t->ssl);
	if (t->is_client) {
		tls_client_explain(t);
		return -EPROTO;
	}
	if (verify != X509_V_OK) {
		snprintf(t->error, sizeof t->error, "the client's certificate was refused: %s",
			 X509_verify_cert_error_string(verify));
		return -EACCES;
	}
	snprintf(t->error, sizeof t->error, "TLS: %s", tls_reason());
	return ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ? -EACCES : -EPROTO;
}

static void finish_handshake(struct tls *t)
{
	t->ready = true;
	if (t->is_client)
		return;
	X509 *cert = SSL_get_peer_certificate(t->ssl);
	if (!cert)
		return;
	/* A name with an embedded NUL is nobody's. */
	int n = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, t->name, sizeof t->name);
	if (n < 0 || strlen(t->name) != (size_t)n)
		t->name[0] = 0;
	X509_free(cert);
}

int tls_handshake(struct tls *t)
{
	ERR_clear_error();
	int r = SSL_do_handshake(t->ssl);
	if (r == 1) {
		if (!t->ready)
			finish_handshake(t);
		return 0;
	}
	int e = SSL_get_error(t->ssl, r);
	if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
		return 0;
	return set_error(t);
}

int tls_read(struct tls *t, uint8_t *out, size_t cap)
{
	ERR_clear_error();
	int n = SSL_read(t->ssl, out, (int)cap);
	if (!t->ready && SSL_is_init_finished(t->ssl))
		finish_handshake(t);
	if (n > 0)
		return n;
	switch (SSL_get_error(t->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		return -EPIPE;
	default:
		return set_error(t);
	}
}

bool tls_write(struct tls *t, const uint8_t *p, size_t n)
{
	ERR_clear_error();
	while (n > 0) {
		int part = n < (1 << 20) ? (int)n : 1 << 20;
		if (SSL_write(t->ssl, p, part) != part) { /* a memory BIO takes all or fails */
			set_error(t);
			return false;
		}
		p += part;
		n -= (size_t)part;
	}
	return true;
}

size_t tls_pending(const struct tls *t)
{
	return BIO_ctrl_pending(t->out);
}

size_t tls_take(struct tls *t, uint8_t *out, size_t cap)
{
	int n = BIO_read(t->out, out, (int)cap);
	return n > 0 ? (size_t)n : 0;
}

bool tls_is_ready(const struct tls *t)
{
	return t->ready;
}

void tls_shutdown(struct tls *t)
{
	ERR_clear_error();
	if (t->ready)
		SSL_shutdown(t->ssl);
}

const char *tls_client_name(const struct tls *t)
{
	return t->name;
}

const char *tls_error(const struct tls *t)
{
	return t->error;
}
