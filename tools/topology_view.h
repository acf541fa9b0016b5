/* The drawing of `ordinal stats topology`: where the daemon's threads are, out of /stats.json. Pure; main thread. */
#ifndef ORDINAL_TOOLS_TOPOLOGY_VIEW_H
#define ORDINAL_TOOLS_TOPOLOGY_VIEW_H

#include "tools/jread.h"

#include <stdio.h>

/* `topology` is the member of that name. 0, or -ENOMEM with nothing written. */
int topology_view(FILE *f, const struct jread *j, const struct jread_node *topology);

#endif
