/* Text that grows while it is written, and JSON written into it. An owner's alone; any thread.
 *
 * Without memory the text becomes empty and stays so (`failed`); callers look once, at the end. */
#ifndef ORDINAL_CORE_BASE_TEXT_H
#define ORDINAL_CORE_BASE_TEXT_H

#include "core/base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
	char *p; /* n bytes; not terminated */
	size_t n, cap;
	bool failed;
};

/* A zero-filled text is an empty one. Done leaves an empty one. */
void text_done(struct text *t);
void text_add(struct text *t, const void *p, size_t n);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds `c` until there are `n` bytes since `from` (an earlier t->n). */
void text_pad(struct text *t, size_t from, size_t n, char c);

/* Text of others, to be shown on a terminal: each control character (C0, DEL, and C1 in UTF-8) becomes '?', white space among them ' '. */
void text_make_printable(char *s);

/* A writer of one JSON value. Members get a key, elements of an array NULL. */
struct json {
	struct text *to;
	bool comma; /* something stands before, on this level */
};

/* `c` is '{' or '[' to open, '}' or ']' to close. */
void json_open(struct json *j, const char *key, char c);
void json_close(struct json *j, char c);
void json_u64(struct json *j, const char *key, uint64_t v);
/* As text: a number that needs all of 64 bits, which many readers of JSON do not keep. */
void json_id(struct json *j, const char *key, uint64_t v);
/* null when it is not a finite number. */
void json_f64(struct json *j, const char *key, double v);
void json_bool(struct json *j, const char *key, bool v);
/* Must be UTF-8; quotes, backslashes and control characters are escaped. */
void json_span(struct json *j, const char *key, struct span v);
void json_str(struct json *j, const char *key, const char *v);

#endif
