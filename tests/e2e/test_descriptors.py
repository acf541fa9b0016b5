"""File descriptors: strangers take none of those that the journal needs, few are enough for many streams, and too few are said at start."""

import os
import shutil
import time

import pytest

import appliance
import native
from feed_drivers import SUBSCRIBE, field
from native import END, MESSAGE, next_request, request

PUBLISH = 3


@pytest.fixture
def limited(daemon):
    """limited(n, KEY=VALUE…): a daemon that may have n files open."""
    if not shutil.which("prlimit"):
        pytest.skip("prlimit (util-linux) is not installed")

    def prepare(n, **options):
        d = daemon.prepare(**options)
        d.wrapper = ["prlimit", f"--nofile={n}:{n}"]
        return d

    return prepare


def open_files(d):
    return len(os.listdir(f"/proc/{d.pid}/fd"))


def publish(c, names, payload=b"frame"):
    """A frame to each of these streams, all at once: their offsets."""
    offsets = {}
    for i in range(0, len(names), 500):
        some = names[i:i + 500]
        c.send(b"".join(request(k + 1, field(1, n.encode()) + field(2, 1) + field(3, payload), method=PUBLISH)
                        for k, n in enumerate(some)))
        for _ in some:
            f = c.get()
            assert f.kind == MESSAGE, f
            assert f.payload[0] == 0x08, f  # field 1: the offset
            offsets[some[f.call - 1]] = native.get_varint(f.payload, 1)[0]
    return offsets


def read(c, name, pb):
    """The payloads of a stream's history."""
    c.send(request(1, field(1, name.encode()), method=SUBSCRIBE))
    seen = []
    while True:
        f = c.get()
        assert f.kind == MESSAGE, f
        got = pb.Frame.FromString(f.payload)
        if got.mark == pb.MARK_CAUGHT_UP:
            break
        seen.append(got.payload)
    c.send(native.frame(native.CANCEL, 1))
    while c.get().kind != END:
        pass
    return seen


def test_idle_connections_take_no_descriptor_of_the_journal(limited):
    """60 idle connections and 64 descriptors: the journal failed with "Too many open files", and the daemon stopped."""
    d = limited(64, SHARDS=2, WINDOW_MIN=1, WINDOW_MAX=1, COUNT_MAX=1)
    d.start()
    with native.Client(d) as good:
        good.ping()
        idle = [d.connect() for _ in range(60)]
        appliance.wait_until(lambda: "accept:" in d.log(), "the lack of descriptors to be noticed")
        for i in range(1000):  # long names: the log of IDs goes on to further files
            good.send(request(i + 1, next_request(f"{'n' * 100}{i}")))
            assert good.get().kind == MESSAGE
        publish(good, [f"s{i}" for i in range(100)])
        assert open_files(d) < 64
        d.signal(1)  # SIGHUP: the log and the configuration are opened once more
        appliance.wait_until(lambda: "configuration again" in d.log(), "the reload")
        assert d.stats()["descriptors"]["limit"] == 64
        for s in idle:
            s.close()
    appliance.wait_until(lambda: d.stats()["total"]["connections"] == 0, "the connections to be gone")
    with native.Client(d) as c:
        c.ping()
    d.stop()
    assert "journal has failed" not in d.log()


def test_waiting_for_a_descriptor_costs_no_time(limited):
    """Connections that wait for a descriptor are looked at ten times a second, and not all the time; and the log is not told each time."""
    d = limited(64, SHARDS=1)
    began = time.monotonic()
    d.start()
    clients = [d.connect() for _ in range(100)]
    appliance.wait_until(lambda: "accept:" in d.log(), "the lack of descriptors to be noticed")
    before = d.stats()["total"]["turns"]
    waits = d.stats()["total"]["accept_errors"]
    appliance.wait_until(lambda: d.stats()["total"]["accept_errors"] >= waits + 10, "ten looks")
    assert d.stats()["total"]["turns"] - before < 300
    assert d.log().count("accept:") <= time.monotonic() - began + 1
    for c in clients:
        c.close()


def test_a_start_without_descriptors_for_clients_is_refused(limited):
    d = limited(40, SHARDS=2)
    code, said = d.start_refused()
    assert code == 1 and "limit of open files is 40" in said and "LimitNOFILE=" in said, said
    assert "check failed" not in said


def test_what_is_in_force_of_connections_max_is_told(limited):
    d = limited(200, SHARDS=1, CONNECTIONS_MAX=1000)
    d.start()
    plan = d.stats()["descriptors"]
    assert plan["limit"] == 200 and plan["reserved"] + plan["connections_max"] == 200
    assert f"there can be {plan['connections_max']} connections, and not CONNECTIONS_MAX=1000" in d.log()
    assert f"at most {plan['connections_max']};" in d.get("/stats")[1].decode()
    assert f"ordinal_connections_max {plan['connections_max']}\n" in d.get("/metrics")[1].decode()
    d.stop()
    d = limited(2000, SHARDS=1, CONNECTIONS_MAX=1000)
    d.start()
    assert d.stats()["descriptors"]["connections_max"] == 1000
    assert "there can be" not in d.log()


@pytest.mark.parametrize("streams, durability", [(300, "fsync"), (300, "write"), pytest.param(100000, "fsync", marks=pytest.mark.heavy)])
def test_many_streams_with_few_descriptors(limited, stubs, streams, durability):
    """Each stream had its file open: 374 streams and 400 descriptors, and it served nobody; a few more, and the journal failed."""
    limit = 100 if streams < 1000 else 1024
    d = limited(limit, SHARDS=2, FEED_STREAMS_MAX=streams, FEED_DURABILITY=durability, FEED_MEMORY_BYTES=1 << 20, STATS_SOCKET="")
    d.start()
    names = [f"stream-{i}" for i in range(streams)]
    with native.Client(d) as c:
        assert set(publish(c, names, b"first").values()) == {1}
        assert set(publish(c, names, b"second").values()) == {2}
        assert open_files(d) <= limit
    d.stop()
    d.start()
    with native.Client(d) as c:
        assert open_files(d) <= limit
        for name in names[::max(1, streams // 300)]:
            assert read(c, name, stubs.pb) == [b"first", b"second"]
        assert set(publish(c, names, b"third").values()) == {3}
        assert open_files(d) <= limit
        d.kill()
    d.start()
    with native.Client(d) as c:
        for name in names[::max(1, streams // 300)]:
            assert read(c, name, stubs.pb) == [b"first", b"second", b"third"]
    d.stop()
