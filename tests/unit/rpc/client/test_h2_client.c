/* The gRPC side of a channel, against an HTTP/2 server that is this test. */
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

static void put_frame(struct server *s, uint8_t type, uint8_t flags, uint32_t stream, const void *p, size_t n)
{
	uint8_t raw[H2_FRAME_HEADER];
	h2_frame_put(raw, (uint32_t)n, type, flags, stream);
	peer_write(&s->h, raw, sizeof raw);
	peer_write(&s->h, p, n);
}

static void put_setting(struct server *s, uint16_t id, uint32_t value)
{
	uint8_t p[6];
	store_be16(p, id);
	store_be32(p + 2, value);
	put_frame(s, H2_SETTINGS, 0, 0, p, sizeof p);
}

static void put_u32(struct server *s, uint8_t type, uint32_t stream, uint32_t v)
{
	uint8_t p[4];
	store_be32(p, v);
	put_frame(s, type, 0, stream, p, sizeof p);
}

static int on_field(void *ctx, struct span name, struct span value)
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

static void expect(struct server *s, uint8_t type)
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
static uint32_t expect_request(struct server *s, const char *path)
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

static void begin(struct server *s, uint32_t calls_max)
{
	uint8_t preface[H2_PREFACE_LEN];
	memset(s, 0, sizeof *s);
	s->decoder = hpack_decoder_new(4096);
	harness_begin(&s->h, &(struct channel_opts){.protocol = CHANNEL_GRPC,
						    .authority = "example:1",
						    .calls_max = calls_max,
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

static void open_with(struct server *s, uint16_t setting, uint32_t value)
{
	put_setting(s, setting, value);
	harness_until(&s->h, &s->h.opened, 1);
	expect(s, H2_SETTINGS);
	assert_int_equal(s->frame.flags, H2_F_ACK);
}

static void ready(struct server *s, uint32_t calls_max)
{
	begin(s, calls_max);
	open_with(s, H2_S_MAX_CONCURRENT_STREAMS, 1000);
}

static void end(struct server *s)
{
	harness_end(&s->h);
	hpack_decoder_free(s->decoder);
}

/* The header blocks of answers, as a server without encoder state writes them. */
static size_t block(uint8_t *p, const char *const *fields)
{
	size_t n = 0;
	for (; fields[0]; fields += 2)
		n += hpack_put_literal(p + n, 1000 - n, (struct span){(const uint8_t *)fields[0], strlen(fields[0])},
				       (struct span){(const uint8_t *)fields[1], strlen(fields[1])});
	return n;
}

static void put_head(struct server *s, uint32_t stream, uint8_t flags, const char *const *fields)
{
	uint8_t p[1000];
	put_frame(s, H2_HEADERS, H2_F_END_HEADERS | flags, stream, p, block(p, fields));
}

static const char *const head_ok[] = {":status", "200", "content-type", "application/grpc", NULL};
static const char *const trailers_ok[] = {"grpc-status", "0", NULL};

static size_t message(uint8_t *p, const void *body, size_t n)
{
	p[0] = 0;
	store_be32(p + 1, (uint32_t)n);
	memcpy(p + GRPC_PREFIX, body, n);
	return GRPC_PREFIX + n;
}

static void answer(struct server *s, uint32_t stream, const void *body, size_t n)
{
	uint8_t p[1000];
	put_head(s, stream, 0, head_ok);
	put_frame(s, H2_DATA, 0, stream, p, message(p, body, n));
	put_head(s, stream, H2_F_END_STREAM, trailers_ok);
}

static void test_a_unary_call(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT("abc"), 0, 0, &c);
	uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
	assert_int_equal(stream, 1);
	assert_memory_equal(s.body + GRPC_PREFIX, "abc", 3);
	answer(&s, stream, "reply", 5);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.messages, 1);
	assert_memory_equal(c.last, "reply", 5);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

/* A server's decoder must read the same request from the first, inserting block, from the ready-made ones, and after other methods and timeouts
 * have moved the table's indexes. */
static void test_header_blocks_mean_the_same_whatever_came_before(void **state)
{
	static const uint64_t timeouts[] = {
		0, 100 * NS_PER_MS, 7, 5 * NS_PER_S, 11 * NS_PER_MS, 12 * NS_PER_MS, 3600 * NS_PER_S};
	struct server s;
	uint32_t rnd = 1;

	ready(&s, 1000);
	for (int i = 0; i < 400; i++) {
		struct seen c = {0};
		char timeout[11] = "";
		rnd = rnd * 1103515245 + 12345;
		unsigned method = METHOD_IDS_NEXT + (rnd >> 16) % (METHOD_COUNT - METHOD_IDS_NEXT);
		uint64_t ns = timeouts[(rnd >> 8) % ARRAY_SIZE(timeouts)];
		struct span path = method_path(method);
		if (ns)
			timeout[grpc_timeout_put(timeout, ns)] = 0;
		harness_call(&s.h, method, SPAN_LIT(""), ns, 0, &c);
		char text[64];
		snprintf(text, sizeof text, "%.*s", (int)path.n, (const char *)path.p);
		uint32_t stream = expect_request(&s, text);
		assert_string_equal(s.request.timeout, timeout);
		if (!c.done) /* a deadline of 7 ns may have come first */
			channel_call_cancel(s.h.channel, c.call);
		expect(&s, H2_RST_STREAM);
		assert_int_equal(s.frame.stream, stream);
	}
	end(&s);
}

static void test_the_second_request_is_all_indexed(void **state)
{
	struct server s;
	struct seen c[3];

	memset(c, 0, sizeof c);
	ready(&s, 4);
	for (int i = 0; i < 3; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 10 * NS_PER_S, 0, &c[i]);
		expect_request(&s, "/ordinal.v1.Ids/Next");
		assert_string_equal(s.request.timeout, "10S");
		if (i > 0)
			assert_int_equal(s.head_n, 8);
	}
	end(&s);
}

/* A server may shrink the table, before the first request or later, even to nothing. */
static void test_a_smaller_header_table_is_obeyed(void **state)
{
	static const uint32_t sizes[] = {0, 100, 4096, 1};
	struct server s;

	begin(&s, 100);
	hpack_decoder_free(s.decoder);
	s.decoder = hpack_decoder_new(4096);
	open_with(&s, H2_S_HEADER_TABLE_SIZE, 64);
	for (size_t i = 0; i < ARRAY_SIZE(sizes) + 1; i++) {
		for (int k = 0; k < 3; k++) {
			struct seen c = {0};
			harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
			expect_request(&s, "/ordinal.v1.Ids/Next");
			if (i == 0 && k == 0)
				assert_int_equal(s.request.fields, 7);
			channel_call_cancel(s.h.channel, c.call);
			expect(&s, H2_RST_STREAM);
		}
		if (i == ARRAY_SIZE(sizes))
			break;
		put_setting(&s, H2_S_HEADER_TABLE_SIZE, sizes[i]);
		expect(&s, H2_SETTINGS);
	}
	end(&s);
}

static void test_trailers_only_carries_an_error(void **state)
{
	static const char *const fields[] = {":status",     "200", "content-type", "application/grpc",
					     "grpc-status", "8",   "grpc-message", "100%25 of %E2%82%AC",
					     NULL};
	struct server s;

	ready(&s, 4);
	for (int i = 0; i < 2; i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		put_head(&s, expect_request(&s, "/ordinal.v1.Ids/Next"), H2_F_END_STREAM, fields);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, GRPC_RESOURCE_EXHAUSTED);
		assert_string_equal(c.text, "100% of \xe2\x82\xac");
	}
	end(&s);
}

/* An error's text belongs to its own answer, not to the next one. */
static void test_a_text_is_not_carried_over(void **state)
{
	static const char *const with[] = {"grpc-status", "3", "grpc-message", "first", NULL};
	static const char *const without[] = {"grpc-status", "3", NULL};
	struct server s;
	struct seen c = {0}, d = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_head(&s, 1, H2_F_END_STREAM, with);
	put_head(&s, 3, H2_F_END_STREAM, without);
	harness_until(&s.h, &d.done, 1);
	assert_string_equal(c.text, "first");
	assert_string_equal(d.text, "");
	end(&s);
}

static void test_messages_may_be_cut_and_joined_anywhere(void **state)
{
	struct server s;
	uint8_t p[2000];

	ready(&s, 4);
	for (size_t piece = 1; piece < 40; piece++) {
		struct seen c = {0};
		size_t n = message(p, "0123456789", 10);
		n += message(p + n, "", 0);
		n += message(p + n, "abc", 3);
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
		put_head(&s, stream, 0, head_ok);
		for (size_t at = 0; at < n; at += piece)
			put_frame(&s, H2_DATA, 0, stream, p + at, n - at < piece ? n - at : piece);
		put_head(&s, stream, H2_F_END_STREAM, trailers_ok);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, GRPC_OK);
		assert_int_equal(c.messages, 3);
		assert_int_equal(c.bytes, 13);
		assert_memory_equal(c.last, "abc", 3);
	}
	end(&s);
}

static void test_frames_may_arrive_a_byte_at_a_time(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t all[200], p[64];
	size_t n = 0, len;

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	len = block(p, head_ok);
	h2_frame_put(all, (uint32_t)len, H2_HEADERS, H2_F_END_HEADERS, 1);
	memcpy(all + H2_FRAME_HEADER, p, len);
	n = H2_FRAME_HEADER + len;
	/* Padded, so that the padding is cut as well. */
	len = message(p + 1, "reply", 5) + 1;
	p[0] = 3;
	memset(p + len, 0xee, 3);
	h2_frame_put(all + n, (uint32_t)len + 3, H2_DATA, H2_F_PADDED, 1);
	memcpy(all + n + H2_FRAME_HEADER, p, len + 3);
	n += H2_FRAME_HEADER + len + 3;
	len = block(p, trailers_ok);
	h2_frame_put(all + n, (uint32_t)len, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, 1);
	memcpy(all + n + H2_FRAME_HEADER, p, len);
	n += H2_FRAME_HEADER + len;
	for (size_t i = 0; i < n; i++) {
		peer_write(&s.h, all + i, 1);
		assert_int_equal(client_turn(s.h.client, 0), 0);
	}
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_memory_equal(c.last, "reply", 5);
	end(&s);
}

/* Against a model: which stream is which call, with calls ending in any order and one that outlives thousands. */
static void test_every_answer_reaches_its_call(void **state)
{
	enum { N = 300, ROUNDS = 3000 };
	static struct seen c[N];
	static uint32_t stream[N];
	struct server s;
	uint32_t rnd = 7;

	memset(c, 0, sizeof c);
	ready(&s, N);
	for (uint32_t i = 0; i < N; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		stream[i] = expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	for (int round = 0; round < ROUNDS; round++) {
		rnd = rnd * 1103515245 + 12345;
		uint32_t i = 1 + (rnd >> 8) % (N - 1); /* never c[0] */
		answer(&s, stream[i], &stream[i], 4);
		harness_until(&s.h, &c[i].done, 1);
		assert_memory_equal(c[i].last, &stream[i], 4);
		c[i] = (struct seen){0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		stream[i] = expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	assert_int_equal(stream[0], 1);
	for (uint32_t i = 0; i < N; i++) {
		answer(&s, stream[i], &stream[i], 4);
		harness_until(&s.h, &c[i].done, 1);
		assert_memory_equal(c[i].last, &stream[i], 4);
	}
	end(&s);
}

static void test_resets_have_meanings(void **state)
{
	static const struct {
		uint32_t error;
		unsigned code;
		bool unprocessed;
	} cases[] = {
		{H2_NO_ERROR, GRPC_INTERNAL, false},
		{H2_REFUSED_STREAM, GRPC_UNAVAILABLE, true},
		{H2_CANCEL, GRPC_CANCELLED, false},
		{H2_ENHANCE_YOUR_CALM, GRPC_RESOURCE_EXHAUSTED, false},
		{H2_INADEQUATE_SECURITY, GRPC_PERMISSION_DENIED, false},
		{99, GRPC_INTERNAL, false},
	};
	struct server s;

	ready(&s, 4);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		put_u32(&s, H2_RST_STREAM, expect_request(&s, "/ordinal.v1.Ids/Next"), cases[i].error);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, cases[i].code);
		assert_int_equal(c.unprocessed, cases[i].unprocessed);
	}
	end(&s);
}

static void test_answers_that_make_no_sense_end_only_their_call(void **state)
{
	static const char *const http_503[] = {":status", "503", NULL};
	static const char *const html[] = {":status", "200", "content-type", "text/html", NULL};
	static const char *const nothing[] = {"x", "y", NULL};
	static const char *const odd[] = {"grpc-status", "ten", NULL};
	static const char *const huge[] = {"grpc-status", "9999", NULL};
	static const struct {
		const char *const *head; /* NULL: none */
		uint8_t head_flags;
		const char *data;
		size_t data_n;
		uint8_t data_flags;
		const char *const *trailers;
		unsigned code;
	} cases[] = {
		{http_503, 0, NULL, 0, 0, NULL, GRPC_UNAVAILABLE},
		{http_503, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_UNAVAILABLE},
		{html, 0, NULL, 0, 0, NULL, GRPC_UNKNOWN},
		{head_ok, H2_F_END_STREAM, NULL, 0, 0, NULL, GRPC_UNKNOWN},
		{head_ok, 0, NULL, 0, 0, nothing, GRPC_UNKNOWN},
		{head_ok, 0, NULL, 0, 0, odd, GRPC_UNKNOWN},
		{head_ok, 0, NULL, 0, 0, huge, 9999},
		{head_ok, 0, "\0\0\0\0\0", 5, H2_F_END_STREAM, NULL, GRPC_INTERNAL},
		{head_ok, 0, "\0\0\0\0\5ab", 7, 0, trailers_ok, GRPC_INTERNAL},
		{head_ok, 0, "\1\0\0\0\1a", 6, 0, NULL, GRPC_INTERNAL},
		{head_ok, 0, "\0\xff\0\0\0", 5, 0, NULL, GRPC_RESOURCE_EXHAUSTED},
		{NULL, 0, "\0\0\0\0\0", 5, 0, NULL, GRPC_INTERNAL},
	};
	struct server s;
	struct seen last = {0};

	ready(&s, 4);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct seen c = {0};
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
		if (cases[i].head)
			put_head(&s, stream, cases[i].head_flags, cases[i].head);
		if (cases[i].data)
			put_frame(&s, H2_DATA, cases[i].data_flags, stream, cases[i].data, cases[i].data_n);
		if (cases[i].trailers)
			put_head(&s, stream, H2_F_END_STREAM, cases[i].trailers);
		harness_until(&s.h, &c.done, 1);
		assert_int_equal(c.code, cases[i].code);
		bool ended = (cases[i].head_flags | cases[i].data_flags) & H2_F_END_STREAM || cases[i].trailers;
		if (!ended) {
			expect(&s, H2_RST_STREAM);
			assert_int_equal(s.frame.stream, stream);
		}
	}
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &last);
	answer(&s, expect_request(&s, "/ordinal.v1.Ids/Next"), "ok", 2);
	harness_until(&s.h, &last.done, 1);
	assert_int_equal(last.code, GRPC_OK);
	end(&s);
}

static void test_an_interim_response_is_passed_over(void **state)
{
	static const char *const early[] = {":status", "103", "link", "x", NULL};
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	uint32_t stream = expect_request(&s, "/ordinal.v1.Ids/Next");
	put_head(&s, stream, 0, early);
	answer(&s, stream, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

static void put_goaway(struct server *s, uint32_t last, uint32_t error)
{
	uint8_t p[8];
	store_be32(p, last);
	store_be32(p + 4, error);
	put_frame(s, H2_GOAWAY, 0, 0, p, sizeof p);
}

static void test_a_graceful_goaway_loses_nothing(void **state)
{
	struct server s;
	struct seen c[3];

	memset(c, 0, sizeof c);
	ready(&s, 4);
	for (int i = 0; i < 3; i++) {
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c[i]);
		expect_request(&s, "/ordinal.v1.Ids/Next");
	}
	put_goaway(&s, H2_WINDOW_MAX, H2_NO_ERROR);
	harness_until(&s.h, &s.h.draining, 1);
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ESHUTDOWN);
	assert_int_equal(c[2].done, 0);
	put_goaway(&s, 3, H2_NO_ERROR);
	harness_until(&s.h, &c[2].done, 1);
	assert_int_equal(c[2].code, GRPC_UNAVAILABLE);
	assert_true(c[2].unprocessed);
	answer(&s, 3, "b", 1);
	answer(&s, 1, "a", 1);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(c[0].code, GRPC_OK);
	assert_int_equal(c[1].code, GRPC_OK);
	assert_int_equal(s.h.err, 0);
	assert_int_equal(s.h.draining, 1);
	end(&s);
}

static void test_a_goaway_with_an_error_closes(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_goaway(&s, 1, H2_ENHANCE_YOUR_CALM);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -ECONNABORTED);
	assert_false(c.unprocessed);
	assert_true(d.unprocessed);
	end(&s);
}

/* Bytes of a message never exceed a window, arrive in order, and all arrive. */
static void test_requests_wait_for_windows(void **state)
{
	enum { N = 100 };
	struct server s;
	struct seen c = {0};
	uint8_t text[N], got[N + GRPC_PREFIX];
	size_t have = 0;

	for (unsigned i = 0; i < N; i++)
		text[i] = (uint8_t)i;
	begin(&s, 4);
	open_with(&s, H2_S_INITIAL_WINDOW_SIZE, 10);
	harness_call(&s.h, METHOD_FEED_PUBLISH, (struct span){text, N}, 0, 0, &c);
	expect(&s, H2_HEADERS);
	for (size_t window = 10; have < sizeof got; window = 7) {
		expect(&s, H2_DATA);
		assert_true(s.frame.len <= window);
		memcpy(got + have, s.body, s.frame.len);
		have += s.frame.len;
		assert_int_equal(s.frame.flags, have == sizeof got ? H2_F_END_STREAM : 0);
		if (have < sizeof got) {
			peer_expect_silence(&s.h);
			put_u32(&s, H2_WINDOW_UPDATE, 1, 7);
		}
	}
	assert_int_equal(load_be32(got + 1), N);
	assert_memory_equal(got + GRPC_PREFIX, text, N);
	answer(&s, 1, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

/* SETTINGS may take back window that was used (RFC 9113 section 6.9.2), and large messages are cut into frames. */
static void test_the_connection_window_and_negative_windows(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};
	uint8_t *big = malloc(100000);
	size_t have = 0;

	memset(big, 'x', 100000);
	ready(&s, 4);
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 1 << 20);
	expect(&s, H2_SETTINGS);
	harness_call(&s.h, METHOD_FEED_PUBLISH, (struct span){big, 100000}, 0, 0, &c);
	expect(&s, H2_HEADERS);
	while (have < H2_WINDOW_DEFAULT) {
		expect(&s, H2_DATA);
		assert_true(s.frame.len <= H2_FRAME_SIZE_DEFAULT);
		have += s.frame.len;
	}
	assert_int_equal(have, H2_WINDOW_DEFAULT);
	/* The stream's window falls to 10 - 65,535, so opening the connection's is not enough. */
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 10);
	expect(&s, H2_SETTINGS);
	put_u32(&s, H2_WINDOW_UPDATE, 0, 1 << 20);
	peer_expect_silence(&s.h);
	/* Another call is not held up by the blocked one. */
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT("abc"), 0, 0, &d);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Ids/Next"), 3);
	put_u32(&s, H2_WINDOW_UPDATE, 1, 1 << 20);
	while (have < 100000 + GRPC_PREFIX) {
		expect(&s, H2_DATA);
		have += s.frame.len;
	}
	assert_int_equal(s.frame.flags, H2_F_END_STREAM);
	assert_int_equal(have, 100000 + GRPC_PREFIX);
	free(big);
	end(&s);
}

/* The end of a call whose bytes still wait must take them along. */
static void test_a_blocked_call_can_be_cancelled_or_answered(void **state)
{
	static const char *const refused[] = {":status", "200", "content-type", "application/grpc", "grpc-status",
					      "3",       NULL};
	struct server s;
	struct seen c = {0}, d = {0}, e = {0};

	begin(&s, 4);
	open_with(&s, H2_S_INITIAL_WINDOW_SIZE, 0);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &c);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &d);
	expect(&s, H2_HEADERS);
	expect(&s, H2_HEADERS);
	channel_call_cancel(s.h.channel, c.call);
	expect(&s, H2_RST_STREAM);
	assert_int_equal(load_be32(s.body), H2_CANCEL);
	/* Answered before the request was whole: the rest is not sent, and the stream is reset without blame. */
	put_head(&s, 3, H2_F_END_STREAM, refused);
	harness_until(&s.h, &d.done, 1);
	assert_int_equal(d.code, GRPC_INVALID_ARGUMENT);
	expect(&s, H2_RST_STREAM);
	assert_int_equal(s.frame.stream, 3);
	assert_int_equal(load_be32(s.body), H2_NO_ERROR);
	put_setting(&s, H2_S_INITIAL_WINDOW_SIZE, 100);
	expect(&s, H2_SETTINGS);
	harness_call(&s.h, METHOD_FEED_PUBLISH, SPAN_LIT("abc"), 0, 0, &e);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Feed/Publish"), 5);
	end(&s);
}

/* A server that fills our windows gets them back, on the stream and on the connection. */
static void test_windows_are_given_back(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t *p = calloc(1, H2_FRAME_SIZE_DEFAULT);
	size_t sent = 0;

	ready(&s, 4);
	harness_call(&s.h, METHOD_FEED_SUBSCRIBE, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Feed/Subscribe");
	put_head(&s, 1, 0, head_ok);
	message(p, p, 0);
	store_be32(p + 1, H2_FRAME_SIZE_DEFAULT - GRPC_PREFIX);
	while (sent <= WINDOW / 2) {
		put_frame(&s, H2_DATA, 0, 1, p, H2_FRAME_SIZE_DEFAULT);
		sent += H2_FRAME_SIZE_DEFAULT;
		harness_turn(&s.h);
	}
	expect(&s, H2_WINDOW_UPDATE);
	assert_int_equal(s.frame.stream, 0);
	assert_int_equal(load_be32(s.body), WINDOW / 2);
	expect(&s, H2_WINDOW_UPDATE);
	assert_int_equal(s.frame.stream, 1);
	assert_int_equal(load_be32(s.body), WINDOW / 2);
	harness_until(&s.h, &c.messages, (unsigned)(sent / H2_FRAME_SIZE_DEFAULT));
	free(p);
	end(&s);
}

static void test_a_header_block_may_be_continued(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t p[1000];
	size_t n = block(p, head_ok);

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_frame(&s, H2_HEADERS, 0, 1, p, 3);
	put_frame(&s, H2_CONTINUATION, 0, 1, p + 3, 0);
	put_frame(&s, H2_CONTINUATION, 0, 1, p + 3, 5);
	put_frame(&s, H2_CONTINUATION, H2_F_END_HEADERS, 1, p + 8, n - 8);
	n = message(p, "ok", 2);
	put_frame(&s, H2_DATA, 0, 1, p, n);
	n = block(p, trailers_ok);
	put_frame(&s, H2_HEADERS, H2_F_END_STREAM, 1, p, 2);
	put_frame(&s, H2_CONTINUATION, H2_F_END_HEADERS, 1, p + 2, n - 2);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_int_equal(c.messages, 1);
	end(&s);
}

/* The block of a stream that we have cancelled still changes the decoder's table. */
static void test_late_header_blocks_of_cancelled_calls_are_decoded(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0};
	uint8_t p[1000];
	size_t n;

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	channel_call_cancel(s.h.channel, c.call);
	expect(&s, H2_RST_STREAM);
	n = hpack_put_indexed(p, sizeof p, 8); /* :status 200 */
	n += hpack_put_incremental(p + n, sizeof p - n, SPAN_LIT("content-type"), SPAN_LIT("application/grpc"));
	put_frame(&s, H2_HEADERS, H2_F_END_HEADERS, 1, p, n);
	n = message(p, "late", 4);
	put_frame(&s, H2_DATA, H2_F_END_STREAM, 1, p, n);
	n = hpack_put_indexed(p, sizeof p, 8);
	n += hpack_put_indexed(p + n, sizeof p - n, 62);
	put_frame(&s, H2_HEADERS, H2_F_END_HEADERS, 3, p, n);
	n = message(p, "mine", 4);
	put_frame(&s, H2_DATA, 0, 3, p, n);
	put_head(&s, 3, H2_F_END_STREAM, trailers_ok);
	harness_until(&s.h, &d.done, 1);
	assert_int_equal(d.code, GRPC_OK);
	assert_memory_equal(d.last, "mine", 4);
	assert_int_equal(c.messages, 0);
	assert_int_equal(c.code, GRPC_CANCELLED);
	end(&s);
}

static void test_the_servers_limit_of_streams_is_kept(void **state)
{
	struct server s;
	struct seen c = {0}, d = {0}, e = {0};

	begin(&s, 100);
	open_with(&s, H2_S_MAX_CONCURRENT_STREAMS, 2);
	assert_int_equal(channel_calls_limit(s.h.channel), 2);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &d);
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -EAGAIN);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	expect_request(&s, "/ordinal.v1.Ids/Next");
	answer(&s, 1, "ok", 2);
	harness_until(&s.h, &c.done, 1);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &e);
	end(&s);
}

/* After 2^30 calls a connection has no numbers left: it finishes what it has, and its owner makes another. */
static void test_stream_numbers_run_out(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	((struct h2_client *)s.h.channel->proto)->stream_next = H2_STREAM_MAX;
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	assert_int_equal(expect_request(&s, "/ordinal.v1.Ids/Next"), H2_STREAM_MAX);
	for (int i = 0; i < 2; i++)
		assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
				 -ESHUTDOWN);
	peer_expect_silence(&s.h);
	assert_int_equal(s.h.closed, 0);
	answer(&s, H2_STREAM_MAX, "ok", 2);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(c.code, GRPC_OK);
	assert_int_equal(s.h.err, 0);
	end(&s);
	/* The same with nothing in flight. */
	ready(&s, 4);
	((struct h2_client *)s.h.channel->proto)->stream_next = H2_STREAM_MAX + 2;
	assert_int_equal(channel_call(s.h.channel, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &seen_ops, NULL, NULL),
			 -ESHUTDOWN);
	assert_int_equal(s.h.closed, 0);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, 0);
	end(&s);
}

static void test_a_stream_goes_both_ways(void **state)
{
	struct server s;
	struct seen c = {0};
	uint8_t p[64];

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_TAKE, SPAN_LIT("m1"), 0, CHANNEL_MORE, &c);
	expect(&s, H2_HEADERS);
	expect(&s, H2_DATA);
	assert_int_equal(s.frame.flags, 0);
	assert_int_equal(channel_call_send(s.h.channel, c.call, SPAN_LIT("m2"), CHANNEL_MORE), 0);
	expect(&s, H2_DATA);
	assert_memory_equal(s.body + GRPC_PREFIX, "m2", 2);
	put_head(&s, 1, 0, head_ok);
	put_frame(&s, H2_DATA, 0, 1, p, message(p, "r1", 2));
	harness_until(&s.h, &c.messages, 1);
	assert_int_equal(channel_call_end(s.h.channel, c.call), 0);
	expect(&s, H2_DATA);
	assert_int_equal(s.frame.len, 0);
	assert_int_equal(s.frame.flags, H2_F_END_STREAM);
	put_head(&s, 1, H2_F_END_STREAM, trailers_ok);
	harness_until(&s.h, &c.done, 1);
	assert_int_equal(c.code, GRPC_OK);
	end(&s);
}

static void test_ping_is_answered(void **state)
{
	struct server s;

	ready(&s, 4);
	put_frame(&s, H2_PING, 0, 0, "12345678", 8);
	expect(&s, H2_PING);
	assert_int_equal(s.frame.flags, H2_F_ACK);
	assert_memory_equal(s.body, "12345678", 8);
	/* Frames of unknown types, and PRIORITY, are passed over (RFC 9113 sections 4.1 and 5.3). */
	put_frame(&s, 0xfa, 0xff, 9, "xyz", 3);
	put_frame(&s, H2_PRIORITY, 0, 1, "12345", 5);
	put_frame(&s, H2_PING, 0, 0, "abcdefgh", 8);
	expect(&s, H2_PING);
	end(&s);
}

static void test_breaches_of_http2_close_the_connection(void **state)
{
	static const struct {
		uint8_t type, flags;
		uint32_t stream;
		const char *body;
		size_t n;
	} cases[] = {
		{H2_HEADERS, H2_F_END_HEADERS, 0, "\x88", 1},
		{H2_HEADERS, H2_F_END_HEADERS, 2, "\x88", 1},
		{H2_HEADERS, H2_F_END_HEADERS, 3, "\x88", 1}, /* never opened */
		{H2_HEADERS, H2_F_END_HEADERS, 1, "\xff", 1}, /* no header block */
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PADDED, 1, "\x05\x88", 2},
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PRIORITY, 1, "\x05\x88", 2},
		{H2_HEADERS, H2_F_END_HEADERS | H2_F_PADDED, 1, "", 0},
		{H2_DATA, 0, 0, "", 0},
		{H2_DATA, 0, 5, "", 0},
		{H2_DATA, H2_F_PADDED, 1, "\x02\0", 2},
		{H2_CONTINUATION, 0, 1, "", 0},
		{H2_PUSH_PROMISE, H2_F_END_HEADERS, 1, "\0\0\0\2\x88", 5},
		{H2_RST_STREAM, 0, 1, "\0\0\0", 3},
		{H2_RST_STREAM, 0, 7, "\0\0\0\0", 4},
		{H2_SETTINGS, 0, 1, "", 0},
		{H2_SETTINGS, 0, 0, "\0\1\0", 3},
		{H2_SETTINGS, H2_F_ACK, 0, "\0\1\0\0\0\0", 6},
		{H2_SETTINGS, 0, 0, "\0\4\x80\0\0\0", 6}, /* INITIAL_WINDOW_SIZE 2^31 */
		{H2_SETTINGS, 0, 0, "\0\5\0\0\0\0", 6},   /* MAX_FRAME_SIZE 0 */
		{H2_PING, 0, 0, "1234567", 7},
		{H2_PING, 0, 1, "12345678", 8},
		{H2_GOAWAY, 0, 0, "\0\0\0\0", 4},
		{H2_WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4},
		{H2_WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff", 4}, /* overflows */
		{H2_WINDOW_UPDATE, 0, 1, "\x7f\xff\xff\xff", 4},
		{H2_WINDOW_UPDATE, 0, 99, "\0\0\0\1", 4},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct server s;
		struct seen c = {0};
		ready(&s, 4);
		harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
		expect_request(&s, "/ordinal.v1.Ids/Next");
		put_frame(&s, cases[i].type, cases[i].flags, cases[i].stream, cases[i].body, cases[i].n);
		harness_until(&s.h, &s.h.closed, 1);
		assert_int_equal(s.h.err, -EPROTO);
		assert_int_equal(c.code, GRPC_UNAVAILABLE);
		end(&s);
	}
}

static void test_an_interrupted_header_block_closes_the_connection(void **state)
{
	struct server s;
	struct seen c = {0};

	ready(&s, 4);
	harness_call(&s.h, METHOD_IDS_NEXT, SPAN_LIT(""), 0, 0, &c);
	expect_request(&s, "/ordinal.v1.Ids/Next");
	put_frame(&s, H2_HEADERS, 0, 1, "\x88", 1);
	put_frame(&s, H2_PING, 0, 0, "12345678", 8);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -EPROTO);
	end(&s);
}

static void test_what_does_not_speak_http2_is_named(void **state)
{
	struct server s;

	begin(&s, 4);
	peer_write(&s.h, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	harness_until(&s.h, &s.h.closed, 1);
	assert_int_equal(s.h.err, -EPROTO);
	assert_string_equal(s.h.why, "the server does not speak HTTP/2");
	assert_int_equal(s.h.opened, 0);
	end(&s);
}

static void test_a_server_that_never_greets_is_given_up(void **state)
{
	struct harness h;

	harness_begin(&h, &(struct channel_opts){.protocol = CHANNEL_GRPC, .connect_timeout_ns = 5 * NS_PER_MS});
	harness_until(&h, &h.closed, 1);
	assert_int_equal(h.err, -ETIMEDOUT);
	harness_end(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_unary_call),
		cmocka_unit_test(test_header_blocks_mean_the_same_whatever_came_before),
		cmocka_unit_test(test_the_second_request_is_all_indexed),
		cmocka_unit_test(test_a_smaller_header_table_is_obeyed),
		cmocka_unit_test(test_trailers_only_carries_an_error),
		cmocka_unit_test(test_a_text_is_not_carried_over),
		cmocka_unit_test(test_messages_may_be_cut_and_joined_anywhere),
		cmocka_unit_test(test_frames_may_arrive_a_byte_at_a_time),
		cmocka_unit_test(test_every_answer_reaches_its_call),
		cmocka_unit_test(test_resets_have_meanings),
		cmocka_unit_test(test_answers_that_make_no_sense_end_only_their_call),
		cmocka_unit_test(test_an_interim_response_is_passed_over),
		cmocka_unit_test(test_a_graceful_goaway_loses_nothing),
		cmocka_unit_test(test_a_goaway_with_an_error_closes),
		cmocka_unit_test(test_requests_wait_for_windows),
		cmocka_unit_test(test_the_connection_window_and_negative_windows),
		cmocka_unit_test(test_a_blocked_call_can_be_cancelled_or_answered),
		cmocka_unit_test(test_windows_are_given_back),
		cmocka_unit_test(test_a_header_block_may_be_continued),
		cmocka_unit_test(test_late_header_blocks_of_cancelled_calls_are_decoded),
		cmocka_unit_test(test_the_servers_limit_of_streams_is_kept),
		cmocka_unit_test(test_stream_numbers_run_out),
		cmocka_unit_test(test_a_stream_goes_both_ways),
		cmocka_unit_test(test_ping_is_answered),
		cmocka_unit_test(test_breaches_of_http2_close_the_connection),
		cmocka_unit_test(test_an_interrupted_header_block_closes_the_connection),
		cmocka_unit_test(test_what_does_not_speak_http2_is_named),
		cmocka_unit_test(test_a_server_that_never_greets_is_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
