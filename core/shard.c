/* The loop of a shard: wait, reap, run, flush; see the header. Runs on its own pinned thread.
 *
 * Invariants: `now_ns` does not move within a turn. Everything a turn dirties is flushed before the next wait, so one turn is one batch: of claims,
 * of sends, of submissions. A connection is only freed at the end of a turn. The doorbell is armed only right before a wait that may sleep, and
 * every source of cross-thread work is looked at once more after it.
 */
#include "core/shard.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/count.h"
#include "core/base/log_limit.h"
#include "core/handshakes.h"
#include "core/ring.h"
#include "core/topo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512 };
#define ACCEPT_RETRY_NS (100 * NS_PER_MS)
#define SETTLE_NS (250 * NS_PER_MS)

int shard_init(struct shard *s, unsigned index, int cpu, int node, const struct shard_opts *opts, struct mesh *mesh)
{
	s->index = index;
	s->cpu = cpu;
	s->node = node;
	s->opts = opts;
	s->mesh = mesh;
	mesh_join(mesh, s);
	return doorbell_init(&s->bell);
}

void shard_add_listener(struct shard *s, int fd)
{
	CHECK(s->listener_count < SHARD_LISTENERS_MAX);
	s->listeners[s->listener_count++] = fd;
}

void shard_add_hook(struct shard *s, const struct shard_hook *h)
{
	CHECK(s->hook_count < SHARD_HOOKS_MAX);
	s->hooks[s->hook_count++] = *h;
}

/* Accepting. */

/* Of all shards, those that are on their way to one included. */
static uint32_t conns_of_all(const struct shard *s)
{
	uint32_t total = 0;
	for (unsigned i = 0; i < mesh_shards(s->mesh); i++) {
		const struct shard *o = mesh_shard(s->mesh, i);
		total += atomic_load_explicit(&o->conn_count, memory_order_relaxed) +
			 atomic_load_explicit(&o->conns_coming, memory_order_relaxed);
	}
	return total;
}

/* New connections wait in the kernel's queue meanwhile. */
static void accept_later(struct shard *s, const char *why)
{
	count_add(&s->stats.accept_errors, 1);
	if (timer_is_armed(&s->accept_timer) || s->draining)
		return;
	log_limited(
		LOG_LEVEL_WARN,
		"accept: %s; new connections wait, trying again every 100 ms (raise LimitNOFILE= or lower CONNECTIONS_MAX)",
		why);
	wheel_add(&s->wheel, &s->accept_timer, s->now_ns + ACCEPT_RETRY_NS);
}

/* One operation accepts one socket. An operation that goes on by itself (multishot) would take descriptors for as many clients as come while the shard is
 * busy with others, those of the journal too. */
static void accept_arm(struct shard *s, unsigned i)
{
	if (conns_of_all(s) >= s->opts->conns_room) {
		accept_later(s, "as many connections are open as there are descriptors for");
		return;
	}
	for (; s->accepts[i] < s->opts->accepts; s->accepts[i]++, s->accepts_armed++)
		ring_accept(s->ring, s->listeners[i], ring_tag(i, 0, SHARD_OP_ACCEPT));
}

static void on_accept_timer(struct timer *t, void *ctx)
{
	struct shard *s = ctx;
	for (unsigned i = 0; i < s->listener_count && !s->draining; i++)
		accept_arm(s, i);
}

void shard_refuse(struct shard *s, int fd)
{
	count_add(&s->stats.ended[CONN_R_LIMIT], 1);
	if (s->opts->refused)
		s->opts->refused(s, fd, s->opts->ctx);
	close(fd);
}

/* SO_REUSEPORT spreads few connections unevenly: one goes to the shard that has the fewest, those on their way to it counted. */
static void place(struct shard *s, int fd)
{
	unsigned n = mesh_shards(s->mesh), best = s->index;
	uint32_t least = shard_conns(s) + atomic_load_explicit(&s->conns_coming, memory_order_relaxed), total = 0;
	for (unsigned i = 0; i < n; i++) {
		struct shard *o = mesh_shard(s->mesh, i);
		uint32_t conns = atomic_load_explicit(&o->conn_count, memory_order_relaxed) +
				 atomic_load_explicit(&o->conns_coming, memory_order_relaxed);
		total += conns;
		if (conns < least) {
			least = conns;
			best = i;
		}
	}
	if (total >= s->opts->conns_max) {
		shard_refuse(s, fd);
		return;
	}
	if (best != s->index) {
		struct shard *o = mesh_shard(s->mesh, best);
		struct mesh_msg m = {.kind = MESH_CONN, .from = (uint16_t)s->index, .arg = (uint32_t)fd};
		atomic_fetch_add_explicit(&o->conns_coming, 1, memory_order_relaxed);
		if (mesh_post(s->mesh, s->index, best, &m)) {
			count_add(&s->stats.handed_off, 1);
			return;
		}
		atomic_fetch_sub_explicit(&o->conns_coming, 1, memory_order_relaxed);
	}
	conn_open(s, fd);
}

void shard_adopt(struct shard *s, int fd)
{
	atomic_fetch_sub_explicit(&s->conns_coming, 1, memory_order_relaxed);
	if (s->draining && !s->opts->listeners_kept)
		close(fd);
	else
		conn_open(s, fd);
}

static void on_accept(struct shard *s, const struct ring_event *ev)
{
	unsigned i = ring_tag_slot(ev->tag);
	s->accepts[i]--;
	s->accepts_armed--;
	if (ev->res >= 0) {
		if (s->draining && s->opts->listeners_kept)
			conn_open(s, ev->res); /* the others may have ended */
		else if (s->draining)
			close(ev->res);
		else
			place(s, ev->res);
	} else if (ev->res != -ECANCELED) {
		accept_later(s, strerror(-ev->res));
		return;
	}
	if (!s->draining && !timer_is_armed(&s->accept_timer))
		accept_arm(s, i);
}

/* Connections that have fallen silent. */

void shard_unsettle(struct shard *s, struct conn *c)
{
	if (s->unsettled_count == s->unsettled_cap) {
		uint32_t cap = s->unsettled_cap ? s->unsettled_cap * 2 : 64;
		uint32_t *more = realloc(s->unsettled, cap * sizeof *more);
		if (!more) /* its next receive tries again */
			return;
		s->unsettled = more;
		s->unsettled_cap = cap;
	}
	s->unsettled[s->unsettled_count++] = c->slot;
	c->unsettled = true;
	if (!timer_is_armed(&s->settle_timer))
		wheel_add(&s->wheel, &s->settle_timer, s->now_ns + SETTLE_NS);
}

static void on_settle_timer(struct timer *t, void *ctx)
{
	struct shard *s = ctx;
	uint32_t kept = 0;
	for (uint32_t i = 0; i < s->unsettled_count; i++) {
		struct conn *c = slab_at(&s->conns, s->unsettled[i]);
		if (c->state && s->now_ns - c->active_ns < SETTLE_NS) {
			s->unsettled[kept++] = c->slot;
			continue;
		}
		c->unsettled = false;
		if (c->state)
			conn_settle(c);
	}
	s->unsettled_count = kept;
	s->unsettled_gone = 0;
	if (kept)
		wheel_add(&s->wheel, t, s->now_ns + SETTLE_NS);
}

/* The turn. */

static void bell_arm(struct shard *s)
{
	ring_read(s->ring, s->bell.fd, &s->bell_sink, sizeof s->bell_sink, ring_tag(0, 0, SHARD_OP_BELL));
	s->bell_armed = true;
}

static void dispatch(struct shard *s, const struct ring_event *ev)
{
	uint8_t op = ring_tag_kind(ev->tag);
	if (op == SHARD_OP_ACCEPT) {
		on_accept(s, ev);
		return;
	}
	if (op == SHARD_OP_BELL) {
		s->bell_armed = false;
		bell_arm(s);
		return;
	}
	if (op == 0) /* the cancellation of a listener's accept */
		return;
	struct conn *c = slab_at(&s->conns, ring_tag_slot(ev->tag));
	/* A connection outlives its operations, so a stale tag would be a bug of ours. */
	CHECK((c->gen & 0xffffff) == ring_tag_gen(ev->tag));
	if (op == SHARD_OP_RECV)
		conn_on_recv(c, ev);
	else if (op == SHARD_OP_SEND)
		conn_on_send(c, ev);
	else
		conn_on_cancel(c, ev);
}

static void each_conn(struct shard *s, void (*fn)(struct conn *c))
{
	for (uint32_t i = 0; i < s->conns.made; i++) {
		struct conn *c = slab_at(&s->conns, i);
		if (c->state && c->ops)
			fn(c);
	}
}

static void end_for_shutdown(struct conn *c)
{
	conn_abort(c, CONN_R_SHUTDOWN);
}

static void begin_drain(struct shard *s)
{
	s->draining = true;
	atomic_store_explicit(&s->phase, SHARD_DRAINING, memory_order_release); /* pairs with may_get_more */
	s->drain_deadline_ns = s->now_ns + s->opts->drain_ns;
	for (unsigned i = 0; i < s->listener_count; i++) {
		ring_cancel_fd(s->ring, s->listeners[i], 0);
		if (!s->opts->listeners_kept) /* or the kernel would go on greeting clients that nobody will serve */
			shutdown(s->listeners[i], SHUT_RDWR);
	}
	for (unsigned i = 0; i < mesh_shards(s->mesh);
	     i++) /* they may wait to be told that nothing comes from here any more */
		doorbell_ring(&mesh_shard(s->mesh, i)->bell);
	for (unsigned i = 0; i < s->hook_count; i++) {
		if (s->hooks[i].drain)
			s->hooks[i].drain(s, s->hooks[i].ctx);
	}
	each_conn(s, conn_drain);
}

static bool has_pending(struct shard *s)
{
	if (mesh_has_mail(s->mesh, s->index) || conn_handshakes_pending(s) ||
	    atomic_load_explicit(&s->drain_wanted, memory_order_relaxed) != s->draining ||
	    atomic_load_explicit(&s->hurry_wanted, memory_order_relaxed) != s->hurried)
		return true;
	for (unsigned i = 0; i < s->hook_count; i++) {
		if (s->hooks[i].pending && s->hooks[i].pending(s, s->hooks[i].ctx))
			return true;
	}
	return false;
}

/* How long the next wait may take. Arms the doorbell when it may take any time at all. */
static uint64_t wait_budget(struct shard *s)
{
	if (!TAILQ_EMPTY(&s->backlog))
		return 0;
	uint64_t next = wheel_next_ns(&s->wheel);
	if (s->draining && s->drain_deadline_ns < next)
		next = s->drain_deadline_ns;
	if (next <= s->now_ns)
		return 0;
	doorbell_arm(&s->bell);
	if (has_pending(s)) {
		doorbell_disarm(&s->bell);
		return 0;
	}
	return next == UINT64_MAX ? UINT64_MAX : next - s->now_ns;
}

static int wait(struct shard *s)
{
	uint64_t budget = wait_budget(s);
	if (budget && s->opts->spin_ns) { /* a busy look first, where cores are spare */
		uint64_t until = clock_mono_ns() + (budget < s->opts->spin_ns ? budget : s->opts->spin_ns);
		do {
			int rc = ring_wait(s->ring, 0);
			if (rc || ring_has_events(s->ring)) {
				doorbell_disarm(&s->bell);
				return rc;
			}
		} while (clock_mono_ns() < until);
	}
	count_add(&s->stats.sleeps, budget != 0);
	int rc = ring_wait(s->ring, budget);
	doorbell_disarm(&s->bell);
	return rc;
}

static int turn(struct shard *s, struct ring_event *ev)
{
	int rc = wait(s);
	if (rc)
		return rc;
	s->now_ns = clock_mono_ns();
	s->input_until_ns = s->opts->turn_ns ? s->now_ns + s->opts->turn_ns : 0;
	count_add(&s->stats.turns, 1);
	atomic_store_explicit(&s->beat, s->stats.turns, memory_order_relaxed);
	for (unsigned n; (n = ring_reap(s->ring, ev, EVENTS)) > 0;) {
		for (unsigned i = 0; i < n; i++)
			dispatch(s, &ev[i]);
		if (n < EVENTS)
			break;
	}
	wheel_advance(&s->wheel, s->now_ns);
	mesh_drain(s->mesh, s);
	conn_handshakes_turn(s);
	conn_work_off(s);
	if (unlikely(!s->draining && atomic_load_explicit(&s->drain_wanted, memory_order_acquire)))
		begin_drain(s);
	if (unlikely(s->draining && !s->hurried && atomic_load_explicit(&s->hurry_wanted, memory_order_acquire))) {
		s->hurried = true;
		s->drain_deadline_ns = s->now_ns;
	}
	for (unsigned i = 0; i < s->hook_count; i++)
		s->hooks[i].turn(s, s->hooks[i].ctx);
	conn_flush_all(s);
	return 0;
}

/* Whether another shard, which has not seen the drain yet, could still give it a connection. */
static bool may_get_more(const struct shard *s)
{
	for (unsigned i = 0; s->opts->listeners_kept && i < mesh_shards(s->mesh); i++) {
		if (atomic_load_explicit(&mesh_shard(s->mesh, i)->phase, memory_order_acquire) == SHARD_RUNNING)
			return true;
	}
	return atomic_load_explicit(&s->conns_coming, memory_order_relaxed) > 0;
}

/* After a drain: false once nothing is left to wait for. */
static bool is_needed(struct shard *s)
{
	if (!s->draining || s->doomed)
		return true;
	if (s->now_ns >= s->drain_deadline_ns && shard_conns(s)) {
		log_warn("%u connections still open %s; closing them", shard_conns(s),
			 s->hurried ? "when told to hurry" : "after the drain time");
		s->drain_deadline_ns = UINT64_MAX;
		each_conn(s, end_for_shutdown);
		conn_flush_all(s);
	}
	if (shard_conns(s) > 0 || s->accepts_armed || may_get_more(s) || mesh_has_mail(s->mesh, s->index))
		return true;
	for (unsigned i = 0; i < s->hook_count; i++) {
		if (s->hooks[i].needed && s->hooks[i].needed(s, s->hooks[i].ctx))
			return true;
	}
	return false;
}

/* A place that is refused costs time, not correctness: the thread runs wherever it may. */
static void take_place(struct shard *s)
{
	int rc = topo_pin_self(s->cpu);
	if (rc) {
		log_warn("cannot pin shard %u to CPU %d: %s; it runs on any CPU that the daemon may use", s->index,
			 s->cpu, strerror(-rc));
		s->cpu = -1;
	}
	rc = topo_bind_memory_self(s->node);
	if (rc) {
		log_warn("cannot place the memory of shard %u on node %d: %s; it comes from any node", s->index,
			 s->node, strerror(-rc));
		s->node = -1;
	}
}

static int set_up(struct shard *s)
{
	take_place(s);
	s->now_ns = clock_mono_ns();
	wheel_init(&s->wheel, s->now_ns, s);
	s->accept_timer.fire = on_accept_timer;
	s->settle_timer.fire = on_settle_timer;
	bufpool_init(&s->pool);
	TAILQ_INIT(&s->backlog);
	conn_handshakes_init(s, s->opts->handshakes);
	if (s->opts->handshakes)
		handshakes_join(s->opts->handshakes, s->index, &s->bell);
	int rc = slab_init(&s->conns, sizeof(struct conn), s->opts->conns_max);
	if (rc)
		return rc;
	const struct ring_params p = {.entries = s->opts->ring_entries,
				      .cq_entries = s->opts->cq_entries,
				      .bufs = s->opts->recv_bufs,
				      .buf_size = s->opts->recv_buf_size,
				      .restrict_ops = s->opts->restrict_ring,
				      .stats = &s->ring_stats};
	rc = ring_init(&p, &s->ring);
	if (rc)
		return rc;
	if (s->index == 0) /* the others are like it */
		log_info("io_uring: %s", ring_features(s->ring));
	return s->opts->start(s, s->opts->ctx);
}

static void *shard_main(void *arg)
{
	struct shard *s = arg;
	char name[16];
	struct ring_event ev[EVENTS];
	snprintf(name, sizeof name, "shard/%u", s->index);
	pthread_setname_np(pthread_self(), name);
	log_thread_register(name);
	int rc = set_up(s);
	if (rc) {
		s->error = rc;
		atomic_store(&s->phase, SHARD_FAILED);
		log_thread_unregister();
		return NULL;
	}
	for (unsigned i = 0; i < s->listener_count; i++)
		accept_arm(s, i);
	bell_arm(s);
	atomic_store(&s->phase, SHARD_RUNNING);
	do {
		rc = turn(s, ev);
	} while (rc == 0 && is_needed(s));
	if (rc) {
		log_error("the ring has failed: %s", strerror(-rc));
		s->error = rc;
	}
	for (unsigned i = 0; i < s->listener_count; i++)
		close(s->listeners[i]);
	s->listener_count = 0;
	ring_done(s->ring);
	s->ring = NULL;
	slab_done(&s->conns);
	free(s->unsettled);
	bufpool_done(&s->pool);
	atomic_store(&s->phase, rc ? SHARD_FAILED : SHARD_ENDED);
	log_thread_unregister();
	if (s->opts->stop)
		s->opts->stop(s, s->opts->ctx);
	return NULL;
}

int shard_start(struct shard *s)
{
	int rc = pthread_create(&s->thread, NULL, shard_main, s);
	if (rc)
		return -rc;
	while (atomic_load(&s->phase) == SHARD_STARTING)
		usleep(200);
	if (atomic_load(&s->phase) != SHARD_FAILED)
		return 0;
	pthread_join(s->thread, NULL);
	return s->error;
}

void shard_drain(struct shard *s)
{
	atomic_store_explicit(&s->drain_wanted, true, memory_order_release);
	doorbell_ring(&s->bell);
}

void shard_hurry(struct shard *s)
{
	atomic_store_explicit(&s->hurry_wanted, true, memory_order_release);
	doorbell_ring(&s->bell);
}

bool shard_has_ended(const struct shard *s)
{
	return atomic_load(&s->phase) >= SHARD_ENDED;
}

void shard_join(struct shard *s)
{
	pthread_join(s->thread, NULL);
}

void shard_done(struct shard *s)
{
	doorbell_done(&s->bell);
}
