/* "host:port" to a socket address. Blocks for as long as the resolver does: for programs' start, not for loops. */
#ifndef ORDINAL_RPC_CLIENT_ADDRESS_H
#define ORDINAL_RPC_CLIENT_ADDRESS_H

#include <sys/socket.h>

struct address {
	struct sockaddr_storage addr;
	socklen_t len;
};

/* "host:port", "[v6]:port" or "unix:/path". 0, or -EINVAL / -ENOENT with a sentence in *ret_why (static). */
int address_resolve(const char *text, struct address *ret, const char **ret_why);

#endif
