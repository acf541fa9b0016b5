/* The screen of `ordinal top`: two readings of /stats.json as tables. Pure; main thread. */
#ifndef ORDINAL_TOOLS_TOP_VIEW_H
#define ORDINAL_TOOLS_TOP_VIEW_H

#include "tools/stats_read.h"

#include <stdio.h>

struct top_reading {
	struct stats_reading stats; /* of /stats.json */
	uint64_t mono_ns;           /* when it was taken */
};

/* Lines of text for `now`; rates are since `before`. Of each long table at most `rows` rows. */
void top_view(FILE *f, const struct top_reading *now, const struct top_reading *before, unsigned rows);

/* "1,234,567", in buf, which is returned. */
char *top_count(double v, char *buf, size_t cap);
/* "12.3 MiB". */
char *top_bytes(double v, char *buf, size_t cap);
/* "3d 04:05:06". */
char *top_time(double seconds, char *buf, size_t cap);

#endif
