/* pb_scan.c: each limit from both sides, what it says of strings, and agreement with protobuf-c on what is well-formed. */
#include "rpc/wire/pb_scan.h"

#include "core/base/check.h"
#include "rpc/wire/pb.h"
#include "tests/support/pb_node.h"
#include "tests/unit/rpc/wire/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static int scan(const void *p, size_t n, const ProtobufCMessageDescriptor *desc)
{
	const struct pb_scan_limits limits = PB_SCAN_LIMITS;
	uint8_t *copy = exact_copy(p, n);
	struct span msg = {copy, n};
	int r = pb_scan(msg, desc, &limits);

	free(copy);
	return r;
}
#define NODE(s) scan(s, sizeof(s) - 1, &pb_node_descriptor)
#define BARE(s) scan(s, sizeof(s) - 1, NULL)

static void test_well_formed(void **state)
{
	assert_int_equal(pb_scan((struct span){NULL, 0}, &pb_node_descriptor, &PB_SCAN_LIMITS), 0);
	assert_int_equal(NODE(""), 0);
	assert_int_equal(NODE("\x0a\x03"
			      "abc\x12\x05\x0a\x03"
			      "def\x1a\x00\x1a\x00\x20\x05\x22\x02\x01\x02\x2a\x01\xff\x32\x01x"),
			 0);
	assert_int_equal(NODE("\x7a\x02\xff\x00\x7d\x01\x02\x03\x04\x79\x01\x02\x03\x04\x05\x06\x07\x08"),
			 0); /* unknown */
}

/* protobuf-c refuses groups: they are made bytes in place, at the top and in messages, whatever their length. */
static void test_groups_are_hidden_from_protobuf_c(void **state)
{
	for (unsigned fill = 0; fill < 300; fill++) {
		uint8_t msg[700];
		size_t n = 0, at;
		struct pb_scan_limits limits = PB_SCAN_LIMITS;

		memcpy(msg, "\x0a\x01x\xa3\x06", 5); /* name "x", and group 100 */
		n = 5;
		for (unsigned i = 0; i < fill; i++)
			msg[n++] = i % 2 ? 0x01 : 0x08;
		if (fill % 2)
			msg[n++] = 0;
		memcpy(msg + n, "\xa4\x06", 2);
		n += 2;
		memcpy(msg + n, "\x12\x09\x3b\x3c\x0a\x01y\x43\x08\x05\x44", 11); /* a child with two groups */
		n += 11;
		at = n;
		memcpy(msg + at, "\x32\x01z", 3);
		n += 3;
		assert_int_equal(pb_scan((struct span){msg, n}, &pb_node_descriptor, &limits), PB_SCAN_E_GROUPS);
		assert_null(protobuf_c_message_unpack(&pb_node_descriptor, NULL, n, msg));
		pb_hide_groups(msg, n, &pb_node_descriptor, &limits);
		assert_int_equal(pb_scan((struct span){msg, n}, &pb_node_descriptor, &limits), 0);
		struct pb_node *m = (struct pb_node *)protobuf_c_message_unpack(&pb_node_descriptor, NULL, n, msg);
		assert_non_null(m);
		assert_string_equal(m->name, "x");
		assert_string_equal(m->child->name, "y");
		assert_string_equal(m->names[0], "z");
		protobuf_c_message_free_unpacked(&m->base, NULL);
	}
}

static void test_malformed(void **state)
{
	assert_int_equal(NODE("\x0a"), -EBADMSG);
	assert_int_equal(NODE("\x0a\x04"
			      "abc"),
			 -EBADMSG);
	assert_int_equal(NODE("\x0b\x14"), -EBADMSG); /* a group that ends as another */
	assert_int_equal(NODE("\x12\x02\x0a\x01"
			      "x"),
			 -EBADMSG); /* reaches over the end of its message */
	assert_int_equal(NODE("\x12\x01\x0a"), -EBADMSG);
	assert_int_equal(NODE("\x12\x03\x12\x01\x0a"), -EBADMSG);
	assert_int_equal(BARE("\x12\x01\x0a"), 0); /* just bytes without a descriptor */
	assert_int_equal(BARE("\x12\x02\x0a"), -EBADMSG);
}

static void test_strings(void **state)
{
	assert_int_equal(NODE("\x0a\x02\xc3\xa9"), 0);
	assert_int_equal(NODE("\x0a\x02\xc3\x28"), -EILSEQ);
	assert_int_equal(NODE("\x0a\x03"
			      "a\0b"),
			 -EILSEQ);
	assert_int_equal(NODE("\x0a\x02\xff\xff\x0a\x01"
			      "a"),
			 -EILSEQ); /* one that the last one replaces, too */
	assert_int_equal(NODE("\x32\x01"
			      "a\x32\x01\x80"),
			 -EILSEQ);
	assert_int_equal(NODE("\x12\x03\x0a\x01\xff"), -EILSEQ);
	assert_int_equal(NODE("\x1a\x02\x1a\x00\x1a\x03\x0a\x01\xff"), -EILSEQ);
	assert_int_equal(NODE("\x2a\x02\xff\x00"), 0); /* bytes may be anything */
	assert_int_equal(BARE("\x0a\x02\xc3\x28"), 0);
}

/* A message of `depth` levels, the innermost empty. */
static size_t make_deep(uint8_t *out, size_t cap, unsigned depth, uint8_t tag)
{
	size_t n = 0;

	for (unsigned i = 1; i < depth; i++) {
		uint8_t head[1 + PB_VARINT_MAX] = {tag};
		size_t h = 1 + pb_put_varint(head + 1, n);
		assert_true(n + h <= cap);
		memmove(out + h, out, n);
		memcpy(out, head, h);
		n += h;
	}
	return n;
}

static void test_depth(void **state)
{
	static uint8_t msg[4096];

	for (unsigned k = 0; k < 2; k++) {
		uint8_t tag = k ? 0x1a : 0x12;
		size_t n = make_deep(msg, sizeof msg, PB_SCAN_DEPTH, tag);
		assert_int_equal(scan(msg, n, &pb_node_descriptor), 0);
		n = make_deep(msg, sizeof msg, PB_SCAN_DEPTH + 1, tag);
		assert_int_equal(scan(msg, n, &pb_node_descriptor), -ELOOP);
		n = make_deep(msg, sizeof msg, 800, tag);
		assert_int_equal(scan(msg, n, &pb_node_descriptor), -ELOOP);
		assert_int_equal(scan(msg, n, NULL), 0);
	}
	/* Depth is that of the open messages, not the number of messages. */
	size_t n = 0;
	for (int i = 0; i < 100; i++)
		n += make_deep(msg + n, sizeof msg - n, PB_SCAN_DEPTH, 0x1a);
	assert_int_equal(scan(msg, n, &pb_node_descriptor), 0);
}

static void test_limits(void **state)
{
	struct pb_scan_limits limits = {10, 3};
	static const uint8_t msg[] = {0x20, 1, 0x1a, 2, 0x20, 1, 0x20, 1, 0x20, 1, 0x20};

	assert_int_equal(pb_scan((struct span){msg, 6}, &pb_node_descriptor, &limits), 0);
	assert_int_equal(pb_scan((struct span){msg, 8}, &pb_node_descriptor, &limits),
			 -E2BIG); /* 4 fields, one of them inside */
	assert_int_equal(pb_scan((struct span){msg, 8}, NULL, &limits), 0);
	assert_int_equal(pb_scan((struct span){msg, 11}, &pb_node_descriptor, &limits), -EMSGSIZE);
	limits.fields_max = 100;
	assert_int_equal(pb_scan((struct span){msg, 10}, &pb_node_descriptor, &limits), 0);

	static uint8_t many[2 * ((1 << 16) + 1)];
	for (size_t i = 0; i < sizeof many; i += 2) {
		many[i] = 0x78; /* an unknown field of two bytes */
		many[i + 1] = 0;
	}
	assert_int_equal(scan(many, sizeof many - 2, &pb_node_descriptor), 0);
	assert_int_equal(scan(many, sizeof many, &pb_node_descriptor), -E2BIG);
}

/* A singular sub-message that comes again is merged by protobuf-c, at a cost that grows with the square of their number. */
static void test_merges(void **state)
{
	uint8_t msg[256];
	size_t n = 0;

	for (int i = 0; i < 1 + PB_SCAN_MERGES; i++) {
		msg[n++] = 0x12;
		msg[n++] = 0;
	}
	assert_int_equal(scan(msg, n, &pb_node_descriptor), 0);
	msg[n++] = 0x12;
	msg[n++] = 0;
	assert_int_equal(scan(msg, n, &pb_node_descriptor), -E2BIG);
	for (size_t i = 0; i < n; i += 2)
		msg[i] = 0x1a; /* repeated ones may come as often as they like */
	assert_int_equal(scan(msg, n, &pb_node_descriptor), 0);
	/* The same field of different messages is no merge. */
	n = 0;
	for (int i = 0; i < 30; i++) {
		memcpy(msg + n, "\x1a\x02\x12\x00", 4);
		n += 4;
	}
	assert_int_equal(scan(msg, n, &pb_node_descriptor), 0);
}

static void test_error_text(void **state)
{
	static const int errors[] = {-EBADMSG, -EMSGSIZE, -E2BIG, -ELOOP, -EILSEQ};

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		assert_non_null(strstr(pb_scan_error_text(errors[i]), "message"));
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(pb_scan_error_text(errors[i]), pb_scan_error_text(errors[k]));
	}
}

/* Random messages of known fields with their own wire types: what protobuf-c unpacks passes, and what it refuses does not. */
static size_t make_node(uint64_t *seed, uint8_t *out, unsigned depth)
{
	size_t n = 0;

	for (uint32_t i = random_below(seed, 5); i > 0; i--) {
		uint32_t number = 1 + random_below(seed, 6);
		uint8_t body[4096];
		size_t len = 0;

		if (number == 4 && random_below(seed, 2)) {
			out[n++] = 0x20;
			n += pb_put_varint(out + n, random_wide(seed));
			continue;
		}
		if (number == 2 || number == 3) {
			len = depth < 4 ? make_node(seed, body, depth + 1) : 0;
		} else if (number == 4) {
			for (uint32_t k = random_below(seed, 4); k > 0; k--)
				len += pb_put_varint(body + len, random_wide(seed));
		} else {
			len = random_below(seed, 12);
			memset(body, 'a' + (int)random_below(seed, 26), len);
		}
		if (len > 300)
			continue;
		out[n++] = (uint8_t)(number << 3 | 2);
		n += pb_put_varint(out + n, len);
		memcpy(out + n, body, len);
		n += len;
	}
	return n;
}

static void test_against_protobuf_c(void **state)
{
	uint64_t seed = 31;
	unsigned refused = 0, passed = 0;

	for (int i = 0; i < 4000; i++) {
		static uint8_t msg[16384];
		size_t n = make_node(&seed, msg, 0);

		if (i % 2 && n)
			n = random_below(&seed, (uint32_t)n);
		uint8_t *copy = exact_copy(msg, n);
		ProtobufCMessage *m = protobuf_c_message_unpack(&pb_node_descriptor, NULL, n, copy);
		int r = pb_scan((struct span){copy, n}, &pb_node_descriptor, &PB_SCAN_LIMITS);

		if (r == -EBADMSG)
			assert_null(m);
		if (m) {
			assert_true(r == 0 || r == -E2BIG);
			protobuf_c_message_free_unpacked(m, NULL);
		}
		refused += r != 0;
		passed += r == 0;
		free(copy);
	}
	assert_true(refused > 300 && passed > 1000);
}

static void test_garbage(void **state)
{
	uint64_t seed = 32;

	for (int i = 0; i < 20000; i++) {
		uint8_t msg[100];
		size_t n = random_below(&seed, sizeof msg);
		for (size_t k = 0; k < n; k++)
			msg[k] = (uint8_t)(random_below(&seed, 2)
						   ? "\x0a\x12\x1a\x20\x2a\x32\x00\x01\x02\x05"[random_below(&seed, 10)]
						   : (int)random_next(&seed));
		int r = scan(msg, n, &pb_node_descriptor);
		assert_true(r == 0 || r == -EBADMSG || r == -EILSEQ || r == -ELOOP || r == -E2BIG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_well_formed), cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_strings),     cmocka_unit_test(test_depth),
		cmocka_unit_test(test_limits),      cmocka_unit_test(test_merges),
		cmocka_unit_test(test_error_text),  cmocka_unit_test(test_against_protobuf_c),
		cmocka_unit_test(test_garbage),     cmocka_unit_test(test_groups_are_hidden_from_protobuf_c),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
