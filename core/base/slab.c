/* The pool behind slab.h: chunks of anonymous memory, an index free list beside them.
 *
 * Invariants
 *  1. Indexes below `made` have memory; each is either handed out or on the free list, and used + free == made.
 *  2. next_free[i] == i exactly while i is handed out. A free list never links an index to itself, so this one word
 *     finds an object given back twice before it can be handed to two owners.
 *  3. No chunk is touched before one of its objects is handed out: pages come zero-filled, on the toucher's NUMA node.
 *
 * Chunks and both tables are mapped, not malloc'ed: mapped memory costs address space only until it is touched, and is
 * zero. Runs on the owner's thread. What an object holds, generations included, is its owner's.
 */
#include "core/base/slab.h"

#include "core/base/check.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

#define SLAB_ALIGN 16
#define SLAB_CHUNK_BYTES (64u << 10)
#define SLAB_CHUNK_OBJECTS 64u

static void *map(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t chunk_bytes(const struct slab *s)
{
	return s->obj_size << s->chunk_shift;
}

static size_t chunk_count(const struct slab *s)
{
	return (((size_t)s->max - 1) >> s->chunk_shift) + 1;
}

/* About 64 KiB a chunk, at least 64 objects, and not more than the bound needs. */
static uint32_t pick_shift(size_t obj_size, uint32_t max)
{
	uint32_t shift = 0;

	while (shift < 31 && (1u << shift) < max &&
	       ((1u << shift) < SLAB_CHUNK_OBJECTS || (obj_size << (shift + 1)) <= SLAB_CHUNK_BYTES))
		shift++;
	return shift;
}

int slab_init(struct slab *s, size_t obj_size, uint32_t max)
{
	CHECK(max > 0);
	CHECK(obj_size > 0);
	if (obj_size > SIZE_MAX / (2 * SLAB_CHUNK_OBJECTS))
		return -ENOMEM;
	obj_size = (obj_size + SLAB_ALIGN - 1) & ~(size_t)(SLAB_ALIGN - 1);
	*s = (struct slab){
		.obj_size = obj_size, .max = max, .chunk_shift = pick_shift(obj_size, max), .free_head = SLAB_NONE};
	s->chunks = map(chunk_count(s) * sizeof *s->chunks);
	if (s->chunks == NULL)
		return -ENOMEM;
	s->next_free = map((size_t)max * sizeof *s->next_free);
	if (s->next_free == NULL) {
		munmap(s->chunks, chunk_count(s) * sizeof *s->chunks);
		s->chunks = NULL;
		return -ENOMEM;
	}
	return 0;
}

void slab_done(struct slab *s)
{
	if (s->chunks == NULL)
		return;
	for (size_t i = 0; i < chunk_count(s) && s->chunks[i] != NULL; i++)
		munmap(s->chunks[i], chunk_bytes(s));
	munmap(s->chunks, chunk_count(s) * sizeof *s->chunks);
	munmap(s->next_free, (size_t)s->max * sizeof *s->next_free);
	*s = (struct slab){.free_head = SLAB_NONE};
}

/* Memory for object number `made`. */
static bool grow(struct slab *s)
{
	size_t c = s->made >> s->chunk_shift;

	if (s->made == s->max)
		return false;
	if (s->chunks[c] == NULL) {
		s->chunks[c] = map(chunk_bytes(s));
		if (s->chunks[c] == NULL)
			return false;
	}
	s->made++;
	return true;
}

void *slab_get(struct slab *s, uint32_t *ret_index)
{
	uint32_t index = s->free_head;

	if (likely(index != SLAB_NONE)) {
		s->free_head = s->next_free[index];
	} else {
		index = s->made;
		if (!grow(s))
			return NULL;
	}
	s->next_free[index] = index;
	s->used++;
	*ret_index = index;
	return slab_at(s, index);
}

void slab_put(struct slab *s, uint32_t index)
{
	CHECK(index < s->made);
	CHECK(s->next_free[index] == index);
	s->next_free[index] = s->free_head;
	s->free_head = index;
	s->used--;
}
