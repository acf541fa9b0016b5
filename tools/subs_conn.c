/* A subscription, read at full speed.
 *
 * Bytes are walked where they were received. What a receive cuts is kept: of a frame's or unit's header in `cut`, of a message in `part`, and
 * is completed from the next receive. After the bytes of a message FEED_SLACK more are readable, in each of the three places.
 *
 * HTTP/2: our own few frames are small and sent with one non-blocking send; there is always room for them, because the server reads. DATA is the fast path;
 * everything else is collected whole first. Nothing the server sends is trusted: what makes no sense ends the subscription. Its thread only. */
#include "tools/subs_conn.h"

#include "core/base/clock.h"
#include "core/base/text.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/h2_frame.h"
#include "rpc/wire/native.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

enum { CONNECT_TIMEOUT_S = 5, REQUEST_MAX = 8192, HEAD_MAX = 2048 };

/* The subscription makes no sense any more. Returns -EPROTO. */
__attribute__((format(printf, 2, 3), cold)) static int broken(struct subs_thread *t, const char *why, ...)
{
	va_list ap;
	if (!t->why[0]) {
		va_start(ap, why);
		vsnprintf(t->why, sizeof t->why, why, ap);
		va_end(ap);
		text_make_printable(t->why); /* some of it may be the server's */
	}
	return -EPROTO;
}

/* ---- frames ---- */

static void take_mark(struct subs_thread *t, struct subs_conn *c, const struct feed_frame *f)
{
	if (f->mark == FEED_MARK_CAUGHT_UP) {
		c->caught_up = true;
		subs_check_caught_up(&c->check);
		atomic_fetch_add_explicit(&t->ready, 1, memory_order_relaxed);
	} else if (f->mark == FEED_MARK_GAP) {
		hist_bump(&t->counts.gaps, 1);
		hist_bump(&t->counts.gap_frames, f->gap_to >= f->gap_from ? f->gap_to - f->gap_from + 1 : 0);
	}
}

/* The numbers of this run, and how long the frame took. n: of the receive at hand, the how-manieth frame. */
static inline void take_payload(struct subs_thread *t, struct subs_conn *c, struct span payload, uint32_t n)
{
	const struct subs_opts *o = &t->subs->opts;
	uint64_t run = load_stamp_run_of(payload);
	if (unlikely(run == 0 || (o->run && run != o->run))) {
		hist_bump(&t->counts.foreign, 1);
		return;
	}
	struct load_stamp s = load_stamp_get(payload.p);
	if (o->run)
		subs_check_stamp(&c->check, &s);
	if (t->measuring && c->check.live && (n < SUBS_EVERY || n % SUBS_TIME_GROUP == 0))
		hist_add(&t->counts.latency, t->now_ns > s.sent_ns ? t->now_ns - s.sent_ns : 0,
			 n < SUBS_EVERY ? 1 : SUBS_TIME_GROUP);
}

static inline void check_crc(struct subs_thread *t, struct span msg, uint32_t n)
{
	enum subs_verify v = t->subs->opts.verify;
	if (v == SUBS_VERIFY_NONE || (v == SUBS_VERIFY_SAMPLED && n >= SUBS_EVERY && n % SUBS_CRC_GROUP != 0))
		return;
	hist_bump(&t->counts.verified, 1);
	if (unlikely(feed_frame_crc(msg) != FEED_CRC_OK))
		hist_bump(&t->counts.damaged, 1);
}

/* A frame that the fast reader does not know. */
static int take_other(struct subs_thread *t, struct subs_conn *c, struct span msg, uint32_t n)
{
	struct feed_frame f;
	if (feed_frame_get(msg, &f))
		return broken(t, "the server sent something that is no Frame");
	check_crc(t, msg, n);
	if (f.mark != FEED_MARK_NONE) {
		take_mark(t, c, &f);
		return 0;
	}
	if (c->check.live)
		subs_check_live(&c->check, f.offset);
	else
		subs_check_history(&c->check, f.seq_no, f.timestamp, f.offset);
	take_payload(t, c, f.payload, n);
	return 0;
}

static inline int take_message(struct subs_thread *t, struct subs_conn *c, const uint8_t *p, size_t len)
{
	struct feed_lean l;
	uint32_t n = t->batch++;
	if (unlikely(!feed_lean_get(p, len, &l)))
		return take_other(t, c, (struct span){p, len}, n);
	check_crc(t, (struct span){p, len}, n);
	if (likely(c->check.live)) {
		subs_check_live(&c->check, l.offset);
	} else {
		uint64_t seq_no = 0, timestamp = 0;
		if ((l.seq_no && !feed_varint(&l.seq_no, &seq_no)) ||
		    (l.timestamp && !feed_varint(&l.timestamp, &timestamp)))
			return broken(t, "the server sent something that is no Frame");
		subs_check_history(&c->check, seq_no, (int64_t)timestamp, l.offset);
	}
	take_payload(t, c, l.payload, n);
	return 0;
}

/* ---- messages as gRPC frames them ---- */

static int grow(uint8_t **p, size_t *cap, size_t need)
{
	size_t n = *cap ? *cap : 256;
	if (need + FEED_SLACK <= *cap)
		return 0;
	while (n < need + FEED_SLACK)
		n *= 2;
	uint8_t *grown = realloc(*p, n);
	if (!grown)
		return -ENOMEM;
	memset(grown + *cap, 0, n - *cap);
	*p = grown;
	*cap = n;
	return 0;
}

static int keep(uint8_t **to, size_t *have, size_t *cap, const uint8_t *p, size_t n)
{
	if (grow(to, cap, *have + n))
		return -ENOMEM;
	if (n)
		memcpy(*to + *have, p, n);
	*have += n;
	return 0;
}

static int prefix_ok(struct subs_thread *t, const uint8_t *p)
{
	if (p[0] != 0)
		return broken(t, "the server sent a compressed message");
	if (load_be32(p + 1) > SUBS_MESSAGE_MAX)
		return broken(t, "the server sent a message of %u bytes", load_be32(p + 1));
	return 0;
}

/* Completes the message in `part`, taking from *p. */
static int complete_part(struct subs_thread *t, struct subs_conn *c, const uint8_t **p, size_t *n)
{
	while (*n > 0) {
		size_t want = FEED_PREFIX;
		if (c->part_n >= FEED_PREFIX) {
			if (prefix_ok(t, c->part))
				return -EPROTO;
			want += load_be32(c->part + 1);
			if (c->part_n == want)
				break;
		}
		size_t take = want - c->part_n < *n ? want - c->part_n : *n;
		if (keep(&c->part, &c->part_n, &c->part_cap, *p, take))
			return broken(t, "no memory for a message");
		*p += take;
		*n -= take;
	}
	if (c->part_n < FEED_PREFIX || c->part_n < FEED_PREFIX + (size_t)load_be32(c->part + 1))
		return 0;
	size_t len = c->part_n - FEED_PREFIX;
	c->part_n = 0;
	return take_message(t, c, c->part + FEED_PREFIX, len);
}

static int take_framed(struct subs_thread *t, struct subs_conn *c, const uint8_t *p, size_t n)
{
	int r;
	if (unlikely(c->part_n > 0)) {
		r = complete_part(t, c, &p, &n);
		if (unlikely(r))
			return r;
	}
	while (n >= FEED_PREFIX) {
		size_t len = load_be32(p + 1);
		if (unlikely(p[0] != 0 || len > n - FEED_PREFIX)) {
			if (prefix_ok(t, p))
				return -EPROTO;
			break;
		}
		r = take_message(t, c, p + FEED_PREFIX, len);
		if (unlikely(r))
			return r;
		p += FEED_PREFIX + len;
		n -= FEED_PREFIX + len;
	}
	if (n > 0 && keep(&c->part, &c->part_n, &c->part_cap, p, n))
		return broken(t, "no memory for a message");
	return 0;
}

/* ---- HTTP/2 ---- */

static int send_all(struct subs_thread *t, struct subs_conn *c, const void *p, size_t n)
{
	if (unlikely(c->tls != NULL))
		return subs_tls_send(c, p, n) ? 0 : broken(t, "sending over TLS failed");
	ssize_t r = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (r == (ssize_t)n)
		return 0;
	return broken(t, "sending failed: %s", r < 0 ? strerror(errno) : "the server does not read");
}

static int send_window(struct subs_thread *t, struct subs_conn *c)
{
	uint8_t p[2 * (H2_FRAME_HEADER + 4)];
	for (int i = 0; i < 2; i++) {
		uint8_t *at = p + i * (H2_FRAME_HEADER + 4);
		h2_frame_put(at, 4, H2_WINDOW_UPDATE, 0, i ? 1 : 0);
		store_be32(at + H2_FRAME_HEADER, c->window_used);
	}
	c->window_used = 0;
	return send_all(t, c, p, sizeof p);
}

struct head {
	unsigned status;
	bool has_status;
	char text[200];
};

static int on_field(void *ctx, struct span name, struct span value)
{
	struct head *h = ctx;
	if (span_eq(name, SPAN_LIT("grpc-status"))) {
		h->status = grpc_status_get(value);
		h->has_status = true;
	} else if (span_eq(name, SPAN_LIT("grpc-message"))) {
		size_t n = grpc_percent_decode(h->text, sizeof h->text - 1, value);
		h->text[n] = 0;
	}
	return 0;
}

static int take_headers(struct subs_thread *t, struct subs_conn *c, const struct h2_frame *f, const uint8_t *p)
{
	struct head h = {0};
	if (!(f->flags & H2_F_END_HEADERS) || (f->flags & (H2_F_PADDED | H2_F_PRIORITY)))
		return broken(t, "the server sent headers in a form that this reader does not take");
	if (!c->hpack)
		c->hpack = hpack_decoder_new(4096);
	if (!c->hpack || hpack_decode(c->hpack, p, f->len, on_field, &h))
		return broken(t, "the server sent headers that cannot be decoded");
	if (!(f->flags & H2_F_END_STREAM))
		return 0;
	return broken(t, "the subscription was ended: %s%s%s",
		      h.has_status ? grpc_status_name(h.status) : "without a status", h.text[0] ? ": " : "", h.text);
}

/* A whole frame that is not DATA. */
static int take_control(struct subs_thread *t, struct subs_conn *c, const struct h2_frame *f, const uint8_t *p)
{
	uint8_t out[H2_FRAME_HEADER + 8];
	switch (f->type) {
	case H2_HEADERS:
		return take_headers(t, c, f, p);
	case H2_SETTINGS:
		if (f->flags & H2_F_ACK)
			return 0;
		h2_frame_put(out, 0, H2_SETTINGS, H2_F_ACK, 0);
		return send_all(t, c, out, H2_FRAME_HEADER);
	case H2_PING:
		if ((f->flags & H2_F_ACK) || f->len != 8)
			return 0;
		h2_frame_put(out, 8, H2_PING, H2_F_ACK, 0);
		memcpy(out + H2_FRAME_HEADER, p, 8);
		return send_all(t, c, out, sizeof out);
	case H2_RST_STREAM:
		return broken(t, "the server reset the stream with error %u", f->len == 4 ? load_be32(p) : 0);
	case H2_PUSH_PROMISE:
	case H2_CONTINUATION:
		return broken(t, "the server sent a frame of type %u, which makes no sense here", f->type);
	default: /* GOAWAY: the stream goes on; WINDOW_UPDATE: all is sent */
		return 0;
	}
}

/* Takes in what is whole of p; *ret_used bytes. */
static int take_h2(struct subs_thread *t, struct subs_conn *c, const uint8_t *p, size_t n, size_t *ret_used)
{
	size_t at = 0;
	int r = 0;
	while (r == 0) {
		if (c->data_left > 0) {
			size_t take = c->data_left < n - at ? c->data_left : n - at;
			r = take_framed(t, c, p + at, take);
			at += take;
			c->data_left -= (uint32_t)take;
			if (c->data_left > 0)
				break;
			if (c->data_last && r == 0)
				r = broken(t, "the subscription ended without trailers");
			continue;
		}
		if (n - at < H2_FRAME_HEADER)
			break;
		struct h2_frame f = h2_frame_get(p + at);
		if (unlikely(f.len > H2_FRAME_SIZE_DEFAULT)) {
			r = broken(t, "the server sent a frame above 16 KiB");
		} else if (likely(f.type == H2_DATA && !(f.flags & H2_F_PADDED) && f.stream == 1)) {
			at += H2_FRAME_HEADER;
			c->data_left = f.len;
			c->data_last = f.flags & H2_F_END_STREAM;
			c->window_used += f.len;
			if (unlikely(c->window_used >= SUBS_WINDOW / 2))
				r = send_window(t, c);
			if (unlikely(c->data_last && f.len == 0))
				r = broken(t, "the subscription ended without trailers");
		} else if (f.type == H2_DATA) {
			r = broken(t, "the server sent DATA that makes no sense here");
		} else if (n - at - H2_FRAME_HEADER < f.len) {
			break;
		} else {
			r = take_control(t, c, &f, p + at + H2_FRAME_HEADER);
			at += H2_FRAME_HEADER + f.len;
		}
	}
	*ret_used = at;
	return r;
}

static size_t put_field(uint8_t *out, size_t n, const char *name, const char *value)
{
	size_t put = hpack_put_literal(out + n, HEAD_MAX - n, (struct span){(const uint8_t *)name, strlen(name)},
				       (struct span){(const uint8_t *)value, strlen(value)});
	return put ? n + put : n;
}

static size_t put_head(uint8_t *out, const struct subs_opts *o)
{
	struct span path = method_path(METHOD_FEED_SUBSCRIBE);
	char bearer[600];
	size_t n = hpack_put_indexed(out, HEAD_MAX, 3);                /* :method POST */
	n += hpack_put_indexed(out + n, HEAD_MAX - n, o->tls ? 7 : 6); /* :scheme https or http */
	n += hpack_put_literal(out + n, HEAD_MAX - n, SPAN_LIT(":path"), path);
	n = put_field(out, n, ":authority", o->server);
	n = put_field(out, n, "te", "trailers");
	n = put_field(out, n, "content-type", "application/grpc");
	n = put_field(out, n, "user-agent", "ordinal-load");
	if (!o->token)
		return n;
	snprintf(bearer, sizeof bearer, "Bearer %s", o->token);
	return put_field(out, n, "authorization", bearer);
}

/* Preface, SETTINGS, a window for the connection, and the request, all at once. */
static size_t put_h2_request(uint8_t *out, const struct subs_opts *o, struct span msg)
{
	uint8_t head[HEAD_MAX];
	size_t n = H2_PREFACE_LEN, head_n = put_head(head, o);
	memcpy(out, H2_PREFACE, H2_PREFACE_LEN);
	h2_frame_put(out + n, 6, H2_SETTINGS, 0, 0);
	n += H2_FRAME_HEADER;
	store_be16(out + n, H2_S_INITIAL_WINDOW_SIZE);
	store_be32(out + n + 2, SUBS_WINDOW);
	n += 6;
	h2_frame_put(out + n, 4, H2_WINDOW_UPDATE, 0, 0);
	store_be32(out + n + H2_FRAME_HEADER, SUBS_WINDOW - H2_WINDOW_DEFAULT);
	n += H2_FRAME_HEADER + 4;
	h2_frame_put(out + n, (uint32_t)head_n, H2_HEADERS, H2_F_END_HEADERS, 1);
	memcpy(out + n + H2_FRAME_HEADER, head, head_n);
	n += H2_FRAME_HEADER + head_n;
	h2_frame_put(out + n, (uint32_t)(FEED_PREFIX + msg.n), H2_DATA, H2_F_END_STREAM, 1);
	n += H2_FRAME_HEADER;
	out[n] = 0;
	store_be32(out + n + 1, (uint32_t)msg.n);
	memcpy(out + n + FEED_PREFIX, msg.p, msg.n);
	return n + FEED_PREFIX + msg.n;
}

/* ---- native framing ---- */

static int take_unit(struct subs_thread *t, struct subs_conn *c, const struct native_header *h, const uint8_t *p)
{
	uint8_t out[NATIVE_HEADER + NATIVE_PING_MAX];
	switch (h->kind) {
	case NATIVE_MESSAGE:
		if (likely(!(h->flags & (NATIVE_F_EMPTY | NATIVE_F_LAST))))
			return take_message(t, c, p, h->len);
		return broken(t, "the subscription was ended: OK");
	case NATIVE_END:
		return broken(t, "the subscription was ended: %s: %.*s", grpc_status_name(h->code),
			      (int)(h->len < 200 ? h->len : 200), (const char *)p);
	case NATIVE_PING:
		if (h->len > NATIVE_PING_MAX)
			return broken(t, "the server sent a ping that is too long");
		native_put(out, NATIVE_PONG, 0, h->len, 0, 0);
		memcpy(out + NATIVE_HEADER, p, h->len);
		return send_all(t, c, out, NATIVE_HEADER + h->len);
	default: /* GOAWAY: the call goes on */
		return 0;
	}
}

static int take_native(struct subs_thread *t, struct subs_conn *c, const uint8_t *p, size_t n, size_t *ret_used)
{
	size_t at = 0;
	int r = 0;
	while (r == 0 && n - at >= NATIVE_HEADER) {
		struct native_header h;
		if (unlikely(native_get(p + at, &h) || h.len > SUBS_MESSAGE_MAX))
			return broken(t, "the server does not speak Ordinal's native framing");
		if (n - at - NATIVE_HEADER < h.len)
			break;
		r = take_unit(t, c, &h, p + at + NATIVE_HEADER);
		at += NATIVE_HEADER + h.len;
	}
	*ret_used = at;
	return r;
}

static size_t put_native_request(uint8_t *out, const struct subs_opts *o, struct span msg)
{
	size_t n = 0, token = o->token ? strlen(o->token) : 0;
	if (token) {
		native_put(out, NATIVE_AUTH, 0, (uint32_t)token, 0, 0);
		memcpy(out + NATIVE_HEADER, o->token, token);
		n = NATIVE_HEADER + token;
	}
	native_put(out + n, NATIVE_REQUEST | NATIVE_F_LAST, METHOD_FEED_SUBSCRIBE, (uint32_t)msg.n, 0, 0);
	memcpy(out + n + NATIVE_HEADER, msg.p, msg.n);
	return n + NATIVE_HEADER + msg.n;
}

/* ---- life ---- */

int subs_conn_open(struct subs_thread *t, struct subs_conn *c)
{
	const struct address *a = &t->subs->opts.address;
	struct timeval tv = {.tv_sec = CONNECT_TIMEOUT_S};
	*c = (struct subs_conn){.fd = -1};
	int r = subs_check_init(&c->check, t->subs->opts.publishers);
	if (r)
		goto out;
	c->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		goto out_errno;
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	if (connect(c->fd, (const struct sockaddr *)&a->addr, a->len))
		goto out_errno;
	if (t->subs->opts.tls && (r = subs_tls_open(t, c)))
		goto out;
	if (fcntl(c->fd, F_SETFL, O_NONBLOCK))
		goto out_errno;
	t->live++;
	atomic_fetch_add_explicit(&t->ready, 1, memory_order_relaxed);
	return 0;
out_errno:
	r = -errno;
out:
	if (r != -EKEYREJECTED)
		snprintf(t->why, sizeof t->why, "%s", strerror(-r));
	if (c->tls)
		subs_tls_close(c);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	return r;
}

int subs_conn_begin(struct subs_thread *t, struct subs_conn *c)
{
	const struct subs_opts *o = &t->subs->opts;
	uint8_t out[REQUEST_MAX + HEAD_MAX], request[REQUEST_MAX - 1024];
	struct feed_subscribe m = {.stream = o->stream, .since = o->since, .slow = o->slow};
	struct span msg = {request, feed_subscribe_put(request, &m)};
	size_t n = o->protocol == CHANNEL_GRPC ? put_h2_request(out, o, msg) : put_native_request(out, o, msg);
	int r = send_all(t, c, out, n);
	if (r)
		return r;
	/* Not before: a server may have spoken first, and must hear our preface before any answer to that. */
	if (epoll_ctl(t->epoll, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c}))
		return broken(t, "%s", strerror(errno));
	return 0;
}

void subs_conn_close(struct subs_thread *t, struct subs_conn *c)
{
	if (c->fd < 0)
		return;
	if (c->tls)
		subs_tls_close(c);
	close(c->fd);
	c->fd = -1;
	t->live--;
}

void subs_conn_free(struct subs_conn *c)
{
	hpack_decoder_free(c->hpack);
	free(c->cut);
	free(c->part);
	subs_check_done(&c->check);
}

static int take_bytes(struct subs_thread *t, struct subs_conn *c, const uint8_t *p, size_t n)
{
	size_t used = 0;
	int r = t->subs->opts.protocol == CHANNEL_GRPC ? take_h2(t, c, p, n, &used) : take_native(t, c, p, n, &used);
	if (r)
		return r;
	if (p == c->cut) {
		memmove(c->cut, c->cut + used, n - used);
		c->cut_n = n - used;
		return 0;
	}
	c->cut_n = 0;
	return keep(&c->cut, &c->cut_n, &c->cut_cap, p + used, n - used) ? broken(t, "no memory") : 0;
}

bool subs_conn_read(struct subs_thread *t, struct subs_conn *c)
{
	/* What was cut goes before what comes, in the common buffer if it fits there. */
	uint8_t *to = t->buf;
	size_t at = c->cut_n, cap = SUBS_BUF;
	if (at <= SUBS_BUF / 2) {
		if (at)
			memcpy(to, c->cut, at);
	} else {
		/* A large native unit: grows where it is. */
		if (grow(&c->cut, &c->cut_cap, at + SUBS_BUF)) {
			broken(t, "no memory for a message");
			return false;
		}
		to = c->cut;
		cap = at + SUBS_BUF;
	}
	ssize_t n = c->tls ? subs_tls_recv(t, c, to + at, cap - at) : recv(c->fd, to + at, cap - at, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	t->now_ns = clock_mono_ns();
	int r = 0;
	if (n <= 0) {
		r = broken(t, "%s", n ? strerror(errno) : "the server closed the connection");
	} else {
		uint64_t before = c->check.received;
		t->batch = 0;
		r = take_bytes(t, c, to, at + (size_t)n);
		t->heard_ns = t->now_ns;
		if (t->measuring && c->check.received > before) {
			hist_bump(&t->counts.deliveries, c->check.received - before);
			hist_bump(&t->counts.bytes, (uint64_t)n);
			t->last_ns = t->now_ns;
		}
	}
	if (r == 0)
		return true;
	hist_bump(&t->counts.lost, 1);
	subs_conn_close(t, c);
	return false;
}
