/* `ordinal stats`: prints what the stats socket says, as it says it; with `topology`, that part of it as a drawing (topology_view.c). Main thread. */
#include "tools/stats_http.h"
#include "tools/stats_read.h"
#include "tools/tool.h"
#include "tools/topology_view.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"usage: ordinal stats [topology] [OPTION]...\n\n"
	"Prints what the daemon on this machine is doing, read from its stats socket. With `topology`: which thread of it runs on which CPU, core and\n"
	"memory node, and the limits that it saw.\n\n"
	"  --json         the same as one JSON object, for programs\n"
	"  --metrics      the same as Prometheus text\n"
	"  --socket PATH  " STATS_READ_SOCKET TOOL_EXIT_CODES;

enum { OPT_JSON = 256, OPT_METRICS, OPT_SOCKET, OPT_HELP };
static const struct option options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"metrics", no_argument, NULL, OPT_METRICS},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static int show_page(const char *socket_path, const char *page)
{
	char *body;
	size_t n;
	int r = stats_read(socket_path, page, &body, &n);
	if (r)
		return r;
	fwrite(body, 1, n, stdout);
	if (n > 0 && body[n - 1] != '\n')
		fputc('\n', stdout);
	free(body);
	return TOOL_OK;
}

static int show_topology(const char *socket_path, bool json)
{
	struct stats_reading s;
	int r = stats_read_json(socket_path, &s);
	if (r)
		return r;
	const struct jread_node *t = jread_member(&s.json, s.json.node, "topology");
	if (!t) {
		fprintf(stderr, "ordinal: the daemon behind %s does not tell its topology\n", socket_path);
		r = TOOL_FAILED;
	} else if (json) {
		printf("%.*s\n", (int)t->text.n, (const char *)t->text.p);
	} else if (topology_view(stdout, &s.json, t)) {
		fprintf(stderr, "ordinal: out of memory\n");
		r = TOOL_FAILED;
	}
	stats_reading_done(&s);
	return r;
}

int cmd_stats(int argc, char **argv)
{
	const char *page = "/stats", *socket_path = stats_http_socket();
	bool json = false, metrics = false, topology = false;
	int opt;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case OPT_JSON:
			json = true;
			page = "/stats.json";
			break;
		case OPT_METRICS:
			metrics = true;
			page = "/metrics";
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
	if (optind < argc && strcmp(argv[optind], "topology") == 0) {
		topology = true;
		optind++;
	}
	if (tool_no_arguments("stats", argc, argv))
		return TOOL_USAGE;
	if (topology && metrics) {
		fprintf(stderr, "ordinal: there are no metrics of the topology; use --json\n");
		return tool_usage("stats");
	}
	return topology ? show_topology(socket_path, json) : show_page(socket_path, page);
}
