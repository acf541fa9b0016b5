/* The native session on a real connection: frames that make sense, frames that do not, and raw bytes, in any order; see session_rig.h.
 *
 * Holds of what the server writes: whole frames of the kinds that servers send; and a call that was asked for once is ended once at the most. */
#include "tests/fuzz/session_rig.h"

#include "rpc/wire/native.h"

enum { CALLS = 1 << 12 };

static struct {
	uint32_t next;
	uint32_t asked[CALLS], ended[CALLS];
	bool raw;
} nat;

static void put_frame(uint8_t kind_flags, uint16_t code, uint32_t call, uint32_t arg, const void *p, uint32_t n)
{
	uint8_t header[NATIVE_HEADER];
	native_put(header, kind_flags, code, n, call, arg);
	fuzz_append(&rig.in, header, sizeof header);
	fuzz_append(&rig.in, p, n);
}

static uint32_t some_call(void)
{
	uint8_t b = rig_byte();
	if (b >= 250)
		return b;
	return nat.next > b % 8 ? nat.next - 1 - b % 8 : 0;
}

static uint32_t some_bytes(uint8_t *body, size_t cap)
{
	uint8_t size = rig_byte(), first = rig_byte();
	uint32_t n = size < 200 ? size : (uint32_t)(size - 199) * 700;
	memset(body, 0, cap);
	body[0] = first;
	return n;
}

static void put_request(void)
{
	static uint8_t body[40000];
	uint8_t what = rig_byte();
	uint16_t method = what & 0x80 ? rig_byte() : 1 + (what & 3);
	bool streams = method == 3;
	uint8_t flags = streams == !(what & 0x40) ? 0 : NATIVE_F_LAST;
	uint32_t n = what & 0x20 ? 0 : some_bytes(body, sizeof body), call = what & 0x10 ? some_call() : nat.next++;
	if (call < CALLS)
		nat.asked[call]++;
	if (n == 0 && (what & 8))
		flags |= NATIVE_F_EMPTY;
	put_frame(NATIVE_REQUEST | flags, method, call, what & 4 ? 100 : 0, body, n);
}

static void put_message(void)
{
	static uint8_t body[40000];
	uint8_t what = rig_byte();
	uint32_t n = what & 1 ? 0 : some_bytes(body, sizeof body);
	uint8_t flags = (what & 2 ? NATIVE_F_LAST : 0) | (n == 0 && (what & 4) ? NATIVE_F_EMPTY : 0);
	put_frame(NATIVE_MESSAGE | flags, 0, some_call(), 0, body, n);
}

static void rig_check_output(void)
{
	struct fuzz_bytes *o = &rig.out;
	if (rig.in.len && rig.in.p[0] != NATIVE_MAGIC) /* raw bytes have asked for another session */
		return;
	while (o->len - o->at >= NATIVE_HEADER) {
		struct native_header h;
		CHECK(native_get(o->p + o->at, &h) == 0);
		if (o->len - o->at - NATIVE_HEADER < h.len)
			return;
		o->at += NATIVE_HEADER + h.len;
		CHECK(h.kind == NATIVE_MESSAGE || h.kind == NATIVE_END || h.kind == NATIVE_PONG ||
		      h.kind == NATIVE_GOAWAY);
		CHECK(!(h.flags & NATIVE_F_EMPTY) && h.arg == 0 && (h.kind == NATIVE_END || h.code == 0));
		CHECK(h.kind != NATIVE_END || (h.code < GRPC_STATUS_COUNT && h.len <= CALL_TEXT_MAX));
		bool ends = h.kind == NATIVE_END || (h.kind == NATIVE_MESSAGE && (h.flags & NATIVE_F_LAST));
		if (nat.raw || h.call >= CALLS || h.kind == NATIVE_PONG || h.kind == NATIVE_GOAWAY)
			continue;
		nat.ended[h.call] += ends;
		CHECK(nat.ended[h.call] <= nat.asked[h.call] || nat.asked[h.call] == 0);
		CHECK(ends || nat.asked[h.call] != 1 || nat.ended[h.call] == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	rig_begin(data, size);
	memset(&nat, 0, sizeof nat);
	for (unsigned ops = 0; rig.script.left && rig.c && ops < RIG_OPS_MAX; ops++) {
		uint8_t op = rig_byte() % 22, ping[NATIVE_PING_MAX] = {0};
		nat.raw |= op == 0;
		if (rig_op(op))
			continue;
		switch (op) {
		case 13:
		case 14:
		case 15:
			put_request();
			break;
		case 16:
		case 17:
			put_message();
			break;
		case 18:
			put_frame(NATIVE_CANCEL, 0, some_call(), 0, NULL, 0);
			break;
		case 19:
			put_frame(NATIVE_PING, 0, some_call(), 0, ping, rig_byte() % sizeof ping);
			break;
		case 20:
			put_frame(8, 0, 0, 0, ping, rig_byte() % sizeof ping);
			break;
		default:
			nat.raw = true;
			put_frame(rig_byte() & 0x3f, 0, some_call(), 0, NULL, 0);
		}
		rig_check_output();
	}
	rig_end();
	return 0;
}
