/* Listening sockets. Main thread. */
#ifndef ORDINAL_CORE_LISTENER_H
#define ORDINAL_CORE_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LISTENER_TEXT 64

#define LISTENER_MAX 64

/* The sockets of one address. */
struct listener {
	int fds[LISTENER_MAX];
	unsigned count;
	unsigned given;            /* the first of them came from the caller */
	bool shared;               /* the others are duplicates of those */
	char bound[LISTENER_TEXT]; /* the address in force */
};

/* Opens SO_REUSEPORT sockets on "host:port" ("[v6]:port"; [::] is for IPv4, too; port 0 picks
 * one, the same for all), listening, with the options that accepted sockets inherit:
 * TCP_NODELAY, keepalive, TCP_USER_TIMEOUT of user_timeout_ms. l->fds holds l->given listening
 * sockets already (of an earlier process, or of systemd, for which listener_is_on holds), and
 * the set is filled up to n; where the kernel refuses more, because the given ones are another
 * user's, with duplicates of the given ones. Without given ones the address is this process's
 * alone: of several that call this at the same moment one succeeds, and the others get
 * -EADDRINUSE. On success there are n or more. -errno, with a sentence in ret_why (valid until
 * the next call); what was given stays open. */
int listener_open(const char *listen, unsigned n, unsigned user_timeout_ms, struct listener *l, const char **ret_why);
/* Sets what accepted sockets inherit, on sockets that listen. Any thread. */
void listener_set_user_timeout(const struct listener *l, unsigned user_timeout_ms);
/* Whether fd is a TCP socket that listens on "host:port" (port 0: on any port). ret_bound, if not NULL, gets the address where it is one. */
bool listener_is_on(int fd, const char *listen, char ret_bound[LISTENER_TEXT]);
/* Whether fd listens on [::], and for IPv6 alone (IPV6_V6ONLY, which cannot be changed on a
 * bound socket). */
bool listener_lacks_ipv4(int fd);

/* Whether "host:port" names only loopback addresses: 1, 0, or -EINVAL for a malformed one. */
int listener_is_loopback(const char *listen);

#endif
