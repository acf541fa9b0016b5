/* A connection on a ring that is this test: what it asks for is kept, and completes when and how the test says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "tests/unit/core/ring_twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STALL_S = 2, IDLE_S = 60 };

static struct {
	struct shard s;
	struct shard_opts opts;
	struct conn *c;
	size_t arrived;
	/* The session. */
	size_t got;
	size_t pauses_at; /* 0: never */
	unsigned datas, ends, drains, closes, writables, released, probes, abandons;
	bool busy, stays_after_end;
} t;

/* ---- the session ---- */

/* The byte that arrives at a place of the stream, so that none can be lost, come twice or too early. */
static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

static void on_data(struct conn *c, const uint8_t *p, size_t n)
{
	t.datas++;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(p[i], byte_at(t.got + i));
	t.got += n;
	if (t.pauses_at && t.got >= t.pauses_at) {
		t.pauses_at = 0;
		conn_pause(c);
	}
}

static void on_end(struct conn *c)
{
	t.ends++;
	if (!t.stays_after_end)
		conn_close(c);
}

static void on_writable(struct conn *c)
{
	t.writables++;
}

static bool is_busy(const struct conn *c)
{
	return t.busy;
}

static void on_drain(struct conn *c)
{
	t.drains++;
	conn_close(c);
}

static void on_closed(struct conn *c)
{
	t.closes++;
}

static void on_probe(struct conn *c)
{
	t.probes++;
	conn_write(c, "?", 1);
}

static void on_abandon(struct conn *c)
{
	t.abandons++;
	conn_close(c);
}

static bool attach(struct conn *c, void *ctx)
{
	static const struct conn_ops ops = {.data = on_data,
					    .eof = on_end,
					    .writable = on_writable,
					    .busy = is_busy,
					    .drain = on_drain,
					    .probe = on_probe,
					    .abandon = on_abandon,
					    .closed = on_closed};

	c->ops = &ops;
	return true;
}

/* ---- events ---- */

static void event(uint64_t tag, int32_t res, uint16_t flags)
{
	ring_complete(&t.s, tag, res, flags);
}

static void turn(void)
{
	wheel_advance(&t.s.wheel, t.s.now_ns);
	conn_flush_all(&t.s);
}

static void pass(uint64_t ns)
{
	t.s.now_ns += ns;
	turn();
}

static void arrives(size_t n)
{
	assert_true(ring.recv_armed);
	uint8_t *p = malloc(n);
	assert_non_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = byte_at(t.arrived++);
	ring.delivered = p;
	event(ring.recv_tag, (int32_t)n, RING_EV_MORE | RING_EV_BUFFER);
	free(p);
}

static void recv_ends(int32_t res)
{
	assert_true(ring.recv_armed);
	ring.recv_armed = false;
	event(ring.recv_tag, res, 0);
}

static void sent(int32_t res)
{
	assert_true(ring.sending);
	ring.sending = false;
	event(ring.send_tag, res, 0);
}

/* Everything that has been cancelled completes: the cancellations first. */
static void cancellations_complete(void)
{
	while (ring.cancel_count)
		event(ring.cancels[--ring.cancel_count], 0, 0);
	if (ring.recv_cancelled && ring.recv_armed)
		recv_ends(-ECANCELED);
	if (ring.send_cancelled && ring.sending)
		sent(-ECANCELED);
}

static int set_up(void **state)
{
	memset(&t, 0, sizeof t);
	memset(&ring, 0, sizeof ring);
	log_level_now = LOG_LEVEL_ERROR;
	t.opts = (struct shard_opts){.conns_max = 4,
				     .conn_queue_max = 256 << 10,
				     .backlog_max = 100 << 10,
				     .stall_ns = STALL_S * NS_PER_S,
				     .idle_ns = IDLE_S * NS_PER_S,
				     .attach = attach};
	t.s.opts = &t.opts;
	t.s.now_ns = 1000 * NS_PER_S;
	wheel_init(&t.s.wheel, t.s.now_ns, &t.s);
	bufpool_init(&t.s.pool);
	TAILQ_INIT(&t.s.backlog);
	assert_int_equal(slab_init(&t.s.conns, sizeof(struct conn), 4), 0);
	t.c = conn_open(&t.s, open("/dev/null", O_RDWR | O_CLOEXEC));
	assert_non_null(t.c);
	assert_true(ring.recv_armed);
	return 0;
}

/* Whatever happened: nothing is left. */
static int tear_down(void **state)
{
	if (t.s.conns.used) {
		conn_abort(t.c, CONN_R_SHUTDOWN);
		turn();
		cancellations_complete();
		turn();
	}
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.s.conns.used, 0);
	assert_int_equal(t.s.wheel.armed, 0);
	assert_int_equal(t.s.pool.bytes_out, 0);
	assert_true(TAILQ_EMPTY(&t.s.backlog));
	assert_int_equal(t.s.backlog_bytes, 0);
	assert_false(ring.recv_armed || ring.sending);
	slab_done(&t.s.conns);
	bufpool_done(&t.s.pool);
	return 0;
}

/* ---- time ---- */

/* The timer stood at the idle time, and a client that read nothing was looked at only then. */
static void test_a_stalled_reader_is_closed_in_the_stall_time_whatever_the_idle_time(void **state)
{
	conn_write(t.c, "x", 1);
	turn();
	assert_true(ring.sending);
	pass(STALL_S * NS_PER_S - 10 * NS_PER_MS);
	assert_int_equal(t.closes, 0);
	pass(20 * NS_PER_MS);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.c->reason, CONN_R_STALLED);
	cancellations_complete();
	turn();
}

static void test_a_slow_reader_is_not_a_stalled_one(void **state)
{
	static uint8_t bytes[1000];

	conn_write(t.c, bytes, sizeof bytes);
	turn();
	for (unsigned i = 0; i < 10; i++) {
		sent(1);
		pass(STALL_S * NS_PER_S * 3 / 4);
		assert_int_equal(t.closes, 0);
	}
	sent((int32_t)ring.send_len);
	turn();
	assert_false(ring.sending);
}

static void test_a_send_that_begins_when_the_idle_time_ends_has_its_stall_time(void **state)
{
	pass(IDLE_S * NS_PER_S - 5 * NS_PER_MS);
	t.busy = true;
	conn_write(t.c, "x", 1);
	turn();
	pass(10 * NS_PER_MS); /* the timer fires */
	assert_int_equal(t.closes, 0);
	pass(STALL_S * NS_PER_S - 20 * NS_PER_MS);
	assert_int_equal(t.closes, 0);
	sent(1);
	turn();
}

/* It was asked at fixed intervals of the idle time, so its true idle time came to nearly twice as much. */
static void test_an_idle_connection_is_closed_when_it_has_been_idle_so_long(void **state)
{
	pass(IDLE_S * NS_PER_S / 2);
	arrives(1);
	pass(IDLE_S * NS_PER_S - 10 * NS_PER_MS);
	assert_int_equal(t.drains, 0);
	pass(20 * NS_PER_MS);
	assert_int_equal(t.drains, 1);
	recv_ends(0);
	turn();
}

static void test_a_busy_connection_is_not_idle(void **state)
{
	t.busy = true;
	for (unsigned i = 0; i < 4; i++) {
		pass(IDLE_S * NS_PER_S);
		assert_int_equal(t.drains, 0);
	}
	t.busy = false;
	pass(IDLE_S * NS_PER_S);
	assert_int_equal(t.drains, 1);
	recv_ends(0);
	turn();
}

/* ---- a peer that has closed its side ---- */

/* The connection stays, because its session has calls to answer. */
static void ends_and_is_waited_for(void)
{
	t.stays_after_end = true;
	recv_ends(0);
	turn();
	assert_int_equal(t.ends, 1);
	assert_int_equal(t.closes, 0);
}

/* It was waited for without end, whoever it was. */
static void test_a_peer_that_has_ended_is_probed_and_then_given_up(void **state)
{
	ends_and_is_waited_for();
	pass(NS_PER_S / 4);
	assert_int_equal(t.probes, 0);
	pass(NS_PER_S / 2);
	assert_int_equal(t.probes, 1);
	sent(1);
	for (unsigned i = 0; i < STALL_S * 10 && !t.abandons; i++)
		pass(NS_PER_S / 10);
	assert_int_equal(t.probes, 1);
	assert_int_equal(t.abandons, 1);
	turn();
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.c->reason, CONN_R_STALLED);
}

static void test_a_peer_that_has_ended_and_goes_on_reading_is_answered(void **state)
{
	ends_and_is_waited_for();
	for (unsigned i = 0; i < 20; i++) {
		conn_write(t.c, "an answer", 9);
		turn();
		sent(9);
		pass(STALL_S * NS_PER_S / 2);
	}
	assert_int_equal(t.abandons, 0);
	assert_int_equal(t.closes, 0);
	conn_close(t.c);
	turn();
	assert_int_equal(t.c->reason, CONN_R_DONE);
}

/* What it had sent before its end is held back by its session: the end is behind that. */
static void test_a_peer_whose_end_waits_behind_held_input_is_given_up(void **state)
{
	conn_pause(t.c);
	arrives(1000);
	recv_ends(0);
	turn();
	assert_int_equal(t.ends, 0);
	pass(NS_PER_S);
	assert_int_equal(t.probes, 1);
	sent(1);
	for (unsigned i = 0; i < STALL_S * 10 && !t.abandons; i++)
		pass(NS_PER_S / 10);
	assert_int_equal(t.abandons, 1);
	turn();
	assert_int_equal(t.closes, 1);
}

/* One end of a pair of sockets takes the place of the connection that every test begins with. */
static int on_a_pair_of_sockets(void)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(dup2(pair[0], t.c->fd), t.c->fd);
	close(pair[0]);
	return pair[1];
}

/* The receive is stopped, so that the ring tells nothing: the kernel is asked. */
static void test_a_peer_that_goes_while_nothing_is_received_is_noticed(void **state)
{
	int peer = on_a_pair_of_sockets();

	conn_pause(t.c);
	for (unsigned i = 0; i < 5; i++)
		arrives(16384);
	cancellations_complete();
	turn();
	assert_false(ring.recv_armed);
	conn_settle(t.c);
	pass(3 * NS_PER_S);
	assert_int_equal(t.c->ended_ns, 0);
	assert_int_equal(shutdown(peer, SHUT_WR), 0);
	pass(NS_PER_S);
	assert_int_not_equal(t.c->ended_ns, 0);
	assert_int_equal(t.closes, 0);
	close(peer);
	pass(NS_PER_S);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.c->reason, CONN_R_PEER);
}

/* Its bytes are in the kernel: no send is under way. */
static void test_output_that_the_kernel_has_and_the_peer_does_not_take_is_a_stall(void **state)
{
	int peer = on_a_pair_of_sockets();
	char read_by_peer[8];

	conn_write(t.c, "12345678", 8);
	turn();
	assert_int_equal(write(t.c->fd, "1234", 4), 4);
	assert_int_equal(write(t.c->fd, "5678", 4), 4);
	sent(8);
	pass(STALL_S * NS_PER_S * 3 / 4);
	assert_int_equal(t.closes, 0);
	assert_int_equal(read(peer, read_by_peer, 4), 4);
	pass(STALL_S * NS_PER_S * 3 / 4);
	assert_int_equal(t.closes, 0);
	pass(STALL_S * NS_PER_S);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.c->reason, CONN_R_STALLED);
	close(peer);
	cancellations_complete();
	turn();
}

/* ---- receiving ---- */

static void test_without_buffers_the_receive_is_armed_again_at_the_turns_end(void **state)
{
	recv_ends(-ENOBUFS);
	assert_false(ring.recv_armed);
	turn();
	assert_true(ring.recv_armed);
	arrives(10);
	assert_int_equal(t.got, 10);
}

static void test_a_starved_connection_that_is_closed_meanwhile_is_freed(void **state)
{
	recv_ends(-ENOBUFS);
	conn_abort(t.c, CONN_R_PROTOCOL);
	turn();
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.s.conns.used, 0);
}

static void test_a_pause_holds_bytes_stops_the_receive_and_gives_all_back_in_order(void **state)
{
	conn_pause(t.c);
	for (unsigned i = 0; i < 5; i++)
		arrives(16384);
	assert_int_equal(t.got, 0);
	assert_true(ring.recv_cancelled);
	arrives(7); /* had been delivered before the cancellation was noticed */
	cancellations_complete();
	turn();
	assert_false(ring.recv_armed);
	conn_resume(t.c);
	turn();
	assert_int_equal(t.got, 5 * 16384 + 7);
	assert_true(ring.recv_armed);
}

/* The receive had run out of buffers by itself before its cancellation, which then hits the next one. */
static void test_a_cancellation_that_hits_the_next_receive_does_not_stop_it_for_good(void **state)
{
	conn_pause(t.c);
	for (unsigned i = 0; i < 5; i++)
		arrives(16384);
	recv_ends(-ENOBUFS);
	conn_resume(t.c);
	turn();
	assert_true(ring.recv_armed);
	ring.recv_cancelled = true;
	cancellations_complete();
	turn();
	assert_true(ring.recv_armed);
	arrives(3);
	assert_int_equal(t.got, 5 * 16384 + 3);
}

static void test_the_end_waits_for_what_is_held_before_it(void **state)
{
	conn_pause(t.c);
	arrives(100);
	recv_ends(0);
	turn();
	assert_int_equal(t.got, 0);
	assert_int_equal(t.closes, 0);
	conn_resume(t.c);
	turn();
	assert_int_equal(t.got, 100);
	assert_int_equal(t.closes, 1);
}

/* A session that has calls to answer stays open after the end; it was told of the end again with each flush. */
static void test_the_end_is_told_once(void **state)
{
	t.stays_after_end = true;
	recv_ends(0);
	for (unsigned i = 0; i < 3; i++) {
		conn_write(t.c, "x", 1);
		turn();
		sent(1);
		turn();
	}
	assert_int_equal(t.ends, 1);
	conn_close(t.c);
	turn();
}

/* ---- the backlog: this turn's time for input is over from its beginning ---- */

static void is_late(void)
{
	t.s.input_until_ns = 1;
}

static void test_long_input_waits_for_later_turns_and_short_input_does_not(void **state)
{
	is_late();
	arrives(2048);
	assert_int_equal(t.got, 2048);
	assert_int_equal(t.s.stats.put_off, 0);
	arrives(10000);
	assert_int_equal(t.got, 2048);
	assert_int_equal(t.s.stats.put_off, 1);
	conn_work_off(&t.s);
	assert_int_equal(t.got, 2048 + 4096);
	turn();
	assert_int_equal(t.got, 2048 + 4096); /* a flush is not its turn */
	assert_true(conn_is_held_up(t.c));
	conn_work_off(&t.s); /* what is left then is short */
	assert_int_equal(t.got, 2048 + 10000);
	assert_false(conn_is_held_up(t.c));
	arrives(1);
	assert_int_equal(t.got, 2048 + 10000 + 1);
}

static void test_while_there_is_time_input_is_handled_at_once(void **state)
{
	t.s.input_until_ns = UINT64_MAX;
	arrives(50000);
	assert_int_equal(t.got, 50000);
	assert_int_equal(t.s.stats.put_off, 0);
}

/* Short input behind long input of the same connection would otherwise overtake it. */
static void test_what_comes_after_long_input_stays_after_it(void **state)
{
	is_late();
	arrives(8000);
	arrives(1);
	recv_ends(0);
	turn();
	assert_int_equal(t.got, 0);
	assert_int_equal(t.ends, 0);
	conn_work_off(&t.s);
	assert_int_equal(t.got, 4096);
	conn_work_off(&t.s);
	assert_int_equal(t.got, 8001);
	assert_int_equal(t.ends, 1);
	turn();
}

static void test_a_backlog_stops_the_receive_and_starts_it_again_at_half(void **state)
{
	is_late();
	arrives(16384);
	assert_false(ring.recv_cancelled);
	arrives(1);
	assert_true(ring.recv_cancelled);
	cancellations_complete();
	while (t.got < t.arrived - 8192) {
		assert_false(ring.recv_armed);
		conn_work_off(&t.s);
		turn();
	}
	assert_true(ring.recv_armed);
	arrives(4096);
	while (t.got < t.arrived)
		conn_work_off(&t.s);
	assert_false(conn_is_held_up(t.c));
	assert_int_equal(t.s.backlog_bytes, 0);
}

static void test_input_is_handled_as_it_comes_when_the_backlog_is_full(void **state)
{
	is_late();
	t.s.backlog_bytes = t.opts.backlog_max; /* of others */
	arrives(10000);
	assert_int_equal(t.got, 10000);
	t.s.backlog_bytes--;
	arrives(10000);
	assert_int_equal(t.got, 10000);
	arrives(10000); /* what it has in the backlog goes first, and makes room */
	assert_int_equal(t.got, 20000);
	assert_int_equal(t.s.backlog_bytes, t.opts.backlog_max - 1 + t.c->held.cap);
	while (t.got < t.arrived)
		conn_work_off(&t.s);
	assert_int_equal(t.s.backlog_bytes, t.opts.backlog_max - 1);
	t.s.backlog_bytes = 0;
}

static void test_a_session_that_pauses_leaves_the_backlog_until_it_resumes(void **state)
{
	is_late();
	t.pauses_at = 4096;
	arrives(10000);
	conn_work_off(&t.s);
	assert_true(TAILQ_EMPTY(&t.s.backlog));
	turn();
	assert_int_equal(t.got, 4096);
	conn_resume(t.c);
	turn(); /* in the backlog again */
	while (t.got < t.arrived) {
		assert_false(TAILQ_EMPTY(&t.s.backlog));
		conn_work_off(&t.s);
	}
	assert_true(TAILQ_EMPTY(&t.s.backlog));
}

static void test_output_above_high_water_leaves_the_backlog_until_it_has_gone(void **state)
{
	static uint8_t bytes[CONN_HIGH_WATER + 1];

	is_late();
	arrives(10000);
	conn_write(t.c, bytes, sizeof bytes);
	turn();
	conn_work_off(&t.s);
	assert_int_equal(t.got, 0);
	assert_true(TAILQ_EMPTY(&t.s.backlog));
	sent((int32_t)ring.send_len);
	turn();
	while (t.got < t.arrived) {
		assert_false(TAILQ_EMPTY(&t.s.backlog));
		conn_work_off(&t.s);
	}
}

static void test_a_connection_that_ends_in_the_backlog_is_freed(void **state)
{
	is_late();
	arrives(10000);
	conn_abort(t.c, CONN_R_PROTOCOL);
	conn_work_off(&t.s);
	assert_int_equal(t.got, 0);
	turn();
	cancellations_complete();
	turn();
	assert_int_equal(t.s.conns.used, 0);
}

static void test_a_drain_hears_first_what_was_sent_before_it(void **state)
{
	is_late();
	arrives(10000);
	assert_int_equal(t.got, 0);
	conn_drain(t.c);
	assert_int_equal(t.got, 10000);
	assert_int_equal(t.drains, 1);
	recv_ends(0);
	turn();
	turn();
}

/* It kept what it held until the peer closed as well or a second had passed, and could not see it close: its receive had been stopped. */
static void test_a_connection_that_closes_keeps_no_input_and_receives_to_the_end(void **state)
{
	is_late();
	for (unsigned i = 0; i < 5; i++)
		arrives(16384);
	cancellations_complete();
	assert_false(ring.recv_armed);
	conn_write(t.c, "bye", 3);
	conn_close(t.c);
	turn();
	assert_null(t.c->held.p);
	assert_int_equal(t.s.backlog_bytes, 0);
	arrives(100); /* ignored */
	assert_int_equal(t.got, 0);
	sent(3);
	turn();
	recv_ends(0);
	turn();
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.s.conns.used, 0);
}

/* Freed in the turn in which it dies, nothing of it being in flight. */
static void test_a_backlog_does_not_keep_who_is_gone(void **state)
{
	is_late();
	arrives(10000);
	recv_ends(-ECONNRESET);
	turn();
	assert_int_equal(t.s.conns.used, 0);
	assert_true(TAILQ_EMPTY(&t.s.backlog));
	conn_work_off(&t.s);
}

/* ---- ending ---- */

static void test_a_connection_is_freed_after_the_last_completion_that_names_it(void **state)
{
	conn_write(t.c, "x", 1);
	turn();
	conn_abort(t.c, CONN_R_PROTOCOL);
	turn();
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.s.conns.used, 1);
	sent(-ECANCELED);
	turn();
	assert_int_equal(t.s.conns.used, 1);
	recv_ends(-ECANCELED);
	turn();
	assert_int_equal(t.s.conns.used, 1);
	event(ring.cancels[--ring.cancel_count], 0, 0);
	turn();
	assert_int_equal(t.s.conns.used, 0);
}

static void released(void *owner)
{
	t.released++;
}

static void test_slices_stay_until_all_of_them_is_sent(void **state)
{
	static uint8_t bytes[3000];
	struct conn_slice s = {.p = bytes, .n = sizeof bytes, .release = released};

	conn_write(t.c, "head", 4);
	conn_write_slice(t.c, &s);
	conn_write(t.c, "tail", 4);
	turn();
	assert_int_equal(ring.send_len, sizeof bytes + 8);
	sent(5); /* ends inside the slice */
	assert_int_equal(ring.send_len, sizeof bytes + 3);
	assert_int_equal(t.released, 0);
	sent(sizeof bytes - 1); /* ends where the tail begins */
	assert_int_equal(ring.send_len, 4);
	assert_int_equal(t.released, 0);
	sent(4);
	assert_int_equal(t.released, 1);
	turn();
}

/* One send carried all of it, and its progress was seen only at its end. */
static void test_a_large_slice_is_sent_in_pieces(void **state)
{
	static uint8_t bytes[4 << 20];
	struct conn_slice s = {.p = bytes, .n = sizeof bytes, .release = released};

	conn_write(t.c, "head", 4);
	conn_write_slice(t.c, &s);
	turn();
	for (size_t left = sizeof bytes + 4; left;) {
		assert_in_range(ring.send_len, 1, 256 << 10);
		left -= ring.send_len;
		assert_int_equal(t.released, 0);
		sent((int32_t)ring.send_len);
	}
	assert_int_equal(t.released, 1);
	turn();
	assert_false(ring.sending);
}

static void test_what_is_queued_is_sent_before_a_good_end(void **state)
{
	conn_write(t.c, "bye", 3);
	conn_close(t.c);
	assert_false(conn_write(t.c, "too late", 8));
	turn();
	assert_int_equal(ring.send_len, 3);
	sent(3);
	turn();
	assert_int_equal(t.closes, 0); /* it lingers for the other side's end */
	pass(NS_PER_S + 10 * NS_PER_MS);
	assert_int_equal(t.closes, 1);
	assert_int_equal(t.c->reason, CONN_R_DONE);
	cancellations_complete();
	turn();
}

/* It was reset a second after the answer, in the middle of what it was sending, and lost the answer. */
static void test_a_peer_that_goes_on_sending_is_waited_for_within_bounds(void **state)
{
	conn_write(t.c, "no", 2);
	conn_close(t.c);
	turn();
	sent(2);
	turn();
	for (unsigned i = 0; i < 3; i++) {
		pass(NS_PER_S / 2);
		assert_int_equal(t.closes, 0);
		arrives(1000);
	}
	pass(NS_PER_S / 4);
	arrives(1000);
	assert_int_equal(t.closes, 0);
	pass(NS_PER_S / 3);
	assert_int_equal(t.closes, 1); /* STALL_S after it was answered */
	assert_int_equal(t.datas, 0);
	cancellations_complete();
	turn();
}

static void test_a_writable_that_was_waited_for_comes_once(void **state)
{
	static uint8_t bytes[100 << 10];

	conn_write(t.c, bytes, sizeof bytes);
	turn();
	arrives(1); /* above high water nothing is delivered */
	assert_int_equal(t.datas, 0);
	sent(70 << 10);
	assert_int_equal(t.writables, 0);
	sent(30 << 10);
	turn();
	assert_int_equal(t.writables, 1);
	arrives(1);
	assert_int_equal(t.got, 2);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_a_stalled_reader_is_closed_in_the_stall_time_whatever_the_idle_time),
		T(test_a_slow_reader_is_not_a_stalled_one),
		T(test_a_send_that_begins_when_the_idle_time_ends_has_its_stall_time),
		T(test_an_idle_connection_is_closed_when_it_has_been_idle_so_long),
		T(test_a_busy_connection_is_not_idle),
		T(test_a_peer_that_has_ended_is_probed_and_then_given_up),
		T(test_a_peer_that_has_ended_and_goes_on_reading_is_answered),
		T(test_a_peer_whose_end_waits_behind_held_input_is_given_up),
		T(test_a_peer_that_goes_while_nothing_is_received_is_noticed),
		T(test_output_that_the_kernel_has_and_the_peer_does_not_take_is_a_stall),
		T(test_without_buffers_the_receive_is_armed_again_at_the_turns_end),
		T(test_a_starved_connection_that_is_closed_meanwhile_is_freed),
		T(test_a_pause_holds_bytes_stops_the_receive_and_gives_all_back_in_order),
		T(test_a_cancellation_that_hits_the_next_receive_does_not_stop_it_for_good),
		T(test_the_end_waits_for_what_is_held_before_it),
		T(test_the_end_is_told_once),
		T(test_long_input_waits_for_later_turns_and_short_input_does_not),
		T(test_while_there_is_time_input_is_handled_at_once),
		T(test_what_comes_after_long_input_stays_after_it),
		T(test_a_backlog_stops_the_receive_and_starts_it_again_at_half),
		T(test_input_is_handled_as_it_comes_when_the_backlog_is_full),
		T(test_a_session_that_pauses_leaves_the_backlog_until_it_resumes),
		T(test_output_above_high_water_leaves_the_backlog_until_it_has_gone),
		T(test_a_connection_that_ends_in_the_backlog_is_freed),
		T(test_a_drain_hears_first_what_was_sent_before_it),
		T(test_a_connection_that_closes_keeps_no_input_and_receives_to_the_end),
		T(test_a_backlog_does_not_keep_who_is_gone),
		T(test_a_connection_is_freed_after_the_last_completion_that_names_it),
		T(test_slices_stay_until_all_of_them_is_sent),
		T(test_a_large_slice_is_sent_in_pieces),
		T(test_what_is_queued_is_sent_before_a_good_end),
		T(test_a_peer_that_goes_on_sending_is_waited_for_within_bounds),
		T(test_a_writable_that_was_waited_for_comes_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
