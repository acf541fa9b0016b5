/* What every command that calls a server shows to it and asks of it: a token, and TLS. The options are taken on the main thread, before any
 * connection; credentials_fill may then be called from any thread. */
#ifndef ORDINAL_TOOLS_CREDENTIALS_H
#define ORDINAL_TOOLS_CREDENTIALS_H

#include "rpc/client/channel.h"

/* For a command's list of options, and for its --help. */
#define CREDENTIALS_OPTIONS                                                                                            \
	{"token-file", required_argument, NULL, CREDENTIALS_TOKEN_FILE}, {"tls", no_argument, NULL, CREDENTIALS_TLS},  \
		{"tls-ca", required_argument, NULL, CREDENTIALS_TLS_CA},                                               \
		{"tls-cert", required_argument, NULL, CREDENTIALS_TLS_CERT},                                           \
		{"tls-key", required_argument, NULL, CREDENTIALS_TLS_KEY},                                             \
	{                                                                                                              \
		"tls-name", required_argument, NULL, CREDENTIALS_TLS_NAME                                              \
	}
#define CREDENTIALS_HELP                                                                                               \
	"  --token-file FILE      a token to show, its first line (default: $ORDINAL_TOKEN, else none)\n"              \
	"  --tls                  call over TLS; each of the following means it too\n"                                 \
	"  --tls-ca FILE          the authorities to trust, PEM (default: the system's)\n"                             \
	"  --tls-cert FILE        this client's certificate, PEM, and\n"                                               \
	"  --tls-key FILE         its key, where the server asks for one (mutual TLS)\n"                               \
	"  --tls-name NAME        what the server's certificate must be for (default: the host of --server)\n"
enum {
	CREDENTIALS_TOKEN_FILE = 1000,
	CREDENTIALS_TLS,
	CREDENTIALS_TLS_CA,
	CREDENTIALS_TLS_CERT,
	CREDENTIALS_TLS_KEY,
	CREDENTIALS_TLS_NAME
};

/* Takes an option as getopt_long gave it. 0, or -EINVAL: it is none of these, or after a line on standard error. */
int credentials_option(int opt);
/* After the last option: reads the files. 0, or -EINVAL after a line on standard error. */
int credentials_load(const char *server);
/* Sets token, tls and tls_name, which stay. */
void credentials_fill(struct channel_opts *o);

#endif
