/* Hand-kept protobuf codecs of the Feed service's small messages (rpc/proto/ordinal/v1/ordinal.proto), under the rules of rpc/wire/pb.h. Frames
 * themselves are queue/frame.h's. Pure; any thread. A unit test holds them against protobuf-c. */
#ifndef ORDINAL_RPC_WIRE_PB_FEED_H
#define ORDINAL_RPC_WIRE_PB_FEED_H

#include "core/base/bytes.h"

struct pb_publish_request {
	struct span stream; /* spans lie in the message */
	uint64_t seq_no;
	struct span payload;
	int64_t timestamp;
	struct span publisher;
	uint64_t publisher_seq;
};
/* 0, or -EBADMSG: not a PublishRequest. */
int pb_publish_request_get(struct span msg, struct pb_publish_request *ret);
/* Bytes that pb_publish_request_put may write at the most, without stream, payload and publisher. */
#define PB_PUBLISH_REQUEST_OVERHEAD 64
/* Encodes r; returns its length. The room must be PB_PUBLISH_REQUEST_OVERHEAD and the bytes of the three spans. */
size_t pb_publish_request_put(uint8_t *out, const struct pb_publish_request *r);

struct pb_publish_reply {
	uint64_t offset;
	int64_t timestamp;
	uint32_t durability; /* as ordinal.v1.Durability */
	bool duplicate;
	uint64_t incarnation;
};
#define PB_PUBLISH_REPLY_MAX 40
/* Encodes r; returns its length, at most PB_PUBLISH_REPLY_MAX. Default values are left out. */
size_t pb_publish_reply_put(uint8_t *out, const struct pb_publish_reply *r);
int pb_publish_reply_get(struct span msg, struct pb_publish_reply *ret);

struct pb_subscribe_request {
	struct span stream;
	uint64_t replay_seq_no_start;
	uint32_t slow; /* as ordinal.v1.SlowPolicy, or a number that is none of them */
	uint64_t resume_offset;
	uint32_t reorder_ms;
	uint64_t incarnation;
	bool mark_begin;
};
int pb_subscribe_request_get(struct span msg, struct pb_subscribe_request *ret);
#define PB_SUBSCRIBE_REQUEST_OVERHEAD 64
/* The room must be PB_SUBSCRIBE_REQUEST_OVERHEAD and the bytes of the stream's name. */
size_t pb_subscribe_request_put(uint8_t *out, const struct pb_subscribe_request *r);

#endif
