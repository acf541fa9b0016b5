"""Access: tokens, certificates and rights, over both framings; what is refused, with which code, how it is counted and logged."""

import hashlib
import os
import signal
import subprocess
import time

import grpc
import h2raw
import native
import pytest
from appliance import ORDINAL, PATIENCE_S, tool, wait_until
from h2raw import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, block, call, frame, message, request_fields
from native import NOT_FOUND, next_request
from test_tls import Authority

UNAUTHENTICATED, PERMISSION_DENIED = 16, 7
AUTH = 8
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def digest(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


RULES = f"""# name credential rights
orders  {digest('t-orders')}  ids:order ids:order.*
feeder  {digest('t-feeder')}  publish:ticks.* subscribe:ticks.*
late    {digest('t-late')}    until:2020-01-01 admin
root    {digest('t-root')}    admin
alice   cert:alice            ids:a.*
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "access"
    path.write_text(RULES)
    return path


@pytest.fixture
def guarded(daemon, rules):
    return daemon(SHARDS=2, ACCESS_FILE=rules)


def bearer(token):
    return [("authorization", f"Bearer {token}")]


def status_of(d, payload=b"", *, path=h2raw.NEXT_PATH, extra=(), fields=None):
    """(status, text) of one raw gRPC call on a connection of its own."""
    with Connection(d) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, block(*(fields or request_fields(path, extra)))) + frame(DATA, END_STREAM, 1, message(payload)))
        a = c.answer(1)
        assert a.reset is None, a
        return a.status, a.text


def native_status(d, payload=b"", *, token=None, method=native.NEXT, flags=native.LAST):
    with native.Client(d) as c:
        if token is not None:
            c.send(native.frame(AUTH, 0, token.encode()))
        c.send(native.request(1, payload, method=method, flags=flags))
        f = c.get()
        return f.status, f.payload.decode("utf-8", "replace") if f.kind == native.END else ""


def refusals(d):
    return d.stats()["refusals"]


def test_without_rules_everybody_may_do_everything(server):
    assert status_of(server)[0] == 0
    assert status_of(server, extra=bearer("anything"))[0] == 0
    assert native_status(server, token="anything")[0] == 0


@pytest.mark.parametrize("extra,status,word", [
    ([], UNAUTHENTICATED, "token is needed"),
    (bearer("wrong"), UNAUTHENTICATED, "not one of"),
    (bearer("t-order"), UNAUTHENTICATED, "not one of"),
    (bearer("T-orders"), UNAUTHENTICATED, "not one of"),
    ([("authorization", "Bearer")], UNAUTHENTICATED, "not one of"),
    ([("authorization", "t-orders")], UNAUTHENTICATED, "not one of"),
    ([("authorization", "Basic t-orders")], UNAUTHENTICATED, "not one of"),
    (bearer("t-orders") + bearer("t-orders"), UNAUTHENTICATED, "not one of"),
    (bearer("t-orders") + bearer("t-root"), UNAUTHENTICATED, "not one of"),
    (bearer("x" * 600), UNAUTHENTICATED, "not one of"),
    (bearer("t-late"), UNAUTHENTICATED, "until"),
    (bearer("t-feeder"), PERMISSION_DENIED, "ids:order"),
    (bearer("t-orders"), 0, ""),
    ([("authorization", "bearer t-orders")], 0, ""),
    (bearer("t-root"), 0, ""),
], ids=lambda v: str(v)[:40])
def test_who_may_have_ids(guarded, extra, status, word):
    got, text = status_of(guarded, next_request("order"), extra=extra)
    assert got == status and word in text, text


def test_what_a_token_may_name(guarded):
    for name, status in (("order", 0), ("order.1", 0), ("orders", PERMISSION_DENIED), ("", PERMISSION_DENIED), ("Order", PERMISSION_DENIED),
                         ("xorder", PERMISSION_DENIED), ("order.*", 0)):
        got, text = status_of(guarded, next_request(name), extra=bearer("t-orders"))
        assert got == status, (name, text)
        if status:
            assert f"ids:{name}" in text and "orders" in text
        assert native_status(guarded, next_request(name), token="t-orders")[0] == status, name


def publish_request(stream, seq_no=1):
    return b"\x0a" + native.varint(len(stream)) + stream.encode() + b"\x10" + native.varint(seq_no) + b"\x1a\x01x"


def test_streams(guarded):
    """Another's stream; and publishing is not subscribing."""
    feed = "/ordinal.v1.Feed/"
    for stream, status in (("ticks.a", 0), ("logs", PERMISSION_DENIED), ("ticks", PERMISSION_DENIED)):
        assert status_of(guarded, publish_request(stream), path=feed + "Publish", extra=bearer("t-feeder"))[0] == status
        assert status_of(guarded, publish_request(stream), path=feed + "PublishMany", extra=bearer("t-feeder"))[0] == status
        assert native_status(guarded, publish_request(stream), token="t-feeder", method=3)[0] == status
    for stream in ("logs", "ticks"):
        assert status_of(guarded, b"\x0a" + native.varint(len(stream)) + stream.encode(), path=feed + "Subscribe",
                         extra=bearer("t-feeder"))[0] == PERMISSION_DENIED
    got, text = status_of(guarded, publish_request("ticks.a"), path=feed + "Publish", extra=bearer("t-orders"))
    assert got == PERMISSION_DENIED and "publish:ticks.a" in text
    got, text = status_of(guarded, b"\x0a\x07ticks.a", path=feed + "Subscribe", extra=bearer("t-orders"))
    assert got == PERMISSION_DENIED and "subscribe:ticks.a" in text


def test_who_may_only_subscribe_makes_no_streams(daemon, rules):
    """Streams stay for good: a reader's typos would use up FEED_STREAMS_MAX."""
    def subscribe(d, stream, token):
        payload = b"\x0a" + native.varint(len(stream)) + stream.encode()
        return native_status(d, payload, token=token, method=5)

    rules.write_text(f"reader {digest('t-reader')} subscribe:*\nwriter {digest('t-writer')} publish:*\nboth {digest('t-both')} publish:* subscribe:*\n")
    d = daemon(SHARDS=2, ACCESS_FILE=rules, FEED_STREAMS_MAX=2)
    for i in range(5):
        status, text = subscribe(d, f"typo{i}", "t-reader")
        assert status == NOT_FOUND and "the right to publish" in text, (status, text)
    assert d.stats()["streams"]["count"] == 0
    assert native_status(d, publish_request("orders"), token="t-writer", method=3)[0] == 0
    assert subscribe(d, "orders", "t-reader")[0] == 0
    assert subscribe(d, "trades", "t-both")[0] == 0
    assert d.stats()["streams"]["count"] == 2


def test_a_take_is_asked_at_each_request(guarded):
    with Connection(guarded) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block(h2raw.TAKE_PATH, bearer("t-orders"))))
        c.send(frame(DATA, 0, 1, message(next_request("order.x"))))
        while 1 not in c.answers or not c.answers[1].data:
            c.get()
        c.send(frame(DATA, 0, 1, message(next_request("other"))))
        a = c.answer(1)
        assert a.status == PERMISSION_DENIED and len(a.messages()) == 1 and "ids:other" in a.text


def test_health_is_for_all_and_reflection_for_the_known(guarded):
    assert status_of(guarded, path=HEALTH)[0] == 0
    assert status_of(guarded, path=HEALTH, extra=bearer("wrong"))[0] == 0
    assert status_of(guarded, path=REFLECTION)[0] == UNAUTHENTICATED
    assert status_of(guarded, b"\x3a\x00", path=REFLECTION, extra=bearer("t-late"))[0] == UNAUTHENTICATED
    assert status_of(guarded, b"\x3a\x00", path=REFLECTION, extra=bearer("t-orders"))[0] == 0


@pytest.mark.parametrize("path", ["//ordinal.v1.Ids/Next", "/ordinal.v1.Ids//Next", "/ordinal.v1.Ids/Next/", "/ordinal.v1.ids/next",
                                  "/ORDINAL.V1.IDS/NEXT", "/ordinal.v1.Ids/%4eext", "/%6frdinal.v1.Ids/Next", "/ordinal%2ev1.Ids/Next",
                                  "/./ordinal.v1.Ids/Next", "/x/../ordinal.v1.Ids/Next", "/ordinal.v1.Ids/Next?x=1",
                                  "/ordinal.v1.Ids/Next#x", "/ordinal.v1.Ids/Next;x", "/ordinal.v1.Ids", "/grpc.health.v1.Health/../ordinal.v1.Ids/Next",
                                  "/ordinal.v1.Ids/Next\x01", "/ordinal.v1.Ids/Next ", "/Next", "*"])
@pytest.mark.parametrize("token", [None, "t-root"])
def test_other_forms_of_a_path_are_no_methods(guarded, path, token):
    """Neither with rights nor without: there is one form of a path, and what is not it reaches no handler."""
    with Connection(guarded) as c:
        fields = request_fields(path, bearer(token) if token else ())
        c.send(frame(HEADERS, END_HEADERS, 1, block(*fields)) + frame(DATA, END_STREAM, 1, message(next_request("order"))))
        a = c.answer(1)
        assert a.status == native.UNIMPLEMENTED or a.reset == h2raw.PROTOCOL_ERROR, a
        assert a.data == b""
    assert guarded.stats()["methods"]["ordinal.v1.Ids/Next"]["by_status"] == {}


@pytest.mark.parametrize("path", ["http://test/ordinal.v1.Ids/Next", "ordinal.v1.Ids/Next", ""])
def test_absolute_forms_are_malformed(guarded, path):
    with Connection(guarded) as c:
        c.send(call(1, next_request("order"), path=path, extra=bearer("t-root")))
        assert c.answer(1).reset == h2raw.PROTOCOL_ERROR


def test_a_stock_client(guarded, connect, stubs):
    ids = connect(guarded)
    good = [("authorization", "Bearer t-orders")]
    for _ in range(50):  # indexed by the client, and then known by its bytes
        assert ids.Next(stubs.pb.NextRequest(sequence="order"), metadata=good).count == 1
        with pytest.raises(grpc.RpcError) as e:
            ids.Next(stubs.pb.NextRequest(sequence="order"), metadata=[("authorization", "Bearer t-order")])
        assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as e:
        ids.Next(stubs.pb.NextRequest(sequence="x"), metadata=good)
    assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED and "ids:x" in e.value.details()


def test_native_tokens(guarded):
    assert native_status(guarded, next_request("order"))[0] == UNAUTHENTICATED
    assert native_status(guarded, next_request("order"), token="wrong")[0] == UNAUTHENTICATED
    assert native_status(guarded, next_request("order"), token="")[0] == UNAUTHENTICATED
    assert native_status(guarded, next_request("order"), token="t-late")[0] == UNAUTHENTICATED
    with native.Client(guarded) as c:  # the last AUTH counts, for what comes after it
        order = next_request("order")
        c.send(native.request(1, order) + native.frame(AUTH, 0, b"t-orders") + native.request(2, order)
               + native.frame(AUTH, 0, b"wrong") + native.request(3, order))
        status = {}
        while len(status) < 3:
            f = c.get()
            status[f.call] = f.status
        assert status == {1: UNAUTHENTICATED, 2: 0, 3: UNAUTHENTICATED}
        c.ping()


def test_a_native_token_that_is_too_long(guarded):
    with native.Client(guarded) as c:
        c.send(native.frame(AUTH, 0, b"x" * 513))
        assert c.is_closed()


def test_refusals_are_counted_and_logged_once_a_burst(guarded):
    for _ in range(30):
        status_of(guarded, next_request("order"))
    for _ in range(20):
        status_of(guarded, next_request("x"), extra=bearer("t-orders"))
    r = refusals(guarded)
    assert r["by_reason"]["unauthenticated"] == 30 and r["by_reason"]["permission_denied"] == 20
    assert r["by_address"] == [{"address": "127.0.0.1", "total": 50, "by_reason": {"unauthenticated": 30, "permission_denied": 20}}]
    metrics = guarded.get("/metrics")[1].decode()
    assert 'ordinal_refusals_total{reason="unauthenticated"} 30' in metrics
    assert "127.0.0.1: " in guarded.get("/stats")[1].decode()
    lines = [line for line in guarded.log().splitlines() if "access refused to 127.0.0.1" in line]
    assert 1 <= len(lines) < 30, "a line a second at most from each shard"
    stats = guarded.stats()
    assert stats["refused_by_status"]["UNAUTHENTICATED"] == 30
    assert stats["methods"]["ordinal.v1.Ids/Next"]["by_status"]["PERMISSION_DENIED"] == 20


def reload_rules(d, text, rules, *, said="rules of access were read again"):
    before = d.log().count(said)
    rules.write_text(text)
    d.signal(signal.SIGHUP)
    wait_until(lambda: d.log().count(said) > before, "the reload")


def test_rules_are_read_again(guarded, rules):
    """On connections that are open, with header blocks that are known, and in the middle of streams."""
    with Connection(guarded) as c, Connection(guarded) as take, native.Client(guarded) as n:
        n.send(native.frame(AUTH, 0, b"t-new"))
        for stream in range(1, 21, 2):
            c.send(call(stream, next_request("order"), extra=bearer("t-orders")))
            assert c.answer(stream).status == 0
        take.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block(h2raw.TAKE_PATH, bearer("t-orders"))))
        take.send(frame(DATA, 0, 1, message(next_request("order"))))
        take.sync()
        assert n.call(next_request("order")).status == UNAUTHENTICATED
        reload_rules(guarded, f"new {digest('t-new')} ids:*\n", rules)
        c.send(call(21, next_request("order"), extra=bearer("t-orders")))
        assert c.answer(21).status == UNAUTHENTICATED
        assert n.call(next_request("order")).status == 0
        take.send(frame(DATA, 0, 1, message(next_request("order"))))
        assert take.answer(1).status == UNAUTHENTICATED
        reload_rules(guarded, RULES, rules)
        c.send(call(23, next_request("order"), extra=bearer("t-orders")))
        assert c.answer(23).status == 0
        assert n.call(next_request("order")).status == UNAUTHENTICATED


def test_a_subscription_ends_with_its_right(guarded, rules):
    with Connection(guarded) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block("/ordinal.v1.Feed/Subscribe", bearer("t-feeder"))))
        c.send(frame(DATA, END_STREAM, 1, message(b"\x0a\x07ticks.a")))
        while 1 not in c.answers or not c.answers[1].data:
            assert c.get() is not None
        reload_rules(guarded, f"feeder {digest('t-feeder')} publish:ticks.*\n", rules)
        a = c.answer(1)
        assert a.status == PERMISSION_DENIED and "subscribe:ticks.a" in a.text


def test_a_subscriber_that_does_not_read_loses_its_right_too(daemon, rules):
    """The stream of one that takes nothing ends within STALL_TIMEOUT, and what is published after the right was taken never reaches it."""
    d = daemon(SHARDS=2, ACCESS_FILE=rules, STALL_TIMEOUT_MS=3000)
    publisher = native.Client(d)
    publisher.send(native.frame(AUTH, 0, b"t-root"))

    def publish(number, payload):
        publisher.send(native.request(number, b"\x0a\x07ticks.a\x1a" + bytes([len(payload)]) + payload, method=3))  # Feed.Publish
        assert publisher.get().status == 0

    with Connection(d, INITIAL_WINDOW_SIZE=10) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block("/ordinal.v1.Feed/Subscribe", bearer("t-feeder"))))
        c.send(frame(DATA, END_STREAM, 1, message(b"\x0a\x07ticks.a")))
        publish(1, b"before")
        while 1 not in c.answers or len(c.answers[1].data) < 10:
            assert c.get() is not None
        reload_rules(d, f"feeder {digest('t-feeder')} publish:ticks.*\nroot {digest('t-root')} admin\n", rules)

        def is_told():
            return refusals(d)["by_reason"].get("permission_denied", 0) > 0
        wait_until(is_told, "the subscriber to lose its right")
        publish(2, b"after it was taken")
        c.send(h2raw.window_update(1, 1 << 20))
        a = c.answer(1)
        assert b"after it was taken" not in a.data
        assert a.reset is not None or (a.status == PERMISSION_DENIED and "subscribe:ticks.a" in a.text)
        wait_until(lambda: d.stats()["total"]["calls_live"] == 0, "the call to be gone")
    publisher.close()


@pytest.mark.parametrize("bad,word", [("", "no rule"), ("x", "no credential"), (f"a {digest('x')} fly:*", "is no right")])
def test_bad_rules_change_nothing(guarded, rules, bad, word):
    reload_rules(guarded, bad, rules, said="rules of access in force stay")
    assert word in guarded.log()
    assert status_of(guarded, next_request("order"), extra=bearer("t-orders"))[0] == 0
    assert status_of(guarded, next_request("order"))[0] == UNAUTHENTICATED


def test_bad_rules_at_start(daemon, tmp_path, rules):
    code, said = daemon.prepare(ACCESS_FILE=tmp_path / "nothing").start_refused()
    assert code == 2 and "nothing" in said and "ACCESS_FILE" in said
    rules.write_text("someone\n")
    code, said = daemon.prepare(ACCESS_FILE=rules).start_refused()
    assert code == 2 and f"{rules}:1:" in said
    rules.write_text(RULES)
    os.chmod(rules, 0o666)
    code, said = daemon.prepare(ACCESS_FILE=rules).start_refused()
    assert code == 2 and "everybody may write" in said


def test_certificates(daemon, tmp_path, rules, stubs):
    """Mutual TLS: the certificate's name is a principal; a token, if there is one, counts instead."""
    authority = Authority(tmp_path / "ca", "test authority")
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert, ACCESS_FILE=rules)

    def code_of(name, sequence, metadata=()):
        mine, my_key = authority.issue(name)
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), my_key.read_bytes(), mine.read_bytes())
        with grpc.secure_channel(d.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                stubs.rpc.IdsStub(channel).Next(stubs.pb.NextRequest(sequence=sequence), metadata=metadata, timeout=PATIENCE_S)
                return grpc.StatusCode.OK
            except grpc.RpcError as e:
                return e.code()

    assert code_of("alice", "a.1") == grpc.StatusCode.OK
    assert code_of("alice", "b") == grpc.StatusCode.PERMISSION_DENIED
    assert code_of("bob", "a.1") == grpc.StatusCode.UNAUTHENTICATED
    assert code_of("alice", "a.1", [("authorization", "Bearer wrong")]) == grpc.StatusCode.UNAUTHENTICATED
    assert code_of("bob", "order", [("authorization", "Bearer t-orders")]) == grpc.StatusCode.OK
    before = refusals(d)["by_reason"]["unauthenticated"]
    other = Authority(tmp_path / "other", "another authority")
    mine, my_key = other.issue("alice")
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), my_key.read_bytes(), mine.read_bytes())
    with grpc.secure_channel(d.address, credentials) as channel:
        with pytest.raises(grpc.RpcError) as e:
            stubs.rpc.IdsStub(channel).Next(stubs.pb.NextRequest(sequence="a.1"), timeout=10)
        assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: refusals(d)["by_reason"]["unauthenticated"] > before, "the refused certificate to be counted")


def test_tools(guarded, rules, tmp_path):
    """`ordinal token` makes a token and its line; the other commands show tokens."""
    out = tool("token", "--out", tmp_path / "t", "--until", "2999-01-01", "web", "ids:web.*", "subscribe:a b").stdout
    assert out.startswith("web  sha256:") and out.endswith('until:2999-01-01  ids:web.*  "subscribe:a b"\n')
    assert os.stat(tmp_path / "t").st_mode & 0o777 == 0o600
    reload_rules(guarded, RULES + out, rules)
    for protocol in ("native", "grpc"):
        args = ["next", "--server", guarded.address, "--protocol", protocol, "--sequence"]
        assert tool(*args, "web.1", "--token-file", tmp_path / "t").returncode == 0
        refused = tool(*args, "order", f"--token-file={tmp_path / 't'}", check=False)
        assert refused.returncode == 1 and "PERMISSION_DENIED" in refused.stderr and "ids:order" in refused.stderr
        refused = tool(*args, "order", check=False)
        assert refused.returncode == 1 and "UNAUTHENTICATED" in refused.stderr
        done = subprocess.run([ORDINAL, *args, "order"], env={**os.environ, "ORDINAL_TOKEN": "t-orders"}, capture_output=True, text=True,
                              timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        load = subprocess.run([ORDINAL, "load", "--server", guarded.address, "--protocol", protocol, "--sequence", "order", "--requests", "1000",
                               "--json"], env={**os.environ, "ORDINAL_TOKEN": "t-orders"}, capture_output=True, text=True, timeout=PATIENCE_S)
        assert load.returncode == 0, load.stdout + load.stderr


def test_two_tokens_are_never_the_same():
    tokens = {tool("token", "a", "admin").stdout.splitlines()[1] for _ in range(5)}
    assert len(tokens) == 5 and all(len(t) == 68 for t in tokens)


@pytest.mark.parametrize("args", [[], ["a"], ["a", "fly"], ["--until", "soon", "a", "stats"], ["--nonsense"]])
def test_wrong_usage_of_token(args):
    assert tool("token", *args, check=False).returncode == 2


def test_a_token_expires_while_it_is_used(daemon, rules):
    """On a connection with header blocks that are known by their bytes."""
    end = time.time() + 3
    rules.write_text(f"soon {digest('t-soon')} until:{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(end))} ids:*\n")
    d = daemon(SHARDS=1, ACCESS_FILE=rules)
    with Connection(d) as c:
        stream = 1
        statuses = []
        while time.time() < end + 30:
            c.send(call(stream, extra=bearer("t-soon")))
            statuses.append(c.answer(stream).status)
            stream += 2
            if statuses[-1]:
                break
            time.sleep(0.05)
        assert statuses[-1] == UNAUTHENTICATED and time.time() >= int(end)
