/* The keeper thread: makes streams, which waits for the disk, and looks once a second whether retention has something to drop.
 *
 * It alone adds streams and owns the registry's table. What retention drops is decided here, from the journal's list of segments, and done by the
 * stream's owner, who is sent a note: index first, then journal.
 */
#include "queue/stream_impl.h"
#include "core/base/clock.h"
#include "core/base/log_limit.h"

#include <stdlib.h>
#include <string.h>

#define ROUND_NS NS_PER_S

static void create(struct streams *ss, struct creation *c)
{
	struct span name = {(const uint8_t *)c->name, c->name_len};
	const char *why = "";
	struct stream *s;
	uint32_t i;
	int err;

	if (names_find(&ss->names, c->hash, name, &i)) { /* another shard was quicker */
		c->stream = streams_at(ss, i);
		return;
	}
	if (streams_published(ss) >= ss->opts.streams_max) {
		c->error = STREAM_E_LIMIT;
		return;
	}
	err = stream_make(ss, name, false, &s, &why);
	if (err == 0) {
		err = streams_add(ss, s);
		if (err != 0) {
			stream_free(s);
			why = "out of memory";
		}
	}
	if (err != 0) {
		log_limited(LOG_LEVEL_ERROR, "stream \"%.*s\" cannot be created: %s", (int)c->name_len, c->name, why);
		c->error = journal_has_failed(ss->journal) ? STREAM_E_FAILED : STREAM_E_OPEN;
		return;
	}
	c->stream = s;
}

static uint64_t retention(const struct streams *ss, const struct stream *s, int64_t wall_ns)
{
	const struct streams_opts *o = &ss->opts;
	uint32_t n = jlog_segments(s->log, NULL, 0), room = n + 4;
	struct jsegment *seg = n > 1 ? malloc(room * sizeof *seg) : NULL;
	uint64_t total = 0, below = 0, last = jlog_durable(s->log);

	if (seg == NULL) /* the newest stays; or there is no memory now */
		return 0;
	n = jlog_segments(s->log, seg, room);
	if (n > room)
		n = room;
	for (uint32_t i = 0; i < n; i++)
		total += (uint32_t)seg[i].end;
	for (uint32_t i = 0; i + 1 < n; i++) {
		bool some = seg[i].first_mark <= seg[i].last_mark;
		bool many = o->retain_bytes > 0 && total > o->retain_bytes;
		bool surplus = o->retain_frames > 0 && some && last - seg[i].last_mark >= o->retain_frames;
		bool old = o->retain_seconds > 0 && seg[i + 1].created_ns > 0 &&
			   seg[i + 1].created_ns <= wall_ns - (int64_t)o->retain_seconds * (int64_t)NS_PER_S;

		if (!many && !surplus && !old)
			break;
		total -= (uint32_t)seg[i].end;
		if (some)
			below = seg[i].last_mark + 1;
	}
	free(seg);
	return below;
}

void keeper_round(struct streams *ss, int64_t wall_ns)
{
	for (uint32_t i = 0; i < streams_published(ss); i++) {
		struct stream *s = streams_at(ss, i);
		uint64_t below;

		if (s->log == NULL || stream_damage(s) != NULL ||
		    atomic_load_explicit(&s->trim_sent, memory_order_acquire)) /* pairs with the owner's */
			continue;
		below = retention(ss, s, wall_ns);
		if (below <= s->trim_to)
			continue;
		s->trim_to = below;
		atomic_store_explicit(&s->trim_sent, true, memory_order_relaxed); /* the inbox orders it */
		inbox_push(&ss->ports[s->owner].inbox, &s->trim, NOTE_TRIM);
	}
}

bool keeper_turn(struct streams *ss)
{
	struct note *n = inbox_take(&ss->keeper.inbox);
	bool worked = n != NULL;

	while (n != NULL) {
		struct creation *c = container_of(n, struct creation, note);

		n = n->next;
		create(ss, c);
		inbox_push(c->reply, &c->note, NOTE_CREATED);
	}
	return worked;
}

void *keeper_main(void *arg)
{
	struct streams *ss = arg;
	struct worker *w = &ss->keeper;
	bool retains = ss->opts.retain_bytes > 0 || ss->opts.retain_frames > 0 || ss->opts.retain_seconds > 0;
	uint64_t due = clock_mono_ns() + ROUND_NS;

	log_thread_register("keeper");
	while (!atomic_load_explicit(&w->stop, memory_order_acquire)) { /* pairs with streams_stop */
		uint64_t now = clock_mono_ns();

		if (retains && now >= due) {
			keeper_round(ss, clock_wall_ns());
			due = now + ROUND_NS;
		}
		if (keeper_turn(ss))
			continue;
		doorbell_arm(&w->bell);
		if (inbox_is_empty(&w->inbox) && !atomic_load_explicit(&w->stop, memory_order_acquire))
			doorbell_wait(&w->bell, retains ? due - now : UINT64_MAX);
		else
			doorbell_disarm(&w->bell);
	}
	log_thread_unregister();
	return NULL;
}
