/* Pages that the main thread renders for the shards. A shard asks for a page of a kind and goes on; the main thread renders it once for all that
 * have asked for it, on whichever shard, and posts it to each of these. Nobody blocks.
 *
 *   shard:  pages_ask -> asked[kind] ---doorbell---> main: pages_turn: render
 *           pages_take <-------- back[shard] <------ a page, counted, or none for lack of memory
 *
 * A page answers what was asked for before it was begun, so nobody gets figures that are older than the question. Between two batches of pages
 * the main thread pauses, at least three times as long as the batch took, so however many ask, a quarter of its time at the most goes into
 * rendering; who asks meanwhile waits. What a page says is its
 * renderer's business. */
#ifndef ORDINAL_RPC_PAGES_H
#define ORDINAL_RPC_PAGES_H

#include "core/base/doorbell.h"
#include "core/base/text.h"

#include <stdint.h>

#define PAGES_KINDS_MAX 8

/* Bytes that never change, counted; any thread. */
struct page {
	atomic_uint refs;
	struct text text;
};
struct page *page_get(struct page *p);
void page_put(struct page *p);

struct pages;

struct pages_opts {
	unsigned shards, kinds;
	uint64_t pause_ns; /* from the end of a batch to the next one, at the least */
};

/* Main thread, before the shards start. 0 or -errno. Free: after they have ended; NULL is allowed. */
int pages_new(const struct pages_opts *opts, struct pages **ret);
void pages_free(struct pages *p);

/* Writes the page into `to` (to->failed: there is no memory for it). */
typedef void (*pages_render)(void *ctx, unsigned kind, struct text *to);

/* Main thread. Renders what has been asked for, if the pause is over. Returns when to call it again (monotonic); UINT64_MAX: when pages_fd is
 * readable. */
uint64_t pages_turn(struct pages *p, uint64_t now_ns, pages_render render, void *ctx);
int pages_fd(const struct pages *p);
/* Main thread: the daemon stops. What waits is due now, and from here on pauses are short. */
void pages_hurry(struct pages *p);
/* Main thread: how many have been rendered. */
uint64_t pages_rendered(const struct pages *p);

/* Shard thread: `bell` is rung when there is something to take. Once, before it asks. */
void pages_join(struct pages *p, unsigned shard, struct doorbell *bell);
/* Shard thread: the number of the question; numbers of a shard and kind rise by one, and wrap. */
uint32_t pages_ask(struct pages *p, unsigned shard, unsigned kind);

/* An answer to all questions of a kind up to a number. */
struct pages_post {
	struct page *page; /* the taker's to put; NULL: no memory for it */
	uint32_t kind, number;
};
/* Shard thread. false: nothing has come. */
bool pages_take(struct pages *p, unsigned shard, struct pages_post *ret);
bool pages_has_mail(const struct pages *p, unsigned shard);

#endif
