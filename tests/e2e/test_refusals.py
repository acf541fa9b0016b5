"""Whatever is refused, reset or closed for what its client did is counted once, by reason and by the client's address, and logged."""

import re
import time

import appliance
import h2raw
import native
import pytest
from h2raw import DATA, END_HEADERS, END_STREAM, HEADERS, TAKE_PATH, Connection, call, frame, message, request_block, rst_stream
from native import next_request

IP = "127.0.7.7"


def headers(stream, path=h2raw.NEXT_PATH, extra=(), flags=END_HEADERS):
    return frame(HEADERS, flags, stream, request_block(path, extra))


def native_garbage(d):
    with native.Client(d) as c:
        c.send(bytes([native.MAGIC]) + bytes(15))
        assert c.is_closed()


def unknown_protocol(d):
    with native.Client(d) as c:
        c.send(b"GET / HTTP/1.1\r\n\r\n")
        while c.read(1):  # the answer in the client's own words
            pass


def h2_connection_error(d):
    with Connection(d) as c:
        c.send(frame(h2raw.PING, 0, 1, bytes(8)))
        assert c.ended_with() == h2raw.PROTOCOL_ERROR


def h2_stream_error(d):
    with Connection(d) as c:
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, h2raw.block(*h2raw.request_fields(), ("Upper", "case"))))
        assert c.answer(1).reset == h2raw.PROTOCOL_ERROR
        c.serves(3)


def h2_data_after_the_end(d):
    with Connection(d) as c:
        c.serves(1)
        c.send(frame(DATA, 0, 1, b"late"))
        c.sync()
        assert c.answers[1].late_reset == h2raw.STREAM_CLOSED
        c.serves(3)


def h2_cleartext_silence(d):
    with native.Client(d) as c:
        assert c.is_closed()


def native_half_a_frame(d):
    with native.Client(d) as c:
        c.send(native.frame(native.REQUEST, 1, b"", flags=native.LAST, code=native.NEXT, length=100))
        assert c.is_closed()


def h2_half_a_message(d):
    with Connection(d) as c:
        c.send(headers(1) + frame(DATA, 0, 1, message(b"", length=100)))
        assert c.answer(1).status == native.DEADLINE_EXCEEDED
        c.serves(3)


def h2_half_a_header_block(d):
    with Connection(d) as c:
        c.sync()
        c.send(headers(1, flags=0))
        assert c.ended_with() == h2raw.ENHANCE_YOUR_CALM


def h2_no_window(d):
    with Connection(d, INITIAL_WINDOW_SIZE=0) as c:
        c.send(call(1))
        assert c.answer(1).reset == h2raw.CANCEL_ERROR


def rapid_reset(d):
    with Connection(d) as c:
        c.sync()
        c.send_unless_closed(b"".join(headers(s, TAKE_PATH) + rst_stream(s) for s in range(1, 41, 2)))
        assert c.ended_with() == h2raw.ENHANCE_YOUR_CALM


def useless_frames(d):
    with Connection(d) as c:
        c.sync()
        c.send_unless_closed(frame(0x77) * 40)
        assert c.ended_with() == h2raw.ENHANCE_YOUR_CALM


def continuations(d):
    with Connection(d) as c:
        c.sync()
        c.send_unless_closed(headers(1, flags=0) + frame(h2raw.CONTINUATION, 0, 1) * 40)
        assert c.ended_with() == h2raw.ENHANCE_YOUR_CALM


def one_stream_too_many(d):
    with Connection(d) as c:
        c.sync()
        c.send(headers(1, TAKE_PATH) + headers(3, TAKE_PATH))
        assert c.answer(3).reset == h2raw.REFUSED_STREAM
        c.send(frame(DATA, 0, 1, message(next_request())))
        while not c.answers.get(1) or not c.answers[1].data:
            assert c.get()


def one_native_call_too_many(d):
    with native.Client(d) as c:
        for i in (1, 2):
            c.send(native.request(i, method=native.TAKE, flags=native.EMPTY))
        f = c.get()
        assert f.call == 2 and f.status == native.RESOURCE_EXHAUSTED and b"NATIVE_INFLIGHT_MAX" in f.payload


def one_call_too_many_of_the_shard(d):
    """The first is another connection's."""
    with Connection(d) as c, Connection(d) as other:
        other.send(headers(1, TAKE_PATH))
        other.sync()
        c.send(call(1))
        assert c.answer(1).reset == h2raw.REFUSED_STREAM
        other.send(rst_stream(1))
        other.sync()
        c.serves(3)


def one_native_call_too_many_of_the_shard(d):
    with native.Client(d) as c, native.Client(d) as other:
        other.send(native.request(1, method=native.TAKE, flags=native.EMPTY))
        other.ping()
        f = c.call()
        assert f.status == native.RESOURCE_EXHAUSTED and b"CALLS_MAX" in f.payload
        other.close()
        appliance.wait_until(lambda: c.call().kind == native.MESSAGE, "room for a call")


def large_headers(d):
    with Connection(d) as c:
        c.send(headers(1, extra=[("x", "y" * 2000)], flags=END_HEADERS | END_STREAM))
        assert c.answer(1).status == native.RESOURCE_EXHAUSTED
        c.serves(3)


def large_message(d):
    with Connection(d) as c:
        c.send(headers(1) + frame(DATA, 0, 1, message(b"", length=1 << 20)))
        assert "MESSAGE_MAX" in c.answer(1).text
        c.serves(3)


def large_native_message(d):
    with native.Client(d) as c:
        c.send(native.frame(native.REQUEST, 1, b"", flags=native.LAST, code=native.NEXT, length=1 << 20))
        assert b"MESSAGE_MAX" in c.get().payload and c.is_closed()


def large_count(d):
    with Connection(d) as c:
        c.send(call(1, next_request(count=1000)))
        assert c.answer(1).status == native.RESOURCE_EXHAUSTED


def large_native_count(d):
    with native.Client(d) as c:
        assert c.call(next_request(count=1000)).status == native.RESOURCE_EXHAUSTED


def large_frame(d):
    with native.Client(d) as c:
        assert c.call(b"\x0a\x01s\x1a\x64" + bytes(100), method=3).status == native.RESOURCE_EXHAUSTED


def no_such_method(d):
    with Connection(d) as c:
        c.send(call(1, path="/ordinal.v1.Ids/Previous"))
        assert c.answer(1).status == native.UNIMPLEMENTED


def no_such_native_method(d):
    with native.Client(d) as c:
        assert c.call(method=999).status == native.UNIMPLEMENTED


def not_grpc(d):
    with Connection(d) as c:
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, h2raw.block((":method", "GET"), (":scheme", "http"), (":path", "/"),
                                                                       (":authority", "x"))))
        assert c.answer(1).fields[":status"] == "405"


def no_timeout(d):
    with Connection(d) as c:
        c.send(headers(1, extra=[("grpc-timeout", "soon")], flags=END_HEADERS | END_STREAM))
        assert c.answer(1).status == native.INVALID_ARGUMENT


def no_message(d):
    with Connection(d) as c:
        c.send(headers(1, flags=END_HEADERS | END_STREAM))
        assert c.answer(1).status == native.INVALID_ARGUMENT


def not_protobuf(d):
    with Connection(d) as c:
        c.send(call(1, b"\xff"))
        assert c.answer(1).status == native.INVALID_ARGUMENT


def not_native_protobuf(d):
    with native.Client(d) as c:
        assert c.call(b"\xff").status == native.INVALID_ARGUMENT


def wrong_compression(d):
    with Connection(d) as c:
        c.send(headers(1) + frame(DATA, END_STREAM, 1, message(b"", compressed=1)))
        assert c.answer(1).status == native.INTERNAL


CASES = {
    "protocol": [(native_garbage, {}), (unknown_protocol, {}), (h2_connection_error, {}), (h2_stream_error, {}), (h2_data_after_the_end, {})],
    "timeout": [(h2_cleartext_silence, {"PREFACE_TIMEOUT_MS": 100}), (native_half_a_frame, {"BODY_TIMEOUT_MS": 100}),
                (h2_half_a_message, {"BODY_TIMEOUT_MS": 100}), (h2_half_a_header_block, {"HEADERS_TIMEOUT_MS": 100})],
    "stalled": [(h2_no_window, {"STALL_TIMEOUT_MS": 100})],
    "flood": [(rapid_reset, {"RESETS_BURST": 10}), (useless_frames, {"USELESS_FRAMES_MAX": 10}), (continuations, {})],
    "calls": [(one_stream_too_many, {"STREAMS_MAX": 1}), (one_native_call_too_many, {"NATIVE_INFLIGHT_MAX": 1}),
              (one_call_too_many_of_the_shard, {"CALLS_MAX": 1})],
    "headers": [(large_headers, {"HEADER_LIST_MAX": 1024})],
    "message": [(large_message, {"MESSAGE_MAX": 100_000}), (large_native_message, {"MESSAGE_MAX": 100_000})],
    "limit": [(large_count, {"COUNT_MAX": 999}), (large_native_count, {"COUNT_MAX": 999}), (large_frame, {"FEED_FRAME_MAX": 99})],
    "invalid": [(f, {}) for f in (no_such_method, no_such_native_method, not_grpc, no_timeout, no_message, not_protobuf, not_native_protobuf,
                                  wrong_compression)],
}


@pytest.mark.parametrize("reason, act, options", [(reason, *case) for reason, cases in CASES.items() for case in cases])
def test_each_refusal_is_counted_once_by_reason_and_address(daemon, reason, act, options):
    d = daemon(SHARDS=1, **options)
    with native.Client(d) as c:  # from an address that nothing is refused
        c.ping()
    act(appliance.From(d, IP))
    expected = [{"address": IP, "total": 1, "by_reason": {reason: 1}}]
    appliance.wait_until(lambda: d.stats()["refusals"]["by_address"], "it to be counted")
    refusals = d.stats()["refusals"]
    assert refusals["by_address"] == expected
    assert {k: n for k, n in refusals["by_reason"].items() if n} == {reason: 1}
    assert f'ordinal_refusals_total{{reason="{reason}"}} 1\n' in d.get("/metrics")[1].decode()
    line = appliance.wait_until(lambda: re.search(f"(closing|refused \\({reason}\\) to) {IP}:.*", d.log()), "a line in the log")
    assert "(0 more such" in line[0]


def test_one_native_call_too_many_of_the_shard(daemon):
    """CALLS_MAX, with the option's name; the client may try again."""
    d = daemon(SHARDS=1, CALLS_MAX=1)
    one_native_call_too_many_of_the_shard(appliance.From(d, IP))
    refusals = d.stats()["refusals"]
    assert refusals["by_reason"]["calls"] >= 1 and [a["address"] for a in refusals["by_address"]] == [IP]


def test_a_connection_too_many_is_counted_and_logged(daemon):
    d = daemon(SHARDS=1, CONNECTIONS_MAX=1)
    with native.Client(d) as c:
        c.ping()
        with native.Client(appliance.From(d, IP)) as other:
            assert other.is_closed()
    assert d.stats()["refusals"]["by_address"] == [{"address": IP, "total": 1, "by_reason": {"connections": 1}}]
    appliance.wait_until(lambda: f"refused (connections) to {IP}:" in d.log(), "a line in the log")


def test_refusals_are_logged_once_a_burst(daemon):
    """A line a second for each reason, and how many more there were."""
    d = daemon(SHARDS=1, COUNT_MAX=999)
    began = time.monotonic()
    with native.Client(d) as c:
        for _ in range(2000):
            assert c.call(next_request(count=1000)).status == native.RESOURCE_EXHAUSTED
            assert c.call(b"\xff").status == native.INVALID_ARGUMENT
    seconds = time.monotonic() - began
    assert d.stats()["refusals"]["by_address"] == [{"address": "127.0.0.1", "total": 4000, "by_reason": {"limit": 2000, "invalid": 2000}}]
    time.sleep(1.1)
    with native.Client(d) as c:
        c.call(next_request(count=1000))
    appliance.wait_until(lambda: len(re.findall(r"refused \(limit\)", d.log())) >= 2, "the line that tells of the burst")
    lines = re.findall(r"refused \(limit\).*\((\d+) more such", d.log())
    assert 2 <= len(lines) <= seconds + 3
    assert sum(map(int, lines)) + len(lines) == 2001
    assert 1 <= len(re.findall(r"refused \(invalid\)", d.log())) <= seconds + 3


def test_repeated_lines_have_one_limit_for_all_shards(daemon):
    """Each shard wrote its own line a second; what somebody sends who speaks no protocol at all counts, too."""
    d = daemon(SHARDS=4)
    began = time.monotonic()
    for i in range(400):
        with d.connect() as s:
            s.sendall(b"\xff\xfe nonsense")
            try:
                while s.recv(1024):
                    pass
            except OSError:
                pass
    appliance.wait_until(lambda: d.stats()["refusals"]["by_reason"]["protocol"] == 400, "all to be counted")
    seconds = time.monotonic() - began
    time.sleep(1.1)
    with d.connect() as s:
        s.sendall(b"\xff\xfe nonsense")
    found = appliance.wait_until(lambda: re.findall(r"closing .*\((\d+) more such", d.log())[1:] and
                                 re.findall(r"closing .*\((\d+) more such", d.log()), "the line that tells of the others")
    assert len(found) <= seconds + 3
    appliance.wait_until(lambda: sum(int(n) + 1 for n in re.findall(r"closing .*\((\d+) more such", d.log())) == 401, "all to be told of")
