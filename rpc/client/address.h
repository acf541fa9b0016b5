/* "host:port" to a socket address. Blocks for as long as the resolver does: for programs' start, not for loops. */
#ifndef ORDINAL_RPC_CLIENT_ADDRESS_H
#define ORDINAL_RPC_CLIENT_ADDRESS_H

#include <sys/socket.h>

struct address {
	struct sockaddr_storage addr;
	socklen_t len;
};

#define ADDRESS_HOST_MAX 256
/* The host of an address that address_resolve takes, without brackets; of a Unix socket "localhost". What a certificate should be for. */
void address_host(const char *text, char ret[ADDRESS_HOST_MAX]);

/* Whether `text` has the form of an address: 0, or -EINVAL with a sentence in *ret_why (static). */
int address_check(const char *text, const char **ret_why);
/* "host:port", "[v6]:port" or "unix:/path". 0, or -EINVAL / -ENOENT with a sentence in *ret_why (static). */
int address_resolve(const char *text, struct address *ret, const char **ret_why);

#endif
