"""The Python client while its server is away, or silent: back soon after the server is, and an error when the patience that was asked for is over."""

import threading
import time

import pytest

from test_keepalive import Relay
from test_python_client import ordinal

PATIENCE_S = 6  # of clients whose server is away for about half a second


@pytest.fixture
def relay(server):
    r = Relay(server)
    yield r
    r.close()


def away(d, seconds=0.55):
    """The daemon is killed, and started again after so long by another thread."""
    d.options["LISTEN"] = d.address
    d.kill()

    def start():
        time.sleep(seconds)
        d.start()

    thread = threading.Thread(target=start)
    thread.start()
    return thread


def test_publish_is_back_soon_after_its_server(daemon):
    """Over three restarts in a row, none of which costs the patience. It took 13 s, and 35 s over three."""
    d = daemon()
    with ordinal.Client(d.address, patience=PATIENCE_S) as client:
        assert client.publish("s", 1, b"0").offset == 1
        for n in range(1, 4):
            starting = away(d)
            try:
                assert client.publish("s", 1, b"%d" % n).offset == n + 1
                assert list(p.offset for p in client.publish_many("t", [b"x"])) == [n]
            finally:
                starting.join()


def test_reading_is_back_soon_after_its_server(daemon):
    d = daemon()
    with ordinal.Client(d.address, patience=PATIENCE_S) as client:
        client.publish("s", 1, b"0")
        with client.subscribe("s") as subscription:
            assert next(subscription) == b"0"
            for n in range(1, 4):
                away(d).join()
                with ordinal.Client(d.address) as other:
                    other.publish("s", 1, b"%d" % n)
                assert next(subscription) == b"%d" % n


# ---- silence ----

def test_a_call_goes_on_after_a_silent_loss(server, relay):
    with ordinal.Client(relay.address, patience=20) as client:
        assert client.publish("s", 1, b"one").offset == 1
        relay.hush()
        assert client.publish("s", 1, b"two").offset == 2
        assert len(relay.pairs) >= 2
    with ordinal.Client(server.address) as client:
        assert list(client.subscribe("s", until_caught_up=True)) == [b"one", b"two"]


def test_reading_goes_on_after_a_silent_loss(server, relay):
    with ordinal.Client(server.address) as other, ordinal.Client(relay.address, patience=20) as client:
        other.publish("s", 1, b"one")
        with client.subscribe("s") as subscription:
            assert next(subscription) == b"one"
            relay.hush()
            other.publish("s", 1, b"two")
            assert next(subscription) == b"two"


def begin(client, relay):
    client.next("x")
    relay.refuse()
    relay.hush()


@pytest.mark.parametrize("what", ["next", "publish", "publish_many", "subscribe"])
def test_patience_that_ends_is_an_error(relay, what):
    client = ordinal.Client(relay.address, patience=2)
    calls = {
        "next": lambda: client.next("x"),
        "publish": lambda: client.publish("s", 1, b"x"),
        "publish_many": lambda: list(client.publish_many("s", [b"x"])),
        "subscribe": lambda: list(client.subscribe("s")),
    }
    with client:
        begin(client, relay)
        raised = []

        def run():
            try:
                calls[what]()
            except ordinal.Error as e:
                raised.append(e)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(60)
        assert raised and isinstance(raised[0], (ordinal.Unreachable, ordinal.TimedOut)), raised


def test_without_a_name_for_publishing_again_silence_is_an_outcome_unknown(relay):
    with ordinal.Client(relay.address, patience=2, again=False) as client:
        begin(client, relay)
        with pytest.raises(ordinal.OutcomeUnknown):
            client.publish("s", 1, b"x")


# ---- numbers ----

def test_numbers_that_do_not_exist_are_named(server):
    with ordinal.Client(server.address) as client:
        for seq_no in (-1, 2**64):
            with pytest.raises(ValueError, match="seq_no"):
                client.publish("s", seq_no, b"x")
        with pytest.raises(ValueError, match="number"):
            client.publish("s", 1, b"x", publisher="p", number=2**64)
        with pytest.raises(ValueError, match="timestamp"):
            client.publish("s", 1, b"x", timestamp=2**63)
        with pytest.raises(ValueError, match="since"):
            client.subscribe("s", -1)
        got = []
        with pytest.raises(ValueError, match="seq_no"):
            for published in client.publish_many("s", [b"x", b"y"], since=2**64 - 1):
                got.append(published.offset)
        assert got == [1]
    with pytest.raises(ValueError, match="patience"):
        ordinal.Client(server.address, patience=-1)
