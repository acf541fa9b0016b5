/* A message as the recursive Node of tests/support/pb_node.h: scanned, and unpacked by protobuf-c when the scan lets it pass.
 *
 * Holds: a message that passes is no deeper than promised, and each of its strings is UTF-8; looking closer never helps a message. (The scan
 * refuses more than protobuf-c does, field numbers that are none among them, so nothing follows from its refusal.) */
#include "rpc/wire/pb_scan.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"
#include "tests/support/pb_node.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void text_check(const char *s)
{
	CHECK(!s || pb_is_utf8((struct span){(const uint8_t *)s, strlen(s)}));
}

static void node_check(const struct pb_node *m, unsigned depth)
{
	CHECK(depth <= PB_SCAN_DEPTH);
	text_check(m->name);
	for (size_t i = 0; i < m->n_names; i++)
		text_check(m->names[i]);
	if (m->child)
		node_check(m->child, depth + 1);
	for (size_t i = 0; i < m->n_children; i++)
		node_check(m->children[i], depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct pb_scan_limits limits = {1 << 16, 1000};
	struct span msg = {data, size};
	int bare = pb_scan(msg, NULL, &limits), r = pb_scan(msg, &pb_node_descriptor, &limits);

	CHECK(r == 0 || r == PB_SCAN_E_GROUPS || r == -EBADMSG || r == -EMSGSIZE || r == -E2BIG || r == -ELOOP ||
	      r == -EILSEQ);
	CHECK((r == -EMSGSIZE) == (size > limits.size_max));
	CHECK(r != 0 || bare == 0);
	CHECK(r != PB_SCAN_E_GROUPS || bare >= 0);
	CHECK(*pb_scan_error_text(r));
	/* Narrower limits refuse more, and nothing else. */
	static const struct pb_scan_limits narrow = {64, 4};
	int less = pb_scan(msg, &pb_node_descriptor, &narrow);
	CHECK(less == r || less == -EMSGSIZE || less == -E2BIG);
	CHECK((less == -EMSGSIZE) == (size > narrow.size_max) && *pb_scan_error_text(less));
	if (r < 0)
		return 0;
	uint8_t *copy = malloc(size + 1);
	memcpy(copy, data, size);
	if (r == PB_SCAN_E_GROUPS) {
		/* What is hidden stays a message that is fit, and has no groups any more. */
		pb_hide_groups(copy, size, &pb_node_descriptor, &limits);
		CHECK(pb_scan((struct span){copy, size}, &pb_node_descriptor, &limits) == 0);
	}
	ProtobufCMessage *m = protobuf_c_message_unpack(&pb_node_descriptor, NULL, size, copy);
	if (m) {
		node_check((struct pb_node *)m, 1);
		protobuf_c_message_free_unpacked(m, NULL);
	}
	free(copy);
	return 0;
}
