/* The bytes of a frame: the gRPC message that a subscriber receives, and that memory and disk keep.
 *
 *   0 | length, 4 bytes big-endian | Frame: seq_no 1, payload 2, timestamp 3, offset 4, [mark 5, gap_from 6, gap_to 7,]
 *                                           [publisher 8, publisher_seq 9,] [incarnation 10,] crc32c 15 as the last field
 *
 * Fields with their default value are left out, as protobuf encoders do; crc32c is always there. It
 * covers every byte of the message before its own tag (not the prefix, whose length it confirms by
 * its place). Pure; any thread. Source: rpc/proto/ordinal/v1/ordinal.proto;
 * protobuf.dev/programming-guides/encoding; gRPC PROTOCOL-HTTP2.md (the prefix). */
#ifndef ORDINAL_QUEUE_FRAME_H
#define ORDINAL_QUEUE_FRAME_H

#include "core/base/bytes.h"

#define FRAME_PREFIX 5
#define FRAME_CRC 5 /* the last field: tag and value */
/* The most that a frame's bytes exceed its payload and its publisher's name, prefix included. */
#define FRAME_OVERHEAD_MAX 80
#define FRAME_MARK_MAX 64 /* bytes of an encoded mark, prefix included */

/* As ordinal.v1.Mark. */
enum frame_mark { FRAME_NONE, FRAME_CAUGHT_UP, FRAME_GAP, FRAME_GOING_AWAY, FRAME_RESUMED };

struct frame {
	uint64_t seq_no;
	int64_t timestamp; /* Unix ns */
	uint64_t offset;
	struct span payload;
	struct span publisher; /* empty: none */
	uint64_t publisher_seq;
	enum frame_mark mark;
	uint64_t gap_from, gap_to; /* FRAME_GAP: the first and last offset that are missing */
	uint64_t incarnation;      /* marks alone: of the stream */
};

/* Bytes that frame_put will write, prefix included. */
size_t frame_size(const struct frame *f);
/* Writes f at out, which has frame_size(f) bytes of room, and returns that number. A mark is a
 * frame like any other here: CAUGHT_UP (offset: the last one of history), GAP (gap_from, gap_to),
 * GOING_AWAY (offset: the one to resume from; 0: from the beginning), RESUMED (offset: of the first
 * frame that follows; 0: sorted history does). */
size_t frame_put(uint8_t *out, const struct frame *f);

/* Bytes of the frame that begins at `wire`, by its prefix, or 0 when it is not there in full. */
static inline size_t frame_length(struct span wire)
{
	if (wire.n < FRAME_PREFIX)
		return 0;
	size_t n = FRAME_PREFIX + (size_t)load_be32(wire.p + 1);
	return n <= wire.n ? n : 0;
}

/* Decodes the frame at the beginning of `wire`; spans lie in it. Takes only what frame_put makes (fields in rising order, each at most once, crc32c
 * last). Does not look at the CRC's value. 0 and *ret_size; -EBADMSG. */
int frame_get(struct span wire, struct frame *ret, size_t *ret_size);
/* The same for the ordering key alone, and faster. False: malformed. */
bool frame_key(struct span wire, uint64_t *ret_seq_no, int64_t *ret_timestamp, size_t *ret_size);
/* Whether the frame of exactly these bytes (prefix included) has the CRC that it says. */
bool frame_is_whole(struct span wire);

#endif
