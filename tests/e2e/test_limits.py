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


class Pourer(h2raw.Connection):
    """Sends large messages, and never the end of one."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.sync()
        self.poured = 0

    def pour(self, stream, n):
        """Opens a call and sends n bytes of its message. False: it has been answered before the last of them."""
        self.send(h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, stream, h2raw.request_block()) + h2raw.frame(
            h2raw.DATA, 0, stream, h2raw.message(b"", length=n + 1)))
        sent = 5
        self.poured += 5
        while sent < n + 5 and stream not in self.answers:
            piece = min(n + 5 - sent, 16384)
            window = min(65535 + self.windows.get(0, 0) - self.poured,
                         self.settings[h2raw.INITIAL_WINDOW_SIZE] + self.windows.get(stream, 0) - sent)
            if window < piece:
                assert self.get() is not None
                continue
            self.send(h2raw.frame(h2raw.DATA, 0, stream, bytes(piece)))
            sent += piece
            self.poured += piece
        return stream not in self.answers


def large_request(n):
    """A NextRequest of n bytes and a few: of a field that nobody knows."""
    return b"\x7a" + native.varint(n) + bytes(n)


def sends_large(d, n):
    """Large messages of both protocols are received whole and answered."""
    with h2raw.Connection(d) as c:
        c.sync()
        data = h2raw.message(large_request(n))
        c.send(h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 1, h2raw.request_block()))
        for at in range(0, len(data), 16384):
            while at + 16384 > min(65535 + c.windows.get(0, 0), c.settings[h2raw.INITIAL_WINDOW_SIZE] + c.windows.get(1, 0)):
                assert c.get() is not None and 1 not in c.answers, c.answers
            c.send(h2raw.frame(h2raw.DATA, h2raw.END_STREAM if at + 16384 >= len(data) else 0, 1, data[at:at + 16384]))
        assert c.answer(1).status == 0, c.answers
    with native.Client(d) as c:
        assert c.call(large_request(n)).kind == native.MESSAGE


def test_a_connection_has_its_share_of_the_memory_for_messages(daemon):
    """ASSEMBLY_CONN_MAX: what is beyond it is refused, with the option's name, and nobody else is."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=32 << 20, ASSEMBLY_CONN_MAX=4 << 20, MESSAGE_MAX=1 << 20, BODY_TIMEOUT_MS=60000)
    with Pourer(appliance.From(d, "127.0.0.9")) as c:
        for stream in (1, 3, 5, 7):
            assert c.pour(stream, 700_000)  # blocks of a MiB
        c.pour(9, 100_000)
        a = c.answer(9)
        assert a.status == native.RESOURCE_EXHAUSTED and "ASSEMBLY_CONN_MAX, 4194304 bytes" in a.text
        c.sync()
        assert set(c.answers) == {9}
        refused = d.stats()["refusals"]
        assert refused["by_reason"]["message"] == 1
        assert refused["by_address"] == [{"address": "127.0.0.9", "total": 1, "by_reason": {"message": 1}}]
        sends_large(d, 1_000_000)
        c.send(h2raw.rst_stream(1))
        c.sync()
        assert c.pour(11, 100_000)  # there is room again
        c.sync()
        assert 11 not in c.answers


@pytest.mark.parametrize("same", [True, False], ids=["one address", "addresses"])
def test_hostile_connections_cannot_refuse_a_neighbours_large_message(daemon, same):
    """Twelve connections that keep the memory for messages full, four times over: neighbours' messages, as large as they may be, are all received;
    also from the same address, and from one that each of the hostile connections has for itself."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=16 << 20, ASSEMBLY_CONN_MAX=4 << 20, MESSAGE_MAX=1 << 20, BODY_TIMEOUT_MS=60000)
    hogs = [Pourer(appliance.From(d, "127.0.0.1" if same else f"127.0.1.{i + 1}")) for i in range(8)]
    natives = []
    for turn in range(4):
        for i, hog in enumerate(hogs):
            for stream in range(8 * turn + 1, 8 * turn + 9, 2):
                hog.pour(stream, 700_000)
            c = native.Client(appliance.From(d, "127.0.0.1" if same else f"127.0.2.{i + 1}"))
            c.send(native.frame(native.REQUEST, 1, bytes(700_000), flags=native.LAST, code=native.NEXT, length=1_000_000))
            natives.append(c)
            assert d.stats()["total"]["assembly_bytes"] <= 16 << 20
            sends_large(d, 1_000_000)
    refusals = d.stats()["refusals"]
    assert refusals["by_reason"]["message"] >= 50
    if same:
        assert [a["address"] for a in refusals["by_address"]] == ["127.0.0.1"]
    else:
        assert len(refusals["by_address"]) >= 8 and all(a["address"] != "127.0.0.1" for a in refusals["by_address"])
    for hog in hogs:
        hog.sync()
        texts = {a.text for a in hog.answers.values()}
        assert texts and all("ASSEMBLY" in text for text in texts), texts
    for c in hogs + natives:
        c.close()
    appliance.wait_until(lambda: d.stats()["total"]["assembly_bytes"] == 0, "the memory to come back")
    sends_large(d, 1_000_000)


def test_a_hundred_large_calls_on_a_connection(daemon):
    """As many as STREAMS_MAX allows, side by side: the defaults have room for 271,828 bytes in each."""
    d = daemon(SHARDS=1)
    n, streams = 271_828, range(1, 201, 2)
    with Pourer(d) as c:
        for stream in streams:
            assert c.pour(stream, n)
        c.sync()
        assert not c.answers and d.stats()["total"]["assembly_bytes"] >= 100 * n
        sends_large(d, 4_000_000)
        for stream in streams:
            c.send(h2raw.frame(h2raw.DATA, h2raw.END_STREAM, stream, b"\0"))
        for stream in streams:
            assert c.answer(stream).status == native.INVALID_ARGUMENT  # zeros are no NextRequest: it was received whole


def parked_take(c, stream):
    """A Take whose first request waits, and behind which nothing is taken in; the bytes of DATA that it came with."""
    data = h2raw.message(next_request("x", 10_000))
    c.send(h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, stream, h2raw.request_block(h2raw.TAKE_PATH))
           + h2raw.frame(h2raw.DATA, 0, stream, data))
    c.sync()
    return len(data)


def fill_window(c, stream, n):
    while n:
        piece = min(n, 16384)
        c.send(h2raw.frame(h2raw.DATA, 0, stream, bytes(piece)))
        n -= piece


@pytest.mark.parametrize("window", [65536, 100_000, 4 << 20])
def test_the_window_of_a_stream_is_an_option(daemon, window):
    """HTTP2_STREAM_WINDOW, to the byte; and large messages move, whatever it is."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1, TAKE_PIPELINE=1, HTTP2_STREAM_WINDOW=window, HTTP2_CONN_WINDOW=8 << 20)
    with h2raw.Connection(d) as c:
        c.sync()
        assert c.settings[h2raw.INITIAL_WINDOW_SIZE] == window
        sent = parked_take(c, 1)
        fill_window(c, 1, window - sent)
        c.sync()
        assert not c.answers and not c.goaways
        c.send(h2raw.frame(h2raw.DATA, 0, 1, b"1"))
        assert c.answer(1).reset == h2raw.FLOW_CONTROL_ERROR
        c.sync()
    sends_large(daemon(SHARDS=1, HTTP2_STREAM_WINDOW=window), 4_000_000)


@pytest.mark.parametrize("window", [65536, 100_000])
def test_the_window_of_a_connection_is_an_option(daemon, window):
    """HTTP2_CONN_WINDOW, to the byte."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1, TAKE_PIPELINE=1, HTTP2_STREAM_WINDOW=65536, HTTP2_CONN_WINDOW=window)
    with h2raw.Connection(d) as c:
        c.sync()
        assert c.windows[0] == window - 65535
        sent = parked_take(c, 1) + parked_take(c, 3)
        fill_window(c, 1, 50_000)
        fill_window(c, 3, window - 50_000 - sent)
        c.sync()
        assert not c.answers and not c.goaways
        c.send(h2raw.frame(h2raw.DATA, 0, 3, b"1"))
        assert c.ended_with() == h2raw.FLOW_CONTROL_ERROR
    sends_large(daemon(SHARDS=1, HTTP2_CONN_WINDOW=window), 4_000_000)


@pytest.mark.parametrize("pipeline", [1, 2, 3, 1000])
def test_the_pipeline_of_a_take_is_an_option(daemon, pipeline):
    """TAKE_PIPELINE: however few may wait, all are answered in order, in both protocols. A stream whose last answer made it go on, and which had been
    half-closed, was never ended."""
    d = daemon(SHARDS=2, TAKE_PIPELINE=pipeline)
    asked = ["abc"[(i * 5 + i // 3) % 3] for i in range(1000)]
    with native.Client(d) as c:
        c.send(native.frame(native.REQUEST, 1, flags=native.EMPTY, code=native.TAKE)
               + b"".join(native.frame(native.MESSAGE, 1, next_request(s)) for s in asked)
               + native.frame(native.MESSAGE, 1, flags=native.EMPTY | native.LAST))
        at = dict.fromkeys("abc", 1)
        for s in asked:
            assert c.get().ids() == range(at[s], at[s] + 1)
            at[s] += 1
        assert c.get().status == native.OK
    with h2raw.Connection(d) as c:
        c.sync()
        c.send(h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 1, h2raw.request_block(h2raw.TAKE_PATH))
               + h2raw.frame(h2raw.DATA, h2raw.END_STREAM, 1, b"".join(h2raw.message(next_request(s)) for s in asked)))
        a = c.answer(1)
        assert a.status == native.OK
        assert [native.next_reply(m)[0] for m in a.messages()] == [at[s] + asked[:i].count(s) for i, s in enumerate(asked)]


def test_clients_of_the_stats_socket_are_bounded_by_options(daemon):
    """STATS_CLIENTS_MAX: one more is told so. STATS_TIMEOUT_MS: one that asks for nothing is closed, and its place is free."""
    d = daemon(SHARDS=1, STATS_CLIENTS_MAX=1, STATS_TIMEOUT_MS=600_000)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(d.stats_socket))
        appliance.wait_until(lambda: d.get("/stats")[0] == 503, "the only place to be taken")
    appliance.wait_until(lambda: d.get("/stats")[0] == 200, "the place")
    d = daemon(SHARDS=1, STATS_CLIENTS_MAX=1, STATS_TIMEOUT_MS=50)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(d.stats_socket))
        s.settimeout(appliance.PATIENCE_S)
        while s.recv(1000):
            pass
        appliance.wait_until(lambda: d.get("/stats")[0] == 200, "the place")


def test_memory_for_messages_is_bounded(daemon):
    """ASSEMBLY_MAX over all connections: messages that do not fit are refused, the daemon does not grow beyond, and it recovers."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=6 << 20, ASSEMBLY_CONN_MAX=2 << 20, MESSAGE_MAX=1 << 20)
    with native.Client(d) as good:
        good.ping()
        before = d.rss_kib()
        clients = [Pourer(d) for _ in range(10)]
        for c in clients:
            c.pour(1, 750_000)
            assert d.stats()["total"]["assembly_bytes"] <= 6 << 20
        for c in clients:
            c.sync()
        refused = [c.answers[1] for c in clients if 1 in c.answers]
        assert len(refused) >= 6
        assert all(a.status == native.RESOURCE_EXHAUSTED and "ASSEMBLY_MAX, 6291456 bytes" in a.text for a in refused)
        assert d.stats()["refusals"]["by_reason"]["message"] == len(refused)
        assert d.rss_kib() - before < 30_000 * (10 if appliance.is_sanitized() else 1)
        for c in clients:
            c.close()
        appliance.wait_until(lambda: d.stats()["total"]["assembly_bytes"] == 0, "the memory to come back")
        good.ping()


def test_native_messages_count_too(daemon):
    """The same bound holds for messages in native framing, which had none: an error, and the end of those for which there is no room."""
    d = daemon(SHARDS=1, ASSEMBLY_MAX=6 << 20, ASSEMBLY_CONN_MAX=2 << 20, MESSAGE_MAX=1 << 20, BODY_TIMEOUT_MS=60000)
    with native.Client(d) as good:
        good.ping()
        before = d.rss_kib()
        clients, refused = [], 0
        for _ in range(20):
            c = native.Client(d)
            try:
                c.send(native.frame(native.REQUEST, 1, bytes(700_000), flags=native.LAST, code=native.NEXT, length=1_000_000))
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
        assert refused >= 16
        assert d.stats()["refused_by_status"]["RESOURCE_EXHAUSTED"] >= 16
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
