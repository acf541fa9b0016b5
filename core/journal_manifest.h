/* What the manifest's two files share. */
#ifndef ORDINAL_CORE_JOURNAL_MANIFEST_H
#define ORDINAL_CORE_JOURNAL_MANIFEST_H

#include "core/journal_internal.h"

#define MANIFEST_FILE ".manifest"
#define MANIFEST_BIRTH_BYTES 4u /* of a record's payload, before the name */

struct mentry {
	const char *name; /* behind the struct, in the same piece of memory */
	uint32_t birth;
	bool seen; /* by the walk that is under way: the folder is there */
	bool open; /* the log is; it stays so until the journal is closed */
};

/* The file as it is being written or read. */
struct manifest_image {
	uint8_t *p;
	size_t n, cap; /* bytes up to the end of the last record; bytes in all */
	size_t last;   /* where the last record begins */
	uint64_t generation, records;
	uint32_t salt;
};

/* ---- journal_manifest.c ---- */

struct mentry *manifest_find(const struct journal *j, const char *name); /* NULL: there is none */
/* 0, -EEXIST or -ENOMEM. */
int manifest_insert(struct journal *j, const char *name, size_t n, uint32_t birth);
void manifest_erase(struct journal *j, struct mentry *e);

/* ---- journal_manifest_read.c ---- */

/* Reads all of the file, and takes the entries in. img->salt is set. *ret_known: so many records at least were synced.
 * 0, or -errno with io->why set; the caller frees img->p in any case. */
int manifest_load(struct journal *j, struct jio *io, struct manifest_image *img, uint64_t *ret_known);

#endif
