/* What the daemon tells about itself: gathers every counter from the daemon's parts and renders them as /stats (for people), /stats.json and
 * /metrics (Prometheus text exposition format 0.0.4). The answers of the stats socket, and of ordinal.v1.Stats. Main thread; the counters are their writers' own and are read with
 * relaxed loads, so figures that belong together may be a moment apart. */
#ifndef ORDINAL_RPC_REPORT_H
#define ORDINAL_RPC_REPORT_H

#include "core/base/text.h"

#include <stdint.h>

struct daemon;
struct pages;
struct report;

#define REPORT_SECTIONS_MAX 8
#define REPORT_RATES_MAX 8
#define REPORT_SEQUENCES_MAX 100 /* the busiest; how many there are in all is told as well */

/* A service's own part of the report. Each function may be NULL. */
struct report_section {
	const char *key;                          /* of its object in /stats.json */
	const char *title;                        /* its heading in /stats */
	void (*text)(void *ctx, struct text *to); /* lines, indented by two spaces */
	void (*json)(void *ctx, struct json *to); /* members of an object that is open */
	void (*metrics)(void *ctx,
			struct text *to); /* whole families, with report_metric_head; names begin with "ordinal_" */
	void *ctx;
};

/* `d` must outlive it, and must not be stopped meanwhile; it may be draining. 0 or -errno. */
int report_new(struct daemon *d, struct report **ret);
void report_free(struct report *r);

/* Before the first sample. The strings stay the caller's. */
void report_add_section(struct report *r, const struct report_section *s);
/* A sum that only grows ("frames"): reported as a rate over 1, 10 and 60 s. */
void report_add_rate(struct report *r, const char *name, uint64_t (*sum)(void *ctx), void *ctx);

/* To be called when due (monotonic), about once a second: takes a sample for the rates. */
uint64_t report_due_ns(const struct report *r);
void report_sample(struct report *r, uint64_t now_ns);

enum report_form { REPORT_TEXT, REPORT_JSON, REPORT_METRICS, REPORT_FORMS };
/* The page of a form; returns its content type. Without `addresses` no client's address is in it (body->failed: no memory). */
const char *report_page(struct report *r, enum report_form form, bool addresses, struct text *body);
/* The same for the network (report_network.c), a pages_render: a StatsReply as gRPC frames it; ctx is the report, `kind` report_kind's. */
#define REPORT_KINDS (2 * REPORT_FORMS)
static inline unsigned report_kind(enum report_form form, bool addresses)
{
	return (unsigned)form * 2 + addresses;
}
void report_reply(void *ctx, unsigned kind, struct text *to);
/* Adds the section that says how many of these were rendered. */
void report_join_pages(struct report *r, struct pages *pages);
/* Answers a path, as a statsock_get; ctx is the report. */
unsigned report_get(void *ctx, struct span path, struct text *body, const char **ret_type);

/* For sections: the # HELP and # TYPE lines of a family ("counter", "gauge", "histogram"), and a label's value, escaped. */
void report_metric_head(struct text *t, const char *name, const char *type, const char *help);
void report_metric_label(struct text *t, struct span value);

/* For sections: numbers with their units, for people. */
struct report_cell {
	char s[32];
};
struct report_cell report_count(uint64_t v); /* 1234567, 12.35 M */
struct report_cell report_bytes(uint64_t v); /* 1.2 KiB */
struct report_cell report_ns(uint64_t v);    /* 12.3 us */
struct report_cell report_rate(double v);    /* 12.3, 123456, 1.23 M */

#endif
