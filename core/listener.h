/* Listening sockets. Main thread. */
#ifndef ORDINAL_CORE_LISTENER_H
#define ORDINAL_CORE_LISTENER_H

#include <stddef.h>
#include <stdint.h>

#define LISTENER_TEXT 64

/* Opens `n` SO_REUSEPORT sockets on "host:port" ("[v6]:port"; port 0 picks one, the same for all), listening, with the options that accepted
 * sockets inherit: TCP_NODELAY, keepalive, TCP_USER_TIMEOUT of user_timeout_ms. On success ret_fds holds n descriptors and
 * ret_bound the address in force. -errno, with a sentence in ret_why (valid until the next call). */
int listener_open(const char *listen, unsigned n, unsigned user_timeout_ms, int *ret_fds, char ret_bound[LISTENER_TEXT],
		  const char **ret_why);

/* Whether "host:port" names only loopback addresses: 1, 0, or -EINVAL for a malformed one. */
int listener_is_loopback(const char *listen);

#endif
