/* Protobuf's wire format: primitives, and the two messages of the hottest path. Pure; any thread.
 *
 * What is accepted, where the specification leaves room: a tag or a length is a varint of at most 5 bytes, a value one of at most 10 (bits
 * above the 64th are dropped, and above the 32nd for 32-bit fields); field numbers are 1 to 2^29-1; a group, which only
 * proto2 has, is an unknown field and is passed over as a whole; a known field
 * with another wire type is an unknown field, as in Google's parsers (protobuf-c refuses it: the one place where the two differ on
 * messages that a sane encoder could send).
 *
 * Nothing is copied or allocated: spans point into the message. */
#include "rpc/wire/pb.h"

#include "core/base/check.h"

#include <errno.h>

#define TAG_MAX 5
#define LENGTH_MAX 5
#define FIELD_NUMBER_MAX 0x1fffffffu

enum wire { WIRE_VARINT, WIRE_I64, WIRE_LEN, WIRE_SGROUP, WIRE_EGROUP, WIRE_I32 };

/* A varint of at most `max` bytes. */
static inline int varint_get(const uint8_t **p, const uint8_t *end, unsigned max, uint64_t *ret)
{
	const uint8_t *at = *p;
	uint64_t v = 0;

	if (likely(at != end && *at < 0x80)) {
		*ret = *at;
		*p = at + 1;
		return 0;
	}
	for (unsigned i = 0; i < max && at != end; i++) {
		uint8_t b = *at++;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (b < 0x80) {
			*ret = v;
			*p = at;
			return 0;
		}
	}
	return -EBADMSG;
}

int pb_get_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	return varint_get(p, end, PB_VARINT_MAX, ret);
}

static inline int bytes_get(const uint8_t **p, const uint8_t *end, struct span *ret)
{
	const uint8_t *at = *p;
	uint64_t n;

	if (varint_get(&at, end, LENGTH_MAX, &n) < 0 || n > (uint64_t)(end - at))
		return -EBADMSG;
	*ret = (struct span){at, (size_t)n};
	*p = at + n;
	return 0;
}

/* Moves *p, which is just behind the start tag of group `number`, past its end tag. Groups in it are passed over too. */
static int group_skip(const uint8_t **p, const uint8_t *end, uint32_t number)
{
	uint32_t open[PB_GROUP_DEPTH];
	unsigned depth = 0;
	const uint8_t *at = *p;

	open[depth++] = number;
	while (depth > 0) {
		uint64_t tag, value;
		struct span bytes;
		int err = 0;

		if (varint_get(&at, end, TAG_MAX, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > FIELD_NUMBER_MAX)
			return -EBADMSG;
		switch (tag & 7) {
		case WIRE_VARINT:
			err = varint_get(&at, end, PB_VARINT_MAX, &value);
			break;
		case WIRE_LEN:
			err = bytes_get(&at, end, &bytes);
			break;
		case WIRE_I64:
		case WIRE_I32:
			err = end - at < ((tag & 7) == WIRE_I64 ? 8 : 4) ? -EBADMSG : 0;
			if (err == 0)
				at += (tag & 7) == WIRE_I64 ? 8 : 4;
			break;
		case WIRE_SGROUP:
			if (depth == PB_GROUP_DEPTH)
				return -EBADMSG;
			open[depth++] = (uint32_t)(tag >> 3);
			break;
		case WIRE_EGROUP:
			err = open[--depth] != tag >> 3 ? -EBADMSG : 0;
			break;
		default:
			err = -EBADMSG;
		}
		if (err < 0)
			return err;
	}
	*p = at;
	return 0;
}

int pb_get_field(const uint8_t **p, const uint8_t *end, uint32_t *ret_number, unsigned *ret_wire, uint64_t *ret_value,
		 struct span *ret_bytes)
{
	const uint8_t *at = *p;
	uint64_t tag, value = 0;
	struct span bytes = {at, 0};

	if (varint_get(&at, end, TAG_MAX, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > FIELD_NUMBER_MAX)
		return -EBADMSG;
	switch (tag & 7) {
	case WIRE_VARINT:
		if (varint_get(&at, end, PB_VARINT_MAX, &value) < 0)
			return -EBADMSG;
		break;
	case WIRE_I64:
		if (end - at < 8)
			return -EBADMSG;
		value = load_le64(at);
		at += 8;
		break;
	case WIRE_LEN:
		if (bytes_get(&at, end, &bytes) < 0)
			return -EBADMSG;
		break;
	case WIRE_I32:
		if (end - at < 4)
			return -EBADMSG;
		value = load_le32(at);
		at += 4;
		break;
	case WIRE_SGROUP:
		bytes.p = at;
		if (group_skip(&at, end, (uint32_t)(tag >> 3)) < 0)
			return -EBADMSG;
		bytes.n = (size_t)(at - bytes.p);
		break;
	default:
		return -EBADMSG;
	}
	*ret_number = (uint32_t)(tag >> 3);
	*ret_wire = (unsigned)(tag & 7);
	*ret_value = value;
	*ret_bytes = bytes;
	*p = at;
	return 0;
}

/* Length of the well-formed character that begins with the byte at p, which is not ASCII; 0 if there is none (RFC 3629 section 4). */
static size_t utf8_character(const uint8_t *p, size_t n)
{
	uint8_t c = p[0], low = 0x80, high = 0xbf;
	size_t len;

	if (c >= 0xc2 && c <= 0xdf) {
		len = 2;
	} else if (c >= 0xe0 && c <= 0xef) {
		len = 3;
		if (c == 0xe0)
			low = 0xa0;
		else if (c == 0xed)
			high = 0x9f;
	} else if (c >= 0xf0 && c <= 0xf4) {
		len = 4;
		if (c == 0xf0)
			low = 0x90;
		else if (c == 0xf4)
			high = 0x8f;
	} else {
		return 0;
	}
	if (n < len || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

#define HIGH_BITS UINT64_C(0x8080808080808080)

static inline bool span_is_ascii(struct span s)
{
	uint64_t bits = 0;

	if (s.n >= 8) {
		for (size_t i = 0; i + 8 < s.n; i += 8)
			bits |= load_le64(s.p + i);
		bits |= load_le64(s.p + s.n - 8);
	} else {
		for (size_t i = 0; i < s.n; i++)
			bits |= s.p[i];
	}
	return (bits & HIGH_BITS) == 0;
}

bool pb_is_utf8(struct span s)
{
	size_t i = 0;

	if (likely(span_is_ascii(s)))
		return true;
	while (i < s.n) {
		if (s.p[i] < 0x80) {
			i++;
			continue;
		}
		size_t len = utf8_character(s.p + i, s.n - i);
		if (len == 0)
			return false;
		i += len;
	}
	return true;
}

/* The tags that are expected: field number << 3 | wire type. */
#define REQUEST_SEQUENCE 0x0a
#define REQUEST_COUNT 0x10
#define REPLY_FIRST 0x08
#define REPLY_COUNT 0x10
#define REPLY_ORDER 0x18
#define REPLY_INCARNATION 0x21

/* A field whose tag is not the one-byte tag of a known field: unknown, or known by a tag that is longer than need be. */
static __attribute__((noinline)) int request_field_slow(const uint8_t **p, const uint8_t *end,
							struct pb_next_request *r)
{
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span bytes;

	if (pb_get_field(p, end, &number, &wire, &value, &bytes) < 0)
		return -EBADMSG;
	if (number == 1 && wire == WIRE_LEN) {
		if (!pb_is_utf8(bytes))
			return -EBADMSG;
		r->sequence = bytes;
	} else if (number == 2 && wire == WIRE_VARINT) {
		r->count = (uint32_t)value;
	}
	return 0;
}

int pb_next_request_get(struct span msg, struct pb_next_request *ret)
{
	struct pb_next_request r = {{msg.p, 0}, 0};
	const uint8_t *p = msg.p, *end = msg.n ? p + msg.n : p; /* an empty message may have no address */

	while (p != end) {
		uint64_t count;

		if (*p == REQUEST_COUNT) {
			p++;
			if (unlikely(varint_get(&p, end, PB_VARINT_MAX, &count) < 0))
				return -EBADMSG;
			r.count = (uint32_t)count;
		} else if (*p == REQUEST_SEQUENCE) {
			p++;
			if (unlikely(bytes_get(&p, end, &r.sequence) < 0 || !pb_is_utf8(r.sequence)))
				return -EBADMSG;
		} else if (request_field_slow(&p, end, &r) < 0) {
			return -EBADMSG;
		}
	}
	*ret = r;
	return 0;
}

size_t pb_next_request_put(uint8_t *out, size_t cap, struct span sequence, uint32_t count)
{
	size_t n = 0;

	DCHECK(cap >= sequence.n + 2 * PB_VARINT_MAX);
	if (sequence.n) {
		out[n++] = REQUEST_SEQUENCE;
		n += pb_put_varint(out + n, sequence.n);
		memcpy(out + n, sequence.p, sequence.n);
		n += sequence.n;
	}
	if (count) {
		out[n++] = REQUEST_COUNT;
		n += pb_put_varint(out + n, count);
	}
	return n;
}

size_t pb_next_reply_put(uint8_t *out, const struct pb_next_reply *r)
{
	size_t n = 0;

	if (likely(r->first)) {
		out[n++] = REPLY_FIRST;
		n += pb_put_varint(out + n, r->first);
	}
	if (likely(r->count)) {
		out[n++] = REPLY_COUNT;
		n += pb_put_varint(out + n, r->count);
	}
	if (r->order) {
		out[n++] = REPLY_ORDER;
		n += pb_put_varint(out + n, r->order);
	}
	if (likely(r->incarnation)) {
		out[n++] = REPLY_INCARNATION;
		store_le64(out + n, r->incarnation);
		n += 8;
	}
	return n;
}

static __attribute__((noinline)) int reply_field_slow(const uint8_t **p, const uint8_t *end, struct pb_next_reply *r)
{
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span bytes;

	if (pb_get_field(p, end, &number, &wire, &value, &bytes) < 0)
		return -EBADMSG;
	if (wire == WIRE_I64 && number == 4)
		r->incarnation = value;
	if (wire != WIRE_VARINT)
		return 0;
	if (number == 1)
		r->first = value;
	else if (number == 2)
		r->count = (uint32_t)value;
	else if (number == 3)
		r->order = (uint32_t)value;
	return 0;
}

int pb_next_reply_get(struct span msg, struct pb_next_reply *ret)
{
	struct pb_next_reply r = {0};
	const uint8_t *p = msg.p, *end = msg.n ? p + msg.n : p; /* an empty message may have no address */

	while (p != end) {
		uint8_t tag = *p;
		uint64_t value;

		if (tag == REPLY_INCARNATION && end - p >= 9) {
			r.incarnation = load_le64(p + 1);
			p += 9;
			continue;
		}
		if (unlikely(tag != REPLY_FIRST && tag != REPLY_COUNT && tag != REPLY_ORDER)) {
			if (reply_field_slow(&p, end, &r) < 0)
				return -EBADMSG;
			continue;
		}
		p++;
		if (unlikely(varint_get(&p, end, PB_VARINT_MAX, &value) < 0))
			return -EBADMSG;
		if (tag == REPLY_FIRST)
			r.first = value;
		else if (tag == REPLY_COUNT)
			r.count = (uint32_t)value;
		else
			r.order = (uint32_t)value;
	}
	*ret = r;
	return 0;
}
