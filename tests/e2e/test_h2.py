"""HTTP/2, frame by frame: what RFC 9113 asks of a server, and what a hostile client may try."""

import struct
import time

import pytest

import appliance
import h2raw
import native
from h2raw import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PRIORITY_FLAG, PUSH_PROMISE,
                   RST_STREAM, SETTINGS, TAKE_PATH, Connection, block, call, frame, message, request_block, request_fields, rst_stream,
                   settings, window_update)
from native import next_request

COMPRESSION_ERROR = h2raw.COMPRESSION_ERROR
ENHANCE_YOUR_CALM = h2raw.ENHANCE_YOUR_CALM
FLOW_CONTROL_ERROR = h2raw.FLOW_CONTROL_ERROR
FRAME_SIZE_ERROR = h2raw.FRAME_SIZE_ERROR
NO_ERROR = h2raw.NO_ERROR
PROTOCOL_ERROR = h2raw.PROTOCOL_ERROR
REFUSED_STREAM = h2raw.REFUSED_STREAM
STREAM_CLOSED = h2raw.STREAM_CLOSED


@pytest.fixture
def conn(server):
    with Connection(server) as c:
        yield c


def open_take(stream):
    return frame(HEADERS, END_HEADERS, stream, request_block(TAKE_PATH))


# The beginning.

def test_settings_of_the_server(conn):
    conn.sync()
    assert conn.settings[h2raw.MAX_CONCURRENT_STREAMS] == 100
    assert conn.settings[h2raw.MAX_HEADER_LIST_SIZE] == 16384
    assert conn.settings_acks == 1
    assert conn.windows.get(0, 0) > 0


def test_a_client_need_not_wait_for_the_settings(server):
    with Connection(server, begin=False) as c:
        c.send(h2raw.PREFACE + settings() + call(1) + call(3))
        assert c.answer(1).status == 0 and c.answer(3).status == 0


def test_the_first_frame_has_to_be_settings(server):
    for first in (frame(PING, 0, 0, bytes(8)), call(1), frame(SETTINGS, ACK), window_update(0, 1)):
        with Connection(server, begin=False) as c:
            c.send(h2raw.PREFACE + first)
            assert c.ended_with() == PROTOCOL_ERROR


def test_ping(conn):
    conn.send(frame(PING, 0, 0, b"01234567"))
    conn.sync()
    assert conn.pongs[0] == b"01234567"
    conn.send(frame(PING, ACK, 0, b"76543210"))
    conn.sync()
    assert b"76543210" not in conn.pongs


def test_settings_are_acknowledged_in_order(conn):
    conn.send(b"".join(settings(INITIAL_WINDOW_SIZE=i) for i in (0, 1, 100, 65535)) + settings() + frame(PING, 0, 0, bytes(8)))
    while not conn.pongs:
        conn.get()
    assert conn.settings_acks == 6
    conn.serves(1)


def test_unknown_settings_are_ignored(conn):
    conn.send(frame(SETTINGS, 0, 0, struct.pack(">HIHI", 0xfafa, 0xffffffff, 9, 5)))
    conn.serves(1)


def test_unknown_frames_are_ignored(conn):
    conn.send(frame(0xfa, 0xff, 0, b"abc") + frame(0x10, 0, 7, b"x" * 16384) + frame(0xff, 0, 1))
    conn.serves(1)


def test_priority_frames_are_ignored(conn):
    conn.send(frame(PRIORITY, 0, 5, struct.pack(">IB", 3, 10)) + frame(PRIORITY, 0, 1, struct.pack(">IB", 0x80000000, 10)))
    conn.serves(1)


CONNECTION_ERRORS = {
    "DATA on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(DATA, 0, 5, b"x"), PROTOCOL_ERROR),
    "DATA on an even stream": (frame(DATA, 0, 2, b"x"), PROTOCOL_ERROR),
    "HEADERS on stream 0": (frame(HEADERS, END_HEADERS, 0, request_block()), PROTOCOL_ERROR),
    "HEADERS on an even stream": (frame(HEADERS, END_HEADERS, 2, request_block()), PROTOCOL_ERROR),
    "HEADERS too short for its priority": (frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"\0\0"), FRAME_SIZE_ERROR),
    "padding as long as the frame": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abcd"), PROTOCOL_ERROR),
    "padded without a pad length": (frame(HEADERS, END_HEADERS | PADDED, 1, b""), FRAME_SIZE_ERROR),
    "a block that is not HPACK": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "an index of nothing": (frame(HEADERS, END_HEADERS, 1, b"\xfe"), COMPRESSION_ERROR),
    "a truncated block": (frame(HEADERS, END_HEADERS, 1, request_block()[:-3]), COMPRESSION_ERROR),
    "a table size above ours": (frame(HEADERS, END_HEADERS, 1, h2raw.integer(1 << 20, 5, 0x20) + request_block()), COMPRESSION_ERROR),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "PRIORITY of 4 bytes on an idle stream": (frame(PRIORITY, 0, 7, bytes(4)), FRAME_SIZE_ERROR),
    "RST_STREAM on stream 0": (rst_stream(0), PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (rst_stream(7), PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (frame(RST_STREAM, 0, 1, b"abc"), FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, b"12345"), FRAME_SIZE_ERROR),
    "SETTINGS ack with a payload": (frame(SETTINGS, ACK, 0, b"123456"), FRAME_SIZE_ERROR),
    "SETTINGS_ENABLE_PUSH 2": (settings(ENABLE_PUSH=2), PROTOCOL_ERROR),
    "SETTINGS_INITIAL_WINDOW_SIZE 2^31": (settings(INITIAL_WINDOW_SIZE=1 << 31), FLOW_CONTROL_ERROR),
    "SETTINGS_MAX_FRAME_SIZE 16383": (settings(MAX_FRAME_SIZE=16383), PROTOCOL_ERROR),
    "SETTINGS_MAX_FRAME_SIZE 2^24": (settings(MAX_FRAME_SIZE=1 << 24), PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2)), PROTOCOL_ERROR),
    "PING on a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by 0": (window_update(0, 0), PROTOCOL_ERROR),
    "WINDOW_UPDATE overflow": (window_update(0, 0x7fffffff), FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream": (window_update(9, 1), PROTOCOL_ERROR),
    "WINDOW_UPDATE of 3 bytes": (frame(8, 0, 0, b"abc"), FRAME_SIZE_ERROR),
    "CONTINUATION without HEADERS": (frame(CONTINUATION, END_HEADERS, 1, request_block()), PROTOCOL_ERROR),
    "a frame of 16385 bytes": (frame(0xfa, 0, 0, b"x" * 16385), FRAME_SIZE_ERROR),
    "a frame of 2^24-1 bytes": (frame(DATA, 0, 1, b"", length=0xffffff), FRAME_SIZE_ERROR),
    "a header block interrupted by PING": (frame(HEADERS, 0, 1, request_block()) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "a header block interrupted by another": (frame(HEADERS, 0, 1, b"") + frame(HEADERS, END_HEADERS, 3, request_block()), PROTOCOL_ERROR),
    "a header block interrupted by an unknown frame": (frame(HEADERS, 0, 1, b"") + frame(0xfa, 0, 1), PROTOCOL_ERROR),
    "CONTINUATION of another stream":
        (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, END_HEADERS, 3, request_block()), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("what", CONNECTION_ERRORS)
def test_connection_errors(server, what):
    """GOAWAY with the right code, then the end; the neighbour is unharmed. Calls that were complete are counted in the GOAWAY."""
    data, code = CONNECTION_ERRORS[what]
    with Connection(server) as good, Connection(server) as bad:
        good.serves(1)
        bad.sync()
        bad.send_unless_closed(data)
        assert bad.ended_with() == code
        assert bad.goaways[-1].payload[8:], "it says what was wrong"
        good.serves(3)


# Streams.

STREAM_ERRORS = {
    "WINDOW_UPDATE by 0": (window_update(1, 0), PROTOCOL_ERROR),
    "WINDOW_UPDATE overflow": (window_update(1, 0x7fffffff), FLOW_CONTROL_ERROR),
    "PRIORITY of 4 bytes": (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "HEADERS twice, without the end": (frame(HEADERS, END_HEADERS, 1, block(("x", "y"))), PROTOCOL_ERROR),
    "trailers with a pseudo-header": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block((":path", "/"))), PROTOCOL_ERROR),
    "trailers in upper case": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("X-A", "y"))), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("what", STREAM_ERRORS)
def test_stream_errors(conn, what):
    data, code = STREAM_ERRORS[what]
    conn.send(open_take(1))
    conn.send(data)
    assert conn.answer(1).reset == code
    conn.serves(3)


MALFORMED = {
    "no :method": [f for f in request_fields() if f[0] != ":method"],
    "no :path": [f for f in request_fields() if f[0] != ":path"],
    "no :scheme": [f for f in request_fields() if f[0] != ":scheme"],
    "empty :path": request_fields(""),
    ":path twice": [(":path", "/"), *request_fields()],
    "an unknown pseudo-header": [(":what", "x"), *request_fields()],
    ":status": [(":status", "200"), *request_fields()],
    "a pseudo-header after others": [*request_fields(), (":authority2", "x")],
    "upper case": request_fields(extra=[("X-Trace", "1")]),
    "a name with a space": request_fields(extra=[("x trace", "1")]),
    "an empty name": request_fields(extra=[("", "1")]),
    "a value with a line feed": request_fields(extra=[("x", "a\nb")]),
    "a value with a NUL": request_fields(extra=[("x", "a\0b")]),
    "a pseudo-header with a space before": [*request_fields()[:3], (":authority", " test"), *request_fields()[4:]],
    "connection": request_fields(extra=[("connection", "close")]),
    "transfer-encoding": request_fields(extra=[("transfer-encoding", "chunked")]),
    "upgrade": request_fields(extra=[("upgrade", "h2c")]),
    "te that is not trailers": [*request_fields()[:-1], ("te", "gzip")],
    "content-length that is no number": request_fields(extra=[("content-length", "x")]),
    "two content-lengths": request_fields(extra=[("content-length", "5"), ("content-length", "6")]),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_are_reset(conn, what):
    conn.send(frame(HEADERS, END_HEADERS, 1, block(*MALFORMED[what])) + frame(DATA, END_STREAM, 1, message()))
    assert conn.answer(1).reset == PROTOCOL_ERROR
    conn.serves(3)


def test_content_length(conn):
    """Right, too small, too large."""
    for stream, (length, good) in zip(range(1, 100, 2), [(5, True), (4, False), (6, False), (0, False), (10**17, False)]):
        conn.send(call(stream, extra=[("content-length", str(length))]))
        a = conn.answer(stream)
        assert (a.status == 0 and a.reset is None) if good else a.reset == PROTOCOL_ERROR, (length, a)


def test_not_grpc(conn):
    """HTTP's own answers for what is no gRPC request."""
    get = [(":method", "GET"), *request_fields()[1:]]
    text = [("content-type", "text/plain") if f[0] == "content-type" else f for f in request_fields()]
    none = [f for f in request_fields() if f[0] != "content-type"]
    for stream, (fields, status) in zip(range(1, 20, 2), [(get, "405"), (text, "415"), (none, "415")]):
        conn.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block(*fields)))
        a = conn.answer(stream)
        assert a.fields[":status"] == status, a
        assert a.fields.get("allow") == ("POST" if status == "405" else None), a
    conn.serves(21)


def test_content_types_of_grpc(conn):
    for stream, kind in zip(range(1, 20, 2), ["application/grpc+proto", "application/grpc; charset=utf-8", "application/grpc+json"]):
        fields = [("content-type", kind) if f[0] == "content-type" else f for f in request_fields()]
        conn.send(frame(HEADERS, END_HEADERS, stream, block(*fields)) + frame(DATA, END_STREAM, stream, message()))
        assert conn.answer(stream).status is not None
    conn.serves(21)


def test_refused_streams(daemon):
    """The one above STREAMS_MAX is refused, the others are served; and closed ones count no more."""
    with Connection(daemon(SHARDS=1, STREAMS_MAX=5)) as c:
        c.send(b"".join(open_take(i) for i in range(1, 17, 2)))
        for stream in (11, 13, 15):
            assert c.answer(stream).reset == REFUSED_STREAM
        c.send(rst_stream(1) + open_take(17))
        c.send(b"".join(frame(DATA, END_STREAM, s, message(next_request(count=s))) for s in (3, 5, 7, 9, 17)))
        for stream in (3, 5, 7, 9, 17):
            a = c.answer(stream)
            assert a.status == 0 and native.next_reply(a.messages()[0])[1] == stream
        c.serves(19)


def test_stream_identifiers_must_rise(server):
    with Connection(server) as c:
        c.serves(5)
        c.send(call(3))
        assert c.ended_with() in (STREAM_CLOSED, PROTOCOL_ERROR)


def test_data_on_a_closed_stream(conn):
    conn.serves(1)
    conn.send(frame(DATA, 0, 1, b"x"))
    conn.serves(3)
    conn.send(frame(DATA, END_STREAM, 1, b"x") * 3)
    conn.serves(5)


def test_data_after_the_end_of_a_stream_that_waits(daemon):
    with Connection(daemon(SHARDS=1, PRODUCER_RATE=1)) as c:
        c.send(call(1, next_request(count=100_000)) + frame(DATA, 0, 1, b"x"))
        assert c.answer(1).reset == STREAM_CLOSED
        c.sync()


def test_headers_on_a_closed_stream(server):
    with Connection(server) as c:
        c.serves(1)
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block()))
        assert c.ended_with() in (STREAM_CLOSED, PROTOCOL_ERROR)


def test_frames_that_cross_our_reset_are_ignored(conn):
    """A malformed request is reset while its rest is on the way: DATA, RST_STREAM, WINDOW_UPDATE and trailers do no harm."""
    for kind in (frame(DATA, 0, 1, b"x" * 100), window_update(1, 5), frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("a", "b"))),
                 rst_stream(1)):
        conn.send((frame(HEADERS, END_HEADERS, 1, block(("x", "y"))) if kind[3] == DATA else b"") + kind)
    assert conn.answer(1).reset == PROTOCOL_ERROR
    conn.serves(3)


def test_padding(conn):
    body = message(next_request(count=3))
    headers = bytes([255]) + struct.pack(">IB", 0, 16) + request_block() + bytes(255)
    data = b"".join(frame(DATA, PADDED, 1, bytes([pad]) + piece + bytes(pad)) for pad, piece in zip((0, 255, 1), (body[:3], body[3:4], body[4:])))
    conn.send(frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, headers) + data + frame(DATA, END_STREAM | PADDED, 1, b"\x03\0\0\0"))
    a = conn.answer(1)
    assert a.status == 0 and native.next_reply(a.messages()[0]) == (1, 3, 0)


def test_padding_is_credited(server):
    """Padding counts in flow control: megabytes of it must not use the windows up."""
    with Connection(server) as c:
        c.sync()
        c.send(open_take(1))
        body = bytes([255]) + message(next_request("pad")) + bytes(255)
        for i in range(3000):
            while len(body) * (i + 1) > min(65535 + c.windows.get(0, 0), c.settings[h2raw.INITIAL_WINDOW_SIZE] + c.windows.get(1, 0)):
                assert c.get() is not None
            c.send(frame(DATA, PADDED, 1, body))
        c.send(frame(DATA, END_STREAM, 1))
        assert len(c.answer(1).messages()) == 3000


def test_a_header_block_in_pieces(conn):
    b = request_block()
    for stream, cuts in ((1, [0, 5, len(b)]), (3, [0, 0, 0, 0, len(b)]), (5, [0, 1, 2, 3, 4, 5, 6, 7, len(b)])):
        pieces = [b[i:k] for i, k in zip(cuts, cuts[1:])]
        conn.send(frame(HEADERS, 0, stream, pieces[0])
                  + b"".join(frame(CONTINUATION, 0, stream, p) for p in pieces[1:-1])
                  + frame(CONTINUATION, END_HEADERS, stream, pieces[-1]) + frame(DATA, END_STREAM, stream, message()))
        assert conn.answer(stream).status == 0
    # An empty block, in two empty pieces: no request at all.
    conn.send(frame(HEADERS, 0, 7) + frame(CONTINUATION, END_HEADERS, 7))
    assert conn.answer(7).reset == PROTOCOL_ERROR
    conn.send(frame(HEADERS, END_HEADERS, 9))
    assert conn.answer(9).reset == PROTOCOL_ERROR
    conn.serves(11)


def test_a_header_block_dribbled(conn):
    data = call(1)
    for i in range(len(data)):
        conn.send(data[i:i + 1])
    assert conn.answer(1).status == 0


def test_continuation_flood(server):
    """The 9th CONTINUATION of a block is one too many."""
    with Connection(server) as c:
        c.send(frame(HEADERS, 0, 1, request_block()))
        for _ in range(8):
            c.send(frame(CONTINUATION, 0, 1, h2raw.field("x", "y")))
        c.send_unless_closed(frame(CONTINUATION, 0, 1, h2raw.field("x", "y")))
        assert c.ended_with() == ENHANCE_YOUR_CALM


def test_a_long_header_block_is_cut_off(server):
    with Connection(server) as c:
        c.send(frame(HEADERS, 0, 1, request_block()))
        for _ in range(4):
            if not c.send_unless_closed(frame(CONTINUATION, 0, 1, h2raw.field("x", "y" * 16000))):
                break
        assert c.ended_with() == ENHANCE_YOUR_CALM


def test_too_many_and_too_large_headers(conn):
    conn.send(call(1, extra=[(f"x-{i}", "v") for i in range(95)]))
    a = conn.answer(1)
    assert a.status == native.RESOURCE_EXHAUSTED and "HEADER_FIELDS_MAX" in a.text, a
    conn.send(call(3, extra=[("x", "v" * 16150)]))
    a = conn.answer(3)
    assert a.status == native.RESOURCE_EXHAUSTED and "HEADER_LIST_MAX" in a.text, a
    # The dynamic table stays right all the same: an indexed field added in a refused block is known afterwards.
    grown = b"\x40" + h2raw.integer(5, 7) + b"x-new" + h2raw.integer(3, 7) + b"abc"
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 5, request_block(extra=[("x", "v" * 16120)]) + grown))
    conn.answer(5)
    conn.send(frame(HEADERS, END_HEADERS, 7, request_block() + b"\xbe") + frame(DATA, END_STREAM, 7, message()))
    assert conn.answer(7).status == 0
    conn.serves(9)


def test_an_hpack_bomb(conn):
    """One large entry in the table, referred to thousands of times: 30 MB when unpacked."""
    entry = b"\x40" + h2raw.integer(1, 7) + b"x" + h2raw.integer(3900, 7) + b"a" * 3900
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block() + entry))
    conn.answer(1)
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, request_block() + b"\xbe" * 12))
    assert conn.answer(3).status == native.RESOURCE_EXHAUSTED
    conn.serves(5)
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 7, request_block() + b"\xbe" * 8000))
    assert conn.ended_with() == ENHANCE_YOUR_CALM


def test_rapid_reset(server):
    with Connection(server) as good, Connection(server) as c:
        good.serves(1)
        c.sync()
        for stream in range(1, 2001, 2):
            if not c.send_unless_closed(frame(HEADERS, END_HEADERS, stream, request_block()) + rst_stream(stream)):
                break
        assert c.ended_with() == ENHANCE_YOUR_CALM
        good.serves(3)


def test_some_resets_are_fine(conn):
    for stream in range(1, 101, 2):
        conn.send(frame(HEADERS, END_HEADERS, stream, request_block()) + rst_stream(stream))
    conn.serves(101)


def test_made_you_reset(server):
    """Resets that we are provoked to send count as well."""
    with Connection(server) as c:
        c.sync()
        for stream in range(1, 2001, 2):
            if not c.send_unless_closed(frame(HEADERS, END_HEADERS, stream, request_block()) + window_update(stream, 0)):
                break
        assert c.ended_with() == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("useless", [frame(DATA, 0, 1), frame(PRIORITY, 0, 3, bytes(5)), frame(0xfa)], ids=["DATA", "PRIORITY", "unknown"])
def test_floods_of_nothing(server, useless):
    with Connection(server) as c:
        c.send(open_take(1))
        c.sync()
        c.send_unless_closed(useless * 1100)
        assert c.ended_with() == ENHANCE_YOUR_CALM


def test_settings_do_not_cost_a_walk_over_all_streams_each(daemon):
    """2730 values of the initial window in a frame were 2730 walks over all streams, and frames of SETTINGS were not counted: a client with 100
    streams and 3 MB/s had a shard for itself. Of one frame the last value holds, and a flood of such frames is one."""
    d = daemon(SHARDS=1)
    with Connection(d, INITIAL_WINDOW_SIZE=0) as c:
        c.send(open_take(1) + frame(DATA, 0, 1, message(next_request(count=3))))
        c.sync()
        values = [7, 1 << 31 - 1, 0] * 900
        c.send(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", 4, v) for v in [*values, 65535])))
        while not (f := c.get()).kind == DATA:
            pass
        c.send_unless_closed(settings(INITIAL_WINDOW_SIZE=1, MAX_FRAME_SIZE=16384) * 1100)
        assert c.ended_with() == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("flood", [frame(PING, 0, 0, bytes(8)), settings(INITIAL_WINDOW_SIZE=65535)], ids=["PING", "SETTINGS"])
def test_a_flood_whose_answers_are_not_read(daemon, flood):
    """The daemon stops reading rather than pile answers up; and closes in the end."""
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=500)
    with Connection(d) as good, Connection(d) as c:
        good.serves(1)
        before = d.rss_kib()
        c.sock.settimeout(0.2)
        data, sent = flood * 4096, 0
        try:
            while sent < 200 << 20:
                sent += c.sock.send(data)
        except (TimeoutError, BlockingIOError, ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 100 << 20 or c.ended_with() == ENHANCE_YOUR_CALM  # a flood of SETTINGS is one, too
        assert d.rss_kib() - before < 20_000 * (10 if appliance.is_sanitized() else 1)
        good.serves(3)


# Flow control.

def warm_up(d):
    """The default sequence has IDs at hand, so that calls are answered at once. Returns its incarnation, as in a reply."""
    with Connection(d) as c:
        c.serves(1)
        c.send(call(3))
        return c.answer(3).messages()[0][-9:]


def test_an_answer_waits_for_the_streams_window(daemon):
    d = daemon(SHARDS=1)
    incarnation = warm_up(d)
    with Connection(d, INITIAL_WINDOW_SIZE=0) as c:
        c.send(call(1, next_request(count=3)))
        c.settle()
        assert c.answers[1].data == b"" and not c.answers[1].ended
        want = message(b"\x08\x03\x10\x03" + incarnation)
        for i in range(1, len(want)):
            c.send(window_update(1, 1))
            c.sync()
            assert c.answers[1].data == want[:i] and not c.answers[1].ended
        c.send(window_update(1, 1))
        a = c.answer(1)
        assert a.data == want and a.status == 0


def test_an_answer_waits_for_the_initial_window_to_grow(daemon):
    d = daemon(SHARDS=1)
    warm_up(d)
    with Connection(d, INITIAL_WINDOW_SIZE=4) as c:
        c.send(call(1) + call(3))
        c.settle()
        assert len(c.answers[1].data) == 4 and len(c.answers[3].data) == 4
        c.send(settings(INITIAL_WINDOW_SIZE=0))
        c.send(window_update(1, 4))
        c.sync()
        assert len(c.answers[1].data) == 4, "the window was -4"
        c.send(settings(INITIAL_WINDOW_SIZE=100))
        assert c.answer(1).status == 0 and c.answer(3).status == 0


def test_answers_wait_for_the_connections_window(server):
    """Take until the 65535 bytes of the connection are used up: no byte more comes, and all of it comes later."""
    with Connection(server, INITIAL_WINDOW_SIZE=1 << 20) as c:
        n = 9000
        c.send(open_take(1))
        body = message(next_request("flow"))
        for _ in range(n // 100):
            c.send(frame(DATA, 0, 1, body * 100))
        c.send(frame(DATA, END_STREAM, 1))
        while 1 not in c.answers or len(c.answers[1].data) < 65535:
            c.get()
        c.sync()
        assert len(c.answers[1].data) == 65535
        for step in (1, 2, 1000, 1 << 20):
            before = len(c.answers[1].data)
            c.send(window_update(0, step))
            if step < 1 << 20:
                c.sync()
                assert len(c.answers[1].data) == before + step
        a = c.answer(1)
        got = [native.next_reply(m) for m in a.messages()]
        assert a.status == 0 and [g[0] for g in got] == list(range(1, n + 1))


def test_neighbours_of_a_stream_without_a_window(daemon):
    """A call whose window is shut holds nobody up on the same connection."""
    with Connection(daemon(SHARDS=1), INITIAL_WINDOW_SIZE=0) as c:
        c.send(call(1) + call(3) + window_update(3, 100))
        assert c.answer(3).status == 0
        c.send(window_update(1, 100))
        assert c.answer(1).status == 0


def test_a_call_whose_window_never_opens_is_reset(daemon):
    with Connection(daemon(SHARDS=1, STALL_TIMEOUT_MS=300, BODY_TIMEOUT_MS=300), INITIAL_WINDOW_SIZE=0) as c:
        c.send(call(1))
        assert c.answer(1).reset is not None
        c.send(settings(INITIAL_WINDOW_SIZE=100))
        c.serves(3)


def test_the_servers_windows_are_enforced(server):
    """More DATA than the stream's window without waiting for credit: a message of 1 MB that is never complete."""
    with Connection(server) as c:
        c.sync()
        window = c.settings[h2raw.INITIAL_WINDOW_SIZE]
        c.send(frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)))
        head = message(b"", length=3_000_000)
        c.send(frame(DATA, 0, 1, head))
        sent = len(head)
        while sent < 3_000_000:
            allowed = min(window + c.windows.get(1, 0), 65535 + c.windows.get(0, 0)) - sent
            if allowed <= 0:
                f = c.get()
                assert f is not None
                continue
            n = min(allowed, 16384, 3_000_005 - sent)
            c.send(frame(DATA, 0, 1, b"\x22" + bytes(n - 1) if sent == len(head) else bytes(n)))
            sent += n
        a = c.answer(1)
        assert a.status == native.INVALID_ARGUMENT, a


def test_data_beyond_the_streams_window(daemon):
    """A paused Take gets no credit: what is sent beyond its window is an error of the stream or of the connection."""
    with Connection(daemon(SHARDS=1, PRODUCER_RATE=1)) as c:
        c.sync()
        c.send(open_take(1))
        piece = message(next_request("x", 10_000)) * 1000
        for _ in range(60):
            for at in range(0, len(piece), 16384):
                if not c.send_unless_closed(frame(DATA, 0, 1, piece[at:at + 16384])):
                    break
        while c.get():
            if (1 in c.answers and c.answers[1].reset == FLOW_CONTROL_ERROR) or c.goaways:
                break
        assert c.answers.get(1, h2raw.Answer()).reset == FLOW_CONTROL_ERROR or c.goaways[-1].code == FLOW_CONTROL_ERROR


# Requests as gRPC has them.

def test_a_request_without_a_message(conn):
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block()))
    assert conn.answer(1).status == native.INVALID_ARGUMENT
    conn.send(frame(HEADERS, END_HEADERS, 3, request_block()) + frame(DATA, END_STREAM, 3))
    assert conn.answer(3).status == native.INVALID_ARGUMENT
    conn.serves(5)


def test_two_messages_for_a_unary_method(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, END_STREAM, 1, message() + message()))
    assert conn.answer(1).status == native.INVALID_ARGUMENT
    conn.serves(3)


def test_a_message_cut_short(conn):
    for stream, body in zip(range(1, 20, 2), (b"\0", b"\0\0\0\0", b"\0\0\0\0\5ab", message(length=1))):
        conn.send(frame(HEADERS, END_HEADERS, stream, request_block()) + frame(DATA, END_STREAM, stream, body))
        assert conn.answer(stream).status == native.INVALID_ARGUMENT, stream
    conn.serves(21)


def test_wrong_compressed_flags(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, END_STREAM, 1, message(compressed=1)))
    assert conn.answer(1).status in (native.UNIMPLEMENTED, native.INTERNAL)
    conn.send(frame(HEADERS, END_HEADERS, 3, request_block()) + frame(DATA, END_STREAM, 3, message(compressed=2)))
    assert conn.answer(3).status == native.INTERNAL
    conn.serves(5)


def test_a_message_above_the_limit_is_refused_before_it_comes(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, message(length=0xffffffff)))
    a = conn.answer(1)
    assert a.status == native.RESOURCE_EXHAUSTED and "MESSAGE_MAX" in a.text
    conn.serves(3)


def test_trailers_end_a_request(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, message(next_request(count=2)))
              + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("x-checksum", "1"))))
    a = conn.answer(1)
    assert a.status == 0 and len(a.messages()) == 1
    conn.serves(3)


def test_the_end_of_a_paused_take_is_told_once(daemon):
    """It comes while the stream is paused, because its requests fill its queue: it was told then, and again when the stream went on."""
    with Connection(daemon(SHARDS=1, PRODUCER_RATE=2000)) as c:
        c.send(open_take(1) + frame(DATA, END_STREAM, 1, message(next_request(count=2)) * 700))
        a = c.answer(1)
        assert a.status == 0
        assert [native.next_reply(m)[0] for m in a.messages()] == list(range(1, 1401, 2))
        c.serves(3)


def test_bad_timeouts(conn):
    for stream, text in zip(range(1, 40, 2), ("", "1", "S", "123456789S", "1x", "-1S", "1 S", "1.5S")):
        conn.send(call(stream, extra=[("grpc-timeout", text)]))
        assert conn.answer(stream).status == native.INVALID_ARGUMENT, text
    for stream, text in zip(range(41, 80, 2), ("99999999H", "10S", "99999M")):
        conn.send(call(stream, extra=[("grpc-timeout", text)]))
        assert conn.answer(stream).status == 0, text


def test_a_slow_message_ends_its_call_only(daemon):
    with Connection(daemon(SHARDS=1, BODY_TIMEOUT_MS=200)) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, request_block()) + frame(DATA, 0, 1, b"\0\0\0"))
        assert c.answer(1).status == native.DEADLINE_EXCEEDED
        c.serves(3)


def test_slow_headers_close(daemon):
    with Connection(daemon(SHARDS=1, HEADERS_TIMEOUT_MS=200)) as c:
        c.send(frame(HEADERS, 0, 1, request_block()))
        assert c.ended_with() is not None


def test_an_idle_take_is_left_alone(daemon):
    """Between two messages a stream may be idle for as long as it likes."""
    with Connection(daemon(SHARDS=1, BODY_TIMEOUT_MS=100, HEADERS_TIMEOUT_MS=100, PREFACE_TIMEOUT_MS=100, STALL_TIMEOUT_MS=100)) as c:
        c.send(open_take(1) + frame(DATA, 0, 1, message()))
        c.sync()
        time.sleep(1)
        c.send(frame(DATA, END_STREAM, 1, message()))
        a = c.answer(1)
        assert a.status == 0 and len(a.messages()) == 2


# The end.

def test_draining(server):
    """GOAWAY(2^31-1) and a PING; a stream opened before the PING's answer is served; then GOAWAY with the last stream, and the end."""
    with Connection(server) as c:
        c.serves(1)
        c.send(open_take(3))
        c.sync()
        server.signal(15)
        while not c.goaways:
            c.get()
        assert (c.goaways[0].last_stream, c.goaways[0].code) == (0x7fffffff, NO_ERROR)
        ping = c.get()
        assert ping.kind == PING and not ping.flags & ACK
        assert len(c.serves(5)) == 1
        c.send(frame(PING, ACK, 0, ping.payload))
        while len(c.goaways) < 2:
            assert c.get() is not None
        assert (c.goaways[1].last_stream, c.goaways[1].code) == (5, NO_ERROR)
        c.send(frame(DATA, END_STREAM, 3, message()))
        a = c.answer(3)
        assert a.status == 0 and len(a.messages()) == 1
        assert c.get() is None
    server.wait_stopped()


def test_requests_after_the_last_goaway_harm_no_call(server):
    """A request that is too late is refused, whole; the calls before it are finished. Its DATA was an error of the connection."""
    with Connection(server) as c:
        c.send(open_take(1))
        c.sync()
        server.signal(15)
        while not c.goaways:
            c.get()
        ping = c.get()
        c.send(frame(PING, ACK, 0, ping.payload))
        while len(c.goaways) < 2:
            assert c.get() is not None
        c.send(call(3) + window_update(3, 100) + rst_stream(3))
        c.send(call(5))
        assert c.answer(3).reset == REFUSED_STREAM and c.answer(5).reset == REFUSED_STREAM
        c.send(frame(DATA, END_STREAM, 1, message()))
        a = c.answer(1)
        assert a.status == 0 and len(a.messages()) == 1
        assert c.ended_with() == NO_ERROR
        assert [g.last_stream for g in c.goaways] == [0x7fffffff, 1]
    server.wait_stopped()


def test_half_close_of_the_connection(daemon):
    """What was asked is answered."""
    with Connection(daemon(SHARDS=1, PRODUCER_RATE=100), ack=False) as c:
        c.send(b"".join(call(i, next_request(count=2)) for i in range(1, 20, 2)) + open_take(21))
        c.sock.shutdown(1)
        for i in range(1, 20, 2):
            assert c.answer(i).status == 0
        assert c.get() is None


def test_goaway_of_the_client(server):
    """It opens no more streams; those open are answered."""
    with Connection(server) as c:
        c.send(open_take(1) + frame(GOAWAY, 0, 0, bytes(8)))
        c.send(frame(DATA, END_STREAM, 1, message()))
        assert c.answer(1).status == 0


def test_random_garbage(server):
    import random
    rnd = random.Random(2)
    with Connection(server) as good:
        for i in range(200):
            with Connection(server) as c:
                data = bytearray(b"".join(call(k) for k in range(1, 9, 2)) + open_take(9) + frame(DATA, 0, 9, message() * 3))
                for _ in range(rnd.randrange(1, 8)):
                    data[rnd.randrange(len(data))] = rnd.randrange(256)
                c.send_unless_closed(bytes(data))
                c.reset() if rnd.random() < 0.7 else c.close()
            if i % 20 == 0:
                good.serves(2 * i + 1)
        good.serves(9999)
