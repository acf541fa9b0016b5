"""Links that go silent without an end, as when a machine loses its power or a NAT its memory: our clients notice, and go on over another connection."""

import os
import socket
import subprocess
import threading

import appliance
import pytest


class Relay:
    """Carries connections to the daemon and back. hush() keeps those that there are open, and carries nothing of them any more."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.pairs = []
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self.closed:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            pair = {"open": True, "sockets": (client, self.daemon.connect())}
            self.pairs.append(pair)
            for a, b in (pair["sockets"], pair["sockets"][::-1]):
                threading.Thread(target=self._carry, args=(pair, a, b), daemon=True).start()

    def _carry(self, pair, a, b):
        while True:
            try:
                data = a.recv(65536)
                if pair["open"]:
                    if not data:
                        b.shutdown(socket.SHUT_WR)
                    else:
                        b.sendall(data)
                if not data:
                    return
            except OSError:
                return

    def hush(self):
        for pair in self.pairs:
            pair["open"] = False

    def refuse(self):
        """No new connections. Closing alone would leave the listener to the accept that is under way."""
        self.closed = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def close(self):
        if not self.closed:
            self.refuse()
        for pair in self.pairs:
            for s in pair["sockets"]:
                s.close()


@pytest.fixture
def relay(server):
    r = Relay(server)
    yield r
    r.close()


@pytest.mark.parametrize("protocol", ["grpc", "native"])
def test_subscribe_goes_on_after_a_silent_loss(server, relay, protocol):
    """It was alive and silent after 75 s."""
    appliance.tool("publish", "--server", server.address, "--stream", "s", "one")
    sub = subprocess.Popen([appliance.ORDINAL, "subscribe", "--server", relay.address, "--stream", "s", "--protocol", protocol, "--patience", "20s"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert sub.stdout.readline() == "one\n"
        relay.hush()
        appliance.tool("publish", "--server", server.address, "--stream", "s", "two")
        assert sub.stdout.readline() == "two\n"
        assert len(relay.pairs) >= 2
    finally:
        sub.kill()
        sub.communicate()


def test_publish_goes_on_after_a_silent_loss(server, relay):
    """Each line is one frame, with one answer, although its connection fell silent."""
    read, write = os.pipe()
    pub = subprocess.Popen([appliance.ORDINAL, "publish", "--server", relay.address, "--stream", "s", "--publisher", "p", "--patience", "20s"],
                           stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(read)
    try:
        os.write(write, b"one\n")
        assert pub.stdout.readline().startswith("1 ")
        relay.hush()
        os.write(write, b"two\n")
        assert pub.stdout.readline().startswith("2 ")
        os.close(write)
        assert pub.wait(appliance.PATIENCE_S) == 0
    finally:
        pub.kill()
        pub.communicate()
    done = appliance.tool("subscribe", "--server", server.address, "--stream", "s", "--until-caught-up")
    assert done.stdout == "one\ntwo\n"


def test_patience_that_ends_is_an_error(server, relay):
    sub = subprocess.Popen([appliance.ORDINAL, "subscribe", "--server", relay.address, "--stream", "s", "--patience", "2s"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        appliance.wait_until(lambda: relay.pairs and server.stats()["total"]["calls_live"] == 1, "the subscription")
        relay.refuse()
        relay.hush()
        _, err = sub.communicate(timeout=appliance.PATIENCE_S)
    finally:
        sub.kill()
    assert sub.returncode != 0 and err, (sub.returncode, err)
