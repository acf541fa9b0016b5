"""SIGTERM: what was accepted is answered, what is stuck is bounded, and the exit code is 0."""

import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import appliance
import h2raw
import native
from h2raw import END_HEADERS, HEADERS, TAKE_PATH, frame, request_block
from native import EMPTY, REQUEST, TAKE, next_request, request


@pytest.mark.parametrize("method", ["next", "take"])
@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_sigterm_during_load(daemon, protocol, method):
    d = daemon(SHARDS=2)
    process = appliance.load_begin(d, "--duration", "30s", "--protocol", protocol, "--method", method)
    appliance.wait_until(lambda: d.stats()["total"]["ids"] > 20_000, "load")
    d.stop()
    code, report = appliance.load_end(process)
    assert code == 0 and report["errors"] == 0 and report["check"]["ok"], report
    assert report["by_status"] == {"OK": report["calls"]} and report["calls"] >= 20_000


class Tap(threading.Thread):
    """Carries h2load's connections to the daemon and back, and notes which streams were asked for and how they ended."""

    def __init__(self, d):
        super().__init__(daemon=True)
        self.daemon_process = d
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked, self.answered, self.wrong = 0, 0, []
        self.pumps = []
        self.start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = self.daemon_process.connect()
            for args in ((client, server, len(h2raw.PREFACE), self.request), (server, client, 0, self.answer)):
                pump = threading.Thread(target=self.pump, args=args)
                pump.start()
                self.pumps.append(pump)

    def request(self, f):
        if f.kind == HEADERS:
            self.asked += 1

    def answer(self, f):
        if f.kind == HEADERS and f.flags & h2raw.END_STREAM:
            self.answered += 1
            if f.fields.get("grpc-status") != "0":
                self.wrong.append(f)
        elif f.kind == h2raw.RST_STREAM or (f.kind == h2raw.GOAWAY and f.code != h2raw.NO_ERROR):
            self.wrong.append(f)

    @staticmethod
    def pump(source, to, skip, note):
        data = b""
        try:
            while piece := source.recv(1 << 16):
                to.sendall(piece)
                data += piece
                at, skip = min(skip, len(data)), max(skip - len(data), 0)
                while len(data) - at >= 9:
                    end = at + 9 + int.from_bytes(data[at:at + 3], "big")
                    if end > len(data):
                        break
                    note(h2raw.Frame(data[at:at + 9], data[at + 9:end]))
                    at = end
                data = data[at:]
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def finish(self):
        self.listener.close()
        for pump in self.pumps:
            pump.join(60)
            assert not pump.is_alive()


def test_sigterm_during_h2load(daemon, tmp_path):
    """Every request that h2load has sent is answered with OK. (h2load itself counts as failed those that it was about to send when GOAWAY
    came; so what it sends is watched.)"""
    if not shutil.which("h2load"):
        pytest.skip("h2load (nghttp2-client) is not installed")
    d = daemon(SHARDS=2)
    tap = Tap(d)
    body = tmp_path / "body"
    body.write_bytes(h2raw.message())
    process = subprocess.Popen(["h2load", "-D", "2", "-c", "4", "-m", "20", "-t", "1", "-d", body, "-H", "content-type: application/grpc",
                                "-H", "te: trailers", f"http://127.0.0.1:{tap.port}{h2raw.NEXT_PATH}"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    appliance.wait_until(lambda: tap.answered > 1_000, "h2load")
    d.stop()
    out, _ = process.communicate(timeout=60)
    tap.finish()
    succeeded = int(re.search(r"(\d+) succeeded", out)[1])
    assert not tap.wrong
    assert tap.asked == tap.answered == succeeded > 1_000, out


def test_parked_calls_are_answered_before_the_end(daemon):
    d = daemon(SHARDS=2, PRODUCER_RATE=100)
    with native.Client(d) as c, h2raw.Connection(d) as h:
        c.next()
        c.send(b"".join(request(i, next_request(count=3)) for i in range(10)))
        h.send(b"".join(h2raw.call(i, next_request(count=3)) for i in range(1, 20, 2)))
        h.sync()
        d.signal(signal.SIGTERM)
        answered = []
        while len(answered) < 10:
            f = c.get()
            if f.kind == native.MESSAGE:
                answered.append(f.call)
        assert answered == list(range(10))
        c.close()
        for i in range(1, 20, 2):
            assert h.answer(i).status == 0
        h.close()
        d.wait_stopped()


def stuck_clients(d):
    """One of each kind: a stream without end, a call that never gets its IDs, a half request, no request, answers that are not read."""
    out = []
    c = native.Client(d)
    c.send(frame_of_take())
    out.append(c)
    c = native.Client(d)
    c.send(request(1, next_request("slow", 1_000_000)))
    out.append(c)
    c = native.Client(d)
    c.send(request(1)[:5])
    out.append(c)
    c = h2raw.Connection(d, ack=False)
    c.send(frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)))
    out.append(c)
    c = h2raw.Connection(d, ack=False)
    c.send(h2raw.call(1, next_request("slow", 1_000_000)))
    out.append(c)
    c = h2raw.Connection(d, ack=False, INITIAL_WINDOW_SIZE=0)
    c.send(h2raw.call(1))
    out.append(c)
    out.append(h2raw.Connection(d, begin=False))
    c = native.Client(d)
    c.sock.setblocking(False)
    try:
        while True:
            c.sock.send(native.frame(native.PING, 1, b"x" * 64) * 1000)
    except BlockingIOError:
        pass
    out.append(c)
    return out


def frame_of_take():
    return native.frame(REQUEST, 1, flags=EMPTY, code=TAKE)


def test_stuck_clients_do_not_hold_the_end_up(daemon):
    d = daemon(SHARDS=2, PRODUCER_RATE=10, DRAIN_TIMEOUT_MS=500, STALL_TIMEOUT_MS=60000)
    clients = stuck_clients(d)
    time.sleep(0.2)
    began = time.monotonic()
    d.stop()
    assert time.monotonic() - began >= 0.4, "it waited for them"
    assert "after the drain time" in d.log()
    for c in clients:
        c.close()


def test_a_drain_time_of_zero_ends_at_once(daemon):
    d = daemon(SHARDS=2, PRODUCER_RATE=10, DRAIN_TIMEOUT_MS=0)
    clients = stuck_clients(d)
    d.stop()
    for c in clients:
        c.close()


def test_a_second_signal_ends_at_once(daemon):
    d = daemon(SHARDS=2, PRODUCER_RATE=10, DRAIN_TIMEOUT_MS=3600000)
    clients = stuck_clients(d)
    d.signal(signal.SIGTERM)
    appliance.wait_until(lambda: "draining" in d.log(), "the first signal to be seen")
    assert d.is_running()
    d.signal(signal.SIGTERM)
    d.wait_stopped()
    for c in clients:
        c.close()


def is_reset(sock):
    """Whether the other end is gone, and does not only say no more: it answers what is sent to it with a reset."""
    for _ in range(2):
        try:
            sock.sendall(bytes(9))
            if not select.select([sock], [], [], 5)[0]:
                return False
            sock.recv(1)
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


def a_take_that_holds_the_end_up(d):
    c = native.Client(d)
    c.send(frame_of_take())
    c.ping()
    return c


def test_an_idle_channel_that_acknowledges_goaway_is_closed_at_once(daemon):
    """It was given a second to close by itself, which clients that hold a channel without a call do not do."""
    d = daemon(SHARDS=1, DRAIN_TIMEOUT_MS=3_600_000)
    with a_take_that_holds_the_end_up(d) as busy, h2raw.Connection(d) as idle, h2raw.Connection(d) as called:
        idle.sync()
        called.serves(1)
        d.signal(signal.SIGTERM)
        for h in (idle, called):
            while (f := h.get()).kind != h2raw.PING:
                pass
            h.send(frame(h2raw.PING, h2raw.ACK, 0, f.payload))
            h.rest()
            assert [g.code for g in h.goaways] == [h2raw.NO_ERROR] * 2 and is_reset(h.sock)
        assert h.goaways[1].last_stream == 1
        busy.send(native.frame(native.MESSAGE, 1, flags=EMPTY | native.LAST))


def test_an_idle_channel_that_reads_nothing_does_not_hold_the_end_up(daemon):
    """A stock gRPC channel is like that while nobody waits for an answer. The end took three seconds for its sake."""
    d = daemon(SHARDS=1, DRAIN_TIMEOUT_MS=3_600_000)
    with a_take_that_holds_the_end_up(d) as busy, h2raw.Connection(d) as h, native.Client(d) as n:
        h.sync()
        n.next()
        time.sleep(1.1)  # what is silent for a while is idle
        d.signal(signal.SIGTERM)
        assert [f.kind for f in h.rest()] == [h2raw.GOAWAY, h2raw.PING, h2raw.GOAWAY] and is_reset(h.sock)
        assert n.get().kind == native.GOAWAY and n.get() is None and is_reset(n.sock)
        busy.send(native.frame(native.MESSAGE, 1, flags=EMPTY | native.LAST))


def test_a_request_that_crosses_goaway_is_answered(daemon):
    """Or given back: the channel has been idle, and its request was on the way when the daemon began to drain."""
    d = daemon(SHARDS=1, DRAIN_TIMEOUT_MS=3_600_000)
    with h2raw.Connection(d) as h:
        h.sync()
        time.sleep(1.1)
        d.signal(signal.SIGTERM)
        while h.get().kind != h2raw.GOAWAY:
            pass
        h.send(h2raw.call(1))
        h.rest()
        given_back = h.goaways[-1].last_stream == 0 and not h.answers
        assert given_back or (h.answers[1].status == 0 and h.goaways[-1].last_stream == 1)


def test_sigint_stops_as_well(daemon):
    d = daemon(SHARDS=1)
    d.signal(signal.SIGINT)
    d.wait_stopped()


def test_no_new_connection_while_draining(daemon):
    d = daemon(SHARDS=2, DRAIN_TIMEOUT_MS=20000)
    with native.Client(d) as c:
        c.send(frame_of_take())
        c.ping()
        d.signal(signal.SIGTERM)
        f = c.get()
        assert f.kind == native.GOAWAY

        def is_refused():
            try:
                socket.create_connection((d.host, d.port), timeout=5).close()
            except ConnectionRefusedError:
                return True
            return False

        appliance.wait_until(is_refused, "new connections to be refused")
        c.send(native.frame(native.MESSAGE, 1, next_request(), flags=native.LAST))
        assert len(c.get().ids()) == 1
        assert c.get().ends
    d.wait_stopped()


def test_connections_that_come_while_it_stops(daemon):
    """Threads that connect and call as fast as they can: each call is answered whole, or was never looked at (closed without a byte)."""
    d = daemon(SHARDS=2)
    stop = threading.Event()
    wrong = []

    def work():
        while not stop.is_set():
            try:
                with native.Client(d) as c:
                    c.send(request(1))
                    f = c.get()
                    if f is not None and f.kind == native.GOAWAY:
                        f = c.get()
                    if f is not None and not (f.kind == native.MESSAGE and len(f.ids()) == 1):
                        wrong.append(f)
            except OSError:
                continue
            except AssertionError as e:
                wrong.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    appliance.wait_until(lambda: d.stats()["total"]["ids"] > 200, "some calls")
    try:
        d.stop()
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong
