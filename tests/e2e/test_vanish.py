"""Clients that vanish, at every moment, and leave nothing behind."""

import signal
import socket
import struct
import threading

import pytest

import appliance
import h2raw
import native
from native import EMPTY, LAST, MESSAGE, REQUEST, TAKE, frame, next_request, request


def gone(s, how):
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def wait_settled(d, before):
    appliance.wait_until(lambda: d.sockets() == before, "the connections of clients that are gone to be closed")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_end_that_comes_together_with_bytes_is_not_lost(daemon, how):
    """Bytes that want no answer and the end of the connection were both there before the daemon looked: some kernels' multishot receive
    delivers the bytes only, and the connection stayed open for ever."""
    d = daemon(SHARDS=1)
    with native.Client(d) as good:
        good.ping()
        before = d.sockets()
        d.signal(signal.SIGSTOP)
        for _ in range(20):
            s = d.connect()
            s.sendall(frame(native.CANCEL, 5))
            gone(s, how)
        d.signal(signal.SIGCONT)
        wait_settled(d, before)
        good.ping()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_known_connection_whose_end_comes_together_with_bytes(daemon, how):
    d = daemon(SHARDS=1)
    with native.Client(d) as good:
        good.ping()
        before = d.sockets()
        clients = [native.Client(d) for _ in range(10)]
        streams = [h2raw.Connection(d) for _ in range(10)]
        for c in clients:
            c.ping()
        for c in streams:
            c.sync()
        d.signal(signal.SIGSTOP)
        for c in clients:
            c.send(frame(native.CANCEL, 5))
            gone(c.sock, how)
        for c in streams:
            c.send(h2raw.frame(h2raw.GOAWAY, 0, 0, bytes(8)))
            gone(c.sock, how)
        d.signal(signal.SIGCONT)
        wait_settled(d, before)
        good.ping()


def test_a_thousand_clients_vanish_in_the_middle(daemon):
    """At every stage: before the first byte, in the preface, in a header, in a message, with calls in flight, with answers unread."""
    d = daemon(SHARDS=2)
    stages = [
        b"",
        b"\x81",
        b"PRI * HT",
        request(1, next_request("abc"))[:9],
        request(1, next_request("abc"))[:-1],
        request(1) * 50,
        frame(REQUEST, 1, flags=EMPTY, code=TAKE) + frame(MESSAGE, 1, next_request()) * 50,
        h2raw.PREFACE,
        h2raw.PREFACE + h2raw.settings(),
        h2raw.PREFACE + h2raw.settings() + h2raw.call(1)[:30],
        h2raw.PREFACE + h2raw.settings() + b"".join(h2raw.call(i) for i in range(1, 100, 2)),
        h2raw.PREFACE + h2raw.settings() + h2raw.call(1)[:-2],
    ]
    with native.Client(d) as good:
        good.ping()
        before = d.sockets()
        for i in range(1000):
            s = d.connect()
            s.sendall(stages[i % len(stages)])
            gone(s, "reset")
            if i % 100 == 0:
                good.next()
        wait_settled(d, before)
        assert len(good.next("after")) == 1


def test_a_thousand_clients_vanish_with_parked_calls(daemon):
    """Their calls are forgotten with them: those that stay get their IDs."""
    d = daemon(SHARDS=2, PRODUCER_RATE=100, PREFACE_TIMEOUT_MS=60000)
    with native.Client(d) as good:
        first = good.next().start
        before = d.sockets()
        for i in range(1000):
            s = d.connect()
            if i % 2:
                s.sendall(b"".join(request(k, next_request(count=500_000)) for k in range(5)))
            else:
                s.sendall(h2raw.PREFACE + h2raw.settings()
                          + b"".join(h2raw.call(k, next_request(count=500_000)) for k in (1, 3, 5)))
            gone(s, "reset")
        wait_settled(d, before)
        assert first < good.next().start


def test_clients_that_come_and_go_while_others_work(daemon):
    d = daemon(SHARDS=2)
    before = d.sockets()
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            s = d.connect()
            s.sendall(request(1) * 20)
            gone(s, "reset")

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for protocol in ("native", "grpc"):
            appliance.load(d, "--requests", 20_000, "--protocol", protocol)
    finally:
        stop.set()
        for t in threads:
            t.join()
    wait_settled(d, before)


def wait_nothing_left(d):
    """The clients have gone: their connections and calls go as well."""
    appliance.wait_until(lambda: (t := d.stats()["total"])["connections"] == 0 and t["calls_live"] == 0, "what gone clients have left", 30)


def test_a_call_number_used_twice_while_the_table_grows(server):
    """The second Take of one number was told neither of its message nor of its end if the table of calls grew as it came, and it
    stayed, with its connection, until the daemon stopped."""
    for parked in range(1, 70):
        with native.Client(server) as c:
            c.send(frame(REQUEST, 1, flags=EMPTY, code=TAKE)
                   + b"".join(frame(REQUEST, 100 + i, flags=EMPTY, code=TAKE) for i in range(parked))
                   + request(1, next_request("twice"), method=TAKE, flags=LAST) + frame(native.PING, 9))
            while c.get().kind != native.PONG:
                pass
    wait_nothing_left(server)


def test_a_call_number_that_a_stream_has_is_refused(server):
    """The call that has the number goes on; of calls with one number, only unary ones are taken."""
    with native.Client(server) as c:
        c.send(frame(REQUEST, 1, flags=EMPTY, code=TAKE))
        for again in (request(1, next_request("n"), method=TAKE, flags=0), request(1, next_request("n")),
                      request(1, b"", method=5)):
            c.send(again)
            f = c.get()
            assert (f.kind, f.code, f.call) == (native.END, native.INVALID_ARGUMENT, 1) and b"this number" in f.payload
        c.send(frame(MESSAGE, 1, next_request("n", 3), flags=LAST))
        assert c.get().ids() == range(1, 4)
        assert c.get().ends
        c.send(request(2, next_request("n")) * 3)
        assert [list(c.get().ids()) for _ in range(3)] == [[4], [5], [6]]
