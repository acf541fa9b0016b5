"""HTTP/2 by hand: frames written and read one by one, so that tests can send what no library would. Header blocks are written as literals,
and read as far as a server needs to be read that uses no dynamic table and no Huffman coding."""

import struct

import native
from peer import Peer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM,
 CANCEL_ERROR, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
NAMES = {v: k for k, v in {"DATA": 0, "HEADERS": 1, "PRIORITY": 2, "RST_STREAM": 3, "SETTINGS": 4, "PUSH_PROMISE": 5, "PING": 6,
                           "GOAWAY": 7, "WINDOW_UPDATE": 8, "CONTINUATION": 9}.items()}
# RFC 7541, appendix A: what of the static table a server may use here
STATIC = {1: (":authority", ""), 8: (":status", "200"), 9: (":status", "204"), 10: (":status", "206"), 11: (":status", "304"),
          12: (":status", "400"), 13: (":status", "404"), 14: (":status", "500"), 31: ("content-type", "")}

NEXT_PATH, TAKE_PATH = "/ordinal.v1.Ids/Next", "/ordinal.v1.Ids/Take"


def frame(kind, flags=0, stream=0, payload=b"", *, length=None):
    n = len(payload) if length is None else length
    return struct.pack(">I", n)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", globals()[k], v) for k, v in values.items()))


def window_update(stream, n):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", n))


def rst_stream(stream, code=CANCEL_ERROR):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def integer(value, bits, first=0):
    top = (1 << bits) - 1
    if value < top:
        return bytes([first | value])
    out = bytes([first | top])
    value -= top
    while value > 0x7f:
        out += bytes([value & 0x7f | 0x80])
        value >>= 7
    return out + bytes([value])


def field(name, value):
    """A literal without indexing."""
    name, value = (x.encode("latin-1") if isinstance(x, str) else x for x in (name, value))
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(*fields):
    return b"".join(field(*f) for f in fields)


def request_fields(path=NEXT_PATH, extra=()):
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"), ("content-type", "application/grpc"),
            ("te", "trailers"), *extra]


def request_block(path=NEXT_PATH, extra=()):
    return block(*request_fields(path, extra))


def message(payload=b"", *, compressed=0, length=None):
    """A gRPC message: its prefix, and the bytes."""
    return struct.pack(">BI", compressed, len(payload) if length is None else length) + payload


def call(stream, payload=b"", *, path=NEXT_PATH, extra=()):
    """A whole unary call: HEADERS, and DATA with the end of the stream."""
    return (frame(HEADERS, END_HEADERS, stream, request_block(path, extra)) + frame(DATA, END_STREAM, stream, message(payload)))


def get_integer(p, at, bits):
    top = (1 << bits) - 1
    value, at = p[at] & top, at + 1
    if value < top:
        return value, at
    shift = 0
    while True:
        value += (p[at] & 0x7f) << shift
        shift += 7
        at += 1
        if not p[at - 1] & 0x80:
            return value, at


def get_string(p, at):
    assert not p[at] & 0x80, "Huffman coding"
    n, at = get_integer(p, at, 7)
    assert at + n <= len(p)
    return p[at:at + n].decode("latin-1"), at + n


def fields_of(p):
    out, at = [], 0
    if p[:1] == b"\x20":  # the dynamic table is off, at the beginning of a block only
        at = 1
    while at < len(p):
        if p[at] & 0x80:
            index, at = get_integer(p, at, 7)
            out.append(STATIC[index])
            continue
        assert p[at] & 0xe0 == 0, "a dynamic table entry, or a change of its size"
        index, at = get_integer(p, at, 4)
        name, at = (STATIC[index][0], at) if index else get_string(p, at)
        value, at = get_string(p, at)
        out.append((name, value))
    return out


class Frame:
    def __init__(self, header, payload):
        self.kind, self.flags = header[3], header[4]
        self.stream = struct.unpack(">I", header[5:])[0]
        self.payload = payload

    def __repr__(self):
        return f"{NAMES.get(self.kind, self.kind)}(flags={self.flags:#x} stream={self.stream} {self.payload!r})"

    @property
    def code(self):
        """The error code of RST_STREAM and GOAWAY."""
        assert self.kind in (RST_STREAM, GOAWAY), self
        return struct.unpack(">I", self.payload[4:8] if self.kind == GOAWAY else self.payload)[0]

    @property
    def last_stream(self):
        assert self.kind == GOAWAY, self
        return struct.unpack(">I", self.payload[:4])[0] & 0x7fffffff

    @property
    def settings(self):
        assert self.kind == SETTINGS and len(self.payload) % 6 == 0, self
        return {k: v for k, v in struct.iter_unpack(">HI", self.payload)}

    @property
    def fields(self):
        assert self.kind == HEADERS, self
        return dict(fields_of(self.payload))


class Answer:
    """What came for one stream."""

    def __init__(self):
        self.fields, self.data, self.reset, self.ended, self.late_reset = {}, b"", None, False, None
        self.first_bytes = []  # of each header block

    def __repr__(self):
        return f"Answer({self.fields} data={self.data!r} reset={self.reset} ended={self.ended})"

    @property
    def status(self):
        return int(self.fields["grpc-status"]) if "grpc-status" in self.fields else None

    @property
    def text(self):
        return self.fields.get("grpc-message", "")

    def add(self, f):
        if self.ended and f.kind == RST_STREAM:  # the answer was whole before the request was (RFC 9113, 8.1), or it went on
            self.late_reset = f.code
            return
        assert not self.ended, f"after the end of the stream: {f}"
        if f.kind == HEADERS:
            self.fields.update(f.fields)
            self.first_bytes.append(f.payload[:1])
        elif f.kind == DATA:
            self.data += f.payload
        elif f.kind == RST_STREAM:
            self.reset = f.code
        self.ended = self.reset is not None or bool(f.flags & END_STREAM)

    def messages(self):
        out, at = [], 0
        while at < len(self.data):
            compressed, n = struct.unpack(">BI", self.data[at:at + 5])
            assert compressed == 0 and at + 5 + n <= len(self.data)
            out.append(self.data[at + 5:at + 5 + n])
            at += 5 + n
        return out


class Connection(Peer):
    def __init__(self, daemon, *, begin=True, ack=True, **initial):
        """begin: sends the preface and SETTINGS(initial). ack: acknowledges the server's SETTINGS as soon as they come."""
        super().__init__(daemon)
        self.ack = ack
        self.answers = {}
        self.settings, self.goaways, self.pongs, self.settings_acks = None, [], [], 0
        self.windows = {}  # credit received, by stream
        if begin:
            self.send(PREFACE + settings(**initial))

    def send_unless_closed(self, data):
        """For floods, in whose middle the server may have closed. false: it has."""
        try:
            self.sock.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def get(self):
        """The next frame, noted; None at the end of the connection."""
        raw = self.read_frame(9, lambda header: int.from_bytes(header[:3], "big"))
        if raw is None:
            return None
        f = Frame(*raw)
        self.note(f)
        return f

    def note(self, f):
        if f.kind == SETTINGS and not f.flags & ACK:
            self.settings = f.settings
            if self.ack:
                self.send(frame(SETTINGS, ACK))
        elif f.kind == SETTINGS:
            self.settings_acks += 1
        elif f.kind == GOAWAY:
            self.goaways.append(f)
        elif f.kind == PING and f.flags & ACK:
            self.pongs.append(f.payload)
        elif f.kind == WINDOW_UPDATE:
            self.windows[f.stream] = self.windows.get(f.stream, 0) + struct.unpack(">I", f.payload)[0]
        elif f.stream:
            self.answers.setdefault(f.stream, Answer()).add(f)

    def answer(self, stream):
        """Reads until the stream has ended."""
        while stream not in self.answers or not self.answers[stream].ended:
            f = self.get()
            assert f is not None, f"the connection ended: {self.goaways} {self.answers}"
        return self.answers[stream]

    def sync(self):
        """Everything sent before has been looked at, and what was to be said about it has been read."""
        mark = struct.pack(">Q", 0x73796e6300000000 + len(self.pongs))
        self.send(frame(PING, 0, 0, mark))
        while mark not in self.pongs:
            f = self.get()
            assert f is not None, f"the connection ended: {self.goaways} {self.answers}"

    def settle(self):
        """Calls that need not wait have been answered as well: a turn of the daemon's loop handles what came, and then answers."""
        self.sync()
        self.sync()

    def rest(self):
        """Reads to the end of the connection."""
        frames = []
        while f := self.get():
            frames.append(f)
        return frames

    def ended_with(self):
        """Reads to the end; the code of the last GOAWAY, or None."""
        self.rest()
        return self.goaways[-1].code if self.goaways else None

    def serves(self, stream):
        """A call on the stream is answered well: its IDs."""
        self.send(call(stream))
        a = self.answer(stream)
        assert a.status == 0 and a.reset is None, a
        (m,) = a.messages()
        first, count, _ = native.next_reply(m)
        return range(first, first + count)
