/* The tables of calls and streams in flight, against models: whatever is added, removed and looked up
 * in whatever order, and whenever a table grows in between. The client's table of streams is a part of
 * its file, which is included here. */
#include "core/base/check.h"
#include "rpc/client/h2_client.c"
#include "rpc/h2_table.h"
#include "rpc/native_table.h"
#include "tests/unit/rpc/wire/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ROUNDS = 40, STEPS = 4000, MOST = 3000 };

/* ---- native calls ---- */

/* The model: a list of all entries, the newest first. */
struct model_call {
	struct native_entry entry;
	struct model_call *older;
};

static struct model_call *newest;
static unsigned removed;

static struct model_call *model_find(uint32_t id)
{
	struct model_call *m = newest;
	while (m && m->entry.id != id)
		m = m->older;
	return m;
}

static void model_add(struct native_table *t, uint32_t id)
{
	struct model_call *m = calloc(1, sizeof *m);
	assert_non_null(m);
	m->entry.id = id;
	m->older = newest;
	newest = m;
	native_table_add(t, &m->entry);
}

static void model_remove(struct native_table *t, struct model_call *gone)
{
	struct model_call **m = &newest;
	while (*m != gone)
		m = &(*m)->older;
	*m = gone->older;
	native_table_remove(t, &gone->entry);
	free(gone);
}

static void check_native(const struct native_table *t, uint32_t id)
{
	struct model_call *m = model_find(id);
	assert_ptr_equal(native_table_find(t, id), m ? &m->entry : NULL);
}

static struct native_table *table_now;

static void remove_one(struct native_entry *e)
{
	removed++;
	model_remove(table_now, container_of(e, struct model_call, entry));
}

/* Of the entries with one number the newest was found, and after the table had grown the oldest. */
static void test_native_numbers_that_repeat_are_found_newest_first_also_after_growing(void **state)
{
	struct native_table t;
	native_table_init(&t, 12345);
	for (uint32_t i = 0; i < 200; i++) {
		model_add(&t, i % 3 ? i : 1);
		check_native(&t, 1);
	}
	while (newest) {
		check_native(&t, 1);
		model_remove(&t, newest);
	}
	native_table_done(&t);
}

static void test_native_calls_against_a_model(void **state)
{
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		uint64_t random = seed * 7919;
		uint32_t numbers = 1 + random_below(&random, MOST), count = 0;
		struct native_table t;
		native_table_init(&t, random);
		table_now = &t;
		for (unsigned i = 0; i < STEPS / 4; i++) {
			uint32_t id = random_below(&random, numbers) * (seed % 2 ? 1 : 4099);
			struct model_call *m = model_find(id);
			if (m && random_below(&random, 3) == 0) {
				model_remove(&t, m);
				count--;
			} else {
				model_add(&t, id);
				count++;
			}
			assert_int_equal(t.used, count);
			check_native(&t, id);
			check_native(&t, random_below(&random, numbers));
		}
		removed = 0;
		native_table_each(&t, remove_one);
		assert_int_equal(removed, count);
		assert_null(newest);
		native_table_done(&t);
	}
}

/* ---- HTTP/2 streams, on both sides ---- */

/* The model: what is open, in a plain array. */
static struct {
	uint32_t id[MOST], count;
} open_streams;

/* A stream is only pointed to: its identifier serves as its address. */
static struct h2_stream *stream_of(uint32_t id)
{
	return (struct h2_stream *)(uintptr_t)id;
}

/* Identifiers rise, now and then by more than two; streams end in any order, the youngest most often. */
static uint32_t next_id(uint64_t *random, uint32_t last)
{
	return last + 2 + (random_below(random, 8) ? 0 : 2 * random_below(random, 300));
}

static uint32_t end_one(uint64_t *random)
{
	uint32_t n = open_streams.count, near = n < 4 ? n : 4;
	uint32_t i = random_below(random, 2) ? n - 1 - random_below(random, near) : random_below(random, n);
	uint32_t id = open_streams.id[i];
	open_streams.id[i] = open_streams.id[--open_streams.count];
	return id;
}

static bool is_open(uint32_t id)
{
	uint32_t i = 0;
	while (i < open_streams.count && open_streams.id[i] != id)
		i++;
	return i < open_streams.count;
}

static void check_streams(const struct h2_table *t, const struct h2_client *h, uint32_t id)
{
	bool open = is_open(id);
	const struct h2c_stream_slot *slot = stream_find(h, id);
	assert_ptr_equal(h2_table_find(t, id), open ? stream_of(id) : NULL);
	assert_int_equal(slot != NULL, open);
	if (slot)
		assert_int_equal(slot->call, id ^ 0x5555);
}

static void test_streams_against_a_model(void **state)
{
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		uint64_t random = seed * 104729;
		uint32_t last = 0xffffffff, most = 1 + random_below(&random, seed % 4 ? 150 : MOST - 1);
		struct h2_table t = {.secret = random};
		struct h2_client h = {.streams = calloc(2, sizeof *h.streams), .streams_mask = 1};
		assert_non_null(h.streams);
		open_streams.count = 0;
		for (unsigned i = 0; i < STEPS; i++) {
			if (open_streams.count && (open_streams.count == most || random_below(&random, 9) < 4)) {
				uint32_t id = end_one(&random);
				h2_table_remove(&t, id);
				stream_remove(&h, id);
				check_streams(&t, &h, id);
			} else {
				last = next_id(&random, last);
				assert_true(h2_table_reserve(&t));
				h2_table_add(&t, last, stream_of(last));
				assert_int_equal(h2c_stream_add(&h, last, last ^ 0x5555), 0);
				open_streams.id[open_streams.count++] = last;
			}
			assert_int_equal(t.used, open_streams.count);
			assert_int_equal(h.streams_n, open_streams.count);
			check_streams(&t, &h, last - 2 * random_below(&random, 400));
			if (open_streams.count)
				check_streams(&t, &h, open_streams.id[random_below(&random, open_streams.count)]);
		}
		for (uint32_t i = 0; i < open_streams.count; i++)
			check_streams(&t, &h, open_streams.id[i]);
		while (open_streams.count)
			h2_table_remove(&t, end_one(&random));
		h2_table_done(&t);
		free(h.streams);
	}
}

/* P12: 4,096 numbers of a client's choice met in one chain, and each MESSAGE walked it. */
static void test_chosen_numbers_do_not_meet_in_one_chain(void **state)
{
	static struct native_entry entry[NATIVE_BUCKETS_MAX];
	for (unsigned shift = 0; shift <= 20; shift++) {
		struct native_table t;
		uint32_t longest = 0;
		native_table_init(&t, UINT64_C(0x8f3a5c19d2e47b61) * (shift + 1));
		for (uint32_t i = 0; i < NATIVE_BUCKETS_MAX; i++) {
			entry[i].id = i << shift;
			native_table_add(&t, &entry[i]);
		}
		for (uint32_t i = 0; i <= t.mask; i++) {
			uint32_t n = 0;
			for (const struct native_entry *e = t.bucket[i]; e; e = e->next)
				n++;
			longest = n > longest ? n : longest;
		}
		assert_in_range(longest, 1, 64);
		for (uint32_t i = 0; i < NATIVE_BUCKETS_MAX; i++)
			native_table_remove(&t, &entry[i]);
		native_table_done(&t);
	}
}

static uint32_t farthest(const struct h2_table *t)
{
	uint32_t most = 0;
	for (uint32_t i = 0; i <= t->mask; i++) {
		uint32_t far = t->slot[i].stream ? (i - h2_table_home(t, t->slot[i].id)) & t->mask : 0;
		most = far > most ? far : most;
	}
	return most;
}

static void test_chosen_identifiers_do_not_meet_at_one_home(void **state)
{
	enum { STREAMS = 2000 };
	for (unsigned shift = 1; shift <= 20; shift++) {
		struct h2_table t = {.secret = UINT64_C(0x8f3a5c19d2e47b61) * shift};
		for (uint32_t i = 0; i < STREAMS; i++) {
			assert_true(h2_table_reserve(&t));
			h2_table_add(&t, (i << shift) + 1, stream_of((i << shift) + 1));
		}
		assert_in_range(farthest(&t), 0, shift == 1 ? 0 : 64);
		for (uint32_t i = 0; i < STREAMS; i++)
			h2_table_remove(&t, (i << shift) + 1);
		h2_table_done(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_native_numbers_that_repeat_are_found_newest_first_also_after_growing),
		cmocka_unit_test(test_native_calls_against_a_model),
		cmocka_unit_test(test_streams_against_a_model),
		cmocka_unit_test(test_chosen_numbers_do_not_meet_in_one_chain),
		cmocka_unit_test(test_chosen_identifiers_do_not_meet_at_one_home),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
