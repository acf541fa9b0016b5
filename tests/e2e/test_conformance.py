"""RFC 9113 and RFC 7541, frame by frame: conformance.py's table, in cleartext and over TLS, against one daemon."""

import collections
import shutil
import socket
import ssl

import appliance
import conformance
import pytest
from h2raw import Connection
from test_tls import Authority


class Cleartext:
    def __init__(self, daemon):
        self.daemon = daemon

    def connect(self):
        return self.daemon.connect()


class Tls(Cleartext):
    def __init__(self, daemon, authority):
        super().__init__(daemon)
        self.context = ssl.create_default_context(cafile=authority)
        self.context.set_alpn_protocols(["h2"])

    def connect(self):
        s = socket.create_connection((self.daemon.host, self.daemon.port), appliance.PATIENCE_S)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(s, server_hostname="localhost")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One daemon for both, and for all cases: what one breaks, the next would see."""
    home = tmp_path_factory.mktemp("conformance")
    authority = Authority(home / "ca", "test authority")
    cert, key = authority.issue("server")
    d = appliance.Daemon(home / "ordinald", {"SHARDS": 1, "TLS_CERT": cert, "TLS_KEY": key, "ALLOW_CLEARTEXT": "y"})
    d.start()
    clear = Cleartext(d)
    with Connection(clear) as c:  # the sequence has IDs at hand
        c.serves(1)
    yield {"cleartext": clear, "TLS": Tls(d, authority.cert)}
    try:
        d.stop(patience_s=30)
        d.check_log()
    finally:
        d.destroy()
        shutil.rmtree(home, ignore_errors=True)


def test_there_are_enough_cases():
    names = collections.Counter(str(c) for c in conformance.CASES)
    assert max(names.values()) == 1, names.most_common(3)
    assert len(names) >= 140


@pytest.mark.parametrize("transport", ["cleartext", "TLS"])
@pytest.mark.parametrize("case", conformance.CASES, ids=str)
def test_conformance(servers, transport, case):
    with Connection(servers[transport], begin=not case.raw, **case.initial) as c:
        for step in case.sent:
            if step == conformance.SYNC:
                c.settle()
            elif isinstance(step, tuple):
                c.answer(step[1])
            else:
                c.send_unless_closed(step)
        case.expect(c)
