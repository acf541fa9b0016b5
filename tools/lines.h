/* Payloads of a descriptor (lines, all of it, or each behind its length), without waiting for them. Owner thread only. */
#ifndef ORDINAL_TOOLS_LINES_H
#define ORDINAL_TOOLS_LINES_H

#include "core/base/bytes.h"

enum lines_form {
	LINES_DELIMITED, /* each ends with the delimiter */
	LINES_WHOLE,     /* all that there is, up to the end, is one; also if that is nothing */
	LINES_PREFIXED,  /* each has its length before it: LINES_PREFIX bytes, big-endian */
};

#define LINES_PREFIX 4u

struct lines {
	enum lines_form form;
	uint8_t delimiter;
	int fd;
	uint8_t *p;
	size_t at, n, cap; /* unread bytes are p[at] … p[n - 1] */
	size_t looked;     /* of these, bytes known to hold no delimiter */
	size_t line_max;
	uint32_t length;   /* LINES_PREFIXED: of the payload that is being read */
	bool ended, given; /* given: LINES_WHOLE has been */
};

void lines_init(struct lines *l, int fd, size_t line_max); /* lines, ended by newlines */
void lines_init_form(struct lines *l, int fd, size_t line_max, enum lines_form form, uint8_t delimiter);
void lines_done(struct lines *l);

enum lines_state { LINES_WAIT, LINES_LINE, LINES_END };
/* LINES_LINE: the next payload, without its delimiter, valid until the next call; what follows the last delimiter counts if it is not empty.
 * LINES_WAIT: nothing yet. Or -errno; -EMSGSIZE: a payload above line_max; -ENODATA: the end came within one
 * that has its length before it. */
int lines_next(struct lines *l, struct span *ret);

#endif
