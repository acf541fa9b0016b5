/* What a TLS client can make a connection say or do beside its data: key updates (TLS 1.3), renegotiations (TLS 1.2), without reading what comes of
 * it. On a ring that is this test; the client is OpenSSL's, and for what OpenSSL would not send, records sealed by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/handshakes.h"
#include "core/tls.h"
#include "tests/unit/core/ring_twin.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	RENEWALS = 8,
	PENDING_MAX = 128 << 10, /* conn_tls.c's */
	RECV = 16384,            /* bytes of one receipt */
	RECORD = 33, /* of a hello that asks to renegotiate, as short as it gets: header, nonce, 4 bytes, tag */
	ALERT = 31,  /* its answer */
};

static char pem[] = "/tmp/test_conn_tls.XXXXXX";
static struct tls_context *context;
static struct handshakes *pool; /* whose one thread is this test's */

static struct {
	struct shard s;
	struct shard_opts opts;
	struct conn *c;
	/* The session. */
	size_t got;
	unsigned closes;
	enum conn_reason reason;
	/* The client. */
	SSL_CTX *ctx;
	SSL *ssl;
	uint64_t seq;
	uint8_t key[16], iv[4];
} t;

/* ---- the session: takes the first bytes for TLS, and answers nothing ---- */

static void on_data(struct conn *c, const uint8_t *p, size_t n)
{
	if (!c->tls)
		assert_true(conn_start_tls(c, context));
	else
		t.got += n;
}

static void on_closed(struct conn *c)
{
	t.closes++;
	t.reason = (enum conn_reason)c->reason;
}

static bool attach(struct conn *c, void *ctx)
{
	static const struct conn_ops ops = {.data = on_data, .drain = conn_close, .closed = on_closed};
	c->ops = &ops;
	return true;
}

/* ---- events ---- */

static void event(uint64_t tag, int32_t res, uint16_t flags)
{
	ring_complete(&t.s, tag, res, flags);
}

static void turn(void)
{
	wheel_advance(&t.s.wheel, t.s.now_ns);
	do
		conn_handshakes_turn(&t.s);
	while (handshakes_turn(pool, 0));
	conn_flush_all(&t.s);
}

static void arrives(const uint8_t *p, size_t n)
{
	assert_true(ring.recv_armed);
	ring.delivered = p;
	event(ring.recv_tag, (int32_t)n, RING_EV_MORE | RING_EV_BUFFER);
	turn();
}

/* The client reads what was sent to it. */
static void reads(void)
{
	while (ring.sending) {
		BIO_write(SSL_get_rbio(t.ssl), ring.send_p, (int)ring.send_len);
		ring.sending = false;
		event(ring.send_tag, (int32_t)ring.send_len, 0);
		turn();
	}
}

/* What the client has to say arrives. */
static void says(void)
{
	uint8_t buf[RECV];
	for (int n; t.closes == 0 && (n = BIO_read(SSL_get_wbio(t.ssl), buf, sizeof buf)) > 0;)
		arrives(buf, (size_t)n);
}

static void end(void)
{
	if (t.closes == 0) {
		conn_abort(t.c, CONN_R_SHUTDOWN);
		turn();
	}
	while (ring.cancel_count)
		event(ring.cancels[--ring.cancel_count], 0, 0);
	if (ring.recv_armed) {
		ring.recv_armed = false;
		event(ring.recv_tag, -ECANCELED, 0);
	}
	if (ring.sending) {
		ring.sending = false;
		event(ring.send_tag, -ECANCELED, 0);
	}
	turn();
	while (handshakes_turn(pool, 0))
		;
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.s.conns.used, 0);
	assert_int_equal(t.s.wheel.armed, 0);
	assert_int_equal(t.s.pool.bytes_out, 0);
	slab_done(&t.s.conns);
	bufpool_done(&t.s.pool);
	SSL_free(t.ssl);
	SSL_CTX_free(t.ctx);
}

static void begin(int version, uint32_t renewals_max)
{
	memset(&t, 0, sizeof t);
	memset(&ring, 0, sizeof ring);
	t.opts = (struct shard_opts){.conns_max = 4,
				     .conn_queue_max = 256 << 10,
				     .stall_ns = 1000 * NS_PER_S,
				     .tls_renewals_max = renewals_max,
				     .attach = attach};
	t.s.opts = &t.opts;
	t.s.now_ns = 1000 * NS_PER_S;
	wheel_init(&t.s.wheel, t.s.now_ns, &t.s);
	bufpool_init(&t.s.pool);
	conn_handshakes_init(&t.s, pool);
	assert_int_equal(slab_init(&t.s.conns, sizeof(struct conn), 4), 0);
	t.c = conn_open(&t.s, open("/dev/null", O_RDWR | O_CLOEXEC));
	assert_non_null(t.c);
	t.ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_min_proto_version(t.ctx, version);
	SSL_CTX_set_max_proto_version(t.ctx, version);
	assert_int_equal(SSL_CTX_set_cipher_list(t.ctx, "ECDHE-ECDSA-AES128-GCM-SHA256"), 1);
	t.ssl = SSL_new(t.ctx);
	SSL_set_bio(t.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_connect_state(t.ssl);
	for (unsigned i = 0; i < 4 && !SSL_is_init_finished(t.ssl); i++) {
		SSL_do_handshake(t.ssl);
		says();
		reads();
	}
	SSL_do_handshake(t.ssl);
	assert_true(SSL_is_init_finished(t.ssl) && tls_is_ready(t.c->tls));
}

/* ---- records by hand: TLS 1.2, AES-128-GCM (RFC 5246, RFC 5288) ---- */

static void take_keys(void)
{
	uint8_t master[48], seed[64], block[2 * 16 + 2 * 4];
	OSSL_PARAM params[4];
	char digest[] = "SHA256", label[] = "key expansion";
	uint8_t all[sizeof label - 1 + sizeof seed];
	assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(t.ssl), master, sizeof master), 48);
	SSL_get_server_random(t.ssl, seed, 32);
	SSL_get_client_random(t.ssl, seed + 32, 32);
	memcpy(all, label, sizeof label - 1);
	memcpy(all + sizeof label - 1, seed, sizeof seed);
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
	EVP_KDF_CTX *k = EVP_KDF_CTX_new(kdf);
	params[0] = OSSL_PARAM_construct_utf8_string("digest", digest, 0);
	params[1] = OSSL_PARAM_construct_octet_string("secret", master, sizeof master);
	params[2] = OSSL_PARAM_construct_octet_string("seed", all, sizeof all);
	params[3] = OSSL_PARAM_construct_end();
	assert_int_equal(EVP_KDF_derive(k, block, sizeof block, params), 1);
	EVP_KDF_CTX_free(k);
	EVP_KDF_free(kdf);
	memcpy(t.key, block, 16);
	memcpy(t.iv, block + 32, 4);
	t.seq = 1; /* the client's Finished was the first */
}

/* A hello in the middle of the connection: "may we begin again?" */
static void seal_hello(uint8_t out[RECORD])
{
	static const uint8_t hello[4] = {1, 0, 0, 0};
	uint8_t nonce[12], aad[13];
	int n;
	memcpy(nonce, t.iv, 4);
	store_be64(nonce + 4, t.seq);
	store_be64(aad, t.seq++);
	memcpy(aad + 8, "\x16\x03\x03\x00\x04", 5);
	memcpy(out, "\x16\x03\x03\x00\x1c", 5);
	memcpy(out + 5, nonce + 4, 8);
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	assert_int_equal(EVP_EncryptInit_ex(x, EVP_aes_128_gcm(), NULL, t.key, nonce), 1);
	assert_int_equal(EVP_EncryptUpdate(x, NULL, &n, aad, sizeof aad), 1);
	assert_int_equal(EVP_EncryptUpdate(x, out + 13, &n, hello, sizeof hello), 1);
	assert_int_equal(EVP_EncryptFinal_ex(x, out + 17, &n), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(x, EVP_CTRL_GCM_GET_TAG, 16, out + 17), 1);
	EVP_CIPHER_CTX_free(x);
}

static void hellos(unsigned n)
{
	uint8_t buf[RECV];
	assert_true(n * RECORD <= sizeof buf);
	for (unsigned i = 0; i < n; i++)
		seal_hello(buf + (size_t)i * RECORD);
	arrives(buf, (size_t)n * RECORD);
}

static void key_updates(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(SSL_key_update(t.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		assert_int_equal(SSL_do_handshake(t.ssl), 1);
	}
	says();
}

/* ---- tests ---- */

/* An alert for each hello, and none of them is read: what waits is bounded, also where as many as they like are allowed. */
static void test_renegotiations_whose_answers_are_not_read_are_bounded(void **state)
{
	unsigned n = 0, most = RECV / RECORD;
	size_t highest = 0;
	begin(TLS1_2_VERSION, UINT32_MAX);
	take_keys();
	while (t.closes == 0) {
		hellos(most);
		n += most;
		if (t.closes == 0) {
			assert_true(ring.sending); /* the first answers, which are never taken */
			highest = tls_pending(t.c->tls) > highest ? tls_pending(t.c->tls) : highest;
		}
		assert_true(n < 100000);
	}
	assert_int_equal(t.reason, CONN_R_FLOOD);
	assert_in_range(highest, PENDING_MAX - most * ALERT, PENDING_MAX); /* it was this that ended it */
	end();
}

/* The same by a client that reads: nothing waits, and it is the count that ends it. */
static void test_renegotiations_are_counted(void **state)
{
	begin(TLS1_2_VERSION, RENEWALS);
	take_keys();
	for (unsigned i = 0; i < RENEWALS; i++) {
		hellos(1);
		assert_int_equal(t.closes, 0);
		assert_int_equal(ring.send_len, ALERT);
		reads();
	}
	hellos(1);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.reason, CONN_R_FLOOD);
	end();
}

static void test_a_client_that_may_goes_on_renegotiating_as_long_as_it_reads(void **state)
{
	begin(TLS1_2_VERSION, UINT32_MAX);
	take_keys();
	for (unsigned i = 0; i < 100; i++) {
		hellos(RECV / RECORD);
		reads();
		assert_int_equal(t.closes, 0);
		assert_int_equal(tls_pending(t.c->tls), 0);
	}
	end();
}

static void test_key_updates_are_counted(void **state)
{
	begin(TLS1_3_VERSION, RENEWALS);
	key_updates(RENEWALS);
	assert_int_equal(t.closes, 0);
	assert_int_equal(SSL_write(t.ssl, "x", 1), 1);
	says();
	assert_int_equal(t.got, 1);
	key_updates(1);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.reason, CONN_R_FLOOD);
	end();
}

/* All at once, in as few receipts as they fit into. */
static void test_a_flood_of_key_updates_ends_with_its_first_bytes(void **state)
{
	begin(TLS1_3_VERSION, RENEWALS);
	key_updates(2000);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.reason, CONN_R_FLOOD);
	end();
}

/* Now and then is no flood: the count is of 10 seconds. And each side goes on with its new keys. */
static void test_key_updates_now_and_then_are_none(void **state)
{
	char got[4];
	begin(TLS1_3_VERSION, RENEWALS);
	for (unsigned i = 0; i < 10; i++) {
		key_updates(RENEWALS);
		assert_int_equal(t.closes, 0);
		t.s.now_ns += 11 * NS_PER_S;
		if (i % 2)
			continue;
		conn_write(t.c, "pong", 4);
		turn();
		reads();
		assert_int_equal(SSL_read(t.ssl, got, sizeof got), 4);
		assert_int_equal(SSL_write(t.ssl, "x", 1), 1);
		says();
		assert_int_equal(t.got, i / 2 + 1);
	}
	end();
}

/* Each is answered with one of our own, which is not read either. */
static void test_key_updates_whose_answers_are_not_read_are_bounded(void **state)
{
	unsigned n = 0;
	size_t highest = 0;
	begin(TLS1_3_VERSION, UINT32_MAX);
	conn_write(t.c, "x", 1);
	turn();
	assert_true(ring.sending);
	while (t.closes == 0) {
		key_updates(100);
		n += 100;
		if (t.closes == 0)
			highest = tls_pending(t.c->tls) > highest ? tls_pending(t.c->tls) : highest;
		assert_true(n < 100000);
	}
	assert_int_equal(t.reason, CONN_R_FLOOD);
	assert_in_range(highest, PENDING_MAX - 100 * 40, PENDING_MAX);
	end();
}

/* ---- a certificate ---- */

static int make_certificate(void **state)
{
	const char *why;
	int fd = mkstemp(pem);
	FILE *f = fdopen(fd, "w");
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	assert_non_null(f);
	assert_true(key && x);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), 0);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const uint8_t *)"test", -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(x));
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	PEM_write_X509(f, x);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	fclose(f);
	X509_free(x);
	EVP_PKEY_free(key);
	log_level_now = LOG_LEVEL_ERROR;
	assert_int_equal(handshakes_new(1, 1, &pool), 0);
	return tls_context_new(&(struct tls_opts){.cert = pem, .key = pem}, &context, &why);
}

static int free_certificate(void **state)
{
	handshakes_free(pool);
	tls_context_put(context);
	return unlink(pem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_renegotiations_whose_answers_are_not_read_are_bounded),
		cmocka_unit_test(test_renegotiations_are_counted),
		cmocka_unit_test(test_a_client_that_may_goes_on_renegotiating_as_long_as_it_reads),
		cmocka_unit_test(test_key_updates_are_counted),
		cmocka_unit_test(test_a_flood_of_key_updates_ends_with_its_first_bytes),
		cmocka_unit_test(test_key_updates_now_and_then_are_none),
		cmocka_unit_test(test_key_updates_whose_answers_are_not_read_are_bounded),
	};
	return cmocka_run_group_tests(tests, make_certificate, free_certificate);
}
