/* The report's section about refusals: the shards' tables added up, by reason and by address. Main thread; see rpc/refusals.h for how entries
 * are read beside their writers. Addresses are in /stats and /stats.json, where the reader may know them (report_page); /metrics has the reasons
 * only, because clients make addresses up. */
#include "core/base/check.h"
#include "core/base/count.h"
#include "rpc/refusals.h"
#include "rpc/report_impl.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_TEXT = 10, SHOWN_JSON = 100 };

struct sums {
	uint64_t by_reason[REFUSAL_COUNT];
	unsigned n;
	struct sum {
		uint64_t ip[2], total, by_reason[REFUSAL_COUNT];
	} address[];
};

/* false: none, or replaced in this instant for the third time. */
static bool read_entry(const struct refusals_address *e, struct sum *ret)
{
	for (unsigned tries = 0; tries < 3; tries++) {
		uint32_t version = __atomic_load_n(&e->version, __ATOMIC_ACQUIRE);
		*ret = (struct sum){.ip = {count_get(&e->ip[0]), count_get(&e->ip[1])}};
		for (unsigned i = 0; i < REFUSAL_COUNT; i++)
			ret->total += ret->by_reason[i] = count_get(&e->by_reason[i]);
		atomic_thread_fence(memory_order_acquire); /* pairs with entry_of */
		if (!(version & 1) && count_get(&e->version) == version)
			return ret->total > 0;
	}
	return false;
}

static int by_ip(const void *a, const void *b)
{
	return memcmp(((const struct sum *)a)->ip, ((const struct sum *)b)->ip, sizeof((const struct sum *)0)->ip);
}

static int by_total(const void *a, const void *b)
{
	const struct sum *x = a, *y = b;
	return x->total > y->total ? -1 : x->total < y->total ? 1 : by_ip(a, b);
}

/* The same address may be in the tables of several shards. */
static void merge(struct sums *s)
{
	unsigned n = 0;
	qsort(s->address, s->n, sizeof *s->address, by_ip);
	for (unsigned i = 0; i < s->n; i++) {
		const struct sum *from = &s->address[i];
		if (n && by_ip(&s->address[n - 1], from) == 0) {
			for (unsigned k = 0; k < REFUSAL_COUNT; k++)
				s->address[n - 1].by_reason[k] += from->by_reason[k];
			s->address[n - 1].total += from->total;
		} else {
			s->address[n++] = *from;
		}
	}
	s->n = n;
	qsort(s->address, n, sizeof *s->address, by_total);
}

static struct sums *gather(const struct report *report)
{
	const struct daemon *d = report->d;
	struct sums *s = calloc(1, sizeof *s + (size_t)d->topo.shards * REFUSALS_ADDRESSES * sizeof *s->address);
	for (unsigned i = 0; s && i < d->topo.shards; i++) {
		const struct refusals *r = d->rpc[i].refusals;
		for (unsigned k = 0; r && k < REFUSAL_COUNT; k++)
			s->by_reason[k] += count_get(&r->by_reason[k]);
		for (unsigned k = 0; r && k < REFUSALS_ADDRESSES; k++)
			s->n += read_entry(&r->address[k], &s->address[s->n]);
	}
	if (s)
		merge(s);
	return s;
}

static const char *ip_text(const uint64_t ip[2], char buf[INET6_ADDRSTRLEN + 4])
{
	struct in6_addr a;
	memcpy(&a, ip, sizeof a);
	bool v4 = IN6_IS_ADDR_V4MAPPED(&a);
	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? (const void *)(a.s6_addr + 12) : &a, buf, INET6_ADDRSTRLEN);
	if (!v4 && !IN6_IS_ADDR_LOOPBACK(&a))
		memcpy(buf + strlen(buf), "/64", 4);
	return buf;
}

static void put_reasons(struct text *to, const uint64_t *by_reason)
{
	bool any = false;
	for (unsigned k = 0; k < REFUSAL_COUNT; k++) {
		if (!by_reason[k])
			continue;
		text_printf(to, "%s%s %" PRIu64, any ? ", " : "", refusal_name((enum refusal)k), by_reason[k]);
		any = true;
	}
	text_printf(to, "%s\n", any ? "" : "none");
}

static void put_text(void *ctx, struct text *to)
{
	const struct report *report = ctx;
	struct sums *s = gather(report);
	char ip[INET6_ADDRSTRLEN + 4];
	if (!s)
		return;
	text_printf(to, "  in all: ");
	put_reasons(to, s->by_reason);
	for (unsigned i = 0; report->addresses && i < s->n && i < SHOWN_TEXT; i++) {
		text_printf(to, "  %s: ", ip_text(s->address[i].ip, ip));
		put_reasons(to, s->address[i].by_reason);
	}
	if (s->n && !report->addresses)
		text_printf(
			to,
			"  the addresses are told where rules of access (ACCESS_FILE) give the right stats, and on the stats socket\n");
	else if (s->n > SHOWN_TEXT)
		text_printf(to, "  and %u more addresses\n", s->n - SHOWN_TEXT);
	free(s);
}

static void json_reasons(struct json *j, const char *key, const uint64_t *by_reason, bool all)
{
	json_open(j, key, '{');
	for (unsigned k = 0; k < REFUSAL_COUNT; k++) {
		if (all || by_reason[k])
			json_u64(j, refusal_name((enum refusal)k), by_reason[k]);
	}
	json_close(j, '}');
}

static void put_json(void *ctx, struct json *j)
{
	const struct report *report = ctx;
	struct sums *s = gather(report);
	char ip[INET6_ADDRSTRLEN + 4];
	if (!s)
		return;
	json_reasons(j, "by_reason", s->by_reason, true);
	json_bool(j, "addresses_withheld", !report->addresses);
	json_open(j, "by_address", '[');
	for (unsigned i = 0; report->addresses && i < s->n && i < SHOWN_JSON; i++) {
		json_open(j, NULL, '{');
		json_str(j, "address", ip_text(s->address[i].ip, ip));
		json_u64(j, "total", s->address[i].total);
		json_reasons(j, "by_reason", s->address[i].by_reason, false);
		json_close(j, '}');
	}
	json_close(j, ']');
	free(s);
}

static void put_metrics(void *ctx, struct text *to)
{
	struct sums *s = gather(ctx);
	if (!s)
		return;
	report_metric_head(to, "ordinal_refusals_total", "counter", "Connections, calls and requests refused, by why.");
	for (unsigned k = 0; k < REFUSAL_COUNT; k++)
		text_printf(to, "ordinal_refusals_total{reason=\"%s\"} %" PRIu64 "\n", refusal_name((enum refusal)k),
			    s->by_reason[k]);
	free(s);
}

void refusals_report(struct report *report)
{
	report_add_section(report, &(struct report_section){.key = "refusals",
							    .title = "Refused",
							    .text = put_text,
							    .json = put_json,
							    .metrics = put_metrics,
							    .ctx = report});
}
