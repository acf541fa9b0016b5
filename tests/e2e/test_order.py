"""The order of IDs: strict over all connections and shards; sharded: unique, and rising on each connection."""

import threading

import pytest

import appliance
import h2raw
import native


def on_both_shards(d, n=2):
    """n clients, shared out evenly between two shards."""
    clients = [native.Client(d) for _ in range(n)]
    for c in clients:
        c.ping()
    assert [s["connections"] for s in d.stats()["shards"]] == [n // 2, n // 2]
    return clients


def test_alternating_between_shards(daemon):
    d = daemon(SHARDS=2)
    a, b = on_both_shards(d)
    for i in range(1, 1001, 2):
        assert a.next() == range(i, i + 1)
        assert b.next() == range(i + 1, i + 2)


def test_sharded_order_is_visibly_weaker(daemon):
    """The check that finds nothing wrong with strict order does see this."""
    d = daemon(SHARDS=2, ID_ORDER="sharded")
    a, b = on_both_shards(d)
    got = [c.next().start for _ in range(500) for c in (a, b)]
    assert len(set(got)) == len(got)
    assert all(x < y for x, y in zip(got[::2], got[2::2])) and all(x < y for x, y in zip(got[1::2], got[3::2]))
    assert any(x > y for x, y in zip(got, got[1:]))


class Checker:
    """Real-time order: a reply is above everything that anybody had received before its request was sent."""

    def __init__(self):
        self.highest = {}
        self.got = {}
        self.lock = threading.Lock()
        self.disordered = 0

    def sending(self, sequence):
        return self.highest.get(sequence, 0)

    def received(self, sequence, ids, before):
        with self.lock:
            self.disordered += ids.start <= before
            self.highest[sequence] = max(self.highest.get(sequence, 0), ids.stop - 1)
            self.got.setdefault(sequence, []).append(ids)

    def repeated(self):
        n = 0
        for ranges in self.got.values():
            ranges.sort(key=lambda r: r.start)
            n += sum(a.stop > b.start for a, b in zip(ranges, ranges[1:]))
        return n


def run_clients(d, checker, clients=8, calls=400):
    def native_client(k):
        with native.Client(d) as c:
            for i in range(calls):
                sequence = ("", "named")[(i + k) % 2]
                before = checker.sending(sequence)
                checker.received(sequence, c.next(sequence, 1 + i % 5), before)

    def grpc_client(k):
        with h2raw.Connection(d) as c:
            for i in range(calls):
                sequence = ("", "named")[(i + k) % 2]
                before = checker.sending(sequence)
                stream = 2 * i + 1
                c.send(h2raw.call(stream, native.next_request(sequence, 1 + i % 5)))
                first, count, _ = native.next_reply(c.answer(stream).messages()[0])
                checker.received(sequence, range(first, first + count), before)

    threads = [threading.Thread(target=(native_client, grpc_client)[k % 2], args=(k,)) for k in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(len(r) for r in checker.got.values()) == clients * calls


def test_real_time_order_of_many_clients(daemon):
    d = daemon(SHARDS=2)
    checker = Checker()
    run_clients(d, checker)
    assert checker.disordered == 0 and checker.repeated() == 0


def test_many_clients_in_sharded_order(daemon):
    d = daemon(SHARDS=2, ID_ORDER="sharded")
    checker = Checker()
    run_clients(d, checker)
    assert checker.repeated() == 0
    assert checker.disordered > 0, "the checker is able to see it"


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_load_finds_no_fault(daemon, protocol, shards):
    d = daemon(SHARDS=shards)
    report = appliance.load(d, "--connections", 8, "--requests", 150_000, "--protocol", protocol)
    assert report["check"]["order"] == "strict" and report["check"]["missing"] == 0
    report = appliance.load(d, "--connections", 8, "--requests", 30_000, "--protocol", protocol, "--method", "take", "--count", 37)
    assert report["check"]["received"] == 30_000 * 37 and report["check"]["missing"] == 0


def test_load_in_sharded_order(daemon):
    d = daemon(SHARDS=2, ID_ORDER="sharded")
    report = appliance.load(d, "--connections", 8, "--requests", 200_000)
    check = report["check"]
    assert check["order"] == "sharded" and check["repeated"] == 0 and check["disordered_on_connection"] == 0
    assert check["disordered"] > 0, "order between shards is broken, and the check sees it"


def test_two_loads_share_a_sequence(daemon):
    """Two programs at once: each finds order and uniqueness, and together they have received every ID once."""
    d = daemon(SHARDS=2)
    loads = [appliance.load_begin(d, "--connections", 4, "--requests", 100_000, "--sequence", "shared", "--protocol", p)
             for p in ("native", "grpc")]
    reports = [appliance.load_end(p) for p in loads]
    assert all(code == 0 and r["check"]["ok"] and r["errors"] == 0 for code, r in reports)
    with native.Client(d) as c:
        assert c.next("shared").start == 1 + sum(r["check"]["received"] for _, r in reports)


@pytest.mark.heavy
def test_ten_million_ids_one_by_one(daemon):
    d = daemon(SHARDS=2)
    report = appliance.load(d, "--connections", 20, "--depth", 20, "--requests", 10_000_000, timeout_s=600)
    assert report["check"]["received"] == 10_000_000


def test_small_windows(daemon):
    """Windows of 100 IDs, so that each few calls wait for the disk: still without a fault or a gap."""
    d = daemon(SHARDS=2, WINDOW_MIN=100, WINDOW_MAX=100, COUNT_MAX=100)
    report = appliance.load(d, "--connections", 8, "--requests", 5_000)
    assert report["check"]["missing"] == 0
    with native.Client(d) as c:
        assert c.next(count=100).start == 5_001


def test_counts_of_the_largest_window(daemon):
    """Each call takes a whole window."""
    d = daemon(SHARDS=2, WINDOW_MIN=1000, WINDOW_MAX=1000, COUNT_MAX=1000)
    with native.Client(d) as a, native.Client(d) as b:
        for i in range(50):
            assert a.next(count=1000) == range(2000 * i + 1, 2000 * i + 1001)
            assert b.next(count=1000) == range(2000 * i + 1001, 2000 * i + 2001)


def test_short_rings(daemon):
    d = daemon(SHARDS=2, QUEUE_DEPTH=2, WINDOW_MIN=10, WINDOW_MAX=1000, COUNT_MAX=100)
    with native.Client(d) as a, native.Client(d) as b:
        for i in range(200):
            for c in (a, b):
                c.send(b"".join(native.request(k, native.next_request(f"s{k % 7}", 1 + k % 3)) for k in range(21)))
            got = {(c, f.call): f for c in (a, b) for f in (c.get() for _ in range(21))}
            assert len(got) == 42 and all(f.kind == native.MESSAGE for f in got.values())
        total = {k: sum(1 + j % 3 for j in range(21) if j % 7 == k) * 400 for k in range(7)}
        for k in range(7):
            assert a.next(f"s{k}").start == total[k] + 1
