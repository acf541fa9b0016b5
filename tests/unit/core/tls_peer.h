/* The other side of TLS for unit tests: certificates made on the spot, and a client of OpenSSL's
 * whose bytes travel through memory. */
#ifndef ORDINAL_TESTS_UNIT_CORE_TLS_PEER_H
#define ORDINAL_TESTS_UNIT_CORE_TLS_PEER_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A certificate of `key` for the name `cn`, signed by `issuer` with `issuer_key`; NULL: by
 * itself. An authority may sign others. */
static inline X509 *peer_certificate(EVP_PKEY *key, const char *cn, X509 *issuer, EVP_PKEY *issuer_key, bool authority)
{
	static long serial;
	X509 *x = X509_new();
	assert_non_null(x);
	assert_int_equal(X509_set_version(x, X509_VERSION_3), 1);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -3600);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const uint8_t *)cn, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
	if (authority) {
		X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
		assert_non_null(e);
		assert_int_equal(X509_add_ext(x, e, -1), 1);
		X509_EXTENSION_free(e);
	}
	assert_true(X509_sign(x, issuer ? issuer_key : key, EVP_sha256()) > 0);
	return x;
}

/* A PEM file at `path`, which mkstemp fills in. */
static inline void peer_write(char *path, X509 *x, EVP_PKEY *key)
{
	FILE *f = fdopen(mkstemp(path), "w");
	assert_non_null(f);
	PEM_write_X509(f, x);
	if (key)
		PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	assert_int_equal(fclose(f), 0);
}

/* A server's certificate and key, in one file. */
static inline void peer_make_server(char *path)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = peer_certificate(key, "localhost", NULL, NULL, false);
	peer_write(path, x, key);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* A client that trusts everybody. */
static inline SSL *peer_client(SSL_CTX *ctx)
{
	SSL *ssl = SSL_new(ctx);
	assert_non_null(ssl);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_connect_state(ssl);
	return ssl;
}

#endif
