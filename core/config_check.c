/* What an option's own type and range cannot say: powers of two, one limit against another, the form of addresses and lists.
 *
 * Invariant: a configuration that passes can be acted on by every module without looking at its numbers again; whether the machine has what
 * it asks for (the CPUs, the address, the directory) is found out by those who use it. Pure; runs on the main thread.
 */
#include "core/base/check.h"
#include "core/config_origin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define CPU_MAX 1023 /* glibc's cpu_set_t ends here */

struct check {
	const struct config *c;
	const struct config_origin *origins;
	struct config_error *why;
};

static int64_t int_of(const struct config *c, const struct config_option *o)
{
	return *(const int64_t *)((const char *)c + o->offset);
}

/* "CONFIG_X (file:line)", the subject of a sentence. */
static const char *name(const struct check *k, size_t offset, char *buf, size_t cap)
{
	unsigned i = 0;
	while (config_options[i].build || config_options[i].offset != offset)
		i++;
	CHECK(i < config_option_count);
	const struct config_origin *from = k->origins ? &k->origins[i] : NULL;
	if (!from)
		snprintf(buf, cap, "CONFIG_%s", config_options[i].key);
	else if (from->file)
		snprintf(buf, cap, "CONFIG_%s (%.100s:%u)", config_options[i].key, from->file, from->line);
	else
		snprintf(buf, cap, "CONFIG_%s (%s)", config_options[i].key, from->override ? "-o" : "default");
	return buf;
}

static int __attribute__((format(printf, 3, 4))) refuse(const struct check *k, size_t offset, const char *fmt, ...)
{
	char text[CONFIG_ERROR_MAX - 150], subject[150];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	snprintf(k->why->text, sizeof k->why->text, "%s %s", name(k, offset, subject, sizeof subject), text);
	return -EINVAL;
}

static int check_powers(const struct check *k)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (!o->pow2)
			continue;
		int64_t v = int_of(k->c, o), below = 1;
		while (below * 2 <= v)
			below *= 2;
		if (below == v)
			continue;
		if (below * 2 > o->max)
			return refuse(k, o->offset, "is %" PRId64 " and must be a power of two, such as %" PRId64, v,
				      below);
		if (below < o->min)
			return refuse(k, o->offset, "is %" PRId64 " and must be a power of two, such as %" PRId64, v,
				      below * 2);
		return refuse(k, o->offset,
			      "is %" PRId64 " and must be a power of two, such as %" PRId64 " or %" PRId64, v, below,
			      below * 2);
	}
	return 0;
}

static int check_orders(const struct check *k)
{
	static const struct {
		size_t low, high;
	} orders[] = {
		{offsetof(struct config, window_min), offsetof(struct config, window_max)},
		{offsetof(struct config, count_max), offsetof(struct config, window_max)},
		{offsetof(struct config, ring_entries), offsetof(struct config, cq_entries)},
	};
	for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
		int64_t low = *(const int64_t *)((const char *)k->c + orders[i].low);
		int64_t high = *(const int64_t *)((const char *)k->c + orders[i].high);
		char other[150];
		if (low > high)
			return refuse(k, orders[i].low, "is %" PRId64 " and must not be above %s, which is %" PRId64,
				      low, name(k, orders[i].high, other, sizeof other), high);
	}
	return 0;
}

/* What is in flight may be answered in one turn, and then has to fit: bytes of an answer, roundly, against the queue that takes it. */
static int check_queue(const struct check *k)
{
	static const struct {
		size_t calls;
		int64_t bytes;
	} answers[] = {{offsetof(struct config, native_inflight_max), 64},
		       {offsetof(struct config, streams_max), 128},
		       {offsetof(struct config, take_pipeline), 64}};
	int64_t room = k->c->conn_queue_max;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		int64_t calls = *(const int64_t *)((const char *)k->c + answers[i].calls);
		char other[150];
		if (calls * answers[i].bytes > room)
			return refuse(k, offsetof(struct config, conn_queue_max),
				      "is %" PRId64 " and must be at least %" PRId64 " times %s, which is %" PRId64
				      ": answers to all calls in flight have to fit",
				      room, answers[i].bytes, name(k, answers[i].calls, other, sizeof other), calls);
	}
	return 0;
}

/* Memory for messages that are still being received: one of the largest must fit into a connection's share, and three shares into the whole, one of
 * which is kept free. And for those
 * that wait for handler threads. */
static int check_messages(const struct check *k)
{
	const struct config *c = k->c;
	int64_t block = 1;
	char other[150];
	while (block < c->message_max + 16) /* with the header of its frame; core/bufpool.h has the blocks */
		block *= 2;
	if (c->assembly_conn_max < block)
		return refuse(k, offsetof(struct config, assembly_conn_max),
			      "is %" PRId64 " and must be at least %" PRId64
			      ", the block of memory for a message of %s, which is %" PRId64,
			      c->assembly_conn_max, block,
			      name(k, offsetof(struct config, message_max), other, sizeof other), c->message_max);
	if (c->handler_threads && c->handler_bytes_max < 2 * c->message_max)
		return refuse(k, offsetof(struct config, handler_bytes_max),
			      "is %" PRId64 " and must be at least twice %s, which is %" PRId64
			      ": a request and its answer",
			      c->handler_bytes_max, name(k, offsetof(struct config, message_max), other, sizeof other),
			      c->message_max);
	if (c->assembly_max / 3 < c->assembly_conn_max)
		return refuse(k, offsetof(struct config, assembly_max),
			      "is %" PRId64 " and must be at least three times %s, which is %" PRId64, c->assembly_max,
			      name(k, offsetof(struct config, assembly_conn_max), other, sizeof other),
			      c->assembly_conn_max);
	return 0;
}

/* ---- one limit beside another ---- */

/* What happens where two limits cannot hold together and one of them is a default that nobody has set. */
enum yields {
	NEITHER,   /* the configuration is refused all the same */
	THE_LOWER, /* a default in `low` is made smaller */
	THE_UPPER, /* the value of `high` is made larger for a default in `low` */
};

#define AT(field) offsetof(struct config, field)
#define REQUEST_ROOM 256  /* names and numbers in a request beside its payload, at most */
#define SEGMENT_ROOM 8448 /* the segment's header, and the record's and the frame's own bytes, at most */
#define FRAME_ROOM 256    /* what the log keeps of a frame beside its payload, at most */
#define MEMORY_ROOM ((512 << 10) + 2 * FRAME_ROOM) /* the ends of two chunks of memory */

/* `times` x low + room <= high. */
static const struct pair {
	size_t low, high;
	int times, room;
	enum yields yields;
	const char *because;
} pairs[] = {
	{AT(feed_frame_max), AT(message_max), 1, REQUEST_ROOM, THE_LOWER, "a request has to carry a frame"},
	{AT(feed_frame_max), AT(feed_segment_bytes), 1, SEGMENT_ROOM, THE_LOWER, "a segment has to hold a frame"},
	{AT(feed_frame_max), AT(feed_held_max), 2, 0, THE_LOWER, "two frames have to have room while they wait"},
	{AT(feed_frame_max), AT(feed_lag_max_bytes), 1, FRAME_ROOM, THE_LOWER,
	 "a subscriber may be one frame behind without losing it"},
	{AT(feed_frame_max), AT(feed_read_max), 4, 0, NEITHER, "four frames have to have room while they are read"},
	{AT(feed_frame_max), AT(feed_memory_bytes), 2, MEMORY_ROOM, THE_UPPER,
	 "the two newest frames have to have room in memory"},
	{AT(feed_reorder_bytes), AT(feed_reorder_total), 1, 0, THE_LOWER, "one window is part of all"},
	{AT(stats_conn_calls_max), AT(stats_calls_max), 1, 0, THE_LOWER, "one connection's calls are part of all"},
};

static int64_t value(const struct config *c, size_t offset)
{
	return *(const int64_t *)((const char *)c + offset);
}

static bool is_default(const struct config_origin *origins, size_t offset)
{
	unsigned i = 0;
	while (config_options[i].build || config_options[i].offset != offset)
		i++;
	return !origins[i].file && !origins[i].override;
}

void config_settle(struct config *c, const struct config_origin *origins)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		const struct pair *p = &pairs[i];
		int64_t low = value(c, p->low), high = value(c, p->high);
		if (low <= (high - p->room) / p->times || !is_default(origins, p->low))
			continue;
		if (p->yields == THE_LOWER)
			*(int64_t *)((char *)c + p->low) = (high - p->room) / p->times;
		else if (p->yields == THE_UPPER)
			*(int64_t *)((char *)c + p->high) = low * p->times + p->room;
	}
}

static int check_pairs(const struct check *k)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		const struct pair *p = &pairs[i];
		int64_t low = value(k->c, p->low), high = value(k->c, p->high);
		char other[150];
		if (low > (high - p->room) / p->times)
			return refuse(k, p->low,
				      "is %" PRId64 " and can be at most %" PRId64 " where %s is %" PRId64 ": %s", low,
				      (high - p->room) / p->times, name(k, p->high, other, sizeof other), high,
				      p->because);
	}
	return 0;
}

/* A client that sends each field as it is needs as many bytes as the list has, in frames of 16 KiB. */
static int check_headers(const struct check *k)
{
	const struct config *c = k->c;
	char other[150];
	if (c->header_list_max > (1 + c->header_continuations_max) * 16384)
		return refuse(k, AT(header_list_max),
			      "is %" PRId64 " and can be at most %" PRId64 " where %s is %" PRId64
			      ": a list comes in 1 + %" PRId64 " frames of 16384 bytes",
			      c->header_list_max, (1 + c->header_continuations_max) * 16384,
			      name(k, AT(header_continuations_max), other, sizeof other), c->header_continuations_max,
			      c->header_continuations_max);
	return 0;
}

int config_listen_split(const char *listen, char *ret_host, size_t cap, uint16_t *ret_port)
{
	const char *colon = strrchr(listen, ':');
	const char *host = listen;
	if (!colon || colon == listen)
		return -EINVAL;
	size_t n = (size_t)(colon - listen);
	if (*host == '[') {
		if (n < 3 || host[n - 1] != ']')
			return -EINVAL;
		host++;
		n -= 2;
	} else if (memchr(host, ':', n)) {
		return -EINVAL; /* an IPv6 address without brackets: where does the port begin? */
	}
	size_t digits = strlen(colon + 1);
	if (n >= cap || !digits || digits > 5 || strspn(colon + 1, "0123456789") != digits)
		return -EINVAL;
	unsigned long port = strtoul(colon + 1, NULL, 10);
	if (port > UINT16_MAX)
		return -EINVAL;
	memcpy(ret_host, host, n);
	ret_host[n] = '\0';
	*ret_port = (uint16_t)port;
	return 0;
}

/* By its text alone: a name other than localhost may resolve to anything. */
static bool is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
	return strcmp(host, "localhost") == 0;
}

static int check_listen(const struct check *k)
{
	char host[256];
	uint16_t port;
	size_t at = offsetof(struct config, listen);
	if (config_listen_split(k->c->listen, host, sizeof host, &port))
		return refuse(k, at, "is \"%.64s\" and must be HOST:PORT, as in \"127.0.0.1:50051\" or \"[::1]:50051\"",
			      k->c->listen);
	if (!is_loopback(host) && !k->c->allow_cleartext && !*k->c->tls_cert)
		return refuse(
			k, at,
			"is \"%.64s\", which other machines may reach, unencrypted: set CONFIG_TLS_CERT and CONFIG_TLS_KEY, or "
			"CONFIG_ALLOW_CLEARTEXT=y if you mean it, or listen on a loopback address",
			k->c->listen);
	return 0;
}

/* What stands beside a certificate, and means nothing without it: left alone it would look like protection. */
static int check_tls(const struct check *k)
{
	const struct config *c = k->c;
	if (*c->tls_cert && !*c->tls_key)
		return refuse(k, offsetof(struct config, tls_key),
			      "is empty, and CONFIG_TLS_CERT needs its key: set both");
	if (!*c->tls_cert && *c->tls_client_ca)
		return refuse(
			k, offsetof(struct config, tls_client_ca),
			"is set and CONFIG_TLS_CERT is not: clients could not show certificates; set CONFIG_TLS_CERT and CONFIG_TLS_KEY");
	if (!*c->tls_cert && *c->tls_key)
		return refuse(k, offsetof(struct config, tls_key),
			      "is set and CONFIG_TLS_CERT is not, so that nothing would be encrypted: set both");
	return 0;
}

/* A number of at most four digits at *p; moves *p past it. */
static bool next_number(const char **p, unsigned *ret)
{
	size_t n = strspn(*p, "0123456789");
	if (!n || n > 4)
		return false;
	*ret = (unsigned)strtoul(*p, NULL, 10);
	*p += n;
	return true;
}

static int check_cpus(const struct check *k)
{
	size_t at = offsetof(struct config, cpus);
	uint8_t seen[CPU_MAX + 1] = {0};
	for (const char *p = k->c->cpus; *p;) {
		unsigned first, last;
		if (!next_number(&p, &first))
			goto malformed;
		last = first;
		if (*p == '-' && (p++, !next_number(&p, &last)))
			goto malformed;
		if (first > last || last > CPU_MAX || (*p && (*p != ',' || !p[1])))
			goto malformed;
		for (unsigned cpu = first; cpu <= last; cpu++)
			if (seen[cpu]++)
				return refuse(k, at, "names CPU %u twice", cpu);
		p += *p == ',';
	}
	return 0;
malformed:
	return refuse(k, at, "is \"%.64s\" and must be a list of CPU numbers up to %d, as in \"0-3,8\", or empty",
		      k->c->cpus, CPU_MAX);
}

static int check_paths(const struct check *k)
{
	size_t room = sizeof((struct sockaddr_un *)0)->sun_path - 1;
	const char *target = k->c->log_target;
	if (!*k->c->data_dir)
		return refuse(k, offsetof(struct config, data_dir), "is empty and must name a directory");
	if (strlen(k->c->stats_socket) > room)
		return refuse(k, offsetof(struct config, stats_socket),
			      "has %zu bytes; a Unix socket's path has at most %zu", strlen(k->c->stats_socket), room);
	if (strcmp(target, "auto") != 0 && strcmp(target, "stderr") != 0 && strcmp(target, "journal") != 0 &&
	    strncmp(target, "file:/", 6) != 0)
		return refuse(k, offsetof(struct config, log_target),
			      "is \"%.64s\" and must be \"auto\", \"stderr\", \"journal\" or \"file:/absolute/path\"",
			      target);
	return 0;
}

int config_check_origins(const struct config *c, const struct config_origin *origins, struct config_error *why)
{
	static int (*const checks[])(const struct check *k) = {
		check_powers,  check_orders, check_queue, check_messages, check_pairs,
		check_headers, check_listen, check_tls,   check_cpus,     check_paths};
	struct check k = {c, origins, why};
	int rc = 0;
	for (size_t i = 0; i < ARRAY_SIZE(checks) && !rc; i++)
		rc = checks[i](&k);
	return rc;
}

int config_check(const struct config *c, struct config_error *why)
{
	return config_check_origins(c, NULL, why);
}
