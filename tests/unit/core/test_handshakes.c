/* The handshake threads themselves: many shards, of which this test plays each with a thread of
 * its own, and handshakes that are given up in the middle. For ThreadSanitizer above all. And a
 * thread that is stuck. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/doorbell.h"
#include "core/base/log.h"
#include "core/handshakes.h"
#include "core/tls.h"
#include "tests/unit/core/tls_peer.h"

#include <pthread.h>
#include <sched.h>

enum { SHARDS = 3, THREADS = 2, HANDSHAKES = 40 };

static char pem[] = "/tmp/test_handshakes.XXXXXX";
static struct tls_context *context;
static struct handshakes *pool;

struct player {
	unsigned shard;
	struct doorbell bell;
	pthread_t thread;
	SSL_CTX *ctx;
	unsigned finished, given_up;
	const char *fault;
};

/* What the client has to say goes to the server. */
static bool client_speaks(SSL *client, struct tls *server)
{
	uint8_t buf[8192];
	bool said = false;
	SSL_do_handshake(client);
	for (int n; (n = BIO_read(SSL_get_wbio(client), buf, sizeof buf)) > 0; said = true)
		tls_feed(server, buf, (size_t)n);
	return said;
}

static void server_speaks(struct tls *server, SSL *client)
{
	uint8_t buf[8192];
	for (size_t n; (n = tls_take(server, buf, sizeof buf)) > 0;)
		BIO_write(SSL_get_rbio(client), buf, (int)n);
}

static void await(struct player *p, struct handshakes_done *ret)
{
	while (!handshakes_take(pool, p->shard, ret)) {
		doorbell_arm(&p->bell);
		if (handshakes_is_done(pool, p->shard))
			doorbell_disarm(&p->bell);
		else
			doorbell_wait(&p->bell, UINT64_MAX);
	}
}

/* As many handshakes at a time as there is room for. */
static void *play(void *arg)
{
	struct player *p = arg;
	struct handshakes_done d;
	SSL *client[HANDSHAKES];
	unsigned begun = 0, away = 0;
	while (p->finished + p->given_up < HANDSHAKES) {
		while (begun < HANDSHAKES && handshakes_has_room(pool, p->shard)) {
			struct tls *t = tls_new(context);
			client[begun] = peer_client(p->ctx);
			client_speaks(client[begun], t);
			handshakes_post(pool, p->shard, t, begun++);
			away++;
		}
		await(p, &d);
		away--;
		if (d.result) {
			p->fault = tls_error(d.tls);
			return NULL;
		}
		server_speaks(d.tls, client[d.tag]);
		if (d.tag % 3 == 2 && !tls_is_ready(d.tls)) { /* this one goes away */
			handshakes_discard(pool, p->shard, d.tls);
			SSL_free(client[d.tag]);
			p->given_up++;
		} else if (tls_is_ready(d.tls)) {
			handshakes_discard(pool, p->shard, d.tls);
			SSL_free(client[d.tag]);
			p->finished++;
		} else {
			client_speaks(client[d.tag], d.tls);
			while (!handshakes_has_room(pool, p->shard))
				sched_yield(); /* not reached: this one has just made room */
			handshakes_post(pool, p->shard, d.tls, d.tag);
			away++;
		}
	}
	p->fault = away ? "more came than went" : NULL;
	return NULL;
}

static void test_many_shards_at_once(void **state)
{
	struct player p[SHARDS] = {0};
	assert_int_equal(handshakes_new(THREADS, SHARDS, &pool), 0);
	assert_int_equal(handshakes_start(pool), 0);
	for (unsigned i = 0; i < SHARDS; i++) {
		p[i].shard = i;
		p[i].ctx = SSL_CTX_new(TLS_client_method());
		assert_int_equal(doorbell_init(&p[i].bell), 0);
		handshakes_join(pool, i, &p[i].bell);
		assert_int_equal(pthread_create(&p[i].thread, NULL, play, &p[i]), 0);
	}
	for (unsigned i = 0; i < SHARDS; i++) {
		assert_int_equal(pthread_join(p[i].thread, NULL), 0);
		assert_null(p[i].fault);
		assert_int_equal(p[i].given_up, HANDSHAKES / 3);
		assert_int_equal(p[i].finished, HANDSHAKES - HANDSHAKES / 3);
		SSL_CTX_free(p[i].ctx);
	}
	handshakes_stop(pool);
	handshakes_free(pool);
	for (unsigned i = 0; i < SHARDS; i++)
		doorbell_done(&p[i].bell);
}

/* Stopped with steps that are posted, done and not taken, and with structs to free. */
static void test_what_is_left_is_freed(void **state)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	assert_int_equal(handshakes_new(1, 2, &pool), 0);
	for (unsigned i = 0; i < 2 * HANDSHAKES_DEPTH; i++) {
		struct tls *t = tls_new(context);
		SSL *client = peer_client(ctx);
		client_speaks(client, t);
		SSL_free(client);
		assert_true(handshakes_has_room(pool, i % 2));
		handshakes_post(pool, i % 2, t, i);
	}
	assert_false(handshakes_has_room(pool, 0));
	assert_true(handshakes_turn(pool, 0));
	assert_true(handshakes_is_done(pool, 0));
	handshakes_discard(pool, 1, tls_new(context));
	handshakes_free(pool);
	SSL_CTX_free(ctx);
}

/* However many are to be freed while no thread runs, steps have their room. */
static void test_room_for_steps_whatever_is_to_be_freed(void **state)
{
	struct handshakes_done d;
	assert_int_equal(handshakes_new(2, 1, &pool), 0);
	for (unsigned i = 0; i < 1000; i++)
		handshakes_discard(pool, 0, tls_new(context));
	for (unsigned i = 0; i < 2 * HANDSHAKES_DEPTH; i++) {
		assert_true(handshakes_has_room(pool, 0));
		handshakes_post(pool, 0, tls_new(context), i);
	}
	assert_false(handshakes_has_room(pool, 0));
	for (unsigned i = 0; i < 2; i++) {
		while (handshakes_turn(pool, i))
			;
	}
	for (unsigned i = 0; i < 2 * HANDSHAKES_DEPTH; i++) {
		assert_true(handshakes_take(pool, 0, &d));
		assert_int_equal(d.result, 0); /* nothing had come yet */
		tls_free(d.tls);
	}
	assert_false(handshakes_take(pool, 0, &d));
	handshakes_free(pool);
}

/* Each shard's steps in turn, and not all of one shard's first. */
static void test_shards_take_turns(void **state)
{
	assert_int_equal(handshakes_new(1, 3, &pool), 0);
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned k = 0; k < HANDSHAKES_DEPTH; k++)
			handshakes_post(pool, i, tls_new(context), k);
	}
	for (unsigned k = 0; k < HANDSHAKES_DEPTH; k++) {
		struct handshakes_done d;
		for (unsigned i = 0; i < 3; i++)
			assert_true(handshakes_turn(pool, 0));
		for (unsigned i = 0; i < 3; i++) {
			assert_true(handshakes_take(pool, i, &d));
			assert_int_equal(d.tag, k);
			tls_free(d.tls);
		}
	}
	assert_false(handshakes_turn(pool, 0));
	handshakes_free(pool);
}

static int set_up(void **state)
{
	const char *why;
	log_level_now = LOG_LEVEL_ERROR;
	peer_make_server(pem);
	return tls_context_new(&(struct tls_opts){.cert = pem, .key = pem}, &context, &why);
}

static int tear_down(void **state)
{
	tls_context_put(context);
	return unlink(pem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_shards_at_once),
		cmocka_unit_test(test_what_is_left_is_freed),
		cmocka_unit_test(test_room_for_steps_whatever_is_to_be_freed),
		cmocka_unit_test(test_shards_take_turns),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
