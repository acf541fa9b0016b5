"""kill -9 while frames are published and followed, again and again: what was acknowledged is there once, byte for byte, and nobody has seen a
frame that is missing afterwards.

ORDINAL_KILLS: how often (default 10)."""

import os
import random
import threading
import time

import pytest

import appliance
import native
from native import LAST, MESSAGE, frame, request, varint

KILLS = int(os.environ.get("ORDINAL_KILLS", "10"))
STREAMS = (b"a", b"b", b"c")
PUBLISH_MANY, SUBSCRIBE = 4, 5


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value


class Life:
    """What clients learn between a start and a kill."""

    def __init__(self, d, pb, seed):
        self.d, self.pb, self.seed = d, pb, seed
        self.acknowledged, self.seen = {}, {}
        self.errors = []
        self.threads = [threading.Thread(target=self._guard, args=(self._publish, k)) for k in range(3)]
        self.threads += [threading.Thread(target=self._guard, args=(self._subscribe, k)) for k in range(3)]
        for t in self.threads:
            t.start()

    def join(self):
        for t in self.threads:
            t.join(appliance.PATIENCE_S)
        assert not self.errors, self.errors

    def _guard(self, work, k):
        try:
            work(k)
        except (native.Cut, OSError):
            pass  # killed
        except Exception as e:  # pylint: disable=broad-except
            self.errors.append(repr(e))

    def _publish(self, k):
        rng = random.Random(self.seed * 10 + k)
        sent, at = [], 0
        with native.Client(self.d) as c:
            while True:
                batch = b""
                for _ in range(rng.choice((1, 5, 60))):
                    stream, seq, payload = rng.choice(STREAMS), rng.randrange(1, 1000), b"%d.%d.%d" % (self.seed, k, len(sent))
                    payload += bytes(rng.choice((0, 10, 300, 5000)))
                    message = field(1, stream) + field(2, seq) + field(3, payload)
                    batch += frame(MESSAGE, 1, message) if sent else request(1, message, method=PUBLISH_MANY, flags=0)
                    sent.append((stream, seq, payload))
                c.send(batch)
                while at < len(sent):
                    f = c.get()
                    if f is not None and f.kind == native.GOAWAY:
                        continue
                    if f is None or (f.kind == native.END and f.code == native.UNAVAILABLE):
                        return
                    assert f.kind == MESSAGE, f
                    reply = self.pb.PublishReply.FromString(f.payload)
                    stream, seq, payload = sent[at]
                    self.acknowledged[stream, reply.offset] = (seq, reply.timestamp, payload)
                    at += 1

    def _subscribe(self, k):
        rng = random.Random(self.seed * 10 + 5 + k)
        stream = STREAMS[k]
        start = field(2, rng.randrange(1000)) if rng.randrange(2) else field(4, 1 + rng.randrange(50))
        with native.Client(self.d) as c:
            c.send(request(1, field(1, stream) + start, method=SUBSCRIBE))
            while (f := c.get()) is not None:
                if f.kind in (native.GOAWAY, native.END):
                    # OUT_OF_RANGE: there are not so many frames yet
                    assert f.code == native.OK or (f.kind == native.END and f.code == native.OUT_OF_RANGE), f
                    continue
                assert f.kind == MESSAGE, f
                got = self.pb.Frame.FromString(f.payload)
                if got.mark == 0:
                    assert (stream, got.offset) not in self.seen
                    self.seen[stream, got.offset] = (got.seq_no, got.timestamp, got.payload)


def everything(d, pb):
    """All frames, by stream and offset; offsets have to be dense."""
    out = {}
    for stream in STREAMS:
        with native.Client(d) as c:
            c.send(request(1, field(1, stream) + field(4, 1), method=SUBSCRIBE))
            resumed = pb.Frame.FromString(c.get().payload)
            assert resumed.mark == pb.MARK_RESUMED and resumed.offset == 1
            for offset in range(1, 1 << 60):
                got = pb.Frame.FromString(c.get().payload)
                if got.mark == pb.MARK_CAUGHT_UP:
                    break
                assert got.offset == offset and got.mark == 0, got
                out[stream, offset] = (got.seq_no, got.timestamp, got.payload)
    return out


@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_kill_during_publishing(daemon, stubs, durability):
    d = daemon(SHARDS=2, FEED_DURABILITY=durability, FEED_SEGMENT_BYTES=1 << 20)
    before, acknowledged, seen = {}, 0, 0
    rng = random.Random(7)
    for n in range(KILLS):
        life = Life(d, stubs.pb, n)
        time.sleep(rng.uniform(0.03, 0.4))
        d.kill()
        life.join()
        d.start()
        after = everything(d, stubs.pb)
        for what, known in (("was durable", before), ("was acknowledged", life.acknowledged), ("was seen", life.seen)):
            for key, value in known.items():
                assert after.get(key) == value, f"{key} {what} before kill {n}, and is {str(after.get(key))[:100]}, not {str(value)[:100]}"
        before = after
        acknowledged += len(life.acknowledged)
        seen += len(life.seen)
    payloads = [v[2] for v in before.values()]
    assert len(set(payloads)) == len(payloads), "a frame is there twice"
    assert acknowledged > KILLS and seen > KILLS


def test_a_write_that_fails_acknowledges_nothing(daemon, stubs):
    """The file system gives up in the middle of a segment: the daemon says so and stops; what was acknowledged, and nothing that anybody saw and is
    gone, is there when it is started on a file system that works."""
    pb = stubs.pb
    d = daemon.prepare(SHARDS=2, FEED_SEGMENT_BYTES=1 << 20, DRAIN_TIMEOUT_MS=2000)
    d.wrapper = ["prlimit", "--fsize=900000"]
    d.start()
    life = Life(d, pb, 1)
    assert d.process.wait(appliance.PATIENCE_S) == 1
    life.join()
    assert "the journal has failed" in d.log() and len(life.acknowledged) > 50
    d.wrapper = []
    d.start()
    after = everything(d, pb)
    for known in (life.acknowledged, life.seen):
        for key, value in known.items():
            assert after.get(key) == value
    with native.Client(d) as c:
        assert pb.PublishReply.FromString(c.call(field(1, b"a"), method=3).payload).offset > 0


def test_a_failed_journal_does_not_wait_for_the_end_of_the_drain(daemon, stubs):
    """Whoever waits for what will never be durable is refused, at once, and then nothing holds up the end: not requests for IDs that were parked, not
    publishers, not subscribers, nor a channel that idles."""
    d = daemon.prepare(SHARDS=2, FEED_SEGMENT_BYTES=1 << 20, DRAIN_TIMEOUT_MS=3_600_000, PRODUCER_RATE=1)
    d.wrapper = ["prlimit", "--fsize=900000"]
    d.start()
    clients = [native.Client(d) for _ in range(4)]
    for i, c in enumerate(clients):
        c.send(request(1, native.next_request(count=1000)) + request(2, native.next_request(f"s{i}", 1000)))
        c.send(request(3, field(1, b"a"), method=SUBSCRIBE))
        c.send(native.frame(native.PING, 9, b"p"))
        while c.get().kind != native.PONG:
            pass
    life = Life(d, stubs.pb, 1)
    assert d.process.wait(appliance.PATIENCE_S) == 1
    life.join()
    assert "the journal has failed" in d.log() and "after the drain time" not in d.log()
    for c in clients:
        ends = {f.call: f.code for f in iter(c.get, None) if f.kind == native.END}
        assert ends[1] == ends[2] == native.UNAVAILABLE
        c.close()


def test_the_end_of_a_publisher_that_half_closed_in_time(daemon, stubs):
    """LAST on the final request: every answer, then the end, also when all of it came at once."""
    d = daemon(SHARDS=2)
    with native.Client(d) as c:
        c.send(request(1, field(1, b"a"), method=PUBLISH_MANY, flags=0) + frame(MESSAGE, 1, field(1, b"b")) * 500 +
               frame(MESSAGE, 1, field(1, b"a"), flags=LAST))
        offsets = [stubs.pb.PublishReply.FromString(c.get().payload).offset for _ in range(502)]
        assert offsets == [1, *range(1, 501), 2]
        assert c.get().kind == native.END
