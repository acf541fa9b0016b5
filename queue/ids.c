/* All sequences: opening them from the journal, and what any thread may ask about them.
 *
 * Recovery: the "ids" log is a list of facts (queue/ids_record.h). For each name the position is
 * the largest value of its WINDOW and CHECKPOINT entries, except that a STAND entry sets it
 * exactly, and that an entry with another incarnation begins anew. A sequence continues at its
 * position; the clock plays no part. A sequence without an incarnation (an older version wrote its
 * records) gets one, which is written before any of its IDs is handed out. Runs on the main thread,
 * but for the small getters at the end. */
#include "queue/ids.h"
#include "queue/ids_found.h"
#include "queue/ids_record.h"
#include "queue/ids_shared.h"
#include "queue/incarnation.h"
#include "queue/producer.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

void *ids_map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void ids_unmap(void *p, size_t bytes)
{
	if (p != NULL)
		munmap(p, bytes);
}

/* What the replay has found so far. */
struct recovery {
	struct ids_found found;
	uint64_t others; /* where sequences begin that have no entry */
	const char *why;
};

static void recovery_take(struct found_sequence *found, uint32_t type, const struct ids_fact *f)
{
	bool exact = type == IDS_RECORD_STAND || type == IDS_RECORD_OLD_STAND;

	if (f->incarnation != 0 && f->incarnation != found->incarnation) {
		/* another life; or else the same one, which has its number now */
		exact = exact || found->incarnation != 0;
		found->incarnation = f->incarnation;
	}
	if (exact || f->value > found->position)
		found->position = f->value;
}

static int recovery_replay(void *ctx, const struct jrecord *rec)
{
	struct recovery *r = ctx;
	struct span rest = rec->payload;

	if (rec->type < IDS_RECORD_OLD_WINDOW || rec->type > IDS_RECORD_STAND) {
		r->why = "the ids log has a record of an unknown type: it was written by a newer version";
		return -EBADMSG;
	}
	do {
		struct found_sequence *found;
		struct ids_fact f;
		int rc;

		if (!ids_record_take(&rest, rec->type, &f) || !sequence_name_ok(f.name)) {
			r->why = "the ids log has a malformed record";
			return -EBADMSG;
		}
		if (f.others) {
			r->others = f.value > r->others ? f.value : r->others;
			continue;
		}
		rc = ids_found_slot(&r->found, f.name, &found);
		if (rc != 0) {
			r->why = "out of memory while reading the ids log";
			return rc;
		}
		recovery_take(found, rec->type, &f);
	} while (rest.n != 0);
	return 0;
}

/* Whether some sequence is known from records that say no incarnation alone. */
static bool recovery_is_old(const struct recovery *r)
{
	for (uint32_t i = 0; i < r->found.count; i++)
		if (r->found.v[i].incarnation == 0 && (i > 0 || r->found.v[i].position > 1))
			return true;
	return false;
}

static int ids_open_sequences(struct ids *ids, const struct recovery *r)
{
	ids->capacity = ids->opts.sequences_max > r->found.count ? ids->opts.sequences_max : r->found.count;
	ids->sequences = ids_map(ids->capacity * sizeof *ids->sequences);
	if (ids->sequences == NULL)
		return -ENOMEM;
	ids->others = r->others;
	for (uint32_t i = 0; i < r->found.count; i++) {
		const struct found_sequence *f = &r->found.v[i];
		struct sequence *s = &ids->sequences[i];
		uint64_t position = f->incarnation != 0 || f->position > r->others ? f->position : r->others;

		memcpy(s->name, f->name, f->name_len);
		s->name_len = f->name_len;
		s->incarnation = f->incarnation ? f->incarnation : incarnation_new();
		atomic_init(&s->next, position);
		atomic_init(&s->durable_end, position);
	}
	atomic_init(&ids->count, r->found.count);
	return 0;
}

static bool ids_opts_has_ranges(const struct ids_opts *o)
{
	return o->queue == NULL || strcmp(o->queue, "ranges") == 0;
}

static const char *ids_opts_why(const struct ids_opts *o)
{
	if (o->shards == 0 || o->shards > IDS_SHARDS_MAX)
		return "the number of shards must be 1 to 256";
	if (o->order != IDS_STRICT && o->order != IDS_SHARDED)
		return "the order must be strict or sharded";
	if (o->window_min == 0 || o->window_min > o->window_max)
		return "the smallest window must be at least 1 and at most the largest";
	if (o->window_target_ms == 0)
		return "the time that a window lasts must be at least 1 ms";
	if (o->queue_depth == 0 || o->queue_depth > SPSC_DEPTH_MAX)
		return "the queue's depth must be 1 to 2^24";
	if (o->sequences_max == 0 || o->sequences_max > UINT32_MAX / 2)
		return "the number of sequences must be at least 1 and below 2^31";
	if (o->count_max == 0)
		return "the most IDs in one request must be at least 1";
	if (!ids_opts_has_ranges(o) && o->rate != 0)
		return "PRODUCER_RATE needs ID_QUEUE=ranges";
	return NULL;
}

static struct singles_opts ids_singles_opts(const struct ids_opts *o)
{
	return (struct singles_opts){
		.queue = o->queue, .consumers = o->shards, .strict = o->order == IDS_STRICT, .depth = o->queue_depth};
}

int ids_check(const struct ids_opts *opts, const char **ret_why)
{
	struct singles_opts so = ids_singles_opts(opts);

	*ret_why = ids_opts_why(opts);
	if (*ret_why != NULL)
		return -EINVAL;
	return ids_opts_has_ranges(opts) ? 0 : singles_check(&so, ret_why);
}

/* The log is not there any more, by the journal's sentence. */
static const char *ids_missing(const char *journal_why)
{
	static char text[1024];

	snprintf(
		text, sizeof text,
		"the IDs' log is missing: %s. Without it, IDs that were handed out before would be handed out again. Put "
		"it back; or, to accept that on purpose, run `ordinald --accept-loss ids`",
		journal_why);
	return text;
}

int ids_open(const struct ids_opts *opts, struct journal *j, struct ids **ret, const char **ret_why)
{
	struct recovery r = {.others = 1}; /* the first ID */
	struct jlog_opts log_opts = {
		.name = IDS_LOG, .segment_bytes = PRODUCER_SEGMENT_BYTES, .replay = recovery_replay, .ctx = &r};
	struct journal_port *port;
	const char *why = ids_opts_why(opts);
	struct found_sequence *unnamed;
	struct ids *ids = NULL;
	int rc;

	if (why != NULL) {
		if (ret_why)
			*ret_why = why;
		return -EINVAL;
	}
	why = "out of memory";
	rc = ids_found_init(&r.found);
	if (rc != 0)
		goto out;
	rc = ids_found_slot(&r.found, (struct span){NULL, 0}, &unnamed); /* slot 0 */
	if (rc != 0)
		goto out;
	ids = aligned_alloc(SEQUENCE_ALIGN, (sizeof *ids + SEQUENCE_ALIGN - 1) / SEQUENCE_ALIGN * SEQUENCE_ALIGN);
	if (ids == NULL) {
		rc = -ENOMEM;
		goto out;
	}
	memset(ids, 0, sizeof *ids);
	ids->opts = *opts;
	ids->journal = j;
	ids->bell.fd = -1;
	memcpy(ids->hash_key, r.found.names.key, sizeof ids->hash_key);
	rc = journal_log_open(j, &log_opts, &ids->log, &why);
	if (rc != 0) {
		why = r.why ? r.why : rc == -ENOENT ? ids_missing(why) : why;
		goto out;
	}
	why = "out of memory, or of file descriptors";
	rc = doorbell_init(&ids->bell);
	if (rc == 0 && !ids_opts_has_ranges(opts)) {
		struct singles_opts so = ids_singles_opts(opts);
		const char *singles_why = NULL;

		rc = singles_new(&so, &ids->singles, &singles_why);
		why = singles_why ? singles_why : why;
	}
	if (rc == 0)
		rc = ids_open_sequences(ids, &r);
	if (rc == 0)
		rc = journal_port_new(j, &ids->bell, PRODUCER_PORT_DEPTH, &port);
	if (rc == 0)
		rc = producer_new(ids, port, &ids->producer);
	if (rc == 0 && recovery_is_old(&r))
		producer_upgrade(ids->producer);
out:
	ids_found_done(&r.found);
	if (rc == 0) {
		*ret = ids;
		return 0;
	}
	ids_free(ids);
	if (ret_why)
		*ret_why = why;
	return rc;
}

int ids_look(struct journal *j, uint32_t *ret_sequences, const char **ret_why)
{
	/* As little memory as there can be: only the log matters here. */
	struct ids_opts opts = {.shards = 1,
				.window_min = 1,
				.window_max = 1,
				.window_target_ms = 1,
				.queue_depth = 1,
				.sequences_max = 1,
				.count_max = 1};
	struct ids *ids;
	int rc = ids_open(&opts, j, &ids, ret_why);

	if (rc != 0)
		return rc;
	*ret_sequences = ids_sequence_count(ids);
	ids_free(ids);
	return 0;
}

int ids_start(struct ids *ids, int cpu)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int rc;

	CHECK(!ids->started);
	rc = pthread_attr_init(&attr);
	if (rc != 0)
		return -rc;
	if (cpu >= 0 && cpu < CPU_SETSIZE) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		rc = pthread_attr_setaffinity_np(&attr, sizeof set, &set);
	}
	if (rc == 0)
		rc = pthread_create(&ids->producer->thread, &attr, producer_main, ids->producer);
	pthread_attr_destroy(&attr);
	ids->started = rc == 0;
	return -rc;
}

void ids_stop(struct ids *ids)
{
	if (!ids->started)
		return;
	atomic_store_explicit(&ids->producer->stop, true, memory_order_release);
	doorbell_ring(&ids->bell);
	pthread_join(ids->producer->thread, NULL);
	ids->started = false;
}

static void ids_free_port(struct ids_port *port)
{
	while (port->orphans != NULL) {
		struct creation *c = port->orphans;

		port->orphans = c->next;
		free(c);
	}
	spsc_done(&port->feed);
	spsc_done(&port->demand);
	free(port->owed_slots);
	free(port);
}

void ids_free(struct ids *ids)
{
	if (ids == NULL)
		return;
	CHECK(!ids->started);
	for (unsigned i = 0; i < IDS_SHARDS_MAX; i++) {
		struct ids_port *port = atomic_load_explicit(&ids->ports[i], memory_order_acquire);

		if (port != NULL)
			ids_free_port(port);
	}
	producer_free(ids->producer);
	singles_free(ids->singles);
	if (ids->bell.fd >= 0)
		doorbell_done(&ids->bell);
	ids_unmap(ids->sequences, ids->capacity * sizeof *ids->sequences);
	free(ids);
}

uint32_t ids_sequence_count(const struct ids *ids)
{
	return atomic_load_explicit(&ids->count, memory_order_acquire);
}

bool ids_sequence_info(const struct ids *ids, uint32_t slot, struct ids_sequence_info *ret)
{
	const struct sequence *s;

	if (slot >= ids_sequence_count(ids))
		return false;
	s = &ids->sequences[slot];
	memcpy(ret->name, s->name, sizeof ret->name);
	ret->next = atomic_load_explicit(&s->next, memory_order_relaxed);
	ret->durable_end = atomic_load_explicit(&s->durable_end, memory_order_relaxed);
	ret->window = atomic_load_explicit(&s->window, memory_order_relaxed);
	ret->windows = atomic_load_explicit(&s->windows, memory_order_relaxed);
	ret->incarnation = s->incarnation;
	return true;
}

enum ids_order ids_order(const struct ids *ids)
{
	return ids->opts.order;
}

const char *ids_error_text(const struct ids *ids, enum ids_error e, char *buf, size_t cap)
{
	switch (e) {
	case IDS_E_OK:
		snprintf(buf, cap, "no error");
		break;
	case IDS_E_COUNT:
		snprintf(buf, cap, "count must be 1 to %" PRIu32 " (COUNT_MAX)", ids->opts.count_max);
		break;
	case IDS_E_NAME:
		snprintf(buf, cap, "a sequence's name must be UTF-8 without control characters, of at most %d bytes",
			 SEQUENCE_NAME_MAX);
		break;
	case IDS_E_LIMIT:
		snprintf(buf, cap, "there are %" PRIu32 " sequences already (SEQUENCES_MAX)", ids->opts.sequences_max);
		break;
	case IDS_E_UNKNOWN:
		snprintf(buf, cap, "there is no such sequence, and SEQUENCE_CREATE is off");
		break;
	case IDS_E_EXHAUSTED:
		snprintf(buf, cap, "the sequence has come to its end, 2^64-1");
		break;
	case IDS_E_FAILED:
		snprintf(buf, cap, "the journal has failed: there are no more IDs that are known to be new");
		break;
	case IDS_E_LOST:
		snprintf(buf, cap, "no more IDs, they could repeat after a restart: %s", jlog_why(ids->log));
		break;
	case IDS_E_SINGLES:
		snprintf(buf, cap,
			 "ID_QUEUE=%.32s carries single IDs of the default sequence: sequence must be empty%s",
			 ids->opts.queue,
			 ids->opts.shards > 1 ? ", and count 1 where several threads take from it" : "");
		break;
	}
	return buf;
}
