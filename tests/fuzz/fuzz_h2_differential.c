/* Our HTTP/2 session beside nghttp2's, on the same bytes: what a client may send after the preface, in pieces.
 *
 * Holds: what nghttp2 takes for an error of the connection is not taken in silence by ours; and where neither finds fault with anything, both have
 * seen the same streams, with the same messages and the same ends. Streams are not answered, so that they live as long on both sides.
 * Ours is stricter by design (gRPC only, flood limits, numbers of closed streams), so a fault that only ours finds says nothing. */
#include "tests/fuzz/session_rig.h"

#include "rpc/h2_impl.h"

#include <nghttp2/nghttp2.h>

enum { IDS = 256, INPUT_MAX = 32 << 10 };

/* What one side knows of the streams with odd numbers below 2 * IDS. */
struct view {
	bool fault;   /* it has found something wrong */
	bool opinion; /* nghttp2: that RFC 9113 does not share */
	uint32_t fatal;
	struct seen {
		bool open, ended, unclear;
		uint32_t messages, hash;
		uint8_t prefix[GRPC_PREFIX];
		uint32_t at, want; /* of the message at hand: bytes with its prefix */
	} stream[IDS];
};
static struct view ours, theirs;

static struct seen *seen_of(struct view *v, int64_t id)
{
	return id > 0 && (id & 1) && id / 2 < IDS ? &v->stream[id / 2] : NULL;
}

static void note_bytes(struct seen *s, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s->hash = (s->hash ^ p[i]) * 16777619u;
}

/* Our side: a service of one method that takes messages and never answers. */

static void many_open(struct call *c)
{
	struct seen *s = seen_of(&ours, h2_stream_of(c)->id);
	if (s)
		s->open = true;
}

static void many_message(struct call *c, struct span msg)
{
	struct seen *s = seen_of(&ours, h2_stream_of(c)->id);
	if (s) {
		s->messages++;
		note_bytes(s, msg.p, msg.n);
	}
}

static void many_half_close(struct call *c)
{
	struct seen *s = seen_of(&ours, h2_stream_of(c)->id);
	if (s)
		s->ended = true;
}

static void many_cancel(struct call *c)
{
}

static const struct method many = {.service = "d.S",
				   .name = "Many",
				   .kind = METHOD_BIDI,
				   .open = many_open,
				   .message = many_message,
				   .half_close = many_half_close,
				   .cancel = many_cancel};

static void rig_check_output(void)
{
	struct fuzz_bytes *o = &rig.out;
	while (o->len - o->at >= H2_FRAME_HEADER) {
		struct h2_frame f = h2_frame_get(o->p + o->at);
		if (o->len - o->at - H2_FRAME_HEADER < f.len)
			return;
		o->at += H2_FRAME_HEADER + f.len;
		/* HEADERS refuse a call: another path, a broken message. */
		ours.fault |= f.type == H2_GOAWAY || f.type == H2_RST_STREAM || f.type == H2_HEADERS;
	}
}

static void run_ours(const uint8_t *p, size_t n, size_t piece)
{
	fuzz_append(&rig.in, H2_PREFACE, H2_PREFACE_LEN);
	fuzz_append(&rig.in, p, n);
	while (rig.c && rig.recv_armed && rig.in.at < rig.in.len) {
		rig_deliver(piece);
		rig_turn();
		rig_sent(SIZE_MAX);
		rig_check_output();
	}
	for (unsigned i = 0; i < 4; i++) {
		rig_turn();
		rig_sent(SIZE_MAX);
	}
	rig_check_output();
}

/* Their side. */

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *ctx)
{
	struct seen *s = seen_of(&theirs, id);
	if (!s)
		return 0;
	while (n) {
		if (s->at < GRPC_PREFIX) {
			s->prefix[s->at++] = *p++;
			n--;
			s->want = s->at == GRPC_PREFIX ? load_be32(s->prefix + 1) : 0;
			s->unclear |= s->at == GRPC_PREFIX && (s->prefix[0] || s->want > rig.ro.message_max);
		} else {
			size_t left = GRPC_PREFIX + (size_t)s->want - s->at, take = left < n ? left : n;
			s->at += (uint32_t)take;
			p += take;
			n -= take;
		}
		if (s->unclear)
			return 0;
		if (s->at >= GRPC_PREFIX && s->at == GRPC_PREFIX + s->want) {
			s->messages++;
			s->at = 0;
		}
	}
	return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *f, void *ctx)
{
	struct seen *s = seen_of(&theirs, f->hd.stream_id);
	if (s && f->hd.type == NGHTTP2_HEADERS && f->headers.cat == NGHTTP2_HCAT_REQUEST)
		s->open = true;
	if (s && (f->hd.type == NGHTTP2_DATA || f->hd.type == NGHTTP2_HEADERS) &&
	    (f->hd.flags & NGHTTP2_FLAG_END_STREAM))
		s->ended = true;
	return 0;
}

/* An acknowledgement that nothing was sent for, a GOAWAY that names streams which a server never opened, settings of extensions that we do not have:
 * no section asks for an error. */
static int on_invalid(nghttp2_session *session, const nghttp2_frame *f, int error, void *ctx)
{
	theirs.opinion |= f->hd.type == NGHTTP2_SETTINGS && (f->hd.flags & NGHTTP2_FLAG_ACK);
	for (size_t i = 0; f->hd.type == NGHTTP2_SETTINGS && i < f->settings.niv; i++)
		theirs.opinion |= f->settings.iv[i].settings_id > NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE;
	theirs.opinion |= f->hd.type == NGHTTP2_GOAWAY && f->goaway.last_stream_id != 0;
	return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *f, void *ctx)
{
	if (f->hd.type == NGHTTP2_RST_STREAM)
		theirs.fault = true;
	if (f->hd.type == NGHTTP2_GOAWAY && f->goaway.error_code) {
		theirs.fault = true;
		theirs.fatal = f->goaway.error_code;
		/* A stream that depends on itself was an error in RFC 7540; in RFC 9113, section 5.3.2, nobody looks. */
		theirs.opinion |= f->goaway.opaque_data_len > 0 &&
				  memmem(f->goaway.opaque_data, f->goaway.opaque_data_len, "depend on itself", 16);
	}
	return 0;
}

static void drain(nghttp2_session *session)
{
	const uint8_t *p;
	while (nghttp2_session_mem_send(session, &p) > 0)
		;
}

static void run_theirs(const uint8_t *p, size_t n, size_t piece)
{
	static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100},
							  {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, RIG_STREAM_WINDOW}};
	nghttp2_session_callbacks *cb;
	nghttp2_session *session;
	CHECK(nghttp2_session_callbacks_new(&cb) == 0);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid);
	CHECK(nghttp2_session_server_new(&session, cb, NULL) == 0);
	nghttp2_session_callbacks_del(cb);
	CHECK(nghttp2_submit_settings(session, 0, settings, ARRAY_SIZE(settings)) == 0);
	nghttp2_session_set_local_window_size(session, 0, 0, RIG_CONN_WINDOW);
	drain(session);
	CHECK(nghttp2_session_mem_recv(session, (const uint8_t *)H2_PREFACE, H2_PREFACE_LEN) == H2_PREFACE_LEN);
	for (size_t at = 0; at < n;) {
		size_t take = piece < n - at ? piece : n - at;
		ssize_t rc = nghttp2_session_mem_recv(session, p + at, take);
		if (rc < 0) {
			theirs.fault = true;
			break;
		}
		at += take;
		drain(session);
	}
	drain(session);
	nghttp2_session_del(session);
}

/* Where nghttp2 sees an end of the connection and RFC 9113 asks for none, or a lesser one: its own limits, and a stream error that it makes one of
 * the connection. */
static bool is_owed(uint32_t code)
{
	return code == NGHTTP2_PROTOCOL_ERROR || code == NGHTTP2_FRAME_SIZE_ERROR ||
	       code == NGHTTP2_COMPRESSION_ERROR || code == NGHTTP2_FLOW_CONTROL_ERROR;
}

static void compare(void)
{
	CHECK(ours.fault || theirs.opinion || !is_owed(theirs.fatal));
	if (ours.fault || theirs.fault)
		return;
	for (unsigned i = 0; i < IDS; i++) {
		const struct seen *a = &ours.stream[i], *b = &theirs.stream[i];
		CHECK(a->open == b->open);
		if (b->unclear)
			continue;
		CHECK(a->messages == b->messages);
		CHECK(a->ended == b->ended);
	}
}

/* Without a frame or a header block that is cut by the end: nghttp2 looks at the beginning, and ours waits for the rest. */
static size_t whole_frames(const uint8_t *p, size_t n)
{
	size_t at = 0, block = SIZE_MAX;
	while (n - at >= H2_FRAME_HEADER) {
		struct h2_frame f = h2_frame_get(p + at);
		if (f.len > H2_FRAME_SIZE_DEFAULT)
			return n; /* it is refused for its header */
		if (n - at - H2_FRAME_HEADER < f.len)
			break;
		if (block == SIZE_MAX && f.type == H2_HEADERS && !(f.flags & H2_F_END_HEADERS))
			block = at;
		else if (f.type != H2_CONTINUATION || (f.flags & H2_F_END_HEADERS))
			block = SIZE_MAX;
		at += H2_FRAME_HEADER + f.len;
	}
	return block < at ? block : at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2 || size > INPUT_MAX)
		return 0;
	if (!rig.s.opts)
		method_table_add(&rig.methods, &many, 1);
	memset(&ours, 0, sizeof ours);
	memset(&theirs, 0, sizeof theirs);
	static const size_t pieces[] = {1, 2, 7, 9, 40, 1000, 16384, INPUT_MAX};
	size_t piece = pieces[data[0] & 7];
	rig_begin((const uint8_t[]){0}, 1);
	size_t n = whole_frames(data + 1, size - 1);
	run_ours(data + 1, n, piece);
	run_theirs(data + 1, n, piece);
	compare();
	rig_end();
	return 0;
}
