/* The configuration: a file, and overrides.
 *
 * Holds: what is refused is explained; what is accepted passes the check again, and its dump loads to the same values. Overrides are the lines of the
 * input that begin with '!'. */
#include "core/config.h"

#include "core/base/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OVERRIDES = 8 };

static void path_of(int fd, char path[64])
{
	snprintf(path, 64, "/proc/self/fd/%d", fd);
}

static void changed(void *ctx, const struct config_option *o)
{
	CHECK(!"a dump that does not load to the same values");
}

static void load_again(const struct config *c)
{
	char *text = NULL, path[64];
	size_t n = 0;
	struct config again;
	struct config_error why;
	FILE *f = open_memstream(&text, &n);
	CHECK(f);
	config_dump(c, f);
	fclose(f);
	int fd = memfd_create("dump", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text, n) == (ssize_t)n);
	path_of(fd, path);
	CHECK(config_load(&again, path, NULL, 0, &why) == 0);
	config_changes(c, &again, changed, NULL);
	config_done(&again);
	close(fd);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), path[64], *save = NULL;
	const char *given[OVERRIDES];
	size_t n = 0;
	struct config c;
	struct config_error why = {""};
	CHECK(text);
	memcpy(text, data, size);
	text[size] = 0;
	int fd = memfd_create("config", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	for (char *line = strtok_r(text, "\n", &save); line && n < OVERRIDES; line = strtok_r(NULL, "\n", &save)) {
		if (*line == '!')
			given[n++] = line + 1;
	}
	path_of(fd, path);
	if (config_load(&c, n ? NULL : path, given, n, &why) == 0) {
		CHECK(config_check(&c, &why) == 0);
		load_again(&c);
		config_done(&c);
	} else {
		CHECK(why.text[0]);
	}
	close(fd);
	free(text);
	return 0;
}
