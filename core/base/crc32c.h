/* CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720 appendix B.4 has test values). Uses the CPU's
 * instruction where there is one (chosen once at start), a table elsewhere. Any thread. */
#ifndef ORDINAL_CORE_BASE_CRC32C_H
#define ORDINAL_CORE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Extends `crc` (0 to begin) by n bytes: crc32c(crc32c(0, a), b) is the CRC of a followed by b. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

#endif
