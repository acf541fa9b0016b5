/* Tables out of two readings. A row of `now` is matched with that of `before` by its name or number; one that was not there counts from 0. Counters
 * that went back (the daemon was started again) give no rate. Pure. */
#include "tools/top_view.h"

#include "core/base/check.h"

#include <inttypes.h>

struct view {
	FILE *f;
	const struct jread *now, *before;
	const struct jread_node *top, *top_before;
	double seconds;
	unsigned rows;
};

char *top_count(double v, char *buf, size_t cap)
{
	char digits[32];
	size_t n = 0;
	int len = snprintf(digits, sizeof digits, "%.0f", v < 0 || !(v < 1e15) ? 0 : v);
	for (int i = 0; i < len && n + 2 < cap; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			buf[n++] = ',';
		buf[n++] = digits[i];
	}
	buf[n < cap ? n : cap - 1] = 0;
	return buf;
}

char *top_bytes(double v, char *buf, size_t cap)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t u = 0;
	while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, cap, "%.*f %s", u == 0 || v >= 100 ? 0 : 1, v, units[u]);
	return buf;
}

char *top_time(double seconds, char *buf, size_t cap)
{
	uint64_t s = seconds > 0 && seconds < 1e12 ? (uint64_t)seconds : 0;
	uint64_t days = s / 86400;
	if (days)
		snprintf(buf, cap, "%" PRIu64 "d %02u:%02u:%02u", days, (unsigned)(s / 3600 % 24),
			 (unsigned)(s / 60 % 60), (unsigned)(s % 60));
	else
		snprintf(buf, cap, "%02u:%02u:%02u", (unsigned)(s / 3600), (unsigned)(s / 60 % 60), (unsigned)(s % 60));
	return buf;
}

static double per_second(const struct view *v, double now, double before)
{
	return v->seconds > 0 && now > before ? (now - before) / v->seconds : 0;
}

/* The rate of a number member of both. */
static double rate(const struct view *v, const struct jread_node *now, const struct jread_node *before, const char *key)
{
	return per_second(v, jread_number(v->now, now, key), jread_number(v->before, before, key));
}

/* A right-aligned count in `width` columns, after a space. */
static void put_count(const struct view *v, double n, int width)
{
	char buf[48];
	fprintf(v->f, " %*s", width, top_count(n, buf, sizeof buf));
}

static void put_bytes(const struct view *v, double n, int width)
{
	char buf[48];
	fprintf(v->f, " %*s", width, top_bytes(n, buf, sizeof buf));
}

static void put_name(const struct view *v, struct span name, int width)
{
	if (name.n == 0)
		name = SPAN_LIT("\"\"");
	fprintf(v->f, "%-*.*s", width, (int)(name.n < (size_t)width ? name.n : (size_t)width), (const char *)name.p);
}

/* Sum of an object's numbers; those of `but` left out. */
static double sum(const struct jread *j, const struct jread_node *of, const char *but)
{
	double s = 0;
	if (!of)
		return 0;
	for (const struct jread_node *n = jread_first(j, of); n; n = jread_next(j, n))
		if (n->type == JREAD_NUMBER &&
		    !(but && span_eq(n->key, (struct span){(const uint8_t *)but, strlen(but)})))
			s += n->number;
	return s;
}

static void put_head(const struct view *v)
{
	const struct jread_node *total = jread_member(v->now, v->top, "total"),
				*total_before = jread_member(v->before, v->top_before, "total");
	const struct jread_node *journal = jread_member(v->now, v->top, "journal"),
				*journal_before = jread_member(v->before, v->top_before, "journal");
	struct span version = jread_text(v->now, v->top, "version"), listen = jread_text(v->now, v->top, "listen"),
		    order = jread_text(v->now, v->top, "id_order");
	char up[48], rss[48], in[48], out[48];
	fprintf(v->f, "ordinald %.*s on %.*s   up %s   pid %.0f   order %.*s   memory %s   CPU %.0f%%\n",
		(int)version.n, (const char *)version.p, (int)listen.n, (const char *)listen.p,
		top_time(jread_number(v->now, v->top, "uptime_seconds"), up, sizeof up),
		jread_number(v->now, v->top, "pid"), (int)order.n, (const char *)order.p,
		top_bytes(jread_number(v->now, v->top, "resident_bytes"), rss, sizeof rss),
		100 * rate(v, v->top, v->top_before, "cpu_seconds"));
	fprintf(v->f,
		"connections %.0f (native %.0f, grpc %.0f)   calls under way %.0f   in %s/s   out %s/s   syncs %.0f/s\n\n",
		jread_number(v->now, total, "connections"), jread_number(v->now, total, "sessions_native"),
		jread_number(v->now, total, "sessions_grpc"), jread_number(v->now, total, "calls_live"),
		top_bytes(rate(v, total, total_before, "bytes_in"), in, sizeof in),
		top_bytes(rate(v, total, total_before, "bytes_out"), out, sizeof out),
		rate(v, journal, journal_before, "syncs"));
}

/* "ordinal.v1.Ids/Next" as "Ids/Next". */
static struct span short_name(struct span s)
{
	size_t slash = s.n, dot = 0;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '/')
			slash = i;
		if (s.p[i] == '.' && slash == s.n)
			dot = i + 1;
	}
	return (struct span){s.p + dot, s.n - dot};
}

static void put_methods(const struct view *v)
{
	const struct jread_node *all = jread_member(v->now, v->top, "methods"),
				*all_before = jread_member(v->before, v->top_before, "methods");
	fprintf(v->f, "%-24s %11s %11s %11s %9s %10s %10s\n", "METHOD", "ended/s", "msgs in/s", "msgs out/s",
		"errors/s", "p50 us", "p99 us");
	for (const struct jread_node *m = jread_first(v->now, all); m; m = jread_next(v->now, m)) {
		const struct jread_node *b = jread_find(v->before, all_before, m->key);
		const struct jread_node *st = jread_member(v->now, m, "by_status"),
					*st_before = b ? jread_member(v->before, b, "by_status") : NULL;
		const struct jread_node *latency = jread_member(v->now, m, "latency_us");
		double ended = sum(v->now, st, NULL), in = jread_number(v->now, m, "messages_in");
		if (ended == 0 && in == 0)
			continue; /* never called */
		put_name(v, short_name(m->key), 24);
		put_count(v, per_second(v, ended, sum(v->before, st_before, NULL)), 11);
		put_count(v, rate(v, m, b, "messages_in"), 11);
		put_count(v, rate(v, m, b, "messages_out"), 11);
		put_count(v, per_second(v, sum(v->now, st, "OK"), sum(v->before, st_before, "OK")), 9);
		put_count(v, jread_number(v->now, latency, "p50"), 10);
		put_count(v, jread_number(v->now, latency, "p99"), 10);
		fputc('\n', v->f);
	}
	fputc('\n', v->f);
}

/* The element of an array of objects that has the same `key`. */
static const struct jread_node *same_row(const struct view *v, const struct jread_node *array,
					 const struct jread_node *row, const char *key)
{
	struct span name = jread_text(v->now, row, key);
	for (const struct jread_node *b = jread_first(v->before, array); b; b = jread_next(v->before, b))
		if (span_eq(jread_text(v->before, b, key), name) &&
		    jread_number(v->before, b, key) == jread_number(v->now, row, key))
			return b;
	return NULL;
}

static void put_shards(const struct view *v)
{
	const struct jread_node *all = jread_member(v->now, v->top, "shards"),
				*all_before = jread_member(v->before, v->top_before, "shards");
	fprintf(v->f, "%-6s %4s %-9s %8s %8s %7s %12s %12s %12s %12s\n", "SHARD", "CPU", "state", "conns", "calls",
		"busy", "IDs/s", "in/s", "out/s", "turns/s");
	for (const struct jread_node *s = jread_first(v->now, all); s; s = jread_next(v->now, s)) {
		const struct jread_node *b = same_row(v, all_before, s, "shard");
		struct span state = jread_text(v->now, s, "state");
		fprintf(v->f, "%-6.0f %4.0f %-9.*s", jread_number(v->now, s, "shard"), jread_number(v->now, s, "cpu"),
			(int)state.n, (const char *)state.p);
		put_count(v, jread_number(v->now, s, "connections"), 8);
		put_count(v, jread_number(v->now, s, "calls_live"), 8);
		fprintf(v->f, " %6.1f%%", 100 * rate(v, s, b, "cpu_seconds"));
		put_count(v, rate(v, s, b, "ids"), 12);
		put_bytes(v, rate(v, s, b, "bytes_in"), 12);
		put_bytes(v, rate(v, s, b, "bytes_out"), 12);
		put_count(v, rate(v, s, b, "turns"), 12);
		fputc('\n', v->f);
	}
	fputc('\n', v->f);
}

/* What of a long table is not shown. */
static void put_rest(const struct view *v, double all, unsigned shown)
{
	if (all > shown)
		fprintf(v->f, "… and %.0f more\n", all - shown);
	fputc('\n', v->f);
}

static void put_streams(const struct view *v)
{
	const struct jread_node *section = jread_member(v->now, v->top, "streams"),
				*section_before = jread_member(v->before, v->top_before, "streams");
	const struct jread_node *all = jread_member(v->now, section, "by_name"),
				*all_before = jread_member(v->before, section_before, "by_name");
	unsigned shown = 0;
	if (!jread_first(v->now, all))
		return;
	fprintf(v->f, "%-20s %-7s %10s %13s %13s %6s %9s %9s %8s %6s\n", "STREAM", "kept", "frames", "published/s",
		"delivered/s", "subs", "lag p50", "lag p99", "dropped", "gaps");
	for (const struct jread_node *s = jread_first(v->now, all); s && shown < v->rows; s = jread_next(v->now, s)) {
		const struct jread_node *b = same_row(v, all_before, s, "name");
		const struct jread_node *lag = jread_member(v->now, s, "lag_frames");
		struct span durability = jread_text(v->now, s, "durability");
		put_name(v, jread_text(v->now, s, "name"), 20);
		fprintf(v->f, " %-7.*s", (int)durability.n, (const char *)durability.p);
		put_count(v, jread_number(v->now, s, "frames"), 10);
		put_count(v, rate(v, s, b, "published"), 13);
		put_count(v, rate(v, s, b, "delivered"), 13);
		put_count(v, jread_number(v->now, s, "subscribers"), 6);
		put_count(v, jread_number(v->now, lag, "p50"), 9);
		put_count(v, jread_number(v->now, lag, "p99"), 9);
		put_count(v, jread_number(v->now, s, "dropped"), 8);
		put_count(v, jread_number(v->now, s, "gaps"), 6);
		fputc('\n', v->f);
		shown++;
	}
	put_rest(v, jread_number(v->now, section, "count"), shown);
}

static void put_sequences(const struct view *v)
{
	const struct jread_node *all = jread_member(v->now, v->top, "sequences"),
				*all_before = jread_member(v->before, v->top_before, "sequences");
	unsigned shown = 0;
	if (!jread_first(v->now, all))
		return;
	fprintf(v->f, "%-20s %20s %14s %12s\n", "SEQUENCE", "next", "IDs/s", "window");
	for (const struct jread_node *s = jread_first(v->now, all); s && shown < v->rows; s = jread_next(v->now, s)) {
		const struct jread_node *b = same_row(v, all_before, s, "name");
		put_name(v, jread_text(v->now, s, "name"), 20);
		put_count(v, jread_number(v->now, s, "next"), 20);
		put_count(v, rate(v, s, b, "next"), 14);
		put_count(v, jread_number(v->now, s, "window"), 12);
		fputc('\n', v->f);
		shown++;
	}
	put_rest(v, jread_number(v->now, v->top, "sequence_count"), shown);
}

void top_view(FILE *f, const struct top_reading *now, const struct top_reading *before, unsigned rows)
{
	struct view v = {.f = f,
			 .now = &now->stats.json,
			 .before = &before->stats.json,
			 .top = now->stats.json.node,
			 .top_before = before->stats.json.node,
			 .seconds = (double)(now->mono_ns - before->mono_ns) / 1e9,
			 .rows = rows};
	put_head(&v);
	put_methods(&v);
	put_shards(&v);
	put_streams(&v);
	put_sequences(&v);
}
