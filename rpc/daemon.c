/* The composition of the daemon; see the header. Main thread, but for the callbacks, which say which thread runs them.
 *
 * Order of making: plan, journal, sequences, listeners, journal thread, producer, shards. Unmade in the opposite order, so that what a part uses always
 * outlives it: shards end before the producer, the producer before the journal. What is left of a shard, its bell and its figures, is freed last.
 */
#include "rpc/daemon.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log_limit.h"
#include "core/handshakes.h"
#include "core/mesh.h"
#include "core/ring.h"
#include "core/witness.h"
#include "rpc/handover.h"
#include "rpc/session.h"
#include "rpc/statsock.h"
#include "rpc/svc_bench.h"
#include "rpc/svc_feed.h"
#include "rpc/svc_health.h"
#include "rpc/svc_ids.h"
#include "rpc/svc_reflection.h"
#include "rpc/svc_stats.h"
#include "rpc/workers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static char why[1024];

static uint64_t ms(int64_t v)
{
	return (uint64_t)v * NS_PER_MS;
}

static uint64_t ms_or_never(int64_t v)
{
	return v ? ms(v) : UINT64_MAX / 4;
}

/* Services: one line each. */
static void add_services(struct method_table *t, const struct config *c)
{
	bool handed = c->handler_threads > 0;
	/* Next is the first of them. */
	method_table_add(t, handed ? &workers_next_method : &svc_ids_methods[0], 1);
	method_table_add(t, &svc_ids_methods[1], SVC_IDS_METHODS - 1);
	if (c->bench_service)
		method_table_add(t, handed ? &workers_echo_method : &svc_bench_methods[0], 1);
	method_table_add(t, svc_feed_methods, SVC_FEED_METHODS);
	typed_table_add(t, svc_stats_methods, SVC_STATS_METHODS);
	typed_table_add(t, svc_health_methods, SVC_HEALTH_METHODS);
	typed_table_add(t, svc_reflection_methods, SVC_REFLECTION_METHODS);
}

/* Shard threads. */

static void take_options(struct shard *s, struct rpc_shard *r, struct daemon *d)
{
	struct daemon_options *o = atomic_load_explicit(&d->options, memory_order_acquire);
	if (likely(s->opts == &o->shard))
		return;
	s->opts = &o->shard;
	r->opts = &o->rpc;
	atomic_store_explicit(&d->options_of[s->index], o, memory_order_release); /* pairs with spread_options */
}

static void turn(struct shard *s, void *ctx)
{
	struct rpc_shard *r = s->services;
	take_options(s, r, ctx);
	svc_ids_turn(r);
	svc_feed_turn(r);
	svc_stats_turn(r);
	rpc_shard_turn(r);
}

static bool pending(struct shard *s, void *ctx)
{
	return svc_ids_pending(s->services) || svc_feed_pending(s->services) || svc_stats_pending(s->services);
}

static void drain(struct shard *s, void *ctx)
{
	svc_health_drain(s->services);
	svc_feed_drain(s->services);
}

static void worker_turn(struct shard *s, void *ctx)
{
	workers_turn(s->services);
}

static bool worker_pending(struct shard *s, void *ctx)
{
	return workers_pending(s->services);
}

static bool needed(struct shard *s, void *ctx)
{
	return svc_feed_needed(s->services);
}

static int shard_begin(struct shard *s, void *ctx)
{
	struct daemon *d = ctx;
	struct rpc_shard *r = &d->rpc[s->index];
	struct daemon_options *o = atomic_load(&d->options);
	atomic_store(&d->options_of[s->index], o);
	int rc = rpc_shard_init(r, s, &d->methods, &o->rpc);
	if (rc)
		return rc;
	rc = svc_ids_start(r, d->ids);
	if (rc) {
		rpc_shard_done(r);
		return rc;
	}
	rc = svc_feed_start(r, d->feed);
	if (rc) {
		svc_ids_stop(r);
		rpc_shard_done(r);
		return rc;
	}
	rc = svc_stats_start(r, d->pages);
	if (rc) {
		svc_feed_stop(r);
		svc_ids_stop(r);
		rpc_shard_done(r);
		return rc;
	}
	s->services = r;
	rc = d->workers ? workers_join(d->workers, r) : 0;
	if (rc)
		return rc; /* daemon_stop frees what there is */
	if (d->workers)    /* before the others: rpc_shard_turn ends the turn */
		shard_add_hook(s, &(struct shard_hook){.turn = worker_turn, .pending = worker_pending});
	shard_add_hook(
		s, &(struct shard_hook){.turn = turn, .pending = pending, .drain = drain, .needed = needed, .ctx = d});
	return 0;
}

static void wake_main(int fd)
{
	uint64_t one = 1;
	if (write(fd, &one, sizeof one) < 0)
		log_limited(LOG_LEVEL_ERROR, "cannot tell the main thread: %s", strerror(errno));
}

/* Its state stays, to be read by the stats, until free_shards. */
static void shard_end(struct shard *s, void *ctx)
{
	struct daemon *d = ctx;
	wake_main(d->ended_fd);
}

static bool attach(struct conn *c, void *ctx)
{
	return session_attach(c, c->shard->services);
}

static void refused(struct shard *s, int fd, void *ctx)
{
	struct rpc_shard *r = s->services;
	struct conn c = {.fd = fd}; /* all that is asked of one that never was */
	conn_ip_of(fd, c.ip);
	call_note_refusal(r, &c, REFUSAL_CONNECTIONS, "a connection beyond CONNECTIONS_MAX");
}

static void on_conn_mail(struct shard *to, const struct mesh_msg *m, void *ctx)
{
	shard_adopt(to, (int)m->arg);
}

/* What the operator can do about an error of the data directory; "" where the error says it all. */
static const char *disk_advice(int err)
{
	switch (-err) {
	case ENOSPC:
	case EDQUOT:
		return "; make room there and start it again, nothing that was acknowledged is lost";
	case EROFS:
		return "; mount it writable, and under systemd name it in ReadWritePaths= of a drop-in";
	case EACCES:
	case EPERM:
		return "; give it to the user that ordinald runs as";
	case EIO:
		return "; the kernel's log says what is wrong with the disk";
	case EBUSY:
		return "; stop that one, or give each a DATA_DIR of its own";
	default:
		return "";
	}
}

/* Journal thread: the daemon cannot keep its promises any more. */
static void journal_failed(void *ctx, int err, const char *what)
{
	struct daemon *d = ctx;
	snprintf(d->fail_text, sizeof d->fail_text, "%s", what);
	log_error("the journal has failed: %s; nothing more is acknowledged, stopping%s", what, disk_advice(err));
	wake_main(d->fail_fd);
}

/* Journal thread: one log's files were taken away under the daemon. */
static void journal_log_lost(void *ctx, const char *name, const char *what)
{
	(void)ctx;
	log_error("%s: %s; put it back and start the daemon again, until then %s",
		  strcmp(name, "ids") == 0 ? "the IDs' log" : "a stream's log", what,
		  strcmp(name, "ids") == 0 ? "no IDs are handed out" : "the stream takes no frames");
}

#define ROOM_LINES_NS (60 * NS_PER_S) /* between two lines about room that comes and goes */

/* Journal thread. */
static void journal_room_changed(void *ctx, enum journal_room room, int err, const char *what)
{
	struct daemon *d = ctx;
	uint64_t now = clock_mono_ns();
	if (room == JOURNAL_ROOM_AMPLE) {
		if (d->room_said)
			log_info("the journal has room again");
		d->room_said = false;
	} else if (!d->room_said && (d->room_line_ns == 0 || now - d->room_line_ns >= ROOM_LINES_NS)) {
		log_warn("the journal cannot prepare room ahead of need: %s; it is tried again every second%s", what,
			 err == -ENOSPC || err == -EDQUOT ? "; make room on the disk of DATA_DIR" : "");
		d->room_said = true;
		d->room_line_ns = now;
	}
}

/* Making. */

/* Shard threads. */
static struct tls_context *tls_of(void *ctx)
{
	struct daemon *d = ctx;
	pthread_mutex_lock(&d->tls_lock);
	struct tls_context *x = d->tls ? tls_context_get(d->tls) : NULL;
	pthread_mutex_unlock(&d->tls_lock);
	return x;
}

static void set_options(struct daemon *d, struct daemon_options *o)
{
	const struct config *c = &d->cfg;
	o->shard = (struct shard_opts){
		.ring_entries = (uint32_t)c->ring_entries,
		.cq_entries = (uint32_t)c->cq_entries,
		.recv_bufs = (uint32_t)c->recv_buffers,
		.recv_buf_size = (uint32_t)c->recv_buffer_size,
		.conns_max = (uint32_t)c->connections_max,
		.conns_room = d->fds.connections < (uint32_t)c->connections_max ? d->fds.connections : UINT32_MAX,
		.accepts = d->fds.accepts,
		.conn_queue_max = (uint32_t)c->conn_queue_max,
		.tls_renewals_max = (uint32_t)c->tls_renewals_max,
		.stall_ns = ms_or_never(c->stall_timeout_ms),
		.idle_ns = ms(c->idle_timeout_ms),
		.drain_ns = ms(c->drain_timeout_ms),
		.spin_ns = (uint64_t)c->spin_us * NS_PER_US,
		.turn_ns = (uint64_t)c->turn_us * NS_PER_US,
		.backlog_max = (uint64_t)c->backlog_bytes,
		.restrict_ring = true,
		.handshakes = d->handshakes,
		.listeners_kept = handover_is_kept(&d->listener),
		.start = shard_begin,
		.stop = shard_end,
		.attach = attach,
		.refused = refused,
		.ctx = d,
	};
	o->rpc = (struct rpc_opts){
		.tls = tls_of,
		.tls_ctx = d,
		.tls_only = *c->tls_cert && !c->allow_cleartext,
		.access = &d->access,
		.calls_max = (uint32_t)c->calls_max,
		.message_max = (uint32_t)c->message_max,
		.streams_max = (uint32_t)c->streams_max,
		.native_inflight_max = (uint32_t)c->native_inflight_max,
		.header_list_max = (uint32_t)c->header_list_max,
		.header_fields_max = (uint32_t)c->header_fields_max,
		.h2_stream_window = (uint32_t)c->http2_stream_window,
		.h2_conn_window = (uint32_t)c->http2_conn_window,
		.take_pipeline = (uint32_t)c->take_pipeline,
		.continuations_max = (uint32_t)c->header_continuations_max,
		.resets_burst = (uint32_t)c->resets_burst,
		.resets_per_s = (uint32_t)c->resets_per_second,
		.useless_max = (uint32_t)c->useless_frames_max,
		.assembly = {.total = (uint64_t)c->assembly_max, .share = (uint64_t)c->assembly_conn_max},
		.stats_calls_max = (uint32_t)c->stats_calls_max,
		.stats_conn_calls_max = (uint32_t)c->stats_conn_calls_max,
		.preface_ns = ms_or_never(c->preface_timeout_ms),
		.headers_ns = ms_or_never(c->headers_timeout_ms),
		.body_ns = ms_or_never(c->body_timeout_ms),
		.call_ns = ms(c->call_timeout_ms),
	};
}

static int new_options(struct daemon *d)
{
	struct daemon_options *o = calloc(1, sizeof *o);
	if (!o)
		return -ENOMEM;
	set_options(d, o);
	o->older = atomic_load(&d->options);
	atomic_store_explicit(&d->options, o, memory_order_release); /* pairs with take_options */
	return 0;
}

static void free_older(struct daemon_options *o)
{
	while (o && o->older) {
		struct daemon_options *next = o->older->older;
		free(o->older);
		o->older = next;
	}
}

/* Waits until every shard has taken them over, which takes a turn; what a shard that is stuck may still read stays. */
static void spread_options(struct daemon *d)
{
	struct daemon_options *o = atomic_load(&d->options);
	unsigned i = 0;
	for (unsigned k = 0; k < d->shards_started; k++)
		doorbell_ring(&d->shards[k].bell);
	for (unsigned tries = 0; i < d->shards_started && tries < 1000;) {
		if (shard_has_ended(&d->shards[i]) ||
		    atomic_load_explicit(&d->options_of[i], memory_order_acquire) == o) {
			i++;
			continue;
		}
		usleep(1000);
		tries++;
	}
	if (i == d->shards_started)
		free_older(o);
}

/* TCP_USER_TIMEOUT of connections: when the kernel gives up what it has to send, for connections that
 * nobody watches any more. Those that are open are watched more closely, by core/conn_time.c. */
static unsigned user_timeout_ms(const struct config *c)
{
	return 3 * (unsigned)c->stall_timeout_ms;
}

int daemon_apply(struct daemon *d, const struct config *fresh)
{
	struct config before = d->cfg;
	config_take_live(&d->cfg, fresh);
	int rc = new_options(d);
	if (rc) {
		d->cfg = before;
		return rc;
	}
	log_set_level((enum log_level)d->cfg.log_level);
	listener_set_user_timeout(&d->listener, user_timeout_ms(&d->cfg));
	spread_options(d);
	return 0;
}

static struct tls_opts tls_options(const struct config *c)
{
	return (struct tls_opts){c->tls_cert, c->tls_key, c->tls_client_ca};
}

int daemon_load_tls(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	struct tls_context *fresh = NULL;
	if (!*c->tls_cert)
		return 0;
	struct tls_opts o = tls_options(c);
	int rc = tls_context_new(&o, &fresh, ret_why);
	if (rc)
		return rc;
	pthread_mutex_lock(&d->tls_lock);
	struct tls_context *old = d->tls;
	d->tls = fresh;
	pthread_mutex_unlock(&d->tls_lock);
	tls_context_put(old);
	return 0;
}

/* Waits until every shard has taken the rules over, which takes a turn; a shard that is stuck has other troubles. */
static void spread_access(struct daemon *d)
{
	uint32_t generation = atomic_load_explicit(&d->access.generation, memory_order_relaxed);
	for (unsigned i = 0; i < d->shards_started; i++)
		doorbell_ring(&d->shards[i].bell);
	for (unsigned i = 0, tries = 0; i < d->shards_started && tries < 1000;) {
		if (shard_has_ended(&d->shards[i]) || count_get(&d->rpc[i].access_gen) == generation) {
			i++;
			continue;
		}
		usleep(1000);
		tries++;
	}
}

int daemon_load_access(struct daemon *d, const char **ret_why)
{
	struct access *fresh;
	if (!*d->cfg.access_file)
		return 0;
	int rc = access_load(d->cfg.access_file, &fresh, ret_why);
	if (rc)
		return rc;
	access_source_set(&d->access, fresh);
	spread_access(d);
	return 0;
}

static int check_cleartext(const struct config *c, const char **ret_why)
{
	*ret_why = why;
	if (c->allow_cleartext || *c->tls_cert || listener_is_loopback(c->listen) != 0)
		return 0;
	snprintf(
		why, sizeof why,
		"LISTEN=\"%s\" is not a loopback address, and without TLS everybody on the way could read and write: set ALLOW_CLEARTEXT=y "
		"if that network is trusted",
		c->listen);
	return -EPERM;
}

static struct ids_opts ids_options(const struct config *c, const struct topo *t)
{
	return (struct ids_opts){
		.shards = t->shards + (unsigned)c->handler_threads,
		.order = c->id_order == ID_ORDER_SHARDED ? IDS_SHARDED : IDS_STRICT,
		.window_min = (uint32_t)c->window_min,
		.window_max = (uint32_t)c->window_max,
		.window_target_ms = (uint32_t)c->window_target_ms,
		.rate = (uint64_t)c->producer_rate,
		.queue_depth = (uint32_t)c->queue_depth,
		.sequences_max = (uint32_t)c->sequences_max,
		.create = c->sequence_create,
		.count_max = (uint32_t)c->count_max,
		.queue = c->id_queue,
	};
}

static struct workers_opts workers_options(const struct config *c, const struct topo *t)
{
	return (struct workers_opts){
		.threads = (unsigned)c->handler_threads,
		.shards = t->shards,
		.queue = c->handler_queue,
		.order = c->id_order == ID_ORDER_SHARDED ? IDS_SHARDED : IDS_STRICT,
		.message_max = (uint32_t)c->message_max,
		.bytes_max = (uint64_t)c->handler_bytes_max,
	};
}

static struct topo_opts topo_options(const struct config *c)
{
	return (struct topo_opts){.cpus = c->cpus, .shards = (unsigned)c->shards, .numa = c->numa};
}

static int check_files(const struct config *c, const char **ret_why)
{
	struct tls_opts to = tls_options(c);
	struct tls_context *tls = NULL;
	struct access *access = NULL;
	int rc = *c->tls_cert ? tls_context_new(&to, &tls, ret_why) : 0;
	if (rc == 0 && *c->access_file)
		rc = access_load(c->access_file, &access, ret_why);
	if (tls)
		tls_context_put(tls);
	if (access)
		access_put(access);
	return rc;
}

int daemon_check(const struct config *c, const char **ret_why)
{
	struct topo_opts po = topo_options(c);
	struct topo t;
	*ret_why = why;
	int rc = topo_plan(&po, &t, ret_why);
	if (rc)
		return rc;
	struct ids_opts io = ids_options(c, &t);
	struct workers_opts wo = workers_options(c, &t);
	rc = check_cleartext(c, ret_why);
	if (rc == 0)
		rc = check_files(c, ret_why);
	if (rc == 0)
		rc = ids_check(&io, ret_why);
	if (rc == 0 && c->handler_threads > 0)
		rc = workers_check(&wo, ret_why);
	return rc;
}

enum {
	FDS_TO_COME = 16,   /* the data directory and its lock, doorbells of threads, events of the main thread */
	FDS_OF_A_SHARD = 2, /* its ring and its doorbell; listening sockets are counted apart */
};

static unsigned listeners_to_be(const struct daemon *d)
{
	return d->listener.given > d->topo.shards ? d->listener.given : d->topo.shards;
}

/* Before the journal is opened, which must know how many files it may have open. */
static int plan_descriptors(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	uint64_t limit;
	int rc = fd_raise_limit(&limit);
	if (rc)
		return rc;
	struct fd_needs n = {
		.limit = limit,
		.open = fd_count_open(limit) + FDS_TO_COME + (unsigned)c->handler_threads +
			FDS_OF_A_SHARD * d->topo.shards + listeners_to_be(d) - d->listener.given,
		.listeners = listeners_to_be(d),
		.stats_clients = *c->stats_socket ? (unsigned)c->stats_clients_max + STATSOCK_SPARE : 0,
		.connections = (unsigned)c->connections_max,
	};
	return fd_plan_make(&n, &d->fds, ret_why);
}

/* Everything is open but the shards' own. */
static int correct_descriptors(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	unsigned open = fd_count_open(d->fds.limit) + FDS_OF_A_SHARD * d->topo.shards;
	int rc = fd_plan_correct(&d->fds, open, (unsigned)c->connections_max, ret_why);
	if (rc)
		return rc;
	if (d->fds.connections < (unsigned)c->connections_max)
		log_warn(
			"the limit of open files is %llu, and %u of them are for other things than connections: there can be %u connections, and not CONNECTIONS_MAX=%ld; "
			"raise LimitNOFILE= (ulimit -Hn)",
			(unsigned long long)d->fds.limit, d->fds.reserved, d->fds.connections,
			(long)c->connections_max);
	return new_options(d);
}

static int make_feed(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	struct streams_opts so = {
		.shards = d->topo.shards,
		.durability = (enum stream_durability)c->feed_durability, /* both are ordinal.v1.Durability's numbers */
		.durability_rules = c->feed_durability_rules,
		.streams_max = (uint32_t)c->feed_streams_max,
		.create = c->feed_stream_create,
		.segment_bytes = (uint32_t)c->feed_segment_bytes,
		.memory_bytes = (uint64_t)c->feed_memory_bytes,
		.retain_bytes = (uint64_t)c->feed_retain_bytes,
		.retain_frames = (uint64_t)c->feed_retain_frames,
		.retain_seconds = (uint32_t)c->feed_retain_seconds,
		.payload_max = (uint32_t)c->feed_frame_max,
		.publishers_max = (uint32_t)c->feed_publishers_max,
		.numbers_max = (uint32_t)c->feed_numbers_max,
		.held_max = (uint64_t)c->feed_held_max,
		.read_max = (uint64_t)c->feed_read_max,
	};
	struct feed_opts fo = {
		.shards = d->topo.shards,
		.streams_max = so.streams_max,
		.pipeline = (uint32_t)c->feed_pipeline,
		.held_max = so.held_max,
		.lag_max = (uint64_t)c->feed_lag_max_bytes,
		.reorder_ms = (uint32_t)c->feed_reorder_ms,
		.reorder_bytes = (uint64_t)c->feed_reorder_bytes,
		.reorder_total = (uint64_t)c->feed_reorder_total,
	};
	int rc = streams_open(&so, d->journal, &d->streams, ret_why);
	if (rc)
		return rc;
	d->feed = feed_new(d->streams, &fo);
	return d->feed ? 0 : -ENOMEM;
}

/* The journal that the witness knows; or, where it knows none, whatever is in the data directory, which it knows from then on. */
static int open_journal(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	struct witness w;
	int rc = witness_read(c->data_witness, c->data_dir, &w, ret_why);
	if (rc)
		return rc;
	struct journal_opts jo = {.dir = c->data_dir,
				  .group_max = (uint32_t)c->journal_group_max,
				  .files_max = d->fds.journal_files,
				  .failed = journal_failed,
				  .room_changed = journal_room_changed,
				  .log_lost = journal_log_lost,
				  .ctx = d,
				  .expected = w.knows ? w.id : NULL,
				  .first_log = IDS_LOG};
	rc = journal_open(&jo, &d->journal, ret_why);
	if (rc == -ESTALE) {
		*ret_why = witness_refusal(&w, c->data_dir, *ret_why);
	} else if (rc) {
		snprintf(why, sizeof why, "%s%s", *ret_why, disk_advice(rc));
		*ret_why = why;
	}
	if (rc || w.knows || !w.path[0])
		return rc;
	memcpy(w.id, journal_id(d->journal), sizeof w.id);
	bool sync_failed;
	rc = witness_write(&w, &sync_failed);
	if (rc && sync_failed) {
		snprintf(why, sizeof why, "cannot sync %.500s (DATA_WITNESS): %s%s", w.path, strerror(-rc),
			 disk_advice(-EIO));
		*ret_why = why;
		return rc;
	}
	if (rc)
		log_warn(
			"cannot write %s (DATA_WITNESS): %s; a data directory whose disk is not mounted will look like a first start",
			w.path, strerror(-rc));
	return 0;
}

static int make_parts_of_data(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	int rc = open_journal(d, ret_why);
	if (rc)
		return rc;
	struct ids_opts io = ids_options(c, &d->topo);
	struct workers_opts wo = workers_options(c, &d->topo);
	rc = ids_open(&io, d->journal, &d->ids, ret_why);
	if (rc == 0 && c->handler_threads > 0)
		rc = workers_new(&wo, d->ids, &d->workers, ret_why);
	return rc ? rc : make_feed(d, ret_why);
}

/* Where something is damaged, the operator is told how to go on. */
static int make_data(struct daemon *d, const char **ret_why)
{
	char text[sizeof why];
	int rc = make_parts_of_data(d, ret_why);
	if (rc != -EBADMSG || !*ret_why)
		return rc;
	snprintf(text, sizeof text, "%.700s; `ordinald --check-data %.200s` says what helps", *ret_why,
		 d->cfg.data_dir);
	memcpy(why, text, sizeof why);
	*ret_why = why;
	return rc;
}

static int make_shards(struct daemon *d, const char **ret_why)
{
	unsigned n = d->topo.shards;
	struct listener *l = &d->listener;
	d->mesh = mesh_new(n, 1024);
	d->shards = aligned_alloc(CACHE_LINE, n * sizeof *d->shards);
	d->rpc = calloc(n, sizeof *d->rpc);
	if (!d->mesh || !d->shards || !d->rpc)
		return -ENOMEM;
	memset(d->shards, 0, n * sizeof *d->shards);
	mesh_on(d->mesh, MESH_CONN, on_conn_mail, d);
	struct pages_opts po = {.shards = n, .kinds = REPORT_KINDS, .pause_ns = ms(d->cfg.stats_pause_ms)};
	int rc = pages_new(&po, &d->pages);
	if (rc)
		return rc;
	rc = listener_open(d->cfg.listen, n, user_timeout_ms(&d->cfg), l, ret_why);
	if (rc)
		return rc;
	memcpy(d->bound, l->bound, sizeof d->bound);
	handover_keep(l);
	rc = correct_descriptors(d, ret_why);
	if (rc)
		return rc;
	const struct shard_opts *opts = &atomic_load(&d->options)->shard;
	for (unsigned i = 0; i < n; i++) {
		rc = shard_init(&d->shards[i], i, d->topo.shard[i].cpu, d->topo.shard[i].node, opts, d->mesh);
		d->shards_made++;
		for (unsigned k = i; k < l->count; k += n) /* more sockets than shards: an earlier process had more */
			shard_add_listener(&d->shards[i], l->fds[k]);
		if (rc)
			return rc;
	}
	return 0;
}

/* The kernel does not let a thread have the CPU that the plan gives it: from here on the plan says so. */
static void lose_place(const char *thread, int *cpu, int err)
{
	log_warn("cannot pin the %s thread to CPU %d: %s; it runs on any CPU that the daemon may use", thread, *cpu,
		 strerror(-err));
	*cpu = -1;
}

static int start_producer(struct daemon *d)
{
	int rc = ids_start(d->ids, d->topo.producer_cpu);
	if (rc == 0 || d->topo.producer_cpu < 0)
		return rc;
	lose_place("producer", &d->topo.producer_cpu, rc);
	return ids_start(d->ids, -1);
}

/* The journal and the log leave the shards' CPUs, where there are others. */
static void place_helpers(struct daemon *d)
{
	struct topo *t = &d->topo;
	int rc = t->journal_cpu >= 0 ? journal_pin(d->journal, t->journal_cpu) : 0;
	if (rc)
		lose_place("journal", &t->journal_cpu, rc);
	rc = t->log_cpu >= 0 ? log_pin(t->log_cpu) : 0;
	if (rc)
		lose_place("log", &t->log_cpu, rc);
}

static int start_threads(struct daemon *d, const char **ret_why)
{
	int rc = journal_start(d->journal);
	if (rc)
		return rc;
	place_helpers(d);
	rc = start_producer(d);
	if (rc == 0)
		rc = streams_start(d->streams);
	if (rc == 0 && d->workers)
		rc = workers_start(d->workers);
	if (rc == 0 && d->handshakes)
		rc = handshakes_start(d->handshakes);
	if (rc)
		return rc;
	for (unsigned i = 0; i < d->topo.shards; i++) {
		rc = shard_start(&d->shards[i]);
		if (rc) {
			*ret_why = ring_explain(rc);
			return rc;
		}
		d->shards_started++;
	}
	return 0;
}

/* This thread, those that it will start, and the log's, which runs already. */
static void confine(struct daemon *d)
{
	int rc = topo_confine_self(&d->topo);
	if (rc == 0)
		rc = log_confine();
	if (rc && rc != -ESRCH)
		log_warn("cannot keep to the %u CPUs in use: %s", d->topo.cpus, strerror(-rc));
}

/* As many threads as CPUs: of their weight they take what the shards leave. */
static int make_handshakes(struct daemon *d)
{
	unsigned cpus = d->topo.cpus;
	if (!*d->cfg.tls_cert)
		return 0;
	return handshakes_new(cpus < HANDSHAKES_THREADS_MAX ? cpus : HANDSHAKES_THREADS_MAX, d->topo.shards,
			      &d->handshakes);
}

static int make(struct daemon *d, const char **ret_why)
{
	const struct config *c = &d->cfg;
	int rc = ring_probe();
	if (rc) {
		*ret_why = ring_explain(rc);
		return rc;
	}
	struct topo_opts po = topo_options(c);
	rc = topo_plan(&po, &d->topo, ret_why);
	if (rc)
		return rc;
	confine(d);
	rc = daemon_load_tls(d, ret_why);
	if (rc == 0)
		rc = daemon_load_access(d, ret_why);
	if (rc)
		return rc;
	rc = handover_take(c->listen, &d->listener, ret_why);
	if (rc == 0)
		rc = make_handshakes(d);
	if (rc == 0)
		rc = plan_descriptors(d, ret_why);
	if (rc == 0)
		rc = new_options(d);
	if (rc)
		return rc;
	add_services(&d->methods, c);
	d->fail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->fail_fd < 0 || d->ended_fd < 0)
		return -errno;
	rc = make_data(d, ret_why);
	if (rc == 0)
		rc = make_shards(d, ret_why);
	return rc ? rc : start_threads(d, ret_why);
}

int daemon_start(struct daemon *d, const struct config *cfg, const char **ret_why)
{
	*d = (struct daemon){.cfg = *cfg, .fail_fd = -1, .ended_fd = -1, .start_ns = clock_mono_ns()};
	*ret_why = NULL;
	why[0] = 0;
	int rc = make(d, ret_why);
	if (rc == 0)
		return 0;
	if (!*ret_why)
		*ret_why = why[0] ? why : strerror(-rc);
	if (*ret_why != why) /* what made it may go away now */
		snprintf(why, sizeof why, "%s", *ret_why);
	*ret_why = why;
	daemon_stop(d);
	return rc;
}

/* Unmaking. */

void daemon_drain(struct daemon *d)
{
	for (unsigned i = 0; i < d->shards_started; i++)
		shard_drain(&d->shards[i]);
}

void daemon_hurry(struct daemon *d)
{
	for (unsigned i = 0; i < d->shards_started; i++)
		shard_hurry(&d->shards[i]);
}

bool daemon_is_drained(const struct daemon *d)
{
	for (unsigned i = 0; i < d->shards_started; i++) {
		if (!shard_has_ended(&d->shards[i]))
			return false;
	}
	return true;
}

static void join_shards(struct daemon *d)
{
	daemon_drain(d);
	for (unsigned i = 0; i < d->shards_started; i++)
		shard_join(&d->shards[i]);
	d->shards_started = 0;
}

static void free_shards(struct daemon *d)
{
	for (unsigned i = 0; i < d->shards_made; i++) {
		for (unsigned k = 0; k < d->shards[i].listener_count; k++) /* of a shard that never ran */
			close(d->shards[i].listeners[k]);
		struct rpc_shard *r = d->shards[i].services;
		if (r) {
			svc_bench_stop(r);
			svc_stats_stop(r);
			svc_feed_stop(r);
			svc_ids_stop(r);
			rpc_shard_done(r);
		}
		shard_done(&d->shards[i]);
	}
	d->shards_made = 0;
}

int daemon_stop(struct daemon *d)
{
	int rc = 0;
	join_shards(d);
	handshakes_stop(d->handshakes);
	workers_stop(d->workers);
	if (d->ids)
		ids_stop(d->ids);
	if (d->streams)
		streams_stop(d->streams);
	if (d->journal)
		rc = journal_close(d->journal);
	free_shards(d); /* only now: the producer and the journal ring their bells */
	feed_free(d->feed);
	if (d->streams)
		streams_free(d->streams);
	workers_free(d->workers);
	if (d->ids)
		ids_free(d->ids);
	handshakes_free(d->handshakes);
	mesh_free(d->mesh);
	pages_free(d->pages);
	free(d->shards);
	free(d->rpc);
	if (d->fail_fd >= 0)
		close(d->fail_fd);
	if (d->ended_fd >= 0)
		close(d->ended_fd);
	tls_context_put(d->tls);
	access_put(d->access.now);
	free_older(atomic_load(&d->options));
	free(atomic_load(&d->options));
	config_done(&d->cfg);
	*d = (struct daemon){.fail_fd = -1, .ended_fd = -1};
	return rc;
}

bool daemon_is_alive(struct daemon *d)
{
	static uint64_t seen[SHARD_MAX];
	bool alive = true;
	for (unsigned i = 0; i < d->topo.shards; i++) {
		uint64_t beat = atomic_load_explicit(&d->shards[i].beat, memory_order_relaxed);
		alive &= beat != seen[i] || shard_has_ended(&d->shards[i]);
		seen[i] = beat;
		doorbell_ring(&d->shards[i].bell); /* the next beat, if it sleeps */
	}
	return alive;
}
