/* The load of `ordinal load --method fanout`, for Redis: one connection PUBLISHes, pipelined, and N connections that have SUBSCRIBEd read all of it. For
 * bench/run; prints one object. One thread, epoll.
 *
 * Payloads begin with a number and the time when they were sent (with --rate: due), on this machine's clock. Every subscriber has to get every
 * number once, in order: anything else ends the program with code 1. As in `ordinal load`: in the closed loop the publisher waits for the slowest
 * subscriber when it is --lag messages ahead; the clock is read once a receive; of a receive the first 64 messages are timed one by one, later ones by eights.
 */
#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hist.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECEIVE (256u << 10)
#define STAMP 16u /* number, time */
#define GRACE_NS (10 * NS_PER_S)
#define OUT_MAX (256u << 10)

struct subscriber {
	int fd;
	bool confirmed;
	uint64_t next; /* the number that must come */
	uint32_t rest_n;
	uint8_t *rest; /* the beginning of a message */
};

static struct {
	uint16_t port;
	uint32_t subscribers, size, depth, lag;
	double rate;
	uint64_t duration_ns, warmup_ns;
} opts = {.subscribers = 1,
	  .size = 64,
	  .depth = 1000,
	  .lag = 16384,
	  .duration_ns = 3 * NS_PER_S,
	  .warmup_ns = 300 * NS_PER_MS};

static struct {
	int epoll, fd;
	struct subscriber *subs;
	uint32_t confirmed;
	uint64_t issued, answered;
	uint64_t begin_ns, measure_ns; /* of publishing; of what is counted, 0: not yet */
	uint64_t deliveries;
	struct hist latency;
	uint8_t head[64], command[64]; /* of a message; of a PUBLISH */
	uint32_t head_n, message_n, command_n;
	uint8_t *out;
	size_t out_n, out_at;
	uint8_t receive[RECEIVE];
} run;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	fputs("redis_fanout: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static int dial(uint32_t index)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons(opts.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct epoll_event ev = {.events = EPOLLIN, .data.u32 = index};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		die("connecting to port %u: %s", opts.port, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		die("epoll: %s", strerror(errno));
	return fd;
}

/* Subscribing. */

static const char confirmation[] = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";

static void subscribe_all(void)
{
	static const char command[] = "SUBSCRIBE c\r\n";
	run.subs = calloc(opts.subscribers, sizeof *run.subs);
	CHECK(run.subs);
	for (uint32_t i = 0; i < opts.subscribers; i++) {
		struct subscriber *s = &run.subs[i];
		s->fd = dial(i);
		s->rest = malloc(run.message_n);
		CHECK(s->rest);
		if (write(s->fd, command, sizeof command - 1) != sizeof command - 1)
			die("writing: %s", strerror(errno));
	}
}

/* Receiving. */

static void take_message(struct subscriber *s, const uint8_t *p, uint64_t now, uint32_t weight)
{
	uint64_t number = load_le64(p + run.head_n), sent = load_le64(p + run.head_n + 8);
	if (unlikely(number != s->next))
		die("a subscriber got message %" PRIu64 ", and %" PRIu64 " was to come", number, s->next);
	s->next++;
	if (weight && run.measure_ns && sent >= run.measure_ns)
		hist_add(&run.latency, now > sent ? now - sent : 0, weight);
}

static uint32_t weight_of(size_t i, size_t n)
{
	if (i < 64)
		return 1;
	return i % 8 ? 0 : (uint32_t)(n - i < 8 ? n - i : 8);
}

static void take_messages(struct subscriber *s, const uint8_t *p, size_t n)
{
	uint64_t now = clock_mono_ns();
	size_t count = 0, all;
	if (s->rest_n) {
		uint32_t missing = run.message_n - s->rest_n, add = n < missing ? (uint32_t)n : missing;
		memcpy(s->rest + s->rest_n, p, add);
		s->rest_n += add;
		p += add;
		n -= add;
		if (s->rest_n < run.message_n)
			return;
		take_message(s, s->rest, now, 1);
		s->rest_n = 0;
		count++;
	}
	all = n / run.message_n;
	if (all && memcmp(p, run.head, run.head_n) != 0)
		die("what came is no message: %.*s", (int)run.head_n, (const char *)p);
	for (size_t i = 0; i < all; i++)
		take_message(s, p + i * run.message_n, now, weight_of(i, all));
	count += all;
	s->rest_n = (uint32_t)(n - all * run.message_n);
	memcpy(s->rest, p + all * run.message_n, s->rest_n);
	if (run.measure_ns)
		run.deliveries += count;
}

static void on_subscriber(struct subscriber *s)
{
	ssize_t n = recv(s->fd, run.receive, sizeof run.receive, MSG_DONTWAIT);
	const uint8_t *p = run.receive;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("a subscriber was disconnected");
	if (unlikely(!s->confirmed)) { /* a confirmation is small and comes alone: nothing is published yet */
		if (n != sizeof confirmation - 1 || memcmp(p, confirmation, (size_t)n) != 0)
			die("SUBSCRIBE was answered with: %.*s", (int)n, (const char *)p);
		s->confirmed = true;
		run.confirmed++;
		return;
	}
	take_messages(s, p, (size_t)n);
}

static void on_answers(void)
{
	ssize_t n = recv(run.fd, run.receive, sizeof run.receive, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("the publisher was disconnected");
	for (ssize_t i = 0; i < n; i++) {
		if (run.receive[i] == '-')
			die("PUBLISH was answered with: %.*s", (int)(n - i), (const char *)run.receive + i);
		run.answered += run.receive[i] == '\n';
	}
}

/* Publishing. */

static uint64_t slowest(void)
{
	uint64_t least = UINT64_MAX;
	for (uint32_t i = 0; i < opts.subscribers; i++)
		least = run.subs[i].next < least ? run.subs[i].next : least;
	return least;
}

static uint64_t due_ns(uint64_t number)
{
	return run.begin_ns + (uint64_t)((double)number * 1e9 / opts.rate);
}

static void put_publish(uint64_t sent_ns)
{
	uint8_t *p = run.out + run.out_n;
	memcpy(p, run.command, run.command_n);
	p += run.command_n;
	store_le64(p, run.issued++);
	store_le64(p + 8, sent_ns);
	memset(p + STAMP, 'x', opts.size - STAMP);
	memcpy(p + opts.size, "\r\n", 2);
	run.out_n += run.command_n + opts.size + 2;
}

static void flush_out(void)
{
	while (run.out_at < run.out_n) {
		ssize_t n = send(run.fd, run.out + run.out_at, run.out_n - run.out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			die("the publisher was disconnected");
		run.out_at += (size_t)n;
	}
	run.out_n = run.out_at = 0;
}

/* Returns when the next message is due; UINT64_MAX: when something has been received. */
static uint64_t publish(void)
{
	uint64_t now = clock_mono_ns(), next = UINT64_MAX, room;
	if (opts.rate > 0) {
		while ((next = due_ns(run.issued)) <= now && run.out_n < OUT_MAX)
			put_publish(next);
	} else {
		uint64_t behind = run.issued - run.answered, ahead = run.issued - slowest();
		room = behind < opts.depth ? opts.depth - behind : 0;
		if (opts.lag)
			room = ahead >= opts.lag ? 0 : opts.lag - ahead < room ? opts.lag - ahead : room;
		while (room-- && run.out_n < OUT_MAX)
			put_publish(now);
	}
	flush_out();
	return next;
}

/* The loop. */

static void turn(uint64_t until_ns)
{
	struct epoll_event ev[256];
	uint64_t now = clock_mono_ns(), left = until_ns <= now ? 0 : until_ns - now;
	left = left > 20 * NS_PER_MS ? 20 * NS_PER_MS : left;
	struct timespec t = {0, (long)left};
	int n = epoll_pwait2(run.epoll, ev, 256, &t, NULL);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u32 == UINT32_MAX)
			on_answers();
		else
			on_subscriber(&run.subs[ev[i].data.u32]);
	}
}

static void publish_until(uint64_t end_ns)
{
	while (clock_mono_ns() < end_ns) {
		uint64_t next = publish();
		turn(run.out_n ? 0 : next);
	}
}

static void read_the_rest(void)
{
	uint64_t end = clock_mono_ns() + GRACE_NS;
	while (run.out_n || slowest() < run.issued || run.answered < run.issued) {
		if (clock_mono_ns() > end)
			die("%" PRIu64 " of %" PRIu64 " messages came to the slowest subscriber", slowest(),
			    run.issued);
		flush_out();
		turn(run.out_n ? 0 : UINT64_MAX);
	}
}

static void measure(void)
{
	uint64_t began, elapsed, issued;

	while (run.confirmed < opts.subscribers)
		turn(UINT64_MAX);
	run.begin_ns = clock_mono_ns();
	publish_until(run.begin_ns + opts.warmup_ns);
	run.measure_ns = began = clock_mono_ns();
	issued = run.issued;
	publish_until(began + opts.duration_ns);
	elapsed = clock_mono_ns() - began;
	issued = run.issued - issued;
	double deliveries = (double)run.deliveries * 1e9 /
			    (double)elapsed; /* what comes after the end is timed, and not counted */
	read_the_rest();

	printf("{\"items_per_second\":%.1f,\"publish\":{\"frames_per_second\":%.1f},\"latency_us\":{\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,"
	       "\"max\":%.1f},\"received\":%" PRIu64 "}\n",
	       deliveries, (double)issued * 1e9 / (double)elapsed, (double)hist_quantile(&run.latency, 0.5) / 1e3,
	       (double)hist_quantile(&run.latency, 0.99) / 1e3, (double)hist_quantile(&run.latency, 0.999) / 1e3,
	       (double)run.latency.max / 1e3, run.issued * opts.subscribers);
}

/* Options. */

static double number(const char *what, const char *text, double min, double max)
{
	char *end;
	double v = strtod(text, &end);
	if (end == text || *end || !(v >= min && v <= max)) {
		fprintf(stderr, "redis_fanout: --%s takes a number from %g to %g\n", what, min, max);
		exit(2);
	}
	return v;
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {{"port", required_argument, NULL, 'p'},
					      {"subscribers", required_argument, NULL, 's'},
					      {"size", required_argument, NULL, 'z'},
					      {"depth", required_argument, NULL, 'd'},
					      {"lag", required_argument, NULL, 'l'},
					      {"rate", required_argument, NULL, 'r'},
					      {"seconds", required_argument, NULL, 't'},
					      {"warmup", required_argument, NULL, 'w'},
					      {NULL, 0, NULL, 0}};
	int o, i = 0;
	while ((o = getopt_long(argc, argv, "", longs, &i)) != -1) {
		const char *name = longs[i].name;
		if (o == 'p')
			opts.port = (uint16_t)number(name, optarg, 1, 65535);
		else if (o == 's')
			opts.subscribers = (uint32_t)number(name, optarg, 1, 100000);
		else if (o == 'z')
			opts.size = (uint32_t)number(name, optarg, STAMP, 65536);
		else if (o == 'd')
			opts.depth = (uint32_t)number(name, optarg, 1, 1e6);
		else if (o == 'l')
			opts.lag = (uint32_t)number(name, optarg, 0, 1e9);
		else if (o == 'r')
			opts.rate = number(name, optarg, 1, 1e9);
		else if (o == 't')
			opts.duration_ns = (uint64_t)(number(name, optarg, 0.1, 3600) * 1e9);
		else if (o == 'w')
			opts.warmup_ns = (uint64_t)(number(name, optarg, 0, 3600) * 1e9);
		else
			exit(2);
	}
	if (!opts.port || optind < argc) {
		fputs("usage: redis_fanout --port N [--subscribers N] [--size BYTES] [--depth N] [--lag N] [--rate N] [--seconds N] [--warmup N]\n",
		      stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct rlimit files;
	read_options(argc, argv);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	hist_init(&run.latency);
	run.head_n = (uint32_t)snprintf((char *)run.head, sizeof run.head, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%u\r\n",
					opts.size);
	run.message_n = run.head_n + opts.size + 2;
	run.command_n = (uint32_t)snprintf((char *)run.command, sizeof run.command,
					   "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$%u\r\n", opts.size);
	run.out = malloc(OUT_MAX + run.command_n + opts.size + 2);
	run.epoll = epoll_create1(EPOLL_CLOEXEC);
	CHECK(run.out && run.epoll >= 0);
	run.fd = dial(UINT32_MAX);
	subscribe_all();
	measure();
	return 0;
}
