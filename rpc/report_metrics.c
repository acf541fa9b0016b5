/* /metrics: the Prometheus text exposition format, version 0.0.4. Main thread.
 *
 * Units are base units (seconds, bytes). Counters end in _total. What a shard counts has the label shard, so sums are the reader's. Histograms have the
 * buckets of powers of two nanoseconds (less one), which are exact: they are edges of core/base/hist.h's buckets. The number of
 * sequences with series of their own is bounded; names of sequences are the only label values that clients choose, and are escaped.
 * Source: prometheus.io/docs/instrumenting/exposition_formats and /docs/practices/naming. */
#include "rpc/report_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	LATENCY_FIRST_BIT = 10, /* 1.024 us */
	LATENCY_LAST_BIT = 34,  /* 17.2 s */
	GROUP_LAST_BIT = 14,
};

void report_metric_head(struct text *t, const char *name, const char *type, const char *help)
{
	text_printf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void report_metric_label(struct text *t, struct span value)
{
	text_add(t, "\"", 1);
	for (size_t i = 0; i < value.n; i++) {
		uint8_t c = value.p[i];
		if (c == '\n')
			text_add(t, "\\n", 2);
		else if (c == '"' || c == '\\')
			text_printf(t, "\\%c", c);
		else
			text_add(t, &c, 1);
	}
	text_add(t, "\"", 1);
}

static void one(struct text *t, const char *name, const char *type, const char *help, double v)
{
	report_metric_head(t, name, type, help);
	text_printf(t, "%s %.15g\n", name, v);
}

static void one_u64(struct text *t, const char *name, const char *type, const char *help, uint64_t v)
{
	report_metric_head(t, name, type, help);
	text_printf(t, "%s %" PRIu64 "\n", name, v);
}

/* One series of a histogram. `labels` is "" or `key="value",`. */
static void put_hist(struct text *t, const char *name, const char *labels, const struct hist *h, unsigned from_bit,
		     unsigned to_bit, double unit)
{
	uint64_t all = hist_count_le(h, UINT64_MAX);
	size_t n = strlen(labels);
	for (unsigned bit = from_bit; bit <= to_bit; bit++) {
		uint64_t edge = (UINT64_C(1) << bit) - 1;
		text_printf(t, "%s_bucket{%sle=\"%.12g\"} %" PRIu64 "\n", name, labels, (double)edge / unit,
			    hist_count_le(h, edge));
	}
	text_printf(t, "%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, all);
	const char *open = n ? "{" : "", *close = n ? "}" : "";
	text_printf(t, "%s_sum%s%.*s%s %.15g\n", name, open, n ? (int)n - 1 : 0, labels, close, (double)h->sum / unit);
	text_printf(t, "%s_count%s%.*s%s %" PRIu64 "\n", name, open, n ? (int)n - 1 : 0, labels, close, all);
}

static void put_process(const struct report_data *d, struct text *t)
{
	const struct report *r = d->report;
	report_metric_head(t, "ordinal_info", "gauge", "Always 1; what is running is in the labels.");
	text_printf(t, "ordinal_info{version=\"" ORDINAL_VERSION "\",id_order=\"%s\",config=\"%08x\"} 1\n",
		    report_is_sharded(r) ? "sharded" : "strict", r->fingerprint);
	one(t, "ordinal_start_time_seconds", "gauge", "When the daemon started, in Unix time.",
	    report_seconds((uint64_t)r->start_wall_ns));
	one(t, "ordinal_uptime_seconds", "gauge", "Seconds since the start.", report_seconds(d->uptime_ns));
	one_u64(t, "ordinal_resident_memory_bytes", "gauge", "Resident memory of the process.", d->resident);
	one(t, "ordinal_cpu_seconds_total", "counter", "CPU time of the whole process.", (double)d->cpu_ns / 1e9);
	one_u64(t, "ordinal_log_lines_written_total", "counter", "Lines that reached the log.", d->log_written);
	one_u64(t, "ordinal_log_lines_dropped_total", "counter", "Lines that the log had no room for.", d->log_dropped);
	report_metric_head(t, "ordinal_rate", "gauge", "Growth a second over a sliding window, as the daemon saw it.");
	for (unsigned i = 0; report_rate_name(r, i); i++) {
		static const unsigned windows[] = {1, 10, 60};
		for (unsigned k = 0; k < 3; k++)
			text_printf(t, "ordinal_rate{of=\"%s\",window=\"%us\"} %.12g\n", report_rate_name(r, i),
				    windows[k], report_rate_of(r, i, windows[k]));
	}
}

static void put_calls(const struct report_data *d, struct text *t)
{
	const struct method_table *table = &d->report->d->methods;
	report_metric_head(t, "ordinal_calls_total", "counter", "Calls that have ended, by method and gRPC status.");
	for (unsigned i = 0; i < d->methods; i++) {
		for (unsigned k = 0; k < GRPC_STATUS_COUNT; k++) {
			if (k == GRPC_OK || d->method[i].by_status[k])
				text_printf(t, "ordinal_calls_total{method=\"%s/%s\",status=\"%s\"} %" PRIu64 "\n",
					    table->method[i]->service, table->method[i]->name, grpc_status_name(k),
					    d->method[i].by_status[k]);
		}
	}
	report_metric_head(t, "ordinal_calls_refused_total", "counter", "Calls refused before they reached a method.");
	for (unsigned k = 1; k < GRPC_STATUS_COUNT; k++) {
		uint64_t n = d->method[d->methods].by_status[k];
		if (n || k == GRPC_UNIMPLEMENTED)
			text_printf(t, "ordinal_calls_refused_total{status=\"%s\"} %" PRIu64 "\n", grpc_status_name(k),
				    n);
	}
	report_metric_head(t, "ordinal_call_messages_total", "counter", "Messages of streaming methods.");
	for (unsigned i = 0; i < d->methods; i++) {
		const struct method *m = table->method[i];
		if (m->kind == METHOD_UNARY)
			continue;
		text_printf(t, "ordinal_call_messages_total{method=\"%s/%s\",direction=\"in\"} %" PRIu64 "\n",
			    m->service, m->name, d->method[i].messages_in);
		text_printf(t, "ordinal_call_messages_total{method=\"%s/%s\",direction=\"out\"} %" PRIu64 "\n",
			    m->service, m->name, d->method[i].messages_out);
	}
	report_metric_head(t, "ordinal_call_latency_seconds", "histogram",
			   "From the receipt of a request to its answer.");
	for (unsigned i = 0; i < d->methods; i++) {
		char labels[256];
		snprintf(labels, sizeof labels, "method=\"%s/%s\",", table->method[i]->service, table->method[i]->name);
		put_hist(t, "ordinal_call_latency_seconds", labels, &d->method[i].latency_ns, LATENCY_FIRST_BIT,
			 LATENCY_LAST_BIT, 1e9);
	}
	report_metric_head(t, "ordinal_call_latency_max_seconds", "gauge", "The longest since the start.");
	for (unsigned i = 0; i < d->methods; i++)
		text_printf(t, "ordinal_call_latency_max_seconds{method=\"%s/%s\"} %.12g\n", table->method[i]->service,
			    table->method[i]->name, (double)d->method[i].latency_ns.max / 1e9);
}

static void put_sequence_family(const struct report_data *d, struct text *t, const char *name, const char *type,
				const char *help, size_t offset, size_t size)
{
	report_metric_head(t, name, type, help);
	for (uint32_t i = 0; i < d->sequences_shown; i++) {
		const struct ids_sequence_info *s = &d->sequence[i];
		const char *p = (const char *)s + offset;
		uint64_t v = size == 4 ? *(const uint32_t *)(const void *)p : *(const uint64_t *)(const void *)p;
		text_printf(t, "%s{sequence=", name);
		report_metric_label(t, (struct span){(const uint8_t *)s->name, strlen(s->name)});
		text_printf(t, "} %" PRIu64 "\n", v);
	}
}

static void put_sequences(const struct report_data *d, struct text *t)
{
	one_u64(t, "ordinal_sequences", "gauge", "Sequences that exist; only the busiest have series of their own.",
		d->sequences);
#define FAMILY(name, type, help, member)                                                                               \
	put_sequence_family(d, t, name, type, help, offsetof(struct ids_sequence_info, member),                        \
			    sizeof(((struct ids_sequence_info *)0)->member))
	FAMILY("ordinal_sequence_next", "gauge",
	       "The next ID to be handed out (strict order) or fed to a shard (sharded).", next);
	FAMILY("ordinal_sequence_durable_end", "gauge", "The end of the durably reserved window, exclusive.",
	       durable_end);
	FAMILY("ordinal_sequence_window", "gauge", "IDs reserved at a time, at present.", window);
	FAMILY("ordinal_sequence_windows_total", "counter", "Windows reserved since the start.", windows);
#undef FAMILY
}

static void put_shards(const struct report_data *d, struct text *t)
{
	char name[128];
	for (unsigned k = 0; k < REPORT_FIELDS; k++) {
		const struct report_field *f = &report_fields[k];
		snprintf(name, sizeof name, "ordinal_%s%s", f->name, f->counter ? "_total" : "");
		report_metric_head(t, name, f->counter ? "counter" : "gauge", f->help);
		for (unsigned i = 0; i < d->shards; i++)
			text_printf(t, "%s{shard=\"%u\"} %" PRIu64 "\n", name, i, report_field_get(&d->shard[i], f));
	}
	report_metric_head(t, "ordinal_shard_cpu_seconds_total", "counter", "CPU time of the shard's thread.");
	for (unsigned i = 0; i < d->shards; i++)
		text_printf(t, "ordinal_shard_cpu_seconds_total{shard=\"%u\"} %.12g\n", i,
			    (double)d->shard[i].cpu_ns / 1e9);
	report_metric_head(t, "ordinal_shard_busy_ratio", "gauge",
			   "CPU time of the shard's thread by time, over the last second.");
	for (unsigned i = 0; i < d->shards; i++)
		text_printf(t, "ordinal_shard_busy_ratio{shard=\"%u\"} %.6g\n", i, d->shard[i].busy);
	report_metric_head(t, "ordinal_shard_state", "gauge", "1 for the state that the shard is in.");
	for (unsigned i = 0; i < d->shards; i++)
		text_printf(t, "ordinal_shard_state{shard=\"%u\",state=\"%s\"} 1\n", i,
			    report_phase_name(d->shard[i].phase));
	report_metric_head(t, "ordinal_connections_ended_total", "counter", "Connections that have ended, by why.");
	for (unsigned i = 0; i < CONN_R_COUNT; i++)
		text_printf(t, "ordinal_connections_ended_total{reason=\"%s\"} %" PRIu64 "\n",
			    conn_reason_name((enum conn_reason)i), d->sum.core.ended[i]);
}

static void put_descriptors(const struct report_data *d, struct text *t)
{
	const struct fd_plan *f = &d->report->d->fds;
	one_u64(t, "ordinal_descriptors_open", "gauge", "Descriptors that the process has open.", d->descriptors);
	one_u64(t, "ordinal_connections_max", "gauge",
		"Connections that there can be: CONNECTIONS_MAX, or what the limit of open files leaves for them.",
		f->connections);
	one_u64(t, "ordinal_descriptors_limit", "gauge", "The limit of open files.", f->limit);
	one_u64(t, "ordinal_descriptors_reserved", "gauge", "Of them, those kept for other things than connections.",
		f->reserved);
}

static void put_journal(const struct report_data *d, struct text *t)
{
	const struct journal_stats *s = &d->journal;
	report_metric_head(t, "ordinal_journal_info", "gauge",
			   "Always 1; how groups are made durable is in the label.");
	text_printf(t, "ordinal_journal_info{method=\"%s\"} 1\n", s->method);
	one_u64(t, "ordinal_journal_failed", "gauge", "1 once a write or a sync has failed.", d->journal_failed);
	one_u64(t, "ordinal_journal_records_total", "counter", "Records written.", s->records);
	one_u64(t, "ordinal_journal_bytes_total", "counter", "Bytes of the records' payloads.", s->bytes);
	one_u64(t, "ordinal_journal_groups_total", "counter", "Groups of records made durable together.", s->groups);
	one_u64(t, "ordinal_journal_syncs_total", "counter", "Syncs of a file.", s->syncs);
	one_u64(t, "ordinal_journal_segments", "gauge", "Segment files of all logs.", s->segments);
	one_u64(t, "ordinal_journal_segments_prepared_total", "counter", "Segment files made ready.", s->prepared);
	one_u64(t, "ordinal_journal_segments_recycled_total", "counter", "Segment files made ready out of used ones.",
		s->recycled);
	one_u64(t, "ordinal_journal_files_closed_total", "counter",
		"Files of logs that were closed because others had to be opened.", s->files_closed);
	report_metric_head(t, "ordinal_journal_sync_seconds", "histogram", "How long a sync took.");
	put_hist(t, "ordinal_journal_sync_seconds", "", &s->sync_ns, LATENCY_FIRST_BIT, LATENCY_LAST_BIT, 1e9);
	report_metric_head(t, "ordinal_journal_group_records", "histogram", "Records in a group.");
	put_hist(t, "ordinal_journal_group_records", "", &s->group_records, 1, GROUP_LAST_BIT, 1);
}

void report_metrics(const struct report_data *d, struct text *to)
{
	const struct report *r = d->report;
	put_process(d, to);
	put_calls(d, to);
	put_sequences(d, to);
	put_shards(d, to);
	put_descriptors(d, to);
	if (d->has_journal)
		put_journal(d, to);
	for (unsigned i = 0; i < r->sections; i++) {
		if (r->section[i].metrics)
			r->section[i].metrics(r->section[i].ctx, to);
	}
}
