/* Sequences that records of the "ids" log name, with what was found of each. One thread. */
#ifndef ORDINAL_QUEUE_IDS_FOUND_H
#define ORDINAL_QUEUE_IDS_FOUND_H

#include "queue/ids.h"
#include "queue/names.h"

struct found_sequence {
	uint64_t position;    /* the next ID; at first 1 */
	uint64_t incarnation; /* 0: none was found yet */
	uint32_t name_len;
	char name[SEQUENCE_NAME_MAX];
};

struct ids_found {
	struct found_sequence *v;
	uint32_t count, room;
	struct names names;
};

/* Not to be moved afterwards. 0 or -errno. */
int ids_found_init(struct ids_found *f);
/* Harmless on one that is zero-filled. */
void ids_found_done(struct ids_found *f);
/* The sequence of this name (of SEQUENCE_NAME_MAX bytes at most), added if need be. *ret is valid until the next call.
 * 0 or -ENOMEM. */
int ids_found_slot(struct ids_found *f, struct span name, struct found_sequence **ret);

#endif
