"""The Python client: against the daemon, and against a server that misbehaves."""

import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import pytest

import appliance
from stock_feed import StockFeed

PACKAGE = os.path.join(appliance.ROOT, "tools", "python", "ordinal")


def load_package():
    """Under another name than `ordinal`, which generated stubs have here."""
    spec = importlib.util.spec_from_file_location("ordinal_client", os.path.join(PACKAGE, "__init__.py"), submodule_search_locations=[PACKAGE])
    module = importlib.util.module_from_spec(spec)
    sys.modules["ordinal_client"] = module
    spec.loader.exec_module(module)
    return module


ordinal = load_package()


@pytest.fixture
def client(server):
    with ordinal.Client(server.address, verify=True) as c:
        yield c


@pytest.fixture
def stock(stubs):
    s = StockFeed(stubs)
    yield s
    s.stop()


@pytest.fixture
def stock_client(stock):
    with ordinal.Client(stock.address, verify=True) as c:
        yield c


def history(client, stream="s", since=0, **options):
    return list(client.subscribe(stream, since, until_caught_up=True, **options))


# ---- straight from the tree ----

def test_as_the_readme_has_it(server):
    """A new process, the package on PYTHONPATH, the server from the environment."""
    code = """
import ordinal
assert ordinal.next("orders", count=3) == [1, 2, 3]
assert ordinal.next("orders") == 4
for n in range(4, 8):
    done = ordinal.publish("ticks", n, b"tick %d" % n)
assert done.offset == 4 and done.durability == "fsync" and not done.duplicate
got = []
for payload in ordinal.subscribe("ticks", since=5):
    got.append(payload)
    if len(got) == 3:
        break
assert got == [b"tick 5", b"tick 6", b"tick 7"]
assert [p.seq_no for p in got] == [5, 6, 7] and got[0].offset == 2 and got[0].stream == "ticks"
try:
    ordinal.next("x" * 200)
except ordinal.Invalid as e:
    print("refused:", e)
"""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(PACKAGE), "ORDINAL_SERVER": server.address}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ")


# ---- the daemon ----

def test_ids(client):
    assert client.next() == 1
    assert client.next(count=3) == [2, 3, 4]
    assert client.next("other", count=1) == [1]


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_said(client, count):
    """0 gave a list of one ID, and -1 an empty one."""
    with pytest.raises(ValueError, match=f"at least 1, not {count}"):
        client.next(count=count)
    assert client.next() == 1


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_ids_of_a_server_that_grants_few_at_once(daemon, limit):
    """It asked for 1,000,000 at once, and failed where COUNT_MAX is less."""
    d = daemon(SHARDS=1, COUNT_MAX=limit)
    count = 5 * limit + 3
    with ordinal.Client(d.address) as c:
        assert c.next(count=count) == list(range(1, count + 1))
        assert d.stats()["methods"]["ordinal.v1.Ids/Next"]["by_status"]["RESOURCE_EXHAUSTED"] <= 2


def test_a_refusal_that_is_not_about_the_number(daemon):
    d = daemon(SHARDS=1, SEQUENCES_MAX=1)
    with ordinal.Client(d.address) as c, pytest.raises(ordinal.LimitReached, match="SEQUENCES_MAX"):
        c.next("one-too-many", count=1000)


def test_stats(server, client):
    client.next(count=7)
    stats = client.stats()
    assert stats["pid"] == server.pid and stats["total"]["ids"] == 7
    assert client.stats("text").startswith("Ordinal ") and "\nordinal_ids_total" in client.stats("prometheus")
    with pytest.raises(ValueError, match="json"):
        client.stats("xml")
    assert ordinal.stats(server=server.address)["pid"] == server.pid


@pytest.fixture
def ruled(daemon, tmp_path):
    """A daemon with a reader, a writer, and somebody who watches; their tokens are their names."""
    rules = tmp_path / "access"
    rules.write_text("".join(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()} {right}\n"
                             for name, right in (("reader", "subscribe:*"), ("writer", "publish:*"), ("watcher", "stats"))))
    return daemon(SHARDS=2, ACCESS_FILE=rules)


def test_stats_take_a_right(ruled):
    with ordinal.Client(ruled.address, token="watcher") as c:
        assert c.stats()["pid"] == ruled.pid
    with ordinal.Client(ruled.address, token="reader") as c, pytest.raises(ordinal.Denied, match="right stats"):
        c.stats()


def test_a_stream_that_is_not_there_yet(ruled):
    """A reader who may not make it is told so, or waits for whoever may."""
    with ordinal.Client(ruled.address, token="reader") as reader, ordinal.Client(ruled.address, token="writer") as writer:
        with pytest.raises(ordinal.NotFound, match="once somebody who may has published"):
            history(reader, "late")
        got = []
        # Not its history alone: the stream is there a moment before its first frame is.
        thread = threading.Thread(target=lambda: got.append(next(reader.subscribe("late", wait=True))))
        thread.start()
        appliance.wait_until(lambda: ruled.stats()["methods"]["ordinal.v1.Feed/Subscribe"]["by_status"]["NOT_FOUND"] >= 3, "attempts")
        writer.publish("late", 1, b"first")
        thread.join(appliance.PATIENCE_S)
        assert got == [b"first"]
        waiting = reader.subscribe("never", wait=True)
        ended = threading.Thread(target=lambda: got.extend(waiting))
        ended.start()
        appliance.wait_until(lambda: ruled.stats()["methods"]["ordinal.v1.Feed/Subscribe"]["by_status"]["NOT_FOUND"] >= 6, "attempts")
        waiting.close()
        ended.join(appliance.PATIENCE_S)
        assert not ended.is_alive() and got == [b"first"]


def test_publish_and_read(client):
    published = [client.publish("s", n, b"%d" % n, timestamp=n + 1) for n in (3, 1, 2)]
    assert [p.offset for p in published] == [1, 2, 3]
    got = history(client)
    assert got == [b"1", b"2", b"3"]
    assert [(p.seq_no, p.offset, p.timestamp) for p in got] == [(1, 2, 2), (2, 3, 3), (3, 1, 4)]
    assert history(client, since=2) == [b"2", b"3"]


def test_a_frame_of_four_megabytes(client):
    data = os.urandom((4 << 20) - 1024)  # FEED_FRAME_MAX's default
    with ordinal.Client(client.server) as quick:
        quick.publish("s", 1, data)
        assert history(quick) == [data]
        with pytest.raises((ordinal.LimitReached, ordinal.Invalid)):
            quick.publish("s", 1, data + b"x")


def test_publish_many(client):
    items = [b"a", b"b", (10, b"c"), b"d", (5, b"e", 77)]
    assert [p.offset for p in client.publish_many("s", iter(items))] == [1, 2, 3, 4, 5]
    assert [(p, p.seq_no) for p in history(client)] == [(b"a", 1), (b"b", 2), (b"e", 5), (b"c", 10), (b"d", 11)]
    assert len(list(client.publish_many("s", (b"%d" % n for n in range(5000))))) == 5000


def test_publish_many_raises_what_its_items_raise(client):
    def items():
        yield b"a"
        raise KeyError("mine")

    done = []
    with pytest.raises(KeyError, match="mine"):
        done.extend(client.publish_many("s", items()))
    with pytest.raises(TypeError):
        list(client.publish_many("s", ["no bytes"]))
    assert history(client) == [b"a"]


def test_a_number_of_ones_own(client):
    first = client.publish("s", 1, b"a", publisher="me", number=7)
    with ordinal.Client(client.server) as another:
        again = another.publish("s", 1, b"a", publisher="me", number=7)
    assert again.duplicate and again.offset == first.offset
    with pytest.raises(ValueError):
        client.publish("s", 1, b"a", publisher="me")


def test_history_then_live(client):
    client.publish("s", 1, b"old")
    with client.subscribe("s") as subscription:
        assert next(subscription) == b"old"
        client.publish("s", 1, b"new")
        assert next(subscription) == b"new"
        assert subscription.caught_up
        threading.Timer(0.1, subscription.close).start()
        assert list(subscription) == []


def test_a_reorder_window(client):
    with client.subscribe("s", reorder=0.3) as subscription:
        client.publish("s", 9, b"")
        assert next(subscription).seq_no == 9
        for seq_no in (5, 3, 4):
            client.publish("s", seq_no, b"")
        assert sorted(next(subscription).seq_no for _ in range(3)) == [3, 4, 5]


def test_reading_goes_on_across_restarts(daemon):
    d = daemon()
    d.options["LISTEN"] = d.address
    with ordinal.Client(d.address) as client:
        got = iter(client.subscribe("s"))
        for how in (d.stop, d.kill, None):
            client.publish("s", 1, b"x")
            list(client.publish_many("s", [b"y"] * 50))
            assert [next(got).offset for _ in range(51)][0] % 51 == 1
            if how:
                how()
                d.start()
        assert sorted(p.offset for p in history(client)) == list(range(1, 154))


def test_publishing_goes_on_across_a_kill(daemon):
    d = daemon()
    d.options["LISTEN"] = d.address
    with ordinal.Client(d.address) as client:
        offsets = []
        for n, done in enumerate(client.publish_many("s", (b"%d" % n for n in range(3000)))):
            offsets.append(done.offset)
            if n in (500, 1500):
                d.kill()
                d.start()
        assert history(client) == [b"%d" % n for n in range(3000)]
        assert offsets == list(range(1, 3001))


def test_run_waits_for_both(client):
    got = []
    result = client.run("s", publish=[b"a", b"b", b"c"], on_frame=got.append)
    assert (result.published, result.received) == (3, 3)
    assert got == [b"a", b"b", b"c"]
    # Again: history first; frames below `since` are not waited for.
    numbers = iter(range(100, 200))
    result = client.run("s", publish=lambda: (n := next(numbers, None)) and (n, b"%d" % n), since=150)
    assert (result.published, result.received) == (100, 50)
    assert client.run("s", publish=[]).published == 0


def test_run_ends_when_on_frame_says_so(client):
    client.publish("s", 1, b"stop")
    assert client.run("s", on_frame=lambda p: p == b"stop").received == 1


def test_run_raises_what_goes_wrong_in_either(client):
    def bad():
        raise KeyError("publisher")

    def worse(payload):
        raise KeyError("subscriber")

    with pytest.raises(KeyError, match="publisher"):
        client.run("s", publish=bad)
    with pytest.raises(KeyError, match="subscriber"):
        client.run("s", publish=[b"x"] * 1000, on_frame=worse)


def test_two_runs_see_each_other(client):
    results = []

    def one(n):
        with ordinal.Client(client.server) as c:
            results.append(c.run("s", publish=[b"%d" % n] * 200, on_frame=lambda p: None))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert sorted(r.published for r in results) == [200, 200, 200]
    assert all(200 <= r.received <= 600 for r in results)
    assert len(history(client)) == 600


# ---- errors ----

def test_nobody_listens():
    with ordinal.Client("127.0.0.1:1", patience=0.2) as client:
        with pytest.raises(ordinal.Unreachable):
            client.next()
        with pytest.raises(ordinal.Unreachable):
            history(client)
        with pytest.raises(ordinal.Unreachable):
            list(client.publish_many("s", [b"x"]))
        with pytest.raises(ordinal.Unreachable):
            client.run("s", publish=[b"x"])


def test_refusals_have_names(client):
    with pytest.raises(ordinal.Invalid):
        client.next("x" * 200)
    with pytest.raises(ordinal.Invalid):
        client.publish("x" * 200, 1, b"")
    with pytest.raises(ordinal.Invalid):
        history(client, stream="x" * 200)
    with pytest.raises(TypeError):
        client.publish("s", 1, "text")


# ---- resuming, without a network ----

class Model:
    """A server's stream, and breaks of connections, at random."""

    def __init__(self, seed):
        self.rnd = random.Random(seed)
        self.keys = []  # (seq_no, timestamp, offset), by offset
        self.seq_range, self.limit = self.rnd.randint(1, 20), self.rnd.randint(20, 150)
        self.since = self.rnd.choice([0, 0, self.rnd.randrange(self.seq_range)])
        self.delivered = set()
        self.resume = sys.modules["ordinal_client._resume"].Resume(self.since)
        for _ in range(self.rnd.randrange(self.limit)):
            self.publish()

    def publish(self):
        if len(self.keys) < self.limit:
            self.keys.append((self.rnd.randrange(self.seq_range), self.rnd.randrange(3), len(self.keys) + 1))

    def breaks(self, one_in):
        if self.rnd.randrange(3) == 0:
            self.publish()
        return one_in and self.rnd.randrange(one_in) == 0

    def give(self, key):
        assert self.resume.is_new(*key) == (key[2] not in self.delivered), key
        self.delivered.add(key[2])

    def connection(self, one_in):
        """False: it broke."""
        since, offset = self.resume.begin()
        edge, at = len(self.keys), offset - 1
        if not offset:
            at = edge
            for key in sorted(self.keys):
                if self.breaks(one_in):
                    return False
                if key[0] >= since:
                    self.give(key)
            if not self.resume.caught_up():
                return False
        while at < len(self.keys) or len(self.keys) < self.limit:
            if self.breaks(one_in):
                return False
            while at >= len(self.keys):
                self.publish()
            if self.keys[at][0] >= since:
                self.give(self.keys[at])
            at += 1
            if offset and at == edge:
                assert self.resume.caught_up()
        return True


def test_nothing_is_lost_or_repeated_by_resuming():
    for seed in range(600):
        model = Model(seed)
        breaks, one_in = model.rnd.randrange(20), model.rnd.randint(1, 40)
        while not model.connection(one_in if breaks else 0):
            model.resume.broke()
            breaks -= breaks > 0
        assert model.delivered == {key[2] for key in model.keys if key[0] >= model.since}


# ---- a server that misbehaves ----

def test_publishing_again_is_harmless(stock, stock_client):
    stock.break_publish_after = [0, 0, None]
    done = stock_client.publish("s", 1, b"a")
    assert done.duplicate and done.offset == 1
    stock.break_publish_after = [2, 0, None]
    assert [p.offset for p in stock_client.publish_many("s", [b"b", b"c", b"d", b"e"])] == [2, 3, 4, 5]
    assert [f.payload for f in stock.frames] == [b"a", b"b", b"c", b"d", b"e"]


def test_without_a_name_the_outcome_is_unknown(stock):
    with ordinal.Client(stock.address, again=False) as client:
        stock.break_publish_after = [0, 2]
        with pytest.raises(ordinal.OutcomeUnknown):
            client.publish("s", 1, b"a")
        done = []
        with pytest.raises(ordinal.OutcomeUnknown) as e:
            done.extend(client.publish_many("s", [b"b"] * 10))
        assert len(done) <= 2 and 1 <= e.value.frames <= 10
        with pytest.raises(ordinal.Invalid, match="not liked"):
            client.publish("s", 1, b"refuse")


@pytest.mark.parametrize("seed", range(4))
def test_history_that_breaks_is_read_once(stock, stock_client, seed):
    rnd = random.Random(seed)
    for i in range(80):
        stock.add(rnd.randrange(12), b"%d" % i, rnd.randrange(3))
    stock.break_after = [rnd.randrange(25) for _ in range(8)]
    stock.publish_while = lambda n: rnd.randrange(4) or len(stock.frames) > 200 or stock.add(rnd.randrange(12), b"late", rnd.randrange(3))
    got = [p.offset for p in history(stock_client, since=2)]
    expected = sorted(f.offset for f in stock.frames if f.seq_no >= 2)
    assert sorted(got) == expected[:len(got)] and max(got) >= 80 - 3


def test_live_that_breaks_is_taken_up(stock, stock_client):
    stock.break_after = [1 + 3, 2, 5, None]
    subscription = stock_client.subscribe("s")
    threading.Thread(target=lambda: [stock.add(n, b"x") for n in range(30)]).start()
    assert sorted(next(subscription).offset for _ in range(30)) == list(range(1, 31))
    subscription.close()


def test_damage_is_found(stock, stock_client):
    stock.add(1, b"good")
    stock.add(2, b"bad")
    stock.spoil = lambda frame, data: data[:-1] + bytes([data[-1] ^ 1]) if frame.offset == 2 else data
    subscription = stock_client.subscribe("s")
    assert next(subscription) == b"good"
    with pytest.raises(ordinal.Damaged):
        next(subscription)


def test_a_gap_is_told(stock, stock_client, caplog):
    stock.add(1, b"a")
    kinds = {0: None}

    def spoil(frame, data):
        if frame.mark == 0 and kinds.pop(0, 1) is None:
            return stock.encode(stock.pb.Frame(mark="MARK_GAP", gap_from=3, gap_to=5))
        return data

    stock.spoil = spoil
    gaps = []
    assert history(stock_client, on_gap=lambda *gap: gaps.append(gap)) == []
    assert gaps == [(3, 5)]
    kinds[0] = None
    assert history(stock_client) == []
    assert "offsets 3 to 5 are gone" in caplog.text


@pytest.mark.parametrize("frame", [{"offset": 2**64 - 1}, {"offset": 0}, {"mark": "MARK_GAP", "gap_from": 1, "gap_to": 2**64 - 1},
                                   {"mark": "MARK_GAP", "gap_from": 5, "gap_to": 4}, {"mark": "MARK_CAUGHT_UP", "offset": 2**64 - 1}])
def test_an_offset_that_cannot_be_is_an_error(stock, stock_client, frame):
    """D6: what a server says is bounded where it comes in."""
    stock.add(1, b"payload")
    stock.spoil = lambda *_: stock.encode(stock.pb.Frame(payload=b"impossible", **frame))
    with pytest.raises(ordinal.Error, match="impossible offset"):
        history(stock_client)


@pytest.mark.parametrize("first,count", [(0, 3), (1, 0), (1, 4), (1, 2**32 - 1), (2**64 - 2, 3)])
def test_ids_that_cannot_be_are_an_error(stubs, first, count):
    """A count of 0 was asked for again without end, one of 2^32 - 1 became a list of so many."""
    def answer(request, context):
        return stubs.pb.NextReply(first=first, count=count)

    handler = grpc.unary_unary_rpc_method_handler(answer, stubs.pb.NextRequest.FromString, stubs.pb.NextReply.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ordinal.v1.Ids", {"Next": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with ordinal.Client(f"127.0.0.1:{port}") as c, pytest.raises(ordinal.Error, match="no 3 IDs that rise"):
            c.next("s", 3)
    finally:
        server.stop(None).wait()
