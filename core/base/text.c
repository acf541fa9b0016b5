/* Growing text and a JSON writer; see the header. Runs wherever its owner does. Keeps nothing outside of its arguments. */
#include "core/base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_FIRST = 4096 };

void text_done(struct text *t)
{
	free(t->p);
	*t = (struct text){0};
}

static bool make_room(struct text *t, size_t n)
{
	size_t cap = t->cap ? t->cap : TEXT_FIRST;
	if (t->failed)
		return false;
	if (t->cap - t->n >= n)
		return true;
	while (cap - t->n < n && cap <= SIZE_MAX / 2)
		cap *= 2;
	char *p = cap - t->n < n ? NULL : realloc(t->p, cap);
	if (!p) {
		text_done(t);
		t->failed = true;
		return false;
	}
	t->p = p;
	t->cap = cap;
	return true;
}

void text_add(struct text *t, const void *p, size_t n)
{
	if (n == 0 || !make_room(t, n))
		return;
	memcpy(t->p + t->n, p, n);
	t->n += n;
}

void text_printf(struct text *t, const char *fmt, ...)
{
	va_list ap, again;
	if (!make_room(t, 128))
		return;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(t->p + t->n, t->cap - t->n, fmt, ap);
	if (n >= 0 && (size_t)n >= t->cap - t->n && make_room(t, (size_t)n + 1))
		n = vsnprintf(t->p + t->n, t->cap - t->n, fmt, again);
	if (n > 0 && !t->failed)
		t->n += (size_t)n;
	va_end(again);
	va_end(ap);
}

void text_pad(struct text *t, size_t from, size_t n, char c)
{
	while (!t->failed && t->n < from + n)
		text_add(t, &c, 1);
}

/* JSON. */

static void quoted(struct text *t, struct span s)
{
	text_add(t, "\"", 1);
	for (size_t i = 0, from = 0; i <= s.n; i++) {
		bool plain = i < s.n && s.p[i] >= 0x20 && s.p[i] != '"' && s.p[i] != '\\';
		if (plain)
			continue;
		text_add(t, s.p + from, i - from);
		from = i + 1;
		if (i == s.n)
			break;
		if (s.p[i] < 0x20)
			text_printf(t, "\\u%04x", s.p[i]);
		else
			text_printf(t, "\\%c", s.p[i]);
	}
	text_add(t, "\"", 1);
}

static struct span span_of(const char *s)
{
	return (struct span){(const uint8_t *)s, strlen(s)};
}

static void begin(struct json *j, const char *key)
{
	if (j->comma)
		text_add(j->to, ",", 1);
	j->comma = true;
	if (key) {
		quoted(j->to, span_of(key));
		text_add(j->to, ":", 1);
	}
}

void json_open(struct json *j, const char *key, char c)
{
	begin(j, key);
	text_add(j->to, &c, 1);
	j->comma = false;
}

void json_close(struct json *j, char c)
{
	text_add(j->to, &c, 1);
	j->comma = true;
}

void json_u64(struct json *j, const char *key, uint64_t v)
{
	begin(j, key);
	text_printf(j->to, "%" PRIu64, v);
}

void json_f64(struct json *j, const char *key, double v)
{
	begin(j, key);
	if (isfinite(v))
		text_printf(j->to, "%.12g", v);
	else
		text_add(j->to, "null", 4);
}

void json_bool(struct json *j, const char *key, bool v)
{
	begin(j, key);
	text_printf(j->to, "%s", v ? "true" : "false");
}

void json_span(struct json *j, const char *key, struct span v)
{
	begin(j, key);
	quoted(j->to, v);
}

void json_str(struct json *j, const char *key, const char *v)
{
	json_span(j, key, span_of(v));
}

void json_id(struct json *j, const char *key, uint64_t v)
{
	char text[24];

	snprintf(text, sizeof text, "%" PRIu64, v);
	json_str(j, key, text);
}

void text_make_printable(char *text)
{
	for (uint8_t *p = (uint8_t *)text; *p; p++) {
		if (*p >= '\t' && *p <= '\r')
			*p = ' ';
		else if (*p < 0x20 || *p == 0x7f)
			*p = '?';
		else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
			p[0] = p[1] = '?';
	}
}
