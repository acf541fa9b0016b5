/* `ordinal config diff`: what a configuration file changes, without a daemon. Main thread. */
#include "core/config.h"
#include "tools/tool.h"

#include <getopt.h>
#include <string.h>

static const char usage[] =
	"usage: ordinal config diff [OPTION]...\n\n"
	"Shows what a configuration of ordinald sets to something other than the default. What it prints is a configuration file again.\n\n"
	"  -c, --config FILE  the file (default: /etc/ordinal/ordinal.conf)\n\n" TOOL_EXIT_CODES;

enum { OPT_HELP = 256 };
static const struct option options[] = {
	{"config", required_argument, NULL, 'c'},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static int diff(const char *file)
{
	struct config c;
	struct config_error why;
	if (config_load(&c, file, NULL, 0, &why)) {
		fprintf(stderr, "ordinal: %s\n", why.text);
		return TOOL_FAILED;
	}
	int n = config_diff(&c, stdout);
	config_done(&c);
	if (n == 0)
		printf("# %s is all defaults\n", file);
	return n < 0 ? TOOL_FAILED : TOOL_OK;
}

int cmd_config(int argc, char **argv)
{
	const char *file = "/etc/ordinal/ordinal.conf";
	int opt;
	while ((opt = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			file = optarg;
			break;
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			return TOOL_OK;
		default:
			return tool_usage("config");
		}
	}
	if (optind + 1 != argc || strcmp(argv[optind], "diff") != 0) {
		fprintf(stderr, "ordinal: config takes one argument: diff\n");
		return tool_usage("config");
	}
	return diff(file);
}
