"""The real system calls fail while the daemon runs: what must not be acknowledged is not, and what need not stop goes on."""

import errno

import pytest

import appliance
import native
from faults import Faults
from feed_drivers import PUBLISH, field
from native import END, GOAWAY, request


@pytest.fixture
def faults(tmp_path):
    return Faults(tmp_path)


def publish(d, stream, seq, size=100):
    """One frame: (status, text), with status 0 for OK. None: the connection has ended without an answer."""
    try:
        with native.Client(d) as c:
            c.send(request(1, field(1, stream) + field(2, seq) + field(3, b"." * size), method=PUBLISH))
            f = c.get()
            while f is not None and f.kind == GOAWAY:
                f = c.get()
            if f is not None:
                return (f.code, f.payload.decode()) if f.kind == END else (0, "")
    except (OSError, native.Cut):
        pass
    return None


@pytest.mark.parametrize("call, part", [("fsync", "data"), ("fsync", "stream.new"), ("fdatasync", "stream.new")])
def test_a_failed_sync_while_a_stream_is_made_is_the_end(daemon, faults, call, part):
    """The keeper's syncs, of the new stream's file and of both directories, are syncs of the journal."""
    d = daemon.prepare(SHARDS=1)
    faults.attach(d)
    d.start()
    assert publish(d, b"old", 1) == (0, "")
    faults.set((call, errno.EIO, part))
    answer = publish(d, b"new", 1)
    assert answer is None or answer[0] == native.UNAVAILABLE, answer
    assert faults.done(), "nothing has failed"
    for stream in (b"new", b"old"):
        answer = publish(d, stream, 2)
        assert answer is None or answer[0] == native.UNAVAILABLE, answer
    assert d.process.wait(appliance.PATIENCE_S) == 1
    assert "the journal has failed" in d.log() and "Input/output error" in d.log(), d.log()
    faults.set()
    d.start()
    assert publish(d, b"old", 3) == (0, "") and publish(d, b"new", 3) == (0, "")


def test_a_stream_that_cannot_be_made_is_refused_alone(daemon, faults):
    d = daemon.prepare(SHARDS=1)
    faults.attach(d)
    d.start()
    assert publish(d, b"old", 1) == (0, "")
    for rule in (("write", errno.ENOSPC, "stream.new"), ("rename", errno.ENOSPC, "stream.new"), ("open", errno.EMFILE, "stream.new")):
        faults.set(rule)
        code, _ = publish(d, b"new", 1)
        assert code in (native.UNAVAILABLE, native.RESOURCE_EXHAUSTED)
        assert publish(d, b"old", 2) == (0, "")
        assert not (d.data / "stream.new").exists(), list((d.data / "stream.new").iterdir())
    faults.set()
    assert publish(d, b"new", 1) == (0, "")


@pytest.mark.parametrize("error", [0, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM])
def test_filling_ahead_may_fail(daemon, faults, error):
    """With much room filled and synced, a short write or an error while more is filled ahead stops nothing."""
    d = daemon.prepare(SHARDS=1, FEED_SEGMENT_BYTES=4 << 20)
    faults.attach(d)
    d.start()
    assert publish(d, b"t", 1) == (0, "")
    for seq in range(2, 40):  # the file is large enough then for large steps ahead
        assert publish(d, b"t", seq, 10_000) == (0, "")
    faults.set(("write", error, "stream.t/", 30_000))  # such a step is larger than these frames, also the eighth of it
    for seq in range(40, 400):
        assert publish(d, b"t", seq, 10_000) == (0, "")
        if faults.done():
            break
    assert faults.done(), "nothing has failed"
    appliance.wait_until(lambda: "cannot prepare room ahead of need" in d.log(), "a line in the log")
    faults.set()
    appliance.wait_until(lambda: "the journal has room again" in d.log(), "another try")
    assert d.log().count("cannot prepare room") == 1
    for seq in range(400, 420):
        assert publish(d, b"t", seq, 100_000) == (0, "")


def test_a_failed_sync_of_what_is_only_prepared_is_the_end(daemon, faults):
    d = daemon.prepare(SHARDS=1, FEED_SEGMENT_BYTES=4 << 20)
    faults.attach(d)
    d.start()
    assert publish(d, b"t", 1) == (0, "")
    faults.set(("fsync", errno.EIO, "stream.t"))  # of the directory, when the next segment gets its name
    for seq in range(2, 60):
        answer = publish(d, b"t", seq, 100_000)
        if faults.done():
            break
        assert answer == (0, "")
    assert faults.done(), "nothing has failed"
    assert d.process.wait(appliance.PATIENCE_S) == 1
    assert "the journal has failed" in d.log(), d.log()
