/* Memory that runs out: of the allocations that the code under test makes (malloc, calloc, realloc and aligned_alloc, called from our own objects), one fails
 * where a target says so. Fuzz targets are linked with --wrap for these four; what libraries allocate is not concerned, nor what the target itself does
 * outside memory_watch. */
#ifndef ORDINAL_TESTS_FUZZ_MEMORY_H
#define ORDINAL_TESTS_FUZZ_MEMORY_H

#include <stdbool.h>

/* Of the allocations that are watched from here on, the nth fails, and only that one; 0: none does. */
void memory_fail(unsigned nth);
/* Whether allocations count, and may fail: on only while the code under test runs. Returns what it was. */
bool memory_watch(bool on);

#endif
