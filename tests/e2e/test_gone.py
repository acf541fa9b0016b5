"""Clients that have gone, or have closed their side and wait: within STALL_TIMEOUT_MS nothing of them is left, whatever they had asked for
and whatever their calls wait for. A client that has closed its side only, and still reads, gets its answers."""

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

import appliance
import h2raw
import native
from h2raw import DATA, END_HEADERS, END_STREAM, HEADERS, TAKE_PATH, frame, message, request_block
from native import EMPTY, LAST, MESSAGE, REQUEST, TAKE, next_request, request

STALL_S = 1
OPTIONS = {"SHARDS": 2, "STALL_TIMEOUT_MS": STALL_S * 1000, "PRODUCER_RATE": 1000, "CALL_TIMEOUT_MS": 0}
SLOW = next_request("slow", 1_000_000)  # IDs that nobody will see made


def field(number, text):
    return bytes([number << 3 | 2, len(text)]) + text


def stream_call(path, *payloads, end=True):
    """A call of one connection: its request, whole."""
    return (frame(HEADERS, END_HEADERS, 1, request_block(path))
            + frame(DATA, END_STREAM if end else 0, 1, b"".join(message(p) for p in payloads)))


FRAME = field(1, b"gone") + field(3, b"x" * 100)
# What is asked over HTTP/2: the answers of the first ones wait for a window, the last for IDs.
HTTP2 = {
    "Check": stream_call("/grpc.health.v1.Health/Check", b""),
    "Next": stream_call(h2raw.NEXT_PATH, b""),
    "Take": stream_call(TAKE_PATH, *[next_request("a")] * 50),
    "an open Take": stream_call(TAKE_PATH, *[next_request("a")] * 50, end=False),
    "Publish": stream_call("/ordinal.v1.Feed/Publish", FRAME),
    "PublishMany": stream_call("/ordinal.v1.Feed/PublishMany", *[FRAME] * 50),
    "an open PublishMany": stream_call("/ordinal.v1.Feed/PublishMany", *[FRAME] * 50, end=False),
    "Subscribe": stream_call("/ordinal.v1.Feed/Subscribe", field(1, b"gone")),
    "Watch": stream_call("/grpc.health.v1.Health/Watch", b""),
    "Stats": stream_call("/ordinal.v1.Stats/Get", b""),
    "reflection": stream_call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", *[field(7, b"*")] * 50),
    "half a request": frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, message(b"x" * 100)[:50]),
    "no such method": frame(HEADERS, END_HEADERS, 1, request_block("/no.such/Method")),
    "a parked Next": stream_call(h2raw.NEXT_PATH, SLOW),
    "a parked Take": stream_call(TAKE_PATH, SLOW),
}
NATIVE = {
    "Next": request(1),
    "a parked Next": request(1, SLOW),
    "many parked Nexts": b"".join(request(i, SLOW) for i in range(100)),
    "a parked Take": request(1, SLOW, method=TAKE),
    "a parked, open Take": request(1, SLOW, method=TAKE, flags=0),
    "a paused Take": request(1, SLOW, method=TAKE, flags=0) + native.frame(MESSAGE, 1, SLOW) * 20_000,
    "a paused Take that has ended": request(1, SLOW, method=TAKE, flags=0) + native.frame(MESSAGE, 1, SLOW) * 20_000
                                    + native.frame(MESSAGE, 1, flags=EMPTY | LAST),
    "PublishMany": request(1, FRAME, method=4, flags=0) + native.frame(MESSAGE, 1, FRAME) * 50,
    "Subscribe": request(1, field(1, b"gone"), method=5),
    "Stats": request(1, method=7) * 8,
    "half a request": request(1, SLOW)[:-1],
}
WINDOWS = {"no window": 0, "a window of a few bytes": 3}


def send_some(sock, data):
    """As much as the daemon takes."""
    sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ConnectionError):
        sock.sendall(data)


def go(sock, how):
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.close()


def wait_nothing_left(d):
    def is_clean():
        t = d.stats()["total"]
        return t["connections"] == 0 and t["calls_live"] == 0

    appliance.wait_until(is_clean, "what gone clients have left")


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_nothing_is_left_of_clients_over_http2(daemon, how):
    """With INITIAL_WINDOW_SIZE=0 one call was enough for a connection that stayed until the daemon stopped."""
    d = daemon(**OPTIONS)
    socks = []
    for window in WINDOWS.values():
        for what in HTTP2.values():
            s = d.connect()
            s.sendall(h2raw.PREFACE + h2raw.settings(INITIAL_WINDOW_SIZE=window) + what)
            socks.append(s)
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] >= 10, "the calls")
    for s in socks:
        go(s, how)
    wait_nothing_left(d)
    for s in socks:
        s.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_nothing_is_left_of_native_clients(daemon, how):
    d = daemon(**OPTIONS)
    socks = []
    for what in NATIVE.values():
        s = d.connect()
        send_some(s, what)
        socks.append(s)
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] >= 100, "the calls")
    for s in socks:
        go(s, how)
    wait_nothing_left(d)
    for s in socks:
        s.close()


@pytest.mark.parametrize("protocol", ["native", "h2"])
def test_nothing_is_left_of_clients_that_have_read_nothing(daemon, protocol):
    """Their sockets are full of answers, and stay open behind a closed sending half."""
    d = daemon(**OPTIONS)
    socks = []
    for _ in range(5):
        s = d.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if protocol == "native":
            send_some(s, native.frame(native.PING, 1, b"x" * 64) * 200_000)
        else:
            send_some(s, h2raw.PREFACE + h2raw.settings() + frame(h2raw.PING, 0, 0, bytes(8)) * 800_000)
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_WR)
        socks.append(s)
    wait_nothing_left(d)
    for s in socks:
        s.close()


def test_a_client_that_has_gone_is_noticed_at_once_by_the_next_answer(daemon):
    """Parked calls of a closed connection are let go in about a second, not when their IDs have been made: the daemon says something,
    and is told that nobody is there."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1, STALL_TIMEOUT_MS=3_600_000)
    for what in (NATIVE["a parked Next"], NATIVE["a paused Take"], h2raw.PREFACE + h2raw.settings() + HTTP2["a parked Next"]):
        s = d.connect()
        send_some(s, what)
        appliance.wait_until(lambda: d.stats()["total"]["calls_live"] > 0, "the call")
        with contextlib.suppress(TimeoutError):
            while s.recv(1 << 16):  # a close with something unread would be a reset
                pass
        s.close()
        wait_nothing_left(d)


def certificate(directory):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"], check=True, capture_output=True)
    return {"TLS_CERT": directory / "cert.pem", "TLS_KEY": directory / "key.pem"}


class Tls:
    """A TLS connection whose halves can be closed one by one, which Python's own cannot."""

    def __init__(self, d, alpn=None):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols([alpn])
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inward, self.outward)
        self.sock = d.connect()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                self.inward.write(self.sock.recv(65536))
        self.flush()

    def flush(self):
        self.sock.sendall(self.outward.read())

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def close_notify(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()


@pytest.mark.parametrize("how", ["close_notify", "close_notify and close", "close", "half-close"])
def test_nothing_is_left_of_clients_over_tls(daemon, tmp_path, how):
    d = daemon(**OPTIONS, **certificate(tmp_path))
    conns = []
    for what in ("Next", "Check", "Take", "PublishMany", "Subscribe", "a parked Next"):
        c = Tls(d, "h2")
        c.send(h2raw.PREFACE + h2raw.settings(INITIAL_WINDOW_SIZE=0) + HTTP2[what])
        conns.append(c)
    for what in ("a parked Next", "a parked Take", "a parked, open Take", "Subscribe", "half a request"):
        c = Tls(d)
        c.send(NATIVE[what])
        conns.append(c)
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] >= 5, "the calls")
    for c in conns:
        if how.startswith("close_notify"):
            c.close_notify()
        if how.endswith("close"):
            go(c.sock, "half-close" if how == "half-close" else "close")
    wait_nothing_left(d)
    for c in conns:
        c.sock.close()


# Honest clients that have closed their side.

def test_answers_come_to_a_client_that_has_closed_its_side(daemon):
    """However long they take altogether, as long as they go on: twice STALL_TIMEOUT_MS here."""
    d = daemon(SHARDS=1, PRODUCER_RATE=100, STALL_TIMEOUT_MS=1000)
    with native.Client(d) as c:
        c.next("warm", 1)
        c.send(b"".join(request(i, next_request("slow", 10)) for i in range(1, 26)))
        c.half_close()
        assert [f.call for f in iter(c.get, None) if f.kind == MESSAGE] == list(range(1, 26))
    with h2raw.Connection(d, ack=False) as c:
        c.send(stream_call(TAKE_PATH, *[next_request("slow", 10)] * 25))
        c.half_close()
        a = c.answer(1)
        assert a.status == 0 and len(a.messages()) == 25
        c.rest()
    wait_nothing_left(d)


def test_a_client_that_has_closed_its_side_reads_slowly(daemon):
    """20 MB of answers at its own pace; nothing of them is lost, and it is no stalled client."""
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=1000)
    n = 200_000
    with native.Client(d) as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sender = threading.Thread(target=lambda: (c.send(b"".join(request(i, method=60) for i in range(n))), c.half_close()))
        sender.start()
        time.sleep(0.3)
        for i in range(n):
            f = c.get()
            assert f is not None and f.call == i, (i, f)
            if i % 20_000 == 0:
                time.sleep(0.2)
        sender.join()
        assert c.get() is None
    wait_nothing_left(d)


def test_a_call_that_never_moves_is_ended_behind_a_closed_side(daemon):
    """The client still reads: it is told that its call is over."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1, STALL_TIMEOUT_MS=1000)
    with native.Client(d) as c, h2raw.Connection(d, ack=False) as h:
        c.send(request(1, SLOW))
        c.half_close()
        h.send(HTTP2["a parked Next"])
        h.half_close()
        ends = [f for f in iter(c.get, None) if f.kind == native.END]
        assert [f.code for f in ends] == [native.CANCELLED] and b"STALL_TIMEOUT_MS" in ends[0].payload
        assert h.answer(1).status == native.CANCELLED
        h.rest()
    wait_nothing_left(d)


# Turns.

def ask_for_many_and_go(d, how):
    """30 seconds' worth of IDs, whose client then goes in one of the ways there are."""
    many = next_request("fair", 30_000)
    if how == "rst_stream":
        with h2raw.Connection(d) as h:
            h.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, END_STREAM, 1, message(many)))
            h.sync()
            appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 1, "the call")
            h.send(h2raw.rst_stream(1))
            h.sync()
            h.serves(3)
        return
    c = native.Client(d)
    c.send(request(1, many, method=TAKE if how == "a take that closes" else native.NEXT, timeout_ms=100 if how == "deadline" else 0))
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 1, "the call")
    if how == "cancel":
        c.send(native.frame(native.CANCEL, 1))
    if how in ("cancel", "deadline"):
        assert c.get().kind == native.END
    if how == "reset":
        c.reset()
    c.close()


@pytest.mark.parametrize("workers", [0, 1], ids=["", "with a worker"])
@pytest.mark.parametrize("how", ["close", "a take that closes", "reset", "cancel", "deadline", "rst_stream"])
def test_who_has_left_holds_no_turn(daemon, how, workers):
    """PRODUCER_RATE saved up for the 30,000 IDs that a gone client had asked for: the next client waited for 29 s."""
    if workers and how.startswith("a take"):
        pytest.skip("workers serve Next alone")
    d = daemon(SHARDS=1, PRODUCER_RATE=1000, HANDLER_THREADS=workers)
    with native.Client(d) as c:
        c.next("fair", 100)
        ask_for_many_and_go(d, how)
        c.sock.settimeout(15)
        assert len(c.next("fair", 50)) == 50


# Readers of the stats socket.

def test_readers_of_the_stats_socket_that_vanish(daemon):
    d = daemon(SHARDS=1, STATS_CLIENTS_MAX=8, STATS_TIMEOUT_MS=1000)
    before = d.sockets()
    socks = []
    for what in (b"", b"GET /st", b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n" * 100, b"GET /stats.json HTTP/1.1\r\nHost: x\r\n\r\n"):
        for how in ("close", "half-close"):
            s = socket.socket(socket.AF_UNIX)
            s.connect(str(d.stats_socket))
            s.settimeout(1)
            with contextlib.suppress(TimeoutError):
                s.sendall(what)
            go(s, how)
            socks.append(s)
    appliance.wait_until(lambda: d.get("/stats")[0] == 200 and d.sockets() == before, "the sockets of the readers to be closed")
    for s in socks:
        s.close()
