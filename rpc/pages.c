/* Rendered pages for the shards; see the header, which says which thread runs what.
 *
 * The main thread's bell is armed only while no question is known: then a first one wakes it. While one is known and the pause lasts, it sleeps until
 * the pause is over, whatever else is asked; so questions cannot wake it more than twice a pause.
 */
#include "rpc/pages.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/spsc.h"
#include "core/shard.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

enum { POSTS = 2 * PAGES_KINDS_MAX };
#define PAUSE_HURRIED_NS (10 * NS_PER_MS)
#define PAUSE_SHARE                                                                                                    \
	3 /* a pause is at least so many times as long as the rendering before it: a quarter of the thread's time at the most */

struct pages_desk {
	struct doorbell *bell;              /* the shard's; set by it before it asks */
	atomic_uint asked[PAGES_KINDS_MAX]; /* the last question's number; written by the shard, pairs with collect */
	uint32_t posted[PAGES_KINDS_MAX];   /* the last one that was answered; the main thread's */
	struct spsc back;                   /* struct pages_post */
};

struct pages {
	struct pages_opts opts;
	struct doorbell bell; /* the main thread's */
	uint64_t next_ns;     /* not before this is anything rendered */
	uint64_t rendered;
	struct pages_desk *desk; /* one a shard */
};

/* Pages. */

struct page *page_get(struct page *p)
{
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void page_put(struct page *p)
{
	/* Pairs with the other puts: who frees it comes after all who read it. */
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	text_done(&p->text);
	free(p);
}

/* Making. */

int pages_new(const struct pages_opts *opts, struct pages **ret)
{
	CHECK(opts->shards > 0 && opts->shards <= SHARD_MAX && opts->kinds > 0 && opts->kinds <= PAGES_KINDS_MAX);
	struct pages *p = aligned_alloc(CACHE_LINE, (sizeof *p + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof *p);
	p->opts = *opts;
	p->bell.fd = -1;
	p->desk = aligned_alloc(CACHE_LINE, opts->shards * sizeof *p->desk);
	if (p->desk)
		memset(p->desk, 0, opts->shards * sizeof *p->desk);
	int rc = p->desk ? doorbell_init(&p->bell) : -ENOMEM;
	for (unsigned i = 0; rc == 0 && i < opts->shards; i++)
		rc = spsc_init(&p->desk[i].back, POSTS, sizeof(struct pages_post));
	if (rc) {
		pages_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

void pages_free(struct pages *p)
{
	if (!p)
		return;
	for (unsigned i = 0; p->desk && i < p->opts.shards; i++) {
		struct pages_post post;
		while (p->desk[i].back.buf && spsc_pop(&p->desk[i].back, &post))
			page_put(post.page);
		spsc_done(&p->desk[i].back);
	}
	free(p->desk);
	doorbell_done(&p->bell);
	free(p);
}

/* Main thread. */

int pages_fd(const struct pages *p)
{
	return p->bell.fd;
}

uint64_t pages_rendered(const struct pages *p)
{
	return p->rendered;
}

void pages_hurry(struct pages *p)
{
	p->next_ns = 0;
	if (p->opts.pause_ns > PAUSE_HURRIED_NS)
		p->opts.pause_ns = PAUSE_HURRIED_NS;
}

/* Which questions of a kind are open, on which shard: their last numbers. false: none. */
static bool collect(const struct pages *p, unsigned kind, uint32_t *ret_asked)
{
	bool any = false;
	for (unsigned i = 0; i < p->opts.shards; i++) {
		ret_asked[i] = atomic_load_explicit(&p->desk[i].asked[kind],
						    memory_order_acquire); /* pairs with pages_ask */
		any |= ret_asked[i] != p->desk[i].posted[kind];
	}
	return any;
}

static struct page *render_page(struct pages *p, unsigned kind, pages_render render, void *ctx)
{
	struct page *page = calloc(1, sizeof *page);
	if (!page)
		return NULL;
	atomic_init(&page->refs, 1);
	render(ctx, kind, &page->text);
	p->rendered++;
	if (!page->text.failed)
		return page;
	page_put(page);
	return NULL;
}

/* A shard that does not take its mail gets none more: its questions stay open until it does. */
static void post(struct pages *p, unsigned kind, struct page *page, const uint32_t *asked)
{
	for (unsigned i = 0; i < p->opts.shards; i++) {
		struct pages_desk *d = &p->desk[i];
		struct pages_post mail = {.page = page, .kind = kind, .number = asked[i]};
		if (asked[i] == d->posted[kind] || spsc_count(&d->back) == spsc_capacity(&d->back))
			continue;
		if (page)
			page_get(page);
		CHECK(spsc_push(&d->back, &mail));
		d->posted[kind] = asked[i];
		doorbell_ring(d->bell);
	}
}

/* false: nobody asks. */
static bool batch(struct pages *p, pages_render render, void *ctx)
{
	uint32_t asked[SHARD_MAX];
	bool any = false;
	for (unsigned kind = 0; kind < p->opts.kinds; kind++) {
		if (!collect(p, kind, asked))
			continue;
		struct page *page = render_page(p, kind, render, ctx);
		post(p, kind, page, asked);
		page_put(page);
		any = true;
	}
	return any;
}

static bool is_asked(const struct pages *p)
{
	for (unsigned i = 0; i < p->opts.shards; i++) {
		for (unsigned k = 0; k < p->opts.kinds; k++) {
			if (atomic_load_explicit(&p->desk[i].asked[k], memory_order_relaxed) != p->desk[i].posted[k])
				return true;
		}
	}
	return false;
}

/* Takes what rings have left, so that the descriptor is not readable for nothing. */
static void disarm(struct pages *p)
{
	struct pollfd fd = {p->bell.fd, POLLIN, 0};
	if (poll(&fd, 1, 0) > 0)
		doorbell_wait(&p->bell, 0);
	doorbell_disarm(&p->bell);
}

uint64_t pages_turn(struct pages *p, uint64_t now_ns, pages_render render, void *ctx)
{
	disarm(p);
	if (now_ns < p->next_ns)
		return p->next_ns;
	uint64_t begun = clock_mono_ns();
	if (batch(p, render, ctx)) {
		uint64_t ended = clock_mono_ns(), share = (ended - begun) * PAUSE_SHARE;
		p->next_ns = ended + (share > p->opts.pause_ns ? share : p->opts.pause_ns);
		return p->next_ns;
	}
	doorbell_arm(&p->bell);
	if (!is_asked(p))
		return UINT64_MAX;
	doorbell_disarm(&p->bell);
	return now_ns;
}

/* Shards. */

void pages_join(struct pages *p, unsigned shard, struct doorbell *bell)
{
	p->desk[shard].bell = bell;
}

uint32_t pages_ask(struct pages *p, unsigned shard, unsigned kind)
{
	atomic_uint *asked = &p->desk[shard].asked[kind];
	uint32_t number = atomic_load_explicit(asked, memory_order_relaxed) + 1;
	atomic_store_explicit(asked, number,
			      memory_order_release); /* pairs with collect; the bell's address is seen with it */
	doorbell_ring(&p->bell);
	return number;
}

bool pages_take(struct pages *p, unsigned shard, struct pages_post *ret)
{
	return spsc_pop(&p->desk[shard].back, ret);
}

bool pages_has_mail(const struct pages *p, unsigned shard)
{
	return spsc_count(&p->desk[shard].back) > 0;
}
