/* `ordinal stats`: prints what the daemon tells, as it tells it; with `topology`, that part of it as a drawing (topology_view.c). Main thread. */
#include "tools/stats_read.h"
#include "tools/tool.h"
#include "tools/topology_view.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"usage: ordinal stats [topology] [OPTION]...\n\n"
	"Prints what the daemon is doing: the one on this machine, read from its stats socket, or with --server any that can be reached. With\n"
	"`topology`: which thread of it runs on which CPU, core and memory node, and the limits that it saw.\n\n"
	"  --json                 the same as one JSON object, for programs\n"
	"  --metrics              the same as Prometheus text\n" STATS_SOURCE_HELP "\n" TOOL_EXIT_CODES;

enum { OPT_JSON = 256, OPT_METRICS, OPT_HELP };
static const struct option options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"metrics", no_argument, NULL, OPT_METRICS},
	{"help", no_argument, NULL, OPT_HELP},
	STATS_SOURCE_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int show_page(struct stats_source *s, enum stats_page page)
{
	char *body;
	size_t n;
	int r = stats_source_get(s, page, &body, &n);
	if (r)
		return r;
	fwrite(body, 1, n, stdout);
	if (n > 0 && body[n - 1] != '\n')
		fputc('\n', stdout);
	free(body);
	return TOOL_OK;
}

static int show_topology(struct stats_source *source, bool json)
{
	struct stats_reading s;
	int r = stats_read_json(source, &s);
	if (r)
		return r;
	const struct jread_node *t = jread_member(&s.json, s.json.node, "topology");
	if (!t) {
		fprintf(stderr, "ordinal: the daemon behind %s does not tell its topology\n",
			stats_source_name(source));
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
	enum stats_page page = STATS_PAGE_TEXT;
	struct stats_source s;
	bool json = false, metrics = false, topology = false;
	int opt;
	stats_source_init(&s);
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case OPT_JSON:
			json = true;
			page = STATS_PAGE_JSON;
			break;
		case OPT_METRICS:
			metrics = true;
			page = STATS_PAGE_METRICS;
			break;
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			return TOOL_OK;
		default:
			if (stats_source_option(&s, opt))
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
	if (stats_source_check(&s, "stats"))
		return TOOL_USAGE;
	int r = topology ? show_topology(&s, json) : show_page(&s, page);
	stats_source_done(&s);
	return r;
}
