/* What one handshake may cost the server, and what it says of a client that would have it cost
 * more; and what goes on to be served. The client is OpenSSL's, its bytes travel through memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/tls.h"
#include "tests/unit/core/tls_peer.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <stdlib.h>

enum { CHAIN = 12 };

static char server_pem[] = "/tmp/test_tls.XXXXXX", ca_pem[] = "/tmp/test_tls.XXXXXX";
static struct tls_context *context, *mutual; /* mutual: a client's certificate is asked for */
static EVP_PKEY *ca_key;
static X509 *ca;

/* One handshake of a client of `ctx`. 0, or what the server's step returned. Both ends stay for
 * `end`. */
static struct {
	struct tls *server;
	SSL *client;
	size_t answered; /* bytes that the server has said */
} t;

static int shake(struct tls_context *x, SSL_CTX *ctx, SSL_SESSION *session)
{
	uint8_t buf[16384];
	int rc = 0;
	t.server = tls_new(x);
	t.client = peer_client(ctx);
	t.answered = 0;
	if (session)
		assert_int_equal(SSL_set_session(t.client, session), 1);
	for (unsigned i = 0; i < 6 && rc == 0 && !(tls_is_ready(t.server) && SSL_is_init_finished(t.client)); i++) {
		SSL_do_handshake(t.client);
		for (int n; (n = BIO_read(SSL_get_wbio(t.client), buf, sizeof buf)) > 0;)
			assert_true(tls_feed(t.server, buf, (size_t)n));
		rc = tls_handshake(t.server);
		for (size_t n; (n = tls_take(t.server, buf, sizeof buf)) > 0; t.answered += n)
			BIO_write(SSL_get_rbio(t.client), buf, (int)n);
	}
	return rc;
}

static void end(void)
{
	tls_free(t.server);
	SSL_set_shutdown(t.client,
			 SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* or its session would not be resumable */
	SSL_free(t.client);
}

static SSL_CTX *client_of(int version)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_min_proto_version(ctx, version);
	SSL_CTX_set_max_proto_version(ctx, version);
	return ctx;
}

/* ---- the key exchange ---- */

static void test_clients_could_choose_the_costliest_groups(void **state)
{
	static const char *const costly[] = {"ffdhe8192", "ffdhe2048", "ffdhe4096:ffdhe6144", "X448"};
	for (size_t i = 0; i < ARRAY_SIZE(costly); i++) {
		SSL_CTX *ctx = client_of(TLS1_3_VERSION);
		assert_int_equal(SSL_CTX_set1_groups_list(ctx, costly[i]), 1);
		assert_int_equal(shake(context, ctx, NULL), -EPROTO);
		assert_int_equal(t.answered, 7); /* an alert, and no key share */
		assert_true(strlen(tls_error(t.server)) > 0);
		end();
		SSL_CTX_free(ctx);
	}
}

/* Offered first, with a share, beside one that is taken: the server asks for the other share. */
static void test_a_client_that_would_rather_have_a_costly_group_is_served(void **state)
{
	SSL_CTX *ctx = client_of(TLS1_3_VERSION);
	assert_int_equal(SSL_CTX_set1_groups_list(ctx, "ffdhe8192:P-256"), 1);
	assert_int_equal(shake(context, ctx, NULL), 0);
	assert_true(tls_is_ready(t.server));
	end();
	SSL_CTX_free(ctx);
}

static void test_groups_that_clients_have_are_served(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	static const char *const groups[] = {"X25519", "P-256", "P-384", "P-521"};
	for (size_t v = 0; v < ARRAY_SIZE(versions); v++) {
		for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
			SSL_CTX *ctx = client_of(versions[v]);
			char both[32]; /* TLS 1.2 needs the group of the server's certificate, too */
			snprintf(both, sizeof both, "%s%s", groups[i], strcmp(groups[i], "P-256") != 0 ? ":P-256" : "");
			assert_int_equal(
				SSL_CTX_set1_groups_list(ctx, versions[v] == TLS1_2_VERSION ? both : groups[i]), 1);
			assert_int_equal(shake(context, ctx, NULL), 0);
			assert_true(tls_is_ready(t.server));
			end();
			SSL_CTX_free(ctx);
		}
	}
}

/* ---- resumption ---- */

static SSL_SESSION *kept;

static int keep_session(SSL *ssl, SSL_SESSION *s)
{
	SSL_SESSION_free(kept);
	kept = s;
	return 1;
}

static void test_sessions_are_resumed(void **state)
{
	static const struct {
		int version;
		uint64_t options;
	} kinds[] = {{TLS1_2_VERSION, 0}, {TLS1_2_VERSION, SSL_OP_NO_TICKET}, {TLS1_3_VERSION, 0}};
	for (size_t v = 0; v < ARRAY_SIZE(kinds); v++) {
		SSL_CTX *ctx = client_of(kinds[v].version);
		uint8_t byte;
		SSL_CTX_set_options(ctx, kinds[v].options);
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT);
		SSL_CTX_sess_set_new_cb(ctx, keep_session);
		assert_int_equal(shake(context, ctx, NULL), 0);
		assert_false(SSL_session_reused(t.client));
		SSL_read(t.client, &byte, 1); /* the tickets */
		end();
		assert_non_null(kept);
		assert_int_equal(shake(context, ctx, kept), 0);
		assert_true(tls_is_ready(t.server));
		assert_true(SSL_session_reused(t.client));
		end();
		SSL_SESSION_free(kept);
		kept = NULL;
		SSL_CTX_free(ctx);
	}
}

/* ---- certificates of clients ---- */

/* An RSA key as long as asked for, in no time: its numbers are random, and it fits nothing. What
 * matters is what checking it would cost. */
static EVP_PKEY *fake_rsa(int bits)
{
	EVP_PKEY *key = NULL;
	BIGNUM *n = BN_new(), *e = BN_new(), *d = BN_new();
	OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
	assert_int_equal(BN_rand(n, bits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ODD), 1);
	assert_int_equal(BN_set_word(e, 65537), 1);
	assert_int_equal(BN_set_word(d, 65537), 1);
	assert_int_equal(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n), 1);
	assert_int_equal(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, e), 1);
	assert_int_equal(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_D, d), 1);
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	assert_int_equal(EVP_PKEY_fromdata_init(ctx), 1);
	assert_int_equal(EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params), 1);
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(b);
	BN_free(n);
	BN_free(e);
	BN_free(d);
	return key;
}

/* A client that shows this certificate. */
static SSL_CTX *client_with(X509 *x, EVP_PKEY *key, int version)
{
	SSL_CTX *ctx = client_of(version);
	assert_int_equal(SSL_CTX_use_certificate(ctx, x), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	return ctx;
}

static void test_a_clients_certificate_is_taken(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = peer_certificate(key, "alice", ca, ca_key, false);
	SSL_CTX *ctx = client_with(x, key, TLS1_3_VERSION);
	assert_int_equal(shake(mutual, ctx, NULL), 0);
	assert_true(tls_is_ready(t.server));
	assert_string_equal(tls_client_name(t.server), "alice");
	end();
	SSL_CTX_free(ctx);
	ctx = client_of(TLS1_3_VERSION);
	assert_int_equal(shake(mutual, ctx, NULL), -EACCES);
	end();
	SSL_CTX_free(ctx);
	X509_free(x);
	EVP_PKEY_free(key);
}

static void test_a_clients_key_of_16384_bits_was_checked(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	EVP_PKEY *key = fake_rsa(16384);
	X509 *x = peer_certificate(key, "mallory", ca, ca_key, false);
	for (size_t v = 0; v < ARRAY_SIZE(versions); v++) {
		SSL_CTX *ctx = client_with(x, key, versions[v]);
		assert_int_equal(shake(mutual, ctx, NULL), -EACCES);
		assert_non_null(strstr(tls_error(t.server), "a key larger than RSA-8192 or P-521"));
		end();
		SSL_CTX_free(ctx);
	}
	X509_free(x);
	EVP_PKEY_free(key);
}

/* The certificate itself is small, and one that it is said to hang by is not. */
static void test_a_costly_key_in_the_middle_of_a_chain(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *big = fake_rsa(16384);
	X509 *middle = peer_certificate(big, "middle", ca, ca_key, true),
	     *x = peer_certificate(key, "mallory", middle, ca_key, false);
	SSL_CTX *ctx = client_with(x, key, TLS1_3_VERSION);
	assert_int_equal(SSL_CTX_add1_chain_cert(ctx, middle), 1);
	assert_int_equal(shake(mutual, ctx, NULL), -EACCES);
	assert_non_null(strstr(tls_error(t.server), "a key larger than"));
	end();
	SSL_CTX_free(ctx);
	X509_free(x);
	X509_free(middle);
	EVP_PKEY_free(key);
	EVP_PKEY_free(big);
}

/* How a chain of n intermediate authorities between the client's certificate and the authority
 * ends. */
static int try_chain(unsigned n)
{
	EVP_PKEY *key[CHAIN + 1];
	X509 *x[CHAIN + 1];
	char name[16];
	for (unsigned i = 0; i <= n; i++) {
		key[i] = EVP_EC_gen("P-256");
		snprintf(name, sizeof name, "link %u", i);
		x[i] = peer_certificate(key[i], name, i ? x[i - 1] : ca, i ? key[i - 1] : ca_key, i < n);
	}
	SSL_CTX *ctx = client_with(x[n], key[n], TLS1_3_VERSION);
	for (unsigned i = n; i > 0; i--)
		assert_int_equal(SSL_CTX_add1_chain_cert(ctx, x[i - 1]), 1);
	int rc = shake(mutual, ctx, NULL);
	SSL_CTX_free(ctx);
	for (unsigned i = 0; i <= n; i++) {
		X509_free(x[i]);
		EVP_PKEY_free(key[i]);
	}
	return rc;
}

static void test_a_chain_that_is_long(void **state)
{
	assert_int_equal(try_chain(7), 0);
	assert_true(tls_is_ready(t.server));
	end();
	assert_int_equal(try_chain(8), -EACCES);
	assert_non_null(strstr(tls_error(t.server), "more than 8 certificates"));
	end();
}

/* More bytes than the whole chain may have: refused before anything of it is read. */
static void test_certificates_of_many_bytes(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *big = fake_rsa(16384);
	X509 *x = peer_certificate(key, "mallory", ca, ca_key, false),
	     *ballast = peer_certificate(big, "ballast", ca, ca_key, false);
	SSL_CTX *ctx = client_with(x, key, TLS1_3_VERSION);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(SSL_CTX_add1_chain_cert(ctx, ballast), 1);
	assert_int_equal(shake(mutual, ctx, NULL), -EPROTO);
	end();
	SSL_CTX_free(ctx);
	X509_free(x);
	X509_free(ballast);
	EVP_PKEY_free(key);
	EVP_PKEY_free(big);
}

/* ---- without a first step ---- */

static void test_what_waits_for_its_first_step_holds_no_state_of_openssls(void **state)
{
	uint8_t byte;
	t.server = tls_new(context);
	assert_false(tls_has_begun(t.server));
	assert_int_equal(tls_pending(t.server), 0);
	assert_int_equal(tls_take(t.server, &byte, 0), 0);
	tls_shutdown(t.server);
	tls_free(t.server);
	t.server = tls_new(context);
	assert_true(tls_feed(t.server, (const uint8_t *)"\x16", 1));
	assert_int_equal(tls_pending(t.server), 0);
	tls_free(t.server);
}

static int set_up(void **state)
{
	const char *why;
	ca_key = EVP_EC_gen("P-256");
	ca = peer_certificate(ca_key, "authority", NULL, NULL, true);
	peer_make_server(server_pem);
	peer_write(ca_pem, ca, NULL);
	struct tls_opts o = {.cert = server_pem, .key = server_pem};
	if (tls_context_new(&o, &context, &why))
		return -1;
	o.client_ca = ca_pem;
	return tls_context_new(&o, &mutual, &why);
}

static int tear_down(void **state)
{
	tls_context_put(context);
	tls_context_put(mutual);
	X509_free(ca);
	EVP_PKEY_free(ca_key);
	return unlink(server_pem) || unlink(ca_pem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clients_could_choose_the_costliest_groups),
		cmocka_unit_test(test_a_client_that_would_rather_have_a_costly_group_is_served),
		cmocka_unit_test(test_groups_that_clients_have_are_served),
		cmocka_unit_test(test_sessions_are_resumed),
		cmocka_unit_test(test_a_clients_certificate_is_taken),
		cmocka_unit_test(test_a_clients_key_of_16384_bits_was_checked),
		cmocka_unit_test(test_a_costly_key_in_the_middle_of_a_chain),
		cmocka_unit_test(test_a_chain_that_is_long),
		cmocka_unit_test(test_certificates_of_many_bytes),
		cmocka_unit_test(test_what_waits_for_its_first_step_holds_no_state_of_openssls),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
