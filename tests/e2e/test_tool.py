"""The `ordinal` program: next, load and stats, against the daemon and against a stock gRPC server."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent import futures

import pytest

import appliance
from appliance import ORDINAL, load, load_begin, load_end, tool

PROTOCOLS = ["native", "grpc"]


def lines(done):
    return [int(line) for line in done.stdout.split()]


# ---- all ----

def test_both_programs_tell_their_version():
    said = tool("--version").stdout
    assert re.fullmatch(r"ordinal \d+\.\d+\.\d+\n", said) and tool("-V").stdout == said
    daemon = subprocess.run([appliance.ORDINALD, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert daemon.stdout == said.replace("ordinal", "ordinald")


def test_every_command_that_calls_a_server_takes_the_same_credentials():
    shared = {"--token-file", "--tls", "--tls-ca", "--tls-cert", "--tls-key", "--tls-name"}
    callers = set()
    for command in re.findall(r"^  ([a-z]+)  ", tool("--help").stdout, re.M):
        options = set(re.findall(r"^  (--[a-z-]+)", tool(command, "--help").stdout, re.M))
        callers |= {command} if "--server" in options else set()
        assert options & shared == (shared if "--server" in options else set()), command
    assert callers == {"next", "publish", "subscribe", "load", "stats", "top"}


# ---- next ----

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_next_prints_one_id_a_line(server, protocol):
    first = lines(tool("next", "--server", server.address, "--protocol", protocol))
    more = lines(tool("next", "--server", server.address, "--protocol", protocol, "--count", 5))
    assert first == [1]
    assert more == [2, 3, 4, 5, 6]


def test_next_asks_for_more_than_one_call_can_bring(server):
    done = tool("next", "--server", server.address, "--count", 2_500_000, "--json", "--sequence", 'a "b"')
    report = json.loads(done.stdout)
    assert report["sequence"] == 'a "b"'
    assert report["order"] == "strict"
    assert [r["count"] for r in report["ranges"]] == [1_000_000, 1_000_000, 500_000]
    assert report["ranges"][0]["first"] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("limit", [1, 2, 7, 1000, 4096])
def test_next_learns_what_a_server_grants_at_once(daemon, limit, protocol):
    """It asked for 1,000,000 at once, and failed where COUNT_MAX is less."""
    d = daemon(SHARDS=1, COUNT_MAX=limit)
    count = 5 * limit + 3
    where = ("next", "--server", d.address, "--protocol", protocol)
    assert lines(tool(*where, "--count", count)) == list(range(1, count + 1))
    ranges = json.loads(tool(*where, "--count", count, "--json").stdout)["ranges"]
    assert ranges[0]["first"] == count + 1 and sum(r["count"] for r in ranges) == count
    assert max(r["count"] for r in ranges) > limit / 2, "it asks for as many as it has learned it may"
    assert len(ranges) <= 10 + 2 * limit.bit_length()


def test_next_ends_where_a_refusal_is_not_about_the_number(daemon):
    d = daemon(SHARDS=1, SEQUENCES_MAX=1)
    done = tool("next", "--server", d.address, "--count", 1000, "--sequence", "one-too-many", check=False)
    assert (done.returncode, done.stdout) == (1, "") and "SEQUENCES_MAX" in done.stderr
    assert d.stats()["methods"]["ordinal.v1.Ids/Next"]["by_status"] == {"RESOURCE_EXHAUSTED": 2}


def test_next_takes_the_server_from_the_environment(server):
    env = {**os.environ, "ORDINAL_SERVER": server.address}
    done = subprocess.run([ORDINAL, "next"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_next_tells_status_and_reason(server, protocol):
    done = tool("next", "--server", server.address, "--protocol", protocol, "--sequence", "x" * 129, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "INVALID_ARGUMENT: " in done.stderr


@pytest.mark.parametrize("command", [["next"], ["load", "--duration", "1"], ["load", "--protocol", "grpc", "--json"]])
def test_nobody_listens(command):
    done = tool(*command, "--server", "127.0.0.1:1", check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "127.0.0.1:1" in done.stderr and "Connection refused" in done.stderr and "--server" in done.stderr


@pytest.mark.parametrize("args", [
    [], ["frobnicate"], ["next", "--count", "0"], ["next", "--count", "-1"], ["next", "more"], ["next", "--protocol", "smtp"],
    ["load", "--rate", "0"], ["load", "--pin", "x"], ["load", "--pin", "5-3"], ["load", "--method", "put"], ["load", "--threads", "0"],
    ["load", "--method", "take", "--timeout", "1s"], ["stats", "all"], ["next", "--timeout", "soon"],
    ["load", "--duration", "0"], ["load", "--duration", "0ms"], ["stats", "--token-file", "t"], ["config", "--tls"],
    ["next", "--server", "127.0.0.1"], ["load", "--server", ":1"], ["subscribe", "--server", "h:99999"], ["publish", "--server", "unix:", "x"],
])
def test_wrong_usage_is_exit_code_2(args):
    done = tool(*args, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize("command", [[], ["next"], ["load"], ["stats"]])
def test_help_goes_to_standard_output(command):
    done = tool(*command, "--help")
    assert done.stdout.startswith("usage: ordinal")
    assert done.stderr == ""


# ---- load ----

@pytest.mark.parametrize("method", ["next", "take"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_reports_exactly_what_it_did(server, protocol, method):
    report = load(server, "--requests", 3000, "--count", 7, "--protocol", protocol, "--method", method, "--threads", 2)
    assert report["by_status"] == {"OK": 3000}
    assert report["errors"] == 0
    assert report["items"] == 21000
    latency = report["latency_us"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p75"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
    assert latency["p99"] <= latency["p999"] <= latency["max"]
    assert latency["min"] <= latency["mean"] <= latency["max"]
    check = report["check"]
    assert (check["received"], check["repeated"], check["disordered"], check["missing"]) == (21000, 0, 0, 0)
    assert report["calls_per_second"] > 0
    assert report["items_per_second"] == pytest.approx(7 * report["calls_per_second"], rel=1e-3)


def test_load_checks_across_other_clients(server):
    """IDs that somebody else got are missing here, and that is no fault."""
    threads = [load_begin(server, "--requests", 2000) for _ in range(2)]
    reports = [load_end(p) for p in threads]
    last = lines(tool("next", "--server", server.address))[0]
    assert last == 4001
    for code, report in reports:
        assert code == 0
        assert report["check"]["received"] == 2000
        assert report["check"]["missing"] <= 2000


def test_load_in_sharded_order(daemon):
    d = daemon(SHARDS=2, ID_ORDER="sharded")
    report = load(d, "--requests", 5000, "--connections", 8)
    assert report["check"]["order"] == "sharded"
    assert report["check"]["repeated"] == 0
    assert report["check"]["disordered_on_connection"] == 0


def test_load_at_a_rate_sends_what_is_due(server):
    report = load(server, "--rate", 500, "--requests", 500)
    assert report["calls"] == 500
    # 500 calls at 500 a second are 499 intervals of 2 ms; more only if the machine stood still.
    assert report["elapsed_seconds"] >= 0.99
    assert report["unsent"] == 0


def test_a_stall_is_charged_to_every_call_that_it_delayed(daemon):
    """With one call in flight, a closed loop would see one slow call. 3,000 calls at 1,000 a second and a stop of a second: a third was due
    meanwhile, so the slowest tenth of all waited most of that second."""
    d = daemon()
    p = load_begin(d, "--rate", 1000, "--requests", 3000, "--connections", 1, "--depth", 1)
    before = lines(tool("next", "--server", d.address))[0]
    appliance.wait_until(lambda: lines(tool("next", "--server", d.address))[0] > before + 100, "the load to run")
    d.signal(signal.SIGSTOP)
    time.sleep(1)
    d.signal(signal.SIGCONT)
    code, report = load_end(p)
    assert code == 0
    assert report["calls"] == 3000
    assert report["latency_us"]["p90"] >= 300_000
    assert report["latency_us"]["max"] >= 900_000


@pytest.mark.parametrize("method", ["next", "publish", "subscribe"])
def test_load_claims_nothing_of_what_it_did_not_receive(server, method):
    """With no ID received it said that the IDs were unique and rising."""
    args = {"next": ("--sequence", "x" * 129, "--requests", 10), "publish": ("--stream", "x" * 4000, "--requests", 10),
            "subscribe": ("--stream", "nothing")}[method]
    done = tool("load", "--server", server.address, "--method", method, *args, check=False)
    assert "received 0, " in done.stdout, done.stdout + done.stderr
    assert "came, so nothing was checked" in done.stdout
    assert "unique" not in done.stdout and "each frame" not in done.stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", ["next", "take"])
def test_a_drain_is_no_error(daemon, protocol, method):
    d = daemon(SHARDS=2)
    p = load_begin(d, "--duration", 60, "--protocol", protocol, "--method", method)
    before = lines(tool("next", "--server", d.address))[0]
    appliance.wait_until(lambda: lines(tool("next", "--server", d.address))[0] > before + 1000, "the load to run")
    d.stop()
    code, report = load_end(p)
    assert report["errors"] == 0, report
    assert report["connections_lost"] == 0
    assert code == 0
    assert report["check"]["ok"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_killed_server_is_unavailable(daemon, protocol):
    d = daemon()
    p = load_begin(d, "--duration", 60, "--protocol", protocol)
    before = lines(tool("next", "--server", d.address))[0]
    appliance.wait_until(lambda: lines(tool("next", "--server", d.address))[0] > before + 1000, "the load to run")
    d.kill()
    code, report = load_end(p)
    assert code == 1
    assert report["check"]["ok"]
    assert report["connections_lost"] == 5
    assert set(report["by_status"]) == {"OK", "UNAVAILABLE"}
    assert report["errors"] == report["by_status"]["UNAVAILABLE"] <= 100


def test_interrupt_ends_early_with_the_report(server):
    p = load_begin(server, "--duration", 600)
    appliance.wait_until(lambda: lines(tool("next", "--server", server.address))[0] > 1000, "the load to run")
    p.send_signal(signal.SIGINT)
    code, report = load_end(p)
    assert code == 0
    assert report["errors"] == 0
    assert report["calls"] > 0
    assert report["elapsed_seconds"] < 600


def test_the_live_line_and_the_text_report(server):
    done = tool("load", "--server", server.address, "--duration", "1200ms", "--live")
    assert "calls/s  p50 " in done.stderr
    for word in ("calls ", "errors     0", "min ", "mean ", "p50 ", "p75 ", "p90 ", "p95 ", "p99 ", "p99.9 ", "max ", "status     OK ",
                 "repeated 0, disordered 0", "unique and rising"):
        assert word in done.stdout, word


# ---- stats ----

def test_stats_come_from_the_socket(server):
    text = tool("stats", "--socket", server.stats_socket)
    assert text.stdout
    assert json.loads(tool("stats", "--json", "--socket", server.stats_socket).stdout)
    env = {**os.environ, "ORDINAL_STATS_SOCKET": str(server.stats_socket)}
    done = subprocess.run([ORDINAL, "stats", "--metrics"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "# TYPE" in done.stdout


@pytest.mark.parametrize("answer, code, out, err", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 0, "abc\n", ""),
    (b"HTTP/1.0 200 OK\r\n\r\nto the end\n", 0, "to the end\n", ""),
    (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope", 3, "", "404: nope"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc", 3, "", "cut off"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 3, "", "transfer coding"),
    (b"SSH-2.0-x\r\n", 3, "", "does not speak HTTP"),
    (b"", 3, "", "does not speak HTTP"),
])
def test_stats_reads_http_with_care(tmp_path, answer, code, out, err):
    path = tmp_path / "s.sock"
    asked = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            peer, _ = listener.accept()
            with peer:
                while b"\r\n\r\n" not in b"".join(asked):
                    asked.append(peer.recv(4096))
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = tool("stats", "--json", "--socket", path, check=False)
        thread.join()
    assert b"".join(asked).startswith(b"GET /stats.json HTTP/1.1\r\n")
    assert (done.returncode, done.stdout) == (code, out)
    assert err in done.stderr


def test_stats_without_a_daemon(tmp_path):
    done = tool("stats", "--socket", tmp_path / "none.sock", check=False)
    assert done.returncode == 3
    assert "none.sock" in done.stderr and "--socket" in done.stderr


# ---- a server that is not ours ----

@pytest.fixture
def stock(stubs):
    """A grpcio server with Ids; .address, .lies."""
    import grpc

    class Ids(stubs.rpc.IdsServicer):
        def __init__(self):
            self.lock = threading.Lock()
            self.next = 1
            self.repeat = self.swap = False
            self.say = None  # instead: (first, count)

        def Next(self, request, context):
            if request.sequence == "bad":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "100% bad: é")
            count = request.count or 1
            with self.lock:
                first = self.next
                self.next += count
                if self.repeat and first % 100 == 0:
                    first = 50
                elif self.swap and first % 100 == 0:
                    first = 1_000_000 - first
            if self.say:
                first, count = self.say
            return stubs.pb.NextReply(first=first, count=count)

        def Take(self, requests, context):
            for request in requests:
                yield self.Next(request, context)

    class Stock:
        ids = Ids()

        def __init__(self):
            self.server = grpc.server(futures.ThreadPoolExecutor(16))
            stubs.rpc.add_IdsServicer_to_server(self.ids, self.server)
            self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
            self.server.start()

    s = Stock()
    yield s
    s.server.stop(None)


def test_a_stock_server_answers_our_client(stock):
    assert lines(tool("next", "--server", stock.address, "--protocol", "grpc", "--count", 3)) == [1, 2, 3]
    done = tool("next", "--server", stock.address, "--protocol", "grpc", "--sequence", "bad", check=False)
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: 100% bad: é" in done.stderr
    for method in ("next", "take"):
        report = load(stock, "--protocol", "grpc", "--method", method, "--requests", 500)
        assert report["by_status"] == {"OK": 500}


def test_the_check_finds_repeats(stock):
    stock.ids.repeat = True
    report = load(stock, "--protocol", "grpc", "--requests", 1000, "--depth", 1, check=False)
    assert report["check"]["repeated"] > 0
    assert not report["check"]["ok"]
    assert tool("load", "--server", stock.address, "--protocol", "grpc", "--requests", 1000, check=False).returncode == 1


def test_the_check_finds_disorder(stock):
    """An ID far above the others comes first: those that follow are unique, and below it."""
    stock.ids.swap = True
    report = load(stock, "--protocol", "grpc", "--requests", 1000, "--depth", 1, check=False)
    assert report["check"]["repeated"] == 0
    assert report["check"]["disordered"] > 0
    assert not report["check"]["ok"]


@pytest.mark.parametrize("first,count", [(0, 3), (1, 0), (1, 4), (1, 2**32 - 1), (2**64 - 2, 3), (2**64 - 1, 2)])
def test_ids_that_cannot_be_are_not_printed(stock, first, count):
    """D6: what a server says is bounded where it comes in."""
    stock.ids.say = first, count
    done = tool("next", "--server", stock.address, "--protocol", "grpc", "--count", 3, check=False)
    assert done.returncode == 1
    assert "no NextReply for 3 IDs that rise" in done.stderr
    assert done.stdout == ""


def test_ids_that_do_not_rise_are_not_printed(stock):
    stock.ids.say = 7, 2
    done = tool("next", "--server", stock.address, "--protocol", "grpc", "--count", 4, check=False)
    assert done.returncode == 1
    assert "IDs that rise" in done.stderr
    assert lines(done) == [7, 8]


def test_the_wrong_protocol_is_named(stock):
    done = tool("next", "--server", stock.address, "--protocol", "native", check=False)
    assert done.returncode == 3
    assert "native framing" in done.stderr


def test_a_port_beyond_65535_is_refused(daemon):
    """It was taken modulo 65536: the resolver does that, and the tool asked somebody else."""
    d = daemon(SHARDS=1)
    for port in (d.port + 65536, "99999", "50051x", "+1", "-1"):
        done = appliance.tool("next", "--server", f"127.0.0.1:{port}", check=False)
        assert done.returncode == 2 and "a port is a number from 0 to 65535" in done.stderr, done


def test_load_goes_on_after_all_of_its_calls_timed_out(daemon):
    """Native: a pause of the server's, longer than --timeout, ended every call at once, and no further one was sent for the rest of the run."""
    d = daemon(SHARDS=1)
    run = appliance.load_begin(d, "--timeout", "200ms", "--duration", "4s")
    time.sleep(0.8)
    d.signal(signal.SIGSTOP)
    time.sleep(0.8)
    d.signal(signal.SIGCONT)
    time.sleep(0.4)
    last = appliance.tool("next", "--server", d.address).stdout
    appliance.load_end(run)
    assert int(appliance.tool("next", "--server", d.address).stdout) > int(last) + 1, "load had ended early"
