/* What the files of `ordinal load` share: load_options.c, cmd_load.c (threads, phases, live line), load_worker.c (the loop of a thread that makes calls),
 * load_report.c and load_report_feed.c (the end). load_check.c stands alone, as do the subscribers: subs.h. */
#ifndef ORDINAL_TOOLS_LOAD_H
#define ORDINAL_TOOLS_LOAD_H

#include "core/base/check.h"
#include "core/base/hist.h"
#include "rpc/client/address.h"
#include "rpc/client/channel.h"
#include "rpc/wire/grpc.h"
#include "tools/feed_codec.h"
#include "tools/load_check.h"
#include "tools/subs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LOAD_THREADS_MAX 256
#define LOAD_CPUS_MAX 1024

enum load_kind { LOAD_IDS, LOAD_PUBLISH, LOAD_FANOUT, LOAD_SUBSCRIBE };
/* seq_no of what is published: the same for all, or each publisher's own, rising. */
enum load_seq { LOAD_SEQ_AUTO, LOAD_SEQ_SAME, LOAD_SEQ_RISING };

struct load_opts {
	const char *server;
	struct address address;
	enum channel_protocol protocol;
	bool tls;
	enum load_kind kind;
	unsigned method; /* of the calls that the workers make */
	bool streaming;  /* that method is one long call a connection */
	struct span sequence;
	uint32_t count;                       /* IDs in a call */
	uint32_t connections, depth, threads; /* threads 0: no calls (LOAD_SUBSCRIBE) */
	uint64_t duration_ns;                 /* of measuring; UINT64_MAX: until `requests` are done */
	uint64_t requests;                    /* calls to measure; 0: no limit */
	uint64_t warmup_ns;
	double rate;         /* calls/s in all, open loop; 0: closed loop */
	uint64_t timeout_ns; /* of each call; 0: none */
	/* Frames. */
	struct span stream;
	uint32_t size; /* bytes of a payload */
	enum load_seq seq;
	uint64_t seq_base; /* the lowest seq_no of this run */
	uint64_t run;      /* load_stamp.h */
	uint64_t since;    /* LOAD_SUBSCRIBE */
	uint32_t subscribers, sub_threads;
	enum feed_slow slow;
	enum subs_verify verify;
	uint32_t lag; /* frames that publishers may be ahead of the slowest subscriber, closed loop; 0: no matter */
	bool duration_given, protocol_given;
	bool json, live;
	int cpus[LOAD_CPUS_MAX]; /* thread i runs on cpus[i % cpus_n] */
	unsigned cpus_n;         /* 0: not pinned */
};

enum load_phase { LOAD_CONNECT, LOAD_WARMUP, LOAD_MEASURE, LOAD_STOP };

/* One run. */
struct load {
	struct load_opts opts;
	struct check_pages *pages;
	_Alignas(CACHE_LINE)
		atomic_int phase;     /* written by the main thread; relaxed, nothing is published through it */
	atomic_uint connected, ended; /* workers that stand ready / have finished */
	atomic_bool failed;           /* a worker could not connect */
	/* The highest ID in any reply that any worker has received. A worker raises it after the replies of a loop turn, and reads it before the
	 * requests of the turn are sent: what it reads was received before. Acquire and release are not needed for one number. */
	_Alignas(CACHE_LINE) atomic_uint_fast64_t highest;
	/* Of the sequence or stream, as the first reply said; 0: none has yet. */
	atomic_uint_fast64_t incarnation;
	/* LOAD_FANOUT: frames that have been started, in all. */
	_Alignas(CACHE_LINE) atomic_uint_fast64_t issued;
	struct subs subs;
	uint64_t *acked; /* of each publisher: written by the worker that has it, read when it has ended */
};

#define LOAD_STATUS_OTHER GRPC_STATUS_COUNT /* codes beyond gRPC's */

/* What one worker counts: written by it alone with hist_bump, read by the main thread at any time. */
struct load_counts {
	struct hist latency;   /* ns, of every measured call that was answered, whatever the answer */
	uint64_t calls, items; /* measured calls that ended; IDs that they brought, or frames */
	uint64_t by_status[LOAD_STATUS_OTHER + 1];
	uint64_t unprocessed;     /* calls that a leaving server gave back untouched, and no other took */
	uint64_t unsent;          /* open loop: calls that were due and never sent */
	uint64_t disordered;      /* IDs not above what anybody had received before the request was sent */
	uint64_t disordered_here; /* the same, counting only what this connection had received */
	uint64_t lost;            /* connections that ended otherwise than by a drain */
	/* IDs of another incarnation of the sequence than the first reply's: not checked */
	uint64_t elsewhere;
};

struct load_worker {
	struct load *load;
	unsigned number;
	uint32_t connections;
	uint32_t publisher_first; /* number of its first connection */
	pthread_t thread;
	_Alignas(CACHE_LINE) struct load_counts counts;
	/* Read by the main thread after the worker has ended (or has set load->failed). */
	uint64_t ended_ns, cpu_ns;
	uint32_t depth;      /* in flight on each connection: less than asked for if the server allows less */
	uint32_t gone;       /* connections that could not be had again */
	bool sharded;        /* a reply said so */
	unsigned durability; /* as replies said */
	int err;             /* why it stopped early, if not for lack of connections */
	char why[256];       /* of the first connection that failed or was lost */
};

/* Thread body; arg is a struct load_worker. */
void *load_worker_run(void *arg);

struct load_totals {
	struct load_counts counts;
	struct check_result check;
	uint64_t elapsed_ns, cpu_ns;
	uint32_t depth, gone;
	bool sharded;
	unsigned durability;
	const char *why; /* of the first loss, or NULL */
	/* LOAD_FANOUT, LOAD_SUBSCRIBE */
	struct subs_counts subs;
	struct subs_result subs_result;
	uint64_t subs_elapsed_ns;
};
/* Prints the report on standard output. Returns whether no call failed and the check holds. */
bool load_report(const struct load_opts *o, const struct load_totals *t);

/* load_options.c: 0; TOOL_USAGE after a line on standard error; or -1 after --help. */
int load_read_options(struct load_opts *o, int argc, char **argv);

/* load_report_feed.c: likewise, of subscribers. */
bool load_report_feed(const struct load_opts *o, const struct load_totals *t);

/* Shared by the reports. */
#define LOAD_QUANTILES 6
struct load_quantile {
	const char *json, *text;
	double q;
};
extern const struct load_quantile load_quantiles[LOAD_QUANTILES];
void load_json_latency(const struct hist *h); /* "latency_us":{…} */
void load_text_latency(const char *head, const struct hist *h);
void load_json_statuses(const struct load_counts *c); /* "by_status":{…} */
const char *load_protocol(const struct load_opts *o); /* "grpc over TLS" */
uint64_t load_errors(const struct load_counts *c);
double load_per_second(uint64_t n, uint64_t elapsed_ns);

#endif
