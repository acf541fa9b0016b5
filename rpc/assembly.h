/* Memory for messages that are still being received, on one shard: how much each connection holds of it, and who gives way when it runs short.
 *
 * One connection holds at most `share` bytes (ASSEMBLY_CONN_MAX), all together at most `total` (ASSEMBLY_MAX): what would need more is refused. That
 * alone would let a few connections take everything, and their neighbours' messages be refused. So one share is kept free: when less is left at the
 * end of a turn, messages are ended of whoever holds the most, by client address first and by connection then, until there is room. A client
 * that holds less than the heaviest never gives way before them, and one that opens more connections gains nothing over other addresses.
 *
 * Bytes are those of the blocks that hold the messages, not only of what has come. Sessions own the messages; this counts. One shard's, on its thread;
 * `bytes` is read by anybody. */
#ifndef ORDINAL_RPC_ASSEMBLY_H
#define ORDINAL_RPC_ASSEMBLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct assembly_limits {
	uint64_t total,
		share; /* bytes; share is at most a third of total, and at least the block of the largest message */
};

/* A connection's part, embedded in its session. Zero-filled but for ip and give_way. */
struct assembly_share {
	struct assembly_share *next, **link; /* of those that hold something */
	uint64_t bytes;
	const uint64_t *ip; /* the client's, as struct conn has it */
	/* End messages until no more than `bytes` are held, saying so to the client. Called from assembly_turn only. The share itself must stay
	 * until the end of the turn. */
	void (*give_way)(struct assembly_share *s, uint64_t bytes);
};

struct assembly {
	uint64_t bytes; /* of all shares; with count_add */
	struct assembly_share *holders;
	uint32_t count;
};

/* Counts n bytes more or less. */
void assembly_add(struct assembly *a, struct assembly_share *s, uint64_t n);
void assembly_sub(struct assembly *a, struct assembly_share *s, uint64_t n);
/* Whether what was counted last is too much and has to be given back; then with a sentence for the client in `text`. */
bool assembly_is_over(const struct assembly *a, const struct assembly_share *s, const struct assembly_limits *l,
		      char *text, size_t cap);
/* What a session tells whose message gives way. */
void assembly_text(const struct assembly_limits *l, char *text, size_t cap);

void assembly_make_room(struct assembly *a, const struct assembly_limits *l);
/* Once a turn, outside of any session's and any service's own calls. */
static inline void assembly_turn(struct assembly *a, const struct assembly_limits *l)
{
	if (__builtin_expect(a->bytes + l->share > l->total, 0) && a->count > 1)
		assembly_make_room(a, l);
}

#endif
