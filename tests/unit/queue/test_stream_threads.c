/* Streams as the daemon runs them: shards, journal, keeper and reader are threads, the disk is real. Every subscriber gets what every publisher
 * published, once, in order, while others come and go; memory is small, so that much is read from disk. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/stream_view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
/* after those */
#include <cmocka.h>

#define SHARDS 3
#define STREAMS 4
#define FRAMES 2500u /* of each shard to each stream */
#define SUBS 4       /* of each shard to each stream */
#define WINDOW 300u  /* publishes of a shard under way */
#define SIZE 400u

struct sub {
	struct stream_cursor *cursor;
	unsigned stream;
	bool ready, caught_up;
	uint64_t given, last_seq, last_offset, again;
	uint64_t next[SHARDS]; /* live: of each publisher, the number that comes next */
};

static struct shard {
	struct streams_view *view;
	struct doorbell bell;
	pthread_t thread;
	unsigned index, pending;
	uint32_t sent[STREAMS], acked[STREAMS];
	struct sub subs[STREAMS * SUBS];
	const char *wrong;
} shards[SHARDS];

static struct streams *ss;
static struct journal *j;
static atomic_uint done;

static void on_published(void *ctx, void *user, const struct stream_answer *a)
{
	struct shard *s = ctx;

	(void)a;
	s->pending--;
	s->acked[(uintptr_t)user]++;
}

static void on_refused(void *ctx, void *user, enum stream_error why)
{
	(void)user;
	(void)why;
	((struct shard *)ctx)->wrong = "a publish was refused";
}

static void on_ready(void *ctx, void *user)
{
	(void)ctx;
	((struct sub *)user)->ready = true;
}

static const struct streams_view_ops ops = {.published = on_published, .refused = on_refused, .ready = on_ready};

static struct span name_of(unsigned stream)
{
	static const char *const names[STREAMS] = {"alpha", "beta", "gamma", "delta"};

	return (struct span){(const uint8_t *)names[stream], strlen(names[stream])};
}

/* Number n of this shard; one in ten is late. */
static void publish(struct shard *s, unsigned stream)
{
	uint8_t payload[SIZE + 8] = {(uint8_t)s->index};
	uint32_t n = s->sent[stream];
	struct stream_request r = {.stream = name_of(stream),
				   .seq_no = n % 10 == 3 && n > 50 ? n - 40 : n,
				   .payload = {payload, n % SIZE + 5}};
	struct stream_publish *p;

	store_le32(payload + 1, n);
	if (streams_publish(s->view, &r, (void *)(uintptr_t)stream, &p) != STREAM_E_OK)
		return;
	s->sent[stream]++;
	s->pending++;
}

static void take(struct shard *s, struct sub *sub, struct stream_slice *sl)
{
	struct span rest = {sl->p, sl->n};

	while (rest.n > 0) {
		unsigned from;
		struct frame f;
		size_t size;

		if (frame_get(rest, &f, &size) != 0 || !frame_is_whole((struct span){rest.p, size}))
			s->wrong = "not a frame";
		from = f.payload.p[0];
		if (sub->given++ > 0 && !sub->caught_up && f.seq_no < sub->last_seq)
			s->wrong = "history is not in order";
		if (sub->caught_up && f.offset <= sub->last_offset)
			s->wrong = "live frames are not in order";
		if (sub->caught_up && load_le32(f.payload.p + 1) < sub->next[from])
			s->wrong = "a publisher's frames are not in order";
		if (sub->caught_up) {
			sub->next[from] = load_le32(f.payload.p + 1);
			sub->last_offset = f.offset;
		}
		sub->last_seq = f.seq_no;
		rest = (struct span){rest.p + size, rest.n - size};
	}
	stream_slice_put(s->view, sl);
}

static bool open_sub(struct shard *s, unsigned i)
{
	struct sub *sub = &s->subs[i];
	uint64_t again = sub->again;

	*sub = (struct sub){.stream = i % STREAMS, .ready = true, .again = again};
	return stream_cursor_open(s->view, &(struct stream_start){.stream = name_of(sub->stream)}, sub, &sub->cursor) ==
	       STREAM_E_OK;
}

static bool pull(struct shard *s, struct sub *sub, size_t max)
{
	struct stream_slice sl;

	for (unsigned k = 0; k < 4 && sub->ready; k++) {
		switch (stream_cursor_next(sub->cursor, max, &sl)) {
		case CURSOR_SLICE:
			take(s, sub, &sl);
			break;
		case CURSOR_CAUGHT_UP:
			sub->caught_up = true;
			break;
		case CURSOR_WAIT:
			sub->ready = false;
			break;
		case CURSOR_COLD:
			stream_cursor_read(sub->cursor);
			break;
		case CURSOR_GAP:
			s->wrong = "a gap";
			return false;
		case CURSOR_ENDED:
			s->wrong = "ended";
			return false;
		case CURSOR_BEGUN:
			s->wrong = "begun, which nobody has asked about";
			return false;
		}
	}
	return sub->ready;
}

static bool is_complete(const struct shard *s)
{
	for (unsigned i = 0; i < STREAMS; i++)
		if (s->acked[i] != FRAMES)
			return false;
	for (unsigned i = 0; i < STREAMS * SUBS; i++)
		if (s->subs[i].given != (uint64_t)FRAMES * SHARDS)
			return false;
	return true;
}

static bool work(struct shard *s, unsigned round)
{
	bool busy = false;

	for (unsigned i = 0; i < STREAMS; i++) {
		if (s->sent[i] == FRAMES || s->pending >= WINDOW)
			continue;
		publish(s, i);
		busy = true;
	}
	for (unsigned i = 0; i < STREAMS * SUBS; i++) {
		struct sub *sub = &s->subs[i];

		/* every other one leaves at times, and begins again */
		if (i % 2 == 1 && sub->again < 3 && sub->given > 3000) {
			stream_cursor_close(sub->cursor);
			sub->again++;
			if (!open_sub(s, i))
				s->wrong = "cannot subscribe";
		}
		if (sub->ready && (i % 5 != 0 || round % 16 == 0)) /* some are slow */
			busy = pull(s, sub, 5000 + i * 7000) || busy;
	}
	streams_view_turn(s->view, &ops, s);
	return busy;
}

static void *run(void *arg)
{
	struct shard *s = arg;
	bool counted = false;

	for (unsigned i = 0; i < STREAMS * SUBS; i++)
		if (!open_sub(s, i))
			s->wrong = "cannot subscribe";
	for (unsigned round = 0; s->wrong == NULL; round++) {
		bool busy = work(s, round);

		if (!counted && is_complete(s)) {
			counted = true;
			atomic_fetch_add(&done, 1);
			for (unsigned i = 0; i < SHARDS; i++)
				doorbell_ring(&shards[i].bell);
		}
		if (atomic_load(&done) == SHARDS)
			break;
		if (busy)
			continue;
		doorbell_arm(&s->bell);
		if (streams_view_has_work(s->view) || atomic_load(&done) == SHARDS)
			doorbell_disarm(&s->bell);
		else
			doorbell_wait(&s->bell, NS_PER_MS / 4); /* the slow ones look again */
	}
	for (unsigned i = 0; i < STREAMS * SUBS; i++)
		stream_cursor_close(s->subs[i].cursor);
	atomic_store(&done, SHARDS);
	return NULL;
}

static void test_everybody_gets_everything(void **state)
{
	char dir[] = "/tmp/streams-test-XXXXXX", command[64];
	struct journal_opts jo = {.dir = dir, .group_max = 1u << 20};
	struct streams_opts so = {.shards = SHARDS,
				  .streams_max = STREAMS,
				  .create = true,
				  .segment_bytes = 1u << 20,
				  .memory_bytes = 1u << 20,
				  .payload_max = 1000,
				  .publishers_max = 1024,
				  .numbers_max = 1024,
				  .held_max = 1u << 20,
				  .durability = STREAM_WRITE};
	const char *why = "";
	uint64_t disk = 0;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(journal_open(&jo, &j, &why), 0);
	assert_int_equal(streams_open(&so, j, &ss, &why), 0);
	assert_int_equal(journal_start(j), 0);
	assert_int_equal(streams_start(ss), 0);
	for (unsigned i = 0; i < SHARDS; i++) {
		shards[i].index = i;
		assert_int_equal(doorbell_init(&shards[i].bell), 0);
		shards[i].view = streams_view_new(ss, i, &shards[i].bell);
		assert_non_null(shards[i].view);
	}
	for (unsigned i = 0; i < SHARDS; i++)
		assert_int_equal(pthread_create(&shards[i].thread, NULL, run, &shards[i]), 0);
	for (unsigned i = 0; i < SHARDS; i++)
		assert_int_equal(pthread_join(shards[i].thread, NULL), 0);
	for (unsigned i = 0; i < SHARDS; i++)
		if (shards[i].wrong != NULL)
			fail_msg("%s", shards[i].wrong);
	for (uint32_t i = 0; i < streams_count(ss); i++) {
		struct stream_stats st;

		streams_info(ss, i, &st);
		assert_int_equal(st.durable_offset, FRAMES * SHARDS);
		assert_int_equal(st.damaged, 0);
		disk += st.reads_disk;
	}
	assert_int_equal(streams_count(ss), STREAMS);
	assert_true(disk > 0);
	streams_stop(ss);
	assert_int_equal(journal_close(j), 0);
	for (unsigned i = 0; i < SHARDS; i++) {
		streams_view_free(shards[i].view);
		doorbell_done(&shards[i].bell);
	}
	streams_free(ss);
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everybody_gets_everything),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
