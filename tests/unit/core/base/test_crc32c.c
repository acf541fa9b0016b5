/* Both implementations against the values of RFC 3720 B.4 and against the definition, bit by bit. The source is
 * included, so that the one that this CPU would not choose is tested too. */
#include "core/base/crc32c.c" /* NOLINT */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static uint32_t by_definition(uint32_t crc, const uint8_t *p, size_t n)
{
	crc = ~crc;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
	}
	return ~crc;
}

static uint32_t with_table(uint32_t crc, const void *p, size_t n)
{
	return ~crc32c_table(~crc, p, n);
}

static void check_known(uint32_t (*f)(uint32_t, const void *, size_t))
{
	static const uint8_t read10[48] = {0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
					   0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
					   0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0};
	uint8_t b[32];

	memset(b, 0, sizeof b);
	assert_int_equal(f(0, b, 32), 0x8a9136aa);
	memset(b, 0xff, sizeof b);
	assert_int_equal(f(0, b, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		b[i] = (uint8_t)i;
	assert_int_equal(f(0, b, 32), 0x46dd794e);
	for (unsigned i = 0; i < 32; i++)
		b[i] = (uint8_t)(31 - i);
	assert_int_equal(f(0, b, 32), 0x113fdb5c);
	assert_int_equal(f(0, read10, sizeof read10), 0xd9963a56);
	assert_int_equal(f(0, "123456789", 9), 0xe3069283);
	assert_int_equal(f(0, "", 0), 0);
}

static void test_known_values(void **state)
{
	check_known(crc32c);
	check_known(with_table);
}

static void test_every_length_and_alignment(void **state)
{
	uint8_t buf[96];

	for (unsigned i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)(i * 167 + 13);
	for (size_t off = 0; off < 9; off++) {
		for (size_t n = 0; off + n <= sizeof buf; n++) {
			uint32_t want = by_definition(0x1234567, buf + off, n);

			assert_int_equal(crc32c(0x1234567, buf + off, n), want);
			assert_int_equal(with_table(0x1234567, buf + off, n), want);
		}
	}
}

static void test_extends_over_parts(void **state)
{
	static const char text[] = "strictly increasing, never repeated, never lost";
	uint32_t whole = crc32c(0, text, sizeof text);

	for (size_t cut = 0; cut <= sizeof text; cut++)
		assert_int_equal(crc32c(crc32c(0, text, cut), text + cut, sizeof text - cut), whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_values),
		cmocka_unit_test(test_every_length_and_alignment),
		cmocka_unit_test(test_extends_over_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
