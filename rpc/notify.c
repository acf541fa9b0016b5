/* Telling the service manager; see the header. Main thread.
 *
 * A message is a datagram of its own socket, which is closed at once. The socket's address is a path, or an abstract name behind '@'.
 * Source: sd_notify(3), "Notes"; unix(7).
 */
#include "rpc/notify.h"

#include "core/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TRY_AGAIN_NS (100 * NS_PER_MS)
#define PATIENCE_NS NS_PER_S

enum { TEXT_MAX = 1024 };

static struct {
	char text[NOTIFY_KEPT_MAX][TEXT_MAX];
	unsigned first, n;
	uint64_t next_ns;
} kept;

/* False: there is nobody to tell. */
static bool address(struct sockaddr_un *ret, socklen_t *ret_len)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t n = path ? strlen(path) : 0;
	if ((n > 0 && path[0] != '/' && path[0] != '@') || n < 2 || n >= sizeof ret->sun_path)
		return false;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, path, n);
	if (path[0] == '@')
		ret->sun_path[0] = 0;
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
	return true;
}

/* 1; 0: there is no manager; -EAGAIN: not now; other -errno. fd -1: none. */
static int send_now(const char *text, int fd)
{
	struct sockaddr_un to;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof fd)];
	} control = {0};
	struct msghdr m = {.msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1};
	if (!address(&to, &m.msg_namelen))
		return 0;
	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -errno;
	ssize_t sent = sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	int rc = sent >= 0 ? 1 : errno == ENOBUFS || errno == EINTR ? -EAGAIN : -errno;
	close(s);
	return rc;
}

static void keep(const char *text)
{
	if (kept.n == NOTIFY_KEPT_MAX) {
		kept.first = (kept.first + 1) % NOTIFY_KEPT_MAX;
		kept.n--;
	}
	snprintf(kept.text[(kept.first + kept.n) % NOTIFY_KEPT_MAX], TEXT_MAX, "%s", text);
	if (kept.n++ == 0)
		kept.next_ns = clock_mono_ns() + TRY_AGAIN_NS;
}

void notify(const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (kept.n == 0 && send_now(text, -1) != -EAGAIN)
		return;
	if (strcmp(text, "WATCHDOG=1") != 0) /* the next one will do */
		keep(text);
}

uint64_t notify_turn(uint64_t now_ns)
{
	if (kept.n > 0 && now_ns >= kept.next_ns) {
		while (kept.n > 0 && send_now(kept.text[kept.first], -1) != -EAGAIN) {
			kept.first = (kept.first + 1) % NOTIFY_KEPT_MAX;
			kept.n--;
		}
		kept.next_ns = now_ns + TRY_AGAIN_NS;
	}
	return kept.n > 0 ? kept.next_ns : UINT64_MAX;
}

int notify_fd(const char *text, int fd)
{
	uint64_t until = clock_mono_ns() + PATIENCE_NS;
	int rc;
	while ((rc = send_now(text, fd)) == -EAGAIN && clock_mono_ns() < until)
		poll(NULL, 0, 10);
	return rc;
}
