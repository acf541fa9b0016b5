/* Writing to a reader that may have stopped; see the header.
 *
 * The descriptor may be shared with other processes (standard error), so O_NONBLOCK is not set on it. poll(2) says that a pipe has room for PIPE_BUF
 * bytes, and no more are written at once; a socket is told not to wait with MSG_DONTWAIT. What is left is a second writer that takes the room in between.
 */
#include "core/base/log_sink.h"

#include "core/base/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLICE_MS 100

struct log_sink log_sink_of(int fd)
{
	struct stat st;
	bool known = fstat(fd, &st) == 0;

	return (struct log_sink){
		.fd = fd, .is_file = known && S_ISREG(st.st_mode), .is_socket = known && S_ISSOCK(st.st_mode)};
}

/* As many whole lines as fit, or a piece of the first. */
static size_t piece(const struct log_sink *s, const char *p, size_t n)
{
	const char *end;

	if (s->is_file || n <= PIPE_BUF)
		return n;
	end = memrchr(p, '\n', PIPE_BUF);
	return end != NULL ? (size_t)(end - p) + 1 : PIPE_BUF;
}

/* True: there is room, or the write will say what is wrong. */
static bool has_room(const struct log_sink *s)
{
	struct pollfd pfd = {.fd = s->fd, .events = POLLOUT};

	return s->is_file || poll(&pfd, 1, SLICE_MS) != 0;
}

static ssize_t put(const struct log_sink *s, const char *p, size_t n)
{
	return s->is_socket ? send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(s->fd, p, n);
}

int log_sink_write(struct log_sink *s, const char *p, size_t n, bool (*wait)(void *ctx, uint64_t idle_ns), void *ctx,
		   size_t *ret_put)
{
	uint64_t taken_ns = 0;
	size_t at = 0;
	int err = 0;

	while (at < n && err == 0) {
		bool room = has_room(s);
		const char *from = s->torn && at == 0 ? "\n" : p + at;
		size_t want = s->torn && at == 0 ? 1 : piece(s, p + at, n - at);
		ssize_t got = room ? put(s, from, want) : 0;

		if (got < 0 && errno != EAGAIN && errno != EINTR) {
			err = -errno;
		} else if (got > 0) {
			taken_ns = 0;
			if (from == p + at)
				at += (size_t)got;
			s->torn = from[got - 1] != '\n';
		} else if (got == 0 || errno == EAGAIN) {
			uint64_t now = clock_mono_ns();

			if (taken_ns == 0)
				taken_ns = now;
			if (room) /* it says so, and takes nothing: not again at once */
				usleep(1000);
			err = wait(ctx, now - taken_ns) ? 0 : -ETIMEDOUT;
		}
	}
	*ret_put = at;
	return err;
}

bool log_sink_is_journal(int fd)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	char *end;

	if (env == NULL || fstat(fd, &st) != 0)
		return false;
	errno = 0;
	dev = strtoull(env, &end, 10);
	if (errno != 0 || end == env || *end != ':')
		return false;
	env = end + 1;
	ino = strtoull(env, &end, 10);
	return errno == 0 && end != env && *end == 0 && st.st_dev == dev && st.st_ino == ino;
}
