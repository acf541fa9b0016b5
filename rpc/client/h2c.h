/* What the halves of the HTTP/2 client share: h2_client.c (frames in, life), h2c_output.c (requests, flow control out), h2c_head.c (header
 * blocks, both ways). Nobody else includes this. Owner thread only. */
#ifndef ORDINAL_RPC_CLIENT_H2C_H
#define ORDINAL_RPC_CLIENT_H2C_H

#include "rpc/client/channel_impl.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/hpack.h"

#define H2_CLIENT_WINDOW (16 << 20)             /* we announce this, for streams and for the connection */
#define H2_CLIENT_REFILL (H2_CLIENT_WINDOW / 2) /* and give back when this much is used */
#define H2_CLIENT_BLOCK_MAX 65536u              /* bytes of one header block that we take, joined */
#define H2_STREAM_MAX 0x7fffffffu
#define H2_TEXT_MAX 1024 /* bytes of a status message that we keep */

/* The dynamic table that our request blocks build at the server. Entries are named by the order in which they were inserted, from 1; 0:
 * not inserted. Nothing is ever evicted: when the table is full, or too small, fields are sent as literals. */
#define H2_TIMEOUTS 4 /* distinct timeouts that get an entry */
struct h2c_encoder {
	uint32_t inserted, bytes, limit; /* limit: what the server's SETTINGS allow, at most 4096 */
	bool https;                      /* the scheme */
	bool resize;                     /* begin the next block with size updates: clears the table */
	uint32_t authority, te, content_type, user_agent, authorization, path[METHOD_COUNT];
	struct {
		uint64_t ns;
		uint32_t entry;
	} timeout[H2_TIMEOUTS];
	struct h2c_block { /* the last block of each method, if it can be sent again as it is */
		uint64_t timeout_ns;
		uint32_t n; /* 0: none */
		uint8_t bytes[60];
	} block[METHOD_COUNT];
};
void h2c_encoder_init(struct h2c_encoder *e, bool https);
/* The server's HEADER_TABLE_SIZE. */
void h2c_encoder_resize(struct h2c_encoder *e, uint32_t size);
/* The header block of a request of `method`, or with `path` if that is not empty (and then `method` is 0) (`bearer`: the value of its authorization field, or NULL), in `scratch` (H2_HEAD_MAX bytes) or elsewhere, valid until the next call; *ret_n bytes. */
#define H2_HEAD_MAX 2048
#define H2_AUTHORITY_MAX 300 /* bytes; so that every block fits */
const uint8_t *h2c_encoder_head(struct h2c_encoder *e, unsigned method, struct span path, const char *authority,
				const char *bearer, uint64_t timeout_ns, uint8_t *scratch, size_t *ret_n);

/* What we use of an answer's header block. */
struct h2c_head {
	uint16_t http;  /* :status, or 0 */
	int32_t status; /* grpc-status, or -1 */
	bool is_grpc;   /* content-type is application/grpc… */
	bool has_text;  /* grpc-message, in h2_client.text */
};
struct h2c_head_reader {
	struct hpack_decoder *decoder;
	struct hpack_memo *memo;
	size_t text_n;
	uint32_t fields;
	char text[H2_TEXT_MAX];
};
/* 0, or -EBADMSG (COMPRESSION_ERROR), -E2BIG (more fields than anyone needs), -ENOMEM. */
int h2c_head_read(struct h2c_head_reader *r, const uint8_t *block, size_t n, struct h2c_head *ret);

/* stream -> call: open addressing with linear probing; consecutive streams fall into consecutive slots. */
struct h2c_stream_slot {
	uint32_t stream, call; /* stream 0: empty */
};

struct h2_client {
	/* Each call. */
	struct h2c_stream_slot *streams;
	uint32_t streams_mask, streams_n;
	uint32_t stream_next;
	int64_t send_window;   /* of the connection */
	int32_t stream_window; /* the server's INITIAL_WINDOW_SIZE */
	uint32_t frame_max;    /* the server's MAX_FRAME_SIZE */
	uint32_t recv_used;    /* bytes since our last WINDOW_UPDATE of the connection */
	uint32_t blocked;      /* calls with bytes that wait for a window */

	struct h2c_encoder encoder;
	struct h2c_head_reader head;
	bool settings_seen;
	uint32_t joined_stream; /* a header block that goes on in CONTINUATION frames; 0: none */
	uint8_t joined_flags;
	struct channel_buf joined;
};

/* Kept beside a call only while it has something cut or blocked. */
struct call_more {
	struct channel_buf in;  /* the beginning of a message: prefix and bytes */
	struct channel_buf out; /* framed messages that wait for a window */
	size_t out_at;
	bool out_last;
};

/* h2c_output.c */
int h2c_call(struct channel *ch, struct call *call, uint32_t index, unsigned method, struct span path,
	     struct span request, uint64_t timeout_ns, bool last);
int h2c_send(struct channel *ch, struct call *call, uint32_t index, struct span msg, bool last);
int h2c_end(struct channel *ch, struct call *call, uint32_t index);
/* Sends what the windows now allow. 0 or -ENOMEM. */
int h2c_pump_call(struct channel *ch, struct call *call);
int h2c_pump(struct channel *ch);
/* A frame with a payload of n bytes. 0 or -ENOMEM. */
int h2c_put_frame(struct channel *ch, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, uint32_t n);
int h2c_put_window(struct channel *ch, uint32_t stream, uint32_t increment);
int h2c_put_reset(struct channel *ch, uint32_t stream, uint32_t error);
struct call_more *h2c_call_more(struct call *call);

/* h2_client.c */
int h2c_stream_add(struct h2_client *h, uint32_t stream, uint32_t call);

#endif
