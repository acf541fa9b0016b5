/* The report's registration, rates and paths, and the numbers for people; see report.h. What it says is in report_text.c, report_json.c and
 * report_metrics.c, all out of one reading by report_gather.c. Main thread. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/crc32c.h"
#include "rpc/report_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fingerprint(const struct config *c, uint32_t *ret)
{
	char *p = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&p, &n);
	if (!f)
		return -errno;
	config_dump(c, f);
	int rc = fclose(f) ? -ENOMEM : 0;
	if (rc == 0)
		*ret = crc32c(0, p, n);
	free(p);
	return rc;
}

int report_new(struct daemon *d, struct report **ret)
{
	struct report *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	r->d = d;
	r->start_wall_ns = clock_wall_ns() - (int64_t)(clock_mono_ns() - d->start_ns);
	int rc = fingerprint(&d->cfg, &r->fingerprint);
	if (rc == 0)
		rc = rates_init(&r->rates, REPORT_RATE_COUNT + REPORT_RATES_MAX + d->topo.shards);
	if (rc) {
		free(r);
		return rc;
	}
	*ret = r;
	return 0;
}

void report_free(struct report *r)
{
	if (!r)
		return;
	rates_done(&r->rates);
	free(r);
}

void report_add_section(struct report *r, const struct report_section *s)
{
	CHECK(r->sections < REPORT_SECTIONS_MAX);
	r->section[r->sections++] = *s;
}

void report_add_rate(struct report *r, const char *name, uint64_t (*sum)(void *ctx), void *ctx)
{
	CHECK(r->added_count < REPORT_RATES_MAX && r->rates.count == 0);
	r->added[r->added_count++] = (struct report_added_rate){name, sum, ctx};
}

uint64_t report_due_ns(const struct report *r)
{
	return rates_due_ns(&r->rates);
}

void report_sample(struct report *r, uint64_t now_ns)
{
	uint64_t sums[REPORT_RATE_COUNT + REPORT_RATES_MAX + SHARD_MAX];
	report_sums(r, sums);
	rates_sample(&r->rates, now_ns, sums);
}

const char *report_rate_name(const struct report *r, unsigned i)
{
	static const char *const names[REPORT_RATE_COUNT] = {
		[REPORT_RATE_CALLS] = "calls",
		[REPORT_RATE_IDS] = "ids",
		[REPORT_RATE_CONNECTIONS] = "connections",
		[REPORT_RATE_BYTES_IN] = "bytes_in",
		[REPORT_RATE_BYTES_OUT] = "bytes_out",
		[REPORT_RATE_SYNCS] = "journal_syncs",
		[REPORT_RATE_JOURNAL_BYTES] = "journal_bytes",
	};
	if (i < REPORT_RATE_COUNT)
		return names[i];
	i -= REPORT_RATE_COUNT;
	return i < r->added_count ? r->added[i].name : NULL;
}

double report_rate_of(const struct report *r, unsigned i, unsigned seconds)
{
	return rates_per_s(&r->rates, i, seconds * NS_PER_S);
}

const char *report_phase_name(unsigned phase)
{
	static const char *const names[] = {"starting", "running", "draining", "ended", "failed"};
	return phase < ARRAY_SIZE(names) ? names[phase] : "?";
}

/* Paths. */

static const char index_text[] = "Ordinal's stats socket. It answers GET of\n"
				 "  /stats       what the daemon is doing, for people\n"
				 "  /stats.json  the same, for programs\n"
				 "  /metrics     the same, for Prometheus\n";

static const struct form {
	const char *path, *type;
	void (*render)(const struct report_data *d, struct text *to);
} forms[REPORT_FORMS] = {
	[REPORT_TEXT] = {"/stats", "text/plain; charset=utf-8", report_text},
	[REPORT_JSON] = {"/stats.json", "application/json", report_json},
	[REPORT_METRICS] = {"/metrics", "text/plain; version=0.0.4; charset=utf-8", report_metrics},
};

const char *report_page(struct report *r, enum report_form form, bool addresses, struct text *body)
{
	struct report_data *d = report_gather(r, clock_mono_ns());
	r->addresses = addresses;
	if (d)
		forms[form].render(d, body);
	else
		body->failed = true;
	report_data_free(d);
	return forms[form].type;
}

unsigned report_get(void *ctx, struct span path, struct text *body, const char **ret_type)
{
	struct report *r = ctx;
	for (unsigned i = 0; i < REPORT_FORMS; i++) {
		if (span_eq(path, (struct span){(const uint8_t *)forms[i].path, strlen(forms[i].path)})) {
			*ret_type = report_page(r, (enum report_form)i, true, body);
			return 200;
		}
	}
	bool root = span_eq(path, SPAN_LIT("/"));
	if (!root)
		text_printf(body, "There is nothing here. ");
	text_add(body, index_text, sizeof index_text - 1);
	return root ? 200 : 404;
}

/* Numbers for people. */

/* Three or four digits that count, and a unit out of `units`, each `step` times the last. */
static struct report_cell scaled(double v, double step, const char *const *units, unsigned n)
{
	struct report_cell c;
	unsigned u = 0;
	for (; v >= step && u + 1 < n; u++)
		v /= step;
	snprintf(c.s, sizeof c.s, "%.*f%s", v >= 999.5 ? 0 : v >= 99.95 ? 1 : 2, v, units[u]);
	return c;
}

struct report_cell report_count(uint64_t v)
{
	static const char *const units[] = {" M", " G", " T", " P", " E"};
	struct report_cell c;
	if (v >= 10000000)
		return scaled((double)v / 1e6, 1000, units, ARRAY_SIZE(units));
	snprintf(c.s, sizeof c.s, "%llu", (unsigned long long)v);
	return c;
}

struct report_cell report_bytes(uint64_t v)
{
	static const char *const units[] = {" KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
	struct report_cell c;
	if (v >= 1024)
		return scaled((double)v / 1024, 1024, units, ARRAY_SIZE(units));
	snprintf(c.s, sizeof c.s, "%llu B", (unsigned long long)v);
	return c;
}

struct report_cell report_ns(uint64_t v)
{
	static const char *const units[] = {" us", " ms", " s"};
	struct report_cell c;
	if (v >= 1000)
		return scaled((double)v / 1e3, 1000, units, ARRAY_SIZE(units));
	snprintf(c.s, sizeof c.s, "%llu ns", (unsigned long long)v);
	return c;
}

struct report_cell report_rate(double v)
{
	struct report_cell c;
	if (v >= 1e7)
		return report_count((uint64_t)v);
	snprintf(c.s, sizeof c.s, "%.*f", v >= 100 || v == 0 ? 0 : 1, v);
	return c;
}
