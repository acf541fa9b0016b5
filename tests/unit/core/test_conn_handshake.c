/* TLS handshakes of connections, on a ring that is this test and with handshake threads that are
 * this test, too: what happens while a thread has a handshake, whose turn it is, and in which
 * order bytes come. The clients are OpenSSL's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/conn.h"
#include "core/handshakes.h"
#include "core/ring.h"
#include "core/shard.h"
#include "core/tls.h"
#include "tests/unit/core/tls_peer.h"

#include <errno.h>
#include <fcntl.h>

enum {
	ASKED_MAX = 2048, /* conn_handshake.c's */
	PEERS = ASKED_MAX + 16,
	BYTES = 4096
};

static char pem[] = "/tmp/test_conn_handshake.XXXXXX";
static struct tls_context *context;
static struct handshakes *pool; /* one thread */

/* A client, and what its connection has asked of the ring. */
struct peer {
	struct conn *c;
	SSL *ssl;
	bool recv_armed, sending, cancelled;
	const void *send_p;
	size_t send_len;
	uint8_t got[BYTES]; /* by the session */
	size_t got_len;
	unsigned closes;
	enum conn_reason reason;
};

static struct {
	struct shard s;
	struct shard_opts opts;
	SSL_CTX *ctx;
	struct peer peer[PEERS];
	const uint8_t *delivered;
	uint64_t cancels[8 * PEERS];
	unsigned cancel_count;
} t;

static struct peer *peer_of(uint64_t tag)
{
	return &t.peer[ring_tag_slot(tag)];
}

/* ---- the ring ---- */

void ring_recv(struct ring *r, int fd, uint64_t tag)
{
	assert_false(peer_of(tag)->recv_armed);
	peer_of(tag)->recv_armed = true;
}

void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag)
{
	struct peer *x = peer_of(tag);
	assert_false(x->sending);
	x->sending = true;
	x->send_p = p;
	x->send_len = n;
}

void ring_sendmsg(struct ring *r, int fd, const struct msghdr *m, uint64_t tag)
{
	fail();
}

void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag)
{
	assert_int_equal(ring_tag_kind(tag), SHARD_OP_CANCEL_RECV);
	peer_of(victim)->cancelled = true;
	t.cancels[t.cancel_count++] = tag;
}

void ring_cancel_fd(struct ring *r, int fd, uint64_t tag)
{
	peer_of(tag)->cancelled = true;
	t.cancels[t.cancel_count++] = tag;
}

uint8_t *ring_buf(const struct ring *r, uint16_t buf)
{
	return (uint8_t *)(uintptr_t)t.delivered;
}

void ring_buf_put(struct ring *r, uint16_t buf)
{
}

void shard_unsettle(struct shard *s, struct conn *c)
{
}

void shard_refuse(struct shard *s, int fd)
{
	fail();
}

static uint64_t tag_of(const struct peer *x, enum shard_op op)
{
	return ring_tag(x->c->slot, x->c->gen, (uint8_t)op);
}

static void received(struct peer *x, int32_t res, uint16_t flags)
{
	struct ring_event ev = {.tag = tag_of(x, SHARD_OP_RECV), .res = res, .flags = flags};
	assert_true(x->recv_armed);
	x->recv_armed = flags & RING_EV_MORE;
	conn_on_recv(x->c, &ev);
}

static void sent(struct peer *x, int32_t res)
{
	struct ring_event ev = {.tag = tag_of(x, SHARD_OP_SEND), .res = res};
	x->sending = false;
	conn_on_send(x->c, &ev);
}

/* What the kernel answers to cancellations. */
static void complete_cancels(void)
{
	while (t.cancel_count) {
		struct ring_event ev = {.tag = t.cancels[--t.cancel_count]};
		struct peer *x = peer_of(ev.tag);
		x->cancelled = false;
		if (x->recv_armed)
			received(x, -ECANCELED, 0);
		if (x->sending && ring_tag_kind(ev.tag) == SHARD_OP_CANCEL)
			sent(x, -ECANCELED);
		conn_on_cancel(x->c, &ev);
	}
}

/* ---- the session: what is not TLS it keeps ---- */

static void on_data(struct conn *c, const uint8_t *p, size_t n)
{
	struct peer *x = c->session;
	if (!c->tls) {
		assert_true(conn_start_tls(c, context));
		return;
	}
	assert_true(x->got_len + n <= BYTES);
	memcpy(x->got + x->got_len, p, n);
	x->got_len += n;
}

static void on_closed(struct conn *c)
{
	struct peer *x = c->session;
	x->closes++;
	x->reason = (enum conn_reason)c->reason;
}

static bool attach(struct conn *c, void *ctx)
{
	static const struct conn_ops ops = {.data = on_data, .drain = conn_close, .closed = on_closed};
	c->ops = &ops;
	c->session = &t.peer[c->slot];
	return true;
}

/* ---- turns ---- */

/* A turn of the shard, in which no handshake thread runs. */
static void turn(void)
{
	wheel_advance(&t.s.wheel, t.s.now_ns);
	conn_handshakes_turn(&t.s);
	conn_flush_all(&t.s);
}

/* One step of the handshake thread, and the shard's turn after it. false: it had nothing to do. */
static bool thread_works(void)
{
	bool did = handshakes_turn(pool, 0);
	turn();
	return did;
}

static void arrives(struct peer *x, const uint8_t *p, size_t n)
{
	t.delivered = p;
	received(x, (int32_t)n, RING_EV_MORE | RING_EV_BUFFER);
}

/* What the client has to say arrives, in pieces of `piece` bytes. */
static void says(struct peer *x, size_t piece)
{
	uint8_t buf[16384];
	for (int n; (n = BIO_read(SSL_get_wbio(x->ssl), buf, piece < sizeof buf ? (int)piece : (int)sizeof buf)) > 0;) {
		arrives(x, buf, (size_t)n);
		turn();
	}
}

/* The client reads what has been sent to it. */
static void reads(struct peer *x)
{
	while (x->sending) {
		BIO_write(SSL_get_rbio(x->ssl), x->send_p, (int)x->send_len);
		sent(x, (int32_t)x->send_len);
		turn();
	}
}

static struct peer *comes(const char *ip)
{
	struct conn *c = conn_open(&t.s, open("/dev/null", O_RDWR | O_CLOEXEC));
	assert_non_null(c);
	struct peer *x = c->session;
	*x = (struct peer){.c = c, .ssl = peer_client(t.ctx), .recv_armed = x->recv_armed};
	c->ip[0] = 0;
	c->ip[1] = (uint64_t)(uintptr_t)ip[0] << 56 | 0xffff0000; /* any byte of the address will do */
	return x;
}

static void shakes(struct peer *x)
{
	for (unsigned i = 0; i < 4 && !SSL_is_init_finished(x->ssl); i++) {
		SSL_do_handshake(x->ssl);
		says(x, SIZE_MAX);
		while (thread_works())
			;
		reads(x);
	}
	assert_true(SSL_is_init_finished(x->ssl));
	assert_true(tls_is_ready(x->c->tls));
}

static void goes(struct peer *x)
{
	if (x->closes == 0)
		conn_abort(x->c, CONN_R_SHUTDOWN);
	turn();
	complete_cancels();
	turn();
	while (thread_works()) /* it frees, too */
		;
	SSL_free(x->ssl);
	assert_int_equal(x->closes, 1);
}

static int begin(void **state)
{
	memset(&t, 0, sizeof t);
	t.opts = (struct shard_opts){.conns_max = PEERS,
				     .conn_queue_max = 256 << 10,
				     .stall_ns = 1000 * NS_PER_S,
				     .tls_renewals_max = 8,
				     .attach = attach};
	t.s.opts = &t.opts;
	t.s.now_ns = 1000 * NS_PER_S;
	wheel_init(&t.s.wheel, t.s.now_ns, &t.s);
	bufpool_init(&t.s.pool);
	conn_handshakes_init(&t.s, pool);
	t.ctx = SSL_CTX_new(TLS_client_method());
	return slab_init(&t.s.conns, sizeof(struct conn), PEERS);
}

static int end(void **state)
{
	while (thread_works())
		;
	assert_int_equal(t.s.conns.used, 0);
	assert_int_equal(t.s.wheel.armed, 0);
	assert_int_equal(t.s.pool.bytes_out, 0);
	assert_int_equal(t.s.stats.handshakes_waiting, 0);
	assert_int_equal(t.s.handshakes.asked, 0);
	for (unsigned i = 0; i < CONN_HANDSHAKE_BUCKETS; i++) /* else an address is blamed for what it has finished */
		assert_int_equal(t.s.handshakes.bucket[i].asked_count, 0);
	slab_done(&t.s.conns);
	bufpool_done(&t.s.pool);
	SSL_CTX_free(t.ctx);
	return 0;
}

/* ---- tests ---- */

static void test_a_handshake_held_the_shard(void **state)
{
	struct peer *a = comes("a"), *b;
	char answer[8];
	shakes(a);
	b = comes("b");
	SSL_do_handshake(b->ssl);
	says(b, SIZE_MAX); /* and no thread runs */
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(SSL_write(a->ssl, "question", 8), 8);
		says(a, SIZE_MAX);
		assert_int_equal(a->got_len, 8 * (i + 1));
		assert_true(conn_write(a->c, "answer", 6));
		turn();
		reads(a);
		assert_int_equal(SSL_read(a->ssl, answer, sizeof answer), 6);
	}
	assert_false(b->sending);
	shakes(b);
	assert_int_equal(t.s.stats.handshakes, 2);
	goes(a);
	goes(b);
}

static void test_the_first_request_comes_with_the_end_of_the_handshake(void **state)
{
	static const size_t pieces[] = {1, 7, 100, SIZE_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		struct peer *x = comes("a");
		SSL_do_handshake(x->ssl);
		says(x, pieces[i]);
		assert_true(thread_works());
		reads(x);
		assert_int_equal(SSL_do_handshake(x->ssl), 1);
		assert_int_equal(SSL_write(x->ssl, "first", 5), 5);
		assert_int_equal(SSL_write(x->ssl, "second", 6), 6);
		says(x, pieces[i]);
		while (thread_works())
			;
		assert_int_equal(x->got_len, 11);
		assert_memory_equal(x->got, "firstsecond", 11);
		goes(x);
	}
}

/* And more comes while the thread has the end of the handshake. */
static void test_bytes_that_come_while_the_thread_works_stay_in_order(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	assert_true(thread_works());
	reads(x);
	assert_int_equal(SSL_do_handshake(x->ssl), 1);
	assert_int_equal(SSL_write(x->ssl, "1", 1), 1);
	says(x, SIZE_MAX);
	assert_int_equal(x->c->handshake, CONN_HANDSHAKE_AWAY);
	for (int i = 2; i <= 9; i++) {
		char digit = (char)('0' + i);
		assert_int_equal(SSL_write(x->ssl, &digit, 1), 1);
		says(x, 5);
		assert_int_equal(x->got_len, 0);
	}
	while (thread_works())
		;
	assert_int_equal(x->got_len, 9);
	assert_memory_equal(x->got, "123456789", 9);
	goes(x);
}

/* More than may be held: the receive stops, and goes on afterwards. */
static void test_a_flood_while_the_thread_works_is_bounded(void **state)
{
	static uint8_t much[16384];
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	assert_int_equal(x->c->handshake, CONN_HANDSHAKE_AWAY);
	memset(much, 0x16, sizeof much);
	for (unsigned i = 0; i < 8 && !x->cancelled; i++)
		arrives(x, much, sizeof much);
	assert_true(x->cancelled);
	assert_true(x->c->held.len <= CONN_HELD_MAX + sizeof much);
	complete_cancels();
	turn();
	assert_false(x->recv_armed);
	while (thread_works())
		;
	assert_true(x->closes || !conn_is_open(x->c)); /* that was no TLS */
	goes(x);
}

static void test_a_connection_that_dies_while_the_thread_has_it_stays_until_it_comes_back(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	assert_int_equal(x->c->handshake, CONN_HANDSHAKE_AWAY);
	conn_abort(x->c, CONN_R_TIMEOUT);
	turn();
	complete_cancels();
	turn();
	assert_int_equal(x->closes, 1);
	assert_int_equal(t.s.conns.used, 1);
	assert_true(thread_works());
	assert_int_equal(t.s.conns.used, 0);
	SSL_free(x->ssl);
}

static void test_a_reset_while_the_thread_has_it(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	received(x, -ECONNRESET, 0);
	turn();
	complete_cancels();
	turn();
	assert_int_equal(t.s.conns.used, 1);
	assert_true(thread_works());
	assert_int_equal(t.s.conns.used, 0);
	assert_int_equal(x->reason, CONN_R_PEER);
	SSL_free(x->ssl);
}

/* It is told to close, as by a drain: it ends when the thread gives it back. */
static void test_a_connection_that_is_closed_while_the_thread_has_it(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	conn_drain(x->c);
	turn();
	assert_false(x->sending);
	assert_int_equal(x->closes, 0);
	assert_true(thread_works());
	reads(x);
	received(x, 0, 0);
	turn();
	assert_int_equal(x->closes, 1);
	assert_int_equal(t.s.conns.used, 0);
	SSL_free(x->ssl);
}

static void test_a_connection_that_is_closed_while_it_waits(void **state)
{
	struct peer *x[4];
	for (unsigned i = 0; i < 4; i++) {
		x[i] = comes("a");
		SSL_do_handshake(x[i]->ssl);
		says(x[i], SIZE_MAX);
	}
	assert_int_equal(t.s.stats.handshakes_waiting, 4 - HANDSHAKES_DEPTH);
	conn_drain(x[3]->c);
	turn();
	assert_int_equal(t.s.stats.handshakes_waiting, 3 - HANDSHAKES_DEPTH);
	assert_false(tls_has_begun(x[3]->c->tls));
	for (unsigned i = 0; i < 4; i++)
		goes(x[i]);
}

/* A client that has left before its turn costs nothing. */
static void test_the_hello_of_a_client_that_has_gone_was_answered(void **state)
{
	struct peer *x[4];
	for (unsigned i = 0; i < 4; i++) {
		x[i] = comes("a");
		SSL_do_handshake(x[i]->ssl);
		says(x[i], SIZE_MAX);
	}
	received(x[3], 0, 0);
	turn();
	assert_int_equal(x[3]->closes, 1);
	assert_int_equal(t.s.stats.handshakes_waiting, 3 - HANDSHAKES_DEPTH);
	for (unsigned i = 0; i < 4; i++)
		goes(x[i]);
}

static void test_the_end_of_the_input_behind_a_whole_handshake(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	assert_true(thread_works());
	reads(x);
	assert_int_equal(SSL_do_handshake(x->ssl), 1);
	assert_int_equal(SSL_write(x->ssl, "last", 4), 4);
	says(x, SIZE_MAX);
	received(x, 0, 0);
	turn();
	assert_int_equal(x->closes, 0);
	while (thread_works())
		;
	assert_memory_equal(x->got, "last", 4);
	reads(x);
	assert_int_equal(x->closes, 1);
	goes(x);
}

static void test_the_end_of_the_input_in_the_middle_of_a_handshake(void **state)
{
	for (unsigned away = 0; away < 2; away++) {
		struct peer *x = comes("a");
		SSL_do_handshake(x->ssl);
		says(x, SIZE_MAX);
		if (away)
			received(x, 0, 0); /* while the thread has it */
		while (thread_works())
			;
		if (!away)
			received(x, 0, 0);
		turn();
		reads(x);
		assert_int_equal(x->closes, 1);
		assert_int_equal(t.s.conns.used, 0);
		SSL_free(x->ssl);
	}
}

static void test_a_part_of_a_record_is_not_worth_a_step(void **state)
{
	uint8_t hello[4096];
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	int n = BIO_read(SSL_get_wbio(x->ssl), hello, sizeof hello);
	for (int i = 0; i < n; i++) {
		assert_int_equal(x->c->handshake, i == 0 ? CONN_HANDSHAKE_NONE : CONN_HANDSHAKE_IDLE);
		arrives(x, hello + i, 1);
		turn();
	}
	assert_int_equal(x->c->handshake, CONN_HANDSHAKE_AWAY);
	shakes(x);
	goes(x);
}

static void test_what_is_no_tls_is_refused(void **state)
{
	static const char *const texts[] = {"\x16GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff",
					    "\x16\x03\x01\x00\x04\x02\x00\x00\x00"};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct peer *x = comes("a");
		arrives(x, (const uint8_t *)texts[i], i == 2 ? 9 : strlen(texts[i]));
		turn();
		while (thread_works())
			;
		assert_false(conn_is_open(x->c));
		assert_int_equal(x->c->reason, CONN_R_PROTOCOL);
		goes(x);
	}
}

/* Ten of one address, and then one of another. */
static void test_a_crowd_from_one_address_made_everybody_wait(void **state)
{
	struct peer *crowd[10], *one;
	for (unsigned i = 0; i < 10; i++) {
		crowd[i] = comes("a");
		SSL_do_handshake(crowd[i]->ssl);
		says(crowd[i], SIZE_MAX);
	}
	one = comes("b");
	SSL_do_handshake(one->ssl);
	says(one, SIZE_MAX);
	unsigned steps = 0;
	while (!one->sending) {
		assert_true(thread_works());
		steps++;
	}
	assert_in_range(steps, 1, HANDSHAKES_DEPTH + 2);
	goes(one);
	for (unsigned i = 0; i < 10; i++)
		goes(crowd[i]);
}

/* Of one address, who has begun comes first, and otherwise the first. */
static void test_whose_turn_it_is_among_one_address(void **state)
{
	struct peer *x[6];
	for (unsigned i = 0; i < 6; i++) {
		x[i] = comes("a");
		SSL_do_handshake(x[i]->ssl);
		says(x[i], SIZE_MAX);
	}
	assert_true(thread_works());
	assert_true(x[0]->sending && !x[1]->sending);
	reads(x[0]);
	SSL_do_handshake(x[0]->ssl);
	says(x[0],
	     SIZE_MAX); /* its second step is before the others' first ones, but for those that are with the thread */
	for (unsigned i = 0; i < HANDSHAKES_DEPTH; i++)
		assert_true(thread_works());
	assert_false(tls_is_ready(x[0]->c->tls));
	assert_true(thread_works());
	assert_int_equal(x[0]->c->handshake, CONN_HANDSHAKE_NONE);
	assert_false(x[5]->sending);
	for (unsigned i = 0; i < 6; i++)
		goes(x[i]);
}

/* Two that answer, of an address each, and one address that begins handshakes without end. */
static void test_unanswered_handshakes_were_unbounded(void **state)
{
	struct peer *honest[2] = {comes("b"), comes("c")};
	unsigned ended = 0;
	for (unsigned i = 0; i < 2; i++) {
		SSL_do_handshake(honest[i]->ssl);
		says(honest[i], SIZE_MAX);
		while (thread_works())
			;
	}
	for (unsigned i = 0; i < ASKED_MAX + 10; i++) {
		struct peer *x = comes("a");
		SSL_do_handshake(x->ssl);
		says(x, SIZE_MAX);
		while (thread_works())
			;
		assert_int_equal(x->c->handshake, CONN_HANDSHAKE_ASKED);
	}
	assert_int_equal(t.s.handshakes.asked, ASKED_MAX);
	for (unsigned i = 0; i < PEERS; i++)
		ended += t.peer[i].closes == 1 && t.peer[i].reason == CONN_R_FLOOD;
	assert_int_equal(ended, 12);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(honest[i]->closes, 0);
		reads(honest[i]);
		shakes(honest[i]);
	}
	complete_cancels();
	turn();
	for (unsigned i = 0; i < PEERS; i++) {
		if (t.peer[i].c && t.peer[i].closes == 0)
			goes(&t.peer[i]);
		else if (t.peer[i].c)
			SSL_free(t.peer[i].ssl);
	}
}

/* When the first has waited for long, every other turn is the newest one's. */
static void test_of_too_many_all_were_served_too_late(void **state)
{
	struct peer *x[8];
	for (unsigned i = 0; i < 8; i++) {
		x[i] = comes("a");
		SSL_do_handshake(x[i]->ssl);
		says(x[i], SIZE_MAX);
	}
	t.s.now_ns += NS_PER_S;
	for (unsigned i = 0; i < HANDSHAKES_DEPTH + 2; i++)
		assert_true(thread_works());
	for (unsigned i = 0; i < HANDSHAKES_DEPTH; i++)
		assert_true(x[i]->sending); /* they were with the thread before */
	assert_true(x[7]->sending);
	assert_true(x[HANDSHAKES_DEPTH]->sending);
	assert_false(x[6]->sending || x[HANDSHAKES_DEPTH + 1]->sending);
	for (unsigned i = 0; i < 8; i++)
		goes(x[i]);
}

/* The doorbell of a shard that is about to sleep. */
static void test_a_shard_does_not_sleep_over_a_step_that_is_done(void **state)
{
	struct peer *x = comes("a");
	SSL_do_handshake(x->ssl);
	says(x, SIZE_MAX);
	assert_false(conn_handshakes_pending(&t.s));
	assert_true(handshakes_turn(pool, 0));
	assert_true(conn_handshakes_pending(&t.s));
	turn();
	assert_false(conn_handshakes_pending(&t.s));
	goes(x);
}

static int set_up(void **state)
{
	const char *why;
	log_level_now = LOG_LEVEL_ERROR;
	peer_make_server(pem);
	if (handshakes_new(1, 1, &pool))
		return -1;
	return tls_context_new(&(struct tls_opts){.cert = pem, .key = pem}, &context, &why);
}

static int tear_down(void **state)
{
	handshakes_free(pool);
	tls_context_put(context);
	return unlink(pem);
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_handshake_held_the_shard),
		T(test_the_first_request_comes_with_the_end_of_the_handshake),
		T(test_bytes_that_come_while_the_thread_works_stay_in_order),
		T(test_a_flood_while_the_thread_works_is_bounded),
		T(test_a_connection_that_dies_while_the_thread_has_it_stays_until_it_comes_back),
		T(test_a_reset_while_the_thread_has_it),
		T(test_a_connection_that_is_closed_while_the_thread_has_it),
		T(test_a_connection_that_is_closed_while_it_waits),
		T(test_the_hello_of_a_client_that_has_gone_was_answered),
		T(test_the_end_of_the_input_behind_a_whole_handshake),
		T(test_the_end_of_the_input_in_the_middle_of_a_handshake),
		T(test_a_part_of_a_record_is_not_worth_a_step),
		T(test_what_is_no_tls_is_refused),
		T(test_a_crowd_from_one_address_made_everybody_wait),
		T(test_whose_turn_it_is_among_one_address),
		T(test_of_too_many_all_were_served_too_late),
		T(test_unanswered_handshakes_were_unbounded),
		T(test_a_shard_does_not_sleep_over_a_step_that_is_done),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
