/* Parsed readings; see the header. */
#include "tools/stats_read.h"

#include "tools/tool.h"

#include <stdlib.h>
#include <string.h>

int stats_read_json(struct stats_source *s, struct stats_reading *ret)
{
	struct stats_reading got = {0};
	size_t n = 0;
	int r = stats_source_get(s, STATS_PAGE_JSON, &got.text, &n);
	if (r)
		return r;
	r = jread_parse((struct span){(const uint8_t *)got.text, n}, &got.json);
	if (r) {
		fprintf(stderr, "ordinal: what %s answers is no JSON: %s\n", stats_source_name(s), strerror(-r));
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
