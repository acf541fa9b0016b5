/* Header blocks (RFC 7541): decoding is nghttp2's inflater; what we add is the one pass that picks the few fields we use, the
 * limits, and a memo of the last few blocks, because most blocks on a connection are byte for byte one of those before.
 *
 * The memo is sound because it only ever holds blocks that cannot change the decoder's state (indexed fields and literals
 * "without indexing" / "never indexed", no size update), keyed by their bytes and by a generation that advances whenever any other block
 * is decoded.
 *
 * One decoder a connection and direction; owner thread only. */
#ifndef ORDINAL_RPC_WIRE_HPACK_H
#define ORDINAL_RPC_WIRE_HPACK_H

#include "core/base/bytes.h"

/* One decoded field; bytes valid during the callback. Names are as sent (lower case is checked by the caller's rules). */
typedef int (*hpack_field_fn)(void *ctx, struct span name, struct span value);

struct hpack_decoder;

/* Bytes of a dynamic table before any SETTINGS_HEADER_TABLE_SIZE: RFC 9113 section 6.5.2. */
#define HPACK_TABLE_DEFAULT 4096u
/* A dynamic table size update to 0: RFC 7541 section 6.3. */
#define HPACK_TABLE_OFF 0x20u

/* `table_max`: SETTINGS_HEADER_TABLE_SIZE that we announced (4096). NULL without memory. Small: about 2 KiB before first use. */
struct hpack_decoder *hpack_decoder_new(uint32_t table_max);
void hpack_decoder_free(struct hpack_decoder *d);

/* Decodes one whole block (all fragments joined). 0; -EBADMSG: a COMPRESSION_ERROR; -ENOMEM; or the first non-zero value a callback returned
 * (the block is still decoded to its end, so that the state stays right; but -ECANCELED ends it at once, and the decoder is of no use any more). */
int hpack_decode(struct hpack_decoder *d, const uint8_t *block, size_t n, hpack_field_fn fn, void *ctx);

/* Whether the block, by its representations alone, leaves a decoder's state unchanged. False for a malformed one. */
bool hpack_block_is_pure(const uint8_t *block, size_t n);
/* Advances with every block decoded that was not pure. */
uint32_t hpack_generation(const struct hpack_decoder *d);

/* Memo of decoded results: `size` bytes of plain data (struct copied by value) per entry. HPACK_MEMO_ENTRIES entries, least recently added
 * is replaced; blocks above HPACK_MEMO_BLOCK bytes are not kept. Hit: pointer to the stored result. */
#define HPACK_MEMO_ENTRIES 4
#define HPACK_MEMO_BLOCK 96
struct hpack_memo;
struct hpack_memo *hpack_memo_new(size_t size);
void hpack_memo_free(struct hpack_memo *m);
/* Forgets all: what blocks mean has changed for another reason than blocks. */
void hpack_memo_clear(struct hpack_memo *m);
const void *hpack_memo_find(struct hpack_memo *m, uint32_t generation, const uint8_t *block, size_t n);
/* Only for pure blocks (checked: returns false and keeps nothing otherwise). */
bool hpack_memo_put(struct hpack_memo *m, uint32_t generation, const uint8_t *block, size_t n, const void *result);

/* Encoding without state: literals "without indexing" and static-table references only, Huffman never. Each appends to out (capacity checked: 0
 * when it does not fit) and returns the bytes written. */
size_t hpack_put_indexed(uint8_t *out, size_t cap, unsigned index);
size_t hpack_put_literal(uint8_t *out, size_t cap, struct span name, struct span value);
size_t hpack_put_literal_indexed_name(uint8_t *out, size_t cap, unsigned name_index, struct span value);
/* With incremental indexing: changes the peer's table; for clients, once per connection and field. */
size_t hpack_put_incremental(uint8_t *out, size_t cap, struct span name, struct span value);

#endif
