/* Dense indexes, last-in first-out reuse, the bound, zero-filled first use. */
#include "core/base/slab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct obj {
	uint32_t gen;
	char fill[45];
};

static void test_indexes_are_dense_and_name_their_object(void **state)
{
	struct slab s;

	assert_int_equal(slab_init(&s, sizeof(struct obj), 5000), 0);
	assert_int_equal(s.obj_size % 16, 0);
	assert_true(s.obj_size >= sizeof(struct obj));
	for (uint32_t i = 0; i < 5000; i++) {
		uint32_t index = SLAB_NONE;
		struct obj *o = slab_get(&s, &index);

		assert_non_null(o);
		assert_int_equal(index, i);
		assert_ptr_equal(slab_at(&s, index), o);
		assert_int_equal((uintptr_t)o % 16, 0);
		o->gen = i;
		memset(o->fill, (int)(i & 0xff), sizeof o->fill);
	}
	for (uint32_t i = 0; i < 5000; i++) {
		struct obj *o = slab_at(&s, i);

		assert_int_equal(o->gen, i);
		assert_int_equal(o->fill[0], (char)(i & 0xff));
		assert_int_equal(o->fill[44], (char)(i & 0xff));
	}
	assert_int_equal(s.used, 5000);
	assert_int_equal(s.made, 5000);
	slab_done(&s);
}

static void test_bound_is_exact(void **state)
{
	static const uint32_t bounds[] = {1, 2, 63, 64, 65, 1000};

	for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++) {
		struct slab s;
		uint32_t index = 77;

		assert_int_equal(slab_init(&s, 100, bounds[b]), 0);
		for (uint32_t i = 0; i < bounds[b]; i++)
			assert_non_null(slab_get(&s, &index));
		index = 77;
		assert_null(slab_get(&s, &index));
		assert_int_equal(index, 77); /* untouched on failure */
		slab_put(&s, bounds[b] / 2);
		assert_non_null(slab_get(&s, &index));
		assert_int_equal(index, bounds[b] / 2);
		assert_null(slab_get(&s, &index));
		slab_done(&s);
	}
}

static void test_reuse_is_last_in_first_out(void **state)
{
	struct slab s;
	uint32_t index;

	assert_int_equal(slab_init(&s, 32, 100), 0);
	for (int i = 0; i < 10; i++)
		slab_get(&s, &index);
	slab_put(&s, 3);
	slab_put(&s, 7);
	slab_put(&s, 5);
	assert_int_equal(s.used, 7);
	slab_get(&s, &index);
	assert_int_equal(index, 5);
	slab_get(&s, &index);
	assert_int_equal(index, 7);
	slab_get(&s, &index);
	assert_int_equal(index, 3);
	slab_get(&s, &index);
	assert_int_equal(index, 10);
	assert_int_equal(s.made, 11);
	slab_done(&s);
}

static void test_first_use_is_zero_and_content_survives_put(void **state)
{
	static const uint8_t zero[45];
	struct slab s;
	uint32_t index;

	assert_int_equal(slab_init(&s, sizeof(struct obj), 3000), 0);
	for (uint32_t i = 0; i < 3000; i++) {
		struct obj *o = slab_get(&s, &index);

		assert_int_equal(o->gen, 0);
		assert_memory_equal(o->fill, zero, sizeof zero);
		o->gen = 41;
		memset(o->fill, 1, sizeof o->fill);
		slab_put(&s, index);
		assert_int_equal(o->gen, 41); /* valid until reuse */
		o = slab_get(&s, &index);
		assert_int_equal(index, i);
		assert_int_equal(o->gen, 41);
	}
	slab_done(&s);
}

static void test_large_objects_take_memory_only_as_they_are_used(void **state)
{
	struct slab s;
	uint32_t index;
	char *o;

	/* Half a TiB of address space at the bound, if it were all taken. */
	assert_int_equal(slab_init(&s, 1 << 20, 1 << 19), 0);
	o = slab_get(&s, &index);
	assert_non_null(o);
	o[0] = o[(1 << 20) - 1] = 1;
	assert_int_equal(s.made, 1);
	assert_null(s.chunks[1]);
	slab_done(&s);
}

static void test_absurd_size_is_refused(void **state)
{
	struct slab s;

	assert_int_equal(slab_init(&s, SIZE_MAX - 8, 2), -ENOMEM);
	assert_int_equal(slab_init(&s, SIZE_MAX / 2, 2), -ENOMEM);
}

static int status_of_child(void (*f)(struct slab *), struct slab *s)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		f(s);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void put_twice(struct slab *s)
{
	slab_put(s, 0);
	slab_put(s, 0);
}

static void put_what_was_never_made(struct slab *s)
{
	slab_put(s, 2);
}

static void put_once(struct slab *s)
{
	slab_put(s, 0);
}

static void test_double_put_is_caught(void **state)
{
	struct slab s;
	uint32_t index;

	assert_int_equal(slab_init(&s, 64, 4), 0);
	slab_get(&s, &index);
	slab_get(&s, &index);
	assert_int_equal(status_of_child(put_once, &s), 0);
	assert_true(WIFSIGNALED(status_of_child(put_twice, &s)));
	assert_true(WIFSIGNALED(status_of_child(put_what_was_never_made, &s)));
	slab_done(&s);
}

/* A random walk against a model: an index is never handed out twice. */
static void test_random_walk(void **state)
{
	enum { MAX = 300 };
	uint8_t out[MAX] = {0};
	uint32_t held[MAX], n = 0, index;
	uint64_t x = 88172645463325252u;
	struct slab s;

	assert_int_equal(slab_init(&s, 24, MAX), 0);
	for (int i = 0; i < 200000; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		if (x % 100 < 52) {
			if (slab_get(&s, &index) == NULL) {
				assert_int_equal(n, MAX);
				continue;
			}
			assert_true(index < s.made);
			assert_false(out[index]);
			out[index] = 1;
			held[n++] = index;
		} else if (n > 0) {
			uint32_t k = (uint32_t)(x >> 32) % n;

			slab_put(&s, held[k]);
			out[held[k]] = 0;
			held[k] = held[--n];
		}
		assert_int_equal(s.used, n);
	}
	slab_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_indexes_are_dense_and_name_their_object),
		cmocka_unit_test(test_bound_is_exact),
		cmocka_unit_test(test_reuse_is_last_in_first_out),
		cmocka_unit_test(test_first_use_is_zero_and_content_survives_put),
		cmocka_unit_test(test_large_objects_take_memory_only_as_they_are_used),
		cmocka_unit_test(test_absurd_size_is_refused),
		cmocka_unit_test(test_double_put_is_caught),
		cmocka_unit_test(test_random_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
