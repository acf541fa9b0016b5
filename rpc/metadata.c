/* Metadata lists and base64; see the header. Pure. */
#include "rpc/metadata.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRY = 4 };

void metadata_free(struct metadata *m)
{
	free(m->p);
	*m = (struct metadata){0};
}

bool metadata_add(struct metadata *m, struct span name, struct span value)
{
	if (name.n > UINT16_MAX || value.n > UINT16_MAX)
		return false;
	size_t need = m->len + ENTRY + name.n + value.n;
	if (need > m->cap) {
		size_t cap = need < 256 ? 256 : need * 2;
		uint8_t *p = cap <= UINT32_MAX ? realloc(m->p, cap) : NULL;
		if (!p)
			return false;
		m->p = p;
		m->cap = (uint32_t)cap;
	}
	uint8_t *p = m->p + m->len;
	store_le16(p, (uint16_t)name.n);
	store_le16(p + 2, (uint16_t)value.n);
	memcpy(p + ENTRY, name.p, name.n);
	if (value.n)
		memcpy(p + ENTRY + name.n, value.p, value.n);
	m->len = (uint32_t)need;
	return true;
}

bool metadata_next(const struct metadata *m, uint32_t *at, struct span *ret_name, struct span *ret_value)
{
	if (*at >= m->len)
		return false;
	const uint8_t *p = m->p + *at;
	*ret_name = (struct span){p + ENTRY, load_le16(p)};
	*ret_value = (struct span){p + ENTRY + ret_name->n, load_le16(p + 2)};
	*at += ENTRY + (uint32_t)(ret_name->n + ret_value->n);
	return true;
}

bool metadata_get(const struct metadata *m, struct span name, unsigned nth, struct span *ret)
{
	struct span found, value;
	for (uint32_t at = 0; metadata_next(m, &at, &found, &value);) {
		if (span_eq(found, name) && nth-- == 0) {
			*ret = value;
			return true;
		}
	}
	return false;
}

static bool has_prefix(struct span s, const char *prefix)
{
	size_t n = strlen(prefix);
	return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

bool metadata_is_valid(struct span name, struct span value)
{
	if (name.n == 0 || has_prefix(name, ":") || has_prefix(name, "grpc-") || span_eq(name, SPAN_LIT("te")) ||
	    span_eq(name, SPAN_LIT("content-type")) || span_eq(name, SPAN_LIT("connection")))
		return false;
	for (size_t i = 0; i < name.n; i++) {
		uint8_t c = name.p[i];
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
			return false;
	}
	for (size_t i = 0; i < value.n; i++) {
		if (value.p[i] < 0x20 || value.p[i] > 0x7e)
			return false;
	}
	return true;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t metadata_bin_get(uint8_t *out, size_t cap, struct span text)
{
	uint32_t bits = 0, held = 0;
	size_t n = 0, end = text.n;
	for (unsigned pad = 0; end > 0 && text.p[end - 1] == '=' && pad < 2; pad++)
		end--;
	if (end % 4 == 1)
		return SIZE_MAX;
	for (size_t i = 0; i < end; i++) {
		const char *at = text.p[i] ? strchr(alphabet, text.p[i]) : NULL;
		if (!at)
			return SIZE_MAX;
		bits = bits << 6 | (uint32_t)(at - alphabet);
		held += 6;
		if (held >= 8) {
			held -= 8;
			if (n == cap)
				return SIZE_MAX;
			out[n++] = (uint8_t)(bits >> held);
		}
	}
	return n;
}

size_t metadata_bin_put(char *out, struct span bytes)
{
	uint32_t bits = 0, held = 0;
	size_t n = 0;
	for (size_t i = 0; i < bytes.n; i++) {
		bits = bits << 8 | bytes.p[i];
		for (held += 8; held >= 6; held -= 6)
			out[n++] = alphabet[bits >> (held - 6) & 63];
	}
	if (held)
		out[n++] = alphabet[bits << (6 - held) & 63];
	return n;
}
