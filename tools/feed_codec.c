/* Encoding and decoding of Feed's messages, on the primitives of rpc/wire/pb.h. A repeated scalar's last value wins, as in every protobuf
 * parser; a field with another wire type than its own is skipped like an unknown one. Pure. */
#include "tools/feed_codec.h"

#include "core/base/crc32c.h"
#include "rpc/wire/pb.h"

#include <errno.h>

enum { WIRE_VARINT = 0, WIRE_I64 = 1, WIRE_BYTES = 2 };

const char *feed_durability_name(unsigned durability)
{
	static const char *const names[] = {"fsync", "write", "memory"};
	return durability < ARRAY_SIZE(names) ? names[durability] : "unknown";
}

const char *feed_mark_name(unsigned mark)
{
	static const char *const names[] = {"NONE", "CAUGHT_UP", "GAP", "GOING_AWAY", "RESUMED"};
	return mark < ARRAY_SIZE(names) ? names[mark] : "UNKNOWN";
}

/* Default values are left out. */
static size_t put_number(uint8_t *out, unsigned field, uint64_t v)
{
	if (v == 0)
		return 0;
	out[0] = (uint8_t)(field << 3 | WIRE_VARINT);
	return 1 + pb_put_varint(out + 1, v);
}

static size_t put_fixed64(uint8_t *out, unsigned field, uint64_t v)
{
	if (v == 0)
		return 0;
	out[0] = (uint8_t)(field << 3 | WIRE_I64);
	store_le64(out + 1, v);
	return 9;
}

static size_t put_bytes(uint8_t *out, unsigned field, struct span s)
{
	if (s.n == 0)
		return 0;
	out[0] = (uint8_t)(field << 3 | WIRE_BYTES);
	size_t n = 1 + pb_put_varint(out + 1, s.n);
	memcpy(out + n, s.p, s.n);
	return n + s.n;
}

size_t feed_publish_put(uint8_t *out, const struct feed_publish *p)
{
	size_t n = put_bytes(out, 1, p->stream);
	n += put_number(out + n, 2, p->seq_no);
	n += put_bytes(out + n, 3, p->payload);
	n += put_number(out + n, 4, (uint64_t)p->timestamp);
	n += put_bytes(out + n, 5, p->publisher);
	return n + put_number(out + n, 6, p->publisher_seq);
}

size_t feed_subscribe_put(uint8_t *out, const struct feed_subscribe *s)
{
	size_t n = put_bytes(out, 1, s->stream);
	n += put_number(out + n, 2, s->since);
	n += put_number(out + n, 3, s->slow);
	n += put_number(out + n, 4, s->resume_offset);
	n += put_number(out + n, 5, s->reorder_ms);
	n += put_fixed64(out + n, 6, s->incarnation);
	return n + put_number(out + n, 7, s->mark_begin);
}

int feed_publish_reply_get(struct span msg, struct feed_publish_reply *ret)
{
	struct feed_publish_reply r = {0};
	const uint8_t *p = msg.p, *end = msg.p + msg.n;
	while (p < end) {
		uint32_t number;
		unsigned wire;
		uint64_t v;
		struct span bytes;
		if (pb_get_field(&p, end, &number, &wire, &v, &bytes))
			return -EBADMSG;
		if (wire == WIRE_I64 && number == 5)
			r.incarnation = v;
		if (wire != WIRE_VARINT)
			continue;
		if (number == 1)
			r.offset = v;
		else if (number == 2)
			r.timestamp = (int64_t)v;
		else if (number == 3)
			r.durability = (uint32_t)v;
		else if (number == 4)
			r.duplicate = v != 0;
	}
	if (r.offset == 0 || r.offset > FEED_OFFSET_MAX)
		return -EBADMSG;
	*ret = r;
	return 0;
}

static bool offsets_are_possible(const struct feed_frame *f)
{
	switch (f->mark) {
	case FEED_MARK_NONE:
		return f->offset > 0 && f->offset <= FEED_OFFSET_MAX;
	case FEED_MARK_GAP:
		return f->gap_from > 0 && f->gap_from <= f->gap_to && f->gap_to <= FEED_OFFSET_MAX;
	default: /* a stream without a frame has offset 0 there */
		return f->offset <= FEED_OFFSET_MAX;
	}
}

static void frame_number(struct feed_frame *f, uint32_t number, uint64_t v)
{
	switch (number) {
	case 1:
		f->seq_no = v;
		break;
	case 3:
		f->timestamp = (int64_t)v;
		break;
	case 4:
		f->offset = v;
		break;
	case 5:
		f->mark = (uint32_t)v;
		break;
	case 6:
		f->gap_from = v;
		break;
	case 7:
		f->gap_to = v;
		break;
	case 9:
		f->publisher_seq = v;
		break;
	default:
		break;
	}
}

int feed_frame_get(struct span msg, struct feed_frame *ret)
{
	struct feed_frame f = {0};
	const uint8_t *p = msg.p, *end = msg.p + msg.n;
	while (p < end) {
		uint32_t number;
		unsigned wire;
		uint64_t v;
		struct span bytes;
		if (pb_get_field(&p, end, &number, &wire, &v, &bytes))
			return -EBADMSG;
		if (wire == WIRE_VARINT)
			frame_number(&f, number, v);
		else if (wire == WIRE_I64 && number == 10)
			f.incarnation = v;
		else if (wire == WIRE_BYTES && number == 2)
			f.payload = bytes;
		else if (wire == WIRE_BYTES && number == 8)
			f.publisher = bytes;
	}
	if (!offsets_are_possible(&f))
		return -EBADMSG;
	*ret = f;
	return 0;
}

enum feed_crc feed_frame_crc(struct span msg)
{
	if (msg.n < FEED_CRC_BYTES || msg.p[msg.n - FEED_CRC_BYTES] != FEED_TAG_CRC)
		return FEED_CRC_NONE;
	uint32_t crc = crc32c(0, msg.p, msg.n - FEED_CRC_BYTES);
	return crc == load_le32(msg.p + msg.n - 4) ? FEED_CRC_OK : FEED_CRC_WRONG;
}
