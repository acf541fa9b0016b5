"""A disk that gives back something else than was written, and one that has no room: nothing wrong is delivered, nothing is acknowledged that is not kept."""

import appliance
import native
from feed_drivers import SUBSCRIBE, field
from native import END, GOAWAY, LAST, MESSAGE, frame, request

PUBLISH_MANY, DATA_LOSS = 4, 15


def payload(i):
    return b"frame %06d" % i + b"." * 500


def publish(d, first, count):
    """Frames first…, with these seq_nos, all acknowledged."""
    with native.Client(d) as c:
        messages = [field(1, b"t") + field(2, i) + field(3, payload(i)) for i in range(first, first + count)]
        c.send(request(1, messages[0], method=PUBLISH_MANY, flags=0) + b"".join(frame(MESSAGE, 1, m) for m in messages[1:-1]) +
               frame(MESSAGE, 1, messages[-1], flags=LAST))
        for _ in messages:
            assert c.get().kind == MESSAGE


class Reader:
    """A subscription."""

    def __init__(self, d, pb, since=0):
        self.pb, self.client, self.seen, self.end = pb, native.Client(d), [], None
        self.client.send(request(1, field(1, b"t") + field(2, since), method=SUBSCRIBE))

    def read(self, until):
        """Up to a frame or mark that `until` says yes to, or to the end, which is kept."""
        while (f := self.client.get()) is not None:
            if f.kind == END:
                self.end = f
                return None
            if f.kind == GOAWAY:
                continue
            got = self.pb.Frame.FromString(f.payload)
            if not got.mark:
                assert got.payload == payload(got.seq_no)
                self.seen.append(got.seq_no)
            if until(got):
                return got
        return None

    def read_history(self):
        return self.read(lambda f: f.mark == self.pb.MARK_CAUGHT_UP)


def flip(d, what):
    """One bit in the only place on disk that holds this text: the file."""
    for path in sorted((d.data / "stream.t").iterdir()):
        data = path.read_bytes()
        at = data.find(what)
        if at >= 0:
            with open(path, "r+b") as f:
                f.seek(at)
                f.write(bytes([data[at] ^ 4]))
            return path
    raise AssertionError(f"{what} is not on disk")


def test_a_flipped_bit_is_named_at_start(daemon, stubs):
    d = daemon(SHARDS=1, FEED_SEGMENT_BYTES=1 << 20)
    publish(d, 1, 6000)
    d.stop()
    path = flip(d, payload(1000))
    d.start()
    said = d.log_since_start()
    assert f"{path.parent.name}/{path.name}" in said and "damaged at byte" in said, said
    r = Reader(d, stubs.pb)
    assert r.read_history() is None and r.end.code == DATA_LOSS and r.seen == []
    d.stop()
    spoiled = payload(1000)
    flip(d, bytes([spoiled[0] ^ 4]) + spoiled[1:])  # back again
    d.start()
    r = Reader(d, stubs.pb)
    r.read_history()
    assert r.seen == list(range(1, 6001))


def test_a_flipped_bit_is_found_when_it_is_read(daemon, stubs):
    """The daemon runs, and the frame is in memory no more."""
    d = daemon(SHARDS=2, FEED_SEGMENT_BYTES=1 << 20, FEED_MEMORY_BYTES=1 << 20, FEED_FRAME_MAX=100_000)
    publish(d, 1, 8000)
    path = flip(d, payload(1000))
    r = Reader(d, stubs.pb)
    assert r.read_history() is None and r.end.code == DATA_LOSS and path.name.encode() in r.end.payload and b"byte" in r.end.payload, r.end
    assert r.seen == list(range(1, len(r.seen) + 1)) and len(r.seen) < 1000
    beyond = Reader(d, stubs.pb, 4000)
    beyond.read_history()
    assert beyond.seen == list(range(4000, 8001))
    publish(d, 8001, 10)
    beyond.read(lambda f: f.seq_no == 8010)
    assert beyond.seen == list(range(4000, 8011))


def test_a_full_disk_acknowledges_nothing(daemon, stubs, small_disk):
    """What was acknowledged before is served to the end, the publisher is told why, and when there is room again everything is there."""
    d = daemon.prepare(SHARDS=2, DATA_DIR=small_disk / "data", FEED_SEGMENT_BYTES=1 << 20, DRAIN_TIMEOUT_MS=3_600_000)
    d.data = small_disk / "data"
    d.start()
    publish(d, 1, 100)
    follower = Reader(d, stubs.pb)
    appliance.fill_disk(small_disk)
    acknowledged, sent, end = 100, 100, None
    with native.Client(d) as c:
        c.send(request(1, field(1, b"t") + field(2, 101) + field(3, payload(101)), method=PUBLISH_MANY, flags=0))
        while end is None:
            sent += 1
            f = c.get()
            while f is not None and f.kind == GOAWAY:
                f = c.get()
            if f is not None and f.kind == MESSAGE:
                acknowledged += 1
                assert acknowledged < 50_000, "the disk was full"
                try:
                    c.send(frame(MESSAGE, 1, field(1, b"t") + field(2, sent + 1) + field(3, payload(sent + 1))))
                except OSError:
                    pass
            else:
                end = f
    assert end.kind == END and end.code == native.UNAVAILABLE and end.payload, end
    assert d.process.wait(appliance.PATIENCE_S) == 1
    assert "the journal has failed" in d.log() and "No space left on device" in d.log()
    assert follower.read(lambda f: False) is None and follower.seen == list(range(1, acknowledged + 1))
    (small_disk / "filling").unlink()
    d.start()
    r = Reader(d, stubs.pb)
    r.read_history()
    assert r.seen[:acknowledged] == list(range(1, acknowledged + 1)) and len(r.seen) <= sent
    publish(d, 1, 10)
