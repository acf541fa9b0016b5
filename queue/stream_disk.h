/* Frames from segment files: what the reader thread keeps while it reads. One thread.
 *
 * Everything that is handed out has passed a check: whole records the journal's CRC, single frames their own. */
#ifndef ORDINAL_QUEUE_STREAM_DISK_H
#define ORDINAL_QUEUE_STREAM_DISK_H

#include "queue/stream_impl.h"

#define DISK_WINDOWS 32u
#define DISK_WINDOWS_BYTES (16u << 20) /* of all windows: at least twice the largest */
#define DISK_READ_MAX                                                                                                  \
	(JOURNAL_RECORD_MAX + (64u << 10)) /* bytes of a window: of the largest record with what belongs to it */
#define DISK_PLACES 16u
#define DISK_HEADS 4096u /* a power of two */

/* Part of a file, as it was read. */
struct disk_window {
	struct jlog *log; /* NULL: free */
	uint64_t segment, used;
	uint32_t at; /* byte in the file */
	struct stream_buf *buf;
};

/* A record that was read and checked. */
struct disk_place {
	struct jlog *log; /* NULL: free */
	uint64_t where, next_where, used;
	uint64_t pos, end, first_offset; /* of its frames */
	const uint8_t *frames;
	struct stream_buf *buf; /* held */
};

/* What a record's head says; not checked, so only good for finding frames that are checked themselves. */
struct disk_head {
	struct jlog *log;
	uint64_t where, at;            /* asked for; found */
	uint64_t pos, end, next_where; /* end 0: a record without frames */
	uint32_t frames;               /* bytes before them, the journal's header included */
};

struct disk {
	struct disk_window window[DISK_WINDOWS];
	struct disk_place place[DISK_PLACES];
	struct disk_head head[DISK_HEADS];
	uint64_t uses, window_bytes;
	uint8_t *frame;
	uint32_t frame_cap;
	char why[320]; /* of the last failure */
};

/* A zero-filled one is ready for use. */
void disk_done(struct disk *d);

/* The first record at or after `where` (a record's, at or before the one that holds pos; 0: the oldest) that ends above pos. Valid until the next call but one.
 * 0; -ENOENT: trimmed; -ENODATA: none yet; -EBADMSG damaged; other -errno. */
int disk_seek(struct disk *d, struct jlog *log, uint64_t pos, uint64_t where, const struct disk_place **ret);
/* The record after this one. As disk_seek. */
int disk_next(struct disk *d, const struct disk_place *p, const struct disk_place **ret);
/* One frame by itself, without reading all of its record. Valid until the next call of this. As disk_seek. */
int disk_frame(struct disk *d, struct jlog *log, const struct late_ref *ref, struct span *ret);

#endif
