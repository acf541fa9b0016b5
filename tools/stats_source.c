/* Pages from the stats socket or from a server; see the header.
 *
 * The connection to a server is kept from one reading to the next. One that has been lost meanwhile is made again, once; a server that does not come
 * back ends the program, as one that is not there does. */
#include "tools/stats_source.h"

#include "tools/stats_http.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_MAX (64u << 20) /* bytes */

enum { REPLY_BODY = 2, WIRE_LEN = 2, REQUEST_FORMAT = 1 << 3 /* the tag of a varint */ };

void stats_source_init(struct stats_source *s)
{
	*s = (struct stats_source){
		.socket_path = stats_http_socket(), .protocol = CHANNEL_NATIVE, .timeout_ns = 5 * NS_PER_S};
}

void stats_source_done(struct stats_source *s)
{
	sync_close(s->channel);
	s->channel = NULL;
}

int stats_source_option(struct stats_source *s, int opt)
{
	if (opt == STATS_SOURCE_SOCKET) {
		s->socket_path = optarg;
		s->socket_named = true;
		return 0;
	}
	s->network_options = true;
	switch (opt) {
	case STATS_SOURCE_SERVER:
		s->server = optarg;
		return 0;
	case STATS_SOURCE_PROTOCOL:
		return tool_protocol("--protocol", optarg, &s->protocol);
	case STATS_SOURCE_TIMEOUT:
		return tool_duration("--timeout", optarg, &s->timeout_ns);
	default:
		return credentials_option(opt);
	}
}

int stats_source_check(struct stats_source *s, const char *command)
{
	if (s->server && s->socket_named)
		fprintf(stderr, "ordinal: --socket and --server are two places; name one\n");
	else if (!s->server && s->network_options)
		fprintf(stderr,
			"ordinal: the stats socket takes no protocol, time-out, token or TLS; these go with --server\n");
	else if (!s->server || (tool_check_server(s->server) == 0 && credentials_load(s->server) == 0))
		return 0;
	return tool_usage(command);
}

const char *stats_source_name(const struct stats_source *s)
{
	return s->server ? s->server : s->socket_path;
}

/* The socket. */

static int get_from_socket(const char *path, enum stats_page page, char **ret, size_t *ret_n)
{
	static const char *const paths[] = {
		[STATS_PAGE_TEXT] = "/stats", [STATS_PAGE_JSON] = "/stats.json", [STATS_PAGE_METRICS] = "/metrics"};
	char why[512];
	if (stats_http_get(path, paths[page], ret, ret_n, why, sizeof why) == 0)
		return TOOL_OK;
	fprintf(stderr,
		"ordinal: cannot read the stats socket %s: %s\n"
		"Is ordinald running on this machine? Name its STATS_SOCKET with --socket PATH or ORDINAL_STATS_SOCKET, or ask over the network "
		"with --server HOST:PORT.\n",
		path, why);
	return TOOL_UNREACHABLE;
}

/* The network. */

static int connect_to(struct stats_source *s)
{
	char why[256];
	struct channel_opts o = {.protocol = s->protocol, .connect_timeout_ns = s->timeout_ns, .message_max = PAGE_MAX};
	credentials_fill(&o);
	return sync_connect(s->server, &o, &s->channel, why, sizeof why) ? tool_unreachable(s->server, why) : TOOL_OK;
}

/* false: the connection is gone, and nothing is known. */
static bool call(struct stats_source *s, enum stats_page page, struct sync_reply *ret)
{
	uint8_t request[] = {REQUEST_FORMAT, (uint8_t)page};
	int r = sync_call(s->channel, METHOD_STATS_GET, (struct span){request, sizeof request}, s->timeout_ns, ret);
	return r == 0 && (ret->code != GRPC_UNAVAILABLE || sync_channel_of(s->channel));
}

/* Copies the field `body` of a StatsReply. */
static int take_body(struct span msg, char **ret, size_t *ret_n)
{
	const uint8_t *p = msg.p, *end = msg.p + msg.n;
	struct span body = {0, 0}, bytes;
	uint32_t number;
	uint64_t value;
	unsigned wire;
	while (p != end) {
		if (pb_get_field(&p, end, &number, &wire, &value, &bytes))
			return -EBADMSG;
		if (number == REPLY_BODY && wire == WIRE_LEN)
			body = bytes;
	}
	char *copy = malloc(body.n + 1);
	if (!copy)
		return -ENOMEM;
	if (body.n)
		memcpy(copy, body.p, body.n);
	copy[body.n] = 0;
	*ret = copy;
	*ret_n = body.n;
	return 0;
}

static int print_refusal(const struct stats_source *s, const struct sync_reply *reply)
{
	fprintf(stderr, "ordinal: %s: %s\n", grpc_status_name(reply->code),
		reply->text[0]                          ? reply->text
		: reply->code == GRPC_DEADLINE_EXCEEDED ? "no answer within --timeout"
							: "the server gave no reason");
	if (reply->code == GRPC_UNAUTHENTICATED)
		fprintf(stderr,
			"Show a token with --token-file FILE or ORDINAL_TOKEN, or a certificate with --tls-cert.\n");
	else if (reply->code == GRPC_PERMISSION_DENIED)
		fprintf(stderr,
			"Who keeps the rules of %s gives the right: `stats` in the line of this token or certificate.\n",
			s->server);
	else if (reply->code == GRPC_UNIMPLEMENTED)
		fprintf(stderr,
			"%s does not tell its figures over the network; on that machine its stats socket does.\n",
			s->server);
	return TOOL_FAILED;
}

static int get_from_server(struct stats_source *s, enum stats_page page, char **ret, size_t *ret_n)
{
	struct sync_reply reply = {0};
	bool known = s->channel && call(s, page, &reply);
	if (!known) {
		stats_source_done(s);
		int r = connect_to(s);
		if (r)
			return r;
		known = call(s, page, &reply);
	}
	if (!known)
		return tool_unreachable(s->server, reply.text[0] ? reply.text : "the connection was lost");
	if (reply.code != GRPC_OK)
		return print_refusal(s, &reply);
	int r = take_body(reply.message, ret, ret_n);
	if (r == 0)
		return TOOL_OK;
	fprintf(stderr, "ordinal: %s\n", r == -ENOMEM ? "out of memory" : "the server's answer is no StatsReply");
	return TOOL_FAILED;
}

int stats_source_get(struct stats_source *s, enum stats_page page, char **ret, size_t *ret_n)
{
	return s->server ? get_from_server(s, page, ret, ret_n) : get_from_socket(s->socket_path, page, ret, ret_n);
}
