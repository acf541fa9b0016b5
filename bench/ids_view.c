/* What a request for IDs costs a shard, in nanoseconds: ids_view_request and its share of ids_view_turn, for batches of
 * several sizes.
 *
 *   ids_view [REQUESTS]      (default 20,000,000 for each line)
 *
 * One shard, one thread, a callback that adds up; the producer runs in the same thread between batches when it has
 * work, on a journal in memory, and its time is counted. Reported, in CPU time: for the default sequence, a named one,
 * and 16 named ones in turn.
 */
#include "core/base/clock.h"
#include "queue/producer.h"
#include "tests/unit/queue/fake_journal.h"

#include <inttypes.h>
#include <stdio.h>

#define BATCH_MAX 1000
#define NAMES 16

static const struct ids_opts opts = {
	.shards = 1,
	.order = IDS_STRICT,
	.window_min = 1000,
	.window_max = 4000000,
	.window_target_ms = 250,
	.queue_depth = 1024,
	.sequences_max = 1024,
	.create = true,
	.count_max = 1000000,
};

static uint64_t sum, answered;

static void on_answer(void *ctx, struct ids_wait *w, uint64_t first)
{
	sum += first;
	answered++;
}

static void on_refused(void *ctx, struct ids_wait *w, enum ids_error why)
{
	fprintf(stderr, "refused: %d\n", why);
	exit(1);
}

static const struct ids_view_ops ops = {on_answer, on_refused};

static double run(struct ids *ids, struct ids_view *v, unsigned batch, unsigned names, uint64_t requests)
{
	static struct ids_wait w[BATCH_MAX];
	char text[NAMES][24];
	struct span name[NAMES] = {{NULL, 0}};
	uint64_t start;

	for (unsigned i = 0; i < names; i++) {
		snprintf(text[i], sizeof text[i], "sequence number %u", i);
		name[i] = (struct span){(const uint8_t *)text[i], strlen(text[i])};
	}
	start = clock_thread_cpu_ns();
	answered = 0;
	for (unsigned turn = 0; answered < requests; turn++) {
		for (unsigned i = 0; i < batch; i++)
			if (ids_view_request(v, &w[i], name[names > 1 ? i % names : 0], 1) != IDS_E_OK)
				exit(1);
		do {
			ids_view_turn(v, &ops, NULL);
			if ((turn % 64 == 0 || ids_view_waiting(v) != 0) && producer_has_work(ids->producer))
				producer_turn(ids->producer, clock_mono_ns());
		} while (ids_view_waiting(v) != 0);
	}
	return (double)(clock_thread_cpu_ns() - start) / (double)answered;
}

int main(int argc, char **argv)
{
	static const unsigned batch[] = {1, 16, BATCH_MAX};
	uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000000;
	struct journal *j;
	struct doorbell bell;
	struct ids_view *v;
	struct ids *ids;
	int rc;

	journal_open(NULL, &j, NULL);
	rc = ids_open(&opts, j, &ids, NULL);
	if (rc == 0)
		rc = doorbell_init(&bell);
	v = rc == 0 ? ids_view_new(ids, 0, &bell) : NULL;
	if (v == NULL) {
		fprintf(stderr, "cannot set up: %d\n", rc);
		return 1;
	}
	printf("%-8s %12s %12s %12s   (ns a request)\n", "batch", "default", "one name", "16 names");
	for (size_t i = 0; i < ARRAY_SIZE(batch); i++)
		printf("%-8u %12.1f %12.1f %12.1f\n", batch[i], run(ids, v, batch[i], 0, requests),
		       run(ids, v, batch[i], 1, requests), run(ids, v, batch[i], NAMES, requests));
	ids_view_free(v);
	ids_free(ids);
	doorbell_done(&bell);
	return sum == 0;
}
