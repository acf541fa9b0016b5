"""The worst day: what the other tests of starting and of limits leave out. What is wrong is said in a sentence, and no ID comes twice.

Elsewhere: a full or read-only disk, the port or the data directory in use (test_start.py), descriptors that run out (test_limits.py), a wrong
configuration at reload (test_reload.py), a crash, a watchdog (test_crash.py, test_service.py).
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import appliance
import native

# Forbids io_uring_setup (425 on every architecture) as containers do, and becomes the command.
FORBID = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filters, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("errno, words", [(1, "io_uring is forbidden"), (38, "io_uring")])
def test_io_uring_is_forbidden(daemon, errno, words):
    d = daemon.prepare(SHARDS=1)
    d.wrapper = [sys.executable, "-c", FORBID, str(errno)]
    code, said = d.start_refused()
    assert code == 1 and words in said, said
    d.wrapper = []
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t)
{
	long rc = syscall(SYS_clock_gettime, id, t);
	if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
		t->tv_sec -= 10L * 365 * 86400;
	return (int)rc;
}
"""


def test_the_clock_is_set_back_ten_years(daemon, tmp_path):
    """IDs and offsets do not come from the clock."""
    if not shutil.which("gcc") or appliance.is_sanitized():
        pytest.skip("needs gcc, and a build that bears LD_PRELOAD")
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c"], check=True)
    d = daemon.prepare(SHARDS=2)
    d.start()
    with native.Client(d) as c:
        assert [c.next().start for _ in range(3)] == [1, 2, 3]
    d.stop()
    d.environment = {"LD_PRELOAD": str(shim)}
    d.start()
    assert d.stats()["start_time_seconds"] < time.time() - 9 * 365 * 86400, "its clock is wrong"
    with native.Client(d) as c:
        assert [c.next().start for _ in range(3)] == [4, 5, 6]
    d.stop()
    d.environment = {}
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(7, 8)


@pytest.fixture
def small_group():
    """A memory cgroup (version 1 or 2) of 12 MB: its cgroup.procs."""
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = f"{parent}/ordinal-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            with open(f"{group}/{limit}", "w", encoding="ascii") as f:
                f.write(str(12 << 20))
        except OSError:
            os.rmdir(group)
            continue
        yield f"{group}/cgroup.procs"
        os.rmdir(group)
        return
    pytest.skip("no memory cgroup can be made here")


def test_the_cgroups_memory_limit(daemon, small_group):
    """The kernel kills what needs more; nothing that was answered is lost by it."""
    d = daemon(SHARDS=2)
    with native.Client(d) as c:
        last = [c.next().start for _ in range(10)][-1]
    d.stop()
    d.wrapper = ["sh", "-c", f'echo $$ > {small_group} && exec "$@"', "sh"]
    d.launch()
    try:
        appliance.wait_until(lambda: d.process.poll() is not None or "listens on" in d.log_since_start(), "an outcome")
        if d.is_running():  # then it is its clients who want more
            d._listening()
            d.stop()
        else:
            assert d.process.returncode in (1, -signal.SIGKILL), d.log()
            assert d.process.returncode != 1 or "memory" in d.log_since_start()
    finally:
        d.destroy()
    d.wrapper = []
    d.start()
    with native.Client(d) as c:
        assert c.next().start > last
