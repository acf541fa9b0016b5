/* What the sub-commands of `ordinal` share: the command table's entries, exit codes, reading options, JSON text. Main thread. */
#ifndef ORDINAL_TOOLS_TOOL_H
#define ORDINAL_TOOLS_TOOL_H

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "rpc/client/channel.h"
#include "tools/feed_codec.h"

#include <stdio.h>

/* What every sub-command's --help ends with. */
#define TOOL_EXIT_CODES "Exit code: 0 done, 1 something failed, 2 wrong usage, 3 the server cannot be reached.\n"

enum tool_exit { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2, TOOL_UNREACHABLE = 3 };

struct tool_command {
	const char *name;
	const char *summary;
	/* argv[0] is the name; options follow. Returns the exit code. */
	int (*run)(int argc, char **argv);
};

int cmd_next(int argc, char **argv);
int cmd_load(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_publish(int argc, char **argv);
int cmd_subscribe(int argc, char **argv);
int cmd_top(int argc, char **argv);

#define TOOL_SERVER_DEFAULT "127.0.0.1:50051"
/* $ORDINAL_SERVER, or TOOL_SERVER_DEFAULT. */
const char *tool_server(void);

/* Option values. 0, or -EINVAL after one line on standard error that names the option and what it takes. */
int tool_u64(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* "10", "10s", "1.5s", "500ms", "20us", "2m": seconds unless a unit is given. */
int tool_duration(const char *option, const char *text, uint64_t *ret_ns);
int tool_protocol(const char *option, const char *text, enum channel_protocol *ret);
/* One byte: itself, or as \n, \t, \r, \0, \\ or \xHH; "none": -1. */
int tool_delimiter(const char *option, const char *text, int *ret);
int tool_slow(const char *option, const char *text, enum feed_slow *ret);
/* "Try `ordinal NAME --help`." Returns TOOL_USAGE. */
int tool_usage(const char *name);
/* For commands that take options only: 0, or TOOL_USAGE after a sentence when getopt has left an argument. */
int tool_no_arguments(const char *name, int argc, char **argv);
/* Whether a server's address has the form of one: 0, or TOOL_USAGE after a sentence. */
int tool_check_server(const char *server);
/* The sentence for an operator who cannot reach a server, on standard error. Returns TOOL_UNREACHABLE. */
int tool_unreachable(const char *server, const char *why);

/* Whether a write to a pipe or terminal would have to wait for its reader. */
bool tool_would_wait(int fd);

/* How often a command that prints for long, and has nothing to print, looks for its reader. */
#define TOOL_READER_LOOK_NS (250 * NS_PER_MS)
/* Whether nobody reads standard output any more: the other end of its pipe or socket is closed. */
bool tool_reader_gone(void);
/* Ends the program as the next write would: by SIGPIPE. Returns TOOL_FAILED where SIGPIPE is ignored. */
int tool_unread(void);

/* "ordinal: CODE: text" on standard error: how a server ended a call. */
void tool_print_status(const struct channel_status *st);

/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void tool_json_string(FILE *f, struct span s);
/* "payload":"…" where the bytes are UTF-8, else "payload_base64":"…". */
void tool_json_payload(FILE *f, struct span s);

/* Names of streams and publishers longer than this are not sent at all. */
#define TOOL_NAME_MAX 4096u
/* 0, or -EINVAL as above. */
int tool_name(const char *option, const char *text, struct span *ret);

#endif
