/* report*.c: a daemon made up of figures, gathered and rendered in all three forms. JSON goes through a checker of its grammar, metrics
 * through one of the exposition format: families whole and in order, labels escaped, no series twice, histograms that add up. */
#include "rpc/report_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <ctype.h>
#include <pthread.h>

enum { SHARDS = 2, NEXT = 0, TAKE = 1, METHODS = 2 };

static const struct method methods[METHODS] = {
	{.service = "ordinal.v1.Ids", .name = "Next", .number = 1, .kind = METHOD_UNARY},
	{.service = "ordinal.v1.Ids", .name = "Take", .number = 2, .kind = METHOD_BIDI},
};

struct rig {
	struct daemon d;
	struct shard shard[SHARDS];
	struct rpc_shard rpc[SHARDS];
	struct method_stats stats[SHARDS][METHODS + 1];
	struct report *report;
	uint64_t frames;
};

static int setup(void **state)
{
	struct rig *r = aligned_alloc(CACHE_LINE, (sizeof *r + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	struct config_error why;
	memset(r, 0, sizeof *r);
	assert_int_equal(config_load(&r->d.cfg, NULL, NULL, 0, &why), 0);
	snprintf(r->d.bound, sizeof r->d.bound, "127.0.0.1:50051");
	r->d.topo.shards = SHARDS;
	r->d.shards = r->shard;
	r->d.rpc = r->rpc;
	r->d.start_ns = clock_mono_ns() - 5 * NS_PER_S;
	method_table_add(&r->d.methods, methods, METHODS);
	for (unsigned i = 0; i < SHARDS; i++) {
		r->shard[i].thread = pthread_self();
		r->shard[i].cpu = (int)i - 1;
		r->shard[i].index = i;
		r->rpc[i].shard = &r->shard[i];
		r->rpc[i].stats = r->stats[i];
		for (unsigned m = 0; m <= METHODS; m++)
			hist_init(&r->stats[i][m].latency_ns);
		atomic_store(&r->shard[i].phase, SHARD_RUNNING);
	}
	assert_int_equal(report_new(&r->d, &r->report), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	report_free(r->report);
	config_done(&r->d.cfg);
	free(r);
	return 0;
}

/* The body at a path, terminated. */
static char *get(struct rig *r, const char *path, unsigned status, const char *type)
{
	struct text t = {0};
	const char *got = "text/plain; charset=utf-8";
	assert_int_equal(report_get(r->report, (struct span){(const uint8_t *)path, strlen(path)}, &t, &got), status);
	assert_string_equal(got, type);
	assert_false(t.failed);
	text_add(&t, "", 1);
	return t.p;
}

static char *get_json(struct rig *r)
{
	return get(r, "/stats.json", 200, "application/json");
}

static char *get_metrics(struct rig *r)
{
	return get(r, "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8");
}

static void has(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("no %s in\n%s", what, text);
}

/* A line that is exactly this. */
static void has_line(const char *text, const char *line)
{
	char want[512];
	snprintf(want, sizeof want, "\n%s\n", line);
	has(text, want);
}

/* JSON's grammar (RFC 8259), as far as the writer uses it: moves *p past a value. */

static void json_want(const char **p, char c)
{
	if (**p != c)
		fail_msg("%c instead of %.40s", c, *p);
	(*p)++;
}

static void json_string(const char **p)
{
	json_want(p, '"');
	for (; **p != '"'; (*p)++) {
		assert_true((unsigned char)**p >= 0x20);
		if (**p == '\\') {
			(*p)++;
			assert_non_null(strchr("\"\\u", **p));
		}
	}
	(*p)++;
}

static void json_value(const char **p)
{
	char open = **p, *end;
	if (open == '"') {
		json_string(p);
		return;
	}
	if (open != '{' && open != '[') {
		static const char *const words[] = {"true", "false", "null"};
		for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
			if (strncmp(*p, words[i], strlen(words[i])) == 0) {
				*p += strlen(words[i]);
				return;
			}
		}
		assert_true(isdigit((unsigned char)open) || open == '-');
		(void)strtod(*p, &end);
		*p = end;
		return;
	}
	char close = open == '{' ? '}' : ']';
	(*p)++;
	for (bool first = true; **p != close; first = false) {
		if (!first)
			json_want(p, ',');
		if (open == '{') {
			json_string(p);
			json_want(p, ':');
		}
		json_value(p);
	}
	(*p)++;
}

static void check_json(const char *text)
{
	const char *p = text;
	json_value(&p);
	assert_string_equal(p, "\n");
}

/* The exposition format. */

#define SERIES_MAX 4096
struct metrics {
	char *series[SERIES_MAX];
	unsigned count;
	char family[128], type[16];
	double bucket, last_le; /* of the histogram series being read */
};

static size_t name_length(const char *p)
{
	size_t n = 0;
	assert_false(isdigit((unsigned char)p[0]));
	while (isalnum((unsigned char)p[n]) || p[n] == '_' || p[n] == ':')
		n++;
	assert_true(n > 0);
	return n;
}

static const char *labels_end(const char *p)
{
	if (*p != '{')
		return p;
	for (p++; *p != '}'; p++) {
		p += name_length(p);
		json_want(&p, '=');
		json_want(&p, '"');
		for (; *p != '"'; p++) {
			assert_true(*p && *p != '\n');
			if (*p == '\\')
				assert_non_null(strchr("\\\"n", *++p));
		}
		p++;
		if (*p == '}')
			break;
		assert_int_equal(*p, ','); /* the loop moves past it */
	}
	return p + 1;
}

static void check_histogram(struct metrics *m, const char *line, const char *suffix, double v)
{
	if (strncmp(suffix, "_bucket", 7) == 0) {
		const char *le = strstr(line, "le=\"");
		assert_non_null(le);
		double edge = strtod(le + 4, NULL);
		assert_true(m->bucket < 0 || edge > m->last_le);
		assert_true(v >= m->bucket);
		m->bucket = v;
		m->last_le = edge;
	} else if (strncmp(suffix, "_count", 6) == 0) {
		assert_true(m->last_le > 1e300 && v == m->bucket); /* +Inf came last, and has them all */
		m->bucket = -1;
	} else {
		assert_int_equal(strncmp(suffix, "_sum", 4), 0);
	}
}

static void check_sample(struct metrics *m, char *line)
{
	size_t n = name_length(line), f = strlen(m->family);
	const char *at = labels_end(line + n);
	char *end;
	assert_int_equal(*at, ' ');
	double v = strtod(at + 1, &end);
	assert_true(end != at + 1 && *end == 0);
	if (strncmp(line, m->family, f) != 0 || n < f)
		fail_msg("%s in the family %s", line, m->family);
	assert_int_equal(strncmp(line, "ordinal_", 8), 0);
	if (strcmp(m->type, "histogram") == 0)
		check_histogram(m, line, line + f, v);
	else
		assert_int_equal(n, f);
	if (strcmp(m->type, "gauge") != 0)
		assert_true(v >= 0);
	line[at - line] = 0; /* the series alone */
	for (unsigned i = 0; i < m->count; i++)
		assert_string_not_equal(m->series[i], line);
	assert_in_range(m->count, 0, SERIES_MAX - 1);
	m->series[m->count++] = line;
}

static void check_metrics(const char *text)
{
	static struct metrics m;
	char *copy = strdup(text), *rest = copy, *line, help[128] = "";
	m = (struct metrics){.bucket = -1};
	assert_int_equal(text[strlen(text) - 1], '\n');
	while ((line = strsep(&rest, "\n")) && rest) {
		if (sscanf(line, "# HELP %127s", help) == 1) {
			assert_true(strlen(line) > strlen("# HELP ") + strlen(help) + 1);
		} else if (line[0] == '#') {
			assert_int_equal(sscanf(line, "# TYPE %127s %15s", m.family, m.type), 2);
			assert_string_equal(m.family, help);
			size_t n = strlen(m.family);
			bool total = n > 6 && strcmp(m.family + n - 6, "_total") == 0;
			assert_int_equal(total, strcmp(m.type, "counter") == 0);
		} else {
			check_sample(&m, line);
		}
	}
	assert_true(m.bucket < 0);
	free(copy);
}

/* An empty daemon: no divisions by nothing, no missing families. */
static void test_nothing_has_happened_yet(void **state)
{
	struct rig *r = *state;
	char *json = get_json(r), *metrics = get_metrics(r), *text = get(r, "/stats", 200, "text/plain; charset=utf-8");
	check_json(json);
	check_metrics(metrics);
	has(json, "\"ordinal.v1.Ids/Next\":{\"by_status\":{},\"latency_us\":{\"count\":0,\"min\":0,\"mean\":0,");
	has_line(metrics, "ordinal_calls_total{method=\"ordinal.v1.Ids/Next\",status=\"OK\"} 0");
	has(text, "127.0.0.1:50051");
	assert_null(strstr(text, "nan"));
	assert_null(strstr(metrics, "nan"));
	free(json);
	free(metrics);
	free(text);
}

static void test_calls_are_added_up_over_shards(void **state)
{
	struct rig *r = *state;
	r->stats[0][NEXT].by_status[GRPC_OK] = 10;
	r->stats[1][NEXT].by_status[GRPC_OK] = 32;
	r->stats[1][NEXT].by_status[GRPC_NOT_FOUND] = 3;
	hist_add(&r->stats[0][NEXT].latency_ns, 1000, 1);          /* 1 us */
	hist_add(&r->stats[1][NEXT].latency_ns, 3000000, 3);       /* 3 ms */
	hist_add(&r->stats[1][NEXT].latency_ns, 90 * NS_PER_S, 1); /* beyond the last bucket's edge */
	r->stats[0][TAKE].messages_in = 7;
	r->stats[1][TAKE].messages_out = 8;
	r->stats[0][METHODS].by_status[GRPC_UNIMPLEMENTED] = 2;
	r->stats[1][METHODS].by_status[GRPC_UNIMPLEMENTED] = 3;
	r->rpc[0].calls = 4;
	r->rpc[1].calls = 5;

	char *json = get_json(r), *metrics = get_metrics(r), *text = get(r, "/stats", 200, "text/plain; charset=utf-8");
	check_json(json);
	check_metrics(metrics);
	has(json,
	    "\"ordinal.v1.Ids/Next\":{\"by_status\":{\"OK\":42,\"NOT_FOUND\":3},\"latency_us\":{\"count\":5,\"min\":1,");
	has(json, "\"messages_in\":7,\"messages_out\":8");
	has(json, "\"refused_by_status\":{\"UNIMPLEMENTED\":5}");
	has(json, "\"calls_live\":9");
	has_line(metrics, "ordinal_calls_total{method=\"ordinal.v1.Ids/Next\",status=\"OK\"} 42");
	has_line(metrics, "ordinal_calls_total{method=\"ordinal.v1.Ids/Next\",status=\"NOT_FOUND\"} 3");
	has_line(metrics, "ordinal_calls_refused_total{status=\"UNIMPLEMENTED\"} 5");
	has_line(metrics, "ordinal_call_latency_seconds_bucket{method=\"ordinal.v1.Ids/Next\",le=\"1.023e-06\"} 1");
	has_line(metrics, "ordinal_call_latency_seconds_bucket{method=\"ordinal.v1.Ids/Next\",le=\"0.002097151\"} 1");
	has_line(metrics, "ordinal_call_latency_seconds_bucket{method=\"ordinal.v1.Ids/Next\",le=\"0.004194303\"} 4");
	has_line(metrics, "ordinal_call_latency_seconds_bucket{method=\"ordinal.v1.Ids/Next\",le=\"17.179869183\"} 4");
	has_line(metrics, "ordinal_call_latency_seconds_bucket{method=\"ordinal.v1.Ids/Next\",le=\"+Inf\"} 5");
	has_line(metrics, "ordinal_call_latency_seconds_count{method=\"ordinal.v1.Ids/Next\"} 5");
	has_line(metrics, "ordinal_call_latency_seconds_sum{method=\"ordinal.v1.Ids/Next\"} 90.009001");
	has_line(metrics, "ordinal_calls_live{shard=\"1\"} 5");
	has(text, "NOT_FOUND 3");
	has(text, "UNIMPLEMENTED 5");
	has(text, "90.00 s");
	has(text, "live now: 9");
	free(json);
	free(metrics);
	free(text);
}

/* Each figure of a shard under its own name, in each of the three forms that show it by shard. */
static void test_shard_figures(void **state)
{
	struct rig *r = *state;
	for (unsigned i = 0; i < SHARDS; i++) {
		r->shard[i].stats = (struct shard_stats){
			.turns = 100 + i, .sleeps = 200, .accepted = 300, .handed_off = 5, .bytes_in = 1 << 20};
		r->shard[i].stats.ended[CONN_R_FLOOD] = 1 + i;
		r->shard[i].ring_stats = (struct ring_stats){
			.enters = 400, .cq_overflow = 6 + i, .bufs = 64, .bufs_free = 60 - i};
		r->rpc[i].sessions_native = 11 + i;
		r->rpc[i].sessions_h2_total = UINT64_C(1) << 40;
		atomic_store(&r->shard[i].conn_count, 30 + i);
	}
	atomic_store(&r->shard[1].phase, SHARD_DRAINING);
	char *json = get_json(r), *metrics = get_metrics(r), *text = get(r, "/stats", 200, "text/plain; charset=utf-8");
	check_json(json);
	check_metrics(metrics);
	has_line(metrics, "ordinal_turns_total{shard=\"0\"} 100");
	has_line(metrics, "ordinal_turns_total{shard=\"1\"} 101");
	has_line(metrics, "ordinal_connections{shard=\"1\"} 31");
	has_line(metrics, "ordinal_ring_cq_overflows_total{shard=\"1\"} 7");
	has_line(metrics, "ordinal_recv_buffers_free{shard=\"1\"} 59");
	has_line(metrics, "ordinal_sessions_native{shard=\"1\"} 12");
	has_line(metrics, "ordinal_sessions_grpc_opened_total{shard=\"1\"} 1099511627776");
	has_line(metrics, "ordinal_connections_ended_total{reason=\"flood\"} 3");
	has_line(metrics, "ordinal_shard_state{shard=\"1\",state=\"draining\"} 1");
	has(json, "\"total\":{\"connections\":61,");
	has(json, "\"sessions_grpc_opened\":2199023255552");
	has(json, "\"recv_buffers\":128,\"recv_buffers_free\":119");
	has(json, "\"flood\":3");
	has(json, "{\"shard\":1,\"cpu\":0,\"state\":\"draining\",\"connections\":31,");
	has(text, "draining");
	has(text, "flood 3");
	has(text, "59 of    64");
	free(json);
	free(metrics);
	free(text);
}

static void test_the_topology_is_told(void **state)
{
	struct rig *r = *state;
	struct topo *t = &r->d.topo;
	t->online = 4;
	t->allowed = 3;
	t->cpus = 2;
	t->cpu[0] = (struct topo_cpu){.cpu = 0, .core = 0, .node = -1};
	t->cpu[1] = (struct topo_cpu){.cpu = 2, .core = 1, .node = 1};
	t->quota_milli = 2500;
	t->producer_cpu = t->journal_cpu = 2;
	t->log_cpu = -1;
	r->shard[0].node = -1;
	r->shard[1].node = 1;
	char *json = get_json(r);
	check_json(json);
	has(json,
	    "\"topology\":{\"cpus_online\":4,\"cpus_allowed\":3,\"quota_cpus\":2.5,\"cpus\":["
	    "{\"cpu\":0,\"core\":0,\"node\":-1},{\"cpu\":2,\"core\":1,\"node\":1}],\"threads\":["
	    "{\"name\":\"shard/0\",\"cpu\":-1,\"memory_node\":-1},{\"name\":\"shard/1\",\"cpu\":0,\"memory_node\":1},"
	    "{\"name\":\"producer\",\"cpu\":2,\"memory_node\":-1},{\"name\":\"journal\",\"cpu\":2,\"memory_node\":-1},"
	    "{\"name\":\"log\",\"cpu\":-1,\"memory_node\":-1}]}");
	free(json);
}

/* Names of sequences are the clients' choice. */
static void test_names_are_escaped(void **state)
{
	static const char *const names[] = {"", "quo\"te", "back\\slash", "\xd1\x8f", "a b{}=,"};
	struct rig *r = *state;
	struct report_data *d = report_gather(r->report, clock_mono_ns());
	struct text json = {0}, metrics = {0}, text = {0};
	d->sequences = 70000;
	d->sequences_shown = ARRAY_SIZE(names);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		d->sequence[i] = (struct ids_sequence_info){
			.next = UINT64_MAX - 1, .durable_end = UINT64_MAX, .window = 7, .windows = 100 + i};
		snprintf(d->sequence[i].name, sizeof d->sequence[i].name, "%s", names[i]);
	}
	report_json(d, &json);
	report_metrics(d, &metrics);
	report_text(d, &text);
	text_add(&json, "", 1);
	text_add(&metrics, "", 1);
	text_add(&text, "", 1);
	check_json(json.p);
	check_metrics(metrics.p);
	has(json.p,
	    "{\"name\":\"quo\\\"te\",\"incarnation\":\"0\",\"next\":18446744073709551614,\"durable_end\":18446744073709551615,\"window\":7,\"windows\":101}");
	has(json.p, "\"name\":\"back\\\\slash\"");
	has(json.p, "\"sequence_count\":70000");
	has_line(metrics.p, "ordinal_sequences 70000");
	has_line(metrics.p, "ordinal_sequence_next{sequence=\"quo\\\"te\"} 18446744073709551614");
	has_line(metrics.p, "ordinal_sequence_window{sequence=\"back\\\\slash\"} 7");
	has_line(metrics.p, "ordinal_sequence_windows_total{sequence=\"\xd1\x8f\"} 103");
	has_line(metrics.p, "ordinal_sequence_windows_total{sequence=\"\"} 100");
	has(text.p, "and 69995 more");
	text_done(&json);
	text_done(&metrics);
	text_done(&text);
	report_data_free(d);
}

static uint64_t frames(void *ctx)
{
	return ((struct rig *)ctx)->frames;
}

static void feed_text(void *ctx, struct text *to)
{
	text_printf(to, "  frames %s\n", report_count(((struct rig *)ctx)->frames).s);
}

static void feed_json(void *ctx, struct json *to)
{
	json_u64(to, "frames", ((struct rig *)ctx)->frames);
}

static void feed_metrics(void *ctx, struct text *to)
{
	report_metric_head(to, "ordinal_frames_total", "counter", "Frames.");
	text_printf(to, "ordinal_frames_total{stream=");
	report_metric_label(to, SPAN_LIT("two\nlines"));
	text_printf(to, "} %llu\n", (unsigned long long)((struct rig *)ctx)->frames);
}

static void test_sections_and_rates_of_services(void **state)
{
	struct rig *r = *state;
	report_add_section(r->report, &(struct report_section){.key = "feed",
							       .title = "Feed",
							       .text = feed_text,
							       .json = feed_json,
							       .metrics = feed_metrics,
							       .ctx = r});
	report_add_section(r->report, &(struct report_section){.key = "mute", .title = "Mute"});
	report_add_rate(r->report, "frames", frames, r);
	uint64_t now = clock_mono_ns();
	assert_true(report_due_ns(r->report) <= now);
	report_sample(r->report, now);
	assert_int_equal(report_due_ns(r->report), now + NS_PER_S);
	for (unsigned i = 0; i < 10; i++) {
		r->frames += 1000 + i;
		r->stats[1][NEXT].by_status[GRPC_OK] += 500;
		r->stats[0][TAKE].by_status[GRPC_CANCELLED] += 5;
		r->stats[0][METHODS].by_status[GRPC_UNIMPLEMENTED] += 1; /* not a call of any method */
		r->shard[0].stats.bytes_in += 4096;
		report_sample(r->report, now += NS_PER_S);
	}
	char *json = get_json(r), *metrics = get_metrics(r), *text = get(r, "/stats", 200, "text/plain; charset=utf-8");
	check_json(json);
	check_metrics(metrics);
	has(json, "\"frames\":{\"1s\":1009,\"10s\":1004.5,\"60s\":1004.5}");
	has(json, "\"calls\":{\"1s\":505,\"10s\":505,\"60s\":505}");
	has(json, "\"bytes_in\":{\"1s\":4096,");
	has(json, "\"feed\":{\"frames\":10045}");
	assert_null(strstr(json, "mute"));
	has_line(metrics, "ordinal_rate{of=\"frames\",window=\"10s\"} 1004.5");
	has_line(metrics, "ordinal_frames_total{stream=\"two\\nlines\"} 10045");
	has_line(text, "  frames 10045");
	has(text, "\nFeed\n");
	free(json);
	free(metrics);
	free(text);
}

/* A reader over the network without rules of access: everything but addresses; and the next reader, on the socket, is told them again. */
static void test_addresses_are_for_who_may_know_them(void **state)
{
	struct rig *r = *state;
	static struct refusals refusals;
	uint64_t ip[2] = {0};
	uint8_t v4[16] = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2, [15] = 7};
	memcpy(ip, v4, sizeof ip);
	refusals_note(&refusals, ip, REFUSAL_LIMIT);
	r->rpc[1].refusals = &refusals;
	refusals_report(r->report);
	for (unsigned form = 0; form < REPORT_FORMS; form++) {
		struct text t = {0};
		const char *type = report_page(r->report, (enum report_form)form, false, &t);
		assert_non_null(type);
		text_add(&t, "", 1);
		assert_null(strstr(t.p, "192.0.2.7"));
		has(t.p, form == REPORT_TEXT   ? "in all: limit 1"
			 : form == REPORT_JSON ? "\"addresses_withheld\":true,\"by_address\":[]"
					       : "ordinal_refusals_total{reason=\"limit\"} 1");
		text_done(&t);
	}
	char *p = get(r, "/stats", 200, "text/plain; charset=utf-8");
	has(p, "192.0.2.7: limit 1");
	free(p);
	p = get_json(r);
	has(p, "\"addresses_withheld\":false,\"by_address\":[{\"address\":\"192.0.2.7\"");
	free(p);
	r->rpc[1].refusals = NULL;
}

static void test_paths(void **state)
{
	struct rig *r = *state;
	char *index = get(r, "/", 200, "text/plain; charset=utf-8");
	has(index, "/metrics");
	free(index);
	static const char *const wrong[] = {"/stat", "/stats/", "/metricsx", "//stats", "/stats.js"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		char *body = get(r, wrong[i], 404, "text/plain; charset=utf-8");
		has(body, "/stats.json");
		free(body);
	}
}

/* Two daemons with one configuration have one fingerprint. */
static void test_fingerprint_tells_configurations_apart(void **state)
{
	struct rig *r = *state;
	struct daemon other = r->d;
	struct report *same, *different;
	assert_int_equal(report_new(&other, &same), 0);
	other.cfg.drain_timeout_ms++;
	assert_int_equal(report_new(&other, &different), 0);
	assert_int_equal(same->fingerprint, r->report->fingerprint);
	assert_int_not_equal(different->fingerprint, r->report->fingerprint);
	report_free(same);
	report_free(different);
}

static void test_numbers_for_people(void **state)
{
	assert_string_equal(report_count(0).s, "0");
	assert_string_equal(report_count(9999999).s, "9999999");
	assert_string_equal(report_count(12345678).s, "12.35 M");
	assert_string_equal(report_count(UINT64_MAX).s, "18.45 E");
	assert_string_equal(report_bytes(1023).s, "1023 B");
	assert_string_equal(report_bytes(1536).s, "1.50 KiB");
	assert_string_equal(report_bytes(UINT64_C(3) << 40).s, "3.00 TiB");
	assert_string_equal(report_bytes(UINT64_MAX).s, "16.00 EiB");
	assert_string_equal(report_ns(999).s, "999 ns");
	assert_string_equal(report_ns(12345).s, "12.35 us");
	assert_string_equal(report_ns(123456789).s, "123.5 ms");
	assert_string_equal(report_ns(3600 * NS_PER_S).s, "3600 s");
	assert_string_equal(report_rate(0).s, "0");
	assert_string_equal(report_rate(0.25).s, "0.2");
	assert_string_equal(report_rate(1234567.8).s, "1234568");
	assert_string_equal(report_rate(4.2e9).s, "4.20 G");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_nothing_has_happened_yet),
		T(test_calls_are_added_up_over_shards),
		T(test_shard_figures),
		T(test_the_topology_is_told),
		T(test_names_are_escaped),
		T(test_sections_and_rates_of_services),
		T(test_addresses_are_for_who_may_know_them),
		T(test_paths),
		T(test_fingerprint_tells_configurations_apart),
		cmocka_unit_test(test_numbers_for_people),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
