/* Listening sockets; see the header. Main thread, before the shards start. */
#include "core/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

enum { BACKLOG = 4096 /* the kernel's net.core.somaxconn, 4096 by default, is the operator's option */ };

static void set_inherited(int fd, unsigned user_timeout_ms)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

static int open_one(const struct sockaddr *addr, socklen_t len, unsigned user_timeout_ms)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	set_inherited(fd, user_timeout_ms);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) || bind(fd, addr, len) || listen(fd, BACKLOG)) {
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

void listener_set_user_timeout(const struct listener *l, unsigned user_timeout_ms)
{
	for (unsigned i = 0; i < l->count; i++)
		setsockopt(l->fds[i], IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

static in_port_t *port_of(struct sockaddr_storage *ss)
{
	return ss->ss_family == AF_INET ? &((struct sockaddr_in *)ss)->sin_port
					: &((struct sockaddr_in6 *)ss)->sin6_port;
}

bool listener_is_on(int fd, const char *listen, char ret_bound[LISTENER_TEXT])
{
	struct sockaddr_storage want, have;
	char want_text[LISTENER_TEXT], have_text[LISTENER_TEXT];
	socklen_t len, have_len = sizeof have;
	int listens = 0, protocol = 0;
	socklen_t int_len = sizeof listens;
	memset(&have, 0, sizeof have);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_len) || !listens ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &int_len) || protocol != IPPROTO_TCP ||
	    getsockname(fd, (struct sockaddr *)&have, &have_len))
		return false;
	describe(&have, have_text);
	if (ret_bound)
		memcpy(ret_bound, have_text, LISTENER_TEXT);
	if (resolve(listen, &want, &len) || want.ss_family != have.ss_family)
		return false;
	if (*port_of(&want) == 0)
		*port_of(&want) = *port_of(&have);
	describe(&want, want_text);
	return strcmp(want_text, have_text) == 0;
}

/* One more socket on the address: its errno tells why not, and then one that is there is shared. */
static int add_one(const struct sockaddr_storage *ss, socklen_t len, unsigned user_timeout_ms, struct listener *l)
{
	int fd = open_one((const struct sockaddr *)ss, len, user_timeout_ms);
	if (fd < 0 && l->given) {
		int share = fcntl(l->fds[l->count % l->given], F_DUPFD_CLOEXEC, 3);
		fd = share < 0 ? -errno : share;
		l->shared = true;
	}
	if (fd < 0)
		return fd;
	l->fds[l->count++] = fd;
	return 0;
}

/* The port that 0 has become. */
static void learn_port(const struct listener *l, struct sockaddr_storage *ss)
{
	socklen_t got = sizeof *ss;
	if (l->count)
		getsockname(l->fds[0], (struct sockaddr *)ss, &got);
}

int listener_open(const char *listen, unsigned n, unsigned user_timeout_ms, struct listener *l, const char **ret_why)
{
	struct sockaddr_storage ss = {0};
	socklen_t len;
	*ret_why = why;
	int rc = resolve(listen, &ss, &len);
	if (rc)
		return rc;
	l->count = l->given;
	for (unsigned i = 0; i < l->given; i++)
		set_inherited(l->fds[i], user_timeout_ms);
	if (!l->given)
		rc = check_free((struct sockaddr *)&ss, len);
	learn_port(l, &ss);
	while (rc == 0 && l->count < n) {
		rc = add_one(&ss, len, user_timeout_ms, l);
		learn_port(l, &ss);
	}
	if (rc) {
		snprintf(why, sizeof why, "cannot listen on %s: %s%s", listen, strerror(-rc),
			 rc == -EADDRINUSE ? "; another process has this port: stop it, or set LISTEN to another one"
					   : "");
		while (l->count > l->given)
			close(l->fds[--l->count]);
		return rc;
	}
	describe(&ss, l->bound);
	return 0;
}
