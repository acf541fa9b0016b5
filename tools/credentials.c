/* Token and TLS of this program; see the header. One set, because a command calls one server. */
#include "tools/credentials.h"
#include "tools/tool.h"

#include "core/tls.h"
#include "rpc/access.h"
#include "rpc/client/address.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static struct {
	char token[ACCESS_TOKEN_MAX + 2];
	bool use_tls;
	struct tls_client_opts opts;
	const char *name;
	char host[ADDRESS_HOST_MAX];
	struct tls_context *tls;
} have;

/* A token is the first line of its file. */
static int read_token(const char *path)
{
	FILE *f = fopen(path, "re");
	if (!f) {
		fprintf(stderr, "ordinal: --token-file %s: %s\n", path, strerror(errno));
		return -EINVAL;
	}
	size_t n = fread(have.token, 1, sizeof have.token - 1, f);
	fclose(f);
	have.token[n] = 0;
	have.token[strcspn(have.token, "\r\n")] = 0;
	if (have.token[0] && strlen(have.token) <= ACCESS_TOKEN_MAX)
		return 0;
	fprintf(stderr, "ordinal: --token-file %s: its first line must be a token of at most %d bytes\n", path,
		ACCESS_TOKEN_MAX);
	return -EINVAL;
}

int credentials_option(int opt)
{
	switch (opt) {
	case CREDENTIALS_TOKEN_FILE:
		return read_token(optarg);
	case CREDENTIALS_TLS:
		break;
	case CREDENTIALS_TLS_CA:
		have.opts.ca = optarg;
		break;
	case CREDENTIALS_TLS_CERT:
		have.opts.cert = optarg;
		break;
	case CREDENTIALS_TLS_KEY:
		have.opts.key = optarg;
		break;
	case CREDENTIALS_TLS_NAME:
		have.name = optarg;
		break;
	default:
		return -EINVAL;
	}
	have.use_tls = true;
	return 0;
}

int credentials_load(const char *server)
{
	const char *why;
	if (!have.use_tls)
		return 0;
	if (!have.opts.cert != !have.opts.key) {
		fprintf(stderr, "ordinal: --tls-cert and --tls-key go together\n");
		return -EINVAL;
	}
	if (!have.name) {
		address_host(server, have.host);
		have.name = have.host;
	}
	if (!*have.name || strlen(have.name) > TLS_NAME_MAX) {
		fprintf(stderr, "ordinal: --tls-name takes a host name or an address, of 1 to %d bytes\n",
			TLS_NAME_MAX);
		return -EINVAL;
	}
	if (tls_client_context_new(&have.opts, &have.tls, &why)) {
		fprintf(stderr, "ordinal: TLS: %s\n", why);
		return -EINVAL;
	}
	return 0;
}

void credentials_fill(struct channel_opts *o)
{
	const char *s = getenv("ORDINAL_TOKEN");
	o->token = have.token[0] ? have.token : s && *s ? s : NULL;
	o->tls = have.tls;
	o->tls_name = have.name;
}
