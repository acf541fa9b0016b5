/* The daemon as a whole: every part made, joined, started, drained and freed in order. For rpc/ordinald.c, and (to read) for rpc/report.c. Main
 * thread; what other threads write is read with relaxed loads. */
#ifndef ORDINAL_RPC_DAEMON_H
#define ORDINAL_RPC_DAEMON_H

#include "core/config.h"
#include "core/fd_plan.h"
#include "core/journal.h"
#include "core/listener.h"
#include "core/shard.h"
#include "core/tls.h"
#include "core/topo.h"
#include "queue/ids.h"
#include "queue/stream.h"
#include "rpc/call.h"
#include "rpc/pages.h"

/* What shards and sessions go by. It never changes: a reload makes a new one, and each shard takes it over between two turns. */
struct daemon_options {
	struct shard_opts shard;
	struct rpc_opts rpc;
	struct daemon_options *older; /* may still be in use, if a shard is stuck */
};

struct daemon {
	struct config cfg;
	struct topo topo;
	struct fd_plan fds;
	_Atomic(struct daemon_options *) options;
	_Atomic(const struct daemon_options *) options_of[SHARD_MAX]; /* those that each shard goes by; written by it */
	struct listener listener;                                     /* the descriptors are the shards' */
	struct method_table methods;
	struct journal *journal;
	struct ids *ids;
	struct streams *streams;
	struct feed *feed;
	struct workers *workers; /* NULL: HANDLER_THREADS=0 */
	struct pages *pages;     /* what the main thread renders for svc_stats */
	struct mesh *mesh;
	struct handshakes *handshakes; /* NULL: TLS is not configured */
	struct shard *shards;          /* topo.shards of them */
	struct rpc_shard *rpc;
	unsigned shards_made, shards_started;
	char bound[LISTENER_TEXT]; /* the address in force */
	int fail_fd;               /* an eventfd: written when the journal has failed */
	int ended_fd; /* an eventfd: written when a shard has ended, after a drain or by a failure of its ring */
	char fail_text[512];
	bool room_said;        /* journal thread: the log says that room is wanting */
	uint64_t room_line_ns; /* journal thread: when it last said so */
	pthread_mutex_t tls_lock;
	struct tls_context *tls; /* under tls_lock; NULL: cleartext only */
	struct access_source access;
	uint64_t start_ns; /* monotonic */
};

/* What can be found wrong with a loaded configuration without starting anything: CPUs that this process may not use, files that cannot be read or are not what
 * they should be, names and options that do not go together. 0, or -errno with a sentence in *ret_why (valid until the next call). Main thread. */
int daemon_check(const struct config *cfg, const char **ret_why);
/* From a loaded configuration (taken over) to a running daemon. On failure everything is undone, and *ret_why is a sentence for people. */
int daemon_start(struct daemon *d, const struct config *cfg, const char **ret_why);
/* Asks all shards to accept nothing more and to let their connections finish. They have when daemon_is_drained says so: ended_fd tells when to
 * ask. Hurrying, after that, closes what is still open. */
void daemon_drain(struct daemon *d);
void daemon_hurry(struct daemon *d);
bool daemon_is_drained(const struct daemon *d);
/* Drains if that has not been asked for yet, waits for the shards, records where sequences stand, closes the journal. 0, or -errno when the journal has failed. */
int daemon_stop(struct daemon *d);
/* Reads the TLS files (again). On failure what was in force stays. Main thread. */
int daemon_load_tls(struct daemon *d, const char **ret_why);
/* Reads ACCESS_FILE (again); every shard goes by it when this returns. On failure what was in force stays. Main thread. */
int daemon_load_access(struct daemon *d, const char **ret_why);
/* Makes what may change while the daemon runs (config_option.live) as it is in `fresh`, of which nothing is kept. 0, or -ENOMEM and nothing has
 * changed. Connections that are open meet new limits the next time that a limit is looked at. Main thread. */
int daemon_apply(struct daemon *d, const struct config *fresh);
/* Whether every shard has turned since the last call; rings those that sleep. */
bool daemon_is_alive(struct daemon *d);

#endif
