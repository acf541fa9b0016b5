/* The records of a stream's state: what a restart must find again when the records that it follows
 * from are trimmed. Runs on the stream's owner; the decoders on the thread that opens the stream.
 *
 *   STATE    version u32 | zero u32 | incarnation u64 | next offset u64 | position u64
 *            | running maximum: seq_no u64, timestamp i64
 *            | greatest timestamp that the server gave i64 | run of the machine u64
 *   NUMBERS  version u32 | zero u32 | entries, each of one publisher:
 *            name bytes u8 | flags u8 (1: older numbers were forgotten) | zero u16 | numbers u32
 *            | greatest number u64 | name
 *            | numbers, by offset: number u64, offset u64, timestamp i64
 *
 * All little-endian. Both are facts that are true where they stand in the log, so recovery may meet
 * any of them at any time. A STATE's mark is its next offset less one.
 *
 *   trim due -> NUMBERS, as many as it takes, over several turns -> STATE -> journal_trim
 *
 * The numbers of publishers whose frames stay are found again from the frames, so only those of
 * frames that are trimmed are written. The journal keeps everything from the first of these records
 * on, whatever segments begin between them and the trim (JSTATE_FIRST, JSTATE_LAST). */
#include "queue/stream_impl.h"

#include <stdlib.h>

#define STATE_VERSION 1u
#define PART_HEAD 8u
#define PART_BYTES (32u << 10)
#define PARTS_TURN 8u

void state_encode(uint8_t p[STATE_BYTES], const struct stream_state *st)
{
	store_le32(p, STATE_VERSION);
	store_le32(p + 4, 0);
	store_le64(p + 8, st->incarnation);
	store_le64(p + 16, st->next_offset);
	store_le64(p + 24, st->pos);
	store_le64(p + 32, st->max_seq);
	store_le64(p + 40, (uint64_t)st->max_ts);
	store_le64(p + 48, (uint64_t)st->server_ts);
	store_le64(p + 56, st->boot);
}

int state_decode(struct span payload, struct stream_state *ret)
{
	const uint8_t *p = payload.p;

	if (payload.n < 4)
		return -EBADMSG;
	if (load_le32(p) != STATE_VERSION)
		return -ENOTSUP;
	if (payload.n != STATE_BYTES || load_le32(p + 4) != 0)
		return -EBADMSG;
	*ret = (struct stream_state){
		.incarnation = load_le64(p + 8),
		.next_offset = load_le64(p + 16),
		.pos = load_le64(p + 24),
		.max_seq = load_le64(p + 32),
		.max_ts = (int64_t)load_le64(p + 40),
		.server_ts = (int64_t)load_le64(p + 48),
		.boot = load_le64(p + 56),
	};
	return ret->incarnation != 0 && ret->next_offset != 0 ? 0 : -EBADMSG;
}

int state_numbers_open(struct span *rest)
{
	if (rest->n < 4)
		return -EBADMSG;
	if (load_le32(rest->p) != STATE_VERSION)
		return -ENOTSUP;
	if (rest->n < PART_HEAD || load_le32(rest->p + 4) != 0)
		return -EBADMSG;
	*rest = (struct span){rest->p + PART_HEAD, rest->n - PART_HEAD};
	return 0;
}

/* ---- writing ---- */

/* There is room in the port, as this thread alone fills it. */
static void push(struct stream *s, struct journal_port *port, uint32_t type, uint8_t *body, size_t n, bool last)
{
	struct state_writing *w = &s->own.state;
	struct jappend a = {
		.log = s->log,
		.type = type,
		.mark = s->own.sub_offset - 1,
		.body = {body, n},
		.state = (w->first ? JSTATE_FIRST : 0) | (last ? JSTATE_LAST : 0),
		.owned = true,
	};

	CHECK(journal_appendv(port, &a));
	w->first = false;
}

/* One record of numbers. False: there is no memory for it now. */
static bool write_numbers(struct stream *s, struct journal_port *port)
{
	struct publishers *ps = &s->own.publishers;
	uint8_t *p = malloc(PART_BYTES);
	size_t n;

	if (p == NULL)
		return false;
	store_le32(p, STATE_VERSION);
	store_le32(p + 4, 0);
	n = publishers_put(ps, s->own.state.below, p + PART_HEAD, PART_BYTES - PART_HEAD);
	if (n == 0) {
		free(p);
		return true;
	}
	push(s, port, RECORD_NUMBERS, p, PART_HEAD + n, false);
	return true;
}

/* With STREAM_MEMORY nothing is submitted, so this is where the log ended when it was opened. */
static bool write_state(struct stream *s, struct journal_port *port)
{
	const struct stream_own *o = &s->own;
	struct stream_state st = {
		.incarnation = s->log_incarnation,
		.next_offset = o->sub_offset,
		.pos = o->sub_pos,
		.max_seq = o->sub_max_seq,
		.max_ts = o->sub_max_ts,
		.server_ts = o->server_ts,
		.boot = s->durability == STREAM_WRITE ? journal_boot(s->ss->journal) : 0,
	};
	uint8_t *p = malloc(STATE_BYTES);

	if (p == NULL)
		return false;
	state_encode(p, &st);
	push(s, port, RECORD_STATE, p, STATE_BYTES, true);
	return true;
}

void stream_state_turn(struct stream *s, struct journal_port *port)
{
	struct stream_own *o = &s->own;
	struct state_writing *w = &o->state;

	if (!w->under_way) {
		if (o->trimmed == o->trim_offset)
			return;
		w->under_way = w->first = true;
		w->trim = o->trim_offset;
		w->below = w->trim < o->sub_offset ? w->trim : o->sub_offset;
		publishers_walk(&o->publishers);
	}
	w->starved = false;
	for (unsigned i = 0; i < PARTS_TURN && publishers_walking(&o->publishers); i++) {
		if (journal_port_waiting(port) >= STATE_WAITING_MAX)
			return;
		w->starved = !write_numbers(s, port);
		if (w->starved)
			return;
	}
	if (publishers_walking(&o->publishers) || journal_port_waiting(port) >= STATE_WAITING_MAX)
		return;
	w->starved = !write_state(s, port);
	if (w->starved)
		return;
	CHECK(journal_trim(port, s->log, w->trim));
	o->trimmed = w->trim;
	w->under_way = false;
}

bool stream_state_can_turn(const struct stream *s, const struct journal_port *port)
{
	return s->own.state.under_way && !s->own.state.starved && journal_port_waiting(port) < STATE_WAITING_MAX;
}
