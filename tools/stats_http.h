/* Reads the daemon's stats socket: a Unix socket that speaks HTTP. Blocks. Main thread. */
#ifndef ORDINAL_TOOLS_STATS_HTTP_H
#define ORDINAL_TOOLS_STATS_HTTP_H

#include <stddef.h>

/* $ORDINAL_STATS_SOCKET, else the first that exists of /run/ordinal/stats.sock and build/run/stats.sock, else the former. */
const char *stats_http_socket(void);

/* GET path. 0, with the body (terminated; free it) in *ret; or -errno with a sentence in why. -EPROTO: not HTTP, or not status 200. */
int stats_http_get(const char *socket_path, const char *path, char **ret, size_t *ret_n, char *why, size_t cap);

#endif
