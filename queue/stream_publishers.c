/* The numbers that publishers have used, so that a repeat gets its first answer. Runs on the stream's owner.
 *
 * Of each publisher the latest numbers_max frames are remembered, of each stream the latest publishers_max publishers; the frames carry both, so
 * a restart finds them again, as many as its own limits allow. A number that is not among those remembered is new, unless it is below all of them and some have
 * been forgotten: then nobody knows. A publisher that was forgotten altogether begins anew.
 *
 * A new publisher is reserved before its first frame is in the log, which may fail: until then it is the oldest, and nobody is forgotten for it.
 */
#include "queue/stream_impl.h"

#include <stdlib.h>

#define BUCKETS_MAX 16384u

struct number {
	uint64_t number, offset;
	int64_t timestamp;
};

struct publisher {
	struct publisher *next;          /* in the bucket */
	struct publisher *newer, *older; /* by use */
	uint64_t hash, max;
	struct number *v; /* a ring of cap, a power of two; the latest is at (head - 1) */
	uint32_t count, cap, head;
	bool forgot;
	uint8_t name_len;
	uint8_t name[STREAM_PUBLISHER_MAX];
};

/* A power of two for which chains are short, with as many publishers as there may be. */
static uint32_t buckets(const struct publishers *ps)
{
	uint32_t n = 1;

	while (n < ps->max && n < BUCKETS_MAX)
		n *= 2;
	return n;
}

static struct publisher **bucket_of(const struct publishers *ps, uint64_t hash)
{
	return &ps->bucket[hash & (buckets(ps) - 1)];
}

static struct publisher *find(const struct publishers *ps, uint64_t hash, struct span name)
{
	struct publisher *p = ps->bucket ? *bucket_of(ps, hash) : NULL;

	while (p != NULL && !(p->hash == hash && span_eq((struct span){p->name, p->name_len}, name)))
		p = p->next;
	return p;
}

enum publisher_state publishers_find(const struct publishers *ps, uint64_t hash, struct span name, uint64_t number,
				     uint64_t *ret_offset, int64_t *ret_timestamp)
{
	const struct publisher *p = find(ps, hash, name);
	uint64_t least = UINT64_MAX;

	if (p == NULL || p->count == 0 || number > p->max)
		return PUBLISHER_NEW;
	for (uint32_t i = 1; i <= p->count; i++) {
		const struct number *n = &p->v[(p->head - i) & (p->cap - 1)];

		if (n->number == number) {
			*ret_offset = n->offset;
			*ret_timestamp = n->timestamp;
			return PUBLISHER_SEEN;
		}
		if (n->number < least)
			least = n->number;
	}
	return p->forgot && number < least ? PUBLISHER_STALE : PUBLISHER_NEW;
}

static void unlink_use(struct publishers *ps, struct publisher *p)
{
	*(p->newer ? &p->newer->older : &ps->newest) = p->older;
	*(p->older ? &p->older->newer : &ps->oldest) = p->newer;
}

static void link_use(struct publishers *ps, struct publisher *p)
{
	p->newer = NULL;
	p->older = ps->newest;
	*(ps->newest ? &ps->newest->newer : &ps->oldest) = p;
	ps->newest = p;
}

static void link_oldest(struct publishers *ps, struct publisher *p)
{
	p->older = NULL;
	p->newer = ps->oldest;
	*(ps->oldest ? &ps->oldest->older : &ps->newest) = p;
	ps->oldest = p;
}

static void forget(struct publishers *ps, struct publisher *p)
{
	struct publisher **link = bucket_of(ps, p->hash);

	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	unlink_use(ps, p);
	ps->count--;
	ps->bytes -= sizeof *p + p->cap * sizeof *p->v;
	free(p->v);
	free(p);
}

static struct publisher *make(struct publishers *ps, uint64_t hash, struct span name)
{
	struct publisher *p;

	if (ps->bucket == NULL) {
		ps->bucket = calloc(buckets(ps), sizeof *ps->bucket);
		if (ps->bucket == NULL)
			return NULL;
		ps->bytes += buckets(ps) * sizeof *ps->bucket;
	}
	p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	if (ps->oldest != NULL && ps->oldest->count == 0) /* its first frame was not kept */
		forget(ps, ps->oldest);
	p->hash = hash;
	p->name_len = (uint8_t)name.n;
	memcpy(p->name, name.p, name.n);
	p->next = *bucket_of(ps, hash);
	*bucket_of(ps, hash) = p;
	link_oldest(ps, p);
	ps->count++;
	ps->bytes += sizeof *p;
	return p;
}

static int grow(struct publishers *ps, struct publisher *p)
{
	uint32_t cap = p->cap ? 2 * p->cap : 8;
	struct number *v = malloc(cap * sizeof *v);

	if (v == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->count; i++)
		v[i] = p->v[(p->head - p->count + i) & (p->cap - 1)];
	free(p->v);
	ps->bytes += (cap - p->cap) * sizeof *v;
	p->v = v;
	p->cap = cap;
	p->head = p->count;
	return 0;
}

int publishers_reserve(struct publishers *ps, uint64_t hash, struct span name)
{
	struct publisher *p = find(ps, hash, name);

	if (p == NULL)
		p = make(ps, hash, name);
	if (p == NULL)
		return -ENOMEM;
	return p->count == p->cap && p->cap < ps->numbers_max ? grow(ps, p) : 0;
}

void publishers_add(struct publishers *ps, uint64_t hash, struct span name, uint64_t number, uint64_t offset,
		    int64_t timestamp)
{
	struct publisher *p = find(ps, hash, name);

	CHECK(p != NULL);
	if (p->count == p->cap || p->count == ps->numbers_max)
		p->forgot = true;
	else
		p->count++;
	p->v[p->head++ & (p->cap - 1)] = (struct number){number, offset, timestamp};
	if (number > p->max || p->count == 1)
		p->max = number;
	unlink_use(ps, p);
	link_use(ps, p);
	if (ps->count > ps->max) /* by one */
		forget(ps, ps->oldest);
}

void publishers_done(struct publishers *ps)
{
	for (struct publisher *p = ps->newest, *older; p != NULL; p = older) {
		older = p->older;
		free(p->v);
		free(p);
	}
	free(ps->bucket);
	*ps = (struct publishers){.bucket = NULL};
}
