/* What an operator does to a data directory while no daemon runs on it: look at it, set a damaged stream aside, accept that a log is lost. Each is a
 * command of ordinald, writes what it does to standard output and what is wrong to standard error, and returns the exit code. Main thread; the log is not
 * needed. */
#ifndef ORDINAL_RPC_UPKEEP_H
#define ORDINAL_RPC_UPKEEP_H

#include "core/config.h"

#include <stdint.h>

/* Reads everything in `dir` and changes nothing. 0: it is sound; 1: something is damaged or missing, which is named; 2: it could not be checked. */
int upkeep_check_data(const char *dir);

/* In the data directory of the configuration. `name`: a stream's name, or its log's. 0; 1: it could not be done; 2: there is no such stream. */
int upkeep_quarantine(const struct config *c, const char *name);
/* As that. `name` may also be "ids", and then no ID at or below `above` is handed out any more (0: where nothing is known, sequences begin at 1); or
 * ".manifest". 2 as well when nothing is lost. */
int upkeep_accept_loss(const struct config *c, const char *name, uint64_t above);
#define UPKEEP_ABOVE_MAX (UINT64_MAX - 2)
#endif
