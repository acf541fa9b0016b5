/* The handlers on generated types, health and reflection, each with any bytes as its request, over the native framing on a real connection; see
 * session_rig.h. A message is a byte that chooses the method, its length, and its bytes.
 *
 * Holds: what the pre-scan and protobuf-c let pass is answered or refused; answers unpack as what they are; nothing is left. */
#include "tests/fuzz/session_rig.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/svc_health.h"
#include "rpc/svc_reflection.h"
#include "rpc/wire/native.h"

enum { FIRST = 40, METHODS = SVC_HEALTH_METHODS + SVC_REFLECTION_METHODS, CALLS = 4096, DRAIN = 0xff };

static struct typed_method method[METHODS];
static const ProtobufCMessageDescriptor *reply_of[CALLS];

static void add_methods(void)
{
	for (unsigned i = 0; i < METHODS; i++) {
		method[i] = i < SVC_HEALTH_METHODS ? svc_health_methods[i]
						   : svc_reflection_methods[i - SVC_HEALTH_METHODS];
		method[i].method.number = (uint16_t)(FIRST + i); /* the native framing has none for them */
	}
	typed_table_add(&rig.methods, method, METHODS);
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
	memset(reply_of, 0, sizeof reply_of);
	while (rig.script.left && rig.c && calls < CALLS - 1) {
		uint8_t which = rig_byte(), body[256], m = which % METHODS;
		uint32_t n = rig_byte();
		if (which == DRAIN) {
			svc_health_drain(&rig.r);
			continue;
		}
		for (uint32_t i = 0; i < n; i++)
			body[i] = rig_byte();
		if (m >= SVC_HEALTH_METHODS && stream[m] && (which & 0x80)) {
			put_frame(NATIVE_MESSAGE | (which & 0x40 ? NATIVE_F_LAST : 0), 0, stream[m], body, n);
			if (which & 0x40)
				stream[m] = 0;
		} else {
			calls++;
			reply_of[calls] = m < SVC_HEALTH_METHODS
						  ? &grpc__health__v1__health_check_response__descriptor
						  : &grpc__reflection__v1__server_reflection_response__descriptor;
			put_frame(NATIVE_REQUEST | (m < SVC_HEALTH_METHODS ? NATIVE_F_LAST : 0), (uint16_t)(FIRST + m),
				  calls, body, n);
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
