/* TLS over memory; see the header. A context is made on any thread and then only read; a
 * connection's state belongs to its shard, or to a handshake thread as long as that thread has it.
 *
 * What one handshake may cost is bounded: only groups of TLS_GROUPS for the key exchange; of a
 * client, certificates of CLIENT_CERTS_BYTES together, CLIENT_CERTS of them, with keys of
 * CLIENT_RSA_BITS at most. The server's own key is the operator's choice.
 *
 * OpenSSL's error queue is per thread: it is cleared before each call whose failure is looked
 * at. */
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

enum {
	CLIENT_CERTS_BYTES = 32 << 10,
	CLIENT_CERTS = 8, /* fixed, like the next: authorities' chains have 2 to 4 */
	CLIENT_RSA_BITS = 8192,
	CLIENT_EC_BITS = 521, /* P-521 */
	SESSIONS = 1024, /* of clients of TLS 1.2 that take no tickets: the others' sessions are kept by themselves */
};

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

static bool is_costly(X509 *x)
{
	EVP_PKEY *key = X509_get0_pubkey(x);
	return key &&
	       EVP_PKEY_get_bits(key) > (EVP_PKEY_get_base_id(key) == EVP_PKEY_EC ? CLIENT_EC_BITS : CLIENT_RSA_BITS);
}

/* In place of OpenSSL's check of a client's chain: looks at its size before a signature is
 * checked. */
static int verify_client(X509_STORE_CTX *store, void *arg)
{
	STACK_OF(X509) *shown = X509_STORE_CTX_get0_untrusted(store);
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *t = SSL_get_app_data(ssl);
	const char *what = sk_X509_num(shown) > CLIENT_CERTS ? "more than 8 certificates" : NULL;
	for (int i = 0; !what && i < sk_X509_num(shown); i++) {
		if (is_costly(sk_X509_value(shown, i)))
			what = "a key larger than RSA-8192 or P-521";
	}
	if (!what)
		return X509_verify_cert(store);
	t->costly = what;
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
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
	SSL_CTX_set_cert_verify_callback(ctx, verify_client, NULL);
	SSL_CTX_set_max_cert_list(ctx, CLIENT_CERTS_BYTES);
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
	if (SSL_CTX_set1_groups_list(ctx, TLS_GROUPS_NEW) != 1)
		CHECK(SSL_CTX_set1_groups_list(ctx, TLS_GROUPS) == 1);
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
	SSL_CTX_sess_set_cache_size(x->ctx, SESSIONS);
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
	if (t)
		t->context = tls_context_get(x);
	return t;
}

static bool make_bios(struct tls *t)
{
	if (t->in)
		return true;
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	if (!t->in || !t->out) {
		BIO_free(t->in);
		BIO_free(t->out);
		t->in = t->out = NULL;
		return false;
	}
	BIO_set_mem_eof_return(t->in, -1); /* empty is "not yet", not the end */
	BIO_set_mem_eof_return(t->out, -1);
	return true;
}

bool tls_make_ssl(struct tls *t)
{
	if (!make_bios(t))
		return false;
	SSL *ssl = SSL_new(t->context->ctx);
	if (!ssl)
		return false;
	SSL_set_bio(ssl, t->in, t->out);
	SSL_set_app_data(ssl, t);
	t->ssl = ssl;
	return true;
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
	return tls_make(x);
}

bool tls_has_begun(const struct tls *t)
{
	return t->ssl != NULL;
}

/* The first step of a server's handshake. */
static bool begin(struct tls *t)
{
	if (!tls_make_ssl(t))
		return false;
	SSL_set_accept_state(t->ssl);
	SSL_set_msg_callback(t->ssl, on_message);
	SSL_set_msg_callback_arg(t->ssl, t);
	return true;
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
	if (t->ssl) {
		/* Or SSL_free takes the session out of the context's cache, under a lock. */
		SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
		SSL_free(t->ssl);
	} else {
		BIO_free(t->in);
		BIO_free(t->out);
	}
	tls_context_put(t->context);
	free(t);
}

bool tls_feed(struct tls *t, const uint8_t *p, size_t n)
{
	return make_bios(t) && (n == 0 || BIO_write(t->in, p, (int)n) == (int)n);
}

/* Keeps the reason in words; returns it as tls_read has it. */
static int set_error(struct tls *t)
{
	long verify = SSL_get_verify_result(t->ssl);
	if (t->is_client) {
		tls_client_explain(t);
		return -EPROTO;
	}
	if (t->costly) {
		snprintf(t->error, sizeof t->error, "the client's certificate was refused: %s", t->costly);
		return -EACCES;
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
	if (!t->ssl && !begin(t))
		return -ENOMEM;
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
	CHECK(t->ready || t->is_client); /* a server's handshake is the handshake threads' */
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
	return t->out ? BIO_ctrl_pending(t->out) : 0;
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
