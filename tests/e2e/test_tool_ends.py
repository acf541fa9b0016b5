"""Ends of what `ordinal` counts, and of those who read it: the last number that there is, and standard output that nobody reads."""

import os
import signal
import subprocess

import pytest

from appliance import ORDINAL

LAST = 2**64 - 1


def run(server, *args, input=None, code=0):
    argv = [ORDINAL, args[0], "--server", server.address, *map(str, args[1:])]
    done = subprocess.run(argv, input=input or "", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def payloads(server, stream="s"):
    return run(server, "subscribe", "--stream", stream, "--until-caught-up").stdout.split()


# ---- numbers that would turn round ----

@pytest.mark.parametrize("option", [["--seq-start", LAST], ["--publisher", "p", "--publisher-seq", LAST]])
def test_arguments_that_pass_the_last_number_are_refused_before_any_is_sent(server, option):
    run(server, "publish", "--stream", "s", "first")
    done = run(server, "publish", "--stream", "s", *map(str, option), "w1", "w2", code=2)
    assert option[-2] in done.stderr and "payload 2" in done.stderr
    assert payloads(server) == ["first"]


@pytest.mark.parametrize("option", [["--seq-start", LAST - 1], ["--publisher", "p", "--publisher-seq", LAST - 1]])
def test_lines_that_pass_the_last_number_end_after_those_before(server, option):
    done = run(server, "publish", "--stream", "s", *map(str, option), input="a\nb\nc\n", code=1)
    assert option[-2] in done.stderr and "payload 3" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert payloads(server) == ["a", "b"]


def test_the_last_number_itself_is_taken(server):
    run(server, "publish", "--stream", "s", "--seq-start", str(LAST - 1), "a", "b")
    assert payloads(server) == ["a", "b"]


def test_a_cpu_with_a_sign_is_not_turned_round(server):
    done = run(server, "load", "--pin", str(-LAST), "--duration", "100ms", code=2)
    assert "--pin" in done.stderr


# ---- standard output that nobody reads ----

def leaves_after(lines, argv, stdin=subprocess.DEVNULL):
    """The exit code and standard error of a program whose output is read for so many lines."""
    with subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        try:
            for _ in range(lines):
                assert p.stdout.readline()
            p.stdout.close()
            p.wait(60)
            return p.returncode, p.stderr.read().decode()
        finally:
            p.kill()


@pytest.mark.parametrize("protocol", ["native", "grpc"])
def test_subscribe_on_an_idle_stream_ends_when_nobody_reads(server, protocol):
    run(server, "publish", "--stream", "s", "a", "b")
    argv = [ORDINAL, "subscribe", "--server", server.address, "--stream", "s", "--protocol", protocol]
    code, errors = leaves_after(2, argv)
    assert code == -signal.SIGPIPE
    assert "ordinal: cannot" not in errors and "write" not in errors


def test_subscribe_that_waits_for_a_server_ends_when_nobody_reads(server):
    run(server, "publish", "--stream", "s", "a")
    argv = [ORDINAL, "subscribe", "--server", server.address, "--stream", "s", "--patience", "1h"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
        try:
            assert p.stdout.readline() == b"a\n"
            server.kill()
            p.stdout.close()
            assert p.wait(60) == -signal.SIGPIPE
        finally:
            p.kill()


def test_publish_without_input_ends_when_nobody_reads(server):
    source, sink = os.pipe()
    try:
        os.write(sink, b"a\n")
        code, _ = leaves_after(1, [ORDINAL, "publish", "--server", server.address, "--stream", "s"], stdin=source)
        assert code == -signal.SIGPIPE
    finally:
        os.close(source)
        os.close(sink)


def test_top_between_two_readings_ends_when_nobody_reads(server):
    argv = [ORDINAL, "top", "--server", server.address, "--interval", "1h"]
    assert leaves_after(0, argv)[0] == -signal.SIGPIPE
