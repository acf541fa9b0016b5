/* The Feed service's part of the report: streams, who follows them and how far behind. Main thread; reads what the shards count and publish
 * with relaxed loads. Subscribers' slots are read where they lie: a slot stays memory until svc_feed_stop, and 0 in its first member says
 * that nobody has it. */
#include "rpc/feed_impl.h"

#include "core/base/check.h"
#include "rpc/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHOWN_MAX = 100 /* streams with figures of their own: the busiest */ };

struct lag {
	uint32_t stream; /* its number */
	uint64_t bytes, frames;
};

struct row {
	uint32_t number;
	struct stream_stats s;
	struct feed_count c; /* of all shards */
	uint32_t subscribers, live;
	/* Of live subscribers: half, 90%, 99%, and all are no further behind. */
	uint64_t lag_bytes[4], lag_frames[4];
};

struct reading {
	uint32_t streams, shown; /* in all; rows */
	struct row *row;
	uint32_t subscribers;
	uint64_t frames, bytes, published, delivered, memory_bytes, index_bytes; /* of all streams */
	uint32_t stopped;                                                        /* of them, take no frames any more */
	uint64_t reorder_bytes;                                                  /* of all shards' windows */
	struct streams_read_stats read;                                          /* of all shards; most: of one */
};

static const char *const durability_names[] = {"fsync", "write", "memory"};
static const double quantiles[4] = {0.5, 0.9, 0.99, 1};
static const char *const quantile_names[4] = {"p50", "p90", "p99", "max"};

static void count_read(const struct feed *f, uint32_t i, struct feed_count *ret)
{
	*ret = (struct feed_count){0};
	for (unsigned k = 0; k < f->opts.shards && i < f->opts.streams_max; k++) {
		const struct feed_count *c = f->shard[k] ? &f->shard[k]->count[i] : NULL;
		if (!c)
			continue;
		ret->frames += count_get(&c->frames);
		ret->bytes += count_get(&c->bytes);
		ret->drops += count_get(&c->drops);
		ret->dropped += count_get(&c->dropped);
		ret->disconnected += count_get(&c->disconnected);
		ret->disordered += count_get(&c->disordered);
		ret->reorder_early += count_get(&c->reorder_early);
	}
}

static int by_number(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static int by_stream_and_bytes(const void *a, const void *b)
{
	const struct lag *x = a, *y = b;

	if (x->stream != y->stream)
		return x->stream < y->stream ? -1 : 1;
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void quantiles_of(const uint64_t *sorted, uint32_t n, uint64_t ret[4])
{
	for (unsigned q = 0; q < 4; q++) {
		uint32_t i = (uint32_t)(quantiles[q] * n);
		ret[q] = n ? sorted[i < n ? i : n - 1] : 0;
	}
}

/* One stream's subscribers out of `lag`, from i on; returns where the next stream's begin. */
static uint32_t lag_of_stream(struct row *row, const struct lag *lag, uint32_t i, uint32_t count, uint64_t *room)
{
	uint32_t n = 0;

	while (i + n < count && lag[i + n].stream == row->number)
		n++;
	for (uint32_t k = 0; k < n; k++)
		room[k] = lag[i + k].bytes;
	quantiles_of(room, n, row->lag_bytes);
	for (uint32_t k = 0; k < n; k++)
		room[k] = lag[i + k].frames;
	qsort(room, n, sizeof *room, by_value);
	quantiles_of(room, n, row->lag_frames);
	row->live = n;
	return i + n;
}

static struct row *row_of(struct reading *r, uint32_t number)
{
	struct row key = {.number = number};

	return bsearch(&key, r->row, r->shown, sizeof *r->row, by_number);
}

/* All subscribers' lags; their number. Rows are in the order of their numbers. */
static uint32_t lags_read(const struct feed *f, struct reading *r, struct lag *lag, uint32_t max)
{
	uint32_t n = 0;

	for (unsigned k = 0; k < f->opts.shards; k++) {
		const struct svc_feed *s = f->shard[k];
		uint32_t made = s ? __atomic_load_n(&s->subs_made, __ATOMIC_ACQUIRE) : 0;
		for (uint32_t i = 0; i < made; i++) {
			const struct feed_sub *sub = slab_at(&s->subs, i);
			uint32_t stream = count_get(&sub->stream);
			struct row *row = stream ? row_of(r, stream - 1) : NULL;
			if (!stream)
				continue;
			r->subscribers++;
			if (row)
				row->subscribers++;
			if (row && count_get(&sub->live) && n < max)
				lag[n++] = (struct lag){stream - 1, count_get(&sub->lag_bytes),
							count_get(&sub->lag_frames)};
		}
	}
	return n;
}

static bool read_lags(const struct feed *f, struct reading *r)
{
	uint32_t max = 0, i = 0;

	for (unsigned k = 0; k < f->opts.shards; k++)
		max += f->shard[k] ? __atomic_load_n(&f->shard[k]->subs_made, __ATOMIC_ACQUIRE) : 0;
	struct lag *lag = malloc((max + 1) * sizeof *lag);
	uint64_t *room = malloc((max + 1) * sizeof *room);
	if (lag && room) {
		uint32_t n = lags_read(f, r, lag, max);
		qsort(lag, n, sizeof *lag, by_stream_and_bytes);
		for (uint32_t k = 0; k < r->shown; k++)
			i = lag_of_stream(&r->row[k], lag, i, n, room);
	}
	free(lag);
	free(room);
	return lag && room;
}

/* Whether x is shown rather than y. */
static bool is_busier(const struct row *x, const struct row *y)
{
	uint64_t xs = x->s.published + x->c.frames, ys = y->s.published + y->c.frames;

	if (x->s.stopped != y->s.stopped) /* whatever is wrong is shown */
		return x->s.stopped;
	return xs != ys ? xs > ys : x->number < y->number;
}

/* Keeps the busiest, in the order of their numbers, as the others come in that order. */
static void row_add(struct reading *r, const struct row *row)
{
	uint32_t least = 0;

	if (r->shown == SHOWN_MAX) {
		for (uint32_t i = 1; i < r->shown; i++)
			least = is_busier(&r->row[least], &r->row[i]) ? i : least;
		if (!is_busier(row, &r->row[least]))
			return;
		r->shown--;
		memmove(&r->row[least], &r->row[least + 1], (r->shown - least) * sizeof *row);
	}
	r->row[r->shown++] = *row;
}

static bool reading_take(const struct feed *f, struct reading *r)
{
	*r = (struct reading){.streams = streams_count(f->ss)};
	for (unsigned k = 0; k < f->opts.shards; k++) {
		struct streams_read_stats read;
		if (!f->shard[k])
			continue;
		r->reorder_bytes += count_get(&f->shard[k]->room.bytes);
		streams_view_read_stats(f->shard[k]->view, &read);
		r->read.bytes += read.bytes;
		r->read.waiting += read.waiting;
		r->read.taken_back += read.taken_back;
		r->read.most = read.most > r->read.most ? read.most : r->read.most;
	}
	r->row = calloc(SHOWN_MAX, sizeof *r->row);
	if (!r->row)
		return false;
	for (uint32_t i = 0; i < r->streams; i++) {
		struct row row = {.number = i};
		streams_info(f->ss, i, &row.s);
		count_read(f, i, &row.c);
		r->frames += row.s.frames;
		r->bytes += row.s.bytes;
		r->published += row.s.published;
		r->stopped += row.s.stopped != 0;
		r->delivered += row.c.frames;
		r->memory_bytes += row.s.memory_bytes;
		r->index_bytes += row.s.index_bytes;
		row_add(r, &row);
	}
	if (read_lags(f, r))
		return true;
	free(r->row);
	return false;
}

/* The numbers of a row that are plain: in JSON as they are called here, in metrics with "ordinal_stream_" and, after counters, "_total". */
static const struct {
	const char *name, *help;
	uint16_t offset;
	bool counter, wide; /* wide: uint64_t, else uint32_t */
} numbers[] = {
#define NUMBER(name, member, counter, help)                                                                            \
	{                                                                                                              \
		name, help, offsetof(struct row, member), counter, sizeof(((struct row *)0)->member) == 8              \
	}
	NUMBER("first_offset", s.first_offset, false, "The oldest offset that is kept."),
	NUMBER("durable_offset", s.durable_offset, false, "The newest offset that subscribers see."),
	NUMBER("next_offset", s.next_offset, false, "The offset that the next frame gets."),
	NUMBER("frames", s.frames, false, "Frames that are kept."),
	NUMBER("bytes", s.bytes, false, "Bytes on disk, of all segments."),
	NUMBER("memory_bytes", s.memory_bytes, false, "Bytes of the newest frames in memory."),
	NUMBER("index_bytes", s.index_bytes, false, "Bytes of the index in memory."),
	NUMBER("published", s.published, true, "Frames published since the start."),
	NUMBER("published_bytes", s.published_bytes, true, "Bytes published since the start, as kept."),
	NUMBER("late", s.late, false, "Kept frames that came out of (seq_no, timestamp) order."),
	NUMBER("duplicates", s.duplicates, true, "Repeats by a publisher that got their first answer."),
	NUMBER("stale", s.stale, true, "Publisher's numbers that were too old to be known."),
	NUMBER("subscribers", subscribers, false, "Subscribers now."),
	NUMBER("live", live, false, "Subscribers now that have caught up."),
	NUMBER("delivered", c.frames, true, "Frames given to subscribers' connections."),
	NUMBER("delivered_bytes", c.bytes, true, "Bytes given to subscribers' connections."),
	NUMBER("gaps", s.gaps, true, "GAP marks."),
	NUMBER("drops", c.drops, true, "Times that a slow subscriber lost its oldest frames."),
	NUMBER("dropped", c.dropped, true, "Frames that slow subscribers lost."),
	NUMBER("disconnected", c.disconnected, true, "Slow subscribers that were ended."),
	NUMBER("disordered", c.disordered, true, "Frames that came after a subscriber's reorder window."),
	NUMBER("reorder_early", c.reorder_early, true, "Frames sent before their time, for lack of reorder memory."),
	NUMBER("reads_memory", s.reads_memory, true, "Pieces given out of memory."),
	NUMBER("reads_disk", s.reads_disk, true, "Pieces read from disk."),
	NUMBER("damaged", s.damaged, true, "Reads that found damage."),
	NUMBER("stopped", s.stopped, false,
	       "1 when the stream takes no frames any more: its files are damaged or gone."),
#undef NUMBER
};

static uint64_t number_of(const struct row *row, size_t k)
{
	const char *p = (const char *)row + numbers[k].offset;

	return numbers[k].wide ? *(const uint64_t *)(const void *)p : *(const uint32_t *)(const void *)p;
}

static void put_json_lag(struct json *j, const char *key, const uint64_t lag[4])
{
	json_open(j, key, '{');
	for (unsigned q = 0; q < 4; q++)
		json_u64(j, quantile_names[q], lag[q]);
	json_close(j, '}');
}

void feed_report_json(void *ctx, struct json *j)
{
	struct reading r;

	if (!reading_take(ctx, &r)) {
		j->to->failed = true;
		return;
	}
	json_u64(j, "count", r.streams);
	json_u64(j, "subscribers", r.subscribers);
	json_u64(j, "frames", r.frames);
	json_u64(j, "bytes", r.bytes);
	json_u64(j, "published", r.published);
	json_u64(j, "delivered", r.delivered);
	json_u64(j, "memory_bytes", r.memory_bytes);
	json_u64(j, "index_bytes", r.index_bytes);
	json_u64(j, "reorder_bytes", r.reorder_bytes);
	json_u64(j, "stopped", r.stopped);
	json_u64(j, "read_bytes", r.read.bytes);
	json_u64(j, "read_bytes_most", r.read.most);
	json_u64(j, "read_waiting", r.read.waiting);
	json_u64(j, "read_taken_back", r.read.taken_back);
	json_open(j, "by_name", '[');
	for (uint32_t i = 0; i < r.shown; i++) {
		const struct row *row = &r.row[i];
		json_open(j, NULL, '{');
		json_str(j, "name", row->s.name);
		json_u64(j, "owner", row->s.owner);
		json_str(j, "durability", durability_names[row->s.durability]);
		json_id(j, "incarnation", row->s.incarnation);
		for (size_t k = 0; k < ARRAY_SIZE(numbers); k++)
			json_u64(j, numbers[k].name, number_of(row, k));
		if (row->s.why)
			json_str(j, "why", row->s.why);
		put_json_lag(j, "lag_bytes", row->lag_bytes);
		put_json_lag(j, "lag_frames", row->lag_frames);
		json_close(j, '}');
	}
	json_close(j, ']');
	free(r.row);
}

static void put_labels(struct text *t, const struct row *row)
{
	text_printf(t, "{stream=");
	report_metric_label(t, (struct span){(const uint8_t *)row->s.name, strlen(row->s.name)});
}

static void put_metric_lag(struct text *t, const struct reading *r, const char *name, const char *help, size_t offset)
{
	report_metric_head(t, name, "gauge", help);
	for (uint32_t i = 0; i < r->shown; i++) {
		const uint64_t *lag = (const uint64_t *)(const void *)((const char *)&r->row[i] + offset);
		for (unsigned q = 0; q < 4; q++) {
			text_printf(t, "%s", name);
			put_labels(t, &r->row[i]);
			text_printf(t, ",percentile=\"%g\"} %" PRIu64 "\n", 100 * quantiles[q], lag[q]);
		}
	}
}

static void put_metrics(void *ctx, struct text *t)
{
	struct reading r;
	char name[96];

	if (!reading_take(ctx, &r)) {
		t->failed = true;
		return;
	}
	report_metric_head(t, "ordinal_streams", "gauge",
			   "Streams that exist; only the busiest have series of their own.");
	text_printf(t, "ordinal_streams %u\n", r.streams);
	report_metric_head(t, "ordinal_subscribers", "gauge", "Subscribers of all streams.");
	text_printf(t, "ordinal_subscribers %u\n", r.subscribers);
	report_metric_head(t, "ordinal_streams_stopped", "gauge",
			   "Streams that take no frames any more: their files are damaged or gone.");
	text_printf(t, "ordinal_streams_stopped %u\n", r.stopped);
	report_metric_head(t, "ordinal_reorder_bytes", "gauge",
			   "Memory of all reorder windows, with what is not sent yet.");
	text_printf(t, "ordinal_reorder_bytes %" PRIu64 "\n", r.reorder_bytes);
	report_metric_head(t, "ordinal_feed_read_bytes", "gauge",
			   "Memory of frames read from disk for subscribers, with what is reserved for reads under way "
			   "(FEED_READ_MAX).");
	text_printf(t, "ordinal_feed_read_bytes %" PRIu64 "\n", r.read.bytes);
	report_metric_head(t, "ordinal_feed_read_waiting", "gauge",
			   "Subscribers that wait for their turn to have frames read.");
	text_printf(t, "ordinal_feed_read_waiting %" PRIu64 "\n", r.read.waiting);
	report_metric_head(t, "ordinal_feed_read_taken_back_total", "counter",
			   "Pieces taken back from subscribers that took nothing, because others waited.");
	text_printf(t, "ordinal_feed_read_taken_back_total %" PRIu64 "\n", r.read.taken_back);
	for (size_t k = 0; k < ARRAY_SIZE(numbers); k++) {
		snprintf(name, sizeof name, "ordinal_stream_%s%s", numbers[k].name, numbers[k].counter ? "_total" : "");
		report_metric_head(t, name, numbers[k].counter ? "counter" : "gauge", numbers[k].help);
		for (uint32_t i = 0; i < r.shown; i++) {
			text_printf(t, "%s", name);
			put_labels(t, &r.row[i]);
			text_printf(t, "} %" PRIu64 "\n", number_of(&r.row[i], k));
		}
	}
	put_metric_lag(t, &r, "ordinal_stream_lag_bytes", "How far live subscribers are behind, by percentile.",
		       offsetof(struct row, lag_bytes));
	put_metric_lag(t, &r, "ordinal_stream_lag_frames", "How far live subscribers are behind, by percentile.",
		       offsetof(struct row, lag_frames));
	free(r.row);
}

static void put_row(struct text *t, const struct row *row)
{
	const struct stream_stats *s = &row->s;
	const struct feed_count *c = &row->c;

	text_printf(t, "  %-22s %6s %12s %12s %10s %10s %6u %11s %10s %10s\n", s->name[0] ? s->name : "\"\"",
		    durability_names[s->durability], report_count(s->first_offset).s, report_count(s->durable_offset).s,
		    report_count(s->frames).s, report_bytes(s->bytes).s, row->subscribers, report_count(c->frames).s,
		    report_bytes(row->lag_bytes[0]).s, report_bytes(row->lag_bytes[2]).s);
	if (s->stopped)
		text_printf(t, "    takes no frames any more: %s\n", s->why);
	if (s->gaps || c->drops || c->disconnected || s->damaged)
		text_printf(t, "    gaps %s, drops %s (%s frames), slow ones ended %s, damaged reads %s\n",
			    report_count(s->gaps).s, report_count(c->drops).s, report_count(c->dropped).s,
			    report_count(c->disconnected).s, report_count(s->damaged).s);
	if (s->late || s->duplicates || s->stale || c->disordered || c->reorder_early)
		text_printf(
			t,
			"    out of order %s, repeats %s, too old %s; after the reorder window %s, before its end %s\n",
			report_count(s->late).s, report_count(s->duplicates).s, report_count(s->stale).s,
			report_count(c->disordered).s, report_count(c->reorder_early).s);
	if (s->reads_disk)
		text_printf(t, "    pieces from memory %s, from disk %s\n", report_count(s->reads_memory).s,
			    report_count(s->reads_disk).s);
}

static void put_text(void *ctx, struct text *t)
{
	struct reading r;

	if (!reading_take(ctx, &r)) {
		t->failed = true;
		return;
	}
	text_printf(t, "  %u streams, %s frames kept (%s; in memory %s, index %s), %u subscribers\n", r.streams,
		    report_count(r.frames).s, report_bytes(r.bytes).s, report_bytes(r.memory_bytes).s,
		    report_bytes(r.index_bytes).s, r.subscribers);
	if (r.stopped)
		text_printf(t, "  %u streams take no frames any more, because their files are damaged or gone\n",
			    r.stopped);
	if (r.reorder_bytes)
		text_printf(t, "  reorder windows hold %s\n", report_bytes(r.reorder_bytes).s);
	if (r.read.most)
		text_printf(t,
			    "  frames read from disk hold %s, at most %s on a shard; %" PRIu64
			    " subscribers wait for their turn to read\n",
			    report_bytes(r.read.bytes).s, report_bytes(r.read.most).s, r.read.waiting);
	if (r.shown)
		text_printf(t, "  %-22s %6s %12s %12s %10s %10s %6s %11s %10s %10s\n", "", "OK is", "from", "to",
			    "frames", "bytes", "subs", "delivered", "lag p50", "p99");
	for (uint32_t i = 0; i < r.shown; i++)
		put_row(t, &r.row[i]);
	if (r.streams > r.shown)
		text_printf(t, "  and %u more that are less busy\n", r.streams - r.shown);
	free(r.row);
}

static uint64_t sum_published(void *ctx)
{
	const struct feed *f = ctx;

	return streams_frames_published(f->ss);
}

static uint64_t sum_delivered(void *ctx)
{
	const struct feed *f = ctx;
	uint64_t sum = 0;

	for (unsigned k = 0; k < f->opts.shards; k++)
		sum += f->shard[k] ? count_get(&f->shard[k]->delivered) : 0;
	return sum;
}

void feed_join_report(struct feed *f, struct report *r)
{
	report_add_section(r, &(struct report_section){.key = "streams",
						       .title = "Streams",
						       .text = put_text,
						       .json = feed_report_json,
						       .metrics = put_metrics,
						       .ctx = f});
	report_add_rate(r, "frames_published", sum_published, f);
	report_add_rate(r, "frames_delivered", sum_delivered, f);
}
