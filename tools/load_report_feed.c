/* The end of `ordinal load --method subscribe` and `fanout`: what the subscribers got, and of a fan-out what was published. Pure but for standard
 * output. Main thread. */
#include "tools/load.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <stdio.h>

/* Every subscriber got every frame once, in order, undamaged. With SLOW_DROP, what a GAP names may be missing. */
static bool check_holds(const struct load_opts *o, const struct load_totals *t)
{
	const struct subs_result *r = &t->subs_result;
	uint64_t excused = o->slow == FEED_SLOW_DROP ? t->subs.gap_frames : 0;
	return r->repeated == 0 && r->disordered == 0 && r->missing <= excused && t->subs.damaged == 0;
}

static uint64_t errors(const struct load_totals *t)
{
	return load_errors(&t->counts) + t->subs.lost;
}

static const char *verify_name(enum subs_verify v)
{
	return v == SUBS_VERIFY_ALL ? "all" : v == SUBS_VERIFY_NONE ? "none" : "sampled";
}

static const char *slow_name(enum feed_slow slow)
{
	return slow == FEED_SLOW_WAIT ? "wait" : slow == FEED_SLOW_DROP ? "drop" : "disconnect";
}

static void json_check(const struct load_opts *o, const struct load_totals *t)
{
	const struct subs_result *r = &t->subs_result;
	printf("\"check\":{\"received\":%" PRIu64 ",\"repeated\":%" PRIu64 ",\"disordered\":%" PRIu64
	       ",\"missing\":%" PRIu64 ",\"unchecked\":%" PRIu64 ",\"crc_verified\":%" PRIu64 ",\"crc_wrong\":%" PRIu64
	       ",\"gaps\":%" PRIu64 ",\"gap_frames\":%" PRIu64 ",\"foreign\":%" PRIu64 ",\"fewest\":%" PRIu64
	       ",\"most\":%" PRIu64 ",\"caught_up\":%" PRIu32 ",\"ok\":%s}",
	       r->received, r->repeated, r->disordered, r->missing, r->unchecked, t->subs.verified, t->subs.damaged,
	       t->subs.gaps, t->subs.gap_frames, t->subs.foreign, r->fewest, r->most, r->caught_up,
	       check_holds(o, t) ? "true" : "false");
}

static void print_json(const struct load_opts *o, const struct load_totals *t)
{
	const struct load_counts *c = &t->counts;
	printf("{\"calls_per_second\":%.1f,\"items_per_second\":%.1f,\"bytes_per_second\":%.1f,\"errors\":%" PRIu64 ",",
	       load_per_second(c->calls, t->elapsed_ns), load_per_second(t->subs.deliveries, t->subs_elapsed_ns),
	       load_per_second(t->subs.bytes, t->subs_elapsed_ns), errors(t));
	load_json_latency(&t->subs.latency);
	putchar(',');
	load_json_statuses(c);
	putchar(',');
	json_check(o, t);
	if (o->kind == LOAD_FANOUT) {
		printf(",\"publish\":{\"frames\":%" PRIu64 ",\"frames_per_second\":%.1f,\"unsent\":%" PRIu64
		       ",\"durability\":\"%s\",",
		       c->items, load_per_second(c->items, t->elapsed_ns), c->unsent,
		       feed_durability_name(t->durability));
		load_json_latency(&c->latency);
		printf("}");
	}
	printf(",\"calls\":%" PRIu64 ",\"items\":%" PRIu64 ",\"elapsed_seconds\":%.6f,\"client_cpu_seconds\":%.6f"
	       ",\"publisher_cpu_seconds\":%.6f,\"subscriber_cpu_seconds\":%.6f",
	       c->calls, t->subs.deliveries, (double)t->subs_elapsed_ns / 1e9,
	       (double)(t->cpu_ns + t->subs_result.cpu_ns) / 1e9, (double)t->cpu_ns / 1e9,
	       (double)t->subs_result.cpu_ns / 1e9);
	printf(",\"publishers\":%" PRIu32 ",\"depth\":%" PRIu32 ",\"threads\":%" PRIu32 ",\"subscribers\":%" PRIu32
	       ",\"subscriber_threads\":%" PRIu32 ",\"subscriptions_lost\":%" PRIu64 ",\"size\":%" PRIu32
	       ",\"rate\":%.1f,\"lag\":%" PRIu32
	       ",\"verify\":\"%s\",\"slow\":\"%s\",\"protocol\":\"%s\",\"tls\":%s,\"method\":\"%s\",\"stream\":",
	       o->threads ? o->connections : 0, o->threads ? t->depth : 0, o->threads, o->subscribers, o->sub_threads,
	       t->subs.lost, o->size, o->rate, o->lag, verify_name(o->verify), slow_name(o->slow),
	       o->protocol == CHANNEL_GRPC ? "grpc" : "native", o->tls ? "true" : "false",
	       o->kind == LOAD_FANOUT ? "fanout" : "subscribe");
	tool_json_string(stdout, o->stream);
	printf("}\n");
}

static void print_check(const struct load_opts *o, const struct load_totals *t)
{
	const struct subs_result *r = &t->subs_result;
	printf("check      received %" PRIu64 ", repeated %" PRIu64 ", disordered %" PRIu64 ", missing %" PRIu64 "\n",
	       r->received, r->repeated, r->disordered, r->missing);
	printf("           %s; of each subscriber %" PRIu64 " to %" PRIu64 "; CRC of %" PRIu64 " compared, %" PRIu64
	       " wrong\n",
	       r->received == 0    ? "nothing came, so nothing was checked"
	       : check_holds(o, t) ? "each subscriber got each frame once, in order"
				   : "BROKEN: not every subscriber got every frame once, in order",
	       r->fewest, r->most, t->subs.verified, t->subs.damaged);
	if (t->subs.gaps)
		printf("           %" PRIu64 " GAP marks named %" PRIu64 " offsets\n", t->subs.gaps,
		       t->subs.gap_frames);
	if (r->unchecked)
		printf("           %" PRIu64 " frames came so late that they could not be checked for repeats\n",
		       r->unchecked);
	if (t->subs.foreign && o->kind == LOAD_FANOUT)
		printf("           %" PRIu64 " frames of other publishers\n", t->subs.foreign);
}

static void print_publishing(const struct load_opts *o, const struct load_totals *t)
{
	const struct load_counts *c = &t->counts;
	printf("published  %" PRIu64 " in %.2f s: %.0f frames/s, durability %s, by %" PRIu32 " publisher%s x %" PRIu32
	       " in flight\n",
	       c->items, (double)t->elapsed_ns / 1e9, load_per_second(c->items, t->elapsed_ns),
	       feed_durability_name(t->durability), o->connections, o->connections == 1 ? "" : "s", t->depth);
	load_text_latency("  latency", &c->latency);
	if (c->unsent)
		printf("unsent     %" PRIu64
		       " frames were due and could not be sent: every slot was waiting (raise --depth or --publishers)\n",
		       c->unsent);
}

static void print_text(const struct load_opts *o, const struct load_totals *t)
{
	printf("load       %s over %s, %" PRIu32 " subscriber%s on %" PRIu32 " thread%s, ",
	       o->kind == LOAD_FANOUT ? "fanout" : "subscribe", load_protocol(o), o->subscribers,
	       o->subscribers == 1 ? "" : "s", o->sub_threads, o->sub_threads == 1 ? "" : "s");
	if (o->kind == LOAD_SUBSCRIBE)
		printf("since %" PRIu64 "\n", o->since);
	else if (o->rate > 0)
		printf("%" PRIu32 " bytes, open loop at %.0f frames/s\n", o->size, o->rate);
	else
		printf("%" PRIu32 " bytes, closed loop, at most %" PRIu32 " frames ahead\n", o->size, o->lag);
	printf("delivered  %" PRIu64 " in %.2f s: %.0f deliveries/s, %.0f MB/s\n", t->subs.deliveries,
	       (double)t->subs_elapsed_ns / 1e9, load_per_second(t->subs.deliveries, t->subs_elapsed_ns),
	       load_per_second(t->subs.bytes, t->subs_elapsed_ns) / 1e6);
	if (t->subs.latency.count)
		load_text_latency("latency", &t->subs.latency);
	if (o->kind == LOAD_FANOUT)
		print_publishing(o, t);
	printf("errors     %" PRIu64 "\n", errors(t));
	print_check(o, t);
	if (t->subs.lost)
		printf("lost       %" PRIu64 " subscriptions: %s\n", t->subs.lost,
		       t->subs_result.why ? t->subs_result.why : "");
	if (t->why)
		printf("publishers: %s\n", t->why);
	printf("client     publishers %.0f%%, subscribers %.0f%% of a CPU\n",
	       t->elapsed_ns ? 100.0 * (double)t->cpu_ns / (double)t->elapsed_ns : 0,
	       t->subs_elapsed_ns ? 100.0 * (double)t->subs_result.cpu_ns / (double)t->subs_elapsed_ns : 0);
}

bool load_report_feed(const struct load_opts *o, const struct load_totals *t)
{
	if (o->json)
		print_json(o, t);
	else
		print_text(o, t);
	bool got = o->kind == LOAD_SUBSCRIBE || (t->counts.calls > 0 && t->subs.deliveries > 0);
	return errors(t) == 0 && got && check_holds(o, t);
}
