/* The HTTP/2 session on a real connection: frames that make sense, frames that do not, and raw bytes, in any order; see session_rig.h.
 *
 * Holds of what the server writes: whole frames of at most the size that the client allows, first of all SETTINGS; nothing but RST_STREAM after the
 * end of a stream, and nothing at all after its reset; DATA within the windows that were given. */
#include "tests/fuzz/session_rig.h"

#include "rpc/gzip.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/hpack.h"

enum { IDS = 8192 };

static struct gzip *gzip;

static struct {
	uint32_t next_id;
	uint64_t conn_window, initial_max; /* the most that was ever allowed */
	uint64_t stream_window[IDS];       /* given by WINDOW_UPDATE */
	uint64_t conn_data, stream_data[IDS];
	uint8_t ended[IDS]; /* by the server: 1 END_STREAM, 2 RST_STREAM */
	bool raw, settings_seen;
} h2;

static void put_frame(uint8_t type, uint8_t flags, uint32_t stream, const void *p, uint32_t n)
{
	fuzz_put_frame(&rig.in, type, flags, stream, p, n);
}

static void put_u32(uint8_t type, uint32_t stream, uint32_t value)
{
	fuzz_put_u32(&rig.in, type, stream, value);
}

/* A stream that was opened lately, or seldom another. */
static uint32_t some_stream(void)
{
	uint8_t b = rig_byte();
	if (b >= 250)
		return b - 250u;
	uint32_t back = (uint32_t)(b % 8) * 2;
	return h2.next_id > back + 2 ? h2.next_id - 2 - back : 1;
}

static size_t put_field(uint8_t *out, size_t cap, const char *name, const char *value)
{
	return hpack_put_literal(out, cap, (struct span){(const uint8_t *)name, strlen(name)},
				 (struct span){(const uint8_t *)value, strlen(value)});
}

/* A request's header block: mostly right. */
static size_t make_block(uint8_t *out, size_t cap)
{
	static const char *const paths[] = {"/f.S/Echo", "/f.S/Hold", "/f.S/Bidi", "/f.S/Down",
					    "/f.S/Nope", "/x/y",      "*",         "nope"};
	static const char *const extras[][2] = {
		{"grpc-timeout", "100m"}, {"grpc-timeout", "x"},        {"content-length", "5"},
		{"content-length", "20"}, {"grpc-encoding", "gzip"},    {"grpc-accept-encoding", "gzip"},
		{"te", "trailers"},       {"x-meta", "value"},          {"x-bytes-bin", "AAEC"},
		{"Upper", "x"},           {"connection", "close"},      {":path", "/f.S/Echo"},
		{"grpc-encoding", "zip"}, {"authorization", "Bearer x"}};
	uint8_t what = rig_byte(), extra = rig_byte();
	size_t n = hpack_put_indexed(out, cap, 3); /* :method POST */
	n += hpack_put_indexed(out + n, cap - n, 6);
	n += put_field(out + n, cap - n, ":path", paths[what & 7]);
	n += put_field(out + n, cap - n, "content-type", what & 0x40 ? "text/plain" : "application/grpc");
	if (extra < 128) {
		const char *const *e = extras[extra % (sizeof extras / sizeof *extras)];
		n += put_field(out + n, cap - n, e[0], e[1]);
	}
	if (what & 0x20)
		n += hpack_put_incremental(out + n, cap - n, SPAN_LIT("x-kept"), (struct span){&extra, 1});
	if (what & 0x10)
		n += hpack_put_indexed(out + n, cap - n, 62);
	return n;
}

static void put_headers(void)
{
	uint8_t block[1024], flags = rig_byte();
	uint32_t n = (uint32_t)make_block(block, sizeof block), id = flags & 0x80 ? some_stream() : h2.next_id;
	if (id == h2.next_id)
		h2.next_id += 2;
	if (flags & 0x40) { /* in pieces */
		uint32_t first = n / 3;
		put_frame(H2_HEADERS, flags & H2_F_END_STREAM, id, block, first);
		for (unsigned i = 0; i < (flags & 0xeu); i++)
			put_frame(H2_CONTINUATION, 0, id, block + first, 0);
		put_frame(H2_CONTINUATION, H2_F_END_HEADERS, id, block + first, n - first);
	} else {
		put_frame(H2_HEADERS, (flags & H2_F_END_STREAM) | H2_F_END_HEADERS, id, block, n);
	}
}

/* DATA with whole messages, or pieces of them. */
static void put_data(void)
{
	static uint8_t body[16384];
	uint8_t flags = rig_byte(), size = rig_byte(), first = rig_byte();
	uint32_t id = some_stream(), n = size < 200 ? size : (uint32_t)(size - 199) * 250;
	memset(body, 0, sizeof body);
	body[GRPC_PREFIX] = first;
	if (flags & 8) { /* compressed, and a few bytes wrong at times */
		static uint8_t plain[200000];
		struct span deflated;
		if (!gzip)
			gzip = gzip_new();
		CHECK(gzip &&
		      gzip_deflate(gzip, (struct span){plain, first == 255 ? sizeof plain : n}, &deflated) == 0);
		n = (uint32_t)deflated.n;
		memcpy(body + GRPC_PREFIX, deflated.p, n);
		body[GRPC_PREFIX + n / 2] ^= first == 254;
	}
	store_be32(body + 1, flags & 0x10 ? n + 700 : n);
	body[0] = flags & 8 ? 1 : flags & 0x20 ? first : 0;
	uint32_t len = flags & 0x40 ? n / 2 : GRPC_PREFIX + n;
	if (flags & 2) {
		uint8_t *padded = malloc(len + 1 + 9);
		CHECK(padded);
		memset(padded, 0, len + 1 + 9);
		padded[0] = 9;
		memcpy(padded + 1, body, len);
		put_frame(H2_DATA, (flags & H2_F_END_STREAM) | H2_F_PADDED, id, padded, len + 1 + 9);
		free(padded);
	} else {
		put_frame(H2_DATA, flags & H2_F_END_STREAM, id, body, len);
	}
}

static void put_settings(void)
{
	static const uint32_t windows[] = {0, 1, 100, 65535, 1 << 20, 0x7fffffff, 0x80000000u, 16384};
	uint8_t b = rig_byte(), p[6];
	store_be16(p, b & 0x80 ? H2_S_MAX_FRAME_SIZE : b & 0x40 ? b & 0x0f : H2_S_INITIAL_WINDOW_SIZE);
	store_be32(p + 2, b & 0x80 ? 16384u << (b & 3) : windows[b & 7]);
	if (!(b & 0xc0) && windows[b & 7] > h2.initial_max)
		h2.initial_max = windows[b & 7];
	put_frame(H2_SETTINGS, 0, 0, p, b == 255 ? 0 : sizeof p);
}

static void put_window_update(void)
{
	uint8_t b = rig_byte();
	uint32_t id = b & 1 ? 0 : some_stream(), n = b & 2 ? (uint32_t)b << 12 : b >> 2;
	if (id == 0)
		h2.conn_window += n;
	else if (id < IDS)
		h2.stream_window[id] += n;
	put_u32(H2_WINDOW_UPDATE, id, n);
}

static void put_other(void)
{
	uint8_t b = rig_byte(), p[8] = {0};
	switch (b & 7) {
	case 0:
		put_frame(H2_PING, b & 8 ? H2_F_ACK : 0, 0, p, 8);
		break;
	case 1: /* the one that draining sends */
		store_be64(p, 0x6f72646e);
		put_frame(H2_PING, H2_F_ACK, 0, p, 8);
		break;
	case 2:
		put_frame(H2_PRIORITY, 0, some_stream(), p, 5);
		break;
	case 3:
		put_frame(H2_GOAWAY, 0, 0, p, 8);
		break;
	case 4:
		put_frame(H2_SETTINGS, H2_F_ACK, 0, p, 0);
		break;
	case 5:
		put_frame(0x20 + b, b, some_stream(), p, b & 8 ? 8 : 0);
		break;
	default:
		put_frame(b >> 3, b, some_stream(), p, b & 7);
	}
}

/* What the server has written, as far as it is whole. */
static void rig_check_output(void)
{
	struct fuzz_bytes *o = &rig.out;
	if (rig.in.len && rig.in.p[0] != H2_PREFACE[0]) /* raw bytes have asked for another session */
		return;
	while (o->len - o->at >= H2_FRAME_HEADER) {
		struct h2_frame f = h2_frame_get(o->p + o->at);
		CHECK(f.len <= 16384u << 3);
		if (o->len - o->at - H2_FRAME_HEADER < f.len)
			return;
		o->at += H2_FRAME_HEADER + f.len;
		CHECK(h2.settings_seen || f.type == H2_SETTINGS || f.type == H2_GOAWAY);
		h2.settings_seen = true;
		CHECK(f.type <= H2_CONTINUATION && f.type != H2_PUSH_PROMISE && f.type != H2_PRIORITY &&
		      f.type != H2_CONTINUATION);
		uint32_t i = f.stream;
		if (f.stream == 0 || i >= IDS)
			continue;
		if (f.type == H2_DATA || f.type == H2_HEADERS) {
			CHECK(h2.ended[i] == 0);
			if (f.flags & H2_F_END_STREAM)
				h2.ended[i] = 1;
		} else if (f.type == H2_RST_STREAM) {
			h2.ended[i] = 2;
		}
		if (f.type == H2_DATA && !h2.raw) {
			h2.conn_data += f.len;
			h2.stream_data[i] += f.len;
			CHECK(h2.conn_data <= h2.conn_window);
			CHECK(h2.stream_data[i] <= h2.initial_max + h2.stream_window[i]);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	rig_begin(data, size);
	memset(&h2, 0, sizeof h2);
	h2.next_id = 1;
	h2.conn_window = h2.initial_max = 65535;
	uint8_t begin = rig_byte();
	if (begin & 1)
		fuzz_append(&rig.in, H2_PREFACE, H2_PREFACE_LEN);
	if (begin & 2)
		put_frame(H2_SETTINGS, 0, 0, NULL, 0);
	for (unsigned ops = 0; rig.script.left && rig.c && ops < RIG_OPS_MAX; ops++) {
		uint8_t op = rig_byte() % 24;
		h2.raw |= op == 0;
		if (rig_op(op))
			continue;
		switch (op) {
		case 13:
		case 14:
		case 15:
			put_headers();
			break;
		case 16:
		case 17:
		case 18:
			put_data();
			break;
		case 19:
			put_window_update();
			break;
		case 20:
			put_settings();
			break;
		case 21:
			put_u32(H2_RST_STREAM, some_stream(), rig_byte());
			break;
		default:
			put_other();
		}
		rig_check_output();
	}
	rig_end();
	return 0;
}
