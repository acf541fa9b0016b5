/* Two bytes of budget (little-endian, in units of 16), and a message: unpacked by protobuf-c within that budget, as the recursive Node of
 * tests/support/pb_node.h.
 *
 * Holds: the budget is kept; within it the outcome is the one that plenty of memory has; a failure is either the message's fault or
 * said to be the budget's; nothing leaks or is touched after it is gone (with a sanitizer). */
#include "rpc/budget.h"

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "rpc/wire/pb_scan.h"
#include "tests/support/pb_node.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void packed_compare(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t n = protobuf_c_message_get_packed_size(a);
	uint8_t *pa = malloc(n + 1), *pb = malloc(n + 1);

	CHECK(pa && pb && protobuf_c_message_get_packed_size(b) == n);
	CHECK(protobuf_c_message_pack(a, pa) == n && protobuf_c_message_pack(b, pb) == n);
	CHECK(memcmp(pa, pb, n) == 0);
	free(pa);
	free(pb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct budget b;

	if (size < 2)
		return 0;
	size_t limit = (size_t)load_le16(data) * 16;
	data += 2;
	size -= 2;
	if (pb_scan((struct span){data, size}, &pb_node_descriptor, &PB_SCAN_LIMITS) < 0)
		return 0;
	ProtobufCMessage *want = protobuf_c_message_unpack(&pb_node_descriptor, NULL, size, data);

	CHECK(budget_init(&b, 64, limit) == 0);
	for (int round = 0; round < 2; round++) {
		ProtobufCMessage *got = protobuf_c_message_unpack(&pb_node_descriptor, &b.allocator, size, data);

		CHECK(b.spent <= limit);
		if (got) {
			CHECK(want && !budget_is_exhausted(&b));
			packed_compare(got, want);
		} else {
			CHECK(!want || budget_is_exhausted(&b));
		}
		budget_reset(&b);
		CHECK(b.spent == 0 && !budget_is_exhausted(&b));
	}
	budget_done(&b);
	if (want)
		protobuf_c_message_free_unpacked(want, NULL);
	return 0;
}
