/* What opening makes of the logs of IDs and of streams, when their records are somebody else's: whole for the journal (fuzz_journal_recover is about the
 * rest), but with any content. The first byte says which of the two; then a script of records, mostly true, on the simulated disk.
 *
 * Holds: opening the IDs gives success or -EBADMSG with a sentence, the same again the next time. Opening streams gives success, or -ENOTSUP for a record of a
 * kind that nobody knows; what is wrong with a stream closes it, the same again the next time, and it refuses everything. What was accepted can be used: a stream is read
 * from its beginning to CAUGHT_UP (or an end that names the damage), in order, and takes another frame. */
#include "core/journal_internal.h"
#include "queue/ids.h"
#include "queue/ids_record.h"
#include "queue/stream_impl.h"
#include "queue/stream_view.h"
#include "tests/unit/core/sim_disk.h"

#include "core/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 64, TURNS_MAX = 100000 };

static const uint8_t *script;
static size_t left;
static struct sim sim;
static struct doorbell bell;

static uint8_t byte(void)
{
	if (!left)
		return 0;
	left--;
	return *script++;
}

static struct journal *open_journal(void)
{
	static struct journal_disk disk;
	struct journal_opts o = {.dir = "sim", .method = JOURNAL_FDATASYNC, .disk = &disk};
	struct journal *j;
	const char *why = "";

	disk = sim_disk(&sim);
	CHECK(journal_open(&o, &j, &why) == 0);
	return j;
}

static void close_journal(struct journal *j, bool clean)
{
	sim.dead = !clean;
	journal_close(j);
	sim.dead = sim.locked = false;
}

static void turn_journal(struct journal *j)
{
	bool worked = true;

	while (worked)
		CHECK(journal_turn(j, &worked) == 0);
}

static int replay_nothing(void *ctx, const struct jrecord *rec)
{
	return 0;
}

/* ---- writing ---- */

struct writer {
	struct journal *j;
	struct journal_port *port;
	struct jlog *log;
	uint64_t mark, pos, offset;
};

static void record(struct writer *w, uint32_t type, uint64_t mark, const void *p, size_t n)
{
	if (mark < w->mark) /* the journal's own promise */
		mark = w->mark;
	w->mark = mark;
	CHECK(journal_append(w->port, w->log, type, mark, p, (uint32_t)n));
	turn_journal(w->j);
}

static size_t put_name(uint8_t *p)
{
	static const char *const names[] = {"", "a", "b", "orders", "\xff", "a\n", "\xc3\xa4", "\xed\xa0\x80"};
	uint8_t b = byte();

	if (b >= 0xf0) {
		size_t n = b == 0xff ? SEQUENCE_NAME_MAX + 1 : SEQUENCE_NAME_MAX;
		memset(p, 'n', n);
		return n;
	}
	memcpy(p, names[b & 7], strlen(names[b & 7]));
	return strlen(names[b & 7]);
}

/* As the versions wrote it that knew no incarnations. */
static size_t put_old_fact(uint8_t *p, const struct ids_fact *f)
{
	store_le64(p, f->value);
	p[8] = (uint8_t)f->name.n;
	memcpy(p + 9, f->name.p, f->name.n);
	return 9 + f->name.n;
}

static void ids_record(struct writer *w)
{
	static const uint64_t values[] = {0, 1, 100, 1000, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX, 77};
	uint8_t p[2048], b = byte(), entries = byte() % 8, type = b & 0x20 ? b : 1 + b % 6;
	size_t n = 0;

	for (unsigned i = 0; i < entries; i++) {
		uint8_t v = byte();

		uint8_t name[256];
		struct ids_fact f = {{name, put_name(name)}, values[v & 7] + (v >> 3), b & 7, v == 0xee};

		if (f.others)
			f.name.n = 0;

		if (type > IDS_RECORD_OLD_STAND)
			n += ids_record_put(p + n, &f);
		else
			n += put_old_fact(p + n, &f);
	}
	if (b & 0x40)
		n -= n ? 1 : 0;
	if (b & 0x80)
		p[n++] = b;
	record(w, type, w->mark + 1, p, n);
}

static size_t put_frames(struct writer *w, uint8_t *p, size_t cap, unsigned count)
{
	static uint8_t payload[40000];
	size_t n = 0;

	for (unsigned i = 0; i < count; i++) {
		uint8_t a = byte(), b = byte(), c = byte();
		struct frame f = {
			.seq_no = a & 0x80 ? UINT64_MAX - (a & 7) : a & 15,
			.timestamp = a & 0x40 ? INT64_MIN + (b & 7) : (b & 15) - 3,
			.offset = w->offset + i + (b == 0xff),
			.payload = {payload, c < 200 ? c : (size_t)(c - 199) * 700},
			.mark = b == 0xfe ? FRAME_GAP : FRAME_NONE,
			.publisher = b & 0x10 ? (struct span){(const uint8_t *)"p0p1p2p3" + 2 * (b >> 5 & 3), 2}
					      : (struct span){NULL, 0},
			.publisher_seq = b & 0x10 ? 1 + (b & 3) : 0,
		};

		if (n + frame_size(&f) > cap)
			break;
		n += frame_put(p + n, &f);
	}
	return n;
}

/* What stream_state.c writes before a trim: mostly true. */
static void state_record(struct writer *w)
{
	uint8_t p[STATE_BYTES + 8], b = byte();
	struct stream_state st = {
		.incarnation = b & 1 ? byte() : 77,
		.next_offset = w->offset + (b & 2 ? byte() : 0),
		.pos = b & 4 ? UINT64_MAX - byte() : w->pos,
		.max_seq = b & 8 ? 15 : byte(),
		.max_ts = (b & 15) - 3,
		.server_ts = b & 16 ? INT64_MAX : INT64_MIN,
		.boot = b & 16 ? byte() : 0,
	};
	size_t n = STATE_BYTES;

	state_encode(p, &st);
	if (b & 32)
		p[byte() % STATE_BYTES] ^= byte();
	if (b & 64)
		n = byte() % sizeof p;
	record(w, RECORD_STATE, w->offset - 1, p, n);
}

static void numbers_record(struct writer *w)
{
	uint8_t p[4096] = {1};
	uint8_t b = byte();
	size_t n = 8;

	for (unsigned i = 0; i < (b & 3) + 1u; i++) {
		uint8_t k = byte(), count = k & 7;

		p[n] = k & 8 ? byte() : 2;
		p[n + 1] = k & 16 ? byte() : k >> 5 & 1;
		store_le32(p + n + 4, k & 64 ? byte() : count);
		store_le64(p + n + 8, k & 128 ? byte() : 200);
		memcpy(p + n + 16, &"p0p1p2p3"[2 * (b >> 2 & 3)], 2);
		n += 18;
		for (unsigned m = 0; m < count; m++, n += 24) {
			store_le64(p + n, byte());
			store_le64(p + n + 8, m + (b & 16 ? byte() : 1u));
			store_le64(p + n + 16, byte());
		}
	}
	if (b & 32)
		p[byte() % n] ^= byte();
	if (b & 64)
		n -= byte() % n;
	record(w, RECORD_NUMBERS, w->offset - 1 + (b & 128 ? byte() : 0), p, n);
}

static void stream_record(struct writer *w)
{
	static uint8_t p[60 << 10];
	uint8_t b = byte(), odd = byte();
	unsigned count = 1 + (b & 7);
	uint32_t type = RECORD_FRAMES;
	uint64_t mark;

	if (odd == 10 || odd == 11) {
		if (odd == 10)
			state_record(w);
		else
			numbers_record(w);
		return;
	}
	w->pos += b & 8 ? 4096 : 0;
	uint32_t head = odd & 0x40 ? RECORD_HEAD_1 : RECORD_HEAD;
	size_t n = head + put_frames(w, p + head, sizeof p - head - 1, count);
	store_le64(p, w->pos);
	store_le64(p + 8, w->offset);
	store_le64(p + 16, b & 0x10 ? UINT64_MAX : 0);
	store_le64(p + 24, b & 0x20 ? INT64_MAX : (uint64_t)INT64_MIN);
	store_le32(p + 32, count);
	store_le32(p + 36, head == RECORD_HEAD ? 2 : 1);
	if (head == RECORD_HEAD)
		store_le64(p + 40, b & 0x40 ? INT64_MAX : b);
	mark = w->offset + count - 1;
	w->offset += count;
	w->pos += n - head;
	switch (odd & 0x3f) { /* the rest: nothing is */
	case 1:
		p[byte() % head] ^= 1u << (byte() & 7);
		break;
	case 2:
		p[head + (size_t)(byte() << 8 | byte()) % (n - head + 1)] ^= byte();
		break;
	case 3:
		n = byte() % (head + 8);
		break;
	case 4:
		n -= (n > head);
		break;
	case 5:
		p[n++] = 0;
		break;
	case 6:
		type = byte();
		break;
	case 7:
		mark += byte();
		break;
	case 8:
		store_le64(p, w->pos = UINT64_MAX - byte());
		break;
	case 9: { /* a whole history near the end of all numbers */
		uint64_t first = UINT64_MAX - byte() % 16;

		if (w->mark == 0) {
			w->offset = first;
			n = head + put_frames(w, p + head, sizeof p - head, 1);
			store_le64(p + 8, first);
			store_le32(p + 32, 1);
			mark = first;
			w->offset++;
		}
		break;
	}
	default:
		break;
	}
	record(w, type, mark, p, n);
}

static void write_log(const char *name, void (*one)(struct writer *w))
{
	struct jlog_opts lo = {.name = name, .segment_bytes = SEGMENT_BYTES_MIN, .replay = replay_nothing};
	struct writer w = {.j = open_journal(), .offset = 1};
	const char *why = "";

	CHECK(journal_log_open(w.j, &lo, &w.log, &why) == 0);
	CHECK(journal_port_new(w.j, &bell, 16, &w.port) == 0);
	for (unsigned i = 0; left > 0 && i < RECORDS_MAX; i++)
		one(&w);
	close_journal(w.j, true);
}

/* ---- IDs ---- */

/* 0 or the opening's error; *ret_sum tells what was found. */
static int open_ids(uint64_t *ret_sum)
{
	struct ids_opts o = {.shards = 1,
			     .window_min = 10,
			     .window_max = 100,
			     .window_target_ms = 100,
			     .queue_depth = 16,
			     .sequences_max = 16,
			     .create = true,
			     .count_max = 100};
	struct journal *j = open_journal();
	struct ids *ids = NULL;
	const char *why = "";
	int err = ids_open(&o, j, &ids, &why);

	CHECK(err == 0 || (err == -EBADMSG && *why));
	*ret_sum = 0;
	for (uint32_t i = 0; err == 0 && i < ids_sequence_count(ids); i++) {
		struct ids_sequence_info info;

		CHECK(ids_sequence_info(ids, i, &info) && info.next >= 1 && info.next == info.durable_end);
		*ret_sum += info.next * (i + 1);
	}
	close_journal(j, false);
	ids_free(ids);
	return err;
}

static void try_ids(void)
{
	uint64_t sum, again;

	write_log("ids", ids_record);
	int err = open_ids(&sum);
	CHECK(open_ids(&again) == err && sum == again);
}

/* ---- streams ---- */

static bool answered, ready, refused;
static uint64_t answer;

static void on_published(void *ctx, void *user, const struct stream_answer *a)
{
	answered = true;
	answer = a->offset;
}

static void on_refused(void *ctx, void *user, enum stream_error why)
{
	answered = refused = true;
}

static void on_ready(void *ctx, void *user)
{
	ready = true;
}

static const struct streams_view_ops stream_ops = {.published = on_published, .refused = on_refused, .ready = on_ready};

static void turn_streams(struct streams *ss, struct streams_view *v, struct journal *j)
{
	bool worked;

	streams_view_turn(v, &stream_ops, NULL);
	keeper_turn(ss);
	reader_turn(ss);
	CHECK(journal_turn(j, &worked) == 0);
}

/* All of the stream, from its beginning; how many frames. UINT64_MAX: the disk gave something else than it should. */
static uint64_t read_stream(struct streams *ss, struct streams_view *v, struct journal *j, uint64_t resume)
{
	struct stream_start start = {.stream = SPAN_LIT("a"), .offset = resume};
	struct stream_cursor *c;
	uint64_t frames = 0, last_seq = 0, last_offset = 0;

	CHECK(stream_cursor_open(v, &start, NULL, &c) == STREAM_E_OK);
	for (unsigned turns = 0;; turns++) {
		struct stream_slice s;
		enum cursor_state st = stream_cursor_next(c, 30000, &s);

		CHECK(turns < TURNS_MAX);
		if (st == CURSOR_CAUGHT_UP)
			break;
		if (st == CURSOR_ENDED) {
			CHECK(stream_cursor_error(c) == STREAM_E_DAMAGED && *stream_cursor_why(c));
			frames = UINT64_MAX;
			break;
		}
		if (st == CURSOR_WAIT)
			turn_streams(ss, v, j);
		if (st == CURSOR_COLD)
			stream_cursor_read(c);
		if (st != CURSOR_SLICE)
			continue;
		for (struct span rest = {s.p, s.n}; rest.n > 0;) {
			struct frame f;
			size_t size;

			CHECK(frame_get(rest, &f, &size) == 0 && frame_is_whole((struct span){rest.p, size}));
			CHECK(resume ? f.offset > last_offset : f.seq_no >= last_seq);
			last_seq = f.seq_no;
			last_offset = f.offset;
			rest = (struct span){rest.p + size, rest.n - size};
			frames++;
		}
		stream_slice_put(v, &s);
	}
	stream_cursor_close(c);
	turn_streams(ss, v, j);
	return frames;
}

static void use_stream(struct streams *ss, struct journal *j)
{
	struct streams_view *v = streams_view_new(ss, 0, &bell);
	struct stream_stats before;
	struct stream_request r = {.stream = SPAN_LIT("a"), .seq_no = 5, .payload = SPAN_LIT("more")};
	struct stream_publish *p;

	CHECK(v);
	streams_info(ss, 0, &before);
	if (before.stopped) {
		struct stream_start start = {.stream = r.stream};
		struct stream_cursor *c;

		CHECK(*before.why && streams_publish(v, &r, NULL, &p) == STREAM_E_DAMAGED);
		CHECK(stream_cursor_open(v, &start, NULL, &c) == STREAM_E_DAMAGED);
		close_journal(j, true);
		streams_view_free(v);
		return;
	}
	uint64_t all = read_stream(ss, v, j, 0);
	CHECK(all == UINT64_MAX || all == before.durable_offset - before.first_offset + 1);
	all = read_stream(ss, v, j, 1);
	CHECK(all == UINT64_MAX || all == before.durable_offset - before.first_offset + 1);
	answered = refused = false;
	CHECK(streams_publish(v, &r, NULL, &p) == STREAM_E_OK);
	for (unsigned turns = 0; !answered; turns++) {
		CHECK(turns < TURNS_MAX);
		turn_streams(ss, v, j);
	}
	CHECK(!refused && answer == before.next_offset);
	close_journal(j, true);
	streams_view_free(v);
}

static int open_streams(bool use, struct stream_stats *ret)
{
	struct streams_opts o = {.shards = 1,
				 .streams_max = 4,
				 .create = true,
				 .segment_bytes = SEGMENT_BYTES_MIN,
				 .memory_bytes = 1u << 20,
				 .payload_max = 100000,
				 .publishers_max = 1024,
				 .numbers_max = 1024,
				 .held_max = 1u << 20};
	struct journal *j = open_journal();
	struct streams *ss = NULL;
	const char *why = "";
	int err = streams_open(&o, j, &ss, &why);

	CHECK(err == 0 || (err == -ENOTSUP && *why));
	*ret = (struct stream_stats){.frames = 0};
	if (err == 0 && streams_count(ss) > 0)
		streams_info(ss, 0, ret);
	if (err == 0 && streams_count(ss) > 0 && use)
		use_stream(ss, j);
	else
		close_journal(j, false);
	if (err == 0)
		streams_free(ss);
	return err;
}

static void try_stream(void)
{
	struct stream_stats first, second;

	write_log(LOG_PREFIX "a", stream_record);
	int err = open_streams(false, &first);
	CHECK(open_streams(true, &second) == err);
	CHECK(first.stopped == second.stopped);
	CHECK(first.next_offset == second.next_offset && first.frames == second.frames && first.late == second.late);
	CHECK(first.incarnation == second.incarnation);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	log_level_now = (enum log_level)(LOG_LEVEL_ERROR + 1); /* damage is what this is about */
	script = data;
	left = size;
	CHECK(doorbell_init(&bell) == 0);
	sim_init(&sim);
	if (byte() & 1)
		try_ids();
	else
		try_stream();
	sim_done(&sim);
	doorbell_done(&bell);
	return 0;
}
