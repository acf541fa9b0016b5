/* What the four names are linked to in fuzz targets; see the header. `used`: link-time optimisation sees no caller. */
#include "tests/fuzz/memory.h"

#include <errno.h>
#include <stdlib.h>

static _Thread_local bool watched;
static _Thread_local unsigned countdown;

/* The linker's names: of what is called instead, and of the true ones. */
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);

void memory_fail(unsigned nth)
{
	countdown = nth;
}

bool memory_watch(bool on)
{
	bool was = watched;
	watched = on;
	return was;
}

static bool fails(void)
{
	if (!watched || countdown == 0 || --countdown > 0)
		return false;
	errno = ENOMEM;
	return true;
}

__attribute__((used)) void *__wrap_malloc(size_t n)
{
	return fails() ? NULL : __real_malloc(n);
}

__attribute__((used)) void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

__attribute__((used)) void *__wrap_realloc(void *p, size_t n)
{
	return fails() ? NULL : __real_realloc(p, n);
}

__attribute__((used)) void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
	return fails() ? NULL : __real_aligned_alloc(alignment, n);
}
