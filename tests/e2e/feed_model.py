"""What a stream has to be, as a model: the frames by offset, and the same frames by (seq_no, timestamp, offset). And what a subscriber saw of it, as
an observation that the model checks, byte for byte.

A model learns a frame when the daemon gives it back by offset, and takes it only if exactly that was published, once. `Difference`: the promise
that was broken, with the place."""

import bisect
import os
import sys
import threading

import appliance

sys.path.insert(0, os.path.join(appliance.ROOT, "tools", "python", "ordinal"))
from _crc import is_whole  # noqa: E402  pylint: disable=wrong-import-position

NONE, CAUGHT_UP, GAP, GOING_AWAY, RESUMED = range(5)


class Difference(AssertionError):
    pass


class Frames:
    """Bytes of frames as they were received, one copy of each; marks are told apart. Any thread."""

    def __init__(self, pb):
        self.pb, self.known = pb, {}

    def take(self, raw, marks):
        """The bytes of a frame; or None for a mark, which is added to `marks`."""
        same = self.known.get(raw)
        if same is not None:
            return same
        if not is_whole(raw):
            raise Difference(f"the CRC of a frame is wrong: {raw[:100].hex()}")
        frame = self.pb.Frame.FromString(raw)
        if frame.mark != NONE:
            marks.append(frame)
            return None
        return self.known.setdefault(raw, raw)


class Sent:
    """A frame on its way."""

    __slots__ = ("publisher", "number", "seq_no", "timestamp", "offset", "given")

    def __init__(self, publisher, number, seq_no, timestamp):
        self.publisher, self.number, self.seq_no, self.timestamp = publisher, number, seq_no, timestamp
        self.offset = self.given = None  # as acknowledged


class Observation:
    """One subscription, from its request to its end. `edge`: an offset that had been acknowledged before it began."""

    def __init__(self, who, since, resume, edge):
        self.who, self.since, self.resume, self.edge = who, since, resume, edge
        self.frames, self.marks, self.mark_at = [], [], []
        self.caught_up_at = self.caught_up = self.going_away = None
        self.incarnation = None  # as marks have said

    def add(self, raws, frames):
        for raw in raws:
            n = len(self.marks)
            got = frames.take(raw, self.marks)
            if got is None:
                self._mark(self.marks[n])
            elif self.going_away is not None:
                raise Difference(f"{self.who}: a frame after GOING_AWAY")
            elif self.resume and self.incarnation is None:
                raise Difference(f"{self.who}: a frame before RESUMED")
            else:
                self.frames.append(got)

    def _mark(self, frame):
        # A subscriber that waits for its stream to be made may be sent away before it is known.
        unknown = frame.mark == GOING_AWAY and not self.frames and not frame.incarnation
        if not unknown and (not frame.incarnation or self.incarnation not in (None, frame.incarnation)):
            raise Difference(f"{self.who}: a mark with another incarnation than {self.incarnation}: {frame}")
        first, self.incarnation = self.incarnation is None, frame.incarnation or self.incarnation
        if self.resume and first and frame.mark != GOING_AWAY:
            if frame.mark != RESUMED or frame.offset != self.resume:
                raise Difference(f"{self.who}: begins with {frame}")
        elif frame.mark == CAUGHT_UP and self.caught_up is None:
            self.caught_up, self.caught_up_at = frame.offset, len(self.frames)
        elif frame.mark == GOING_AWAY and self.going_away is None:
            self.going_away = frame.offset
        else:
            raise Difference(f"{self.who}: an unexpected mark: {frame}")


class Model:
    """One stream. The main thread's, but for send() and acknowledge()."""

    def __init__(self, name, frames):
        self.name, self.kept = name, frames
        self.raw, self.keys = [], []  # by offset - 1: bytes; (seq_no, timestamp, offset)
        self.order, self.place = [], {}  # the keys, sorted; bytes -> key
        self.lock = threading.Lock()
        self.under_way = {}  # payload -> Sent
        self.edge = 0  # the highest offset that was acknowledged
        self.last = {}  # publisher -> the last number that was kept
        self.incarnation = None  # of the stream

    def send(self, payload, sent):
        with self.lock:
            assert payload not in self.under_way
            self.under_way[payload] = sent

    def acknowledge(self, sent, reply):
        """Any thread. `sent` is what the reply answers."""
        if reply.duplicate or sent.offset is not None:
            raise Difference(f"{self.name}: offset {reply.offset} is said to be a duplicate, or was acknowledged twice")
        sent.offset, sent.given = reply.offset, reply.timestamp
        with self.lock:
            self.edge = max(self.edge, reply.offset)

    def learn(self, raws):
        """What came by offset after all that is known."""
        marks = []
        for raw in raws:
            raw = self.kept.take(raw, marks)
            if marks:
                raise Difference(f"{self.name}: a mark among frames by offset: {marks[0]}")
            frame, offset = self.kept.pb.Frame.FromString(raw), len(self.raw) + 1
            sent = self.under_way.pop(frame.payload, None)
            where = f"{self.name} offset {offset}"
            if sent is None:
                raise Difference(f"{where}: was published never, or is there twice: {frame.payload[:40]}")
            if frame.offset != offset or frame.seq_no != sent.seq_no or (sent.timestamp and frame.timestamp != sent.timestamp):
                raise Difference(f"{where}: published with seq_no {sent.seq_no}, timestamp {sent.timestamp}, and is {frame}")
            if sent.offset not in (None, offset) or sent.given not in (None, frame.timestamp):
                raise Difference(f"{where}: acknowledged as offset {sent.offset}, timestamp {sent.given}, and is {frame}")
            if sent.number <= self.last.get(sent.publisher, -1):
                raise Difference(f"{where}: {sent.publisher} sent {sent.number} before {self.last[sent.publisher]}")
            self.last[sent.publisher] = sent.number
            self.raw.append(raw)
            self.keys.append((frame.seq_no, frame.timestamp, offset))
            self.place[raw] = self.keys[-1]
        self.order += self.keys[len(self.order):]
        self.order.sort()

    def settle(self):
        """Between two lives: everything acknowledged has been learned, and what has not been will never come."""
        lost = [s for s in self.under_way.values() if s.offset is not None]
        if lost:
            raise Difference(f"{self.name}: {len(lost)} acknowledged frames are gone, the first is offset {min(s.offset for s in lost)}; the last is {len(self.raw)}")
        self.under_way.clear()

    def late(self):
        """How many frames have a key below one before them."""
        highest, n = (-1, 0, 0), 0
        for key in self.keys:
            n += key < highest
            highest = max(highest, key)
        return n

    # Observations.

    def check(self, o):
        self.incarnation = self.incarnation or o.incarnation
        if o.incarnation not in (None, self.incarnation):
            raise Difference(f"{o.who}: the stream is in incarnation {o.incarnation}, and was in {self.incarnation}")
        if o.caught_up is not None and not (o.resume or 0) - 1 <= o.caught_up <= len(self.raw):
            raise Difference(f"{o.who}: CAUGHT_UP says offset {o.caught_up}; the last is {len(self.raw)}")
        if o.caught_up is not None and o.caught_up < o.edge:
            raise Difference(f"{o.who}: history ends at offset {o.caught_up}, and {o.edge} had been acknowledged before")
        if o.caught_up is not None and o.going_away == 0:
            raise Difference(f"{o.who}: sent away after CAUGHT_UP without an offset to resume from")
        if o.resume:
            self._check_live(o, o.frames, o.resume)
            before = o.caught_up_at is not None and sum(1 for k in self.keys[o.resume - 1:o.caught_up] if k[0] >= o.since)
            if before is not False and before != o.caught_up_at:
                raise Difference(f"{o.who}: CAUGHT_UP after {o.caught_up_at} frames, not {before}")
        elif o.caught_up is None:
            self._check_begun(o)
        else:
            self._compare(o, "history", o.frames[:o.caught_up_at], self._history(o.since, o.caught_up))
            self._check_live(o, o.frames[o.caught_up_at:], o.caught_up + 1)

    def _history(self, since, edge):
        return [self.raw[k[2] - 1] for k in self.order[bisect.bisect_left(self.order, (since,)):] if k[2] <= edge]

    def _check_begun(self, o):
        """A history that was left before its end: what its edge was is not known, but it is at or above all that was seen."""
        if o.going_away:
            raise Difference(f"{o.who}: sent away within history, with an offset to resume from: {o.going_away}")
        seen = [self.place.get(raw) for raw in o.frames]
        if None in seen:
            raise Difference(f"{o.who}: frame {seen.index(None)} is not in the stream")
        edge = max([o.edge, *(k[2] for k in seen)])
        self._compare(o, "the beginning of a history", o.frames, self._history(o.since, edge)[:len(o.frames)])

    def _check_live(self, o, got, start):
        end = o.going_away - 1 if o.going_away else None
        expected = [raw for raw, k in zip(self.raw[start - 1:end], self.keys[start - 1:end]) if k[0] >= o.since]
        if end is None:
            expected = expected[:len(got)]
        self._compare(o, f"live from offset {start}", got, expected)

    def _compare(self, o, what, got, expected):
        if got == expected:
            return
        at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
        parse = self.kept.pb.Frame.FromString
        sides = [f"offset {parse(side[at]).offset} seq_no {parse(side[at]).seq_no}" if at < len(side) else "nothing" for side in (got, expected)]
        raise Difference(f"{o.who}: {what}, frame {at} of {len(got)} (expected: {len(expected)}): got {sides[0]}, expected {sides[1]}")
