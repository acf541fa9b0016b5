/* Open addressing with linear probing, at most half full. Runs on whichever thread owns the table. */
#include "queue/names.h"
#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define NAMES_FIRST 64 /* entries; a power of two */

int names_init(struct names *n, const uint64_t key[2], struct span (*at)(const void *ctx, uint32_t index),
	       const void *ctx)
{
	uint64_t random[2];

	if (key == NULL && getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return -errno;
	*n = (struct names){.mask = NAMES_FIRST - 1, .at = at, .ctx = ctx};
	memcpy(n->key, key ? key : random, sizeof n->key);
	n->entry = calloc(NAMES_FIRST, sizeof *n->entry);
	return n->entry ? 0 : -ENOMEM;
}

void names_done(struct names *n)
{
	free(n->entry);
	n->entry = NULL;
}

static inline uint64_t rotl(uint64_t x, unsigned b)
{
	return x << b | x >> (64 - b);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
	v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

uint64_t names_hash(const struct names *n, struct span name)
{
	uint64_t v[4] = {n->key[0] ^ 0x736f6d6570736575, n->key[1] ^ 0x646f72616e646f6d, n->key[0] ^ 0x6c7967656e657261,
			 n->key[1] ^ 0x7465646279746573};
	uint8_t last[8] = {0};
	uint64_t m;
	size_t i;

	for (i = 0; i + 8 <= name.n; i += 8) {
		m = load_le64(name.p + i);
		v[3] ^= m;
		sip_round(v);
		v[0] ^= m;
	}
	if (i < name.n)
		memcpy(last, name.p + i, name.n - i);
	last[7] = (uint8_t)name.n;
	m = load_le64(last);
	v[3] ^= m;
	sip_round(v);
	v[0] ^= m;
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

bool names_find(const struct names *n, uint64_t hash, struct span name, uint32_t *ret_index)
{
	for (uint32_t i = (uint32_t)(hash >> 32) & n->mask;; i = (i + 1) & n->mask) {
		const struct names_entry *e = &n->entry[i];

		if (e->index == 0)
			return false;
		if (e->hash == (uint32_t)hash && span_eq(n->at(n->ctx, e->index - 1), name)) {
			*ret_index = e->index - 1;
			return true;
		}
	}
}

static void names_put(struct names *n, struct names_entry put, uint32_t i)
{
	i &= n->mask;
	while (n->entry[i].index != 0)
		i = (i + 1) & n->mask;
	n->entry[i] = put;
}

static int names_grow(struct names *n)
{
	struct names_entry *old = n->entry;
	uint32_t old_mask = n->mask;

	n->entry = calloc(2 * ((size_t)old_mask + 1), sizeof *n->entry);
	if (n->entry == NULL) {
		n->entry = old;
		return -ENOMEM;
	}
	n->mask = 2 * old_mask + 1;
	for (uint32_t i = 0; i <= old_mask; i++)
		if (old[i].index != 0)
			names_put(n, old[i], (uint32_t)(names_hash(n, n->at(n->ctx, old[i].index - 1)) >> 32));
	free(old);
	return 0;
}

int names_add(struct names *n, uint64_t hash, uint32_t index)
{
	CHECK(index < UINT32_MAX);
	if (2 * (n->used + 1) > n->mask + 1) {
		int rc = names_grow(n);

		if (rc != 0)
			return rc;
	}
	names_put(n, (struct names_entry){(uint32_t)hash, index + 1}, (uint32_t)(hash >> 32));
	n->used++;
	return 0;
}
