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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_come_when_they_are_whole),
		cmocka_unit_test(test_nothing_after_the_last_newline),
		cmocka_unit_test(test_a_line_too_long),
		cmocka_unit_test(test_long_lines_in_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
