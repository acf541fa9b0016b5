/* Who has a TCP port; see the header. Main thread, at start.
 *
 * The kernel lists the sockets of this network namespace in /proc/self/net/tcp and tcp6: both
 * addresses, the state, the user and the inode. Which process has the inode is found among the
 * descriptors that this user may look at. What cannot be found is left out of the sentence: a
 * socket of another user's process has only that user, a connection that has ended has no process
 * any more, and a socket that is bound and neither listens nor is connected is in no list.
 * Source: proc(5), /proc/net/tcp. */
#include "core/port_holder.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATE_TIME_WAIT = 6, STATE_LISTEN = 10 }; /* include/net/tcp_states.h */

struct endpoint {
	struct in6_addr ip; /* IPv4 as ::ffff:a.b.c.d */
	uint16_t port;
};

struct holder {
	struct endpoint local, remote;
	unsigned state;
	unsigned uid;
	uint64_t inode; /* 0: of no process */
};

static bool is_any(const struct in6_addr *ip)
{
	static const uint8_t any_v4[16] = {[10] = 0xff, [11] = 0xff};
	return IN6_IS_ADDR_UNSPECIFIED(ip) || memcmp(ip, any_v4, sizeof any_v4) == 0;
}

static struct endpoint endpoint_of(const struct sockaddr *addr)
{
	struct endpoint e = {0};
	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)addr;
		e.ip.s6_addr[10] = e.ip.s6_addr[11] = 0xff;
		memcpy(e.ip.s6_addr + 12, &a->sin_addr, 4);
		e.port = ntohs(a->sin_port);
	} else {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)addr;
		e.ip = a->sin6_addr;
		e.port = ntohs(a->sin6_port);
	}
	return e;
}

/* "0100007F:C383" or, of IPv6, four such words: each is a word of the address as this machine's
 * memory has it. */
static bool parse_endpoint(const char *text, struct endpoint *ret)
{
	uint32_t word[4] = {0, 0, htonl(0xffff), 0};
	const char *colon = strchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	unsigned port;
	if ((n != 8 && n != 32) || sscanf(colon, ":%4x", &port) != 1)
		return false;
	for (size_t i = 0; i < n / 8; i++) {
		if (sscanf(text + 8 * i, "%8" SCNx32, &word[n == 8 ? 3 : i]) != 1)
			return false;
	}
	memcpy(&ret->ip, word, sizeof word);
	ret->port = (uint16_t)port;
	return true;
}

static bool parse_line(const char *line, struct holder *ret)
{
	char local[64], remote[64];
	return sscanf(line, " %*d: %63s %63s %x %*s %*s %*s %u %*d %" SCNu64, local, remote, &ret->state, &ret->uid,
		      &ret->inode) == 5 &&
	       parse_endpoint(local, &ret->local) && parse_endpoint(remote, &ret->remote);
}

/* Whether the one is the reason that the other cannot be bound. */
static bool conflicts(const struct endpoint *a, const struct endpoint *b)
{
	return a->port == b->port && (is_any(&a->ip) || is_any(&b->ip) || memcmp(&a->ip, &b->ip, sizeof a->ip) == 0);
}

/* What explains a refusal best: a listening socket, then a connection of a process, then one
 * that has ended. */
static unsigned weight(const struct holder *h)
{
	return h->state == STATE_LISTEN ? 3 : h->inode ? 2 : 1;
}

static void look_through(const char *path, const struct endpoint *wanted, struct holder *best, unsigned *best_weight)
{
	char line[512];
	FILE *f = fopen(path, "re");
	if (!f)
		return;
	while (fgets(line, sizeof line, f)) {
		struct holder h;
		if (!parse_line(line, &h) || !conflicts(&h.local, wanted) || weight(&h) <= *best_weight)
			continue;
		*best = h;
		*best_weight = weight(&h);
	}
	fclose(f);
}

static bool has_descriptor(const char *pid, const char *link)
{
	char path[64], target[64];
	bool found = false;
	snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
	DIR *d = opendir(path);
	if (!d)
		return false;
	for (struct dirent *e; !found && (e = readdir(d));) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
		target[n > 0 ? n : 0] = 0;
		found = strcmp(target, link) == 0;
	}
	closedir(d);
	return found;
}

/* The process that has the socket, or 0. */
static long find_process(uint64_t inode)
{
	char link[64];
	long pid = 0;
	DIR *d = inode ? opendir("/proc") : NULL;
	if (!d)
		return 0;
	snprintf(link, sizeof link, "socket:[%" PRIu64 "]", inode);
	for (struct dirent *e; !pid && (e = readdir(d));) {
		if (strspn(e->d_name, "0123456789") == strlen(e->d_name) && has_descriptor(e->d_name, link))
			pid = strtol(e->d_name, NULL, 10);
	}
	closedir(d);
	return pid;
}

static void describe_process(const struct holder *h, char *buf, size_t cap)
{
	char path[64], name[32] = "";
	long pid = find_process(h->inode);
	if (!pid) {
		snprintf(buf, cap, "a process of user %u", h->uid);
		return;
	}
	snprintf(path, sizeof path, "/proc/%ld/comm", pid);
	FILE *f = fopen(path, "re");
	if (f && fgets(name, sizeof name, f))
		name[strcspn(name, "\n")] = 0;
	if (f)
		fclose(f);
	for (char *p = name; *p; p++) { /* a process chooses its name, and this goes into a log */
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
	snprintf(buf, cap, "process %ld (%s)", pid, name);
}

static void describe_endpoint(const struct endpoint *e, char *buf, size_t cap)
{
	char host[INET6_ADDRSTRLEN] = "";
	bool v4 = IN6_IS_ADDR_V4MAPPED(&e->ip);
	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? e->ip.s6_addr + 12 : e->ip.s6_addr, host, sizeof host);
	snprintf(buf, cap, v4 ? "%s:%u" : "[%s]:%u", host, e->port);
}

const char *port_holder_describe(const struct sockaddr *addr, char *buf, size_t cap)
{
	struct endpoint wanted = endpoint_of(addr);
	struct holder h;
	unsigned found = 0;
	char who[64], where[64];
	look_through("/proc/self/net/tcp", &wanted, &h, &found);
	look_through("/proc/self/net/tcp6", &wanted, &h, &found);
	if (!found) {
		snprintf(buf, cap, "another process has this port");
		return buf;
	}
	bool listens = h.state == STATE_LISTEN;
	describe_endpoint(listens ? &h.local : &h.remote, where, sizeof where);
	describe_process(&h, who, sizeof who);
	if (listens)
		snprintf(buf, cap, "%s listens on %s", who, where);
	else if (h.inode)
		snprintf(
			buf, cap,
			"%s uses this port for its connection to %s (net.ipv4.ip_local_reserved_ports keeps the kernel from giving the port "
			"away: see ordinal-tune(8))",
			who, where);
	else
		snprintf(
			buf, cap,
			"a connection to %s that has %s uses this port (net.ipv4.ip_local_reserved_ports keeps the kernel from giving the port "
			"away: see ordinal-tune(8))",
			where, h.state == STATE_TIME_WAIT ? "ended less than a minute ago" : "no process any more");
	return buf;
}
