/* The client's channels, HTTP/2 and native, against a server that is a script: frames that make sense, frames that do not, and raw bytes, cut
 * anywhere; sends that complete in part or fail; calls that are started, fed, cancelled and timed out meanwhile, also from inside callbacks. The ring
 * and the clock are twins.
 *
 * Holds, whatever the server does: each call is told its end once, and no message after it; the channel is told its end once; nothing is left
 * afterwards. What the client writes is well-formed: header blocks that decode, streams in rising order, nothing after the end of a stream but a reset,
 * DATA within the windows and frame sizes that were given; a native call's number is not used again before the server has ended it. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/client/h2c.h"
#include "rpc/wire/native.h"
#include "tests/fuzz/script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OWNERS = 48, EVENTS = 256, BUFS = 16, IDS = 4096, OPS_MAX = 4000, NUMBERS = 1024 };

struct owner {
	bool live;
	uint32_t call;
};

static struct {
	struct fuzz_script script;
	uint64_t now_ns;
	struct client *client;
	struct channel *ch; /* NULL: closed */
	bool native, opened;
	struct owner owner[OWNERS];
	/* the ring */
	bool receiving, sending, connecting;
	uint64_t recv_tag, send_tag, connect_tag;
	const uint8_t *send;
	size_t send_len;
	struct ring_event event[EVENTS];
	unsigned events;
	uint8_t *buf[BUFS];
	struct fuzz_bytes in, out; /* from the server; from the client */
	bool raw, bulk;
	/* what the server has given, and the client has used: HTTP/2 */
	struct hpack_decoder *decoder;
	uint32_t first_stream, last_stream, frame_max;
	uint64_t conn_window, initial_max, conn_data;
	uint64_t window[IDS], sent[IDS];
	uint8_t ended[IDS]; /* 1 END_STREAM, 2 RST_STREAM */
	bool preface_seen;
	/* native */
	uint32_t asked[NUMBERS], answered[NUMBERS];
} f;

static uint8_t byte(void)
{
	return fuzz_byte(&f.script);
}

/* The twins. */

uint64_t clock_mono_ns(void)
{
	return f.now_ns;
}

int64_t clock_wall_ns(void)
{
	return (int64_t)f.now_ns;
}

uint64_t clock_thread_cpu_ns(void)
{
	return f.now_ns;
}

static void push(uint64_t tag, int32_t res, uint16_t flags, uint16_t buf)
{
	CHECK(f.events < EVENTS);
	f.event[f.events++] = (struct ring_event){.tag = tag, .res = res, .flags = flags, .buf = buf};
}

void ring_connect(struct ring *r, int fd, const struct sockaddr *addr, socklen_t len, uint64_t tag)
{
	CHECK(!f.connecting);
	f.connecting = true;
	f.connect_tag = tag;
}

void ring_recv(struct ring *r, int fd, uint64_t tag)
{
	CHECK(!f.receiving);
	f.receiving = true;
	f.recv_tag = tag;
}

void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag)
{
	CHECK(!f.sending && n > 0);
	f.sending = true;
	f.send_tag = tag;
	f.send = p;
	f.send_len = n;
}

void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag)
{
	push(tag, -ENOENT, 0, 0);
}

void ring_cancel_fd(struct ring *r, int fd, uint64_t tag)
{
	if (f.connecting)
		push(f.connect_tag, -ECANCELED, 0, 0);
	if (f.receiving)
		push(f.recv_tag, -ECANCELED, 0, 0);
	if (f.sending)
		push(f.send_tag, -ECANCELED, 0, 0);
	f.connecting = f.receiving = f.sending = false;
	push(tag, 0, 0, 0);
}

uint8_t *ring_buf(const struct ring *r, uint16_t buf)
{
	CHECK(buf < BUFS && f.buf[buf]);
	return f.buf[buf];
}

void ring_buf_put(struct ring *r, uint16_t buf)
{
	CHECK(buf < BUFS && f.buf[buf]);
	free(f.buf[buf]);
	f.buf[buf] = NULL;
}

int ring_wait(struct ring *r, uint64_t timeout_ns)
{
	return 0;
}

unsigned ring_reap(struct ring *r, struct ring_event *ev, unsigned max)
{
	unsigned n = f.events < max ? f.events : max;
	memcpy(ev, f.event, n * sizeof *ev);
	memmove(f.event, f.event + n, (f.events - n) * sizeof *f.event);
	f.events -= n;
	return n;
}

/* What happens to the connection. */

/* The server's next n bytes, or fewer, in memory of exactly their size. */
static void deliver(size_t n)
{
	size_t left = f.in.len - f.in.at;
	uint16_t b = 0;
	while (b < BUFS && f.buf[b])
		b++;
	n = n < left ? n : left;
	if (!f.receiving || n == 0 || b == BUFS)
		return;
	f.buf[b] = malloc(n);
	CHECK(f.buf[b]);
	memcpy(f.buf[b], f.in.p + f.in.at, n);
	f.in.at += n;
	push(f.recv_tag, (int32_t)n, RING_EV_MORE | RING_EV_BUFFER, b);
}

static void recv_ends(int res)
{
	if (!f.receiving)
		return;
	f.receiving = false;
	push(f.recv_tag, res, 0, 0);
}

static void sent(size_t n, int err)
{
	if (!f.sending)
		return;
	n = n < f.send_len ? n : f.send_len;
	if (!err)
		fuzz_append(&f.out, f.send, n);
	f.sending = false;
	push(f.send_tag, err ? err : (int32_t)n, 0, 0);
}

/* The owner of the calls. */

static void start_call(void);

static void on_message(void *ctx, struct span msg)
{
	struct owner *o = ctx;
	volatile uint8_t sum = 0;
	CHECK(o->live);
	for (size_t i = 0; i < msg.n; i++)
		sum = (uint8_t)(sum + msg.p[i]);
	if (msg.n == 0)
		return;
	switch (msg.p[0]) {
	case 'c':
		channel_call_cancel(f.ch, o->call);
		break;
	case 'x':
		channel_close(f.ch);
		break;
	case 's':
		start_call();
		break;
	case 'e':
		channel_call_end(f.ch, o->call);
		break;
	default:
		break;
	}
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct owner *o = ctx;
	volatile uint8_t sum = 0;
	CHECK(o->live);
	o->live = false;
	for (size_t i = 0; i < st->text.n; i++)
		sum = (uint8_t)(sum + st->text.p[i]);
	if (byte() & 1)
		start_call();
}

static const struct channel_call_ops call_ops = {.message = on_message, .done = on_done};

static void on_opened(void *ctx, struct channel *ch)
{
	CHECK(ch == f.ch && !f.opened);
	f.opened = true;
}

static void on_draining(void *ctx, struct channel *ch)
{
	CHECK(ch == f.ch && f.opened);
}

static void on_closed(void *ctx, struct channel *ch, int err, const char *why)
{
	CHECK(ch == f.ch && (err == 0 || *why));
	for (unsigned i = 0; i < OWNERS; i++)
		CHECK(!f.owner[i].live);
	f.ch = NULL;
}

static const struct channel_events events = {.opened = on_opened, .draining = on_draining, .closed = on_closed};

static struct span some_message(void)
{
	static uint8_t body[60000];
	uint8_t size = byte();
	body[0] = byte();
	return (struct span){body, size < 200 ? size : (size_t)(size - 199) * 1000};
}

static void start_call(void)
{
	unsigned i = 0;
	while (i < OWNERS && f.owner[i].live)
		i++;
	if (!f.ch || i == OWNERS)
		return;
	struct owner *o = &f.owner[i];
	uint8_t how = byte();
	uint64_t timeout = how & 0x40 ? (1 + (uint64_t)(how & 0x38)) * NS_PER_MS : 0;
	int r = channel_call(f.ch, how & 7, some_message(), timeout, how & 0x80 ? CHANNEL_MORE : 0, &call_ops, o,
			     &o->call);
	CHECK(r == 0 || r == -EAGAIN || r == -ENOTCONN || r == -ESHUTDOWN || r == -EINVAL);
	o->live = r == 0;
}

static void use_call(void)
{
	struct owner *o = &f.owner[byte() % OWNERS];
	uint8_t how = byte();
	if (!f.ch || !o->live)
		return;
	if (how < 120)
		channel_call_send(f.ch, o->call, some_message(), how & 1 ? CHANNEL_MORE : 0);
	else if (how < 180)
		channel_call_end(f.ch, o->call);
	else
		channel_call_cancel(f.ch, o->call);
}

/* HTTP/2 from the server. */

static void put_frame(uint8_t type, uint8_t flags, uint32_t stream, const void *p, uint32_t n)
{
	fuzz_put_frame(&f.in, type, flags, stream, p, n);
}

static void put_u32(uint8_t type, uint32_t stream, uint32_t v)
{
	fuzz_put_u32(&f.in, type, stream, v);
}

static uint32_t some_stream(void)
{
	uint8_t b = byte();
	if (b >= 250)
		return b - 250;
	uint32_t back = 2 * (b % 16u);
	return f.last_stream > back ? f.last_stream - back : 1;
}

static uint32_t put_literal(uint8_t *out, size_t cap, const char *name, const char *value)
{
	return (uint32_t)hpack_put_literal(out, cap, (struct span){(const uint8_t *)name, strlen(name)},
					   (struct span){(const uint8_t *)value, strlen(value)});
}

static uint32_t make_block(uint8_t *out, size_t cap, uint8_t what)
{
	static const char *const status[] = {"100", "103", "301", "400", "401",  "403",
					     "404", "429", "503", "abc", "99999"};
	static const char *const code[] = {"0", "1", "14", "9999", "x", ""};
	static const char *const text[] = {"", "plain", "%41%zz%",
					   "a long one: 0123456789012345678901234567890123456789"};
	uint8_t pick = byte();
	uint32_t n = 0;
	if (what & 1)
		n += what & 2 ? put_literal(out + n, cap - n, ":status", status[pick % 11])
			      : (uint32_t)hpack_put_indexed(out + n, cap - n, 8);
	if (what & 4)
		n += put_literal(out + n, cap - n, "content-type",
				 pick & 0x80 ? "text/html" : "application/grpc+proto");
	if (what & 8)
		n += put_literal(out + n, cap - n, "grpc-status", code[pick % 6]);
	if (what & 16)
		n += put_literal(out + n, cap - n, "grpc-message", text[pick % 4]);
	if (what & 32)
		n += (uint32_t)hpack_put_incremental(out + n, cap - n, SPAN_LIT("x-kept"), (struct span){&pick, 1});
	if (what & 64)
		n += (uint32_t)hpack_put_indexed(out + n, cap - n, 62);
	for (unsigned i = 0; (what & 128) && i < pick; i++) /* up to 255 fields */
		n += (uint32_t)hpack_put_indexed(out + n, cap - n, 20);
	return n;
}

static void put_headers(uint8_t what, uint8_t flags)
{
	uint8_t block[2048 + 6 + 9] = {0};
	uint32_t id = some_stream(), head = 0, pad = 0;
	if (flags & H2_F_PADDED) {
		pad = 9;
		block[head++] = (uint8_t)pad;
	}
	if (flags & H2_F_PRIORITY)
		head += 5;
	uint32_t n = head + make_block(block + head, 2048, what) + pad;
	if (flags & 0x40) { /* in pieces */
		uint32_t cut = head + (n - head - pad) / 2;
		put_frame(H2_HEADERS, flags & (H2_F_END_STREAM | H2_F_PRIORITY), id,
			  block + (flags & H2_F_PADDED ? 1 : 0), cut - (flags & H2_F_PADDED ? 1 : 0));
		put_frame(H2_CONTINUATION, flags & 0x80 ? 0 : H2_F_END_HEADERS, id, block + cut, n - pad - cut);
		if (flags & 0x80) { /* an endless block */
			for (unsigned i = 0; i < 6; i++) {
				static const uint8_t zeros[16000];
				put_frame(H2_CONTINUATION, 0, id, zeros, sizeof zeros);
			}
		}
	} else {
		put_frame(H2_HEADERS, (flags & (H2_F_END_STREAM | H2_F_PADDED | H2_F_PRIORITY)) | H2_F_END_HEADERS, id,
			  block, n);
	}
}

static void put_data(void)
{
	static uint8_t body[16384 + 10];
	uint8_t flags = byte(), size = byte(), first = byte();
	uint32_t n = size < 200 ? size : (uint32_t)(size - 199) * 250, at = flags & 2 ? 1 : 0;
	memset(body, 0, sizeof body);
	body[0] = 9; /* the length of padding, where there is some */
	store_be32(body + at + 1, flags & 0x10 ? n + 700 : flags & 0x80 ? 5000000 : n);
	body[at] = flags & 0x20 ? first : 0;
	body[at + GRPC_PREFIX] = first;
	uint32_t len = flags & 0x40 ? n / 2 : GRPC_PREFIX + n;
	put_frame(H2_DATA, (flags & H2_F_END_STREAM) | (at ? H2_F_PADDED : 0), some_stream(), body,
		  len + (at ? 10 : 0));
}

static void put_settings(void)
{
	static const uint32_t value[] = {0, 1, 100, 65535, 1 << 20, 0x7fffffff, 0x80000000u, 16384};
	uint8_t b = byte(), p[6];
	uint32_t v = value[b & 7];
	uint16_t id = 1 + (b >> 3) % 7;
	if (id == H2_S_MAX_FRAME_SIZE && (b & 0x80))
		v = 16384u << (b & 7);
	store_be16(p, id);
	store_be32(p + 2, v);
	if (id == H2_S_INITIAL_WINDOW_SIZE && v > f.initial_max)
		f.initial_max = v;
	if (id == H2_S_MAX_FRAME_SIZE && v > f.frame_max)
		f.frame_max = v;
	put_frame(H2_SETTINGS, 0, 0, p, b == 255 ? 0 : sizeof p);
}

static uint32_t slot_of(uint32_t stream)
{
	return stream >= f.first_stream ? (stream - f.first_stream) / 2 : IDS;
}

static void put_window_update(void)
{
	uint8_t b = byte();
	uint32_t id = b & 1 ? 0 : some_stream(), n = b & 2 ? (uint32_t)b << 12 : b >> 2;
	if (id == 0)
		f.conn_window += n;
	else if (slot_of(id) < IDS)
		f.window[slot_of(id)] += n;
	put_u32(H2_WINDOW_UPDATE, id, n);
}

static void put_other(void)
{
	uint8_t b = byte(), p[16] = {0};
	switch (b & 7) {
	case 0:
		put_frame(H2_PING, b & 8 ? H2_F_ACK : 0, 0, p, 8);
		break;
	case 1:
		store_be32(p, b & 0x80 ? f.last_stream - 4 : 0x7fffffff);
		store_be32(p + 4, b & 0x40 ? b & 15 : 0);
		put_frame(H2_GOAWAY, 0, 0, p, b & 0x20 ? 16 : 8);
		break;
	case 2:
		put_frame(H2_PRIORITY, 0, some_stream(), p, 5);
		break;
	case 3:
		put_u32(H2_RST_STREAM, some_stream(), b >> 3 & 15);
		break;
	case 4:
		put_frame(H2_SETTINGS, H2_F_ACK, 0, p, 0);
		break;
	case 5:
		put_frame(H2_PUSH_PROMISE, b, some_stream(), p, b & 8 ? 8 : 0);
		break;
	case 6:
		if (b == 0xfe && !f.bulk) { /* more than a window's half */
			static uint8_t body[16384];
			uint32_t id = some_stream();
			f.bulk = true;
			store_be32(body + 1, sizeof body - GRPC_PREFIX);
			for (unsigned i = 0; i < 520; i++)
				put_frame(H2_DATA, 0, id, body, sizeof body);
		}
		break;
	default:
		put_frame(b >> 3, b, some_stream(), p, b & 7);
	}
}

static void server_h2(uint8_t op)
{
	switch (op) {
	case 0: /* an answer's head */
		put_headers(5, 0);
		break;
	case 1: /* trailers */
		put_headers(8 | (byte() & 16), H2_F_END_STREAM);
		break;
	case 2: {
		uint8_t what = byte();
		put_headers(what, byte());
		break;
	}
	case 3:
	case 4:
		put_data();
		break;
	case 5:
		put_settings();
		break;
	case 6:
		put_window_update();
		break;
	default:
		put_other();
	}
}

/* The native framing from the server. */

static void server_native(uint8_t op)
{
	static const uint8_t kind[] = {NATIVE_MESSAGE, NATIVE_MESSAGE, NATIVE_MESSAGE, NATIVE_END,
				       NATIVE_PONG,    NATIVE_PING,    NATIVE_GOAWAY,  0};
	static uint8_t body[60000];
	uint8_t header[NATIVE_HEADER], b = byte();
	uint32_t n = op <= 3 || op == 5 ? byte() : 0, call = byte() % 8;
	uint8_t k = kind[op & 7] ? kind[op & 7] : (uint8_t)(b & 15),
		flags = op == 0 ? NATIVE_F_LAST : (uint8_t)(b & 0x30);
	if (b & 0x40)
		n *= 200;
	body[0] = byte();
	if ((k == NATIVE_END || (k == NATIVE_MESSAGE && (flags & NATIVE_F_LAST))) && call < NUMBERS)
		f.answered[call]++;
	native_put(header, k | flags, b, n, call, 0);
	fuzz_append(&f.in, header, sizeof header);
	fuzz_append(&f.in, body, n);
}

/* What the client has written, as far as it is whole. */

static int count_field(void *ctx, struct span name, struct span value)
{
	unsigned *fields = ctx;
	CHECK(name.n > 0);
	++*fields;
	return 0;
}

static void check_h2_frame(const struct h2_frame *fr, const uint8_t *p)
{
	uint32_t i = slot_of(fr->stream);
	unsigned fields = 0;
	CHECK(fr->type == H2_DATA || fr->type == H2_HEADERS || fr->type == H2_RST_STREAM || fr->type == H2_SETTINGS ||
	      fr->type == H2_PING || fr->type == H2_WINDOW_UPDATE);
	CHECK(fr->type != H2_PING || (fr->stream == 0 && fr->flags == H2_F_ACK));
	CHECK(fr->type != H2_WINDOW_UPDATE || load_be32(p) != 0);
	if (fr->type == H2_HEADERS) {
		CHECK((fr->stream & 1) && fr->stream > f.last_stream && fr->flags == H2_F_END_HEADERS);
		CHECK(hpack_decode(f.decoder, p, fr->len, count_field, &fields) == 0 && fields >= 6);
		f.last_stream = fr->stream;
	}
	if (fr->stream == 0)
		return;
	CHECK(fr->stream >= f.first_stream && fr->stream <= f.last_stream);
	if (i >= IDS)
		return;
	CHECK(f.ended[i] != 2 && (f.ended[i] == 0 || fr->type == H2_RST_STREAM || fr->type == H2_WINDOW_UPDATE));
	if (fr->type == H2_RST_STREAM)
		f.ended[i] = 2;
	else if (fr->type == H2_DATA && (fr->flags & H2_F_END_STREAM))
		f.ended[i] = 1;
	if (fr->type == H2_DATA && !f.raw) {
		f.conn_data += fr->len;
		f.sent[i] += fr->len;
		CHECK(fr->len <= f.frame_max);
		CHECK(f.conn_data <= f.conn_window);
		CHECK(f.sent[i] <= f.initial_max + f.window[i]);
	}
}

static void check_h2(void)
{
	struct fuzz_bytes *o = &f.out;
	if (!f.preface_seen && o->len >= H2_PREFACE_LEN) {
		CHECK(memcmp(o->p, H2_PREFACE, H2_PREFACE_LEN) == 0);
		o->at = H2_PREFACE_LEN;
		f.preface_seen = true;
	}
	while (f.preface_seen && o->len - o->at >= H2_FRAME_HEADER) {
		struct h2_frame fr = h2_frame_get(o->p + o->at);
		if (o->len - o->at - H2_FRAME_HEADER < fr.len)
			return;
		check_h2_frame(&fr, o->p + o->at + H2_FRAME_HEADER);
		o->at += H2_FRAME_HEADER + fr.len;
	}
}

static void check_native(void)
{
	struct fuzz_bytes *o = &f.out;
	while (o->len - o->at >= NATIVE_HEADER) {
		struct native_header h;
		CHECK(native_get(o->p + o->at, &h) == 0);
		if (o->len - o->at - NATIVE_HEADER < h.len)
			return;
		o->at += NATIVE_HEADER + h.len;
		CHECK(h.kind != NATIVE_END && h.kind != NATIVE_GOAWAY);
		if (h.kind == NATIVE_REQUEST && h.call < NUMBERS && !f.raw)
			CHECK(f.asked[h.call]++ <= f.answered[h.call]);
	}
}

static void turn(void)
{
	CHECK(client_turn(f.client, 0) == 0);
	if (f.native)
		check_native();
	else
		check_h2();
}

static void open_channel(uint8_t how)
{
	struct channel_opts o = {.protocol = f.native ? CHANNEL_NATIVE : CHANNEL_GRPC,
				 .token = how & 2 ? "a.token" : NULL,
				 .calls_max = how & 4 ? 3 : 0,
				 .message_max = how & 8 ? 1000 : 0,
				 .queue_max = how & 16 ? 2000 : 0};
	struct sockaddr nowhere = {.sa_family = AF_UNIX};
	int fd = -1;
	if (how & 128) { /* too long for a header block; the native framing does not ask */
		static char authority[H2_AUTHORITY_MAX + 2];
		memset(authority, 'a', sizeof authority - 1);
		o.authority = authority;
		CHECK(f.native ||
		      channel_connect(f.client, &o, &nowhere, sizeof nowhere, &events, NULL, &f.ch) == -EINVAL);
		if (!f.native)
			return;
	}
	if (how & 32) {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		CHECK(fd >= 0 && channel_adopt(f.client, &o, fd, &events, NULL, &f.ch) == 0);
	} else {
		CHECK(channel_connect(f.client, &o, &nowhere, sizeof nowhere, &events, NULL, &f.ch) == 0);
	}
	f.first_stream = 1;
	if (!f.native && (how & 64)) { /* near the end of the numbers */
		struct h2_client *h = f.ch->proto;
		f.first_stream = h->stream_next = H2_STREAM_MAX - 6;
	}
}

static void op(uint8_t o)
{
	uint8_t raw[64];
	switch (o) {
	case 0: {
		size_t n = byte() % sizeof raw;
		for (size_t i = 0; i < n; i++)
			raw[i] = byte();
		f.raw = true;
		fuzz_append(&f.in, raw, n);
		break;
	}
	case 1:
		deliver((size_t)byte() + 1);
		break;
	case 2:
		deliver(f.bulk ? 1 << 20 : 16384);
		turn();
		break;
	case 3:
		sent(SIZE_MAX, 0);
		turn();
		break;
	case 4:
		sent((size_t)byte() * 16 + 1, 0);
		break;
	case 5:
		turn();
		break;
	case 6:
		f.now_ns += (uint64_t)byte() * 10 * NS_PER_MS;
		turn();
		break;
	case 7:
	case 8:
		start_call();
		break;
	case 9:
	case 10:
		use_call();
		break;
	case 11:
		if (f.connecting) {
			f.connecting = false;
			push(f.connect_tag, byte() < 16 ? -ECONNREFUSED : 0, 0, 0);
			turn();
		} else {
			recv_ends(-ENOBUFS);
		}
		break;
	case 12: {
		uint8_t b = byte();
		if (b < 16)
			recv_ends(b & 1 ? 0 : -ECONNRESET);
		else if (b < 24)
			sent(0, -EPIPE);
		else if (b < 28 && f.ch)
			channel_close(f.ch);
		break;
	}
	default:
		if (f.native)
			server_native(o - 13);
		else
			server_h2(o - 13);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_bytes in = f.in, out = f.out;
	memset(&f, 0, sizeof f);
	f.in = (struct fuzz_bytes){.p = in.p, .cap = in.cap};
	f.out = (struct fuzz_bytes){.p = out.p, .cap = out.cap};
	f.script = (struct fuzz_script){data, size};
	f.now_ns = 1000 * NS_PER_S;
	f.conn_window = f.initial_max = H2_WINDOW_DEFAULT;
	f.frame_max = H2_FRAME_SIZE_DEFAULT;
	f.decoder = hpack_decoder_new(4096);
	CHECK(f.decoder && client_new(NULL, 1, &f.client) == 0);
	uint8_t how = byte();
	f.native = how & 1;
	open_channel(how);
	for (unsigned ops = 0; f.script.left && f.ch && ops < OPS_MAX; ops++)
		op(byte() % 21);
	client_free(f.client);
	CHECK(f.ch == NULL && f.events == 0);
	for (unsigned i = 0; i < BUFS; i++)
		CHECK(!f.buf[i]);
	hpack_decoder_free(f.decoder);
	return 0;
}
