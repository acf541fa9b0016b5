/* http1.c: what is read, what is refused, and that neither depends on how the bytes arrive. */
#include "rpc/wire/http1.h"

#include "core/base/check.h"
#include "tests/unit/rpc/wire/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const char curl[] =
	"GET /stats.json HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";
static const char post[] =
	"POST /ordinal.v1.Ids/Next HTTP/1.1\r\nhost:[::1]:50051\r\nContent-Type: application/json\r\n"
	"Content-Length:  13 \t\r\nX-Empty:\r\nExpect: 100-Continue\r\nConnection: foo, Close\r\n\r\n";

/* Reads from a heap copy of exact size, which the spans then point into until the next call. */
static uint8_t *held;
static int get(const char *text, size_t n, struct http1_request *r)
{
	free(held);
	held = exact_copy(text, n);
	return http1_request_get(held, n, r);
}

static int held_done(void **state)
{
	free(held);
	held = NULL;
	return 0;
}

static void test_curl(void **state)
{
	struct http1_request r;
	struct span v;

	assert_int_equal(get(curl, sizeof curl - 1, &r), sizeof curl - 1);
	assert_true(span_eq(r.method, SPAN_LIT("GET")));
	assert_true(span_eq(r.target, SPAN_LIT("/stats.json")));
	assert_int_equal(r.minor, 1);
	assert_int_equal(r.headers, 3);
	assert_true(span_eq(r.header[0].name, SPAN_LIT("Host")));
	assert_true(span_eq(r.header[2].value, SPAN_LIT("*/*")));
	assert_true(r.keep_alive && !r.expect_continue && !r.has_content_length && r.content_length == 0);
	assert_true(http1_header_find(&r, SPAN_LIT("user-agent"), &v) && span_eq(v, SPAN_LIT("curl/7.88.1")));
	v = SPAN_LIT("untouched");
	assert_false(http1_header_find(&r, SPAN_LIT("user-agen"), &v));
	assert_true(span_eq(v, SPAN_LIT("untouched")));
}

static void test_post(void **state)
{
	struct http1_request r;
	struct span v;

	assert_int_equal(get(post, sizeof post - 1, &r), sizeof post - 1);
	assert_true(r.has_content_length && r.content_length == 13);
	assert_true(r.expect_continue && !r.keep_alive);
	assert_true(http1_header_find(&r, SPAN_LIT("x-empty"), &v) && v.n == 0);
	assert_true(http1_header_find(&r, SPAN_LIT("HOST"), &v) && span_eq(v, SPAN_LIT("[::1]:50051")));
}

/* Each beginning is incomplete, never an error and never a head; what follows the head does not matter. */
static void test_every_cut(void **state)
{
	const struct span heads[] = {SPAN_LIT(curl), SPAN_LIT(post), SPAN_LIT("GET / HTTP/1.0\r\n\r\n")};

	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		struct http1_request r;
		for (size_t cut = 0; cut < heads[i].n; cut++)
			assert_int_equal(get((const char *)heads[i].p, cut, &r), -EAGAIN);
		uint8_t more[1024];
		memcpy(more, heads[i].p, heads[i].n);
		memset(more + heads[i].n, 0, 16);
		assert_int_equal(get((const char *)more, heads[i].n + 16, &r), heads[i].n);
	}
	struct http1_request r;
	assert_int_equal(http1_request_get(NULL, 0, &r), -EAGAIN);
}

static void test_versions_and_keep_alive(void **state)
{
	static const struct {
		const char *text;
		int minor;
		bool keep_alive;
	} t[] = {
		{"GET / HTTP/1.0\r\n\r\n", 0, false},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 0, true},
		{"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", 0, false},
		{"GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", 0, false},
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, true},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", 1, true},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: x,, close ,y\r\n\r\n", 1, false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", 1, true},
		{"GET / HTTP/1.9\r\nHost: a\r\n\r\n", 1, true},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct http1_request r;
		assert_int_equal(get(t[i].text, strlen(t[i].text), &r), strlen(t[i].text));
		assert_int_equal(r.minor, t[i].minor);
		assert_int_equal(r.keep_alive, t[i].keep_alive);
		assert_false(r.expect_continue);
	}
}

#define H "GET / HTTP/1.1\r\nHost: a\r\n"

static void test_refused(void **state)
{
	static const struct {
		struct span text;
		int error;
	} t[] = {
#define T(s, e) {{(const uint8_t *)(s), sizeof(s) - 1}, e}
		/* request line */
		T("\r\n", -EBADMSG),
		T(" GET", -EBADMSG),
		T("G(T ", -EBADMSG),
		T("GET\t/", -EBADMSG),
		T("GET  /", -EBADMSG),
		T("GET / ", -EAGAIN),
		T("GET /\r", -EBADMSG),
		T("GET / HTTP/1.1 \r\n", -EBADMSG),
		T("GET / http", -EBADMSG),
		T("GET / HTTP/1.1\n", -EBADMSG),
		T("GET / HTTP/1.1\r\r\n", -EBADMSG),
		T("GET / HTTP/11", -EBADMSG),
		T("GET / HTTP/1,1", -EBADMSG),
		T("GET / HTTP/1.x", -EBADMSG),
		T("GET /\x7f", -EBADMSG),
		T("GET /\xc3\xa9", -EBADMSG),
		T("GET /\0 HTTP/1.1", -EBADMSG),
		T("GET / a HTTP/1.1", -EBADMSG),
		T("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", -EBADMSG), /* 33 */
		T("PRI * HTTP/2.0\r\n", -EPROTONOSUPPORT),
		T("GET / HTTP/0.9\r\n", -EPROTONOSUPPORT),
		T("GET / HTTP/3", -EPROTONOSUPPORT),
		T("\x16\x03\x01", -EBADMSG),
		T("\x81\x11", -EBADMSG),
		/* headers */
		T(H " folded: x\r\n", -EBADMSG),
		T(H "a: b\r\n c\r\n", -EBADMSG),
		T(H "a: b\r\n\tc\r\n", -EBADMSG),
		T(H "a : b\r\n", -EBADMSG),
		T(H "a\t: b\r\n", -EBADMSG),
		T(H ": b\r\n", -EBADMSG),
		T(H "a\r\n", -EBADMSG),
		T(H "a: b\n", -EBADMSG),
		T(H "a: b\rc\r\n", -EBADMSG),
		T(H "a: b\0\r\n", -EBADMSG),
		T(H "a: \x7f\r\n", -EBADMSG),
		T(H "a: \x1b[31m\r\n", -EBADMSG),
		T(H "\xc3\xa9: b\r\n", -EBADMSG),
		T(H "\n", -EBADMSG),
		T(H "\rx", -EBADMSG),
		/* framing */
		T(H "Content-Length: 1\r\nContent-Length: 1\r\n", -EBADMSG),
		T(H "Content-Length: 1, 1\r\n", -EBADMSG),
		T(H "Content-Length:\r\n", -EBADMSG),
		T(H "Content-Length: -1\r\n", -EBADMSG),
		T(H "Content-Length: +1\r\n", -EBADMSG),
		T(H "Content-Length: 0x1\r\n", -EBADMSG),
		T(H "Content-Length: 1 1\r\n", -EBADMSG),
		T(H "Content-Length: 18446744073709551616\r\n", -EBADMSG),
		T(H "content-length: 99999999999999999999\r\n", -EBADMSG),
		T(H "Transfer-Encoding: chunked\r\n", -EOPNOTSUPP),
		T(H "transfer-encoding:\r\n", -EOPNOTSUPP),
		T(H "Host: a\r\n", -EBADMSG),
		T("GET / HTTP/1.1\r\n\r\n", -EBADMSG),
#undef T
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct http1_request r;
		int e = get((const char *)t[i].text.p, t[i].text.n, &r);
		if (e != t[i].error)
			fail_msg("case %zu: %d instead of %d", i, e, t[i].error);
	}
	struct http1_request r;
	static const char most[] = H "Content-Length: 18446744073709551615\r\n\r\n";
	assert_int_equal(get(most, sizeof most - 1, &r), sizeof most - 1);
	assert_true(r.content_length == UINT64_MAX);
	static const char obs[] = H "a: \xc3\xa9\r\n\r\n"; /* obs-text is let through in values */
	assert_int_equal(get(obs, sizeof obs - 1, &r), sizeof obs - 1);
}

static void test_limits(void **state)
{
	static char head[2 * HTTP1_HEAD_MAX];
	struct http1_request r;

	for (unsigned headers = HTTP1_HEADERS_MAX - 1; headers <= HTTP1_HEADERS_MAX + 1; headers++) {
		size_t n = (size_t)snprintf(head, sizeof head, H);
		for (unsigned i = 1; i < headers; i++)
			n += (size_t)snprintf(head + n, sizeof head - n, "h%u: %u\r\n", i, i);
		n += (size_t)snprintf(head + n, sizeof head - n, "\r\n");
		assert_int_equal(get(head, n, &r), headers <= HTTP1_HEADERS_MAX ? (int)n : -E2BIG);
	}
	for (size_t total = HTTP1_HEAD_MAX - 1; total <= HTTP1_HEAD_MAX + 1; total++) {
		size_t n = (size_t)snprintf(head, sizeof head, H "a: ");
		memset(head + n, 'x', total - 4 - n);
		memcpy(head + total - 4, "\r\n\r\n", 4);
		assert_int_equal(get(head, total, &r), total <= HTTP1_HEAD_MAX ? (int)total : -EMSGSIZE);
		assert_int_equal(get(head, total - 1, &r), total <= HTTP1_HEAD_MAX ? -EAGAIN : -EMSGSIZE);
	}
	memset(head, 'x', sizeof head);
	memcpy(head, "GET /", 5);
	assert_int_equal(get(head, sizeof head, &r), -EMSGSIZE);
	static const char longest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.0\r\n\r\n"; /* 32 */
	assert_int_equal(get(longest, sizeof longest - 1, &r), sizeof longest - 1);
}

static void test_error_status(void **state)
{
	assert_int_equal(http1_error_status(-EAGAIN), 0);
	assert_int_equal(http1_error_status(-EBADMSG), 400);
	assert_int_equal(http1_error_status(-EMSGSIZE), 431);
	assert_int_equal(http1_error_status(-E2BIG), 431);
	assert_int_equal(http1_error_status(-EPROTONOSUPPORT), 505);
	assert_int_equal(http1_error_status(-EOPNOTSUPP), 501);
}

static void test_is_same(void **state)
{
	assert_true(http1_is_same(SPAN_LIT("aBc-1"), SPAN_LIT("AbC-1")));
	assert_false(http1_is_same(SPAN_LIT("abc"), SPAN_LIT("abcd")));
	assert_false(http1_is_same(SPAN_LIT("@["), SPAN_LIT("`{"))); /* only letters have a case */
	assert_true(http1_is_same((struct span){NULL, 0}, SPAN_LIT("")));
}

/* With any byte changed, the verdict on a cut head is -EAGAIN or the final one: an error never goes away, a head never comes early. */
static void test_verdicts_do_not_change_with_more_bytes(void **state)
{
	uint64_t seed = 12;

	for (int i = 0; i < 1500; i++) {
		char text[sizeof post];
		struct http1_request r;
		size_t n = sizeof post - 1;

		memcpy(text, post, sizeof post);
		for (uint32_t k = random_below(&seed, 3) + 1; k > 0; k--)
			text[random_below(&seed, (uint32_t)n)] = "\r\n :\t,\0\xffHa1"[random_below(&seed, 12)];
		int final = get(text, n, &r);
		for (size_t cut = 0; cut < n; cut++) {
			int e = get(text, cut, &r);
			if (e != -EAGAIN)
				assert_int_equal(e, final);
			if (e >= 0)
				assert_true((size_t)e <= cut);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_curl),
		cmocka_unit_test(test_post),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_versions_and_keep_alive),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_error_status),
		cmocka_unit_test(test_is_same),
		cmocka_unit_test(test_verdicts_do_not_change_with_more_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, held_done);
}
