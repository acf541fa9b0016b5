"""What every work of bench/run is made of: contestants that take turns, and the servers and clients that they are."""

import json
import re
import statistics
import time

import rig as rigs
from rig import Failure

WARMUP = 0.3  # seconds


class Contestant:
    """One row: what is run, and what it has reached so far. `run` returns a figure, the CPU seconds of the load, and a report to keep (or None)."""

    def __init__(self, key, title, run, server, over=()):
        self.key, self.title, self.run, self.server = key, title, run, server
        self.over = over  # keys of the rows that this one is compared with
        self.figures, self.server_cpu, self.load_cpu = [], [], []
        self.extra = []

    def measure(self):
        """One more run; returns its figure."""
        before, t0 = (rigs.cpu_seconds(self.server.pid) if self.server else 0), time.monotonic()
        figure, load_cpu, extra = self.run()
        wall = time.monotonic() - t0
        self.figures.append(figure)
        if self.server:
            self.server_cpu.append((rigs.cpu_seconds(self.server.pid) - before) / wall)
            self.load_cpu.append(load_cpu / wall)
        if extra:
            self.extra.append(extra)
        return figure

    def median(self):
        return statistics.median(self.figures)

    def note(self):
        """What the last report says of the server, for people."""
        return self.extra[-1].get("note", "") if self.extra else ""

    def report(self):
        return {"key": self.key, "title": self.title, "runs": self.figures, "median": self.median(), "min": min(self.figures),
                "max": max(self.figures), "server_cpu": statistics.median(self.server_cpu) if self.server_cpu else None,
                "load_cpu": statistics.median(self.load_cpu) if self.load_cpu else None, "reports": self.extra}


class Work:
    """Rows that take turns, and what their figures are."""

    def __init__(self, title, rows, unit="calls/s"):
        self.title, self.rows, self.unit = title, rows, unit

    def ratios(self, row):
        by_key = {r.key: r for r in self.rows}
        return {key: row.median() / by_key[key].median() for key in row.over if key in by_key and by_key[key].median()}

    def report(self):
        return {"work": self.title, "unit": self.unit, "rows": [{**row.report(), "ratios": self.ratios(row)} for row in self.rows]}


class Bench:
    """What works share: where servers and clients run, how long, what failed and what is not installed here."""

    def __init__(self, args, rig, server_cpu, load_cpu):
        self.args, self.rig, self.server_cpu, self.load_cpu = args, rig, server_cpu, load_cpu
        self.failures, self.missing, self.versions = [], [], {}

    def client(self, argv, slack=60):
        code, out, err, cpu = self.rig.run(argv, self.load_cpu, self.args.seconds + slack)
        if code not in (0, 1):
            raise Failure(f"{' '.join(argv)} failed with code {code}:\n{err}{out}")
        return code, out, err, cpu

    def load(self, port, method, *options):
        """`ordinal load`: its report and its CPU seconds."""
        argv = [f"{self.rig.build}/ordinal", "load", "--server", f"127.0.0.1:{port}", "--method", method,
                "--duration", f"{self.args.seconds * 1000:.0f}ms", "--json", *map(str, options)]
        code, out, err, cpu = self.client(argv)
        report = json.loads(out)
        if code or report["errors"] or not report["check"]["ok"]:
            self.failures.append(f"{' '.join(argv[1:])}: errors {report['errors']}, check {report['check']}{' ' + err.strip() if err else ''}")
        return report, cpu

    def redis_benchmark(self, port, connections, depth, n, *command):
        """n commands: their rate and the CPU seconds of the load."""
        argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-c", connections, "-P", depth, "-n", n, "--csv", *command]
        code, out, err, cpu = self.client([str(a) for a in argv], 300)
        found = re.search(r'^"[^\n]*?","([0-9.]+)"', out.splitlines()[-1]) if out else None
        if code or not found:
            raise Failure(f"{' '.join(map(str, argv))}:\n{err}{out}")
        return float(found.group(1)), cpu
