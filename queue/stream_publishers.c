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
#define ENTRY_HEAD 16u /* bytes; drawn in stream_state.c */
#define NUMBER_BYTES 24u
#define WALK_VISITS 4096u /* publishers that one call looks at */

struct publisher {
	struct publisher *next;          /* in the bucket */
	struct publisher *newer, *older; /* by use */
	uint64_t hash, max;
	struct publisher_number *v; /* a ring of cap, a power of two; the latest is at (head - 1) */
	uint32_t count, cap, head;
	uint32_t round; /* of the last walk that is through with it */
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
		const struct publisher_number *n = &p->v[(p->head - i) & (p->cap - 1)];

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
	if (ps->walk == p) { /* it comes again, among the newest */
		ps->walk = p->newer;
		ps->walk_offset = 0;
	}
	DCHECK((p->older == NULL) == (ps->oldest == p));
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

	while (*link != p) {
		DCHECK(*link != NULL); /* it is in its bucket */
		link = &(*link)->next;
	}
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
	p->round = ps->round; /* a walk that is under way is about older frames than its own */
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
	struct publisher_number *v = malloc(cap * sizeof *v);

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
	bool walked = p != NULL && ps->walk == p;

	CHECK(p != NULL);
	if (p->count == p->cap || p->count == ps->numbers_max)
		p->forgot = true;
	else
		p->count++;
	p->v[p->head++ & (p->cap - 1)] = (struct publisher_number){number, offset, timestamp};
	if (number > p->max || p->count == 1)
		p->max = number;
	unlink_use(ps, p);
	link_use(ps, p);
	if (walked && ps->walk == NULL) /* it was the newest before, too */
		ps->walk = p;
	if (ps->count > ps->max) /* by one */
		forget(ps, ps->oldest);
}

/* ---- from the log ---- */

static int64_t newest_offset(const struct publisher *p)
{
	return p->count > 0 ? (int64_t)p->v[(p->head - 1) & (p->cap - 1)].offset : 0;
}

/* Puts it in its place among the others: by the newest frame of each. */
static void link_by_offset(struct publishers *ps, struct publisher *p)
{
	/* the last one that was put in, mostly */
	struct publisher *at = ps->walk != NULL ? ps->walk : ps->oldest;

	while (at != NULL && at->older != NULL && newest_offset(at->older) > newest_offset(p))
		at = at->older;
	while (at != NULL && newest_offset(at) < newest_offset(p))
		at = at->newer;
	if (at == NULL) {
		link_use(ps, p);
		return;
	}
	p->newer = at;
	p->older = at->older;
	*(at->older ? &at->older->newer : &ps->oldest) = p;
	at->older = p;
}

/* The latest numbers_max of what p has and of `f`, both by offset, each offset once. */
static int merge(struct publishers *ps, struct publisher *p, const struct publisher_facts *f)
{
	uint32_t room = p->count + f->n, n = 0, i = 0, k = 0, cap = 8, skip;
	struct publisher_number *v = malloc((room > 0 ? room : 1) * sizeof *v), *ring;

	while (cap < room && cap < ps->numbers_max)
		cap *= 2;
	ring = malloc(cap * sizeof *ring);
	if (v == NULL || ring == NULL) {
		free(v);
		free(ring);
		return -ENOMEM;
	}
	while (i < p->count || k < f->n) {
		const struct publisher_number *a = i < p->count ? &p->v[(p->head - p->count + i) & (p->cap - 1)] : NULL;
		const struct publisher_number *b = k < f->n ? &f->v[k] : NULL;

		if (a != NULL && b != NULL && a->offset == b->offset)
			k++;
		if (a != NULL && (b == NULL || a->offset <= b->offset)) {
			v[n++] = *a;
			i++;
		} else if (b != NULL) {
			v[n++] = *b;
			k++;
		}
	}
	skip = n > ps->numbers_max ? n - ps->numbers_max : 0;
	p->forgot = p->forgot || f->forgot || skip > 0;
	p->max = p->count > 0 && p->max > f->max ? p->max : f->max;
	if (n > skip)
		memcpy(ring, v + skip, (n - skip) * sizeof *ring);
	free(v);
	free(p->v);
	ps->bytes += cap * sizeof *ring - p->cap * sizeof *ring;
	p->v = ring;
	p->cap = cap;
	p->count = p->head = n - skip;
	return 0;
}

int publishers_restore(struct publishers *ps, uint64_t hash, const struct publisher_facts *f)
{
	struct publisher *p = find(ps, hash, f->name);
	int err;

	if (p == NULL && f->n == 0)
		return 0; /* its frames are gone, and so are its numbers */
	if (p == NULL)
		p = make(ps, hash, f->name);
	if (p == NULL)
		return -ENOMEM;
	err = merge(ps, p, f);
	if (err != 0)
		return err;
	unlink_use(ps, p);
	link_by_offset(ps, p);
	ps->walk = p;
	if (ps->count > ps->max) /* by one */
		forget(ps, ps->oldest);
	return 0;
}

bool publishers_take(struct span *rest, struct publisher_facts *ret, struct publisher_number *v, uint32_t n_max)
{
	const uint8_t *p = rest->p;
	uint32_t n;

	if (rest->n < ENTRY_HEAD || p[0] == 0 || p[0] > STREAM_PUBLISHER_MAX || p[1] > 1 || p[2] != 0 || p[3] != 0)
		return false;
	n = load_le32(p + 4);
	if (n > n_max || rest->n - ENTRY_HEAD < p[0] + (size_t)n * NUMBER_BYTES)
		return false;
	*ret = (struct publisher_facts){
		.name = {p + ENTRY_HEAD, p[0]}, .max = load_le64(p + 8), .forgot = p[1] == 1, .v = v, .n = n};
	p += ENTRY_HEAD + p[0];
	for (uint32_t i = 0; i < n; i++, p += NUMBER_BYTES) {
		v[i] = (struct publisher_number){load_le64(p), load_le64(p + 8), (int64_t)load_le64(p + 16)};
		if (v[i].offset <= (i > 0 ? v[i - 1].offset : 0) || v[i].number > ret->max)
			return false;
	}
	*rest = (struct span){p, rest->n - (size_t)(p - rest->p)};
	return true;
}

/* ---- to the log ---- */

void publishers_walk(struct publishers *ps)
{
	ps->round++;
	ps->walk = ps->oldest;
	ps->walk_offset = 0;
}

/* How many numbers of p, from its *ret_first oldest on, are of frames below the offset and not
 * done. */
static uint32_t numbers_due(const struct publishers *ps, const struct publisher *p, uint64_t below, uint32_t *ret_first)
{
	uint32_t n = 0;

	*ret_first = 0;
	for (uint32_t i = 0; i < p->count; i++) {
		uint64_t offset = p->v[(p->head - p->count + i) & (p->cap - 1)].offset;

		if (offset >= below)
			break;
		if (offset <= ps->walk_offset)
			*ret_first = i + 1;
		else
			n++;
	}
	return n;
}

static size_t put_entry(uint8_t *p, const struct publisher *pub, uint32_t first, uint32_t n)
{
	uint8_t *at = p + ENTRY_HEAD + pub->name_len;

	p[0] = pub->name_len;
	p[1] = pub->forgot;
	p[2] = p[3] = 0;
	store_le32(p + 4, n);
	store_le64(p + 8, pub->max);
	memcpy(p + ENTRY_HEAD, pub->name, pub->name_len);
	for (uint32_t i = 0; i < n; i++, at += NUMBER_BYTES) {
		const struct publisher_number *v = &pub->v[(pub->head - pub->count + first + i) & (pub->cap - 1)];

		store_le64(at, v->number);
		store_le64(at + 8, v->offset);
		store_le64(at + 16, (uint64_t)v->timestamp);
	}
	return (size_t)(at - p);
}

size_t publishers_put(struct publishers *ps, uint64_t below, uint8_t *p, size_t cap)
{
	size_t used = 0;

	for (unsigned visits = 0; ps->walk != NULL && visits < WALK_VISITS; visits++) {
		struct publisher *pub = ps->walk;
		uint32_t first, due = pub->round != ps->round ? numbers_due(ps, pub, below, &first) : 0, n = due;
		size_t room = cap - used, least = ENTRY_HEAD + pub->name_len + (due > 0 ? NUMBER_BYTES : 0);

		if (due > 0 || (pub->forgot && pub->round != ps->round && ps->walk_offset == 0)) {
			if (room < least)
				return used;
			if (n > (room - ENTRY_HEAD - pub->name_len) / NUMBER_BYTES)
				n = (uint32_t)((room - ENTRY_HEAD - pub->name_len) / NUMBER_BYTES);
			used += put_entry(p + used, pub, first, n);
		}
		if (n < due) {
			ps->walk_offset = pub->v[(pub->head - pub->count + first + n - 1) & (pub->cap - 1)].offset;
			return used;
		}
		pub->round = ps->round;
		ps->walk = pub->newer;
		ps->walk_offset = 0;
	}
	return used;
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
