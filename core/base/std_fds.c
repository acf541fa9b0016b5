/* Standard descriptors at the beginning and at the end; see the header. Main thread.
 *
 * As Debian's own programs do it: the C library's for set-user-ID ones, and gnulib's stdopen and closeout, from which the idea of the wrong direction is.
 */
#include "core/base/std_fds.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void std_fds_open(enum std_fds_kind kind)
{
	for (int fd = 0; fd < 3; fd++) {
		int how = kind == STD_FDS_SERVER ? O_RDWR : fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;

		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		if (open("/dev/null", how) != fd) /* the lowest one that is free; it is inherited, as they are */
			_exit(127);
	}
}

/* A write that failed some time ago does not say any more why. */
static bool has_no_reader(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0 && p.revents & POLLERR;
}

static void say(const char *program, int err)
{
	if (err != EPIPE && !has_no_reader(STDOUT_FILENO))
		fprintf(stderr, "%s: standard output: %s\n", program,
			err == EIO ? "not all of it could be written" : strerror(err));
}

int std_fds_close(const char *program, int code, int failed)
{
	int err = 0;

	errno = 0;
	if (fflush(stdout) != 0)
		err = errno;
	else if (ferror(stdout))
		err = EIO;
	if (err == 0 && fclose(stdout) != 0) /* some file systems tell only now */
		err = errno;
	if (err != 0)
		say(program, err);
	if (ferror(stderr) || fclose(stderr) != 0)
		err = EIO;
	return err != 0 && code == 0 ? failed : code;
}
