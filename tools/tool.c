/* The small things that every sub-command needs: option values with errors that name the option, JSON strings, the sentence for a server that
 * is not there. Main thread. */
#include "tools/tool.h"
#include "rpc/client/address.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/text.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *tool_server(void)
{
	const char *s = getenv("ORDINAL_SERVER");
	return s && *s ? s : TOOL_SERVER_DEFAULT;
}

int tool_u64(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;
	errno = 0;
	unsigned long long v = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : (end = (char *)text, 0);
	if (end == text || *end || errno || v < min || v > max) {
		fprintf(stderr, "ordinal: %s takes a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"\n", option, min,
			max, text);
		return -EINVAL;
	}
	*ret = v;
	return 0;
}

int tool_duration(const char *option, const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"m", 60e9}, {"h", 3600e9}};
	char *end;
	errno = 0;
	double v = isdigit((unsigned char)text[0]) || text[0] == '.' ? strtod(text, &end) : (end = (char *)text, 0);
	for (size_t i = 0; end != text && !errno && i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].unit) == 0 && v * units[i].ns <= 1e18) {
			*ret_ns = (uint64_t)(v * units[i].ns);
			return 0;
		}
	}
	fprintf(stderr, "ordinal: %s takes a duration such as 10, 1.5s, 500ms or 2m, not \"%s\"\n", option, text);
	return -EINVAL;
}

int tool_protocol(const char *option, const char *text, enum channel_protocol *ret)
{
	if (strcmp(text, "native") == 0)
		*ret = CHANNEL_NATIVE;
	else if (strcmp(text, "grpc") == 0)
		*ret = CHANNEL_GRPC;
	else {
		fprintf(stderr, "ordinal: %s takes native or grpc, not \"%s\"\n", option, text);
		return -EINVAL;
	}
	return 0;
}

int tool_delimiter(const char *option, const char *text, int *ret)
{
	static const char names[] = "ntr0\\", bytes[] = "\n\t\r\0\\";
	const char *name = text[0] == '\\' && text[1] && !text[2] ? strchr(names, text[1]) : NULL;
	if (strcmp(text, "none") == 0)
		*ret = -1;
	else if (text[0] && !text[1])
		*ret = (uint8_t)text[0];
	else if (name)
		*ret = bytes[name - names];
	else if (strncmp(text, "\\x", 2) == 0 && isxdigit((unsigned char)text[2]) && isxdigit((unsigned char)text[3]) &&
		 !text[4])
		*ret = (int)strtoul(text + 2, NULL, 16);
	else {
		fprintf(stderr,
			"ordinal: %s takes one byte, such as ; or \\n, \\t, \\0 or \\x1e, or none, not \"%s\"\n",
			option, text);
		return -EINVAL;
	}
	return 0;
}

int tool_slow(const char *option, const char *text, enum feed_slow *ret)
{
	static const char *const names[] = {"wait", "drop", "disconnect"};
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum feed_slow)i;
			return 0;
		}
	}
	fprintf(stderr, "ordinal: %s takes wait, drop or disconnect, not \"%s\"\n", option, text);
	return -EINVAL;
}

int tool_usage(const char *name)
{
	fprintf(stderr, "Try `ordinal %s --help`.\n", name);
	return TOOL_USAGE;
}

int tool_no_arguments(const char *name, int argc, char **argv)
{
	if (optind >= argc)
		return 0;
	fprintf(stderr, "ordinal: %s takes no argument \"%s\"\n", name, argv[optind]);
	return tool_usage(name);
}

int tool_check_server(const char *server)
{
	const char *why;
	if (address_check(server, &why) == 0)
		return 0;
	fprintf(stderr, "ordinal: --server %s: %s\n", server, why);
	return TOOL_USAGE;
}

int tool_unreachable(const char *server, const char *why)
{
	fprintf(stderr,
		"ordinal: cannot connect to %s: %s\n"
		"Is ordinald running there? Start it with `systemctl start ordinald` (or `make run` in the source tree), or name another\n"
		"server with --server HOST:PORT or ORDINAL_SERVER. If it speaks TLS: --tls, and --tls-ca FILE for an authority of your own.\n",
		server, why);
	return TOOL_UNREACHABLE;
}

bool tool_would_wait(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	return poll(&p, 1, 0) == 0;
}

bool tool_reader_gone(void)
{
	struct pollfd p = {.fd = STDOUT_FILENO};
	return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP)) != 0;
}

int tool_unread(void)
{
	raise(SIGPIPE);
	return TOOL_FAILED;
}

void tool_print_status(const struct channel_status *st)
{
	char text[1024];
	struct span said = st->text.n ? st->text : SPAN_LIT("the server gave no reason");
	snprintf(text, sizeof text, "%.*s", (int)(said.n < sizeof text ? said.n : sizeof text - 1),
		 (const char *)said.p);
	text_make_printable(text);
	fprintf(stderr, "ordinal: %s: %s\n", grpc_status_name(st->code), text);
}

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), or 0. */
static size_t utf8_len(const uint8_t *p, size_t n)
{
	static const struct {
		uint8_t mask, lead;
		uint32_t min;
	} forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
	for (size_t len = 1; len <= ARRAY_SIZE(forms); len++) {
		if ((p[0] & forms[len - 1].mask) != forms[len - 1].lead)
			continue;
		uint32_t v = p[0] & (uint8_t)~forms[len - 1].mask;
		if (len > n)
			return 0;
		for (size_t i = 1; i < len; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return 0;
			v = v << 6 | (p[i] & 0x3f);
		}
		return v < forms[len - 1].min || v > 0x10ffff || (v >= 0xd800 && v < 0xe000) ? 0 : len;
	}
	return 0;
}

void tool_json_string(FILE *f, struct span s)
{
	fputc('"', f);
	for (size_t i = 0; i < s.n;) {
		size_t len = utf8_len(s.p + i, s.n - i);
		if (len == 0) {
			fputs("\\ufffd", f);
			len = 1;
		} else if (len == 1 && (s.p[i] < 0x20 || s.p[i] == '"' || s.p[i] == '\\' || s.p[i] == 0x7f)) {
			fprintf(f, "\\u%04x", s.p[i]);
		} else {
			fwrite(s.p + i, 1, len, f);
		}
		i += len;
	}
	fputc('"', f);
}

static void json_base64(FILE *f, struct span s)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	fputc('"', f);
	for (size_t i = 0; i < s.n; i += 3) {
		size_t n = s.n - i < 3 ? s.n - i : 3;
		uint32_t v = (uint32_t)s.p[i] << 16 | (n > 1 ? (uint32_t)s.p[i + 1] << 8 : 0) |
			     (n > 2 ? s.p[i + 2] : 0);
		char out[4] = {digits[v >> 18], digits[v >> 12 & 63], '=', '='};
		if (n > 1)
			out[2] = digits[v >> 6 & 63];
		if (n > 2)
			out[3] = digits[v & 63];
		fwrite(out, 1, sizeof out, f);
	}
	fputc('"', f);
}

void tool_json_payload(FILE *f, struct span s)
{
	if (pb_is_utf8(s)) {
		fputs("\"payload\":", f);
		tool_json_string(f, s);
	} else {
		fputs("\"payload_base64\":", f);
		json_base64(f, s);
	}
}

int tool_name(const char *option, const char *text, struct span *ret)
{
	struct span s = {(const uint8_t *)text, strlen(text)};
	if (s.n > TOOL_NAME_MAX) {
		fprintf(stderr, "ordinal: %s is longer than any name may be\n", option);
		return -EINVAL;
	}
	*ret = s;
	return 0;
}
