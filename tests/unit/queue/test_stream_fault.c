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

static const struct streams_view_ops told_ops = {told, told_refused, on_ready};

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
		for (uint32_t i = 2; i < rig.published; i++)
			assert_true(answer[i].offset > 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_sync_while_a_stream_is_made_ends_all_acknowledgements),
		cmocka_unit_test(a_stream_that_cannot_be_made_is_refused_and_leaves_nothing),
	};

	log_set_level(LOG_LEVEL_ERROR + 1); /* each failure is one of many here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
