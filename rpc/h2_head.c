/* The header block of a request: the few fields that we use, and the rules of RFC 9113 section 8 and of gRPC for the rest. Pure: fills a
 * h2_head from decoded fields. Runs on the shard.
 *
 * Limits are counted as SETTINGS_MAX_HEADER_LIST_SIZE counts (name + value + 32 bytes a field); beyond them fields are decoded, so that the
 * decoder's state stays right, and not looked at. Far beyond them the connection ends: a frame of 16 KiB can name 16,000 fields, which take
 * milliseconds.
 */
#include "rpc/h2_impl.h"

#include <errno.h>
#include <string.h>

enum {
	BOMB = 4 /* times HEADER_LIST_MAX and HEADER_FIELDS_MAX: no mistake of a client's, and not worth the time to decode it */
};

static bool is(struct span s, const char *lit, size_t n)
{
	return s.n == n && memcmp(s.p, lit, n) == 0;
}
#define IS(s, lit) is(s, lit, sizeof(lit) - 1)

/* Section 8.2.1: lower case, no controls, no spaces, no colon (but for the first byte of pseudo-header fields). */
static bool name_ok(struct span name)
{
	if (name.n == 0)
		return false;
	for (size_t i = 0; i < name.n; i++) {
		uint8_t c = name.p[i];
		if (c <= 0x20 || c >= 0x7f || (c >= 'A' && c <= 'Z') || (c == ':' && i > 0))
			return false;
	}
	return true;
}

static bool value_ok(struct span v)
{
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] == 0 || v.p[i] == '\r' || v.p[i] == '\n')
			return false;
	}
	return true;
}

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t';
}

/* A field value has no space around it (section 8.2.1). gRPC's own libraries send the spaces of a metadata value as
 * they are, and their servers take them off; so does this one. */
static struct span trim(struct span v)
{
	while (v.n > 0 && is_space(v.p[0])) {
		v.p++;
		v.n--;
	}
	while (v.n > 0 && is_space(v.p[v.n - 1]))
		v.n--;
	return v;
}

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* Whether `v` begins with `lit`, which is in lower case, in letters of either case. */
static bool begins(struct span v, const char *lit, size_t n)
{
	if (v.n < n)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (lower(v.p[i]) != (uint8_t)lit[i])
			return false;
	}
	return true;
}

/* Section 8.3.1: each at most once, before all others. */
static bool pseudo(struct h2_head_reader *rd, struct span name, struct span value)
{
	struct h2_head *h = &rd->head;
	bool *seen = IS(name, ":method")      ? &rd->has_method
		     : IS(name, ":scheme")    ? &rd->has_scheme
		     : IS(name, ":path")      ? &rd->has_path
		     : IS(name, ":authority") ? &rd->has_authority
					      : NULL;
	if (!seen || *seen || rd->regular || rd->trailers)
		return false;
	*seen = true;
	if (seen == &rd->has_method && !IS(value, "POST"))
		h->http_status = 405;
	if (seen == &rd->has_path) {
		if (value.n == 0 || (value.p[0] != '/' && !IS(value, "*")))
			return false;
		h->method = (int16_t)method_find(rd->rpc->methods, value);
		h->service_known = h->method < 0 && method_service_exists(rd->rpc->methods, value);
	}
	return true;
}

/* "application/grpc", alone or followed by '+', ';' or a space. Media types have no case: RFC 9110 section 8.3.1. */
static bool is_grpc(struct span v)
{
	static const char type[] = "application/grpc";
	size_t n = sizeof type - 1;
	return begins(v, type, n) && (v.n == n || v.p[n] == '+' || v.p[n] == ';' || is_space(v.p[n]));
}

/* Whether the list names gzip: "identity, gzip;q=1". */
static bool lists_gzip(struct span v)
{
	for (size_t at = 0; at < v.n;) {
		const uint8_t *comma = memchr(v.p + at, ',', v.n - at);
		size_t end = comma ? (size_t)(comma - v.p) : v.n;
		struct span item = trim((struct span){v.p + at, end - at});
		if (begins(item, "gzip", 4) && (item.n == 4 || item.p[4] == ';' || is_space(item.p[4])))
			return true;
		at = end + 1;
	}
	return false;
}

/* Notes that a field came that may come once. Of two values neither is obeyed: the call is refused. */
static void once(struct h2_head_reader *rd, bool *seen, const char *name)
{
	if (*seen)
		rd->head.twice = name;
	*seen = true;
}

static void timeout(struct h2_head_reader *rd, struct span value)
{
	struct h2_head *h = &rd->head;
	once(rd, &rd->has_timeout, "grpc-timeout");
	h->bad_timeout |= grpc_timeout_get(value, &h->timeout_ns) != 0;
	if (h->timeout_ns == 0) /* "0m": already over, which is not "none" */
		h->timeout_ns = 1;
}

static void encoding(struct h2_head_reader *rd, struct span value)
{
	struct h2_head *h = &rd->head;
	once(rd, &rd->has_encoding, "grpc-encoding");
	h->gzip = IS(value, "gzip");
	h->unknown_coding = !h->gzip && !IS(value, "identity");
}

static bool content_length(struct h2_head *h, struct span v)
{
	int64_t n = 0;
	if (v.n == 0 || v.n > 18)
		return false;
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return false;
		n = n * 10 + (v.p[i] - '0');
	}
	if (h->content_length >= 0 && h->content_length != n)
		return false;
	h->content_length = n;
	return true;
}

/* A token counts for more than a certificate. Two of them, or something else than a token, are nobody's. */
static void authorization(struct h2_head_reader *rd, struct span value)
{
	struct span token;
	if (!rd->rpc->access)
		return;
	rd->head.who = !rd->has_token && access_bearer(value, &token) ? access_who_token(rd->rpc->access, token)
								      : ACCESS_WHO_UNKNOWN;
	rd->has_token = true;
}

static bool regular(struct h2_head_reader *rd, struct span name, struct span value)
{
	struct h2_head *h = &rd->head;
	rd->regular = true;
	switch (name.n) {
	case 2:
		if (IS(name, "te"))
			return IS(value, "trailers");
		break;
	case 7:
		if (IS(name, "upgrade"))
			return false;
		break;
	case 10:
		if (IS(name, "connection") || IS(name, "keep-alive"))
			return false;
		break;
	case 12:
		if (IS(name, "content-type")) {
			once(rd, &rd->has_type, "content-type");
			if (!is_grpc(value))
				h->http_status = 415;
		} else if (IS(name, "grpc-timeout")) {
			timeout(rd, value);
		}
		break;
	case 13:
		if (IS(name, "grpc-encoding")) {
			encoding(rd, value);
		} else if (IS(name, "authorization")) {
			authorization(rd, value);
			return true; /* no metadata for handlers */
		}
		break;
	case 14:
		if (IS(name, "content-length"))
			return content_length(h, value);
		break;
	case 16:
		if (IS(name, "proxy-connection"))
			return false;
		break;
	case 20:
		if (IS(name, "grpc-accept-encoding")) {
			h->takes_gzip |= lists_gzip(value);
			return true;
		}
		break;
	case 17:
		if (IS(name, "transfer-encoding"))
			return false;
		break;
	default:
		break;
	}
	if (h->method >= 0 && rd->rpc->methods->method[h->method]->metadata && metadata_is_valid(name, value))
		metadata_add(&rd->metadata, name, value);
	return true;
}

int h2_head_field(void *ctx, struct span name, struct span value)
{
	struct h2_head_reader *rd = ctx;
	struct h2_head *h = &rd->head;
	rd->fields++;
	rd->bytes += (uint32_t)(name.n + value.n) + 32;
	if (rd->fields > rd->rpc->opts->header_fields_max || rd->bytes > rd->rpc->opts->header_list_max)
		h->too_large = true;
	if (rd->fields > BOMB * rd->rpc->opts->header_fields_max || rd->bytes > BOMB * rd->rpc->opts->header_list_max)
		return -ECANCELED;
	if (h->too_large || h->malformed)
		return 0;
	if (!name_ok(name) || !value_ok(value))
		h->malformed = true;
	else if (name.p[0] == ':')
		h->malformed = trim(value).n != value.n || !pseudo(rd, name, value);
	else
		h->malformed = !regular(rd, name, trim(value));
	return 0;
}

void h2_head_finish(struct h2_head_reader *rd)
{
	struct h2_head *h = &rd->head;
	if (h->too_large || h->malformed || rd->trailers)
		return;
	if (!rd->has_method || !rd->has_scheme || !rd->has_path)
		h->malformed = true;
	else if (!rd->has_type && h->http_status == 0)
		h->http_status = 415;
}
