/* Metadata lists and their base64, against RFC 4648's test vectors. */
#include "rpc/metadata.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct span text(const char *s)
{
	return (struct span){(const uint8_t *)s, strlen(s)};
}

static void test_values_are_kept_in_order(void **state)
{
	struct metadata m = {0};
	struct span v;
	assert_true(metadata_add(&m, text("a"), text("1")));
	assert_true(metadata_add(&m, text("b"), text("")));
	assert_true(metadata_add(&m, text("a"), text("2")));
	assert_true(metadata_get(&m, text("a"), 0, &v) && span_eq(v, text("1")));
	assert_true(metadata_get(&m, text("a"), 1, &v) && span_eq(v, text("2")));
	assert_false(metadata_get(&m, text("a"), 2, &v));
	assert_true(metadata_get(&m, text("b"), 0, &v) && v.n == 0);
	assert_false(metadata_get(&m, text("c"), 0, &v));
	metadata_free(&m);
}

static void test_base64_of_rfc_4648(void **state)
{
	static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
	static const char *const coded[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
	for (unsigned i = 0; i < 7; i++) {
		char out[16];
		uint8_t back[16];
		size_t n = metadata_bin_put(out, text(plain[i]));
		assert_memory_equal(out, coded[i], n);
		assert_int_equal(metadata_bin_get(back, sizeof back, text(coded[i])), strlen(plain[i]));
		assert_memory_equal(back, plain[i], strlen(plain[i]));
		assert_int_equal(metadata_bin_get(back, sizeof back, (struct span){(uint8_t *)out, n}),
				 strlen(plain[i]));
	}
}

static void test_malformed_base64_is_refused(void **state)
{
	uint8_t out[8];
	assert_true(metadata_bin_get(out, sizeof out, text("Z")) == SIZE_MAX);
	assert_true(metadata_bin_get(out, sizeof out, text("Zm9v!A==")) == SIZE_MAX);
	assert_true(metadata_bin_get(out, sizeof out, (struct span){(const uint8_t *)"Zm\0v", 4}) == SIZE_MAX);
	assert_true(metadata_bin_get(out, 2, text("Zm9v")) == SIZE_MAX);
}

static void test_names_of_the_protocol_are_not_metadata(void **state)
{
	assert_true(metadata_is_valid(text("x-trace-bin"), text("AAE")));
	assert_false(metadata_is_valid(text("grpc-status"), text("0")));
	assert_false(metadata_is_valid(text(":path"), text("/")));
	assert_false(metadata_is_valid(text("X-Trace"), text("1")));
	assert_false(metadata_is_valid(text("x"), text("a\nb")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values_are_kept_in_order),
		cmocka_unit_test(test_base64_of_rfc_4648),
		cmocka_unit_test(test_malformed_base64_is_refused),
		cmocka_unit_test(test_names_of_the_protocol_are_not_metadata),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
