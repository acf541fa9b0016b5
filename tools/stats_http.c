/* One HTTP/1.1 GET over a Unix socket, "Connection: close". The body is what Content-Length says, or what comes until the end; a chunked answer is
 * refused with a sentence, since the daemon sends none. Main thread; a stuck daemon is given up on after TIMEOUT_S. */
#include "tools/stats_http.h"

#include "core/base/check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { TIMEOUT_S = 5, RESPONSE_MAX = 64 << 20 };

const char *stats_http_socket(void)
{
	static const char *const places[] = {"/run/ordinal/stats.sock", "build/run/stats.sock"};
	const char *s = getenv("ORDINAL_STATS_SOCKET");
	if (s && *s)
		return s;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (access(places[i], F_OK) == 0)
			return places[i];
	return places[0];
}

static int dial(const char *path, int *ret)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval tv = {.tv_sec = TIMEOUT_S};
	if (strlen(path) >= sizeof un.sun_path)
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	if (connect(fd, (struct sockaddr *)&un, sizeof un)) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret = fd;
	return 0;
}

static int send_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0) {
			p += r;
			n -= (size_t)r;
		}
	}
	return 0;
}

/* Everything until the end, terminated. */
static int read_all(int fd, char **ret, size_t *ret_n)
{
	size_t n = 0, cap = 1 << 16;
	char *p = malloc(cap);
	for (;;) {
		if (!p)
			return -ENOMEM;
		ssize_t r = recv(fd, p + n, cap - n - 1, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || n > RESPONSE_MAX) {
			int err = r < 0 ? -errno : -EFBIG;
			free(p);
			return err;
		}
		if (r == 0)
			break;
		n += (size_t)r;
		if (cap - n > 1)
			continue;
		char *grown = realloc(p, cap *= 2);
		if (!grown)
			free(p);
		p = grown;
	}
	p[n] = 0;
	*ret = p;
	*ret_n = n;
	return 0;
}

/* The value of a header line, at or after `head` and before its empty line, or NULL. */
static const char *header(const char *head, const char *name)
{
	size_t n = strlen(name);
	for (const char *line = strstr(head, "\r\n"); line && strncmp(line, "\r\n\r\n", 4) != 0;
	     line = strstr(line + 2, "\r\n"))
		if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':')
			return line + 2 + n + 1;
	return NULL;
}

/* Moves the body to the front of `all`. */
static int take_body(char *all, size_t n, size_t *ret_n, char *why, size_t cap)
{
	char *body = strstr(all, "\r\n\r\n");
	unsigned status;
	if (!body || sscanf(all, "HTTP/1.%*1[01] %3u", &status) != 1) {
		snprintf(why, cap, "what listens there does not speak HTTP");
		return -EPROTO;
	}
	body += 4;
	const char *length = header(all, "content-length");
	if (header(all, "transfer-encoding")) {
		snprintf(why, cap, "the answer has a transfer coding, which this program does not read");
		return -EPROTO;
	}
	size_t have = n - (size_t)(body - all);
	if (length) {
		unsigned long long said = strtoull(length, NULL, 10);
		if (have < said) {
			snprintf(why, cap, "the answer was cut off");
			return -EPROTO;
		}
		have = said;
	}
	if (status != 200) {
		snprintf(why, cap, "HTTP status %u: %.*s", status, (int)(have < 200 ? have : 200), body);
		return -EPROTO;
	}
	memmove(all, body, have);
	all[have] = 0;
	*ret_n = have;
	return 0;
}

int stats_http_get(const char *socket_path, const char *path, char **ret, size_t *ret_n, char *why, size_t cap)
{
	char request[512], *all = NULL;
	size_t n = 0;
	int fd = -1;
	int r = dial(socket_path, &fd);
	if (r) {
		snprintf(why, cap, "%s", strerror(-r));
		return r;
	}
	int len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: ordinal\r\nConnection: close\r\n\r\n",
			   path);
	CHECK(len > 0 && (size_t)len < sizeof request);
	r = send_all(fd, request, (size_t)len);
	if (r == 0)
		r = read_all(fd, &all, &n);
	close(fd);
	if (r || !all) {
		snprintf(why, cap, "%s", r == -EAGAIN ? "no answer within 5 seconds" : strerror(-r));
		return r ? r : -ENOMEM;
	}
	r = take_body(all, n, ret_n, why, cap);
	if (r)
		free(all);
	else
		*ret = all;
	return r;
}
