/* The real system calls under the journal: what the simulated disk cannot see. The program stands in front of libc's
 * calls, notes each, and passes it on.
 *
 * Holds: when a record is called durable, the write that held it was a synchronous one or was followed by a sync of its
 * file, and the name of that file, and of its folder, was followed by a sync of the directory that the name is in. Files
 * are told apart by inode. Records are found in what is written by a pattern in their payload.
 */
#include "core/journal.h"
#include "core/journal_disk.h"

#include "core/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

#define EVENTS_MAX 100000u

enum event_kind { EVENT_WRITE, EVENT_WRITE_SYNCED, EVENT_NAME, EVENT_SYNC };

struct event {
	enum event_kind kind;
	ino_t inode;     /* of the file, or of the directory that holds the name */
	ino_t named;     /* EVENT_NAME: what got the name */
	uint64_t record; /* EVENT_WRITE: the record in it */
};

#define PATTERN "a record of this test: "
enum { PATTERN_N = sizeof PATTERN - 1 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct event events[EVENTS_MAX];
static uint32_t count, syncs;
static bool recording, lose_syncs; /* lose_syncs: the planted fault, syncs that do nothing */

static void note(struct event e)
{
	pthread_mutex_lock(&lock);
	if (recording) {
		CHECK(count < EVENTS_MAX);
		events[count++] = e;
		syncs += e.kind == EVENT_SYNC;
	}
	pthread_mutex_unlock(&lock);
}

static ino_t inode_of(int fd)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0);
	return st.st_ino;
}

/* A file or folder has got the name `path`, from the open directory `dir` on. */
static void note_name(int dir, const char *path)
{
	char parent[4096];
	const char *slash = strrchr(path, '/');
	struct stat in, of;

	snprintf(parent, sizeof parent, "%.*s", slash == NULL ? 1 : (int)(slash - path), slash == NULL ? "." : path);
	CHECK(fstatat(dir, parent, &in, 0) == 0 && fstatat(dir, path, &of, 0) == 0);
	note((struct event){.kind = EVENT_NAME, .inode = in.st_ino, .named = of.st_ino});
}

/* Notes each record of this test that is in the n bytes at p. */
static void note_write(int fd, const uint8_t *p, size_t n, bool synced)
{
	const uint8_t *end = p + n;
	ino_t inode = inode_of(fd);

	while ((p = memmem(p, (size_t)(end - p), PATTERN, PATTERN_N)) != NULL && end - p >= PATTERN_N + 8) {
		note((struct event){
			.kind = synced ? EVENT_WRITE_SYNCED : EVENT_WRITE,
			.inode = inode,
			.record = load_le64(p + PATTERN_N),
		});
		p += PATTERN_N;
	}
}

/* libc's calls. The prototypes are libc's own. */

ssize_t pwrite(int fd, const void *p, size_t n, off_t offset)
{
	ssize_t put = (ssize_t)syscall(SYS_pwrite64, fd, p, n, offset);
	if (put > 0)
		note_write(fd, p, (size_t)put, fcntl(fd, F_GETFL) & O_DSYNC);
	return put;
}

ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t offset, int flags)
{
	ssize_t put = (ssize_t)syscall(SYS_pwritev2, fd, v, n, offset, 0, flags);
	if (put > 0 && n == 1)
		note_write(fd, v->iov_base, (size_t)put, flags & RWF_DSYNC);
	return put;
}

static int sync_fd(long call, int fd)
{
	if (lose_syncs)
		return 0;
	int rc = (int)syscall(call, fd);
	if (rc == 0)
		note((struct event){.kind = EVENT_SYNC, .inode = inode_of(fd)});
	return rc;
}

int fdatasync(int fd)
{
	return sync_fd(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	return sync_fd(SYS_fsync, fd);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	int rc = (int)syscall(SYS_mkdirat, dir, path, mode);
	if (rc == 0)
		note_name(dir, path);
	return rc;
}

int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	int rc = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
	if (rc == 0)
		note_name(to_dir, to);
	return rc;
}

static bool is_synced_after(uint32_t i)
{
	for (uint32_t k = i + 1; k < count; k++) {
		if (events[k].kind == EVENT_SYNC && events[k].inode == events[i].inode)
			return true;
	}
	return false;
}

/* Whether the name that the file got last is durable, and that of its folder, as far as they were made here. */
static bool name_is_durable(ino_t inode)
{
	for (uint32_t i = count; i-- > 0;) {
		if (events[i].kind == EVENT_NAME && events[i].named == inode)
			return is_synced_after(i) && name_is_durable(events[i].inode);
	}
	return true;
}

static bool record_is_durable(uint64_t record)
{
	for (uint32_t i = count; i-- > 0;) {
		if (events[i].record == record && events[i].kind == EVENT_WRITE_SYNCED)
			return name_is_durable(events[i].inode);
		if (events[i].record == record && events[i].kind == EVENT_WRITE)
			return is_synced_after(i) && name_is_durable(events[i].inode);
	}
	return false; /* it was never written */
}

static bool record_is_durable_now(uint64_t record)
{
	pthread_mutex_lock(&lock);
	bool yes = record_is_durable(record);
	pthread_mutex_unlock(&lock);
	return yes;
}

static char base[200];
static unsigned dirs;

static int make_base(void **state)
{
	const char *tmp = getenv("TMPDIR");
	snprintf(base, sizeof base, "%s/journal-disk-XXXXXX", tmp != NULL ? tmp : "/tmp");
	return mkdtemp(base) == NULL;
}

static int remove_base(void **state)
{
	char cmd[300];
	snprintf(cmd, sizeof cmd, "rm -r '%s'", base);
	return system(cmd);
}

static void record_from_here(void)
{
	pthread_mutex_lock(&lock);
	count = syncs = 0;
	recording = true;
	pthread_mutex_unlock(&lock);
}

/* A journal of two logs is made, filled over several segments, and closed. Returns whether each record was
 * durable when it was called so. */
static bool run_is_durable(enum journal_method method)
{
	char dir[300];
	struct doorbell bell;
	const char *why = "";
	struct journal *j;
	struct journal_port *port;
	struct jlog *log[2];
	uint8_t payload[2][3000] = {PATTERN, PATTERN};
	bool durable = true;

	snprintf(dir, sizeof dir, "%s/%u", base, dirs++);
	record_from_here();
	struct journal_opts o = {.dir = dir, .method = method, .idle_note_ms = UINT32_MAX};
	if (journal_open(&o, &j, &why) != 0)
		fail_msg("%s", why);
	assert_int_equal(doorbell_init(&bell), 0);
	assert_int_equal(journal_port_new(j, &bell, 64, &port), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct jlog_opts lo = {.name = i == 0 ? "one" : "two", .segment_bytes = JOURNAL_SEGMENT_MIN};
		if (journal_log_open(j, &lo, &log[i], &why) != 0)
			fail_msg("%s", why);
	}
	assert_int_equal(journal_start(j), 0);
	for (uint64_t mark = 1; mark <= 40; mark++) {
		for (unsigned i = 0; i < 2; i++) {
			store_le64(payload[i] + PATTERN_N, 2 * mark + i);
			assert_true(journal_append(port, log[i], 7, mark, payload[i], sizeof payload[i]));
		}
		for (unsigned i = 0; i < 2; i++) {
			while (jlog_durable(log[i]) < mark)
				usleep(100);
			durable &= record_is_durable_now(2 * mark + i);
		}
	}
	assert_int_equal(journal_close(j), 0);
	doorbell_done(&bell);
	pthread_mutex_lock(&lock);
	recording = false;
	pthread_mutex_unlock(&lock);
	return durable && syncs > 0;
}

static void test_what_is_durable_has_been_synced(void **state)
{
	static const enum journal_method methods[] = {JOURNAL_FDATASYNC, JOURNAL_DSYNC, JOURNAL_DIRECT, JOURNAL_AUTO};
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		assert_true(run_is_durable(methods[i]));
}

/* The check sees a layer whose syncs do nothing. */
static void test_a_sync_that_is_not_made_is_seen(void **state)
{
	lose_syncs = true;
	assert_false(run_is_durable(JOURNAL_FDATASYNC));
	lose_syncs = false;
}

static void test_synchronous_opens_and_writes(void **state)
{
	char dir[300];
	struct journal_disk d;
	uint8_t record[PATTERN_N + 8];
	bool tried;

	snprintf(dir, sizeof dir, "%s/%u", base, dirs++);
	assert_int_equal(journal_disk_open(dir, true, &d), 0);
	int fd = d.open(d.ctx, "file", JD_CREATE);
	assert_true(fd >= 0);
	int direct = d.open(d.ctx, "file", JD_DIRECT);
	if (direct >= 0) { /* not every file system has it */
		assert_int_equal(fcntl(direct, F_GETFL) & (O_DIRECT | O_DSYNC), O_DIRECT | O_DSYNC);
		d.close(d.ctx, direct);
	}
	memcpy(record, PATTERN, PATTERN_N);
	store_le64(record + PATTERN_N, 1);
	record_from_here();
	assert_int_equal(d.rename(d.ctx, "file", "other"), 0);
	assert_int_equal(d.pwrite(d.ctx, fd, record, sizeof record, 0, JD_DSYNC), sizeof record);
	assert_false(record_is_durable(1)); /* its file may still have no name */
	assert_int_equal(d.sync_dir(d.ctx, "", &tried), 0);
	assert_true(tried);
	assert_int_equal(d.sync_dir(d.ctx, "none", &tried), -ENOENT);
	assert_false(tried);
	assert_true(record_is_durable(1));
	store_le64(record + PATTERN_N, 2);
	assert_int_equal(d.pwrite(d.ctx, fd, record, sizeof record, 0, 0), sizeof record);
	assert_false(record_is_durable(2));
	assert_int_equal(d.sync(d.ctx, fd), 0);
	assert_true(record_is_durable(2));
	recording = false;
	d.close(d.ctx, fd);
	journal_disk_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_durable_has_been_synced),
		cmocka_unit_test(test_a_sync_that_is_not_made_is_seen),
		cmocka_unit_test(test_synchronous_opens_and_writes),
	};
	return cmocka_run_group_tests(tests, make_base, remove_base);
}
