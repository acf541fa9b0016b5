/* An HTTP/2 server that is the test: it reads what a channel sends, frame by frame, and writes what it likes. */
#ifndef ORDINAL_TESTS_UNIT_RPC_CLIENT_H2_PEER_H
#define ORDINAL_TESTS_UNIT_RPC_CLIENT_H2_PEER_H

#include "tests/unit/rpc/client/harness.h"

#include "rpc/client/h2c.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/hpack.h"

enum { WINDOW = 16 << 20 };

/* What a server makes of a request's header block. */
struct request {
	char method[8], scheme[8], path[64], authority[300], te[16], type[32], timeout[16];
	unsigned fields;
};

struct server {
	struct harness h;
	struct hpack_decoder *decoder;
	struct h2_frame frame; /* the last one read */
	uint8_t body[70000];
	struct request request; /* of the last HEADERS */
	size_t head_n;          /* bytes of its block */
};

static inline void put_frame(struct server *s, uint8_t type, uint8_t flags, uint32_t stream, const void *p, size_t n)
{
	uint8_t raw[H2_FRAME_HEADER];
	h2_frame_put(raw, (uint32_t)n, type, flags, stream);
	peer_write(&s->h, raw, sizeof raw);
	peer_write(&s->h, p, n);
}

static inline void put_setting(struct server *s, uint16_t id, uint32_t value)
{
	uint8_t p[6];
	store_be16(p, id);
	store_be32(p + 2, value);
	put_frame(s, H2_SETTINGS, 0, 0, p, sizeof p);
}

static inline void put_u32(struct server *s, uint8_t type, uint32_t stream, uint32_t v)
{
	uint8_t p[4];
	store_be32(p, v);
	put_frame(s, type, 0, stream, p, sizeof p);
}

static inline int on_field(void *ctx, struct span name, struct span value)
{
	struct request *r = ctx;
	struct {
		const char *name;
		char *to;
		size_t cap;
	} fields[] = {
		{":method", r->method, sizeof r->method},
		{":scheme", r->scheme, sizeof r->scheme},
		{":path", r->path, sizeof r->path},
		{":authority", r->authority, sizeof r->authority},
		{"te", r->te, sizeof r->te},
		{"content-type", r->type, sizeof r->type},
		{"grpc-timeout", r->timeout, sizeof r->timeout},
	};
	r->fields++;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (span_eq(name, (struct span){(const uint8_t *)fields[i].name, strlen(fields[i].name)}))
			snprintf(fields[i].to, fields[i].cap, "%.*s", (int)value.n, (const char *)value.p);
	return 0;
}

static inline void expect(struct server *s, uint8_t type)
{
	uint8_t raw[H2_FRAME_HEADER];
	peer_read(&s->h, raw, sizeof raw);
	s->frame = h2_frame_get(raw);
	assert_true(s->frame.len <= sizeof s->body);
	peer_read(&s->h, s->body, s->frame.len);
	assert_int_equal(s->frame.type, type);
	if (type != H2_HEADERS)
		return;
	assert_int_equal(s->frame.flags, H2_F_END_HEADERS);
	s->request = (struct request){.fields = 0};
	s->head_n = s->frame.len;
	assert_int_equal(hpack_decode(s->decoder, s->body, s->frame.len, on_field, &s->request), 0);
}

/* A whole unary request; returns its stream. */
static inline uint32_t expect_request(struct server *s, const char *path)
{
	expect(s, H2_HEADERS);
	assert_string_equal(s->request.method, "POST");
	assert_string_equal(s->request.scheme, "http");
	assert_string_equal(s->request.path, path);
	assert_string_equal(s->request.authority, "example:1");
	assert_string_equal(s->request.te, "trailers");
	assert_string_equal(s->request.type, "application/grpc");
	uint32_t stream = s->frame.stream;
	expect(s, H2_DATA);
	assert_int_equal(s->frame.stream, stream);
	assert_int_equal(s->frame.flags, H2_F_END_STREAM);
	assert_int_equal(s->body[0], 0);
	assert_int_equal(load_be32(s->body + 1), s->frame.len - GRPC_PREFIX);
	return stream;
}

static uint64_t keepalive_ns; /* of the channels that are begun next; 0: the default */

static inline void begin(struct server *s, uint32_t calls_max)
{
	uint8_t preface[H2_PREFACE_LEN];
	memset(s, 0, sizeof *s);
	s->decoder = hpack_decoder_new(4096);
	harness_begin(&s->h, &(struct channel_opts){.protocol = CHANNEL_GRPC,
						    .authority = "example:1",
						    .calls_max = calls_max,
						    .keepalive_ns = keepalive_ns,
						    .message_max = 1000000});
	peer_read(&s->h, preface, sizeof preface);
	assert_memory_equal(preface, H2_PREFACE, sizeof preface);
	expect(s, H2_SETTINGS);
	assert_int_equal(s->frame.len, 12);
	assert_int_equal(load_be16(s->body), H2_S_ENABLE_PUSH);
	assert_int_equal(load_be32(s->body + 2), 0);
	assert_int_equal(load_be16(s->body + 6), H2_S_INITIAL_WINDOW_SIZE);
	assert_int_equal(load_be32(s->body + 8), WINDOW);
	expect(s, H2_WINDOW_UPDATE);
	assert_int_equal(load_be32(s->body), WINDOW - H2_WINDOW_DEFAULT);
	assert_int_equal(s->h.opened, 0);
}

static inline void open_with(struct server *s, uint16_t setting, uint32_t value)
{
	put_setting(s, setting, value);
	harness_until(&s->h, &s->h.opened, 1);
	expect(s, H2_SETTINGS);
	assert_int_equal(s->frame.flags, H2_F_ACK);
}

static inline void ready(struct server *s, uint32_t calls_max)
{
	begin(s, calls_max);
	open_with(s, H2_S_MAX_CONCURRENT_STREAMS, 1000);
}

static inline void end(struct server *s)
{
	harness_end(&s->h);
	hpack_decoder_free(s->decoder);
}

/* The header blocks of answers, as a server without encoder state writes them. */
static inline size_t block(uint8_t *p, const char *const *fields)
{
	size_t n = 0;
	for (; fields[0]; fields += 2)
		n += hpack_put_literal(p + n, 1000 - n, (struct span){(const uint8_t *)fields[0], strlen(fields[0])},
				       (struct span){(const uint8_t *)fields[1], strlen(fields[1])});
	return n;
}

static inline void put_head(struct server *s, uint32_t stream, uint8_t flags, const char *const *fields)
{
	uint8_t p[1000];
	put_frame(s, H2_HEADERS, H2_F_END_HEADERS | flags, stream, p, block(p, fields));
}

static const char *const head_ok[] = {":status", "200", "content-type", "application/grpc", NULL};
static const char *const trailers_ok[] = {"grpc-status", "0", NULL};

static inline size_t message(uint8_t *p, const void *body, size_t n)
{
	p[0] = 0;
	store_be32(p + 1, (uint32_t)n);
	memcpy(p + GRPC_PREFIX, body, n);
	return GRPC_PREFIX + n;
}

static inline void answer(struct server *s, uint32_t stream, const void *body, size_t n)
{
	uint8_t p[1000];
	put_head(s, stream, 0, head_ok);
	put_frame(s, H2_DATA, 0, stream, p, message(p, body, n));
	put_head(s, stream, H2_F_END_STREAM, trailers_ok);
}

#endif
