/* What a failed CHECK does. Any thread; nothing here allocates or takes a lock, because the heap may be what is
 * broken. */
#include "core/base/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void check_failed(const char *cond, const char *file, int line)
{
	char buf[512];
	int n = snprintf(buf, sizeof buf, "check failed: %s (%s:%d)\n", cond, file, line);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1;

	/* One write, so that lines of several failing threads stay whole; nothing can be done if it fails. */
	while (len > 0 && write(STDERR_FILENO, buf, len) < 0 && errno == EINTR)
		;
	abort();
}
