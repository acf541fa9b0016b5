/* The producer's thread: what shards ask for, new sequences, and the loop that ties reservations and releases together.
 *
 *   loop:  demands -> feed_demand / producer_create -> window_reap -> feed_turn -> window_flush -> ring shards -> sleep
 *
 * It sleeps on its doorbell, which shards and the journal ring; it has a time limit only while a rate cap owes somebody
 * IDs, or while a waiting shard's ring is full. Once the journal has failed, or the log of reservations is lost, nothing
 * more is released: it only waits to be stopped.
 * It owns every struct window, the name table, and the publishing of sequences. What it leaves to others:
 * claiming (the views).
 */
#include "queue/incarnation.h"
#include "queue/producer.h"

#include <errno.h>
#include <stdlib.h>

#define PRODUCER_OWED_NS NS_PER_MS /* between two looks at a ring that was full */

static struct span producer_name_at(const void *ctx, uint32_t slot)
{
	return sequence_name(&((const struct ids *)ctx)->sequences[slot]);
}

static void producer_init_window(struct producer *p, uint32_t slot)
{
	struct sequence *s = &p->ids->sequences[slot];
	struct window *w = &p->windows[slot];
	uint64_t next = atomic_load_explicit(&s->next, memory_order_relaxed);

	w->released_end = w->durable_end = w->reserved_end = next;
	w->size = p->ids->opts.window_min;
	w->credit = p->burst;
	atomic_store_explicit(&s->durable_end, next, memory_order_relaxed);
	atomic_store_explicit(&s->window, w->size, memory_order_relaxed);
}

int producer_new(struct ids *ids, struct journal_port *port, struct producer **ret)
{
	struct producer *p = calloc(1, sizeof *p);
	uint32_t count = atomic_load_explicit(&ids->count, memory_order_relaxed);
	int rc = -ENOMEM;

	if (p == NULL)
		return rc;
	p->ids = ids;
	p->port = port;
	p->mark = jlog_durable(ids->log);
	p->unsent.head = p->sent.head = p->ticking = SLOT_NONE;
	p->tick_due_ns = UINT64_MAX;
	if (ids->opts.rate != 0) {
		p->burst = ids->opts.rate / 10; /* a tenth of a second */
		if (p->burst > ids->opts.window_max / 2)
			p->burst = ids->opts.window_max / 2;
		if (p->burst == 0)
			p->burst = 1;
	}
	p->windows = ids_map(ids->capacity * sizeof *p->windows);
	if (p->windows == NULL)
		goto out;
	rc = names_init(&p->names, ids->hash_key, producer_name_at, ids);
	for (uint32_t i = 0; i < count && rc == 0; i++) {
		producer_init_window(p, i);
		rc = names_add(&p->names, names_hash(&p->names, producer_name_at(ids, i)), i);
	}
	if (rc == 0) {
		*ret = p;
		return 0;
	}
out:
	producer_free(p);
	return rc;
}

void producer_free(struct producer *p)
{
	if (p == NULL)
		return;
	for (uint32_t i = 0; p->windows != NULL && i < atomic_load_explicit(&p->ids->count, memory_order_relaxed); i++)
		free(p->windows[i].shares);
	ids_unmap(p->windows, p->ids->capacity * sizeof *p->windows);
	names_done(&p->names);
	free(p->checkpoint.buf);
	free(p->stand.buf);
	free(p);
}

void producer_upgrade(struct producer *p)
{
	p->records_since_checkpoint = UINT64_MAX / 2; /* a checkpoint is due */
}

/* Two shards may ask for the same name at once: the second gets what the first has made. */
static void producer_create(struct producer *p, struct ids_port *port, struct creation *c)
{
	struct span name = {(const uint8_t *)c->name, c->name_len};
	uint32_t slot = atomic_load_explicit(&p->ids->count, memory_order_relaxed);
	struct sequence *s = &p->ids->sequences[slot];

	c->error = IDS_E_OK;
	if (names_find(&p->names, c->hash, name, &c->slot)) {
		feed_creation(p, port, c);
		return;
	}
	if (slot >= p->ids->opts.sequences_max || names_add(&p->names, c->hash, slot) != 0) {
		c->error = IDS_E_LIMIT;
		feed_creation(p, port, c);
		return;
	}
	memcpy(s->name, c->name, c->name_len);
	s->name_len = c->name_len;
	s->incarnation = incarnation_new();
	atomic_store_explicit(&s->next, p->ids->others, memory_order_relaxed); /* the first ID */
	producer_init_window(p, slot);
	/* Pairs with view_catch_up and ids_sequence_count. */
	atomic_store_explicit(&p->ids->count, slot + 1, memory_order_release);
	c->slot = slot;
	feed_creation(p, port, c);
}

/* Whether the log takes reservations; tells the shards when that is not so. */
static void producer_tell(struct producer *p)
{
	unsigned e = jlog_state(p->ids->log) == JLOG_LOST ? IDS_E_LOST : IDS_E_OK;

	if (e == atomic_load_explicit(&p->ids->trouble, memory_order_relaxed))
		return;
	atomic_store_explicit(&p->ids->trouble, e, memory_order_release); /* pairs with view_look_for_trouble */
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		struct ids_port *port = atomic_load_explicit(&p->ids->ports[i], memory_order_acquire);

		if (port != NULL)
			doorbell_ring(port->bell);
	}
}

uint64_t producer_turn(struct producer *p, uint64_t now_ns)
{
	bool room;

	p->now_ns = now_ns;
	producer_tell(p);
	p->failed = p->failed || journal_has_failed(p->ids->journal) || jlog_state(p->ids->log) == JLOG_LOST;
	if (p->failed)
		return UINT64_MAX;
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		/* Pairs with ids_view_new. */
		struct ids_port *port = atomic_load_explicit(&p->ids->ports[i], memory_order_acquire);
		struct demand d;

		while (port != NULL && spsc_pop(&port->demand, &d)) {
			if (d.creation != NULL)
				producer_create(p, port, d.creation);
			else
				feed_demand(p, i, &d);
		}
	}
	window_reap(p);
	feed_turn(p);
	window_flush(p);
	feed_ring_shards(p);
	if (feed_is_owing(p, &room) && p->tick_due_ns > now_ns + PRODUCER_OWED_NS)
		return now_ns + PRODUCER_OWED_NS;
	return p->tick_due_ns;
}

bool producer_has_work(const struct producer *p)
{
	bool room;

	if (p->failed)
		return false;
	if (p->singles_due)
		return true;
	for (unsigned i = 0; i < p->ids->opts.shards; i++) {
		struct ids_port *port = atomic_load_explicit(&p->ids->ports[i], memory_order_acquire);

		if (port != NULL && spsc_count(&port->demand) != 0)
			return true;
	}
	feed_is_owing(p, &room);
	return room || window_has_work(p);
}

void *producer_main(void *ctx)
{
	struct producer *p = ctx;
	struct doorbell *bell = &p->ids->bell;

	pthread_setname_np(pthread_self(), "producer");
	while (!atomic_load_explicit(&p->stop, memory_order_acquire)) { /* pairs with ids_stop */
		uint64_t due = producer_turn(p, clock_mono_ns());

		doorbell_arm(bell);
		if (atomic_load_explicit(&p->stop, memory_order_acquire) || producer_has_work(p))
			doorbell_disarm(bell);
		else
			doorbell_wait(bell, due == UINT64_MAX ? due : due - p->now_ns);
	}
	producer_finish(p);
	return NULL;
}
