/* The records of the "ids" log: facts about sequences. A payload is one or more entries,
 * little-endian:
 *
 *   u64 value   u64 incarnation   u8 name_len   name
 *
 * WINDOW and CHECKPOINT say: IDs below `value` may have been handed out. The position of a sequence
 * is the largest such value. STAND says: exactly those below `value` have been; it takes the
 * position back. Only a clean stop writes it, when nothing is handed out any more. As each entry
 * stands alone, a CHECKPOINT or STAND may be cut into several records. An entry with another
 * incarnation than the one before it begins a new life of the sequence: what was said before says
 * nothing about it. Records of the kinds OLD_* were written by versions that knew no incarnations;
 * their entries lack the number, and are about whatever life the sequence is in. An entry whose
 * name_len is IDS_RECORD_OTHERS has no name: it is about every sequence that no entry names, and
 * says where those begin. It is in a log that took the place of one that was lost
 * (queue/ids_replace.c), and in each CHECKPOINT. Pure; any thread. */
#ifndef ORDINAL_QUEUE_IDS_RECORD_H
#define ORDINAL_QUEUE_IDS_RECORD_H

#include "core/base/bytes.h"
#include "queue/ids.h"

enum ids_record_type {
	IDS_RECORD_OLD_WINDOW = 1,
	IDS_RECORD_OLD_CHECKPOINT = 2,
	IDS_RECORD_OLD_STAND = 3,
	IDS_RECORD_WINDOW = 4,
	IDS_RECORD_CHECKPOINT = 5,
	IDS_RECORD_STAND = 6,
};

#define IDS_RECORD_OTHERS 255u

struct ids_fact {
	struct span name;
	uint64_t value;
	uint64_t incarnation; /* 0: an old record, which does not say it */
	bool others;          /* about all that have no entry; there is no name */
};

#define IDS_RECORD_ENTRY_MAX (8 + 8 + 1 + SEQUENCE_NAME_MAX)

/* Writes an entry of a record that is not an old one at p (IDS_RECORD_ENTRY_MAX bytes of room);
 * returns its length. */
static inline size_t ids_record_put(uint8_t *p, const struct ids_fact *f)
{
	store_le64(p, f->value);
	store_le64(p + 8, f->incarnation);
	p[16] = f->others ? IDS_RECORD_OTHERS : (uint8_t)f->name.n;
	if (f->name.n > 0)
		memcpy(p + 17, f->name.p, f->name.n);
	return 17 + f->name.n;
}

/* Takes the first entry off *rest, of a record of this type. False: malformed (or empty); *rest is
 * untouched. */
static inline bool ids_record_take(struct span *rest, uint32_t type, struct ids_fact *ret)
{
	size_t head = type <= IDS_RECORD_OLD_STAND ? 9 : 17, n;

	if (rest->n < head)
		return false;
	ret->others = head == 17 && rest->p[head - 1] == IDS_RECORD_OTHERS;
	n = ret->others ? 0 : rest->p[head - 1];
	if (n > SEQUENCE_NAME_MAX || rest->n - head < n)
		return false;
	ret->value = load_le64(rest->p);
	ret->incarnation = head == 17 ? load_le64(rest->p + 8) : 0;
	ret->name = (struct span){rest->p + head, n};
	*rest = (struct span){rest->p + head + ret->name.n, rest->n - head - ret->name.n};
	return ret->value != 0 && (ret->incarnation != 0 || head == 9);
}

#endif
