/* Memory for partly received messages: who may have how much of it, and who gives way. */
#include "core/base/check.h"
#include "rpc/assembly.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 200, MIB = 1 << 20 };
#define TEXT 128

static struct {
	struct assembly a;
	struct assembly_limits l;
	struct client {
		struct assembly_share share;
		uint64_t ip[2];
		uint32_t message;  /* bytes of each of its messages */
		uint32_t gave_way; /* messages */
	} client[CLIENTS];
} t;

/* Ends messages, whole ones, as a session does. */
static void give_way(struct assembly_share *s, uint64_t bytes)
{
	struct client *c = container_of(s, struct client, share);
	while (s->bytes > bytes) {
		uint64_t n = c->message < s->bytes ? c->message : s->bytes;
		assembly_sub(&t.a, s, n);
		c->gave_way++;
	}
}

static void begin(uint64_t total, uint64_t share)
{
	memset(&t, 0, sizeof t);
	t.l = (struct assembly_limits){.total = total, .share = share};
	for (unsigned i = 0; i < CLIENTS; i++) {
		t.client[i].share.ip = t.client[i].ip;
		t.client[i].share.give_way = give_way;
		t.client[i].message = MIB;
	}
}

static void address(unsigned i, uint32_t ipv4)
{
	memcpy((uint8_t *)t.client[i].ip + 10, "\xff\xff", 2);
	memcpy((uint8_t *)t.client[i].ip + 12, &ipv4, 4);
}

/* One more message: whether it was taken, as a session does it. */
static bool takes(unsigned i, uint32_t n)
{
	struct client *c = &t.client[i];
	char text[TEXT];
	assembly_add(&t.a, &c->share, n);
	if (!assembly_is_over(&t.a, &c->share, &t.l, text, sizeof text))
		return true;
	assembly_sub(&t.a, &c->share, n);
	return false;
}

static void check_sums(void)
{
	uint64_t sum = 0;
	uint32_t n = 0;
	for (unsigned i = 0; i < CLIENTS; i++) {
		sum += t.client[i].share.bytes;
		n += t.client[i].share.bytes > 0;
	}
	assert_int_equal(t.a.bytes, sum);
	assert_int_equal(t.a.count, n);
	for (struct assembly_share *s = t.a.holders; s; s = s->next) {
		assert_ptr_equal(*s->link, s);
		assert_true(s->bytes > 0);
		n--;
	}
	assert_int_equal(n, 0);
}

static void end(void)
{
	check_sums();
	for (unsigned i = 0; i < CLIENTS; i++)
		assembly_sub(&t.a, &t.client[i].share, t.client[i].share.bytes);
	check_sums();
	assert_int_equal(t.a.bytes, 0);
	assert_null(t.a.holders);
}

static void test_a_connection_has_its_share_and_no_more(void **state)
{
	char text[TEXT];
	begin(64 * MIB, 8 * MIB);
	address(0, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_true(takes(0, MIB));
	assert_false(takes(0, 1));
	assembly_add(&t.a, &t.client[0].share, 1);
	assert_true(assembly_is_over(&t.a, &t.client[0].share, &t.l, text, sizeof text));
	assert_non_null(strstr(text, "ASSEMBLY_CONN_MAX, 8388608 bytes"));
	assembly_sub(&t.a, &t.client[0].share, 1);
	assembly_turn(&t.a, &t.l); /* there is room: nobody gives way */
	assert_int_equal(t.client[0].gave_way, 0);
	assert_true(takes(1, MIB));
	end();
}

/* Many connections with full shares: each message of a neighbour's, up to a share of them, is taken, whatever they do. */
static void test_many_hogs_cannot_refuse_a_neighbour(void **state)
{
	for (unsigned same = 0; same < 2;
	     same++) { /* from addresses of their own, and all from one that is the neighbour's too */
		begin(64 * MIB, 8 * MIB);
		for (unsigned i = 0; i < CLIENTS; i++)
			address(i, same ? 1 : i % 50 + 1);
		for (unsigned round = 0; round < 100; round++) {
			for (unsigned i = 1; i < 12; i++) {
				while (takes(i, MIB))
					;
			}
			assembly_turn(&t.a, &t.l);
			assert_true(t.a.bytes + t.l.share <= t.l.total);
			if (round % 10 == 0) {
				for (unsigned i = 0; i < 4; i++)
					assert_true(takes(0, MIB));
			}
			assembly_turn(&t.a, &t.l);
			assert_int_equal(t.client[0].gave_way, 0);
			if (round % 10 == 9)
				assembly_sub(&t.a, &t.client[0].share, t.client[0].share.bytes); /* whole */
			check_sums();
		}
		end();
	}
}

/* A hundred connections of one address weigh as much as the one of another, however little each of them holds. */
static void test_more_connections_are_no_more_of_an_address(void **state)
{
	begin(64 * MIB, 16 * MIB);
	for (unsigned i = 0; i < CLIENTS; i++)
		address(i, i < 100 ? 1 : 2);
	for (unsigned i = 0; i < 4; i++)
		assert_true(takes(100, MIB));
	for (unsigned i = 0; i < 100; i++) {
		t.client[i].message = MIB / 2;
		assert_true(takes(i, MIB / 2));
	}
	assembly_turn(&t.a, &t.l);
	assert_int_equal(t.client[100].gave_way, 0);
	assert_true(t.a.bytes <= 48 * MIB);
	assert_true(t.a.bytes >= 40 * MIB); /* and no more was ended than had to be */
	end();
}

/* Addresses of one /64 are one client. */
static void test_a_customers_many_addresses_are_one(void **state)
{
	begin(64 * MIB, 16 * MIB);
	for (unsigned i = 0; i < 100; i++) {
		t.client[i].ip[0] = 0x1122334455667788;
		t.client[i].ip[1] = i + 1;
		t.client[i].message = MIB / 2;
		assert_true(takes(i, MIB / 2));
	}
	t.client[100].ip[0] = 0x1122334455667789;
	for (unsigned i = 0; i < 4; i++)
		assert_true(takes(100, MIB));
	assembly_turn(&t.a, &t.l);
	assert_int_equal(t.client[100].gave_way, 0);
	assert_true(t.a.bytes <= 48 * MIB);
	end();
}

/* Equals: some give way, the others finish. */
static void test_of_equals_some_are_left(void **state)
{
	unsigned whole = 0;
	begin(64 * MIB, 8 * MIB);
	for (unsigned i = 0; i < 60; i++) {
		address(i, i % 3);
		assert_true(takes(i, MIB));
	}
	assembly_turn(&t.a, &t.l);
	for (unsigned i = 0; i < 60; i++)
		whole += t.client[i].share.bytes == MIB;
	assert_true(whole >= 48 && whole <= 49);
	end();
}

static void test_a_lone_holder_keeps_what_it_has(void **state)
{
	begin(16 * MIB, 8 * MIB);
	for (unsigned i = 0; i < 8; i++)
		assert_true(takes(0, MIB));
	assembly_turn(&t.a, &t.l);
	assert_int_equal(t.client[0].gave_way, 0);
	end();
}

/* All together never hold more than the whole, even within a turn. */
static void test_the_whole_is_never_exceeded(void **state)
{
	char text[TEXT];
	begin(64 * MIB, 8 * MIB);
	for (unsigned i = 0; i < CLIENTS; i++) {
		address(i, i);
		while (takes(i, MIB))
			;
	}
	assert_int_equal(t.a.bytes, 64 * MIB);
	assembly_add(&t.a, &t.client[CLIENTS - 1].share, 1);
	assert_true(assembly_is_over(&t.a, &t.client[CLIENTS - 1].share, &t.l, text, sizeof text));
	assert_non_null(strstr(text, "ASSEMBLY_MAX, 67108864 bytes"));
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_connection_has_its_share_and_no_more),
		cmocka_unit_test(test_many_hogs_cannot_refuse_a_neighbour),
		cmocka_unit_test(test_more_connections_are_no_more_of_an_address),
		cmocka_unit_test(test_a_customers_many_addresses_are_one),
		cmocka_unit_test(test_of_equals_some_are_left),
		cmocka_unit_test(test_a_lone_holder_keeps_what_it_has),
		cmocka_unit_test(test_the_whole_is_never_exceeded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
