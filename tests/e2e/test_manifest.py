"""What was in DATA_DIR and is gone, or is from elsewhere, is noticed at the start, named, and never taken for new.

data/before-manifests.tar.xz has two data directories of a version that had no manifest, `clean` and `killed`: the default sequence
is at 7, `orders` at 3; the stream `ticks` has frames one, two, three, `a b` four, and the default stream five.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile

import grpc
import pytest

import appliance
import native
from appliance import tool

HERE = os.path.dirname(os.path.abspath(__file__))


def next_id(d, sequence=""):
    return int(tool("next", "--server", d.address, "--sequence", sequence).stdout)


def publish(d, stream, *frames):
    tool("publish", "--server", d.address, "--stream", stream, *frames)


def frames(d, stream):
    return tool("subscribe", "--server", d.address, "--stream", stream, "--until-caught-up").stdout.split()


def fill(d):
    """Some IDs, and some frames in two streams."""
    d.start()
    assert next_id(d) == 1
    publish(d, "alpha", "a1", "a2")
    publish(d, "beta", "b1")
    d.stop()


def refused(d, *words):
    """It does not start, and says all of the words in one line."""
    code, said = d.start_refused()
    line = next(line for line in said.splitlines() if "cannot start" in line)
    assert code == 1 and all(word in line for word in words), said


def still_whole(d):
    d.start()
    assert next_id(d) == 2
    assert frames(d, "alpha") == ["a1", "a2"] and frames(d, "beta") == ["b1"]
    d.stop()


@pytest.fixture
def filled(daemon, tmp_path):
    d = daemon.prepare(SHARDS=1, DATA_WITNESS=tmp_path / "witness")
    fill(d)
    return d


@pytest.mark.parametrize("log, named", [("ids", "the IDs' log is missing"), ("stream.alpha", 'the stream "alpha" is missing')])
@pytest.mark.parametrize("how", ["moved", "emptied"])
def test_a_log_that_is_gone_is_not_begun_anew(filled, tmp_path, log, named, how):
    folder = filled.data / log
    os.rename(folder, tmp_path / "away")
    if how == "emptied":
        folder.mkdir()
    refused(filled, named, str(folder), f"--accept-loss {log.removeprefix('stream.')}")
    refused(filled, named)  # and not only once
    if how == "emptied":
        assert not list(folder.iterdir())
        folder.rmdir()
    os.rename(tmp_path / "away", folder)
    still_whole(filled)


def test_several_streams_that_are_gone_are_counted(filled, tmp_path):
    for log in ("stream.alpha", "stream.beta"):
        os.rename(filled.data / log, tmp_path / log)
    refused(filled, "is missing, and so are those of 1 more streams")
    os.rename(tmp_path / "stream.alpha", filled.data / "stream.alpha")
    refused(filled, 'the stream "beta" is missing', "--accept-loss beta")


@pytest.mark.parametrize("name", [".super", ".manifest"])
def test_the_journals_own_files_are_missed(filled, tmp_path, name):
    os.rename(filled.data / name, tmp_path / "away")
    refused(filled, str(filled.data / name), "the file is missing")
    os.rename(tmp_path / "away", filled.data / name)
    still_whole(filled)


def test_a_name_that_a_shell_would_split_is_told_by_its_log(daemon, tmp_path):
    d = daemon.prepare(SHARDS=1)
    d.start()
    publish(d, "a b", "x")
    d.stop()
    os.rename(d.data / "stream.a.20b", tmp_path / "away")
    refused(d, 'the stream "a b" is missing', "--accept-loss stream.a.20b`")


def test_the_ids_of_another_data_directory_are_refused(filled, daemon):
    other = daemon.prepare(SHARDS=1)
    fill(other)
    shutil.rmtree(filled.data / "ids")
    shutil.copytree(other.data / "ids", filled.data / "ids")
    refused(filled, str(filled.data / "ids" / f"{1:016x}"), 'of the log "ids" of another data directory')


def test_an_older_copy_of_the_ids_is_refused(filled, tmp_path):
    shutil.copytree(filled.data / "ids", tmp_path / "backup")
    for expected in (2, 3):
        filled.start()
        assert next_id(filled) == expected
        filled.stop()
    os.rename(filled.data / "ids", tmp_path / "today")
    shutil.copytree(tmp_path / "backup", filled.data / "ids")
    refused(filled, str(filled.data / "ids" / f"{1:016x}"), "or is an older copy")
    check_data(filled.data, 1, "ids: DAMAGED", "or is an older copy")
    shutil.rmtree(filled.data / "ids")
    os.rename(tmp_path / "today", filled.data / "ids")
    filled.start()
    assert next_id(filled) == 4
    filled.stop()


def test_the_ids_swapped_with_a_stream_are_refused(filled, tmp_path):
    os.rename(filled.data / "ids", tmp_path / "ids")
    os.rename(filled.data / "stream.alpha", filled.data / "ids")
    os.rename(tmp_path / "ids", filled.data / "stream.alpha")
    refused(filled, str(filled.data / "ids" / f"{1:016x}"), 'the file is a segment of the log "stream.alpha"')


@pytest.mark.parametrize("name, says", [(".super", "or .super is from another data directory"),
                                        (".manifest", "or .super is from another data directory")])
def test_a_file_of_another_data_directory_is_refused(filled, daemon, name, says):
    filled.options["DATA_WITNESS"] = ""
    other = daemon.prepare(SHARDS=1)
    fill(other)
    shutil.copy(other.data / name, filled.data / name)
    refused(filled, str(filled.data / ".manifest"), says)


def test_a_log_may_be_a_link_to_another_disk(filled, tmp_path):
    for log in ("ids", "stream.alpha"):
        os.rename(filled.data / log, tmp_path / log)
        os.symlink(tmp_path / log, filled.data / log)
    still_whole(filled)
    os.rename(tmp_path / "ids", tmp_path / "unmounted")
    refused(filled, "the IDs' log is missing")


def test_a_killed_daemon_leaves_nothing_that_looks_lost(daemon):
    d = daemon.prepare(SHARDS=1)
    for i in range(5):
        d.start()
        publish(d, f"stream-{i}", "x")
        d.kill()
    d.start()
    for i in range(5):
        assert frames(d, f"stream-{i}") == ["x"]
    d.stop()


# ---- directories from before there were manifests ----


def published(d, stubs, stream):
    """The reply to one more frame."""
    with grpc.insecure_channel(d.address) as channel:
        return stubs.rpc.FeedStub(channel).Publish(stubs.pb.PublishRequest(stream=stream, payload=b"one more"), timeout=appliance.PATIENCE_S)


@pytest.fixture(params=["clean", "killed"])
def old(request, daemon, tmp_path):
    with tarfile.open(os.path.join(HERE, "data", "before-manifests.tar.xz")) as tar:
        tar.extractall(tmp_path / "old")
    return daemon.prepare(SHARDS=1, DATA_DIR=tmp_path / "old" / request.param)


def test_a_directory_without_a_manifest_gets_one(old, tmp_path):
    data = old.options["DATA_DIR"]
    old.start()
    assert next_id(old) >= 8 and next_id(old, "orders") >= 4
    assert frames(old, "ticks") == ["one", "two", "three"] and frames(old, "a b") == ["four"] and frames(old, "") == ["five"]
    old.stop()
    assert (data / ".manifest").exists()
    os.rename(data / "stream.ticks", tmp_path / "away")
    refused(old, 'the stream "ticks" is missing')
    os.rename(tmp_path / "away", data / "stream.ticks")
    old.start()
    publish(old, "ticks", "more")
    assert sorted(frames(old, "ticks")) == ["more", "one", "three", "two"]  # each publisher counts its frames from 1
    old.stop()


def test_a_directory_without_a_manifest_that_has_streams_has_had_ids(old, tmp_path):
    os.rename(old.options["DATA_DIR"] / "ids", tmp_path / "away")
    refused(old, "the IDs' log is missing")
    os.rename(tmp_path / "away", old.options["DATA_DIR"] / "ids")
    old.start()
    assert next_id(old) >= 8
    old.stop()


# ---- ordinald --check-data, --quarantine ----


def ordinald(*args):
    return subprocess.run([appliance.ORDINALD, *map(str, args)], capture_output=True, text=True, timeout=appliance.PATIENCE_S,
                          stdin=subprocess.DEVNULL)


def tree(folder):
    """Every name, size, time of change and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        at = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (at.st_size, at.st_mtime_ns, at.st_ctime_ns, content)
    return found


def check_data(folder, code, *words):
    """It says all of the words, and changes nothing."""
    before = tree(folder)
    done = ordinald("--check-data", folder)
    assert done.returncode == code and all(word in done.stdout + done.stderr for word in words), done
    assert tree(folder) == before
    return done.stdout


def damage(path, byte=4096 + 60):
    """Changes one byte of a segment, in its first record behind the header by default."""
    with open(path, "r+b") as f:
        f.seek(byte)
        old = f.read(1)
        f.seek(byte)
        f.write(bytes([old[0] ^ 1]))


def segment(d, log, number=1):
    return d.data / log / f"{number:016x}"


def test_check_data_of_a_sound_directory(filled):
    check_data(filled.data, 0, "ids: sound, 1 sequences", 'stream "alpha": sound, 2 frames, offsets 1 to 2', 'stream "beta": sound, 1 frames',
               f"{filled.data}: sound, 3 logs")
    still_whole(filled)


def test_check_data_after_a_kill(filled):
    filled.start()
    publish(filled, "alpha", "a3")
    filled.kill()
    check_data(filled.data, 0, "not stopped cleanly", 'stream "alpha": sound, 3 frames')
    filled.start()
    assert sorted(frames(filled, "alpha")) == ["a1", "a2", "a3"]
    filled.stop()


def test_check_data_of_a_running_daemon(filled):
    filled.start()
    check_data(filled.data, 2, "a daemon runs on it")
    filled.stop()


def test_check_data_makes_no_directory(tmp_path):
    done = ordinald("--check-data", tmp_path / "not-there")
    assert done.returncode == 2 and "No such file or directory" in done.stderr and not (tmp_path / "not-there").exists()
    (tmp_path / "empty").mkdir()
    check_data(tmp_path / "empty", 2, "there is no journal here")


def test_check_data_names_each_damage(filled, tmp_path):
    damage(segment(filled, "stream.alpha"))
    os.rename(filled.data / "stream.beta", tmp_path / "away")
    check_data(filled.data, 1, "ids: sound", 'stream "alpha": DAMAGED', f"{segment(filled, 'stream.alpha')}: damaged at byte 4",
               "`ordinald --quarantine alpha`", 'stream "beta": MISSING', f"{filled.data}/stream.beta", "`ordinald --accept-loss beta`",
               "not sound: 2 things are wrong")
    damage(segment(filled, "ids"))
    check_data(filled.data, 1, "ids: DAMAGED", f"{segment(filled, 'ids')}: damaged at byte 4", "`ordinald --accept-loss ids`")
    os.rename(filled.data / "ids", tmp_path / "ids")
    check_data(filled.data, 1, "ids: MISSING", f"{filled.data}/ids", "`ordinald --accept-loss ids`")


@pytest.mark.parametrize("name, says", [(".super", "superblock: DAMAGED"), (".manifest", "manifest: DAMAGED")])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_check_data_names_the_journals_own_files(filled, name, says, how):
    path = filled.data / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    check_data(filled.data, 1, says, f"{path}: damaged at byte 0")


def test_check_data_names_files_of_elsewhere(filled, daemon):
    other = daemon.prepare(SHARDS=1)
    fill(other)
    for log in ("stream.alpha", "stream.beta"):
        os.rename(filled.data / log, filled.data / f"{log}.was")
    shutil.copytree(other.data / "stream.alpha", filled.data / "stream.alpha")
    os.rename(filled.data / "stream.alpha.was", filled.data / "stream.beta")
    shutil.rmtree(filled.data / "stream.beta.was")
    check_data(filled.data, 1, 'stream "alpha": DAMAGED', 'of the log "stream.alpha" of another data directory', 'stream "beta": DAMAGED',
               'is a segment of the log "stream.alpha"\n')


def test_check_data_of_an_old_directory(old):
    check_data(old.options["DATA_DIR"], 0, "ids: sound, 2 sequences", 'stream "ticks": sound, 3 frames', 'stream "a b": sound, 1 frames',
               'stream "": sound, 1 frames')


def test_check_data_finds_every_flipped_byte(filled):
    """A byte of every eighth of the used part of a stream's log."""
    path = segment(filled, "stream.alpha")
    used = len(path.read_bytes().rstrip(b"\0"))
    assert used > 4096
    for byte in [*range(0, 32, 5), *range(4096, used, 7)]:
        damage(path, byte)
        done = ordinald("--check-data", filled.data)
        assert done.returncode == 1 and f"{path}: damaged at byte " in done.stdout, (byte, done)
        damage(path, byte)
    check_data(filled.data, 0, 'stream "alpha": sound')


def test_quarantine_sets_one_stream_aside(filled):
    damage(segment(filled, "stream.alpha"))
    done = ordinald("-o", f"DATA_DIR={filled.data}", "--quarantine", "alpha")
    assert done.returncode == 0, done
    aside = list((filled.data / ".quarantine").glob("stream.alpha-*"))
    assert len(aside) == 1 and str(aside[0]) in done.stdout
    check_data(filled.data, 0, "ids: sound", 'stream "beta": sound', "sound, 2 logs")
    filled.start()
    assert frames(filled, "beta") == ["b1"] and next_id(filled) == 2
    publish(filled, "alpha", "anew")
    assert frames(filled, "alpha") == ["anew"]
    filled.stop()
    # Put over the new one, the old one is not taken for it; in its place, it is the stream again.
    os.rename(filled.data / "stream.alpha", filled.data / ".quarantine" / "new")
    damage(aside[0] / f"{1:016x}")
    os.rename(aside[0], filled.data / "stream.alpha")
    check_data(filled.data, 1, 'stream "alpha": DAMAGED', "from an earlier log of this name")
    os.rename(filled.data / "stream.alpha", aside[0])
    os.rename(filled.data / ".quarantine" / "new", filled.data / "stream.alpha")
    assert ordinald("-o", f"DATA_DIR={filled.data}", "--quarantine", "stream.alpha").returncode == 0
    os.rename(aside[0], filled.data / "stream.alpha")
    filled.start()
    assert frames(filled, "alpha") == ["a1", "a2"]
    filled.stop()


def test_quarantine_refuses(filled, tmp_path):
    at = f"DATA_DIR={filled.data}"
    before = tree(filled.data)
    for name, says in (("nobody", 'there is no stream "nobody"'), ("ids", "only a stream's log can be set aside"), ("x" * 65, "is not the name of a stream")):
        done = ordinald("-o", at, "--quarantine", name)
        assert done.returncode == 2 and says in done.stderr, done
    filled.start()
    done = ordinald("-o", at, "--quarantine", "alpha")
    assert done.returncode == 1 and "stop the daemon first" in done.stderr
    filled.stop()
    done = ordinald("-o", f"DATA_DIR={tmp_path / 'nowhere'}", "--quarantine", "alpha")
    assert done.returncode == 1 and not (tmp_path / "nowhere").exists()
    (tmp_path / "unmounted").mkdir()
    done = ordinald("-o", f"DATA_DIR={tmp_path / 'unmounted'}", "-o", f"DATA_WITNESS={tmp_path / 'witness'}", "--quarantine", "alpha")
    assert done.returncode == 1 and "is its disk mounted" in done.stderr and not list((tmp_path / "unmounted").iterdir())
    assert {name: what[3] for name, what in tree(filled.data).items() if "stream" in name} == \
        {name: what[3] for name, what in before.items() if "stream" in name}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_does_is_the_owners(filled, tmp_path):
    for path in [filled.data, *filled.data.rglob("*")]:
        os.chown(path, 65534, 65534)
    for path in [tmp_path, *tmp_path.parents][:3]:
        os.chmod(path, 0o755)
    assert ordinald("-o", f"DATA_DIR={filled.data}", "--quarantine", "beta").returncode == 0
    assert {path.lstat().st_uid for path in filled.data.rglob("*")} == {65534}


# ---- ordinald --accept-loss ----


def accept(d, *args, code=0):
    done = ordinald("-o", f"DATA_DIR={d.options['DATA_DIR']}", "--accept-loss", *args)
    assert done.returncode == code, done
    return done.stdout + done.stderr


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_the_loss_of_a_stream_is_accepted_on_purpose(filled, stubs, how):
    filled.start()
    before = published(filled, stubs, "alpha").incarnation
    filled.stop()
    shutil.rmtree(filled.data / "stream.alpha")
    if how == "empty":
        (filled.data / "stream.alpha").mkdir()
    refused(filled, "--accept-loss alpha")
    assert "every frame that was published to it is gone" in accept(filled, "alpha")
    check_data(filled.data, 0, "sound, 2 logs")
    filled.start()
    assert frames(filled, "beta") == ["b1"] and next_id(filled) == 2
    after = published(filled, stubs, "alpha")
    assert after.offset == 1 and after.incarnation not in (0, before)
    filled.stop()


def incarnation(d, sequence=b""):
    with native.Client(d) as c:
        return native.incarnation(c.call(native.next_request(sequence)).payload)


def test_the_loss_of_the_ids_is_accepted_on_purpose(filled):
    filled.start()
    before = [incarnation(filled), incarnation(filled, b"orders")]
    filled.stop()
    shutil.rmtree(filled.data / "ids")
    refused(filled, "the IDs' log is missing", "--accept-loss ids")
    said = accept(filled, "ids")
    assert "IDs are handed out AGAIN" in said and "another incarnation" in said
    filled.start()
    assert next_id(filled) == 1 and frames(filled, "alpha") == ["a1", "a2"]
    after = [incarnation(filled), incarnation(filled, b"orders")]
    assert 0 not in after and not set(before) & set(after)
    filled.stop()


def test_ids_begin_above_what_the_operator_knows(filled):
    shutil.rmtree(filled.data / "ids")
    assert "goes on above 5000" in accept(filled, "ids", "--above", 5000)
    for expected in (5001, 5002):
        filled.start()
        assert next_id(filled) == expected and next_id(filled, f"new-{expected}") == 5001
        filled.stop()


def test_what_can_be_read_of_damaged_ids_is_not_gone_below(daemon):
    d = daemon.prepare(SHARDS=1, WINDOW_MIN=10, WINDOW_MAX=10, COUNT_MAX=10)
    d.start()
    with native.Client(d) as c:
        for _ in range(20):
            last = c.next(count=10)[-1]
    assert next_id(d, "orders") == 1
    d.kill()
    damage(segment(d, "ids"))
    refused(d, f"{segment(d, 'ids')}: damaged at byte ", f"`ordinald --check-data {d.data}`")
    said = accept(d, "ids")
    assert 'the sequence "" goes on at ' in said and 'the sequence "orders" goes on at ' in said and "AGAIN" in said
    assert list((d.data / ".quarantine").glob("ids-*"))
    d.start()
    assert next_id(d) > last and next_id(d, "orders") > 1
    d.stop()


def test_a_lost_manifest_is_made_anew_on_purpose(filled):
    (filled.data / ".manifest").unlink()
    refused(filled, f"{filled.data}/.manifest", "the file is missing", f"`ordinald --check-data {filled.data}`")
    said = accept(filled, ".manifest")
    assert "ids\n" in said and "stream.alpha\n" in said and "stream.beta\n" in said
    still_whole(filled)


def test_nothing_is_lost_that_is_there(filled):
    for args, says in ((["alpha"], "there and whole"), (["ids"], "there and whole"), ([".manifest"], "is whole"), (["nobody"], "there is no stream"),
                       (["alpha", "--above", 5], "--above is for"), (["ids", "--above", "x"], "--above takes an ID"),
                       (["ids", "--above", 0], "--above takes an ID"), (["ids", "--above", 2**64 - 2], "--above takes an ID")):
        assert says in accept(filled, *args, code=2)
    damage(segment(filled, "stream.alpha"))
    assert "`ordinald --quarantine alpha` sets it aside" in accept(filled, "alpha", code=2)
    damage(segment(filled, "stream.alpha"))
    shutil.copy(filled.data / ".super", filled.directory / "super")
    (filled.data / ".super").unlink()
    for name in ("ids", "alpha", ".manifest"):
        assert "/.super: " in accept(filled, name, code=1)
    shutil.copy(filled.directory / "super", filled.data / ".super")
    filled.start()
    assert "stop the daemon first" in accept(filled, "ids", code=1)
    assert next_id(filled) == 2
    filled.stop()


# ---- one stream's damage ----


def data_loss(d, stubs, *words):
    """Publish, PublishMany and Subscribe, over gRPC and native framing, refuse the stream alpha with DATA_LOSS and all of the words."""
    words = ['stream "alpha"', "`ordinald --quarantine alpha`", f"{d.data}/stream.alpha/", *words]
    for args in (["publish", "--stream", "alpha", "x"], ["subscribe", "--stream", "alpha", "--until-caught-up"]):
        done = tool(*args, "--server", d.address, check=False)
        assert done.returncode != 0 and "DATA_LOSS" in done.stderr and all(word in done.stderr for word in words), done
    with grpc.insecure_channel(d.address) as channel:
        feed = stubs.rpc.FeedStub(channel)
        for call in (lambda: feed.Publish(stubs.pb.PublishRequest(stream="alpha")),
                     lambda: list(feed.PublishMany(iter([stubs.pb.PublishRequest(stream="alpha")]))),
                     lambda: list(feed.Subscribe(stubs.pb.SubscribeRequest(stream="alpha"))),
                     lambda: list(feed.Subscribe(stubs.pb.SubscribeRequest(stream="alpha", resume_offset=2)))):
            with pytest.raises(grpc.RpcError) as e:
                call()
            assert e.value.code() == grpc.StatusCode.DATA_LOSS and all(word in e.value.details() for word in words), e.value.details()


def others_are_served(d, next_expected):
    assert next_id(d) == next_expected and frames(d, "beta") == ["b1"]
    streams = d.stats()["streams"]
    assert streams["stopped"] == 1
    for stream in streams["by_name"]:
        assert stream["stopped"] == (stream["name"] == "alpha")
        assert ("why" in stream) == (stream["name"] == "alpha")
    metrics = d.get("/metrics")[1].decode()
    assert "\nordinal_streams_stopped 1\n" in metrics and '\nordinal_stream_stopped{stream="alpha"} 1\n' in metrics
    assert "1 streams take no frames any more" in d.get("/stats")[1].decode()


@pytest.mark.parametrize("shards", [1, 2])
def test_one_damaged_stream_stops_alone(filled, stubs, shards):
    filled.options["SHARDS"] = shards
    filled.options["FEED_RETAIN_FRAMES"] = 1
    damage(segment(filled, "stream.alpha"))
    before = tree(filled.data / "stream.alpha")
    for run in range(2):
        filled.start()
        said = filled.log_since_start()
        assert 'ERROR main: stream "alpha" is damaged and not served' in said and f"{segment(filled, 'stream.alpha')}: damaged at byte 4" in said
        data_loss(filled, stubs, "damaged at byte 4")
        others_are_served(filled, 2 + run)
        filled.stop()
        assert tree(filled.data / "stream.alpha") == before
    damage(segment(filled, "stream.alpha"))  # the other way round
    filled.start()
    assert frames(filled, "alpha") == ["a1", "a2"]
    filled.stop()


def test_a_damaged_stream_that_was_set_aside_begins_anew(filled, stubs):
    filled.start()
    before = published(filled, stubs, "alpha")
    filled.stop()
    damage(segment(filled, "stream.alpha"))
    filled.start()
    filled.stop()
    assert ordinald("-o", f"DATA_DIR={filled.data}", "--quarantine", "alpha").returncode == 0
    filled.start()
    assert "is damaged" not in filled.log_since_start()
    after = published(filled, stubs, "alpha")
    assert (before.offset, after.offset) == (3, 1) and before.incarnation and after.incarnation not in (0, before.incarnation)
    assert frames(filled, "alpha") == ["one", "more"] and filled.stats()["streams"]["stopped"] == 0
    with grpc.insecure_channel(filled.address) as channel:  # who has read the old one is told
        request = stubs.pb.SubscribeRequest(stream="alpha", resume_offset=2, incarnation=before.incarnation)
        with pytest.raises(grpc.RpcError) as e:
            list(stubs.rpc.FeedStub(channel).Subscribe(request, timeout=appliance.PATIENCE_S))
        assert e.value.code() == grpc.StatusCode.OUT_OF_RANGE
    filled.stop()


@pytest.fixture
def long(daemon):
    """The stream alpha has several segments."""
    d = daemon.prepare(SHARDS=1, FEED_SEGMENT_BYTES=1 << 20)
    d.start()
    assert next_id(d) == 1
    publish(d, "beta", "b1")
    for i in range(3):
        publish(d, "alpha", *[chr(ord("a") + i) * 100000] * 10)
    d.stop()
    assert len(list((d.data / "stream.alpha").glob("0*"))) >= 3
    return d


@pytest.mark.parametrize("number, how, says", [
    (1, "gone", "damaged at byte 0: the file is missing"), (2, "gone", "damaged at byte 0: the file is missing"),
    (-1, "gone", "missing"), (1, "empty", "cut short"), (2, "cut", "damaged at byte"), (-1, "empty", "cut short"),
    (2, "another", "another segment's header"), (1, "header", "header is not valid"), (2, "first record", "no valid record here")])
def test_a_segment_that_is_gone_or_damaged_stops_its_stream(long, stubs, number, how, says):
    used = sorted(path for path in (long.data / "stream.alpha").glob("0*") if any(path.read_bytes()[4096:8192]))
    path = used[number] if number < 0 else segment(long, "stream.alpha", number)
    if how == "gone":
        for one in (long.data / "stream.alpha").glob("0*"):
            if one == path or (number < 0 and one > path):  # what is behind the newest one was only made ready
                one.unlink()
    elif how in ("empty", "cut"):
        os.truncate(path, 0 if how == "empty" else 100000)
    elif how == "another":
        shutil.copy(segment(long, "stream.alpha", 1), path)
    else:
        damage(path, 20 if how == "header" else 4096 + 20)
    check_data(long.data, 1, 'stream "alpha": DAMAGED', says, f"{long.data}/stream.alpha/", 'stream "beta": sound', "ids: sound")
    long.start()
    data_loss(long, stubs, says)
    others_are_served(long, 2)
    long.stop()


def test_a_stream_of_another_data_directory_stops_alone(filled, daemon, stubs):
    other = daemon.prepare(SHARDS=1)
    fill(other)
    shutil.rmtree(filled.data / "stream.alpha")
    shutil.copytree(other.data / "stream.alpha", filled.data / "stream.alpha")
    filled.start()
    data_loss(filled, stubs, 'of the log "stream.alpha" of another data directory')
    others_are_served(filled, 2)
    filled.stop()


def test_swapped_folders_are_named(filled):
    os.rename(filled.data / "stream.alpha", filled.data / "away")
    os.rename(filled.data / "stream.beta", filled.data / "stream.alpha")
    os.rename(filled.data / "away", filled.data / "stream.beta")
    filled.start()
    said = filled.log_since_start()
    assert 'the file is a segment of the log "stream.alpha"' in said and 'the file is a segment of the log "stream.beta"' in said
    assert filled.stats()["streams"]["stopped"] == 2 and next_id(filled) == 2
    filled.stop()


def test_damage_to_the_ids_refuses_the_start(filled):
    damage(segment(filled, "ids"))
    refused(filled, f"{segment(filled, 'ids')}: damaged at byte 4", f"`ordinald --check-data {filled.data}`")
