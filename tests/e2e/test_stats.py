"""The stats socket from outside: what is in it agrees with what clients did, in every form, while the daemon works and while it stops."""

import json
import os
import re
import signal
import socket
import stat
import subprocess

import pytest

import appliance
import native

NEXT = "ordinal.v1.Ids/Next"


def http(path, request):
    """Sends bytes to a stats socket, and returns all that comes until it is closed."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(appliance.PATIENCE_S)
        s.connect(str(path))
        s.sendall(request)
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    return answer


def metrics(daemon):
    """/metrics, through a strict reader of the exposition format: {family: (type, {series: value})}."""
    status, body = daemon.get("/metrics")
    assert status == 200
    lines = body.decode().split("\n")
    assert lines.pop() == ""  # the last line ends, too
    name = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    label = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
    sample = re.compile(rf"({name})(?:\{{({label}(?:,{label})*)\}})? (NaN|[+-]?Inf|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)")
    families, family, pending = {}, None, None
    for line in lines:
        if line.startswith("# HELP "):
            pending = re.fullmatch(rf"# HELP ({name}) \S.*", line)[1]
        elif line.startswith("# TYPE "):
            family, kind = re.fullmatch(rf"# TYPE ({name}) (counter|gauge|histogram)", line).groups()
            assert family == pending and family not in families
            assert family.startswith("ordinal_") and family.endswith("_total") == (kind == "counter")
            families[family] = (kind, {})
        else:
            m = sample.fullmatch(line)
            assert m, line
            kind, series = families[family]
            suffix = m[1].removeprefix(family)
            assert m[1].startswith(family) and suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)), line
            key = m[1] + "{" + (m[2] or "") + "}"
            assert key not in series
            series[key] = float(m[3])
    for family, (kind, series) in families.items():
        if kind == "histogram":
            check_histogram(family, series)
    return families


def check_histogram(family, series):
    rows = {}
    for key, value in series.items():
        if key.startswith(f"{family}_bucket"):
            rest, le = re.fullmatch(r"[^{]*\{(.*?),?le=\"([^\"]+)\"\}", key).groups()
            rows.setdefault(rest, []).append((float(le), value))
    assert rows
    for rest, buckets in rows.items():
        assert [le for le, _ in buckets] == sorted({le for le, _ in buckets}) and buckets[-1][0] == float("inf")
        assert [n for _, n in buckets] == sorted(n for _, n in buckets)
        assert series[f"{family}_count{{{rest}}}"] == buckets[-1][1]
        assert series[f"{family}_sum{{{rest}}}"] >= 0


def total(families, family):
    return sum(families[family][1].values())


def counted(daemon, condition, what):
    """The stats once they say so: a shard counts an answer in the turn in which it gives it, maybe just after it was received."""
    def look():
        stats = daemon.stats()
        return condition(stats) and stats
    return appliance.wait_until(look, what)


def test_what_clients_did_is_counted(server):
    with native.Client(server) as c:
        for i in range(10):
            c.next(count=3)
        c.next("orders", 5)
        c.send(native.request(99, native.next_request(), method=63))
        assert c.get().code == native.UNIMPLEMENTED
        assert c.call(b"\xff").code == native.INVALID_ARGUMENT
        stats = counted(server, lambda s: s["methods"][NEXT]["by_status"].get("INVALID_ARGUMENT") == 1, "the calls to be counted")
        assert stats["methods"][NEXT]["by_status"] == {"OK": 11, "INVALID_ARGUMENT": 1}
        assert stats["refused_by_status"] == {"UNIMPLEMENTED": 1}
        assert stats["methods"][NEXT]["latency_us"]["count"] == 12
        t = stats["total"]
        assert (t["ids"], t["connections"], t["sessions_native"], t["sessions_grpc"], t["calls_live"]) == (35, 1, 1, 0, 0)
        sequences = {s["name"]: s for s in stats["sequences"]}
        assert stats["sequence_count"] == 2 and sequences[""]["next"] == 31 and sequences["orders"]["next"] == 6
        assert all(s["durable_end"] >= s["next"] and s["windows"] >= 1 for s in sequences.values())
        assert stats["journal"]["syncs"] >= 1 and stats["journal"]["sync_us"]["count"] == stats["journal"]["syncs"]
        assert stats["journal"]["method"] and not stats["journal"]["failed"]
        assert len(stats["shards"]) == 2
        for key in ("ids", "bytes_in", "turns", "recv_buffers_free", "connections_accepted"):
            assert t[key] == sum(s[key] for s in stats["shards"])
        assert (stats["pid"], stats["listen"], stats["id_order"]) == (server.pid, server.address, "strict")
        assert stats["resident_bytes"] > 1 << 20 and stats["cpu_seconds"] > 0

        m = metrics(server)
        assert total(m, "ordinal_ids_total") == 35
        assert m["ordinal_calls_total"][1][f'ordinal_calls_total{{method="{NEXT}",status="OK"}}'] == 11
        assert m["ordinal_calls_refused_total"][1]['ordinal_calls_refused_total{status="UNIMPLEMENTED"}'] == 1
        assert m["ordinal_sequence_next"][1]['ordinal_sequence_next{sequence="orders"}'] == 6
        assert total(m, "ordinal_connections") == 1
    stats = counted(server, lambda s: s["total"]["connections"] == 0, "the connection to be over")
    assert stats["connections_ended"]["done"] == 1 and stats["total"]["sessions_native"] == 0
    assert stats["total"]["sessions_native_opened"] == 1
    assert stats["total"]["recv_buffers_free"] == stats["total"]["recv_buffers"]
    assert stats["total"]["output_bytes"] == 0


def test_counts_agree_with_the_load_generator(server):
    report = appliance.load(server, "--duration", "1", "--protocol", "grpc")
    stats = counted(server, lambda s: s["total"]["connections"] == 0, "the connections to be over")
    assert stats["methods"][NEXT]["by_status"]["OK"] == report["by_status"]["OK"]
    assert stats["total"]["ids"] >= report["check"]["received"]
    assert stats["total"]["sessions_grpc_opened"] >= 1
    m = metrics(server)
    assert m["ordinal_call_latency_seconds"][1][f'ordinal_call_latency_seconds_count{{method="{NEXT}"}}'] == report["by_status"]["OK"]


def test_rates_appear_and_fade(server):
    with native.Client(server) as c:
        def busy():
            c.next(count=7)
            r = server.stats()["rates_per_second"]
            return r["calls"]["1s"] > 0 and r["ids"]["10s"] > 0 and r["bytes_in"]["60s"] > 0
        appliance.wait_until(busy, "a rate")
    appliance.wait_until(lambda: server.stats()["rates_per_second"]["calls"]["1s"] == 0, "the rate over 1 s to go down to 0")
    assert server.stats()["rates_per_second"]["ids"]["60s"] > 0


def test_a_broken_client_shows(server):
    with server.connect() as s:
        s.sendall(b"HELO there\r\n")
        try:
            assert s.recv(100) == b""
        except ConnectionResetError:
            pass
    stats = counted(server, lambda s: s["connections_ended"]["protocol"] == 1, "the protocol error")
    assert stats["total"]["protocol_errors"] == 1


def test_names_of_sequences_are_escaped(server):
    name = 'it\'s "quoted" \\ and {braces}=,'
    with native.Client(server) as c:
        c.next(name)
    assert name in {s["name"] for s in server.stats()["sequences"]}
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    assert f'ordinal_sequence_next{{sequence="{escaped}"}}' in metrics(server)["ordinal_sequence_next"][1]


def test_many_sequences_are_bounded(server):
    with native.Client(server) as c:
        for i in range(150):
            c.next(f"s{i}")
    stats = server.stats()
    assert stats["sequence_count"] == 151 and len(stats["sequences"]) == 100
    assert len(metrics(server)["ordinal_sequence_next"][1]) == 100
    assert "and 51 more" in server.get("/stats")[1].decode()


def test_for_people_and_for_the_tool(server):
    with native.Client(server) as c:
        c.next("orders")
    status, body = server.get("/stats")
    text = body.decode()
    assert status == 200
    for part in ("Ordinal ", server.address, NEXT, "orders", "Shards", "Rings", "Journal", "Connections", "Log"):
        assert part in text
    assert max(map(len, text.splitlines())) < 160
    shown = appliance.tool("stats", "--socket", server.stats_socket).stdout
    assert NEXT in shown and "orders" in shown
    parsed = json.loads(appliance.tool("stats", "--json", "--socket", server.stats_socket).stdout)
    assert parsed["methods"][NEXT]["by_status"] == {"OK": 1}
    assert "# TYPE ordinal_calls_total counter" in appliance.tool("stats", "--metrics", "--socket", server.stats_socket).stdout


def test_curl(server):
    done = subprocess.run(["curl", "-sS", "-i", "--unix-socket", server.stats_socket, "http://ordinal/metrics", "http://ordinal/nothing"],
                          capture_output=True, text=True, check=True, timeout=appliance.PATIENCE_S)
    assert "HTTP/1.1 200 OK" in done.stdout and "text/plain; version=0.0.4" in done.stdout and "HTTP/1.1 404 Not Found" in done.stdout


@pytest.mark.parametrize("request_bytes, status", [
    (b"POST /stats HTTP/1.1\r\nHost: o\r\nContent-Length: 2\r\n\r\n{}", 405),
    (b"GET /stats HTTP/1.1\r\n\r\n", 400),
    (b"\x16\x03\x01 hello, TLS", 400),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n", 431),
    (b"GET /stats HTTP/3.0\r\nHost: o\r\n\r\n", 505),
])
def test_bad_requests(server, request_bytes, status):
    answer = http(server.stats_socket, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert server.get("/stats")[0] == 200


def test_many_clients_at_once_are_bounded(server):
    crowd = []
    try:
        for _ in range(200):
            s = socket.socket(socket.AF_UNIX)
            crowd.append(s)
            s.connect(str(server.stats_socket))  # blocking: it may wait for its turn
            s.settimeout(appliance.PATIENCE_S)
        appliance.wait_until(lambda: server.sockets() < 100, "those too many to be closed")
        with native.Client(server) as c:
            assert c.next() == range(1, 2)
    finally:
        for s in crowd:
            s.close()
    appliance.wait_until(lambda: server.get("/stats")[0] == 200, "room for another client")


def test_the_sockets_file(daemon, tmp_path):
    where = tmp_path / "run" / "ordinal" / "stats.sock"
    d = daemon(STATS_SOCKET=where)
    mode = os.stat(where).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o660
    second = daemon.prepare(STATS_SOCKET=where)
    code, said = second.start_refused()
    assert code == 1 and f"process {d.pid} listens there" in said
    assert http(where, b"GET /stats HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    d.kill()
    assert where.exists()
    d.start()  # takes the dead one's place
    assert http(where, b"GET /stats HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    d.stop()
    assert not where.exists()


def test_off(daemon, tmp_path):
    d = daemon(STATS_SOCKET="")
    assert not list(d.directory.glob("*.sock"))
    with native.Client(d) as c:
        assert c.next() == range(1, 2)
    d.stop()


def test_it_answers_while_draining_and_a_second_signal_ends_at_once(daemon):
    d = daemon(SHARDS=2, DRAIN_TIMEOUT_MS=600000)
    with native.Client(d) as c:
        assert c.next() == range(1, 2)
        c.send(native.request(5, b"", flags=native.EMPTY, method=native.TAKE))  # a stream that stays open
        counted(d, lambda s: s["total"]["calls_live"] == 1, "the stream to be open")
        d.signal(signal.SIGTERM)
        stats = counted(d, lambda s: any(x["state"] == "draining" for x in s["shards"]), "the drain to begin")
        assert stats["total"]["connections"] == 1
        assert metrics(d)["ordinal_connections"]
        assert d.is_running()
        d.signal(signal.SIGTERM)
        d.wait_stopped()
    assert not d.stats_socket.exists()
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(2, 3)  # it stopped cleanly
