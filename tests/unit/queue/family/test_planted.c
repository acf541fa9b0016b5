/* The conformance suite must catch what it is there for: queues with one planted bug each, run against it.
 *
 * The queue underneath is right: without a bug it passes every case (the control), so what is found is the bug. The
 * outcome is checked, not the time it took: only a hang is told by time, and a planted hang stays one however short
 * the patience; a machine too busy to make any progress in that time makes the control's limit, not this one, matter.
 */
#include "conform.h"

#include "core/base/check.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define PLANTED_HANG_S 5

enum bug {
	BUG_NONE,
	BUG_LOST_ITEM,              /* one item in 97 is dropped on its way out */
	BUG_LOST_ITEM_AT_CLOSE,     /* closed means empty */
	BUG_REPEATED_ITEM,          /* one item in 97 comes out again */
	BUG_FIFO,                   /* one item in 97 changes places with the next */
	BUG_LOST_WAKEUP_FIRST_ONLY, /* consumers are told only when the queue stops being empty: one for two items */
	BUG_LOST_WAKEUP_SPACE,      /* producers are told only when the queue stops being full */
	BUG_CLOSE_WAKES_ONE,
	BUG_BOUND, /* one more than the capacity */
	BUG_OPEN_AFTER_CLOSE,
};

struct planted {
	struct family_queue base;
	enum bug bug;
	uint32_t capacity, head, count, turns;
	bool closed;
	uint64_t *items;
	pthread_mutex_t lock;
	pthread_cond_t ready, space;
};

static int planted_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct planted *p = calloc(1, sizeof *p);

	CHECK(p != NULL);
	p->base.ops = ops;
	p->bug = (enum bug)ops->variant;
	p->capacity = opts->capacity + (p->bug == BUG_BOUND);
	p->items = calloc(p->capacity, sizeof *p->items);
	CHECK(p->items != NULL);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->ready, NULL);
	pthread_cond_init(&p->space, NULL);
	*ret = &p->base;
	return 0;
}

static void planted_done(struct family_queue *q)
{
	struct planted *p = container_of(q, struct planted, base);

	pthread_cond_destroy(&p->space);
	pthread_cond_destroy(&p->ready);
	pthread_mutex_destroy(&p->lock);
	free(p->items);
	free(p);
}

static int planted_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	struct planted *p = container_of(q, struct planted, base);
	unsigned put = 0;
	bool closed;

	pthread_mutex_lock(&p->lock);
	while (put < n) {
		bool was_empty = p->count == 0;

		closed = p->closed && p->bug != BUG_OPEN_AFTER_CLOSE;
		if (closed || (p->count == p->capacity && (!wait || p->closed)))
			break;
		if (p->count == p->capacity) {
			pthread_cond_wait(&p->space, &p->lock);
			continue;
		}
		p->items[(p->head + p->count++) % p->capacity] = items[put++];
		if (was_empty || p->bug != BUG_LOST_WAKEUP_FIRST_ONLY)
			pthread_cond_signal(&p->ready);
	}
	closed = p->closed;
	pthread_mutex_unlock(&p->lock);
	return put > 0 ? (int)put : closed ? -EPIPE : -EAGAIN;
}

/* The first item leaves, under the lock. */
static uint64_t planted_take(struct planted *p)
{
	uint64_t *first = &p->items[p->head], *second = &p->items[(p->head + 1) % p->capacity];
	bool turn = ++p->turns % 97 == 0;
	uint64_t item = *first;

	if (turn && p->bug == BUG_FIFO && p->count > 1) {
		item = *second;
		*second = *first;
	}
	if (turn && p->bug == BUG_REPEATED_ITEM)
		return item;
	p->head = (p->head + 1) % p->capacity;
	p->count--;
	if (turn && p->bug == BUG_LOST_ITEM && p->count > 0)
		return planted_take(p);
	return item;
}

static int planted_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	struct planted *p = container_of(q, struct planted, base);
	unsigned got = 0;
	bool closed;

	pthread_mutex_lock(&p->lock);
	while (wait && p->count == 0 && !p->closed)
		pthread_cond_wait(&p->ready, &p->lock);
	closed = p->closed;
	while (got < n && p->count > 0 && !(closed && p->bug == BUG_LOST_ITEM_AT_CLOSE)) {
		bool was_full = p->count == p->capacity;

		items[got++] = planted_take(p);
		if (was_full || p->bug != BUG_LOST_WAKEUP_SPACE)
			pthread_cond_signal(&p->space);
	}
	pthread_mutex_unlock(&p->lock);
	return got > 0 ? (int)got : closed ? -EPIPE : -EAGAIN;
}

static void planted_close(struct family_queue *q)
{
	struct planted *p = container_of(q, struct planted, base);

	pthread_mutex_lock(&p->lock);
	p->closed = true;
	if (p->bug == BUG_CLOSE_WAKES_ONE) {
		pthread_cond_signal(&p->ready);
		pthread_cond_signal(&p->space);
	} else {
		pthread_cond_broadcast(&p->ready);
		pthread_cond_broadcast(&p->space);
	}
	pthread_mutex_unlock(&p->lock);
}

static struct family_ops planted(enum bug bug)
{
	return (struct family_ops){
		.name = "planted",
		.about = "a mutex queue with a planted bug",
		.order = FAMILY_FIFO,
		.peer = FAMILY_PEER_STOPS,
		.bounded = true,
		.variant = bug,
		.init = planted_init,
		.done = planted_done,
		.enqueue = planted_enqueue,
		.dequeue = planted_dequeue,
		.close = planted_close,
	};
}

/* Runs the cases in order until one finds something. */
static void caught(enum bug bug, unsigned expected)
{
	const struct family_ops ops = planted(bug);

	for (unsigned i = 0; i < conform_count; i++) {
		char why[256] = "";
		unsigned faults = conform_run(&conform_cases[i], &ops, PLANTED_HANG_S, why, sizeof why);

		if (faults == 0)
			continue;
		print_message("caught by %s: %s\n", conform_cases[i].name, why);
		assert_int_equal(faults, expected);
		return;
	}
	fail_msg("the suite did not notice");
}

static void test_control_without_a_bug_conforms(void **state)
{
	const struct family_ops ops = planted(BUG_NONE);

	for (unsigned i = 0; i < conform_count; i++) {
		char why[256] = "";

		if (conform_run(&conform_cases[i], &ops, CONFORM_HANG_S, why, sizeof why) != 0)
			fail_msg("%s: %s", conform_cases[i].name, why);
	}
}

static void test_lost_item_is_caught(void **state)
{
	caught(BUG_LOST_ITEM, CONFORM_LOST);
}
static void test_item_lost_at_close_is_caught(void **state)
{
	caught(BUG_LOST_ITEM_AT_CLOSE, CONFORM_LOST);
}
static void test_repeated_item_is_caught(void **state)
{
	caught(BUG_REPEATED_ITEM, CONFORM_REPEATED);
}
static void test_broken_fifo_is_caught(void **state)
{
	caught(BUG_FIFO, CONFORM_DISORDER);
}
static void test_lost_wakeup_of_a_consumer_is_caught(void **state)
{
	caught(BUG_LOST_WAKEUP_FIRST_ONLY, CONFORM_HANG);
}
static void test_lost_wakeup_of_a_producer_is_caught(void **state)
{
	caught(BUG_LOST_WAKEUP_SPACE, CONFORM_HANG);
}
static void test_close_that_wakes_one_is_caught(void **state)
{
	caught(BUG_CLOSE_WAKES_ONE, CONFORM_HANG);
}
static void test_bound_exceeded_is_caught(void **state)
{
	caught(BUG_BOUND, CONFORM_BOUND);
}
static void test_enqueue_after_close_is_caught(void **state)
{
	caught(BUG_OPEN_AFTER_CLOSE, CONFORM_CLOSE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_control_without_a_bug_conforms),
		cmocka_unit_test(test_lost_item_is_caught),
		cmocka_unit_test(test_item_lost_at_close_is_caught),
		cmocka_unit_test(test_repeated_item_is_caught),
		cmocka_unit_test(test_broken_fifo_is_caught),
		cmocka_unit_test(test_lost_wakeup_of_a_consumer_is_caught),
		cmocka_unit_test(test_lost_wakeup_of_a_producer_is_caught),
		cmocka_unit_test(test_close_that_wakes_one_is_caught),
		cmocka_unit_test(test_bound_exceeded_is_caught),
		cmocka_unit_test(test_enqueue_after_close_is_caught),
	};

	return cmocka_run_group_tests_name("planted bugs", tests, NULL, NULL);
}
