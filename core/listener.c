/* Listening sockets; see the header. Main thread, before the shards start.
 *
 * Only one process may listen on an address, and yet each of its shards has a socket of its own
 * there, which SO_REUSEPORT allows to every process of the same user. Therefore the first socket of
 * an address is bound, and listens, without that option: the kernel refuses it while any other
 * socket listens there, and refuses every other first socket from then on. The check and the use
 * are one system call. Only afterwards does the socket get SO_REUSEPORT, so that the other sockets
 * of this process can join. The first socket of another process never joins, because it does not
 * have the option itself (Linux, inet_csk_get_port: both sockets must have it). */
#include "core/listener.h"
#include "core/base/clock.h"
#include "core/port_holder.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char why[640];

enum {
	CLAIM_TRIES = 20,      /* of the first socket, before the address is taken to be in use */
	CLAIM_PAUSE_US = 8000, /* at most, between two tries */
};

/* An IPv4 address that is written as an IPv6 one, ::ffff:127.0.0.1, becomes the IPv4 address: it
 * is the same address, and is compared as such. */
static void unmap(struct sockaddr_storage *ss, socklen_t *len)
{
	const struct sockaddr_in6 v6 = *(const struct sockaddr_in6 *)ss;
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = v6.sin6_port};
	if (ss->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return;
	memcpy(&v4.sin_addr, v6.sin6_addr.s6_addr + 12, sizeof v4.sin_addr);
	memset(ss, 0, sizeof *ss);
	memcpy(ss, &v4, sizeof v4);
	*len = sizeof v4;
}

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
		snprintf(why, sizeof why, "LISTEN=\"%s\": %s", text,
			 rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
		return -EINVAL;
	}
	memcpy(ret, found->ai_addr, found->ai_addrlen);
	*ret_len = found->ai_addrlen;
	freeaddrinfo(found);
	unmap(ret, ret_len);
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

/* A bound socket, with SO_REUSEPORT if it is to `join` others; or -errno. [::] is for IPv4, too,
 * whatever net.ipv6.bindv6only says. */
static int bind_one(const struct sockaddr *addr, socklen_t len, bool join, unsigned user_timeout_ms)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, zero = 0;
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	set_inherited(fd, user_timeout_ms);
	if ((addr->sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero)) ||
	    (join && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one)) || bind(fd, addr, len)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* A socket beside those that this process has on the address already. */
static int open_another(const struct sockaddr *addr, socklen_t len, unsigned user_timeout_ms)
{
	int fd = bind_one(addr, len, true, user_timeout_ms);
	if (fd >= 0 && listen(fd, BACKLOG)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* The first socket on an address, which no other process has. */
static int claim_once(const struct sockaddr *addr, socklen_t len, unsigned user_timeout_ms)
{
	int fd = bind_one(addr, len, false, user_timeout_ms), one = 1;
	if (fd < 0)
		return fd;
	if (listen(fd, BACKLOG) || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* The kernel marks a socket as listening before it looks for conflicts, so two first sockets
 * that begin to listen in the same microsecond may both be refused, and a third one beside them.
 * Each tries again after a time of its own. */
static int claim(const struct sockaddr *addr, socklen_t len, unsigned user_timeout_ms)
{
	int fd = claim_once(addr, len, user_timeout_ms);
	for (unsigned i = 1; fd == -EADDRINUSE && i < CLAIM_TRIES; i++) {
		usleep(((unsigned)getpid() * 2654435761u ^ (unsigned)clock_mono_ns()) % CLAIM_PAUSE_US + 1);
		fd = claim_once(addr, len, user_timeout_ms);
	}
	return fd;
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
	unmap(&have, &have_len);
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

bool listener_lacks_ipv4(int fd)
{
	struct sockaddr_in6 have = {0};
	socklen_t len = sizeof have, int_len = sizeof(int);
	int only = 0;
	return getsockname(fd, (struct sockaddr *)&have, &len) == 0 && have.sin6_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&have.sin6_addr) &&
	       getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &int_len) == 0 && only;
}

/* One more socket on the address. Where the kernel refuses it, because the given ones are
 * another user's, one of those is shared. */
static int add_one(const struct sockaddr_storage *ss, socklen_t len, unsigned user_timeout_ms, struct listener *l)
{
	const struct sockaddr *addr = (const struct sockaddr *)ss;
	int fd = l->count ? open_another(addr, len, user_timeout_ms) : claim(addr, len, user_timeout_ms);
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

static void explain(const char *listen, int err, const struct sockaddr_storage *ss)
{
	char holder[320];
	snprintf(why, sizeof why, "cannot listen on %.100s: %s", listen, strerror(-err));
	size_t n = strlen(why);
	if (err == -EADDRINUSE)
		snprintf(why + n, sizeof why - n, "; %s. End that, or set LISTEN to another port",
			 port_holder_describe((const struct sockaddr *)ss, holder, sizeof holder));
	else if (err == -EADDRNOTAVAIL)
		snprintf(why + n, sizeof why - n, "; LISTEN must name an address of this machine");
	else if (err == -EACCES)
		snprintf(why + n, sizeof why - n,
			 "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE");
	else if (err == -EAFNOSUPPORT)
		snprintf(why + n, sizeof why - n, "; IPv6 is switched off on this machine");
	else if (err == -EINVAL && ss->ss_family == AF_INET6)
		snprintf(why + n, sizeof why - n,
			 "; a link-local address needs its interface, for example [fe80::1%%eth0]:50051");
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
	learn_port(l, &ss);
	while (rc == 0 && l->count < n) {
		rc = add_one(&ss, len, user_timeout_ms, l);
		learn_port(l, &ss);
	}
	if (rc) {
		explain(listen, rc, &ss);
		while (l->count > l->given)
			close(l->fds[--l->count]);
		return rc;
	}
	describe(&ss, l->bound);
	return 0;
}
