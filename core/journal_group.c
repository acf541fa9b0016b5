/* A group: what arrived through the ports while the last one was being synced, made durable together.
 *
 *   journal_gather  ports -> entries, chained per log in order of arrival
 *   journal_commit  for each log: encode, write | for each log: sync | for each log: publish its mark | ring the bells
 *
 * Invariants: a mark is published only after the sync of all that is at or below it; where a group goes on into another
 * segment, the one before has been synced first. Every record says how far its log was synced when it was written:
 * recovery tells a torn group from damage by that. A direct write begins at a block's edge and repeats the durable
 * bytes in front of the tail unchanged.
 *
 * Runs in the journal thread (or whoever stands in for it, see journal_turn).
 */
#include "core/journal_internal.h"

#include "core/base/clock.h"

#include <stdlib.h>
#include <string.h>

void jbuf_free(struct jbuf *b)
{
	if (b != NULL)
		free(b->p);
	free(b);
}

/* An opener may have left a larger buffer. It has, if a request of this group needs one: the request came after it. */
static void take_grown(struct journal *j)
{
	struct jbuf *grown = atomic_exchange_explicit(&j->grown, NULL, memory_order_acquire); /* pairs with grow_buf */

	if (grown == NULL)
		return;
	jbuf_free(j->buf);
	j->buf = grown;
}

static uint32_t request_bytes(const struct jrequest *req)
{
	if (req->op == JOP_TRIM)
		return JLOG_TRIM_BYTES;
	return jf_record_size((uint32_t)(req->head.n + req->body.n));
}

static void chain(struct journal *j, struct jentry *e)
{
	struct jlog *log = e->req.log;

	e->next = NULL;
	if (!log->in_group) {
		log->in_group = true;
		log->group_last = &log->group_first;
		log->group_next = j->group;
		j->group = log;
	}
	*log->group_last = e;
	log->group_last = &e->next;
}

void jrequest_done(struct jrequest *req)
{
	if (req->owned)
		free((void *)req->body.p);
	req->owned = false;
}

bool journal_gather(struct journal *j)
{
	unsigned nports = atomic_load_explicit(&j->nports, memory_order_acquire); /* pairs with journal_port_new */
	uint64_t bytes = 0;
	bool any = false;

	j->nentries = 0;
	j->group = NULL;
	for (unsigned i = 0; i < nports; i++) {
		struct journal_port *p = j->ports[(j->first_port + i) % nports];

		while (j->nentries < JGROUP_RECORDS_MAX && bytes < j->opts.group_max) {
			struct jentry *e = &j->entries[j->nentries];

			if (!spsc_pop(&p->q, &e->req))
				break;
			p->touched = any = true;
			if (jlog_is_lost(e->req.log)) {
				jrequest_done(&e->req);
				continue;
			}
			j->nentries++;
			bytes += request_bytes(&e->req);
			chain(j, e);
		}
	}
	if (nports > 0)
		j->first_port = (j->first_port + 1) % nports;
	return any;
}

/* Begins a write at the log's tail. */
static void buf_begin(struct journal *j, const struct jlog *log)
{
	j->buf_at = log->direct ? log->tail & ~(JF_BLOCK - 1) : log->tail;
	j->buf_len = log->tail - j->buf_at;
	j->buf_fresh = 0;
	if (j->buf_len > 0)
		memcpy(j->buf->p, log->tail_block, j->buf_len);
}

static int write_durably(struct journal *j, struct jlog *log, int fd, const char *path, size_t n, unsigned flags)
{
	uint64_t begin = clock_mono_ns();
	int err = jio_write(&j->io, fd, path, j->buf->p, n, j->buf_at, flags);

	if (err != 0) {
		j->io.sync_failed = true; /* it may have been the sync within */
		return err;
	}
	log->synced_seq = log->seq;
	journal_count(&j->stats.syncs, 1);
	hist_add(&j->stats.sync_ns, clock_mono_ns() - begin, 1);
	return 0;
}

static int flush_direct(struct journal *j, struct jlog *log, const char *path)
{
	size_t n = (j->buf_len + JF_BLOCK - 1) & ~(size_t)(JF_BLOCK - 1);
	uint32_t block = log->tail & ~(JF_BLOCK - 1);
	int err;

	memset(j->buf->p + j->buf_len, 0, n - j->buf_len);
	err = write_durably(j, log, log->dfd, path, n, 0);
	if (err == 0 && log->tail > block)
		memcpy(log->tail_block, j->buf->p + (block - j->buf_at), log->tail - block);
	return err;
}

/* Writes what the buffer holds. Durable afterwards only if the method makes it so: log->synced_seq
 * tells. */
static int flush(struct journal *j, struct jlog *log)
{
	char path[JPATH_MAX];
	int err;

	if (j->buf_fresh == 0)
		return 0;
	err = jlog_fill_to(log, &j->io, j->buf_at + (uint32_t)j->buf_len);
	if (err != 0)
		return err;
	jlog_segment_path(log, log->number, path);
	if (log->direct)
		err = flush_direct(j, log, path);
	else if (j->method == JOURNAL_DSYNC && log->durability == JLOG_FSYNC)
		err = write_durably(j, log, log->wfd, path, j->buf_len, JD_DSYNC);
	else
		err = jio_write(&j->io, log->wfd, path, j->buf->p, j->buf_len, j->buf_at, 0);
	if (err == 0)
		buf_begin(j, log);
	return err;
}

void jlog_encode(struct jlog *log, uint8_t *p, struct jf_record *rec, struct span head, struct span body)
{
	struct jf_place at = {.segment = log->number, .offset = log->tail, .salt = log->salt};

	if (head.n > 0)
		memcpy(p + JF_RECORD_HEADER, head.p, head.n);
	if (body.n > 0)
		memcpy(p + JF_RECORD_HEADER + head.n, body.p, body.n);
	rec->seq = ++log->seq;
	rec->durable = log->synced_seq;
	rec->epoch = log->epoch;
	jf_record_encode(p, rec, &at);
	log->tail += jf_record_size(rec->len);
}

void jlog_encode_begin(struct jlog *log, uint8_t *p)
{
	struct jf_record rec = {.kind = JF_BEGIN, .len = JF_BEGIN_PAYLOAD, .mark = log->last_mark};
	uint8_t payload[JF_BEGIN_PAYLOAD];

	store_le64(payload, (uint64_t)log->begin_ns);
	store_le64(payload + 8, log->first_live);
	jlog_encode(log, p, &rec, (struct span){payload, sizeof payload}, (struct span){NULL, 0});
}

/* Room for a record of `size` bytes in the buffer. The caller has seen to its fitting into the
 * segment. */
static uint8_t *emit(struct journal *j, uint32_t size)
{
	uint8_t *p = j->buf->p + j->buf_len;

	CHECK(j->buf_len + size <= j->buf->cap - JF_BLOCK);
	j->buf_len += size;
	j->buf_fresh += size;
	return p;
}

/* Seals the segment and goes on to the next. */
static int roll(struct journal *j, struct jlog *log)
{
	int err = flush(j, log);

	if (err == 0)
		err = jlog_sync(log, &j->io);
	if (err == 0)
		err = jlog_verify(log, &j->io);
	if (err != 0)
		return err;
	jlog_seg_update(log, log->first_mark, log->last_mark, log->begin_ns, log->tail);
	err = jlog_roll(log, &j->io);
	if (err == 0)
		buf_begin(j, log);
	return err;
}

static int put(struct journal *j, struct jlog *log, struct jf_record *rec, struct span head, struct span body)
{
	int err = 0;

	if (log->tail + jf_record_size(rec->len) > log->segment_bytes)
		err = roll(j, log);
	if (err != 0)
		return err;
	if (log->tail == JF_HEADER)
		jlog_encode_begin(log, emit(j, JLOG_BEGIN_BYTES));
	jlog_encode(log, emit(j, jf_record_size(rec->len)), rec, head, body);
	return 0;
}

/* A record of the log's state is at the tail of the active segment now. */
static void note_state(struct jlog *log, unsigned state)
{
	if (state & JSTATE_FIRST)
		log->state_begun = log->number;
	if (!(state & JSTATE_LAST))
		return;
	CHECK(log->state_begun != 0);
	log->state_at = log->state_begun;
	log->state_begun = 0;
}

static int put_append(struct journal *j, struct jlog *log, const struct jrequest *req)
{
	struct jf_record rec = {
		.kind = JF_USER,
		.len = (uint32_t)(req->head.n + req->body.n),
		.type = req->type,
		.mark = req->mark,
	};
	int err;

	CHECK(req->mark >= log->last_mark);
	err = put(j, log, &rec, req->head, req->body);
	if (err != 0)
		return err;
	if (req->where != NULL)
		*req->where = log->number << 32 | (log->tail - jf_record_size(rec.len));
	note_state(log, req->state);
	log->last_mark = req->mark;
	if (log->first_mark == UINT64_MAX)
		log->first_mark = req->mark;
	journal_count(&j->stats.records, 1);
	journal_count(&j->stats.bytes, rec.len);
	return 0;
}

/* The record comes first; jlog_maintain drops the files once it is synced. The state stays live,
 * wherever it is: what recovery needs is in it, and not in the records that are dropped. */
static int put_trim(struct journal *j, struct jlog *log, uint64_t mark)
{
	struct jf_record rec = {.kind = JF_TRIM, .len = JF_TRIM_PAYLOAD, .mark = log->last_mark};
	uint64_t first = jlog_seg_first_above(log, mark);
	uint8_t payload[JF_TRIM_PAYLOAD];
	int err;

	CHECK(log->state_at != 0);
	if (first > log->state_at)
		first = log->state_at;
	if (first <= log->first_live)
		return 0;
	store_le64(payload, first);
	err = put(j, log, &rec, (struct span){payload, sizeof payload}, (struct span){NULL, 0});
	if (err == 0)
		log->first_live = first;
	return err;
}

static int write_log(struct journal *j, struct jlog *log)
{
	int err = jfiles_open_log(log, &j->io);

	if (err == 0)
		err = jlog_verify_length(log, &j->io);
	if (err != 0)
		return err;
	buf_begin(j, log);
	for (struct jentry *e = log->group_first; e != NULL && err == 0; e = e->next) {
		if (e->req.op == JOP_TRIM)
			err = put_trim(j, log, e->req.mark);
		else
			err = put_append(j, log, &e->req);
		jrequest_done(&e->req);
	}
	return err != 0 ? err : flush(j, log);
}

static void publish(struct journal *j, struct jlog *log)
{
	jlog_seg_update(log, log->first_mark, log->last_mark, log->begin_ns, log->tail);
	atomic_store_explicit(&log->durable, log->last_mark, memory_order_release); /* pairs with jlog_durable */
	log->in_group = false;
	if (!log->in_work) {
		log->in_work = true;
		log->work_next = j->work;
		j->work = log;
	}
	if (!log->in_unnoted && log->synced_seq > log->noted_seq) {
		log->in_unnoted = true;
		log->unnoted_next = j->unnoted;
		j->unnoted = log;
	}
}

static void ring_bells(struct journal *j)
{
	unsigned nports = atomic_load_explicit(&j->nports, memory_order_acquire);

	for (unsigned i = 0; i < nports; i++) {
		struct journal_port *p = j->ports[i];

		if (!p->touched)
			continue;
		p->touched = false;
		doorbell_ring(p->bell);
	}
}

static void drop_requests(struct jlog *log)
{
	for (struct jentry *e = log->group_first; e != NULL; e = e->next)
		jrequest_done(&e->req);
}

/* Does one step of the commit for every log of the group. A log that becomes lost leaves the group. 0 or -errno. */
static int each_log(struct journal *j, int (*step)(struct journal *j, struct jlog *log))
{
	struct jlog **link = &j->group;

	while (*link != NULL) {
		struct jlog *log = *link;
		int err = jlog_blame(log, &j->io, step(j, log));

		if (err < 0)
			return err;
		if (err == JLOG_E_LOST) {
			drop_requests(log);
			log->in_group = false;
			*link = log->group_next;
		} else {
			link = &log->group_next;
		}
	}
	return 0;
}

static int sync_log(struct journal *j, struct jlog *log)
{
	return log->durability == JLOG_FSYNC ? jlog_sync(log, &j->io) : 0;
}

static int verify_log(struct journal *j, struct jlog *log)
{
	return jlog_verify(log, &j->io);
}

int journal_commit(struct journal *j)
{
	int err;

	take_grown(j);
	err = each_log(j, write_log);
	if (err == 0)
		err = each_log(j, sync_log);
	if (err == 0)
		err = each_log(j, verify_log);
	if (err == 0)                                                         /* a sync of an opener's */
		err = atomic_load_explicit(&j->failed, memory_order_acquire); /* pairs with journal_fail */
	if (err != 0)
		return err;
	for (struct jlog *log = j->group; log != NULL; log = log->group_next)
		publish(j, log);
	j->group = NULL;
	if (j->nentries > 0) {
		journal_count(&j->stats.groups, 1);
		hist_add(&j->stats.group_records, j->nentries, 1);
	}
	ring_bells(j);
	return 0;
}
