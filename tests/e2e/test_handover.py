"""Restarts through systemd's file-descriptor store: nobody is refused, no ID comes twice. And socket activation.

The test plays systemd: it takes what the daemon stores (FDSTORE=1) and passes it to the next process (LISTEN_FDS).
"""

import array
import fcntl
import os
import re
import socket
import threading

import pytest

import appliance
import native


class Manager:
    """A notification socket, and the file-descriptor store behind it."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.1)
        self.store, self.said, self.ended = [], [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended:
            try:
                text, ancillary, _, _ = self.socket.recvmsg(8192, socket.CMSG_SPACE(64 * 4))
            except TimeoutError:
                continue
            fds = array.array("i")
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data)
            lines = text.decode().split("\n")
            if "FDSTORE=1" in lines:
                name = next(line[7:] for line in lines if line.startswith("FDNAME="))
                self.store += [(name, fd) for fd in fds]
            elif "FDSTOREREMOVE=1" in lines:
                self.drop()
            self.said += lines

    def drop(self):
        for _, fd in self.store:
            os.close(fd)
        self.store = []

    def close(self):
        self.ended = True
        self.thread.join()
        self.drop()
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path)
    yield m
    m.close()


def manage(d, manager):
    """From here on `d` is started as systemd would."""
    plain = appliance.Daemon.launch

    def launch():
        # They come as 3, 4 …, by way of numbers out of the way; and LISTEN_PID is known only to the process itself.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for _, fd in manager.store]
        moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(high))
        d.wrapper = ["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {moves}', "sh"]
        d.environment = {"NOTIFY_SOCKET": manager.path}
        if high:
            d.environment.update(LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(name for name, _ in manager.store))
        d.inherited = high
        plain(d)
        for fd in high:
            os.close(fd)
    d.launch = launch
    return d


def managed(daemon, manager, **options):
    return manage(daemon.prepare(**options), manager)


class Caller(threading.Thread):
    """New connections without end, one call each."""

    def __init__(self, d):
        super().__init__()
        self.d, self.address = d, (d.host, d.port)
        self.ids, self.refused, self.unanswered, self.ended = [], [], 0, False

    def run(self):
        while not self.ended:
            try:
                with native.Client(self.d) as c:
                    c.send(native.request(1, native.next_request()))
                    f = c.get()
                    if f is not None and f.kind == native.GOAWAY:  # a wish; what was asked before is answered
                        f = c.get()
            except ConnectionRefusedError as e:
                self.refused.append(e)
                continue
            except OSError:
                f = None
            if f is not None and f.call == 1 and f.kind == native.MESSAGE:
                self.ids.append(f.ids().start)
            else:
                self.unanswered += 1


def restarts(d, manager, times):
    d.start()
    port = d.port
    callers = [Caller(d) for _ in range(4)]
    for c in callers:
        c.start()
    try:
        for _ in range(times):
            before = sum(len(c.ids) for c in callers)
            d.stop()
            d.start()
            assert d.port == port, "the same sockets"
            appliance.wait_until(lambda before=before: sum(len(c.ids) for c in callers) > before + 20, "calls to go on")
    finally:
        for c in callers:
            c.ended = True
        for c in callers:
            c.join()
    ids = [i for c in callers for i in c.ids]
    assert not any(c.refused for c in callers), callers[0].refused
    assert len(ids) == len(set(ids)), "an ID came twice"
    assert all(c.ids == sorted(c.ids) for c in callers)
    return len(ids), sum(c.unanswered for c in callers)


def test_restarts_refuse_nobody_and_repeat_nothing(daemon, manager):
    calls, unanswered = restarts(managed(daemon, manager, SHARDS=2), manager, 10)
    assert calls > 200 and unanswered == 0


@pytest.mark.heavy
def test_200_restarts_refuse_nobody_and_repeat_nothing(daemon, manager):
    calls, unanswered = restarts(managed(daemon, manager, SHARDS=2), manager, 200)
    print(f"200 restarts, {calls} connections and calls, {unanswered} unanswered")
    assert calls > 4000 and unanswered == 0


@pytest.mark.parametrize("before, after", [(1, 3), (3, 1), (4, 2)])
def test_another_number_of_shards(daemon, manager, before, after):
    d = managed(daemon, manager, SHARDS=before)
    d.start()
    appliance.wait_until(lambda: len(manager.store) == before, "the sockets to be stored")
    d.stop()
    waiting = [d.connect() for _ in range(8)]  # in the queues of all the sockets
    d.options["SHARDS"] = after
    d.start()
    appliance.wait_until(lambda: len(manager.store) == max(before, after), "the store")
    for s in waiting:
        s.sendall(native.request(1, native.next_request("")))
        assert s.recv(1) == bytes([native.MAGIC]), "whoever waited is served"
        s.close()


def test_another_address_leaves_the_store(daemon, manager):
    d = managed(daemon, manager, SHARDS=2)
    d.start()
    d.stop()
    old = d.port
    d.options["LISTEN"] = "[::1]:0"
    d.start()
    assert d.host == "::1"
    appliance.wait_until(lambda: len(manager.store) == 2, "the new sockets")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old), timeout=10)


def test_socket_activation(daemon, manager):
    """A socket unit's socket is another user's and alone: all shards accept from it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        manager.store = [("ordinald.socket", os.dup(s.fileno()))]
        d = managed(daemon, manager, SHARDS=2, LISTEN=f"127.0.0.1:{s.getsockname()[1]}")
        early = socket.create_connection(s.getsockname(), timeout=appliance.PATIENCE_S)
        d.start()
        early.sendall(native.request(1, native.next_request("")))
        assert early.recv(1) == bytes([native.MAGIC])
        early.close()
        with native.Client(d) as a, native.Client(d) as b:
            assert a.next() != b.next()
        assert re.search(r"took over 1 listening socket", d.log())
        assert [name for name, _ in manager.store] == ["ordinald.socket"], "what is not ours is not stored"


def test_socket_activation_on_another_address_is_refused(daemon, manager):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        manager.store = [("ordinald.socket", os.dup(s.fileno()))]
        d = managed(daemon, manager, SHARDS=1, LISTEN="127.0.0.1:1")
        code, said = d.start_refused()
        assert code == 1 and "ListenStream=" in said and str(s.getsockname()[1]) in said


def test_readiness_and_status_are_told(daemon, manager):
    d = managed(daemon, manager, SHARDS=1)
    d.start()
    appliance.wait_until(lambda: "READY=1" in manager.said, "READY=1")
    d.stop()
    appliance.wait_until(lambda: "STOPPING=1" in manager.said, "STOPPING=1")
