/* Many streams: what one costs that nobody uses, and that few descriptors are enough for all. On the real file system, without the threads but the keeper's. */
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/journal_internal.h"
#include "queue/stream_impl.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#define STREAMS 120u
#define FILES 12u
#define SHARDS 8u

static struct {
	char dir[128];
	struct journal *journal;
	struct streams *ss;
	struct streams_view *view[SHARDS];
	struct doorbell bell;
	uint32_t acked;
} rig;

static void on_published(void *ctx, void *user, const struct stream_answer *a)
{
	rig.acked++;
}

static void on_refused(void *ctx, void *user, enum stream_error why)
{
	fail_msg("refused: %d", (int)why);
}

static void on_ready(void *ctx, void *user)
{
}

static const struct streams_view_ops ops = {on_published, on_refused, on_ready};

static void open_all(void)
{
	struct journal_opts jo = {.dir = rig.dir, .files_max = FILES};
	struct streams_opts so = {.shards = SHARDS,
				  .streams_max = STREAMS,
				  .create = true,
				  .segment_bytes = 64u << 20,
				  .memory_bytes = 32u << 20,
				  .payload_max = 4u << 20,
				  .publishers_max = 1024,
				  .numbers_max = 1024,
				  .held_max = 1u << 20};
	const char *why = "";

	if (journal_open(&jo, &rig.journal, &why) != 0 || streams_open(&so, rig.journal, &rig.ss, &why) != 0)
		fail_msg("%s", why);
	for (unsigned i = 0; i < SHARDS; i++) {
		rig.view[i] = streams_view_new(rig.ss, i, &rig.bell);
		assert_non_null(rig.view[i]);
	}
}

static void close_all(void)
{
	assert_int_equal(journal_close(rig.journal), 0);
	for (unsigned i = 0; i < SHARDS; i++)
		streams_view_free(rig.view[i]);
	streams_free(rig.ss);
}

static void turn_all(void)
{
	bool worked;

	keeper_turn(rig.ss);
	for (unsigned i = 0; i < SHARDS; i++)
		streams_view_turn(rig.view[i], &ops, NULL);
	assert_int_equal(journal_turn(rig.journal, &worked), 0);
}

static void publish_to(uint32_t streams)
{
	uint32_t until = rig.acked + streams;
	char name[16];

	for (uint32_t i = 0; i < streams; i++) {
		int n = snprintf(name, sizeof name, "s%u", i);
		struct stream_request r = {.stream = {(const uint8_t *)name, (size_t)n}, .payload = SPAN_LIT("x")};
		struct stream_publish *p;

		assert_int_equal(streams_publish(rig.view[i % SHARDS], &r, NULL, &p), STREAM_E_OK);
	}
	while (rig.acked < until)
		turn_all();
}

static int setup(void **state)
{
	snprintf(rig.dir, sizeof rig.dir, "/tmp/test_stream_many.XXXXXX");
	log_set_level(LOG_LEVEL_WARN);
	return mkdtemp(rig.dir) != NULL && doorbell_init(&rig.bell) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	char command[200];

	snprintf(command, sizeof command, "rm -rf '%s'", rig.dir);
	doorbell_done(&rig.bell);
	return system(command);
}

static int descriptors(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

static size_t allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* Each took 12 KB at least, most of it for what only a stream in use needs, and a descriptor. */
static void an_idle_stream_takes_little_memory_and_no_descriptor(void **state)
{
	size_t before, one, all;
	int files;

	open_all();
	publish_to(1);
	publish_to(1);
	close_all();
	before = allocated();
	open_all();
	one = allocated() - before;
	files = descriptors();
	publish_to(STREAMS);
	publish_to(STREAMS);
	assert_true(descriptors() <= files + (int)FILES);
	close_all();
	before = allocated();
	open_all();
	all = allocated() - before;
	assert_int_equal(streams_count(rig.ss), STREAMS);
	assert_true(descriptors() <= files);
	if (one > 0) /* a sanitizer's allocator does not say */
		assert_in_range(all, one, one + (STREAMS - 1) * 4000);
	close_all();
}

/* What is only made when it is needed is there when it is. */
static void streams_go_on_after_a_restart(void **state)
{
	open_all();
	for (uint32_t i = 0; i < STREAMS; i++) {
		struct stream *s = streams_at(rig.ss, i);

		assert_null(atomic_load(&s->dir));
		assert_true(s->own.next_offset >= 3);
	}
	publish_to(STREAMS);
	for (uint32_t i = 0; i < STREAMS; i++) {
		const struct stream *s = streams_at(rig.ss, i);
		uint64_t pos, offset;

		edge_get(&s->durable, &pos, &offset);
		assert_true(offset >= 3);
		assert_int_equal(s->own.pending_count, 0);
		for (unsigned k = 0; k < SHARDS; k++)
			assert_null(atomic_load(&s->local[k]));
	}
	assert_int_equal(streams_frames_published(rig.ss), STREAMS);
	close_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_stream_takes_little_memory_and_no_descriptor),
		cmocka_unit_test(streams_go_on_after_a_restart),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
