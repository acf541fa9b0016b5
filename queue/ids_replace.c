/* A new log of the IDs in the place of one that is lost or damaged, for `ordinald --accept-loss ids`. Main thread, in a
 * journal of JOURNAL_REPAIR.
 *
 * What can still be read of the old log, and of those that were set aside before, says how far each sequence may have been
 * handed out; the largest value counts, whatever kind of record it is in. Records that cannot be read may have said more:
 * the operator may know, and gives an ID that is above all of them. Every sequence begins a new incarnation.
 */
#include "queue/ids.h"
#include "queue/ids_found.h"
#include "queue/ids_record.h"
#include "queue/incarnation.h"
#include "queue/producer.h"
#include "queue/sequence.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct replacing {
	struct ids_found found;
	uint64_t first;   /* of sequences of which nothing is known */
	uint32_t written; /* of found */
	bool begun;
	uint8_t record[PRODUCER_RECORD_BYTES];
};

/* What is malformed says nothing. */
static int salvaged(void *ctx, const struct jrecord *rec)
{
	struct replacing *r = ctx;
	struct span rest = rec->payload;
	struct ids_fact f;

	if (rec->type < IDS_RECORD_OLD_WINDOW || rec->type > IDS_RECORD_STAND)
		return 0;
	while (rest.n != 0 && ids_record_take(&rest, rec->type, &f) && sequence_name_ok(f.name)) {
		struct found_sequence *s;

		if (f.others) {
			r->first = f.value > r->first ? f.value : r->first;
			continue;
		}
		if (ids_found_slot(&r->found, f.name, &s) != 0)
			return -ENOMEM;
		if (f.value > s->position)
			s->position = f.value;
	}
	return 0;
}

/* The next record of the new log: all that is known, in as many CHECKPOINT records as it takes. */
static int fill(void *ctx, uint64_t mark, struct jappend *ret)
{
	struct replacing *r = ctx;
	size_t n = 0;

	if (!r->begun && r->first > 1) {
		struct ids_fact f = {.others = true, .value = r->first, .incarnation = UINT64_MAX};

		n = ids_record_put(r->record, &f);
	}
	r->begun = true;
	while (r->written < r->found.count && n <= sizeof r->record - IDS_RECORD_ENTRY_MAX) {
		const struct found_sequence *s = &r->found.v[r->written++];
		struct ids_fact f = {.name = {(const uint8_t *)s->name, s->name_len},
				     .value = s->position,
				     .incarnation = incarnation_new()};

		n += ids_record_put(r->record + n, &f);
	}
	if (n == 0)
		return 0;
	ret->type = IDS_RECORD_CHECKPOINT;
	ret->mark = mark + 1;
	ret->body = (struct span){r->record, n};
	return 1;
}

int ids_replace(struct journal *j, const struct ids_replace_opts *o, const char **ret_why)
{
	struct replacing *r = calloc(1, sizeof *r);
	struct jlog_opts lo = {.name = IDS_LOG, .segment_bytes = PRODUCER_SEGMENT_BYTES, .opened = fill, .ctx = r};
	struct jlog *log;
	int err;

	*ret_why = "out of memory";
	if (r == NULL)
		return -ENOMEM;
	r->first = o->above + 1;
	err = ids_found_init(&r->found);
	if (err == 0)
		err = journal_log_salvage(j, IDS_LOG, salvaged, r, ret_why);
	for (uint32_t i = 0; i < r->found.count && err == 0; i++)
		if (r->found.v[i].position <= o->above)
			r->found.v[i].position = o->above + 1;
	if (err == 0)
		err = journal_log_replace(j, &lo, o->stamp, o->ret_path, o->path_cap, &log, ret_why);
	for (uint32_t i = 0; i < r->found.count && err == 0; i++) {
		const struct found_sequence *s = &r->found.v[i];

		o->each(o->ctx, (struct span){(const uint8_t *)s->name, s->name_len}, s->position);
	}
	ids_found_done(&r->found);
	free(r);
	return err;
}
