/* The inside of the report: one reading of all counters, which the three renderings share. For rpc/report*.c and their tests only. */
#ifndef ORDINAL_RPC_REPORT_IMPL_H
#define ORDINAL_RPC_REPORT_IMPL_H

#include "rpc/daemon.h"
#include "rpc/rates.h"
#include "rpc/report.h"
#include "rpc/svc_feed.h"

/* Sums that the rates are made of. Added ones and the shards' CPU time follow. */
enum report_rate_id {
	REPORT_RATE_CALLS,
	REPORT_RATE_IDS,
	REPORT_RATE_CONNECTIONS,
	REPORT_RATE_BYTES_IN,
	REPORT_RATE_BYTES_OUT,
	REPORT_RATE_SYNCS,
	REPORT_RATE_JOURNAL_BYTES,
	REPORT_RATE_COUNT
};

struct report_added_rate {
	const char *name;
	uint64_t (*sum)(void *ctx);
	void *ctx;
};

struct report {
	struct daemon *d;
	struct rates rates;
	struct report_section section[REPORT_SECTIONS_MAX];
	unsigned sections;
	struct report_added_rate added[REPORT_RATES_MAX];
	unsigned added_count;
	uint64_t cpu_ns[SHARD_MAX]; /* the last known, for shards that have ended */
	int64_t start_wall_ns;
	uint32_t fingerprint; /* of the configuration in force */
	bool addresses;       /* the page being rendered may tell those of clients */
};

/* One shard's figures, or the sum of all. */
struct report_shard {
	struct shard_stats core;
	struct ring_stats ring;
	struct ids_view_stats ids;
	uint64_t sessions_h2, sessions_native, sessions_h2_total, sessions_native_total;
	uint64_t protocol_errors, refused_streams, floods;
	uint64_t assembly, output, rings;
	struct svc_feed_figures feed;
	uint32_t timers;
	uint64_t cpu_ns;
	uint32_t conns, calls, queue_depth;
	double busy; /* CPU time by time, over the last second */
	int cpu, node;
	unsigned phase;
};

/* A figure of a shard that is a plain number: its place, and how it is called in JSON and (with "ordinal_", and "_total" after counters) in metrics. */
struct report_field {
	const char *name, *help;
	uint16_t offset;
	uint8_t size; /* 4 or 8 */
	bool counter; /* else a gauge */
};
#define REPORT_FIELDS 40
extern const struct report_field report_fields[REPORT_FIELDS];
uint64_t report_field_get(const struct report_shard *s, const struct report_field *f);

struct report_data {
	const struct report *report;
	uint64_t uptime_ns, cpu_ns, resident; /* of the process; bytes */
	uint64_t descriptors;                 /* that it has open */
	unsigned shards;
	struct report_shard shard[SHARD_MAX], sum;
	unsigned methods;
	struct method_stats *method; /* methods + 1: the last are calls refused before they began */
	uint32_t sequences, sequences_shown;
	struct ids_sequence_info sequence[REPORT_SEQUENCES_MAX];
	bool has_journal, journal_failed;
	struct journal_stats journal;
	uint64_t log_written, log_dropped;
};

/* Reads all counters. NULL without memory. */
struct report_data *report_gather(struct report *r, uint64_t now_ns);
void report_data_free(struct report_data *d);
/* The sums that rates are made of: r->rates.columns of them. */
void report_sums(struct report *r, uint64_t *ret);

/* A name, "calls", and its rate; NULL after the last. */
const char *report_rate_name(const struct report *r, unsigned i);
double report_rate_of(const struct report *r, unsigned i, unsigned seconds);
const char *report_phase_name(unsigned phase);
/* To the millisecond. */
static inline double report_seconds(uint64_t ns)
{
	uint64_t ms = ns / 1000000;
	return (double)ms / 1e3;
}
static inline bool report_is_sharded(const struct report *r)
{
	return r->d->cfg.id_order == ID_ORDER_SHARDED;
}

void report_text(const struct report_data *d, struct text *to);
void report_json(const struct report_data *d, struct text *to);
void report_metrics(const struct report_data *d, struct text *to);

#endif
