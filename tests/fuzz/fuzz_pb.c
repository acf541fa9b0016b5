/* The hot protobuf codecs against protobuf-c: the same bytes as a NextRequest and as a NextReply.
 *
 * Holds: where both accept, they read the same; where only one accepts, it is for one of the three differences that rpc/wire/pb.c names (a
 * field number that is none, a known field with another wire type, text that is not UTF-8); what we write, we read back. */
#include "rpc/wire/pb.h"

#include "core/base/check.h"

#include "ordinal/v1/ordinal.pb-c.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the message has that the two treat differently. */
struct differences {
	bool number, wire, text;
};

/* Fields 1 to `known` are varints, but for these, by bit: */
#define STRING(number) (1u << (number))
#define FIXED64(number) (1u << 16 << (number))

static unsigned wire_of(unsigned kinds, uint32_t number)
{
	return kinds & STRING(number) ? 2 : kinds & FIXED64(number) ? 1 : 0;
}

static struct differences differences_find(const uint8_t *p, const uint8_t *end, unsigned known, unsigned kinds)
{
	struct differences d = {false, false, false};

	while (p != end) {
		const uint8_t *at = p;
		uint64_t tag, value;
		uint32_t number;
		unsigned wire;
		struct span bytes;

		if (pb_get_varint(&at, end, &tag) < 0)
			break;
		if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff) {
			d.number = true; /* nothing is to be learnt from what follows */
			break;
		}
		if (pb_get_field(&p, end, &number, &wire, &value, &bytes) < 0)
			break;
		if (number > known)
			continue;
		if (wire != wire_of(kinds, number))
			d.wire = true;
		else if (wire == 2 && !pb_is_utf8(bytes))
			d.text = true;
	}
	return d;
}

static void fuzz_request(const uint8_t *data, size_t size)
{
	struct pb_next_request r, again;
	int got = pb_next_request_get((struct span){data, size}, &r);
	struct differences d = differences_find(data, data + size, 2, STRING(1));
	Ordinal__V1__NextRequest *want = ordinal__v1__next_request__unpack(NULL, size, data);

	CHECK(got == 0 || got == -EBADMSG);
	if (got == 0 && want) {
		CHECK(r.count == want->count);
		CHECK(strnlen((const char *)r.sequence.p, r.sequence.n) == strlen(want->sequence));
		CHECK(memcmp(r.sequence.p, want->sequence, strlen(want->sequence)) == 0);
	} else if (got == 0) {
		CHECK(d.wire);
	} else if (want) {
		CHECK(d.number || d.text);
	}
	if (want)
		ordinal__v1__next_request__free_unpacked(want, NULL);
	if (got == 0) {
		size_t cap = r.sequence.n + 2 * PB_VARINT_MAX;
		uint8_t *out = malloc(cap);
		CHECK(out);
		size_t n = pb_next_request_put(out, cap, r.sequence, r.count);
		CHECK(n <= cap && pb_next_request_get((struct span){out, n}, &again) == 0);
		CHECK(again.count == r.count && span_eq(again.sequence, r.sequence));
		free(out);
	}
}

static void fuzz_reply(const uint8_t *data, size_t size)
{
	struct pb_next_reply r, again;
	int got = pb_next_reply_get((struct span){data, size}, &r);
	struct differences d = differences_find(data, data + size, 4, FIXED64(4));
	Ordinal__V1__NextReply *want = ordinal__v1__next_reply__unpack(NULL, size, data);

	CHECK(got == 0 || got == -EBADMSG);
	if (got == 0 && want)
		CHECK(r.first == want->first && r.count == want->count && r.order == (uint32_t)want->order &&
		      r.incarnation == want->incarnation);
	else if (got == 0)
		CHECK(d.wire);
	else if (want)
		CHECK(d.number);
	if (want)
		ordinal__v1__next_reply__free_unpacked(want, NULL);
	if (got == 0) {
		uint8_t out[PB_NEXT_REPLY_MAX];
		size_t n = pb_next_reply_put(out, &r);
		CHECK(n <= sizeof out && pb_next_reply_get((struct span){out, n}, &again) == 0);
		CHECK(again.first == r.first && again.count == r.count && again.order == r.order &&
		      again.incarnation == r.incarnation);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_request(data, size);
	fuzz_reply(data, size);
	return 0;
}
