/* Streams on the simulated disk while it fails: what is answered, and what is there afterwards. */
#include "tests/unit/queue/stream_rig.h"

#define ANSWERS 256

/* The rig's model is of one stream; here it is what each publish was answered that counts. */
static struct {
	enum stream_error error;
	uint64_t offset; /* 0: not answered with OK */
	bool answered;
} answer[ANSWERS];

static void told(void *ctx, void *user, const struct stream_answer *a)
{
	uint32_t i = (uint32_t)(uintptr_t)user - 1;

	assert_false(answer[i].answered);
	answer[i].answered = true;
	answer[i].offset = a->offset;
}

static void told_refused(void *ctx, void *user, enum stream_error why)
{
	uint32_t i = (uint32_t)(uintptr_t)user - 1;

	assert_false(answer[i].answered);
	answer[i].answered = true;
	answer[i].error = why;
}

static const struct streams_view_ops told_ops = {.published = told, .refused = told_refused, .ready = on_ready};

/* Turns until nobody has anything to do. */
static void settle(void)
{
	bool worked, w;

	do {
		worked = keeper_turn(rig.ss);
		for (unsigned i = 0; i < rig.opts.shards; i++) {
			worked = streams_view_has_work(rig.view[i]) || worked;
			streams_view_turn(rig.view[i], &told_ops, NULL);
		}
		journal_turn(rig.j, &w);
		worked = reader_turn(rig.ss) || worked || w;
	} while (worked && !(journal_has_failed(rig.j) && rig.view[0]->failed && rig.view[0]->answered.first == NULL));
	for (unsigned i = 0; i < rig.opts.shards; i++)
		streams_view_turn(rig.view[i], &told_ops, NULL);
}

static void begin(uint64_t seed, unsigned shards)
{
	memset(answer, 0, sizeof answer);
	rig_init(seed, shards);
	rig_open();
}

static unsigned count_paths(const char *part)
{
	unsigned n = 0;

	for (int i = 0; i < rig.sim.now.n; i++)
		n += strstr(rig.sim.now.v[i].path, part) != NULL;
	return n;
}

/* The keeper's syncs count as the journal's: the row that found it got UNAVAILABLE, and then OK. */
static void a_failed_sync_while_a_stream_is_made_ends_all_acknowledgements(void **state)
{
	unsigned ended = 0, refused = 0;

	for (uint64_t n = 0;; n++) {
		bool happened, sync;

		begin(n + 1, 2);
		assert_int_equal(publish(0, "old", 1, 1, 10), STREAM_E_OK);
		settle();
		assert_int_equal(answer[0].offset, 1);
		assert_int_equal(publish(0, "new", 2, 2, 10), STREAM_E_OK);
		rig.sim.fail_at = rig.sim.ops + n;
		rig.sim.fail_err = -EIO;
		assert_true(keeper_turn(rig.ss));
		happened = rig.sim.failed;
		sync = happened && (rig.sim.fail_op == SIM_OP_SYNC || rig.sim.fail_op == SIM_OP_SYNC_DIR);
		rig.sim.fail_at = UINT64_MAX;
		if (!happened) {
			rig_close(false);
			break;
		}
		settle();
		assert_true(answer[1].answered && answer[1].offset == 0);
		assert_int_equal(journal_has_failed(rig.j), sync);
		assert_int_equal(rig.failures, sync);
		for (unsigned v = 0; v < 2; v++) {
			enum stream_error e = publish(v, "old", 3, 3, 10);

			assert_int_equal(e, sync ? STREAM_E_FAILED : STREAM_E_OK);
			assert_int_equal(publish(v, "new", 4, 4, 10), e);
		}
		settle();
		for (uint32_t i = 2; i < rig.published; i += 2)
			assert_true(answer[i].offset > 0); /* the new one only if the list of logs is well */
		ended += sync;
		refused += !sync;
		rig_close(false);
	}
	assert_true(ended >= 3 && refused >= 4);
}

/* No room or no descriptors for one more stream: that one is refused, whole, and can be made later. */
static void a_stream_that_cannot_be_made_is_refused_and_leaves_nothing(void **state)
{
	static const int shortages[] = {-ENOSPC, -EDQUOT, -EMFILE, -ENFILE};

	for (size_t k = 0; k < ARRAY_SIZE(shortages); k++)
		for (uint64_t n = 0;; n++) {
			bool happened;

			begin(n + 1, 1);
			assert_int_equal(publish(0, "new", 1, 1, 10), STREAM_E_OK);
			rig.sim.fail_at = rig.sim.ops + n;
			rig.sim.fail_err = shortages[k];
			keeper_turn(rig.ss);
			happened = rig.sim.failed;
			rig.sim.fail_at = UINT64_MAX;
			settle();
			if (happened && answer[0].error != STREAM_E_OK && !journal_has_failed(rig.j)) {
				assert_int_equal(count_paths("stream.new"), 0);
				assert_int_equal(streams_count(rig.ss), 0);
				assert_int_equal(publish(0, "new", 2, 2, 10), STREAM_E_OK);
				settle();
				assert_int_equal(answer[1].offset, 1);
			}
			rig_close(false);
			if (!happened)
				break;
		}
}

/* ---- files that are taken away ---- */

static void remove_matching(const char *part)
{
	char path[SIM_PATH];

	for (int i = rig.sim.now.n; i-- > 0;) {
		memcpy(path, rig.sim.now.v[i].path, sizeof path);
		if (strstr(path, part) != NULL && rig.sim.now.v[i].file != SIM_DIR)
			assert_int_equal(sim_unlink(&rig.sim, path), 0);
	}
}

/* Reads until nothing comes. */
static void read_all(struct sub *s)
{
	bool worked;

	do {
		s->ready = true;
		sub_pull(s, 1000, 100000);
		worked = reader_turn(rig.ss);
		for (unsigned i = 0; i < rig.opts.shards; i++)
			streams_view_turn(rig.view[i], &told_ops, NULL);
	} while (worked);
}

static void a_stream_whose_file_is_deleted_stops_alone(void **state)
{
	static struct sub live, late;
	char text[512];

	begin(1, 2);
	rig.opts.create = true;
	assert_int_equal(publish(0, "gone", 1, 1, 10), STREAM_E_OK);
	settle();
	assert_int_equal(answer[0].offset, 1);
	rig.by_offset[1] = 1; /* the rig's model is of this one */
	rig.top = 1;
	rig.f[0].offset = 1;
	sub_open(&live, 1, "gone", 0, 0);
	for (int i = 0; i < 4; i++) {
		read_all(&live);
		settle();
	}
	assert_true(live.caught_up);
	assert_int_equal(live.given, 1);
	remove_matching("stream.gone/");
	for (unsigned v = 0; v < 2; v++)
		assert_int_equal(publish(v, "gone", 2, 2, 10), STREAM_E_OK); /* nobody knows yet */
	settle();
	for (unsigned i = 1; i <= 2; i++) {
		assert_true(answer[i].answered);
		assert_int_equal(answer[i].offset, 0);
		assert_int_equal(answer[i].error, STREAM_E_DAMAGED);
	}
	assert_false(journal_has_failed(rig.j));
	assert_int_equal(rig.failures, 0);
	read_all(&live);
	assert_true(live.ended);
	assert_int_equal(stream_cursor_error(live.cursor), STREAM_E_DAMAGED);
	assert_non_null(strstr(stream_cursor_why(live.cursor), "sim/stream.gone/0000000000000001"));
	for (unsigned v = 0; v < 2; v++) { /* by now everybody knows; another shard's answer comes later */
		enum stream_error e = publish(v, "gone", 3, 3, 10);

		settle();
		if (e == STREAM_E_OK)
			e = answer[rig.published - 1].error;
		assert_int_equal(e, STREAM_E_DAMAGED);
	}
	stream_refusal_text(rig.ss, STREAM_E_DAMAGED, streams_at(rig.ss, 0), text, sizeof text);
	assert_non_null(strstr(text, "\"gone\""));
	assert_non_null(strstr(text, "sim/stream.gone/0000000000000001"));
	sub_open(&late, 0, "gone", 0, 0); /* gets what is in memory, and is told then */
	for (int i = 0; i < 4; i++) {
		read_all(&late);
		settle();
	}
	assert_int_equal(late.given, 1);
	assert_true(late.caught_up && late.ended);
	assert_int_equal(publish(0, "other", 1, 1, 10), STREAM_E_OK); /* the others go on, new ones too */
	settle();
	assert_int_equal(answer[rig.published - 1].offset, 1);
	sub_close(&live);
	sub_close(&late);
	rig_close(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_sync_while_a_stream_is_made_ends_all_acknowledgements),
		cmocka_unit_test(a_stream_that_cannot_be_made_is_refused_and_leaves_nothing),
		cmocka_unit_test(a_stream_whose_file_is_deleted_stops_alone),
	};

	log_set_level(LOG_LEVEL_ERROR + 1); /* each failure is one of many here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
