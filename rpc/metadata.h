/* Metadata of calls: lists of (name, value) in one block of memory, as requests bring them and answers carry them. Values of names that end in
 * "-bin" are kept as they travel, base64 (RFC 4648, padding optional); metadata_bin_get and _put turn them into bytes and back.
 * Pure; the owner's thread. */
#ifndef ORDINAL_RPC_METADATA_H
#define ORDINAL_RPC_METADATA_H

#include "core/base/bytes.h"

struct metadata {
	uint8_t *p; /* entries: two 16-bit lengths, name, value */
	uint32_t len, cap;
};

void metadata_free(struct metadata *m);
/* false: no memory, or a name or value above 65,535 bytes. */
bool metadata_add(struct metadata *m, struct span name, struct span value);
/* The n-th value of this name (0 the first); false: there are no more. Valid until the next add. */
bool metadata_get(const struct metadata *m, struct span name, unsigned nth, struct span *ret);
/* Walks all: *at begins at 0. false at the end. */
bool metadata_next(const struct metadata *m, uint32_t *at, struct span *ret_name, struct span *ret_value);
/* Names: lower-case letters, digits, '-', '_', '.'; none of HTTP's or gRPC's own. Values: printable ASCII. */
bool metadata_is_valid(struct span name, struct span value);

/* Base64 with and without padding. Returns the length, or SIZE_MAX: malformed, or more than cap. */
size_t metadata_bin_get(uint8_t *out, size_t cap, struct span text);
/* Without padding. out has room for 4 * ((n + 2) / 3). */
size_t metadata_bin_put(char *out, struct span bytes);

#endif
