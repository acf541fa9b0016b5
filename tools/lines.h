/* Lines of a descriptor, without waiting for them. Owner thread only. */
#ifndef ORDINAL_TOOLS_LINES_H
#define ORDINAL_TOOLS_LINES_H

#include "core/base/bytes.h"

struct lines {
	int fd;
	uint8_t *p;
	size_t at, n, cap; /* unread bytes are p[at] … p[n - 1] */
	size_t looked;     /* of these, bytes known to hold no newline */
	size_t line_max;
	bool ended;
};

void lines_init(struct lines *l, int fd, size_t line_max);
void lines_done(struct lines *l);

enum lines_state { LINES_WAIT, LINES_LINE, LINES_END };
/* LINES_LINE: the next line, without its newline, valid until the next call; what follows the last newline counts if it is not empty.
 * LINES_WAIT: nothing yet. Or -errno; -EMSGSIZE: a line above line_max. */
int lines_next(struct lines *l, struct span *ret);

#endif
