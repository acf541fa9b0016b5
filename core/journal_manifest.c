/* The manifest: the list of the logs that must be there, so that a log whose folder is gone is not taken for a new one.
 *
 *   .manifest   a header sector, then records: ADD name, REMOVE name. Each is written behind the last one and synced.
 *               The file is read whole at the opening. When most of it is out of date, a new file takes its place
 *               (.manifest.new, synced, renamed).
 *
 *   a log is made:      folder and files, synced --> ADD, synced --> the log's first append
 *   a log is removed:   REMOVE, synced --> the folder is renamed away
 *
 * Invariants: 1. A log that is named here has a folder with at least one segment. If it has not, somebody else took it
 * away, and the log is refused. 2. A crash between two steps leaves a folder without an entry: the log is entered when
 * it is opened the next time. 3. The superblock says how many records of which generation there were when it was
 * written, the header how many were written with it, and each record that all before it were synced. So only a last
 * record that was not acknowledged can be missing unnoticed. 4. After a sync that failed nothing is written any more.
 *
 * An entry's birth is the journal's epoch when the log was made, or 0 if it is older than the manifest. All segments of
 * the log have that epoch or a higher one, so the files of an earlier log of the same name are told from its own. While
 * a lost log is being replaced its entry's birth is higher than any epoch, so nothing that a crash leaves is taken for it.
 *
 * A data directory that was made before there were manifests gets one at its first opening, with every log that it has.
 *
 * Whoever opens logs, under open_lock; the main thread while it opens the journal.
 */
#include "core/journal_manifest.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST_NEW ".manifest.new"
#define RECORD_MAX (JF_RECORD_HEADER + MANIFEST_BIRTH_BYTES + JLOG_NAME_MAX + 8u)
#define FILL_BYTES (64u << 10) /* zeros are written ahead in such steps: a REMOVE finds room on a full disk, too */
#define STALE_MIN 1024u        /* so many records may be out of date before that is a reason to rewrite */

/* ---- the entries in memory ---- */

static int by_name(const void *a, const void *b)
{
	const struct mentry *x = a, *y = b;

	return strcmp(x->name, y->name);
}

struct mentry *manifest_find(const struct journal *j, const char *name)
{
	struct mentry key = {.name = name};
	void *node = tfind(&key, (void *const *)&j->manifest.root, by_name);

	return node != NULL ? *(struct mentry **)node : NULL;
}

int manifest_insert(struct journal *j, const char *name, size_t n, uint32_t birth)
{
	struct mentry *e = malloc(sizeof *e + n + 1);
	char *copy;

	if (e == NULL)
		return -ENOMEM;
	copy = (char *)(e + 1);
	memcpy(copy, name, n);
	copy[n] = '\0';
	*e = (struct mentry){.name = copy, .birth = birth};
	if (manifest_find(j, copy) != NULL || tsearch(e, &j->manifest.root, by_name) == NULL) {
		bool there = manifest_find(j, copy) != NULL;

		free(e);
		return there ? -EEXIST : -ENOMEM;
	}
	j->manifest.count++;
	return 0;
}

void manifest_erase(struct journal *j, struct mentry *e)
{
	tdelete(e, &j->manifest.root, by_name);
	j->manifest.count--;
	free(e);
}

bool manifest_has(const struct journal *j, const char *name, uint32_t *ret_birth)
{
	const struct mentry *e = manifest_find(j, name);

	if (e != NULL)
		*ret_birth = e->birth;
	return e != NULL;
}

bool manifest_is_open(const struct journal *j, const char *name)
{
	const struct mentry *e = manifest_find(j, name);

	return e != NULL && e->open;
}

void manifest_set_open(struct journal *j, const char *name)
{
	struct mentry *e = manifest_find(j, name);

	if (e != NULL)
		e->open = true;
}

struct visit {
	int (*each)(void *ctx, const char *name);
	void *ctx;
	int err;
	bool unseen; /* only those without a folder */
};

static void visit_node(const void *node, VISIT order, void *arg)
{
	const struct mentry *e = *(struct mentry *const *)node;
	struct visit *v = arg;

	if ((order == postorder || order == leaf) && v->err == 0 && !(v->unseen && e->seen))
		v->err = v->each(v->ctx, e->name);
}

int manifest_each(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx)
{
	struct visit v = {.each = each, .ctx = ctx};

	twalk_r(j->manifest.root, visit_node, &v);
	return v.err;
}

static int unsee(void *ctx, const char *name)
{
	manifest_find(ctx, name)->seen = false;
	return 0;
}

static void see_folder(void *arg, const char *name, bool is_dir)
{
	struct mentry *e = is_dir ? manifest_find(arg, name) : NULL;

	if (e != NULL)
		e->seen = true;
}

int manifest_each_missing(struct journal *j, struct jio *io, int (*each)(void *ctx, const char *name), void *ctx)
{
	struct visit v = {.each = each, .ctx = ctx, .unseen = true};
	int err;

	manifest_each(j, unsee, j);
	err = jio_list(io, "", see_folder, j);
	if (err != 0)
		return err;
	twalk_r(j->manifest.root, visit_node, &v);
	return v.err;
}

void manifest_done(struct journal *j)
{
	tdestroy(j->manifest.root, free);
	j->manifest.root = NULL;
}

/* ---- records ---- */

/* Puts a record at p (RECORD_MAX bytes of room); returns its size. */
static uint32_t put_record(uint8_t *p, const struct journal *j, const struct manifest_image *at, uint32_t type,
			   uint32_t birth, const char *name)
{
	size_t n = strlen(name);
	struct jf_place place = {.segment = at->generation, .offset = (uint32_t)at->n, .salt = at->salt};
	struct jf_record rec = {
		.kind = JF_USER,
		.type = type,
		.seq = at->records + 1,
		.durable = at->records,
		.epoch = j->super.epoch,
		.len = MANIFEST_BIRTH_BYTES + (uint32_t)n,
	};

	store_le32(p + JF_RECORD_HEADER, birth);
	memcpy(p + JF_RECORD_HEADER + MANIFEST_BIRTH_BYTES, name, n);
	jf_record_encode(p, &rec, &place);
	return jf_record_size(rec.len);
}

/* ---- writing ---- */

static int grow(struct manifest_image *img, size_t n)
{
	size_t cap = img->cap > 0 ? img->cap : FILL_BYTES;
	uint8_t *p;

	while (cap < img->n + n)
		cap *= 2;
	if (cap == img->cap)
		return 0;
	p = realloc(img->p, cap);
	if (p == NULL)
		return -ENOMEM;
	img->p = p;
	img->cap = cap;
	return 0;
}

struct rendering {
	const struct journal *j;
	struct manifest_image *img;
};

static int render_entry(void *ctx, const char *name)
{
	struct rendering *r = ctx;
	int err = grow(r->img, RECORD_MAX);

	if (err != 0)
		return err;
	r->img->n += put_record(r->img->p + r->img->n, r->j, r->img, JF_MANIFEST_ADD, manifest_find(r->j, name)->birth,
				name);
	r->img->records++;
	return 0;
}

/* The whole manifest as one file with the given generation, with zeros up to a multiple of FILL_BYTES. */
static int render(struct journal *j, uint64_t generation, struct manifest_image *img, size_t *ret_filled)
{
	struct rendering r = {j, img};
	struct jf_manifest head = {.generation = generation};
	size_t filled;
	int err;

	*img = (struct manifest_image){
		.n = JF_SECTOR, .generation = generation, .salt = jf_salt(j->super.id, MANIFEST_FILE)};
	err = grow(img, 0);
	if (err == 0)
		err = manifest_each(j, render_entry, &r);
	filled = (img->n + RECORD_MAX + FILL_BYTES - 1) / FILL_BYTES * FILL_BYTES;
	if (err == 0)
		err = grow(img, filled - img->n);
	if (err != 0)
		return err;
	memset(img->p + img->n, 0, filled - img->n);
	head.entries = img->records;
	memcpy(head.id, j->super.id, sizeof head.id);
	jf_manifest_encode(img->p, &head);
	*ret_filled = filled;
	return 0;
}

/* A new file takes the place of the old one. */
static int replace(struct journal *j, struct jio *io, const uint8_t *p, size_t n)
{
	int fd, err = jio_unlink(io, MANIFEST_NEW);

	if (err != 0)
		return err;
	fd = jio_open(io, MANIFEST_NEW, JD_CREATE);
	if (fd < 0)
		return fd;
	err = jio_write(io, fd, MANIFEST_NEW, p, n, 0, 0);
	if (err == 0)
		err = jio_sync(io, fd, MANIFEST_NEW);
	jio_close(io, &fd);
	if (err == 0)
		err = jio_rename(io, MANIFEST_NEW, MANIFEST_FILE);
	return err != 0 ? err : jio_sync_dir(io, "");
}

static int rewrite(struct journal *j, struct jio *io)
{
	struct jmanifest *m = &j->manifest;
	struct manifest_image img = {.p = NULL};
	size_t filled = 0;
	uint64_t generation = (m->generation > j->super.manifest ? m->generation : j->super.manifest) + 1;
	int err = render(j, generation, &img, &filled);

	if (err != 0) {
		free(img.p);
		return jio_fail(io, err, MANIFEST_FILE, "out of memory");
	}
	err = replace(j, io, img.p, filled);
	free(img.p);
	if (err != 0)
		return err;
	m->generation = j->super.manifest = generation;
	m->records = j->super.entries = img.records;
	m->tail = img.n;
	m->filled = filled;
	return 0;
}

/* Sees to zeros behind the next record as well. Without them a record can still be written where there is room. */
static int fill_ahead(struct jmanifest *m, struct jio *io, int fd, size_t n)
{
	static const uint8_t zeros[FILL_BYTES];
	int err;

	if (m->tail + n + RECORD_MAX <= m->filled)
		return 0;
	err = jio_write(io, fd, MANIFEST_FILE, zeros, sizeof zeros, m->filled, 0);
	if (err == 0)
		m->filled += sizeof zeros;
	return m->tail + n <= m->filled ? 0 : err;
}

static int append(struct journal *j, struct jio *io, enum jf_manifest_type type, uint32_t birth, const char *name)
{
	struct jmanifest *m = &j->manifest;
	struct manifest_image at = {.n = m->tail,
				    .generation = m->generation,
				    .records = m->records,
				    .salt = jf_salt(j->super.id, MANIFEST_FILE)};
	uint8_t record[RECORD_MAX];
	uint32_t n = put_record(record, j, &at, type, birth, name);
	int fd = jio_open(io, MANIFEST_FILE, 0);
	int err;

	if (fd < 0)
		return fd;
	err = fill_ahead(m, io, fd, n);
	if (err == 0)
		err = jio_write(io, fd, MANIFEST_FILE, record, n, m->tail, 0);
	if (err == 0)
		err = jio_sync(io, fd, MANIFEST_FILE);
	jio_close(io, &fd);
	if (err != 0)
		return err;
	m->tail += n;
	m->records = ++j->super.entries;
	return 0;
}

/* Writes the change; or, where most of the file is out of date or there is none yet, a new file that has it. */
static int change(struct journal *j, struct jio *io, enum jf_manifest_type type, uint32_t birth, const char *name)
{
	struct jmanifest *m = &j->manifest;
	int err;

	if (m->failed != 0)
		return jio_fail(io, m->failed, MANIFEST_FILE,
				"a write or a sync of this file has failed before; it is not tried again");
	if (j->super.manifest != 0 && m->records <= 2 * m->count + STALE_MIN) {
		err = append(j, io, type, birth, name);
	} else {
		err = rewrite(j, io);
		if (err == 0)
			err = journal_write_super(j, io);
	}
	if (err != 0 && !jio_is_shortage(io, err))
		m->failed = err;
	return err;
}

int manifest_add(struct journal *j, struct jio *io, const char *name, uint32_t birth)
{
	struct mentry *e = manifest_find(j, name);
	uint32_t before = e != NULL ? e->birth : 0;
	bool is_new = e == NULL;
	int err;

	if (!is_new && before == birth)
		return 0;
	if (is_new && manifest_insert(j, name, strlen(name), birth) != 0)
		return jio_fail(io, -ENOMEM, MANIFEST_FILE, "out of memory");
	e = manifest_find(j, name);
	e->birth = birth;
	err = change(j, io, JF_MANIFEST_ADD, birth, name);
	if (err != 0 && is_new)
		manifest_erase(j, e);
	else if (err != 0)
		e->birth = before;
	return err;
}

int manifest_remove(struct journal *j, struct jio *io, const char *name)
{
	struct mentry *e = manifest_find(j, name);
	uint32_t birth;
	int err;

	if (e == NULL)
		return 0;
	birth = e->birth;
	manifest_erase(j, e);
	err = change(j, io, JF_MANIFEST_REMOVE, birth, name);
	if (err != 0 && manifest_insert(j, name, strlen(name), birth) != 0)
		j->manifest.failed = err;
	return err;
}

/* ---- opening ---- */

struct upgrade {
	struct journal *j;
	struct jio *io;
	int err;
	bool has_segment; /* of the folder that is being listed */
};

static void see_file(void *arg, const char *name, bool is_dir)
{
	struct upgrade *u = arg;
	uint64_t number;

	u->has_segment = u->has_segment || (!is_dir && jlog_parse_number(name, &number));
}

/* Enters the log, unless its making was never finished. */
static void see_log(void *arg, const char *name, bool is_dir)
{
	struct upgrade *u = arg;

	if (u->err != 0 || !is_dir || !jlog_name_is_valid(name))
		return;
	u->has_segment = false;
	u->err = jio_list(u->io, name, see_file, u);
	if (u->err == 0 && u->has_segment && manifest_insert(u->j, name, strlen(name), 0) == -ENOMEM)
		u->err = jio_fail(u->io, -ENOMEM, MANIFEST_FILE, "out of memory");
}

/* Every log that is there; and the one that comes before all others, if there are others. */
static int enter_all(struct journal *j, struct jio *io)
{
	struct upgrade u = {.j = j, .io = io};
	const char *first = j->opts.first_log;
	int err = jio_list(io, "", see_log, &u);

	if (err == 0)
		err = u.err;
	if (err == 0 && first != NULL && j->manifest.count > 0 &&
	    manifest_insert(j, first, strlen(first), 0) == -ENOMEM)
		err = jio_fail(io, -ENOMEM, MANIFEST_FILE, "out of memory");
	return err;
}

static int begin(struct journal *j, struct jio *io)
{
	int err = enter_all(j, io);

	if (err != 0 || j->opts.mode == JOURNAL_CHECK)
		return err;
	err = rewrite(j, io);
	/* On a full disk the manifest has to wait; logs that are made until then are refused for the same reason. */
	return err != 0 && jio_is_shortage(io, err) && j->super.manifest == 0 ? 0 : err;
}

/* The last record may have been read from memory only, from before a crash: it counts once it is written and synced. */
static int go_on(struct journal *j, struct jio *io, const struct manifest_image *img, uint64_t known)
{
	struct jmanifest *m = &j->manifest;
	int err = 0;

	if (img->records > known) {
		int fd = jio_open(io, MANIFEST_FILE, 0);

		if (fd < 0)
			return fd;
		err = jio_write(io, fd, MANIFEST_FILE, img->p + img->last, img->n - img->last, img->last, 0);
		if (err == 0)
			err = jio_sync(io, fd, MANIFEST_FILE);
		jio_close(io, &fd);
	}
	m->generation = j->super.manifest = img->generation;
	m->records = j->super.entries = img->records;
	m->tail = img->n;
	m->filled = img->cap > img->n ? img->cap : img->n;
	return err;
}

int manifest_open(struct journal *j, struct jio *io)
{
	struct manifest_image img = {.salt = jf_salt(j->super.id, MANIFEST_FILE)};
	uint64_t known = 0;
	int err;

	if (j->super.manifest == 0 || j->opts.new_manifest)
		return begin(j, io);
	err = manifest_load(j, io, &img, &known);
	if (err == 0 && j->opts.mode != JOURNAL_CHECK)
		err = go_on(j, io, &img, known);
	free(img.p);
	return err;
}
