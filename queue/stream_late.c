/* The B+ tree of late frames; see the header. Runs on the stream's owner (or whoever opens the stream).
 *
 * Leaves hold the entries and are chained; inner nodes hold, for each child but the first, the lowest key that may be under it. Invariants: all
 * leaves are at the same depth; no node is empty, but for no root at all. Nodes split when full: at the end when the new key comes after all of
 * the rightmost path (keys that mostly rise fill their leaves), else in the middle. A leaf goes when it is empty, and its parents with it; nothing is ever
 * merged otherwise, for what retention leaves behind goes too before long.
 */
#include "queue/stream_late.h"
#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_MAX 63
#define INNER_MAX 64 /* children */
#define DEPTH_MAX 12

struct late_leaf {
	struct late_leaf *prev, *next;
	uint32_t n;
	struct late e[LEAF_MAX];
};

struct inner {
	uint32_t n;
	struct stream_key low[INNER_MAX]; /* low[0] is not used */
	void *child[INNER_MAX];
};

/* The way down to a leaf: the inner nodes, and which child was taken. */
struct path {
	struct inner *node[DEPTH_MAX];
	unsigned at[DEPTH_MAX];
	struct late_leaf *leaf;
};

static void free_node(void *node, unsigned depth)
{
	if (depth > 0)
		for (uint32_t i = 0; i < ((struct inner *)node)->n; i++)
			free_node(((struct inner *)node)->child[i], depth - 1);
	free(node);
}

void late_done(struct late_tree *t)
{
	if (t->root != NULL)
		free_node(t->root, t->depth);
	*t = (struct late_tree){.root = NULL};
}

/* The last child whose keys may begin at or below the key. */
static unsigned inner_find(const struct inner *in, const struct stream_key *key)
{
	unsigned lo = 0, hi = in->n - 1;

	while (lo < hi) {
		unsigned mid = (lo + hi + 1) / 2;

		if (key_below(key, &in->low[mid]))
			hi = mid - 1;
		else
			lo = mid;
	}
	return lo;
}

/* The first entry at or above the key; leaf->n if there is none. */
static unsigned leaf_find(const struct late_leaf *leaf, const struct stream_key *key)
{
	unsigned lo = 0, hi = leaf->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (key_below(&leaf->e[mid].key, key))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void descend(const struct late_tree *t, const struct stream_key *key, struct path *ret)
{
	void *node = t->root;

	for (unsigned d = 0; d < t->depth; d++) {
		ret->node[d] = node;
		ret->at[d] = inner_find(node, key);
		node = ((struct inner *)node)->child[ret->at[d]];
	}
	ret->leaf = node;
}

/* Nodes that an insertion will need, made before anything changes. */
struct spare {
	struct late_leaf *leaf;
	struct inner *inner[DEPTH_MAX + 1];
	unsigned n;
};

static void spare_free(struct spare *s)
{
	free(s->leaf);
	while (s->n > 0)
		free(s->inner[--s->n]);
}

static int spare_make(const struct late_tree *t, const struct path *p, struct spare *s)
{
	unsigned d = t->depth, want = 0;

	*s = (struct spare){.leaf = malloc(sizeof *s->leaf)};
	while (d > 0 && p->node[d - 1]->n == INNER_MAX) {
		d--;
		want++;
	}
	if (d == 0)
		want++; /* a new root */
	if (s->leaf == NULL || t->depth + 1 >= DEPTH_MAX)
		goto out_free;
	for (; s->n < want; s->n++) {
		s->inner[s->n] = malloc(sizeof *s->inner[0]);
		if (s->inner[s->n] == NULL)
			goto out_free;
	}
	return 0;
out_free:
	spare_free(s);
	return -ENOMEM;
}

static void inner_put(struct inner *in, unsigned at, const struct stream_key *low, void *child)
{
	memmove(&in->low[at + 1], &in->low[at], (in->n - at) * sizeof in->low[0]);
	memmove(&in->child[at + 1], &in->child[at], (in->n - at) * sizeof in->child[0]);
	in->low[at] = *low;
	in->child[at] = child;
	in->n++;
}

/* Puts `child`, whose keys begin at `low`, behind the child that the path took; splits upwards as far as need be. */
static void insert_child(struct late_tree *t, struct path *p, struct stream_key low, void *child, bool last,
			 struct spare *s)
{
	unsigned d = t->depth;

	while (d > 0) {
		struct inner *in = p->node[--d], *more;
		unsigned at = p->at[d] + 1, keep = last ? INNER_MAX - 1 : INNER_MAX / 2;

		if (in->n < INNER_MAX) {
			DCHECK(s->n == 0); /* spare_make has counted exactly what is split */
			inner_put(in, at, &low, child);
			return;
		}
		DCHECK(s->n > 0);
		more = s->inner[--s->n];
		more->n = in->n - keep;
		memcpy(more->low, &in->low[keep], more->n * sizeof more->low[0]);
		memcpy(more->child, &in->child[keep], more->n * sizeof more->child[0]);
		in->n = keep;
		t->bytes += sizeof *more;
		if (at <= keep)
			inner_put(in, at, &low, child);
		else
			inner_put(more, at - keep, &low, child);
		low = more->low[0];
		child = more;
	}
	DCHECK(s->n == 1);
	struct inner *root = s->inner[--s->n];
	root->n = 2;
	root->child[0] = t->root;
	root->child[1] = child;
	root->low[1] = low;
	t->root = root;
	t->depth++;
	t->bytes += sizeof *root;
}

static int add_first(struct late_tree *t, const struct late *e)
{
	struct late_leaf *leaf = malloc(sizeof *leaf);

	if (leaf == NULL)
		return -ENOMEM;
	leaf->prev = leaf->next = NULL;
	leaf->n = 1;
	leaf->e[0] = *e;
	t->root = leaf;
	t->depth = 0;
	t->count = 1;
	t->bytes = sizeof *leaf;
	return 0;
}

static void leaf_put(struct late_leaf *leaf, unsigned at, const struct late *e)
{
	memmove(&leaf->e[at + 1], &leaf->e[at], (leaf->n - at) * sizeof leaf->e[0]);
	leaf->e[at] = *e;
	leaf->n++;
}

int late_add(struct late_tree *t, const struct late *e)
{
	struct late_leaf *leaf, *more;
	struct spare spare;
	struct path path;
	unsigned at, keep;
	bool last;

	if (t->root == NULL)
		return add_first(t, e);
	descend(t, &e->key, &path);
	leaf = path.leaf;
	at = leaf_find(leaf, &e->key);
	if (leaf->n < LEAF_MAX) {
		leaf_put(leaf, at, e);
		t->count++;
		return 0;
	}
	last = at == LEAF_MAX && leaf->next == NULL; /* above every key */
	if (spare_make(t, &path, &spare) != 0)
		return -ENOMEM;
	more = spare.leaf;
	keep = last ? LEAF_MAX : LEAF_MAX / 2;
	more->n = LEAF_MAX - keep;
	memcpy(more->e, &leaf->e[keep], more->n * sizeof more->e[0]);
	leaf->n = keep;
	more->prev = leaf;
	more->next = leaf->next;
	if (more->next != NULL)
		more->next->prev = more;
	leaf->next = more;
	if (at < keep || (at == keep && more->n > 0))
		leaf_put(leaf, at, e);
	else
		leaf_put(more, at - keep, e);
	t->count++;
	t->bytes += sizeof *more;
	insert_child(t, &path, more->e[0].key, more, last, &spare);
	return 0;
}

struct late_iter late_seek(const struct late_tree *t, const struct stream_key *from)
{
	struct path path;

	if (t->root == NULL)
		return (struct late_iter){NULL, 0};
	descend(t, from, &path);
	return (struct late_iter){path.leaf, leaf_find(path.leaf, from)};
}

const struct late *late_next(struct late_iter *it)
{
	while (it->leaf != NULL && it->i == it->leaf->n) {
		it->leaf = it->leaf->next;
		it->i = 0;
	}
	return it->leaf != NULL ? &it->leaf->e[it->i++] : NULL;
}

/* Takes an empty leaf out, and each parent that has no child left. */
static void remove_leaf(struct late_tree *t, struct path *p)
{
	struct late_leaf *leaf = p->leaf;
	unsigned d = t->depth;
	void *gone = leaf;

	if (leaf->prev != NULL)
		leaf->prev->next = leaf->next;
	if (leaf->next != NULL)
		leaf->next->prev = leaf->prev;
	t->bytes -= sizeof *leaf;
	for (; d > 0; d--) {
		struct inner *in = p->node[d - 1];
		unsigned at = p->at[d - 1];

		free(gone);
		gone = in;
		if (in->n > 1) {
			memmove(&in->low[at], &in->low[at + 1], (in->n - at - 1) * sizeof in->low[0]);
			memmove(&in->child[at], &in->child[at + 1], (in->n - at - 1) * sizeof in->child[0]);
			in->n--;
			break;
		}
		t->bytes -= sizeof *in;
	}
	if (d == 0) { /* it was the last one */
		free(gone);
		t->root = NULL;
		t->depth = 0;
		return;
	}
	while (t->depth > 0 && ((struct inner *)t->root)->n == 1) {
		struct inner *root = t->root;

		t->root = root->child[0];
		t->depth--;
		t->bytes -= sizeof *root;
		free(root);
	}
}

static void leaf_drop_below(struct late_leaf *leaf, uint64_t pos)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < leaf->n; i++)
		if (leaf->e[i].key.pos >= pos)
			leaf->e[kept++] = leaf->e[i];
	leaf->n = kept;
}

bool late_sweep(struct late_tree *t, uint64_t pos, unsigned leaves)
{
	while (t->root != NULL && leaves-- > 0) {
		struct path path;
		struct stream_key next;
		bool last;

		descend(t, &t->swept, &path);
		last = path.leaf->next == NULL;
		if (!last)
			next = path.leaf->next->e[0].key;
		t->count -= path.leaf->n;
		leaf_drop_below(path.leaf, pos);
		t->count += path.leaf->n;
		if (path.leaf->n == 0)
			remove_leaf(t, &path);
		if (last) {
			t->swept = (struct stream_key){.timestamp = INT64_MIN};
			return true;
		}
		t->swept = next;
	}
	if (t->root == NULL)
		t->swept = (struct stream_key){.timestamp = INT64_MIN};
	return t->root == NULL;
}
