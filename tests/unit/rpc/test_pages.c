/* rpc/pages.c: who asks gets a page that was begun after he asked; one page serves all; the pause holds; a shard that takes nothing loses nothing. */
#include "rpc/pages.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHARDS = 3, KINDS = 2, PAUSE_MS = 1000 };

struct rig {
	struct pages *pages;
	struct doorbell bell[SHARDS];
	unsigned renders[KINDS];
	bool fails;
};

static void render(void *ctx, unsigned kind, struct text *to)
{
	struct rig *r = ctx;
	r->renders[kind]++;
	text_printf(to, "kind %u, page %u", kind, r->renders[kind]);
	to->failed |= r->fails;
}

static int setup(void **state)
{
	struct rig *r = aligned_alloc(CACHE_LINE, (sizeof *r + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	assert_non_null(r);
	memset(r, 0, sizeof *r);
	assert_int_equal(pages_new(&(struct pages_opts){SHARDS, KINDS, PAUSE_MS * NS_PER_MS}, &r->pages), 0);
	for (unsigned i = 0; i < SHARDS; i++) {
		assert_int_equal(doorbell_init(&r->bell[i]), 0);
		pages_join(r->pages, i, &r->bell[i]);
	}
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	pages_free(r->pages);
	for (unsigned i = 0; i < SHARDS; i++)
		doorbell_done(&r->bell[i]);
	free(r);
	return 0;
}

static bool is_readable(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};
	return poll(&p, 1, 0) > 0;
}

static void take(struct rig *r, unsigned shard, unsigned kind, uint32_t number, const char *text)
{
	struct pages_post post;
	assert_true(pages_has_mail(r->pages, shard));
	assert_true(pages_take(r->pages, shard, &post));
	assert_int_equal(post.kind, kind);
	assert_int_equal(post.number, number);
	if (text) {
		assert_int_equal(post.page->text.n, strlen(text));
		assert_memory_equal(post.page->text.p, text, strlen(text));
	} else {
		assert_null(post.page);
	}
	page_put(post.page);
}

static void take_nothing(struct rig *r, unsigned shard)
{
	struct pages_post post;
	assert_false(pages_has_mail(r->pages, shard));
	assert_false(pages_take(r->pages, shard, &post));
}

static void test_one_page_answers_all_who_wait(void **state)
{
	struct rig *r = *state;
	assert_int_equal(pages_ask(r->pages, 0, 1), 1);
	assert_int_equal(pages_ask(r->pages, 0, 1), 2);
	assert_int_equal(pages_ask(r->pages, 2, 1), 1);
	take_nothing(r, 0);
	pages_turn(r->pages, clock_mono_ns(), render, r);
	take(r, 0, 1, 2, "kind 1, page 1");
	take(r, 2, 1, 1, "kind 1, page 1");
	for (unsigned i = 0; i < SHARDS; i++)
		take_nothing(r, i);
	assert_int_equal(r->renders[0], 0);
	assert_int_equal(pages_rendered(r->pages), 1);
}

static void test_kinds_are_apart(void **state)
{
	struct rig *r = *state;
	pages_ask(r->pages, 1, 0);
	pages_ask(r->pages, 1, 1);
	pages_turn(r->pages, clock_mono_ns(), render, r);
	take(r, 1, 0, 1, "kind 0, page 1");
	take(r, 1, 1, 1, "kind 1, page 1");
	take_nothing(r, 1);
}

static void test_the_pause_holds_and_then_all_are_answered_at_once(void **state)
{
	struct rig *r = *state;
	uint64_t before = clock_mono_ns();
	pages_ask(r->pages, 0, 0);
	uint64_t next = pages_turn(r->pages, before, render, r);
	assert_true(next >= before + PAUSE_MS * NS_PER_MS);
	take(r, 0, 0, 1, "kind 0, page 1");
	for (unsigned i = 0; i < 1000; i++)
		pages_ask(r->pages, i % SHARDS, 0);
	assert_int_equal(pages_turn(r->pages, next - 1, render, r), next);
	for (unsigned i = 0; i < SHARDS; i++)
		take_nothing(r, i);
	assert_true(pages_turn(r->pages, next, render, r) > next - PAUSE_MS * NS_PER_MS);
	take(r, 0, 0, 335, "kind 0, page 2");
	take(r, 1, 0, 333, "kind 0, page 2");
	take(r, 2, 0, 333, "kind 0, page 2");
	assert_int_equal(r->renders[0], 2);
}

/* A flood of questions must not wake the main thread for each: while one is known, or the pause lasts, its descriptor stays silent. */
static void test_only_the_first_question_wakes_the_main_thread(void **state)
{
	struct rig *r = *state;
	uint64_t now = clock_mono_ns();
	assert_true(pages_turn(r->pages, now, render, r) == UINT64_MAX);
	assert_false(is_readable(pages_fd(r->pages)));
	pages_ask(r->pages, 0, 0);
	assert_true(is_readable(pages_fd(r->pages)));
	uint64_t next = pages_turn(r->pages, now, render, r);
	for (unsigned i = 0; i < 100; i++)
		pages_ask(r->pages, 0, 0);
	assert_false(is_readable(pages_fd(r->pages)));
	next = pages_turn(r->pages, next, render, r);
	assert_true(pages_turn(r->pages, next, render, r) == UINT64_MAX);
	assert_false(is_readable(pages_fd(r->pages)));
	take(r, 0, 0, 1, "kind 0, page 1");
	take(r, 0, 0, 101, "kind 0, page 2");
}

static void render_slowly(void *ctx, unsigned kind, struct text *to)
{
	render(ctx, kind, to);
	usleep(20000);
}

/* Pages that take longer than the pause would keep the main thread busy all the time. */
static void test_a_long_rendering_is_followed_by_a_longer_pause(void **state)
{
	struct rig *r = *state;
	pages_hurry(r->pages); /* to a pause that is shorter than the rendering */
	uint64_t before = clock_mono_ns();
	pages_ask(r->pages, 0, 0);
	uint64_t next = pages_turn(r->pages, before, render_slowly, r);
	assert_true(next >= before + 4 * 20 * NS_PER_MS);
	pages_ask(r->pages, 0, 0);
	assert_int_equal(pages_turn(r->pages, next - 1, render_slowly, r), next);
	assert_int_equal(r->renders[0], 1);
}

static void test_the_shard_is_rung(void **state)
{
	struct rig *r = *state;
	pages_ask(r->pages, 1, 0);
	for (unsigned i = 0; i < SHARDS; i++)
		doorbell_arm(&r->bell[i]);
	pages_turn(r->pages, clock_mono_ns(), render, r);
	assert_false(is_readable(r->bell[0].fd));
	assert_true(is_readable(r->bell[1].fd));
	take(r, 1, 0, 1, "kind 0, page 1");
}

static void test_without_memory_the_question_is_answered_with_nothing(void **state)
{
	struct rig *r = *state;
	r->fails = true;
	pages_ask(r->pages, 0, 0);
	pages_turn(r->pages, clock_mono_ns(), render, r);
	take(r, 0, 0, 1, NULL);
}

/* A shard that is stuck: its mailbox fills, questions stay open, and all of it is there when it goes on. */
static void test_a_full_mailbox_loses_no_question(void **state)
{
	struct rig *r = *state;
	uint64_t now = clock_mono_ns();
	unsigned rounds = 0, taken = 0;
	uint32_t last = 0, number;
	struct pages_post post;
	do {
		number = pages_ask(r->pages, 0, 0);
		now = pages_turn(r->pages, now, render, r);
		rounds++;
	} while (rounds < 100);
	for (; pages_take(r->pages, 0, &post); taken++) {
		assert_true(post.number > last);
		last = post.number;
		page_put(post.page);
	}
	assert_in_range(taken, 1, 99);
	assert_true(last < number);
	pages_turn(r->pages, now, render, r);
	assert_true(pages_take(r->pages, 0, &post));
	assert_int_equal(post.number, number);
	page_put(post.page);
}

static void test_hurry_ends_the_pause(void **state)
{
	struct rig *r = *state;
	uint64_t now = clock_mono_ns();
	pages_ask(r->pages, 0, 0);
	pages_turn(r->pages, now, render, r);
	pages_ask(r->pages, 0, 0);
	assert_true(pages_turn(r->pages, now, render, r) > now);
	pages_hurry(r->pages);
	pages_turn(r->pages, now, render, r);
	assert_int_equal(r->renders[0], 2);
	take(r, 0, 0, 1, "kind 0, page 1");
	take(r, 0, 0, 2, "kind 0, page 2");
}

static void test_what_nobody_took_is_freed(void **state)
{
	struct rig *r = *state; /* LeakSanitizer looks */
	for (unsigned i = 0; i < SHARDS; i++)
		pages_ask(r->pages, i, 0);
	pages_turn(r->pages, clock_mono_ns(), render, r);
}

/* Threads: shards that ask and wait, and the main thread. */

enum { QUESTIONS = 300 };
static atomic_uint threads_done;

struct asker {
	struct rig *r;
	unsigned shard;
};

static void *ask_all(void *arg)
{
	struct asker *a = arg;
	struct pages *p = a->r->pages;
	struct doorbell *bell = &a->r->bell[a->shard];
	for (unsigned i = 0; i < QUESTIONS; i++) {
		uint32_t number = pages_ask(p, a->shard, i % KINDS);
		for (bool answered = false; !answered;) {
			struct pages_post post;
			doorbell_arm(bell);
			if (!pages_has_mail(p, a->shard))
				doorbell_wait(bell, UINT64_MAX);
			doorbell_disarm(bell);
			while (pages_take(p, a->shard, &post)) {
				CHECK(post.page && memcmp(post.page->text.p, "kind ", 5) == 0);
				answered |= post.kind == i % KINDS && post.number == number;
				page_put(post.page);
			}
		}
	}
	atomic_fetch_add(&threads_done, 1);
	pages_ask(p, a->shard, 0); /* wakes the main thread */
	return NULL;
}

static void test_threads(void **state)
{
	struct rig *r = *state;
	pthread_t thread[SHARDS];
	struct asker asker[SHARDS];
	atomic_store(&threads_done, 0);
	pages_hurry(r->pages);
	for (unsigned i = 0; i < SHARDS; i++) {
		asker[i] = (struct asker){r, i};
		assert_int_equal(pthread_create(&thread[i], NULL, ask_all, &asker[i]), 0);
	}
	while (atomic_load(&threads_done) < SHARDS) {
		struct pollfd p = {pages_fd(r->pages), POLLIN, 0};
		pages_hurry(r->pages);
		uint64_t now = clock_mono_ns(), next = pages_turn(r->pages, now, render, r);
		if (next == UINT64_MAX)
			poll(&p, 1, -1);
	}
	for (unsigned i = 0; i < SHARDS; i++)
		pthread_join(thread[i], NULL);
	assert_true(pages_rendered(r->pages) >= QUESTIONS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_page_answers_all_who_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kinds_are_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_pause_holds_and_then_all_are_answered_at_once, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_only_the_first_question_wakes_the_main_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_long_rendering_is_followed_by_a_longer_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_shard_is_rung, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without_memory_the_question_is_answered_with_nothing, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_full_mailbox_loses_no_question, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hurry_ends_the_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_nobody_took_is_freed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
