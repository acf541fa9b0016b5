"""Files of a running daemon are deleted or moved away by hand: nothing is acknowledged that could not be found again, and as little as possible stops."""

import shutil

import pytest

import native
from feed_drivers import PUBLISH, PUBLISH_MANY, SUBSCRIBE, field
from native import END, GOAWAY, MESSAGE, frame, request

DATA_LOSS = 15


def answer(c):
    """The next frame that is not the connection's own."""
    f = c.get()
    while f is not None and f.kind == GOAWAY:
        f = c.get()
    return f


def publish(d, stream, seq):
    """(status, text) of one frame."""
    with native.Client(d) as c:
        c.send(request(1, field(1, stream) + field(2, seq) + field(3, b"payload"), method=PUBLISH))
        f = answer(c)
        return (f.code, f.payload.decode()) if f.kind == END else (0, "")


def delete_folder(folder):
    shutil.rmtree(folder)


def move_folder(folder):
    folder.rename(folder.parent.parent / "moved")


def delete_active(folder):
    max(p for p in folder.iterdir() if not p.name.startswith("spare")).unlink()


def replace_folder(folder):
    """By a copy of itself."""
    copy = folder.parent.parent / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


@pytest.mark.parametrize("take", [delete_folder, move_folder, delete_active, replace_folder])
def test_a_live_stream_s_files_are_taken_away(daemon, stubs, take):
    d = daemon(SHARDS=2)
    assert publish(d, b"t", 1) == (0, "") and publish(d, b"other", 1) == (0, "")
    with native.Client(d) as subscriber, native.Client(d) as many:
        subscriber.send(request(1, field(1, b"t"), method=SUBSCRIBE))
        while stubs.pb.Frame.FromString(answer(subscriber).payload).mark != stubs.pb.MARK_CAUGHT_UP:
            pass
        many.send(request(1, field(1, b"t") + field(2, 2) + field(3, b"x"), method=PUBLISH_MANY, flags=0))
        assert answer(many).kind == MESSAGE
        take(d.data / "stream.t")
        many.send(frame(MESSAGE, 1, field(1, b"t") + field(2, 3) + field(3, b"x")))
        end = answer(many)
        text = end.payload.decode()
        assert end.kind == END and end.code == DATA_LOSS and '"t"' in text and str(d.data / "stream.t") in text, end
        while (f := answer(subscriber)).kind != END:
            assert stubs.pb.Frame.FromString(f.payload).seq_no == 2, "what was acknowledged before"
        assert f.code == DATA_LOSS and str(d.data / "stream.t").encode() in f.payload, f
    code, text = publish(d, b"t", 4)
    assert code == DATA_LOSS and '"t"' in text and str(d.data / "stream.t") in text
    assert publish(d, b"other", 2) == (0, "") and publish(d, b"new", 1) == (0, "")
    with native.Client(d) as c:
        assert c.next().start > 0
    by_name = {s["name"]: s for s in d.stats()["streams"]["by_name"]}
    assert by_name["t"]["stopped"] == 1 and by_name["other"]["stopped"] == 0
    assert d.log().count("a stream's log") == 1 and "deleted or moved away" in d.log(), d.log()
    d.stop()


def test_the_ids_log_is_taken_away(daemon):
    """Each request needs a window of its own here; the streams go on."""
    d = daemon(SHARDS=2, WINDOW_MIN=1, WINDOW_MAX=1, COUNT_MAX=1)
    assert publish(d, b"t", 1) == (0, "")
    with native.Client(d) as c:
        assert [c.next().start for _ in range(3)] == [1, 2, 3]
        shutil.rmtree(d.data / "ids")
        given = 0
        while True:
            c.send(request(9, native.next_request()))
            f = answer(c)
            if f.kind == END:
                break
            given += 1
        assert given <= 1, "what had been reserved before"
        assert f.code == DATA_LOSS and str(d.data / "ids").encode() in f.payload, f
        for sequence in ("", "other"):
            c.send(request(11, native.next_request(sequence)))
            f = answer(c)
            assert f.kind == END and f.code == DATA_LOSS, f
    assert publish(d, b"t", 2) == (0, "")
    assert "no IDs are handed out" in d.log()
    d.stop()
