/* Readings of a daemon's figures for `ordinal stats` and `ordinal top`, parsed. Main thread. */
#ifndef ORDINAL_TOOLS_STATS_READ_H
#define ORDINAL_TOOLS_STATS_READ_H

#include "tools/jread.h"
#include "tools/stats_source.h"

struct stats_reading {
	struct jread json;
	char *text; /* what json points into */
};

/* The page for programs. Returns TOOL_OK, and stats_reading_done is due; or as stats_source_get, or TOOL_FAILED (no JSON), after a sentence. */
int stats_read_json(struct stats_source *s, struct stats_reading *ret);
void stats_reading_done(struct stats_reading *r);

#endif
