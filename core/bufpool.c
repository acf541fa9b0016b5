/* Output blocks by size class; see the header. Runs on the shard that owns the pool. */
#include "core/bufpool.h"
#include "core/base/check.h"
#include "core/base/count.h"

#include <stdlib.h>
#include <string.h>

struct bufpool_block {
	struct bufpool_block *next;
};

static unsigned class_of(size_t need)
{
	if (need <= (1u << BUFPOOL_MIN_SHIFT))
		return 0;
	return 64 - (unsigned)__builtin_clzll(need - 1) - BUFPOOL_MIN_SHIFT;
}

void bufpool_init(struct bufpool *p)
{
	memset(p, 0, sizeof *p);
}

void bufpool_done(struct bufpool *p)
{
	for (unsigned k = 0; k < BUFPOOL_CLASSES; k++) {
		for (struct bufpool_block *b = p->free[k], *next; b; b = next) {
			next = b->next;
			free(b);
		}
	}
	memset(p, 0, sizeof *p);
}

uint8_t *bufpool_get(struct bufpool *p, size_t need, uint32_t *ret_cap)
{
	if (need > UINT32_MAX / 2)
		return NULL;
	unsigned k = class_of(need);
	size_t cap = (size_t)1 << (k + BUFPOOL_MIN_SHIFT);
	struct bufpool_block *b = k < BUFPOOL_CLASSES ? p->free[k] : NULL;
	if (b) {
		p->free[k] = b->next;
		p->kept[k]--;
	} else {
		b = malloc(cap);
		if (!b)
			return NULL;
	}
	count_add(&p->bytes_out, cap);
	*ret_cap = (uint32_t)cap;
	return (uint8_t *)b;
}

void bufpool_put(struct bufpool *p, uint8_t *block, uint32_t cap)
{
	if (!block)
		return;
	unsigned k = class_of(cap);
	DCHECK(cap == 1u << (k + BUFPOOL_MIN_SHIFT));
	count_add(&p->bytes_out, -(uint64_t)cap);
	if (k >= BUFPOOL_CLASSES || ((uint64_t)p->kept[k] + 1) * cap > BUFPOOL_KEEP) {
		free(block);
		return;
	}
	struct bufpool_block *b = (struct bufpool_block *)(void *)block;
	b->next = p->free[k];
	p->free[k] = b;
	p->kept[k]++;
}
