/* A pool of objects of one size, owned by one thread.
 *
 * Objects are handed out last-in first-out (warm in cache) and named by a dense index, so that a tag can carry an index
 * and a generation instead of a pointer. Memory comes in chunks on demand, on the owner's NUMA node (first touch: the
 * owner is pinned before it touches), and is never returned before slab_done. An object's memory stays valid after
 * slab_put, until reuse.
 */
#ifndef ORDINAL_CORE_BASE_SLAB_H
#define ORDINAL_CORE_BASE_SLAB_H

#include <stddef.h>
#include <stdint.h>

struct slab {
	void **chunks;   /* directory: chunk i holds objects [i << chunk_shift, (i + 1) << chunk_shift) */
	size_t obj_size; /* rounded up to 16 bytes */
	uint32_t max;    /* the bound: slab_get returns NULL beyond it */
	uint32_t used;   /* objects handed out now */
	uint32_t made;   /* objects whose memory exists */
	uint32_t chunk_shift;
	uint32_t free_head; /* index of the first free object, or SLAB_NONE; the link lives in next_free[] */
	uint32_t *next_free;
};

#define SLAB_NONE UINT32_MAX

/* 0 or -ENOMEM. `max` objects at the most, `max` > 0. Only address space is taken before first use. */
int slab_init(struct slab *s, size_t obj_size, uint32_t max);
void slab_done(struct slab *s);

/* An object with undefined content and its index, or NULL at the bound or without memory. First use of an object's
 * memory is zero-filled, so a generation counter kept inside the object survives reuse and begins at 0. */
void *slab_get(struct slab *s, uint32_t *ret_index);
void slab_put(struct slab *s, uint32_t index);

/* The object with this index; the index must be below `made`. */
static inline void *slab_at(const struct slab *s, uint32_t index)
{
	char *chunk = s->chunks[index >> s->chunk_shift];
	return chunk + (size_t)(index & ((1u << s->chunk_shift) - 1)) * s->obj_size;
}

#endif
