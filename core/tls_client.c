/* The client's side of TLS: whom to trust, which name the server's certificate must bear, and sentences for what may go wrong. The bytes
 * travel as in tls.c. A context is made on any thread and then only read.
 *
 * Verification is never optional: a connection of a context whose authorities do not vouch for the server, for this name and today, breaks in the
 * handshake. */
#include "core/tls_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Thread_local char why[512];

static int fault(const char *what, const char *path)
{
	snprintf(why, sizeof why, "%s %s: %s", what, path, access(path, R_OK) ? strerror(errno) : tls_reason());
	return -EINVAL;
}

static bool is_given(const char *path)
{
	return path && *path;
}

static int load(SSL_CTX *ctx, const struct tls_client_opts *o)
{
	if (is_given(o->ca)) {
		if (SSL_CTX_load_verify_file(ctx, o->ca) != 1)
			return fault("CA file", o->ca);
	} else if (SSL_CTX_set_default_verify_paths(ctx) != 1) {
		snprintf(why, sizeof why, "the system's CA certificates: %s", tls_reason());
		return -EINVAL;
	}
	if (!is_given(o->cert) && !is_given(o->key))
		return 0;
	if (!is_given(o->cert) || !is_given(o->key)) {
		snprintf(why, sizeof why, "a client certificate needs its key, and a key its certificate");
		return -EINVAL;
	}
	if (SSL_CTX_use_certificate_chain_file(ctx, o->cert) != 1)
		return fault("certificate", o->cert);
	if (SSL_CTX_use_PrivateKey_file(ctx, o->key, SSL_FILETYPE_PEM) == 1)
		return 0;
	if (ERR_GET_REASON(ERR_peek_last_error()) != X509_R_KEY_VALUES_MISMATCH)
		return fault("key", o->key);
	snprintf(why, sizeof why, "%s is not the key of %s", o->key, o->cert);
	return -EINVAL;
}

int tls_client_context_new(const struct tls_client_opts *opts, struct tls_context **ret, const char **ret_why)
{
	*ret_why = why;
	ERR_clear_error();
	struct tls_context *x = tls_context_wrap(SSL_CTX_new(TLS_client_method()));
	if (!x) {
		snprintf(why, sizeof why, "no memory for TLS");
		return -ENOMEM;
	}
	SSL_CTX_set_verify(x->ctx, SSL_VERIFY_PEER, NULL);
	int rc = load(x->ctx, opts);
	if (rc) {
		tls_context_put(x);
		return rc;
	}
	*ret = x;
	return 0;
}

/* An address must stand in the certificate as one (RFC 6125 section 1.7.2), and is no name to ask for (RFC 6066 section 3). */
static bool set_name(SSL *ssl, const char *name)
{
	struct in6_addr any;
	if (inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct tls *tls_client_new(struct tls_context *x, const char *name, bool h2)
{
	static const unsigned char offer[] = "\x02h2";
	struct tls *t = tls_make(x);
	if (!t)
		return NULL;
	t->is_client = true;
	if (!tls_make_ssl(t)) {
		tls_free(t);
		return NULL;
	}
	snprintf(t->name, sizeof t->name, "%s", name);
	if (!*name || !set_name(t->ssl, name) || (h2 && SSL_set_alpn_protos(t->ssl, offer, sizeof offer - 1) != 0)) {
		tls_free(t);
		return NULL;
	}
	SSL_set_connect_state(t->ssl);
	return t;
}

bool tls_has_h2(const struct tls *t)
{
	const unsigned char *p;
	unsigned n;
	SSL_get0_alpn_selected(t->ssl, &p, &n);
	return n == 2 && memcmp(p, "h2", 2) == 0;
}

/* Whether an alert of this number is about the certificate that we showed, or did not (RFC 8446 section 6). */
static bool is_about_certificate(int alert)
{
	return (alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN) || alert == SSL_AD_UNKNOWN_CA ||
	       alert == SSL_AD_ACCESS_DENIED || alert == TLS13_AD_CERTIFICATE_REQUIRED;
}

void tls_client_explain(struct tls *t)
{
	long verify = SSL_get_verify_result(t->ssl);
	int reason = ERR_GET_REASON(ERR_peek_last_error()), alert = reason - SSL_AD_REASON_OFFSET;
	if (verify == X509_V_ERR_HOSTNAME_MISMATCH || verify == X509_V_ERR_IP_ADDRESS_MISMATCH)
		snprintf(t->error, sizeof t->error, "the server's certificate is not for %s", t->name);
	else if (verify != X509_V_OK)
		snprintf(t->error, sizeof t->error, "the server's certificate was refused: %s",
			 X509_verify_cert_error_string(verify));
	else if (is_about_certificate(alert) && SSL_get_certificate(t->ssl))
		snprintf(t->error, sizeof t->error, "the server refused the client's certificate: %s", tls_reason());
	else if (is_about_certificate(alert))
		snprintf(t->error, sizeof t->error, "the server asks for a client's certificate: %s", tls_reason());
	else if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_PACKET_LENGTH_TOO_LONG)
		snprintf(t->error, sizeof t->error, "the server does not speak TLS");
	else
		snprintf(t->error, sizeof t->error, "TLS: %s", tls_reason());
}
