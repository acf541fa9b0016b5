/* All streams: opening them from the journal, names and rules, and what any thread may ask about them. Main thread, but for the getters.
 *
 * Streams live in an array of pointers that never moves; they are added by the main thread at start and by the keeper afterwards, and never removed.
 */
#include "queue/stream_impl.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/sequence.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* ---- rules of durability ---- */

static const char *const durability_words[] = {"fsync", "write", "memory"};

/* Takes the first rule off *rules. 1, 0: there is none, -EINVAL. */
static int take_rule(const char **rules, struct span *ret_pattern, enum stream_durability *ret)
{
	const char *p = *rules, *eq, *end;

	while (*p == ',' || *p == ' ')
		p++;
	if (*p == '\0')
		return 0;
	end = p + strcspn(p, ",");
	while (end > p && end[-1] == ' ')
		end--;
	for (eq = end; eq > p && *eq != '=';)
		eq--;
	if (*eq != '=')
		return -EINVAL;
	*ret_pattern = (struct span){(const uint8_t *)p, (size_t)(eq - p)};
	*rules = end;
	for (unsigned i = 0; i < ARRAY_SIZE(durability_words); i++) {
		if (strlen(durability_words[i]) == (size_t)(end - eq - 1) &&
		    memcmp(eq + 1, durability_words[i], (size_t)(end - eq - 1)) == 0) {
			*ret = (enum stream_durability)i;
			return 1;
		}
	}
	return -EINVAL;
}

int streams_rules_check(const char *rules, const char **ret_why)
{
	enum stream_durability d;
	struct span pattern;
	int got = 1;

	while (rules != NULL && got > 0)
		got = take_rule(&rules, &pattern, &d);
	if (rules == NULL || got == 0)
		return 0;
	*ret_why =
		"a rule of durability is written NAME=fsync, NAME=write or NAME=memory; a NAME may end in *, and commas part rules";
	return -EINVAL;
}

enum stream_durability streams_durability_of(const struct streams *ss, struct span name)
{
	enum stream_durability best = ss->opts.durability, d;
	const char *rules = ss->rules;
	struct span pattern;
	size_t best_n = 0;

	while (take_rule(&rules, &pattern, &d) > 0) {
		if (span_eq(pattern, name))
			return d;
		if (pattern.n == 0 || pattern.p[pattern.n - 1] != '*' || pattern.n < best_n || pattern.n - 1 > name.n)
			continue;
		if (pattern.n > 1 && memcmp(pattern.p, name.p, pattern.n - 1) != 0)
			continue;
		best = d;
		best_n = pattern.n;
	}
	return best;
}

/* ---- opening ---- */

static struct span registry_name(const void *ctx, uint32_t index)
{
	return stream_name(streams_at(ctx, index));
}

int streams_add(struct streams *ss, struct stream *s)
{
	uint32_t i = atomic_load_explicit(&ss->count, memory_order_relaxed);
	int err = names_add(&ss->names, names_hash(&ss->names, stream_name(s)), i);

	if (err != 0)
		return err;
	s->index = i;
	atomic_store_explicit(&ss->streams[i], s, memory_order_relaxed);
	atomic_store_explicit(&ss->count, i + 1, memory_order_release); /* pairs with streams_published */
	return 0;
}

int stream_logs_add(void *ctx, const char *name)
{
	struct stream_logs *f = ctx;

	if (strncmp(name, LOG_PREFIX, sizeof LOG_PREFIX - 1) != 0 || strlen(name) >= sizeof f->name[0])
		return 0;
	if (f->n == f->room) {
		uint32_t room = f->room ? 2 * f->room : 16;
		void *grown = reallocarray(f->name, room, sizeof f->name[0]);

		if (grown == NULL)
			return -ENOMEM;
		f->name = grown;
		f->room = room;
	}
	memcpy(f->name[f->n++], name, strlen(name) + 1);
	return 0;
}

#define CLOSED_TOLD_MAX 16u /* damaged streams that the log names one by one */

struct missing {
	char log[208];
	uint32_t count;
};

static int missing_add(void *ctx, const char *name)
{
	struct missing *m = ctx;

	if (strncmp(name, LOG_PREFIX, sizeof LOG_PREFIX - 1) != 0)
		return 0;
	if (m->count++ == 0)
		snprintf(m->log, sizeof m->log, "%s", name);
	return 0;
}

/* One damaged stream is no reason not to serve the others. Nothing of its log is changed. */
static struct stream *make_closed(struct streams *ss, const char *log, struct span name, const char *damage)
{
	struct stream *s = stream_make_closed(ss, name, damage);

	if (s != NULL && ss->opening.closed++ < CLOSED_TOLD_MAX)
		log_error(
			"stream \"%s\" is damaged and not served, the others are; `ordinald --quarantine %s`, once the "
			"daemon is stopped, sets it aside: %s",
			s->name, stream_operand(log), stream_damage(s));
	return s;
}

/* `others`: so many more streams have no log any more. */
static int open_one(struct streams *ss, const char *log, uint32_t others, const char **ret_why)
{
	static _Thread_local char text[1024];
	uint8_t name[STREAM_NAME_MAX];
	char more[64] = "";
	struct stream *s;
	size_t n;
	int err;

	if (!stream_name_of_log(log, name, &n)) {
		snprintf(text, sizeof text, "the data directory has a folder %.208s, which is no stream's", log);
		*ret_why = text;
		return -EBADMSG;
	}
	err = stream_make(ss, (struct span){name, n}, true, &s, ret_why);
	if (err == -EBADMSG) {
		s = make_closed(ss, log, (struct span){name, n}, *ret_why);
		*ret_why = "out of memory";
		err = s != NULL ? 0 : -ENOMEM;
	}
	if (err == -ENOENT) {
		if (others > 0)
			snprintf(more, sizeof more, ", and so are those of %" PRIu32 " more streams", others);
		snprintf(
			text, sizeof text,
			"the log of the stream \"%.*s\" is missing%s: %s. Put it back; or, to accept on purpose that its frames are lost, "
			"run `ordinald --accept-loss %s`",
			(int)n, (const char *)name, more, *ret_why, stream_operand(log));
		*ret_why = text;
	}
	if (err != 0)
		return err;
	err = streams_add(ss, s);
	if (err != 0)
		stream_free(s);
	return err;
}

bool opening_is_long(struct opening *o)
{
	uint64_t now = clock_mono_ns();

	if (now - o->said_ns < o->pause_ns)
		return false;
	o->said_ns = now;
	o->pause_ns *= 2;
	return true;
}

/* First of all those whose folder is gone, which is refused. */
static int open_found(struct streams *ss, const struct stream_logs *f, const char **ret_why)
{
	struct missing missing = {.count = 0};
	int err = journal_each_missing(ss->journal, missing_add, &missing);

	if (err == 0 && missing.count > 0)
		err = open_one(ss, missing.log, missing.count - 1, ret_why);
	for (uint32_t i = 0; i < f->n && err == 0; i++) {
		err = open_one(ss, f->name[i], 0, ret_why);
		if (opening_is_long(&ss->opening))
			log_info("%" PRIu32 " of %" PRIu32 " streams are open", i + 1, f->n);
	}
	if (err == 0 && ss->opening.closed > 0)
		log_error("%" PRIu32 " of %" PRIu32
			  " streams are damaged and not served; `ordinald --check-data` names them all",
			  ss->opening.closed, f->n);
	if (err == 0 && ss->opening.lost > 0)
		log_warn(
			"the machine went down without a clean stop: of %" PRIu32
			" streams whose durability was \"write\", \"%s\" among them, frames that subscribers had seen may be gone. They go on "
			"in a new incarnation",
			ss->opening.lost, ss->opening.lost_first->name);
	if (err == 0 && f->n > 0)
		log_info("%" PRIu32 " streams: %" PRIu64 " frames, %" PRIu64 " of them out of order, in %.2f s", f->n,
			 ss->opening.frames, ss->opening.late, (double)(clock_mono_ns() - ss->opening.began_ns) / 1e9);
	return err;
}

static const char *opts_why(const struct streams_opts *o)
{
	const char *why = NULL;

	if (o->shards == 0 || o->shards > STREAM_SHARDS_MAX)
		return "the number of shards must be 1 to 128";
	if (o->streams_max == 0 || o->streams_max > 1u << 20)
		return "the number of streams must be 1 to 2^20";
	if (o->segment_bytes < SEGMENT_BYTES_MIN || o->segment_bytes > JOURNAL_SEGMENT_MAX)
		return "a stream's segments must have 256 KiB to 1 GiB";
	if (o->publishers_max == 0 || o->numbers_max == 0)
		return "publishers_max and numbers_max must be at least 1";
	if (o->payload_max == 0)
		return "the largest payload must be at least 1 byte";
	streams_rules_check(o->durability_rules, &why);
	return why;
}

static int alloc_parts(struct streams *ss, uint32_t found)
{
	const struct streams_opts *o = &ss->opts;
	size_t ports = o->shards * sizeof *ss->ports;

	ss->rules = strdup(o->durability_rules ? o->durability_rules : "");
	ss->opts.durability_rules = ss->rules;
	ss->capacity = o->streams_max > found ? o->streams_max : found;
	ss->streams = calloc(ss->capacity, sizeof *ss->streams);
	ss->ports = aligned_alloc(CACHE_LINE, ports);
	if (ss->rules == NULL || ss->streams == NULL || ss->ports == NULL)
		return -ENOMEM;
	memset(ss->ports, 0, ports);
	ss->payload_max = (o->segment_bytes < JOURNAL_RECORD_MAX ? o->segment_bytes : JOURNAL_RECORD_MAX) - 8192;
	/* the rest is in the 8192 */
	ss->payload_max -= RECORD_HEAD_1 + FRAME_OVERHEAD_MAX + STREAM_PUBLISHER_MAX;
	if (ss->payload_max > o->payload_max)
		ss->payload_max = o->payload_max;
	ss->frame_max = ss->payload_max + FRAME_OVERHEAD_MAX + STREAM_PUBLISHER_MAX;
	ss->piece_max = reader_piece_max(ss->frame_max);
	return reader_new(ss);
}

static int worker_init(struct worker *w)
{
	int err = doorbell_init(&w->bell);

	if (err == 0)
		atomic_init(&w->inbox.bell, &w->bell);
	return err;
}

static struct streams *alloc_streams(const struct streams_opts *opts, struct journal *j)
{
	struct streams *ss = aligned_alloc(CACHE_LINE, (sizeof *ss + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);

	if (ss == NULL)
		return NULL;
	memset(ss, 0, sizeof *ss);
	ss->opts = *opts;
	ss->journal = j;
	ss->opening.began_ns = ss->opening.said_ns = clock_mono_ns();
	ss->opening.pause_ns = NS_PER_S;
	ss->keeper.bell.fd = ss->reader.bell.fd = -1;
	return ss;
}

struct streams *streams_new(const struct streams_opts *opts, struct journal *j, uint32_t found)
{
	struct streams *ss = alloc_streams(opts, j);
	int err;

	if (ss == NULL)
		return NULL;
	err = names_init(&ss->names, NULL, registry_name, ss);
	if (err == 0) {
		memcpy(ss->hash_key, ss->names.key, sizeof ss->hash_key);
		err = alloc_parts(ss, found);
	}
	if (err == 0)
		err = worker_init(&ss->keeper);
	if (err == 0)
		err = worker_init(&ss->reader);
	if (err == 0)
		return ss;
	streams_free(ss);
	return NULL;
}

int streams_open(const struct streams_opts *opts, struct journal *j, struct streams **ret, const char **ret_why)
{
	const char *why = opts_why(opts);
	struct stream_logs found = {.n = 0};
	struct streams *ss = NULL;
	int err = -EINVAL;

	if (why != NULL) {
		if (ret_why != NULL)
			*ret_why = why;
		return err;
	}
	why = "out of memory, or of file descriptors";
	err = journal_each_log(j, stream_logs_add, &found);
	if (err == 0) {
		ss = streams_new(opts, j, found.n);
		err = ss != NULL ? open_found(ss, &found, &why) : -ENOMEM;
	}
	free(found.name);
	if (err == 0) {
		*ret = ss;
		return 0;
	}
	streams_free(ss);
	if (ret_why != NULL)
		*ret_why = why;
	return err;
}

/* ---- threads ---- */

static int worker_start(struct worker *w, struct streams *ss, void *(*run)(void *), const char *name)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits it: signals are the main thread's */
	err = pthread_create(&w->thread, NULL, run, ss);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err == 0) {
		pthread_setname_np(w->thread, name);
		w->started = true;
	}
	return -err;
}

static void worker_stop(struct worker *w)
{
	if (!w->started)
		return;
	atomic_store_explicit(&w->stop, true, memory_order_release);
	doorbell_ring(&w->bell);
	pthread_join(w->thread, NULL);
	w->started = false;
}

int streams_start(struct streams *ss)
{
	int err = worker_start(&ss->keeper, ss, keeper_main, "keeper");

	if (err == 0)
		err = worker_start(&ss->reader, ss, reader_main, "reader");
	if (err != 0)
		streams_stop(ss);
	return err;
}

void streams_stop(struct streams *ss)
{
	worker_stop(&ss->keeper);
	worker_stop(&ss->reader);
}

void streams_free(struct streams *ss)
{
	if (ss == NULL)
		return;
	CHECK(!ss->keeper.started && !ss->reader.started);
	for (uint32_t i = 0; i < streams_published(ss); i++)
		stream_free(streams_at(ss, i));
	reader_free(ss);
	if (ss->keeper.bell.fd >= 0)
		doorbell_done(&ss->keeper.bell);
	if (ss->reader.bell.fd >= 0)
		doorbell_done(&ss->reader.bell);
	names_done(&ss->names);
	for (unsigned i = 0; ss->ports != NULL && i < ss->opts.shards; i++)
		pendings_free(ss->ports[i].spare);
	free(ss->streams);
	free(ss->ports);
	free(ss->rules);
	free(ss);
}

/* ---- for any thread ---- */

uint32_t streams_count(const struct streams *ss)
{
	return streams_published(ss);
}

uint32_t streams_stopped(const struct streams *ss)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < streams_published(ss); i++)
		n += stream_damage(streams_at(ss, i)) != NULL;
	return n;
}

uint32_t stream_index(const struct stream *s)
{
	return s->index;
}

uint64_t stream_incarnation(const struct stream *s)
{
	return s->incarnation;
}

uint64_t streams_frames_published(const struct streams *ss)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < ss->opts.shards; i++)
		sum += count_get(&ss->ports[i].published);
	return sum;
}

void streams_info(const struct streams *ss, uint32_t i, struct stream_stats *ret)
{
	const struct stream *s = streams_at(ss, i);
	uint64_t pos;

	*ret = (struct stream_stats){
		.owner = s->owner,
		.durability = s->durability,
		.incarnation = s->incarnation,
		.next_offset = count_get(&s->stat_next),
		.published = count_get(&s->published),
		.published_bytes = count_get(&s->published_bytes),
		.late = count_get(&s->stat_late),
		.memory_bytes = count_get(&s->stat_memory),
		.index_bytes = count_get(&s->stat_index),
		.duplicates = count_get(&s->duplicates),
		.stale = count_get(&s->stale),
		.stopped = stream_damage(s) != NULL,
		.why = stream_damage(s),
	};
	memcpy(ret->name, s->name, sizeof ret->name);
	edge_get(&s->durable, &pos, &ret->durable_offset);
	edge_get(&s->first, &pos, &ret->first_offset);
	if (ret->next_offset <= ret->durable_offset)
		ret->next_offset = ret->durable_offset + 1;
	if (ret->durable_offset >= ret->first_offset)
		ret->frames = ret->durable_offset - ret->first_offset + 1;
	ret->bytes = s->log ? jlog_bytes(s->log) : ret->memory_bytes;
	for (unsigned k = 0; k < ss->opts.shards; k++) {
		const struct stream_local *l = atomic_load_explicit(&s->local[k],
								    memory_order_acquire); /* pairs with local_of */

		if (l == NULL)
			continue;
		ret->reads_memory += count_get(&l->reads_memory);
		ret->reads_disk += count_get(&l->reads_disk);
		ret->gaps += count_get(&l->gaps);
		ret->damaged += count_get(&l->damaged);
		ret->cursors += count_get(&l->cursors);
		ret->live_cursors += count_get(&l->live_cursors);
	}
}

const char *stream_error_text(const struct streams *ss, enum stream_error e, char *buf, size_t cap)
{
	switch (e) {
	case STREAM_E_OK:
		snprintf(buf, cap, "no error");
		break;
	case STREAM_E_NAME:
		snprintf(buf, cap, "a stream's name must be UTF-8 without control characters, of at most %d bytes",
			 STREAM_NAME_MAX);
		break;
	case STREAM_E_UNKNOWN:
		snprintf(buf, cap, "there is no such stream, and FEED_STREAM_CREATE is off");
		break;
	case STREAM_E_ABSENT:
		snprintf(
			buf, cap,
			"there is no such stream yet, and this caller may not make one: that takes the right to publish to it. It is there once "
			"somebody who may has published to it; subscribe again then");
		break;
	case STREAM_E_LIMIT:
		snprintf(buf, cap, "there are %" PRIu32 " streams already (FEED_STREAMS_MAX)", ss->opts.streams_max);
		break;
	case STREAM_E_OPEN:
		snprintf(buf, cap, "the stream could not be created; the server's log says why");
		break;
	case STREAM_E_PAYLOAD:
		snprintf(buf, cap, "payload must be at most %" PRIu32 " bytes (%s)", ss->payload_max,
			 ss->payload_max == ss->opts.payload_max ? "FEED_FRAME_MAX" : "FEED_SEGMENT_BYTES");
		break;
	case STREAM_E_PUBLISHER:
		snprintf(
			buf, cap,
			"publisher must be UTF-8 without control characters, of at most %d bytes, and is needed with publisher_seq",
			STREAM_PUBLISHER_MAX);
		break;
	case STREAM_E_STALE:
		snprintf(buf, cap,
			 "publisher_seq is older than the %" PRIu32
			 " numbers that are remembered of this publisher (FEED_NUMBERS_MAX)",
			 ss->opts.numbers_max);
		break;
	case STREAM_E_BUSY:
		snprintf(buf, cap, "too much waits for the disk or for memory; try again later");
		break;
	case STREAM_E_FAILED:
		snprintf(buf, cap, "the journal has failed: whether the frame is kept is not known");
		break;
	case STREAM_E_OVERTAKEN:
		snprintf(
			buf, cap,
			"retention dropped a frame while this subscriber was in the middle of it; subscribe again, and a GAP "
			"tells what is gone");
		break;
	case STREAM_E_DAMAGED:
		snprintf(buf, cap, "the stream is damaged on the server's disk");
		break;
	case STREAM_E_INCARNATION:
		snprintf(buf, cap, "the stream is in another incarnation");
		break;
	case STREAM_E_BEYOND:
		snprintf(buf, cap, "resume_offset is beyond the end of the stream");
		break;
	}
	return buf;
}

const char *stream_refusal_text(const struct streams *ss, enum stream_error e, const struct stream *s, char *buf,
				size_t cap)
{
	const char *why = e == STREAM_E_DAMAGED && s != NULL ? stream_damage(s) : NULL;
	char log[208];

	if (why == NULL)
		return stream_error_text(ss, e, buf, cap);
	stream_log_name(log, stream_name(s));
	if (s->closed)
		snprintf(
			buf, cap,
			"stream \"%s\" is damaged and not served (`ordinald --quarantine %s`, once the server is stopped, "
			"sets it aside): %s",
			s->name, stream_operand(log), why);
	else
		snprintf(buf, cap, "stream \"%s\" takes no frames any more: %s", s->name, why);
	return buf;
}

const char *stream_damage(const struct stream *s)
{
	return atomic_load_explicit(&s->damage, memory_order_acquire); /* pairs with stream_set_damage */
}
