/* The asynchronous log: printf-like calls put a finished line into the calling thread's own buffer and never block; one
 * writer thread drains all buffers into the target. A full buffer drops the line and counts it; the writer reports the
 * number dropped.
 *
 * Targets: "stderr"; "journal" (standard error with sd-daemon(3) "<N>" level prefixes and no time stamp; chosen by
 * "auto" when $JOURNAL_STREAM matches standard error); "file:/path" (reopened by log_reopen, for log rotation).
 * A line: "2025-11-21T20:02:03.123Z INFO  shard/0: text", time in UTC; for the journal: "<6>shard/0: text".
 * Control characters, line separators and non-UTF-8 bytes in the text are escaped (\n, \x1b), so a peer cannot forge
 * lines. The text, escaped, is cut at LOG_LINE_MAX bytes and then ends in "...".
 * Libraries below rpc/ log only what nobody above them could report better. What a client or a fault may repeat goes through log_limit.h.
 * A reader of the target who has stopped reading costs lines, and nobody's time: at the end log_done waits LOG_DONE_IDLE_MS for
 * such a one, and LOG_DONE_MS in all for a slow one.
 */
#ifndef ORDINAL_CORE_BASE_LOG_H
#define ORDINAL_CORE_BASE_LOG_H

#include <stdint.h>

#define LOG_LINE_MAX 1024
#define LOG_DONE_IDLE_MS 1000u
#define LOG_DONE_MS 3000u

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Starts the writer. target as above; 0 or -errno (the file cannot be opened). Before log_init and after log_done,
 * lines go straight to standard error. Main thread. */
int log_init(const char *target, enum log_level level);
/* Writes out all that was logged before, and stops; what the target does not take in time is dropped and counted. Lines
 * that other threads log in the same instant stay in their buffers until they unregister. Main thread. */
void log_done(void);
/* Pins the writer to a CPU. 0 or -errno; -ESRCH when it is not running. Main thread. */
int log_pin(int cpu);
/* Lets the writer run on the CPUs that the calling thread may run on, and no others. 0 or -errno; -ESRCH as above. Main thread. */
int log_confine(void);

/* Gives the calling thread its buffer and its name in lines ("shard/0", cut at 31 bytes). A thread that logs without
 * registering writes under a lock (for start-up and tests), as its pthread name. 0 or -ENOMEM. */
int log_thread_register(const char *name);
/* Before a registered thread ends. What it logged is still written. Harmless when not registered. */
void log_thread_unregister(void);

/* Any thread. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* Asks the writer to reopen its file: lines that the caller logs after this go to the new one, and none is lost. If the
 * new one cannot be opened, the old one stays and gets a line that says so. Nothing happens for other targets.
 * Async-signal-safe. */
void log_reopen(void);
/* Lines dropped since start (buffer full, or the target did not take them), and lines written; the writer's own reports
 * are in neither. */
uint64_t log_dropped(void);
uint64_t log_written(void);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Has the writer look whether there is something to do. Any thread. */
void log_ring_writer(void);

extern int log_level_now; /* read by the macros only */

#define log_at(level, ...)                                                                                             \
	do {                                                                                                           \
		if ((int)(level) >= __atomic_load_n(&log_level_now, __ATOMIC_RELAXED))                                 \
			log_write(level, __VA_ARGS__);                                                                 \
	} while (0)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...) log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
