/* An arena with a budget, for protobuf-c. Owned by one thread.
 *
 * Invariants: spent <= limit. [at, end) is the unused rest of the newest chunk, or of the block when there is no chunk. Chunks double in
 * size, and none is larger than what is left of the budget; what is lost at the end of one is less than the allocation that did not
 * fit, so the memory held is at most block + 2 * limit (and a header a chunk). */
#include "rpc/budget.h"

#include <errno.h>
#include <stdlib.h>

#define ALIGN 16

struct budget_chunk {
	struct budget_chunk *next;
	_Alignas(ALIGN) uint8_t bytes[];
};

static void *allocator_alloc(void *data, size_t n)
{
	return budget_alloc(data, n);
}

static void allocator_free(void *data, void *p)
{
	(void)data;
	(void)p; /* the reset takes it back */
}

int budget_init(struct budget *b, size_t block, size_t limit)
{
	block = block ? (block + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
	uint8_t *memory = aligned_alloc(ALIGN, block);

	if (!memory)
		return -ENOMEM;
	*b = (struct budget){
		.allocator = {.alloc = allocator_alloc, .free = allocator_free, .allocator_data = b},
		.block = memory,
		.block_size = block,
		.limit = limit,
	};
	budget_reset(b);
	return 0;
}

void budget_reset(struct budget *b)
{
	while (b->chunks) {
		struct budget_chunk *c = b->chunks;
		b->chunks = c->next;
		free(c);
	}
	b->at = b->block;
	b->end = b->block + b->block_size;
	b->chunk_size = b->block_size;
	b->spent = 0;
	b->exhausted = false;
}

void budget_done(struct budget *b)
{
	budget_reset(b);
	free(b->block);
	*b = (struct budget){.block = NULL};
}

/* A chunk with room for n bytes, n being within the budget. */
static int chunk_add(struct budget *b, size_t n)
{
	size_t left = b->limit - b->spent, size = b->chunk_size <= left / 2 ? b->chunk_size * 2 : left;
	struct budget_chunk *c;

	if (size < n)
		size = n;
	c = malloc(sizeof *c + size);
	if (!c)
		return -ENOMEM;
	c->next = b->chunks;
	b->chunks = c;
	b->chunk_size = size;
	b->at = c->bytes;
	b->end = c->bytes + size;
	return 0;
}

void *budget_alloc(struct budget *b, size_t n)
{
	size_t left = b->limit - b->spent;

	if (n == 0)
		n = 1;
	if (n > left)
		goto out_exhausted;
	n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
	if (n == 0 || n > left)
		goto out_exhausted;
	if (n > (size_t)(b->end - b->at) && chunk_add(b, n) < 0)
		goto out_exhausted;
	b->spent += n;
	uint8_t *p = b->at;
	b->at += n;
	return p;

out_exhausted:
	b->exhausted = true;
	return NULL;
}
