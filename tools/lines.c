/* Reading lines as they come: read(2) only when poll(2) says that it will not block. Invariant: at <= at + looked <= n <= cap. */
#include "tools/lines.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { READ_FIRST = 65536 };

void lines_init(struct lines *l, int fd, size_t line_max)
{
	*l = (struct lines){.fd = fd, .line_max = line_max};
}

void lines_done(struct lines *l)
{
	free(l->p);
	*l = (struct lines){.fd = -1, .ended = true};
}

static int make_room(struct lines *l)
{
	if (l->at > 0) {
		memmove(l->p, l->p + l->at, l->n - l->at);
		l->n -= l->at;
		l->at = 0;
	}
	if (l->n < l->cap)
		return 0;
	size_t cap = l->cap ? l->cap * 2 : READ_FIRST;
	uint8_t *grown = realloc(l->p, cap);
	if (!grown)
		return -ENOMEM;
	l->p = grown;
	l->cap = cap;
	return 0;
}

/* 1: bytes came, or the end; 0: nothing there; -errno. */
static int fill(struct lines *l)
{
	struct pollfd p = {.fd = l->fd, .events = POLLIN};
	int r = poll(&p, 1, 0);
	if (r < 0)
		return errno == EINTR ? 0 : -errno;
	if (r == 0)
		return 0;
	r = make_room(l);
	if (r)
		return r;
	ssize_t n = read(l->fd, l->p + l->n, l->cap - l->n);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	l->n += (size_t)n;
	l->ended = n == 0;
	return 1;
}

static int take(struct lines *l, size_t len, size_t skip, struct span *ret)
{
	*ret = (struct span){l->p + l->at, len};
	l->at += len + skip;
	l->looked = 0;
	return len > l->line_max ? -EMSGSIZE : LINES_LINE;
}

int lines_next(struct lines *l, struct span *ret)
{
	for (;;) {
		const uint8_t *from = l->p + l->at;
		size_t have = l->n - l->at;
		const uint8_t *newline = have > l->looked ? memchr(from + l->looked, '\n', have - l->looked) : NULL;
		if (newline)
			return take(l, (size_t)(newline - from), 1, ret);
		l->looked = have;
		if (have > l->line_max)
			return -EMSGSIZE;
		if (l->ended)
			return have ? take(l, have, 0, ret) : LINES_END;
		int r = fill(l);
		if (r <= 0)
			return r ? r : LINES_WAIT;
	}
}
