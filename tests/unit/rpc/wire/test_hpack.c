/* hpack.c: RFC 7541's own examples, purity against nghttp2's inflater, the memo, the encoder. */
#include "rpc/wire/hpack.h"

#include "core/base/check.h"
#include "tests/unit/rpc/wire/random.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Collects fields as "name: value\n". */
struct fields {
	char text[8192];
	size_t n;
	unsigned count;
	unsigned refuse_at; /* the number of the field to refuse with -E2BIG, from 1; 0: none */
	unsigned calls_after_refusal;
	bool refused;
};

static int fields_add(void *ctx, struct span name, struct span value)
{
	struct fields *f = ctx;

	if (f->refused)
		f->calls_after_refusal++;
	f->count++;
	if (f->n + name.n + value.n + 3 < sizeof f->text) {
		memcpy(f->text + f->n, name.p, name.n);
		f->n += name.n;
		memcpy(f->text + f->n, ": ", 2);
		f->n += 2;
		memcpy(f->text + f->n, value.p, value.n);
		f->n += value.n;
		f->text[f->n++] = '\n';
		f->text[f->n] = 0;
	}
	if (f->refuse_at == f->count) {
		f->refused = true;
		return -E2BIG;
	}
	return 0;
}

static size_t unhex(uint8_t *out, const char *hex)
{
	size_t n = 0;
	unsigned byte;

	for (; *hex; hex++) {
		if (*hex == ' ')
			continue;
		assert_int_equal(sscanf(hex, "%2x", &byte), 1);
		out[n++] = (uint8_t)byte;
		hex++;
	}
	return n;
}

static void expect_block(struct hpack_decoder *d, const char *hex, const char *text)
{
	uint8_t block[512];
	struct fields f = {.n = 0};
	size_t n = unhex(block, hex);
	uint8_t *copy = exact_copy(block, n);

	assert_int_equal(hpack_decode(d, copy, n, fields_add, &f), 0);
	assert_string_equal(f.text, text);
	free(copy);
}

/* Appendix C.3 and C.4: three requests on one connection, without and with Huffman. */
static void test_rfc7541_requests(void **state)
{
	static const char *const text[3] = {
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
		":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
	};
	static const char *const plain[3] = {
		"828684410f7777772e6578616d706c652e636f6d",
		"828684be58086e6f2d6361636865",
		"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
	};
	static const char *const huffman[3] = {
		"828684418cf1e3c2e5f23a6ba0ab90f4ff",
		"828684be5886a8eb10649cbf",
		"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
	};
	for (int h = 0; h < 2; h++) {
		struct hpack_decoder *d = hpack_decoder_new(4096);
		assert_non_null(d);
		for (int i = 0; i < 3; i++) {
			expect_block(d, h ? huffman[i] : plain[i], text[i]);
			assert_int_equal(hpack_generation(d), i + 1);
		}
		hpack_decoder_free(d);
	}
}

static void test_generation_advances_with_impure_and_failed_blocks_only(void **state)
{
	struct hpack_decoder *d = hpack_decoder_new(4096);
	struct fields f = {.n = 0};
	static const uint8_t missing[] = {0xbe}; /* entry 62: not there */

	assert_int_equal(hpack_generation(d), 0);
	expect_block(d, "", "");
	expect_block(d, "82 86", ":method: GET\n:scheme: http\n");
	expect_block(d, "0001 61 01 62", "a: b\n");
	expect_block(d, "1001 61 01 62", "a: b\n");
	assert_int_equal(hpack_generation(d), 0);
	expect_block(d, "4001 61 01 62", "a: b\n");
	assert_int_equal(hpack_generation(d), 1);
	expect_block(d, "be", "a: b\n");
	assert_int_equal(hpack_generation(d), 1);
	expect_block(d, "20", ""); /* size 0: evicts all */
	assert_int_equal(hpack_generation(d), 2);
	assert_true(hpack_block_is_pure(missing, 1));
	assert_int_equal(hpack_decode(d, missing, 1, fields_add, &f), -EBADMSG);
	assert_int_equal(hpack_generation(d), 3);
	assert_int_equal(hpack_decode(d, (const uint8_t *)"\x82", 1, fields_add, &f), -EBADMSG);
	hpack_decoder_free(d);
	hpack_decoder_free(NULL);
}

static void test_decode_malformed(void **state)
{
	static const struct {
		const char *hex;
	} bad[] = {
		{"80"},                 /* index 0 */
		{"be"},                 /* beyond the table */
		{"ffffffffffff"},       /* integer without end */
		{"ff8080808080808080"}, /* the same, of zeros */
		{"4001 61 05 62"},      /* string longer than the block */
		{"40 01"},              /* cut in the name */
		{"00 81 ff"},           /* Huffman: padding only, 8 bits of it */
		{"82 20"},              /* size update after a field */
		{"3fe21f"},             /* size update above 4096 */
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct hpack_decoder *d = hpack_decoder_new(4096);
		struct fields f = {.n = 0};
		uint8_t block[32];
		size_t n = unhex(block, bad[i].hex);
		assert_int_equal(hpack_decode(d, block, n, fields_add, &f), -EBADMSG);
		hpack_decoder_free(d);
	}
}

/* A refusal must not leave the decoder out of step: the rest of the block still counts. */
static void test_refusal_keeps_the_state(void **state)
{
	struct hpack_decoder *d = hpack_decoder_new(4096);
	struct fields f = {.refuse_at = 1};
	uint8_t block[64];
	size_t n = unhex(block, "82 4001 61 01 62 86");

	assert_int_equal(hpack_decode(d, block, n, fields_add, &f), -E2BIG);
	assert_int_equal(f.count, 1);
	assert_int_equal(f.calls_after_refusal, 0);
	expect_block(d, "be", "a: b\n");
	/* Refused, and then malformed: the malformed one is what counts. */
	f = (struct fields){.refuse_at = 1};
	n = unhex(block, "82 80");
	assert_int_equal(hpack_decode(d, block, n, fields_add, &f), -EBADMSG);
	hpack_decoder_free(d);
}

static void test_larger_table(void **state)
{
	struct hpack_decoder *d = hpack_decoder_new(8192);
	expect_block(d, "3fe13f 82", ":method: GET\n"); /* size update to 8192 */
	hpack_decoder_free(d);
}

static void test_purity_of_each_representation(void **state)
{
	static const struct {
		const char *hex;
		bool pure;
	} t[] = {
		{"", true},
		{"82", true},
		{"8286 84", true},
		{"be", true},
		{"fe", true},
		{"ff00", true},
		{"ff8001", true},
		{"80", false}, /* index 0 */
		{"ff", false},
		{"ff80", false},         /* cut integer */
		{"ffffffff7f", false},   /* implausible index */
		{"ff8080808000", false}, /* integer longer than need be by far */
		{"40", false},
		{"4001 61 01 62", false},
		{"41 01 62", false},
		{"7f00 01 62", false},
		{"20", false},
		{"3fe11f", false},
		{"8220", false},
		{"82 41 01 62", false},
		{"00 01 61 01 62", true},
		{"10 01 61 01 62", true},
		{"00 00 00", true},
		{"04 01 62", true},
		{"14 01 62", true},
		{"0f0f 01 62", true},
		{"1f0f 01 62", true},
		{"0f 0f", false},
		{"04", false},
		{"0402 62", false},
		{"04 82 62", false},
		{"04 81 8f", true},
		{"00", false},
		{"00 01", false},
		{"00 01 61", false},
		{"00 01 61 01", false},
		{"00 02 61 01 62", false},
		{"04 7f", false},
		{"04 7f80", false},
		{"04 7f 00", false},
		{"0f ffffff7f 00", false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		uint8_t block[64];
		size_t n = unhex(block, t[i].hex);
		uint8_t *copy = exact_copy(block, n);
		if (hpack_block_is_pure(copy, n) != t[i].pure)
			fail_msg("%s: expected %s", t[i].hex, t[i].pure ? "pure" : "impure");
		free(copy);
	}
	assert_true(hpack_block_is_pure(NULL, 0));

	/* A string of 127 bytes takes a continuation byte. */
	uint8_t longer[3 + 127] = {0x04, 0x7f, 0x00};
	assert_true(hpack_block_is_pure(longer, sizeof longer));
	assert_false(hpack_block_is_pure(longer, sizeof longer - 1));
}

/* Appends an integer with a prefix, sometimes in a longer form than need be. */
static size_t make_int(uint64_t *seed, uint8_t *out, uint8_t pattern, unsigned bits, uint32_t v)
{
	uint32_t full = (1u << bits) - 1;
	size_t n = 0;

	if (v < full) {
		out[0] = (uint8_t)(pattern | v);
		return 1;
	}
	out[n++] = (uint8_t)(pattern | full);
	for (v -= full; v >= 0x80; v >>= 7)
		out[n++] = (uint8_t)(v | 0x80);
	out[n++] = (uint8_t)v;
	if (random_below(seed, 8) == 0 && n < 4) {
		out[n - 1] |= 0x80;
		out[n++] = 0;
	}
	return n;
}

static size_t make_string(uint64_t *seed, uint8_t *out)
{
	uint32_t len = random_below(seed, random_below(seed, 16) ? 12 : 200);
	size_t n = make_int(seed, out, 0, 7, len);

	for (uint32_t i = 0; i < len; i++)
		out[n++] = (uint8_t)('a' + random_below(seed, 26));
	return n;
}

/* A block of a few representations; *ret_impure tells whether one of them can change the table. */
static size_t make_block(uint64_t *seed, uint8_t *out, bool *ret_impure)
{
	size_t n = 0;
	uint32_t fields = random_below(seed, 6);

	*ret_impure = false;
	if (random_below(seed, 10) == 0) {
		n += make_int(seed, out + n, 0x20, 5, random_below(seed, 4097));
		*ret_impure = true;
	}
	for (uint32_t i = 0; i < fields; i++) {
		uint32_t kind = random_below(seed, 8);
		uint32_t index = random_below(seed, 80);
		if (kind < 3) {
			n += make_int(seed, out + n, 0x80, 7, index + 1);
			continue;
		}
		if (kind < 5) {
			n += make_int(seed, out + n, 0x40, 6, index);
			*ret_impure = true;
		} else {
			n += make_int(seed, out + n, kind == 5 ? 0x10 : 0x00, 4, index);
		}
		if (index == 0)
			n += make_string(seed, out + n);
		n += make_string(seed, out + n);
	}
	return n;
}

/* A digest of everything that decides what later blocks mean. */
static uint64_t table_digest(nghttp2_hd_inflater *in)
{
	uint64_t h = 14695981039346656037u;
	size_t entries = nghttp2_hd_inflate_get_num_table_entries(in);

	h = (h ^ entries) * 1099511628211u;
	h = (h ^ nghttp2_hd_inflate_get_dynamic_table_size(in)) * 1099511628211u;
	h = (h ^ nghttp2_hd_inflate_get_max_dynamic_table_size(in)) * 1099511628211u;
	for (size_t i = 62; i <= entries; i++) {
		const nghttp2_nv *nv = nghttp2_hd_inflate_get_table_entry(in, i);
		for (size_t k = 0; k < nv->namelen; k++)
			h = (h ^ nv->name[k]) * 1099511628211u;
		for (size_t k = 0; k < nv->valuelen; k++)
			h = (h ^ nv->value[k]) * 1099511628211u;
	}
	return h;
}

static int oracle_decode(nghttp2_hd_inflater *in, const uint8_t *p, size_t n)
{
	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t used = nghttp2_hd_inflate_hd2(in, &nv, &flags, p, n, 1);
		if (used < 0)
			return -1;
		p += used;
		n -= (size_t)used;
		if (flags & NGHTTP2_HD_INFLATE_FINAL) {
			nghttp2_hd_inflate_end_headers(in);
			return 0;
		}
	}
}

/* What is called pure leaves nghttp2's table as it was, also when mutated; what can change it is never called pure; and well-formed
 * blocks without such a representation are all called pure (so the memo is of use). */
static void test_purity_against_nghttp2(void **state)
{
	uint64_t seed = 20240607;
	unsigned pure_seen = 0, impure_seen = 0, mutated_pure = 0;

	for (int round = 0; round < 400; round++) {
		nghttp2_hd_inflater *in;
		assert_int_equal(nghttp2_hd_inflate_new(&in), 0);
		for (int i = 0; i < 40; i++) {
			uint8_t block[4096];
			bool impure;
			bool mutate = random_below(&seed, 4) == 0;
			size_t n = make_block(&seed, block, &impure);

			if (mutate && n)
				block[random_below(&seed, (uint32_t)n)] ^= (uint8_t)(1u << random_below(&seed, 8));
			uint8_t *copy = exact_copy(block, n);
			bool pure = hpack_block_is_pure(copy, n);
			uint64_t before = table_digest(in);
			int r = oracle_decode(in, copy, n);

			if (!mutate)
				assert_int_equal(pure, !impure);
			if (pure)
				assert_int_equal(table_digest(in), before);
			pure_seen += pure;
			impure_seen += !pure;
			mutated_pure += pure && mutate;
			free(copy);
			if (r < 0)
				break; /* the connection would be over */
		}
		nghttp2_hd_inflate_del(in);
	}
	assert_true(pure_seen > 300 && impure_seen > 300 && mutated_pure > 50);
}

/* Every prefix of a valid block either decodes or is refused; nothing reads past the end, and a fresh decoder agrees with the oracle. */
static void test_truncation_and_garbage(void **state)
{
	uint64_t seed = 77;

	for (int round = 0; round < 150; round++) {
		uint8_t block[4096];
		bool impure;
		size_t n = make_block(&seed, block, &impure);

		if (round % 3 == 0) {
			n = random_below(&seed, 60);
			for (size_t i = 0; i < n; i++)
				block[i] = (uint8_t)random_next(&seed);
		}
		for (size_t cut = 0; cut <= n && cut < 300; cut++) {
			struct hpack_decoder *d = hpack_decoder_new(4096);
			struct fields f = {.n = 0};
			nghttp2_hd_inflater *in;
			uint8_t *copy = exact_copy(block, cut);

			assert_int_equal(nghttp2_hd_inflate_new(&in), 0);
			int r = hpack_decode(d, copy, cut, fields_add, &f);
			assert_int_equal(r, oracle_decode(in, copy, cut) < 0 ? -EBADMSG : 0);
			if (r == 0 && hpack_generation(d) == 0)
				assert_true(hpack_block_is_pure(copy, cut));
			assert_true(f.count <= cut);
			nghttp2_hd_inflate_del(in);
			hpack_decoder_free(d);
			free(copy);
		}
	}
}

struct result {
	uint32_t id;
	char text[20];
};

/* A pure block of n bytes: indexed fields only. */
static void pure_block(uint8_t *out, size_t n, unsigned variant)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)(0x81 + (i * 7 + variant) % 60);
}

static void test_memo_finds_what_was_put(void **state)
{
	struct hpack_memo *m = hpack_memo_new(sizeof(struct result));
	uint8_t block[HPACK_MEMO_ENTRIES + 1][30];
	struct result r;
	const struct result *hit;

	for (unsigned i = 0; i <= HPACK_MEMO_ENTRIES; i++)
		pure_block(block[i], sizeof block[i], i);
	assert_null(hpack_memo_find(m, 0, block[0], 30));
	for (unsigned i = 0; i < HPACK_MEMO_ENTRIES; i++) {
		r = (struct result){i, "result"};
		assert_true(hpack_memo_put(m, 7, block[i], 30, &r));
	}
	for (unsigned i = 0; i < 3 * HPACK_MEMO_ENTRIES; i++) {
		unsigned k = i * 3 % HPACK_MEMO_ENTRIES;
		hit = hpack_memo_find(m, 7, block[k], 30);
		assert_non_null(hit);
		assert_int_equal(hit->id, k);
		assert_string_equal(hit->text, "result");
		assert_int_equal((uintptr_t)hit % 16, 0);
	}
	assert_null(hpack_memo_find(m, 8, block[0], 30)); /* another generation */
	assert_null(hpack_memo_find(m, 7, block[0], 29));
	assert_null(hpack_memo_find(m, 7, block[0], 0));
	assert_null(hpack_memo_find(m, 7, block[HPACK_MEMO_ENTRIES], 30));

	/* The one added longest ago goes. */
	r.id = 99;
	assert_true(hpack_memo_put(m, 7, block[HPACK_MEMO_ENTRIES], 30, &r));
	assert_null(hpack_memo_find(m, 7, block[0], 30));
	for (unsigned i = 1; i < HPACK_MEMO_ENTRIES; i++)
		assert_int_equal(((const struct result *)hpack_memo_find(m, 7, block[i], 30))->id, i);
	assert_int_equal(((const struct result *)hpack_memo_find(m, 7, block[HPACK_MEMO_ENTRIES], 30))->id, 99);
	hpack_memo_free(m);
	hpack_memo_free(NULL);
}

static void test_memo_keeps_only_pure_short_blocks(void **state)
{
	struct hpack_memo *m = hpack_memo_new(sizeof(struct result));
	struct result r = {1, ""};
	uint8_t block[HPACK_MEMO_BLOCK + 1];
	static const uint8_t incremental[] = {0x41, 1, 'x'}, update[] = {0x20}, zero[] = {0x80};

	pure_block(block, sizeof block, 0);
	assert_false(hpack_memo_put(m, 0, block, HPACK_MEMO_BLOCK + 1, &r));
	assert_null(hpack_memo_find(m, 0, block, HPACK_MEMO_BLOCK + 1));
	assert_true(hpack_memo_put(m, 0, block, HPACK_MEMO_BLOCK, &r));
	assert_non_null(hpack_memo_find(m, 0, block, HPACK_MEMO_BLOCK));
	assert_false(hpack_memo_put(m, 0, block, 0, &r));
	assert_false(hpack_memo_put(m, 0, incremental, sizeof incremental, &r));
	assert_null(hpack_memo_find(m, 0, incremental, sizeof incremental));
	assert_false(hpack_memo_put(m, 0, update, sizeof update, &r));
	assert_false(hpack_memo_put(m, 0, zero, sizeof zero, &r));
	hpack_memo_free(m);
}

/* The comparison is by words that overlap: a difference in any bit of any byte of any length must show. */
static void test_memo_compares_every_byte(void **state)
{
	for (size_t n = 1; n <= HPACK_MEMO_BLOCK; n++) {
		struct hpack_memo *m = hpack_memo_new(sizeof(struct result));
		struct result r = {(uint32_t)n, ""};
		uint8_t block[HPACK_MEMO_BLOCK];

		pure_block(block, n, 5);
		assert_true(hpack_memo_put(m, 1, block, n, &r));
		uint8_t *copy = exact_copy(block, n);
		assert_non_null(hpack_memo_find(m, 1, copy, n));
		for (size_t bit = 0; bit < 8 * n; bit++) {
			copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_null(hpack_memo_find(m, 1, copy, n));
			copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		free(copy);
		hpack_memo_free(m);
	}
}

/* As a session uses both: whatever the order of blocks, a memo's answer is what decoding would have said. */
static void test_memo_never_lies(void **state)
{
	uint64_t seed = 4711;
	unsigned hits = 0;

	for (int round = 0; round < 60; round++) {
		struct hpack_decoder *d = hpack_decoder_new(4096), *plain = hpack_decoder_new(4096);
		struct hpack_memo *m = hpack_memo_new(sizeof(struct fields));
		uint8_t blocks[6][4096];
		size_t len[6];
		bool impure;

		for (int i = 0; i < 6; i++)
			len[i] = make_block(&seed, blocks[i], &impure);
		for (int i = 0; i < 60; i++) {
			unsigned k = random_below(&seed, 8) ? random_below(&seed, 3) : random_below(&seed, 6);
			static struct fields want, got;
			memset(&want, 0, sizeof want);
			memset(&got, 0, sizeof got);

			int r = hpack_decode(plain, blocks[k], len[k], fields_add, &want);
			const struct fields *hit = hpack_memo_find(m, hpack_generation(d), blocks[k], len[k]);
			if (hit) {
				hits++;
				assert_int_equal(r, 0);
				assert_string_equal(hit->text, want.text);
				continue;
			}
			assert_int_equal(hpack_decode(d, blocks[k], len[k], fields_add, &got), r);
			if (r < 0)
				break;
			assert_string_equal(got.text, want.text);
			hpack_memo_put(m, hpack_generation(d), blocks[k], len[k], &got);
		}
		hpack_memo_free(m);
		hpack_decoder_free(plain);
		hpack_decoder_free(d);
	}
	assert_true(hits > 50);
}

static void test_encode_round_trip(void **state)
{
	struct hpack_decoder *d = hpack_decoder_new(4096);
	struct fields f = {.n = 0};
	static uint8_t out[2048];
	char longer[400];
	size_t n = 0;

	memset(longer, 'v', sizeof longer);
	n += hpack_put_indexed(out + n, sizeof out - n, 8);
	n += hpack_put_literal_indexed_name(out + n, sizeof out - n, 31, SPAN_LIT("application/grpc"));
	n += hpack_put_literal(out + n, sizeof out - n, SPAN_LIT("grpc-status"), SPAN_LIT("0"));
	n += hpack_put_literal(out + n, sizeof out - n, SPAN_LIT("e"), (struct span){NULL, 0});
	n += hpack_put_literal(out + n, sizeof out - n, SPAN_LIT("long"),
			       (struct span){(uint8_t *)longer, sizeof longer});
	assert_true(hpack_block_is_pure(out, n));
	assert_int_equal(hpack_decode(d, out, n, fields_add, &f), 0);
	assert_int_equal(hpack_generation(d), 0);
	assert_int_equal(
		strncmp(f.text, ":status: 200\ncontent-type: application/grpc\ngrpc-status: 0\ne: \nlong: vvv", 72), 0);
	assert_int_equal(f.count, 5);

	/* Into the table, and out of it by index. */
	n = hpack_put_incremental(out, sizeof out, SPAN_LIT(":path"), SPAN_LIT("/ordinal.v1.Ids/Next"));
	assert_false(hpack_block_is_pure(out, n));
	f = (struct fields){.n = 0};
	assert_int_equal(hpack_decode(d, out, n, fields_add, &f), 0);
	n = hpack_put_indexed(out, sizeof out, 62);
	assert_int_equal(hpack_decode(d, out, n, fields_add, &f), 0);
	assert_string_equal(f.text, ":path: /ordinal.v1.Ids/Next\n:path: /ordinal.v1.Ids/Next\n");

	/* Prefixes that overflow. */
	assert_int_equal(hpack_put_indexed(out, sizeof out, 126), 1);
	assert_int_equal(hpack_put_indexed(out, sizeof out, 127), 2);
	assert_memory_equal(out, "\xff\x00", 2);
	assert_int_equal(hpack_put_indexed(out, sizeof out, 127 + 1337), 3);
	assert_memory_equal(out, "\xff\xb9\x0a", 3);
	hpack_decoder_free(d);
}

static void test_encode_respects_capacity(void **state)
{
	static const struct span name = {(const uint8_t *)"some-name", 9};
	char longer[300];
	struct span value = {(const uint8_t *)longer, sizeof longer};
	uint8_t out[400];

	memset(longer, 'v', sizeof longer);
	for (int which = 0; which < 4; which++) {
		size_t full = 0;
		for (size_t cap = sizeof out; cap-- > 0;) {
			size_t n = 0;
			memset(out, 0xee, sizeof out);
			switch (which) {
			case 0:
				n = hpack_put_indexed(out, cap, 200);
				break;
			case 1:
				n = hpack_put_literal(out, cap, name, value);
				break;
			case 2:
				n = hpack_put_literal_indexed_name(out, cap, 31, value);
				break;
			case 3:
				n = hpack_put_incremental(out, cap, name, value);
				break;
			}
			if (full == 0)
				full = n;
			assert_int_equal(n, cap >= full ? full : 0);
			for (size_t i = cap; i < sizeof out; i++)
				assert_int_equal(out[i], 0xee);
		}
		assert_true(full > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rfc7541_requests),
		cmocka_unit_test(test_generation_advances_with_impure_and_failed_blocks_only),
		cmocka_unit_test(test_decode_malformed),
		cmocka_unit_test(test_refusal_keeps_the_state),
		cmocka_unit_test(test_larger_table),
		cmocka_unit_test(test_purity_of_each_representation),
		cmocka_unit_test(test_purity_against_nghttp2),
		cmocka_unit_test(test_truncation_and_garbage),
		cmocka_unit_test(test_memo_finds_what_was_put),
		cmocka_unit_test(test_memo_keeps_only_pure_short_blocks),
		cmocka_unit_test(test_memo_compares_every_byte),
		cmocka_unit_test(test_memo_never_lies),
		cmocka_unit_test(test_encode_round_trip),
		cmocka_unit_test(test_encode_respects_capacity),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
