"""TLS handshakes and the neighbours: established clients notice nothing of them, however many there are and whatever they cost.

A library in front of OpenSSL's (hold_keys.c) tells which thread makes private-key operations, and holds them up for as long as a test
likes: so what a handshake holds up is seen without a clock.
"""

import json
import multiprocessing
import os
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest

import appliance
import native
from appliance import wait_until
from test_tls import Authority

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca", "test authority")


@pytest.fixture
def library(tmp_path):
    """The library; calls of the daemon's are noted, and held as long as library.file exists."""
    if appliance.is_sanitized():
        pytest.skip("a sanitizer's library has to come first")
    cc = shutil.which("gcc") or shutil.which("cc")
    if not cc:
        pytest.skip("no compiler")

    class Library:
        path = tmp_path / "hold_keys.so"
        file = tmp_path / "held"

        def attach(self, d):
            d.environment.update(LD_PRELOAD=str(self.path), HOLD_KEYS=str(self.file))
            return d

        def hold(self):
            self.file.touch()

        def let_go(self):
            self.file.unlink(missing_ok=True)

        def threads(self):
            """The threads that have made operations, in order."""
            log = self.file.with_suffix(".log")
            return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
    library = Library()
    subprocess.run([cc, "-O1", "-fPIC", "-shared", "-o", library.path, os.path.join(HERE, "hold_keys.c"), "-ldl"], check=True)
    yield library
    library.let_go()


class Secure:
    """What native.Client connects by, over TLS."""

    def __init__(self, d, authority, pair=None, version=None):
        self.d = d
        self.context = ssl.create_default_context(cafile=authority.cert)
        if pair:
            self.context.load_cert_chain(*pair)
        if version:
            self.context.minimum_version = self.context.maximum_version = version

    def connect(self, timeout_s=appliance.PATIENCE_S):
        return self.context.wrap_socket(self.d.connect(timeout_s), server_hostname="localhost")

    def hello(self):
        """The bytes of a ClientHello."""
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            self.context.wrap_bio(coming, going, server_hostname="localhost").do_handshake()
        return going.read()


def secure_daemon(daemon, authority, library=None, **options):
    cert, key = authority.issue("server")
    d = daemon.prepare(TLS_CERT=cert, TLS_KEY=key, **options)
    if library:
        library.attach(d)
    return d.start()


def wait_until_nobody_is_left(d):
    wait_until(lambda: d.stats()["total"]["connections"] == 0, "all connections to end")
    assert d.stats()["total"]["tls_handshakes_waiting"] == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_shard_makes_private_key_operations(daemon, authority, library, version):
    alice = authority.issue("alice")
    d = secure_daemon(daemon, authority, library, SHARDS=2, TLS_CLIENT_CA=authority.cert)
    secure = Secure(d, authority, alice, version)
    for i in range(10):
        with native.Client(secure) as c:
            assert c.next() == range(i + 1, i + 2)
    threads = library.threads()
    assert len(threads) >= 20, "a key exchange and a signature each"
    assert all(t.startswith("handshake/") for t in threads), set(threads)
    assert d.stats()["total"]["tls_handshakes"] == 10


def test_a_handshake_held_the_calls_of_everybody(daemon, authority, library):
    d = secure_daemon(daemon, authority, library, SHARDS=1, PREFACE_TIMEOUT_MS=600_000)
    secure = Secure(d, authority)
    with native.Client(secure) as c:
        assert c.next() == range(1, 2)
        before = len(library.threads())
        library.hold()
        coming = [d.connect() for _ in range(50)]
        for s in coming:
            s.sendall(secure.hello())
        wait_until(lambda: len(library.threads()) > before, "a handshake to be under way")
        wait_until(lambda: d.stats()["total"]["tls_handshakes_waiting"] > 20, "others to wait")
        c.sock.settimeout(20)
        for i in range(100):
            assert c.next() == range(2 + i, 3 + i)
        assert d.stats()["total"]["tls_handshakes"] == 1
        library.let_go()
        for s in coming:
            assert s.recv(1) == b"\x16", "each is answered now"
            s.close()
        with native.Client(secure) as late:
            assert late.next() == range(102, 103)
    wait_until_nobody_is_left(d)


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_clients_that_leave_while_their_handshake_waits(daemon, authority, library, how):
    """Those that wait are gone at once; those that a thread has, when it has done."""
    d = secure_daemon(daemon, authority, library, SHARDS=2)
    secure = Secure(d, authority)
    hello = secure.hello()
    library.hold()
    coming = [native.Client(d) for _ in range(100)]
    for c in coming:
        c.send(hello)
    wait_until(lambda: d.stats()["total"]["tls_handshakes_waiting"] > 50, "them to wait")
    for c in coming:
        (c.reset if how == "resets" else c.close)()
    wait_until(lambda: d.stats()["total"]["tls_handshakes_waiting"] == 0, "their places to be free")
    assert d.stats()["total"]["connections"] < 50
    library.let_go()
    wait_until_nobody_is_left(d)
    with native.Client(secure) as c:
        assert c.next() == range(1, 2)


def test_a_stop_while_handshakes_are_under_way(daemon, authority, library):
    d = secure_daemon(daemon, authority, library, SHARDS=2, DRAIN_TIMEOUT_MS=60_000)
    secure = Secure(d, authority)
    hello = secure.hello()
    with native.Client(secure) as c:
        assert c.next() == range(1, 2)
        before = len(library.threads())
        library.hold()
        coming = [native.Client(d) for _ in range(20)]
        for x in coming:
            x.send(hello)
        wait_until(lambda: len(library.threads()) > before, "a handshake to be under way")
        d.signal(15)
        wait_until(lambda: c.get() is not None, "the goodbye")
        library.let_go()
    d.wait_stopped()
    for x in coming:
        x.close()


def test_handshakes_that_wait_too_long_are_ended(daemon, authority, library):
    d = secure_daemon(daemon, authority, library, SHARDS=1, PREFACE_TIMEOUT_MS=300)
    hello = Secure(d, authority).hello()
    library.hold()
    coming = [native.Client(d) for _ in range(30)]
    for c in coming:
        c.send(hello)
    wait_until(lambda: d.stats()["connections_ended"]["timeout"] > 15, "those that wait to be ended")
    library.let_go()
    for c in coming:
        assert c.is_closed() or True  # an alert, or the end
        c.close()
    wait_until_nobody_is_left(d)


def s_client(d, authority, *args):
    return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{d.port}", "-CAfile", authority.cert, *args], input="", text=True,
                          capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("group", ["ffdhe8192", "ffdhe2048", "X448"])
def test_a_costly_key_exchange_was_made(daemon, authority, group):
    d = secure_daemon(daemon, authority, SHARDS=1)
    done = s_client(d, authority, "-tls1_3", "-groups", group)
    assert done.returncode != 0 and "handshake failure" in done.stderr, done.stderr
    assert d.stats()["total"]["tls_handshakes"] == 0
    done = s_client(d, authority, "-tls1_3", "-groups", f"{group}:P-384")
    assert done.returncode == 0 and "Verification: OK" in done.stdout, done.stderr
    wait_until_nobody_is_left(d)


def test_the_threads_yield_to_the_shards(daemon, authority):
    """They are there, as many as CPUs and eight at the most, and the scheduler gives them less weight; without TLS there are none."""
    def threads(d):
        found = {}
        for tid in os.listdir(f"/proc/{d.pid}/task"):
            with open(f"/proc/{d.pid}/task/{tid}/comm", encoding="ascii") as f:
                found[f.read().strip()] = int(tid)
        return found

    assert not any(t.startswith("handshake") for t in threads(daemon(SHARDS=1)))
    d = secure_daemon(daemon, authority, SHARDS=1)
    found = threads(d)
    names = [t for t in found if t.startswith("handshake/")]
    assert len(names) == min(len(os.sched_getaffinity(0)), 8)
    for t in names:
        wait_until(lambda t=t: os.sched_getscheduler(found[t]) == os.SCHED_BATCH, "the policy")
        wait_until(lambda t=t: os.getpriority(os.PRIO_PROCESS, found[t]) == min(19, os.getpriority(os.PRIO_PROCESS, found["shard/0"]) + 10),
                   "the weight")


# What it costs, measured.

def flood(port, hello, stop, count, cpus):
    os.sched_setaffinity(0, cpus)
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                s.sendall(hello)
                s.recv(1)
            count.value += 1
        except OSError:
            time.sleep(0.01)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["rsa:2048", "rsa:4096", "ec"])
def test_latency_beside_a_flood_of_hellos(daemon, tmp_path, kind):
    """Measured, not asserted: the p99 of 500 calls/s over TLS, quiet, and beside clients that send ClientHellos as fast as they can."""
    cert, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", kind, *(["-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else []), "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                   check=True, capture_output=True)

    class Itself:
        pass
    Itself.cert = cert
    d = daemon(SHARDS=2, TLS_CERT=cert, TLS_KEY=key)
    hello = Secure(d, Itself).hello()
    argv = [appliance.ORDINAL, "load", "--server", d.address, "--tls", "--tls-ca", cert, "--protocol", "native", "--connections", "2", "--depth",
            "1", "--rate", "500", "--duration", os.environ.get("ORDINAL_SECONDS", "5"), "--json"]

    def measure():
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        return json.loads(done.stdout) if re.match(r"\s*\{", done.stdout) else {"latency_us": {}, "errors": done.stderr}
    quiet = measure()
    stop, count = multiprocessing.Event(), multiprocessing.Value("l", 0)
    clients = [multiprocessing.Process(target=flood, args=(d.port, hello, stop, count, os.sched_getaffinity(0))) for _ in range(4)]
    beside = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)  # its own handshakes
    began = time.monotonic()
    for p in clients:
        p.start()
    out = beside.communicate(timeout=120)[0]
    seconds = time.monotonic() - began
    stop.set()
    for p in clients:
        p.join(60)
    print(f"\n{kind}: {count.value / seconds:.0f} hellos/s")
    for name, report in (("quiet", quiet), ("flood", json.loads(out))):
        latency = report["latency_us"]
        print(f"  {name}: p50 {latency['p50']:.0f} us, p99 {latency['p99']:.0f} us, max {latency['max']:.0f} us, errors {report['errors']}")
