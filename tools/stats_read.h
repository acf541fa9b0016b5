/* What the sub-commands share that read the daemon's stats socket: the option's help, and readings with sentences for people. Main thread. */
#ifndef ORDINAL_TOOLS_STATS_READ_H
#define ORDINAL_TOOLS_STATS_READ_H

#include "tools/jread.h"

#include <stddef.h>

/* The place that --socket names; see stats_http_socket for the default. */
#define STATS_READ_SOCKET                                                                                              \
	"the socket (default: $ORDINAL_STATS_SOCKET, else /run/ordinal/stats.sock, else build/run/stats.sock)\n\n"

/* A page of the socket, terminated, in *ret (free it). Returns TOOL_OK, or TOOL_UNREACHABLE after a sentence on standard error. */
int stats_read(const char *socket_path, const char *page, char **ret, size_t *ret_n);

struct stats_reading {
	struct jread json;
	char *text; /* what json points into */
};

/* /stats.json. Returns TOOL_OK, and stats_reading_done is due; TOOL_UNREACHABLE or TOOL_FAILED (no JSON) after a sentence. */
int stats_read_json(const char *socket_path, struct stats_reading *ret);
void stats_reading_done(struct stats_reading *r);

#endif
