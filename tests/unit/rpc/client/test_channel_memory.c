/* A channel for which there is no memory. */
#include "tests/unit/rpc/client/harness.h"

#include <sys/resource.h>

/* Address space for the address space that is in use, and a gigabyte: the table of 2^32 - 1 calls takes 16. */
static struct rlimit limit_address_space(void)
{
	struct rlimit was, is;
	unsigned long pages;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu", &pages), 1);
	fclose(f);
	assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
	is = was;
	is.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (UINT64_C(1) << 30);
	assert_int_equal(setrlimit(RLIMIT_AS, &is), 0);
	return was;
}

/* The token was copied with success, and that success was what the caller was told; it then used a channel that there was not. */
static void test_a_channel_with_a_token_and_without_memory_is_refused(void **state)
{
	struct channel_opts opts = {.protocol = CHANNEL_NATIVE, .calls_max = UINT32_MAX, .token = "abc"};
	struct channel *ch = NULL;
	struct client *client;
	struct ring *ring;
	int fds[2];

	assert_int_equal(
		ring_init(&(struct ring_params){.entries = 8, .cq_entries = 16, .bufs = 2, .buf_size = 512}, &ring), 0);
	assert_int_equal(client_new(ring, 1, &client), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	struct rlimit was = limit_address_space();
	int r = channel_adopt(client, &opts, fds[0], &harness_events, NULL, &ch);
	assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
	assert_int_equal(r, -ENOMEM);
	assert_null(ch);
	close(fds[0]); /* it stayed ours */
	close(fds[1]);
	client_free(client);
	ring_done(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_channel_with_a_token_and_without_memory_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
