/* /stats.json: one object with everything that the report knows. Keys stay; new ones may come. Main thread. */
#include "rpc/report_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put_rates(const struct report *r, struct json *j)
{
	json_open(j, "rates_per_second", '{');
	for (unsigned i = 0; report_rate_name(r, i); i++) {
		json_open(j, report_rate_name(r, i), '{');
		json_f64(j, "1s", report_rate_of(r, i, 1));
		json_f64(j, "10s", report_rate_of(r, i, 10));
		json_f64(j, "60s", report_rate_of(r, i, 60));
		json_close(j, '}');
	}
	json_close(j, '}');
}

/* Values by 1 / `unit` of what the histogram counts. */
static void put_hist(struct json *j, const char *key, const struct hist *h, double unit)
{
	json_open(j, key, '{');
	json_u64(j, "count", hist_count_le(h, UINT64_MAX));
	json_f64(j, "min", h->min == UINT64_MAX ? 0 : (double)h->min / unit);
	json_f64(j, "mean", hist_mean(h) / unit);
	json_f64(j, "p50", (double)hist_quantile(h, 0.5) / unit);
	json_f64(j, "p90", (double)hist_quantile(h, 0.9) / unit);
	json_f64(j, "p99", (double)hist_quantile(h, 0.99) / unit);
	json_f64(j, "p999", (double)hist_quantile(h, 0.999) / unit);
	json_f64(j, "max", (double)h->max / unit);
	json_close(j, '}');
}

static void put_statuses(struct json *j, const char *key, const struct method_stats *m)
{
	json_open(j, key, '{');
	for (unsigned k = 0; k < GRPC_STATUS_COUNT; k++) {
		if (m->by_status[k])
			json_u64(j, grpc_status_name(k), m->by_status[k]);
	}
	json_close(j, '}');
}

static void put_calls(const struct report_data *d, struct json *j)
{
	const struct method_table *t = &d->report->d->methods;
	json_open(j, "methods", '{');
	for (unsigned i = 0; i < d->methods; i++) {
		const struct method_stats *m = &d->method[i];
		char name[256];
		snprintf(name, sizeof name, "%s/%s", t->method[i]->service, t->method[i]->name);
		json_open(j, name, '{');
		put_statuses(j, "by_status", m);
		if (t->method[i]->kind != METHOD_UNARY) {
			json_u64(j, "messages_in", m->messages_in);
			json_u64(j, "messages_out", m->messages_out);
		}
		put_hist(j, "latency_us", &m->latency_ns, 1e3);
		json_close(j, '}');
	}
	json_close(j, '}');
	put_statuses(j, "refused_by_status", &d->method[d->methods]);
}

static void put_shard_fields(struct json *j, const struct report_shard *s)
{
	for (unsigned i = 0; i < REPORT_FIELDS; i++)
		json_u64(j, report_fields[i].name, report_field_get(s, &report_fields[i]));
	json_f64(j, "cpu_seconds", (double)s->cpu_ns / 1e9);
	json_f64(j, "busy", s->busy);
}

static void put_shards(const struct report_data *d, struct json *j)
{
	json_open(j, "total", '{');
	put_shard_fields(j, &d->sum);
	json_close(j, '}');
	json_open(j, "connections_ended", '{');
	for (unsigned i = 0; i < CONN_R_COUNT; i++)
		json_u64(j, conn_reason_name((enum conn_reason)i), d->sum.core.ended[i]);
	json_close(j, '}');
	json_open(j, "shards", '[');
	for (unsigned i = 0; i < d->shards; i++) {
		json_open(j, NULL, '{');
		json_u64(j, "shard", i);
		json_f64(j, "cpu", d->shard[i].cpu);
		json_str(j, "state", report_phase_name(d->shard[i].phase));
		put_shard_fields(j, &d->shard[i]);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_sequences(const struct report_data *d, struct json *j)
{
	json_u64(j, "sequence_count", d->sequences);
	json_open(j, "sequences", '[');
	for (uint32_t i = 0; i < d->sequences_shown; i++) {
		const struct ids_sequence_info *s = &d->sequence[i];
		json_open(j, NULL, '{');
		json_str(j, "name", s->name);
		json_id(j, "incarnation", s->incarnation);
		json_u64(j, "next", s->next);
		json_u64(j, "durable_end", s->durable_end);
		json_u64(j, "window", s->window);
		json_u64(j, "windows", s->windows);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_journal(const struct report_data *d, struct json *j)
{
	const struct journal_stats *s = &d->journal;
	json_open(j, "journal", '{');
	json_str(j, "method", s->method);
	json_bool(j, "failed", d->journal_failed);
	json_u64(j, "records", s->records);
	json_u64(j, "bytes", s->bytes);
	json_u64(j, "groups", s->groups);
	json_u64(j, "syncs", s->syncs);
	json_u64(j, "segments", s->segments);
	json_u64(j, "segments_prepared", s->prepared);
	json_u64(j, "segments_recycled", s->recycled);
	json_u64(j, "files_closed", s->files_closed);
	put_hist(j, "sync_us", &s->sync_ns, 1e3);
	put_hist(j, "group_records", &s->group_records, 1);
	json_close(j, '}');
}

static void put_descriptors(const struct report_data *d, struct json *j)
{
	const struct fd_plan *f = &d->report->d->fds;
	json_open(j, "descriptors", '{');
	json_u64(j, "open", d->descriptors);
	json_u64(j, "limit", f->limit);
	json_u64(j, "reserved", f->reserved);
	json_u64(j, "journal_files_max", f->journal_files);
	json_u64(j, "stats_clients_max", f->stats_clients);
	json_u64(j, "connections_max", f->connections);
	json_close(j, '}');
}

static void put_thread(struct json *j, const char *name, int cpu, int node)
{
	json_open(j, NULL, '{');
	json_str(j, "name", name);
	json_f64(j, "cpu", cpu);
	json_f64(j, "memory_node", node);
	json_close(j, '}');
}

/* Where threads are: -1 is "anywhere among the CPUs in use", "any node", "unknown". */
static void put_topology(const struct report_data *d, struct json *j)
{
	const struct topo *t = &d->report->d->topo;
	json_open(j, "topology", '{');
	json_u64(j, "cpus_online", t->online);
	json_u64(j, "cpus_allowed", t->allowed);
	json_f64(j, "quota_cpus", t->quota_milli / 1e3);
	json_open(j, "cpus", '[');
	for (unsigned i = 0; i < t->cpus; i++) {
		json_open(j, NULL, '{');
		json_u64(j, "cpu", (uint64_t)t->cpu[i].cpu);
		json_u64(j, "core", (uint64_t)t->cpu[i].core);
		json_f64(j, "node", t->cpu[i].node);
		json_close(j, '}');
	}
	json_close(j, ']');
	json_open(j, "threads", '[');
	for (unsigned i = 0; i < d->shards; i++) {
		char name[32];
		snprintf(name, sizeof name, "shard/%u", i);
		put_thread(j, name, d->shard[i].cpu, d->shard[i].node);
	}
	put_thread(j, "producer", t->producer_cpu, -1);
	put_thread(j, "journal", t->journal_cpu, -1);
	put_thread(j, "log", t->log_cpu, -1);
	json_close(j, ']');
	json_close(j, '}');
}

void report_json(const struct report_data *d, struct text *to)
{
	const struct report *r = d->report;
	struct json j = {.to = to};
	char print[16];
	snprintf(print, sizeof print, "%08x", r->fingerprint);
	json_open(&j, NULL, '{');
	json_str(&j, "version", ORDINAL_VERSION);
	json_str(&j, "listen", r->d->bound);
	json_str(&j, "id_order", report_is_sharded(r) ? "sharded" : "strict");
	json_str(&j, "config_fingerprint", print);
	json_u64(&j, "pid", (uint64_t)getpid());
	json_f64(&j, "start_time_seconds", report_seconds((uint64_t)r->start_wall_ns));
	json_f64(&j, "uptime_seconds", report_seconds(d->uptime_ns));
	json_u64(&j, "resident_bytes", d->resident);
	json_f64(&j, "cpu_seconds", (double)d->cpu_ns / 1e9);
	put_rates(r, &j);
	put_calls(d, &j);
	put_sequences(d, &j);
	put_shards(d, &j);
	put_topology(d, &j);
	if (d->has_journal)
		put_journal(d, &j);
	put_descriptors(d, &j);
	json_open(&j, "log", '{');
	json_u64(&j, "lines_written", d->log_written);
	json_u64(&j, "lines_dropped", d->log_dropped);
	json_close(&j, '}');
	for (unsigned i = 0; i < r->sections; i++) {
		if (!r->section[i].json)
			continue;
		json_open(&j, r->section[i].key, '{');
		r->section[i].json(r->section[i].ctx, &j);
		json_close(&j, '}');
	}
	json_close(&j, '}');
	text_add(to, "\n", 1);
}
