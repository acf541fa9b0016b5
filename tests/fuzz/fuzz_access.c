/* The rules of access: their file; the authorization field; patterns.
 *
 * Holds: a file that is accepted has principals, each found by its own number, and nobody else is anybody; the same text is accepted again, to the same
 * answers; patterns agree with fnmatch(3) where both mean the same. */
#include "rpc/access.h"

#include "core/base/check.h"

#include <fnmatch.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct access *a, const struct access *b, uint64_t who, struct span name)
{
	for (int right = ACCESS_IDS; right <= ACCESS_ADMIN; right++) {
		enum access_verdict v = access_check(a, who, (enum access_right)right, name);
		CHECK(v == access_check(b, who, (enum access_right)right, name));
		CHECK(who > ACCESS_WHO_UNKNOWN || v == ACCESS_ANONYMOUS || v == ACCESS_UNKNOWN);
	}
}

static void try_file(struct span text)
{
	struct access *a, *b;
	const char *why = NULL;
	if (access_parse(text, "file", &a, &why)) {
		CHECK(why && *why);
		return;
	}
	CHECK(access_count(a) > 0 && access_count(a) <= ACCESS_PRINCIPALS_MAX);
	CHECK(access_parse(text, "file", &b, &why) == 0 && access_count(b) == access_count(a));
	ask(a, b, ACCESS_WHO_NOBODY, text);
	ask(a, b, ACCESS_WHO_UNKNOWN, text);
	ask(a, b, access_who_token(a, SPAN_LIT("secret")), (struct span){0});
	ask(a, b, access_who_certificate(a, "alice"), SPAN_LIT("a.b"));
	access_put(a);
	access_put(b);
}

/* fnmatch has brackets and backslashes besides, and ends at NUL. */
static void try_pattern(struct span pattern, struct span name)
{
	char p[64], n[64];
	bool same = pattern.n < sizeof p && name.n < sizeof n && !memchr(pattern.p, '[', pattern.n) &&
		    !memchr(pattern.p, '\\', pattern.n) && !memchr(pattern.p, 0, pattern.n) &&
		    !memchr(name.p, 0, name.n);
	bool got = access_matches(pattern, name);
	if (!same)
		return;
	memcpy(p, pattern.p, pattern.n);
	p[pattern.n] = 0;
	memcpy(n, name.p, name.n);
	n[name.n] = 0;
	CHECK(got == (fnmatch(p, n, 0) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct span token;
	if (size == 0)
		return 0;
	try_file((struct span){data, size});
	if (access_bearer((struct span){data, size}, &token))
		CHECK(token.n > 0 && token.n <= ACCESS_TOKEN_MAX && token.p + token.n == data + size);
	size_t cut = data[0] % size;
	try_pattern((struct span){data, cut}, (struct span){data + cut, size - cut});
	return 0;
}
