"""The server's wall clock is set back while it runs, and between two starts: the timestamps that it gives never fall within a stream.

The clock is libfaketime's (Debian's package faketime); where that is not installed the test skips, and tests/unit/queue/test_stream_clock.c has the same with
the clock as a twin."""

import glob

import appliance
import pytest

LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")


@pytest.fixture
def stepped(daemon, tmp_path):
    """A daemon whose clock stands off by what set(seconds) says."""
    if not LIBRARY:
        pytest.skip("libfaketime is not installed")
    if appliance.is_sanitized():
        pytest.skip("a sanitizer wants to be loaded first")
    offset = tmp_path / "offset"

    def set_clock(seconds):
        offset.write_text(f"{seconds:+d}s")

    set_clock(0)
    d = daemon.prepare(SHARDS=2)
    d.environment = {"LD_PRELOAD": LIBRARY[0], "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
    d.start()
    return d, set_clock


def test_timestamps_of_the_server_never_fall(stepped, connect, stubs):
    d, set_clock = stepped
    published = []

    def publish(payload, timestamp=0):
        request = stubs.pb.PublishRequest(stream="s", seq_no=7, payload=payload, timestamp=timestamp)
        reply = stubs.rpc.FeedStub(connect(d).channel).Publish(request, timeout=60)
        published.append((payload, reply.timestamp))
        return reply.timestamp

    first = publish(b"A1")
    second = publish(b"A2")
    set_clock(-3600)
    third = publish(b"B3")
    assert third == second >= first, "the clock was set back by an hour"
    far = publish(b"C4", timestamp=second + 10**18)
    assert far == second + 10**18, "a publisher's own timestamp"
    assert publish(b"B5") == second, "which does not move the server's"
    d.stop()
    set_clock(-7200)
    d.start()
    assert publish(b"B6") == second
    d.kill()
    d.start()
    set_clock(+3600)
    assert publish(b"A7") > second + 1800 * 10**9
    history = []
    for f in stubs.rpc.FeedStub(connect(d).channel).Subscribe(stubs.pb.SubscribeRequest(stream="s"), timeout=60):
        if f.mark != stubs.pb.MARK_NONE:
            break
        history.append(f.payload)
    live = [payload for payload, _ in published if payload != b"C4"]
    assert history == [*live, b"C4"], "history and live agree about what the server stamped"
