/* The `ordinal` program: a table of sub-commands. Each has a file cmd_NAME.c of its own, and its own --help. */
#include "tools/tool.h"

#include "config_gen.h"
#include "core/base/check.h"
#include "core/base/std_fds.h"

#include <string.h>

static const struct tool_command commands[] = {
	{"next", "ask for IDs, one a line", cmd_next},
	{"publish", "send frames to a stream: arguments, or lines of standard input", cmd_publish},
	{"subscribe", "print a stream's frames, past and future", cmd_subscribe},
	{"load", "generate load, measure it, and check the answers", cmd_load},
	{"top", "watch a daemon: the one on this machine, or any", cmd_top},
	{"stats", "what a daemon is doing: the one on this machine, or any", cmd_stats},
	{"config", "what a configuration sets to something else than the defaults", cmd_config},
	{"token", "make a token, and the line that gives it rights", cmd_token},
};

static void help(FILE *f)
{
	fprintf(f, "usage: ordinal COMMAND [OPTION]...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fprintf(f,
		"\n`ordinal COMMAND --help` explains each; `ordinal --version`. The server is --server HOST:PORT, else $ORDINAL_SERVER, else\n" TOOL_SERVER_DEFAULT
		". Where it asks for a token: --token-file FILE, else $ORDINAL_TOKEN. Where it speaks TLS: --tls.\n" TOOL_EXIT_CODES);
}

static int run(int argc, char **argv)
{
	if (argc < 2) {
		help(stderr);
		return TOOL_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		help(stdout);
		return TOOL_OK;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("ordinal %s\n", ORDINAL_VERSION);
		return TOOL_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	fprintf(stderr, "ordinal: there is no command \"%s\"\n\n", argv[1]);
	help(stderr);
	return TOOL_USAGE;
}

int main(int argc, char **argv)
{
	std_fds_open(STD_FDS_PROGRAM);
	/* A full disk or a closed pipe must not look like success. */
	return std_fds_close("ordinal", run(argc, argv), TOOL_FAILED);
}
