/* The limit: an io_uring echo over loopback TCP with nothing in it, as the yardstick for calls that carry something.
 *
 * Two threads, each pinned to a CPU of its own with a ring of its own: the client keeps `depth` messages of `size` bytes in flight on each
 * connection, the server sends every byte back. Both loops are the shape of a shard's: multishot receive from provided buffers, one
 * send in flight per connection, what comes in during a turn goes out in one piece at its end. The client counts bytes, and does not look
 * at them. Main thread: it connects the sockets, waits out the warm-up and the measured time, and reads the counter twice.
 *
 * Uses liburing directly, not core/ring: what it is compared with must not be made of the same parts.
 */
#include "core/base/check.h"
#include "core/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUFFERS = 1024, BUFFER_SIZE = 16384, BUFFER_GROUP = 0, WARMUP_MS = 200 };

struct echo_opts {
	unsigned connections, depth, size;
	int server_cpu, client_cpu;
	double seconds;
	bool json;
};

struct echo_conn {
	int fd;
	bool dirty;
	uint8_t *out;
	size_t len, cap;
	size_t sending; /* bytes at the front of `out` that the kernel has; 0: no send in flight */
	size_t part;    /* client: bytes of a message not yet whole */
};

/* One side: a thread, its ring and its ends of the connections. */
struct echo_side {
	const struct echo_opts *opts;
	bool is_client;
	int cpu;
	pthread_t thread;
	struct io_uring ring;
	struct io_uring_buf_ring *buffers;
	uint8_t *memory;
	struct echo_conn *conn;
	unsigned *dirty, dirty_count;
	uint64_t messages; /* client: received; read by main */
};

static atomic_bool stop;

static void die(const char *what, int err)
{
	fprintf(stderr, "echo: %s: %s\n", what, strerror(err));
	exit(1);
}

static void *must(void *p)
{
	if (!p)
		die("memory", ENOMEM);
	return p;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	int rc = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
	if (rc)
		die("cannot run on the CPU that was asked for", rc);
}

static void side_setup(struct echo_side *s)
{
	struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					     IORING_SETUP_CQSIZE,
				    .cq_entries = 8192};
	int rc = io_uring_queue_init_params(2048, &s->ring, &p);
	if (rc)
		die("io_uring", -rc);
	s->buffers = must(aligned_alloc(4096, BUFFERS * sizeof(struct io_uring_buf)));
	s->memory = must(malloc((size_t)BUFFERS * BUFFER_SIZE));
	struct io_uring_buf_reg reg = {
		.ring_addr = (uintptr_t)s->buffers, .ring_entries = BUFFERS, .bgid = BUFFER_GROUP};
	rc = io_uring_register_buf_ring(&s->ring, &reg, 0);
	if (rc)
		die("provided buffers", -rc);
	io_uring_buf_ring_init(s->buffers);
	for (int i = 0; i < BUFFERS; i++)
		io_uring_buf_ring_add(s->buffers, s->memory + (size_t)i * BUFFER_SIZE, BUFFER_SIZE, (unsigned short)i,
				      BUFFERS - 1, i);
	io_uring_buf_ring_advance(s->buffers, BUFFERS);
	s->dirty = must(calloc(s->opts->connections, sizeof *s->dirty));
}

static struct io_uring_sqe *next_sqe(struct echo_side *s)
{
	struct io_uring_sqe *sqe;
	while (!(sqe = io_uring_get_sqe(&s->ring)))
		io_uring_submit(&s->ring);
	return sqe;
}

/* user_data: the connection's number, and in bit 0 whether it is a send. */
static void arm(struct echo_side *s, unsigned i)
{
	struct io_uring_sqe *sqe = next_sqe(s);
	io_uring_prep_recv_multishot(sqe, s->conn[i].fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = BUFFER_GROUP;
	sqe->user_data = (uint64_t)i << 1;
}

static void flush(struct echo_side *s, unsigned i)
{
	struct echo_conn *c = &s->conn[i];
	if (c->sending || !c->len)
		return;
	struct io_uring_sqe *sqe = next_sqe(s);
	c->sending = c->len;
	io_uring_prep_send(sqe, c->fd, c->out, c->len, MSG_WAITALL | MSG_NOSIGNAL);
	sqe->user_data = (uint64_t)i << 1 | 1;
}

static void mark(struct echo_side *s, unsigned i)
{
	if (s->conn[i].dirty)
		return;
	s->conn[i].dirty = true;
	s->dirty[s->dirty_count++] = i;
}

/* n more bytes to send; p NULL: any bytes. What is in flight is bounded by the client's depth, and so is this. */
static void put(struct echo_conn *c, const uint8_t *p, size_t n)
{
	CHECK(n <= c->cap - c->len);
	if (p)
		memcpy(c->out + c->len, p, n);
	c->len += n;
}

static void on_send(struct echo_side *s, unsigned i, int res)
{
	struct echo_conn *c = &s->conn[i];
	if (res <= 0)
		die("send", -res);
	memmove(c->out, c->out + res, c->len - (size_t)res);
	c->len -= (size_t)res;
	c->sending = 0;
	if (c->len)
		mark(s, i);
}

/* Returns whether a buffer has been given back. */
static bool on_recv(struct echo_side *s, unsigned i, const struct io_uring_cqe *cqe, int offset)
{
	struct echo_conn *c = &s->conn[i];
	bool returned = false;
	if (cqe->res > 0) {
		unsigned short id = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
		uint8_t *p = s->memory + (size_t)id * BUFFER_SIZE;
		if (s->is_client) {
			size_t have = c->part + (size_t)cqe->res, whole = have / s->opts->size;
			c->part = have % s->opts->size;
			put(c, NULL, whole * s->opts->size);
			__atomic_store_n(&s->messages, s->messages + whole, __ATOMIC_RELAXED);
		} else {
			put(c, p, (size_t)cqe->res);
		}
		io_uring_buf_ring_add(s->buffers, p, BUFFER_SIZE, id, BUFFERS - 1, offset);
		returned = true;
		mark(s, i);
	} else if (cqe->res != -ENOBUFS) {
		die("receive", cqe->res ? -cqe->res : ECONNRESET);
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		arm(s, i);
	return returned;
}

static void turn(struct echo_side *s)
{
	struct __kernel_timespec wait = {.tv_nsec = 100 * 1000 * 1000};
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0;
	int returned = 0;
	io_uring_submit_and_wait_timeout(&s->ring, &cqe, 1, &wait, NULL);
	io_uring_for_each_cqe(&s->ring, head, cqe)
	{
		unsigned i = (unsigned)(cqe->user_data >> 1);
		seen++;
		if (cqe->user_data & 1)
			on_send(s, i, cqe->res);
		else
			returned += on_recv(s, i, cqe, returned);
	}
	io_uring_buf_ring_advance(s->buffers, returned);
	io_uring_cq_advance(&s->ring, seen);
	for (unsigned k = 0; k < s->dirty_count; k++) {
		s->conn[s->dirty[k]].dirty = false;
		flush(s, s->dirty[k]);
	}
	s->dirty_count = 0;
}

static void *side_run(void *arg)
{
	struct echo_side *s = arg;
	pin(s->cpu);
	side_setup(s);
	for (unsigned i = 0; i < s->opts->connections; i++) {
		arm(s, i);
		if (s->is_client) {
			put(&s->conn[i], NULL, (size_t)s->opts->depth * s->opts->size);
			flush(s, i);
		}
	}
	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		turn(s);
	return NULL;
}

static void conn_setup(struct echo_conn *c, int fd, const struct echo_opts *o)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->fd = fd;
	c->cap = (size_t)o->depth * o->size * 2 + 65536;
	c->out = must(calloc(1, c->cap));
}

static void connect_all(struct echo_side *server, struct echo_side *client)
{
	const struct echo_opts *o = server->opts;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof to;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&to, sizeof to) || listen(listener, 4096) ||
	    getsockname(listener, (struct sockaddr *)&to, &len))
		die("listen", errno);
	server->conn = must(calloc(o->connections, sizeof *server->conn));
	client->conn = must(calloc(o->connections, sizeof *client->conn));
	for (unsigned i = 0; i < o->connections; i++) {
		int near = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (near < 0 || connect(near, (struct sockaddr *)&to, sizeof to))
			die("connect", errno);
		int far = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (far < 0)
			die("accept", errno);
		conn_setup(&client->conn[i], near, o);
		conn_setup(&server->conn[i], far, o);
	}
	close(listener);
}

static void start(struct echo_side *s)
{
	int rc = pthread_create(&s->thread, NULL, side_run, s);
	if (rc)
		die("thread", rc);
}

static void nap(double seconds)
{
	struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static double measure(const struct echo_side *client, uint64_t *ret_messages, double *ret_seconds)
{
	nap(WARMUP_MS / 1e3);
	uint64_t t0 = clock_mono_ns(), n0 = __atomic_load_n(&client->messages, __ATOMIC_RELAXED);
	nap(client->opts->seconds);
	uint64_t t1 = clock_mono_ns(), n1 = __atomic_load_n(&client->messages, __ATOMIC_RELAXED);
	*ret_messages = n1 - n0;
	*ret_seconds = (double)(t1 - t0) / 1e9;
	return (double)(n1 - n0) / *ret_seconds;
}

static const char usage[] =
	"usage: echo [OPTION]...\n\n"
	"Messages per second of a bare io_uring echo over loopback, server and client on a CPU each.\n\n"
	"  --connections N   (default 50)\n"
	"  --depth N         messages in flight on each connection (default 1)\n"
	"  --size N          bytes of a message (default 16)\n"
	"  --seconds N       of measuring, after 0.2 s of warm-up (default 3)\n"
	"  --server-cpu N    (default 0)\n"
	"  --client-cpu N    (default 1)\n"
	"  --json            one object\n";

static bool number(const char *text, double min, double max, double *ret)
{
	char *end;
	double v = strtod(text, &end);
	if (end == text || *end || !(v >= min && v <= max))
		return false;
	*ret = v;
	return true;
}

static void parse(struct echo_opts *o, int argc, char **argv)
{
	static const struct option longs[] = {{"connections", required_argument, NULL, 'c'},
					      {"depth", required_argument, NULL, 'd'},
					      {"size", required_argument, NULL, 's'},
					      {"seconds", required_argument, NULL, 't'},
					      {"server-cpu", required_argument, NULL, 'S'},
					      {"client-cpu", required_argument, NULL, 'C'},
					      {"json", no_argument, NULL, 'j'},
					      {"help", no_argument, NULL, 'h'},
					      {NULL, 0, NULL, 0}};
	double v = 0;
	bool ok = true;
	for (int c; ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
		if (c == 'h') {
			fputs(usage, stdout);
			exit(0);
		}
		if (c == 'c' && (ok = number(optarg, 1, 100000, &v)))
			o->connections = (unsigned)v;
		else if (c == 'd' && (ok = number(optarg, 1, 100000, &v)))
			o->depth = (unsigned)v;
		else if (c == 's' && (ok = number(optarg, 1, 1 << 20, &v)))
			o->size = (unsigned)v;
		else if (c == 't')
			ok = number(optarg, 0.01, 86400, &o->seconds);
		else if (c == 'S' && (ok = number(optarg, 0, CPU_SETSIZE - 1, &v)))
			o->server_cpu = (int)v;
		else if (c == 'C' && (ok = number(optarg, 0, CPU_SETSIZE - 1, &v)))
			o->client_cpu = (int)v;
		else if (c == 'j')
			o->json = true;
		else
			ok = false;
	}
	if (!ok || optind < argc) {
		fputs("echo: an argument is not understood, or out of range\n", stderr);
		fputs(usage, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	static struct echo_side server, client;
	static struct echo_opts o = {.connections = 50, .depth = 1, .size = 16, .client_cpu = 1, .seconds = 3};
	parse(&o, argc, argv);
	server.opts = client.opts = &o;
	server.cpu = o.server_cpu;
	client.cpu = o.client_cpu;
	client.is_client = true;
	connect_all(&server, &client);
	start(&server);
	start(&client);
	uint64_t messages;
	double seconds, rate = measure(&client, &messages, &seconds);
	atomic_store(&stop, true);
	pthread_join(client.thread, NULL);
	pthread_join(server.thread, NULL);
	if (o.json)
		printf("{\"messages_per_second\":%.1f,\"messages\":%" PRIu64
		       ",\"elapsed_seconds\":%.6f,\"connections\":%u,\"depth\":%u,\"size\":%u}\n",
		       rate, messages, seconds, o.connections, o.depth, o.size);
	else
		printf("%.0f messages/s (%u connections x %u in flight, %u bytes)\n", rate, o.connections, o.depth,
		       o.size);
	return 0;
}
