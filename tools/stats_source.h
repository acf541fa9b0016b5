/* Where `ordinal stats` and `ordinal top` read: the daemon's stats socket on this machine, or with --server its port, from anywhere. The options for
 * both, and one page at a time. Main thread. */
#ifndef ORDINAL_TOOLS_STATS_SOURCE_H
#define ORDINAL_TOOLS_STATS_SOURCE_H

#include "rpc/client/sync.h"
#include "tools/credentials.h"

#include <stddef.h>

/* The numbers of ordinal.v1.StatsFormat. */
enum stats_page { STATS_PAGE_TEXT, STATS_PAGE_JSON, STATS_PAGE_METRICS };

struct stats_source {
	const char *socket_path;
	const char *server; /* NULL: the socket */
	enum channel_protocol protocol;
	uint64_t timeout_ns;
	bool socket_named, network_options; /* given by the user */
	struct sync_channel *channel;       /* NULL: not connected */
};

/* For a command's list of options, and for its --help. */
#define STATS_SOURCE_OPTIONS                                                                                           \
	{"socket", required_argument, NULL, STATS_SOURCE_SOCKET},                                                      \
		{"server", required_argument, NULL, STATS_SOURCE_SERVER},                                              \
		{"protocol", required_argument, NULL, STATS_SOURCE_PROTOCOL},                                          \
		{"timeout", required_argument, NULL, STATS_SOURCE_TIMEOUT}, CREDENTIALS_OPTIONS
#define STATS_SOURCE_HELP                                                                                                                                    \
	"  --socket PATH          the stats socket (default: $ORDINAL_STATS_SOCKET, else /run/ordinal/stats.sock, else build/run/stats.sock)\n"              \
	"  --server HOST:PORT     ask there instead, over the network; where the server has rules of access, that takes the right stats. Only where it is\n" \
	"                         given: $ORDINAL_SERVER does not count here\n"                                                                              \
	"  --protocol native|grpc with --server: what to speak (default native)\n"                                                                           \
	"  --timeout DURATION     with --server: for connecting, and for each reading (default 5s)\n" CREDENTIALS_HELP
enum { STATS_SOURCE_SOCKET = 900, STATS_SOURCE_SERVER, STATS_SOURCE_PROTOCOL, STATS_SOURCE_TIMEOUT };

/* The default: the socket. Done is due at the end. */
void stats_source_init(struct stats_source *s);
void stats_source_done(struct stats_source *s);
/* Takes an option as getopt_long gave it. 0, or -EINVAL: it is none of these, or after a line on standard error. */
int stats_source_option(struct stats_source *s, int opt);
/* After the last option: whether they go together. 0, or TOOL_USAGE after a line on standard error. */
int stats_source_check(struct stats_source *s, const char *command);
/* For sentences: the socket's path, or the server. */
const char *stats_source_name(const struct stats_source *s);

/* A page, terminated, in *ret (free it). TOOL_OK; TOOL_UNREACHABLE, or TOOL_FAILED when a server refused, after a sentence on standard error. */
int stats_source_get(struct stats_source *s, enum stats_page page, char **ret, size_t *ret_n);

#endif
