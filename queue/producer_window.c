/* The producer's reservations: what of each sequence is durably reserved, and how much at a time. Runs on the
 * producer's thread.
 *
 *     idle --window_reserve--> unsent --journal_append--> sent --jlog_durable >= mark--> idle, feed_window_ready
 *
 * A sequence has one reservation under way at most. Reservations never reach further than the window's size beyond the
 * base (strict: the counter; sharded: half of it beyond what has been fed, the other half is in the shards' hands), or
 * than a single request needs. So that is all a crash can skip.
 *
 * The window's size follows the rate: seen from one reservation to the next, it doubles while a window of this size
 * would last shorter than window_target_ms and halves when it would last four times as long.
 *
 * Checkpoint: once enough window records have been written, the positions of all sequences are written again, and what
 * lies before is let go.
 */
#include "core/base/clock.h"
#include "queue/producer.h"

#include <stdlib.h>

static void window_resize(struct producer *p, struct window *w, struct sequence *s, uint64_t base)
{
	const struct ids_opts *o = &p->ids->opts;
	unsigned __int128 used = sequence_left(w->sized_at, base);
	uint64_t passed_ns = p->now_ns > w->sized_ns ? p->now_ns - w->sized_ns : 1;

	if (w->used && used == 0)
		return; /* for a request that does not fit: says nothing about the rate */
	if (w->used) {
		/* IDs that would be used in the target time at this rate */
		unsigned __int128 expect = used * o->window_target_ms * NS_PER_MS / passed_ns;

		if (expect > w->size)
			w->size = w->size > o->window_max / 2 ? o->window_max : 2 * w->size;
		else if (expect < w->size / 4)
			w->size = w->size / 2 < o->window_min ? o->window_min : w->size / 2;
	}
	w->used = true;
	w->sized_ns = p->now_ns;
	w->sized_at = base;
	atomic_store_explicit(&s->window, w->size, memory_order_relaxed);
	atomic_store_explicit(&s->low_water, p->ids->opts.rate ? p->burst : w->size / 2, memory_order_relaxed);
}

static void list_append(struct producer *p, struct slot_list *l, uint32_t slot)
{
	p->windows[slot].reserving_next = SLOT_NONE;
	if (l->head == SLOT_NONE)
		l->head = slot;
	else
		p->windows[l->tail].reserving_next = slot;
	l->tail = slot;
}

/* True: the record of the first unsent window is in the journal. */
static bool window_send(struct producer *p)
{
	uint32_t slot = p->unsent.head;
	struct window *w = &p->windows[slot];
	struct sequence *s = &p->ids->sequences[slot];
	struct ids_fact f = {.name = sequence_name(s), .value = w->reserved_end, .incarnation = s->incarnation};
	size_t len = ids_record_put(w->record, &f);

	if (!journal_append(p->port, p->ids->log, IDS_RECORD_WINDOW, p->mark + 1, w->record, (uint32_t)len))
		return false; /* the bell rings when there is room */
	w->mark = ++p->mark;
	p->records_since_checkpoint++;
	p->unsent.head = w->reserving_next;
	list_append(p, &p->sent, slot);
	return true;
}

void window_reserve(struct producer *p, uint32_t slot, uint64_t base, uint64_t want)
{
	struct window *w = &p->windows[slot];
	const struct ids_opts *o = &p->ids->opts;
	uint64_t size, end;

	if (w->reserving || w->durable_end == SEQUENCE_END)
		return;
	window_resize(p, w, &p->ids->sequences[slot], base);
	size = o->order == IDS_SHARDED ? (w->size + 1) / 2 : w->size;
	if (o->order == IDS_STRICT && size < want + w->size / 2) {
		/* While this is written other shards go on claiming, and would always leave too few for a large
		 * request. */
		size = want + w->size / 2;
		if (size > o->window_max)
			size = o->window_max;
	}
	end = sequence_add(base, want > size ? want : size);
	if (end <= w->durable_end)
		return;
	w->reserved_end = end;
	w->reserving = true;
	list_append(p, &p->unsent, slot);
}

/* ---- all sequences at once ---- */

static bool snapshot_take(struct producer *p, struct snapshot *s, bool stand)
{
	uint32_t count = atomic_load_explicit(&p->ids->count, memory_order_relaxed);

	s->buf = malloc(((size_t)count + 1) * IDS_RECORD_ENTRY_MAX);
	if (s->buf == NULL)
		return false;
	s->len = s->sent = 0;
	s->mark_first = p->mark + 1;
	if (!stand && p->ids->others > 1) {
		struct ids_fact f = {.others = true, .value = p->ids->others, .incarnation = UINT64_MAX};

		s->len = ids_record_put(s->buf, &f);
	}
	for (uint32_t i = 0; i < count; i++) {
		struct sequence *q = &p->ids->sequences[i];
		uint64_t next = atomic_load_explicit(&q->next, memory_order_acquire);
		struct ids_fact f;

		if (stand && !p->windows[i].used)
			continue; /* its last record says the same */
		f = (struct ids_fact){.name = sequence_name(q),
				      .value = stand ? next : p->windows[i].reserved_end,
				      .incarnation = q->incarnation};
		s->len += ids_record_put(s->buf + s->len, &f);
	}
	return true;
}

/* Appends what fits in the journal's port. True: all of it is in. */
static bool snapshot_send(struct producer *p, struct snapshot *s, enum ids_record_type type)
{
	while (s->sent < s->len) {
		struct span rest = {s->buf + s->sent, s->len - s->sent};
		struct ids_fact f;
		struct jappend a;
		size_t len = 0;

		while (len <= PRODUCER_RECORD_BYTES - IDS_RECORD_ENTRY_MAX && rest.n != 0) {
			CHECK(ids_record_take(&rest, type, &f));
			len = s->len - s->sent - rest.n;
		}
		a = (struct jappend){.log = p->ids->log, .type = type, .mark = p->mark + 1};
		a.body = (struct span){s->buf + s->sent, len};
		/* what recovery needs when everything before it is gone */
		if (type == IDS_RECORD_CHECKPOINT)
			a.state = (s->sent == 0 ? JSTATE_FIRST : 0) | (s->sent + len == s->len ? JSTATE_LAST : 0);
		if (!journal_appendv(p->port, &a))
			return false;
		s->mark_last = ++p->mark;
		s->sent += len;
	}
	return true;
}

static void snapshot_free(struct snapshot *s)
{
	free(s->buf);
	*s = (struct snapshot){.buf = NULL};
}

static void window_checkpoint(struct producer *p, uint64_t durable)
{
	struct snapshot *c = &p->checkpoint;
	uint64_t every = 4 * (uint64_t)atomic_load_explicit(&p->ids->count, memory_order_relaxed);

	if (c->buf == NULL) {
		if (p->records_since_checkpoint <
		    (every > PRODUCER_CHECKPOINT_RECORDS ? every : PRODUCER_CHECKPOINT_RECORDS))
			return;
		if (!snapshot_take(p, c, false))
			return; /* no memory now: the log stays long until there is */
		p->records_since_checkpoint = 0;
	}
	if (!snapshot_send(p, c, IDS_RECORD_CHECKPOINT) || durable < c->mark_last)
		return;
	if (journal_trim(p->port, p->ids->log, c->mark_first))
		snapshot_free(c);
}

/* ---- a turn ---- */

void window_reap(struct producer *p)
{
	uint64_t durable = jlog_durable(p->ids->log); /* acquire: the records up to here are synced */

	while (p->sent.head != SLOT_NONE && p->windows[p->sent.head].mark <= durable) {
		uint32_t slot = p->sent.head;
		struct window *w = &p->windows[slot];
		struct sequence *s = &p->ids->sequences[slot];

		p->sent.head = w->reserving_next;
		w->reserving = false;
		w->durable_end = w->reserved_end;
		atomic_store_explicit(&s->durable_end, w->durable_end, memory_order_relaxed);
		atomic_store_explicit(&s->windows, atomic_load_explicit(&s->windows, memory_order_relaxed) + 1,
				      memory_order_relaxed);
		feed_window_ready(p, slot);
	}
}

void window_flush(struct producer *p)
{
	while (p->unsent.head != SLOT_NONE && window_send(p))
		;
	window_checkpoint(p, jlog_durable(p->ids->log));
}

bool window_has_work(const struct producer *p)
{
	uint64_t durable = jlog_durable(p->ids->log);

	return (p->sent.head != SLOT_NONE && p->windows[p->sent.head].mark <= durable) ||
	       (p->checkpoint.buf != NULL && p->checkpoint.sent == p->checkpoint.len &&
		p->checkpoint.mark_last <= durable);
}

static bool window_is_lost(const struct producer *p)
{
	return journal_has_failed(p->ids->journal) || jlog_state(p->ids->log) == JLOG_LOST;
}

/* Waits for the journal a while. False: it has failed. */
static bool window_wait(struct producer *p, uint64_t mark)
{
	doorbell_arm(&p->ids->bell);
	if (jlog_durable(p->ids->log) >= mark || window_is_lost(p))
		doorbell_disarm(&p->ids->bell);
	else
		doorbell_wait(&p->ids->bell, 10 * NS_PER_MS); /* a failure rings no bell */
	return !window_is_lost(p);
}

void producer_finish(struct producer *p)
{
	bool sent = false;

	if (window_is_lost(p))
		return;
	/* Windows that are not in the journal yet were not released either, and must not come after the stand. */
	p->unsent.head = SLOT_NONE;
	if (p->ids->singles != NULL && p->windows[0].used) {
		struct sequence *s = &p->ids->sequences[0];
		uint64_t back = singles_take_back(p->ids->singles, p->windows[0].released_end);

		atomic_store_explicit(&s->next, back, memory_order_relaxed);
	}
	if (!snapshot_take(p, &p->stand, true))
		return; /* no memory: as after an unclean stop */
	do
		sent = sent || snapshot_send(p, &p->stand, IDS_RECORD_STAND);
	while ((!sent || jlog_durable(p->ids->log) < p->mark) && window_wait(p, p->mark));
}
