/* Lines of a pipe, in pieces of every size. */
#include "tools/lines.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pipe_ends {
	int from, to;
};

static struct pipe_ends begin(struct lines *l, size_t line_max)
{
	int fds[2];
	assert_int_equal(pipe(fds), 0);
	lines_init(l, fds[0], line_max);
	return (struct pipe_ends){fds[0], fds[1]};
}

static void end(struct lines *l, struct pipe_ends p)
{
	lines_done(l);
	close(p.from);
	if (p.to >= 0)
		close(p.to);
}

static void put(struct pipe_ends p, const char *text)
{
	assert_int_equal(write(p.to, text, strlen(text)), strlen(text));
}

static void expect(struct lines *l, const char *text)
{
	struct span s;
	assert_int_equal(lines_next(l, &s), LINES_LINE);
	assert_int_equal(s.n, strlen(text));
	assert_memory_equal(s.p, text, s.n);
}

static void test_lines_come_when_they_are_whole(void **state)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, 100);
	assert_int_equal(lines_next(&l, &s), LINES_WAIT);
	put(p, "one\n\ntwo");
	expect(&l, "one");
	expect(&l, "");
	assert_int_equal(lines_next(&l, &s), LINES_WAIT);
	put(p, "more\nthree");
	expect(&l, "twomore");
	close(p.to);
	p.to = -1;
	expect(&l, "three");
	assert_int_equal(lines_next(&l, &s), LINES_END);
	assert_int_equal(lines_next(&l, &s), LINES_END);
	end(&l, p);
}

static void test_nothing_after_the_last_newline(void **state)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, 100);
	put(p, "a\n");
	close(p.to);
	p.to = -1;
	expect(&l, "a");
	assert_int_equal(lines_next(&l, &s), LINES_END);
	end(&l, p);
}

static void test_a_line_too_long(void **state)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, 5);
	put(p, "12345\n123456\n");
	expect(&l, "12345");
	assert_int_equal(lines_next(&l, &s), -EMSGSIZE);
	end(&l, p);
	p = begin(&l, 5);
	put(p, "123456"); /* its end is not waited for */
	assert_int_equal(lines_next(&l, &s), -EMSGSIZE);
	end(&l, p);
}

static void test_long_lines_in_pieces(void **state)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, 1 << 20);
	char piece[1001];
	memset(piece, 'x', 1000);
	piece[1000] = 0;
	for (int i = 0; i < 300; i++) {
		put(p, piece);
		assert_int_equal(lines_next(&l, &s), LINES_WAIT);
	}
	put(p, "\ny\n");
	assert_int_equal(lines_next(&l, &s), LINES_LINE);
	assert_int_equal(s.n, 300000);
	expect(&l, "y");
	end(&l, p);
}

static void test_all_of_the_input_is_one(void **state)
{
	static const char *const inputs[] = {"", "a\nb\n"};
	for (int i = 0; i < 2; i++) {
		struct lines l;
		struct span s;
		struct pipe_ends p = begin(&l, 100);
		lines_init_form(&l, p.from, 4, LINES_WHOLE, 0);
		put(p, inputs[i]);
		assert_int_equal(lines_next(&l, &s), LINES_WAIT);
		close(p.to);
		p.to = -1;
		expect(&l, inputs[i]);
		assert_int_equal(lines_next(&l, &s), LINES_END);
		end(&l, p);
	}
}

static void test_all_of_the_input_is_too_long(void **state)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, 100);
	lines_init_form(&l, p.from, 4, LINES_WHOLE, 0);
	put(p, "12345");
	assert_int_equal(lines_next(&l, &s), -EMSGSIZE);
	end(&l, p);
}

/* The first n bytes of what has its length before it, and then the end: what lines_next says after the frames in it. */
static int prefixed(const void *bytes, size_t n, size_t max, unsigned *ret_frames)
{
	struct lines l;
	struct span s;
	struct pipe_ends p = begin(&l, max);
	lines_init_form(&l, p.from, max, LINES_PREFIXED, 0);
	assert_int_equal(lines_next(&l, &s), LINES_WAIT);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(write(p.to, (const char *)bytes + i, 1), 1);
	close(p.to);
	p.to = -1;
	int r;
	for (*ret_frames = 0; (r = lines_next(&l, &s)) == LINES_LINE; ++*ret_frames) {
		assert_int_equal(s.n, *ret_frames == 1 ? 0 : 2);
		assert_memory_equal(s.p, "\n\0", s.n);
	}
	end(&l, p);
	return r;
}

static void test_each_behind_its_length(void **state)
{
	static const char bytes[] = "\0\0\0\2\n\0\0\0\0\0\0\0\0\2\n"; /* and the literal's NUL */
	for (size_t n = 0; n <= sizeof bytes; n++) {
		unsigned frames, whole = n < 6 ? 0 : n < 10 ? 1 : n < 16 ? 2 : 3;
		bool cut = n != 0 && n != 6 && n != 10 && n != 16;
		assert_int_equal(prefixed(bytes, n, 100, &frames), cut ? -ENODATA : LINES_END);
		assert_int_equal(frames, whole);
	}
	unsigned frames;
	assert_int_equal(prefixed("\377\377\377\377x", 5, 100, &frames), -EMSGSIZE);
	assert_int_equal(prefixed("\0\0\0\3abc", 7, 2, &frames), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_come_when_they_are_whole),
		cmocka_unit_test(test_nothing_after_the_last_newline),
		cmocka_unit_test(test_a_line_too_long),
		cmocka_unit_test(test_long_lines_in_pieces),
		cmocka_unit_test(test_all_of_the_input_is_one),
		cmocka_unit_test(test_all_of_the_input_is_too_long),
		cmocka_unit_test(test_each_behind_its_length),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
