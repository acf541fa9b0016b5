"""Publishers and subscribers that do what a generator of random numbers says, each in a thread of its own, in native framing or with stock grpcio:
what the replay test lets loose on a daemon. They end by themselves when the daemon goes."""

import grpc

import native
from feed_model import CAUGHT_UP, RESUMED, Sent
from native import END, GOAWAY, HEADER, LAST, MESSAGE, varint

PUBLISH, PUBLISH_MANY, SUBSCRIBE = 3, 4, 5
NO_LIMITS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


class Gone(Exception):
    """The daemon has left."""


class Keys:
    """Keys in the order in which they are published: a pattern that the index of a stream has to cope with."""

    PATTERNS = ("rising", "mostly rising", "equal", "random", "falling", "laggards")

    def __init__(self, pattern):
        self.pattern, self.n = pattern, 0

    def next(self, rng):
        """(seq_no, timestamp); a timestamp of 0 is the server's to fill."""
        self.n += 1
        i, timestamp = self.n, rng.choice((0, 1, 1, 2, 3))
        if self.pattern == "equal":
            return 7, 9
        if self.pattern == "mostly rising" and rng.random() < 0.05:
            return max(1, i - rng.randrange(300)), timestamp
        if self.pattern == "random":
            return rng.randrange(5000), timestamp
        if self.pattern == "falling":
            return (1 << 32) - i, timestamp
        if self.pattern == "laggards" and i % 3 == 0:
            return i // 2, timestamp
        return i, timestamp

    def last(self):
        """The key of the frame that ends a life: no other is above it, so far, and starts are not either."""
        return {"equal": (7, 9), "random": (5000, 3), "falling": (1 << 32, 1)}.get(self.pattern, (self.n + 200, 1))

    def go_on(self):
        """After a life: keys that rise are above its last one."""
        self.n += 200

    def start(self, rng):
        """Where a subscriber may begin: anywhere, and now and then in the future."""
        kind = rng.randrange(8)
        if kind < 2:
            return 0
        if kind == 2:
            return self.last()[0]
        return {"equal": 7, "random": rng.randrange(5000), "falling": (1 << 32) - rng.randrange(self.n + 2)}.get(self.pattern, rng.randrange(self.n + 100))


# Publishers. Each takes (daemon, model, [(payload, Sent)…], pb, rng) and returns when everything was answered; Gone: the daemon went before.


def message(model, payload, sent):
    return field(1, model.name.encode()) + field(2, sent.seq_no) + field(3, payload) + field(4, sent.timestamp)


def begin(model, payload, sent):
    model.send(payload, sent)
    return message(model, payload, sent)


def native_replies(client, pb):
    """(call, PublishReply)… until the daemon goes."""
    while True:
        try:
            f = client.get()
        except OSError as e:
            raise Gone from e
        if f is None:
            raise Gone
        if f.kind == GOAWAY:
            continue
        if f.kind == END and f.code == native.UNAVAILABLE:
            raise Gone
        if f.kind == END and f.code == native.OK:
            continue
        assert f.kind == MESSAGE, f
        yield f.call, pb.PublishReply.FromString(f.payload)


def native_send(client, data):
    try:
        client.send(data)
    except OSError as e:
        raise Gone from e


def publish_many_native(d, model, frames, pb, rng):
    with connected(d) as c:
        replies, at, answered = native_replies(c, pb), 0, 0
        while at < len(frames):
            batch = []
            for payload, sent in frames[at:at + rng.choice((1, 7, 100, 400))]:
                data = begin(model, payload, sent)
                batch.append(native.frame(MESSAGE, 1, data) if at + len(batch) else native.request(1, data, method=PUBLISH_MANY, flags=0))
            native_send(c, b"".join(batch))
            at += len(batch)
            until = at if at == len(frames) else at - rng.choice((0, 100, 300))
            while answered < until:
                model.acknowledge(frames[answered][1], next(replies)[1])
                answered += 1


def publish_native(d, model, frames, pb, rng):
    """Unary calls, up to 64 in flight."""
    with connected(d) as c:
        replies, flight = native_replies(c, pb), {}
        for n, (payload, sent) in enumerate(frames, 1):
            flight[n] = sent
            native_send(c, native.request(n, begin(model, payload, sent), method=PUBLISH))
            while len(flight) >= 64 or (flight and n == len(frames)):
                call, reply = next(replies)
                model.acknowledge(flight.pop(call), reply)


class Channel:
    def __init__(self, d):
        self.channel = grpc.insecure_channel(d.address, options=NO_LIMITS)

    def __enter__(self):
        return self.channel

    def __exit__(self, kind, e, _):
        self.channel.close()
        if isinstance(e, grpc.RpcError) and e.code() in GONE:
            raise Gone from e


def publish_many_grpc(d, model, frames, pb, _):
    with Channel(d) as channel:
        call = channel.stream_stream("/ordinal.v1.Feed/PublishMany")
        answered = 0
        for reply in call(begin(model, *f) for f in frames):
            model.acknowledge(frames[answered][1], pb.PublishReply.FromString(reply))
            answered += 1
        assert answered == len(frames)


def publish_grpc(d, model, frames, pb, _):
    with Channel(d) as channel:
        call = channel.unary_unary("/ordinal.v1.Feed/Publish")
        for payload, sent in frames:
            model.acknowledge(sent, pb.PublishReply.FromString(call(begin(model, payload, sent))))


PUBLISHERS = (publish_many_native, publish_many_native, publish_many_grpc, publish_native, publish_grpc)


def frames_of(who, count, keys, rng, ordered):
    """What a publisher sends. Without `ordered` the daemon may turn round what is in flight at once."""
    out = []
    for n in range(count):
        seq_no, timestamp = keys.next(rng)
        size = rng.choice((0, 8, 30, 80)) if rng.random() < 0.997 else rng.randrange(100_000)
        out.append((b"%s.%d." % (who.encode(), n) + bytes(size), Sent(who if ordered else f"{who}.{n}", n, seq_no, timestamp)))
    return out


# Subscribers. Each reads into an Observation until `limit` frames have come (None: until the frame that ends the life), or until the daemon goes.


def connected(d):
    try:
        return native.Client(d)
    except OSError as e:
        raise Gone from e


def native_raws(sock):
    """Payloads of messages, a list a receive, until the end."""
    rest = b""
    while True:
        try:
            piece = sock.recv(1 << 18)
        except ConnectionError:
            return
        if not piece:
            return
        data, at, out = rest + piece, 0, []
        while len(data) - at >= HEADER.size:
            _, kind, code, length, _, _ = HEADER.unpack_from(data, at)
            end = at + HEADER.size + length
            if end > len(data):
                break
            kind &= 0x0f
            if kind == MESSAGE:
                out.append(data[at + HEADER.size:end])
            elif kind == END:
                assert code in (native.OK, native.UNAVAILABLE), (code, data[at:end])
            else:
                assert kind == GOAWAY, kind
            at = end
        rest = data[at:]
        yield out


def last_payload(life):
    """Of the frame that ends a life; the last of history and of what is live."""
    return b"the end of %d" % life


def read(batches, o, frames, limit, spoil, life):
    last = last_payload(life)
    for raws in batches:
        o.add(spoil(raws), frames)
        if (o.frames and last in o.frames[-1]) or (limit is not None and len(o.frames) >= limit):
            return
    raise Gone


def subscribe_request(o, model):
    return field(1, model.name.encode()) + field(2, o.since) + field(4, o.resume or 0)


def subscribe_native(d, model, o, limit, spoil, life):
    with connected(d) as c:
        native_send(c, native.request(1, subscribe_request(o, model), method=SUBSCRIBE))
        read(native_raws(c.sock), o, model.kept, limit, spoil, life)


def subscribe_native_and_vanish(d, model, o, limit, spoil, life):
    with connected(d) as c:
        native_send(c, native.request(1, subscribe_request(o, model), method=SUBSCRIBE))
        read(native_raws(c.sock), o, model.kept, limit, spoil, life)
        c.reset()


def subscribe_grpc(d, model, o, limit, spoil, life):
    with Channel(d) as channel:
        call = channel.unary_stream("/ordinal.v1.Feed/Subscribe")(subscribe_request(o, model))
        read(([raw] for raw in call), o, model.kept, limit, spoil, life)
        call.cancel()


SUBSCRIBERS = (subscribe_native, subscribe_native_and_vanish, subscribe_grpc)


def everything_after(d, model):
    """All frames by offset behind those that the model knows."""
    request = field(1, model.name.encode()) + field(4, len(model.raw) + 1)
    with native.Client(d) as c:
        c.send(native.request(1, request, method=SUBSCRIBE, flags=LAST))
        for raws in native_raws(c.sock):
            for raw in raws:
                mark = model.kept.pb.Frame.FromString(raw).mark
                if mark == CAUGHT_UP:
                    return
                if mark != RESUMED:
                    yield raw
    raise AssertionError("the daemon went away while it was asked for what it has")
