"""One port, several protocols, told apart by the first bytes; what is none of them is closed."""

import shutil
import ssl
import subprocess

import pytest

import appliance
import h2raw
import native


def is_closed(s):
    try:
        return s.recv(4096) == b""
    except ConnectionResetError:
        return True


def tls_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


STRANGERS = {
    "zero": b"\0",
    "garbage": bytes(range(1, 80)),
    "ff": b"\xff" * 20000,
    "wrong native version": b"\x82" + bytes(15),
    "TLS": tls_hello(),
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 PUT": b"PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 upgrade to h2c": b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "almost a preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
    "a preface of HTTP/1": b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_is_closed_and_others_are_unharmed(server, what):
    with native.Client(server) as good, h2raw.Connection(server) as good2:
        assert good.next() == range(1, 2)
        assert good2.serves(1) == range(2, 3)
        s = server.connect()
        try:
            s.sendall(STRANGERS[what])
        except (BrokenPipeError, ConnectionResetError):
            pass
        # It may be told something in its protocol's words first.
        while True:
            try:
                if not s.recv(4096):
                    break
            except ConnectionResetError:
                break
        s.close()
        assert good.next() == range(3, 4)
        assert good2.serves(3) == range(4, 5)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"])
def test_an_http1_client_is_answered_in_its_own_words(server, method):
    """It got silence, or a GOAWAY in binary."""
    with server.connect() as s:
        s.sendall(f"{method} /v1/ids:next HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while piece := s.recv(4096):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ") and f"Content-Length: {len(body)}" in head and "gRPC over HTTP/2" in body


def test_curl_is_answered(server):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    done = subprocess.run(["curl", "-sS", "-w", "%{http_code}", f"http://{server.address}/"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("400") and "gRPC over HTTP/2" in done.stdout


def test_strangers_are_counted(server):
    before = server.stats()
    for data in STRANGERS.values():
        s = server.connect()
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        appliance.wait_until(lambda c=s: is_closed(c), "a stranger to be closed")
        s.close()
    after = server.stats()
    assert after["total"]["protocol_errors"] - before["total"]["protocol_errors"] == len(STRANGERS)
    appliance.wait_until(lambda: server.stats()["connections_ended"]["protocol"] - before["connections_ended"]["protocol"] == len(STRANGERS),
                         "the strangers to be counted")


@pytest.mark.parametrize("sent", [b"", b"P", b"PRI * HTTP/2.0\r\n", h2raw.PREFACE, h2raw.PREFACE + h2raw.settings()[:5]])
def test_a_slow_preface_is_closed(daemon, sent):
    d = daemon(SHARDS=1, PREFACE_TIMEOUT_MS=100)
    with h2raw.Connection(d) as good:
        good.sync()
        s = d.connect()
        s.sendall(sent)
        while s.recv(4096):
            pass
        s.close()
        good.sync()


@pytest.mark.parametrize("sent", [b"\x81", native.request(1)[:15], native.request(1, native.next_request("abc"))[:-1]])
def test_a_slow_native_frame_is_closed(daemon, sent):
    d = daemon(SHARDS=1, BODY_TIMEOUT_MS=100)
    with native.Client(d) as good, native.Client(d) as slow:
        good.ping()
        slow.send(sent)
        assert slow.is_closed()
        good.ping()


def test_both_protocols_share_one_sequence(server):
    with native.Client(server) as n, h2raw.Connection(server) as h:
        for i in range(1, 20, 2):
            assert n.next() == range(i, i + 1)
            assert h.serves(i) == range(i + 1, i + 2)


def test_a_preface_byte_by_byte(server):
    with h2raw.Connection(server, begin=False) as c:
        data = h2raw.PREFACE + h2raw.settings() + h2raw.call(1)
        for i in range(len(data)):
            c.send(data[i:i + 1])
        assert c.answer(1).status == 0
