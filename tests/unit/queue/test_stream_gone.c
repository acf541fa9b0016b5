/* Publishes that are parked for want of memory, behind a disk that stalls, when their clients go. */
#include "tests/unit/queue/stream_rig.h"

#include <string.h>

enum { SIZE = 10000 };

static bool publish_one(unsigned view, uint64_t seq_no)
{
	static const uint8_t payload[SIZE];
	struct stream_request r = {
		.stream = {(const uint8_t *)"a", 1}, .seq_no = seq_no, .timestamp = 1, .payload = {payload, SIZE}};
	struct stream_publish *p;

	return streams_publish(rig.view[view], &r, NULL, &p) == STREAM_E_OK;
}

static unsigned published, refused;

static void count_published(void *ctx, void *user, const struct stream_answer *a)
{
	published++;
}

static void count_refused(void *ctx, void *user, enum stream_error why)
{
	refused++;
}

static const struct streams_view_ops ops = {count_published, count_refused, on_ready};

static void run(unsigned turns)
{
	bool w;

	for (unsigned i = 0; i < turns; i++) {
		for (unsigned k = 0; k < rig.opts.shards; k++)
			streams_view_turn(rig.view[k], &ops, NULL);
		keeper_turn(rig.ss);
		if (!rig.disk_stalls)
			journal_turn(rig.j, &w);
	}
}

/* They stayed, with their memory, for as long as the disk stalled, and then were written before what others had sent after them. */
static void test_parked_publishes_of_clients_that_have_gone_hold_no_turn(void **state)
{
	for (unsigned shards = 1; shards <= RIG_VIEWS; shards++) {
		unsigned n = 0, gone = 0;

		rig_init(shards, shards);
		rig_open();
		published = refused = 0;
		assert_true(publish_one(0, 1));
		run(100); /* the stream is made */
		assert_int_equal(published, 1);
		rig.disk_stalls = true;
		for (unsigned i = 0; i < 600; i++) {
			publish_one(i % shards, 2 + i);
			run(2);
		}
		struct stream_own *o = &streams_at(rig.ss, 0)->own;
		for (struct stream_publish *p = o->parked.first; p; p = p->next, n++) {
			if (n % 3)
				continue;
			stream_publish_detach(p);
			gone++;
		}
		assert_true(gone > 50);
		run(10);
		for (struct stream_publish *p = o->parked.first; p; p = p->next)
			n--;
		assert_int_equal(n, gone);
		rig.disk_stalls = false;
		run(2000);
		unsigned stayed = published + refused;
		for (unsigned k = 0; k < shards; k++) {
			assert_int_equal(streams_view_held(rig.view[k]), 0);
			assert_int_equal(streams_view_publishing(rig.view[k]), 0);
		}
		uint64_t pos, offset;
		edge_get(&streams_at(rig.ss, 0)->durable, &pos, &offset);
		assert_int_equal(offset, stayed); /* nothing of those that have gone was written */
		assert_int_equal(refused, 0);
		rig_close(true);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parked_publishes_of_clients_that_have_gone_hold_no_turn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
