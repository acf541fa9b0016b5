/* A connection, its session and a service, on a ring that is a script: for fuzz targets that drive real sessions. To be included once, by the target.
 *
 * The input is a script of operations: bytes that arrive, in pieces; sends that complete, wholly, in part or with an error; time that passes; what
 * the service does with the calls that it holds; memory that runs out; and the target's own operations, which write frames. The connection is in
 * cleartext or TLS, with or without rules of access, on a shard that drains or does not. The twin of ring.c keeps at most one receive and one send, as a
 * connection promises.
 *
 * Holds, whatever the script: the service is told of each call's beginning and end once and in order; what the session writes is well-formed (the
 * target checks it); when the client has gone, or has only closed its side, the connection ends by itself within stall_ns; and then nothing is left:
 * no call, timer, stream, block of memory or operation.
 */
#ifndef ORDINAL_TESTS_FUZZ_SESSION_RIG_H
#define ORDINAL_TESTS_FUZZ_SESSION_RIG_H

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/conn.h"
#include "core/handshakes.h"
#include "core/ring.h"
#include "core/shard.h"
#include "core/tls_internal.h"
#include "rpc/access.h"
#include "rpc/budget.h"
#include "rpc/call.h"
#include "rpc/gzip.h"
#include "rpc/session.h"
#include "tests/fuzz/certificate.h"
#include "tests/fuzz/memory.h"
#include "tests/fuzz/script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The target's: checks what is whole in rig.out, and moves rig.out.at behind it. */
static void rig_check_output(void);

/* Kconfig's defaults. */
enum { RIG_STREAM_WINDOW = 256 << 10, RIG_CONN_WINDOW = 1 << 20 };

enum { RIG_HELD = 256, RIG_CANCELS = 16, RIG_DELIVER_MAX = 16384, RIG_OPS_MAX = 4000 };

static struct rig {
	struct shard s;
	struct rpc_shard r;
	struct shard_opts so;
	struct rpc_opts ro;
	struct method_table methods;
	struct conn *c;
	int peer; /* the client's end of the socket, which carries nothing: the kernel is only asked whether it is open */
	/* The ring. */
	bool recv_armed, recv_cancelled, sending, send_cancelled, eof_delivered;
	uint64_t recv_tag, send_tag;
	struct conn_slice send[256];
	unsigned send_count;
	size_t send_len;
	uint64_t cancels[RIG_CANCELS];
	int cancel_res[RIG_CANCELS];
	unsigned cancel_count;
	uint8_t *delivered;
	/* What the client has written and the connection has not received; and what the connection has sent. With TLS, both in plaintext. */
	struct fuzz_bytes in, out;
	struct tls_context *tls, *client_tls;
	struct tls *client;            /* NULL: the client writes and reads cleartext */
	bool client_closed;            /* it has said goodbye in TLS, and writes cleartext behind that */
	struct handshakes *handshakes; /* whose one thread is the target */
	bool handshakes_wait;          /* a step is done only when the script says so */
	/* The script. */
	struct fuzz_script script;
	uint8_t last; /* byte of it, which also chooses how the connection ends */
	/* The service. */
	struct call *held[RIG_HELD];
	unsigned held_count;
	uint64_t slices_given, slices_released;
} rig;

static uint8_t rig_byte(void)
{
	return fuzz_byte(&rig.script);
}

/* The twin of the ring, and what the connection asks of its shard. */

void ring_recv(struct ring *r, int fd, uint64_t tag)
{
	CHECK(!rig.recv_armed);
	rig.recv_armed = true;
	rig.recv_cancelled = false;
	rig.recv_tag = tag;
}

void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag)
{
	CHECK(!rig.sending && n > 0);
	rig.sending = true;
	rig.send_cancelled = false;
	rig.send_tag = tag;
	rig.send[0] = (struct conn_slice){.p = p, .n = (uint32_t)n};
	rig.send_count = 1;
	rig.send_len = n;
}

void ring_sendmsg(struct ring *r, int fd, const struct msghdr *m, uint64_t tag)
{
	CHECK(!rig.sending && m->msg_iovlen > 0 && m->msg_iovlen <= 256);
	rig.sending = true;
	rig.send_cancelled = false;
	rig.send_tag = tag;
	rig.send_len = 0;
	rig.send_count = (unsigned)m->msg_iovlen;
	for (unsigned i = 0; i < rig.send_count; i++) {
		rig.send[i] = (struct conn_slice){.p = m->msg_iov[i].iov_base, .n = (uint32_t)m->msg_iov[i].iov_len};
		CHECK(rig.send[i].n > 0);
		rig.send_len += rig.send[i].n;
	}
}

static void rig_cancel_result(uint64_t tag, int res)
{
	CHECK(rig.cancel_count < RIG_CANCELS);
	rig.cancels[rig.cancel_count] = tag;
	rig.cancel_res[rig.cancel_count++] = res;
}

void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag)
{
	bool found = rig.recv_armed && rig.recv_tag == victim;
	if (found)
		rig.recv_cancelled = true;
	rig_cancel_result(tag, found ? 0 : -ENOENT);
}

void ring_cancel_fd(struct ring *r, int fd, uint64_t tag)
{
	rig.recv_cancelled |= rig.recv_armed;
	rig.send_cancelled |= rig.sending;
	rig_cancel_result(tag, 0);
}

uint8_t *ring_buf(const struct ring *r, uint16_t buf)
{
	return rig.delivered;
}

void ring_buf_put(struct ring *r, uint16_t buf)
{
}

void shard_unsettle(struct shard *s, struct conn *c)
{
}

void shard_refuse(struct shard *s, int fd)
{
	CHECK(!"a connection was refused");
}

/* Events. */

static void rig_event(uint64_t tag, int32_t res, uint16_t flags)
{
	struct ring_event ev = {.tag = tag, .res = res, .flags = flags};
	struct conn *c = slab_at(&rig.s.conns, ring_tag_slot(tag));
	CHECK((c->gen & 0xffffff) == ring_tag_gen(tag));
	memory_watch(true);
	switch (ring_tag_kind(tag)) {
	case SHARD_OP_RECV:
		conn_on_recv(c, &ev);
		break;
	case SHARD_OP_SEND:
		conn_on_send(c, &ev);
		break;
	default:
		conn_on_cancel(c, &ev);
	}
	memory_watch(false);
}

/* What has come over the wire, in memory of exactly its size. */
static void rig_receive(const uint8_t *p, size_t n)
{
	rig.delivered = malloc(n);
	CHECK(rig.delivered);
	memcpy(rig.delivered, p, n);
	rig_event(rig.recv_tag, (int32_t)n, RING_EV_MORE | RING_EV_BUFFER);
	free(rig.delivered);
	rig.delivered = NULL;
}

/* The client's records. */
static void rig_receive_records(void)
{
	uint8_t record[RIG_DELIVER_MAX];
	size_t n;
	while (rig.recv_armed && (n = tls_take(rig.client, record, sizeof record)) > 0)
		rig_receive(record, n);
}

/* The client's handshake goes on, if it is not over. */
static bool rig_client_shakes(void)
{
	if (!rig.client || tls_is_ready(rig.client))
		return false;
	CHECK(tls_handshake(rig.client) == 0);
	rig_receive_records();
	return true;
}

/* The client's next n bytes, or fewer. */
static void rig_deliver(size_t n)
{
	if (rig_client_shakes())
		return;
	size_t left = rig.in.len - rig.in.at;
	n = n < left ? n : left;
	n = n < RIG_DELIVER_MAX ? n : RIG_DELIVER_MAX;
	if (rig.client)
		rig_receive_records();
	if (!rig.recv_armed || n == 0)
		return;
	const uint8_t *p = rig.in.p + rig.in.at;
	rig.in.at += n;
	if (rig.client && !rig.client_closed) {
		CHECK(tls_write(rig.client, p, n));
		rig_receive_records();
	} else {
		rig_receive(p, n);
	}
}

/* The client reads: what has been sent joins rig.out. */
static void rig_read(const uint8_t *p, size_t n)
{
	uint8_t plain[4096];
	int got;
	if (!rig.client) {
		fuzz_append(&rig.out, p, n);
		return;
	}
	CHECK(tls_feed(rig.client, p, n));
	while ((got = tls_read(rig.client, plain, sizeof plain)) > 0)
		fuzz_append(&rig.out, plain, (size_t)got);
	CHECK(got == 0 || got == -EPIPE);
}

static void rig_recv_ends(int res)
{
	if (!rig.recv_armed)
		return;
	rig.recv_armed = false;
	rig_event(rig.recv_tag, res, 0);
}

/* The send under way takes n bytes, or all; n 0: it fails. */
static void rig_sent(size_t n)
{
	if (!rig.sending)
		return;
	n = n < rig.send_len ? n : rig.send_len;
	size_t left = n;
	for (unsigned i = 0; i < rig.send_count && left; i++) {
		size_t take = rig.send[i].n < left ? rig.send[i].n : left;
		rig_read(rig.send[i].p, take);
		left -= take;
	}
	rig.sending = false;
	rig_event(rig.send_tag, n ? (int32_t)n : -EPIPE, 0);
}

static void rig_cancelled(void)
{
	if (rig.recv_cancelled)
		rig_recv_ends(-ECANCELED);
	if (rig.send_cancelled && rig.sending) {
		rig.sending = false;
		rig_event(rig.send_tag, -ECANCELED, 0);
	}
	while (rig.cancel_count) {
		uint64_t tag = rig.cancels[--rig.cancel_count];
		rig_event(tag, rig.cancel_res[rig.cancel_count], 0);
	}
}

/* The end of a loop turn, as shard.c has it. */
static void rig_turn(void)
{
	struct shard *s = &rig.s;
	bool more = true;
	memory_watch(true);
	wheel_advance(&s->wheel, s->now_ns);
	while (more) {
		conn_handshakes_turn(s);
		memory_watch(false);
		more = !rig.handshakes_wait && handshakes_turn(rig.handshakes, 0);
		memory_watch(true);
	}
	rpc_shard_turn(&rig.r);
	conn_flush_all(s);
	memory_watch(false);
	if (s->conns.used == 0)
		rig.c = NULL;
}

/* The service: what it is told it checks; what it does the script says. A call's words: 0 messages, 1 half-closed, 2 told of room, 3 position in the
 * framed bytes, 4 paused. */

static uint8_t rig_framed[5 + 100 + 5 + 3000 + 5 + 70000 + 5];

static void rig_hold(struct call *c)
{
	CHECK(c->live);
	if (rig.held_count == RIG_HELD) {
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("enough"));
		return;
	}
	rig.held[rig.held_count++] = c;
}

static void rig_forget(const struct call *c)
{
	unsigned i = 0;
	while (i < rig.held_count && rig.held[i] != c)
		i++;
	CHECK(i < rig.held_count);
	rig.held[i] = rig.held[--rig.held_count];
}

static void rig_echo(struct call *c, struct span msg)
{
	uint8_t copy[2000];
	size_t n = msg.n < sizeof copy ? msg.n : sizeof copy;
	CHECK(c->svc.word[0] == 0);
	if (n)
		memcpy(copy, msg.p, n);
	call_reply(c, copy, n);
}

static void rig_hold_message(struct call *c, struct span msg)
{
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < msg.n; i++)
		sum = (uint8_t)(sum + msg.p[i]);
	CHECK(c->svc.word[0]++ == 0);
	c->svc.word[2] = 1;
	rig_hold(c);
}

static void rig_open(struct call *c)
{
	c->svc.word[2] = 1;
	rig_hold(c);
}

static void rig_message(struct call *c, struct span msg)
{
	CHECK(c->live && !c->svc.word[1]);
	c->svc.word[0]++;
	if (msg.n && msg.p[0] == 'p' && !c->svc.word[4]) {
		c->svc.word[4] = 1;
		c->ops->pause(c);
	} else if (msg.n && msg.p[0] == 'e') {
		rig_forget(c);
		call_finish(c, GRPC_ABORTED, SPAN_LIT("an error \xff\n%"));
	} else if (msg.n && msg.p[0] == 's') {
		c->svc.word[2] = call_send(c, msg.p, msg.n < 3000 ? msg.n : 3000);
	}
}

static void rig_half_close(struct call *c)
{
	CHECK(c->live && !c->svc.word[1]);
	c->svc.word[1] = 1;
}

static void rig_cancel(struct call *c)
{
	rig_forget(c);
}

static void rig_writable(struct call *c)
{
	c->svc.word[2] = 1;
}

static void rig_cancel_echo(struct call *c)
{
	CHECK(!"a call was cancelled that had been answered");
}

static const struct method rig_method[] = {
	{.service = "f.S",
	 .name = "Echo",
	 .number = 1,
	 .kind = METHOD_UNARY,
	 .message = rig_echo,
	 .access = METHOD_FOR_ALL,
	 .cancel = rig_cancel_echo,
	 .compress = true},
	{.service = "f.S",
	 .name = "Hold",
	 .number = 2,
	 .kind = METHOD_UNARY,
	 .message = rig_hold_message,
	 .cancel = rig_cancel,
	 .metadata = true},
	{.service = "f.S",
	 .name = "Bidi",
	 .number = 3,
	 .kind = METHOD_BIDI,
	 .open = rig_open,
	 .message = rig_message,
	 .half_close = rig_half_close,
	 .cancel = rig_cancel,
	 .writable = rig_writable,
	 .compress = true},
	{.service = "f.S",
	 .name = "Down",
	 .number = 4,
	 .kind = METHOD_SERVER_STREAM,
	 .message = rig_hold_message,
	 .cancel = rig_cancel,
	 .writable = rig_writable},
};
enum { RIG_METHODS = sizeof rig_method / sizeof *rig_method };

static void rig_released(void *owner)
{
	rig.slices_released++;
}

/* One act of the service's on one of its calls. */
static void rig_act(struct call *c, uint8_t what)
{
	static uint8_t bytes[20000];
	size_t n = (size_t)(what >> 3) * 40;
	bool streams = c->method->kind != METHOD_UNARY;
	switch (what & 7) {
	case 0:
		rig_forget(c);
		call_finish(c,
			    what & 8    ? GRPC_OK
			    : what & 32 ? (enum grpc_status)(UINT32_MAX - what) /* what another server may have said */
					: GRPC_NOT_FOUND,
			    what & 16 ? (struct span){bytes, what & 64 ? sizeof bytes : 7} : (struct span){0});
		break;
	case 1:
		if (c->svc.word[4]) {
			c->svc.word[4] = 0;
			c->ops->resume(c);
		}
		break;
	case 2:
		if (streams && !c->svc.word[4] && c->method->kind == METHOD_BIDI) {
			c->svc.word[4] = 1;
			c->ops->pause(c);
		}
		break;
	case 3:
		c->compress = !c->compress;
		break;
	case 4:
		if (streams && c->svc.word[2] && c->svc.word[3] == 0)
			c->svc.word[2] = call_send(c, bytes, n * 16);
		break;
	case 5:
		if (streams && c->svc.word[2]) {
			size_t at = c->svc.word[3];
			struct conn_slice s = {.p = rig_framed + at,
					       .n = (uint32_t)(sizeof rig_framed - at),
					       .release = rig_released,
					       .scarce = what & 64};
			rig.slices_given++;
			size_t took = c->ops->send_framed(c, &s);
			CHECK(took <= s.n);
			c->svc.word[2] = took == s.n;
			c->svc.word[3] = (at + took) % sizeof rig_framed;
		}
		break;
	default:
		if (streams) {
			if (c->svc.word[2] && c->svc.word[3] == 0)
				c->svc.word[2] = call_send(c, bytes, n);
		} else {
			rig_forget(c);
			call_reply(c, bytes, n);
		}
	}
}

static void rig_serve(void)
{
	uint8_t which = rig_byte(), what = rig_byte();
	if (!rig.held_count)
		return;
	memory_watch(true);
	rig_act(rig.held[which % rig.held_count], what);
	memory_watch(false);
}

/* The run. */

static bool rig_attach(struct conn *c, void *ctx)
{
	return session_attach(c, &rig.r);
}

/* Rules of access, for runs that have some: who shows "x" may do everything. */
static struct access *rig_rules;
static const char rig_rules_text[] =
	"root sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 admin\n"
	"gone sha256:3d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4882 until:2020-01-01 admin\n";

static void rig_end_shard(void)
{
	rpc_shard_done(&rig.r);
	slab_done(&rig.s.conns);
	bufpool_done(&rig.s.pool);
	access_put(rig_rules);
	handshakes_free(rig.handshakes);
	tls_context_put(rig.tls);
	tls_context_put(rig.client_tls);
}

static struct tls_context *rig_tls(void *ctx)
{
	return tls_context_get(rig.tls);
}

static void rig_begin_tls(void)
{
	const char *why, *pem = certificate_file();
	CHECK(tls_context_new(&(struct tls_opts){.cert = pem, .key = pem}, &rig.tls, &why) == 0);
	CHECK(tls_client_context_new(&(struct tls_client_opts){.ca = pem}, &rig.client_tls, &why) == 0);
	CHECK(handshakes_new(1, 1, &rig.handshakes) == 0);
	conn_handshakes_init(&rig.s, rig.handshakes);
}

/* The shard outlives the runs, which are many. */
static void rig_begin_shard(void)
{
	log_level_now = LOG_LEVEL_ERROR;
	store_be32(rig_framed + 1, 100);
	store_be32(rig_framed + 105 + 1, 3000);
	store_be32(rig_framed + 3110 + 1, 70000);
	method_table_add(&rig.methods, rig_method, RIG_METHODS);
	const char *why;
	CHECK(access_parse((struct span){(const uint8_t *)rig_rules_text, sizeof rig_rules_text - 1}, "rules",
			   &rig_rules, &why) == 0);
	rig.s.opts = &rig.so;
	rig.s.now_ns = 1000 * NS_PER_S;
	wheel_init(&rig.s.wheel, rig.s.now_ns, &rig.s);
	bufpool_init(&rig.s.pool);
	CHECK(slab_init(&rig.s.conns, sizeof(struct conn), 4) == 0);
	CHECK(rpc_shard_init(&rig.r, &rig.s, &rig.methods, &rig.ro) == 0);
	rig_begin_tls();
	atexit(rig_end_shard);
}

/* What a shard makes on first use and keeps, as after its start: or what a run does would depend on the runs before it. */
static void rig_forget_runs(void)
{
	bufpool_done(&rig.s.pool);
	gzip_free(rig.r.gzip);
	rig.r.gzip = NULL;
	if (rig.r.budget)
		budget_done(rig.r.budget);
	free(rig.r.budget);
	rig.r.budget = NULL;
}

/* The client speaks TLS: the handshake, or as much of it as the script does not have to say. */
static void rig_handshake(void)
{
	rig.client = tls_client_new(rig.client_tls, "localhost", false);
	CHECK(rig.client);
	if (rig.handshakes_wait) {
		rig_client_shakes();
		return;
	}
	for (unsigned i = 0; i < 4; i++) {
		CHECK(tls_handshake(rig.client) == 0);
		rig_receive_records();
		rig_turn();
		rig_sent(SIZE_MAX);
	}
	CHECK(tls_is_ready(rig.client));
}

/* What the first byte chooses: limits and times by a bit each; and by its highest bits, the surroundings. */
enum rig_how {
	RIG_RULES = 0x40, /* … 0x7f: rules of access are in force */
	RIG_TLS =
		0x80, /* … 0xbf: TLS is configured, and listeners are kept while draining; from 0xa0 the client speaks it. With bit
			 0x10 the script says when a step of the handshake is done */
	RIG_TLS_CLIENT = 0xa0,
	RIG_MEMORY =
		0xc0, /* … 0xdf: memory runs out as the connection comes, or a little later: the next byte says when */
	RIG_DRAINING = 0xe0, /* … 0xfb: the shard is draining; from 0xf0 listeners are kept */
	RIG_KEPT = 0xf0,
	RIG_TLS_ONLY = 0xfc, /* cleartext is refused */
};

static void rig_begin(const uint8_t *data, size_t size)
{
	rig.script = (struct fuzz_script){data, size};
	rig.last = size ? data[size - 1] : 0;
	uint8_t how = rig_byte();
	bool has_tls = how >= RIG_TLS && how < RIG_MEMORY, drains = how >= RIG_DRAINING && how < RIG_TLS_ONLY;
	rig.so = (struct shard_opts){.conns_max = 4,
				     .conn_queue_max = 256 << 10,
				     .tls_renewals_max = 4,
				     .stall_ns = 2 * NS_PER_S,
				     .attach = rig_attach};
	rig.so.listeners_kept = has_tls || (drains && how >= RIG_KEPT);
	if (how & 32)
		rig.so.idle_ns = NS_PER_S;
	rig.ro = (struct rpc_opts){.calls_max = 1 << 20,
				   .h2_stream_window = RIG_STREAM_WINDOW,
				   .h2_conn_window = RIG_CONN_WINDOW,
				   .message_max = 100000,
				   .streams_max = how & 1 ? 5 : 100,
				   .native_inflight_max = how & 2 ? 5 : 1000,
				   .header_list_max = how & 4 ? 1024 : 16384,
				   .header_fields_max = 50,
				   .continuations_max = 8,
				   .resets_burst = 100,
				   .resets_per_s = 20,
				   .useless_max = 1000,
				   .assembly = {.total = how & 8 ? 50000 : 2 << 20, .share = how & 8 ? 40000 : 1 << 20},
				   .preface_ns = NS_PER_S,
				   .headers_ns = NS_PER_S,
				   .body_ns = NS_PER_S,
				   .call_ns = how & 16 ? NS_PER_S : 0};
	rig.ro.tls = has_tls ? rig_tls : NULL;
	rig.ro.tls_only = how >= RIG_TLS_ONLY;
	if (!rig.s.opts)
		rig_begin_shard();
	rig_forget_runs();
	access_put(rig.r.access);
	rig.r.access = how >= RIG_RULES && how < RIG_TLS ? access_get(rig_rules) : NULL;
	rig.r.access_gen++;
	rig.s.draining = drains;
	rig.handshakes_wait = has_tls && (how & 16);
	memory_fail(how >= RIG_MEMORY && how < RIG_DRAINING ? 1u + rig_byte() % 64 : 0);
	memory_watch(true);
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	rig.peer = pair[1];
	rig.c = conn_open(&rig.s, pair[0]);
	memory_watch(false);
	CHECK(rig.c || how >= RIG_MEMORY);
	if (has_tls && how >= RIG_TLS_CLIENT)
		rig_handshake();
}

/* The client closes in TLS, and not its socket. */
static void rig_close_tls(void)
{
	tls_shutdown(rig.client);
	rig_receive_records();
	rig.client_closed = true;
}

/* The client asks for new keys, several times. */
static void rig_renew_keys(unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		CHECK(SSL_key_update(rig.client->ssl, SSL_KEY_UPDATE_REQUESTED) == 1);
		CHECK(tls_handshake(rig.client) == 0);
	}
	rig_receive_records();
}

/* The shard begins to drain, or is told so again. */
static void rig_drain(void)
{
	rig.s.draining = true;
	memory_watch(true);
	conn_drain(rig.c);
	memory_watch(false);
}

/* One operation of the kind `op`; false: it is not one of the rig's. */
static bool __attribute__((unused)) rig_op(uint8_t op)
{
	switch (op) {
	case 0: {
		uint8_t raw[64];
		size_t n = rig_byte() % sizeof raw;
		for (size_t i = 0; i < n; i++)
			raw[i] = rig_byte();
		fuzz_append(&rig.in, raw, n);
		return true;
	}
	case 1:
		rig_deliver((size_t)rig_byte() + 1);
		return true;
	case 2:
		rig_deliver(SIZE_MAX);
		return true;
	case 3:
		rig_sent(SIZE_MAX);
		rig_turn();
		return true;
	case 4:
		rig_sent((size_t)rig_byte() * 64 + 1);
		return true;
	case 5:
		rig_cancelled();
		rig_turn();
		return true;
	case 6:
		rig.s.now_ns += (uint64_t)rig_byte() * 10 * NS_PER_MS;
		rig_turn();
		return true;
	case 7:
	case 8:
		rig_serve();
		return true;
	case 9:
		rig_turn();
		return true;
	case 10: /* out of receive buffers */
		if (!rig.recv_cancelled)
			rig_recv_ends(-ENOBUFS);
		return true;
	case 11: {
		uint8_t what = rig_byte();
		if (rig.c && what < 64)
			rig_drain();
		else if (what >= 192)
			memory_fail(1u + what % 64);
		return true;
	}
	case 12: {
		uint8_t what = rig_byte();
		bool speaks_tls = rig.client && tls_is_ready(rig.client) && !rig.client_closed;
		if (what < 64 && rig.in.at == rig.in.len && !rig.recv_cancelled)
			rig_recv_ends(0);
		else if (what >= 192 && speaks_tls)
			rig_close_tls();
		else if (what >= 128 && speaks_tls)
			rig_renew_keys(what % 8);
		else if (what >= 64)
			handshakes_turn(rig.handshakes, 0);
		return true;
	}
	default:
		return false;
	}
}

/* The client has gone, or has closed its side and reads on, or does not read: within stall_ns, and a
 * little for timers, the connection ends by itself. */
static void rig_goes(uint8_t how)
{
	bool reads = how & 4, closes = how & 8;
	if (closes) {
		close(rig.peer);
		rig.peer = -1;
	} else {
		shutdown(rig.peer, SHUT_WR);
	}
	rig.in.at = rig.in.len; /* it sends no more */
	for (unsigned i = 0; i < 40 && rig.c; i++) {
		if (!rig.recv_cancelled)
			rig_recv_ends(closes && how & 16 ? -ECONNRESET : 0);
		if (reads || closes)
			rig_sent(closes ? 0 : SIZE_MAX);
		rig_turn();
		rig_cancelled();
		rig.s.now_ns += rig.so.stall_ns / 10;
		rig_turn();
	}
	CHECK(!rig.c);
}

/* Ends the connection in one of the ways in which it may end, and looks at what is left. */
static void rig_end(void)
{
	uint8_t how = rig.last & 3;
	if (how == 0 && !rig.recv_cancelled)
		rig_recv_ends(-ECONNRESET);
	if (how == 1)
		rig_sent(0);
	if (how == 2 && rig.c)
		rig_drain();
	for (unsigned i = 0; i < 8; i++) {
		rig_turn();
		rig_deliver(SIZE_MAX);
		rig_sent(SIZE_MAX);
		rig.s.now_ns += NS_PER_S;
	}
	memory_fail(0);
	rig_turn();
	rig.handshakes_wait = false;
	rig_goes(rig.last);
	CHECK(rig.s.conns.used == 0);
	if (rig.peer >= 0)
		close(rig.peer);
	CHECK(!rig.recv_armed && !rig.sending && rig.cancel_count == 0);
	CHECK(rig.held_count == 0 && rig.r.calls == 0 && rig.r.assembly.bytes == 0);
	CHECK(rig.r.native_calls.used == 0 && rig.r.h2_streams.used == 0);
	CHECK(rig.r.sessions_h2 == 0 && rig.r.sessions_native == 0);
	CHECK(rig.s.wheel.armed == 0);
	CHECK(rig.s.pool.bytes_out == 0);
	CHECK(rig.slices_given == rig.slices_released);
	rig_check_output();
	tls_free(rig.client);
	rig.client = NULL;
	rig.client_closed = false;
	rig.in.at = rig.in.len = rig.out.at = rig.out.len = 0;
	rig.slices_given = rig.slices_released = 0;
}

#endif
