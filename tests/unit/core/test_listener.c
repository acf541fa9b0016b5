/* Listening sockets of the real kernel: one process alone has an address, its shards share it,
 * and every refusal says why. */
#include "core/listener.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STARTERS = 50, ROUNDS = 5, SOCKETS = 3 };

static const char *why;

static int open_on(const char *listen, unsigned n, struct listener *l)
{
	memset(l, 0, sizeof *l);
	why = NULL;
	return listener_open(listen, n, 1000, l, &why);
}

static void done(struct listener *l)
{
	while (l->count)
		close(l->fds[--l->count]);
}

static uint16_t port_of(const struct listener *l)
{
	const char *colon = strrchr(l->bound, ':');
	assert_non_null(colon);
	return (uint16_t)strtoul(colon + 1, NULL, 10);
}

/* A port that nobody has: the kernel does not give it away again soon. */
static uint16_t free_port(void)
{
	struct listener l;
	assert_int_equal(open_on("127.0.0.1:0", 1, &l), 0);
	uint16_t port = port_of(&l);
	done(&l);
	return port;
}

static int dial(const char *host, uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(inet_pton(AF_INET, host, &to.sin_addr), 1);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
		return fd;
	close(fd);
	return -1;
}

/* One of many processes that start at the same moment. Tells 'y', 'n', or '?' for a wrong
 * reason, and keeps the port until everybody has tried. */
static int start_at(const char *listen, int go, int hold, int end)
{
	struct listener l = {0};
	struct pollfd p = {.fd = go, .events = POLLIN};
	const char *said = "";
	char c;
	poll(&p, 1, -1);
	int rc = listener_open(listen, SOCKETS, 1000, &l, &said);
	c = rc == 0 ? 'y' : rc == -EADDRINUSE && strstr(said, listen) && strstr(said, "process ") ? 'n' : '?';
	if (write(end, &c, 1) != 1)
		return 1;
	return read(hold, &c, 1) == 0 ? 0 : 1;
}

static void count_starts(const char *listen, unsigned ret[3])
{
	int go[2], hold[2], end[2];
	char c;
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(hold), 0);
	assert_int_equal(pipe(end), 0);
	for (int i = 0; i < STARTERS; i++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			close(hold[1]);
			_exit(start_at(listen, go[0], hold[0], end[1]));
		}
	}
	close(hold[0]);
	close(end[1]);
	assert_int_equal(write(go[1], "g", 1), 1);
	ret[0] = ret[1] = ret[2] = 0;
	for (int i = 0; i < STARTERS && read(end[0], &c, 1) == 1; i++)
		ret[c == 'y' ? 0 : c == 'n' ? 1 : 2]++;
	close(hold[1]);
	close(go[0]);
	close(go[1]);
	close(end[0]);
	while (wait(NULL) > 0)
		;
}

static void test_of_many_that_start_at_once_two_had_the_address(void **state)
{
	for (int i = 0; i < ROUNDS; i++) {
		char listen[32];
		unsigned n[3];
		snprintf(listen, sizeof listen, "127.0.0.1:%u", free_port());
		count_starts(listen, n);
		assert_int_equal(n[0], 1);
		assert_int_equal(n[1], STARTERS - 1);
		assert_int_equal(n[2], 0);
	}
}

static void test_all_sockets_of_one_process_accept(void **state)
{
	struct listener l;
	unsigned accepted[SOCKETS] = {0};
	int client[200];
	assert_int_equal(open_on("127.0.0.1:0", SOCKETS, &l), 0);
	assert_int_equal(l.count, SOCKETS);
	for (int i = 0; i < 200; i++) {
		client[i] = dial("127.0.0.1", port_of(&l));
		assert_true(client[i] >= 0);
	}
	for (unsigned i = 0; i < SOCKETS; i++) {
		assert_int_equal(fcntl(l.fds[i], F_SETFL, O_NONBLOCK), 0);
		for (int fd; (fd = accept4(l.fds[i], NULL, NULL, SOCK_CLOEXEC)) >= 0; accepted[i]++)
			close(fd);
		assert_true(accepted[i] > 0);
	}
	for (int i = 0; i < 200; i++)
		close(client[i]);
	done(&l);
}

/* Different texts of addresses that overlap. */
static void test_addresses_that_overlap(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"};
	for (size_t i = 0; i < 4; i++) {
		for (size_t k = 0; k < 4; k++) {
			struct listener one, two;
			char listen[64];
			snprintf(listen, sizeof listen, "%s:0", hosts[i]);
			if (open_on(listen, 2, &one) == -EAFNOSUPPORT)
				skip();
			snprintf(listen, sizeof listen, "%s:%u", hosts[k], port_of(&one));
			assert_int_equal(open_on(listen, 2, &two), -EADDRINUSE);
			assert_non_null(strstr(why, listen));
			assert_non_null(strstr(why, " listens on "));
			done(&one);
		}
	}
}

static void test_after_connections_the_address_can_be_had_again(void **state)
{
	struct listener l;
	char listen[32];
	assert_int_equal(open_on("127.0.0.1:0", 2, &l), 0);
	snprintf(listen, sizeof listen, "127.0.0.1:%u", port_of(&l));
	int client = dial("127.0.0.1", port_of(&l));
	struct pollfd p[2] = {{.fd = l.fds[0], .events = POLLIN}, {.fd = l.fds[1], .events = POLLIN}};
	assert_int_equal(poll(p, 2, 10000), 1);
	int server = accept4(p[p[1].revents ? 1 : 0].fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(server >= 0);
	done(&l);
	assert_int_equal(open_on(listen, 2, &l), 0); /* a connection is open */
	done(&l);
	close(server); /* the end that stays in TIME_WAIT */
	close(client);
	assert_int_equal(open_on(listen, 2, &l), 0);
	done(&l);
}

static void test_any_address_of_ipv6_did_not_serve_ipv4(void **state)
{
	struct listener l;
	if (open_on("[::]:0", 1, &l) == -EAFNOSUPPORT)
		skip();
	int only = 1;
	socklen_t len = sizeof only;
	assert_int_equal(getsockopt(l.fds[0], IPPROTO_IPV6, IPV6_V6ONLY, &only, &len), 0);
	assert_int_equal(only, 0);
	assert_false(listener_lacks_ipv4(l.fds[0]));
	int fd = dial("127.0.0.1", port_of(&l));
	assert_true(fd >= 0);
	close(fd);
	done(&l);
	only = 1;
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
	assert_true(listener_lacks_ipv4(fd));
	close(fd);
}

static void test_an_ipv4_address_written_as_ipv6(void **state)
{
	struct listener l;
	char bound[LISTENER_TEXT];
	assert_int_equal(listener_is_loopback("[::ffff:127.0.0.1]:1"), 1);
	assert_int_equal(listener_is_loopback("[::ffff:10.0.0.1]:1"), 0);
	assert_int_equal(open_on("[::ffff:127.0.0.1]:0", 1, &l), 0);
	assert_int_equal(strncmp(l.bound, "127.0.0.1:", 10), 0);
	assert_true(listener_is_on(l.fds[0], "127.0.0.1:0", bound));
	assert_true(listener_is_on(l.fds[0], "[::ffff:127.0.0.1]:0", bound));
	done(&l);
}

static void test_an_outgoing_connection_has_the_port_and_nobody_said_so(void **state)
{
	struct listener peer, l;
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, to = from;
	socklen_t len = sizeof from;
	char listen[32], holder[64];
	assert_int_equal(open_on("127.0.0.1:0", 1, &peer), 0);
	to.sin_port = htons(port_of(&peer));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&from, &len), 0);
	snprintf(listen, sizeof listen, "127.0.0.1:%u", ntohs(from.sin_port));
	assert_int_equal(open_on(listen, 1, &l), -EADDRINUSE);
	snprintf(holder, sizeof holder, "process %d (", (int)getpid());
	assert_non_null(strstr(why, holder));
	snprintf(holder, sizeof holder, "connection to 127.0.0.1:%u", port_of(&peer));
	assert_non_null(strstr(why, holder));
	assert_non_null(strstr(why, "ip_local_reserved_ports"));
	close(fd); /* the end that stays in TIME_WAIT: of no process */
	assert_int_equal(open_on(listen, 1, &l), -EADDRINUSE);
	assert_non_null(strstr(why, "connection to 127.0.0.1"));
	done(&peer);
}

static void test_every_refusal_has_a_sentence(void **state)
{
	static const struct {
		const char *listen, *word;
	} tries[] = {{"127.0.0.1", "expected host:port"}, {"127.0.0.1:x", "expected host:port"},
		     {"192.0.2.1:0", "this machine"},     {"[2001:db8::1]:0", "cannot listen on"},
		     {"[fe80::1]:0", "cannot listen on"}, {"nowhere.invalid:1", "LISTEN="}};
	for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
		struct listener l;
		assert_true(open_on(tries[i].listen, 1, &l) < 0);
		assert_non_null(strstr(why, tries[i].word));
		assert_non_null(strstr(why, tries[i].listen));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_of_many_that_start_at_once_two_had_the_address),
		cmocka_unit_test(test_all_sockets_of_one_process_accept),
		cmocka_unit_test(test_addresses_that_overlap),
		cmocka_unit_test(test_after_connections_the_address_can_be_had_again),
		cmocka_unit_test(test_any_address_of_ipv6_did_not_serve_ipv4),
		cmocka_unit_test(test_an_ipv4_address_written_as_ipv6),
		cmocka_unit_test(test_an_outgoing_connection_has_the_port_and_nobody_said_so),
		cmocka_unit_test(test_every_refusal_has_a_sentence),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
