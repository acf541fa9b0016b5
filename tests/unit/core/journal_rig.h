/* A journal of two logs on the simulated disk, run turn by turn without its thread, and the oracle that looks at
 * what is left of it.
 *
 * Marks are 1, 2, 3 … in each log; a record's type, length and bytes follow from its log and mark, so the oracle
 * needs no history but: what was appended, what was published, what was trimmed. rig_check gives NULL or says which
 * promise was broken. */
#ifndef ORDINAL_TESTS_JOURNAL_RIG_H
#define ORDINAL_TESTS_JOURNAL_RIG_H

#include "core/journal_internal.h"
#include "tests/unit/core/sim_disk.h"

#include <stdarg.h>

#define RIG_LOGS 2
#define RIG_MARKS 4096

struct rig_log {
	uint64_t appended, published, trimmed; /* marks */
	uint64_t opened;                       /* the last one at the opening */
	/* where the newest whole state began when it was trimmed */
	uint64_t kept;
	uint64_t first, last, count; /* seen by the last replay */
	uint64_t where[RIG_MARKS];   /* as replayed */
	const char *wrong;
};

struct rig {
	struct sim *sim;
	struct journal_disk disk;
	struct journal_opts opts;
	struct jlog_opts log_opts;
	struct journal *j;
	struct jlog *log[RIG_LOGS];
	struct journal_port *port[RIG_LOGS];
	struct doorbell bell;
	struct rig_log l[RIG_LOGS];
	uint8_t *payload[RIG_LOGS][RIG_MARKS];
	uint32_t max_len;
	bool each_is_state; /* each record is all that a trim has to keep */
	bool one_file;      /* of the logs, one (with O_DIRECT: of two descriptors) is open at a time */
	unsigned failures;  /* calls of opts.failed */
	unsigned rooms;     /* calls of opts.room_changed */
	unsigned lost;      /* calls of opts.log_lost */
	char why[700];      /* of the last failure */
	uint64_t seed;
};

static inline uint64_t rig_mix(uint64_t v)
{
	v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
	return v ^ v >> 31;
}

static inline uint64_t rig_random(struct rig *r)
{
	return rig_mix(r->seed++);
}

static inline uint32_t rig_len(const struct rig *r, int log, uint64_t mark)
{
	return (uint32_t)(rig_mix(mark * 2 + (uint64_t)log) % r->max_len);
}

static inline void rig_fill(uint8_t *p, uint32_t n, int log, uint64_t mark)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (uint8_t)(rig_mix(mark * 31 + (uint64_t)log + (i >> 3)) >> (i & 7) * 8);
}

static inline bool rig_is_good(const struct rig *r, int log, const struct jrecord *rec)
{
	uint32_t n = rig_len(r, log, rec->mark);

	if (rec->payload.n != n || rec->type != (uint32_t)rec->mark * 3)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (rec->payload.p[i] != (uint8_t)(rig_mix(rec->mark * 31 + (uint64_t)log + (i >> 3)) >> (i & 7) * 8))
			return false;
	return true;
}

static inline void rig_failed(void *ctx, int err, const char *what)
{
	struct rig *r = ctx;

	r->failures++;
	snprintf(r->why, sizeof r->why, "%d: %s", err, what);
}

static inline void rig_room_changed(void *ctx, enum journal_room room, int err, const char *what)
{
	struct rig *r = ctx;

	CHECK((room == JOURNAL_ROOM_AMPLE) == (err == 0) && (err == 0) == (*what == '\0'));
	r->rooms++;
}

static inline void rig_log_lost(void *ctx, const char *name, const char *what)
{
	struct rig *r = ctx;

	r->lost++;
	CHECK(strstr(what, name) != NULL);
}

static inline void rig_init(struct rig *r, struct sim *sim, enum journal_method method)
{
	memset(r, 0, sizeof *r);
	r->sim = sim;
	r->disk = sim_disk(sim);
	r->max_len = 1900;
	r->seed = 1;
	r->opts = (struct journal_opts){
		.dir = "sim",
		.group_max = 8192,
		.failed = rig_failed,
		.room_changed = rig_room_changed,
		.log_lost = rig_log_lost,
		.ctx = r,
		.method = method,
		.disk = &r->disk,
	};
	r->log_opts = (struct jlog_opts){.segment_bytes = JOURNAL_SEGMENT_MIN};
	CHECK(doorbell_init(&r->bell) == 0);
}

static inline void rig_done(struct rig *r)
{
	CHECK(r->j == NULL);
	for (int i = 0; i < RIG_LOGS; i++)
		for (int k = 0; k < RIG_MARKS; k++)
			free(r->payload[i][k]);
	doorbell_done(&r->bell);
}

struct rig_replay {
	struct rig *r;
	int log;
};

static inline int rig_replay(void *ctx, const struct jrecord *rec)
{
	struct rig_replay *p = ctx;
	struct rig_log *l = &p->r->l[p->log];

	if (rec->mark == 0 || rec->mark >= RIG_MARKS || !rig_is_good(p->r, p->log, rec))
		l->wrong = "a record that was never appended like this";
	else if (l->count > 0 && rec->mark != l->last + 1)
		l->wrong = "records missing, repeated or out of order";
	else
		l->where[rec->mark] = rec->where;
	if (l->count++ == 0)
		l->first = rec->mark;
	l->last = rec->mark;
	return 0;
}

/* Ends the process: nothing is written any more, nothing closed cleanly. */
static inline void rig_kill(struct rig *r)
{
	r->sim->dead = true;
	journal_close(r->j);
	r->j = NULL;
}

/* Whether each log's list of spares names the spare files in its folder, each once. */
static inline bool rig_spares_are_listed(const struct rig *r)
{
	for (int i = 0; i < RIG_LOGS; i++) {
		const struct jlog *log = r->log[i];
		unsigned found = 0;

		for (int k = 0; k < r->sim->now.n; k++) {
			const char *slash = strrchr(r->sim->now.v[k].path, '/');

			found += slash != NULL && strncmp(slash, "/spare-", 7) == 0 &&
				 sim_is_in(r->sim->now.v[k].path, jlog_name(log));
		}
		for (unsigned k = 0; k < log->nspares; k++) {
			char path[JPATH_MAX];

			jlog_spare_path(log, log->spares[k], path);
			if (sim_find(&r->sim->now, path) == NULL)
				return false;
			for (unsigned m = 0; m < k; m++)
				if (log->spares[m] == log->spares[k])
					return false;
		}
		if (found != log->nspares)
			return false;
	}
	return true;
}

/* Opens journal and logs. 0 or the error, with r->why set. */
static inline int rig_open(struct rig *r)
{
	static const char *const names[RIG_LOGS] = {"ids", "stream.a-1"};
	const char *why = "";
	int err = journal_open(&r->opts, &r->j, &why);

	if (err != 0)
		r->j = NULL;
	if (err == 0 && r->one_file)
		r->j->files.written_max = r->j->method == JOURNAL_DIRECT ? 2 : 1;
	for (int i = 0; i < RIG_LOGS && err == 0; i++) {
		struct rig_replay replay = {r, i};
		struct jlog_opts o = r->log_opts;

		o.name = names[i];
		o.replay = rig_replay;
		o.ctx = &replay;
		r->l[i].count = r->l[i].first = r->l[i].last = 0;
		r->l[i].wrong = NULL;
		err = journal_log_open(r->j, &o, &r->log[i], &why);
		if (err == 0)
			err = journal_port_new(r->j, &r->bell, 64, &r->port[i]);
		r->l[i].opened = r->l[i].last;
	}
	if (err == 0) {
		CHECK(rig_spares_are_listed(r));
		return 0;
	}
	if (r->j != NULL) { /* no clean close of what did not open */
		bool dead = r->sim->dead;

		rig_kill(r);
		r->sim->dead = dead;
		r->failures = 0;
	}
	snprintf(r->why, sizeof r->why, "%s", why);
	return err;
}

/* Of every five records four are a state: the first of them begins it and the fourth ends it. */
static inline unsigned rig_state(uint64_t mark)
{
	return mark % 5 == 1 ? JSTATE_FIRST : mark % 5 == 4 ? JSTATE_LAST : JSTATE_NONE;
}

/* Where the newest whole state that was appended since the opening begins; 0: there is none. */
static inline uint64_t rig_whole_state(const struct rig_log *l)
{
	uint64_t end = l->appended >= 4 ? (l->appended - 4) / 5 * 5 + 4 : 0;

	return end > 3 && end - 3 > l->opened ? end - 3 : 0;
}

static inline bool rig_append(struct rig *r, int log)
{
	uint64_t mark = r->l[log].appended + 1;
	uint32_t n = rig_len(r, log, mark);
	struct jappend a = {.log = r->log[log], .type = (uint32_t)mark * 3, .mark = mark, .state = rig_state(mark)};

	CHECK(mark < RIG_MARKS);
	if ((mark - 1) / 5 * 5 + 1 <= r->l[log].opened) /* its beginning was another process's */
		a.state = JSTATE_NONE;
	if (r->each_is_state)
		a.state = JSTATE_FIRST | JSTATE_LAST;
	if (r->payload[log][mark] == NULL) {
		r->payload[log][mark] = malloc(n + 1);
		CHECK(r->payload[log][mark] != NULL);
		rig_fill(r->payload[log][mark], n, log, mark);
	}
	a.head = (struct span){r->payload[log][mark], n / 3};
	a.body = (struct span){r->payload[log][mark] + n / 3, n - n / 3};
	if (!journal_appendv(r->port[log], &a))
		return false;
	r->l[log].appended = mark;
	return true;
}

/* Turns until there is nothing to do. 0 or the journal's error. */
static inline int rig_turn(struct rig *r)
{
	bool worked = true;
	int err = 0;

	while (worked && err == 0) {
		err = journal_turn(r->j, &worked);
		CHECK(rig_spares_are_listed(r));
		for (int i = 0; i < RIG_LOGS; i++)
			r->l[i].published = jlog_durable(r->log[i]);
	}
	return err;
}

/* A while in the life of a journal: groups of several sizes, trims, notes. 0 or the journal's error. */
static inline int rig_live(struct rig *r, int rounds)
{
	int err = 0;

	for (int i = 0; i < rounds && err == 0; i++) {
		uint64_t dice = rig_random(r);
		int log = (int)((dice >> 8) % RIG_LOGS);
		int n = 1 + (int)((dice >> 16) % 6);

		for (int k = 0; k < n; k++)
			rig_append(r, (dice >> (20 + k)) & 1 ? log : (int)(dice & 1));
		if (dice % 5 == 0 && r->l[log].published > 12 && rig_whole_state(&r->l[log]) > 0) {
			r->l[log].trimmed = r->l[log].published - 4;
			r->l[log].kept = rig_whole_state(&r->l[log]);
			journal_trim(r->port[log], r->log[log], r->l[log].trimmed);
		}
		err = rig_turn(r);
		if (err == 0 && dice % 7 == 0)
			err = journal_note_idle(r->j);
	}
	return err;
}

static inline int rig_close(struct rig *r)
{
	int err = journal_close(r->j);

	r->j = NULL;
	return err;
}

/* After rig_open: what is there against what was promised. `power`: unsynced bytes may be gone. */
static inline const char *rig_check(struct rig *r, bool power)
{
	for (int i = 0; i < RIG_LOGS; i++) {
		struct rig_log *l = &r->l[i];

		if (l->wrong != NULL)
			return l->wrong;
		if (l->last > l->appended)
			return "more than was appended";
		if (l->last < l->published && !(power && r->log_opts.durability == JLOG_WRITE))
			return "a published record is gone";
		if (l->count > 0 && l->first > 1 && l->first > l->trimmed)
			return "records before the trimmed ones' end are gone";
		if (l->count > 0 && l->first > 1 && l->first > l->kept)
			return "a trim dropped the state that it was to keep";
		if (l->count > 0 && l->where[l->first] >> 32 < r->log[i]->first_live)
			return "records of a segment that is not live were replayed";
		if (jlog_durable(r->log[i]) != l->last)
			return "the mark is not the last record's";
	}
	return NULL;
}

/* Takes what recovery found as the truth to go on from. */
static inline void rig_adopt(struct rig *r)
{
	for (int i = 0; i < RIG_LOGS; i++)
		r->l[i].appended = r->l[i].published = r->l[i].last;
}

/* Takes over another rig's knowledge, for looking at a copy of its disk. */
static inline void rig_know(struct rig *r, const struct rig *from)
{
	r->opts.method = from->opts.method;
	r->log_opts = from->log_opts;
	r->max_len = from->max_len;
	r->one_file = from->one_file;
	r->seed = from->seed;
	for (int i = 0; i < RIG_LOGS; i++)
		r->l[i] = from->l[i];
}

#endif
