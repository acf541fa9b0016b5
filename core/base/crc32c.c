/* CRC-32C: the SSE 4.2 instruction on x86-64 that has it, slicing-by-8 tables elsewhere. The choice is made, and the
 * tables are filled, by a constructor before main, so that calls are pure reads. Any thread.
 * Source: M. Kounavis and F. Berry, "Novel Table Lookup-Based Algorithms for High-Performance CRC Generation"
 * (2008). */
#include "core/base/crc32c.h"

#include "core/base/bytes.h"

#define CRC32C_POLY UINT32_C(0x82f63b78) /* reflected */

static uint32_t table[8][256]; /* table[k][b]: the CRC of byte b followed by k zero bytes */

static uint32_t crc32c_table(uint32_t crc, const uint8_t *p, size_t n)
{
	for (; n >= 8; p += 8, n -= 8) {
		uint32_t a = load_le32(p) ^ crc, b = load_le32(p + 4);

		crc = table[7][a & 0xff] ^ table[6][a >> 8 & 0xff] ^ table[5][a >> 16 & 0xff] ^ table[4][a >> 24] ^
		      table[3][b & 0xff] ^ table[2][b >> 8 & 0xff] ^ table[1][b >> 16 & 0xff] ^ table[0][b >> 24];
	}
	for (; n > 0; p++, n--)
		crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_cpu(uint32_t crc, const uint8_t *p, size_t n)
{
	uint64_t c = crc;

	for (; n >= 8; p += 8, n -= 8)
		c = __builtin_ia32_crc32di(c, load_le64(p));
	crc = (uint32_t)c;
	for (; n > 0; p++, n--)
		crc = __builtin_ia32_crc32qi(crc, *p);
	return crc;
}

static int cpu_has_crc32c(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("sse4.2");
}
#else
#define crc32c_cpu crc32c_table
static int cpu_has_crc32c(void)
{
	return 0;
}
#endif

static uint32_t (*chosen)(uint32_t crc, const uint8_t *p, size_t n) = crc32c_table;

__attribute__((constructor(101))) static void crc32c_choose(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t crc = b;

		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? CRC32C_POLY : 0);
		table[0][b] = crc;
	}
	for (uint32_t b = 0; b < 256; b++)
		for (int k = 1; k < 8; k++)
			table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 0xff];
	if (cpu_has_crc32c())
		chosen = crc32c_cpu;
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	return ~chosen(~crc, p, n);
}
