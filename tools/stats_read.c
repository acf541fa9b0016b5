/* Readings of the stats socket for `ordinal stats` and `ordinal top`, with the sentences that say why there is none. Main thread. */
#include "tools/stats_read.h"

#include "tools/stats_http.h"
#include "tools/tool.h"

#include <stdlib.h>
#include <string.h>

int stats_read(const char *socket_path, const char *page, char **ret, size_t *ret_n)
{
	char why[512];
	if (stats_http_get(socket_path, page, ret, ret_n, why, sizeof why) == 0)
		return TOOL_OK;
	fprintf(stderr,
		"ordinal: cannot read the stats socket %s: %s\n"
		"Is ordinald running on this machine? Name its STATS_SOCKET with --socket PATH or ORDINAL_STATS_SOCKET.\n",
		socket_path, why);
	return TOOL_UNREACHABLE;
}

int stats_read_json(const char *socket_path, struct stats_reading *ret)
{
	struct stats_reading got = {0};
	size_t n = 0;
	int r = stats_read(socket_path, "/stats.json", &got.text, &n);
	if (r)
		return r;
	r = jread_parse((struct span){(const uint8_t *)got.text, n}, &got.json);
	if (r) {
		fprintf(stderr, "ordinal: what %s answers is no JSON: %s\n", socket_path, strerror(-r));
		free(got.text);
		return TOOL_FAILED;
	}
	*ret = got;
	return TOOL_OK;
}

void stats_reading_done(struct stats_reading *r)
{
	jread_done(&r->json);
	free(r->text);
	r->text = NULL;
}
