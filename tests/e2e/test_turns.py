"""Turns of a shard: with TURN_US=1 a turn's time is over when it begins, so all input above 2 KiB is put off and handled in slices."""

import signal

import pytest

import native
from appliance import load
from native import next_request, request
from test_tls import Authority


@pytest.mark.parametrize("method", ["next", "take", "publish"])
@pytest.mark.parametrize("protocol", ["grpc", "native"])
def test_input_that_is_put_off_is_whole(daemon, protocol, method):
    d = daemon(TURN_US=1, FEED_DURABILITY="memory")
    report = load(d, "--protocol", protocol, "--method", method, "--duration", "1s", "--connections", 8, "--depth", 200)
    assert report["check"]["received"] > 0
    if method != "take":  # which says little once it has begun
        assert d.stats()["total"]["inputs_put_off"] > 0


def test_over_tls_too(daemon, tmp_path):
    authority = Authority(tmp_path / "ca", "test authority")
    cert, key = authority.issue("server")
    d = daemon(TURN_US=1, TLS_CERT=cert, TLS_KEY=key)
    load(d, "--tls-ca", authority.cert, "--duration", "1s", "--connections", 4, "--depth", 200)
    assert d.stats()["total"]["inputs_put_off"] > 0


def test_what_was_sent_before_the_end_is_answered(daemon):
    """The end comes with the last of many requests, most of which wait for a turn."""
    d = daemon(TURN_US=1)
    with native.Client(d) as c:
        c.send(b"".join(request(i, next_request()) for i in range(1, 2001)))
        c.half_close()
        ids = sorted(i for _ in range(2000) for i in c.get().ids())
        assert ids == list(range(1, 2001))
        assert c.is_closed()


def test_who_asks_for_little_does_not_wait_for_those_who_ask_for_much(daemon):
    """All of it is there when the daemon goes on, the little one's request behind 20 times 2,000 others; the numbers tell in which order they were
    served."""
    d = daemon(TURN_US=1, SHARDS=1)
    much = [native.Client(d) for _ in range(20)]
    with native.Client(d) as little:
        for c in [*much, little]:
            c.ping()
        d.signal(signal.SIGSTOP)
        for c in much:
            c.send(b"".join(request(i, next_request()) for i in range(1, 2001)))
        little.send(request(1, next_request()))
        d.signal(signal.SIGCONT)
        assert little.get().ids()[0] < 20_000
    for c in much:
        for _ in range(2000):
            c.get()
        c.close()
    assert d.stats()["total"]["ids"] == 40_001


def test_a_drain_answers_what_was_put_off(daemon):
    d = daemon(TURN_US=1, SHARDS=1)
    with native.Client(d) as c:
        c.ping()
        d.signal(signal.SIGSTOP)
        c.send(b"".join(request(i, next_request()) for i in range(1, 2001)))
        d.signal(signal.SIGTERM)
        d.signal(signal.SIGCONT)
        answers = [f for f in iter(c.get, None) if f.kind == native.MESSAGE]
        assert len(answers) == 2000
        assert sorted(i for f in answers for i in f.ids()) == list(range(1, 2001))
    d.wait_stopped()
