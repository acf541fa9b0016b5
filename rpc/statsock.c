/* An HTTP/1.1 server on a Unix socket; see the header. Main thread; nothing here blocks.
 *
 *   READING --a request, or a fault in one--> WRITING --all taken--> READING
 *      |                                         \--all taken, last answer--> LINGERING --EOF, or a
 * second--> closed
 *      \--EOF-- closed
 *
 * Invariants: one answer at a time for a client, and nothing is read while it is being taken; so a
 * client's memory is one head and one answer. After a fault, or a request with a body, nothing that
 * follows on that connection is trusted: the answer is its last. Lingering reads what is still
 * coming and drops it, so that closing does not cut off the answer.
 *
 * A socket's file outlives a daemon that was killed. It is removed only after a connection to it
 * was refused, under a lock, so that of two daemons that start at once neither removes the
 * other's. The lock is on a file beside the socket, PATH.lock, that only the daemon's user can
 * open: everybody who can open a file or a directory, if only for reading, can lock it. The file
 * is there only as long as the lock. */
#include "rpc/statsock.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/wire/http1.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	EVENTS = 64,
	TURN_REQUESTS = 8, /* of one client, pipelined, before others have their turn */
	BACKLOG = 64,
	LOCK_TRIES = 100,
	LOCK_PAUSE_US = 10000, /* between two of them */
	LOCK_NAME = sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof ".lock",
};
#define LINGER_NS NS_PER_S
#define ACCEPT_RETRY_NS (100 * NS_PER_MS)
#define LISTENER UINT32_MAX

enum peer_state { PEER_FREE, PEER_READING, PEER_WRITING, PEER_LINGERING };

struct peer {
	int fd;
	enum peer_state state;
	bool last;         /* the answer being written is the last */
	uint32_t interest; /* what epoll watches for */
	uint64_t deadline_ns;
	struct text out;
	size_t out_at;
	size_t in_len;
	uint8_t in[HTTP1_HEAD_MAX];
};

struct statsock {
	struct statsock_opts opts;
	int epoll_fd, listen_fd;
	uint64_t accept_ns; /* when to accept again; 0: accepting */
	struct stat made;   /* the socket's file */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	uint64_t now_ns;
	unsigned peers;
	unsigned places;   /* opts.conns_max, and a few more for clients that are being told that there are too many */
	struct peer *peer; /* one a place */
};

static char why[512];

/* The socket's file. */

static int fail(int err, const char *path, const char *what)
{
	if (what)
		snprintf(why, sizeof why, "STATS_SOCKET=\"%s\": %s", path, what);
	else
		snprintf(why, sizeof why, "STATS_SOCKET=\"%s\": %s", path, strerror(-err));
	return err;
}

/* Makes what is missing of the directories above `path`; leaves the lowest one's name in `dir`. */
static int make_dirs(const char *path, char *dir, size_t cap)
{
	const char *slash = strrchr(path, '/');
	if (!slash) {
		snprintf(dir, cap, ".");
		return 0;
	}
	snprintf(dir, cap, "%.*s", slash == path ? 1 : (int)(slash - path), path);
	for (char *p = dir + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		int rc = mkdir(dir, 0755);
		*p = '/';
		if (rc && errno != EEXIST)
			return -errno;
	}
	return mkdir(dir, 0755) && errno != EEXIST ? -errno : 0;
}

/* Opens the lock's file and locks it. A descriptor; -EAGAIN: its holder has removed the file
 * meanwhile, so another try makes a new one; -errno. */
static int lock_once(const char *path)
{
	struct stat mine, there;
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600), rc = 0;
	if (fd < 0)
		return -errno;
	if (fstat(fd, &mine))
		rc = -errno;
	else if (!S_ISREG(mine.st_mode) || mine.st_uid != geteuid() || (mine.st_mode & 077))
		rc = -EACCES;
	else if (flock(fd, LOCK_EX | LOCK_NB))
		rc = -errno;
	else if (lstat(path, &there) || there.st_ino != mine.st_ino || there.st_dev != mine.st_dev)
		rc = -EAGAIN;
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

/* A descriptor that holds the lock for the socket at `path`, or -errno. */
static int lock(const char *path, char ret_name[LOCK_NAME])
{
	snprintf(ret_name, LOCK_NAME, "%s.lock", path);
	for (int i = 0;; i++) {
		int fd = lock_once(ret_name);
		if ((fd != -EINTR && fd != -EAGAIN) || i == LOCK_TRIES)
			return fd;
		usleep(LOCK_PAUSE_US);
	}
}

static void unlock(int fd, const char *name)
{
	unlink(name); /* before the descriptor is closed: afterwards the file may be another daemon's lock */
	close(fd);
}

static int explain_lock(int err, const char *path, const char *name)
{
	char what[LOCK_NAME + 160];
	snprintf(
		what, sizeof what,
		err == -EAGAIN
			? "%s has been locked for a second by another process (a second ordinald?); give each its own"
		: err == -EACCES
			? "%s, which two daemons that start at once would lock, is another user's or open to others: remove it"
			: "%s cannot be locked",
		name);
	return fail(err, path, err == -EAGAIN || err == -EACCES ? what : NULL);
}

/* Removes a socket's file that nobody listens on. Under the lock. */
static int remove_stale(const struct sockaddr_un *un)
{
	struct stat st;
	const char *path = un->sun_path;
	if (lstat(path, &st))
		return errno == ENOENT ? 0 : fail(-errno, path, NULL);
	if (!S_ISSOCK(st.st_mode))
		return fail(-EEXIST, path, "there is something that is not a socket; it is not removed");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(-errno, path, NULL);
	int err = connect(fd, (const struct sockaddr *)un, sizeof *un) ? errno : 0;
	struct ucred holder = {0};
	socklen_t len = sizeof holder;
	char what[128];
	if (err == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &holder, &len) == 0 && holder.pid > 0)
		snprintf(what, sizeof what, "process %d listens there (a second ordinald?); give each its own",
			 (int)holder.pid);
	else
		snprintf(what, sizeof what, "another process listens there (a second ordinald?); give each its own");
	close(fd);
	if (err == 0 || err == EAGAIN || err == EPROTOTYPE)
		return fail(-EADDRINUSE, path, what);
	if (err != ECONNREFUSED)
		return fail(-err, path, NULL);
	return unlink(path) && errno != ENOENT ? fail(-errno, path, NULL) : 0;
}

static int listen_on(struct statsock *s)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char dir[sizeof un.sun_path];
	if (strlen(s->opts.path) >= sizeof un.sun_path)
		return fail(-ENAMETOOLONG, s->opts.path, "the path is longer than 107 bytes");
	memcpy(un.sun_path, s->opts.path, strlen(s->opts.path) + 1);
	memcpy(s->path, un.sun_path, sizeof s->path);
	int rc = make_dirs(s->path, dir, sizeof dir);
	if (rc)
		return fail(rc, s->path, NULL);
	char lock_name[LOCK_NAME];
	int lock_fd = lock(s->path, lock_name);
	if (lock_fd < 0)
		return explain_lock(lock_fd, s->path, lock_name);
	rc = remove_stale(&un);
	if (rc == 0) {
		s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		/* Nobody can connect before listen(2), so the mode is in force from the first moment on. */
		if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&un, sizeof un))
			rc = fail(-errno, s->path, NULL);
		else if (chmod(s->path, 0660) || lstat(s->path, &s->made) || listen(s->listen_fd, BACKLOG))
			rc = fail(-errno, s->path, NULL);
	}
	unlock(lock_fd, lock_name);
	return rc;
}

static int watch(struct statsock *s, int op, int fd, uint32_t events, uint32_t which)
{
	struct epoll_event ev = {.events = events, .data.u32 = which};
	return epoll_ctl(s->epoll_fd, op, fd, &ev) ? -errno : 0;
}

int statsock_open(const struct statsock_opts *opts, struct statsock **ret, const char **ret_why)
{
	struct statsock *s = calloc(1, sizeof *s);
	int rc = -ENOMEM;
	*ret_why = why;
	if (!s)
		return fail(rc, opts->path, NULL);
	s->opts = *opts;
	s->listen_fd = -1;
	s->places = opts->conns_max + STATSOCK_SPARE;
	s->peer = calloc(s->places, sizeof *s->peer);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (!s->peer || s->epoll_fd < 0)
		rc = fail(s->peer ? -errno : -ENOMEM, opts->path, NULL);
	else
		rc = listen_on(s);
	if (rc == 0) {
		rc = watch(s, EPOLL_CTL_ADD, s->listen_fd, EPOLLIN, LISTENER);
		if (rc)
			fail(rc, s->path, NULL);
	}
	if (rc) {
		statsock_close(s);
		return rc;
	}
	*ret = s;
	return 0;
}

static void peer_close(struct statsock *s, struct peer *p)
{
	close(p->fd); /* which takes it out of the epoll set, too */
	text_done(&p->out);
	p->state = PEER_FREE;
	s->peers--;
}

void statsock_close(struct statsock *s)
{
	struct stat st;
	if (!s)
		return;
	for (unsigned i = 0; s->peer && i < s->places; i++) {
		if (s->peer[i].state)
			peer_close(s, &s->peer[i]);
	}
	if (s->made.st_ino && lstat(s->path, &st) == 0 && st.st_ino == s->made.st_ino && st.st_dev == s->made.st_dev)
		unlink(s->path);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	free(s->peer);
	free(s);
}

void statsock_bound(struct statsock *s, unsigned descriptors)
{
	CHECK(s->peers == 0 && descriptors > 0);
	if (descriptors >= s->places)
		return;
	s->places = descriptors;
	if (s->opts.conns_max > descriptors - descriptors / 4)
		s->opts.conns_max = descriptors - descriptors / 4;
}

/* Answers. */

static const char *reason(unsigned status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 408:
		return "Request Timeout";
	case 431:
		return "Request Header Fields Too Large";
	case 501:
		return "Not Implemented";
	case 503:
		return "Service Unavailable";
	case 505:
		return "HTTP Version Not Supported";
	default:
		return "Internal Server Error";
	}
}

static void put_head(struct text *t, unsigned status, const char *type, size_t n, bool last)
{
	text_printf(t,
		    "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%s"
		    "Connection: %s\r\n\r\n",
		    status, reason(status), type, n, status == 405 ? "Allow: GET, HEAD\r\n" : "",
		    last ? "close" : "keep-alive");
}

static void answer(struct statsock *s, struct peer *p, unsigned status, const char *type, struct span body,
		   bool head_only, bool last)
{
	put_head(&p->out, status, type, body.n, last);
	if (!head_only)
		text_add(&p->out, body.p, body.n);
	p->out_at = 0;
	p->last = last;
	p->state = PEER_WRITING;
	p->deadline_ns = s->now_ns + s->opts.idle_ns;
}

static const char plain[] = "text/plain; charset=utf-8";

/* The last answer on a connection. */
static void refuse(struct statsock *s, struct peer *p, unsigned status, const char *text)
{
	answer(s, p, status, plain, (struct span){(const uint8_t *)text, strlen(text)}, false, true);
}

static void refuse_malformed(struct statsock *s, struct peer *p, int error)
{
	unsigned status = http1_error_status(error);
	refuse(s, p, status,
	       status == 431   ? "The request's head is larger than 8 KiB, or has more than 64 fields.\n"
	       : status == 501 ? "Transfer codings are not spoken here.\n"
	       : status == 505 ? "Only HTTP/1.0 and HTTP/1.1 are spoken here.\n"
			       : "This is not a well-formed HTTP/1.1 request.\n");
}

/* "http://host/path?query" or "/path?query" to "/path". */
static struct span path_of(struct span target)
{
	if (target.p[0] != '/') {
		const uint8_t *p = memmem(target.p, target.n, "://", 3), *end = target.p + target.n;
		p = p ? memchr(p + 3, '/', (size_t)(end - p - 3)) : NULL;
		target = p ? (struct span){p, (size_t)(end - p)} : SPAN_LIT("/");
	}
	const uint8_t *query = memchr(target.p, '?', target.n);
	return (struct span){target.p, query ? (size_t)(query - target.p) : target.n};
}

static void on_request(struct statsock *s, struct peer *p, const struct http1_request *r)
{
	bool head = span_eq(r->method, SPAN_LIT("HEAD"));
	if (!head && !span_eq(r->method, SPAN_LIT("GET"))) {
		refuse(s, p, 405, "Only GET and HEAD are allowed here.\n");
		return;
	}
	if (r->content_length) {
		answer(s, p, 400, plain, SPAN_LIT("A request here has no body.\n"), head, true);
		return;
	}
	struct text body = {0};
	const char *type = plain;
	unsigned status = s->opts.get(s->opts.ctx, path_of(r->target), &body, &type);
	if (body.failed)
		refuse(s, p, 503, "There is no memory for the answer now.\n");
	else
		answer(s, p, status, type, (struct span){(const uint8_t *)body.p, body.n}, head, !r->keep_alive);
	text_done(&body);
	if (p->out.failed) /* not even for its head: there is nothing to say it with */
		peer_close(s, p);
}

/* Looks for a request in what has been read. false: none yet. */
static bool take_request(struct statsock *s, struct peer *p)
{
	struct http1_request r;
	int n = http1_request_get(p->in, p->in_len, &r);
	if (n == -EAGAIN)
		return false;
	if (n < 0) {
		refuse_malformed(s, p, n);
		return true;
	}
	on_request(s, p, &r);
	p->in_len -= (size_t)n;
	memmove(p->in, p->in + n, p->in_len);
	return true;
}

/* A client's turn. Each step returns whether the next may follow at once. */

static bool step_read(struct statsock *s, struct peer *p)
{
	if (p->in_len && take_request(s, p))
		return true;
	ssize_t n = recv(p->fd, p->in + p->in_len, sizeof p->in - p->in_len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		peer_close(s, p);
		return false;
	}
	if (p->in_len == 0)
		p->deadline_ns = s->now_ns + s->opts.idle_ns;
	p->in_len += (size_t)n;
	return take_request(s, p);
}

static bool step_write(struct statsock *s, struct peer *p)
{
	ssize_t n = send(p->fd, p->out.p + p->out_at, p->out.n - p->out_at, MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0) {
		peer_close(s, p);
		return false;
	}
	p->out_at += (size_t)n;
	p->deadline_ns = s->now_ns + s->opts.idle_ns;
	if (p->out_at < p->out.n)
		return true;
	text_done(&p->out);
	if (p->last) {
		shutdown(p->fd, SHUT_WR);
		p->state = PEER_LINGERING;
		p->deadline_ns = s->now_ns + LINGER_NS;
	} else {
		p->state = PEER_READING;
	}
	return true;
}

static bool step_linger(struct statsock *s, struct peer *p)
{
	ssize_t n = recv(p->fd, p->in, sizeof p->in, 0);
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return n > 0;
	peer_close(s, p);
	return false;
}

static bool step(struct statsock *s, struct peer *p)
{
	switch (p->state) {
	case PEER_READING:
		return step_read(s, p);
	case PEER_WRITING:
		return step_write(s, p);
	case PEER_LINGERING:
		return step_linger(s, p);
	default:
		return false;
	}
}

static void peer_turn(struct statsock *s, struct peer *p)
{
	bool more = true;
	for (unsigned i = 0; more && i < 4 * TURN_REQUESTS; i++)
		more = step(s, p);
	if (p->state == PEER_FREE)
		return;
	/* Cut short: being writable brings it back at once. */
	uint32_t interest = p->state == PEER_WRITING || more ? EPOLLOUT : EPOLLIN;
	if (interest == p->interest)
		return;
	p->interest = interest;
	if (watch(s, EPOLL_CTL_MOD, p->fd, interest, (uint32_t)(p - s->peer)))
		peer_close(s, p);
}

/* A free place among [from, to), or NULL. */
static struct peer *free_place(struct statsock *s, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		if (s->peer[i].state == PEER_FREE)
			return &s->peer[i];
	}
	return NULL;
}

static void peer_open(struct statsock *s, int fd)
{
	struct peer *p = free_place(s, 0, s->opts.conns_max);
	bool full = !p;
	if (full)
		p = free_place(s, s->opts.conns_max, s->places);
	if (!p) {
		close(fd);
		return;
	}
	p->fd = fd;
	p->state = PEER_READING;
	p->interest = EPOLLIN;
	p->in_len = p->out_at = 0;
	p->deadline_ns = s->now_ns + s->opts.idle_ns;
	s->peers++;
	if (watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)(p - s->peer))) {
		peer_close(s, p);
	} else if (full) {
		refuse(s, p, 503, "There are too many clients on the stats socket already.\n");
		peer_turn(s, p);
	}
}

static void on_listener(struct statsock *s)
{
	for (unsigned i = 0; i < BACKLOG; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			peer_open(s, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno !=
		    EAGAIN) { /* no descriptor, no memory: look away for a while, instead of being woken at once */
			s->accept_ns = s->now_ns + ACCEPT_RETRY_NS;
			CHECK(watch(s, EPOLL_CTL_MOD, s->listen_fd, 0, LISTENER) == 0);
		}
		return;
	}
}

static void on_deadline(struct statsock *s, struct peer *p)
{
	if (p->state == PEER_READING && p->in_len) {
		refuse(s, p, 408, "The request did not come in whole in time.\n");
		peer_turn(s, p);
		return;
	}
	peer_close(s, p);
}

int statsock_fd(const struct statsock *s)
{
	return s->epoll_fd;
}

uint64_t statsock_next_ns(const struct statsock *s)
{
	uint64_t next = s->accept_ns ? s->accept_ns : UINT64_MAX;
	for (unsigned i = 0, seen = 0; seen < s->peers; i++) {
		const struct peer *p = &s->peer[i];
		if (!p->state)
			continue;
		seen++;
		next = p->deadline_ns < next ? p->deadline_ns : next;
	}
	return next;
}

void statsock_turn(struct statsock *s, uint64_t now_ns)
{
	struct epoll_event ev[EVENTS];
	bool accepting = false;
	s->now_ns = now_ns;
	int n = epoll_wait(s->epoll_fd, ev, EVENTS, 0);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u32 == LISTENER)
			accepting = true; /* last, so that no event here is taken for a newer client's */
		else if (s->peer[ev[i].data.u32].state)
			peer_turn(s, &s->peer[ev[i].data.u32]);
	}
	if (accepting)
		on_listener(s);
	for (unsigned i = 0; i < s->places; i++) {
		struct peer *p = &s->peer[i];
		if (p->state && now_ns >= p->deadline_ns)
			on_deadline(s, p);
	}
	if (s->accept_ns && now_ns >= s->accept_ns) {
		s->accept_ns = 0;
		CHECK(watch(s, EPOLL_CTL_MOD, s->listen_fd, EPOLLIN, LISTENER) == 0);
	}
}
