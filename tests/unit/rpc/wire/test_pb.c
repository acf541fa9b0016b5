/* pb.c against protobuf-c's generated code on random messages, and on its own. */
#include "rpc/wire/pb.h"

#include "core/base/check.h"
#include "tests/unit/rpc/wire/random.h"

#include "ordinal/v1/ordinal.pb-c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void test_varint_round_trip(void **state)
{
	uint64_t seed = 1;

	for (int i = 0; i < 4000; i++) {
		uint64_t v = i < 300 ? (uint64_t)i : random_wide(&seed), got = 0;
		uint8_t buf[PB_VARINT_MAX];
		size_t n = pb_put_varint(buf, v);

		assert_true(n >= 1 && n <= PB_VARINT_MAX);
		for (size_t cut = 0; cut <= n; cut++) {
			uint8_t *copy = exact_copy(buf, cut);
			const uint8_t *p = copy;
			int r = pb_get_varint(&p, copy + cut, &got);
			assert_int_equal(r, cut == n ? 0 : -EBADMSG);
			assert_ptr_equal(p, cut == n ? copy + n : copy); /* untouched on failure */
			free(copy);
		}
		assert_true(got == v);
	}
}

static void test_varint_overlong(void **state)
{
	static const uint8_t ten[] = {0x85, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
	static const uint8_t eleven[] = {0x85, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
	static const uint8_t ones[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
	const uint8_t *p = ten;
	uint64_t v;

	assert_int_equal(pb_get_varint(&p, ten + sizeof ten, &v), 0);
	assert_true(v == 5 && p == ten + 10);
	p = eleven;
	assert_int_equal(pb_get_varint(&p, eleven + sizeof eleven, &v), -EBADMSG);
	p = ones; /* bits above the 64th are dropped */
	assert_int_equal(pb_get_varint(&p, ones + sizeof ones, &v), 0);
	assert_true(v == UINT64_MAX);
}

static void test_field(void **state)
{
	static const uint8_t msg[] = {
		0x08, 0x96, 0x01,                         /* 1: varint 150 */
		0x11, 1,    2,    3,    4,    5, 6, 7, 8, /* 2: fixed64 */
		0x1a, 3,    'a',  'b',  'c',              /* 3: bytes */
		0x25, 1,    2,    3,    4,                /* 4: fixed32 */
		0xfa, 0xff, 0xff, 0xff, 0x0f, 0,          /* 2^29-1: no bytes */
	};
	const uint8_t *p = msg, *end = msg + sizeof msg;
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span bytes;

	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), 0);
	assert_true(number == 1 && wire == 0 && value == 150);
	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), 0);
	assert_true(number == 2 && wire == 1 && value == UINT64_C(0x0807060504030201));
	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), 0);
	assert_true(number == 3 && wire == 2 && span_eq(bytes, SPAN_LIT("abc")));
	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), 0);
	assert_true(number == 4 && wire == 5 && value == 0x04030201);
	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), 0);
	assert_true(number == 0x1fffffff && wire == 2 && bytes.n == 0 && p == end);
	assert_int_equal(pb_get_field(&p, end, &number, &wire, &value, &bytes), -EBADMSG);
}

/* Unknown groups are passed over, as Google's parsers do. */
static void test_an_unknown_group_is_passed_over(void **state)
{
	static const uint8_t group[] = {
		0x10, 3, 0x53, 0x08, 1,    0x1b, 0x12, 2,   'a',  'b',  0x1c, 0x3d,
		1,    2, 3,    4,    0x54, 0x0a, 1,    's', 0xa3, 0x06, 0xa4, 0x06,
	};
	struct pb_next_request r;
	uint8_t deep[2 * PB_GROUP_DEPTH + 2];

	assert_int_equal(pb_next_request_get((struct span){group, sizeof group}, &r), 0);
	assert_true(r.count == 3 && span_eq(r.sequence, SPAN_LIT("s")));
	memset(deep, 0x2b, PB_GROUP_DEPTH + 1);
	memset(deep + PB_GROUP_DEPTH + 1, 0x2c, PB_GROUP_DEPTH + 1);
	assert_int_equal(pb_next_request_get((struct span){deep + 1, sizeof deep - 2}, &r), 0);
	assert_int_equal(pb_next_request_get((struct span){deep, sizeof deep}, &r), -EBADMSG);
	for (size_t n = 3; n < 17; n++) /* cut within the group */
		assert_int_equal(pb_next_request_get((struct span){group, n}, &r), -EBADMSG);
}

static void test_field_malformed(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
#define BAD(s) {s, sizeof(s) - 1}
		BAD("\x00\x00"), /* field 0 */
		BAD("\x0c"),     /* an end without a group, and groups that end wrongly */
		BAD("\x0b"),
		BAD("\x0b\x14"),
		BAD("\x0b\x13\x0c\x14"),
		BAD("\x0b\x08\x0c"),
		BAD("\x0b\x12\x05\x01\x0c"),
		BAD("\x0e\x00"),
		BAD("\x0f\x00"), /* no such wire type */
		BAD("\x08"),
		BAD("\x08\x80"),                     /* cut varint */
		BAD("\x09\0\0\0\0\0\0\0"),           /* cut fixed64 */
		BAD("\x0d\0\0\0"),                   /* cut fixed32 */
		BAD("\x0a\x01"),                     /* cut bytes */
		BAD("\x0a\xff\xff\xff\xff\x0f"),     /* length 2^32-1 */
		BAD("\x0a\xff\xff\xff\xff\x7f"),     /* length 2^35-1 */
		BAD("\x0a\x80\x80\x80\x80\x80\x00"), /* length of 6 bytes */
		BAD("\x88\x80\x80\x80\x80\x00\x00"), /* tag of 6 bytes */
		BAD("\xf8\xff\xff\xff\x1f\x00"),     /* field 2^30-1 */
		BAD("\x80\x80\x80\x80\x10\x00"),     /* field 2^29 */
#undef BAD
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t *copy = exact_copy(bad[i].bytes, bad[i].n);
		const uint8_t *p = copy;
		uint32_t number;
		unsigned wire;
		uint64_t value;
		struct span bytes;
		struct pb_next_request request;
		struct pb_next_reply reply;

		assert_int_equal(pb_get_field(&p, copy + bad[i].n, &number, &wire, &value, &bytes), -EBADMSG);
		assert_ptr_equal(p, copy);
		assert_int_equal(pb_next_request_get((struct span){copy, bad[i].n}, &request), -EBADMSG);
		assert_int_equal(pb_next_reply_get((struct span){copy, bad[i].n}, &reply), -EBADMSG);
		free(copy);
	}
}

static size_t utf8_put(uint8_t *p, uint32_t c)
{
	if (c < 0x80) {
		p[0] = (uint8_t)c;
		return 1;
	}
	if (c < 0x800) {
		p[0] = (uint8_t)(0xc0 | c >> 6);
		p[1] = (uint8_t)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		p[0] = (uint8_t)(0xe0 | c >> 12);
		p[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		p[2] = (uint8_t)(0x80 | (c & 0x3f));
		return 3;
	}
	p[0] = (uint8_t)(0xf0 | c >> 18);
	p[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
	p[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
	p[3] = (uint8_t)(0x80 | (c & 0x3f));
	return 4;
}

/* Of all 1, 2 and 3 byte strings and the 4 byte ones that begin like a character, exactly the encodings of code points are well formed. */
static void test_utf8_is_exact(void **state)
{
	unsigned long valid = 0;

	for (uint32_t c = 0; c < 0x110000; c++) {
		uint8_t b[4];
		size_t n = utf8_put(b, c);
		assert_int_equal(pb_is_utf8((struct span){b, n}), c < 0xd800 || c > 0xdfff);
	}
	for (uint32_t v = 0x800000; v < 0x1000000; v++) { /* a first byte from 0x80 on */
		uint8_t b[3] = {(uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
		valid += pb_is_utf8((struct span){b, 3});
	}
	/* One 3-byte character, or a 2-byte one and an ASCII one. */
	assert_int_equal(valid, (0x10000 - 0x800 - 0x800) + (0x800 - 0x80) * 128);
	valid = 0;
	for (uint32_t v = 0; v < 16 * 256 * 256; v++) { /* first byte 0xf0 to 0xff; the last byte is any valid one */
		uint8_t b[4] = {(uint8_t)(0xf0 | v >> 16), (uint8_t)(v >> 8), (uint8_t)v, 0x80};
		valid += pb_is_utf8((struct span){b, 4});
	}
	assert_int_equal(valid, 0x100000 / 64);
}

static void test_utf8_in_context(void **state)
{
	assert_true(pb_is_utf8((struct span){NULL, 0}));
	for (size_t n = 1; n < 40; n++) {
		uint8_t *s = exact_copy("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz", n);
		struct span whole = {s, n};
		assert_true(pb_is_utf8(whole));
		for (size_t i = 0; i < n; i++) {
			uint8_t was = s[i];
			s[i] = 0xff;
			assert_false(pb_is_utf8(whole));
			s[i] = 0xc3; /* wants a second byte */
			assert_false(pb_is_utf8(whole));
			if (i + 1 < n) {
				uint8_t next = s[i + 1];
				s[i + 1] = 0xa9;
				assert_true(pb_is_utf8(whole));
				s[i + 1] = next;
			}
			s[i] = was;
		}
		free(s);
	}
	assert_true(pb_is_utf8(SPAN_LIT("a\0b"))); /* U+0000 is a character */
}

/* What a generated message has beyond what protobuf-c would accept, or treats otherwise. */
struct made {
	bool mismatch;   /* a known field with another wire type: protobuf-c refuses it, we skip it */
	bool bad_utf8;   /* in `sequence`, which protobuf-c does not look at */
	bool bad_number; /* a field number that is none, which protobuf-c takes for unknown */
};

/* A varint, sometimes longer than need be. */
static size_t make_varint(uint64_t *seed, uint8_t *p, uint64_t v, size_t max)
{
	size_t n = pb_put_varint(p, v);

	if (random_below(seed, 6) == 0) {
		size_t longer = n + random_below(seed, (uint32_t)(max - n + 1));
		if (longer > n) {
			p[n - 1] |= 0x80;
			for (; n < longer - 1; n++)
				p[n] = 0x80;
			p[n++] = 0;
		}
	}
	return n;
}

static size_t make_text(uint64_t *seed, uint8_t *p, bool *ret_bad)
{
	static const char *const bad[] = {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xe2\x82", "\xf4\x90\x80\x80", "a\x80"};
	size_t n = 0;
	uint32_t chars = random_below(seed, random_below(seed, 12) ? 10 : 150);

	for (uint32_t i = 0; i < chars; i++) {
		uint32_t c = random_below(seed, 4) ? 'a' + random_below(seed, 26)
						   : (uint32_t)random_wide(seed) % 0xd7ff + 1;
		n += utf8_put(p + n, c);
	}
	if (random_below(seed, 12) == 0) {
		const char *tail = bad[random_below(seed, ARRAY_SIZE(bad))];
		memcpy(p + n, tail, strlen(tail));
		n += strlen(tail);
		*ret_bad = true;
	}
	return n;
}

/* Known fields are varints, but for these, by bit: */
#define STRING(number) (1u << (number))
#define FIXED64(number) (1u << 16 << (number))

/* A field: known (1 to `known`) by its own or another wire type, or unknown. */
static size_t make_field(uint64_t *seed, uint8_t *p, unsigned kinds, unsigned known, struct made *m)
{
	size_t n = 0;
	bool is_known = random_below(seed, 4) != 0;
	uint32_t number = is_known ? 1 + random_below(seed, known)
				   : known + 1 + (uint32_t)random_wide(seed) % 0x1ffffff0;
	unsigned right = is_known && (kinds & STRING(number))    ? 2
			 : is_known && (kinds & FIXED64(number)) ? 1
								 : 0,
		 wire = right;

	if (!is_known || random_below(seed, 25) == 0)
		wire = (unsigned[]){0, 1, 2, 5}[random_below(seed, 4)];
	if (is_known && wire != right)
		m->mismatch = true;
	if (random_below(seed, 100) == 0) {
		number = 0;
		m->bad_number = true;
	}
	n += make_varint(seed, p + n, (uint64_t)number << 3 | wire, 5);
	switch (wire) {
	case 0:
		return n + make_varint(seed, p + n, random_below(seed, 3) ? random_wide(seed) : random_below(seed, 200),
				       10);
	case 1:
		store_le64(p + n, random_next(seed));
		return n + 8;
	case 5:
		store_le32(p + n, (uint32_t)random_next(seed));
		return n + 4;
	default: {
		uint8_t text[1024];
		bool bad = false;
		size_t len = make_text(seed, text, &bad);
		if (bad && is_known && right == 2 && number)
			m->bad_utf8 = true;
		n += make_varint(seed, p + n, len, 5);
		memcpy(p + n, text, len);
		return n + len;
	}
	}
}

static size_t make_message(uint64_t *seed, uint8_t *p, unsigned kinds, unsigned known, struct made *m)
{
	size_t n = 0;
	uint32_t fields = random_below(seed, 6);

	*m = (struct made){0};
	for (uint32_t i = 0; i < fields; i++)
		n += make_field(seed, p + n, kinds, known, m);
	return n;
}

static void request_compare(const uint8_t *bytes, size_t n, const struct made *m)
{
	uint8_t *copy = exact_copy(bytes, n);
	struct pb_next_request r = {SPAN_LIT("untouched"), 12345};
	int got = pb_next_request_get((struct span){copy, n}, &r);
	Ordinal__V1__NextRequest *want = ordinal__v1__next_request__unpack(NULL, n, copy);

	if (m->bad_number || m->bad_utf8)
		assert_int_equal(got, -EBADMSG);
	else if (!m->mismatch)
		assert_int_equal(got, want ? 0 : -EBADMSG);
	if (got == 0) {
		assert_true(pb_is_utf8(r.sequence));
		if (want) {
			assert_int_equal(r.count, want->count);
			assert_int_equal(r.sequence.n, strlen(want->sequence)); /* generated texts have no NUL */
			assert_memory_equal(r.sequence.p, want->sequence, r.sequence.n);
		}
	} else {
		assert_true(span_eq(r.sequence, SPAN_LIT("untouched")) && r.count == 12345);
	}
	if (want)
		ordinal__v1__next_request__free_unpacked(want, NULL);
	free(copy);
}

static void test_next_request_against_protobuf_c(void **state)
{
	uint64_t seed = 99;
	unsigned plain = 0;

	for (int i = 0; i < 30000; i++) {
		uint8_t msg[8192];
		struct made m;
		size_t n = make_message(&seed, msg, STRING(1), 2, &m);
		plain += !m.mismatch && !m.bad_utf8 && !m.bad_number;
		request_compare(msg, n, &m);
	}
	assert_true(plain > 15000);
}

static void reply_compare(const uint8_t *bytes, size_t n, const struct made *m)
{
	uint8_t *copy = exact_copy(bytes, n);
	struct pb_next_reply r = {1, 2, 3, 4};
	int got = pb_next_reply_get((struct span){copy, n}, &r);
	Ordinal__V1__NextReply *want = ordinal__v1__next_reply__unpack(NULL, n, copy);

	if (m->bad_number)
		assert_int_equal(got, -EBADMSG);
	else if (!m->mismatch)
		assert_int_equal(got, want ? 0 : -EBADMSG);
	if (got == 0 && want) {
		assert_true(r.first == want->first);
		assert_int_equal(r.count, want->count);
		assert_int_equal(r.order, (uint32_t)want->order);
		assert_true(r.incarnation == want->incarnation);
	}
	if (got < 0)
		assert_true(r.first == 1 && r.count == 2 && r.order == 3 && r.incarnation == 4);
	if (want)
		ordinal__v1__next_reply__free_unpacked(want, NULL);
	free(copy);
}

static void test_next_reply_against_protobuf_c(void **state)
{
	uint64_t seed = 100;

	for (int i = 0; i < 30000; i++) {
		uint8_t msg[8192];
		struct made m;
		size_t n = make_message(&seed, msg, FIXED64(4), 4, &m);
		reply_compare(msg, n, &m);
	}
}

/* Cut at every byte: the verdict stays protobuf-c's, and nothing reads past the end. */
static void test_truncation_against_protobuf_c(void **state)
{
	uint64_t seed = 5;

	for (int i = 0; i < 400; i++) {
		uint8_t msg[8192];
		struct made m;
		size_t n = make_message(&seed, msg, STRING(1), 2, &m);
		if (m.bad_utf8 || m.bad_number || m.mismatch)
			continue;
		for (size_t cut = 0; cut < n; cut++)
			request_compare(msg, cut, &m);
		n = make_message(&seed, msg, FIXED64(4), 4, &m);
		if (m.bad_number || m.mismatch)
			continue;
		for (size_t cut = 0; cut < n; cut++)
			reply_compare(msg, cut, &m);
	}
}

static void test_garbage(void **state)
{
	uint64_t seed = 6;

	for (int i = 0; i < 30000; i++) {
		uint8_t msg[64];
		size_t n = random_below(&seed, sizeof msg);
		for (size_t k = 0; k < n; k++)
			msg[k] = (uint8_t)(random_below(&seed, 3) ? random_below(&seed, 32) : random_next(&seed));
		uint8_t *copy = exact_copy(msg, n);
		struct pb_next_request request;
		struct pb_next_reply reply;
		Ordinal__V1__NextReply *want = ordinal__v1__next_reply__unpack(NULL, n, copy);
		int r = pb_next_reply_get((struct span){copy, n}, &reply);
		if (r == 0 && want)
			assert_true(reply.first == want->first && reply.count == want->count);
		if (want)
			ordinal__v1__next_reply__free_unpacked(want, NULL);
		if (pb_next_request_get((struct span){copy, n}, &request) == 0 && request.sequence.n)
			assert_true(request.sequence.p >= copy && request.sequence.p + request.sequence.n <= copy + n);
		free(copy);
	}
}

/* What we write is byte for byte what protobuf-c writes. */
static void test_writing_against_protobuf_c(void **state)
{
	uint64_t seed = 7;

	for (int i = 0; i < 20000; i++) {
		uint8_t ours[PB_NEXT_REPLY_MAX], theirs[512], request[512];
		Ordinal__V1__NextReply reply = ORDINAL__V1__NEXT_REPLY__INIT;
		Ordinal__V1__NextRequest req = ORDINAL__V1__NEXT_REQUEST__INIT;
		char name[131];
		struct pb_next_reply back;
		struct pb_next_request req_back;

		reply.first = random_below(&seed, 8) ? random_wide(&seed) : 0;
		reply.count = random_below(&seed, 4) ? (uint32_t)random_wide(&seed) : 0;
		reply.order = (Ordinal__V1__Order)random_below(&seed, 2);
		reply.incarnation = random_below(&seed, 4) ? random_next(&seed) : 0;
		size_t n = pb_next_reply_put(ours, &(struct pb_next_reply){reply.first, reply.count,
									   (uint32_t)reply.order, reply.incarnation});
		assert_int_equal(n, ordinal__v1__next_reply__pack(&reply, theirs));
		assert_memory_equal(ours, theirs, n);
		assert_int_equal(pb_next_reply_get((struct span){ours, n}, &back), 0);
		assert_true(back.first == reply.first && back.count == reply.count &&
			    back.order == (uint32_t)reply.order && back.incarnation == reply.incarnation);

		size_t len = random_below(&seed, 3) ? random_below(&seed, sizeof name) : 0;
		memset(name, 'a' + (int)random_below(&seed, 26), len);
		name[len] = 0;
		req.sequence = name;
		req.count = reply.count;
		n = pb_next_request_put(request, sizeof request, (struct span){(uint8_t *)name, len}, req.count);
		assert_int_equal(n, ordinal__v1__next_request__pack(&req, theirs));
		assert_memory_equal(request, theirs, n);
		assert_int_equal(pb_next_request_get((struct span){request, n}, &req_back), 0);
		assert_true(req_back.sequence.n == len && req_back.count == req.count);
	}
	uint8_t out[PB_NEXT_REPLY_MAX];
	struct pb_next_reply longest = {UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT64_MAX};
	assert_int_equal(pb_next_reply_put(out, &longest), PB_NEXT_REPLY_MAX);
}

static void test_next_request_common_forms(void **state)
{
	struct pb_next_request r;

	assert_int_equal(pb_next_request_get((struct span){NULL, 0}, &r), 0);
	assert_true(r.sequence.n == 0 && r.count == 0);
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x10\x05"), &r), 0);
	assert_true(r.sequence.n == 0 && r.count == 5);
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x0a\x03"
						      "abc"
						      "\x10\x80\x01"),
					     &r),
			 0);
	assert_true(span_eq(r.sequence, SPAN_LIT("abc")) && r.count == 128);
	/* The last wins, in any order; a count above 32 bits is cut, as protobuf has it. */
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x10\x01\x0a\x01x\x10\x02\x0a\x02yz"), &r), 0);
	assert_true(span_eq(r.sequence, SPAN_LIT("yz")) && r.count == 2);
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x10\x87\x80\x80\x80\x70"), &r), 0);
	assert_int_equal(r.count, 7);
	/* Known numbers with another wire type are unknown fields. */
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x08\x05\x12\x01x\x10\x03"), &r), 0);
	assert_true(r.sequence.n == 0 && r.count == 3);
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x0a\x02\xc3\x28"), &r), -EBADMSG);
	assert_int_equal(pb_next_request_get(SPAN_LIT("\x8a\x00\x02\xc3\x28"), &r), -EBADMSG); /* by the longer tag */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_varint_round_trip),
		cmocka_unit_test(test_varint_overlong),
		cmocka_unit_test(test_field),
		cmocka_unit_test(test_an_unknown_group_is_passed_over),
		cmocka_unit_test(test_field_malformed),
		cmocka_unit_test(test_utf8_is_exact),
		cmocka_unit_test(test_utf8_in_context),
		cmocka_unit_test(test_next_request_against_protobuf_c),
		cmocka_unit_test(test_next_reply_against_protobuf_c),
		cmocka_unit_test(test_truncation_against_protobuf_c),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_writing_against_protobuf_c),
		cmocka_unit_test(test_next_request_common_forms),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
