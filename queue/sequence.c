/* What a sequence may be called. Pure; any thread. */
#include "queue/sequence.h"

/* The length of the UTF-8 character at p (RFC 3629: no overlong forms, no surrogates, none above U+10FFFF), 0 when
 * malformed. */
static size_t utf8_char(const uint8_t *p, size_t n, uint32_t *ret_code)
{
	static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t code;
	size_t len;

	if (p[0] < 0x80) {
		*ret_code = p[0];
		return 1;
	}
	if ((p[0] & 0xe0) == 0xc0)
		len = 2, code = p[0] & 0x1f;
	else if ((p[0] & 0xf0) == 0xe0)
		len = 3, code = p[0] & 0x0f;
	else if ((p[0] & 0xf8) == 0xf0)
		len = 4, code = p[0] & 0x07;
	else
		return 0;
	if (n < len)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (p[i] & 0x3f);
	}
	if (code < least[len] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	*ret_code = code;
	return len;
}

bool sequence_name_ok(struct span name)
{
	if (name.n > SEQUENCE_NAME_MAX)
		return false;
	for (size_t i = 0; i < name.n;) {
		uint32_t code;
		size_t len = utf8_char(name.p + i, name.n - i, &code);

		if (len == 0 || code < 0x20 || (code >= 0x7f && code < 0xa0))
			return false;
		i += len;
	}
	return true;
}
