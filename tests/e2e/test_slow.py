"""Clients that read slowly, or not at all, or ask faster than they read."""

import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

import appliance
import h2raw
import native
from native import END, PING, PONG, UNIMPLEMENTED, frame, request


def fill(c, data):
    """Sends pieces until the kernel takes no more; how many it took whole. What was cut is sent later, by the caller."""
    c.sock.setblocking(False)
    n = rest = 0
    try:
        while n * len(data) < 4 << 20:
            rest = len(data) - c.sock.send(data)
            n += 1
            if rest:
                break
    except BlockingIOError:
        pass
    c.sock.settimeout(60)
    return n, data[len(data) - rest:] if rest else b""


BURSTS = {
    "PING": (frame(PING, 1, b"x" * 64), lambda f: f.kind == PONG),
    "unknown method": (request(1, method=60), lambda f: f.kind == END and f.code == UNIMPLEMENTED),
    "IDs": (request(1, method=native.NEXT), lambda f: f.kind == native.MESSAGE or (f.kind == END and f.code == native.RESOURCE_EXHAUSTED)),
}
# The default, and the least
QUEUES = [{}, {"CONN_QUEUE_MAX": 16384, "NATIVE_INFLIGHT_MAX": 256}]


@pytest.mark.parametrize("queue", QUEUES, ids=["", "small"])
@pytest.mark.parametrize("what", BURSTS)
def test_a_burst_is_not_a_slow_reader(daemon, what, queue):
    """Megabytes of requests were there at once, and their answers more than CONN_QUEUE_MAX: the connection was reset, although nobody had
    been slow. Instead, it is read no further until its answers have gone. With a small CONN_QUEUE_MAX it was reset all the same, as reading went on
    up to 64 KiB of answers."""
    one, is_right = BURSTS[what]
    d = daemon(SHARDS=1, **queue)
    with native.Client(d) as c:
        c.ping()
        d.signal(signal.SIGSTOP)
        n, rest = fill(c, one * 1000)
        d.signal(signal.SIGCONT)
        sender = threading.Thread(target=c.send, args=(rest,))
        sender.start()
        for _ in range(n * 1000):
            f = c.get()
            assert f is not None and is_right(f), f
        sender.join()
        c.ping()


@pytest.mark.parametrize("queue", QUEUES, ids=["", "small"])
def test_a_burst_of_pings_over_http2(daemon, queue):
    d = daemon(SHARDS=1, **queue)
    with h2raw.Connection(d) as c:
        c.sync()
        d.signal(signal.SIGSTOP)
        n, rest = fill(c, h2raw.frame(h2raw.PING, 0, 0, b"burstpng") * 1000)
        d.signal(signal.SIGCONT)
        sender = threading.Thread(target=c.send, args=(rest,))
        sender.start()
        got = 0
        while got < n * 1000:
            f = c.get()
            assert f is not None and f.kind == h2raw.PING and f.payload == b"burstpng"
            got += 1
        sender.join()
        c.serves(1)


@pytest.mark.parametrize("protocol", ["native", "h2"])
def test_a_slow_reader_is_not_a_slow_writer(daemon, protocol):
    """While its answers are not read its requests are not taken, in the middle of a frame; that this lasts longer than the time that a frame
    may take is no reason to close."""
    d = daemon(SHARDS=1, BODY_TIMEOUT_MS=2000, HEADERS_TIMEOUT_MS=2000)
    if protocol == "native":
        n, c, one = 150_000, native.Client(d), frame(PING, 1, b"x" * 63)
    else:
        n, c, one = 400_000, h2raw.Connection(d), h2raw.frame(h2raw.PING, 0, 0, b"slowread") + h2raw.window_update(0, 1) * 8
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    with c:
        if protocol == "h2":
            c.sync()
        sender = threading.Thread(target=c.send, args=(one * n,))
        sender.start()
        time.sleep(3)
        assert sender.is_alive(), "the daemon has stopped reading"
        got = 0
        while got < n:
            f = c.get()
            assert f is not None, got
            got += f.kind == (PONG if protocol == "native" else h2raw.PING)
        sender.join()
        if protocol == "native":
            c.ping()
        else:
            c.serves(1)


@pytest.mark.parametrize("protocol", ["native", "h2"])
def test_a_reader_that_never_reads_is_reset(daemon, protocol):
    """STALL_TIMEOUT_MS after it took its last byte; others are served meanwhile."""
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=300)
    with native.Client(d) as good:
        if protocol == "native":
            c, one = native.Client(d), frame(PING, 1, b"x" * 64)
        else:
            c, one = h2raw.Connection(d), h2raw.frame(h2raw.PING, 0, 0, b"slowread")
        with c:
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                while True:
                    c.send(one * 10_000)
                    good.ping()
        good.ping()
        # "peer" where TCP_USER_TIMEOUT, which is set to the same, was first.
        appliance.wait_until(lambda: (e := d.stats()["connections_ended"])["stalled"] + e["peer"] == 1, "the stall to be counted")


@pytest.mark.parametrize("sequences", [1, 2])
def test_a_take_whose_client_opens_no_window_is_not_answered_without_end(daemon, sequences):
    """Answers that no window let out were kept, and further requests taken, without end: a client with a window of 0 had the daemon's memory.
    Instead its stream is read no further, and all of it goes on when the window opens."""
    d = daemon(SHARDS=1)
    per, bodies = 16000, [h2raw.message(native.next_request("ab"[i % sequences])) for i in range(4)]
    one = b"".join(bodies)
    one *= per // len(one)
    asked, room, replies = 0, {0: 65535, 1: 65535}, b""
    with d.connect(timeout_s=2) as s:
        s.sendall(h2raw.PREFACE + h2raw.settings(INITIAL_WINDOW_SIZE=0) + h2raw.frame(h2raw.SETTINGS, h2raw.ACK)
                  + h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 1, h2raw.request_block(h2raw.TAKE_PATH)))
        inbox = b""

        def read():
            """One read: credit and replies are kept. False: nothing came."""
            nonlocal inbox, replies
            try:
                inbox += s.recv(65536)
            except TimeoutError:
                return False
            while len(inbox) >= 9 and len(inbox) >= 9 + int.from_bytes(inbox[:3], "big"):
                n, kind, stream = int.from_bytes(inbox[:3], "big"), inbox[3], int.from_bytes(inbox[5:9], "big")
                payload, inbox = inbox[9:9 + n], inbox[9 + n:]
                if kind == h2raw.WINDOW_UPDATE:
                    room[stream] += int.from_bytes(payload, "big")
                elif kind == h2raw.DATA:
                    replies += payload
                assert kind not in (h2raw.RST_STREAM, h2raw.GOAWAY)
            return True

        while asked < 1_000_000:
            if min(room.values()) < len(one):
                if not read():
                    break
                continue
            s.sendall(h2raw.frame(h2raw.DATA, 0, 1, one))
            room[0] -= len(one)
            room[1] -= len(one)
            asked += len(one) // len(bodies[0])
        assert asked < 200_000, "it goes on taking requests"
        s.sendall(h2raw.settings(INITIAL_WINDOW_SIZE=1 << 30) + h2raw.window_update(0, 1 << 30))
        count = 0
        while count < asked:
            assert read(), f"{count} of {asked} answered"
            at = 0
            while len(replies) - at >= 5 and len(replies) - at - 5 >= int.from_bytes(replies[at + 1:at + 5], "big"):
                at += 5 + int.from_bytes(replies[at + 1:at + 5], "big")
                count += 1
            replies = replies[at:]


def test_a_paused_take_holds_its_own_native_connection_only(daemon):
    """The native framing has no flow control but TCP's: a Take with more requests than may wait for IDs stops its connection, and everything on
    it. Other connections go on; so does this one, in order, as IDs come; and closing it ends it at once."""
    d = daemon(SHARDS=1, PRODUCER_RATE=20_000)
    ask = native.next_request("slow", 100)
    with native.Client(d) as c, native.Client(d) as other:
        c.send(request(1, ask, method=native.TAKE, flags=0) + frame(native.MESSAGE, 1, ask) * 5000 + frame(PING, 9))
        other.ping()
        firsts = []
        while len(firsts) < 100:
            f = c.get()
            assert f.kind == native.MESSAGE and f.call == 1, f
            firsts.append(f.ids().start)
        assert firsts == sorted(set(firsts))
        other.ping()
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 0, "the calls to end")


def bytes_field(number, data):
    return bytes([number << 3 | 2]) + native.varint(len(data)) + data


class SteadyReader(threading.Thread):
    """Subscribes from the start, and takes a piece of what is sent every few milliseconds, `want` bytes in all."""

    PIECE, PAUSE_S = 12_000, 0.1

    def __init__(self, d, protocol, context, want):
        super().__init__()
        self.got, self.want, self.failure = 0, want, None
        sock = socket.socket()
        sock.settimeout(60)
        sock.connect((d.host, d.port))
        self.sock = context.wrap_socket(sock, server_hostname="localhost") if context else sock
        ask = bytes_field(1, b"large")
        self.sock.sendall(native.request(1, ask, method=5) if protocol == "native" else
                          h2raw.PREFACE + h2raw.settings(INITIAL_WINDOW_SIZE=1 << 30) + h2raw.window_update(0, 1 << 30)
                          + h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 1, h2raw.request_block("/ordinal.v1.Feed/Subscribe"))
                          + h2raw.frame(h2raw.DATA, h2raw.END_STREAM, 1, h2raw.message(ask)))

    def run(self):
        try:
            due = time.monotonic()
            while self.got < self.want:
                piece = self.sock.recv(self.PIECE)
                assert piece, f"the end after {self.got} bytes"
                self.got += len(piece)
                due += self.PAUSE_S * len(piece) / self.PIECE
                time.sleep(max(0, due - time.monotonic()))
        except (OSError, AssertionError) as e:
            self.failure = e
        self.sock.close()


def test_a_slow_and_steady_reader_of_large_messages_is_not_stalled(daemon, tmp_path):
    """Who takes bytes is not stalled: one send carried a whole frame of 4 MB, and progress was seen only at its end. In both protocols,
    with TLS and without; each reader takes 120 kB/s, so that a send of 256 KiB, too, lasts longer than STALL_TIMEOUT_MS."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=2000, TLS_CERT=tmp_path / "cert.pem", TLS_KEY=tmp_path / "key.pem", ALLOW_CLEARTEXT="y")
    with native.Client(d) as c:
        for _ in range(3):
            f = c.call(bytes_field(1, b"large") + bytes_field(3, bytes(4_000_000)), method=3)
            assert f.kind == native.MESSAGE
    readers = [SteadyReader(d, protocol, x, 800_000) for protocol in ("native", "h2") for x in (None, context)]
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    assert not any(r.failure for r in readers), [r.failure for r in readers]
    ended = d.stats()["connections_ended"]
    assert ended["stalled"] == 0, ended
