/* example-client: protobuf-c's generated stubs for example.v1.Readings over rpc/client, three ways.
 *
 * usage: example-client HOST:PORT native|grpc convert DEGREES...      one after another: the generated function waits
 *                                             together DEGREES...     all at once, with completions
 *                                             summarize DEGREES...    a stream both ways
 * Prints a line for each answer, or the status and its text. Main thread. */
#include "core/base/clock.h"
#include "core/base/std_fds.h"
#include "core/ring.h"
#include "example/v1/readings.pb-c.h"
#include "rpc/client/address.h"
#include "rpc/client/client.h"
#include "rpc/client/stub.h"
#include "rpc/client/sync.h"
#include "rpc/wire/grpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of the .proto; the numbers are those of svc_readings.c. */
static const struct stub_method methods[] = {{.number = 40}, {.number = 41, .streams = true}};
enum { CONVERT, SUMMARIZE };

static struct stub readings;
static bool opened, closed;

static void print_status(void)
{
	const struct channel_status *st = stub_status(&readings);
	printf("%s: %.*s\n", grpc_status_name(st->code), (int)st->text.n, st->text.n ? (const char *)st->text.p : "");
}

/* One after another. */

static void print_reading(const Example__V1__Reading *reply, void *data)
{
	if (reply)
		printf("%g\n", reply->degrees);
	else
		print_status();
}

static int convert(const char *server, enum channel_protocol protocol, char **degrees)
{
	struct sync_channel *sync;
	char why[256];
	if (sync_connect(server, &(struct channel_opts){.protocol = protocol}, &sync, why, sizeof why)) {
		fprintf(stderr, "example-client: %s\n", why);
		return 1;
	}
	stub_set_sync(&readings, sync);
	for (; *degrees; degrees++) {
		Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
		request.degrees = strtod(*degrees, NULL);
		example__v1__readings__convert(&readings.base, &request, print_reading, NULL);
	}
	sync_close(sync);
	return 0;
}

/* All at once, and a stream: a loop of one's own. */

static void on_opened(void *ctx, struct channel *ch)
{
	opened = true;
	stub_set_channel(&readings, ch);
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	if (err)
		fprintf(stderr, "example-client: %s\n", why);
	closed = true;
	stub_set_channel(&readings, NULL);
}

static const struct channel_events events = {.opened = on_opened, .closed = on_closed};

struct answer {
	double degrees;
	char text[100]; /* instead, if there is none */
	unsigned *waiting;
};

static void keep_reading(const Example__V1__Reading *reply, void *data)
{
	struct answer *a = data;
	const struct channel_status *st = stub_status(&readings);
	if (reply)
		a->degrees = reply->degrees;
	else
		snprintf(a->text, sizeof a->text, "%s: %.*s", grpc_status_name(st->code), (int)st->text.n,
			 st->text.n ? (const char *)st->text.p : "");
	--*a->waiting;
}

static void together(struct client *client, char **degrees, unsigned n)
{
	struct answer *answers = calloc(n, sizeof *answers);
	unsigned waiting = n;
	for (unsigned i = 0; answers && i < n; i++) {
		Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
		request.degrees = strtod(degrees[i], NULL);
		answers[i].waiting = &waiting;
		example__v1__readings__convert(&readings.base, &request, keep_reading, &answers[i]);
	}
	while (answers && waiting && client_turn(client, NS_PER_S) == 0)
		;
	for (unsigned i = 0; answers && i < n; i++)
		answers[i].text[0] ? printf("%s\n", answers[i].text) : printf("%g\n", answers[i].degrees);
	free(answers);
}

static void print_summary(const Example__V1__Summary *s, void *data)
{
	if (s) {
		printf("%llu: %g to %g\n", (unsigned long long)s->count, s->lowest, s->highest);
		return;
	}
	print_status();
	*(bool *)data = true;
}

static void summarize(struct client *client, char **degrees)
{
	Example__V1__Reading request = EXAMPLE__V1__READING__INIT;
	bool ended = false;
	uint32_t call;
	request.degrees = strtod(*degrees, NULL);
	int r = stub_begin(&readings, SUMMARIZE, &request.base, (ProtobufCClosure)print_summary, &ended, &call);
	for (degrees++; r == 0 && *degrees; degrees++) {
		request.degrees = strtod(*degrees, NULL);
		r = stub_send(&readings, call, &request.base);
	}
	if (r == 0)
		r = stub_end(&readings, call);
	if (r)
		fprintf(stderr, "example-client: %s\n", strerror(-r));
	while (r == 0 && !ended && client_turn(client, NS_PER_S) == 0)
		;
}

static int with_loop(const char *server, enum channel_protocol protocol, bool stream, char **degrees, unsigned n)
{
	struct address a;
	struct ring *ring = NULL;
	struct client *client = NULL;
	struct channel *ch;
	const char *why;
	if (address_resolve(server, &a, &why) ||
	    ring_init(&(struct ring_params){.entries = 16, .cq_entries = 64, .bufs = 16, .buf_size = 16384}, &ring) ||
	    client_new(ring, 1, &client) ||
	    channel_connect(client, &(struct channel_opts){.protocol = protocol, .authority = server},
			    (struct sockaddr *)&a.addr, a.len, &events, NULL, &ch)) {
		fprintf(stderr, "example-client: cannot begin\n");
		return 1;
	}
	while (!opened && !closed && client_turn(client, NS_PER_S) == 0)
		;
	if (opened && stream)
		summarize(client, degrees);
	else if (opened)
		together(client, degrees, n);
	client_free(client);
	ring_done(ring);
	return opened ? 0 : 1;
}

int main(int argc, char **argv)
{
	std_fds_open(STD_FDS_PROGRAM);
	if (argc < 5) {
		fprintf(stderr, "usage: example-client HOST:PORT native|grpc convert|together|summarize DEGREES...\n");
		return 2;
	}
	enum channel_protocol protocol = strcmp(argv[2], "grpc") == 0 ? CHANNEL_GRPC : CHANNEL_NATIVE;
	unsigned n = (unsigned)argc - 4;
	if (stub_init(&readings, &example__v1__readings__descriptor, methods, n))
		return 1;
	readings.timeout_ns = 60 * NS_PER_S;
	int r = strcmp(argv[3], "convert") == 0
			? convert(argv[1], protocol, argv + 4)
			: with_loop(argv[1], protocol, strcmp(argv[3], "summarize") == 0, argv + 4, n);
	stub_done(&readings);
	return r;
}
