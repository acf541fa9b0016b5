/* The asynchronous log.
 *
 *   any thread: log_write -> escape -> its own ring   --bell-->   writer: rings, oldest line first -> batch -> write(2)
 *
 * Invariants
 *  1. A ring has one producer (its thread; for `shared`, whoever holds the mutex) and one consumer (the writer). A
 *     record is in a ring whole or not at all; one that does not fit is counted and gone, so no caller ever waits for
 *     the target.
 *  2. Registered threads add rings at the head of the list under the mutex; only the writer takes rings out, and frees
 *     them, after their thread has let go of them and they are empty. So the writer walks the list without the mutex.
 *  3. The writer reads how far each ring is filled before it looks at the wish to reopen. A line that was logged after
 *     that wish by the same thread is therefore never written to the old file.
 *  4. log_written + log_dropped is the number of lines that were logged and are no longer in a ring.
 *
 * The doorbell is made once and stays for the life of the process, because a signal handler may ring it at any time.
 * The clock's wall time orders lines of different threads within a batch only; each thread's own lines keep their
 * order.
 */
#include "core/base/log.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RING_BYTES (64u << 10)
#define BATCH_BYTES (64u << 10)
#define NAME_MAX_BYTES 31
#define PREFIX_MAX 80 /* time, level and name, with what separates them */
#define CUT_MARK "..."

struct record {
	int64_t wall_ns;
	uint16_t text_len;
	uint8_t name_len, level; /* name and text follow */
	uint32_t reserved;
};

struct log_ring {
	struct log_ring *next; /* invariant 2 */
	char name[NAME_MAX_BYTES + 1];
	atomic_bool closed; /* its thread is gone: release in log_thread_unregister, acquire in reap */

	/* The writer's. */
	uint32_t limit;      /* take records up to here in this pass */
	uint64_t drops;      /* `dropped`, as this pass began */
	uint64_t reported;   /* of drops */
	struct record first; /* the oldest record, if `head` is not yet at `limit` */

	_Alignas(CACHE_LINE) atomic_uint tail; /* bytes put in; release in ring_put, acquire in collect and has_work */
	atomic_uint_fast64_t dropped;
	_Alignas(CACHE_LINE) atomic_uint head; /* bytes taken out; release in take, acquire in ring_put */
	_Alignas(CACHE_LINE) uint8_t bytes[RING_BYTES];
};

enum target { TARGET_STDERR, TARGET_JOURNAL, TARGET_FILE };

static struct log_ring shared = {.name = "unregistered threads"};

static struct {
	pthread_mutex_t lock;   /* of adding and removing rings, putting into `shared`, has_writer, running */
	struct log_ring *rings; /* `shared` is always the last */
	bool has_writer;
	atomic_bool running; /* lines go to the rings; ends a moment before the writer does */
	atomic_bool stop, reopen;
	atomic_uint_fast64_t dropped, written;
	struct doorbell bell;
	atomic_bool bell_made;
	pthread_t thread;

	/* The writer's; set up before it starts. */
	enum target target;
	char *path;
	int fd;
	int failed; /* errno of the last write, told once; 0 while writing works */
	uint64_t failed_lines;
	size_t batch_len, batch_lines;
	char batch[BATCH_BYTES];
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .rings = &shared, .fd = -1};

static _Thread_local struct log_ring *mine;

int log_level_now = LOG_LEVEL_INFO;

/* ---- Text ---- */

/* Length of the UTF-8 character at p that may be shown as it is, or 0: malformed, a control character, or a line
 * separator (U+2028, U+2029). */
static unsigned printable_utf8(const uint8_t *p, size_t n)
{
	unsigned len = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	uint32_t c;

	if (len == 1)
		return p[0] >= 0x20 && p[0] != 0x7f;
	if (p[0] < 0xc2 || p[0] > 0xf4 || len > n)
		return 0;
	c = p[0] & (0x7fu >> len);
	for (unsigned i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < 0xa0 || (len == 3 && c < 0x800) || (len == 4 && c < 0x10000) || c > 0x10ffff)
		return 0;
	if ((c >= 0xd800 && c <= 0xdfff) || c == 0x2028 || c == 0x2029)
		return 0;
	return len;
}

/* Writes `in` escaped to `out`, which has room for `cap` bytes (no terminator); never half a character. Returns the
 * length. */
static size_t escape(const char *in, size_t n, char *out, size_t cap)
{
	static const char hex[] = "0123456789abcdef";
	size_t len = 0, cut = 0;

	for (size_t i = 0; i < n;) {
		uint8_t b = (uint8_t)in[i];
		unsigned plain = printable_utf8((const uint8_t *)in + i, n - i), take = plain ? plain : 1;
		char esc[4] = {'\\', 'x', hex[b >> 4], hex[b & 15]};
		size_t put = plain ? plain : 4;

		if (!plain && (b == '\n' || b == '\r' || b == '\t')) {
			esc[1] = b == '\n' ? 'n' : b == '\r' ? 'r' : 't';
			put = 2;
		}
		if (len + put > cap) {
			memcpy(out + cut, CUT_MARK, sizeof CUT_MARK - 1);
			return cut + sizeof CUT_MARK - 1;
		}
		memcpy(out + len, plain ? in + i : esc, put);
		len += put;
		i += take;
		if (len + sizeof CUT_MARK - 1 <= cap)
			cut = len; /* here the mark would still fit */
	}
	return len;
}

static size_t render_stamp(char *out, int64_t wall_ns)
{
	uint64_t ns = wall_ns < 0 ? 0 : (uint64_t)wall_ns;
	time_t s = (time_t)(ns / NS_PER_S);
	unsigned ms = (unsigned)(ns % NS_PER_S / NS_PER_MS);
	struct tm tm;
	char buf[40];
	int n;

	gmtime_r(&s, &tm);
	n = snprintf(buf, sizeof buf, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900, tm.tm_mon + 1,
		     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms);
	memcpy(out, buf, (size_t)n);
	return (size_t)n;
}

/* A whole line, with its end, in `out` of PREFIX_MAX + LOG_LINE_MAX + 1 bytes. */
static size_t render(char *out, enum target target, const struct record *r, const char *name, const char *text)
{
	static const char levels[][6] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
	static const char priorities[] = {'7', '6', '4', '3'}; /* sd-daemon(3) */
	size_t n = 0;

	if (target == TARGET_JOURNAL) {
		out[n++] = '<';
		out[n++] = priorities[r->level];
		out[n++] = '>';
	} else {
		n += render_stamp(out, r->wall_ns);
		out[n++] = ' ';
		memcpy(out + n, levels[r->level], 5);
		n += 5;
		out[n++] = ' ';
	}
	memcpy(out + n, name, r->name_len);
	n += r->name_len;
	out[n++] = ':';
	out[n++] = ' ';
	memcpy(out + n, text, r->text_len);
	n += r->text_len;
	out[n++] = '\n';
	return n;
}

/* ---- Rings ---- */

static void copy_in(struct log_ring *r, uint32_t at, const void *p, size_t n)
{
	size_t i = at & (RING_BYTES - 1), first = RING_BYTES - i < n ? RING_BYTES - i : n;

	memcpy(r->bytes + i, p, first);
	memcpy(r->bytes, (const uint8_t *)p + first, n - first);
}

static void copy_out(const struct log_ring *r, uint32_t at, void *p, size_t n)
{
	size_t i = at & (RING_BYTES - 1), first = RING_BYTES - i < n ? RING_BYTES - i : n;

	memcpy(p, r->bytes + i, first);
	memcpy((uint8_t *)p + first, r->bytes, n - first);
}

/* The ring's producer. Puts the record, or counts it as dropped. */
static void ring_put(struct log_ring *r, const struct record *rec, const char *name, const char *text)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	uint32_t head = atomic_load_explicit(&r->head, memory_order_acquire);
	uint32_t need = (uint32_t)sizeof *rec + rec->name_len + rec->text_len;

	if (need > RING_BYTES - (tail - head)) {
		atomic_fetch_add_explicit(&r->dropped, 1, memory_order_release); /* pairs with collect */
		atomic_fetch_add_explicit(&g.dropped, 1, memory_order_relaxed);
		return;
	}
	copy_in(r, tail, rec, sizeof *rec);
	copy_in(r, tail + (uint32_t)sizeof *rec, name, rec->name_len);
	copy_in(r, tail + (uint32_t)sizeof *rec + rec->name_len, text, rec->text_len);
	atomic_store_explicit(&r->tail, tail + need, memory_order_release);
}

/* ---- The writer ---- */

/* All of it, or -errno. A target that somebody made non-blocking is waited for. */
static int write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t put = write(fd, p, n);

		if (put >= 0) {
			p += put;
			n -= (size_t)put;
		} else if (errno == EAGAIN) {
			struct pollfd pfd = {.fd = fd, .events = POLLOUT};

			poll(&pfd, 1, -1);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static void flush_batch(void)
{
	int err;

	if (g.batch_len == 0)
		return;
	err = write_all(g.fd, g.batch, g.batch_len);
	if (err == 0) {
		atomic_fetch_add_explicit(&g.written, g.batch_lines, memory_order_relaxed);
		g.failed = 0;
	} else {
		atomic_fetch_add_explicit(&g.dropped, g.batch_lines, memory_order_relaxed);
		g.failed_lines += g.batch_lines;
		if (g.failed != err && g.target == TARGET_FILE)
			dprintf(STDERR_FILENO, "log: cannot write to %s: %s; lines are being dropped\n", g.path,
				strerror(-err));
		g.failed = err;
	}
	g.batch_len = g.batch_lines = 0;
}

static void batch_add(const struct record *r, const char *name, const char *text)
{
	if (g.batch_len + PREFIX_MAX + LOG_LINE_MAX + 1 > sizeof g.batch)
		flush_batch();
	g.batch_len += render(g.batch + g.batch_len, g.target, r, name, text);
}

/* A line of the writer's own; not counted. */
__attribute__((format(printf, 1, 2))) static void report(const char *fmt, ...)
{
	struct record rec = {.wall_ns = clock_wall_ns(), .name_len = 3, .level = LOG_LEVEL_WARN};
	char raw[LOG_LINE_MAX + 8], text[LOG_LINE_MAX];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(raw, sizeof raw, fmt, ap) < 0)
		raw[0] = 0;
	va_end(ap);
	rec.text_len = (uint16_t)escape(raw, strlen(raw), text, sizeof text);
	batch_add(&rec, "log", text);
}

/* Moves the ring's first record, whose head is in r->first already, to the batch. */
static void take(struct log_ring *r)
{
	char name[UINT8_MAX], text[LOG_LINE_MAX];
	uint32_t at = atomic_load_explicit(&r->head, memory_order_relaxed) + (uint32_t)sizeof r->first;

	CHECK(r->first.text_len <= sizeof text);
	copy_out(r, at, name, r->first.name_len);
	copy_out(r, at + r->first.name_len, text, r->first.text_len);
	at += r->first.name_len + r->first.text_len;
	atomic_store_explicit(&r->head, at, memory_order_release);
	batch_add(&r->first, name, text);
	g.batch_lines++;
	if (at != r->limit)
		copy_out(r, at, &r->first, sizeof r->first);
}

static bool is_exhausted(struct log_ring *r)
{
	return atomic_load_explicit(&r->head, memory_order_relaxed) == r->limit;
}

static struct log_ring *first_ring(void)
{
	struct log_ring *r;

	pthread_mutex_lock(&g.lock);
	r = g.rings;
	pthread_mutex_unlock(&g.lock);
	return r;
}

/* Fixes how far this pass goes. Returns whether there is anything to do. Drops are read first: what fills the ring when
 * a line is dropped is then within the limit, and the report comes after it. */
static bool collect(struct log_ring *list)
{
	bool any = false;

	for (struct log_ring *r = list; r != NULL; r = r->next) {
		r->drops = atomic_load_explicit(&r->dropped, memory_order_acquire);
		any = any || r->drops != r->reported;
		r->limit = atomic_load_explicit(&r->tail, memory_order_acquire);
		if (is_exhausted(r))
			continue;
		copy_out(r, atomic_load_explicit(&r->head, memory_order_relaxed), &r->first, sizeof r->first);
		any = true;
	}
	return any;
}

static void drain(struct log_ring *list)
{
	for (;;) {
		struct log_ring *oldest = NULL;

		for (struct log_ring *r = list; r != NULL; r = r->next)
			if (!is_exhausted(r) && (oldest == NULL || r->first.wall_ns < oldest->first.wall_ns))
				oldest = r;
		if (oldest == NULL)
			return;
		take(oldest);
	}
}

static void report_drops(struct log_ring *list)
{
	for (struct log_ring *r = list; r != NULL; r = r->next) {
		unsigned long long lost = r->drops - r->reported;

		if (lost == 0)
			continue;
		report("%llu lines of %s were dropped: its buffer was full", lost, r->name);
		r->reported = r->drops;
	}
	if (g.failed == 0 && g.failed_lines > 0) {
		report("%llu lines were dropped: writing had failed", (unsigned long long)g.failed_lines);
		g.failed_lines = 0;
	}
}

/* Whether all that was put into the ring is in the target, and all drops are told. */
static bool is_done_with(struct log_ring *r)
{
	return atomic_load_explicit(&r->tail, memory_order_acquire) ==
		       atomic_load_explicit(&r->head, memory_order_relaxed) &&
	       atomic_load_explicit(&r->dropped, memory_order_relaxed) == r->reported;
}

/* Frees the empty rings of threads that are gone. */
static void reap(void)
{
	pthread_mutex_lock(&g.lock);
	for (struct log_ring **p = &g.rings; *p != NULL;) {
		struct log_ring *r = *p;

		/* closed before the rest: the thread's last line is in before it lets go. */
		if (atomic_load_explicit(&r->closed, memory_order_acquire) && is_done_with(r)) {
			*p = r->next;
			free(r);
		} else {
			p = &r->next;
		}
	}
	pthread_mutex_unlock(&g.lock);
}

static int open_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);

	return fd < 0 ? -errno : fd;
}

static void reopen_if_asked(void)
{
	int fd;

	if (!atomic_exchange_explicit(&g.reopen, false, memory_order_acq_rel) || g.target != TARGET_FILE)
		return;
	flush_batch();
	fd = open_file(g.path);
	if (fd < 0) {
		report("cannot reopen %s: %s; still writing to the file that was open", g.path, strerror(-fd));
		return;
	}
	close(g.fd);
	g.fd = fd;
}

static bool has_work(void)
{
	bool any = atomic_load_explicit(&g.reopen, memory_order_relaxed) ||
		   atomic_load_explicit(&g.stop, memory_order_relaxed);

	for (struct log_ring *r = first_ring(); r != NULL && !any; r = r->next)
		any = !is_done_with(r) || atomic_load_explicit(&r->closed, memory_order_relaxed);
	return any;
}

static void *writer(void *arg)
{
	(void)arg;
	for (;;) {
		bool stop = atomic_load_explicit(&g.stop, memory_order_acquire);
		struct log_ring *list = first_ring();
		bool any = collect(list);

		reopen_if_asked();
		drain(list);
		flush_batch();
		report_drops(list);
		flush_batch();
		reap();
		if (any)
			continue;
		if (stop)
			return NULL;
		doorbell_arm(&g.bell);
		if (has_work())
			doorbell_disarm(&g.bell);
		else
			doorbell_wait(&g.bell, UINT64_MAX);
	}
}

/* ---- Calls of every thread ---- */

/* Without a writer: one write, so that lines of several threads stay whole. */
static void write_directly(const struct record *rec, const char *name, const char *text)
{
	char line[PREFIX_MAX + LOG_LINE_MAX + 1];
	bool ok = write_all(STDERR_FILENO, line, render(line, TARGET_STDERR, rec, name, text)) == 0;

	atomic_fetch_add_explicit(ok ? &g.written : &g.dropped, 1, memory_order_relaxed);
}

static void write_unregistered(struct record *rec, const char *text)
{
	char comm[16] = "", name[NAME_MAX_BYTES];

	if (pthread_getname_np(pthread_self(), comm, sizeof comm) != 0 || comm[0] == 0)
		memcpy(comm, "?", 2);
	rec->name_len = (uint8_t)escape(comm, strlen(comm), name, sizeof name);
	pthread_mutex_lock(&g.lock);
	if (atomic_load_explicit(&g.running, memory_order_relaxed)) {
		ring_put(&shared, rec, name, text);
		doorbell_ring(&g.bell);
	} else {
		write_directly(rec, name, text);
	}
	pthread_mutex_unlock(&g.lock);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	/* A few bytes more than a line: escaping never shortens, so a text that is cut here is cut again, with its
	 * mark, by escape. */
	char raw[LOG_LINE_MAX + 8], text[LOG_LINE_MAX];
	struct record rec = {.wall_ns = clock_wall_ns(), .level = (uint8_t)level};
	int saved = errno, n;
	va_list ap;

	CHECK(level >= LOG_LEVEL_DEBUG && level <= LOG_LEVEL_ERROR);
	va_start(ap, fmt);
	n = vsnprintf(raw, sizeof raw, fmt, ap);
	va_end(ap);
	if (n < 0)
		n = snprintf(raw, sizeof raw, "(a line that could not be formatted: \"%s\")", fmt);
	if ((size_t)n >= sizeof raw)
		n = (int)sizeof raw - 1;
	rec.text_len = (uint16_t)escape(raw, (size_t)n, text, sizeof text);

	if (mine == NULL) {
		write_unregistered(&rec, text);
	} else {
		rec.name_len = (uint8_t)strlen(mine->name);
		if (atomic_load_explicit(&g.running, memory_order_acquire)) {
			ring_put(mine, &rec, mine->name, text);
			doorbell_ring(&g.bell);
		} else {
			write_directly(&rec, mine->name, text);
		}
	}
	errno = saved;
}

int log_thread_register(const char *name)
{
	struct log_ring *r = aligned_alloc(CACHE_LINE, sizeof *r);

	if (r == NULL)
		return -ENOMEM;
	log_thread_unregister();
	memset(r, 0, offsetof(struct log_ring, bytes));
	r->name[escape(name, strlen(name), r->name, NAME_MAX_BYTES)] = 0;
	pthread_mutex_lock(&g.lock);
	r->next = g.rings;
	g.rings = r;
	pthread_mutex_unlock(&g.lock);
	mine = r;
	return 0;
}

/* There is no writer: what came to the ring as it stopped goes to standard error. Called with the lock. */
static void drain_directly(struct log_ring *r)
{
	struct record rec;
	char name[UINT8_MAX], text[LOG_LINE_MAX];
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	for (uint32_t at = atomic_load_explicit(&r->head, memory_order_relaxed); at != tail;) {
		copy_out(r, at, &rec, sizeof rec);
		copy_out(r, at + (uint32_t)sizeof rec, name, rec.name_len);
		copy_out(r, at + (uint32_t)sizeof rec + rec.name_len, text, rec.text_len);
		at += (uint32_t)sizeof rec + rec.name_len + rec.text_len;
		write_directly(&rec, name, text);
	}
}

/* What reap does, without a writer. Called with the lock. */
static void bury_closed(void)
{
	for (struct log_ring **p = &g.rings; *p != NULL;) {
		struct log_ring *r = *p;

		if (!atomic_load_explicit(&r->closed, memory_order_acquire)) {
			p = &r->next;
			continue;
		}
		*p = r->next;
		drain_directly(r);
		free(r);
	}
}

void log_thread_unregister(void)
{
	struct log_ring *r = mine;

	if (r == NULL)
		return;
	mine = NULL;
	pthread_mutex_lock(&g.lock);
	atomic_store_explicit(&r->closed, true, memory_order_release);
	if (g.has_writer)
		doorbell_ring(&g.bell);
	else
		bury_closed();
	pthread_mutex_unlock(&g.lock);
}

void log_set_level(enum log_level level)
{
	__atomic_store_n(&log_level_now, (int)level, __ATOMIC_RELAXED);
}

enum log_level log_get_level(void)
{
	return (enum log_level)__atomic_load_n(&log_level_now, __ATOMIC_RELAXED);
}

void log_reopen(void)
{
	int saved = errno; /* a signal handler leaves it alone */

	atomic_store_explicit(&g.reopen, true, memory_order_release);
	if (atomic_load_explicit(&g.bell_made, memory_order_acquire))
		doorbell_ring(&g.bell);
	errno = saved;
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&g.dropped, memory_order_relaxed);
}

uint64_t log_written(void)
{
	return atomic_load_explicit(&g.written, memory_order_relaxed);
}

/* ---- Calls of the main thread ---- */

/* Whether standard error is the journal's socket: systemd.exec(5), $JOURNAL_STREAM. */
static bool stderr_is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	char *end;

	if (env == NULL || fstat(STDERR_FILENO, &st) != 0)
		return false;
	errno = 0;
	dev = strtoull(env, &end, 10);
	if (errno != 0 || end == env || *end != ':')
		return false;
	env = end + 1;
	ino = strtoull(env, &end, 10);
	return errno == 0 && end != env && *end == 0 && st.st_dev == dev && st.st_ino == ino;
}

static int open_target(const char *target)
{
	int fd;

	g.fd = STDERR_FILENO;
	if (strcmp(target, "stderr") == 0) {
		g.target = TARGET_STDERR;
	} else if (strcmp(target, "journal") == 0) {
		g.target = TARGET_JOURNAL;
	} else if (strcmp(target, "auto") == 0) {
		g.target = stderr_is_journal() ? TARGET_JOURNAL : TARGET_STDERR;
	} else if (strncmp(target, "file:", 5) == 0 && target[5] != 0) {
		g.path = strdup(target + 5);
		if (g.path == NULL)
			return -ENOMEM;
		fd = open_file(g.path);
		if (fd < 0) {
			free(g.path);
			g.path = NULL;
			return fd;
		}
		g.target = TARGET_FILE;
		g.fd = fd;
	} else {
		return -EINVAL;
	}
	return 0;
}

static void close_target(void)
{
	if (g.target == TARGET_FILE)
		close(g.fd);
	free(g.path);
	g.path = NULL;
	g.fd = -1;
}

/* The writer takes no signals: they are the main thread's, and one for a closed pipe must stay an error of write(2). */
static int start_writer(void)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&g.thread, NULL, writer, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err == 0)
		pthread_setname_np(g.thread, "log");
	return -err;
}

int log_init(const char *target, enum log_level level)
{
	int err;

	CHECK(!atomic_load_explicit(&g.running, memory_order_relaxed));
	if (!atomic_load_explicit(&g.bell_made, memory_order_relaxed)) {
		err = doorbell_init(&g.bell);
		if (err < 0)
			return err;
		atomic_store_explicit(&g.bell_made, true, memory_order_release); /* pairs with log_reopen */
	}
	err = open_target(target);
	if (err < 0)
		return err;
	g.failed = 0;
	g.failed_lines = 0;
	atomic_store_explicit(&g.stop, false, memory_order_relaxed);
	pthread_mutex_lock(&g.lock); /* the writer's first look at the rings waits for it */
	err = start_writer();
	g.has_writer = err == 0;
	atomic_store_explicit(&g.running, err == 0, memory_order_release);
	pthread_mutex_unlock(&g.lock);
	if (err < 0) {
		close_target();
		return err;
	}
	log_set_level(level);
	return 0;
}

void log_done(void)
{
	if (!atomic_load_explicit(&g.running, memory_order_relaxed))
		return;
	pthread_mutex_lock(&g.lock);
	atomic_store_explicit(&g.running, false, memory_order_release);
	pthread_mutex_unlock(&g.lock);
	atomic_store_explicit(&g.stop, true, memory_order_release);
	doorbell_ring(&g.bell);
	pthread_join(g.thread, NULL);
	pthread_mutex_lock(&g.lock);
	g.has_writer = false;
	bury_closed();
	pthread_mutex_unlock(&g.lock);
	close_target();
}

int log_pin(int cpu)
{
	cpu_set_t set;

	if (!atomic_load_explicit(&g.running, memory_order_relaxed))
		return -ESRCH;
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return -EINVAL;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return -pthread_setaffinity_np(g.thread, sizeof set, &set);
}

int log_confine(void)
{
	cpu_set_t set[8]; /* 8192 CPUs, the most that Linux can be built for */

	if (!atomic_load_explicit(&g.running, memory_order_relaxed))
		return -ESRCH;
	memset(set, 0, sizeof set);
	if (sched_getaffinity(0, sizeof set, set) != 0)
		return -errno;
	return -pthread_setaffinity_np(g.thread, sizeof set, set);
}
