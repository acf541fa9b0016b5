"""Standard input, output and error that are closed, full, or read no further: nothing else takes their numbers, and lost output is a failure."""

import os
import re
import subprocess

import pytest

import appliance
import native


def shell(command, d, **more):
    """Runs `ordinal …` through a shell's redirections."""
    env = dict(os.environ, ORDINAL=appliance.ORDINAL, ORDINAL_SERVER=d.address)
    return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env,
                          timeout=appliance.PATIENCE_S, check=False, **more)


def test_the_daemon_opens_closed_descriptors_first(daemon):
    """Descriptor 2 became an eventfd, and took the lines of the log."""
    d = daemon.prepare()
    d.options["LOG_TARGET"] = f"file:{d.log_path}"
    d.wrapper = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    d.start()
    for fd in range(3):
        assert os.readlink(f"/proc/{d.pid}/fd/{fd}") == "/dev/null"
    with native.Client(d) as c:
        assert len(c.next(count=3)) == 3
    d.stop()
    d.options["LOG_TARGET"] = "stderr"
    d.launch()
    appliance.wait_until(lambda: d.stats_socket.exists() and d.get("/stats")[0] == 200, "it to run")
    d.stop()


@pytest.mark.parametrize("command", ["next", "publish --stream s x", "subscribe --stream s", "stats --server $ORDINAL_SERVER",
                                     "top --once --server $ORDINAL_SERVER", "load --duration 0.1", "load --json --duration 0.1", "token t stats",
                                     "--help", "--version", "next --help"])
@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_lost_output_is_a_failure(daemon, command, where):
    d = daemon()
    shell("$ORDINAL publish --stream s x", d)
    done = shell(f"$ORDINAL {command} {where}", d)
    assert done.returncode == 1, done
    assert done.stdout == "" and re.search(r"^ordinal: standard output: ", done.stderr, re.M), done


@pytest.mark.parametrize("option", ["--help", "--version", "--dump-config", "--check"])
def test_lost_output_of_the_daemon_is_a_failure(daemon, option):
    d = daemon()
    done = shell(f"{appliance.ORDINALD} {option} >/dev/full", d)
    assert done.returncode == 1 and "ordinald: standard output: No space left on device" in done.stderr, done


@pytest.mark.parametrize("command", ["next", "publish --stream s x", "stats --server $ORDINAL_SERVER"])
def test_closed_descriptors_that_are_not_needed_do_not_matter(daemon, command):
    d = daemon()
    done = shell(f"$ORDINAL {command} <&- 2>&-", d)
    assert done.returncode == 0 and done.stdout, done


def test_publish_without_standard_input_says_so(daemon):
    """It hung."""
    d = daemon()
    done = shell("$ORDINAL publish --stream s <&-", d)
    assert done.returncode == 1 and "Bad file descriptor" in done.stderr, done
    assert "check failed" not in done.stderr


def test_a_reader_that_leaves_is_no_complaint(daemon):
    """SIGPIPE ends the program, or, where it is ignored, EPIPE does; quietly in both cases."""
    d = daemon()
    for trap in ("", "trap '' PIPE; "):
        done = shell(f"{trap}$ORDINAL next --count 1000000 | head -1; echo ${{PIPESTATUS[0]}}", d)
        first, code = done.stdout.split()
        assert first.isdigit() and int(code) != 0 and done.stderr == "", done
