"""The comparison modes: IDs one by one over each queue of queue/family, and requests handed to worker threads over each of them. What the
production path promises holds here too, or the daemon refuses to start.
"""

import re
import signal
import threading
import time

import pytest

import appliance
import native
from native import GOAWAY, LAST, MESSAGE, REQUEST

SPSC = ["kfifo-spsc", "ck-ring-spsc", "ck-fifo-spsc"]
LANES = ["ranges-spsc"]  # one producer; each consumer has IDs of its own
ORDERED = ["basic", "basic-out", "linked", "double", "double-waiters-new", "double-waiters-old", "kfifo-mpmc", "ck-ring-mpmc", "ck-fifo-epoch",
           "ck-fifo-hp"] + [f"mpmc-{age}-{place}-{side}-{room}" for age in ("new", "old") for place in ("emb", "ptr") for side in ("in", "out")
                            for room in ("grow", "bound")]
WITHIN_ONE = ["sharded", "ranges-mpmc"]
ALL = ORDERED + WITHIN_ONE + LANES + SPSC


def test_these_are_all(daemon):
    d = daemon.prepare(ID_QUEUE="nonsense")
    code, text = d.start_refused()
    assert code == 2
    named = re.search(r'neither "ranges" nor a queue of queue/family: (.*)', text)[1].split()
    assert sorted(named) == sorted(ALL)


def check(d, **expected):
    report = appliance.load(d, "--connections", 6, "--depth", 8, "--requests", 20_000)
    assert report["check"]["received"] == 20_000 and report["check"]["repeated"] == 0
    for key, value in expected.items():
        assert report["check"][key] == value, report["check"]
    return report


@pytest.mark.parametrize("queue", ALL)
def test_each_queue_of_ids(daemon, queue):
    two = queue in ORDERED
    d = daemon(SHARDS=2 if two else 1, ID_QUEUE=queue)
    check(d, order="strict", disordered=0, missing=0)
    d.stop()
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(20_001, 20_002), "a clean stop leaves no gap"


@pytest.mark.parametrize("queue", SPSC + LANES + ["ranges-mpmc", "basic"])
def test_a_queue_for_each_shard(daemon, queue):
    d = daemon(SHARDS=2, ID_QUEUE=queue, ID_ORDER="sharded")
    check(d, order="sharded", disordered_on_connection=0)


@pytest.mark.parametrize("options, because", [
    ({"SHARDS": 2, "ID_QUEUE": "kfifo-spsc"}, "ID_ORDER=sharded"),
    ({"SHARDS": 2, "ID_QUEUE": "sharded", "ID_ORDER": "sharded"}, "keeps no order"),
    ({"SHARDS": 1, "ID_QUEUE": "basic", "PRODUCER_RATE": 100}, "PRODUCER_RATE needs ID_QUEUE=ranges"),
    ({"HANDLER_THREADS": 1, "HANDLER_QUEUE": "nonsense"}, "no queue of queue/family"),
    ({"SHARDS": 1, "HANDLER_THREADS": 2, "HANDLER_QUEUE": "kfifo-spsc"}, "does not take 1 shards"),
    ({"SHARDS": 1, "HANDLER_THREADS": 2, "ID_ORDER": "sharded"}, "HANDLER_THREADS takes ID_ORDER=strict"),
    ({"SHARDS": 1, "HANDLER_THREADS": 1, "ID_QUEUE": "ck-ring-spsc"}, "HANDLER_THREADS=0"),
])
def test_what_cannot_be_kept_is_refused(daemon, options, because):
    code, text = daemon.prepare(**options).start_refused()
    assert code == 2 and because in text


def test_single_ids_only(daemon):
    d = daemon(SHARDS=2, ID_QUEUE="basic")
    with native.Client(d) as c:
        for n, request in enumerate((native.next_request("", 2), native.next_request("name", 1)), 1):
            c.send(native.frame(REQUEST, n, request, flags=LAST, code=1))
            f = c.get()
            assert f.kind == native.END and f.code == 9 and b"ID_QUEUE=basic carries single IDs" in f.payload
        assert len(c.next()) == 1


@pytest.mark.parametrize("options", [{"ID_QUEUE": "basic"}, {"ID_QUEUE": "ck-ring-mpmc"}, {"HANDLER_THREADS": 3},
                                     {"HANDLER_THREADS": 2, "HANDLER_QUEUE": "kfifo-mpmc", "ID_QUEUE": "linked"}], ids=str)
def test_a_kill_repeats_nothing(daemon, options):
    d = daemon(SHARDS=2, **options)
    got, lock = [], threading.Lock()

    def receive():
        try:
            with native.Client(d) as c:
                while True:
                    c.send(b"".join(native.request(k) for k in range(1, 51)))
                    for _ in range(50):
                        f = c.get()
                        if f is None:
                            return
                        with lock:
                            got.append(f.ids().start)
        except OSError:
            pass

    for _ in range(4):
        before = len(got)
        threads = [threading.Thread(target=receive) for _ in range(4)]
        for t in threads:
            t.start()
        appliance.wait_until(lambda n=before: len(got) > n + 5000, "some IDs")
        d.kill()
        for t in threads:
            t.join()
        d.start()
    assert len(set(got)) == len(got) > 20_000


@pytest.mark.parametrize("queue", [q for q in ALL if q not in SPSC + LANES])
def test_each_queue_of_requests(daemon, queue):
    d = daemon(SHARDS=2, HANDLER_THREADS=3, HANDLER_QUEUE=queue)
    check(d, order="strict", disordered=0, missing=0)


@pytest.mark.parametrize("queue", SPSC + LANES)
def test_each_queue_of_requests_with_one_producer(daemon, queue):
    d = daemon(SHARDS=1, HANDLER_THREADS=3 if queue in LANES else 1, HANDLER_QUEUE=queue)
    check(d, order="strict", disordered=0, missing=0)


def test_workers_serve_names_and_counts(daemon):
    d = daemon(SHARDS=2, HANDLER_THREADS=2, SEQUENCES_MAX=2)
    with native.Client(d) as c:
        assert c.next("a", 10) == range(1, 11)
        assert c.next("a", 5) == range(11, 16)
        c.send(native.frame(REQUEST, 7, native.next_request("b", 1), flags=LAST, code=1))
        f = c.get()
        assert f.kind == native.END and b"SEQUENCES_MAX" in f.payload
        assert d.stats()["total"]["ids"] == 15


@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_workers_and_take_and_grpc(daemon, protocol):
    d = daemon(SHARDS=2, HANDLER_THREADS=2)
    for method in ("next", "take"):
        report = appliance.load(d, "--connections", 6, "--requests", 10_000, "--protocol", protocol, "--method", method)
        assert report["check"]["missing"] == 0


def test_calls_that_end_while_a_worker_has_them(daemon):
    """Deadlines, cancels and lost connections: each worker waits for IDs that come slowly, and nothing is answered twice or to the wrong one."""
    d = daemon(SHARDS=2, HANDLER_THREADS=2, PRODUCER_RATE=2000)
    clients = [native.Client(d) for _ in range(4)]
    for c in clients:
        for k in range(1, 51):
            c.send(native.frame(REQUEST, k, native.next_request("", 20), flags=LAST, code=1, arg=(0, 50, 400)[k % 3]))
    for k in range(1, 51, 5):
        clients[0].send(native.frame(native.CANCEL, k))
    time.sleep(0.3)
    clients[1].close()
    for c in (clients[0], clients[2]):
        seen = set()
        for _ in range(50):
            f = c.get()
            assert f.call not in seen, "answered twice"
            seen.add(f.call)
            assert f.kind == native.END and f.code in (1, 4) or f.kind == MESSAGE and len(f.ids()) == 20
        assert seen == set(range(1, 51))
    for c in clients:
        c.close()
    appliance.wait_until(lambda: d.stats()["total"]["calls_live"] == 0, "all calls to end")


@pytest.mark.parametrize("options", [{"ID_QUEUE": "basic"}, {"ID_QUEUE": "kfifo-mpmc"}, {"HANDLER_THREADS": 2},
                                     {"HANDLER_THREADS": 2, "HANDLER_QUEUE": "ck-ring-mpmc", "ID_QUEUE": "basic"}], ids=str)
def test_a_drain_loses_no_call(daemon, options):
    d = daemon(SHARDS=2, DRAIN_TIMEOUT_MS=20000, **options)
    with native.Client(d) as c:
        assert len(c.next()) == 1
        for k in range(100, 400):
            c.send(native.frame(REQUEST, k, native.next_request(), flags=LAST, code=1))
        d.signal(signal.SIGTERM)
        answered, ids = set(), set()
        while len(answered) < 300:
            f = c.get()
            assert f is not None, f"{300 - len(answered)} calls got no answer"
            if f.kind == GOAWAY:
                continue
            answered.add(f.call)
            ids.update(f.ids())
        assert answered == set(range(100, 400)) and len(ids) == 300
    d.wait_stopped()


def test_a_stop_while_workers_wait_for_ids(daemon):
    d = daemon(SHARDS=1, HANDLER_THREADS=2, PRODUCER_RATE=1, DRAIN_TIMEOUT_MS=300)
    with native.Client(d) as c:
        for k in range(1, 20):
            c.send(native.frame(REQUEST, k, native.next_request("", 1000), flags=LAST, code=1))
        time.sleep(0.1)
        d.stop()
