/* Reading payloads as they come: read(2) only when poll(2) says that it will not block. Invariant: at <= at + looked <= n <= cap; nothing is read after the end. */
#include "tools/lines.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { READ_FIRST = 65536 };

void lines_init(struct lines *l, int fd, size_t line_max)
{
	lines_init_form(l, fd, line_max, LINES_DELIMITED, '\n');
}

void lines_init_form(struct lines *l, int fd, size_t line_max, enum lines_form form, uint8_t delimiter)
{
	*l = (struct lines){.fd = fd, .line_max = line_max, .form = form, .delimiter = delimiter};
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

/* These return LINES_WAIT where more bytes are needed. */
static int next_delimited(struct lines *l, struct span *ret)
{
	const uint8_t *from = l->p + l->at;
	size_t have = l->n - l->at;
	const uint8_t *end = have > l->looked ? memchr(from + l->looked, l->delimiter, have - l->looked) : NULL;
	if (end)
		return take(l, (size_t)(end - from), 1, ret);
	l->looked = have;
	if (have > l->line_max)
		return -EMSGSIZE;
	if (l->ended)
		return have ? take(l, have, 0, ret) : LINES_END;
	return LINES_WAIT;
}

static int next_whole(struct lines *l, struct span *ret)
{
	size_t have = l->n - l->at;
	if (have > l->line_max)
		return -EMSGSIZE;
	if (!l->ended)
		return LINES_WAIT;
	if (l->given)
		return LINES_END;
	l->given = true;
	return take(l, have, 0, ret);
}

static int next_prefixed(struct lines *l, struct span *ret)
{
	size_t have = l->n - l->at;
	l->length = 0;
	if (have < LINES_PREFIX)
		return !l->ended ? LINES_WAIT : have ? -ENODATA : LINES_END;
	const uint8_t *p = l->p + l->at;
	l->length = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	if (l->length > l->line_max)
		return -EMSGSIZE;
	if (have - LINES_PREFIX < l->length)
		return l->ended ? -ENODATA : LINES_WAIT;
	l->at += LINES_PREFIX;
	return take(l, l->length, 0, ret);
}

int lines_next(struct lines *l, struct span *ret)
{
	for (;;) {
		int r = l->form == LINES_WHOLE      ? next_whole(l, ret)
			: l->form == LINES_PREFIXED ? next_prefixed(l, ret)
						    : next_delimited(l, ret);
		if (r != LINES_WAIT)
			return r;
		r = fill(l);
		if (r <= 0)
			return r ? r : LINES_WAIT;
	}
}
