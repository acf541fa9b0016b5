/* Blocks of a few power-of-two sizes for connection output, so that an idle connection holds none. Owned by one shard.
 *
 * Blocks are handed out last-in first-out. A class keeps at most BUFPOOL_KEEP bytes of free blocks; the rest goes back to the
 * system. Blocks above the largest class are plain allocations. */
#ifndef ORDINAL_CORE_BUFPOOL_H
#define ORDINAL_CORE_BUFPOOL_H

#include <stddef.h>
#include <stdint.h>

#define BUFPOOL_MIN_SHIFT 11 /* 2 KiB */
#define BUFPOOL_CLASSES 8    /* … 256 KiB */
#define BUFPOOL_KEEP (4u << 20)

struct bufpool {
	struct bufpool_block *free[BUFPOOL_CLASSES];
	uint32_t kept[BUFPOOL_CLASSES];
	uint64_t bytes_out; /* bytes of the blocks handed out now */
};

void bufpool_init(struct bufpool *p);
void bufpool_done(struct bufpool *p);
/* A block of at least `need` bytes and its true size, or NULL without memory. */
uint8_t *bufpool_get(struct bufpool *p, size_t need, uint32_t *ret_cap);
/* `cap` as bufpool_get gave it. NULL is allowed. */
void bufpool_put(struct bufpool *p, uint8_t *block, uint32_t cap);

#endif
