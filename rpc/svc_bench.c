/* The service ordinal.bench.v1.Bench; see the header. svc_bench_echo runs on whichever thread owns the room, the rest on the shard. */
#include "rpc/svc_bench.h"
#include "rpc/methods.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOB_DATA = 1, WIRE_LEN = 2 };

void svc_bench_room_done(struct svc_bench_room *room)
{
	gzip_free(room->gzip);
	free(room->out);
	*room = (struct svc_bench_room){0};
}

static bool blob_get(struct span msg, struct span *ret)
{
	const uint8_t *p = msg.p, *end = msg.p + msg.n;
	*ret = (struct span){p, 0};
	while (p != end) {
		uint32_t number;
		unsigned wire;
		uint64_t value;
		struct span bytes;
		if (pb_get_field(&p, end, &number, &wire, &value, &bytes))
			return false;
		if (number == BLOB_DATA && wire == WIRE_LEN)
			*ret = bytes;
	}
	return true;
}

static bool blob_put(struct svc_bench_room *room, struct span data, struct span *ret)
{
	size_t need = data.n + 1 + PB_VARINT_MAX, n = 0;
	if (!room->out || room->cap < need) {
		uint8_t *p = realloc(room->out, need);
		if (!p)
			return false;
		room->out = p;
		room->cap = need;
	}
	room->out[n++] = BLOB_DATA << 3 | WIRE_LEN;
	n += pb_put_varint(room->out + n, data.n);
	memcpy(room->out + n, data.p, data.n);
	*ret = (struct span){room->out, n + data.n};
	return true;
}

enum grpc_status svc_bench_echo(struct svc_bench_room *room, struct span msg, size_t max, struct span *ret)
{
	struct span data, plain, packed;
	if (!blob_get(msg, &data)) {
		*ret = SPAN_LIT("the message is not an ordinal.bench.v1.Blob");
		return GRPC_INVALID_ARGUMENT;
	}
	if (!room->gzip)
		room->gzip = gzip_new();
	int rc = room->gzip ? gzip_inflate(room->gzip, data, max, &plain) : -ENOMEM;
	if (rc == 0)
		rc = gzip_deflate(room->gzip, plain, &packed);
	if (rc == 0 && !blob_put(room, packed, ret))
		rc = -ENOMEM;
	if (rc == 0)
		return GRPC_OK;
	*ret = rc == -EBADMSG    ? SPAN_LIT("data is not one gzip stream")
	       : rc == -EMSGSIZE ? SPAN_LIT("data inflates to more than MESSAGE_MAX bytes")
				 : SPAN_LIT("no memory for the work");
	return rc == -EBADMSG ? GRPC_INVALID_ARGUMENT : GRPC_RESOURCE_EXHAUSTED;
}

static void echo_message(struct call *c, struct span msg)
{
	struct rpc_shard *r = c->rpc;
	struct span out;
	if (!r->bench)
		r->bench = calloc(1, sizeof(struct svc_bench_room));
	if (!r->bench) {
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for the work"));
		return;
	}
	enum grpc_status status = svc_bench_echo(r->bench, msg, r->opts->message_max, &out);
	if (status == GRPC_OK)
		call_reply(c, out.p, out.n);
	else
		call_finish(c, status, out);
}

/* The answer is sent before the handler returns. */
static void echo_cancel(struct call *c)
{
}

const struct method svc_bench_methods[SVC_BENCH_METHODS] = {
	{.service = "ordinal.bench.v1.Bench",
	 .name = "Echo",
	 .number = METHOD_BENCH_ECHO,
	 .kind = METHOD_UNARY,
	 .access = METHOD_FOR_KNOWN,
	 .message = echo_message,
	 .cancel = echo_cancel},
};

void svc_bench_stop(struct rpc_shard *r)
{
	if (r->bench)
		svc_bench_room_done(r->bench);
	free(r->bench);
	r->bench = NULL;
}
