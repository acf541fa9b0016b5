"""Payloads that are no lines: `ordinal publish` and `subscribe` carry any bytes."""

import os
import random
import struct
import subprocess

import pytest

from appliance import ORDINAL

BINARY = [b"", b"\n", b"a\nb\n\nc", bytes(range(256)) * 300, b"\0" * 5, b"\0\0\0\4"]


def run(server, *args, input=b"", code=0):
    argv = [ORDINAL, args[0], "--server", server.address, "--stream", "s", *map(str, args[1:])]
    done = subprocess.run(argv, input=input, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr.decode()


def prefixed(payloads):
    return b"".join(struct.pack(">I", len(p)) + p for p in payloads)


def history(server, *args):
    return run(server, "subscribe", "--until-caught-up", *(args or ["--length-prefixed"]))


@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_a_file_is_one_frame(server, tmp_path, protocol):
    argv = []
    for n, payload in enumerate(BINARY):
        (tmp_path / str(n)).write_bytes(payload)
        argv += ["--file", tmp_path / str(n)]
    assert len(run(server, "publish", "--protocol", protocol, *argv).splitlines()) == len(BINARY)
    assert history(server, "--length-prefixed", "--protocol", protocol) == prefixed(BINARY)


def test_what_one_end_writes_the_other_reads(server):
    payloads = [*BINARY, *(random.Random(n).randbytes(n * 37) for n in range(200))]
    run(server, "publish", "--length-prefixed", input=prefixed(payloads))
    out = history(server)
    assert out == prefixed(payloads)
    run(server, "publish", "--length-prefixed", "--seq-start", 1000, input=out)
    assert history(server) == out + out


def test_delimiters(server):
    run(server, "publish", "--delimiter", r"\0", input=b"a\nb\0\0c")
    run(server, "publish", "--seq-start", 10, "--delimiter", ";", input=b"d;e;")
    run(server, "publish", "--seq-start", 20, "--delimiter", "none", input=b"f\ng\n")
    assert history(server) == prefixed([b"a\nb", b"", b"c", b"d", b"e", b"f\ng\n"])
    assert history(server, "--delimiter", r"\x1e") == b"a\nb\x1e\x1ec\x1ed\x1ee\x1ef\ng\n\x1e"
    assert history(server, "--delimiter", "none") == b"a\nbcdef\ng\n"


@pytest.mark.parametrize("cut, said", [(2, "4 bytes of its length"), (4, "after 0 of its 6 bytes"), (9, "after 5 of its 6 bytes")])
def test_input_that_ends_within_a_frame_is_told_and_that_frame_is_not_published(server, cut, said):
    errors = run(server, "publish", "--length-prefixed", input=prefixed([b"whole"]) + prefixed([b"broken"])[:cut], code=1)
    assert "payload 2" in errors and "--length-prefixed" in errors and said in errors
    assert history(server) == prefixed([b"whole"])


def test_a_length_above_the_limit_is_told(server):
    errors = run(server, "publish", "--length-prefixed", input=prefixed([b"whole"]) + b"\xff\xff\xff\xff" + b"x" * 100, code=1)
    assert "payload 2" in errors and "--length-prefixed" in errors and "4294967295" in errors and str(64 << 20) in errors
    assert history(server) == prefixed([b"whole"])


def test_a_payload_above_the_limit_of_the_server_is_told_with_the_option(daemon, tmp_path):
    d = daemon(FEED_FRAME_MAX=4096)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(5000))
    for argv, input in ((["--file", big], b""), (["--length-prefixed"], prefixed([big.read_bytes()]))):
        assert "FEED_FRAME_MAX" in run(d, "publish", *argv, input=input, code=1)


def test_files_that_cannot_be_read_are_named_before_any_is_sent(server, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", (64 << 20) + 1)
    for bad, said in (("none", "No such file"), (".", "Is a directory"), ("huge", str(64 << 20))):
        errors = run(server, "publish", "--file", tmp_path / "a", "--file", f"{tmp_path}/{bad}", code=2)
        assert f"--file {tmp_path}/{bad}" in errors and said in errors
    run(server, "publish", "only")
    assert history(server) == prefixed([b"only"])


@pytest.mark.parametrize("args", [
    ["publish", "--file", "/etc/passwd", "x"], ["publish", "--length-prefixed", "x"], ["publish", "--length-prefixed", "--delimiter", ";"],
    ["publish", "--file", "/etc/passwd", "--delimiter", "none"], ["publish", "--delimiter", "ab"],
    ["subscribe", "--json", "--length-prefixed"], ["subscribe", "--length-prefixed", "--delimiter", ";"]])
def test_options_that_contradict_each_other(server, args):
    assert "--" in run(server, *args, code=2).split("\n", maxsplit=1)[0]
