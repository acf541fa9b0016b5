"""The worst day: what the other tests of starting and of limits leave out. What is wrong is said in a sentence, and no ID comes twice.

The data directory on a mount that has vanished; io_uring forbidden; the clock set back; the cgroup's memory limit. Elsewhere: a full or read-only disk, the port or the data directory in use (test_start.py), descriptors that run out (test_limits.py), a wrong
configuration at reload (test_reload.py), a crash, a watchdog (test_crash.py, test_service.py).
"""

import os
import shutil
import signal
import subprocess
import time

import pytest

import appliance
import native
from forbid import forbid


@pytest.mark.parametrize("errno, words", [(1, "io_uring is forbidden"), (38, "io_uring")])
def test_io_uring_is_forbidden(daemon, errno, words):
    d = daemon.prepare(SHARDS=1)
    d.wrapper = forbid(errno, "io_uring_setup")
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


# ---- the data directory's disk is not there ----

def ids(d, count=3):
    with native.Client(d) as c:
        return [c.next().start for _ in range(count)]


def witnessed(daemon, tmp_path, **options):
    (tmp_path / "state").mkdir()
    return daemon.prepare(SHARDS=1, DATA_WITNESS=tmp_path / "state" / "journal", **options)


def refused_for_the_witness(d):
    """It does not start, and says what to do."""
    code, said = d.start_refused()
    assert code == 1 and str(d.options["DATA_DIR"]) in said and str(d.options["DATA_WITNESS"]) in said
    assert "is its disk mounted" in said and "IDs could repeat" in said and "remove" in said
    return said


def test_an_empty_data_directory_is_no_first_start(daemon, tmp_path):
    """What is seen when a disk is not mounted, or DATA_DIR is wrong. Nobody gets ID 1 again."""
    d = witnessed(daemon, tmp_path)
    d.start()
    assert ids(d) == [1, 2, 3]
    d.stop()
    away = d.directory / "away"
    d.data.rename(away)
    assert "no journal" in refused_for_the_witness(d)
    assert not list(d.data.glob("**/.super*")), "nothing was begun there"
    refused_for_the_witness(d)
    shutil.rmtree(d.data)
    away.rename(d.data)
    d.start()
    assert ids(d) == [4, 5, 6]


def test_another_journal_is_not_ours(daemon, tmp_path):
    d = witnessed(daemon, tmp_path)
    d.start()
    ids(d)
    d.stop()
    other = daemon(SHARDS=1)
    ids(other)
    other.stop()
    d.options["DATA_DIR"] = other.data
    assert "holds journal" in refused_for_the_witness(d)


def test_to_begin_anew_on_purpose_the_witness_is_removed(daemon, tmp_path):
    d = witnessed(daemon, tmp_path)
    d.start()
    ids(d)
    d.stop()
    shutil.rmtree(d.data)
    refused_for_the_witness(d)
    d.options["DATA_WITNESS"].unlink()
    d.start()
    assert ids(d) == [1, 2, 3]
    d.stop()
    shutil.rmtree(d.data)
    refused_for_the_witness(d)


def test_a_witness_that_is_none(daemon, tmp_path):
    d = witnessed(daemon, tmp_path)
    d.options["DATA_WITNESS"].write_text("ordinal journal\n")
    code, said = d.start_refused()
    assert code == 1 and str(d.options["DATA_WITNESS"]) in said and "remove" in said
    assert not d.data.exists()


def test_a_witness_that_cannot_be_written_is_said(daemon, tmp_path):
    d = daemon.prepare(SHARDS=1, DATA_WITNESS=tmp_path / "none" / "journal")
    d.start()
    assert "cannot write" in d.log_since_start() and "DATA_WITNESS" in d.log_since_start()
    assert ids(d) == [1, 2, 3]


@pytest.mark.parametrize("data, found", [("{a}", "b"), ("{a}/below", "b"), ("{b}", "a"), ("/elsewhere", "b")])
def test_the_unit_s_witness_is_beside_the_data(daemon, tmp_path, data, found):
    """$STATE_DIRECTORY names both directories of the unit; a witness in the data directory would vanish with it."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    d = daemon.prepare(SHARDS=1)
    d.options["DATA_DIR"] = data.format(a=a, b=b) if data != "/elsewhere" else tmp_path / "elsewhere"
    d.environment = {"STATE_DIRECTORY": f"{a}:{b}"}
    d.start()
    assert (tmp_path / found / "journal").read_text().startswith("ordinal journal ")
    assert not (tmp_path / ("a" if found == "b" else "b") / "journal").exists()


def test_the_mount_vanishes_under_the_daemon(daemon, tmp_path):
    """Lazily unmounted, as by a hasty administrator: what is open goes on to the same disk. The next start does not take the empty mount point for a
    first start; when the disk is back, IDs go on where they were.
    """
    disk, point = tmp_path / "disk", tmp_path / "point"
    disk.mkdir()
    point.mkdir()

    def mount():
        return subprocess.run(["mount", "--bind", disk, point], check=False, capture_output=True).returncode == 0

    if os.geteuid() != 0 or not mount():
        pytest.skip("only root can mount here")
    mounted = True
    try:
        d = witnessed(daemon, tmp_path, DATA_DIR=point / "data", WINDOW_MIN=1, WINDOW_MAX=1, COUNT_MAX=1)
        d.start()
        assert ids(d) == [1, 2, 3]
        subprocess.run(["umount", "-l", point], check=True)
        mounted = False
        assert ids(d) == [4, 5, 6], "each needs a window of its own on the disk"
        d.kill()
        assert "no journal" in refused_for_the_witness(d)
        shutil.rmtree(point / "data", ignore_errors=True)
        mounted = mount()
        assert mounted
        d.start()
        assert min(ids(d)) > 6
        d.stop()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", point], check=True)
