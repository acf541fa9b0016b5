/* Requests at worker threads: answered once, to the call that asked; a call that ends meanwhile is not touched, and its job's memory waits for the
 * worker. Real workers and queues; the shard is this thread, and the journal the twin in memory. */
#include "rpc/workers.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/family/family.h"
#include "rpc/gzip.h"
#include "rpc/methods.h"
#include "rpc/wire/pb.h"
#include "tests/unit/queue/fake_journal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
/* after those */
#include <cmocka.h>

enum { CALLS = 3000 };

static struct conn conn; /* whose all calls are */
static struct refusals refusals;

static struct {
	struct journal *journal;
	struct ids *ids;
	struct workers *workers;
	struct shard shard;
	struct rpc_shard rpc;
	unsigned answers, ends;
} t;

struct asked {
	struct call call;
	unsigned answered;
	uint64_t first;
	uint32_t count;
	enum grpc_status status;
	char text[128];
};

static void on_reply(struct call *c, const uint8_t *msg, size_t n)
{
	struct asked *a = container_of(c, struct asked, call);
	struct pb_next_reply r;
	assert_true(c->live);
	c->live = false;
	a->answered++;
	t.answers++;
	if (c->method != &workers_next_method)
		return;
	assert_int_equal(pb_next_reply_get((struct span){msg, n}, &r), 0);
	a->first = r.first;
	a->count = r.count;
}

static void on_finish(struct call *c, enum grpc_status status, struct span text)
{
	struct asked *a = container_of(c, struct asked, call);
	assert_true(c->live && text.n > 0);
	c->live = false;
	a->answered++;
	a->status = status;
	snprintf(a->text, sizeof a->text, "%.*s", (int)text.n, (const char *)text.p);
	t.ends++;
}

static const struct call_ops ops = {.reply = on_reply, .finish = on_finish};

static void begin_with(const char *queue, unsigned threads, uint64_t bytes_max)
{
	struct ids_opts io = {.shards = 1 + threads,
			      .order = IDS_STRICT,
			      .window_min = 100,
			      .window_max = 1000000,
			      .window_target_ms = 100,
			      .queue_depth = 64,
			      .sequences_max = 4,
			      .create = true,
			      .count_max = 1000};
	struct workers_opts wo = {.threads = threads,
				  .shards = 1,
				  .queue = queue,
				  .order = IDS_STRICT,
				  .message_max = 1 << 20,
				  .bytes_max = bytes_max};
	const char *why = NULL;
	fake_clear(FAKE_IMMEDIATE);
	t.answers = t.ends = 0;
	assert_int_equal(journal_open(NULL, &t.journal, NULL), 0);
	assert_int_equal(ids_open(&io, t.journal, &t.ids, &why), 0);
	assert_int_equal(workers_new(&wo, t.ids, &t.workers, &why), 0);
	assert_int_equal(doorbell_init(&t.shard.bell), 0);
	t.rpc = (struct rpc_shard){.shard = &t.shard, .refusals = &refusals};
	assert_int_equal(workers_join(t.workers, &t.rpc), 0);
	assert_int_equal(ids_start(t.ids, -1), 0);
	assert_int_equal(workers_start(t.workers), 0);
}

static void begin(const char *queue, unsigned threads)
{
	begin_with(queue, threads, 4 << 20);
}

/* From now on. */
static void set_journal(enum fake_mode mode)
{
	pthread_mutex_lock(&fake.lock);
	fake.mode = mode;
	pthread_mutex_unlock(&fake.lock);
	fake_sync();
}

static void end(void)
{
	set_journal(FAKE_IMMEDIATE);
	workers_stop(t.workers);
	ids_stop(t.ids);
	workers_free(t.workers);
	ids_free(t.ids);
	doorbell_done(&t.shard.bell);
}

static void ask(struct asked *a, const struct method *m, struct span msg)
{
	*a = (struct asked){.call = {.method = m, .ops = &ops, .rpc = &t.rpc, .conn = &conn, .live = true}};
	m->message(&a->call, msg);
}

static void ask_next(struct asked *a, const char *sequence, uint32_t count)
{
	uint8_t msg[256];
	struct span name = {(const uint8_t *)sequence, strlen(sequence)};
	ask(a, &workers_next_method, (struct span){msg, pb_next_request_put(msg, sizeof msg, name, count)});
}

/* Turns the shard as its loop would, until so many have been answered. */
static void turn_until(unsigned answers)
{
	while (t.answers + t.ends < answers) {
		workers_turn(&t.rpc);
		if (t.answers + t.ends >= answers)
			return;
		doorbell_arm(&t.shard.bell);
		if (workers_pending(&t.rpc))
			doorbell_disarm(&t.shard.bell);
		else
			assert_true(doorbell_wait(&t.shard.bell, 60 * NS_PER_S)); /* else a wake-up was lost */
	}
}

static void each_queue_answers_all_once(void **state)
{
	static struct asked asked[CALLS];
	for (unsigned q = 0; q < family_count; q++) {
		const struct family_ops *m = family_members[q];
		uint64_t highest = 0, sum = 0;
		begin(m->name, m->consumers_max == 1 ? 1 : 3);
		for (unsigned i = 0; i < CALLS; i++)
			ask_next(&asked[i], "", 1);
		turn_until(CALLS);
		for (unsigned i = 0; i < CALLS; i++) {
			assert_int_equal(asked[i].answered, 1);
			sum += asked[i].first;
			highest = asked[i].first > highest ? asked[i].first : highest;
		}
		assert_int_equal(highest, CALLS);
		assert_int_equal(sum, (uint64_t)CALLS * (CALLS + 1) / 2);
		struct ids_view_stats stats = {0};
		workers_add_ids(t.workers, 0, &stats);
		assert_int_equal(stats.ids, CALLS);
		end();
	}
}

static void more_than_the_queue_holds(void **state)
{
	enum { MANY = 20000 };
	struct asked *asked = calloc(MANY, sizeof *asked);
	begin("ck-ring-mpmc", 2);
	for (unsigned i = 0; i < MANY; i++)
		ask_next(&asked[i], "", 1);
	for (unsigned i = 0; i < MANY; i += 2) { /* many of them wait for room still */
		if (asked[i].call.live)
			workers_next_method.cancel(&asked[i].call);
		asked[i].call.live = false;
	}
	while (workers_turn(&t.rpc), t.answers < MANY / 2)
		usleep(100);
	for (unsigned i = 1; i < MANY; i += 2)
		assert_int_equal(asked[i].answered, 1);
	end();
	free(asked);
}

/* The object of a call that has ended is used for the next one, while the first job is still at its worker. */
static void an_answer_to_a_call_that_is_gone(void **state)
{
	struct asked a, b;
	begin("basic", 1);
	set_journal(FAKE_MANUAL); /* the worker waits for IDs */
	ask_next(&a, "", 7);
	usleep(10000);
	workers_next_method.cancel(&a.call);
	ask_next(&a, "", 3);
	ask_next(&b, "", 5);
	while (t.answers < 2) {
		fake_sync();
		workers_turn(&t.rpc);
		usleep(1000);
	}
	assert_int_equal(a.answered, 1);
	assert_int_equal(a.count, 3);
	assert_int_equal(b.answered, 1);
	assert_int_equal(b.count, 5);
	assert_true(a.first + a.count <= b.first || b.first + b.count <= a.first);
	end();
}

/* It waited for the IDs of a client that had gone, and every request behind that one with it. */
static void a_call_that_is_gone_holds_no_worker(void **state)
{
	static struct asked gone[5], stays;
	begin("basic", 1);
	set_journal(FAKE_MANUAL); /* there will be no IDs */
	for (unsigned i = 0; i < 5; i++) {
		ask_next(&gone[i], "", 7);
		if (i == 0)
			usleep(10000); /* mostly, the worker waits with it; the others wait for the worker */
	}
	ask(&stays, &workers_echo_method, SPAN_LIT("\x0a\x03zip"));
	for (unsigned i = 0; i < 5; i++)
		workers_next_method.cancel(&gone[i].call);
	turn_until(1);
	assert_int_equal(stays.answered, 1);
	end();
}

static void a_stop_while_a_worker_waits(void **state)
{
	struct asked a, b;
	begin("basic", 1);
	set_journal(FAKE_MANUAL);
	ask_next(&a, "", 7);
	ask_next(&b, "", 7);
	usleep(10000);
	workers_stop(t.workers);
	turn_until(2);
	assert_int_equal(t.ends, 2);
	assert_int_equal(a.status, GRPC_UNAVAILABLE);
	end();
}

static void refusals_come_back(void **state)
{
	struct asked a[6];
	begin("linked", 2);
	ask_next(&a[0], "", 1001);
	ask_next(&a[1], "\xff", 1);
	ask(&a[2], &workers_next_method, SPAN_LIT("\x0a\xff"));
	ask(&a[3], &workers_echo_method, SPAN_LIT("\x0a\x03zip"));
	ask(&a[4], &workers_echo_method, SPAN_LIT("\x0a"));
	turn_until(5);
	assert_int_equal(t.ends, 5);
	assert_int_equal(a[0].status, GRPC_RESOURCE_EXHAUSTED);
	for (unsigned i = 1; i < 5; i++)
		assert_int_equal(a[i].status, GRPC_INVALID_ARGUMENT);
	end();
}

/* Requests were bounded by their number alone: 131,072 of a MESSAGE_MAX each. */
static void requests_that_wait_are_bounded_in_bytes(void **state)
{
	enum { ROOM = 1 << 20, LARGE = 100000, MANY = 40 };
	static uint8_t msg[LARGE] = {0x0a, 0x9c, 0x8d, 0x06}; /* Blob{data: the rest}, which is no gzip */
	static struct asked asked[MANY + 2];
	for (unsigned round = 0; round < 3; round++) {
		unsigned taken = 0;
		begin_with("basic", 1, ROOM);
		set_journal(FAKE_MANUAL);
		ask_next(&asked[MANY], "", 1000); /* the worker waits for IDs */
		for (unsigned i = 0; i < MANY; i++) {
			ask(&asked[i], &workers_echo_method, (struct span){msg, sizeof msg});
			if (asked[i].call.live) {
				taken++;
				continue;
			}
			assert_int_equal(asked[i].status, GRPC_RESOURCE_EXHAUSTED);
			assert_non_null(strstr(asked[i].text, "HANDLER_BYTES_MAX, 1048576 bytes"));
		}
		assert_int_equal(taken, ROOM / LARGE);
		ask_next(&asked[MANY + 1], "", 1); /* a small one takes none of it */
		assert_true(asked[MANY + 1].call.live);
		if (round ==
		    1) { /* their clients are gone: the memory stays taken until the worker has been at them, and then it is back */
			for (unsigned i = 0; i < MANY; i++) {
				if (asked[i].call.live)
					workers_echo_method.cancel(&asked[i].call);
				asked[i].call.live = false;
			}
		}
		set_journal(FAKE_IMMEDIATE);
		turn_until(round == 1 ? MANY - taken + 2 : MANY + 2);
		for (unsigned i = 0; i < taken; i++) {
			ask(&asked[i], &workers_echo_method, (struct span){msg, sizeof msg});
			turn_until(t.answers + t.ends + 1);
			assert_int_equal(asked[i].status, GRPC_INVALID_ARGUMENT); /* it came to the worker */
		}
		end();
	}
}

/* An answer for which there is no room left is a refusal, and not memory beyond the bound. */
static void answers_are_bounded_in_bytes(void **state)
{
	static uint8_t noise[100000], msg[120000];
	static struct asked a;
	struct gzip *g = gzip_new();
	struct span packed;
	uint32_t dice = 1;
	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = (uint8_t)((dice = dice * 1664525 + 1013904223) >> 24);
	assert_non_null(g);
	assert_int_equal(gzip_deflate(g, (struct span){noise, sizeof noise}, &packed), 0);
	assert_in_range(packed.n, sizeof noise, sizeof msg - 4);
	msg[0] = 0x0a;
	msg[1] = (uint8_t)(packed.n | 0x80);
	msg[2] = (uint8_t)(packed.n >> 7 | 0x80);
	msg[3] = (uint8_t)(packed.n >> 14);
	memcpy(msg + 4, packed.p, packed.n);
	for (unsigned fits = 0; fits < 2; fits++) {
		begin_with("basic", 1, fits ? 2 * (packed.n + 4) + 1000 : 150000);
		ask(&a, &workers_echo_method, (struct span){msg, packed.n + 4});
		turn_until(1);
		assert_int_equal(t.answers, fits);
		if (!fits) {
			assert_int_equal(a.status, GRPC_RESOURCE_EXHAUSTED);
			assert_non_null(strstr(a.text, "HANDLER_BYTES_MAX"));
		}
		end();
	}
	gzip_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_queue_answers_all_once),
		cmocka_unit_test(more_than_the_queue_holds),
		cmocka_unit_test(an_answer_to_a_call_that_is_gone),
		cmocka_unit_test(a_call_that_is_gone_holds_no_worker),
		cmocka_unit_test(a_stop_while_a_worker_waits),
		cmocka_unit_test(refusals_come_back),
		cmocka_unit_test(requests_that_wait_are_bounded_in_bytes),
		cmocka_unit_test(answers_are_bounded_in_bytes),
	};
	log_level_now = LOG_LEVEL_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
