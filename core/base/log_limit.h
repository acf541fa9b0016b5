/* The one limit for lines that something may repeat: a client, a disk, a kernel that has run out of something. Of a class of lines one a second is written,
 * and when that has gone on for a minute one a minute; so no class can fill a disk (1440 lines a day). The others are counted, and told by the next line
 * of the class, or, when none comes, by the log's writer.
 *
 *   log_limited(LOG_LEVEL_WARN, "accept: %s", text);                          a class for each place in the source
 *
 *   static struct log_limit said[REASONS];                                    a class for each reason
 *   if (log_limit_pass(&said[why], names[why], &more))
 *           log_info("refused (%s): %s (%llu more such in the burst before)", names[why], text, more);
 *
 * Whatever a stranger can cause is such a line, and so is whatever a fault can cause again and again. Any thread; nobody waits. */
#ifndef ORDINAL_CORE_BASE_LOG_LIMIT_H
#define ORDINAL_CORE_BASE_LOG_LIMIT_H

#include "core/base/log.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LOG_LIMIT_PAUSE_NS UINT64_C(1000000000)   /* between two lines of a class */
#define LOG_LIMIT_REFILL_NS UINT64_C(60000000000) /* one more line that may come after such a pause */
#define LOG_LIMIT_BURST 60u                       /* so many of them at most */

/* A class of lines. Static: it stays in the log's list. Zero-filled at first. */
struct log_limit {
	const char *what; /* of the lines, in words; written before it is listed */
	struct log_limit *next;
	atomic_bool listed;
	atomic_uint_fast64_t said_ns; /* when a line was let pass, or the others were told of */
	atomic_uint_fast64_t full_ns; /* when all of the burst may come again */
	atomic_uint_fast64_t more;    /* lines that were not let pass since */
};

/* Whether a line may be written now; *ret_more lines were suppressed before it. `what` is static: a word or two for the class, or its format. */
bool log_limit_pass(struct log_limit *l, const char *what, unsigned long long *ret_more);
/* The same, at a time. */
bool log_limit_pass_at(struct log_limit *l, const char *what, uint64_t now_ns, unsigned long long *ret_more);

/* A line with what was suppressed at its end. */
void log_write_limited(enum log_level level, unsigned long long more, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_limited(level, ...)                                                                                        \
	do {                                                                                                           \
		static struct log_limit log_limit_here;                                                                \
		unsigned long long log_more;                                                                           \
		if ((int)(level) >= __atomic_load_n(&log_level_now, __ATOMIC_RELAXED) &&                               \
		    log_limit_pass(&log_limit_here, LOG_FIRST(__VA_ARGS__, ""), &log_more))                            \
			log_write_limited(level, log_more, __VA_ARGS__);                                               \
	} while (0)
#define LOG_FIRST(first, ...) first

/* For the log's writer alone: tells `each` of the classes with suppressed lines of which nothing was said for LOG_LIMIT_REFILL_NS, or (`all`) of every one.
 * Returns when to call again; UINT64_MAX: when log_limit_pass has rung. */
uint64_t log_limit_tell(uint64_t now_ns, bool all, void (*each)(unsigned long long more, const char *what));
/* Whether log_limit_pass has listed classes since. */
bool log_limit_has_news(void);

#endif
