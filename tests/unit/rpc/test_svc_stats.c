/* rpc/svc_stats.c between pages that the test renders and a session that takes as many bytes as the test allows, and holds on to them until the
 * test lets them go. */
#include "rpc/svc_stats.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "rpc/methods.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 10000, CALLS_MAX = 6, CONN_CALLS_MAX = 3, STALL_S = 10, CONNS = 4 };

static struct {
	struct shard shard;
	struct shard_opts shard_opts;
	struct method_table table;
	struct rpc_opts rpc_opts;
	struct rpc_shard rpc;
	struct pages *pages;
	struct conn conn[CONNS];
	unsigned renders;
	bool fails;
	unsigned last_kind;
} rig;

struct fake_call {
	struct call call;
	uint8_t *got;
	size_t n, room;
	struct conn_slice held[64];
	unsigned helds;
	bool ended;
	enum grpc_status status;
	char text[600];
	void (*on_end)(void);
};

static struct fake_call *of(struct call *c)
{
	return container_of(c, struct fake_call, call);
}

static void fake_end(struct call *c, enum grpc_status status)
{
	struct fake_call *fc = of(c);
	assert_false(fc->ended);
	fc->ended = true;
	fc->status = status;
	call_end(c, status);
	if (fc->on_end)
		fc->on_end();
}

static size_t fake_send_framed(struct call *c, const struct conn_slice *s)
{
	struct fake_call *fc = of(c);
	size_t n = s->n < fc->room ? s->n : fc->room;
	assert_false(fc->ended);
	fc->got = realloc(fc->got, fc->n + n + 1);
	memcpy(fc->got + fc->n, s->p, n);
	fc->n += n;
	fc->room -= n;
	assert_true(fc->helds < ARRAY_SIZE(fc->held));
	fc->held[fc->helds++] = *s;
	return n;
}

static void fake_finish(struct call *c, enum grpc_status status, struct span text)
{
	struct fake_call *fc = of(c);
	assert_true(text.n < sizeof fc->text);
	if (text.n)
		memcpy(fc->text, text.p, text.n);
	fake_end(c, status);
}

static const struct call_ops fake_ops = {.send_framed = fake_send_framed, .finish = fake_finish};

/* The output has let go; the bytes must be readable until here. */
static void flush(struct fake_call *fc)
{
	static volatile uint8_t sink;
	for (unsigned i = 0; i < fc->helds; i++) {
		for (uint32_t k = 0; k < fc->held[i].n; k++)
			sink ^= ((const uint8_t *)fc->held[i].p)[k];
		fc->held[i].release(fc->held[i].owner);
	}
	(void)sink;
	fc->helds = 0;
}

static struct fake_call *call_on(unsigned conn, unsigned format, size_t room)
{
	struct fake_call *fc = calloc(1, sizeof *fc);
	uint8_t msg[] = {1 << 3, (uint8_t)format};
	int index = method_find_number(&rig.table, METHOD_STATS_GET);
	assert_non_null(fc);
	fc->room = room;
	fc->call.ops = &fake_ops;
	fc->call.rpc = &rig.rpc;
	fc->call.conn = &rig.conn[conn];
	call_begin(&fc->call, rig.table.method[index], (uint16_t)index, 0);
	fc->call.seen = true;
	call_deliver(&fc->call, (struct span){msg, sizeof msg});
	return fc;
}

static void cancel(struct fake_call *fc)
{
	if (fc->ended)
		return;
	call_cancel_service(&fc->call);
	fake_end(&fc->call, GRPC_CANCELLED);
}

static void drop(struct fake_call *fc)
{
	cancel(fc);
	flush(fc);
	free(fc->got);
	free(fc);
}

static void render(void *ctx, unsigned kind, struct text *to)
{
	rig.renders++;
	rig.last_kind = kind;
	text_printf(to, "page %u ", rig.renders);
	text_pad(to, 0, PAGE, 'x');
	to->failed |= rig.fails;
}

/* The main thread's turn, when its pause is over, and then the shard's. */
static void turn(void)
{
	pages_hurry(rig.pages);
	pages_turn(rig.pages, clock_mono_ns(), render, NULL);
	rig.shard.now_ns += NS_PER_MS;
	svc_stats_turn(&rig.rpc);
	rpc_shard_turn(&rig.rpc);
}

static void wait_s(unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		rig.shard.now_ns += NS_PER_S;
		wheel_advance(&rig.shard.wheel, rig.shard.now_ns);
	}
}

static void is_page(const struct fake_call *fc, unsigned number)
{
	char want[32];
	int n = snprintf(want, sizeof want, "page %u ", number);
	assert_true(fc->ended);
	assert_int_equal(fc->status, GRPC_OK);
	assert_int_equal(fc->n, PAGE);
	assert_memory_equal(fc->got, want, (size_t)n);
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof rig);
	rig.shard_opts = (struct shard_opts){.stall_ns = STALL_S * NS_PER_S};
	rig.rpc_opts = (struct rpc_opts){.calls_max = 1,
					 .message_max = 1 << 16,
					 .stats_calls_max = CALLS_MAX,
					 .stats_conn_calls_max = CONN_CALLS_MAX};
	rig.shard.opts = &rig.shard_opts;
	rig.shard.now_ns = NS_PER_S;
	wheel_init(&rig.shard.wheel, rig.shard.now_ns, &rig.shard);
	bufpool_init(&rig.shard.pool);
	assert_int_equal(doorbell_init(&rig.shard.bell), 0);
	typed_table_add(&rig.table, svc_stats_methods, SVC_STATS_METHODS);
	assert_int_equal(rpc_shard_init(&rig.rpc, &rig.shard, &rig.table, &rig.rpc_opts), 0);
	assert_int_equal(pages_new(&(struct pages_opts){1, REPORT_KINDS, NS_PER_MS}, &rig.pages), 0);
	assert_int_equal(svc_stats_start(&rig.rpc, rig.pages), 0);
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(rig.rpc.calls, 0);
	assert_int_equal(rig.shard.wheel.armed, 0);
	svc_stats_stop(&rig.rpc);
	pages_free(rig.pages);
	rpc_shard_done(&rig.rpc);
	bufpool_done(&rig.shard.pool);
	doorbell_done(&rig.shard.bell);
	return 0;
}

static void test_one_page_serves_all_who_wait(void **state)
{
	struct fake_call *a = call_on(0, 1, SIZE_MAX), *b = call_on(1, 1, SIZE_MAX), *c = call_on(2, 0, SIZE_MAX);
	assert_false(a->ended || b->ended || c->ended);
	turn();
	is_page(a, 2); /* kinds in their order: text was first */
	is_page(b, 2);
	is_page(c, 1);
	assert_ptr_equal(a->held[0].p, b->held[0].p); /* the same bytes */
	drop(a);
	drop(b);
	drop(c);
}

/* Whether somebody asks after the page was begun: it would be older than the question. */
static void test_who_asks_too_late_gets_the_next_page(void **state)
{
	struct fake_call *a = call_on(0, 0, SIZE_MAX), *b;
	pages_hurry(rig.pages);
	pages_turn(rig.pages, clock_mono_ns(), render, NULL); /* posted, and not taken yet */
	b = call_on(1, 0, SIZE_MAX);
	svc_stats_turn(&rig.rpc);
	is_page(a, 1);
	assert_false(b->ended);
	turn();
	is_page(b, 2);
	drop(a);
	drop(b);
}

static void test_a_reader_takes_its_time(void **state)
{
	struct fake_call *a = call_on(0, 0, 10);
	turn();
	for (unsigned i = 1; i < PAGE / 1000; i++) {
		wait_s(STALL_S - 2);
		a->room = 1000;
		a->call.method->writable(&a->call);
		assert_false(a->ended);
		flush(a);
	}
	a->room = SIZE_MAX;
	a->call.method->writable(&a->call);
	is_page(a, 1);
	drop(a);
}

static void test_a_reader_that_takes_nothing_loses_its_place(void **state)
{
	struct fake_call *a = call_on(0, 0, 10), *waits;
	turn();
	waits = call_on(0, 0, 10);
	wait_s(STALL_S - 2);
	assert_false(a->ended);
	wait_s(3);
	assert_true(a->ended);
	assert_int_equal(a->status, GRPC_DEADLINE_EXCEEDED);
	assert_non_null(strstr(a->text, "STALL_TIMEOUT_MS"));
	assert_false(waits->ended); /* whose page has not come is no slow reader */
	drop(a);
	drop(waits);
}

static void test_cancelled_while_waiting_and_while_reading(void **state)
{
	struct fake_call *waits = call_on(0, 0, SIZE_MAX), *reads = call_on(1, 0, 10), *other = call_on(2, 0, SIZE_MAX);
	cancel(waits);
	turn();
	is_page(other, 1);
	assert_int_equal(waits->n, 0);
	assert_int_equal(reads->n, 10);
	cancel(reads);
	turn();
	assert_int_equal(rig.renders, 1);
	assert_int_equal(reads->n, 10);
	drop(waits);
	drop(other);
	drop(reads); /* its slice is let go after the call is over: the page lives until then */
}

static struct fake_call *victim;
static void cancel_victim(void)
{
	cancel(victim);
}

/* A session may end other calls of its connection while one of them is answered. */
static void test_an_answer_that_ends_another_call(void **state)
{
	struct fake_call *a = call_on(0, 0, SIZE_MAX), *b = call_on(0, 0, SIZE_MAX), *c = call_on(0, 0, SIZE_MAX);
	victim = b;
	c->on_end = a->on_end = cancel_victim;
	turn();
	is_page(a, 1);
	is_page(c, 1);
	assert_true(b->ended);
	drop(a);
	drop(b);
	drop(c);
}

static void test_limits(void **state)
{
	struct fake_call *c[CALLS_MAX + 2];
	for (unsigned i = 0; i < CALLS_MAX; i++)
		c[i] = call_on(i / CONN_CALLS_MAX, 0, 0);
	struct fake_call *mine = call_on(0, 0, 0), *all = call_on(3, 0, 0);
	assert_int_equal(mine->status, GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(mine->text, "STATS_CONN_CALLS_MAX"));
	assert_int_equal(all->status, GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(all->text, "STATS_CALLS_MAX"));
	turn();
	for (unsigned i = 0; i < CALLS_MAX; i++)
		assert_false(c[i]->ended); /* they read nothing, and keep their places */
	drop(all);
	all = call_on(3, 0, 0);
	assert_int_equal(all->status, GRPC_RESOURCE_EXHAUSTED);
	drop(c[0]);
	c[0] = call_on(3, 0, SIZE_MAX);
	assert_false(c[0]->ended);
	turn();
	is_page(c[0], 2);
	for (unsigned i = 0; i < CALLS_MAX; i++)
		drop(c[i]);
	drop(mine);
	drop(all);
}

static void test_unknown_formats_and_no_memory(void **state)
{
	struct fake_call *a = call_on(0, REPORT_FORMS, SIZE_MAX);
	assert_int_equal(a->status, GRPC_INVALID_ARGUMENT);
	assert_non_null(strstr(a->text, "format is 3"));
	drop(a);
	a = call_on(0, 0, SIZE_MAX);
	rig.fails = true;
	turn();
	assert_int_equal(a->status, GRPC_RESOURCE_EXHAUSTED);
	drop(a);
}

/* Access. */

static const char rules[] = "watcher cert:watcher stats\n"
			    "other cert:other ids:* publish:* subscribe:*\n"
			    "root cert:root admin\n";

static struct fake_call *call_as(const char *name)
{
	struct fake_call *fc = calloc(1, sizeof *fc);
	int index = method_find_number(&rig.table, METHOD_STATS_GET);
	assert_non_null(fc);
	fc->room = SIZE_MAX;
	fc->call.ops = &fake_ops;
	fc->call.rpc = &rig.rpc;
	fc->call.conn = &rig.conn[0];
	fc->call.who = access_who_certificate(rig.rpc.access, name);
	call_begin(&fc->call, rig.table.method[index], (uint16_t)index, 0);
	fc->call.seen = true;
	call_deliver(&fc->call, (struct span){(const uint8_t *)"", 0});
	return fc;
}

static void test_only_the_right_stats_and_admin_may(void **state)
{
	const char *why;
	rig.conn[0].fd = -1;
	assert_int_equal(
		access_parse((struct span){(const uint8_t *)rules, sizeof rules - 1}, "rules", &rig.rpc.access, &why),
		0);
	static const struct {
		const char *name;
		enum grpc_status status;
	} expect[] = {{"watcher", GRPC_OK},
		      {"root", GRPC_OK},
		      {"other", GRPC_PERMISSION_DENIED},
		      {"nobody", GRPC_UNAUTHENTICATED},
		      {"", GRPC_UNAUTHENTICATED}};
	for (unsigned i = 0; i < ARRAY_SIZE(expect); i++) {
		struct fake_call *c = call_as(expect[i].name);
		turn();
		assert_true(c->ended);
		assert_int_equal(c->status, expect[i].status);
		if (c->status == GRPC_PERMISSION_DENIED)
			assert_non_null(strstr(c->text, "lacks the right stats"));
		drop(c);
	}
}

/* Where nobody shows who he is, addresses of clients are left out: the pages are others. */
static void test_pages_without_rules_are_others(void **state)
{
	const char *why;
	struct fake_call *c = call_on(0, 1, SIZE_MAX);
	turn();
	assert_int_equal(rig.last_kind, report_kind(REPORT_JSON, false));
	drop(c);
	assert_int_equal(
		access_parse((struct span){(const uint8_t *)rules, sizeof rules - 1}, "rules", &rig.rpc.access, &why),
		0);
	c = call_as("watcher");
	turn();
	assert_int_equal(rig.last_kind, report_kind(REPORT_TEXT, true));
	drop(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_page_serves_all_who_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_who_asks_too_late_gets_the_next_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reader_takes_its_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reader_that_takes_nothing_loses_its_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled_while_waiting_and_while_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_answer_that_ends_another_call, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_formats_and_no_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_only_the_right_stats_and_admin_may, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pages_without_rules_are_others, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
