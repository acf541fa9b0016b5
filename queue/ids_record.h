/* The records of the "ids" log: facts about sequences. A payload is one or more entries, little-endian:
 *
 *   u64 value   u8 name_len   name
 *
 * WINDOW and CHECKPOINT say: IDs below `value` may have been handed out. The position of a sequence is the largest such
 * value.
 * STAND says: exactly those below `value` have been; it takes the position back. Only a clean stop writes it,
 * when nothing is handed out any more. As each entry stands alone, a CHECKPOINT or STAND may be cut into several
 * records.
 * Pure; any thread.
 */
#ifndef ORDINAL_QUEUE_IDS_RECORD_H
#define ORDINAL_QUEUE_IDS_RECORD_H

#include "core/base/bytes.h"
#include "queue/ids.h"

enum ids_record_type { IDS_RECORD_WINDOW = 1, IDS_RECORD_CHECKPOINT = 2, IDS_RECORD_STAND = 3 };

#define IDS_RECORD_ENTRY_MAX (8 + 1 + SEQUENCE_NAME_MAX)

/* Writes an entry at p (IDS_RECORD_ENTRY_MAX bytes of room); returns its length. */
static inline size_t ids_record_put(uint8_t *p, struct span name, uint64_t value)
{
	store_le64(p, value);
	p[8] = (uint8_t)name.n;
	memcpy(p + 9, name.p, name.n);
	return 9 + name.n;
}

/* Takes the first entry off *rest. False: malformed (or empty); *rest is untouched. */
static inline bool ids_record_take(struct span *rest, struct span *ret_name, uint64_t *ret_value)
{
	if (rest->n < 9 || rest->p[8] > SEQUENCE_NAME_MAX || rest->n - 9 < rest->p[8])
		return false;
	*ret_value = load_le64(rest->p);
	*ret_name = (struct span){rest->p + 9, rest->p[8]};
	*rest = (struct span){rest->p + 9 + ret_name->n, rest->n - 9 - ret_name->n};
	return true;
}

#endif
