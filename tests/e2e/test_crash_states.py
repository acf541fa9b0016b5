"""Power cuts of the whole daemon, with retention on: every change that it makes of its data
directory is recorded while clients publish and take IDs, and it is started on what could be on the
disk between any two changes. Compared is what clients had been answered until then: no ID comes
twice, each acknowledged frame is there once, byte for byte, at its offset, or retention has dropped
it; a repeat gets its first answer, a new frame the next offset, and the incarnations are what they
were. Every other state is cut once more while the daemon recovers from it.

ORDINAL_CRASH_STATES: how many states of how many lives, written STATES,LIVES (default 40,1; with
ORDINAL_HEAVY=1 100,20)."""

import os
import random
import shutil
import threading
import time

import appliance
import crash_states
import native
from native import LAST, MESSAGE, frame, request, varint
from test_feed_crash import field

HEAVY = os.environ.get("ORDINAL_HEAVY") == "1"
STATES, LIVES = map(int, os.environ.get("ORDINAL_CRASH_STATES", "100,20" if HEAVY else "40,1").split(","))
STREAMS = (b"a", b"b", b"quiet")
SEQUENCES = [b"", *(b"s%d" % i for i in range(60))]
PUBLISH, PUBLISH_MANY, SUBSCRIBE = 3, 4, 5
SEGMENT = 1 << 20
NUMBERS = 64  # remembered of a publisher
FLIGHT = 16  # of its frames that are not answered yet
RETENTION = ({"FEED_RETAIN_BYTES": 2 << 20}, {"FEED_RETAIN_FRAMES": 60, "FEED_RETAIN_BYTES": 0},
             {"FEED_RETAIN_SECONDS": 1, "FEED_RETAIN_BYTES": 0})


def options(seed):
    return {"SHARDS": 2, "FEED_SEGMENT_BYTES": SEGMENT, "WINDOW_MIN": 1, "WINDOW_MAX": 1000, "COUNT_MAX": 500,
            "WINDOW_TARGET_MS": 1, "FEED_NUMBERS_MAX": NUMBERS, **RETENTION[seed % len(RETENTION)]}


def oldest_segment(d, stream):
    folder = d.data / f"stream.{stream}"
    names = os.listdir(folder) if folder.exists() else []
    return min((int(n, 16) for n in names if len(n) == 16), default=0)


class Clients:
    """Publishers and takers of IDs. What they are answered is in `answers`, as (when, what, ...),
    by the clock of the recorder."""

    def __init__(self, pb):
        self.pb, self.answers, self.sent, self.errors = pb, [], {}, []
        self.numbers = {}  # by publisher

    def live(self, d, rng, end):
        """Until retention has dropped something of each stream, and a while longer."""
        oldest = {stream: oldest_segment(d, stream) for stream in ("a", "b")}
        threads = [threading.Thread(target=self._guard, args=(work, d, random.Random(rng.random()), *rest))
                   for work, *rest in ((self._publish, b"p0"), (self._publish, b"p1"), (self._take, 0), (self._take, 1))]
        for t in threads:
            t.start()
        appliance.wait_until(lambda: all(oldest_segment(d, s) > max(n, 1) for s, n in oldest.items()) or self.errors, "retention")
        time.sleep(rng.uniform(0, 1.5))
        end()
        for t in threads:
            t.join(appliance.PATIENCE_S)
        assert not self.errors, self.errors

    def _guard(self, work, *args):
        try:
            work(*args)
        except (native.Cut, OSError):
            pass  # killed
        except Exception as e:  # pylint: disable=broad-except
            self.errors.append(repr(e))

    def _publish(self, d, rng, publisher):
        sent, at = [], 0
        with native.Client(d) as c:
            while True:
                batch = b""
                while len(sent) - at < FLIGHT:
                    number = self.numbers[publisher] = self.numbers.get(publisher, 0) + 1
                    stream = rng.choice((b"a", b"b")) if number % 20 else b"quiet"
                    seq, key = rng.randrange(1, 1000), (publisher, number)
                    size = rng.choice((0, 100, 20000, 60000)) if stream != b"quiet" else 10
                    payload = b"%s.%d.%d." % (publisher, number, seq) + bytes(size)
                    message = (field(1, stream) + field(2, seq) + field(3, payload) +
                               field(4, rng.choice((0, 1000, 1001))) + field(5, publisher) + field(6, number))
                    self.sent[stream, key] = (seq, payload)
                    batch += frame(MESSAGE, 1, message) if sent else request(1, message, method=PUBLISH_MANY, flags=0)
                    sent.append((stream, key))
                c.send(batch)
                time.sleep(rng.choice((0, 0.01, 0.02)))  # some megabytes are enough
                f = c.get()
                when = time.monotonic_ns()
                if f is not None and f.kind == native.GOAWAY:
                    continue
                if f is None or (f.kind == native.END and f.code == native.UNAVAILABLE):
                    return
                assert f.kind == MESSAGE, f
                reply = self.pb.PublishReply.FromString(f.payload)
                assert not reply.duplicate
                self.answers.append((when, "frame", *sent[at], reply.offset, reply.timestamp, reply.incarnation))
                at += 1

    def _take(self, d, rng, k):
        with native.Client(d) as c:
            waiting, call = {}, 0
            while True:
                batch = b""
                while len(waiting) < 20:
                    call += 1
                    waiting[call] = rng.choice(SEQUENCES[k::2])
                    batch += request(call, native.next_request(waiting[call], rng.choice((1, 1, 3, 200))))
                c.send(batch)
                f = c.get()
                when = time.monotonic_ns()
                if f is not None and f.kind == native.GOAWAY:
                    continue
                if f is None or (f.kind == native.END and f.code == native.UNAVAILABLE):
                    return
                ids, sequence = f.ids(), waiting.pop(f.call)
                self.answers.append((when, "ids", sequence, ids[0], ids[-1], native.incarnation(f.payload)))


class Told:
    """What clients had been answered at some moment, which moves on."""

    def __init__(self, answers):
        self.answers, self.at = answers, 0
        self.ids, self.frames, self.numbers, self.incarnations = {}, {}, {}, {}

    def go_to(self, when):
        while self.at < len(self.answers) and self.answers[self.at][0] < when:
            _, what, *rest = self.answers[self.at]
            self.at += 1
            if what == "ids":
                sequence, _, last, incarnation = rest
                self.ids[sequence] = max(last, self.ids.get(sequence, 0))
                self.incarnations[sequence, "ids"] = incarnation
            else:
                stream, key, offset, timestamp, incarnation = rest
                self.frames[stream, offset] = (key, timestamp)
                self.numbers[key] = (stream, offset, timestamp)
                self.incarnations[stream, "frames"] = incarnation


class Checker:
    def __init__(self, pb, sent, seed):
        self.pb, self.sent, self.retention = pb, sent, RETENTION[seed % len(RETENTION)]

    def check(self, d, told, rng):
        self._check_ids(d, told)
        for stream in STREAMS:
            self._check_stream(d, stream, told)
        self._check_repeats(d, told, rng)

    @staticmethod
    def _check_ids(d, told):
        with native.Client(d) as c:
            sequences = sorted(told.ids)
            c.send(b"".join(request(i + 1, native.next_request(s)) for i, s in enumerate(sequences)))
            for _ in sequences:
                f = c.get()
                sequence = sequences[f.call - 1]
                assert f.ids()[0] > told.ids[sequence], f"ID {f.ids()[0]} of {sequence} again: {told.ids[sequence]} was handed out"
                assert native.incarnation(f.payload) == told.incarnations[sequence, "ids"]

    def _read(self, d, stream):
        """(first offset that is kept, frames by offset, incarnation)"""
        frames, first, incarnation = {}, 1, None
        with native.Client(d) as c:
            c.send(request(1, field(1, stream) + field(4, 1), method=SUBSCRIBE))
            while True:
                f = c.get()
                assert f is not None and f.kind == MESSAGE, f"the subscriber of {stream} got {f}"
                got = self.pb.Frame.FromString(f.payload)
                incarnation = got.incarnation or incarnation
                if got.mark == self.pb.MARK_CAUGHT_UP:
                    return first, frames, incarnation
                if got.mark == self.pb.MARK_GAP:
                    assert got.gap_from == 1 and not frames, got
                    first = got.gap_to + 1
                elif got.mark == 0:
                    assert got.offset == first + len(frames), (got.offset, first, len(frames))
                    frames[got.offset] = got

    def _check_stream(self, d, stream, told):
        first, frames, incarnation = self._read(d, stream)
        seen = set()
        for offset, got in frames.items():
            key = (got.publisher.encode(), got.publisher_seq)
            assert key not in seen, f"{key} is there twice"
            seen.add(key)
            assert self.sent[stream, key] == (got.seq_no, got.payload), f"{stream} {offset} is not what was sent"
        for (name, offset), (key, timestamp) in told.frames.items():
            if name != stream or offset < first:
                continue
            got = frames.get(offset)
            assert got is not None, f"{stream} {offset} was acknowledged and is gone; kept are {first} to {first + len(frames) - 1}"
            assert (got.publisher.encode(), got.publisher_seq) == key and got.timestamp == timestamp
        known = told.incarnations.get((stream, "frames"))
        assert known is None or incarnation in (None, known), f"{stream} is another one"
        if first > 1:
            self._check_retention(frames, first, stream)
        with native.Client(d) as c:
            message = field(1, stream) + field(2, 7) + field(3, b"new")
            f = c.call(message, method=PUBLISH)
            assert f.kind == MESSAGE, f
            reply = self.pb.PublishReply.FromString(f.payload)
        assert reply.offset == first + len(frames), f"{stream} goes on at {reply.offset}; {first} to {first + len(frames) - 1} are there"
        assert known is None or reply.incarnation == known

    def _check_retention(self, frames, first, stream):
        """It drops no more than it has to."""
        if self.retention["FEED_RETAIN_BYTES"]:
            kept = sum(len(f.payload) + 100 for f in frames.values())
            assert kept > self.retention["FEED_RETAIN_BYTES"] - SEGMENT - (64 << 10), f"{stream} from {first} on has {kept} bytes"
        elif "FEED_RETAIN_FRAMES" in self.retention:
            assert len(frames) >= self.retention["FEED_RETAIN_FRAMES"]

    def _check_repeats(self, d, told, rng):
        """The latest numbers of each publisher and stream; in both lives, some that nobody was told
        of may have come between."""
        latest = {}
        for (publisher, number), what in sorted(told.numbers.items()):
            latest.setdefault((publisher, what[0]), []).append((number, *what))
        with native.Client(d) as c:
            for (publisher, stream), numbers in latest.items():
                for number, _, offset, timestamp in rng.sample(numbers[-(NUMBERS - 2 * FLIGHT):], min(len(numbers), 4)):
                    f = c.call(field(1, stream) + field(3, b"again") + field(5, publisher) + field(6, number), method=PUBLISH, flags=LAST)
                    assert f.kind == MESSAGE, f
                    reply = self.pb.PublishReply.FromString(f.payload)
                    assert reply.duplicate and (reply.offset, reply.timestamp) == (offset, timestamp), (stream, publisher, number, offset, reply)


def cuts(events, rng, n):
    """Where to cut: anywhere, and around what happens seldom."""
    rare = [i for i, e in enumerate(events) if e.kind not in (crash_states.WRITE, crash_states.SYNC_BEGIN, crash_states.SYNC_END)]
    places = []
    for _ in range(n):
        if rare and rng.random() < 0.6:
            places.append(min(max(rng.choice(rare) + rng.randint(-4, 4), 1), len(events)))
        else:
            places.append(rng.randint(1, len(events)))
    return sorted(places)


def record(daemon, recorder, pb, seed, rng):
    """Two lives of a daemon, one of them killed. (events of each, clients)"""
    d = daemon.prepare(**options(seed))
    clients, events = Clients(pb), []
    for end in rng.sample((lambda: recorder.kill(d), d.stop), 2):
        path = recorder.attach(d)
        d.start()
        clients.live(d, rng, end)
        events += crash_states.read(path)
    disk = crash_states.Disk()
    for e in events:
        disk.apply(e)
    disk.check_against(d.data)
    clients.answers.sort(key=lambda a: a[0])
    return events, clients


def recover_and_cut(d, recorder, state, rng):
    """Starts the daemon on the state, and gives what a power cut meanwhile, or just after, may
    leave."""
    crash_states.write_out(state, d.data)
    disk = crash_states.Disk(state)
    disk.adopt(d.data)
    path = recorder.attach(d)
    d.start()
    d.kill()
    recorder.detach(d)
    events = crash_states.read(path)
    for e in events[:rng.randint(0, len(events))]:
        disk.apply(e)
    shutil.rmtree(d.data)
    return disk.build(rng)


def check_state(d, state, checker, told, rng):
    crash_states.write_out(state, d.data)
    try:
        d.start()
        checker.check(d, told, rng)
        d.kill()
        d.check_log()
    finally:
        d.destroy()
        shutil.rmtree(d.data)
        log = d.log_path.read_text(errors="replace")
        d.log_path.unlink()
        told.log = log


class LyingDisk(crash_states.Disk):
    """Says of every other sync that it is done, and does nothing."""

    def apply(self, e):
        if e.kind != crash_states.SYNC_END or self.number % 2:
            super().apply(e)
        else:
            self.number += 1


def check_states(daemon, tmp_path, pb, seed, states):
    rng = random.Random(seed)
    recorder = crash_states.Recorder(tmp_path / f"recorder-{seed}")
    events, clients = record(daemon, recorder, pb, seed, rng)
    checker = Checker(pb, clients.sent, seed)
    told, disk, at = Told(clients.answers), crash_states.Disk(), 0
    # what it finds is compared, so it drops nothing more
    d = daemon.prepare(**{**options(seed), "FEED_RETAIN_BYTES": 0, "FEED_RETAIN_FRAMES": 0, "FEED_RETAIN_SECONDS": 0})
    counts = {"ids": 0, "frames": 0, "trimmed": 0}
    for n, cut in enumerate(cuts(events, rng, states)):
        while at < cut:
            disk.apply(events[at])
            counts["trimmed"] += events[at].kind == crash_states.RENAME and "/spare-" in events[at].path.split("\0")[1]
            at += 1
        told.go_to(events[cut].time if cut < len(events) else 1 << 63)
        state, twice = disk.build(rng), n % 2 == 1
        try:
            if twice:
                state = recover_and_cut(d, recorder, state, rng)
            check_state(d, state, checker, told, rng)
        except AssertionError as e:
            where = f"life {seed}, cut {cut} of {len(events)}, state {n}, cut again: {twice}"
            raise AssertionError(f"{where}: {e}\n{told.log}") from e
        counts["ids"] += len(told.ids)
        counts["frames"] += len(told.frames)
    if seed == 0:
        assert sees_lies(d, events, clients, checker, rng), "a disk that lies was not noticed"
    shutil.rmtree(recorder.directory)
    return counts


def sees_lies(d, events, clients, checker, rng):
    """The check of the check."""
    for _ in range(20):
        told, disk = Told(clients.answers), LyingDisk()
        cut = rng.randint(len(events) // 2, len(events) - 1)
        for e in events[:cut]:
            disk.apply(e)
        told.go_to(events[cut].time)
        try:
            check_state(d, disk.build(rng), checker, told, rng)
        except AssertionError:
            return True
    return False


def test_what_a_power_cut_leaves_is_what_was_promised(daemon, stubs, tmp_path):
    total = {}
    for seed in range(LIVES):
        for key, value in check_states(daemon, tmp_path, stubs.pb, seed, STATES).items():
            total[key] = total.get(key, 0) + value
    assert all(total.values()), total
