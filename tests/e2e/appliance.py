"""An ordinald of one's own: its temporary directory, its life and its log."""

import contextlib
import gc
import json
import os
import re
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("ORDINAL_BUILD") or os.path.join(ROOT, "build"))
ORDINALD = os.path.join(BUILD, "ordinald")
ORDINAL = os.path.join(BUILD, "ordinal")
PATIENCE_S = 60  # for what should happen at once; a loaded machine may take its time
COMPLAINTS = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|check failed|assertion", re.I)


def is_sanitized():
    with open(ORDINALD, "rb") as f:
        return b"__sanitizer" in f.read()


def wait_until(condition, what, patience_s=PATIENCE_S):
    """Polls until condition() is true, and returns what it returned."""
    until = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"waited {patience_s} s for {what}"
        time.sleep(0.01)


# What clients have in a daemon, by its own counters (stats.json, "total"): all of it goes with them.
OF_CLIENTS = ("connections", "sessions_native", "sessions_grpc", "calls_live", "output_bytes", "assembly_bytes", "subscriptions",
              "publishes", "publish_bytes", "pieces", "timers")


def open_sockets(port):
    """Connections with this port at one end, each end counted where a process has it open: (accepted, clients')."""
    accepted = clients = 0
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as f:
            for line in f.readlines()[1:]:
                _, here, there, state, *rest = line.split()
                if state == "0A" or rest[5] == "0":  # it listens; nobody has it open
                    continue
                accepted += int(here.rpartition(":")[2], 16) == port
                clients += int(there.rpartition(":")[2], 16) == port
    return accepted, clients


class Daemon:
    def __init__(self, directory, options):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = directory / "data"
        self.stats_socket = directory / "stats.sock"
        self.log_path = directory / "log"
        self.options = {"LISTEN": "127.0.0.1:0", "DATA_DIR": self.data, "STATS_SOCKET": self.stats_socket, **options}
        self.process = None
        self.host, self.port = None, None
        self.wrapper = []  # a command in front of it, such as prlimit
        self.environment = {}  # what it gets besides ours
        self.inherited = ()  # descriptors that it inherits
        self.log_from = 0

    def command(self):
        argv = [*self.wrapper, ORDINALD]
        for key, value in self.options.items():
            argv += ["-o", f"{key}={value}"]
        return argv

    def launch(self):
        """Starts it, and does not wait."""
        self.log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(os.environ, **self.environment), pass_fds=self.inherited)

    def start(self):
        self.launch()
        found = wait_until(self._listening, "ordinald to listen")
        assert found is not True, f"ordinald ended with {self.process.returncode}:\n{self.log()}"
        self.host, self.port = found[1].strip("[]"), int(found[2])
        return self

    def _listening(self):
        ended = self.process.poll() is not None
        return re.search(r"listens on (\S+):(\d+): ", self.log_since_start()) or ended

    def start_refused(self):
        """Starts it, expects it to give up, and returns (exit code, what it said)."""
        self.launch()
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"ordinald runs, and should not:\n{self.log_since_start()}") from None
        return code, self.log_since_start()

    @property
    def address(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, patience_s=PATIENCE_S):
        """SIGTERM; it must end well."""
        self.signal(signal.SIGTERM)
        self.wait_stopped(patience_s)

    def wait_stopped(self, patience_s=PATIENCE_S):
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"ordinald did not end within {patience_s} s:\n{self.log()}") from None
        assert code == 0, f"ordinald ended with {code}:\n{self.log()}"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def destroy(self):
        if self.is_running():
            self.kill()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_since_start(self):
        with open(self.log_path, "rb") as f:
            f.seek(self.log_from)
            return f.read().decode(errors="replace")

    def check_log(self):
        complaint = COMPLAINTS.search(self.log())
        assert not complaint, f"ordinald says:\n{self.log()}"

    def connect(self, timeout_s=PATIENCE_S):
        """A TCP connection."""
        s = socket.create_connection((self.host, self.port), timeout=timeout_s)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def sockets(self):
        """How many sockets the process has open."""
        count = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                count += os.readlink(f"/proc/{self.pid}/fd/{fd}").startswith("socket:")
            except FileNotFoundError:
                pass
        return count

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read())[1])

    def peak_rss_kib(self):
        """The most that was resident since the start, or since forget_peak_rss."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1])

    def forget_peak_rss(self):
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as f:
            f.write("5")

    def get(self, path):
        """GET from the stats socket: (status, body)."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE_S)
            s.connect(str(self.stats_socket))
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: ordinald\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while piece := s.recv(65536):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def left_behind(self):
        """What clients have here at the moment: {} when there is nothing. None: it cannot be told, as the daemon does not answer."""
        try:
            status, body = self.get("/stats.json")
        except OSError:
            return None
        if status != 200:
            return None
        total = {**json.loads(body)["total"], "sockets": open_sockets(self.port)[0]}
        return {k: total[k] for k in (*OF_CLIENTS, "sockets") if total[k]}

    def check_nothing_left(self):
        """The last assertion of a case: of clients that have gone nothing is left. Where clients are still connected there is nothing to
        say, nor where the daemon is about to end."""
        patience_s = 1.5 * int(self.options.get("STALL_TIMEOUT_MS", 10_000)) / 1000 + 20
        until = time.monotonic() + patience_s
        while self.is_running() and (left := self.left_behind()):
            gc.collect()  # sockets that nobody names any more
            if open_sockets(self.port)[1]:
                return
            assert time.monotonic() < until, f"clients have gone, and {patience_s} s later there is left: {left}"
            time.sleep(0.02)

    def stats(self):
        status, body = self.get("/stats.json")
        assert status == 200
        return json.loads(body)


class From:
    """The daemon, called from another address of this machine."""

    def __init__(self, daemon, ip):
        self.daemon, self.ip = daemon, ip

    def connect(self):
        s = socket.create_connection((self.daemon.host, self.daemon.port), timeout=PATIENCE_S, source_address=(self.ip, 0))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s


def tool(*args, timeout_s=120, check=True):
    """Runs `ordinal`, and returns its CompletedProcess."""
    done = subprocess.run([ORDINAL, *map(str, args)], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    if check:
        assert done.returncode == 0, f"ordinal {' '.join(map(str, args))}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def load(daemon, *args, check=True, timeout_s=120):
    """`ordinal load --json` against the daemon: its report. `check`: it has to be free of errors and to hold its promises."""
    done = tool("load", "--server", daemon.address, "--json", *args, timeout_s=timeout_s, check=False)
    assert done.stdout, f"ordinal load {args}: {done.returncode}\n{done.stderr}"
    report = json.loads(done.stdout)
    if check:
        assert done.returncode == 0 and report["errors"] == 0 and report["check"]["ok"], report
    return report


def load_begin(daemon, *args):
    """The same in the background: a Popen to give to load_end."""
    return subprocess.Popen([ORDINAL, "load", "--server", daemon.address, "--json", *map(str, args)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load_end(process, timeout_s=120):
    """(exit code, report)"""
    out, err = process.communicate(timeout=timeout_s)
    assert out, f"ordinal load: {process.returncode}\n{err}"
    return process.returncode, json.loads(out)


def fill_disk(where):
    """Leaves no byte free on a file system."""
    with open(where / "filling", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                f.write(b"x")
        except OSError:
            pass
