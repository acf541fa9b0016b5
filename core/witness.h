/* The witness: a small file outside of the data directory that remembers which journal is there. A mount that is missing, or a wrong DATA_DIR, looks
 * like the first start ever, and IDs would begin at 1 again; the witness tells the two apart.
 *
 * One line, "ordinal journal ID", ID the journal's in hexadecimal. Main thread, at start. Blocks.
 */
#ifndef ORDINAL_CORE_WITNESS_H
#define ORDINAL_CORE_WITNESS_H

#include "core/journal.h"

#include <limits.h>

struct witness {
	char path[PATH_MAX]; /* "": there is none */
	bool knows;          /* a journal: `id` */
	uint8_t id[JOURNAL_ID_BYTES];
};

/* Finds and reads it. `path`: of the file; "": none; "auto": the file "journal" in the last directory of $STATE_DIRECTORY (as systemd sets it) that
 * neither is data_dir, nor lies in it, nor has it inside; none without such a directory. A file that is not there yet knows nothing. 0; -EBADMSG: it
 * holds something else; other -errno of reading. `*ret_why` is then a sentence for people, valid until the next call of this module. */
int witness_read(const char *path, const char *data_dir, struct witness *ret, const char **ret_why);
/* Writes it, synced. 0, or -errno; *ret_sync_failed: a sync failed, so that nobody knows what the disk holds. */
int witness_write(const struct witness *w, bool *ret_sync_failed);
/* The sentence for a data directory that holds another journal than the witness knows, or none: `found` is journal_open's. */
const char *witness_refusal(const struct witness *w, const char *data_dir, const char *found);

#endif
