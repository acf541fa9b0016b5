/* The numbers of the methods: what the native framing carries in a REQUEST, and the index of the server's method table. They never
 * change; new methods get new numbers. Their gRPC paths stand beside them. Pure; any thread. */
#ifndef ORDINAL_RPC_METHODS_H
#define ORDINAL_RPC_METHODS_H

#include "core/base/bytes.h"

enum method_number {
	METHOD_IDS_NEXT = 1,
	METHOD_IDS_TAKE = 2,
	METHOD_FEED_PUBLISH = 3,
	METHOD_FEED_PUBLISH_MANY = 4,
	METHOD_FEED_SUBSCRIBE = 5,
	METHOD_BENCH_ECHO = 6, /* only with BENCH_SERVICE */
	METHOD_STATS_GET = 7,
	METHOD_COUNT /* one above the last; number 0 is no method */
};

/* "/ordinal.v1.Ids/Next"; {NULL, 0} for a number that is no method. */
static inline struct span method_path(unsigned method)
{
	switch (method) {
	case METHOD_IDS_NEXT:
		return SPAN_LIT("/ordinal.v1.Ids/Next");
	case METHOD_IDS_TAKE:
		return SPAN_LIT("/ordinal.v1.Ids/Take");
	case METHOD_FEED_PUBLISH:
		return SPAN_LIT("/ordinal.v1.Feed/Publish");
	case METHOD_FEED_PUBLISH_MANY:
		return SPAN_LIT("/ordinal.v1.Feed/PublishMany");
	case METHOD_FEED_SUBSCRIBE:
		return SPAN_LIT("/ordinal.v1.Feed/Subscribe");
	case METHOD_BENCH_ECHO:
		return SPAN_LIT("/ordinal.bench.v1.Bench/Echo");
	case METHOD_STATS_GET:
		return SPAN_LIT("/ordinal.v1.Stats/Get");
	default:
		return (struct span){0, 0};
	}
}

#endif
