/* Mailboxes between shards; see the header. Each SPSC ring has one pushing and one popping shard thread. */
#include "core/mesh.h"
#include "core/base/check.h"
#include "core/base/spsc.h"
#include "core/shard.h"

#include <stdlib.h>

struct mesh {
	unsigned shards;
	struct shard *shard[SHARD_MAX];
	struct {
		mesh_fn fn;
		void *ctx;
	} handlers[MESH_KINDS];
	struct spsc *box; /* [from * shards + to] */
};

static struct spsc *box(const struct mesh *m, unsigned from, unsigned to)
{
	return &m->box[from * m->shards + to];
}

struct mesh *mesh_new(unsigned shards, uint32_t depth)
{
	CHECK(shards > 0 && shards <= SHARD_MAX);
	struct mesh *m = calloc(1, sizeof *m);
	if (!m)
		return NULL;
	m->shards = shards;
	size_t n = (size_t)shards * shards;
	m->box = aligned_alloc(CACHE_LINE, n * sizeof *m->box);
	if (!m->box) {
		free(m);
		return NULL;
	}
	memset(m->box, 0, n * sizeof *m->box);
	for (size_t i = 0; i < n; i++) {
		if (i / shards != i % shards && spsc_init(&m->box[i], depth, sizeof(struct mesh_msg))) {
			mesh_free(m);
			return NULL;
		}
	}
	return m;
}

void mesh_free(struct mesh *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < (size_t)m->shards * m->shards; i++)
		spsc_done(&m->box[i]);
	free(m->box);
	free(m);
}

void mesh_on(struct mesh *m, uint16_t kind, mesh_fn fn, void *ctx)
{
	CHECK(kind < MESH_KINDS && !m->handlers[kind].fn);
	m->handlers[kind].fn = fn;
	m->handlers[kind].ctx = ctx;
}

void mesh_join(struct mesh *m, struct shard *s)
{
	CHECK(s->index < m->shards);
	m->shard[s->index] = s;
}

struct shard *mesh_shard(const struct mesh *m, unsigned index)
{
	return m->shard[index];
}

unsigned mesh_shards(const struct mesh *m)
{
	return m->shards;
}

bool mesh_post(struct mesh *m, unsigned from, unsigned to, const struct mesh_msg *msg)
{
	DCHECK(from != to && m->shard[to]);
	if (!spsc_push(box(m, from, to), msg))
		return false;
	doorbell_ring(&m->shard[to]->bell);
	return true;
}

unsigned mesh_drain(struct mesh *m, struct shard *to)
{
	unsigned n = 0;
	struct mesh_msg msg;
	for (unsigned from = 0; from < m->shards; from++) {
		if (from == to->index)
			continue;
		while (spsc_pop(box(m, from, to->index), &msg)) {
			CHECK(msg.kind < MESH_KINDS && m->handlers[msg.kind].fn);
			m->handlers[msg.kind].fn(to, &msg, m->handlers[msg.kind].ctx);
			n++;
		}
	}
	return n;
}

bool mesh_has_mail(const struct mesh *m, unsigned to)
{
	for (unsigned from = 0; from < m->shards; from++) {
		if (from != to && spsc_count(box(m, from, to)))
			return true;
	}
	return false;
}
