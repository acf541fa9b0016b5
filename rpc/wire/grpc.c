/* gRPC's small text formats: status codes and names, the grpc-timeout header, and the percent-encoding of grpc-message. Pure; any thread.
 *
 * Reading is as strict as the protocol description for timeouts, and lenient for messages (a wrong escape is text), as it asks for. */
#include "rpc/wire/grpc.h"

#include "core/base/check.h"

#include <errno.h>

static const char *const status_names[GRPC_STATUS_COUNT] = {
	"OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
	"NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED",
};

const char *grpc_status_name(unsigned status)
{
	return status < GRPC_STATUS_COUNT ? status_names[status] : "UNKNOWN";
}

#define STATUS_DIGITS 2 /* of the largest code; leading zeros are none of gRPC's */

enum grpc_status grpc_status_get(struct span text)
{
	unsigned v = 0;

	if (text.n == 0 || text.n > STATUS_DIGITS)
		return GRPC_UNKNOWN;
	for (size_t i = 0; i < text.n; i++) {
		unsigned digit = (unsigned)text.p[i] - '0';
		if (digit > 9)
			return GRPC_UNKNOWN;
		v = v * 10 + digit;
	}
	return grpc_status_of(v);
}

#define TIMEOUT_DIGITS 8
#define TIMEOUT_VALUE_MAX UINT64_C(99999999)

/* From fine to coarse; each is `factor` of the one before. */
static const struct {
	char unit;
	uint64_t ns;
	uint32_t factor;
} units[] = {
	{'n', 1, 1},
	{'u', 1000, 1000},
	{'m', 1000000, 1000},
	{'S', 1000000000, 1000},
	{'M', UINT64_C(60000000000), 60},
	{'H', UINT64_C(3600000000000), 60},
};

int grpc_timeout_get(struct span text, uint64_t *ret_ns)
{
	uint64_t v = 0;

	if (text.n < 2 || text.n > TIMEOUT_DIGITS + 1)
		return -EINVAL;
	for (size_t i = 0; i < text.n - 1; i++) {
		unsigned digit = (unsigned)text.p[i] - '0';
		if (digit > 9)
			return -EINVAL;
		v = v * 10 + digit;
	}
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (units[i].unit != text.p[text.n - 1])
			continue;
		if (__builtin_mul_overflow(v, units[i].ns, &v))
			v = UINT64_MAX;
		*ret_ns = v;
		return 0;
	}
	return -EINVAL;
}

size_t grpc_timeout_put(char out[10], uint64_t ns)
{
	char digits[TIMEOUT_DIGITS];
	size_t u = 0, n = 0, len = 0;
	uint64_t v = ns;

	/* The finest unit in which it fits 8 digits, rounded up … */
	while (v > TIMEOUT_VALUE_MAX) {
		u++;
		v = ns / units[u].ns + (ns % units[u].ns != 0);
	}
	/* … and a coarser one for as long as that is the same. */
	while (v != 0 && u + 1 < ARRAY_SIZE(units) && v % units[u + 1].factor == 0)
		v /= units[++u].factor;
	do {
		digits[n++] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (n)
		out[len++] = digits[--n];
	out[len++] = units[u].unit;
	return len;
}

static bool percent_is_plain(uint8_t c)
{
	return c >= 0x20 && c <= 0x7e && c != '%';
}

size_t grpc_percent_encode(char *out, size_t cap, struct span text)
{
	static const char hex[16] = "0123456789ABCDEF";
	size_t n = 0, character = 0; /* `character`: where in `out` the UTF-8 character under way began */

	for (size_t i = 0; i < text.n; i++) {
		uint8_t c = text.p[i];
		size_t need = percent_is_plain(c) ? 1 : 3;

		if ((c & 0xc0) != 0x80)
			character = n;
		if (need > cap - n) /* no half character at the end, unless the text is not UTF-8 anyway */
			return n - character <= 9 ? character : n;
		if (need == 1) {
			out[n++] = (char)c;
		} else {
			out[n++] = '%';
			out[n++] = hex[c >> 4];
			out[n++] = hex[c & 15];
		}
	}
	return n;
}

/* The value of a hexadecimal digit, or 16 and above. */
static unsigned hex_value(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? (unsigned)c - 'a' + 10 : 16;
}

size_t grpc_percent_decode(char *out, size_t cap, struct span text)
{
	size_t n = 0;

	for (size_t i = 0; i < text.n && n < cap; i++) {
		uint8_t c = text.p[i];

		if (c == '%' && text.n - i >= 3) {
			unsigned hi = hex_value(text.p[i + 1]), lo = hex_value(text.p[i + 2]);
			if ((hi | lo) < 16) {
				c = (uint8_t)(hi << 4 | lo);
				i += 2;
			}
		}
		out[n++] = (char)c;
	}
	return n;
}
