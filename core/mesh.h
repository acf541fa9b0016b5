/* Mailboxes between shards: one SPSC ring for each ordered pair, and the receiver's doorbell.
 *
 * A message is 64 bytes: a kind, whose handler the composition root registers before the shards start, and seven words. Posting never blocks; a full
 * mailbox refuses, and the poster keeps or drops its message as its kind demands. */
#ifndef ORDINAL_CORE_MESH_H
#define ORDINAL_CORE_MESH_H

#include "core/base/doorbell.h"

#include <stdbool.h>
#include <stdint.h>

struct shard;
struct mesh;

enum mesh_kind { MESH_CONN = 0, MESH_KIND_FIRST_FREE, MESH_KINDS = 16 };

struct mesh_msg {
	uint16_t kind;
	uint16_t from;
	uint32_t arg;
	uint64_t word[7];
};

typedef void (*mesh_fn)(struct shard *to, const struct mesh_msg *m, void *ctx);

/* Main thread, before the shards. `depth` messages a pair, a power of two. NULL without memory. */
struct mesh *mesh_new(unsigned shards, uint32_t depth);
void mesh_free(struct mesh *m);
void mesh_on(struct mesh *m, uint16_t kind, mesh_fn fn, void *ctx);
/* Each shard joins before any posts. */
void mesh_join(struct mesh *m, struct shard *s);
struct shard *mesh_shard(const struct mesh *m, unsigned index);
unsigned mesh_shards(const struct mesh *m);

/* Shard thread `from`. false: the mailbox is full. Not to itself. */
bool mesh_post(struct mesh *m, unsigned from, unsigned to, const struct mesh_msg *msg);
/* Shard thread `to`: handles what has come; returns how many. */
unsigned mesh_drain(struct mesh *m, struct shard *to);
bool mesh_has_mail(const struct mesh *m, unsigned to);

#endif
