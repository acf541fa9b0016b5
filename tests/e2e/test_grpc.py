"""A stock gRPC client (Debian's python3-grpcio) against the daemon."""

import socket
import threading
import time

import grpc
import pytest

import h2raw
import native

PATIENCE_S = 60


def ids_of(reply):
    return range(reply.first, reply.first + reply.count)


def error(future_or_call):
    with pytest.raises(grpc.RpcError) as caught:
        future_or_call()
    return caught.value


def test_next_rises_from_one(server, connect, stubs):
    ids = connect(server)
    for expected in (1, 2, 3):
        reply = ids.Next(stubs.pb.NextRequest())
        assert (reply.first, reply.count, reply.order) == (expected, 1, stubs.pb.ORDER_STRICT)


def test_count_gives_a_range(server, connect, stubs):
    ids = connect(server)
    assert ids_of(ids.Next(stubs.pb.NextRequest(count=10))) == range(1, 11)
    assert ids_of(ids.Next(stubs.pb.NextRequest(count=1))) == range(11, 12)
    assert ids_of(ids.Next(stubs.pb.NextRequest(count=1_000_000))) == range(12, 1_000_012)
    assert ids_of(ids.Next(stubs.pb.NextRequest())) == range(1_000_012, 1_000_013)


def test_sequences_are_independent(server, connect, stubs):
    ids = connect(server)
    for sequence in ("", "orders", "Bestellungen äöü", "注文", "a" * 128, " ", "a/b", "orders "):
        assert ids.Next(stubs.pb.NextRequest(sequence=sequence, count=3)).first == 1, sequence
    assert ids.Next(stubs.pb.NextRequest(sequence="orders")).first == 4


def test_sharded_order_is_said(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=2, ID_ORDER="sharded"))
    replies = [ids.Next(stubs.pb.NextRequest()) for _ in range(100)]
    assert all(r.order == stubs.pb.ORDER_SHARDED for r in replies)
    assert all(a.first < b.first for a, b in zip(replies, replies[1:]))


def test_errors_name_the_field_and_the_limit(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=1, COUNT_MAX=1000))
    for request, code, words in [
            (stubs.pb.NextRequest(count=1001), grpc.StatusCode.RESOURCE_EXHAUSTED, ("count", "1000")),
            (stubs.pb.NextRequest(count=0xffffffff), grpc.StatusCode.RESOURCE_EXHAUSTED, ("count", "1000")),
            (stubs.pb.NextRequest(sequence="a" * 129), grpc.StatusCode.INVALID_ARGUMENT, ("128",)),
            (stubs.pb.NextRequest(sequence="a\nb"), grpc.StatusCode.INVALID_ARGUMENT, ("sequence",)),
            (stubs.pb.NextRequest(sequence="a\0b"), grpc.StatusCode.INVALID_ARGUMENT, ("sequence",))]:
        e = error(lambda r=request: ids.Next(r))
        assert e.code() == code, e
        assert all(w in e.details() for w in words), e.details()
    assert ids.Next(stubs.pb.NextRequest(count=1000)).first == 1, "nothing was used up by the errors"


def test_the_limit_of_sequences(daemon, connect, stubs):
    d = daemon(SHARDS=2, SEQUENCES_MAX=4)
    ids = connect(d)
    made, refused = [], []
    for i in range(8):
        try:
            ids.Next(stubs.pb.NextRequest(sequence=f"s{i}"))
            made.append(i)
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "SEQUENCES_MAX" in e.details() and "4" in e.details(), e
            refused.append(i)
    assert len(made) in (3, 4) and refused == list(range(len(made), 8))
    for i in made:
        assert ids.Next(stubs.pb.NextRequest(sequence=f"s{i}")).first == 2
    assert ids.Next(stubs.pb.NextRequest()).first == 1


def test_without_creation_an_unknown_sequence_is_not_found(daemon, connect, stubs):
    d = daemon(SHARDS=2)
    assert connect(d).Next(stubs.pb.NextRequest(sequence="known")).first == 1
    d.stop()
    d.options["SEQUENCE_CREATE"] = "n"
    d.start()
    ids = connect(d)
    e = error(lambda: ids.Next(stubs.pb.NextRequest(sequence="unknown")))
    assert e.code() == grpc.StatusCode.NOT_FOUND and "SEQUENCE_CREATE" in e.details(), e
    assert ids.Next(stubs.pb.NextRequest(sequence="known")).first == 2
    assert ids.Next(stubs.pb.NextRequest()).first == 1


def raw_unary(ids, path):
    return ids.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)


def test_unknown_methods_and_services(server, connect):
    ids = connect(server)
    for path, words in [("/ordinal.v1.Ids/Nope", "method"), ("/ordinal.v1.Nope/Next", "service"), ("/ordinal.v1.Ids/next", "method"),
                        ("/ordinal.v1.Ids/", "method"), ("/", "service"), ("/ordinal.v1.Ids", "service"), ("/a/b/c", "service")]:
        e = error(lambda p=path: raw_unary(ids, p)(b""))
        assert e.code() == grpc.StatusCode.UNIMPLEMENTED, (path, e)
        assert words in e.details(), (path, e.details())


def test_malformed_messages(server, connect):
    ids = connect(server)
    call = raw_unary(ids, "/ordinal.v1.Ids/Next")
    for message in (b"\x0a\x05ab", b"\x10", b"\x10" + b"\xff" * 11, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", b"\x0b", b"\x00"):
        e = error(lambda m=message: call(m))
        assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, (message, e)
        assert e.details(), message
    assert native.next_reply(call(b"")) == (1, 1, 0)
    # Unknown fields are for later versions: ignored.
    assert native.next_reply(call(b"\x18\x05\x22\x03abc\x10\x02")) == (2, 2, 0)


def test_oversized_message(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=1, MESSAGE_MAX=10000))
    call = raw_unary(ids, "/ordinal.v1.Ids/Next")
    for size in (10001, 100_000, 1_000_000):
        e = error(lambda n=size: call(b"\0" * n))
        assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "MESSAGE_MAX" in e.details() and "10000" in e.details(), e
    assert ids.Next(stubs.pb.NextRequest()).first == 1


def test_a_large_message_in_many_frames(server, connect):
    """Just below MESSAGE_MAX and above every window: unknown fields of 4 MB."""
    ids = connect(server)
    filling = b"\x22" + bytes([0x80 | (3_999_000 & 0x7f), 0x80 | (3_999_000 >> 7 & 0x7f), 0x80 | (3_999_000 >> 14 & 0x7f), 3_999_000 >> 21])
    call = raw_unary(ids, "/ordinal.v1.Ids/Next")
    for i in (1, 2):
        assert native.next_reply(call(filling + b"x" * 3_999_000)) == (i, 1, 0)


def test_take_keeps_the_order_of_its_requests(server, connect, stubs):
    """One stream, three sequences in a jumble: each reply belongs to its request, by its count, and each sequence is without a gap."""
    ids = connect(server)
    plan = [(("", "a", "b")[(i * 7 + i // 5) % 3], 1 + i * 13 % 50) for i in range(3000)]
    replies = ids.Take(iter([stubs.pb.NextRequest(sequence=s, count=c) for s, c in plan]))
    at = {"": 1, "a": 1, "b": 1}
    n = 0
    for (sequence, count), reply in zip(plan, replies):
        assert (reply.first, reply.count) == (at[sequence], count), n
        at[sequence] += count
        n += 1
    assert n == len(plan)
    assert list(replies) == []
    assert replies.code() == grpc.StatusCode.OK


def test_take_answers_each_request_before_the_next_is_sent(server, connect, stubs):
    ids = connect(server)
    go = threading.Semaphore(1)

    def requests():
        for i in range(50):
            assert go.acquire(timeout=PATIENCE_S)
            yield stubs.pb.NextRequest(sequence="s", count=i)

    got = []
    for reply in ids.Take(requests()):
        got.append(reply.count)
        go.release()
    assert got == [1] + list(range(1, 50))


def test_take_without_a_request(server, connect):
    replies = connect(server).Take(iter([]))
    assert list(replies) == [] and replies.code() == grpc.StatusCode.OK


def test_take_ends_with_the_first_error(server, connect, stubs):
    ids = connect(server)
    requests = [stubs.pb.NextRequest(), stubs.pb.NextRequest(sequence="x" * 200), stubs.pb.NextRequest()]
    replies = ids.Take(iter(requests))
    got = []
    e = error(lambda: got.extend(r.first for r in replies) or list(replies))
    assert e.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert ids.Next(stubs.pb.NextRequest()).first in (1, 2)


def test_take_can_be_cancelled(server, connect, stubs):
    ids = connect(server)
    hold = threading.Event()

    def requests():
        yield stubs.pb.NextRequest()
        hold.wait(PATIENCE_S)

    replies = ids.Take(requests())
    assert next(replies).first == 1
    replies.cancel()
    assert error(lambda: next(replies)).code() == grpc.StatusCode.CANCELLED
    hold.set()
    assert ids.Next(stubs.pb.NextRequest()).first == 2


def exhaust(ids, stubs, sequence):
    """With PRODUCER_RATE, takes what is there at once, so that what is asked for next has to wait."""
    return ids.Next(stubs.pb.NextRequest(sequence=sequence))


def test_a_parked_call_meets_its_deadline(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=2, PRODUCER_RATE=1))
    big = stubs.pb.NextRequest(count=100_000)
    began = time.monotonic()
    e = error(lambda: ids.Next(big, timeout=0.3))
    assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began >= 0.25


def test_parked_calls_are_answered_in_order(daemon):
    """At 50 IDs/s, 30 calls for 2 on one connection: those that have a short deadline get DEADLINE_EXCEEDED, all others are answered, in the order
    in which they came. Frame by frame, because stock clients do not promise to send calls in the order in which they were made."""
    impatient = h2raw.block(*h2raw.request_fields(extra=[("grpc-timeout", "1m")]))
    request = h2raw.message(native.next_request(count=2))
    with h2raw.Connection(daemon(SHARDS=1, PRODUCER_RATE=50)) as c:
        c.sync()
        c.send(b"".join(
            h2raw.frame(h2raw.HEADERS, h2raw.END_HEADERS, 2 * i + 1, impatient if i % 3 == 1 else h2raw.request_block())
            + h2raw.frame(h2raw.DATA, h2raw.END_STREAM, 2 * i + 1, request) for i in range(30)))
        answers = [c.answer(2 * i + 1) for i in range(30)]
    patient = [a for i, a in enumerate(answers) if i % 3 != 1]
    assert all(a.status == 0 for a in patient)
    assert {a.status for i, a in enumerate(answers) if i % 3 == 1} <= {0, grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
    replies = [native.next_reply(a.messages()[0]) for a in patient]
    handed_out = [first + k for first, count, *_ in replies for k in range(count)]
    assert handed_out == sorted(handed_out) and len(set(handed_out)) == 2 * len(patient)


def test_parked_calls_of_a_stock_client_are_all_answered(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=1, PRODUCER_RATE=50))
    ids.Next(stubs.pb.NextRequest(), timeout=PATIENCE_S)
    calls = [ids.Next.future(stubs.pb.NextRequest(count=2), timeout=0.001 if i % 3 == 1 else PATIENCE_S) for i in range(30)]
    patient = [c.result() for i, c in enumerate(calls) if i % 3 != 1]
    for i, c in enumerate(calls):
        if i % 3 == 1 and c.exception() is not None:
            assert c.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
    handed_out = {i for r in patient for i in ids_of(r)}
    assert len(handed_out) == 2 * len(patient)


def test_a_cancelled_parked_call_uses_nothing_up(daemon, connect, stubs):
    ids = connect(daemon(SHARDS=1, PRODUCER_RATE=20))
    first = ids.Next(stubs.pb.NextRequest(), timeout=PATIENCE_S).first
    parked = [ids.Next.future(stubs.pb.NextRequest(count=900_000)) for _ in range(20)]
    time.sleep(0.1)
    for p in parked:
        p.cancel()
    assert all(p.cancelled() for p in parked)
    after = ids.Next(stubs.pb.NextRequest(), timeout=PATIENCE_S).first
    assert first < after < first + 10_000


def test_zero_and_past_deadlines(server, connect, stubs):
    ids = connect(server)
    for timeout in (0, 1e-9, -1):
        e = error(lambda t=timeout: ids.Next(stubs.pb.NextRequest(), timeout=t))
        assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert ids.Next(stubs.pb.NextRequest(), timeout=1e9).count == 1


def test_gzip_is_understood(server, connect, stubs):
    ids = connect(server)
    for i in range(1, 4):
        assert ids.Next(stubs.pb.NextRequest(sequence="a" * 100), compression=grpc.Compression.Gzip).first == i


def test_other_compression_is_refused_in_words(server, connect, stubs):
    ids = connect(server)
    e = error(lambda: ids.Next(stubs.pb.NextRequest(sequence="a" * 100), compression=grpc.Compression.Deflate))
    assert e.code() == grpc.StatusCode.UNIMPLEMENTED and "identity" in e.details(), e
    assert ids.Next(stubs.pb.NextRequest(sequence="b")).first == 1


def test_metadata_of_all_kinds_is_accepted(server, connect, stubs):
    ids = connect(server)
    metadata = [("user-agent-more", "x"), ("x-trace", "1" * 500), ("x-bytes-bin", bytes(range(256))), ("x-empty", ""), ("x-trace", "again")]
    reply, call = ids.Next.with_call(stubs.pb.NextRequest(), metadata=metadata)
    assert reply.first == 1 and call.code() == grpc.StatusCode.OK
    assert not [k for k, _ in call.initial_metadata() + call.trailing_metadata() if k.startswith("x-")]


def test_too_much_metadata(server, connect, stubs):
    ids = connect(server)
    e = error(lambda: ids.Next(stubs.pb.NextRequest(), metadata=[(f"x-{i}", "v" * 1000) for i in range(20)]))
    assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, e
    e = error(lambda: ids.Next(stubs.pb.NextRequest(), metadata=[(f"x-{i}", "v") for i in range(120)]))
    assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "HEADER_FIELDS_MAX" in e.details(), e
    assert ids.Next(stubs.pb.NextRequest()).first == 1


def test_a_thousand_calls_at_once(server, connect, stubs):
    """More than STREAMS_MAX: the client queues what the server does not let it open."""
    ids = connect(server)
    calls = [ids.Next.future(stubs.pb.NextRequest(count=1 + i % 3), timeout=PATIENCE_S) for i in range(1000)]
    got = [i for c in calls for i in ids_of(c.result())]
    assert sorted(got) == list(range(1, len(got) + 1))


def test_many_channels(server, connect, stubs):
    """50 connections over both shards: unique, dense, and each later than what was received before."""
    channels = [connect(server) for _ in range(50)]
    seen = []
    for _ in range(4):
        calls = [c.Next.future(stubs.pb.NextRequest(), timeout=PATIENCE_S) for c in channels]
        before = max(seen, default=0)
        got = [c.result().first for c in calls]
        assert min(got) > before
        seen += got
    assert sorted(seen) == list(range(1, 201))


def test_keepalive_pings_are_answered(server, connect, stubs):
    options = [("grpc.keepalive_time_ms", 10), ("grpc.keepalive_timeout_ms", 20000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10)]
    ids = connect(server, options=options)
    assert ids.Next(stubs.pb.NextRequest()).first == 1
    time.sleep(0.5)
    states = []
    ids.channel.subscribe(states.append)
    assert ids.Next(stubs.pb.NextRequest()).first == 2
    ids.channel.unsubscribe(states.append)
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_over_ipv6(daemon, connect, stubs):
    d = daemon(LISTEN="[::1]:0", SHARDS=2)
    assert d.address.startswith("[::1]:")
    assert [connect(d).Next(stubs.pb.NextRequest()).first for _ in range(4)] == [1, 2, 3, 4]
