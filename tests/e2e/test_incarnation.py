"""Incarnations, end to end: a sequence and a stream have a number for this life of theirs, which replies and marks carry. Whoever goes on with a stream that does not
have the frames any more that were read is told so: stock gRPC, native framing, the command line, Python.

The loss of a stream is made here as it comes about: a stream that is kept in memory and a daemon that is started again; folders that are gone."""

import json
import logging
import os
import shutil
import struct
import subprocess
import tarfile
import threading

import grpc
import pytest

import appliance
import native
from appliance import ORDINAL, PATIENCE_S, tool
from native import Client, next_request
from test_python_client import ordinal

PUBLISH, SUBSCRIBE = 3, 5
FRAMES, SIZE = 400, 60_000
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def pb(stubs):
    return stubs.pb


@pytest.fixture
def feed(connect, stubs):
    return lambda d: stubs.rpc.FeedStub(connect(d).channel)


@pytest.fixture(params=["memory", "fsync"])
def durability(request):
    return request.param


@pytest.fixture
def forgetful(daemon):
    """A daemon that keeps streams in memory, on a port that stays."""
    d = daemon(SHARDS=2, FEED_DURABILITY="memory")
    d.options["LISTEN"] = d.address
    return d


def restart(d):
    d.stop()
    d.start()


def publish(f, pb, *payloads, stream="s"):
    """The answers."""
    return [f.Publish(pb.PublishRequest(stream=stream, seq_no=i, payload=p.encode()), timeout=PATIENCE_S) for i, p in enumerate(payloads)]


def messages(f, pb, count, **fields):
    """The first messages of a subscription."""
    call = f.Subscribe(pb.SubscribeRequest(stream="s", **fields), timeout=PATIENCE_S)
    got = [next(call) for _ in range(count)]
    call.cancel()
    return got


def refusal(f, pb, **fields):
    """The words with which a subscription is OUT_OF_RANGE; nothing may come before."""
    call = f.Subscribe(pb.SubscribeRequest(stream="s", **fields), timeout=PATIENCE_S)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE, caught.value
    return caught.value.details()


# ---- sequences ----


def numbers_of_ids(d, connect, pb):
    """What both protocols and both methods say of two sequences."""
    ids = connect(d)
    said = {}
    for name in ("", "orders"):
        told = {ids.Next(pb.NextRequest(sequence=name, count=3)).incarnation}
        told |= {r.incarnation for r in ids.Take(iter([pb.NextRequest(sequence=name)] * 3))}
        with Client(d) as c:
            told.add(native.incarnation(c.call(next_request(name)).payload))
        assert len(told) == 1 and 0 not in told, told
        said[name] = told.pop()
    assert said[""] != said["orders"]
    return said


def test_every_reply_tells_the_sequences_incarnation(daemon, connect, pb):
    d = daemon(SHARDS=2)
    first = numbers_of_ids(d, connect, pb)
    restart(d)
    assert numbers_of_ids(d, connect, pb) == first
    d.kill()
    d.start()
    assert numbers_of_ids(d, connect, pb) == first
    shown = {s["name"]: s["incarnation"] for s in d.stats()["sequences"]}
    assert {name: str(number) for name, number in first.items()} == shown
    report = json.loads(tool("next", "--server", d.address, "--sequence", "orders", "--json").stdout)
    assert report["incarnation"] == str(first["orders"])


def test_lost_ids_begin_another_incarnation(daemon, connect, pb):
    d = daemon(SHARDS=1)
    first = numbers_of_ids(d, connect, pb)
    d.stop()
    shutil.rmtree(d.data / "ids")
    subprocess.run([appliance.ORDINALD, "-o", f"DATA_DIR={d.data}", "--accept-loss", "ids"], check=True, capture_output=True)
    d.start()
    now = numbers_of_ids(d, connect, pb)
    assert now[""] not in first.values() and now["orders"] not in first.values()


@pytest.mark.parametrize("how", ["clean", "killed"])
def test_sequences_and_streams_of_an_older_version_get_one_that_stays(daemon, connect, pb, feed, tmp_path, how):
    with tarfile.open(os.path.join(HERE, "data", "before-manifests.tar.xz")) as tar:
        tar.extractall(tmp_path / "old")
    d = daemon.prepare(SHARDS=1, DATA_DIR=tmp_path / "old" / how)
    d.start()
    shown = [{s["name"]: s["incarnation"] for s in d.stats()[of]} for of in ("sequences",)]
    streams = {s["name"]: s["incarnation"] for s in d.stats()["streams"]["by_name"]}
    assert set(shown[0]) == {"", "orders"} and set(streams) == {"ticks", "a b", ""}
    d.kill() # before anybody has used one
    d.start()
    assert {s["name"]: s["incarnation"] for s in d.stats()["sequences"]} == shown[0]
    assert {s["name"]: s["incarnation"] for s in d.stats()["streams"]["by_name"]} == streams
    assert connect(d).Next(pb.NextRequest(sequence="orders")).incarnation == int(shown[0]["orders"])
    assert feed(d).Publish(pb.PublishRequest(stream="ticks", seq_no=9)).incarnation == int(streams["ticks"])


# ---- streams, to stock clients ----


def test_replies_and_marks_tell_the_streams_incarnation(daemon, feed, pb, durability):
    d = daemon(SHARDS=2, FEED_DURABILITY=durability)
    f = feed(d)
    number = publish(f, pb, "a")[0].incarnation
    assert number
    many = list(f.PublishMany(iter([pb.PublishRequest(stream="s", seq_no=1)] * 3), timeout=PATIENCE_S))
    assert {r.incarnation for r in many} == {number}
    assert publish(f, pb, "b", stream="t")[0].incarnation != number
    history = messages(f, pb, 5)
    assert [m.mark for m in history] == [0, 0, 0, 0, pb.MARK_CAUGHT_UP]
    assert [m.incarnation for m in history] == [0, 0, 0, 0, number], "frames do not carry it"
    began = messages(f, pb, 2, mark_begin=True)
    assert (began[0].mark, began[0].offset, began[0].incarnation) == (pb.MARK_RESUMED, 0, number) and began[1].offset == 1
    resumed = messages(f, pb, 4, resume_offset=3, incarnation=number)
    assert [(m.mark, m.offset) for m in resumed] == [(pb.MARK_RESUMED, 3), (0, 3), (0, 4), (pb.MARK_CAUGHT_UP, 4)]
    assert [m.incarnation for m in resumed] == [number, 0, 0, number]
    call = f.Subscribe(pb.SubscribeRequest(stream="s"), timeout=PATIENCE_S)
    assert [next(call).mark for _ in range(5)][-1] == pb.MARK_CAUGHT_UP
    d.stop()
    away = next(call)
    assert away.mark == pb.MARK_GOING_AWAY and away.incarnation == number
    assert next((s["incarnation"] for s in restarted_streams(d) if s["name"] == "s"), None) == (str(number) if durability == "fsync" else None)


def restarted_streams(d):
    d.start()
    return d.stats()["streams"]["by_name"]


def test_a_stock_client_is_told_of_another_incarnation(forgetful, feed, pb):
    """A2: five frames were read, the daemon was started again, seven others were published: frames 1 to 5 of these were lost to the subscriber."""
    f = feed(forgetful)
    was = publish(f, pb, *"abcde")[0].incarnation
    restart(forgetful)
    now = publish(f, pb, *"ABCDEFG")[0].incarnation
    assert now != was
    words = refusal(f, pb, resume_offset=6, incarnation=was)
    assert str(was) in words and str(now) in words and "replay_seq_no_start" in words
    assert str(now) in refusal(f, pb, incarnation=was), "sorted history can be gone on with, too"
    first = messages(f, pb, 1, resume_offset=6)[0]
    assert first.mark == pb.MARK_RESUMED and first.incarnation == now, "a client that sends none can compare"
    assert [m.payload for m in messages(f, pb, 7)] == [c.encode() for c in "ABCDEFG"]


def test_an_offset_beyond_the_end_is_never_clamped(daemon, feed, pb, durability):
    d = daemon(SHARDS=2, FEED_DURABILITY=durability)
    f = feed(d)
    publish(f, pb, *"abcdefgh")
    assert "offset 8" in refusal(f, pb, resume_offset=1000)
    assert "offset 8" in refusal(f, pb, resume_offset=10)
    resumed = messages(f, pb, 2, resume_offset=9)
    assert [(m.mark, m.offset) for m in resumed] == [(pb.MARK_RESUMED, 9), (pb.MARK_CAUGHT_UP, 8)]


def test_a_resume_into_what_is_gone_names_the_gap(daemon, feed, pb):
    d = daemon(SHARDS=1, FEED_SEGMENT_BYTES=1 << 20, FEED_MEMORY_BYTES=1 << 20, FEED_FRAME_MAX=100_000, FEED_RETAIN_BYTES=1 << 20)
    f = feed(d)
    number = 0
    for reply in f.PublishMany(iter([pb.PublishRequest(stream="s", seq_no=1, payload=bytes(50_000))] * 100), timeout=PATIENCE_S):
        number = reply.incarnation
    appliance.wait_until(lambda: d.stats()["streams"]["by_name"][0]["first_offset"] > 1, "old segments to go")
    resumed, gap, frame = messages(f, pb, 3, resume_offset=1, incarnation=number)
    assert resumed.mark == pb.MARK_RESUMED and resumed.offset > 1 and resumed.incarnation == number
    assert gap.mark == pb.MARK_GAP and (gap.gap_from, gap.incarnation) == (1, number) and gap.gap_to >= resumed.offset - 1
    assert frame.offset == gap.gap_to + 1


def test_a_folder_that_is_gone_begins_another_incarnation(daemon, feed, pb):
    d = daemon(SHARDS=1)
    f = feed(d)
    was = publish(f, pb, *"abc")[0].incarnation
    kept = publish(f, pb, "x", stream="kept")[0].incarnation
    d.stop()
    shutil.rmtree(d.data / "stream.s")
    subprocess.run([appliance.ORDINALD, "-o", f"DATA_DIR={d.data}", "--accept-loss", "s"], check=True, capture_output=True)
    d.start()
    f = feed(d)
    assert str(was) in refusal(f, pb, resume_offset=4, incarnation=was)
    assert publish(f, pb, "d")[0].incarnation != was
    assert publish(f, pb, "y", stream="kept")[0].incarnation == kept


# ---- native framing ----


def fields_of(p):
    """Numbers by field, of a Frame or a PublishReply."""
    out, at = {}, 0
    while at < len(p):
        tag, at = native.get_varint(p, at)
        if tag & 7 == 0:
            out[tag >> 3], at = native.get_varint(p, at)
        elif tag & 7 == 1:
            (out[tag >> 3],), at = struct.unpack_from("<Q", p, at), at + 8
        elif tag & 7 == 2:
            n, at = native.get_varint(p, at)
            out[tag >> 3], at = p[at:at + n], at + n
        else:
            (out[tag >> 3],), at = struct.unpack_from("<I", p, at), at + 4
    return out


def test_native_framing_tells_the_same(forgetful, pb):
    d = forgetful
    with Client(d) as c:
        was = fields_of(c.call(pb.PublishRequest(stream="s", seq_no=1, payload=b"x").SerializeToString(), method=PUBLISH).payload)[5]
    restart(d)
    with Client(d) as c:
        now = fields_of(c.call(pb.PublishRequest(stream="s", seq_no=1, payload=b"y").SerializeToString(), method=PUBLISH).payload)[5]
        assert now != was
        for request, status in ((dict(resume_offset=2, incarnation=was), 11), (dict(resume_offset=3), 11)):
            end = c.call(pb.SubscribeRequest(stream="s", **request).SerializeToString(), method=SUBSCRIBE)
            assert end.kind == native.END and end.code == status and (str(now).encode() in end.payload or b"offset 1" in end.payload), end
        c.send(native.request(5, pb.SubscribeRequest(stream="s", resume_offset=1, incarnation=now).SerializeToString(), method=SUBSCRIBE))
        resumed, frame, caught_up = (fields_of(c.get().payload) for _ in range(3))
        assert (resumed[5], resumed[4], resumed[10]) == (4, 1, now)
        assert frame[2] == b"y" and 10 not in frame
        assert (caught_up[5], caught_up[10]) == (1, now)


# ---- the command line ----


class Reader:
    """`ordinal subscribe --json` in the background."""

    def __init__(self, d, *args):
        argv = [ORDINAL, "subscribe", "--server", d.address, "--stream", "s", "--json", *args]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.objects = []
        self.thread = threading.Thread(target=lambda: self.objects.extend(map(json.loads, iter(self.process.stdout.readline, ""))))
        self.thread.start()

    def wait_for(self, count):
        """So many frames."""
        appliance.wait_until(lambda: sum("mark" not in o for o in list(self.objects)) >= count or self.process.poll() is not None, "frames")

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        said = self.process.stderr.read()
        self.process.wait(PATIENCE_S)
        self.thread.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return said


@pytest.mark.parametrize("protocol", ["grpc", "native"])
@pytest.mark.parametrize("args", [[], ["--reorder", "5ms"]], ids=["plain", "reorder"])
def test_the_command_goes_on_with_another_incarnation_from_its_beginning(forgetful, feed, pb, protocol, args):
    """A2: the frames of the new log that had the offsets of the old one's were left out, without a word and with exit code 0."""
    f = feed(forgetful)
    was = publish(f, pb, *"abcde")[0].incarnation
    reader = Reader(forgetful, "--protocol", protocol, *args)
    try:
        reader.wait_for(5)
        appliance.wait_until(lambda: any(o.get("mark") == "CAUGHT_UP" for o in list(reader.objects)), "CAUGHT_UP")
        restart(forgetful)
        now = publish(feed(forgetful), pb, *"ABCDEFG")[0].incarnation
        reader.wait_for(12)
        assert reader.process.poll() is None
    finally:
        said = reader.end()
    frames = [o["payload"] for o in reader.objects if "mark" not in o]
    assert frames == list("abcde") + list("ABCDEFG")
    begun = [o for o in reader.objects if o.get("mark") == "NEW_INCARNATION"]
    assert begun == [{"mark": "NEW_INCARNATION", "incarnation": str(now), "was": str(was)}]
    assert str(now) in said and str(was) in said and "gone" in said


def test_the_command_is_told_in_the_midst_of_history(forgetful, feed, pb, tmp_path):
    """Its output is not read, so that it stands in the history when the daemon is started again."""
    payloads = [b"%d" % i + b"." * SIZE for i in range(FRAMES)]
    replies = list(feed(forgetful).PublishMany(iter([pb.PublishRequest(stream="s", seq_no=i, payload=p) for i, p in enumerate(payloads)]),
                                               timeout=PATIENCE_S))
    argv = [ORDINAL, "subscribe", "--server", forgetful.address, "--stream", "s", "--until-caught-up"]
    with open(tmp_path / "said", "w", encoding="utf-8") as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
    try:
        lines = [process.stdout.readline()[:-1]]
        forgetful.kill()
        forgetful.start()
        publish(feed(forgetful), pb, "new1", "new2")
        lines += process.stdout.read().splitlines()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.stdout.close()
    assert 1 <= len(lines) - 2 < FRAMES, "pipes and windows have no room for all of it"
    assert lines[-2:] == [b"new1", b"new2"] and lines[:-2] == payloads[:len(lines) - 2]
    assert str(replies[0].incarnation) in (tmp_path / "said").read_text()


def test_a_publisher_is_told_that_its_frames_are_gone(forgetful):
    process = subprocess.Popen([ORDINAL, "publish", "--server", forgetful.address, "--stream", "s", "--publisher", "me", "--json"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdin.write("a\nb\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        restart(forgetful)
        process.stdin.write("c\n")
        process.stdin.close()
        answers.append(json.loads(process.stdout.readline()))
        assert process.wait(PATIENCE_S) == 0
        said = process.stderr.read()
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
    was, now = answers[0]["incarnation"], answers[2]["incarnation"]
    assert was != now and [a["offset"] for a in answers] == [1, 2, 1]
    assert f"in incarnation {now}" in said and was in said and "the 2 frames" in said, said


# ---- Python ----


def test_python_says_that_what_was_read_is_gone(forgetful, feed, pb, caplog):
    with ordinal.Client(forgetful.address) as client:
        published = client.publish("s", 1, b"a")
        assert published.incarnation and len(published) == 4
        got = client.subscribe("s")
        assert next(got) == b"a"
        was = got.incarnation
        assert was == published.incarnation
        restart(forgetful)
        with caplog.at_level(logging.WARNING, "ordinal"):
            assert client.publish("s", 1, b"A").incarnation != was
        assert "another incarnation" in caplog.text and str(was) in caplog.text
        with pytest.raises(ordinal.NewIncarnation) as caught:
            next(got)
        assert caught.value.was == was and str(was) in str(caught.value)
        assert isinstance(caught.value, ordinal.Error)
        assert next(client.subscribe("s")) == b"A", "it can be read again"


def test_python_goes_on_with_another_incarnation_where_that_is_wanted(forgetful):
    told = []
    with ordinal.Client(forgetful.address) as client:
        list(client.publish_many("s", [b"a", b"b", b"c"]))
        got = client.subscribe("s", on_incarnation=lambda now, was: told.append((now, was)))
        assert [next(got) for _ in range(3)] == [b"a", b"b", b"c"]
        was = got.incarnation
        restart(forgetful)
        now = client.publish("s", 1, b"A").incarnation
        list(client.publish_many("s", [b"B", b"C", b"D"]))
        assert [next(got) for _ in range(4)] == [b"A", b"B", b"C", b"D"]
        assert told == [(now, was)] and got.incarnation == now


def test_python_knows_the_incarnation_of_a_sequence(server, connect, pb):
    with ordinal.Client(server.address) as client:
        assert client.incarnation("orders") == 0
        client.next("orders", count=3)
        assert client.incarnation("orders") == connect(server).Next(pb.NextRequest(sequence="orders")).incarnation
