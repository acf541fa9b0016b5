/* The table of members, and the checks that are the same for all.
 *
 * Knows every member by its struct family_ops only. Nothing here runs after family_init.
 */
#include "queue/family/family.h"

#include "queue/family/members.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct family_ops *const family_members[] = {
	&family_basic,
	&family_basic_out,
	&family_linked,
	&family_double,
	&family_double_waiters_new,
	&family_double_waiters_old,
	&family_mpmc[0],
	&family_mpmc[1],
	&family_mpmc[2],
	&family_mpmc[3],
	&family_mpmc[4],
	&family_mpmc[5],
	&family_mpmc[6],
	&family_mpmc[7],
	&family_mpmc[8],
	&family_mpmc[9],
	&family_mpmc[10],
	&family_mpmc[11],
	&family_mpmc[12],
	&family_mpmc[13],
	&family_mpmc[14],
	&family_mpmc[15],
	&family_kfifo_spsc,
	&family_kfifo_mpmc,
	&family_ck_ring_spsc,
	&family_ck_ring_mpmc,
	&family_ck_fifo_spsc,
	&family_ck_fifo_epoch,
	&family_ck_fifo_hp,
	&family_sharded,
	&family_ranges_spsc,
	&family_ranges_mpmc,
};
const unsigned family_count = ARRAY_SIZE(family_members);

const struct family_ops *family_find(const char *name)
{
	for (unsigned i = 0; i < family_count; i++)
		if (strcmp(family_members[i]->name, name) == 0)
			return family_members[i];
	return NULL;
}

void *family_alloc(size_t size)
{
	size_t whole = (size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
	void *p = aligned_alloc(CACHE_LINE, whole);

	if (p != NULL)
		memset(p, 0, whole);
	return p;
}

int family_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	if (opts->capacity == 0 || opts->capacity > FAMILY_CAPACITY_MAX || opts->capacity < ops->capacity_min)
		return -EINVAL;
	if (opts->producers == 0 || opts->producers > FAMILY_PEERS_MAX || opts->consumers == 0 ||
	    opts->consumers > FAMILY_PEERS_MAX)
		return -EINVAL;
	if ((ops->producers_max != 0 && opts->producers > ops->producers_max) ||
	    (ops->consumers_max != 0 && opts->consumers > ops->consumers_max))
		return -EINVAL;
	return ops->init(ops, opts, ret);
}
