/* A look at a protobuf message before protobuf-c (1.4.1) unpacks it: that parser has no limit on depth or on fields, does not check UTF-8, and
 * cuts strings at a NUL. The scan allocates nothing and is linear in the message's size. Pure; any thread.
 *
 * A message that passes costs the parser at most one allocation a field (bound those with rpc/budget.h), and 16 frames of its stack. */
#ifndef ORDINAL_RPC_WIRE_PB_SCAN_H
#define ORDINAL_RPC_WIRE_PB_SCAN_H

#include "core/base/bytes.h"

/* Fixed: requests of our services, and of gRPC's own, have a few levels and nothing to merge; these bound the parser's stack and its copying. What
 * unpacking may take in memory follows from MESSAGE_MAX (rpc/typed.c). */
#define PB_SCAN_DEPTH 16 /* messages within messages, with the outermost */
#define PB_SCAN_MERGES 8 /* in all: singular sub-messages that come again, which the parser merges by copying */

struct ProtobufCMessageDescriptor;

struct pb_scan_limits {
	size_t size_max;     /* bytes */
	uint32_t fields_max; /* in the message and all messages in it */
};
/* No request of our services has nearly so many fields; the size is replaced by MESSAGE_MAX. */
#define PB_SCAN_LIMITS ((struct pb_scan_limits){4u << 20, 1u << 16})

/* `desc` says which fields are strings and which are messages; without it (NULL) only the outermost fields are looked at. 0;
 * PB_SCAN_E_GROUPS: it is fit, and has groups in it, which protobuf-c refuses: see pb_hide_groups; or
 *   -EBADMSG   malformed
 *   -EMSGSIZE  longer than size_max
 *   -E2BIG     more than fields_max fields, or PB_SCAN_MERGES merges
 *   -ELOOP     deeper than PB_SCAN_DEPTH
 *   -EILSEQ    a string that is not UTF-8 or has a NUL in it */
#define PB_SCAN_E_GROUPS 1
int pb_scan(struct span msg, const struct ProtobufCMessageDescriptor *desc, const struct pb_scan_limits *limits);

/* Makes each unknown group of a message, for which pb_scan said PB_SCAN_E_GROUPS, an unknown field of bytes with
 * the same number and length, so that protobuf-c passes it over. What was in the groups is overwritten. */
void pb_hide_groups(uint8_t *msg, size_t n, const struct ProtobufCMessageDescriptor *desc,
		    const struct pb_scan_limits *limits);

/* A sentence for the error. */
const char *pb_scan_error_text(int error);

#endif
