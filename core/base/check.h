/* Checks and small macros that every file may use.
 *
 * CHECK stays in releases: it guards invariants of our own code and aborts with file and line. DCHECK is for debug
 * builds. Neither is ever used on bytes that a peer sent: those get an error. */
#ifndef ORDINAL_CORE_BASE_CHECK_H
#define ORDINAL_CORE_BASE_CHECK_H

#include <stddef.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define CACHE_LINE 64

/* Prints the failed condition to standard error and aborts. */
void check_failed(const char *cond, const char *file, int line) __attribute__((noreturn, cold));

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (unlikely(!(cond)))                                                                                 \
			check_failed(#cond, __FILE__, __LINE__);                                                       \
	} while (0)

#ifdef NDEBUG
#define DCHECK(cond) ((void)sizeof(cond))
#else
#define DCHECK(cond) CHECK(cond)
#endif

#endif
