/* Memory for what protobuf-c unpacks in one call: an arena with a budget in bytes, taken back whole when the call is done. What was unpacked
 * need not be freed piece by piece.
 *
 *	ProtobufCMessage *m = protobuf_c_message_unpack(desc, &b->allocator, n, bytes);
 *	if (!m && budget_is_exhausted(b)) … too much memory, else malformed
 *	…
 *	budget_reset(b);
 *
 * The first block stays; what goes beyond it is allocated as needed and freed by the reset. At most the block and twice the limit are held.
 * One thread. */
#ifndef ORDINAL_RPC_BUDGET_H
#define ORDINAL_RPC_BUDGET_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct budget_chunk;

struct budget {
	ProtobufCAllocator allocator; /* its data is the budget: do not copy or move the struct after init */
	uint8_t *at, *end;            /* what is free of the present block or chunk */
	uint8_t *block;
	size_t block_size;
	struct budget_chunk *chunks;
	size_t chunk_size;   /* of the next chunk */
	size_t limit, spent; /* bytes, each allocation rounded up to 16 */
	bool exhausted;
};

/* `block`: bytes to keep at hand; `limit`: bytes that may be asked for between two resets. 0 or -ENOMEM. */
int budget_init(struct budget *b, size_t block, size_t limit);
void budget_done(struct budget *b);

/* Takes back everything handed out since the last reset. */
void budget_reset(struct budget *b);

/* n bytes, aligned to 16, not cleared; valid until the reset. NULL: over budget, or no memory. */
void *budget_alloc(struct budget *b, size_t n);

/* Whether an allocation has failed since the last reset. */
static inline bool budget_is_exhausted(const struct budget *b)
{
	return b->exhausted;
}

#endif
