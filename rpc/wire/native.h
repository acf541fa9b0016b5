/* Ordinal's native framing: a fixed 16-byte little-endian header, then `len` bytes of one protobuf message.
 *
 *  byte  0      0x81: bit 7 tells it from HTTP/2 ('P'), HTTP/1.1 (a letter) and TLS (0x16); low bits are the version, 1
 *        1      kind, enum native_kind
 *        2-3    REQUEST: method number.  END: status code (gRPC's numbers).  Else 0
 *        4-7    len, payload bytes after the header
 *        8-11   call: chosen by the client; unique among its calls in flight on the connection
 *        12-15  REQUEST: timeout in milliseconds, 0 for none.  GOAWAY: 0.  Else 0
 *
 *  client -> server
 *    REQUEST    opens a call with its first message; NATIVE_F_LAST: no more messages from the client (unary calls always)
 *    MESSAGE    a further message of a streaming call; NATIVE_F_LAST as above (with len 0 and NATIVE_F_EMPTY: only the end, no message)
 *    CANCEL     the client has lost interest; the server answers with END (CANCELLED) unless it has ended already
 *    PING       answered by PONG with the same payload (at most 64 bytes)
 *    AUTH       the payload is a bearer token (at most 512 bytes), which counts for the requests after it; another one takes its place. Not
 *               answered: requests are, with UNAUTHENTICATED, if the token is none that the server knows
 *  server -> client
 *    MESSAGE    a message of the call's answer; NATIVE_F_LAST: the call has ended with OK (unary: exactly one of these)
 *    END        the call has ended with this status; payload is the UTF-8 text of the error (may be empty)
 *    PONG
 *    GOAWAY     no new calls on this connection, please; those in flight are finished
 *
 * Pure; any thread.
 */
#ifndef ORDINAL_RPC_WIRE_NATIVE_H
#define ORDINAL_RPC_WIRE_NATIVE_H

#include "core/base/bytes.h"

#define NATIVE_HEADER 16
#define NATIVE_MAGIC 0x81
/* Of the format; clients rely on them. */
#define NATIVE_PING_MAX 64
#define NATIVE_TOKEN_MAX 512

enum native_kind {
	NATIVE_REQUEST = 1,
	NATIVE_MESSAGE = 2,
	NATIVE_END = 3,
	NATIVE_CANCEL = 4,
	NATIVE_PING = 5,
	NATIVE_PONG = 6,
	NATIVE_GOAWAY = 7,
	NATIVE_AUTH = 8,
};
#define NATIVE_KIND_MASK 0x0f
#define NATIVE_F_LAST 0x10
#define NATIVE_F_EMPTY 0x20

struct native_header {
	uint8_t kind;  /* without flags */
	uint8_t flags; /* NATIVE_F_* */
	uint16_t code; /* method or status */
	uint32_t len;
	uint32_t call;
	uint32_t arg;
};

/* Reads a header from NATIVE_HEADER bytes. 0, or -EPROTO: wrong magic or version, an unknown kind or flag. Lengths are the caller's to check. */
static inline int native_get(const uint8_t *p, struct native_header *ret)
{
	uint64_t lo = load_le64(p), hi = load_le64(p + 8);
	uint8_t kind = (uint8_t)(lo >> 8) & NATIVE_KIND_MASK, flags = (uint8_t)(lo >> 8) & 0xf0;
	if ((lo & 0xff) != NATIVE_MAGIC || kind < NATIVE_REQUEST || kind > NATIVE_AUTH || (flags & 0xc0))
		return -71 /* EPROTO */;
	*ret = (struct native_header){
		kind, flags, (uint16_t)(lo >> 16), (uint32_t)(lo >> 32), (uint32_t)hi, (uint32_t)(hi >> 32)};
	return 0;
}

static inline void native_put(uint8_t *p, uint8_t kind_flags, uint16_t code, uint32_t len, uint32_t call, uint32_t arg)
{
	store_le64(p, NATIVE_MAGIC | (uint64_t)kind_flags << 8 | (uint64_t)code << 16 | (uint64_t)len << 32);
	store_le64(p + 8, call | (uint64_t)arg << 32);
}

#endif
