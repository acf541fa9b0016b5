/* The Feed service between two fakes: streams (queue/stream.h) that do what the test says, and a session that takes as many bytes as the test allows
 * and holds on to them until the test lets them go. Include once, in a test's only source file. */
#ifndef ORDINAL_TESTS_FEED_RIG_H
#define ORDINAL_TESTS_FEED_RIG_H

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/text.h"
#include "rpc/feed_impl.h"
#include "rpc/methods.h"
#include "rpc/session.h"
#include "rpc/wire/pb_feed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- streams ---- */

struct stream_publish {
	struct stream_publish *next;
	void *user;
	char stream[STREAM_NAME_MAX + 1];
	uint64_t seq_no, publisher_seq;
	int64_t timestamp;
	char *payload, publisher[STREAM_PUBLISHER_MAX + 1];
	size_t payload_n;
	bool detached, due;
	enum stream_error error;
	struct stream_answer answer;
};

struct fake_step {
	enum cursor_state state;
	uint8_t *bytes;
	size_t n, skip;
	uint32_t frames;
	uint64_t from, to, next_offset;
};

struct stream_cursor {
	struct stream_cursor *next;
	void *user;
	struct stream_start start;
	char stream[STREAM_NAME_MAX + 1];
	struct fake_step step[64];
	unsigned steps, at;
	bool waits, live, ended;
	bool reads, rests, alone, torn, give_back;
	uint64_t lag_bytes, lag_frames, offset, dropped_to;
	enum stream_error error;
	const char *why;
};

struct streams_view {
	struct stream_publish *first, **last;
	struct stream_cursor *cursors;
	uint64_t held;
	enum stream_error refuse_next; /* the next publish or subscription, at once */
	unsigned slices;               /* out */
	unsigned publishes;            /* ever */
};

#define FAKE_INCARNATION UINT64_C(0xfedcba9876543210)

static struct streams_view fake;

struct streams_view *streams_view_new(struct streams *ss, unsigned shard, struct doorbell *bell)
{
	fake = (struct streams_view){.last = &fake.first};
	return &fake;
}

void streams_view_free(struct streams_view *v)
{
	assert_null(v->first);
	assert_null(v->cursors);
	assert_int_equal(v->slices, 0);
}

static void fake_text(char *to, size_t cap, struct span from)
{
	assert_true(from.n < cap);
	if (from.n)
		memcpy(to, from.p, from.n);
	to[from.n] = 0;
}

enum stream_error streams_publish(struct streams_view *v, const struct stream_request *r, void *user,
				  struct stream_publish **ret)
{
	if (v->refuse_next) {
		enum stream_error e = v->refuse_next;
		v->refuse_next = STREAM_E_OK;
		return e;
	}
	struct stream_publish *p = calloc(1, sizeof *p);
	p->user = user;
	fake_text(p->stream, sizeof p->stream, r->stream);
	fake_text(p->publisher, sizeof p->publisher, r->publisher);
	p->seq_no = r->seq_no;
	p->timestamp = r->timestamp;
	p->publisher_seq = r->publisher_seq;
	p->payload = malloc(r->payload.n + 1);
	p->payload_n = r->payload.n;
	if (r->payload.n)
		memcpy(p->payload, r->payload.p, r->payload.n);
	*v->last = p;
	v->last = &p->next;
	v->publishes++;
	*ret = p;
	return STREAM_E_OK;
}

void stream_publish_detach(struct stream_publish *p)
{
	assert_false(p->detached);
	p->detached = true;
}

uint64_t streams_view_held(const struct streams_view *v)
{
	return v->held;
}

/* The n-th publish under way. */
static inline struct stream_publish *fake_publish(unsigned n)
{
	struct stream_publish *p = fake.first;
	while (p && n--)
		p = p->next;
	assert_non_null(p);
	return p;
}

static inline void fake_answer(struct stream_publish *p, uint64_t offset)
{
	p->due = true;
	p->answer = (struct stream_answer){
		.offset = offset, .timestamp = p->timestamp ? p->timestamp : 77, .incarnation = FAKE_INCARNATION};
}

static inline void fake_refuse(struct stream_publish *p, enum stream_error e)
{
	p->due = true;
	p->error = e;
}

uint32_t streams_view_publishing(const struct streams_view *v)
{
	uint32_t n = 0;
	for (const struct stream_publish *p = v->first; p; p = p->next)
		n++;
	return n;
}

enum stream_error stream_cursor_open(struct streams_view *v, const struct stream_start *start, void *user,
				     struct stream_cursor **ret)
{
	if (v->refuse_next) {
		enum stream_error e = v->refuse_next;
		v->refuse_next = STREAM_E_OK;
		return e;
	}
	struct stream_cursor *c = calloc(1, sizeof *c);
	c->user = user;
	c->start = *start;
	fake_text(c->stream, sizeof c->stream, start->stream);
	c->next = v->cursors;
	v->cursors = c;
	*ret = c;
	return STREAM_E_OK;
}

void stream_cursor_close(struct stream_cursor *c)
{
	struct stream_cursor **p = &fake.cursors;
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	for (unsigned i = c->at; i < c->steps; i++)
		free(c->step[i].bytes);
	free(c);
}

static inline struct fake_step *fake_add(struct stream_cursor *c, enum cursor_state state)
{
	assert_true(c->steps < ARRAY_SIZE(c->step));
	struct fake_step *s = &c->step[c->steps++];
	*s = (struct fake_step){.state = state};
	return s;
}

/* Frames with these keys, of consecutive offsets. The payload is the offset in decimal, padded to `payload` bytes. */
struct fake_key {
	uint64_t seq_no;
	int64_t timestamp;
};

static inline void fake_add_frames(struct stream_cursor *c, uint64_t offset, unsigned count,
				   const struct fake_key *keys, size_t payload)
{
	char text[8192];
	struct fake_step *s = fake_add(c, CURSOR_SLICE);
	s->bytes = malloc(count * (payload + FRAME_OVERHEAD_MAX));
	for (unsigned i = 0; i < count; i++) {
		memset(text, '.', sizeof text);
		snprintf(text, sizeof text, "%llu", (unsigned long long)(offset + i));
		struct frame f = {.seq_no = keys ? keys[i].seq_no : offset + i,
				  .timestamp = keys ? keys[i].timestamp : 1,
				  .offset = offset + i,
				  .payload = {(const uint8_t *)text, payload}};
		s->n += frame_put(s->bytes + s->n, &f);
	}
	s->bytes = realloc(s->bytes, s->n); /* so that reads past the end are seen */
	s->frames = count;
	s->next_offset = offset + count;
}

struct fake_hold {
	unsigned refs;
	uint8_t *bytes;
};

static struct fake_hold *fake_hold(uint8_t *bytes)
{
	struct fake_hold *h = malloc(sizeof *h);
	*h = (struct fake_hold){1, bytes};
	return h;
}

enum cursor_state stream_cursor_next(struct stream_cursor *c, size_t max, struct stream_slice *ret)
{
	assert_false(c->waits || c->ended);
	c->rests = c->torn = false;
	if (c->at == c->steps) {
		c->waits = true;
		return CURSOR_WAIT;
	}
	const struct fake_step *s = &c->step[c->at++];
	c->ended = s->state == CURSOR_ENDED;
	if (s->next_offset)
		c->offset = s->next_offset;
	if (s->state == CURSOR_CAUGHT_UP)
		c->live = true;
	if (s->state == CURSOR_BEGUN)
		*ret = (struct stream_slice){.next_offset = s->next_offset};
	if (s->state == CURSOR_GAP) {
		ret->gap_from = s->from;
		ret->gap_to = s->to;
	}
	if (s->state == CURSOR_SLICE) {
		assert_true(max >= STREAM_UNIT);
		*ret = (struct stream_slice){
			.p = s->bytes + s->skip, .n = s->n - s->skip, .frames = s->frames, .hold = fake_hold(s->bytes)};
		fake.slices++;
	}
	return s->state;
}

void stream_slice_put(struct streams_view *v, struct stream_slice *s)
{
	struct fake_hold *h = s->hold;

	assert_non_null(h);
	s->hold = NULL;
	if (--h->refs > 0)
		return;
	v->slices--;
	free(h->bytes);
	free(h);
}

void stream_slice_get(struct streams_view *v, const struct stream_slice *s)
{
	((struct fake_hold *)s->hold)->refs++;
}

void streams_view_read_stats(const struct streams_view *v, struct streams_read_stats *ret)
{
	*ret = (struct streams_read_stats){0};
}

void stream_cursor_read(struct stream_cursor *c)
{
	c->reads = true;
}

void stream_cursor_rest(struct stream_cursor *c, const struct stream_slice *s, bool alone)
{
	c->rests = true;
	c->alone = alone;
}

void stream_cursor_stir(struct stream_cursor *c)
{
	c->rests = false;
}

/* The fake gives the rest of the slice again, byte by byte as it was. */
uint32_t stream_cursor_back(struct stream_cursor *c, struct stream_slice *s, size_t taken)
{
	struct fake_step *step = &c->step[c->at - 1];
	const uint8_t *begin = s->p - step->skip;
	size_t end = s->n + step->skip, whole = 0, size;
	uint32_t frames = s->frames;

	assert_true(c->rests && c->at > 0 && taken < s->n);
	taken += step->skip;
	while (whole + (size = frame_length((struct span){begin + whole, end - whole})) <= taken) {
		whole += size;
		frames--;
	}
	*step = (struct fake_step){.state = CURSOR_SLICE, .n = end - whole, .frames = frames, .skip = taken - whole};
	step->bytes = malloc(step->n);
	memcpy(step->bytes, begin + whole, step->n);
	c->at--;
	c->torn = step->skip > 0;
	c->rests = false;
	stream_slice_put(&fake, s);
	return frames;
}

bool stream_cursor_is_torn(const struct stream_cursor *c)
{
	return c->torn;
}

bool stream_cursor_is_live(const struct stream_cursor *c)
{
	return c->live;
}

uint64_t stream_cursor_lag_bytes(const struct stream_cursor *c)
{
	return c->lag_bytes;
}

uint64_t stream_cursor_lag_frames(const struct stream_cursor *c)
{
	return c->lag_frames;
}

uint64_t stream_cursor_offset(const struct stream_cursor *c)
{
	return c->offset;
}

bool stream_cursor_drop(struct stream_cursor *c, uint64_t keep)
{
	c->dropped_to = keep;
	c->lag_bytes = keep;
	c->waits = false;
	return true;
}

enum stream_error stream_cursor_error(const struct stream_cursor *c)
{
	return c->error;
}

const char *stream_cursor_why(const struct stream_cursor *c)
{
	return c->why ? c->why : "";
}

const struct stream *stream_cursor_stream(const struct stream_cursor *c)
{
	return (const struct stream *)(const void *)c;
}

uint64_t stream_incarnation(const struct stream *s)
{
	assert_non_null(s);
	return FAKE_INCARNATION;
}

uint32_t stream_index(const struct stream *s)
{
	const struct stream_cursor *c = (const void *)s;
	return c->stream[0] ? (uint32_t)(c->stream[0] - 'a') : 0;
}

const char *stream_error_text(const struct streams *ss, enum stream_error e, char *buf, size_t cap)
{
	snprintf(buf, cap, "error %d of the streams", (int)e);
	return buf;
}

const char *stream_refusal_text(const struct streams *ss, enum stream_error e, const struct stream *s, char *buf,
				size_t cap)
{
	(void)s;
	return stream_error_text(ss, e, buf, cap);
}

const struct stream *streams_view_refused(const struct streams_view *v)
{
	(void)v;
	return NULL;
}

uint32_t streams_view_cursors(const struct streams_view *v)
{
	uint32_t n = 0;
	for (const struct stream_cursor *c = v->cursors; c; c = c->next)
		n++;
	return n;
}

bool streams_view_has_work(struct streams_view *v)
{
	return false;
}

void streams_view_turn(struct streams_view *v, const struct streams_view_ops *ops, void *ctx)
{
	for (struct stream_publish **at = &v->first, *p; (p = *at);) {
		if (!p->due) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		if (v->last == &p->next)
			v->last = at;
		if (!p->detached) {
			if (p->error)
				ops->refused(ctx, p->user, p->error);
			else
				ops->published(ctx, p->user, &p->answer);
		}
		free(p->payload);
		free(p);
	}
	for (struct stream_cursor *c = v->cursors; c; c = c->next) {
		if (c->waits && c->at < c->steps) {
			c->waits = false;
			ops->ready(ctx, c->user);
		}
		if (c->rests && c->give_back)
			ops->give_back(ctx, c->user);
	}
}

uint32_t streams_count(const struct streams *ss)
{
	return 2;
}

uint64_t streams_frames_published(const struct streams *ss)
{
	return 5 + 6;
}

void streams_info(const struct streams *ss, uint32_t i, struct stream_stats *ret)
{
	*ret = (struct stream_stats){.name = {(char)('a' + i)}, .published = 5 + i, .frames = 10 + i};
}

/* ---- the session ---- */

struct fake_call {
	struct call call;
	uint8_t *got; /* framed messages that were taken */
	size_t n, room;
	bool shut;                    /* without room: the stream alone */
	struct conn_slice held[4096]; /* not released yet */
	unsigned helds;
	bool ended, paused, replied;
	enum grpc_status status;
	char text[600];
	uint8_t reply[256];
	size_t reply_n;
};

static struct {
	struct shard shard;
	struct shard_opts shard_opts;
	struct method_table table;
	struct rpc_opts rpc_opts;
	struct rpc_shard rpc;
	struct feed *feed;
} rig;

static struct fake_call *fake_call_of(struct call *c)
{
	return container_of(c, struct fake_call, call);
}

static void fake_end(struct call *c, enum grpc_status status)
{
	struct fake_call *fc = fake_call_of(c);
	assert_false(fc->ended);
	fc->ended = true;
	fc->status = status;
	call_end(c, status);
}

static void fake_reply(struct call *c, const uint8_t *msg, size_t n)
{
	struct fake_call *fc = fake_call_of(c);
	fc->replied = true;
	memcpy(fc->reply, msg, n);
	fc->reply_n = n;
	fake_end(c, GRPC_OK);
}

static bool fake_send(struct call *c, const uint8_t *msg, size_t n)
{
	fail_msg("the service sends framed");
	return false;
}

static size_t fake_send_framed(struct call *c, const struct conn_slice *s)
{
	struct fake_call *fc = fake_call_of(c);
	size_t n = s->n < fc->room ? s->n : fc->room;
	assert_false(fc->ended);
	fc->got = realloc(fc->got, fc->n + n + 1);
	if (n)
		memcpy(fc->got + fc->n, s->p, n);
	fc->n += n;
	fc->room -= n;
	assert_true(fc->helds < ARRAY_SIZE(fc->held));
	fc->held[fc->helds++] = *s;
	return n;
}

static enum call_room fake_room(struct call *c)
{
	struct fake_call *fc = fake_call_of(c);
	return fc->room ? CALL_ROOM : fc->shut ? CALL_SHUT : CALL_FULL;
}

static struct conn fake_conn; /* whose all calls are */

static void fake_finish(struct call *c, enum grpc_status status, struct span text)
{
	struct fake_call *fc = fake_call_of(c);
	assert_true(text.n < sizeof fc->text);
	if (text.n)
		memcpy(fc->text, text.p, text.n);
	fc->text[text.n] = 0;
	fake_end(c, status);
}

static void fake_pause(struct call *c)
{
	fake_call_of(c)->paused = true;
}

static void fake_resume(struct call *c)
{
	fake_call_of(c)->paused = false;
}

static const struct call_ops fake_ops = {.reply = fake_reply,
					 .send = fake_send,
					 .send_framed = fake_send_framed,
					 .room = fake_room,
					 .finish = fake_finish,
					 .pause = fake_pause,
					 .resume = fake_resume};

/* The output has left the connection, or the connection is gone. The bytes must be readable until here. */
static inline void fake_flush(struct fake_call *fc)
{
	static volatile uint8_t sink;
	for (unsigned i = 0; i < fc->helds; i++) {
		const uint8_t *p = fc->held[i].p;
		for (uint32_t k = 0; k < fc->held[i].n; k++)
			sink ^= p[k];
		fc->held[i].release(fc->held[i].owner);
	}
	(void)sink;
	fc->helds = 0;
}

static inline struct fake_call *fake_begin(unsigned number)
{
	struct fake_call *fc = calloc(1, sizeof *fc);
	int index = method_find_number(&rig.table, (uint16_t)number);
	const struct method *m = rig.table.method[index];
	fc->room = SIZE_MAX;
	fc->call.ops = &fake_ops;
	fc->call.rpc = &rig.rpc;
	fc->call.conn = &fake_conn;
	call_begin(&fc->call, m, (uint16_t)index, 0);
	fc->call.seen = true;
	if (m->open)
		m->open(&fc->call);
	return fc;
}

static void fake_message(struct fake_call *fc, const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1); /* valid during the call only */
	if (n)
		memcpy(copy, p, n);
	fc->call.method->message(&fc->call, (struct span){copy, n});
	memset(copy, 0xdd, n);
	free(copy);
}

static void fake_cancel(struct fake_call *fc)
{
	if (fc->ended)
		return;
	call_cancel_service(&fc->call);
	fake_end(&fc->call, GRPC_CANCELLED);
}

static inline void fake_free(struct fake_call *fc)
{
	fake_cancel(fc);
	fake_flush(fc);
	free(fc->got);
	free(fc);
}

/* One turn of the shard, `ms` later. */
static inline void rig_turn(unsigned ms)
{
	rig.shard.now_ns += ms * NS_PER_MS;
	wheel_advance(&rig.shard.wheel, rig.shard.now_ns);
	svc_feed_turn(&rig.rpc);
	rpc_shard_turn(&rig.rpc);
}

static inline void rig_room(struct fake_call *fc, size_t room)
{
	fc->room = room;
	if (!fc->ended)
		fc->call.method->writable(&fc->call);
}

/* The end as the shard's loop tells it. */
static inline void rig_drain(void)
{
	rig.shard.draining = true;
	svc_feed_drain(&rig.rpc);
}

static inline int rig_begin_with(const struct feed_opts *o)
{
	memset(&rig, 0, sizeof rig);
	rig.shard_opts = (struct shard_opts){.drain_ns = 10 * NS_PER_S};
	rig.rpc_opts = (struct rpc_opts){.calls_max = 1};
	rig.shard.opts = &rig.shard_opts;
	rig.shard.now_ns = NS_PER_S;
	wheel_init(&rig.shard.wheel, rig.shard.now_ns, &rig.shard);
	bufpool_init(&rig.shard.pool);
	method_table_add(&rig.table, svc_feed_methods, SVC_FEED_METHODS);
	assert_int_equal(rpc_shard_init(&rig.rpc, &rig.shard, &rig.table, &rig.rpc_opts), 0);
	rig.feed = feed_new(NULL, o);
	assert_non_null(rig.feed);
	assert_int_equal(svc_feed_start(&rig.rpc, rig.feed), 0);
	return 0;
}

static inline int rig_begin(void **state)
{
	return rig_begin_with(&(struct feed_opts){.shards = 1,
						  .streams_max = 26,
						  .pipeline = 8,
						  .held_max = 1000,
						  .lag_max = 1000,
						  .reorder_bytes = 100000,
						  .reorder_total = 1 << 20});
}

static inline int rig_end(void **state)
{
	assert_int_equal(rig.rpc.calls, 0);
	while (fake.first) {
		fake_refuse(fake.first, STREAM_E_FAILED);
		rig_turn(0);
	}
	struct svc_feed *f = rig.rpc.feed;
	assert_int_equal(f->items.used, 0);
	assert_int_equal(f->subs.used, 0);
	assert_int_equal(f->pieces.used, 0);
	wheel_del(&rig.shard.wheel, &f->tick);
	svc_feed_stop(&rig.rpc);
	feed_free(rig.feed);
	rpc_shard_done(&rig.rpc);
	bufpool_done(&rig.shard.pool);
	return 0;
}

/* ---- requests and answers ---- */

static inline void send_publish(struct fake_call *fc, const char *stream, uint64_t seq_no, const char *payload)
{
	uint8_t msg[1024] = {0};
	struct pb_publish_request r = {.stream = {(const uint8_t *)stream, strlen(stream)},
				       .seq_no = seq_no,
				       .payload = {(const uint8_t *)payload, strlen(payload)},
				       .timestamp = (int64_t)seq_no * 10};
	fake_message(fc, msg, pb_publish_request_put(msg, &r));
}

static inline struct stream_cursor *send_subscribe(struct fake_call *fc, struct pb_subscribe_request r)
{
	uint8_t msg[256] = {0};
	r.stream = SPAN_LIT("b");
	fake_message(fc, msg, pb_subscribe_request_put(msg, &r));
	return fake.cursors;
}

/* The next frame that the call has got, from *at on; false: there is none. */
static inline bool next_frame(const struct fake_call *fc, size_t *at, struct frame *ret)
{
	size_t n;
	if (*at == fc->n)
		return false;
	struct span wire = {fc->got + *at, fc->n - *at};
	assert_true(frame_length(wire) > 0);
	assert_true(frame_is_whole((struct span){wire.p, frame_length(wire)}));
	assert_int_equal(frame_get(wire, ret, &n), 0);
	*at += n;
	return true;
}

static inline bool next_reply(const struct fake_call *fc, size_t *at, struct pb_publish_reply *ret)
{
	if (*at == fc->n)
		return false;
	assert_true(fc->n - *at >= GRPC_PREFIX && fc->got[*at] == 0);
	uint32_t n = load_be32(fc->got + *at + 1);
	assert_true(fc->n - *at - GRPC_PREFIX >= n);
	assert_int_equal(pb_publish_reply_get((struct span){fc->got + *at + GRPC_PREFIX, n}, ret), 0);
	assert_true(ret->incarnation == FAKE_INCARNATION);
	*at += GRPC_PREFIX + n;
	return true;
}

#endif
