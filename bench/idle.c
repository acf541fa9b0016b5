/* Holds idle connections open, so that bench/idle can read what they cost their server.
 *
 *   idle --server HOST:PORT --connections N --state STATE
 *
 * Brings N connections, a hundred at a time, to the given state, prints "ready N", and closes them when standard input ends. States:
 *
 *   native-call    native framing, after one call of Ids.Next
 *   h2-settings    HTTP/2, after preface and SETTINGS, both acknowledged
 *   h2-call        HTTP/2, after one gRPC call of Ids.Next whose header fields are put into the server's table, as gRPC's clients do
 *   h2-get         HTTP/2, after a GET of /file (for nghttpd)
 *   redis          after an INCR (for redis-server)
 *
 * `idle --sizes` prints, as JSON, the bytes of the structures that the daemon keeps for a connection. One thread, blocking sockets.
 */
#include "core/conn.h"
#include "rpc/client/address.h"
#include "rpc/h2_impl.h"
#include "rpc/methods.h"
#include "rpc/session.h"
#include "rpc/wire/native.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1000000, SETTINGS_ENTRY = 6, BATCH = 100 };

static void die(const char *what, const char *why)
{
	fprintf(stderr, "idle: %s: %s\n", what, why);
	exit(1);
}

static void send_all(int fd, const void *p, size_t n)
{
	if (send(fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("send", strerror(errno));
}

static void recv_all(int fd, void *p, size_t n)
{
	ssize_t got = n ? recv(fd, p, n, MSG_WAITALL) : 0; /* a receive of nothing would wait all the same */
	if (got != (ssize_t)n)
		die("receive", got < 0 ? strerror(errno) : "the server has closed the connection");
}

/* ---- the states ---- */

static void native_call(int fd)
{
	uint8_t head[NATIVE_HEADER];
	native_put(head, NATIVE_REQUEST | NATIVE_F_LAST, METHOD_IDS_NEXT, 0, 1, 0);
	send_all(fd, head, sizeof head);
}

static void native_answer(int fd)
{
	uint8_t head[NATIVE_HEADER], body[256];
	struct native_header h;
	recv_all(fd, head, sizeof head);
	if (native_get(head, &h) || h.kind != NATIVE_MESSAGE || !(h.flags & NATIVE_F_LAST) || h.len > sizeof body)
		die("native-call", "the answer is not one message");
	recv_all(fd, body, h.len);
}

/* Reads frames until one of this type and flag has come on this stream. */
static void h2_await(int fd, uint32_t stream, uint8_t type, uint8_t flag)
{
	static uint8_t payload[1 << 24];
	for (;;) {
		uint8_t head[H2_FRAME_HEADER];
		recv_all(fd, head, sizeof head);
		struct h2_frame f = h2_frame_get(head);
		recv_all(fd, payload, f.len);
		if (f.type == H2_GOAWAY || f.type == H2_RST_STREAM)
			die("HTTP/2", "the server has refused");
		if (f.type == H2_SETTINGS && !(f.flags & H2_F_ACK)) {
			h2_frame_put(head, 0, H2_SETTINGS, H2_F_ACK, 0);
			send_all(fd, head, sizeof head);
		}
		if (f.stream == stream && f.type == type && (f.flags & flag))
			return;
	}
}

static void h2_settings(int fd)
{
	uint8_t b[H2_PREFACE_LEN + H2_FRAME_HEADER + SETTINGS_ENTRY];
	memcpy(b, H2_PREFACE, H2_PREFACE_LEN);
	h2_frame_put(b + H2_PREFACE_LEN, SETTINGS_ENTRY, H2_SETTINGS, 0, 0);
	store_be16(b + H2_PREFACE_LEN + H2_FRAME_HEADER, H2_S_INITIAL_WINDOW_SIZE);
	store_be32(b + H2_PREFACE_LEN + H2_FRAME_HEADER + 2, 1 << 20);
	send_all(fd, b, sizeof b);
}

static void h2_settings_answer(int fd)
{
	h2_await(fd, 0, H2_SETTINGS, H2_F_ACK);
}

enum { STATIC_GET = 2, STATIC_POST = 3, STATIC_HTTP = 6 }; /* RFC 7541 appendix A */

/* The header block of a gRPC client's first call. Returns its length. */
static size_t grpc_block(uint8_t *p, size_t cap)
{
	size_t n = hpack_put_indexed(p, cap, STATIC_HTTP);
	n += hpack_put_indexed(p + n, cap - n, STATIC_POST);
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT(":path"), method_path(METHOD_IDS_NEXT));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT(":authority"), SPAN_LIT("localhost:50051"));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT("grpc-accept-encoding"),
				   SPAN_LIT("identity, deflate, gzip"));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT("user-agent"),
				   SPAN_LIT("grpc-python/1.51.1 grpc-c/29.0.0 (linux; chttp2)"));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT("te"), SPAN_LIT("trailers"));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT("content-type"), SPAN_LIT("application/grpc"));
	return n;
}

static void h2_call(int fd)
{
	uint8_t b[512];
	h2_settings(fd);
	size_t n = grpc_block(b + H2_FRAME_HEADER, 400);
	h2_frame_put(b, (uint32_t)n, H2_HEADERS, H2_F_END_HEADERS, 1);
	n += H2_FRAME_HEADER;
	h2_frame_put(b + n, GRPC_PREFIX, H2_DATA, H2_F_END_STREAM, 1);
	memset(b + n + H2_FRAME_HEADER, 0, GRPC_PREFIX);
	send_all(fd, b, n + H2_FRAME_HEADER + GRPC_PREFIX);
}

static void h2_call_answer(int fd)
{
	h2_await(fd, 1, H2_HEADERS, H2_F_END_STREAM);
}

static void h2_get(int fd)
{
	uint8_t b[256], *p = b + H2_FRAME_HEADER;
	size_t cap = sizeof b - H2_FRAME_HEADER, n = 0;
	h2_settings(fd);
	n += hpack_put_indexed(p, cap, STATIC_HTTP);
	n += hpack_put_indexed(p + n, cap - n, STATIC_GET);
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT(":path"), SPAN_LIT("/file"));
	n += hpack_put_incremental(p + n, cap - n, SPAN_LIT(":authority"), SPAN_LIT("localhost"));
	h2_frame_put(b, (uint32_t)n, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, 1);
	send_all(fd, b, n + H2_FRAME_HEADER);
}

static void h2_get_answer(int fd)
{
	h2_await(fd, 1, H2_DATA, H2_F_END_STREAM);
}

static void redis_incr(int fd)
{
	static const char request[] = "INCR idle\r\n";
	send_all(fd, request, sizeof request - 1);
}

static void redis_answer(int fd)
{
	char c = 0;
	recv_all(fd, &c, 1);
	if (c != ':')
		die("redis", "the answer to INCR is not a number");
	while (c != '\n')
		recv_all(fd, &c, 1);
}

/* What is sent, and how the answer is awaited. */
static const struct state {
	const char *name;
	void (*ask)(int fd);
	void (*answer)(int fd);
} states[] = {{"native-call", native_call, native_answer},
	      {"h2-settings", h2_settings, h2_settings_answer},
	      {"h2-call", h2_call, h2_call_answer},
	      {"h2-get", h2_get, h2_get_answer},
	      {"redis", redis_incr, redis_answer}};

/* ---- sizes ---- */

static int ignore(void *ctx, struct span name, struct span value)
{
	return 0;
}

/* What malloc has given out, its own headers included. */
static size_t heap(void)
{
	return mallinfo2().uordblks;
}

enum { SAMPLES = 1000 };

struct hpack_cost {
	size_t before;   /* decoder and memo, before the first block */
	size_t inflater; /* made by the first block */
	size_t table;    /* the entries that a gRPC client puts into it */
};

static void decode_all(struct hpack_decoder **d, const uint8_t *block, size_t n)
{
	for (int i = 0; i < SAMPLES; i++) {
		if (hpack_decode(d[i], block, n, ignore, NULL))
			die("header block", strerror(EBADMSG));
	}
}

/* What header decoding takes from the heap. Over many, because what was freed before serves the first few. */
static struct hpack_cost measure_hpack(void)
{
	static struct hpack_decoder *d[SAMPLES];
	static struct hpack_memo *m[SAMPLES];
	struct hpack_cost cost;
	uint8_t small[8], block[400];
	size_t at0 = heap();
	for (int i = 0; i < SAMPLES; i++) {
		d[i] = hpack_decoder_new(4096);
		m[i] = hpack_memo_new(sizeof(struct h2_head));
		if (!d[i] || !m[i])
			die("memory", strerror(ENOMEM));
	}
	size_t at1 = heap();
	decode_all(d, small, hpack_put_indexed(small, sizeof small, STATIC_GET));
	size_t at2 = heap();
	decode_all(d, block, grpc_block(block, sizeof block));
	cost = (struct hpack_cost){(at1 - at0) / SAMPLES, (at2 - at1) / SAMPLES, (heap() - at2) / SAMPLES};
	for (int i = 0; i < SAMPLES; i++) {
		hpack_decoder_free(d[i]);
		hpack_memo_free(m[i]);
	}
	return cost;
}

static void print_sizes(void)
{
	struct hpack_cost hpack = measure_hpack();
	printf("{\"conn\":%zu,\"native_session\":%zu,\"native_call\":%zu,\"h2_session\":%zu,\"h2_stream\":%zu,\"hpack_decoder_and_memo\":%zu,"
	       "\"hpack_inflater\":%zu,\"hpack_table\":%zu}\n",
	       sizeof(struct conn), native_session_size(), native_call_size(), sizeof(struct h2_session),
	       h2_stream_size(), hpack.before, hpack.inflater, hpack.table);
}

/* ---- main ---- */

static int open_one(const struct address *to)
{
	struct timeval patience = {.tv_sec = 10};
	int fd = socket(to->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&to->addr, to->len))
		die("connect", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return fd;
}

/* A batch asks before any of it waits for its answer, so that it costs one round trip. */
static void open_all(const struct address *to, const struct state *state, unsigned long n)
{
	int fds[BATCH];
	while (n > 0) {
		unsigned long batch = n < BATCH ? n : BATCH;
		for (unsigned long i = 0; i < batch; i++)
			state->ask(fds[i] = open_one(to));
		for (unsigned long i = 0; i < batch; i++)
			state->answer(fds[i]);
		n -= batch;
	}
}

static void raise_fd_limit(unsigned connections)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
		if (l.rlim_cur < connections + 16)
			die("connections", "more than the hard limit of open files (ulimit -Hn) allows");
	}
}

static _Noreturn void usage(FILE *f)
{
	fputs("usage: idle --server HOST:PORT --connections N --state native-call|h2-settings|h2-call|h2-get|redis\n"
	      "       idle --sizes\n\n"
	      "Holds N connections open until standard input ends.\n",
	      f);
	exit(f == stdout ? 0 : 2);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"server", required_argument, NULL, 's'}, {"connections", required_argument, NULL, 'n'},
		{"state", required_argument, NULL, 't'},  {"sizes", no_argument, NULL, 'z'},
		{"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
	const char *server = NULL;
	const struct state *state = NULL;
	unsigned long n = 0;
	for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
		if (c == 's') {
			server = optarg;
		} else if (c == 'n') {
			n = strtoul(optarg, NULL, 10);
		} else if (c == 't') {
			for (size_t i = 0; i < sizeof states / sizeof *states; i++)
				state = strcmp(states[i].name, optarg) == 0 ? &states[i] : state;
		} else if (c == 'z') {
			print_sizes();
			return 0;
		} else {
			usage(c == 'h' ? stdout : stderr);
		}
	}
	if (!server || !state || n < 1 || n > CONNECTIONS_MAX || optind < argc)
		usage(stderr);
	struct address to;
	const char *why;
	if (address_resolve(server, &to, &why))
		die(server, why);
	raise_fd_limit((unsigned)n);
	open_all(&to, state, n);
	printf("ready %lu\n", n);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
