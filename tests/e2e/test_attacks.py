"""Attacks, each at its figure, by raw bytes: the daemon ends or bounds them, its memory stays within bounds, and an honest client beside them is
answered all the time. test_latency_beside_attacks measures what that costs the honest one (ORDINAL_HEAVY=1)."""

import contextlib
import gzip
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import threading
import time

import h2raw
import native
import pytest
from appliance import is_sanitized, load, wait_until
from h2raw import (CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, PROTOCOL_ERROR,
                   REFUSED_STREAM, TAKE_PATH, Connection, block, call, field, frame, message, request_block, request_fields, rst_stream,
                   settings, window_update)
from native import next_request

MIB = 1 << 20
HEAVY = os.environ.get("ORDINAL_HEAVY") == "1"
BACKLOG = MIB


class Honest:
    """A client that calls all the time, on a connection of its own; at the end each of its calls must have been answered well."""

    def __init__(self, daemon):
        self.daemon, self.calls, self.failure, self.over = daemon, 0, None, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            with Connection(self.daemon) as c:
                c.send(window_update(0, 1 << 30))  # its answers are more than the first window
                stream = 1
                while not self.over.is_set():
                    c.serves(stream)
                    del c.answers[stream]
                    stream += 2
                    self.calls += 1
                    time.sleep(0.002)
        except Exception as e:  # told by the main thread
            self.failure = e

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        before = self.calls
        if kind is None:
            wait_until(lambda: self.failure or self.calls > before + 3, "the honest client's calls")
        self.over.set()
        self.thread.join()
        assert kind is not None or self.failure is None, f"the honest client: {self.failure!r}"


def small(daemon, **options):
    """A daemon whose receive buffers and backlog are small, so that using them for the first time does not look like an attack's doing; its sequence
    has IDs."""
    d = daemon(**{"SHARDS": 1, "RECV_BUFFERS": 64, "BACKLOG_BYTES": BACKLOG, **options})
    with Connection(d) as c:
        c.serves(1)
    return d


@contextlib.contextmanager
def bounded(daemon, limit):
    """The daemon's memory grows by no more than this meanwhile, and an honest client is served."""
    before = daemon.rss_kib()
    with Honest(daemon):
        yield
        grown = (daemon.rss_kib() - before) * 1024
        assert is_sanitized() or grown <= limit, f"{grown / MIB:.1f} MiB"


# The attacks. Each returns when its connection is over, or when it has done what it is about.

INDEXED = b"\x83\x86" + b"\x40" + h2raw.integer(5, 7) + b":path" + h2raw.integer(len(h2raw.NEXT_PATH), 7) + h2raw.NEXT_PATH.encode() + \
    b"\x40" + h2raw.integer(12, 7) + b"content-type" + h2raw.integer(16, 7) + b"application/grpc"
AGAIN = b"\x83\x86\xbf\xbe"  # the same from the dynamic table: a request of 4 bytes


def requests(first, n, after):
    """n requests, as small as they get, each followed by after(stream)."""
    out = []
    for stream in range(first, first + 2 * n, 2):
        out.append(frame(HEADERS, END_HEADERS, stream, INDEXED if stream == 1 else AGAIN))
        out.append(after(stream))
    return b"".join(out)


def flood(daemon, data, *, read=True):
    """Sends until the daemon has enough; the code that it ended with, or None."""
    with Connection(daemon) as c:
        c.sync()
        c.sock.settimeout(30)
        c.send_unless_closed(data)
        return c.ended_with() if read else None


def rapid_reset(daemon, n=1000):
    return flood(daemon, requests(1, n, rst_stream))


def made_you_reset(daemon, n, how):
    return flood(daemon, requests(1, n, MADE_YOU_RESET[how]))


MADE_YOU_RESET = {
    "WINDOW_UPDATE by 0": lambda s: window_update(s, 0),
    "window overflow": lambda s: window_update(s, 0x7fffffff),
    "PRIORITY on itself": lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", s, 1)),
    "PRIORITY of 4 bytes": lambda s: frame(PRIORITY, 0, s, bytes(4)),
    "HEADERS twice": lambda s: frame(HEADERS, END_HEADERS, s, AGAIN),
    "DATA after the end": lambda s: frame(DATA, END_STREAM, s) + frame(DATA, 0, s, b"x"),
}


def continuation_flood(daemon):
    with Connection(daemon) as c:
        c.sync()
        c.send(frame(HEADERS, 0, 1, request_block()))
        piece = frame(CONTINUATION, 0, 1, field("x", "y")) * 1000
        for _ in range(100):
            if not c.send_unless_closed(piece):
                break
        return c.ended_with()


def hpack_bombs():
    entry = b"\x40" + h2raw.integer(1, 7) + b"x" + h2raw.integer(3900, 7) + b"a" * 3900
    return {
        "one large entry, referred to 16,000 times": [request_block() + entry, request_block() + b"\xbe" * 16000],
        "16,000 small static fields": [request_block() + b"\x90" * 16000],
        "4,000 literals": [request_block() + field("a", "b") * 3200],
        "cookie crumbs": [request_block() + field("cookie", "a=b") * 1400],
        "a value of 16,300 bytes": [request_block() + field("x", "y" * 16300)],
        "entries that evict each other": [request_block() + b"".join(b"\x40" + h2raw.integer(2, 7) + b"%02d" % (i % 100) + h2raw.integer(150, 7)
                                                                     + b"z" * 150 for i in range(90))],
        "Huffman coding of 16,000 bytes": [request_block() + b"\x00\x01x" + h2raw.integer(12000, 7, 0x80) + b"\x00" * 12000],
    }


# More than four times the limits: no mistake of a client's.
FAR_BEYOND = ("one large entry, referred to 16,000 times", "16,000 small static fields", "4,000 literals", "cookie crumbs")


# Tests.

def test_rapid_reset_100k(daemon):
    """CVE-2023-44487: 100,000 resets, on one connection, and on as many as it takes."""
    d = small(daemon)
    assert rapid_reset(d) == ENHANCE_YOUR_CALM  # warmed up
    with bounded(d, 4 * MIB):
        assert rapid_reset(d, 100_000) == ENHANCE_YOUR_CALM
        data = requests(1, 1000, rst_stream)
        for _ in range(100):
            assert flood(d, data) == ENHANCE_YOUR_CALM
    stats = d.stats()
    assert stats["total"]["floods"] == 102 and stats["refusals"]["by_reason"]["flood"] == 102
    assert stats["refusals"]["by_address"][0]["by_reason"]["flood"] == 102


@pytest.mark.parametrize("how", MADE_YOU_RESET)
def test_made_you_reset_10k(daemon, how):
    """CVE-2025-8671: 10,000 rounds of errors that make us reset."""
    d = small(daemon)
    assert made_you_reset(d, 1000, how) == ENHANCE_YOUR_CALM
    with bounded(d, 4 * MIB):
        assert made_you_reset(d, 10_000, how) == ENHANCE_YOUR_CALM


def test_a_reset_takes_its_request_back(daemon):
    """What was reset waits for IDs no longer: 50 of 100 calls are reset, and as many are open as before."""
    d = small(daemon, PRODUCER_RATE=1)
    with Connection(d) as c:
        c.sync()
        for i in range(50):
            c.send(call(1 + 4 * i, next_request("slow", 1000)) + call(3 + 4 * i, next_request("slow", 1000)) + rst_stream(3 + 4 * i))
        c.sync()
        wait_until(lambda: d.stats()["total"]["calls_live"] == 50, "the live calls")


def test_continuation_flood(daemon):
    d = small(daemon)
    with bounded(d, 4 * MIB):
        for _ in range(20):
            assert continuation_flood(d) == ENHANCE_YOUR_CALM


def test_a_block_dribbled_a_byte_at_a_time_is_served(daemon):
    """As frames cut in pieces, and as the 9 frames that a block may have, each cut in pieces."""
    d = small(daemon)
    b = request_block()
    cuts = [len(b) * i // 9 for i in range(10)]
    pieces = [b[i:k] for i, k in zip(cuts, cuts[1:])]
    data = frame(HEADERS, 0, 3, pieces[0]) + b"".join(frame(CONTINUATION, END_HEADERS if i == 7 else 0, 3, p)
                                                      for i, p in enumerate(pieces[1:]))
    data += frame(DATA, END_STREAM, 3, message())
    with bounded(d, 4 * MIB), Connection(d) as c:
        for byte in call(1) + data:
            c.send(bytes([byte]))
        assert c.answer(1).status == 0 and c.answer(3).status == 0


@pytest.mark.parametrize("what", hpack_bombs())
def test_hpack_bombs(daemon, what):
    """CVE-2016-6581 and its kin: 100 connections with 20 such requests each, 64 KiB a request at the most."""
    d = small(daemon)
    blocks = hpack_bombs()[what]
    with bounded(d, 100 * 64 * 1024 + 4 * MIB), contextlib.ExitStack() as stack:
        conns = [stack.enter_context(Connection(d)) for _ in range(100)]
        for c in conns:
            for stream in range(1, 41, 2):
                p = blocks[min(stream // 2, len(blocks) - 1)]
                head = frame(HEADERS, 0 if len(p) > 16000 else END_HEADERS, stream, p[:16000])
                c.send(head + (frame(CONTINUATION, END_HEADERS, stream, p[16000:]) if len(p) > 16000 else b"")
                       + frame(DATA, END_STREAM, stream, message()))
        for c in conns:
            for stream in range(1, 41, 2):
                if what in FAR_BEYOND:
                    assert c.ended_with() == ENHANCE_YOUR_CALM
                    break
                a = c.answer(stream)
                assert a.status == native.RESOURCE_EXHAUSTED or (stream == 1 and len(blocks) > 1), a
    refused = d.stats()["refusals"]["by_reason"]
    assert refused["flood"] == 100 if what in FAR_BEYOND else refused["headers"] >= 100 * 19


def raise_open_files(n):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(n, hard), hard))


STALLED = 5000 if HEAVY else 400


def stall_zero_window(daemon, stack, n):
    """n connections with calls whose answers may not be sent."""
    conns = []
    for _ in range(n):
        c = stack.enter_context(Connection(daemon, INITIAL_WINDOW_SIZE=0))
        c.send(requests(1, 20, lambda s: frame(DATA, END_STREAM, s, message())))
        conns.append(c)
    return conns


def stall_unread(daemon, stack, n):
    """n connections that ask, with all windows open, and never read."""
    conns = []
    data = window_update(0, 1 << 30) + requests(1, 4000, lambda s: frame(DATA, END_STREAM, s, message()))
    for _ in range(n):
        c = stack.enter_context(Connection(daemon, ack=False, INITIAL_WINDOW_SIZE=1 << 30))
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(data))  # all of it, however late it is read
        c.sock.setblocking(False)
        try:
            c.sock.send(data)
        except (BlockingIOError, ConnectionError):
            pass
        conns.append(c)
    return conns


@pytest.mark.parametrize("how", [stall_zero_window, stall_unread], ids=["zero window", "unread"])
def test_stalled_connections(daemon, how):
    """5,000 of them (400 unless ORDINAL_HEAVY=1): bounded memory, an honest client beside them, and no more of them after STALL_TIMEOUT_MS."""
    raise_open_files(STALLED + 1000)
    d = small(daemon, SHARDS=2, STALL_TIMEOUT_MS=3000)
    with bounded(d, 8 * MIB + STALLED * 128 * 1024), contextlib.ExitStack() as stack:
        conns = how(d, stack, STALLED)
        wait_until(lambda: sum(d.stats()["connections_ended"].values()) + d.stats()["total"]["connections"] >= STALLED, "them all")
        if how == stall_zero_window:
            wait_until(lambda: d.stats()["total"]["calls_live"] <= 1, "the calls to be answered")
            for c in conns[::100]:  # each stream that took nothing is reset, and the connection lives
                for stream in range(1, 41, 2):
                    assert c.answer(stream).reset is not None
                c.sync()
        else:
            wait_until(lambda: d.stats()["connections_ended"]["stalled"] >= STALLED * 0.9, "the stalled to be reset")


@pytest.mark.parametrize("flood_of", [frame(PING, 0, 0, bytes(8)), settings(INITIAL_WINDOW_SIZE=65535)], ids=["PING", "SETTINGS"])
def test_floods_that_must_be_answered(daemon, flood_of):
    """CVE-2019-9512, 9515: the attacker does not read what it is owed. 10 of them, and the daemon stops reading at 64 KiB each."""
    d = small(daemon, STALL_TIMEOUT_MS=2000)
    with bounded(d, 10 * MIB + 4 * MIB), contextlib.ExitStack() as stack:
        conns = [stack.enter_context(Connection(d, ack=False)) for _ in range(10)]
        data = flood_of * 4096
        for c in conns:
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            c.sock.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError, BlockingIOError, ConnectionError):
                while sent < 100 * MIB:
                    sent += c.sock.send(data)

        def ended():
            reasons = d.stats()["connections_ended"]
            return reasons["stalled"] + reasons["flood"] + reasons["peer"] >= 9

        wait_until(ended, "the flooders to be reset")


def test_a_flood_of_pings_that_is_read(daemon):
    """One that reads its answers pays as much as it costs; it is served, in bounded memory."""
    d = small(daemon)
    with bounded(d, 4 * MIB), Connection(d) as c:
        for _ in range(20):
            c.send(frame(PING, 0, 0, bytes(8)) * 500)
            c.sync()
        c.serves(1)


def test_a_flood_of_settings(daemon):
    """Each may go through all streams: they count as frames that say nothing."""
    d = small(daemon)
    with bounded(d, 4 * MIB):
        assert flood(d, settings(INITIAL_WINDOW_SIZE=65535) * 1100) == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("what", ["DATA", "PRIORITY", "unknown", "padded DATA"])
def test_frames_that_say_nothing(daemon, what):
    """CVE-2019-9518: at most 1,000 in 10 s."""
    d = small(daemon)
    frames = {"DATA": frame(DATA, 0, 1), "PRIORITY": frame(PRIORITY, 0, 99, bytes(5)), "unknown": frame(0xfa, 0, 0, b"x" * 100),
              "padded DATA": frame(DATA, h2raw.PADDED, 1, b"\xff" + bytes(255))}
    with bounded(d, 4 * MIB):
        with Connection(d) as c:
            c.send(frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)) + frames[what] * 900)
            c.serves(3)
        assert flood(d, frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)) + frames[what] * 1001) == ENHANCE_YOUR_CALM


def test_the_101st_stream_is_refused(server):
    with Honest(server), Connection(server) as c:
        c.send(b"".join(frame(HEADERS, END_HEADERS, s, request_block(TAKE_PATH)) for s in range(1, 205, 2)))
        assert c.answer(201).reset == REFUSED_STREAM and c.answer(203).reset == REFUSED_STREAM
        c.send(b"".join(frame(DATA, END_STREAM, s, message()) for s in range(1, 201, 2)))
        assert all(c.answer(s).status == 0 for s in range(1, 201, 2))
    assert server.stats()["refusals"]["by_reason"]["calls"] == 2


def test_a_flood_of_refused_streams_is_ended(daemon):
    """Whoever has seen the limit and goes on is flooding."""
    d = small(daemon)
    with bounded(d, 4 * MIB):
        opened = b"".join(frame(HEADERS, END_HEADERS, s, request_block(TAKE_PATH)) for s in range(1, 2001, 2))
        with Connection(d) as c:
            c.sync()
            c.sync()
            c.send_unless_closed(opened)
            assert c.ended_with() == ENHANCE_YOUR_CALM


def dribble(conn, data, pause_s, over):
    """A byte now and then, until the daemon closes or `over`."""
    for byte in data:
        if over.wait(pause_s) or not conn.send_unless_closed(bytes([byte])):
            return


def test_slow_preface_headers_and_body(daemon):
    """At the default figures: 5 s, 5 s, and a minimum rate. All at once; each dribbles a byte a second."""
    d = small(daemon)
    over = threading.Event()
    with bounded(d, 4 * MIB), contextlib.ExitStack() as stack:
        silent = stack.enter_context(Connection(d, begin=False))
        preface = stack.enter_context(Connection(d, begin=False))
        no_settings = stack.enter_context(Connection(d, begin=False))
        headers = stack.enter_context(Connection(d))
        frame_header = stack.enter_context(Connection(d))
        body = stack.enter_context(Connection(d))
        whole = stack.enter_context(Connection(d))
        slow_native = stack.enter_context(native.Client(d))
        no_settings.send(h2raw.PREFACE)
        headers.send(frame(HEADERS, 0, 1, request_block()))
        body.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, message(length=100_000)))
        whole.send(frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)))
        slow_native.send(native.request(1, b"", flags=native.LAST)[:4] + struct.pack("<I", 100_000) + bytes(8))
        threads = [threading.Thread(target=dribble, args=args) for args in [
            (preface, h2raw.PREFACE, 0.9, over), (frame_header, frame(PING, 0, 0, bytes(8)), 1, over),
            (body, frame(DATA, 0, 1, b"x") * 100, 0.2, over), (whole, frame(DATA, 0, 1, message(bytes(1000))), 0.5, over)]]
        for c in (body, whole, frame_header):
            c.sync()  # SETTINGS are acknowledged before, not within what is dribbled
        for t in threads:
            t.start()
        try:
            assert silent.read(1) == b"" and preface.ended_with() in (None, h2raw.SETTINGS_TIMEOUT)
            assert no_settings.ended_with() == h2raw.SETTINGS_TIMEOUT
            assert headers.ended_with() == ENHANCE_YOUR_CALM and frame_header.ended_with() == ENHANCE_YOUR_CALM
            assert body.answer(1).status == native.DEADLINE_EXCEEDED
            assert whole.ended_with() == ENHANCE_YOUR_CALM, "a frame cut in pieces"
            assert slow_native.is_closed()
        finally:
            over.set()
            for t in threads:
                t.join()
    assert d.stats()["refusals"]["by_reason"]["timeout"] >= 6


@pytest.mark.parametrize("size", [5 * MIB, 64 * MIB])
def test_a_gzip_bomb(daemon, size):
    """Inflated up to MESSAGE_MAX and no further."""
    d = small(daemon)
    bomb = gzip.compress(bytes(size), 9)
    with bounded(d, 24 * MIB), Connection(d) as c:
        c.sync()
        for stream in range(1, 21, 2):
            c.send(frame(HEADERS, END_HEADERS, stream, request_block(extra=[("grpc-encoding", "gzip")])))
            data = message(bomb, compressed=1)
            pieces = [data[i:i + 16384] for i in range(0, len(data), 16384)]
            for i, piece in enumerate(pieces):
                c.send(frame(DATA, END_STREAM if i == len(pieces) - 1 else 0, stream, piece))
            a = c.answer(stream)
            assert a.status == native.RESOURCE_EXHAUSTED and "MESSAGE_MAX" in a.text
        c.serves(21)
    assert d.stats()["refusals"]["by_reason"]["message"] == 10


def test_a_stream_identifier_that_goes_down(server):
    with Honest(server), Connection(server) as c:
        c.serves(5)
        c.send(call(3))
        assert c.ended_with() == PROTOCOL_ERROR


def test_half_open_messages_are_bounded(daemon):
    """Many messages that never end: ASSEMBLY_MAX is for all of them together, and the calls beyond it are refused."""
    d = small(daemon, ASSEMBLY_MAX=6 * MIB, ASSEMBLY_CONN_MAX=2 * MIB, MESSAGE_MAX=MIB, BODY_TIMEOUT_MS=60_000)
    with bounded(d, 16 * MIB), contextlib.ExitStack() as stack:
        conns = []
        for _ in range(40):
            c = stack.enter_context(Connection(d))
            c.sync()
            c.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, message(bytes(16000), length=1_000_000)))
            for _ in range(14):
                c.send_unless_closed(frame(DATA, 0, 1, bytes(16000)))
            conns.append(c)
        for c in conns:
            c.sync()
        refused = [c for c in conns if 1 in c.answers and c.answers[1].status == native.RESOURCE_EXHAUSTED]
        assert len(refused) >= 10 and "ASSEMBLY_MAX" in refused[0].answers[1].text


def test_connections_beyond_the_limit(daemon):
    d = small(daemon, CONNECTIONS_MAX=50)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(Connection(d)) for _ in range(50)]
        for c in conns:
            c.sync()
        for _ in range(20):
            with Connection(d, begin=False) as c:
                assert c.read(1) == b""
        conns[0].serves(1)
    r = d.stats()["refusals"]
    assert r["by_reason"]["connections"] == 20 and r["by_address"][0]["by_reason"]["connections"] == 20


def test_attacks_are_logged_once_a_burst(daemon):
    d = small(daemon)
    began = time.monotonic()
    for _ in range(200):
        assert rapid_reset(d, 200) == ENHANCE_YOUR_CALM
    seconds = time.monotonic() - began
    lines = [line for line in d.log().splitlines() if "too many stream resets" in line]
    assert 1 <= len(lines) <= seconds + 2


# What attacks cost an honest client.

def attack_for_ever(attack, port, stop, cpus, done):
    """On the CPUs that the daemon does not have, and only while nobody else wants them: an attacker has a machine of its own."""
    class Target:
        host = "127.0.0.1"

        def connect(self, timeout_s=30):
            return socket.create_connection((self.host, port), timeout_s)

    os.sched_setaffinity(0, cpus)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    target = Target()
    while not stop.is_set():
        try:
            attack(target)
        except (OSError, AssertionError):
            pass
        done.value += 1


def made_you_reset_all(target):
    for how in MADE_YOU_RESET:
        made_you_reset(target, 1000, how)


def ping_flood(target):
    """In pieces: a system call on a CPU that the attacker shares with the honest client, which a machine of its own would not, holds that up."""
    with Connection(target) as c:
        c.sync()
        for _ in range(100):
            if not c.send_unless_closed(frame(PING, 0, 0, bytes(8)) * 500):
                break


def ping_flood_read(target):
    with Connection(target) as c:
        for _ in range(100):
            c.send(frame(PING, 0, 0, bytes(8)) * 500)
            c.sync()


def settings_flood(target):
    flood(target, settings(INITIAL_WINDOW_SIZE=65535) * 1100)


def bomb(target):
    with Connection(target) as c:
        blocks = hpack_bombs()["one large entry, referred to 16,000 times"]
        for stream in range(1, 201, 2):
            c.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, blocks[min(stream // 2, 1)][:16384]))
            c.answer(stream)


def useless_frames(target):
    flood(target, frame(PRIORITY, 0, 99, bytes(5)) * 2000)


def stall_some(target):
    with contextlib.ExitStack() as stack:
        stall_zero_window(target, stack, 50)
        time.sleep(1)


def stall_some_unread(target):
    with contextlib.ExitStack() as stack:
        stall_unread(target, stack, 50)
        time.sleep(1)


def refused_streams(target):
    with Connection(target) as c:
        c.sync()
        c.send_unless_closed(b"".join(frame(HEADERS, END_HEADERS, s, request_block(TAKE_PATH)) for s in range(1, 2001, 2)))
        c.ended_with()


def slow_starts(target):
    """100 connections that have begun with something, and do not go on."""
    with contextlib.ExitStack() as stack:
        for i in range(100):
            c = stack.enter_context(Connection(target, begin=False))
            c.send((h2raw.PREFACE + settings() + frame(HEADERS, 0, 1, request_block()))[:1 + i])
        time.sleep(1)


GZIP_BOMB = message(gzip.compress(bytes(64 * MIB), 9), compressed=1)


def gzip_bomb(target):
    with Connection(target) as c:
        c.sync()
        c.send(frame(HEADERS, END_HEADERS, 1, request_block(extra=[("grpc-encoding", "gzip")])))
        for i in range(0, len(GZIP_BOMB), 16384):
            c.send(frame(DATA, END_STREAM if i + 16384 >= len(GZIP_BOMB) else 0, 1, GZIP_BOMB[i:i + 16384]))
        c.answer(1)


def stream_goes_down(target):
    with Connection(target) as c:
        c.send(call(5) + call(3))
        c.ended_with()


ATTACKS = (rapid_reset, made_you_reset_all, continuation_flood, bomb, stall_some, stall_some_unread, ping_flood, ping_flood_read, settings_flood,
           useless_frames, refused_streams, slow_starts, gzip_bomb, stream_goes_down)


@pytest.mark.heavy
def test_latency_beside_attacks(daemon):
    """Measured, not asserted: the p99 of 1,000 calls/s, quiet and beside each attack; medians of ORDINAL_ROUNDS rounds (3), ORDINAL_ATTACKS of them
    (all). The daemon has a CPU of its own, the attacker what the honest client leaves of the others: with two CPUs or more, this shows what the
    daemon does, and not how three programs share a CPU."""
    cpus = sorted(os.sched_getaffinity(0))
    rest = set(cpus[1:]) or set(cpus)
    d = daemon(SHARDS=1, CPUS=cpus[0])
    rounds, seconds = int(os.environ.get("ORDINAL_ROUNDS", 3)), os.environ.get("ORDINAL_SECONDS", "5")
    names = os.environ.get("ORDINAL_ATTACKS", "").split()
    attacks = [a for a in ATTACKS if not names or a.__name__ in names]
    args = ("--rate", 1000, "--duration", seconds + "s", "--connections", 2, "--protocol", "grpc")
    seen = {a: [] for a in [None, *attacks]}
    try:
        os.sched_setaffinity(0, rest)
        load(d, *args)
        for _ in range(rounds):
            for attack in seen:
                if not attack:
                    seen[None].append((load(d, *args)["latency_us"], 0))
                    continue
                stop, done = multiprocessing.Event(), multiprocessing.Value("l", 0)
                p = multiprocessing.Process(target=attack_for_ever, args=(attack, d.port, stop, rest, done))
                p.start()
                try:
                    wait_until(lambda: done.value > 0 or not p.is_alive() or attack in (ping_flood, bomb), "the attack")
                    before = done.value
                    seen[attack].append((load(d, *args)["latency_us"], done.value - before))
                finally:
                    stop.set()
                    p.join(60)
                    p.terminate()
    finally:
        os.sched_setaffinity(0, cpus)
    quiet = statistics.median(x["p99"] for x, _ in seen[None])
    print(f"\n{'':20} {'p50 us':>9} {'p99 us':>9} {'of quiet':>9}   times done in {seconds} s")
    for attack, runs in seen.items():
        p50, p99 = (statistics.median(x[k] for x, _ in runs) for k in ("p50", "p99"))
        print(f"{attack.__name__ if attack else 'quiet':20} {p50:9.0f} {p99:9.0f} {p99 / quiet:9.2f}   {statistics.median(n for _, n in runs):.0f}")
