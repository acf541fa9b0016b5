/* statsock.c: good and bad requests, dribbled and pipelined ones, slow readers, too many clients, deadlines on a clock of the test's own; and the
 * life of the socket's file. The server's turns are taken by the test, so nothing here waits. */
#include "rpc/statsock.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNS = 4 };
#define IDLE_NS (10 * NS_PER_S)

struct rig {
	char dir[32], path[64];
	struct statsock *s;
	uint64_t now_ns;
	size_t body; /* of "/big" */
	unsigned asked;
};

static unsigned get(void *ctx, struct span path, struct text *body, const char **ret_type)
{
	struct rig *r = ctx;
	r->asked++;
	if (span_eq(path, SPAN_LIT("/big"))) {
		for (size_t i = 0; i < r->body; i += 100)
			text_pad(body, body->n, 100, (char)('a' + i / 100 % 26));
		return 200;
	}
	if (span_eq(path, SPAN_LIT("/full"))) {
		body->failed = true;
		return 200;
	}
	if (span_eq(path, SPAN_LIT("/json"))) {
		*ret_type = "application/json";
		text_printf(body, "{}");
		return 200;
	}
	text_printf(body, "path=%.*s", (int)path.n, (const char *)path.p);
	return span_eq(path, SPAN_LIT("/stats")) ? 200 : 404;
}

static int open_at(struct rig *r, const char *path, struct statsock **ret, const char **why)
{
	struct statsock_opts o = {.path = path, .conns_max = CONNS, .idle_ns = IDLE_NS, .get = get, .ctx = r};
	return statsock_open(&o, ret, why);
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof *r);
	const char *why;
	snprintf(r->dir, sizeof r->dir, "/tmp/test_statsock.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof r->path, "%s/a/b/stats.sock", r->dir); /* directories are made */
	r->now_ns = 1000 * NS_PER_S;
	assert_int_equal(open_at(r, r->path, &r->s, &why), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	char sub[64];
	statsock_close(r->s);
	assert_int_equal(access(r->path, F_OK), -1);
	snprintf(sub, sizeof sub, "%s/a/b", r->dir);
	assert_int_equal(rmdir(sub), 0);
	snprintf(sub, sizeof sub, "%s/a", r->dir);
	assert_int_equal(rmdir(sub), 0);
	assert_int_equal(rmdir(r->dir), 0);
	free(r);
	return 0;
}

static void turn(struct rig *r)
{
	for (unsigned i = 0; i < 4; i++)
		statsock_turn(r->s, r->now_ns);
}

static int dial(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What has come, terminated. *ret_eof: and then the end. */
static const char *hear(int fd, bool *ret_eof)
{
	static char buf[1 << 20];
	size_t n = 0;
	ssize_t r;
	while ((r = recv(fd, buf + n, sizeof buf - 1 - n, 0)) > 0)
		n += (size_t)r;
	assert_true(r == 0 || errno == EAGAIN);
	*ret_eof = r == 0;
	buf[n] = 0;
	return buf;
}

/* One request on a connection of its own, to its answer; it must begin with `status`. */
static const char *ask(struct rig *r, const char *request, const char *status, bool *ret_eof)
{
	int fd = dial(r->path);
	say(fd, request);
	turn(r);
	const char *got = hear(fd, ret_eof);
	if (strncmp(got, status, strlen(status)) != 0)
		fail_msg("%s instead of %s", got, status);
	close(fd);
	turn(r);
	return got;
}

static void test_get_and_head(void **state)
{
	struct rig *r = *state;
	bool eof;
	const char *got = ask(r, "GET /stats?x=y HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	assert_false(eof);
	assert_non_null(strstr(got, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 11\r\n"));
	assert_non_null(strstr(got, "\r\nConnection: keep-alive\r\n\r\npath=/stats"));
	got = ask(r, "HEAD /stats HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	assert_non_null(strstr(got, "\r\nContent-Length: 11\r\n"));
	assert_string_equal(got + strlen(got) - 4, "\r\n\r\n");
	got = ask(r, "GET /stats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	assert_true(eof);
	got = ask(r, "GET http://h:1/stats HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	assert_true(eof);
	assert_non_null(strstr(got, "Connection: close\r\n\r\npath=/stats"));
	got = ask(r, "GET /json HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	assert_non_null(strstr(got, "\r\nContent-Type: application/json\r\n"));
}

static void test_bad_requests_get_clear_answers(void **state)
{
	static const char *const cases[][2] = {
		{"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 404 "},
		{"POST /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 "},
		{"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 405 "},
		{"GET /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 400 "},
		{"GET /stats HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 501 "},
		{"GET /stats HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "}, /* no Host */
		{"GET /stats HTTP/2.0\r\nHost: h\r\n\r\n", "HTTP/1.1 505 "},
		{"GET /stats\r\n\r\n", "HTTP/1.1 400 "},
		{"\x81\x01\x02\x03", "HTTP/1.1 400 "},
		{"\r\n", "HTTP/1.1 400 "},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 505 "},
		{"GET * HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 404 "},
		{"GET /full HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 503 "},
	};
	struct rig *r = *state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool eof, not_found = strstr(cases[i][1], "404");
		const char *got = ask(r, cases[i][0], cases[i][1], &eof);
		assert_true(eof != not_found); /* a wrong path is no reason to hang up; everything else is */
		const char *body = strstr(got, "\r\n\r\n");
		assert_true(body && strlen(body) > 8);
	}
	bool eof;
	assert_non_null(strstr(ask(r, cases[1][0], "HTTP", &eof), "\r\nAllow: GET, HEAD\r\n"));
}

/* HEAD has no body, whatever it is told. */
static void test_head_with_a_body_is_refused_without_one(void **state)
{
	struct rig *r = *state;
	bool eof;
	const char *got = ask(r, "HEAD /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 400 ",
			      &eof);
	assert_string_equal(got + strlen(got) - 4, "\r\n\r\n");
}

static void test_a_head_that_is_too_large(void **state)
{
	struct rig *r = *state;
	char head[9000] = "GET /stats HTTP/1.1\r\nX: ";
	bool eof;
	memset(head + strlen(head), 'x', sizeof head - 1 - strlen(head));
	ask(r, head, "HTTP/1.1 431 ", &eof);
	assert_true(eof);
}

static void test_dribbled_byte_by_byte(void **state)
{
	struct rig *r = *state;
	static const char request[] = "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n";
	int fd = dial(r->path);
	bool eof;
	for (size_t i = 0; i < sizeof request - 1; i++) {
		assert_string_equal(hear(fd, &eof), "");
		assert_int_equal(send(fd, request + i, 1, MSG_NOSIGNAL), 1);
		turn(r);
	}
	assert_non_null(strstr(hear(fd, &eof), "path=/stats"));
	assert_false(eof);
	close(fd);
}

/* More requests at once than one turn answers: all are answered, in order, also the one that came in two pieces. */
static void test_pipelined(void **state)
{
	struct rig *r = *state;
	int fd = dial(r->path);
	char all[4096] = "";
	bool eof;
	for (unsigned i = 0; i < 50; i++)
		snprintf(all + strlen(all), sizeof all - strlen(all), "GET /%u HTTP/1.1\r\nHost: h\r\n\r\n", i);
	size_t cut = strlen(all) - 10;
	assert_int_equal(send(fd, all, cut, MSG_NOSIGNAL), cut);
	for (unsigned i = 0; i < 20; i++)
		turn(r);
	say(fd, all + cut);
	turn(r);
	const char *at = hear(fd, &eof);
	for (unsigned i = 0; i < 50; i++) {
		char want[32];
		snprintf(want, sizeof want, "\r\n\r\npath=/%u", i);
		at = strstr(at, want);
		assert_non_null(at);
	}
	assert_int_equal(r->asked, 50);
	close(fd);
}

static void test_half_closed_client_is_answered(void **state)
{
	struct rig *r = *state;
	int fd = dial(r->path);
	bool eof;
	say(fd, "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
	shutdown(fd, SHUT_WR);
	turn(r);
	assert_non_null(strstr(hear(fd, &eof), "path=/stats"));
	assert_true(eof);
	close(fd);
}

/* A large answer waits for a slow reader, and the others do not wait for it. */
static void test_slow_reader(void **state)
{
	struct rig *r = *state;
	bool eof;
	r->body = 3 << 20;
	int fd = dial(r->path);
	say(fd, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
	turn(r);
	ask(r, "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	char piece[65536];
	size_t got = 0, from = 0;
	for (;;) {
		r->now_ns += IDLE_NS / 16; /* slow, but going on */
		turn(r);
		ssize_t n = recv(fd, piece, sizeof piece, 0);
		if (n <= 0)
			break;
		if (got == 0) {
			from = (size_t)((char *)memmem(piece, (size_t)n, "\r\n\r\n", 4) + 4 - piece);
			assert_int_equal(piece[from], 'a');
		}
		got += (size_t)n;
	}
	assert_true(errno == EAGAIN); /* all of it is here, and the connection stays */
	assert_int_equal(got - from, (r->body + 99) / 100 * 100);
	close(fd);
}

static void test_reader_that_takes_nothing_is_let_go(void **state)
{
	struct rig *r = *state;
	r->body = 3 << 20;
	int fd = dial(r->path);
	say(fd, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
	turn(r);
	assert_int_equal(statsock_next_ns(r->s), r->now_ns + IDLE_NS);
	r->now_ns += IDLE_NS;
	turn(r);
	assert_true(statsock_next_ns(r->s) == UINT64_MAX);
	close(fd);
}

static void test_idle_and_unfinished_requests_time_out(void **state)
{
	struct rig *r = *state;
	bool eof;
	int idle = dial(r->path), part = dial(r->path);
	say(part, "GET /st");
	turn(r);
	r->now_ns += IDLE_NS - 1;
	turn(r);
	hear(idle, &eof);
	assert_false(eof);
	say(part, "a"); /* dribbling on does not help */
	turn(r);
	r->now_ns += 1;
	turn(r);
	assert_string_equal(hear(idle, &eof), "");
	assert_true(eof);
	assert_int_equal(strncmp(hear(part, &eof), "HTTP/1.1 408 ", 13), 0);
	assert_true(eof);
	r->now_ns += NS_PER_S; /* lingering ends, too */
	turn(r);
	assert_true(statsock_next_ns(r->s) == UINT64_MAX);
	close(idle);
	close(part);
}

static void test_a_client_too_many_is_told_so(void **state)
{
	struct rig *r = *state;
	int fd[CONNS + 10];
	bool eof;
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = dial(r->path);
		say(fd[i], "GET /st");
	}
	turn(r);
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		const char *got = hear(fd[i], &eof);
		assert_true(i < CONNS ? !eof && !*got : eof && strncmp(got, "HTTP/1.1 503 ", 13) == 0);
	}
	close(fd[0]); /* its place is free again */
	turn(r);
	ask(r, "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
	for (size_t i = 1; i < CONNS; i++) { /* and the others are as they were */
		say(fd[i], "ats HTTP/1.1\r\nHost: h\r\n\r\n");
		turn(r);
		assert_non_null(strstr(hear(fd[i], &eof), "path=/stats"));
	}
	for (size_t i = 1; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
}

/* Beyond those that are told so, clients are just closed; and nothing is kept of them. */
static void test_a_crowd(void **state)
{
	struct rig *r = *state;
	bool eof;
	int fd[60], told = 0;
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		fd[i] = dial(r->path);
	turn(r);
	for (size_t i = CONNS; i < ARRAY_SIZE(fd); i++) {
		told += strncmp(hear(fd[i], &eof), "HTTP/1.1 503 ", 13) == 0;
		assert_true(eof);
	}
	assert_in_range(told, 1, ARRAY_SIZE(fd) - CONNS - 1);
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	turn(r);
	assert_true(statsock_next_ns(r->s) == UINT64_MAX);
	ask(r, "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
}

/* A client that is refused and goes on talking still gets its answer. */
static void test_refused_while_talking(void **state)
{
	struct rig *r = *state;
	char lump[20000];
	bool eof;
	memset(lump, 'x', sizeof lump);
	int fd = dial(r->path);
	say(fd, "POST /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
	turn(r);
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(send(fd, lump, sizeof lump, MSG_NOSIGNAL), sizeof lump);
		turn(r);
	}
	assert_int_equal(strncmp(hear(fd, &eof), "HTTP/1.1 405 ", 13), 0);
	assert_true(eof);
	close(fd);
	turn(r);
	assert_true(statsock_next_ns(r->s) == UINT64_MAX);
}

/* The file. */

static void test_mode_of_the_file_whatever_the_umask(void **state)
{
	struct rig *r = *state;
	struct stat st;
	char path[64];
	const char *why;
	struct statsock *s;
	static const mode_t masks[] = {0, 022, 0777 & ~0700};
	for (size_t i = 0; i < ARRAY_SIZE(masks); i++) {
		snprintf(path, sizeof path, "%s/other.sock", r->dir);
		mode_t before = umask(masks[i]);
		int rc = open_at(r, path, &s, &why);
		umask(before);
		assert_int_equal(rc, 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0660);
		statsock_close(s);
		assert_int_equal(access(path, F_OK), -1);
	}
}

static void test_a_second_daemon_is_refused_and_the_first_goes_on(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s;
	bool eof;
	assert_int_equal(open_at(r, r->path, &s, &why), -EADDRINUSE);
	assert_non_null(strstr(why, r->path));
	char holder[64];
	snprintf(holder, sizeof holder, "process %d listens there", (int)getpid());
	assert_non_null(strstr(why, holder));
	turn(r);
	ask(r, "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n", &eof);
}

static void test_a_killed_daemons_socket_is_replaced(void **state)
{
	struct rig *r = *state;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *why;
	struct statsock *s;
	snprintf(un.sun_path, sizeof un.sun_path, "%s/stale.sock", r->dir);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
	assert_int_equal(listen(fd, 1), 0);
	close(fd);
	assert_int_equal(open_at(r, un.sun_path, &s, &why), 0);
	close(dial(un.sun_path));
	statsock_close(s);
	assert_int_equal(access(un.sun_path, F_OK), -1);
}

static void test_what_is_no_socket_is_left_alone(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s;
	char path[64];
	snprintf(path, sizeof path, "%s/file", r->dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	assert_int_equal(open_at(r, path, &s, &why), -EEXIST);
	assert_non_null(strstr(why, "not a socket"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/nowhere", path), 0);
	assert_int_equal(open_at(r, path, &s, &why), -EEXIST);
	assert_int_equal(unlink(path), 0);
	char longer[200];
	memset(longer, 'x', sizeof longer - 1);
	longer[sizeof longer - 1] = 0;
	assert_int_equal(open_at(r, longer, &s, &why), -ENAMETOOLONG);
	assert_int_equal(open_at(r, "/proc/none/x.sock", &s, &why), -ENOENT);
}

/* Closing removes the file only if it is still the one that was made. */
static void test_another_ones_file_is_not_removed(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s, *second;
	char path[64];
	snprintf(path, sizeof path, "%s/moved.sock", r->dir);
	assert_int_equal(open_at(r, path, &s, &why), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(open_at(r, path, &second, &why), 0);
	statsock_close(s);
	close(dial(path));
	statsock_close(second);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_two_that_start_at_once_take_turns(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s;
	struct stat st;
	char path[64], name[80];
	snprintf(path, sizeof path, "%s/turns.sock", r->dir);
	snprintf(name, sizeof name, "%s.lock", path);
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(open_at(r, path, &s, &why), -EWOULDBLOCK);
	assert_non_null(strstr(why, "locked"));
	close(fd);
	assert_int_equal(open_at(r, path, &s, &why), 0);
	assert_int_equal(stat(name, &st), -1); /* it is there only as long as the lock */
	statsock_close(s);
}

/* The directory can be opened for reading by every local user, and what can be opened can be
 * locked. */
static void test_a_lock_on_the_directory_stopped_the_start(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s;
	char path[64];
	int dir = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(dir, LOCK_EX), 0);
	snprintf(path, sizeof path, "%s/locked.sock", r->dir);
	assert_int_equal(open_at(r, path, &s, &why), 0);
	statsock_close(s);
	close(dir);
}

static void test_a_lock_file_that_others_can_open_is_refused(void **state)
{
	struct rig *r = *state;
	const char *why;
	struct statsock *s;
	char path[64], name[80];
	snprintf(path, sizeof path, "%s/open.sock", r->dir);
	snprintf(name, sizeof name, "%s.lock", path);
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fchmod(fd, 0644), 0);
	close(fd);
	assert_int_equal(open_at(r, path, &s, &why), -EACCES);
	assert_non_null(strstr(why, name));
	assert_non_null(strstr(why, "remove it"));
	assert_int_equal(unlink(name), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_get_and_head),
		T(test_bad_requests_get_clear_answers),
		T(test_head_with_a_body_is_refused_without_one),
		T(test_a_head_that_is_too_large),
		T(test_dribbled_byte_by_byte),
		T(test_pipelined),
		T(test_half_closed_client_is_answered),
		T(test_slow_reader),
		T(test_reader_that_takes_nothing_is_let_go),
		T(test_idle_and_unfinished_requests_time_out),
		T(test_a_client_too_many_is_told_so),
		T(test_a_crowd),
		T(test_refused_while_talking),
		T(test_mode_of_the_file_whatever_the_umask),
		T(test_a_second_daemon_is_refused_and_the_first_goes_on),
		T(test_a_killed_daemons_socket_is_replaced),
		T(test_what_is_no_socket_is_left_alone),
		T(test_another_ones_file_is_not_removed),
		T(test_two_that_start_at_once_take_turns),
		T(test_a_lock_on_the_directory_stopped_the_start),
		T(test_a_lock_file_that_others_can_open_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
