"""Readers that have stopped reading, of the log, the manager's socket, a tool's output: nobody waits for them."""

import os
import signal
import socket
import subprocess
import time

import pytest

import appliance
import native
from feed_drivers import field
from native import MESSAGE, request

PUBLISH = 3


class Full:
    """A pipe that takes nothing more."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, bytes(4096))
        except BlockingIOError:
            pass
        os.set_blocking(self.writer, True)

    def close(self):
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def full():
    f = Full()
    yield f
    f.close()


def launch(d, **streams):
    d.process = subprocess.Popen(d.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 env=dict(os.environ, **d.environment), **streams)


def wait_served(d):
    """There is no log to read the port from."""
    appliance.wait_until(lambda: d.stats_socket.exists() and d.get("/stats.json")[0] == 200, "the stats socket")
    d.host, _, port = d.stats()["listen"].rpartition(":")
    d.port = int(port)


def test_a_stop_does_not_wait_for_the_reader_of_standard_error(daemon, full):
    """The process stayed for ever, and a second SIGTERM did nothing."""
    d = daemon.prepare()
    launch(d, stderr=full.writer)
    wait_served(d)
    with native.Client(d) as c:
        c.ping()
    d.stop()


def test_many_streams_start_beside_a_log_that_nobody_reads(daemon, full):
    """A line a stream filled the pipe, and the daemon could not be stopped any more."""
    names = [f"s{i}" for i in range(200)]
    d = daemon(FEED_STREAMS_MAX=len(names))
    with native.Client(d) as c:
        for i in range(0, len(names), 100):
            c.send(b"".join(request(k + 1, field(1, n.encode()) + field(3, b"x"), method=PUBLISH)
                            for k, n in enumerate(names[i:i + 100])))
            for _ in range(100):
                assert c.get().kind == MESSAGE
    d.stop()
    d.start()
    log = d.log_since_start()
    assert len(log.splitlines()) < 30, log
    assert "200 streams: 200 frames" in log
    d.stop()
    launch(d, stderr=full.writer)
    wait_served(d)
    assert d.stats()["streams"]["count"] == len(names)
    d.stop()


def test_the_manager_is_not_waited_for(daemon, tmp_path):
    """A service manager that does not read what it is told: READY=1 was never sent to the end, and no signal was heard."""
    path = str(tmp_path / "manager")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        manager.bind(path)
        filler.setblocking(False)
        try:
            while True:
                filler.sendto(b"X=1", path)
        except BlockingIOError:
            pass
        d = daemon.prepare()
        d.environment = {"NOTIFY_SOCKET": path}
        d.start()
        with native.Client(d) as c:
            c.ping()
        d.signal(signal.SIGHUP)
        appliance.wait_until(lambda: "configuration again" in d.log(), "the reload")
        told = []
        manager.settimeout(appliance.PATIENCE_S)
        while not any(b"READY=1" in t for t in told[1:]):  # it reads on: nothing is lost, and in order
            got = manager.recv(4096)
            if got != b"X=1":
                told.append(got)
        assert [t.split(b"\n")[0] for t in told[:3]] == [b"READY=1", b"RELOADING=1", b"READY=1"]
        try:
            while True:
                filler.sendto(b"X=1", path)
        except BlockingIOError:
            pass
        d.stop()


@pytest.mark.parametrize("command", [["top", "--interval", "50ms"], ["load", "--duration", "0.2"], ["load", "--live", "--duration", "600"],
                                     ["subscribe", "--stream", "s"], ["next", "--count", "1000000"]])
def test_signals_end_a_tool_whose_output_nobody_reads(daemon, full, command):
    d = daemon(SHARDS=1)
    with native.Client(d) as c:
        c.send(b"".join(request(i + 1, field(1, b"s") + field(3, bytes(100000)), method=PUBLISH) for i in range(4)))
        for _ in range(4):
            assert c.get().kind == MESSAGE
    server = ["--server", d.address]
    tool = subprocess.Popen([appliance.ORDINAL, command[0], *server, *command[1:]], stdin=subprocess.DEVNULL, stdout=full.writer,
                            stderr=full.writer)
    calls = lambda: d.stats()["total"]["connections_accepted"]  # noqa: E731
    appliance.wait_until(lambda: calls() >= 2, "the tool to be connected")
    time.sleep(0.5)  # for it to get stuck; it need not
    try:
        for _ in range(2):  # the first one may ask for a report, for which it then waits
            tool.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        tool.wait(appliance.PATIENCE_S)
    finally:
        tool.kill()
