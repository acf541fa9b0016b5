/* A channel over TLS whose server is this test, which speaks none: what must not be waited for or believed. Handshakes that go well, and certificates of
 * all kinds: tests/e2e/test_tool_tls.py. */
#include "tests/unit/rpc/client/harness.h"

#include "core/tls.h"

static struct tls_context *context(void)
{
	struct tls_context *x;
	const char *why;
	assert_int_equal(tls_client_context_new(&(struct tls_client_opts){0}, &x, &why), 0);
	return x;
}

static void begin(struct harness *h, enum channel_protocol protocol)
{
	struct tls_context *x = context();
	uint8_t record[5];
	harness_begin(h,
		      &(struct channel_opts){.protocol = protocol, .tls = x, .tls_name = "example", .token = "secret"});
	tls_context_put(x); /* the channel has its own */
	peer_read(h, record, sizeof record);
	assert_int_equal(record[0], 0x16); /* a handshake, and nothing before it */
}

static void expect_end(struct harness *h, int err, const char *why)
{
	harness_until(h, &h->closed, 1);
	assert_int_equal(h->opened, 0);
	assert_int_equal(h->err, err);
	assert_string_equal(h->why, why);
	harness_end(h);
}

static void test_a_server_that_answers_in_cleartext_is_told_apart(void **state)
{
	static const char *const answers[] = {"HTTP/1.1 400 Bad Request\r\n\r\n",
					      "\x81\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0 and more",
					      "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"};
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		struct harness h;
		begin(&h, i == 1 ? CHANNEL_NATIVE : CHANNEL_GRPC);
		peer_write(&h, answers[i], 15);
		expect_end(&h, -EKEYREJECTED, "the server does not speak TLS");
	}
}

static void test_nothing_but_the_handshake_leaves_before_its_end(void **state)
{
	struct harness h;
	uint8_t rest[4096];
	begin(&h, CHANNEL_GRPC);
	for (int i = 0; i < 3; i++)
		harness_turn(&h);
	ssize_t n = read(h.peer, rest, sizeof rest);
	assert_true(n > 0);
	assert_null(memmem(rest, (size_t)n, "PRI *", 5));
	assert_null(memmem(rest, (size_t)n, "secret", 6));
	peer_expect_silence(&h);
	harness_end(&h);
}

static void test_an_end_within_the_handshake_says_so(void **state)
{
	struct harness h;
	begin(&h, CHANNEL_NATIVE);
	shutdown(h.peer, SHUT_WR);
	expect_end(&h, -ECONNRESET, "the server closed the connection in the TLS handshake (it may not speak TLS)");
}

/* A ServerHello that never ends: the time for connecting is the bound. */
static void test_a_handshake_that_does_not_end_times_out(void **state)
{
	struct harness h;
	struct tls_context *x = context();
	harness_begin(&h, &(struct channel_opts){.protocol = CHANNEL_GRPC,
						 .tls = x,
						 .tls_name = "example",
						 .connect_timeout_ns = 20 * NS_PER_MS});
	tls_context_put(x);
	peer_write(&h, "\x16\x03\x03\x40\x00\x02\x00\x3f", 8);
	expect_end(&h, -ETIMEDOUT, "the server did not answer the greeting in time");
}

static void test_a_name_is_needed(void **state)
{
	struct harness h;
	struct tls_context *x = context();
	struct channel *ch;
	int fds[2];
	harness_begin(&h, &(struct channel_opts){.protocol = CHANNEL_NATIVE});
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	char longer[TLS_NAME_MAX + 2] = {0};
	memset(longer, 'a', TLS_NAME_MAX + 1);
	const char *const names[] = {NULL, "", longer};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct channel_opts o = {.tls = x, .tls_name = names[i]};
		assert_int_equal(channel_adopt(h.client, &o, fds[0], &harness_events, &h, &ch), -EINVAL);
	}
	close(fds[0]);
	close(fds[1]);
	tls_context_put(x);
	harness_end(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_server_that_answers_in_cleartext_is_told_apart),
		cmocka_unit_test(test_nothing_but_the_handshake_leaves_before_its_end),
		cmocka_unit_test(test_an_end_within_the_handshake_says_so),
		cmocka_unit_test(test_a_handshake_that_does_not_end_times_out),
		cmocka_unit_test(test_a_name_is_needed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
