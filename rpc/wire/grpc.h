/* gRPC over HTTP/2: message prefix, timeouts, percent-encoding, status codes ("gRPC over HTTP2" protocol description,
 * PROTOCOL-HTTP2.md). Pure; any thread. */
#ifndef ORDINAL_RPC_WIRE_GRPC_H
#define ORDINAL_RPC_WIRE_GRPC_H

#include "core/base/bytes.h"

#define GRPC_PREFIX 5 /* compressed flag, 4 bytes big-endian length */

enum grpc_status {
	GRPC_OK,
	GRPC_CANCELLED,
	GRPC_UNKNOWN,
	GRPC_INVALID_ARGUMENT,
	GRPC_DEADLINE_EXCEEDED,
	GRPC_NOT_FOUND,
	GRPC_ALREADY_EXISTS,
	GRPC_PERMISSION_DENIED,
	GRPC_RESOURCE_EXHAUSTED,
	GRPC_FAILED_PRECONDITION,
	GRPC_ABORTED,
	GRPC_OUT_OF_RANGE,
	GRPC_UNIMPLEMENTED,
	GRPC_INTERNAL,
	GRPC_UNAVAILABLE,
	GRPC_DATA_LOSS,
	GRPC_UNAUTHENTICATED,
	GRPC_STATUS_COUNT
};

/* "OK", "CANCELLED", …; "UNKNOWN" for numbers out of range. */
const char *grpc_status_name(unsigned status);

/* A grpc-status as it was received. Whatever is not one of gRPC's codes (99999, -1, "abc", nothing) is GRPC_UNKNOWN, as gRPC's own clients take it. */
enum grpc_status grpc_status_get(struct span text);
/* The same for a code that came as a number. */
static inline enum grpc_status grpc_status_of(uint64_t code)
{
	return code < GRPC_STATUS_COUNT ? (enum grpc_status)code : GRPC_UNKNOWN;
}

/* "1H", "20S", "100m", "5u", "7n": 1 to 8 digits and a unit. 0 and nanoseconds (saturating), or -EINVAL. */
int grpc_timeout_get(struct span text, uint64_t *ret_ns);
/* Writes the shortest exact-enough form (rounded up, never to 0 unless ns is 0); returns its length, at most 10. */
size_t grpc_timeout_put(char out[10], uint64_t ns);

/* Percent-encodes a status message: bytes outside 0x20-0x7e, and '%', become %XX. Stops before `cap` bytes; returns the length. */
size_t grpc_percent_encode(char *out, size_t cap, struct span text);
/* In the other direction; wrong escapes are kept as they are. */
size_t grpc_percent_decode(char *out, size_t cap, struct span text);

#endif
