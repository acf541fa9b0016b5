/* The bridge between calls and protobuf-c; see the header. Runs on the shard; its budget is the shard's.
 *
 * Nothing of a request survives its handler: the budget is taken back as a whole. A handler that answers from within another's (there is none such) would
 * find its memory gone, so the depth is checked.
 */
#include "rpc/typed.h"
#include "core/base/check.h"
#include "rpc/budget.h"
#include "rpc/wire/pb_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BUDGET_BLOCK = 16 << 10 };

static struct budget *budget_of(struct rpc_shard *r)
{
	if (!r->budget) {
		r->budget = malloc(sizeof *r->budget);
		/* protobuf-c's unknown fields cost up to 60 times their size; a legitimate message stays far below. */
		if (r->budget && budget_init(r->budget, BUDGET_BLOCK, (size_t)r->opts->message_max * 4 + (1 << 20))) {
			free(r->budget);
			r->budget = NULL;
		}
	}
	return r->budget;
}

/* Unpacks a message for which pb_scan said `scanned`. NULL: malformed, or no memory. */
static ProtobufCMessage *unpack(struct budget *b, struct span msg, const ProtobufCMessageDescriptor *desc,
				const struct pb_scan_limits *limits, int scanned)
{
	if (scanned == PB_SCAN_E_GROUPS) {
		uint8_t *copy = budget_alloc(b, msg.n);
		if (!copy)
			return NULL;
		memcpy(copy, msg.p, msg.n);
		pb_hide_groups(copy, msg.n, desc, limits);
		msg.p = copy;
	}
	return protobuf_c_message_unpack(desc, &b->allocator, msg.n, msg.p);
}

void typed_message(struct call *c, struct span msg)
{
	const struct typed_method *t = container_of(c->method, struct typed_method, method);
	struct pb_scan_limits limits = PB_SCAN_LIMITS;
	limits.size_max = c->rpc->opts->message_max;
	int rc = pb_scan(msg, t->request, &limits);
	if (rc < 0) {
		call_finish_text(c, rc == -EBADMSG || rc == -EILSEQ ? GRPC_INVALID_ARGUMENT : GRPC_RESOURCE_EXHAUSTED,
				 "not acceptable as a %s: %s", t->request->name, pb_scan_error_text(rc));
		return;
	}
	struct rpc_shard *r = c->rpc;
	struct budget *b = budget_of(r);
	ProtobufCMessage *m = b ? unpack(b, msg, t->request, &limits, rc) : NULL;
	if (!m) {
		bool memory = !b || budget_is_exhausted(b);
		call_finish_text(c, memory ? GRPC_RESOURCE_EXHAUSTED : GRPC_INVALID_ARGUMENT, "%s a %s",
				 memory ? "no memory to unpack" : "the message is not", t->request->name);
	} else {
		t->handle(c, m);
	}
	if (b)
		budget_reset(b);
}

static uint8_t *pack(struct call *c, const ProtobufCMessage *m, size_t *ret_n, uint32_t *ret_cap)
{
	*ret_n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = bufpool_get(&c->rpc->shard->pool, *ret_n, ret_cap);
	if (p)
		protobuf_c_message_pack(m, p);
	else
		call_finish(c, GRPC_RESOURCE_EXHAUSTED, SPAN_LIT("no memory for the answer"));
	return p;
}

void typed_reply(struct call *c, const ProtobufCMessage *m)
{
	struct shard *s = c->rpc->shard;
	size_t n;
	uint32_t cap;
	uint8_t *p = pack(c, m, &n, &cap);
	if (!p)
		return;
	call_reply(c, p, n);
	bufpool_put(&s->pool, p, cap);
}

bool typed_send(struct call *c, const ProtobufCMessage *m)
{
	struct shard *s = c->rpc->shard;
	size_t n;
	uint32_t cap;
	uint8_t *p = pack(c, m, &n, &cap);
	if (!p)
		return false;
	bool more = call_send(c, p, n);
	bufpool_put(&s->pool, p, cap);
	return more;
}

void typed_table_add(struct method_table *t, const struct typed_method *methods, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		method_table_add(t, &methods[i].method, 1);
}
