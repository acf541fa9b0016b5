/* Protobuf wire format (protobuf.dev/programming-guides/encoding): the varint and field primitives, and hand-kept codecs for the
 * messages on the hottest paths. Everything else goes through protobuf-c. Pure; any thread.
 *
 * The hot codecs accept exactly what a conforming parser accepts: fields in any order, repeated scalars (the last wins), unknown fields skipped
 * (groups as a whole), strings checked for UTF-8. A unit test holds them against protobuf-c. */
#ifndef ORDINAL_RPC_WIRE_PB_H
#define ORDINAL_RPC_WIRE_PB_H

#include "core/base/bytes.h"

#define PB_VARINT_MAX 10

/* Writes v; returns the bytes written (1 to 10). Room for PB_VARINT_MAX is needed. */
static inline size_t pb_put_varint(uint8_t *p, uint64_t v)
{
	size_t n = 0;
	while (v >= 0x80) {
		p[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8_t)v;
	return n;
}

/* Reads a varint at *p, below end, and moves *p past it. 0, or -EBADMSG: cut off or longer than 10 bytes. */
int pb_get_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret);

/* Reads a tag and the place of its value, and moves *p past the field. For wire type 2 `ret_bytes` is the content, for
 * PB_WIRE_GROUP the content and the end tag; for 0, 1 and 5 `ret_value` is the number. 0, or -EBADMSG: cut off, not
 * well-formed, or groups nested deeper than PB_GROUP_DEPTH. */
#define PB_WIRE_LEN 2u
#define PB_WIRE_GROUP 3u
#define PB_GROUP_DEPTH 32
int pb_get_field(const uint8_t **p, const uint8_t *end, uint32_t *ret_number, unsigned *ret_wire, uint64_t *ret_value,
		 struct span *ret_bytes);

/* Whether the bytes are well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool pb_is_utf8(struct span s);

struct pb_next_request {
	struct span sequence; /* into the message */
	uint32_t count;       /* as sent: 0 means 1 */
};
/* 0, or -EBADMSG: not a NextRequest. */
int pb_next_request_get(struct span msg, struct pb_next_request *ret);
struct pb_next_reply {
	uint64_t first;
	uint32_t count, order;
	uint64_t incarnation;
};
#define PB_NEXT_REPLY_MAX 32
/* Encodes a NextReply; returns its length, at most PB_NEXT_REPLY_MAX. Default values are left out.
 */
size_t pb_next_reply_put(uint8_t *out, const struct pb_next_reply *r);
int pb_next_reply_get(struct span msg, struct pb_next_reply *ret);
/* Encodes a NextRequest; returns its length. `cap` must be at least sequence.n + 2 * PB_VARINT_MAX. */
size_t pb_next_request_put(uint8_t *out, size_t cap, struct span sequence, uint32_t count);

#endif
