/* A hash table from names to indexes. It keeps no names: `at` gives the name of an index, so the owner's array stays
 * the only copy. Nothing is ever removed. One thread.
 * Peers choose the names, so the hash is keyed at random
 * (SipHash-1-3: Aumasson & Bernstein, 2012): collisions cannot be made to order.
 */
#ifndef ORDINAL_QUEUE_NAMES_H
#define ORDINAL_QUEUE_NAMES_H

#include "core/base/bytes.h"

#include <stdbool.h>
#include <stdint.h>

struct names_entry {
	uint32_t hash;
	uint32_t index; /* plus 1; 0: free */
};

struct names {
	struct names_entry *entry;
	uint32_t mask, used;
	uint64_t key[2];
	struct span (*at)(const void *ctx, uint32_t index);
	const void *ctx;
};

/* 0 or -errno. `key` NULL: a new random one. */
int names_init(struct names *n, const uint64_t key[2], struct span (*at)(const void *ctx, uint32_t index),
	       const void *ctx);
void names_done(struct names *n);

uint64_t names_hash(const struct names *n, struct span name);
/* `hash` is names_hash of the name. */
bool names_find(const struct names *n, uint64_t hash, struct span name, uint32_t *ret_index);
/* The name must not be there yet. 0 or -ENOMEM. */
int names_add(struct names *n, uint64_t hash, uint32_t index);

#endif
