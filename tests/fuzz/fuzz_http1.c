/* The head of an HTTP/1.1 request.
 *
 * Holds: spans lie within the head; every beginning of an acceptable head is incomplete; an error stays when more bytes come; what follows the
 * head changes nothing. */
#include "rpc/wire/http1.h"

#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct span s, const uint8_t *p, int n)
{
	CHECK(s.p >= p && s.p + s.n <= p + n);
	for (size_t i = 0; i < s.n; i++)
		CHECK(s.p[i] != '\r' && s.p[i] != '\n' && s.p[i] != 0);
}

static int get_exact(const uint8_t *data, size_t n)
{
	static struct http1_request r;
	uint8_t *copy = malloc(n ? n : 1);

	CHECK(copy);
	if (n)
		memcpy(copy, data, n);
	int e = http1_request_get(copy, n, &r);
	free(copy);
	return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct http1_request r;
	int got = http1_request_get(data, size, &r);

	if (got < 0) {
		CHECK(got == -EAGAIN || http1_error_status(got) >= 400);
		CHECK(got != -EAGAIN || size < HTTP1_HEAD_MAX);
		CHECK(http1_error_status(got) != 400 || got == -EBADMSG);
	} else {
		CHECK((size_t)got <= size && got <= HTTP1_HEAD_MAX && r.headers <= HTTP1_HEADERS_MAX);
		CHECK(memcmp(data + got - 4, "\r\n\r\n", 4) == 0);
		check_inside(r.method, data, got);
		check_inside(r.target, data, got);
		for (uint32_t i = 0; i < r.headers; i++) {
			check_inside(r.header[i].name, data, got);
			check_inside(r.header[i].value, data, got);
		}
		CHECK(get_exact(data, (size_t)got) == got);
		CHECK(get_exact(data, (size_t)got - 1) == -EAGAIN);
	}
	/* Three places to cut at: all of them would take too long for a long input. */
	for (size_t k = 1; k <= 3; k++) {
		size_t cut = size * k / 4;
		int e = get_exact(data, cut);
		CHECK(e == -EAGAIN || e == got);
	}
	return 0;
}
