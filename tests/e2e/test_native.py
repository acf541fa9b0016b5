"""The native framing, byte by byte."""

import struct
import time

import pytest

import appliance
import native
from native import (CANCEL, CANCELLED, DEADLINE_EXCEEDED, EMPTY, END, GOAWAY, INVALID_ARGUMENT, LAST, MESSAGE, NOT_FOUND, OK, PING, PONG,
                    REQUEST, RESOURCE_EXHAUSTED, TAKE, UNIMPLEMENTED, frame, next_request, request)


@pytest.fixture
def client(server):
    with native.Client(server) as c:
        yield c


def test_one_call(client):
    f = client.call()
    assert (f.kind, f.flags, f.code, f.call, f.arg) == (MESSAGE, LAST, 0, 1, 0)
    assert native.next_reply(f.payload) == (1, 1, 0)
    assert client.next(count=10) == range(2, 12)
    assert client.next("orders", 2) == range(1, 3)


def test_pipelining(client):
    """4000 requests in one go, more than any buffer: each answered once, and in order, since they are of one sequence."""
    client.send(b"".join(request(i, next_request(count=1 + i % 3)) for i in range(4000)))
    at = 1
    for i in range(4000):
        f = client.get()
        assert (f.call, f.ids()) == (i, range(at, at + 1 + i % 3))
        at += 1 + i % 3


def test_dribble_byte_by_byte(client):
    data = request(1, next_request("dribble", 3)) + frame(PING, 2, b"hello") + request(3, next_request("dribble", 3))
    for i in range(len(data)):
        client.send(data[i:i + 1])
    got = {f.call: f for f in (client.get(), client.get(), client.get())}
    assert (got[1].ids(), got[3].ids()) == (range(1, 4), range(4, 7))
    assert (got[2].kind, got[2].payload) == (PONG, b"hello")


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_cut_anywhere(client, cut):
    data = b"".join(request(i, next_request("some", 1)) for i in range(20))
    for at in range(0, len(data), cut):
        client.send(data[at:at + cut])
    assert [client.get().ids() for _ in range(20)] == [range(i, i + 1) for i in range(1, 21)]


def test_ping(client):
    for payload in (b"", b"x", b"y" * 64):
        client.send(frame(PING, 0xffffffff, payload))
        f = client.get()
        assert (f.kind, f.flags, f.call, f.payload) == (PONG, 0, 0xffffffff, payload)


def test_take_streams(client):
    client.send(request(9, next_request("t", 1), method=TAKE, flags=0))
    for i in range(2, 400):
        client.send(frame(MESSAGE, 9, next_request("t", i)))
    at = 1
    for i in range(1, 400):
        f = client.get()
        assert (f.kind, f.flags, f.call, f.ids()) == (MESSAGE, 0, 9, range(at, at + i))
        at += i
    client.send(frame(MESSAGE, 9, flags=LAST | EMPTY))
    f = client.get()
    assert (f.call, f.ends, f.status) == (9, True, OK)
    client.ping()


def test_take_ends_with_its_last_message(client):
    client.send(request(1, next_request("t"), method=TAKE, flags=0) + frame(MESSAGE, 1, next_request("t", 5), flags=LAST))
    assert client.get().ids() == range(1, 2)
    assert client.get().ids() == range(2, 7)
    f = client.get()
    assert f.ends and f.status == OK
    client.ping()


def test_take_opened_without_a_message(client):
    client.send(frame(REQUEST, 5, flags=EMPTY, code=TAKE))
    client.ping()
    client.send(frame(MESSAGE, 5, next_request("t", 5)))
    assert client.get().ids() == range(1, 6)
    client.send(frame(MESSAGE, 5, flags=EMPTY | LAST))
    assert client.get().ends
    client.send(frame(REQUEST, 6, flags=EMPTY | LAST, code=TAKE))
    f = client.get()
    assert f.call == 6 and f.ends and f.status == OK


def test_take_interleaves_sequences_in_order(client):
    """Thousands of requests on one stream, sequences in a jumble, sent without reading anything: more than Take keeps waiting."""
    plan = [("abc"[(i * 5 + i // 3) % 3], 1 + i % 7) for i in range(4000)]
    data = frame(REQUEST, 1, flags=EMPTY, code=TAKE) + b"".join(frame(MESSAGE, 1, next_request(s, c)) for s, c in plan)
    client.send(data + frame(MESSAGE, 1, flags=EMPTY | LAST))
    at = dict.fromkeys("abc", 1)
    for sequence, count in plan:
        assert client.get().ids() == range(at[sequence], at[sequence] + count)
        at[sequence] += count
    f = client.get()
    assert f.ends and f.status == OK


def test_several_takes_and_nexts_on_one_connection(client):
    client.send(b"".join(frame(REQUEST, i, flags=EMPTY, code=TAKE) for i in range(1, 6)))
    for round_ in range(50):
        client.send(b"".join(frame(MESSAGE, i, next_request(f"s{i}")) for i in range(1, 6)) + request(100, next_request("s6")))
        got = {(f := client.get()).call: f.ids().start for _ in range(6)}
        assert got == {1: round_ + 1, 2: round_ + 1, 3: round_ + 1, 4: round_ + 1, 5: round_ + 1, 100: round_ + 1}


def test_deadline(daemon):
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=1)) as c:
        c.send(request(1, next_request(count=100_000), timeout_ms=50))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, DEADLINE_EXCEEDED, 1) and f.payload


def test_deadline_of_take(daemon):
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=1)) as c:
        c.send(request(1, next_request(count=100_000), method=TAKE, flags=0, timeout_ms=50) + frame(MESSAGE, 1, next_request("other")))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, DEADLINE_EXCEEDED, 1)
        c.send(frame(MESSAGE, 1, next_request()) + frame(CANCEL, 1))  # late, and harmless
        c.ping()


def test_cancel(daemon):
    """Of a hundred parked calls every second is cancelled; the others are answered in their order when the IDs come."""
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=100)) as c:
        c.next()
        c.send(b"".join(request(i, next_request(count=2)) for i in range(1, 101)))
        c.send(b"".join(frame(CANCEL, i) for i in range(1, 101, 2)))
        answered, cancelled = [], []
        for _ in range(100):
            f = c.get()
            if f.kind == END:
                assert f.code == CANCELLED
                cancelled.append(f.call)
            else:
                answered.append((f.call, f.ids().start))
        # Those that were answered before their cancellation came are answered.
        assert set(cancelled) <= set(range(1, 101, 2))
        assert answered == sorted(answered)
        assert {call for call, _ in answered} >= set(range(2, 101, 2))


def test_cancel_of_take(daemon):
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=1)) as c:
        c.send(request(1, next_request(count=100_000), method=TAKE, flags=0))
        c.send(b"".join(frame(MESSAGE, 1, next_request(count=100_000)) for i in range(200)))
        c.send(frame(CANCEL, 1))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, CANCELLED, 1)
        c.ping()


def fill_take(c, timeout_ms=0):
    """A Take whose requests wait, and so many of them that the connection is not read any more, in the middle of a frame."""
    c.send(frame(REQUEST, 1, flags=EMPTY, code=TAKE, arg=timeout_ms))
    c.send(b"".join(frame(MESSAGE, 1, next_request("x", 10_000)) for _ in range(10_000)))


def test_a_paused_connection_is_not_taken_for_a_slow_one(daemon):
    """That the rest of a frame does not come is our doing while we do not read: BODY_TIMEOUT_MS closed the connection."""
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=1, BODY_TIMEOUT_MS=50)) as c:
        fill_take(c, timeout_ms=600)
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, DEADLINE_EXCEEDED, 1)
        c.ping()


def test_a_paused_connection_does_not_outlive_the_drain(daemon):
    """A connection that was paused when it was ended was never freed, and the daemon never stopped."""
    d = daemon(SHARDS=1, PRODUCER_RATE=1, DRAIN_TIMEOUT_MS=300)
    with native.Client(d) as c:
        fill_take(c)
        d.stop()


def test_a_paused_connection_that_breaks_is_freed(daemon):
    d = daemon(SHARDS=1, PRODUCER_RATE=1)
    with native.Client(d) as good:
        good.ping()
        before = d.sockets()
        for _ in range(20):
            c = native.Client(d)
            c.send(frame(REQUEST, 1, flags=EMPTY, code=TAKE))
            c.send(b"".join(frame(MESSAGE, 1, next_request("x", 10_000)) for _ in range(400)))
            c.reset()
        appliance.wait_until(lambda: d.sockets() == before, "the sockets of clients that are gone to be closed")
        good.ping()


def test_calls_in_flight_beyond_the_limit(daemon):
    """Each is answered, clearly, and CANCEL still comes through."""
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=1, NATIVE_INFLIGHT_MAX=10, DRAIN_TIMEOUT_MS=300)) as c:
        c.send(b"".join(request(i, next_request(count=100_000)) for i in range(15)))
        refused = [c.get() for _ in range(5)]
        assert [f.call for f in refused] == list(range(10, 15))
        assert all(f.kind == END and f.code == RESOURCE_EXHAUSTED and b"NATIVE_INFLIGHT_MAX" in f.payload for f in refused)
        c.send(frame(CANCEL, 3))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, CANCELLED, 3)
        c.send(request(20, next_request(count=100_000)) + request(21, next_request(count=100_000)))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, RESOURCE_EXHAUSTED, 21)


def test_a_call_number_that_is_in_use(client):
    """The client's error, and its own confusion; but each stream is told of its end once. The second's end was told to the first."""
    client.send(frame(REQUEST, 1, flags=EMPTY | LAST, code=TAKE))
    assert client.get().ends
    client.send(frame(REQUEST, 1, next_request("a", 3), flags=LAST, code=TAKE) + frame(REQUEST, 1, b"\xff", flags=LAST, code=TAKE))
    got = [client.get() for _ in range(3)]
    assert sorted(f.status for f in got if f.ends) == [OK, INVALID_ARGUMENT]
    assert [f.ids() for f in got if not f.ends] == [range(1, 4)]
    client.ping()


def test_cancel_of_an_unknown_call(client):
    client.send(frame(CANCEL, 77))
    client.ping()
    assert client.next() == range(1, 2)


def test_unknown_methods(client):
    for method in (0, 99, 63, 64, 0xffff):
        client.send(request(3, method=method))
        f = client.get()
        assert (f.kind, f.code, f.call) == (END, UNIMPLEMENTED, 3) and f.payload
    assert client.next() == range(1, 2)


def test_malformed_message(client):
    for payload in (b"\x0a\x05ab", b"\x10", b"\x0a\x02\xc3\x28", b"\xff" * 20):
        f = client.call(payload)
        assert (f.kind, f.code) == (END, INVALID_ARGUMENT) and f.payload
        client.send(request(2, payload, method=TAKE, flags=0))
        f = client.get()
        assert (f.kind, f.code, f.call) == (END, INVALID_ARGUMENT, 2)
    assert client.next() == range(1, 2)


def test_a_unary_call_takes_exactly_one_message(client):
    for flags in (0, EMPTY, EMPTY | LAST):
        client.send(frame(REQUEST, 1, flags=flags, code=native.NEXT))
        f = client.get()
        assert (f.kind, f.code) == (END, INVALID_ARGUMENT) and b"LAST" in f.payload
    assert client.next() == range(1, 2)


def test_message_after_last_closes(client):
    client.send(frame(REQUEST, 1, flags=EMPTY, code=TAKE))
    client.ping()
    client.send(frame(MESSAGE, 1, next_request(count=1), flags=LAST) + frame(MESSAGE, 1, next_request()))
    frames = []
    while f := client.get():
        frames.append(f)
    assert all(f.call == 1 for f in frames) and len(frames) <= 2


def test_message_of_a_call_that_is_over_is_ignored(client):
    assert client.next() == range(1, 2)
    client.send(frame(MESSAGE, 1, next_request()) + frame(MESSAGE, 1, flags=LAST | EMPTY))
    client.ping()
    assert client.next() == range(2, 3)


HEADER_FAULTS = {
    "magic": b"\x82" + frame(PING)[1:],
    "kind 0": frame(0),
    "kind 9": frame(9),
    "kind 15": frame(15),
    "flag 0x40": frame(PING, flags=0x40),
    "flag 0x80": frame(PING, flags=0x80),
    "END from a client": frame(END),
    "PONG from a client": frame(PONG),
    "GOAWAY from a client": frame(GOAWAY),
    "PING of 65 bytes": frame(PING, payload=b"x" * 65),
    "PING of 4 GiB": frame(PING, length=0xffffffff),
    "CANCEL with a payload": frame(CANCEL, payload=b"x"),
}


@pytest.mark.parametrize("what", HEADER_FAULTS)
def test_wrong_headers_close_this_connection_only(server, what):
    with native.Client(server) as good, native.Client(server) as bad:
        assert good.next() == range(1, 2)
        bad.ping()
        bad.send(HEADER_FAULTS[what])
        assert bad.is_closed()
        assert good.next() == range(2, 3)


def test_empty_flag_with_a_payload(client):
    client.send(frame(REQUEST, 1, b"xx", flags=EMPTY | LAST, code=TAKE))
    assert client.is_closed()


@pytest.mark.parametrize("length", [20_001, 1 << 24, 0xffffffff])
def test_oversized_message(daemon, length):
    """A clear error, and then the end: its bytes cannot be skipped."""
    with native.Client(daemon(SHARDS=1, MESSAGE_MAX=20_000)) as c:
        c.ping()
        c.send(frame(REQUEST, 4, flags=LAST, code=native.NEXT, length=length))
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, RESOURCE_EXHAUSTED, 4)
        assert b"MESSAGE_MAX" in f.payload and b"20000" in f.payload
        assert c.is_closed()


def test_oversized_message_ends_its_take(daemon):
    with native.Client(daemon(SHARDS=1, MESSAGE_MAX=20_000)) as c:
        c.send(frame(REQUEST, 4, flags=EMPTY, code=TAKE))
        c.ping()
        c.send(frame(MESSAGE, 4, length=20_001) + b"x" * 1000)
        f = c.get()
        assert (f.kind, f.code, f.call) == (END, RESOURCE_EXHAUSTED, 4)
        assert c.is_closed()


def test_a_message_of_message_max(daemon):
    with native.Client(daemon(SHARDS=1, MESSAGE_MAX=2_000_000)) as c:
        filling = b"\x22" + native.varint(1_999_000) + b"z" * 1_999_000
        for i in range(1, 4):
            assert c.call(filling + b"\0" * 0) .ids() == range(i, i + 1)


def test_half_close_with_calls_in_flight(daemon):
    """Unary calls that were asked before the end of input are answered, and then the connection ends."""
    with native.Client(daemon(SHARDS=1, PRODUCER_RATE=200)) as c:
        c.next()
        c.send(b"".join(request(i, next_request(count=10)) for i in range(1, 21)))
        c.half_close()
        got = [c.get().call for _ in range(20)]
        assert got == list(range(1, 21))
        assert c.is_closed()


def test_half_close_at_once(client):
    client.send(b"".join(request(i) for i in range(1000)))
    client.half_close()
    assert [client.get().call for _ in range(1000)] == list(range(1000))
    assert client.is_closed()


def test_half_close_with_a_take_that_has_ended(client):
    client.send(request(1, next_request("h", 1), method=TAKE, flags=LAST))
    client.half_close()
    assert client.get().ids() == range(1, 2)
    f = client.get()
    assert f.ends and f.status == OK
    assert client.is_closed()


def test_half_close_in_the_middle_of_a_frame(client):
    client.send(request(1, next_request("abc"))[:-2])
    client.half_close()
    assert client.is_closed()


def test_goaway_on_drain(server):
    """GOAWAY first; a call that was on its way is still answered; the daemon ends when the client closes."""
    with native.Client(server) as c:
        assert c.next() == range(1, 2)
        server.signal(15)
        f = c.get()
        assert (f.kind, f.call, f.length) == (GOAWAY, 0, 0)
        assert c.call().ids() == range(2, 3)
    server.wait_stopped()


def test_unknown_sequence(daemon):
    d = daemon(SHARDS=1, SEQUENCE_CREATE="n")
    with native.Client(d) as c:
        f = c.call(next_request("nope"))
        assert (f.kind, f.code) == (END, NOT_FOUND)
        assert c.next() == range(1, 2)


def test_random_garbage(server):
    """Deterministic garbage after a good first byte: closed or answered, and others are unharmed."""
    import random
    rnd = random.Random(1)
    with native.Client(server) as good:
        for i in range(200):
            with native.Client(server) as bad:
                data = bytearray(b"".join(request(k, next_request("g", 2)) for k in range(5)))
                for _ in range(rnd.randrange(1, 6)):
                    data[rnd.randrange(1, len(data))] = rnd.randrange(256)
                bad.send(bytes(data))
                if rnd.random() < 0.5:
                    bad.half_close()
                    while bad.read(4096):
                        pass
                else:
                    bad.reset()
            if i % 20 == 0:
                good.next("good")
        assert good.next("good") == range(11, 12)


def test_header_layout():
    """The client's idea of a header is the document's."""
    assert frame(PING, 0x04030201, b"ab", flags=LAST, code=0x1122, arg=0x08070605) == (
        b"\x81\x15\x22\x11\x02\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08ab")
    assert struct.calcsize(native.HEADER.format) == 16


def test_a_take_that_fails_leaves_another_call_of_its_number_alone(daemon):
    """A number used twice: the Take of that number, ended by its own first message, passed its half-close on to the Next that waited, and the
    Ids service wrote into the waiting list as if it were a stream. One client ended the daemon."""
    d = daemon(SHARDS=1)
    with native.Client(d) as c, native.Client(d) as other:
        for _ in range(20):
            c.send(request(7) * 3 + request(7, b"\xff", method=TAKE))
            got = [c.get() for _ in range(4)]
            assert sorted(f.kind for f in got) == [MESSAGE, MESSAGE, MESSAGE, END], got
            assert [f.code for f in got if f.kind == END] == [INVALID_ARGUMENT]
            other.next()
    assert d.is_running()


def test_a_first_byte_says_the_protocol_in_time(daemon):
    """PREFACE_TIMEOUT_MS is the time for the first byte, and not for the rest of the header, whatever its help said."""
    d = daemon(PREFACE_TIMEOUT_MS=1500, BODY_TIMEOUT_MS=600_000)
    with native.Client(d) as c, native.Client(d) as silent:
        whole = native.request(1)
        c.send(whole[:1])
        assert silent.is_closed()  # the time is over
        time.sleep(0.5)
        c.send(whole[1:])
        assert c.get().kind == native.MESSAGE
    with native.Client(d) as c:
        c.ping()
