"""The works of bench/run about frames: fan-out beside Redis pub/sub, durable publishing beside Redis XADD, and 999 subscribers beside one that
has stopped reading."""

import json
import os
import shutil
import socket
import sys
import time

import rig as rigs
from contest import WARMUP, Contestant, Work

sys.path.append(os.path.join(rigs.ROOT, "tests", "e2e"))
import h2raw  # pylint: disable=wrong-import-position

SIZE = 64
PUBLISHERS = 50
DEPTH = 1000  # frames under way of the one publisher of a fan-out
FOLLOWERS = 999
STALLED_RATE, STALLED_SIZE, LAG_MAX = 200, 1024, 1 << 16
POLICIES = {"wait": 0, "drop": 1, "disconnect": 2}

LEGEND = """\
  fanout    one publisher, N subscribers, payloads of 64 bytes; every subscriber is checked to get every frame once, in order. Ordinal: gRPC, PublishMany,
            synced to disk before anybody sees it. Redis: PUBLISH in a pipeline as deep, SUBSCRIBE, by bench/redis_fanout: in memory only.
            Latency: from when a frame was due to when it was received, at half of the rate that Redis, or Ordinal, has reached above
  publish   50 connections with 1 call in flight each. Redis: XADD, appendonly yes, appendfsync always
  stalled   999 subscribers read, 1 has stopped after its first frame, FEED_LAG_MAX_BYTES of 64 KiB; what the 999 see"""


class Feed:
    def __init__(self, bench, kinds):
        self.bench, self.kinds = bench, kinds
        self.args, self.rig = bench.args, bench.rig
        self.streams = 0
        self.ordinald, self.port, self.stats = self.rig.ordinald(bench.server_cpu, name="ordinald-feed", options=(f"FEED_LAG_MAX_BYTES={LAG_MAX}",))
        self.pubsub = self.xadd = None
        if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
            bench.missing.append("redis-server and redis-tools (Redis pub/sub, XADD)")
            return
        if "fanout" in kinds:
            self.pubsub, self.pubsub_port, bench.versions["Redis"] = self.rig.redis(
                bench.server_cpu, "--client-output-buffer-limit", "pubsub 0 0 0", name="redis-pubsub")
        if "publish" in kinds:
            self.xadd, self.xadd_port, bench.versions["Redis"] = self.rig.redis(
                bench.server_cpu, "--appendonly", "yes", "--appendfsync", "always", name="redis-xadd")
            self.xadd_rate = None

    def stream(self):
        """A name that nobody has used: no run sees the history of another."""
        self.streams += 1
        return f"bench.{self.streams}"

    # One run of each kind.

    def fanout(self, subscribers, *options, size=SIZE, stream=None):
        return self.bench.load(self.port, "fanout", "--protocol", "grpc", "--publishers", 1, "--depth", DEPTH, "--subscribers", subscribers,
                               "--size", size, "--stream", stream or self.stream(), "--warmup", f"{WARMUP * 1000:.0f}ms", *options)

    def redis_fanout(self, subscribers, *options):
        argv = [f"{self.rig.build}/bench/redis_fanout", "--port", self.pubsub_port, "--subscribers", subscribers, "--size", SIZE, "--depth", DEPTH,
                "--seconds", self.args.seconds, "--warmup", WARMUP, *options]
        code, out, err, cpu = self.bench.client([str(a) for a in argv])
        if code:
            self.bench.failures.append(err.strip())
            return {"items_per_second": 0, "publish": {"frames_per_second": 0}, "latency_us": {"p99": 0}}, cpu
        return json.loads(out), cpu

    @staticmethod
    def rate(run, *args):
        report, cpu = run(*args)
        return report["items_per_second"], cpu, report

    @staticmethod
    def latency(run, subscribers, row):
        """p99 at half of the rate at which a row has published before."""
        rate = max(1, row.median() / subscribers / 2)
        report, cpu = run(subscribers, "--rate", f"{rate:.0f}")
        report["note"] = f"at {rate:,.0f} frames/s"
        return report["latency_us"]["p99"], cpu, report

    def publish(self, protocol):
        report, cpu = self.bench.load(self.port, "publish", "--protocol", protocol, "--publishers", PUBLISHERS, "--depth", 1, "--size", SIZE,
                                      "--stream", self.stream(), "--warmup", f"{WARMUP * 1000:.0f}ms")
        return report["calls_per_second"], cpu, report

    def redis_xadd(self):
        def run(n):
            return self.bench.redis_benchmark(self.xadd_port, PUBLISHERS, 1, n, "XADD", self.stream(), "*", "p", "x" * SIZE)
        guess = self.xadd_rate or run(5000)[0]
        self.xadd_rate, cpu = run(max(1000, int(guess * self.args.seconds)))
        return self.xadd_rate, cpu, None

    def with_stalled(self, policy):
        """p99 of the 999; `policy` None: without the one."""
        stream = self.stream()
        stalled = stall(self.port, stream, POLICIES[policy]) if policy else None
        before = resident_mb(self.ordinald.pid)
        report, cpu = self.fanout(FOLLOWERS, "--rate", STALLED_RATE, size=STALLED_SIZE, stream=stream)
        report["note"] = f"server {before:.0f} to {resident_mb(self.ordinald.pid):.0f} MB"
        if stalled:
            lag = self.stats_of(stream)["lag_bytes"]["max"]
            read_again(stalled)
            seen = self.stats_of(stream)
            report["note"] += f"; it lagged {lag / 1024:,.0f} KiB, then lost {seen['dropped']:,} frames, was ended {seen['disconnected']}x"
            stalled.close()
        return report["latency_us"]["p99"], cpu, report

    def stats_of(self, stream):
        return next(s for s in rigs.stats(self.stats)["streams"]["by_name"] if s["name"] == stream)

    # The works.

    def fanout_works(self, subscribers):
        fast, slow, server = [], [], self.ordinald
        if self.pubsub:
            redis = Contestant("Redis", "Redis PUBLISH, pub/sub, not durable", lambda: self.rate(self.redis_fanout, subscribers), self.pubsub)
            fast.append(redis)
            slow.append(Contestant("Redis", "Redis, at half of its rate", lambda: self.latency(self.redis_fanout, subscribers, redis), self.pubsub))
            slow.append(Contestant("same", "ordinald, at that rate", lambda: self.latency(self.fanout, subscribers, redis), server, ("Redis",)))
        ours = Contestant("ordinald", "ordinald PublishMany, gRPC, durable", lambda: self.rate(self.fanout, subscribers), server, ("Redis",))
        fast.append(ours)
        slow.append(Contestant("ordinald", "ordinald, at half of its rate", lambda: self.latency(self.fanout, subscribers, ours), server, ("Redis",)))
        return [Work(f"{subscribers} subscribers, 64-byte frames", fast, "deliveries/s"),
                Work(f"{subscribers} subscribers, from publish to delivery", slow, "p99, us")]

    def publish_work(self):
        rows = []
        if self.xadd:
            rows.append(Contestant("XADD", "Redis XADD, appendfsync always", self.redis_xadd, self.xadd))
        for protocol in ("grpc", "native"):
            rows.append(Contestant(protocol, f"ordinald Publish, {protocol}, durable", lambda p=protocol: self.publish(p), self.ordinald, ("XADD",)))
        return Work(f"{PUBLISHERS} publishers, 1 frame in flight on each", rows, "frames/s")

    def stalled_work(self):
        rows = [Contestant("alone", f"{FOLLOWERS} subscribers", lambda: self.with_stalled(None), self.ordinald)]
        for policy in POLICIES:
            rows.append(Contestant(policy, f"and one that has stopped, SLOW_{policy.upper()}", lambda p=policy: self.with_stalled(p), self.ordinald, ("alone",)))
        return Work(f"one stops reading: {STALLED_RATE:,} frames/s of {STALLED_SIZE:,} B", rows, "p99, us")

    def works(self):
        result = []
        if "fanout" in self.kinds:
            result += [work for n in self.args.subscribers for work in self.fanout_works(n)]
        if "publish" in self.kinds:
            result.append(self.publish_work())
        if "stalled" in self.kinds:
            result.append(self.stalled_work())
        return result


def stall(port, stream, policy):
    """A subscriber over gRPC that opens no window and never reads again."""
    s = socket.create_connection(("127.0.0.1", port))
    request = b"\x0a" + bytes([len(stream)]) + stream.encode() + (b"\x18" + bytes([policy]) if policy else b"")
    s.sendall(h2raw.PREFACE + h2raw.settings() + h2raw.call(1, request, path="/ordinal.v1.Feed/Subscribe"))
    time.sleep(0.2)
    return s


def read_again(s):
    """Everything that is there for it, and what it has lost meanwhile."""
    s.settimeout(0.3)
    try:
        s.sendall(h2raw.window_update(0, 1 << 30) + h2raw.window_update(1, 1 << 30))
        while s.recv(1 << 16):
            pass
    except OSError:
        pass


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1000
