/* native.h: the layout on the wire, byte by byte, and what is refused. */
#include "rpc/wire/native.h"

#include "tests/unit/rpc/wire/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Other people write clients from the description: these bytes never change. */
static void test_layout(void **state)
{
	static const uint8_t want[NATIVE_HEADER] = {
		0x81, 0x11, 0x02, 0x01, 0x06, 0x05, 0x04, 0x03, 0x0a, 0x09, 0x08, 0x07, 0x0e, 0x0d, 0x0c, 0x0b,
	};
	uint8_t out[NATIVE_HEADER];
	struct native_header h;

	native_put(out, NATIVE_REQUEST | NATIVE_F_LAST, 0x0102, 0x03040506, 0x0708090a, 0x0b0c0d0e);
	assert_memory_equal(out, want, sizeof want);
	assert_int_equal(native_get(want, &h), 0);
	assert_int_equal(h.kind, NATIVE_REQUEST);
	assert_int_equal(h.flags, NATIVE_F_LAST);
	assert_int_equal(h.code, 0x0102);
	assert_int_equal(h.len, 0x03040506);
	assert_int_equal(h.call, 0x0708090a);
	assert_int_equal(h.arg, 0x0b0c0d0e);
}

static void test_first_two_bytes_decide(void **state)
{
	unsigned accepted = 0;

	for (unsigned first = 0; first < 256; first++) {
		for (unsigned second = 0; second < 256; second++) {
			uint8_t *p = exact_copy((uint8_t[NATIVE_HEADER]){(uint8_t)first, (uint8_t)second},
						NATIVE_HEADER);
			struct native_header h = {.kind = 0xee};
			unsigned kind = second & 0x0f;
			bool good = first == 0x81 && kind >= 1 && kind <= 8 && (second & 0xc0) == 0;

			assert_int_equal(native_get(p, &h), good ? 0 : -EPROTO);
			if (good) {
				accepted++;
				assert_int_equal(h.kind | h.flags, second);
			} else {
				assert_int_equal(h.kind, 0xee);
			}
			free(p);
		}
	}
	assert_int_equal(accepted, 8 * 4);
}

static void test_round_trip(void **state)
{
	uint64_t seed = 2;

	for (int i = 0; i < 5000; i++) {
		uint8_t kind = (uint8_t)(1 + random_below(&seed, 7)), flags = (uint8_t)(random_below(&seed, 4) << 4);
		uint16_t code = (uint16_t)random_wide(&seed);
		uint32_t len = (uint32_t)random_wide(&seed), call = (uint32_t)random_wide(&seed),
			 arg = (uint32_t)random_wide(&seed);
		uint8_t out[NATIVE_HEADER];
		struct native_header h;

		native_put(out, kind | flags, code, len, call, arg);
		assert_int_equal(native_get(out, &h), 0);
		assert_true(h.kind == kind && h.flags == flags && h.code == code && h.len == len && h.call == call &&
			    h.arg == arg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_first_two_bytes_decide),
		cmocka_unit_test(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
