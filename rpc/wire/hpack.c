/* Header blocks: decoding by nghttp2's inflater, a memo of decoded results, and an encoder without state.
 *
 * The decoder is a shell around nghttp2_hd_inflate_hd2 that adds a generation: a number that stays the same for as long as the
 * dynamic table does. hpack_block_is_pure tells by a walk over the representations of a block (RFC 7541 section 6) whether decoding it
 * can touch the table; every block of which that cannot be said for certain advances the generation, as does every block that fails.
 * So equal bytes under an equal generation have an equal meaning, which is all that the memo relies on.
 *
 *   1xxxxxxx  indexed field                         pure
 *   01xxxxxx  literal with incremental indexing     inserts into the table
 *   001xxxxx  dynamic table size update             may evict from the table
 *   0001xxxx  literal never indexed                 pure
 *   0000xxxx  literal without indexing              pure
 *
 * A pure block may still fail to decode, or name entries of the table: its result is a function of bytes and generation all the same.
 *
 * Work: each byte of a block yields at most one field, strings are not copied beyond nghttp2's Huffman buffers (65,536 bytes a
 * string at the most), and after a callback's refusal no more callbacks are made. The length of a block is the caller's bound.
 *
 * Memory: the inflater (about 2 KiB and the table) is made by the first block, so a connection that only waits has none.
 *
 * Owner thread only. Limits on fields, names and sizes are left to the callback. */
#include "rpc/wire/hpack.h"

#include "core/base/check.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>

/* Above any index that a table of ours can have (61 static entries, and 32 bytes an entry at the least): not worth a memo. */
#define INDEX_PLAUSIBLE 4096u
#define STRING_PLAUSIBLE 65536u

struct hpack_decoder {
	nghttp2_hd_inflater *inflater; /* NULL before the first block */
	uint32_t table_max;
	uint32_t generation;
};

struct hpack_decoder *hpack_decoder_new(uint32_t table_max)
{
	struct hpack_decoder *d = calloc(1, sizeof *d);
	if (d)
		d->table_max = table_max;
	return d;
}

void hpack_decoder_free(struct hpack_decoder *d)
{
	if (!d)
		return;
	if (d->inflater)
		nghttp2_hd_inflate_del(d->inflater);
	free(d);
}

uint32_t hpack_generation(const struct hpack_decoder *d)
{
	return d->generation;
}

static int decoder_prepare(struct hpack_decoder *d)
{
	nghttp2_hd_inflater *inflater;

	if (nghttp2_hd_inflate_new(&inflater) != 0)
		return -ENOMEM;
	/* The inflater begins with RFC 7541's default. A smaller table than that obliges the peer to begin with a size update. */
	if (d->table_max != NGHTTP2_DEFAULT_HEADER_TABLE_SIZE &&
	    nghttp2_hd_inflate_change_table_size(inflater, d->table_max) != 0) {
		nghttp2_hd_inflate_del(inflater);
		return -ENOMEM;
	}
	d->inflater = inflater;
	return 0;
}

int hpack_decode(struct hpack_decoder *d, const uint8_t *block, size_t n, hpack_field_fn fn, void *ctx)
{
	int refused = 0;

	if (n == 0)
		block = (const uint8_t *)""; /* may be NULL, which no arithmetic is defined on */
	if (unlikely(!d->inflater)) {
		int r = decoder_prepare(d);
		if (r < 0)
			return r;
	}
	if (!hpack_block_is_pure(block, n))
		d->generation++;

	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t used = nghttp2_hd_inflate_hd2(d->inflater, &nv, &flags, block, n, 1);

		if (unlikely(used < 0)) {
			d->generation++; /* the inflater refuses everything from now on */
			return used == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EBADMSG;
		}
		block += used;
		n -= (size_t)used;
		if (flags & NGHTTP2_HD_INFLATE_EMIT) {
			if (!refused)
				refused = fn(ctx, (struct span){nv.name, nv.namelen},
					     (struct span){nv.value, nv.valuelen});
			if (unlikely(refused == -ECANCELED))
				return refused;
		} else if (flags & NGHTTP2_HD_INFLATE_FINAL) {
			nghttp2_hd_inflate_end_headers(d->inflater);
			return refused;
		} else if (used == 0) {
			return -EBADMSG; /* no progress: cannot be, and must not become a loop */
		}
	}
}

/* Integer with a prefix of `bits` bits (section 5.1) at *p, below end. False when it is cut off or above 2^28. */
static bool walk_int(const uint8_t **p, const uint8_t *end, unsigned bits, uint32_t *ret)
{
	const uint32_t full = (1u << bits) - 1;
	uint32_t v = *(*p)++ & full;

	if (v == full) {
		for (unsigned shift = 0;; shift += 7) {
			if (*p == end || shift > 21)
				return false;
			uint8_t b = *(*p)++;
			v += (uint32_t)(b & 0x7f) << shift;
			if (!(b & 0x80))
				break;
		}
	}
	*ret = v;
	return true;
}

static bool walk_string(const uint8_t **p, const uint8_t *end)
{
	uint32_t len;

	if (*p == end || !walk_int(p, end, 7, &len) || len > STRING_PLAUSIBLE || len > (size_t)(end - *p))
		return false;
	*p += len;
	return true;
}

bool hpack_block_is_pure(const uint8_t *block, size_t n)
{
	const uint8_t *p = block, *end = n ? block + n : block;

	while (p != end) {
		uint8_t first = *p;
		uint32_t index;

		if (first & 0x80) {
			if (!walk_int(&p, end, 7, &index) || index == 0 || index > INDEX_PLAUSIBLE)
				return false;
			continue;
		}
		if (first & 0x60)
			return false;
		if (!walk_int(&p, end, 4, &index) || index > INDEX_PLAUSIBLE)
			return false;
		if (index == 0 && !walk_string(&p, end))
			return false;
		if (!walk_string(&p, end))
			return false;
	}
	return true;
}

/* The memo. An entry's key is its generation and its length in one word, and its bytes. No entry has length 0, so a key of 0 is empty. */
struct memo_entry {
	uint64_t key;
	uint8_t block[HPACK_MEMO_BLOCK];
};

struct hpack_memo {
	size_t size;
	uint32_t hit;  /* the entry that was hit last: looked at first */
	uint32_t next; /* the entry added longest ago: replaced next */
	struct memo_entry entry[HPACK_MEMO_ENTRIES];
	_Alignas(16) uint8_t results[]; /* HPACK_MEMO_ENTRIES times `size` rounded up to 16 */
};

static inline size_t memo_stride(size_t size)
{
	return (size + 15) & ~(size_t)15;
}

static inline uint64_t memo_key(uint32_t generation, size_t n)
{
	return (uint64_t)generation << 32 | n;
}

struct hpack_memo *hpack_memo_new(size_t size)
{
	struct hpack_memo *m = calloc(1, sizeof *m + HPACK_MEMO_ENTRIES * memo_stride(size));
	if (m)
		m->size = size;
	return m;
}

void hpack_memo_free(struct hpack_memo *m)
{
	free(m);
}

void hpack_memo_clear(struct hpack_memo *m)
{
	for (unsigned i = 0; i < HPACK_MEMO_ENTRIES; i++)
		m->entry[i].key = 0;
}

/* Both at least n bytes, n from 1 to HPACK_MEMO_BLOCK. Whole words, then the last word again, overlapping. */
static inline bool bytes_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint64_t diff = 0;

	if (likely(n >= 8)) {
		for (size_t i = 0; i + 8 < n; i += 8)
			diff |= load_le64(a + i) ^ load_le64(b + i);
		return (diff | (load_le64(a + n - 8) ^ load_le64(b + n - 8))) == 0;
	}
	if (n >= 4)
		return ((load_le32(a) ^ load_le32(b)) | (load_le32(a + n - 4) ^ load_le32(b + n - 4))) == 0;
	return a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1];
}

const void *hpack_memo_find(struct hpack_memo *m, uint32_t generation, const uint8_t *block, size_t n)
{
	if (unlikely(n == 0 || n > HPACK_MEMO_BLOCK))
		return NULL;

	const uint64_t key = memo_key(generation, n);
	const size_t stride = memo_stride(m->size);
	uint32_t i = m->hit;

	for (unsigned tries = 0; tries < HPACK_MEMO_ENTRIES; tries++) {
		const struct memo_entry *e = &m->entry[i];
		if (likely(e->key == key) && likely(bytes_equal(e->block, block, n))) {
			m->hit = i;
			return m->results + i * stride;
		}
		i = (i + 1) % HPACK_MEMO_ENTRIES;
	}
	return NULL;
}

bool hpack_memo_put(struct hpack_memo *m, uint32_t generation, const uint8_t *block, size_t n, const void *result)
{
	if (n == 0 || n > HPACK_MEMO_BLOCK || !hpack_block_is_pure(block, n))
		return false;

	uint32_t i = m->next;
	m->entry[i].key = memo_key(generation, n);
	memcpy(m->entry[i].block, block, n);
	memcpy(m->results + i * memo_stride(m->size), result, m->size);
	m->hit = i;
	m->next = (i + 1) % HPACK_MEMO_ENTRIES;
	return true;
}

/* The encoder. An integer of 32 bits takes the prefix byte and at most 5 more. */
static size_t put_int(uint8_t *out, size_t cap, uint8_t pattern, unsigned bits, size_t v)
{
	const size_t full = ((size_t)1 << bits) - 1;
	size_t n = 0;

	if (cap == 0)
		return 0;
	if (v < full) {
		out[0] = (uint8_t)(pattern | v);
		return 1;
	}
	out[n++] = (uint8_t)(pattern | full);
	for (v -= full; v >= 0x80; v >>= 7) {
		if (n == cap)
			return 0;
		out[n++] = (uint8_t)(v | 0x80);
	}
	if (n == cap)
		return 0;
	out[n++] = (uint8_t)v;
	return n;
}

static size_t put_string(uint8_t *out, size_t cap, struct span s)
{
	size_t n = put_int(out, cap, 0, 7, s.n);

	if (n == 0 || s.n > cap - n)
		return 0;
	if (s.n)
		memcpy(out + n, s.p, s.n);
	return n + s.n;
}

static size_t put_named(uint8_t *out, size_t cap, uint8_t pattern, struct span name, struct span value)
{
	if (cap == 0)
		return 0;
	out[0] = pattern;
	size_t a = put_string(out + 1, cap - 1, name);
	if (a == 0)
		return 0;
	size_t b = put_string(out + 1 + a, cap - 1 - a, value);
	return b ? 1 + a + b : 0;
}

size_t hpack_put_indexed(uint8_t *out, size_t cap, unsigned index)
{
	return put_int(out, cap, 0x80, 7, index);
}

size_t hpack_put_literal(uint8_t *out, size_t cap, struct span name, struct span value)
{
	return put_named(out, cap, 0x00, name, value);
}

size_t hpack_put_literal_indexed_name(uint8_t *out, size_t cap, unsigned name_index, struct span value)
{
	size_t a = put_int(out, cap, 0x00, 4, name_index);
	if (a == 0)
		return 0;
	size_t b = put_string(out + a, cap - a, value);
	return b ? a + b : 0;
}

size_t hpack_put_incremental(uint8_t *out, size_t cap, struct span name, struct span value)
{
	return put_named(out, cap, 0x40, name, value);
}
