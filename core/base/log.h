/* The asynchronous log: printf-like calls put a finished line into the calling thread's own buffer and never block; one writer
 * thread drains all buffers into the target. A full buffer drops the line and counts it; the writer reports the number dropped.
 *
 * Targets: "stderr"; "journal" (standard error with sd-daemon(3) "<N>" level prefixes and no time stamp; chosen by "auto" when
 * $JOURNAL_STREAM matches standard error); "file:/path" (reopened by log_reopen, for log rotation).
 * Control characters and non-UTF-8 bytes in a line are escaped, so a peer cannot forge lines. Lines are cut at LOG_LINE_MAX.
 * Libraries below rpc/ log only what nobody above them could report better.
 */
#ifndef ORDINAL_CORE_BASE_LOG_H
#define ORDINAL_CORE_BASE_LOG_H

#include <stdint.h>

#define LOG_LINE_MAX 1024

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Starts the writer. target as above; 0 or -errno (the file cannot be opened). Before log_init and after log_done, lines go
 * straight to standard error. Main thread. */
int log_init(const char *target, enum log_level level);
/* Writes out all that was logged before, and stops. Main thread. */
void log_done(void);

/* Gives the calling thread its buffer and its name in lines ("shard/0"). A thread that logs without registering writes
 * under a lock (for start-up and tests). 0 or -ENOMEM. */
int log_thread_register(const char *name);
void log_thread_unregister(void);

/* Any thread. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* Asks the writer to reopen its file; lines written meanwhile are kept. Async-signal-safe. */
void log_reopen(void);
/* Lines dropped since start, and lines written. */
uint64_t log_dropped(void);
uint64_t log_written(void);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

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
