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
#include "core/base/log_limit.h"
#include "core/base/log_sink.h"
#include "core/base/log_text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
#define ABANDON_NS                                                                                                     \
	(LOG_DONE_MS * NS_PER_MS +                                                                                     \
	 NS_PER_S) /* then the writer waits in the kernel, where nothing ends it but the end of the process */

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
	atomic_bool ended; /* the writer does nothing more */
	atomic_uint_fast64_t dropped, written;
	struct doorbell bell;
	atomic_bool bell_made;
	pthread_t thread;

	/* The writer's; set up before it starts. */
	enum target target;
	char *path;
	struct log_sink sink;
	uint64_t stop_ns;   /* when it saw `stop`; 0: not yet */
	bool given_up;      /* after `stop`: the target takes nothing */
	uint64_t limits_ns; /* when to tell of lines that were suppressed */
	int failed;         /* errno of the last write, told once; 0 while writing works */
	uint64_t failed_lines;
	size_t batch_len, batch_lines;
	char batch[BATCH_BYTES];
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .rings = &shared, .sink = {.fd = -1}, .limits_ns = UINT64_MAX};

static _Thread_local struct log_ring *mine;

int log_level_now = LOG_LEVEL_INFO;

/* ---- Text ---- */

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
		n += log_text_stamp(out, r->wall_ns);
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

/* While the log runs, the target is waited for; rings fill up meanwhile, and what does not fit is dropped. At the end not for long. */
static bool wait_on(void *ctx, uint64_t idle_ns)
{
	uint64_t now = clock_mono_ns();

	(void)ctx;
	if (!atomic_load_explicit(&g.stop, memory_order_relaxed))
		return true;
	if (g.stop_ns == 0)
		g.stop_ns = now;
	if (now - g.stop_ns < LOG_DONE_MS * NS_PER_MS &&
	    (idle_ns < LOG_DONE_IDLE_MS * NS_PER_MS || now - g.stop_ns < LOG_DONE_IDLE_MS * NS_PER_MS))
		return true;
	g.given_up = true;
	return false;
}

static size_t count_lines(const char *p, size_t n)
{
	size_t lines = 0;

	for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++)
		lines++;
	return lines;
}

static void say_failed(int err)
{
	char text[PATH_MAX + 200];
	struct log_sink stderr_sink = log_sink_of(STDERR_FILENO);
	size_t put;

	snprintf(text, sizeof text, "log: cannot write to %s: %s; lines are being dropped\n", g.path, strerror(-err));
	log_sink_write(&stderr_sink, text, strlen(text), wait_on, NULL, &put);
}

static void flush_batch(void)
{
	size_t put = 0, lines;
	int err = -ETIMEDOUT;

	if (g.batch_len == 0)
		return;
	if (!g.given_up)
		err = log_sink_write(&g.sink, g.batch, g.batch_len, wait_on, NULL, &put);
	if (err == 0) {
		atomic_fetch_add_explicit(&g.written, g.batch_lines, memory_order_relaxed);
		g.failed = 0;
	} else {
		lines = count_lines(g.batch, put);
		lines = lines < g.batch_lines ? lines : g.batch_lines;
		atomic_fetch_add_explicit(&g.written, lines, memory_order_relaxed);
		atomic_fetch_add_explicit(&g.dropped, g.batch_lines - lines, memory_order_relaxed);
		g.failed_lines += g.batch_lines - lines;
		if (g.failed != err && g.target == TARGET_FILE && !g.given_up)
			say_failed(err);
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
	rec.text_len = (uint16_t)log_text_escape(raw, strlen(raw), text, sizeof text);
	batch_add(&rec, "log", text);
}

static void report_suppressed(unsigned long long n, const char *what)
{
	char words[200];

	log_text_words(what, words, sizeof words);
	report("%llu identical lines suppressed: %s", n, words);
}

static void report_limits(bool all)
{
	uint64_t now = clock_mono_ns();

	if (all || now >= g.limits_ns || log_limit_has_news())
		g.limits_ns = log_limit_tell(now, all, report_suppressed);
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
	/* O_NONBLOCK: for a pipe, whose reader may have stopped, or may not be there yet. */
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);

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
	close(g.sink.fd);
	g.sink = log_sink_of(fd);
}

static bool has_work(void)
{
	bool any = atomic_load_explicit(&g.reopen, memory_order_relaxed) ||
		   atomic_load_explicit(&g.stop, memory_order_relaxed) || log_limit_has_news();

	for (struct log_ring *r = first_ring(); r != NULL && !any; r = r->next)
		any = !is_done_with(r) || atomic_load_explicit(&r->closed, memory_order_relaxed);
	return any;
}

static void sleep_until(uint64_t due_ns)
{
	uint64_t now = due_ns == UINT64_MAX ? 0 : clock_mono_ns();

	doorbell_wait(&g.bell, due_ns == UINT64_MAX ? UINT64_MAX : due_ns > now ? due_ns - now : 0);
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
		report_limits(stop && !any);
		flush_batch();
		reap();
		if (any)
			continue;
		if (stop) {
			atomic_store_explicit(&g.ended, true, memory_order_release); /* pairs with join_writer */
			return NULL;
		}
		doorbell_arm(&g.bell);
		if (has_work())
			doorbell_disarm(&g.bell);
		else
			sleep_until(g.limits_ns);
	}
}

/* ---- Calls of every thread ---- */

/* One reader that takes nothing is waited for once. */
static bool wait_directly(void *ctx, uint64_t idle_ns)
{
	atomic_bool *given_up = ctx;

	if (idle_ns >= LOG_DONE_IDLE_MS * NS_PER_MS)
		atomic_store_explicit(given_up, true, memory_order_relaxed);
	return !atomic_load_explicit(given_up, memory_order_relaxed);
}

/* Without a writer: one write, so that lines of several threads stay whole. */
static void write_directly(const struct record *rec, const char *name, const char *text)
{
	static atomic_bool given_up;
	char line[PREFIX_MAX + LOG_LINE_MAX + 1];
	struct log_sink sink = log_sink_of(STDERR_FILENO);
	size_t put, n = render(line, TARGET_STDERR, rec, name, text);
	bool ok = log_sink_write(&sink, line, n, wait_directly, &given_up, &put) == 0;

	if (ok)
		atomic_store_explicit(&given_up, false, memory_order_relaxed);
	atomic_fetch_add_explicit(ok ? &g.written : &g.dropped, 1, memory_order_relaxed);
}

static void write_unregistered(struct record *rec, const char *text)
{
	char comm[16] = "", name[NAME_MAX_BYTES];

	if (pthread_getname_np(pthread_self(), comm, sizeof comm) != 0 || comm[0] == 0)
		memcpy(comm, "?", 2);
	rec->name_len = (uint8_t)log_text_escape(comm, strlen(comm), name, sizeof name);
	pthread_mutex_lock(&g.lock);
	if (atomic_load_explicit(&g.running, memory_order_relaxed)) {
		ring_put(&shared, rec, name, text);
		doorbell_ring(&g.bell);
	} else {
		write_directly(rec, name, text);
	}
	pthread_mutex_unlock(&g.lock);
}

__attribute__((format(printf, 3, 0))) static void put_line(enum log_level level, unsigned long long more,
							   const char *fmt, va_list ap)
{
	/* A few bytes more than a line: escaping never shortens, so a text that is cut here is cut again, with its
	 * mark, by escape. */
	char raw[LOG_LINE_MAX + 64], text[LOG_LINE_MAX];
	struct record rec = {.wall_ns = clock_wall_ns(), .level = (uint8_t)level};
	int n;

	CHECK(level >= LOG_LEVEL_DEBUG && level <= LOG_LEVEL_ERROR);
	n = vsnprintf(raw, LOG_LINE_MAX + 8, fmt, ap);
	if (n < 0)
		n = snprintf(raw, sizeof raw, "(a line that could not be formatted: \"%s\")", fmt);
	if ((size_t)n >= LOG_LINE_MAX + 8)
		n = LOG_LINE_MAX + 7;
	if (more > 0)
		n += snprintf(raw + n, sizeof raw - (size_t)n, " (%llu identical lines suppressed)", more);
	rec.text_len = (uint16_t)log_text_escape(raw, (size_t)n, text, sizeof text);

	if (mine == NULL) {
		write_unregistered(&rec, text);
		return;
	}
	rec.name_len = (uint8_t)strlen(mine->name);
	if (atomic_load_explicit(&g.running, memory_order_acquire)) {
		ring_put(mine, &rec, mine->name, text);
		doorbell_ring(&g.bell);
	} else {
		write_directly(&rec, mine->name, text);
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	put_line(level, 0, fmt, ap);
	va_end(ap);
	errno = saved;
}

void log_write_limited(enum log_level level, unsigned long long more, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	put_line(level, more, fmt, ap);
	va_end(ap);
	errno = saved;
}

void log_ring_writer(void)
{
	if (atomic_load_explicit(&g.running, memory_order_acquire))
		doorbell_ring(&g.bell);
}

int log_thread_register(const char *name)
{
	struct log_ring *r = aligned_alloc(CACHE_LINE, sizeof *r);

	if (r == NULL)
		return -ENOMEM;
	log_thread_unregister();
	memset(r, 0, offsetof(struct log_ring, bytes));
	r->name[log_text_escape(name, strlen(name), r->name, NAME_MAX_BYTES)] = 0;
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

static int open_target(const char *target)
{
	int fd;

	g.sink = log_sink_of(STDERR_FILENO);
	if (strcmp(target, "stderr") == 0) {
		g.target = TARGET_STDERR;
	} else if (strcmp(target, "journal") == 0) {
		g.target = TARGET_JOURNAL;
	} else if (strcmp(target, "auto") == 0) {
		g.target = log_sink_is_journal(STDERR_FILENO) ? TARGET_JOURNAL : TARGET_STDERR;
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
		g.sink = log_sink_of(fd);
	} else {
		return -EINVAL;
	}
	return 0;
}

static void close_target(void)
{
	if (g.target == TARGET_FILE)
		close(g.sink.fd);
	free(g.path);
	g.path = NULL;
	g.sink.fd = -1;
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
	g.stop_ns = 0;
	g.given_up = false;
	atomic_store_explicit(&g.ended, false, memory_order_relaxed);
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

/* False: it waits in the kernel for a target that takes nothing, and is left there. */
static bool join_writer(void)
{
	uint64_t until = clock_mono_ns() + ABANDON_NS;

	while (!atomic_load_explicit(&g.ended, memory_order_acquire)) { /* pairs with the writer's end */
		if (clock_mono_ns() >= until)
			return false;
		usleep(500);
	}
	pthread_join(g.thread, NULL);
	return true;
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
	if (!join_writer())
		return;
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
