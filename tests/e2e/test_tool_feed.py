"""`ordinal publish`, `subscribe` and `top`; and `ordinal load` with frames."""

import base64
import hashlib
import json
import os
import pty
import random
import select
import signal
import subprocess
import threading
import time

import pytest

import appliance
from appliance import ORDINAL, load, tool
from stock_feed import StockFeed

PROTOCOLS = ["native", "grpc"]


def publish(server, *args, input=None, check=True, protocol=None):
    """`ordinal publish --json`: (exit code, objects, standard error)."""
    argv = [ORDINAL, "publish", "--server", server.address, "--json", *(["--protocol", protocol] if protocol else []), *map(str, args)]
    done = subprocess.run(argv, input=input, capture_output=True, timeout=120)
    if check:
        assert done.returncode == 0, done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def frames(server, *args, stream="s", protocol="grpc", check=True):
    """`ordinal subscribe --json`: (objects of frames, objects of marks)."""
    done = tool("subscribe", "--server", server.address, "--stream", stream, "--json", "--protocol", protocol, *args, check=check)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    return [o for o in objects if "mark" not in o], [o for o in objects if "mark" in o]


class Reader:
    """`ordinal subscribe --json` in the background."""

    def __init__(self, server, *args, stream="s", protocol="grpc"):
        argv = [ORDINAL, "subscribe", "--server", server.address, "--stream", stream, "--json", "--protocol", protocol, *map(str, args)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.objects = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.objects.append(json.loads(line))

    def offsets(self):
        return [o["offset"] for o in list(self.objects) if "mark" not in o]

    def marks(self):
        return [o["mark"] for o in list(self.objects) if "mark" in o]

    def wait_for(self, condition, what):
        appliance.wait_until(lambda: condition() or self.process.poll() is not None, what)
        assert condition(), (what, self.process.poll(), self.objects[-3:])

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        self.thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def reader():
    readers = []

    def start(*args, **options):
        readers.append(Reader(*args, **options))
        return readers[-1]

    yield start
    for r in readers:
        r.end()


@pytest.fixture
def stock(stubs):
    s = StockFeed(stubs)
    yield s
    s.stop()


# ---- publish, subscribe ----

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_published_is_read(server, protocol):
    _, answers, _ = publish(server, "--stream", "s", "one", "two", "three", protocol=protocol)
    assert [(a["seq_no"], a["offset"], a["durability"], a["duplicate"]) for a in answers] == [
        (n, n, "fsync", False) for n in (1, 2, 3)]
    got, marks = frames(server, "--until-caught-up", protocol=protocol)
    assert [(f["payload"], f["seq_no"], f["offset"], f["timestamp"]) for f in got] == [
        (text, a["seq_no"], a["offset"], a["timestamp"]) for text, a in zip(["one", "two", "three"], answers)]
    assert [m["mark"] for m in marks] == ["CAUGHT_UP"]


def test_text_output(server):
    done = tool("publish", "--server", server.address, "--stream", "s", "--timestamp", 5, "a b", "")
    assert done.stdout == "1 fsync\n2 fsync\n"
    done = tool("subscribe", "--server", server.address, "--stream", "s", "--until-caught-up")
    assert done.stdout == "a b\n\n"
    assert done.stderr == "ordinal: CAUGHT_UP\n"
    assert tool("publish", "--server", server.address, "--stream", "s", "--quiet", "x").stdout == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lines_of_standard_input(server, protocol):
    lines = [b"%d \xff\x00" % i for i in range(5000)] + [b"", b"\xe2\x82\xac last, without a newline"]
    _, answers, _ = publish(server, "--stream", "s", "--seq-start", 100, input=b"\n".join(lines), protocol=protocol)
    assert [a["offset"] for a in answers] == list(range(1, 5003))
    got, _ = frames(server, "--until-caught-up", protocol=protocol)
    assert [f["seq_no"] for f in got] == list(range(100, 5102))
    payloads = [f["payload"].encode() if "payload" in f else base64.b64decode(f["payload_base64"]) for f in got]
    assert payloads == lines


def test_lines_are_sent_as_they_come(server):
    p = subprocess.Popen([ORDINAL, "publish", "--server", server.address, "--stream", "s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for n in (1, 2, 3):
        p.stdin.write(b"line\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"%d fsync\n" % n
    p.stdin.close()
    assert p.wait(60) == 0
    p.stdout.close()


def test_since_and_count(server):
    publish(server, "--stream", "s", *map(str, range(1, 11)))
    got, _ = frames(server, "--since", 4, "--count", 3)
    assert [f["payload"] for f in got] == ["4", "5", "6"]
    publish(server, "--stream", "s", "--seq", 7, "late")
    got, _ = frames(server, "--since", 6, "--until-caught-up")
    assert [f["payload"] for f in got] == ["6", "7", "late", "8", "9", "10"]


def test_history_then_live(server, reader):
    publish(server, "--stream", "s", "a")
    r = reader(server)
    r.wait_for(lambda: r.marks() == ["CAUGHT_UP"], "CAUGHT_UP")
    publish(server, "--stream", "s", "--seq", 0, "b")
    r.wait_for(lambda: len(r.offsets()) == 2, "the live frame")
    assert [o.get("payload", o.get("mark")) for o in r.objects] == ["a", "CAUGHT_UP", "b"]


def test_a_reader_goes_on_across_restarts(daemon, reader):
    d = daemon()
    d.options["LISTEN"] = d.address  # the same again
    publish(d, "--stream", "s", *map(str, range(100)))
    r = reader(d)
    r.wait_for(lambda: "CAUGHT_UP" in r.marks(), "CAUGHT_UP")
    for how in ("stop", "kill"):
        getattr(d, how)()
        d.start()
        before = len(r.offsets())
        publish(d, "--stream", "s", *map(str, range(100)))
        r.wait_for(lambda: len(r.offsets()) == before + 100, "what was published meanwhile")
    assert r.offsets() == list(range(1, 301))
    assert "GOING_AWAY" in r.marks()


def test_a_publisher_goes_on_across_a_kill(daemon):
    """Every line once, though the connection broke while many were unanswered."""
    d = daemon()
    d.options["LISTEN"] = d.address
    p = subprocess.Popen([ORDINAL, "publish", "--server", d.address, "--stream", "s", "--publisher", "me"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(p.stdout))
    thread.start()
    for i in range(6):
        for k in range(2000):
            p.stdin.write(b"%d\n" % (i * 2000 + k))
        p.stdin.flush()
        if i in (1, 3):
            appliance.wait_until(lambda: len(answers) > i * 1000, "answers")
            d.kill()
            d.start()
    p.stdin.close()
    assert p.wait(60) == 0
    thread.join()
    p.stdout.close()
    assert len(answers) == 12000
    got, _ = frames(d, "--until-caught-up")
    assert [f["payload"] for f in got] == [str(i) for i in range(12000)]
    assert [f["publisher_seq"] for f in got] == list(range(1, 12001))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stream_that_is_not_there_yet(daemon, reader, tmp_path, protocol):
    """A reader who may not make it was told NOT_FOUND, and not what to do."""
    rules = tmp_path / "access"
    rules.write_text("".join(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()} {right}\n"
                             for name, right in (("reader", "subscribe:*"), ("writer", "publish:*"))))
    for name in ("reader", "writer"):
        (tmp_path / name).write_text(name)
    d = daemon(SHARDS=2, ACCESS_FILE=rules)
    done = tool("subscribe", "--server", d.address, "--protocol", protocol, "--stream", "s", "--token-file", tmp_path / "reader", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "NOT_FOUND: " in done.stderr and "once somebody who may has published to it" in done.stderr and "--wait" in done.stderr
    r = reader(d, "--wait", "--count", 2, "--token-file", tmp_path / "reader", protocol=protocol)
    attempts = lambda: d.stats()["methods"]["ordinal.v1.Feed/Subscribe"]["by_status"]["NOT_FOUND"]
    r.wait_for(lambda: attempts() >= 4, "attempts")
    publish(d, "--stream", "s", "--token-file", tmp_path / "writer", "one", "two")
    r.wait_for(lambda: r.offsets() == [1, 2], "the frames")
    assert r.process.wait(appliance.PATIENCE_S) == 0
    said = r.process.stderr.read()
    assert said.count("NOT_FOUND") == 1 and said.count("waiting for it") == 1
    assert d.stats()["total"]["connections_accepted"] <= 3, "it asks again on the connection that it has"


def test_publishing_again_by_the_same_id_adds_nothing(server):
    _, first, _ = publish(server, "--stream", "s", "--publisher", "me", "a", "b")
    _, again, _ = publish(server, "--stream", "s", "--publisher", "me", "a", "b", "c")
    assert [a["duplicate"] for a in first] == [False, False]
    assert [(a["offset"], a["duplicate"]) for a in again] == [(1, True), (2, True), (3, False)]
    _, more, _ = publish(server, "--stream", "s", "--publisher", "me", "--publisher-seq", 4, "d")
    assert more[0]["offset"] == 4


@pytest.mark.parametrize("command", [["publish", "--stream", "s", "x"], ["subscribe", "--stream", "s"], ["load", "--method", "fanout"],
                                     ["load", "--method", "publish"], ["load", "--method", "subscribe"]])
def test_nobody_listens(command):
    done = tool(*command, "--server", "127.0.0.1:1", check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "127.0.0.1:1" in done.stderr and "Connection refused" in done.stderr


@pytest.mark.parametrize("args", [
    ["publish"], ["publish", "x"], ["publish", "--stream", "s", "--seq", "x"], ["publish", "--stream", "s", "--publisher-seq", "0"],
    ["subscribe"], ["subscribe", "--stream", "s", "more"], ["subscribe", "--stream", "s", "--slow", "never"], ["subscribe", "--stream", "s", "--reorder", "2m"],
    ["top", "more"], ["top", "--interval", "1us"], ["load", "--method", "publish", "--size", "5"],
    ["load", "--method", "fanout", "--subscribers", "0"], ["load", "--method", "subscribe", "--rate", "10"],
])
def test_wrong_usage_is_exit_code_2(args):
    done = tool(*args, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize("command", ["publish", "subscribe", "top"])
def test_help(command):
    done = tool(command, "--help")
    assert done.stdout.startswith(f"usage: ordinal {command} ")


# ---- against a server that misbehaves ----

def test_a_refused_payload_is_named(stock):
    code, answers, err = publish(stock, "--stream", "s", "a", "b", "refuse", "c", protocol="grpc", check=False)
    assert code == 1
    assert len(answers) == 2
    assert "INVALID_ARGUMENT: the payload is not liked" in err and "payload 3" in err


def test_without_an_id_a_broken_connection_leaves_doubt(stock):
    stock.break_publish_after = [2]
    code, answers, err = publish(stock, "--stream", "s", *"abcdef", protocol="grpc", check=False)
    assert code == 1
    assert len(answers) == 2
    assert "2 frames were acknowledged" in err and "not known" in err and "--publisher" in err


def test_with_an_id_it_is_sent_again(stock):
    stock.break_publish_after = [2, 0, None]
    _, answers, _ = publish(stock, "--stream", "s", "--publisher", "me", *"abcdef", protocol="grpc")
    assert [a["offset"] for a in answers] == [1, 2, 3, 4, 5, 6]
    assert [f.payload for f in stock.frames] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert answers[2]["duplicate"]


def test_history_that_breaks_is_read_once(stock):
    """Breaks within history, with equal seq_nos, while late frames come: nothing twice, nothing missed."""
    rnd = random.Random(5)
    for i in range(60):
        stock.add(rnd.randrange(10), str(i).encode(), rnd.randrange(3))
    stock.break_after = [7, 12, 0, 9, 3, 5, 0, 1]
    stock.publish_while = lambda n: rnd.randrange(4) or len(stock.frames) > 150 or stock.add(rnd.randrange(10), b"late", rnd.randrange(3))
    got, marks = frames(stock, "--since", 2, "--until-caught-up")
    assert len(stock.asked) >= 8
    expected = sorted(f.offset for f in stock.frames if f.seq_no >= 2)
    # What was published after the last subscription was caught up is not asked for.
    offsets = sorted(f["offset"] for f in got)
    assert offsets == expected[:len(offsets)] and offsets[-1] >= 60
    assert [m["mark"] for m in marks] == ["CAUGHT_UP"]


def test_live_frames_are_taken_up_where_they_broke(stock, reader):
    stock.break_after = [1 + 3, None]
    r = reader(stock)
    r.wait_for(lambda: "CAUGHT_UP" in r.marks(), "CAUGHT_UP")
    for i in range(10):
        stock.add(i, b"x")
    r.wait_for(lambda: len(r.offsets()) == 10, "all frames")
    assert r.offsets() == list(range(1, 11))
    assert [a.resume_offset for a in stock.asked] == [0, 1]


def flip(data):
    return data[:4] + bytes([data[4] ^ 1]) + data[5:]


def test_a_damaged_frame_is_never_printed(stock):
    for i in range(5):
        stock.add(i, b"payload")
    stock.spoil = lambda frame, data: flip(data) if frame.offset == 3 and not frame.mark else data
    done = tool("subscribe", "--server", stock.address, "--stream", "s", "--protocol", "grpc", check=False)
    assert done.returncode == 1
    assert done.stdout == "payload\n" * 2
    assert "offset 3 is damaged" in done.stderr


@pytest.mark.parametrize("frame", [{"offset": 2**64 - 1}, {"offset": 2**62 + 1}, {"offset": 0},
                                   {"mark": "MARK_GAP", "gap_from": 1, "gap_to": 2**64 - 1}, {"mark": "MARK_GAP", "gap_from": 5, "gap_to": 4},
                                   {"mark": "MARK_CAUGHT_UP", "offset": 2**64 - 1}, {"mark": "MARK_GOING_AWAY", "offset": 2**63}])
def test_an_offset_that_cannot_be_ends_the_subscription(stock, frame):
    """D6: what a server says is bounded where it comes in."""
    stock.add(1, b"payload")
    stock.spoil = lambda *_: stock.encode(stock.pb.Frame(payload=b"impossible", **frame))
    done = tool("subscribe", "--server", stock.address, "--stream", "s", "--protocol", "grpc", check=False)
    assert done.returncode == 1
    assert "no Frame" in done.stderr
    assert done.stdout == ""


def test_a_repeated_frame_is_the_servers_fault(stock):
    for i in range(5):
        stock.add(i, b"payload")
    first = []
    stock.spoil = lambda frame, data: (first.append(data), first[0])[1]
    done = tool("subscribe", "--server", stock.address, "--stream", "s", "--protocol", "grpc", check=False)
    assert done.returncode == 1
    assert done.stdout == "payload\n"
    assert "offset 1 twice" in done.stderr


def test_a_gap_is_told(stock):
    stock.add(1, b"kept")
    stock.add(2, b"gone")
    stock.spoil = lambda f, data: stock.encode(stock.pb.Frame(mark="MARK_GAP", gap_from=2, gap_to=9)) if f.offset == 2 and not f.mark else data
    argv = ["subscribe", "--server", stock.address, "--stream", "s", "--until-caught-up"]
    done = tool(*argv)
    assert (done.stdout, done.stderr) == ("kept\n", "ordinal: GAP: offsets 2 to 9 are gone\nordinal: CAUGHT_UP\n")
    done = tool(*argv, "--json")
    assert json.loads(done.stdout.splitlines()[1]) == {"mark": "GAP", "gap_from": 2, "gap_to": 9}


def test_a_reorder_window(server, reader):
    r = reader(server, "--reorder", "500ms")
    r.wait_for(lambda: "CAUGHT_UP" in r.marks(), "CAUGHT_UP")
    for seq_no in (5, 3, 4, 1, 2):
        publish(server, "--stream", "s", "--seq", seq_no, "x")
    r.wait_for(lambda: len(r.offsets()) == 5, "all frames")
    assert sorted(r.offsets()) == [1, 2, 3, 4, 5]


def test_what_is_asked_for(stock):
    tool("subscribe", "--server", stock.address, "--stream", "a b", "--since", 7, "--slow", "drop", "--reorder", "1.5s", "--until-caught-up")
    asked = stock.asked[0]
    assert (asked.stream, asked.replay_seq_no_start, asked.resume_offset) == ("a b", 7, 0)
    assert (asked.slow, asked.reorder_ms) == (stock.pb.SLOW_DROP, 1500)


# ---- top ----

def test_top_once_is_plain_text(server):
    load(server, "--requests", 100)
    done = tool("top", "--once", "--interval", "100ms", "--socket", server.stats_socket)
    assert "\033" not in done.stdout
    assert f"on {server.address} " in done.stdout
    assert "Ids/Next" in done.stdout and "SHARD" in done.stdout and "SEQUENCE" in done.stdout


def test_top_on_a_terminal(server):
    """It draws, ends with q, and gives the terminal back."""
    main, side = pty.openpty()
    p = subprocess.Popen([ORDINAL, "top", "--interval", "50ms", "--socket", str(server.stats_socket)], stdin=side, stdout=side, stderr=side)
    os.close(side)
    seen = b""

    def see(needle):
        nonlocal seen
        until = time.monotonic() + 60
        while needle not in seen:
            assert time.monotonic() < until, seen
            if select.select([main], [], [], 1)[0]:
                try:
                    seen += os.read(main, 65536)
                except OSError:
                    break
        assert needle in seen

    see(b"SHARD")
    seen = seen[-10:]
    see(b"SHARD")
    os.write(main, b"q")
    see(b"\033[?1049l")
    assert p.wait(60) == 0
    os.close(main)


def test_top_without_a_daemon(tmp_path):
    done = tool("top", "--once", "--socket", tmp_path / "none.sock", check=False)
    assert done.returncode == 3
    assert "none.sock" in done.stderr


# ---- load ----

@pytest.mark.parametrize("method", ["publish", "publish-many"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_publishes_exactly_what_it_says(server, protocol, method):
    report = load(server, "--method", method, "--requests", 3000, "--publishers", 4, "--threads", 2, "--protocol", protocol, "--size", 100)
    assert report["by_status"] == {"OK": 3000}
    assert report["items"] == 3000
    assert report["durability"] == "fsync"
    check = report["check"]
    assert (check["received"], check["repeated"], check["disordered"], check["missing"]) == (3000, 0, 0, 0)
    got, _ = frames(server, "--until-caught-up", stream="load")
    assert sorted(f["offset"] for f in got) == list(range(1, 3001))


@pytest.mark.parametrize("publishers, seq", [(1, "auto"), (5, "auto"), (5, "rising")])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_fans_out(server, protocol, publishers, seq):
    # An earlier run's frames are none of the next one's business.
    load(server, "--method", "publish-many", "--requests", 500)
    report = load(server, "--method", "fanout", "--requests", 2000, "--publishers", publishers, "--seq", seq, "--subscribers", 7,
                  "--subscriber-threads", 2, "--threads", 2, "--protocol", protocol)
    check = report["check"]
    assert (check["received"], check["repeated"], check["disordered"], check["missing"]) == (14000, 0, 0, 0)
    assert (check["fewest"], check["most"], check["crc_wrong"], check["gaps"]) == (2000, 2000, 0, 0)
    assert 0 < check["crc_verified"] <= 14000 + 7
    assert report["items"] == 14000
    assert report["publish"]["frames"] == 2000
    latency = report["latency_us"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert report["items_per_second"] > 0 and report["calls_per_second"] > 0


def test_load_fans_out_large_frames(server):
    report = load(server, "--method", "fanout", "--requests", 40, "--size", 1_000_000, "--subscribers", 3, "--verify", "all")
    assert report["check"]["received"] == 120
    assert report["check"]["crc_verified"] >= 120
    report = load(server, "--method", "fanout", "--requests", 40, "--size", 1_000_000, "--subscribers", 3, "--protocol", "native")
    assert report["check"]["received"] == 120


def test_load_fans_out_at_a_rate(server):
    report = load(server, "--method", "fanout", "--rate", 500, "--requests", 300, "--subscribers", 3)
    assert report["publish"]["frames"] == 300
    assert report["items"] == 900


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_reads_history(server, protocol):
    load(server, "--method", "publish-many", "--requests", 20000, "--seq", "rising", "--publishers", 3)
    report = load(server, "--method", "subscribe", "--subscribers", 4, "--protocol", protocol)
    check = report["check"]
    assert (check["received"], check["repeated"], check["disordered"], check["missing"]) == (80000, 0, 0, 0)
    assert (check["fewest"], check["most"], check["caught_up"]) == (20000, 20000, 4)
    publish(server, "--stream", "load", "--seq-start", 1, *"abcdef")
    report = load(server, "--method", "subscribe", "--since", 4)
    assert report["check"]["received"] == 20003
    report = load(server, "--method", "subscribe", "--stream", "nothing here")
    assert report["check"]["received"] == 0


def test_load_follows_another_program(server):
    p = appliance.load_begin(server, "--method", "subscribe", "--duration", 600, "--subscribers", 2)
    appliance.wait_until(lambda: server.stats()["streams"]["subscribers"] == 2, "subscribers")
    load(server, "--method", "publish", "--requests", 500)
    appliance.wait_until(lambda: server.stats()["streams"]["delivered"] >= 1000, "deliveries")
    p.send_signal(signal.SIGINT)
    code, report = appliance.load_end(p)
    assert code == 0, json.dumps(report)
    assert report["check"]["received"] == 1000
    assert report["latency_us"]["p50"] > 0


def test_load_says_when_a_server_goes_away(daemon):
    d = daemon()
    p = appliance.load_begin(d, "--method", "fanout", "--duration", 60, "--subscribers", 3)
    appliance.wait_until(lambda: d.stats()["streams"]["delivered"] > 100, "deliveries")
    d.kill()
    code, report = appliance.load_end(p)
    assert code == 1
    assert report["subscriptions_lost"] == 3
    assert (report["check"]["repeated"], report["check"]["disordered"]) == (0, 0)


def spoiled_load(stock, spoil, *args):
    stock.spoil = spoil
    return load(stock, "--method", "fanout", "--requests", 50, "--depth", 1, "--protocol", "grpc", *args, check=False)


def test_load_finds_damage(stock):
    report = spoiled_load(stock, lambda f, data: data[:-1] + bytes([data[-1] ^ 1]) if f.offset == 20 else data)
    assert report["check"]["crc_wrong"] == 1
    assert not report["check"]["ok"]


def test_load_finds_repeats_and_holes(stock):
    """Instead of the 20th frame, the 10th again."""
    kept = {}

    def spoil(frame, data):
        if frame.mark:
            return data
        kept[frame.offset] = data
        return kept[10] if frame.offset == 20 else data

    report = spoiled_load(stock, spoil)
    check = report["check"]
    assert (check["received"], check["repeated"] + check["disordered"], check["missing"]) == (50, 1, 1)
    assert not check["ok"]


def test_load_finds_disorder(stock):
    """The 20th frame comes after the 21st."""
    first = {}

    def swap(frame, data):
        first[frame.offset] = data
        if not frame.mark and frame.offset == 20:
            while len(stock.frames) < 21:
                time.sleep(0.01)
            return stock.encode(stock.frames[20])
        if not frame.mark and frame.offset == 21:
            return first[20]
        return data

    report = spoiled_load(stock, swap, "--depth", "2")
    check = report["check"]
    assert (check["received"], check["repeated"], check["disordered"], check["missing"]) == (50, 0, 1, 0)
    assert not check["ok"]
