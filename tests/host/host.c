/* The daemon's own shard, sessions and method table around services of a test's own; see the header. The main thread only waits for a signal. */
#include "tests/host/host.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/std_fds.h"
#include "core/handshakes.h"
#include "core/listener.h"
#include "core/mesh.h"
#include "core/ring.h"
#include "core/tls.h"
#include "rpc/session.h"
#include "rpc/svc_health.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct method_table methods;
static struct rpc_shard rpc;
static struct tls_context *tls;
static const char *name;

static struct tls_context *get_tls(void *ctx)
{
	return tls ? tls_context_get(tls) : NULL;
}

static struct rpc_opts rpc_opts = {
	.tls = get_tls,
	.calls_max = 1 << 20,
	.message_max = 4 << 20,
	.streams_max = 100,
	.native_inflight_max = 4096,
	.header_list_max = 16384,
	.header_fields_max = 100,
	.assembly = {.total = 256 << 20, .share = 64 << 20},
	.preface_ns = 5 * NS_PER_S,
	.h2_stream_window = 256 << 10,
	.h2_conn_window = 1 << 20,
	.continuations_max = 8,
	.resets_burst = 100,
	.resets_per_s = 20,
	.useless_max = 1000,
	.headers_ns = 5 * NS_PER_S,
	.body_ns = 60 * NS_PER_S,
};

static void turn(struct shard *s, void *ctx)
{
	rpc_shard_turn(&rpc);
}

static void drain(struct shard *s, void *ctx)
{
	svc_health_drain(&rpc);
}

static int begin(struct shard *s, void *ctx)
{
	s->services = &rpc;
	shard_add_hook(s, &(struct shard_hook){.turn = turn, .drain = drain});
	return rpc_shard_init(&rpc, s, &methods, &rpc_opts);
}

static void end(struct shard *s, void *ctx)
{
	rpc_shard_done(&rpc);
}

static bool attach(struct conn *c, void *ctx)
{
	return session_attach(c, &rpc);
}

static struct shard_opts shard_opts = {
	.ring_entries = 1024,
	.cq_entries = 16384,
	.recv_bufs = 1024,
	.recv_buf_size = 16384,
	.conns_max = 1000,
	.conns_room = 1000,
	.accepts = 16,
	.conn_queue_max = 256 << 10,
	.tls_renewals_max = 32,
	.stall_ns = 60 * NS_PER_S,
	.drain_ns = 10 * NS_PER_S,
	.restrict_ring = true,
	.start = begin,
	.stop = end,
	.attach = attach,
};

static int serve(const char *address)
{
	static struct shard shard;
	struct listener l = {0};
	const char *why = "";
	int signal_number;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	struct mesh *mesh = mesh_new(1, 16);
	if (!mesh || listener_open(address, 1, 60000, &l, &why) || shard_init(&shard, 0, -1, -1, &shard_opts, mesh)) {
		fprintf(stderr, "%s: %s\n", name, why);
		return 1;
	}
	shard_add_listener(&shard, l.fds[0]);
	int rc = tls ? handshakes_new(1, 1, &shard_opts.handshakes) : 0;
	if (rc == 0 && tls)
		rc = handshakes_start(shard_opts.handshakes);
	if (rc == 0)
		rc = shard_start(&shard);
	if (rc) {
		fprintf(stderr, "%s: %s\n", name, ring_explain(rc));
		return 1;
	}
	printf("listens on %s\n", l.bound);
	fflush(stdout);
	sigwait(&set, &signal_number);
	shard_drain(&shard);
	shard_join(&shard);
	handshakes_stop(shard_opts.handshakes);
	shard_done(&shard);
	handshakes_free(shard_opts.handshakes);
	mesh_free(mesh);
	tls_context_put(tls);
	return 0;
}

int host_main(const char *program, void (*add)(struct method_table *t), int argc, char **argv)
{
	static const struct option longs[] = {{"port", required_argument, NULL, 'p'},
					      {"tls-cert", required_argument, NULL, 'c'},
					      {"tls-key", required_argument, NULL, 'k'},
					      {0}};
	const char *port = "0", *cert = NULL, *key = NULL, *why;
	char address[64];
	name = program;
	std_fds_open(STD_FDS_SERVER);
	for (int o; (o = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
		if (o == 'p')
			port = optarg;
		else if (o == 'c')
			cert = optarg;
		else if (o == 'k')
			key = optarg;
		else
			return 2;
	}
	if (cert && tls_context_new(&(struct tls_opts){.cert = cert, .key = key ? key : cert}, &tls, &why)) {
		fprintf(stderr, "%s: %s\n", name, why);
		return 2;
	}
	rpc_opts.tls_only = tls != NULL;
	signal(SIGPIPE, SIG_IGN);
	add(&methods);
	typed_table_add(&methods, svc_health_methods, SVC_HEALTH_METHODS);
	snprintf(address, sizeof address, "127.0.0.1:%s", port);
	return serve(address);
}
