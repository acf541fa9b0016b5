/* The handlers on generated types, health, reflection and stats, each with any bytes as its request, over the native framing on a real connection; see
 * session_rig.h. A message is a byte that chooses the method, its length, and its bytes; or memory runs out, or the shard drains.
 *
 * Holds: what the pre-scan and protobuf-c let pass is answered or refused; answers unpack as what they are; nothing is left. */
#include "tests/fuzz/session_rig.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "ordinal/v1/stats.pb-c.h"
#include "rpc/svc_health.h"
#include "rpc/svc_reflection.h"
#include "rpc/svc_stats.h"
#include "rpc/wire/native.h"

enum {
	FIRST = 40,
	STREAMS = SVC_HEALTH_METHODS, /* from here on, to STATS */
	STATS = SVC_HEALTH_METHODS + SVC_REFLECTION_METHODS,
	METHODS = STATS + SVC_STATS_METHODS,
	CALLS = 4096,
	NO_MEMORY = 0xef,
	FOR_STATS = 0xf0, /* from here on, to POST */
	POST = 0xfe,
	DRAIN = 0xff,
	PAGE = 3000, /* long enough to be sent without copying */
};

static struct typed_method method[METHODS];
static const ProtobufCMessageDescriptor *reply_of[CALLS];
static struct pages *pages;

static void add_methods(void)
{
	for (unsigned i = 0; i < METHODS; i++) {
		method[i] = i < STREAMS ? svc_health_methods[i]
			    : i < STATS ? svc_reflection_methods[i - STREAMS]
					: svc_stats_methods[i - STATS];
		method[i].method.number = (uint16_t)(FIRST + i); /* the native framing has none for them */
	}
	typed_table_add(&rig.methods, method, METHODS);
}

static const ProtobufCMessageDescriptor *reply_descriptor(unsigned m)
{
	if (m >= STATS)
		return &ordinal__v1__stats_reply__descriptor;
	if (m >= STREAMS)
		return &grpc__reflection__v1__server_reflection_response__descriptor;
	return strcmp(method[m].method.name, "List") == 0 ? &grpc__health__v1__health_list_response__descriptor
							  : &grpc__health__v1__health_check_response__descriptor;
}

/* The main thread's part in stats. */

static void render(void *ctx, unsigned kind, struct text *to)
{
	static uint8_t body[PAGE];
	Ordinal__V1__StatsReply reply = ORDINAL__V1__STATS_REPLY__INIT;
	uint8_t packed[PAGE + 100], prefix[GRPC_PREFIX] = {0};
	reply.content_type = (char *)(uintptr_t) "text/plain";
	reply.body = (ProtobufCBinaryData){PAGE, body};
	size_t n = ordinal__v1__stats_reply__pack(&reply, packed);
	store_be32(prefix + 1, (uint32_t)n);
	text_add(to, prefix, sizeof prefix);
	text_add(to, packed, n);
}

static void post_pages(void)
{
	pages_hurry(pages);
	pages_turn(pages, rig.s.now_ns, render, NULL);
	memory_watch(true);
	svc_stats_turn(&rig.r);
	memory_watch(false);
}

static void end_stats(void)
{
	svc_stats_stop(&rig.r);
	pages_free(pages);
}

static void begin_stats(void)
{
	if (!pages) {
		CHECK(pages_new(&(struct pages_opts){1, REPORT_KINDS, 1}, &pages) == 0);
		CHECK(svc_stats_start(&rig.r, pages) == 0);
		atexit(end_stats);
	}
	rig.ro.stats_calls_max = 8;
	rig.ro.stats_conn_calls_max = 5;
}

static void put_frame(uint8_t kind_flags, uint16_t code, uint32_t call, const void *p, uint32_t n)
{
	uint8_t header[NATIVE_HEADER];
	native_put(header, kind_flags, code, n, call, 0);
	fuzz_append(&rig.in, header, sizeof header);
	fuzz_append(&rig.in, p, n);
}

static void rig_check_output(void)
{
	struct fuzz_bytes *o = &rig.out;
	while (o->len - o->at >= NATIVE_HEADER) {
		struct native_header h;
		CHECK(native_get(o->p + o->at, &h) == 0);
		if (o->len - o->at - NATIVE_HEADER < h.len)
			return;
		if (h.kind == NATIVE_MESSAGE && h.call < CALLS && reply_of[h.call]) {
			ProtobufCMessage *m = protobuf_c_message_unpack(reply_of[h.call], NULL, h.len,
									o->p + o->at + NATIVE_HEADER);
			CHECK(m &&
			      (h.len > 0 || reply_of[h.call] == &grpc__health__v1__health_check_response__descriptor));
			protobuf_c_message_free_unpacked(m, NULL);
		}
		o->at += NATIVE_HEADER + h.len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t calls = 0, stream[METHODS] = {0};
	if (!method[0].handle) /* before the shard is made, which counts by method */
		add_methods();
	rig_begin(data, size);
	begin_stats();
	memset(reply_of, 0, sizeof reply_of);
	while (rig.script.left && rig.c && calls < CALLS - 1) {
		uint8_t which = rig_byte(), body[256], m = which >= FOR_STATS ? STATS : which % STATS;
		uint32_t n = rig_byte();
		if (which == DRAIN) {
			svc_health_drain(&rig.r);
			continue;
		}
		if (which == NO_MEMORY) {
			memory_fail(1u + n % 64);
			continue;
		}
		if (which == POST) {
			post_pages();
			continue;
		}
		for (uint32_t i = 0; i < n; i++)
			body[i] = rig_byte();
		bool streams = m >= STREAMS && m < STATS;
		if (streams && stream[m] && (which & 0x80)) {
			put_frame(NATIVE_MESSAGE | (which & 0x40 ? NATIVE_F_LAST : 0), 0, stream[m], body, n);
			if (which & 0x40)
				stream[m] = 0;
		} else {
			calls++;
			reply_of[calls] = reply_descriptor(m);
			put_frame(NATIVE_REQUEST | (streams ? 0 : NATIVE_F_LAST), (uint16_t)(FIRST + m), calls, body,
				  n);
			stream[m] = calls;
		}
		rig_deliver(SIZE_MAX);
		rig_turn();
		if (!(which & 0x20)) {
			rig_sent(SIZE_MAX);
			rig_turn();
		}
		rig_check_output();
	}
	rig_end();
	return 0;
}
