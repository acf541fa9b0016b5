/* Server addresses as people write them. The first address that the resolver gives is used. Any thread. */
#include "rpc/client/address.h"

#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define UNIX_PREFIX "unix:"

static int resolve_unix(const char *path, struct address *ret, const char **ret_why)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&ret->addr;
	size_t n = strlen(path);
	if (n == 0 || n >= sizeof un->sun_path) {
		*ret_why = "a Unix socket's path has 1 to 107 bytes";
		return -EINVAL;
	}
	memset(un, 0, sizeof *un);
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, n);
	ret->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	return 0;
}

/* The part of `text` that names the host: n bytes at the result. */
static const char *host_of(const char *text, size_t *n)
{
	const char *colon = strrchr(text, ':');
	*n = colon ? (size_t)(colon - text) : 0;
	if (*n < 2 || text[0] != '[' || text[*n - 1] != ']')
		return text;
	*n -= 2;
	return text + 1;
}

void address_host(const char *text, char ret[ADDRESS_HOST_MAX])
{
	size_t n = strlen("localhost");
	const char *host = strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0 ? "localhost" : host_of(text, &n);
	if (n >= ADDRESS_HOST_MAX)
		n = ADDRESS_HOST_MAX - 1;
	memcpy(ret, host, n);
	ret[n] = 0;
}

int address_check(const char *text, const char **ret_why)
{
	struct address unused;
	if (strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
		return resolve_unix(text + strlen(UNIX_PREFIX), &unused, ret_why);
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	if (!colon || n == 0 || n >= ADDRESS_HOST_MAX || colon[1] == 0) {
		*ret_why = "expected HOST:PORT, [IPV6]:PORT or unix:/PATH";
		return -EINVAL;
	}
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10); /* the resolver takes 115587 for 50051 */
	if (*end || colon[1] < '0' || colon[1] > '9' || port > UINT16_MAX) {
		*ret_why = "a port is a number from 0 to 65535";
		return -EINVAL;
	}
	return 0;
}

int address_resolve(const char *text, struct address *ret, const char **ret_why)
{
	char host[ADDRESS_HOST_MAX];
	int err = address_check(text, ret_why);
	if (err)
		return err;
	if (strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
		return resolve_unix(text + strlen(UNIX_PREFIX), ret, ret_why);
	address_host(text, host);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
	int r = getaddrinfo(host, strrchr(text, ':') + 1, &hints, &list);
	if (r) {
		*ret_why = gai_strerror(r);
		return -ENOENT;
	}
	memcpy(&ret->addr, list->ai_addr, list->ai_addrlen);
	ret->len = list->ai_addrlen;
	freeaddrinfo(list);
	return 0;
}
