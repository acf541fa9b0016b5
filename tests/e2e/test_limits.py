"""What there is a limit for, and what lies beyond it."""

import socket
import threading

import pytest

import appliance
import h2raw
import native
from native import next_request


def is_served(d):
    """A new connection and a call. None: the connection was closed before an answer."""
    try:
        with native.Client(d) as c:
            c.send(native.request(1))
            f = c.get()
            return f and f.kind == native.MESSAGE
    except OSError:
        return None


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_connections_max(daemon, shards):
    """Exactly as many as there is room for, however they fall on the shards; the one beyond is closed at once, and counted; a place that
    is given up can be taken."""
    d = daemon(SHARDS=shards, CONNECTIONS_MAX=12)
    clients = [native.Client(d) for _ in range(12)]
    for c in clients:
        c.ping()
    for _ in range(5):
        assert not is_served(d)
    assert d.stats()["connections_ended"]["limit"] == 5
    for c in clients:
        c.ping()
    clients[3].close()
    appliance.wait_until(lambda: d.stats()["total"]["connections"] == 11, "a place")
    assert is_served(d)


def test_connections_are_shared_out_evenly(daemon):
    d = daemon(SHARDS=2, CONNECTIONS_MAX=100)
    clients = []
    for burst in (1, 2, 3, 30, 20):
        new = [native.Client(d) for _ in range(burst)]
        for c in new:
            c.ping()
        clients += new
    counts = [s["connections"] for s in d.stats()["shards"]]
    assert sum(counts) == 56 and abs(counts[0] - counts[1]) <= 2, counts


def test_all_connections_of_the_limit_in_one_burst(daemon):
    """Connections that come all at once are not refused while another shard has room."""
    d = daemon(SHARDS=2, CONNECTIONS_MAX=100)
    d.signal(19)  # SIGSTOP: they wait together
    clients = [native.Client(d) for _ in range(100)]
    d.signal(18)
    for c in clients:
        c.ping()
    assert d.stats()["connections_ended"]["limit"] == 0


def test_few_file_descriptors(daemon):
    """When they run out new connections wait; those that are open are served, IDs go on being made durable, and it says so in the log."""
    d = daemon.prepare(SHARDS=2, WINDOW_MIN=10, WINDOW_MAX=10, COUNT_MAX=10, CONNECTIONS_MAX=1000)
    d.wrapper = ["prlimit", "--nofile=100:100"]
    d.start()
    assert "limit of open files" in d.log()
    with native.Client(d) as good:
        good.ping()
        others = [d.connect() for _ in range(150)]
        appliance.wait_until(lambda: "accept:" in d.log(), "the lack of descriptors to be noticed")
        for i in range(200):
            assert good.next(count=10).start == 10 * i + 1
        for s in others:
            s.close()
        appliance.wait_until(lambda: is_served(d), "new connections to be served")
    d.stop()


def test_a_journal_that_rolls_over_without_descriptors(daemon):
    """Connections take what descriptors there are; the journal needs new segments all the same."""
    d = daemon.prepare(SHARDS=1, WINDOW_MIN=1, WINDOW_MAX=1, COUNT_MAX=1, CONNECTIONS_MAX=1000)
    d.wrapper = ["prlimit", "--nofile=80:80"]
    d.start()
    with native.Client(d) as good:
        good.ping()
        others = [d.connect() for _ in range(120)]
        appliance.wait_until(lambda: "accept:" in d.log(), "the lack of descriptors to be noticed")
        names = [f"{'n' * 100}{i}" for i in range(1000)]
        good.send(b"".join(native.request(i, next_request(n)) for i, n in enumerate(names)))
        for _ in names:
            assert good.get().kind == native.MESSAGE
        for s in others:
            s.close()


def test_streams_and_calls_at_their_limits_together(daemon):
    """Many connections with all the calls that they may have, parked; one more connection is served as ever."""
    d = daemon(SHARDS=2, PRODUCER_RATE=1000)
    with native.Client(d) as c:
        c.next()
    clients = []
    for i in range(20):
        c = native.Client(d)
        c.send(b"".join(native.request(k, next_request("parked", 1_000_000)) for k in range(4096)))
        h = h2raw.Connection(d)
        h.send(b"".join(h2raw.call(k, next_request("parked", 1_000_000)) for k in range(1, 200, 2)))
        clients += [c, h]
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 20 * 4196, "all calls to be parked")
    assert is_served(d)
    for c in clients:
        c.reset()
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 0, "them to be forgotten")
    assert is_served(d)


def test_memory_for_messages_is_bounded(daemon):
    """ASSEMBLY_MAX over all connections: messages that do not fit are refused, the daemon does not grow beyond, and it recovers."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=4 << 20, MESSAGE_MAX=4 << 20)
    with native.Client(d) as good:
        good.ping()
        before = d.rss_kib()
        clients, refused = [], 0
        for _ in range(10):
            c = h2raw.Connection(d)
            c.sync()
            c.send(h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 1, h2raw.request_block()) + h2raw.frame(
                h2raw.DATA, 0, 1, h2raw.message(b"", length=4_000_000)))
            sent = 5
            while sent < 3_000_000 and 1 not in c.answers:
                allowed = min(65535 + c.windows.get(0, 0), c.settings[h2raw.INITIAL_WINDOW_SIZE] + c.windows.get(1, 0)) - sent
                if allowed < 16384:
                    assert c.get() is not None
                    continue
                c.send(h2raw.frame(h2raw.DATA, 0, 1, bytes(16384)))
                sent += 16384
            refused += 1 in c.answers and c.answers[1].status == native.RESOURCE_EXHAUSTED and "ASSEMBLY_MAX" in c.answers[1].text
            clients.append(c)
        assert refused >= 8
        assert d.rss_kib() - before < 30_000 * (10 if appliance.is_sanitized() else 1)
        for c in clients:
            c.close()
        appliance.wait_until(lambda: d.stats()["total"]["assembly_bytes"] == 0, "the memory to come back")
        good.ping()


def test_native_messages_count_too(daemon):
    """The same bound holds for messages in native framing, which had none: an error, and the end of those for which there is no room."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=4 << 20, MESSAGE_MAX=4 << 20, BODY_TIMEOUT_MS=60000)
    with native.Client(d) as good:
        good.ping()
        before = d.rss_kib()
        clients, refused = [], 0
        for _ in range(20):
            c = native.Client(d)
            try:
                c.send(native.frame(native.REQUEST, 1, bytes(3_000_000), flags=native.LAST, code=native.NEXT, length=4_000_000))
            except OSError:
                pass
            clients.append(c)
            good.ping()
        for c in clients:
            c.sock.settimeout(1)
            try:
                f = c.get()
            except TimeoutError:
                continue
            except OSError:
                f = None  # the answer was overtaken by the reset that our unread bytes have caused
            refused += 1
            assert f is None or (f.kind == native.END and f.code == native.RESOURCE_EXHAUSTED and b"ASSEMBLY_MAX" in f.payload), f
        assert refused >= 18
        assert d.stats()["refused_by_status"]["RESOURCE_EXHAUSTED"] >= 18
        assert d.rss_kib() - before < 40_000 * (10 if appliance.is_sanitized() else 1)
        good.ping()
        for c in clients:
            c.close()
        appliance.wait_until(lambda: d.stats()["total"]["assembly_bytes"] == 0, "the memory to come back")
        good.ping()


def test_many_idle_connections(daemon):
    d = daemon(SHARDS=2)
    n = 1000
    clients = [d.connect() for _ in range(n)]
    for i, s in enumerate(clients):
        s.sendall(native.request(1) if i % 2 else h2raw.PREFACE + h2raw.settings() + h2raw.call(1))
    for s in clients:
        assert s.recv(1)
    assert d.stats()["total"]["connections"] == n
    before = d.sockets()
    for s in clients:
        s.close()
    appliance.wait_until(lambda: d.sockets() == before - n, "all to be closed")
    assert is_served(d)


def test_idle_connections_are_closed_politely(daemon):
    d = daemon(SHARDS=1, IDLE_TIMEOUT_MS=300)
    with native.Client(d) as n, h2raw.Connection(d) as h:
        n.ping()
        h.sync()
        assert n.get().kind == native.GOAWAY
        assert n.is_closed()
        h.rest()
        assert h.goaways and h.goaways[0].code == h2raw.NO_ERROR


def test_a_connection_with_a_call_in_flight_is_not_idle(daemon):
    """However long its call is parked: it was told to go away."""
    d = daemon(SHARDS=1, IDLE_TIMEOUT_MS=200, PRODUCER_RATE=1, DRAIN_TIMEOUT_MS=200)
    with native.Client(d) as n, h2raw.Connection(d) as h:
        n.send(native.request(1, next_request(count=500_000), timeout_ms=1500))
        h.send(h2raw.call(1, next_request(count=500_000), extra=[("grpc-timeout", "1500m")]))
        f = n.get()
        assert (f.kind, f.code) == (native.END, native.DEADLINE_EXCEEDED), f
        assert h.answer(1).status == native.DEADLINE_EXCEEDED and not h.goaways


def test_hundreds_of_calls_from_many_threads(daemon):
    """More threads than anything is sized for, each with connections that come and go."""
    d = daemon(SHARDS=2)
    wrong = []

    def work():
        for _ in range(20):
            if not is_served(d):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    with socket.create_connection((d.host, d.port)) as s, native.Client(d) as c:
        assert c.next().start == 801
        s.sendall(b"\x81")


def test_what_services_refuse_is_counted_by_reason_and_address(daemon):
    """Limits of the services were in the figures of their methods only, where nobody sees who meets them."""
    d = daemon(SHARDS=1, COUNT_MAX=10, SEQUENCES_MAX=2, FEED_STREAMS_MAX=1, FEED_FRAME_MAX=65536)

    def publish(stream, payload=b"x"):
        return b"\x0a" + native.varint(len(stream)) + stream + b"\x10\x01\x1a" + native.varint(len(payload)) + payload

    asked = [(native.NEXT, next_request("", 11)), (native.NEXT, next_request("b")), (native.NEXT, next_request("c")), (3, publish(b"a")), (3, publish(b"b")),
             (3, publish(b"a", bytes(70000)))]
    with native.Client(d) as c:
        got = []
        for call, (method, payload) in enumerate(asked):
            c.send(native.request(call, payload, method=method))
            got.append(c.get().status)
    refused = got.count(native.RESOURCE_EXHAUSTED)
    assert got[0] == got[2] == got[4] == got[5] == native.RESOURCE_EXHAUSTED and refused == 4, got
    r = d.stats()["refusals"]
    assert r["by_reason"]["limit"] == 4
    assert r["by_address"] == [{"address": "127.0.0.1", "total": 4, "by_reason": {"limit": 4}}]
