/* `ordinal stats`: prints what the stats socket says, as it says it. Main thread. */
#include "tools/stats_http.h"
#include "tools/tool.h"

#include <getopt.h>
#include <stdlib.h>

static const char usage[] =
	"usage: ordinal stats [OPTION]...\n\n"
	"Prints what the daemon on this machine is doing, read from its stats socket.\n\n"
	"  --json         the same as one JSON object, for programs\n"
	"  --metrics      the same as Prometheus text\n"
	"  --socket PATH  the socket (default: $ORDINAL_STATS_SOCKET, else /run/ordinal/stats.sock, else build/run/stats.sock)\n\n" TOOL_EXIT_CODES;

enum { OPT_JSON = 256, OPT_METRICS, OPT_SOCKET, OPT_HELP };
static const struct option options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"metrics", no_argument, NULL, OPT_METRICS},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

int cmd_stats(int argc, char **argv)
{
	const char *path = "/stats", *socket_path = stats_http_socket();
	int opt;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case OPT_JSON:
			path = "/stats.json";
			break;
		case OPT_METRICS:
			path = "/metrics";
			break;
		case OPT_SOCKET:
			socket_path = optarg;
			break;
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			return TOOL_OK;
		default:
			return tool_usage("stats");
		}
	}
	if (optind < argc) {
		fprintf(stderr, "ordinal: stats takes no argument \"%s\"\n", argv[optind]);
		return tool_usage("stats");
	}
	char *body, why[512];
	size_t n;
	if (stats_http_get(socket_path, path, &body, &n, why, sizeof why)) {
		fprintf(stderr,
			"ordinal: cannot read the stats socket %s: %s\n"
			"Is ordinald running on this machine? Name its STATS_SOCKET with --socket PATH or ORDINAL_STATS_SOCKET.\n",
			socket_path, why);
		return TOOL_UNREACHABLE;
	}
	fwrite(body, 1, n, stdout);
	if (n > 0 && body[n - 1] != '\n')
		fputc('\n', stdout);
	free(body);
	return TOOL_OK;
}
