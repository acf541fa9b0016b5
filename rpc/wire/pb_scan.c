/* The look at a message before protobuf-c unpacks it. Pure; any thread; no allocation.
 *
 * One pass, with a stack of the messages that are open: `p` only moves forward, and since a sub-message ends where its parent goes on, closing
 * one is popping it. A field whose wire type is not what the descriptor says is passed over as bytes: the parser refuses it. */
#include "rpc/wire/pb_scan.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"

#include <errno.h>
#include <protobuf-c/protobuf-c.h>

struct frame {
	const uint8_t *end;
	const ProtobufCMessageDescriptor *desc; /* NULL: unknown */
	uint64_t
		seen; /* singular sub-messages met so far: bit (index in the descriptor % 64). Fields that share one count as merges early. */
};

static bool frame_merges(struct frame *f, const ProtobufCFieldDescriptor *field)
{
	uint64_t bit = UINT64_C(1) << ((size_t)(field - f->desc->fields) % 64);
	bool again = field->label != PROTOBUF_C_LABEL_REPEATED && (f->seen & bit);

	f->seen |= bit;
	return again;
}

static bool text_is_fit(struct span s)
{
	return s.n == 0 || (memchr(s.p, 0, s.n) == NULL && pb_is_utf8(s));
}

/* Overwrites the group whose start tag is at `tag` and whose content and end tag are the n bytes at `body`. The length
 * takes as many bytes as it needs to count what is left behind it. */
static void hide_group(uint8_t *tag, uint8_t *body, size_t n)
{
	size_t bytes = 1, left;

	while ((n - bytes) >> (7 * bytes))
		bytes++;
	left = n - bytes;
	tag[0] = (uint8_t)((tag[0] & ~7u) | PB_WIRE_LEN);
	for (size_t i = 0; i < bytes; i++)
		body[i] = (uint8_t)((left >> (7 * i) & 0x7f) | (i + 1 < bytes ? 0x80 : 0));
}

/* `writable`: the same bytes, whose groups are to be hidden; or NULL. */
static int walk(struct span msg, const struct ProtobufCMessageDescriptor *desc, const struct pb_scan_limits *limits,
		uint8_t *writable)
{
	struct frame stack[PB_SCAN_DEPTH];
	const uint8_t *p = msg.p;
	unsigned depth = 0, merges = 0;
	uint32_t fields = 0;
	bool groups = false;

	if (msg.n > limits->size_max)
		return -EMSGSIZE;
	if (msg.n == 0)
		return 0;
	stack[0] = (struct frame){msg.p + msg.n, desc, 0};
	for (;;) {
		struct frame *f = &stack[depth];
		uint32_t number;
		unsigned wire;
		uint64_t value;
		struct span bytes;

		if (p == f->end) {
			if (depth-- == 0)
				return groups ? PB_SCAN_E_GROUPS : 0;
			continue;
		}
		const uint8_t *tag = p;
		if (pb_get_field(&p, f->end, &number, &wire, &value, &bytes) < 0)
			return -EBADMSG;
		if (++fields > limits->fields_max)
			return -E2BIG;
		groups |= wire == PB_WIRE_GROUP;
		if (wire == PB_WIRE_GROUP && writable)
			hide_group(writable + (tag - msg.p), writable + (bytes.p - msg.p), bytes.n);
		if (wire != PB_WIRE_LEN || !f->desc)
			continue;
		const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(f->desc, number);
		if (!field)
			continue;
		if (field->type == PROTOBUF_C_TYPE_STRING && !text_is_fit(bytes))
			return -EILSEQ;
		if (field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (frame_merges(f, field) && ++merges > PB_SCAN_MERGES)
			return -E2BIG;
		if (depth + 1 == PB_SCAN_DEPTH)
			return -ELOOP;
		stack[++depth] = (struct frame){bytes.p + bytes.n, field->descriptor, 0};
		p = bytes.p;
	}
}

int pb_scan(struct span msg, const struct ProtobufCMessageDescriptor *desc, const struct pb_scan_limits *limits)
{
	return walk(msg, desc, limits, NULL);
}

void pb_hide_groups(uint8_t *msg, size_t n, const struct ProtobufCMessageDescriptor *desc,
		    const struct pb_scan_limits *limits)
{
	int rc = walk((struct span){msg, n}, desc, limits, msg);
	CHECK(rc == PB_SCAN_E_GROUPS);
}

const char *pb_scan_error_text(int error)
{
	switch (error) {
	case -EMSGSIZE:
		return "the message is too large";
	case -E2BIG:
		return "the message has too many fields";
	case -ELOOP:
		return "the message is nested too deeply";
	case -EILSEQ:
		return "a string in the message is not valid UTF-8 without NUL";
	default:
		return "the message is not valid protobuf";
	}
}
