"""A stream of which retention has dropped every frame goes on at the next offset after a restart.

data/before-states.tar.xz is a data directory of a version whose logs did not say so: stream `a` had 26
frames, and its newest segment holds the record of the trim alone. That version answered the next
publish with offset 1, before the frame was written, and aborted.
"""

import os
import tarfile

import pytest

import appliance
import native
from native import LAST, MESSAGE, request
from test_feed_crash import field

HERE = os.path.dirname(os.path.abspath(__file__))
PUBLISH, SUBSCRIBE = 3, 5


def publish(d, pb, payload, number=0):
    with native.Client(d) as c:
        message = field(1, b"a") + field(2, 9) + field(3, payload) + (field(5, b"p") + field(6, number) if number else b"")
        f = c.call(message, method=PUBLISH, flags=LAST)
        assert f.kind == MESSAGE, f
        return pb.PublishReply.FromString(f.payload)


def read(d, pb):
    """(the gap, payloads by offset)"""
    gap, frames = None, {}
    with native.Client(d) as c:
        c.send(request(1, field(1, b"a"), method=SUBSCRIBE))
        while True:
            f = c.get()
            assert f is not None and f.kind == MESSAGE, f
            got = pb.Frame.FromString(f.payload)
            if got.mark == pb.MARK_CAUGHT_UP:
                return gap, frames
            if got.mark == pb.MARK_GAP:
                gap = (got.gap_from, got.gap_to)
            elif got.mark == 0:
                frames[got.offset] = got.payload


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_directory_of_an_older_version(daemon, stubs, end):
    d = daemon.prepare(SHARDS=1)
    d.directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(os.path.join(HERE, "data", "before-states.tar.xz")) as tar:
        tar.extractall(d.directory)
    os.rename(d.directory / "trimmed-away", d.data)
    d.start()
    first = publish(d, stubs.pb, b"new")
    assert first.offset == 27
    assert read(d, stubs.pb)[1] == {27: b"new"}
    with native.Client(d) as c:
        assert c.next()[0] > 1
        assert c.next("s")[0] > 5
    getattr(d, end)()
    d.start()
    second = publish(d, stubs.pb, b"newer")
    assert second.offset == 28 and second.incarnation == first.incarnation
    assert read(d, stubs.pb)[1] == {27: b"new", 28: b"newer"}


def test_every_frame_dropped_by_age(daemon, stubs):
    """With smaller segments after a restart, the record of the trim begins one: then nothing else is kept."""
    d = daemon(SHARDS=1, FEED_SEGMENT_BYTES=4 << 20)
    replies = [publish(d, stubs.pb, bytes(210000), n) for n in range(1, 27)]
    d.stop()
    d.options.update(FEED_SEGMENT_BYTES=1 << 20, FEED_RETAIN_SECONDS=1)
    d.start()
    folder = d.data / "stream.a"
    appliance.wait_until(lambda: not (folder / f"{2:016x}").exists(), "retention")
    assert read(d, stubs.pb) == ((1, 26), {})
    for end in (d.stop, d.kill, d.stop):
        end()
        d.start()
        assert read(d, stubs.pb) == ((1, 26), {})
        again = publish(d, stubs.pb, b"again", 20)  # its frame is gone, and its number is known
        assert again.duplicate and (again.offset, again.timestamp) == (20, replies[19].timestamp)
    new = publish(d, stubs.pb, b"new", 27)
    assert (new.offset, new.duplicate, new.incarnation) == (27, False, replies[0].incarnation)
    assert read(d, stubs.pb) == ((1, 26), {27: b"new"})
