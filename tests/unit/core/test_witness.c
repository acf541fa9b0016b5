/* The witness file: what is read is what was written, and nothing else is taken for one. */
#include "core/witness.h"

#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char base[64];
static struct witness w;
static const char *why;
static bool sync_failed;
static unsigned syncs_to_failure; /* 0: none fails */

/* In place of the C library's. */
int fsync(int fd)
{
	if (syncs_to_failure > 0 && --syncs_to_failure == 0) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static int setup(void **state)
{
	snprintf(base, sizeof base, "/tmp/test_witness.XXXXXX");
	return mkdtemp(base) == NULL;
}

static int teardown(void **state)
{
	char cmd[128];
	snprintf(cmd, sizeof cmd, "rm -r '%s'", base);
	return system(cmd);
}

static const char *in_base(const char *name)
{
	static char path[128];
	snprintf(path, sizeof path, "%s/%s", base, name);
	return path;
}

static void put(const char *text, size_t n)
{
	FILE *f = fopen(in_base("journal"), "we");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static void test_what_was_written_is_read(void **state)
{
	assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), 0);
	assert_false(w.knows);
	for (unsigned i = 0; i < sizeof w.id; i++)
		w.id[i] = (uint8_t)(0xf8 + 3 * i);
	for (unsigned times = 0; times < 2; times++) {
		struct witness again;
		assert_int_equal(witness_write(&w, &sync_failed), 0);
		assert_int_equal(witness_read(in_base("journal"), "/data", &again, &why), 0);
		assert_true(again.knows);
		assert_memory_equal(again.id, w.id, sizeof w.id);
	}
	assert_int_not_equal(access(in_base("journal.new"), F_OK), 0);
	assert_non_null(strstr(witness_refusal(&w, "/data", "no journal"), "f8fbfe01"));
}

static void test_anything_else_is_refused(void **state)
{
	static const char good[] = "ordinal journal 00112233445566778899aabbccddeeff\n";
	char bad[sizeof good + 1];
	put(good, sizeof good - 1);
	assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), 0);
	assert_true(w.knows);
	for (size_t n = 0; n < sizeof good - 1; n++) { /* cut off */
		put(good, n);
		assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), -EBADMSG);
		assert_non_null(strstr(why, "remove that file"));
	}
	for (size_t i = 0; i < sizeof good - 1; i++) { /* a byte of it wrong */
		memcpy(bad, good, sizeof good);
		bad[i] = i == sizeof good - 2 ? 'x' : '-';
		put(bad, sizeof good - 1);
		assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), -EBADMSG);
	}
	snprintf(bad, sizeof bad, "%s\n", good); /* a byte too many */
	put(bad, sizeof good);
	assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), -EBADMSG);
}

static void test_where_auto_looks(void **state)
{
	static const struct {
		const char *dirs, *data, *path;
	} t[] = {
		{NULL, "/d", ""},
		{"", "/d", ""},
		{"/v/a", "/v/a", ""},
		{"/v/a", "/v/a/", ""},
		{"/v/a/", "/v/a", ""},
		{"/v/a", "/v/a/x", ""},
		{"/v/a/x", "/v/a", ""},
		{"/v/a", "/v/ab", "/v/a/journal"},
		{"/v/a:/v/a-w", "/v/a", "/v/a-w/journal"},
		{"/v/a:/v/a-w", "/srv/disk", "/v/a-w/journal"},
		{":/v/w", "/d", "/v/w/journal"},
		{"/v/w", "/", ""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		if (t[i].dirs)
			setenv("STATE_DIRECTORY", t[i].dirs, 1);
		else
			unsetenv("STATE_DIRECTORY");
		assert_int_equal(witness_read("auto", t[i].data, &w, &why), 0);
		assert_string_equal(w.path, t[i].path);
		assert_false(w.knows);
	}
	unsetenv("STATE_DIRECTORY");
	assert_int_equal(witness_read("", "/d", &w, &why), 0);
	assert_string_equal(w.path, "");
}

static void test_what_cannot_be_is_an_error(void **state)
{
	assert_int_equal(mkdir(in_base("dir"), 0700), 0);
	assert_int_equal(witness_read(in_base("dir"), "/d", &w, &why), -EISDIR);
	assert_non_null(strstr(why, "DATA_WITNESS"));
	assert_int_equal(witness_read(in_base("none/journal"), "/d", &w, &why), 0);
	assert_int_equal(witness_write(&w, &sync_failed), -ENOENT);
	assert_false(sync_failed);
	char *longest = malloc(PATH_MAX + 1);
	assert_non_null(longest);
	memset(longest, 'x', PATH_MAX);
	longest[PATH_MAX] = 0;
	assert_int_equal(witness_read(longest, "/d", &w, &why), -ENAMETOOLONG);
	free(longest);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Of the file, and of the directory's entry: what the disk holds is not known then, so the start is refused, and the next
 * one writes a new file. */
static void test_a_failed_sync_of_a_witness_is_told(void **state)
{
	for (unsigned n = 1; n <= 2; n++) {
		unlink(in_base("journal"));
		assert_int_equal(witness_read(in_base("journal"), "/data", &w, &why), 0);
		syncs_to_failure = n;
		assert_int_equal(witness_write(&w, &sync_failed), -EIO);
		assert_true(sync_failed);
		assert_int_equal(syncs_to_failure, 0);
		assert_int_equal(access(in_base("journal"), F_OK), -1);
		assert_int_equal(access(in_base("journal.new"), F_OK), -1);
		assert_int_equal(witness_write(&w, &sync_failed), 0);
		assert_false(sync_failed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_what_was_written_is_read),
		T(test_anything_else_is_refused),
		T(test_where_auto_looks),
		T(test_what_cannot_be_is_an_error),
		T(test_a_failed_sync_of_a_witness_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
