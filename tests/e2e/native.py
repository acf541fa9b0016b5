"""A small client of the native framing, written from rpc/wire/native.h alone, and the two messages of Ids by hand, so that tests can
also send what no client would."""

import struct

from peer import Cut, Peer  # noqa: F401: Cut is for those who read frames

MAGIC = 0x81
REQUEST, MESSAGE, END, CANCEL, PING, PONG, GOAWAY = 1, 2, 3, 4, 5, 6, 7
LAST, EMPTY = 0x10, 0x20
NEXT, TAKE = 1, 2
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 2, 3, 4, 5
RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 11, 12, 13, 14
HEADER = struct.Struct("<BBHIII")


def varint(n):
    out = b""
    while n > 0x7f:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])


def next_request(sequence=b"", count=0):
    if isinstance(sequence, str):
        sequence = sequence.encode()
    return (b"\x0a" + varint(len(sequence)) + sequence if sequence else b"") + (b"\x10" + varint(count) if count else b"")


def get_varint(p, at):
    value = shift = 0
    while True:
        value |= (p[at] & 0x7f) << shift
        at += 1
        if not p[at - 1] & 0x80:
            return value, at
        shift += 7


def next_reply_fields(p):
    fields, at = {}, 0
    while at < len(p):
        tag, at = get_varint(p, at)
        if tag == 4 << 3 | 1:  # the incarnation
            fields[4], at = int.from_bytes(p[at:at + 8], "little"), at + 8
            continue
        assert tag & 7 == 0, p
        fields[tag >> 3], at = get_varint(p, at)
    return fields


def next_reply(p):
    """(first, count, order)"""
    fields = next_reply_fields(p)
    assert fields.get(4), "a reply tells the sequence's incarnation"
    return fields.get(1, 0), fields.get(2, 0), fields.get(3, 0)


def incarnation(p):
    """Of a NextReply."""
    return next_reply_fields(p)[4]


def frame(kind, call=0, payload=b"", *, flags=0, code=0, arg=0, length=None):
    return HEADER.pack(MAGIC, kind | flags, code, len(payload) if length is None else length, call, arg) + payload


def request(call, payload=b"", *, method=NEXT, flags=LAST, timeout_ms=0):
    return frame(REQUEST, call, payload, flags=flags, code=method, arg=timeout_ms)


class Frame:
    def __init__(self, header, payload):
        magic, kind, self.code, self.length, self.call, self.arg = HEADER.unpack(header)
        assert magic == MAGIC, header
        self.kind, self.flags, self.payload = kind & 0x0f, kind & 0xf0, payload

    def __repr__(self):
        return f"Frame(kind={self.kind} flags={self.flags:#x} code={self.code} call={self.call} {self.payload!r})"

    @property
    def ends(self):
        return self.kind == END or (self.kind == MESSAGE and bool(self.flags & LAST))

    @property
    def status(self):
        return self.code if self.kind == END else OK

    def ids(self):
        assert self.kind == MESSAGE, self
        first, count, _ = next_reply(self.payload)
        return range(first, first + count)


class Client(Peer):
    def get(self):
        """The next frame, or None at the end."""
        raw = self.read_frame(HEADER.size, lambda header: HEADER.unpack(header)[3])
        return Frame(*raw) if raw else None

    def call(self, payload=b"", **kw):
        """One call, alone on the connection: its last frame."""
        self.send(request(1, payload, **kw))
        f = self.get()
        assert f is not None and f.call == 1, f
        return f

    def next(self, sequence="", count=0):
        """The IDs of one Next."""
        return self.call(next_request(sequence, count)).ids()

    def is_closed(self):
        """Waits for the end of the connection; nothing may come before it."""
        return self.read(1) == b""

    def ping(self):
        """Everything sent before it has been looked at when this returns; no other frame may come meanwhile."""
        self.send(frame(PING, 7, b"sync"))
        f = self.get()
        assert f is not None and f.kind == PONG and f.call == 7 and f.payload == b"sync", f
