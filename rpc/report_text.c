/* /stats: the report for people, in sections of aligned text. Main thread. For programs there is JSON; this may change its form at any time. */
#include "core/base/clock.h"
#include "rpc/report_impl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ull;

static void heading(struct text *t, const char *title)
{
	text_printf(t, "\n%s\n", title);
}

static double share(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

static struct report_cell duration(uint64_t ns)
{
	struct report_cell c;
	uint64_t s = ns / NS_PER_S;
	if (s >= 86400)
		snprintf(c.s, sizeof c.s, "%llu d %llu h", (ull)(s / 86400), (ull)(s / 3600 % 24));
	else if (s >= 3600)
		snprintf(c.s, sizeof c.s, "%llu h %llu min", (ull)(s / 3600), (ull)(s / 60 % 60));
	else if (s >= 60)
		snprintf(c.s, sizeof c.s, "%llu min %llu s", (ull)(s / 60), (ull)(s % 60));
	else
		snprintf(c.s, sizeof c.s, "%.1f s", (double)ns / 1e9);
	return c;
}

/* A quantile of times, or a dash. */
static struct report_cell quantile(const struct hist *h, double q)
{
	return h->count ? report_ns(hist_quantile(h, q)) : (struct report_cell){"-"};
}

static void put_process(const struct report_data *d, struct text *t)
{
	const struct report *r = d->report;
	time_t start = (time_t)(r->start_wall_ns / (int64_t)NS_PER_S);
	struct tm tm;
	char when[32] = "";
	if (gmtime_r(&start, &tm))
		strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm);
	text_printf(t, "Ordinal %s on %s, up %s, since %s\n", ORDINAL_VERSION, r->d->bound, duration(d->uptime_ns).s,
		    when);
	text_printf(t, "process %d, memory %s, CPU time %s, ID order %s, configuration %08x\n", (int)getpid(),
		    report_bytes(d->resident).s, report_ns(d->cpu_ns).s, report_is_sharded(r) ? "sharded" : "strict",
		    r->fingerprint);
}

static void put_rates(const struct report *r, struct text *t)
{
	text_printf(t, "\n%-24s %14s %14s %14s\n", "A second, over the last", "1 s", "10 s", "60 s");
	for (unsigned i = 0; report_rate_name(r, i); i++)
		text_printf(t, "  %-22s %14s %14s %14s\n", report_rate_name(r, i),
			    report_rate(report_rate_of(r, i, 1)).s, report_rate(report_rate_of(r, i, 10)).s,
			    report_rate(report_rate_of(r, i, 60)).s);
}

/* "  CANCELLED 3, NOT_FOUND 1", without OK. */
static void put_statuses(struct text *t, const struct method_stats *m, const char *intro)
{
	bool any = false;
	for (unsigned k = 1; k < GRPC_STATUS_COUNT; k++) {
		if (!m->by_status[k])
			continue;
		text_printf(t, "%s%s %llu", any ? ", " : intro, grpc_status_name(k), (ull)m->by_status[k]);
		any = true;
	}
	if (any)
		text_add(t, "\n", 1);
}

static void put_calls(const struct report_data *d, struct text *t)
{
	const struct method_table *table = &d->report->d->methods;
	text_printf(t, "\n%-24s %10s %8s %9s %9s %9s %9s %9s\n", "Calls", "OK", "not OK", "p50", "p90", "p99", "p99.9",
		    "max");
	for (unsigned i = 0; i < d->methods; i++) {
		const struct method_stats *m = &d->method[i];
		const struct hist *h = &m->latency_ns;
		const struct method *method = table->method[i];
		uint64_t bad = 0;
		char name[64];
		for (unsigned k = 1; k < GRPC_STATUS_COUNT; k++)
			bad += m->by_status[k];
		snprintf(name, sizeof name, "%s/%s", method->service, method->name);
		text_printf(t, "  %-22s %10s %8s %9s %9s %9s %9s %9s\n", name, report_count(m->by_status[0]).s,
			    report_count(bad).s, quantile(h, 0.5).s, quantile(h, 0.9).s, quantile(h, 0.99).s,
			    quantile(h, 0.999).s, quantile(h, 1).s);
		put_statuses(t, m, "    ");
		if (m->messages_in || m->messages_out)
			text_printf(t, "    messages in %s, out %s\n", report_count(m->messages_in).s,
				    report_count(m->messages_out).s);
	}
	put_statuses(t, &d->method[d->methods], "  refused before they reached a method: ");
	text_printf(t, "  live now: %u\n", d->sum.calls);
}

static void put_ids(const struct report_data *d, struct text *t)
{
	const struct ids_view_stats *s = &d->sum.ids;
	heading(t, "IDs");
	text_printf(
		t, "  handed out %s in %s claims (%.1f a claim), from %s ranges; %s requests had to wait for a range\n",
		report_count(s->ids).s, report_count(s->claims).s, share(s->ids, s->claims), report_count(s->ranges).s,
		report_count(s->parked).s);
	if (d->sequences == 0)
		return;
	text_printf(t, "\n%-24s %20s %20s %12s %10s\n", "Sequences", "next", "durable to", "window", "windows");
	for (uint32_t i = 0; i < d->sequences_shown; i++) {
		const struct ids_sequence_info *q = &d->sequence[i];
		text_printf(t, "  %-22s %20llu %20llu %12u %10s\n", q->name[0] ? q->name : "\"\" (the default)",
			    (ull)q->next, (ull)(q->durable_end - 1), q->window, report_count(q->windows).s);
	}
	if (d->sequences > d->sequences_shown)
		text_printf(t, "  and %u more that are less busy\n", d->sequences - d->sequences_shown);
}

static void put_connections(const struct report_data *d, struct text *t)
{
	const struct report_shard *s = &d->sum;
	const struct fd_plan *f = &d->report->d->fds;
	bool any = false;
	heading(t, "Connections");
	text_printf(t,
		    "  now %u (native %llu, gRPC %llu), in all %s (native %s, gRPC %s), handed to another shard %s\n",
		    s->conns, (ull)s->sessions_native, (ull)s->sessions_h2, report_count(s->core.accepted).s,
		    report_count(s->sessions_native_total).s, report_count(s->sessions_h2_total).s,
		    report_count(s->core.handed_off).s);
	for (unsigned i = 0; i < CONN_R_COUNT; i++) {
		if (!s->core.ended[i])
			continue;
		text_printf(t, "%s%s %llu", any ? ", " : "  ended: ", conn_reason_name((enum conn_reason)i),
			    (ull)s->core.ended[i]);
		any = true;
	}
	if (any)
		text_add(t, "\n", 1);
	text_printf(t, "  protocol errors %llu, refused streams %llu, floods %llu, failed accepts %llu\n",
		    (ull)s->protocol_errors, (ull)s->refused_streams, (ull)s->floods, (ull)s->core.accept_errors);
	text_printf(t, "  received %s, sent %s; held now: output %s, messages in parts %s, frames to be published %s\n",
		    report_bytes(s->core.bytes_in).s, report_bytes(s->core.bytes_out).s, report_bytes(s->output).s,
		    report_bytes(s->assembly).s, report_bytes(s->feed.held).s);
	text_printf(t, "  in flight: subscriptions %llu, publishes %llu, pieces of streams %llu, timers %u\n",
		    (ull)s->feed.subscriptions, (ull)s->feed.publishes, (ull)s->feed.pieces, s->timers);
	text_printf(
		t,
		"  at most %u; open files %llu of %llu, of which %u are kept for other things (the journal's files: %u)\n",
		f->connections, (ull)d->descriptors, (ull)f->limit, f->reserved, f->journal_files);
}

static void put_shards(const struct report_data *d, struct text *t)
{
	text_printf(t, "\n%-8s %4s %9s %6s %9s %6s %7s %10s %10s %10s %8s %12s\n", "Shards", "CPU", "state", "busy",
		    "CPU time", "conns", "calls", "IDs", "turns", "sleeps", "woken", "queue, refills");
	for (unsigned i = 0; i < d->shards; i++) {
		const struct report_shard *s = &d->shard[i];
		char cpu[16] = "any";
		if (s->cpu >= 0)
			snprintf(cpu, sizeof cpu, "%d", s->cpu);
		text_printf(t, "  %-6u %4s %9s %5.1f%% %9s %6u %7u %10s %10s %10s %8s %4u, %s\n", i, cpu,
			    report_phase_name(s->phase), 100 * s->busy, report_ns(s->cpu_ns).s, s->conns, s->calls,
			    report_count(s->ids.ids).s, report_count(s->core.turns).s, report_count(s->core.sleeps).s,
			    report_count(s->rings).s, s->queue_depth, report_count(s->ids.ranges).s);
	}
	text_printf(t, "\n%-8s %10s %10s %9s %10s %9s %9s %9s %15s\n", "Rings", "enters", "submitted", "an enter",
		    "events", "overflow", "SQ full", "starved", "buffers free");
	for (unsigned i = 0; i < d->shards; i++) {
		const struct ring_stats *s = &d->shard[i].ring;
		text_printf(t, "  %-6u %10s %10s %9.2f %10s %9llu %9llu %9llu %6u of %5u\n", i,
			    report_count(s->enters).s, report_count(s->submitted).s, share(s->submitted, s->enters),
			    report_count(s->events).s, (ull)s->cq_overflow, (ull)s->sq_full, (ull)s->buffer_starved,
			    s->bufs_free, s->bufs);
	}
}

static void put_journal(const struct report_data *d, struct text *t)
{
	const struct journal_stats *s = &d->journal;
	const struct hist *h = &s->sync_ns, *g = &s->group_records;
	heading(t, d->journal_failed ? "Journal: IT HAS FAILED; nothing more is acknowledged" : "Journal");
	text_printf(t, "  %s: %s syncs, %s groups, %s records, %s; %llu segments; %s files closed for others\n",
		    s->method, report_count(s->syncs).s, report_count(s->groups).s, report_count(s->records).s,
		    report_bytes(s->bytes).s, (ull)s->segments, report_count(s->files_closed).s);
	text_printf(t, "  a sync took p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n", quantile(h, 0.5).s,
		    quantile(h, 0.9).s, quantile(h, 0.99).s, quantile(h, 0.999).s, quantile(h, 1).s);
	text_printf(t, "  records in a group: mean %.1f, p50 %llu, p99 %llu, max %llu\n", hist_mean(g),
		    (ull)hist_quantile(g, 0.5), (ull)hist_quantile(g, 0.99), (ull)g->max);
}

void report_text(const struct report_data *d, struct text *to)
{
	const struct report *r = d->report;
	put_process(d, to);
	put_rates(r, to);
	put_calls(d, to);
	put_ids(d, to);
	put_connections(d, to);
	put_shards(d, to);
	if (d->has_journal)
		put_journal(d, to);
	for (unsigned i = 0; i < r->sections; i++) {
		if (!r->section[i].text)
			continue;
		heading(to, r->section[i].title);
		r->section[i].text(r->section[i].ctx, to);
	}
	heading(to, "Log");
	text_printf(to, "  lines written %s, dropped %s\n", report_count(d->log_written).s,
		    report_count(d->log_dropped).s);
}
