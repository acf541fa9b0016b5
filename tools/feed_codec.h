/* The messages of ordinal.v1.Feed, from a client's side: requests out, replies and frames in. Pure; any thread.
 *
 * Takes what any conforming encoder may send (fields in any order, unknown ones skipped). feed_lean_get is the short cut for frames in the
 * order in which our server writes them. Source: rpc/proto/ordinal/v1/ordinal.proto. */
#ifndef ORDINAL_TOOLS_FEED_CODEC_H
#define ORDINAL_TOOLS_FEED_CODEC_H

#include "core/base/bytes.h"
#include "core/base/check.h"

enum feed_durability { FEED_FSYNC, FEED_WRITE, FEED_MEMORY, FEED_DURABILITIES };
enum feed_slow { FEED_SLOW_WAIT, FEED_SLOW_DROP, FEED_SLOW_DISCONNECT };
enum feed_mark { FEED_MARK_NONE, FEED_MARK_CAUGHT_UP, FEED_MARK_GAP, FEED_MARK_GOING_AWAY, FEED_MARK_RESUMED };

/* "fsync", "write", "memory"; "unknown" for numbers of later versions. */
const char *feed_durability_name(unsigned durability);
/* "CAUGHT_UP" and so on; "NONE"; "UNKNOWN". */
const char *feed_mark_name(unsigned mark);

/* No stream has an offset above this one: what a server says beyond it is no frame and no answer, so sums of offsets cannot overflow. */
#define FEED_OFFSET_MAX (UINT64_C(1) << 62)

struct feed_publish {
	struct span stream, payload, publisher;
	uint64_t seq_no, publisher_seq;
	int64_t timestamp;
};
/* The most that an encoded PublishRequest is longer than its three spans. */
#define FEED_PUBLISH_OVERHEAD 64
/* Encodes; returns the length. Room for the spans and FEED_PUBLISH_OVERHEAD is needed. */
size_t feed_publish_put(uint8_t *out, const struct feed_publish *p);

struct feed_publish_reply {
	uint64_t offset;
	int64_t timestamp;
	uint32_t durability;
	bool duplicate;
	uint64_t incarnation; /* 0: the server is of a version that does not tell */
};
/* 0, or -EBADMSG: no PublishReply, or one without an offset, or with an impossible one. */
int feed_publish_reply_get(struct span msg, struct feed_publish_reply *ret);

struct feed_subscribe {
	struct span stream;
	uint64_t since; /* replay_seq_no_start */
	enum feed_slow slow;
	uint64_t resume_offset;
	uint32_t reorder_ms;
	uint64_t incarnation;
	bool mark_begin;
};
#define FEED_SUBSCRIBE_OVERHEAD 64
size_t feed_subscribe_put(uint8_t *out, const struct feed_subscribe *s);

struct feed_frame {
	uint64_t seq_no, offset;
	int64_t timestamp;
	struct span payload; /* in the message */
	struct span publisher;
	uint64_t publisher_seq;
	uint32_t mark; /* enum feed_mark, or a later version's */
	uint64_t gap_from, gap_to;
	uint64_t incarnation; /* of marks; 0: the server is of a version that does not tell */
};
/* 0, or -EBADMSG: no Frame, or one with an offset that is impossible where it stands. */
int feed_frame_get(struct span msg, struct feed_frame *ret);

enum feed_crc { FEED_CRC_OK, FEED_CRC_NONE /* the frame has none at its end */, FEED_CRC_WRONG };
enum feed_crc feed_frame_crc(struct span msg);

#define FEED_PREFIX 5    /* gRPC's, before each message */
#define FEED_CRC_BYTES 5 /* tag and value, at the end of each frame */
#define FEED_TAG_CRC 0x7d
#define FEED_SLACK 16 /* bytes that must be readable (not meaningful) after a message given to feed_lean_get */

/* What a fast reader wants to know of a frame. */
struct feed_lean {
	const uint8_t *seq_no, *timestamp; /* their varints, whole; NULL: 0 */
	uint64_t offset;
	struct span payload;
};

/* The 7-bit groups of up to 8 bytes of a varint, joined. */
static inline uint64_t feed_varint_join(uint64_t x)
{
	x &= UINT64_C(0x7f7f7f7f7f7f7f7f);
	x = (x & UINT64_C(0x007f007f007f007f)) | (x & UINT64_C(0x7f007f007f007f00)) >> 1;
	x = (x & UINT64_C(0x00003fff00003fff)) | (x & UINT64_C(0x3fff00003fff0000)) >> 2;
	return (x & UINT64_C(0x0fffffff)) | (x & UINT64_C(0x0fffffff00000000)) >> 4;
}

/* A varint at *p, which is moved past it; reads 10 bytes, whatever its length. False: longer than that. */
static inline bool feed_varint(const uint8_t **p, uint64_t *ret)
{
	uint64_t x = load_le64(*p), stop = ~x & UINT64_C(0x8080808080808080);
	if (likely(stop != 0)) {
		*p += (__builtin_ctzll(stop) >> 3) + 1;
		*ret = feed_varint_join(x & (stop ^ (stop - 1)));
		return true;
	}
	uint64_t high = (*p)[8];
	*ret = feed_varint_join(x) | high << 56;
	if (high < 0x80) {
		*p += 9;
		return true;
	}
	high = (*p)[9];
	*ret = (*ret & ~(UINT64_C(1) << 63)) | high << 63;
	*p += 10;
	return high < 0x80;
}

/* Moves *p past a varint of at most 10 bytes; reads 10 bytes. */
static inline bool feed_varint_skip(const uint8_t **p)
{
	uint64_t stop = ~load_le64(*p) & UINT64_C(0x8080808080808080);
	if (likely(stop != 0)) {
		*p += (__builtin_ctzll(stop) >> 3) + 1;
		return true;
	}
	if ((*p)[8] < 0x80)
		*p += 9;
	else if ((*p)[9] < 0x80)
		*p += 10;
	else
		return false;
	return true;
}

/* A frame with payload whose fields are seq_no, payload, timestamp, offset, crc32c, in this order, and nothing else. False: some other frame, or
 * none: ask feed_frame_get. */
static inline bool feed_lean_get(const uint8_t *p, size_t n, struct feed_lean *ret)
{
	const uint8_t *end = p + n - FEED_CRC_BYTES;
	uint64_t len;
	if (unlikely(n < FEED_CRC_BYTES + 4))
		return false;
	ret->seq_no = NULL;
	if (likely(*p == 0x08)) {
		ret->seq_no = ++p;
		if (unlikely(!feed_varint_skip(&p)))
			return false;
	}
	if (unlikely(p >= end || *p != 0x12))
		return false;
	len = *++p;
	if (likely(len < 0x80))
		p++;
	else if (unlikely(!feed_varint(&p, &len)))
		return false;
	if (unlikely(p > end || len > (uint64_t)(end - p)))
		return false;
	ret->payload = (struct span){p, len};
	p += len;
	ret->timestamp = NULL;
	if (likely(p < end && *p == 0x18)) {
		ret->timestamp = ++p;
		if (unlikely(!feed_varint_skip(&p)))
			return false;
	}
	if (unlikely(p >= end || *p != 0x20))
		return false;
	p++;
	if (unlikely(!feed_varint(&p, &ret->offset)))
		return false;
	return p == end && *end == FEED_TAG_CRC && likely(ret->offset - 1 < FEED_OFFSET_MAX);
}

#endif
