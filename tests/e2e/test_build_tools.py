"""The helpers of the Makefile: installing packages, the direction of includes, counting tests."""

import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD_TOOLS = os.path.join(ROOT, "tools", "build")


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A PATH in front of the real one, on which every package is missing until apt-get has installed it, and calls are recorded."""
    fake = tmp_path / "bin"
    fake.mkdir()
    calls = tmp_path / "calls"
    calls.write_text("")
    script(fake / "dpkg-query", f'for last; do :; done\ngrep -qx "$last" {tmp_path}/installed 2>/dev/null && printf installed\n')
    script(fake / "apt-get", f"""echo "apt-get $*" | sed 's/ -o [^ ]*//g' >> {calls}
echo "$*" >> {tmp_path}/options
if [ -s {tmp_path}/locked ]; then
    sed -i 1d {tmp_path}/locked
    echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4242 (unattended-upgr)" >&2
    exit 100
fi
[ ! -e {tmp_path}/offline ]
""")
    script(fake / "apt-cache", f"[ ! -e {tmp_path}/unknown ]\n")
    script(fake / "sleep", f'echo "sleep $*" >> {tmp_path}/sleeps\n')
    script(fake / "sudo", f'echo "sudo $*" >> {calls}\nexit 1\n')
    script(fake / "id", f"cat {tmp_path}/uid\n")
    (tmp_path / "uid").write_text("0\n")

    def packages(*sections):
        env = dict(os.environ, PATH=f"{fake}:{os.environ['PATH']}")
        return subprocess.run([os.path.join(BUILD_TOOLS, "packages.sh"), *sections], env=env, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)

    packages.calls = calls.read_text
    packages.path = tmp_path
    return packages


def section_of_list(name):
    packages, inside = [], False
    with open(os.path.join(BUILD_TOOLS, "packages"), encoding="utf-8") as f:
        for line in f.read().split("\n"):
            if line.startswith("["):
                inside = line == f"[{name}]"
            elif inside and line and not line.startswith("#"):
                packages.append(line)
    return packages


def test_nothing_is_fetched_when_nothing_is_missing(machine):
    (machine.path / "installed").write_text("\n".join(section_of_list("run") + section_of_list("test")))
    done = machine("run", "test")
    assert done.returncode == 0 and done.stdout == "" and done.stderr == ""
    assert machine.calls() == ""


def test_only_what_is_missing_is_installed(machine):
    wanted = section_of_list("run")
    assert "gcc" in wanted and "liburing-dev" in wanted
    (machine.path / "installed").write_text("\n".join(wanted[2:]))
    assert machine("run").returncode == 0
    assert machine.calls().split("\n") == ["apt-get -q install -y --no-install-recommends " + " ".join(wanted[:2]), ""]


def test_the_lists_are_read_when_they_lack_something(machine):
    wanted = section_of_list("run")
    (machine.path / "installed").write_text("\n".join(wanted[1:]))
    (machine.path / "unknown").write_text("")
    assert machine("run").returncode == 0
    assert machine.calls().split("\n")[:2] == ["apt-get -q update", f"apt-get -q install -y --no-install-recommends {wanted[0]}"]


def test_a_lock_that_somebody_holds_is_waited_for(machine):
    """It failed in 5 s, beside the upgrades that a machine does after its boot."""
    (machine.path / "installed").write_text("\n".join(section_of_list("run")[1:]))
    (machine.path / "locked").write_text("x\n" * 3)
    done = machine("run")
    assert done.returncode == 0, done
    assert done.stderr.count("Waiting for apt's lock, which process 4242 (unattended-upgr) holds") == 3
    assert len((machine.path / "sleeps").read_text().split("\n")) == 4
    timeouts = re.findall(r"DPkg::Lock::Timeout=(\d+)", (machine.path / "options").read_text())
    assert timeouts == ["0", "30", "30", "30"]
    assert "Acquire::Retries=3" in (machine.path / "options").read_text()


def test_without_root_the_command_to_run_is_printed(machine):
    (machine.path / "uid").write_text("1000\n")
    done = machine("run")
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends " + " ".join(section_of_list("run")) in done.stderr
    assert "apt-get" not in machine.calls()


def test_offline_the_command_to_run_is_printed(machine):
    (machine.path / "offline").write_text("")
    done = machine("test")
    assert done.returncode == 1
    assert "apt-get update failed" in done.stderr and "libcmocka-dev" in done.stderr
    assert machine.calls().count("apt-get -q update") == 3  # a network may just be coming up


@pytest.mark.parametrize("path, include, why", [
    ("core/base/x.c", '"core/ring.h"', "core/base may not include core"),
    ("core/x.c", '"queue/ids.h"', "core may not include queue"),
    ("queue/x.c", '"rpc/call.h"', "queue may not include rpc"),
    ("rpc/wire/x.c", '"core/ring.h"', "rpc/wire may not include core"),
    ("rpc/wire/x.c", '"ordinal/v1/ordinal.pb-c.h"', "knows no protobuf-c"),
    ("core/conn.c", "<liburing.h>", "only core/ring.c may include liburing.h"),
    ("core/x.c", '"tools/x.h"', "core may not include tools"),
    ("core/base/x.c", '"config_gen.h"', "core/base may not include core"),
    ("core/x.c", '"ring.h"', "not written from the root"),
    ("attic/x.c", '"core/ring.h"', "belongs to no room"),
    ("core/ring.c", "<liburing.h>", None),
    ("core/x.c", '"core/base/slab.h"', None),
    ("rpc/x.c", '"queue/ids.h"', None),
    ("rpc/wire/x.c", '"core/base/bytes.h"', None),
    ("tests/unit/x.c", '"rpc/call.h"', None),
])
def test_includes_point_one_way(tmp_path, path, include, why):
    source = tmp_path / path
    source.parent.mkdir(parents=True)
    source.write_text(f"/* x */\n#include {include}\n")
    done = subprocess.run([sys.executable, os.path.join(BUILD_TOOLS, "include_check.py"), path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (1 if why else 0)
    assert (why or "") in done.stdout


def counted(tmp_path, text):
    """What the runner makes of one unit test program."""
    script(tmp_path / "test_x", text)
    done = subprocess.run([sys.executable, os.path.join(BUILD_TOOLS, "run_tests.py"), "--build", str(tmp_path), "--unit",
                           str(tmp_path / "test_x")], capture_output=True, text=True)
    skipped, last = done.stdout.rstrip().split("\n")[-2:]
    return done.returncode, int(skipped.split(" skipped; ")[0]), last


@pytest.mark.parametrize("text, status, skipped, last", [
    ("echo 1..3; echo ok 1 - a; echo ok 2 - b; echo ok 3 '# SKIP' c", 0, 1, "2 passed, 0 failed"),
    ("echo ok 1 - a; echo not ok 2 - b; exit 1", 1, 0, "1 passed, 1 failed"),
    ("echo ok 1 - a; exit 3", 1, 0, "1 passed, 1 failed"),
    ("echo ok 1 - a; kill -SEGV $$", 1, 0, "1 passed, 1 failed"),
    ("exit 0", 1, 0, "0 passed, 1 failed"),
    ("echo no io_uring here; exit 77", 0, 1, "0 passed, 0 failed"),
])
def test_every_test_is_counted_and_none_can_fail_in_silence(tmp_path, text, status, skipped, last):
    assert counted(tmp_path, text) == (status, skipped, last)


def test_a_format_that_is_not_ours_does_not_compile(tmp_path):
    flags = subprocess.run(["make", "-s", "-C", ROOT, "--eval", "flags-of-ours:; @echo '$(CC) $(WARN)'", "flags-of-ours"], capture_output=True, text=True,
                           check=True).stdout.split("\n")[-2]
    (tmp_path / "x.c").write_text("#include <stdio.h>\nvoid say(const char *s);\nvoid say(const char *s)\n{\n\tprintf(s);\n}\n")
    done = subprocess.run([*flags.split(), "-c", "x.c"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "format-security" in done.stderr, done
