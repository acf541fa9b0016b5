/* The report as ordinal.v1.Stats sends it: pages for the shards (rpc/pages.h), each a StatsReply as gRPC frames it. Main thread. */
#include "rpc/pages.h"
#include "rpc/report.h"
#include "rpc/wire/grpc.h"
#include "rpc/wire/pb.h"

#include <inttypes.h>
#include <string.h>

enum { REPLY_CONTENT_TYPE = 1, REPLY_BODY = 2, WIRE_LEN = 2 };

static void put_bytes(struct text *to, uint32_t field, const void *p, size_t n)
{
	uint8_t head[1 + PB_VARINT_MAX] = {(uint8_t)(field << 3 | WIRE_LEN)};
	text_add(to, head, 1 + pb_put_varint(head + 1, n));
	text_add(to, p, n);
}

void report_reply(void *ctx, unsigned kind, struct text *to)
{
	struct text body = {0};
	uint8_t prefix[GRPC_PREFIX] = {0};
	const char *type = report_page(ctx, (enum report_form)(kind / 2), kind % 2, &body);
	text_add(to, prefix, sizeof prefix);
	put_bytes(to, REPLY_CONTENT_TYPE, type, strlen(type));
	put_bytes(to, REPLY_BODY, body.p, body.n);
	to->failed |= body.failed;
	if (!to->failed)
		store_be32((uint8_t *)to->p + 1, (uint32_t)(to->n - GRPC_PREFIX));
	text_done(&body);
}

static void put_text(void *ctx, struct text *to)
{
	text_printf(to, "  pages rendered %s\n", report_count(pages_rendered(ctx)).s);
}

static void put_json(void *ctx, struct json *to)
{
	json_u64(to, "pages_rendered", pages_rendered(ctx));
}

static void put_metrics(void *ctx, struct text *to)
{
	report_metric_head(to, "ordinal_network_stats_pages_total", "counter",
			   "Pages of figures rendered for callers of ordinal.v1.Stats; each may answer many.");
	text_printf(to, "ordinal_network_stats_pages_total %" PRIu64 "\n", pages_rendered(ctx));
}

void report_join_pages(struct report *report, struct pages *pages)
{
	report_add_section(report, &(struct report_section){.key = "network_stats",
							    .title = "Stats over the network",
							    .text = put_text,
							    .json = put_json,
							    .metrics = put_metrics,
							    .ctx = pages});
}
