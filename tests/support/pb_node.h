/* A message that contains itself, as protoc-c would have made it from
 *
 *	message Node {
 *	  string name = 1;
 *	  Node child = 2;
 *	  repeated Node children = 3;
 *	  repeated uint32 numbers = 4;
 *	  bytes blob = 5;
 *	  repeated string names = 6;
 *	}
 *
 * for tests of what no message of ours has: depth, merging, repeated strings. */
#ifndef ORDINAL_TESTS_SUPPORT_PB_NODE_H
#define ORDINAL_TESTS_SUPPORT_PB_NODE_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct pb_node {
	ProtobufCMessage base;
	char *name;
	struct pb_node *child;
	size_t n_children;
	struct pb_node **children;
	size_t n_numbers;
	uint32_t *numbers;
	ProtobufCBinaryData blob;
	size_t n_names;
	char **names;
};

extern const ProtobufCMessageDescriptor pb_node_descriptor;

#define PB_NODE_ONE(n, i, t, m, d)                                                                                     \
	{                                                                                                              \
		n, i, PROTOBUF_C_LABEL_NONE, PROTOBUF_C_TYPE_##t, 0, offsetof(struct pb_node, m), d, NULL, 0, 0, NULL, \
			NULL                                                                                           \
	}
#define PB_NODE_MANY(n, i, t, m, d)                                                                                    \
	{                                                                                                              \
		n, i, PROTOBUF_C_LABEL_REPEATED, PROTOBUF_C_TYPE_##t, offsetof(struct pb_node, n_##m),                 \
			offsetof(struct pb_node, m), d, NULL, 0, 0, NULL, NULL                                         \
	}

static const ProtobufCFieldDescriptor pb_node_fields[] = {
	PB_NODE_ONE("name", 1, STRING, name, NULL),
	PB_NODE_ONE("child", 2, MESSAGE, child, &pb_node_descriptor),
	PB_NODE_MANY("children", 3, MESSAGE, children, &pb_node_descriptor),
	PB_NODE_MANY("numbers", 4, UINT32, numbers, NULL),
	PB_NODE_ONE("blob", 5, BYTES, blob, NULL),
	PB_NODE_MANY("names", 6, STRING, names, NULL),
};
static const unsigned pb_node_by_name[] = {4, 1, 2, 0, 5, 3};
static const ProtobufCIntRange pb_node_ranges[] = {{1, 0}, {0, 6}};

const ProtobufCMessageDescriptor pb_node_descriptor = {
	PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
	"Node",
	"Node",
	"struct pb_node",
	"",
	sizeof(struct pb_node),
	6,
	pb_node_fields,
	pb_node_by_name,
	1,
	pb_node_ranges,
	NULL,
	NULL,
	NULL,
	NULL,
};

#endif
