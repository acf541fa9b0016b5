"""Frames end to end: publish, replay, follow, lag, stop and resume, with a stock gRPC client (Debian's python3-grpcio) and in native framing."""

import random
import signal
import socket
import struct
import threading
import time

import grpc
import pytest

import appliance
import native

PATIENCE_S = 60
FRAME_MAX = (4 << 20) - 1024  # FEED_FRAME_MAX's default
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def feed(connect, stubs):
    """feed(daemon) gives a Feed stub on a gRPC channel of its own."""

    def open_stub(d, **kw):
        channel = connect(d, **kw).channel
        f = stubs.rpc.FeedStub(channel)
        f.channel = channel
        return f

    return open_stub


@pytest.fixture
def pb(stubs):
    return stubs.pb


class Subscriber:
    """A subscription read frame by frame."""

    def __init__(self, f, request):
        self.call = f.Subscribe(request, timeout=PATIENCE_S)

    def next(self):
        return next(self.call)

    def frames(self, count):
        """So many frames, none of which may be a mark."""
        out = []
        for _ in range(count):
            out.append(self.next())
            assert out[-1].mark == 0, out[-1]
        return out

    def history(self):
        """All frames up to CAUGHT_UP."""
        out = []
        while True:
            frame = self.next()
            if frame.mark == 1:
                return out
            assert frame.mark == 0, frame
            out.append(frame)

    def rest(self):
        """Everything up to a good end."""
        return list(self.call)


@pytest.fixture
def subscribe(feed, pb):
    calls = []

    def begin(d, stream="t", *, f=None, options=(), **fields):
        s = Subscriber(f or feed(d, options=options), pb.SubscribeRequest(stream=stream, **fields))
        calls.append(s.call)
        if fields.get("resume_offset"):
            s.resumed = s.next()
            assert s.resumed.mark == pb.MARK_RESUMED and s.resumed.incarnation
        return s

    yield begin
    for call in calls:
        call.cancel()


def error(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def publish_all(f, pb, frames, stream="t", **fields):
    """(seq_no, payload)… over one PublishMany; the offsets."""
    replies = f.PublishMany(iter([pb.PublishRequest(stream=stream, seq_no=s, payload=p, **fields) for s, p in frames]), timeout=PATIENCE_S)
    return [r.offset for r in replies]


def offsets(frames):
    return [f.offset for f in frames]


def by_name(d, stream="t"):
    return next(s for s in d.stats()["streams"]["by_name"] if s["name"] == stream)


# Publishing.


def test_publish_gives_dense_offsets_and_the_time(server, feed, pb):
    f = feed(server)
    before = time.time_ns()
    first = f.Publish(pb.PublishRequest(stream="t", seq_no=7, payload=b"x"))
    assert first.offset == 1 and before <= first.timestamp <= time.time_ns()
    assert first.durability == pb.DURABILITY_FSYNC and not first.duplicate
    second = f.Publish(pb.PublishRequest(stream="t", timestamp=-123))
    assert (second.offset, second.timestamp) == (2, -123)
    assert f.Publish(pb.PublishRequest(stream="other")).offset == 1
    assert f.Publish(pb.PublishRequest()).offset == 1, "the stream without a name is one, too"


def test_what_ok_means_is_said_in_every_reply(daemon, feed, pb):
    d = daemon(SHARDS=2, FEED_DURABILITY="write", FEED_DURABILITY_RULES="ticks.*=memory,ticks.kept=fsync")
    f = feed(d)
    for stream, durability in (("t", pb.DURABILITY_WRITE), ("ticks.a", pb.DURABILITY_MEMORY), ("ticks.kept", pb.DURABILITY_FSYNC)):
        assert f.Publish(pb.PublishRequest(stream=stream)).durability == durability, stream
        assert [r.durability for r in f.PublishMany(iter([pb.PublishRequest(stream=stream)] * 3))] == [durability] * 3


def test_bad_durability_rules_are_refused(daemon):
    code, said = daemon.prepare(FEED_DURABILITY_RULES="a=sometimes").start_refused()
    assert code == 2 and "FEED_DURABILITY_RULES" in said


def test_publish_many_answers_in_the_order_of_its_requests(server, feed, pb):
    """Six streams, owned by both shards, in a jumble."""
    f = feed(server)
    plan = [f"s{i * 7 % 6}" for i in range(3000)]
    seen = dict.fromkeys(plan, 0)
    replies = f.PublishMany(iter([pb.PublishRequest(stream=s, seq_no=i, payload=b"%d" % i) for i, s in enumerate(plan)]))
    for stream, reply in zip(plan, replies, strict=True):
        seen[stream] += 1
        assert reply.offset == seen[stream]
    assert sum(seen.values()) == len(plan)


def test_publish_many_holds_a_conversation(server, feed, pb):
    """An answer comes without the next request."""
    f = feed(server)
    go_on, done = threading.Semaphore(1), []

    def requests():
        for i in range(20):
            assert go_on.acquire(timeout=PATIENCE_S)
            yield pb.PublishRequest(stream="t", seq_no=i)

    for reply in f.PublishMany(requests(), timeout=PATIENCE_S):
        done.append(reply.offset)
        go_on.release()
    assert done == list(range(1, 21))


def test_a_repeat_gets_the_first_answer(server, feed, pb):
    f = feed(server)
    requests = [pb.PublishRequest(stream="t", seq_no=i, payload=b"a", publisher="me", publisher_seq=i) for i in range(1, 6)]
    first = [f.Publish(r) for r in requests]
    assert [r.offset for r in first] == [1, 2, 3, 4, 5]
    again = list(f.PublishMany(iter(requests[::-1])))
    assert [(r.offset, r.timestamp) for r in again] == [(r.offset, r.timestamp) for r in first[::-1]]
    assert all(r.duplicate for r in again)
    server.stop()
    server.start()
    reply = feed(server).Publish(requests[2])
    assert (reply.offset, reply.timestamp, reply.duplicate) == (3, first[2].timestamp, True)
    assert by_name(server)["duplicates"] >= 1


def test_errors_name_the_field_and_the_limit(daemon, feed, pb):
    d = daemon(SHARDS=2, FEED_FRAME_MAX=1000)
    f = feed(d)
    code = grpc.StatusCode
    for request, status, words in [(dict(stream="x" * 65), code.INVALID_ARGUMENT, ("64",)),
                                   (dict(stream="a\nb"), code.INVALID_ARGUMENT, ("stream",)),
                                   (dict(stream="t", payload=b"x" * 1001), code.RESOURCE_EXHAUSTED, ("1000",)),
                                   (dict(stream="t", publisher="p" * 65), code.INVALID_ARGUMENT, ("64",)),
                                   (dict(stream="t", publisher_seq=5), code.INVALID_ARGUMENT, ("publisher",))]:
        e = error(lambda r=request: f.Publish(pb.PublishRequest(**r)))
        assert e.code() == status and all(w in e.details() for w in words), (request, e)
        good = pb.PublishRequest(stream="good")
        call = f.PublishMany(iter([good, pb.PublishRequest(**request), good]))
        assert next(call).offset > 0
        e = error(lambda c=call: next(c))
        assert e.code() == status and e.details().startswith("request 2: "), e
    for name in ("x" * 65, "a\nb"):
        e = error(lambda n=name: list(f.Subscribe(pb.SubscribeRequest(stream=n))))
        assert e.code() == code.INVALID_ARGUMENT
    assert f.Publish(pb.PublishRequest(stream="t", payload=b"x" * 1000)).offset == 1, "nothing was kept of the errors"


def test_malformed_requests(server, feed):
    f = feed(server)
    bad = (b"\x0a\x05ab", b"\x10", b"\x0a\x02\xc3\x28", b"\x0b")
    for path, kind in (("Publish", "unary_unary"), ("PublishMany", "stream_stream"), ("Subscribe", "unary_stream")):
        call = getattr(f.channel, kind)(f"/ordinal.v1.Feed/{path}", request_serializer=bytes, response_deserializer=bytes)
        for message in bad:
            e = error(lambda: call(message) if kind == "unary_unary" else list(call(iter([message]) if path == "PublishMany" else message)))
            assert e.code() == grpc.StatusCode.INVALID_ARGUMENT and "ordinal.v1." in e.details(), (path, message, e)
    e = error(lambda: list(f.channel.unary_stream("/ordinal.v1.Feed/Subscribe", bytes, bytes)(b"\x18\x07")))
    assert e.code() == grpc.StatusCode.INVALID_ARGUMENT and "slow" in e.details()
    e = error(lambda: list(f.channel.unary_stream("/ordinal.v1.Feed/Subscribe", bytes, bytes)(b"\x28\xe1\xd4\x03")))
    assert e.code() == grpc.StatusCode.INVALID_ARGUMENT and "reorder_ms" in e.details()


def test_the_limit_of_streams(daemon, feed, pb):
    d = daemon(SHARDS=2, FEED_STREAMS_MAX=4)
    f = feed(d)
    for i in range(4):
        assert f.Publish(pb.PublishRequest(stream=f"s{i}")).offset == 1
    for call in (lambda: f.Publish(pb.PublishRequest(stream="s4")), lambda: list(f.Subscribe(pb.SubscribeRequest(stream="s4")))):
        e = error(call)
        assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "4" in e.details(), e
    assert f.Publish(pb.PublishRequest(stream="s3")).offset == 2


def test_without_creation_an_unknown_stream_is_not_found(daemon, feed, pb):
    d = daemon(SHARDS=2)
    assert feed(d).Publish(pb.PublishRequest(stream="known")).offset == 1
    d.stop()
    d.options["FEED_STREAM_CREATE"] = "n"
    d.start()
    f = feed(d)
    for call in (lambda: f.Publish(pb.PublishRequest(stream="unknown")), lambda: list(f.Subscribe(pb.SubscribeRequest(stream="unknown")))):
        assert error(call).code() == grpc.StatusCode.NOT_FOUND
    assert f.Publish(pb.PublishRequest(stream="known")).offset == 2


# Subscribing.


def test_history_is_sorted_then_comes_what_is_live(server, feed, subscribe, pb):
    f = feed(server)
    order = [5, 1, 9, 5, 3, 2, 9, 0, 7]
    publish_all(f, pb, [(s, b"%d" % i) for i, s in enumerate(order)], timestamp=1)
    s = subscribe(server)
    got = s.history()
    assert [(x.seq_no, x.payload) for x in got] == sorted((q, b"%d" % i) for i, q in enumerate(order))
    publish_all(f, pb, [(4, b"late"), (100, b"new")])
    assert [(x.seq_no, x.payload, x.offset) for x in s.frames(2)] == [(4, b"late", 10), (100, b"new", 11)]
    assert [x.seq_no for x in subscribe(server, replay_seq_no_start=5).history()] == [5, 5, 7, 9, 9, 100]


def test_a_start_in_the_future_is_silent_until_it_comes(server, feed, subscribe, pb):
    f = feed(server)
    publish_all(f, pb, [(i, b"") for i in range(10)])
    s = subscribe(server, replay_seq_no_start=20)
    assert s.history() == []
    publish_all(f, pb, [(i, b"") for i in range(10, 25)])
    assert [x.seq_no for x in s.frames(5)] == [20, 21, 22, 23, 24]


def test_a_stream_that_is_not_there_yet_can_be_followed(server, feed, subscribe, pb):
    subscribers = [subscribe(server, "new") for _ in range(4)]
    assert all(s.history() == [] for s in subscribers)
    feed(server).Publish(pb.PublishRequest(stream="new", payload=b"first"))
    assert [s.next().payload for s in subscribers] == [b"first"] * 4


def test_no_seam_between_history_and_live(server, feed, subscribe, pb):
    """Subscribers come while others publish, from connections on both shards: each frame once, history sorted, live in order."""
    count, publishers = 700, 4
    started = threading.Barrier(publishers + 1)

    def publisher(k):
        f = feed(server)
        started.wait(PATIENCE_S)
        rng = random.Random(k)
        replies = f.PublishMany(pb.PublishRequest(stream="t", seq_no=rng.randrange(1000), payload=b"%d.%d" % (k, i)) for i in range(count))
        assert sum(1 for _ in replies) == count

    threads = [threading.Thread(target=publisher, args=(k,)) for k in range(publishers)]
    for t in threads:
        t.start()
    started.wait(PATIENCE_S)
    subscribers = []
    for _ in range(12):
        subscribers.append(subscribe(server))
        time.sleep(0.01)
    total = count * publishers
    for s in subscribers:
        history = s.history()
        live = s.frames(total - len(history))
        keys = [(x.seq_no, x.timestamp, x.offset) for x in history]
        assert keys == sorted(keys)
        assert offsets(live) == list(range(len(history) + 1, total + 1))
        assert sorted(offsets(history)) == list(range(1, len(history) + 1))
        assert len({x.payload for x in history + live}) == total
    for t in threads:
        t.join()


def test_the_largest_frame_fits_the_limits_of_a_stock_reader(server, connect, stubs, pb):
    """A frame of FEED_FRAME_MAX was 24 bytes too much for clients at their defaults: they never got past it."""
    channel = connect(server).channel
    f = stubs.rpc.FeedStub(channel)
    frame = dict(stream="s" * 64, publisher="p" * 64, publisher_seq=2**64 - 1, seq_no=2**64 - 1, timestamp=2**63 - 1)
    assert f.Publish(pb.PublishRequest(payload=bytes(FRAME_MAX), **frame)).offset == 1
    with pytest.raises(grpc.RpcError) as e:
        f.Publish(pb.PublishRequest(payload=bytes(FRAME_MAX + 1), stream="s" * 64))
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and str(FRAME_MAX) in e.value.details()
    got = next(iter(f.Subscribe(pb.SubscribeRequest(stream="s" * 64), timeout=60)))
    assert len(got.payload) == FRAME_MAX


def test_frames_of_every_size(server, feed, subscribe, pb):
    f = feed(server, options=LARGE)
    sizes = [0, 1, 100, 2000, 2048, 16384, 65536, 262144, 300_000, 1 << 20, FRAME_MAX - 1, FRAME_MAX]
    rng = random.Random(1)
    payloads = [rng.randbytes(n) for n in sizes]
    for i, payload in enumerate(payloads):
        assert f.Publish(pb.PublishRequest(stream="t", seq_no=i, payload=payload)).offset == i + 1
    s = subscribe(server, options=LARGE)
    assert [x.payload for x in s.history()] == payloads
    for i, payload in enumerate(payloads):
        f.Publish(pb.PublishRequest(stream="t", seq_no=100 + i, payload=payload))
    assert [x.payload for x in s.frames(len(sizes))] == payloads


def test_one_channel_publishes_and_subscribes_at_once(server, feed, subscribe, pb):
    """Output of a busy subscriber and answers share the connection."""
    f = feed(server)
    s = subscribe(server, f=f)
    assert s.history() == []
    n = publish_all(f, pb, [(i, b"x" * 3000) for i in range(2000)])
    assert n == list(range(1, 2001))
    assert offsets(s.frames(2000)) == n


def test_many_subscribers_on_one_connection(server, feed, subscribe, pb):
    f = feed(server)
    subscribers = [subscribe(server, f=f, stream=f"s{i % 3}") for i in range(60)]
    for i in range(3):
        publish_all(f, pb, [(k, b"%d" % k * 50) for k in range(200)], stream=f"s{i}")
    for s in subscribers:
        seen = 0
        while seen < 200:
            seen += s.next().mark == 0


def test_resume_by_offset(server, feed, subscribe, pb):
    f = feed(server)
    publish_all(f, pb, [(100 - i, b"") for i in range(50)])
    s = subscribe(server, resume_offset=31)
    assert offsets(s.history()) == list(range(31, 51))
    publish_all(f, pb, [(1, b"")])
    assert s.next().offset == 51


def test_the_reorder_window(server, feed, subscribe, pb):
    f = feed(server)
    s = subscribe(server, reorder_ms=300)
    assert s.history() == []
    publish_all(f, pb, [(q, b"") for q in (5, 3, 4, 1, 2)])
    assert [x.seq_no for x in s.frames(5)] == [1, 2, 3, 4, 5]
    publish_all(f, pb, [(2, b""), (1, b"")])
    assert [x.seq_no for x in s.frames(2)] == [2, 1], "too late to be put in order, they come as they came"
    server.stop()
    assert s.rest()[-1].mark == pb.MARK_GOING_AWAY


def test_retention_names_what_is_gone(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=1, FEED_SEGMENT_BYTES=1 << 20, FEED_MEMORY_BYTES=1 << 20, FEED_FRAME_MAX=100_000,
               FEED_RETAIN_BYTES=2 << 20)
    f = feed(d)
    for part in range(6):
        publish_all(f, pb, [(part * 1000 + i, b"x" * 1000) for i in range(1000)])
    appliance.wait_until(lambda: by_name(d)["first_offset"] > 1, "old segments to go")
    first = subscribe(d).next()
    assert first.mark == pb.MARK_GAP and first.gap_from == 1 and first.gap_to > 1
    s = subscribe(d)
    got, gone = [], set()
    while (frame := s.next()).mark != pb.MARK_CAUGHT_UP:  # more may go while it reads
        if frame.mark == pb.MARK_GAP:
            gone.update(range(frame.gap_from, frame.gap_to + 1))
        else:
            got.append(frame.offset)
    assert got == sorted(set(got)) and set(got) | gone == set(range(1, 6001)) and len(got) >= 1000


# Slow subscribers.


def lagging(d, subscribe, feed, pb, **fields):
    """A subscriber that has caught up and then reads no more, while megabytes are published."""
    s = subscribe(d, options=[("grpc.http2.bdp_probe", 0)], **fields)
    assert s.history() == []
    f = feed(d)
    for part in range(40):
        publish_all(f, pb, [(part * 100 + i, b"x" * 2000) for i in range(100)])
    return s


def test_slow_wait_gets_everything(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=2, FEED_LAG_MAX_BYTES=1 << 20, FEED_MEMORY_BYTES=1 << 20, FEED_FRAME_MAX=100_000)
    s = lagging(d, subscribe, feed, pb)
    assert offsets(s.frames(4000)) == list(range(1, 4001))
    assert by_name(d)["reads_disk"] > 0, "memory has 1 MiB only"


def test_slow_drop_says_what_it_lost(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=2, FEED_LAG_MAX_BYTES=1 << 20)
    s = lagging(d, subscribe, feed, pb, slow=pb.SLOW_DROP)
    at, lost = 1, 0
    while at <= 4000:
        frame = s.next()
        if frame.mark == pb.MARK_GAP:
            assert frame.gap_from == at, frame
            lost += frame.gap_to - frame.gap_from + 1
            at = frame.gap_to + 1
        else:
            assert frame.offset == at
            at += 1
    assert lost > 1000
    stats = by_name(d)
    assert stats["drops"] >= 1 and stats["dropped"] == lost and stats["gaps"] >= 1


def test_slow_disconnect_names_the_limit(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=2, FEED_LAG_MAX_BYTES=1 << 20)
    s = lagging(d, subscribe, feed, pb, slow=pb.SLOW_DISCONNECT)
    appliance.wait_until(lambda: by_name(d)["disconnected"] == 1, "the slow one to be ended")
    e = error(s.rest)
    assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "FEED_LAG_MAX_BYTES" in e.details(), e


def test_one_that_does_not_read_is_not_felt(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=1)
    slow = subscribe(d)
    assert slow.history() == []
    others = [subscribe(d) for _ in range(3)]
    f = feed(d)
    publish_all(f, pb, [(i, b"x" * 20_000) for i in range(1000)])
    for s in others:
        assert s.history() is not None
        assert offsets(s.frames(1000))[-1] == 1000
    assert by_name(d)["subscribers"] == 4


# Clients that vanish, and the end.


@pytest.mark.parametrize("payload", [10, 100_000])
def test_subscribers_that_vanish_in_the_middle_of_a_send(daemon, feed, pb, payload):
    d = daemon(SHARDS=2)
    f = feed(d)
    publish_all(f, pb, [(i, b"x" * payload) for i in range(100)])
    before = d.sockets()
    for i in range(60):
        with native.Client(d) as c:
            c.send(native.request(1, b"\x0a\x01t", method=5))
            if i % 3:
                c.read(i * payload)
            if i % 2:
                c.reset()
    appliance.wait_until(lambda: d.sockets() == before, "vanished subscribers to be noticed")
    appliance.wait_until(lambda: by_name(d)["subscribers"] == 0, "their subscriptions to be gone")
    assert f.Publish(pb.PublishRequest(stream="t")).offset == 101


def test_publishers_that_vanish(daemon, feed, pb):
    d = daemon(SHARDS=2)
    f = feed(d)
    assert f.Publish(pb.PublishRequest(stream="t")).offset == 1
    for i in range(40):
        c = native.Client(d)
        c.send(native.request(1, b"\x0a\x01t\x1a\x03abc", method=4, flags=0) +
               b"".join(native.frame(native.MESSAGE, 1, b"\x0a\x01t\x1a\x03abc") for _ in range(i * 20)))
        c.reset() if i % 2 else c.close()
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 0, "vanished publishers to be noticed")
    reply = f.Publish(pb.PublishRequest(stream="t"))
    assert reply.offset >= 2
    assert by_name(d)["durable_offset"] >= reply.offset  # what was on its way when they vanished may still come


def test_stopping_tells_subscribers_where_to_resume(daemon, feed, subscribe, pb):
    """Publishers and subscribers at work when SIGTERM comes; nothing is lost or repeated across the stop."""
    d = daemon(SHARDS=2)
    acknowledged, stop_errors = [], []

    def publisher(k):
        f = feed(d)
        try:
            for reply in f.PublishMany(pb.PublishRequest(stream="t", seq_no=i, payload=b"%d.%d" % (k, i)) for i in range(10 ** 9)):
                acknowledged.append(reply.offset)
        except grpc.RpcError as e:
            stop_errors.append(e)

    threads = [threading.Thread(target=publisher, args=(k,)) for k in range(3)]
    subscribers = [subscribe(d) for _ in range(4)]
    for s in subscribers:
        assert s.history() == []
    for t in threads:
        t.start()
    appliance.wait_until(lambda: len(acknowledged) > 500, "frames to be published")
    d.signal(signal.SIGTERM)
    resumes = []
    for s in subscribers:
        got = s.rest()
        assert got[-1].mark == pb.MARK_GOING_AWAY and s.call.code() == grpc.StatusCode.OK
        resumes.append(got[-1].offset)
        assert offsets(got[:-1]) == list(range(1, got[-1].offset))
    d.wait_stopped()
    for t in threads:
        t.join(PATIENCE_S)
    assert [e.code() for e in stop_errors] == [grpc.StatusCode.UNAVAILABLE] * 3
    d.start()
    last = by_name(d)["durable_offset"]
    assert last >= max(acknowledged) and len(set(acknowledged)) == len(acknowledged)
    for resume in resumes:
        assert offsets(subscribe(d, resume_offset=resume).history()) == list(range(resume, last + 1))


def test_stopping_with_a_subscriber_that_does_not_read(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=2, DRAIN_TIMEOUT_MS=2000)
    s = lagging(d, subscribe, feed, pb)
    d.stop()
    with pytest.raises(grpc.RpcError):
        s.rest()


def test_history_survives_a_restart(server, feed, subscribe, pb):
    publish_all(feed(server), pb, [(i % 37, b"%d" % i) for i in range(500)], timestamp=5)
    before = subscribe(server).history()
    for _ in range(2):
        server.stop()
        server.start()
        assert subscribe(server).history() == before
    assert feed(server).Publish(pb.PublishRequest(stream="t")).offset == 501


def test_the_cap_on_unary_calls_is_none_on_subscriptions(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=1, CALL_TIMEOUT_MS=300)
    s = subscribe(d)
    assert s.history() == []
    time.sleep(0.6)
    assert feed(d).Publish(pb.PublishRequest(stream="t"), timeout=PATIENCE_S).offset == 1
    assert s.next().offset == 1


# Native framing.


def field(number, value):
    if isinstance(value, int):
        return native.varint(number << 3) + native.varint(value)
    return native.varint(number << 3 | 2) + native.varint(len(value)) + value


def test_native_publish_and_subscribe(server, pb):
    with native.Client(server) as c:
        f = c.call(field(1, b"t") + field(2, 7) + field(3, b"hello"), method=3)
        assert f.ends and f.status == native.OK and pb.PublishReply.FromString(f.payload).offset == 1
        sizes = [0, 3000, 5, 100_000]
        c.send(native.request(2, field(1, b"t") + field(3, b""), method=4, flags=0))
        for i, n in enumerate(sizes[1:]):
            c.send(native.frame(native.MESSAGE, 2, field(1, b"t") + field(3, b"y" * n), flags=native.LAST if i == 2 else 0))
        for expected in (2, 3, 4, 5):
            f = c.get()
            assert (f.kind, f.call) == (native.MESSAGE, 2) and pb.PublishReply.FromString(f.payload).offset == expected
        end = c.get()
        assert end.kind == native.END and end.code == native.OK
        c.send(native.request(3, field(1, b"t"), method=5))
        got = []
        while not got or got[-1].mark != pb.MARK_CAUGHT_UP:
            f = c.get()
            assert (f.kind, f.call) == (native.MESSAGE, 3)
            got.append(pb.Frame.FromString(f.payload))
        assert sorted(len(x.payload) for x in got[:-1]) == sorted([5, *sizes])
        f = c.call(field(1, b"x" * 100), method=3)
        assert f.kind == native.END and f.code == native.INVALID_ARGUMENT
        c.send(native.frame(native.CANCEL, 3))
        f = c.get()
        assert f.kind == native.END and f.call == 3 and f.code == native.CANCELLED


def test_native_subscriber_of_much(server, feed, pb):
    """Far more than any queue, to one that reads on, and pings meanwhile."""
    publish_all(feed(server), pb, [(i, b"x" * (i * 37 % 9000)) for i in range(3000)])
    with native.Client(server) as c:
        c.send(native.request(1, field(1, b"t"), method=5))
        seen = pongs = 0
        while seen < 3000:
            f = c.get()
            if f.kind == native.PONG:
                pongs += 1
                continue
            frame = pb.Frame.FromString(f.payload)
            seen += 1
            assert frame.seq_no == seen - 1 and len(frame.payload) == frame.seq_no * 37 % 9000
            if seen % 100 == 0:
                c.send(native.frame(native.PING, 9, b"p"))
        while pongs < 30:
            pongs += c.get().kind == native.PONG


# Figures.


def test_stats_by_stream(server, feed, subscribe, pb):
    f = feed(server)
    publish_all(f, pb, [(i, b"abc") for i in range(100)])
    publish_all(f, pb, [(0, b"abc")], stream='we"ird')
    subscribers = [subscribe(server) for _ in range(3)]
    for s in subscribers:
        assert len(s.history()) == 100
    stats = appliance.wait_until(lambda: (s := by_name(server))["delivered"] == 300 and s["live"] == 3 and s, "figures")
    for key, value in dict(first_offset=1, durable_offset=100, next_offset=101, frames=100, published=100, subscribers=3, drops=0, gaps=0,
                           duplicates=0, damaged=0, durability="fsync").items():
        assert stats[key] == value, (key, stats)
    assert stats["lag_bytes"] == {"p50": 0, "p90": 0, "p99": 0, "max": 0}
    assert server.stats()["streams"]["count"] == 2
    metrics = server.get("/metrics")[1].decode()
    assert 'ordinal_stream_published_total{stream="t"} 100' in metrics
    assert 'ordinal_stream_published_total{stream="we\\"ird"} 1' in metrics
    assert 'ordinal_stream_lag_bytes{stream="t",percentile="99"} 0' in metrics
    text = server.get("/stats")[1].decode()
    assert "\nStreams\n" in text and "frames_delivered" in text


def test_lag_is_seen(daemon, feed, subscribe, pb):
    d = daemon(SHARDS=2)
    lagging(d, subscribe, feed, pb)
    lag = appliance.wait_until(lambda: by_name(d)["lag_frames"]["max"], "the lag to be noticed")
    assert 0 < lag <= 4000 and by_name(d)["lag_bytes"]["max"] >= lag * 2000


def test_a_connection_that_is_reset_by_a_subscriber_does_not_hurt_a_publisher(server, feed, pb):
    f = feed(server)
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            with socket.create_connection((server.host, server.port)) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.sendall(native.request(1, field(1, b"t"), method=5))
                s.recv(100)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for t in threads:
        t.start()
    assert publish_all(f, pb, [(i, b"x" * 5000) for i in range(1000)]) == list(range(1, 1001))
    stop.set()
    for t in threads:
        t.join()
