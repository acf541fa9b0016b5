/* The stats socket as a whole, on a real Unix socket: a client that writes what the script says, in pieces, reads when it likes, half-closes, and takes
 * its time; up to three of them, one more than are served.
 *
 * Holds: what is answered is well-formed, with as many bytes as it says; after an answer that says it is the last nothing comes but the end; no more is
 * answered than was asked; a client that waits is ended at its deadline; when clients have gone, so has all that they cost. */
#include "rpc/statsock.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IDLE_NS (10 * NS_PER_S)
enum { CLIENTS = 3, SERVED = 2, OPS_MAX = 400, ENDS_MAX = 1000 };

struct client {
	int fd; /* -1: none */
	uint8_t in[512 << 10];
	size_t len;
	unsigned lines; /* that it has written: there are no more requests than these */
	unsigned answers;
	bool head_asked, last, over;
};

static struct statsock *sock;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static char dir[] = "/tmp/fuzz-statsock-XXXXXX";
static uint64_t now_ns = NS_PER_S;
static struct client client[CLIENTS];
static const uint8_t *script;
static size_t left;

static uint8_t byte(void)
{
	if (!left)
		return 0;
	left--;
	return *script++;
}

static unsigned get(void *ctx, struct span path, struct text *body, const char **type)
{
	CHECK(path.n == 0 || path.p[0] == '/');
	if (span_eq(path, SPAN_LIT("/broken")))
		return 500;
	if (span_eq(path, SPAN_LIT("/full"))) {
		body->failed = true;
		return 200;
	}
	for (unsigned i = 0; span_eq(path, SPAN_LIT("/big")) && i < 6000; i++)
		text_printf(body, "a line of a large page, number %u\n", i);
	text_printf(body, "%zu\n", path.n);
	*type = "text/plain";
	return path.n & 1 ? 404 : 200;
}

static void end(void)
{
	statsock_close(sock);
	rmdir(dir);
}

/* What is at the path already: a file, a socket that nobody listens on, one that somebody does; and paths that cannot be. */
static void begin_where_others_are(const struct statsock_opts *good)
{
	struct statsock_opts o = *good;
	struct statsock *s, *other;
	char path[256], stale[128];
	const char *why = "";

	memset(path, 'a', sizeof path - 1);
	path[sizeof path - 1] = 0;
	o.path = path;
	CHECK(statsock_open(&o, &s, &why) == -ENAMETOOLONG && *why);
	o.path = "/proc/nothing/here/s";
	CHECK(statsock_open(&o, &s, &why) < 0 && *why);
	snprintf(stale, sizeof stale, "%s/sub/s", dir);
	o.path = stale;
	CHECK(statsock_open(&o, &s, &why) == 0);
	CHECK(statsock_open(&o, &other, &why) == -EADDRINUSE && *why);
	int guest = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un there = {.sun_family = AF_UNIX};
	memcpy(there.sun_path, stale, strlen(stale) + 1);
	CHECK(guest >= 0 && connect(guest, (struct sockaddr *)&there, sizeof there) == 0);
	statsock_turn(s, now_ns);
	statsock_close(s); /* with a client */
	close(guest);
	statsock_close(NULL);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	memcpy(un.sun_path, stale, strlen(stale) + 1);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof un) == 0);
	close(fd); /* its file stays */
	CHECK(statsock_open(&o, &s, &why) == 0);
	statsock_close(s);
	fd = open(stale, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	close(fd);
	CHECK(statsock_open(&o, &s, &why) == -EEXIST && *why);
	CHECK(unlink(stale) == 0);
	*strrchr(stale, '/') = 0;
	CHECK(rmdir(stale) == 0);
}

/* More than are served and told so. */
static void begin_with_a_crowd(void)
{
	int fd[40];

	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		CHECK(fd[i] >= 0 && connect(fd[i], (struct sockaddr *)&address, sizeof address) == 0);
	}
	statsock_turn(sock, now_ns);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	for (unsigned n = 0; statsock_next_ns(sock) != UINT64_MAX; n++) {
		CHECK(n < ENDS_MAX);
		statsock_turn(sock, now_ns);
		now_ns += IDLE_NS;
	}
}

static void begin(void)
{
	const char *why = "";

	CHECK(mkdtemp(dir));
	snprintf(address.sun_path, sizeof address.sun_path, "%s/s", dir);
	struct statsock_opts o = {.path = address.sun_path, .conns_max = SERVED, .idle_ns = IDLE_NS, .get = get};
	begin_where_others_are(&o);
	CHECK(statsock_open(&o, &sock, &why) == 0);
	CHECK(statsock_fd(sock) >= 0);
	begin_with_a_crowd();
	atexit(end);
}

static void turn(void)
{
	statsock_turn(sock, now_ns);
	CHECK(statsock_next_ns(sock) > now_ns);
}

static void client_open(struct client *c)
{
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(c->fd >= 0 && connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0);
	c->len = c->lines = c->answers = 0;
	c->head_asked = c->last = c->over = false;
}

static void client_write(struct client *c, const void *p, size_t n)
{
	if (c->over)
		return;
	for (size_t i = 0; i < n; i++)
		c->lines += ((const uint8_t *)p)[i] == '\n';
	c->head_asked |= memmem(p, n, "HEAD", 4) != NULL || (n && n < 4); /* or it may have been, in pieces */
	ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
	CHECK(sent >= 0 || errno == EPIPE || errno == EAGAIN || errno == ECONNRESET);
}

/* Takes whole answers off what has come. */
static void client_check(struct client *c)
{
	if (c->head_asked) /* which of the answers have bodies is not known here */
		c->len = 0;
	for (;;) {
		const uint8_t *head = c->in, *gap = memmem(head, c->len, "\r\n\r\n", 4), *field;
		if (!gap)
			return;
		size_t n = (size_t)(gap - head) + 4, body;
		CHECK(!c->last && memcmp(head, "HTTP/1.1 ", 9) == 0);
		field = memmem(head, n, "\r\nContent-Length: ", 18);
		CHECK(field);
		body = (size_t)strtoul((const char *)field + 18, NULL, 10);
		if (c->len - n < body)
			return;
		c->last = memmem(head, n, "Connection: close", 17) != NULL;
		c->answers++;
		CHECK(c->answers <= c->lines + 1); /* one may be for no request: too many clients, or too slow */
		memmove(c->in, c->in + n + body, c->len - n - body);
		c->len -= n + body;
		CHECK(!c->last || c->len == 0);
	}
}

static void client_read(struct client *c, size_t most)
{
	while (!c->over && most > 0) {
		size_t room = sizeof c->in - c->len;
		ssize_t n = recv(c->fd, c->in + c->len, most < room ? most : room, 0);
		if (n < 0 && errno == EAGAIN)
			return;
		c->over = n <= 0;
		if (n <= 0)
			return;
		CHECK(!c->last);
		c->len += (size_t)n;
		most -= (size_t)n;
		client_check(c);
	}
}

static void client_close(struct client *c)
{
	close(c->fd);
	c->fd = -1;
}

static void write_some(struct client *c)
{
	static const char *const text[] = {"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n",
					   "GET /big HTTP/1.1\r\nHost: x\r\n\r\n",
					   "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n",
					   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
					   "GET /full HTTP/1.1\r\nHost: x\r\n\r\n",
					   "GET http://x/broken?a=b HTTP/1.0\r\n\r\n",
					   "GET http://x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
					   "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
					   "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
					   "GET / HTTP/3.0\r\n\r\n"};
	uint8_t which = byte(), raw[64], cut = byte();

	if (which < 160) {
		const char *t = text[which % 10];
		size_t n = strlen(t), at = cut < n ? cut : n;
		client_write(c, t + (which & 128 ? at : 0), which & 128 ? n - at : which & 64 ? at : n);
	} else if (which < 170) {
		static char long_line[9000];
		memset(long_line, 'a', sizeof long_line);
		client_write(c, long_line, sizeof long_line);
	} else {
		size_t n = cut % sizeof raw;
		for (size_t i = 0; i < n; i++)
			raw[i] = byte();
		client_write(c, raw, n);
	}
}

static void op(struct client *c, uint8_t what)
{
	if (c->fd < 0) {
		client_open(c);
		return;
	}
	switch (what % 8) {
	case 0:
	case 1:
	case 2:
		write_some(c);
		break;
	case 3:
		turn();
		break;
	case 4:
		client_read(c, (size_t)byte() * 512 + 1);
		break;
	case 5:
		shutdown(c->fd, SHUT_WR);
		break;
	case 6:
		now_ns += (uint64_t)byte() * 100 * NS_PER_MS;
		turn();
		break;
	default:
		if (byte() < 64)
			client_close(c);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!sock)
		begin();
	script = data;
	left = size;
	for (unsigned i = 0; i < CLIENTS; i++)
		client[i].fd = -1;
	for (unsigned ops = 0; left && ops < OPS_MAX; ops++) {
		uint8_t b = byte();
		op(&client[b / 8 % 8 < 6 ? 0 : b / 8 % 8 - 5], b);
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *c = &client[i];
		if (c->fd < 0)
			continue;
		/* Whoever does nothing but read is told the end, at the latest at its deadline. */
		for (unsigned n = 0; !c->over; n++) {
			CHECK(n < ENDS_MAX);
			turn();
			client_read(c, SIZE_MAX);
			if (n % 8 == 7)
				now_ns += IDLE_NS + 1;
		}
		client_close(c);
	}
	for (unsigned n = 0; statsock_next_ns(sock) != UINT64_MAX; n++) { /* what has been closed is seen */
		CHECK(n < ENDS_MAX);
		turn();
		now_ns += IDLE_NS;
	}
	return 0;
}
