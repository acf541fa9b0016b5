/* Listening sockets; see the header. Main thread, before the shards start. */
#include "core/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char why[512];

/* "host:port" or "[host]:port" into an address. */
static int resolve(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	char host[256];
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	if (!colon || n == 0 || n >= sizeof host || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
		snprintf(why, sizeof why,
			 "LISTEN=\"%s\": expected host:port, for example 127.0.0.1:50051 or [::1]:50051", text);
		return -EINVAL;
	}
	memcpy(host, text, n);
	host[n] = 0;
	if (host[0] == '[' && host[n - 1] == ']') {
		memmove(host, host + 1, n - 2);
		host[n - 2] = 0;
	}
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE}, *found;
	int rc = getaddrinfo(host, colon + 1, &hints, &found);
	if (rc) {
		snprintf(why, sizeof why, "LISTEN=\"%s\": %s", text, gai_strerror(rc));
		return -EINVAL;
	}
	memcpy(ret, found->ai_addr, found->ai_addrlen);
	*ret_len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

int listener_is_loopback(const char *listen)
{
	struct sockaddr_storage ss;
	socklen_t len;
	if (resolve(listen, &ss, &len))
		return -EINVAL;
	if (ss.ss_family == AF_INET)
		return (ntohl(((struct sockaddr_in *)&ss)->sin_addr.s_addr) >> 24) == 127;
	return IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&ss)->sin6_addr);
}

static int open_one(const struct sockaddr *addr, socklen_t len, unsigned user_timeout_ms)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) || bind(fd, addr, len) || listen(fd, 4096)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* SO_REUSEPORT would let a second daemon of the same user share the port silently: a plain bind tells. */
static int check_free(const struct sockaddr *addr, socklen_t len)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, rc = 0;
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, addr, len))
		rc = -errno;
	close(fd);
	return rc;
}

static void describe(const struct sockaddr_storage *ss, char out[LISTENER_TEXT])
{
	char host[INET6_ADDRSTRLEN];
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)ss;
		inet_ntop(AF_INET, &a->sin_addr, host, sizeof host);
		snprintf(out, LISTENER_TEXT, "%s:%u", host, ntohs(a->sin_port));
	} else {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)ss;
		inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof host);
		snprintf(out, LISTENER_TEXT, "[%s]:%u", host, ntohs(a->sin6_port));
	}
}

int listener_open(const char *listen, unsigned n, unsigned user_timeout_ms, int *ret_fds, char ret_bound[LISTENER_TEXT],
		  const char **ret_why)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int fds[64];
	*ret_why = why;
	int rc = resolve(listen, &ss, &len);
	if (rc)
		return rc;
	rc = check_free((struct sockaddr *)&ss, len);
	unsigned i = 0;
	for (; rc == 0 && i < n; i++) {
		fds[i] = open_one((struct sockaddr *)&ss, len, user_timeout_ms);
		if (fds[i] < 0) {
			rc = fds[i];
			break;
		}
		if (i == 0) { /* the port that 0 has become */
			socklen_t got = sizeof ss;
			getsockname(fds[0], (struct sockaddr *)&ss, &got);
		}
	}
	if (rc) {
		snprintf(why, sizeof why, "cannot listen on %s: %s%s", listen, strerror(-rc),
			 rc == -EADDRINUSE ? "; another process has this port: stop it, or set LISTEN to another one"
					   : "");
		while (i-- > 0)
			close(fds[i]);
		return rc;
	}
	memcpy(ret_fds, fds, n * sizeof *fds);
	describe(&ss, ret_bound);
	return 0;
}
