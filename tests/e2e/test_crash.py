"""kill -9, again and again: what anybody ever received never comes back. And clean stops: nothing is skipped.

ORDINAL_KILLS: how often (default 30)."""

import os
import random
import signal
import threading
import time

import pytest

import appliance
import h2raw
import native
from native import next_request, request

KILLS = int(os.environ.get("ORDINAL_KILLS", "30"))
SEQUENCES = ("", "orders", "tickets")


class Ledger:
    """Every range ever received, by sequence."""

    def __init__(self):
        self.ranges = {s: [] for s in SEQUENCES}

    def check(self):
        for sequence, ranges in self.ranges.items():
            ranges.sort()
            for a, b in zip(ranges, ranges[1:]):
                assert a[1] <= b[0], f"sequence {sequence!r}: {a} and {b} overlap"

    def highest(self, sequence):
        return max((end for _, end in self.ranges[sequence]), default=1) - 1

    def total(self):
        return sum(end - first for ranges in self.ranges.values() for first, end in ranges)


def receive_native(d, ledger_lock, got, seed):
    rnd = random.Random(seed)
    plan, at = {}, 0
    try:
        with native.Client(d) as c:
            while True:
                batch = b""
                for _ in range(50):
                    sequence = SEQUENCES[rnd.randrange(3)]
                    plan[at & 0xffff] = sequence
                    batch += request(at & 0xffff, next_request(sequence, rnd.choice((1, 1, 1, 10, 1000))))
                    at += 1
                c.send(batch)
                for _ in range(50):
                    f = c.get()
                    if f is not None and f.kind == native.GOAWAY:
                        f = c.get()
                    if f is None:
                        return
                    ids = f.ids()
                    with ledger_lock:
                        got[plan[f.call]].append((ids.start, ids.stop))
    except OSError:
        pass


def receive_grpc(d, ledger_lock, got, seed):
    rnd = random.Random(seed)
    stream = 1
    try:
        with h2raw.Connection(d) as c:
            while True:
                sequences = {}
                batch = b""
                for _ in range(20):
                    sequences[stream] = SEQUENCES[rnd.randrange(3)]
                    batch += h2raw.call(stream, next_request(sequences[stream], rnd.choice((1, 3, 500))))
                    stream += 2
                c.send(batch)
                for s, sequence in sequences.items():
                    while s not in c.answers or not c.answers[s].ended:
                        if c.get() is None:
                            return
                    first, count, _ = native.next_reply(c.answers.pop(s).messages()[0])
                    with ledger_lock:
                        got[sequence].append((first, first + count))
    except OSError:
        pass


def run_until_killed(d, ledger, rnd, how):
    """Clients of both protocols, then the end, at a random moment. Everything received in this life has to be above all that was received
    in those before."""
    lock = threading.Lock()
    got = {s: [] for s in SEQUENCES}
    before = {s: ledger.highest(s) for s in SEQUENCES}
    faults = []

    def receive(one, seed):
        try:
            one(d, lock, got, seed)
        except Exception as e:
            faults.append(e)

    threads = [threading.Thread(target=receive, args=(f, rnd.random())) for f in (receive_native, receive_grpc, receive_native)]
    for t in threads:
        t.start()
    until = time.monotonic() + 60
    while not any(got.values()) and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(rnd.random() * 0.08)
    how()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not faults
    for sequence, ranges in got.items():
        if ranges:
            assert min(first for first, _ in ranges) > before[sequence], f"sequence {sequence!r} went back"
        ledger.ranges[sequence] += ranges


def start_stop_loop(daemon, orders):
    d = daemon.prepare(SHARDS=2, WINDOW_MIN=2000, COUNT_MAX=1000)
    rnd, ledger = random.Random(4), Ledger()
    for i in range(KILLS):
        d.options["ID_ORDER"] = orders[i % len(orders)]
        if i % 8 == 7:  # in the middle of starting
            d.launch()
            time.sleep(rnd.random() * 0.02)
            d.kill()
        d.start()
        if i % 10 == 9:  # in the middle of stopping
            run_until_killed(d, ledger, rnd, lambda: (d.signal(signal.SIGTERM), time.sleep(rnd.random() * 0.01), d.kill()))
        else:
            run_until_killed(d, ledger, rnd, d.kill)
        ledger.check()
    assert ledger.total() > 1000 * KILLS
    d.start()
    with native.Client(d) as c:
        for sequence in SEQUENCES:
            assert c.next(sequence).start > ledger.highest(sequence)


def test_kill_never_repeats_an_id(daemon):
    start_stop_loop(daemon, ["strict"])


def test_kill_and_change_the_order(daemon):
    start_stop_loop(daemon, ["strict", "sharded", "sharded", "strict"])


@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_kill_during_load(daemon, protocol):
    """The load generator's rate: its IDs so far are checked by itself; those of the next life begin above the window."""
    d = daemon(SHARDS=2)
    for _ in range(5):
        process = appliance.load_begin(d, "--duration", "20s", "--protocol", protocol)
        appliance.wait_until(lambda: d.stats()["total"]["ids"] > 50_000, "load")
        reported = d.stats()["sequences"][0]
        d.kill()
        _, report = appliance.load_end(process)
        assert report["check"]["repeated"] == 0 and report["check"]["disordered"] == 0, report["check"]
        assert report["check"]["received"] > 0
        d.start()
        with native.Client(d) as c:
            first = c.next().start
        assert first >= reported["next"] + 0 and first > report["check"]["received"]


def test_a_clean_stop_leaves_no_gap(daemon):
    d = daemon(SHARDS=2)
    expected = dict.fromkeys(SEQUENCES, 1)
    rnd = random.Random(5)
    for _ in range(10):
        with native.Client(d) as a, native.Client(d) as b:
            for i in range(rnd.randrange(1, 40)):
                sequence, count = SEQUENCES[rnd.randrange(3)], rnd.choice((1, 2, 100, 7000))
                assert (a, b)[i % 2].next(sequence, count).start == expected[sequence]
                expected[sequence] += count
        d.stop()
        d.start()
    with native.Client(d) as c:
        for sequence in SEQUENCES:
            assert c.next(sequence).start == expected[sequence]


def test_a_clean_stop_under_load_leaves_no_gap(daemon):
    d = daemon(SHARDS=2)
    received = 0
    for protocol in ("native", "grpc", "native"):
        process = appliance.load_begin(d, "--duration", "20s", "--protocol", protocol)
        appliance.wait_until(lambda: d.stats()["total"]["ids"] > 20_000, "load")
        d.stop()
        code, report = appliance.load_end(process)
        assert code == 0 and report["check"]["missing"] == 0
        received += report["check"]["received"]
        d.start()
    with native.Client(d) as c:
        assert c.next().start == received + 1


def test_an_unclean_stop_skips_at_most_the_window(daemon):
    d = daemon(SHARDS=2, WINDOW_MIN=1000, WINDOW_MAX=1000, COUNT_MAX=1000)
    last = 0
    for _ in range(5):
        with native.Client(d) as c:
            first = c.next().start
            assert last < first <= last + 1 + 2 * 1000  # the one in use, and the one reserved ahead of need
            last = first
            for _ in range(5):
                last = c.next().start
        d.kill()
        d.start()


def test_rate_and_restarts(daemon):
    d = daemon(SHARDS=2, PRODUCER_RATE=1000)
    expected = 1
    for _ in range(3):
        with native.Client(d) as c:
            for _ in range(20):
                assert c.next() == range(expected, expected + 1)
                expected += 1
        d.stop()
        d.start()


def test_many_sequences_survive(daemon):
    d = daemon(SHARDS=2, SEQUENCES_MAX=600, WINDOW_MIN=10, WINDOW_MAX=10, COUNT_MAX=10)
    names = [f"name-{i}" for i in range(500)]
    with native.Client(d) as c:
        c.send(b"".join(request(i, next_request(n, 1 + i % 5)) for i, n in enumerate(names)))
        got = {(f := c.get()).call: f.ids() for _ in names}
        assert all(got[i] == range(1, 2 + i % 5) for i in range(500))
    d.stop()
    d.start()
    with native.Client(d) as c:
        for i, name in enumerate(names[::7]):
            assert c.next(name).start == 2 + (i * 7) % 5
    d.kill()
    d.start()
    with native.Client(d) as c:
        for name in names[::7]:
            assert c.next(name).start > 2
