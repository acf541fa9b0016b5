"""What was in DATA_DIR and is gone, or is from elsewhere, is noticed at the start, named, and never taken for new.

data/before-manifests.tar.xz has two data directories of a version that had no manifest, `clean` and `killed`: the default sequence
is at 7, `orders` at 3; the stream `ticks` has frames one, two, three, `a b` four, and the default stream five.
"""

import os
import shutil
import tarfile

import pytest

import appliance
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
