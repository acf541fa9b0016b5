/* Where lines go: a file, a pipe, a terminal or a socket, whose reader may have stopped reading. A write waits for room only as long as its caller
 * says, and in poll(2), not in write(2), as far as that is possible for a descriptor that others share. One thread's at a time. */
#ifndef ORDINAL_CORE_BASE_LOG_SINK_H
#define ORDINAL_CORE_BASE_LOG_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct log_sink {
	int fd;
	bool is_file, is_socket; /* neither: a pipe, a terminal */
	bool torn;               /* what was written last is the beginning of a line */
};

/* Whether the descriptor is systemd's journal: systemd.exec(5), $JOURNAL_STREAM. */
bool log_sink_is_journal(int fd);
/* Looks at what the descriptor is. */
struct log_sink log_sink_of(int fd);
/* Writes whole lines. `wait` is asked each tenth of a second in which nothing was taken, with how long that has been so by now: whether to wait on.
 * 0; -ETIMEDOUT: it said no; or -errno of the write. *ret_put: bytes that were written in any case. */
int log_sink_write(struct log_sink *s, const char *p, size_t n, bool (*wait)(void *ctx, uint64_t idle_ns), void *ctx,
		   size_t *ret_put);

#endif
