"""Clients that vanish, at every moment, and leave nothing behind."""

import signal
import socket
import struct
import threading

import pytest

import appliance
import h2raw
import native
from native import EMPTY, MESSAGE, REQUEST, TAKE, frame, next_request, request


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
