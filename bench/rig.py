"""What bench/run and bench/idle share: children that always go when the script goes, each on a CPU of its own; the daemon on an ephemeral
port with its data on a real disk; and what should be known about the machine before a figure is believed."""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_HZ = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """A sentence for the person at the terminal."""


def first_line(argv):
    """The first line that a program prints, or None where it is not installed."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError:
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else ""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, child, name, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Failure(f"{name} ended at once, with code {child.returncode}")
        with socket.socket() as s:
            s.settimeout(1)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Failure(f"{name} does not listen on port {port} after {seconds} s")


def cpu_seconds(pid):
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _HZ


class Rig:
    """A directory under build/ and the children that work in it. Used with `with`; leaving ends the children and removes the directory,
    also on an exception, on Ctrl-C and on SIGTERM. The kernel kills them if this process is killed."""

    def __init__(self, name, build="build"):
        self.name, self.build = name, build
        self.children = []
        self.dir = None

    def __enter__(self):
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: sys.exit(1))
        os.chdir(ROOT)
        for program in ("ordinald", "ordinal"):
            if not os.access(f"{self.build}/{program}", os.X_OK):
                raise Failure(f"{self.build}/{program} is not built; run `make` first")
        os.makedirs(f"{self.build}/bench", exist_ok=True)
        self.dir = tempfile.mkdtemp(prefix=f"{self.name}-", dir=f"{self.build}/bench")
        return self

    def __exit__(self, *_):
        for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(sig, signal.SIG_IGN)  # a second one must not cut this short
        for child in reversed(self.children):
            stop(child)
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def spawn(self, argv, cpu, **kwargs):
        """Starts a program that may run on one CPU only (None: on all of this process's)."""
        def before_exec():
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(argv, preexec_fn=before_exec, **kwargs)  # pylint: disable=subprocess-popen-preexec-fn
        self.children.append(child)
        return child

    def server(self, argv, cpu, name):
        """A server whose output goes to a file in the rig's directory. Returns the child and the file's path."""
        path = f"{self.dir}/{name}.log"
        with open(path, "wb") as log:
            return self.spawn(argv, cpu, stdout=log, stderr=subprocess.STDOUT), path

    def run(self, argv, cpu, seconds_max):
        """Runs a client to its end: its exit code, standard output, standard error and CPU seconds."""
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        child = self.spawn(argv, cpu, stdout=out, stderr=err)
        deadline = time.monotonic() + seconds_max
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise Failure(f"{argv[0]} has not ended after {seconds_max:.0f} s")
            time.sleep(0.02)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.children.remove(child)
        texts = []
        for f in (out, err):
            f.seek(0)
            texts.append(f.read().decode("utf-8", "replace"))
            f.close()
        return child.returncode, texts[0], texts[1], usage.ru_utime + usage.ru_stime

    def ordinald(self, cpu, options=(), name="ordinald"):
        """The daemon with its default options, on one CPU, with a fresh data directory. Returns the child, its port and its stats socket."""
        stats = f"{self.dir}/{name}.sock"
        argv = [f"{self.build}/ordinald", "-o", "LISTEN=127.0.0.1:0", "-o", f"DATA_DIR={self.dir}/{name}-data", "-o", f"STATS_SOCKET={stats}"]
        for option in options:
            argv += ["-o", option]
        child, log = self.server(argv, cpu, name)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with open(log, encoding="utf-8", errors="replace") as f:
                text = f.read()
            found = re.search(r"listens on \S*:(\d+)", text)
            if found:
                return child, int(found.group(1)), stats
            if child.poll() is not None:
                raise Failure(f"ordinald did not start:\n{text}")
            time.sleep(0.02)
        raise Failure("ordinald says after 30 s still not that it listens")

    def redis(self, cpu, *options, name="redis"):
        """Redis without snapshots, and without an append-only file unless `options` say so. Returns the child, its port and its version."""
        port, directory = free_port(), f"{self.dir}/{name}-data"
        os.mkdir(directory)
        child, _ = self.server(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory,
                                "--daemonize", "no", *options], cpu, name)
        wait_for_port(port, child, "redis-server")
        found = re.search(r"v=(\S+)", first_line(["redis-server", "--version"]) or "")
        return child, port, found.group(1) if found else "?"


def stats(path):
    """What a daemon says of itself on its stats socket."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(path)
        s.sendall(b"GET /stats.json HTTP/1.1\r\nHost: ordinald\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def stop(child):
    """SIGTERM, and SIGKILL where that does not help."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def raise_fd_limit(needed):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and hard < needed:
        raise Failure(f"this needs {needed} open files in one process, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def two_cpus(server, load):
    """The CPUs for the server and for the load: as asked, or the first two that this process may use."""
    mine = sorted(os.sched_getaffinity(0))
    if server is None:
        server = next((c for c in mine if c != load), mine[0])
    if load is None:
        load = next((c for c in mine if c != server), mine[0])
    for cpu in (server, load):
        if cpu not in mine:
            raise Failure(f"CPU {cpu} is not one that this process may use ({', '.join(map(str, mine))})")
    return server, load


def filesystem_of(path):
    """Type of the file system that holds a path."""
    best, kind, path = "", "?", os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            left, right = line.split(" - ", 1)
            at = left.split()[4]
            if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
                best, kind = at, right.split()[0]
    return kind


def _busy():
    ticks = {}
    with open("/proc/stat", encoding="ascii") as f:
        for line in f:
            if re.match(r"cpu\d", line):
                name, *values = line.split()
                values = list(map(int, values[:8]))
                ticks[int(name[3:])] = (sum(values) - values[3] - values[4], sum(values), values[7])
    return ticks


def busy_percent(cpus, seconds=1.0):
    """How busy each CPU is with what others do, and how much of it the hypervisor takes: [(cpu, busy %, steal %)]."""
    before = _busy()
    time.sleep(seconds)
    after = _busy()
    result = []
    for cpu in cpus:
        all_of_it = max(1, after[cpu][1] - before[cpu][1])
        result.append((cpu, 100 * (after[cpu][0] - before[cpu][0]) / all_of_it, 100 * (after[cpu][2] - before[cpu][2]) / all_of_it))
    return result


def machine(rig, cpus):
    """What to know about this machine: a list of (what, text)."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    commit = first_line(["git", "describe", "--always", "--dirty"]) or ""
    busy = busy_percent(cpus)
    others = ", ".join(f"CPU {c} {b:.0f}%" + (f" (stolen {steal:.0f}%)" if steal >= 1 else "") for c, b, steal in busy)
    if any(b > 10 for _, b, _ in busy):
        others += ": OTHERS ARE AT WORK HERE, so do not believe the figures"
    data = filesystem_of(rig.dir)
    return [
        ("date", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("kernel", f"Linux {os.uname().release}, {os.uname().machine}"),
        ("CPU", f"{model}, {os.cpu_count()} CPUs"),
        ("busy before", others),
        ("data on", data + (": NOT A DISK, so nothing here is durable" if data in ("tmpfs", "ramfs") else "")),
        ("ordinald", f"{(first_line([rig.build + '/ordinald', '--version']) or '?').split()[-1]} ({commit.strip()})"),
        ("compiler", first_line([os.environ.get("CC", "gcc"), "--version"]) or "?"),
    ]
