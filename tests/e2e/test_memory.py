"""Memory at the product of limits: many subscriptions, large frames, and readers that take little or nothing. What the daemon holds for them stays
within what its options allow, and others are served meanwhile."""

import socket
import struct
import threading
import time

import appliance
import grpc
import h2raw
import native
import pytest

SUBSCRIBE_PATH = "/ordinal.v1.Feed/Subscribe"
SUBSCRIBE = 5
FRAMES, SIZE = 40, 1_000_000
MIB = 1024  # KiB


def payload(number):
    return struct.pack("<I", number) * (SIZE // 4)


def history(daemon, stubs, **options):
    """A daemon with one shard and a stream "h" of FRAMES large frames, none of which is in memory; and a stream "l"."""
    d = daemon(SHARDS=1, FEED_FRAME_MAX=1 << 20, FEED_MEMORY_BYTES=4 << 20, FEED_READ_MAX=16 << 20, **options)
    with grpc.insecure_channel(d.address) as channel:
        feed = stubs.rpc.FeedStub(channel)
        requests = (stubs.pb.PublishRequest(stream="h", seq_no=n, payload=payload(n)) for n in range(1, FRAMES + 1))
        assert [r.offset for r in feed.PublishMany(requests)] == list(range(1, FRAMES + 1))
        feed.Publish(stubs.pb.PublishRequest(stream="l", seq_no=1, payload=b"first"))
    d.stop()
    d.start()
    return d


def read_all(d, stubs):
    """What a reader who takes what comes gets of "h"."""
    with grpc.insecure_channel(d.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = stubs.rpc.FeedStub(channel).Subscribe(stubs.pb.SubscribeRequest(stream="h"), timeout=100)
        for n in range(1, FRAMES + 1):
            frame = next(call)
            assert (frame.offset, frame.payload) == (n, payload(n))
        assert next(call).mark == stubs.pb.MARK_CAUGHT_UP
        call.cancel()


def publish_and_follow(d, stubs):
    """A subscriber of "l" gets each frame while it is published, one after another."""
    with grpc.insecure_channel(d.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        feed = stubs.rpc.FeedStub(channel)
        call = feed.Subscribe(stubs.pb.SubscribeRequest(stream="l", replay_seq_no_start=2), timeout=100)
        assert next(call).mark == stubs.pb.MARK_CAUGHT_UP
        for n in range(2, 30):
            feed.Publish(stubs.pb.PublishRequest(stream="l", seq_no=n, payload=b"x" * n))
            assert next(call).seq_no == n
        call.cancel()


class SlowReader(threading.Thread):
    """Takes some bytes of a connection now and then."""

    def __init__(self, client, stop):
        super().__init__(daemon=True)
        self.client, self.stop, self.taken = client, stop, 0
        self.start()

    def run(self):
        self.client.sock.settimeout(1)
        while not self.stop.wait(0.05):
            try:
                self.taken += len(self.client.sock.recv(16384))
            except TimeoutError:
                pass


def bound(d, limit_mib):
    peak = d.peak_rss_kib() // MIB
    if not appliance.is_sanitized():
        assert peak < limit_mib, f"{peak} MiB were resident"
    read = d.stats()["streams"]
    assert read["read_bytes_most"] <= 16 << 20
    return read


def subscribers(d):
    return d.stats()["streams"]["subscribers"]


def test_thousands_of_subscriptions_on_connections_that_are_read_slowly(daemon, stubs):
    """P8: each of 8,000 subscriptions held a frame of 1 MB for as long as it liked: 4.8 GiB."""
    d = history(daemon, stubs)
    d.forget_peak_rss()
    stop = threading.Event()
    clients = [native.Client(d) for _ in range(16)]
    try:
        for c in clients:
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            c.send(b"".join(native.request(n + 1, stubs.pb.SubscribeRequest(stream="h", replay_seq_no_start=n % FRAMES).SerializeToString(),
                                           method=SUBSCRIBE) for n in range(500)))
        readers = [SlowReader(c, stop) for c in clients]
        appliance.wait_until(lambda: subscribers(d) == 8000, "all subscriptions")
        read_all(d, stubs)
        publish_and_follow(d, stubs)
        time.sleep(0.5)
        read_all(d, stubs)
        stop.set()
        for r in readers:
            r.join()
        assert all(r.taken > 0 for r in readers)
        # 16 MiB of frames, what the reader thread keeps, 8,000 subscriptions, and the daemon.
        bound(d, 160)
    finally:
        stop.set()
        for c in clients:
            c.reset()
    appliance.wait_until(lambda: subscribers(d) == 0, "no subscriptions")
    appliance.wait_until(lambda: d.stats()["streams"]["read_bytes"] == 0, "no memory of theirs")


def test_streams_of_which_a_byte_is_taken(daemon, stubs):
    """HTTP/2 clients open windows as small as they like: each of 1,500 streams takes one byte of a frame of 1 MB. What is left of the frame is given back
    when others need the memory, and comes byte for byte when the stream goes on."""
    d = history(daemon, stubs)
    d.forget_peak_rss()
    connections = [h2raw.Connection(d, INITIAL_WINDOW_SIZE=1) for _ in range(15)]
    try:
        for c in connections:
            for k in range(100):
                body = stubs.pb.SubscribeRequest(stream="h", replay_seq_no_start=k % FRAMES + 1).SerializeToString()
                c.send(h2raw.call(2 * k + 1, body, path=SUBSCRIBE_PATH))
        appliance.wait_until(lambda: subscribers(d) == 1500, "all subscriptions")
        for c in connections:  # each stream has got its byte
            got = {}
            while len(got) < 100:
                f = c.get()
                assert f is not None and f.kind in (h2raw.HEADERS, h2raw.DATA, h2raw.SETTINGS, h2raw.WINDOW_UPDATE), f
                if f.kind == h2raw.DATA:
                    assert f.stream not in got and f.payload == b"\0"
                    got[f.stream] = 1
        read_all(d, stubs)
        publish_and_follow(d, stubs)
        read = bound(d, 120)
        assert read["read_taken_back"] > 1000
        for c in connections[:3]:
            for k in (0, 33, 99):
                whole = b"\0" + take(c, 2 * k + 1, SIZE)
                length = struct.unpack(">I", whole[1:5])[0]
                whole += take(c, 2 * k + 1, 5 + length - len(whole))
                frame = stubs.pb.Frame.FromString(whole[5:])
                n = k % FRAMES + 1
                assert (frame.offset, frame.payload) == (n, payload(n))
        bound(d, 120)
    finally:
        for c in connections:
            c.reset()
    appliance.wait_until(lambda: subscribers(d) == 0, "no subscriptions")


def take(c, stream, n):
    """n more bytes of a stream, whose window they use up."""
    c.send(h2raw.window_update(stream, n) + h2raw.window_update(0, n))
    out = b""
    while len(out) < n:
        f = c.get()
        assert f is not None
        if f.kind == h2raw.DATA:
            assert f.stream == stream
            out += f.payload
    assert len(out) == n
    return out


@pytest.mark.parametrize("n", [1, 20])
def test_a_frame_larger_than_what_is_left_is_read(daemon, stubs, n):
    """Frames of 1 MB where all reads of a shard may take 4 MiB: one after another, for however many readers."""
    d = daemon(SHARDS=1, FEED_FRAME_MAX=1 << 20, FEED_MEMORY_BYTES=4 << 20, FEED_READ_MAX=4 << 20)
    with grpc.insecure_channel(d.address) as channel:
        feed = stubs.rpc.FeedStub(channel)
        requests = (stubs.pb.PublishRequest(stream="h", seq_no=k, payload=payload(k)) for k in range(1, FRAMES + 1))
        assert len(list(feed.PublishMany(requests))) == FRAMES
    d.stop()
    d.start()
    readers = [threading.Thread(target=read_all, args=(d, stubs)) for _ in range(n)]
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    assert d.stats()["streams"]["read_bytes_most"] <= 5 << 20


def subscribe_and_stop_reading(d, stubs):
    """A native connection in the middle of a frame of "h": the kernel's buffers are full, and more is to come."""
    c = native.Client(d)
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    c.send(native.request(1, stubs.pb.SubscribeRequest(stream="h").SerializeToString(), method=SUBSCRIBE))
    sent = -1

    def is_full():
        nonlocal sent
        before, sent = sent, d.stats()["total"]["bytes_out"]
        time.sleep(0.2)
        return sent == before

    appliance.wait_until(is_full, "a connection that takes no more")
    return c


def test_answers_follow_a_long_message_whole(daemon, stubs):
    """In native framing a long message that was read from disk goes in pieces. What others are answered on the connection comes between two messages."""
    d = history(daemon, stubs)
    with subscribe_and_stop_reading(d, stubs) as c:
        c.send(b"".join(native.request(n, native.next_request("s")) for n in range(2, 402)))
        got, ids = 0, []
        while got < FRAMES or len(ids) < 400:
            f = c.get()
            assert f is not None and f.kind == native.MESSAGE
            if f.call == 1:
                frame = stubs.pb.Frame.FromString(f.payload)
                got += frame.mark == 0
                assert frame.mark or (frame.offset, frame.payload) == (got, payload(got))
            else:
                ids += f.ids()
        assert ids == list(range(1, 401))


def test_a_long_message_that_is_given_up_in_the_middle(daemon, stubs):
    """The rest of it says nothing, and the connection goes on."""
    d = history(daemon, stubs)
    with subscribe_and_stop_reading(d, stubs) as c:
        c.send(native.frame(native.CANCEL, 1) + native.request(2, native.next_request("s")))
        got, f = 0, c.get()
        while f.kind == native.MESSAGE and f.call == 1:
            whole = f.payload.count(b"\0\0\0\0\0\0\0\0") == 0
            if whole:
                got += 1
                assert stubs.pb.Frame.FromString(f.payload).payload == payload(got)
            f = c.get()
        assert 0 < got < FRAMES
        ends = {f.call: f, **{g.call: g for g in [c.get()]}}
        assert ends[1].kind == native.END and ends[1].code == native.CANCELLED
        assert list(ends[2].ids()) == [1]
        c.ping()
    appliance.wait_until(lambda: d.stats()["streams"]["read_bytes"] == 0, "no memory of it")
