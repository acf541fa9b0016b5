/* The text of a line of the log; see the header. Pure, any thread.
 *
 * Control characters, line separators and whatever is not UTF-8 are escaped (\n, \x1b), so a peer cannot forge lines or move a terminal's cursor.
 */
#include "core/base/log_text.h"

#include "core/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define CUT_MARK "..."

/* Length of the UTF-8 character at p that may be shown as it is, or 0: malformed, a control character, or a line
 * separator (U+2028, U+2029). */
static unsigned printable_utf8(const uint8_t *p, size_t n)
{
	unsigned len = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	uint32_t c;

	if (len == 1)
		return p[0] >= 0x20 && p[0] != 0x7f;
	if (p[0] < 0xc2 || p[0] > 0xf4 || len > n)
		return 0;
	c = p[0] & (0x7fu >> len);
	for (unsigned i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < 0xa0 || (len == 3 && c < 0x800) || (len == 4 && c < 0x10000) || c > 0x10ffff)
		return 0;
	if ((c >= 0xd800 && c <= 0xdfff) || c == 0x2028 || c == 0x2029)
		return 0;
	return len;
}

size_t log_text_escape(const char *in, size_t n, char *out, size_t cap)
{
	static const char hex[] = "0123456789abcdef";
	size_t len = 0, cut = 0;

	for (size_t i = 0; i < n;) {
		uint8_t b = (uint8_t)in[i];
		unsigned plain = printable_utf8((const uint8_t *)in + i, n - i), take = plain ? plain : 1;
		char esc[4] = {'\\', 'x', hex[b >> 4], hex[b & 15]};
		size_t put = plain ? plain : 4;

		if (!plain && (b == '\n' || b == '\r' || b == '\t')) {
			esc[1] = b == '\n' ? 'n' : b == '\r' ? 'r' : 't';
			put = 2;
		}
		if (len + put > cap) {
			memcpy(out + cut, CUT_MARK, sizeof CUT_MARK - 1);
			return cut + sizeof CUT_MARK - 1;
		}
		memcpy(out + len, plain ? in + i : esc, put);
		len += put;
		i += take;
		if (len + sizeof CUT_MARK - 1 <= cap)
			cut = len; /* here the mark would still fit */
	}
	return len;
}

size_t log_text_stamp(char *out, int64_t wall_ns)
{
	uint64_t ns = wall_ns < 0 ? 0 : (uint64_t)wall_ns;
	time_t s = (time_t)(ns / NS_PER_S);
	unsigned ms = (unsigned)(ns % NS_PER_S / NS_PER_MS);
	struct tm tm;
	char buf[40];
	int n;

	gmtime_r(&s, &tm);
	n = snprintf(buf, sizeof buf, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900, tm.tm_mon + 1,
		     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms);
	memcpy(out, buf, (size_t)n);
	return (size_t)n;
}

void log_text_words(const char *format, char *out, size_t cap)
{
	size_t len = 0;

	for (const char *p = format; *p != 0 && len + sizeof CUT_MARK < cap;) {
		if (*p != '%' || p[1] == '%') {
			out[len++] = *p;
			p += *p == '%' ? 2 : 1;
			continue;
		}
		p += 1 + strcspn(p + 1, "diouxXeEfFgGcspm");
		p += *p != 0;
		memcpy(out + len, CUT_MARK, sizeof CUT_MARK - 1);
		len += sizeof CUT_MARK - 1;
	}
	out[len] = 0;
}
