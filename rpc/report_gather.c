/* One reading of all counters; see report_impl.h. Main thread, beside the writers: every load is relaxed, and what a shard has made (its rpc_shard,
 * its view) lives until daemon_stop. */
#include "core/base/check.h"
#include "core/base/count.h"
#include "core/base/log.h"
#include "rpc/report_impl.h"
#include "rpc/svc_ids.h"
#include "rpc/workers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FIELD(name_, member, counter_, help_)                                                                          \
	{                                                                                                              \
		.name = name_, .help = help_, .offset = offsetof(struct report_shard, member),                         \
		.size = sizeof(((struct report_shard *)0)->member), .counter = counter_                                \
	}

const struct report_field report_fields[REPORT_FIELDS] = {
	FIELD("connections", conns, false, "Open connections."),
	FIELD("connections_accepted", core.accepted, true, "Connections taken over."),
	FIELD("connections_handed_off", core.handed_off, true,
	      "Accepted sockets given to a shard with fewer connections."),
	FIELD("accept_errors", core.accept_errors, true, "Failed accepts, such as for lack of descriptors."),
	FIELD("sessions_native", sessions_native, false, "Open connections that speak native framing."),
	FIELD("sessions_native_opened", sessions_native_total, true, "Connections that have spoken native framing."),
	FIELD("sessions_grpc", sessions_h2, false, "Open connections that speak gRPC over HTTP/2."),
	FIELD("sessions_grpc_opened", sessions_h2_total, true, "Connections that have spoken gRPC over HTTP/2."),
	FIELD("tls_handshakes", core.handshakes, true, "TLS handshakes, finished."),
	FIELD("tls_handshakes_waiting", core.handshakes_waiting, false,
	      "Connections whose TLS handshake waits for a handshake thread."),
	FIELD("protocol_errors", protocol_errors, true, "Peers that broke their protocol."),
	FIELD("refused_streams", refused_streams, true, "HTTP/2 streams above STREAMS_MAX, refused."),
	FIELD("floods", floods, true, "Connections ended for floods of useless frames or resets."),
	FIELD("calls_live", calls, false, "Calls that are not answered yet."),
	FIELD("ids", ids.ids, true, "IDs handed out."),
	FIELD("id_claims", ids.claims, true, "Claims of IDs; each answers all requests of a turn for its sequence."),
	FIELD("id_ranges", ids.ranges, true, "Ranges of IDs received from the producer."),
	FIELD("id_requests_parked", ids.parked, true, "Requests that had to wait for a range."),
	FIELD("id_queue_depth", queue_depth, false, "Ranges of IDs waiting in the queue."),
	FIELD("bytes_in", core.bytes_in, true, "Bytes received from clients."),
	FIELD("bytes_out", core.bytes_out, true, "Bytes sent to clients."),
	FIELD("sends", core.sends, true, "Send operations."),
	FIELD("output_bytes", output, false, "Memory that holds output and partly received frames, in bytes."),
	FIELD("assembly_bytes", assembly, false, "Memory that holds partly received gRPC messages, in bytes."),
	FIELD("subscriptions", feed.subscriptions, false, "Subscriptions in flight."),
	FIELD("publishes", feed.publishes, false, "Frames that are being published."),
	FIELD("publish_bytes", feed.held, false, "Memory that holds frames which wait for their stream, in bytes."),
	FIELD("pieces", feed.pieces, false, "Pieces of streams that are being sent."),
	FIELD("timers", timers, false, "Timers that are armed."),
	FIELD("turns", core.turns, true, "Turns of the loop."),
	FIELD("inputs_put_off", core.put_off, true, "Receipts that had to wait for a later turn (TURN_US)."),
	FIELD("sleeps", core.sleeps, true, "Turns that began with a wait that could sleep."),
	FIELD("doorbell_rings", rings, true, "Times that another thread woke it."),
	FIELD("ring_enters", ring.enters, true, "io_uring_enter system calls."),
	FIELD("ring_submitted", ring.submitted, true, "Operations submitted to the kernel."),
	FIELD("ring_events", ring.events, true, "Completions taken from the kernel."),
	FIELD("ring_cq_overflows", ring.cq_overflow, true,
	      "Waits that found the completion queue overflowed (CQ_ENTRIES)."),
	FIELD("recv_starved", ring.buffer_starved, true, "Receives that ended for lack of buffers (RECV_BUFFERS)."),
	FIELD("recv_buffers", ring.bufs, false, "Receive buffers."),
	FIELD("recv_buffers_free", ring.bufs_free, false, "Receive buffers that are with the kernel."),
};

uint64_t report_field_get(const struct report_shard *s, const struct report_field *f)
{
	const char *p = (const char *)s + f->offset;
	uint32_t v32;
	uint64_t v64;
	if (f->size == sizeof v32) {
		memcpy(&v32, p, sizeof v32);
		return v32;
	}
	memcpy(&v64, p, sizeof v64);
	return v64;
}

static void field_add(struct report_shard *s, const struct report_field *f, uint64_t n)
{
	uint64_t v = report_field_get(s, f) + n;
	uint32_t v32 = (uint32_t)v;
	memcpy((char *)s + f->offset, f->size == sizeof v32 ? (void *)&v32 : (void *)&v, f->size);
}

/* Structures of nothing but counters. */
static void read_counters(void *to, const void *from, size_t bytes)
{
	uint64_t *t = to;
	const uint64_t *f = from;
	for (size_t i = 0; i < bytes / sizeof *t; i++)
		t[i] = count_get(&f[i]);
}
_Static_assert(sizeof(struct shard_stats) % sizeof(uint64_t) == 0, "shard_stats are counters");
_Static_assert(sizeof(struct ids_view_stats) % sizeof(uint64_t) == 0, "ids_view_stats are counters");

/* CPU time of a shard's thread, which need not have been joined; of one that has ended, the last that was known. */
static uint64_t shard_cpu_ns(struct report *r, unsigned i)
{
	struct timespec ts;
	clockid_t clock;
	if (!shard_has_ended(&r->d->shards[i]) && pthread_getcpuclockid(r->d->shards[i].thread, &clock) == 0 &&
	    clock_gettime(clock, &ts) == 0)
		r->cpu_ns[i] = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	return r->cpu_ns[i];
}

static void read_shard(struct report *r, unsigned i, struct report_shard *ret)
{
	const struct shard *s = &r->d->shards[i];
	const struct rpc_shard *rpc = &r->d->rpc[i];
	const struct ring_stats *ring = &s->ring_stats;
	read_counters(&ret->core, &s->stats, sizeof ret->core);
	ret->ring = (struct ring_stats){
		.enters = count_get(&ring->enters),
		.submitted = count_get(&ring->submitted),
		.events = count_get(&ring->events),
		.sq_full = count_get(&ring->sq_full),
		.cq_overflow = count_get(&ring->cq_overflow),
		.buffer_starved = count_get(&ring->buffer_starved),
		.bufs = count_get(&ring->bufs),
		.bufs_free = count_get(&ring->bufs_free),
	};
	if (rpc->ids) {
		const struct ids_view *v = svc_ids_view(rpc);
		read_counters(&ret->ids, ids_view_stats(v), sizeof ret->ids);
		workers_add_ids(r->d->workers, i, &ret->ids);
		ret->queue_depth = ids_view_queue_depth(v);
	}
	ret->sessions_h2 = count_get(&rpc->sessions_h2);
	ret->sessions_native = count_get(&rpc->sessions_native);
	ret->sessions_h2_total = count_get(&rpc->sessions_h2_total);
	ret->sessions_native_total = count_get(&rpc->sessions_native_total);
	ret->protocol_errors = count_get(&rpc->protocol_errors);
	ret->refused_streams = count_get(&rpc->refused_streams);
	ret->floods = count_get(&rpc->floods);
	ret->calls = count_get(&rpc->calls);
	ret->assembly = count_get(&rpc->assembly.bytes);
	ret->output = count_get(&s->pool.bytes_out);
	if (rpc->feed)
		svc_feed_figures(rpc, &ret->feed);
	ret->timers = count_get(&s->wheel.armed);
	ret->rings = atomic_load_explicit(&s->bell.rings, memory_order_relaxed);
	ret->conns = atomic_load_explicit(&s->conn_count, memory_order_relaxed);
	ret->phase = atomic_load_explicit(&s->phase, memory_order_relaxed);
	ret->cpu = s->cpu;
	ret->node = s->node;
	ret->cpu_ns = shard_cpu_ns(r, i);
	ret->busy = rates_per_s(&r->rates, REPORT_RATE_COUNT + REPORT_RATES_MAX + i, RATES_PERIOD_NS) / 1e9;
}

static void sum_shard(struct report_shard *sum, const struct report_shard *s)
{
	for (unsigned i = 0; i < REPORT_FIELDS; i++)
		field_add(sum, &report_fields[i], report_field_get(s, &report_fields[i]));
	for (unsigned i = 0; i < CONN_R_COUNT; i++)
		sum->core.ended[i] += s->core.ended[i];
	sum->ring.sq_full += s->ring.sq_full;
	sum->cpu_ns += s->cpu_ns;
	sum->busy += s->busy;
}

static void read_methods(struct report *r, struct report_data *d)
{
	for (unsigned m = 0; m <= d->methods; m++) {
		struct method_stats *to = &d->method[m];
		hist_init(&to->latency_ns);
		for (unsigned i = 0; i < d->shards; i++) {
			const struct method_stats *from = r->d->rpc[i].stats ? &r->d->rpc[i].stats[m] : NULL;
			if (!from)
				continue;
			for (unsigned k = 0; k < GRPC_STATUS_COUNT; k++)
				to->by_status[k] += count_get(&from->by_status[k]);
			to->messages_in += count_get(&from->messages_in);
			to->messages_out += count_get(&from->messages_out);
			hist_merge(&to->latency_ns, &from->latency_ns);
		}
	}
}

/* Keeps the ones with the most windows, in the order of their slots. */
static void read_sequences(struct report *r, struct report_data *d)
{
	struct ids_sequence_info info;
	if (!r->d->ids)
		return;
	d->sequences = ids_sequence_count(r->d->ids);
	for (uint32_t slot = 0; slot < d->sequences && ids_sequence_info(r->d->ids, slot, &info); slot++) {
		uint32_t n = d->sequences_shown, least = 0;
		if (n == REPORT_SEQUENCES_MAX) {
			for (uint32_t i = 1; i < n; i++)
				least = d->sequence[i].windows <= d->sequence[least].windows ? i : least;
			if (info.windows <= d->sequence[least].windows)
				continue;
			n--;
			memmove(&d->sequence[least], &d->sequence[least + 1], (n - least) * sizeof info);
		}
		d->sequence[n] = info;
		d->sequences_shown = n + 1;
	}
}

static void read_journal(struct report *r, struct report_data *d)
{
	struct journal_stats *to = &d->journal;
	hist_init(&to->sync_ns);
	hist_init(&to->group_records);
	to->method = "";
	d->has_journal = r->d->journal != NULL;
	if (!d->has_journal)
		return;
	const struct journal_stats *from = journal_stats(r->d->journal);
	to->records = count_get(&from->records);
	to->bytes = count_get(&from->bytes);
	to->groups = count_get(&from->groups);
	to->syncs = count_get(&from->syncs);
	to->segments = count_get(&from->segments);
	to->prepared = count_get(&from->prepared);
	to->recycled = count_get(&from->recycled);
	to->files_closed = count_get(&from->files_closed);
	hist_merge(&to->sync_ns, &from->sync_ns);
	hist_merge(&to->group_records, &from->group_records);
	to->method = from->method ? from->method : "";
	d->journal_failed = journal_has_failed(r->d->journal);
}

/* The descriptors of the process. Newer kernels tell in the size of the folder; others are asked for each. */
static uint64_t count_descriptors(void)
{
	struct stat st;
	uint64_t n = 0;
	if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
		return (uint64_t)st.st_size;
	DIR *dir = opendir("/proc/self/fd");
	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n > 3 ? n - 3 : 0; /* ".", ".." and the folder's own */
}

static void read_process(struct report_data *d)
{
	struct timespec ts;
	char buf[128] = "";
	unsigned long pages = 0;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = read(fd, buf, sizeof buf - 1);
		if (n > 0 && sscanf(buf, "%*u %lu", &pages) == 1)
			d->resident = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
		close(fd);
	}
	d->descriptors = count_descriptors();
	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) == 0)
		d->cpu_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void report_data_free(struct report_data *d)
{
	if (d)
		free(d->method);
	free(d);
}

struct report_data *report_gather(struct report *r, uint64_t now_ns)
{
	struct report_data *d = calloc(1, sizeof *d);
	if (!d)
		return NULL;
	d->report = r;
	d->shards = r->d->topo.shards;
	d->methods = r->d->methods.count;
	d->method = calloc(d->methods + 1, sizeof *d->method);
	if (!d->method) {
		free(d);
		return NULL;
	}
	d->uptime_ns = now_ns - r->d->start_ns;
	for (unsigned i = 0; i < d->shards; i++) {
		read_shard(r, i, &d->shard[i]);
		sum_shard(&d->sum, &d->shard[i]);
	}
	read_methods(r, d);
	read_sequences(r, d);
	read_journal(r, d);
	read_process(d);
	d->log_written = log_written();
	d->log_dropped = log_dropped();
	return d;
}

void report_sums(struct report *r, uint64_t *ret)
{
	memset(ret, 0, r->rates.columns * sizeof *ret);
	for (unsigned i = 0; i < r->d->topo.shards; i++) {
		const struct rpc_shard *rpc = &r->d->rpc[i];
		const struct shard_stats *s = &r->d->shards[i].stats;
		for (unsigned k = 0; rpc->stats && k < r->d->methods.count * GRPC_STATUS_COUNT; k++)
			ret[REPORT_RATE_CALLS] += count_get(
				&rpc->stats[k / GRPC_STATUS_COUNT].by_status[k % GRPC_STATUS_COUNT]);
		if (rpc->ids) {
			struct ids_view_stats handed = {0};
			workers_add_ids(r->d->workers, i, &handed);
			ret[REPORT_RATE_IDS] += count_get(&ids_view_stats(svc_ids_view(rpc))->ids) + handed.ids;
		}
		ret[REPORT_RATE_CONNECTIONS] += count_get(&s->accepted);
		ret[REPORT_RATE_BYTES_IN] += count_get(&s->bytes_in);
		ret[REPORT_RATE_BYTES_OUT] += count_get(&s->bytes_out);
		ret[REPORT_RATE_COUNT + REPORT_RATES_MAX + i] = shard_cpu_ns(r, i);
	}
	if (r->d->journal) {
		ret[REPORT_RATE_SYNCS] = count_get(&journal_stats(r->d->journal)->syncs);
		ret[REPORT_RATE_JOURNAL_BYTES] = count_get(&journal_stats(r->d->journal)->bytes);
	}
	for (unsigned i = 0; i < r->added_count; i++)
		ret[REPORT_RATE_COUNT + i] = r->added[i].sum(r->added[i].ctx);
}
