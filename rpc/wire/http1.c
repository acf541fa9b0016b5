/* The head of an HTTP/1.1 request. Pure; any thread; nothing is copied or allocated.
 *
 * One pass from the first byte, started over on every call: a head is at most HTTP1_HEAD_MAX bytes, and arrives in one piece but from a
 * client that dribbles. A fault is told as soon as it has been received, so garbage never waits for an empty line.
 * Two properties hold, and are fuzzed: every beginning of an acceptable head is -EAGAIN; what follows the head changes nothing. */
#include "rpc/wire/http1.h"

#include "core/base/check.h"

#include <errno.h>

static bool char_is_token(uint8_t c)
{
	/* RFC 9110 section 5.6.2: one bit a character, 32 characters a word. */
	static const uint32_t token[8] = {
		0,
		0x03ff6cfa /* !#$%&'*+-. 0-9 */,
		0xc7fffffe /* A-Z ^_ */,
		0x57ffffff /* ` a-z | ~ */,
	};
	return token[c >> 5] >> (c & 31) & 1;
}

static bool char_is_value(uint8_t c)
{
	return c >= 0x20 ? c != 0x7f : c == '\t';
}

static uint8_t char_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

bool http1_is_same(struct span a, struct span b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		if (char_lower(a.p[i]) != char_lower(b.p[i]))
			return false;
	}
	return true;
}

bool http1_header_find(const struct http1_request *r, struct span name, struct span *ret)
{
	for (uint32_t i = 0; i < r->headers; i++) {
		if (http1_is_same(r->header[i].name, name)) {
			*ret = r->header[i].value;
			return true;
		}
	}
	return false;
}

unsigned http1_error_status(int error)
{
	switch (error) {
	case -EAGAIN:
		return 0;
	case -EMSGSIZE:
	case -E2BIG:
		return 431;
	case -EPROTONOSUPPORT:
		return 505;
	case -EOPNOTSUPP:
		return 501;
	default:
		return 400;
	}
}

/* Moves *p past CR LF. */
static int line_end(const uint8_t **p, const uint8_t *end)
{
	if (*p == end)
		return -EAGAIN;
	if (**p != '\r')
		return -EBADMSG;
	if (end - *p < 2)
		return -EAGAIN;
	if ((*p)[1] != '\n')
		return -EBADMSG;
	*p += 2;
	return 0;
}

/* "HTTP/1.1": each byte is looked at when it is there. */
static int version_get(const uint8_t **p, const uint8_t *end, uint8_t *ret_minor)
{
	static const char form[] = "HTTP/#.#";
	uint8_t digits[2] = {0, 0};
	const uint8_t *at = *p;

	for (size_t i = 0, k = 0; i < sizeof form - 1; i++, at++) {
		if (at == end)
			return -EAGAIN;
		if (form[i] != '#') {
			if (*at != form[i])
				return -EBADMSG;
			continue;
		}
		if (*at < '0' || *at > '9')
			return -EBADMSG;
		digits[k++] = *at - '0';
		if (digits[0] != 1)
			return -EPROTONOSUPPORT;
	}
	*ret_minor = digits[1] ? 1 : 0;
	*p = at;
	return 0;
}

static int request_line(const uint8_t **p, const uint8_t *end, struct http1_request *r)
{
	const uint8_t *at = *p, *from = at;
	int e;

	while (at != end && char_is_token(*at) && at - from <= HTTP1_METHOD_MAX)
		at++;
	r->method = (struct span){from, (size_t)(at - from)};
	if (r->method.n > HTTP1_METHOD_MAX)
		return -EBADMSG;
	if (at == end)
		return -EAGAIN;
	if (r->method.n == 0 || *at++ != ' ')
		return -EBADMSG;

	from = at;
	while (at != end && *at > 0x20 && *at < 0x7f)
		at++;
	r->target = (struct span){from, (size_t)(at - from)};
	if (at == end)
		return -EAGAIN;
	if (r->target.n == 0 || *at++ != ' ')
		return -EBADMSG;

	e = version_get(&at, end, &r->minor);
	if (e == 0)
		e = line_end(&at, end);
	if (e == 0)
		*p = at;
	return e;
}

static int header_line(const uint8_t **p, const uint8_t *end, struct http1_header *ret)
{
	const uint8_t *at = *p, *from = at;
	int e;

	while (at != end && char_is_token(*at))
		at++;
	if (at == end)
		return -EAGAIN;
	if (at == from || *at != ':') /* a folded line begins with white space: no name */
		return -EBADMSG;
	ret->name = (struct span){from, (size_t)(at - from)};
	at++;

	while (at != end && (*at == ' ' || *at == '\t'))
		at++;
	from = at;
	while (at != end && char_is_value(*at))
		at++;
	ret->value = (struct span){from, (size_t)(at - from)};
	while (ret->value.n && (ret->value.p[ret->value.n - 1] == ' ' || ret->value.p[ret->value.n - 1] == '\t'))
		ret->value.n--;

	e = line_end(&at, end);
	if (e == 0)
		*p = at;
	return e;
}

static int content_length_get(struct span value, struct http1_request *r)
{
	uint64_t v = 0;

	if (r->has_content_length || value.n == 0)
		return -EBADMSG;
	for (size_t i = 0; i < value.n; i++) {
		unsigned digit = (unsigned)value.p[i] - '0';
		if (digit > 9 || __builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, digit, &v))
			return -EBADMSG;
	}
	r->has_content_length = true;
	r->content_length = v;
	return 0;
}

/* The options of a Connection header: a list separated by commas. */
struct options {
	bool close, keep_alive;
};

static void connection_get(struct span value, struct options *o)
{
	while (value.n) {
		const uint8_t *comma = memchr(value.p, ',', value.n);
		struct span item = {value.p, comma ? (size_t)(comma - value.p) : value.n};
		size_t used = comma ? item.n + 1 : item.n;

		value.p += used;
		value.n -= used;
		while (item.n && (item.p[0] == ' ' || item.p[0] == '\t')) {
			item.p++;
			item.n--;
		}
		while (item.n && (item.p[item.n - 1] == ' ' || item.p[item.n - 1] == '\t'))
			item.n--;
		o->close |= http1_is_same(item, SPAN_LIT("close"));
		o->keep_alive |= http1_is_same(item, SPAN_LIT("keep-alive"));
	}
}

/* The headers that decide how the connection goes on. */
static int header_apply(struct http1_request *r, const struct http1_header *h, struct options *o, unsigned *hosts)
{
	switch (h->name.n) {
	case 4:
		if (http1_is_same(h->name, SPAN_LIT("host")) && ++*hosts > 1)
			return -EBADMSG;
		break;
	case 6:
		if (http1_is_same(h->name, SPAN_LIT("expect")) && http1_is_same(h->value, SPAN_LIT("100-continue")))
			r->expect_continue = true;
		break;
	case 10:
		if (http1_is_same(h->name, SPAN_LIT("connection")))
			connection_get(h->value, o);
		break;
	case 14:
		if (http1_is_same(h->name, SPAN_LIT("content-length")))
			return content_length_get(h->value, r);
		break;
	case 17:
		if (http1_is_same(h->name, SPAN_LIT("transfer-encoding")))
			return -EOPNOTSUPP;
		break;
	}
	return 0;
}

static int head_get(const uint8_t *p, const uint8_t *end, struct http1_request *r)
{
	const uint8_t *at = p;
	struct options options = {false, false};
	unsigned hosts = 0;
	int e = request_line(&at, end, r);

	while (e == 0) {
		struct http1_header h;

		if (at != end && *at == '\r') {
			e = line_end(&at, end);
			break;
		}
		e = header_line(&at, end, &h);
		if (e == 0 && r->headers == HTTP1_HEADERS_MAX)
			e = -E2BIG;
		if (e == 0)
			e = header_apply(r, &h, &options, &hosts);
		if (e == 0)
			r->header[r->headers++] = h;
	}
	if (e < 0)
		return e;
	if (r->minor == 1 && hosts == 0)
		return -EBADMSG;
	r->keep_alive = !options.close && (r->minor == 1 || options.keep_alive);
	r->expect_continue = r->expect_continue && r->minor == 1;
	return (int)(at - p);
}

int http1_request_get(const uint8_t *p, size_t n, struct http1_request *ret)
{
	size_t seen = n < HTTP1_HEAD_MAX ? n : HTTP1_HEAD_MAX;

	ret->keep_alive = ret->expect_continue = ret->has_content_length = false;
	ret->content_length = 0;
	ret->headers = 0;
	if (n == 0)
		return -EAGAIN;
	int r = head_get(p, p + seen, ret);
	return r == -EAGAIN && seen == HTTP1_HEAD_MAX ? -EMSGSIZE : r;
}
