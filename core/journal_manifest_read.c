/* Reading the manifest's file: header, records, and what is damaged. Invariant: what is accepted was written by
 * journal_manifest.c for this journal, and nothing that had been synced is missing. Main thread, while it opens the
 * journal.
 */
#include "core/journal_manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Takes the record at img->n in, if it is the next. 1 taken, 0 none, or -errno with io->why set. */
static int take_record(struct journal *j, struct jio *io, struct manifest_image *img)
{
	struct jf_place place = {.segment = img->generation, .offset = (uint32_t)img->n, .salt = img->salt};
	const uint8_t *p = img->p + img->n;
	char name[JLOG_NAME_MAX + 1];
	struct mentry *e;
	struct jf_record rec;
	uint32_t n;
	int err;

	if (img->n + JF_RECORD_HEADER > img->cap || !jf_record_decode(p, &place, &rec) || rec.seq != img->records + 1 ||
	    img->n + jf_record_size(rec.len) > img->cap ||
	    !jf_payload_is_good(p, &place, (struct span){p + JF_RECORD_HEADER, rec.len}))
		return 0;
	n = rec.len - MANIFEST_BIRTH_BYTES;
	if (rec.kind != JF_USER || rec.type < JF_MANIFEST_ADD || rec.type > JF_MANIFEST_REMOVE ||
	    rec.len < MANIFEST_BIRTH_BYTES || n > JLOG_NAME_MAX)
		return jio_fail(io, -EBADMSG, MANIFEST_FILE, "damaged at byte %zu: written by a newer version", img->n);
	memcpy(name, p + JF_RECORD_HEADER + MANIFEST_BIRTH_BYTES, n);
	name[n] = '\0';
	if (strlen(name) != n || !jlog_name_is_valid(name))
		return jio_fail(io, -EBADMSG, MANIFEST_FILE, "damaged at byte %zu: not a name of a log", img->n);
	e = manifest_find(j, name);
	err = 0;
	if (rec.type == JF_MANIFEST_ADD && e == NULL)
		err = manifest_insert(j, name, n, load_le32(p + JF_RECORD_HEADER));
	else if (rec.type == JF_MANIFEST_ADD)
		e->birth = load_le32(p + JF_RECORD_HEADER);
	else if (rec.type == JF_MANIFEST_REMOVE && e != NULL)
		manifest_erase(j, e);
	if (err != 0)
		return jio_fail(io, err, MANIFEST_FILE, "out of memory");
	img->last = img->n;
	img->n += jf_record_size(rec.len);
	img->records++;
	return 1;
}

/* Whether a record that comes after the last one that was taken is still there: then one between them is damaged. */
static bool is_vouched_for(const struct manifest_image *img)
{
	struct jf_place place = {.segment = img->generation, .salt = img->salt};
	struct jf_record rec;

	for (size_t at = img->n; at + JF_RECORD_HEADER <= img->cap; at += 8) {
		place.offset = (uint32_t)at;
		if (jf_record_decode(img->p + at, &place, &rec) && rec.durable > img->records)
			return true;
	}
	return false;
}

static int read_file(struct jio *io, struct manifest_image *img)
{
	int fd = jio_open(io, MANIFEST_FILE, JD_READ);
	int64_t size;
	ssize_t got;

	if (fd == -ENOENT)
		return jio_fail(io, -EBADMSG, MANIFEST_FILE, "damaged at byte 0: the file is missing");
	if (fd < 0)
		return fd;
	size = jio_size(io, fd, MANIFEST_FILE);
	if (size >= 0 && size < UINT32_MAX)
		img->p = calloc(1, (size_t)size + JF_SECTOR);
	if (img->p == NULL) {
		jio_close(io, &fd);
		return size < 0 ? (int)size : jio_fail(io, -ENOMEM, MANIFEST_FILE, "out of memory");
	}
	got = jio_read(io, fd, MANIFEST_FILE, img->p, (size_t)size, 0);
	jio_close(io, &fd);
	if (got < 0)
		return (int)got;
	img->cap = (size_t)got;
	return 0;
}

static int read_header(struct journal *j, struct jio *io, struct manifest_image *img, struct jf_manifest *ret)
{
	int err = jf_manifest_decode(img->p, ret); /* read_file has left a sector's room at least */

	if (err == -ENOTSUP)
		return jio_fail(io, -EBADMSG, MANIFEST_FILE, "damaged at byte 0: written by a newer version");
	if (err != 0)
		return jio_fail(io, -EBADMSG, MANIFEST_FILE, "damaged at byte 0: the header is not valid");
	if (memcmp(ret->id, j->super.id, sizeof ret->id) != 0)
		return jio_fail(io, -EBADMSG, MANIFEST_FILE,
				"damaged at byte 0: this file or .super is from another data directory");
	if (ret->generation < j->super.manifest)
		return jio_fail(
			io, -EBADMSG, MANIFEST_FILE,
			"damaged at byte 0: this is an older copy of the file (or .super is from a later time)");
	img->generation = ret->generation;
	return 0;
}

int manifest_load(struct journal *j, struct jio *io, struct manifest_image *img, uint64_t *ret_known)
{
	struct jf_manifest head;
	uint64_t known;
	int err = read_file(io, img);

	if (err == 0)
		err = read_header(j, io, img, &head);
	if (err != 0)
		return err;
	img->n = JF_SECTOR;
	do {
		err = take_record(j, io, img);
	} while (err > 0);
	if (err != 0)
		return err;
	known = head.entries;
	if (head.generation == j->super.manifest && j->super.entries > known)
		known = j->super.entries;
	if (img->records < known || is_vouched_for(img))
		return jio_fail(io, -EBADMSG, MANIFEST_FILE,
				"damaged at byte %zu: no valid record here, and it had been synced", img->n);
	*ret_known = known;
	return 0;
}
