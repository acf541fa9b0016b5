/* Looking at every stream's log, for tools that work while no daemon runs. Main thread.
 *
 * Each log is replayed by the code that the daemon opens it with, and nothing is kept. In a journal that was opened to be
 * looked at (JOURNAL_CHECK), nothing is written.
 */
#include "queue/stream_impl.h"

#include <stdlib.h>
#include <string.h>

static void check_log(struct streams *ss, struct stream_check *c)
{
	uint8_t name[STREAM_NAME_MAX];
	struct stream *s;
	uint64_t pos;
	size_t n;

	if (!stream_name_of_log(c->log, name, &n)) {
		c->err = -EINVAL;
		c->why = "no stream's log is called like this folder";
		return;
	}
	memcpy(c->name, name, n);
	c->err = stream_make(ss, (struct span){name, n}, true, &s, &c->why);
	if (c->err != 0)
		return;
	edge_get(&s->first, &pos, &c->first_offset);
	edge_get(&s->durable, &pos, &c->last_offset);
	c->frames = c->last_offset >= c->first_offset ? c->last_offset - c->first_offset + 1 : 0;
	c->bytes = jlog_bytes(s->log);
	stream_free(s);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

int streams_check(struct journal *j, void (*each)(void *ctx, const struct stream_check *c), void *ctx,
		  const char **ret_why)
{
	/* As little memory as a stream can have: only its log matters here. */
	struct streams_opts opts = {.shards = 1,
				    .streams_max = 1,
				    .segment_bytes = SEGMENT_BYTES_MIN,
				    .payload_max = 1,
				    .publishers_max = 1,
				    .numbers_max = 1};
	struct streams *ss = streams_new(&opts, j, 0);
	struct stream_logs logs = {.n = 0};
	int err;

	*ret_why = "out of memory, or of file descriptors";
	if (ss == NULL)
		return -ENOMEM;
	err = journal_each_log(j, stream_logs_add, &logs);
	if (err == 0)
		err = journal_each_missing(j, stream_logs_add, &logs);
	if (err != 0)
		*ret_why = "the data directory cannot be listed";
	if (logs.n > 1)
		qsort(logs.name, logs.n, sizeof logs.name[0], by_name);
	for (uint32_t i = 0; i < logs.n && err == 0; i++) {
		struct stream_check c = {.log = logs.name[i]};

		check_log(ss, &c);
		each(ctx, &c);
	}
	free(logs.name);
	streams_free(ss);
	return err;
}
