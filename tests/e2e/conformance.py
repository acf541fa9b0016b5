"""The cases of test_conformance.py: RFC 9113 (HTTP/2) and RFC 7541 (HPACK) as a table of (section, title, what is sent, what must come back).

What is sent is bytes, or a list of bytes, SYNC (everything before has been looked at) and wait(stream) (its answer has come). A connection has sent its
preface and SETTINGS before, unless the case is raw.
"""

import struct

import h2raw
from h2raw import (ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADERS,
                   NO_ERROR, PADDED, PING, PREFACE, PRIORITY, PRIORITY_FLAG, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM,
                   SETTINGS, STREAM_CLOSED, TAKE_PATH, WINDOW_UPDATE, block, call, field, frame, integer, message, request_block,
                   request_fields, rst_stream, settings, window_update)
from native import INVALID_ARGUMENT, RESOURCE_EXHAUSTED

CASES = []
SYNC = "sync"


class Case:
    def __init__(self, section, title, sent, expect, raw, initial):
        self.section, self.title, self.expect, self.raw, self.initial = section, title, expect, raw, initial
        self.sent = sent if isinstance(sent, list) else [sent]

    def __str__(self):
        return f"{self.section} {self.title}"


def case(section, title, sent, expect, raw=False, **initial):
    CASES.append(Case(section, title, sent, expect, raw, initial))


def wait(stream):
    return ("wait", stream)


# What must come back. Each is a function of the connection.

LATER = 2001  # a stream above all that the cases use


def served(*streams):
    """These calls are answered well, and so is another."""
    def check(c):
        for s in streams:
            a = c.answer(s)
            assert a.status == 0 and a.reset is None, a
        c.serves(LATER)
        assert not c.goaways
    return check


def ended(*codes):
    """A connection error: GOAWAY with one of the codes, and the end."""
    def check(c):
        code = c.ended_with()
        assert code in codes, f"GOAWAY with {code}, and not one of {codes}"
    return check


def closed(c):
    """The end, with or without a word."""
    assert c.ended_with() in (None, PROTOCOL_ERROR)


def reset(stream, *codes, close=()):
    """A stream error, which harms no other stream; or, where the section allows it, a connection error of `close`."""
    def check(c):
        while not (stream in c.answers and c.answers[stream].ended) and not c.goaways:
            assert c.get() is not None, "the connection ended without a word"
        if c.goaways:
            assert c.goaways[-1].code in close, c.goaways
            return
        a = c.answers[stream]
        assert a.reset in codes, a
        c.send(settings(INITIAL_WINDOW_SIZE=65535))
        c.serves(LATER)
    return check


def late_reset(stream, *codes):
    """A stream error of a stream that had been answered whole."""
    def check(c):
        c.sync()
        assert c.answers[stream].status == 0 and c.answers[stream].late_reset in codes, c.answers[stream]
        c.serves(LATER)
    return check


def http(stream, status):
    def check(c):
        assert c.answer(stream).fields[":status"] == status, c.answer(stream)
        c.serves(LATER)
    return check


def grpc(stream, status):
    def check(c):
        a = c.answer(stream)
        assert a.status == status and a.reset is None, a
        c.serves(LATER)
    return check


def either(*checks):
    def check(c):
        failures = []
        for one in checks:
            try:
                return one(c)
            except AssertionError as e:
                failures.append(str(e))
        raise AssertionError("; ".join(failures))
    return check


# What is sent.

def open_take(stream, flags=0):
    return frame(HEADERS, END_HEADERS | flags, stream, request_block(TAKE_PATH))


def end(stream, n=1):
    return frame(DATA, END_STREAM, stream, message() * n)


def headers(stream, p=None, flags=END_HEADERS, kind=HEADERS):
    return frame(kind, flags, stream, request_block() if p is None else p)


def request(fields, stream=1, body=True):
    """A request of these header fields."""
    return frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), stream, block(*fields)) + (end(stream) if body else b"")


def with_field(name, value):
    return request(request_fields(extra=[(name, value)]))


def without(name):
    return request([f for f in request_fields() if f[0] != name])


def changed(name, value):
    return request([(n, value if n == name else v) for n, v in request_fields()])


def u32(n):
    return struct.pack(">I", n)


def reserved(data):
    """The reserved bit of the first frame's stream identifier is set."""
    return data[:5] + bytes([data[5] | 0x80]) + data[6:]


PING8 = frame(PING, 0, 0, b"01234567")
BLOCK = request_block()
HALF = len(BLOCK) // 2
WAITING = [settings(INITIAL_WINDOW_SIZE=0), call(1), SYNC]  # stream 1 is half-closed (remote): its answer has no window
DONE = [call(1), wait(1)]                                    # stream 1 is closed

# 3.4 The preface.

case("3.4", "the preface, a byte at a time", [bytes([b]) for b in PREFACE + settings() + call(1)], served(1), raw=True)
case("3.4", "requests before the server's SETTINGS", PREFACE + settings() + call(1) + call(3), served(1, 3), raw=True)
case("3.4", "a wrong last byte", PREFACE[:-1] + b"x" + settings(), closed, raw=True)
case("3.4", "a wrong version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n" + settings(), closed, raw=True)
case("3.4", "the preface twice", PREFACE + settings() + PREFACE, ended(FRAME_SIZE_ERROR, PROTOCOL_ERROR), raw=True)
for name, first in {"PING": PING8, "HEADERS": headers(1), "an acknowledgement": frame(SETTINGS, ACK), "WINDOW_UPDATE": window_update(0, 1),
                    "an unknown frame": frame(0xfa), "GOAWAY": frame(GOAWAY, 0, 0, bytes(8))}.items():
    case("3.4", f"{name} before SETTINGS", PREFACE + first, ended(PROTOCOL_ERROR), raw=True)


def server_preface(c):
    first = c.get()
    assert first.kind == SETTINGS and not first.flags & ACK and first.stream == 0
    c.serves(LATER)


case("3.4", "the server begins with SETTINGS", PREFACE + settings(), server_preface, raw=True)

# 4.1 Frame format.

case("4.1", "an unknown frame on the connection", frame(0xfa, 0xff, 0, b"abc") + call(1), served(1))
case("4.1", "an unknown frame on an idle stream", frame(0xfa, 0xff, 9, b"abc") + call(1), served(1))
case("4.1", "an unknown frame on an open stream", open_take(1) + frame(0xfa, 0xff, 1, b"abc") + end(1), served(1))
case("4.1", "an unknown frame on a closed stream", [*DONE, frame(0xfa, 0xff, 1, b"abc")], served())
case("4.1", "an unknown frame of 16,384 bytes", frame(0xfa, 0, 0, bytes(16384)) + call(1), served(1))
case("4.1", "undefined flags of DATA", open_take(1) + frame(DATA, END_STREAM | 0xf6, 1, message()), served(1))
case("4.1", "undefined flags of HEADERS", headers(1, flags=END_HEADERS | 0xd2) + end(1), served(1))
case("4.1", "undefined flags of CONTINUATION", headers(1, BLOCK[:9], 0) + headers(1, BLOCK[9:], 0xff, CONTINUATION) + end(1), served(1))
case("4.1", "undefined flags of PING", frame(PING, 0xfe, 0, bytes(8)) + call(1), served(1))
case("4.1", "undefined flags of SETTINGS", frame(SETTINGS, 0xfe) + call(1), served(1))
case("4.1", "undefined flags of WINDOW_UPDATE", frame(WINDOW_UPDATE, 0xff, 0, u32(1)) + call(1), served(1))
case("4.1", "undefined flags of RST_STREAM", open_take(1) + frame(RST_STREAM, 0xff, 1, u32(8)) + call(3), served(3))
case("4.1", "undefined flags of GOAWAY", call(1) + frame(GOAWAY, 0xff, 0, bytes(8)), served(1))
case("4.1", "the reserved bit in HEADERS", reserved(headers(1)) + end(1), served(1))
case("4.1", "the reserved bit in DATA", headers(1) + reserved(end(1)), served(1))
case("4.1", "the reserved bit in PING", reserved(PING8) + call(1), served(1))
case("4.1", "the reserved bit in SETTINGS", reserved(settings()) + call(1), served(1))
case("4.1", "the reserved bit in WINDOW_UPDATE", reserved(window_update(0, 1)) + call(1), served(1))

# 4.2 Frame size.

BIG = message(b"\x0a\xfb\x7f" + b"x" * 16379)  # 16,387 bytes of a message whose name is too long for a sequence
case("4.2", "DATA of 16,384 bytes", headers(1) + frame(DATA, 0, 1, BIG[:16384]) + frame(DATA, END_STREAM, 1, BIG[16384:]),
     grpc(1, INVALID_ARGUMENT))
case("4.2", "DATA of 16,385 bytes", headers(1) + frame(DATA, 0, 1, BIG[:16385]), reset(1, FRAME_SIZE_ERROR, close=(FRAME_SIZE_ERROR,)))
case("4.2", "HEADERS of 16,385 bytes", headers(1, BLOCK + field("x", "y" * (16385 - len(BLOCK) - 6))), ended(FRAME_SIZE_ERROR))
case("4.2", "CONTINUATION of 16,385 bytes", headers(1, BLOCK, 0) + frame(CONTINUATION, END_HEADERS, 1, bytes(16385)), ended(FRAME_SIZE_ERROR))
case("4.2", "SETTINGS of 16,386 bytes", frame(SETTINGS, 0, 0, bytes(16386)), ended(FRAME_SIZE_ERROR))
case("4.2", "an unknown frame of 16,385 bytes", frame(0xfa, 0, 0, bytes(16385)), ended(FRAME_SIZE_ERROR))
case("4.2", "2^24 - 1 bytes are announced", frame(PING, 0, 0, b"", length=0xffffff), ended(FRAME_SIZE_ERROR))
case("4.2", "SETTINGS_MAX_FRAME_SIZE of the client does not change the server's", settings(MAX_FRAME_SIZE=1 << 20) + frame(0xfa, 0, 0, bytes(16385)),
     ended(FRAME_SIZE_ERROR))

# 4.3 Field blocks.

case("4.3", "a block in two frames", headers(1, BLOCK[:HALF], 0) + headers(1, BLOCK[HALF:], END_HEADERS, CONTINUATION) + end(1), served(1))
case("4.3", "a block cut within a field", headers(1, BLOCK[:3], 0) + headers(1, BLOCK[3:], END_HEADERS, CONTINUATION) + end(1), served(1))
case("4.3", "empty pieces", headers(1, b"", 0) + headers(1, b"", 0, CONTINUATION) + headers(1, BLOCK, 0, CONTINUATION)
     + headers(1, b"", END_HEADERS, CONTINUATION) + end(1), served(1))
case("4.3", "END_STREAM counts after CONTINUATION", headers(1, BLOCK[:9], END_STREAM) + headers(1, BLOCK[9:], END_HEADERS, CONTINUATION),
     grpc(1, INVALID_ARGUMENT))
for name, between in {"PING": PING8, "SETTINGS": settings(), "DATA of the stream": frame(DATA, 0, 1, b"x"), "HEADERS of another": headers(3),
                      "HEADERS of the same": headers(1), "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)), "RST_STREAM": rst_stream(1),
                      "WINDOW_UPDATE": window_update(1, 1), "GOAWAY": frame(GOAWAY, 0, 0, bytes(8)), "an unknown frame": frame(0xfa, 0, 1),
                      "PUSH_PROMISE": frame(PUSH_PROMISE, 0, 1, u32(2)),
                      "CONTINUATION of another": headers(3, b"", 0, CONTINUATION)}.items():
    case("4.3", f"a block interrupted by {name}", headers(1, BLOCK[:9], 0) + between, ended(PROTOCOL_ERROR))
case("4.3", "a block that ends within a field", headers(1, BLOCK[:-3]), ended(COMPRESSION_ERROR))
GROW = b"\x40\x05x-new\x03abc"
case("4.3", "the block of a refused stream is decoded", b"".join(open_take(s) for s in range(1, 201, 2)) + headers(201, BLOCK + GROW)
     + rst_stream(1) + headers(203, BLOCK + b"\xbe") + end(203), served(203))
case("4.3", "the block of a malformed request is decoded", headers(1, GROW) + headers(3, BLOCK + b"\xbe") + end(3), served(3))
case("4.3", "trailers are decoded", headers(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS | END_STREAM, 1, GROW)
     + headers(3, BLOCK + b"\xbe") + end(3), served(1, 3))
case("4.3", "trailers of a stream that was reset are decoded", headers(1, b"\x40\x01x\x01y") + frame(HEADERS, END_HEADERS | END_STREAM, 1, GROW)
     + headers(3, BLOCK + b"\xbe\xbf") + end(3), served(3))

# 5.1 Stream states.

case("5.1", "idle: DATA", frame(DATA, 0, 1, b"x"), ended(PROTOCOL_ERROR))
case("5.1", "idle: RST_STREAM", rst_stream(1), ended(PROTOCOL_ERROR))
case("5.1", "idle: WINDOW_UPDATE", window_update(1, 1), ended(PROTOCOL_ERROR))
case("5.1", "idle: CONTINUATION", headers(1, kind=CONTINUATION), ended(PROTOCOL_ERROR))
case("5.1", "idle: PRIORITY", frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 5)) + call(1), served(1))
case("5.1", "half-closed (remote): DATA", [*WAITING, frame(DATA, 0, 1, b"x")], reset(1, STREAM_CLOSED))
case("5.1", "half-closed (remote): empty DATA", [*WAITING, frame(DATA, END_STREAM, 1)], reset(1, STREAM_CLOSED))
case("5.1", "half-closed (remote): HEADERS", [*WAITING, headers(1, flags=END_HEADERS | END_STREAM)], reset(1, STREAM_CLOSED))
case("5.1", "half-closed (remote): CONTINUATION", [*WAITING, headers(1, kind=CONTINUATION)], ended(PROTOCOL_ERROR))
case("5.1", "half-closed (remote): WINDOW_UPDATE", [*WAITING, window_update(1, 1000), wait(1), settings(INITIAL_WINDOW_SIZE=65535)], served(1))
case("5.1", "half-closed (remote): PRIORITY", [*WAITING, frame(PRIORITY, 0, 1, bytes(5)), settings(INITIAL_WINDOW_SIZE=65535)], served(1))
case("5.1", "half-closed (remote): RST_STREAM", [*WAITING, rst_stream(1), settings(INITIAL_WINDOW_SIZE=65535)], served())
case("5.1", "closed: DATA", [*DONE, frame(DATA, 0, 1, b"x")], late_reset(1, STREAM_CLOSED))
case("5.1", "closed: HEADERS", [*DONE, headers(1, flags=END_HEADERS | END_STREAM)], ended(STREAM_CLOSED))
case("5.1", "closed: CONTINUATION", [*DONE, headers(1, kind=CONTINUATION)], ended(PROTOCOL_ERROR, STREAM_CLOSED))
case("5.1", "closed: WINDOW_UPDATE", [*DONE, window_update(1, 1)], served())
case("5.1", "closed: PRIORITY", [*DONE, frame(PRIORITY, 0, 1, bytes(5))], served())
case("5.1", "closed: RST_STREAM", [*DONE, rst_stream(1)], served())
case("5.1", "reset by the client: DATA", open_take(1) + rst_stream(1) + frame(DATA, 0, 1, b"x"), reset(1, STREAM_CLOSED))
case("5.1", "reset by the client: HEADERS", open_take(1) + rst_stream(1) + headers(1, flags=END_HEADERS | END_STREAM), ended(STREAM_CLOSED))
case("5.1", "reset by the client: WINDOW_UPDATE, PRIORITY, RST_STREAM", open_take(1) + rst_stream(1) + window_update(1, 1)
     + frame(PRIORITY, 0, 1, bytes(5)) + rst_stream(1), served())
case("5.1", "reset by the server: what was on its way", headers(1, block(("x", "y"))) + frame(DATA, 0, 1, b"x" * 100)
     + window_update(1, 5) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("a", "b"))) + rst_stream(1), reset(1, PROTOCOL_ERROR))
case("5.1", "open: the other streams go on while one is reset", open_take(1) + open_take(3) + rst_stream(1) + end(3), served(3))

# 5.1.1 Stream identifiers.

case("5.1.1", "stream 0", headers(0), ended(PROTOCOL_ERROR))
case("5.1.1", "an even stream", headers(2), ended(PROTOCOL_ERROR))
case("5.1.1", "identifiers may be passed over", call(1) + call(7) + call(1001), served(1, 7, 1001))
case("5.1.1", "one that was passed over is closed", [call(5), wait(5), call(3)], ended(PROTOCOL_ERROR))
case("5.1.1", "the first is passed over, and comes", [call(3), wait(3), call(1)], ended(PROTOCOL_ERROR))
case("5.1.1", "one that was used", [*DONE, call(1)], ended(STREAM_CLOSED, PROTOCOL_ERROR))
case("5.1.1", "one that is in use", open_take(1) + open_take(1), reset(1, PROTOCOL_ERROR, STREAM_CLOSED, close=(PROTOCOL_ERROR, STREAM_CLOSED)))


def last_stream(c):
    a = c.answer(0x7fffffff)
    assert a.status == 0
    c.sync()


case("5.1.1", "the highest identifier", call(0x7fffffff), last_stream)

# 5.1.2 Concurrency.

MANY = b"".join(open_take(s) for s in range(1, 201, 2))
case("5.1.2", "the 101st stream", MANY + call(201) + rst_stream(1), reset(201, REFUSED_STREAM, PROTOCOL_ERROR))
case("5.1.2", "closed streams do not count", MANY + rst_stream(1) + call(201), served(201))
case("5.1.2", "half-closed streams count", [settings(INITIAL_WINDOW_SIZE=0), b"".join(call(s) for s in range(1, 201, 2)), SYNC, call(201),
                                            settings(INITIAL_WINDOW_SIZE=65535)], reset(201, REFUSED_STREAM))
case("5.1.2", "ended streams make room", [b"".join(call(s) for s in range(1, 201, 2)), *[wait(s) for s in range(1, 201, 2)],
                                          b"".join(call(s) for s in range(201, 401, 2))], served(201, 399))


# 5.4 Errors.

def last_id(n):
    def check(c):
        assert c.ended_with() == PROTOCOL_ERROR
        assert c.goaways[-1].last_stream == n and c.goaways[-1].payload[8:], "GOAWAY says what was looked at, and why"
    return check


case("5.4.1", "GOAWAY names the last stream", [call(1), wait(1), call(5), wait(5), frame(PING, 0, 1, bytes(8))], last_id(5))
case("5.4.1", "nothing is looked at after a connection error", frame(PING, 0, 1, bytes(8)) + call(1), last_id(0))
case("5.4.2", "RST_STREAM is not answered by RST_STREAM", open_take(1) + rst_stream(1) * 3, served())

# 5.5 Extensions.

case("5.5", "an unknown setting", frame(SETTINGS, 0, 0, struct.pack(">HI", 0xfafa, 1)) + call(1), served(1))
case("5.5", "an unknown error code", open_take(1) + rst_stream(1, 0xfafafafa) + call(3), served(3))

# 6.1 DATA.

case("6.1", "on stream 0", frame(DATA, 0, 0, b"x"), ended(PROTOCOL_ERROR))
case("6.1", "empty, without the end", headers(1) + frame(DATA, 0, 1) + end(1), served(1))
case("6.1", "padded", headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x05" + message() + bytes(5)), served(1))
case("6.1", "padded by nothing", headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\0" + message()), served(1))
case("6.1", "nothing but padding", headers(1) + frame(DATA, PADDED, 1, b"\x05" + bytes(5)) + end(1), served(1))
case("6.1", "nothing but padding, and the end", headers(1) + frame(DATA, 0, 1, message()) + frame(DATA, PADDED | END_STREAM, 1, b"\xff" + bytes(255)),
     served(1))
case("6.1", "nothing but a pad length, and the end", headers(1) + frame(DATA, 0, 1, message()) + frame(DATA, PADDED | END_STREAM, 1, b"\0"), served(1))
case("6.1", "padding that is not zero", headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x03" + message() + b"abc"), served(1))
case("6.1", "a padded message in two frames", headers(1) + frame(DATA, PADDED, 1, b"\x02" + message()[:2] + bytes(2))
     + frame(DATA, PADDED | END_STREAM, 1, b"\x09" + message()[2:] + bytes(9)), served(1))
case("6.1", "padding as long as the frame", headers(1) + frame(DATA, PADDED, 1, b"\x05" + bytes(4)), ended(PROTOCOL_ERROR))
case("6.1", "padding longer than the frame", headers(1) + frame(DATA, PADDED, 1, b"\xff" + bytes(4)), ended(PROTOCOL_ERROR))
case("6.1", "padded without a pad length", headers(1) + frame(DATA, PADDED, 1), ended(FRAME_SIZE_ERROR, PROTOCOL_ERROR))
case("6.1", "an even stream", frame(DATA, 0, 2, b"x"), ended(PROTOCOL_ERROR))

# 6.2 HEADERS.

case("6.2", "padded", headers(1, b"\x03" + BLOCK + bytes(3), END_HEADERS | PADDED) + end(1), served(1))
case("6.2", "with priority", headers(1, struct.pack(">IB", 0, 15) + BLOCK, END_HEADERS | PRIORITY_FLAG) + end(1), served(1))
case("6.2", "with exclusive priority and padding", headers(1, b"\x03" + struct.pack(">IB", 0x80000000, 15) + BLOCK + bytes(3),
                                                           END_HEADERS | PRIORITY_FLAG | PADDED) + end(1), served(1))
case("6.2", "padded by 255", headers(1, b"\xff" + BLOCK + bytes(255), END_HEADERS | PADDED) + end(1), served(1))
case("6.2", "padded, and goes on in CONTINUATION, which is not", headers(1, b"\x03" + BLOCK[:9] + bytes(3), PADDED)
     + headers(1, BLOCK[9:], END_HEADERS, CONTINUATION) + end(1), served(1))
case("6.2", "a dependency on itself, which no one looks at", headers(1, struct.pack(">IB", 1, 15) + BLOCK, END_HEADERS | PRIORITY_FLAG) + end(1), served(1))
case("6.2", "priority of trailers", headers(1) + frame(DATA, 0, 1, message())
     + frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY_FLAG, 1, struct.pack(">IB", 0, 15) + block(("x-checksum", "1"))), served(1))
case("6.2", "padding as long as the frame", headers(1, b"\x05" + bytes(4), END_HEADERS | PADDED), ended(PROTOCOL_ERROR))
case("6.2", "padding that covers the priority", headers(1, b"\x03" + bytes(5), END_HEADERS | PADDED | PRIORITY_FLAG), ended(PROTOCOL_ERROR))
case("6.2", "too short for its priority", headers(1, b"\0\0", END_HEADERS | PRIORITY_FLAG), ended(FRAME_SIZE_ERROR))
case("6.2", "padded without a pad length", headers(1, b"", END_HEADERS | PADDED), ended(FRAME_SIZE_ERROR, PROTOCOL_ERROR))
case("6.2", "an empty block", headers(1, b"", END_HEADERS | END_STREAM), reset(1, PROTOCOL_ERROR))

# 6.3 PRIORITY.

case("6.3", "on stream 0", frame(PRIORITY, 0, 0, bytes(5)), ended(PROTOCOL_ERROR))
for name, stream in {"an open stream": 1, "an idle stream": 9, "a stream of the server's": 2}.items():
    case("6.3", f"a dependency of {name} on itself, which no one looks at", open_take(1) + frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 1))
         + end(1), served(1))
case("6.3", "of 4 bytes on an idle stream", frame(PRIORITY, 0, 1, bytes(4)), ended(FRAME_SIZE_ERROR))
case("6.3", "of 4 bytes", open_take(1) + frame(PRIORITY, 0, 1, bytes(4)), reset(1, FRAME_SIZE_ERROR))
case("6.3", "of 6 bytes", open_take(1) + frame(PRIORITY, 0, 1, bytes(6)), reset(1, FRAME_SIZE_ERROR))

# 6.4 RST_STREAM.

case("6.4", "on stream 0", rst_stream(0), ended(PROTOCOL_ERROR))
case("6.4", "of 3 bytes", open_take(1) + frame(RST_STREAM, 0, 1, bytes(3)), ended(FRAME_SIZE_ERROR))
case("6.4", "of 5 bytes", open_take(1) + frame(RST_STREAM, 0, 1, bytes(5)), ended(FRAME_SIZE_ERROR))
case("6.4", "an even stream", rst_stream(2), ended(PROTOCOL_ERROR))

# 6.5 SETTINGS.

case("6.5", "an acknowledgement with a payload", frame(SETTINGS, ACK, 0, bytes(6)), ended(FRAME_SIZE_ERROR))
case("6.5", "on a stream", frame(SETTINGS, 0, 1), ended(PROTOCOL_ERROR))
case("6.5", "of 5 bytes", frame(SETTINGS, 0, 0, bytes(5)), ended(FRAME_SIZE_ERROR))
case("6.5", "of 7 bytes", frame(SETTINGS, 0, 0, bytes(7)), ended(FRAME_SIZE_ERROR))
for setting, good, bad, code in (
        ("ENABLE_PUSH", (0, 1), (2, 0xffffffff), PROTOCOL_ERROR),
        ("INITIAL_WINDOW_SIZE", (65535, 0x7fffffff), (0x80000000, 0xffffffff), FLOW_CONTROL_ERROR),
        ("MAX_FRAME_SIZE", (16384, 0xffffff), (16383, 0, 0x1000000), PROTOCOL_ERROR),
        ("HEADER_TABLE_SIZE", (0, 0xffffffff), (), 0),
        ("MAX_CONCURRENT_STREAMS", (0, 0xffffffff), (), 0),
        ("MAX_HEADER_LIST_SIZE", (0, 0xffffffff), (), 0)):
    for v in good:
        case("6.5.2", f"{setting} {v:#x}", settings(**{setting: v}) + call(1), served(1))
    for v in bad:
        case("6.5.2", f"{setting} {v:#x}", settings(**{setting: v}), ended(code))


def acknowledged(n):
    def check(c):
        c.serves(LATER)
        assert c.settings_acks == n, c.settings_acks
    return check


case("6.5.3", "each is acknowledged, once", settings() + settings(ENABLE_PUSH=0) + settings(MAX_FRAME_SIZE=20000), acknowledged(4))
case("6.5.3", "an acknowledgement is not acknowledged", frame(SETTINGS, ACK) + frame(SETTINGS, ACK), acknowledged(1))


def window_is(n, code=0):
    """The first n bytes of the answer come, and no more."""
    def check(c):
        c.settle()
        assert len(c.answers[1].data) == n and not c.answers[1].ended, c.answers[1]
    return check


TWICE = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 65535, 4, 3))
case("6.5.3", "values are taken in the order in which they come", [TWICE, call(1)], window_is(3))

# 6.6 PUSH_PROMISE.

case("6.6", "from a client, on an idle stream", frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + BLOCK), ended(PROTOCOL_ERROR))
case("6.6", "from a client, on an open stream", open_take(1) + frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + BLOCK), ended(PROTOCOL_ERROR))


# 6.7 PING.

def pongs(*payloads):
    def check(c):
        c.sync()
        assert c.pongs[:-1] == list(payloads), c.pongs
        c.serves(LATER)
    return check


case("6.7", "is answered with its payload", PING8 + frame(PING, 0, 0, b"abcdefgh"), pongs(b"01234567", b"abcdefgh"))
case("6.7", "an answer is not answered", frame(PING, ACK, 0, b"01234567"), pongs())
case("6.7", "on a stream", frame(PING, 0, 1, bytes(8)), ended(PROTOCOL_ERROR))
for n in (0, 7, 9):
    case("6.7", f"of {n} bytes", frame(PING, 0, 0, bytes(n)), ended(FRAME_SIZE_ERROR))
case("6.7", "while a call waits", [*WAITING, PING8, settings(INITIAL_WINDOW_SIZE=65535)], served(1))


# 6.8 GOAWAY.

case("6.8", "on a stream", frame(GOAWAY, 0, 1, bytes(8)), ended(PROTOCOL_ERROR))
case("6.8", "of 7 bytes", frame(GOAWAY, 0, 0, bytes(7)), ended(FRAME_SIZE_ERROR))
case("6.8", "calls in flight are answered", open_take(1) + frame(GOAWAY, 0, 0, bytes(8)) + end(1), served(1))
case("6.8", "with debug data and an unknown code", open_take(1) + frame(GOAWAY, 0, 0, u32(0) + u32(0xfafafafa) + b"because") + end(1), served(1))

# 6.9 WINDOW_UPDATE.

case("6.9", "by 0 on the connection", window_update(0, 0), ended(PROTOCOL_ERROR))
case("6.9", "by 0 on a stream", open_take(1) + window_update(1, 0), reset(1, PROTOCOL_ERROR))
case("6.9", "of 3 bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)), ended(FRAME_SIZE_ERROR))
case("6.9", "of 5 bytes on a stream", open_take(1) + frame(WINDOW_UPDATE, 0, 1, bytes(5)), ended(FRAME_SIZE_ERROR))
case("6.9", "the reserved bit", window_update(0, 0x80000001) + call(1), served(1))
case("6.9", "the reserved bit alone is 0", window_update(0, 0x80000000), ended(PROTOCOL_ERROR))
case("6.9.1", "the connection's window up to 2^31 - 1", window_update(0, 0x7fffffff - 65535) + call(1), served(1))
case("6.9.1", "the connection's window above 2^31 - 1", window_update(0, 0x7fffffff - 65534), ended(FLOW_CONTROL_ERROR))
case("6.9.1", "a stream's window in two steps", open_take(1) + window_update(1, 0x40000000) * 2, reset(1, FLOW_CONTROL_ERROR))
case("6.9.1", "in two steps", window_update(0, 0x40000000) * 2, ended(FLOW_CONTROL_ERROR))
case("6.9.1", "a stream's window up to 2^31 - 1", open_take(1) + window_update(1, 0x7fffffff - 65535) + end(1), served(1))
case("6.9.1", "a stream's window above 2^31 - 1", open_take(1) + window_update(1, 0x7fffffff - 65534), reset(1, FLOW_CONTROL_ERROR))
case("6.9.1", "an answer stays within a window of 1", [settings(INITIAL_WINDOW_SIZE=1), call(1)], window_is(1))
case("6.9.1", "an answer goes on with each byte", [settings(INITIAL_WINDOW_SIZE=0), call(1), SYNC, window_update(1, 2), SYNC, window_update(1, 3)], window_is(5))
case("6.9.2", "a window may become negative", [settings(INITIAL_WINDOW_SIZE=4), call(1), SYNC, settings(INITIAL_WINDOW_SIZE=0), window_update(1, 5)],
     window_is(5))
case("6.9.2", "open streams grow with the setting", [settings(INITIAL_WINDOW_SIZE=0), call(1), SYNC, settings(INITIAL_WINDOW_SIZE=1000)], served(1))
case("6.9.2", "the connection's window does not change with the setting", [settings(INITIAL_WINDOW_SIZE=0) + settings(INITIAL_WINDOW_SIZE=65535) + call(1)],
     served(1))
case("6.9.2", "the setting makes a stream's window overflow", open_take(1) + window_update(1, 0x7fffffff - 65535) + settings(INITIAL_WINDOW_SIZE=65536),
     ended(FLOW_CONTROL_ERROR))

# 6.10 CONTINUATION.

case("6.10", "on stream 0", headers(0, kind=CONTINUATION), ended(PROTOCOL_ERROR))
case("6.10", "after END_HEADERS", headers(1) + headers(1, b"", END_HEADERS, CONTINUATION), ended(PROTOCOL_ERROR))
case("6.10", "after CONTINUATION with END_HEADERS", headers(1, BLOCK, 0) + headers(1, b"", END_HEADERS, CONTINUATION) * 2, ended(PROTOCOL_ERROR))
case("6.10", "after DATA", headers(1) + frame(DATA, 0, 1, b"\0") + headers(1, b"", END_HEADERS, CONTINUATION), ended(PROTOCOL_ERROR))

# 8.1 Messages.

TRAILER = block(("x-checksum", "1"))
case("8.1", "trailers", headers(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILER), served(1))
case("8.1", "trailers in two frames", headers(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_STREAM, 1, TRAILER[:4])
     + frame(CONTINUATION, END_HEADERS, 1, TRAILER[4:]), served(1))
case("8.1", "HEADERS in the middle", open_take(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS, 1, TRAILER), reset(1, PROTOCOL_ERROR))
case("8.1", "DATA after trailers", [settings(INITIAL_WINDOW_SIZE=0), headers(1) + frame(DATA, 0, 1, message())
                                    + frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILER), SYNC, frame(DATA, 0, 1, b"x")], reset(1, STREAM_CLOSED))
case("8.1", "a pseudo-header in trailers", headers(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block((":path", "/"))),
     reset(1, PROTOCOL_ERROR))
case("8.1", "an upper-case name in trailers", headers(1) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("X", "y"))),
     reset(1, PROTOCOL_ERROR))
case("8.1", "the request goes on after its answer", [open_take(1) + frame(DATA, 0, 1, b"\2\0\0\0\0"), wait(1), frame(DATA, 0, 1, b"x")], served())
case("8.1.1", "content-length is right", headers(1, request_block(extra=[("content-length", "5")])) + end(1), served(1))
for n, what in (("4", "too small"), ("6", "too large"), ("0", "0")):
    case("8.1.1", f"content-length is {what}", headers(1, request_block(extra=[("content-length", n)])) + end(1), reset(1, PROTOCOL_ERROR))
case("8.1.1", "content-length is too large for several frames", headers(1, request_block(extra=[("content-length", "6")])) + frame(DATA, 0, 1, b"\0\0\0")
     + frame(DATA, END_STREAM, 1, b"\0\0"), reset(1, PROTOCOL_ERROR))
case("8.1.1", "content-length without DATA", request(request_fields(extra=[("content-length", "5")]), body=False), reset(1, PROTOCOL_ERROR))
case("8.1.1", "padding is not content", headers(1, request_block(extra=[("content-length", "5")]))
     + frame(DATA, PADDED | END_STREAM, 1, b"\x07" + message() + bytes(7)), served(1))
case("8.1.1", "content-length that is no number", with_field("content-length", "5x"), reset(1, PROTOCOL_ERROR))
case("8.1.1", "negative content-length", with_field("content-length", "-5"), reset(1, PROTOCOL_ERROR))
case("8.1.1", "two content-lengths", request(request_fields(extra=[("content-length", "5"), ("content-length", "6")])), reset(1, PROTOCOL_ERROR))

# 8.2 Fields.

for what, name in (("an upper-case letter", "X-Trace"), ("a space", "x trace"), ("a control character", "x\x01"), ("DEL", "x\x7f"),
                   ("a byte above 0x7f", "x\xe9"), ("a colon within", "x:y"), ("nothing", ""), ("a tab", "x\ty"), ("NUL", "x\0")):
    case("8.2.1", f"a name with {what}", with_field(name, "v"), reset(1, PROTOCOL_ERROR))
for what, value in (("NUL", "a\0b"), ("CR", "a\rb"), ("LF", "a\nb")):
    case("8.2.1", f"a value with {what}", with_field("x", value), reset(1, PROTOCOL_ERROR))
# gRPC's own clients send the spaces of a metadata value as they are, and their servers take them off (RFC 9113 section 8.2.1 lets a
# server answer instead of treating such a request as malformed).
for what, value in (("a space before", " a"), ("a space after", "a "), ("a tab before", "\ta"), ("a tab after", "a\t"), ("spaces alone", "  ")):
    case("8.2.1", f"a value with {what}", with_field("x", value), served(1))
for what, value in (("a space within", "a b"), ("bytes above 0x7f", "\xe4\xff"), ("nothing", ""), ("a tab within", "a\tb")):
    case("8.2.1", f"a value with {what}", with_field("x", value), served(1))
for name, value in (("connection", "close"), ("proxy-connection", "x"), ("keep-alive", "1"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"),
                    ("te", "gzip"), ("te", "trailers, deflate")):
    case("8.2.2", f"{name}: {value}", with_field(name, value), reset(1, PROTOCOL_ERROR))
case("8.2.3", "cookie crumbs", request(request_fields(extra=[("cookie", "a=b"), ("cookie", "c=d")])), served(1))

# 8.3 Pseudo-header fields.

for name in (":method", ":scheme", ":path"):
    case("8.3.1", f"no {name}", without(name), reset(1, PROTOCOL_ERROR))
for name, value in request_fields()[:4]:
    case("8.3.1", f"{name} twice", request([(name, value), *request_fields()]), reset(1, PROTOCOL_ERROR))
    case("8.3", f"{name} after a field", request([*[f for f in request_fields() if f[0] != name], (name, value)]), reset(1, PROTOCOL_ERROR))
case("8.3.1", "no :authority", without(":authority"), served(1))
case("8.3.1", "host for :authority", request([f for f in request_fields() if f[0] != ":authority"] + [("host", "test")]), served(1))
case("8.3", "an unknown pseudo-header", request([(":what", "x"), *request_fields()]), reset(1, PROTOCOL_ERROR))
case("8.3", "a pseudo-header without a name", request([(":", "x"), *request_fields()]), reset(1, PROTOCOL_ERROR))
case("8.3", "one of an answer", request([(":status", "200"), *request_fields()]), reset(1, PROTOCOL_ERROR))
case("8.3.1", "an empty :path", changed(":path", ""), reset(1, PROTOCOL_ERROR))
case("8.3.1", "a :path without a slash", changed(":path", "ordinal.v1.Ids/Next"), reset(1, PROTOCOL_ERROR))
case("8.3.1", "an absolute :path", changed(":path", "http://test/ordinal.v1.Ids/Next"), reset(1, PROTOCOL_ERROR))
case("8.3.1", "any order among pseudo-headers", request([*reversed(request_fields()[:4]), *request_fields()[4:]]), served(1))
case("8.3.1", "another scheme", changed(":scheme", "https"), served(1))
case("8.5", "CONNECT", request([(":method", "CONNECT"), (":authority", "test:1")]), either(reset(1, PROTOCOL_ERROR), http(1, "405")))
case("8.8", "GET is not gRPC's", changed(":method", "GET"), http(1, "405"))
case("8.8", "another content-type is not gRPC's", changed("content-type", "text/plain"), http(1, "415"))


# RFC 7541.

def hp(section, title, sent, expect):
    case(f"HPACK {section}", title, sent, expect)


def after(p, stream=1):
    """A good request whose block goes on with p."""
    return headers(stream, BLOCK + p) + end(stream)


def before(p, stream=1):
    return headers(stream, p + BLOCK) + end(stream)


def insert(name, value):
    return b"\x40" + integer(len(name), 7) + name + integer(len(value), 7) + value


WWW = bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")  # "www.example.com" in Huffman's code, from appendix C.4.1
EVICT = insert(b"big", b"v" * 4000)
BAD = ended(COMPRESSION_ERROR)

hp("2.3.2", "an entry is used in later blocks", after(insert(b"x", b"1")) + after(b"\xbe", 3) + after(b"\xbe", 5), served(1, 3, 5))
hp("2.3.2", "an entry is used in its own block", after(insert(b"x", b"1") + b"\xbe\xbe"), served(1))
hp("2.3.3", "newer entries come first", after(insert(b"x", b"1") + insert(b"y", b"2")) + after(b"\xbe\xbf", 3), served(1, 3))
hp("2.3.3", "an index one beyond the table", after(insert(b"x", b"1")) + after(b"\xbf", 3), BAD)
hp("2.3.3", "an index beyond an empty table", after(b"\xbe"), BAD)
hp("2.3.3", "an index far beyond", after(integer(100_000, 7, 0x80)), BAD)
hp("4.1", "an entry counts 32 bytes besides", after(b"".join(insert(b"%02d" % i, b"") for i in range(60))) + after(b"\xbe" + integer(62 + 59, 7, 0x80), 3),
   served(1, 3))
hp("4.2", "a size update at the beginning", before(b"\x20"), served(1))
hp("4.2", "two size updates at the beginning", before(b"\x20" + integer(4096, 5, 0x20)), served(1))
hp("4.2", "the size up to SETTINGS_HEADER_TABLE_SIZE", before(integer(4096, 5, 0x20)), served(1))
hp("4.2", "a size above SETTINGS_HEADER_TABLE_SIZE", before(integer(4097, 5, 0x20)), BAD)
hp("4.2", "a size of 2^28", before(integer(1 << 28, 5, 0x20)), BAD)
hp("4.2", "a size update after a field", after(b"\x20"), BAD)
hp("4.2", "a size update between fields", headers(1, BLOCK[:14] + b"\x20" + BLOCK[14:]), BAD)
hp("4.3", "a smaller size evicts", after(insert(b"x", b"1")) + before(b"\x20" + integer(4096, 5, 0x20), 3) + after(b"\xbe", 5), BAD)
hp("4.3", "a size of one entry keeps the newest", after(insert(b"x", b"1") + insert(b"y", b"2")) + before(integer(34, 5, 0x20), 3) + after(b"\xbe", 5),
   served(1, 3, 5))
hp("4.3", "and drops the other", after(insert(b"x", b"1") + insert(b"y", b"2")) + before(integer(34, 5, 0x20), 3) + after(b"\xbf", 5), BAD)
hp("4.4", "a new entry evicts the oldest", after(insert(b"x", b"1") + EVICT) + after(b"\xbe", 3) + after(EVICT, 5) + after(b"\xbf", 7), BAD)
hp("4.4", "an entry above the table's size empties it", after(insert(b"x", b"1") + insert(b"y", b"v" * 4097)) + after(b"\xbe", 3), BAD)
hp("4.4", "and is no error", after(insert(b"x", b"1") + insert(b"y", b"v" * 4097)) + call(3), served(1, 3))
hp("4.4", "a name is used whose entry is evicted by the insertion", after(insert(b"n", b"v" * 4000)) + after(b"\x7e" + integer(3000, 7) + b"w" * 3000, 3)
   + after(b"\xbe", 5), served(1, 3, 5))
hp("5.1", "an integer of 0xff bytes without an end", after(b"\xff" * 20), BAD)
hp("5.1", "an integer above 2^32", after(b"\xff\xff\xff\xff\xff\xff\xff\x0f"), BAD)
hp("5.1", "an integer cut off", headers(1, BLOCK + b"\xff\x80"), BAD)
hp("5.1", "an integer with superfluous zeros", after(b"\x00\x01x\x7f\x81\x00" + b"v" * 128), served(1))
hp("5.2", "a length beyond the block", headers(1, BLOCK + b"\x00\x01x\x7f\x10abc"), BAD)
hp("5.2", "a name's length beyond the block", headers(1, BLOCK + b"\x00\x10abc"), BAD)
hp("5.2", "a name without a value", headers(1, BLOCK + b"\x00\x01x"), BAD)
hp("5.2", "Huffman's code", after(b"\x00\x01x" + integer(len(WWW), 7, 0x80) + WWW), served(1))
hp("5.2", "Huffman's code for a name", after(b"\x00\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x01v"), served(1))
hp("5.2", "an empty string in Huffman's code", after(b"\x00\x01x\x80"), served(1))
hp("5.2", "padding of 8 bits", after(b"\x00\x01x" + integer(len(WWW) + 1, 7, 0x80) + WWW + b"\xff"), BAD)
hp("5.2", "padding that is not the beginning of EOS", after(b"\x00\x01x\x81\x1e"), BAD)
hp("5.2", "EOS within", after(b"\x00\x01x\x84\xff\xff\xff\xff"), BAD)
hp("6.1", "index 0", after(b"\x80"), BAD)
hp("6.1", "every static entry that a request may have", after(b"".join(integer(i, 7, 0x80) for i in (15, 16, 17, 19, 23, 24, 32, 51, 58))), served(1))
hp("6.1", "static :method POST and :scheme", headers(1, b"\x83\x86" + block(*request_fields()[2:])) + end(1), served(1))
hp("6.1", "a static :status", headers(1, b"\x88" + BLOCK) + end(1), reset(1, PROTOCOL_ERROR))
hp("6.2.1", "an indexed name", after(b"\x7a\x03abc") + after(b"\xbe", 3), served(1, 3))
hp("6.2.1", "a name's index beyond the table", after(b"\x7f\x80\x02\x03abc"), BAD)
hp("6.2.2", "without indexing adds nothing", after(b"\x00\x01x\x01y") + after(b"\xbe", 3), BAD)
hp("6.2.2", "an indexed name", after(b"\x0f\x2b\x03abc"), served(1))
hp("6.2.3", "never indexed adds nothing", after(b"\x10\x01x\x01y") + after(b"\xbe", 3), BAD)
hp("6.2.3", "never indexed is read", after(b"\x10\x01x\x01y"), served(1))
hp("6.2.3", "a name's index beyond the table", after(b"\x1f\x80\x02\x03abc"), BAD)
for name, examples in {"C.3": ("828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865",
                               "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"),
                       "C.4": ("828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf",
                               "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")}.items():
    hp(name, "three requests of the appendix", b"".join(headers(1 + 2 * i, bytes.fromhex(e), END_HEADERS | END_STREAM) for i, e in enumerate(examples)),
       http(5, "405"))
    hp(name, "their table", b"".join(headers(1 + 2 * i, bytes.fromhex(e), END_HEADERS | END_STREAM) for i, e in enumerate(examples))
       + headers(7, b"\x83\x86" + field(":path", h2raw.NEXT_PATH) + b"\xc0" + block(*request_fields()[4:]) + b"\xbe\xbf") + end(7), served(7))
    hp(name, "and no entry more", b"".join(headers(1 + 2 * i, bytes.fromhex(e), END_HEADERS | END_STREAM) for i, e in enumerate(examples))
       + headers(7, b"\xc1"), BAD)
hp("4.2", "a size update at the beginning of trailers", headers(1) + frame(DATA, 0, 1, message())
   + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" + integer(4096, 5, 0x20) + TRAILER) + call(3), served(1, 3))
hp("4.2", "a size update alone", headers(1, b"\x20", END_HEADERS | END_STREAM) + call(3), reset(1, PROTOCOL_ERROR))
hp("4.3", "a size of 0 is in force until the next update", before(b"\x20") + after(insert(b"x", b"1"), 3) + after(b"\xbe", 5), BAD)
case("10.5.1", "a header list above SETTINGS_MAX_HEADER_LIST_SIZE", after(field("x", "v" * 16200)), grpc(1, RESOURCE_EXHAUSTED))
assert NO_ERROR == 0
