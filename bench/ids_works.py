"""The works of bench/run about IDs: Next beside a bare echo, Redis INCR, and HTTP/2 beside nghttpd."""

import json
import os
import re
import shutil

import rig as rigs
from contest import WARMUP, Contestant, Work
from rig import Failure

LEGEND = """\
  echo      bench/echo: io_uring, messages of 16 bytes, nothing done with them; what a request and its answer cost at the least
  Redis     INCR of one key, neither snapshots nor an append-only file: its counter does not survive a crash
  nghttpd   GET of a 14-byte file over HTTP/2, by h2load
  ordinald  its default options: strict order, every ID covered by a window that was synced to disk before
            native, grpc: by `ordinal load`, which checks that no ID repeats and that they rise; h2load: Next by h2load"""


class Ids:
    def __init__(self, bench, kinds):
        self.bench, self.kinds = bench, kinds
        self.args, self.rig = bench.args, bench.rig
        self.ordinald, self.ordinald_port, _ = self.rig.ordinald(bench.server_cpu)
        self.redis = self.nghttpd = None
        if "native" in kinds:
            self.start_redis()
        if "grpc" in kinds:
            self.start_nghttpd()

    def start_redis(self):
        if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
            self.bench.missing.append("redis-server and redis-tools (Redis INCR)")
            return
        self.redis, self.redis_port, version = self.rig.redis(self.bench.server_cpu)
        self.bench.versions["Redis"] = version
        self.redis_rate = {}

    def start_nghttpd(self):
        if not shutil.which("nghttpd") or not shutil.which("h2load"):
            self.bench.missing.append("nghttp2-server and nghttp2-client (nghttpd, h2load)")
            return
        docs = f"{self.rig.dir}/docs"
        os.mkdir(docs)
        with open(f"{docs}/file", "wb") as f:
            f.write(b"Hello, World!\n")
        self.request = f"{self.rig.dir}/next"
        with open(self.request, "wb") as f:
            f.write(bytes(5))  # gRPC's prefix, and a NextRequest with every field at its default
        self.nghttpd_port = rigs.free_port()
        self.nghttpd, _ = self.rig.server(["nghttpd", "--no-tls", "--address=127.0.0.1", "-d", docs, str(self.nghttpd_port)],
                                          self.bench.server_cpu, "nghttpd")
        rigs.wait_for_port(self.nghttpd_port, self.nghttpd, "nghttpd")
        self.bench.versions["nghttp2"] = (rigs.first_line(["nghttpd", "--version"]) or "?").split("/")[-1]

    # One run of each kind.

    def echo(self, connections, depth):
        argv = [f"{self.rig.build}/bench/echo", "--connections", str(connections), "--depth", str(depth), "--seconds", str(self.args.seconds),
                "--server-cpu", str(self.bench.server_cpu), "--client-cpu", str(self.bench.load_cpu), "--json"]
        code, out, err, _ = self.rig.run(argv, None, self.args.seconds + 60)
        if code:
            raise Failure(f"{' '.join(argv)}:\n{err}")
        return json.loads(out)["messages_per_second"], 0, None

    def next(self, protocol, connections, depth):
        report, cpu = self.bench.load(self.ordinald_port, "next", "--protocol", protocol, "--connections", connections, "--depth", depth,
                                      "--warmup", f"{WARMUP * 1000:.0f}ms")
        return report["calls_per_second"], cpu, report

    def redis_incr(self, connections, depth):
        """redis-benchmark counts requests, not seconds: a short run tells how many are enough."""
        def run(n):
            return self.bench.redis_benchmark(self.redis_port, connections, depth, n, "-t", "incr")
        guess = self.redis_rate.get((connections, depth)) or run(20000 * min(depth, 20))[0]
        rate, cpu = run(max(1000, int(guess * self.args.seconds)))
        self.redis_rate[connections, depth] = rate
        return rate, cpu, None

    def h2load(self, url, connections, depth, extra=()):
        argv = ["h2load", "-t1", f"-c{connections}", f"-m{depth}", f"--duration={self.args.seconds * 1000:.0f}ms",
                f"--warm-up-time={WARMUP * 1000:.0f}ms", *extra, url]
        _, out, err, cpu = self.bench.client(argv)
        rate = re.search(r"finished in [^,]*, ([0-9.]+) req/s", out)
        bad = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", out)
        codes = re.search(r"(\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
        if not rate or not bad or not codes:
            raise Failure(f"{' '.join(argv)} printed what is not understood:\n{out}{err}")
        if any(map(int, bad.groups())) or any(map(int, codes.groups()[1:])) or not int(codes.group(1)):
            self.bench.failures.append(f"{' '.join(argv)}: {bad.group(0)}; {codes.group(0)}")
        return float(rate.group(1)), cpu, None

    def h2load_file(self, connections, depth):
        return self.h2load(f"http://127.0.0.1:{self.nghttpd_port}/file", connections, depth)

    def h2load_next(self, connections, depth):
        return self.h2load(f"http://127.0.0.1:{self.ordinald_port}/ordinal.v1.Ids/Next", connections, depth,
                           ("-d", self.request, "-H", "content-type: application/grpc", "-H", "te: trailers"))

    # The works.

    def native_work(self, depth, connections=50):
        rows = [Contestant("echo", "bare io_uring echo, 16 B", lambda: self.echo(connections, depth), None)]
        if self.redis:
            rows.append(Contestant("Redis", "Redis INCR, not durable", lambda: self.redis_incr(connections, depth), self.redis))
        rows.append(Contestant("native", "ordinald Next, native, durable", lambda: self.next("native", connections, depth), self.ordinald,
                               ("echo", "Redis")))
        return Work(f"{connections} connections, {calls(depth)} in flight on each", rows)

    def grpc_work(self, depth, connections=20):
        rows = []
        if self.nghttpd:
            rows.append(Contestant("nghttpd", "nghttpd, 14-byte file, h2load", lambda: self.h2load_file(connections, depth), self.nghttpd))
            rows.append(Contestant("h2load", "ordinald Next, gRPC, durable, h2load", lambda: self.h2load_next(connections, depth), self.ordinald,
                                   ("nghttpd",)))
        rows.append(Contestant("grpc", "ordinald Next, gRPC, durable", lambda: self.next("grpc", connections, depth), self.ordinald, ("nghttpd",)))
        return Work(f"{connections} HTTP/2 connections, {calls(depth)} in flight on each", rows)

    def works(self):
        native = [self.native_work(depth) for depth in (1, 16, 64)] if "native" in self.kinds else []
        return native + ([self.grpc_work(depth) for depth in (1, 20, 100)] if "grpc" in self.kinds else [])


def calls(n):
    return "1 call" if n == 1 else f"{n} calls"
