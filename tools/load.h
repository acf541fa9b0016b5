/* What the files of `ordinal load` share: cmd_load.c (options, threads, live line), load_worker.c (the loop of one thread), load_report.c
 * (the end). load_check.c stands alone. */
#ifndef ORDINAL_TOOLS_LOAD_H
#define ORDINAL_TOOLS_LOAD_H

#include "core/base/check.h"
#include "core/base/hist.h"
#include "rpc/client/address.h"
#include "rpc/client/channel.h"
#include "rpc/wire/grpc.h"
#include "tools/load_check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LOAD_THREADS_MAX 256
#define LOAD_CPUS_MAX 1024

struct load_opts {
	const char *server, *token;
	struct address address;
	enum channel_protocol protocol;
	unsigned method; /* METHOD_IDS_NEXT or METHOD_IDS_TAKE */
	struct span sequence;
	uint32_t count; /* IDs in a call */
	uint32_t connections, depth, threads;
	uint64_t duration_ns; /* of measuring; UINT64_MAX: until `requests` are done */
	uint64_t requests;    /* calls to measure; 0: no limit */
	uint64_t warmup_ns;
	double rate;         /* calls/s in all, open loop; 0: closed loop */
	uint64_t timeout_ns; /* of each call; 0: none */
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
};

#define LOAD_STATUS_OTHER GRPC_STATUS_COUNT /* codes beyond gRPC's */

/* What one worker counts: written by it alone with hist_bump, read by the main thread at any time. */
struct load_counts {
	struct hist latency;   /* ns, of every measured call that was answered, whatever the answer */
	uint64_t calls, items; /* measured calls that ended; IDs that they brought */
	uint64_t by_status[LOAD_STATUS_OTHER + 1];
	uint64_t unprocessed;     /* calls that a leaving server gave back untouched, and no other took */
	uint64_t unsent;          /* open loop: calls that were due and never sent */
	uint64_t disordered;      /* IDs not above what anybody had received before the request was sent */
	uint64_t disordered_here; /* the same, counting only what this connection had received */
	uint64_t lost;            /* connections that ended otherwise than by a drain */
};

struct load_worker {
	struct load *load;
	unsigned number;
	uint32_t connections;
	pthread_t thread;
	_Alignas(CACHE_LINE) struct load_counts counts;
	/* Read by the main thread after the worker has ended (or has set load->failed). */
	uint64_t ended_ns, cpu_ns;
	uint32_t depth; /* in flight on each connection: less than asked for if the server allows less */
	uint32_t gone;  /* connections that could not be had again */
	bool sharded;   /* a reply said so */
	int err;        /* why it stopped early, if not for lack of connections */
	char why[256];  /* of the first connection that failed or was lost */
};

/* Thread body; arg is a struct load_worker. */
void *load_worker_run(void *arg);

struct load_totals {
	struct load_counts counts;
	struct check_result check;
	uint64_t elapsed_ns, cpu_ns;
	uint32_t depth, gone;
	bool sharded;
	const char *why; /* of the first loss, or NULL */
};
/* Prints the report on standard output. Returns whether no call failed and the check holds. */
bool load_report(const struct load_opts *o, const struct load_totals *t);

#endif
