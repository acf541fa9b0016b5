/* A ring that is restricted to the operations which it needs: these work, another one is refused by the kernel. */
#include "core/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { TAG_RECV = 1, TAG_SEND, TAG_SENDMSG, TAG_READ, TAG_ACCEPT, TAG_CONNECT, TAG_CANCEL, TAGS };

static struct ring *ring_of(bool restricted)
{
	const struct ring_params p = {
		.entries = 16, .cq_entries = 64, .bufs = 4, .buf_size = 256, .restrict_ops = restricted};
	struct ring *r;
	assert_int_equal(ring_init(&p, &r), 0);
	return r;
}

/* Waits until `n` operations have told something; results by tag. */
static void collect(struct ring *r, unsigned n, int32_t res[TAGS])
{
	struct ring_event ev[16];
	for (unsigned got = 0; got < n;) {
		assert_int_equal(ring_wait(r, UINT64_MAX), 0);
		unsigned k = ring_reap(r, ev, 16);
		for (unsigned i = 0; i < k; i++) {
			res[ring_tag_kind(ev[i].tag)] = ev[i].res;
			if (ev[i].flags & RING_EV_BUFFER)
				ring_buf_put(r, ev[i].buf);
		}
		got += k;
	}
}

static int listener(struct sockaddr_in *ret)
{
	socklen_t len = sizeof *ret;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*ret = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)ret, sizeof *ret), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)ret, &len), 0);
	return fd;
}

static uint64_t tag(uint8_t kind)
{
	return ring_tag(0, 0, kind);
}

static void test_a_restricted_ring_runs_what_a_server_needs(void **state)
{
	struct ring *r = ring_of(true);
	int32_t res[TAGS] = {0};
	int pair[2], bell = eventfd(1, EFD_CLOEXEC);
	uint64_t bell_sink = 0;
	char hello[] = "hello", more[] = "more";
	struct iovec iov = {more, 4};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct sockaddr_in addr;
	int door = listener(&addr), guest = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_non_null(strstr(ring_features(r), ",restricted"));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	ring_send(r, pair[0], hello, 5, tag(TAG_SEND));
	ring_read(r, bell, &bell_sink, sizeof bell_sink, tag(TAG_READ));
	collect(r, 2, res);
	assert_int_equal(res[TAG_SEND], 5);
	assert_int_equal(res[TAG_READ], sizeof bell_sink);
	ring_recv(r, pair[1], tag(TAG_RECV));
	collect(r, 1, res);
	assert_int_equal(res[TAG_RECV], 5);
	ring_sendmsg(r, pair[0], &msg, tag(TAG_SENDMSG));
	collect(r, 2, res);
	assert_int_equal(res[TAG_SENDMSG], 4);
	assert_int_equal(res[TAG_RECV], 4);
	ring_accept(r, door, tag(TAG_ACCEPT));
	assert_int_equal(connect(guest, (struct sockaddr *)&addr, sizeof addr), 0);
	collect(r, 1, res);
	assert_true(res[TAG_ACCEPT] >= 0);
	close(res[TAG_ACCEPT]);
	ring_accept(r, door, tag(TAG_ACCEPT));
	ring_cancel_fd(r, door, tag(TAG_CANCEL));
	collect(r, 2, res);
	assert_int_equal(res[TAG_ACCEPT], -ECANCELED);
	assert_true(res[TAG_CANCEL] >= 0);
	ring_done(r);
	close(pair[0]);
	close(pair[1]);
	close(bell);
	close(door);
	close(guest);
}

/* A server does not connect: the operation that the kernel runs on a free ring is refused on this one. */
static void test_a_restricted_ring_runs_nothing_else(void **state)
{
	for (int restricted = 0; restricted <= 1; restricted++) {
		struct ring *r = ring_of(restricted);
		int32_t res[TAGS] = {0};
		struct sockaddr_in addr;
		int door = listener(&addr), guest = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		ring_connect(r, guest, (struct sockaddr *)&addr, sizeof addr, tag(TAG_CONNECT));
		collect(r, 1, res);
		assert_int_equal(res[TAG_CONNECT], restricted ? -EACCES : 0);
		ring_done(r);
		close(door);
		close(guest);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_restricted_ring_runs_what_a_server_needs),
		cmocka_unit_test(test_a_restricted_ring_runs_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
