/* `ordinal load`: its options. Main thread. */
#include "tools/credentials.h"
#include "tools/load.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CONNECTIONS_MAX 100000u
#define DEPTH_MAX 100000u
#define SLOTS_MAX (16u << 20) /* connections x depth */
#define SIZE_MAX_BYTES (64u << 20)

static const char usage[] =
	"usage: ordinal load [OPTION]...\n\n"
	"Calls Ids, or publishes frames, as fast as the server answers (closed loop), or at a given rate (open loop); reads frames with any number of\n"
	"subscribers; reports rate, latency and status codes; and checks what came: IDs and offsets that rise and come once, frames that every\n"
	"subscriber gets once, in order, with none missing.\n\n"
	"  --method next          one call an answer (the default)\n"
	"           take          one long stream a connection\n"
	"           publish       frames, one call an answer\n"
	"           publish-many  frames, one long stream a connection\n"
	"           subscribe     read a stream: its history, and with --duration what follows\n"
	"           fanout        publish-many, and subscribers who get all of it: items are deliveries, latency is from publish to delivery\n\n"
	"  --connections N        (default 5)\n"
	"  --publishers N         the same for frames (default 5; fanout: 1)\n"
	"  --depth N              calls in flight on each connection; with grpc: streams (default 20)\n"
	"  --threads N            threads of this program, each with its own loop (default 1)\n"
	"  --duration DURATION    of measuring (default 10s)\n"
	"  --requests N           stop after this many calls instead\n"
	"  --warmup DURATION      before measuring begins (default 0)\n"
	"  --protocol native|grpc (default native; for frames grpc, as they are stored)\n"
	"  --count N              IDs in a call (default 1)\n"
	"  --sequence S           (default: \"\", the default one)\n"
	"  --rate N               calls/s in all: open loop. Latency counts from when a call was due, so stalls are charged in full\n"
	"  --timeout DURATION     deadline of each call of next and publish (default: none)\n\n"
	"  --stream S             of frames (default \"load\")\n"
	"  --size BYTES           of each payload, at least 28 (default 64)\n"
	"  --seq same|rising      the seq_no of frames: the same for all of a run, so that they are in order as they come; or each publisher's own,\n"
	"                         rising by one, so that those of several publishers are not (default: same, with one publisher rising)\n"
	"  --subscribers N        (default 1)\n"
	"  --subscriber-threads N threads that read for them (default 1)\n"
	"  --since SEQ            subscribe: only frames at or above it (default 0); fanout: only this run\'s, always\n"
	"  --slow wait|drop|disconnect   what the server does with a subscriber who is slow (default wait)\n"
	"  --lag N                fanout, closed loop: publishers wait when a subscriber is so many frames behind; 0: never (default 16384)\n"
	"  --verify sampled|all|none   of a receive, the CRC of the first 64 frames and of every 16th then; of all; of none (default sampled)\n\n"
	"  --server HOST:PORT     (default: $ORDINAL_SERVER, else " TOOL_SERVER_DEFAULT ")\n" CREDENTIALS_HELP
	"  --pin CPULIST          CPUs for the threads, such as 1 or 2-5,8; first for those that call, then for those that read\n"
	"  --live                 a line on standard error twice a second, even where that is no terminal\n"
	"  --json                 the report as one object\n\n"
	"The clock is read once a loop turn for sending and once for receiving. IDs are remembered as bits, 64 KiB for each 524,288 in a row, let\n"
	"go when complete; at most 1 GiB. Ctrl-C ends early, with the report.\n"
	"Exit code: 0 every call was answered with OK and the check holds, 1 not so, 2 wrong usage, 3 the server cannot be reached.\n";

enum {
	OPT_CONNECTIONS = 256,
	OPT_DEPTH,
	OPT_THREADS,
	OPT_DURATION,
	OPT_REQUESTS,
	OPT_WARMUP,
	OPT_PROTOCOL,
	OPT_METHOD,
	OPT_COUNT,
	OPT_SEQUENCE,
	OPT_RATE,
	OPT_TIMEOUT,
	OPT_SERVER,
	OPT_PIN,
	OPT_LIVE,
	OPT_JSON,
	OPT_STREAM,
	OPT_SIZE,
	OPT_SEQ,
	OPT_SUBSCRIBERS,
	OPT_SUB_THREADS,
	OPT_SINCE,
	OPT_SLOW,
	OPT_LAG,
	OPT_VERIFY,
	OPT_HELP
};
static const struct option options[] = {
	{"connections", required_argument, NULL, OPT_CONNECTIONS},
	{"publishers", required_argument, NULL, OPT_CONNECTIONS},
	{"depth", required_argument, NULL, OPT_DEPTH},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"duration", required_argument, NULL, OPT_DURATION},
	{"requests", required_argument, NULL, OPT_REQUESTS},
	{"warmup", required_argument, NULL, OPT_WARMUP},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"method", required_argument, NULL, OPT_METHOD},
	{"count", required_argument, NULL, OPT_COUNT},
	{"sequence", required_argument, NULL, OPT_SEQUENCE},
	{"rate", required_argument, NULL, OPT_RATE},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"server", required_argument, NULL, OPT_SERVER},
	{"pin", required_argument, NULL, OPT_PIN},
	{"live", no_argument, NULL, OPT_LIVE},
	{"json", no_argument, NULL, OPT_JSON},
	{"stream", required_argument, NULL, OPT_STREAM},
	{"size", required_argument, NULL, OPT_SIZE},
	{"seq", required_argument, NULL, OPT_SEQ},
	{"subscribers", required_argument, NULL, OPT_SUBSCRIBERS},
	{"subscriber-threads", required_argument, NULL, OPT_SUB_THREADS},
	{"since", required_argument, NULL, OPT_SINCE},
	{"slow", required_argument, NULL, OPT_SLOW},
	{"lag", required_argument, NULL, OPT_LAG},
	{"verify", required_argument, NULL, OPT_VERIFY},
	{"help", no_argument, NULL, OPT_HELP},
	CREDENTIALS_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int u32_option(const char *name, uint32_t max, uint32_t *ret)
{
	uint64_t v;
	int r = tool_u64(name, optarg, 1, max, &v);
	if (r == 0)
		*ret = (uint32_t)v;
	return r;
}

/* The number of a word in a list of them, or -EINVAL after a line that names the option. */
static int word_option(const char *name, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(optarg, words[i]) == 0)
			return (int)i;
	fprintf(stderr, "ordinal: %s takes ", name);
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", words[i]);
	fprintf(stderr, ", not \"%s\"\n", optarg);
	return -EINVAL;
}

static int method_option(struct load_opts *o)
{
	static const char *const names[] = {"next", "take", "publish", "publish-many", "subscribe", "fanout"};
	static const struct {
		enum load_kind kind;
		unsigned method;
		bool streaming;
	} methods[] = {
		{LOAD_IDS, METHOD_IDS_NEXT, false},         {LOAD_IDS, METHOD_IDS_TAKE, true},
		{LOAD_PUBLISH, METHOD_FEED_PUBLISH, false}, {LOAD_PUBLISH, METHOD_FEED_PUBLISH_MANY, true},
		{LOAD_SUBSCRIBE, METHOD_COUNT, true},       {LOAD_FANOUT, METHOD_FEED_PUBLISH_MANY, true},
	};
	int i = word_option("--method", names, ARRAY_SIZE(names));
	if (i < 0)
		return i;
	o->kind = methods[i].kind;
	o->method = methods[i].method;
	o->streaming = methods[i].streaming;
	return 0;
}

static int seq_option(struct load_opts *o)
{
	static const char *const names[] = {"auto", "same", "rising"};
	int i = word_option("--seq", names, ARRAY_SIZE(names));
	if (i >= 0)
		o->seq = (enum load_seq)i;
	return i < 0 ? i : 0;
}

static int verify_option(struct load_opts *o)
{
	static const char *const names[] = {"sampled", "all", "none"};
	int i = word_option("--verify", names, ARRAY_SIZE(names));
	if (i >= 0)
		o->verify = (enum subs_verify)i;
	return i < 0 ? i : 0;
}

static int lag_option(struct load_opts *o)
{
	uint64_t v;
	int r = tool_u64("--lag", optarg, 0, UINT32_MAX, &v);
	if (r == 0)
		o->lag = (uint32_t)v;
	return r;
}

/* Nothing can be measured in no time; to count calls instead there is --requests. */
static int duration_option(struct load_opts *o)
{
	int r = tool_duration("--duration", optarg, &o->duration_ns);
	if (r == 0 && o->duration_ns == 0) {
		fprintf(stderr, "ordinal: --duration must be above 0, not \"%s\"\n", optarg);
		r = -EINVAL;
	}
	return r;
}

static int rate_option(struct load_opts *o)
{
	char *end;
	double v = strtod(optarg, &end);
	if (end == optarg || *end || !(v > 0 && v <= 1e9)) {
		fprintf(stderr, "ordinal: --rate takes calls per second, above 0, not \"%s\"\n", optarg);
		return -EINVAL;
	}
	o->rate = v;
	return 0;
}

/* "1", "0,2", "2-5,8". */
static int pin_option(struct load_opts *o)
{
	const char *p = optarg;
	cpu_set_t mine;
	sched_getaffinity(0, sizeof mine, &mine);
	o->cpus_n = 0;
	for (;;) {
		char *end;
		unsigned long a = strtoul(p, &end, 10), b = a;
		/* strtoul would take a sign, and turn the number round. */
		bool ok = isdigit((unsigned char)*p);
		if (ok && *end == '-') {
			p = end + 1;
			b = strtoul(p, &end, 10);
			ok = isdigit((unsigned char)*p);
		}
		ok = ok && a <= b && b < CPU_SETSIZE && (*end == 0 || *end == ',');
		for (; ok && a <= b && o->cpus_n < LOAD_CPUS_MAX; a++) {
			ok = CPU_ISSET(a, &mine);
			o->cpus[o->cpus_n++] = (int)a;
		}
		if (!ok) {
			fprintf(stderr,
				"ordinal: --pin takes a list of CPUs that this process may use, such as 1 or 2-5,8, not \"%s\"\n",
				optarg);
			return -EINVAL;
		}
		if (*end == 0)
			return 0;
		p = end + 1;
	}
}

static int take_feed_option(struct load_opts *o, int opt)
{
	switch (opt) {
	case OPT_STREAM:
		return tool_name("--stream", optarg, &o->stream);
	case OPT_SIZE:
		return u32_option("--size", SIZE_MAX_BYTES, &o->size);
	case OPT_SEQ:
		return seq_option(o);
	case OPT_SUBSCRIBERS:
		return u32_option("--subscribers", CONNECTIONS_MAX, &o->subscribers);
	case OPT_SUB_THREADS:
		return u32_option("--subscriber-threads", LOAD_THREADS_MAX, &o->sub_threads);
	case OPT_SINCE:
		return tool_u64("--since", optarg, 0, UINT64_MAX, &o->since);
	case OPT_SLOW:
		return tool_slow("--slow", optarg, &o->slow);
	case OPT_LAG:
		return lag_option(o);
	case OPT_VERIFY:
		return verify_option(o);
	default:
		return credentials_option(opt);
	}
}

static int take_option(struct load_opts *o, int opt)
{
	switch (opt) {
	case OPT_CONNECTIONS:
		return u32_option("--connections", CONNECTIONS_MAX, &o->connections);
	case OPT_DEPTH:
		return u32_option("--depth", DEPTH_MAX, &o->depth);
	case OPT_THREADS:
		return u32_option("--threads", LOAD_THREADS_MAX, &o->threads);
	case OPT_DURATION:
		o->duration_given = true;
		return duration_option(o);
	case OPT_REQUESTS:
		return tool_u64("--requests", optarg, 1, UINT64_MAX / 2, &o->requests);
	case OPT_WARMUP:
		return tool_duration("--warmup", optarg, &o->warmup_ns);
	case OPT_PROTOCOL:
		o->protocol_given = true;
		return tool_protocol("--protocol", optarg, &o->protocol);
	case OPT_METHOD:
		return method_option(o);
	case OPT_COUNT:
		return u32_option("--count", UINT32_MAX, &o->count);
	case OPT_SEQUENCE:
		o->sequence = (struct span){(const uint8_t *)optarg, strlen(optarg)};
		return 0;
	case OPT_RATE:
		return rate_option(o);
	case OPT_TIMEOUT:
		return tool_duration("--timeout", optarg, &o->timeout_ns);
	case OPT_SERVER:
		o->server = optarg;
		return 0;
	case OPT_PIN:
		return pin_option(o);
	case OPT_LIVE:
		o->live = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		return take_feed_option(o, opt);
	}
}

/* What depends on the method, where nothing was said. */
static void fill_in(struct load_opts *o)
{
	uint32_t random = 0;
	bool frames = o->kind != LOAD_IDS;
	if (!o->connections)
		o->connections = o->kind == LOAD_FANOUT ? 1 : 5;
	if (!o->protocol_given)
		o->protocol = frames ? CHANNEL_GRPC : CHANNEL_NATIVE;
	if (o->threads > o->connections)
		o->threads = o->connections;
	if (o->kind == LOAD_SUBSCRIBE)
		o->threads = 0;
	if (o->duration_ns == 0)
		o->duration_ns = o->requests ? UINT64_MAX : 10 * NS_PER_S;
	if (o->seq == LOAD_SEQ_AUTO)
		o->seq = o->connections == 1 ? LOAD_SEQ_RISING : LOAD_SEQ_SAME;
	if (!frames)
		return;
	/* Above all that earlier runs have used, so that subscribers of this run need not see those. */
	o->seq_base = (uint64_t)clock_wall_ns() >> 8; /* a quarter of a microsecond each */
	if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
		random = (uint32_t)clock_mono_ns();
	o->run = load_stamp_run(random);
}

/* Options that make no sense together: NULL, or the sentence. */
static const char *contradiction(const struct load_opts *o)
{
	if ((uint64_t)o->connections * o->depth > SLOTS_MAX)
		return "--connections times --depth may be 16,777,216 at the most";
	if (o->streaming && o->timeout_ns)
		return "--timeout is the deadline of a call, and this --method is one call for the whole run";
	if (o->kind != LOAD_IDS && o->size < LOAD_STAMP)
		return "--size is at least 28: publisher, number and time stand in each payload";
	if (o->kind == LOAD_SUBSCRIBE && (o->rate > 0 || o->requests || o->warmup_ns))
		return "--method subscribe makes no calls: --rate, --requests and --warmup mean nothing";
	return NULL;
}

int load_read_options(struct load_opts *o, int argc, char **argv)
{
	int opt;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return -1;
		}
		if (take_option(o, opt))
			return tool_usage("load");
	}
	if (tool_no_arguments("load", argc, argv))
		return TOOL_USAGE;
	fill_in(o);
	const char *why = contradiction(o);
	if (why) {
		fprintf(stderr, "ordinal: %s\n", why);
		return tool_usage("load");
	}
	if (tool_check_server(o->server) || credentials_load(o->server))
		return tool_usage("load");
	struct channel_opts shown = {0};
	credentials_fill(&shown);
	o->tls = shown.tls != NULL;
	return 0;
}
