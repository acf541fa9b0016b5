/* The slow half of a doorbell: the eventfd.
 *
 * Of several ringers that see the sleeper's flag only the one that takes it writes, so a sleep costs one write however
 * many bring work. A write that comes after the sleeper has disarmed stays in the eventfd and makes the next wait
 * return at once: a wake-up too many, never one too few.
 *
 * The eventfd is blocking on purpose: io_uring answers a read of an O_NONBLOCK file with -EAGAIN instead of waiting for
 * it.
 */
#include "core/base/doorbell.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int doorbell_init(struct doorbell *b)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	b->fd = fd;
	atomic_init(&b->sleeping, false);
	atomic_init(&b->rings, 0);
	return 0;
}

void doorbell_done(struct doorbell *b)
{
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
}

void doorbell_write(struct doorbell *b)
{
	uint64_t one = 1;
	ssize_t n;

	if (!atomic_exchange_explicit(&b->sleeping, false, memory_order_acq_rel))
		return;
	atomic_fetch_add_explicit(&b->rings, 1, memory_order_relaxed);
	do
		n = write(b->fd, &one, sizeof one);
	while (n < 0 && errno == EINTR);
	CHECK(n == sizeof one);
}

/* Waits for the eventfd, through interruptions, until the deadline. */
static bool wait_readable(int fd, uint64_t timeout_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t now = timeout_ns == UINT64_MAX ? 0 : clock_mono_ns();
	uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;

	for (;;) {
		uint64_t left = deadline > now ? deadline - now : 0;
		struct timespec ts = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
		int n = ppoll(&p, 1, deadline == UINT64_MAX ? NULL : &ts, NULL);

		if (n > 0)
			return true;
		if (n == 0)
			return false;
		CHECK(errno == EINTR || errno == ENOMEM);
		if (deadline != UINT64_MAX)
			now = clock_mono_ns();
	}
}

bool doorbell_wait(struct doorbell *b, uint64_t timeout_ns)
{
	bool rung = wait_readable(b->fd, timeout_ns);

	if (rung) {
		uint64_t count;
		ssize_t n;

		do
			n = read(b->fd, &count, sizeof count);
		while (n < 0 && errno == EINTR);
		CHECK(n == sizeof count);
	}
	doorbell_disarm(b);
	return rung;
}
