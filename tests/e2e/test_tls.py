"""TLS: stock clients, certificates that are refused, reload, and what cleartext gets where TLS is configured."""

import os
import signal
import socket
import ssl
import struct
import subprocess
import time

import grpc
import native
import pytest
from appliance import wait_until


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory, name):
        directory.mkdir()
        self.directory = directory
        self.cert = directory / "ca.pem"
        self.key = directory / "ca.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key, "-out", self.cert,
                "-days", "2", "-subj", f"/CN={name}")

    def issue(self, name, *, expired=False):
        key, request, cert = (self.directory / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
        names = self.directory / f"{name}.ext"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj",
                f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-out", cert, "-days",
                "-1" if expired else "2", "-extfile", names)
        return cert, key


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca", "test authority")


@pytest.fixture
def secure(authority, stubs):
    """secure(daemon, client=(cert, key)) gives an Ids stub over TLS."""
    channels = []

    def open_channel(d, client=None):
        cert, key = (p.read_bytes() for p in client) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), key, cert)
        channel = grpc.secure_channel(d.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])
        channels.append(channel)
        return stubs.rpc.IdsStub(channel)

    yield open_channel
    for channel in channels:
        channel.close()


def code_of(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code()


def test_calls_over_tls(daemon, authority, secure, stubs):
    cert, key = authority.issue("server")
    ids = secure(daemon(SHARDS=2, TLS_CERT=cert, TLS_KEY=key))
    assert ids.Next(stubs.pb.NextRequest(count=3)).first == 1
    futures = [ids.Next.future(stubs.pb.NextRequest()) for _ in range(1000)]
    assert sorted(f.result().first for f in futures) == list(range(4, 1004))
    replies = ids.Take(iter([stubs.pb.NextRequest(sequence="a" * 100)] * 5000))
    assert [r.first for r in replies] == list(range(1, 5001))


def test_native_framing_over_tls(daemon, authority):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    context = ssl.create_default_context(cafile=authority.cert)
    with context.wrap_socket(socket.create_connection((d.host, d.port), 30), server_hostname="localhost") as s:
        s.sendall(bytes.fromhex("81110100000000000100000000000000"))
        reply = b""
        while len(reply) < 16 + 4 + 9:
            reply += s.recv(100)
    assert reply[:1] == bytes([native.MAGIC]) and native.next_reply(reply[16:]) == (1, 1, 0)


def test_cleartext_is_refused_where_tls_is_configured(daemon, authority, connect, stubs):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    assert code_of(lambda: connect(d).Next(stubs.pb.NextRequest(), timeout=10)) == grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: "ALLOW_CLEARTEXT" in d.log(), "the reason in the log")
    both = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, ALLOW_CLEARTEXT="y")
    assert connect(both).Next(stubs.pb.NextRequest()).first == 1


def test_tls_where_it_is_not_configured_is_refused(server):
    context = ssl.create_default_context()
    with pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(socket.create_connection((server.host, server.port), 30), server_hostname="localhost")
    wait_until(lambda: "TLS is not configured" in server.log(), "the reason in the log")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_alpn(daemon, authority, version):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    context = ssl.create_default_context(cafile=authority.cert)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1", "h2"])
    with context.wrap_socket(socket.create_connection((d.host, d.port), 30), server_hostname="localhost") as s:
        assert s.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(socket.create_connection((d.host, d.port), 30), server_hostname="localhost")


def test_garbage_after_the_first_tls_byte_costs_nobody_else(daemon, authority, secure, stubs):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    for junk in (b"\x16", b"\x16\x03\x01\xff\xff" + b"x" * 300, b"\x16\x03\x01\x00\x05hello", b"\x16" * 70000):
        with socket.create_connection((d.host, d.port), 30) as s:
            try:
                s.sendall(junk)
            except ConnectionError:
                pass
    assert secure(d).Next(stubs.pb.NextRequest()).first == 1


def test_client_certificates(daemon, authority, secure, stubs, tmp_path):
    cert, key = authority.issue("server")
    other = Authority(tmp_path / "other", "another authority")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert)
    assert secure(d, authority.issue("alice")).Next(stubs.pb.NextRequest()).first == 1
    self_signed = other.cert, other.key
    for refused in (None, other.issue("mallory"), authority.issue("late", expired=True), self_signed):
        ids = secure(d, refused)
        assert code_of(lambda i=ids: i.Next(stubs.pb.NextRequest(), timeout=10)) == grpc.StatusCode.UNAVAILABLE
    assert "certificate" in d.log()
    assert secure(d, authority.issue("bob")).Next(stubs.pb.NextRequest()).first == 2


def try_certificate(d, authority, pair):
    """What the daemon says, in TLS, to a client that shows this certificate (or none): the alert's name, or "" """
    context = ssl.create_default_context(cafile=authority.cert)
    context.set_alpn_protocols(["h2"])
    if pair:
        context.load_cert_chain(*pair)
    try:
        with context.wrap_socket(socket.create_connection((d.host, d.port), 30), server_hostname="localhost") as s:
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return "" if s.recv(9) else "closed"
    except ssl.SSLError as e:
        return e.reason


def test_refused_certificates_by_alert_count_and_log(daemon, authority, tmp_path):
    """No certificate, one of a wrong authority, an expired one, a self-signed one: each has its alert, is counted by reason and by address, and a burst of
    them is a line a second in the log."""
    cert, key = authority.issue("server")
    other = Authority(tmp_path / "other", "another authority")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert)
    refused = {"TLSV13_ALERT_CERTIFICATE_REQUIRED": None, "TLSV1_ALERT_UNKNOWN_CA": other.issue("mallory"),
               "SSLV3_ALERT_CERTIFICATE_EXPIRED": authority.issue("late", expired=True)}
    began = time.monotonic()
    for alert, pair in refused.items():
        assert try_certificate(d, authority, pair) == alert
    assert try_certificate(d, authority, (other.cert, other.key)) == "TLSV1_ALERT_UNKNOWN_CA", "self-signed"
    for _ in range(40):
        assert try_certificate(d, authority, refused["TLSV1_ALERT_UNKNOWN_CA"]) == "TLSV1_ALERT_UNKNOWN_CA"
    seconds = time.monotonic() - began
    assert try_certificate(d, authority, authority.issue("alice")) == ""
    wait_until(lambda: d.stats()["refusals"]["by_reason"]["unauthenticated"] == 44, "the refusals to be counted")
    assert d.stats()["refusals"]["by_address"] == [{"address": "127.0.0.1", "total": 44, "by_reason": {"unauthenticated": 44}}]
    assert d.stats()["connections_ended"]["access"] == 44
    lines = [line for line in d.log().splitlines() if "certificate was refused" in line or "did not return a certificate" in line]
    assert 1 <= len(lines) <= seconds + 2


def test_certificates_are_read_again_on_sighup(daemon, authority, secure, stubs):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    old = secure(d)
    assert old.Next(stubs.pb.NextRequest()).first == 1

    def serial():
        with socket.create_connection((d.host, d.port), 30) as s:
            context = ssl.create_default_context(cafile=authority.cert)
            with context.wrap_socket(s, server_hostname="localhost") as t:
                return t.getpeercert()["serialNumber"]

    before = serial()
    authority.issue("server")  # the same files, another certificate
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "certificates were read again" in d.log(), "the reload")
    assert serial() != before
    assert old.Next(stubs.pb.NextRequest()).first == 2  # its connection lives on
    key.write_text("not a key")
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "certificates in force stay" in d.log() and "TLS_KEY" in d.log(), "the refusal")
    assert secure(d).Next(stubs.pb.NextRequest()).first == 3


@pytest.mark.parametrize("change", ["nothing", "server certificate", "configuration", "authority"])
def test_a_reload_goes_on_asking_for_client_certificates(daemon, authority, secure, stubs, tmp_path, change):
    """A reload that built its context without TLS_CLIENT_CA served clients without a certificate."""
    cert, key = authority.issue("server")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.cert.read_bytes())
    other = Authority(tmp_path / "other", "another authority")
    conf = tmp_path / "ordinal.conf"
    conf.write_text("CONFIG_BODY_TIMEOUT_MS=5000\n")
    d = daemon.prepare(SHARDS=2, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=trusted)
    command = d.command()
    d.command = lambda: [*command, "-c", str(conf)]
    d.start()
    alice, mallory = authority.issue("alice"), other.issue("mallory")
    assert try_certificate(d, authority, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    for _ in range(2):
        if change == "server certificate":
            authority.issue("server")
        elif change == "configuration":
            conf.write_text("CONFIG_BODY_TIMEOUT_MS=6000\n")
        elif change == "authority":
            trusted.write_bytes(authority.cert.read_bytes() + other.cert.read_bytes())
        before = len(d.log())
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda before=before: "certificates were read again" in d.log()[before:] and "Reloaded: " in d.log()[before:], "the reload")
        for _ in range(4):  # of either shard
            assert try_certificate(d, authority, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
            assert try_certificate(d, authority, mallory) == ("" if change == "authority" else "TLSV1_ALERT_UNKNOWN_CA")
            assert try_certificate(d, authority, alice) == ""
        with socket.create_connection((d.host, d.port), 30) as s:  # cleartext is refused as before
            s.sendall(native.request(1, native.next_request("")))
            try:
                assert s.recv(1) == b""
            except ConnectionResetError:
                pass


@pytest.mark.parametrize("break_it,word", [("missing", "No such file or directory"), ("no key", "TLS_KEY"), ("wrong key", "key values mismatch")])
def test_files_that_do_not_fit_are_refused_at_start(daemon, authority, break_it, word):
    cert, key = authority.issue("server")
    _, another = authority.issue("another")
    files = {"missing": (cert.parent / "nothing.pem", key), "no key": (cert, cert), "wrong key": (cert, another)}[break_it]
    code, said = daemon.prepare(TLS_CERT=files[0], TLS_KEY=files[1]).start_refused()
    assert code == 2 and word in said


def test_tls_options_without_a_certificate_were_silently_ignored(daemon, authority):
    """A client CA alone looked like mutual TLS and was cleartext."""
    cert, key = authority.issue("server")
    for options, word in (({"TLS_CLIENT_CA": authority.cert}, "TLS_CERT"), ({"TLS_KEY": key}, "TLS_CERT"), ({"TLS_CERT": cert}, "TLS_KEY")):
        code, said = daemon.prepare(**options).start_refused()
        assert code == 2 and word in said, said


PUBLISH, SUBSCRIBE = 3, 5


class RawTls:
    """A TLS client that keeps the records in its own hands, so that it can also send what is none."""

    def __init__(self, d, authority, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect((d.host, d.port))
        self.input, self.output = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=authority.cert)
        self.tls = context.wrap_bio(self.input, self.output, server_hostname="localhost")
        self.do(self.tls.do_handshake)

    def do(self, call, *args):
        while True:
            try:
                result = call(*args)
                self.socket.sendall(self.output.read())
                return result
            except ssl.SSLWantReadError:
                self.socket.sendall(self.output.read())
                received = self.socket.recv(65536)
                assert received, "the server closed"
                self.input.write(received)

    def close_notify(self):
        with pytest.raises(ssl.SSLError):  # it waits for the server's
            self.tls.unwrap()
        self.socket.sendall(self.output.read())

    def flood(self, mebibytes):
        """As much as the server takes of this; it may close, or read no more."""
        self.socket.settimeout(2)
        junk = os.urandom(1 << 20)
        try:
            for _ in range(mebibytes):
                self.socket.sendall(junk)
        except OSError:
            pass


def resident_mib(d):
    with open(f"/proc/{d.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


@pytest.mark.parametrize("state", ["lingering", "flushing", "closed by the peer"])
def test_input_after_the_end_of_a_tls_session_was_collected_without_bound(daemon, authority, state):
    cert, key = authority.issue("server")
    slow = {"PRODUCER_RATE": 1} if state == "closed by the peer" else {}
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, RECV_BUFFERS=64, **slow)  # few: a flood touches all of them for the first time
    if state == "flushing":  # more than the kernel takes of what the client below does not read
        publisher = RawTls(d, authority)
        frame = os.urandom(1 << 20)
        for call in range(1, 9):
            publisher.do(publisher.tls.write, native.request(call, b"\x0a\x01a\x1a" + native.varint(len(frame)) + frame, method=PUBLISH))
            assert publisher.do(publisher.tls.read, 200)
        publisher.socket.close()
    c = RawTls(d, authority, receive_buffer=4096 if state == "flushing" else None)
    if state == "flushing":
        c.do(c.tls.write, native.request(1, b"\x0a\x01a", method=SUBSCRIBE))
        time.sleep(0.5)  # what it is to be sent is not to be counted below; the test holds however long this is
    elif state == "closed by the peer":  # while calls wait
        c.do(c.tls.write, b"".join(native.request(call, native.next_request("a", 1000000)) for call in range(1, 4)))
        c.close_notify()
    before = resident_mib(d)
    c.flood(24)
    assert resident_mib(d) - before < 4
    assert d.is_running()
    c.socket.close()


@pytest.mark.parametrize("version, command, allowed", [("-tls1_3", b"K\n", 5), ("-tls1_2", b"R\n", 0)], ids=["key updates", "renegotiation"])
def test_asking_for_new_keys_is_bounded_and_counted(daemon, authority, version, command, allowed):
    """TLS_RENEWALS_MAX. What it costs where nobody reads, and floods: tests/unit/core/test_conn_tls.c."""
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_RENEWALS_MAX=allowed, PREFACE_TIMEOUT_MS=600_000)
    client = subprocess.Popen(["openssl", "s_client", "-connect", d.address, version], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    asked = 0
    try:
        wait_until(lambda: d.stats()["total"]["connections"] == 1, "the client")
        while client.poll() is None and not d.stats()["refusals"]["by_reason"]["flood"]:
            try:
                client.stdin.write(command)
                client.stdin.flush()
            except BrokenPipeError:
                break
            asked += 1
            time.sleep(0.02)
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: d.stats()["refusals"]["by_reason"]["flood"], "it to be counted")
    assert asked > allowed
    assert d.stats()["refusals"]["by_address"] == [{"address": "127.0.0.1", "total": 1, "by_reason": {"flood": 1}}]
    wait_until(lambda: "TLS_RENEWALS_MAX" in d.log(), "a line in the log")


def client_hello(total):
    """A ClientHello of exactly `total` bytes: OpenSSL's, with an unknown extension that fills it up (RFC 8446 section 4.1.2)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(coming, going).do_handshake()
    record = going.read()
    body, at = record[9:], 34  # behind the two headers; behind version and random
    at += 1 + body[at]
    at += 2 + struct.unpack_from(">H", body, at)[0]
    at += 1 + body[at]
    padding = total - len(record) - 4
    extensions = body[at + 2:] + struct.pack(">HH", 0xfafa, padding) + bytes(padding)
    body = body[:at] + struct.pack(">H", len(extensions)) + extensions
    hello = b"\x16\x03\x01" + struct.pack(">H", len(body) + 4) + b"\x01" + struct.pack(">I", len(body))[1:] + body
    assert len(hello) == total
    return hello


PIECES = {"a slice of the backlog": (4096, {"TURN_US": 1}), "a piece of a large buffer": (16384, {"RECV_BUFFER_SIZE": 65536}),
          "a piece for a small queue": (4096, {"CONN_QUEUE_MAX": 65536, "NATIVE_INFLIGHT_MAX": 1000})}


@pytest.mark.parametrize("how", PIECES)
def test_what_comes_behind_a_client_hello_is_never_taken_for_plaintext(daemon, authority, how):
    """Input is given to the session in pieces; what followed the piece that began TLS was, and calls were made without a certificate."""
    size, options = PIECES[how]
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert, **options)
    with native.Client(d) as c:
        c.send(client_hello(size) + b"".join(native.request(i, native.next_request(count=1000)) for i in range(1, 201)))
        while c.read(65536):
            pass
    assert d.stats()["total"]["ids"] == 0
    wait_until(lambda: d.stats()["connections_ended"]["protocol"] == 1, "its end")


@pytest.mark.parametrize("options", [{"TURN_US": 1}, {"TURN_US": 1, "BACKLOG_BYTES": 1}, {"RECV_BUFFER_SIZE": 65536}], ids=str)
def test_a_long_client_hello(daemon, authority, options):
    """It comes in several pieces, or slices."""
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, **options)
    context = ssl.create_default_context(cafile=authority.cert)
    context.set_alpn_protocols(["h2"] + [f"x{i:039}" for i in range(1200)])
    with context.wrap_socket(d.connect(), server_hostname="localhost") as s:
        assert s.selected_alpn_protocol() == "h2"
