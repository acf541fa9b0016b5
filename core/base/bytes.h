/* Byte spans and unaligned loads and stores of fixed endianness. Pure; any thread. */
#ifndef ORDINAL_CORE_BASE_BYTES_H
#define ORDINAL_CORE_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that somebody else owns. Valid for as long as its giver says. */
struct span {
	const uint8_t *p;
	size_t n;
};

#define SPAN_LIT(s) ((struct span){(const uint8_t *)(s), sizeof(s) - 1})

static inline bool span_eq(struct span a, struct span b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

#define BYTES_DEFINE(bits, end, conv_from, conv_to)                                                                    \
	static inline uint##bits##_t load_##end##bits(const void *p)                                                   \
	{                                                                                                              \
		uint##bits##_t v;                                                                                      \
		memcpy(&v, p, sizeof v);                                                                               \
		return conv_from(v);                                                                                   \
	}                                                                                                              \
	static inline void store_##end##bits(void *p, uint##bits##_t v)                                                \
	{                                                                                                              \
		v = conv_to(v);                                                                                        \
		memcpy(p, &v, sizeof v);                                                                               \
	}

BYTES_DEFINE(16, le, le16toh, htole16)
BYTES_DEFINE(32, le, le32toh, htole32)
BYTES_DEFINE(64, le, le64toh, htole64)
BYTES_DEFINE(16, be, be16toh, htobe16)
BYTES_DEFINE(32, be, be32toh, htobe32)
BYTES_DEFINE(64, be, be64toh, htobe64)
#undef BYTES_DEFINE

#endif
