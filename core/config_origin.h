/* Where a value came from, so that a check of one option against another can name both places. Between config.c and config_check.c only. */
#ifndef ORDINAL_CORE_CONFIG_ORIGIN_H
#define ORDINAL_CORE_CONFIG_ORIGIN_H

#include "core/config.h"

struct config_origin {
	const char *file; /* NULL: not from a file */
	unsigned line;
	bool override; /* from the command line; with neither: the default */
};

/* Defaults yield to what somebody has set: where a limit that is a default cannot hold beside another
 * one, it is changed so that it does. What was set stays as it is, but for FEED_MEMORY_BYTES, whose
 * description says so. */
void config_settle(struct config *c, const struct config_origin *origins);

/* config_check, with one origin an option (NULL: not known). */
int config_check_origins(const struct config *c, const struct config_origin *origins, struct config_error *why);

#endif
