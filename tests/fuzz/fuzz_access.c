/* The rules of access: their file; the authorization field; patterns.
 *
 * Holds: a file that is accepted has principals, each found by its own number, and nobody else is anybody; the same text is accepted again, to the same
 * answers; patterns agree with fnmatch(3) where both mean the same. */
#include "rpc/access.h"

#include "core/base/check.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct access *a, const struct access *b, uint64_t who, struct span name)
{
	for (int right = ACCESS_IDS; right <= ACCESS_ADMIN; right++) {
		enum access_verdict v = access_check(a, who, (enum access_right)right, name);
		CHECK(v == access_check(b, who, (enum access_right)right, name));
		CHECK(who > ACCESS_WHO_UNKNOWN || v == ACCESS_ANONYMOUS || v == ACCESS_UNKNOWN);
	}
}

/* As SIGHUP does: from a file, and taken over by everybody. */
static void try_source(struct span text)
{
	static struct access_source source = ACCESS_SOURCE_INIT;
	struct access *a, *now;
	uint32_t before, after;
	const char *why = NULL;
	char path[64];
	int fd = memfd_create("access", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text.p, text.n) == (ssize_t)text.n);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(fchmod(fd, text.n % 16 ? 0600 : 0602) == 0); /* everybody may write to the latter */
	int rc = access_load(path, &a, &why);
	close(fd);
	CHECK(rc == 0 || (why && *why));
	CHECK(text.n % 16 || rc != 0);
	if (rc)
		return;
	access_put(access_source_get(&source, &before));
	access_source_set(&source, a);
	now = access_source_get(&source, &after);
	CHECK(now == a && after != before);
	access_put(now);
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
	uint64_t who = access_who_certificate(a, "alice");
	enum access_verdict known = access_check_known(a, who);
	CHECK(known == ACCESS_OK || known == ACCESS_UNKNOWN || known == ACCESS_EXPIRED);
	CHECK((known == ACCESS_UNKNOWN) == !*access_name(a, who));
	CHECK(access_who_certificate(a, "") == ACCESS_WHO_NOBODY &&
	      access_check_known(a, ACCESS_WHO_NOBODY) == ACCESS_ANONYMOUS);
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
	try_source((struct span){data, size});
	for (int right = ACCESS_IDS; right <= ACCESS_ADMIN; right++)
		CHECK(*access_right_word((enum access_right)right));
	if (access_bearer((struct span){data, size}, &token))
		CHECK(token.n > 0 && token.n <= ACCESS_TOKEN_MAX && token.p + token.n == data + size);
	size_t cut = data[0] % size;
	try_pattern((struct span){data, cut}, (struct span){data + cut, size - cut});
	return 0;
}
