/* The Feed service's small messages; see the header and rpc/wire/pb.c, whose rules on what is accepted hold here as well. Pure; any thread.
 *
 * One loop over pb_get_field: the fields are few, and beside the copying of a payload what it costs is not seen. */
#include "rpc/wire/pb_feed.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"

#include <errno.h>

enum { VARINT = 0, I64 = 1, LEN = 2 };

static uint8_t tag(unsigned number, unsigned wire)
{
	return (uint8_t)(number << 3 | wire);
}

static uint8_t *put_number(uint8_t *p, unsigned number, uint64_t v)
{
	if (v == 0)
		return p;
	*p++ = tag(number, VARINT);
	return p + pb_put_varint(p, v);
}

static uint8_t *put_fixed64(uint8_t *p, unsigned number, uint64_t v)
{
	if (v == 0)
		return p;
	*p++ = tag(number, I64);
	store_le64(p, v);
	return p + 8;
}

static uint8_t *put_bytes(uint8_t *p, unsigned number, struct span s)
{
	if (s.n == 0)
		return p;
	*p++ = tag(number, LEN);
	p += pb_put_varint(p, s.n);
	memcpy(p, s.p, s.n);
	return p + s.n;
}

/* What one field gave: a number or bytes, by (number, wire type). */
struct field {
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span bytes;
};

static inline bool next_field(const uint8_t **p, const uint8_t *end, struct field *f)
{
	return pb_get_field(p, end, &f->number, &f->wire, &f->value, &f->bytes) == 0;
}

static inline bool take_string(const struct field *f, struct span *ret)
{
	*ret = f->bytes;
	return pb_is_utf8(f->bytes);
}

static bool publish_bytes(const struct field *f, struct pb_publish_request *r)
{
	if (f->number == 1)
		return take_string(f, &r->stream);
	if (f->number == 5)
		return take_string(f, &r->publisher);
	if (f->number == 3)
		r->payload = f->bytes;
	return true;
}

static void publish_number(const struct field *f, struct pb_publish_request *r)
{
	if (f->number == 2)
		r->seq_no = f->value;
	else if (f->number == 4)
		r->timestamp = (int64_t)f->value;
	else if (f->number == 6)
		r->publisher_seq = f->value;
}

int pb_publish_request_get(struct span msg, struct pb_publish_request *ret)
{
	const uint8_t *p = msg.p, *end = msg.n ? p + msg.n : p; /* an empty message may have no address */
	struct pb_publish_request r = {.stream = {p, 0}, .payload = {p, 0}, .publisher = {p, 0}};
	struct field f;

	while (p != end) {
		if (unlikely(!next_field(&p, end, &f)))
			return -EBADMSG;
		if (f.wire == VARINT)
			publish_number(&f, &r);
		else if (f.wire == LEN && !publish_bytes(&f, &r))
			return -EBADMSG;
	}
	*ret = r;
	return 0;
}

size_t pb_publish_request_put(uint8_t *out, const struct pb_publish_request *r)
{
	uint8_t *p = put_bytes(out, 1, r->stream);

	p = put_number(p, 2, r->seq_no);
	p = put_bytes(p, 3, r->payload);
	p = put_number(p, 4, (uint64_t)r->timestamp);
	p = put_bytes(p, 5, r->publisher);
	p = put_number(p, 6, r->publisher_seq);
	return (size_t)(p - out);
}

size_t pb_publish_reply_put(uint8_t *out, const struct pb_publish_reply *r)
{
	uint8_t *p = put_number(out, 1, r->offset);

	p = put_number(p, 2, (uint64_t)r->timestamp);
	p = put_number(p, 3, r->durability);
	p = put_number(p, 4, r->duplicate);
	p = put_fixed64(p, 5, r->incarnation);
	return (size_t)(p - out);
}

int pb_publish_reply_get(struct span msg, struct pb_publish_reply *ret)
{
	const uint8_t *p = msg.p, *end = msg.n ? p + msg.n : p;
	struct pb_publish_reply r = {0};
	struct field f;

	while (p != end) {
		if (!next_field(&p, end, &f))
			return -EBADMSG;
		if (f.wire == I64 && f.number == 5)
			r.incarnation = f.value;
		if (f.wire != VARINT)
			continue;
		if (f.number == 1)
			r.offset = f.value;
		else if (f.number == 2)
			r.timestamp = (int64_t)f.value;
		else if (f.number == 3)
			r.durability = (uint32_t)f.value;
		else if (f.number == 4)
			r.duplicate = f.value != 0;
	}
	*ret = r;
	return 0;
}

static void subscribe_number(const struct field *f, struct pb_subscribe_request *r)
{
	if (f->number == 2)
		r->replay_seq_no_start = f->value;
	else if (f->number == 3)
		r->slow = (uint32_t)f->value;
	else if (f->number == 4)
		r->resume_offset = f->value;
	else if (f->number == 5)
		r->reorder_ms = (uint32_t)f->value;
	else if (f->number == 7)
		r->mark_begin = f->value != 0;
}

int pb_subscribe_request_get(struct span msg, struct pb_subscribe_request *ret)
{
	const uint8_t *p = msg.p, *end = msg.n ? p + msg.n : p;
	struct pb_subscribe_request r = {.stream = {p, 0}};
	struct field f;

	while (p != end) {
		if (!next_field(&p, end, &f))
			return -EBADMSG;
		if (f.wire == VARINT)
			subscribe_number(&f, &r);
		else if (f.wire == I64 && f.number == 6)
			r.incarnation = f.value;
		else if (f.wire == LEN && f.number == 1 && !take_string(&f, &r.stream))
			return -EBADMSG;
	}
	*ret = r;
	return 0;
}

size_t pb_subscribe_request_put(uint8_t *out, const struct pb_subscribe_request *r)
{
	uint8_t *p = put_bytes(out, 1, r->stream);

	p = put_number(p, 2, r->replay_seq_no_start);
	p = put_number(p, 3, r->slow);
	p = put_number(p, 4, r->resume_offset);
	p = put_number(p, 5, r->reorder_ms);
	p = put_fixed64(p, 6, r->incarnation);
	p = put_number(p, 7, r->mark_begin);
	return (size_t)(p - out);
}
