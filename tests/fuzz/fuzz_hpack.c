/* Header blocks of one connection, each after two bytes of length (little-endian, cut to what is left).
 *
 * Holds: the decoder says what nghttp2's inflater says; a block that leaves the generation as it was leaves the table as it was; a hit of
 * the memo is what decoding yields; what the encoder writes decodes to what it was given. */
#include "rpc/wire/hpack.h"

#include "core/base/check.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Order matters, and so do boundaries. */
struct digest {
	uint64_t h;
	uint32_t fields;
};

static void digest_bytes(struct digest *d, const uint8_t *p, size_t n)
{
	d->h = (d->h ^ n) * 1099511628211u;
	for (size_t i = 0; i < n; i++)
		d->h = (d->h ^ p[i]) * 1099511628211u;
}

static int digest_field(void *ctx, struct span name, struct span value)
{
	struct digest *d = ctx;
	digest_bytes(d, name.p, name.n);
	digest_bytes(d, value.p, value.n);
	d->fields++;
	return 0;
}

static uint64_t table_digest(nghttp2_hd_inflater *in)
{
	struct digest d = {0, 0};
	size_t entries = nghttp2_hd_inflate_get_num_table_entries(in);

	d.h = nghttp2_hd_inflate_get_dynamic_table_size(in) << 32 ^ nghttp2_hd_inflate_get_max_dynamic_table_size(in);
	for (size_t i = 62; i <= entries; i++) {
		const nghttp2_nv *nv = nghttp2_hd_inflate_get_table_entry(in, i);
		digest_bytes(&d, nv->name, nv->namelen);
		digest_bytes(&d, nv->value, nv->valuelen);
	}
	return d.h ^ entries;
}

static int oracle_decode(nghttp2_hd_inflater *in, const uint8_t *p, size_t n, struct digest *d)
{
	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t used = nghttp2_hd_inflate_hd2(in, &nv, &flags, p, n, 1);
		if (used < 0)
			return -1;
		p += used;
		n -= (size_t)used;
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			digest_field(d, (struct span){nv.name, nv.namelen}, (struct span){nv.value, nv.valuelen});
		if (flags & NGHTTP2_HD_INFLATE_FINAL) {
			nghttp2_hd_inflate_end_headers(in);
			return 0;
		}
	}
}

static void round_trip(const uint8_t *data, size_t size)
{
	struct span name = {data, size / 3}, value = {data + size / 3, size - size / 3};
	struct digest want = {0, 0}, got = {0, 0};
	struct hpack_decoder *d = hpack_decoder_new(4096);
	size_t cap = size + 16, n, k;
	uint8_t *out = malloc(2 * cap);

	CHECK(d && out);
	n = hpack_put_literal(out, cap, name, value);
	CHECK(n > 0 && hpack_block_is_pure(out, n));
	k = hpack_put_incremental(out + n, cap, name, value);
	CHECK(k > 0 && !hpack_block_is_pure(out, n + k));
	CHECK(hpack_put_literal(out, n - 1, name, value) == 0);
	n = hpack_put_literal(out, cap, name, value);
	digest_field(&want, name, value);
	digest_field(&want, name, value);
	CHECK(hpack_decode(d, out, n + k, digest_field, &got) == 0);
	CHECK(got.h == want.h && got.fields == 2);
	free(out);
	hpack_decoder_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hpack_decoder *d = hpack_decoder_new(4096);
	struct hpack_memo *m = hpack_memo_new(sizeof(struct digest));
	nghttp2_hd_inflater *oracle;

	CHECK(d && m && nghttp2_hd_inflate_new(&oracle) == 0);
	if (size < 4096)
		round_trip(data, size);
	while (size >= 2) {
		size_t n = load_le16(data);
		struct digest want = {0, 0}, got = {0, 0};

		data += 2;
		size -= 2;
		if (n > size)
			n = size;
		uint64_t before = table_digest(oracle);
		uint32_t generation = hpack_generation(d);
		const struct digest *hit = hpack_memo_find(m, generation, data, n);
		int w = oracle_decode(oracle, data, n, &want);
		int r = hpack_decode(d, data, n, digest_field, &got);

		CHECK((r < 0) == (w < 0));
		CHECK(got.h == want.h && got.fields == want.fields && got.fields <= n);
		CHECK(!hit || (r == 0 && hit->h == want.h && hit->fields == want.fields));
		if (r < 0) {
			CHECK(hpack_generation(d) != generation);
			break;
		}
		CHECK(hpack_generation(d) != generation || table_digest(oracle) == before);
		hpack_memo_put(m, hpack_generation(d), data, n, &got);
		data += n;
		size -= n;
	}
	nghttp2_hd_inflate_del(oracle);
	hpack_memo_free(m);
	hpack_decoder_free(d);
	return 0;
}
