/* The journal as its users hold it: opening and closing, the superblock, ports, and the thread.
 *
 *   journal_open --> journal_log_open, journal_port_new --> journal_start --> (appends) --> journal_close
 *                        ^ also later, from any thread, under open_lock
 *
 * The thread's life:  turn: gather, commit, look after one log  --nothing to do-->  arm, look once more, sleep
 *                      |  ^                                                          |  | idle: note the ends
 *                      |  +----------------------------- rung ----------------------+  |
 *                      +--> a write or a sync failed: journal_fail, end                 +--> stop and nothing left: end
 *
 * Invariants: the superblock's epoch is raised and synced before a record of this opening is written; it says "clean"
 * only after every log's end was synced and noted. After journal_fail nothing is written or published any more.
 */
#include "core/journal_internal.h"

#include "core/base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUPER_FILE ".super"
#define SUPER_NEW ".super.new"
#define SUPER_BYTES (2 * JF_BLOCK)
#define LOCK_FILE ".lock"
#define LOCK_WAIT_NS (2 * NS_PER_S)
#define GROUP_DEFAULT (1u << 20)
#define IDLE_DEFAULT_MS 200u
#define RETRY_DEFAULT_MS 1000u

const char *journal_say(const struct jio *io)
{
	static _Thread_local char text[sizeof io->why];

	memcpy(text, io->why, sizeof text);
	return text;
}

/* ---- superblock ---- */

int journal_write_super(struct journal *j, struct jio *io)
{
	uint8_t sector[JF_SECTOR];
	int fd = jio_open(io, SUPER_FILE, 0);
	int err;

	if (fd < 0)
		return fd;
	j->super.generation++;
	jf_super_encode(sector, &j->super);
	err = jio_write(io, fd, SUPER_FILE, sector, sizeof sector, (j->super.generation & 1) * JF_BLOCK, 0);
	if (err == 0)
		err = jio_sync(io, fd, SUPER_FILE);
	jio_close(io, &fd);
	return err;
}

int journal_raise_epoch(struct journal *j, struct jio *io, uint32_t seen)
{
	if (seen >= UINT32_MAX - 1)
		return jio_fail(io, -EOVERFLOW, SUPER_FILE, "epochs are used up");
	if (seen >= j->super.epoch)
		j->super.epoch = seen + 1;
	j->super.flags = 0;
	return journal_write_super(j, io);
}

static int super_create(struct journal *j, struct jio *io)
{
	uint8_t blocks[SUPER_BYTES] = {0};
	int err = j->disk.random(j->disk.ctx, j->super.id, sizeof j->super.id);
	int fd;

	if (err != 0)
		return jio_fail(io, err, SUPER_FILE, "no random bytes");
	j->super.flags = JF_SUPER_CLEAN;
	jf_super_encode(blocks, &j->super);
	fd = jio_open(io, SUPER_NEW, JD_CREATE);
	if (fd < 0)
		return fd;
	err = jio_write(io, fd, SUPER_NEW, blocks, sizeof blocks, 0, 0);
	if (err == 0)
		err = jio_sync(io, fd, SUPER_NEW);
	jio_close(io, &fd);
	if (err == 0)
		err = jio_rename(io, SUPER_NEW, SUPER_FILE);
	return err != 0 ? err : jio_sync_dir(io, "");
}

static int super_read(struct journal *j, struct jio *io)
{
	uint8_t blocks[SUPER_BYTES] = {0};
	struct jf_super slot;
	bool found = false, newer = false;
	int fd = jio_open(io, SUPER_FILE, JD_READ);
	ssize_t got;

	if (fd < 0)
		return fd;
	got = jio_read(io, fd, SUPER_FILE, blocks, sizeof blocks, 0);
	jio_close(io, &fd);
	if (got < 0)
		return (int)got;
	for (int i = 0; i < 2; i++) {
		int err = jf_super_decode(blocks + i * JF_BLOCK, &slot);

		newer = newer || err == -ENOTSUP;
		if (err != 0 || (found && slot.generation < j->super.generation))
			continue;
		j->super = slot;
		found = true;
	}
	if (newer)
		return jio_fail(io, -EBADMSG, SUPER_FILE, "damaged at byte 0: written by a newer version");
	if (!found)
		return jio_fail(io, -EBADMSG, SUPER_FILE, "damaged at byte 0: neither slot is valid");
	return 0;
}

bool jlog_name_is_valid(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > JLOG_NAME_MAX || name[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isascii(name[i]) || (!isalnum((unsigned char)name[i]) && strchr("._-", name[i]) == NULL))
			return false;
	return true;
}

bool jlog_is_first(const struct jlog *log)
{
	return log->j->opts.first_log != NULL && strcmp(log->name, log->j->opts.first_log) == 0;
}

struct root {
	bool has_super, has_manifest, has_removed, has_logs;
};

static void see_root(void *arg, const char *name, bool is_dir)
{
	struct root *r = arg;

	if (strcmp(name, SUPER_FILE) == 0)
		r->has_super = true;
	else if (strcmp(name, ".manifest") == 0)
		r->has_manifest = true;
	else if (strcmp(name, ".removed") == 0)
		r->has_removed = is_dir;
	else if (is_dir && jlog_name_is_valid(name))
		r->has_logs = true;
}

/* What is there is not what the opener expects. */
static int super_unexpected(const struct journal *j, struct jio *io, bool found)
{
	size_t n = (size_t)snprintf(io->why, sizeof io->why, found ? "journal " : "no journal");

	for (size_t i = 0; found && i < sizeof j->super.id; i++)
		n += (size_t)snprintf(io->why + n, sizeof io->why - n, "%02x", j->super.id[i]);
	return -ESTALE;
}

/* There is no superblock: that of a new journal, or one is lost. */
static int super_missing(struct journal *j, struct jio *io, const struct root *root)
{
	if (root->has_logs || root->has_manifest)
		return jio_fail(io, -EBADMSG, SUPER_FILE, "damaged at byte 0: the file is missing, yet there %s",
				root->has_logs ? "are logs" : "is a manifest of logs");
	if (j->opts.expected != NULL)
		return super_unexpected(j, io, false);
	if (j->opts.mode != JOURNAL_SERVE)
		return jio_fail(io, -ENOENT, SUPER_FILE, "there is no journal here");
	return super_create(j, io);
}

static int super_open(struct journal *j, struct jio *io)
{
	struct root root = {0};
	int err = jio_list(io, "", see_root, &root);

	if (err != 0)
		return err;
	err = root.has_super ? super_read(j, io) : super_missing(j, io, &root);
	if (err == 0 && j->opts.expected != NULL && memcmp(j->opts.expected, j->super.id, sizeof j->super.id) != 0)
		err = super_unexpected(j, io, true);
	if (err != 0)
		return err;
	j->was_clean = j->super.flags & JF_SUPER_CLEAN;
	j->boot = j->disk.boot(j->disk.ctx);
	err = manifest_open(j, io);
	if (err != 0 || j->opts.mode == JOURNAL_CHECK)
		return err;
	if (root.has_removed)
		journal_sweep_removed(j);
	return journal_raise_epoch(j, io, j->super.epoch);
}

/* ---- opening ---- */

static int alloc_journal(const struct journal_opts *opts, struct journal **ret)
{
	struct journal *j = aligned_alloc(CACHE_LINE, (sizeof *j + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1));
	int err;

	if (j == NULL)
		return -ENOMEM;
	memset(j, 0, sizeof *j);
	j->opts = *opts;
	j->lock_fd = -1;
	if (j->opts.group_max == 0)
		j->opts.group_max = GROUP_DEFAULT;
	if (j->opts.idle_note_ms == 0)
		j->opts.idle_note_ms = IDLE_DEFAULT_MS;
	if (j->opts.retry_ms == 0)
		j->opts.retry_ms = RETRY_DEFAULT_MS;
	j->later_last = &j->later;
	j->entries = malloc(JGROUP_RECORDS_MAX * sizeof *j->entries);
	err = j->entries == NULL ? -ENOMEM : jfiles_init(&j->files, opts->files_max);
	if (err == 0)
		err = doorbell_init(&j->bell);
	if (err != 0) {
		jfiles_done(&j->files);
		free(j->entries);
		free(j);
		return err;
	}
	pthread_mutex_init(&j->open_lock, NULL);
	hist_init(&j->stats.sync_ns);
	hist_init(&j->stats.group_records);
	*ret = j;
	return 0;
}

static void free_journal(struct journal *j)
{
	unsigned nports = atomic_load_explicit(&j->nports, memory_order_relaxed);

	for (unsigned i = 0; i < nports; i++) {
		struct jrequest req;

		while (spsc_pop(&j->ports[i]->q, &req)) /* after a failure */
			jrequest_done(&req);
		spsc_done(&j->ports[i]->q);
		free(j->ports[i]);
	}
	manifest_done(j);
	if (j->lock_fd >= 0)
		j->disk.close(j->disk.ctx, j->lock_fd);
	if (j->own_disk.ctx != NULL)
		journal_disk_close(&j->own_disk);
	doorbell_done(&j->bell);
	pthread_mutex_destroy(&j->open_lock);
	jfiles_done(&j->files);
	jbuf_free(j->buf);
	jbuf_free(atomic_load_explicit(&j->grown, memory_order_acquire));
	free(j->entries);
	free(j);
}

static int open_disk(struct journal *j, struct jio *io)
{
	int err;

	if (j->opts.disk != NULL) {
		j->disk = *j->opts.disk;
		return 0;
	}
	err = journal_disk_open(j->opts.dir, j->opts.mode == JOURNAL_SERVE, &j->own_disk);
	if (err != 0)
		snprintf(io->why, sizeof io->why, "cannot open the directory %s: %s", j->opts.dir,
			 strerrordesc_np(-err));
	else
		j->disk = j->own_disk;
	return err;
}

static int take_lock(struct journal *j, struct jio *io)
{
	bool shared = j->opts.mode == JOURNAL_CHECK;
	struct root root = {0};
	int fd, err = j->opts.mode == JOURNAL_REPAIR ? jio_list(io, "", see_root, &root) : 0;

	if (err == 0 && j->opts.mode == JOURNAL_REPAIR && !root.has_super)
		err = super_missing(j, io, &root); /* no lock is made where there is no journal */
	if (err != 0)
		return err;
	fd = j->disk.lock(j->disk.ctx, LOCK_FILE, LOCK_WAIT_NS, shared);
	if (fd == -EBUSY)
		return jio_fail(io, -EBUSY, LOCK_FILE, "another process has this data directory");
	if (fd < 0 && !(fd == -ENOENT && shared)) /* nothing is made only to look at what is there */
		return jio_fail(io, fd, LOCK_FILE, "cannot lock: %s", strerrordesc_np(-fd));
	j->lock_fd = fd;
	return 0;
}

static int open_journal(struct journal *j, struct jio *io)
{
	int err = open_disk(j, io);

	if (err != 0)
		return err;
	err = take_lock(j, io);
	if (err == 0)
		err = super_open(j, io);
	if (err != 0)
		return err;
	j->method = j->opts.method;
	if (j->method == JOURNAL_AUTO && j->opts.mode == JOURNAL_SERVE)
		err = journal_probe(io, &j->method);
	j->stats.method = journal_method_name(j->method);
	return err;
}

int journal_open(const struct journal_opts *opts, struct journal **ret, const char **ret_why)
{
	struct jio io = {.why = "out of memory"};
	struct journal *j;
	int err = alloc_journal(opts, &j);

	if (err == 0) {
		io.d = j->io.d = &j->disk;
		err = open_journal(j, &io);
		if (err != 0)
			free_journal(j);
	}
	if (err != 0) {
		if (ret_why != NULL)
			*ret_why = journal_say(&io);
		return err;
	}
	*ret = j;
	return 0;
}

const uint8_t *journal_id(const struct journal *j)
{
	return j->super.id;
}

_Static_assert(JOURNAL_ID_BYTES == JF_ID_BYTES, "one size of a journal's name");

bool journal_was_clean(const struct journal *j)
{
	return j->was_clean;
}

uint64_t journal_boot(const struct journal *j)
{
	return j->boot;
}

struct walk {
	int (*each)(void *ctx, const char *name);
	void *ctx;
	int err;
};

static void see_log(void *arg, const char *name, bool is_dir)
{
	struct walk *w = arg;

	if (w->err == 0 && is_dir && jlog_name_is_valid(name))
		w->err = w->each(w->ctx, name);
}

int journal_each_log(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx)
{
	struct walk w = {.each = each, .ctx = ctx};
	int err = j->disk.list(j->disk.ctx, "", see_log, &w);

	return err != 0 ? err : w.err;
}

int journal_each_missing(struct journal *j, int (*each)(void *ctx, const char *name), void *ctx)
{
	struct jio io = {.d = &j->disk};
	int err;

	pthread_mutex_lock(&j->open_lock);
	err = manifest_each_missing(j, &io, each, ctx);
	pthread_mutex_unlock(&j->open_lock);
	return err;
}

/* ---- logs and ports ---- */

static void free_log(struct jlog *log)
{
	struct jio io = {.d = &log->j->disk};

	jfiles_close_log(log, &io);
	jlog_seg_free_all(log);
	pthread_mutex_destroy(&log->lock);
	free(log->why);
	free(log);
}

static struct jlog *alloc_log(struct journal *j, const struct jlog_opts *opts)
{
	size_t name = strlen(opts->name) + 1;
	size_t size = (sizeof(struct jlog) + name + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
	struct jlog *log = aligned_alloc(CACHE_LINE, size);

	if (log == NULL)
		return NULL;
	memset(log, 0, size);
	log->j = j;
	log->wfd = log->dfd = -1;
	log->durability = opts->durability;
	log->small = opts->small;
	log->direct = j->method == JOURNAL_DIRECT && opts->durability == JLOG_FSYNC;
	log->segment_bytes = (opts->segment_bytes + JF_BLOCK - 1) & ~(JF_BLOCK - 1);
	log->epoch = j->super.epoch;
	log->salt = jf_salt(j->super.id, opts->name);
	log->must_exist = manifest_has(j, opts->name, &log->birth) && !j->replacing;
	memcpy(log->name, opts->name, name);
	pthread_mutex_init(&log->lock, NULL);
	return log;
}

/* Leaves the journal thread a buffer that this log's part of a group fits into. Under open_lock. */
static int grow_buf(struct journal *j, const struct jlog *log)
{
	/* a group's bytes, its last record, what the log adds for itself, and blocks around them */
	size_t cap = ((size_t)j->opts.group_max + jlog_record_max(log) + 16 * JF_BLOCK) & ~(size_t)(JF_BLOCK - 1);
	struct jbuf *b;

	if (cap <= j->buf_cap)
		return 0;
	b = malloc(sizeof *b);
	if (b == NULL)
		return -ENOMEM;
	b->cap = cap;
	b->p = aligned_alloc(JF_BLOCK, cap);
	if (b->p == NULL) {
		free(b);
		return -ENOMEM;
	}
	j->buf_cap = cap;
	jbuf_free(atomic_exchange_explicit(&j->grown, b, memory_order_acq_rel)); /* pairs with take_grown */
	return 0;
}

int journal_open_log(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, struct jio *io)
{
	struct jlog *log;
	int err;

	if (!jlog_name_is_valid(opts->name))
		return jio_fail(io, -EINVAL, "", "not a name for a log: \"%.64s\"", opts->name);
	if (opts->segment_bytes < JOURNAL_SEGMENT_MIN || opts->segment_bytes > JOURNAL_SEGMENT_MAX)
		return jio_fail(io, -EINVAL, opts->name, "segments of %u bytes: not within %u to %u",
				opts->segment_bytes, JOURNAL_SEGMENT_MIN, JOURNAL_SEGMENT_MAX);
	if (manifest_is_open(j, opts->name))
		return jio_fail(io, -EEXIST, opts->name, "this log is open already");
	log = alloc_log(j, opts);
	if (log == NULL)
		return jio_fail(io, -ENOMEM, opts->name, "out of memory");
	err = grow_buf(j, log);
	err = err != 0 ? jio_fail(io, err, opts->name, "out of memory") : jlog_recover(log, io, opts);
	if (err != 0) {
		journal_count(&j->stats.segments, -(int64_t)log->nsegs);
		free_log(log);
		return err;
	}
	manifest_set_open(j, log->name);
	log->opened_next = j->opened;
	j->opened = log;
	*ret = log;
	return 0;
}

int journal_log_open(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, const char **ret_why)
{
	struct jio io = {.d = &j->disk};
	int err;

	pthread_mutex_lock(&j->open_lock);
	err = atomic_load_explicit(&j->failed, memory_order_acquire); /* pairs with journal_fail */
	if (err != 0)
		jio_fail(&io, err, opts->name, "not opened: the journal has failed");
	else
		err = journal_open_log(j, opts, ret, &io);
	if (io.sync_failed)
		journal_fail(j, err, io.why);
	pthread_mutex_unlock(&j->open_lock);
	if (err != 0 && ret_why != NULL)
		*ret_why = journal_say(&io);
	return err;
}

int journal_port_new(struct journal *j, struct doorbell *bell, uint32_t depth, struct journal_port **ret)
{
	struct journal_port *p = aligned_alloc(CACHE_LINE, (sizeof *p + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1));
	unsigned n;
	int err;

	if (p == NULL)
		return -ENOMEM;
	p->bell = bell;
	p->touched = false;
	err = spsc_init(&p->q, depth, sizeof(struct jrequest));
	if (err != 0)
		goto out_free;
	pthread_mutex_lock(&j->open_lock);
	n = atomic_load_explicit(&j->nports, memory_order_relaxed);
	err = n < JOURNAL_PORTS_MAX ? 0 : -ENOSPC;
	if (err == 0) {
		j->ports[n] = p;
		atomic_store_explicit(&j->nports, n + 1, memory_order_release); /* pairs with journal_gather */
		*ret = p;
	}
	pthread_mutex_unlock(&j->open_lock);
	if (err == 0)
		return 0;
	spsc_done(&p->q);
out_free:
	free(p);
	return err;
}

bool journal_appendv(struct journal_port *p, const struct jappend *a)
{
	struct jrequest req = {
		.log = a->log,
		.op = JOP_APPEND,
		.type = a->type,
		.mark = a->mark,
		.head = a->head,
		.body = a->body,
		.where = a->where,
		.state = (uint8_t)a->state,
		.owned = a->owned,
	};

	CHECK(!a->owned || (a->head.n == 0 && a->where == NULL));
	CHECK(a->head.n <= JOURNAL_RECORD_MAX && a->body.n <= JOURNAL_RECORD_MAX);
	CHECK(a->head.n + a->body.n <= jlog_record_max(a->log));
	if (!spsc_push(&p->q, &req))
		return false;
	doorbell_ring(&a->log->j->bell);
	return true;
}

bool journal_trim(struct journal_port *p, struct jlog *log, uint64_t mark)
{
	struct jrequest req = {.log = log, .op = JOP_TRIM, .mark = mark};

	if (!spsc_push(&p->q, &req))
		return false;
	doorbell_ring(&log->j->bell);
	return true;
}

uint32_t journal_port_waiting(const struct journal_port *p)
{
	return spsc_count(&p->q);
}

bool journal_has_failed(const struct journal *j)
{
	return atomic_load_explicit(&j->failed, memory_order_acquire) != 0; /* pairs with journal_fail */
}

enum journal_room journal_room(const struct journal *j)
{
	return (enum journal_room)atomic_load_explicit(&j->room, memory_order_relaxed);
}

const struct journal_stats *journal_stats(const struct journal *j)
{
	return &j->stats;
}

/* ---- the thread ---- */

int journal_fail(struct journal *j, int err, const char *what)
{
	unsigned nports = atomic_load_explicit(&j->nports, memory_order_acquire);
	int none = 0;

	/* pairs with journal_has_failed */
	if (!atomic_compare_exchange_strong_explicit(&j->failed, &none, err, memory_order_acq_rel,
						     memory_order_relaxed))
		return err;
	if (j->opts.failed != NULL)
		j->opts.failed(j->opts.ctx, err, what);
	for (unsigned i = 0; i < nports; i++)
		doorbell_ring(j->ports[i]->bell);
	doorbell_ring(&j->bell);
	return err;
}

static void set_room(struct journal *j, enum journal_room room, int err)
{
	if ((int)room == atomic_load_explicit(&j->room, memory_order_relaxed))
		return;
	atomic_store_explicit(&j->room, (int)room, memory_order_relaxed);
	if (j->opts.room_changed != NULL)
		j->opts.room_changed(j->opts.ctx, room, err, err != 0 ? j->io.why : "");
}

/* What is only done ahead of need waits a while, for this log and for those that wait already. */
static void put_off(struct journal *j, struct jlog *log)
{
	j->later_ns = clock_mono_ns() + j->opts.retry_ms * NS_PER_MS;
	if (log->in_later)
		return;
	log->in_later = true;
	log->later_next = NULL;
	*j->later_last = log;
	j->later_last = &log->later_next;
}

/* Takes the log that has waited longest back among those that are looked after, when its time has come. */
static void recall(struct journal *j)
{
	struct jlog *log = j->later;

	if (log == NULL || clock_mono_ns() < j->later_ns)
		return;
	j->later = log->later_next;
	if (j->later == NULL)
		j->later_last = &j->later;
	log->in_later = false;
	if (log->in_work)
		return;
	log->in_work = true;
	log->work_next = j->work;
	j->work = log;
}

/* Looks after one log. 0 or -errno with j->io.why set. */
static int look_after(struct journal *j, bool *ret_worked)
{
	struct jlog *log = j->work;
	bool worked = false;
	int err;

	j->work = log->work_next;
	log->in_work = false;
	err = jlog_blame(log, &j->io, jlog_maintain(log, &j->io, &worked));
	if (err == JLOG_E_LOST)
		err = 0;
	if (err != 0 && jio_is_shortage(&j->io, err)) {
		put_off(j, log);
		set_room(j, JOURNAL_ROOM_TIGHT, err);
		err = 0;
	}
	if (worked) {
		log->in_work = true;
		log->work_next = j->work;
		j->work = log;
	}
	*ret_worked = *ret_worked || worked || j->work != NULL;
	return err;
}

static int turn(struct journal *j, bool *ret_worked)
{
	int err = atomic_load_explicit(&j->failed, memory_order_acquire);

	*ret_worked = false;
	if (err != 0)
		return err;
	if (journal_gather(j)) {
		*ret_worked = true;
		err = journal_commit(j);
		for (uint32_t i = 0; i < j->nentries && err != 0; i++)
			jrequest_done(&j->entries[i].req);
		if (err != 0)
			return journal_fail(j, err, j->io.why);
	}
	recall(j);
	if (j->work != NULL) {
		err = look_after(j, ret_worked);
		if (err != 0)
			return journal_fail(j, err, j->io.why);
	}
	if (j->work == NULL && j->later == NULL && j->note_retry_ns == 0)
		set_room(j, JOURNAL_ROOM_AMPLE, 0);
	return 0;
}

int journal_turn(struct journal *j, bool *ret_worked)
{
	j->used = true;
	return turn(j, ret_worked);
}

int journal_note_idle(struct journal *j)
{
	while (j->unnoted != NULL) {
		struct jlog *log = j->unnoted;
		int err = jlog_blame(log, &j->io, jlog_note(log, &j->io));

		if (err != 0 && jio_is_shortage(&j->io, err)) {
			j->note_retry_ns = clock_mono_ns() + j->opts.retry_ms * NS_PER_MS;
			set_room(j, JOURNAL_ROOM_TIGHT, err);
			return 0;
		}
		if (err < 0)
			return journal_fail(j, err, j->io.why);
		j->unnoted = log->unnoted_next;
		log->in_unnoted = false;
	}
	j->note_retry_ns = 0;
	return 0;
}

static bool has_requests(const struct journal *j)
{
	unsigned nports = atomic_load_explicit(&j->nports, memory_order_acquire);

	for (unsigned i = 0; i < nports; i++)
		if (spsc_count(&j->ports[i]->q) > 0)
			return true;
	return false;
}

/* How long there is nothing to do but what the bell brings. */
static uint64_t rest_ns(const struct journal *j, bool noting)
{
	uint64_t now = clock_mono_ns(), due = UINT64_MAX;

	if (noting)
		due = now + j->opts.idle_note_ms * NS_PER_MS;
	if (noting && j->note_retry_ns > due)
		due = j->note_retry_ns;
	if (j->later != NULL && j->later_ns < due)
		due = j->later_ns;
	return due == UINT64_MAX ? due : due > now ? due - now : 0;
}

/* Sleeps until there is something to do. 0 or -errno after journal_fail. */
static int rest(struct journal *j)
{
	bool noting = j->unnoted != NULL && j->opts.idle_note_ms != UINT32_MAX;

	doorbell_arm(&j->bell);
	if (has_requests(j) || atomic_load_explicit(&j->stop, memory_order_acquire) || journal_has_failed(j)) {
		doorbell_disarm(&j->bell);
		return 0;
	}
	if (!doorbell_wait(&j->bell, rest_ns(j, noting)) && noting && clock_mono_ns() >= j->note_retry_ns)
		return journal_note_idle(j);
	return 0;
}

static void *run(void *arg)
{
	struct journal *j = arg;
	int err = 0;

	while (err == 0) {
		bool stopping = atomic_load_explicit(&j->stop, memory_order_acquire); /* pairs with journal_close */
		bool worked;

		err = journal_turn(j, &worked);
		if (err != 0 || worked)
			continue;
		if (stopping)
			break;
		err = rest(j);
	}
	return NULL;
}

int journal_start(struct journal *j)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits it: signals are the main thread's */
	err = pthread_create(&j->thread, NULL, run, j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err != 0)
		return -err;
	pthread_setname_np(j->thread, "journal");
	j->started = true;
	return 0;
}

int journal_pin(struct journal *j, int cpu)
{
	cpu_set_t set;

	CHECK(j->started);
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return -EINVAL;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return -pthread_setaffinity_np(j->thread, sizeof set, &set);
}

/* ---- closing ---- */

/* How far the first log goes, so that an older copy of it is recognised. */
static void note_first_log(struct journal *j)
{
	for (const struct jlog *log = j->opened; log != NULL; log = log->opened_next)
		if (jlog_is_first(log) && !jlog_is_lost(log))
			j->super.first_seq = log->synced_seq;
}

/* All that was appended, then each log's end, then the word that it was a clean stop. */
static int finish(struct journal *j)
{
	bool clean = j->used || j->was_clean;
	bool worked = true;
	int err = 0;

	while (worked && err == 0)
		err = turn(j, &worked);
	for (struct jlog *log = j->opened; log != NULL && err == 0; log = log->opened_next) {
		err = jlog_blame(log, &j->io, jlog_end(log, &j->io));
		if (err == JLOG_E_LOST)
			err = 0; /* the others end as they should */
		if (err != 0)
			return journal_fail(j, err, j->io.why);
	}
	if (err != 0)
		return err;
	note_first_log(j);
	j->super.flags = clean ? JF_SUPER_CLEAN : 0;
	err = journal_write_super(j, &j->io);
	return err != 0 ? journal_fail(j, err, j->io.why) : 0;
}

int journal_close(struct journal *j)
{
	int err;

	if (j->started) {
		atomic_store_explicit(&j->stop, true, memory_order_release);
		doorbell_ring(&j->bell);
		pthread_join(j->thread, NULL);
	}
	err = j->opts.mode != JOURNAL_CHECK ? finish(j) : 0;
	while (j->opened != NULL) {
		struct jlog *log = j->opened;

		j->opened = log->opened_next;
		free_log(log);
	}
	free_journal(j);
	return err;
}
