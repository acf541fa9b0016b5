/* The Feed service's codecs against protobuf-c: the same bytes as a PublishRequest, a PublishReply and a SubscribeRequest.
 *
 * Holds: where both accept, they read the same (texts up to a NUL, where protobuf-c ends them); what we accept we write again, and read back the
 * same. Where only one of the two accepts is rpc/wire/pb.c's to say, and fuzz_pb's to check. */
#include "rpc/wire/pb_feed.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"

#include "ordinal/v1/ordinal.pb-c.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_text(struct span ours, const char *theirs)
{
	size_t n = ours.n ? strnlen((const char *)ours.p, ours.n) : 0;

	return n == strlen(theirs) && memcmp(ours.p, theirs, n) == 0;
}

static void fuzz_publish(struct span in)
{
	struct pb_publish_request r, again;
	int got = pb_publish_request_get(in, &r);
	Ordinal__V1__PublishRequest *want = ordinal__v1__publish_request__unpack(NULL, in.n, in.p);

	CHECK(got == 0 || got == -EBADMSG);
	if (got == 0 && want) {
		CHECK(same_text(r.stream, want->stream) && same_text(r.publisher, want->publisher));
		CHECK(r.seq_no == want->seq_no && r.timestamp == want->timestamp &&
		      r.publisher_seq == want->publisher_seq);
		CHECK(span_eq(r.payload, (struct span){want->payload.data, want->payload.len}));
	}
	if (want)
		ordinal__v1__publish_request__free_unpacked(want, NULL);
	if (got)
		return;
	uint8_t *out = malloc(PB_PUBLISH_REQUEST_OVERHEAD + r.stream.n + r.payload.n + r.publisher.n);
	CHECK(out);
	CHECK(pb_publish_request_get((struct span){out, pb_publish_request_put(out, &r)}, &again) == 0);
	CHECK(span_eq(again.stream, r.stream) && span_eq(again.payload, r.payload) &&
	      span_eq(again.publisher, r.publisher));
	CHECK(again.seq_no == r.seq_no && again.timestamp == r.timestamp && again.publisher_seq == r.publisher_seq);
	free(out);
}

/* protobuf-c takes a boolean of any wire type; for us such a field is an unknown one. */
static bool has_odd_boolean(struct span in, uint32_t field)
{
	const uint8_t *p = in.p, *end = in.p + in.n;
	uint32_t number;
	unsigned wire;
	uint64_t value;
	struct span bytes;

	while (p != end && pb_get_field(&p, end, &number, &wire, &value, &bytes) == 0) {
		if (number == field && wire != 0)
			return true;
	}
	return false;
}

static void fuzz_reply(struct span in)
{
	struct pb_publish_reply r, again;
	uint8_t out[PB_PUBLISH_REPLY_MAX];
	int got = pb_publish_reply_get(in, &r);
	Ordinal__V1__PublishReply *want = ordinal__v1__publish_reply__unpack(NULL, in.n, in.p);

	CHECK(got == 0 || got == -EBADMSG);
	if (got == 0 && want)
		CHECK(r.offset == want->offset && r.timestamp == want->timestamp &&
		      r.durability == (uint32_t)want->durability && r.incarnation == want->incarnation &&
		      (has_odd_boolean(in, 4) || r.duplicate == (want->duplicate != 0)));
	if (want)
		ordinal__v1__publish_reply__free_unpacked(want, NULL);
	if (got)
		return;
	size_t n = pb_publish_reply_put(out, &r);
	CHECK(n <= sizeof out && pb_publish_reply_get((struct span){out, n}, &again) == 0);
	CHECK(again.offset == r.offset && again.timestamp == r.timestamp && again.durability == r.durability &&
	      again.duplicate == r.duplicate && again.incarnation == r.incarnation);
}

static void fuzz_subscribe(struct span in)
{
	struct pb_subscribe_request r, again;
	int got = pb_subscribe_request_get(in, &r);
	Ordinal__V1__SubscribeRequest *want = ordinal__v1__subscribe_request__unpack(NULL, in.n, in.p);

	CHECK(got == 0 || got == -EBADMSG);
	if (got == 0 && want)
		CHECK(same_text(r.stream, want->stream) && r.replay_seq_no_start == want->replay_seq_no_start &&
		      r.slow == (uint32_t)want->slow && r.resume_offset == want->resume_offset &&
		      r.reorder_ms == want->reorder_ms && r.incarnation == want->incarnation &&
		      (has_odd_boolean(in, 7) || r.mark_begin == (want->mark_begin != 0)));
	if (want)
		ordinal__v1__subscribe_request__free_unpacked(want, NULL);
	if (got)
		return;
	uint8_t *out = malloc(PB_SUBSCRIBE_REQUEST_OVERHEAD + r.stream.n);
	CHECK(out);
	CHECK(pb_subscribe_request_get((struct span){out, pb_subscribe_request_put(out, &r)}, &again) == 0);
	CHECK(span_eq(again.stream, r.stream) && again.replay_seq_no_start == r.replay_seq_no_start &&
	      again.slow == r.slow && again.resume_offset == r.resume_offset && again.reorder_ms == r.reorder_ms &&
	      again.incarnation == r.incarnation && again.mark_begin == r.mark_begin);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_publish((struct span){data, size});
	fuzz_reply((struct span){data, size});
	fuzz_subscribe((struct span){data, size});
	return 0;
}
