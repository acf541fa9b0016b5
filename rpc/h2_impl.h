/* The insides of the HTTP/2 session, shared by h2_session.c (connection), h2_frames.c (frames), h2_stream.c (streams, requests), h2_send.c
 * (answers) and h2_head.c (request headers). For these five only. */
#ifndef ORDINAL_RPC_H2_IMPL_H
#define ORDINAL_RPC_H2_IMPL_H

#include "core/base/check.h"
#include "rpc/h2_table.h"
#include "rpc/session.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/hpack.h"

#include <stdbool.h>
#include <stdint.h>

/* Fixed, because options count by them: USELESS_FRAMES_MAX, BODY_TIMEOUT_MS. */
#define H2_USELESS_NS (10 * UINT64_C(1000000000)) /* in which useless_max frames may come */
#define H2_PROGRESS (16u << 10)                   /* bytes of a message that have to come within body_ns */
#define H2_RESET_IDS                                                                                                   \
	32 /* streams that we reset and whose late frames are ignored; fixed: those of others cost a reset, RESETS_BURST */

/* A growing block from the shard's pool. */
struct h2_bytes {
	uint8_t *p;
	uint32_t at, len, cap;
};
bool h2_bytes_add(struct rpc_shard *r, struct h2_bytes *b, const void *p, size_t n);
void h2_bytes_release(struct rpc_shard *r, struct h2_bytes *b);
static inline void h2_bytes_free(struct rpc_shard *r, struct h2_bytes *b)
{
	if (b->p)
		h2_bytes_release(r, b);
}

/* What a request's header block says. Plain data: it is kept in the memo. */
struct h2_head {
	int16_t method;      /* index in the table, or -1 */
	bool service_known;  /* of an unknown method */
	bool malformed;      /* RFC 9113 section 8.1.1: a stream error */
	bool too_large;      /* more than HEADER_LIST_MAX or HEADER_FIELDS_MAX */
	bool takes_gzip;     /* grpc-accept-encoding has gzip */
	bool gzip;           /* grpc-encoding: gzip */
	bool unknown_coding; /* grpc-encoding is something else */
	bool bad_timeout;
	const char *twice;      /* the field of which there may be one, and there are two; NULL: none */
	uint16_t http_status;   /* not gRPC at all: answer with this and no more; 0: fine */
	uint64_t who;           /* whose token it has: rpc/access.h */
	int64_t content_length; /* -1: none */
	uint64_t timeout_ns;    /* 0: none */
};
struct h2_head_reader {
	struct h2_head head;
	const struct rpc_shard *rpc;
	struct metadata metadata; /* of methods that want it; the taker frees it */
	uint32_t fields, bytes;
	bool regular, has_method, has_scheme, has_path, has_authority, has_type, has_token, has_timeout, has_encoding,
		trailers;
};
/* hpack_field_fn over a h2_head_reader; h2_head_finish settles what only the end of the block tells. */
int h2_head_field(void *ctx, struct span name, struct span value);
void h2_head_finish(struct h2_head_reader *rd);

struct h2_stream {
	struct call call;
	struct h2_session *session;
	uint32_t id, slot;
	int64_t send_window;
	int32_t recv_window;   /* what the peer may still send */
	uint32_t recv_unacked; /* taken in, and not credited yet */
	int64_t content_left;  /* of content-length; -1: none given */
	bool remote_end, headers_sent, local_end;
	bool paused;       /* by the service: bytes are held */
	bool have_message; /* a unary request is complete and waits for the end of the stream */
	bool request_told; /* the service has been given all of the request, and its end */
	bool end_pending;  /* trailers follow the pending bytes */
	bool gzip, unknown_coding, takes_gzip;
	bool plain;         /* no metadata, no compression: the constant blocks do */
	bool want_writable; /* call_send said false, or call_send_framed took less than all */
	bool held_back;     /* call_send_framed took less than all */
	bool waits;         /* counted in the session's `waiting` */
	bool end_seen;      /* the frame at hand, or one before it, ended the request */
	bool discarded;     /* h2_discard.c has the rest of the request, and may hold the answer back */
	uint8_t prefix_len, prefix[GRPC_PREFIX];
	uint8_t end_status;
	uint32_t want;        /* bytes of the message being put together */
	struct h2_bytes msg;  /* the message being put together */
	struct h2_bytes held; /* received while paused */
	struct h2_bytes pend; /* DATA payload that waits for window */
	struct h2_bytes text; /* status message for the trailers */
	uint64_t progress_ns; /* last time that the request or the answer moved */
	uint32_t progress;    /* bytes of the request since then */
};

enum h2_drain { H2_DRAIN_NO, H2_DRAIN_WARNED, H2_DRAIN_FINAL };

struct h2_session {
	struct rpc_shard *rpc;
	struct conn *conn;
	bool preface_done, settings_got, settings_acked, ending, eof, noted;
	bool settled;     /* draining: the peer has no call, and knows that it can have none */
	uint8_t draining; /* enum h2_drain */
	uint16_t continuations;
	uint8_t block_flags;               /* of the HEADERS frame */
	uint32_t block_stream;             /* CONTINUATION is expected for this stream; 0: no */
	uint32_t last_id;                  /* highest stream opened by the peer */
	uint32_t skipped_from, skipped_to; /* identifiers that it passed over last */
	uint32_t goaway_id;                /* what it was at the last GOAWAY of draining */
	uint32_t waiting;                  /* streams with bytes or a service that waits for window or output room */
	int64_t send_window;
	int64_t recv_window;
	uint32_t recv_unacked;
	uint32_t peer_window, peer_frame;
	struct h2_table streams;   /* those that are open */
	uint32_t peer_header_list; /* the peer's SETTINGS_MAX_HEADER_LIST_SIZE */
	/* Our header blocks never use the dynamic table. A peer that allows less than the 4096 bytes of the
	 * beginning is told so at the start of the next header block (RFC 9113 section 4.3.1). */
	bool table_update_due, table_is_off;
	struct h2_stream *recent; /* the last one found */
	struct hpack_decoder *hpack;
	struct hpack_memo *memo;
	uint32_t access_gen;      /* of what the memo holds, and of `who` */
	uint64_t who;             /* of requests without a token */
	struct metadata metadata; /* of the block decoded last */
	struct assembly_share assembly;
	struct h2_bytes part;  /* a frame cut by the end of a buffer */
	struct h2_bytes block; /* a header block in several frames */
	uint64_t part_ns, block_ns, start_ns, drain_ns;
	uint64_t read_ns; /* since when it is read again, after its output was too much */
	uint32_t reset_tokens, useless;
	uint32_t answered; /* streams that have ended in good order and have not been reset since, about */
	uint64_t reset_ns, useless_ns;
	uint32_t reset_ids[H2_RESET_IDS], reset_at;
	struct h2_discards *discards; /* NULL: there are none */
	struct timer timer;
};

/* h2_session.c */

/* Opaque data of the PING that follows the first GOAWAY. */
#define H2_DRAIN_PING 0x6f72646e

/* One frame into the output. Nothing happens on a connection that has ended. */
void h2_put(struct h2_session *s, uint8_t type, uint8_t flags, uint32_t stream, const void *p, uint32_t n);
void h2_put_u32(struct h2_session *s, uint8_t type, uint32_t stream, uint32_t value);
void h2_put_goaway(struct h2_session *s, uint32_t last, enum h2_error code, const char *text);
/* Counts a reset, or a frame that says nothing, against its limit. Beyond it the connection ends, and h2_reset_allowed says false. */
bool h2_reset_allowed(struct h2_session *s);
void h2_useless(struct h2_session *s);
/* One of the streams that we reset lately, whose frames may still be on their way. */
bool h2_was_reset(const struct h2_session *s, uint32_t id);

/* Ends the connection with GOAWAY. All calls are cancelled at once. */
void h2_conn_error(struct h2_session *s, enum h2_error code, enum conn_reason why, const char *text);
/* Resets a stream and forgets it; `provoked` by the peer: counts towards the flood limit. */
void h2_reset(struct h2_session *s, uint32_t id, enum h2_error code, bool provoked);
/* Makes sure that the session's timer runs. */
void h2_watch(struct h2_session *s);
void h2_credit(struct h2_session *s, uint32_t n);
void h2_maybe_close(struct h2_session *s);

static inline struct h2_stream *h2_stream_of(struct call *c)
{
	return container_of(c, struct h2_stream, call);
}

static inline bool h2_wants_one_message(const struct method *m)
{
	return m->kind == METHOD_UNARY || m->kind == METHOD_SERVER_STREAM;
}

/* h2_frames.c */

/* A whole frame. */
void h2_on_frame(struct h2_session *s, const struct h2_frame *f, const uint8_t *p);
/* The GOAWAY that names the last stream that will be answered. */
void h2_final_goaway(struct h2_session *s);

/* h2_send.c: call_ops, and what refuses a request before it is a call. */

void h2_reply(struct call *c, const uint8_t *msg, size_t n);
bool h2_send(struct call *c, const uint8_t *msg, size_t n);
enum call_room h2_room(struct call *c);
size_t h2_send_framed(struct call *c, const struct conn_slice *all);
void h2_finish(struct call *c, enum grpc_status status, struct span text);
/* The last HEADERS of a stream: trailers, or headers and trailers in one if nothing was sent before. */
void h2_put_trailers(struct h2_stream *st, enum grpc_status status, struct span text);
/* The answer to something that is not gRPC. */
void h2_put_http_status(struct h2_stream *st, uint16_t status);
void h2_note_waiting(struct h2_stream *st, bool waits);
bool h2_is_shut(const struct call *c);

/* h2_discard.c */

/* A stream is answered, now or before, and its request has not ended; the peer may still send `window` bytes. false:
 * there is no memory, or the peer can send no more; reset the stream behind its answer. */
bool h2_discard_begin(struct h2_session *s, uint32_t id, int32_t window);
/* What comes for such a stream. false: it is none. */
bool h2_discard_data(struct h2_session *s, uint32_t id, uint32_t n, bool end);
bool h2_discard_trailers(struct h2_session *s, uint32_t id, bool end);
bool h2_discard_reset(struct h2_session *s, uint32_t id);
/* Takes the answer of such a stream, a whole frame, to send it when the request has come. false: send it now. */
bool h2_discard_hold(struct h2_session *s, uint32_t id, const uint8_t *frame, size_t n);
/* Sends the answers that are held. */
void h2_discard_answer(struct h2_session *s);
void h2_discard_free(struct h2_session *s);

/* h2_stream.c */

/* Frees a stream whose call has ended. */
void h2_stream_drop(struct h2_stream *st);

struct h2_stream *h2_stream_find(struct h2_session *s, uint32_t id);
void h2_stream_open(struct h2_session *s, uint32_t id, const struct h2_head *head, bool end);
/* Payload of DATA, without padding; `credit` bytes of flow control go with it. */
void h2_stream_data(struct h2_stream *st, const uint8_t *p, uint32_t n, bool end);
void h2_stream_remote_end(struct h2_stream *st);
/* The peer has reset it, or the connection is gone: the call is cancelled, nothing is sent. */
void h2_stream_kill(struct h2_stream *st);
void h2_stream_pump(struct h2_stream *st);
void h2_streams_pump(struct h2_session *s);
void h2_streams_each(struct h2_session *s, void (*fn)(struct h2_stream *st, void *ctx), void *ctx);
/* assembly_share's give_way of a session. */
void h2_streams_give_way(struct assembly_share *share, uint64_t bytes);
/* Ends requests and answers that do not move, and with the last of them a connection that is to end. */
void h2_streams_check(struct h2_session *s);
/* Ends all calls: the peer has closed its side and takes nothing. */
void h2_streams_abandon(struct h2_session *s);
bool h2_streams_need_watch(const struct h2_session *s);
void h2_streams_free(struct h2_session *s);
/* A malformed request: stream error PROTOCOL_ERROR. */
void h2_stream_error(struct h2_stream *st, enum h2_error code);

#endif
