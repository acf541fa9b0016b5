/* HTTP/2 frame headers and constants (RFC 9113 sections 4, 6, 7). Pure; any thread. */
#ifndef ORDINAL_RPC_WIRE_H2_FRAME_H
#define ORDINAL_RPC_WIRE_H2_FRAME_H

#include "core/base/bytes.h"

#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" /* section 3.4 */
#define H2_PREFACE_LEN 24
#define H2_FRAME_HEADER 9
#define H2_FRAME_SIZE_DEFAULT 16384u
#define H2_WINDOW_DEFAULT 65535
#define H2_WINDOW_MAX 0x7fffffff

enum h2_type {
	H2_DATA,
	H2_HEADERS,
	H2_PRIORITY,
	H2_RST_STREAM,
	H2_SETTINGS,
	H2_PUSH_PROMISE,
	H2_PING,
	H2_GOAWAY,
	H2_WINDOW_UPDATE,
	H2_CONTINUATION,
};
enum h2_flag { H2_F_END_STREAM = 0x1, H2_F_ACK = 0x1, H2_F_END_HEADERS = 0x4, H2_F_PADDED = 0x8, H2_F_PRIORITY = 0x20 };
enum h2_error {
	H2_NO_ERROR,
	H2_PROTOCOL_ERROR,
	H2_INTERNAL_ERROR,
	H2_FLOW_CONTROL_ERROR,
	H2_SETTINGS_TIMEOUT,
	H2_STREAM_CLOSED,
	H2_FRAME_SIZE_ERROR,
	H2_REFUSED_STREAM,
	H2_CANCEL,
	H2_COMPRESSION_ERROR,
	H2_CONNECT_ERROR,
	H2_ENHANCE_YOUR_CALM,
	H2_INADEQUATE_SECURITY,
	H2_HTTP_1_1_REQUIRED,
};
enum h2_setting {
	H2_S_HEADER_TABLE_SIZE = 1,
	H2_S_ENABLE_PUSH,
	H2_S_MAX_CONCURRENT_STREAMS,
	H2_S_INITIAL_WINDOW_SIZE,
	H2_S_MAX_FRAME_SIZE,
	H2_S_MAX_HEADER_LIST_SIZE,
};

struct h2_frame {
	uint32_t len; /* of the payload */
	uint8_t type; /* may be unknown */
	uint8_t flags;
	uint32_t stream; /* reserved bit cleared */
};

static inline struct h2_frame h2_frame_get(const uint8_t *p)
{
	return (struct h2_frame){load_be32(p) >> 8, p[3], p[4], load_be32(p + 5) & 0x7fffffff};
}

static inline void h2_frame_put(uint8_t *p, uint32_t len, uint8_t type, uint8_t flags, uint32_t stream)
{
	store_be32(p, len << 8 | type);
	p[4] = flags;
	store_be32(p + 5, stream);
}

#endif
