/* `ordinal next`: a number of IDs of one sequence, as text. Asks for ranges, one after another, so that 10 million IDs are ten calls; of a server that
 * grants fewer at once (COUNT_MAX) it learns how many that are. Main thread, with the synchronous channel. */
#include "tools/credentials.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/client/sync.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_MAX 1000000u /* IDs in one call, if the server grants so many */
#define SEQUENCE_MAX 4096u

struct next {
	struct span sequence;
	uint64_t count, timeout_ns;
	const char *server;
	enum channel_protocol protocol;
	bool json;
};

static const char usage[] =
	"usage: ordinal next [OPTION]...\n\n"
	"Prints IDs, one a line; they rise, and no other caller of this sequence gets them.\n\n"
	"  --sequence S           the sequence (default: \"\", the default one)\n"
	"  --count N              how many IDs (default 1); asked for in pieces of 1,000,000, or of what the server grants at once\n"
	"  --server HOST:PORT     where ordinald listens (default: $ORDINAL_SERVER, else " TOOL_SERVER_DEFAULT ")\n"
	"  --protocol native|grpc what to speak (default native)\n"
	"  --timeout DURATION     for connecting, and for each call (default 5s)\n" CREDENTIALS_HELP
	"  --json                 one object: sequence, order, ranges of {first, count}\n\n" TOOL_EXIT_CODES;

enum { OPT_SEQUENCE = 256, OPT_COUNT, OPT_SERVER, OPT_PROTOCOL, OPT_TIMEOUT, OPT_JSON, OPT_HELP };
static const struct option options[] = {
	{"sequence", required_argument, NULL, OPT_SEQUENCE},
	{"count", required_argument, NULL, OPT_COUNT},
	{"server", required_argument, NULL, OPT_SERVER},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	CREDENTIALS_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int take_option(struct next *n, int opt)
{
	switch (opt) {
	case OPT_SEQUENCE:
		n->sequence = (struct span){(const uint8_t *)optarg, strlen(optarg)};
		if (n->sequence.n > SEQUENCE_MAX) {
			fprintf(stderr, "ordinal: --sequence is longer than any sequence's name may be\n");
			return -EINVAL;
		}
		return 0;
	case OPT_COUNT:
		return tool_u64("--count", optarg, 1, UINT64_MAX, &n->count);
	case OPT_SERVER:
		n->server = optarg;
		return 0;
	case OPT_PROTOCOL:
		return tool_protocol("--protocol", optarg, &n->protocol);
	case OPT_TIMEOUT:
		return tool_duration("--timeout", optarg, &n->timeout_ns);
	case OPT_JSON:
		n->json = true;
		return 0;
	default:
		return credentials_option(opt);
	}
}

static int print_failure(const struct next *n, int r, const struct sync_reply *reply)
{
	if (r) {
		fprintf(stderr, "ordinal: the call could not be made: %s\n", reply->text);
		return TOOL_FAILED;
	}
	fprintf(stderr, "ordinal: %s: %s\n", grpc_status_name(reply->code),
		reply->text[0]                          ? reply->text
		: reply->code == GRPC_DEADLINE_EXCEEDED ? "no answer within --timeout"
							: "the server gave no reason");
	if (reply->code == GRPC_UNAVAILABLE)
		fprintf(stderr,
			"%s is stopping, or the connection was lost; IDs that were under way are skipped, never given twice.\n",
			n->server);
	return TOOL_FAILED;
}

static void print_range(const struct next *n, const struct pb_next_reply *r, bool first)
{
	if (n->json) {
		if (first) {
			printf("{\"sequence\":");
			tool_json_string(stdout, n->sequence);
			printf(",\"order\":\"%s\"", r->order ? "sharded" : "strict");
			if (r->incarnation != 0) /* as text: it needs all of 64 bits */
				printf(",\"incarnation\":\"%" PRIu64 "\"", r->incarnation);
			printf(",\"ranges\":[");
		}
		printf("%s{\"first\":%" PRIu64 ",\"count\":%" PRIu32 "}", first ? "" : ",", r->first, r->count);
		return;
	}
	for (uint32_t i = 0; i < r->count; i++)
		printf("%" PRIu64 "\n", r->first + i);
}

/* How many IDs to ask for at once. Which limit a refusal is for is not looked at: after the first one a single ID is asked for, which is refused too
 * where it is not about the number, and from there pieces double up to what was refused. */
struct pieces {
	uint32_t now;
	uint64_t refused; /* so many, and more; UINT64_MAX: none were */
	bool granted;     /* any */
};

static uint32_t pieces_next(const struct pieces *p, uint64_t left)
{
	return left < p->now ? (uint32_t)left : p->now;
}

static void pieces_grant(struct pieces *p, uint32_t count)
{
	p->granted = true;
	if (p->refused != UINT64_MAX && count == p->now && (uint64_t)count * 2 < p->refused && count * 2 <= PIECE_MAX)
		p->now = count * 2;
}

/* false: there is no smaller piece to try. */
static bool pieces_refuse(struct pieces *p, uint32_t count)
{
	p->refused = count;
	p->now = p->granted && count > 1 ? count / 2 : 1;
	return count > 1;
}

/* Whether these are at most `piece` IDs, none of them 0, above `last`, and within 64 bits. */
static bool is_answer(const struct pb_next_reply *r, uint32_t piece, uint64_t last)
{
	return r->count > 0 && r->count <= piece && r->first > last && r->first <= UINT64_MAX - (r->count - 1);
}

/* The IDs of several answers rise only while the sequence is the same one. */
static int other_incarnation(const struct next *n, uint64_t was, uint64_t is)
{
	if (n->json)
		printf("]}\n");
	fprintf(stderr,
		"ordinal: the sequence has begun another incarnation, %" PRIu64 " (it was %" PRIu64
		"): it was lost, restored or forgotten on the server, and gives IDs again that it had given before\n",
		is, was);
	return TOOL_FAILED;
}

static int run(const struct next *n, struct sync_channel *s)
{
	uint8_t request[SEQUENCE_MAX + 2 * PB_VARINT_MAX];
	uint64_t incarnation = 0;
	bool first = true;
	uint64_t last = 0;
	struct pieces pieces = {.now = PIECE_MAX, .refused = UINT64_MAX};
	for (uint64_t left = n->count; left > 0;) {
		struct sync_reply reply;
		struct pb_next_reply ids;
		uint32_t piece = pieces_next(&pieces, left);
		size_t len = pb_next_request_put(request, sizeof request, n->sequence, piece);
		int r = sync_call(s, METHOD_IDS_NEXT, (struct span){request, len}, n->timeout_ns, &reply);
		if (r == 0 && reply.code == GRPC_RESOURCE_EXHAUSTED && pieces_refuse(&pieces, piece))
			continue;
		if (r || reply.code != GRPC_OK) {
			if (n->json && !first)
				printf("]}\n");
			return print_failure(n, r, &reply);
		}
		r = pb_next_reply_get(reply.message, &ids);
		if (r == 0 && !first && ids.incarnation != incarnation)
			return other_incarnation(n, incarnation, ids.incarnation);
		if (r || !is_answer(&ids, piece, last)) {
			fprintf(stderr, "ordinal: the server's answer is no NextReply for %" PRIu32 " IDs that rise\n",
				piece);
			return TOOL_FAILED;
		}
		incarnation = ids.incarnation;
		last = ids.first + ids.count - 1;
		pieces_grant(&pieces, piece);
		print_range(n, &ids, first);
		left -= ids.count;
		first = false;
	}
	if (n->json)
		printf("]}\n");
	return TOOL_OK;
}

int cmd_next(int argc, char **argv)
{
	struct next n = {.count = 1, .timeout_ns = 5 * NS_PER_S, .server = tool_server(), .protocol = CHANNEL_NATIVE};
	int opt;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return TOOL_OK;
		}
		if (take_option(&n, opt))
			return tool_usage("next");
	}
	if (tool_no_arguments("next", argc, argv))
		return TOOL_USAGE;
	struct sync_channel *s;
	char why[256];
	struct channel_opts o = {.protocol = n.protocol, .connect_timeout_ns = n.timeout_ns};
	if (tool_check_server(n.server) || credentials_load(n.server))
		return tool_usage("next");
	credentials_fill(&o);
	if (sync_connect(n.server, &o, &s, why, sizeof why))
		return tool_unreachable(n.server, why);
	int r = run(&n, s);
	sync_close(s);
	return r;
}
