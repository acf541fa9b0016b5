/* Load with work in it: calls ordinal.bench.v1.Bench/Echo with a gzip payload in closed loop, and checks that what comes back inflates to what was
 * sent. For bench/server-queues; the daemon needs BENCH_SERVICE=y.
 *
 * One thread, one ring, one client. The clock is read once a turn, as in `ordinal load`. The payload is text-like (numbered lines of pseudo-random
 * words), so that it deflates to about a third.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hist.h"
#include "core/ring.h"
#include "rpc/client/address.h"
#include "rpc/client/channel.h"
#include "rpc/client/client.h"
#include "rpc/gzip.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_NS (20 * NS_PER_MS)
#define GRACE_NS (10 * NS_PER_S)
enum { DATA_TAG = 1 << 3 | 2, CONNECTIONS_MAX = 1000, DEPTH_MAX = 1000, BYTES_MAX = 4000000 };

struct payload_conn {
	struct channel *channel;
	struct payload_call *calls;
};

struct payload_call {
	struct payload_conn *conn;
	uint64_t sent_ns;
	bool measured, good, idle;
};

static struct {
	const char *server;
	enum channel_protocol protocol;
	uint32_t connections, depth, bytes;
	uint64_t duration_ns, warmup_ns;
} opts = {.protocol = CHANNEL_NATIVE,
	  .connections = 8,
	  .depth = 4,
	  .bytes = 10000,
	  .duration_ns = 3 * NS_PER_S,
	  .warmup_ns = 300 * NS_PER_MS};

static struct {
	struct client *client;
	struct gzip *gzip;
	uint8_t *plain, *request;
	size_t request_n;
	uint32_t open, in_flight;
	bool measuring, stopping, lost;
	uint64_t calls, errors;
	struct hist latency;
} t;

static void make_request(void)
{
	static const char *const words[] = {"order", "price", "volume", "seller", "buyer", "open", "closed", "EUR"};
	uint64_t seed = 42;
	struct span packed;
	size_t n = 0;
	t.plain = malloc(opts.bytes + 64);
	CHECK(t.plain != NULL);
	for (unsigned line = 0; n < opts.bytes; line++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		n += (size_t)snprintf((char *)t.plain + n, 64, "%u %s=%" PRIu64 " %s\n", line, words[seed >> 61],
				      (seed >> 33) % 100000, words[(seed >> 57) & 7]);
	}
	CHECK(gzip_deflate(t.gzip, (struct span){t.plain, opts.bytes}, &packed) == 0);
	t.request = malloc(packed.n + 1 + PB_VARINT_MAX);
	CHECK(t.request != NULL);
	t.request[0] = DATA_TAG;
	t.request_n = 1 + pb_put_varint(t.request + 1, packed.n);
	memcpy(t.request + t.request_n, packed.p, packed.n);
	t.request_n += packed.n;
}

static void on_message(void *ctx, struct span msg)
{
	struct payload_call *call = ctx;
	const uint8_t *p = msg.p;
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span data, plain;
	call->good = !pb_get_field(&p, msg.p + msg.n, &number, &wire, &value, &data) && number == 1 && wire == 2 &&
		     gzip_inflate(t.gzip, data, opts.bytes, &plain) == 0 && plain.n == opts.bytes &&
		     memcmp(plain.p, t.plain, plain.n) == 0;
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct payload_call *call = ctx;
	t.in_flight--;
	call->idle = true;
	if (st->code != GRPC_OK && !t.errors)
		fprintf(stderr, "payload: %s: %.*s\n", grpc_status_name(st->code), (int)st->text.n,
			(const char *)st->text.p);
	t.errors += st->code != GRPC_OK || !call->good;
	if (!call->measured)
		return;
	uint64_t now = client_now_ns(t.client);
	t.calls++;
	hist_add(&t.latency, now > call->sent_ns ? now - call->sent_ns : 0, 1);
}

static void start_call(struct payload_call *call)
{
	static const struct channel_call_ops ops = {.message = on_message, .done = on_done};
	if (!call->idle)
		return;
	call->sent_ns = clock_mono_ns();
	call->measured = t.measuring;
	call->good = false;
	if (channel_call(call->conn->channel, METHOD_BENCH_ECHO, (struct span){t.request, t.request_n}, 0, 0, &ops,
			 call, NULL))
		return; /* later */
	call->idle = false;
	t.in_flight++;
}

static void on_opened(void *ctx, struct channel *ch)
{
	t.open++;
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	((struct payload_conn *)ctx)->channel = NULL;
	if (err)
		fprintf(stderr, "payload: %s\n", why);
	t.lost |= !t.stopping;
}

static const struct channel_events events = {.opened = on_opened, .closed = on_closed};

/* Turns until `until_ns`, or until nothing is in flight when stopping. */
static bool turns(struct payload_conn *conns, uint64_t until_ns)
{
	while (clock_mono_ns() < until_ns && !t.lost && !(t.stopping && t.in_flight == 0)) {
		for (uint32_t i = 0; !t.stopping && t.open == opts.connections && i < opts.connections; i++) {
			struct payload_call *calls = conns[i].calls;
			CHECK(calls != NULL); /* connect_all has made them */
			for (uint32_t k = 0; k < opts.depth; k++)
				start_call(&calls[k]);
		}
		uint64_t now = clock_mono_ns(), left = until_ns > now ? until_ns - now : 0;
		if (client_turn(t.client, left < TURN_NS ? left : TURN_NS))
			return false;
	}
	return !t.lost;
}

static bool connect_all(struct payload_conn *conns)
{
	struct address a;
	const char *why;
	if (address_resolve(opts.server, &a, &why)) {
		fprintf(stderr, "payload: %s: %s\n", opts.server, why);
		return false;
	}
	for (uint32_t i = 0; i < opts.connections; i++) {
		struct channel_opts o = {.protocol = opts.protocol, .authority = opts.server, .calls_max = opts.depth};
		conns[i].calls = calloc(opts.depth, sizeof *conns[i].calls);
		CHECK(conns[i].calls != NULL);
		for (uint32_t k = 0; k < opts.depth; k++)
			conns[i].calls[k] = (struct payload_call){.conn = &conns[i], .idle = true};
		if (channel_connect(t.client, &o, (struct sockaddr *)&a.addr, a.len, &events, &conns[i],
				    &conns[i].channel))
			return false;
	}
	while (t.open < opts.connections && !t.lost)
		if (client_turn(t.client, TURN_NS))
			return false;
	return !t.lost;
}

static void report(double seconds, double cpu)
{
	printf("{\"calls_per_second\":%.1f,\"errors\":%" PRIu64 ",\"calls\":%" PRIu64
	       ",\"latency_us\":{\"p50\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f},\"bytes\":%" PRIu32
	       ",\"packed\":%zu,\"elapsed_seconds\":%.6f,\"client_cpu_seconds\":%.6f}\n",
	       (double)t.calls / seconds, t.errors, t.calls, (double)hist_quantile(&t.latency, 0.5) / 1e3,
	       (double)hist_quantile(&t.latency, 0.99) / 1e3, (double)hist_quantile(&t.latency, 0.999) / 1e3,
	       (double)t.latency.max / 1e3, opts.bytes, t.request_n, seconds, cpu);
}

static int run(void)
{
	struct ring_params params = {.entries = 1024, .cq_entries = 16384, .bufs = 512, .buf_size = 16384};
	struct payload_conn *conns = calloc(opts.connections, sizeof *conns);
	struct ring *ring;
	int rc = ring_init(&params, &ring);
	if (rc) {
		fprintf(stderr, "payload: %s\n", ring_explain(rc));
		free(conns);
		return 1;
	}
	t.gzip = gzip_new();
	CHECK(conns != NULL && t.gzip != NULL && client_new(ring, opts.connections + 1, &t.client) == 0);
	hist_init(&t.latency);
	make_request();
	bool ok = connect_all(conns) && turns(conns, clock_mono_ns() + opts.warmup_ns);
	t.measuring = true;
	uint64_t begin = clock_mono_ns(), cpu = clock_thread_cpu_ns();
	ok = ok && turns(conns, begin + opts.duration_ns);
	uint64_t end = clock_mono_ns();
	cpu = clock_thread_cpu_ns() - cpu;
	if (ok)
		report((double)(end - begin) / 1e9, (double)cpu / 1e9);
	t.stopping = true;
	ok = ok && turns(conns, end + GRACE_NS) && t.in_flight == 0;
	client_free(t.client);
	ring_done(ring);
	for (uint32_t i = 0; i < opts.connections; i++)
		free(conns[i].calls);
	free(conns);
	gzip_free(t.gzip);
	free(t.plain);
	free(t.request);
	return ok && t.errors == 0 ? 0 : 1;
}

static bool number(const char *text, double least, double most, double *ret)
{
	char *end;
	*ret = strtod(text, &end);
	return end != text && *end == 0 && *ret >= least && *ret <= most;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"server", required_argument, NULL, 's'},      {"protocol", required_argument, NULL, 'p'},
		{"connections", required_argument, NULL, 'c'}, {"depth", required_argument, NULL, 'd'},
		{"bytes", required_argument, NULL, 'b'},       {"seconds", required_argument, NULL, 't'},
		{"warmup", required_argument, NULL, 'w'},      {0}};
	double v = 0;
	bool ok = true;
	for (int o; ok && (o = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
		if (o == 's')
			opts.server = optarg;
		else if (o == 'p')
			ok = strcmp(optarg, "native") == 0 || strcmp(optarg, "grpc") == 0;
		else if (o == 'c')
			ok = number(optarg, 1, CONNECTIONS_MAX, &v);
		else if (o == 'd')
			ok = number(optarg, 1, DEPTH_MAX, &v);
		else if (o == 'b')
			ok = number(optarg, 1, BYTES_MAX, &v);
		else
			ok = o != '?' && number(optarg, 0, 3600, &v);
		if (o == 'p')
			opts.protocol = strcmp(optarg, "grpc") == 0 ? CHANNEL_GRPC : CHANNEL_NATIVE;
		else if (o == 'c')
			opts.connections = (uint32_t)v;
		else if (o == 'd')
			opts.depth = (uint32_t)v;
		else if (o == 'b')
			opts.bytes = (uint32_t)v;
		else if (o == 't')
			opts.duration_ns = (uint64_t)(v * 1e9);
		else if (o == 'w')
			opts.warmup_ns = (uint64_t)(v * 1e9);
	}
	if (!ok || !opts.server || optind < argc) {
		fprintf(stderr,
			"usage: payload --server HOST:PORT [--protocol native|grpc] [--connections N] [--depth N] [--bytes N] "
			"[--seconds S] [--warmup S]\n");
		return 2;
	}
	return run();
}
