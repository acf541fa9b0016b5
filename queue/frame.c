/* Encoding and decoding of frames. Pure; any thread.
 *
 * What is decoded here is what frame_put has made, come back from memory or disk under a CRC; so the decoder takes that form and refuses the rest,
 * rather than being a protobuf parser. It never reads beyond the bytes it is given, whatever they are.
 */
#include "queue/frame.h"
#include "core/base/crc32c.h"

#include <errno.h>

#define TAG_SEQ_NO 0x08
#define TAG_PAYLOAD 0x12
#define TAG_TIMESTAMP 0x18
#define TAG_OFFSET 0x20
#define TAG_MARK 0x28
#define TAG_GAP_FROM 0x30
#define TAG_GAP_TO 0x38
#define TAG_PUBLISHER 0x42
#define TAG_PUBLISHER_SEQ 0x48
#define TAG_INCARNATION 0x51
#define TAG_CRC 0x7d

static size_t varint_size(uint64_t v)
{
	return (size_t)(63 - __builtin_clzll(v | 1)) / 7 + 1;
}

static uint8_t *varint_put(uint8_t *p, uint64_t v)
{
	while (v >= 0x80) {
		*p++ = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	*p++ = (uint8_t)v;
	return p;
}

static size_t number_size(uint64_t v)
{
	return v ? 1 + varint_size(v) : 0;
}

static size_t bytes_size(struct span s)
{
	return s.n ? 1 + varint_size(s.n) + s.n : 0;
}

static uint8_t *number_put(uint8_t *p, uint8_t tag, uint64_t v)
{
	if (v == 0)
		return p;
	*p++ = tag;
	return varint_put(p, v);
}

static uint8_t *bytes_put(uint8_t *p, uint8_t tag, struct span s)
{
	if (s.n == 0)
		return p;
	*p++ = tag;
	p = varint_put(p, s.n);
	memcpy(p, s.p, s.n);
	return p + s.n;
}

size_t frame_size(const struct frame *f)
{
	return FRAME_PREFIX + FRAME_CRC + number_size(f->seq_no) + bytes_size(f->payload) +
	       number_size((uint64_t)f->timestamp) + number_size(f->offset) + number_size((uint64_t)f->mark) +
	       number_size(f->gap_from) + number_size(f->gap_to) + bytes_size(f->publisher) +
	       number_size(f->publisher_seq) + (f->incarnation ? 9 : 0);
}

size_t frame_put(uint8_t *out, const struct frame *f)
{
	uint8_t *message = out + FRAME_PREFIX, *p = message;

	p = number_put(p, TAG_SEQ_NO, f->seq_no);
	p = bytes_put(p, TAG_PAYLOAD, f->payload);
	p = number_put(p, TAG_TIMESTAMP, (uint64_t)f->timestamp);
	p = number_put(p, TAG_OFFSET, f->offset);
	p = number_put(p, TAG_MARK, (uint64_t)f->mark);
	p = number_put(p, TAG_GAP_FROM, f->gap_from);
	p = number_put(p, TAG_GAP_TO, f->gap_to);
	p = bytes_put(p, TAG_PUBLISHER, f->publisher);
	p = number_put(p, TAG_PUBLISHER_SEQ, f->publisher_seq);
	if (f->incarnation != 0) {
		*p = TAG_INCARNATION;
		store_le64(p + 1, f->incarnation);
		p += 9;
	}
	uint32_t crc = crc32c(0, message, (size_t)(p - message));
	*p++ = TAG_CRC;
	store_le32(p, crc);
	p += 4;
	out[0] = 0;
	store_be32(out + 1, (uint32_t)(p - message));
	return (size_t)(p - out);
}

/* Reads a varint below end. False: cut off, or longer than 64 bits. */
static inline bool varint_get(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	const uint8_t *q = *p;
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && q < end; shift += 7) {
		uint8_t b = *q++;

		v |= (uint64_t)(b & 0x7f) << (shift & 63);
		if (b < 0x80) {
			*p = q;
			*ret = v;
			return shift < 63 || b < 2;
		}
	}
	return false;
}

/* The number behind `tag`, if that is what comes next; else it is left as it is. */
static inline bool number_get(const uint8_t **p, const uint8_t *end, uint8_t tag, uint64_t *ret)
{
	if (*p >= end || **p != tag)
		return true;
	++*p;
	return varint_get(p, end, ret);
}

static inline bool fixed64_get(const uint8_t **p, const uint8_t *end, uint8_t tag, uint64_t *ret)
{
	if (*p >= end || **p != tag)
		return true;
	if (end - *p < 9)
		return false;
	*ret = load_le64(*p + 1);
	*p += 9;
	return true;
}

static inline bool bytes_get(const uint8_t **p, const uint8_t *end, uint8_t tag, struct span *ret)
{
	uint64_t n;

	if (*p >= end || **p != tag)
		return true;
	++*p;
	if (!varint_get(p, end, &n) || n > (size_t)(end - *p))
		return false;
	*ret = (struct span){*p, (size_t)n};
	*p += n;
	return true;
}

/* The message inside of the frame's bytes, without its CRC field. */
static inline bool open_message(struct span wire, struct span *ret, size_t *ret_size)
{
	size_t size = frame_length(wire);

	if (size < FRAME_PREFIX + FRAME_CRC || wire.p[0] != 0 || wire.p[size - FRAME_CRC] != TAG_CRC)
		return false;
	*ret = (struct span){wire.p + FRAME_PREFIX, size - FRAME_PREFIX - FRAME_CRC};
	*ret_size = size;
	return true;
}

int frame_get(struct span wire, struct frame *ret, size_t *ret_size)
{
	struct frame f = {.seq_no = 0};
	uint64_t timestamp = 0, mark = 0;
	struct span message;
	size_t size;

	if (!open_message(wire, &message, &size))
		return -EBADMSG;
	const uint8_t *p = message.p, *end = p + message.n;
	if (!number_get(&p, end, TAG_SEQ_NO, &f.seq_no) || !bytes_get(&p, end, TAG_PAYLOAD, &f.payload) ||
	    !number_get(&p, end, TAG_TIMESTAMP, &timestamp) || !number_get(&p, end, TAG_OFFSET, &f.offset) ||
	    !number_get(&p, end, TAG_MARK, &mark) || !number_get(&p, end, TAG_GAP_FROM, &f.gap_from) ||
	    !number_get(&p, end, TAG_GAP_TO, &f.gap_to) || !bytes_get(&p, end, TAG_PUBLISHER, &f.publisher) ||
	    !number_get(&p, end, TAG_PUBLISHER_SEQ, &f.publisher_seq) ||
	    !fixed64_get(&p, end, TAG_INCARNATION, &f.incarnation) || p != end || mark > FRAME_RESUMED)
		return -EBADMSG;
	f.timestamp = (int64_t)timestamp;
	f.mark = (enum frame_mark)mark;
	*ret = f;
	*ret_size = size;
	return 0;
}

bool frame_key(struct span wire, uint64_t *ret_seq_no, int64_t *ret_timestamp, size_t *ret_size)
{
	uint64_t seq_no = 0, timestamp = 0;
	struct span message, payload;
	size_t size;

	if (!open_message(wire, &message, &size))
		return false;
	const uint8_t *p = message.p, *end = p + message.n;
	if (!number_get(&p, end, TAG_SEQ_NO, &seq_no) || !bytes_get(&p, end, TAG_PAYLOAD, &payload) ||
	    !number_get(&p, end, TAG_TIMESTAMP, &timestamp))
		return false;
	*ret_seq_no = seq_no;
	*ret_timestamp = (int64_t)timestamp;
	*ret_size = size;
	return true;
}

bool frame_is_whole(struct span wire)
{
	struct span message;
	size_t size;

	return open_message(wire, &message, &size) && size == wire.n &&
	       load_le32(wire.p + size - 4) == crc32c(0, message.p, message.n);
}
