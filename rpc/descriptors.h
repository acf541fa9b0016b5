/* The .proto files of all services, as the reflection service hands them out. Generated at build time (tools/build/descriptors.py); read-only. */
#ifndef ORDINAL_RPC_DESCRIPTORS_H
#define ORDINAL_RPC_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

#define DESCRIPTOR_END UINT16_MAX

struct descriptor_file {
	const char *name;     /* "ordinal/v1/ordinal.proto" */
	const uint8_t *bytes; /* a serialized google.protobuf.FileDescriptorProto */
	size_t n;
	const char *const *symbols;  /* full names of all that it declares; NULL ends */
	const char *const *services; /* those of its services, likewise */
	const uint16_t *imports;     /* indexes of the files it imports; DESCRIPTOR_END ends */
};
extern const struct descriptor_file descriptor_files[];
extern const unsigned descriptor_file_count;

#endif
