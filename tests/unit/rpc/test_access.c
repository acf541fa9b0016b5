/* The rules of access: their file, line by line, and what they answer. */
#include "rpc/access.h"
#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/crypto.h>

/* Of "secret" and "other". */
#define SECRET "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
#define OTHER "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"

/* Comparisons of digests: this stands in for the library's function of the same name. */
static unsigned compared;

int CRYPTO_memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;
	uint8_t differs = 0;
	compared++;
	for (size_t i = 0; i < n; i++)
		differs |= x[i] ^ y[i];
	return differs;
}

/* The wall clock, in nanoseconds: this stands in for libc's function of the same name. 0: the true one. */
static int64_t wall_ns;

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	if (clock != CLOCK_REALTIME || wall_ns == 0)
		return (int)syscall(SYS_clock_gettime, clock, ret);
	*ret = (struct timespec){.tv_sec = wall_ns / 1000000000, .tv_nsec = wall_ns % 1000000000};
	return 0;
}

static struct span text(const char *s)
{
	return (struct span){(const uint8_t *)s, strlen(s)};
}

static struct access *parse(const char *s)
{
	struct access *a = NULL;
	const char *why = "";
	int rc = access_parse(text(s), "rules", &a, &why);
	if (rc)
		fail_msg("%s", why);
	return a;
}

static void refused(const char *s, const char *word)
{
	struct access *a = NULL;
	const char *why = "";
	assert_int_not_equal(access_parse(text(s), "rules", &a, &why), 0);
	assert_null(a);
	if (!strstr(why, word))
		fail_msg("\"%s\" does not say %s", why, word);
}

static void test_a_token_has_its_rights_and_no_others(void **state)
{
	struct access *a = parse("# a comment\n\n"
				 "one sha256:" SECRET " ids:a.* ids:b publish:t\r\n"
				 "two\tsha256:" OTHER "\tsubscribe:* stats # the rest\n");
	assert_int_equal(access_count(a), 2);
	uint64_t one = access_who_token(a, text("secret")), two = access_who_token(a, text("other"));
	assert_string_equal(access_name(a, one), "one");
	assert_string_equal(access_name(a, two), "two");
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("a.x")), ACCESS_OK);
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("a.")), ACCESS_OK);
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("b")), ACCESS_OK);
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("bb")), ACCESS_DENIED);
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("")), ACCESS_DENIED);
	assert_int_equal(access_check(a, one, ACCESS_IDS, text("A.x")), ACCESS_DENIED);
	assert_int_equal(access_check(a, one, ACCESS_PUBLISH, text("t")), ACCESS_OK);
	assert_int_equal(access_check(a, one, ACCESS_SUBSCRIBE, text("t")), ACCESS_DENIED);
	assert_int_equal(access_check(a, one, ACCESS_STATS, text("")), ACCESS_DENIED);
	assert_int_equal(access_check(a, one, ACCESS_ADMIN, text("")), ACCESS_DENIED);
	assert_int_equal(access_check(a, two, ACCESS_SUBSCRIBE, text("")), ACCESS_OK);
	assert_int_equal(access_check(a, two, ACCESS_STATS, text("")), ACCESS_OK);
	assert_int_equal(access_check(a, two, ACCESS_PUBLISH, text("t")), ACCESS_DENIED);
	access_put(a);
}

static void test_wrong_tokens_are_nobodys(void **state)
{
	struct access *a = parse("one sha256:" SECRET " admin");
	static const char *const wrong[] = {"", "Secret", "secret ", "secre", "secrets", SECRET};
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		uint64_t who = access_who_token(a, text(wrong[i]));
		assert_int_equal(who, ACCESS_WHO_UNKNOWN);
		assert_int_equal(access_check(a, who, ACCESS_IDS, text("")), ACCESS_UNKNOWN);
	}
	assert_int_equal(access_check(a, ACCESS_WHO_NOBODY, ACCESS_IDS, text("")), ACCESS_ANONYMOUS);
	assert_int_equal(access_check_known(a, ACCESS_WHO_NOBODY), ACCESS_ANONYMOUS);
	assert_int_equal(access_check(a, access_who_token(a, text("secret")), ACCESS_IDS, text("x")), ACCESS_OK);
	access_put(a);
}

/* A certificate's name does not make a token, and a token's text no certificate. */
static void test_certificates_and_tokens_are_apart(void **state)
{
	struct access *a = parse("c cert:alice ids:*\nd \"cert:Bob B. Smith\" ids:*\nt sha256:" SECRET " ids:*");
	assert_string_equal(access_name(a, access_who_certificate(a, "alice")), "c");
	assert_string_equal(access_name(a, access_who_certificate(a, "Bob B. Smith")), "d");
	assert_int_equal(access_who_certificate(a, "Alice"), ACCESS_WHO_UNKNOWN);
	assert_int_equal(access_who_certificate(a, "secret"), ACCESS_WHO_UNKNOWN);
	assert_int_equal(access_who_certificate(a, ""), ACCESS_WHO_NOBODY);
	assert_int_equal(access_who_token(a, text("cert:alice")), ACCESS_WHO_UNKNOWN);
	assert_int_equal(access_who_token(a, text("alice")), ACCESS_WHO_UNKNOWN);
	access_put(a);
}

static void test_a_principal_ends(void **state)
{
	struct access *a = parse("old sha256:" SECRET " until:2020-01-01 admin\nnew sha256:" OTHER
				 " until:2999-12-31T23:59:59Z admin");
	assert_int_equal(access_check(a, access_who_token(a, text("secret")), ACCESS_IDS, text("")), ACCESS_EXPIRED);
	assert_int_equal(access_check_known(a, access_who_token(a, text("secret"))), ACCESS_EXPIRED);
	assert_int_equal(access_check(a, access_who_token(a, text("other")), ACCESS_IDS, text("")), ACCESS_OK);
	access_put(a);
}

/* The end is the second that the file names, and not the one before or after. */
static void test_a_principal_ends_to_the_second(void **state)
{
	static const struct {
		const char *until;
		int64_t s;
	} ends[] = {
		{"2027-01-31T12:00:00Z", 1801396800},
		{"2027-01-31", 1801353600},
		{"2028-02-29T23:59:59Z", 1835481599},
	};
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		char line[200];
		snprintf(line, sizeof line, "a sha256:" SECRET " until:%s ids:*", ends[i].until);
		struct access *a = parse(line);
		uint64_t who = access_who_token(a, text("secret"));
		wall_ns = ends[i].s * 1000000000 - 1;
		assert_int_equal(access_check(a, who, ACCESS_IDS, text("x")), ACCESS_OK);
		assert_int_equal(access_check_known(a, who), ACCESS_OK);
		wall_ns = ends[i].s * 1000000000;
		assert_int_equal(access_check(a, who, ACCESS_IDS, text("x")), ACCESS_EXPIRED);
		assert_int_equal(access_check_known(a, who), ACCESS_EXPIRED);
		wall_ns = 0;
		access_put(a);
	}
}

/* Whoever was let in under one set of rules is who he was under the next, or nobody. */
static void test_numbers_outlive_a_reload(void **state)
{
	struct access *a = parse("one sha256:" SECRET " ids:*\ntwo sha256:" OTHER " ids:*");
	struct access *b = parse("zwei sha256:" OTHER " ids:x");
	uint64_t one = access_who_token(a, text("secret")), two = access_who_token(a, text("other"));
	assert_int_equal(access_check(b, one, ACCESS_IDS, text("x")), ACCESS_UNKNOWN);
	assert_int_equal(access_check(b, two, ACCESS_IDS, text("x")), ACCESS_OK);
	assert_int_equal(access_check(b, two, ACCESS_IDS, text("y")), ACCESS_DENIED);
	assert_string_equal(access_name(b, two), "zwei");
	access_put(a);
	access_put(b);
}

static void test_files_that_are_refused(void **state)
{
	refused("", "no rule");
	refused("# nothing\n\n", "no rule");
	refused("a", "rules:1: \"a\" has no credential");
	refused("a password ids:*", "no credential");
	refused("a cert: ids:*", "no credential");
	refused("\na sha256:abcd ids:*", "rules:2: sha256:");
	refused("a sha256:" SECRET "00 ids:*", "64 hexadecimal digits");
	refused("a sha256:g" SECRET " ids:*", "64 hexadecimal digits");
	refused("a sha256:" SECRET " read:*", "\"read:*\" is no right");
	refused("a sha256:" SECRET " ids", "\"ids\" is no right");
	refused("a sha256:" SECRET " statsx", "no right");
	refused("a sha256:" SECRET " until:tomorrow", "until:");
	refused("a sha256:" SECRET " until:2027-13-01", "until:");
	refused("a sha256:" SECRET " until:2027-02-29", "until:");
	refused("a sha256:" SECRET " until:2027-04-31T12:00:00Z", "until:");
	refused("a sha256:" SECRET " until:2027-04-30T12:00:60Z", "until:");
	refused("a sha256:" SECRET " until:2027-01-31T12:00:00", "until:");
	refused("a \"sha256:" SECRET " ids:*", "quote");
	refused("a sha256:" SECRET " ids:\x01", "control character");
	refused("a sha256:" SECRET " ids:*\nb sha256:" SECRET " ids:*", "the same credential");
	char many[16384] = "a sha256:" SECRET;
	size_t n = strlen(many);
	for (int i = 0; i <= ACCESS_RIGHTS_MAX; i++)
		n += (size_t)snprintf(many + n, sizeof many - n, " ids:x");
	refused(many, "more than 64 rights");
	memset(many, 'x', ACCESS_WORD_MAX + 1);
	many[ACCESS_WORD_MAX + 1] = 0;
	refused(many, "more than 512 bytes");
}

static void test_files_that_cannot_be_read(void **state)
{
	struct access *a = NULL;
	const char *why = "";
	assert_int_not_equal(access_load("/nonexistent/rules", &a, &why), 0);
	assert_non_null(strstr(why, "/nonexistent/rules"));
	assert_int_not_equal(access_load("/", &a, &why), 0);
}

static void test_patterns(void **state)
{
	static const struct {
		const char *pattern, *name;
		bool matches;
	} cases[] = {
		{"", "", true},       {"", "a", false},      {"a", "", false},           {"*", "", true},
		{"*", "abc", true},   {"a*", "a", true},     {"a*", "ba", false},        {"*a", "ba", true},
		{"*a", "ab", false},  {"a*c", "abbc", true}, {"a*c", "abbcd", false},    {"?", "", false},
		{"?", "a", true},     {"?", "ab", false},    {"a?c", "abc", true},       {"**", "x", true},
		{"*.*", "a.b", true}, {"*.*", "ab", false},  {"a*b*c", "a1b2b3c", true}, {"[a]", "a", false},
		{"[a]", "[a]", true}, {"a.*", "axb", false}, {"*b", "abab", true},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		if (access_matches(text(cases[i].pattern), text(cases[i].name)) != cases[i].matches)
			fail_msg("%s, %s", cases[i].pattern, cases[i].name);
	}
	/* No more than pattern times name, whatever they are. */
	char pattern[257], name[257];
	for (unsigned i = 0; i < 256; i++) {
		pattern[i] = i % 2 ? 'a' : '*';
		name[i] = 'a';
	}
	pattern[255] = 'b';
	pattern[256] = name[256] = 0;
	assert_false(access_matches(text(pattern), text(name)));
}

static void test_bearer(void **state)
{
	struct span t;
	assert_true(access_bearer(text("Bearer abc"), &t) && span_eq(t, text("abc")));
	assert_true(access_bearer(text("bearer  a b"), &t) && span_eq(t, text("a b")));
	static const char *const none[] = {"", "Bearer", "Bearer ", "Basic abc", "Bearerabc", "abc"};
	for (unsigned i = 0; i < ARRAY_SIZE(none); i++)
		assert_false(access_bearer(text(none[i]), &t));
	char longest[ACCESS_TOKEN_MAX + 9];
	memset(longest, 'x', sizeof longest);
	memcpy(longest, "Bearer ", 7);
	longest[ACCESS_TOKEN_MAX + 8] = 0;
	assert_false(access_bearer(text(longest), &t));
	longest[ACCESS_TOKEN_MAX + 7] = 0;
	assert_true(access_bearer(text(longest), &t));
}

static void test_a_source_hands_out_what_is_in_force(void **state)
{
	struct access_source s = ACCESS_SOURCE_INIT;
	uint32_t before, after;
	assert_null(access_source_get(&s, &before));
	struct access *a = parse("one sha256:" SECRET " ids:*");
	access_source_set(&s, a);
	struct access *mine = access_source_get(&s, &after);
	assert_ptr_equal(mine, a);
	assert_int_not_equal(before, after);
	access_source_set(&s, parse("two sha256:" OTHER " ids:*"));
	assert_int_equal(access_count(mine), 1); /* the reference keeps it */
	access_put(mine);
	access_source_set(&s, NULL);
	assert_null(access_source_get(&s, &after));
}

/* P12: a stranger's wrong token cost a comparison with each of 10,000 rules, on the thread that serves everybody. */
static void test_a_token_costs_the_same_with_ten_thousand_rules(void **state)
{
	char *rules = NULL, token[32];
	size_t size = 0;
	FILE *to = open_memstream(&rules, &size);
	assert_non_null(to);
	for (unsigned i = 0; i < ACCESS_PRINCIPALS_MAX; i++) {
		uint8_t digest[ACCESS_DIGEST];
		int n = snprintf(token, sizeof token, "token-%u", i);
		access_digest((struct span){(uint8_t *)token, (size_t)n}, digest);
		fprintf(to, "p%u sha256:", i);
		for (unsigned k = 0; k < sizeof digest; k++)
			fprintf(to, "%02x", digest[k]);
		fprintf(to, " ids:s%u\n", i);
	}
	assert_int_equal(fclose(to), 0);
	struct access *a = parse(rules);
	unsigned steps = 0;
	for (unsigned i = 0; i < 2 * ACCESS_PRINCIPALS_MAX; i++) {
		char name[32] = "";
		snprintf(token, sizeof token, "token-%u", i);
		if (i < ACCESS_PRINCIPALS_MAX)
			snprintf(name, sizeof name, "p%u", i);
		compared = 0;
		assert_string_equal(access_name(a, access_who_token(a, text(token))), name);
		if (steps == 0)
			steps = compared;
		assert_int_equal(compared, steps); /* hits and misses alike, so that the time tells nothing */
	}
	assert_in_range(steps, 1, 8);
	access_put(a);
	free(rules);
}

/* A name in a request may have as many bytes as a message: no pattern is tried on more than a name can have. */
static void test_patterns_are_not_tried_on_endless_names(void **state)
{
	struct access *a = parse("one sha256:" SECRET " subscribe:*\nroot sha256:" OTHER " admin");
	char name[ACCESS_NAME_MAX + 2];
	memset(name, 'x', sizeof name);
	name[ACCESS_NAME_MAX + 1] = 0;
	uint64_t one = access_who_token(a, text("secret"));
	assert_int_equal(access_check(a, one, ACCESS_SUBSCRIBE, text(name + 1)), ACCESS_OK);
	assert_int_equal(access_check(a, one, ACCESS_SUBSCRIBE, text(name)), ACCESS_DENIED);
	assert_int_equal(access_check(a, access_who_token(a, text("other")), ACCESS_SUBSCRIBE, text(name)), ACCESS_OK);
	access_put(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_token_has_its_rights_and_no_others),
		cmocka_unit_test(test_wrong_tokens_are_nobodys),
		cmocka_unit_test(test_certificates_and_tokens_are_apart),
		cmocka_unit_test(test_a_principal_ends),
		cmocka_unit_test(test_a_principal_ends_to_the_second),
		cmocka_unit_test(test_numbers_outlive_a_reload),
		cmocka_unit_test(test_files_that_are_refused),
		cmocka_unit_test(test_files_that_cannot_be_read),
		cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_bearer),
		cmocka_unit_test(test_a_token_costs_the_same_with_ten_thousand_rules),
		cmocka_unit_test(test_patterns_are_not_tried_on_endless_names),
		cmocka_unit_test(test_a_source_hands_out_what_is_in_force),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
