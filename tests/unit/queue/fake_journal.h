/* A link-time twin of core/journal: records are kept in memory, and become durable when the test says so.
 *
 * FAKE_IMMEDIATE: durable when appended. FAKE_MANUAL: at fake_sync. Appending also fails while fake.full is set.
 * fake_fail ends it as a failed sync does. fake_reopen is a restart: what was not durable is lost, what was trimmed is
 * gone. Include once, in a test's only source file. Its state is touched by the producer's thread and the test's, so a
 * lock holds it together.
 */
#ifndef ORDINAL_TESTS_FAKE_JOURNAL_H
#define ORDINAL_TESTS_FAKE_JOURNAL_H

#include "core/journal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct fake_record {
	uint32_t type, len;
	uint64_t mark;
	const uint8_t *given; /* must not change until it is durable */
	uint8_t *copy;
};

enum fake_mode { FAKE_IMMEDIATE, FAKE_MANUAL };

static struct {
	pthread_mutex_t lock;
	enum fake_mode mode;
	bool full;
	struct fake_record *rec;
	size_t count, synced; /* records, of them durable */
	uint64_t trimmed;
	struct doorbell *bell;
	_Atomic uint64_t durable;
	atomic_bool failed;
	atomic_bool lost; /* the log */
	bool changed;     /* a payload was changed too early */
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void fake_sync_locked(void)
{
	for (; fake.synced < fake.count; fake.synced++) {
		struct fake_record *r = &fake.rec[fake.synced];

		if (memcmp(r->given, r->copy, r->len) != 0)
			fake.changed = true;
		r->given = NULL;
		atomic_store_explicit(&fake.durable, r->mark, memory_order_release);
	}
}

static inline void fake_sync(void)
{
	pthread_mutex_lock(&fake.lock);
	if (!fake.failed)
		fake_sync_locked();
	pthread_mutex_unlock(&fake.lock);
	if (fake.bell)
		doorbell_ring(fake.bell);
}

static inline void fake_fail(void)
{
	atomic_store(&fake.failed, true);
}

/* The log's file has been deleted by hand. */
static inline void fake_lose(void)
{
	atomic_store(&fake.lost, true);
}

/* The machine stops and comes back. */
static inline void fake_reopen(enum fake_mode mode)
{
	size_t kept = 0;

	for (size_t i = 0; i < fake.count; i++) {
		if (i < fake.synced && fake.rec[i].mark >= fake.trimmed)
			fake.rec[kept++] = fake.rec[i];
		else
			free(fake.rec[i].copy);
	}
	fake.count = fake.synced = kept;
	fake.mode = mode;
	fake.bell = NULL;
	fake.full = false;
	atomic_store(&fake.failed, false);
	atomic_store(&fake.lost, false);
}

static inline void fake_clear(enum fake_mode mode)
{
	fake.synced = 0;
	fake.trimmed = 0;
	fake.changed = false;
	atomic_store(&fake.durable, 0);
	fake_reopen(mode);
}

static inline size_t fake_count(uint32_t type)
{
	size_t n = 0;

	pthread_mutex_lock(&fake.lock);
	for (size_t i = 0; i < fake.count; i++)
		n += fake.rec[i].type == type;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

/* ---- core/journal.h ---- */

int journal_open(const struct journal_opts *opts, struct journal **ret, const char **ret_why)
{
	*ret = (struct journal *)&fake;
	return 0;
}

int journal_log_open(struct journal *j, const struct jlog_opts *opts, struct jlog **ret, const char **ret_why)
{
	for (size_t i = 0; i < fake.count; i++) {
		const struct fake_record *r = &fake.rec[i];
		struct jrecord rec = {.type = r->type, .mark = r->mark, .payload = {r->copy, r->len}, .where = i};
		int rc = opts->replay(opts->ctx, &rec);

		if (rc != 0)
			return rc;
	}
	*ret = (struct jlog *)&fake;
	return 0;
}

int journal_port_new(struct journal *j, struct doorbell *bell, uint32_t depth, struct journal_port **ret)
{
	fake.bell = bell;
	*ret = (struct journal_port *)&fake;
	return 0;
}

int journal_start(struct journal *j)
{
	return 0;
}

bool journal_appendv(struct journal_port *p, const struct jappend *a)
{
	struct fake_record *grown;
	uint8_t *copy;

	if (a->head.n != 0)
		abort(); /* nobody here uses it */
	pthread_mutex_lock(&fake.lock);
	if (fake.full) {
		pthread_mutex_unlock(&fake.lock);
		return false;
	}
	grown = fake.count & (fake.count - 1) ? fake.rec : realloc(fake.rec, (2 * fake.count + 1) * sizeof *fake.rec);
	copy = malloc(a->body.n);
	if (grown == NULL || copy == NULL)
		abort();
	memcpy(copy, a->body.p, a->body.n);
	fake.rec = grown;
	fake.rec[fake.count++] = (struct fake_record){
		.type = a->type, .len = (uint32_t)a->body.n, .mark = a->mark, .given = a->body.p, .copy = copy};
	if (fake.mode == FAKE_IMMEDIATE && !fake.failed)
		fake_sync_locked();
	pthread_mutex_unlock(&fake.lock);
	return true;
}

bool journal_trim(struct journal_port *p, struct jlog *log, uint64_t mark)
{
	fake.trimmed = mark;
	return true;
}

uint64_t jlog_durable(const struct jlog *log)
{
	return atomic_load_explicit(&fake.durable, memory_order_acquire);
}

uint64_t jlog_bytes(const struct jlog *log)
{
	return 0;
}

enum jlog_state jlog_state(const struct jlog *log)
{
	return atomic_load(&fake.lost) ? JLOG_LOST : JLOG_WELL;
}

const char *jlog_why(const struct jlog *log)
{
	return atomic_load(&fake.lost) ? "the file is gone" : "";
}

bool journal_has_failed(const struct journal *j)
{
	return atomic_load(&fake.failed);
}

int journal_close(struct journal *j)
{
	return 0;
}

const struct journal_stats *journal_stats(const struct journal *j)
{
	return NULL;
}

#endif
