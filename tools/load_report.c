/* The end of `ordinal load`: totals of all workers as text or as one JSON object. Pure but for standard output. Main thread. */
#include "tools/load.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *status_name(unsigned i)
{
	return i == LOAD_STATUS_OTHER ? "OTHER" : grpc_status_name(i);
}

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

const char *load_protocol(const struct load_opts *o)
{
	if (o->protocol == CHANNEL_GRPC)
		return o->tls ? "grpc over TLS" : "grpc";
	return o->tls ? "native over TLS" : "native";
}

double load_per_second(uint64_t n, uint64_t elapsed_ns)
{
	return elapsed_ns ? (double)n * 1e9 / (double)elapsed_ns : 0;
}

uint64_t load_errors(const struct load_counts *c)
{
	return c->calls - c->by_status[GRPC_OK];
}

/* In strict order nothing may be out of order; in sharded order only what one connection saw counts. */
static bool check_holds(const struct load_totals *t)
{
	return t->check.repeated == 0 && t->counts.elsewhere == 0 &&
	       (t->sharded ? t->counts.disordered_here : t->counts.disordered) == 0;
}

static const char *method_name(const struct load_opts *o)
{
	if (o->kind == LOAD_PUBLISH)
		return o->streaming ? "publish-many" : "publish";
	return o->streaming ? "take" : "next";
}

const struct load_quantile load_quantiles[LOAD_QUANTILES] = {
	{"p50", "p50", 0.5},  {"p75", "p75", 0.75}, {"p90", "p90", 0.9},
	{"p95", "p95", 0.95}, {"p99", "p99", 0.99}, {"p999", "p99.9", 0.999},
};

void load_json_latency(const struct hist *h)
{
	printf("\"latency_us\":{\"min\":%.3f,\"mean\":%.3f", h->count ? us(h->min) : 0, hist_mean(h) / 1e3);
	for (size_t i = 0; i < LOAD_QUANTILES; i++)
		printf(",\"%s\":%.3f", load_quantiles[i].json, us(hist_quantile(h, load_quantiles[i].q)));
	printf(",\"max\":%.3f}", us(h->max));
}

void load_text_latency(const char *head, const struct hist *h)
{
	printf("%-10s min %.1f  mean %.1f", head, h->count ? us(h->min) : 0, hist_mean(h) / 1e3);
	for (size_t i = 0; i < LOAD_QUANTILES; i++)
		printf("  %s %.1f", load_quantiles[i].text, us(hist_quantile(h, load_quantiles[i].q)));
	printf("  max %.1f us\n", us(h->max));
}

void load_json_statuses(const struct load_counts *c)
{
	bool first = true;
	printf("\"by_status\":{");
	for (unsigned i = 0; i <= LOAD_STATUS_OTHER; i++) {
		if (!c->by_status[i])
			continue;
		printf("%s\"%s\":%" PRIu64, first ? "" : ",", status_name(i), c->by_status[i]);
		first = false;
	}
	printf("}");
}

static void print_json(const struct load_opts *o, const struct load_totals *t)
{
	const struct load_counts *c = &t->counts;
	bool frames = o->kind == LOAD_PUBLISH;
	printf("{\"calls_per_second\":%.1f,\"items_per_second\":%.1f,\"errors\":%" PRIu64 ",",
	       load_per_second(c->calls, t->elapsed_ns), load_per_second(c->items, t->elapsed_ns), load_errors(c));
	load_json_latency(&c->latency);
	putchar(',');
	load_json_statuses(c);
	printf(",\"check\":{\"received\":%" PRIu64 ",\"repeated\":%" PRIu64 ",\"disordered\":%" PRIu64
	       ",\"missing\":%" PRIu64 ",\"disordered_on_connection\":%" PRIu64 ",\"unchecked\":%" PRIu64
	       ",\"other_incarnation\":%" PRIu64 ",\"order\":\"%s\",\"ok\":%s}",
	       t->check.received, t->check.repeated, c->disordered, t->check.missing, c->disordered_here,
	       t->check.unchecked, c->elsewhere, t->sharded ? "sharded" : "strict", check_holds(t) ? "true" : "false");
	printf(",\"calls\":%" PRIu64 ",\"items\":%" PRIu64 ",\"unprocessed\":%" PRIu64 ",\"unsent\":%" PRIu64
	       ",\"elapsed_seconds\":%.6f,\"client_cpu_seconds\":%.6f",
	       c->calls, c->items, c->unprocessed, c->unsent, (double)t->elapsed_ns / 1e9, (double)t->cpu_ns / 1e9);
	printf(",\"connections\":%" PRIu32 ",\"connections_lost\":%" PRIu64 ",\"depth\":%" PRIu32
	       ",\"threads\":%" PRIu32 ",\"protocol\":\"%s\",\"tls\":%s,\"method\":\"%s\",\"count\":%" PRIu32
	       ",\"rate\":%.1f,",
	       o->connections, c->lost, t->depth, o->threads, o->protocol == CHANNEL_GRPC ? "grpc" : "native",
	       o->tls ? "true" : "false", method_name(o), o->count, o->rate);
	if (frames)
		printf("\"durability\":\"%s\",\"size\":%" PRIu32 ",\"stream\":", feed_durability_name(t->durability),
		       o->size);
	else
		printf("\"sequence\":");
	tool_json_string(stdout, frames ? o->stream : o->sequence);
	printf("}\n");
}

/* What the numbers are that are checked. */
static const char *noun(const struct load_opts *o)
{
	return o->kind == LOAD_PUBLISH ? "offsets" : "IDs";
}

static void print_check(const struct load_opts *o, const struct load_totals *t)
{
	const char *what = noun(o);
	printf("check      received %" PRIu64 ", repeated %" PRIu64 ", disordered %" PRIu64 ", missing %" PRIu64 "\n",
	       t->check.received, t->check.repeated, t->counts.disordered, t->check.missing);
	if (t->check.received == 0)
		printf("           no %s came, so nothing was checked\n", what);
	else if (t->counts.elsewhere)
		printf("           BROKEN: the %s has begun another incarnation during the run: %" PRIu64
		       " %s of it were not checked, and may repeat earlier ones\n",
		       o->kind == LOAD_PUBLISH ? "stream" : "sequence", t->counts.elsewhere, what);
	else if (!check_holds(t))
		printf("           BROKEN: %s were given twice or out of order\n", what);
	else if (o->kind == LOAD_PUBLISH)
		printf("           the offsets were unique and rising; durability: %s\n",
		       feed_durability_name(t->durability));
	else
		printf("           order: %s; the IDs were unique%s rising%s\n", t->sharded ? "sharded" : "strict",
		       t->sharded ? ", and" : " and", t->sharded ? " on each connection" : "");
	if (t->sharded && t->counts.disordered)
		printf("           disordered counts across connections, which sharded order allows\n");
	if (t->check.missing)
		printf("           missing: %s in between that this program did not get (other clients, or a window skipped after a crash)\n",
		       what);
	if (t->check.unchecked)
		printf("           %" PRIu64
		       " %s were too scattered to be remembered and were not checked for repeats\n",
		       t->check.unchecked, what);
}

static void print_text(const struct load_opts *o, const struct load_totals *t)
{
	const struct load_counts *c = &t->counts;
	printf("load       %s over %s, %" PRIu32 " connections x %" PRIu32 " in flight, %" PRIu32
	       " thread%s, %s %" PRIu32 ", ",
	       method_name(o), load_protocol(o), o->connections, t->depth, o->threads, o->threads == 1 ? "" : "s",
	       o->kind == LOAD_PUBLISH ? "bytes" : "count", o->kind == LOAD_PUBLISH ? o->size : o->count);
	if (o->rate > 0)
		printf("open loop at %.0f calls/s\n", o->rate);
	else
		printf("closed loop\n");
	printf("calls      %" PRIu64 " in %.2f s: %.0f calls/s, %.0f %s/s\n", c->calls, (double)t->elapsed_ns / 1e9,
	       load_per_second(c->calls, t->elapsed_ns), load_per_second(c->items, t->elapsed_ns),
	       o->kind == LOAD_PUBLISH ? "frames" : "IDs");
	printf("errors     %" PRIu64 "\n", load_errors(c));
	load_text_latency("latency", &c->latency);
	printf("status    ");
	for (unsigned i = 0; i <= LOAD_STATUS_OTHER; i++)
		if (c->by_status[i])
			printf(" %s %" PRIu64, status_name(i), c->by_status[i]);
	printf("%s\n", c->calls ? "" : " none");
	print_check(o, t);
	if (c->unprocessed)
		printf("given back %" PRIu64 " calls that a leaving server had not looked at\n", c->unprocessed);
	if (c->unsent)
		printf("unsent     %" PRIu64
		       " calls were due and could not be sent: every slot was waiting (raise --depth or --connections)\n",
		       c->unsent);
	if (c->lost || t->gone)
		printf("connections: %" PRIu64 " broke, %" PRIu32 " could not be made again%s%s\n", c->lost, t->gone,
		       t->why ? ": " : "", t->why ? t->why : "");
	printf("client     %.0f%% of a CPU\n", t->elapsed_ns ? 100.0 * (double)t->cpu_ns / (double)t->elapsed_ns : 0);
}

bool load_report(const struct load_opts *o, const struct load_totals *t)
{
	if (o->json)
		print_json(o, t);
	else
		print_text(o, t);
	return load_errors(&t->counts) == 0 && t->counts.calls > 0 && check_holds(t);
}
