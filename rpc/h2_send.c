/* The sending half of HTTP/2 streams: headers, messages, trailers, within the windows. Runs on the connection's shard.
 *
 * The hot path (h2_reply) is one copy of constant HEADERS, DATA and constant trailers. Everything else that does not fit the windows or the output
 * queue waits in `pend` (own bytes) or with its service (send_framed), and is pumped when WINDOW_UPDATE or the output queue allows. Invariant: `pend` is
 * sent before anything later of its stream; trailers go when it is empty.
 */
#include "core/base/check.h"
#include "core/base/log_limit.h"
#include "rpc/gzip.h"
#include "rpc/h2_impl.h"

#include <stdio.h>
#include <string.h>

enum {
	PUMP_QUEUE = 128 << 10, /* bytes queued on the connection above which streams wait */
	SLICE_MIN = 2048,       /* shorter pieces are copied */
	BLOCK_MAX = 8192,       /* a header block of ours; within any peer's SETTINGS_MAX_FRAME_SIZE */
};

/* ":status: 200" and "content-type: application/grpc", from the static table only. */
static const uint8_t block_ok[] = "\x88\x0f\x10\x10"
				  "application/grpc";
enum {
	BLOCK_OK = sizeof block_ok - 1,
	HEADER_FIELD_OVERHEAD = 32,
	GRPC_STATUS_LIST = 11 + 2 + HEADER_FIELD_OVERHEAD,
	BLOCK_OK_LIST = 7 + 3 + 12 + 16 + 2 * HEADER_FIELD_OVERHEAD,
};
/* "grpc-status: 0" */
static const uint8_t trailers_ok[] = "\x00\x0b"
				     "grpc-status\x01"
				     "0";
enum { TRAILERS_OK = sizeof trailers_ok - 1 };

/* Streams leave half of the queue's bound to what cannot wait: answers of other calls, control frames. */
static size_t pump_queue(const struct h2_session *s)
{
	size_t half = s->rpc->shard->opts->conn_queue_max / 2;
	return half < PUMP_QUEUE ? half : PUMP_QUEUE;
}

static bool is_above_water(const struct h2_session *s)
{
	return conn_queued(s->conn) >= conn_high_water(s->rpc->shard->opts->conn_queue_max);
}

/* The longest DATA frame that may be sent now, out of `n` bytes; 0 or less: wait. */
static int64_t room_for(const struct h2_stream *st, int64_t n)
{
	const struct h2_session *s = st->session;
	int64_t longest = (int64_t)pump_queue(s) / 2;
	n = n < s->peer_frame ? n : s->peer_frame;
	n = n < longest ? n : longest;
	n = n < st->send_window ? n : st->send_window;
	n = n < s->send_window ? n : s->send_window;
	if (n > 0 && conn_queued(s->conn) >= pump_queue(s)) {
		conn_want_writable(s->conn);
		return 0;
	}
	return n;
}

static bool is_pending(const struct h2_stream *st)
{
	return st->pend.len > st->pend.at || st->end_pending;
}

/* Keeps the session's count of streams that wait for window or output room. */
void h2_note_waiting(struct h2_stream *st, bool waits)
{
	if (waits != st->waits)
		st->session->waiting += waits ? 1 : (uint32_t)-1;
	st->waits = waits;
}

/* There is something to send that a window does not let out. */
bool h2_is_shut(const struct call *c)
{
	const struct h2_stream *st = container_of(c, struct h2_stream, call);
	bool waits = st->pend.len > st->pend.at || st->held_back;
	return waits && (st->send_window <= 0 || st->session->send_window <= 0);
}

/* Both sides have ended, or ours has and the rest of the request is of no interest. */
static void finish_stream(struct h2_stream *st)
{
	struct h2_session *s = st->session;
	uint32_t id = st->id;
	bool remote_end = st->remote_end || st->end_seen, discarded = st->discarded;
	int32_t window = st->recv_window;
	h2_stream_drop(st);
	if (likely(remote_end))
		s->answered += s->answered < UINT32_MAX;
	else if (!discarded && !h2_discard_begin(s, id, window))
		h2_reset(s, id, H2_NO_ERROR, false);
	if (unlikely(s->draining || s->eof))
		h2_maybe_close(s);
}

static uint8_t *put_headers_ok(uint8_t *p, uint32_t id)
{
	h2_frame_put(p, BLOCK_OK, H2_HEADERS, H2_F_END_HEADERS, id);
	memcpy(p + H2_FRAME_HEADER, block_ok, BLOCK_OK);
	return p + H2_FRAME_HEADER + BLOCK_OK;
}

/* A header block that is not one of the constants. A field that does not fit into the block, or that would exceed
 * the peer's SETTINGS_MAX_HEADER_LIST_SIZE, is left out, and the log says so. */
struct block {
	size_t n;
	uint64_t list, list_max; /* as RFC 9113 section 6.5.2 counts: name + value + 32 bytes a field */
	bool full;
	uint8_t p[BLOCK_MAX];
};

/* The first field block after the peer has lowered the table's size begins with a size update. */
static void block_init(struct block *b, struct h2_session *s)
{
	b->n = 0;
	b->list = GRPC_STATUS_LIST; /* the one field that is never left out */
	b->list_max = s->peer_header_list;
	b->full = false;
	if (unlikely(s->table_update_due)) {
		b->p[b->n++] = HPACK_TABLE_OFF;
		s->table_update_due = false;
		s->table_is_off = true;
	}
}

static void block_add(struct block *b, struct span name, struct span value)
{
	uint64_t list = b->list + name.n + value.n + HEADER_FIELD_OVERHEAD;
	size_t n = list <= b->list_max ? hpack_put_literal(b->p + b->n, sizeof b->p - b->n, name, value) : 0;
	if (n == 0) {
		b->full = true;
		return;
	}
	b->n += n;
	b->list = list;
}

static void block_add_metadata(struct block *b, const struct metadata *m)
{
	struct span name, value;
	for (uint32_t at = 0; metadata_next(m, &at, &name, &value);)
		block_add(b, name, value);
}

static void block_begin(struct block *b, const struct h2_stream *st)
{
	memcpy(b->p + b->n, block_ok, BLOCK_OK);
	b->n += BLOCK_OK;
	b->list += BLOCK_OK_LIST;
	if (st->plain)
		return;
	if (st->takes_gzip && st->call.method->compress)
		block_add(b, SPAN_LIT("grpc-encoding"), SPAN_LIT("gzip"));
	block_add(b, SPAN_LIT("grpc-accept-encoding"), SPAN_LIT("identity,gzip"));
	if (st->call.extra)
		block_add_metadata(b, &st->call.extra->initial);
}

/* The last block of a stream whose request is still on its way. false: it has to leave now. A size update of the header table
 * is not held with it: it is due again, for whatever block leaves first. */
static __attribute__((noinline)) bool hold_block(struct h2_stream *st, const struct block *b)
{
	uint8_t frame[H2_FRAME_HEADER + BLOCK_MAX];
	size_t update = b->p[0] == HPACK_TABLE_OFF, n = b->n - update;
	h2_frame_put(frame, (uint32_t)n, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, st->id);
	memcpy(frame + H2_FRAME_HEADER, b->p + update, n);
	if (!h2_discard_hold(st->session, st->id, frame, H2_FRAME_HEADER + n))
		return false;
	if (update) {
		st->session->table_update_due = true;
		st->session->table_is_off = false;
	}
	return true;
}

static bool put_block(struct h2_stream *st, const struct block *b, uint8_t flags)
{
	if (b->full)
		log_limited(LOG_LEVEL_WARN,
			    "fields of an answer of %s were left out: more than %d bytes, or than the client takes",
			    st->call.method ? st->call.method->name : "an unknown method", BLOCK_MAX);
	if (unlikely(st->discarded) && hold_block(st, b))
		return true;
	uint8_t *p = conn_reserve(st->session->conn, H2_FRAME_HEADER + b->n);
	if (!p)
		return false;
	h2_frame_put(p, (uint32_t)b->n, H2_HEADERS, H2_F_END_HEADERS | flags, st->id);
	memcpy(p + H2_FRAME_HEADER, b->p, b->n);
	conn_commit(st->session->conn, H2_FRAME_HEADER + b->n);
	return true;
}

void h2_put_trailers(struct h2_stream *st, enum grpc_status status, struct span text)
{
	struct block b;
	char number[12], message[1536];
	block_init(&b, st->session);
	if (!st->headers_sent)
		block_begin(&b, st);
	int digits = snprintf(number, sizeof number, "%u", (unsigned)status);
	b.list -= GRPC_STATUS_LIST;
	block_add(&b, SPAN_LIT("grpc-status"), (struct span){(uint8_t *)number, (size_t)digits});
	if (text.n) {
		size_t m = grpc_percent_encode(message, sizeof message, text);
		block_add(&b, SPAN_LIT("grpc-message"), (struct span){(uint8_t *)message, m});
	}
	if (st->unknown_coding)
		block_add(&b, SPAN_LIT("grpc-accept-encoding"), SPAN_LIT("identity,gzip"));
	if (st->call.extra)
		block_add_metadata(&b, &st->call.extra->trailing);
	put_block(st, &b, H2_F_END_STREAM);
	st->headers_sent = st->local_end = true;
}

/* The answer to something that is not gRPC. */
void h2_put_http_status(struct h2_stream *st, uint16_t status)
{
	struct block b;
	char number[8];
	int digits = snprintf(number, sizeof number, "%u", (unsigned)status);
	block_init(&b, st->session);
	b.n += hpack_put_literal_indexed_name(b.p + b.n, sizeof b.p - b.n, 8,
					      (struct span){(uint8_t *)number, (size_t)digits});
	if (status == 405) /* RFC 9110 section 15.5.6: such an answer says what is allowed */
		b.n += hpack_put_literal(b.p + b.n, sizeof b.p - b.n, SPAN_LIT("allow"), SPAN_LIT("POST"));
	put_block(st, &b, H2_F_END_STREAM);
}

static bool put_headers(struct h2_stream *st)
{
	struct block b;
	if (st->headers_sent)
		return true;
	block_init(&b, st->session);
	block_begin(&b, st);
	return st->headers_sent = put_block(st, &b, 0);
}

/* Sends what the windows and the output queue allow. true: nothing is left. */
static bool pump_data(struct h2_stream *st)
{
	struct h2_session *s = st->session;
	while (st->pend.at < st->pend.len) {
		int64_t n = room_for(st, st->pend.len - st->pend.at);
		if (n <= 0)
			return false;
		uint8_t *p = conn_reserve(s->conn, H2_FRAME_HEADER + (size_t)n);
		if (!p)
			return false;
		h2_frame_put(p, (uint32_t)n, H2_DATA, 0, st->id);
		memcpy(p + H2_FRAME_HEADER, st->pend.p + st->pend.at, (size_t)n);
		conn_commit(s->conn, H2_FRAME_HEADER + (size_t)n);
		st->pend.at += (uint32_t)n;
		st->send_window -= n;
		s->send_window -= n;
		st->progress_ns = s->rpc->shard->now_ns;
	}
	h2_bytes_free(s->rpc, &st->pend);
	return true;
}

void h2_stream_pump(struct h2_stream *st)
{
	if (!pump_data(st))
		return;
	if (st->end_pending) {
		h2_put_trailers(st, st->end_status, (struct span){st->text.p, st->text.len});
		finish_stream(st);
		return;
	}
	if (st->want_writable && st->call.live && is_above_water(st->session)) {
		conn_want_writable(st->session->conn);
		return;
	}
	bool tell = st->want_writable && st->call.live;
	st->want_writable = false;
	h2_note_waiting(st, false);
	if (tell) {
		if (st->call.method->writable)
			st->call.method->writable(&st->call);
	}
}

static void pump_one(struct h2_stream *st, void *ctx)
{
	if (st->waits)
		h2_stream_pump(st);
}

void h2_streams_pump(struct h2_session *s)
{
	h2_streams_each(s, pump_one, NULL);
}

/* Without memory the message goes as it is. */
static bool compress_message(struct rpc_shard *r, struct span *msg)
{
	if (!r->gzip)
		r->gzip = gzip_new();
	return r->gzip && gzip_deflate(r->gzip, *msg, msg) == 0;
}

bool h2_send(struct call *c, const uint8_t *msg, size_t n)
{
	struct h2_stream *st = h2_stream_of(c);
	struct h2_session *s = st->session;
	uint8_t prefix[GRPC_PREFIX] = {0};
	count_add(&c->rpc->stats[c->method_index].messages_out, 1);
	if (!put_headers(st))
		return false;
	struct span out = {msg, n};
	if (c->compress && st->takes_gzip && c->method->compress)
		prefix[0] = compress_message(c->rpc, &out);
	store_be32(prefix + 1, (uint32_t)out.n);
	if (!h2_bytes_add(s->rpc, &st->pend, prefix, sizeof prefix) || !h2_bytes_add(s->rpc, &st->pend, out.p, out.n)) {
		conn_abort(s->conn, CONN_R_MEMORY);
		return false;
	}
	bool all = pump_data(st);
	if (!all) {
		st->progress_ns = s->rpc->shard->now_ns;
		h2_watch(s);
	}
	st->want_writable = !all || is_above_water(s);
	if (st->want_writable && all)
		conn_want_writable(s->conn);
	h2_note_waiting(st, st->want_writable);
	return !st->want_writable;
}

/* One DATA frame of ready bytes, copied when that costs less than another piece for the kernel to gather. */
static bool put_framed(struct h2_stream *st, const struct conn_slice *piece)
{
	struct h2_session *s = st->session;
	bool copy = piece->n < SLICE_MIN || piece->scarce;
	uint8_t *p = conn_reserve(s->conn, H2_FRAME_HEADER + (copy ? piece->n : 0));
	if (!p) {
		if (piece->release)
			piece->release(piece->owner);
		return false;
	}
	h2_frame_put(p, piece->n, H2_DATA, 0, st->id);
	if (copy)
		memcpy(p + H2_FRAME_HEADER, piece->p, piece->n);
	conn_commit(s->conn, H2_FRAME_HEADER + (copy ? piece->n : 0));
	if (!copy && !conn_write_slice(s->conn, piece))
		return false;
	st->send_window -= piece->n;
	s->send_window -= piece->n;
	st->progress_ns = s->rpc->shard->now_ns;
	return true;
}

size_t h2_send_framed(struct call *c, const struct conn_slice *all)
{
	struct h2_stream *st = h2_stream_of(c);
	size_t at = 0;
	bool owned = false; /* the release hangs on a piece; all pieces of a turn leave the output together */
	while (at < all->n && !is_pending(st) && put_headers(st)) {
		int64_t n = room_for(st, (int64_t)(all->n - at));
		if (n <= 0)
			break;
		struct conn_slice piece = {.p = (const uint8_t *)all->p + at, .n = (uint32_t)n, .scarce = all->scarce};
		if (n >= SLICE_MIN && !owned && !all->scarce) {
			piece.release = all->release;
			piece.owner = all->owner;
			owned = true;
		}
		if (!put_framed(st, &piece))
			break;
		at += (size_t)n;
	}
	if (!owned && all->release)
		all->release(all->owner);
	st->want_writable = st->held_back = at < all->n;
	h2_note_waiting(st, st->want_writable || is_pending(st));
	return at;
}

enum call_room h2_room(struct call *c)
{
	struct h2_stream *st = h2_stream_of(c);
	if (!is_pending(st) && room_for(st, 1) > 0)
		return CALL_ROOM;
	st->want_writable = true;
	h2_note_waiting(st, true);
	return st->send_window <= 0 ? CALL_SHUT : CALL_FULL;
}

void h2_finish(struct call *c, enum grpc_status status, struct span text)
{
	struct h2_stream *st = h2_stream_of(c);
	struct h2_session *s = st->session;
	call_end(c, status);
	if (!is_pending(st)) {
		if (unlikely(st->discarded))
			st->discarded = h2_discard_begin(s, st->id, st->recv_window);
		h2_put_trailers(st, status, text);
		finish_stream(st);
		return;
	}
	st->end_pending = true;
	st->discarded = false;
	st->end_status = (uint8_t)status;
	st->progress_ns = s->rpc->shard->now_ns;
	if (text.n && !h2_bytes_add(s->rpc, &st->text, text.p, text.n))
		conn_abort(s->conn, CONN_R_MEMORY);
	h2_watch(s);
}

void h2_reply(struct call *c, const uint8_t *msg, size_t n)
{
	struct h2_stream *st = h2_stream_of(c);
	struct h2_session *s = st->session;
	int64_t len = (int64_t)n + GRPC_PREFIX;
	if (unlikely(len > s->send_window || len > st->send_window || len > H2_FRAME_SIZE_DEFAULT || !st->remote_end ||
		     st->headers_sent || !st->plain || s->table_update_due)) {
		h2_send(c, msg, n);
		h2_finish(c, GRPC_OK, (struct span){0});
		return;
	}
	size_t total = 3 * H2_FRAME_HEADER + BLOCK_OK + TRAILERS_OK + (size_t)len;
	uint8_t *p = conn_reserve(s->conn, total);
	call_end(c, GRPC_OK);
	if (likely(p != NULL)) {
		p = put_headers_ok(p, st->id);
		h2_frame_put(p, (uint32_t)len, H2_DATA, 0, st->id);
		p += H2_FRAME_HEADER;
		p[0] = 0;
		store_be32(p + 1, (uint32_t)n);
		memcpy(p + GRPC_PREFIX, msg, n);
		p += len;
		h2_frame_put(p, TRAILERS_OK, H2_HEADERS, H2_F_END_HEADERS | H2_F_END_STREAM, st->id);
		memcpy(p + H2_FRAME_HEADER, trailers_ok, TRAILERS_OK);
		conn_commit(s->conn, total);
		s->send_window -= len;
	}
	finish_stream(st);
}
