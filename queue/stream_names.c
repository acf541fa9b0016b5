/* Names of streams and of their logs. Pure; any thread.
 *
 * A stream's log is called "stream." and the stream's name, in which every byte but letters, digits, '_' and '-' is a dot and two hexadecimal digits.
 */
#include "queue/stream_impl.h"
#include "queue/sequence.h"

#include <string.h>

_Static_assert(sizeof LOG_PREFIX - 1 + 3 * STREAM_NAME_MAX <= 200, "every stream has a log's name");

bool stream_name_ok(struct span name)
{
	return name.n <= STREAM_NAME_MAX && sequence_name_ok(name);
}

static bool is_plain(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

void stream_log_name(char out[208], struct span name)
{
	char *p = out + sizeof LOG_PREFIX - 1;

	memcpy(out, LOG_PREFIX, sizeof LOG_PREFIX);
	for (size_t i = 0; i < name.n; i++) {
		if (is_plain(name.p[i])) {
			*p++ = (char)name.p[i];
		} else {
			*p++ = '.';
			*p++ = "0123456789abcdef"[name.p[i] >> 4];
			*p++ = "0123456789abcdef"[name.p[i] & 15];
		}
	}
	*p = '\0';
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool stream_name_of_log(const char *log, uint8_t out[STREAM_NAME_MAX], size_t *ret_n)
{
	const char *whole = log;
	char again[208];
	size_t n = 0;

	if (strncmp(log, LOG_PREFIX, sizeof LOG_PREFIX - 1) != 0)
		return false;
	log += sizeof LOG_PREFIX - 1;
	while (*log != '\0') {
		uint8_t c = (uint8_t)*log++;

		if (n == STREAM_NAME_MAX)
			return false;
		if (c == '.') {
			int high = hex(log[0]), low = high < 0 ? -1 : hex(log[1]);

			if (low < 0)
				return false;
			c = (uint8_t)(high << 4 | low);
			log += 2;
		}
		out[n++] = c;
	}
	stream_log_name(again, (struct span){out, n});
	*ret_n = n;
	return stream_name_ok((struct span){out, n}) && strcmp(again, whole) == 0;
}

const char *stream_operand(const char *log)
{
	const char *name = log + sizeof LOG_PREFIX - 1;
	bool clear = *name != '\0' && *name != '-' && strchr(name, '.') == NULL && strcmp(name, "ids") != 0;

	return clear ? name : log;
}

bool stream_log_of(const char *operand, char ret_log[208])
{
	struct span name = {(const uint8_t *)operand, strlen(operand)};
	uint8_t ignored[STREAM_NAME_MAX];
	size_t n;

	if (name.n < 208 && stream_name_of_log(operand, ignored, &n)) {
		memcpy(ret_log, operand, name.n + 1);
		return true;
	}
	if (!stream_name_ok(name))
		return false;
	stream_log_name(ret_log, name);
	return true;
}
