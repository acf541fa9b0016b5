"""The budgets of an HTTP/2 connection (rpc/README.md): what honest clients do costs nothing of them, and takes no neighbour's stream away; what
attackers do is stopped. The attacks themselves are in test_attacks.py."""

import threading
import time

import appliance
import grpc
import h2raw
import native
import pytest
from h2raw import DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, NO_ERROR, TAKE_PATH, Connection, call, frame, message, request_block, rst_stream
from native import next_request


@pytest.fixture
def conn(server):
    with Connection(server) as c:
        c.send(h2raw.window_update(0, 1 << 30))
        c.sync()
        yield c


def quiet_stream(c, stream):
    """A Take that says nothing for now."""
    c.send(frame(HEADERS, END_HEADERS, stream, request_block(TAKE_PATH)))
    return stream


def still_there(c, stream):
    c.send(frame(DATA, END_STREAM, stream, message(next_request("quiet"))))
    a = c.answer(stream)
    assert a.status == native.OK and len(a.messages()) == 1
    assert not c.goaways


def test_a_reset_after_each_answered_call_costs_nothing(conn):
    """A popular JavaScript client sends RST_STREAM(NO_ERROR) after each answer, for years now: after 214 good calls its connection was ended, and a
    quiet subscription on it."""
    quiet_stream(conn, 1)
    for i in range(3, 6003, 2):
        conn.serves(i)
        conn.send(rst_stream(i, NO_ERROR))
        del conn.answers[i]
    still_there(conn, 1)


def test_resets_of_calls_that_have_gone_on_for_a_while_cost_nothing(conn):
    """A user goes to another page: its streams are cancelled."""
    quiet_stream(conn, 1)
    subscribe = request_block("/ordinal.v1.Feed/Subscribe")
    stream = 3
    for _ in range(4):
        streams = range(stream, stream + 160, 2)
        stream += 160
        conn.send(b"".join(frame(HEADERS, END_HEADERS, i, subscribe) + frame(DATA, END_STREAM, i, message(b"\x0a\x01s")) for i in streams))
        conn.sync()
        time.sleep(0.15)
        conn.send(b"".join(rst_stream(i) for i in streams))
    conn.sync()
    still_there(conn, 1)


@pytest.mark.parametrize("deadline_s", [0.2, 0.02])
def test_deadlines_that_pass_are_no_attack(daemon, connect, stubs, deadline_s):
    """A stock client, whose 200 calls wait for IDs, 50 at a time, until their deadlines have passed: its connection was ended, and its subscription."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1)
    ids = connect(d)
    ended = threading.Event()
    watch = stubs.health_rpc.HealthStub(ids.channel).Watch(stubs.health.HealthCheckRequest())
    watch.add_callback(ended.set)
    next(watch)
    for _ in range(4 if deadline_s > 0.1 else 8):
        calls = [ids.Next.future(stubs.pb.NextRequest(sequence="slow", count=10_000), timeout=deadline_s) for _ in range(50)]
        assert {c.code() for c in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 1, "the calls to be over")
    assert not ended.is_set() and d.stats()["total"]["floods"] == 0
    watch.cancel()


def test_cancels_of_a_stock_client_within_the_budget(server, connect, stubs):
    """100 at once, and 20 in each second that follows."""
    ids = connect(server)
    for _ in range(90):
        call = ids.Take(iter([stubs.pb.NextRequest()]))
        call.cancel()
    assert ids.Next(stubs.pb.NextRequest()).count == 1
    assert server.stats()["total"]["floods"] == 0


# Attackers.

def ended_with(c, data):
    c.sock.settimeout(30)
    c.send_unless_closed(data)
    return c.ended_with()


def test_resets_of_nothing_are_useless_frames(conn):
    """Each stream that was answered may be reset once; then it is a frame that says nothing."""
    conn.serves(1)
    assert ended_with(conn, rst_stream(1, NO_ERROR) * 1002) == ENHANCE_YOUR_CALM


def test_a_deadline_of_no_time_is_no_way_round_the_budget(conn):
    block = request_block(extra=[("grpc-timeout", "1n")])
    assert ended_with(conn, b"".join(frame(HEADERS, END_HEADERS, i, block) + rst_stream(i) for i in range(1, 2001, 2))) == ENHANCE_YOUR_CALM


def test_calls_that_wait_and_are_taken_back_at_once_are_rapid_resets(daemon):
    d = daemon(SHARDS=1, PRODUCER_RATE=1)
    with Connection(d) as c:
        c.sync()
        data = b"".join(call(i, next_request("slow", 10_000)) + rst_stream(i) for i in range(1, 2001, 2))
        assert ended_with(c, data) == ENHANCE_YOUR_CALM
