/* The text of a line of the log: what may be shown as it is, and the time. Pure. */
#ifndef ORDINAL_CORE_BASE_LOG_TEXT_H
#define ORDINAL_CORE_BASE_LOG_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define LOG_TEXT_STAMP_MAX 40

/* Writes `in` escaped to `out`, which has room for `cap` bytes (no terminator); never half a character. Returns the
 * length. */
size_t log_text_escape(const char *in, size_t n, char *out, size_t cap);
/* "2025-11-21T20:02:03.123Z", no terminator. Returns the length. */
size_t log_text_stamp(char *out, int64_t wall_ns);
/* A format without what is only known when it is used: "accept: %s" becomes "accept: ...". With a terminator. */
void log_text_words(const char *format, char *out, size_t cap);

#endif
