/* Refusals by address: bounded, and who is refused often is remembered. */
#include "core/base/check.h"
#include "core/base/count.h"
#include "rpc/refusals.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const struct refusals_address *find(const struct refusals *r, const uint64_t ip[2])
{
	for (unsigned i = 0; i < REFUSALS_ADDRESSES; i++) {
		if (memcmp(r->address[i].ip, ip, sizeof r->address[i].ip) == 0)
			return &r->address[i];
	}
	return NULL;
}

static void test_each_reason_of_each_address(void **state)
{
	struct refusals *r = calloc(1, sizeof *r);
	for (uint64_t ip = 1; ip <= 50; ip++) {
		for (unsigned why = 0; why < REFUSAL_COUNT; why++) {
			for (unsigned n = 0; n < ip + why; n++)
				refusals_note_ip(r, (uint64_t[]){0, ip}, (enum refusal)why);
		}
	}
	for (uint64_t ip = 1; ip <= 50; ip++) {
		const struct refusals_address *e = find(r, (uint64_t[]){0, ip});
		assert_non_null(e);
		assert_int_equal(e->version % 2, 0);
		for (unsigned why = 0; why < REFUSAL_COUNT; why++)
			assert_int_equal(count_get(&e->by_reason[why]), ip + why);
	}
	free(r);
}

/* A hundred thousand addresses that come by once do not push out one that comes again and again. */
static void test_the_many_do_not_hide_the_one(void **state)
{
	struct refusals *r = calloc(1, sizeof *r);
	const uint64_t one[2] = {7, 7};
	for (uint64_t i = 0; i < 100000; i++) {
		refusals_note_ip(r, (uint64_t[]){i, ~i}, REFUSAL_FLOOD);
		refusals_note_ip(r, one, REFUSAL_DENIED);
	}
	const struct refusals_address *e = find(r, one);
	assert_non_null(e);
	assert_true(e->by_reason[REFUSAL_DENIED] > 99000);
	assert_int_equal(e->by_reason[REFUSAL_FLOOD], 0);
	free(r);
}

static void test_the_address_of_a_socket(void **state)
{
	struct refusals *r = calloc(1, sizeof *r);
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t len = sizeof a;
	int listener = socket(AF_INET6, SOCK_STREAM, 0), client = socket(AF_INET6, SOCK_STREAM, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&a, sizeof a), 0);
	int fd = accept(listener, NULL, NULL), pair[2];
	refusals_note(r, fd, REFUSAL_HEADERS);
	assert_int_equal(r->by_reason[REFUSAL_HEADERS], 1);
	uint64_t ip[2];
	memcpy(ip, &a.sin6_addr, sizeof ip);
	assert_non_null(find(r, ip));
	/* One without an address is counted all the same. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	refusals_note(r, pair[0], REFUSAL_HEADERS);
	refusals_note(r, -1, REFUSAL_HEADERS);
	assert_int_equal(r->by_reason[REFUSAL_HEADERS], 3);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	close(client);
	close(listener);
	free(r);
}

static void test_every_reason_has_a_name(void **state)
{
	for (unsigned i = 0; i < REFUSAL_COUNT; i++) {
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(refusal_name((enum refusal)i), refusal_name((enum refusal)k));
	}
	assert_string_equal(refusal_name(REFUSAL_COUNT), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_reason_of_each_address),
		cmocka_unit_test(test_the_many_do_not_hide_the_one),
		cmocka_unit_test(test_the_address_of_a_socket),
		cmocka_unit_test(test_every_reason_has_a_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
