/* What a request for IDs costs a shard, in nanoseconds: ids_view_request and its share of ids_view_turn, for batches of
 * several sizes.
 *
 *   ids_view [REQUESTS [QUEUE|all]]      (default 20,000,000 for each line)
 *
 * One shard, one thread, a callback that adds up; the producer runs in the same thread between batches when it has
 * work, on a journal in memory, and its time is counted. Reported, in CPU time: for the default sequence, a named one,
 * and 16 named ones in turn. With QUEUE, for the default sequence with ID_QUEUE=QUEUE beside ranges: the whole cost of a
 * single ID, without network and without contention.
 */
#include "core/base/clock.h"
#include "queue/family/family.h"
#include "queue/producer.h"
#include "tests/unit/queue/fake_journal.h"

#include <inttypes.h>
#include <stdio.h>

#define BATCH_MAX 1000
#define NAMES 16

static struct ids_opts opts = {
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

static void on_answer(void *ctx, struct ids_wait *w, uint64_t first, uint64_t incarnation)
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

static const unsigned batch[] = {1, 16, BATCH_MAX};
static struct ids *ids;
static struct ids_view *view;
static struct doorbell bell;

static void open_view(const char *queue)
{
	struct journal *j;
	const char *why = "no memory";
	int rc;

	opts.queue = queue;
	fake_clear(FAKE_IMMEDIATE);
	journal_open(NULL, &j, NULL);
	rc = ids_open(&opts, j, &ids, &why);
	if (rc == 0)
		rc = doorbell_init(&bell);
	view = rc == 0 ? ids_view_new(ids, 0, &bell) : NULL;
	if (view != NULL)
		return;
	fprintf(stderr, "cannot set up: %s\n", why);
	exit(1);
}

static void close_view(void)
{
	ids_view_free(view);
	ids_free(ids);
	doorbell_done(&bell);
}

static void queue_line(const char *queue, uint64_t requests)
{
	open_view(queue);
	printf("%-24s", queue);
	for (size_t i = 0; i < ARRAY_SIZE(batch); i++)
		printf(" %8.1f", run(ids, view, batch[i], 0, requests));
	printf("\n");
	fflush(stdout);
	close_view();
}

int main(int argc, char **argv)
{
	uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000000;

	if (argc > 2) {
		bool all = strcmp(argv[2], "all") == 0;

		printf("%-24s %8u %8u %8u   requests a turn (ns a request)\n", "ID_QUEUE", batch[0], batch[1],
		       batch[2]);
		queue_line("ranges", requests);
		for (unsigned i = 0; all && i < family_count; i++)
			queue_line(family_members[i]->name, requests);
		if (!all)
			queue_line(argv[2], requests);
		return sum == 0;
	}
	open_view(NULL);
	printf("%-8s %12s %12s %12s   (ns a request)\n", "batch", "default", "one name", "16 names");
	for (size_t i = 0; i < ARRAY_SIZE(batch); i++)
		printf("%-8u %12.1f %12.1f %12.1f\n", batch[i], run(ids, view, batch[i], 0, requests),
		       run(ids, view, batch[i], 1, requests), run(ids, view, batch[i], NAMES, requests));
	close_view();
	return sum == 0;
}
