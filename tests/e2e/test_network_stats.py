"""ordinal.v1.Stats: the pages of the stats socket over the network. Who may read them, what they hold, and what many or slow readers cost others."""

import json
import os
import re
import signal
import subprocess
import threading

import grpc
import h2raw
import native
import pytest
from appliance import ORDINAL, PATIENCE_S, tool, wait_until
from h2raw import Connection, window_update
from test_access import AUTH, PERMISSION_DENIED, UNAUTHENTICATED, bearer, digest, native_status, reload_rules, status_of
from test_tls import Authority

GET_PATH, GET = "/ordinal.v1.Stats/Get", 7
TEXT, JSON, PROMETHEUS = range(3)
PATHS = {TEXT: "/stats", JSON: "/stats.json", PROMETHEUS: "/metrics"}
TYPES = {TEXT: "text/plain; charset=utf-8", JSON: "application/json", PROMETHEUS: "text/plain; version=0.0.4; charset=utf-8"}
OK, RESOURCE_EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
NEVER_MS = 60_000  # a pause that does not end within a test: whoever asks after the first one waits

RULES = f"""watcher {digest('t-watcher')} stats
other   {digest('t-other')} ids:* publish:* subscribe:*
root    {digest('t-root')} admin
screen  cert:screen stats
writer  cert:writer ids:*
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "access"
    path.write_text(RULES)
    return path


@pytest.fixture
def guarded(daemon, rules):
    return daemon(SHARDS=2, ACCESS_FILE=rules)


@pytest.fixture
def get(stubs, connect):
    """get(daemon, format) gives a StatsReply, over a connection of its own."""
    def ask(d, form=TEXT, **kw):
        return stub(d).Get(stubs.stats.StatsRequest(format=form), timeout=PATIENCE_S, **kw)

    def stub(d):
        return stubs.stats_rpc.StatsStub(connect(d).channel)

    ask.stub = stub
    return ask


def request(form=TEXT):
    return b"\x08" + bytes([form])


def reply(payload):
    """(content type, body) of a StatsReply."""
    fields, at = {}, 0
    while at < len(payload):
        tag, at = native.get_varint(payload, at)
        n, at = native.get_varint(payload, at)
        fields[tag >> 3], at = payload[at:at + n], at + n
    return fields[1].decode(), fields[2]


def native_get(d, form=TEXT, token=None):
    """The one frame of the answer."""
    with native.Client(d) as c:
        if token:
            c.send(native.frame(AUTH, 0, token.encode()))
        return c.call(request(form), method=GET)


def code_of(call):
    try:
        call()
        return OK
    except grpc.RpcError as e:
        return e.code()


def shape(value):
    """What is there, without the figures."""
    if isinstance(value, dict):
        return {k: {} if k in ("by_status", "refused_by_status") else shape(v) for k, v in value.items()}
    return [shape(v) for v in value] if isinstance(value, list) else type(value is None or value)


def words(text):
    """The first word of each line, where it is a word."""
    return [m[0] for line in text.splitlines() if (m := re.match(r"\s*[A-Za-z]\S*", line))]


def families(text):
    return re.findall(r"^# TYPE (.*)", text, re.M)


def begin_pause(d, get):
    """From here on, who asks waits until the pause is over: the main thread, which answers on the socket too, has ended its batch of pages."""
    get(d)
    assert d.stats()["network_stats"]["pages_rendered"] == 1


def waiting(d, calls):
    """Waits until so many calls for stats are in flight."""
    wait_until(lambda: d.stats()["total"]["calls_live"] == calls, f"{calls} calls to be in flight")


# ---- what it says ----

def test_a_stock_client_gets_the_pages_of_the_socket(server, get):
    get(server)  # so that both tell of a call for stats
    for form in (TEXT, JSON, PROMETHEUS):
        answer = get(server, form)
        status, body = server.get(PATHS[form])
        assert status == 200 and answer.content_type == TYPES[form]
        ours, theirs = answer.body.decode(), body.decode()
        if form == JSON:
            ours, theirs = json.loads(ours), json.loads(theirs)
            assert shape(ours) == shape(theirs)
            assert ours["pid"] == server.pid and ours["listen"] == server.address
            assert ours["methods"]["ordinal.v1.Stats/Get"]["by_status"]["OK"] >= 2
        elif form == TEXT:
            assert words(ours) == words(theirs)
        else:
            assert families(ours) == families(theirs) and len(families(ours)) > 50


def test_the_figures_are_read_after_the_question(server, get):
    for i in range(5):
        with native.Client(server) as c:
            c.next(count=100)
        assert json.loads(get(server, JSON).body)["total"]["ids"] == 100 * (i + 1)


def test_native_framing_answers_with_one_message(server):
    for form in (TEXT, JSON, PROMETHEUS):
        f = native_get(server, form)
        assert f.kind == native.MESSAGE and f.flags == native.LAST, f
        content_type, body = reply(f.payload)
        assert content_type == TYPES[form]
        assert form != JSON or json.loads(body)["pid"] == server.pid


def test_requests_that_are_none(server):
    assert native_status(server, request(3), method=GET)[0] == native.INVALID_ARGUMENT
    status, text = native_status(server, b"\x08\x83\x80\x80\x80\x08", method=GET)
    assert status == native.INVALID_ARGUMENT and "StatsFormat" in text
    assert native_status(server, b"\xff", method=GET)[0] == native.INVALID_ARGUMENT
    assert status_of(server, b"\x08", path=GET_PATH)[0] == native.INVALID_ARGUMENT
    assert status_of(server, b"\x12\x01x\x08\x00", path=GET_PATH)[0] == 0  # fields of a later version are passed over


def test_without_a_stats_socket_the_network_tells_still(daemon, get):
    d = daemon(SHARDS=1, STATS_SOCKET="")
    first = json.loads(get(d, JSON).body)
    assert first["pid"] == d.pid
    with native.Client(d) as c:
        def busy():
            c.next()
            return json.loads(get(d, JSON).body)["rates_per_second"]["ids"]["60s"] > 0
        wait_until(busy, "a rate, which takes samples")


# ---- who may read it ----

@pytest.mark.parametrize("token,status,word", [
    (None, UNAUTHENTICATED, "token is needed"), ("wrong", UNAUTHENTICATED, "not one of"),
    ("t-other", PERMISSION_DENIED, '"other" lacks the right stats'), ("t-watcher", 0, ""), ("t-root", 0, ""),
])
def test_it_takes_the_right_stats(guarded, get, token, status, word):
    metadata = bearer(token) if token else []
    assert code_of(lambda: get(guarded, metadata=metadata)).value[0] == status
    got, text = status_of(guarded, request(), path=GET_PATH, extra=metadata)
    assert got == status and word in text
    got, text = native_status(guarded, request(), token=token, method=GET)
    assert got == status and word in text
    counted = guarded.stats()["refusals"]["by_reason"]
    assert (counted["unauthenticated"], counted["permission_denied"]) == (3 * (status == UNAUTHENTICATED), 3 * (status == PERMISSION_DENIED))


def test_the_right_stats_is_no_other_right(guarded):
    assert status_of(guarded, extra=bearer("t-watcher"))[0] == PERMISSION_DENIED
    assert status_of(guarded, b"\x0a\x01s\x10\x01", path="/ordinal.v1.Feed/Publish", extra=bearer("t-watcher"))[0] == PERMISSION_DENIED


def test_certificates(daemon, tmp_path, rules, stubs):
    authority = Authority(tmp_path / "ca", "test authority")
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert, ACCESS_FILE=rules)
    for name, code in (("screen", OK), ("writer", grpc.StatusCode.PERMISSION_DENIED), ("stranger", grpc.StatusCode.UNAUTHENTICATED)):
        mine, my_key = authority.issue(name)
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), my_key.read_bytes(), mine.read_bytes())
        with grpc.secure_channel(d.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = stubs.stats_rpc.StatsStub(channel).Get
            assert code_of(lambda: call(stubs.stats.StatsRequest(), timeout=PATIENCE_S)) == code, name
        for protocol in ("native", "grpc"):
            done = tool("stats", "--server", d.address, "--protocol", protocol, "--tls-ca", authority.cert, "--tls-cert", mine, "--tls-key", my_key,
                        check=False)
            assert done.returncode == (0 if code == OK else 1), done.stderr
            assert (done.stdout if code == OK else done.stderr).startswith("Ordinal " if code == OK else f"ordinal: {code.name}: ")


def test_new_rules_count_for_the_next_question(guarded, rules):
    with native.Client(guarded) as c:
        c.send(native.frame(AUTH, 0, b"t-other"))
        assert c.call(request(), method=GET).status == PERMISSION_DENIED
        reload_rules(guarded, RULES.replace("ids:*", "stats"), rules)
        assert c.call(request(), method=GET).status == 0


def test_addresses_of_clients_are_for_those_with_the_right(server, guarded, get):
    """Without rules nobody has been allowed to know who else was refused something."""
    for d in (server, guarded):
        for _ in range(3):
            assert status_of(d, b"\xff", path="/ordinal.v1.Nothing/Next")[0] != 0
            with native.Client(d) as c:
                c.send(b"\x81\xff" + bytes(14))
                assert c.is_closed()
        wait_until(lambda d=d: d.stats()["refusals"]["by_address"], "the refusal to be counted")
        told = d.stats()["refusals"]
        assert told["by_address"][0]["address"] == "127.0.0.1" and told["addresses_withheld"] is False
    anonymous = json.loads(get(server, JSON).body)["refusals"]
    assert anonymous["by_address"] == [] and anonymous["addresses_withheld"] is True and anonymous["by_reason"]["protocol"] == 3
    text = get(server, TEXT).body.decode()
    assert "127.0.0.1: " not in text and "ACCESS_FILE" in text and "in all: protocol 3" in text
    right = bearer("t-watcher")
    told = json.loads(get(guarded, JSON, metadata=right).body)["refusals"]
    assert told["by_address"][0]["address"] == "127.0.0.1" and told["addresses_withheld"] is False
    assert "  127.0.0.1: protocol 3" in get(guarded, TEXT, metadata=right).body.decode()
    assert "  127.0.0.1: protocol 3" in server.get("/stats")[1].decode()  # whoever asks in between changes nothing


# ---- waiting ----

def test_calls_that_wait_can_be_cancelled_time_out_or_vanish(daemon, get, stubs):
    d = daemon(SHARDS=2, STATS_PAUSE_MS=NEVER_MS, STATS_CALLS_MAX=2, STATS_CONN_CALLS_MAX=2)
    begin_pause(d, get)
    stub = get.stub(d)
    for _ in range(5):  # more than there are places
        future = stub.Get.future(stubs.stats.StatsRequest())
        waiting(d, 1)
        future.cancel()
        waiting(d, 0)
        assert code_of(lambda: stub.Get(stubs.stats.StatsRequest(), timeout=0.05)) == grpc.StatusCode.DEADLINE_EXCEEDED
        waiting(d, 0)
        with native.Client(d) as c:
            c.send(native.request(1, request(), method=GET) + native.request(2, request(), method=GET, timeout_ms=50))
            assert (f := c.get()).call == 2 and f.status == native.DEADLINE_EXCEEDED
            c.send(native.frame(native.CANCEL, 1))
            assert (f := c.get()).call == 1 and f.status == native.CANCELLED
            c.send(native.request(3, request(), method=GET))
            waiting(d, 1)
            c.reset()
            waiting(d, 0)
    stats = d.stats()
    assert stats["network_stats"]["pages_rendered"] == 1
    counted = stats["methods"]["ordinal.v1.Stats/Get"]["by_status"]
    assert counted["OK"] == 1 and sum(counted.values()) == 26 and counted["CANCELLED"] >= 15  # a stock client's own clock may be first at a deadline
    assert counted["DEADLINE_EXCEEDED"] >= 5


@pytest.mark.parametrize("how", ["grpc", "native"])
def test_a_drain_answers_who_waits(daemon, get, stubs, how):
    d = daemon(SHARDS=2, STATS_PAUSE_MS=NEVER_MS, DRAIN_TIMEOUT_MS=50_000)
    begin_pause(d, get)
    if how == "grpc":
        future = get.stub(d).Get.future(stubs.stats.StatsRequest(format=JSON))
        waiting(d, 1)
        d.stop()
        answer = future.result(timeout=PATIENCE_S)
        assert answer.content_type == TYPES[JSON] and json.loads(answer.body)["pid"]
    else:
        with native.Client(d) as c:
            c.send(native.request(1, request(JSON), method=GET))
            waiting(d, 1)
            stopper = threading.Thread(target=d.stop)
            stopper.start()
            while (f := c.get()).kind == native.GOAWAY:
                pass
            assert f.call == 1 and json.loads(reply(f.payload)[1])["listen"] == d.address
            c.close()
            stopper.join()


def test_one_page_answers_all_who_wait(daemon, get):
    """1,000 calls on one connection: as many as may wait do, the others are told the limit, other connections are served, and one page is rendered for all."""
    d = daemon(SHARDS=1, STATS_PAUSE_MS=NEVER_MS, STATS_CALLS_MAX=20, STATS_CONN_CALLS_MAX=8)
    begin_pause(d, get)
    with native.Client(d) as flood, native.Client(d) as ids, native.Client(d) as honest:
        flood.send(b"".join(native.request(i, request(i % 3), method=GET) for i in range(1000)))
        refused = [flood.get() for _ in range(992)]
        assert {f.status for f in refused} == {native.RESOURCE_EXHAUSTED}
        assert all(b"STATS_CONN_CALLS_MAX" in f.payload for f in refused)
        assert [f.call for f in refused] == list(range(8, 1000))
        for i in range(100):
            assert ids.next() == range(i + 1, i + 2)
        honest.send(native.request(7, request(), method=GET))
        waiting(d, 9)
        assert d.stats()["network_stats"]["pages_rendered"] == 1
        assert d.stats()["refusals"]["by_reason"]["limit"] == 992
        with native.Client(d) as second, native.Client(d) as third:
            second.send(b"".join(native.request(i, request(), method=GET) for i in range(8)))
            waiting(d, 17)
            third.send(b"".join(native.request(i, request(), method=GET) for i in range(4)))
            f = third.get()
            assert f.call == 3 and b"STATS_CALLS_MAX" in f.payload and f.status == native.RESOURCE_EXHAUSTED
            second.reset()
            third.reset()
        waiting(d, 9)
        d.signal(signal.SIGTERM)
        answers = {}
        while len(answers) < 8:
            f = flood.get()
            if f.kind == native.MESSAGE:
                answers[f.call] = reply(f.payload)
        while (f := honest.get()).kind == native.GOAWAY:
            pass
        assert {i: t for i, (t, _) in answers.items()} == {i: TYPES[i % 3] for i in range(8)}
        assert reply(f.payload)[1] == answers[0][1] == answers[3][1] == answers[6][1]  # the same page, byte for byte
        assert answers[1][1] == answers[4][1] == answers[7][1]
    d.wait_stopped()


def test_a_flood_leaves_others_alone(daemon, get, stubs, connect):
    """With the limits as they come: 1,000 stock calls at once, while others get IDs and stats."""
    d = daemon(SHARDS=2)
    stub, ids = get.stub(d), connect(d)
    futures = [stub.Get.future(stubs.stats.StatsRequest(format=i % 3)) for i in range(1000)]
    for i in range(200):
        assert ids.Next(stubs.pb.NextRequest(), timeout=PATIENCE_S).first == i + 1
    assert json.loads(get(d, JSON).body)["total"]["ids"] == 200
    codes = [f.code() for f in futures]
    assert set(codes) <= {OK, RESOURCE_EXHAUSTED} and codes.count(OK) >= 8
    for f in futures:
        if f.code() == OK:
            assert len(f.result().body) > 1000
    stats = d.stats()
    assert stats["network_stats"]["pages_rendered"] <= codes.count(OK) + 1
    assert stats["methods"]["ordinal.v1.Stats/Get"]["by_status"].get("RESOURCE_EXHAUSTED", 0) == codes.count(RESOURCE_EXHAUSTED)


# ---- slow readers ----

def big(d, sequences=300):
    """Makes the page for Prometheus long: each stream has series of its own."""
    with native.Client(d) as c:
        for i in range(sequences):
            c.next(f"{'long' * 20}{i}")


def test_a_reader_gets_it_in_pieces(server):
    big(server)
    with Connection(server, INITIAL_WINDOW_SIZE=100) as c:
        c.send(h2raw.call(1, request(PROMETHEUS), path=GET_PATH))
        c.sync()
        while not c.answers.get(1) or not c.answers[1].ended:
            c.send(window_update(1, 3000) + window_update(0, 3000))
            c.sync()
        a = c.answers[1]
        assert a.status == 0 and a.reset is None
        (m,) = a.messages()
        content_type, body = reply(m)
        assert content_type == TYPES[PROMETHEUS] and len(body) > 20_000 and body.endswith(b"\n")
        assert families(body.decode()) == list(dict.fromkeys(families(body.decode())))


def test_who_reads_nothing_has_a_place_and_no_more(daemon):
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=NEVER_MS, STATS_CALLS_MAX=4, STATS_CONN_CALLS_MAX=4)
    with Connection(d, INITIAL_WINDOW_SIZE=0) as c:
        streams = (1, 3, 5, 7)
        c.send(b"".join(h2raw.call(i, request(), path=GET_PATH) for i in streams))
        c.settle()
        assert native_get(d).status == native.RESOURCE_EXHAUSTED
        c.send(b"".join(window_update(i, 1 << 20) for i in streams) + window_update(0, 1 << 20))
        assert [c.answer(i).status for i in streams] == [0, 0, 0, 0]
    assert native_get(d).status == 0


def test_readers_that_take_nothing_lose_their_place(daemon):
    d = daemon(SHARDS=1, STALL_TIMEOUT_MS=500, STATS_CALLS_MAX=4, STATS_CONN_CALLS_MAX=4)
    with Connection(d, INITIAL_WINDOW_SIZE=0) as c:
        c.send(b"".join(h2raw.call(i, request(), path=GET_PATH) for i in (1, 3, 5, 7)))
        for i in (1, 3, 5, 7):
            a = c.answer(i)
            assert a.status == native.DEADLINE_EXCEEDED and "STALL_TIMEOUT_MS" in a.text and a.data == b""
        assert d.stats()["refusals"]["by_reason"]["stalled"] == 4
        assert native_get(d).status == 0


def test_a_native_reader_gets_many_long_pages(daemon):
    """More than CONN_QUEUE_MAX in all: they are sent as the client reads."""
    d = daemon(SHARDS=1, STATS_CONN_CALLS_MAX=100, STATS_CALLS_MAX=100, NATIVE_INFLIGHT_MAX=100, CONN_QUEUE_MAX=16384)
    big(d)
    with native.Client(d) as c:
        c.send(b"".join(native.request(i, request(PROMETHEUS), method=GET) for i in range(100)))
        got = [c.get() for _ in range(100)]
        assert sorted(f.call for f in got) == list(range(100))
        assert all(f.kind == native.MESSAGE and f.flags == native.LAST for f in got)
        assert sum(len(f.payload) for f in got) > 2_000_000
        c.ping()


# ---- the program ----

PROTOCOLS = ["native", "grpc"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_tool_prints_what_the_socket_says(server, protocol):
    where = ("--server", server.address, "--protocol", protocol)
    tool("stats", *where)
    local = ("--socket", server.stats_socket)
    assert words(tool("stats", *where).stdout) == words(tool("stats", *local).stdout)
    assert shape(json.loads(tool("stats", "--json", *where).stdout)) == shape(json.loads(tool("stats", "--json", *local).stdout))
    assert families(tool("stats", "--metrics", *where).stdout) == families(tool("stats", "--metrics", *local).stdout)
    assert tool("stats", "topology", *where).stdout == tool("stats", "topology", *local).stdout
    assert json.loads(tool("stats", "topology", "--json", *where).stdout) == server.stats()["topology"]


def readings(d):
    return d.stats()["methods"]["ordinal.v1.Stats/Get"]["by_status"].get("OK", 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_top_reads_over_one_connection(server, protocol):
    where = ("--server", server.address, "--protocol", protocol, "--once", "--interval", "100ms")
    done = tool("top", *where)
    assert words(done.stdout) == words(tool("top", "--socket", server.stats_socket, "--once", "--interval", "100ms").stdout)
    assert server.stats()["total"]["connections_accepted"] == 1
    assert server.stats()["methods"]["ordinal.v1.Stats/Get"]["by_status"] == {"OK": 2}


def test_top_comes_back_after_a_restart(daemon):
    """A connection that was lost between two readings is made again. The daemon is stopped while `top` sleeps, and is back on its port before it asks."""
    d = daemon(SHARDS=1)
    d.options["LISTEN"] = d.address
    process = subprocess.Popen([ORDINAL, "top", "--server", d.address, "--interval", "50ms"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: readings(d) >= 2, "readings")
        process.send_signal(signal.SIGSTOP)
        d.stop()
        d.start()
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: readings(d) >= 2, "readings after the restart")
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and err == ""


def test_the_tool_shows_a_token(guarded, tmp_path):
    (tmp_path / "token").write_text("t-watcher\n")
    (tmp_path / "other").write_text("t-other\n")
    for command in (["stats"], ["stats", "topology"], ["top", "--once", "--interval", "50ms"]):
        for protocol in PROTOCOLS:
            where = (*command, "--server", guarded.address, "--protocol", protocol)
            assert tool(*where, "--token-file", tmp_path / "token").stdout
            env = {**os.environ, "ORDINAL_TOKEN": "t-root"}
            assert subprocess.run([ORDINAL, *where], env=env, capture_output=True, timeout=60, check=True).stdout
            done = tool(*where, check=False)
            assert (done.returncode, done.stdout) == (1, "") and "UNAUTHENTICATED: a token is needed" in done.stderr and "--token-file" in done.stderr
            done = tool(*where, "--token-file", tmp_path / "other", check=False)
            assert (done.returncode, done.stdout) == (1, "") and 'PERMISSION_DENIED: "other" lacks the right stats' in done.stderr


def test_the_tool_over_tls(daemon, tmp_path):
    authority = Authority(tmp_path / "ca", "test authority")
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    for protocol in PROTOCOLS:
        where = ("--server", d.address, "--protocol", protocol)
        assert json.loads(tool("stats", "--json", *where, "--tls-ca", authority.cert).stdout)["pid"] == d.pid
        done = tool("stats", *where, check=False)
        assert done.returncode == 3 and done.stdout == ""
        assert f" on {d.address} " in tool("top", *where, "--tls-ca", authority.cert, "--once", "--interval", "50ms").stdout


def test_servers_that_do_not_tell(stubs, tmp_path):
    from stock_feed import StockFeed
    feed = StockFeed(stubs)
    done = tool("stats", "--server", feed.address, "--protocol", "grpc", check=False)
    feed.stop()
    assert done.returncode == 1 and "UNIMPLEMENTED" in done.stderr and "stats socket" in done.stderr
    for command in ("stats", "top"):
        done = tool(command, "--server", "127.0.0.1:1", check=False)
        assert (done.returncode, done.stdout) == (3, "") and "127.0.0.1:1" in done.stderr and "Connection refused" in done.stderr
        done = tool(command, "--socket", tmp_path / "none", check=False)
        assert (done.returncode, done.stdout) == (3, "") and "--server" in done.stderr


@pytest.mark.parametrize("command", ["stats", "top"])
def test_without_the_option_it_is_the_socket(server, command):
    """Also where the environment names a server for the other commands."""
    env = {**os.environ, "ORDINAL_SERVER": "127.0.0.1:1", "ORDINAL_STATS_SOCKET": str(server.stats_socket)}
    done = subprocess.run([ORDINAL, command, *(["--once", "--interval", "50ms"] if command == "top" else [])], env=env, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0 and f" on {server.address}" in done.stdout, done.stderr
    assert server.stats()["total"]["connections_accepted"] == 0


@pytest.mark.parametrize("args,word", [
    (["--socket", "s", "--server", "127.0.0.1:1"], "name one"), (["--tls"], "--server"), (["--protocol", "grpc"], "--server"),
    (["--timeout", "1s"], "--server"), (["--server", "127.0.0.1"], "--server 127.0.0.1"), (["--server", "h:1", "--tls-cert", "c"], "--tls-key"),
])
@pytest.mark.parametrize("command", ["stats", "top"])
def test_wrong_usage(command, args, word):
    done = tool(command, *args, check=False)
    assert (done.returncode, done.stdout) == (2, "") and word in done.stderr
