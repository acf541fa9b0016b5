/* The token that a command shows to the server: from a file (`--token-file`, which every command takes), or from the environment. Main thread. */
#include "tools/tool.h"

#include "rpc/access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char token[ACCESS_TOKEN_MAX + 2];

/* A token is the first line of its file. */
static int read_token(const char *path)
{
	FILE *f = fopen(path, "re");
	if (!f) {
		fprintf(stderr, "ordinal: --token-file %s: %s\n", path, strerror(errno));
		return -EINVAL;
	}
	size_t n = fread(token, 1, sizeof token - 1, f);
	fclose(f);
	token[n] = 0;
	token[strcspn(token, "\r\n")] = 0;
	if (token[0] && strlen(token) <= ACCESS_TOKEN_MAX)
		return 0;
	fprintf(stderr, "ordinal: --token-file %s: its first line must be a token of at most %d bytes\n", path,
		ACCESS_TOKEN_MAX);
	return -EINVAL;
}

int tool_take_token(int *argc, char **argv)
{
	static const char name[] = "--token-file";
	size_t n = sizeof name - 1;
	int kept = 0;
	for (int i = 0; i < *argc; i++) {
		const char *path = NULL;
		if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=') {
			path = argv[i] + n + 1;
		} else if (strcmp(argv[i], name) == 0) {
			if (i + 1 == *argc) {
				fprintf(stderr, "ordinal: --token-file takes a file\n");
				return -EINVAL;
			}
			path = argv[++i];
		} else if (strcmp(argv[i], "--") == 0) { /* what follows is no option */
			while (i < *argc)
				argv[kept++] = argv[i++];
			break;
		}
		if (!path)
			argv[kept++] = argv[i];
		else if (read_token(path))
			return -EINVAL;
	}
	argv[kept] = NULL;
	*argc = kept;
	return 0;
}

const char *tool_token(void)
{
	const char *s = getenv("ORDINAL_TOKEN");
	return token[0] ? token : s && *s ? s : NULL;
}
